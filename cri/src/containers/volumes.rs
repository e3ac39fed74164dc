//! Image volumes: images, or parts of them, that a container has as read-only mounts (KEP-4639).
//!
//! Each is attached below the container's directory, where the runtime binds it from: nothing of it can be
//! reached or changed from elsewhere. What is meant is looked up in the image as its root, once.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rcrun_overlay::snapshot::{Mounting, Stack};
use rcrun_runtime::pin;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags};
use tonic::Status;

use crate::core::{Container, Core};
use crate::images::Held;
use crate::proto::v1 as cri;
use crate::records::{Kind, Volume};
use crate::{Context, Error, ErrorKind, Result};

/// Below a container's directory.
const DIRECTORY: &str = "images";

/// Images of a container's mounts, by the index of the mount.
pub(super) type Volumes = BTreeMap<usize, Held>;

/// Holds the images that mounts name.
pub(super) async fn hold(core: &Core, config: &cri::ContainerConfig) -> Result<Volumes, Status> {
    let mut volumes = Volumes::new();
    for (index, mount) in config.mounts.iter().enumerate() {
        if let Some(spec) = mount.image.as_ref().filter(|spec| !spec.image.is_empty()) {
            volumes.insert(index, core.images.hold(&spec.image).await?);
        }
    }
    Ok(volumes)
}

/// Mounts one.
pub(super) fn mount(
    core: &Core,
    container: &Container,
    (index, held): (usize, &Held),
    below: &Path,
    mapped: bool,
) -> Result<Volume> {
    let failed = || format!("cannot mount image {} as mount {index}", held.name);
    let (store, way) = (&core.host.store, core.host.way);
    let layers = held.image.layers(way).context(failed)?;
    let stack = Stack::open(store, &layers, way.overlay()).context(failed)?;
    let users: Option<OwnedFd> = match mapped {
        true => Some(pin::open(&core.places.of_boot(&container.pod.id), "user")?),
        false => None,
    };
    let map = |tree: std::os::fd::BorrowedFd<'_>| match &users {
        Some(users) => rcrun_runtime::idmap::apply_namespace(tree, users.as_fd()),
        None => Ok(()),
    };
    let how = Mounting {
        read_only: true,
        idmap: mapped.then_some(&map),
        ..Mounting::default()
    };
    let tree = stack.detached(&how).context(failed)?;
    let directory = core
        .places
        .path(Kind::Container, &container.id)
        .join(DIRECTORY);
    let made = std::fs::create_dir_all(&directory);
    made.context(|| format!("cannot make {}", directory.display()))
        .context(failed)?;
    let path = directory.join(index.to_string());
    let part = match below.as_os_str().is_empty() {
        true => tree,
        false => part(&tree, below, &directory.join(format!("{index}-whole")))
            .context(|| format!("cannot find {} in it", below.display()))
            .context(failed)?,
    };
    let attach = || -> Result<()> {
        match is_directory(&part)? {
            true => std::fs::create_dir(&path)?,
            false => drop(std::fs::File::create_new(&path)?),
        }
        attach(&part, &path)
    };
    attach()
        .context(|| format!("cannot mount at {}", path.display()))
        .context(failed)?;
    Ok(Volume {
        index,
        path,
        image: held.facts(None),
    })
}

fn is_directory(fd: &OwnedFd) -> Result<bool, Errno> {
    let mode = rustix::fs::fstat(fd)?.st_mode;
    Ok(FileType::from_raw_mode(mode) == FileType::Directory)
}

fn attach(tree: &OwnedFd, path: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, c"", CWD, path, flags)?)
}

/// A mount of what is meant of a tree; the tree is its root. `place` is a directory that is not there yet.
fn part(tree: &OwnedFd, below: &Path, place: &Path) -> Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = rustix::fs::openat2(tree, below, flags, Mode::empty(), resolve)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    if !matches!(kind, FileType::Directory | FileType::RegularFile) {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "it is neither a directory nor a file",
        ));
    }
    match clone(&found) {
        Err(Errno::INVAL) => clone_attached(tree, &found, place),
        answer => Ok(answer?),
    }
}

fn clone(found: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(found, c"", flags)
}

/// Before 6.15 the kernel clones nothing of a mount that is attached nowhere: it is attached for as long as that
/// takes. Should this process be killed meanwhile, it goes with all mounts of the container.
fn clone_attached(tree: &OwnedFd, found: &OwnedFd, place: &Path) -> Result<OwnedFd> {
    std::fs::create_dir(place)?;
    attach(tree, place)?;
    let cloned = clone(found);
    rustix::mount::unmount(place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    std::fs::remove_dir(place)?;
    Ok(cloned?)
}

/// Unmounts all of a container's.
pub(super) fn unmount(core: &Core, id: &str) -> Result<()> {
    let directory = core.places.path(Kind::Container, id).join(DIRECTORY);
    unmount_each(&directory, |entry| entry)
}

/// Unmounts what is mounted at a place of each entry of a directory; there need not be one, nor anything.
pub(super) fn unmount_each(directory: &Path, place: impl Fn(PathBuf) -> PathBuf) -> Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.context(|| format!("cannot list {}", directory.display()))?,
    };
    for entry in entries {
        let path = place(entry?.path());
        match rustix::mount::unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => {
                return Err(errno).context(|| format!("cannot unmount {}", path.display()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What older kernels need works with all.
    #[test]
    fn a_part_of_a_mount_that_is_attached_for_a_moment() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(at("image/a/b")).unwrap();
        std::fs::write(at("image/a/b/file"), "text").unwrap();
        std::fs::create_dir(at("target")).unwrap();
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = rustix::mount::open_tree(CWD, at("image"), flags).unwrap();
        let found = rustix::fs::openat(&tree, "a/b", OFlags::PATH, Mode::empty()).unwrap();
        let part = clone_attached(&tree, &found, &at("whole")).unwrap();
        assert!(!at("whole").exists());
        attach(&part, &at("target")).unwrap();
        let text = std::fs::read_to_string(at("target/file"));
        rustix::mount::unmount(at("target"), UnmountFlags::DETACH).unwrap();
        assert_eq!(text.unwrap(), "text");
    }
}
