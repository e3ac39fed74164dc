//! COPY and ADD: which files are meant, what they are, and how they come into a root.

use std::os::fd::BorrowedFd;
use std::time::SystemTime;

use crate::{Digest, Error, Result};

use super::http::Download;
use super::tree::Tree;

/// One COPY or ADD.
#[derive(Debug, Clone)]
pub struct Request {
    /// From where; one after the other, later ones replace earlier ones.
    pub sources: Vec<Source>,
    /// Absolute path in the root; a slash at the end says that it is a directory.
    pub dest: String,
    /// `--chown`, as numbers.
    pub owner: Option<Owner>,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// `--parents`.
    pub parents: bool,
    /// `--exclude`.
    pub exclude: Vec<String>,
    /// Whether archives are unpacked.
    pub unpack: Unpack,
}

/// One source.
#[derive(Debug, Clone)]
pub enum Source {
    /// A path or pattern in a tree.
    Path {
        /// The build context, a stage, an image.
        tree: Tree,
        /// As written, after word expansion.
        path: String,
    },
    /// A heredoc.
    Inline {
        /// The file's name.
        name: String,
        /// After word expansion.
        contents: Vec<u8>,
    },
    /// What ADD fetched by HTTP.
    Download(Download),
    /// What ADD fetched by git: all of the tree.
    Checkout(Tree),
}

/// A user and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Which sources are unpacked if they are archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpack {
    /// None: COPY, and ADD `--unpack=false`.
    No,
    /// Those that were not fetched: ADD.
    Auto,
    /// Also those fetched by HTTP: ADD `--unpack`.
    Yes,
}

/// A mode, or what becomes of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chmod {
    _octal: u32,
}

impl Chmod {
    /// `644`, `u=rwX,go-w`.
    pub fn parse(_text: &str) -> Result<Self> {
        Err(Error::unsupported("cannot change modes yet"))
    }
}

/// Which modification times the copies have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Those of the sources; directories made on the way have the time of the copy.
    Keep,
    /// Those of the sources, but none later than this.
    Clamp(SystemTime),
    /// This one.
    Set(SystemTime),
}

/// The files that a request means, as they were at that time.
#[derive(Debug)]
pub struct Selection {
    _files: (),
}

/// How a copy is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Modification times.
    pub times: Times,
    /// Threads for contents.
    pub threads: usize,
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files of any kind but directories.
    pub files: u64,
    /// Directories made.
    pub directories: u64,
    /// Bytes of contents.
    pub bytes: u64,
    /// Extended attributes that the file system or missing privilege did not allow.
    pub skipped: u64,
    /// Directories that nobody copied but that had to be made above the destination, parents first:
    /// with `--link` their attributes are those of the layers below where those have them.
    pub implied: Vec<Vec<u8>>,
}

/// Remembers digests of files that did not change, in one file of the caller's.
#[derive(Debug, Default)]
pub struct StatCache {
    _entries: (),
}

impl StatCache {
    /// Reads it. A missing or damaged file is an empty cache.
    pub fn load(_directory: BorrowedFd<'_>, _name: &str) -> Self {
        Self::default()
    }

    /// Replaces the file, unless nothing was learned. Processes may do so at the same time: one of
    /// them wins.
    pub fn save(&self, _directory: BorrowedFd<'_>, _name: &str) -> Result<()> {
        Ok(())
    }
}

/// Finds the files that a request means. Reads directories and nothing else.
pub fn select(_request: &Request) -> Result<Selection> {
    Err(Error::unsupported("cannot copy yet"))
}

impl Selection {
    /// What the copy depends on, but for the root into which it goes: request, paths, types, modes,
    /// owners, attributes and contents. Not modification times, nor anything of the host.
    pub fn checksum(&self, _threads: usize, _cache: Option<&StatCache>) -> Result<Digest> {
        Err(Error::unsupported("cannot copy yet"))
    }

    /// Copies beneath `root`, the writable root of a container that may be hostile. For `--link`
    /// that is an empty directory, to be put above the layers below.
    pub fn execute(&self, _root: BorrowedFd<'_>, _options: Options) -> Result<Report> {
        Err(Error::unsupported("cannot copy yet"))
    }
}
