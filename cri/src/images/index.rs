//! The images of the store, in memory, and always those that are there at the moment.
//!
//! The kubelet lists images every few seconds, and other processes pull and remove at the same time. So
//! the kernel tells of each change: before an answer its queue of events is read, which costs a system
//! call that finds nothing, and only if there was one are the names read again. Documents never change, so
//! each is read once. A blob that is found damaged is moved away, which is an event as well.
//!
//! An image counts as here if all of it is: its documents, and of each layer the archive or the unpacked
//! files. One that lacks something is left out, so that the kubelet pulls it again.

use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rcrun_image::Digest;
use rcrun_image::catalog::Image;
use rcrun_image::document::{Document, MAX_DOCUMENT, MAX_INDEX_DEPTH};
use rcrun_image::names::{Names, Record};
use rcrun_image::pull::Way;
use rcrun_image::reference::Reference;
use rcrun_overlay::content::Content;
use rcrun_overlay::layer::store::Layers;
use rcrun_overlay::store::Store;
use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::describe::Facts;
use super::view::View;
use crate::{Context, Error, ErrorKind, Result};

/// Room for events: how many there are does not matter.
const EVENTS: usize = 4096;

/// The images of a store.
pub(super) struct Index {
    store: Store,
    /// The kernel's queue of events. Whoever reads it also counts them, under its lock.
    events: Mutex<OwnedFd>,
    /// The watch of the directory of damaged blobs.
    damages: i32,
    /// A blob may be gone that was there.
    damaged: AtomicBool,
    /// Counts changes.
    changes: AtomicU64,
    current: RwLock<Arc<View>>,
    /// What was read; locked while names are read.
    known: Mutex<Known>,
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Known {
    documents: HashMap<Digest, Arc<Read>>,
    pinned: HashSet<String>,
    /// What was told of images that cannot be used.
    told: HashSet<String>,
}

/// A document, as far as it is needed.
enum Read {
    Index(Vec<Digest>),
    Image(Facts),
    /// An artifact.
    Other,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Index {
    /// Reads a store, and watches it from here on.
    pub(super) fn open(store: &Store, pinned: &[Reference]) -> Result<Self> {
        let failed = || "cannot watch the names of images";
        let events = rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .context(failed)
            .map_err(|error| error.with_hint("raise the sysctl fs.inotify.max_user_instances"))?;
        let watch = |directory: &str, flags| -> Result<i32> {
            let open = store.directory(directory)?;
            let path = format!("/proc/self/fd/{}", open.as_raw_fd());
            rustix::fs::inotify::add_watch(&events, path, flags).context(failed)
        };
        let moved = WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM;
        let changed = moved | WatchFlags::DELETE | WatchFlags::CLOSE_WRITE;
        watch("images/names", changed)?;
        let damages = watch("content/damaged", moved)?;
        let index = Self {
            store: store.clone(),
            events: Mutex::new(events),
            damages,
            damaged: AtomicBool::new(false),
            changes: AtomicU64::new(1),
            current: RwLock::new(Arc::new(View::default())),
            known: Mutex::default(),
        };
        index.pin(pinned);
        index.refresh()?;
        Ok(index)
    }

    /// From now on these are pinned.
    pub(super) fn pin(&self, names: &[Reference]) {
        lock(&self.known).pinned = names.iter().map(ToString::to_string).collect();
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// The images, if what is known of them is of this moment. Reads no file.
    pub(super) fn fresh(&self) -> Result<Option<Arc<View>>> {
        let changes = self.changes()?;
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Ok((current.changes == changes).then(|| Arc::clone(&current)))
    }

    /// The images, of now or a moment ago; reads what has changed.
    pub(super) fn refresh(&self) -> Result<Arc<View>> {
        let mut known = lock(&self.known);
        // Perhaps somebody else just did.
        if let Some(view) = self.fresh()? {
            return Ok(view);
        }
        let changes = self.changes()?;
        if self.damaged.swap(false, Ordering::SeqCst) {
            known.documents.clear();
        }
        let view = Reading::new(&self.store, &mut known)?.read(changes)?;
        let view = Arc::new(view);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&view);
        Ok(view)
    }

    /// How many changes there have been.
    fn changes(&self) -> Result<u64> {
        let events = lock(&self.events);
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let mut reader = Reader::new(&*events, &mut buffer);
        let mut changed = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    changed = true;
                    // The queue was too small: anything may have happened.
                    if event.wd() == self.damages || event.wd() < 0 {
                        self.damaged.store(true, Ordering::SeqCst);
                    }
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context(|| "cannot watch the names of images"),
            }
        }
        match changed {
            true => Ok(self.changes.fetch_add(1, Ordering::SeqCst) + 1),
            false => Ok(self.changes.load(Ordering::SeqCst)),
        }
    }
}

