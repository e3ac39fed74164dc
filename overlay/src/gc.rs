//! Removing what nobody refers to: mark and sweep, beside pulls, builds and running containers.
//!
//! What refers to what is the caller's knowledge: it is asked to [`mark`](collect) everything that
//! can be reached from names, snapshots and other records. Here is what makes that safe.
//!
//! # No reference is lost
//!
//! Let somebody (the *adder*) refer to an object X, and let the sweep decide about X. The rules:
//!
//! 1. An adder writes X into its lease while the sweep is kept out ([`lock::enter`]); only then it
//!    looks whether X is there, or makes it; and it keeps the lease until the reference is recorded.
//! 2. The sweep, while it keeps everybody out of rule 1 ([`lock::exclude`]), reads the leases, **then**
//!    marks, **then** removes what neither holds. It lets everybody in again only afterwards.
//!
//! Say X is removed although it is referred to in the end. Its adder wrote the lease either before or
//! after the sweep held the lock, since the lock orders the two. If after, the adder looks for X after
//! it was removed, finds nothing and makes it anew: not lost. If before, the sweep read the leases
//! either while the adder's was alive, so X was held and is not removed; or after it ended, hence
//! after the reference was recorded, and marking began later still, so it was found: not removed
//! either. A tag that moves from a name to another while names are listed, so that the list has
//! neither, is the first of these cases, because tagging is adding. An adder that dies took its
//! promise with it, and recorded nothing. ∎
//!
//! References only count from recorded things to objects, so removing names needs no rule. A layer in
//! use by a container is held by the record of the container's snapshot, not by its process: records
//! of snapshots that stay are read here, at the end of each mark.
//!
//! # The lock is held briefly
//!
//! A first mark without the lock finds candidates; without any, the lock is not taken at all. Then
//! they are removed in batches, each under the lock with a mark of its own: documents are immutable,
//! so a caller that keeps what it has read marks again in little more than the time to list names.
//! Large files are kept open while they are unlinked and freed when the lock is free again;
//! directories are renamed into `trash/` and removed from there. Where blocks may have a new owner
//! before the old one's removal is durable, all are kept until it is ([`crate::removal`]).
//!
//! Nothing here needs space on the disk: only unlink, rmdir and rename into a directory that is kept
//! small enough never to grow.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;

use crate::content::{Incoming, final_name, scan_incoming};
use crate::layer::built;
use crate::layer::store::Layers;
use crate::lease::{self, LayerId, Root, SnapshotId};
use crate::lock::{self, Kind};
use crate::snapshot::Snapshots;
use crate::store::Store;
use crate::{Context, Digest, Error, Result, durable, tree};

mod sizes;
mod usage;
pub use sizes::{Sizes, Taken, blob_taken, measure, sizes, taken};
pub use usage::{Part, Usage, usage};

/// How many objects are removed before others are let in again.
const BATCH: usize = 512;

/// Blobs of this size and more are freed after others were let in again.
const LARGE: u64 = 1 << 20;

/// How many files are kept open in a batch: each needs a descriptor.
const OPEN_BATCH: usize = 128;

/// How many directories are in `trash/` at a time: as many names as fit its first block.
const TREE_BATCH: usize = 16;

/// A temporary file in a directory of records is nobody's after this long: nothing locks it.
const TEMPORARY_AGE: Duration = Duration::from_secs(3600);

/// What must stay.
#[derive(Debug, Default, Clone)]
pub struct Reachable {
    /// Blobs that documents and records refer to.
    pub blobs: HashSet<Digest>,
    /// Layers that images and build records refer to. Those of snapshots that stay are added.
    pub layers: HashSet<LayerId>,
    /// Snapshots that somebody uses. None: all of them stay.
    pub snapshots: Option<HashSet<SnapshotId>>,
}

/// How to collect.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Unfinished downloads, quarantined blobs and such are removed when nobody touched them for so
    /// long. Those in use stay in any case.
    pub abandoned_after: Duration,
    /// Only say what would be removed.
    pub dry_run: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            abandoned_after: Duration::from_secs(24 * 3600),
            dry_run: false,
        }
    }
}

/// What was removed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Collected {
    /// Blobs.
    pub blobs: Vec<Digest>,
    /// Layers.
    pub layers: Vec<LayerId>,
    /// Snapshots.
    pub snapshots: Vec<SnapshotId>,
    /// Unfinished downloads and unpackings, quarantined blobs, temporary files, dead leases.
    pub leftovers: u64,
    /// What all of them took on the disk.
    pub bytes: u64,
}

