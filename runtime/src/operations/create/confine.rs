//! What confines a container from outside, and what it gets from there: its cgroup, its Intel RDT
//! group, network devices.

use std::os::fd::AsFd as _;

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources};
use rustix::fs::{Mode, OFlags};

use super::Launch;
use crate::cgroup::{Prepared, Select};
use crate::error::{Context, Result};
use crate::plan::MountKind;
use crate::rootfs::cgroup as cgroup_mounts;

impl Launch<'_> {
    pub(super) fn make_cgroup(&mut self) -> Result<Prepared> {
        // A cgroup that was there before, and the processes in it, are not ours to undo.
        let prepared = self.record.cgroup.create()?;
        self.cgroup_made = true;
        let pid_namespace = self.plan.namespaces.is_new(LinuxNamespaceType::Pid);
        let without = self.record.cgroup.is_none() || !prepared.skipped.is_empty();
        if !pid_namespace && without && !self.record.cgroup.exists() {
            tracing::warn!(
                "the container has neither a cgroup nor a pid namespace of its own: nothing tells \
                 which processes to kill with it. Such configuration is strongly discouraged"
            );
        }
        self.apply(Select::EARLY)?;
        Ok(prepared)
    }

    /// systemd moves the waiting init into the unit's cgroup; hierarchies that are not systemd's are
    /// left to us.
    pub(super) fn start_unit(&mut self, pid: i32) -> Result<()> {
        let resources = self.resources();
        let left = self.record.cgroup.start_unit(pid, resources.as_ref())?;
        self.cgroup_made = true;
        if !left.tasks.is_empty() {
            self.record.cgroup.attach(pid)?;
        }
        self.apply(Select::EARLY)
    }

    /// Network devices and Intel RDT: what needs the pid of an init that waits or works.
    pub(super) fn equip(&mut self, pid: i32) -> Result<()> {
        let Some(linux) = self.spec.linux().clone() else {
            return Ok(());
        };
        if let Some(rdt) = linux.intel_rdt() {
            let resctrl = crate::rdt::Resctrl::find()?;
            resctrl.check(rdt)?;
            self.record.rdt = Some(resctrl.join(rdt, &self.record.id, pid.unsigned_abs())?);
            self.directory.write_record(&self.record)?;
        }
        let mut devices: Vec<(String, String)> = linux
            .net_devices()
            .iter()
            .flatten()
            .map(|(host, device)| (host.clone(), device.name().clone().unwrap_or_default()))
            .collect();
        if devices.is_empty() {
            return Ok(());
        }
        devices.sort();
        let joined = self
            .plan
            .namespaces
            .joins
            .iter()
            .find(|join| join.name == "network");
        let path = match joined {
            Some(join) => join.path.to_string_lossy().into_owned(),
            None => format!("/proc/{pid}/ns/net"),
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = rustix::fs::open(&path, flags, Mode::empty())
            .context(|| format!("cannot open {path}"))?;
        crate::netdev::move_devices(&devices, namespace.as_fd())
    }

    /// The container's own user, where the container may manage its cgroup: config-linux.md, "Cgroup
    /// ownership".
    pub(super) fn cgroup_owner(&self) -> Option<u32> {
        let namespaces = &self.plan.namespaces;
        let managed = namespaces.is_new(LinuxNamespaceType::Cgroup)
            && self.plan.mounts.iter().any(|m| {
                matches!(m.kind, MountKind::Cgroup)
                    && m.target.as_c_str() == c"/sys/fs/cgroup"
                    && m.attr.set & crate::sys::mount::attr::RDONLY == 0
            });
        let uid = self.plan.process.uid;
        managed.then(|| namespaces.host_uid(uid)).flatten()
    }

    pub(super) fn resources(&self) -> Option<LinuxResources> {
        self.spec
            .linux()
            .as_ref()
            .and_then(|l| l.resources().clone())
    }

    pub(super) fn apply(&self, select: Select) -> Result<()> {
        // Without any resources the rules for devices still are those of a container.
        let resources = self.resources().unwrap_or_default();
        self.record.cgroup.apply(&resources, select)
    }

    pub(super) fn cgroup_view(&self) -> Result<cgroup_mounts::View> {
        let wanted = self
            .plan
            .mounts
            .iter()
            .any(|m| matches!(m.kind, MountKind::Cgroup));
        if !wanted {
            return Ok(cgroup_mounts::View::default());
        }
        let namespaced = self.plan.namespaces.has(LinuxNamespaceType::Cgroup);
        self.record.cgroup.mount_view(namespaced)
    }
}
