//! The directory of one container, held by descriptor.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RawMode};
use rustix::io::Errno;

use super::record::{Record, VERSION};
use crate::error::{Context, Error, ErrorKind, Result};

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
const PRIVATE: RawMode = 0o700;
/// Longest container ID: one file name.
const ID_MAX: usize = 255;
/// Largest record that is read back.
const RECORD_MAX: u64 = 64 << 20;

/// A directory beside those of the containers, of the monitors: no ID, as it begins with a dot.
pub(crate) const MONITORS: &str = ".monitors";

/// Refuses IDs that are no plain file name. Names that begin with a dot are for the root's own files,
/// as crun has it.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'-' | b'.');
    if id.is_empty() {
        return Err(Error::invalid("container id cannot be empty"));
    }
    let strange = id.chars().find(|c| !c.is_ascii() || !plain(*c as u8));
    if strange.is_some() || id.starts_with('.') || id.len() > ID_MAX {
        let which = strange.map_or_else(String::new, |c| format!("invalid character {c:?}, "));
        return Err(Error::invalid(format!(
            "invalid container ID format: {id:?}: {which}use letters, digits and _+-. ({ID_MAX} at \
             most, no dot at the beginning)"
        )));
    }
    Ok(())
}

/// IDs of all containers below `root`, sorted; none when it does not exist.
pub(crate) fn list_ids(root: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(|| format!("cannot read {}", root.display()))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.context(|| format!("cannot read {}", root.display()))?;
        let is_directory = entry.file_type().is_ok_and(|t| t.is_dir());
        if let Ok(id) = entry.file_name().into_string()
            && is_directory
            && check_id(&id).is_ok()
        {
            ids.push(id);
        }
    }
    ids.sort();
    Ok(ids)
}

/// A container's directory.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    id: String,
    fd: OwnedFd,
}

/// Nobody else changes the container while this lives.
#[derive(Debug)]
pub(crate) struct Lock<'a>(BorrowedFd<'a>);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let _ = rustix::fs::flock(self.0, FlockOperation::Unlock);
    }
}

impl Directory {
    /// Takes an ID. mkdir is the test: of two callers one fails.
    pub(crate) fn create(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let mode = Mode::from_raw_mode(PRIVATE);
        let path = root.join(id);
        let made = match rustix::fs::mkdir(&path, mode) {
            Err(Errno::NOENT) => {
                std::os::unix::fs::DirBuilderExt::mode(
                    std::fs::DirBuilder::new().recursive(true),
                    PRIVATE,
                )
                .create(root)
                .context(|| format!("cannot create {}", root.display()))?;
                rustix::fs::mkdir(&path, mode)
            }
            other => other,
        };
        match made {
            Err(Errno::EXIST) => {
                return Err(Error::new(
                    ErrorKind::Exists,
                    "container with given ID already exists",
                ));
            }
            other => other.context(|| format!("cannot create {}", path.display()))?,
        }
        Self::open(root, id)
    }

    /// Finds a container.
    pub(crate) fn open(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let path = root.join(id);
        match rustix::fs::open(&path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => Ok(Self {
                root: root.to_owned(),
                id: id.to_owned(),
                fd,
            }),
            Err(Errno::NOENT) => Err(missing()),
            Err(errno) => Err(errno).context(|| format!("cannot open {}", path.display())),
        }
    }

