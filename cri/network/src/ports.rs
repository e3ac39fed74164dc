//! Ports of the host: who has which, of all that rcrun connects below one root of the runtime.
//!
//! Pods and people's containers are on bridges of their own, each with its table of nf_tables, and CNI plugins write rules
//! of theirs: the kernel would let each have a port, and the rule that comes first would win without a word. So whoever
//! wants ports asks here, under one lock, who has them.
//!
//! Nothing is written twice. A bridge's records ([`crate::bridge`]) say what its containers have; they are there before
//! the kernel is told anything, and the lock is held from the question until then. It is taken before those of bridges,
//! never behind one, so nobody waits in a circle. Plugins have no such record: an attachment that
//! they give ports has a file here, `ID,INTERFACE`, sealed, which is there before the first plugin is run and goes after
//! the last one has undone everything. Nothing is synced: all of it describes the running kernel.
//!
//! Not owned: ports of other programs (`listens` in [`crate::bridge`] asks the kernel), and other roots.

#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcrun_overlay::{durable, lock, record};
use rustix::fs::{Dir, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::bridge::{self, Bridge};
use crate::request::{Key, Port};
use crate::{Context, Error, ErrorKind, Result};

/// Claims, and their lock; records of the bridge of people's containers, and of the pods'. Below the runtime's root.
const CLAIMS: &str = ".ports";
const CONTAINERS: &str = ".network";
const PODS: &str = ".cri/network";
/// How long the lock is waited for. Whoever holds it needs milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a claim: some thousand ports.
const CLAIM_MAX: u64 = 1 << 20;
const VERSION: u32 = 1;

/// Who on this machine has ports of the host.
#[derive(Debug, Clone)]
pub struct Ports {
    root: PathBuf,
}

/// The ports that an attachment by plugins has.
#[derive(Debug, Serialize, Deserialize)]
struct Claim {
    version: u32,
    ports: Vec<Port>,
}

/// What has a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    Pod,
    Container,
}

