//! Whether all blobs are what their names say, and what to do about those that are not.
//!
//! Every blob is read from the disk and hashed, by several threads with a buffer each; names, types
//! and modes are looked at on the way. Of unpacked layers only the records are looked at: the rest
//! is made anew from blobs. Nothing is changed by looking; [`repair`] moves damaged blobs to `content/damaged`, so
//! that they no longer count as there, and lets the caller fetch them again.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, Mode, Stat};

use crate::content::{ALGORITHMS, Content, INCOMING, Incoming, SHARD, scan_incoming};
use crate::layer::built;
use crate::layer::store::Layers;
use crate::lease::LayerId;
use crate::snapshot::Snapshots;
use crate::store::Store;
use crate::{Context, Digest, Error, ErrorKind, Result, durable, lock, tree};

/// The permissions of a blob.
const MODE: u32 = 0o444;

/// More threads than this only make a disk seek.
const MAX_THREADS: usize = 16;

/// What can be wrong with something in `content/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// The bytes have another digest, or cannot be read.
    Damaged(String),
    /// A blob's name on something that is no regular file.
    NotAFile,
    /// Other permissions than 0444.
    Mode(u32),
    /// A file with a blob's name where that name does not belong.
    Misplaced,
    /// No name of a blob at all.
    Unknown,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, below the store's root.
    pub path: String,
    /// The blob it is or should be.
    pub digest: Option<Digest>,
    /// What is wrong.
    pub wrong: Wrong,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        match &self.wrong {
            Wrong::Damaged(why) => write!(f, "damaged: {why}"),
            Wrong::NotAFile => write!(f, "not a regular file"),
            Wrong::Mode(mode) => write!(f, "mode {mode:04o} instead of {MODE:04o}"),
            Wrong::Misplaced => write!(f, "a blob in the wrong place"),
            Wrong::Unknown => write!(f, "does not belong to the store"),
        }
    }
}

/// How to look.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many blobs are hashed at the same time; 0: as many as there are processors.
    pub threads: usize,
    /// Read from the disk what the page cache has: only the disk can be damaged.
    pub from_disk: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threads: 0,
            from_disk: true,
        }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// How many blobs were hashed.
    pub checked: u64,
    /// Their bytes.
    pub bytes: u64,
    /// In order of their paths.
    pub problems: Vec<Problem>,
}

/// What became of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// It is as it should be.
    Fixed,
    /// It no longer counts as there, and could not be fetched.
    Missing,
    /// It was left alone.
    Left,
}

/// Looks at everything in `content/`. `progress` is told of bytes that were read, from any thread,
/// and ends the check by an error.
pub fn check(
    store: &Store,
    options: &Options,
    progress: &(dyn Fn(u64) -> Result<()> + Sync),
) -> Result<Report> {
    let content = store.content();
    let mut report = Report::default();
    let digests = survey(&content, &mut report.problems)
        .context(|| format!("cannot check {}", store.path().display()))?;
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    };
    let queue = Mutex::new(digests.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> Result<Report> {
        let mut part = Report::default();
        while let Some(digest) = next() {
            one(&content, &digest, options, progress, &mut part)?;
        }
        Ok(part)
    };
    let parts: Vec<Result<Report>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.min(MAX_THREADS))
            .map(|_| scope.spawn(work))
            .collect();
        let lost = |_| Err(Error::new(ErrorKind::Internal, "a thread panicked"));
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(lost))
            .collect()
    });
    for part in parts {
        let part = part?;
        report.checked += part.checked;
        report.bytes += part.bytes;
        report.problems.extend(part.problems);
    }
    report.problems.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(report)
}

fn path_of(digest: &Digest) -> String {
    let (algorithm, shard, name) = crate::content::final_name(digest);
    format!("content/{algorithm}/{shard}/{name}")
}

