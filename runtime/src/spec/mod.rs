//! config.json: reading it, judging it, and the two documents we print about it.
//!
//! Nothing here touches the kernel except for reading the file. [`load`] turns bytes into types
//! and repairs what the types of `oci-spec` get wrong, [`validate`] finds all problems at once,
//! [`template`] is `rcrun spec`, [`features`] is `rcrun features`.

mod document;
pub mod features;
pub mod load;
mod names;
mod repair;
pub mod template;
pub mod validate;

pub use oci_spec::runtime as types;

/// The release of the OCI runtime specification that is implemented.
pub const VERSION: &str = "1.3.0";
