//! `tmpcopyup`: a new tmpfs starts with what the directory below it holds.
//!
//! Copies directories, files, links and special files with owner, mode and modification time;
//! does not cross into other file systems and follows no link.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::mount::readable;

/// Deepest directory that is copied; what is below fails with ENAMETOOLONG.
const DEPTH_MAX: usize = 64;

/// Copies everything below `from` into `to`, and the directory's own owner and mode.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let (from, to) = (readable(from)?, readable(to)?);
    let stat = rustix::fs::fstat(&from)?;
    directory(from.as_fd(), to.as_fd(), stat.st_dev, 0)?;
    attributes(to.as_fd(), c".", &stat)
}

fn directory(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    device: u64,
    depth: usize,
) -> Result<(), Errno> {
    if depth > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
    let mut entries = RawDir::new(from, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        one(from, to, name, device, depth)?;
    }
    Ok(())
}

fn one(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &CStr,
    device: u64,
    depth: usize,
) -> Result<(), Errno> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            if stat.st_dev == device {
                let flags = flags | OFlags::DIRECTORY;
                let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let target = rustix::fs::openat(to, name, flags, Mode::empty())?;
                directory(source.as_fd(), target.as_fd(), device, depth + 1)?;
            }
        }
        FileType::RegularFile => {
            let source = rustix::fs::openat(from, name, flags | OFlags::NONBLOCK, Mode::empty())?;
            let create = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let target = rustix::fs::openat(to, name, create, Mode::RWXU)?;
            while rustix::fs::sendfile(&target, &source, None, 1 << 20)? > 0 {}
        }
        FileType::Symlink => {
            let mut text = [0u8; 4096];
            let length = rustix::fs::readlinkat_raw(from, name, &mut text[..4095])?;
            let text = CStr::from_bytes_until_nul(&text[..=length]).map_err(|_| Errno::INVAL)?;
            rustix::fs::symlinkat(text, to, name)?;
        }
        kind => rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev)?,
    }
    attributes(to, name, &stat)
}

fn attributes(directory: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(directory, name, Some(uid), Some(gid), nofollow)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        // After the owner: chown clears set-user-ID bits.
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(directory, name, mode, AtFlags::empty())?;
    }
    let time = |sec, nsec| Timespec {
        tv_sec: sec,
        tv_nsec: nsec,
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as i64),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as i64),
    };
    rustix::fs::utimensat(directory, name, &times, nofollow)
}
