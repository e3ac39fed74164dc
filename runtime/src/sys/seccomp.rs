//! seccomp(2): loads a finished filter program into the calling thread.
//!
//! Owns the C layout of an instruction and the call itself; what the program says is decided in
//! [`crate::seccomp`]. Kernel: Documentation/userspace-api/seccomp_filter.rst.

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::Errno;

/// One instruction of a classic BPF program, laid out as `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct SockFilter {
    /// Operation.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

const _: () = assert!(size_of::<SockFilter>() == size_of::<libc::sock_filter>());

/// `SECCOMP_FILTER_FLAG_TSYNC`.
pub const FLAG_TSYNC: u32 = 1;
/// `SECCOMP_FILTER_FLAG_LOG`.
pub const FLAG_LOG: u32 = 1 << 1;
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW`.
pub const FLAG_SPEC_ALLOW: u32 = 1 << 2;
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
pub const FLAG_NEW_LISTENER: u32 = 1 << 3;
/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`.
pub const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// Loads `program`; with [`FLAG_NEW_LISTENER`] the notification descriptor (close-on-exec) is
/// returned.
///
/// Neither allocates nor locks: it may be called between clone3 and execve. The caller holds
/// CAP_SYS_ADMIN or has set no_new_privs, otherwise the kernel answers `EACCES`.
pub fn load(program: &[SockFilter], flags: u32) -> Result<Option<OwnedFd>, Errno> {
    let Ok(len) = u16::try_from(program.len()) else {
        return Err(Errno::INVAL);
    };
    let prog = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `prog.filter` points to `len` initialised instructions of the layout the kernel reads
    // (asserted above), alive and unchanged during the call; the kernel copies and never writes them.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER),
            libc::c_long::from(flags),
            &raw const prog,
        )
    };
    match ret {
        -1 => Err(Errno::from_raw_os_error(
            std::io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO),
        )),
        0 if flags & FLAG_NEW_LISTENER == 0 => Ok(None),
        fd if flags & FLAG_NEW_LISTENER != 0 => {
            // SAFETY: with NEW_LISTENER a non-negative answer is a descriptor made by this very
            // call, so nothing else owns it.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
        }
        // With TSYNC: the id of a thread that could not be synchronised.
        _ => Err(Errno::SRCH),
    }
}

/// Whether the running kernel knows a filter flag.
///
/// The kernel checks flags before it reads the program: a null program yields `EFAULT` for a known
/// flag and `EINVAL` for an unknown one.
pub fn flag_supported(flag: u32) -> bool {
    // WAIT_KILLABLE_RECV is only accepted together with a listener.
    let flag = if flag == FLAG_WAIT_KILLABLE_RECV {
        flag | FLAG_NEW_LISTENER
    } else {
        flag
    };
    // SAFETY: the null pointer is never dereferenced in user space; the kernel refuses it.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_long::from(libc::SECCOMP_SET_MODE_FILTER),
            libc::c_long::from(flag),
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    ret == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}
