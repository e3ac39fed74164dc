//! Documents of images: indexes, manifests and configurations, OCI's and Docker's.
//!
//! Owns reading them from hostile bytes into types. The bytes themselves stay what a digest names
//! and are never written again from a type. Image specification 1.1 (descriptor.md, manifest.md,
//! image-index.md, config.md) and Docker's "Image Manifest V 2, Schema 2". Schema 1 is refused: its
//! digest does not cover its bytes.

mod config;
mod strict;

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

pub use config::{Config, Healthcheck, History, ImageConfig, RootFs};
pub(crate) use strict::check as check_document;
pub use strict::{MAX_DEPTH, MAX_DOCUMENT, check_size};

use crate::platform::Platform;
use crate::{Context, Digest, Error, Result};

/// How many indexes may be inside one another.
pub const MAX_INDEX_DEPTH: usize = 4;

/// Media types.
pub mod media {
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// OCI's empty document.
    pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// What is asked for: all that can be read.
    pub const MANIFESTS: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
}

/// Names some bytes: what they are, their digest and their size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: String,
    /// Their digest.
    pub digest: Digest,
    /// Their number. A negative or fractional one is refused by the type.
    pub size: u64,
    /// Other places they are said to be at. Read, shown, and never fetched from.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_default"
    )]
    pub urls: Vec<String>,
    /// A user's own facts.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub annotations: BTreeMap<String, String>,
    /// Which machines an index's entry is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What kind of artifact an index's entry is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// Go writes `null` for an empty list or map.
fn or_default<'de, D, T>(reader: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(reader)?.unwrap_or_default())
}

/// Several images, one per platform.
#[derive(Debug, Clone)]
pub struct Index {
    /// Its media type.
    pub media_type: String,
    /// Its entries.
    pub manifests: Vec<Descriptor>,
    /// A user's own facts.
    pub annotations: BTreeMap<String, String>,
    /// What it is about, if it is about another document.
    pub subject: Option<Descriptor>,
    /// What kind of artifact it is, if it is one.
    pub artifact_type: Option<String>,
}

/// One image, or an artifact.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// Its media type.
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// A user's own facts.
    pub annotations: BTreeMap<String, String>,
    /// What it is about, if it is about another document.
    pub subject: Option<Descriptor>,
    /// What kind of artifact it is, if it says so.
    pub artifact_type: Option<String>,
}

/// What a manifest's address gives.
#[derive(Debug, Clone)]
pub enum Document {
    /// Several images.
    Index(Box<Index>),
    /// One image or artifact.
    Manifest(Box<Manifest>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    fs_layers: bool,
    #[serde(default, deserialize_with = "present")]
    blobs: bool,
}

fn present<'de, D: Deserializer<'de>>(reader: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(reader).map(|_| true)
}

const KNOWN: [&str; 18] = [
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "annotations",
    "subject",
    "artifactType",
    "fsLayers",
    "blobs",
    "digest",
    "size",
    "urls",
    "platform",
    "os",
    "architecture",
    "variant",
    "data",
];

impl Document {
    /// Reads an index or a manifest. `content_type` is what the registry, or the descriptor that
    /// led here, calls it.
    pub fn read(bytes: &[u8], content_type: Option<&str>) -> Result<Self> {
        strict::check(bytes, &KNOWN)?;
        let raw: Raw = match serde_json::from_slice(bytes) {
            Ok(raw) => raw,
            Err(e) => {
                return Err(Error::invalid(format!(
                    "not an image manifest or index: {e}"
                )));
            }
        };
        if raw.schema_version == 1 || raw.fs_layers {
            return Err(Error::unsupported(
                "a Docker schema 1 manifest, which is obsolete; push the image again with a newer tool",
            ));
        }
        if raw.schema_version != 2 {
            let version = raw.schema_version;
            return Err(Error::unsupported(format!(
                "unknown schemaVersion {version}"
            )));
        }
        let media_type = raw.media_type(content_type)?;
        match (raw.manifests, raw.layers, raw.config) {
            (Some(manifests), None, None) if is_index(&media_type) && !raw.blobs => {
                Ok(Self::Index(Box::new(Index {
                    media_type,
                    manifests,
                    annotations: raw.annotations,
                    subject: raw.subject,
                    artifact_type: raw.artifact_type,
                })))
            }
            (None, Some(layers), Some(config)) if is_manifest(&media_type) && !raw.blobs => {
                Ok(Self::Manifest(Box::new(Manifest {
                    media_type,
                    config,
                    layers,
                    annotations: raw.annotations,
                    subject: raw.subject,
                    artifact_type: raw.artifact_type,
                })))
            }
            (Some(_), _, _) | (None, Some(_), Some(_)) => Err(Error::invalid(format!(
                "the members of the document do not fit its media type {media_type}"
            ))),
            _ => Err(Error::invalid(format!(
                "{media_type} lacks required members"
            ))),
        }
    }

    /// Its media type.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Index(index) => &index.media_type,
            Self::Manifest(manifest) => &manifest.media_type,
        }
    }
}