/// Reading all names once.
struct Reading<'a> {
    names: Names,
    content: Content,
    layers: Layers,
    known: &'a mut Known,
    /// Documents that are still needed.
    used: HashMap<Digest, Arc<Read>>,
    trouble: HashSet<String>,
}

impl<'a> Reading<'a> {
    fn new(store: &Store, known: &'a mut Known) -> Result<Self> {
        Ok(Self {
            names: Names::new(store)?,
            content: store.content(),
            layers: Layers::new(store)?,
            known,
            used: HashMap::new(),
            trouble: HashSet::new(),
        })
    }

    fn read(mut self, changes: u64) -> Result<View> {
        let mut trouble = Vec::new();
        let records = self.names.survey(&mut |file, error| {
            trouble.push(format!("the name {file} cannot be read: {}", error.chain()));
        })?;
        let mut led = Vec::with_capacity(records.len());
        for record in records {
            match self.images_of(&record) {
                Ok(images) => led.push((record, images)),
                Err(error) => {
                    let hint = error.hint().unwrap_or("`rcrun fsck` tells more");
                    let (name, why) = (&record.name, error.chain());
                    trouble.push(format!("image {name} cannot be used: {why}; {hint}"));
                }
            }
        }
        self.trouble.extend(trouble);
        for news in self.trouble.difference(&self.known.told) {
            tracing::warn!("{news}");
        }
        self.known.told = self.trouble;
        self.known.documents = self.used;
        Ok(View::new(changes, led, &self.known.pinned))
    }

    /// The images that a name leads to, and that are whole.
    fn images_of(&mut self, record: &Record) -> Result<Vec<Facts>> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        self.collect(&record.target.digest, 0, &mut seen, &mut found)?;
        if found.is_empty() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "its manifest, its configuration or a layer is missing",
            )
            .with_hint("pull it again"));
        }
        Ok(found)
    }

    fn collect(
        &mut self,
        digest: &Digest,
        depth: usize,
        seen: &mut HashSet<Digest>,
        found: &mut Vec<Facts>,
    ) -> Result<()> {
        if depth > MAX_INDEX_DEPTH || !seen.insert(digest.clone()) {
            return Ok(());
        }
        let Some(read) = self.document(digest)? else {
            return Ok(());
        };
        match &*read {
            Read::Index(entries) => {
                for entry in entries {
                    self.collect(entry, depth + 1, seen, found)?;
                }
            }
            Read::Image(facts) => found.push(facts.clone()),
            Read::Other => {}
        }
        Ok(())
    }

    /// A document that is here; one that was read before is not read again.
    fn document(&mut self, digest: &Digest) -> Result<Option<Arc<Read>>> {
        if let Some(read) = self.used.get(digest) {
            return Ok(Some(Arc::clone(read)));
        }
        let read = match self.known.documents.get(digest) {
            // The sweep may have taken it since.
            Some(read) if self.content.contains(digest)? => Arc::clone(read),
            _ => match self.open(digest)? {
                Some(read) => Arc::new(read),
                None => return Ok(None),
            },
        };
        self.used.insert(digest.clone(), Arc::clone(&read));
        Ok(Some(read))
    }

    fn open(&self, digest: &Digest) -> Result<Option<Read>> {
        let Some(bytes) = self.content.read(digest, MAX_DOCUMENT as u64)? else {
            return Ok(None);
        };
        let document = Document::read(&bytes, None).context(|| format!("cannot read {digest}"))?;
        match document {
            Document::Index(index) => {
                let entries = index.manifests.into_iter().map(|entry| entry.digest);
                Ok(Some(Read::Index(entries.collect())))
            }
            Document::Manifest(manifest) if manifest.check_image().is_err() => {
                Ok(Some(Read::Other))
            }
            Document::Manifest(_) => match Image::read(&self.content, digest)? {
                Some(image) if self.is_whole(&image)? => self.facts(&image).map(Some),
                _ => Ok(None),
            },
        }
    }

    /// Whether each layer is here, as an archive or unpacked.
    fn is_whole(&self, image: &Image) -> Result<bool> {
        let ways: Vec<_> = Way::ALL
            .iter()
            .map(|way| image.layers(*way))
            .collect::<Result<_>>()?;
        for (index, blob) in image.document.layers.iter().enumerate() {
            let mut here = self.content.contains(&blob.digest)?;
            for way in &ways {
                here = here || self.layers.get(&way[index])?.is_some();
            }
            if !here {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn facts(&self, image: &Image) -> Result<Read> {
        let size = image.size(&self.layers)?;
        Ok(Read::Image(Facts {
            id: image.id.clone(),
            manifest: image.manifest.digest.clone(),
            platform: image.config.platform(),
            user: image.config.config.user.clone(),
            // Both are on the disk, and go when the image goes. The interface forbids 0.
            size: size.compressed.saturating_add(size.unpacked).max(1),
            annotations: image.document.annotations.clone(),
        }))
    }
}
