//! What the server keeps of pods and containers on the disk, and where (docs/on-disk.md is normative).
//!
//! ```text
//! STORE/cri/lock                    held by the server
//! STORE/cri/pods/ID/                pod.json, and the bundle of its init
//! STORE/cri/containers/ID/          container.json, and the bundle, the exit record, volumes
//! ROOT/.cri/pods/ID/                pinned namespaces, /dev/shm, files: gone with the boot
//! ROOT/.cri/run/                    the runtime's root
//! STORE/cri/cni/                    attachments by CNI plugins
//! ROOT/.cri/network/                those of the embedded network
//! ```
//!
//! A directory without a record is being made or removed; one that a killed server left is taken away
//! by the next one. Records are whole for everybody at once, and on the disk a moment later: what a
//! power cut takes with it had processes that it took along too.

mod places;

use std::fmt::Debug;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
pub(crate) use places::Places;
pub use places::roots;
use prost::Message;
pub(crate) use rcrun_overlay::identifier::{is_whole as is_id, random as random_id};
use serde::{Deserialize, Serialize};

use crate::proto::v1 as cri;
use crate::{Error, ErrorKind, Result};

/// Version of the records.
const VERSION: u32 = 1;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Pod,
    Container,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Pod, Self::Container];

    fn directory(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Container => "containers",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Pod => "pod.json",
            Self::Container => "container.json",
        }
    }
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    version: u32,
    pub(crate) id: String,
    /// Nanoseconds since the epoch.
    pub(crate) created: i64,
    pub(crate) handler: String,
    /// The message, encoded, in base64: nothing of it is lost.
    config: String,
    pub(crate) state: PodStage,
    /// There may be something of it in the network.
    pub(crate) connected: bool,
    /// The addresses that it got.
    pub(crate) addresses: Vec<String>,
    /// NRI plugins were told that it is stopped: they are told once, whichever server does.
    #[serde(default)]
    pub(crate) stop_told: bool,
}

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PodStage {
    /// Nobody was told of it yet.
    Making,
    Ready,
    Stopped,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    version: u32,
    pub(crate) id: String,
    pub(crate) pod: String,
    /// Nanoseconds since the epoch.
    pub(crate) created: i64,
    config: String,
    pub(crate) image: ImageFacts,
    /// Of the store.
    pub(crate) snapshot: String,
    /// Signal that asks it to end.
    pub(crate) stop_signal: i32,
    /// Its log, if it has one.
    pub(crate) log: Option<PathBuf>,
    /// Whom it runs as.
    pub(crate) user: User,
    /// Somebody may have been told of it.
    pub(crate) made: bool,
    /// When it was started.
    pub(crate) started: Option<i64>,
    /// Why it could not be started.
    pub(crate) failure: Option<Failure>,
    /// When it was seen that it had ended, and nobody knows how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lost: Option<i64>,
    /// Images that are mounted in it.
    #[serde(default)]
    pub(crate) volumes: Vec<Volume>,
    /// NRI plugins were told that it has stopped: they are told once, whichever server does.
    #[serde(default)]
    pub(crate) stop_told: bool,
    /// It goes on from a checkpoint when it is started, and was not yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) restoring: bool,
    /// Limits that NRI plugins want beside those of the configuration: a message, encoded as that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adjusted: Option<String>,
}

/// An image, or a part of it, as one of a container's mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Volume {
    /// Which of its mounts.
    pub(crate) index: usize,
    /// Where it is mounted on the host.
    pub(crate) path: PathBuf,
    pub(crate) image: ImageFacts,
}

/// Of which image a container is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageFacts {
    /// Digest of its configuration.
    pub(crate) id: String,
    /// Digest of its manifest.
    pub(crate) manifest: String,
    /// A name of it with a digest, or its id.
    pub(crate) reference: String,
    /// The name with a tag that was asked for, or another that it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
}

/// Whom a container's program runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) uid: i64,
    pub(crate) gid: i64,
    pub(crate) groups: Vec<i64>,
}

/// An end before the beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) at: i64,
    pub(crate) code: i32,
    pub(crate) message: String,
}

fn encoded(message: &impl Message) -> String {
    STANDARD.encode(message.encode_to_vec())
}

fn decoded<M: Message + Default>(text: &str) -> Result<M> {
    let corrupt = |why: String| Error::new(ErrorKind::Corrupt, format!("its configuration: {why}"));
    let bytes = STANDARD
        .decode(text)
        .map_err(|error| corrupt(error.to_string()))?;
    M::decode(&*bytes).map_err(|error| corrupt(error.to_string()))
}

impl PodRecord {
    pub(crate) fn new(id: &str, config: &cri::PodSandboxConfig, handler: &str) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            created: now(),
            handler: handler.to_owned(),
            config: encoded(config),
            state: PodStage::Making,
            connected: false,
            addresses: Vec::new(),
            stop_told: false,
        }
    }

    pub(crate) fn config(&self) -> Result<cri::PodSandboxConfig> {
        decoded(&self.config)
    }

    /// After a change of the resources.
    pub(crate) fn set_config(&mut self, config: &cri::PodSandboxConfig) {
        self.config = encoded(config);
    }
}

impl ContainerRecord {
    pub(crate) fn new(id: &str, pod: &str, config: &cri::ContainerConfig) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            pod: pod.to_owned(),
            created: now(),
            config: encoded(config),
            image: ImageFacts::default(),
            snapshot: format!("{SNAPSHOTS}{id}"),
            stop_signal: 15,
            log: None,
            user: User::default(),
            made: false,
            started: None,
            failure: None,
            lost: None,
            volumes: Vec::new(),
            stop_told: false,
            restoring: false,
            adjusted: None,
        }
    }

    pub(crate) fn config(&self) -> Result<cri::ContainerConfig> {
        decoded(&self.config)
    }

    /// After a change of the resources.
    pub(crate) fn set_config(&mut self, config: &cri::ContainerConfig) {
        self.config = encoded(config);
    }

    /// What NRI plugins want beside the configuration.
    pub(crate) fn adjusted(&self) -> Result<cri::LinuxContainerResources> {
        self.adjusted
            .as_deref()
            .map_or(Ok(Default::default()), decoded)
    }

    pub(crate) fn set_adjusted(&mut self, limits: &cri::LinuxContainerResources) {
        self.adjusted = (*limits != Default::default()).then(|| encoded(limits));
    }
}

/// What names of our snapshots begin with: sweeps leave them to us.
pub(crate) const SNAPSHOTS: &str = "cri-";

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
