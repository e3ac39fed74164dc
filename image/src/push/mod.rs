//! Pushing: from an image in the store to a name at a registry.
//!
//! Blobs go side by side, each only if the registry neither has it nor can take it from another of
//! its own repositories ([`mounts`]); then manifests by digest, then indexes, and the tag last, so
//! whoever pulls meanwhile sees the old image or the new one. Bytes are sent as they are, unless
//! another compression is asked for ([`crate::recompress`]): then a layer is sent while the next one
//! is compressed. Nothing is written to the store.

mod mounts;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use rcrun_overlay::store::Store;

use crate::closure::{Part, Platforms};
use crate::crew::each;
use crate::document::{Descriptor, Document};
use crate::progress::{Event, Watch};
use crate::recompress::{Layers, Recompress};
use crate::reference::Reference;
use crate::registry::client::Client;
use crate::registry::retry::Cancel;
use crate::registry::upload::Pushed as Outcome;
use crate::stored::{Leaving, Section, Stored, Subject};
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Blobs that are pushed at the same time, unless the caller says otherwise; the settings of the
/// host may allow fewer.
pub const UPLOADS: usize = crate::registry::settings::CONNECTIONS;

/// What is to be pushed, and how.
pub struct Request<'a> {
    /// Which image of the store.
    pub subject: &'a Subject,
    /// To where.
    pub destination: &'a Reference,
    /// Which images of an index.
    pub platforms: &'a Platforms,
    /// How layers are compressed.
    pub layers: Layers,
    /// Blobs that are sent at the same time.
    pub uploads: usize,
    /// Is told what happens.
    pub watch: Watch<'a>,
    /// The same that the client was given. A push that fails calls it off too, so that all of its
    /// threads end: the client is of no use afterwards.
    pub cancel: &'a Cancel,
}

impl std::fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("subject", self.subject)
            .field("destination", self.destination)
            .finish_non_exhaustive()
    }
}

/// What was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The index or manifest that the name stands for now.
    pub target: Descriptor,
    /// Bytes of blobs that were sent.
    pub sent: u64,
    /// Blobs that the registry had.
    pub present: usize,
    /// Blobs that it took from other repositories of its own.
    pub mounted: usize,
}

/// Pushes an image.
pub fn push(store: &Store, client: &Client, request: &Request<'_>) -> Result<Pushed> {
    run(store, client, request)
        .context(|| format!("cannot push {} to {}", request.subject, request.destination))
}

fn run(store: &Store, client: &Client, request: &Request<'_>) -> Result<Pushed> {
    let image = Stored::open(store, request.subject, request.platforms)?;
    let (watch, cancel) = (request.watch, request.cancel);
    if let (Some(wanted), Layers::Keep) = (request.destination.digest(), request.layers) {
        check_digest(wanted, &image.closure.chosen.digest)?;
    }
    announce(&image, watch);
    let recompress = Recompress::new(store, &image, request.layers, watch, cancel)?;
    let push = Push {
        client,
        request,
        mounts: mounts::repositories(store, request.destination)?,
        image: &image,
        recompress: &recompress,
        total: Total::default(),
    };
    push.blobs()?;
    let documents = recompress.documents(&image.closure)?;
    let target = push.documents(&documents)?;
    Ok(Pushed {
        target,
        sent: push.total.sent.into_inner(),
        present: push.total.present.into_inner(),
        mounted: push.total.mounted.into_inner(),
    })
}

fn announce(image: &Stored, watch: Watch<'_>) {
    let manifests = image.closure.documents.iter().filter_map(Part::manifest);
    watch(Event::Resolved {
        digest: image.closure.chosen.digest.clone(),
        layers: manifests.flat_map(|one| one.layers.clone()).collect(),
    });
}

fn check_digest(wanted: &Digest, found: &Digest) -> Result<()> {
    if wanted == found {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the image has digest {found}, and is to be pushed as {wanted}"
    )))
}

#[derive(Default)]
struct Total {
    sent: AtomicU64,
    present: AtomicUsize,
    mounted: AtomicUsize,
}

struct Push<'a> {
    client: &'a Client,
    request: &'a Request<'a>,
    /// Where else at this host blobs may be.
    mounts: HashMap<Digest, String>,
    image: &'a Stored,
    recompress: &'a Recompress<'a>,
    total: Total,
}

