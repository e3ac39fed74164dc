//! A container's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rcrun_image::accounts::{Accounts, Identity};
use rcrun_image::document::Config;
use rcrun_runtime::template::cdi::Applied;
use rcrun_runtime::template::devices::Device;
use serde_json::Value;

use super::{DeviceNode, Node};
use crate::proto::v1;
use crate::{Error, Result};

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

/// A log's place. The file is opened below the directory, following no link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The pod's: absolute.
    pub directory: PathBuf,
    /// Below it, without `..`.
    pub path: PathBuf,
}

impl Log {
    /// The whole path, for status.
    pub fn full(&self) -> PathBuf {
        self.directory.join(&self.path)
    }
}

/// What of the host a configuration names. Refuses what no lookup could make right.
pub fn asks(config: &v1::ContainerConfig, image: &Config) -> Result<Asks> {
    let _ = (config, image);
    Err(Error::unsupported("containers are not decided yet"))
}

/// The container.
pub fn container(
    pod: &PodFacts<'_>,
    config: &v1::ContainerConfig,
    image: &Config,
    place: &Place<'_>,
    node: &Node,
) -> Result<Container> {
    let _ = (pod, config, image, place, node);
    Err(Error::unsupported("containers are not decided yet"))
}
