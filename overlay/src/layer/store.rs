//! Unpacked layers: `layers/ID/{diff/,layer.json}`, each there whole or not at all.
//!
//! Owns their names, their records and the step from half to whole. Not what is in an archive
//! (`unpack`) nor when layers go (`gc`).
//!
//! A layer is kept per chain of layers (image-spec config.md, "Layer ChainID"), not per archive: its
//! directory hides what is below, so it depends on what is below. It is unpacked in
//! `layers/incoming/ID`, which its maker holds locked, so that it is unpacked once by whoever comes
//! first while the others wait; a maker that died leaves a directory without lock, and the next one
//! begins anew. Layers get their names lowest first, so a layer never is there without those below; most
//! of them before they are on the disk ([`unsettled`](super::unsettled)).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::Mode;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::built;
use super::lifetime::Lifetime;
use super::unsettled::UNSETTLED;
use crate::content::{Verified, place_all};
use crate::durable::{self, open_directory};
use crate::lease::{LayerId, Lease, Root};
use crate::lock::{self, Kind, Waiting};
use crate::store::Store;
use crate::{Context, Digest, Error, ErrorKind, Result, record, tree};

/// The version of `layer.json` that is read and written.
pub const VERSION: u32 = 1;
/// The record of a layer.
pub(super) const RECORD: &str = "layer.json";
/// Its files.
pub(super) const DIFF: &str = "diff";
/// The longest record that is read.
const RECORD_LIMIT: u64 = 1 << 20;

/// What is known of an unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`VERSION`].
    pub version: u32,
    /// Digest of the archive, not compressed; none of a layer that was made here and never archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<Digest>,
    /// Bytes of the archive, or of the files' contents.
    pub size: u64,
    /// Bytes on the disk, where they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocated: Option<u64>,
    /// Entries of the archive, or files.
    pub entries: u64,
    /// Nothing of the layers below remains: they must not be mounted.
    #[serde(default)]
    pub opaque: bool,
    /// Its files may not be on the disk yet: it counts only as long as this lasts, or for good once its
    /// record has its final name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Lifetime>,
    /// Deleted files are marked in a way that overlayfs does not know: it must not be mounted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stand_ins: bool,
}

/// The layers of a store.
#[derive(Debug)]
pub struct Layers {
    pub(super) store: Store,
    pub(super) whole: OwnedFd,
    pub(super) incoming: OwnedFd,
}

/// A layer that is there.
#[derive(Debug)]
pub struct Layer {
    /// Its name.
    pub id: LayerId,
    /// What is known of it.
    pub record: Record,
    pub(super) diff: OwnedFd,
}

impl Layer {
    /// The directory of its files.
    pub fn diff(&self) -> BorrowedFd<'_> {
        self.diff.as_fd()
    }
}

/// What came of asking for a layer.
#[derive(Debug)]
pub enum Claim {
    /// It is there, perhaps since somebody else unpacked it while we waited.
    Present(Layer),
    /// It is ours to unpack, and nobody else does at the same time.
    Mine(Unfinished),
}

/// A layer that is being unpacked. Dropped, it is removed.
#[derive(Debug)]
pub struct Unfinished {
    pub(super) id: LayerId,
    incoming: OwnedFd,
    /// Locked.
    pub(super) directory: OwnedFd,
    pub(super) diff: OwnedFd,
    pub(super) published: bool,
}

impl Unfinished {
    /// The empty directory for its files.
    pub fn diff(&self) -> BorrowedFd<'_> {
        self.diff.as_fd()
    }

    /// Its name.
    pub fn id(&self) -> &LayerId {
        &self.id
    }

    /// What it is now that it has its name.
    pub(super) fn named(&mut self, record: Record) -> Result<Layer> {
        self.published = true;
        Ok(Layer {
            id: self.id.clone(),
            record,
            diff: open_directory(&self.directory, DIFF)?,
        })
    }

    /// Throws away what was unpacked so far.
    pub fn clear(&mut self) -> Result<()> {
        self.diff = empty(&self.directory, &self.id)?;
        Ok(())
    }
}

