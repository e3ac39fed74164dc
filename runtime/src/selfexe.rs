//! Keeps the running binary out of the reach of containers (CVE-2019-5736).
//!
//! A container's init is a fork of `rcrun`, and a program of the container may execute
//! `/proc/self/exe` before that is its own: either way the container gets a path to our file through
//! /proc/PID/exe, and its root could write to it. So a process that is going to enter a container
//! first executes itself again from a copy nobody can write: a read-only clone of the mount, which
//! belongs to no mount namespace and cannot be remounted; or, where the kernel or a missing right
//! forbids that, a sealed file in memory.

use std::ffi::CString;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;

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
    let sealed = match readonly_mount() {
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
