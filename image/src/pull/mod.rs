//! Pulling: from a name at a registry to an image in the store, ready to run.
//!
//! Blobs are fetched by some threads and unpacked by others at the same time: a layer is inflated,
//! hashed and unpacked while it arrives ([`blob`], [`unpack`]). What is there already, or arrives by
//! another process, is not fetched again. Nothing counts before it was verified and is durable: the
//! blobs first, the unpacked layers next (lowest first), the name last.
//!
//! An error leaves the store as it was, but for blobs that were whole and what was received of
//! others, which the next attempt goes on with; they are swept if there is none.

mod all;
mod blob;
mod mend;
mod placing;
#[cfg(test)]
mod tests;
mod unpack;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rcrun_overlay::content::Content;
use rcrun_overlay::layer::chain::chain_ids;
use rcrun_overlay::layer::store::{Claim, Layers};
use rcrun_overlay::lease::{LayerId, Lease, Root};
use rcrun_overlay::store::Store;

use crate::document::{Descriptor, Document, ImageConfig, Manifest};
use crate::names::{Names, Record};
use crate::platform::Platform;
pub use crate::progress::Event;
use crate::reference::Reference;
use crate::registry::client::Client;
use crate::registry::download::Fetched;
use crate::registry::retry::Cancel;
use crate::{Context, Digest, Error, ErrorKind, Result};

pub use all::pull_all;
pub use mend::renew_layer;
pub use unpack::Way;

/// Blobs that are fetched at the same time, unless the caller says otherwise.
pub const DOWNLOADS: usize = 3;

/// What is to be pulled, and how.
#[derive(Clone)]
pub struct Request<'a> {
    /// From where, and the name in the store.
    pub reference: &'a Reference,
    /// For which machine.
    pub platform: &'a Platform,
    /// How layers are unpacked; without one they are only fetched.
    pub unpack: Option<Way>,
    /// Blobs that are fetched at the same time.
    pub downloads: usize,
    /// Is told what happens.
    pub watch: &'a (dyn Fn(Event) + Sync),
    /// The same that the client was given. A pull that fails calls it off too, so that all of its
    /// threads end: the client is of no use afterwards.
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("reference", &self.reference.to_string())
            .finish_non_exhaustive()
    }
}

/// What was pulled.
#[derive(Debug)]
pub struct Pulled {
    /// The name.
    pub record: Record,
    /// The manifest for the platform.
    pub manifest: Digest,
    /// Whether the name stood for this already, and nothing had to be fetched.
    pub unchanged: bool,
}

/// Pulls an image.
pub fn pull(store: &Store, client: &Client, request: &Request<'_>) -> Result<Pulled> {
    let reference = request.reference;
    client
        .image(reference, request.platform)
        .and_then(|documents| Pull::begin(store, client, request, documents))
        .and_then(Pull::finish)
        .context(|| format!("cannot pull {reference}"))
}

/// Fetches what an image lacks, without a name for it and without unpacking: what was found damaged.
/// Returns its manifest. The reference is to have a digest, so that it is the same image.
pub fn complete(store: &Store, client: &Client, request: &Request<'_>) -> Result<Digest> {
    let reference = request.reference;
    let documents = match mend::stored_documents(store, request) {
        Some(documents) => Ok(documents),
        None => client.image(reference, request.platform),
    };
    documents
        .and_then(|documents| Pull::begin(store, client, request, documents))
        .and_then(|pull| pull.gather(Next::Nothing).map(|_| pull.manifest_digest()))
        .context(|| format!("cannot complete {reference}"))
}

