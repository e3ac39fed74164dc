//! The snapshots of a store: making, finding and removing them.
//!
//! A snapshot is made in `snapshots/.new-*`, which its maker holds locked, and renamed when its record
//! is on the disk: it is there whole or not at all. Its name and its layers are in the maker's lease
//! before anything is looked up, so no sweep comes in between (`gc.rs` has the argument).

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::record::{Form, Idmap, RECORD, Record, VERSION};
#[cfg(test)]
use super::stack::MapIds;
use super::stack::{self, Mounting, Stack};
use crate::compress::Compression;
use crate::durable::{self, open_directory};
use crate::layer::attributes::{Fresh, complete_directory, of_stat, read_extended};
use crate::layer::flatten::{differences, flatten};
use crate::layer::{Change, Overlay as Marks, Packed, changes, diff};
use crate::lease::{LayerId, Lease, Root, SnapshotId};
use crate::lock::{self, Kind};
use crate::store::Store;
use crate::{Context, Error, ErrorKind, Result, tree};

/// What receives changes.
pub(super) const UPPER: &str = "upper";

/// All files, of a copy.
pub(super) const ROOT: &str = "root";

/// The kernel's own directory beside it.
pub(super) const WORK: &str = "work";

/// How a snapshot is made.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// Which attributes its mounts use; the layers have to be made for the same.
    pub marks: Marks,
    /// How ids are to be mapped when it is mounted: recorded for whoever mounts it.
    pub idmap: Option<Idmap>,
    /// What is made.
    pub form: Form,
    /// Recorded as they are.
    pub labels: BTreeMap<String, String>,
    /// Nothing is synced: for who sees to it that it does not count after a power cut.
    pub unsynced: bool,
}

/// What a snapshot takes beyond its layers.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Allocated blocks; a file with several names once.
    pub bytes: u64,
    /// Files and directories; a file with several names once.
    pub inodes: u64,
}

/// The snapshots of a store.
#[derive(Debug)]
pub struct Snapshots {
    store: Store,
    directory: OwnedFd,
}

/// A snapshot that is there.
#[derive(Debug)]
pub struct Snapshot {
    store: Store,
    id: SnapshotId,
    record: Record,
    directory: OwnedFd,
}

impl Snapshots {
    /// The snapshots of this store.
    pub fn new(store: &Store) -> Result<Self> {
        Ok(Self {
            store: store.clone(),
            directory: store.directory("snapshots")?,
        })
    }

