//! All images of an index: what `pull --all-platforms` gets.
//!
//! Everything that the index refers to is fetched, as it is: images for other machines are not
//! unpacked, and what is no image (attestations) is kept as well. So what was pulled can be pushed
//! again whole.

use std::collections::{HashMap, HashSet};

use rcrun_overlay::content::commit_all;
use rcrun_overlay::lease::Root;
use rcrun_overlay::store::Store;

use super::blob::Source;
use super::{Event, Next, Pull, Pulled, Request};
use crate::closure::{Closure, Place, Platforms, closure};
use crate::crew::each;
use crate::document::{Descriptor, Document, MAX_INDEX_DEPTH};
use crate::registry::client::Client;
use crate::registry::download::Fetched;
use crate::{Context, Error, Result};

/// Pulls what a name stands for with everything in it. The image for the request's platform is
/// unpacked, if there is one.
pub fn pull_all(store: &Store, client: &Client, request: &Request<'_>) -> Result<Pulled> {
    let reference = request.reference;
    everything(store, client, request).context(|| format!("cannot pull {reference}"))
}

fn everything(store: &Store, client: &Client, request: &Request<'_>) -> Result<Pulled> {
    let first = client.resolve(request.reference)?;
    let found = documents(client, request, &first)?;
    let (way, suits) = way(&found, &first, request)?;
    let mut own = request.clone();
    if !suits {
        own.unpack = None;
    }
    let pull = Pull::begin(store, client, &own, way)?;
    pull.finish_with(|pull| {
        let changed = pull.gather(Next::Nothing)?;
        Ok(pull.others(&found)? | changed)
    })
}

/// Reads all documents; of blobs it is only found which there are.
fn documents(client: &Client, request: &Request<'_>, first: &Fetched) -> Result<Closure> {
    let mut read = |wanted: &Descriptor| {
        request.cancel.check()?;
        if wanted.digest == first.digest {
            return Ok(Some(first.bytes.clone()));
        }
        let fetched = client.document(request.reference, wanted)?;
        Ok(Some(fetched.bytes))
    };
    let mut place = Place {
        read: &mut read,
        has: &mut |blob| Ok(!blob.is_foreign()),
    };
    closure(&first.descriptor(), &Platforms::All, &mut place)
}

/// The documents down to the manifest for the platform, or to any if there is none for it.
fn way(found: &Closure, first: &Fetched, request: &Request<'_>) -> Result<(Vec<Fetched>, bool)> {
    let parts: HashMap<_, _> = found
        .documents
        .iter()
        .map(|part| (&part.descriptor.digest, part))
        .collect();
    let missing = || Error::invalid("no image in it");
    let (mut way, mut suits) = (Vec::new(), true);
    let mut at = &first.digest;
    while way.len() <= MAX_INDEX_DEPTH + 1 {
        let part = parts.get(at).ok_or_else(missing)?;
        way.push(Fetched {
            digest: part.descriptor.digest.clone(),
            bytes: part.bytes.clone(),
            document: part.document.clone(),
            source: first.source.clone(),
        });
        match &part.document {
            Document::Manifest(manifest) => {
                manifest.check_image()?;
                return Ok((way, suits));
            }
            Document::Index(index) => {
                at = match index.select(request.platform) {
                    Ok(chosen) => &chosen.digest,
                    Err(_) => {
                        suits = false;
                        let image = index.manifests.iter().find(|entry| is_image(&parts, entry));
                        &image.ok_or_else(missing)?.digest
                    }
                }
            }
        }
    }
    Err(missing())
}

fn is_image(parts: &HashMap<&crate::Digest, &crate::closure::Part>, entry: &Descriptor) -> bool {
    let document = parts.get(&entry.digest).map(|part| &part.document);
    match document {
        Some(Document::Manifest(manifest)) => {
            let layers = manifest.layers.iter().all(|layer| layer.layer().is_ok());
            manifest.check_image().is_ok() && layers
        }
        Some(Document::Index(_)) => true,
        None => false,
    }
}

impl Pull<'_> {
    /// Brings everything else that was found into the store. Says whether anything was missing.
    fn others(&self, found: &Closure) -> Result<bool> {
        let own: HashSet<_> = self.manifest.layers.iter().map(|one| &one.digest).collect();
        let is_other = |blob: &&Descriptor| {
            !own.contains(&blob.digest) && blob.digest != self.manifest.config.digest
        };
        let others: Vec<_> = found.blobs.iter().filter(is_other).cloned().collect();
        let all = found.documents.iter().map(|part| &part.descriptor);
        let roots = all.chain(&found.blobs);
        let roots: Vec<Root> = roots.map(|one| Root::Blob(one.digest.clone())).collect();
        self.lease.hold(&roots)?;
        let mut missing = Vec::with_capacity(others.len());
        for blob in others {
            if !self.content.contains(&blob.digest)? {
                missing.push(blob);
            }
        }
        let request = self.request;
        if !missing.is_empty() {
            let (digest, layers) = (found.chosen.digest.clone(), missing.clone());
            (request.watch)(Event::Resolved { digest, layers });
        }
        let failed = || request.cancel.cancel();
        let fetch = |blob: &Descriptor| {
            self.fetch(blob, &Source::default())?;
            (request.watch)(Event::Delivered(blob.digest.clone()));
            Ok(())
        };
        each(&missing, request.downloads, request.cancel, &failed, &fetch)?;
        let mut whole = Vec::new();
        for part in &found.documents {
            let digest = &part.descriptor.digest;
            if !self.content.contains(digest)? {
                let algorithm = digest.algorithm();
                whole.push(self.content.prepare(&self.lease, algorithm, &part.bytes)?);
            }
        }
        let changed = !missing.is_empty() || !whole.is_empty();
        commit_all(whole)?;
        Ok(changed)
    }
}
