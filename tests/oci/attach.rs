//! Attaching to a container that has a monitor: by pipes, and as a person at a terminal.

use super::attach_people::{TALKING, relay};
use crate::harness::monitor::{Monitored, attach};
use crate::harness::{Bundle, Env, Test, process, test};
use rcrun_runtime::ErrorKind;
use rcrun_runtime::monitor::{Event, Size};
use serde_json::json;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;
use std::time::Duration;

pub(crate) fn tests() -> Vec<Test> {
    let tests = vec![
        test!(attached_before_the_start_nothing_is_missed),
        test!(several_clients_see_the_same),
        test!(attach_and_detach_again_and_again),
        test!(killed_client_costs_nothing),
        test!(slow_client_is_dropped),
        test!(slow_lossless_client_is_waited_for).timeout(90),
        test!(stdin_once_ends_with_the_first_client),
        test!(stdin_open_outlives_its_clients),
        test!(stdin_of_none_is_empty),
        test!(input_that_nobody_reads_does_not_pile_up),
        test!(waiting_and_attaching_after_the_end),
        test!(starting_twice_is_refused),
        test!(terminal_with_size_and_input),
        test!(terminal_is_logged_and_survives_being_closed),
    ];
    let reason = "monitors are rcrun's own";
    tests
        .into_iter()
        .map(|test| test.only_rcrun(reason))
        .collect()
}

pub(super) fn later<'e>(bundle: &Bundle<'e>) -> Monitored<'e> {
    bundle.monitored().set("start", json!("later"))
}

fn read_all(mut file: File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    text
}

fn attached_before_the_start_nothing_is_missed(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh("echo first; echo other >&2; exit 7");
    let mut monitored = later(&bundle).start();
    assert_eq!(monitored.status_of_container(), "created");
    let (mut client, out, err) = attach(monitored.client(), None, true);
    client.start().unwrap();
    assert_eq!(
        (read_all(out), read_all(err)),
        ("first\n".into(), "other\n".into())
    );
    let Event::Exit(exit) = client.next_event().unwrap() else {
        panic!("no exit");
    };
    assert_eq!(exit.code, 7);
    assert_eq!(monitored.ends(), exit, "the record says the same");
}

fn several_clients_see_the_same(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh("seq 1 20000");
    let monitored = later(&bundle).start();
    let clients: Vec<_> = (0..4)
        .map(|n| attach(monitored.client(), None, n < 2))
        .collect();
    monitored.client().start().unwrap();
    let expected: String = (1..=20000).map(|n| format!("{n}\n")).collect();
    let readers: Vec<_> = (clients.into_iter())
        .map(|(client, out, _err)| std::thread::spawn(move || (read_all(out), client)))
        .collect();
    for reader in readers {
        let (text, mut client) = reader.join().unwrap();
        assert!(
            text == expected,
            "{} bytes of {}",
            text.len(),
            expected.len()
        );
        assert!(matches!(client.next_event().unwrap(), Event::Exit(exit) if exit.code == 0));
    }
}

/// Prints a number again and again, until it is killed.
pub(super) const COUNTING: &str = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.002; done";

fn open_descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

fn attach_and_detach_again_and_again(env: &Env) {
    let mut bundle = env.bundle();
    let monitored = bundle
        .sh(COUNTING)
        .monitored()
        .set("stdin", json!("open"))
        .start();
    let before = open_descriptors(monitored.monitor_pid());
    let mut last = 0;
    for round in 0..20 {
        let (stdin, _ours) = rustix::pipe::pipe().unwrap();
        let (mut client, out, _err) = attach(monitored.client(), Some(stdin), round % 2 == 0);
        let mut lines = BufReader::new(out).lines();
        let number: u32 = lines.next().unwrap().unwrap().parse().unwrap();
        assert!(number > last, "{number} after {last}");
        last = number;
        if round % 3 == 0 {
            drop(client);
        } else {
            client.detach().unwrap();
            assert_eq!(client.status().unwrap().attached, 0);
        }
    }
    process::until("all is given back", 5, || {
        (open_descriptors(monitored.monitor_pid()) == before).then_some(())
    });
    assert!(
        monitored.client().status().unwrap().stdin,
        "a client that leaves ends no input"
    );
    monitored.kill_container("KILL");
}