/// Removes everything that is neither marked nor held by a living lease. `mark` gets what leases
/// hold, as [`Root::Image`] may lead to more, and returns all that can be reached, from there and
/// from the caller's own records. It is called more than once, also while others wait: it must not
/// take or extend a lease, and should keep the documents it has read. If it fails, for instance since
/// a manifest cannot be read, nothing more is removed.
pub fn collect(
    store: &Store,
    policy: &Policy,
    mark: &mut dyn FnMut(&HashSet<Root>) -> Result<Reachable>,
) -> Result<Collected> {
    let mut sweep = Sweep {
        store,
        policy,
        done: Collected::default(),
        failed: None,
    };
    let run = sweep.run(mark);
    run.and_then(|()| sweep.failed.take().map_or(Ok(()), Err))
        .context(|| format!("cannot collect garbage in {}", store.path().display()))?;
    Ok(sweep.done)
}

struct Sweep<'a> {
    store: &'a Store,
    policy: &'a Policy,
    done: Collected,
    /// The first thing that could not be removed. Others are removed nevertheless.
    failed: Option<Error>,
}

/// Something that a mark did not reach.
enum Candidate {
    Blob(Digest),
    Layer(LayerId),
    Snapshot(SnapshotId),
}

impl Candidate {
    fn stays(&self, reachable: &Reachable) -> bool {
        match self {
            Self::Blob(digest) => reachable.blobs.contains(digest),
            Self::Layer(id) => reachable.layers.contains(id),
            Self::Snapshot(id) => reachable
                .snapshots
                .as_ref()
                .is_none_or(|snapshots| snapshots.contains(id)),
        }
    }
}

