//! Attaching as a person does: the relay, in pipelines and at a terminal.

use super::attach::{COUNTING, later, on_a_terminal};
use crate::harness::monitor::Monitored;
use crate::harness::sockets::{Console, at_a_terminal, resize};
use crate::harness::{Env, Test, process, test};
use serde_json::json;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(relay_in_a_pipeline),
        test!(relay_ends_when_nobody_reads),
        test!(relay_passes_signals_on),
        test!(relay_at_a_terminal),
        test!(relay_detaches_by_keys),
        test!(relay_gives_the_terminal_back_when_it_is_terminated),
        test!(relay_learns_that_the_monitor_was_killed),
    ]
}

pub(super) fn relay(monitored: &Monitored<'_>, options: &str) -> Command {
    let mut command = monitored.relay(options);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn code_of(mut child: Child) -> i32 {
    let status = process::wait_for(&mut child, Duration::from_secs(20)).unwrap();
    status.expect("the relay ends").code().expect("by itself")
}

fn relay_in_a_pipeline(env: &Env) {
    for files in [false, true] {
        let mut bundle = env.bundle();
        bundle.sh("sort -n; echo oops >&2; exit 3");
        let monitored = later(&bundle).set("stdin", json!("once")).start();
        let mut command = relay(&monitored, "start stdin");
        let input: String = (1..=30000).rev().map(|n| format!("{n}\n")).collect();
        let expected: String = (1..=30000).map(|n| format!("{n}\n")).collect();
        if files {
            std::fs::write(env.path("in"), &input).unwrap();
            command.stdin(File::open(env.path("in")).unwrap());
            command.stdout(File::create(env.path("out")).unwrap());
            command.stderr(File::create(env.path("err")).unwrap());
            assert_eq!(code_of(command.spawn().unwrap()), 3);
            assert!(std::fs::read_to_string(env.path("out")).unwrap() == expected);
            assert_eq!(std::fs::read_to_string(env.path("err")).unwrap(), "oops\n");
        } else {
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
            let output = child.wait_with_output().unwrap();
            writer.join().unwrap();
            assert!(
                output.stdout == expected.as_bytes(),
                "{} bytes",
                output.stdout.len()
            );
            assert_eq!(output.stderr, b"oops\n");
            assert_eq!(output.status.code(), Some(3));
        }
    }
}

/// `run | head`: the caller's pipe is gone, the container goes on.
fn relay_ends_when_nobody_reads(env: &Env) {
    let mut bundle = env.bundle();
    let monitored = later(bundle.sh(COUNTING)).start();
    let mut command = relay(&monitored, "start");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    drop(out);
    assert_eq!(code_of(child), 128 + 13);
    assert_eq!(monitored.status_of_container(), "running");
    monitored.kill_container("KILL");
}

fn relay_passes_signals_on(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh("trap 'echo hup' HUP; trap 'exit 21' TERM; echo up; while :; do sleep 0.02; done");
    let monitored = later(&bundle).start();
    let mut child = relay(&monitored, "start proxy")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    assert_eq!(lines.next().as_deref(), Some("up"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    assert_eq!(lines.next().as_deref(), Some("hup"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(code_of(child), 21);
}

/// A relay with a terminal of its own.
fn relayed(monitored: &Monitored<'_>, options: &str) -> (Child, Console, std::os::fd::OwnedFd) {
    at_a_terminal(&monitored.relay(options), Some((40, 100)))
}

fn modes(terminal: &std::os::fd::OwnedFd) -> String {
    let modes = rustix::termios::tcgetattr(terminal).unwrap();
    format!(
        "{:?} {:?} {:?}",
        modes.input_modes, modes.output_modes, modes.local_modes
    )
}

/// Says its size, also when that changes, and everything that it is told, until that is `bye`. The
/// trap interrupts `read`.
pub(super) const TALKING: &str = "trap 'stty size' WINCH; echo ready; stty size; \
                       while :; do read line || continue; echo got:$line; \
                       test $line = bye && exit 13; done";

fn relay_at_a_terminal(env: &Env) {
    let mut bundle = env.bundle();
    let monitored = on_a_terminal(&mut bundle, TALKING)
        .set("start", json!("later"))
        .start();
    let (child, mut console, slave) = relayed(&monitored, "start stdin");
    let text = console.read_until("40 100");
    assert!(
        text.contains("ready\r\n") && !text.contains("\r\r\n"),
        "{text:?}"
    );
    resize(&console.master, 50, 120);
    console.read_until("50 120");
    console.type_in("hello\r");
    console.read_until("got:hello");
    console.type_in("bye\r");
    console.read_until("got:bye");
    assert_eq!(code_of(child), 13);
    let fresh = nix::pty::openpty(None, None).unwrap();
    assert_eq!(
        modes(&slave),
        modes(&fresh.slave),
        "the modes are as before"
    );
}

fn relay_detaches_by_keys(env: &Env) {
    let mut bundle = env.bundle();
    let mut monitored = on_a_terminal(&mut bundle, TALKING)
        .set("start", json!("later"))
        .start();
    let (child, mut console, slave) = relayed(&monitored, "start stdin");
    console.read_until("ready");
    console.type_in("\x10\x11");
    assert_eq!(code_of(child), 201);
    let fresh = nix::pty::openpty(None, None).unwrap();
    assert_eq!(
        modes(&slave),
        modes(&fresh.slave),
        "the modes are as before"
    );
    assert_eq!(monitored.status_of_container(), "running");
    let (child, mut console, _slave) = relayed(&monitored, "stdin");
    console.type_in("still\r");
    console.read_until("got:still");
    console.type_in("bye\r");
    assert_eq!(code_of(child), 13);
    monitored.ends();
}

fn relay_gives_the_terminal_back_when_it_is_terminated(env: &Env) {
    use nix::sys::signal::{Signal, kill};
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let mut bundle = env.bundle();
        let monitored = on_a_terminal(&mut bundle, TALKING)
            .set("start", json!("later"))
            .start();
        let (child, mut console, slave) = relayed(&monitored, "start stdin proxy");
        console.read_until("ready");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(pid, signal).unwrap();
        assert_eq!(code_of(child), 128 + signal as i32);
        let fresh = nix::pty::openpty(None, None).unwrap();
        assert_eq!(modes(&slave), modes(&fresh.slave), "{signal}");
        assert_eq!(
            monitored.status_of_container(),
            "running",
            "the container goes on"
        );
        monitored.kill_container("KILL");
    }
}

fn relay_learns_that_the_monitor_was_killed(env: &Env) {
    let mut bundle = env.bundle();
    let mut monitored = bundle.sh(COUNTING).monitored().start();
    let mut child = relay(&monitored, "")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut String::new()).unwrap();
    process::kill(monitored.monitor_pid());
    monitored.monitor.as_mut().unwrap().wait().unwrap();
    assert_eq!(code_of(child), 203);
    assert_eq!(monitored.status_of_container(), "running");
}