/// Makes the directory for a layer's files, with nothing in it and nothing beside it.
fn empty(directory: &OwnedFd, id: &LayerId) -> Result<OwnedFd> {
    for name in tree::names(directory)? {
        tree::remove(directory, &name)?;
    }
    let context = || format!("cannot create layers/incoming/{id}/{DIFF}");
    rustix::fs::mkdirat(directory, DIFF, Mode::from(0o755)).context(context)?;
    let diff = open_directory(directory, DIFF)?;
    // Whatever the umask.
    rustix::fs::fchmod(&diff, Mode::from(0o755)).context(context)?;
    Ok(diff)
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed now is swept later: once this lock is gone it is nobody's.
            let _ = remove(&self.incoming, &self.id);
        }
    }
}

impl Layers {
    /// The layers of this store.
    pub fn new(store: &Store) -> Result<Self> {
        Ok(Self {
            store: store.clone(),
            whole: store.directory("layers")?,
            incoming: store.directory("layers/incoming")?,
        })
    }

    /// Opens a layer; none if there is none. That it stays is promised by [`Lease::hold`] before.
    pub fn get(&self, id: &LayerId) -> Result<Option<Layer>> {
        let Some((directory, own)) = self.enter(id)? else {
            return Ok(None);
        };
        let read = || -> Result<Option<Layer>> {
            let Some(record) = find_record(&directory, &own)? else {
                return Ok(None);
            };
            if record
                .lifetime
                .as_ref()
                .is_some_and(|one| !one.lasts(&self.store))
            {
                return Ok(None);
            }
            let diff = open_directory(&directory, DIFF)?;
            let id = id.clone();
            Ok(Some(Layer { id, record, diff }))
        };
        read().context(|| format!("cannot use layer {id}"))
    }

    /// Finds a layer or begins to unpack it; waits while somebody else does, as long as `waiting`
    /// allows. Several are to be claimed lowest first: then nobody waits for one another.
    pub fn claim(&self, lease: &Lease, id: &LayerId, waiting: &mut Waiting<'_>) -> Result<Claim> {
        lease.hold(&[Root::Layer(id.clone())])?;
        if let Some(layer) = self.get(id)? {
            return Ok(Claim::Present(layer));
        }
        let directory = self.occupy(id, waiting)?;
        if let Some(layer) = self.get(id)? {
            let _ = remove(&self.incoming, id);
            return Ok(Claim::Present(layer));
        }
        self.drop_alias(id)?;
        self.begin(id, directory).map(Claim::Mine)
    }

