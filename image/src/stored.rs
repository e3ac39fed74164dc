//! An image in the store that is to leave it: what belongs to it, held by a lease meanwhile.
//!
//! Owns the way from a name or digest to documents and readable blobs. What leaves is made of
//! [`Bytes`]: blobs of the store as they are, or layers that were compressed anew.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rcrun_overlay::content::Content;
use rcrun_overlay::lease::{Lease, Root};
use rcrun_overlay::store::Store;

use crate::closure::{Closure, Place, Platforms, closure};
use crate::document::{Descriptor, Document, MAX_DOCUMENT};
use crate::names::Names;
use crate::progress::{Event, Watch};
use crate::reference::Reference;
use crate::registry::retry::Cancel;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// What people say to mean an image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A name.
    Name(Reference),
    /// An index or manifest.
    Digest(Digest),
    /// An index or manifest that has this name where it goes, whatever it is called here.
    Called(Digest, Reference),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Digest(digest) | Self::Called(digest, _) => digest.fmt(f),
        }
    }
}

/// An image that stays as long as this.
#[derive(Debug)]
pub struct Stored {
    /// Its blobs.
    pub content: Content,
    /// What belongs to it.
    pub closure: Closure,
    _lease: Lease,
}

impl Stored {
    /// Finds an image with all that belongs to it.
    pub fn open(store: &Store, subject: &Subject, platforms: &Platforms) -> Result<Self> {
        let lease = store.lease()?;
        let content = store.content();
        let target = match subject {
            Subject::Name(name) => by_name(store, &lease, name)?,
            Subject::Digest(digest) | Subject::Called(digest, _) => {
                by_digest(&content, &lease, digest)?
            }
        };
        let mut place = Place {
            read: &mut |wanted| content.read(&wanted.digest, MAX_DOCUMENT as u64),
            has: &mut |blob| has(&content, blob),
        };
        let closure = closure(&target, platforms, &mut place)
            .context(|| format!("cannot use {subject} of the store"))?;
        Ok(Self {
            content,
            closure,
            _lease: lease,
        })
    }
}

/// Whether a blob is there with the size that is expected.
pub(crate) fn has(content: &Content, blob: &Descriptor) -> Result<bool> {
    let Some(found) = content.open(&blob.digest)? else {
        return Ok(false);
    };
    if found.size() == blob.size {
        return Ok(true);
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        format!(
            "blob {} has {} bytes, not {} as its descriptor says",
            blob.digest,
            found.size(),
            blob.size
        ),
    ))
}

/// Reads the name, holds what it says, and reads it again: `lease` says why.
fn by_name(store: &Store, lease: &Lease, name: &Reference) -> Result<Descriptor> {
    let names = Names::new(store)?;
    let mut before = names.get(name)?;
    loop {
        let Some(record) = before else {
            // A name with a digest means that digest, whatever it is called here.
            let digest = name.digest().filter(|_| name.tag().is_none());
            return match digest {
                Some(digest) => by_digest(&store.content(), lease, digest),
                None => Err(none(name)),
            };
        };
        lease.hold(&[Root::Image(record.target.digest.clone())])?;
        let after = names.get(name)?;
        if after.as_ref().map(|after| &after.target) == Some(&record.target) {
            return Ok(record.target);
        }
        before = after;
    }
}

fn by_digest(content: &Content, lease: &Lease, digest: &Digest) -> Result<Descriptor> {
    lease.hold(&[Root::Image(digest.clone())])?;
    let bytes = content
        .read(digest, MAX_DOCUMENT as u64)?
        .ok_or_else(|| none(digest))?;
    let document = Document::read(&bytes, None).context(|| format!("cannot use {digest}"))?;
    Ok(plain(document.media_type(), digest, bytes.len() as u64))
}

fn none(name: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::NotFound, format!("no image {name} in the store"))
}

/// A descriptor that says nothing else.
pub(crate) fn plain(media_type: &str, digest: &Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: digest.clone(),
        size,
        urls: Vec::new(),
        annotations: std::collections::BTreeMap::new(),
        platform: None,
        artifact_type: None,
    }
}

/// The bytes of a blob that leaves.
#[derive(Debug, Clone)]
pub enum Bytes {
    /// In the store, under its digest.
    Stored,
    /// Made for this purpose.
    Made(Arc<File>),
}

/// A blob that leaves.
#[derive(Debug, Clone)]
pub struct Leaving {
    /// What it is.
    pub descriptor: Descriptor,
    /// Where its bytes are.
    pub bytes: Bytes,
}

impl Leaving {
    /// Its bytes, for several readers at once.
    pub(crate) fn open(&self, content: &Content) -> Result<Arc<File>> {
        match &self.bytes {
            Bytes::Made(file) => Ok(Arc::clone(file)),
            Bytes::Stored => match content.open(&self.descriptor.digest)? {
                Some(blob) => Ok(Arc::new(blob.into_file())),
                None => Err(none(&self.descriptor.digest)),
            },
        }
    }
}

/// Reads a file from an offset, without disturbing others, and tells how far it came.
pub(crate) struct Section<'a> {
    pub(crate) file: Arc<File>,
    pub(crate) digest: &'a Digest,
    pub(crate) at: u64,
    pub(crate) watch: Watch<'a>,
    pub(crate) cancel: &'a Cancel,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cancel.check().map_err(io::Error::other)?;
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        if count > 0 {
            (self.watch)(Event::Sent(self.digest.clone(), self.at));
        }
        Ok(count)
    }
}
