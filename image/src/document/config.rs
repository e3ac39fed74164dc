//! An image's configuration, as far as something here needs it (config.md).
//!
//! Everything in it is data of a stranger. Labels are shown and stored, and decide nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use super::strict;
use crate::platform::Platform;
use crate::{Digest, Error, Result};

/// The whole configuration.
#[derive(Debug, Clone, Deserialize)]
pub struct ImageConfig {
    /// The architecture.
    #[serde(default)]
    pub architecture: String,
    /// The operating system.
    #[serde(default)]
    pub os: String,
    /// The variant of the architecture.
    #[serde(default)]
    pub variant: String,
    /// When it was made, RFC 3339.
    pub created: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// What a container of it is to be.
    #[serde(default, deserialize_with = "super::or_default")]
    pub config: Config,
    /// What its layers unpack to.
    pub rootfs: RootFs,
    /// How it was made.
    #[serde(default, deserialize_with = "super::or_default")]
    pub history: Vec<History>,
}

/// The layers' identities when unpacked.
#[derive(Debug, Clone, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// One per layer, lowest first.
    #[serde(deserialize_with = "super::digest_list")]
    pub diff_ids: Vec<Digest>,
}

/// One step of how it was made.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct History {
    /// When.
    pub created: Option<String>,
    /// By which instruction.
    pub created_by: Option<String>,
    /// By whom.
    pub author: Option<String>,
    /// A remark.
    pub comment: Option<String>,
    /// Whether the step made no layer.
    pub empty_layer: bool,
}

/// What a container of this image is to be.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Config {
    /// The user, and the group after a colon.
    #[serde(deserialize_with = "super::or_default")]
    pub user: String,
    /// Ports that it listens on, such as `80/tcp`.
    #[serde(deserialize_with = "keys")]
    pub exposed_ports: Vec<String>,
    /// The environment, `NAME=VALUE`.
    #[serde(deserialize_with = "super::or_default")]
    pub env: Vec<String>,
    /// What always runs.
    #[serde(deserialize_with = "super::or_default")]
    pub entrypoint: Vec<String>,
    /// Its arguments, unless others are given.
    #[serde(deserialize_with = "super::or_default")]
    pub cmd: Vec<String>,
    /// Directories that get a volume.
    #[serde(deserialize_with = "keys")]
    pub volumes: Vec<String>,
    /// Where it starts.
    #[serde(deserialize_with = "super::or_default")]
    pub working_dir: String,
    /// A user's own facts.
    #[serde(deserialize_with = "super::or_default")]
    pub labels: BTreeMap<String, String>,
    /// The signal that stops it.
    pub stop_signal: Option<String>,
    /// Seconds until it is killed instead.
    pub stop_timeout: Option<u64>,
    /// How to see whether it is well (Docker's).
    pub healthcheck: Option<Healthcheck>,
    /// The shell of a build's shell forms (Docker's).
    #[serde(deserialize_with = "super::or_default")]
    pub shell: Vec<String>,
    /// Instructions for builds on top of it (Docker's).
    #[serde(deserialize_with = "super::or_default")]
    pub on_build: Vec<String>,
    /// Whether `cmd` is already escaped (Docker's, Windows only).
    pub args_escaped: bool,
}

/// How to see whether a container is well. Times are in nanoseconds, as Docker writes them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `NONE`, `CMD` or `CMD-SHELL`, and what to run.
    #[serde(deserialize_with = "super::or_default")]
    pub test: Vec<String>,
    /// Between two runs.
    pub interval: u64,
    /// How long one may take.
    pub timeout: u64,
    /// How long failures at the start do not count.
    pub start_period: u64,
    /// Between two runs in that time.
    pub start_interval: u64,
    /// How many failures mean unwell.
    pub retries: u64,
}

/// Go's set: an object whose values say nothing.
fn keys<'de, D: Deserializer<'de>>(reader: D) -> Result<Vec<String>, D::Error> {
    let set: Option<BTreeMap<String, serde::de::IgnoredAny>> = Option::deserialize(reader)?;
    Ok(set.unwrap_or_default().into_keys().collect())
}

const KNOWN: [&str; 38] = [
    "architecture",
    "os",
    "variant",
    "created",
    "author",
    "config",
    "rootfs",
    "history",
    "type",
    "diff_ids",
    "created_by",
    "comment",
    "empty_layer",
    "os.version",
    "os.features",
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "StopTimeout",
    "Healthcheck",
    "Shell",
    "OnBuild",
    "ArgsEscaped",
    "Test",
    "Interval",
    "Timeout",
    "StartPeriod",
    "StartInterval",
    "Retries",
    "container_config",
    "docker_version",
    "container",
];

impl ImageConfig {
    /// Reads a configuration.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        strict::check(bytes, &KNOWN)?;
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::invalid(format!("not an image configuration: {e}")))?;
        if config.rootfs.kind != "layers" {
            let kind = &config.rootfs.kind;
            return Err(Error::unsupported(format!("unknown rootfs type {kind:?}")));
        }
        Ok(config)
    }

    /// What it is made for.
    pub fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, &self.variant)
    }

    /// That it belongs to a manifest with this many layers.
    pub fn check_layers(&self, layers: usize) -> Result<()> {
        let ids = self.rootfs.diff_ids.len();
        if ids != layers {
            return Err(Error::invalid(format!(
                "the manifest has {layers} layers, and its configuration {ids}"
            )));
        }
        Ok(())
    }
}
