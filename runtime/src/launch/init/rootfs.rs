//! The init's steps that make the container's file system, and make it the root.

use std::os::fd::{AsFd as _, OwnedFd};

use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::Mode;
use rustix::io::Errno;

use super::Init;
use crate::launch::conditions;
use crate::launch::wire::{Message, Tag, Wire};
use crate::plan::MountKind;
use crate::plan::devices::{CORE, LINKS, PTMX};
use crate::rootfs::mask::{self, Covers};
use crate::rootfs::mount::{self, Sources};
use crate::rootfs::resolve::{Links, Want};
use crate::rootfs::{Detail, During as _, Fail, Root, Text, cgroup as cgroup_mounts};
use crate::rootfs::{device, pivot};

/// Asks the parent for mount sources.
struct FromParent<'a>(&'a Wire);

impl Sources for FromParent<'_> {
    fn fetch(&mut self, index: usize) -> Result<OwnedFd, Fail> {
        self.ask(Tag::Source, index)
    }

    fn fetch_node(&mut self, index: usize) -> Result<OwnedFd, Fail> {
        self.ask(Tag::Node, index)
    }
}

impl FromParent<'_> {
    fn ask(&self, what: Tag, index: usize) -> Result<OwnedFd, Fail> {
        let mut message = Message::new(what);
        message.index = u32::try_from(index).unwrap_or(u32::MAX);
        self.0.send(&message).during(Detail::Source)?;
        match self.0.receive().during(Detail::Source)? {
            Some((_, Some(tree))) => Ok(tree),
            Some((answer, None)) => Err(Fail {
                errno: Errno::from_raw_os_error(answer.errno),
                detail: answer.detail,
            }),
            None => Err(Fail {
                errno: Errno::PIPE,
                detail: Detail::Source,
            }),
        }
    }
}

