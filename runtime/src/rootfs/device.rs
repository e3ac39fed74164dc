//! Device nodes and links of /dev: mknod(2), or a bind of the host's node where mknod is forbidden.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::mount::{Sources, attach, clone_tree, set_attributes};
use super::resolve::{Links, Want};
use super::{Detail, During as _, Fail, Root};
use crate::plan::Device;
use crate::plan::devices::Link;
use crate::sys::mount::{MountAttr, attr};

/// Makes devices; most of them lie in the same directory, which is looked up once.
#[derive(Debug, Default)]
pub(crate) struct Maker<'p> {
    directory: Option<(OwnedFd, &'p [u8])>,
}

impl<'p> Maker<'p> {
    /// Makes one device, with a umask of 0. In a user namespace nodes cannot be made: there they come
    /// from the host, or, the host having none, from `outside`.
    pub(crate) fn make(
        &mut self,
        root: &Root,
        device: &'p Device,
        index: usize,
        outside: Option<&mut (dyn Sources + '_)>,
    ) -> Result<(), Fail> {
        if let Some(outside) = outside
            && device.kind != libc::S_IFIFO
        {
            let source = match host_node(device) {
                // That the host has none is the reason to name, whatever the other one is.
                Err(fail) => outside.fetch_node(index).map_err(|_| fail)?,
                Ok(source) => source,
            };
            return bind_node(root, device, &source);
        }
        let (directory, name) = self.place(root, &device.path).during(Detail::Target)?;
        let kind = FileType::from_raw_mode(device.kind);
        let mode = Mode::from_raw_mode(device.mode);
        let number = rustix::fs::makedev(device.major, device.minor);
        match rustix::fs::mknodat(directory, name, kind, mode, number) {
            Err(Errno::EXIST) => return existing(directory, name, device),
            // Some sandboxes forbid mknod to root; binding is as good.
            Err(Errno::PERM) if device.kind != libc::S_IFIFO => {
                return bind_node(root, device, &host_node(device)?);
            }
            answer => answer.during(Detail::Node)?,
        }
        if (device.uid, device.gid) != (0, 0) {
            let (uid, gid) = (Uid::from_raw(device.uid), Gid::from_raw(device.gid));
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(directory, name, Some(uid), Some(gid), flags)
                .during(Detail::Owner)?;
        }
        Ok(())
    }

    fn place(&mut self, root: &Root, path: &'p CStr) -> Result<(BorrowedFd<'_>, &'p CStr), Errno> {
        let end = path
            .to_bytes()
            .iter()
            .rposition(|b| *b == b'/')
            .unwrap_or(0);
        let above = &path.to_bytes()[..end];
        if self
            .directory
            .as_ref()
            .is_none_or(|(_, known)| *known != above)
        {
            self.directory = Some((root.parent(path)?.0, above));
        }
        let name = CStr::from_bytes_with_nul(&path.to_bytes_with_nul()[end + 1..]);
        let (fd, _) = self.directory.as_ref().ok_or(Errno::NOENT)?;
        Ok((fd.as_fd(), name.map_err(|_| Errno::INVAL)?))
    }
}

/// A node that is there already is taken if it is the right one, and left as it is.
fn existing(directory: BorrowedFd<'_>, name: &CStr, device: &Device) -> Result<(), Fail> {
    let place = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = rustix::fs::openat(directory, name, place, Mode::empty()).during(Detail::Node)?;
    check_number(&node, device)
}

fn check_number(node: &OwnedFd, device: &Device) -> Result<(), Fail> {
    let stat = rustix::fs::fstat(node).during(Detail::Node)?;
    let fifo = device.kind == libc::S_IFIFO;
    let number = rustix::fs::makedev(device.major, device.minor);
    if stat.st_mode & libc::S_IFMT != device.kind || (!fifo && stat.st_rdev != number) {
        return Err(Fail {
            errno: Errno::EXIST,
            detail: Detail::Mismatch,
        });
    }
    Ok(())
}

/// The host's node of the same name; /dev is still the host's from where this process stands.
fn host_node(device: &Device) -> Result<OwnedFd, Fail> {
    let source = clone_tree(rustix::fs::CWD, &device.path, false).during(Detail::Source)?;
    check_number(&source, device)?;
    Ok(source)
}

fn bind_node(root: &Root, device: &Device, source: &OwnedFd) -> Result<(), Fail> {
    let (target, _) = root
        .ensure(&device.path, Want::File, Links::Follow)
        .during(Detail::Target)?;
    attach(source.as_fd(), target.as_fd()).during(Detail::Attach)?;
    // Nothing is lost, and the host's own mount need not have them.
    let harmless = MountAttr {
        set: attr::NOSUID | attr::NOEXEC,
        ..MountAttr::default()
    };
    set_attributes(source.as_fd(), &harmless, false).during(Detail::Attributes)
}

/// Refuses a /dev that is a link: devices would turn up at a place that nobody asked to have changed.
/// A link that somebody puts there later leads to a place in the container all the same ([`Root`]).
pub(crate) fn refuse_link(root: &Root) -> Result<(), Fail> {
    match rustix::fs::statat(root.as_fd(), c"dev", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => Err(Fail {
            errno: Errno::LOOP,
            detail: Detail::TargetIsLink,
        }),
        // Missing: it is made.
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno).during(Detail::Target),
    }
}

/// Makes one link; a link that is there already and says the same is fine.
pub(crate) fn link(root: &Root, link: &Link) -> Result<(), Fail> {
    let (directory, name) = root.parent(link.path).during(Detail::Target)?;
    match rustix::fs::symlinkat(link.target, &directory, name) {
        // Whatever the image has there is the image's business.
        Err(Errno::EXIST) => Ok(()),
        answer => answer.during(Detail::Node),
    }
}

/// Makes /dev/ptmx the container's own multiplexer, replacing what is there.
pub(crate) fn ptmx(root: &Root, link: &Link) -> Result<(), Fail> {
    let (directory, name) = root.parent(link.path).during(Detail::Target)?;
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        // Bound from the host, or a directory: left alone.
        Err(Errno::BUSY | Errno::ISDIR | Errno::PERM) => return Ok(()),
        Err(errno) => {
            return Err(Fail {
                errno,
                detail: Detail::Node,
            });
        }
    }
    rustix::fs::symlinkat(link.target, &directory, name).during(Detail::Node)
}
