//! The exit record: how a container ended, on the disk before anybody can hear of it from a monitor.
//!
//! Its space is reserved when the container is made, so that a disk that is full by then does not
//! take the exit code with it.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::WaitIdStatus;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, ErrorKind, Result};

/// Version of the record.
pub(super) const VERSION: u32 = 1;
const LENGTH_MAX: u64 = 64 << 10;
/// Enough for a record; file systems reserve whole blocks anyway.
const RESERVED: u64 = 512;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// [`VERSION`].
    pub version: u32,
    /// Exit code as a shell has it: 128 and the signal for a killed process.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Processes of it were killed for want of memory.
    pub oom: bool,
    /// When; RFC 3339, UTC, nanoseconds.
    pub finished_at: String,
}

impl Exit {
    /// The end of a process, now.
    pub(super) fn new(status: &WaitIdStatus, oom: bool) -> Self {
        Self {
            version: VERSION,
            code: crate::launch::parent::exit_code(status),
            signal: status.terminating_signal(),
            oom,
            finished_at: crate::state::now(),
        }
    }

    /// Reads a record; `None` if there is none.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.context(|| format!("cannot open {}", path.display()))?,
        };
        let mut text = Vec::new();
        std::fs::File::from(file)
            .take(LENGTH_MAX)
            .read_to_end(&mut text)
            .context(|| format!("cannot read {}", path.display()))?;
        let wrong =
            |why: String| Error::new(ErrorKind::Corrupt, format!("{}: {why}", path.display()));
        let exit: Self = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        if exit.version != VERSION {
            return Err(wrong(format!("version {} is not known", exit.version)));
        }
        Ok(Some(exit))
    }
}

/// Where the record will be.
#[derive(Debug)]
pub(super) struct Place {
    directory: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Place {
    /// Removes the record of a former life and reserves space for the next.
    pub(super) fn reserve(path: &Path) -> Result<Self> {
        let failed = || format!("cannot reserve {}", path.display());
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::invalid("the exit record has no name")).context(failed);
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty()).context(failed)?;
        match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).context(failed),
        }
        let place = Self {
            directory,
            name: name.to_owned(),
            path: path.to_owned(),
        };
        let file = place.open().context(failed)?;
        match rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, RESERVED) {
            // A file system without reservations keeps no promise either way.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(place),
            Err(errno) => Err(errno).context(failed),
        }
    }

    fn temporary(&self) -> OsString {
        let mut name = OsString::from(".new-");
        name.push(&self.name);
        name
    }

    fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(
            &self.directory,
            self.temporary(),
            flags,
            Mode::from_raw_mode(0o600),
        )
    }

    /// Writes the record, whole; `lasting`, durably.
    pub(super) fn record(&self, exit: &Exit, lasting: bool) -> Result<()> {
        let text =
            serde_json::to_vec(exit).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
        let write = || -> Result<(), Errno> {
            let file = self.open()?;
            let written = rustix::io::retry_on_intr(|| rustix::io::pwrite(&file, &text, 0))?;
            if written != text.len() {
                return Err(Errno::NOSPC);
            }
            rustix::fs::ftruncate(&file, text.len() as u64)?;
            if lasting {
                rustix::fs::fdatasync(&file)?;
            }
            rustix::fs::renameat(
                &self.directory,
                self.temporary(),
                &self.directory,
                &self.name,
            )?;
            match lasting {
                true => rustix::fs::fsync(&self.directory),
                false => Ok(()),
            }
        };
        write().context(|| format!("cannot write {}", self.path.display()))
    }

    /// Whether the directory is gone, and with it whoever wants to know.
    pub(super) fn is_pointless(&self) -> bool {
        rustix::fs::fstat(&self.directory).is_ok_and(|stat| stat.st_nlink == 0)
    }

    /// Gives the space back: there was no container after all.
    pub(super) fn abandon(&self) {
        let _ = rustix::fs::unlinkat(&self.directory, self.temporary(), AtFlags::empty());
    }
}
