//! Mounts at places that people name, to look at an image or a snapshot: `mount` and `unmount`.
//!
//! They are known by their source ([`SOURCE`]) in the table of mounts, and no others are unmounted
//! ([`super::mounted`]).

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, StatxAttributes, StatxFlags, statx};
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount as unmount_path};

use super::mounted::{SOURCE, is_ours};
use super::record::Form;
use super::stack::{Mounting, Stack};
use super::store::Snapshot;
use crate::{Context, Error, ErrorKind, Result};

impl Stack {
    /// Mounts an image's layers onto a directory, read-only.
    pub fn mount_at(&self, at: &Path) -> Result<()> {
        let how = Mounting {
            source: SOURCE,
            ..Mounting::default()
        };
        attach(|| self.detached(&how), at)
    }
}

impl Snapshot {
    /// Mounts it onto a directory. For writing only if no container has it mounted.
    pub fn mount_at(&self, at: &Path, read_only: bool) -> Result<()> {
        if self.record().form == Form::Copy {
            let text = "it is a copy of its layers, and no file system";
            let id = self.id();
            return Err(Error::unsupported(text)
                .with_hint(format!("its files are in snapshots/{id}/root of the store")));
        }
        let how = Mounting {
            source: &format!("{SOURCE}:{}", self.id()),
            read_only,
            ..Mounting::default()
        };
        attach(|| self.detached(&how), at)
    }
}

fn attach(make: impl FnOnce() -> Result<OwnedFd>, at: &Path) -> Result<()> {
    let mount = || {
        let target = open(at)?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(make()?, c"", target, c"", flags).context(|| "cannot attach the mount")
    };
    mount().context(|| format!("cannot mount at {}", at.display()))
}

/// Unmounts what [`Stack::mount_at`] or [`Snapshot::mount_at`] mounted there last. What is in use goes
/// `lazy` only: nobody can open anything in it any more, and it is unmounted when nobody does.
pub fn unmount(at: &Path, lazy: bool) -> Result<()> {
    go(at, lazy).context(|| format!("cannot unmount {}", at.display()))
}

fn go(at: &Path, lazy: bool) -> Result<()> {
    let (parent, name) = {
        let target = open(at)?;
        check(&target)?;
        // Where that is without links, as the kernel has it. The descriptor is closed before the
        // mount goes, since it would be a user of it.
        let path = crate::layer::tree::proc_path(target.as_fd())?;
        let path = rustix::fs::readlink(path, Vec::new()).context(|| "cannot find its path")?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(path.into_bytes()));
        let name = path.file_name().map(ToOwned::to_owned);
        let parent = open(path.parent().unwrap_or(Path::new("/")))?;
        let name = name.ok_or_else(|| Error::invalid("it is the root directory"))?;
        check(&open_at(&parent, Path::new(&name))?)?;
        (parent, name)
    };
    let mut path = PathBuf::from(crate::layer::tree::proc_path(parent.as_fd())?);
    path.push(name);
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, lazy);
    unmount_path(&path, flags).map_err(|errno| {
        let error = Error::from(errno);
        match error.kind() {
            ErrorKind::Busy => error.context("something in it is in use"),
            _ => error,
        }
    })
}

fn open(path: &Path) -> Result<OwnedFd> {
    open_at(rustix::fs::CWD, path)
}

fn open_at(at: impl AsFd, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
        .context(|| format!("cannot open directory {}", path.display()))
}

/// Whether this is the root of a mount of ours.
fn check(target: &OwnedFd) -> Result<()> {
    let foreign = |what: &str| Error::new(ErrorKind::FailedPrecondition, what);
    let stat = statx(target, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)
        .context(|| "cannot examine it")?;
    if !stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Err(foreign("nothing is mounted there"));
    }
    match is_ours(stat.stx_mnt_id)? {
        true => Ok(()),
        false => Err(foreign("what is mounted there was mounted by others")),
    }
}
