//! Notices out-of-memory kills of a container.
//!
//! v1: an eventfd registered through `cgroup.event_control` (cgroup-v1/memory.rst, 10), which is also
//! signalled when the cgroup is removed. v2: inotify on `memory.events` and, since removal of a
//! cgroup is not announced, on `cgroup.events`, which says when the last process has gone.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, inotify};
use rustix::io::Errno;

use super::{Cgroup, Hierarchy, file};
use crate::error::{Context, Error, Result};

/// What a [`Watch`] has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Processes were killed for want of memory, or wait for it with the killer disabled.
    Oom,
    /// The container is gone: no more events will come.
    Gone,
}

/// Watches one cgroup. Its descriptor is readable when [`Watch::next`] has something to say.
#[derive(Debug)]
pub struct Watch {
    events: OwnedFd,
    directory: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    V1,
    V2 { kills: u64 },
}

impl Cgroup {
    /// Starts to watch; kills of before are not told.
    pub fn oom_watch(&self) -> Result<Watch> {
        let dir = self
            .controller("memory")
            .ok_or_else(|| match self.is_none() {
                true => self.missing("watch the container"),
                false => Error::unsupported("memory controller missing"),
            })?;
        match self.hierarchy {
            Hierarchy::Unified => watch_v2(dir),
            Hierarchy::Legacy | Hierarchy::Hybrid | Hierarchy::None => watch_v1(dir),
        }
        .context(|| format!("cannot watch {} for out-of-memory kills", dir.display()))
    }

    /// How many processes of the container were killed for want of memory; `None`: not known.
    pub fn oom_kills(&self) -> Option<u64> {
        let dir = self.controller("memory")?;
        let name = match self.hierarchy {
            Hierarchy::Unified => "memory.events",
            Hierarchy::Legacy | Hierarchy::Hybrid | Hierarchy::None => "memory.oom_control",
        };
        file::keyed(&file::read(&dir.join(name)).ok()?, "oom_kill")
    }
}

fn watch_v1(dir: &Path) -> Result<Watch> {
    let events = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control = file::open(&dir.join("memory.oom_control"), OFlags::RDONLY)?;
    let value = format!("{} {} ", events.as_raw_fd(), control.as_raw_fd());
    file::set(&dir.join("cgroup.event_control"), &value)?;
    Ok(Watch {
        events,
        directory: dir.to_owned(),
        kind: Kind::V1,
    })
}

fn watch_v2(dir: &Path) -> Result<Watch> {
    let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    for name in ["memory.events", "cgroup.events"] {
        inotify::add_watch(&events, dir.join(name), inotify::WatchFlags::MODIFY)?;
    }
    let kills = kills(dir).unwrap_or(0);
    Ok(Watch {
        events,
        directory: dir.to_owned(),
        kind: Kind::V2 { kills },
    })
}

fn kills(dir: &Path) -> Option<u64> {
    file::keyed(&file::read(&dir.join("memory.events")).ok()?, "oom_kill")
}

impl Watch {
    /// What has happened since the last call; `None`: nothing (more) yet. Never blocks.
    #[allow(clippy::should_implement_trait)] // Not an iterator: it can go on after `None`.
    pub fn next(&mut self) -> Result<Option<Event>> {
        let mut buffer = [0_u8; 1024];
        let mut news = false;
        loop {
            match rustix::io::read(&self.events, &mut buffer) {
                // An eventfd is drained by one read.
                Ok(_) if matches!(self.kind, Kind::V1) => {
                    news = true;
                    break;
                }
                Ok(n) if n > 0 => news = true,
                Ok(_) | Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).context(|| "cannot read out-of-memory events"),
            }
        }
        match &mut self.kind {
            Kind::V1 if !news => Ok(None),
            Kind::V1 => Ok(Some(
                match file::read(&self.directory.join("memory.oom_control")) {
                    Ok(_) => Event::Oom,
                    Err(_) => Event::Gone,
                },
            )),
            Kind::V2 { kills: before } => {
                let now = kills(&self.directory);
                if now.is_some_and(|now| now > *before) {
                    *before = now.unwrap_or(*before);
                    return Ok(Some(Event::Oom));
                }
                // Asked also without news: an event before this one may have been the last.
                let text = file::read(&self.directory.join("cgroup.events")).unwrap_or_default();
                let populated = file::keyed(&text, "populated") == Some(1);
                Ok(if populated { None } else { Some(Event::Gone) })
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
