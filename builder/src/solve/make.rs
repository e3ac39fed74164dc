//! Layers of a build: found by their keys, made, and told to whoever settles them; stages as trees.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError};

use rcrun_overlay::layer::built;
use rcrun_overlay::layer::store::Unfinished;
use rcrun_overlay::lease::{LayerId, Root};
use rcrun_overlay::snapshot::{Mounting, Stack};

use super::{Solved, Solver};
use crate::cache::Turn;
use crate::context::tree::{Owners, Tree};
use crate::{Context, Digest, Result};

impl Solver<'_> {
    /// A layer that was made under a key, above the same layers, and is still there.
    pub(crate) fn hit(&self, key: &Digest, below: &Digest) -> Result<Option<LayerId>> {
        let Some(entry) = self.cache.get(key).filter(|entry| entry.below == *below) else {
            return Ok(None);
        };
        self.lease.hold(&[Root::Layer(entry.layer.clone())])?;
        let Some(layer) = self.layers.get(&entry.layer)? else {
            return Ok(None);
        };
        if layer.record.lifetime.is_some() {
            // Of a build that was killed before it could see to that.
            self.unsettled(&layer.id);
        }
        Ok(Some(layer.id))
    }

    pub(crate) fn turn(&self, key: &Digest) -> Result<Turn> {
        self.cache.turn(key, &mut |_| self.cancel.check())
    }

    /// A name for a layer that is about to be made. Every time another: what is done anew may turn out
    /// differently.
    pub(crate) fn new_layer(&self, key: &Digest) -> Result<LayerId> {
        let unique = rcrun_overlay::durable::temporary_name();
        built::layer_id(
            &Digest::of(format!("{key} {unique}").as_bytes()),
            self.marks,
        )
    }

    /// Makes a layer above others by changing what is mounted.
    pub(crate) fn layer(
        &self,
        key: &Digest,
        below: &[LayerId],
        change: impl FnOnce(&LayerId, &OwnedFd) -> Result<()>,
    ) -> Result<LayerId> {
        let id = self.new_layer(key)?;
        let begun = self
            .layers
            .begin_built(self.lease, &id, below, self.marks)?;
        let how = Mounting {
            volatile: true,
            ..Mounting::default()
        };
        let mounted = self.layers.mount_built(&id, below, self.marks, &how)?;
        change(&id, &mounted)?;
        drop(mounted);
        self.finish(begun)?;
        Ok(id)
    }

    /// The same by filling the directory of changes itself.
    pub(crate) fn layer_apart(
        &self,
        key: &Digest,
        below: &[LayerId],
        fill: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
    ) -> Result<LayerId> {
        let id = self.new_layer(key)?;
        let begun = self
            .layers
            .begin_built(self.lease, &id, below, self.marks)?;
        fill(begun.diff())?;
        self.finish(begun)?;
        Ok(id)
    }

    /// The same by somebody else, who mounts it.
    pub(crate) fn layer_elsewhere(
        &self,
        key: &Digest,
        below: &[LayerId],
        change: impl FnOnce(&LayerId) -> Result<()>,
    ) -> Result<LayerId> {
        let id = self.new_layer(key)?;
        let begun = self
            .layers
            .begin_built(self.lease, &id, below, self.marks)?;
        change(&id)?;
        self.finish(begun)?;
        Ok(id)
    }

    pub(super) fn finish(&self, layer: Unfinished) -> Result<()> {
        let layer = self.layers.publish_built(layer)?;
        self.unsettled(&layer.id);
        Ok(())
    }

    pub(super) fn unsettled(&self, layer: &LayerId) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.push(layer.clone());
    }

    /// A stage's files, to copy from.
    pub(crate) fn tree(&self, index: usize) -> Result<(Tree, Arc<Solved>)> {
        let solved = self.wait(index)?;
        let name = format!("stage {:?}", self.graph.stages[index].name);
        self.complete(&solved.layers)?;
        let root = match solved.mounted.get() {
            Some(root) => Arc::clone(root),
            None => {
                let stack = Stack::open(self.store, &solved.layers, self.marks)?;
                let mounted = Arc::new(stack.detached(&Mounting::default())?);
                Arc::clone(solved.mounted.get_or_init(|| mounted))
            }
        };
        let root = rustix::io::fcntl_dupfd_cloexec(&root, 0)
            .context(|| "cannot duplicate a descriptor")?;
        Ok((Tree::new(root, Owners::Kept, &name), solved))
    }
}
