//! The limit of the build cache: what was not used for longest goes, until the rest fits.
//!
//! Counted are the layers of cached steps, each once, and the directories of cache mounts, as they are on
//! the disk. Layers that an image needs too are counted as well: the limit is on what the cache keeps, so
//! it holds whatever happens to images. Forgetting a step removes its record; the sweep that follows
//! frees its layer.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rcrun_overlay::durable::{self, open_directory};
use rcrun_overlay::gc::measure;
use rcrun_overlay::layer::store::Layers;
use rcrun_overlay::lease::{LayerId, Lease, layers_in_use};
use rcrun_overlay::lock;
use rcrun_overlay::store::Store;
use rustix::fs::AtFlags;

use crate::cache::{Cache, Entry};
use crate::{Context, Digest, Result};

/// How long notes are kept that only save time.
const NOTES: Duration = Duration::from_secs(90 * 24 * 3600);

/// What the cache has, and what became of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Shrunk {
    /// Bytes that it keeps now.
    pub kept: u64,
    /// Steps that it keeps now.
    pub steps: usize,
    /// Steps that were forgotten.
    pub forgotten: usize,
    /// Cache mounts that were removed.
    pub mounts: usize,
}

/// Something that can go.
enum Item {
    Step(Digest, LayerId),
    Mount(CString),
}

/// Forgets what was not used for longest until no more than `limit` bytes are kept; `None` only counts.
/// What is in use at the moment stays: cache mounts, and steps whose layers somebody else's lease holds, as a
/// build does that goes on above them. `own` is the caller's.
pub fn shrink(
    store: &Store,
    cache: &Cache,
    limit: Option<u64>,
    own: Option<&Lease>,
) -> Result<Shrunk> {
    let layers = Layers::new(store)?;
    let mut shrunk = Shrunk::default();
    let mut seen = HashSet::new();
    let mut items: Vec<(u64, u64, Item)> = Vec::new();
    for (key, entry, used) in in_use(cache.list()?) {
        match layers.get(&entry.layer)? {
            Some(layer) => {
                let bytes = if seen.insert(entry.layer.clone()) {
                    layer.record.allocated.unwrap_or(layer.record.size)
                } else {
                    0
                };
                items.push((used, bytes, Item::Step(key, entry.layer)));
            }
            // What it stands for is not there: no reason to keep it.
            None if limit.is_some() => {
                cache.forget(&key)?;
                shrunk.forgotten += 1;
            }
            None => {}
        }
    }
    let mounts = cache.directory("mounts")?;
    for name in names(&mounts)? {
        let used = rustix::fs::statat(&mounts, &name, AtFlags::SYMLINK_NOFOLLOW)
            .map_or(0, |stat| u64::try_from(stat.st_mtime).unwrap_or(0));
        items.push((used, measure(&mounts, &name)?, Item::Mount(name)));
    }
    shrunk.kept = items.iter().map(|(_, bytes, _)| bytes).sum();
    shrunk.steps = items
        .iter()
        .filter(|(_, _, item)| matches!(item, Item::Step(..)))
        .count();
    let Some(limit) = limit else {
        return Ok(shrunk);
    };
    let used = layers_in_use(store, own)?;
    let age = if limit == 0 { Duration::ZERO } else { NOTES };
    cache.forget_notes(age)?;
    items.sort_by_key(|(used, ..)| *used);
    for (_, bytes, item) in items {
        if shrunk.kept <= limit && (limit > 0 || bytes > 0) {
            break;
        }
        match item {
            Item::Step(_, layer) if used.contains(&layer) => continue,
            Item::Step(key, _) => {
                cache.forget(&key)?;
                shrunk.forgotten += 1;
                shrunk.steps -= 1;
            }
            Item::Mount(name) => match remove_mount(store, &mounts, &name)? {
                true => shrunk.mounts += 1,
                false => continue,
            },
        }
        shrunk.kept = shrunk.kept.saturating_sub(bytes);
    }
    Ok(shrunk)
}

