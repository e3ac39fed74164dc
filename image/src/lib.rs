//! Names, platforms and documents of images, and the registries they come from.
//!
//! - [`reference`]: what a person types, in docker's grammar, made unambiguous.
//! - [`accounts`]: who `USER[:GROUP]` is in an image.
//! - [`platform`]: which of several images suits a machine.
//! - [`document`]: indexes, manifests and configurations, OCI's and Docker's.
//! - [`catalog`]: the images of a store, and which one is meant.
//! - [`registry`]: the client of the distribution protocol.
//! - [`names`], [`roots`]: what images in a store are called, and what they refer to.
//! - [`pull`], [`push`]: between a registry and a store.
//! - [`layout`], [`docker_archive`]: images in directories and files.
//! - [`artifact`]: one manifest anywhere, with blobs on demand.
//! - [`transport`]: all of these places by one name, and copies from and to them.

#![forbid(unsafe_code)]

pub mod accounts;
mod archive;
pub mod artifact;
pub mod catalog;
pub mod closure;
mod crew;
pub mod docker_archive;
pub mod document;
pub mod import;
pub mod layout;
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
pub mod transport;

pub use rcrun_error::{Context, Error, ErrorKind, Result};
pub use rcrun_overlay::Digest;
