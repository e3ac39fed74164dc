//! Where records are, and how they are written, read and removed.

use std::fmt::Debug;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcrun_network::Ports;
use rcrun_overlay::lease::{Root, SnapshotId};
use rcrun_overlay::store::Store;
use rcrun_overlay::{durable, record};
use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ContainerRecord, Kind, PodRecord, VERSION, is_id};
use crate::{Context, Error, ErrorKind, Result};

/// Longest record: configurations have the kubelet's annotations.
const LIMIT: u64 = 32 << 20;
const DIRECTORY: &str = "cri";
const LOCK: &str = "lock";
/// How long a server that ends may take to let go of the lock.
const PATIENCE: Duration = Duration::from_secs(15);

/// Where everything is; holds the lock.
#[derive(Debug)]
pub(crate) struct Places {
    directory: OwnedFd,
    path: PathBuf,
    root: PathBuf,
    run: PathBuf,
    _lock: OwnedFd,
}

impl Places {
    /// Makes what is missing, and keeps other servers out.
    pub(crate) fn open(store: &Store, root: &Path) -> Result<Self> {
        let path = store.path().join(DIRECTORY);
        let failed = || format!("cannot make {}", path.display());
        make(store.root(), DIRECTORY).context(failed)?;
        let directory = durable::open_directory(store.root(), DIRECTORY).context(failed)?;
        for kind in Kind::ALL {
            make(directory.as_fd(), kind.directory()).context(failed)?;
        }
        let lock = lock(&directory).context(|| format!("cannot lock {}/{LOCK}", path.display()))?;
        let run = root.join(".cri");
        for below in ["pods", "run"] {
            let path = run.join(below);
            std::os::unix::fs::DirBuilderExt::mode(
                std::fs::DirBuilder::new().recursive(true),
                0o700,
            )
            .create(&path)
            .context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(Self {
            directory,
            path,
            root: root.to_owned(),
            run,
            _lock: lock,
        })
    }

    /// The runtime's root.
    pub(crate) fn runtime_root(&self) -> PathBuf {
        self.run.join("run")
    }

    /// What is remembered of CNI's attachments.
    pub(crate) fn of_plugins(&self) -> PathBuf {
        self.path.join("cni")
    }

    /// The embedded network's records.
    pub(crate) fn of_bridge(&self) -> PathBuf {
        Ports::of_pods(&self.root)
    }

    /// Who has ports of the host.
    pub(crate) fn ports(&self) -> Ports {
        Ports::of(&self.root)
    }

    /// Where a pod has what ends with the boot: its namespaces, /dev/shm, and files that containers see.
    pub(crate) fn of_boot(&self, pod: &str) -> PathBuf {
        self.run.join("pods").join(pod)
    }

    /// Pods whose namespaces may be there.
    pub(crate) fn pinned(&self) -> Result<Vec<String>> {
        let path = self.run.join("pods");
        let failed = || format!("cannot list {}", path.display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&path, flags, Mode::empty()).context(failed)?;
        ids(&directory).context(failed)
    }

    /// The directory of one.
    pub(crate) fn path(&self, kind: Kind, id: &str) -> PathBuf {
        self.path.join(kind.directory()).join(id)
    }

    fn all(&self, kind: Kind) -> Result<OwnedFd> {
        durable::open_directory(&self.directory, kind.directory())
            .context(|| format!("cannot open {}/{}", self.path.display(), kind.directory()))
    }

    /// Makes the directory of one.
    pub(crate) fn create(&self, kind: Kind, id: &str) -> Result<()> {
        rustix::fs::mkdirat(self.all(kind)?, id, Mode::from_raw_mode(0o711))
            .context(|| format!("cannot make {}", self.path(kind, id).display()))
    }

    fn open_one(&self, kind: Kind, id: &str) -> Result<OwnedFd> {
        durable::open_directory(self.all(kind)?, id)
    }

    /// Writes a record.
    fn write(&self, kind: Kind, id: &str, record: &impl Serialize) -> Result<()> {
        let failed = || {
            format!(
                "cannot write {}/{}",
                self.path(kind, id).display(),
                kind.file()
            )
        };
        let directory = self.open_one(kind, id).context(failed)?;
        let bytes = record::encode(record)?;
        durable::replace_unsynced(&directory, kind.file(), &bytes, Mode::from_raw_mode(0o600))
            .context(failed)
    }

    pub(crate) fn write_pod(&self, record: &PodRecord) -> Result<()> {
        self.write(Kind::Pod, &record.id, record)
    }

    pub(crate) fn write_container(&self, record: &ContainerRecord) -> Result<()> {
        self.write(Kind::Container, &record.id, record)
    }

    /// Waits until the record of one, and its name, are on the disk.
    pub(crate) fn settle(&self, kind: Kind, id: &str) -> Result<()> {
        let directory = match self.open_one(kind, id) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if let Some(file) = durable::open_file(&directory, kind.file())? {
            file.sync_data()?;
        }
        durable::sync_directory(&directory)?;
        durable::sync_directory(self.all(kind)?)
    }

    /// All records, and identifiers of what has none; those that cannot be read are told of, and are
    /// among the latter if a power cut can be the reason.
    pub(crate) fn read_all<R: DeserializeOwned + Debug>(
        &self,
        kind: Kind,
    ) -> Result<(Vec<R>, Vec<String>)> {
        let (mut records, mut without) = (Vec::new(), Vec::new());
        for id in ids(&self.all(kind)?)? {
            match self.read(kind, &id) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => without.push(id),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    let path = self.path(kind, &id);
                    tracing::warn!("forgotten: {}: {}", path.display(), error.chain());
                    without.push(id);
                }
                Err(error) => return Err(error),
            }
        }
        Ok((records, without))
    }

    fn read<R: DeserializeOwned>(&self, kind: Kind, id: &str) -> Result<Option<R>> {
        read_in(&self.all(kind)?, kind, id)
            .context(|| format!("cannot read {}", self.path(kind, id).display()))
    }

    /// Removes the directory of one, its record first. Nothing is mounted in it any more.
    pub(crate) fn remove(&self, kind: Kind, id: &str) -> Result<()> {
        let failed = || format!("cannot remove {}", self.path(kind, id).display());
        let all = self.all(kind)?;
        let directory = match durable::open_directory(&all, id) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.context(failed)?,
        };
        unlink(&directory, kind.file()).context(failed)?;
        remove_tree(&directory).context(failed)?;
        match rustix::fs::unlinkat(&all, id, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).context(failed),
        }
    }
}

