//! COPY and ADD: which files are meant, what they are, and how they come into a root.
//!
//! [`select`] decides: it looks at names and finds out which files a [`Request`] means.
//! [`Selection::checksum`] reads them, for a cache key; [`Selection::execute`] copies them. A file
//! that is another one by then, or changes meanwhile, is an error: what was hashed is what is copied.
//!
//! The rules are BuildKit's (`solver/llbsolver/file`, `fsutil/copy`). Those that surprise: the
//! contents of a directory are copied, not the directory; its own mode and owner do not count,
//! since the destination is made before it; `--exclude` does not concern a source that is a file;
//! a pattern that matches nothing copies nothing, without an error ([`Selection::unmatched`]).

mod archive;
mod attributes;
mod cache;
mod checksum;
mod chmod;
mod contents;
mod copier;
mod execute;
mod files;
mod root;
mod select;
#[cfg(test)]
mod tests;
mod unpack;

use std::os::fd::BorrowedFd;
use std::time::SystemTime;

use super::http::Download;
use super::tree::{Owners, Tree};
use crate::{Digest, Result};
use archive::Format;
use files::{Files, Meta};

pub(super) use archive::{detect as detect_archive, open as open_archive, rewind};
pub use cache::StatCache;
pub use chmod::Chmod;
pub use select::select;
pub(super) use unpack::unpack as unpack_into;

/// One COPY or ADD.
#[derive(Debug, Clone)]
pub struct Request {
    /// From where; one after the other, later ones replace earlier ones.
    pub sources: Vec<Source>,
    /// Absolute path in the root; `/` or `/.` at the end says that it is a directory.
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

impl Request {
    /// All that is in a tree, as it is, into the root itself.
    pub fn whole(tree: Tree) -> Self {
        Self::of(tree, ".")
    }

    /// What is at a path of a tree, as it is, into the root itself.
    pub fn of(tree: Tree, path: &str) -> Self {
        Self {
            sources: vec![Source::Path {
                tree,
                path: path.to_owned(),
            }],
            dest: "/".to_owned(),
            owner: None,
            chmod: None,
            parents: false,
            exclude: Vec::new(),
            unpack: Unpack::No,
        }
    }
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

/// Which modification times the copies have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Those of the sources. Directories made above them, and those that were there and get
    /// something new, have the time of the copy.
    Keep,
    /// Those of the sources, but none later than this. Directories made above them have this one;
    /// those that were there keep theirs.
    Clamp(SystemTime),
    /// This one, but for what an archive contains: that has its own, none later than this.
    /// Directories that were there keep theirs.
    Set(SystemTime),
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

/// The files that a request means, as they were at that time.
#[derive(Debug)]
pub struct Selection {
    dest: String,
    owner: Option<Owner>,
    chmod: Option<Chmod>,
    matches: Vec<Match>,
    unmatched: Vec<String>,
}

/// What one source means, or one of the paths that its wildcards match.
#[derive(Debug)]
struct Match {
    /// Its last name, which it gets in a directory that exists.
    name: Vec<u8>,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A file or directory.
    Files {
        tree: Tree,
        /// From the tree's root, without links.
        path: Vec<u8>,
        files: Files,
        /// A directory gives what is in it, and is not itself copied.
        contents: bool,
    },
    /// A file that is unpacked.
    Archive {
        tree: Tree,
        path: Vec<u8>,
        meta: Meta,
        format: Format,
    },
    /// A file of ours.
    Inline(Vec<u8>),
}

impl Selection {
    /// Patterns that matched nothing. BuildKit does not mind; a person may.
    pub fn unmatched(&self) -> &[String] {
        &self.unmatched
    }

    /// How many files and directories were found.
    pub fn files(&self) -> usize {
        let count = |found: &Match| match &found.what {
            What::Files { files, .. } => files.nodes().len(),
            _ => 1,
        };
        self.matches.iter().map(count).sum()
    }

    /// What the copy depends on, but for the root into which it goes: request, paths, types, modes,
    /// owners, attributes and contents. Not modification times, nor anything of the host.
    pub fn checksum(&self, threads: usize, cache: Option<&StatCache>) -> Result<Digest> {
        checksum::checksum(self, threads, cache)
    }

    /// Copies beneath `root`, the writable root of a container that may be hostile. For `--link`
    /// that is an empty directory, to be put above the layers below.
    pub fn execute(&self, root: BorrowedFd<'_>, options: Options) -> Result<Report> {
        execute::execute(self, root, options)
    }

    /// Mode as copied.
    fn mode(&self, meta: &Meta) -> u32 {
        let directory = meta.kind() == rustix::fs::FileType::Directory;
        match &self.chmod {
            Some(chmod) => chmod.apply(meta.bits(), directory),
            None => meta.bits(),
        }
    }

    /// Owner and group as copied.
    fn owner(&self, tree: &Tree, meta: &Meta) -> (u32, u32) {
        match (self.owner, tree.owners()) {
            (Some(owner), _) => (owner.uid, owner.gid),
            (None, Owners::Root) => (0, 0),
            (None, Owners::Kept) => (meta.uid, meta.gid),
        }
    }
}
