//! An archive, as a tree below a directory that exists.
//!
//! A directory is never replaced by a file, nor a file by a directory. A file that is there is removed and
//! made anew: what else has it open or linked keeps it as it was.

use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rcrun_overlay::archive::name::{join, normalise, show, split};
use rcrun_overlay::archive::{Entry, Kind, Reader};
use rcrun_overlay::layer::attributes::{
    Attributes, Fresh, complete_directory, complete_file, complete_other,
};
use rcrun_overlay::layer::tree::readable;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::containers::root::open_in;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Where the tree is made.
#[derive(Debug)]
pub(crate) enum Base<'a> {
    /// Below a path in a container: its links are followed as a process inside would.
    Container { root: BorrowedFd<'a>, path: Vec<u8> },
    /// Below a directory of the host: no link is followed, since a container may have made it.
    Host(OwnedFd),
}

/// How it is made.
pub(crate) struct Unpacking<'a> {
    /// All files' owner and group.
    pub(crate) owner: Option<(u32, u32)>,
    /// Else the id to set for the one in the archive.
    pub(crate) id: &'a dyn Fn(u32) -> Option<u32>,
    /// What gives files power over the machine stays: set-user-id bits, capabilities, device nodes.
    pub(crate) powerful: bool,
}

impl std::fmt::Debug for Unpacking<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Unpacking");
        shown.field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// Unpacks everything; what was left out, if anything.
pub(crate) fn unpack<R: BufRead>(
    base: Base<'_>,
    reader: &mut Reader<R>,
    unpacking: &Unpacking<'_>,
) -> Result<Vec<String>> {
    let mut unpacker = Unpacker {
        base,
        unpacking,
        fresh: Fresh {
            // Whatever ours is, modes are set.
            umask: 0o777,
            owner: None,
            chown: rustix::process::geteuid().is_root(),
        },
        kept: None,
        directories: Vec::new(),
        left_out: Vec::new(),
    };
    while let Some(entry) = reader.next_entry()? {
        let path = show(&entry.path);
        unpacker
            .entry(entry, reader)
            .context(|| format!("cannot make {path}"))?;
    }
    unpacker.finish()
}

struct Unpacker<'a> {
    base: Base<'a>,
    unpacking: &'a Unpacking<'a>,
    fresh: Fresh,
    /// The last directory that something was made in.
    kept: Option<(Vec<u8>, OwnedFd)>,
    /// Directories that were made, and what they are to be like when nothing more is made in them.
    directories: Vec<(Vec<u8>, Attributes)>,
    left_out: Vec<String>,
}

impl Unpacker<'_> {
    fn entry<R: BufRead>(&mut self, mut entry: Entry, reader: &mut Reader<R>) -> Result<()> {
        let path = std::mem::take(&mut entry.path);
        if path.is_empty() {
            // The directory that everything goes into stays as it is.
            return Ok(());
        }
        let is_device = matches!(entry.kind, Kind::Character(..) | Kind::Block(..));
        if is_device && !self.unpacking.powerful {
            self.left_out.push(format!("device {}", show(&path)));
            return Ok(());
        }
        self.restrict(&mut entry)?;
        let (parent, name) = split(&path);
        self.enter(parent)?;
        let Some((_, directory)) = &self.kept else {
            return Ok(());
        };
        let at = directory.as_fd();
        match &entry.kind {
            Kind::Directory => {
                if make_directory(at, name, &self.base)? {
                    self.directories.push((path, entry.into()));
                }
                return Ok(());
            }
            Kind::Hardlink(target) => {
                let target = normalise(target)?;
                let (parent, last) = split(&target);
                let from = open_directory(&self.base, parent)?;
                make_room(at, name)?;
                return rustix::fs::linkat(&from, last, at, name, AtFlags::empty())
                    .context(|| format!("cannot link it to {}", show(&target)));
            }
            _ => make_room(at, name)?,
        }
        let mode = Mode::from(0o600);
        let node = |kind, device| rustix::fs::mknodat(at, name, kind, mode, device);
        match &entry.kind {
            Kind::Regular => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = rustix::fs::openat(at, name, flags, mode)?;
                write(&file, &entry, reader)?;
                return complete_file(file.as_fd(), &entry.into(), self.fresh, &mut 0);
            }
            Kind::Symlink(target) => rustix::fs::symlinkat(&**target, at, name)?,
            Kind::Fifo => node(FileType::Fifo, 0)?,
            Kind::Character(major, minor) => {
                node(
                    FileType::CharacterDevice,
                    rustix::fs::makedev(*major, *minor),
                )?;
            }
            Kind::Block(major, minor) => {
                node(FileType::BlockDevice, rustix::fs::makedev(*major, *minor))?;
            }
            Kind::Directory | Kind::Hardlink(_) => {}
        }
        let is_link = matches!(entry.kind, Kind::Symlink(_));
        complete_other(at, name, &entry.into(), self.fresh, is_link, &mut 0)
    }

    /// Owner and rights as they are to be made.
    fn restrict(&self, entry: &mut Entry) -> Result<()> {
        let missing = |id: u32| Error::invalid(format!("the container has no id {id}"));
        let id = |id: u32| (self.unpacking.id)(id).ok_or_else(|| missing(id));
        (entry.uid, entry.gid) = match self.unpacking.owner {
            Some(owner) => owner,
            None => (id(entry.uid)?, id(entry.gid)?),
        };
        if !self.unpacking.powerful {
            entry.mode &= 0o1777;
            entry
                .attributes
                .retain(|(name, _)| name.starts_with(b"user."));
        }
        Ok(())
    }

    /// Opens a directory that something is to be made in; missing ones are made.
    fn enter(&mut self, path: &[u8]) -> Result<()> {
        if self.kept.as_ref().is_some_and(|(kept, _)| kept == path) {
            return Ok(());
        }
        let opened = match open_directory(&self.base, path) {
            Err(error) if error.kind() == ErrorKind::NotFound && !path.is_empty() => {
                let (parent, name) = split(path);
                self.enter(parent)?;
                if let Some((_, directory)) = &self.kept {
                    make_directory(directory.as_fd(), name, &self.base)?;
                }
                open_directory(&self.base, path)?
            }
            other => other?,
        };
        self.kept = Some((path.to_vec(), opened));
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<String>> {
        while let Some((path, attributes)) = self.directories.pop() {
            let failed = || format!("cannot complete directory {}", show(&path));
            let directory = open_directory(&self.base, &path).context(failed)?;
            let directory = readable(&directory).context(failed)?;
            complete_directory(directory.as_fd(), &attributes, self.fresh, &mut 0)
                .context(failed)?;
        }
        Ok(self.left_out)
    }
}

