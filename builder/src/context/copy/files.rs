//! The files of one source, as they were when they were looked for.
//!
//! A hundred thousand of them take some ten megabytes: names in one buffer, nodes of a fixed size.
//! Directories come before what is in them, names in order, so that equal trees are equal lists.

use rustix::fs::{FileType, Stat};

use rcrun_overlay::archive::name::show;

use crate::context::pattern::{Matched, Patterns};
use crate::context::view::{Directory, Entry, View, is_directory};
use crate::{Error, ErrorKind, Result};

/// Files of one source.
const FILES: usize = 20_000_000;
/// Directories below each other: a path has at most 4095 bytes.
const DEPTH: usize = 2048;

/// What identifies a version of a file, and what is copied besides its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u32,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    /// Of a device node.
    pub(super) number: u64,
    pub(super) modified: (i64, u32),
    pub(super) changed: (i64, u32),
}

impl Meta {
    pub(super) fn of(stat: &Stat) -> Self {
        let nanoseconds = |value| u32::try_from(value).unwrap_or_default();
        Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            number: stat.st_rdev,
            modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// The lower twelve mode bits.
    pub(super) fn bits(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Whether two looks saw the same version of a file.
    pub(super) fn same_version(&self, other: &Self) -> bool {
        let key = |meta: &Self| {
            (
                meta.device,
                meta.inode,
                meta.size,
                meta.modified,
                meta.changed,
            )
        };
        key(self) == key(other) && self.mode == other.mode
    }
}

/// A file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    parent: u32,
    depth: u16,
    length: u16,
    name: u32,
    pub(super) meta: Meta,
    /// A directory that is only there because something in it is.
    pub(super) implied: bool,
}

impl Node {
    /// How many names its path has.
    pub(super) fn depth(&self) -> u16 {
        self.depth
    }
}

/// The files of a source. The first is what the source itself is, and has no name.
#[derive(Debug, Default)]
pub(super) struct Files {
    nodes: Vec<Node>,
    names: Vec<u8>,
}

impl Files {
    pub(super) fn of(meta: Meta) -> Self {
        let mut files = Self::default();
        files.nodes.push(Node {
            parent: 0,
            depth: 0,
            length: 0,
            name: 0,
            meta,
            implied: false,
        });
        files
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn top(&self) -> &Node {
        &self.nodes[0]
    }

    /// The last name of a file.
    pub(super) fn name(&self, node: &Node) -> &[u8] {
        let start = node.name as usize;
        &self.names[start..start + usize::from(node.length)]
    }

    /// The path of a file from the source.
    pub(super) fn path(&self, node: &Node) -> Vec<u8> {
        let mut names = Vec::with_capacity(usize::from(node.depth));
        let mut at = node;
        while at.depth > 0 {
            names.push(self.name(at));
            at = &self.nodes[at.parent as usize];
        }
        names.reverse();
        names.join(&b'/')
    }

    fn push(&mut self, parent: usize, name: &[u8], meta: Meta, implied: bool) -> Result<usize> {
        let too_many = || {
            let message = format!("refuse a source of more than {FILES} files");
            Error::new(ErrorKind::Exhausted, message)
        };
        let number = self.nodes.len();
        let depth = usize::from(self.nodes[parent].depth) + 1;
        if number >= FILES || depth > DEPTH {
            return Err(too_many());
        }
        let node = Node {
            parent: u32::try_from(parent).map_err(|_| too_many())?,
            depth: u16::try_from(depth).map_err(|_| too_many())?,
            length: u16::try_from(name.len()).map_err(|_| too_many())?,
            name: u32::try_from(self.names.len()).map_err(|_| too_many())?,
            meta,
            implied,
        };
        self.names.extend_from_slice(name);
        self.nodes.push(node);
        Ok(number)
    }

    fn truncate(&mut self, nodes: usize) {
        if let Some(node) = self.nodes.get(nodes) {
            self.names.truncate(node.name as usize);
            self.nodes.truncate(nodes);
        }
    }
}

/// Which files below a source count, by their paths from it.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Only these: `--parents`.
    pub(super) include: Option<Patterns>,
    /// Not these: `--exclude`.
    pub(super) exclude: Patterns,
}

/// What rules say about a path.
#[derive(Debug, Default, Clone)]
struct Judged {
    include: Option<Matched>,
    exclude: Option<Matched>,
}

/// What a walk found in a directory.
#[derive(Debug, Default, Clone, Copy)]
struct Inside {
    /// Something that is not ignored.
    there: bool,
    /// Something that counts.
    counts: bool,
}

impl Rules {
    /// Whether a path counts, whether something below it could, and what it hands down.
    fn judge(&self, path: &[u8], above: &Judged, directory: bool) -> Result<(bool, bool, Judged)> {
        if self.include.is_none() && self.exclude.is_empty() {
            return Ok((true, true, Judged::default()));
        }
        let path = String::from_utf8_lossy(path);
        let mut judged = Judged::default();
        let (mut counts, mut below) = (true, true);
        if let Some(include) = &self.include {
            let (matched, handed) = include.step(&path, above.include.as_ref())?;
            counts = matched;
            below = matched || directory && include.may_match_below(&path);
            judged.include = Some(handed);
        }
        if !self.exclude.is_empty() {
            let (matched, handed) = self.exclude.step(&path, above.exclude.as_ref())?;
            if matched {
                counts = false;
                below = below && directory && self.exclude.may_except_below(&path, &handed);
            }
            judged.exclude = Some(handed);
        }
        Ok((counts, below, judged))
    }
}

/// Walks a directory; none if nothing of it is there.
pub(super) fn walk(
    view: View<'_>,
    directory: &Directory,
    meta: Meta,
    rules: &Rules,
) -> Result<Option<Files>> {
    let mut walk = Walk {
        view,
        rules,
        files: Files::of(meta),
        base: directory.path.len(),
    };
    let there = walk.run(directory)?;
    Ok(there.then_some(walk.files))
}

struct Walk<'a> {
    view: View<'a>,
    rules: &'a Rules,
    files: Files,
    base: usize,
}

