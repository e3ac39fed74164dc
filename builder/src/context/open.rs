//! Directories below a descriptor, opened without following links and without many descriptors.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use rcrun_overlay::archive::limits::PATH_BYTES;
use rcrun_overlay::archive::name::show;

use crate::{Context, Error, Result};

/// Directories below each other that are open at the same time.
const LEVELS: usize = 40;
/// Links followed in one path, as many as the kernel follows.
pub(super) const LINKS: usize = 40;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens a directory by a path without links; the empty one is the directory itself.
pub(super) fn directory(at: impl AsFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    beneath(at.as_fd(), path, DIRECTORY)
}

/// Opens something by a path without links.
pub(super) fn beneath(
    at: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    if path.len() > PATH_BYTES {
        return Err(Errno::NAMETOOLONG);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    loop {
        match rustix::fs::openat2(at, path, flags, Mode::empty(), resolve) {
            // Somebody renamed a directory meanwhile.
            Err(Errno::AGAIN) => {}
            // Before Linux 5.6, or in a sandbox that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => return by_names(at, path, flags),
            other => return other,
        }
    }
}

fn by_names(at: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(end) => (&path[..end], &path[end + 1..]),
        None => (&b""[..], path),
    };
    let mut open: Option<OwnedFd> = None;
    for part in above.split(|byte| *byte == b'/') {
        if part == b".." {
            return Err(Errno::XDEV);
        }
        if !part.is_empty() {
            let at = open.as_ref().map_or(at, AsFd::as_fd);
            open = Some(rustix::fs::openat(at, part, DIRECTORY, Mode::empty())?);
        }
    }
    let at = open.as_ref().map_or(at, AsFd::as_fd);
    rustix::fs::openat(at, name, flags | OFlags::NOFOLLOW, Mode::empty())
}

/// Opens directories of a tree one after the other, those near the last one cheaply.
#[derive(Debug)]
pub(super) struct Opener {
    root: Arc<OwnedFd>,
    open: VecDeque<(Vec<u8>, Arc<OwnedFd>)>,
}

impl Opener {
    pub(super) fn new(root: Arc<OwnedFd>) -> Self {
        let open = VecDeque::new();
        Self { root, open }
    }

    /// Opens a directory by its path from the root.
    pub(super) fn get(&mut self, path: &[u8]) -> rustix::io::Result<Arc<OwnedFd>> {
        while let Some((above, fd)) = self.open.back() {
            if above == path {
                return Ok(Arc::clone(fd));
            }
            if !above.is_empty() && path.starts_with(above) && path[above.len()] == b'/' {
                break;
            }
            self.open.pop_back();
        }
        if path.is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        let fd = match self.open.back() {
            Some((above, fd)) => directory(fd, &path[above.len() + 1..])?,
            None => directory(&self.root, path)?,
        };
        let fd = Arc::new(fd);
        if self.open.len() >= LEVELS {
            self.open.pop_front();
        }
        self.open.push_back((path.to_vec(), Arc::clone(&fd)));
        Ok(fd)
    }
}

/// The names in a directory, sorted, without `.` and `..`.
pub(super) fn names(directory: BorrowedFd<'_>) -> Result<Vec<Box<[u8]>>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory).context(|| "cannot list it")? {
        let entry = entry.context(|| "cannot list it")?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.into());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// What a name is, links not followed; none if there is nothing.
pub(super) fn stat(at: impl AsFd, name: &[u8]) -> Result<Option<Stat>> {
    match rustix::fs::statat(at, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).context(|| format!("cannot examine {}", show(name))),
    }
}

/// A link's target.
pub(super) fn link(at: impl AsFd, name: &[u8]) -> Result<Vec<u8>> {
    let target = rustix::fs::readlinkat(at, name, Vec::new());
    let target = target.context(|| format!("cannot read link {}", show(name)))?;
    Ok(target.into_bytes())
}

/// The names of a path; empty ones and `.` mean nothing.
pub(super) fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let parts = path.split(|byte| *byte == b'/');
    parts.filter(|part| !part.is_empty() && *part != b".")
}

/// An absolute path in which `..` was taken back, joined without its first slash.
pub(super) fn absolute(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for part in parts(path) {
        match part {
            b".." => {
                names.pop();
            }
            part => names.push(part),
        }
    }
    names.join(&b'/')
}

/// An error about a path that has too many links.
pub(super) fn too_many_links(path: &[u8]) -> Error {
    Error::invalid(format!("refuse {}: more than {LINKS} links", show(path)))
}
