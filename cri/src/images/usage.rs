//! What images and containers take on the disk, for the kubelet's decisions about making room.
//!
//! Layers and blobs never change: each is measured once, and later only looked whether it is still there.
//! What containers write is measured anew each time. An answer is at most [`FRESH`] old, or as old as
//! measuring takes; only the first one waits for that.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rcrun_overlay::Digest;
use rcrun_overlay::gc::{Taken, blob_taken, taken};
use rcrun_overlay::store::Store;
use tokio::sync::Mutex as Turn;
use tonic::Status;

use crate::proto::v1 as cri;
use crate::work::Gate;
use crate::{Context, Result};

/// How old an answer may be.
const FRESH: Duration = Duration::from_secs(10);
/// How long an answer waits for a newer one.
const PATIENCE: Duration = Duration::from_millis(500);
/// Measuring takes at most this part of the time.
const SHARE: u32 = 10;
/// In the directory of layers, and no layers.
const UNFINISHED: [&CStr; 2] = [c"incoming", c"empty"];

/// Measures a store.
#[derive(Debug, Clone)]
pub(super) struct Usage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    gate: Gate,
    /// Held by who measures.
    turn: Turn<()>,
    known: Mutex<Known>,
    last: Mutex<Option<Measured>>,
}

/// What does not change.
#[derive(Debug, Default)]
struct Known {
    layers: HashMap<CString, Taken>,
    blobs: HashMap<Digest, Taken>,
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    /// Nanoseconds since 1970.
    time: i64,
    begun: Instant,
    took: Duration,
    images: Taken,
    containers: Taken,
    /// Something changed since.
    stale: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Usage {
    pub(super) fn new(store: &Store) -> Self {
        Self(Arc::new(Inner {
            store: store.clone(),
            gate: Gate::new(1),
            turn: Turn::new(()),
            known: Mutex::default(),
            last: Mutex::default(),
        }))
    }

    /// Images have come or gone.
    pub(super) fn changed(&self) {
        if let Some(last) = lock(&self.0.last).as_mut() {
            last.stale = true;
        }
    }

    /// The answer of ImageFsInfo.
    pub(super) async fn info(&self) -> Result<cri::ImageFsInfoResponse, Status> {
        let last = *lock(&self.0.last);
        let measured = match last {
            Some(last) if last.is_fresh() => last,
            Some(last) => {
                let this = self.clone();
                let newer = tokio::spawn(async move { this.measure().await });
                match tokio::time::timeout(PATIENCE, newer).await {
                    Ok(Ok(Ok(newer))) => newer,
                    Ok(Ok(Err(status))) => {
                        tracing::warn!("cannot measure the store: {}", status.message());
                        last
                    }
                    _ => last,
                }
            }
            None => self.measure().await?,
        };
        let path = self.0.store.path().display().to_string();
        let of = |taken: Taken| cri::FilesystemUsage {
            timestamp: measured.time,
            fs_id: Some(cri::FilesystemIdentifier {
                mountpoint: path.clone(),
            }),
            used_bytes: Some(cri::UInt64Value { value: taken.bytes }),
            inodes_used: Some(cri::UInt64Value {
                value: taken.entries,
            }),
        };
        Ok(cri::ImageFsInfoResponse {
            image_filesystems: vec![of(measured.images)],
            container_filesystems: vec![of(measured.containers)],
        })
    }

    async fn measure(&self) -> Result<Measured, Status> {
        let _turn = self.0.turn.lock().await;
        // Perhaps somebody did while this one waited.
        if let Some(last) = lock(&self.0.last).filter(Measured::is_fresh) {
            return Ok(last);
        }
        let inner = Arc::clone(&self.0);
        let measured = self.0.gate.run(move || inner.measure()).await?;
        *lock(&self.0.last) = Some(measured);
        Ok(measured)
    }
}

impl Measured {
    fn is_fresh(&self) -> bool {
        let age = self.begun.elapsed();
        // Where measuring takes long, it is not done often.
        age < self.took * SHARE || (age < FRESH && !self.stale)
    }
}

impl Inner {
    fn measure(&self) -> Result<Measured> {
        let begun = Instant::now();
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = time.map_or(1, |time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
        let (images, containers) = self
            .sum()
            .context(|| format!("cannot measure {}", self.store.path().display()))?;
        Ok(Measured {
            time,
            begun,
            took: begun.elapsed(),
            images,
            containers,
            stale: false,
        })
    }

    fn sum(&self) -> Result<(Taken, Taken)> {
        let mut known = lock(&self.known);
        let layers = self.store.directory("layers")?;
        let mut now = HashMap::new();
        for name in names(&layers)? {
            if UNFINISHED.contains(&name.as_c_str()) {
                continue;
            }
            let size = match known.layers.get(&name) {
                Some(size) => *size,
                None => taken(&layers, &name)?,
            };
            now.insert(name, size);
        }
        known.layers = now;
        let mut now = HashMap::new();
        for digest in self.store.content().list()? {
            let size = match known.blobs.get(&digest) {
                Some(size) => *size,
                None => blob_taken(&self.store, &digest)?,
            };
            now.insert(digest, size);
        }
        known.blobs = now;
        let images = known
            .layers
            .values()
            .chain(known.blobs.values())
            .copied()
            .sum();
        drop(known);
        let snapshots = self.store.directory("snapshots")?;
        let mut containers = Taken::default();
        for name in names(&snapshots)? {
            containers = containers + taken(&snapshots, &name)?;
        }
        Ok((images, containers))
    }
}

fn names(directory: impl std::os::fd::AsFd) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_measured_once_and_what_containers_write_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let lease = store.lease().unwrap();
        let usage = Usage::new(&store);
        let empty = usage.0.measure().unwrap();
        store.content().put(&lease, &[7; 100_000]).unwrap();
        let layer = directory
            .path()
            .join("layers")
            .join("a".repeat(64))
            .join("diff");
        std::fs::create_dir_all(&layer).unwrap();
        std::fs::write(layer.join("file"), [1; 50_000]).unwrap();
        let full = usage.0.measure().unwrap();
        let grown = full.images.bytes - empty.images.bytes;
        assert!((150_000..190_000).contains(&grown), "{grown}");
        // A blob, a directory of a layer, the one within, a file.
        assert_eq!(full.images.entries - empty.images.entries, 4);
        assert_eq!(full.containers.bytes, empty.containers.bytes);
        let written = directory.path().join("snapshots/web");
        std::fs::create_dir(&written).unwrap();
        for size in [10_000, 90_000] {
            std::fs::write(written.join("file"), vec![1; size]).unwrap();
            let now = usage.0.measure().unwrap();
            assert_eq!(now.images, full.images);
            assert!(now.containers.bytes >= size as u64);
        }
        std::fs::remove_dir_all(layer.parent().unwrap()).unwrap();
        let less = usage.0.measure().unwrap();
        assert_eq!(less.images.entries - empty.images.entries, 1);
    }
}
