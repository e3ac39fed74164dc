//! Making the root file system the process's root: pivot_root(2), or MS_MOVE and chroot(2).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::mount::{attach, clone_tree, set_attributes};
use super::{Detail, During as _, Fail, Root};
use crate::plan::Rootfs;
use crate::sys::mount::MountAttr;

const NONE: Option<&CStr> = None;
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Sets the propagation of all mounts of a new namespace (`own`). `private_parent` is the mount that
/// holds the root file system, when the container's mounts are to be shared: the root must not show up
/// at the host.
pub(crate) fn separate(
    rootfs: &Rootfs,
    own: bool,
    private_parent: Option<&CStr>,
) -> Result<(), Fail> {
    if own {
        let flags = MsFlags::from_bits_retain(rootfs.propagation);
        mount(NONE, c"/", NONE, flags, NONE).during(Detail::Propagation)?;
    }
    if let Some(parent) = private_parent {
        mount(NONE, parent, NONE, MsFlags::MS_PRIVATE, NONE).during(Detail::Propagation)?;
    }
    Ok(())
}

/// The directory of the root file system.
pub(crate) fn open_place(rootfs: &Rootfs) -> Result<OwnedFd, Errno> {
    rustix::fs::open(rootfs.path.as_c_str(), DIRECTORY, Mode::empty())
}

/// Attaches a root file system that came as a mount.
pub(crate) fn attach_given(tree: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<Root, Fail> {
    attach(tree, place).during(Detail::Attach)?;
    let tree = rustix::io::fcntl_dupfd_cloexec(tree, 3).during(Detail::Open)?;
    Ok(Root::new(tree))
}

/// Makes the root file system a mount of its own, so that it can become the root.
pub(crate) fn bind(rootfs: &Rootfs) -> Result<Root, Fail> {
    match bind_new(rootfs) {
        // Before 5.2, or where a filter hides one of the calls.
        Err(Fail {
            errno: Errno::NOSYS,
            ..
        }) => {
            super::mount::give_up_new_calls();
            bind_classic(rootfs)
        }
        answer => answer,
    }
}

/// The same, where the directory is open already.
pub(crate) fn bind_at(place: BorrowedFd<'_>) -> Result<Root, Fail> {
    let tree = clone_tree(place, c"", true).during(Detail::Source)?;
    attach(tree.as_fd(), place).during(Detail::Attach)?;
    Ok(Root::new(tree))
}

fn bind_new(rootfs: &Rootfs) -> Result<Root, Fail> {
    let tree = clone_tree(rustix::fs::CWD, &rootfs.path, true).during(Detail::Source)?;
    // 5.2 to 5.11 have no attributes for trees that are not attached yet, and the rest is of no use
    // without: changes nothing, but says so.
    crate::sys::mount::mount_setattr(tree.as_fd(), c"", false, &MountAttr::default())
        .during(Detail::Attributes)?;
    let target = open_place(rootfs).during(Detail::Target)?;
    attach(tree.as_fd(), target.as_fd()).during(Detail::Attach)?;
    Ok(Root::new(tree))
}

fn bind_classic(rootfs: &Rootfs) -> Result<Root, Fail> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    let path = rootfs.path.as_c_str();
    mount(Some(path), path, NONE, flags, NONE).during(Detail::Attach)?;
    let root = rustix::fs::open(path, DIRECTORY, Mode::empty());
    Ok(Root::new(root.during(Detail::Target)?))
}

/// Switches to the prepared root and lets go of the old one.
pub(crate) fn pivot(root: &Root) -> Result<(), Fail> {
    let old: OwnedFd = rustix::fs::open(c"/", DIRECTORY, Mode::empty()).during(Detail::Open)?;
    rustix::process::fchdir(root)?;
    // With both arguments the same, the old root is stacked on the new one: no directory is needed.
    rustix::process::pivot_root(c".", c".")?;
    rustix::process::fchdir(&old)?;
    // Unmounting must not reach the host; slave, not private, lets unmounts of the host through.
    mount(NONE, c".", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)
        .during(Detail::Propagation)?;
    umount2(c".", MntFlags::MNT_DETACH).during(Detail::Attach)?;
    rustix::process::chdir(c"/")?;
    Ok(())
}

/// `--no-pivot`, for roots on the initial ramfs: moves the root file system over `/` and changes the
/// root. The host's other mounts stay in the namespace, covered; its proc and sysfs (`kernel_views`)
/// are unmounted first, or covered where that is forbidden, since the container could mount its own
/// unrestricted ones otherwise.
pub(crate) fn move_root(root: &Root, kernel_views: &[CString]) -> Result<(), Fail> {
    for point in kernel_views.iter().rev() {
        mount(
            NONE,
            point.as_c_str(),
            NONE,
            MsFlags::MS_SLAVE | MsFlags::MS_REC,
            NONE,
        )
        .during(Detail::Propagation)?;
        match umount2(point.as_c_str(), MntFlags::MNT_DETACH) {
            Err(nix::errno::Errno::EINVAL | nix::errno::Errno::EPERM) => {
                let tmpfs = Some(c"tmpfs");
                mount(tmpfs, point.as_c_str(), tmpfs, MsFlags::empty(), NONE)
                    .during(Detail::Attach)?;
            }
            answer => answer.during(Detail::Attach)?,
        }
    }
    rustix::process::fchdir(root)?;
    mount(Some(c"."), c"/", NONE, MsFlags::MS_MOVE, NONE).during(Detail::Attach)?;
    rustix::process::chroot(c".")?;
    rustix::process::chdir(c"/")?;
    Ok(())
}

/// Changes only the root directory: containers without a mount namespace of their own.
pub(crate) fn change_root(root: &Root) -> Result<(), Fail> {
    rustix::process::fchdir(root)?;
    rustix::process::chroot(c".")?;
    Ok(rustix::process::chdir(c"/")?)
}

/// The root's propagation at the end, if the configuration asks for one.
pub(crate) fn propagate(root: &Root, flags: u64) -> Result<(), Fail> {
    let change = MountAttr {
        propagation: flags & !libc::MS_REC,
        ..MountAttr::default()
    };
    set_attributes(root.as_fd(), &change, flags & libc::MS_REC != 0).during(Detail::Propagation)
}