/// A directory whose names are being looked at. There may be thousands above each other, so they
/// are on no stack of a thread, and none keeps a descriptor.
struct Level {
    directory: Directory,
    entries: std::vec::IntoIter<Entry>,
    number: usize,
    judged: Judged,
    counts: bool,
    inside: Inside,
}

impl Walk<'_> {
    /// Whether something is there.
    fn run(&mut self, top: &Directory) -> Result<bool> {
        let mut levels = vec![self.level(top.clone(), 0, Judged::default(), true)?];
        loop {
            let Some(level) = levels.last_mut() else {
                return Ok(false);
            };
            if let Some(entry) = level.entries.next() {
                if let Some(deeper) = self.entry(level, &entry)? {
                    levels.push(deeper);
                }
                continue;
            }
            let Some(done) = levels.pop() else {
                return Ok(false);
            };
            let mut inside = done.inside;
            inside.there |= !done.directory.ignored;
            let Some(above) = levels.last_mut() else {
                return Ok(inside.there);
            };
            inside.counts |= done.counts && inside.there;
            if !inside.counts {
                self.files.truncate(done.number);
            }
            above.inside.there |= inside.there;
            above.inside.counts |= inside.counts;
        }
    }

    fn level(
        &self,
        directory: Directory,
        number: usize,
        judged: Judged,
        counts: bool,
    ) -> Result<Level> {
        let entries = self.view.list(&directory)?.into_iter();
        Ok(Level {
            directory,
            entries,
            number,
            judged,
            counts,
            inside: Inside::default(),
        })
    }

    /// Takes a name; what is to be walked before the next one, if it is a directory.
    fn entry(&mut self, level: &mut Level, entry: &Entry) -> Result<Option<Level>> {
        let next = self.view.enter(&level.directory, entry);
        let relative = match self.base {
            0 => &next.path[..],
            base => &next.path[base + 1..],
        };
        let directory = is_directory(&entry.stat);
        let (counts, below, judged) = self.rules.judge(relative, &level.judged, directory)?;
        let meta = Meta::of(&entry.stat);
        if !directory {
            if counts {
                self.push(level.number, entry, meta, false, &next)?;
            }
            level.inside.there = true;
            level.inside.counts |= counts;
            return Ok(None);
        }
        if !counts && !below {
            // Whether the directories above are there may depend on this one.
            let asked = entry.ignored && level.directory.ignored;
            level.inside.there |= !entry.ignored || asked && self.view.has_something(&next)?;
            return Ok(None);
        }
        let number = self.push(level.number, entry, meta, !counts, &next)?;
        self.level(next, number, judged, counts).map(Some)
    }

    fn push(
        &mut self,
        parent: usize,
        entry: &Entry,
        meta: Meta,
        implied: bool,
        next: &Directory,
    ) -> Result<usize> {
        let pushed = self.files.push(parent, &entry.name, meta, implied);
        pushed.map_err(|error| error.context(format!("cannot take {}", show(&next.path))))
    }
}
