//! Removing what counts as there, so that a power cut brings back all of its bytes or nothing of it.
//!
//! A removed name is gone for good only after the journal's next commit. Most file systems give the
//! blocks of a removed file to nobody before that, so whatever comes back is as it was. ext4 mounted
//! with `data=writeback` does (fs/ext4/mballoc.c, `ext4_free_blocks`: inodes in writeback mode are
//! the exception): a file that is written meanwhile gets the blocks at once, and after a power cut
//! the old name stands for the new file's bytes. There the blocks are kept until the removal is
//! durable: a file's by holding it open, a tree's by leaving it in `trash/`.
//!
//! Elsewhere that would be a commit for nothing, so it is asked what the store lies on. A process
//! that is killed between the two lets go of what it holds; only a power cut within the same few
//! seconds could then do harm.

use std::os::fd::AsFd;
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, major, minor};

use crate::order::{EXT, kind};
use crate::{Result, durable};

/// Whether a file system gives blocks of removed files away before the removal is durable. Asked once.
#[derive(Debug, Default)]
pub(crate) struct Reuse(OnceLock<bool>);

impl Reuse {
    /// Of the file system that this directory is on.
    pub(crate) fn is_early(&self, directory: impl AsFd) -> bool {
        *self.0.get_or_init(|| asked(directory))
    }
}

fn asked(directory: impl AsFd) -> bool {
    // Who cannot be asked may do it.
    match kind(&directory) {
        Some(EXT) => {}
        Some(_) => return false,
        None => return true,
    }
    let Ok(stat) = rustix::fs::fstat(&directory) else {
        return true;
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let table = rustix::fs::open("/proc/self/mountinfo", flags, Mode::empty())
        .map_err(std::io::Error::from)
        .and_then(|file| std::io::read_to_string(std::fs::File::from(file)));
    table.map_or(true, |table| {
        is_writeback(&table, major(stat.st_dev), minor(stat.st_dev))
    })
}

/// Whether a device is mounted with `data=writeback`, by mountinfo (proc_pid_mountinfo(5)). One that
/// is not in the table may be.
fn is_writeback(table: &str, major: u32, minor: u32) -> bool {
    let device = format!("{major}:{minor}");
    let mut lines = table.lines();
    let found = lines.find(|line| line.split(' ').nth(2) == Some(device.as_str()));
    // The file system's own options are the last word, the third one behind the dash.
    let options = found.and_then(|line| line.split_once(" - ")?.1.split(' ').nth(2));
    options.is_none_or(|options| options.split(',').any(|one| one == "data=writeback"))
}

/// Makes what was removed from a directory durable, if others could get its blocks before. The last
/// directory of several will do: journals commit in order.
pub(crate) fn settle(reuse: &Reuse, directory: impl AsFd) -> Result<()> {
    match reuse.is_early(&directory) {
        true => durable::sync_directory(directory),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_decides() {
        let table = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard,errors=remount-ro\n\
40 22 7:0 /sub /data rw master:3 propagate_from:2 - ext4 /dev/loop0 rw,data=writeback,commit=9\n\
41 22 7:1 / /data\\040- rw - ext4 /dev/loop1 rw,data=writeback2\n\
42 22 0:40 / /run rw - tmpfs\n";
        let cases = [
            ((254, 0), false),
            ((7, 0), true),
            ((7, 1), false),
            // Cut short, and not there.
            ((0, 40), true),
            ((9, 9), true),
        ];
        for ((major, minor), early) in cases {
            assert_eq!(is_writeback(table, major, minor), early, "{major}:{minor}");
        }
    }
}
