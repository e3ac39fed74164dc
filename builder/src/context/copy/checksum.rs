//! What a copy depends on, as one digest.
//!
//! Two selections with the same checksum, executed on equal roots, give the same result but for
//! modification times. Every file's bytes are read, by several threads; the [`StatCache`] spares
//! those whose version was read before.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::FileType;
use sha2::{Digest as _, Sha256};

use rcrun_overlay::archive::name::{show, split};
use rcrun_overlay::digest::{Algorithm, Hasher};

use super::cache::{Hash, StatCache};
use super::files::{Files, Meta, Node};
use super::{Selection, What, attributes};
use crate::context::open::{self, Opener};
use crate::context::tree::Tree;
use crate::context::view;
use crate::{Context, Digest, Error, ErrorKind, Result};

/// Changes with the way of hashing.
const VERSION: &[u8] = b"rcrun copy 1\n";
/// Files that a thread takes at once.
const CHUNK: usize = 32;
/// Bytes read at once.
pub(super) const BUFFER: usize = 256 << 10;

pub(super) fn checksum(
    selection: &Selection,
    threads: usize,
    cache: Option<&StatCache>,
) -> Result<Digest> {
    let mut all = Canonical::new();
    all.bytes(VERSION);
    all.bytes(selection.dest.as_bytes());
    match selection.owner {
        Some(owner) => all.numbers(&[1, owner.uid.into(), owner.gid.into()]),
        None => all.numbers(&[0]),
    }
    all.bytes(
        selection
            .chmod
            .as_ref()
            .map_or("", |chmod| chmod.text())
            .as_bytes(),
    );
    for found in &selection.matches {
        all.bytes(&found.name);
        match &found.what {
            What::Inline(contents) => {
                all.numbers(&[1]);
                all.bytes(contents);
            }
            What::Archive {
                tree, path, meta, ..
            } => {
                all.numbers(&[2]);
                let mut buffer = vec![0; BUFFER];
                let file = view::read(tree.root(), path).map_err(Error::from);
                let hash = file.and_then(|file| content(&file, meta, Sha256::new(), &mut buffer));
                all.bytes(&hash.context(|| words(tree, path))?);
            }
            What::Files {
                tree,
                path,
                files,
                contents,
            } => {
                all.numbers(&[3, u64::from(*contents), files.nodes().len() as u64]);
                let cache = cache.filter(|cache| cache.serves(tree.root()));
                let hashes = Hashing::run(tree, path, files, cache, threads)?;
                append(&mut all, selection, tree, files, *contents, &hashes);
            }
        }
    }
    Ok(all.0.finish())
}

fn words(tree: &Tree, path: &[u8]) -> String {
    format!("cannot read {} of {}", show(path), tree.name())
}

/// Puts all that matters of the files into the digest, in their order.
fn append(
    all: &mut Canonical,
    selection: &Selection,
    tree: &Tree,
    files: &Files,
    contents: bool,
    hashes: &[Hash],
) {
    let mut linked = std::collections::HashMap::new();
    for (number, (node, hash)) in files.nodes().iter().zip(hashes).enumerate() {
        let meta = &node.meta;
        let kind = meta.kind();
        let (uid, gid) = selection.owner(tree, meta);
        // The directory itself is not copied.
        if number == 0 && contents && kind == FileType::Directory {
            all.numbers(&[tag(kind)]);
            continue;
        }
        let first = match meta.links > 1 && kind == FileType::RegularFile {
            true => *linked.entry((meta.device, meta.inode)).or_insert(number),
            false => number,
        };
        let mode = match kind {
            FileType::Symlink => 0,
            _ => selection.mode(meta),
        };
        let device = matches!(kind, FileType::BlockDevice | FileType::CharacterDevice);
        all.numbers(&[
            tag(kind),
            u64::from(node.depth()),
            u64::from(node.implied),
            mode.into(),
            uid.into(),
            gid.into(),
            if device { meta.number } else { 0 },
            // Of the first name of the same file, how far back it is.
            (number - first) as u64,
        ]);
        all.bytes(files.name(node));
        all.bytes(hash);
    }
}

