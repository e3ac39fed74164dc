//! Snapshots: layers, and a directory for the changes of one container above them.
//!
//! Owns `snapshots/ID/{upper,work,snapshot.json}` of a store ([`Snapshots`]; docs/on-disk.md has the
//! protocol) and how layers are mounted: the read-only view of an image's [`Layers`](Stack) or a
//! [`Snapshot`], always as a descriptor of a mount that is nowhere in the tree of mounts. Where it is
//! attached is the business of whoever asked: a container's init does so in its own mount namespace,
//! so that the host never sees it.
//!
//! What is on the disk has the ids that archives have, whatever user namespace a container is in: its
//! mount maps them, for changes too ([`Mounting::idmap`]). So a snapshot becomes a layer as it is,
//! and may be mounted with other maps the next time.
//!
//! Where overlayfs cannot be mounted, or not with a container's ids (an ordinary user's layers cannot
//! be mapped), a snapshot is a copy of what the layers show ([`Form::Copy`]).

mod fill;
pub mod mount;
mod mounted;
mod owner;
mod place;
mod private;
mod record;
mod stack;
mod store;

pub use mounted::{
    Everywhere, Mounted, SOURCE, mount_namespace, mounts_everywhere, mounts_here, unescaped,
};
pub use place::unmount;
pub use record::{Extent, Form, Idmap, RECORD_LIMIT, Record, VERSION};
pub use stack::{MapIds, Mounting, Stack};
pub use store::{Options, Snapshot, Snapshots, Used};
pub(crate) use store::{like_the_root, was_volatile};

#[cfg(test)]
mod tests;
