//! Git repositories as sources.
//!
//! [`parse`] reads BuildKit's URLs (`util/gitutil`, `dfgitutil`), purely. [`resolve`] asks the
//! remote for the commit, which is the cache key; [`checkout`] fetches exactly that commit, shallow
//! where the server can, with the host's program git. That program gets no configuration of the
//! host, no hooks, only the protocols of [`parse`], and never a password in its arguments.

mod address;
mod fetch;
mod program;

pub(super) use address::percent_decoded;
pub use address::{Address, parse};
pub use fetch::{Resolved, checkout, resolve, time};

use std::path::PathBuf;

use rcrun_image::registry::Notice;

use super::credentials::Credentials;

/// How git is run.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `SSH_AUTH_SOCK` for the remote, given by `--ssh`.
    pub ssh_agent: Option<PathBuf>,
    /// Which hosts are trusted by ssh; any if there is none, as BuildKit has it.
    pub known_hosts: Option<PathBuf>,
    /// What servers by HTTP are shown, of this kind and others (`--secret id=GIT_AUTH_TOKEN`).
    pub credentials: Credentials,
    /// Keep `.git` (`--keep-git-dir`); the address's own wish counts where it has one.
    pub keep_git_dir: bool,
    /// Is told what is tried again, and why; also of files of web servers.
    pub notice: Notice,
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps it.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}
