//! Layers as one directory: a copy, for where overlayfs cannot show them as one.
//!
//! What a stack shows ([`Merged`]) is copied with hard links, holes and attributes; blocks are shared
//! where the file system can. Owners may be moved into another range of ids meanwhile. [`differences`]
//! is the other direction, for people: what such a directory has become.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;

use super::attributes::{self, Fresh, complete_directory, read_extended};
use super::changes::{Change, ChangeKind, with_directories};
use super::implied::copy;
use super::merged::{Found, Merged};
use super::options::Overlay;
use super::tree::{self, Tree};
use crate::archive::name::{join, show, split};
use crate::{Context, Error, Result};

/// The owner and group of a copy; none if they have no place in it.
pub type Shift<'a> = dyn Fn(u32, u32) -> Option<(u32, u32)> + 'a;

/// Copies what layers (top first) show together into an empty directory.
pub fn flatten(
    layers: &[BorrowedFd<'_>],
    overlay: Overlay,
    shift: &Shift<'_>,
    into: BorrowedFd<'_>,
) -> Result<()> {
    let mut copier = Copier {
        from: Merged::new(layers, overlay)?,
        into: Tree::new(into)?,
        shift,
        fresh: Fresh {
            umask: attributes::umask(),
            owner: None,
            chown: true,
        },
        copied: HashMap::new(),
    };
    let mut directories = Vec::new();
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let names = copier.from.names(&path)?;
        for name in names {
            let inner = join(&path, &name);
            if copier
                .one(&path, &name)
                .context(|| format!("cannot copy {}", show(&inner)))?
            {
                todo.push(inner);
            }
        }
        directories.push(path);
    }
    // Inner ones come later: times of the outer ones stay.
    for path in directories.iter().rev() {
        copier
            .complete(path)
            .context(|| format!("cannot complete directory {}", show(path)))?;
    }
    Ok(())
}

struct Copier<'a> {
    from: Merged,
    into: Tree,
    shift: &'a Shift<'a>,
    fresh: Fresh,
    /// Files with more names, by device and inode number: where the copy is.
    copied: HashMap<(u64, u64), Vec<u8>>,
}

impl Copier<'_> {
    /// Copies a name; whether it is a directory, which has then been made only.
    fn one(&mut self, parent: &[u8], name: &[u8]) -> Result<bool> {
        let path = join(parent, name);
        let Some(found) = self.from.find(&path)? else {
            return Err(Errno::NOENT.into());
        };
        let to = self.place(parent)?;
        if found.is_directory() {
            rustix::fs::mkdirat(&to.fd, name, Mode::from(0o700)).context(|| "mkdirat")?;
            return Ok(true);
        }
        let inode = (found.stat.st_dev, found.stat.st_ino);
        if found.stat.st_nlink > 1
            && let Some(first) = self.copied.get(&inode).cloned()
        {
            let (parent, last) = split(&first);
            let from = self.place(parent)?;
            rustix::fs::linkat(&from.fd, last, &to.fd, name, AtFlags::empty())
                .context(|| "linkat")?;
            return Ok(false);
        }
        copy(&found, to.fd.as_fd(), name, self.fresh, self.shift)?;
        if found.stat.st_nlink > 1 {
            self.copied.insert(inode, path);
        }
        Ok(false)
    }

    fn place(&mut self, path: &[u8]) -> Result<tree::Place> {
        let place = self.into.open(path)?.filter(|place| place.path == path);
        place.ok_or_else(|| Errno::NOENT.into())
    }

    fn complete(&mut self, path: &[u8]) -> Result<()> {
        let Some(found) = self.from.find(path)? else {
            // An image without layers: an empty root.
            let place = self.place(path)?;
            let root = tree::readable(&place.fd).context(|| "cannot open it")?;
            return rustix::fs::fchmod(root, Mode::from(0o755)).context(|| "fchmod");
        };
        let extended = attributes::read_extended_of(found.file.as_fd())?;
        let mut attributes = attributes::of_stat(&found.stat, extended);
        moved(&mut attributes, self.shift)?;
        let place = self.place(path)?;
        let fd = tree::readable(&place.fd).context(|| "cannot open it")?;
        // Of a root that was there before, and of defaults of the directory around it.
        for (name, _) in read_extended(fd.as_fd())? {
            if name.starts_with(b"system.posix_acl_") {
                rustix::fs::fremovexattr(&fd, &*name).context(|| "fremovexattr")?;
            }
        }
        complete_directory(fd.as_fd(), &attributes, self.fresh, &mut 0)
    }
}

