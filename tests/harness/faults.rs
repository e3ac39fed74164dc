//! Faults injected into the runtime's own system calls with strace.

use super::{Env, Output, process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::process::Command;
use std::time::Duration;

/// Runs a command of the runtime with this `inject=` expression applied to it and all its children.
///
/// strace waits for every process that it follows, and a created container waits for its start: so it is
/// ended as soon as the command itself has, and lets go of the others.
#[track_caller]
pub(crate) fn run(env: &Env, inner: &Command, inject: &str) -> Output {
    let calls = inject.split(':').next().unwrap_or_default();
    let log = env.path("strace.log");
    let mut command = Command::new("strace");
    command
        .args([
            "-f",
            "-e",
            &format!("trace={calls}"),
            "-e",
            &format!("inject={inject}"),
            "-o",
        ])
        .arg(&log);
    command.arg(inner.get_program()).args(inner.get_args());
    command.stdin(std::process::Stdio::null());
    let mut running = env.rt.spawn(command);
    let tracer = running.pid();
    let mut traced = None;
    let end = process::until(&format!("end of the command with {inject}"), 40, || {
        if running.child.try_wait().unwrap().is_some() {
            return Some(None);
        }
        traced = traced.or_else(|| child_of(tracer));
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let prefix = format!("{} ", traced?);
        text.lines().find_map(|l| {
            Some(Some(
                l.strip_prefix(&prefix)?
                    .trim()
                    .strip_prefix("+++ ")?
                    .to_owned(),
            ))
        })
    });
    let Some(end) = end else {
        return env.rt.finish(running);
    };
    let _ = kill(Pid::from_raw(tracer), Signal::SIGTERM);
    let mut output = env.rt.finish(running);
    // "exited with 1 +++" or "killed by SIGKILL +++"
    output.code = end
        .split(' ')
        .nth(2)
        .and_then(|n| n.parse().ok())
        .unwrap_or(137);
    output
}

/// The process that strace itself has started.
fn child_of(tracer: i32) -> Option<i32> {
    let path = format!("/proc/{tracer}/task/{tracer}/children");
    std::fs::read_to_string(path)
        .ok()?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// Names and counts of the system calls that the command and its children make, up to execve of the container.
#[track_caller]
pub(crate) fn calls(env: &Env, inner: &Command) -> Vec<(String, usize)> {
    let path = env.path("strace.txt");
    let mut command = Command::new("strace");
    command
        .args(["-f", "-c", "-S", "calls", "-U", "name,calls", "-o"])
        .arg(&path);
    command.arg(inner.get_program()).args(inner.get_args());
    command.stdin(std::process::Stdio::null());
    let running = env.rt.spawn(command);
    env.rt.finish_within(running, Duration::from_secs(60)).ok();
    let text = std::fs::read_to_string(path).unwrap();
    let mut found = Vec::new();
    for line in text.lines().skip(2) {
        let mut words = line.split_whitespace();
        match (words.next(), words.next().map(str::parse)) {
            (Some("total"), _) => {}
            (Some(name), Some(Ok(count))) => found.push((name.to_owned(), count)),
            _ => {}
        }
    }
    assert!(!found.is_empty(), "strace said nothing:\n{text}");
    found
}
