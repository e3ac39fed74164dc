//! The container's root directory, made ready for criu: criu wants it to be a mount point, and every
//! mount point of the container to exist in it.
//!
//! All of it happens in a mount namespace of criu's own, where the root covers the container's state
//! directory: the host never sees these mounts, and they are gone with criu, whatever happens. criu
//! also mounts in its work directory, so that must be opened in there too.
//! Mount points are made in the order of the configuration, each bind mount in place while those
//! below it are made, as when a container is created.
//!
//! [`Root::prepare`] runs between fork and execve and allocates nothing.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::UnmountFlags;

use crate::error::Result;
use crate::launch::wire::{Message, Tag, Wire};
use crate::plan::{MountKind, Plan, c_path};
use crate::rootfs::mount::attach;
use crate::rootfs::resolve::{Links, Want};
use crate::rootfs::{Detail, During as _, Fail, Root as Inside, fd_path};

/// One mount point.
#[derive(Debug)]
struct Place {
    /// In the container.
    target: CString,
    /// What is bound there.
    source: Option<CString>,
    links: Links,
}

/// What is to be made ready, laid out.
#[derive(Debug)]
pub(super) struct Root {
    rootfs: CString,
    /// The root as a mount that is attached nowhere yet.
    tree: Option<Arc<OwnedFd>>,
    at: CString,
    /// criu's own.
    directories: Vec<CString>,
    places: Vec<Place>,
}

impl Root {
    /// Decides; `tree` is the root where that came as a mount, `at` a directory that the root may cover,
    /// `directories` are those criu works in.
    pub(super) fn plan(
        plan: &Plan,
        tree: Option<&Arc<OwnedFd>>,
        at: &Path,
        directories: &[&Path],
    ) -> Result<Self> {
        let tmpfs: Vec<&[u8]> = plan
            .mounts
            .iter()
            .filter(|step| match &step.kind {
                MountKind::Filesystem(fs) => fs.fstype.as_c_str() == c"tmpfs",
                _ => false,
            })
            .map(|step| step.target.to_bytes())
            .collect();
        // criu restores what a tmpfs held, mount points included.
        let on_tmpfs = |target: &CStr| {
            tmpfs.iter().any(|top| {
                target
                    .to_bytes()
                    .strip_prefix(*top)
                    .is_some_and(|r| r.starts_with(b"/"))
            })
        };
        let place = |step: &crate::plan::MountStep| {
            let (source, links) = match &step.kind {
                // v1: below a tmpfs; v2: appears with sysfs.
                MountKind::Cgroup | MountKind::Remount(_) => return None,
                MountKind::Bind(bind) => (Some(bind.source.clone()), Links::Follow),
                MountKind::Filesystem(fs) => {
                    let kernel_view = matches!(fs.fstype.to_bytes(), b"proc" | b"sysfs");
                    let links = if kernel_view {
                        Links::Refuse
                    } else {
                        Links::Follow
                    };
                    (None, links)
                }
            };
            (!on_tmpfs(&step.target)).then(|| Place {
                target: step.target.clone(),
                source,
                links,
            })
        };
        Ok(Self {
            rootfs: plan.rootfs.path.clone(),
            tree: tree.cloned(),
            at: c_path(at)?,
            directories: directories
                .iter()
                .map(|d| c_path(d))
                .collect::<Result<_>>()?,
            places: plan.mounts.iter().filter_map(place).collect(),
        })
    }

    /// Makes everything ready in the calling process's own mount namespace; hands the directories to
    /// `keep`, in their order. `index` tells how far it came: 0 is the root.
    pub(super) fn prepare(&self, keep: &Wire, index: &mut u32) -> Result<(), Fail> {
        let none = None::<&CStr>;
        mount(none, c"/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
            .during(Detail::Propagation)?;
        for directory in &self.directories {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(directory.as_c_str(), flags, Mode::empty())
                .during(Detail::Open)?;
            keep.send_with(&Message::new(Tag::Source), fd.as_fd())?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        let (rootfs, at) = (self.rootfs.as_c_str(), self.at.as_c_str());
        match &self.tree {
            Some(tree) => {
                let place = rustix::fs::open(at, flags, Mode::empty()).during(Detail::Open)?;
                attach(tree.as_fd(), place.as_fd()).during(Detail::Attach)?;
            }
            None => mount(Some(rootfs), at, none, bind, none).during(Detail::Attach)?,
        }
        let inside = rustix::fs::open(self.at.as_c_str(), flags, Mode::empty())
            .map(Inside::new)
            .during(Detail::Open)?;
        for place in &self.places {
            *index += 1;
            let target = place.make(&inside)?;
            if let Some(source) = &place.source {
                let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
                let path = fd_path(target.as_fd());
                mount(Some(source.as_c_str()), path.as_c_str(), none, flags, none)
                    .during(Detail::Attach)?;
            }
        }
        for place in self
            .places
            .iter()
            .rev()
            .filter(|place| place.source.is_some())
        {
            let mounted = inside.find(&place.target).during(Detail::Target)?;
            rustix::mount::unmount(fd_path(mounted.as_fd()).as_c_str(), UnmountFlags::DETACH)
                .during(Detail::Attach)?;
        }
        Ok(())
    }

    /// What was being made, for an error message.
    pub(super) fn place(&self, index: u32) -> String {
        let place = (index as usize)
            .checked_sub(1)
            .and_then(|i| self.places.get(i));
        match place {
            Some(place) => format!(
                "cannot make the mount point {} in {}",
                place.target.to_string_lossy(),
                self.rootfs.to_string_lossy()
            ),
            None => format!(
                "cannot make {} a mount point",
                self.rootfs.to_string_lossy()
            ),
        }
    }
}

impl Place {
    fn make(&self, inside: &Inside) -> Result<OwnedFd, Fail> {
        let want = match &self.source {
            None => Want::Directory,
            Some(source) => {
                let stat = rustix::fs::stat(source.as_c_str()).during(Detail::Source)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => Want::Directory,
                    _ => Want::File,
                }
            }
        };
        let made = inside.ensure(&self.target, want, self.links);
        made.map(|(target, _)| target).during(Detail::Target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::external::tests::plan;

    #[test]
    fn mount_points_below_a_tmpfs_and_cgroups_are_left_to_criu() {
        let plan = plan(&serde_json::json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
            {"destination": "/devices", "type": "tmpfs", "source": "x"},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
            {"destination": "/data", "source": "vol", "options": ["bind"]},
        ]));
        let root = Root::plan(&plan, None, Path::new("/run/x"), &[]).unwrap();
        let targets: Vec<_> = root
            .places
            .iter()
            .map(|p| p.target.to_str().unwrap())
            .collect();
        assert_eq!(targets, ["/proc", "/dev", "/devices", "/data"]);
        assert_eq!(root.places[3].source.as_deref(), Some(c"/b/vol"));
        assert_eq!(root.places[0].links, Links::Refuse);
        assert_eq!(
            root.place(4),
            "cannot make the mount point /data in /b/rootfs"
        );
        assert_eq!(root.place(0), "cannot make /b/rootfs a mount point");
    }
}
