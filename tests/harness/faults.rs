//! Faults injected into the runtime's own system calls with strace.

use super::runtime::Running;
use super::{Env, Output};
use std::process::Command;
use std::time::Duration;

/// The command, with this `inject=` expression applied to it and all its children.
fn traced(inner: &Command, inject: &str) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", &format!("inject={inject}")]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.stdin(std::process::Stdio::null());
    command
}

/// Runs a command of the runtime with faults.
#[track_caller]
pub(crate) fn run(env: &Env, inner: &Command, inject: &str) -> Output {
    let running: Running = env.rt.spawn(traced(inner, inject));
    env.rt.finish_within(running, Duration::from_secs(60))
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
        if let (Some(name), Some(Ok(count))) = (words.next(), words.next().map(str::parse)) {
            if name != "total" {
                found.push((name.to_owned(), count));
            }
        }
    }
    assert!(!found.is_empty(), "strace said nothing:\n{text}");
    found
}
