//! The only home of `unsafe`: one thin function per kernel call that neither rustix nor nix offers
//! in the form needed here. No policy, no allocation; errors are plain errno values.
//!
//! Everything in here may be called by the container's init between `clone3` and `execve`; but for
//! `regex`, which is the C library's, not the kernel's.

pub mod alloc_guard;
pub mod bpf;
pub mod exec;
pub mod keyring;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod process;
pub mod regex;
pub mod sched;
pub mod seccomp;

use rustix::io::Errno;

/// Turns the C convention (-1 and errno) into a `Result`.
fn check(ret: libc::c_long) -> Result<libc::c_long, Errno> {
    if ret >= 0 {
        return Ok(ret);
    }
    // SAFETY: errno's location is thread-local and valid for the life of the thread.
    Err(Errno::from_raw_os_error(unsafe {
        *libc::__errno_location()
    }))
}
