//! Content store, layer archives, unpacked layers and snapshots.
//!
//! A [`store::Store`] is a directory that several processes use at the same time, without a
//! daemon: the command line, the builder and the CRI server. Files are the database. An object is
//! present when its final name exists, and it gets that name only after its bytes were verified and
//! are on the disk ([`durable`]); whatever a crash leaves behind is unreferenced and swept later.

#![forbid(unsafe_code)]

pub mod archive;
pub mod compress;
pub mod content;
pub mod digest;
pub mod durable;
pub mod fsck;
pub mod gc;
pub mod identifier;
pub mod layer;
pub mod lease;
pub mod lock;
mod order;
pub mod record;
mod removal;
pub mod snapshot;
pub mod store;
mod tree;

pub use digest::Digest;
pub use rcrun_error::{Context, Error, ErrorKind, Result};
