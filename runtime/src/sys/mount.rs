//! `mount_setattr(2)`, which neither rustix nor nix wraps.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::check;

/// `MOUNT_ATTR_*` (linux/mount.h).
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Ignore set-user-ID bits and file capabilities.
    pub const NOSUID: u64 = 0x2;
    /// No device access.
    pub const NODEV: u64 = 0x4;
    /// No execution.
    pub const NOEXEC: u64 = 0x8;
    /// Mask of the three access time modes; clearing it before setting one is mandatory.
    pub const ATIME: u64 = 0x70;
    /// No access times.
    pub const NOATIME: u64 = 0x10;
    /// Access times on every access.
    pub const STRICTATIME: u64 = 0x20;
    /// No access times on directories.
    pub const NODIRATIME: u64 = 0x80;
    /// Map ids through a user namespace.
    pub const IDMAP: u64 = 0x0010_0000;
    /// Do not follow symbolic links.
    pub const NOSYMFOLLOW: u64 = 0x0020_0000;
}

/// struct mount_attr.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear first.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE` or 0.
    pub propagation: u64,
    /// User namespace for `IDMAP`.
    pub userns_fd: u64,
}

impl MountAttr {
    /// True when the call would change nothing.
    pub fn is_empty(&self) -> bool {
        self.set == 0 && self.clear == 0 && self.propagation == 0
    }
}

/// Changes attributes of the mount at `path` below `dir`, or of `dir` itself when `path` is empty.
pub fn mount_setattr(
    dir: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
    attr: &MountAttr,
) -> Result<(), Errno> {
    let mut flags = 0;
    if path.is_empty() {
        flags |= libc::AT_EMPTY_PATH;
    }
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: `attr` has the layout of struct mount_attr version 0 and outlives the call; `path` is a
    // valid C string.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            std::mem::size_of::<MountAttr>(),
        )
    })
    .map(drop)
}
