//! `--cache-from` and `--cache-to`: where steps that other machines did come from, and go.
//!
//! What cannot be read of `--cache-from` is a warning and no error: the steps are done here then. What
//! cannot be written of `--cache-to` is an error, unless `ignore-error=true`.

use std::path::PathBuf;

use rcrun_builder::export::Options;
use rcrun_builder::export::cache::{self, Content};
use rcrun_builder::remote::Known;
use rcrun_builder::solve::{Done, Lost};
use rcrun_image::artifact::Artifact;
use rcrun_image::document::Descriptor;
use rcrun_image::platform::Platform;
use rcrun_image::registry::Cancel;
use rcrun_image::stored::Subject;
use rcrun_image::transport::Location;
use rcrun_overlay::compress::Compression;
use rcrun_overlay::lease::LayerId;
use rcrun_runtime::error::{Context, Error, Result};

use super::arguments::{compression, fields, truth};
use super::job::{Built, Job};
use super::outputs;
use crate::images;

/// What a cache is called in a layout unless the user says otherwise, as with BuildKit.
const TAG: &str = "latest";

/// `--cache-to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct To {
    /// None: into the image.
    pub(super) place: Option<Location>,
    content: Content,
    compression: Compression,
    level: Option<i32>,
    ignore_error: bool,
}

/// The fields of such a flag: its type and the rest. A word alone is a registry's reference.
struct Flag {
    kind: String,
    fields: Vec<(String, String)>,
}

impl Flag {
    fn parse(text: &str) -> Result<Self> {
        let all = fields(text);
        if let [(_, None)] = all.as_slice() {
            return Ok(Self {
                kind: "registry".into(),
                fields: vec![("ref".into(), text.to_owned())],
            });
        }
        let mut flag = Self {
            kind: String::new(),
            fields: Vec::new(),
        };
        for (name, value) in all {
            let value =
                value.ok_or_else(|| Error::invalid(format!("{name:?} is not NAME=VALUE")))?;
            match name.as_str() {
                "type" => flag.kind = value,
                _ => flag.fields.push((name, value)),
            }
        }
        match flag.kind.as_str() {
            "registry" | "local" | "inline" => Ok(flag),
            "" => Err(Error::invalid("a cache needs a type")
                .with_hint("such as type=registry,ref=REFERENCE")),
            other => Err(
                Error::unsupported(format!("unknown type {other:?} of a cache"))
                    .with_hint("use registry, local or inline"),
            ),
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.fields.iter().position(|(field, _)| field == name)?;
        Some(self.fields.remove(at).1)
    }

    fn truth(&mut self, name: &str) -> Result<bool> {
        let text = self.take(name);
        text.map_or(Ok(false), |text| truth(name, Some(&text)))
    }

    /// The place, with the name of the field that says the directory.
    fn place(&mut self, directory: &str) -> Result<Location> {
        let needs = |what: &str| Error::invalid(format!("type={} needs {what}", self.kind));
        let (registry, local) = (
            needs("ref=REFERENCE"),
            needs(&format!("{directory}=DIRECTORY")),
        );
        match self.kind.as_str() {
            "registry" => {
                let reference = self.take("ref").ok_or(registry)?;
                Ok(Location::Registry(reference.parse()?))
            }
            _ => {
                let path = self.take(directory).ok_or(local)?;
                let name = match (self.take("tag"), self.take("digest")) {
                    (None, Some(digest)) => format!("@{digest}"),
                    (Some(tag), None) => tag,
                    (None, None) => TAG.to_owned(),
                    (Some(_), Some(_)) => {
                        return Err(Error::invalid("tag and digest exclude each other"));
                    }
                };
                Ok(Location::Layout {
                    directory: PathBuf::from(path),
                    name: Some(name),
                })
            }
        }
    }

    fn end(&self) -> Result<()> {
        match self.fields.first() {
            None => Ok(()),
            Some((name, _)) => Err(Error::invalid(format!(
                "{name:?} is no field of a cache of type {}",
                self.kind
            ))),
        }
    }
}

/// `--cache-from`.
pub(super) fn from(text: &str) -> Result<Location> {
    let mut flag = Flag::parse(text)?;
    if flag.kind == "inline" {
        return Err(
            Error::invalid("an inline cache is read by its image's name")
                .with_hint("use type=registry,ref=IMAGE"),
        );
    }
    let place = flag.place("src")?;
    flag.end()?;
    Ok(place)
}

/// `--cache-to`.
pub(super) fn to(text: &str) -> Result<To> {
    let mut flag = Flag::parse(text)?;
    let place = match flag.kind.as_str() {
        "inline" => None,
        _ => Some(flag.place("dest")?),
    };
    if matches!(&place, Some(Location::Layout { name: Some(name), .. }) if name.starts_with('@')) {
        return Err(Error::invalid(
            "a cache is written under a tag, not a digest",
        ));
    }
    let all = match flag.take("mode").as_deref() {
        None | Some("min") => false,
        Some("max") if place.is_some() => true,
        Some("max") => {
            return Err(Error::unsupported(
                "an image has the layers of its own stage only: mode=max cannot be inline",
            )
            .with_hint("use type=registry for mode=max"));
        }
        Some(other) => {
            return Err(Error::invalid(format!("unknown mode {other:?} of a cache"))
                .with_hint("use min or max"));
        }
    };
    let mounts = flag.truth("cache-mounts")?;
    if mounts && place.is_none() {
        return Err(Error::unsupported(
            "cache mounts cannot be part of an image",
        ));
    }
    let level = flag.take("compression-level");
    let wrong = |level: &str| Error::invalid(format!("{level:?} is no compression level"));
    let level = level
        .map(|level| level.parse().map_err(|_| wrong(&level)))
        .transpose()?;
    let compression = match (flag.take("compression"), place.is_some()) {
        (None, _) => Compression::Gzip,
        (Some(text), true) => compression(&text)?,
        (Some(_), false) => {
            return Err(Error::invalid("an inline cache is the image's layers")
                .with_hint("say the compression with --output"));
        }
    };
    rcrun_overlay::compress::check_level(compression, level)?;
    let ignore_error = flag.truth("ignore-error")?;
    for name in ["oci-mediatypes", "image-manifest"] {
        let text = flag.take(name);
        if !text.map_or(Ok(true), |text| truth(name, Some(&text)))? {
            return Err(Error::unsupported(format!(
                "{name}=false: caches are OCI manifests here"
            )));
        }
    }
    flag.end()?;
    Ok(To {
        place,
        content: Content { all, mounts },
        compression,
        level,
        ignore_error,
    })
}

/// The caches that were named, as far as they can be read.
pub(super) struct Opened<'a> {
    pub(super) known: Known,
    artifacts: Vec<Artifact>,
    job: &'a Job<'a>,
}

