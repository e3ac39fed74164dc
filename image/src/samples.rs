//! Images for tests, made in a store.

use std::io::Write;

use rcrun_overlay::compress::{Compression, Encoder};
use rcrun_overlay::lease::Lease;
use rcrun_overlay::store::Store;

use crate::Digest;
use crate::document::{Descriptor, media};
use crate::names::Names;
use crate::platform::Platform;
use crate::registry::client::{Client, Options};
use crate::registry::retry::Cancel;
use crate::registry::settings::Settings;
use crate::stored::plain;

/// A layer's archive with one file of so many bytes that compress to about half.
pub(crate) fn archive(name: &str, length: usize, mut seed: u64) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    let mut byte = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        b"0123456789abcdef"[(seed >> 60) as usize]
    };
    let content: Vec<u8> = (0..length).map(|_| byte()).collect();
    header.set_mode(0o644);
    header.set_size(length as u64);
    builder.append_data(&mut header, name, &*content).unwrap();
    builder.into_inner().unwrap()
}

pub(crate) fn compressed(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut encoder = Encoder::new(compression, Vec::new(), 0).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A place for images.
pub(crate) struct Shelf {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) lease: Lease,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let lease = store.lease().unwrap();
        Self {
            directory,
            store,
            lease,
        }
    }

    pub(crate) fn put(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = self.store.content().put(&self.lease, bytes).unwrap();
        plain(media_type, &digest, bytes.len() as u64)
    }

    /// An OCI or Docker image of these archives, compressed so.
    pub(crate) fn image(
        &self,
        archives: &[Vec<u8>],
        compression: Compression,
        docker: bool,
        platform: &Platform,
    ) -> Descriptor {
        let diff_ids: Vec<Digest> = archives.iter().map(|one| Digest::of(one)).collect();
        let config = serde_json::json!({
            "architecture": platform.architecture, "os": platform.os, "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let (manifest_type, config_type) = match docker {
            true => (media::DOCKER_MANIFEST, media::DOCKER_CONFIG),
            false => (media::OCI_MANIFEST, media::OCI_CONFIG),
        };
        let layer_type = match (compression, docker) {
            (Compression::None, true) => "application/vnd.docker.image.rootfs.diff.tar",
            (_, true) => media::DOCKER_LAYER_GZIP,
            (Compression::None, false) => media::OCI_LAYER,
            (Compression::Gzip, false) => media::OCI_LAYER_GZIP,
            (Compression::Zstd, false) => media::OCI_LAYER_ZSTD,
        };
        let layers: Vec<Descriptor> = archives
            .iter()
            .map(|one| self.put(layer_type, &compressed(one, compression)))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": manifest_type,
            "config": self.put(config_type, config.to_string().as_bytes()), "layers": layers,
            "annotations": {"org.example.kept": "yes"},
        });
        let mut descriptor = self.put(manifest_type, manifest.to_string().as_bytes());
        descriptor.platform = Some(platform.clone());
        descriptor
    }

    /// An index of these, in the same dialect as the first.
    pub(crate) fn index(&self, manifests: &[Descriptor]) -> Descriptor {
        let docker = manifests[0].media_type == media::DOCKER_MANIFEST;
        let kind = if docker {
            media::DOCKER_LIST
        } else {
            media::OCI_INDEX
        };
        let index = serde_json::json!({
            "schemaVersion": 2, "mediaType": kind, "manifests": manifests,
        });
        self.put(kind, index.to_string().as_bytes())
    }

    pub(crate) fn name(&self, name: &str, target: &Descriptor) {
        let target = plain(&target.media_type, &target.digest, target.size);
        let names = Names::new(&self.store).unwrap();
        names
            .set(&self.lease, &name.parse().unwrap(), &target)
            .unwrap();
    }

    pub(crate) fn json(&self, digest: &Digest) -> serde_json::Value {
        serde_json::from_slice(&self.bytes(digest)).unwrap()
    }

    pub(crate) fn bytes(&self, digest: &Digest) -> Vec<u8> {
        self.store.content().read(digest, 1 << 30).unwrap().unwrap()
    }

    /// The number of blobs, and of names.
    pub(crate) fn count(&self) -> (usize, usize) {
        let names = Names::new(&self.store).unwrap().list().unwrap();
        (self.store.content().list().unwrap().len(), names.len())
    }
}

/// A client for the scripted registry, and what calls it off.
pub(crate) fn client() -> (Client, Cancel) {
    let mut options = Options::new(Settings::default(), |_| None);
    options.policy.first = std::time::Duration::from_millis(1);
    options.policy.longest = std::time::Duration::from_millis(10);
    let cancel = options.cancel.clone();
    (Client::new(options), cancel)
}