    /// Writes the record of a layer anew, which is damaged: from what `unpack` finds when it unpacks
    /// the same archive elsewhere. The layer's files are not touched: containers may use them.
    pub fn renew(
        &self,
        lease: &Lease,
        id: &LayerId,
        waiting: &mut Waiting<'_>,
        unpack: &mut dyn FnMut(BorrowedFd<'_>) -> Result<Record>,
    ) -> Result<()> {
        lease.hold(&[Root::Layer(id.clone())])?;
        let scratch = self.begin(id, self.occupy(id, waiting)?)?;
        let record = unpack(scratch.diff())?;
        let gone = || Error::new(ErrorKind::NotFound, "it was removed meanwhile");
        let (directory, _) = self.enter(id)?.ok_or_else(gone)?;
        let text = record::encode(&record)?;
        durable::replace(&directory, RECORD, &text, Mode::from(0o600))
            .context(|| format!("cannot renew the record of layer {id}"))
    }

    /// Makes the directory in which a layer is unpacked, and locks it. The layer may have become
    /// whole meanwhile.
    pub(super) fn occupy(&self, id: &LayerId, waiting: &mut Waiting<'_>) -> Result<OwnedFd> {
        loop {
            match rustix::fs::mkdirat(&self.incoming, id.as_str(), Mode::from(0o700)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => {
                    return Err(errno).context(|| format!("cannot create layers/incoming/{id}"));
                }
            }
            let Some(directory) = open_if_there(&self.incoming, id)? else {
                continue;
            };
            lock::lock(&directory, Kind::Exclusive, waiting)
                .context(|| format!("cannot wait for layer {id}, which somebody else unpacks"))?;
            // It may have become whole, been given up or been swept while we waited.
            if lock::is_named(&self.incoming, id.as_str(), &directory)? {
                return Ok(directory);
            }
        }
    }

    pub(super) fn begin(&self, id: &LayerId, directory: OwnedFd) -> Result<Unfinished> {
        // There may be something of a maker that died.
        let diff = empty(&directory, id)?;
        let incoming = open_directory(&self.incoming, ".")?;
        let (id, published) = (id.clone(), false);
        Ok(Unfinished {
            id,
            incoming,
            directory,
            diff,
            published,
        })
    }

    /// Makes unpacked layers visible; they are given lowest first. They are durable, or made again after a
    /// power cut by whoever asks for them. After an error some of the lower ones may be there.
    pub fn publish(&self, lease: &Lease, layers: Vec<(Unfinished, Record)>) -> Result<Vec<Layer>> {
        self.publish_with(lease, layers, Vec::new())
    }

    /// The same, and blobs before that, whose names [`Content::sync_names`](crate::content::Content::sync_names)
    /// makes durable.
    pub fn publish_with(
        &self,
        lease: &Lease,
        layers: Vec<(Unfinished, Record)>,
        blobs: Vec<Verified>,
    ) -> Result<Vec<Layer>> {
        if layers.is_empty() {
            return place_all(blobs, || Ok(())).map(|()| Vec::new());
        }
        match self.store.lifetime()? {
            Some(lifetime) => {
                place_all(blobs, || Ok(()))?;
                self.publish_unsettled(lease, layers, &lifetime)
            }
            None => self.publish_durably(layers, blobs),
        }
    }

    /// With one sync of the whole file system.
    fn publish_durably(
        &self,
        layers: Vec<(Unfinished, Record)>,
        blobs: Vec<Verified>,
    ) -> Result<Vec<Layer>> {
        for (layer, record) in &layers {
            let text = record::encode(record)?;
            durable::create(&layer.directory, RECORD, &text, Mode::from(0o600))?;
        }
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest().clone()).collect();
        place_all(blobs, || self.store.sync())?;
        self.store.content().sync_names(digests.iter())?;
        let mut done = Vec::with_capacity(layers.len());
        for (mut layer, record) in layers {
            let name = layer.id.as_str();
            rustix::fs::renameat(&self.incoming, name, &self.whole, name)
                .context(|| format!("cannot rename layers/incoming/{name} to layers/{name}"))?;
            done.push(layer.named(record)?);
        }
        durable::sync_directory(&self.whole)?;
        Ok(done)
    }
}

