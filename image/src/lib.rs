//! Names, platforms and documents of images, and the registries they come from.
//!
//! - [`reference`]: what a person types, in docker's grammar, made unambiguous.
//! - [`platform`]: which of several images suits a machine.
//! - [`document`]: indexes, manifests and configurations, OCI's and Docker's.
//! - [`catalog`]: the images of a store, and which one is meant.
//! - [`registry`]: the client of the distribution protocol.
//!
//! Nothing here stores an image: blobs go where the caller of [`registry`] puts them.

#![forbid(unsafe_code)]

pub mod catalog;
pub mod document;
pub mod names;
pub mod platform;
pub mod pull;
pub mod reference;
pub mod registry;
pub mod roots;

pub use rcrun_error::{Context, Error, ErrorKind, Result};
pub use rcrun_overlay::Digest;
