//! A container's configuration: `ContainerConfig`, the image's and facts -> the OCI document, and what else to do.
//!
//! This file puts the parts together; each has a module of its own beside it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rcrun_image::accounts::{Accounts, Identity};
use rcrun_image::document::Config;
use rcrun_runtime::template::cdi::Applied;
use rcrun_runtime::template::devices::Device;
use serde_json::{Value, json};

use super::document::May;
use super::log::{Log, log};
use super::mounts::{self, Base, Origin};
use super::pod::Namespaces;
use super::security::{self, Profile};
use super::{DeviceNode, Node, devices, document, identity, join, pod, process};
use crate::proto::v1;
use crate::{Context, Error, Result};

/// The longest name of a container: Kubernetes allows 63.
const LONGEST_NAME: usize = 512;
/// The pod that a container is for.
#[derive(Debug, Clone)]
pub struct PodFacts<'a> {
    /// Its ID.
    pub id: &'a str,
    /// As it was asked for.
    pub config: &'a v1::PodSandboxConfig,
    /// Where its namespaces are held.
    pub namespaces: Pinned,
    /// Where `hostname`, `hosts`, `resolv.conf` and, unless it has the node's IPC, `shm` are.
    pub directory: PathBuf,
}

/// Paths of a pod's own namespaces; none: the pod has the node's.
#[derive(Debug, Clone, Default)]
pub struct Pinned {
    /// Network.
    pub network: Option<PathBuf>,
    /// IPC.
    pub ipc: Option<PathBuf>,
    /// Names.
    pub uts: Option<PathBuf>,
    /// User.
    pub user: Option<PathBuf>,
    /// Processes, where all of the pod share them.
    pub pid: Option<PathBuf>,
}

/// What of the host a configuration names: to be looked up, and given back in a [`Place`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asks {
    /// Sources of bind mounts: index in `mounts`, and an absolute path, which may be a symbolic link.
    pub sources: Vec<(usize, PathBuf)>,
    /// Images to mount: index in `mounts`, the image, and a path below its root (clean, perhaps empty).
    pub images: Vec<(usize, v1::ImageSpec, PathBuf)>,
    /// Directories that the image declares as volumes and no mount covers: absolute paths in the container.
    pub volumes: Vec<String>,
    /// Devices, or directories of them, by `template::devices::nodes`.
    pub devices: Vec<Device>,
    /// All devices of the host too, by `template::devices::everything`; those named above come first.
    pub every_device: bool,
    /// Names of CDI devices, each once, by `template::cdi::Registry::apply`.
    pub cdi: Vec<String>,
    /// A seccomp profile's file.
    pub seccomp: Option<PathBuf>,
    /// The container whose pid namespace is to be joined.
    pub target: Option<String>,
}

/// What was looked up, and what was decided before.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// The container's ID.
    pub id: &'a str,
    /// The image's name for people, as `io.kubernetes.cri.image-name` has it.
    pub image_name: &'a str,
    /// Accounts of the image.
    pub accounts: &'a Accounts,
    /// By index in `mounts`.
    pub sources: BTreeMap<usize, Source>,
    /// By index in `mounts`: where the image, or what is meant of it, is mounted.
    pub images: BTreeMap<usize, PathBuf>,
    /// By path in the container: directories for the image's volumes. What is left out stays the image's.
    pub volumes: BTreeMap<String, PathBuf>,
    /// Devices, for `Asks::devices` and `Asks::every_device`.
    pub devices: Vec<DeviceNode>,
    /// For `Asks::cdi`.
    pub cdi: Applied,
    /// Text of the file of `Asks::seccomp`.
    pub seccomp: Option<&'a [u8]>,
    /// The pid namespace of `Asks::target`.
    pub target_pid: Option<PathBuf>,
}

impl<'a> Place<'a> {
    /// Nothing was looked up.
    pub fn new(id: &'a str, image_name: &'a str, accounts: &'a Accounts) -> Self {
        Self {
            id,
            image_name,
            accounts,
            sources: BTreeMap::new(),
            images: BTreeMap::new(),
            volumes: BTreeMap::new(),
            devices: Vec::new(),
            cdi: Applied::default(),
            seccomp: None,
            target_pid: None,
        }
    }
}

