//! What each thing of a store takes on the disk, for whoever knows what refers to what.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::str::FromStr;

use crate::lease::{LayerId, SnapshotId};
use crate::store::Store;
use crate::{Digest, Result, tree};

/// Allocated bytes by thing. A file that several share counts for the first of them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Sizes {
    /// Of whole blobs.
    pub blobs: BTreeMap<Digest, u64>,
    /// Of unpacked layers.
    pub layers: BTreeMap<LayerId, u64>,
    /// Layers that others are second names of; those have no size.
    pub aliases: BTreeMap<LayerId, LayerId>,
    /// Of snapshots.
    pub snapshots: BTreeMap<SnapshotId, u64>,
}

/// Measures everything that has a name of its own.
pub fn sizes(store: &Store) -> Result<Sizes> {
    let mut meter = tree::Meter::default();
    let mut sizes = Sizes::default();
    let content = store.content();
    for digest in content.list()? {
        if let Some(shard) = content.shard(&digest)? {
            let before = meter.bytes;
            let name = CString::new(digest.hex()).map_err(std::io::Error::from)?;
            meter.add_tree(&shard, &name)?;
            sizes.blobs.insert(digest, meter.bytes - before);
        }
    }
    sizes.layers = children(store, "layers", &mut meter)?;
    let layers = store.directory("layers")?;
    for id in sizes.layers.keys() {
        if let Some(target) = crate::layer::built::alias_of(&layers, id)? {
            sizes.aliases.insert(id.clone(), target);
        }
    }
    sizes.snapshots = children(store, "snapshots", &mut meter)?;
    Ok(sizes)
}

/// The trees in a directory whose names are identifiers.
fn children<I: FromStr + Ord>(
    store: &Store,
    directory: &str,
    meter: &mut tree::Meter,
) -> Result<BTreeMap<I, u64>> {
    let open = store.directory(directory)?;
    let mut found = BTreeMap::new();
    for name in tree::names(&open)? {
        let Some(id) = name.to_str().ok().and_then(|text| text.parse().ok()) else {
            continue;
        };
        let before = meter.bytes;
        meter.add_tree(&open, &name)?;
        found.insert(id, meter.bytes - before);
    }
    Ok(found)
}

impl Sizes {
    /// The layer that a name stands for.
    pub fn real<'a>(&'a self, id: &'a LayerId) -> &'a LayerId {
        self.aliases.get(id).unwrap_or(id)
    }
}

/// What something takes on the disk.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Allocated bytes.
    pub bytes: u64,
    /// Files and directories, each of which takes an inode.
    pub entries: u64,
}

impl std::ops::Add for Taken {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            entries: self.entries + other.entries,
        }
    }
}

impl std::iter::Sum for Taken {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), std::ops::Add::add)
    }
}

/// What one thing takes on the disk, by its name in a directory.
pub fn taken(directory: impl std::os::fd::AsFd, name: &std::ffi::CStr) -> Result<Taken> {
    let mut meter = tree::Meter::default();
    meter.add_tree(directory, name)?;
    Ok(Taken {
        bytes: meter.bytes,
        entries: meter.entries,
    })
}

/// What a blob takes; nothing if it is not there.
pub fn blob_taken(store: &Store, digest: &Digest) -> Result<Taken> {
    match store.content().shard(digest)? {
        None => Ok(Taken::default()),
        Some(shard) => {
            let name = CString::new(digest.hex()).map_err(std::io::Error::from)?;
            taken(&shard, &name)
        }
    }
}

/// The bytes that one thing takes, by its name in a directory.
pub fn measure(directory: impl std::os::fd::AsFd, name: &std::ffi::CStr) -> Result<u64> {
    taken(directory, name).map(|taken| taken.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thing_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let lease = store.lease().unwrap();
        let blob = store.content().put(&lease, &[7; 100_000]).unwrap();
        let layer: LayerId = "a".repeat(64).parse().unwrap();
        let files = directory.path().join("layers").join(layer.as_str());
        std::fs::create_dir_all(files.join("diff")).unwrap();
        std::fs::write(files.join("diff/file"), [1; 50_000]).unwrap();
        std::fs::hard_link(files.join("diff/file"), files.join("diff/again")).unwrap();
        std::fs::create_dir(directory.path().join("snapshots/web")).unwrap();
        let found = sizes(&store).unwrap();
        assert!((100_000..120_000).contains(&found.blobs[&blob]));
        // Directories count, the second name of a file does not.
        assert!((50_000..70_000).contains(&found.layers[&layer]));
        assert_eq!(found.layers.len(), 1, "neither incoming nor short");
        assert_eq!(found.snapshots.len(), 1);
        let usage = super::super::usage(&store).unwrap();
        assert_eq!(usage.blobs.bytes, found.blobs[&blob]);
    }
}
