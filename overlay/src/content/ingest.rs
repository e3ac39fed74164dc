//! How a blob arrives: in pieces, from several connections, across restarts; verified while it is
//! written, and readable while it is incomplete.
//!
//! The bytes go to `content/incoming/ALGORITHM-HEX.part`, whose flock says that somebody is at it,
//! and `.map` beside it says what has arrived. Neither is synced before the end: both survive a
//! killed process, and after a power cut the digest tells that resumed bytes are wrong
//! ([`Mismatch::resumed`]), whereupon the blob is fetched anew, once.
//!
//! The hash follows the bytes that have arrived without a gap. Bytes that arrive in order are hashed
//! from memory, others are read back when the gap before them has closed, which is soon, while the
//! page cache still has them. No more than [`CATCH_UP`] is read back in one write, lest a connection
//! starve.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::segments::{MAX_MAP, SEGMENT, Segments};
use super::store::{Blob, Content, Expected, final_name, map_name, part_name};
use crate::digest::{Algorithm, Hasher};
use crate::lease::{Lease, Root};
use crate::lock::{self, Kind};
use crate::{Context, Digest, Error, ErrorKind, Result, durable, tree};

/// Progress is recorded at least this often: what a killed process may have to fetch again.
pub const STEP: usize = 64 << 10;

/// How much is read at once where bytes are hashed that are no longer in memory.
pub(super) const READ_BACK: usize = 256 << 10;

/// How much one write may read back.
const CATCH_UP: u64 = 1 << 20;

/// The disk is kept busy in portions of this size.
const WRITE_BACK: u64 = 8 << 20;

/// Who opens a file in `incoming/` and finds something else there removes it, so often.
const ATTEMPTS: usize = 4;

/// A blob that is being got. Dropped before it is committed, it leaves what has arrived to the next
/// one who wants it.
#[derive(Debug)]
pub struct Ingest {
    content: Content,
    lease: Lease,
    /// In `content/incoming`.
    name: String,
    digest: Option<Digest>,
    resumed: u64,
    shared: Arc<Shared>,
    committed: bool,
}

#[derive(Debug)]
struct Shared {
    /// What it is, for messages.
    words: String,
    part: File,
    map: Option<File>,
    /// Nothing of it is worth keeping.
    discard: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    segments: Segments,
    /// Up to where bytes were hashed.
    hashed: u64,
    /// Away while somebody uses it.
    hasher: Option<Hasher>,
    end: End,
}

#[derive(Debug)]
enum End {
    Open,
    Verified,
    Failed(String),
}

/// What verification found.
#[derive(Debug)]
pub enum Outcome {
    /// All bytes have arrived and are the right ones.
    Whole(Verified),
    /// They are not; nothing of them is kept.
    Mismatch(Mismatch),
}

/// Bytes that are not what they should be.
#[derive(Debug)]
pub struct Mismatch {
    /// Some of them were left by an earlier process: fetching all of them anew may help.
    pub resumed: bool,
    /// What they are.
    pub found: Digest,
    /// The same in words.
    pub error: Error,
}

impl Outcome {
    /// The verified blob, or the error.
    pub fn whole(self) -> Result<Verified> {
        match self {
            Self::Whole(verified) => Ok(verified),
            Self::Mismatch(mismatch) => Err(mismatch.error),
        }
    }
}

/// A blob with the right bytes, which is not in its place yet.
#[derive(Debug)]
pub struct Verified {
    ingest: Ingest,
    digest: Digest,
    size: u64,
}

/// A part of a blob that one connection fetches. What it did not write when it is dropped is handed
/// out again.
#[derive(Debug)]
pub struct Piece {
    shared: Arc<Shared>,
    range: std::ops::Range<u64>,
}