impl Raw {
    /// The media type that all who speak about it agree on.
    fn media_type(&self, content_type: Option<&str>) -> Result<String> {
        let said = content_type.map(|text| text.split(';').next().unwrap_or_default().trim());
        // Registries that do not know better: it says nothing.
        let said = said.filter(|text| !matches!(*text, "" | "application/json" | "text/plain"));
        let own = self.media_type.as_deref().filter(|text| !text.is_empty());
        let media_type = match (said, own) {
            (Some(said), Some(own)) if said != own => {
                return Err(Error::invalid(format!(
                    "the document calls itself {own}, and was announced as {said}"
                )));
            }
            (Some(one), _) | (None, Some(one)) => one.to_owned(),
            // OCI allows the member to be missing.
            (None, None) if self.manifests.is_some() => media::OCI_INDEX.to_owned(),
            (None, None) => media::OCI_MANIFEST.to_owned(),
        };
        if !is_index(&media_type) && !is_manifest(&media_type) {
            return Err(Error::unsupported(format!(
                "{media_type:?} is neither an image index nor an image manifest"
            )));
        }
        Ok(media_type)
    }
}

fn is_index(media_type: &str) -> bool {
    matches!(media_type, media::OCI_INDEX | media::DOCKER_LIST)
}

fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, media::OCI_MANIFEST | media::DOCKER_MANIFEST)
}

impl Index {
    /// The entry that suits a machine best. Entries without a platform count when there is nothing
    /// else; attestations (platform `unknown/unknown`) never do.
    pub fn select(&self, wanted: &Platform) -> Result<&Descriptor> {
        let images = || {
            self.manifests
                .iter()
                .filter(|entry| is_index(&entry.media_type) || is_manifest(&entry.media_type))
        };
        let fitting = images().filter_map(|entry| Some((entry, entry.platform.as_ref()?)));
        if let Some(best) = wanted.best(fitting) {
            return Ok(best);
        }
        let mut plain = images().filter(|entry| entry.platform.is_none());
        if let (Some(only), None) = (plain.next(), plain.next()) {
            return Ok(only);
        }
        let mut offered: Vec<String> = images()
            .filter_map(|entry| entry.platform.as_ref())
            .filter(|platform| platform.os != "unknown")
            .map(ToString::to_string)
            .collect();
        offered.dedup();
        let more = offered.len().saturating_sub(SHOWN_PLATFORMS);
        offered.truncate(SHOWN_PLATFORMS);
        let mut offered = offered.join(", ");
        if more > 0 {
            offered.push_str(&format!(" and {more} more"));
        }
        let offered = if offered.is_empty() {
            "no platform".into()
        } else {
            offered
        };
        Err(Error::new(
            crate::ErrorKind::NotFound,
            format!("no image for platform {wanted}: the index has {offered}"),
        ))
    }
}

const SHOWN_PLATFORMS: usize = 12;

/// How a layer's archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
}

impl Descriptor {
    /// How this layer is compressed, or why it is none.
    pub fn layer(&self) -> Result<Compression> {
        let name = self.media_type.as_str();
        if name.ends_with("+encrypted") || name.contains("+encrypted;") {
            return Err(Error::unsupported(format!(
                "layer {} is encrypted ({name}), and there are no keys here",
                self.digest
            )));
        }
        match name {
            media::OCI_LAYER
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar" => Ok(Compression::None),
            media::OCI_LAYER_GZIP
            | media::DOCKER_LAYER_GZIP
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Ok(Compression::Gzip),
            media::OCI_LAYER_ZSTD
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(Compression::Zstd),
            other => Err(Error::unsupported(format!(
                "layer {} has the unknown media type {other:?}",
                self.digest
            ))),
        }
    }

    /// Whether a registry may refuse to have it ("foreign" or "nondistributable").
    pub fn is_foreign(&self) -> bool {
        self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign.")
    }
}

impl Manifest {
    /// That this is an image all of whose layers can be read; else a word that says what it is.
    pub fn check_image(&self) -> Result<()> {
        let config = self.config.media_type.as_str();
        let kind = match &self.artifact_type {
            Some(kind) => Some(kind.as_str()),
            None if matches!(config, media::OCI_CONFIG | media::DOCKER_CONFIG) => None,
            None => Some(config),
        };
        if let Some(kind) = kind
            && !matches!(config, media::OCI_CONFIG | media::DOCKER_CONFIG)
        {
            return Err(Error::unsupported(format!(
                "an artifact of type {kind:?} and not an image: its configuration is {config:?}"
            )));
        }
        strict::check_size(usize::try_from(self.config.size).unwrap_or(usize::MAX))
            .context(|| format!("configuration {}", self.config.digest))?;
        self.layers
            .iter()
            .try_for_each(|layer| layer.layer().map(drop))
    }
}

/// Reads a digest list's item as an error that names it.
pub(crate) fn digest_list<'de, D: Deserializer<'de>>(reader: D) -> Result<Vec<Digest>, D::Error> {
    let list: Option<Vec<String>> = Option::deserialize(reader)?;
    list.unwrap_or_default()
        .iter()
        .map(|text| text.parse().map_err(D::Error::custom))
        .collect()
}

#[cfg(test)]
mod tests;
