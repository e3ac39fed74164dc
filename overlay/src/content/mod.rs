//! Blobs: bytes under their digest.
//!
//! Owns `content/` of a store. A blob is there when its name is, and it gets its name only after all
//! of its bytes were hashed and are on the disk. What the bytes mean is not known here: manifests are
//! image/'s, layers `layer`'s. See docs/on-disk.md ("The store").

mod ingest;
mod segments;
mod store;

pub use ingest::{Ingest, Mismatch, Outcome, Piece, Reader, STEP, Verified, commit_all};
pub use segments::{MAX_SIZE, SEGMENT};
pub(crate) use store::{ALGORITHMS, INCOMING, Incoming, SHARD, final_name, scan_incoming};
pub use store::{Blob, Claim, Content, Expected};

#[cfg(test)]
mod tests;
