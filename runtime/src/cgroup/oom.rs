//! Notices out-of-memory kills of a container.
//!
//! v1: an eventfd registered through `cgroup.event_control` (cgroup-v1/memory.rst, 10), which is also
//! signalled when the cgroup is removed. v2: inotify on `memory.events` and, since removal of a
//! cgroup is not announced, on `cgroup.events`, which says when the last process has gone.
//!
//! systemd removes a scope with its last process, and the count of kills is gone before anybody could read it.
//! The cgroup above has counted as well (cgroup-v2.rst, `memory.events` is hierarchical), if also for others:
//! its count is believed where this cgroup was short of memory a moment ago, and had lost nobody when both were
//! looked at last.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{OFlags, inotify};
use rustix::io::Errno;

use super::{Cgroup, Hierarchy, file};
use crate::error::{Context, Error, Result};

/// How long ago a cgroup was short of memory, for its end to have to do with it.
const MOMENT: Duration = Duration::from_secs(1);

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
    V2(Counts),
}

/// What was seen when all was well.
#[derive(Debug)]
struct Counts {
    /// The number of `memory.events` among what is watched.
    file: i32,
    kills: u64,
    /// Kills in the cgroup above, ours among them; the root has no count.
    above: Option<u64>,
    /// When `memory.events` changed.
    pressed: Option<Instant>,
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
    let watch = |name| inotify::add_watch(&events, dir.join(name), inotify::WatchFlags::MODIFY);
    let file = watch("memory.events")?;
    watch("cgroup.events")?;
    let counts = Counts {
        file,
        above: kills_above(dir),
        kills: kills(dir).unwrap_or(0),
        pressed: None,
    };
    Ok(Watch {
        events,
        directory: dir.to_owned(),
        kind: Kind::V2(counts),
    })
}

fn kills_above(dir: &Path) -> Option<u64> {
    kills(dir.parent()?)
}

fn kills(dir: &Path) -> Option<u64> {
    file::keyed(&file::read(&dir.join("memory.events")).ok()?, "oom_kill")
}

impl Watch {
    /// What has happened since the last call; `None`: nothing (more) yet. Never blocks.
    #[allow(clippy::should_implement_trait)] // Not an iterator: it can go on after `None`.
    pub fn next(&mut self) -> Result<Option<Event>> {
        match &mut self.kind {
            Kind::V1 => next_v1(&self.events, &self.directory),
            Kind::V2(counts) => {
                if changed(&self.events, counts.file)? {
                    counts.pressed = Some(Instant::now());
                }
                if counts.look(&self.directory) {
                    return Ok(Some(Event::Oom));
                }
                // Asked also without news: an event before this one may have been the last.
                let text = file::read(&self.directory.join("cgroup.events")).unwrap_or_default();
                if file::keyed(&text, "populated") == Some(1) {
                    return Ok(None);
                }
                // The last process may have been killed since the counts were looked at.
                Ok(Some(match counts.look(&self.directory) {
                    true => Event::Oom,
                    false => Event::Gone,
                }))
            }
        }
    }
}

impl Counts {
    fn look(&mut self, dir: &Path) -> bool {
        // The one above first: what is counted in between is seen here, or the next time. There may be no next
        // time where this one is gone, so that it is asked once more.
        let above = kills_above(dir);
        match kills(dir) {
            None => self.tell(None, kills_above(dir)),
            own => self.tell(own, above),
        }
    }

    /// Whether processes were killed since the last time, by the counts as they are now.
    fn tell(&mut self, own: Option<u64>, above: Option<u64>) -> bool {
        let short = self.pressed.is_some_and(|when| when.elapsed() < MOMENT);
        let killed = match own {
            Some(own) => own > self.kills,
            None => short && above.zip(self.above).is_some_and(|(now, then)| now > then),
        };
        self.kills = own.unwrap_or(self.kills);
        self.above = above;
        killed
    }
}

fn next_v1(events: &OwnedFd, directory: &Path) -> Result<Option<Event>> {
    let mut buffer = [0_u8; 8];
    loop {
        match rustix::io::read(events, &mut buffer) {
            Ok(_) => break,
            Err(Errno::AGAIN) => return Ok(None),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| WATCHING),
        }
    }
    Ok(Some(
        match file::read(&directory.join("memory.oom_control")) {
            Ok(_) => Event::Oom,
            Err(_) => Event::Gone,
        },
    ))
}

const WATCHING: &str = "cannot read out-of-memory events";

/// Takes all events, and says whether one was of this file.
fn changed(events: &OwnedFd, file: i32) -> Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    let mut changed = false;
    loop {
        match reader.next() {
            Ok(event) => changed |= event.wd() == file,
            Err(Errno::AGAIN) => return Ok(changed),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| WATCHING),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_are_gone_are_those_above() {
        let ago = |time| Instant::now().checked_sub(time);
        let (now, long_ago) = (ago(Duration::ZERO), ago(2 * MOMENT));
        for (pressed, own, above, expected) in [
            (None, Some(2), Some(9), false),
            (None, Some(3), Some(10), true),
            // Somebody else's.
            (now, Some(2), Some(10), false),
            (None, None, Some(10), false),
            (long_ago, None, Some(10), false),
            // It was short of memory, and nobody was killed.
            (now, None, Some(9), false),
            (now, None, None, false),
            (now, None, Some(10), true),
        ] {
            let mut counts = Counts {
                file: 1,
                kills: 2,
                above: Some(9),
                pressed,
            };
            let case = format!("{pressed:?} {own:?} {above:?}");
            assert_eq!(counts.tell(own, above), expected, "{case}");
            // Told once.
            assert!(!counts.tell(own, above), "{case}");
        }
    }
}
