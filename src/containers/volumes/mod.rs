//! Volumes: directories that outlive containers, with names.
//!
//! Owns `STORE/volumes`; docs/on-disk.md ("Volumes") is normative. Not which container uses one: that
//! is in the containers' records, and asked of them ([`Containers::users_of`]). A volume is there whole or
//! not at all: made under another name, synced, renamed. Whoever uses one for a container holds its
//! lock until the container's record says so, and whoever removes one holds it too; in between nobody
//! can be overlooked.

mod attach;
mod fill;
mod record;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rcrun_overlay::durable;
use rcrun_overlay::layer::tree;
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::Containers;

pub(crate) use attach::{Attached, Attaching};
pub(crate) use record::Record;

/// Below the store's directory.
const DIRECTORY: &str = "volumes";
/// Below a volume's: its files.
const DATA: &str = "data";
/// The longest name: that of a file.
const LONGEST: usize = 255;

/// A container that uses a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// `STORE/volumes`, open.
#[derive(Debug)]
pub(crate) struct Volumes {
    store: Store,
    directory: OwnedFd,
}

/// One volume's directory, open. Its lock goes with the descriptor.
#[derive(Debug)]
pub(crate) struct Volume {
    name: String,
    path: PathBuf,
    fd: OwnedFd,
}

/// Whether it can be a name: docker's rule, with a limit.
pub(crate) fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && (2..=LONGEST).contains(&text.len())
        && text.bytes().all(plain)
}

/// The complaint about another one.
pub(crate) fn check_name(text: &str) -> Result<()> {
    match is_name(text) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{text:?} is no name of a volume: use 2 to {LONGEST} of letters, digits and _.-, a letter or \
             digit first"
        ))),
    }
}

/// Where volumes are in a store.
pub(crate) fn place(store: &Path) -> PathBuf {
    store.join(DIRECTORY)
}

/// Where the files of a volume are.
pub(crate) fn data(volumes: &Path, name: &str) -> PathBuf {
    volumes.join(name).join(DATA)
}

/// The complaint about one that is not there.
pub(crate) fn no_such(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no such volume: {name}"))
}

impl Volumes {
    /// The volumes of a store, or none: looking for one makes nothing.
    pub(crate) fn existing(store: &Store) -> Result<Option<Self>> {
        match durable::open_directory(store.root(), DIRECTORY) {
            Ok(directory) => Ok(Some(Self {
                store: store.clone(),
                directory,
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| "cannot open the store's volumes"),
        }
    }

    /// The same, made where they are missing.
    pub(crate) fn open(store: &Store) -> Result<Self> {
        if let Some(volumes) = Self::existing(store)? {
            return Ok(volumes);
        }
        let failed = || format!("cannot make {}", place(store.path()).display());
        match rustix::fs::mkdirat(store.root(), DIRECTORY, Mode::from(0o700)) {
            Ok(()) | Err(Errno::EXIST) => durable::sync_directory(store.root()).context(failed)?,
            Err(errno) => return Err(errno).context(failed),
        }
        Self::existing(store)?
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "cannot open the store's volumes"))
    }

