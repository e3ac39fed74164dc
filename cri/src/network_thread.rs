//! A thread that enters networks of pods: it does nothing else, and ends. No other thread of the server is
//! ever in one (setns(2) concerns the calling thread alone).

use std::os::fd::AsFd;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Context, Error, ErrorKind, Result};

/// Does work on a thread of its own, which may [`enter`] networks.
pub(crate) fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    let thread = thread.spawn(work).context(|| "cannot start a thread")?;
    thread.join().unwrap_or_else(|_| {
        let text = "a defect in the server: see its log";
        Err(Error::new(ErrorKind::Internal, text))
    })
}

/// Leaves the thread in a network, given by its namespace.
pub(crate) fn enter(namespace: impl AsFd) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context(|| "cannot enter the network of the pod")
}
