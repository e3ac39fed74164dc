//! The container's cgroup: made, limited, joined, frozen, emptied, measured, removed; v1, hybrid
//! and v2, by writing files or through systemd.
//!
//! Owns every access below /sys/fs/cgroup. Does not own: the mounts a container sees there, its
//! cgroup namespace, Intel RDT. Kernel: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst,
//! cgroups(7); specification: config-linux.md, "Control groups".
//!
//! # Order of calls
//! [`Cgroup::resolve`] decides where; its result goes into the state record before anything is made.
//! * Files: [`Cgroup::create`], [`Cgroup::apply`] with [`Select::EARLY`], then `clone3` with
//!   [`Prepared::unified`] as `CLONE_INTO_CGROUP`, the child writes `0` to each of
//!   [`Prepared::tasks`], at last `apply` with [`Select::MEMORY`].
//! * systemd: clone the child and let it wait; [`Cgroup::start_unit`] with its pid (systemd moves it
//!   into the new scope), which returns what the child still has to join itself; then `apply`.
//!
//! At the end: [`Cgroup::kill`] where no pid namespace does it, [`Cgroup::remove`].
//!
//! # Joining costs no RCU grace period
//! A pid written to `cgroup.procs`, or by somebody else to `tasks`, takes the write side of
//! `cgroup_threadgroup_rwsem`: measured here (6.18, two CPUs, nine v1 hierarchies, idle between
//! runs, n = 15) 9.9 to 11.4 ms of waiting per container. A task that writes `0` to `tasks` moves
//! itself and takes no such lock: 85 us for all nine, 12 to 35 us each under strace. On cgroup2,
//! also the one of a hybrid host, `CLONE_INTO_CGROUP` has the same effect.
//!
//! # Where `cgroups-rs` is used and where not
//! It reads the v1 statistics ([`stats`]). On the start path it is bypassed. Same machine, nine
//! hierarchies, 25 runs each with both CPUs busy: its `CgroupBuilder` makes them in 0.45 ms, and
//! `add_task_by_tgid` takes 5.9 ms at best, 14.5 in the median; [`Cgroup::resolve`] and
//! [`Cgroup::create`], which also do cgroup2, take 0.55 ms, and a process that is cloned, joins and
//! exits 0.2 ms at best, 5.4 in the median. The crate joins through `cgroup.procs`, opens control
//! files with `O_CREAT`, reports no refused write of `cgroup.subtree_control`, and knows neither
//! hybrid hosts nor v2 devices.
//!
//! Nine v1 hierarchies and cgroup2 are 8 system calls to find them, 20 to make and open them, 12 to
//! fill the cpuset, 9 writes of the child, 10 `rmdir`.

mod apply;
mod branch;
mod convert;
mod create;
mod device_program;
mod device_rules;
mod file;
mod freeze;
mod hierarchy;
mod join;
#[cfg(test)]
mod kernel_tests;
mod mounts;
pub mod oom;
mod path;
mod remove;
mod resources;
#[cfg(test)]
mod resources_tests;
pub mod stats;
mod systemd;
mod update;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

pub use self::branch::Branch;
pub use self::hierarchy::Hierarchy;
pub(crate) use self::hierarchy::is_unified;

use self::hierarchy::ROOT;
use crate::container::CgroupDriver;
use crate::error::{Error, ErrorKind, Result};

/// What a container asks for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Container ID: the cgroup's name when no path is given.
    pub id: &'a str,
    /// `linux.cgroupsPath`.
    pub cgroups_path: Option<&'a Path>,
    /// Who makes the cgroup.
    pub driver: CgroupDriver,
    /// `linux.resources`.
    pub resources: Option<&'a LinuxResources>,
    /// `annotations`: `org.systemd.property.*` for the systemd driver.
    pub annotations: &'a HashMap<String, String>,
    /// Whether rights to cgroups are not to be expected.
    pub rootless: bool,
}

/// Where a container's cgroup is: decided before anything is made, kept in the state record.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Generation of cgroups.
    pub hierarchy: Hierarchy,
    /// Absolute directory by controller; `name=` for named v1 hierarchies, empty for cgroup2.
    pub paths: BTreeMap<String, PathBuf>,
    /// The systemd unit, with that driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// Missing rights are expected.
    #[serde(default)]
    pub rootless: bool,
    /// The configuration names the path.
    #[serde(default)]
    pub explicit: bool,
    /// What the first process needs to find when it joins; not kept.
    #[serde(skip)]
    pub(crate) start: StartNeeds,
}

