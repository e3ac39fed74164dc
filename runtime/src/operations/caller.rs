//! What an operation takes from the process it runs in: that it may be copied, and the descriptors that
//! it hands down.

use std::os::fd::RawFd;

use rustix::io::FdFlags;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::process::{SingleThreaded, borrow_inherited};

/// The proof that every operation that clones needs.
pub(crate) fn prove_single_threaded() -> Result<SingleThreaded> {
    SingleThreaded::prove().ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            "cannot clone: this process has threads (or /proc is not mounted)",
        )
    })
}

/// Descriptors above stderr that go to the program, in order: those that are open among the `count` of
/// `--preserve-fds` and the ones of the protocol of sd_listen_fds(3). What this process opened itself
/// is close-on-exec and none of them, whichever number it got.
pub(crate) fn preserved(count: u32) -> Result<Vec<RawFd>> {
    let count = count.saturating_add(listen_fds().unwrap_or(0));
    if count == 0 {
        return Ok(Vec::new());
    }
    let end = i32::try_from(count.saturating_add(3)).unwrap_or(i32::MAX);
    let what = || "cannot list the descriptors that were handed down";
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").context(what)? {
        let name = entry.context(what)?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<RawFd>().ok());
        numbers.extend(number.filter(|fd| (3..end).contains(fd)));
    }
    numbers.retain(|fd| was_handed_down(*fd));
    numbers.sort_unstable();
    Ok(numbers)
}

fn was_handed_down(fd: RawFd) -> bool {
    borrow_inherited(fd)
        .and_then(rustix::io::fcntl_getfd)
        .is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
}

/// How many descriptors the caller hands down by the protocol of sd_listen_fds(3).
pub(crate) fn listen_fds() -> Option<u32> {
    std::env::var("LISTEN_FDS")
        .ok()?
        .parse()
        .ok()
        .filter(|count| *count > 0)
}
