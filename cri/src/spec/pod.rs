//! A pod's plan: `PodSandboxConfig` -> what is to be made before containers come. There is no pause process, so
//! what is asked for one (its user, its profiles) is judged and means nothing.

use std::net::IpAddr;
use std::path::PathBuf;

use rcrun_network::Port;
use rcrun_network::request::Bandwidth;
use rcrun_runtime::template::files::is_host;

use super::{
    CgroupParent, IdMap, Node, files, identity, log, resources, security, sysctls, traffic,
};
use crate::proto::v1;
use crate::{Context, Error, Result};

/// Bytes of a pod's /dev/shm, as in docker and containerd.
const SHM: u64 = 64 << 20;
/// The longest name, namespace or UID of a pod: Kubernetes allows 253.
const LONGEST_NAME: usize = 512;

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
    /// Limits of its traffic; none with the node's network.
    pub bandwidth: Bandwidth,
    /// Privileged containers are allowed in it.
    pub privileged: bool,
    /// The SELinux label of processes, if the node has SELinux and the pod asks for one.
    pub selinux: Option<String>,
    /// Where logs go: absolute, without `..`.
    pub log_directory: Option<PathBuf>,
    /// Text of /etc/resolv.conf; none: the host's.
    resolver: Option<String>,
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
    /// Below /proc/sys: `net/ipv4/ip_forward`. No part is `..`, so it stays there.
    pub path: String,
    /// One line.
    pub value: String,
    /// Whose it is.
    pub kind: Kind,
}

