//! `--output`: where a result goes, and how it is written. Pure.

use std::path::PathBuf;

use rcrun_overlay::compress::Compression;
use rcrun_runtime::error::{Error, Result};

use super::annotations::Annotations;
use super::arguments::{compression, fields, truth};

/// Where a result goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Output {
    /// The store; to a registry too with the second.
    Image {
        names: Vec<String>,
        push: bool,
        /// By its digest, and not under a tag.
        by_digest: bool,
    },
    /// An OCI layout in a directory, or in an archive; none is standard output.
    Oci {
        dest: Option<PathBuf>,
        archive: bool,
    },
    /// An archive as `docker save` writes it.
    Docker { dest: Option<PathBuf> },
    /// An archive of the files.
    Tar {
        dest: Option<PathBuf>,
        /// As with [`Output::Local`].
        split: Option<bool>,
    },
    /// The files.
    Local {
        dest: PathBuf,
        /// Each platform in a directory of its own; where nothing is said, if there are several.
        split: Option<bool>,
    },
    /// Nothing is kept but what the cache has.
    Nothing,
}

/// How layers and documents are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct How {
    pub(super) compression: Option<Compression>,
    pub(super) level: Option<i32>,
    pub(super) docker: Option<bool>,
    /// `oci-artifact`: how statements are attached.
    pub(super) artifact: Option<bool>,
    pub(super) annotations: Annotations,
    /// What it is called in an archive or layout.
    pub(super) names: Vec<String>,
    /// In front of names of statements that stand beside files.
    pub(super) prefix: String,
}

/// `--output`.
pub(super) fn output(text: &str) -> Result<(Output, How)> {
    if text == "-" {
        let (dest, split) = (None, None);
        return Ok((Output::Tar { dest, split }, How::default()));
    }
    let fields = fields(text);
    if let [(_, None)] = fields.as_slice() {
        let (dest, split) = (PathBuf::from(text), None);
        return Ok((Output::Local { dest, split }, How::default()));
    }
    let mut said = Said::default();
    for (name, value) in &fields {
        said.field(name, value.as_deref())?;
    }
    let (compression, level) = (said.how.compression, said.how.level);
    rcrun_overlay::compress::check_level(compression.unwrap_or(Compression::Gzip), level)?;
    said.output()
}

/// What fields say.
#[derive(Default)]
struct Said {
    kind: Option<String>,
    dest: Option<String>,
    names: Vec<String>,
    push: bool,
    directory: bool,
    by_digest: bool,
    split: Option<bool>,
    how: How,
}

impl Said {
    fn field(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        let truth = || truth(name, value);
        let text = || {
            let missing = || Error::invalid(format!("{name:?} is not NAME=VALUE"));
            value.map(str::to_owned).ok_or_else(missing)
        };
        match name {
            "type" => self.kind = Some(text()?),
            "dest" | "output" => self.dest = Some(text()?),
            "name" => self.names.extend(text()?.split(',').map(str::to_owned)),
            "push" => self.push = truth()?,
            "tar" => self.directory = !truth()?,
            "oci-mediatypes" => self.how.docker = Some(!truth()?),
            "oci-artifact" => self.how.artifact = Some(truth()?),
            "compression" => self.how.compression = Some(compression(&text()?)?),
            "compression-level" => {
                let level = text()?;
                let wrong = || Error::invalid(format!("{level:?} is no compression level"));
                self.how.level = Some(level.parse().map_err(|_| wrong())?);
            }
            "push-by-digest" => self.by_digest = truth()?,
            "platform-split" => self.split = Some(truth()?),
            "attestation-prefix" => self.how.prefix = text()?,
            other => {
                let annotations = &mut self.how.annotations;
                if !annotations.field(other, value.unwrap_or_default())? {
                    settled(other, value)?;
                }
            }
        }
        Ok(())
    }

    fn output(mut self) -> Result<(Output, How)> {
        let kind = self.kind.as_deref().unwrap_or_default();
        let is_image = matches!(kind, "image" | "registry");
        if !self.names.is_empty() && !is_image && !matches!(kind, "oci" | "docker") {
            return Err(Error::invalid(format!(
                "type={kind} has no image that could have a name"
            )));
        }
        let push = self.push || kind == "registry";
        if self.push && !is_image {
            return Err(Error::invalid(format!("type={kind} cannot be pushed")));
        }
        if self.by_digest && !(is_image && push) {
            return Err(Error::invalid(
                "push-by-digest needs type=registry, or type=image with push=true",
            ));
        }
        let is_files = matches!(kind, "local" | "tar");
        if !is_files && (self.split.is_some() || !self.how.prefix.is_empty()) {
            let text = "platform-split and attestation-prefix are for type=local and type=tar";
            return Err(Error::invalid(text));
        }
        if self.how.artifact == Some(true) && self.how.docker == Some(true) {
            let text = "oci-artifact=true and oci-mediatypes=false exclude each other";
            return Err(Error::invalid(text));
        }
        if self.how.prefix.contains('/') {
            return Err(Error::invalid("an attestation-prefix is no directory"));
        }
        let file = |dest: Option<String>| dest.filter(|dest| dest != "-").map(PathBuf::from);
        let output = match kind {
            "image" | "registry" => Output::Image {
                names: std::mem::take(&mut self.names),
                push,
                by_digest: self.by_digest,
            },
            "oci" => Output::Oci {
                dest: file(self.dest),
                archive: !self.directory,
            },
            "docker" => Output::Docker {
                dest: file(self.dest),
            },
            "tar" => Output::Tar {
                dest: file(self.dest),
                split: self.split,
            },
            "local" => {
                let missing = || Error::invalid("type=local needs dest=DIRECTORY");
                Output::Local {
                    dest: self.dest.map(PathBuf::from).ok_or_else(missing)?,
                    split: self.split,
                }
            }
            "cacheonly" => Output::Nothing,
            "" => {
                return Err(Error::invalid("an output needs a type")
                    .with_hint("such as type=local,dest=DIR"));
            }
            other => {
                let text = format!("unknown type {other:?} of an output");
                return Err(Error::invalid(text)
                    .with_hint("use image, registry, oci, docker, tar, local or cacheonly"));
            }
        };
        self.how.names = self.names;
        Ok((output, self.how))
    }
}

