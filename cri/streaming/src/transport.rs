//! What a session reads from and writes to: a socket, with or without TLS, or the inside of a WebSocket
//! tunnel.

use crate::socket::Wire;
use crate::{limits, pipe};
use bytes::BytesMut;
use std::io::{self, IoSlice};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadHalf, WriteHalf};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::server::TlsStream;

/// Where bytes of a client come from.
pub(crate) enum Input {
    Tcp(OwnedReadHalf),
    Tls(ReadHalf<TlsStream<Wire>>, Wire),
    Tunnel(pipe::Reader),
}

/// Where bytes for a client go to.
pub(crate) enum Output {
    Tcp(OwnedWriteHalf),
    Tls(WriteHalf<TlsStream<Wire>>),
    Tunnel(pipe::Writer),
}

impl Input {
    /// Ends when the client has closed, also while bytes of it are left to read. Our clients never close their half
    /// only: closed is gone.
    pub(crate) async fn vanished(&self) {
        loop {
            let closed = match self {
                Self::Tcp(half) => match half.ready(Interest::READABLE).await {
                    Ok(ready) => ready.is_read_closed() || ready.is_error(),
                    Err(_) => true,
                },
                Self::Tls(_, wire) => wire.closed().await,
                Self::Tunnel(reader) => reader.ended(),
            };
            if closed {
                return;
            }
            sleep(limits::LOOK).await;
        }
    }
}

/// An input with what was read from it and not yet used. It takes little room while little comes.
pub(crate) struct Source {
    pub(crate) input: Input,
    pub(crate) buffer: BytesMut,
    step: usize,
}

impl Source {
    pub(crate) fn new(input: Input, already: BytesMut) -> Self {
        Self {
            input,
            buffer: already,
            step: limits::READ_LEAST,
        }
    }

    /// Reads more; false at the end.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        if self.buffer.is_empty() && self.buffer.capacity() > 4 * self.step {
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(self.step);
        let count = match &mut self.input {
            Input::Tcp(half) => half.read_buf(&mut self.buffer).await?,
            Input::Tls(half, _) => half.read_buf(&mut self.buffer).await?,
            Input::Tunnel(reader) => reader.read_buf(&mut self.buffer).await?,
        };
        if count >= self.step {
            self.step = (self.step * 2).min(limits::READ);
        } else if count < self.step / 4 {
            self.step = (self.step / 2).max(limits::READ_LEAST);
        }
        Ok(count > 0)
    }
}

impl Output {
    /// Writes both, in one call where that is possible.
    pub(crate) async fn put(&mut self, head: &[u8], body: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(half) => both(half, head, body).await,
            Self::Tls(half) => {
                both(half, head, body).await?;
                half.flush().await
            }
            Self::Tunnel(writer) => {
                writer.write_all(head).await?;
                writer.write_all(body).await
            }
        }
    }

    /// Says that nothing more will come.
    pub(crate) async fn shutdown(&mut self) {
        // A client that is gone needs no end.
        let _ = match self {
            Self::Tcp(half) => half.shutdown().await,
            Self::Tls(half) => half.shutdown().await,
            Self::Tunnel(writer) => writer.shutdown().await,
        };
    }
}

/// Writes both; TLS makes one record of them, if it can.
async fn both<W: AsyncWrite + Unpin>(to: &mut W, head: &[u8], body: &[u8]) -> io::Result<()> {
    let mut both = [IoSlice::new(head), IoSlice::new(body)];
    let mut left = &mut both[usize::from(head.is_empty())..];
    while left.iter().any(|slice| !slice.is_empty()) {
        let count = to.write_vectored(left).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        IoSlice::advance_slices(&mut left, count);
    }
    Ok(())
}

/// When a session did something last.
pub(crate) struct Idle {
    last: Mutex<Instant>,
    limit: Duration,
}

impl Idle {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            last: Mutex::new(Instant::now()),
            limit,
        }
    }

    pub(crate) fn touch(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Ends when nothing happened for the whole time.
    pub(crate) async fn expired(&self) {
        loop {
            let end = *self.last.lock().unwrap_or_else(PoisonError::into_inner) + self.limit;
            if Instant::now() >= end {
                return;
            }
            sleep_until(end).await;
        }
    }
}
