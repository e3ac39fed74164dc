//! The other end of a monitor's control socket.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde_json::{Value, json};

use super::exit::Exit;
use super::launch::{Launch, Size, directory_of};
use super::protocol::{self, Reply, Status, VERSION};
use super::serve::address;
use crate::error::{Context, Error, ErrorKind, Result};

/// What a client attaches: pipes or sockets, the ends that the monitor is to use.
#[derive(Debug, Default)]
pub struct AttachOptions {
    /// The monitor reads the container's input from here.
    pub stdin: Option<OwnedFd>,
    /// It writes the container's output (or the terminal's) here.
    pub stdout: Option<OwnedFd>,
    /// It writes the container's error output here.
    pub stderr: Option<OwnedFd>,
    /// The container waits when this client does not read; otherwise the client is dropped when it is
    /// too far behind.
    pub lossless: bool,
}

/// What a monitor says by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The container has ended, and all of its output was passed on.
    Exit(Exit),
    /// Nobody reads any more what this stream, `stdout` or `stderr`, was attached to.
    Closed(String),
    /// This client was too far behind: it is not attached any more.
    Dropped,
    /// The monitor has gone without a word.
    Gone,
}

/// A connection to a container's monitor.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    directory: PathBuf,
    events: VecDeque<Event>,
}

