//! The images that a build gives: one for each way in which its outputs want it, each a manifest or an
//! index of the platforms and of what is attested of them.

use std::collections::BTreeMap;

use rcrun_builder::export::Options;
use rcrun_image::document::{Descriptor, media};
use rcrun_overlay::compress::Compression;
use rcrun_overlay::digest::Algorithm;
use rcrun_runtime::error::{Error, ErrorKind, Result};
use serde_json::json;

use super::annotations::Annotations;
use super::attest;
use super::destination::{How, Output};
use super::job::{Built, Job};
use super::outputs::is_image;

/// One way to write the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variant {
    compression: Compression,
    level: Option<i32>,
    pub(super) docker: bool,
    /// Statements are attached as artifacts, and not as what looks like an image.
    pub(super) artifact: bool,
    pub(super) annotations: Annotations,
}

impl Variant {
    pub(super) fn options(&self) -> Options<'static> {
        Options {
            compression: self.compression,
            level: self.level,
            docker: self.docker,
            ..Options::default()
        }
    }
}

/// All ways in which outputs want the image, and which one each output means.
pub(super) fn variants(
    outputs: &[(Output, How)],
    docker: bool,
    annotations: &Annotations,
) -> (Vec<Variant>, Vec<usize>) {
    let mut all: Vec<Variant> = Vec::new();
    let mut which = Vec::with_capacity(outputs.len());
    for (output, how) in outputs {
        if !is_image(output) {
            which.push(0);
            continue;
        }
        let mut annotations = annotations.clone();
        annotations.extend(&how.annotations);
        let variant = Variant {
            compression: how.compression.unwrap_or(Compression::Gzip),
            level: how.level,
            docker: how.docker.unwrap_or(docker),
            artifact: how.artifact.unwrap_or(true),
            annotations,
        };
        which.push(match all.iter().position(|other| *other == variant) {
            Some(index) => index,
            None => {
                all.push(variant);
                all.len() - 1
            }
        });
    }
    (all, which)
}

/// The image's manifest, or an index: of several platforms, or with attestations.
pub(super) fn top(
    job: &Job<'_>,
    built: &[Built],
    index: usize,
    facts: &attest::Facts,
) -> Result<Descriptor> {
    let variant = &job.variants[index];
    let mut attested = Vec::new();
    for one in built {
        attested.extend(attest::attach(job, one, index, facts)?);
    }
    let several = job.asked.several || built.len() > 1 || !attested.is_empty();
    variant.annotations.check(several)?;
    let mut manifests = Vec::with_capacity(built.len());
    for one in built {
        let none = || Error::new(ErrorKind::Internal, "an image was not written");
        let mut manifest = one.written.get(index).ok_or_else(none)?.manifest.clone();
        if !several {
            manifest.platform = None;
            return Ok(manifest);
        }
        if let Some(platform) = &manifest.platform {
            manifest.annotations = variant.annotations.descriptor(platform);
        }
        manifests.push(manifest);
    }
    manifests.extend(attested);
    let kind = match variant.docker {
        true => media::DOCKER_LIST,
        false => media::OCI_INDEX,
    };
    let mut index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
    let annotations = variant.annotations.index();
    if !annotations.is_empty() {
        index["annotations"] = json!(annotations);
    }
    document(job, kind, &index)
}

/// Writes a document, which the lease holds.
pub(super) fn document(job: &Job<'_>, kind: &str, value: &serde_json::Value) -> Result<Descriptor> {
    let bytes = serde_json::to_vec(value)
        .map_err(|e| Error::new(ErrorKind::Internal, format!("cannot encode JSON: {e}")))?;
    let content = job.store.content();
    let blob = content
        .prepare(job.lease, Algorithm::Sha256, &bytes)?
        .commit()?;
    Ok(Descriptor {
        media_type: kind.to_owned(),
        digest: blob.digest().clone(),
        size: bytes.len() as u64,
        urls: Vec::new(),
        annotations: BTreeMap::new(),
        platform: None,
        artifact_type: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::destination::output;

    #[test]
    fn each_output_has_its_own_image() {
        let outputs: Vec<_> = [
            "type=image",
            "type=local,dest=d",
            "type=oci,dest=a",
            "type=oci,dest=b,compression=zstd,compression-level=3",
            "type=docker,dest=c,oci-mediatypes=false",
            "type=image,annotation.a=b",
            "type=registry,compression=gzip",
            "type=image,oci-artifact=false",
        ]
        .iter()
        .map(|text| output(text).unwrap())
        .collect();
        let mut annotations = Annotations::default();
        annotations.flag("c=d").unwrap();
        let (all, which) = variants(&outputs, false, &annotations);
        assert_eq!(which, [0, 0, 0, 1, 2, 3, 0, 4]);
        assert_eq!(all.len(), 5);
        assert!(all[0].artifact && !all[4].artifact);
        assert_eq!(
            (all[1].compression, all[1].level),
            (Compression::Zstd, Some(3))
        );
        assert!(all[2].docker && !all[0].docker);
        let manifest = all[3].annotations.manifest(&"linux/amd64".parse().unwrap());
        assert_eq!(manifest.len(), 2);
    }
}
