//! The init's steps in its namespaces and cgroups, while the host's files are still there.

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::Init;
use crate::launch::child::Setup;
use crate::launch::wire::{Message, Tag};
use crate::launch::{entry, identity};
use crate::rootfs::{Detail, During as _, Fail};

impl Init<'_> {
    pub(super) fn join_cgroups(&mut self) -> Result<(), Fail> {
        if self.setup.hide_at_once {
            self.setup.common.hide()?;
        }
        self.setup.common.join_cgroups()?;
        Setup::reset_affinity();
        Ok(())
    }

    pub(super) fn join_namespaces(&mut self) -> Result<(), Fail> {
        for (index, (flag, fd)) in self.setup.joins.iter().enumerate() {
            self.progress.index = index as u32;
            nix::sched::setns(fd, CloneFlags::from_bits_retain(*flag as libc::c_int))?;
        }
        Ok(())
    }

    pub(super) fn become_root(&mut self) -> Result<(), Fail> {
        if self.setup.wait_for_maps {
            self.progress.wire.wait_go()?;
        }
        if self.plan.namespaces.has_user() {
            identity::become_root(self.plan.process.groups.is_none())?;
        }
        self.setup.common.hide()
    }

    pub(super) fn cgroup_namespace(&mut self) -> Result<(), Fail> {
        if self.plan.namespaces.new_cgroup {
            nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)?;
        }
        Ok(())
    }

    pub(super) fn time_namespace(&mut self) -> Result<(), Fail> {
        let Some(offsets) = &self.plan.namespaces.new_time else {
            return Ok(());
        };
        nix::sched::unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?;
        if !offsets.is_empty() {
            let write =
                |setup: &Setup<'_>| setup.write_proc(c"self/timens_offsets", offsets.to_bytes());
            match write(&self.setup.common) {
                // A parent without rights could not either. In a new user namespace nobody is yet
                // who could use the moment.
                Err(Fail {
                    errno: Errno::ACCESS,
                    ..
                }) if self.plan.namespaces.maps.is_some() => {
                    self.setup.common.show()?;
                    let written = write(&self.setup.common);
                    self.setup.common.hide()?;
                    written?;
                }
                // Files of a process that nobody may trace belong to the host's root.
                Err(Fail {
                    errno: Errno::ACCESS,
                    ..
                }) => {
                    self.progress.wire.send(&Message::new(Tag::TimeOffsets))?;
                    self.progress.wire.wait_go()?;
                }
                answer => answer?,
            }
        }
        // unshare only concerns children; entering it concerns this process.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let name = c"self/ns/time_for_children";
        let own = rustix::fs::openat(self.setup.common.proc, name, flags, Mode::empty());
        let own = own.during(Detail::Open)?;
        nix::sched::setns(own, CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?;
        Ok(())
    }

    /// All namespaces are as they will be, and the host's /proc is still there.
    pub(super) fn hold_namespaces(&mut self) -> Result<(), Fail> {
        if self.setup.untraceable && self.setup.listener.is_some() {
            let all = self.plan.namespaces.all;
            self.held = entry::Held::open(self.setup.common.proc, all);
        }
        Ok(())
    }

    pub(super) fn loopback(&mut self) -> Result<(), Fail> {
        if self.plan.loopback {
            Ok(crate::sys::netlink::lo_up()?)
        } else {
            Ok(())
        }
    }

    pub(super) fn host_name(&mut self) -> Result<(), Fail> {
        if let Some(name) = &self.plan.hostname {
            rustix::system::sethostname(name.to_bytes())?;
        }
        self.progress.index = 1;
        if let Some(name) = &self.plan.domainname {
            rustix::system::setdomainname(name.to_bytes())?;
        }
        Ok(())
    }
}