impl PodPlan {
    /// The pod's /etc/resolv.conf; the host's is given.
    pub fn resolv_conf(&self, of_host: &str) -> String {
        self.resolver.clone().unwrap_or_else(|| of_host.to_owned())
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
    metadata(config.metadata.as_ref())?;
    if config.windows.is_some() {
        return Err(Error::invalid("windows: this node runs Linux"));
    }
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.clone().unwrap_or_default();
    let namespaces = namespaces(config)?;
    judge_process(&security)?;
    // The kubelet sets these itself, on the pod's cgroup.
    for (what, limits) in [
        ("resources", &linux.resources),
        ("overhead", &linux.overhead),
    ] {
        let limits = limits.clone().unwrap_or_default();
        resources::resources(&limits, node).context(|| format!("linux.{what}"))?;
    }
    let dns = config.dns_config.clone().unwrap_or_default();
    let ports = traffic::ports(&config.port_mappings)?;
    let bandwidth = traffic::bandwidth(&config.annotations)?;
    Ok(PodPlan {
        hostname: hostname(config, node)?,
        sysctls: sysctls::sysctls(&linux.sysctls, &namespaces, node)?,
        cgroup: CgroupParent::new(&linux.cgroup_parent, node.driver)?,
        shm: namespaces.ipc.then_some(SHM),
        // Ports of the node are the pod's without being mapped.
        ports: if namespaces.network {
            ports
        } else {
            Vec::new()
        },
        bandwidth: match namespaces.network {
            true => bandwidth,
            false => Bandwidth::default(),
        },
        privileged: security.privileged,
        selinux: security::selinux(security.selinux_options.as_ref(), node)?
            .map(|labels| labels.process),
        log_directory: log::log_directory(&config.log_directory)?,
        resolver: files::resolv_conf(&dns).context(|| "dns_config")?,
        namespaces,
    })
}

fn metadata(metadata: Option<&v1::PodSandboxMetadata>) -> Result<()> {
    let Some(metadata) = metadata else {
        return Err(Error::invalid("metadata is missing"));
    };
    if metadata.name.is_empty() {
        return Err(Error::invalid("metadata.name is missing"));
    }
    for (what, text) in [
        ("name", &metadata.name),
        ("namespace", &metadata.namespace),
        ("uid", &metadata.uid),
    ] {
        if text.len() > LONGEST_NAME || text.contains(char::is_control) {
            return Err(Error::invalid(format!(
                "metadata.{what} {text:?} is no name"
            )));
        }
    }
    Ok(())
}

/// The pod's name for itself: the host's, if it has none of its own.
pub(crate) fn hostname(config: &v1::PodSandboxConfig, node: &Node) -> Result<String> {
    match config.hostname.as_str() {
        "" => Ok(node.hostname.clone()),
        name if is_host(name) => Ok(name.to_owned()),
        name => Err(Error::invalid(format!(
            "hostname {name:?}: use 1 to 64 letters, digits and -_."
        ))),
    }
}

/// What is asked of a pause process.
fn judge_process(security: &v1::LinuxSandboxSecurityContext) -> Result<()> {
    let (user, group) = identity::numbers(
        security.run_as_user.as_ref(),
        security.run_as_group.as_ref(),
    )?;
    if user.is_none() && group.is_some() {
        return Err(Error::invalid("run_as_group is given without run_as_user"));
    }
    identity::groups(&security.supplemental_groups)?;
    identity::merges(security.supplemental_groups_policy)?;
    #[expect(deprecated, reason = "old kubelets send it")]
    security::seccomp_profile(security.seccomp.as_ref(), &security.seccomp_profile_path)?;
    security::apparmor_profile(security.apparmor.as_ref(), "")?;
    Ok(())
}

/// Which namespaces the pod has for itself.
pub(super) fn namespaces(config: &v1::PodSandboxConfig) -> Result<Namespaces> {
    let linux = config.linux.as_ref();
    let security = linux.and_then(|linux| linux.security_context.as_ref());
    let default = v1::NamespaceOption::default();
    let options = security.and_then(|security| security.namespace_options.as_ref());
    let options = options.unwrap_or(&default);
    let own = |what: &str, value: i32| match mode(what, value)? {
        v1::NamespaceMode::Pod => Ok(true),
        v1::NamespaceMode::Node => Ok(false),
        other => Err(not_for(what, other)),
    };
    let pid = match mode("pid", options.pid)? {
        v1::NamespaceMode::Pod => Pid::Pod,
        v1::NamespaceMode::Container => Pid::Container,
        v1::NamespaceMode::Node => Pid::Node,
        other => return Err(not_for("pid", other)),
    };
    let network = own("network", options.network)?;
    let namespaces = Namespaces {
        network,
        ipc: own("ipc", options.ipc)?,
        // The node's network comes with its name.
        uts: network,
        pid,
        user: user(options.userns_options.as_ref())?,
    };
    // Root of a user namespace has no rights over these, and Kubernetes refuses them too.
    if namespaces.user.is_some() && (!namespaces.ipc || namespaces.pid == Pid::Node) {
        return Err(Error::invalid(
            "userns_options: a pod with a user namespace cannot have the node's IPC or pid namespace",
        ));
    }
    Ok(namespaces)
}

pub(super) fn mode(what: &str, value: i32) -> Result<v1::NamespaceMode> {
    v1::NamespaceMode::try_from(value).map_err(|_| {
        Error::invalid(format!(
            "namespace_options.{what}: mode {value} is not known"
        ))
    })
}

pub(super) fn not_for(what: &str, mode: v1::NamespaceMode) -> Error {
    Error::invalid(format!(
        "namespace_options.{what}: {} cannot be asked for here",
        mode.as_str_name()
    ))
}

/// Ids of the user namespace: one range, the same for users and groups, as kubelets give them.
pub(super) fn user(options: Option<&v1::UserNamespace>) -> Result<Option<IdMap>> {
    let Some(options) = options else {
        return Ok(None);
    };
    let refused = |why: &str| Error::invalid(format!("userns_options: {why}"));
    match mode("userns_options", options.mode)? {
        v1::NamespaceMode::Node if options.uids.is_empty() && options.gids.is_empty() => Ok(None),
        v1::NamespaceMode::Node => Err(refused("ids are mapped, but the node's are asked for")),
        v1::NamespaceMode::Pod => {
            let (uids, gids) = (range(&options.uids)?, range(&options.gids)?);
            match uids == gids {
                true => Ok(Some(uids)),
                false => Err(refused("users and groups have different ranges")),
            }
        }
        other => Err(not_for("userns_options", other)),
    }
}

fn range(mappings: &[v1::IdMapping]) -> Result<IdMap> {
    let refused = |why: &str| Error::invalid(format!("userns_options: {why}"));
    let [one] = mappings else {
        return Err(refused(&format!(
            "one range of ids is needed, there are {}",
            mappings.len()
        )));
    };
    let end = u64::from(one.host_id) + u64::from(one.length);
    if one.container_id != 0 {
        return Err(refused("the pod's ids have to begin with 0"));
    }
    if one.length == 0 || end > u64::from(u32::MAX) {
        return Err(refused(&format!(
            "{} ids from {} are no range",
            one.length, one.host_id
        )));
    }
    Ok(IdMap {
        host: one.host_id,
        size: one.length,
    })
}

#[cfg(test)]
mod tests;
