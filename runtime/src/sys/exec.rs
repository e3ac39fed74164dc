//! `execve` from strings that were laid out before the fork.

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// A null-terminated array of C strings, ready for `execve`.
pub struct Vector {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
    /// A writable string that replaces the last pointer once [`Vector::fill_slot`] was called.
    slot: Option<Box<[u8]>>,
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The environment may hold secrets: only the shape is printed.
        f.debug_struct("Vector")
            .field("strings", &self.strings.len())
            .finish_non_exhaustive()
    }
}

impl Vector {
    /// Lays out `strings`.
    pub fn new(strings: Vec<CString>) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Self {
            strings,
            pointers,
            slot: None,
        }
    }

    /// Lays out `strings` with room for one more of up to `size` bytes, unknown until later.
    pub fn with_slot(strings: Vec<CString>, size: usize) -> Self {
        let mut vector = Self::new(strings);
        vector.pointers.push(std::ptr::null());
        vector.slot = Some(vec![0; size + 1].into_boxed_slice());
        vector
    }

    /// Whether a slot was reserved.
    pub fn has_slot(&self) -> bool {
        self.slot.is_some()
    }

    /// Puts `parts`, joined, into the reserved slot; false when there is none or it is too small.
    pub fn fill_slot(&mut self, parts: &[&[u8]]) -> bool {
        let Some(slot) = &mut self.slot else {
            return false;
        };
        let mut at = 0;
        for part in parts {
            if at + part.len() >= slot.len() || part.contains(&0) {
                return false;
            }
            slot[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        slot[at] = 0;
        let index = self.strings.len();
        self.pointers[index] = slot.as_ptr().cast();
        true
    }

    /// The strings laid out (without the slot).
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// `execve(2)`; returns only on failure.
pub fn execve(path: &CStr, args: &Vector, env: &Vector) -> Errno {
    // SAFETY: both arrays are null-terminated and point into strings that live as long as the
    // vectors, which are borrowed for the call.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    errno()
}

/// `execveat(2)` of the file behind `fd`; returns only on failure.
pub fn execve_fd(fd: BorrowedFd<'_>, args: &Vector, env: &Vector) -> Errno {
    // SAFETY: as for `execve`; the empty path with AT_EMPTY_PATH names the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    errno()
}

fn errno() -> Errno {
    // SAFETY: errno's location is thread-local and valid for the life of the thread.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}
