//! Files and directories that are made only to mount something onto them. They are not what the step
//! did, so they go again: those that were not there before, if they are as empty as they were made.
//!
//! The step may have exchanged anything meanwhile (CVE-2024-23652): everything is looked up in its root,
//! without following links, and only what has nothing in it is removed.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};

/// Paths that were missing, those below others first.
#[derive(Debug)]
pub(super) struct Stubs(BTreeSet<std::cmp::Reverse<String>>);

impl Stubs {
    /// Notes what is missing on the way to the targets.
    pub(super) fn note<'a>(root: BorrowedFd<'_>, targets: impl Iterator<Item = &'a str>) -> Self {
        let mut missing = BTreeSet::new();
        for target in targets {
            let mut path = String::new();
            for part in target.split('/').filter(|part| !part.is_empty()) {
                path.push('/');
                path.push_str(part);
                if open(root, &path, true).is_none() {
                    missing.insert(std::cmp::Reverse(path.clone()));
                }
            }
        }
        Self(missing)
    }

    /// Removes what is as it was made.
    pub(super) fn clean(&self, root: BorrowedFd<'_>) {
        for std::cmp::Reverse(path) in &self.0 {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            let Some(parent) = open(root, parent, false) else {
                continue;
            };
            let Ok(stat) = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let flags = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => AtFlags::REMOVEDIR,
                FileType::RegularFile if stat.st_size == 0 => AtFlags::empty(),
                _ => continue,
            };
            // A directory that has something in it stays.
            let _ = rustix::fs::unlinkat(&parent, name, flags);
        }
    }
}

/// Opens something in the root; `links` follows them, inside it.
fn open(root: BorrowedFd<'_>, path: &str, links: bool) -> Option<OwnedFd> {
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path };
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    if !links {
        resolve |= ResolveFlags::NO_SYMLINKS;
    }
    rustix::fs::openat2(
        root,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn e3_what_was_exchanged_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let canary = directory.path().join("canary");
        std::fs::create_dir_all(root.join("there")).unwrap();
        std::fs::create_dir_all(canary.join("y")).unwrap();
        std::fs::write(canary.join("file"), "").unwrap();
        let fd = OwnedFd::from(std::fs::File::open(&root).unwrap());
        let targets = ["/x/y", "/there/z", "/a/file", "/kept/dir", "/full"];
        let stubs = Stubs::note(fd.as_fd(), targets.into_iter());
        for path in ["there/z", "a", "kept/dir", "full"] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        std::fs::write(root.join("a/file"), "").unwrap();
        std::fs::write(root.join("kept/mine"), "x").unwrap();
        std::fs::write(root.join("full/mine"), "x").unwrap();
        std::os::unix::fs::symlink(&canary, root.join("x")).unwrap();
        stubs.clean(fd.as_fd());
        assert!(canary.join("y").is_dir() && canary.join("file").exists());
        for (path, stays) in [
            ("there", true),
            ("there/z", false),
            ("a", false),
            ("kept/dir", false),
            ("kept/mine", true),
            ("full/mine", true),
            ("x", true),
        ] {
            assert_eq!(root.join(path).symlink_metadata().is_ok(), stays, "{path}");
        }
    }
}
