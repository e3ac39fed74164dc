//! The root into which files are copied.
//!
//! It belongs to a container that may be hostile: links in the destination are followed as in a
//! chroot, one name at a time and by descriptors, so that nothing leads out. Missing directories are
//! made on the way, also where a dangling link leads, as BuildKit does.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;

use rcrun_overlay::archive::Time;
use rcrun_overlay::archive::name::show;

use super::{Owner, Report, Times};
use crate::context::open;
use crate::{Context, Error, ErrorKind, Result};

/// What a path in the root is.
#[derive(Debug)]
pub(super) enum Place {
    /// A directory.
    Directory(Open),
    /// A name in a directory: of a file that is no link, or of nothing.
    Name {
        above: Open,
        name: Vec<u8>,
        exists: bool,
    },
}

/// An open directory of the root.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub(super) fd: Arc<OwnedFd>,
    /// From the root, without links.
    pub(super) path: Vec<u8>,
}

/// What directories are like that have to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Making {
    pub(super) mode: u32,
    pub(super) owner: Option<Owner>,
}

/// The root, and what is to be done to its directories at the end.
#[derive(Debug)]
pub(super) struct Root {
    fd: Arc<OwnedFd>,
    times: Times,
    /// Directories whose modification time is set when nothing more is made in them.
    stamps: BTreeMap<Vec<u8>, Time>,
}

impl Root {
    pub(super) fn new(root: BorrowedFd<'_>, times: Times) -> Result<Self> {
        let fd = open::directory(root, b"").context(|| "cannot open the root to copy into")?;
        Ok(Self {
            fd: Arc::new(fd),
            times,
            stamps: BTreeMap::new(),
        })
    }

    /// Follows a path. All directories but the last name are made; that too if `whole`.
    pub(super) fn locate(
        &mut self,
        path: &[u8],
        whole: bool,
        making: Making,
        report: &mut Report,
    ) -> Result<Place> {
        let context = || format!("cannot use destination {}", show(path));
        let mut todo: VecDeque<Vec<u8>> = open::parts(path).map(<[u8]>::to_vec).collect();
        let mut done = vec![Open {
            fd: Arc::clone(&self.fd),
            path: Vec::new(),
        }];
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            if name == b".." {
                if done.len() > 1 {
                    done.pop();
                }
                continue;
            }
            let above = &done[done.len() - 1];
            let stat = open::stat(&above.fd, &name).context(context)?;
            let kind = stat
                .as_ref()
                .map(|stat| FileType::from_raw_mode(stat.st_mode));
            match kind {
                Some(FileType::Directory) => {}
                Some(FileType::Symlink) => {
                    links += 1;
                    if links > open::LINKS {
                        return Err(open::too_many_links(path));
                    }
                    let target = open::link(&above.fd, &name).context(context)?;
                    if target.starts_with(b"/") {
                        done.truncate(1);
                    }
                    for part in open::parts(&target).rev() {
                        todo.push_front(part.to_vec());
                    }
                    continue;
                }
                None if todo.front().is_some_and(|next| next == b"..") => {
                    todo.pop_front();
                    continue;
                }
                _ if todo.is_empty() && !whole => {
                    let above = above.clone();
                    let exists = kind.is_some();
                    return Ok(Place::Name {
                        above,
                        name,
                        exists,
                    });
                }
                None => {
                    let above = above.clone();
                    self.make(&above, &name, making, report).context(context)?;
                }
                Some(_) => {
                    let file = show(&[&*above.path, &name].join(&b'/'));
                    let message = format!("{file} is no directory");
                    return Err(Error::invalid(message)).context(context);
                }
            }
            let above = &done[done.len() - 1];
            let fd = open::directory(&above.fd, &name).context(context)?;
            let path = match above.path.is_empty() {
                true => name,
                false => [&*above.path, &name].join(&b'/'),
            };
            let fd = Arc::new(fd);
            done.push(Open { fd, path });
        }
        let last = done.swap_remove(done.len() - 1);
        Ok(Place::Directory(last))
    }

    /// Makes a directory that nobody copies.
    pub(super) fn make(
        &mut self,
        above: &Open,
        name: &[u8],
        making: Making,
        report: &mut Report,
    ) -> Result<()> {
        self.touch(above)?;
        rustix::fs::mkdirat(&above.fd, name, Mode::from(0o700))
            .context(|| format!("mkdirat({})", show(name)))?;
        let fd = open::directory(&above.fd, name)?;
        if let Some(Owner { uid, gid }) = making.owner {
            rustix::fs::fchown(&fd, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .context(|| format!("fchown({uid}, {gid})"))?;
        }
        rustix::fs::fchmod(&fd, Mode::from(making.mode))
            .context(|| format!("fchmod({:o})", making.mode))?;
        let path = match above.path.is_empty() {
            true => name.to_vec(),
            false => [&*above.path, name].join(&b'/'),
        };
        if let Times::Clamp(time) | Times::Set(time) = self.times {
            self.stamps.insert(path.clone(), time_of(time));
        }
        report.directories += 1;
        report.implied.push(path);
        Ok(())
    }

    /// Something is about to be made in a directory that was there: unless the time of the copy is
    /// to be seen, it keeps its own.
    pub(super) fn touch(&mut self, directory: &Open) -> Result<()> {
        if self.times == Times::Keep || self.stamps.contains_key(&directory.path) {
            return Ok(());
        }
        let stat = rustix::fs::fstat(&directory.fd).context(|| "cannot examine a directory")?;
        self.stamps.insert(directory.path.clone(), modified(&stat));
        Ok(())
    }

    /// A directory gets this time at the end.
    pub(super) fn stamp(&mut self, directory: &Open, time: Time) {
        self.stamps.insert(directory.path.clone(), time);
    }

    /// Sets the times of directories.
    pub(super) fn finish(self) -> Result<()> {
        for (path, time) in self.stamps.iter().rev() {
            match open::directory(&self.fd, path) {
                Ok(fd) => set_modified(fd.as_fd(), *time),
                // Replaced by what was copied later.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(errno) => Err(errno.into()),
            }
            .context(|| format!("cannot set the time of {}", show(path)))?;
        }
        Ok(())
    }
}