impl Holder {
    /// How people are told that they cannot have it.
    pub(crate) fn refuse(self, port: &Port, key: &Key) -> Error {
        let (noun, verb) = match self {
            Self::Pod => ("pod", "crictl inspectp"),
            Self::Container => ("container", "rcrun inspect"),
        };
        let id = key.id();
        let why = format!("port {port} of the host is taken by {noun} {id}");
        Error::new(ErrorKind::Exists, why).with_hint(format!("`{verb} {id}` shows which one"))
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum But<'a> {
    Nobody,
    Bridge(&'a Path),
    Attachment(&'a Key),
}

/// The right to take ports. Nobody else has it meanwhile.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: OwnedFd,
}

impl Ports {
    /// Of everything below a root of the runtime.
    pub fn of(root: &Path) -> Self {
        let root = root.to_owned();
        Self { root }
    }

    /// Where the bridge of people's containers has its records.
    pub fn of_containers(root: &Path) -> PathBuf {
        root.join(CONTAINERS)
    }

    /// Where the pods' bridge has its records.
    pub fn of_pods(root: &Path) -> PathBuf {
        root.join(PODS)
    }

    fn directory(&self) -> PathBuf {
        self.root.join(CLAIMS)
    }

    fn bridges(&self) -> [(Holder, PathBuf); 2] {
        [
            (Holder::Container, Self::of_containers(&self.root)),
            (Holder::Pod, Self::of_pods(&self.root)),
        ]
    }

    /// The directory; none if nobody has made it.
    fn open(&self) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(self.directory(), flags, Mode::empty()) {
            Ok(directory) => Ok(Some(directory)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => {
                Err(errno).context(|| format!("cannot open {}", self.directory().display()))
            }
        }
    }

    /// Waits until nobody else is about to take ports.
    pub(crate) fn enter(&self) -> Result<Turn> {
        let failed = || format!("cannot lock {}", self.directory().display());
        let mut builder = std::fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(self.directory());
        made.context(failed)?;
        let gone = || Error::new(ErrorKind::NotFound, "it was removed");
        let directory = self.open()?.ok_or_else(gone).context(failed)?;
        let _lock = lock::hold(directory, true, &mut lock::up_to(PATIENCE)).context(failed)?;
        Ok(Turn { _lock })
    }

    /// Whose records a directory has.
    pub(crate) fn whose(&self, directory: &Path) -> Holder {
        let own = |(_, path): &(Holder, PathBuf)| path == directory;
        let found = self.bridges().into_iter().find(own);
        found.map_or(Holder::Container, |(holder, _)| holder)
    }

    /// Refuses ports that others have than who asks: a bridge by its directory, which knows of its own, or an
    /// attachment by plugins. Only for who has its turn (`alone`) that is so until it ends.
    pub(crate) fn refuse_taken(&self, ports: &[Port], but: But<'_>, alone: bool) -> Result<()> {
        for (holder, directory) in self.bridges() {
            if but == But::Bridge(&directory) {
                continue;
            }
            if let Some((port, key)) = bridge::holder_of(&directory, ports, alone)? {
                return Err(holder.refuse(&port, &key));
            }
        }
        let Some(directory) = self.open()? else {
            return Ok(());
        };
        for key in keys(&directory)?
            .iter()
            .filter(|key| but != But::Attachment(key))
        {
            // A claim that is damaged costs its ports, not those of others; one may go at any moment.
            let claimed = read(&directory, key).ok().flatten().unwrap_or_default();
            if let Some(port) = conflict(&claimed, ports) {
                return Err(Holder::Pod.refuse(port, key));
            }
        }
        Ok(())
    }

    /// Claims ports for an attachment by plugins, instead of those that it had.
    pub(crate) fn claim(&self, key: &Key, ports: &[Port]) -> Result<()> {
        let attempt = || {
            let _turn = self.enter()?;
            self.refuse_taken(ports, But::Attachment(key), true)?;
            self.write(key, ports)
        };
        match attempt() {
            Err(error) if error.kind() == ErrorKind::Exists && self.collect_dead(None)? > 0 => {
                attempt()
            }
            done => done,
        }
    }

    fn write(&self, key: &Key, ports: &[Port]) -> Result<()> {
        let (version, ports) = (VERSION, ports.to_vec());
        let text = record::encode(&Claim { version, ports })?;
        let directory = self.open()?;
        let gone = || Error::new(ErrorKind::NotFound, "it was removed");
        let write = |directory: OwnedFd| {
            durable::replace_unsynced(directory, &name(key), &text, Mode::from(0o600))
        };
        directory
            .ok_or_else(gone)
            .and_then(write)
            .context(|| format!("cannot write to {}", self.directory().display()))
    }

    /// Gives up what an attachment by plugins claimed, if it did.
    pub(crate) fn release(&self, key: &Key) -> Result<()> {
        match self.open()? {
            Some(directory) => durable::remove(&directory, &name(key)).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Gives up what none of `valid` claimed.
    pub(crate) fn retain(&self, valid: &[Key]) -> Result<()> {
        let Some(directory) = self.open()? else {
            return Ok(());
        };
        for key in keys(&directory)?.iter().filter(|key| !valid.contains(key)) {
            durable::remove(&directory, &name(key))?;
        }
        Ok(())
    }

    /// Takes away what ended without anybody having said so on bridges, but for one that the caller looks after. How much.
    pub(crate) fn collect_dead(&self, but: Option<&Path>) -> Result<usize> {
        let mut removed = 0;
        for (_, directory) in self.bridges() {
            if Some(&*directory) != but
                && let Some(bridge) = Bridge::existing(&directory)?
            {
                removed += bridge.collect_dead()?;
            }
        }
        Ok(removed)
    }
}

/// The first of these that cannot be had beside what somebody has.
pub(crate) fn conflict<'a>(had: &[Port], wanted: &'a [Port]) -> Option<&'a Port> {
    let taken = |port: &&Port| had.iter().any(|other| other.conflicts(port));
    wanted.iter().find(taken)
}

fn name(key: &Key) -> String {
    format!("{},{}", key.id(), key.interface())
}

fn keys(directory: &OwnedFd) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some((id, interface)) = name.split_once(',') {
            keys.extend(Key::new(id, interface).ok());
        }
    }
    Ok(keys)
}

fn read(directory: &OwnedFd, key: &Key) -> Result<Option<Vec<Port>>> {
    let Some(text) = durable::read(directory, &name(key), CLAIM_MAX)? else {
        return Ok(None);
    };
    let claim: Claim = record::decode(&text, &name(key), VERSION)?;
    Ok(Some(claim.ports))
}
