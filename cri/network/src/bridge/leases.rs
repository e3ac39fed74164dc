//! Who has which slot: one file for each attachment, and one lock for all.
//!
//! The file's name says what choosing a slot needs (the slot, how far it got, whether it has ports, whose
//! it is), so that one listing is enough; its content is what removing needs. It is there whole before
//! anything is done to the kernel and goes after everything was undone, so a SIGKILL leaves no address
//! that two have and nothing that nobody knows of. Nothing is synced: all of it describes the running
//! kernel, belongs below /run and is sealed.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use rcrun_overlay::{durable, record};

use crate::outcome::Outcome;
use crate::request::{Key, Port};
use crate::{Context, Error, ErrorKind, Result};

/// How long the lock is waited for. Whoever holds it needs milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two attempts to take it.
const PAUSE: Duration = Duration::from_micros(500);
/// Bytes of a record: some thousand ports.
const RECORD_MAX: u64 = 1 << 20;
/// The version of records.
const VERSION: u32 = 1;
/// Bytes of what a device says of its owner.
const OWNER_MAX: usize = 200;
/// The slot that was given last.
const LAST: &str = "last";
/// What was made on the host.
const HOST: &str = "host.json";

/// How far an attachment got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is being made.
    Begun,
    /// It is complete.
    Ready,
    /// Its ports are gone, and its device is about to be.
    Going,
}

/// What the name of an attachment's file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) slot: u32,
    pub(super) state: State,
    pub(super) ports: bool,
    pub(super) key: Key,
}

impl Lease {
    /// Whether ports of the host are its.
    pub(super) fn has_ports(&self) -> bool {
        self.ports && self.state != State::Going
    }

    fn name(&self) -> String {
        let state = match self.state {
            State::Begun => 'b',
            State::Ready => 'r',
            State::Going => 'g',
        };
        let ports = if self.ports { 'p' } else { 'n' };
        let (id, interface) = (self.key.id(), self.key.interface());
        format!("{:05}{state}{ports},{id},{interface}", self.slot)
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, ',');
        let (head, id, interface) = (parts.next()?, parts.next()?, parts.next()?);
        let (slot, flags) = head.split_at_checked(5)?;
        let (state, ports) = match flags {
            "bn" => (State::Begun, false),
            "bp" => (State::Begun, true),
            "rn" => (State::Ready, false),
            "rp" => (State::Ready, true),
            "gn" => (State::Going, false),
            "gp" => (State::Going, true),
            _ => return None,
        };
        let digits = slot.bytes().all(|byte| byte.is_ascii_digit());
        Some(Self {
            slot: slot.parse().ok().filter(|_| digits)?,
            state,
            ports,
            key: Key::new(id, interface).ok()?,
        })
    }
}

/// What removing and checking need.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    pub(super) ports: Vec<Port>,
    pub(super) outcome: Outcome,
}

impl Record {
    pub(super) fn new(ports: Vec<Port>, outcome: Outcome) -> Self {
        Self {
            version: VERSION,
            ports,
            outcome,
        }
    }
}

/// The next slot after the last that nobody has, beginning anew behind the gateway's: an address that
/// was given back is used again as late as possible.
pub(super) fn choose(used: &BTreeSet<u32>, last: u32, highest: u32) -> Option<u32> {
    let free = |slot: &u32| !used.contains(slot);
    let after = last.max(1).saturating_add(1);
    (after..=highest)
        .find(free)
        .or_else(|| (2..after.min(highest + 1)).find(free))
}

/// The directory, held alone or only looked at.
#[derive(Debug)]
pub(super) struct Place {
    directory: OwnedFd,
    path: PathBuf,
    _lock: Option<OwnedFd>,
}

