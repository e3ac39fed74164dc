//! Directory trees below a descriptor: listing, measuring and removing them.
//!
//! Trees come from archives, so they may be as deep and as wide as somebody liked. No path is ever
//! built: each step goes from an open directory to one of its names, never through a link and never
//! onto another mount, and the number of open descriptors has a limit.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::{Context, Error, ErrorKind, Result, durable};

/// How many directories below each other are open at the same time.
const OPEN_LEVELS: usize = 48;

/// The names in a directory, without `.` and `..`.
pub(crate) fn names(directory: impl AsFd) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).context(|| "cannot list a directory")? {
        let entry = entry.context(|| "cannot list a directory")?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// What a name is; none if it is gone.
pub(crate) fn stat(directory: impl AsFd, name: &CStr) -> Result<Option<Stat>> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno).context(|| format!("cannot stat {}", name.to_string_lossy())),
    }
}

/// Whether it is a directory.
pub(crate) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Whether it is a regular file.
pub(crate) fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// What a file takes on the disk.
pub(crate) fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

/// How long ago a file was changed; nothing for one from the future.
pub(crate) fn age(stat: &Stat) -> Duration {
    let changed = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.saturating_sub(changed)
}

/// Removes a file; whether there was one.
pub(crate) fn unlink(directory: impl AsFd, name: impl rustix::path::Arg + Copy) -> Result<bool> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno).context(|| format!("cannot remove {}", name.to_string_lossy())),
    }
}

/// What trees take on the disk. Hard links count once, also across trees.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    /// Bytes of regular files, as they are read.
    pub(crate) contents: u64,
    linked: HashSet<(u64, u64)>,
}

impl Meter {
    /// Counts one file.
    pub(crate) fn add(&mut self, stat: &Stat) {
        if !is_directory(stat) && stat.st_nlink > 1 {
            let identity = (stat.st_dev, stat.st_ino);
            if !self.linked.insert(identity) {
                return;
            }
        }
        self.bytes += allocated(stat);
        if is_regular(stat) {
            self.contents += u64::try_from(stat.st_size).unwrap_or(0);
        }
        self.entries += 1;
    }

    /// Counts a tree with its own directory. What vanishes meanwhile is not counted.
    pub(crate) fn add_tree(&mut self, at: impl AsFd, name: &CStr) -> Result<()> {
        let Some(stat) = stat(&at, name)? else {
            return Ok(());
        };
        self.add(&stat);
        if !is_directory(&stat) {
            return Ok(());
        }
        let Some(top) = visible(at.as_fd(), name)? else {
            return Ok(());
        };
        // Instead of one descriptor for each level: the names that lead to a directory.
        let mut waiting: Vec<Vec<CString>> = vec![Vec::new()];
        while let Some(way) = waiting.pop() {
            let Some(directory) = walk(top.as_fd(), &way)? else {
                continue;
            };
            for name in names(&directory)? {
                let Some(stat) = self::stat(&directory, &name)? else {
                    continue;
                };
                self.add(&stat);
                if is_directory(&stat) {
                    waiting.push(way.iter().cloned().chain([name]).collect());
                }
            }
        }
        Ok(())
    }
}

fn walk(top: BorrowedFd<'_>, way: &[CString]) -> Result<Option<OwnedFd>> {
    let mut open = durable::open_directory(top, ".")?;
    for name in way {
        match visible(open.as_fd(), name)? {
            Some(next) => open = next,
            None => return Ok(None),
        }
    }
    Ok(Some(open))
}

/// Opens a directory to be measured; none if it is gone, or if what is seen there is mounted.
fn visible(at: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>> {
    match enter(at, name) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::XDEV) => Ok(None),
        Err(errno) => Err(errno).context(|| format!("cannot enter {}", name.to_string_lossy())),
    }
}

/// Opens a directory that is neither a link nor a mount point; none if it is gone.
fn descend(at: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>> {
    match enter(at, name) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::XDEV) => Err(Error::new(
            ErrorKind::Busy,
            format!(
                "cannot enter {}: something is mounted there",
                name.to_string_lossy()
            ),
        )),
        Err(errno) => Err(errno).context(|| format!("cannot enter {}", name.to_string_lossy())),
    }
}

fn enter(at: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match rustix::fs::openat2(at, name, flags, Mode::empty(), resolve) {
        // Before Linux 5.6, or filtered away: a mount is then known by its device only.
        Err(Errno::NOSYS | Errno::PERM) => same_device(at, name, flags),
        opened => opened,
    }
}