/// Brings one blob of a manifest into the store; false if it was there. The caller's lease holds it.
pub(crate) fn bring(
    store: &Store,
    client: &Client,
    request: &Request<'_>,
    manifest: &Manifest,
    blob: &Descriptor,
) -> Result<bool> {
    let lease = store.lease()?;
    lease.hold(&[Root::Blob(blob.digest.clone())])?;
    let pull = Pull {
        content: store.content(),
        store,
        client,
        request,
        lease,
        documents: Vec::new(),
        manifest: Box::new(manifest.clone()),
        config: Vec::new(),
        diff_ids: Vec::new(),
    };
    pull.fetch(blob, &blob::Source::default())
        .context(|| format!("cannot fetch {}@{}", request.reference.name(), blob.digest))
}

/// The name of a layer in the store.
pub fn layer_id(chain: &Digest, way: Way) -> Result<LayerId> {
    let variant = match way {
        Way::Privileged => "",
        Way::Rootless => "-user",
        Way::Single => "-single",
    };
    match chain.hex().len() {
        64 => format!("{}{variant}", chain.hex()).parse(),
        _ => Err(Error::unsupported(format!(
            "layers named by {chain} are not supported"
        ))),
    }
}

/// Claims an image's layers, lowest first, so that two who need the same layers never wait for one
/// another.
fn claims<W: FnMut(Duration) -> Result<()>>(
    layers: &Layers,
    lease: &Lease,
    diff_ids: &[Digest],
    way: Way,
    waiting: impl Fn(usize) -> W,
) -> Result<Vec<Claim>> {
    let chain = chain_ids(diff_ids);
    let mut claims = Vec::with_capacity(chain.len());
    for (index, id) in chain.iter().enumerate() {
        claims.push(layers.claim(lease, &layer_id(id, way)?, &mut waiting(index))?);
    }
    Ok(claims)
}

/// Unpacks the layers of an image whose blobs are all in the store. The lease holds them.
pub fn unpack_stored(
    store: &Store,
    lease: &Lease,
    blobs: &[Descriptor],
    diff_ids: &[Digest],
    way: Way,
    watch: &(dyn Fn(Event) + Sync),
    cancel: &Cancel,
) -> Result<()> {
    let layers = Layers::new(store)?;
    let content = store.content();
    let mut sources = Vec::with_capacity(blobs.len());
    for blob in blobs {
        let there = content.open(&blob.digest)?;
        let missing = || Error::new(ErrorKind::NotFound, format!("no blob {}", blob.digest));
        sources.push(blob::Source::there(there.ok_or_else(missing)?.into_file()));
    }
    let waiting = |_| |_| cancel.check();
    let claims = claims(&layers, lease, diff_ids, way, waiting)?;
    let stop = Stop {
        first: Mutex::new(None),
        cancel,
        sources: &sources,
    };
    let unpacking = unpack::Unpacking {
        claims,
        sources: &sources,
        diff_ids,
        blobs,
        way,
        watch,
        stop: &stop,
    };
    let unpacked = placing::beside(store, |_| Ok(()), &stop, |_| unpacking.run());
    let first = stop.first.into_inner();
    match first.unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => layers.publish(lease, unpacked?).map(drop),
    }
}

/// What is written once all of an image is in the store.
#[derive(Clone, Copy)]
enum Next {
    /// Its name, durably, if anything was missing.
    Name,
    /// Nothing.
    Nothing,
}

/// A pull in progress.
struct Pull<'a> {
    content: Content,
    store: &'a Store,
    client: &'a Client,
    request: &'a Request<'a>,
    lease: Lease,
    /// The index, if there is one, and the manifest.
    documents: Vec<Fetched>,
    manifest: Box<Manifest>,
    config: Vec<u8>,
    diff_ids: Vec<Digest>,
}

