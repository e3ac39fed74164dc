//! Finding and making places below the container's root without ever leaving it.
//!
//! openat2(2) with RESOLVE_IN_ROOT answers the common case in one call. Where something is missing
//! and has to be made, or the kernel lacks openat2, the path is walked one component at a time from
//! descriptor to descriptor, following symbolic links by their text; `..` goes back along the
//! descriptors that were walked. Neither can be led out of the root by links that change meanwhile.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::Text;

/// Longest path, in bytes, that is followed (PATH_MAX).
const PATH_MAX: usize = 4096;
/// Most directories below each other that are walked.
const DEPTH_MAX: usize = 256;
/// Most symbolic links that one walk follows; the kernel allows 40.
const LINKS_MAX: usize = 40;

/// What a place has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// A directory; a missing one is made with mode 0755.
    Directory,
    /// Something that is no directory; a missing one is made as an empty file.
    File,
}

/// How links on the way are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// Followed, inside the root.
    Follow,
    /// Refused with ELOOP: for the mount points of proc and sysfs (CVE-2019-19921).
    Refuse,
}

/// The container's root directory.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

impl Root {
    /// Takes a descriptor of the root directory.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Opens an existing place with `flags`.
    pub(crate) fn open(&self, path: &CStr, flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if links == Links::Refuse {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        let flags = flags | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat2(&self.fd, path, flags, Mode::empty(), resolve) {
                // EAGAIN: a rename somewhere below raced with a `..`; the kernel wants us to retry.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS) => {
                    let place = self.walk(path, None, links)?.0;
                    return reopen(place, flags);
                }
                answer => return answer,
            }
        }
    }

    /// An `O_PATH` descriptor of an existing place.
    pub(crate) fn find(&self, path: &CStr) -> Result<OwnedFd, Errno> {
        self.open(path, PLACE, Links::Follow)
    }

    /// An `O_PATH` descriptor of a place that is made if it is missing, and whether it was.
    pub(crate) fn ensure(
        &self,
        path: &CStr,
        want: Want,
        links: Links,
    ) -> Result<(OwnedFd, bool), Errno> {
        let flags = if want == Want::Directory {
            PLACE | OFlags::DIRECTORY
        } else {
            PLACE
        };
        match self.open(path, flags, links) {
            Ok(fd) => Ok((fd, false)),
            Err(Errno::NOENT) => match self.make_parts(path, want, links) {
                Some(fd) => Ok((fd, true)),
                None => self.walk(path, Some(want), links),
            },
            Err(errno) => Err(errno),
        }
    }

    /// Makes what is missing of a path, from the root on; `None` when that takes more than making
    /// directories (a link leads nowhere, something is in the way).
    fn make_parts(&self, path: &CStr, want: Want, links: Links) -> Option<OwnedFd> {
        if let Some(fd) = self.make_last(path, want, links) {
            return Some(fd);
        }
        let bytes = path.to_bytes();
        let ends = (1..bytes.len()).filter(|at| bytes[*at] == b'/' && bytes[at - 1] != b'/');
        let mut above = Text::<PATH_MAX>::new();
        let mut begin = 0;
        for end in ends {
            above.push(&bytes[begin..end]).ok()?;
            begin = end;
            let flags = PLACE | OFlags::DIRECTORY;
            match self.open(above.as_c_str(), flags, links) {
                Ok(_) => {}
                Err(Errno::NOENT) => {
                    drop(self.make_last(above.as_c_str(), Want::Directory, links)?);
                }
                Err(_) => return None,
            }
        }
        self.make_last(path, want, links)
    }

    /// Makes a place whose directory exists: the usual case, in few calls. Whatever is not that (more
    /// is missing, a link leads nowhere) is left to the walk.
    fn make_last(&self, path: &CStr, want: Want, links: Links) -> Option<OwnedFd> {
        let end = path.to_bytes().iter().rposition(|b| *b == b'/')?;
        let name = CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[end + 1..]).ok()?;
        if matches!(name.to_bytes(), b"" | b"." | b"..") {
            return None;
        }
        let mut above = Text::<PATH_MAX>::new();
        above.push(b"/").ok()?.push(&path.to_bytes()[..end]).ok()?;
        let directory = self
            .open(above.as_c_str(), PLACE | OFlags::DIRECTORY, links)
            .ok()?;
        create(directory.as_fd(), name, want == Want::Directory).ok()?;
        let flags = if want == Want::Directory {
            PLACE | OFlags::DIRECTORY
        } else {
            PLACE
        };
        self.open(path, flags, links).ok()
    }

    /// The directory that holds the last component of `path` (made if missing), and that component.
    pub(crate) fn parent<'p>(&self, path: &'p CStr) -> Result<(OwnedFd, &'p CStr), Errno> {
        let bytes = path.to_bytes();
        let end = bytes.iter().rposition(|b| *b == b'/').ok_or(Errno::INVAL)?;
        let name = &path.to_bytes_with_nul()[end + 1..];
        let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::INVAL)?;
        if matches!(name.to_bytes(), b"" | b"." | b"..") {
            return Err(Errno::INVAL);
        }
        let mut directory = Text::<PATH_MAX>::new();
        directory.push(b"/")?.push(&bytes[..end])?;
        let (fd, _) = self.ensure(directory.as_c_str(), Want::Directory, Links::Follow)?;
        Ok((fd, name))
    }

    fn walk(
        &self,
        path: &CStr,
        make: Option<Want>,
        links: Links,
    ) -> Result<(OwnedFd, bool), Errno> {
        let mut walk = Walk::new(path.to_bytes())?;
        let mut followed = 0;
        let mut made = false;
        while let Some(name) = walk.next()? {
            match name.as_bytes() {
                b"." => continue,
                b".." => {
                    walk.up();
                    continue;
                }
                _ => {}
            }
            let here = walk.here(self);
            let flags = PLACE | OFlags::NOFOLLOW;
            let place = match rustix::fs::openat(here, name.as_c_str(), flags, Mode::empty()) {
                Err(Errno::NOENT) if make.is_some() => {
                    let directory = make == Some(Want::Directory) || !walk.is_last();
                    create(here, name.as_c_str(), directory)?;
                    made = true;
                    rustix::fs::openat(here, name.as_c_str(), flags, Mode::empty())?
                }
                answer => answer?,
            };
            let kind = FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode);
            if kind != FileType::Symlink {
                walk.down(place)?;
                continue;
            }
            followed += 1;
            if links == Links::Refuse || followed > LINKS_MAX {
                return Err(Errno::LOOP);
            }
            walk.follow(&place)?;
        }
        let here = walk.here(self);
        if make == Some(Want::Directory) {
            return Ok((
                rustix::fs::openat(here, c".", PLACE | OFlags::DIRECTORY, Mode::empty())?,
                made,
            ));
        }
        Ok((walk.finish(self)?, made))
    }
}