/// What pods and containers use of the store, for sweeps.
pub fn roots(store: &Store) -> Result<Vec<Root>> {
    let mut roots = Vec::new();
    let failed = || "cannot tell what the containers of the CRI use";
    let all = durable::open_directory(store.root(), DIRECTORY)
        .and_then(|cri| durable::open_directory(cri, Kind::Container.directory()));
    let all = match all {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(roots),
        other => other.context(failed)?,
    };
    for id in ids(&all).context(failed)? {
        let record: ContainerRecord = match read_in(&all, Kind::Container, &id) {
            Ok(Some(record)) => record,
            Ok(None) => continue,
            // Removed meanwhile; or by a power cut, with the container.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                continue;
            }
            Err(error) => return Err(error).context(failed),
        };
        let images = record.volumes.iter().map(|volume| &volume.image);
        for image in images.chain([&record.image]) {
            roots.push(Root::Image(image.manifest.parse()?));
        }
        roots.push(Root::Snapshot(record.snapshot.parse::<SnapshotId>()?));
    }
    Ok(roots)
}

fn read_in<R: DeserializeOwned>(all: &OwnedFd, kind: Kind, id: &str) -> Result<Option<R>> {
    let directory = durable::open_directory(all, id)?;
    match durable::read(&directory, kind.file(), LIMIT)? {
        None => Ok(None),
        Some(bytes) => record::decode(&bytes, kind.file(), VERSION).map(Some),
    }
}

fn make(at: impl AsFd, name: &str) -> Result<()> {
    match rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o711)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn lock(directory: &OwnedFd) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, LOCK, flags, Mode::from_raw_mode(0o600))?;
    let since = Instant::now();
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK) if since.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(Errno::WOULDBLOCK) => {
                let text = "another server has this store: stop it, or use another --store";
                return Err(Error::new(ErrorKind::Busy, text));
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn ids(directory: &OwnedFd) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        if let Ok(name) = entry?.file_name().to_str()
            && is_id(name)
        {
            ids.push(name.to_owned());
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

fn unlink(directory: &OwnedFd, name: impl rustix::path::Arg) -> Result<(), Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Everything below, on this file system: what is mounted is none of ours to remove.
fn remove_tree(directory: &OwnedFd) -> Result<(), Errno> {
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = rustix::fs::ResolveFlags::BENEATH | rustix::fs::ResolveFlags::NO_XDEV;
            let below = rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve)?;
            remove_tree(&below)?;
            rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?;
        } else {
            unlink(directory, name)?;
        }
    }
    Ok(())
}
