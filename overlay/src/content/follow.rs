//! Who follows a blob that arrives: its hash, its way to the disk, and those who read it already.
//!
//! The hash follows the bytes that have arrived without a gap. Bytes that arrive in order are hashed
//! from memory, others are read back when the gap before them has closed, which is soon, while the
//! page cache still has them. No more than [`CATCH_UP`] is read back in one write, lest a connection
//! starve. What was hashed goes to the disk at once, in the background.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::segments::Segments;
use crate::digest::{Algorithm, Hasher};
use crate::{Context, Result};

/// How much is read at once where bytes are hashed that are no longer in memory.
pub(super) const READ_BACK: usize = 256 << 10;

/// How much one write may read back.
pub(super) const CATCH_UP: u64 = 1 << 20;

/// The disk is kept busy in portions of this size.
const WRITE_BACK: u64 = 8 << 20;

/// What the writers and readers of a blob share.
#[derive(Debug)]
pub(super) struct Shared {
    /// What it is, for messages.
    pub(super) words: String,
    /// Nothing of it is worth keeping.
    pub(super) discard: AtomicBool,
    pub(super) part: File,
    pub(super) map: Option<File>,
    state: Mutex<State>,
    pub(super) changed: Condvar,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) segments: Segments,
    /// Up to where bytes were hashed.
    pub(super) hashed: u64,
    /// Away while somebody uses it.
    pub(super) hasher: Option<Hasher>,
    pub(super) end: End,
}

#[derive(Debug)]
pub(super) enum End {
    Open,
    Verified,
    Failed(String),
}

/// Reads a blob while it arrives: waits for bytes, and ends only after all of them were verified. So
/// whoever reads to the end has read the right bytes.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    at: u64,
}

impl Shared {
    pub(super) fn new(
        words: String,
        algorithm: Algorithm,
        part: File,
        map: Option<File>,
        segments: Segments,
    ) -> Arc<Self> {
        let state = State {
            segments,
            hashed: 0,
            hasher: Some(algorithm.hasher()),
            end: End::Open,
        };
        Arc::new(Self {
            words,
            discard: AtomicBool::new(false),
            part,
            map,
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    /// A full disk is given back what was taken; a broken one is not trusted with what it has.
    pub(super) fn note(&self, error: &io::Error) {
        let raw = error.raw_os_error().map(Errno::from_raw_os_error);
        if matches!(raw, Some(Errno::NOSPC | Errno::DQUOT | Errno::IO)) {
            self.discard.store(true, Ordering::Relaxed);
        }
    }

    /// Writes bytes that lie within one segment.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.part
            .write_all_at(bytes, offset)
            .inspect_err(|error| self.note(error))
            .context(|| format!("cannot write {}", self.words))?;
        let mut state = self.lock();
        let (place, number) = state.segments.advance(offset, bytes.len() as u64);
        drop(state);
        self.changed.notify_all();
        if let Some(map) = &self.map {
            // Only who resumes misses it.
            let _ = map.write_all_at(&number.to_le_bytes(), place);
        }
        self.follow(offset, bytes, CATCH_UP)
            .context(|| format!("cannot read {} back", self.words))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end(&self, end: End) {
        self.lock().end = end;
        self.changed.notify_all();
    }

    /// Lets the kernel begin to write what was hashed, so that little is left for the sync at the end.
    /// What is not on the disk yet stays in memory.
    fn write_back(&self, end: u64) {
        let length = std::num::NonZero::new(WRITE_BACK);
        // Only advice.
        let start = end.saturating_sub(WRITE_BACK);
        let _ = rustix::fs::fadvise(&self.part, start, length, rustix::fs::Advice::DontNeed);
    }

    /// Hashes what has arrived without a gap: `bytes`, which were just written at `offset`, from
    /// memory, and up to `budget` others from the file. One at a time does this; others go on.
    pub(super) fn follow(&self, offset: u64, bytes: &[u8], mut budget: u64) -> Result<()> {
        let mut buffer = Vec::new();
        let mut state = self.lock();
        loop {
            let (from, to) = (state.hashed, state.segments.contiguous());
            let in_memory = from
                .checked_sub(offset)
                .filter(|skip| *skip < bytes.len() as u64);
            if from >= to || (in_memory.is_none() && budget == 0) {
                return Ok(());
            }
            let Some(mut hasher) = state.hasher.take() else {
                return Ok(());
            };
            drop(state);
            let count = if let Some(skip) = in_memory {
                let rest = &bytes[usize::try_from(skip).unwrap_or(usize::MAX)..];
                hasher.update(rest);
                rest.len()
            } else {
                // Up to the bytes in memory, if they come next.
                let until = if from < offset { to.min(offset) } else { to };
                let wanted = (until - from).min(budget).min(READ_BACK as u64);
                buffer.resize(usize::try_from(wanted).unwrap_or(READ_BACK), 0);
                self.part.read_exact_at(&mut buffer, from)?;
                hasher.update(&buffer);
                budget -= wanted;
                buffer.len()
            };
            let end = from + count as u64;
            if from / WRITE_BACK != end / WRITE_BACK {
                self.write_back(end / WRITE_BACK * WRITE_BACK);
            }
            state = self.lock();
            state.hasher = Some(hasher);
            state.hashed = end;
        }
    }
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, at: 0 }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut state = self.shared.lock();
        let there = loop {
            match &state.end {
                End::Failed(why) => return Err(io::Error::other(why.clone())),
                End::Verified | End::Open if state.segments.contiguous() > self.at => {
                    break state.segments.contiguous() - self.at;
                }
                End::Verified => return Ok(0),
                End::Open => {}
            }
            let waited = self.shared.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        let wanted = buffer
            .len()
            .min(usize::try_from(there).unwrap_or(usize::MAX));
        let count = self.shared.part.read_at(&mut buffer[..wanted], self.at)?;
        if count == 0 && wanted > 0 {
            return Err(io::Error::other("a blob became shorter while it was read"));
        }
        self.at += count as u64;
        Ok(count)
    }
}
