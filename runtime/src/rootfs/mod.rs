//! Building the container's file system: inside the container's mount namespace, by the container's
//! init, from a finished plan.
//!
//! Everything in here runs between `clone3` and `execve`: it does not allocate, and it never uses a
//! path again after it was resolved. A place in the container is a descriptor got from [`Root`];
//! mounts are attached to descriptors.

pub(crate) mod cgroup;
pub(crate) mod classic;
pub(crate) mod console;
pub(crate) mod copy_up;
pub(crate) mod device;
pub(crate) mod mask;
pub(crate) mod mount;
pub(crate) mod pivot;
pub(crate) mod resolve;

use rustix::io::Errno;

pub(crate) use resolve::Root;

/// What a step was doing when a call failed; with the errno value all that crosses to the parent,
/// which knows the plan and writes the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Detail {
    /// The step's main call.
    Call = 0,
    /// Opening what is to be bound.
    Source,
    /// Finding or making the place in the container.
    Target,
    /// The place, or a part of its path, is a symbolic link and must not be.
    TargetIsLink,
    /// The place is not a directory and must be.
    TargetNotDirectory,
    /// The place lies inside /proc.
    InsideProc,
    /// Changing the attributes of the mount.
    Attributes,
    /// Changing its propagation.
    Propagation,
    /// Attaching it.
    Attach,
    /// Copying files into it.
    Copy,
    /// Making the node.
    Node,
    /// Mode or owner.
    Owner,
    /// What was found is not what it has to be (wrong file system, wrong device number).
    Mismatch,
    /// A relative path, or a working directory that is not in the container.
    Outside,
    /// Opening.
    Open,
    /// Writing.
    Write,
    /// The program's interpreter (`#!`) is missing.
    Interpreter,
    /// The program's loader (ELF PT_INTERP) is missing.
    Loader,
    /// The program was built for another architecture.
    Architecture,
    /// The program is a directory.
    IsDirectory,
    /// No candidate exists in the search path.
    NotInPath,
    /// A hook did not end well; errno carries its wait status (see `launch::hooks`).
    HookStatus,
}

impl Detail {
    /// All, by number.
    pub(crate) const ALL: [Self; 22] = [
        Self::Call,
        Self::Source,
        Self::Target,
        Self::TargetIsLink,
        Self::TargetNotDirectory,
        Self::InsideProc,
        Self::Attributes,
        Self::Propagation,
        Self::Attach,
        Self::Copy,
        Self::Node,
        Self::Owner,
        Self::Mismatch,
        Self::Outside,
        Self::Open,
        Self::Write,
        Self::Interpreter,
        Self::Loader,
        Self::Architecture,
        Self::IsDirectory,
        Self::NotInPath,
        Self::HookStatus,
    ];
}

/// A failed step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fail {
    /// The kernel's answer.
    pub errno: Errno,
    /// What was being done.
    pub detail: Detail,
}

impl From<Errno> for Fail {
    fn from(errno: Errno) -> Self {
        Self {
            errno,
            detail: Detail::Call,
        }
    }
}

impl From<nix::errno::Errno> for Fail {
    fn from(errno: nix::errno::Errno) -> Self {
        Errno::from_raw_os_error(errno as i32).into()
    }
}

/// Says what was being done when a call failed.
pub(crate) trait During<T> {
    /// Adds `detail` to an errno value.
    fn during(self, detail: Detail) -> Result<T, Fail>;
}

impl<T> During<T> for Result<T, Errno> {
    fn during(self, detail: Detail) -> Result<T, Fail> {
        self.map_err(|errno| Fail { errno, detail })
    }
}

impl<T> During<T> for Result<T, nix::errno::Errno> {
    fn during(self, detail: Detail) -> Result<T, Fail> {
        self.map_err(|errno| Fail {
            errno: Errno::from_raw_os_error(errno as i32),
            detail,
        })
    }
}

/// A short C string built on the stack.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    /// An empty text.
    pub(crate) const fn new() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }

    /// Appends; ENAMETOOLONG when it does not fit.
    pub(crate) fn push(&mut self, part: &[u8]) -> Result<&mut Self, Errno> {
        let end = self.length + part.len();
        if end >= N {
            return Err(Errno::NAMETOOLONG);
        }
        self.bytes[self.length..end].copy_from_slice(part);
        self.bytes[end] = 0;
        self.length = end;
        Ok(self)
    }

    /// Appends a number in the given base (8 or 10).
    pub(crate) fn push_number(&mut self, mut number: u64, base: u64) -> Result<&mut Self, Errno> {
        let mut digits = [0u8; 24];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % base) as u8;
            number /= base;
            if number == 0 {
                break;
            }
        }
        self.push(&digits[at..])
    }

    /// What was written.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The text as a C string (up to the first NUL byte that was pushed).
    pub(crate) fn as_c_str(&self) -> &std::ffi::CStr {
        std::ffi::CStr::from_bytes_until_nul(&self.bytes[..=self.length]).unwrap_or_default()
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}

/// `/proc/self/fd/N`: the only way to give a descriptor to calls that want a path. Valid while the
/// host's /proc is still there, that is before the root is switched.
pub(crate) fn fd_path(fd: std::os::fd::BorrowedFd<'_>) -> Text<32> {
    use std::os::fd::AsRawFd as _;
    let mut text = Text::new();
    let number = u64::try_from(fd.as_raw_fd()).unwrap_or_default();
    let _ = text
        .push(b"/proc/self/fd/")
        .and_then(|t| t.push_number(number, 10));
    text
}
