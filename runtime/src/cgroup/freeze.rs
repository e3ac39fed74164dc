//! Freezing, thawing, and killing everything in the cgroup.
//!
//! v2: cgroup-v2.rst, "cgroup.freeze" and "cgroup.kill". v1: freezer-subsystem.rst; there a request
//! can stay in `FREEZING` while processes are forked or moved in, and is repeated. A freeze that does
//! not come to an end in time is undone: a half-frozen cgroup is of no use to anybody.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::{Cgroup, Hierarchy, file, join};
use crate::error::{Error, ErrorKind, Result};

/// How long a freeze may take.
const FREEZE_DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take when the purpose is to kill, for which there is another way.
const FREEZE_TO_KILL: Duration = Duration::from_millis(300);
/// How long a kill by the kernel may take before the processes are looked at one by one.
const KERNEL_KILL: Duration = Duration::from_millis(100);
/// How long killed processes may take to go.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Freezes all processes and waits until they are.
    pub fn freeze(&self) -> Result<()> {
        self.freeze_within(FREEZE_DEADLINE)
    }

    fn freeze_within(&self, limit: Duration) -> Result<()> {
        let dir = self.freezer()?;
        let done = match self.hierarchy {
            Hierarchy::Unified => freeze_v2(dir, limit),
            Hierarchy::Legacy | Hierarchy::Hybrid | Hierarchy::None => freeze_v1(dir, limit),
        };
        if done.is_err() {
            // What failed is said below; this is the way back, and best effort.
            let _ = self.thaw();
        }
        done
    }

    /// Thaws the cgroup; what has none is not frozen.
    pub fn thaw(&self) -> Result<()> {
        if self.is_none() {
            return Ok(());
        }
        let dir = self.freezer()?;
        let (path, value) = match self.hierarchy {
            Hierarchy::Unified => (dir.join("cgroup.freeze"), "0"),
            Hierarchy::Legacy | Hierarchy::Hybrid | Hierarchy::None => {
                (dir.join("freezer.state"), "THAWED")
            }
        };
        match file::write(&path, value) {
            // Before Linux 5.2 cgroup2 has no freezer, and a container without rights may have no
            // cgroup: nothing is frozen. Nor in one that systemd removes at this moment.
            Ok(()) | Err(Errno::NOENT | Errno::NODEV) => Ok(()),
            Err(errno) => Err(file::write_error(&path, value, errno)),
        }
    }

    /// Whether the cgroup itself, not an ancestor, is frozen or about to be. Without one: no.
    pub fn is_frozen(&self) -> Result<bool> {
        match self.freezer() {
            Ok(dir) => is_frozen_dir(dir),
            Err(_) => Ok(false),
        }
    }

    fn freezer(&self) -> Result<&Path> {
        self.controller("freezer")
            .ok_or_else(|| match self.is_none() {
                true => self.missing("freeze the container"),
                false => Error::unsupported(
                    "cannot toggle freezer: cgroups not configured for container",
                ),
            })
    }

    /// Sends a signal to every process of the cgroup and its sub-cgroups; `SIGKILL` also thaws what
    /// is frozen inside, and returns only when nothing is left or the deadline has passed.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        if !self.exists() {
            return Err(Error::new(ErrorKind::NotFound, "cgroup not exist"));
        }
        if signal != Signal::KILL {
            return self.signal_frozen(signal);
        }
        if let Some(dir) = self.unified() {
            match file::write(&dir.join("cgroup.kill"), "1") {
                Ok(()) if self.hierarchy == Hierarchy::Unified => return Ok(()),
                // On a hybrid host processes may be in the v1 cgroups only: look there as well.
                Ok(()) if self.empty_within(KERNEL_KILL)? => return Ok(()),
                Ok(()) | Err(Errno::NOENT) => {}
                // It goes at this moment, with whatever was in it.
                Err(Errno::NODEV) => return Ok(()),
                Err(errno) => return Err(file::write_error(&dir.join("cgroup.kill"), "1", errno)),
            }
        }
        self.kill_by_pids()
    }

    /// One round while nothing can fork; processes that a freeze cannot reach get theirs as well.
    fn signal_frozen(&self, signal: Signal) -> Result<()> {
        // An already frozen container stays so: its processes see the signal when it is resumed.
        let was_frozen = self.is_frozen().unwrap_or(false);
        let frozen = !was_frozen && self.freeze().is_ok();
        let sent = self.processes().map(|pids| signal_each(&pids, signal));
        if frozen {
            self.thaw()?;
        }
        sent
    }

    /// Whether no process is left alive, or none soon is.
    fn empty_within(&self, limit: Duration) -> Result<bool> {
        let deadline = Instant::now() + limit;
        let mut pause = Duration::from_micros(100);
        while !live(&self.processes()?).is_empty() {
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
        Ok(true)
    }

    /// Kills until nobody is left. A frozen cgroup cannot fork; where freezing fails, a limit of no
    /// processes does as well.
    fn kill_by_pids(&self) -> Result<()> {
        let deadline = Instant::now() + KILL_DEADLINE;
        let mut pause = Duration::from_micros(200);
        loop {
            if live(&self.processes()?).is_empty() {
                return Ok(());
            }
            let frozen = self.freeze_within(FREEZE_TO_KILL).is_ok();
            if !frozen && let Some(pids) = self.controller("pids") {
                // The container is at its end; nothing will need this limit again.
                let _ = file::write(&pids.join("pids.max"), "0");
            }
            let pids = self.processes();
            if let Ok(pids) = &pids {
                signal_each(pids, Signal::KILL);
            }
            self.thaw_all();
            let left = live(&pids?);
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::new(
                    ErrorKind::Deadline,
                    format!("cannot kill processes {left:?}: they do not go"),
                ));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    /// Lets a process go that was killed and does not die: on v1 it may be frozen by a sub-cgroup, or
    /// sit in a frozen cgroup outside, to which somebody moved it. Out of that it is taken; what is
    /// not ours is not thawed. Best effort: whether it helped is seen by the process.
    pub fn unfreeze_process(&self, pid: i32) {
        self.thaw_all();
        if self.hierarchy != Hierarchy::Unified
            && let Ok(dir) = self.freezer()
        {
            let _ = join::attach_to(dir, pid);
        }
    }

    /// A v1 process that is frozen, also by a sub-cgroup made inside, does not die: thaw all.
    fn thaw_all(&self) {
        let _ = self.thaw();
        if self.hierarchy == Hierarchy::Unified {
            return;
        }
        let Ok(dir) = self.freezer() else { return };
        for sub in join::descendants(dir).unwrap_or_default() {
            let _ = file::write(&sub.join("freezer.state"), "THAWED");
        }
    }
}

/// The pids whose processes are not yet dead: zombies wait for their parents, not for us.
fn live(pids: &[i32]) -> Vec<i32> {
    let alive = |pid: &i32| {
        let stat = file::read_piece(Path::new(&format!("/proc/{pid}/stat"))).unwrap_or_default();
        let state = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest.trim_start());
        !(state.is_empty() || state.starts_with(['Z', 'X']))
    };
    pids.iter().copied().filter(alive).collect()
}

