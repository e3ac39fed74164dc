//! Where a step's process works: `build/steps/NAME` of the store. Its name is also its container's ID.
//!
//! The builder holds a lock on the directory; one whose lock is free is of a build that was killed, and
//! the next build ends its container and removes it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rcrun_overlay::durable;
use rcrun_overlay::lock;
use rcrun_overlay::store::Store;
use rcrun_runtime::container::Runtime;
use rcrun_runtime::error::{Context, ErrorKind, Result};
use rustix::fs::{CWD, Mode, OFlags};

/// How IDs of such containers begin.
const PREFIX: &str = "build-";
/// How often it is tried to remove a directory into which somebody writes.
const TRIES: usize = 200;
/// Between two tries.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// A place. Dropped, it is removed.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Place {
    /// A new one.
    pub(crate) fn new(store: &Store) -> Result<Self> {
        loop {
            let unique = durable::temporary_name();
            let id = format!("{PREFIX}{}", unique.trim_start_matches(durable::TEMPORARY));
            let path = store.path().join("build/steps").join(&id);
            let failed = || format!("cannot make {}", path.display());
            rustix::fs::mkdirat(CWD, &path, Mode::from(0o700)).context(failed)?;
            // Until it is locked, another build may take it for one that was left.
            let lock = match open(&path) {
                Ok(lock) => lock::hold(lock, true, &mut |_| Ok(())).context(failed)?,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let still_there = || -> Option<bool> {
                let named = rustix::fs::lstat(&path).ok()?;
                let open = rustix::fs::fstat(&lock).ok()?;
                Some((named.st_dev, named.st_ino) == (open.st_dev, open.st_ino))
            };
            if still_there() == Some(true) {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next build.
        let _ = remove(&self.path);
    }
}

/// Removes what builds left that were killed.
pub(crate) fn sweep(store: &Store, runtime: &Runtime) -> Result<()> {
    let all = store.path().join("build/steps");
    let list = match std::fs::read_dir(&all) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        list => list.context(|| format!("cannot list {}", all.display()))?,
    };
    for entry in list {
        let path = entry
            .context(|| format!("cannot list {}", all.display()))?
            .path();
        let Some(id) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let Ok(directory) = open(&path) else {
            continue;
        };
        // Held until it is gone: whoever makes it at this moment waits, and then sees that it is.
        let Some(_lock) = lock::try_hold(directory)? else {
            continue;
        };
        runtime.delete(id, true)?;
        remove(&path).context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .context(|| format!("cannot open {}", path.display()))
}

/// Everything in it is ours; what a step wrote into a mount whose changes are thrown away may be odd. The
/// process of a step whose builder was killed may still write down how that ended.
fn remove(path: &Path) -> std::io::Result<()> {
    for _ in 0..TRIES {
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            // It was removed by another build meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
        std::thread::sleep(PAUSE);
    }
    std::fs::remove_dir_all(path)
}
