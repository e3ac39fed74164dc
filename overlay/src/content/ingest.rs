//! How a blob arrives: in pieces, from several connections, across restarts; verified while it is
//! written, and readable while it is incomplete.
//!
//! The bytes go to `content/incoming/ALGORITHM-HEX.part`, whose flock says that somebody is at it,
//! and `.map` beside it says what has arrived. Neither is synced before the end: both survive a
//! killed process, and after a power cut the digest tells that resumed bytes are wrong
//! ([`Mismatch::resumed`]), whereupon the blob is fetched anew, once.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::follow::{End, Reader, Shared};
use super::segments::{MAX_MAP, SEGMENT, Segments};
use super::store::{Blob, Content, Expected, map_name, part_name};
use super::verified::{Mismatch, Outcome, Verified};
use crate::digest::Algorithm;
use crate::lease::{Lease, Root};
use crate::lock::{self, Kind};
use crate::{Context, Digest, Error, ErrorKind, Result, durable, tree};

/// Progress is recorded at least this often: what a killed process may have to fetch again.
pub const STEP: usize = 64 << 10;

/// Who opens a file in `incoming/` and finds something else there removes it, so often.
const ATTEMPTS: usize = 4;

/// A blob that is being got. Dropped before it is committed, it leaves what has arrived to the next
/// one who wants it.
#[derive(Debug)]
pub struct Ingest {
    pub(super) content: Content,
    lease: Lease,
    /// In `content/incoming`.
    pub(super) name: String,
    pub(super) digest: Option<Digest>,
    resumed: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) committed: bool,
}

/// A part of a blob that one connection fetches. What it did not write when it is dropped is handed
/// out again.
#[derive(Debug)]
pub struct Piece {
    shared: Arc<Shared>,
    range: std::ops::Range<u64>,
}

impl Ingest {
    /// Goes on with a locked `.part`, which may be new.
    pub(super) fn resume(
        content: &Content,
        lease: &Lease,
        expected: &Expected,
        part: File,
    ) -> Result<Self> {
        let digest = &expected.digest;
        let mut segments = Segments::new(expected.size)?;
        let map = open_private(content, &map_name(digest))
            .context(|| format!("cannot create the map of blob {digest}"))?;
        let mut recorded = Vec::new();
        (&map)
            .take(MAX_MAP)
            .read_to_end(&mut recorded)
            .context(|| format!("cannot read the map of blob {digest}"))?;
        let length = part.metadata()?.len();
        segments.resume(&recorded, length);
        let resumed = segments.arrived();
        let keep = expected.size.filter(|_| resumed > 0).unwrap_or(0);
        if length > keep {
            part.set_len(keep)
                .context(|| format!("cannot truncate {}", part_name(digest)))?;
        }
        let ingest = Self {
            content: content.clone(),
            lease: lease.clone(),
            name: part_name(digest),
            digest: Some(digest.clone()),
            resumed,
            shared: Shared::new(
                format!("blob {digest}"),
                digest.algorithm(),
                part,
                Some(map),
                segments,
            ),
            committed: false,
        };
        ingest.write_map()?;
        Ok(ingest)
    }

    /// Begins a blob of which nothing is known.
    pub(super) fn anonymous(
        content: &Content,
        lease: &Lease,
        algorithm: Algorithm,
    ) -> Result<Self> {
        loop {
            let name = durable::temporary_name();
            let part = open_private(content, &name)?;
            lock::lock(&part, Kind::Exclusive, &mut |_| Ok(()))?;
            // Between the two it looked abandoned.
            if lock::is_named(content.store().incoming_fd(), &name, &part)? {
                let words = "the new blob".to_owned();
                let segments = Segments::new(None)?;
                return Ok(Self {
                    content: content.clone(),
                    lease: lease.clone(),
                    name,
                    digest: None,
                    resumed: 0,
                    shared: Shared::new(words, algorithm, part, None, segments),
                    committed: false,
                });
            }
        }
    }

    /// The size, if it is known.
    pub fn size(&self) -> Option<u64> {
        self.shared.lock().segments.size()
    }

    /// How many bytes have arrived so far, with those of earlier attempts.
    pub fn arrived(&self) -> u64 {
        self.shared.lock().segments.arrived()
    }

    /// How many bytes earlier attempts left.
    pub fn resumed(&self) -> u64 {
        self.resumed
    }

    /// Whether nothing is missing. Never true while the size is unknown.
    pub fn is_complete(&self) -> bool {
        let state = self.shared.lock();
        state.segments.size().is_some() && state.segments.is_complete()
    }

    /// Hands out missing bytes that nobody else fetches: at least to the end of their segment, and
    /// more until there are `at_least`, as far as nothing of them is there. One connection asks for
    /// `u64::MAX`, each of several for [`SEGMENT`]. None if there is nothing to do at the moment.
    pub fn claim(&self, at_least: u64) -> Option<Piece> {
        let range = self.shared.lock().segments.claim(at_least)?;
        let shared = Arc::clone(&self.shared);
        Some(Piece { shared, range })
    }

