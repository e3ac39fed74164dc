//! How a file comes to be: whole, or not at all, whatever happens.
//!
//! Write under a temporary name, sync the file, rename, sync the directory. A reader sees the old
//! file or the new one, also after a power cut (ext4 otherwise brings a renamed file back empty).
//! Paths are relative to a directory's descriptor; temporary names begin with `.new-` and belong to
//! whoever sweeps the directory when their writer is gone.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::{Context, Error, ErrorKind, Result};

/// What temporary names begin with.
pub const TEMPORARY: &str = ".new-";

/// Replaces a file of a directory, durably.
pub fn replace(directory: impl AsFd, name: &str, bytes: &[u8], mode: Mode) -> Result<()> {
    let directory = directory.as_fd();
    let temporary = temporary_name();
    let _kept = keep(directory, name);
    let written = write_new(directory, &temporary, bytes, mode).and_then(|()| {
        rustix::fs::renameat(directory, &temporary, directory, name)
            .context(|| format!("cannot rename {temporary} to {name}"))
    });
    if written.is_err() {
        // The original error matters more; what remains is swept by its name.
        let _ = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty());
    }
    written?;
    sync_directory(directory)
}

/// Replaces a file of a directory, whole for everybody, but without waiting for the disk: after a power
/// cut it may be the old one, the new one, or empty. For what is checked when it is read, and can be made
/// again.
pub fn replace_unsynced(directory: impl AsFd, name: &str, bytes: &[u8], mode: Mode) -> Result<()> {
    let directory = directory.as_fd();
    let temporary = temporary_name();
    let written = create(directory, &temporary, bytes, mode).and_then(|_| {
        rustix::fs::renameat(directory, &temporary, directory, name)
            .context(|| format!("cannot rename {temporary} to {name}"))
    });
    if written.is_err() {
        // The original error matters more; what remains is swept by its name.
        let _ = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty());
    }
    written
}

/// Removes a file of a directory, durably; whether there was one. Needs no space.
pub fn remove(directory: impl AsFd, name: &str) -> Result<bool> {
    let directory = directory.as_fd();
    let _kept = keep(directory, name);
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) => sync_directory(directory).map(|()| true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).context(|| format!("cannot remove {name}")),
    }
}

/// Nobody else gets the blocks of what has this name now, while this lives: what a power cut brings
/// back is then as it was, on any file system (see `removal`).
fn keep(directory: BorrowedFd<'_>, name: &str) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty()).ok()
}

/// Writes a new file and syncs it, without syncing its name.
pub(crate) fn write_new(directory: impl AsFd, name: &str, bytes: &[u8], mode: Mode) -> Result<()> {
    let file = create(directory, name, bytes, mode)?;
    file.sync_data().context(|| format!("cannot sync {name}"))
}

/// Writes a new file, without syncing anything.
pub(crate) fn create(directory: impl AsFd, name: &str, bytes: &[u8], mode: Mode) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(directory, name, flags, mode)
        .context(|| format!("cannot create {name}"))?;
    let mut file = File::from(file);
    file.write_all(bytes)
        .context(|| format!("cannot write {name}"))?;
    Ok(file)
}

/// Reads a small regular file of a directory; none if there is none.
pub fn read(directory: impl AsFd, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let Some(file) = open_file(directory, name)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    (&file)
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .context(|| format!("cannot read {name}"))?;
    if bytes.len() as u64 > limit {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("cannot read {name}: it is longer than {limit} bytes"),
        ));
    }
    Ok(Some(bytes))
}

/// Opens a regular file of a directory for reading, never anything else; none if there is none.
pub fn open_file(directory: impl AsFd, name: &str) -> Result<Option<File>> {
    // Without NONBLOCK a fifo in the place of the file would block whoever opens it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno).context(|| format!("cannot open {name}")),
    };
    let stat = rustix::fs::fstat(&file).context(|| format!("cannot stat {name}"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("cannot open {name}: it is not a regular file"),
        ));
    }
    Ok(Some(file))
}

/// Makes the names in a directory durable.
pub fn sync_directory(directory: impl AsFd) -> Result<()> {
    // An O_PATH descriptor cannot be synced; opening "." again also works for those.
    let readable = open_directory(directory, ".")?;
    rustix::fs::fsync(&readable).context(|| "cannot sync a directory")
}

/// Opens a directory below another one, without following a link in the last component.
pub fn open_directory(at: impl AsFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(at, name, flags, Mode::empty())
        .context(|| format!("cannot open directory {name}"))
}

/// A name that nobody else uses.
pub fn temporary_name() -> String {
    let mut random = [0_u8; 8];
    // The flag makes no difference after boot; a shorter answer is impossible up to 256 bytes.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    format!(
        "{TEMPORARY}{}-{:016x}",
        std::process::id(),
        u64::from_ne_bytes(random)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(directory.path()).unwrap();
        for text in ["one", "two"] {
            replace(&fd, "record.json", text.as_bytes(), Mode::from(0o600)).unwrap();
            let read = std::fs::read_to_string(directory.path().join("record.json")).unwrap();
            assert_eq!(read, text);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        std::fs::create_dir(directory.path().join("taken")).unwrap();
        replace(&fd, "taken", b"x", Mode::from(0o600)).unwrap_err();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
