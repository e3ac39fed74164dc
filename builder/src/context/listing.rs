//! What a tree has, for statements about it: the paths of everything that is no directory, with digests of
//! files.

use std::os::fd::{AsFd, BorrowedFd};

use rcrun_overlay::archive::name::{join, show};
use rcrun_overlay::digest::Algorithm;
use rustix::fs::{FileType, OFlags};

use super::open::{Opener, beneath, names, stat};
use super::tree::Tree;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Files that are listed at most; a statement has a line for each.
const FILES: usize = 1_000_000;
const BUFFER: usize = 128 << 10;

/// Something that is no directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its path, without a slash in front.
    pub path: Vec<u8>,
    /// Of its contents, if it is a file.
    pub digest: Option<Digest>,
}

/// Lists a tree, sorted within each directory; ignore files do not count. Links are listed, not followed.
pub fn list(tree: &Tree) -> Result<Vec<Listed>> {
    let mut opener = Opener::new(tree.shared_root());
    let mut found = Vec::new();
    let mut waiting: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(path) = waiting.pop() {
        let context = || format!("cannot list {} of {}", show(&path), tree.name());
        let directory = opener.get(&path).context(context)?;
        let mut below = Vec::new();
        for name in names(directory.as_fd()).context(context)? {
            let Some(stat) = stat(&directory, &name)? else {
                continue;
            };
            let path = join(&path, &name);
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory {
                below.push(path);
                continue;
            }
            if found.len() >= FILES {
                let text = format!("refuse to list more than {FILES} files of {}", tree.name());
                return Err(Error::new(ErrorKind::Exhausted, text));
            }
            let digest = match kind {
                FileType::RegularFile => {
                    let digest = digest(directory.as_fd(), &name);
                    Some(digest.context(|| format!("cannot read {}", show(&path)))?)
                }
                _ => None,
            };
            found.push(Listed { path, digest });
        }
        waiting.extend(below.into_iter().rev());
    }
    Ok(found)
}

fn digest(at: BorrowedFd<'_>, name: &[u8]) -> Result<Digest> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = beneath(at, name, flags)?;
    let (mut hasher, mut buffer) = (Algorithm::Sha256.hasher(), vec![0; BUFFER]);
    loop {
        match rustix::io::read(&file, &mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => hasher.update(&buffer[..length]),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_links_and_nothing_outside() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        std::fs::create_dir_all(root.join("b/c")).unwrap();
        std::fs::create_dir(root.join("empty")).unwrap();
        for (name, text) in [("a", "1"), ("b/c/d", "2"), ("b/e", "1")] {
            std::fs::write(root.join(name), text).unwrap();
        }
        symlink("/etc", root.join("link")).unwrap();
        let tree = Tree::open(root, "it").unwrap();
        let listed = list(&tree).unwrap();
        let paths: Vec<&[u8]> = listed.iter().map(|one| one.path.as_slice()).collect();
        assert_eq!(paths, [&b"a"[..], b"link", b"b/e", b"b/c/d"]);
        assert_eq!(listed[0].digest, Some(Digest::of(b"1")));
        assert_eq!(listed[1].digest, None);
        assert_eq!(listed[3].digest, Some(Digest::of(b"2")));
    }
}
