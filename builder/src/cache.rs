//! What was built before: `build/cache/KEY.json` of a store, one record for each step that was done.
//!
//! A record says which layer a step made, and above which layers: with others below, it is no hit. It
//! refers to its layer, so the sweep has to be told ([`Cache::layers`]). Records are never synced: a
//! kill loses nothing, and what a power cut damages is a miss (their seals tell).
//!
//! Builds that come to the same step at the same time do it once: the others wait at `build/locks/KEY`.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcrun_overlay::durable::{self, open_directory};
use rcrun_overlay::lease::LayerId;
use rcrun_overlay::lock::Door;
use rcrun_overlay::record;
use rcrun_overlay::store::Store;
use rustix::fs::{AtFlags, Mode, Timespec, Timestamps};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::{Context, Digest, Error, ErrorKind, Result};

/// The version of records that is read and written.
const VERSION: u32 = 1;
/// The longest record.
const RECORD_LIMIT: u64 = 4 << 20;
/// How file names of records end.
const SUFFIX: &str = ".json";
/// Parts of a store that are the builder's.
const DIRECTORIES: [&str; 7] = [
    "cache", "exports", "last", "locks", "mounts", "quick", "steps",
];

/// The record of a step that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    version: u32,
    /// What it made.
    pub layer: LayerId,
    /// A digest of the layers below it.
    pub below: Digest,
    /// A digest of these and its own: what is below whatever comes next. None in records of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub above: Option<Digest>,
    /// The instruction.
    pub text: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Milliseconds that it took.
    pub took: u64,
}

