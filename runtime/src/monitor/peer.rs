//! A client, as the monitor sees it: its connection, and the streams that it attached.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::net::SendFlags;
use serde_json::Value;

use super::protocol;
use super::streams::reopen;
use crate::error::{Context, Error, Result};

/// How far a client may be behind that the container does not wait for.
pub(super) const BEHIND_MAX: usize = 1 << 20;

/// A client.
#[derive(Debug)]
pub(super) struct Peer {
    pub socket: OwnedFd,
    /// Output and error.
    pub sinks: [Option<Sink>; 2],
    pub stdin: Option<OwnedFd>,
    pub attached: bool,
    /// The container's output waits for it.
    pub lossless: bool,
    /// Wants to know of the end.
    pub waiting: bool,
    pub dead: bool,
}

impl Peer {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            sinks: [None, None],
            stdin: None,
            attached: false,
            lossless: false,
            waiting: false,
            dead: false,
        }
    }

    /// Says something. Who asks and does not listen has itself to blame.
    pub(super) fn say(&mut self, document: &Value) {
        if protocol::send(&self.socket, document, &[], SendFlags::DONTWAIT).is_err() {
            self.dead = true;
        }
    }

    /// Attaches the named streams.
    pub(super) fn attach(
        &mut self,
        names: &[String],
        descriptors: Vec<OwnedFd>,
        lossless: bool,
    ) -> Result<()> {
        if names.len() != descriptors.len() {
            return Err(Error::invalid(format!(
                "{} streams are named, but {} descriptors came along",
                names.len(),
                descriptors.len()
            )));
        }
        let (mut sinks, mut stdin) = ([None, None], None);
        for (name, fd) in names.iter().zip(descriptors) {
            let failed = || format!("cannot attach {name}");
            let taken = match name.as_str() {
                "stdin" => stdin
                    .replace(own(&fd, OFlags::RDONLY).context(failed)?)
                    .is_some(),
                "stdout" | "stderr" => {
                    let sink = Sink::new(own(&fd, OFlags::WRONLY).context(failed)?);
                    sinks[usize::from(name == "stderr")].replace(sink).is_some()
                }
                _ => return Err(Error::invalid(format!("there is no stream {name:?}"))),
            };
            if taken {
                return Err(Error::invalid(format!("stream {name} is named twice")));
            }
        }
        (self.sinks, self.stdin) = (sinks, stdin);
        (self.attached, self.lossless) = (true, lossless);
        Ok(())
    }

    /// Gives the streams back.
    pub(super) fn detach(&mut self) {
        self.sinks = [None, None];
        self.stdin = None;
        self.attached = false;
    }

    /// Whether it has not taken all of the output yet.
    pub(super) fn is_behind(&self) -> bool {
        self.sinks.iter().flatten().any(Sink::is_behind)
    }

    /// Passes output on; false when it is too far behind.
    pub(super) fn pass(&mut self, stream: usize, bytes: &[u8]) -> bool {
        let Some(sink) = &mut self.sinks[stream] else {
            return true;
        };
        if sink.take(bytes).is_err() {
            self.sinks[stream] = None;
            return true;
        }
        self.lossless || sink.pending.len() <= BEHIND_MAX
    }

    /// Passes on what there is room for now.
    pub(super) fn pass_pending(&mut self, stream: usize) {
        if let Some(sink) = &mut self.sinks[stream]
            && sink.write().is_err()
        {
            self.sinks[stream] = None;
        }
    }
}

/// A descriptor that never blocks, and whose flags nobody else sees: the client keeps its own.
fn own(fd: &OwnedFd, access: OFlags) -> Result<OwnedFd> {
    let stat = rustix::fs::fstat(fd)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => Ok(reopen(fd.as_fd(), access | OFlags::NONBLOCK)?),
        FileType::Socket => {
            // Sockets cannot be opened again.
            rustix::io::ioctl_fionbio(fd, true)?;
            Ok(fd.try_clone()?)
        }
        _ => Err(Error::invalid("it is neither a pipe nor a socket")),
    }
}

/// Where output goes.
#[derive(Debug)]
pub(super) struct Sink {
    fd: OwnedFd,
    pending: Vec<u8>,
}

impl Sink {
    fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            pending: Vec::new(),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        if !self.pending.is_empty() {
            self.pending.extend_from_slice(bytes);
            return self.write();
        }
        let written = write_some(&self.fd, bytes)?;
        self.pending.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    fn write(&mut self) -> Result<(), Errno> {
        let written = write_some(&self.fd, &self.pending)?;
        self.pending.drain(..written);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        Ok(())
    }
}

fn write_some(fd: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(fd, &bytes[written..]) {
            Ok(count) => written += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(written)
}