/// The record by which a layer is there, if it is.
fn find_record(directory: &OwnedFd, own: &LayerId) -> Result<Option<Record>> {
    let settled = || -> Result<Option<Record>> {
        let record = read_record(directory, RECORD)?;
        // For good, whatever it says of the time before.
        Ok(record.map(|record| Record {
            lifetime: None,
            ..record
        }))
    };
    if let Some(record) = settled()? {
        return Ok(Some(record));
    }
    if !built::is_own_name(own) {
        let message = format!("{RECORD} is missing");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    match read_record(directory, UNSETTLED) {
        Ok(Some(record)) => Ok(Some(record)),
        // It may have been settled meanwhile.
        Ok(None) => settled(),
        // What a power cut left of what was never synced.
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn read_record(directory: &OwnedFd, name: &str) -> Result<Option<Record>> {
    durable::read(directory, name, RECORD_LIMIT)?
        .map(|bytes| record::decode(&bytes, name, VERSION))
        .transpose()
}

pub(super) fn open_if_there(at: &OwnedFd, id: &LayerId) -> Result<Option<OwnedFd>> {
    match open_directory(at, id.as_str()) {
        Ok(directory) => Ok(Some(directory)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(incoming: &OwnedFd, id: &LayerId) -> Result<()> {
    let name = std::ffi::CString::new(id.as_str())
        .map_err(|_| Error::new(ErrorKind::Internal, "a layer's name has a zero byte"))?;
    tree::remove(incoming, &name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::up_to;
    use std::time::Duration;

    fn id(digit: char) -> LayerId {
        digit.to_string().repeat(64).parse().unwrap()
    }

    fn record() -> Record {
        Record {
            version: VERSION,
            diff_id: Some(Digest::of(b"archive")),
            size: 7,
            allocated: None,
            entries: 1,
            opaque: false,
            lifetime: None,
            stand_ins: false,
        }
    }

    fn mine(claim: Claim) -> Unfinished {
        match claim {
            Claim::Mine(unfinished) => unfinished,
            Claim::Present(layer) => panic!("{layer:?} is there"),
        }
    }

    fn touch(directory: BorrowedFd<'_>) {
        durable::replace(directory, "file", b"text", Mode::from(0o644)).unwrap();
    }

    #[test]
    fn layers_are_whole_or_absent() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let layers = Layers::new(&store).unwrap();
        let lease = store.lease().unwrap();
        let mut patience = up_to(Duration::ZERO);
        let first = mine(layers.claim(&lease, &id('a'), &mut patience).unwrap());
        touch(first.diff());
        assert!(layers.get(&id('a')).unwrap().is_none());
        drop(first);
        assert!(tree::names(&layers.incoming).unwrap().is_empty());
        let again = mine(layers.claim(&lease, &id('a'), &mut patience).unwrap());
        assert!(tree::names(again.diff()).unwrap().is_empty());
        touch(again.diff());
        let second = mine(layers.claim(&lease, &id('b'), &mut patience).unwrap());
        let done = layers
            .publish(&lease, vec![(again, record()), (second, record())])
            .unwrap();
        assert_eq!(tree::names(done[0].diff()).unwrap(), [c"file".to_owned()]);
        let Claim::Present(layer) = layers.claim(&lease, &id('a'), &mut patience).unwrap() else {
            panic!("it should be there");
        };
        layers.settle(&[id('a'), id('b')]).unwrap();
        assert_eq!(layers.get(&layer.id).unwrap().unwrap().record, record());
        assert!(tree::names(&layers.incoming).unwrap().is_empty());
    }

    #[test]
    fn one_unpacks_and_the_others_wait() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let unpacked = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let layers = Layers::new(&store).unwrap();
                    let lease = store.lease().unwrap();
                    let mut patience = up_to(Duration::from_secs(60));
                    for digit in ['1', '2', '3'] {
                        let claim = layers.claim(&lease, &id(digit), &mut patience).unwrap();
                        if let Claim::Mine(unfinished) = claim {
                            unpacked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                            touch(unfinished.diff());
                            layers
                                .publish(&lease, vec![(unfinished, record())])
                                .unwrap();
                        }
                    }
                });
            }
        });
        assert_eq!(unpacked.into_inner(), 3);
    }

    #[test]
    fn a_dead_maker_leaves_nothing_that_counts() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let layers = Layers::new(&store).unwrap();
        let lease = store.lease().unwrap();
        let left = directory
            .path()
            .join("layers/incoming")
            .join(id('c').as_str());
        std::fs::create_dir_all(left.join("diff/half")).unwrap();
        std::fs::write(left.join(RECORD), "{").unwrap();
        let mut patience = up_to(Duration::ZERO);
        let begun = mine(layers.claim(&lease, &id('c'), &mut patience).unwrap());
        assert!(tree::names(begun.diff()).unwrap().is_empty());
        let busy = std::thread::scope(|scope| {
            let other = || layers.claim(&lease, &id('c'), &mut up_to(Duration::ZERO));
            scope.spawn(other).join().unwrap()
        });
        assert_eq!(busy.unwrap_err().kind(), ErrorKind::Busy);
        layers.publish(&lease, vec![(begun, record())]).unwrap();
    }

    #[test]
    fn records_are_checked() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let layers = Layers::new(&store).unwrap();
        let path = directory.path().join("layers").join(id('d').as_str());
        std::fs::create_dir_all(path.join("diff")).unwrap();
        let newer = serde_json::to_string(&record())
            .unwrap()
            .replace(":1,", ":2,");
        for (text, kind) in [
            (None, ErrorKind::Corrupt),
            (Some("{"), ErrorKind::Corrupt),
            (Some(newer.as_str()), ErrorKind::Unsupported),
        ] {
            if let Some(text) = text {
                std::fs::write(path.join(RECORD), text).unwrap();
            }
            assert_eq!(layers.get(&id('d')).unwrap_err().kind(), kind, "{text:?}");
        }
    }
}