    /// The container's ID.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// For messages.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.join(&self.id)
    }

    /// Waits for other operations on the container; an error when it was removed meanwhile.
    pub(crate) fn lock(&self) -> Result<Lock<'_>> {
        rustix::io::retry_on_intr(|| rustix::fs::flock(&self.fd, FlockOperation::LockExclusive))
            .context(|| format!("cannot lock {}", self.path().display()))?;
        let lock = Lock(self.fd.as_fd());
        if rustix::fs::fstat(&self.fd)
            .context(|| "cannot stat the state directory")?
            .st_nlink
            == 0
        {
            return Err(missing());
        }
        Ok(lock)
    }

    /// Writes down what is going to be made, before any of it is: the record, not yet with a pid, and
    /// the configuration. No renaming: nobody relies on either while there is no `state.json`, and
    /// some file systems write to the disk whenever a file is replaced.
    pub(crate) fn begin(&self, record: &Record, config: &[u8]) -> Result<()> {
        let text = encode(record)?;
        let create = |name: &CStr, text: &[u8]| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            self.write(name, flags, text).context(|| {
                let name = name.to_str().unwrap_or_default();
                format!("cannot write {}", self.path().join(name).display())
            })
        };
        create(c"creating.json", &text)?;
        create(c"config.json", config)
    }

    /// Writes the record in one piece.
    pub(crate) fn write_record(&self, record: &Record) -> Result<()> {
        self.replace(c"state.json", &encode(record)?)
    }

    /// Reads the record; a directory without one belongs to a `create` that has not come that far or
    /// was killed.
    pub(crate) fn read_record(&self) -> Result<Option<Record>> {
        let path = self.path().join("state.json");
        let text = match self.read(c"state.json") {
            Err(Errno::NOENT) => match self.read(c"creating.json") {
                Ok(text) => return Ok(serde_json::from_slice(&text).ok()),
                Err(Errno::NOENT) => return Ok(None),
                Err(errno) => Err(errno),
            },
            other => other,
        };
        let text = text.context(|| format!("cannot read {}", path.display()))?;
        let corrupt =
            |why: String| Error::new(ErrorKind::Corrupt, format!("{}: {why}", path.display()));
        let record: Record = serde_json::from_slice(&text).map_err(|e| corrupt(e.to_string()))?;
        if record.version != VERSION {
            return Err(corrupt(format!(
                "version {} is not known to this rcrun (it knows {VERSION})",
                record.version
            )));
        }
        Ok(Some(record))
    }

    /// Replaces the configuration that was kept for `exec`, `update` and poststop hooks.
    pub(crate) fn write_config(&self, text: &[u8]) -> Result<()> {
        self.replace(c"config.json", text)
    }

    /// The configuration that was kept.
    pub(crate) fn read_config(&self) -> Result<Vec<u8>> {
        self.read(c"config.json")
            .context(|| format!("cannot read {}", self.path().join("config.json").display()))
    }

    fn read(&self, name: &CStr) -> Result<Vec<u8>, Errno> {
        use std::io::Read as _;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = std::fs::File::from(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?);
        let mut text = Vec::new();
        file.take(RECORD_MAX)
            .read_to_end(&mut text)
            .map_err(|e| Errno::from_raw_os_error(e.raw_os_error().unwrap_or(libc::EIO)))?;
        Ok(text)
    }

    fn replace(&self, name: &CStr, text: &[u8]) -> Result<()> {
        let write = || -> Result<(), Errno> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
            self.write(c".new", flags, text)?;
            rustix::io::retry_on_intr(|| rustix::fs::renameat(&self.fd, c".new", &self.fd, name))
        };
        let name = || self.path().join(name.to_str().unwrap_or_default());
        write().context(|| format!("cannot write {}", name().display()))
    }

    fn write(&self, name: &CStr, flags: OFlags, text: &[u8]) -> Result<(), Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(0o600);
        let open = || rustix::fs::openat(&self.fd, name, flags, mode);
        let file = rustix::io::retry_on_intr(open)?;
        let mut rest = text;
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest))?;
            rest = &rest[written..];
        }
        Ok(())
    }

    /// Gives the ID free.
    pub(crate) fn remove(&self) -> Result<()> {
        for name in [
            c"start.sock",
            c"config.json",
            c".new",
            c"state.json",
            c"creating.json",
        ] {
            match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => {
                    return Err(errno)
                        .context(|| format!("cannot empty {}", self.path().display()));
                }
            }
        }
        match rustix::fs::rmdir(self.path()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).context(|| format!("cannot remove {}", self.path().display())),
        }
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn encode(record: &Record) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|e| {
        Error::new(
            ErrorKind::Internal,
            format!("cannot encode the state record: {e}"),
        )
    })
}

fn missing() -> Error {
    Error::new(ErrorKind::NotFound, "container does not exist")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_plain_file_names() {
        for id in ["a", "a.b", "A_1+x-y", "a..", &"x".repeat(255)] {
            assert!(check_id(id).is_ok(), "{id}");
        }
        for id in [
            "",
            ".",
            "..",
            ".a",
            "..a",
            MONITORS,
            "a/b",
            "../a",
            "a b",
            "a\n",
            "ä",
            &"x".repeat(256),
        ] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
    }
}
