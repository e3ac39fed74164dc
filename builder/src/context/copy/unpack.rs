//! An archive into a directory that exists: ADD, and contexts that are archives.
//!
//! Unlike a layer, an archive here has no deletions: a name that begins with `.wh.` is a name. As
//! docker unpacks: an entry replaces what has its name, a directory with all that is in it included,
//! but directories are merged and take the entry's attributes; links of the archive and of the
//! directory are followed as in a chroot to the directory; the entry `.` means nothing; directories
//! that the archive does not mention are root's with mode 755.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use rcrun_overlay::archive::limits::REMEMBERED_BYTES;
use rcrun_overlay::archive::name::{normalise, show, split};
use rcrun_overlay::archive::{Entry, Kind, Reader, Time};
use rcrun_overlay::layer::attributes::{
    Attributes, Fresh, complete_directory, complete_file, complete_other,
};
use rcrun_overlay::layer::content;
use rcrun_overlay::layer::tree::{self, Place, Tree, path_in};

use super::root::{create, set_modified, time_of};
use super::{Owner, Report, Times};
use crate::context::open;
use crate::{Context, Error, ErrorKind, Result};

/// What becomes of a directory when all is unpacked.
#[derive(Debug)]
enum Last {
    /// It was made for what is in it.
    Made,
    /// It is an entry of the archive.
    Entry(Attributes),
    /// It was there, and gets its time back.
    Touched(Time),
}

struct Unpacking<'a> {
    tree: Tree,
    directory: BorrowedFd<'a>,
    owner: Option<Owner>,
    times: Times,
    fresh: Fresh,
    directories: BTreeMap<Vec<u8>, Last>,
    remembered: usize,
    report: &'a mut Report,
}

/// What new files are like: nothing is taken for granted.
pub(super) fn fresh() -> Fresh {
    Fresh {
        umask: 0o777,
        owner: None,
        chown: rustix::process::geteuid().is_root(),
    }
}

/// Unpacks all entries.
pub(crate) fn unpack(
    stream: &mut dyn BufRead,
    directory: BorrowedFd<'_>,
    owner: Option<Owner>,
    times: Times,
    report: &mut Report,
) -> Result<()> {
    let mut unpacking = Unpacking {
        tree: Tree::new(directory)?,
        directory,
        owner,
        times,
        fresh: fresh(),
        directories: BTreeMap::new(),
        remembered: 0,
        report,
    };
    let mut reader = Reader::new(stream).nameless();
    while let Some(entry) = reader.next_entry()? {
        let path = show(&entry.path);
        let done = unpacking.entry(entry, &mut reader);
        done.map_err(|error| error.context(format!("cannot unpack {path}")))?;
    }
    unpacking.finish()
}

