//! What a kubelet asks for -> what is to be done: a pod's plan, a container's OCI configuration. Pure.
//!
//! - [`pod::pod`]: `PodSandboxConfig` and the node's facts -> [`PodPlan`]: namespaces, sysctls, cgroup, files,
//!   ports.
//! - [`container::asks`]: what of the host a `ContainerConfig` names, for the caller to look up.
//! - [`container::container`]: the configuration, the image's, the pod and what was looked up -> the document
//!   that the runtime takes, and what else to do.
//! - [`resources`]: limits, also those of an update; [`status`]: what of all this is reported.
//!
//! Nothing here opens, resolves or asks for anything: facts come as arguments. Each field of the interface
//! is honoured or refused by an error that names it; fields for Windows are refused. What an image, an annotation
//! or a label says is data and never decides over the host.
//!
//! Sources: `cri/proto/api.proto` with its comments; where those are silent, what containerd 2.3 does, since that is
//! what kubelets are tested with. Otherwise than containerd: capabilities that are asked for as ambient are;
//! /etc/hosts is no copy of the host's; where a request has no security context at all, /proc is masked; a limit of huge pages that nobody can
//! keep is an error; a container has its pod's namespaces or is refused, but for processes.

mod cgroup;
pub mod container;
mod devices;
mod document;
mod files;
mod identity;
mod join;
mod log;
mod mounts;
pub mod pod;
mod process;
#[cfg(test)]
mod recorded;
pub mod resources;
mod security;
pub mod status;
mod sysctls;
mod traffic;

use std::collections::BTreeSet;

pub use cgroup::CgroupParent;
pub use container::{Asks, Container, Place, PodFacts, asks, container};
pub use log::Log;
pub use pod::{PodPlan, pod};

/// What is true of the node, for all pods.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Its name.
    pub hostname: String,
    /// Release of the kernel.
    pub kernel: (u32, u32),
    /// Capabilities that the server can hand on (`template::capabilities::of_mask`).
    pub capabilities: BTreeSet<&'static str>,
    /// All controllers are in cgroup2.
    pub cgroup2: bool,
    /// Who makes cgroups.
    pub driver: Driver,
    /// The kernel limits swap.
    pub swap: bool,
    /// Sizes of huge pages that a controller limits, as `2MB`; empty: there is no such controller.
    pub huge_pages: Vec<String>,
    /// Mounts can be made read-only with all that is below them (mount_setattr(2)).
    pub deep_read_only: bool,
    /// Mounts can map ids.
    pub mapped_mounts: bool,
    /// The kernel filters system calls.
    pub seccomp: bool,
    /// AppArmor is on; the profile that containers get unless told otherwise, if there is one.
    pub apparmor: Option<Option<String>>,
    /// SELinux is on.
    pub selinux: bool,
    /// The lowest OOM score that can be given: the server's own, where it may not go below; none: any.
    pub least_oom_score: Option<i32>,
    /// Limits of containers' processes, as `process.rlimits` has them.
    pub rlimits: Vec<serde_json::Value>,
    /// Pods may use all ports without a capability.
    pub unprivileged_ports: bool,
    /// Pods may ping without a capability.
    pub unprivileged_icmp: bool,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Driver {
    /// We do, by files.
    #[default]
    Cgroupfs,
    /// systemd.
    Systemd,
}

/// Ids of a user namespace: those of a pod begin with 0; users and groups alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdMap {
    /// What 0 is on the host.
    pub host: u32,
    /// How many.
    pub size: u32,
}

impl IdMap {
    /// Whether the pod has this id.
    pub fn has(&self, id: u32) -> bool {
        id < self.size
    }

    /// The host's number for an id of the pod.
    pub fn outside(&self, id: u32) -> Option<u32> {
        self.has(id).then(|| self.host + id)
    }
}

/// A device node for a container.
pub type DeviceNode = rcrun_runtime::template::devices::Node;
