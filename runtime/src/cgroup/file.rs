//! One cgroup control file: read it, write it.
//!
//! Nothing here creates a file (no `O_CREAT`), so that a directory which is not on a cgroup file
//! system can never be mistaken for a cgroup: its control files do not exist.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result, kind_of};

/// Largest control file that is read; `memory.stat` and `cgroup.procs` of a big pod stay below.
const MAX_READ: usize = 64 << 20;

/// Opens a control file.
pub(super) fn open(path: &Path, flags: OFlags) -> Result<rustix::fd::OwnedFd, Errno> {
    retry(|| rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()))
}

/// Writes one value with one `write`: the kernel takes each write as one command.
pub(super) fn write(path: &Path, value: &str) -> Result<(), Errno> {
    let fd = open(path, OFlags::WRONLY)?;
    retry(|| rustix::io::write(&fd, value.as_bytes())).map(drop)
}

/// Reads a whole control file.
pub(super) fn read(path: &Path) -> Result<String, Errno> {
    let fd = open(path, OFlags::RDONLY)?;
    let mut buffer = Vec::with_capacity(4096);
    loop {
        if buffer.len() > MAX_READ {
            return Err(Errno::FBIG);
        }
        buffer.reserve(4096);
        let n = retry(|| rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut buffer)))?;
        if n == 0 {
            break;
        }
    }
    String::from_utf8(buffer).map_err(|_| Errno::ILSEQ)
}

/// Reads a file that the kernel prints in one piece (a value, /proc/PID/cgroup): one `read`, unless
/// the piece is longer than a page.
pub(super) fn read_piece(path: &Path) -> Result<String, Errno> {
    let fd = open(path, OFlags::RDONLY)?;
    let mut buffer = [0; 4096];
    let n = retry(|| rustix::io::read(&fd, &mut buffer))?;
    if n == buffer.len() {
        return read(path);
    }
    String::from_utf8(buffer[..n].to_vec()).map_err(|_| Errno::ILSEQ)
}

/// The error of a failed write, with the value and the path.
pub(super) fn write_error(path: &Path, value: &str, errno: Errno) -> Error {
    error(
        format!("cannot write {value:?} to {}", path.display()),
        errno,
    )
}

/// An error whose cause is an errno value.
pub(super) fn error(message: String, errno: Errno) -> Error {
    Error::from(errno).context(message)
}

/// As [`error`], but as one message: for texts that callers search for words of the cause.
pub(super) fn flat_error(message: &str, errno: Errno) -> Error {
    Error::new(kind_of(errno), format!("{message}: {}", words(errno)))
}

/// The words of an errno value as programs written in Go print them.
fn words(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string().to_lowercase();
    match text.find(" (os error") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

/// Writes a value and names both in the error.
pub(super) fn set(path: &Path, value: &str) -> Result<()> {
    write(path, value).map_err(|errno| write_error(path, value, errno))
}

/// [`read_piece`] that names the file in the error.
pub(super) fn get_piece(path: &Path) -> Result<String> {
    read_piece(path).map_err(|errno| error(format!("cannot read {}", path.display()), errno))
}

/// Reads a file and names it in the error.
pub(super) fn get(path: &Path) -> Result<String> {
    read(path).map_err(|errno| error(format!("cannot read {}", path.display()), errno))
}

/// The value after `key ` in a flat-keyed file.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

/// Makes a directory and its missing parents; the new ones are appended to `made`, outermost first.
/// Says whether the directory itself is new.
pub(super) fn make_dirs(path: &Path, made: &mut Vec<PathBuf>) -> Result<bool> {
    // A parent may vanish between two calls, when the container that made it is rolled back.
    let mut tries = 3;
    loop {
        match retry(|| rustix::fs::mkdir(path, Mode::from_raw_mode(0o755))) {
            Ok(()) => {
                made.push(path.to_owned());
                return Ok(true);
            }
            Err(Errno::EXIST) => return Ok(false),
            Err(Errno::NOENT) if tries > 0 => match path.parent() {
                Some(parent) => make_dirs(parent, made)?,
                None => return Err(mkdir_error(path, Errno::NOENT)),
            },
            Err(errno) => return Err(mkdir_error(path, errno)),
        };
        tries -= 1;
    }
}

fn mkdir_error(path: &Path, errno: Errno) -> Error {
    flat_error(&format!("cannot make cgroup {}", path.display()), errno)
}

/// Paths of the sub-directories, that is, of the sub-cgroups.
pub(super) fn children(dir: &Path) -> Result<Vec<PathBuf>, Errno> {
    Ok(list(dir, FileType::Directory)?
        .iter()
        .map(|name| dir.join(name))
        .collect())
}

/// Names of the control files.
pub(super) fn names(dir: &Path) -> Result<Vec<String>, Errno> {
    let names = list(dir, FileType::RegularFile)?;
    Ok(names
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .collect())
}

fn list(dir: &Path, kind: FileType) -> Result<Vec<OsString>, Errno> {
    let fd = open(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::new(fd)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if entry.file_type() == kind && name != b"." && name != b".." {
            found.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(found)
}

/// Repeats a call that was interrupted by a signal.
pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_value() {
        assert_eq!(keyed("populated 1\nfrozen 0\n", "frozen"), Some(0));
        assert_eq!(
            keyed("oom_kill_disable 0\noom_kill 7\n", "oom_kill"),
            Some(7)
        );
        assert_eq!(keyed("a 1\n", "b"), None);
    }

    #[test]
    fn words_of_errno_are_lower_case() {
        assert_eq!(words(Errno::ACCESS), "permission denied");
    }
}
