//! One direction of one stream: bytes between a session and a back end, bounded, with an end.
//!
//! A pipe holds [`limits::PIPE`] bytes at most and costs nothing while it is empty. Both ends speak tokio's traits,
//! for back ends, and hand on whole pieces without copying, for sessions. A pipe ends once: with the end of its
//! bytes, or broken, when the client is gone; what was written before is read first, except that a broken pipe
//! says so at once.

use crate::limits;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Told how many bytes were taken out.
pub(crate) type Taken = Arc<dyn Fn(usize) + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Finished,
    Broken,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    held: usize,
    end: Option<End>,
    abandoned: bool,
    reading: Option<Waker>,
    writing: Option<Waker>,
}

impl State {
    fn wake(&mut self) {
        for waker in [self.reading.take(), self.writing.take()] {
            waker.into_iter().for_each(Waker::wake);
        }
    }

    fn finish(&mut self, end: End) {
        if self.end != Some(End::Broken) && (self.end.is_none() || end == End::Broken) {
            self.end = Some(end);
            self.wake();
        }
    }

    fn push(&mut self, piece: Bytes) {
        if piece.len() < limits::SMALL {
            return self.append(&piece);
        }
        self.join();
        self.held += piece.len();
        self.pieces.push_back(piece);
        self.wake_reader();
    }

    /// Adds bytes to the piece that is being collected.
    fn append(&mut self, bytes: &[u8]) {
        self.held += bytes.len();
        self.tail.extend_from_slice(bytes);
        if self.tail.len() >= limits::SMALL {
            self.join();
        }
        self.wake_reader();
    }

    /// What was collected is a piece.
    fn join(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail).freeze();
            self.pieces.push_back(tail);
        }
    }

    fn wake_reader(&mut self) {
        self.reading.take().into_iter().for_each(Waker::wake);
    }

    fn take(&mut self, most: usize) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.join();
        }
        let first = self.pieces.front_mut()?;
        let piece = if first.len() > most {
            first.split_to(most)
        } else {
            self.pieces.pop_front()?
        };
        self.held -= piece.len();
        Some(piece)
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end that is read from.
pub struct Reader {
    state: Arc<Mutex<State>>,
    taken: Option<Taken>,
}

/// The end that is written to. Dropping it ends the stream.
pub struct Writer {
    state: Arc<Mutex<State>>,
    on_drop: End,
}

/// A hand on a pipe from outside: to break or to finish it.
#[derive(Clone)]
pub(crate) struct Handle(Arc<Mutex<State>>);

/// A pipe whose bytes go from a back end to the client: if the writer is dropped, it is finished.
pub(crate) fn outward() -> (Writer, Reader) {
    new(End::Finished, None)
}

/// A pipe whose bytes come from the client: if the writer is dropped without an end, it is broken.
pub(crate) fn inward(taken: Option<Taken>) -> (Writer, Reader) {
    new(End::Broken, taken)
}

fn new(on_drop: End, taken: Option<Taken>) -> (Writer, Reader) {
    let state = Arc::new(Mutex::new(State::default()));
    let writer = Writer {
        state: Arc::clone(&state),
        on_drop,
    };
    (writer, Reader { state, taken })
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the client is gone")
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads this stream")
}

impl Handle {
    /// The client is gone: both ends fail from now on.
    pub(crate) fn break_off(&self) {
        let mut state = lock(&self.0);
        state.finish(End::Broken);
        state.pieces.clear();
        state.tail = BytesMut::new();
        state.held = 0;
    }

    /// No more bytes; those in the pipe are still read.
    pub(crate) fn finish(&self) {
        lock(&self.0).finish(End::Finished);
    }
}

impl Reader {
    pub(crate) fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.state))
    }

    /// Whether no more bytes will come behind those that are here.
    pub(crate) fn ended(&self) -> bool {
        lock(&self.state).end.is_some()
    }

    fn poll_piece(
        &self,
        context: &mut Context<'_>,
        most: usize,
    ) -> Poll<io::Result<Option<Bytes>>> {
        let mut state = lock(&self.state);
        if state.end == Some(End::Broken) {
            return Poll::Ready(Err(gone()));
        }
        if let Some(piece) = state.take(most) {
            state.writing.take().into_iter().for_each(Waker::wake);
            drop(state);
            if let Some(taken) = &self.taken {
                taken(piece.len());
            }
            return Poll::Ready(Ok(Some(piece)));
        }
        if state.end.is_some() {
            return Poll::Ready(Ok(None));
        }
        state.reading = Some(context.waker().clone());
        Poll::Pending
    }

    /// The next bytes, at most so many, without copying them; `None` at the end.
    ///
    /// # Errors
    ///
    /// If the client is gone.
    pub async fn piece(&mut self, most: usize) -> io::Result<Option<Bytes>> {
        poll_fn(|context| self.poll_piece(context, most)).await
    }
}

impl Writer {
    pub(crate) fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.state))
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<io::Result<MutexGuard<'_, State>>> {
        let mut state = lock(&self.state);
        if state.abandoned || state.end.is_some() {
            return Poll::Ready(Err(closed()));
        }
        if state.held >= limits::PIPE {
            state.writing = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(state))
    }

    /// Writes a whole piece without copying it, when there is room.
    ///
    /// # Errors
    ///
    /// If nobody reads this stream any more.
    pub async fn send(&mut self, piece: Bytes) -> io::Result<()> {
        let mut piece = Some(piece);
        poll_fn(|context| {
            let mut state = std::task::ready!(self.poll_room(context))?;
            if let Some(piece) = piece.take().filter(|piece| !piece.is_empty()) {
                state.push(piece);
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// No more bytes will come.
    pub fn finish(&mut self) {
        lock(&self.state).finish(End::Finished);
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(piece) = std::task::ready!(self.poll_piece(context, buffer.remaining()))? {
            buffer.put_slice(&piece);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = std::task::ready!(self.poll_room(context))?;
        let bytes = &bytes[..bytes.len().min(limits::PIECE)];
        if !bytes.is_empty() {
            if bytes.len() < limits::SMALL {
                state.append(bytes);
            } else {
                state.push(Bytes::copy_from_slice(bytes));
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.abandoned = true;
        state.pieces.clear();
        state.tail = BytesMut::new();
        state.held = 0;
        state.wake();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        if state.end.is_none() {
            state.finish(self.on_drop);
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writer")
    }
}
