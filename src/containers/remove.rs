//! Removing a container: in an order in which being killed anywhere leaves something that the same
//! verb removes again, and that needs no space on the disk.
//!
//! First what is elsewhere (processes, runtime state, monitor, snapshot), while the record still
//! says where; then the files, the record last of them; then the name; then the directory. Without
//! a record it is no container any more, and its name is free.

use std::os::fd::AsFd;
use std::path::Path;

use rcrun_runtime::container::Runtime;
use rcrun_runtime::error::{Context, ErrorKind, Result};
use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::{Container, Containers, Lock, record};

/// Where the runtime's root has the monitors' directories.
pub(crate) const MONITORS: &str = ".monitors";

impl Containers {
    /// Removes a container whose processes are gone, with its state, its snapshot and its name.
    pub(crate) fn remove(&self, container: &Container, lock: &Lock<'_>) -> Result<()> {
        let record = container.record()?;
        if let Some(record) = &record {
            let runtime = record.runtime();
            forget(&runtime, container.id())?;
        }
        self.discard(container, lock)?;
        match &record {
            Some(record) => self.release(&record.name, container.id()),
            None => self.release_all(container.id()),
        }
    }

    /// Removes the directory with all that is in it.
    pub(super) fn discard(&self, container: &Container, _: &Lock<'_>) -> Result<()> {
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
                if container.has(record::FILE) {
                    return Ok(0);
                }
                let Some(lock) = container.try_lock()? else {
                    return Ok(0);
                };
                // It may have been completed before the lock was free.
                if container.has(record::FILE) {
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
        Ok(removed)
    }
}

/// The runtime's state and the monitor's directory.
fn forget(runtime: &Runtime, id: &str) -> Result<()> {
    runtime.delete(id, true)?;
    let path = runtime.root.join(MONITORS).join(id);
    flat(&path).context(|| format!("cannot remove {}", path.display()))
}

/// Removes a directory that has no directories.
fn flat(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Everything in a container's directory, which has files and empty directories; the record last.
fn empty(container: &Container) -> Result<()> {
    for entry in Dir::read_from(container.fd()).context(|| "cannot list it")? {
        let entry = entry.context(|| "cannot list it")?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") || name.to_bytes() == record::FILE.as_bytes() {
            continue;
        }
        let flags = match entry.file_type() {
            FileType::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        unlink(container, name, flags)?;
    }
    unlink(container, record::FILE, AtFlags::empty())
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
