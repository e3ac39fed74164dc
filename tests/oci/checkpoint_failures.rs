//! checkpoint and restore that cannot be, or fail halfway: what is said, and that nothing is left.

use super::checkpoint::{
    checkpoint, count, counter, images, restore, restore_command, try_restore, wait_beyond,
};
use crate::harness::env::read;
use crate::harness::{Bundle, Env, Output, Test, cgroup, criu, process, test};
use serde_json::json;
use std::fs;
use std::path::Path;

pub(crate) fn tests() -> Vec<Test> {
    let all = vec![
        test!(checkpoint_needs_a_running_container),
        test!(failed_checkpoint_leaves_the_container_alone),
        test!(failed_restore_leaves_nothing),
        test!(failed_hook_leaves_nothing),
        test!(poststop_after_a_failed_restore),
        test!(taken_id_is_refused),
        test!(missing_criu).only_rcrun("runc 1.5 takes criu from the PATH only"),
        test!(no_criu_at_all).only_rcrun("runc 1.5 takes criu from the PATH only"),
        test!(old_criu).only_rcrun("runc 1.5 takes criu from the PATH only"),
        test!(killed_restore_can_be_deleted)
            .only_rcrun("runc leaves a mount in the state directory"),
    ];
    all.into_iter().map(|test| test.timeout(120)).collect()
}

/// `restore` that must be refused, with its words.
#[track_caller]
fn refused(bundle: &Bundle<'_>, flags: &[&str]) -> Output {
    try_restore(bundle, flags).fails()
}

fn checkpoint_needs_a_running_container(env: &Env) {
    checkpoint(env, &[], "nobody")
        .fails()
        .says("does not exist");
    let mut bundle = env.bundle();
    let container = bundle.args(&["true"]).create();
    checkpoint(env, &[], &container.id)
        .fails()
        .says("cannot be checkpointed in created state");
    container.start();
    container.wait_stopped();
    checkpoint(env, &[], &container.id)
        .fails()
        .says("cannot be checkpointed in stopped state");
}

fn failed_checkpoint_leaves_the_container_alone(env: &Env) {
    criu::require(env);
    // Its output goes to a file of the host that has no name any more: criu cannot save that.
    let container = env
        .bundle()
        .sh("while :; do echo line; sleep 0.05; done")
        .start();
    container.wait_output("line");
    let output = checkpoint(env, &[], &container.id)
        .fails()
        .says("criu failed")
        .says("dump.log");
    assert!(
        output.stderr.contains("Error"),
        "no reason from criu's log: {output}"
    );
    assert_eq!(container.status(), "running");
    let length = container.stdout().len();
    process::until("it goes on", 10, || {
        (container.stdout().len() > length).then_some(())
    });
}

#[track_caller]
fn nothing_left(bundle: &Bundle<'_>) {
    let env = bundle.env;
    assert!(!env.rt.root.join(&bundle.id).exists(), "state is left");
    assert!(
        cgroup::children(&env.tag).is_empty(),
        "{:?}",
        cgroup::children(&env.tag)
    );
}

fn failed_restore_leaves_nothing(env: &Env) {
    let (bundle, container) = counter(env);
    refused(&bundle, &["--pid-file", env.path("pid").to_str().unwrap()]);
    checkpoint(env, &[], &container.id).ok();
    nothing_left(&bundle);
    let core = images(env).join("core-1.img");
    let good = fs::read(&core).unwrap();
    fs::write(&core, &good[..good.len() / 2]).unwrap();
    refused(&bundle, &[])
        .says("criu failed")
        .says("restore.log");
    nothing_left(&bundle);
    fs::rename(
        images(env).join("descriptors.json"),
        env.path("descriptors"),
    )
    .unwrap();
    refused(&bundle, &[]).says("descriptors.json");
    nothing_left(&bundle);
    fs::rename(
        env.path("descriptors"),
        images(env).join("descriptors.json"),
    )
    .unwrap();
    fs::write(&core, &good).unwrap();
    let stood = count(&bundle).unwrap();
    let _container = restore(&bundle, &[]);
    wait_beyond(&bundle, stood);
}

fn failed_hook_leaves_nothing(env: &Env) {
    let (mut bundle, container) = counter(env);
    checkpoint(env, &[], &container.id).ok();
    let path = env.script("fails", "echo because >&2; exit 3");
    bundle.hook("createRuntime", json!({"path": path}));
    refused(&bundle, &[]).says("hook").says("because");
    nothing_left(&bundle);
}

/// Whatever a restore fails of after there were processes: each of them, also behind one that fails.
fn poststop_after_a_failed_restore(env: &Env) {
    let (mut bundle, container) = counter(env);
    checkpoint(env, &[], &container.id).ok();
    let log = env.path("log");
    let says = env.script("says", &format!("echo stopped >> {}", log.display()));
    bundle.hook("poststop", json!({"path": "/bin/false"}));
    bundle.hook("poststop", json!({"path": says}));
    refused(&bundle, &["--pid-file", "/no/such/directory/pid"]).says("pid file");
    nothing_left(&bundle);
    assert_eq!(read(&log), "stopped\n");
    let path = env.script("fails", "exit 3");
    bundle.hook("createRuntime", json!({"path": path}));
    refused(&bundle, &[]).says("createRuntime");
    nothing_left(&bundle);
    assert_eq!(read(&log), "stopped\nstopped\n");
}

fn taken_id_is_refused(env: &Env) {
    let (bundle, container) = counter(env);
    checkpoint(env, &["--leave-running"], &container.id).ok();
    refused(&bundle, &[]).says("already exists");
    wait_beyond(&bundle, count(&bundle).unwrap());
}

#[track_caller]
fn with_criu(env: &Env, program: &Path, id: &str) -> Output {
    let images = images(env);
    let program = program.to_str().unwrap();
    env.rt.call(&[
        "--criu",
        program,
        "checkpoint",
        "--image-path",
        images.to_str().unwrap(),
        id,
    ])
}

fn missing_criu(env: &Env) {
    let container = env.bundle().sleeper();
    with_criu(env, &env.path("no-criu"), &container.id)
        .fails()
        .says("no-criu")
        .says("install");
    assert_eq!(container.status(), "running");
}

fn no_criu_at_all(env: &Env) {
    let container = env.bundle().sleeper();
    let fake = env.script("fake", "exit 1");
    with_criu(env, &fake, &container.id)
        .fails()
        .says("criu failed: it ended without an answer");
    assert_eq!(container.status(), "running");
}

fn old_criu(env: &Env) {
    let container = env.bundle().sleeper();
    // Called as `criu swrk FD`; answers the first request with version 2.12.
    let answer = r"\010\012\020\001\122\004\010\002\020\014";
    let fake = env.script("fake", &format!("eval \"printf '{answer}' >&$2\"; sleep 1"));
    with_criu(env, &fake, &container.id)
        .fails()
        .says("criu 2.12 is too old")
        .says("needs 3.0 or later");
    assert_eq!(container.status(), "running");
}

fn killed_restore_can_be_deleted(env: &Env) {
    let (mut bundle, container) = counter(env);
    checkpoint(env, &[], &container.id).ok();
    let path = env.script(
        "slow",
        &format!("touch {}; sleep 2", env.path("hooked").display()),
    );
    bundle.hook("createRuntime", json!({"path": path}));
    let mut child = criu::quiet(restore_command(&bundle, &["--detach"]))
        .spawn()
        .unwrap();
    process::until("the hook runs", 20, || {
        env.path("hooked").exists().then_some(())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    env.rt.call(&["delete", "--force", &bundle.id]).ok();
    nothing_left(&bundle);
}
