//! What is there: finding, reading and removing blobs, and beginning to get one.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::follow::READ_BACK;
use super::ingest::{self, Ingest};
use super::segments::MAX_SIZE;
use super::verified::Verified;
use crate::digest::Algorithm;
use crate::lease::{Lease, Root};
use crate::lock::{self, Waiting};
use crate::store::Store;
use crate::{Context, Digest, Error, ErrorKind, Result, durable, tree};

/// The algorithms there are directories for.
pub(crate) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

/// Where unfinished blobs are, below `content/`.
pub(crate) const INCOMING: &str = "incoming";

/// How many digits of a digest name the directory that its blob is in.
pub(crate) const SHARD: usize = 2;

/// What unfinished blobs are called after their digest.
const PART: &str = ".part";

/// What their maps are called.
const MAP: &str = ".map";

/// The directory below `content/` and the name in it that a blob has.
pub(crate) fn final_name(digest: &Digest) -> (&str, &str, &str) {
    let hex = digest.hex();
    (digest.algorithm().name(), &hex[..SHARD], hex)
}

/// What is to be got.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Of all its bytes.
    pub digest: Digest,
    /// How many they are, if somebody said so.
    pub size: Option<u64>,
}

/// What came of asking for a blob.
#[derive(Debug)]
pub enum Claim {
    /// It is there, perhaps since somebody else got it while we waited.
    Present(Blob),
    /// It is ours to get, and nobody else does at the same time.
    Mine(Ingest),
}

/// The blobs of a store.
#[derive(Debug, Clone)]
pub struct Content {
    store: Store,
}

