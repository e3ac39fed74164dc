//! Hands the notification listener to the agent.
//!
//! Runtime specification, config-linux.md, "The Container Process State": one stream connection to
//! `listenerPath`, one message with the state as JSON and the descriptors in `SCM_RIGHTS`.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::path::Path;

use oci_spec::runtime::ContainerProcessState;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};

use crate::error::{Context, Error, ErrorKind, Result};

/// Sends `fd`, the only entry of `state.fds`, to the agent that listens at `path`.
pub fn send_listener(path: &Path, fd: BorrowedFd<'_>, state: &ContainerProcessState) -> Result<()> {
    let json = serde_json::to_vec(state)
        .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))
        .context(|| "cannot encode the container process state")?;
    let agent = || {
        format!(
            "failed to connect with seccomp agent specified in the seccomp profile: {}",
            path.display()
        )
    };
    let address = SocketAddrUnix::new(path).context(agent)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .context(agent)?;
    connect(&socket, &address).context(agent)?;
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let sending = || format!("cannot send seccomp fd to {}", path.display());
    let mut sent = sendmsg(
        &socket,
        &[IoSlice::new(&json)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .context(sending)?;
    while sent < json.len() {
        sent += rustix::net::send(&socket, &json[sent..], SendFlags::NOSIGNAL).context(sending)?;
    }
    Ok(())
}
