//! The two ioctls of a seccomp listener, which no safe crate offers.
#![allow(unsafe_code, reason = "ioctl")]

use std::os::fd::{AsRawFd, OwnedFd};

const SECCOMP_IOCTL_NOTIF_RECV: libc::c_ulong = 0xc050_2100;
const SECCOMP_IOCTL_NOTIF_SEND: libc::c_ulong = 0xc018_2101;

/// `struct seccomp_notif`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notification {
    pub(crate) id: u64,
    pub(crate) pid: u32,
    pub(crate) flags: u32,
    pub(crate) number: i32,
    pub(crate) arch: u32,
    pub(crate) instruction: u64,
    pub(crate) arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Response {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// Waits for the next system call that a filter hands over; `None` when its processes are gone.
pub(crate) fn receive(listener: &OwnedFd) -> Option<Notification> {
    let mut notification = Notification::default();
    // SAFETY: the kernel writes one seccomp_notif, and Notification has its layout and size (80 bytes).
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut notification,
        )
    };
    (result == 0).then_some(notification)
}

/// Lets the call return: the errno if it is not 0, else the value.
pub(crate) fn respond(listener: &OwnedFd, id: u64, value: i64, errno: i32) {
    let mut response = Response {
        id,
        value,
        error: -errno,
        flags: 0,
    };
    // SAFETY: the kernel reads one seccomp_notif_resp, and Response has its layout and size (24 bytes).
    let result = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            SECCOMP_IOCTL_NOTIF_SEND,
            &raw mut response,
        )
    };
    assert_eq!(
        result,
        0,
        "seccomp response: {}",
        std::io::Error::last_os_error()
    );
}
