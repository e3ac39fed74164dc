//! What of a layer depends on those below, settled when they are there.
//!
//! Layers are unpacked side by side, each into a directory of its own. Two things then remain:
//! * Directories that an archive did not mention but put something into. Mounted, they cover the
//!   one below: they take over its owner, mode, attributes and times. Where there is none below,
//!   they stay as they are: 0755, of root, of 1970. Where there is a link below, the directory
//!   covers it, as with Docker's and podman's overlay drivers.
//! * Hard links to files of layers below. The file is copied up, as overlayfs itself does when a
//!   link to it is made, and both names are links to the copy.
//!
//! Links in the middle of a target are followed inside the image, the last component is not, as GNU
//! tar and containerd do it.

use std::collections::HashMap;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::attributes::{
    self, Attributes, Fresh, complete_directory, complete_file, complete_other,
};
use super::flatten::{Shift, moved};
use super::merged::{Found, Merged, is_opaque};
use super::options::Overlay;
use super::tree::{self, Place, Tree};
use crate::archive::name::{show, split};
use crate::{Context, Error, Result};

/// A hard link to a file below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The name to be made.
    pub path: Vec<u8>,
    /// The file's name.
    pub target: Vec<u8>,
}

/// What remains to be done for a layer.
#[derive(Debug, Clone)]
pub struct Pending {
    directories: Vec<Vec<u8>>,
    links: Vec<Link>,
    fresh: Fresh,
}

impl Pending {
    pub(super) fn new(directories: Vec<Vec<u8>>, links: Vec<Link>, fresh: Fresh) -> Self {
        Self {
            directories,
            links,
            fresh,
        }
    }

    /// Whether nothing remains.
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.links.is_empty()
    }

    /// The directories that the archive did not mention, parents first.
    pub fn directories(&self) -> &[Vec<u8>] {
        &self.directories
    }

    /// The links to files below.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Settles it in the layer's directory, with those of the layers below, top first. The layer is
    /// not complete before; if this fails or is interrupted it has to be unpacked again.
    pub fn settle(
        &self,
        layer: BorrowedFd<'_>,
        lowers: &[BorrowedFd<'_>],
        overlay: Overlay,
    ) -> Result<()> {
        // Most layers do not mention the root. The one below, which was settled before, knows all of it.
        let only_root = self.links.is_empty() && self.directories.iter().all(Vec::is_empty);
        let lowers = match lowers.len() {
            1.. if only_root => &lowers[..1],
            _ => lowers,
        };
        let all: Vec<_> = std::iter::once(layer)
            .chain(lowers.iter().copied())
            .collect();
        let mut settling = Settling {
            tree: Tree::new(layer)?,
            all: Merged::new(&all, overlay)?,
            lowers: Merged::new(lowers, overlay)?,
            fresh: self.fresh,
            overlay,
            copied: HashMap::new(),
            made: Vec::new(),
        };
        for link in &self.links {
            settling.link(link).map_err(|error| {
                let (path, target) = (show(&link.path), show(&link.target));
                error.context(format!("cannot link {path} to {target} of a layer below"))
            })?;
        }
        let made = std::mem::take(&mut settling.made);
        // Inner ones first: times of the outer ones stay.
        let mut directories: Vec<_> = self.directories.iter().chain(&made).collect();
        directories.sort_unstable();
        directories.dedup();
        for path in directories.into_iter().rev() {
            settling.directory(path).map_err(|error| {
                error.context(format!("cannot complete directory {}", show(path)))
            })?;
        }
        Ok(())
    }
}

struct Settling {
    tree: Tree,
    all: Merged,
    lowers: Merged,
    fresh: Fresh,
    overlay: Overlay,
    /// Files already copied, by device and inode number: where to.
    copied: HashMap<(u64, u64), Vec<u8>>,
    /// Directories made for copies.
    made: Vec<Vec<u8>>,
}

