//! Directories inside a layer, opened safely and kept for the next entry.
//!
//! A path is opened with openat2 and no links allowed. Where a component is a link, components are
//! opened one by one without following any; links are read and followed here, as in a chroot: `/`
//! is the layer's root and nothing is above it. GNU tar, Docker and containerd follow links of the
//! same archive too; what is reached is always inside, also when somebody exchanges directories.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::archive::limits::PATH_BYTES;
use crate::archive::name::{join, show};
use crate::{Context, Error, ErrorKind, Result};

/// Directories kept open.
const KEPT: usize = 64;
/// Links followed in one path, as many as the kernel follows.
const LINKS: usize = 40;

/// The directories of a layer.
#[derive(Debug)]
pub struct Tree {
    root: Rc<OwnedFd>,
    kept: HashMap<Box<[u8]>, (Rc<OwnedFd>, u64)>,
    clock: u64,
}

/// Is told of directories that had to be made, parents first.
type Made<'a> = &'a mut dyn FnMut(&[u8], Instead) -> Result<()>;

/// What a directory was made instead of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    /// Nothing.
    Nothing,
    /// Overlayfs's mark for a deleted file.
    Deletion,
}

/// A directory and its path without links.
#[derive(Debug)]
pub struct Place {
    /// An O_PATH descriptor.
    pub fd: Rc<OwnedFd>,
    /// Relative to the root.
    pub path: Vec<u8>,
}

impl Tree {
    /// Of the layer in this directory.
    pub fn new(root: BorrowedFd<'_>) -> Result<Self> {
        let root = open_component(root, b".").context(|| "cannot open the directory of a layer")?;
        Ok(Self {
            root: Rc::new(root),
            kept: HashMap::new(),
            clock: 0,
        })
    }

    /// Opens a directory; nothing if it does not exist.
    pub fn open(&mut self, path: &[u8]) -> Result<Option<Place>> {
        self.find(path, &mut None)
    }

    /// Opens a directory; missing ones are made and handed to `made`, parents first.
    pub fn open_or_make(&mut self, path: &[u8], made: Made<'_>) -> Result<Place> {
        let place = self.find(path, &mut Some(made))?;
        place.ok_or_else(|| {
            let path = show(path);
            Error::new(
                ErrorKind::NotFound,
                format!("cannot open directory {path} of a layer"),
            )
        })
    }

    fn find(&mut self, path: &[u8], made: &mut Option<Made<'_>>) -> Result<Option<Place>> {
        if path.is_empty() {
            return Ok(Some(Place {
                fd: Rc::clone(&self.root),
                path: Vec::new(),
            }));
        }
        self.clock += 1;
        if let Some((fd, used)) = self.kept.get_mut(path) {
            *used = self.clock;
            return Ok(Some(Place {
                fd: Rc::clone(fd),
                path: path.to_vec(),
            }));
        }
        let place = match open_path(self.root.as_fd(), path) {
            Ok(fd) => Place {
                fd: Rc::new(fd),
                path: path.to_vec(),
            },
            Err(Errno::NOENT) if made.is_none() => return Ok(None),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NOSYS | Errno::PERM) => {
                match self.walk(path, made)? {
                    Some(place) => place,
                    None => return Ok(None),
                }
            }
            Err(errno) => {
                return Err(errno).context(|| format!("cannot open directory {}", show(path)));
            }
        };
        self.keep(&place);
        Ok(Some(place))
    }

    fn walk(&mut self, path: &[u8], made: &mut Option<Made<'_>>) -> Result<Option<Place>> {
        let context = || format!("cannot open directory {} of a layer", show(path));
        let mut todo: VecDeque<Vec<u8>> = parts(path).collect();
        let mut done: Vec<(Vec<u8>, Rc<OwnedFd>)> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == b".." {
                done.pop();
                continue;
            }
            let at = done.last().map_or(&self.root, |(_, fd)| fd);
            let missing = match open_component(at.as_fd(), &part) {
                Ok(fd) => {
                    done.push((part, Rc::new(fd)));
                    continue;
                }
                Err(Errno::NOENT) => Some(Instead::Nothing),
                Err(Errno::LOOP | Errno::NOTDIR) if is_deletion(at.as_fd(), &part) => {
                    Some(Instead::Deletion)
                }
                Err(Errno::LOOP | Errno::NOTDIR) => None,
                Err(errno) => return Err(errno).context(context),
            };
            if let Some(instead) = missing {
                let Some(made) = made else { return Ok(None) };
                let new = canonical(&done, &part)?;
                if instead == Instead::Deletion {
                    rustix::fs::unlinkat(at, &*part, AtFlags::empty()).context(context)?;
                }
                rustix::fs::mkdirat(at, &*part, Mode::from(0o755)).context(context)?;
                made(&new, instead)?;
                todo.push_front(part);
                continue;
            }
            // EINVAL: neither directory nor link.
            let target = match rustix::fs::readlinkat(at, &*part, Vec::new()) {
                Err(Errno::INVAL) => return Err(Errno::NOTDIR).context(context),
                other => other.context(context)?.into_bytes(),
            };
            links += 1;
            if links > LINKS {
                return Err(Errno::LOOP).context(context);
            }
            if target.starts_with(b"/") {
                done.clear();
            }
            for part in parts(&target).rev() {
                todo.push_front(part);
            }
        }
        let path = canonical(&done, b"")?;
        let fd = done
            .pop()
            .map_or_else(|| Rc::clone(&self.root), |(_, fd)| fd);
        Ok(Some(Place { fd, path }))
    }

    fn keep(&mut self, place: &Place) {
        if place.path.is_empty() {
            return;
        }
        if self.kept.len() >= KEPT {
            let oldest = self.kept.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(path) = oldest.map(|(path, _)| path.clone()) {
                self.kept.remove(&path);
            }
        }
        self.kept.insert(
            place.path.clone().into(),
            (Rc::clone(&place.fd), self.clock),
        );
    }

    /// Forgets a directory and all below it: it is no longer there.
    pub fn forget(&mut self, path: &[u8]) {
        self.kept.retain(|kept, _| !is_within(kept, path));
    }
}

