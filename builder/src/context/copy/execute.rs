//! Copies what was selected into a root.
//!
//! Sources come one after the other, since a later one replaces an earlier one. Within a source the
//! directories are made here, in order, and files by several threads; hard links come when all files
//! are there, and directories get their attributes when nothing more is made in them.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode};

use rcrun_overlay::archive::Time;
use rcrun_overlay::archive::name::{show, split};
use rcrun_overlay::compress::Limits;
use rcrun_overlay::layer::attributes::{Attributes, Fresh, complete_directory, complete_file};

use super::checksum::{full_path, unchanged};
use super::contents::{Buffer, Ways};
use super::copier::{Copier, attributes_of, modified};
use super::files::{Files, Meta, Node};
use super::root::{Making, Open, Place, Root, create, make_room, replacing};
use super::unpack::fresh;
use super::{Match, Options, Report, Selection, What, archive, attributes, unpack};
use crate::context::open::{self, Opener};
use crate::context::tree::Tree;
use crate::context::view;
use crate::{Context, Error, Result};

/// Files that wait for a thread; each keeps two directories open.
const QUEUE: usize = 128;

pub(super) fn execute(
    selection: &Selection,
    root: BorrowedFd<'_>,
    options: Options,
) -> Result<Report> {
    let mut copying = Copying {
        selection,
        options,
        root: Root::new(root, options.times)?,
        making: Making {
            mode: selection
                .chmod
                .as_ref()
                .map_or(0o755, super::Chmod::of_parents),
            owner: selection.owner,
        },
        fresh: fresh(),
        ways: Ways::default(),
        buffer: Buffer::default(),
        report: Report::default(),
    };
    for found in &selection.matches {
        let name = show(&found.name);
        copying.copy(found).map_err(|error| {
            error.context(format!("cannot copy {name} to {:?}", selection.dest))
        })?;
    }
    let Copying { root, report, .. } = copying;
    root.finish()?;
    Ok(report)
}

struct Copying<'a> {
    selection: &'a Selection,
    options: Options,
    root: Root,
    making: Making,
    fresh: Fresh,
    ways: Ways,
    buffer: Buffer,
    report: Report,
}

/// Where a file goes.
struct Target {
    above: Open,
    name: Vec<u8>,
}

