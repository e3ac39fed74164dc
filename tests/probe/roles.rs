//! Longer parts that the probe plays: catching signals, filling memory, forking, attacking.

use super::raw;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
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

/// Opens every executable it can see for writing, again and again; says what it managed.
pub(crate) fn exe_attack() -> ExitCode {
    say("ready");
    loop {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let exe = entry.path().join("exe");
            let Ok(target) = fs::read_link(&exe) else {
                continue;
            };
            if target.starts_with("/bin") {
                continue;
            }
            say(&format!("saw {}", target.display()));
            if OpenOptions::new()
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&exe)
                .is_ok()
            {
                say(&format!("WROTE {}", target.display()));
            }
        }
    }
}

/// Looks into the descriptors of every other process and tries to attach to it.
pub(crate) fn fd_attack() -> ExitCode {
    const PTRACE_SEIZE: i64 = 0x4206;
    say("ready");
    let own = std::process::id().to_string();
    loop {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(pid) = name.parse::<i64>() else {
                continue;
            };
            if name == own {
                continue;
            }
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if command.trim() == "true" {
                continue;
            }
            if fs::read_dir(entry.path().join("fd")).is_ok_and(|mut fds| fds.next().is_some()) {
                say(&format!("OPENED {pid} {}", command.trim()));
            }
            if raw::call(libc::SYS_ptrace, [PTRACE_SEIZE, pid, 0, 0, 0, 0]) >= 0 {
                say(&format!("TRACED {pid} {}", command.trim()));
            }
        }
    }
}
