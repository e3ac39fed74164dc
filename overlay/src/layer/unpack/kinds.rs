//! What entries become that are neither files with contents nor directories: links, devices, fifos.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::{Unpacker, more};
use crate::archive::name::{self, show, split};
use crate::archive::whiteout::{Meaning, meaning};
use crate::archive::{Entry, Kind};
use crate::layer::attributes::complete_other;
use crate::layer::implied;
use crate::layer::options::Devices;
use crate::layer::tree::{Place, is_whiteout, path_in};
use crate::{Context, Error, ErrorKind, Result};

impl Unpacker {
    pub(super) fn special(&mut self, place: &Place, name: &[u8], entry: &Entry) -> Result<()> {
        let mode = Mode::from(entry.mode & 0o777);
        let node = |kind, device| {
            move |at: BorrowedFd<'_>| rustix::fs::mknodat(at, name, kind, mode, device)
        };
        match &entry.kind {
            Kind::Symlink(target) => {
                self.replacing(place, name, |at| rustix::fs::symlinkat(&**target, at, name))?;
            }
            Kind::Fifo => self.replacing(place, name, node(FileType::Fifo, 0))?,
            Kind::Character(major, minor) | Kind::Block(major, minor) => {
                let is_block = matches!(entry.kind, Kind::Block(..));
                let kind = if is_block {
                    FileType::BlockDevice
                } else {
                    FileType::CharacterDevice
                };
                match self.options.devices {
                    Devices::Create => {
                        let device = rustix::fs::makedev(*major, *minor);
                        self.replacing(place, name, node(kind, device))?;
                    }
                    Devices::Placeholder => {
                        let file = self.create(place, name, entry.mode)?;
                        return self.complete(&file, entry);
                    }
                    Devices::Refuse => {
                        return Err(Error::new(
                            ErrorKind::PermissionDenied,
                            "refuse a device node: devices in images are not allowed",
                        ));
                    }
                }
            }
            Kind::Regular | Kind::Hardlink(_) | Kind::Directory => {}
        }
        let is_link = matches!(entry.kind, Kind::Symlink(_));
        let attributes = entry.clone().into();
        let at = place.fd.as_fd();
        complete_other(
            at,
            name,
            &attributes,
            self.fresh,
            is_link,
            &mut self.skipped,
        )
    }

    /// A further name of a file of this layer, or of one below. As GNU tar does it, the entry's own
    /// mode and owner say nothing: they are the file's.
    pub(super) fn hardlink(&mut self, place: &Place, name: &[u8], target: &[u8]) -> Result<()> {
        let target = name::normalise(target)?;
        let (parent, last) = split(&target);
        if last.is_empty() || meaning(&target)? != Meaning::Plain {
            return Err(Error::invalid(format!(
                "refuse a hard link to {}",
                show(&target)
            )));
        }
        let path = path_in(place, name)?;
        let found = self.tree.open(parent)?;
        let stat = found
            .as_ref()
            .map(|found| rustix::fs::statat(&found.fd, last, AtFlags::SYMLINK_NOFOLLOW));
        match (found, stat) {
            (Some(found), Some(Ok(stat))) => {
                let kind = FileType::from_raw_mode(stat.st_mode);
                if kind == FileType::Directory || is_whiteout(&stat) {
                    let target = show(&target);
                    return Err(Error::invalid(format!("refuse a hard link to {target}")));
                }
                if path_in(&found, last)? == path {
                    return Ok(());
                }
                self.replacing(place, name, |at| {
                    rustix::fs::linkat(&found.fd, last, at, name, AtFlags::empty())
                })
            }
            (None, _) | (_, None | Some(Err(Errno::NOENT))) => {
                // The name is not taken before: what had it is gone for good.
                match rustix::fs::statat(&place.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => {}
                    _ => self.remove(place, name)?,
                }
                more(&mut self.remembered, path.len() + target.len())?;
                self.links.push(implied::Link { path, target });
                Ok(())
            }
            (_, Some(Err(errno))) => Err(errno).context(|| format!("fstatat({})", show(last))),
        }
    }
}
