//! From the program to the client and back.
//!
//! When a program has ended, what it wrote lies in its pipe and is passed on, however long the client takes;
//! but others may have the pipe open still, and they are waited for a moment only ([`DRAIN`]).

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rcrun_streaming::{Reader, Writer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How long those who have a program's output open may go on writing when it has ended.
pub(super) const DRAIN: Duration = Duration::from_secs(1);
/// What is read at once.
pub(super) const PIECE: usize = 32 << 10;
/// What can lie in a terminal, whose kernel does not tell.
const IN_TERMINAL: usize = 64 << 10;

/// Where output goes.
pub(super) enum Sink<'a> {
    /// To a client, at its pace.
    Client(Writer),
    /// To be answered.
    Kept(&'a mut Kept),
}

/// Output that is kept: its beginning.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) bytes: Vec<u8>,
    most: usize,
}

impl Kept {
    pub(super) fn new(most: usize) -> Self {
        Self {
            bytes: Vec::new(),
            most,
        }
    }

    /// What is too much is read and dropped, so that the program does not wait.
    fn add(&mut self, more: &[u8]) {
        let room = self.most - self.bytes.len();
        self.bytes.extend_from_slice(&more[..more.len().min(room)]);
    }
}

impl Sink<'_> {
    async fn put(&mut self, piece: Bytes) -> io::Result<()> {
        match self {
            Self::Client(writer) => writer.send(piece).await,
            Self::Kept(kept) => {
                kept.add(&piece);
                Ok(())
            }
        }
    }
}

/// Passes output on until its end, or until nobody reads it.
pub(super) async fn output(
    from: Option<pipe::Receiver>,
    to: Option<Sink<'_>>,
    mut ended: watch::Receiver<bool>,
) {
    let (Some(mut from), Some(mut to)) = (from, to) else {
        return;
    };
    loop {
        let piece = tokio::select! {
            piece = read(&mut from) => piece,
            _ = ended.wait_for(|ended| *ended) => break,
        };
        let Some(piece) = piece else { return };
        if to.put(piece).await.is_err() {
            return;
        }
    }
    let mut owed = waiting(&from);
    let last = Instant::now() + DRAIN;
    while owed > 0 || Instant::now() < last {
        let limit = match owed {
            0 => last,
            _ => Instant::now() + DRAIN,
        };
        let Ok(Some(piece)) = timeout_at(limit, read(&mut from)).await else {
            return;
        };
        owed = owed.saturating_sub(piece.len());
        if to.put(piece).await.is_err() {
            return;
        }
    }
}

/// The next piece; none at the end. A terminal's end is EIO. Who waits has no buffer.
async fn read(from: &mut pipe::Receiver) -> Option<Bytes> {
    loop {
        from.readable().await.ok()?;
        let mut buffer = BytesMut::with_capacity(PIECE);
        match from.try_read_buf(&mut buffer) {
            Ok(0) => return None,
            Ok(_) => return Some(tight(buffer)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}

/// Bytes that take no more room than they are: a piece may wait long, and for others like it.
pub(super) fn tight(buffer: BytesMut) -> Bytes {
    match buffer.len() == buffer.capacity() {
        true => buffer.freeze(),
        false => Bytes::copy_from_slice(&buffer),
    }
}

/// How much is there at this moment.
fn waiting(from: &pipe::Receiver) -> usize {
    if rustix::termios::isatty(from) {
        return IN_TERMINAL;
    }
    let there = rustix::io::ioctl_fionread(from).unwrap_or_default();
    usize::try_from(there).unwrap_or(usize::MAX)
}

/// Passes input on until its end, which is passed on too, or until the client is gone or the program reads
/// no more.
pub(super) async fn input(from: Option<Reader>, to: Option<pipe::Sender>) {
    let (Some(mut from), Some(mut to)) = (from, to) else {
        return;
    };
    loop {
        match from.piece(PIECE).await {
            Ok(Some(piece)) => {
                if to.write_all(&piece).await.is_err() {
                    return;
                }
            }
            Ok(None) => {
                if let Some(end) = end_of_input(&to) {
                    // Of a terminal that was hung up nobody wants to know.
                    let _ = to.write_all(&[end]).await;
                }
                return;
            }
            Err(_) => return,
        }
    }
}

/// The character that ends the input of a terminal whose program reads lines.
fn end_of_input(to: impl AsFd) -> Option<u8> {
    use rustix::termios::{LocalModes, SpecialCodeIndex, tcgetattr};
    // It is a pipe, most likely.
    let modes = tcgetattr(to).ok()?;
    let lines = modes.local_modes.contains(LocalModes::ICANON);
    lines.then(|| modes.special_codes[SpecialCodeIndex::VEOF])
}
