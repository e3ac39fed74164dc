//! Images from layouts and archives into a store.
//!
//! Owns the order of things: everything is looked at, the lease holds it, blobs and documents
//! become durable, layers are unpacked or at least checked, names come last. An error leaves the
//! store as it was, but for blobs that were whole, which nobody refers to.

use rcrun_overlay::compress::{Limits, decode_ahead};
use rcrun_overlay::content::{Claim, Content, Expected, commit_all};
use rcrun_overlay::lease::{Lease, Root};
use rcrun_overlay::store::Store;

use crate::archive::arriving::Arrived;
use crate::closure::{Closure, Part, Place, Platforms, closure};
use crate::crew::{each, threads};
use crate::document::{Compression, Descriptor, ImageConfig, MAX_DOCUMENT, Manifest};
use crate::layout::directory::{At, Layout, copy};
use crate::names::{Names, Record};
use crate::progress::{Event, Watch};
use crate::pull::{Way, unpack_stored};
use crate::reference::Reference;
use crate::registry::retry::Cancel;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Where documents and blobs come from.
#[derive(Debug)]
pub(crate) enum Origin {
    Directory(Layout),
    Archive(Box<Arrived>),
}

/// An image that came.
#[derive(Debug, Clone)]
pub struct Imported {
    /// What its names stand for: an index or a manifest.
    pub target: Descriptor,
    /// The manifest for the machine that was asked for, if there is one.
    pub manifest: Option<Digest>,
    /// Its names.
    pub names: Vec<Record>,
}

/// What is done with images that come.
pub(crate) struct Import<'a> {
    pub(crate) store: &'a Store,
    pub(crate) content: Content,
    pub(crate) lease: Lease,
    pub(crate) platforms: &'a Platforms,
    pub(crate) unpack: Option<Way>,
    /// What says no name is kept by its digest.
    pub(crate) keep: bool,
    pub(crate) watch: Watch<'a>,
    pub(crate) cancel: &'a Cancel,
}

