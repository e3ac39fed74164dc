//! Waiting with a deadline, finding programs, and looking at /proc.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// Waits for the child at most this long; `None` when it is still running then.
pub(crate) fn wait_for(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    wait_pid(i32::try_from(child.id()).unwrap_or(0), limit)?;
    child.try_wait()
}

/// Waits until the process is dead (or a zombie); false when it still lives at the deadline.
pub(crate) fn wait_pid(pid: i32, limit: Duration) -> io::Result<bool> {
    let Some(pid) = Pid::from_raw(pid) else {
        return Ok(true);
    };
    let fd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        Err(e) => return Err(e.into()),
    };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// SIGKILL for one process that a runtime named: 0 would be this test's whole group, and 1 its init.
#[track_caller]
pub(crate) fn kill(pid: i32) {
    assert!(pid > 1, "the runtime says that its process is {pid}");
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

/// Repeats a question until its answer is `Some`; panics with `what` when the time is over.
#[track_caller]
pub(crate) fn until<T>(what: &str, seconds: u64, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The file that a name stands for: itself when it has a slash, else the first of the PATH.
pub(crate) fn which(name: &Path) -> Option<PathBuf> {
    if name.components().count() > 1 {
        return fs::canonicalize(name).ok();
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// All processes of this pid namespace: pid, state, and what it runs.
pub(crate) fn all() -> Vec<(i32, char, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next())
            .unwrap_or('?');
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let name = stat.split(['(', ')']).nth(1).unwrap_or_default();
        found.push((pid, state, format!("{name}: {}", command.trim())));
    }
    found
}

/// A printable table of `all`.
pub(crate) fn table() -> String {
    let line = |(pid, state, what): (i32, char, String)| {
        let place = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        format!("{pid} {state} {what} [{place}]\n")
    };
    all().into_iter().map(line).collect()
}

/// Waits until the process has executed what this command line says.
#[track_caller]
pub(crate) fn becomes(pid: impl std::fmt::Display, words: &[&str]) {
    let wanted: String = words.iter().map(|word| format!("{word}\0")).collect();
    let path = format!("/proc/{pid}/cmdline");
    until(&format!("{path} is {words:?}"), 5, || {
        fs::read_to_string(&path)
            .is_ok_and(|line| line == wanted)
            .then_some(())
    });
}

/// A namespace of a process, as the kernel names it: `net:[4026531840]`.
#[track_caller]
pub(crate) fn namespace(pid: i32, kind: &str) -> String {
    let path = format!("/proc/{pid}/ns/{kind}");
    fs::read_link(&path)
        .unwrap_or_else(|e| panic!("{path}: {e}"))
        .to_string_lossy()
        .into_owned()
}

/// The value of one line of `/proc/PID/status`.
#[track_caller]
pub(crate) fn status(pid: i32, key: &str) -> String {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{path} has no {key}"))
        .trim()
        .to_owned()
}
