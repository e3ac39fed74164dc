//! What images refer to: the mark of mark and sweep.
//!
//! From names and what leases hold to indexes, manifests, configurations, layers' blobs and unpacked
//! layers. Of an index, the manifests that are here count, whichever platform they are for.

use std::collections::HashSet;

use rcrun_overlay::gc::Reachable;
use rcrun_overlay::layer::chain::chain_ids;
use rcrun_overlay::lease::Root;
use rcrun_overlay::store::Store;

use crate::document::{Document, ImageConfig, MAX_DOCUMENT};
use crate::names::Names;
use crate::pull::{Way, layer_id};
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Everything that must stay: for [`rcrun_overlay::gc::collect`]. An image of which something cannot
/// be read is an error, since nobody knows what else it needs.
pub fn reachable(store: &Store, held: &HashSet<Root>) -> Result<Reachable> {
    let mut mark = Mark {
        store,
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

struct Mark<'a> {
    store: &'a Store,
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
        let Some(bytes) = self.store.content().read(digest, MAX_DOCUMENT as u64)? else {
            return match required {
                true => Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("blob {digest} is missing"),
                )),
                // An index's manifest for another platform, or one that is still to come.
                false => Ok(()),
            };
        };
        match Document::read(&bytes, None).context(|| format!("cannot read {digest}"))? {
            Document::Index(index) => {
                for entry in &index.manifests {
                    self.image(&entry.digest, false)?;
                }
            }
            Document::Manifest(manifest) => {
                self.reachable
                    .blobs
                    .extend(manifest.layers.iter().map(|layer| layer.digest.clone()));
                self.reachable.blobs.insert(manifest.config.digest.clone());
                self.layers(&manifest.config.digest)?;
            }
        }
        Ok(())
    }

    fn layers(&mut self, config: &Digest) -> Result<()> {
        let Some(bytes) = self.store.content().read(config, MAX_DOCUMENT as u64)? else {
            return Ok(());
        };
        // An artifact's configuration says nothing of layers.
        let Ok(config) = ImageConfig::read(&bytes) else {
            return Ok(());
        };
        for chain in chain_ids(&config.rootfs.diff_ids) {
            for way in [Way::Privileged, Way::Rootless] {
                self.reachable.layers.insert(layer_id(&chain, way)?);
            }
        }
        Ok(())
    }
}
