//! Dockerfiles into images: BuildKit's language, a content-addressed cache, no daemon.
//!
//! - [`dockerfile`]: the language. Text into instructions with places, words, checks; pure.
//! - [`context`]: where files come from, which of them count, what they are, and how they are copied.
//! - [`graph`], [`image`]: what is to be done, and what the image says in the end; pure.
//! - [`solve`]: does it, unless it was done before ([`cache`]).
//! - [`runner`]: what whoever runs the steps is told.
//! - [`foreign`]: whether programs of another platform run here.
//! - [`export`]: layers and documents of the result.
//! - [`remote`]: caches of other machines.
//! - [`attest`]: statements about the result.
//! - [`events`]: what people hear meanwhile.

#![forbid(unsafe_code)]

pub mod attest;
pub mod cache;
pub mod context;
pub mod dockerfile;
pub mod events;
pub mod export;
pub mod foreign;
pub mod graph;
pub mod image;
mod path;
pub mod remote;
pub mod runner;
pub mod shrink;
pub mod solve;

pub use rcrun_error::{Context, Error, ErrorKind, Result};
pub use rcrun_overlay::Digest;

/// Bytes as Go's JSON has them, and as passwords by HTTP are sent.
pub(crate) fn base64(bytes: &[u8]) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}
