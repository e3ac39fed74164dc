//! Images in tar archives, read and written as streams: `oci-archive:` and `docker-archive:`.
//!
//! Owns the tar: [`arriving`] takes all members of an archive into a store in one pass, whatever
//! their order, [`write`] writes a layout as an archive. What the members mean is
//! [`crate::layout`]'s and [`crate::docker_archive`]'s.

pub(crate) mod arriving;
#[cfg(test)]
mod hostile;
pub(crate) mod write;
