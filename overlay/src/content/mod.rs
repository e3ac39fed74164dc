//! Blobs: bytes under their digest.
//!
//! Owns `content/` of a store. A blob is there when its name is, and it gets its name only after all
//! of its bytes were hashed and are on the disk. What the bytes mean is not known here: manifests are
//! image/'s, layers `layer`'s. See docs/on-disk.md ("The store").

mod follow;
mod ingest;
mod segments;
mod store;
mod verified;

pub use follow::Reader;
pub use ingest::{Ingest, Piece, STEP};
pub use segments::{MAX_SIZE, SEGMENT};
pub(crate) use store::{ALGORITHMS, INCOMING, Incoming, SHARD, final_name, scan_incoming};
pub use store::{Blob, Claim, Content, Expected};
pub use verified::{Mismatch, Outcome, Verified, commit_all, place_all};

#[cfg(test)]
mod tests;
