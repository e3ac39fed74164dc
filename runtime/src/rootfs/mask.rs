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
use super::{Detail, During as _, Fail, Root, Text};

/// Something to cover masked paths with: a tree that is attached at its first use, and bound from
/// there at the following ones (kernels before 6.15 cannot clone what is not attached).
#[derive(Debug, Default)]
pub(crate) struct Covers {
    null: Option<OwnedFd>,
    null_attached: bool,
    by_path: bool,
    empty: Option<OwnedFd>,
}

impl Covers {
    /// Takes /dev/null, which is verified; to be called while the host's is still there.
    pub(crate) fn prepare() -> Result<Self, Fail> {
        let null = match clone_tree(rustix::fs::CWD, c"/dev/null", false) {
            // Before 5.2: what covers is named by path, so it is done while the host's is there.
            Err(Errno::NOSYS) => {
                return Ok(Self {
                    by_path: true,
                    ..Self::default()
                });
            }
            other => other.during(Detail::Source)?,
        };
        let stat = rustix::fs::fstat(&null).during(Detail::Source)?;
        let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3);
        if !is_null {
            return Err(Fail {
                errno: Errno::NODEV,
                detail: Detail::Mismatch,
            });
        }
        Ok(Self {
            null: Some(null),
            ..Self::default()
        })
    }

    /// Whether masks and read-only paths have to be made before the root is switched.
    pub(crate) fn is_early(&self) -> bool {
        self.by_path
    }

    /// Makes `path` empty and unwritable; a missing path needs no mask. Directories get the SELinux
    /// label, so that they may be seen to be empty.
    pub(crate) fn mask(
        &mut self,
        root: &Root,
        path: &CStr,
        label: Option<&CStr>,
    ) -> Result<(), Fail> {
        let target = match root.find(path) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => return Ok(()),
            answer => answer.during(Detail::Target)?,
        };
        let stat = rustix::fs::fstat(&target).during(Detail::Target)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return if self.by_path {
                mount_empty(target.as_fd(), label)
            } else {
                self.cover_directory(target.as_fd(), label)
            };
        }
        if self.by_path {
            let bind = nix::mount::MsFlags::MS_BIND;
            let target = super::fd_path(target.as_fd());
            let none = None::<&CStr>;
            return nix::mount::mount(Some(c"/dev/null"), target.as_c_str(), none, bind, none)
                .during(Detail::Attach);
        }
        let null = self
            .null
            .as_ref()
            .ok_or(Errno::NOENT)
            .during(Detail::Source)?;
        cover(null.as_fd(), self.null_attached, target.as_fd())?;
        self.null_attached = true;
        Ok(())
    }

    fn cover_directory(
        &mut self,
        target: BorrowedFd<'_>,
        label: Option<&CStr>,
    ) -> Result<(), Fail> {
        match &self.empty {
            Some(empty) => cover(empty.as_fd(), true, target),
            None => {
                let empty = match empty_directory(label) {
                    // Before 5.2, or behind a filter that hides it: one tmpfs for each.
                    Err(Errno::NOSYS) => return mount_empty(target, label),
                    other => other.during(Detail::Source)?,
                };
                cover(empty.as_fd(), false, target)?;
                self.empty = Some(empty);
                Ok(())
            }
        }
    }
}

fn cover(tree: BorrowedFd<'_>, attached: bool, target: BorrowedFd<'_>) -> Result<(), Fail> {
    if !attached {
        return attach(tree, target).during(Detail::Attach);
    }
    let copy = clone_tree(tree, c"", false).during(Detail::Source)?;
    attach(copy.as_fd(), target).during(Detail::Attach)
}

fn mount_empty(target: BorrowedFd<'_>, label: Option<&CStr>) -> Result<(), Fail> {
    use nix::mount::MsFlags;
    rustix::process::fchdir(target).during(Detail::Target)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let name = Some(c"tmpfs");
    let mut data = Text::<1024>::new();
    data.push(b"nr_blocks=1,nr_inodes=1")?;
    if let Some(label) = label {
        data.push(b",context=\"")?
            .push(label.to_bytes())?
            .push(b"\"")?;
    }
    nix::mount::mount(name, c".", name, flags, Some(data.as_c_str())).during(Detail::Attach)?;
    Ok(rustix::process::chdir(c"/")?)
}

fn empty_directory(label: Option<&CStr>) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    // Two blocks and two inodes: the root directory, and nothing else whoever tries.
    rustix::mount::fsconfig_set_string(context.as_fd(), c"nr_blocks", c"1")?;
    rustix::mount::fsconfig_set_string(context.as_fd(), c"nr_inodes", c"1")?;
    if let Some(label) = label {
        rustix::mount::fsconfig_set_string(context.as_fd(), c"context", label)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes `path` read-only; what is mounted below it stays there, as it is. A missing path is none.
pub(crate) fn readonly(root: &Root, path: &CStr) -> Result<(), Fail> {
    let target = match root.find(path) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        answer => answer.during(Detail::Target)?,
    };
    let tree = match clone_tree(target.as_fd(), c"", true) {
        Err(Errno::NOSYS) => {
            let source = super::fd_path(target.as_fd());
            let mounted =
                super::classic::bind(root, source.as_c_str(), true, target.as_fd(), path)?;
            return make_readonly(mounted.as_fd(), false).during(Detail::Attributes);
        }
        other => other.during(Detail::Source)?,
    };
    make_readonly(tree.as_fd(), false).during(Detail::Attributes)?;
    attach(tree.as_fd(), target.as_fd()).during(Detail::Attach)
}
