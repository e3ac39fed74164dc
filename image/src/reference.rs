//! Image references: `[HOST/]PATH[:TAG][@DIGEST]`, in the grammar and with the defaults of docker.
//!
//! Owns parsing, normalisation and display. It does not know where a host is reached; that is
//! [`crate::registry::endpoints`]. The grammar is the one of the distribution project's `reference`
//! package, the defaults (docker.io, library/, latest) are docker's. Written without a regular
//! expression engine: nothing is compiled at start-up, and every refusal has words of its own.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::{Context, Digest, Error, Result};

/// Longest `HOST/PATH`.
pub const MAX_NAME: usize = 255;
/// Longest tag.
pub const MAX_TAG: usize = 128;
/// Longest reference at all: a name, a tag and the longest digest, with their separators.
const MAX_REFERENCE: usize = MAX_NAME + 1 + MAX_TAG + 1 + 7 + 128;
/// The host that is meant when none is named.
pub const DEFAULT_HOST: &str = "docker.io";
/// The tag that is meant when neither tag nor digest is named.
pub const DEFAULT_TAG: &str = "latest";
const OLD_DEFAULT_HOST: &str = "index.docker.io";
const OFFICIAL: &str = "library/";

/// A complete reference: it has a host, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    host: Box<str>,
    repository: Box<str>,
    tag: Option<Box<str>>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's name, with its port if it was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository at the host, such as `library/debian`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest. Where there is one it decides, and the tag is only a name.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository, with this digest only.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        let digest = Some(digest);
        let (host, repository) = (self.host.clone(), self.repository.clone());
        Self {
            host,
            repository,
            tag: None,
            digest,
        }
    }

    /// The same repository, with this tag only.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        check_tag(tag).context(|| format!("invalid tag {tag:?}"))?;
        let (host, repository) = (self.host.clone(), self.repository.clone());
        Ok(Self {
            host,
            repository,
            tag: Some(tag.into()),
            digest: None,
        })
    }

    /// `HOST/PATH`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// What a registry's manifest address ends with: the digest, or else the tag.
    pub fn manifest_name(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.as_deref().unwrap_or(DEFAULT_TAG).to_owned(),
        }
    }

    /// As docker shows it to people: without docker.io and without `library/`.
    pub fn familiar(&self) -> String {
        self.familiar_name() + &self.suffix()
    }

    /// The same without tag and digest.
    pub fn familiar_name(&self) -> String {
        let path = &*self.repository;
        let short = match path.strip_prefix(OFFICIAL) {
            Some(rest) if !rest.contains('/') => rest,
            _ => path,
        };
        // What would be read as another host's, or not at all, keeps its own.
        let whole = self.name();
        let clear = split_host(short).0.is_none() && !is_identifier(short);
        let short = match &*self.host {
            DEFAULT_HOST if clear => short,
            _ => &whole,
        };
        short.to_owned()
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}"));
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}"));
        tag.unwrap_or_default() + &digest.unwrap_or_default()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.host, self.repository, self.suffix())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() > MAX_REFERENCE {
            let shown: String = text.chars().take(40).collect();
            return Err(Error::invalid(format!(
                "invalid image reference {shown:?}...: longer than {MAX_REFERENCE} bytes"
            )));
        }
        parse(text).context(|| format!("invalid image reference {text:?}"))
    }
}

fn parse(text: &str) -> Result<Reference> {
    if text.is_empty() {
        return Err(Error::invalid("it is empty"));
    }
    if is_identifier(text) {
        // It would be taken for an image's identifier everywhere else.
        return Err(Error::invalid(
            "a repository cannot be named by 64 hexadecimal digits",
        ));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>()?)),
        None => (text, None),
    };
    let (host, rest) = split_host(rest);
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let host = match host {
        None | Some(OLD_DEFAULT_HOST) => DEFAULT_HOST,
        Some(host) => host,
    };
    check_host(host)?;
    check_path(path)?;
    let official = host == DEFAULT_HOST && !path.contains('/');
    let repository = if official {
        format!("{OFFICIAL}{path}")
    } else {
        path.to_owned()
    };
    if host.len() + 1 + repository.len() > MAX_NAME {
        return Err(Error::invalid(format!(
            "the name is longer than {MAX_NAME} bytes"
        )));
    }
    let tag = match (tag, &digest) {
        (None, None) => Some(DEFAULT_TAG),
        (tag, _) => tag,
    };
    Ok(Reference {
        host: host.into(),
        repository: repository.into(),
        tag: tag.map(Into::into),
        digest,
    })
}

/// The first component is a host if it could not be a repository's: it has a dot, a colon or an
/// upper-case letter, or it is localhost.
fn split_host(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':', '['])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

/// Checks a registry's name: a DNS name, an IPv4 address or an IPv6 address in brackets, each
/// optionally with a port.
pub fn check_host(host: &str) -> Result<()> {
    let wrong = |why: &str| Err(Error::invalid(format!("the host {host:?} {why}")));
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let Some((address, after)) = rest.split_once(']') else {
                return wrong("has no closing bracket");
            };
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return wrong("is not an IPv6 address");
            }
            match after {
                "" => return Ok(()),
                _ => ("", after.strip_prefix(':')),
            }
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("0")),
        },
    };
    if !port.is_some_and(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
    }) {
        return wrong("has no valid port");
    }
    if host.starts_with('[') {
        return Ok(());
    }
    let component = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if !name.split('.').all(component) {
        return wrong("is not a host name");
    }
    Ok(())
}

/// Checks a repository's path: components of lower-case letters and digits, joined by `.`, `_`, `__`
/// or any number of `-`.
pub fn check_path(path: &str) -> Result<()> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(Error::invalid("the repository must be in lower case"));
    }
    for component in path.split('/') {
        if !is_path_component(component) {
            return Err(Error::invalid(format!(
                "the repository has the invalid component {component:?}"
            )));
        }
    }
    Ok(())
}

fn is_path_component(component: &str) -> bool {
    let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    let separators = bytes.split(word).filter(|part| !part.is_empty());
    word(first)
        && word(last)
        && separators.into_iter().all(|part| {
            matches!(part, b"." | b"_" | b"__") || part.iter().all(|byte| *byte == b'-')
        })
}

fn check_tag(tag: &str) -> Result<()> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    match bytes.next() {
        None => return Err(Error::invalid("the tag is empty")),
        Some(first) if !word(first) => {
            return Err(Error::invalid(
                "the tag begins with neither a letter, a digit nor an underscore",
            ));
        }
        Some(_) => {}
    }
    if tag.len() > MAX_TAG {
        return Err(Error::invalid(format!(
            "the tag is longer than {MAX_TAG} bytes"
        )));
    }
    if !bytes.all(|byte| word(byte) || matches!(byte, b'.' | b'-')) {
        return Err(Error::invalid("the tag has an invalid character"));
    }
    Ok(())
}

fn is_identifier(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

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
        match text.split_once("://") {
            Some((transport, _)) => Err(Error::invalid(format!(
                "invalid image location {text:?}: unknown transport {transport:?}"
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
#[path = "reference_tests.rs"]
mod tests;
