//! A layout as a directory: `oci:DIRECTORY`.
//!
//! Everything in it is a stranger's: names are made from digests, no link is followed, what is read
//! is hashed. Blobs are written beside, synced and renamed, then `index.json` is replaced, so an
//! interrupted writer leaves blobs that nobody names; writers exclude each other by flock(2) of the
//! directory while they change `index.json`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rcrun_overlay::content::Content;
use rcrun_overlay::durable::{self, open_directory, open_file};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{BLOBS, INDEX, Label, MARK, check_mark, entries, mark, with_entry};
use crate::closure::Part;
use crate::crew::{each, threads};
use crate::document::{Descriptor, MAX_DOCUMENT};
use crate::progress::{Event, Watch};
use crate::registry::retry::Cancel;
use crate::stored::Leaving;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Bytes that are read and written at once.
const BUFFER: usize = 256 << 10;

/// A layout's directory.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    directory: OwnedFd,
}

impl Layout {
    /// Opens a layout.
    pub fn open(path: &Path) -> Result<Self> {
        let words = || format!("cannot open the image layout {}", path.display());
        let directory = open(path).context(words)?;
        let mark = durable::read(&directory, MARK, MAX_DOCUMENT as u64).context(words)?;
        let Some(mark) = mark else {
            let message = format!("{}: it has no file {MARK}", words());
            return Err(Error::new(ErrorKind::InvalidInput, message));
        };
        check_mark(&mark).context(words)?;
        let path = path.to_owned();
        Ok(Self { path, directory })
    }

    /// Opens a layout, and makes it first where there is nothing.
    pub fn open_or_make(path: &Path) -> Result<Self> {
        let words = || format!("cannot make the image layout {}", path.display());
        std::fs::create_dir_all(path).context(words)?;
        let directory = open(path).context(words)?;
        if durable::read(&directory, MARK, MAX_DOCUMENT as u64)?.is_none() {
            if !is_empty(&directory)? {
                let message = format!("{}: it holds other things and no {MARK}", words());
                return Err(Error::new(ErrorKind::FailedPrecondition, message));
            }
            durable::replace(&directory, MARK, &mark(), Mode::from(0o644)).context(words)?;
        }
        Self::open(path)
    }

