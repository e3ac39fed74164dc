//! Longer parts that the probe plays: catching signals, filling memory, forking, attacking.

use super::raw;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::time::Duration;

fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Prints each signal it gets; SIGTERM ends it with code 7.
pub(crate) fn signals() -> ExitCode {
    use nix::sys::signal::{SigSet, Signal};
    let mut set = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGWINCH,
    ] {
        set.add(signal);
    }
    if set.thread_block().is_err() {
        return ExitCode::FAILURE;
    }
    say("ready");
    while let Ok(signal) = set.wait() {
        say(signal.as_str());
        if signal == Signal::SIGTERM {
            return ExitCode::from(7);
        }
    }
    ExitCode::FAILURE
}

/// Starts N children that sleep and ignore SIGTERM, says so, and sleeps.
pub(crate) fn children(args: &[String]) -> ExitCode {
    let count: usize = args.first().and_then(|n| n.parse().ok()).unwrap_or(1);
    for _ in 0..count {
        if raw::fork() == 0 {
            std::thread::sleep(Duration::from_secs(1000));
            return ExitCode::SUCCESS;
        }
    }
    say("ready");
    if args.get(1).is_some_and(|word| word == "leave") {
        return ExitCode::SUCCESS;
    }
    std::thread::sleep(Duration::from_secs(1000));
    ExitCode::SUCCESS
}

/// Touches N MiB, says so, and sleeps.
pub(crate) fn memory(args: &[String]) -> ExitCode {
    let count: usize = args.first().and_then(|n| n.parse().ok()).unwrap_or(1);
    let mut blocks: Vec<Vec<u8>> = Vec::new();
    for _ in 0..count {
        blocks.push(vec![1; 1 << 20]);
    }
    say(&format!("ready {}", blocks.len()));
    std::thread::sleep(Duration::from_secs(1000));
    ExitCode::SUCCESS
}

/// Forks as fast as the kernel lets it.
pub(crate) fn fork_bomb() -> ExitCode {
    say("ready");
    loop {
        if raw::fork() < 0 {
            std::thread::yield_now();
        }
    }
}

/// Collects every executable that is not the container's own, and tries to write to each, again and again:
/// a running one cannot be written (ETXTBSY), but one that was held open can be later.
pub(crate) fn exe_attack() -> ExitCode {
    let mut held: Vec<(File, String)> = Vec::new();
    say("ready");
    loop {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let exe = entry.path().join("exe");
            let Ok(file) = File::open(&exe) else { continue };
            // The process may have executed something else in between: what was opened counts.
            let own = format!("/proc/self/fd/{}", file.as_raw_fd());
            let Ok(target) = fs::read_link(own) else {
                continue;
            };
            let target = target.to_string_lossy().into_owned();
            if !target.starts_with("/bin/") && held.len() < 200 {
                say(&format!("saw {target}"));
                held.push((file, target));
            }
        }
        for (file, target) in &held {
            let again = format!("/proc/self/fd/{}", file.as_raw_fd());
            let Ok(mut file) = OpenOptions::new().write(true).open(again) else {
                continue;
            };
            if file.write_all(b"#!/pwned\n").is_ok() {
                say(&format!("WROTE {target}"));
            }
        }
    }
}

/// Looks into the descriptors and the memory of every other process.
pub(crate) fn fd_attack() -> ExitCode {
    say("ready");
    let own = std::process::id().to_string();
    loop {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == own || name.parse::<u32>().is_err() {
                continue;
            }
            // What runs after execve is the container's own: only the runtime's process is a find.
            let name = || fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            let before = name();
            if before.is_empty() || before == "true\n" {
                continue;
            }
            say(&format!("saw {}", before.trim()));
            // Root may list the numbers of any process with its uid; following one is what PTRACE_MODE_READ guards.
            let mut fds = fs::read_dir(entry.path().join("fd"))
                .into_iter()
                .flatten()
                .flatten();
            let opened =
                fds.any(|fd| fs::read_link(fd.path()).is_ok() || File::open(fd.path()).is_ok());
            if opened && name() == before {
                say(&format!("OPENED {}", before.trim()));
            }
            // The kernel asks for this the same right as for PTRACE_ATTACH, and nothing hangs on it.
            let traced = OpenOptions::new()
                .read(true)
                .write(true)
                .open(entry.path().join("mem"))
                .is_ok();
            if traced && name() == before {
                say(&format!("TRACED {}", before.trim()));
            }
        }
    }
}
