//! How a file comes to be: whole, or not at all, whatever happens.
//!
//! Write under a temporary name, sync the file, rename, sync the directory. A reader sees the old
//! file or the new one, also after a power cut (ext4 otherwise brings a renamed file back empty).
//! Paths are relative to a directory's descriptor; temporary names begin with `.new-` and belong to
//! whoever sweeps the directory when their writer is gone.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::{Context, Result};

/// What temporary names begin with.
pub const TEMPORARY: &str = ".new-";

/// Replaces a file of a directory, durably.
pub fn replace(directory: impl AsFd, name: &str, bytes: &[u8], mode: Mode) -> Result<()> {
    let directory = directory.as_fd();
    let temporary = temporary_name();
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

/// Writes a new file and syncs it, without syncing its name.
fn write_new(directory: impl AsFd, name: &str, bytes: &[u8], mode: Mode) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(directory, name, flags, mode)
        .context(|| format!("cannot create {name}"))?;
    let mut file = std::fs::File::from(file);
    file.write_all(bytes)
        .context(|| format!("cannot write {name}"))?;
    file.sync_data().context(|| format!("cannot sync {name}"))
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