impl Import<'_> {
    /// Takes one image; `made` are the bytes of its manifest if the origin does not have it.
    pub(crate) fn image(
        &self,
        origin: &mut Origin,
        target: &Descriptor,
        made: Option<&[u8]>,
        names: &[Reference],
    ) -> Result<Imported> {
        self.lease.hold(&[Root::Image(target.digest.clone())])?;
        let closure = self.closure(origin, target, made)?;
        let machine = self.platforms.machine();
        let main = closure.manifest(&machine).ok();
        let manifest = main.and_then(Part::manifest);
        let layers = match (manifest, self.unpack) {
            (Some(manifest), _) => manifest.layers.clone(),
            (None, None) => Vec::new(),
            (None, Some(_)) => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("no image for platform {machine} to unpack"),
                ));
            }
        };
        let digest = main.map(|part| part.descriptor.digest.clone());
        (self.watch)(Event::Resolved {
            digest: digest.clone().unwrap_or_else(|| target.digest.clone()),
            layers,
        });
        self.hold(&closure)?;
        origin.bring(self, &closure.blobs)?;
        if let Some(manifest) = manifest {
            self.layers(manifest, made.is_some())
                .context(|| format!("cannot use manifest {}", target.digest))?;
        }
        let mut whole = Vec::new();
        for part in closure.documents.iter().chain(&closure.way) {
            let digest = &part.descriptor.digest;
            if !self.content.contains(digest)? {
                let algorithm = digest.algorithm();
                whole.push(self.content.prepare(&self.lease, algorithm, &part.bytes)?);
            }
        }
        commit_all(whole)?;
        let target = crate::stored::plain(&target.media_type, &target.digest, target.size);
        let store_names = Names::new(self.store)?;
        let set = |name| store_names.set(&self.lease, name, &target);
        let names: Vec<Record> = names.iter().map(set).collect::<Result<_>>()?;
        if names.is_empty() && self.keep {
            store_names.keep_unnamed(&self.lease, &target)?;
        }
        Ok(Imported {
            manifest: digest,
            names,
            target,
        })
    }

    fn closure(
        &self,
        origin: &Origin,
        target: &Descriptor,
        made: Option<&[u8]>,
    ) -> Result<Closure> {
        let mut place = Place {
            read: &mut |wanted| match made {
                Some(made) if wanted.digest == target.digest => Ok(Some(made.to_vec())),
                _ => origin.document(wanted),
            },
            has: &mut |blob| origin.has(self, blob),
        };
        closure(target, self.platforms, &mut place)
            .context(|| format!("cannot use image {}", target.digest))
    }

    fn hold(&self, closure: &Closure) -> Result<()> {
        let documents = closure.documents.iter().chain(&closure.way);
        let documents = documents.map(|part| Root::Image(part.descriptor.digest.clone()));
        let blobs = closure
            .blobs
            .iter()
            .map(|one| Root::Blob(one.digest.clone()));
        let roots: Vec<Root> = documents.chain(blobs).collect();
        self.lease.hold(&roots)
    }

    /// Unpacks the layers, or sees that they are what the configuration says if nobody vouches for
    /// them by a digest.
    fn layers(&self, manifest: &Manifest, unvouched: bool) -> Result<()> {
        if self.unpack.is_none() && !unvouched {
            return Ok(());
        }
        manifest.check_image()?;
        let config = &manifest.config.digest;
        let bytes = self.content.read(config, MAX_DOCUMENT as u64)?;
        let bytes = bytes.ok_or_else(|| missing(config))?;
        let parsed = ImageConfig::read(&bytes)
            .and_then(|parsed| parsed.check_layers(manifest.layers.len()).map(|()| parsed))
            .context(|| format!("cannot use configuration {config}"))?;
        let diff_ids = parsed.rootfs.diff_ids;
        if let Some(way) = self.unpack {
            let (watch, cancel) = (self.watch, self.cancel);
            let layers = &manifest.layers;
            return unpack_stored(
                self.store,
                &self.lease,
                layers,
                &diff_ids,
                way,
                watch,
                cancel,
            );
        }
        let both: Vec<(&Descriptor, &Digest)> = manifest.layers.iter().zip(&diff_ids).collect();
        each(&both, threads(), self.cancel, &|| {}, &|(
            layer,
            diff_id,
        )| {
            let plain = layer.layer()? == Compression::None;
            if plain && layer.digest == **diff_id {
                return Ok(());
            }
            let blob = self.content.open(&layer.digest)?;
            let blob = blob.ok_or_else(|| missing(&layer.digest))?;
            let decoded = decode_ahead(blob.into_file(), Limits::default(), |_| Ok(()))
                .context(|| format!("cannot read layer {}", layer.digest))?
                .1;
            match decoded.diff_id == **diff_id {
                true => Ok(()),
                false => Err(crate::docker_archive::wrong_layer(
                    &layer.digest,
                    &decoded.diff_id,
                    diff_id,
                )),
            }
        })
    }

    /// Takes a blob from a layout.
    pub(crate) fn fetch(&self, layout: &Layout, blob: &Descriptor) -> Result<()> {
        let digest = &blob.digest;
        let expected = Expected {
            digest: digest.clone(),
            size: Some(blob.size),
        };
        let mut untold = true;
        let mut waiting = |_| {
            if std::mem::take(&mut untold) {
                (self.watch)(Event::Waiting(digest.clone()));
            }
            self.cancel.check()
        };
        let mut claim = self.content.ingest(&self.lease, &expected, &mut waiting)?;
        // What an earlier attempt left is as quickly read again.
        if let Claim::Mine(ingest) = claim {
            match ingest.resumed() {
                0 => claim = Claim::Mine(ingest),
                _ => {
                    ingest.discard();
                    claim = self.content.ingest(&self.lease, &expected, &mut waiting)?;
                }
            }
        }
        let Claim::Mine(ingest) = claim else {
            (self.watch)(Event::Exists(digest.clone()));
            return Ok(());
        };
        let file = layout.blob(digest)?.ok_or_else(|| missing(digest))?;
        let mut piece = ingest.claim(u64::MAX);
        let mut total = 0;
        let copied = copy(&mut At(&file, 0), self.cancel, &mut |bytes| {
            if let Some(piece) = &mut piece {
                piece.write(bytes)?;
            }
            total += bytes.len() as u64;
            (self.watch)(Event::Received(digest.clone(), total));
            Ok(())
        });
        drop(piece);
        if let Err(error) = copied {
            ingest.discard();
            return Err(error);
        }
        if !ingest.is_complete() {
            ingest.discard();
            let message = format!("blob {digest} has {total} bytes, not {}", blob.size);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        ingest.commit()?;
        (self.watch)(Event::Fetched(digest.clone()));
        Ok(())
    }
}

fn missing(digest: &Digest) -> Error {
    Error::new(ErrorKind::NotFound, format!("blob {digest} is not there"))
}

impl Origin {
    fn document(&self, wanted: &Descriptor) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Directory(layout) => layout.document(wanted),
            Self::Archive(arrived) => arrived.document(&wanted.digest),
        }
    }

    fn has(&self, import: &Import<'_>, blob: &Descriptor) -> Result<bool> {
        match self {
            Self::Archive(arrived) => arrived.has(blob),
            Self::Directory(layout) => {
                let Some(file) = layout.blob(&blob.digest)? else {
                    // Whoever made the layout may have known that it is here.
                    import.lease.hold(&[Root::Blob(blob.digest.clone())])?;
                    return crate::stored::has(&import.content, blob);
                };
                let length = file.metadata()?.len();
                match length == blob.size {
                    true => Ok(true),
                    false => Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("blob {} has {length} bytes, not {}", blob.digest, blob.size),
                    )),
                }
            }
        }
    }

    fn bring(&mut self, import: &Import<'_>, blobs: &[Descriptor]) -> Result<()> {
        match self {
            Self::Archive(arrived) => arrived.bring(blobs, import.watch),
            Self::Directory(layout) => {
                let layout = &*layout;
                each(blobs, threads(), import.cancel, &|| {}, &|blob| {
                    import
                        .fetch(layout, blob)
                        .context(|| format!("cannot take blob {}", blob.digest))
                })
            }
        }
    }
}