impl Copying<'_> {
    fn copy(&mut self, found: &Match) -> Result<()> {
        match &found.what {
            What::Inline(bytes) => self.inline(&found.name, bytes),
            What::Archive {
                tree,
                path,
                meta,
                format,
            } => {
                let file = view::read(tree.root(), path)?;
                unchanged(&file, meta)?;
                let directory = self.unpack_into()?;
                let mut stream = archive::open(&file, *format, Limits::default())?;
                let (owner, times) = (self.selection.owner, self.options.times);
                self.root.touch(&directory)?;
                let at = directory.fd.as_fd();
                unpack::unpack(&mut *stream, at, owner, times, &mut self.report)?;
                unchanged(&file, meta)
            }
            What::Files {
                tree,
                path,
                files,
                contents,
            } => match files.top().meta.kind() {
                FileType::Directory => self.tree(tree, path, files, *contents),
                _ => self.single(&found.name, tree, path, files),
            },
        }
    }

    /// The directory that an archive goes into: all of the destination.
    fn unpack_into(&mut self) -> Result<Open> {
        let making = Making {
            mode: 0o755,
            ..self.making
        };
        match self.locate(true, making)? {
            Place::Directory(directory) => Ok(directory),
            Place::Name { .. } => Err(Error::invalid("the destination is no directory")),
        }
    }

    fn locate(&mut self, whole: bool, making: Making) -> Result<Place> {
        // `..` means the name before it, whatever that is, as in all paths of a Dockerfile.
        let dest = open::absolute(self.selection.dest.as_bytes());
        self.root.locate(&dest, whole, making, &mut self.report)
    }

    /// Whether the destination says that it is a directory.
    fn wants_directory(&self) -> bool {
        let dest = &self.selection.dest;
        dest.ends_with('/') || dest.ends_with("/.")
    }

    /// Where a file goes: into the destination under its own name if that is a directory.
    fn target(&mut self, name: &[u8]) -> Result<Target> {
        let place = self.locate(self.wants_directory(), self.making)?;
        let (above, name) = match place {
            Place::Directory(directory) => (directory, name.to_vec()),
            Place::Name { above, name, .. } => (above, name),
        };
        self.root.touch(&above)?;
        Ok(Target { above, name })
    }

    fn inline(&mut self, name: &[u8], bytes: &[u8]) -> Result<()> {
        let target = self.target(name)?;
        let at = target.above.fd.as_fd();
        make_room(at, &target.name)?;
        let file = create(at, &target.name, 0o600)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest).context(|| "cannot write the copy")?;
            rest = &rest[written..];
        }
        let (uid, gid) = self
            .selection
            .owner
            .map_or((0, 0), |owner| (owner.uid, owner.gid));
        let chmod = self.selection.chmod.as_ref();
        let now = super::root::time_of(std::time::SystemTime::now());
        let attributes = Attributes {
            mode: chmod.map_or(0o644, |chmod| chmod.apply(0o644, false)),
            uid,
            gid,
            mtime: self.options.times.of_copy(now),
            extended: Vec::new(),
        };
        self.report.files += 1;
        self.report.bytes += bytes.len() as u64;
        complete_file(
            file.as_fd(),
            &attributes,
            self.fresh,
            &mut self.report.skipped,
        )
    }

    fn single(&mut self, name: &[u8], tree: &Tree, path: &[u8], files: &Files) -> Result<()> {
        let target = self.target(name)?;
        let (above, last) = split(path);
        let from = open::directory(tree.root(), above)?;
        let copier = Copier::new(self.selection, self.options, tree, self.fresh, &self.ways);
        let to = target.above.fd.as_fd();
        let meta = &files.top().meta;
        copier.file(from.as_fd(), last, to, &target.name, meta, &mut self.buffer)?;
        self.report.files += 1;
        copier.count(&mut self.report);
        Ok(())
    }

    /// What is in a directory, into the destination.
    fn tree(&mut self, tree: &Tree, path: &[u8], files: &Files, contents: bool) -> Result<()> {
        let top = &files.top().meta;
        let whole = self.wants_directory() || contents;
        let directory = match self.locate(whole, self.making)? {
            Place::Directory(directory) => directory,
            Place::Name { exists: true, .. } => {
                return Err(Error::invalid(
                    "a directory cannot replace what is no directory",
                ));
            }
            Place::Name { above, name, .. } => self.make_top(&above, &name, tree, path, top)?,
        };
        let copier = Copier::new(self.selection, self.options, tree, self.fresh, &self.ways);
        let mut walk = Walk {
            copier: &copier,
            path,
            files,
            from: Opener::new(tree.shared_root()),
            to: Opener::new(Arc::clone(&directory.fd)),
            directories: Vec::new(),
            links: Vec::new(),
            first: HashMap::new(),
            kept: HashMap::new(),
        };
        let failed = walk.run(self.options.threads, &mut self.buffer);
        failed?;
        walk.finish(&mut self.report)?;
        copier.count(&mut self.report);
        let time = self.options.times.of_copy(modified(top));
        self.root.stamp(&directory, time);
        Ok(())
    }

    /// A destination that is made like the source: git's trees.
    fn make_top(
        &mut self,
        above: &Open,
        name: &[u8],
        tree: &Tree,
        path: &[u8],
        meta: &Meta,
    ) -> Result<Open> {
        self.root.make(above, name, self.making, &mut self.report)?;
        let made = self.report.implied.pop().unwrap_or_default();
        let fd = open::directory(&above.fd, name)?;
        let source = open::directory(tree.root(), path)?;
        let extended = attributes::of_open(source.as_fd())?;
        let attributes = attributes_of(self.selection, self.options, tree, meta, extended);
        complete_directory(
            fd.as_fd(),
            &attributes,
            self.fresh,
            &mut self.report.skipped,
        )?;
        Ok(Open {
            fd: Arc::new(fd),
            path: made,
        })
    }
}

/// A file for a thread.
struct Job {
    node: usize,
    from: Arc<OwnedFd>,
    to: Arc<OwnedFd>,
}

/// One source's way through its files.
struct Walk<'a> {
    copier: &'a Copier<'a>,
    path: &'a [u8],
    files: &'a Files,
    from: Opener,
    to: Opener,
    /// Directories, and whether they were made.
    directories: Vec<(usize, bool)>,
    /// Files that are names of earlier ones.
    links: Vec<(usize, usize)>,
    first: HashMap<(u64, u64), usize>,
    /// The times of directories that were there, and are only there for what is in them.
    kept: HashMap<usize, Time>,
}