impl Place {
    /// For who only reads: others may change it meanwhile. None if there is none.
    pub(super) fn look(path: &Path) -> Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(directory) => Ok(Some(Self {
                directory,
                path: path.to_owned(),
                _lock: None,
            })),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno).context(|| format!("cannot open {}", path.display())),
        }
    }

    /// The same, and nobody changes it meanwhile.
    pub(super) fn look_alone(path: &Path) -> Result<Option<Self>> {
        let Some(mut place) = Self::look(path)? else {
            return Ok(None);
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::openat(&place.directory, ".", flags, Mode::empty());
        let lock = lock.context(|| format!("cannot open {}", path.display()))?;
        hold(&lock).context(|| format!("cannot lock {}", path.display()))?;
        place._lock = Some(lock);
        Ok(Some(place))
    }

    /// Waits for others to leave.
    pub(super) fn enter(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot use {}", path.display());
        make(path).context(cannot)?;
        let open = || -> Result<OwnedFd> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            Ok(rustix::fs::open(path, flags, Mode::empty())?)
        };
        let directory = open().context(cannot)?;
        let stat = rustix::fs::fstat(&directory).context(cannot)?;
        if stat.st_uid != geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                format!("{}: somebody else may write to it", cannot()),
            ));
        }
        let _lock = open().context(cannot)?;
        hold(&_lock).context(|| format!("cannot lock {}", path.display()))?;
        let path = path.to_owned();
        Ok(Self {
            directory,
            path,
            _lock: Some(_lock),
        })
    }

    /// Who this is, for others who would use the same bridge: the end of the path, as much of it as a
    /// device can bear (`IFALIASZ`).
    pub(super) fn owner(&self) -> String {
        let path = self.path.to_string_lossy();
        let from = path.len().saturating_sub(OWNER_MAX);
        let from = (from..path.len()).find(|at| path.is_char_boundary(*at));
        path[from.unwrap_or(0)..].to_owned()
    }

    /// All attachments.
    pub(super) fn leases(&self) -> Result<Vec<Lease>> {
        let names = self.names()?;
        Ok(names.iter().filter_map(|name| Lease::parse(name)).collect())
    }

    fn names(&self) -> Result<Vec<String>> {
        let list = || -> Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in Dir::read_from(&self.directory)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            Ok(names)
        };
        list().context(|| format!("cannot list {}", self.path.display()))
    }

    /// What an attachment's file says.
    pub(super) fn read(&self, lease: &Lease) -> Result<Record> {
        let record: Option<Record> = self.load(&lease.name())?;
        let gone = || Error::new(ErrorKind::NotFound, format!("{} has no record", lease.key));
        let record = record.ok_or_else(gone)?;
        match record.version {
            VERSION => Ok(record),
            other => Err(Error::unsupported(format!(
                "cannot read the record of {}: it has version {other}",
                lease.key
            ))),
        }
    }

    /// Takes a slot: from now on it is known whose it is.
    pub(super) fn begin(&self, lease: &Lease, content: &Record) -> Result<()> {
        self.store(&lease.name(), content)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        // The order of slots is a kindness: nothing depends on it.
        if let Ok(file) = rustix::fs::openat(&self.directory, LAST, flags, Mode::from(0o600)) {
            let _ = rustix::io::pwrite(file, format!("{:05}", lease.slot).as_bytes(), 0);
        }
        Ok(())
    }

    /// Notes how far it got.
    pub(super) fn mark(&self, lease: &Lease, state: State) -> Result<Lease> {
        let marked = Lease {
            state,
            ..lease.clone()
        };
        let (from, to) = (lease.name(), marked.name());
        rustix::fs::renameat(&self.directory, &from, &self.directory, &to)
            .context(|| format!("cannot rename {}/{from} to {to}", self.path.display()))?;
        Ok(marked)
    }

    /// Everything is undone.
    pub(super) fn forget(&self, lease: &Lease) -> Result<()> {
        self.unlink(&lease.name())
    }

    /// The slot that was given last, if that is known.
    pub(super) fn last(&self) -> u32 {
        let bytes = durable::read(&self.directory, LAST, 16).ok().flatten();
        let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
        text.and_then(|text| text.parse().ok()).unwrap_or(1)
    }

    /// What is known of the host's side; none if nothing, or if that cannot be understood.
    pub(super) fn host<T: DeserializeOwned>(&self) -> Option<T> {
        self.load(HOST).ok().flatten()
    }

    pub(super) fn set_host(&self, content: &impl Serialize) -> Result<()> {
        self.store(HOST, content)
    }

    /// Forgets the host's side.
    pub(super) fn forget_host(&self) -> Result<()> {
        self.unlink(HOST)
    }

    /// Removes what writers left that were killed. Nobody else is here.
    pub(super) fn sweep(&self) -> Result<()> {
        for name in self.names()? {
            if name.starts_with(durable::TEMPORARY) {
                self.unlink(&name)?;
            }
        }
        Ok(())
    }

    fn unlink(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(self.directory.as_fd(), name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => {
                Err(errno).context(|| format!("cannot remove {}/{name}", self.path.display()))
            }
        }
    }

    fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let read = || -> Result<Option<T>> {
            let Some(text) = durable::read(&self.directory, name, RECORD_MAX)? else {
                return Ok(None);
            };
            record::check(&text)?;
            let read = serde_json::from_slice(&text);
            read.map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))
        };
        read().context(|| format!("cannot read {}/{name}", self.path.display()))
    }

    fn store(&self, name: &str, content: &impl Serialize) -> Result<()> {
        let text = record::encode(content)?;
        durable::replace_unsynced(&self.directory, name, &text, Mode::from(0o600))
            .context(|| format!("cannot write to {}", self.path.display()))
    }
}