/// Fields whose effect is what is done in any case; another value of them is refused, not passed over.
fn settled(name: &str, value: Option<&str>) -> Result<()> {
    let (is, why) = match name {
        "store" => (true, "the image is made in the store"),
        // Layers that are made here are unpacked as they are made.
        "unpack" => return truth(name, value).map(drop),
        "rewrite-timestamp" => (true, "no file is later than the image"),
        "force-compression" => (false, "layers of the base image stay as they are"),
        "registry.insecure" => (false, "the settings say which registries are insecure"),
        "name-canonical" => (
            false,
            "an image is found by its digest without a name for it",
        ),
        "prefer-nondist-layers" => (false, "all layers are pushed"),
        "mode" => {
            return match value {
                Some("copy") => Ok(()),
                other => Err(Error::unsupported(format!(
                    "mode={} of an output: files are added, and none is deleted",
                    other.unwrap_or_default()
                ))),
            };
        }
        _ => {
            return Err(Error::invalid(format!("{name:?} is no field of an output")));
        }
    };
    match truth(name, value)? == is {
        true => Ok(()),
        false => Err(Error::unsupported(format!("{name}={}: {why}", !is))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs() {
        let path = |text: &str| Some(PathBuf::from(text));
        for (text, expected) in [
            (
                "-",
                Output::Tar {
                    dest: None,
                    split: None,
                },
            ),
            (
                "out",
                Output::Local {
                    dest: "out".into(),
                    split: None,
                },
            ),
            (
                "type=local,dest=out,mode=copy,platform-split=true",
                Output::Local {
                    dest: "out".into(),
                    split: Some(true),
                },
            ),
            (
                "type=tar,dest=a.tar",
                Output::Tar {
                    dest: path("a.tar"),
                    split: None,
                },
            ),
            (
                "type=tar,platform-split=false",
                Output::Tar {
                    dest: None,
                    split: Some(false),
                },
            ),
            (
                "type=oci,dest=d,tar=false",
                Output::Oci {
                    dest: path("d"),
                    archive: false,
                },
            ),
            ("type=docker,dest=-", Output::Docker { dest: None }),
            (
                "type=image,\"name=a,b\",push=true",
                Output::Image {
                    names: vec!["a".into(), "b".into()],
                    push: true,
                    by_digest: false,
                },
            ),
            (
                "type=registry,name=a,push-by-digest=true,store=true,unpack=false,rewrite-timestamp=true",
                Output::Image {
                    names: vec!["a".into()],
                    push: true,
                    by_digest: true,
                },
            ),
            ("type=cacheonly", Output::Nothing),
        ] {
            assert_eq!(output(text).unwrap().0, expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_done_is_refused() {
        for text in [
            "type=",
            "type=x",
            "dest=a",
            "type=local",
            "type=image,unknown=1",
            "type=oci,tar=maybe",
            "type=image,compression=lzma",
            "type=image,compression-level=99",
            "type=image,push-by-digest=true",
            "type=local,dest=d,name=a",
            "type=oci,push=true",
            "type=docker,push-by-digest=true",
            "type=image,store=false",
            "type=image,rewrite-timestamp=false",
            "type=image,force-compression=true",
            "type=registry,registry.insecure=true",
            "type=image,name-canonical=true",
            "type=image,prefer-nondist-layers",
            "type=image,oci-artifact=true,oci-mediatypes=false",
            "type=image,dangling-name-prefix=x",
            "type=image,annotation-nowhere.a=b",
            "type=local,dest=d,mode=delete",
            "type=image,platform-split=false",
            "type=oci,attestation-prefix=x",
            "type=local,dest=d,attestation-prefix=a/b",
        ] {
            output(text).unwrap_err();
        }
    }

    #[test]
    fn how_it_is_written() {
        let named = output("type=docker,name=a").unwrap().1;
        assert_eq!(named.names, ["a"]);
        let how = output(
            "type=image,compression=zstd,compression-level=9,annotation.a=b,oci-mediatypes=false",
        )
        .unwrap()
        .1;
        assert_eq!(how.compression, Some(Compression::Zstd));
        assert_eq!((how.level, how.docker), (Some(9), Some(true)));
        let manifest = how.annotations.manifest(&"linux/amd64".parse().unwrap());
        assert_eq!(manifest["a"], "b");
    }
}
