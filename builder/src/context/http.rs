//! Files from HTTP servers.

use std::os::fd::BorrowedFd;

use crate::{Digest, Error, Result};

use super::tree::Tree;

/// What is to be fetched.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// `http://` or `https://`.
    pub url: &'a str,
    /// What the content must be.
    pub checksum: Option<&'a Digest>,
    /// The ETag of an earlier [`Download`]: if it still holds, nothing is fetched.
    pub etag: Option<&'a str>,
}

/// A file that was fetched.
#[derive(Debug, Clone)]
pub struct Download {
    /// The scratch directory, which contains the file.
    pub tree: Tree,
    /// The file's name in it.
    pub name: String,
    /// Of the content: what the cache key needs.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// What the server calls this version.
    pub etag: Option<String>,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub enum Fetched {
    /// The file.
    New(Download),
    /// The version with that ETag is still the one.
    Unchanged,
}

/// Fetches a file into a scratch directory: mode 0600, modification time of `Last-Modified`.
pub fn fetch(_request: &Request<'_>, _directory: BorrowedFd<'_>) -> Result<Fetched> {
    Err(Error::unsupported("cannot fetch by HTTP yet"))
}

/// Whether a source of ADD is meant to be fetched by HTTP. Git sources are looked for before.
pub fn is_url(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}
