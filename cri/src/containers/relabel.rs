//! Volumes that are labelled anew for a container (SELinux; `selinux_relabel` of a mount): the tree gets the
//! container's context, as `chcon -R` would do it. Links are labelled, not followed.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{CWD, Dir, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::{Context, Result};

/// The attribute that has a file's context (selinux(8)).
const ATTRIBUTE: &str = "security.selinux";

/// Labels a file, or a directory with all that is in it. What is removed meanwhile needs none.
pub(super) fn relabel(path: &Path, context: &str) -> Result<()> {
    tree(path, ATTRIBUTE, context).context(|| {
        let path = path.display();
        format!(
            "cannot label {path} with {context:?}: mount it without a label, or label it yourself"
        )
    })
}

fn tree(path: &Path, attribute: &str, context: &str) -> Result<()> {
    let value = format!("{context}\0");
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::open(path, flags, Mode::empty())?;
    // The descriptor's own link is followed: it is the file, whatever has its name by now.
    let place = format!("/proc/self/fd/{}", top.as_raw_fd());
    match rustix::fs::setxattr(&place, attribute, value.as_bytes(), XattrFlags::empty()) {
        // A file system without labels has those of its mount, as with containerd.
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    }
    match directory(CWD, Path::new(&place), false)? {
        Some(top) => Ok(below(&top, attribute, value.as_bytes())?),
        None => Ok(()),
    }
}

fn below(parent: &OwnedFd, attribute: &str, value: &[u8]) -> Result<(), Errno> {
    for entry in Dir::read_from(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let name = Path::new(OsStr::from_bytes(name.to_bytes()));
        let place = Path::new("/proc/self/fd")
            .join(parent.as_raw_fd().to_string())
            .join(name);
        match rustix::fs::lsetxattr(&place, attribute, value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        if let Some(child) = directory(parent, name, true)? {
            below(&child, attribute, value)?;
        }
    }
    Ok(())
}

/// Opens it, if it is a directory.
fn directory(at: impl AsFd, path: &Path, entry: bool) -> Result<Option<OwnedFd>, Errno> {
    let mut flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    flags.set(OFlags::NOFOLLOW, entry);
    match rustix::fs::openat(at, path, flags, Mode::empty()) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everybody may set this one; a link cannot have it (xattr(7)).
    const OURS: &str = "user.label";

    fn label(path: &Path, attribute: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 64];
        let length = rustix::fs::lgetxattr(path, attribute, value.as_mut_slice()).ok()?;
        value.truncate(length);
        Some(value)
    }

    #[test]
    fn a_tree_is_labelled_and_nothing_outside() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("volume/a/b")).unwrap();
        for name in ["volume/file", "volume/a/b/file", "outside"] {
            std::fs::write(path(name), "").unwrap();
        }
        tree(&path("volume"), OURS, "x:y:z:s0").unwrap();
        for name in [
            "volume",
            "volume/file",
            "volume/a",
            "volume/a/b",
            "volume/a/b/file",
        ] {
            assert_eq!(
                label(&path(name), OURS).as_deref(),
                Some(&b"x:y:z:s0\0"[..]),
                "{name}"
            );
        }
        assert_eq!(label(&path("outside"), OURS), None);
    }

    #[test]
    fn links_are_labelled_and_not_followed() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("volume")).unwrap();
        std::fs::create_dir_all(path("secret")).unwrap();
        std::os::unix::fs::symlink(path("secret"), path("volume/link")).unwrap();
        match relabel(&path("volume"), "x:y:z:s0") {
            // Without a policy it is an attribute like others, and root's.
            Ok(()) => {
                assert!(label(&path("volume/link"), ATTRIBUTE).is_some());
                assert_ne!(
                    label(&path("secret"), ATTRIBUTE).as_deref(),
                    Some(&b"x:y:z:s0\0"[..])
                );
            }
            Err(error) => println!("skipped: {}", error.chain()),
        }
    }
}