impl Walk<'_> {
    fn run(&mut self, threads: usize, buffer: &mut Buffer) -> Result<()> {
        let nodes = self.files.nodes().len();
        let threads = threads.clamp(1, nodes.div_ceil(64));
        let (copier, files, path) = (self.copier, self.files, self.path);
        let error: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        let failed = AtomicBool::new(false);
        let work = |job: Job, buffer: &mut Buffer| {
            if let Err(new) = copy_node(copier, files, path, &job, buffer) {
                let mut kept = error.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.as_ref().is_none_or(|(first, _)| job.node < *first) {
                    *kept = Some((job.node, new));
                }
                failed.store(true, Ordering::Relaxed);
            }
        };
        let made = if threads == 1 {
            self.each(&failed, |job| work(job, buffer))
        } else {
            let (sender, receiver) = sync_channel::<Job>(QUEUE);
            let receiver = Mutex::new(receiver);
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        let mut buffer = Buffer::default();
                        while let Some(job) = next(&receiver) {
                            work(job, &mut buffer);
                        }
                    });
                }
                // Nobody waits for a job that does not come: the channel ends with the walk.
                let made = self.each(&failed, |job| {
                    let _ = sender.send(job);
                });
                drop(sender);
                made
            })
        };
        match error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => made,
        }
    }

    /// Makes the directories and hands out the files, in order.
    fn each(&mut self, failed: &AtomicBool, mut give: impl FnMut(Job)) -> Result<()> {
        for (number, node) in self.files.nodes().iter().enumerate().skip(1) {
            if failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let meta = &node.meta;
            let relative = self.files.path(node);
            let (above, name) = split(&relative);
            let context = || format!("cannot copy {}", show(&relative));
            let to = self.to.get(above).context(context)?;
            if meta.kind() == FileType::Directory {
                let made = self.directory(number, node, &to, name).context(context)?;
                self.directories.push((number, made));
                continue;
            }
            if meta.links > 1 && meta.kind() == FileType::RegularFile {
                let first = self
                    .first
                    .entry((meta.device, meta.inode))
                    .or_insert(number);
                if *first != number {
                    self.links.push((number, *first));
                    continue;
                }
            }
            let full = full_path(self.path, self.files, node);
            let from = self.from.get(split(&full).0).context(context)?;
            let node = number;
            give(Job { node, from, to });
        }
        Ok(())
    }

    /// Makes a directory unless it is there; whether it was made.
    fn directory(&mut self, number: usize, node: &Node, to: &OwnedFd, name: &[u8]) -> Result<bool> {
        match open::stat(to, name)? {
            None => {
                let mode = Mode::from(0o700);
                rustix::fs::mkdirat(to, name, mode)
                    .context(|| format!("mkdirat({})", show(name)))?;
                Ok(true)
            }
            Some(stat) if view::is_directory(&stat) => {
                if node.implied {
                    self.kept.insert(number, modified(&Meta::of(&stat)));
                }
                Ok(false)
            }
            Some(_) => Err(Error::invalid(
                "a directory cannot replace what is no directory",
            )),
        }
    }

    /// Makes hard links and completes the directories, those inside others first.
    fn finish(&mut self, report: &mut Report) -> Result<()> {
        let nodes = self.files.nodes();
        let directories = self.directories.iter().filter(|(_, made)| *made).count() as u64;
        report.directories += directories;
        report.files += (nodes.len() - 1 - self.directories.len()) as u64;
        for (number, first) in std::mem::take(&mut self.links) {
            let (new, old) = (
                self.files.path(&nodes[number]),
                self.files.path(&nodes[first]),
            );
            let context = || format!("cannot link {} to {}", show(&new), show(&old));
            let from = self.to.get(split(&old).0).context(context)?;
            let to = self.to.get(split(&new).0).context(context)?;
            let (old, name) = (split(&old).1, split(&new).1);
            replacing(to.as_fd(), name, || {
                rustix::fs::linkat(&from, old, &to, name, AtFlags::empty())
            })
            .context(context)?;
        }
        for (number, made) in std::mem::take(&mut self.directories).into_iter().rev() {
            let node = &nodes[number];
            let path = self.files.path(node);
            let context = || format!("cannot complete directory {}", show(&path));
            let fd = self.to.get(&path).context(context)?;
            self.complete(number, node, made, fd.as_fd(), report)
                .context(context)?;
        }
        Ok(())
    }

    fn complete(
        &mut self,
        number: usize,
        node: &Node,
        made: bool,
        fd: BorrowedFd<'_>,
        report: &mut Report,
    ) -> Result<()> {
        if node.implied && !made {
            // As BuildKit: the source's mode, and nothing else.
            rustix::fs::fchmod(fd, Mode::from(node.meta.bits())).context(|| "fchmod")?;
            return match (self.copier.options.times, self.kept.get(&number)) {
                (super::Times::Keep, _) | (_, None) => Ok(()),
                (_, Some(time)) => super::root::set_modified(fd, *time),
            };
        }
        let full = full_path(self.path, self.files, node);
        let source = open::directory(self.copier.tree.root(), &full)?;
        let extended = attributes::of_open(source.as_fd())?;
        let attributes = self.copier.attributes(&node.meta, extended);
        complete_directory(fd, &attributes, self.copier.fresh, &mut report.skipped)
    }
}

fn next(receiver: &Mutex<Receiver<Job>>) -> Option<Job> {
    let receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner);
    receiver.recv().ok()
}

fn copy_node(
    copier: &Copier<'_>,
    files: &Files,
    path: &[u8],
    job: &Job,
    buffer: &mut Buffer,
) -> Result<()> {
    let node = &files.nodes()[job.node];
    let full = full_path(path, files, node);
    let name = split(&full).1;
    let (from, to) = (job.from.as_fd(), job.to.as_fd());
    copier
        .file(from, name, to, name, &node.meta, buffer)
        .map_err(|error| error.context(format!("cannot copy {}", show(&full))))
}
