//! What a container changed, for people: `rcrun diff`.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::merged::{Merged, is_opaque};
use super::options::Overlay;
use super::tree::is_kernels_whiteout;
use super::tree::{self, Tree};
use crate::archive::name::{join, show, split};
use crate::{Context, Result};

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It was there and is different, or something in it is.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// A file that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Relative to the root, not necessarily UTF-8.
    pub path: Vec<u8>,
    /// What happened to it.
    pub kind: ChangeKind,
}

impl ChangeKind {
    /// The letter that stands for it in listings, as with other engines.
    pub fn letter(self) -> char {
        match self {
            Self::Modified => 'C',
            Self::Added => 'A',
            Self::Deleted => 'D',
        }
    }
}

impl fmt::Display for Change {
    /// A letter and an absolute path. What is no text, or would end the line or command a terminal,
    /// is escaped as in Rust.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} /", self.kind.letter())?;
        for chunk in self.path.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character.is_control() {
                    true => write!(f, "{}", character.escape_default())?,
                    false => write!(f, "{character}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// These changes and those of the directories that they are in, sorted by path: a directory in which something
/// is different is different.
pub fn with_directories(mut changes: BTreeSet<Change>) -> Vec<Change> {
    let mut known: BTreeSet<Vec<u8>> = changes.iter().map(|one| one.path.clone()).collect();
    for mut path in known.clone() {
        loop {
            path = split(&path).0.to_vec();
            if path.is_empty() || !known.insert(path.clone()) {
                break;
            }
            let (path, kind) = (path.clone(), ChangeKind::Modified);
            changes.insert(Change { path, kind });
        }
    }
    changes.into_iter().collect()
}

/// What an upper directory changes of the layers below it (top first), sorted by path. A running
/// container may go on meanwhile: what vanishes is left out.
pub fn changes(
    upper: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    overlay: Overlay,
) -> Result<Vec<Change>> {
    let mut tree = Tree::new(upper)?;
    let mut below = Merged::new(lowers, overlay)?;
    let mut changes = Vec::new();
    let mut todo = vec![Vec::new()];
    while let Some(parent) = todo.pop() {
        let Some(place) = tree.open(&parent)? else {
            continue;
        };
        // A link that took the place of a directory leads elsewhere.
        if place.path != parent {
            continue;
        }
        let names = tree::names(&place.fd)?;
        let readable = tree::readable(&place.fd).context(|| "cannot open a directory")?;
        if is_opaque(readable.as_fd(), overlay)? {
            for name in below.names(&parent)? {
                if names.binary_search(&name).is_err() {
                    changes.push(Change {
                        path: join(&parent, &name),
                        kind: ChangeKind::Deleted,
                    });
                }
            }
        }
        for name in names {
            let path = join(&parent, &name);
            let stat = match rustix::fs::statat(&place.fd, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other.context(|| format!("cannot examine {}", show(&path)))?,
            };
            let kind = match (is_kernels_whiteout(&stat), below.find(&path)?) {
                (true, None) => continue,
                (true, Some(_)) => ChangeKind::Deleted,
                (false, None) => ChangeKind::Added,
                (false, Some(_)) => ChangeKind::Modified,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                todo.push(path.clone());
            }
            changes.push(Change { path, kind });
        }
    }
    changes.sort_unstable();
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_has_a_line_for_each() {
        for (path, kind, line) in [
            (&b"etc"[..], ChangeKind::Modified, "C /etc"),
            (b"a b/\xc3\xa4", ChangeKind::Added, "A /a b/\u{e4}"),
            (
                b"x\nD /etc\x1b[m",
                ChangeKind::Deleted,
                "D /x\\nD /etc\\u{1b}[m",
            ),
            (b"\xff.", ChangeKind::Added, "A /\\xff."),
        ] {
            let path = path.to_vec();
            assert_eq!(Change { path, kind }.to_string(), line);
        }
    }
}
