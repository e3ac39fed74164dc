//! Locks between threads and processes: flock(2), so that none outlives its holder.
//!
//! A lock belongs to an open file description: each taker opens the file itself, threads exclude
//! each other like processes do, and the kernel releases what a killed process held. There are no
//! stale locks, no pids to compare and no clocks.
//!
//! Waiting is polling, since flock(2) has no time limit and cannot be cancelled. Whoever waits for
//! something that may take long is asked again and again whether it wants to go on ([`Waiting`]).
//!
//! The store's own lock ([`enter`], [`exclude`]) is held for microseconds by those who add
//! references, and for milliseconds by the sweep; `gc.rs` argues why that suffices. flock(2) lets new
//! sharers overtake a waiting excluder forever, so there is a door: the lock is only ever asked for
//! while one holds the door, and the excluder keeps it until it is done.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::{Context, Error, ErrorKind, Result, tree};

/// The lock file in a store's root.
pub const STORE_LOCK: &str = "store.lock";

/// How long the store's own lock is waited for. Nobody holds it for long, unless it was stopped.
pub const STORE_PATIENCE: Duration = Duration::from_secs(60);

/// The pauses between two attempts begin with this one and double.
const FIRST_PAUSE: Duration = Duration::from_micros(50);

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Asked at least every 20 ms with the time waited so far; an error ends the wait and is its result.
pub type Waiting<'a> = dyn FnMut(Duration) -> Result<()> + 'a;

/// Waits up to this long.
pub fn up_to(limit: Duration) -> impl FnMut(Duration) -> Result<()> {
    move |waited| match waited < limit {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Busy,
            format!("somebody else still holds it after {limit:?}"),
        )),
    }
}

/// Whether others may hold the lock too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Shared,
    Exclusive,
}

/// Takes the lock if that is possible at once.
pub(crate) fn try_lock(file: impl AsFd, kind: Kind) -> Result<bool> {
    let operation = match kind {
        Kind::Shared => FlockOperation::NonBlockingLockShared,
        Kind::Exclusive => FlockOperation::NonBlockingLockExclusive,
    };
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno).context(|| "cannot lock a file"),
    }
}

/// Takes the lock, however long that takes, unless `waiting` says otherwise.
pub(crate) fn lock(file: impl AsFd, kind: Kind, waiting: &mut Waiting<'_>) -> Result<()> {
    let file = file.as_fd();
    let mut pause = FIRST_PAUSE;
    let mut since = None;
    while !try_lock(file, kind)? {
        waiting(since.get_or_insert_with(Instant::now).elapsed())?;
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Ok(())
}

/// Gives a lock back while others still hold the file open.
pub(crate) fn unlock(file: impl AsFd) {
    // It cannot fail for a descriptor that was locked; at worst closing it does the same.
    let _ = rustix::fs::flock(file, FlockOperation::Unlock);
}

/// Whether a name still stands for an open file. After waiting for a lock it may have been renamed
/// or removed by whoever held it.
pub(crate) fn is_named(directory: impl AsFd, name: &str, file: impl AsFd) -> Result<bool> {
    let open = rustix::fs::fstat(file).context(|| format!("cannot stat the open file {name}"))?;
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok(same(&open, &named)),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).context(|| format!("cannot stat {name}")),
    }
}

/// Whether both are the same file.
pub(crate) fn same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// The store's lock. It goes when this goes.
#[derive(Debug)]
pub(crate) struct Held {
    _lock: OwnedFd,
    _door: Option<OwnedFd>,
}

/// Keeps the sweep out for an instant: for those who say what they are going to use.
pub(crate) fn enter(root: impl AsFd) -> Result<Held> {
    let root = root.as_fd();
    let door = door(root)?;
    let lock = take(root, Kind::Shared)?;
    drop(door);
    let (_lock, _door) = (lock, None);
    Ok(Held { _lock, _door })
}

/// Keeps everybody out: for the sweep.
pub(crate) fn exclude(root: impl AsFd) -> Result<Held> {
    let root = root.as_fd();
    let _door = Some(door(root)?);
    let _lock = take(root, Kind::Exclusive)?;
    Ok(Held { _lock, _door })
}

/// The door is the root directory itself: it exists before everything else.
pub(crate) fn door(root: impl AsFd) -> Result<OwnedFd> {
    let door = crate::durable::open_directory(root, ".")?;
    lock(&door, Kind::Exclusive, &mut up_to(STORE_PATIENCE))
        .context(|| "cannot lock the store's directory")?;
    Ok(door)
}

fn take(root: impl AsFd, kind: Kind) -> Result<OwnedFd> {
    // Reading is enough for flock, also on a read-only or full disk.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(root, STORE_LOCK, flags, Mode::empty())
        .context(|| format!("cannot open {STORE_LOCK}"))?;
    lock(&file, kind, &mut up_to(STORE_PATIENCE))
        .context(|| format!("cannot lock {STORE_LOCK}"))?;
    Ok(file)
}

/// Holds a directory or file that was opened, alone or with others, until the descriptor is closed.
pub fn hold(file: OwnedFd, alone: bool, waiting: &mut Waiting<'_>) -> Result<OwnedFd> {
    let kind = match alone {
        true => Kind::Exclusive,
        false => Kind::Shared,
    };
    lock(&file, kind, waiting)?;
    Ok(file)
}

