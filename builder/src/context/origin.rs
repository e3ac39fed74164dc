//! Where a context is from, as far as others could get it from there too: what provenance names. Pure.
//!
//! Addresses have neither passwords nor queries here; everything that is said of an origin may be published.

use super::git;
use crate::Digest;
use crate::attest::address::{public, repository};
use crate::solve::Material;

/// Where a context is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This machine: a directory, or standard input.
    Local,
    /// A repository.
    Commit {
        /// Its URL, without a password.
        remote: String,
        /// What was asked for.
        reference: Option<String>,
        /// The directory of it.
        subdir: Option<String>,
        /// What that is.
        commit: String,
    },
    /// A file of a server.
    File {
        /// Its URL, without a password.
        url: String,
        /// Of its content.
        digest: Digest,
    },
}

impl Origin {
    /// A commit of the repository at an address.
    pub fn commit(address: &git::Address, commit: &str) -> Self {
        Self::Commit {
            remote: address.shown(),
            reference: address.reference.clone(),
            subdir: address.subdir.clone(),
            commit: commit.to_owned(),
        }
    }

    /// What a server gave.
    pub fn file(url: &str, digest: &Digest) -> Self {
        Self::File {
            url: public(url),
            digest: digest.clone(),
        }
    }

    /// What was fetched; nothing if it was here.
    pub fn material(&self) -> Option<Material> {
        match self {
            Self::Local => None,
            Self::Commit {
                remote,
                reference,
                commit,
                ..
            } => Some(Material::commit(remote, reference.as_deref(), commit)),
            Self::File { url, digest } => Some(Material::file(url, digest)),
        }
    }

    /// The address of exactly this, with the directory; nothing if it was here.
    pub fn uri(&self) -> Option<String> {
        match self {
            Self::Local => None,
            Self::Commit {
                remote,
                reference,
                subdir,
                ..
            } => Some(repository(remote, reference.as_deref(), subdir.as_deref())),
            Self::File { url, .. } => Some(url.clone()),
        }
    }
}
