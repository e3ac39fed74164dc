//! A connection that was accepted: TCP, or TLS in it.
//!
//! It owns the handshake and what a session needs of a socket beside bytes. Memory of TLS: what rustls holds of one
//! record that arrives, and [`limits::TLS_UNSENT`] of what the client does not take; `put` in [`crate::transport`]
//! waits until that is out, so a client that reads slowly is waited for as without TLS.

use crate::http::Refused;
use crate::limits;
use crate::tls::Keeper;
use crate::transport::{Input, Output};
use rustix::net::Shutdown;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A connection.
pub(crate) enum Socket {
    Plain(TcpStream),
    Secure(Box<TlsStream<Wire>>, Wire),
}

/// What is below TLS. A second hand on it asks whether the client has closed, while the first one reads.
#[derive(Clone)]
pub(crate) struct Wire(Arc<TcpStream>);

/// Shakes hands where that is wanted. `Err` has what to say to a client that does not speak TLS; `None`: it is gone.
pub(crate) async fn secure(
    socket: TcpStream,
    keeper: Option<&Arc<Keeper>>,
) -> Option<Result<Socket, (Socket, Refused)>> {
    let Some(keeper) = keeper else {
        return Some(Ok(Socket::Plain(socket)));
    };
    let mut first = [0];
    if !matches!(socket.peek(&mut first).await, Ok(1)) {
        return None;
    }
    if first[0].is_ascii_uppercase() {
        let refused = Refused {
            status: 400,
            why: "this server speaks TLS only: the URL begins with https",
        };
        return Some(Err((Socket::Plain(socket), refused)));
    }
    let acceptor = TlsAcceptor::from(keeper.current().await);
    let wire = Wire(Arc::new(socket));
    let accepted = acceptor.accept_with(wire.clone(), |connection| {
        connection.set_buffer_limit(Some(limits::TLS_UNSENT));
    });
    match accepted.await {
        Ok(stream) => Some(Ok(Socket::Secure(Box::new(stream), wire))),
        Err(error) => {
            tracing::debug!(%error, "a streaming client cannot be agreed with");
            None
        }
    }
}

impl Socket {
    /// Says that the protocol changes, and takes both directions apart.
    pub(crate) async fn switch(mut self, text: &str) -> Option<(Input, Output)> {
        self.write_all(text.as_bytes()).await.ok()?;
        self.flush().await.ok()?;
        Some(match self {
            Self::Plain(socket) => {
                let (input, output) = socket.into_split();
                (Input::Tcp(input), Output::Tcp(output))
            }
            Self::Secure(stream, wire) => {
                let (input, output) = tokio::io::split(*stream);
                (Input::Tls(input, wire), Output::Tls(output))
            }
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Self::Secure(stream, _) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Self::Secure(stream, _) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(context),
            Self::Secure(stream, _) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Self::Secure(stream, _) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl Wire {
    /// Waits for something to read, or the end: whether it is the end.
    pub(crate) async fn closed(&self) -> bool {
        match self.0.ready(Interest::READABLE).await {
            Ok(ready) => ready.is_read_closed() || ready.is_error(),
            Err(_) => true,
        }
    }

    /// Writes when the socket takes something.
    fn poll_put(
        &self,
        context: &mut Context<'_>,
        put: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match put(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_put(context, |socket| socket.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_put(context, |socket| socket.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&*self.0, Shutdown::Write).map_err(io::Error::from))
    }
}
