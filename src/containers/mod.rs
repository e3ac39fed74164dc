//! Containers that were made from images: their records, names and places, shared by all verbs for
//! people.
//!
//! Owns `STORE/containers`; docs/on-disk.md ("Containers of people") is normative. Not the processes:
//! those are the runtime's and the monitor's, and nothing here says that one runs. Every verb finds a
//! container by name, ID or beginning of an ID ([`Containers::find`]), opens its directory, and
//! takes its lock before it changes anything.

#![allow(
    dead_code,
    unused_imports,
    reason = "the verbs that use it are being written"
)]

pub(crate) mod copy;
mod end;
mod exit;
pub(crate) mod flags;
mod ids;
mod log;
pub(crate) mod make;
mod names;
pub(crate) mod network;
mod record;
mod remove;
mod rename;
mod root;
pub(crate) mod spec;
pub(crate) mod volumes;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rcrun_overlay::durable;
use rcrun_overlay::lease::Root;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

pub(crate) use end::{Init, drain, wait_for};
pub(crate) use exit::{Exit, Status};
pub(crate) use log::{Line, Log as LogReader};
pub(crate) use names::is_name;
pub(crate) use record::{
    ImageFacts, Log, NetworkUse, Record, RuntimeFacts, Stdin, VolumeUse, bytes as record_bytes,
};
pub(crate) use root::Root as RootDirectory;

pub(crate) use rcrun_overlay::identifier::{is_whole as is_id, random as random_id};

/// Below the store's directory.
const DIRECTORY: &str = "containers";
/// Below that: what names stand for.
const NAMES: &str = "names";
/// Digits of an ID that people get to see.
const SHORT: usize = 12;

/// `STORE/containers`, open.
#[derive(Debug)]
pub(crate) struct Containers {
    store: PathBuf,
    root: OwnedFd,
    names: OwnedFd,
}

/// One container's directory, open.
#[derive(Debug)]
pub(crate) struct Container {
    id: String,
    path: PathBuf,
    fd: OwnedFd,
}

/// Nobody else changes the container while this lives.
#[derive(Debug)]
pub(crate) struct Lock<'a>(BorrowedFd<'a>);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // It cannot fail for a descriptor that was locked; closing it does the same.
        let _ = rustix::fs::flock(self.0, FlockOperation::Unlock);
    }
}

