//! What images refer to: the mark of mark and sweep.
//!
//! From names and what leases hold to indexes, manifests, configurations, layers' blobs and unpacked
//! layers. Of an index, the manifests that are here count, whichever platform they are for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rcrun_overlay::content::Content;
use rcrun_overlay::gc::Reachable;
use rcrun_overlay::layer::chain::chain_ids;
use rcrun_overlay::lease::{LayerId, Root};
use rcrun_overlay::store::Store;

use crate::document::{Document, ImageConfig, MAX_DOCUMENT};
use crate::names::Names;
use crate::pull::{Way, layer_id};
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Everything that must stay: for [`rcrun_overlay::gc::collect`]. An image of which something cannot
/// be read is an error, since nobody knows what else it needs.
pub fn reachable(store: &Store, held: &HashSet<Root>) -> Result<Reachable> {
    Marker::default().reachable(store, held)
}

/// Marks, and keeps what documents refer to, since they never change: so marking again, while others
/// wait, takes little more than listing names.
#[derive(Debug, Default)]
pub struct Marker {
    known: HashMap<Digest, Arc<References>>,
}

/// What a document refers to.
#[derive(Debug, Default)]
struct References {
    /// Manifests and indexes.
    images: Vec<Digest>,
    blobs: Vec<Digest>,
    /// The configuration of an image, in which its layers are.
    config: Option<Digest>,
    layers: Vec<LayerId>,
}

impl Marker {
    /// See [`reachable`].
    pub fn reachable(&mut self, store: &Store, held: &HashSet<Root>) -> Result<Reachable> {
        let mut mark = Mark {
            content: store.content(),
            known: &mut self.known,
            reachable: Reachable::default(),
            seen: HashSet::new(),
        };
        for record in Names::new(store)?.list()? {
            mark.image(&record.target.digest, true)
                .context(|| format!("cannot tell what {} needs", record.name))?;
        }
        for root in held {
            // What is held may not be there yet.
            if let Root::Image(digest) = root {
                mark.image(digest, false)?;
            }
        }
        Ok(mark.reachable)
    }
}

struct Mark<'a> {
    content: Content,
    known: &'a mut HashMap<Digest, Arc<References>>,
    reachable: Reachable,
    seen: HashSet<Digest>,
}

impl Mark<'_> {
    /// An index or manifest with all that it refers to.
    fn image(&mut self, digest: &Digest, required: bool) -> Result<()> {
        self.reachable.blobs.insert(digest.clone());
        if !self.seen.insert(digest.clone()) {
            return Ok(());
        }
        let Some(refers) = self.references(digest, read_document)? else {
            return match required {
                true => Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("blob {digest} is missing"),
                )),
                // An index's manifest for another platform, or one that is still to come.
                false => Ok(()),
            };
        };
        for image in &refers.images {
            self.image(image, false)?;
        }
        self.reachable.blobs.extend(refers.blobs.iter().cloned());
        if let Some(config) = &refers.config {
            self.reachable.blobs.insert(config.clone());
            if let Some(refers) = self.references(config, read_config)? {
                self.reachable.layers.extend(refers.layers.iter().cloned());
            }
        }
        Ok(())
    }

    /// What a document refers to; none if it is not there.
    fn references(
        &mut self,
        digest: &Digest,
        read: fn(&Digest, &[u8]) -> Result<References>,
    ) -> Result<Option<Arc<References>>> {
        if let Some(known) = self.known.get(digest) {
            // It says the same as before, and may be gone nevertheless.
            let there = self.content.contains(digest)?;
            return Ok(there.then(|| Arc::clone(known)));
        }
        let Some(bytes) = self.content.read(digest, MAX_DOCUMENT as u64)? else {
            return Ok(None);
        };
        let refers = Arc::new(read(digest, &bytes)?);
        self.known.insert(digest.clone(), Arc::clone(&refers));
        Ok(Some(refers))
    }
}

fn read_document(digest: &Digest, bytes: &[u8]) -> Result<References> {
    let document = Document::read(bytes, None).context(|| format!("cannot read {digest}"))?;
    Ok(match document {
        Document::Index(index) => References {
            images: index
                .manifests
                .iter()
                .map(|one| one.digest.clone())
                .collect(),
            ..References::default()
        },
        Document::Manifest(manifest) => References {
            blobs: manifest
                .layers
                .iter()
                .map(|one| one.digest.clone())
                .collect(),
            config: Some(manifest.config.digest.clone()),
            ..References::default()
        },
    })
}

fn read_config(_: &Digest, bytes: &[u8]) -> Result<References> {
    let mut refers = References::default();
    // An artifact's configuration says nothing of layers.
    if let Ok(config) = ImageConfig::read(bytes) {
        for chain in chain_ids(&config.rootfs.diff_ids) {
            for way in Way::ALL {
                refers.layers.push(layer_id(&chain, way)?);
            }
        }
    }
    Ok(refers)
}
