//! A pod's plan.

use std::net::IpAddr;
use std::path::PathBuf;

use rcrun_network::Port;
use rcrun_network::request::Bandwidth;

use super::{IdMap, Node, files};
use crate::proto::v1;
use crate::{Error, Result};

/// What is to be made for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlan {
    /// Namespaces.
    pub namespaces: Namespaces,
    /// The pod's name for itself: of /etc/hostname, `HOSTNAME`, and of its uts namespace if it has one.
    pub hostname: String,
    /// In order of their paths; no path twice.
    pub sysctls: Vec<Sysctl>,
    /// Below which cgroup containers are.
    pub cgroup: CgroupParent,
    /// Bytes of the tmpfs that becomes /dev/shm (mode 1777); none: the host's.
    pub shm: Option<u64>,
    /// Ports of the host that lead into the pod; none with the node's network.
    pub ports: Vec<Port>,
    /// Limits of its traffic.
    pub bandwidth: Bandwidth,
    /// Privileged containers are allowed in it.
    pub privileged: bool,
    /// The SELinux label of processes, if the node has SELinux and the pod asks for one.
    pub selinux: Option<String>,
    /// Where logs go: absolute, without `..`.
    pub log_directory: Option<PathBuf>,
    dns: Dns,
}

/// Which namespaces a pod has for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// Else the node's.
    pub network: bool,
    /// Else the node's.
    pub ipc: bool,
    /// Else the node's.
    pub uts: bool,
    /// Processes.
    pub pid: Pid,
    /// Ids of the user namespace, if it has one; it owns the others.
    pub user: Option<IdMap>,
}

/// Who sees which processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pid {
    /// All of the pod see one another: it needs an init.
    Pod,
    /// Each container sees its own.
    Container,
    /// All of the node.
    Node,
}

/// Which namespace a sysctl belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Network.
    Network,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Names.
    Uts,
}

/// A sysctl to write once the namespaces exist, by a process in `kind` and in the node's user namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Below /proc/sys: `net/ipv4/ip_forward`.
    pub path: String,
    /// One line.
    pub value: String,
    /// Whose it is.
    pub kind: Kind,
}

/// The cgroup of a pod, made by the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupParent {
    /// An absolute path in each hierarchy.
    Path(String),
    /// A slice's name.
    Slice(String),
}

/// What the pod asked of the resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Dns(Option<String>);

impl CgroupParent {
    /// `linux.cgroupsPath` of a container: for systemd `SLICE:rcrun:ID`.
    pub fn container(&self, id: &str) -> String {
        match self {
            Self::Path(path) => format!("{}/{id}", path.trim_end_matches('/')),
            Self::Slice(slice) => format!("{slice}:rcrun:{id}"),
        }
    }

    /// Where that is in each hierarchy.
    pub fn directory(&self, id: &str) -> String {
        match self {
            Self::Path(_) => self.container(id),
            Self::Slice(slice) => format!("{}/rcrun-{id}.scope", expanded(slice)),
        }
    }
}

/// `a-b.slice` is the directory `/a.slice/a-b.slice` (systemd.slice(5)).
fn expanded(slice: &str) -> String {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let ends = name.match_indices('-').map(|(at, _)| at);
    let mut path = String::new();
    for end in ends.chain([name.len()]) {
        path.push_str(&format!("/{}.slice", &name[..end]));
    }
    path
}

impl PodPlan {
    /// The pod's /etc/resolv.conf; the host's is given.
    pub fn resolv_conf(&self, of_host: &str) -> String {
        self.dns.0.clone().unwrap_or_else(|| of_host.to_owned())
    }

    /// The pod's /etc/hosts; the host's is given, and the addresses that the pod got.
    pub fn hosts(&self, of_host: &str, addresses: &[IpAddr]) -> String {
        match self.namespaces.network {
            false => of_host.to_owned(),
            true => files::hosts(&self.hostname, addresses),
        }
    }
}

/// Whether a request may name this runtime handler.
pub fn handler(name: &str) -> Result<()> {
    match name {
        "" | "rcrun" => Ok(()),
        _ => Err(Error::invalid(format!(
            "no runtime handler {name:?}: there is rcrun, which also is the default"
        ))),
    }
}

/// What is to be made for a pod.
pub fn pod(config: &v1::PodSandboxConfig, node: &Node) -> Result<PodPlan> {
    let _ = (config, node);
    Err(Error::unsupported("pods are not decided yet"))
}
