//! What becomes of a blob when all of it has arrived: it is refused, or synced and put into its place.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::ingest::Ingest;
use super::store::{Blob, Content, final_name, map_name};
use crate::{Context, Digest, Error, ErrorKind, Result, durable, tree};

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
    pub(super) ingest: Ingest,
    pub(super) digest: Digest,
    pub(super) size: u64,
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

    /// Nobody writes it any more.
    fn close(&self) -> Result<()> {
        rustix::fs::fchmod(&self.ingest.shared.part, Mode::from(0o444))
            .context(|| format!("cannot change the mode of blob {}", self.digest))
    }

    fn sync(&self) -> Result<()> {
        self.ingest
            .shared
            .part
            .sync_all()
            .inspect_err(|_| {
                // After a failed sync the kernel takes the lost pages for clean.
                self.ingest.shared.discard.store(true, Ordering::Relaxed);
            })
            .context(|| format!("cannot sync blob {}", self.digest))
    }

    /// What is there already has come twice.
    fn is_needed(&self) -> Result<bool> {
        let there = self.ingest.content.contains(&self.digest)?;
        if there {
            self.ingest.shared.discard.store(true, Ordering::Relaxed);
        }
        Ok(!there)
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
        if verified.is_needed()? {
            verified.close()?;
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

/// Puts blobs into their places, where `write_out` has brought everything to the disk that was written
/// before it was called: one `syncfs` for several blobs, and for all else that the caller writes at
/// the time. Each of them is there whole or not at all; that they are there after a power cut, too, is
/// only promised by [`Content::sync_names`].
pub fn place_all(blobs: Vec<Verified>, write_out: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut directories = Directories::default();
    let mut needed = Vec::with_capacity(blobs.len());
    for verified in blobs {
        if verified.is_needed()? {
            verified.close()?;
            needed.push(verified);
        }
    }
    write_out()?;
    for verified in &mut needed {
        // Little is left to do, but this tells whether all of these very bytes got there.
        verified.sync()?;
        verified.rename(&mut directories)?;
    }
    Ok(())
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