impl Content {
    pub(crate) fn new(store: Store) -> Self {
        Self { store }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Opens a blob; none if there is none. An open one stays readable when it is removed; that it
    /// is not removed is promised by [`Lease::hold`] before it was opened.
    pub fn open(&self, digest: &Digest) -> Result<Option<Blob>> {
        let (_, _, name) = final_name(digest);
        let opened = match self.shard(digest)? {
            Some(shard) => durable::open_file(&shard, name),
            None => return Ok(None),
        };
        let open = || -> Result<Option<Blob>> {
            let Some(file) = opened? else { return Ok(None) };
            let size = file.metadata()?.len();
            let digest = digest.clone();
            Ok(Some(Blob { digest, file, size }))
        };
        open().context(|| format!("cannot open blob {digest}"))
    }

    /// Whether there is such a blob.
    pub fn contains(&self, digest: &Digest) -> Result<bool> {
        let (_, _, name) = final_name(digest);
        let Some(shard) = self.shard(digest)? else {
            return Ok(false);
        };
        match rustix::fs::statat(&shard, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(tree::is_regular(&stat)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno).context(|| format!("cannot stat blob {digest}")),
        }
    }

    /// Reads a small blob whole and sees that it is what its name says; none if there is none.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        match self.open(digest)? {
            Some(blob) => blob.read_verified(limit).map(Some),
            None => Ok(None),
        }
    }

    /// Stores a small blob.
    pub fn put(&self, lease: &Lease, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        lease.hold(&[Root::Blob(digest.clone())])?;
        if !self.contains(&digest)? {
            self.prepare(lease, Algorithm::Sha256, bytes)?.commit()?;
        }
        Ok(digest)
    }

    /// Like [`Self::put`], but durable and visible only with [`super::commit_all`]: for several.
    /// Its digest is by this algorithm.
    pub fn prepare(&self, lease: &Lease, algorithm: Algorithm, bytes: &[u8]) -> Result<Verified> {
        let ingest = Ingest::anonymous(self, lease, algorithm)?;
        ingest
            .claim(u64::MAX)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "nothing to write to"))?
            .write(bytes)?;
        ingest.verify()?.whole()
    }

    /// Begins to write a blob of unknown digest and size: what a build or an archive brings.
    pub fn receive(&self, lease: &Lease) -> Result<Ingest> {
        Ingest::anonymous(self, lease, Algorithm::Sha256)
    }

    /// Begins to get a blob, or finds that it is there; waits while somebody else gets it, as long as
    /// `waiting` allows. It is held by the lease from before it is looked for.
    pub fn ingest(
        &self,
        lease: &Lease,
        expected: &Expected,
        waiting: &mut Waiting<'_>,
    ) -> Result<Claim> {
        let digest = &expected.digest;
        if let Some(size) = expected.size.filter(|size| *size > MAX_SIZE) {
            return Err(Error::invalid(format!(
                "refuse blob {digest} of {size} bytes: the limit is {MAX_SIZE}"
            )));
        }
        lease.hold(&[Root::Blob(digest.clone())])?;
        loop {
            if let Some(blob) = self.present(expected)? {
                return Ok(Claim::Present(blob));
            }
            let part = self.open_part(digest)?;
            lock::lock(&part, lock::Kind::Exclusive, waiting)
                .context(|| format!("cannot wait for blob {digest}, which somebody else gets"))?;
            // It may have been finished, given up or swept while we waited.
            if !lock::is_named(self.store.incoming_fd(), &part_name(digest), &part)? {
                continue;
            }
            if let Some(blob) = self.present(expected)? {
                ingest::discard(self, Some(digest), &part_name(digest));
                return Ok(Claim::Present(blob));
            }
            return Ingest::resume(self, lease, expected, part).map(Claim::Mine);
        }
    }

    /// The blob if it is there. One of another size than expected is looked at closely: either the
    /// expectation is wrong or the blob is damaged, and then it does not count.
    fn present(&self, expected: &Expected) -> Result<Option<Blob>> {
        let Some(blob) = self.open(&expected.digest)? else {
            return Ok(None);
        };
        let Some(size) = expected.size.filter(|size| *size != blob.size) else {
            return Ok(Some(blob));
        };
        if blob.hash(&mut |_| Ok(()))? == blob.digest {
            let (digest, found) = (&blob.digest, blob.size);
            return Err(Error::invalid(format!(
                "blob {digest} has {found} bytes, not {size} as expected"
            )));
        }
        let _excluded = lock::exclude(self.store.root())?;
        self.quarantine(&blob)?;
        Ok(None)
    }

    /// Moves a damaged blob away, so that it no longer counts as there. Only for who excluded
    /// everybody.
    pub(crate) fn quarantine(&self, blob: &Blob) -> Result<bool> {
        let (algorithm, _, name) = final_name(&blob.digest);
        let Some(shard) = self.shard(&blob.digest)? else {
            return Ok(false);
        };
        if !lock::is_named(&shard, name, &blob.file)? {
            return Ok(false);
        }
        let damaged = durable::open_directory(self.store.content_fd(), "damaged")?;
        let moved = rustix::fs::renameat(&shard, name, damaged, format!("{algorithm}-{name}"));
        match moved {
            Ok(()) => Ok(true),
            // A directory that cannot grow, on a full disk: rather no blob than a damaged one.
            Err(Errno::NOSPC | Errno::DQUOT) => tree::unlink(&shard, name),
            Err(errno) => {
                Err(errno).context(|| format!("cannot move damaged blob {} away", blob.digest))
            }
        }
    }

    /// Sees that the names of blobs are durable before anything that is written and synced from now on:
    /// before the name of their image. Where all changes go through one journal nothing has to be done
    /// for that.
    pub fn order_names<'a>(&self, digests: impl Iterator<Item = &'a Digest>) -> Result<()> {
        match self.store.commits_in_order() {
            true => Ok(()),
            false => self.sync_names(digests),
        }
    }

    /// Makes the names of blobs durable that are there, whoever put them there: before something
    /// durable refers to them. Costs nothing for those that are durable already.
    pub fn sync_names<'a>(&self, digests: impl Iterator<Item = &'a Digest>) -> Result<()> {
        let mut shards = BTreeSet::new();
        for digest in digests {
            let (algorithm, shard, _) = final_name(digest);
            shards.insert((algorithm, shard.to_owned()));
        }
        let algorithms: BTreeSet<&str> = shards.iter().map(|(algorithm, _)| *algorithm).collect();
        for (algorithm, shard) in &shards {
            self.enter(algorithm, Some(shard))?
                .map_or(Ok(()), durable::sync_directory)?;
        }
        for algorithm in algorithms {
            self.enter(algorithm, None)?
                .map_or(Ok(()), durable::sync_directory)?;
        }
        durable::sync_directory(self.store.content_fd())
    }

    /// Removes a blob; whether there was one. Needs no space.
    pub fn remove(&self, digest: &Digest) -> Result<bool> {
        let (_, _, name) = final_name(digest);
        match self.shard(digest)? {
            Some(shard) => {
                tree::unlink(&shard, name).context(|| format!("cannot remove blob {digest}"))
            }
            None => Ok(false),
        }
    }

    /// The digests of all blobs, in order. Other names are passed over; fsck tells of them.
    pub fn list(&self) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        for algorithm in ALGORITHMS {
            let Some(directory) = self.enter(algorithm.name(), None)? else {
                continue;
            };
            for shard in tree::names(&directory)? {
                let shard = shard.to_string_lossy();
                let Some(open) = self.enter(algorithm.name(), Some(&shard))? else {
                    continue;
                };
                let digests = tree::names(&open)?.into_iter().filter_map(|name| {
                    let text = format!("{}:{}", algorithm.name(), name.to_str().ok()?);
                    let digest: Digest = text.parse().ok()?;
                    (digest.hex()[..SHARD] == *shard).then_some(digest)
                });
                found.extend(digests);
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The directory of a blob; none if there is none.
    pub(crate) fn shard(&self, digest: &Digest) -> Result<Option<OwnedFd>> {
        let (algorithm, shard, _) = final_name(digest);
        self.enter(algorithm, Some(shard))
    }

    pub(crate) fn enter(&self, algorithm: &str, shard: Option<&str>) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open =
            |at: BorrowedFd<'_>, name| match rustix::fs::openat(at, name, flags, Mode::empty()) {
                Ok(fd) => Ok(Some(fd)),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
                Err(errno) => Err(errno).context(|| format!("cannot open content/{algorithm}")),
            };
        match (open(self.store.content_fd(), algorithm)?, shard) {
            (Some(directory), Some(shard)) => open(directory.as_fd(), shard),
            (directory, _) => Ok(directory),
        }
    }

    /// Opens or creates the file that a blob arrives in.
    fn open_part(&self, digest: &Digest) -> Result<File> {
        let name = part_name(digest);
        ingest::open_private(self, &name).context(|| format!("cannot create {INCOMING}/{name}"))
    }
}