impl Sweep<'_> {
    fn run(&mut self, mark: &mut dyn FnMut(&HashSet<Root>) -> Result<Reachable>) -> Result<()> {
        // What a killed sweep left is removed first: it may be what fills the disk.
        self.empty_trash()?;
        let mut candidates = {
            let excluded = lock::exclude(self.store.root())?;
            let (held, dead) = lease::survey(self.store, &excluded)?;
            self.dead_leases(&dead)?;
            drop(excluded);
            let reachable = self.mark(mark, &held)?;
            self.candidates(&reachable)?
        };
        while !candidates.is_empty() {
            let batch = candidates.split_off(candidates.len().saturating_sub(BATCH));
            let unfinished = self.batch(batch, mark)?;
            candidates.extend(unfinished);
            self.empty_trash()?;
        }
        self.incoming()?;
        self.incoming_layers()?;
        self.damaged()?;
        self.temporaries()?;
        self.empty_trash()
    }

    /// What can be reached, from the caller's records, from leases and from snapshots that stay.
    fn mark(
        &self,
        mark: &mut dyn FnMut(&HashSet<Root>) -> Result<Reachable>,
        held: &HashSet<Root>,
    ) -> Result<Reachable> {
        let mut reachable = with_held(mark(held)?, held);
        let stay = reachable.snapshots.take();
        let all = Snapshots::new(self.store)?;
        for id in all.list()? {
            if stay.as_ref().is_none_or(|stay| stay.contains(&id)) {
                // Without a record it is none, has no layers and was never used.
                let layers = all.layers(&id)?.unwrap_or_default();
                reachable.layers.extend(layers);
            }
        }
        reachable.snapshots = stay;
        let aliased = built::targets(self.store.directory("layers")?, &|id| {
            reachable.layers.contains(id)
        })?;
        let layers = Layers::new(self.store)?;
        for id in aliased {
            if !layers.is_over(&id)? {
                reachable.layers.insert(id);
            }
        }
        Ok(reachable)
    }

    /// Everything there is that was not reached.
    fn candidates(&self, reachable: &Reachable) -> Result<Vec<Candidate>> {
        let mut all: Vec<_> = self
            .store
            .content()
            .list()?
            .into_iter()
            .map(Candidate::Blob)
            .collect();
        for name in tree::names(self.store.directory("layers")?)? {
            all.extend(
                name.to_str()
                    .ok()
                    .and_then(|n| n.parse().ok())
                    .map(Candidate::Layer),
            );
        }
        for name in tree::names(self.store.directory("snapshots")?)? {
            all.extend(
                name.to_str()
                    .ok()
                    .and_then(|n| n.parse().ok())
                    .map(Candidate::Snapshot),
            );
        }
        all.retain(|candidate| !candidate.stays(reachable));
        Ok(all)
    }

    /// Removes a batch under the lock; returns those for which there was no room in it.
    fn batch(
        &mut self,
        batch: Vec<Candidate>,
        mark: &mut dyn FnMut(&HashSet<Root>) -> Result<Reachable>,
    ) -> Result<Vec<Candidate>> {
        let excluded = lock::exclude(self.store.root())?;
        let (held, _) = lease::survey(self.store, &excluded)?;
        let reachable = self.mark(mark, &held)?;
        let (mut open, mut trees, mut rest) = (Vec::new(), 0, Vec::new());
        let mut shard = None;
        for candidate in batch {
            if candidate.stays(&reachable) {
                continue;
            }
            match candidate {
                Candidate::Blob(digest) if open.len() < OPEN_BATCH => {
                    if let Some((directory, file)) = self.blob(digest)? {
                        shard = (!self.policy.dry_run).then_some(directory);
                        open.extend(file);
                    }
                }
                Candidate::Layer(id) if trees < TREE_BATCH => {
                    if self.tree("layers", id.as_str())? {
                        trees += 1;
                        self.done.layers.push(id);
                    }
                }
                Candidate::Snapshot(id) if trees < TREE_BATCH => {
                    if self.tree("snapshots", id.as_str())? {
                        trees += 1;
                        self.done.snapshots.push(id);
                    }
                }
                other => rest.push(other),
            }
        }
        // Others go on while the disk space of these is freed.
        drop(excluded);
        shard.map_or(Ok(()), |shard| self.store.settle(shard))?;
        drop(open);
        Ok(rest)
    }

    /// Removes a blob. Where it was, and itself if it is not to be freed yet.
    fn blob(&mut self, digest: Digest) -> Result<Option<(OwnedFd, Option<File>)>> {
        let content = self.store.content();
        let (_, _, name) = final_name(&digest);
        let Some(shard) = content.shard(&digest)? else {
            return Ok(None);
        };
        let Some(stat) =
            rustix::fs::statat(&shard, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).ok()
        else {
            return Ok(None);
        };
        // A directory or a link with a digest's name is not ours to judge.
        if !tree::is_regular(&stat) {
            return Ok(None);
        }
        let mut open = None;
        if !self.policy.dry_run {
            if tree::allocated(&stat) >= LARGE || self.store.reuses_early() {
                open = content.open(&digest)?.map(crate::content::Blob::into_file);
            }
            content.remove(&digest)?;
        }
        self.count(&stat);
        self.done.blobs.push(digest);
        Ok(Some((shard, open)))
    }

    fn count(&mut self, stat: &rustix::fs::Stat) {
        if stat.st_nlink <= 1 {
            self.done.bytes += tree::allocated(stat);
        }
    }

    /// Takes a directory out of the way; its contents are removed later. False if it is gone.
    fn tree(&mut self, parent: &str, name: &str) -> Result<bool> {
        let from = self.store.directory(parent)?;
        if self.policy.dry_run {
            let name = std::ffi::CString::new(name).map_err(std::io::Error::from)?;
            let mut meter = tree::Meter::default();
            meter.add_tree(&from, &name)?;
            self.done.bytes += meter.bytes;
            return Ok(meter.entries > 0);
        }
        let trash = self.store.directory("trash")?;
        match rustix::fs::renameat(&from, name, &trash, durable::temporary_name()) {
            Ok(()) => Ok(true),
            // Snapshots are also removed by those who made them, without waiting for a sweep.
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => {
                Err(errno).context(|| format!("cannot move {parent}/{name} into the trash"))
            }
        }
    }

    /// Whatever is in `trash/` was unreferenced when it got there. Two may do this at once.
    fn empty_trash(&mut self) -> Result<()> {
        if self.policy.dry_run {
            return Ok(());
        }
        let trash = self.store.directory("trash")?;
        let names = tree::names(&trash)?;
        if !names.is_empty() {
            self.store.settle(&trash)?;
        }
        for name in names {
            let mut meter = tree::Meter::default();
            meter.add_tree(&trash, &name)?;
            let removed = tree::remove(&trash, &name)
                .context(|| format!("cannot remove trash/{}", name.to_string_lossy()));
            match removed {
                Ok(()) => self.done.bytes += meter.bytes,
                Err(error) => self.failed = self.failed.take().or(Some(error)),
            }
        }
        Ok(())
    }

    /// Only called while everybody is kept out, so that none of them comes to life.
    fn dead_leases(&mut self, dead: &[String]) -> Result<()> {
        for name in dead {
            if !self.policy.dry_run && tree::unlink(self.store.leases_fd(), &**name)? {
                self.done.leftovers += 1;
            }
        }
        Ok(())
    }

    /// Unfinished downloads.
    fn incoming(&mut self) -> Result<()> {
        let directory = self.store.directory("content/incoming")?;
        let (mut parts, mut maps) = (Vec::new(), Vec::new());
        for name in tree::names(&directory)? {
            match scan_incoming(&name.to_string_lossy()) {
                Incoming::Unknown => {}
                Incoming::Part(_) | Incoming::Anonymous => parts.push(name),
                Incoming::Map(digest) => maps.push((name, digest)),
            }
        }
        for name in parts {
            self.leftover(&directory, &name, self.policy.abandoned_after)?;
        }
        // A map goes after its blob; one without is also left by a killed commit.
        for (name, digest) in maps {
            let part = format!("{}-{}.part", digest.algorithm().name(), digest.hex());
            let part = std::ffi::CString::new(part).map_err(std::io::Error::from)?;
            if tree::stat(&directory, &part)?.is_none() {
                self.leftover(&directory, &name, self.policy.abandoned_after)?;
            }
        }
        Ok(())
    }

    /// Half-unpacked layers: directories that their makers hold locked.
    fn incoming_layers(&mut self) -> Result<()> {
        let directory = self.store.directory("layers/incoming")?;
        for name in tree::names(&directory)? {
            self.leftover(&directory, &name, self.policy.abandoned_after)?;
        }
        Ok(())
    }

    /// Blobs that were found damaged: kept for a while for those who wonder why.
    fn damaged(&mut self) -> Result<()> {
        let directory = self.store.directory("content/damaged")?;
        for name in tree::names(&directory)? {
            self.leftover(&directory, &name, self.policy.abandoned_after)?;
        }
        Ok(())
    }

    /// Removes something that is old enough and that nobody has locked.
    fn leftover(&mut self, directory: &OwnedFd, name: &CStr, after: Duration) -> Result<()> {
        let Some(stat) = tree::stat(directory, name)? else {
            return Ok(());
        };
        let lockable = tree::is_regular(&stat) || tree::is_directory(&stat);
        if tree::age(&stat) < after {
            return Ok(());
        }
        let flags = rustix::fs::OFlags::RDONLY
            | rustix::fs::OFlags::CLOEXEC
            | rustix::fs::OFlags::NOFOLLOW
            | rustix::fs::OFlags::NONBLOCK;
        let text = name.to_string_lossy();
        // Held until it is removed: whoever wants it meanwhile waits, and sees that it is gone.
        let _held = if lockable {
            match rustix::fs::openat(directory, name, flags, rustix::fs::Mode::empty()) {
                Ok(file)
                    if lock::try_lock(&file, Kind::Exclusive)?
                        && lock::is_named(directory, &text, &file)? =>
                {
                    Some(file)
                }
                _ => return Ok(()),
            }
        } else {
            None
        };
        let mut meter = tree::Meter::default();
        meter.add_tree(directory, name)?;
        if !self.policy.dry_run {
            let removed =
                tree::remove(directory, name).context(|| format!("cannot remove leftover {text}"));
            if let Err(error) = removed {
                self.failed = self.failed.take().or(Some(error));
                return Ok(());
            }
        }
        self.done.bytes += meter.bytes;
        self.done.leftovers += 1;
        Ok(())
    }

    /// What killed writers of records and makers of snapshots left.
    fn temporaries(&mut self) -> Result<()> {
        for parent in ["", "images/names", "layers", "snapshots", "containers"] {
            let directory = match parent {
                "" => durable::open_directory(self.store.root(), ".")?,
                parent => self.store.directory(parent)?,
            };
            for name in tree::names(&directory)? {
                let ours = name.to_bytes().starts_with(durable::TEMPORARY.as_bytes());
                let Some(stat) = tree::stat(&directory, &name)?.filter(|_| ours) else {
                    continue;
                };
                if parent == "snapshots" && tree::is_directory(&stat) {
                    self.leftover(&directory, &name, Duration::ZERO)?;
                } else if tree::is_regular(&stat) && tree::age(&stat) >= TEMPORARY_AGE {
                    if !self.policy.dry_run {
                        tree::unlink(&directory, &*name)?;
                    }
                    self.count(&stat);
                    self.done.leftovers += 1;
                }
            }
        }
        Ok(())
    }
}

/// What leases hold by itself stays, whatever the caller makes of it.
fn with_held(mut reachable: Reachable, held: &HashSet<Root>) -> Reachable {
    for root in held {
        match root {
            Root::Image(digest) | Root::Blob(digest) => {
                reachable.blobs.insert(digest.clone());
            }
            Root::Layer(id) => {
                reachable.layers.insert(id.clone());
            }
            Root::Snapshot(id) => {
                if let Some(snapshots) = &mut reachable.snapshots {
                    snapshots.insert(id.clone());
                }
            }
        }
    }
    reachable
}

#[cfg(test)]
mod tests;
