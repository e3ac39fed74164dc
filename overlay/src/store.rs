//! A store: a directory with everything that images need, used by many processes at once.
//!
//! Owns the layout and the version of a store, and its open descriptors. Not what is in the parts:
//! blobs are `content`'s, promises not to remove things `lease`'s, removal `gc`'s; `layers/`,
//! `snapshots/`, `images/` and `containers/` belong to those who fill them. docs/on-disk.md ("The store") is
//! normative.
//!
//! Opening an existing store writes nothing, hence works when the disk is full or read-only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::content::Content;
use crate::durable::{self, open_directory};
use crate::layer::lifetime::Lifetime;
use crate::lease::Lease;
use crate::order::Order;
use crate::removal::{self, Reuse};
use crate::{Context, Error, ErrorKind, Result, lock, tree};

/// The version of the layout that this code reads and writes.
pub const VERSION: u32 = 1;

/// The file that says which layout a store has. It is written last: with it, the store is complete.
pub const VERSION_FILE: &str = "version";

/// The longest version file that is read.
const VERSION_LIMIT: u64 = 4096;

/// Every directory of a store, parents first.
const DIRECTORIES: [&str; 14] = [
    "content",
    "content/sha256",
    "content/incoming",
    "content/damaged",
    "layers",
    "layers/incoming",
    "layers/empty",
    "snapshots",
    "containers",
    "containers/names",
    "images",
    "images/names",
    "leases",
    "trash",
];

/// What else may be in a directory that becomes a store: other parts of the program, and mkfs(8).
const TOLERATED: [&str; 5] = [lock::STORE_LOCK, "build", "cri", "lost+found", "volumes"];

#[derive(Serialize, Deserialize)]
struct Version {
    version: u32,
}

/// An open store. Clones share its descriptors.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    root: OwnedFd,
    content: OwnedFd,
    incoming: OwnedFd,
    leases: OwnedFd,
    /// Somebody vouches for layers that were never synced.
    trusting: std::sync::atomic::AtomicBool,
    /// The mount that it is on, as others know it: see [`Store::seen_from`].
    mount: OnceLock<OwnedFd>,
    /// What vouches for layers that were never synced, asked for once.
    now: OnceLock<Lifetime>,
    reuse: Reuse,
    order: Order,
}

impl Store {
    /// Opens a store, and makes it first where there is none.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_any(path).context(|| format!("cannot open the store {}", path.display()))
    }

    fn open_any(path: &Path) -> Result<Self> {
        let root = match open_root(path) {
            Err(Errno::NOENT) => {
                make_root(path)?;
                open_root(path)
            }
            opened => opened,
        }
        .context(|| "cannot open its directory")?;
        if !has_version(&root)? {
            make_layout(&root)?;
        }
        let content = open_directory(&root, "content")?;
        let incoming = open_directory(&content, "incoming")?;
        let leases = open_directory(&root, "leases")?;
        let path = path.to_owned();
        let inner = Inner {
            path,
            root,
            content,
            incoming,
            leases,
            trusting: std::sync::atomic::AtomicBool::new(false),
            mount: OnceLock::new(),
            now: OnceLock::new(),
            reuse: Reuse::default(),
            order: Order::default(),
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Where it was when it was opened: for messages. Everything else goes by descriptors.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Its root directory.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.0.root.as_fd()
    }

    /// Opens one of its directories: `layers`, `images/names`.
    pub fn directory(&self, name: &str) -> Result<OwnedFd> {
        let mut open = open_directory(self.root(), ".")?;
        for part in name.split('/') {
            open = open_directory(&open, part).context(|| format!("cannot open {name}"))?;
        }
        Ok(open)
    }

    /// Writes out what will have to be synced later, so that the sync itself is short. Promises
    /// nothing: an error is left to that sync, which has a descriptor of its own and is told too.
    pub fn write_back(&self) {
        if let Ok(own) = open_directory(self.root(), ".") {
            let _ = rustix::fs::syncfs(&own);
        }
    }

    /// From here on layers that were never synced count, whatever mount namespace they were made in: for a
    /// process that was started by who has seen that they are whole.
    pub fn trust_unsynced(&self) {
        self.0
            .trusting
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    pub(crate) fn trusts_unsynced(&self) -> bool {
        self.0.trusting.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Looks for it in another mount namespace, of which this is the root: what was never synced counts as long
    /// as the mount there stays. For a process whose own namespace ends with it, so that nobody would ever know
    /// its mounts again. What is not found there, or is another directory, changes nothing.
    pub fn seen_from(&self, root: impl AsFd) {
        let Ok(path) = self.path().strip_prefix("/") else {
            return;
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let Ok(seen) = rustix::fs::openat2(root, path, flags, Mode::empty(), within) else {
            return;
        };
        if let (Ok(there), Ok(here)) = (rustix::fs::fstat(&seen), rustix::fs::fstat(self.root()))
            && lock::same(&there, &here)
        {
            // Said before, it was the same.
            let _ = self.0.mount.set(seen);
        }
    }

    /// Its root directory on the mount that vouches for what was never synced.
    pub(crate) fn on_its_mount(&self) -> BorrowedFd<'_> {
        self.0.mount.get().map_or(self.root(), AsFd::as_fd)
    }

    /// The present lifetime, with nothing but the boot where nothing else is told. After [`Store::seen_from`].
    pub(crate) fn now(&self) -> Result<&Lifetime> {
        if let Some(now) = self.0.now.get() {
            return Ok(now);
        }
        let now = Lifetime::asked(self)?;
        Ok(self.0.now.get_or_init(|| now))
    }

    /// How long layers count that are not synced before they are there; none if they have to be: all
    /// processes must agree on it.
    pub fn lifetime(&self) -> Result<Option<Lifetime>> {
        Ok(Lifetime::of(self)?.filter(Lifetime::is_shared))
    }

    /// Brings everything to the disk that was written so far.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(self.root()).context(|| "cannot sync the store")
    }

    /// Its blobs.
    pub fn content(&self) -> Content {
        Content::new(self.clone())
    }

    /// Begins to use things of the store: see [`Lease`].
    pub fn lease(&self) -> Result<Lease> {
        Lease::take(self)
    }

    /// Whether what is removed has to be kept until that is durable: see [`removal`].
    pub(crate) fn reuses_early(&self) -> bool {
        self.0.reuse.is_early(self.root())
    }

    /// Whether changes are durable in the order in which they are made, whatever is synced.
    pub(crate) fn commits_in_order(&self) -> bool {
        self.0.order.is_kept(self.root())
    }

    /// Makes what was removed from a directory durable where others could get its blocks before.
    pub fn settle(&self, directory: impl AsFd) -> Result<()> {
        removal::settle(&self.0.reuse, directory)
    }

    pub(crate) fn content_fd(&self) -> BorrowedFd<'_> {
        self.0.content.as_fd()
    }

    pub(crate) fn incoming_fd(&self) -> BorrowedFd<'_> {
        self.0.incoming.as_fd()
    }

    pub(crate) fn leases_fd(&self) -> BorrowedFd<'_> {
        self.0.leases.as_fd()
    }
}

