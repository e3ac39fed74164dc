//! Extended attributes of what is copied, and of what cannot be opened.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::FileType;

use rcrun_overlay::archive::Attribute;
use rcrun_overlay::layer::attributes::{is_kept, read_extended, read_extended_of};
use rcrun_overlay::layer::tree::refer;

use crate::Result;

/// Of an open file or directory: those that images have, sorted.
pub(super) fn of_open(fd: BorrowedFd<'_>) -> Result<Vec<Attribute>> {
    kept(read_extended(fd)?)
}

/// Of a link, pipe or device. A link is not asked: what it can have needs privilege to be set, is
/// seen by nobody, and asking is half of the work of copying it.
pub(super) fn of_other(at: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<Vec<Attribute>> {
    if kind == FileType::Symlink {
        return Ok(Vec::new());
    }
    let file = refer(at, name)?;
    kept(read_extended_of(file.as_fd())?)
}

fn kept(mut attributes: Vec<Attribute>) -> Result<Vec<Attribute>> {
    attributes.retain(|(name, _)| is_kept(name));
    Ok(attributes)
}
