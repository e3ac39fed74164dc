//! Where images are, in skopeo's words: `docker://REFERENCE`, `oci:DIRECTORY[:NAME]`,
//! `oci-archive:FILE[:NAME]`, `docker-archive:FILE[:REFERENCE]`, or a reference alone. A NAME may be
//! `@DIGEST`, a FILE may be `-`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::reference::Reference;
use crate::{Error, Result};

/// What stands for standard input or output.
pub const STREAM: &str = "-";
/// What other programs know and we do not: `dir:x` is no reference with a tag.
const FOREIGN: [&str; 7] = [
    "atomic",
    "containers-storage",
    "dir",
    "docker-daemon",
    "ostree",
    "sif",
    "tarball",
];

/// Where an image is taken from or put to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A registry: `docker://REFERENCE`, or a reference alone.
    Registry(Reference),
    /// An OCI image layout: `oci:DIRECTORY[:NAME]`.
    Layout {
        /// The directory.
        directory: PathBuf,
        /// Which image of it (`org.opencontainers.image.ref.name`).
        name: Option<String>,
    },
    /// A tar archive of an OCI image layout: `oci-archive:FILE[:NAME]`.
    LayoutArchive {
        /// The archive.
        file: PathBuf,
        /// Which image of it.
        name: Option<String>,
    },
    /// An archive as `docker save` writes it: `docker-archive:FILE[:REFERENCE]`.
    DockerArchive {
        /// The archive.
        file: PathBuf,
        /// Which image of it.
        reference: Option<Reference>,
    },
}

impl FromStr for Location {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(reference) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(reference.parse()?));
        }
        let parts = |rest: &str| -> Result<(PathBuf, Option<String>)> {
            let (path, name) = match rest.split_once(':') {
                Some((path, name)) => (path, Some(name.to_owned())),
                None => (rest, None),
            };
            if path.is_empty() {
                return Err(Error::invalid(format!(
                    "invalid image location {text:?}: no path"
                )));
            }
            if name.as_deref() == Some("") {
                return Err(Error::invalid(format!(
                    "invalid image location {text:?}: the name is empty"
                )));
            }
            Ok((path.into(), name))
        };
        if let Some(rest) = text.strip_prefix("oci:") {
            let (directory, name) = parts(rest)?;
            return Ok(Self::Layout { directory, name });
        }
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            let (file, name) = parts(rest)?;
            return Ok(Self::LayoutArchive { file, name });
        }
        if let Some(rest) = text.strip_prefix("docker-archive:") {
            let (file, name) = parts(rest)?;
            let reference = name.map(|name| name.parse()).transpose()?;
            return Ok(Self::DockerArchive { file, reference });
        }
        let other = text.split_once("://").map(|(other, _)| other);
        let foreign = FOREIGN.iter().copied();
        let mut foreign = foreign.filter(|name| text.starts_with(&format!("{name}:")));
        match other.or_else(|| foreign.next()) {
            Some(other) => Err(Error::invalid(format!(
                "invalid image location {text:?}: unknown transport {other:?}; there are docker://, \
                 oci:, oci-archive: and docker-archive:"
            ))),
            None => Ok(Self::Registry(text.parse()?)),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named =
            |f: &mut fmt::Formatter<'_>, scheme: &str, path: &PathBuf, name: &Option<String>| {
                write!(f, "{scheme}:{}", path.display())?;
                name.iter().try_for_each(|name| write!(f, ":{name}"))
            };
        match self {
            Self::Registry(reference) => write!(f, "docker://{reference}"),
            Self::Layout { directory, name } => named(f, "oci", directory, name),
            Self::LayoutArchive { file, name } => named(f, "oci-archive", file, name),
            Self::DockerArchive { file, reference } => {
                let name = reference.as_ref().map(ToString::to_string);
                named(f, "docker-archive", file, &name)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations() {
        let same = |text: &str| {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), text);
            location
        };
        same("docker://docker.io/library/debian:latest");
        assert_eq!(
            same("oci:/a/b"),
            Location::Layout {
                directory: "/a/b".into(),
                name: None
            }
        );
        let name = Some("v1:x".to_owned());
        assert_eq!(
            same("oci:/a/b:v1:x"),
            Location::Layout {
                directory: "/a/b".into(),
                name
            }
        );
        same("oci-archive:x.tar:v1");
        same("docker-archive:x.tar");
        same("docker-archive:x.tar:docker.io/library/a:b");
        let plain: Location = "debian".parse().unwrap();
        assert_eq!(
            plain.to_string(),
            "docker://docker.io/library/debian:latest"
        );
        for wrong in [
            "oci:",
            "oci::x",
            "oci:a:",
            "ftp://a",
            "docker-archive:x:Y",
            "docker://",
            "dir:/a",
            "containers-storage:x",
        ] {
            wrong.parse::<Location>().unwrap_err();
        }
    }
}
