//! Names, platforms and documents of images, and the registries they come from.
//!
//! - [`reference`]: what a person types, in docker's grammar, made unambiguous.
//! - [`platform`]: which of several images suits a machine.
//! - [`document`]: indexes, manifests and configurations, OCI's and Docker's.
//! - [`registry`]: the client of the distribution protocol.
//!
//! Nothing here stores an image: blobs go where the caller of [`registry`] puts them.

#![forbid(unsafe_code)]

pub mod closure;
pub mod document;
pub mod names;
pub mod platform;
pub mod progress;
pub mod pull;
pub mod push;
pub mod recompress;
pub mod reference;
pub mod registry;
pub mod roots;
#[cfg(test)]
mod samples;
pub mod stored;

pub use rcrun_error::{Context, Error, ErrorKind, Result};
pub use rcrun_overlay::Digest;
