//! What bind mounts need on kernels without `open_tree` (before 5.2) or `mount_setattr` (before
//! 5.12): mount(2) on `/proc/self/fd/N` paths.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::mount::{MsFlags, mount};
use rustix::io::Errno;

use super::resolve::{Links, Root};
use super::{Detail, During as _, Fail, fd_path};
use crate::sys::mount::{MountAttr, attr};

const NONE: Option<&CStr> = None;

/// Binds `source` onto `target` and opens the new mount.
pub(crate) fn bind(
    root: &Root,
    source: &CStr,
    recursive: bool,
    target: BorrowedFd<'_>,
    path: &CStr,
) -> Result<OwnedFd, Fail> {
    let mut flags = MsFlags::MS_BIND;
    flags.set(MsFlags::MS_REC, recursive);
    mount(Some(source), fd_path(target).as_c_str(), NONE, flags, NONE).during(Detail::Attach)?;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    root.open(path, flags, Links::Follow).during(Detail::Target)
}

/// Changes attributes of one attached mount. Recursive changes cannot be had this way.
pub(crate) fn set_attributes(
    mounted: BorrowedFd<'_>,
    change: &MountAttr,
    recursive: bool,
) -> Result<(), Errno> {
    if change.set & attr::IDMAP != 0 || (recursive && (change.set | change.clear) != 0) {
        return Err(Errno::NOSYS);
    }
    let path = fd_path(mounted);
    if change.propagation != 0 {
        let mut flags = MsFlags::from_bits_retain(change.propagation);
        flags.set(MsFlags::MS_REC, recursive);
        mount(NONE, path.as_c_str(), NONE, flags, NONE).map_err(raw)?;
    }
    if change.set | change.clear == 0 {
        return Ok(());
    }
    let mut flags = current_flags(mounted)?;
    for (attribute, flag) in [
        (attr::RDONLY, MsFlags::MS_RDONLY),
        (attr::NOSUID, MsFlags::MS_NOSUID),
        (attr::NODEV, MsFlags::MS_NODEV),
        (attr::NOEXEC, MsFlags::MS_NOEXEC),
        (attr::NODIRATIME, MsFlags::MS_NODIRATIME),
        (
            attr::NOSYMFOLLOW,
            MsFlags::from_bits_retain(libc::MS_NOSYMFOLLOW),
        ),
    ] {
        if change.clear & attribute != 0 {
            flags.remove(flag);
        }
        if change.set & attribute != 0 {
            flags.insert(flag);
        }
    }
    if change.clear & attr::ATIME != 0 {
        flags.remove(MsFlags::MS_NOATIME | MsFlags::MS_RELATIME | MsFlags::MS_STRICTATIME);
        flags.insert(match change.set & attr::ATIME {
            attr::NOATIME => MsFlags::MS_NOATIME,
            attr::STRICTATIME => MsFlags::MS_STRICTATIME,
            _ => MsFlags::MS_RELATIME,
        });
    }
    flags.insert(MsFlags::MS_BIND | MsFlags::MS_REMOUNT);
    mount(NONE, path.as_c_str(), NONE, flags, NONE).map_err(raw)
}

/// The flags of a mount, as statfs(2) reports them.
fn current_flags(mounted: BorrowedFd<'_>) -> Result<MsFlags, Errno> {
    use rustix::fs::StatVfsMountFlags as F;
    let present = rustix::fs::fstatvfs(mounted.as_fd())?.f_flag;
    let mut flags = MsFlags::empty();
    for (seen, flag) in [
        (F::RDONLY, MsFlags::MS_RDONLY),
        (F::NOSUID, MsFlags::MS_NOSUID),
        (F::NODEV, MsFlags::MS_NODEV),
        (F::NOEXEC, MsFlags::MS_NOEXEC),
        (F::NOATIME, MsFlags::MS_NOATIME),
        (F::NODIRATIME, MsFlags::MS_NODIRATIME),
        (F::RELATIME, MsFlags::MS_RELATIME),
    ] {
        flags.set(flag, present.contains(seen));
    }
    Ok(flags)
}

fn raw(errno: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}
