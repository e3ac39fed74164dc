//! One blob of a pull: fetched, while another thread may read what has arrived.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};

use rcrun_overlay::content::{self, Expected, Ingest, Outcome, Piece, Verified};

use super::{Event, Pull, lock};
use crate::document::Descriptor;
use crate::registry::download::Sink;
use crate::{Error, ErrorKind, Result};

/// Where the bytes of a blob are to be read, for who unpacks it.
#[derive(Debug, Default)]
pub(super) struct Source {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    attempt: u32,
    bytes: Bytes,
    /// No further attempt will be made: what the last one gave is whole, or everything has failed.
    over: bool,
}

#[derive(Debug, Default)]
enum Bytes {
    #[default]
    None,
    /// Taken by the first reader of an attempt.
    Arriving(Option<content::Reader>),
    There(File),
    Failed,
}

/// One attempt to get a blob.
pub(super) struct Attempt {
    /// Which one.
    pub(super) number: u32,
    /// Its bytes.
    pub(super) bytes: Box<dyn Read + Send>,
}

impl Source {
    /// Of a blob that is there.
    pub(super) fn there(file: File) -> Self {
        let source = Self::default();
        source.set(|state| {
            state.attempt = 1;
            state.bytes = Bytes::There(file);
            state.over = true;
        });
        source
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
        self.changed.notify_all();
    }

    fn begin(&self, reader: content::Reader) {
        self.set(|state| {
            state.attempt += 1;
            state.bytes = Bytes::Arriving(Some(reader));
        });
    }

    /// What the last attempt gave is whole.
    pub(super) fn end(&self) {
        self.set(|state| state.over = true);
    }

    /// Everything has failed.
    pub(super) fn fail(&self) {
        self.set(|state| {
            state.bytes = Bytes::Failed;
            state.over = true;
        });
    }

    fn wait(&self, until: impl Fn(&State) -> bool) -> std::sync::MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        while !until(&state) {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state
    }

    /// Waits for an attempt after this one; none if the blob will never be there.
    pub(super) fn after(&self, number: u32) -> Option<Attempt> {
        let mut state = self.wait(|state| state.attempt > number || state.over);
        let number = state.attempt;
        let bytes: Box<dyn Read + Send> = match &mut state.bytes {
            Bytes::Arriving(reader) => Box::new(reader.take()?),
            Bytes::There(file) => Box::new(file.try_clone().ok()?),
            Bytes::None | Bytes::Failed => return None,
        };
        Some(Attempt { number, bytes })
    }

    /// Whether an attempt's bytes turned out to be no good, so that another one may follow. Waits
    /// until that is known.
    pub(super) fn was_in_vain(&self, number: u32) -> bool {
        let state = self.wait(|state| state.attempt > number || state.over);
        state.attempt > number || matches!(state.bytes, Bytes::Failed)
    }
}

impl Pull<'_> {
    /// Gets one blob and puts it into its place, durably; false if it was there.
    pub(super) fn fetch(&self, wanted: &Descriptor, source: &Source) -> Result<bool> {
        let Some(verified) = self.get(wanted, source)? else {
            return Ok(false);
        };
        verified.commit()?;
        source.end();
        (self.request.watch)(Event::Fetched(wanted.digest.clone()));
        Ok(true)
    }

    /// Gets one blob; none if it was there.
    pub(super) fn get(&self, wanted: &Descriptor, source: &Source) -> Result<Option<Verified>> {
        let digest = &wanted.digest;
        let watch = self.request.watch;
        let ingest = match self.claim(wanted)? {
            content::Claim::Present(blob) => {
                source.set(|state| {
                    state.attempt += 1;
                    state.bytes = Bytes::There(blob.into_file());
                    state.over = true;
                });
                watch(Event::Exists(digest.clone()));
                return Ok(None);
            }
            content::Claim::Mine(ingest) => ingest,
        };
        source.begin(ingest.reader());
        let job = Job {
            pull: self,
            wanted,
            source,
            state: Mutex::new(JobState::Fetching(ingest)),
            pieces: Mutex::default(),
        };
        self.client.blob(
            self.request.reference,
            wanted,
            &Sink {
                missing: &|| Ok(job.missing()),
                write: &|offset, bytes| job.write(offset, bytes),
                verify: &|| job.verify(),
                discard: &|| job.begin_anew(),
            },
        )?;
        let JobState::Verified(verified) =
            std::mem::replace(&mut *lock(&job.state), JobState::Nothing)
        else {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("blob {digest} was not verified"),
            ));
        };
        Ok(Some(verified))
    }

    fn claim(&self, wanted: &Descriptor) -> Result<content::Claim> {
        let expected = Expected {
            digest: wanted.digest.clone(),
            size: Some(wanted.size),
        };
        let mut waiting = self.waiting(&wanted.digest);
        self.content.ingest(&self.lease, &expected, &mut waiting)
    }
}

