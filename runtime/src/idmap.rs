//! Mounts that map ids (mount_setattr(2), `MOUNT_ATTR_IDMAP`): for those who prepare a container's
//! root file system before the container, and hence its user namespace, exists.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use oci_spec::runtime::LinuxIdMapping;
use rustix::io::Errno;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::parent;
use crate::operations::caller::prove_single_threaded;
use crate::plan::namespaces::{IdMaps, map_text};
use crate::sys::mount::{MountAttr, attr, mount_setattr};

/// A user namespace for mounts, with nobody in it.
#[derive(Debug)]
pub struct Mapping(OwnedFd);

impl Mapping {
    /// With the maps of a container (`linux.uidMappings`, `linux.gidMappings`). Needs a process with
    /// one thread.
    pub fn new(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<Self> {
        let maps = IdMaps {
            uids: map_text(uids),
            gids: map_text(gids),
            uid_list: uids.to_vec(),
            gid_list: gids.to_vec(),
        };
        parent::user_namespace(prove_single_threaded()?, &maps).map(Self)
    }

    /// Gives them to a mount that is attached nowhere: what is 0 on the disk belongs to the
    /// container's root.
    pub fn apply(&self, tree: impl AsFd) -> Result<()> {
        apply_namespace(tree.as_fd(), self.0.as_fd())
    }
}

/// Gives the maps of a user namespace to a mount that is attached nowhere.
pub fn apply_namespace(tree: BorrowedFd<'_>, users: BorrowedFd<'_>) -> Result<()> {
    apply(tree, users, false)
        .map_err(|errno| match errno {
            Errno::INVAL => Error::new(
                ErrorKind::Unsupported,
                "the file system cannot map ids (or its mount does so already)",
            ),
            errno => Error::from(errno),
        })
        .context(|| "cannot map the ids of a mount")
}

pub(crate) fn apply(
    tree: BorrowedFd<'_>,
    users: BorrowedFd<'_>,
    recursive: bool,
) -> Result<(), Errno> {
    let change = MountAttr {
        set: attr::IDMAP,
        userns_fd: u64::try_from(users.as_raw_fd()).map_err(|_| Errno::BADF)?,
        ..MountAttr::default()
    };
    mount_setattr(tree, c"", recursive, &change)
}
