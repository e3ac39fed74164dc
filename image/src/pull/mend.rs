//! What a repair needs besides the pull itself: the documents that are sound, and records of layers.

use std::os::fd::BorrowedFd;

use rcrun_overlay::layer::store::Layers;
use rcrun_overlay::layer::unpack_layer;
use rcrun_overlay::lease::{LayerId, Root};
use rcrun_overlay::store::Store;

use super::{Request, Way, unpack};
use crate::document::{Document, MAX_DOCUMENT, MAX_INDEX_DEPTH};
use crate::registry::download::Fetched;
use crate::registry::retry::Cancel;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// The documents from a digest to the manifest for a platform, if all of them are in the store.
pub(super) fn stored_documents(store: &Store, request: &Request<'_>) -> Option<Vec<Fetched>> {
    let content = store.content();
    let mut next = Some(request.reference.digest()?.clone());
    let mut way = Vec::new();
    while let Some(digest) = next.take() {
        let limit = MAX_DOCUMENT as u64;
        let bytes = content.read(&digest, limit).ok()??;
        let document = Document::read(&bytes, None).ok()?;
        match &document {
            Document::Index(_) if way.len() > MAX_INDEX_DEPTH => return None,
            Document::Index(index) => {
                next = Some(index.select(request.platform).ok()?.digest.clone());
            }
            Document::Manifest(manifest) => manifest.check_image().ok()?,
        }
        way.push(Fetched {
            digest,
            bytes,
            document,
            source: String::new(),
        });
    }
    Some(way)
}

/// Writes the record of an unpacked layer anew, which is damaged, from the blob that it was unpacked
/// from. Its files are not touched.
pub fn renew_layer(
    store: &Store,
    id: &LayerId,
    blob: &Digest,
    diff_id: &Digest,
    way: Way,
    cancel: &Cancel,
) -> Result<()> {
    let lease = store.lease()?;
    lease.hold(&[Root::Blob(blob.clone())])?;
    let mut renew = |directory: BorrowedFd<'_>| {
        let missing = || Error::new(ErrorKind::NotFound, format!("no blob {blob}"));
        let archive = store.content().open(blob)?.ok_or_else(missing)?;
        let unpacked = unpack_layer(archive.into_file(), directory, &way.options())?;
        match unpacked.diff_id == *diff_id {
            true => Ok(unpack::record(&unpacked)),
            false => Err(Error::new(
                ErrorKind::Corrupt,
                format!("layer {blob} is not what the image's configuration says"),
            )),
        }
    };
    Layers::new(store)?
        .renew(&lease, id, &mut |_| cancel.check(), &mut renew)
        .context(|| format!("cannot renew the record of layer {id}"))
}