    /// Reads from the beginning, in another thread than the one that verifies.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.shared))
    }

    /// Sees whether all has arrived and is right. If something is missing that is an error, and what
    /// is there stays for the next attempt.
    pub fn verify(self) -> Result<Outcome> {
        let words = &self.shared.words;
        let mut state = self.shared.lock();
        let size = state.segments.contiguous();
        if !state.segments.is_complete() {
            let (arrived, size) = (state.segments.arrived(), state.segments.size().unwrap_or(0));
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("{words} is incomplete: {arrived} of {size} bytes have arrived"),
            ));
        }
        drop(state);
        self.shared
            .follow(0, &[], u64::MAX)
            .context(|| format!("cannot read {words} back"))?;
        state = self.shared.lock();
        let Some(hasher) = state.hasher.take().filter(|_| state.hashed == size) else {
            drop(state);
            return Err(Error::new(
                ErrorKind::Internal,
                format!("{words} was not hashed whole"),
            ));
        };
        let found = hasher.finish();
        if let Some(digest) = self.digest.as_ref().filter(|digest| **digest != found) {
            let error = Error::new(
                ErrorKind::Corrupt,
                format!("refuse blob {digest}: the {size} bytes that arrived have digest {found}"),
            );
            drop(state);
            self.shared.end(End::Failed(error.to_string()));
            self.shared.discard.store(true, Ordering::Relaxed);
            let resumed = self.resumed > 0;
            return Ok(Outcome::Mismatch(Mismatch {
                resumed,
                found,
                error,
            }));
        }
        drop(state);
        // Before it gets its name, or the sweep could take it right away.
        self.lease.hold(&[Root::Blob(found.clone())])?;
        self.shared.end(End::Verified);
        Ok(Outcome::Whole(Verified {
            ingest: self,
            digest: found,
            size,
        }))
    }

    /// Verifies and puts it into its place.
    pub fn commit(self) -> Result<Blob> {
        self.verify()?.whole()?.commit()
    }

    /// Gives up, and leaves nothing behind.
    pub fn discard(self) {
        self.shared.discard.store(true, Ordering::Relaxed);
    }

    fn write_map(&self) -> Result<()> {
        let Some(map) = &self.shared.map else {
            return Ok(());
        };
        let bytes = self.shared.lock().segments.encode();
        // Shortened after it was written, so that a process killed between the two loses nothing.
        map.write_all_at(&bytes, 0)
            .and_then(|()| map.set_len(bytes.len() as u64))
            .inspect_err(|error| self.shared.note(error))
            .context(|| format!("cannot write the map of {}", self.shared.words))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if matches!(self.shared.lock().end, End::Open) {
            self.shared
                .end(End::Failed(format!("{} was given up", self.shared.words)));
        }
        if !self.committed && (self.digest.is_none() || self.shared.discard.load(Ordering::Relaxed))
        {
            discard(&self.content, self.digest.as_ref(), &self.name);
        }
        // Readers may keep the file open.
        lock::unlock(&self.shared.part);
    }
}

impl Piece {
    /// Where the next byte belongs.
    pub fn start(&self) -> u64 {
        self.range.start
    }

    /// Where the piece ends; none if nobody knows.
    pub fn end(&self) -> Option<u64> {
        self.shared.lock().segments.size().map(|_| self.range.end)
    }

    /// Takes the next bytes. More than the piece has are refused, and none of them is written.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        if bytes.len() as u64 > self.range.end - self.range.start {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "refuse more bytes than expected of {}: {} at offset {}, where {} are missing",
                    self.shared.words,
                    bytes.len(),
                    self.range.start,
                    self.range.end - self.range.start
                ),
            ));
        }
        while !bytes.is_empty() {
            let room = SEGMENT - self.range.start % SEGMENT;
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let (step, rest) = bytes.split_at(bytes.len().min(STEP).min(room));
            self.shared.write(self.range.start, step)?;
            self.range.start += step.len() as u64;
            bytes = rest;
        }
        Ok(())
    }
}

impl Write for Piece {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = Piece::write(self, bytes);
        written.map(|()| bytes.len()).map_err(io::Error::other)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.shared.lock().segments.release(self.range.clone());
    }
}

/// Removes an unfinished blob. Only for who holds its lock.
pub(super) fn discard(content: &Content, digest: Option<&Digest>, name: &str) {
    let incoming = content.store().incoming_fd();
    // What cannot be removed is swept later.
    if let Some(digest) = digest {
        let _ = tree::unlink(incoming, &*map_name(digest));
    }
    let _ = tree::unlink(incoming, name);
}

/// Opens or creates a regular file in `incoming/` that has no other name. Whatever else has the name
/// is removed: written through a link or a second name, it would change something else.
pub(super) fn open_private(content: &Content, name: &str) -> Result<File> {
    let incoming = content.store().incoming_fd();
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    for _ in 0..ATTEMPTS {
        match rustix::fs::openat(incoming, name, flags, Mode::from(0o600)) {
            Ok(file) => {
                let stat = rustix::fs::fstat(&file)?;
                if tree::is_regular(&stat) && stat.st_nlink <= 1 {
                    return Ok(File::from(file));
                }
            }
            // A link; a socket; a blob whose commit was interrupted, for who is not root.
            Err(Errno::LOOP | Errno::NXIO | Errno::ACCESS) => {}
            Err(errno) => return Err(errno).context(|| format!("cannot open {name}")),
        }
        tree::unlink(incoming, name)?;
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        format!("cannot open {name}: something else keeps appearing in its place"),
    ))
}