fn open_directory(base: &Base<'_>, path: &[u8]) -> Result<OwnedFd> {
    let failed = || format!("cannot open directory {}", show(path));
    match base {
        Base::Container { root, path: base } => {
            open_in(*root, &join(base, path), DIRECTORY).context(failed)
        }
        Base::Host(base) => {
            let mut directory = base.try_clone()?;
            for part in path
                .split(|byte| *byte == b'/')
                .filter(|part| !part.is_empty())
            {
                let flags = DIRECTORY | OFlags::NOFOLLOW;
                directory = match rustix::fs::openat(&directory, part, flags, Mode::empty()) {
                    Err(Errno::LOOP | Errno::NOTDIR) => return Err(no_directory()).context(failed),
                    other => other.context(failed)?,
                };
            }
            Ok(directory)
        }
    }
}

/// Makes a directory; false if there is one already.
fn make_directory(at: BorrowedFd<'_>, name: &[u8], base: &Base<'_>) -> Result<bool> {
    match rustix::fs::mkdirat(at, name, Mode::from(0o755)) {
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let stat = rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match (FileType::from_raw_mode(stat.st_mode), base) {
        (FileType::Directory, _) => Ok(false),
        // Whether it leads to a directory is seen when something is made in it.
        (FileType::Symlink, Base::Container { .. }) => Ok(false),
        _ => Err(no_directory()),
    }
}

fn no_directory() -> Error {
    Error::new(
        ErrorKind::FailedPrecondition,
        "what is there is not a directory",
    )
}

/// Removes a file of that name.
fn make_room(at: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(Error::new(
            ErrorKind::FailedPrecondition,
            "what is there is a directory",
        )),
        Err(errno) => Err(errno).context(|| "cannot replace what is there"),
    }
}

fn write<R: BufRead>(file: &OwnedFd, entry: &Entry, reader: &mut Reader<R>) -> Result<()> {
    let whole = [rcrun_overlay::archive::sparse::Piece {
        offset: 0,
        length: entry.size,
    }];
    for piece in entry.map.as_deref().unwrap_or(&whole) {
        let mut done = 0;
        while done < piece.length {
            let data = reader.data()?;
            let left = usize::try_from(piece.length - done).unwrap_or(data.len());
            let data = &data[..data.len().min(left)];
            if data.is_empty() {
                return Err(Error::new(ErrorKind::Corrupt, "the archive ends too early"));
            }
            let count =
                rustix::io::retry_on_intr(|| rustix::io::pwrite(file, data, piece.offset + done))?;
            reader.consume(count);
            done += count as u64;
        }
    }
    rustix::fs::ftruncate(file, entry.size)?;
    Ok(())
}