/// The name of an unfinished blob.
pub(super) fn part_name(digest: &Digest) -> String {
    format!("{}-{}{PART}", digest.algorithm().name(), digest.hex())
}

/// The name of its map.
pub(super) fn map_name(digest: &Digest) -> String {
    format!("{}-{}{MAP}", digest.algorithm().name(), digest.hex())
}

/// What a name in `content/incoming` is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// An unfinished blob.
    Part(Digest),
    /// The map of one.
    Map(Digest),
    /// An unfinished blob whose digest is not known.
    Anonymous,
    /// None of ours.
    Unknown,
}

/// Tells what the name stands for.
pub(crate) fn scan_incoming(name: &str) -> Incoming {
    let digest = |stem: &str| stem.replacen('-', ":", 1).parse::<Digest>().ok();
    let part = name.strip_suffix(PART).and_then(digest).map(Incoming::Part);
    let map = || name.strip_suffix(MAP).and_then(digest).map(Incoming::Map);
    match part.or_else(map) {
        Some(known) => known,
        None if name.starts_with(durable::TEMPORARY) => Incoming::Anonymous,
        None => Incoming::Unknown,
    }
}

/// An open blob.
#[derive(Debug)]
pub struct Blob {
    pub(crate) digest: Digest,
    pub(crate) file: File,
    pub(crate) size: u64,
}

impl Blob {
    /// Its name.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// For reading: positioned reads do not disturb each other.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// For reading from the beginning.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Reads it whole, if it is no longer than `limit`, and sees that it is what its name says.
    pub fn read_verified(&self, limit: u64) -> Result<Vec<u8>> {
        let digest = &self.digest;
        if self.size > limit {
            return Err(Error::invalid(format!(
                "refuse to read blob {digest}: its {} bytes are more than {limit}",
                self.size
            )));
        }
        let length = usize::try_from(self.size).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length];
        self.file
            .read_exact_at(&mut bytes, 0)
            .context(|| format!("cannot read blob {digest}"))?;
        let found = digest.algorithm().digest(&bytes);
        match found == *digest {
            true => Ok(bytes),
            false => Err(Error::new(
                ErrorKind::Corrupt,
                format!("blob {digest} is damaged: its bytes have digest {found}"),
            )),
        }
    }

    /// The digest that its bytes really have. `progress` learns of every part that was read.
    pub fn hash(&self, progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<Digest> {
        let mut hasher = self.digest.algorithm().hasher();
        let mut buffer = vec![0; READ_BACK];
        let mut at = 0;
        loop {
            let count = self
                .file
                .read_at(&mut buffer, at)
                .context(|| format!("cannot read blob {}", self.digest))?;
            if count == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(&buffer[..count]);
            at += count as u64;
            progress(count as u64)?;
        }
    }
}
