//! Dockerfiles into images: BuildKit's language, a content-addressed cache, no daemon.
//!
//! - [`dockerfile`]: the language. Text into instructions with places, words, checks; pure.
//! - [`context`]: where files come from, which of them count, what they are, and how they are copied.

#![forbid(unsafe_code)]

pub mod context;
pub mod dockerfile;

pub use rcrun_error::{Context, Error, ErrorKind, Result};
pub use rcrun_overlay::Digest;
