//! The bytes of a file, into a new one.
//!
//! Shared where the file system can (a clone), else copied by the kernel, else by us; holes stay
//! holes. Small files are read and written: that is the fewest calls.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::files::Meta;
use crate::{Context, Result};

/// Up to here a file is read and written.
const SMALL: u64 = 64 << 10;
const BUFFER: usize = 256 << 10;

/// What this source and this root can do together, as far as is known.
#[derive(Debug)]
pub(super) struct Ways {
    clone: AtomicBool,
    range: AtomicBool,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            clone: true.into(),
            range: true.into(),
        }
    }
}

/// The memory that copying needs; each thread has its own.
#[derive(Debug)]
pub(super) struct Buffer(Vec<u8>);

impl Default for Buffer {
    fn default() -> Self {
        Self(vec![0; BUFFER])
    }
}

/// Copies all bytes of an open file, of which nothing was read, to an empty one.
pub(super) fn copy(
    from: &OwnedFd,
    to: &OwnedFd,
    meta: &Meta,
    ways: &Ways,
    buffer: &mut Buffer,
) -> Result<()> {
    if meta.size <= SMALL {
        return stream(from, to, buffer);
    }
    if ways.clone.load(Ordering::Relaxed) {
        match rustix::fs::ioctl_ficlone(to, from) {
            Ok(()) => return Ok(()),
            // Not these two, or not this file.
            Err(_) => ways.clone.store(false, Ordering::Relaxed),
        }
    }
    // `st_blocks` does not count holes; inline data makes it too small only for small files.
    let mut at = 0;
    while at < meta.size {
        let (start, end) = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => {
                let end = rustix::fs::seek(from, SeekFrom::Hole(start));
                (start, end.context(|| "cannot look for holes")?)
            }
            // Nothing but a hole remains.
            Err(Errno::NXIO) => break,
            Err(_) => (at, meta.size),
        };
        let end = end.min(meta.size);
        if end > start {
            piece(from, to, start, end - start, ways, buffer)?;
        }
        at = end.max(at + 1);
    }
    rustix::fs::ftruncate(to, meta.size).context(|| "ftruncate")
}

fn stream(from: &OwnedFd, to: &OwnedFd, buffer: &mut Buffer) -> Result<()> {
    loop {
        let length = match rustix::io::read(from, &mut *buffer.0) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).context(|| "cannot read it"),
        };
        let mut rest = &buffer.0[..length];
        while !rest.is_empty() {
            match rustix::io::write(to, rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context(|| "cannot write the copy"),
            }
        }
    }
}

fn piece(
    from: &OwnedFd,
    to: &OwnedFd,
    start: u64,
    length: u64,
    ways: &Ways,
    buffer: &mut Buffer,
) -> Result<()> {
    let (mut at, end) = (start, start + length);
    while at < end && ways.range.load(Ordering::Relaxed) {
        let (mut read, mut written) = (at, at);
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), most) {
            Ok(0) => break,
            Ok(length) => at += length as u64,
            Err(Errno::INTR) => {}
            Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => {
                return Err(Errno::NOSPC).context(|| "cannot write the copy");
            }
            // Another file system, an old kernel: ours is the way that always works.
            Err(_) => ways.range.store(false, Ordering::Relaxed),
        }
    }
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(BUFFER);
        let length = match rustix::io::pread(from, &mut buffer.0[..most], at) {
            // Shorter than it was: the caller sees that it changed.
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).context(|| "cannot read it"),
        };
        let mut done = 0;
        while done < length {
            match rustix::io::pwrite(to, &buffer.0[done..length], at + done as u64) {
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context(|| "cannot write the copy"),
            }
        }
        at += length as u64;
    }
    Ok(())
}
