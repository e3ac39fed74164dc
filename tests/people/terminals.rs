//! At a terminal: keys that leave a container, or a process in it, alone.

use crate::harness::people::People;
use crate::harness::sockets::{Console, at_a_terminal};
use crate::harness::{Env, Test, process, test};
use std::process::{Child, Command};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(keys_leave_a_container_running),
        test!(keys_leave_a_process_of_exec_running),
        test!(a_process_that_was_left_ends_with_its_terminal_held),
    ]
}

/// Answers what it is told, until that is `bye`.
const ANSWERING: &str =
    "echo ready; while read line; do echo got:$line; test $line = bye && exit 7; done";

/// A verb with a terminal of its own.
fn with_a_terminal(inner: &Command) -> (Child, Console) {
    let (child, console, _) = at_a_terminal(inner, None);
    (child, console)
}

#[track_caller]
fn code(mut child: Child) -> i32 {
    let limit = std::time::Duration::from_secs(20);
    let status = process::wait_for(&mut child, limit).unwrap();
    status.expect("it ends").code().unwrap()
}

fn keys_leave_a_container_running(env: &Env) {
    let people = People::new(env);
    let flags = ["-it", "--name=web", "--detach-keys=ctrl-a,d"];
    let (child, mut console) = with_a_terminal(&people.command(&flags, &["sh", "-c", ANSWERING]));
    console.read_until("ready");
    // The beginning of the keys alone is the container's.
    console.type_in("\u{1}x\r");
    console.read_until("got:");
    console.type_in("\u{1}d");
    assert_eq!(code(child), 0);
    let attach = |flags: &[&str]| {
        with_a_terminal(
            &people
                .shelf
                .command(&[&["attach"], flags, &["web"]].concat()),
        )
    };
    // Its own keys are those of who attaches, unless others are given.
    let (child, mut console) = attach(&[]);
    console.type_in("one\r");
    console.read_until("got:one");
    console.type_in("\u{1}d");
    assert_eq!(code(child), 0);
    let (child, mut console) = attach(&["--detach-keys", "ctrl-b"]);
    console.type_in("two\r");
    console.read_until("got:two");
    console.type_in("\u{2}");
    assert_eq!(code(child), 0);
    let (child, mut console) = attach(&["--detach-keys="]);
    console.type_in("bye\r");
    console.read_until("got:bye");
    assert_eq!(code(child), 7);
    people.remove("web");
}

fn keys_leave_a_process_of_exec_running(env: &Env) {
    let people = People::new(env);
    people.run(&["-d", "--name=web"], &["sleep", "1000"]).ok();
    let script = "echo $$ >/pid; echo ready; while read line; do echo got:$line; echo $line >>/heard; done; echo $? >/end; sleep 1000";
    let exec = |flags: &[&str], script: &str| {
        let words = [&["exec", "-it"], flags, &["web", "sh", "-c", script]].concat();
        with_a_terminal(&people.shelf.command(&words))
    };
    let inside = |script: &str| people.shelf.ok(&["exec", "web", "sh", "-c", script]);
    for (flags, keys) in [
        (&[][..], "\u{10}\u{11}"),
        (&["--detach-keys=ctrl-x,x"], "\u{18}x"),
    ] {
        let (child, mut console) = exec(flags, script);
        console.read_until("ready");
        console.type_in("one\r");
        console.read_until("got:one");
        console.type_in(keys);
        assert_eq!(code(child), 0);
        // It goes on, and its terminal is one: no input ended, and what it writes goes somewhere.
        let text = inside(
            "sleep 0.2; cat /heard; kill -0 $(cat /pid) && echo alive; test -e /end || echo open; rm /heard",
        );
        assert_eq!(text, "one\nalive\nopen\n", "{flags:?}");
        inside("kill -9 $(cat /pid); rm /pid");
    }
    // Without keys they are the process's own, and its exit code is the verb's.
    let (child, mut console) = exec(
        &["--detach-keys="],
        "echo ready; stty raw; head -c 2 | wc -c; exit 5",
    );
    console.read_until("ready");
    std::thread::sleep(std::time::Duration::from_millis(200));
    console.type_in("\u{10}\u{11}");
    console.read_until("2");
    assert_eq!(code(child), 5);
    let words = ["exec", "-t", "--detach-keys=nope", "web", "true"];
    people.shelf.call(&words).fails().says("--detach-keys");
    people.remove("web");
}

/// Nothing of ours outlives it.
fn a_process_that_was_left_ends_with_its_terminal_held(env: &Env) {
    let people = People::new(env);
    people.run(&["-d", "--name=web"], &["sleep", "1000"]).ok();
    let script =
        "echo ready; while test ! -e /stop; do echo writing; sleep 0.05; done; echo over >/over";
    let words = ["exec", "-it", "web", "sh", "-c", script];
    let (child, mut console) = with_a_terminal(&people.shelf.command(&words));
    let first = child.id();
    console.read_until("ready");
    console.type_in("\u{10}\u{11}");
    assert_eq!(code(child), 0);
    let ours = || {
        let all = process::all().into_iter();
        all.filter(|(pid, state, words)| {
            *pid > first as i32 && *state != 'Z' && words.contains("echo writing")
        })
        .count()
    };
    // The process, who holds its terminal, and perhaps the shell's child that is about to sleep.
    assert!((2..=3).contains(&ours()), "{}", ours());
    people.shelf.ok(&["exec", "web", "touch", "/stop"]);
    process::until("its end", 10, || (ours() == 0).then_some(()));
    assert_eq!(people.shelf.ok(&["exec", "web", "cat", "/over"]), "over\n");
    people.remove("web");
}
