//! Mounts of type `cgroup`: the container sees its own cgroup and nothing above it.
//!
//! On v2 one mount; without a cgroup namespace it shows the whole tree, as every runtime does, so that
//! the paths in /proc/self/cgroup can be found in it. On v1 and hybrid hosts a small tmpfs with one directory per hierarchy, and links
//! for controllers that share one. With a cgroup namespace the file system itself is mounted, which
//! then begins at the container's cgroup; without, the container's cgroup is bound.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::mount::MsFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::mount::{attach, clone_tree, set_attributes};
use super::resolve::{Links, Want};
use super::{Detail, During as _, Fail, Root, fd_path};
use crate::plan::MountStep;
use crate::sys::mount::{MountAttr, attr};

/// What the host has, laid out for mounting.
#[derive(Debug, Default)]
pub struct View {
    /// v1 hierarchies; empty on unified hosts.
    pub hierarchies: Vec<Hierarchy>,
    /// What is shown of cgroup2, where that is the only hierarchy.
    pub unified: Option<CString>,
    /// The container has a cgroup namespace.
    pub namespaced: bool,
}

/// One v1 hierarchy.
#[derive(Debug)]
pub struct Hierarchy {
    /// Directory name, like `cpu,cpuacct`.
    pub name: CString,
    /// Names that link to it, like `cpu`.
    pub links: Vec<CString>,
    /// mount(8) options that select it.
    pub options: CString,
    /// The container's cgroup in it.
    pub directory: CString,
}

const FLAGS: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

/// Carries out a step of type `cgroup`.
pub(crate) fn mount(root: &Root, step: &MountStep, view: &View) -> Result<(), Fail> {
    let (target, _) = root
        .ensure(&step.target, Want::Directory, Links::Follow)
        .during(Detail::Target)?;
    match &view.unified {
        Some(directory) => unified(root, step, directory, target.as_fd())?,
        None => legacy(root, step, view, target.as_fd())?,
    }
    let mounted = root.find(&step.target).during(Detail::Target)?;
    for flags in &step.propagation {
        let change = MountAttr {
            propagation: flags & !libc::MS_REC,
            ..MountAttr::default()
        };
        set_attributes(mounted.as_fd(), &change, flags & libc::MS_REC != 0)
            .during(Detail::Propagation)?;
    }
    Ok(())
}

fn unified(
    root: &Root,
    step: &MountStep,
    directory: &CStr,
    target: BorrowedFd<'_>,
) -> Result<(), Fail> {
    match file_system(c"cgroup2", c"", target) {
        Ok(()) => {
            let mounted = root.find(&step.target).during(Detail::Target)?;
            set_attributes(mounted.as_fd(), &step.attr, false).during(Detail::Attributes)
        }
        // A user namespace may not mount it when it does not own the cgroup namespace, or when the
        // host hides a part of it: what may be seen is bound.
        Err(Errno::PERM | Errno::BUSY) => bind(directory, target, &step.attr),
        Err(errno) => Err(errno.into()),
    }
}

fn legacy(root: &Root, step: &MountStep, view: &View, target: BorrowedFd<'_>) -> Result<(), Fail> {
    let data = Some(c"mode=755,size=65536");
    nix::mount::mount(
        Some(c"tmpfs"),
        fd_path(target).as_c_str(),
        Some(c"tmpfs"),
        FLAGS,
        data,
    )?;
    let top = root.find(&step.target).during(Detail::Target)?;
    for hierarchy in &view.hierarchies {
        rustix::fs::mkdirat(&top, &hierarchy.name, Mode::from_raw_mode(0o755))
            .during(Detail::Node)?;
        let place = open(top.as_fd(), &hierarchy.name).during(Detail::Target)?;
        if view.namespaced {
            file_system(c"cgroup", &hierarchy.options, place.as_fd())?;
            let mounted = open(top.as_fd(), &hierarchy.name).during(Detail::Target)?;
            set_attributes(mounted.as_fd(), &step.attr, false).during(Detail::Attributes)?;
        } else {
            bind(&hierarchy.directory, place.as_fd(), &step.attr)?;
        }
        for link in &hierarchy.links {
            rustix::fs::symlinkat(&hierarchy.name, &top, link).during(Detail::Node)?;
        }
    }
    let change = MountAttr {
        set: step.attr.set & attr::RDONLY,
        ..MountAttr::default()
    };
    if change.is_empty() {
        return Ok(());
    }
    set_attributes(top.as_fd(), &change, false).during(Detail::Attributes)
}

fn open(directory: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

fn file_system(fstype: &CStr, options: &CStr, target: BorrowedFd<'_>) -> Result<(), Errno> {
    nix::mount::mount(
        Some(c"cgroup"),
        fd_path(target).as_c_str(),
        Some(fstype),
        FLAGS,
        Some(options),
    )
    .map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

fn bind(directory: &CStr, target: BorrowedFd<'_>, change: &MountAttr) -> Result<(), Fail> {
    let tree = clone_tree(rustix::fs::CWD, directory, false).during(Detail::Source)?;
    if !change.is_empty() {
        set_attributes(tree.as_fd(), change, false).during(Detail::Attributes)?;
    }
    attach(tree.as_fd(), target).during(Detail::Attach)
}
