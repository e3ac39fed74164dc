//! Documents that name other layers than before. Pure.

use std::collections::HashMap;

use serde_json::Value;

use super::{Format, New};
use crate::closure::Part;
use crate::document::{Compression, Descriptor, Document, media};
use crate::{Digest, Error, ErrorKind, Result};

/// Annotations that tell where something is in the compressed bytes, by their beginnings.
const ABOUT_BYTES: [&str; 2] = [
    "io.github.containers.zstd-chunked.",
    "containerd.io/snapshot/stargz/",
];
/// How BuildKit's attestations name, in an index, the manifest that they are about.
const ABOUT_MANIFEST: &str = "vnd.docker.reference.digest";

/// The media type of a layer in another compression.
pub(super) fn layer_type(before: &str, format: Option<Format>, oci: bool) -> String {
    let docker = before.starts_with("application/vnd.docker.") && !oci;
    match (format, docker) {
        (Some(Format::Gzip(_)), true) => media::DOCKER_LAYER_GZIP,
        (Some(Format::Gzip(_)), false) => media::OCI_LAYER_GZIP,
        (Some(Format::Zstd(_)), _) => media::OCI_LAYER_ZSTD,
        (None, _) => before,
    }
    .to_owned()
}

/// All documents, with those changed that have to be.
pub(super) fn documents(
    before: &[Part],
    layers: &HashMap<Digest, New>,
    format: Option<Format>,
    oci: bool,
) -> Result<Vec<Part>> {
    let mut changed: HashMap<Digest, Descriptor> = HashMap::new();
    let mut after: Vec<Option<Part>> = before.iter().map(|_| None).collect();
    // Who is about another document comes after it; then indexes, which come after all they name.
    let round = |part: &Part| match &part.document {
        Document::Manifest(manifest) if manifest.subject.is_none() => 0,
        Document::Manifest(_) => 1,
        Document::Index(_) => 2,
    };
    for number in 0..=2 {
        for (part, place) in before.iter().zip(&mut after) {
            if round(part) != number {
                continue;
            }
            let new = match &part.document {
                Document::Manifest(_) => manifest(part, layers, &changed, format, oci)?,
                Document::Index(_) => index(part, &changed, oci)?,
            };
            if new.descriptor.digest != part.descriptor.digest {
                changed.insert(part.descriptor.digest.clone(), new.descriptor.clone());
            }
            *place = Some(new);
        }
    }
    Ok(after.into_iter().flatten().collect())
}

fn manifest(
    part: &Part,
    layers: &HashMap<Digest, New>,
    changed: &HashMap<Digest, Descriptor>,
    format: Option<Format>,
    oci: bool,
) -> Result<Part> {
    let Document::Manifest(manifest) = &part.document else {
        return Ok(part.clone());
    };
    let concerned = manifest
        .layers
        .iter()
        .any(|layer| layers.contains_key(&layer.digest));
    let about = manifest
        .subject
        .as_ref()
        .and_then(|one| changed.get(&one.digest));
    let is_docker = manifest.media_type == media::DOCKER_MANIFEST;
    if !concerned && about.is_none() && !(is_docker && oci) {
        return Ok(part.clone());
    }
    let oci = oci || !is_docker || (concerned && matches!(format, Some(Format::Zstd(_))));
    let mut value = parse(part)?;
    if is_docker && oci {
        value["mediaType"] = media::OCI_MANIFEST.into();
        if manifest.config.media_type == media::DOCKER_CONFIG {
            value["config"]["mediaType"] = media::OCI_CONFIG.into();
        }
    }
    for (layer, entry) in manifest.layers.iter().zip(list(&mut value, "layers")?) {
        if let Some(new) = layers.get(&layer.digest) {
            entry["mediaType"] = layer_type(&layer.media_type, format, oci).into();
            entry["digest"] = new.digest.to_string().into();
            entry["size"] = new.size.into();
            if let Some(members) = entry.as_object_mut() {
                members.remove("urls");
            }
            forget_bytes(entry);
        } else if is_docker && oci {
            entry["mediaType"] = oci_type(layer).into();
        }
    }
    if let Some(about) = about {
        point(&mut value["subject"], about);
    }
    encode(part, &value)
}