    /// Makes a snapshot of layers, the lowest first. The lease is to be kept until something durable
    /// refers to the snapshot, unless the caller marks all snapshots for the sweep.
    pub fn create(
        &self,
        lease: &Lease,
        id: &SnapshotId,
        chain: &[LayerId],
        options: Options,
    ) -> Result<Snapshot> {
        let make = || {
            let mut roots = vec![Root::Snapshot(id.clone())];
            roots.extend(chain.iter().cloned().map(Root::Layer));
            lease.hold(&roots)?;
            let stack = Stack::open(&self.store, chain, options.marks)?;
            let record = Record {
                version: VERSION,
                layers: chain.to_vec(),
                marks: options.marks,
                form: options.form,
                idmap: options.idmap,
                labels: options.labels,
                created: SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |since| since.as_secs()),
            };
            self.write(id, &stack, record, !options.unsynced)
        };
        make().context(|| format!("cannot create snapshot {id}"))
    }

    fn write(
        &self,
        id: &SnapshotId,
        stack: &Stack,
        record: Record,
        lasting: bool,
    ) -> Result<Snapshot> {
        let bytes = record.bytes()?;
        let (name, directory) = self.begin()?;
        let written = fill(&directory, stack, &record, &bytes, lasting);
        let written = written.and_then(|()| {
            let flags = RenameFlags::NOREPLACE;
            let renamed = rustix::fs::renameat_with(
                &self.directory,
                &name,
                &self.directory,
                id.as_str(),
                flags,
            );
            match renamed {
                // File systems that do not know the flag: a directory replaces an empty one only,
                // and no snapshot is empty.
                Err(Errno::INVAL) => {
                    rustix::fs::renameat(&self.directory, &name, &self.directory, id.as_str())
                }
                other => other,
            }
            .map_err(|errno| match errno {
                Errno::NOTEMPTY => Errno::EXIST,
                errno => errno,
            })
            .context(|| format!("cannot rename snapshots/{name} to snapshots/{id}"))
        });
        if let Err(error) = written {
            // The original error matters more; what remains is swept by its name.
            let _ = remove_tree(&self.directory, &name);
            return Err(error);
        }
        if lasting {
            durable::sync_directory(&self.directory)?;
        }
        lock::unlock(&directory);
        Ok(Snapshot {
            store: self.store.clone(),
            id: id.clone(),
            record,
            directory,
        })
    }

    /// A new directory and its name, locked until it is a snapshot: what is not locked is swept at any
    /// moment, also between our making it and locking it.
    fn begin(&self) -> Result<(String, OwnedFd)> {
        loop {
            let name = durable::temporary_name();
            rustix::fs::mkdirat(&self.directory, &name, Mode::from(0o700))
                .context(|| format!("cannot make snapshots/{name}"))?;
            let directory = match open_directory(&self.directory, &name) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => opened?,
            };
            let patience = &mut lock::up_to(lock::STORE_PATIENCE);
            lock::lock(&directory, Kind::Exclusive, patience)?;
            if lock::is_named(&self.directory, &name, &directory)? {
                return Ok((name, directory));
            }
        }
    }

    /// Makes what can be used: an overlay, or a copy and why it is one. Ids that are to be mapped are
    /// only in a copy where layers have the marks of ordinary users. For root there is one reason: a
    /// store on an overlayfs, as in a container without volumes.
    pub fn create_usable(
        &self,
        lease: &Lease,
        id: &SnapshotId,
        chain: &[LayerId],
        options: &Options,
    ) -> Result<(Snapshot, Option<Error>)> {
        let reason = match (options.marks, &options.idmap) {
            (Marks::Trusted, _) if self.is_on_overlayfs()? => {
                Error::unsupported("the store is on an overlayfs, which no other can be put upon")
            }
            (Marks::Trusted, _) => {
                let made = self.create(lease, id, chain, options.clone())?;
                return Ok((made, None));
            }
            (Marks::User, Some(_)) => {
                Error::unsupported("an ordinary user cannot map the ids of files")
            }
            (Marks::User, None) => {
                let made = self.create(lease, id, chain, options.clone())?;
                match made.detached(&Mounting::default()) {
                    Ok(_) => return Ok((made, None)),
                    Err(error) if may_be_copied(&error) => {
                        self.remove(id)?;
                        error
                    }
                    Err(error) => {
                        // The first error matters more; what remains is swept.
                        let _ = self.remove(id);
                        return Err(error);
                    }
                }
            }
        };
        let form = Form::Copy;
        let options = Options {
            form,
            ..options.clone()
        };
        let made = self.create(lease, id, chain, options)?;
        Ok((made, Some(reason)))
    }

    fn is_on_overlayfs(&self) -> Result<bool> {
        const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
        let found = rustix::fs::fstatfs(&self.directory);
        let found = found.context(|| "cannot tell the file system of the store")?;
        Ok(found.f_type == OVERLAYFS_SUPER_MAGIC)
    }

    /// Opens a snapshot; none if there is none. That it stays is promised by [`Lease::hold`] before,
    /// or by a record that the sweep is told of.
    pub fn open(&self, id: &SnapshotId) -> Result<Option<Snapshot>> {
        let Some(directory) = self.enter(id)? else {
            return Ok(None);
        };
        let record = Record::read(&directory)
            .and_then(|record| {
                let missing = || Error::new(ErrorKind::Corrupt, format!("{RECORD} is missing"));
                record.ok_or_else(missing)
            })
            .context(|| format!("cannot use snapshot {id}"))?;
        Ok(Some(Snapshot {
            store: self.store.clone(),
            id: id.clone(),
            record,
            directory,
        }))
    }

    /// All of them, sorted.
    pub fn list(&self) -> Result<Vec<SnapshotId>> {
        let names = tree::names(&self.directory)?;
        let mut ids: Vec<SnapshotId> = names
            .iter()
            .filter_map(|name| name.to_str().ok()?.parse().ok())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// The layers that a snapshot's record refers to; none if there is no record.
    pub(crate) fn layers(&self, id: &SnapshotId) -> Result<Option<Vec<LayerId>>> {
        let Some(directory) = self.enter(id)? else {
            return Ok(None);
        };
        let record =
            Record::read(directory).context(|| format!("cannot tell what snapshot {id} needs"))?;
        Ok(record.map(|record| record.layers))
    }

    fn enter(&self, id: &SnapshotId) -> Result<Option<OwnedFd>> {
        match open_directory(&self.directory, id.as_str()) {
            Ok(directory) => Ok(Some(directory)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("cannot use snapshot {id}")),
        }
    }

    /// Removes a snapshot; whether there was one. Works on a full disk. It is nobody's task here to
    /// know whether it is mounted: a mount of it goes on, and loses the files that were changed.
    pub fn remove(&self, id: &SnapshotId) -> Result<bool> {
        let context = || format!("cannot remove snapshot {id}");
        let trash = self.store.directory("trash")?;
        let name = durable::temporary_name();
        match rustix::fs::renameat(&self.directory, id.as_str(), &trash, &name) {
            Ok(()) => {
                self.store.settle(&trash).context(context)?;
                remove_tree(&trash, &name).context(context)?;
            }
            Err(Errno::NOENT) => return Ok(false),
            // The trash has no room for another name. Without a record it is no snapshot any more,
            // and should we be killed now, it is removed as what it is.
            Err(Errno::NOSPC | Errno::DQUOT) => {
                let directory = open_directory(&self.directory, id.as_str()).context(context)?;
                durable::remove(&directory, RECORD).context(context)?;
                remove_tree(&self.directory, id.as_str()).context(context)?;
            }
            Err(errno) => return Err(errno).context(context),
        }
        Ok(true)
    }
}

