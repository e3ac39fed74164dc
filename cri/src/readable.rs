//! Waiting for descriptors.

use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::{Context, Result};

/// Of a descriptor, that it can be read.
#[expect(
    deprecated,
    reason = "what the new, unsafe function wants to be promised is true of every OwnedFd: its number stays \
              the same and is its own"
)]
pub(crate) fn readable(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE).context(|| "cannot wait for a descriptor")
}