    /// What is in it.
    pub fn entries(&self) -> Result<Vec<Descriptor>> {
        let bytes = durable::read(&self.directory, INDEX, MAX_DOCUMENT as u64);
        let entries = bytes.and_then(|bytes| match bytes {
            Some(bytes) => entries(&bytes),
            None => Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no {INDEX}"),
            )),
        });
        entries.context(|| format!("cannot read the image layout {}", self.path.display()))
    }

    /// A blob's file; none if there is none.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<Option<File>> {
        let open = || -> Result<Option<File>> {
            let Some(shard) = self.shard(digest)? else {
                return Ok(None);
            };
            open_file(&shard, digest.hex())
        };
        open().context(|| format!("cannot read blob {digest} of {}", self.path.display()))
    }

    /// A small blob, verified.
    pub(crate) fn document(&self, wanted: &Descriptor) -> Result<Option<Vec<u8>>> {
        let digest = &wanted.digest;
        let Some(file) = self.blob(digest)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT as u64 + 1).read_to_end(&mut bytes)?;
        crate::document::check_size(bytes.len()).context(|| format!("cannot read {digest}"))?;
        let found = digest.algorithm().digest(&bytes);
        match found == *digest {
            true => Ok(Some(bytes)),
            false => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "blob {digest} of {} has digest {found}",
                    self.path.display()
                ),
            )),
        }
    }

    fn shard(&self, digest: &Digest) -> Result<Option<OwnedFd>> {
        let enter = |at: &OwnedFd, name: &str| match open_directory(at, name) {
            Ok(directory) => Ok(Some(directory)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        match enter(&self.directory, BLOBS)? {
            Some(blobs) => enter(&blobs, digest.algorithm().name()),
            None => Ok(None),
        }
    }

    /// Makes an image part of the layout: blobs, documents, then its entry.
    pub(crate) fn add(&self, image: &Addition<'_>) -> Result<()> {
        self.write(image)
            .context(|| format!("cannot write the image layout {}", self.path.display()))
    }

    fn write(&self, image: &Addition<'_>) -> Result<()> {
        let blobs = make(&self.directory, BLOBS)?;
        let digests = image.blobs.iter().map(|blob| &blob.descriptor.digest);
        let documents = image.documents.iter().map(|part| &part.descriptor.digest);
        for digest in digests.chain(documents) {
            make(&blobs, digest.algorithm().name())?;
        }
        each(image.blobs, threads(), image.cancel, &|| {}, &|blob| {
            let digest = &blob.descriptor.digest;
            if self.is_whole(&blob.descriptor, image.cancel)? {
                (image.watch)(Event::Exists(digest.clone()));
                return Ok(());
            }
            let file = blob.open(image.content)?;
            let told = |count| (image.watch)(Event::Sent(digest.clone(), count));
            self.put(digest, &mut At(&file, 0), image.cancel, &told)?;
            (image.watch)(Event::Delivered(digest.clone()));
            Ok(())
        })?;
        for part in image.documents {
            if !self.is_whole(&part.descriptor, image.cancel)? {
                let digest = &part.descriptor.digest;
                self.put(digest, &mut &*part.bytes, image.cancel, &|_| {})?;
            }
        }
        // Everything is there, also after a power cut, before it is named.
        for name in [Some("sha256"), Some("sha512"), None] {
            match name.map(|name| open_directory(&blobs, name)) {
                Some(Ok(directory)) => durable::sync_directory(directory)?,
                Some(Err(_)) => {}
                None => durable::sync_directory(&blobs)?,
            }
        }
        self.enlist(image.target, image.label)
    }

    /// Whether a blob is there with the right bytes.
    fn is_whole(&self, blob: &Descriptor, cancel: &Cancel) -> Result<bool> {
        let Some(file) = self.blob(&blob.digest)? else {
            return Ok(false);
        };
        if file.metadata()?.len() != blob.size {
            return Ok(false);
        }
        let mut hasher = blob.digest.algorithm().hasher();
        copy(&mut At(&file, 0), cancel, &mut |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        Ok(hasher.finish() == blob.digest)
    }

    fn put(
        &self,
        digest: &Digest,
        source: &mut dyn Read,
        cancel: &Cancel,
        told: &dyn Fn(u64),
    ) -> Result<()> {
        let words = || format!("cannot write blob {digest}");
        let Some(shard) = self.shard(digest)? else {
            return Err(Error::new(
                ErrorKind::Busy,
                format!("{}: no directory", words()),
            ));
        };
        let name = durable::temporary_name();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&shard, &name, flags, Mode::from(0o644)).context(words)?;
        let written = || -> Result<()> {
            let mut file = File::from(file);
            let mut hasher = digest.algorithm().hasher();
            let mut total = 0;
            copy(source, cancel, &mut |bytes| {
                file.write_all(bytes)?;
                hasher.update(bytes);
                total += bytes.len() as u64;
                told(total);
                Ok(())
            })?;
            let found = hasher.finish();
            if found != *digest {
                return Err(damaged(digest, &found));
            }
            file.sync_data()?;
            rustix::fs::renameat(&shard, &name, &shard, digest.hex())?;
            Ok(())
        };
        written().context(words).inspect_err(|_| {
            // The error matters more.
            let _ = rustix::fs::unlinkat(&shard, &name, AtFlags::empty());
        })
    }

    fn enlist(&self, target: &Descriptor, label: &Label) -> Result<()> {
        // Of an own description: another thread's lock is another lock.
        let lock = open_directory(&self.directory, ".")?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .context(|| "cannot lock the directory")?;
        let before = durable::read(&self.directory, INDEX, MAX_DOCUMENT as u64)?;
        let after = with_entry(before.as_deref(), target, label)?;
        if before.as_ref() == Some(&after) {
            return Ok(());
        }
        durable::replace(&self.directory, INDEX, &after, Mode::from(0o644))
    }
}

/// An image that becomes part of a layout.
pub(crate) struct Addition<'a> {
    pub(crate) content: &'a Content,
    pub(crate) blobs: &'a [Leaving],
    pub(crate) documents: &'a [Part],
    pub(crate) target: &'a Descriptor,
    pub(crate) label: &'a Label,
    pub(crate) watch: Watch<'a>,
    pub(crate) cancel: &'a Cancel,
}

/// A blob of the store whose bytes are others than it is called.
pub(crate) fn damaged(digest: &Digest, found: &Digest) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("blob {digest} of the store is damaged: its bytes have digest {found}"),
    )
}

/// Hands out all bytes of a source, unless it is called off.
pub(crate) fn copy(
    source: &mut dyn Read,
    cancel: &Cancel,
    take: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        cancel.check()?;
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&buffer[..count])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads from an offset, without disturbing others.
pub(crate) struct At<'a>(pub(crate) &'a File, pub(crate) u64);

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.0.read_at(buffer, self.1)?;
        self.1 += count as u64;
        Ok(count)
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn make(at: &OwnedFd, name: &str) -> Result<OwnedFd> {
    match rustix::fs::mkdirat(at, name, Mode::from(0o755)) {
        Ok(()) => durable::sync_directory(at)?,
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno).context(|| format!("cannot make {name}")),
    }
    open_directory(at, name)
}

/// What an interrupted maker left does not count.
fn is_empty(directory: &OwnedFd) -> Result<bool> {
    let list = rustix::fs::Dir::read_from(directory).context(|| "cannot list a directory")?;
    for entry in list {
        let entry = entry.context(|| "cannot list a directory")?;
        let name = entry.file_name().to_string_lossy();
        if !matches!(&*name, "." | "..") && !name.starts_with(durable::TEMPORARY) {
            return Ok(false);
        }
    }
    Ok(true)
}
