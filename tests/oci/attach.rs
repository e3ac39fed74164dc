//! Attaching to a container that has a monitor: by pipes, and as a person at a terminal.

use crate::harness::monitor::{Monitored, attach};
use crate::harness::sockets::Console;
use crate::harness::{Bundle, Env, Test, process, test};
use rcrun_runtime::ErrorKind;
use rcrun_runtime::monitor::{Event, Size};
use serde_json::json;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
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
        test!(relay_in_a_pipeline),
        test!(relay_ends_when_nobody_reads),
        test!(relay_passes_signals_on),
        test!(relay_at_a_terminal),
        test!(relay_detaches_by_keys),
        test!(relay_gives_the_terminal_back_when_it_is_terminated),
        test!(relay_learns_that_the_monitor_was_killed),
    ];
    let reason = "monitors are rcrun's own";
    tests
        .into_iter()
        .map(|test| test.only_rcrun(reason))
        .collect()
}

fn later<'e>(bundle: &Bundle<'e>) -> Monitored<'e> {
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
const COUNTING: &str = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.002; done";

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
fn on_a_terminal<'e>(bundle: &mut Bundle<'e>, script: &str) -> Monitored<'e> {
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

fn relay(monitored: &Monitored<'_>, options: &str) -> Command {
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

/// A relay with a terminal of its own, as a person has it.
fn at_a_terminal(
    monitored: &Monitored<'_>,
    options: &str,
) -> (Child, Console, std::os::fd::OwnedFd) {
    let pty = nix::pty::openpty(None, None).unwrap();
    resize(&pty.master, 40, 100);
    let inner = monitored.relay(options);
    let slave = || Stdio::from(pty.slave.try_clone().unwrap());
    // setsid forks if it leads a process group; as a child of ours it does not, and becomes the relay.
    let mut command = Command::new("setsid");
    command
        .arg("--ctty")
        .arg(inner.get_program())
        .args(inner.get_args());
    command.envs(
        inner
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let child = command
        .stdin(slave())
        .stdout(slave())
        .stderr(slave())
        .spawn()
        .unwrap();
    drop(command);
    let console = Console {
        master: File::from(pty.master),
    };
    (child, console, pty.slave)
}

fn resize(master: impl std::os::fd::AsFd, ws_row: u16, ws_col: u16) {
    let size = rustix::termios::Winsize {
        ws_row,
        ws_col,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(master, size).unwrap();
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
const TALKING: &str = "trap 'stty size' WINCH; echo ready; stty size; \
                       while :; do read line || continue; echo got:$line; \
                       test $line = bye && exit 13; done";

fn relay_at_a_terminal(env: &Env) {
    let mut bundle = env.bundle();
    let monitored = on_a_terminal(&mut bundle, TALKING)
        .set("start", json!("later"))
        .start();
    let (child, mut console, slave) = at_a_terminal(&monitored, "start stdin");
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
    let (child, mut console, slave) = at_a_terminal(&monitored, "start stdin");
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
    let (child, mut console, _slave) = at_a_terminal(&monitored, "stdin");
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
        let (child, mut console, slave) = at_a_terminal(&monitored, "start stdin proxy");
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