impl Push<'_> {
    /// All blobs, the largest first: the last ones to end are then small.
    fn blobs(&self) -> Result<()> {
        let mut blobs: Vec<&Descriptor> = self.image.closure.blobs.iter().collect();
        blobs.sort_by_key(|blob| std::cmp::Reverse(blob.size));
        let cancel = self.request.cancel;
        let uploads = self.request.uploads;
        each(&blobs, uploads, cancel, &|| cancel.cancel(), &|blob| {
            self.blob(blob)
        })
    }

    fn blob(&self, blob: &Descriptor) -> Result<()> {
        let leaving = self.recompress.blob(blob)?;
        self.send(&leaving).context(|| self.words(blob))
    }

    /// Which part of which image a blob is, for errors.
    fn words(&self, blob: &Descriptor) -> String {
        let manifests = self.image.closure.documents.iter();
        for (part, manifest) in manifests.filter_map(|part| Some((part, part.manifest()?))) {
            let digest = &part.descriptor.digest;
            let layers = &manifest.layers;
            if let Some(at) = layers.iter().position(|one| one.digest == blob.digest) {
                return format!("layer {} of {} of {digest}", at + 1, layers.len());
            }
            if manifest.config.digest == blob.digest {
                return format!("configuration of {digest}");
            }
        }
        format!("blob {}", blob.digest)
    }

    fn send(&self, leaving: &Leaving) -> Result<()> {
        let blob = &leaving.descriptor;
        let file = leaving.open(&self.image.content)?;
        let source = |offset: u64| -> Result<Box<dyn Read + '_>> {
            Ok(Box::new(Section {
                file: file.clone(),
                digest: &blob.digest,
                at: offset,
                watch: self.request.watch,
                cancel: self.request.cancel,
            }))
        };
        let other = self.mounts.get(&blob.digest).map(String::as_str);
        let outcome = self
            .client
            .push_blob(self.request.destination, blob, other, &source)?;
        let event = match outcome {
            Outcome::Present => {
                self.total.present.fetch_add(1, Ordering::Relaxed);
                Event::Exists(blob.digest.clone())
            }
            Outcome::Mounted => {
                self.total.mounted.fetch_add(1, Ordering::Relaxed);
                Event::Mounted(blob.digest.clone())
            }
            Outcome::Sent => {
                self.total.sent.fetch_add(blob.size, Ordering::Relaxed);
                Event::Delivered(blob.digest.clone())
            }
        };
        (self.request.watch)(event);
        Ok(())
    }

    /// Manifests and indexes, whoever is named before who names it; the last one gets the tag.
    fn documents(&self, documents: &[Part]) -> Result<Descriptor> {
        let destination = self.request.destination;
        let Some((target, others)) = documents.split_last() else {
            return Err(Error::new(ErrorKind::Internal, "nothing to push"));
        };
        let digest = &target.descriptor.digest;
        if let Some(wanted) = destination.digest() {
            check_digest(wanted, digest)?;
        }
        // Who is about another document is put after it.
        let about = |part: &&Part| match &part.document {
            Document::Manifest(manifest) => manifest.subject.is_some(),
            Document::Index(_) => false,
        };
        let (later, first): (Vec<&Part>, Vec<&Part>) = others.iter().partition(about);
        let (indexes, manifests): (Vec<&Part>, Vec<&Part>) = first
            .into_iter()
            .partition(|part| part.manifest().is_none());
        for part in manifests.into_iter().chain(later).chain(indexes) {
            let name = destination.with_digest(part.descriptor.digest.clone());
            self.document(&name, part)?;
        }
        match destination.tag() {
            Some(tag) => self.document(&destination.with_tag(tag)?, target)?,
            None => self.document(&destination.with_digest(digest.clone()), target)?,
        }
        Ok(target.descriptor.clone())
    }

    fn document(&self, name: &Reference, part: &Part) -> Result<()> {
        self.client
            .push_manifest(name, part.document.media_type(), &part.bytes)?;
        (self.request.watch)(Event::Delivered(part.descriptor.digest.clone()));
        Ok(())
    }
}