/// OCI's name of what Docker calls otherwise.
fn oci_type(layer: &Descriptor) -> String {
    let name = match (layer.layer(), layer.is_foreign()) {
        (Ok(Compression::None), false) => media::OCI_LAYER,
        (Ok(Compression::Gzip), false) => media::OCI_LAYER_GZIP,
        (Ok(Compression::Zstd), false) => media::OCI_LAYER_ZSTD,
        (Ok(Compression::None), true) => "application/vnd.oci.image.layer.nondistributable.v1.tar",
        (Ok(_), true) => "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        (Err(_), _) => &layer.media_type,
    };
    name.to_owned()
}

fn forget_bytes(entry: &mut Value) {
    let Some(annotations) = entry.get_mut("annotations").and_then(Value::as_object_mut) else {
        return;
    };
    annotations.retain(|key, _| !ABOUT_BYTES.iter().any(|start| key.starts_with(start)));
    if annotations.is_empty()
        && let Some(members) = entry.as_object_mut()
    {
        members.remove("annotations");
    }
}

fn index(part: &Part, changed: &HashMap<Digest, Descriptor>, oci: bool) -> Result<Part> {
    let Document::Index(index) = &part.document else {
        return Ok(part.clone());
    };
    let names = |entry: &Descriptor| changed.contains_key(&entry.digest);
    let is_docker = index.media_type == media::DOCKER_LIST;
    let concerned = index.manifests.iter().any(names) || (is_docker && oci);
    if !concerned {
        return Ok(part.clone());
    }
    let mut value = parse(part)?;
    let mut oci = oci;
    for (before, entry) in index.manifests.iter().zip(list(&mut value, "manifests")?) {
        if let Some(new) = changed.get(&before.digest) {
            oci |= new.media_type.starts_with("application/vnd.oci.");
            point(entry, new);
        }
        let about = before.annotations.get(ABOUT_MANIFEST);
        let about = about.and_then(|text| text.parse::<Digest>().ok());
        if let Some(new) = about.and_then(|about| changed.get(&about)) {
            entry["annotations"][ABOUT_MANIFEST] = new.digest.to_string().into();
        }
    }
    if oci && is_docker {
        value["mediaType"] = media::OCI_INDEX.into();
    }
    encode(part, &value)
}

fn point(entry: &mut Value, new: &Descriptor) {
    entry["mediaType"] = new.media_type.clone().into();
    entry["digest"] = new.digest.to_string().into();
    entry["size"] = new.size.into();
}

fn parse(part: &Part) -> Result<Value> {
    serde_json::from_slice(&part.bytes).map_err(|error| defect(part, &error.to_string()))
}

fn list<'a>(value: &'a mut Value, key: &str) -> Result<&'a mut Vec<Value>> {
    value
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .ok_or_else(|| Error::new(ErrorKind::Internal, format!("a document lost its {key}")))
}

fn defect(part: &Part, why: &str) -> Error {
    let digest = &part.descriptor.digest;
    Error::new(
        ErrorKind::Internal,
        format!("cannot change {digest}: {why}"),
    )
}

/// The document again: what was written must also be readable.
fn encode(part: &Part, value: &Value) -> Result<Part> {
    let bytes = serde_json::to_vec(value).map_err(|error| defect(part, &error.to_string()))?;
    let document = Document::read(&bytes, None)?;
    let descriptor = Descriptor {
        media_type: document.media_type().to_owned(),
        digest: part.descriptor.digest.algorithm().digest(&bytes),
        size: bytes.len() as u64,
        ..part.descriptor.clone()
    };
    Ok(Part {
        descriptor,
        bytes,
        document,
    })
}
