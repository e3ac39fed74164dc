//! A connection, from which no byte is taken before the one before it is in its file.
//!
//! What a killed process has received and not written down is received again. That is what it has in
//! its buffers, and what its kernel has received for it; both vanish with it. So
//!
//! - bytes are only looked at (`MSG_PEEK`), and taken out of the kernel's queue when more are wanted:
//!   by then the caller has written them. So what the process holds is not in addition to the queue,
//!   but a part of it;
//! - the queue of a connection within this machine is short ([`QUEUE`]). There the sender is as fast
//!   as we are, and the queue would be full all the time: 1.4 MB on Linux 6.18. Half as much costs a
//!   fifth of the speed, twice as much gives nothing.
//!
//! Other connections keep the queue that the kernel thinks right. What comes over a network comes
//! slower than it is hashed and written, so hardly anything is in the queue, however long it may
//! grow; and a short one is a short window, which would make a fast or a long line slow (64 KiB at
//! 20 ms are 3 MB/s). What is on the line when we are killed was not received: the kernel answers it
//! with a reset.
//!
//! With TLS a record, 16 KiB, may be taken before it is written.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, sockopt};
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, ShutdownHandle,
    Transport,
};

use super::super::retry::Cancel;
use super::dial::dial;

/// SO_RCVBUF of a connection within this machine: about 60 KiB of data, by how Linux counts.
const QUEUE: usize = 40 << 10;

/// Makes connections to one host.
pub(super) struct Sockets {
    pub(super) cancel: Cancel,
    /// Whether the last one stayed within this machine.
    pub(super) near: Arc<AtomicBool>,
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").finish_non_exhaustive()
    }
}

impl<In: Transport> Connector<In> for Sockets {
    type Out = Either<In, Socket>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if let Some(proxied) = chained {
            return Ok(Some(Either::A(proxied)));
        }
        let limit = details.timeout.not_zero().map(|limit| *limit);
        let stream = dial(&details.addrs, limit, &shorten, &|| {
            self.cancel.is_cancelled()
        })
        .map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => Error::Timeout(ureq::Timeout::Connect),
            _ => Error::Io(error),
        })?;
        stream.set_nodelay(true)?;
        let near = is_near(&stream);
        if near {
            set_queue(&stream);
        }
        self.near.store(near, Ordering::Relaxed);
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        let socket = Socket {
            stream: Arc::new(stream),
            buffers,
            looked_at: 0,
            limits: Limits::default(),
        };
        let handle: Weak<TcpStream> = Arc::downgrade(&socket.stream);
        let handle: Weak<dyn ShutdownHandle> = handle;
        (details.register_shutdown)(handle)?;
        Ok(Some(Either::B(socket)))
    }
}

/// Before it is connected, since the first window is part of connecting.
fn shorten(socket: &std::os::fd::OwnedFd, address: &SocketAddr) {
    if address.ip().is_loopback() {
        set_queue(socket);
    }
}

fn set_queue(socket: impl AsFd) {
    // With another queue more comes twice after a kill, and nothing else.
    let _ = sockopt::set_socket_recv_buffer_size(socket, QUEUE);
}

/// Whether both ends are on this machine.
fn is_near(stream: &TcpStream) -> bool {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(own), Ok(peer)) => own.ip() == peer.ip() || peer.ip().is_loopback(),
        _ => false,
    }
}

/// A connection.
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    buffers: LazyBuffers,
    /// So many bytes were read and are still in the kernel's queue.
    looked_at: usize,
    limits: Limits,
}

/// What the socket was told last: most calls tell it the same.
#[derive(Default)]
struct Limits {
    read: Option<Duration>,
    write: Option<Duration>,
}

impl Socket {
    /// Takes what was looked at out of the queue.
    fn take(&mut self) -> io::Result<()> {
        let mut unused = [0_u8; 1 << 10];
        while self.looked_at > 0 {
            // Nothing is copied (tcp(7), MSG_TRUNC), so the buffer's length is what matters, and
            // that of the one that they were read into is enough.
            let input = self.buffers.input_append_buf();
            let buffer = match input.len() > unused.len() {
                true => input,
                false => &mut unused,
            };
            let length = buffer.len().min(self.looked_at);
            let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
            match rustix::net::recv(&self.stream, &mut buffer[..length], flags) {
                Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, taken)) => self.looked_at -= taken.min(self.looked_at),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Looks at what comes next, as much as there is room for.
    fn look(&mut self, limit: Option<Duration>) -> io::Result<usize> {
        let began = Instant::now();
        let mut left = limit;
        loop {
            if left != self.limits.read {
                self.stream.set_read_timeout(left)?;
                self.limits.read = left;
            }
            match self.stream.peek(self.buffers.input_append_buf()) {
                // A read with a limit does not go on by itself after a signal (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    left = limit.map(|limit| limit.saturating_sub(began.elapsed()));
                    if left.is_some_and(|left| left.is_zero()) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                found => return found,
            }
        }
    }
}

fn ended(error: io::Error, timeout: NextTimeout) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => Error::Io(error),
    }
}

fn check(timeout: NextTimeout) -> Result<Option<Duration>, Error> {
    match timeout.after.is_zero() {
        true => Err(Error::Timeout(timeout.reason)),
        false => Ok(timeout.not_zero().map(|limit| *limit)),
    }
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        let limit = check(timeout)?;
        if limit != self.limits.write {
            self.stream.set_write_timeout(limit)?;
            self.limits.write = limit;
        }
        let output = &self.buffers.output()[..amount];
        io::Write::write_all(&mut &*self.stream, output).map_err(|error| ended(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        let limit = check(timeout)?;
        self.take()?;
        let count = self.look(limit).map_err(|error| ended(error, timeout))?;
        self.looked_at = count;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        if self.take().is_err() {
            return false;
        }
        // Nothing is to come that nobody asked for.
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let found = rustix::net::recv(&self.stream, &mut [0_u8; 1][..], flags);
        matches!(found, Err(rustix::io::Errno::AGAIN))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Closed with bytes in its queue, a connection is reset, which the peer would take for a failure.
        let _ = self.take();
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("peer", &self.stream.peer_addr().ok())
            .finish_non_exhaustive()
    }
}
