//! Conversations with the kernel over netlink(7), for one network namespace each.
//!
//! Owns the socket: sending of batches and reading of answers. What the messages say is built in
//! `route` (rtnetlink(7)) and `nft` (nf_tables), both pure. A namespace is a property of the thread: a
//! socket of another one is made by entering it for the one call (`inside`).

pub(crate) mod conntrack;
pub(crate) mod message;
pub(crate) mod nft;
pub(crate) mod route;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
    socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{Context, Error, ErrorKind, Result};
use message::{Batch, Finished, Kind, Reply};

/// Room for one datagram; the kernel sends lists in parts of at most half of this.
const BUFFER: usize = 64 * 1024;

/// An answer that is later than this does not come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a batch was not carried out: which of its messages was refused, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Counted from 0.
    pub(crate) message: usize,
    pub(crate) errno: Errno,
}

/// A socket in the namespace in which it was made.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// For links, addresses and routes.
    pub(crate) fn routing() -> Result<Self> {
        Self::open(None)
    }

    /// For nf_tables and connection tracking.
    pub(crate) fn netfilter() -> Result<Self> {
        Self::open(Some(netlink::NETFILTER)).map_err(|error| {
            error.with_hint("the kernel needs CONFIG_NETFILTER_NETLINK and CONFIG_NF_TABLES")
        })
    }

    fn open(protocol: Option<Protocol>) -> Result<Self> {
        let kind = SocketType::RAW;
        let socket = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, protocol)
            .context(|| "cannot open a netlink socket")?;
        // The kernel answers at once or never.
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))
            .context(|| "cannot set the time limit of a netlink socket")?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// An empty batch for this socket.
    pub(crate) fn batch(&self) -> Batch {
        Batch::new(self.sequence.wrapping_add(1))
    }

    /// Sends messages of which the last asks for an answer, and waits for that one. The first that the
    /// kernel refuses is the result; rtnetlink carries the others out all the same, nf_tables none.
    pub(crate) fn carry_out(&mut self, batch: Batch) -> Result<Result<(), Refused>> {
        let sent = self.send(batch)?;
        let (first, answered) = (sent.first, sent.answered);
        let mut refused: Option<Refused> = None;
        loop {
            for reply in self.receive()? {
                let Kind::Result(code) = reply.kind else {
                    continue;
                };
                if reply.sequence.wrapping_sub(first) > sent.last.wrapping_sub(first) {
                    continue;
                }
                let message = reply.sequence.wrapping_sub(first) as usize;
                if code != 0 {
                    let errno = Errno::from_raw_os_error(code);
                    refused = refused.or(Some(Refused { message, errno }));
                }
                // A transaction that fails as a whole is answered with the number of its beginning.
                if reply.sequence == answered || (code != 0 && reply.sequence == first) {
                    return Ok(refused.map_or(Ok(()), Err));
                }
            }
        }
    }

    /// The same, for who does not care which message it was.
    pub(crate) fn change(&mut self, batch: Batch) -> Result<()> {
        self.carry_out(batch)?
            .map_err(|refused| Error::from(refused.errno))
    }

    /// Asks one question; `take` sees every message of the answer. Whether the list was whole.
    pub(crate) fn ask(&mut self, batch: Batch, mut take: impl FnMut(u16, &[u8])) -> Result<()> {
        let last = self.send(batch)?.answered;
        loop {
            let mut done = false;
            for reply in self.receive()? {
                if reply.sequence != last {
                    continue;
                }
                match reply.kind {
                    Kind::Result(0) | Kind::Done => done = true,
                    Kind::Result(code) => return Err(Errno::from_raw_os_error(code).into()),
                    Kind::Data(kind) => {
                        take(kind, &self.buffer[reply.body]);
                        done |= !reply.multi;
                    }
                }
            }
            if done {
                return Ok(());
            }
        }
    }

    fn send(&mut self, batch: Batch) -> Result<Finished> {
        let batch = batch.finish();
        self.sequence = batch.last;
        let sent = send(&self.socket, &batch.bytes, SendFlags::empty())
            .context(|| "cannot send to the kernel by netlink")?;
        match sent == batch.bytes.len() {
            true => Ok(batch),
            false => Err(Error::new(
                ErrorKind::Internal,
                format!(
                    "cannot send to the kernel by netlink: {sent} of {} bytes",
                    batch.bytes.len()
                ),
            )),
        }
    }

    fn receive(&mut self) -> Result<Vec<Reply>> {
        loop {
            match recv(&self.socket, &mut self.buffer[..], RecvFlags::TRUNC) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context(|| "cannot receive from netlink"),
                Ok((_, length)) => {
                    let replies = self.buffer.get(..length).and_then(message::parse);
                    return replies.ok_or_else(|| {
                        let why = "cannot understand netlink's answer";
                        Error::new(ErrorKind::Internal, why)
                    });
                }
            }
        }
    }
}

/// Does something in another network namespace and comes back. The work must not leave the thread.
pub(crate) fn inside<T>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())
        .context(|| "cannot open /proc/thread-self/ns/net")?;
    let network = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(namespace, network)
        .context(|| "cannot enter the container's network namespace")?;
    let back = Return(own);
    let done = work();
    // Whoever goes on in the wrong namespace does harm: this error is never swallowed.
    back.now()?;
    done
}

struct Return(OwnedFd);

impl Return {
    fn now(self) -> Result<()> {
        let moved = move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network));
        moved.context(|| "cannot return to the host's network namespace")
    }
}
