//! Volumes that an image declares (`VOLUME`) and no mount of the pod covers: directories of the container
//! alone, which begin with what the image has there and go with the container.
//!
//! Nothing is copied: where the image has files, the volume is an overlay of the image's directory and
//! an own one.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rcrun_overlay::layer::attributes::{Fresh, complete_directory, of_stat, read_extended_of};
use rcrun_overlay::snapshot::mount::{Overlay, Upper};
use rcrun_overlay::snapshot::{Mounting, Stack};
use rcrun_runtime::pin;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::volumes;
use crate::core::{Container, Core};
use crate::records::Kind;
use crate::spec::IdMap;
use crate::{Context, Result};

/// Below a container's directory.
const DIRECTORY: &str = "volumes";
/// In a volume's directory: what the container sees.
const SEEN: &str = "data";

/// Makes them; where each is, by its path in the container.
pub(super) fn make(
    core: &Core,
    container: &Container,
    stack: &Stack,
    paths: &[String],
    map: Option<IdMap>,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut made = BTreeMap::new();
    if paths.is_empty() {
        return Ok(made);
    }
    let users = match map {
        Some(_) => Some(pin::open(&core.places.of_boot(&container.pod.id), "user")?),
        None => None,
    };
    let mapping = |tree: std::os::fd::BorrowedFd<'_>| match &users {
        Some(users) => rcrun_runtime::idmap::apply_namespace(tree, users.as_fd()),
        None => Ok(()),
    };
    // As the container sees it.
    let image = stack.detached(&Mounting {
        read_only: true,
        idmap: users.is_some().then_some(&mapping),
        ..Mounting::default()
    })?;
    let all = core
        .places
        .path(Kind::Container, &container.id)
        .join(DIRECTORY);
    std::fs::create_dir(&all).context(|| format!("cannot make {}", all.display()))?;
    for (number, path) in paths.iter().enumerate() {
        let volume = all.join(number.to_string());
        let seen = one(core, &image, path, &volume, map)
            .context(|| format!("cannot make the image's volume {path}"))?;
        made.insert(path.clone(), seen);
    }
    Ok(made)
}

fn one(
    core: &Core,
    image: &OwnedFd,
    path: &str,
    volume: &Path,
    map: Option<IdMap>,
) -> Result<PathBuf> {
    let seen = volume.join(SEEN);
    std::fs::create_dir_all(&seen)?;
    let of_root = map.and_then(|map| map.outside(0));
    let inside = match open(image, path, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(inside) => inside,
        // As the runtime would make it.
        Err(Errno::NOENT) => {
            std::os::unix::fs::chown(&seen, of_root, of_root)?;
            return Ok(seen);
        }
        Err(errno) => return Err(errno.into()),
    };
    let is_empty = std::fs::read_dir(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&inside)
    ))?
    .next()
    .is_none();
    if is_empty {
        like(&inside, &directory(&seen)?)?;
        return Ok(seen);
    }
    for name in ["changes", "work"] {
        std::fs::create_dir(volume.join(name))?;
    }
    let (changes, work) = (
        directory(&volume.join("changes"))?,
        directory(&volume.join("work"))?,
    );
    like(&inside, &changes)?;
    let overlay = Overlay {
        source: "overlay",
        lowers: vec![inside.as_fd()],
        upper: Some(Upper {
            changes: changes.as_fd(),
            work: work.as_fd(),
        }),
        user_attributes: core.host.way.overlay() != rcrun_overlay::layer::Overlay::Trusted,
        volatile: false,
    };
    overlay.attach(directory(&seen)?)?;
    Ok(seen)
}

fn open(root: &OwnedFd, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = match path.trim_matches('/') {
        "" => ".",
        path => path,
    };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

fn directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .context(|| format!("cannot open {}", path.display()))
}

/// Gives a directory owner, mode, times and attributes of another.
fn like(one: &OwnedFd, other: &OwnedFd) -> Result<()> {
    let attributes = of_stat(&rustix::fs::fstat(one)?, read_extended_of(one.as_fd())?);
    let fresh = Fresh {
        umask: 0o777,
        owner: None,
        chown: true,
    };
    complete_directory(other.as_fd(), &attributes, fresh, &mut 0)
}

/// Unmounts all of a container's.
pub(super) fn release(core: &Core, id: &str) -> Result<()> {
    let all = core.places.path(Kind::Container, id).join(DIRECTORY);
    volumes::unmount_each(&all, |volume| volume.join(SEEN))
}