fn open_root(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Makes the directory and those above it, and syncs their names.
fn make_root(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match rustix::fs::mkdir(path, Mode::from(0o700)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(Errno::NOENT) if parent != Path::new(".") => {
            make_root(parent)?;
            return make_root(path);
        }
        Err(errno) => return Err(errno).context(|| format!("cannot make {}", path.display())),
    }
    let parent = open_root(parent).context(|| format!("cannot open {}", parent.display()))?;
    durable::sync_directory(parent)
}

/// Whether this is a store already, of a version that is known.
fn has_version(root: impl AsFd) -> Result<bool> {
    let Some(bytes) = durable::read(root, VERSION_FILE, VERSION_LIMIT)? else {
        return Ok(false);
    };
    let corrupt = |why: String| Error::new(ErrorKind::Corrupt, why);
    let found: Version = serde_json::from_slice(&bytes)
        .map_err(|e| corrupt(format!("cannot read the file {VERSION_FILE}: {e}")))?;
    if found.version == VERSION {
        return Ok(true);
    }
    Err(Error::unsupported(format!(
        "it has version {}, this program knows version {VERSION} only",
        found.version
    )))
}

fn make_layout(root: &OwnedFd) -> Result<()> {
    // Two who find nothing at the same time: the second one finds a store.
    let _door = lock::door(root)?;
    if has_version(root)? {
        return Ok(());
    }
    refuse_foreign(root)?;
    for name in DIRECTORIES {
        make_directory(root, name)?;
    }
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::openat(root, lock::STORE_LOCK, flags, Mode::from(0o600))
        .context(|| format!("cannot create {}", lock::STORE_LOCK))?;
    // Else the sync of the version brings them along.
    if !Order::default().is_kept(root) {
        for name in ["content", "layers", "images", "containers"] {
            durable::sync_directory(open_directory(root, name)?)?;
        }
        durable::sync_directory(root)?;
    }
    let text = serde_json::to_vec(&Version { version: VERSION })
        .map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
    durable::replace(root, VERSION_FILE, &text, Mode::from(0o444))
}

/// Two levels at most, so the parent is opened without following links either.
fn make_directory(root: &OwnedFd, name: &str) -> Result<()> {
    let made = match name.split_once('/') {
        Some((parent, child)) => {
            let parent = open_directory(root, parent)?;
            rustix::fs::mkdirat(parent, child, Mode::from(0o700))
        }
        None => rustix::fs::mkdirat(root, name, Mode::from(0o700)),
    };
    match made {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("cannot make {name}")),
    }
}

/// A directory with other things in it is somebody's mistake in an option, not a store to be.
fn refuse_foreign(root: &OwnedFd) -> Result<()> {
    for name in tree::names(root)? {
        let ours = name.to_str().is_ok_and(|name| {
            DIRECTORIES.contains(&name)
                || TOLERATED.contains(&name)
                || name.starts_with(durable::TEMPORARY)
        });
        if !ours {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                format!("it is no store, and holds other things: {name:?}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;