fn killed_client_costs_nothing(env: &Env) {
    let mut bundle = env.bundle();
    let monitored = bundle
        .sh(COUNTING)
        .monitored()
        .set("stdin", json!("open"))
        .start();
    for _ in 0..5 {
        let mut child = relay(&monitored, "stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut String::new()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut client = monitored.client();
    process::until("nobody is attached", 5, || {
        (client.status().unwrap().attached == 0).then_some(())
    });
    let (_client, out, _err) = attach(client, None, true);
    BufReader::new(out).read_line(&mut String::new()).unwrap();
    monitored.kill_container("KILL");
}

fn slow_client_is_dropped(env: &Env) {
    let mut bundle = env.bundle();
    let marks = env.directory("marks");
    bundle
        .bind(&marks, "/marks", &["rw"])
        .sh("seq 1 600000; touch /marks/done; sleep 1000");
    let monitored = later(&bundle).set("log", serde_json::Value::Null).start();
    let (mut slow, out, _err) = attach(monitored.client(), None, false);
    monitored.client().start().unwrap();
    process::until("the container goes on", 30, || {
        marks.join("done").exists().then_some(())
    });
    assert_eq!(slow.next_event().unwrap(), Event::Dropped);
    let text = read_all(out);
    assert!(text.starts_with("1\n2\n3\n"), "what it got is a beginning");
    let memory = process::status(monitored.monitor_pid(), "RssAnon");
    let kib: u32 = memory.split(' ').next().unwrap().parse().unwrap();
    assert!(kib < 4096, "{memory}");
    // It may attach again.
    let (_client, ..) = attach(slow, None, false);
    monitored.kill_container("KILL");
}

fn slow_lossless_client_is_waited_for(env: &Env) {
    let mut bundle = env.bundle();
    let marks = env.directory("marks");
    bundle
        .bind(&marks, "/marks", &["rw"])
        .sh("seq 1 600000; touch /marks/done; exit 4");
    let mut monitored = later(&bundle).set("log", serde_json::Value::Null).start();
    let (mut slow, mut out, _err) = attach(monitored.client(), None, true);
    monitored.client().start().unwrap();
    let mut piece = [0; 10_000];
    out.read_exact(&mut piece).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    assert!(!marks.join("done").exists(), "the container waits");
    let memory = process::status(monitored.monitor_pid(), "RssAnon");
    let kib: u32 = memory.split(' ').next().unwrap().parse().unwrap();
    assert!(kib < 2048, "{memory}");
    let text = String::from_utf8(piece.to_vec()).unwrap() + &read_all(out);
    let expected: String = (1..=600_000).map(|n| format!("{n}\n")).collect();
    assert!(
        text == expected,
        "{} bytes of {}",
        text.len(),
        expected.len()
    );
    assert!(matches!(slow.next_event().unwrap(), Event::Exit(exit) if exit.code == 4));
    monitored.ends();
}

fn stdin_once_ends_with_the_first_client(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh("cat; echo end");
    let mut monitored = later(&bundle).set("stdin", json!("once")).start();
    let (stdin, ours) = rustix::pipe::pipe().unwrap();
    let (mut client, out, _err) = attach(monitored.client(), Some(stdin), true);
    client.start().unwrap();
    let mut ours = File::from(ours);
    ours.write_all(b"some input\n").unwrap();
    drop(ours);
    assert_eq!(read_all(out), "some input\nend\n");
    monitored.ends();
    // A client that is gone without a word has ended its input too.
    let mut bundle = env.bundle();
    bundle.sh("cat; echo end");
    let mut monitored = later(&bundle).set("stdin", json!("once")).start();
    let (stdin, _ours) = rustix::pipe::pipe().unwrap();
    let (client, ..) = attach(monitored.client(), Some(stdin), false);
    monitored.client().start().unwrap();
    drop(client);
    assert_eq!(monitored.ends().code, 0);
}

fn stdin_open_outlives_its_clients(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh("while read line; do echo got:$line; done; echo end");
    let mut monitored = bundle.monitored().set("stdin", json!("open")).start();
    for round in 0..3 {
        let (stdin, ours) = rustix::pipe::pipe().unwrap();
        let (client, out, _err) = attach(monitored.client(), Some(stdin), true);
        let mut ours = File::from(ours);
        writeln!(ours, "{round}").unwrap();
        drop(ours);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line).unwrap();
        assert_eq!(line, format!("got:{round}\n"));
        drop(client);
    }
    monitored.client().close_stdin().unwrap();
    monitored.ends();
    assert!(monitored.logged("stdout").ends_with("got:2\nend\n"));
}

fn stdin_of_none_is_empty(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh("cat; echo end");
    let mut monitored = bundle.monitored().start();
    monitored.ends();
    assert_eq!(monitored.logged("stdout"), "end\n");
}

fn input_that_nobody_reads_does_not_pile_up(env: &Env) {
    let mut bundle = env.bundle();
    let monitored = bundle
        .args(&["sleep", "1000"])
        .monitored()
        .set("stdin", json!("open"))
        .start();
    let (stdin, ours) = rustix::pipe::pipe().unwrap();
    let (_client, ..) = attach(monitored.client(), Some(stdin), false);
    rustix::io::ioctl_fionbio(&ours, true).unwrap();
    let mut written = 0;
    let mut idle = 0;
    while idle < 20 {
        match rustix::io::write(&ours, &[b'x'; 4096]) {
            Ok(count) => {
                written += count;
                idle = 0;
            }
            Err(_) => {
                idle += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    // Two pipes and one piece.
    assert!(written <= (128 << 10) + (8 << 10), "{written}");
    monitored.kill_container("KILL");
}

fn waiting_and_attaching_after_the_end(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh("sleep 0.3; exit 9");
    let mut monitored = bundle.monitored().start();
    let client = monitored.client();
    let exit = client.wait().unwrap();
    assert_eq!(exit.code, 9);
    assert_eq!(
        monitored.recorded(),
        Some(exit.clone()),
        "durable before it is told"
    );
    assert_eq!(monitored.ends(), exit);
    assert_eq!(
        monitored.try_client().unwrap_err().kind(),
        ErrorKind::NotFound
    );
    // While a client that is waited for keeps the monitor, others still learn how it ended.
    let mut bundle = env.bundle();
    bundle.sh("seq 1 100000; exit 8");
    let mut monitored = later(&bundle).start();
    let (mut slow, out, _err) = attach(monitored.client(), None, true);
    slow.start().unwrap();
    drop(slow.status().unwrap());
    std::thread::sleep(Duration::from_millis(200));
    let mut other = monitored.client();
    assert!(
        other.status().unwrap().exit.is_none(),
        "it waits for its output to be read"
    );
    let reader = std::thread::spawn(move || read_all(out));
    assert_eq!(other.wait().unwrap().code, 8);
    reader.join().unwrap();
    monitored.ends();
}

fn starting_twice_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    let monitored = later(bundle.args(&["sleep", "1000"])).start();
    let mut client = monitored.client();
    client.start().unwrap();
    assert_eq!(
        client.start().unwrap_err().kind(),
        ErrorKind::FailedPrecondition
    );
    assert_eq!(monitored.status_of_container(), "running");
    monitored.kill_container("KILL");
}

/// A container with a terminal.
pub(super) fn on_a_terminal<'e>(bundle: &mut Bundle<'e>, script: &str) -> Monitored<'e> {
    bundle.set("/process/terminal", json!(true)).sh(script);
    (bundle.monitored())
        .set("terminal", json!(true))
        .set("stdin", json!("open"))
        .set("console_size", json!({"height": 33, "width": 111}))
}

fn terminal_with_size_and_input(env: &Env) {
    let mut bundle = env.bundle();
    let monitored = on_a_terminal(&mut bundle, TALKING)
        .set("start", json!("later"))
        .start();
    let (stdin, ours) = rustix::pipe::pipe().unwrap();
    let (mut client, out, _err) = attach(monitored.client(), Some(stdin), true);
    client.start().unwrap();
    let mut lines = BufReader::new(out).lines().map(Result::unwrap);
    let mut wait_for = |text: &str| {
        let found = lines.find(|line| line.trim_end() == text);
        assert!(found.is_some(), "never saw {text:?}");
    };
    wait_for("33 111");
    client
        .resize(Size {
            height: 44,
            width: 122,
        })
        .unwrap();
    wait_for("44 122");
    let mut ours = File::from(ours);
    ours.write_all(b"typed\n").unwrap();
    wait_for("got:typed");
    ours.write_all(b"bye\n").unwrap();
    assert!(matches!(client.next_event().unwrap(), Event::Exit(exit) if exit.code == 13));
}

fn terminal_is_logged_and_survives_being_closed(env: &Env) {
    let mut bundle = env.bundle();
    let script = "echo before; exec 0</dev/null 1>/dev/null 2>/dev/null; sleep 0.4; \
                  echo after > /dev/console; sleep 0.3; echo last > /dev/console; exit 6";
    let mut monitored = on_a_terminal(&mut bundle, script).start();
    assert_eq!(monitored.ends().code, 6);
    assert_eq!(monitored.logged("stdout"), "before\r\nafter\r\nlast\r\n");
}
