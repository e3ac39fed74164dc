//! Device nodes: the default ones, those of the spec, and what the device cgroup lets pass.

use crate::harness::{Env, Need, Test, test};
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(default_devices),
        test!(default_links),
        test!(default_devices_work),
        test!(devices_of_the_spec),
        test!(devices_in_a_user_namespace_are_bound),
        test!(device_in_a_user_namespace_that_the_host_lacks)
            .only_rcrun("runc binds nodes of the host and has no other"),
        test!(devices_in_a_user_namespace_run_nothing)
            .only_rcrun("runc binds them as the host has them mounted"),
        test!(dev_that_is_a_link).only_rcrun("runc makes them where it leads"),
        test!(device_in_a_new_directory),
        test!(slash_behind_a_device),
        test!(fifo_device),
        test!(unknown_device_type_is_refused),
        test!(relative_device_path_is_refused)
            .only_rcrun("runc makes the node below its root without a word"),
        test!(nothing_else_can_be_opened).needs(Need::V1("devices")),
        test!(rules_open_devices).needs(Need::V1("devices")),
        test!(rules_with_wildcards).needs(Need::V1("devices")),
        test!(later_rules_win).needs(Need::V1("devices")),
        test!(exec_is_bound_by_the_same_rules).needs(Need::V1("devices")),
        test!(bad_rules_are_refused),
    ]
}

const EPERM: i32 = 1;

fn default_devices(env: &Env) {
    let nodes = [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ];
    let questions: Vec<String> = nodes
        .iter()
        .map(|(name, ..)| format!("stat:/dev/{name}"))
        .collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    let answers = env.bundle().attempts(&questions);
    for ((name, major, minor), (_, text)) in nodes.iter().zip(answers) {
        assert_eq!(text, format!("c 666 0 0 {major} {minor}"), "{name}");
    }
}

fn default_links(env: &Env) {
    let answers = env.bundle().attempts(&[
        "readlink:/dev/fd",
        "readlink:/dev/stdin",
        "readlink:/dev/stdout",
        "readlink:/dev/stderr",
        "readlink:/dev/ptmx",
        "stat:/dev/core",
    ]);
    let targets: Vec<&str> = answers.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(
        targets[..5],
        [
            "/proc/self/fd",
            "/proc/self/fd/0",
            "/proc/self/fd/1",
            "/proc/self/fd/2",
            "pts/ptmx"
        ]
    );
}

fn default_devices_work(env: &Env) {
    let script = "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; \
                  (echo x > /dev/full) 2>/dev/null || echo full; cat /dev/null | wc -c";
    env.bundle().sh(script).run().ok().prints("3\n3\nfull\n0");
}

fn device(path: &str, kind: &str, major: i64, minor: i64) -> Value {
    json!({"path": path, "type": kind, "major": major, "minor": minor, "fileMode": 0o640, "uid": 10, "gid": 20})
}

fn devices_of_the_spec(env: &Env) {
    let mut bundle = env.bundle();
    bundle.push("/linux/devices", device("/dev/mine", "c", 1, 11));
    bundle.push("/linux/devices", device("/dev/disk", "b", 7, 200));
    bundle.push(
        "/linux/devices",
        json!({"path": "/dev/plain", "type": "u", "major": 1, "minor": 11}),
    );
    let answers = bundle.attempts(&[
        "stat:/dev/mine",
        "stat:/dev/disk",
        "stat:/dev/plain",
        "open-rw:/dev/plain",
    ]);
    assert_eq!(answers[0].1, "c 640 10 20 1 11");
    assert_eq!(answers[1].1, "b 640 10 20 7 200");
    assert!(
        answers[2].1.starts_with("c ") && answers[2].1.ends_with(" 0 0 1 11"),
        "{answers:?}"
    );
    assert_eq!(answers[3].0, EPERM, "a node is no permission");
}

