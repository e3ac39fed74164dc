//! Masked and read-only paths (runtime-spec config-linux.md, "Masked Paths", "Readonly Paths").
//!
//! What covers a masked file is the host's /dev/null, opened before the container could touch
//! anything and checked to be that device (CVE-2025-31133); what covers a directory is one empty
//! read-only tmpfs, bound everywhere.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::mount::{attach, clone_tree, make_readonly};
use super::{Detail, During as _, Fail, Root};

/// Something to cover masked paths with.
#[derive(Debug)]
pub struct Covers<'a> {
    null: BorrowedFd<'a>,
    empty: Option<OwnedFd>,
}

impl<'a> Covers<'a> {
    /// Takes a descriptor of /dev/null, which is verified.
    pub fn new(null: BorrowedFd<'a>) -> Result<Self, Fail> {
        let stat = rustix::fs::fstat(null).during(Detail::Source)?;
        let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3);
        if !is_null {
            return Err(Fail { errno: Errno::NODEV, detail: Detail::Mismatch });
        }
        Ok(Self { null, empty: None })
    }

    /// Makes `path` empty and unwritable; a missing path needs no mask.
    pub fn mask(&mut self, root: &Root, path: &CStr) -> Result<(), Fail> {
        let target = match root.find(path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(()),
            answer => answer.during(Detail::Target)?,
        };
        let stat = rustix::fs::fstat(&target).during(Detail::Target)?;
        let cover = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            if self.empty.is_none() {
                self.empty = Some(empty_directory().during(Detail::Source)?);
            }
            let empty = self.empty.as_ref().ok_or(Errno::NOENT)?;
            clone_tree(empty.as_fd(), c"", false)
        } else {
            clone_tree(self.null, c"", false)
        };
        let cover = cover.during(Detail::Source)?;
        attach(cover.as_fd(), target.as_fd()).during(Detail::Attach)
    }
}

fn empty_directory() -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Two blocks and two inodes: the root directory, and nothing else whoever tries.
    rustix::mount::fsconfig_set_string(context.as_fd(), c"nr_blocks", c"1")?;
    rustix::mount::fsconfig_set_string(context.as_fd(), c"nr_inodes", c"1")?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes `path` and everything mounted below it read-only; a missing path is none.
pub fn readonly(root: &Root, path: &CStr) -> Result<(), Fail> {
    let target = match root.find(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        answer => answer.during(Detail::Target)?,
    };
    let tree = clone_tree(target.as_fd(), c"", true).during(Detail::Source)?;
    make_readonly(tree.as_fd(), false).during(Detail::Attributes)?;
    attach(tree.as_fd(), target.as_fd()).during(Detail::Attach)
}