impl<'a> Pull<'a> {
    /// Reads everything small.
    fn begin(
        store: &'a Store,
        client: &'a Client,
        request: &'a Request<'a>,
        documents: Vec<Fetched>,
    ) -> Result<Self> {
        let lease = store.lease()?;
        let content = store.content();
        let manifest = match documents.last().map(|last| &last.document) {
            Some(Document::Manifest(manifest)) => manifest.clone(),
            _ => {
                return Err(Error::new(
                    ErrorKind::Internal,
                    "resolving gave no manifest",
                ));
            }
        };
        let mut roots: Vec<Root> = documents
            .iter()
            .map(|document| Root::Image(document.digest.clone()))
            .collect();
        let blobs = manifest.layers.iter().chain([&manifest.config]);
        roots.extend(blobs.map(|blob| Root::Blob(blob.digest.clone())));
        lease.hold(&roots)?;
        for layer in &manifest.layers {
            layer.layer()?;
        }
        let config = match content.read(
            &manifest.config.digest,
            crate::document::MAX_DOCUMENT as u64,
        )? {
            Some(config) => config,
            None => client.small_blob(request.reference, &manifest.config)?,
        };
        let parsed = ImageConfig::read(&config)
            .and_then(|config| config.check_layers(manifest.layers.len()).map(|()| config))
            .context(|| format!("cannot use configuration {}", manifest.config.digest))?;
        let digest = documents
            .last()
            .map_or(&manifest.config.digest, |last| &last.digest)
            .clone();
        (request.watch)(Event::Resolved {
            digest,
            layers: manifest.layers.clone(),
        });
        let diff_ids = parsed.rootfs.diff_ids;
        Ok(Self {
            content,
            store,
            client,
            request,
            lease,
            documents,
            manifest,
            config,
            diff_ids,
        })
    }

    fn finish(self) -> Result<Pulled> {
        self.finish_with(|pull| pull.gather(Next::Name))
    }

    /// Names the image when `gather` has brought it into the store, and said whether it lacked
    /// anything.
    fn finish_with(self, gather: impl FnOnce(&Self) -> Result<bool>) -> Result<Pulled> {
        let names = Names::new(self.store)?;
        let target = self.target()?;
        let before = names.get(self.request.reference)?;
        let fetched = gather(&self)?;
        let manifest = self.manifest_digest();
        let same = |record: &Record| !fetched && record.target == target;
        if let Some(record) = before.clone().filter(same) {
            return Ok(Pulled {
                record,
                manifest,
                unchanged: true,
            });
        }
        if let Some(old) = before.filter(|record| record.target != target) {
            names.keep(&self.lease, &old)?;
        }
        let record = names.set(&self.lease, self.request.reference, &target)?;
        Ok(Pulled {
            record,
            manifest,
            unchanged: false,
        })
    }

    /// Brings all of the image into the store, durably, at the latest with the name that comes next if one
    /// does. Says whether anything was missing.
    fn gather(&self, next: Next) -> Result<bool> {
        let layers = Layers::new(self.store)?;
        let (fetched, unpacked) = self.fetch_and_unpack(&layers)?;
        let mut changed = fetched || !unpacked.is_empty();
        let documents = self.documents.iter().map(|one| (&one.digest, &one.bytes));
        let mut whole = Vec::new();
        for (digest, bytes) in documents.chain([(&self.manifest.config.digest, &self.config)]) {
            if !self.content.contains(digest)? {
                let algorithm = digest.algorithm();
                whole.push(self.content.prepare(&self.lease, algorithm, bytes)?);
            }
        }
        changed |= !whole.is_empty();
        layers.publish_with(&self.lease, unpacked, whole)?;
        // Also of those that others put there, perhaps just now.
        let documents = self.documents.iter().map(|one| &one.digest);
        let blobs = self.manifest.layers.iter().chain([&self.manifest.config]);
        let blobs = blobs.map(|blob| &blob.digest);
        match (next, changed) {
            (Next::Name, true) => self.content.order_names(documents.chain(blobs))?,
            _ => self.content.sync_names(documents.chain(blobs))?,
        }
        Ok(changed)
    }

    fn manifest_digest(&self) -> Digest {
        self.documents
            .last()
            .map_or(&self.manifest.config.digest, |last| &last.digest)
            .clone()
    }

