//! What a `RUN` step is, for whoever runs it: a process of its own that mounts the layers, enters a
//! container and ends with it. The builder has threads, and a container is made by a process with one
//! only, so this is a document ([`RunStep`]) and a trait ([`Runner`]).

use std::path::PathBuf;

use rcrun_image::registry::Cancel;
use rcrun_overlay::layer::Overlay;
use rcrun_overlay::lease::LayerId;
use serde::{Deserialize, Serialize};

use crate::Result;

/// Everything about a step. It may contain secrets: it goes through a pipe, never to a disk.
#[derive(Clone, Serialize, Deserialize)]
pub struct RunStep {
    /// The store.
    pub store: PathBuf,
    /// The layer that receives changes, which is begun.
    pub layer: LayerId,
    /// The layers below, lowest first.
    pub below: Vec<LayerId>,
    /// Which attributes they use: of a user.
    pub user_marks: bool,
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// Where it begins.
    pub directory: String,
    /// As `USER` has it.
    pub user: String,
    /// In order.
    pub mounts: Vec<StepMount>,
    /// The host's network, instead of none.
    pub network: bool,
    /// Without confinement.
    pub insecure: bool,
    /// By CDI.
    pub devices: Vec<String>,
    /// What holds for all steps of a build.
    pub limits: Limits,
    /// With a terminal: for a person.
    pub terminal: bool,
}

impl std::fmt::Debug for RunStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunStep")
            .field("layer", &self.layer)
            .field("args", &self.args)
            .finish_non_exhaustive()
    }
}

impl RunStep {
    /// Which attributes tell overlayfs something.
    pub fn marks(&self) -> Overlay {
        match self.user_marks {
            true => Overlay::User,
            false => Overlay::Trusted,
        }
    }
}

/// What holds for all steps of a build, as `run` takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `--add-host`
    pub hosts: Vec<String>,
    /// `--shm-size`
    pub shm_size: Option<String>,
    /// `--ulimit`
    pub ulimits: Vec<String>,
    /// `--memory`
    pub memory: Option<String>,
    /// `--memory-swap`
    pub memory_swap: Option<String>,
    /// `--cpus`
    pub cpus: Option<String>,
    /// `--cpu-shares`
    pub cpu_shares: Option<u64>,
    /// `--cpu-period`
    pub cpu_period: Option<u64>,
    /// `--cpu-quota`
    pub cpu_quota: Option<i64>,
    /// `--cpuset-cpus`
    pub cpuset_cpus: Option<String>,
    /// `--cpuset-mems`
    pub cpuset_mems: Option<String>,
    /// `--cgroup-parent`
    pub cgroup_parent: Option<String>,
    /// The name of the machine in it.
    pub hostname: String,
    /// `--dns`
    pub dns: Vec<String>,
    /// `--cap-add`
    pub cap_add: Vec<String>,
    /// `--cap-drop`
    pub cap_drop: Vec<String>,
    /// `--security-opt`
    pub security_opt: Vec<String>,
}

/// Something that is mounted. Targets are absolute.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum StepMount {
    /// Layers, or a part of what they are together.
    Layers {
        /// Lowest first.
        layers: Vec<LayerId>,
        /// Within them.
        source: String,
        /// Where it appears.
        target: String,
        /// Writes are refused, instead of thrown away.
        read_only: bool,
    },
    /// A directory of the store, relative to its root.
    Directory {
        /// Which.
        path: String,
        /// Within it.
        source: String,
        /// Where it appears.
        target: String,
        /// Writes are refused.
        read_only: bool,
    },
    /// Memory.
    Tmpfs {
        /// Where it appears.
        target: String,
        /// Bytes; zero: as the kernel has it.
        size: u64,
        /// Writes are refused.
        read_only: bool,
    },
    /// A file that exists in memory only.
    File {
        /// Where it appears.
        target: String,
        /// What it contains.
        contents: Vec<u8>,
        /// Mode, user and group.
        attributes: (u32, u32, u32),
    },
    /// A socket of the host.
    Socket {
        /// Where it appears.
        target: String,
        /// Where it is.
        path: PathBuf,
        /// Mode, user and group.
        attributes: (u32, u32, u32),
    },
}

impl std::fmt::Debug for StepMount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "mount at {}", self.target())
    }
}

impl StepMount {
    /// Where it appears.
    pub fn target(&self) -> &str {
        match self {
            Self::Layers { target, .. }
            | Self::Directory { target, .. }
            | Self::Tmpfs { target, .. }
            | Self::File { target, .. }
            | Self::Socket { target, .. } => target,
        }
    }
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; 128 and the signal's number of one that was killed.
    pub code: i32,
    /// Something in it was killed for lack of memory.
    pub out_of_memory: bool,
}

/// Runs steps.
pub trait Runner: Sync {
    /// Runs one to its end. `output` gets what it writes: to standard error, and the bytes. It is killed
    /// when `cancel` says so.
    fn run(
        &self,
        step: &RunStep,
        output: &mut dyn FnMut(bool, &[u8]),
        cancel: &Cancel,
    ) -> Result<Ended>;

    /// Runs one for a person, at the terminal of this process. Nobody asks how it ended.
    fn debug(&self, step: &RunStep) -> Result<()>;
}
