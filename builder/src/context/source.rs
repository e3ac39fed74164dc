//! What the user's arguments mean: the context, the Dockerfile, the ignore file.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

use super::git;
use super::tree::Tree;

/// Where a context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A directory of the host.
    Directory(PathBuf),
    /// `-`: a Dockerfile or a tar, known by its content.
    Input,
    /// A git repository.
    Git(git::Address),
    /// A Dockerfile or a tar, known by its content.
    Http(String),
}

/// Decides what an argument means. Looks at the host only to tell a directory from a git URL that
/// could be one.
pub fn locate(_argument: &str) -> Result<Location> {
    Err(Error::unsupported("cannot locate contexts yet"))
}

/// A context, ready to be copied from.
#[derive(Debug, Clone)]
pub struct Context {
    /// Its files; the ignore file is already taken into account.
    pub tree: Tree,
    /// The Dockerfile; none if the context came by a name (`--build-context`).
    pub dockerfile: Dockerfile,
}

/// A Dockerfile's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// What errors call it.
    pub name: String,
    /// Its bytes.
    pub text: Vec<u8>,
}

/// What is needed to open a context.
#[derive(Debug)]
pub struct Arguments<'a> {
    /// The context.
    pub location: &'a Location,
    /// `-f`: a path, `-`, or a URL; `Dockerfile` in the context otherwise.
    pub file: Option<&'a str>,
    /// `--build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR`, tokens.
    pub git: &'a git::Settings,
    /// An empty directory of the caller.
    pub scratch: &'a Path,
}

/// Opens the main context with its Dockerfile and ignore file.
pub fn open(_arguments: &Arguments<'_>, _input: &mut dyn Read) -> Result<Context> {
    Err(Error::unsupported("cannot open contexts yet"))
}

/// Opens a named context that is a directory, a git repository or a tarball, with the
/// `.dockerignore` at its root.
pub fn open_named(
    _name: &str,
    _location: &Location,
    _git: &git::Settings,
    _scratch: &Path,
) -> Result<Tree> {
    Err(Error::unsupported("cannot open contexts yet"))
}