/// Waits with short pauses: whoever is inside leaves within milliseconds, and many may be waiting.
fn hold(file: &OwnedFd) -> Result<()> {
    let since = Instant::now();
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK | Errno::INTR) if since.elapsed() < PATIENCE => {
                std::thread::sleep(PAUSE);
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                let why = format!("somebody else still holds it after {PATIENCE:?}");
                return Err(Error::new(ErrorKind::Busy, why));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Makes the directory and those above it.
fn make(path: &Path) -> Result<()> {
    match rustix::fs::mkdir(path, Mode::from(0o700)) {
        Ok(()) | Err(Errno::EXIST) => return Ok(()),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    if let Some(parent) = path.parent() {
        make(parent)?;
    }
    match rustix::fs::mkdir(path, Mode::from(0o700)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_chosen_in_turn() {
        for (used, last, highest, want) in [
            (&[][..], 1, 6, Some(2)),
            (&[2, 3], 3, 6, Some(4)),
            (&[2, 3], 2, 6, Some(4)),
            (&[2, 3, 6], 6, 6, Some(4)),
            (&[3], 6, 6, Some(2)),
            (&[2, 3, 4, 5, 6], 4, 6, None),
            (&[2, 3, 5, 6], 4, 6, Some(4)),
            (&[], 0, 6, Some(2)),
            (&[], u32::MAX, 6, Some(2)),
            (&[2], 99, 6, Some(3)),
        ] {
            let used: BTreeSet<u32> = used.iter().copied().collect();
            assert_eq!(choose(&used, last, highest), want, "{used:?} {last}");
        }
    }

    #[test]
    fn names_say_what_a_lease_is() {
        for (state, ports, want) in [
            (State::Begun, false, "00005bn,a.b,eth0"),
            (State::Ready, true, "00005rp,a.b,eth0"),
        ] {
            let key = Key::new("a.b", "eth0").unwrap();
            let (slot, name) = (5, want);
            let lease = Lease {
                slot,
                state,
                ports,
                key,
            };
            assert_eq!(lease.name(), name);
            assert_eq!(Lease::parse(name), Some(lease));
        }
        for name in [
            "last",
            "host.json",
            ".new-1",
            "00005xn,a,b",
            "0005bn,a,b",
            "+0005bn,a,b",
            "00005bn,a",
            "00005bn,,b",
            "00005bn,a,",
            "00005bn,a,b,c",
        ] {
            assert_eq!(Lease::parse(name), None, "{name}");
        }
    }

    #[test]
    fn records_are_whole_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        let place = Place::enter(&path).unwrap();
        let lease = Lease {
            slot: 9,
            state: State::Begun,
            ports: false,
            key: Key::new("a", "eth0").unwrap(),
        };
        let content = Record::new(Vec::new(), Outcome::default());
        place.begin(&lease, &content).unwrap();
        assert_eq!(place.read(&lease).unwrap(), content);
        assert_eq!(place.leases().unwrap(), std::slice::from_ref(&lease));
        assert_eq!(place.last(), 9);
        std::fs::write(path.join(".new-x"), "").unwrap();
        place.sweep().unwrap();
        let file = path.join(lease.name());
        let mut text = std::fs::read(&file).unwrap();
        text[12] ^= 1;
        std::fs::write(&file, text).unwrap();
        assert_eq!(place.read(&lease).unwrap_err().kind(), ErrorKind::Corrupt);
        place.mark(&lease, State::Ready).unwrap();
        assert_eq!(place.leases().unwrap()[0].state, State::Ready);
        let ready = place.leases().unwrap().remove(0);
        place.forget(&ready).unwrap();
        place.forget(&ready).unwrap();
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
    }
}
