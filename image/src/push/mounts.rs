//! Where at a host a blob may be already: in the repositories that names in the store stand for.

use std::collections::{HashMap, HashSet};

use rcrun_overlay::content::Content;
use rcrun_overlay::store::Store;

use crate::document::{Document, MAX_DOCUMENT};
use crate::names::Names;
use crate::reference::Reference;
use crate::{Digest, Result};

/// Repositories of the destination's host, by blob. Only hints: what cannot be mounted is sent.
pub(super) fn repositories(
    store: &Store,
    destination: &Reference,
) -> Result<HashMap<Digest, String>> {
    let content = store.content();
    let mut found = HashMap::new();
    for record in Names::new(store)?.list()? {
        let Ok(name) = record.reference() else {
            continue;
        };
        if name.host() == destination.host() && name.repository() != destination.repository() {
            let mut seen = HashSet::new();
            collect(&content, &record.target.digest, &mut seen, &mut |blob| {
                found
                    .entry(blob)
                    .or_insert_with(|| name.repository().to_owned());
            });
        }
    }
    Ok(found)
}

fn collect(
    content: &Content,
    digest: &Digest,
    seen: &mut HashSet<Digest>,
    take: &mut dyn FnMut(Digest),
) {
    if !seen.insert(digest.clone()) {
        return;
    }
    // Damaged or swept meanwhile: no hint then.
    let Ok(Some(bytes)) = content.read(digest, MAX_DOCUMENT as u64) else {
        return;
    };
    match Document::read(&bytes, None) {
        Ok(Document::Index(index)) => {
            for entry in index.manifests {
                collect(content, &entry.digest, seen, take);
            }
        }
        Ok(Document::Manifest(manifest)) => {
            take(manifest.config.digest);
            manifest
                .layers
                .into_iter()
                .for_each(|layer| take(layer.digest));
        }
        Err(_) => {}
    }
}