/// Gives the owners of the copy.
pub(super) fn moved(attributes: &mut attributes::Attributes, shift: &Shift<'_>) -> Result<()> {
    let (uid, gid) = (attributes.uid, attributes.gid);
    let owners = shift(uid, gid).ok_or_else(|| {
        Error::unsupported(format!(
            "it belongs to user {uid} and group {gid}, which the container does not have"
        ))
    })?;
    (attributes.uid, attributes.gid) = owners;
    Ok(())
}

/// What a copy has become, sorted by path: the same that [`super::changes()`] says of an upper
/// directory. Files of the same size, time and attributes count as the same.
pub fn differences(
    copy: BorrowedFd<'_>,
    layers: &[BorrowedFd<'_>],
    overlay: Overlay,
    shift: &Shift<'_>,
) -> Result<Vec<Change>> {
    let mut tree = Tree::new(copy)?;
    let mut below = Merged::new(layers, overlay)?;
    let mut changes = BTreeSet::new();
    let mut todo = vec![Vec::new()];
    while let Some(parent) = todo.pop() {
        let Some(place) = tree.open(&parent)?.filter(|place| place.path == parent) else {
            continue;
        };
        let here: BTreeSet<Vec<u8>> = tree::names(&place.fd)?.into_iter().collect();
        let was = match below.find(&parent)? {
            Some(found) if found.is_directory() && found.path == parent => below.names(&parent)?,
            _ => BTreeSet::new(),
        };
        for name in was.difference(&here) {
            let path = join(&parent, name);
            let kind = ChangeKind::Deleted;
            changes.insert(Change { path, kind });
        }
        for name in &here {
            let path = join(&parent, name);
            let stat = match rustix::fs::statat(&place.fd, &**name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other.context(|| format!("cannot examine {}", show(&path)))?,
            };
            let before = match was.contains(name) {
                true => below.find(&path)?,
                false => None,
            };
            let kind = match &before {
                None => Some(ChangeKind::Added),
                Some(found) => is_other(&stat, found, shift).then_some(ChangeKind::Modified),
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                todo.push(path.clone());
            }
            if let Some(kind) = kind {
                changes.insert(Change { path, kind });
            }
        }
    }
    Ok(with_directories(changes))
}

fn is_other(stat: &Stat, found: &Found, shift: &Shift<'_>) -> bool {
    let was = &found.stat;
    let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    let owners = shift(was.st_uid, was.st_gid);
    stat.st_mode != was.st_mode
        || owners != Some((stat.st_uid, stat.st_gid))
        || stat.st_rdev != was.st_rdev
        || times(stat) != times(was)
        || (!found.is_directory() && stat.st_size != was.st_size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        fs::create_dir_all(path).unwrap();
        fs::File::open(path).unwrap().into()
    }

    fn same(uid: u32, gid: u32) -> Option<(u32, u32)> {
        Some((uid, gid))
    }

    /// Two layers: a directory made anew, a deleted file, one with two names, a sparse one, a link.
    fn layers(at: &Path) -> (OwnedFd, OwnedFd) {
        let (low, top) = (at.join("low"), at.join("top"));
        let fds = (open(&low), open(&top));
        for path in ["opaque/old", "kept/one", "deleted"] {
            fs::create_dir_all(low.join(path).parent().unwrap()).unwrap();
            fs::write(low.join(path), path).unwrap();
        }
        fs::hard_link(low.join("kept/one"), low.join("two")).unwrap();
        let sparse = fs::File::create(low.join("sparse")).unwrap();
        sparse.write_all_at(b"end", 64 << 20).unwrap();
        fs::create_dir(top.join("opaque")).unwrap();
        rustix::fs::setxattr(
            top.join("opaque"),
            "user.overlay.opaque",
            b"y",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        fs::write(top.join("opaque/new"), "new").unwrap();
        // The stand-in, which needs no privilege.
        let mode = Mode::empty();
        rustix::fs::mknodat(&fds.1, "deleted", FileType::Socket, mode, 0).unwrap();
        std::os::unix::fs::symlink("/nowhere", top.join("link")).unwrap();
        fs::set_permissions(top.join("opaque"), fs::Permissions::from_mode(0o2751)).unwrap();
        fds
    }

    #[test]
    fn a_copy_is_what_the_layers_show() {
        let directory = tempfile::tempdir().unwrap();
        let (low, top) = layers(directory.path());
        let stack = [top.as_fd(), low.as_fd()];
        let root = directory.path().join("root");
        let into = open(&root);
        flatten(&stack, Overlay::User, &same, into.as_fd()).unwrap();
        let mut names: Vec<_> = fs::read_dir(&root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["kept", "link", "opaque", "sparse", "two"]);
        assert!(!root.join("opaque/old").exists());
        let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
        assert_eq!(stat("opaque").mode() & 0o7777, 0o2751);
        assert_eq!(stat("kept/one").ino(), stat("two").ino());
        assert_eq!(stat("sparse").len(), (64 << 20) + 3);
        assert!(
            stat("sparse").blocks() < 1024,
            "{}",
            stat("sparse").blocks()
        );
        assert_eq!(fs::read(root.join("sparse")).unwrap()[64 << 20..], *b"end");
        let none = differences(into.as_fd(), &stack, Overlay::User, &same).unwrap();
        assert_eq!(none, []);

        fs::write(root.join("kept/more"), "more").unwrap();
        fs::remove_file(root.join("two")).unwrap();
        fs::write(root.join("opaque/new"), "newer").unwrap();
        fs::remove_file(root.join("link")).unwrap();
        fs::create_dir_all(root.join("link/in")).unwrap();
        let found = differences(into.as_fd(), &stack, Overlay::User, &same).unwrap();
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let expected = [
            "C /kept",
            "A /kept/more",
            "C /link",
            "A /link/in",
            "C /opaque",
            "C /opaque/new",
            "D /two",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn owners_move_and_those_without_a_place_are_refused() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: giving files away needs root");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let low = open(&directory.path().join("low"));
        let file = directory.path().join("low/file");
        fs::write(&file, "x").unwrap();
        std::os::unix::fs::chown(&file, Some(33), Some(34)).unwrap();
        let up = |uid: u32, gid: u32| (uid < 100).then_some((uid + 5000, gid + 6000));
        let root = directory.path().join("root");
        let into = open(&root);
        flatten(&[low.as_fd()], Overlay::User, &up, into.as_fd()).unwrap();
        let stat = fs::metadata(root.join("file")).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (5033, 6034));
        assert_eq!(fs::metadata(&root).unwrap().uid(), 5000);
        let none = differences(into.as_fd(), &[low.as_fd()], Overlay::User, &up).unwrap();
        assert_eq!(none, []);
        std::os::unix::fs::chown(&file, Some(100), Some(0)).unwrap();
        let into = open(&directory.path().join("other"));
        let error = flatten(&[low.as_fd()], Overlay::User, &up, into.as_fd()).unwrap_err();
        let text = error.chain().to_string();
        assert!(
            text.contains("it belongs to user 100 and group 0"),
            "{text}"
        );
    }
}
