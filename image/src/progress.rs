//! What happens while images come and go: one kind of event for registries, layouts and archives.
//!
//! Owns the events only; how they look is the command line's.

use crate::Digest;
use crate::document::Descriptor;

/// What happens, for people to watch. Called from several threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The name stands for this image, with these layers.
    Resolved {
        /// Of the manifest.
        digest: Digest,
        /// Their blobs, lowest first.
        layers: Vec<Descriptor>,
    },
    /// A blob is already where it is to be.
    Exists(Digest),
    /// Somebody else fetches or unpacks it; we wait.
    Waiting(Digest),
    /// So many bytes of a blob have arrived, with those of earlier attempts.
    Received(Digest, u64),
    /// A blob has arrived and is what it should be.
    Fetched(Digest),
    /// A layer is unpacked.
    Unpacked(Digest),
    /// So many bytes of a layer, not compressed, have been compressed anew.
    Compressed(Digest, u64),
    /// A layer was compressed anew: this one has become that one.
    Recompressed(Digest, Descriptor),
    /// So many bytes of a blob have been written or sent. It may become less: what a broken
    /// connection lost is sent again.
    Sent(Digest, u64),
    /// The registry took a blob from another repository of its own.
    Mounted(Digest),
    /// A blob is whole where it was to be.
    Delivered(Digest),
}

/// Is told what happens.
pub type Watch<'a> = &'a (dyn Fn(Event) + Sync);
