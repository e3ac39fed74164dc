//! What one image's files have become in another: both seen through their layers, without a mount, so for
//! ordinary users too.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rcrun_overlay::archive::name::{join, show};
use rcrun_overlay::layer::attributes::read_extended_of;
use rcrun_overlay::layer::changes::with_directories;
use rcrun_overlay::layer::merged::{Found, Merged};
use rcrun_overlay::layer::tree::proc_path;
use rcrun_overlay::layer::{Change, ChangeKind};
use rcrun_overlay::lease::LayerId;
use rcrun_overlay::snapshot::Stack;
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};

use super::{mounts, way};

/// How much of two files is compared at once.
const CHUNK: usize = 128 << 10;

/// What is different in the second image, sorted by path. Neither goes meanwhile.
pub(crate) fn images(store: &Store, old: &str, new: &str) -> Result<Vec<Change>> {
    let lease = store.lease()?;
    let layers = |name: &str| -> Result<Vec<LayerId>> {
        mounts::held(store, &lease, name, way())?.layers(way())
    };
    let (old, new) = (layers(old)?, layers(new)?);
    let marks = way().overlay();
    let (old, new) = (
        Stack::open(store, &old, marks)?,
        Stack::open(store, &new, marks)?,
    );
    let mut old = Merged::new(&old.lowers(), marks)?;
    let mut new = Merged::new(&new.lowers(), marks)?;
    differences(&mut old, &mut new)
}

fn differences(old: &mut Merged, new: &mut Merged) -> Result<Vec<Change>> {
    let mut changes = BTreeSet::new();
    let mut todo = vec![Vec::new()];
    while let Some(parent) = todo.pop() {
        let was = names(old, &parent)?;
        let here = names(new, &parent)?;
        for name in was.difference(&here) {
            let (path, kind) = (join(&parent, name), ChangeKind::Deleted);
            changes.insert(Change { path, kind });
        }
        for name in &here {
            let path = join(&parent, name);
            let Some(found) = new.find(&path)? else {
                continue;
            };
            let before = match was.contains(name) {
                true => old.find(&path)?,
                false => None,
            };
            let failed = || format!("cannot compare {}", show(&path));
            let kind = match &before {
                None => Some(ChangeKind::Added),
                Some(before) => is_other(before, &found)
                    .context(failed)?
                    .then_some(ChangeKind::Modified),
            };
            if found.is_directory() {
                todo.push(path.clone());
            }
            changes.extend(kind.map(|kind| Change { path, kind }));
        }
    }
    Ok(with_directories(changes))
}

/// The names in a directory; none in what is none there.
fn names(tree: &mut Merged, path: &[u8]) -> Result<BTreeSet<Vec<u8>>> {
    match tree.find(path)? {
        // What is reached by a link has another path.
        Some(found) if found.is_directory() && found.path == path => tree.names(path),
        _ => Ok(BTreeSet::new()),
    }
}

/// Whether anything but the time of a directory is different.
fn is_other(old: &Found, new: &Found) -> Result<bool> {
    let (was, is) = (&old.stat, &new.stat);
    // One file of a layer that both have.
    if (was.st_dev, was.st_ino) == (is.st_dev, is.st_ino) {
        return Ok(false);
    }
    let facts = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec, stat.st_size);
    if facts(was) != facts(is) || (!new.is_directory() && times(was) != times(is)) {
        return Ok(true);
    }
    let (was, is) = (old.file.as_fd(), new.file.as_fd());
    Ok(match FileType::from_raw_mode(new.stat.st_mode) {
        FileType::Symlink => target(was)? != target(is)?,
        FileType::RegularFile => attributes(was)? != attributes(is)? || !same_bytes(was, is)?,
        FileType::Directory => attributes(was)? != attributes(is)?,
        _ => false,
    })
}

fn target(link: BorrowedFd<'_>) -> Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(link, c"", Vec::new())?.into_bytes())
}

/// Extended attributes that are an image's, sorted.
fn attributes(file: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let all = read_extended_of(file)?.into_iter();
    let mut all: Vec<_> = all
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect();
    all.sort_unstable();
    Ok(all)
}

/// Whether two regular files of one size have the same content.
fn same_bytes(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> Result<bool> {
    let open = |fd| -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let path = proc_path(fd)?;
        Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?.into())
    };
    let (mut one, mut other) = (open(one)?, open(other)?);
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let count = one.read(&mut left)?;
        if count == 0 {
            return Ok(other.read(&mut right)? == 0);
        }
        match other.read_exact(&mut right[..count]) {
            Ok(()) if left[..count] == right[..count] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}