impl Containers {
    /// The containers of a store that exists, or none: looking for one makes nothing.
    pub(crate) fn existing(store: &Path) -> Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let failed = || format!("cannot open the containers in {}", store.display());
        let opened = |at: BorrowedFd<'_>, path: &Path| match rustix::fs::openat(
            at,
            path,
            flags,
            Mode::empty(),
        ) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).context(failed),
        };
        let Some(root) = opened(rustix::fs::CWD, &store.join(DIRECTORY))? else {
            return Ok(None);
        };
        let Some(names) = opened(root.as_fd(), Path::new(NAMES))? else {
            return Ok(None);
        };
        let store = store.to_owned();
        Ok(Some(Self { store, root, names }))
    }

    /// The same, made where they are missing. The store exists.
    pub(crate) fn open(store: &Path) -> Result<Self> {
        for name in [DIRECTORY.to_owned(), format!("{DIRECTORY}/{NAMES}")] {
            let path = store.join(name);
            match rustix::fs::mkdir(&path, Mode::from(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => {
                    return Err(errno).context(|| format!("cannot make {}", path.display()));
                }
            }
        }
        let missing = || Error::new(ErrorKind::NotFound, "cannot open the store's containers");
        Self::existing(store)?.ok_or_else(missing)
    }

    /// Takes a new ID, and its lock. Without [`Container::write`] it is no container, and removed by
    /// whoever finds it unlocked.
    pub(crate) fn create(&self) -> Result<Container> {
        loop {
            let id = random_id()?;
            rustix::fs::mkdirat(&self.root, &id, Mode::from(0o700))
                .context(|| format!("cannot make {}", self.path(&id).display()))?;
            // Whoever sweeps may have come first: then it is gone, or about to be.
            let container = match self.open_id(&id) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                other => other?,
            };
            match container.try_lock() {
                Ok(Some(lock)) => std::mem::forget(lock),
                Ok(None) => continue,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            return Ok(container);
        }
    }

    /// Opens the directory of a whole ID.
    pub(crate) fn open_id(&self, id: &str) -> Result<Container> {
        let missing = || Error::new(ErrorKind::NotFound, format!("no such container: {id}"));
        if !is_id(id) {
            return Err(missing());
        }
        let fd = durable::open_directory(&self.root, id).map_err(|error| match error.kind() {
            ErrorKind::NotFound => missing(),
            _ => error,
        })?;
        let path = self.path(id);
        let id = id.to_owned();
        Ok(Container { id, path, fd })
    }

    /// What a person means: a whole ID, a name, or the beginning of one ID. `None` if there is none;
    /// the beginning of several IDs is an error that lists them.
    pub(crate) fn find(&self, text: &str) -> Result<Option<Container>> {
        let by_name = || self.named(text);
        let id = match is_id(text) {
            true => Some(text.to_owned()),
            false => by_name()?,
        };
        if let Some(id) = id {
            return match self.open_id(&id) {
                Ok(container) => Ok(Some(container)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            };
        }
        if text.is_empty() || !text.bytes().all(rcrun_overlay::identifier::is_digit) {
            return Ok(None);
        }
        let mut ids = self.ids()?;
        ids.retain(|id| id.starts_with(text));
        match ids.as_slice() {
            [] => Ok(None),
            [id] => self.open_id(id).map(Some),
            several => Err(Error::invalid(self.ambiguous(text, several))),
        }
    }

    /// As [`Containers::find`], but of whole IDs and names only.
    pub(crate) fn find_whole(&self, text: &str) -> Result<Option<Container>> {
        match is_id(text) || self.named(text)?.is_some() {
            true => self.find(text),
            false => Ok(None),
        }
    }

    /// As [`Containers::find`], where there has to be one.
    pub(crate) fn get(&self, text: &str) -> Result<Container> {
        self.find(text)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no such container: {text}")))
    }

    fn ambiguous(&self, text: &str, ids: &[String]) -> String {
        let one = |id: &String| {
            let record = self.open_id(id).and_then(|container| container.record());
            let name = record.ok().flatten().map(|record| record.name);
            let short = short(id);
            name.map_or_else(|| short.to_owned(), |name| format!("{short} ({name})"))
        };
        let all: Vec<String> = ids.iter().map(one).collect();
        format!(
            "several containers' IDs begin with {text}: {}",
            all.join(", ")
        )
    }

    /// The store's directory.
    pub(crate) fn store(&self) -> &Path {
        &self.store
    }

    /// All IDs, sorted, also of what is being created or removed.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        let failed = || format!("cannot list {}/{DIRECTORY}", self.store.display());
        let mut ids = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.root).context(failed)? {
            let entry = entry.context(failed)?;
            if let Ok(name) = entry.file_name().to_str()
                && is_id(name)
            {
                ids.push(name.to_owned());
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// All containers with their records, newest first. What is being made or removed is left out; a
    /// broken record is passed to `broken`.
    pub(crate) fn list(
        &self,
        broken: &mut dyn FnMut(&str, Error),
    ) -> Result<Vec<(Container, Record)>> {
        let mut found = Vec::new();
        for id in self.ids()? {
            let read = self.open_id(&id).and_then(|container| {
                let record = container.record()?;
                Ok(record.map(|record| (container, record)))
            });
            match read {
                Ok(one) => found.extend(one),
                // Removed since its name was read.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => broken(&id, error),
            }
        }
        found.sort_by(|(_, one), (_, other)| other.created.cmp(&one.created));
        Ok(found)
    }

    /// What containers use of the store, for the sweep: images and snapshots. A record that cannot be
    /// read is an error, since nobody knows what it needs. Those that are being made hold leases.
    pub(crate) fn roots(&self) -> Result<Vec<Root>> {
        let mut roots = Vec::new();
        for id in self.ids()? {
            let read = self.open_id(&id).and_then(|container| container.record());
            match read {
                Ok(Some(record)) => {
                    roots.push(Root::Image(record.image.manifest.parse()?));
                    roots.push(Root::Snapshot(record.snapshot.parse()?));
                }
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(roots)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.store.join(DIRECTORY).join(id)
    }
}

impl Container {
    /// The whole ID.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The directory, which is the bundle: for messages, and for programs that take paths.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The record; none while it is being made or removed.
    pub(crate) fn record(&self) -> Result<Option<Record>> {
        record::read(self.fd())
            .context(|| format!("cannot read the record of container {}", self.id))
    }

    /// The record of a container that is to be used.
    pub(crate) fn complete(&self) -> Result<Record> {
        self.record()?.ok_or_else(|| {
            let text = format!("container {} is being made or removed", short(&self.id));
            Error::new(ErrorKind::FailedPrecondition, text)
        })
    }

    /// Writes the record: from here on it is a container.
    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        record::write(self.fd(), record)
            .context(|| format!("cannot write the record of container {}", self.id))
    }

    /// Waits for others that change the container; an error when it was removed meanwhile.
    pub(crate) fn lock(&self) -> Result<Lock<'_>> {
        rustix::io::retry_on_intr(|| rustix::fs::flock(&self.fd, FlockOperation::LockExclusive))
            .context(|| format!("cannot lock {}", self.path.display()))?;
        self.held()
    }

    /// The lock, which its maker has since [`Containers::create`].
    pub(crate) fn made(&self) -> Lock<'_> {
        Lock(self.fd.as_fd())
    }

    /// The lock, if nobody has it.
    pub(crate) fn try_lock(&self) -> Result<Option<Lock<'_>>> {
        match rustix::fs::flock(&self.fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => self.held().map(Some),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno).context(|| format!("cannot lock {}", self.path.display())),
        }
    }

    fn held(&self) -> Result<Lock<'_>> {
        let lock = Lock(self.fd.as_fd());
        let failed = || format!("cannot stat {}", self.path.display());
        // A directory that was removed has no entry in its parent left, hence no link.
        if rustix::fs::fstat(&self.fd).context(failed)?.st_nlink == 0 {
            let id = short(&self.id);
            let text = format!("container {id} was removed meanwhile");
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        Ok(lock)
    }

    /// Whether it has a record: else it is being made or removed, or left by somebody who was killed.
    pub(crate) fn has_record(&self) -> bool {
        record::files().any(|name| self.has(name))
    }

    /// Whether its directory has a file of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}

/// The current time as records have it: RFC 3339, UTC, nanoseconds, so that text sorts as time does.
pub(crate) fn now() -> String {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = rcrun_runtime::rfc3339_seconds(since.as_secs());
    format!("{seconds}.{:09}Z", since.subsec_nanos())
}

/// The part of an ID that people get to see.
pub(crate) fn short(id: &str) -> &str {
    id.get(..SHORT).unwrap_or(id)
}

/// Random bytes; a request of up to 256 is never answered in part.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context(|| "cannot get random bytes")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
