//! A directory tree to copy from.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags};

use super::ignore::Ignore;
use crate::{Context, Result};

/// Whose the files of a tree are, before `--chown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Those of the files: stages, images, unpacked tars.
    Kept,
    /// Root's: a directory of the host and a clone, where owners say who works there.
    Root,
}

/// A directory tree to copy from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tree {
    root: Arc<OwnedFd>,
    ignore: Option<Arc<Ignore>>,
    owners: Owners,
    name: Arc<str>,
}

impl Tree {
    /// Of this directory; `name` is what errors call it: `the build context`, `stage "base"`.
    pub fn new(root: OwnedFd, owners: Owners, name: &str) -> Self {
        Self {
            root: Arc::new(root),
            ignore: None,
            owners,
            name: name.into(),
        }
    }

    /// Of the directory at a path of the host, whose files become root's.
    pub fn open(path: &Path, name: &str) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .context(|| format!("cannot open {name} at {}", path.display()))?;
        Ok(Self::new(root, Owners::Root, name))
    }

    /// Without what the patterns match.
    #[must_use]
    pub fn ignoring(mut self, ignore: Ignore) -> Self {
        self.ignore = Some(Arc::new(ignore));
        self
    }

    /// The directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(super) fn shared_root(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.root)
    }

    /// What is left out.
    pub fn ignore(&self) -> Option<&Ignore> {
        self.ignore.as_deref()
    }

    /// Whose the files are.
    pub fn owners(&self) -> Owners {
        self.owners
    }

    /// What errors call it.
    pub fn name(&self) -> &str {
        &self.name
    }
}