/// A bind mount's source, looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The path without symbolic links; if there is nothing, as it was asked for.
    pub path: PathBuf,
    /// There is something.
    pub exists: bool,
    /// How the mount that holds it propagates.
    pub propagation: Propagation,
}

/// How a mount of the host propagates (/proc/self/mountinfo, optional fields).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Neither.
    Private,
    /// `master:`, and not shared.
    Slave,
    /// `shared:`.
    Shared,
}

/// A container, ready to be made.
#[derive(Debug, Clone)]
pub struct Container {
    /// `config.json`. Its root's path is `rootfs`.
    pub spec: Value,
    /// Number of the signal that stops it.
    pub stop_signal: i32,
    /// Where its log goes, if anywhere.
    pub log: Option<Log>,
    /// A terminal.
    pub terminal: bool,
    /// Standard input stays open.
    pub stdin: bool,
    /// Until the first client that is attached goes.
    pub stdin_once: bool,
    /// Directories of the host to make (0755, with parents) before it is created.
    pub make: Vec<PathBuf>,
    /// Files of the host to label anew before it is created: path, SELinux context. Empty without SELinux.
    pub relabel: Vec<(PathBuf, String)>,
    /// Who its program is.
    pub identity: Identity,
}

/// What a container is made from, besides the request.
pub(super) struct Around<'a> {
    pub(super) pod: &'a PodFacts<'a>,
    pub(super) of_pod: v1::LinuxPodSandboxConfig,
    /// Which namespaces the pod has for itself.
    pub(super) held: Namespaces,
    pub(super) image: &'a Config,
    pub(super) place: &'a Place<'a>,
    pub(super) node: &'a Node,
}

/// A request's parts that are looked at often; what is missing is as if it were empty.
pub(super) struct Asked<'a> {
    pub(super) config: &'a v1::ContainerConfig,
    pub(super) security: v1::LinuxContainerSecurityContext,
    /// There is none: what it leaves open is not as somebody wanted it.
    pub(super) no_security: bool,
    pub(super) resources: v1::LinuxContainerResources,
    pub(super) seccomp: Profile,
    pub(super) apparmor: Option<Profile>,
    target: Option<String>,
}

impl<'a> Asked<'a> {
    fn read(config: &'a v1::ContainerConfig) -> Result<Self> {
        judge(config)?;
        let linux = config.linux.clone().unwrap_or_default();
        let given = linux.security_context;
        let no_security = given.is_none();
        let security = given.unwrap_or_default();
        #[expect(deprecated, reason = "old kubelets send it")]
        let (old_seccomp, old_apparmor) =
            (&security.seccomp_profile_path, &security.apparmor_profile);
        let privileged = security.privileged;
        // Judged in any case; privileged containers have neither.
        let seccomp = security::seccomp_profile(security.seccomp.as_ref(), old_seccomp)?;
        let apparmor = security::apparmor_profile(security.apparmor.as_ref(), old_apparmor)?;
        Ok(Self {
            config,
            no_security,
            seccomp: if privileged {
                Profile::Unconfined
            } else {
                seccomp
            },
            apparmor: if privileged {
                Some(Profile::Unconfined)
            } else {
                apparmor
            },
            target: target(security.namespace_options.as_ref())?,
            resources: linux.resources.unwrap_or_default(),
            security,
        })
    }

    pub(super) fn namespaces(&self) -> Option<&v1::NamespaceOption> {
        self.security.namespace_options.as_ref()
    }
}

/// The container whose processes this one is to see.
fn target(options: Option<&v1::NamespaceOption>) -> Result<Option<String>> {
    let Some(options) = options else {
        return Ok(None);
    };
    let target = pod::mode("pid", options.pid)? == v1::NamespaceMode::Target;
    match (target, options.target_id.as_str()) {
        (true, "") => Err(Error::invalid("namespace_options.target_id is missing")),
        (true, id) => Ok(Some(id.to_owned())),
        (false, "") => Ok(None),
        (false, _) => Err(Error::invalid(
            "namespace_options.target_id is given, but pid is not TARGET",
        )),
    }
}

