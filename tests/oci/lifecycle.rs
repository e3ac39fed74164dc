//! create, start, state, kill, delete, run: statuses, exit codes, and what each verb refuses.

use crate::harness::env::read;
use crate::harness::{Env, Test, process, test};
use serde_json::json;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(created_running_stopped),
        test!(created_container_does_not_run_yet),
        test!(state_has_what_the_spec_demands),
        test!(run_returns_the_exit_code),
        test!(run_returns_128_plus_signal),
        test!(run_leaves_no_state),
        test!(run_passes_output_through),
        test!(run_passes_stdin_through),
    ]
}

fn created_running_stopped(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.args(&["sleep", "1000"]).create();
    assert_eq!(container.status(), "created");
    container.start();
    assert_eq!(container.status(), "running");
    container.stop();
    assert_eq!(container.status(), "stopped");
    let id = container.id.clone();
    container.delete();
    env.rt.call(&["state", &id]).fails().says("does not exist");
}

fn created_container_does_not_run_yet(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.sh("echo started > /marker").create();
    let marker = bundle.rootfs("marker");
    assert!(!marker.exists(), "the process ran before start");
    container.start();
    container.wait_stopped();
    assert_eq!(read(marker), "started\n");
}

fn state_has_what_the_spec_demands(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/annotations", json!({"org.example.key": "value"}));
    let container = bundle.sleeper();
    let state = container.state();
    assert!(
        state["ociVersion"].as_str().unwrap().starts_with("1."),
        "{state}"
    );
    assert_eq!(state["id"], json!(container.id));
    assert_eq!(state["status"], "running");
    assert_eq!(state["bundle"], json!(bundle.path));
    assert_eq!(state["annotations"], json!({"org.example.key": "value"}));
    process::becomes(container.pid(), &["sleep", "1000"]);
}

fn run_returns_the_exit_code(env: &Env) {
    for code in [0, 1, 7, 42, 255] {
        env.bundle().sh(&format!("exit {code}")).run().exits(code);
    }
}

fn run_returns_128_plus_signal(env: &Env) {
    let mut bundle = env.bundle();
    let mut running = bundle
        .sh("echo up; sleep 1000 & wait")
        .run_in_background(&[]);
    let pid = process::until("the container runs", 10, || {
        let state = env.rt.command(&["state", &bundle.id]).output().unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state.stdout).ok()?;
        let runs = state["status"] == "running" && running.read().0 == "up\n";
        runs.then(|| state["pid"].as_i64())?
    });
    process::kill(i32::try_from(pid).unwrap());
    env.rt.finish(running).exits(137);
}

fn run_leaves_no_state(env: &Env) {
    let mut bundle = env.bundle();
    bundle.runs();
    env.rt.call(&["state", &bundle.id]).fails();
    assert!(!env.rt.root.join(&bundle.id).exists());
}

fn run_passes_output_through(env: &Env) {
    let output = env.bundle().sh("echo out; echo err >&2").run().ok();
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\n", "err\n")
    );
}

fn run_passes_stdin_through(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["cat"]);
    std::fs::write(env.path("in"), "through\n").unwrap();
    let mut command = bundle.command("run", &[]);
    command.stdin(std::fs::File::open(env.path("in")).unwrap());
    env.rt.finish(env.rt.spawn(command)).ok().prints("through");
}
