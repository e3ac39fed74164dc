//! `--squash`: the layers of a build as one.

use std::sync::OnceLock;
use std::time::Instant;

use super::key::Key;
use super::{Solved, Solver, below};
use crate::Result;
use crate::cache::Entry;

impl Solver<'_> {
    /// A stage whose own layers are one. The base's stay.
    pub fn squash(&self, solved: &Solved) -> Result<Solved> {
        let (lower, upper) = solved.layers.split_at(solved.inherited);
        if upper.len() < 2 {
            return Ok(solved.with(solved.layers.clone()));
        }
        self.complete(&solved.layers)?;
        let names: Vec<&str> = upper
            .iter()
            .map(rcrun_overlay::lease::LayerId::as_str)
            .collect();
        let key = Key::new("squash").list("layers", &names).finish();
        let below = below(lower);
        let mut layers = lower.to_vec();
        if let Some(layer) = self.hit(&key, &below)? {
            layers.push(layer);
            return Ok(solved.with(layers));
        }
        let since = Instant::now();
        let id = self.new_layer(&key)?;
        let made = self
            .layers
            .squash(self.lease, &id, lower, upper, self.marks)?;
        self.unsettled(&made.id);
        let entry = Entry::new(id.clone(), below, "layers squashed", since.elapsed());
        self.cache.put(&key, &entry)?;
        layers.push(id);
        Ok(solved.with(layers))
    }
}

impl Solved {
    fn with(&self, layers: Vec<rcrun_overlay::lease::LayerId>) -> Self {
        Self {
            key: self.key.clone(),
            layers,
            inherited: self.inherited,
            epoch: self.epoch,
            mounted: OnceLock::new(),
        }
    }
}
