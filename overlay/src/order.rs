//! Whether a file system brings changes to the disk in the order in which they are made.
//!
//! ext4 with a journal and xfs write all changes of directories and inodes through one log: a file that
//! is created and synced is there after a power cut only together with every rename before it
//! (fs/ext4/fsync.c, `ext4_fsync_journal`; fs/xfs/xfs_file.c, `xfs_fsync_flush_log`). So names that
//! something else is about to follow need no sync of their own. Contents of files are another matter.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{major, minor};

/// What statfs(2) says of ext2, ext3 and ext4, and of xfs.
pub(crate) const EXT: u64 = 0xef53;
pub(crate) const XFS: u64 = 0x5846_5342;

/// The answer, asked for once.
#[derive(Debug, Default)]
pub(crate) struct Order(OnceLock<bool>);

impl Order {
    /// Of the file system that this directory is on.
    pub(crate) fn is_kept(&self, directory: impl AsFd) -> bool {
        *self.0.get_or_init(|| match kind(&directory) {
            Some(XFS) => true,
            // Without a journal there is no entry; who cannot look does not rely on it.
            Some(EXT) => device(&directory)
                .is_some_and(|device| has_journal(Path::new("/proc/fs/jbd2"), &device)),
            _ => false,
        })
    }
}

/// What statfs(2) says of a file system.
pub(crate) fn kind(directory: impl AsFd) -> Option<u64> {
    u64::try_from(rustix::fs::fstatfs(directory).ok()?.f_type).ok()
}

/// What the kernel calls the device that a directory's file system is on.
pub(crate) fn device(directory: impl AsFd) -> Option<String> {
    let device = rustix::fs::fstat(directory).ok()?.st_dev;
    let link = format!("/sys/dev/block/{}:{}", major(device), minor(device));
    let target = std::fs::read_link(link).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

/// Whether jbd2 has a journal of a device: `DEVICE-INODE`, or `DEVICE-SUFFIX` of one that is elsewhere.
fn has_journal(entries: &Path, device: &str) -> bool {
    let Ok(all) = std::fs::read_dir(entries) else {
        return false;
    };
    all.flatten().any(|entry| {
        let name = entry.file_name();
        let of = name.to_str().and_then(|name| name.rsplit_once('-'));
        of.is_some_and(|(of, inode)| of == device && inode.bytes().all(|b| b.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_that_of_the_very_device() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["vda-8", "dm-1-8", "vdb1-x", "loop10-8"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        for (device, has) in [
            ("vda", true),
            ("vda1", false),
            ("dm-1", true),
            ("dm", false),
            ("vdb1", false),
            ("loop1", false),
            ("loop10", true),
        ] {
            assert_eq!(has_journal(directory.path(), device), has, "{device}");
        }
        assert!(!has_journal(&directory.path().join("none"), "vda"));
    }

    #[test]
    fn what_is_on_the_disk_of_this_machine() {
        let directory = tempfile::tempdir().unwrap();
        let open = std::fs::File::open(directory.path()).unwrap();
        let kept = Order::default().is_kept(&open);
        let kind = kind(&open);
        assert!(!kept || matches!(kind, Some(EXT | XFS)), "{kind:?}");
    }
}
