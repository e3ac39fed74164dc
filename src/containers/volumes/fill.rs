//! What an image has where a volume is mounted is copied into the volume, if that is empty: once, and
//! whole or not at all. A file beside the volume's files says that a copy was begun; whoever finds it
//! begins anew.

use std::os::fd::AsFd;

use rcrun_overlay::durable;
use rcrun_overlay::layer::attributes::{Fresh, complete_directory, of_stat, read_extended_of};
use rcrun_overlay::layer::tree;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::Volume;
use crate::containers::RootDirectory;
use crate::containers::copy::{self, Base, Packing, Unpacking};

/// Beside the volume's files while something is copied into it.
const COPYING: &str = "copying";

/// How a volume is filled.
pub(super) struct Filling<'a> {
    /// The image's files, in the root of the container's snapshot.
    pub(super) root: &'a RootDirectory<'a>,
    /// The id to set for one inside of the container.
    pub(super) id: &'a dyn Fn(u32) -> Option<u32>,
    /// The copy is to be there after a power cut.
    pub(super) lasting: bool,
    /// Some container has the volume mounted: what is there is its, even if a copy was broken off.
    pub(super) mounted: &'a dyn Fn() -> Result<bool>,
}

impl Volume {
    /// Copies what is at this path, if the volume is empty. Nothing being there is fine; a file is not.
    pub(super) fn fill(&self, path: &str, filling: &Filling<'_>) -> Result<()> {
        let failed = || format!("cannot copy the image's {path} to volume {}", self.name());
        self.copy(path, filling).context(failed)
    }

    fn copy(&self, path: &str, filling: &Filling<'_>) -> Result<()> {
        let data = self.data()?;
        if self.has(COPYING) {
            if !(filling.mounted)()? {
                for name in tree::names(&data)? {
                    tree::remove(data.as_fd(), &name)?;
                }
            }
            self.copied()?;
        }
        if !tree::names(&data)?.is_empty() {
            return Ok(());
        }
        let flags = OFlags::PATH;
        let source = match filling.root.open(path.as_bytes(), flags) {
            Ok(source) => source,
            // As the runtime will make it: root's.
            Err(Errno::NOENT) => return self.give(filling),
            Err(errno) => return Err(errno).context(|| format!("cannot open {path}")),
        };
        let stat = rustix::fs::fstat(&source)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let text = "it is a file, on which no directory can be mounted";
            return Err(Error::new(ErrorKind::FailedPrecondition, text));
        }
        if !tree::names(&source)?.is_empty() {
            self.copying()?;
            let id = |id| filling.root.id_inside(id);
            let packing = Packing { id: &id };
            let unpacking = Unpacking {
                owner: None,
                id: filling.id,
                powerful: true,
            };
            let base = Base::Host(data.try_clone()?);
            copy::through(
                |sink| copy::pack(source.as_fd(), b"", &packing, sink).map(drop),
                |reader| copy::unpack(base, reader, &unpacking),
            )?;
        }
        let mut attributes = of_stat(&stat, read_extended_of(source.as_fd())?);
        let missing = |id: u32| Error::invalid(format!("the container has no id {id}"));
        let id = |id: u32| (filling.id)(filling.root.id_inside(id)).ok_or_else(|| missing(id));
        (attributes.uid, attributes.gid) = (id(stat.st_uid)?, id(stat.st_gid)?);
        let fresh = Fresh {
            umask: 0o777,
            owner: None,
            chown: rustix::process::geteuid().is_root(),
        };
        complete_directory(data.as_fd(), &attributes, fresh, &mut 0)?;
        if self.has(COPYING) {
            if filling.lasting {
                rustix::fs::syncfs(&data).context(|| "cannot sync it")?;
            }
            self.copied()?;
        }
        Ok(())
    }

    /// The directory belongs to the container's root.
    fn give(&self, filling: &Filling<'_>) -> Result<()> {
        let root = (filling.id)(0).map(rustix::fs::Uid::from_raw);
        let group = (filling.id)(0).map(rustix::fs::Gid::from_raw);
        match rustix::fs::fchown(self.data()?, root, group) {
            Ok(()) => Ok(()),
            Err(errno) => Err(errno).context(|| "cannot give it to the container's root"),
        }
    }

    /// Says, durably, that the files are not to be believed.
    fn copying(&self) -> Result<()> {
        durable::replace(self.fd(), COPYING, b"", Mode::from(0o600))
    }

    /// Takes it back, before anybody can write to the volume.
    fn copied(&self) -> Result<()> {
        match rustix::fs::unlinkat(self.fd(), COPYING, AtFlags::empty()) {
            Ok(()) => durable::sync_directory(self.fd()),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).context(|| "cannot remove the mark of a copy"),
        }
    }
}
