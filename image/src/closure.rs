//! What belongs to an image: its documents and blobs, found from its index or manifest.
//!
//! Pure but for the two questions it asks: for a document's bytes, and whether a blob is there.
//! Copies from a store ([`crate::stored`]) and into one ([`crate::import`]) ask different places.

use std::collections::HashSet;

use crate::document::{Descriptor, Document, Index, MAX_INDEX_DEPTH, Manifest, check_size, media};
use crate::platform::Platform;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Documents of one image: an index of every platform there is has some dozens.
pub const MAX_DOCUMENTS: usize = 4096;
/// Bytes of all of them together.
pub const MAX_DOCUMENT_BYTES: usize = 32 << 20;

/// Which images of an index.
#[derive(Debug, Clone)]
pub enum Platforms {
    /// All of them, or it is an error.
    All,
    /// The one that suits this machine best.
    One(Platform),
    /// All if all are there, else the one that suits this machine best.
    AllOr(Platform),
}

impl Platforms {
    /// The machine that a choice is made for.
    pub fn machine(&self) -> Platform {
        match self {
            Self::All => Platform::host(),
            Self::One(platform) | Self::AllOr(platform) => platform.clone(),
        }
    }
}

/// A document and what it means.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its name, as whoever refers to it says.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their meaning.
    pub document: Document,
}

impl Part {
    /// A manifest, if it is one.
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.document {
            Document::Manifest(manifest) => Some(manifest),
            Document::Index(_) => None,
        }
    }
}

/// All that belongs to an image.
#[derive(Debug, Clone)]
pub struct Closure {
    /// What was chosen: an index with everything, or one manifest.
    pub chosen: Descriptor,
    /// Its documents; who is referred to comes before who refers to it, so `chosen` is the last.
    pub documents: Vec<Part>,
    /// The indexes that led to it, lowest first; none if `chosen` is where we began.
    pub way: Vec<Part>,
    /// Configurations and layers, each digest once.
    pub blobs: Vec<Descriptor>,
}

impl Closure {
    /// The manifest that suits a machine, of those that belong.
    pub fn manifest(&self, platform: &Platform) -> Result<&Part> {
        let mut at = &self.chosen.digest;
        for _ in 0..=MAX_INDEX_DEPTH {
            let part = self
                .documents
                .iter()
                .find(|part| part.descriptor.digest == *at);
            let part = part.ok_or_else(|| missing(at, "manifest"))?;
            match &part.document {
                Document::Manifest(_) => return Ok(part),
                Document::Index(index) => at = &index.select(platform)?.digest,
            }
        }
        Err(too_deep())
    }
}

/// Where an image is looked for.
#[allow(missing_debug_implementations)]
pub struct Place<'a> {
    /// The bytes of a document, verified; none if it is not there.
    pub read: &'a mut dyn FnMut(&Descriptor) -> Result<Option<Vec<u8>>>,
    /// Whether a blob is there.
    pub has: &'a mut dyn FnMut(&Descriptor) -> Result<bool>,
}

/// Finds what belongs to an image.
pub fn closure(
    target: &Descriptor,
    platforms: &Platforms,
    place: &mut Place<'_>,
) -> Result<Closure> {
    match platforms {
        Platforms::All => all(target, place),
        Platforms::One(platform) => one(target, platform, place),
        Platforms::AllOr(platform) => match all(target, place) {
            Err(error) if error.kind() == ErrorKind::NotFound => one(target, platform, place),
            other => other,
        },
    }
}

fn all(target: &Descriptor, place: &mut Place<'_>) -> Result<Closure> {
    let mut walk = Walk::new(place);
    walk.visit(target, 0)?;
    Ok(walk.end(target.clone(), Vec::new()))
}

fn one(target: &Descriptor, platform: &Platform, place: &mut Place<'_>) -> Result<Closure> {
    let mut walk = Walk::new(place);
    let mut way = Vec::new();
    let mut chosen = target.clone();
    while let Some((part, index)) = walk.index(&chosen)? {
        if way.len() >= MAX_INDEX_DEPTH {
            return Err(too_deep());
        }
        chosen = index.select(platform)?.clone();
        way.push(part);
    }
    walk.visit(&chosen, 0)?;
    way.reverse();
    Ok(walk.end(chosen, way))
}