fn signal_each(pids: &[i32], signal: Signal) {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        // ESRCH: it went by itself.
        let _ = kill_process(pid, signal);
    }
}

/// Whether this directory asks for its processes to be frozen; files that are missing mean no.
pub(super) fn is_frozen_dir(dir: &Path) -> Result<bool> {
    for (name, yes) in [("cgroup.freeze", "1"), ("freezer.self_freezing", "1")] {
        let path = dir.join(name);
        match file::read_piece(&path) {
            Ok(text) => return Ok(text.trim() == yes),
            Err(Errno::NOENT | Errno::NODEV) => {}
            Err(errno) => {
                return Err(file::error(
                    format!("cannot read {}", path.display()),
                    errno,
                ));
            }
        }
    }
    Ok(false)
}

fn freeze_v2(dir: &Path, limit: Duration) -> Result<()> {
    let path = dir.join("cgroup.freeze");
    match file::write(&path, "1") {
        Ok(()) => {}
        Err(Errno::NOENT) => return Err(Error::unsupported("freezer not supported")),
        Err(Errno::NODEV) => return Err(Error::new(ErrorKind::NotFound, "cgroup not exist")),
        Err(errno) => return Err(file::write_error(&path, "1", errno)),
    }
    // The kernel marks a change of cgroup.events by an exceptional condition on the open file.
    let path = dir.join("cgroup.events");
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(100);
    loop {
        if file::keyed(&file::get_piece(&path)?, "frozen") == Some(1) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(too_slow(dir, limit));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn freeze_v1(dir: &Path, limit: Duration) -> Result<()> {
    let path = dir.join("freezer.state");
    let deadline = Instant::now() + limit;
    let mut round = 0_u32;
    loop {
        round += 1;
        if round.is_multiple_of(50) {
            // Processes keep appearing: let those that are frozen halfway go on, then try anew.
            file::set(&path, "THAWED")?;
            std::thread::sleep(Duration::from_millis(10));
        }
        file::set(&path, "FROZEN")?;
        if round > 25 {
            // Not a matter of microseconds: do not take the processor from those that have to move.
            std::thread::sleep(Duration::from_millis(1));
        }
        match file::get_piece(&path)?.trim() {
            "FROZEN" => return Ok(()),
            "FREEZING" => {}
            other => {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!("unexpected state {other:?} while freezing"),
                ));
            }
        }
        if Instant::now() > deadline {
            return Err(too_slow(dir, limit));
        }
    }
}

fn too_slow(dir: &Path, limit: Duration) -> Error {
    Error::new(
        ErrorKind::Deadline,
        format!("unable to freeze {} within {limit:?}", dir.display()),
    )
}
