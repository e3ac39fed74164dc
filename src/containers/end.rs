//! The end of a container, waited for: its init by pidfd, its record by inotify(7).

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rcrun_runtime::error::{Context, ErrorKind, Result};
use rcrun_runtime::monitor::Client;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use super::{Container, Exit, Record};

/// How long after the end of the init its record may take: the monitor delivers output first.
const RECORD_TIME: Duration = Duration::from_secs(10);

/// Where the runtime's root has the monitors' directories.
const MONITORS: &str = ".monitors";

/// The first process of a container that runs.
#[derive(Debug)]
pub(crate) struct Init {
    /// Its pid here.
    pub(crate) pid: i32,
    /// The same process, whatever becomes of the number.
    pub(crate) pidfd: OwnedFd,
}

impl Container {
    /// Its init, if it has one that lives.
    pub(crate) fn init(&self, record: &Record) -> Result<Option<Init>> {
        match record.runtime().init(self.id()) {
            Ok(found) => Ok(found.map(|(pid, pidfd)| Init { pid, pidfd })),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::FailedPrecondition
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for its end. None: nobody knows how it ended.
    pub(crate) fn wait(&self, record: &Record) -> Result<Option<Exit>> {
        // The monitor also tells of a container that removes itself.
        if let Ok(client) = Client::connect(&record.runtime.root, self.id())
            && let Ok(exit) = client.wait()
        {
            return Ok(Some(exit.into()));
        }
        if let Some(init) = self.init(record)? {
            init.ended(None)?;
        }
        self.await_record(record)
    }

    /// Removes what the runtime and the monitor know of its last life.
    pub(crate) fn forget(&self, record: &Record) -> Result<()> {
        super::remove::forget(&record.runtime(), self.id())
    }

    /// Gives back its address and its ports.
    pub(crate) fn disconnect(&self, record: &Record, _: &super::Lock<'_>) -> Result<()> {
        super::network::disconnect(&record.runtime.root, self.id())
    }

    /// The record of the end of a container whose init is gone: as soon as it is there, or none if it
    /// does not come.
    pub(crate) fn await_record(&self, record: &Record) -> Result<Option<Exit>> {
        let watch = self.watch()?;
        let deadline = Instant::now() + RECORD_TIME;
        loop {
            if let Some(exit) = self.exit()? {
                return Ok(Some(exit));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.is_removed()? || !self.has_monitor(record) {
                // It may have been written, and the monitor have ended, since the first look.
                return self.exit();
            }
            wait_for(&[watch.as_fd()], Some(left.min(Duration::from_secs(1))))?;
            drain(&watch);
        }
    }

    /// Whether its directory is gone.
    pub(crate) fn is_removed(&self) -> Result<bool> {
        let stat = rustix::fs::fstat(self.fd())
            .context(|| format!("cannot stat {}", self.path().display()))?;
        Ok(stat.st_nlink == 0)
    }

    /// Whether somebody may still write a record of its end.
    pub(crate) fn has_monitor(&self, record: &Record) -> bool {
        Client::connect(&record.runtime.root, self.id()).is_ok()
    }

    /// As [`Container::watch`], and also when its monitor ends as it should.
    pub(crate) fn watch_with_monitor(&self, record: &Record) -> Result<OwnedFd> {
        let watch = self.watch()?;
        let path = record.runtime().root.join(MONITORS).join(self.id());
        match inotify::add_watch(&watch, &path, WatchFlags::DELETE | WatchFlags::DELETE_SELF) {
            Ok(_) | Err(Errno::NOENT) => Ok(watch),
            Err(errno) => Err(errno).context(|| format!("cannot watch {}", path.display())),
        }
    }

    /// A descriptor that becomes readable when something happens in its directory.
    pub(crate) fn watch(&self) -> Result<OwnedFd> {
        let failed = || format!("cannot watch {}", self.path().display());
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context(failed)?;
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF;
        let path = rcrun_overlay::layer::tree::proc_path(self.fd())?;
        inotify::add_watch(&watch, path, flags).context(failed)?;
        Ok(watch)
    }
}

/// Reads what a watch has to say, which is only that there is something to look at.
pub(crate) fn drain(watch: &OwnedFd) {
    let mut buffer = [0; 4096];
    while rustix::io::read(watch, &mut buffer).is_ok_and(|count| count > 0) {}
}

/// Waits until one of these can be read, or so long: which ones.
pub(crate) fn wait_for(
    fds: &[std::os::fd::BorrowedFd<'_>],
    time: Option<Duration>,
) -> Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    let time = time.map(|time| Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(time.subsec_nanos()),
    });
    match poll(&mut polled, time.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno).context(|| "cannot wait for a container"),
    }
    Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect())
}

impl Init {
    /// Waits for its end, or for a deadline; whether it ended.
    pub(crate) fn ended(&self, deadline: Option<Instant>) -> Result<bool> {
        loop {
            let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if wait_for(&[self.pidfd.as_fd()], left)?[0] {
                return Ok(true);
            }
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(false);
            }
        }
    }
}