fn create(directory: BorrowedFd<'_>, name: &CStr, is_directory: bool) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(0o755);
    let result = if is_directory {
        rustix::fs::mkdirat(directory, name, mode)
    } else {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(directory, name, flags, mode).map(drop)
    };
    match result {
        // Somebody else made it: what it is, is seen when it is opened.
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}

/// Opens again what an `O_PATH` descriptor stands for. Only used on kernels without openat2, before
/// the root is switched.
fn reopen(place: OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    if flags.contains(OFlags::PATH) {
        if flags.contains(OFlags::DIRECTORY) {
            return rustix::fs::openat(&place, c".", flags, Mode::empty());
        }
        return Ok(place);
    }
    if flags.contains(OFlags::DIRECTORY) {
        return rustix::fs::openat(&place, c".", flags, Mode::empty());
    }
    let path = super::fd_path(place.as_fd());
    rustix::fs::open(path.as_c_str(), flags, Mode::empty())
}

struct Walk {
    /// Directories walked, from the root downwards.
    stack: [Option<OwnedFd>; DEPTH_MAX],
    depth: usize,
    /// What is still to be walked: `rest[start..end]`.
    rest: [u8; 2 * PATH_MAX],
    start: usize,
    end: usize,
}

impl Walk {
    fn new(path: &[u8]) -> Result<Self, Errno> {
        if path.len() >= PATH_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let mut rest = [0; 2 * PATH_MAX];
        rest[..path.len()].copy_from_slice(path);
        Ok(Self {
            stack: [const { None }; DEPTH_MAX],
            depth: 0,
            rest,
            start: 0,
            end: path.len(),
        })
    }

    fn skip_slashes(&mut self) {
        while self.start < self.end && self.rest[self.start] == b'/' {
            self.start += 1;
        }
    }

    fn next(&mut self) -> Result<Option<Text<256>>, Errno> {
        self.skip_slashes();
        if self.start == self.end {
            return Ok(None);
        }
        let rest = &self.rest[self.start..self.end];
        let length = rest.iter().position(|b| *b == b'/').unwrap_or(rest.len());
        let mut name = Text::new();
        name.push(&rest[..length])?;
        self.start += length;
        self.skip_slashes();
        Ok(Some(name))
    }

    fn is_last(&self) -> bool {
        self.start == self.end
    }

    fn here<'a>(&'a self, root: &'a Root) -> BorrowedFd<'a> {
        match self
            .depth
            .checked_sub(1)
            .and_then(|top| self.stack[top].as_ref())
        {
            Some(fd) => fd.as_fd(),
            None => root.as_fd(),
        }
    }

    fn down(&mut self, place: OwnedFd) -> Result<(), Errno> {
        *self.stack.get_mut(self.depth).ok_or(Errno::NAMETOOLONG)? = Some(place);
        self.depth += 1;
        Ok(())
    }

    fn up(&mut self) {
        if let Some(top) = self.depth.checked_sub(1) {
            self.stack[top] = None;
            self.depth = top;
        }
    }

    /// Puts the text of a link in front of what is left to walk.
    fn follow(&mut self, link: &OwnedFd) -> Result<(), Errno> {
        let mut text = [0u8; PATH_MAX];
        let length = rustix::fs::readlinkat_raw(link, c"", &mut text[..])?;
        if length == text.len() {
            return Err(Errno::NAMETOOLONG);
        }
        let left = self.end - self.start;
        if length + 1 + left > self.rest.len() {
            return Err(Errno::NAMETOOLONG);
        }
        self.rest.copy_within(self.start..self.end, length + 1);
        self.rest[..length].copy_from_slice(&text[..length]);
        self.rest[length] = b'/';
        (self.start, self.end) = (0, length + 1 + left);
        if text[0] == b'/' {
            while self.depth > 0 {
                self.up();
            }
        }
        Ok(())
    }

    fn finish(mut self, root: &Root) -> Result<OwnedFd, Errno> {
        match self
            .depth
            .checked_sub(1)
            .and_then(|top| self.stack[top].take())
        {
            Some(fd) => Ok(fd),
            None => rustix::fs::openat(root, c".", PLACE, Mode::empty()),
        }
    }
}

#[cfg(test)]
mod tests;