/// The same alone, if nobody else holds it.
pub fn try_hold(file: OwnedFd) -> Result<Option<OwnedFd>> {
    Ok(try_lock(&file, Kind::Exclusive)?.then_some(file))
}

/// A lock by name: a file that exists while somebody holds it or waits for it.
#[derive(Debug)]
pub struct Door {
    directory: OwnedFd,
    name: String,
    _lock: OwnedFd,
}

impl Door {
    /// Enters alone, after others.
    pub fn enter(directory: OwnedFd, name: &str, waiting: &mut Waiting<'_>) -> Result<Self> {
        loop {
            let file = Self::open(&directory, name)?;
            lock(&file, Kind::Exclusive, waiting)?;
            // Whoever was inside removed it when leaving.
            if is_named(&directory, name, &file)? {
                return Ok(Self::inside(directory, name, file));
            }
        }
    }

    /// Enters if nobody is inside.
    pub fn try_enter(directory: OwnedFd, name: &str) -> Result<Option<Self>> {
        loop {
            let file = Self::open(&directory, name)?;
            if !try_lock(&file, Kind::Exclusive)? {
                return Ok(None);
            }
            if is_named(&directory, name, &file)? {
                return Ok(Some(Self::inside(directory, name, file)));
            }
        }
    }

    /// Removes the names of those who were killed inside and whom nobody waited for.
    pub fn sweep(directory: BorrowedFd<'_>) -> Result<()> {
        for name in tree::names(directory)? {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = match rustix::fs::openat(directory, &name, flags, Mode::empty()) {
                Ok(file) => file,
                // Whoever was inside has left meanwhile; what is no file is no lock.
                Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => continue,
                Err(errno) => Err(errno)
                    .context(|| format!("cannot open the lock {}", name.to_string_lossy()))?,
            };
            let name = name.to_string_lossy();
            if try_lock(&file, Kind::Exclusive)? && is_named(directory, &name, &file)? {
                // Before it is free again, as when somebody leaves.
                let _ = rustix::fs::unlinkat(directory, &*name, AtFlags::empty());
            }
        }
        Ok(())
    }

    fn open(directory: &OwnedFd, name: &str) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(directory, name, flags, Mode::from(0o600))
            .context(|| format!("cannot open the lock {name}"))
    }

    fn inside(directory: OwnedFd, name: &str, lock: OwnedFd) -> Self {
        let (name, _lock) = (name.to_owned(), lock);
        Self {
            directory,
            name,
            _lock,
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Before the lock is free: whoever gets it then sees that the name is gone.
        let _ = rustix::fs::unlinkat(&self.directory, &self.name, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    fn open(path: &std::path::Path) -> std::fs::File {
        std::fs::File::open(path).unwrap()
    }

    #[test]
    fn threads_exclude_each_other_and_waiting_can_be_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (open(directory.path()), open(directory.path()));
        assert!(try_lock(&one, Kind::Exclusive).unwrap());
        assert!(!try_lock(&other, Kind::Shared).unwrap());
        let limit = Duration::from_millis(30);
        let error = lock(&other, Kind::Shared, &mut up_to(limit)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        let mut asked = 0;
        let error = lock(&other, Kind::Shared, &mut |_| {
            asked += 1;
            match asked {
                3 => Err(Error::new(ErrorKind::Deadline, "interrupted")),
                _ => Ok(()),
            }
        });
        assert_eq!(error.unwrap_err().to_string(), "interrupted");
        unlock(&one);
        lock(&other, Kind::Shared, &mut |_| unreachable!("it is free")).unwrap();
    }

    #[test]
    fn a_replaced_name_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let root = open(directory.path());
        let path = directory.path().join("file");
        std::fs::write(&path, "").unwrap();
        let file = open(&path);
        assert!(is_named(&root, "file", &file).unwrap());
        std::fs::rename(&path, directory.path().join("moved")).unwrap();
        assert!(!is_named(&root, "file", &file).unwrap());
        std::fs::write(&path, "").unwrap();
        assert!(!is_named(&root, "file", &file).unwrap());
    }

    #[test]
    fn doors_of_the_killed_go_and_those_in_use_stay() {
        let directory = tempfile::tempdir().unwrap();
        let at = || OwnedFd::from(open(directory.path()));
        let inside = Door::try_enter(at(), "used").unwrap().unwrap();
        std::fs::write(directory.path().join("left"), "").unwrap();
        std::os::unix::fs::symlink("used", directory.path().join("link")).unwrap();
        let names = || {
            let mut names: Vec<_> = std::fs::read_dir(directory.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        Door::sweep(at().as_fd()).unwrap();
        assert_eq!(names(), ["link", "used"]);
        assert!(Door::try_enter(at(), "used").unwrap().is_none());
        drop(inside);
        assert_eq!(names(), ["link"]);
    }

    #[test]
    fn sharers_without_pause_do_not_keep_the_sweep_out() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(STORE_LOCK), "").unwrap();
        let root = open(directory.path());
        let (stop, inside) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        let held = enter(&root).unwrap();
                        inside.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_micros(200));
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(held);
                    }
                });
            }
            let begun = Instant::now();
            for _ in 0..20 {
                let held = exclude(&root).unwrap();
                assert_eq!(inside.load(Ordering::SeqCst), 0);
                drop(held);
            }
            stop.store(true, Ordering::SeqCst);
            assert!(begun.elapsed() < Duration::from_secs(20), "{begun:?}");
        });
    }
}
