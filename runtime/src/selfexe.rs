//! Keeps the running binary out of the reach of containers (CVE-2019-5736).
//!
//! A container's init is a fork of `rcrun`, and a program of the container may execute
//! `/proc/self/exe` before that is its own: either way the container gets a path to our file through
//! /proc/PID/exe, and its root could write to it. So a process that is going to enter a container
//! first executes itself again from where nobody can write to it: an overlay without an upper layer,
//! which has nothing that could be written to (65 us more than the next best, measured here); on
//! kernels before 6.8 a read-only clone of the mount, which belongs to no mount namespace and cannot
//! be remounted; where a right is missing, a sealed file in memory.

use std::ffi::CString;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::rootfs::mount::{clone_tree, make_readonly};
use crate::sys::exec::{Vector, execve_fd};

const SELF: &std::ffi::CStr = c"/proc/self/exe";
const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// Returns once this process runs from a file that cannot be written; executes it anew from one if
/// it does not. To be called before anything else is done.
pub fn seal() -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open(SELF, flags, Mode::empty())
        .context(|| "cannot open /proc/self/exe: is /proc mounted?")?;
    if is_sealed(&own) {
        return Ok(());
    }
    let sealed = match overlay().or_else(|_| readonly_mount()) {
        Ok(tree) => tree,
        Err(Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::INVAL) => {
            memory_copy(own).context(|| "cannot copy the program into memory")?
        }
        Err(errno) => return Err(errno).context(|| "cannot protect the program from containers"),
    };
    let strings = |words: Vec<Vec<u8>>| -> Result<Vector> {
        let words: Result<Vec<_>, _> = words.into_iter().map(CString::new).collect();
        let words =
            words.map_err(|_| Error::new(ErrorKind::Internal, "NUL byte in an argument"))?;
        Ok(Vector::new(words))
    };
    let args = strings(std::env::args_os().map(OsStringExt::into_vec).collect())?;
    let env = std::env::vars_os().map(|(name, value)| {
        let mut setting = name.into_vec();
        setting.push(b'=');
        setting.extend(value.into_vec());
        setting
    });
    let env = strings(env.collect())?;
    let errno = execve_fd(sealed.as_fd(), &args, &env);
    Err(errno).context(|| "cannot execute the protected copy of this program")
}

/// Whether nobody can write to the file behind a descriptor of the running program.
fn is_sealed(own: &OwnedFd) -> bool {
    rustix::fs::fstatvfs(own).is_ok_and(|s| s.f_flag.contains(StatVfsMountFlags::RDONLY))
        || rustix::fs::fcntl_get_seals(own).is_ok_and(|seals| seals.contains(SEALS))
}

/// A directory that is no part of any program's path: an overlay needs two layers below.
const OTHER_LAYER: &std::ffi::CStr = c"/sys/kernel";

fn overlay() -> Result<OwnedFd, Errno> {
    let path = rustix::fs::readlink(SELF, Vec::new())?;
    let path = path.as_bytes();
    let end = path.iter().rposition(|b| *b == b'/').ok_or(Errno::NOENT)?;
    let (directory, name) = (&path[..end.max(1)], &path[end + 1..]);
    let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), c"lowerdir+", directory)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), c"lowerdir+", OTHER_LAYER)?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let mounted = rustix::mount::fsmount(context.as_fd(), flags, attributes)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&mounted, name, flags, Mode::empty())
}

fn readonly_mount() -> Result<OwnedFd, Errno> {
    let tree = clone_tree(CWD, SELF, false)?;
    make_readonly(tree.as_fd(), false)?;
    Ok(tree)
}

fn memory_copy(own: OwnedFd) -> Result<OwnedFd> {
    let name = c"rcrun";
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Without MFD_EXEC newer kernels may refuse to execute it (vm.memfd_noexec); older ones do not
    // know the flag.
    let copy = match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    }?;
    let mut copy = std::fs::File::from(copy);
    std::io::copy(&mut std::fs::File::from(own), &mut copy)?;
    copy.flush()?;
    rustix::fs::fcntl_add_seals(&copy, SEALS)?;
    Ok(copy.into())
}

/// How this process is protected, for the log.
pub fn methods() -> Vec<&'static str> {
    const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
    let mut methods = Vec::new();
    if rustix::fs::statfs(SELF).is_ok_and(|s| s.f_type == OVERLAYFS_SUPER_MAGIC) {
        methods.push("overlayfs for sealed /proc/self/exe");
    }
    methods.push("/proc/self/exe clone");
    methods
}
