//! Digests of files that were read before, by what the kernel says about their version.
//!
//! The key is device, inode, size, and times of modification and change to the nanosecond. No
//! program can set the time of change, so a version of a file has one that no other has, unless it
//! is written within the same tick of the clock: therefore what changed less than [`MARGIN`] before
//! it was read is not remembered (git's index has the same rule). Only file systems are trusted that
//! keep such times themselves, on disks of this machine.
//!
//! The file is versioned and summed; damaged, it is an empty cache.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::files::Meta;
use crate::{Context, Result};

pub(super) type Hash = [u8; 32];

/// How long a file must have been left alone before it was read.
const MARGIN: Duration = Duration::from_secs(2);
/// Files that are remembered.
const ENTRIES: usize = 1 << 18;
const MAGIC: &[u8; 16] = b"rcrun stat 1\n\0\0\0";
const ENTRY: usize = 80;
/// ext4, xfs, btrfs, tmpfs, overlayfs, zfs, f2fs, bcachefs.
const TRUSTED: [u64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x794c_7630,
    0x2fc1_2fc1,
    0xf2f5_2010,
    0xca45_1a4e,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

impl Key {
    fn of(meta: &Meta) -> Self {
        Self {
            device: meta.device,
            inode: meta.inode,
            size: meta.size,
            modified: meta.modified,
            changed: meta.changed,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Value {
    hash: Hash,
    used: bool,
}

/// Remembers digests of files that did not change, in one file of the caller's.
#[derive(Debug, Default)]
pub struct StatCache {
    entries: Mutex<HashMap<Key, Value>>,
    learned: std::sync::atomic::AtomicBool,
}

impl StatCache {
    /// Reads it. A missing or damaged file is an empty cache.
    pub fn load(directory: BorrowedFd<'_>, name: &str) -> Self {
        let entries = read(directory, name).and_then(|bytes| decode(&bytes));
        Self {
            entries: Mutex::new(entries.unwrap_or_default()),
            learned: false.into(),
        }
    }

    /// Replaces the file, unless nothing was learned. Processes may do so at the same time: one of
    /// them wins.
    pub fn save(&self, directory: BorrowedFd<'_>, name: &str) -> Result<()> {
        use std::sync::atomic::Ordering;
        if !self.learned.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let bytes = encode(&self.entries.lock().unwrap_or_else(PoisonError::into_inner));
        let random: [u8; 8] = random()?;
        let temporary = format!(".{name}.{:016x}", u64::from_le_bytes(random));
        let context = || format!("cannot write the cache of file digests, {name}");
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from(0o600);
        let file = rustix::fs::openat(directory, &temporary, flags, mode).context(context)?;
        let written = write(&file, &bytes).and_then(|()| {
            Ok(rustix::fs::renameat(
                directory, &temporary, directory, name,
            )?)
        });
        if written.is_err() {
            let _ = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty());
        }
        written.context(context)
    }

    /// Whether what is seen below a directory can be remembered.
    pub(super) fn serves(&self, directory: BorrowedFd<'_>) -> bool {
        let kind = rustix::fs::fstatfs(directory).map(|stat| stat.f_type);
        kind.is_ok_and(|kind| TRUSTED.contains(&(kind.cast_unsigned())))
    }

    pub(super) fn find(&self, meta: &Meta) -> Option<Hash> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let value = entries.get_mut(&Key::of(meta))?;
        value.used = true;
        Some(value.hash)
    }

    /// Remembers a version that was read, beginning at that time.
    pub(super) fn learn(&self, meta: &Meta, hash: Hash, started: SystemTime) {
        let latest = meta.modified.max(meta.changed);
        let since = u64::try_from(latest.0).map(|seconds| Duration::new(seconds, latest.1));
        let started = started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let settled = since.is_ok_and(|since| since + MARGIN <= started);
        if !settled {
            return;
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= ENTRIES {
            entries.retain(|_, value| value.used);
        }
        if entries.len() < ENTRIES {
            entries.insert(Key::of(meta), Value { hash, used: true });
            self.learned
                .store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context(|| "cannot get random bytes")?;
    Ok(bytes)
}

fn write(file: &OwnedFd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::write(file.as_fd(), bytes)?;
        bytes = &bytes[written..];
    }
    Ok(())
}

fn read(directory: BorrowedFd<'_>, name: &str) -> Option<Vec<u8>> {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty()).ok()?;
    let most = (MAGIC.len() + ENTRIES * ENTRY + 32) as u64;
    let mut bytes = Vec::new();
    let mut file = std::fs::File::from(file).take(most + 1);
    file.read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= most).then_some(bytes)
}

fn encode(entries: &HashMap<Key, Value>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAGIC.len() + entries.len() * ENTRY + 32);
    bytes.extend_from_slice(MAGIC);
    for (key, value) in entries {
        for number in [key.device, key.inode, key.size] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for (seconds, nanoseconds) in [key.modified, key.changed] {
            bytes.extend_from_slice(&seconds.to_le_bytes());
            bytes.extend_from_slice(&nanoseconds.to_le_bytes());
        }
        bytes.extend_from_slice(&value.hash);
    }
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

fn decode(bytes: &[u8]) -> Option<HashMap<Key, Value>> {
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    let entries = body.strip_prefix(MAGIC)?;
    if Sha256::digest(body)[..] != *sum || entries.len() % ENTRY != 0 {
        return None;
    }
    let entry = |bytes: &[u8]| {
        let mut rest = bytes;
        let device = u64::from_le_bytes(take(&mut rest)?);
        let inode = u64::from_le_bytes(take(&mut rest)?);
        let size = u64::from_le_bytes(take(&mut rest)?);
        let mut time = || {
            Some((
                i64::from_le_bytes(take(&mut rest)?),
                u32::from_le_bytes(take(&mut rest)?),
            ))
        };
        let (modified, changed) = (time()?, time()?);
        let key = Key {
            device,
            inode,
            size,
            modified,
            changed,
        };
        let hash = take(&mut rest)?;
        Some((key, Value { hash, used: false }))
    };
    entries.chunks_exact(ENTRY).map(entry).collect()
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(inode: u64, changed: i64) -> Meta {
        Meta {
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            links: 1,
            device: 1,
            inode,
            size: 3,
            number: 0,
            modified: (10, 5),
            changed: (changed, 0),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn what_changed_just_before_is_not_remembered() {
        let cache = StatCache::default();
        for (inode, changed, started, kept) in [
            (1, 100, 102, true),
            (2, 100, 101, false),
            (3, 100, 99, false),
            (4, 5, 11, false),
            (5, 11, 100, true),
        ] {
            cache.learn(&meta(inode, changed), [7; 32], at(started));
            let found = cache.find(&meta(inode, changed)).is_some();
            assert_eq!(found, kept, "{inode}");
        }
        let other = Meta {
            modified: (10, 6),
            ..meta(1, 100)
        };
        assert_eq!(cache.find(&other), None, "a nanosecond is another version");
    }

    #[test]
    fn kept_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(std::fs::File::open(directory.path()).unwrap());
        let cache = StatCache::load(fd.as_fd(), "stat");
        for inode in 0..1000 {
            cache.learn(&meta(inode, 1), [inode.to_le_bytes()[0]; 32], at(1000));
        }
        cache.save(fd.as_fd(), "stat").unwrap();
        let again = StatCache::load(fd.as_fd(), "stat");
        assert_eq!(again.find(&meta(300, 1)), Some([44; 32]));
        again.save(fd.as_fd(), "other").unwrap();
        let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "nothing new, nothing written");
    }

    #[test]
    fn a_damaged_file_is_an_empty_cache() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stat");
        let fd = OwnedFd::from(std::fs::File::open(directory.path()).unwrap());
        let cache = StatCache::default();
        cache.learn(&meta(1, 1), [7; 32], at(1000));
        cache.save(fd.as_fd(), "stat").unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(StatCache::load(fd.as_fd(), "stat").find(&meta(1, 1)), None);
            std::fs::write(&path, &good[..at]).unwrap();
            assert_eq!(StatCache::load(fd.as_fd(), "stat").find(&meta(1, 1)), None);
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(StatCache::load(fd.as_fd(), "stat").find(&meta(1, 1)), None);
    }

    #[test]
    fn bounded() {
        let cache = StatCache::default();
        for inode in 0..(ENTRIES as u64 + 10) {
            cache.learn(&meta(inode, 1), [0; 32], at(1000));
        }
        assert!(cache.entries.lock().unwrap().len() <= ENTRIES);
    }
}
