//! Terminals: through a console socket, with a size, an owner, and the modes that engines expect.

use crate::harness::sockets::{Console, FdSocket, resize};
use crate::harness::{Bundle, Env, Test, test};
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(console_socket_gets_the_master),
        test!(container_owns_the_terminal),
        test!(console_size),
        test!(size_can_be_changed_through_the_master),
        test!(input_reaches_the_process),
        test!(interrupt_from_the_terminal),
        test!(console_is_mounted_on_dev_console),
        test!(terminal_without_console_socket_is_refused),
        test!(console_socket_without_terminal_is_refused),
        test!(missing_console_socket_is_refused),
        test!(terminal_in_a_user_namespace),
        test!(exec_with_a_terminal),
        test!(exec_with_a_terminal_in_a_user_namespace),
        test!(foreground_on_a_terminal),
        test!(foreground_with_stdin_from_elsewhere),
        test!(foreground_output_is_not_translated_twice),
        test!(terminal_is_the_controlling_one),
    ]
}

/// A bundle whose process has a terminal, and the socket that will get its master.
fn with_terminal<'e>(env: &'e Env, script: &str) -> (Bundle<'e>, FdSocket) {
    let mut bundle = env.bundle();
    bundle.set("/process/terminal", json!(true)).sh(script);
    let socket = FdSocket::listen(&env.path("console"));
    (bundle, socket)
}

fn facts_on_a_terminal(env: &Env, edit: impl FnOnce(&mut Bundle<'_>)) -> Value {
    let (mut bundle, socket) = with_terminal(env, "true");
    bundle.args(&["/bin/probe", "facts"]);
    edit(&mut bundle);
    let container = bundle.create_with(&["--console-socket", socket.path()]);
    let mut console = Console::from_socket(&socket);
    container.start();
    let text = console.read_to_end();
    container.wait_stopped();
    serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text:?}"))
}

fn console_socket_gets_the_master(env: &Env) {
    let (bundle, socket) = with_terminal(env, "echo on a terminal; tty");
    let container = bundle.create_with(&["--console-socket", socket.path()]);
    let (name, fds) = socket.next();
    assert_eq!(fds.len(), 1, "one descriptor");
    assert!(!name.is_empty(), "with a name for humans");
    container.start();
    let mut console = Console {
        master: std::fs::File::from(fds.into_iter().next().unwrap()),
    };
    let text = console.read_to_end();
    assert!(text.starts_with("on a terminal"), "{text:?}");
    assert!(
        text.contains("/dev/pts/0") || text.contains("/dev/console"),
        "{text:?}"
    );
}

fn container_owns_the_terminal(env: &Env) {
    let facts = facts_on_a_terminal(env, |bundle| {
        bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    });
    assert_eq!(facts["terminal"]["uid"], 1000);
    assert_eq!(
        facts["terminal"]["gid"], 5,
        "the mount option gid=5 of devpts"
    );
    for number in ["0", "1", "2"] {
        assert!(
            facts["fds"][number].as_str().unwrap().starts_with("/dev/"),
            "{}",
            facts["fds"]
        );
    }
}

fn console_size(env: &Env) {
    let facts = facts_on_a_terminal(env, |bundle| {
        bundle.set("/process/consoleSize", json!({"height": 33, "width": 111}));
    });
    assert_eq!(
        (&facts["terminal"]["rows"], &facts["terminal"]["columns"]),
        (&json!(33), &json!(111))
    );
}

fn size_can_be_changed_through_the_master(env: &Env) {
    let (bundle, socket) = with_terminal(env, "read line; stty size");
    let container = bundle.create_with(&["--console-socket", socket.path()]);
    let mut console = Console::from_socket(&socket);
    container.start();
    resize(&console.master, 44, 123);
    console.type_in("\n");
    console.read_until("44 123");
}

fn input_reaches_the_process(env: &Env) {
    let (bundle, socket) = with_terminal(env, "read line; echo got:$line");
    let container = bundle.create_with(&["--console-socket", socket.path()]);
    let mut console = Console::from_socket(&socket);
    container.start();
    console.type_in("typed\n");
    console.read_until("got:typed");
}

fn interrupt_from_the_terminal(env: &Env) {
    let (bundle, socket) = with_terminal(
        env,
        "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.1; done",
    );
    let container = bundle.create_with(&["--console-socket", socket.path()]);
    let mut console = Console::from_socket(&socket);
    container.start();
    console.read_until("ready");
    console.type_in("\x03");
    console.read_until("interrupted");
    container.wait_stopped();
}