impl Client {
    /// Connects to the monitor of a container below the runtime's root `root`. `NotFound`: it has none,
    /// or none any more; `Unavailable`: it was killed.
    pub fn connect(root: &Path, id: &str) -> Result<Self> {
        let directory = directory_of(root, id)?;
        let connect = || -> Result<OwnedFd, Errno> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = rustix::fs::open(&directory, flags, Mode::empty())?;
            let kind = SocketType::SEQPACKET;
            let flags = SocketFlags::CLOEXEC;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
            rustix::net::connect(&socket, &address(&place)?)?;
            Ok(socket)
        };
        let failed = || format!("cannot reach the monitor of container {id}");
        match connect() {
            Ok(socket) => Ok(Self {
                socket,
                directory,
                events: VecDeque::new(),
            }),
            Err(Errno::CONNREFUSED) => {
                let error = Error::new(ErrorKind::Unavailable, "it was killed");
                Err(error).context(failed)
            }
            Err(errno) => Err(errno).context(failed),
        }
    }

    /// How a container ended whose monitor has written that down; `None`: it has not.
    pub fn recorded_exit(root: &Path, id: &str) -> Result<Option<Exit>> {
        let directory = directory_of(root, id)?;
        match Launch::read(&directory) {
            Ok(launch) => Exit::read(&launch.exit),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How container and monitor are.
    pub fn status(&mut self) -> Result<Status> {
        let reply = self.call("status", json!({}), &[])?;
        reply.status.ok_or_else(|| incomplete("status"))
    }

    /// Attaches; says whether the container has a terminal.
    pub fn attach(&mut self, options: AttachOptions) -> Result<bool> {
        let AttachOptions {
            stdin,
            stdout,
            stderr,
            lossless,
        } = options;
        let all = [("stdin", &stdin), ("stdout", &stdout), ("stderr", &stderr)];
        let given = || {
            all.iter()
                .filter_map(|(name, fd)| fd.as_ref().map(|fd| (*name, fd.as_fd())))
        };
        let names: Vec<&str> = given().map(|(name, _)| name).collect();
        let descriptors: Vec<BorrowedFd<'_>> = given().map(|(_, fd)| fd).collect();
        let content = json!({ "streams": names, "lossless": lossless });
        let reply = self.call("attach", content, &descriptors)?;
        reply.terminal.ok_or_else(|| incomplete("attach"))
    }

    /// Gives the attached streams back; the container's input stays open.
    pub fn detach(&mut self) -> Result<()> {
        self.call("detach", json!({}), &[]).map(drop)
    }

    /// Ends the container's standard input.
    pub fn close_stdin(&mut self) -> Result<()> {
        self.call("close_stdin", json!({}), &[]).map(drop)
    }

    /// Sets the size of the container's terminal.
    pub fn resize(&mut self, size: Size) -> Result<()> {
        let content = json!({ "height": size.height, "width": size.width });
        self.call("resize", content, &[]).map(drop)
    }

    /// Lets the monitor open its log anew, after the old one was renamed.
    pub fn reopen_log(&mut self) -> Result<()> {
        self.call("reopen_log", json!({}), &[]).map(drop)
    }

    /// Starts a container that was made to be started later.
    pub fn start(&mut self) -> Result<()> {
        self.call("start", json!({}), &[]).map(drop)
    }

    /// Waits for the container's end.
    pub fn wait(mut self) -> Result<Exit> {
        let asked = self.call("wait", json!({}), &[]);
        match asked.map(|reply| reply.exit) {
            Ok(Some(exit)) => Ok(exit),
            Ok(None) => Err(incomplete("wait")),
            Err(error) if error.kind() == ErrorKind::Unavailable => self.recorded()?.ok_or(error),
            Err(error) => Err(error),
        }
    }

    /// Asks for the container's end without waiting for it: [`Self::heard`] has it when the connection can
    /// be read. For who waits for many.
    pub fn ask_for_end(&mut self) -> Result<()> {
        self.send("wait", json!({}), &[])
    }

    /// The end that was asked for, if the monitor has told it already. `Unavailable`: it is gone, and left
    /// no record.
    pub fn heard(&mut self) -> Result<Option<Exit>> {
        loop {
            match self.receive(RecvFlags::DONTWAIT) {
                Ok(Some(Reply {
                    error: Some(error), ..
                })) => return Err(error.into()),
                Ok(Some(Reply {
                    exit: Some(exit), ..
                })) => return Ok(Some(exit)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Busy => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    return self.recorded()?.map(Some).ok_or(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next thing that the monitor says by itself; waits for it.
    pub fn next_event(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            match self.receive(RecvFlags::empty()) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    return Ok(self.recorded()?.map_or(Event::Gone, Event::Exit));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether [`Self::next_event`] has something that was heard while waiting for an answer.
    pub fn has_event(&self) -> bool {
        !self.events.is_empty()
    }

    /// What the monitor wrote down before it went.
    fn recorded(&self) -> Result<Option<Exit>> {
        match Launch::read(&self.directory) {
            Ok(launch) => Exit::read(&launch.exit),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn send(&self, op: &str, content: Value, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let mut request = content;
        request["version"] = VERSION.into();
        request["op"] = op.into();
        let send = || protocol::send(&self.socket, &request, descriptors, SendFlags::empty());
        match rustix::io::retry_on_intr(send) {
            Ok(()) => Ok(()),
            Err(Errno::PIPE | Errno::CONNRESET) => Err(gone()),
            Err(errno) => Err(errno).context(|| "cannot speak to the monitor"),
        }
    }

    fn call(&mut self, op: &str, content: Value, descriptors: &[BorrowedFd<'_>]) -> Result<Reply> {
        self.send(op, content, descriptors)?;
        loop {
            let Some(reply) = self.receive(RecvFlags::empty())? else {
                continue;
            };
            match (&reply.re, reply.error) {
                (_, Some(error)) => return Err(error.into()),
                (Some(re), None) if re == op => {
                    return Ok(Reply {
                        error: None,
                        ..reply
                    });
                }
                _ => return Err(incomplete(op)),
            }
        }
    }

    /// Receives one document: an answer, or `None` for an event, which is kept. `Busy`: there is none, and
    /// the flags say not to wait.
    fn receive(&mut self, flags: RecvFlags) -> Result<Option<Reply>> {
        let datagram = match protocol::receive(&self.socket, flags) {
            Ok(Some(datagram)) => datagram,
            // A connection that was closed with requests of ours unread: what was sent before is there.
            Err(Errno::INTR | Errno::CONNRESET) => return Ok(None),
            Ok(None) => return Err(gone()),
            Err(Errno::AGAIN) => return Err(Error::new(ErrorKind::Busy, "nothing was said yet")),
            Err(errno) => return Err(errno).context(|| "cannot hear from the monitor"),
        };
        let reply: Reply = serde_json::from_slice(&datagram.bytes).map_err(|e| {
            Error::new(
                ErrorKind::Internal,
                format!("cannot understand the monitor: {e}"),
            )
        })?;
        if reply.version != VERSION {
            let why = format!(
                "the monitor speaks version {}, not {VERSION}",
                reply.version
            );
            return Err(Error::unsupported(why));
        }
        match (reply.event.as_deref(), &reply.exit) {
            (None, _) => return Ok(Some(reply)),
            (Some("exit"), Some(exit)) => self.events.push_back(Event::Exit(exit.clone())),
            (Some("closed"), _) => {
                let stream = reply.stream.unwrap_or_default();
                self.events.push_back(Event::Closed(stream));
            }
            (Some("dropped"), _) => self.events.push_back(Event::Dropped),
            // Of a newer monitor.
            (Some(_), _) => {}
        }
        Ok(None)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the monitor is gone")
}

fn incomplete(op: &str) -> Error {
    let why = format!("the monitor's answer to {op:?} lacks something");
    Error::new(ErrorKind::Internal, why)
}
