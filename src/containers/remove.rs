//! Removing a container: in an order in which being killed anywhere leaves something that the same
//! verb removes again, and that needs no space on the disk.
//!
//! First what is elsewhere (processes, runtime state, network, monitor, snapshot), while the record still
//! says where; then the files, the record last of them; then the name; then the directory. Without
//! a record it is no container any more, and its name is free.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rcrun_overlay::snapshot::Snapshots;
use rcrun_overlay::store::Store;
use rcrun_runtime::container::Runtime;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rcrun_runtime::monitor::{self, Client};
use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::{Container, Containers, Lock, network, record};

/// How long a monitor whose container is gone may take to write that down.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(5);

impl Containers {
    /// Removes a container, with its processes if it still has some, its state, its snapshot and its
    /// name. Whether it may have processes is decided before.
    pub(crate) fn remove(&self, container: &Container, lock: &Lock<'_>) -> Result<()> {
        let record = container.record()?;
        if let Some(record) = &record {
            forget(&record.runtime(), container.id())?;
        }
        self.discard(container, lock)?;
        match &record {
            Some(record) => self.release(&record.name, container.id()),
            None => self.release_all(container.id()),
        }
    }

    /// The same, with the volumes that were made for it and have no name of a person's.
    pub(crate) fn remove_with_volumes(&self, container: &Container, lock: &Lock<'_>) -> Result<()> {
        if let Some(record) = container.record()? {
            forget(&record.runtime(), container.id())?;
            self.remove_anonymous(container, &record)?;
        }
        self.remove(container, lock)
    }

    /// The same for a container whose record is damaged: it is looked for in this runtime.
    pub(crate) fn remove_damaged(&self, container: &Container, runtime: &Runtime) -> Result<()> {
        let lock = container.lock()?;
        forget(runtime, container.id())?;
        self.discard(container, &lock)?;
        self.release_all(container.id())
    }

    /// Removes the snapshot, and the directory with all that is in it.
    pub(super) fn discard(&self, container: &Container, _: &Lock<'_>) -> Result<()> {
        let snapshot = container.id().parse()?;
        let store = Store::open(&self.store)?;
        Snapshots::new(&store)?.remove(&snapshot)?;
        let failed = || format!("cannot remove {}", container.path().display());
        empty(container).context(failed)?;
        match rustix::fs::unlinkat(&self.root, container.id(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).context(failed),
        }
    }

    /// Removes what killed processes left: directories without a record that nobody holds, and names
    /// of nothing. How many.
    pub(crate) fn sweep(&self) -> Result<usize> {
        let mut removed = 0;
        for id in self.ids()? {
            let one = self.open_id(&id).and_then(|container| {
                if container.has_record() {
                    return Ok(0);
                }
                let Some(lock) = container.try_lock()? else {
                    return Ok(0);
                };
                // It may have been completed before the lock was free.
                if container.has_record() {
                    return Ok(0);
                }
                self.remove(&container, &lock).map(|()| 1)
            });
            match one {
                Ok(count) => removed += count,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed + self.release_dead()?)
    }
}

/// The runtime's state, the place on the bridge, and the monitor's directory.
pub(super) fn forget(runtime: &Runtime, id: &str) -> Result<()> {
    runtime.delete(id, true)?;
    network::disconnect(&runtime.root, id)?;
    let since = Instant::now();
    // It ends by itself, after it has written the record of the end.
    while Client::connect(&runtime.root, id).is_ok() {
        if since.elapsed() > PATIENCE {
            let text = format!("the monitor of container {id} does not end");
            return Err(Error::new(ErrorKind::Deadline, text));
        }
        std::thread::sleep(PAUSE);
    }
    monitor::remove(&runtime.root, id)
}

/// Everything in a container's directory, which has files and empty directories; the record last.
fn empty(container: &Container) -> Result<()> {
    for entry in Dir::read_from(container.fd()).context(|| "cannot list it")? {
        let entry = entry.context(|| "cannot list it")?;
        let name = entry.file_name();
        let is_record = record::files().any(|record| name.to_bytes() == record.as_bytes());
        if matches!(name.to_bytes(), b"." | b"..") || is_record {
            continue;
        }
        let flags = match entry.file_type() {
            FileType::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        unlink(container, name, flags)?;
    }
    record::files().try_for_each(|name| unlink(container, name, AtFlags::empty()))
}

fn unlink(
    container: &Container,
    name: impl rustix::path::Arg + Copy + std::fmt::Debug,
    flags: AtFlags,
) -> Result<()> {
    match rustix::fs::unlinkat(container.fd().as_fd(), name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("cannot remove {name:?}")),
    }
}
