//! A container half made leaves nothing, whichever phase failed. The leak check after each test is the judge.

use crate::harness::{Bundle, Env, Test, cgroup, test};
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(after_validation),
        test!(after_namespace_by_path),
        test!(after_cgroup_limits),
        test!(after_id_maps),
        test!(after_prestart_hook),
        test!(after_create_runtime_hook),
        test!(after_create_container_hook),
        test!(after_start_container_hook),
        test!(after_mount),
        test!(after_mount_in_the_middle),
        test!(after_device),
        test!(after_masking),
        test!(after_sysctl),
        test!(after_console),
        test!(after_identity),
        test!(after_limits),
        test!(after_seccomp),
        test!(after_program_lookup),
        test!(after_working_directory),
        test!(after_pid_file),
        test!(same_id_works_after_each_failure),
        test!(existing_cgroup_is_kept),
        test!(failed_run_leaves_nothing),
        test!(failed_detached_run_leaves_nothing),
    ]
}

/// Edits a good bundle into one that fails; `create` must refuse, and leave no cgroup.
#[track_caller]
fn fails(env: &Env, edit: impl FnOnce(&mut Bundle<'_>)) {
    let mut bundle = env.bundle();
    edit(&mut bundle);
    bundle.refused();
    assert_eq!(cgroup::children(&env.tag), Vec::<std::path::PathBuf>::new());
}

fn hook(kind: &'static str) -> impl FnOnce(&mut Bundle<'_>) {
    move |bundle| {
        bundle.push(&format!("/hooks/{kind}"), json!({"path": "/bin/false"}));
    }
}

fn set(pointer: &'static str, value: Value) -> impl FnOnce(&mut Bundle<'_>) {
    move |bundle| {
        bundle.set(pointer, value);
    }
}

fn after_validation(env: &Env) {
    fails(env, set("/process/cwd", json!("relative")));
}

fn after_namespace_by_path(env: &Env) {
    fails(env, |bundle| {
        bundle.join("network", "/no/such");
    });
    fails(env, |bundle| {
        bundle.join("ipc", "/etc/passwd");
    });
}

fn after_cgroup_limits(env: &Env) {
    fails(env, set("/linux/resources/cpu", json!({"cpus": "999"})));
}

fn after_id_maps(env: &Env) {
    fails(env, |bundle| {
        let twice = json!([{"containerID": 0, "hostID": 1, "size": 9}, {"containerID": 0, "hostID": 100, "size": 9}]);
        bundle.userns().set("/linux/uidMappings", twice);
    });
}

fn after_prestart_hook(env: &Env) {
    fails(env, hook("prestart"));
}

fn after_create_runtime_hook(env: &Env) {
    fails(env, hook("createRuntime"));
}

fn after_create_container_hook(env: &Env) {
    fails(env, hook("createContainer"));
}

fn after_start_container_hook(env: &Env) {
    let mut bundle = env.bundle();
    hook("startContainer")(&mut bundle);
    bundle.run().fails();
    assert_eq!(cgroup::children(&env.tag), Vec::<std::path::PathBuf>::new());
}

fn after_mount(env: &Env) {
    fails(env, |bundle| {
        bundle.mount(json!({"destination": "/m", "type": "dreamfs", "source": "x"}));
    });
}

fn after_mount_in_the_middle(env: &Env) {
    let source = env.directory("source");
    fails(env, |bundle| {
        bundle.bind(&source, "/a", &["ro"]);
        bundle.mount(
            json!({"destination": "/b", "type": "tmpfs", "source": "t", "options": ["nonsense=1"]}),
        );
        bundle.bind(&source, "/c", &[]);
    });
}

fn after_device(env: &Env) {
    fails(env, |bundle| {
        bundle.directory("blocked/node");
        bundle.push(
            "/linux/devices",
            json!({"path": "/bin/busybox/node", "type": "c", "major": 1, "minor": 3}),
        );
    });
}

fn after_masking(env: &Env) {
    fails(env, |bundle| {
        bundle.file("plain", "");
        bundle.bind(&env.directory("source"), "/plain/below", &[]);
    });
}

fn after_sysctl(env: &Env) {
    fails(env, set("/linux/sysctl", json!({"net.no.such": "1"})));
}

fn after_console(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/terminal", json!(true));
    let command = bundle.command("create", &["--console-socket", "/no/such/socket"]);
    env.rt.finish(env.rt.spawn(command)).fails();
    assert!(!env.rt.root.join(&bundle.id).exists());
}

fn after_identity(env: &Env) {
    fails(env, |bundle| {
        bundle
            .userns()
            .set("/process/user", json!({"uid": 70_000, "gid": 0}));
    });
}

fn after_limits(env: &Env) {
    fails(
        env,
        set(
            "/process/rlimits",
            json!([{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 5}]),
        ),
    );
}

fn after_seccomp(env: &Env) {
    fails(env, |bundle| {
        bundle.set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such/listener",
                "syscalls": [{"names": ["umask"], "action": "SCMP_ACT_NOTIFY"}]}),
        );
    });
}

fn after_program_lookup(env: &Env) {
    fails(env, |bundle| {
        bundle.args(&["/no/such/program"]);
    });
}

fn after_working_directory(env: &Env) {
    fails(env, |bundle| {
        bundle.file("plain", "");
        bundle.set("/process/cwd", json!("/plain/below"));
    });
}

fn after_pid_file(env: &Env) {
    let bundle = env.bundle();
    let command = bundle.command("create", &["--pid-file", "/no/such/dir/pid"]);
    env.rt
        .finish(env.rt.spawn(command))
        .fails()
        .says("/no/such/dir");
    assert!(!env.rt.root.join(&bundle.id).exists());
}

fn same_id_works_after_each_failure(env: &Env) {
    let mut bundle = env.bundle();
    let good = bundle.spec.clone();
    for (pointer, value) in [
        ("/process/args", json!(["/no/such"])),
        (
            "/hooks",
            json!({"createContainer": [{"path": "/bin/false"}]}),
        ),
        ("/linux/sysctl", json!({"net.no.such": "1"})),
        ("/root/path", json!("absent")),
    ] {
        bundle.spec = good.clone();
        bundle.set(pointer, value).refused();
        bundle.spec = good.clone();
        bundle.runs();
    }
}

/// What was there before is not the runtime's to remove.
fn existing_cgroup_is_kept(env: &Env) {
    if cgroup::v1("pids").is_none() {
        env.skip("no cgroup v1 here");
    }
    let mut bundle = env.bundle();
    let mut other = env.bundle();
    let container = other.sleeper();
    bundle.set(
        "/linux/cgroupsPath",
        other.spec["linux"]["cgroupsPath"].clone(),
    );
    bundle.refused();
    assert_eq!(container.status(), "running");
    assert!(cgroup::path("pids", &env.tag, &other.id).exists());
}

fn failed_run_leaves_nothing(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["/no/such/program"]).run().fails();
    assert!(!env.rt.root.join(&bundle.id).exists());
}

fn failed_detached_run_leaves_nothing(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .args(&["/no/such/program"])
        .run_with(&["--detach"])
        .fails();
    assert!(!env.rt.root.join(&bundle.id).exists());
}
