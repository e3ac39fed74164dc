//! The limit of the build cache: what was not used for longest goes, until the rest fits.
//!
//! Counted are the layers of cached steps, each once, and the directories of cache mounts, as they are on
//! the disk. Layers that an image needs too are counted as well: the limit is on what the cache keeps, so
//! it holds whatever happens to images. Forgetting a step removes its record; the sweep that follows
//! frees its layer.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rcrun_overlay::durable::{self, open_directory};
use rcrun_overlay::gc::measure;
use rcrun_overlay::layer::store::Layers;
use rcrun_overlay::lock;
use rcrun_overlay::store::Store;
use rustix::fs::AtFlags;

use crate::cache::Cache;
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
    Step(Digest),
    Mount(CString),
}

/// Forgets what was not used for longest until no more than `limit` bytes are kept; `None` only counts.
/// What is in use at the moment stays.
pub fn shrink(store: &Store, cache: &Cache, limit: Option<u64>) -> Result<Shrunk> {
    let layers = Layers::new(store)?;
    let mut shrunk = Shrunk::default();
    let mut seen = HashSet::new();
    let mut items: Vec<(u64, u64, Item)> = Vec::new();
    for (key, entry, used) in cache.list()? {
        match layers.get(&entry.layer)? {
            Some(layer) => {
                let bytes = if seen.insert(entry.layer) {
                    layer.record.allocated.unwrap_or(layer.record.size)
                } else {
                    0
                };
                items.push((used, bytes, Item::Step(key)));
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
        .filter(|(_, _, item)| matches!(item, Item::Step(_)))
        .count();
    let Some(limit) = limit else {
        return Ok(shrunk);
    };
    let age = if limit == 0 { Duration::ZERO } else { NOTES };
    cache.forget_notes(age)?;
    items.sort_by_key(|(used, ..)| *used);
    for (_, bytes, item) in items {
        if shrunk.kept <= limit && (limit > 0 || bytes > 0) {
            break;
        }
        match item {
            Item::Step(key) => {
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
