//! Layers in another compression: the same layer and level always become the same bytes.
//!
//! Owns which layers are compressed anew, where their bytes are meanwhile (files without a name in
//! the store, gone with their process), and manifests and indexes that say so. Everything else of a
//! document stays as it is, also what nobody here knows. Image specification, layer.md ("+gzip",
//! "+zstd"); Docker's schema 2 has no media type for zstd, so such an image becomes an OCI one.

mod rewrite;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use rcrun_overlay::compress::{self, Encoder, Limits, decode_ahead};
use rcrun_overlay::content::Content;
use rcrun_overlay::digest::{Algorithm, Hasher};
use rcrun_overlay::durable;
use rcrun_overlay::store::Store;
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::closure::{Closure, Part};
use crate::document::{Descriptor, ImageConfig, MAX_DOCUMENT};
use crate::layout::directory::At;
use crate::progress::{Event, Watch};
use crate::registry::retry::Cancel;
use crate::stored::{Bytes, Leaving, Stored};
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Bytes that go to a file at once.
const BUFFER: usize = 256 << 10;

/// A compression, with a level if it is not the usual one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// gzip, which everybody reads.
    Gzip(Option<i32>),
    /// zstd, smaller and faster.
    Zstd(Option<i32>),
}

impl Format {
    fn compression(self) -> compress::Compression {
        match self {
            Self::Gzip(_) => compress::Compression::Gzip,
            Self::Zstd(_) => compress::Compression::Zstd,
        }
    }

    fn level(self) -> Option<i32> {
        match self {
            Self::Gzip(level) | Self::Zstd(level) => level,
        }
    }
}

/// Which layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those that are not compressed.
    Plain,
    /// Those that are not compressed this way.
    Others,
    /// All of them, also those that are compressed this way, perhaps at another level.
    All,
}

/// How layers leave the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Layers {
    /// Every byte as it is, every digest the same.
    #[default]
    Keep,
    /// Compressed anew.
    Compress(Format, Which),
}

/// What a layer has become.
#[derive(Debug, Clone)]
struct New {
    digest: Digest,
    size: u64,
}

/// Compresses the layers of one image anew.
pub(crate) struct Recompress<'a> {
    store: &'a Store,
    content: &'a Content,
    layers: Layers,
    /// Docker's documents become OCI's.
    oci: bool,
    watch: Watch<'a>,
    cancel: &'a Cancel,
    /// Layers, and what they are when not compressed, where that is known.
    known: HashMap<Digest, Option<Digest>>,
    done: Mutex<HashMap<Digest, New>>,
    /// One at a time: each uses all processors, and memory for one only.
    turn: Mutex<()>,
}

impl<'a> Recompress<'a> {
    pub(crate) fn new(
        store: &'a Store,
        image: &'a Stored,
        layers: Layers,
        watch: Watch<'a>,
        cancel: &'a Cancel,
    ) -> Result<Self> {
        let known = match layers {
            Layers::Keep => HashMap::new(),
            Layers::Compress(..) => known_layers(&image.closure, &image.content)?,
        };
        if let Layers::Compress(format, _) = layers {
            compress::check_level(format.compression(), format.level())?;
        }
        Ok(Self {
            store,
            content: &image.content,
            layers,
            oci: false,
            watch,
            cancel,
            known,
            done: Mutex::default(),
            turn: Mutex::default(),
        })
    }

    /// Also lets Docker's documents become OCI's, whatever becomes of the layers.
    pub(crate) fn oci(self, oci: bool) -> Self {
        Self { oci, ..self }
    }

    /// A blob as it is to leave.
    pub(crate) fn blob(&self, blob: &Descriptor) -> Result<Leaving> {
        let stored = Leaving {
            descriptor: blob.clone(),
            bytes: Bytes::Stored,
        };
        let (Layers::Compress(format, which), Some(diff_id)) =
            (self.layers, self.known.get(&blob.digest))
        else {
            return Ok(stored);
        };
        let file = stored.open(self.content)?;
        let now = sniff(&file).context(|| format!("cannot read layer {}", blob.digest))?;
        let kept = match which {
            Which::Plain => now != compress::Compression::None,
            Which::Others => now == format.compression(),
            Which::All => false,
        };
        if kept {
            return Ok(stored);
        }
        let _turn = lock(&self.turn);
        self.cancel.check()?;
        let (new, file) = self
            .encode(&file, blob, format, diff_id.as_ref())
            .context(|| format!("cannot compress layer {}", blob.digest))?;
        let descriptor = Descriptor {
            media_type: rewrite::layer_type(&blob.media_type, Some(format), true),
            digest: new.digest.clone(),
            size: new.size,
            ..blob.clone()
        };
        lock(&self.done).insert(blob.digest.clone(), new);
        (self.watch)(Event::Recompressed(blob.digest.clone(), descriptor.clone()));
        Ok(Leaving {
            descriptor,
            bytes: Bytes::Made(Arc::new(file)),
        })
    }

