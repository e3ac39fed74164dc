//! A container's root directory, by descriptor, for who looks into it from outside.
//!
//! Of a container that runs it is /proc/PID/root of its init, so what is mounted there is seen; of one
//! that does not, its snapshot, mounted nowhere. Whatever is opened below is looked up in the
//! root (openat2(2), `RESOLVE_IN_ROOT`) without the kernel's magic links: processes inside may
//! exchange directories and links meanwhile, and reach nothing by it that they could not open.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rcrun_image::accounts::Accounts;
use rcrun_overlay::layer::tree::proc_path;
use rcrun_overlay::lease::SnapshotId;
use rcrun_overlay::snapshot::{Form, Mounting, Snapshots};
use rcrun_overlay::store::Store;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::spec::Extent;
use super::{Container, Lock, Record};

/// How often a look-up is repeated that somebody disturbs by renaming.
const ATTEMPTS: usize = 10_000;
/// The longest /etc/passwd or /etc/group.
const ACCOUNTS: u64 = 16 << 20;
/// The longest config.json.
const CONFIGURATION: u64 = 32 << 20;
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// The root directory.
#[derive(Debug)]
pub(crate) struct Root<'a> {
    fd: OwnedFd,
    /// User ids as they are seen through `fd`, where they are not the container's own.
    map: &'a [Extent],
    /// Keeps a container that does not run from being started.
    lock: Option<Lock<'a>>,
}

impl Container {
    /// Its root directory. One that does not run stays so as long as this lives.
    pub(crate) fn root<'a>(
        &'a self,
        record: &'a Record,
        store: &Path,
        writable: bool,
    ) -> Result<Root<'a>> {
        if let Some(root) = self.living_root(record)? {
            return Ok(root);
        }
        let lock = self.lock()?;
        // Started before the lock was free.
        if let Some(root) = self.living_root(record)? {
            return Ok(root);
        }
        let store = Store::open(store)?;
        crate::images::restored(&store, record)?;
        let root = Root::of_snapshot(&store, &record.snapshot.parse()?, &record.map, writable)?;
        Ok(Root {
            lock: Some(lock),
            ..root
        })
    }

    /// Of a container that has an init.
    pub(crate) fn living_root<'a>(&self, record: &'a Record) -> Result<Option<Root<'a>>> {
        let Some(init) = self.init(record)? else {
            return Ok(None);
        };
        let failed = || "cannot open the container's root directory";
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open(c"/proc", flags, Mode::empty()).context(failed)?;
        if rustix::fs::fstatfs(&proc).context(failed)?.f_type != PROC_SUPER_MAGIC {
            return Err(Error::unsupported("/proc is no proc file system")).context(failed);
        }
        let opened = rustix::fs::openat(&proc, format!("{}/root", init.pid), flags, Mode::empty());
        // The pid was the init's all the time if the init still lives.
        match opened {
            _ if init.ended(Some(Instant::now()))? => Ok(None),
            Err(errno) => Err(errno).context(failed),
            Ok(fd) => Ok(Some(Root {
                fd,
                map: &record.map,
                lock: None,
            })),
        }
    }
}

impl Container {
    /// Where something is mounted in it while it runs, as its configuration says.
    pub(crate) fn mount_targets(&self) -> Result<Vec<PathBuf>> {
        Ok(self
            .mounts()?
            .into_iter()
            .filter_map(|mount| Some(PathBuf::from(mount.get("destination")?.as_str()?)))
            .collect())
    }

    /// The configuration's mounts.
    pub(crate) fn mounts(&self) -> Result<Vec<serde_json::Value>> {
        let config = self.config()?;
        let mounts = config.get("mounts").and_then(serde_json::Value::as_array);
        Ok(mounts.cloned().unwrap_or_default())
    }

    /// The OCI configuration.
    pub(crate) fn config(&self) -> Result<serde_json::Value> {
        let bytes = rcrun_overlay::durable::read(self.fd(), "config.json", CONFIGURATION)?;
        serde_json::from_slice(&bytes.unwrap_or_default())
            .map_err(|e| Error::new(ErrorKind::Corrupt, format!("cannot read config.json: {e}")))
    }
}

impl<'a> Root<'a> {
    /// The root that a snapshot is, for who knows that the container does not run.
    pub(super) fn of_snapshot(
        store: &Store,
        id: &SnapshotId,
        map: &'a [Extent],
        writable: bool,
    ) -> Result<Self> {
        let missing = || {
            let text = format!("no snapshot {id} in the store");
            Error::new(ErrorKind::NotFound, text)
        };
        let snapshot = Snapshots::new(store)?.open(id)?.ok_or_else(missing)?;
        let fd = snapshot.detached(&Mounting {
            read_only: !writable,
            ..Mounting::default()
        })?;
        Ok(Self {
            fd,
            map: match snapshot.record().form {
                Form::Overlay => &[],
                Form::Copy => map,
            },
            lock: None,
        })
    }
}

impl Root<'_> {
    /// The directory.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether the container does not run, so that nothing is mounted in it.
    pub(crate) fn is_snapshot(&self) -> bool {
        self.lock.is_some()
    }

    /// Opens something in the root.
    pub(crate) fn open(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        open_in(self.fd(), path, flags)
    }

    /// The container's own number of an id that is seen from here; that of nobody for others'.
    pub(crate) fn id_inside(&self, id: u32) -> u32 {
        if self.map.is_empty() {
            return id;
        }
        let found = self.map.iter().find_map(|extent| {
            let offset = id.checked_sub(extent.outer)?;
            (offset < extent.size).then_some(extent.inner + offset)
        });
        found.unwrap_or(65_534)
    }

    /// What is to be set here so that the container sees this id; none if it has no such id.
    pub(crate) fn id_here(&self, id: u32) -> Option<u32> {
        if self.map.is_empty() {
            return Some(id);
        }
        self.map.iter().find_map(|extent| {
            let offset = id.checked_sub(extent.inner)?;
            (offset < extent.size).then_some(extent.outer + offset)
        })
    }

    /// Its accounts; what is missing or no regular file is empty.
    pub(crate) fn accounts(&self) -> Result<Accounts> {
        Ok(Accounts {
            passwd: self.small_file("etc/passwd")?,
            group: self.small_file("etc/group")?,
        })
    }

    fn small_file(&self, path: &str) -> Result<Vec<u8>> {
        let failed = || format!("cannot read the container's /{path}");
        let named = match self.open(path.as_bytes(), OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Vec::new()),
            other => other.context(failed)?,
        };
        let Some(file) = readable(named.as_fd()).context(failed)? else {
            return Ok(Vec::new());
        };
        let mut bytes = Vec::new();
        let mut file = std::fs::File::from(file).take(ACCOUNTS + 1);
        file.read_to_end(&mut bytes).context(failed)?;
        match bytes.len() as u64 > ACCOUNTS {
            true => Err(Error::invalid(format!(
                "it is longer than {ACCOUNTS} bytes"
            )))
            .context(failed),
            false => Ok(bytes),
        }
    }
}

/// Opens the regular file that an O_PATH descriptor names, to read it. None for what is something else:
/// opening a device or pipe does something.
pub(super) fn readable(named: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let stat = rustix::fs::fstat(named)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(Some(rustix::fs::openat(
        CWD,
        proc_path(named)?,
        flags,
        Mode::empty(),
    )?))
}

/// Opens something in a directory that is taken for the root.
pub(super) fn open_in(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..ATTEMPTS {
        let flags = flags | OFlags::CLOEXEC;
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // Something was renamed meanwhile.
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::BUSY)
}
