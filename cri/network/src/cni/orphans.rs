//! Plugins whose caller was killed while they ran. One that goes on connecting would do so after what is to undo
//! it, and nobody would ever remove what it made.
//!
//! They are known by what they were told in their environment, which their own programs (an IPAM plugin, say) have
//! too. A process can only claim that of itself.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::invoke::Command;
use crate::request::Key;
use crate::{Context, Error, ErrorKind, Result};

/// Bytes of a process's environment that are looked at.
const ENVIRONMENT_MAX: u64 = 2 << 20;
/// How long a killed process may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills plugins that still connect this attachment, and waits until they have ended.
pub(super) fn end(key: &Key) -> Result<()> {
    let told = [
        format!("CNI_COMMAND={}", Command::Add.name()),
        format!("CNI_CONTAINERID={}", key.id()),
        format!("CNI_IFNAME={}", key.interface()),
    ];
    let entries = std::fs::read_dir("/proc").context(|| "cannot list processes")?;
    for entry in entries.flatten() {
        let Some(pid) = number(&entry.file_name()) else {
            continue;
        };
        if !is_told(pid, &told) {
            continue;
        }
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        // The number may have been another's before.
        if !is_told(pid, &told) {
            continue;
        }
        tracing::warn!("killing a CNI plugin (process {pid}) that went on without its caller");
        match pidfd_send_signal(&process, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => return Err(errno).context(|| format!("cannot kill plugin {pid}")),
        }
        let since = Instant::now();
        let limit = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        while poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)) != Ok(1) {
            if since.elapsed() > PATIENCE {
                let why = format!("a CNI plugin (process {pid}) was killed and does not end");
                return Err(Error::new(ErrorKind::Deadline, why));
            }
        }
    }
    Ok(())
}

fn number(name: &OsStr) -> Option<Pid> {
    Pid::from_raw(name.to_str()?.parse().ok()?)
}

fn is_told(pid: Pid, told: &[String]) -> bool {
    let mut environment = Vec::new();
    let read = std::fs::File::open(format!("/proc/{pid}/environ"))
        .and_then(|file| file.take(ENVIRONMENT_MAX).read_to_end(&mut environment));
    let has = |wanted: &String| {
        let mut all = environment.split(|byte| *byte == 0);
        all.any(|entry| OsStr::from_bytes(entry) == OsStr::new(wanted))
    };
    read.is_ok() && told.iter().all(has)
}