impl Unpacking<'_> {
    fn entry<R: BufRead>(&mut self, mut entry: Entry, reader: &mut Reader<R>) -> Result<()> {
        if entry.path.is_empty() {
            return match entry.kind {
                Kind::Directory => Ok(()),
                // Without a name it is nothing; docker takes it for that too.
                Kind::Regular if entry.size == 0 => Ok(()),
                _ => Err(Error::invalid("refuse a root that is no directory")),
            };
        }
        if let Some(Owner { uid, gid }) = self.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        entry.mtime = self.times.of_entry(entry.mtime);
        let path = std::mem::take(&mut entry.path);
        let (parent, name) = split(&path);
        let place = self.parent(parent)?;
        let found = open::stat(&place.fd, name)?;
        let was = found.map(|stat| FileType::from_raw_mode(stat.st_mode));
        let directory = was == Some(FileType::Directory);
        if entry.kind == Kind::Directory && directory {
            let path = path_in(&place, name)?;
            return self.remember(path, Last::Entry(entry.into()));
        }
        if let Kind::Hardlink(target) = &entry.kind {
            return self.link(&place, name, target, was);
        }
        self.touch(&place)?;
        if was.is_some() {
            self.remove(&place, name)?;
        }
        if entry.kind == Kind::Directory {
            rustix::fs::mkdirat(&place.fd, name, Mode::from(0o700))
                .context(|| format!("mkdirat({})", show(name)))?;
            self.report.directories += 1;
            let path = path_in(&place, name)?;
            return self.remember(path, Last::Entry(entry.into()));
        }
        self.report.files += 1;
        self.file(&place, name, entry, reader)
    }

    /// The directory of an entry, made if it is missing.
    fn parent(&mut self, path: &[u8]) -> Result<Place> {
        let directories = &mut self.directories;
        let (remembered, report) = (&mut self.remembered, &mut *self.report);
        self.tree.open_or_make(path, &mut |made, _| {
            more(remembered, made.len())?;
            report.directories += 1;
            directories.insert(made.to_vec(), Last::Made);
            Ok(())
        })
    }

    fn remember(&mut self, path: Vec<u8>, last: Last) -> Result<()> {
        let bytes = match &last {
            Last::Entry(attributes) => {
                let list = attributes.extended.iter();
                list.map(|(name, value)| name.len() + value.len()).sum()
            }
            _ => 0,
        };
        more(&mut self.remembered, path.len() + bytes)?;
        self.directories.insert(path, last);
        Ok(())
    }

    /// A directory that was there keeps its time, where times are not to tell when this was.
    fn touch(&mut self, place: &Place) -> Result<()> {
        if self.times == Times::Keep || self.directories.contains_key(&place.path) {
            return Ok(());
        }
        let stat = rustix::fs::fstat(&place.fd).context(|| "cannot examine a directory")?;
        let time = Time {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        };
        self.remember(place.path.clone(), Last::Touched(time))
    }

    /// Removes what has a name, and forgets what was known below.
    fn remove(&mut self, place: &Place, name: &[u8]) -> Result<()> {
        let path = path_in(place, name)?;
        self.tree.forget(&path);
        self.directories.remove(&path);
        // '0' follows '/'.
        let (start, end) = ([&*path, b"/"].concat(), [&*path, b"0"].concat());
        let bounds = (Bound::Included(start), Bound::Excluded(end));
        let below = self.directories.range(bounds).map(|(path, _)| path.clone());
        for path in below.collect::<Vec<_>>() {
            self.directories.remove(&path);
        }
        tree::remove(place.fd.as_fd(), name)
    }

    fn link(
        &mut self,
        at: &Place,
        name: &[u8],
        target: &[u8],
        was: Option<FileType>,
    ) -> Result<()> {
        let target = normalise(target)?;
        let (parent, last) = split(&target);
        let words = || format!("cannot link it to {}", show(&target));
        let missing = || Error::new(ErrorKind::NotFound, "there is no such file");
        let found = self.tree.open(parent)?.ok_or_else(missing).context(words)?;
        if path_in(&found, last)? == path_in(at, name)? {
            return Ok(());
        }
        self.touch(at)?;
        if was.is_some() {
            self.remove(at, name)?;
        }
        self.report.files += 1;
        rustix::fs::linkat(&found.fd, last, &at.fd, name, AtFlags::empty()).context(words)
    }

    fn file<R: BufRead>(
        &mut self,
        place: &Place,
        name: &[u8],
        entry: Entry,
        reader: &mut Reader<R>,
    ) -> Result<()> {
        let at = place.fd.as_fd();
        let made = match &entry.kind {
            Kind::Symlink(target) => rustix::fs::symlinkat(&**target, at, name),
            Kind::Fifo => node(at, name, FileType::Fifo, 0),
            Kind::Character(major, minor) => {
                let number = rustix::fs::makedev(*major, *minor);
                node(at, name, FileType::CharacterDevice, number)
            }
            Kind::Block(major, minor) => {
                let number = rustix::fs::makedev(*major, *minor);
                node(at, name, FileType::BlockDevice, number)
            }
            Kind::Regular | Kind::Hardlink(_) | Kind::Directory => {
                let file = create(at, name, 0o600)?;
                content::write(&file, &entry, reader)?;
                self.report.bytes += entry.size;
                let attributes = entry.into();
                let skipped = &mut self.report.skipped;
                return complete_file(file.as_fd(), &attributes, self.fresh, skipped);
            }
        };
        let device = matches!(entry.kind, Kind::Character(..) | Kind::Block(..));
        match made {
            // In a user namespace: docker leaves devices out there.
            Err(Errno::PERM) if device => {
                self.report.skipped += 1;
                return Ok(());
            }
            other => other.context(|| format!("cannot create {}", show(name)))?,
        }
        let is_link = matches!(entry.kind, Kind::Symlink(_));
        let attributes = entry.into();
        let skipped = &mut self.report.skipped;
        complete_other(at, name, &attributes, self.fresh, is_link, skipped)
    }

    /// Completes the directories, those inside others first.
    fn finish(mut self) -> Result<()> {
        for (path, last) in std::mem::take(&mut self.directories).into_iter().rev() {
            let context = || format!("cannot complete directory {}", show(&path));
            let fd = open::directory(self.directory, &path).context(context)?;
            let attributes = match last {
                Last::Touched(time) => {
                    set_modified(fd.as_fd(), time).context(context)?;
                    continue;
                }
                Last::Entry(attributes) => attributes,
                Last::Made => Attributes {
                    mode: 0o755,
                    mtime: match self.times {
                        Times::Keep => time_of(std::time::SystemTime::now()),
                        Times::Clamp(time) | Times::Set(time) => time_of(time),
                    },
                    ..Attributes::default()
                },
            };
            let skipped = &mut self.report.skipped;
            complete_directory(fd.as_fd(), &attributes, self.fresh, skipped).context(context)?;
        }
        Ok(())
    }
}

fn node(at: BorrowedFd<'_>, name: &[u8], kind: FileType, number: u64) -> rustix::io::Result<()> {
    rustix::fs::mknodat(at, name, kind, Mode::from(0o600), number)
}

fn more(remembered: &mut usize, bytes: usize) -> Result<()> {
    // What a record needs besides its text.
    *remembered += bytes + 128;
    if *remembered > REMEMBERED_BYTES {
        let message = "refuse an archive with more directories than fit into 256 MiB";
        return Err(Error::new(ErrorKind::Exhausted, message));
    }
    Ok(())
}
