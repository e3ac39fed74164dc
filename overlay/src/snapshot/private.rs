//! Overlays on kernels that want all parts attached: in a mount namespace that nobody sees.
//!
//! overlayfs takes layers only from the mount namespace of the caller (before Linux 6.15, which also
//! takes mounts that are attached nowhere), and before 6.5 makes none without attaching it. So a
//! thread gets a mount namespace of its own, attaches everything below a tmpfs there, and takes a
//! clone of the result, which outlives both. It is not the usual way since the kernel copies all
//! mounts of the host for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsmount, fsopen, move_mount, open_tree,
};

use super::mount::Overlay;
use super::stack::Clones;
use crate::{Context, Error, ErrorKind, Result};

/// Which calls there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Those of 6.5, or else what comes before.
    Modern,
    /// mount(2) only: what the above comes to before 6.5.
    #[cfg(test)]
    Classic,
}

/// Mounts without a place in the tree of mounts.
pub(super) fn detached(clones: &Clones, way: Way) -> Result<OwnedFd> {
    // Not of this thread: what it has open or works at must keep its namespace.
    let ended = std::thread::scope(|scope| scope.spawn(|| apart(clones, way)).join());
    ended.unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Internal,
            "the thread that mounts layers panicked",
        ))
    })
}

fn apart(clones: &Clones, way: Way) -> Result<OwnedFd> {
    let context = || "cannot make a mount namespace for layers";
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).context(context)?;
    // Before anything is attached, or the host would see it.
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context(context)?;
    let base = base().context(|| "cannot mount a place for layers")?;
    for (index, tree) in clones.trees().enumerate() {
        attach(tree.as_fd(), place(&base, &index.to_string())?.as_fd())
            .context(|| "cannot attach a layer")?;
    }
    let target = place(&base, "overlay")?;
    let mount = |overlay: &Overlay<'_>| match way {
        Way::Modern => overlay.attach(&target),
        #[cfg(test)]
        Way::Classic => overlay.classic(target.as_fd()),
    };
    clones.parts(&clones.borrowed()).with(mount).and_then(|()| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(&base, c"overlay", flags).context(|| "cannot clone the overlay")
    })
}

/// A tmpfs over the root directory of this namespace; the root of this thread stays what it was.
fn base() -> Result<OwnedFd, rustix::io::Errno> {
    let fs = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&fs)?;
    let base = fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, Mode::empty())?;
    attach(base.as_fd(), root.as_fd())?;
    Ok(base)
}

fn place(base: &OwnedFd, name: &str) -> Result<OwnedFd> {
    rustix::fs::mkdirat(base, name, Mode::from(0o700)).context(|| "cannot make a place")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(base, name, flags, Mode::empty()).context(|| "cannot open a place")
}

fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), rustix::io::Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}
