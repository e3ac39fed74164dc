//! The archive of a saved container: documents first, then what may be large.

use std::fs::File;
use std::io::{BufWriter, Read, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rcrun_overlay::archive::{Entry, Kind, Time, Writer};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use serde_json::Value;

use super::{DELETED, DUMP_LOG, IMAGES, LOG, ROOTFS, STATISTICS};
use crate::{Context, Error, ErrorKind, Result};

/// Bytes of the buffer before the file.
const BUFFER: usize = 1 << 20;

/// Nobody waits for the result any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.is_set() {
            false => Ok(()),
            true => Err(Error::new(
                ErrorKind::Deadline,
                "nobody waits for it any more",
            )),
        }
    }
}

/// What gets into an archive.
#[derive(Debug)]
pub(super) struct Contents<'a> {
    /// Where the container was saved.
    pub(super) saved: &'a Path,
    pub(super) documents: Vec<(&'static str, Value)>,
    /// The log, and how much of it.
    pub(super) log: Option<(PathBuf, u64)>,
    /// Seconds since the epoch.
    pub(super) time: i64,
    pub(super) stop: &'a Stop,
}

struct Writing<'a> {
    writer: Writer<BufWriter<&'a File>>,
    contents: &'a Contents<'a>,
}

/// Writes the archive.
pub(super) fn archive(contents: &Contents<'_>, file: &File) -> Result<()> {
    let mut writing = Writing {
        writer: Writer::new(BufWriter::with_capacity(BUFFER, file)),
        contents,
    };
    for (name, document) in &contents.documents {
        let text = document.to_string().into_bytes();
        let entry = writing.entry(name.as_bytes(), Kind::Regular, text.len() as u64);
        writing.writer.append(&entry, &mut &*text)?;
    }
    for name in [DELETED, DUMP_LOG, STATISTICS] {
        writing.file(&contents.saved.join(name), name)?;
    }
    if let Some((log, length)) = &contents.log {
        writing.beginning(log, LOG, *length)?;
    }
    writing.file(&contents.saved.join(ROOTFS), ROOTFS)?;
    let images = contents.saved.join(IMAGES);
    let entry = writing.entry(IMAGES.as_bytes(), Kind::Directory, 0);
    writing.writer.append(&entry, &mut std::io::empty())?;
    for name in names(&images)? {
        writing.file(&images.join(&name), &format!("{IMAGES}/{name}"))?;
    }
    writing.writer.finish()?.flush()?;
    Ok(())
}

impl Writing<'_> {
    fn entry(&self, path: &[u8], kind: Kind, size: u64) -> Entry {
        Entry {
            path: path.to_vec(),
            mode: match kind {
                Kind::Directory => 0o700,
                _ => 0o600,
            },
            kind,
            uid: 0,
            gid: 0,
            mtime: Time {
                seconds: self.contents.time,
                nanoseconds: 0,
            },
            size,
            map: None,
            attributes: Vec::new(),
        }
    }

    /// A file, if it is there: as long as it is now.
    fn file(&mut self, path: &Path, name: &str) -> Result<()> {
        self.beginning(path, name, u64::MAX)
    }

    /// The same, but not more than this.
    fn beginning(&mut self, path: &Path, name: &str, most: u64) -> Result<()> {
        let Some((file, size)) = open(path)? else {
            return Ok(());
        };
        let entry = self.entry(name.as_bytes(), Kind::Regular, size.min(most));
        let mut source = Stoppable {
            source: file,
            stop: self.contents.stop,
        };
        let written = self.writer.append(&entry, &mut source);
        self.contents.stop.check()?;
        written
    }
}

struct Stoppable<'a> {
    source: File,
    stop: &'a Stop,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.stop.is_set() {
            true => Err(std::io::ErrorKind::TimedOut.into()),
            false => self.source.read(buffer),
        }
    }
}

fn open(path: &Path) -> Result<Option<(File, u64)>> {
    let failed = || format!("cannot read {}", path.display());
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: OwnedFd = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        other => other.context(failed)?,
    };
    let stat = rustix::fs::fstat(&file).context(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::invalid("it is not a regular file")).context(failed);
    }
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    Ok(Some((file.into(), size)))
}

/// Images in the order of their names.
fn names(directory: &Path) -> Result<Vec<String>> {
    let failed = || format!("cannot list {}", directory.display());
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).context(failed)? {
        let name = entry.context(failed)?.file_name();
        // criu's names are plain; dots begin what it makes for itself.
        let name = name.to_str().filter(|name| !name.starts_with('.'));
        all.extend(name.map(str::to_owned));
    }
    all.sort_unstable();
    Ok(all)
}