fn devices_in_a_user_namespace_are_bound(env: &Env) {
    let mut bundle = env.bundle();
    bundle.userns().push(
        "/linux/devices",
        json!({"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}),
    );
    let answers = bundle.attempts(&["stat:/dev/null", "stat:/dev/kmsg", "write:/dev/null:x"]);
    assert_eq!(answers[0].1, "c 666 65534 65534 1 3", "the host's own node");
    assert!(answers[1].1.ends_with(" 1 11"), "{answers:?}");
    assert_eq!(answers[2].0, 0);
}

fn device_in_a_user_namespace_that_the_host_lacks(env: &Env) {
    let mut bundle = env.bundle();
    bundle.userns();
    bundle.push("/linux/devices", device("/dev/mine", "c", 1, 3));
    bundle.push("/linux/devices", device("/dev/nodes/mine", "c", 1, 3));
    // The host's /dev/kmsg is another one.
    bundle.push(
        "/linux/devices",
        json!({"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 3}),
    );
    let answers = bundle.attempts(&[
        "stat:/dev/mine",
        "stat:/dev/nodes/mine",
        "stat:/dev/kmsg",
        "write:/dev/kmsg:x",
    ]);
    assert_eq!(answers[0].1, "c 640 10 20 1 3");
    assert_eq!(answers[1].1, "c 640 10 20 1 3");
    assert_eq!(answers[2].1, "c 666 0 0 1 3");
    assert_eq!(answers[3].0, 0, "a node that can be used: {answers:?}");
    // An owner that the namespace does not have.
    let mut bundle = env.bundle();
    bundle.userns().push(
        "/linux/devices",
        json!({"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "uid": 70_000}),
    );
    bundle.refused().says("/dev/mine");
}

fn devices_in_a_user_namespace_run_nothing(env: &Env) {
    let mut bundle = env.bundle();
    bundle.userns();
    bundle.push("/linux/devices", device("/dev/mine", "c", 1, 3));
    let facts = bundle.facts();
    let mounts = facts["mounts"].as_array().unwrap();
    for name in ["/dev/null", "/dev/zero", "/dev/tty", "/dev/mine"] {
        let mount = mounts.iter().find(|m| m["target"] == name).expect(name);
        let options = mount["options"].to_string();
        assert!(
            options.contains("nosuid") && options.contains("noexec"),
            "{mount}"
        );
    }
}

fn slash_behind_a_device(env: &Env) {
    let mut bundle = env.bundle();
    bundle.push("/linux/devices", device("/mnt/", "c", 1, 3));
    assert_eq!(bundle.attempts(&["stat:/mnt"])[0].1, "c 640 10 20 1 3");
}

/// Devices would turn up where the link leads.
fn dev_that_is_a_link(env: &Env) {
    let mut bundle = env.bundle();
    let elsewhere = bundle.directory("elsewhere");
    bundle.link("dev", "/elsewhere");
    let count = || std::fs::read_dir(&elsewhere).unwrap().count();
    let all = bundle.spec["mounts"].clone();
    let only_proc = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
    bundle.set("/mounts", only_proc);
    for _ in 0..2 {
        bundle
            .refused()
            .says("cannot make devices in /dev: it is a symbolic link in the root file system");
        assert_eq!(count(), 0);
        bundle.userns();
    }
    // What is mounted there takes the devices, and leaves the directory alone.
    let mut bundle = env.bundle();
    let elsewhere = bundle.directory("elsewhere");
    bundle.link("dev", "/elsewhere");
    bundle.set("/mounts", all);
    let answers = bundle.attempts(&["stat:/dev/null", "stat:/elsewhere/null"]);
    assert_eq!(answers[0].1, "c 666 0 0 1 3");
    assert_eq!(answers[1].1, "c 666 0 0 1 3");
    assert_eq!(std::fs::read_dir(elsewhere).unwrap().count(), 0);
}

fn device_in_a_new_directory(env: &Env) {
    let mut bundle = env.bundle();
    bundle.push("/linux/devices", device("/opt/nodes/mine", "c", 1, 3));
    assert_eq!(
        bundle.attempts(&["stat:/opt/nodes/mine"])[0].1,
        "c 640 10 20 1 3"
    );
}

fn fifo_device(env: &Env) {
    let mut bundle = env.bundle();
    bundle.push(
        "/linux/devices",
        json!({"path": "/dev/pipe", "type": "p", "fileMode": 0o622}),
    );
    assert!(
        bundle.attempts(&["stat:/dev/pipe"])[0]
            .1
            .starts_with("p 622 ")
    );
}

fn unknown_device_type_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle.push("/linux/devices", device("/dev/x", "z", 1, 3));
    bundle.refused();
}

fn relative_device_path_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle.push("/linux/devices", device("dev/x", "c", 1, 3));
    bundle.refused().says("dev/x");
}

fn nothing_else_can_be_opened(env: &Env) {
    let mut bundle = env.bundle();
    bundle.caps(&["CAP_MKNOD"]);
    let answers = bundle.attempts(&[
        "open-node:/tmp/mem:c:1:1",
        "open-node:/tmp/kmsg:c:1:11",
        "open-node:/tmp/disk:b:254:0",
        "open-node:/tmp/kvm:c:10:232",
        "open-node:/tmp/null:c:1:3",
    ]);
    let errors: Vec<i32> = answers.iter().map(|(errno, _)| *errno).collect();
    assert_eq!(errors, [EPERM, EPERM, EPERM, EPERM, 0], "{answers:?}");
}

fn rule(allow: bool, kind: &str, major: i64, minor: i64, access: &str) -> Value {
    let mut rule = json!({"allow": allow, "type": kind, "access": access});
    if major >= 0 {
        rule["major"] = json!(major);
    }
    if minor >= 0 {
        rule["minor"] = json!(minor);
    }
    rule
}

fn rules_open_devices(env: &Env) {
    let mut bundle = env.bundle();
    bundle.caps(&["CAP_MKNOD", "CAP_SYSLOG"]);
    bundle.push(
        "/linux/devices",
        json!({"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}),
    );
    bundle.push("/linux/resources/devices", rule(true, "c", 1, 11, "r"));
    let answers = bundle.attempts(&["read:/dev/kmsg", "write:/dev/kmsg:x"]);
    assert_ne!(answers[0].0, EPERM, "{answers:?}");
    assert_eq!(answers[1].0, EPERM, "reading is not writing");
}

fn rules_with_wildcards(env: &Env) {
    let mut bundle = env.bundle();
    bundle.caps(&["CAP_MKNOD"]);
    bundle.push("/linux/resources/devices", rule(true, "c", 10, -1, "rwm"));
    bundle.push("/linux/resources/devices", rule(true, "b", -1, -1, "m"));
    let answers = bundle.attempts(&[
        "mknod:/tmp/a:c:10:200",
        "mknod:/tmp/b:b:254:0",
        "read:/tmp/b",
        "open-node:/tmp/c:c:1:1",
    ]);
    assert_eq!(
        [answers[0].0, answers[1].0, answers[2].0, answers[3].0],
        [0, 0, EPERM, EPERM],
        "{answers:?}"
    );
}

fn later_rules_win(env: &Env) {
    let mut bundle = env.bundle();
    bundle.caps(&["CAP_MKNOD"]);
    bundle.push("/linux/resources/devices", rule(true, "a", -1, -1, "rwm"));
    bundle.push("/linux/resources/devices", rule(false, "c", 1, 11, "rwm"));
    let answers = bundle.attempts(&[
        "open-node:/tmp/kmsg:c:1:11",
        "open-node:/tmp/zero:c:1:5",
        "mknod:/tmp/k:c:10:232",
    ]);
    assert_eq!(
        [answers[0].0, answers[1].0, answers[2].0],
        [EPERM, 0, 0],
        "{answers:?}"
    );
}

fn exec_is_bound_by_the_same_rules(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.caps(&["CAP_MKNOD"]).sleeper();
    let answers = container.exec_attempts(
        &["--cap", "CAP_MKNOD"],
        &["open-node:/tmp/mem:c:1:1", "open-node:/tmp/n:c:1:3"],
    );
    assert_eq!([answers[0].0, answers[1].0], [EPERM, 0]);
}

fn bad_rules_are_refused(env: &Env) {
    for bad in [rule(true, "q", 1, 1, "rwm"), rule(true, "c", 1, 1, "xyz")] {
        let mut bundle = env.bundle();
        bundle.push("/linux/resources/devices", bad);
        bundle.refused();
    }
}