/// Whether `path` is `parent` or below it.
pub fn is_within(path: &[u8], parent: &[u8]) -> bool {
    let rest = path.strip_prefix(parent);
    rest.is_some_and(|rest| parent.is_empty() || rest.is_empty() || rest[0] == b'/')
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    let parts = path.split(|byte| *byte == b'/');
    parts
        .filter(|part| !part.is_empty() && part != b".")
        .map(<[u8]>::to_vec)
}

fn canonical(done: &[(Vec<u8>, Rc<OwnedFd>)], last: &[u8]) -> Result<Vec<u8>> {
    let names = done.iter().map(|(name, _)| &**name);
    let names: Vec<&[u8]> = names.chain((!last.is_empty()).then_some(last)).collect();
    let path = names.join(&b'/');
    if path.len() > PATH_BYTES {
        return Err(Error::invalid(
            "refuse a path longer than 4095 bytes in a layer",
        ));
    }
    Ok(path)
}

const DIRECTORY: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A path without any link, on the file system of the layer.
fn open_path(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    loop {
        match rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), resolve) {
            // Somebody renamed a directory meanwhile.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// A single name, or `.`.
fn open_component(at: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    match open_path(at, name) {
        // Before Linux 5.6, or in a sandbox that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(at, name, DIRECTORY, Mode::empty()),
        other => other,
    }
}

/// Whether a name is overlayfs's mark for a deleted file.
fn is_deletion(at: BorrowedFd<'_>, name: &[u8]) -> bool {
    let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| is_whiteout(&stat))
}

/// Whether a file of a layer is the mark for a deleted one: overlayfs's own, or a socket, which no
/// archive can have, where the file system does not let us make that ([`super::store::Record::stand_ins`]).
pub fn is_whiteout(stat: &Stat) -> bool {
    is_kernels_whiteout(stat) || FileType::from_raw_mode(stat.st_mode) == FileType::Socket
}

/// Whether a file is overlayfs's own mark for a deleted one.
pub fn is_kernels_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Opens what an O_PATH descriptor of a directory stands for, to read it or to change it.
pub fn readable(directory: impl AsFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(directory, c".", flags, Mode::empty())
}

/// The names in a directory, sorted.
pub fn names(directory: impl AsFd) -> Result<Vec<Vec<u8>>> {
    let directory = readable(directory).context(|| "cannot open a directory of a layer")?;
    let names = crate::tree::names(directory)?.into_iter();
    let mut names: Vec<_> = names.map(std::ffi::CString::into_bytes).collect();
    names.sort_unstable();
    Ok(names)
}

/// Removes a file or a directory with all it contains, following nothing.
pub fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let context = || format!("cannot remove {} from a layer", show(name));
    let name = std::ffi::CString::new(name)
        .map_err(|_| Error::invalid("a name has a zero byte"))
        .context(context)?;
    crate::tree::remove(parent, &name).context(context)
}

/// A path to what a descriptor stands for, for calls that know paths only. It leads to the file
/// itself, also if that is a link; checked to be the kernel's.
pub fn proc_path(fd: BorrowedFd<'_>) -> Result<String> {
    use std::os::fd::AsRawFd;
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::openat(CWD, c"/proc/self/fd", flags, Mode::empty())
        .context(|| "cannot open /proc/self/fd")?;
    let magic = rustix::fs::fstatfs(&proc)
        .context(|| "cannot examine /proc/self/fd")?
        .f_type;
    if magic != PROC_SUPER_MAGIC {
        return Err(Error::unsupported("/proc is no proc file system"));
    }
    Ok(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Opens a file of any kind to refer to it, never to use it: no device is touched by that.
pub fn refer(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
        .context(|| format!("cannot open {} of a layer", show(name)))
}

/// The path of a name in a place.
pub fn path_in(place: &Place, name: &[u8]) -> Result<Vec<u8>> {
    let path = join(&place.path, name);
    if path.len() > PATH_BYTES {
        return Err(Error::invalid(
            "refuse a path longer than 4095 bytes in a layer",
        ));
    }
    Ok(path)
}
