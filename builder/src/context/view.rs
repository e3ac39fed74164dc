//! A tree as its ignore file leaves it.
//!
//! A file that is ignored is not there. An ignored directory is there if something in it is not
//! ignored, which is found out by looking, and only where an exception could match: what cannot
//! contain anything is never read. Links are followed as in a chroot, inside of what is there.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use rcrun_overlay::archive::name::{join, show};

use super::open;
use super::pattern::Matched;
use super::tree::Tree;
use super::wildcard;
use crate::{Context, Error, ErrorKind, Result};

/// A directory of a tree.
#[derive(Debug, Clone, Default)]
pub(super) struct Directory {
    /// From the root, without links.
    pub(super) path: Vec<u8>,
    pub(super) ignored: bool,
    matched: Option<Matched>,
}

/// What a path is.
#[derive(Debug)]
pub(super) enum Found {
    Directory(Directory, Stat),
    /// Anything else, by its path from the root without links.
    Other(Vec<u8>, Stat),
    /// Nothing.
    Missing(Missing),
}

/// A path that leads to nothing.
#[derive(Debug)]
pub(super) struct Missing {
    /// As far as it was followed, from the root.
    pub(super) path: Vec<u8>,
    /// Whether there is something, but ignored.
    pub(super) ignored: bool,
}

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: Box<[u8]>,
    pub(super) stat: Stat,
    /// Whether it is ignored by itself.
    pub(super) ignored: bool,
    matched: Option<Matched>,
}

impl Entry {
    pub(super) fn is_directory(&self) -> bool {
        is_directory(&self.stat)
    }
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Looks into a tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) tree: &'a Tree,
}