/// Reads them for a platform.
pub(super) fn open<'a>(job: &'a Job<'a>, platform: &Platform) -> Result<Opened<'a>> {
    let mut opened = Opened {
        known: Known::default(),
        artifacts: Vec::new(),
        job,
    };
    for place in &job.asked.cache_from {
        // A place that does not answer calls off its own work only.
        let client = images::telling_client(
            job.settings,
            job.flags.authfile.as_deref(),
            &job.cancel.child(),
            job.notice().clone(),
        )?;
        let read = Artifact::open(place, client, platform).and_then(|artifact| {
            let (_, steps) = opened.known.add(&artifact.manifest, &artifact.config)?;
            Ok((artifact, steps))
        });
        job.cancel.check()?;
        match read {
            Ok((artifact, steps)) => {
                opened.artifacts.push(artifact);
                let line = format!("using the cache {place}: {steps} steps");
                job.progress.line(&line);
            }
            Err(error) => {
                let text = error.chain().to_string();
                let line = format!("WARNING: not using the cache {place}: {text}");
                job.progress.line(&line);
            }
        }
    }
    Ok(opened)
}

impl Opened<'_> {
    /// Fetches a layer.
    pub(super) fn bring(&self, place: usize, blob: &Descriptor) -> Result<()> {
        let digest = &blob.digest;
        let artifact = self.artifacts.get(place).ok_or_else(|| {
            Error::new(
                rcrun_runtime::error::ErrorKind::Internal,
                "nobody knows this cache",
            )
        })?;
        if !self.job.store.content().contains(digest)? {
            let size = crate::units::size(blob.size);
            let line = format!("fetching {digest} of a cache ({size})");
            self.job.progress.line(&line);
        }
        // What cannot be had from one place calls off nothing else.
        let cancel: Cancel = self.job.cancel.child();
        artifact.bring(self.job.store, blob, &|_| (), &cancel)
    }

    /// What could not be had is not known any more, and people are told why.
    pub(super) fn forget(&mut self, lost: &[Lost]) {
        for one in lost {
            let place = self.job.asked.cache_from.get(one.place);
            let place = place.map(ToString::to_string).unwrap_or_default();
            let line = format!(
                "WARNING: the cache {place} does not have what it says, so that is done here: {}",
                one.why
            );
            self.job.progress.line(&line);
            self.known.forget(one.place, &one.blob);
        }
    }
}