/// Hashes one blob.
fn one(
    content: &Content,
    digest: &Digest,
    options: &Options,
    progress: &(dyn Fn(u64) -> Result<()> + Sync),
    report: &mut Report,
) -> Result<()> {
    let blob = match content.open(digest) {
        Ok(Some(blob)) => blob,
        // Removed meanwhile.
        Ok(None) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::Exhausted => return Err(error),
        Err(error) => {
            report
                .problems
                .push(damaged(digest, error.chain().to_string()));
            return Ok(());
        }
    };
    let advise = |advice| {
        // Only advice.
        let _ = rustix::fs::fadvise(blob.file(), 0, None, advice);
    };
    if options.from_disk {
        advise(Advice::DontNeed);
    }
    advise(Advice::Sequential);
    let mut stopped = None;
    let found = blob.hash(&mut |count| {
        report.bytes += count;
        progress(count).map_err(|error| {
            let again = Error::new(error.kind(), "stopped");
            stopped = Some(error);
            again
        })
    });
    if let Some(error) = stopped {
        return Err(error);
    }
    report.checked += 1;
    match found {
        Ok(found) if found == *digest => {}
        Ok(found) => {
            let why = format!("its {} bytes have digest {found}", blob.size());
            report.problems.push(damaged(digest, why));
        }
        Err(error) => report
            .problems
            .push(damaged(digest, error.chain().to_string())),
    }
    Ok(())
}

fn damaged(digest: &Digest, why: String) -> Problem {
    Problem {
        path: path_of(digest),
        digest: Some(digest.clone()),
        wrong: Wrong::Damaged(why),
    }
}

/// Lists everything in `content/`: returns the blobs, and notes what is none.
fn survey(content: &Content, problems: &mut Vec<Problem>) -> Result<Vec<Digest>> {
    let mut digests = Vec::new();
    let top = content.store().directory("content")?;
    for name in tree::names(&top)? {
        let text = name.to_string_lossy().into_owned();
        let algorithm = ALGORITHMS
            .into_iter()
            .find(|algorithm| algorithm.name() == text);
        match (algorithm, text.as_str()) {
            (Some(algorithm), _) => {
                let Some(directory) = content.enter(algorithm.name(), None)? else {
                    problems.push(unknown(format!("content/{text}")));
                    continue;
                };
                for shard in tree::names(&directory)? {
                    let shard = shard.to_string_lossy().into_owned();
                    shard_of(content, algorithm.name(), &shard, &mut digests, problems)?;
                }
            }
            (None, INCOMING) => {
                incoming(&content.store().directory("content/incoming")?, problems)?;
            }
            (None, "damaged") => {}
            (None, _) => problems.push(unknown(format!("content/{text}"))),
        }
    }
    Ok(digests)
}

fn unknown(path: String) -> Problem {
    Problem {
        path,
        digest: None,
        wrong: Wrong::Unknown,
    }
}

fn incoming(directory: &OwnedFd, problems: &mut Vec<Problem>) -> Result<()> {
    for name in tree::names(directory)? {
        let name = name.to_string_lossy();
        if scan_incoming(&name) == Incoming::Unknown {
            problems.push(unknown(format!("content/{INCOMING}/{name}")));
        }
    }
    Ok(())
}

fn shard_of(
    content: &Content,
    algorithm: &str,
    shard: &str,
    digests: &mut Vec<Digest>,
    problems: &mut Vec<Problem>,
) -> Result<()> {
    let place = format!("content/{algorithm}/{shard}");
    let valid = shard.len() == SHARD
        && shard
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let directory = content.enter(algorithm, Some(shard))?;
    let digest_of = |name: &str| format!("{algorithm}:{name}").parse::<Digest>().ok();
    let Some(directory) = directory.filter(|_| valid) else {
        let digest = digest_of(shard);
        let wrong = if digest.is_some() {
            Wrong::Misplaced
        } else {
            Wrong::Unknown
        };
        problems.push(Problem {
            path: place,
            digest,
            wrong,
        });
        return Ok(());
    };
    for name in tree::names(&directory)? {
        let Some(stat) = tree::stat(&directory, &name)? else {
            continue;
        };
        let name = name.to_string_lossy();
        let digest = digest_of(&name);
        let wrong = judge(digest.as_ref(), shard, &stat);
        match (wrong, digest) {
            (None, Some(digest)) => digests.push(digest),
            (None, None) => {}
            (Some(wrong), digest) => {
                // A wrong mode says nothing about the bytes.
                if let (Wrong::Mode(_), Some(digest)) = (&wrong, &digest) {
                    digests.push(digest.clone());
                }
                let path = format!("{place}/{name}");
                problems.push(Problem {
                    path,
                    digest,
                    wrong,
                });
            }
        }
    }
    Ok(())
}