/// Everything in the new directory, which is perhaps durable.
fn fill(
    directory: &OwnedFd,
    stack: &Stack,
    record: &Record,
    bytes: &[u8],
    lasting: bool,
) -> Result<()> {
    let make = |name, mode| {
        rustix::fs::mkdirat(directory, name, Mode::from(mode))
            .context(|| format!("cannot make {name}"))
    };
    match record.form {
        Form::Overlay => {
            make(UPPER, 0o755)?;
            make(WORK, 0o700)?;
            like_the_root(&open_directory(directory, UPPER)?, stack)?;
        }
        Form::Copy => {
            make(ROOT, 0o755)?;
            let root = open_directory(directory, ROOT)?;
            let shift = record.shift();
            flatten(&stack.lowers(), record.marks, &shift, root.as_fd())
                .context(|| "cannot copy the files of its layers")?;
            // Whole or not at all: the record says that it is.
            if lasting {
                rustix::fs::syncfs(&root).context(|| "cannot sync the copy")?;
            }
        }
    }
    let mode = Mode::from(0o600);
    match lasting {
        true => {
            durable::write_new(directory, RECORD, bytes, mode)?;
            durable::sync_directory(directory)
        }
        false => durable::replace_unsynced(directory, RECORD, bytes, mode),
    }
}

impl Snapshot {
    /// Its name.
    pub fn id(&self) -> &SnapshotId {
        &self.id
    }

    /// What is known of it.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// What it takes. While it is mounted that changes.
    pub fn usage(&self) -> Result<Used> {
        let mut meter = tree::Meter::default();
        let name = CString::new(self.files()).map_err(std::io::Error::from)?;
        meter
            .add_tree(&self.directory, &name)
            .context(|| format!("cannot measure snapshot {}", self.id))?;
        let (bytes, inodes) = (meter.bytes, meter.entries);
        Ok(Used { bytes, inodes })
    }

    /// Mounts it with its layers, without a place in the tree of mounts. Mounted with [`volatile`]
    /// once, it can never be mounted for writing again. Two mounts for writing at a time are the
    /// caller's to prevent: the kernel does not.
    ///
    /// A copy is mounted for writing in any case, and has its ids on the disk already.
    ///
    /// [`volatile`]: Mounting::volatile
    pub fn detached(&self, how: &Mounting<'_>) -> Result<OwnedFd> {
        let mount = || match self.record.form {
            Form::Overlay => self.stack()?.detached_above(&self.directory, UPPER, how),
            Form::Copy => {
                let flags = OpenTreeFlags::OPEN_TREE_CLONE
                    | OpenTreeFlags::OPEN_TREE_CLOEXEC
                    | OpenTreeFlags::AT_EMPTY_PATH;
                open_tree(open_directory(&self.directory, ROOT)?, c"", flags)
                    .context(|| "cannot clone the mount of a copy")
            }
        };
        mount().context(|| format!("cannot mount snapshot {}", self.id))
    }