/// A type. Sockets become empty files.
fn tag(kind: FileType) -> u64 {
    match kind {
        FileType::Directory => 1,
        FileType::RegularFile | FileType::Socket => 2,
        FileType::Symlink => 3,
        FileType::Fifo => 4,
        FileType::CharacterDevice => 5,
        FileType::BlockDevice => 6,
        FileType::Unknown => 7,
    }
}

/// Values that cannot be taken for others, in a digest.
struct Canonical(Hasher);

impl Canonical {
    fn new() -> Self {
        Self(Algorithm::Sha256.hasher())
    }

    fn numbers(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.0.update(&number.to_le_bytes());
        }
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.numbers(&[bytes.len() as u64]);
        self.0.update(bytes);
    }
}

/// Several threads that hash the files of one source.
struct Hashing<'a> {
    tree: &'a Tree,
    path: &'a [u8],
    files: &'a Files,
    cache: Option<&'a StatCache>,
    /// What the cache is about; not what is mounted below.
    device: u64,
    next: AtomicUsize,
    failed: AtomicBool,
    /// Hashes by the number of their node, in runs.
    done: Mutex<Vec<Hash>>,
    error: Mutex<Option<(usize, Error)>>,
}

impl<'a> Hashing<'a> {
    fn run(
        tree: &'a Tree,
        path: &'a [u8],
        files: &'a Files,
        cache: Option<&'a StatCache>,
        threads: usize,
    ) -> Result<Vec<Hash>> {
        let count = files.nodes().len();
        let hashing = Self {
            tree,
            path,
            files,
            cache,
            device: rustix::fs::fstat(tree.root())?.st_dev,
            next: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            done: Mutex::new(vec![Hash::default(); count]),
            error: Mutex::new(None),
        };
        let threads = threads.clamp(1, count.div_ceil(CHUNK));
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| hashing.work());
            }
            hashing.work();
        });
        match hashing
            .error
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
        {
            Some((_, error)) => Err(error),
            None => Ok(hashing
                .done
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn work(&self) {
        let mut worker = Worker {
            opener: None,
            buffer: vec![0; BUFFER],
        };
        while !self.failed.load(Ordering::Relaxed) {
            let start = self.next.fetch_add(CHUNK, Ordering::Relaxed);
            let nodes = self.files.nodes();
            if start >= nodes.len() {
                return;
            }
            let end = nodes.len().min(start + CHUNK);
            let mut hashes = Vec::with_capacity(end - start);
            for (number, node) in nodes[start..end].iter().enumerate() {
                match self.node(node, &mut worker) {
                    Ok(hash) => hashes.push(hash),
                    Err(error) => {
                        let path = self.full_path(node);
                        let error = error.context(words(self.tree, &path));
                        return self.fail(start + number, error);
                    }
                }
            }
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done[start..end].copy_from_slice(&hashes);
        }
    }

    /// Keeps the error of the first file, so that the same one is told each time.
    fn fail(&self, number: usize, error: Error) {
        let mut kept = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|(first, _)| number < *first) {
            *kept = Some((number, error));
        }
        self.failed.store(true, Ordering::Relaxed);
    }

    fn full_path(&self, node: &Node) -> Vec<u8> {
        full_path(self.path, self.files, node)
    }

    fn node(&self, node: &Node, worker: &mut Worker) -> Result<Hash> {
        let meta = &node.meta;
        let kind = meta.kind();
        let cache = self.cache.filter(|_| meta.device == self.device);
        if kind == FileType::RegularFile
            && let Some(hash) = cache.and_then(|cache| cache.find(meta))
        {
            return Ok(hash);
        }
        let path = self.full_path(node);
        if kind == FileType::Directory {
            let fd = open::directory(self.tree.root(), &path)?;
            return Ok(of_attributes(&attributes::of_open(fd.as_fd())?)
                .finalize()
                .into());
        }
        let (above, name) = split(&path);
        let at = worker.directory(self.tree, above)?;
        match kind {
            FileType::RegularFile => {
                let started = SystemTime::now();
                let file = view::read(at.as_fd(), name)?;
                let hasher = of_attributes(&attributes::of_open(file.as_fd())?);
                let hash = content(&file, meta, hasher, &mut worker.buffer)?;
                if let Some(cache) = cache {
                    cache.learn(meta, hash, started);
                }
                Ok(hash)
            }
            _ => other(at.as_fd(), name, meta),
        }
    }
}