impl Entry {
    /// Done now.
    pub fn new(layer: LayerId, below: Digest, text: &str, took: Duration) -> Self {
        Self {
            version: VERSION,
            layer,
            below,
            above: None,
            text: text.to_owned(),
            created: now(),
            took: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Entry {
    /// With the layers that are below whatever comes next.
    #[must_use]
    pub fn under(mut self, above: Digest) -> Self {
        self.above = Some(above);
        self
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The builder's part of a store.
#[derive(Debug)]
pub struct Cache {
    build: OwnedFd,
    records: OwnedFd,
}

/// A step that nobody else does as long as this lives.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held, and let go by dropping it")] Door);

impl Cache {
    /// Of a store; made where there is none.
    pub fn open(store: &Store) -> Result<Self> {
        let open = || -> Result<Self> {
            make(store.root(), "build")?;
            let build = store.directory("build")?;
            for name in DIRECTORIES {
                make(build.as_fd(), name)?;
            }
            let records = open_directory(&build, "cache")?;
            Ok(Self { build, records })
        };
        open().context(|| format!("cannot use the build cache of {}", store.path().display()))
    }

    /// Of a store in which something was built before.
    pub fn existing(store: &Store) -> Result<Option<Self>> {
        match store.directory("build/cache") {
            Ok(_) => Self::open(store).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// One of its directories.
    pub fn directory(&self, name: &str) -> Result<OwnedFd> {
        open_directory(&self.build, name)
    }

    /// Waits until nobody else does this step.
    pub fn turn(
        &self,
        key: &Digest,
        waiting: &mut rcrun_overlay::lock::Waiting<'_>,
    ) -> Result<Turn> {
        Door::enter(self.directory("locks")?, key.hex(), waiting)
            .map(Turn)
            .context(|| "cannot wait for another build that does the same")
    }

    /// Removes the turns of builds that were killed. They stop nobody.
    pub fn sweep(&self) -> Result<()> {
        Door::sweep(self.directory("locks")?.as_fd())
    }

    /// What was made under a key; a record that cannot be read is none. It counts as used now.
    pub fn get(&self, key: &Digest) -> Option<Entry> {
        let name = file_name(key);
        let entry: Entry = read(&self.records, &name)?;
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        };
        let times = Timestamps {
            last_access: now,
            last_modification: now,
        };
        // It would only be removed earlier.
        let _ = rustix::fs::utimensat(&self.records, &name, &times, AtFlags::SYMLINK_NOFOLLOW);
        (entry.version == VERSION).then_some(entry)
    }

    /// Keeps a record. The layer is held by a lease until then.
    pub fn put(&self, key: &Digest, entry: &Entry) -> Result<()> {
        write(&self.records, &file_name(key), entry)
            .context(|| "cannot keep a step in the build cache")
    }

    /// A small record of another kind, by directory and name.
    pub fn note<T: Serialize>(&self, directory: &str, name: &str, value: &T) -> Result<()> {
        write(
            &self.directory(directory)?,
            &format!("{name}{SUFFIX}"),
            value,
        )
    }

    /// Reads one of those; none if there is none that can be read.
    pub fn noted<T: for<'a> Deserialize<'a>>(&self, directory: &str, name: &str) -> Option<T> {
        read(&self.directory(directory).ok()?, &format!("{name}{SUFFIX}"))
    }

    /// Forgets small records of other kinds that are older than this: they only save time.
    pub fn forget_notes(&self, age: Duration) -> Result<()> {
        let limit = now().saturating_sub(age.as_secs());
        for name in ["exports", "last", "quick"] {
            let directory = self.directory(name)?;
            let list = rustix::fs::Dir::read_from(&directory)
                .context(|| format!("cannot list build/{name}"))?;
            for entry in list {
                let entry = entry.context(|| format!("cannot list build/{name}"))?;
                let file = entry.file_name();
                let Ok(stat) = rustix::fs::statat(&directory, file, AtFlags::SYMLINK_NOFOLLOW)
                else {
                    continue;
                };
                let is_file = rustix::fs::FileType::from_raw_mode(stat.st_mode)
                    == rustix::fs::FileType::RegularFile;
                let time = u64::try_from(stat.st_mtime).unwrap_or(0);
                if is_file && time <= limit {
                    // Perhaps it was replaced or removed meanwhile.
                    let _ = rustix::fs::unlinkat(&directory, file, AtFlags::empty());
                }
            }
        }
        Ok(())
    }

    /// All records, with when each was used last (seconds since 1970).
    pub fn list(&self) -> Result<Vec<(Digest, Entry, u64)>> {
        let mut all = Vec::new();
        let list =
            rustix::fs::Dir::read_from(&self.records).context(|| "cannot list the build cache")?;
        for entry in list {
            let entry = entry.context(|| "cannot list the build cache")?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(key) = name.strip_suffix(SUFFIX) else {
                continue;
            };
            let (Ok(key), Some(entry)) =
                (format!("sha256:{key}").parse(), read(&self.records, &name))
            else {
                continue;
            };
            let stat = rustix::fs::statat(&self.records, &name, AtFlags::SYMLINK_NOFOLLOW);
            let used = stat.map_or(0, |stat| u64::try_from(stat.st_mtime).unwrap_or(0));
            all.push((key, entry, used));
        }
        Ok(all)
    }

    /// The layers that records refer to.
    pub fn layers(&self) -> Result<Vec<LayerId>> {
        Ok(self
            .list()?
            .into_iter()
            .map(|(_, entry, _)| entry.layer)
            .collect())
    }

    /// Forgets a step; its layer goes with the next sweep.
    pub fn forget(&self, key: &Digest) -> Result<()> {
        match rustix::fs::unlinkat(&self.records, file_name(key), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).context(|| "cannot remove a record of the build cache"),
        }
    }
}

fn make(at: impl AsFd, name: &str) -> Result<()> {
    match rustix::fs::mkdirat(at, name, Mode::from(0o700)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("cannot make {name}")),
    }
}

fn file_name(key: &Digest) -> String {
    format!("{}{SUFFIX}", key.hex())
}

fn read<T: for<'a> Deserialize<'a>>(directory: &OwnedFd, name: &str) -> Option<T> {
    let bytes = durable::read(directory, name, RECORD_LIMIT).ok()??;
    record::check(&bytes).ok()?;
    // Unlike other records these are written without a sync: without a seal they are not whole.
    bytes
        .ends_with(b"\"}")
        .then(|| serde_json::from_slice(&bytes).ok())?
}

fn write<T: Serialize>(directory: &OwnedFd, name: &str, value: &T) -> Result<()> {
    let bytes = record::encode(value)?;
    if bytes.len() as u64 > RECORD_LIMIT {
        return Err(Error::invalid(
            "a record of the build cache would be too long",
        ));
    }
    durable::replace_unsynced(directory, name, &bytes, Mode::from(0o600))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcrun_overlay::layer::{Overlay, built};
    use std::time::Duration;

    #[test]
    fn what_is_damaged_was_never_there() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert!(Cache::existing(&store).unwrap().is_none());
        let cache = Cache::open(&store).unwrap();
        let key = Digest::of(b"key");
        let layer = built::layer_id(&key, Overlay::Trusted).unwrap();
        let entry = Entry::new(
            layer.clone(),
            Digest::of(b""),
            "RUN x",
            Duration::from_millis(7),
        );
        assert_eq!(cache.get(&key), None);
        cache.put(&key, &entry).unwrap();
        assert_eq!(cache.get(&key), Some(entry.clone()));
        assert_eq!(cache.layers().unwrap(), [layer]);
        let path = directory.path().join("build/cache").join(file_name(&key));
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(cache.get(&key), None, "{length}");
        }
        let mut changed = whole;
        changed[40] ^= 1;
        std::fs::write(&path, changed).unwrap();
        assert_eq!(cache.get(&key), None);
        cache.forget(&key).unwrap();
        cache.forget(&key).unwrap();
        assert!(cache.layers().unwrap().is_empty());
    }

    #[test]
    fn one_does_it_while_the_others_wait() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let cache = Cache::open(&store).unwrap();
        let key = Digest::of(b"key");
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let mut patience = rcrun_overlay::lock::up_to(Duration::from_secs(60));
                        let turn = cache.turn(&key, &mut patience).unwrap();
                        let before = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        assert_eq!(before, 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(turn);
                    }
                });
            }
        });
        let left = std::fs::read_dir(directory.path().join("build/locks")).unwrap();
        assert_eq!(left.count(), 0);
    }
}