    /// What it changes, sorted by path.
    pub fn changes(&self) -> Result<Vec<Change>> {
        let find = || {
            let stack = self.stack()?;
            let files = open_directory(&self.directory, self.files())?;
            let (files, lowers, marks) = (files.as_fd(), stack.lowers(), self.record.marks);
            match self.record.form {
                Form::Overlay => changes(files, &lowers, marks),
                Form::Copy => differences(files, &lowers, marks, &self.record.shift()),
            }
        };
        find().context(|| format!("cannot tell the changes of snapshot {}", self.id))
    }

    /// Writes its changes as a layer, compressed with so many threads beside this one. Nobody may
    /// write to it meanwhile. Other fields than `overlay` of the options are the caller's choice.
    pub fn diff<W: Write>(
        &self,
        options: diff::Options,
        compression: Compression,
        threads: usize,
        sink: W,
    ) -> Result<(Packed, W)> {
        let overlay = self.record.marks;
        let options = diff::Options { overlay, ..options };
        let refuse = |what| {
            let text = format!("cannot make a layer of snapshot {}: {what}", self.id);
            Err(Error::unsupported(text))
        };
        if self.record.form == Form::Copy {
            return refuse("it is a copy of its layers, so what is different is not kept");
        }
        // Who owned what an image had is not known here, and would be lost.
        if self.record.layers.iter().any(stack::has_one_owner) {
            return refuse("its layers were unpacked with one user id only");
        }
        let upper = open_directory(&self.directory, UPPER)?;
        diff::pack(upper.as_fd(), options, compression, threads, sink)
            .context(|| format!("cannot make a layer of snapshot {}", self.id))
    }

    #[cfg(test)]
    pub(super) fn apart(
        &self,
        way: super::private::Way,
        idmap: Option<&MapIds<'_>>,
    ) -> Result<OwnedFd> {
        self.stack()?.apart(&self.directory, way, idmap)
    }

    /// What of it is files.
    fn files(&self) -> &'static str {
        match self.record.form {
            Form::Overlay => UPPER,
            Form::Copy => ROOT,
        }
    }

    /// The directory of what it changes.
    pub(super) fn upper(&self) -> Result<OwnedFd> {
        open_directory(&self.directory, UPPER)
    }

    pub(super) fn stack(&self) -> Result<Stack> {
        Stack::open(&self.store, &self.record.layers, self.record.marks)
    }
}

/// The root of a mount has the attributes of its top directory, so they are those of the top layer's.
pub(crate) fn like_the_root(upper: &OwnedFd, stack: &Stack) -> Result<()> {
    let Some(top) = stack.lowers().first().copied() else {
        // Whatever the umask.
        return rustix::fs::fchmod(upper, Mode::from(0o755)).context(|| "cannot make upper");
    };
    let stat = rustix::fs::fstat(top).context(|| "cannot examine the top layer")?;
    let attributes = of_stat(&stat, read_extended(top)?);
    let fresh = Fresh {
        umask: 0,
        owner: None,
        chown: true,
    };
    complete_directory(upper.as_fd(), &attributes, fresh, &mut 0)
        .context(|| "cannot make the root directory like that of the top layer")
}

/// What kernels and file systems answer that do not let an ordinary user mount an overlay.
fn may_be_copied(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::PermissionDenied
    )
}

fn remove_tree(directory: &OwnedFd, name: &str) -> Result<()> {
    let name = CString::new(name).map_err(std::io::Error::from)?;
    tree::remove(directory, &name)
}

/// Whether a snapshot was mounted without syncing, and hence is worthless or in use (overlayfs.rst,
/// "Volatile mount"): the kernel's mark of that.
pub(crate) fn was_volatile(work: impl AsFd) -> bool {
    rustix::fs::statat(work, c"work/incompat/volatile", AtFlags::SYMLINK_NOFOLLOW).is_ok()
}