/// Whether an image is to have its cache inside.
pub(super) fn inline(all: &[To]) -> bool {
    all.iter().any(|to| to.place.is_none())
}

/// Whether layers are needed that are not the result's.
pub(super) fn needs_all(all: &[To]) -> bool {
    all.iter().any(|to| to.content.all)
}

/// Whether layers are needed at all.
pub(super) fn needs_layers(all: &[To]) -> bool {
    !all.is_empty()
}

/// Writes all that were asked for.
pub(super) fn write(job: &Job<'_>, built: &[Built]) -> Result<()> {
    let mut done = Done::default();
    let mut wanted: Vec<LayerId> = Vec::new();
    for one in built {
        done.steps.extend(one.done.steps.iter().cloned());
        done.mounts.extend(one.done.mounts.iter().cloned());
        wanted.extend(one.layers.iter().cloned());
    }
    for to in &job.asked.cache_to {
        let Some(place) = &to.place else {
            continue;
        };
        let written = one(job, &done, &wanted, to, place)
            .context(|| format!("cannot write the cache {place}"));
        match written {
            Err(error) if to.ignore_error => {
                let line = format!("WARNING: {}", error.chain());
                job.progress.line(&line);
            }
            written => written?,
        }
    }
    Ok(())
}

fn one(job: &Job<'_>, done: &Done, wanted: &[LayerId], to: &To, place: &Location) -> Result<()> {
    let options = Options {
        compression: to.compression,
        level: to.level,
        ..Options::default()
    };
    let watch = |event: &rcrun_builder::events::Event<'_>| job.progress.event(event);
    let target = job.target(&watch);
    let Some(written) = cache::cache(&target, done, wanted, &options, to.content)? else {
        job.progress
            .line(&format!("no step to keep in the cache {place}"));
        return Ok(());
    };
    job.progress.line(&format!("writing the cache {place}"));
    outputs::copy(job, &[Subject::Digest(written.digest)], place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let layout = |directory: &str, name: &str| Location::Layout {
            directory: directory.into(),
            name: Some(name.into()),
        };
        let registry = |name: &str| Location::Registry(name.parse().unwrap());
        for (text, expected) in [
            ("example.org/a:b", registry("example.org/a:b")),
            ("type=registry,ref=example.org/a", registry("example.org/a")),
            ("type=local,src=d", layout("d", "latest")),
            ("type=local,src=d,tag=x", layout("d", "x")),
            ("type=local,src=d,digest=sha256:a", layout("d", "@sha256:a")),
        ] {
            assert_eq!(from(text).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "type=registry",
            "type=local",
            "type=local,dest=d",
            "type=inline",
            "type=gha",
            "type=local,src=d,mode=max",
            "type=local,src=d,tag=a,digest=b",
            "type=registry,ref=A B",
            "src=d",
        ] {
            from(text).unwrap_err();
        }
    }

    #[test]
    fn what_is_written() {
        let all = |text: &str| to(text).unwrap();
        assert_eq!(all("type=inline").place, None);
        assert!(inline(&[all("type=inline")]) && !inline(&[all("type=local,dest=d")]));
        let max = all(
            "type=local,dest=d,mode=max,cache-mounts=true,compression=zstd,compression-level=9,ignore-error=true,oci-mediatypes=true",
        );
        assert_eq!(
            max.content,
            Content {
                all: true,
                mounts: true
            }
        );
        assert_eq!((max.compression, max.level), (Compression::Zstd, Some(9)));
        assert!(max.ignore_error);
        let min = all("type=registry,ref=example.org/a,mode=min");
        assert_eq!(
            min.content,
            Content {
                all: false,
                mounts: false
            }
        );
        for text in [
            "type=inline,mode=max",
            "type=inline,cache-mounts=true",
            "type=inline,compression=gzip",
            "type=local,src=d",
            "type=local,dest=d,mode=all",
            "type=local,dest=d,digest=sha256:a",
            "type=local,dest=d,cache-mounts=perhaps",
            "type=local,dest=d,compression-level=99",
            "type=local,dest=d,image-manifest=false",
            "type=local,dest=d,unknown=1",
        ] {
            to(text).unwrap_err();
        }
    }
}
