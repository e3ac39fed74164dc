//! `state.json`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;

/// Version of the record's format.
pub(crate) const VERSION: u32 = 1;

/// What is known about a container. Unknown fields of newer versions are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// Container ID.
    pub id: String,
    /// `ociVersion` of the configuration.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    /// The init, as the host's pid namespace numbers it; 0 until it was cloned.
    pub pid: i32,
    /// When the init was started, in clock ticks since boot: tells it from a later process that got
    /// the same pid.
    pub start_time: u64,
    /// Absolute bundle path.
    pub bundle: PathBuf,
    /// Absolute root file system path.
    pub rootfs: PathBuf,
    /// RFC 3339, UTC, nanoseconds.
    pub created: String,
    /// Annotations of the configuration.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Where its cgroup is.
    pub cgroup: Cgroup,
    /// Intel RDT group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<crate::rdt::Group>,
    /// `CLONE_NEW*` of all namespaces that `exec` enters.
    pub namespaces: u64,
    /// There are poststop hooks.
    pub poststop: bool,
    /// `--no-new-keyring` was given.
    #[serde(default)]
    pub no_new_keyring: bool,
    /// Names of the standard streams that the container was given, for `checkpoint`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub descriptors: Vec<String>,
    /// User id that made the container.
    #[serde(default)]
    pub owner: u32,
    /// Fields of newer versions.
    #[serde(flatten)]
    pub unknown: serde_json::Map<String, serde_json::Value>,
}