/// A step is in use as long as one above it is: without it that one is no hit. Steps above others come
/// first, so that they go first among those that were used at the same time.
fn in_use(mut steps: Vec<(Digest, Entry, u64)>) -> Vec<(Digest, Entry, u64)> {
    // The latest use of what is directly above some layers.
    let mut latest: HashMap<Digest, u64> = HashMap::new();
    loop {
        let mut changed = false;
        for (_, entry, used) in &mut steps {
            let by_others = entry.above.as_ref().and_then(|above| latest.get(above));
            *used = by_others.map_or(*used, |other| (*used).max(*other));
            let known = latest.entry(entry.below.clone()).or_insert(0);
            changed |= *known < *used;
            *known = (*known).max(*used);
        }
        if !changed {
            break;
        }
    }
    let depth = depths(&steps);
    steps.sort_by_key(|(_, entry, _)| {
        std::cmp::Reverse(depth.get(&entry.below).copied().unwrap_or(0))
    });
    steps
}

/// How many steps are below what is directly above some layers.
fn depths(steps: &[(Digest, Entry, u64)]) -> HashMap<Digest, usize> {
    let mut depths: HashMap<Digest, usize> = HashMap::new();
    for _ in 0..steps.len() {
        let mut changed = false;
        for (_, entry, _) in steps {
            let Some(above) = &entry.above else {
                continue;
            };
            let own = depths.get(&entry.below).copied().unwrap_or(0) + 1;
            let known = depths.entry(above.clone()).or_insert(0);
            changed |= *known < own;
            *known = (*known).max(own);
        }
        if !changed {
            break;
        }
    }
    depths
}

/// Removes a cache mount that nobody uses; whether it went.
fn remove_mount(store: &Store, mounts: &OwnedFd, name: &CString) -> Result<bool> {
    let text = name.to_string_lossy();
    let Some(_held) = lock::try_hold(open_directory(mounts, &text)?)? else {
        return Ok(false);
    };
    let trash = store.directory("trash")?;
    rustix::fs::renameat(mounts, &**name, &trash, durable::temporary_name())
        .context(|| format!("cannot remove the cache directory {text}"))?;
    Ok(true)
}

fn names(directory: &OwnedFd) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    let list = rustix::fs::Dir::read_from(directory).context(|| "cannot list cache mounts")?;
    for entry in list {
        let entry = entry.context(|| "cannot list cache mounts")?;
        if !entry.file_name().to_bytes().starts_with(b".") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcrun_overlay::layer::{Overlay, built};

    /// Steps by name: what they are above, and when they were used.
    fn steps(list: &[(&str, &str, u64)]) -> Vec<(Digest, Entry, u64)> {
        let digest = |name: &str| Digest::of(name.as_bytes());
        let step = |(name, below, used): &(&str, &str, u64)| {
            let layer = built::layer_id(&digest(name), Overlay::Trusted).unwrap();
            let took = Duration::ZERO;
            let entry = Entry::new(layer, digest(below), name, took).under(digest(name));
            (digest(name), entry, *used)
        };
        list.iter().map(step).collect()
    }

    #[test]
    fn a_step_goes_after_those_above_it() {
        let listed = steps(&[
            ("old base", "", 1),
            ("copy", "old base", 2),
            ("run", "copy", 9),
            ("lone", "", 5),
            ("abandoned", "copy", 3),
        ]);
        let mut items = in_use(listed);
        items.sort_by_key(|(_, _, used)| *used);
        let order: Vec<&str> = items
            .iter()
            .map(|(_, entry, _)| entry.text.as_str())
            .collect();
        assert_eq!(order, ["abandoned", "lone", "run", "copy", "old base"]);
    }

    #[test]
    fn circles_of_damaged_records_end() {
        let listed = steps(&[("a", "b", 1), ("b", "a", 2)]);
        assert_eq!(in_use(listed).len(), 2);
    }
}