fn console_is_mounted_on_dev_console(env: &Env) {
    let facts = facts_on_a_terminal(env, |_| {});
    let mounts = facts["mounts"].as_array().unwrap();
    let console = mounts
        .iter()
        .find(|m| m["target"] == "/dev/console")
        .unwrap();
    assert_eq!(
        (&console["type"], &console["root"]),
        (&json!("devpts"), &json!("/0"))
    );
}

fn terminal_without_console_socket_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set("/process/terminal", json!(true))
        .refused()
        .says("console socket");
    bundle
        .run_with(&["--detach"])
        .fails()
        .says("console socket");
}

fn console_socket_without_terminal_is_refused(env: &Env) {
    let socket = FdSocket::listen(&env.path("console"));
    let bundle = env.bundle();
    let command = bundle.command("create", &["--console-socket", socket.path()]);
    env.rt
        .finish(env.rt.spawn(command))
        .fails()
        .says("console socket");
    assert!(socket.is_silent());
}

fn missing_console_socket_is_refused(env: &Env) {
    let (bundle, _socket) = with_terminal(env, "true");
    let command = bundle.command("create", &["--console-socket", "/no/such/socket"]);
    env.rt
        .finish(env.rt.spawn(command))
        .fails()
        .says("/no/such/socket");
    assert!(!env.rt.root.join(&bundle.id).exists());
}

fn terminal_in_a_user_namespace(env: &Env) {
    let facts = facts_on_a_terminal(env, |bundle| {
        bundle.userns();
    });
    assert_eq!(facts["terminal"]["uid"], 0);
}

fn exec_with_a_terminal(env: &Env) {
    type_at_exec(env, env.bundle());
}

fn exec_with_a_terminal_in_a_user_namespace(env: &Env) {
    let mut bundle = env.bundle();
    bundle.userns();
    type_at_exec(env, bundle);
}

fn type_at_exec(env: &Env, mut bundle: Bundle<'_>) {
    let container = bundle.sleeper();
    let socket = FdSocket::listen(&env.path("console"));
    let flags = ["--tty", "--detach", "--console-socket", socket.path()];
    container
        .exec_with(
            &flags,
            &["sh", "-c", "read line; echo got:$line; stty size"],
        )
        .ok();
    let mut console = Console::from_socket(&socket);
    console.type_in("typed\n");
    console.read_until("got:typed");
}

/// `run` with a terminal of the caller's own around it; what the caller sees on it.
fn in_foreground(bundle: &Bundle<'_>, stdin: bool) -> String {
    let pty = nix::pty::openpty(None, None).unwrap();
    resize(&pty.master, 40, 100);
    let inner = bundle.command("run", &[]);
    let slave = || std::process::Stdio::from(pty.slave.try_clone().unwrap());
    let mut command = std::process::Command::new("setsid");
    if stdin {
        command
            .args(["--ctty", "--wait"])
            .arg(inner.get_program())
            .args(inner.get_args());
    } else {
        command.args([
            "--ctty",
            "--wait",
            "sh",
            "-c",
            "exec \"$0\" \"$@\" </dev/null",
        ]);
        command.arg(inner.get_program()).args(inner.get_args());
    }
    let mut child = command
        .stdin(slave())
        .stdout(slave())
        .stderr(slave())
        .spawn()
        .unwrap();
    drop(command);
    drop(pty.slave);
    let mut console = Console {
        master: std::fs::File::from(pty.master),
    };
    let text = console.read_to_end();
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}: {text:?}");
    text
}

fn foreground_on_a_terminal(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set("/process/terminal", json!(true))
        .sh("test -t 0 && test -t 1 && echo terminal; stty size");
    assert_eq!(
        in_foreground(&bundle, true),
        "terminal\r\n40 100\r\n",
        "as large as the caller's"
    );
}

/// Typical for CI: stdin is not the terminal, but there is one.
fn foreground_with_stdin_from_elsewhere(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set("/process/terminal", json!(true))
        .sh("test -t 0 && echo terminal");
    assert_eq!(in_foreground(&bundle, false), "terminal\r\n");
}

/// ONLCR is cleared on the inner terminal, as the outer one does the same work.
fn foreground_output_is_not_translated_twice(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/terminal", json!(true)).sh("stty -a");
    let text = in_foreground(&bundle, true);
    assert!(text.contains("-onlcr"), "{text}");
}

fn terminal_is_the_controlling_one(env: &Env) {
    let (mut bundle, socket) = with_terminal(env, "");
    bundle.sh("echo through > /dev/tty");
    let container = bundle.create_with(&["--console-socket", socket.path()]);
    let mut console = Console::from_socket(&socket);
    container.start();
    console.read_until("through");
}
