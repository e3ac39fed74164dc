//! Looks into a stack of layers as overlayfs would show it, without a mount.
//!
//! A name is that of the topmost layer that has it; directories of the same path merge down to a
//! deletion, an opaque directory or anything that is no directory. Links in the middle of a path
//! are followed inside the stack, as in a chroot; the last component is not followed.

use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::attributes::{Fresh, complete_directory, of_stat, read_extended};
use super::options::Overlay;
use super::tree::is_whiteout;
use super::tree::{self, names};
use crate::archive::name::show;
use crate::{Context, Result};

/// Links followed in one path.
const LINKS: usize = 40;

/// The directories that merge at one path, top first.
type Level = Rc<Vec<(usize, OwnedFd)>>;
/// A directory, if there is one, and its path without links.
type Walked = Option<(Level, Vec<u8>)>;

/// Layers on top of each other.
#[derive(Debug)]
pub struct Merged {
    overlay: Overlay,
    root: Level,
    /// The directory asked for last: neighbours follow.
    last: Option<(Vec<u8>, Walked)>,
}

/// A file, or the top one of directories that merge.
#[derive(Debug)]
pub struct Found {
    /// Which layer has it, counted from the top.
    pub layer: usize,
    /// An O_PATH descriptor of it.
    pub file: OwnedFd,
    /// What it is.
    pub stat: Stat,
    /// Its path without links.
    pub path: Vec<u8>,
}

impl Found {
    /// Gives a directory of another layer its attributes: owner, mode, time, extended ones.
    pub fn give_attributes(&self, layer: BorrowedFd<'_>, path: &[u8]) -> Result<()> {
        let failed = || format!("cannot make {} as it is below", show(path));
        let own = tree::readable(&self.file).context(failed)?;
        let attributes = of_stat(&self.stat, read_extended(own.as_fd()).context(failed)?);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let other =
            rustix::fs::openat2(layer, path, flags, Mode::empty(), resolve).context(failed)?;
        let fresh = Fresh {
            umask: 0,
            owner: None,
            chown: true,
        };
        complete_directory(other.as_fd(), &attributes, fresh, &mut 0).context(failed)
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::Directory
    }
}

enum Next {
    Missing,
    Directory(Level),
    Other(usize, OwnedFd, Stat),
}

impl Merged {
    /// Layers, top first.
    pub fn new(layers: &[BorrowedFd<'_>], overlay: Overlay) -> Result<Self> {
        let mut root = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            let fd = tree::readable(layer).context(|| "cannot open the directory of a layer")?;
            let last = is_opaque(fd.as_fd(), overlay)?;
            root.push((index, fd));
            if last {
                break;
            }
        }
        Ok(Self {
            overlay,
            root: Rc::new(root),
            last: None,
        })
    }

    /// What a path stands for.
    pub fn find(&mut self, path: &[u8]) -> Result<Option<Found>> {
        let (parent, name) = crate::archive::name::split(path);
        if name.is_empty() {
            return top(&self.root, Vec::new());
        }
        let Some((level, parent)) = self.directory(parent)? else {
            return Ok(None);
        };
        let path = crate::archive::name::join(&parent, name);
        match self.next(&level, name)? {
            Next::Missing => Ok(None),
            Next::Directory(level) => top(&level, path),
            Next::Other(layer, file, stat) => Ok(Some(Found {
                layer,
                file,
                stat,
                path,
            })),
        }
    }

    /// All names in a directory.
    pub fn names(&mut self, path: &[u8]) -> Result<BTreeSet<Vec<u8>>> {
        let mut all = BTreeSet::new();
        let Some((level, _)) = self.directory(path)? else {
            return Ok(all);
        };
        for (_, directory) in level.iter() {
            all.extend(names(directory)?);
        }
        let mut shown = BTreeSet::new();
        for name in all {
            if !matches!(self.next(&level, &name)?, Next::Missing) {
                shown.insert(name);
            }
        }
        Ok(shown)
    }

