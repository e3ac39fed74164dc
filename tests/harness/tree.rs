//! Everything that can be seen of a tree of files, to compare two of them.

use rcrun_image::Digest;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// With the type.
    mode: u32,
    owner: (u32, u32),
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    device: u64,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Digest, or a link's target.
    content: Vec<u8>,
    /// All names of this file in the tree, if it is no directory.
    names: Vec<PathBuf>,
}

/// All files of a tree, by path.
pub(crate) type Files = BTreeMap<PathBuf, Facts>;

/// The files below a directory, which itself is the empty path. What containers and storage keep
/// for themselves in attributes is left out.
pub(crate) fn read(root: &Path) -> Files {
    let mut tree = Files::new();
    let mut files: BTreeMap<(u64, u64), Vec<PathBuf>> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = root.join(&path);
        let stat = fs::symlink_metadata(&full).unwrap();
        if stat.is_dir() {
            let entries = fs::read_dir(&full).unwrap();
            todo.extend(entries.map(|entry| path.join(entry.unwrap().file_name())));
        } else {
            let same = files.entry((stat.dev(), stat.ino())).or_default();
            same.push(path.clone());
        }
        let content = match stat.file_type() {
            kind if kind.is_file() => Digest::of(&fs::read(&full).unwrap()).hex().into(),
            kind if kind.is_symlink() => {
                fs::read_link(&full).unwrap().as_os_str().as_bytes().into()
            }
            _ => Vec::new(),
        };
        let kind = stat.file_type();
        let facts = Facts {
            mode: stat.mode(),
            owner: (stat.uid(), stat.gid()),
            modified: (stat.mtime(), stat.mtime_nsec()),
            device: match kind.is_char_device() || kind.is_block_device() {
                true => stat.rdev(),
                false => 0,
            },
            attributes: attributes(&full),
            content,
            names: Vec::new(),
        };
        tree.insert(path, facts);
    }
    for mut names in files.into_values() {
        names.sort();
        for name in &names {
            tree.get_mut(name).unwrap().names.clone_from(&names);
        }
    }
    tree
}

/// The extended attributes of a file, without those that containers and storage keep for themselves.
pub(crate) fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0) {
        let private = [&b"trusted.overlay."[..], b"security.selinux"];
        if name.is_empty() || private.iter().any(|one| name.starts_with(one)) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        found.insert(name.to_vec(), value);
    }
    found
}

/// Panics with every difference.
#[track_caller]
pub(crate) fn assert_same(ours: &Files, theirs: &Files) {
    let mut lines = Vec::new();
    let all: BTreeSet<&PathBuf> = ours.keys().chain(theirs.keys()).collect();
    for path in all {
        let (one, other) = (ours.get(path), theirs.get(path));
        if one != other {
            lines.push(format!("{path:?}:\n  {one:?}\n  {other:?}"));
        }
    }
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}
