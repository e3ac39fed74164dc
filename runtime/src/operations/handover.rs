//! What others get of a new process: its terminal, the pid file, a pidfd, the listener of its seccomp filter.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use oci_spec::runtime::{ContainerProcessStateBuilder, ContainerState, StateBuilder};
use rustix::net::SocketType;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::terminal;
use crate::launch::wire::Message;
use crate::seccomp::{self, Filter};
use crate::state::Record;

/// Refuses a terminal that nobody shows, and a console socket that nothing is sent to.
pub(crate) fn check_terminal(wanted: bool, socket: Option<&Path>, detached: bool) -> Result<()> {
    match socket {
        None if wanted && detached => Err(Error::invalid(
            "cannot allocate tty if runc will detach without setting console socket",
        )),
        Some(_) if !(wanted && detached) => Err(Error::invalid(
            "cannot use console socket if runc will not detach or allocate tty",
        )),
        _ => Ok(()),
    }
}

/// Writes a pid so that a reader never sees half of it.
pub(crate) fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = std::fs::write(&temporary, pid.to_string())
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        Error::from(error).context(format!("cannot write pid file {}", path.display()))
    })
}

/// Sends the new process's pidfd to a socket (`--pidfd-socket`).
pub(crate) fn send_pidfd(path: &Path, pidfd: BorrowedFd<'_>) -> Result<()> {
    let socket = terminal::connect(path, SocketType::STREAM)?;
    terminal::send(socket.as_fd(), c"pidfd", pidfd)
        .context(|| format!("cannot send a pidfd to {}", path.display()))
}

/// Fetches a seccomp listener from the process that loaded the filter, and hands it to its agent.
pub(crate) fn send_listener(
    pidfd: BorrowedFd<'_>,
    message: &Message,
    filter: Option<&Filter>,
    record: &Record,
    status: ContainerState,
) -> Result<()> {
    let Some(notify) = filter.and_then(|f| f.notify.as_ref()) else {
        return Err(Error::new(
            ErrorKind::Internal,
            "no rule of the seccomp filter notifies",
        ));
    };
    let number = i32::try_from(message.value).unwrap_or(-1);
    let flags = rustix::process::PidfdGetfdFlags::empty();
    let listener = rustix::process::pidfd_getfd(pidfd, number, flags)
        .context(|| "cannot take over the seccomp listener")?;
    let state = StateBuilder::default()
        .version(record.oci_version.clone())
        .id(record.id.clone())
        .status(status)
        .pid(record.pid)
        .bundle(record.bundle.clone())
        .annotations(
            record
                .annotations
                .clone()
                .into_iter()
                .collect::<std::collections::HashMap<_, _>>(),
        )
        .build()
        .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
    let mut process = ContainerProcessStateBuilder::default()
        .version(record.oci_version.clone())
        .fds(vec!["seccompFd".to_owned()])
        .pid(record.pid)
        .state(state)
        .build()
        .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
    process.set_metadata(notify.metadata.clone());
    seccomp::notify::send_listener(&notify.listener_path, listener.as_fd(), &process)
}