/// Makes room for something that is no directory.
pub(super) fn make_room(at: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(at, name, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) if is_directory(at, name) => Err(Error::new(
            ErrorKind::InvalidInput,
            format!("cannot replace directory {} with a file", show(name)),
        )),
        Err(errno) => Err(errno).context(|| format!("cannot replace {}", show(name))),
    }
}

fn is_directory(at: BorrowedFd<'_>, name: &[u8]) -> bool {
    let stat = open::stat(at, name).ok().flatten();
    stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Makes a file, whatever had its name unless that is a directory.
pub(super) fn create(at: BorrowedFd<'_>, name: &[u8], mode: u32) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from(mode & 0o777);
    replacing(at, name, || rustix::fs::openat(at, name, flags, mode))
}

/// Makes something that is no directory, whatever had its name unless that is one.
pub(super) fn replacing<T>(
    at: BorrowedFd<'_>,
    name: &[u8],
    make: impl Fn() -> rustix::io::Result<T>,
) -> Result<T> {
    let made = match make() {
        Err(Errno::EXIST) => {
            make_room(at, name)?;
            make()
        }
        other => other,
    };
    made.context(|| format!("cannot create {}", show(name)))
}

pub(super) fn set_modified(fd: BorrowedFd<'_>, time: Time) -> Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: time.seconds,
            tv_nsec: time.nanoseconds.into(),
        },
    };
    rustix::fs::futimens(fd, &times).context(|| "futimens")
}

fn modified(stat: &Stat) -> Time {
    Time {
        seconds: stat.st_mtime,
        nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
    }
}

/// A time of the system as files have it.
pub(super) fn time_of(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Time {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: since.subsec_nanos(),
        },
        Err(before) => {
            let before = before.duration();
            let whole = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            match before.subsec_nanos() {
                0 => Time {
                    seconds: -whole,
                    nanoseconds: 0,
                },
                part => Time {
                    seconds: -whole - 1,
                    nanoseconds: 1_000_000_000 - part,
                },
            }
        }
    }
}

impl Times {
    /// Of a copy whose source has this one.
    pub(super) fn of_copy(self, source: Time) -> Time {
        match self {
            Self::Keep => source,
            Self::Clamp(limit) => source.min(time_of(limit)),
            Self::Set(time) => time_of(time),
        }
    }

    /// Of what an archive contains.
    pub(super) fn of_entry(self, entry: Time) -> Time {
        match self {
            Self::Keep => entry,
            Self::Clamp(limit) | Self::Set(limit) => entry.min(time_of(limit)),
        }
    }
}
