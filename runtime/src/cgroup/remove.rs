//! Removes the cgroup and everything that was made inside it.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Cgroup, file, join};
use crate::error::{Error, Result, kind_of};

/// How long processes that are already dying may keep a directory.
const DEADLINE: Duration = Duration::from_secs(5);

impl Cgroup {
    /// Removes the directories, the innermost first; missing ones are no error. One `rmdir` each
    /// when the cgroup is empty.
    pub fn remove(&self) -> Result<()> {
        let mut first = None;
        if let Err(error) = self.stop_unit() {
            // Without a unit to stop, or a systemd to ask, the directories say what is left.
            if self.exists() {
                first = Some(error);
            }
        }
        let deadline = Instant::now() + DEADLINE;
        for dir in self.dirs() {
            // All are tried, so that one stuck hierarchy leaves as little as possible.
            if let Err(error) = remove_dir(dir, deadline) {
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }
}

fn rmdir(dir: &Path) -> Result<(), Errno> {
    match file::retry(|| rustix::fs::rmdir(dir)) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        other => other,
    }
}

fn remove_dir(dir: &Path, deadline: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(100);
    loop {
        let errno = match rmdir(dir) {
            Ok(()) => return Ok(()),
            Err(errno) => errno,
        };
        if errno != Errno::BUSY && errno != Errno::NOTEMPTY {
            // A read-only mount answers so even for what is not there.
            if rustix::fs::access(dir, rustix::fs::Access::EXISTS) == Err(Errno::NOENT) {
                return Ok(());
            }
            return Err(file::error(
                format!("cannot remove cgroup {}", dir.display()),
                errno,
            ));
        }
        // Sub-cgroups, deepest first; what is busy there is met again in the next round.
        for sub in join::descendants(dir)?.iter().rev() {
            let _ = rmdir(sub);
        }
        if Instant::now() > deadline {
            let pids = join::processes_below(dir).unwrap_or_default();
            let held = if pids.is_empty() {
                String::new()
            } else {
                format!(" (held by {pids:?})")
            };
            return Err(Error::new(
                kind_of(errno),
                format!("cannot remove cgroup {}: it is in use{held}", dir.display()),
            ));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