/// A transient unit of systemd.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Name with its suffix: `.scope`, or `.slice`.
    pub name: String,
    /// The slice it is in.
    pub slice: String,
    /// The caller's own manager instead of the system's.
    pub user: bool,
    /// `org.systemd.property.*`: property name and value in GVariant text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
}

/// Parts of the resources that matter while the cgroup is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StartNeeds {
    cpus: Option<String>,
    mems: Option<String>,
    /// Controllers that a threaded v2 cgroup cannot have.
    domain: bool,
    /// Any limit at all.
    limits: bool,
}

/// A cgroup that exists, and the descriptors with which a new process joins it.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Open `tasks` files of v1 hierarchies: the joining process itself writes `0` to each.
    pub tasks: Vec<OwnedFd>,
    /// `O_PATH` directory on cgroup2, for `clone3(CLONE_INTO_CGROUP)`.
    pub unified: Option<OwnedFd>,
    /// Directory of `unified`, for messages and for [`Cgroup::attach_unified`].
    pub unified_path: Option<PathBuf>,
    /// Directories that could not be made or opened for lack of rights (rootless only).
    pub skipped: Vec<PathBuf>,
    /// Directories that were made, outermost first.
    made: Vec<PathBuf>,
}

/// Which parts of the resources [`Cgroup::apply`] writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Select {
    /// Limits of memory and swap.
    pub memory: bool,
    /// Rules for devices.
    pub devices: bool,
    /// Everything else.
    pub others: bool,
}

impl Select {
    /// All.
    pub const ALL: Self = Self {
        memory: true,
        devices: true,
        others: true,
    };
    /// All but the memory limits: before the first process is in.
    pub const EARLY: Self = Self {
        memory: false,
        devices: true,
        others: true,
    };
    /// The memory limits: when the container is set up, so that they count the container's memory
    /// and not the set-up.
    pub const MEMORY: Self = Self {
        memory: true,
        devices: false,
        others: false,
    };
    /// What `update` changes.
    pub const UPDATE: Self = Self {
        memory: true,
        devices: false,
        others: true,
    };
}

impl Cgroup {
    /// Decides where the cgroup is, without any effect; refuses bad paths and bad resources.
    pub fn resolve(request: &Request<'_>) -> Result<Self> {
        if request.driver == CgroupDriver::None {
            return Self::none(request);
        }
        let view = hierarchy::view()?;
        if let Some(resources) = request.resources {
            // Pure: a value that cannot be written is found before anything is made.
            apply::table(view.hierarchy, resources)?;
            device_rules::from_spec(resources)?;
        }
        let given = request
            .cgroups_path
            .filter(|path| !path.as_os_str().is_empty());
        let mut cgroup = Self {
            hierarchy: view.hierarchy,
            paths: BTreeMap::new(),
            unit: None,
            rootless: request.rootless,
            explicit: given.is_some(),
            start: StartNeeds::of(request.resources),
        };
        match request.driver {
            CgroupDriver::Files => cgroup.resolve_files(view, request.id, given)?,
            CgroupDriver::Systemd => {
                cgroup.resolve_systemd(view, request.id, given, request.annotations)?;
            }
            CgroupDriver::None => {}
        }
        let devices = cgroup.paths.contains_key("devices");
        if view.hierarchy != Hierarchy::Unified && !devices && !request.rootless {
            return Err(Error::unsupported("mountpoint for devices not found"));
        }
        Ok(cgroup)
    }

    /// A container without a cgroup; refuses what only a cgroup could give it. A path does no harm:
    /// engines always name one. Nor do rules for devices, but they have no effect.
    fn none(request: &Request<'_>) -> Result<Self> {
        if let Some(resources) = request.resources {
            let limits = [resources::v1(resources)?, resources::v2(resources)?].concat();
            if let Some(first) = limits.first() {
                return Err(Error::invalid(format!(
                    "linux.resources ({}): limits need a cgroup, and --cgroup-manager disabled makes \
                     none",
                    first.controller
                )));
            }
            if !device_rules::from_spec(resources)?.is_empty() {
                tracing::warn!(
                    "linux.resources.devices has no effect: --cgroup-manager disabled makes no cgroup"
                );
            }
        }
        Ok(Self {
            hierarchy: Hierarchy::None,
            paths: BTreeMap::new(),
            unit: None,
            rootless: request.rootless,
            explicit: false,
            start: StartNeeds::default(),
        })
    }

