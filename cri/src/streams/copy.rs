//! From the program to the client and back.
//!
//! When a program has ended, what it wrote lies in its pipe and is passed on, however long the client takes;
//! but others may have the pipe open still, and they are waited for a moment only ([`DRAIN`]).

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// What all kept outputs have together, but for [`FEW`] of each: probes of many pods may all be hostile.
const ALL: usize = 128 << 20;
/// What each may have whatever the others do.
const FEW: usize = 64 << 10;

/// Where output goes.
pub(super) enum Sink<'a> {
    /// To a client, at its pace.
    Client(Writer),
    /// To be answered.
    Kept(&'a mut Kept),
}

/// Output that is kept: its beginning. All of them together keep no more than [`ALL`], and each [`FEW`].
#[derive(Debug)]
pub(super) struct Kept {
    bytes: Vec<u8>,
    most: usize,
    all: &'static AtomicUsize,
}

impl Kept {
    pub(super) fn new(most: usize) -> Self {
        static KEPT: AtomicUsize = AtomicUsize::new(0);
        Self::of(most, &KEPT)
    }

    fn of(most: usize, all: &'static AtomicUsize) -> Self {
        Self {
            bytes: Vec::new(),
            most,
            all,
        }
    }

    /// What is too much is read and dropped, so that the program does not wait.
    fn add(&mut self, more: &[u8]) {
        let wanted = more.len().min(self.most - self.bytes.len());
        let free = FEW.saturating_sub(self.bytes.len());
        let others = self.all.load(Ordering::Relaxed);
        let count = wanted.min(free.max(ALL.saturating_sub(others)));
        self.all.fetch_add(count, Ordering::Relaxed);
        self.bytes.extend_from_slice(&more[..count]);
    }

    /// What was kept.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.all.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.take();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_is_kept() {
        let mut kept = Kept::new(10);
        kept.add(b"1234567");
        kept.add(b"89abc");
        kept.add(b"d");
        assert_eq!(kept.take(), b"123456789a");
    }

    #[test]
    fn many_outputs_share_what_there_is() {
        static SHARED: AtomicUsize = AtomicUsize::new(0);
        let piece = vec![0; 1 << 20];
        let mut greedy: Vec<Kept> = (0..10).map(|_| Kept::of(16 << 20, &SHARED)).collect();
        for kept in &mut greedy {
            (0..20).for_each(|_| kept.add(&piece));
        }
        let held: usize = greedy.iter().map(|kept| kept.bytes.len()).sum();
        assert!((ALL..=ALL + 10 * FEW).contains(&held), "{held}");
        let mut modest = Kept::of(16 << 20, &SHARED);
        (0..20).for_each(|_| modest.add(&piece[..FEW / 10]));
        assert_eq!(modest.take().len(), FEW);
        drop(greedy);
        assert_eq!(SHARED.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn waiting_pieces_are_tight() {
        let mut buffer = BytesMut::with_capacity(PIECE);
        buffer.extend_from_slice(b"little");
        let piece = tight(buffer);
        assert_eq!(&piece[..], b"little");
        assert!(BytesMut::from(piece).capacity() < 64);
    }
}
