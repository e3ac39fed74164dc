//! Faults injected into the runtime's own system calls with strace.

use super::{Env, Output, process};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Command;

/// Runs a command of the runtime with this `inject=` expression applied to it and all its children.
#[track_caller]
pub(crate) fn run(env: &Env, inner: &Command, inject: &str) -> Output {
    let calls = inject.split(':').next().unwrap_or_default();
    let (mut output, pid, text) = traced(
        env,
        inner,
        &[
            "-e",
            // The log begins with the runtime's own start.
            &format!("trace=execve,{calls}"),
            "-e",
            &format!("inject={inject}"),
        ],
    );
    if let Some(end) = end_in(&text, pid) {
        output.code = end
            .split(' ')
            .nth(2)
            .and_then(|n| n.parse().ok())
            .unwrap_or(137);
    }
    output
}

/// `exited with 1 +++` or `killed by SIGKILL +++`, which strace writes after it has reaped a process.
fn end_in(text: &str, pid: i32) -> Option<&str> {
    let prefix = format!("{pid} ");
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(&prefix)?.trim().strip_prefix("+++ "))
}

/// Runs a command under strace: its output, its pid (0 if it was never seen), and what strace wrote.
///
/// strace waits for every process that it follows, and a created container waits for its start: so it is
/// ended as soon as the command itself has, and lets go of the others.
#[track_caller]
fn traced(env: &Env, inner: &Command, flags: &[&str]) -> (Output, i32, String) {
    let log = env.path("strace.log");
    let _ = std::fs::remove_file(&log);
    let mut command = Command::new("strace");
    // By default a strace that writes to a file blocks the signal which ends it (-I 3).
    command
        .args(["-I", "2", "-f"])
        .args(flags)
        .arg("-o")
        .arg(&log);
    command.arg(inner.get_program()).args(inner.get_args());
    command.stdin(std::process::Stdio::null());
    let mut running = env.rt.spawn(command);
    let tracer = running.pid();
    let mut seen = None;
    process::until(&format!("end of the command with {flags:?}"), 40, || {
        seen = seen.or_else(|| first_in(&log));
        let ended = seen.is_some_and(|pid| {
            let gone = !Path::new(&format!("/proc/{pid}")).exists();
            gone && end_in(&std::fs::read_to_string(&log).unwrap_or_default(), pid).is_some()
        });
        (ended || running.child.try_wait().unwrap().is_some()).then_some(())
    });
    let _ = kill(Pid::from_raw(tracer), Signal::SIGTERM);
    let output = env.rt.finish(running);
    (
        output,
        seen.unwrap_or(0),
        std::fs::read_to_string(&log).unwrap(),
    )
}

/// The process that strace has started: the first one in its log. (The first one among its children
/// may be one that strace tries itself on, and a short command is over before anybody looks.)
fn first_in(log: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(log).ok()?;
    // Half a number may have been written so far.
    text.split_once(' ')?.0.parse().ok()
}

/// Names and counts of the system calls that the command and its children make, up to execve of the container.
#[track_caller]
pub(crate) fn calls(env: &Env, inner: &Command) -> Vec<(String, usize)> {
    let (_, _, text) = traced(env, inner, &["-C", "-S", "calls", "-U", "name,calls"]);
    let mut found = Vec::new();
    let table = text
        .lines()
        .skip_while(|line| !line.starts_with("syscall "));
    for line in table.skip(2) {
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
