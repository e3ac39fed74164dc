//! Documents whose layers change.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::document::{Document, media};
use crate::stored::plain;

fn part(value: &Value, media_type: &str) -> Part {
    let bytes = value.to_string().into_bytes();
    Part {
        descriptor: plain(media_type, &Digest::of(&bytes), bytes.len() as u64),
        document: Document::read(&bytes, Some(media_type)).unwrap(),
        bytes,
    }
}

fn descriptor(media_type: &str, text: &str) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(text.as_bytes()), "size": text.len()})
}

fn read(part: &Part) -> Value {
    serde_json::from_slice(&part.bytes).unwrap()
}

#[test]
fn attestations_follow_their_image_and_positions_in_old_bytes_go() {
    let mut layer = descriptor(media::DOCKER_LAYER_GZIP, "old");
    layer["annotations"] = json!({
        "io.github.containers.zstd-chunked.manifest-checksum": "x",
        "containerd.io/snapshot/stargz/toc.digest": "y",
        "org.example.own": "z",
    });
    layer["urls"] = json!(["https://example.org/old"]);
    let image = json!({
        "schemaVersion": 2, "mediaType": media::DOCKER_MANIFEST, "x-unknown": {"b": 1, "a": [2]},
        "config": descriptor(media::DOCKER_CONFIG, "config"),
        "layers": [layer, descriptor(media::DOCKER_LAYER_GZIP, "kept")],
    });
    let image = part(&image, media::DOCKER_MANIFEST);
    let about = serde_json::to_value(&image.descriptor).unwrap();
    let attestation = json!({
        "schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "subject": about,
        "config": descriptor(media::OCI_CONFIG, "empty"),
        "layers": [descriptor("application/vnd.in-toto+json", "statement")],
    });
    let attestation = part(&attestation, media::OCI_MANIFEST);
    let mut entry = serde_json::to_value(&attestation.descriptor).unwrap();
    entry["annotations"] = json!({"vnd.docker.reference.digest": image.descriptor.digest});
    let index = json!({
        "schemaVersion": 2, "mediaType": media::DOCKER_LIST, "manifests": [entry, about],
    });
    let index = part(&index, media::DOCKER_LIST);
    let new = New {
        digest: Digest::of(b"new"),
        size: 3,
    };
    let layers = HashMap::from([(Digest::of(b"old"), new)]);
    // The attestation comes before what it is about.
    let before = [attestation, image, index];
    let after = rewrite::documents(&before, &layers, Some(Format::Zstd(None)), false).unwrap();
    let [attestation, image, index] = &after[..] else {
        panic!("{after:?}");
    };
    let value = read(image);
    assert_eq!(value["x-unknown"], json!({"a": [2], "b": 1}));
    assert_eq!(value["mediaType"], media::OCI_MANIFEST);
    assert_eq!(
        value["layers"][0],
        json!({"mediaType": media::OCI_LAYER_ZSTD, "digest": Digest::of(b"new"), "size": 3,
               "annotations": {"org.example.own": "z"}})
    );
    assert_eq!(value["layers"][1]["mediaType"], media::OCI_LAYER_GZIP);
    let digest = image.descriptor.digest.to_string();
    assert_eq!(read(attestation)["subject"]["digest"], digest);
    let value = read(index);
    assert_eq!(value["mediaType"], media::OCI_INDEX);
    assert_eq!(value["manifests"][1]["digest"], digest);
    assert_eq!(value["manifests"][1]["mediaType"], media::OCI_MANIFEST);
    let said = &value["manifests"][0];
    assert_eq!(said["digest"], attestation.descriptor.digest.to_string());
    assert_eq!(said["annotations"]["vnd.docker.reference.digest"], digest);
    // What nothing happened to stays as it was, byte for byte.
    let same = rewrite::documents(&before, &HashMap::new(), None, false).unwrap();
    for (one, other) in before.iter().zip(&same) {
        assert_eq!(one.bytes, other.bytes);
    }
    // Docker's documents become OCI's with the same layers.
    let oci = rewrite::documents(&before, &HashMap::new(), None, true).unwrap();
    let value = read(&oci[1]);
    assert_eq!(value["mediaType"], media::OCI_MANIFEST);
    assert_eq!(value["config"]["mediaType"], media::OCI_CONFIG);
    assert_eq!(value["layers"][0]["mediaType"], media::OCI_LAYER_GZIP);
    assert_eq!(value["layers"][0]["digest"], Digest::of(b"old").to_string());
    assert_eq!(read(&oci[2])["mediaType"], media::OCI_INDEX);
}
