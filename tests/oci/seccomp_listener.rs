//! SCMP_ACT_NOTIFY: a listener outside decides about system calls.

use super::seccomp::{UMASK, deny, rule, umask};
use crate::harness::sockets::FdSocket;
use crate::harness::{Bundle, Env, Test, raw, test};
use serde_json::{Value, json};
use std::os::fd::OwnedFd;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(listener_decides),
        test!(listener_gets_state_and_metadata),
        test!(listener_serves_exec),
        test!(listener_need_not_answer_for_create),
        test!(notify_without_listener_is_refused),
        test!(notify_on_write_is_refused),
        test!(listener_that_does_not_exist_is_refused),
    ]
}

/// A bundle whose umask(2) is decided by whoever listens on the socket.
fn with_listener<'e>(env: &'e Env) -> (Bundle<'e>, FdSocket) {
    let socket = FdSocket::listen(&env.path("listener"));
    let mut bundle = env.bundle();
    deny(&mut bundle, &[rule("umask", "SCMP_ACT_NOTIFY")]);
    bundle.set("/linux/seccomp/listenerPath", json!(socket.path()));
    bundle.set("/linux/seccomp/listenerMetadata", json!("for the agent"));
    (bundle, socket)
}

/// Answers every call: its argument decides.
fn serve(listener: OwnedFd) {
    std::thread::spawn(move || {
        while let Some(call) = raw::receive(&listener) {
            assert_eq!(i64::from(call.number), UMASK);
            match call.arguments[0] {
                0 => raw::respond(&listener, call.id, 4711, 0),
                other => raw::respond(&listener, call.id, 0, i32::try_from(other).unwrap()),
            }
        }
    });
}

fn listener_decides(env: &Env) {
    let (mut bundle, socket) = with_listener(env);
    bundle.args(&["/bin/probe", "try", &umask(0), &umask(95), &umask(33)]);
    let running = bundle.run_in_background(&[]);
    let (_, mut fds) = socket.next();
    serve(fds.remove(0));
    let answers = crate::harness::bundle::attempts(&env.rt.finish(running).ok().json());
    assert_eq!(answers[0], (0, "4711".into()));
    assert_eq!([answers[1].0, answers[2].0], [95, 33]);
}

fn listener_gets_state_and_metadata(env: &Env) {
    let (mut bundle, socket) = with_listener(env);
    bundle
        .set("/annotations", json!({"key": "value"}))
        .args(&["sleep", "1000"]);
    let container = bundle.create();
    let (message, fds) = socket.next();
    assert_eq!(fds.len(), 1);
    let message: Value = serde_json::from_str(&message).unwrap();
    assert!(message["ociVersion"].is_string());
    assert_eq!(message["fds"], json!(["seccompFd"]));
    assert_eq!(message["pid"], json!(container.pid()));
    assert_eq!(message["metadata"], "for the agent");
    let state = &message["state"];
    assert_eq!(
        (&state["id"], &state["status"]),
        (&json!(bundle.id), &json!("creating"))
    );
    assert_eq!(
        (&state["bundle"], &state["annotations"]["key"]),
        (&json!(bundle.path), &json!("value"))
    );
}

fn listener_serves_exec(env: &Env) {
    let (mut bundle, socket) = with_listener(env);
    let container = bundle.sleeper();
    let (_, mut fds) = socket.next();
    serve(fds.remove(0));
    let running = env
        .rt
        .spawn(container.exec_command(&[], &["/bin/probe", "try", &umask(44)]));
    let (message, mut fds) = socket.next();
    let message: Value = serde_json::from_str(&message).unwrap();
    assert_eq!(message["state"]["status"], "running");
    serve(fds.remove(0));
    assert_eq!(
        crate::harness::bundle::attempts(&env.rt.finish(running).ok().json())[0].0,
        44
    );
}

/// An agent may only begin to answer when `create` is done.
fn listener_need_not_answer_for_create(env: &Env) {
    for no_new_privileges in [true, false] {
        let (mut bundle, socket) = with_listener(env);
        let notified: Vec<Value> = ["getcwd", "chdir", "setresuid", "setresgid", "setgroups"]
            .iter()
            .map(|name| rule(name, "SCMP_ACT_NOTIFY"))
            .collect();
        bundle
            .set("/linux/seccomp/syscalls", json!(notified))
            .set("/process/noNewPrivileges", json!(no_new_privileges))
            .set("/process/user", json!({"uid": 1000, "gid": 1000}))
            .set("/process/cwd", json!("/tmp"));
        let container = bundle.sleeper();
        let (_, fds) = socket.next();
        assert_eq!(fds.len(), 1);
        assert_eq!(container.status(), "running");
        std::fs::remove_file(socket.path()).unwrap();
    }
}

fn notify_without_listener_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    deny(&mut bundle, &[rule("umask", "SCMP_ACT_NOTIFY")]);
    bundle.refused().says("listenerPath");
}

/// The runtime itself could not go on: write is what it needs to pass the listener.
fn notify_on_write_is_refused(env: &Env) {
    let (mut bundle, _socket) = with_listener(env);
    bundle.set(
        "/linux/seccomp/syscalls",
        json!([rule("write", "SCMP_ACT_NOTIFY")]),
    );
    bundle.refused().says("write");
    bundle.set("/linux/seccomp/syscalls", json!([]));
    bundle
        .set("/linux/seccomp/defaultAction", json!("SCMP_ACT_NOTIFY"))
        .refused();
}

fn listener_that_does_not_exist_is_refused(env: &Env) {
    let (mut bundle, _socket) = with_listener(env);
    bundle
        .set("/linux/seccomp/listenerPath", json!("/no/such/listener"))
        .refused()
        .says("/no/such/listener");
}