impl View<'_> {
    fn describe(&self, path: &[u8]) -> String {
        format!("{} of {}", show(path), self.tree.name())
    }

    pub(super) fn open(&self, path: &[u8]) -> Result<OwnedFd> {
        open::directory(self.tree.root(), path)
            .context(|| format!("cannot open directory {}", self.describe(path)))
    }

    /// Whether a name is ignored by itself, and what it hands down.
    fn judge(&self, directory: &Directory, path: &[u8]) -> Result<(bool, Option<Matched>)> {
        let Some(ignore) = self.tree.ignore() else {
            return Ok((false, None));
        };
        let path = String::from_utf8_lossy(path);
        let (ignored, matched) = ignore.step(&path, directory.matched.as_ref())?;
        Ok((ignored, Some(matched)))
    }

    /// Whether something below an ignored directory can be there.
    fn may_have(&self, path: &[u8], matched: Option<&Matched>) -> bool {
        match (self.tree.ignore(), matched) {
            (Some(ignore), Some(matched)) => {
                ignore.may_except_below(&String::from_utf8_lossy(path), matched)
            }
            _ => true,
        }
    }

    /// The names of a directory that may be there, sorted.
    pub(super) fn list(&self, directory: &Directory) -> Result<Vec<Entry>> {
        let fd = match self.open(&directory.path) {
            Err(error) if directory.ignored && error.kind() == ErrorKind::PermissionDenied => {
                return Ok(Vec::new());
            }
            other => other?,
        };
        let context = || format!("cannot read directory {}", self.describe(&directory.path));
        let names = open::names(fd.as_fd()).context(context)?;
        let mut entries = Vec::with_capacity(names.len());
        for name in names {
            let path = join(&directory.path, &name);
            let (ignored, matched) = self.judge(directory, &path)?;
            if ignored && !self.may_have(&path, matched.as_ref()) {
                continue;
            }
            // Gone meanwhile.
            let Some(stat) = open::stat(&fd, &name).context(context)? else {
                continue;
            };
            let directory = is_directory(&stat);
            if ignored && !directory {
                continue;
            }
            let matched = matched.filter(|_| directory);
            entries.push(Entry {
                name,
                stat,
                ignored,
                matched,
            });
        }
        Ok(entries)
    }

    /// A directory that was listed.
    pub(super) fn enter(&self, above: &Directory, entry: &Entry) -> Directory {
        Directory {
            path: join(&above.path, &entry.name),
            ignored: entry.ignored,
            matched: entry.matched.clone(),
        }
    }

    /// Whether an ignored directory is there.
    pub(super) fn has_something(&self, directory: &Directory) -> Result<bool> {
        let mut waiting = vec![directory.clone()];
        while let Some(directory) = waiting.pop() {
            for entry in self.list(&directory)? {
                if !entry.ignored {
                    return Ok(true);
                }
                waiting.push(self.enter(&directory, &entry));
            }
        }
        Ok(false)
    }

    /// Follows a path from the root, its last link included.
    pub(super) fn find(&self, path: &[u8]) -> Result<Found> {
        let mut todo: VecDeque<Vec<u8>> = open::parts(path).map(<[u8]>::to_vec).collect();
        let mut done = vec![Directory::default()];
        let mut links = 0;
        let root = || rustix::fs::fstat(self.tree.root());
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                if done.len() > 1 {
                    done.pop();
                }
                continue;
            }
            let above = &done[done.len() - 1];
            let next = join(&above.path, &name);
            let missing = |ignored| {
                Ok(Found::Missing(Missing {
                    path: next.clone(),
                    ignored,
                }))
            };
            let fd = self.open(&above.path)?;
            let stat = match open::stat(&fd, &name) {
                Ok(Some(stat)) => stat,
                Ok(None) => return missing(false),
                Err(error) => return Err(error).context(|| self.words(path)),
            };
            let (ignored, matched) = self.judge(above, &next)?;
            let directory = is_directory(&stat);
            if ignored && !(directory && self.may_have(&next, matched.as_ref())) {
                return missing(true);
            }
            if directory {
                done.push(Directory {
                    path: next,
                    ignored,
                    matched,
                });
            } else if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                links += 1;
                if links > open::LINKS {
                    return Err(open::too_many_links(path));
                }
                let target = open::link(&fd, &name).context(|| self.words(path))?;
                if target.starts_with(b"/") {
                    done.truncate(1);
                }
                for part in open::parts(&target).rev() {
                    todo.push_front(part.to_vec());
                }
            } else if todo.is_empty() {
                return Ok(Found::Other(next, stat));
            } else {
                return Err(Errno::NOTDIR).context(|| self.words(path));
            }
        }
        let directory = done.swap_remove(done.len() - 1);
        let stat = match directory.path.is_empty() {
            true => root().map_err(Error::from),
            false => self
                .open(&directory.path)
                .and_then(|fd| Ok(rustix::fs::fstat(&fd)?)),
        };
        let stat = stat.context(|| self.words(path))?;
        Ok(Found::Directory(directory, stat))
    }

    fn words(&self, path: &[u8]) -> String {
        format!("cannot find {} in {}", show(path), self.tree.name())
    }

    /// That a path leads nowhere, and why.
    pub(super) fn not_found(&self, written: &str, missing: &Missing) -> Error {
        let name = self.tree.name();
        let mut error = Error::new(
            ErrorKind::NotFound,
            format!("cannot find {written:?} in {name}"),
        );
        let reached = String::from_utf8_lossy(&missing.path);
        if missing.ignored {
            let reason = self
                .tree
                .ignore()
                .and_then(|ignore| ignore.reason(&reached));
            let hint = match reason {
                Some((line, pattern)) => {
                    format!(
                        "{reached:?} exists, but line {line} of the ignore file, {pattern:?}, excludes it"
                    )
                }
                None => format!("{reached:?} exists, but the ignore file excludes it"),
            };
            error = error.with_hint(hint);
        } else if open::absolute(written.as_bytes()) != missing.path {
            error = error.with_hint(format!(
                "there is nothing at {reached:?}, to which it leads"
            ));
        }
        error
    }

    /// What a path with wildcards means: paths from the root, in the order of their names.
    pub(super) fn expand(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let (plain, pattern) = wildcard::split(path);
        let base = match self.find(&plain.join(&b'/'))? {
            Found::Directory(directory, _) => directory,
            Found::Other(..) | Found::Missing(_) => return Ok(Vec::new()),
        };
        let mut found = Vec::new();
        if pattern.iter().any(|name| name.contains(&b'[')) {
            // A class may match a slash, so any depth up to this is possible.
            let whole = pattern.join(&b'/');
            let classes = whole.iter().filter(|byte| **byte == b'[').count();
            let depth = pattern.len() + classes;
            self.expand_whole(&base, base.path.len(), &whole, depth, &mut found)?;
        } else {
            self.expand_names(&base, &pattern, &mut found)?;
        }
        Ok(found)
    }

    fn expand_names(
        &self,
        above: &Directory,
        pattern: &[&[u8]],
        found: &mut Vec<Vec<u8>>,
    ) -> Result<()> {
        let Some((first, rest)) = pattern.split_first() else {
            return Ok(());
        };
        for entry in self.list(above)? {
            if !wildcard::matches(first, &entry.name) {
                continue;
            }
            let directory = self.enter(above, &entry);
            if !rest.is_empty() {
                if entry.is_directory() {
                    self.expand_names(&directory, rest, found)?;
                }
            } else if !entry.ignored || self.has_something(&directory)? {
                found.push(directory.path);
            }
        }
        Ok(())
    }

    fn expand_whole(
        &self,
        above: &Directory,
        base: usize,
        pattern: &[u8],
        depth: usize,
        found: &mut Vec<Vec<u8>>,
    ) -> Result<()> {
        for entry in self.list(above)? {
            let next = self.enter(above, &entry);
            let relative = next.path[base..].strip_prefix(b"/");
            let relative = relative.unwrap_or(&next.path[base..]);
            if wildcard::matches(pattern, relative) {
                if !entry.ignored || self.has_something(&next)? {
                    found.push(next.path);
                }
            } else if entry.is_directory() && depth > 1 {
                self.expand_whole(&next, base, pattern, depth - 1, found)?;
            }
        }
        Ok(())
    }

    /// Opens a file that is no link, to read it.
    pub(super) fn read(&self, path: &[u8]) -> Result<OwnedFd> {
        read(self.tree.root(), path).context(|| format!("cannot open {}", self.describe(path)))
    }
}

/// Opens a regular file by a path without links. A pipe or a device that took its place meanwhile
/// does not block.
pub(super) fn read(at: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    use rustix::fs::OFlags;
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    open::beneath(at, path, flags)
}