/// What is wrong with a name in a shard, as far as can be seen without reading the file.
fn judge(digest: Option<&Digest>, shard: &str, stat: &Stat) -> Option<Wrong> {
    let Some(digest) = digest else {
        return Some(Wrong::Unknown);
    };
    let mode = stat.st_mode & 0o7777;
    match () {
        () if !tree::is_regular(stat) => Some(Wrong::NotAFile),
        () if digest.hex()[..SHARD] != *shard => Some(Wrong::Misplaced),
        () if mode != MODE => Some(Wrong::Mode(mode)),
        () => None,
    }
}

/// Looks at the records of unpacked layers and snapshots. A snapshot without one is being removed.
pub fn records(store: &Store) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let layers = Layers::new(store)?;
    let directory = store.directory("layers")?;
    // Those with two names are told of by the one that images use.
    let aliased = built::targets(&directory, &|_| true)?;
    for name in tree::names(&directory)? {
        let id: Option<LayerId> = name.to_str().ok().and_then(|name| name.parse().ok());
        let Some(id) = id.filter(|id| !aliased.contains(id)) else {
            continue;
        };
        if let Err(error) = layers.get(&id) {
            // Unless it was being removed.
            if layers.get(&id).is_err() {
                problems.push(record(format!("layers/{id}/layer.json"), &error));
            }
        }
    }
    let snapshots = Snapshots::new(store)?;
    for id in snapshots.list()? {
        if let Err(error) = snapshots.layers(&id) {
            problems.push(record(format!("snapshots/{id}/snapshot.json"), &error));
        }
    }
    Ok(problems)
}

fn record(path: String, error: &Error) -> Problem {
    Problem {
        path,
        digest: None,
        wrong: Wrong::Damaged(error.chain().to_string()),
    }
}

/// Sets right what a check found. `fetch` gets the digest of a blob that no longer counts as there,
/// and says whether it could put it there again.
///
/// What is unknown is left alone: nobody can tell whose it is.
pub fn repair(
    store: &Store,
    problem: &Problem,
    fetch: &mut dyn FnMut(&Digest) -> Result<bool>,
) -> Result<Repaired> {
    let Some(digest) = &problem.digest else {
        return Ok(Repaired::Left);
    };
    let content = store.content();
    match &problem.wrong {
        Wrong::Unknown => return Ok(Repaired::Left),
        Wrong::Mode(_) => {
            let Some(blob) = content.open(digest)? else {
                return Ok(Repaired::Missing);
            };
            rustix::fs::fchmod(blob.file(), Mode::from(MODE))
                .context(|| format!("cannot set the mode of blob {digest}"))?;
            return Ok(Repaired::Fixed);
        }
        Wrong::Damaged(_) => {
            if quarantine(&content, digest)? {
                return Ok(Repaired::Fixed);
            }
        }
        Wrong::NotAFile | Wrong::Misplaced => set_aside(store, &problem.path)?,
    }
    // A misplaced one may be missing nowhere.
    match content.contains(digest)? || fetch(digest)? {
        true => Ok(Repaired::Fixed),
        false => Ok(Repaired::Missing),
    }
}

/// Moves a blob away if it is still damaged; whether it is sound by now.
fn quarantine(content: &Content, digest: &Digest) -> Result<bool> {
    let Ok(Some(blob)) = content.open(digest) else {
        return Ok(false);
    };
    // It may have been fetched since it was checked.
    if blob
        .hash(&mut |_| Ok(()))
        .is_ok_and(|found| found == *digest)
    {
        return Ok(true);
    }
    let _excluded = lock::exclude(content.store().root())?;
    content.quarantine(&blob)?;
    Ok(false)
}

/// Moves something that is damaged, or has a name wrongly, to the damaged blobs.
pub fn set_aside(store: &Store, path: &str) -> Result<()> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let from = store.directory(parent)?;
    let to = durable::open_directory(store.content_fd(), "damaged")?;
    let _excluded = lock::exclude(store.root())?;
    rustix::fs::renameat(&from, name, to, durable::temporary_name())
        .context(|| format!("cannot move {path} away"))
}

#[cfg(test)]
mod tests;