impl Settling {
    fn directory(&mut self, path: &[u8]) -> Result<()> {
        let place = self.tree.open(path)?.filter(|place| place.path == path);
        let Some(place) = place else {
            return Err(Errno::NOENT.into());
        };
        // A directory whose parents are opaque has nothing below.
        for at in path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| at)
        {
            if self.is_opaque(&path[..at])? {
                return Ok(());
            }
        }
        let Some(found) = self.lowers.find(path)? else {
            return Ok(());
        };
        if !found.is_directory() || found.path != path || self.is_opaque(path)? {
            return Ok(());
        }
        let extended = attributes::read_extended(found.file.as_fd())?;
        let attributes = attributes::of_stat(&found.stat, extended);
        let fd = tree::readable(&place.fd).context(|| "cannot open it")?;
        complete_directory(fd.as_fd(), &attributes, self.fresh, &mut 0)
    }

    fn is_opaque(&mut self, path: &[u8]) -> Result<bool> {
        match self.tree.open(path)? {
            None => Ok(false),
            Some(place) => {
                let fd = tree::readable(&place.fd).context(|| "cannot open a directory")?;
                is_opaque(fd.as_fd(), self.overlay)
            }
        }
    }

    fn link(&mut self, link: &Link) -> Result<()> {
        // This layer may hold the target meanwhile, by a link before this one, or have deleted it.
        self.all.forget();
        let Some(found) = self.all.find(&link.target)? else {
            return Err(Errno::NOENT.into());
        };
        if found.is_directory() {
            return Err(Error::invalid("it is a directory"));
        }
        let source = if found.layer == 0 {
            found.path
        } else {
            self.copy_up(found)?
        };
        let (parent, name) = split(&source);
        let from = self.place(parent)?;
        let (parent, last) = split(&link.path);
        let to = self.place(parent)?;
        let make = || rustix::fs::linkat(&from.fd, name, &to.fd, last, AtFlags::empty());
        match make() {
            Err(Errno::EXIST) => {
                if source == link.path {
                    return Ok(());
                }
                tree::remove(to.fd.as_fd(), last)?;
                make().context(|| "linkat")
            }
            other => other.context(|| "linkat"),
        }
    }

    fn place(&mut self, path: &[u8]) -> Result<Place> {
        let made = &mut self.made;
        self.tree.open_or_make(path, &mut |path, _| {
            made.push(path.to_vec());
            Ok(())
        })
    }

    /// Copies a file of a layer below to its own path in this one.
    fn copy_up(&mut self, found: Found) -> Result<Vec<u8>> {
        let inode = (found.stat.st_dev, found.stat.st_ino);
        if let Some(path) = self.copied.get(&inode) {
            return Ok(path.clone());
        }
        let (parent, name) = split(&found.path);
        let place = self.place(parent)?;
        let at = place.fd.as_fd();
        copy(&found, at, name, self.fresh, &|uid, gid| Some((uid, gid)))?;
        self.copied.insert(inode, found.path.clone());
        Ok(found.path)
    }
}

/// Copies a file of any kind but a directory.
pub(super) fn copy(
    found: &Found,
    at: BorrowedFd<'_>,
    name: &[u8],
    fresh: Fresh,
    shift: &Shift<'_>,
) -> Result<()> {
    let kind = FileType::from_raw_mode(found.stat.st_mode);
    let mode = Mode::from(found.stat.st_mode & 0o777);
    if kind == FileType::RegularFile {
        let source = tree::proc_path(found.file.as_fd())?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let source = rustix::fs::open(source, flags, Mode::empty()).context(|| "cannot open it")?;
        let mut attributes =
            attributes::of_stat(&found.stat, attributes::read_extended(source.as_fd())?);
        moved(&mut attributes, shift)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let copy = rustix::fs::openat(at, name, flags, mode).context(|| "cannot create a copy")?;
        copy_data(
            source,
            copy.try_clone()
                .context(|| "cannot duplicate a descriptor")?,
        )?;
        return complete_file(copy.as_fd(), &attributes, fresh, &mut 0);
    }
    let extended = attributes::read_extended_of(found.file.as_fd())?;
    let mut attributes: Attributes = attributes::of_stat(&found.stat, extended);
    moved(&mut attributes, shift)?;
    let is_link = kind == FileType::Symlink;
    if is_link {
        let target = rustix::fs::readlinkat(&found.file, c"", Vec::new())
            .context(|| "cannot read a link")?;
        rustix::fs::symlinkat(&*target, at, name).context(|| "cannot create a link")?;
    } else {
        rustix::fs::mknodat(at, name, kind, mode, found.stat.st_rdev)
            .context(|| "cannot create a node")?;
    }
    complete_other(at, name, &attributes, fresh, is_link, &mut 0)
}

fn copy_data(source: OwnedFd, copy: OwnedFd) -> Result<()> {
    // The library uses copy_file_range, which shares blocks where the file system can.
    let (mut source, mut copy) = (std::fs::File::from(source), std::fs::File::from(copy));
    let stat = source.metadata().context(|| "cannot examine it")?;
    if stat.blocks() * 512 >= stat.len() {
        std::io::copy(&mut source, &mut copy).context(|| "cannot copy it")?;
        return Ok(());
    }
    let mut copy_pieces = || -> std::io::Result<()> {
        let mut at = 0;
        loop {
            let start = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
                // Nothing but a hole is left.
                Err(Errno::NXIO) => break,
                other => other?,
            };
            let end = rustix::fs::seek(&source, SeekFrom::Hole(start))?;
            rustix::fs::seek(&source, SeekFrom::Start(start))?;
            rustix::fs::seek(&copy, SeekFrom::Start(start))?;
            std::io::copy(&mut (&mut source).take(end - start), &mut copy)?;
            at = end;
        }
        copy.set_len(stat.len())
    };
    copy_pieces().context(|| "cannot copy it")
}
