//! Proves in debug builds, and so in every test run, that nothing is allocated between `clone3` and
//! `execve`: an allocator that ends the process once allocation was forbidden.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

static FORBIDDEN: AtomicBool = AtomicBool::new(false);

/// The system's allocator, unless [`forbid`] was called.
#[derive(Debug)]
pub struct Guarded;

/// From here on this process must not allocate. Called in the child of `clone3`, whose copy of the
/// flag is its own.
pub fn forbid() {
    FORBIDDEN.store(true, Ordering::Relaxed);
}

fn check() {
    if FORBIDDEN.load(Ordering::Relaxed) {
        let text = b"rcrun: allocation in the container's init\n";
        // SAFETY: the buffer is valid for its length; abort does not return.
        unsafe {
            libc::write(2, text.as_ptr().cast(), text.len());
            libc::abort();
        }
    }
}

// SAFETY: all calls go to the system's allocator unchanged; the check allocates nothing.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller keeps alloc's contract, which is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as for `alloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check();
        // SAFETY: as for `alloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