struct Worker {
    opener: Option<Opener>,
    buffer: Vec<u8>,
}

impl Worker {
    fn directory(&mut self, tree: &Tree, path: &[u8]) -> Result<Arc<OwnedFd>> {
        let opener = self
            .opener
            .get_or_insert_with(|| Opener::new(tree.shared_root()));
        Ok(opener.get(path)?)
    }
}

/// A file's path from the tree's root.
pub(super) fn full_path(source: &[u8], files: &Files, node: &Node) -> Vec<u8> {
    let path = files.path(node);
    match (source.is_empty(), path.is_empty()) {
        (true, _) => path,
        (false, true) => source.to_vec(),
        (false, false) => [source, &path].join(&b'/'),
    }
}

/// Begins a digest with attributes.
fn of_attributes(list: &[rcrun_overlay::archive::Attribute]) -> Sha256 {
    let mut hasher = Sha256::new();
    let number = |hasher: &mut Sha256, number: usize| {
        hasher.update((number as u64).to_le_bytes());
    };
    number(&mut hasher, list.len());
    for (name, value) in list {
        number(&mut hasher, name.len());
        hasher.update(name);
        number(&mut hasher, value.len());
        hasher.update(value);
    }
    hasher
}

/// Adds a file's bytes, of the version that was seen.
fn content(file: &OwnedFd, meta: &Meta, mut hasher: Sha256, buffer: &mut [u8]) -> Result<Hash> {
    unchanged(file, meta)?;
    loop {
        match rustix::io::read(file, &mut *buffer) {
            Ok(0) => break,
            Ok(length) => hasher.update(&buffer[..length]),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    unchanged(file, meta)?;
    Ok(hasher.finalize().into())
}

/// Whether an open file is the version that was seen.
pub(super) fn unchanged(file: &OwnedFd, meta: &Meta) -> Result<()> {
    same(&rustix::fs::fstat(file)?, meta)
}

fn same(stat: &rustix::fs::Stat, meta: &Meta) -> Result<()> {
    if Meta::of(stat).same_version(meta) {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Busy, "it changed while it was read");
    Err(error.with_hint(
        "something writes to it during the build: stop that, or leave the file out by .dockerignore",
    ))
}

/// A link, pipe, device or socket.
fn other(at: BorrowedFd<'_>, name: &[u8], meta: &Meta) -> Result<Hash> {
    let kind = meta.kind();
    let mut hasher = of_attributes(&attributes::of_other(at, name, kind)?);
    if kind == FileType::Symlink {
        hasher.update(open::link(at, name)?);
    }
    match open::stat(at, name)? {
        Some(stat) => same(&stat, meta)?,
        None => return Err(rustix::io::Errno::NOENT.into()),
    }
    Ok(hasher.finalize().into())
}

/// Whether what has a name is the version that was seen.
pub(super) fn unchanged_name(at: BorrowedFd<'_>, name: &[u8], meta: &Meta) -> Result<()> {
    match open::stat(at, name)? {
        Some(stat) => same(&stat, meta),
        None => Err(rustix::io::Errno::NOENT.into()),
    }
}