    /// Opens a volume; none if there is none.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Volume>> {
        let volume = self.enter(name)?;
        Ok(volume.filter(|volume| volume.has(record::FILE)))
    }

    fn enter(&self, name: &str) -> Result<Option<Volume>> {
        match is_name(name) {
            true => self.open_named(name),
            false => Ok(None),
        }
    }

    fn open_named(&self, name: &str) -> Result<Option<Volume>> {
        match durable::open_directory(&self.directory, name) {
            Ok(fd) => Ok(Some(Volume {
                name: name.to_owned(),
                path: place(self.store.path()).join(name),
                fd,
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("cannot open volume {name}")),
        }
    }

    /// The same, locked: nobody else uses it for another container, or removes it, while it lives. What
    /// somebody began to remove is removed here.
    pub(crate) fn take(&self, name: &str) -> Result<Option<Volume>> {
        while let Some(volume) = self.enter(name)? {
            let failed = || format!("cannot lock volume {name}");
            rustix::io::retry_on_intr(|| {
                rustix::fs::flock(&volume.fd, FlockOperation::LockExclusive)
            })
            .context(failed)?;
            if !self.is_in_place(&volume).context(failed)? {
                // Removed while the lock was somebody else's; perhaps there is another one by now.
                continue;
            }
            if volume.has(record::FILE) {
                return Ok(Some(volume));
            }
            tree::remove(self.directory.as_fd(), name.as_bytes())
                .context(|| format!("cannot remove what is left of volume {name}"))?;
        }
        Ok(None)
    }

    /// Whether the volume still is what its name stands for.
    fn is_in_place(&self, volume: &Volume) -> Result<bool> {
        let own = rustix::fs::fstat(&volume.fd)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        match rustix::fs::statat(&self.directory, &*volume.name, flags) {
            Ok(named) => Ok((named.st_dev, named.st_ino) == (own.st_dev, own.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes a volume, and takes it; none if there is one of that name.
    pub(crate) fn make(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
        anonymous: bool,
    ) -> Result<Option<Volume>> {
        check_name(name)?;
        let failed = || format!("cannot make volume {name}");
        let bytes = Record::new(name, labels, anonymous).encode()?;
        let temporary = durable::temporary_name();
        let made = self.begin(&temporary).and_then(|fd| assemble(fd, &bytes));
        let renamed = made.and_then(|fd| {
            let flags = RenameFlags::NOREPLACE;
            let (from, to) = (&self.directory, &self.directory);
            match rustix::fs::renameat_with(from, &temporary, to, name, flags) {
                Ok(()) => Ok(Some(fd)),
                Err(Errno::EXIST) => Ok(None),
                Err(errno) => Err(errno.into()),
            }
        });
        let Ok(Some(fd)) = renamed else {
            // The first error matters more; what remains is swept by its name.
            let _ = tree::remove(self.directory.as_fd(), temporary.as_bytes());
            return renamed.context(failed).map(|_| None);
        };
        durable::sync_directory(&self.directory).context(failed)?;
        let path = place(self.store.path()).join(name);
        let name = name.to_owned();
        Ok(Some(Volume { name, path, fd }))
    }

    /// A directory under a name that is none yet, locked before anybody who sweeps can see it.
    fn begin(&self, temporary: &str) -> Result<OwnedFd> {
        let _door = self.door(FlockOperation::LockShared)?;
        rustix::fs::mkdirat(&self.directory, temporary, Mode::from(0o700))?;
        let fd = durable::open_directory(&self.directory, temporary)?;
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
        Ok(fd)
    }

    /// Who begins a volume keeps those out who sweep, until it is locked.
    fn door(&self, how: FlockOperation) -> Result<OwnedFd> {
        let door = durable::open_directory(&self.directory, ".")?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&door, how))
            .context(|| "cannot lock the store's volumes")?;
        Ok(door)
    }

    /// Names, sorted, also of what is being removed.
    fn names(&self) -> Result<Vec<String>> {
        let names = tree::names(&self.directory).context(|| "cannot list volumes")?;
        let text = names.into_iter().map(String::from_utf8);
        Ok(text.flatten().filter(|name| is_name(name)).collect())
    }

    /// All volumes with their records, sorted by name; a broken record is passed to `broken`.
    pub(crate) fn list(
        &self,
        broken: &mut dyn FnMut(&str, Error),
    ) -> Result<Vec<(Volume, Record)>> {
        let mut found = Vec::new();
        for name in self.names()? {
            let read = self.get(&name).and_then(|volume| match volume {
                Some(volume) => Ok(volume.record()?.map(|record| (volume, record))),
                None => Ok(None),
            });
            match read {
                Ok(one) => found.extend(one),
                Err(error) => broken(&name, error),
            }
        }
        Ok(found)
    }

    /// Removes a volume that was taken, and that no container uses. Works on a full disk.
    pub(crate) fn remove(&self, volume: &Volume) -> Result<()> {
        let failed = || format!("cannot remove volume {}", volume.name);
        let trash = self.store.directory("trash")?;
        let name = durable::temporary_name();
        let (from, own) = (&self.directory, &*volume.name);
        match rustix::fs::renameat(from, own, &trash, &*name) {
            Ok(()) => {
                // A power cut is to bring back all of it or nothing.
                durable::sync_directory(from).context(failed)?;
                self.store.settle(&trash).context(failed)?;
                tree::remove(trash.as_fd(), name.as_bytes()).context(failed)
            }
            Err(Errno::NOENT) => Ok(()),
            // The trash has no room for another name. Without a record it is no volume any more.
            Err(Errno::NOSPC | Errno::DQUOT) => {
                durable::remove(&volume.fd, record::FILE).context(failed)?;
                tree::remove(from.as_fd(), own.as_bytes()).context(failed)
            }
            Err(errno) => Err(errno).context(failed),
        }
    }

    /// Removes what killed processes left: volumes that were being made or removed, and that nobody
    /// holds.
    pub(crate) fn sweep(&self) -> Result<()> {
        let _door = self.door(FlockOperation::LockExclusive)?;
        for name in tree::names(&self.directory).context(|| "cannot list volumes")? {
            let Ok(name) = String::from_utf8(name) else {
                continue;
            };
            let begun = name.starts_with(durable::TEMPORARY);
            let volume = match begun {
                true => self.open_named(&name)?,
                false => self.enter(&name)?,
            };
            let Some(volume) = volume.filter(|volume| begun || !volume.has(record::FILE)) else {
                continue;
            };
            let free = rustix::fs::flock(&volume.fd, FlockOperation::NonBlockingLockExclusive);
            // It may have got its name, or be gone, since it was found.
            if free.is_ok() && self.is_in_place(&volume)? && (begun || !volume.has(record::FILE)) {
                tree::remove(self.directory.as_fd(), name.as_bytes())
                    .context(|| "cannot remove what is left of a volume")?;
            }
        }
        Ok(())
    }
}

/// All of a volume, in a directory that has no name yet.
fn assemble(fd: OwnedFd, record: &[u8]) -> Result<OwnedFd> {
    rustix::fs::mkdirat(&fd, DATA, Mode::from(0o755))?;
    // Whatever our umask is.
    let data = durable::open_directory(&fd, DATA)?;
    rustix::fs::fchmod(&data, Mode::from(0o755))?;
    durable::replace(&fd, record::FILE, record, Mode::from(0o600))?;
    Ok(fd)
}

impl Volume {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where its files are, for people.
    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// Its record; none while it is being removed.
    pub(crate) fn record(&self) -> Result<Option<Record>> {
        record::read(self.fd.as_fd()).context(|| {
            format!(
                "cannot read the record of volume {}, whose files are in {}",
                self.name,
                self.mountpoint().display()
            )
        })
    }

    /// Bytes that its files take.
    pub(crate) fn size(&self) -> Result<u64> {
        rcrun_overlay::gc::measure(&self.fd, c"data")
            .context(|| format!("cannot measure volume {}", self.name))
    }

    fn data(&self) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::openat(&self.fd, DATA, flags, Mode::empty())
            .context(|| format!("cannot open {}", self.mountpoint().display()))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn has(&self, name: &str) -> bool {
        rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }
}

impl Containers {
    /// Which containers use which volumes. A record that cannot be read is an error: nobody knows what
    /// it uses.
    pub(crate) fn volume_users(&self) -> Result<BTreeMap<String, Vec<User>>> {
        let mut users: BTreeMap<String, Vec<User>> = BTreeMap::new();
        for id in self.ids()? {
            let read = self.open_id(&id).and_then(|container| container.record());
            let record = match read {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(error).context(|| "cannot tell which volumes are in use");
                }
            };
            for volume in record.volumes {
                let all = users.entry(volume.name).or_default();
                let user = User {
                    id: record.id.clone(),
                    name: record.name.clone(),
                };
                if !all.contains(&user) {
                    all.push(user);
                }
            }
        }
        Ok(users)
    }

    /// Which containers use a volume.
    pub(crate) fn users_of(&self, volume: &str) -> Result<Vec<User>> {
        Ok(self.volume_users()?.remove(volume).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests;