/// Reads a blob while it arrives: waits for bytes, and ends only after all of them were verified. So
/// whoever reads to the end has read the right bytes.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    at: u64,
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
            shared: Shared::new(Some(digest), part, Some(map), segments),
            committed: false,
        };
        ingest.write_map()?;
        Ok(ingest)
    }

    /// Begins a blob of which nothing is known.
    pub(super) fn anonymous(content: &Content, lease: &Lease) -> Result<Self> {
        loop {
            let name = durable::temporary_name();
            let part = open_private(content, &name)?;
            lock::lock(&part, Kind::Exclusive, &mut |_| Ok(()))?;
            // Between the two it looked abandoned.
            if lock::is_named(content.store().incoming_fd(), &name, &part)? {
                return Ok(Self {
                    content: content.clone(),
                    lease: lease.clone(),
                    name,
                    digest: None,
                    resumed: 0,
                    shared: Shared::new(None, part, None, Segments::new(None)?),
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
        Reader {
            shared: Arc::clone(&self.shared),
            at: 0,
        }
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

impl Shared {
    /// A full disk is given back what was taken; a broken one is not trusted with what it has.
    fn note(&self, error: &io::Error) {
        let raw = error.raw_os_error().map(Errno::from_raw_os_error);
        if matches!(raw, Some(Errno::NOSPC | Errno::DQUOT | Errno::IO)) {
            self.discard.store(true, Ordering::Relaxed);
        }
    }

    /// Writes bytes that lie within one segment.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
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

impl Verified {
    /// What it is.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Puts it into its place, durably.
    pub fn commit(self) -> Result<Blob> {
        let mut blobs = commit_all(vec![self])?;
        blobs
            .pop()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "no blob was committed"))
    }

    fn sync(&self) -> Result<()> {
        let part = &self.ingest.shared.part;
        rustix::fs::fchmod(part, Mode::from(0o444))
            .map_err(io::Error::from)
            .and_then(|()| part.sync_all())
            .inspect_err(|_| {
                // After a failed sync the kernel takes the lost pages for clean.
                self.ingest.shared.discard.store(true, Ordering::Relaxed);
            })
            .context(|| format!("cannot sync blob {}", self.digest))
    }

    fn rename(&mut self, directories: &mut Directories) -> Result<()> {
        let content = &self.ingest.content;
        let (algorithm, shard, name) = final_name(&self.digest);
        let directory = directories.shard(content, algorithm, shard)?;
        rustix::fs::renameat(
            content.store().incoming_fd(),
            &self.ingest.name,
            directory,
            name,
        )
        .context(|| format!("cannot rename {} to {name}", self.ingest.name))?;
        self.ingest.committed = true;
        if let Some(digest) = &self.ingest.digest {
            let _ = tree::unlink(content.store().incoming_fd(), &*map_name(digest));
        }
        Ok(())
    }
}

/// Puts blobs into their places. When it returns they are there also after a power cut; before, each
/// of them is there whole or not at all. Directories are synced once for all.
pub fn commit_all(blobs: Vec<Verified>) -> Result<Vec<Blob>> {
    let mut directories = Directories::default();
    let mut present = Vec::with_capacity(blobs.len());
    for mut verified in blobs {
        let content = verified.ingest.content.clone();
        if content.contains(&verified.digest)? {
            verified
                .ingest
                .shared
                .discard
                .store(true, Ordering::Relaxed);
        } else {
            verified.sync()?;
            verified.rename(&mut directories)?;
        }
        present.push((content, verified.digest.clone()));
    }
    directories.sync()?;
    let open = |(content, digest): (Content, Digest)| {
        content
            .open(&digest)?
            .ok_or_else(|| Error::new(ErrorKind::Internal, format!("blob {digest} vanished")))
    };
    present.into_iter().map(open).collect()
}

/// The directories that got new names and are to be synced, by their names.
#[derive(Default)]
struct Directories(BTreeMap<String, OwnedFd>);

impl Directories {
    fn shard(&mut self, content: &Content, algorithm: &str, shard: &str) -> Result<&OwnedFd> {
        let path = format!("{algorithm}/{shard}");
        if !self.0.contains_key(&path) {
            let root = durable::open_directory(content.store().content_fd(), ".")?;
            let parent = self.enter(root, String::new(), algorithm)?;
            let open = self.enter(parent, algorithm.to_owned(), shard)?;
            self.0.insert(path.clone(), open);
        }
        Ok(&self.0[&path])
    }

    /// Opens a directory; if it has to be made, its parent is one to be synced.
    fn enter(&mut self, parent: OwnedFd, parent_path: String, name: &str) -> Result<OwnedFd> {
        match rustix::fs::mkdirat(&parent, name, Mode::from(0o700)) {
            Ok(()) => {
                let open = durable::open_directory(&parent, name);
                self.0.insert(parent_path, parent);
                open
            }
            Err(Errno::EXIST) => durable::open_directory(&parent, name),
            Err(errno) => Err(errno).context(|| format!("cannot make content/{name}")),
        }
    }

    fn sync(self) -> Result<()> {
        self.0.values().try_for_each(durable::sync_directory)
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

impl Shared {
    fn new(
        digest: Option<&Digest>,
        part: File,
        map: Option<File>,
        segments: Segments,
    ) -> Arc<Self> {
        let algorithm = digest.map_or(Algorithm::Sha256, Digest::algorithm);
        let state = State {
            segments,
            hashed: 0,
            hasher: Some(algorithm.hasher()),
            end: End::Open,
        };
        Arc::new(Self {
            words: digest.map_or("the new blob".to_owned(), |digest| format!("blob {digest}")),
            discard: AtomicBool::new(false),
            part,
            map,
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End) {
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
    fn follow(&self, offset: u64, bytes: &[u8], mut budget: u64) -> Result<()> {
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
            Err(Errno::LOOP | Errno::NXIO) => {}
            Err(errno) => return Err(errno).context(|| format!("cannot open {name}")),
        }
        tree::unlink(incoming, name)?;
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        format!("cannot open {name}: something else keeps appearing in its place"),
    ))
}