    /// Whether the container was made without.
    pub fn is_none(&self) -> bool {
        self.hierarchy == Hierarchy::None
    }

    /// An absolute path counts from the root of each hierarchy, another from the caller's cgroup.
    fn resolve_files(
        &mut self,
        view: &hierarchy::View,
        id: &str,
        given: Option<&Path>,
    ) -> Result<()> {
        let inner = path::clean(given.unwrap_or(Path::new(id)))?;
        for mounted in &view.mounted {
            let dir = match inner.strip_prefix("/") {
                Ok(rest) => mounted.point.join(rest),
                Err(_) => {
                    let own = mounted.own.as_deref().unwrap_or(Path::new(""));
                    // On v2 the caller's own cgroup holds the caller, so that its children could
                    // not get controllers: its parent is the place.
                    let own = match view.hierarchy {
                        Hierarchy::Unified => own.parent().unwrap_or(own),
                        Hierarchy::Legacy | Hierarchy::Hybrid | Hierarchy::None => own,
                    };
                    mounted.point.join(own).join(&inner)
                }
            };
            // A trailing slash would double the entries of `dirs`.
            let dir: PathBuf = dir.components().collect();
            for controller in &mounted.controllers {
                self.paths.insert(controller.clone(), dir.clone());
            }
        }
        Ok(())
    }

    /// Each directory once, v1 hierarchies first: co-mounted controllers share one.
    pub(crate) fn dirs(&self) -> Vec<&Path> {
        let mut dirs: Vec<&Path> = Vec::with_capacity(self.paths.len());
        // The empty name of cgroup2 sorts first; it is to be last.
        let v1 = self.paths.iter().filter(|(name, _)| !name.is_empty());
        for dir in v1.map(|(_, dir)| dir.as_path()).chain(self.unified()) {
            if !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
        dirs
    }

    /// The cgroup2 directory, on unified and hybrid hosts.
    pub fn unified(&self) -> Option<&Path> {
        self.paths.get("").map(PathBuf::as_path)
    }

    /// The directory of a controller: on v2 the one directory.
    pub fn controller(&self, name: &str) -> Option<&Path> {
        match self.hierarchy {
            Hierarchy::Unified => self.unified(),
            Hierarchy::Legacy | Hierarchy::Hybrid => self.paths.get(name).map(PathBuf::as_path),
            Hierarchy::None => None,
        }
    }

    /// The directory whose list of processes stands for the container.
    pub(crate) fn primary(&self) -> Option<&Path> {
        if self.hierarchy == Hierarchy::Unified {
            return self.unified();
        }
        ["devices", "freezer", "pids", "memory", "cpu"]
            .iter()
            .find_map(|name| self.paths.get(*name))
            .or_else(|| self.paths.values().next())
            .map(PathBuf::as_path)
    }

    /// Whether the cgroup is there.
    pub fn exists(&self) -> bool {
        self.primary()
            .is_some_and(|dir| rustix::fs::access(dir, rustix::fs::Access::EXISTS).is_ok())
    }

    /// Pids of all processes in the cgroup and its sub-cgroups, as this process sees them.
    pub fn processes(&self) -> Result<Vec<i32>> {
        match self.primary() {
            Some(dir) => join::processes_below(dir),
            None => Err(self.missing("find the processes of the container")),
        }
    }

    /// Why something cannot be done with a container that has no cgroup.
    pub(crate) fn missing(&self, what: &str) -> Error {
        match self.hierarchy {
            Hierarchy::None => Error::new(
                ErrorKind::FailedPrecondition,
                format!("cannot {what}: it was made without a cgroup (--cgroup-manager disabled)"),
            ),
            _ => Error::new(ErrorKind::NotFound, "the container has no cgroup"),
        }
    }
}

impl StartNeeds {
    fn of(resources: Option<&LinuxResources>) -> Self {
        let Some(r) = resources else {
            return Self::default();
        };
        let text = |v: &Option<String>| v.clone().filter(|v| !v.is_empty());
        Self {
            cpus: r.cpu().as_ref().and_then(|cpu| text(cpu.cpus())),
            mems: r.cpu().as_ref().and_then(|cpu| text(cpu.mems())),
            domain: resources::needs_domain(r),
            limits: resources::v2(r).is_ok_and(|writes| !writes.is_empty()),
        }
    }
}

/// The path of a cgroup2 directory below the mount, as /proc/PID/cgroup would print it.
pub(crate) fn below_root(dir: &Path) -> &Path {
    dir.strip_prefix(ROOT).unwrap_or(dir)
}
