//! Flags and an image's configuration -> the OCI configuration of a container.
//!
//! [`Asked::read`] understands the flags and looks up what they name on the host (files, devices,
//! variables); it tells all problems at once. [`config`] is pure: a table of facts in, a document out.
//! What docker does is done here too, unless it would hide a mistake: what is bound must exist.

mod asked;
mod config;
mod devices;
mod limits;
mod mounts;
mod ports;
mod security;
mod userns;
pub(crate) mod words;

pub(crate) use asked::{Around, Asked, Join, Networks, Place};
pub(crate) use config::{Facts, Files, Rootless, config, file_texts, hostname, labels, stop};
pub(crate) use mounts::{VolumeMount, VolumePlace};
pub(crate) use ports::{Publish, choose as choose_ports};
pub(crate) use userns::{Extent, Pool, Userns, pick};

#[cfg(test)]
mod tests;