fn same_device(at: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let fd = rustix::fs::openat(at, name, flags, Mode::empty())?;
    match rustix::fs::fstat(&fd)?.st_dev == rustix::fs::fstat(at)?.st_dev {
        true => Ok(fd),
        false => Err(Errno::XDEV),
    }
}

/// Removes a name with everything below it. Needs no space: it unlinks, and renames only directories
/// that are more than 48 levels deep, within the tree that goes.
pub(crate) fn remove(at: impl AsFd, name: &CStr) -> Result<()> {
    let at = at.as_fd();
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => {
            return Err(errno).context(|| format!("cannot remove {}", name.to_string_lossy()));
        }
    }
    let Some(top) = descend(at, name)? else {
        return Ok(());
    };
    let mut removal = Removal {
        top: top.as_fd(),
        moved: 0,
    };
    // What was too deep lands directly below the top, so empty it until nothing is left.
    loop {
        let before = removal.moved;
        removal.empty(top.as_fd(), 0)?;
        if removal.moved == before {
            break;
        }
    }
    remove_directory(at, name)
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    moved: u64,
}

impl Removal<'_> {
    fn empty(&mut self, directory: BorrowedFd<'_>, level: usize) -> Result<()> {
        for name in names(directory)? {
            let unlinked = rustix::fs::unlinkat(directory, &name, AtFlags::empty());
            match unlinked {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => self.directory(directory, &name, level)?,
                Err(errno) => {
                    return Err(errno)
                        .context(|| format!("cannot remove {}", name.to_string_lossy()));
                }
            }
        }
        Ok(())
    }

    fn directory(&mut self, parent: BorrowedFd<'_>, name: &CStr, level: usize) -> Result<()> {
        if level >= OPEN_LEVELS {
            self.moved += 1;
            return rustix::fs::renameat(parent, name, self.top, durable::temporary_name())
                .context(|| format!("cannot move {} up", name.to_string_lossy()));
        }
        let Some(child) = descend(parent, name)? else {
            return Ok(());
        };
        self.empty(child.as_fd(), level + 1)?;
        remove_directory(parent, name)
    }
}

fn remove_directory(at: impl AsFd, name: &CStr) -> Result<()> {
    match rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => {
            Err(errno).context(|| format!("cannot remove directory {}", name.to_string_lossy()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        std::fs::File::open(path).unwrap().into()
    }

    #[test]
    fn depth_does_not_matter() {
        let directory = tempfile::tempdir().unwrap();
        let root = open(directory.path());
        let mut at = durable::open_directory(&root, ".").unwrap();
        rustix::fs::mkdirat(&at, "deep", Mode::from(0o755)).unwrap();
        at = durable::open_directory(&at, "deep").unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::from(0o755)).unwrap();
            at = durable::open_directory(&at, "d").unwrap();
        }
        let outside = directory.path().join("outside");
        std::fs::write(&outside, "stays").unwrap();
        rustix::fs::symlinkat("/", &at, "link").unwrap();
        rustix::fs::linkat(&root, "outside", &at, "hard", AtFlags::empty()).unwrap();
        drop(at);
        remove(&root, c"deep").unwrap();
        assert!(!directory.path().join("deep").exists());
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "stays");
        remove(&root, c"deep").unwrap();
    }

    #[test]
    fn hard_links_count_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in ["one", "one/sub", "two"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        std::fs::write(path.join("one/sub/file"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(path.join("one/sub/file"), path.join("two/again")).unwrap();
        std::fs::File::create(path.join("two/sparse"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        let root = open(path);
        let mut meter = Meter::default();
        meter.add_tree(&root, c"one").unwrap();
        meter.add_tree(&root, c"two").unwrap();
        meter.add_tree(&root, c"none").unwrap();
        assert_eq!(meter.entries, 5);
        assert!((100_000..200_000).contains(&meter.bytes), "{meter:?}");
    }

    #[test]
    fn mounts_are_not_entered() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root to mount");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in ["tree", "tree/mount", "precious"] {
            std::fs::create_dir(path.join(name)).unwrap();
        }
        std::fs::write(path.join("precious/file"), "stays").unwrap();
        let target = path.join("tree/mount");
        if let Err(errno) = rustix::mount::mount_bind(path.join("precious"), &target) {
            println!("skipped: cannot mount: {errno}");
            return;
        }
        let error = remove(open(path), c"tree");
        let mut meter = Meter::default();
        meter.add_tree(open(path), c"tree").unwrap();
        rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(error.unwrap_err().kind(), ErrorKind::Busy);
        assert!(path.join("precious/file").exists());
        assert_eq!(meter.entries, 2, "the file is elsewhere");
        remove(open(path), c"tree").unwrap();
    }
}
