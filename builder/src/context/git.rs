//! Git repositories as sources.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

use super::tree::Tree;

/// What a git URL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// For the program git, without fragment and without our query.
    pub remote: String,
    /// Branch, tag, full reference or commit; none is the remote's HEAD.
    pub reference: Option<String>,
    /// A directory of the repository.
    pub subdir: Option<String>,
    /// The commit that the reference must be, or its beginning.
    pub checksum: Option<String>,
    /// `?keep-git-dir=`.
    pub keep_git_dir: Option<bool>,
    /// `?submodules=`; they come unless this is false.
    pub submodules: Option<bool>,
    /// Whether the text could as well be a path: `github.com/a/b`, `git@host:repo`. ADD then takes
    /// it for one.
    pub ambiguous: bool,
    /// Whether it comes unencrypted and unauthenticated, by `git://` or `http://`.
    pub insecure: bool,
}

/// Reads a git URL; nothing if the text is none.
pub fn parse(_text: &str) -> Result<Option<Address>> {
    Ok(None)
}

/// How git is run.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `SSH_AUTH_SOCK` for the remote, given by `--ssh`.
    pub ssh_agent: Option<PathBuf>,
    /// A token for HTTPS, never shown (`--secret id=GIT_AUTH_TOKEN`).
    pub token: Option<Secret>,
    /// Keep `.git` (`--keep-git-dir`); the address's own wish counts where it has one.
    pub keep_git_dir: bool,
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Which commit an address means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Its id: with subdir, submodules and keep_git_dir the cache key.
    pub commit: String,
    /// The full name of the reference, where it is one.
    pub reference: Option<String>,
}

/// Asks the remote.
pub fn resolve(_address: &Address, _settings: &Settings) -> Result<Resolved> {
    Err(Error::unsupported("cannot use git yet"))
}

/// Fetches exactly that commit into an empty scratch directory; the tree is its subdirectory where
/// the address names one.
pub fn checkout(
    _address: &Address,
    _resolved: &Resolved,
    _settings: &Settings,
    _scratch: &Path,
) -> Result<Tree> {
    Err(Error::unsupported("cannot use git yet"))
}
