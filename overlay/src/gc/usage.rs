//! What a store takes on the disk: allocated blocks, not lengths, and every hard-linked file once.

use std::ffi::CString;

use crate::content::{INCOMING, Incoming, scan_incoming};
use crate::store::Store;
use crate::{Result, durable, tree};

/// One kind of things.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// How many: blobs, downloads, layers, snapshots; of other things, files and directories.
    pub count: u64,
    /// What they take on the disk.
    pub bytes: u64,
}

/// What a store takes. The sum of all parts is what `du` says, give or take what changes meanwhile.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Whole blobs.
    pub blobs: Part,
    /// Unfinished downloads with their maps.
    pub incoming: Part,
    /// Blobs that were moved away because they are damaged.
    pub damaged: Part,
    /// Unpacked layers, also unfinished ones.
    pub layers: Part,
    /// Snapshots: what containers wrote.
    pub snapshots: Part,
    /// Everything else: records, directories, other parts of the program.
    pub other: Part,
}

impl Usage {
    /// Of everything.
    pub fn total(&self) -> u64 {
        let parts = [
            self.blobs,
            self.incoming,
            self.damaged,
            self.layers,
            self.snapshots,
            self.other,
        ];
        parts.iter().map(|part| part.bytes).sum()
    }
}

/// Measures a store. A file that several parts share counts for the first of them.
pub fn usage(store: &Store) -> Result<Usage> {
    let mut walk = Walk {
        store,
        meter: tree::Meter::default(),
    };
    let mut usage = Usage::default();
    let content = store.content();
    for digest in content.list()? {
        if let Some(shard) = content.shard(&digest)? {
            let name = c_string(digest.hex())?;
            usage.blobs.bytes += walk.measure(|meter| meter.add_tree(&shard, &name))?;
            usage.blobs.count += 1;
        }
    }
    let incoming = format!("content/{INCOMING}");
    usage.incoming = walk.children(&incoming, |name| {
        !matches!(scan_incoming(name), Incoming::Map(_))
    })?;
    usage.damaged = walk.children("content/damaged", |_| true)?;
    usage.layers = walk.children("layers", |name| !matches!(name, INCOMING | "empty"))?;
    usage.snapshots = walk.children("snapshots", |_| true)?;
    // The rest by subtraction: the whole, with a meter that knows what was counted.
    let root = durable::open_directory(store.root(), ".")?;
    let mut whole = tree::Meter::default();
    whole.add_tree(root, c".")?;
    let counted = usage.total();
    usage.other = Part {
        count: whole.entries.saturating_sub(walk.meter.entries),
        bytes: whole.bytes.saturating_sub(counted),
    };
    Ok(usage)
}

struct Walk<'a> {
    store: &'a Store,
    meter: tree::Meter,
}

impl Walk<'_> {
    /// Measures every tree in a directory, and counts those that are things of its kind.
    fn children(&mut self, directory: &str, counts: impl Fn(&str) -> bool) -> Result<Part> {
        let open = self.store.directory(directory)?;
        let mut part = Part::default();
        for name in tree::names(&open)? {
            part.bytes += self.measure(|meter| meter.add_tree(&open, &name))?;
            part.count += u64::from(counts(&name.to_string_lossy()));
        }
        Ok(part)
    }

    fn measure(&mut self, add: impl FnOnce(&mut tree::Meter) -> Result<()>) -> Result<u64> {
        let before = self.meter.bytes;
        add(&mut self.meter)?;
        Ok(self.meter.bytes - before)
    }
}

fn c_string(name: &str) -> Result<CString> {
    Ok(CString::new(name).map_err(std::io::Error::from)?)
}
