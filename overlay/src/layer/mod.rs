//! Layers: from archives to directories that overlayfs can use, and back.
//!
//! Owns what an entry means on a file system ([`unpack`]), what remains open until the layers below
//! are there ([`implied`]), what a directory of changes means as an archive ([`diff`]) and how
//! layers are named ([`chain`]). Every access is relative to a descriptor of a directory inside the
//! layer, one component at a time as far as links are concerned ([`tree`]): nothing that an archive
//! contains, and nobody who changes the directory meanwhile, leads out of it.

pub mod attributes;
#[cfg(test)]
mod bombs;
pub mod built;
pub mod chain;
pub mod changes;
pub mod content;
pub mod diff;
pub mod flatten;
#[cfg(test)]
mod hostile;
pub mod implied;
pub mod lifetime;
pub mod merged;
pub mod options;
#[cfg(test)]
mod roundtrip;
pub mod squash;
#[cfg(test)]
mod stacked;
pub mod store;
pub mod tree;
pub mod unpack;
pub mod unsettled;

pub use changes::{Change, ChangeKind, changes};
pub use diff::{Packed, pack};
pub use implied::Pending;
pub use options::{Devices, Options, Overlay, Owners};
pub use unpack::{Unpacked, Unpacker, unpack_layer};