impl Init<'_> {
    pub(super) fn root(&self) -> Result<&Root, Fail> {
        self.root.as_ref().ok_or(Fail {
            errno: Errno::NOENT,
            detail: Detail::Open,
        })
    }

    pub(super) fn own_mounts(&self) -> bool {
        self.plan.namespaces.has(LinuxNamespaceType::Mount)
    }

    pub(super) fn prepare_root(&mut self) -> Result<(), Fail> {
        let own = self.own_mounts();
        let rootfs = &self.plan.rootfs;
        pivot::separate(rootfs, own, self.setup.private_parent)?;
        // Only root outside the user namespace may pass the directories above.
        let outside = || FromParent(&self.progress.wire).ask(Tag::Place, 0);
        let root = match self.setup.root {
            Some(tree) => {
                let place = match pivot::open_place(rootfs) {
                    Err(Errno::ACCESS | Errno::PERM) => outside()?,
                    answer => answer.during(Detail::Target)?,
                };
                pivot::attach_given(tree, place.as_fd())?
            }
            None => match pivot::bind(rootfs) {
                Err(Fail {
                    errno: Errno::ACCESS | Errno::PERM,
                    detail: Detail::Source,
                }) if own => pivot::bind_at(outside()?.as_fd())?,
                answer => answer?,
            },
        };
        self.root = Some(root);
        if own && !(self.plan.masked.is_empty() && self.plan.readonly.is_empty()) {
            self.covers = Covers::prepare()?;
        }
        Ok(())
    }

    pub(super) fn mounts(&mut self) -> Result<(), Fail> {
        let Some(root) = &self.root else {
            return Ok(());
        };
        let mut sources = FromParent(&self.progress.wire);
        for step in &self.plan.mounts {
            let index = step.index as u32;
            let result = match &step.kind {
                MountKind::Bind(bind) => mount::bind(root, step, bind, &mut sources),
                MountKind::Filesystem(fs) => mount::filesystem(root, step, fs),
                MountKind::Cgroup => cgroup_mounts::mount(root, step, self.setup.cgroup),
                MountKind::Remount(fs) => mount::remount(root, step, fs),
            };
            if let Err(fail) = result {
                self.progress.index = index;
                return Err(fail);
            }
        }
        Ok(())
    }

    pub(super) fn devices(&mut self) -> Result<(), Fail> {
        let Some(root) = &self.root else {
            return Ok(());
        };
        if self.plan.own_dev && self.plan.populate_dev {
            device::refuse_link(root)?;
        }
        // Modes are given exactly.
        rustix::process::umask(Mode::empty());
        let mut maker = device::Maker::default();
        let mut sources = FromParent(&self.progress.wire);
        let mut bind: Option<&mut dyn Sources> = self.setup.bind_devices.then_some(&mut sources);
        for (index, node) in self.plan.devices.iter().enumerate() {
            self.progress.index = index as u32;
            maker.make(root, node, index, bind.as_deref_mut())?;
        }
        rustix::process::umask(Mode::from_raw_mode(0o022));
        self.progress.index = u32::MAX;
        if self.plan.populate_dev {
            device::ptmx(root, &PTMX)?;
            for link in &LINKS {
                device::link(root, link)?;
            }
            if rustix::fs::statat(
                self.setup.common.proc,
                c"kcore",
                rustix::fs::AtFlags::empty(),
            )
            .is_ok()
            {
                device::link(root, &CORE)?;
            }
        }
        Ok(())
    }

    pub(super) fn make_working_directory(&mut self) -> Result<(), Fail> {
        let Some(root) = &self.root else {
            return Ok(());
        };
        let cwd = &self.plan.process.cwd;
        if cwd.as_c_str() == c"/" {
            return Ok(());
        }
        match root.ensure(cwd, Want::Directory, Links::Follow) {
            // Reported, with the right words, when it is entered.
            Ok(_) | Err(Errno::NOTDIR | Errno::ACCESS | Errno::ROFS | Errno::PERM) => Ok(()),
            Err(errno) => Err(Fail {
                errno,
                detail: Detail::Target,
            }),
        }
    }

    pub(super) fn switch_root(&mut self) -> Result<(), Fail> {
        if self.own_mounts() && self.covers.is_early() {
            self.hide_paths()?;
            self.progress.index = 0;
        }
        let root = self.root()?;
        if !self.own_mounts() {
            return pivot::change_root(root);
        }
        if self.plan.rootfs.no_pivot {
            pivot::move_root(root, self.setup.kernel_views)
        } else {
            pivot::pivot(root)
        }
    }

    pub(super) fn console(&mut self) -> Result<(), Fail> {
        let process = &self.plan.process;
        let root = self.root()?;
        conditions::open_terminal(&self.setup.common, process, root, true)
    }

    pub(super) fn sysctls(&mut self) -> Result<(), Fail> {
        for (index, (path, value)) in self.plan.sysctls.iter().enumerate() {
            self.progress.index = index as u32;
            let mut full = Text::<512>::new();
            full.push(b"sys/")?.push(path.to_bytes())?;
            self.setup.common.write_proc(full.as_c_str(), value)?;
        }
        Ok(())
    }

    /// Read-only and masked paths.
    pub(super) fn hide_paths(&mut self) -> Result<(), Fail> {
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        for (index, path) in self.plan.readonly.iter().enumerate() {
            self.progress.index = 1 + index as u32;
            mask::readonly(root, path)?;
        }
        let before = 1 + self.plan.readonly.len();
        for (index, path) in self.plan.masked.iter().enumerate() {
            self.progress.index = (before + index) as u32;
            self.covers
                .mask(root, path, self.plan.mount_label.as_deref())?;
        }
        Ok(())
    }

    pub(super) fn protect(&mut self) -> Result<(), Fail> {
        if !self.own_mounts() {
            return Ok(());
        }
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        let late = self.plan.mounts.iter().any(|step| {
            let dev = step.target.as_c_str() == c"/dev";
            dev && matches!(&step.kind, MountKind::Filesystem(fs) if fs.late_readonly)
        });
        if late {
            let dev = root.find(c"/dev").during(Detail::Target)?;
            mount::make_readonly(dev.as_fd(), false).during(Detail::Attributes)?;
        }
        if self.plan.rootfs.readonly {
            mount::make_readonly(root.as_fd(), false).during(Detail::Attributes)?;
        }
        if !self.covers.is_early() {
            self.hide_paths()?;
        }
        let root = self.root.as_ref().ok_or(Errno::NOENT)?;
        self.progress.index = 0;
        match self.plan.rootfs.final_propagation {
            Some(flags) => pivot::propagate(root, flags),
            None => Ok(()),
        }
    }
}