    /// Looks again: a layer was changed.
    pub fn forget(&mut self) {
        self.last = None;
    }

    fn directory(&mut self, path: &[u8]) -> Result<Walked> {
        if let Some((last, found)) = &self.last
            && last == path
        {
            return Ok(found.clone());
        }
        let found = self.walk(path)?;
        self.last = Some((path.to_vec(), found.clone()));
        Ok(found)
    }

    fn walk(&self, path: &[u8]) -> Result<Walked> {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            let parts = path.split(|byte| *byte == b'/');
            parts
                .filter(|part| !matches!(*part, b"" | b"."))
                .map(<[u8]>::to_vec)
                .collect()
        };
        let mut todo = VecDeque::from(parts(path));
        let mut done: Vec<(Vec<u8>, Level)> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == b".." {
                done.pop();
                continue;
            }
            let level = done.last().map_or(&self.root, |(_, level)| level);
            match self.next(level, &part)? {
                Next::Missing => return Ok(None),
                Next::Directory(level) => done.push((part, level)),
                Next::Other(_, file, _) => {
                    let target = match rustix::fs::readlinkat(&file, c"", Vec::new()) {
                        // Neither directory nor link.
                        Err(Errno::INVAL | Errno::NOENT) => return Ok(None),
                        other => other
                            .context(|| "cannot read a link of a layer")?
                            .into_bytes(),
                    };
                    links += 1;
                    if links > LINKS {
                        return Err(Errno::LOOP).context(|| format!("cannot find {}", show(path)));
                    }
                    if target.starts_with(b"/") {
                        done.clear();
                    }
                    for part in parts(&target).into_iter().rev() {
                        todo.push_front(part);
                    }
                }
            }
        }
        let names: Vec<&[u8]> = done.iter().map(|(name, _)| &**name).collect();
        let path = names.join(&b'/');
        let level = done
            .pop()
            .map_or_else(|| Rc::clone(&self.root), |(_, level)| level);
        Ok(Some((level, path)))
    }

    fn next(&self, level: &Level, name: &[u8]) -> Result<Next> {
        let mut merged = Vec::new();
        for (layer, directory) in level.iter() {
            let context = || format!("cannot look up {} in a layer", show(name));
            let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other.context(context)?,
            };
            if is_whiteout(&stat) {
                break;
            }
            let file = tree::refer(directory.as_fd(), name)?;
            // Not what was examined, but what was opened counts.
            let stat = rustix::fs::fstat(&file).context(context)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                if merged.is_empty() {
                    return Ok(Next::Other(*layer, file, stat));
                }
                break;
            }
            let directory = tree::readable(&file).context(context)?;
            let last = is_opaque(directory.as_fd(), self.overlay)?;
            merged.push((*layer, directory));
            if last {
                break;
            }
        }
        Ok(if merged.is_empty() {
            Next::Missing
        } else {
            Next::Directory(Rc::new(merged))
        })
    }
}

fn top(level: &Level, path: Vec<u8>) -> Result<Option<Found>> {
    let Some((layer, directory)) = level.first() else {
        return Ok(None);
    };
    let stat = rustix::fs::fstat(directory).context(|| "cannot examine a directory of a layer")?;
    let file = directory
        .try_clone()
        .context(|| "cannot duplicate a descriptor")?;
    Ok(Some(Found {
        layer: *layer,
        file,
        stat,
        path,
    }))
}

/// Whether a directory hides those below it.
pub fn is_opaque(directory: BorrowedFd<'_>, overlay: Overlay) -> Result<bool> {
    let mut value = [0; 4];
    match rustix::fs::fgetxattr(directory, overlay.attribute("opaque"), &mut value) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        // Longer than any value that overlayfs writes.
        Err(Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno).context(|| "cannot read whether a directory is opaque"),
    }
}