    /// What the name will stand for: what the registry's name stands for, an index if it is one.
    fn target(&self) -> Result<Descriptor> {
        let first = self
            .documents
            .first()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "nothing was resolved"))?;
        Ok(first.descriptor())
    }

    /// While somebody else is at a blob or its layer: tells once, and goes on until called off.
    fn waiting(&self, digest: &Digest) -> impl FnMut(Duration) -> Result<()> {
        let mut untold = true;
        move |_| {
            if std::mem::take(&mut untold) {
                (self.request.watch)(Event::Waiting(digest.clone()));
            }
            self.request.cancel.check()
        }
    }

    /// Fetches all blobs and unpacks the layers that are not there, which are not visible yet. Says
    /// whether there was anything to fetch.
    fn fetch_and_unpack(&self, layers: &Layers) -> Result<(bool, Vec<unpack::Done>)> {
        let sources: Vec<blob::Source> = self
            .manifest
            .layers
            .iter()
            .map(|_| blob::Source::default())
            .collect();
        let stop = Stop {
            first: Mutex::new(None),
            cancel: self.request.cancel,
            sources: &sources,
        };
        let fetched = std::sync::atomic::AtomicBool::new(false);
        let placed = |index: usize| {
            sources[index].end();
            let digest = self.manifest.layers[index].digest.clone();
            (self.request.watch)(Event::Fetched(digest));
            Ok(())
        };
        let unpacked = placing::beside(self.store, placed, &stop, |queue| {
            let next = AtomicUsize::new(0);
            std::thread::scope(|scope| {
                let count = self.manifest.layers.len().max(1);
                for _ in 0..self.request.downloads.clamp(1, count) {
                    let queue = queue.clone();
                    let (next, stop, sources, fetched) = (&next, &stop, &sources, &fetched);
                    scope.spawn(move || {
                        while let Some(index) = stop.go_on(next, sources.len()) {
                            let layer = &self.manifest.layers[index];
                            match self.get(layer, &sources[index]) {
                                Ok(Some(verified)) => {
                                    fetched.store(true, Ordering::Relaxed);
                                    queue.put(index, verified);
                                }
                                Ok(None) => {}
                                Err(error) => stop.because(error),
                            }
                        }
                    });
                }
                let unpacked = match self.request.unpack {
                    Some(way) => self.unpack(layers, way, &sources, &stop),
                    None => Ok(Vec::new()),
                };
                unpacked.unwrap_or_else(|error| {
                    stop.because(error);
                    Vec::new()
                })
            })
        });
        match stop
            .first
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
        {
            Some(error) => Err(error),
            None => Ok((fetched.into_inner(), unpacked)),
        }
    }

    fn unpack(
        &self,
        layers: &Layers,
        way: Way,
        sources: &[blob::Source],
        stop: &Stop<'_>,
    ) -> Result<Vec<unpack::Done>> {
        let claims = claims(layers, &self.lease, &self.diff_ids, way, |index| {
            self.waiting(&self.manifest.layers[index].digest)
        })?;
        if claims
            .iter()
            .all(|claim| matches!(claim, Claim::Present(_)))
        {
            return Ok(Vec::new());
        }
        unpack::Unpacking {
            claims,
            sources,
            diff_ids: &self.diff_ids,
            blobs: &self.manifest.layers,
            way,
            watch: self.request.watch,
            stop,
        }
        .run()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The first error ends everything.
struct Stop<'a> {
    first: Mutex<Option<Error>>,
    cancel: &'a Cancel,
    sources: &'a [blob::Source],
}

impl Stop<'_> {
    fn because(&self, error: Error) {
        lock(&self.first).get_or_insert(error);
        for source in self.sources {
            source.fail();
        }
        self.cancel.cancel();
    }

    /// The next index, unless everything has ended.
    fn go_on(&self, next: &AtomicUsize, count: usize) -> Option<usize> {
        let index = next.fetch_add(1, Ordering::Relaxed);
        (index < count && !self.cancel.is_cancelled()).then_some(index)
    }
}