enum JobState {
    Fetching(Ingest),
    Verified(Verified),
    Nothing,
}

/// Connects a download with the store.
struct Job<'a> {
    pull: &'a Pull<'a>,
    wanted: &'a Descriptor,
    source: &'a Source,
    state: Mutex<JobState>,
    /// What is being fetched, by the offset at which each began.
    pieces: Mutex<BTreeMap<u64, Arc<Mutex<Piece>>>>,
}

impl Job<'_> {
    fn missing(&self) -> Vec<Range<u64>> {
        let state = lock(&self.state);
        let mut pieces = lock(&self.pieces);
        // What was handed out before, to a connection that broke, is missing from where it came to.
        pieces.clear();
        let JobState::Fetching(ingest) = &*state else {
            return Vec::new();
        };
        // No longer than a segment: each is fetched by one connection, in order. A longer one, of what a segment
        // lacks and the next one, would be cut in two.
        while let Some(piece) = ingest.claim(1) {
            pieces.insert(piece.start(), Arc::new(Mutex::new(piece)));
        }
        let range = |piece: &Arc<Mutex<Piece>>| {
            let piece = lock(piece);
            piece.start()..piece.end().unwrap_or(self.wanted.size)
        };
        pieces.values().map(range).collect()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let piece = lock(&self.pieces)
            .range(..=offset)
            .next_back()
            .map(|(_, piece)| Arc::clone(piece));
        let misplaced = || {
            Error::new(
                ErrorKind::Internal,
                format!("nothing is missing at offset {offset}"),
            )
        };
        let piece = piece.ok_or_else(misplaced)?;
        let mut piece = lock(&piece);
        if piece.start() != offset {
            return Err(misplaced());
        }
        piece.write(bytes)?;
        drop(piece);
        if let JobState::Fetching(ingest) = &*lock(&self.state) {
            (self.pull.request.watch)(Event::Received(
                self.wanted.digest.clone(),
                ingest.arrived(),
            ));
        }
        Ok(())
    }

    fn verify(&self) -> Result<()> {
        lock(&self.pieces).clear();
        let mut state = lock(&self.state);
        match std::mem::replace(&mut *state, JobState::Nothing) {
            JobState::Fetching(ingest) => match ingest.verify()? {
                Outcome::Whole(verified) => {
                    *state = JobState::Verified(verified);
                    Ok(())
                }
                Outcome::Mismatch(mismatch) => Err(mismatch.error),
            },
            JobState::Verified(_) | JobState::Nothing => {
                Err(Error::new(ErrorKind::Internal, "nothing to verify"))
            }
        }
    }

    fn begin_anew(&self) -> Result<()> {
        let mut state = lock(&self.state);
        match self.pull.claim(self.wanted)? {
            content::Claim::Mine(ingest) => {
                self.source.begin(ingest.reader());
                *state = JobState::Fetching(ingest);
                Ok(())
            }
            content::Claim::Present(_) => Err(Error::new(
                ErrorKind::Busy,
                format!(
                    "blob {} was fetched by somebody else meanwhile: try again",
                    self.wanted.digest
                ),
            )),
        }
    }
}
