//! What an operation takes from the process it runs in: that it may be copied, and the descriptors that
//! it hands down.

use crate::error::{Error, ErrorKind, Result};
use crate::sys::process::SingleThreaded;

/// The proof that every operation that clones needs.
pub(crate) fn prove_single_threaded() -> Result<SingleThreaded> {
    SingleThreaded::prove().ok_or_else(|| {
        Error::new(
            ErrorKind::Internal,
            "cannot clone: this process has threads (or /proc is not mounted)",
        )
    })
}

/// A number that is not open would be taken by a descriptor of ours.
pub(crate) fn check_preserved(count: u32) -> Result<()> {
    for fd in 3..3 + count {
        let number = i32::try_from(fd).unwrap_or(-1);
        if crate::sys::process::borrow_inherited(number).is_err() {
            return Err(Error::invalid(format!(
                "--preserve-fds {count}: descriptor {fd} is not open"
            )));
        }
    }
    Ok(())
}

/// How many descriptors the caller hands down by the protocol of sd_listen_fds(3).
pub(crate) fn listen_fds() -> Option<u32> {
    std::env::var("LISTEN_FDS")
        .ok()?
        .parse()
        .ok()
        .filter(|count| *count > 0)
}