    /// The documents as they are to leave, after all blobs; the last is the image.
    pub(crate) fn documents(&self, closure: &Closure) -> Result<Vec<Part>> {
        let done = lock(&self.done);
        let format = match self.layers {
            Layers::Compress(format, _) if !done.is_empty() => Some(format),
            _ => None,
        };
        rewrite::documents(&closure.documents, &done, format, self.oci)
    }

    fn encode(
        &self,
        source: &File,
        blob: &Descriptor,
        format: Format,
        diff_id: Option<&Digest>,
    ) -> Result<(New, File)> {
        let sink = Hashed::new(nameless(self.store)?);
        let threads = crate::crew::threads();
        let source = At(source, 0);
        let (sink, decoded) = decode_ahead(source, Limits::default(), |plain| {
            let mut encoder =
                Encoder::with_level(format.compression(), format.level(), sink, threads)?;
            let mut total = 0;
            loop {
                self.cancel.check()?;
                let chunk = plain.fill_buf().map_err(rcrun_overlay::archive::from_io)?;
                let length = chunk.len();
                if length == 0 {
                    break;
                }
                encoder.write_all(chunk)?;
                plain.consume(length);
                total += length as u64;
                (self.watch)(Event::Compressed(blob.digest.clone(), total));
            }
            Ok(encoder.finish()?)
        })?;
        if let Some(wanted) = diff_id.filter(|wanted| **wanted != decoded.diff_id) {
            let found = decoded.diff_id;
            let message =
                format!("its archive has digest {found}, and the configuration says {wanted}");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        sink.finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The layers of images, with their DiffIDs. What is no layer we know is no business of ours.
fn known_layers(closure: &Closure, content: &Content) -> Result<HashMap<Digest, Option<Digest>>> {
    let mut known = HashMap::new();
    for manifest in closure.documents.iter().filter_map(Part::manifest) {
        let diff_ids = match content.read(&manifest.config.digest, MAX_DOCUMENT as u64)? {
            // An artifact's configuration says nothing of layers.
            Some(config) => ImageConfig::read(&config).map(|config| config.rootfs.diff_ids),
            None => Ok(Vec::new()),
        };
        let diff_ids = diff_ids.unwrap_or_default();
        for (index, layer) in manifest.layers.iter().enumerate() {
            if layer.layer().is_ok() && !layer.is_foreign() {
                let diff_id = diff_ids
                    .get(index)
                    .filter(|id| id.algorithm() == Algorithm::Sha256);
                known.insert(layer.digest.clone(), diff_id.cloned());
            }
        }
    }
    Ok(known)
}

fn sniff(file: &File) -> Result<compress::Compression> {
    let mut first = [0; compress::sniff::SNIFFED];
    let mut have = 0;
    while have < first.len() {
        match file.read_at(&mut first[have..], have as u64)? {
            0 => break,
            count => have += count,
        }
    }
    compress::sniff::sniff(&first[..have])
}

/// A file in the store's file system that nobody else sees and that ends with us.
fn nameless(store: &Store) -> Result<File> {
    let directory = store.directory("content/incoming")?;
    let name = durable::temporary_name();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(&directory, &name, flags, Mode::from(0o600))
        .context(|| format!("cannot create content/incoming/{name}"))?;
    rustix::fs::unlinkat(&directory, &name, AtFlags::empty())
        .context(|| format!("cannot remove content/incoming/{name}"))?;
    Ok(File::from(file))
}

/// A file that knows its digest.
struct Hashed {
    file: io::BufWriter<File>,
    hasher: Hasher,
    size: u64,
}

impl Hashed {
    fn new(file: File) -> Self {
        Self {
            file: io::BufWriter::with_capacity(BUFFER, file),
            hasher: Algorithm::Sha256.hasher(),
            size: 0,
        }
    }

    fn finish(self) -> Result<(New, File)> {
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        let new = New {
            digest: self.hasher.finish(),
            size: self.size,
        };
        Ok((new, file))
    }
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