struct Walk<'a, 'b> {
    place: &'a mut Place<'b>,
    documents: Vec<Part>,
    blobs: Vec<Descriptor>,
    seen: HashSet<Digest>,
    bytes: usize,
}

impl<'a, 'b> Walk<'a, 'b> {
    fn new(place: &'a mut Place<'b>) -> Self {
        Self {
            place,
            documents: Vec::new(),
            blobs: Vec::new(),
            seen: HashSet::new(),
            bytes: 0,
        }
    }

    fn end(self, chosen: Descriptor, way: Vec<Part>) -> Closure {
        Closure {
            chosen,
            documents: self.documents,
            way,
            blobs: self.blobs,
        }
    }

    fn read(&mut self, wanted: &Descriptor) -> Result<Part> {
        let words = || format!("cannot use {}", wanted.digest);
        check_size(usize::try_from(wanted.size).unwrap_or(usize::MAX)).context(words)?;
        let bytes =
            (self.place.read)(wanted)?.ok_or_else(|| missing(&wanted.digest, "manifest"))?;
        if bytes.len() as u64 != wanted.size {
            let (length, size) = (bytes.len(), wanted.size);
            let message = format!("{}: it has {length} bytes, not {size}", words());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        self.bytes += bytes.len();
        if self.documents.len() >= MAX_DOCUMENTS || self.bytes > MAX_DOCUMENT_BYTES {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "{}: an image of more than {MAX_DOCUMENTS} documents or {MAX_DOCUMENT_BYTES} bytes of them",
                    words()
                ),
            ));
        }
        let document = Document::read(&bytes, Some(&wanted.media_type)).context(words)?;
        Ok(Part {
            descriptor: wanted.clone(),
            bytes,
            document,
        })
    }

    /// An index; none if it is a manifest, by what it is called.
    fn index(&mut self, wanted: &Descriptor) -> Result<Option<(Part, Index)>> {
        if !matches!(
            wanted.media_type.as_str(),
            media::OCI_INDEX | media::DOCKER_LIST
        ) {
            return Ok(None);
        }
        let part = self.read(wanted)?;
        match &part.document {
            Document::Index(index) => {
                let index = (**index).clone();
                Ok(Some((part, index)))
            }
            Document::Manifest(_) => Err(Error::invalid(format!(
                "{} is called an index and is none",
                wanted.digest
            ))),
        }
    }

    fn visit(&mut self, wanted: &Descriptor, depth: usize) -> Result<()> {
        if depth > MAX_INDEX_DEPTH {
            return Err(too_deep());
        }
        if !self.seen.insert(wanted.digest.clone()) {
            return Ok(());
        }
        let part = self.read(wanted)?;
        match &part.document {
            Document::Index(index) => {
                for entry in &index.manifests {
                    self.visit(entry, depth + 1)?;
                }
            }
            Document::Manifest(manifest) => {
                self.blob(&manifest.config)
                    .context(|| format!("manifest {}", wanted.digest))?;
                for (number, layer) in manifest.layers.iter().enumerate() {
                    self.blob(layer).context(|| {
                        let (number, count) = (number + 1, manifest.layers.len());
                        format!("layer {number} of {count} of manifest {}", wanted.digest)
                    })?;
                }
            }
        }
        self.documents.push(part);
        Ok(())
    }

    fn blob(&mut self, blob: &Descriptor) -> Result<()> {
        if self.seen.contains(&blob.digest) {
            return Ok(());
        }
        if !(self.place.has)(blob)? {
            // Registries may be without it too.
            if blob.is_foreign() {
                return Ok(());
            }
            return Err(missing(&blob.digest, "blob"));
        }
        self.seen.insert(blob.digest.clone());
        self.blobs.push(blob.clone());
        Ok(())
    }
}

fn missing(digest: &Digest, what: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{what} {digest} is not there"))
}

fn too_deep() -> Error {
    Error::invalid(format!(
        "more than {MAX_INDEX_DEPTH} indexes inside one another"
    ))
}
