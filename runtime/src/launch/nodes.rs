//! Device nodes for a container in a user namespace, which cannot make any that could be opened, and
//! which the host does not have either: made outside, handed in as mounts.
//!
//! Owns the making only. Whether one is needed is decided where nodes are bound
//! (`rootfs::device`); that it may be made is the kernel's decision (mknod(2), `CAP_MKNOD`).

use std::ffi::CStr;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};

use super::errand;
use super::steps::Step;
use crate::error::{Error, Result};
use crate::plan::Device;
use crate::rootfs::mount::clone_tree;
use crate::rootfs::{Detail, During as _, Fail};
use crate::sys::process::SingleThreaded;

/// Makes a node that belongs to a user and a group of the host. The tree that is returned has no
/// other mount of its file system: that is gone with the process that made it. `options` are those
/// of the tmpfs.
pub(crate) fn make(
    proof: SingleThreaded,
    device: &Device,
    owner: (u32, u32),
    options: &CStr,
) -> Result<OwnedFd> {
    let get = || make_alone(device, owner, options);
    errand::fetch(proof, Step::Devices, get, |message| {
        let errno = rustix::io::Errno::from_raw_os_error(message.errno);
        Error::from(errno).context("cannot make a device node")
    })
}

/// In a process and a mount namespace of its own: a mount that is attached to none can only be cloned
/// since Linux 6.15.
fn make_alone(device: &Device, (uid, gid): (u32, u32), options: &CStr) -> Result<OwnedFd, Fail> {
    const NONE: Option<&CStr> = None;
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).during(Detail::Call)?;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(NONE, c"/", NONE, private, NONE).during(Detail::Propagation)?;
    let tmpfs = Some(c"tmpfs");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    // The one directory that is known to exist; nobody else sees it covered.
    mount(tmpfs, c"/proc", tmpfs, flags, Some(options)).during(Detail::Attach)?;
    let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = rustix::fs::open(c"/proc", place, Mode::empty()).during(Detail::Open)?;
    rustix::process::umask(Mode::empty());
    let kind = FileType::from_raw_mode(device.kind);
    let mode = Mode::from_raw_mode(device.mode);
    let number = rustix::fs::makedev(device.major, device.minor);
    rustix::fs::mknodat(&place, c"node", kind, mode, number).during(Detail::Node)?;
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::chownat(&place, c"node", uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .during(Detail::Owner)?;
    clone_tree(place.as_fd(), c"node", false).during(Detail::Source)
}