/// What no part of a configuration may be.
fn judge(config: &v1::ContainerConfig) -> Result<()> {
    let name = config
        .metadata
        .as_ref()
        .map_or("", |metadata| &metadata.name);
    if name.is_empty() {
        return Err(Error::invalid("metadata.name is missing"));
    }
    if name.len() > LONGEST_NAME || name.contains(char::is_control) {
        return Err(Error::invalid(format!("metadata.name {name:?} is no name")));
    }
    if config.windows.is_some() {
        return Err(Error::invalid("windows: this node runs Linux"));
    }
    let mut notes = config.annotations.iter();
    if let Some((name, _)) = notes.find(|(name, value)| name.contains('\0') || value.contains('\0'))
    {
        return Err(Error::invalid(format!(
            "annotations: {name:?} holds a null character"
        )));
    }
    match &config.image {
        Some(image) if !image.image.is_empty() => pod::handler(&image.runtime_handler),
        _ => Err(Error::invalid("image.image is missing")),
    }
}

/// What of the host a configuration names. Refuses what no lookup could make right.
pub fn asks(config: &v1::ContainerConfig, image: &Config) -> Result<Asks> {
    let asked = Asked::read(config)?;
    let mut asks = Asks {
        devices: devices::devices(&config.devices)?,
        every_device: asked.security.privileged,
        cdi: devices::cdi_names(&config.cdi_devices, &config.annotations)?,
        seccomp: match &asked.seccomp {
            Profile::Local(path) => Some(path.into()),
            _ => None,
        },
        target: asked.target,
        ..Asks::default()
    };
    let wanted = mounts::wanted(config)?;
    for (index, origin) in wanted.iter().map(mounts::Wanted::what) {
        match origin {
            Origin::Host(path) => asks.sources.push((index, path.clone())),
            Origin::Image(image, below) => {
                asks.images.push((index, (*image).clone(), below.clone()));
            }
        }
    }
    asks.volumes = mounts::volumes(image, &wanted);
    Ok(asks)
}

/// The container.
pub fn container(
    pod: &PodFacts<'_>,
    config: &v1::ContainerConfig,
    image: &Config,
    place: &Place<'_>,
    node: &Node,
) -> Result<Container> {
    let asked = Asked::read(config)?;
    let around = Around {
        of_pod: pod.config.linux.clone().unwrap_or_default(),
        held: pod::namespaces(pod.config)?,
        pod,
        image,
        place,
        node,
    };
    let of_pod = around.of_pod.security_context.as_ref();
    if asked.security.privileged && !of_pod.is_some_and(|security| security.privileged) {
        return Err(Error::invalid(
            "privileged: the pod was made without allowing privileged containers",
        ));
    }
    let held = &around.held;
    let namespaces = join::namespaces(&asked, &around)?;
    let sets = security::capabilities(
        asked.security.capabilities.as_ref(),
        asked.security.privileged,
        &node.capabilities,
    )?;
    let identity = identity::identity(&asked.security, held.user, &image.user, place)
        .context(|| "security_context")?;
    let labels = document::labels(&asked, &around)?;
    let base = Base {
        privileged: asked.security.privileged,
        ipc: held.ipc,
        network: held.network,
        map: held.user,
        read_only: asked.security.readonly_rootfs,
        directory: &pod.directory,
    };
    let mounts = mounts::all(&base, &mounts::wanted(config)?, place, node)?;
    let may = May {
        sets,
        identity: &identity,
        labels: labels.as_ref(),
    };
    let mut linux = document::linux(&asked, &may, &mounts, &around)?;
    linux["namespaces"] = Value::Array(namespaces);
    let mut spec = json!({
        "ociVersion": rcrun_runtime::spec::VERSION,
        "process": document::process(&asked, &may, &around)?,
        "root": {"path": "rootfs", "readonly": asked.security.readonly_rootfs},
        "mounts": mounts.list,
        "annotations": document::annotations(config, &around),
        "linux": linux,
    });
    if !place.cdi.hooks.is_empty() {
        spec["hooks"] = json!(place.cdi.hooks);
    }
    let context = labels.map(|labels| labels.mount);
    let relabel = |path| Some((path, context.clone()?));
    Ok(Container {
        spec,
        stop_signal: process::stop_signal(config, image)?,
        log: log(&pod.config.log_directory, &config.log_path)?,
        terminal: config.tty,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        make: mounts.make,
        relabel: mounts.relabel.into_iter().filter_map(relabel).collect(),
        identity,
    })
}

#[cfg(test)]
mod tests;
