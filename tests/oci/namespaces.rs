//! New namespaces, joined ones, and mixes of both.

use crate::harness::{Env, Test, process, test};
use serde_json::json;
use std::fs;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(each_listed_namespace_is_new),
        test!(unlisted_namespaces_are_the_callers),
        test!(each_can_be_joined_by_path),
        test!(all_joined_at_once),
        test!(new_pid_namespace_inside_joined_user_namespace),
        test!(joined_user_namespace_needs_no_maps),
        test!(joining_from_a_bind_mounted_file),
        test!(first_process_is_pid_1),
        test!(without_a_pid_namespace_init_is_not_pid_1),
        test!(time_offsets),
        test!(time_namespace_can_be_joined),
        test!(hostname_and_domainname),
        test!(hostname_without_uts_namespace_is_refused),
        test!(network_namespace_has_loopback_up),
        test!(ipc_is_private),
        test!(namespace_listed_twice_is_refused),
        test!(unknown_namespace_is_refused),
        test!(missing_path_is_refused),
        test!(path_of_the_wrong_kind_is_refused),
        test!(cgroup_namespace_hides_the_path),
        test!(container_names_are_not_seen_by_the_host),
    ]
}

/// The spec's names and the kernel's.
const KINDS: [(&str, &str); 6] = [
    ("pid", "pid"),
    ("network", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("cgroup", "cgroup"),
];

fn own(kind: &str) -> String {
    process::namespace(1, kind)
}

fn each_listed_namespace_is_new(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .userns()
        .push("/linux/namespaces", json!({"type": "time"}));
    let facts = bundle.facts();
    for (_, kind) in KINDS.iter().chain(&[("user", "user"), ("time", "time")]) {
        let inside = facts["namespaces"][kind].as_str().unwrap();
        assert!(inside.starts_with(kind), "{inside}");
        assert_ne!(inside, own(kind), "{kind}");
    }
}

fn unlisted_namespaces_are_the_callers(env: &Env) {
    let mut bundle = env.bundle();
    for kind in ["network", "ipc", "uts", "cgroup"] {
        bundle.without_namespace(kind);
    }
    bundle.unset("", "hostname");
    let facts = bundle.facts();
    for kind in ["net", "ipc", "uts", "cgroup", "user"] {
        assert_eq!(facts["namespaces"][kind], json!(own(kind)), "{kind}");
    }
    assert_ne!(facts["namespaces"]["mnt"], json!(own("mnt")));
}

fn each_can_be_joined_by_path(env: &Env) {
    let mut first = env.bundle();
    let holder = first.sleeper();
    let pid = holder.pid();
    for (name, kind) in KINDS {
        if name == "mount" {
            continue;
        }
        let mut bundle = env.bundle();
        bundle.join(name, format!("/proc/{pid}/ns/{kind}"));
        if name == "uts" {
            bundle.unset("", "hostname");
        }
        let facts = bundle.facts();
        for (_, other) in KINDS {
            let inside = facts["namespaces"][other].as_str().unwrap();
            let held = process::namespace(pid, other);
            assert_eq!(
                inside == held,
                other == kind,
                "joined {kind}, looked at {other}"
            );
        }
    }
}

fn all_joined_at_once(env: &Env) {
    let mut first = env.bundle();
    let holder = first.sleeper();
    let pid = holder.pid();
    let mut bundle = env.bundle();
    for (name, kind) in KINDS.iter().filter(|(name, _)| *name != "mount") {
        bundle.join(name, format!("/proc/{pid}/ns/{kind}"));
    }
    bundle.unset("", "hostname");
    let facts = bundle.facts();
    for kind in ["pid", "net", "ipc", "uts", "cgroup"] {
        assert_eq!(
            facts["namespaces"][kind],
            json!(process::namespace(pid, kind))
        );
    }
    assert_eq!(facts["hostname"], "box", "the holder's name");
}

fn new_pid_namespace_inside_joined_user_namespace(env: &Env) {
    let mut first = env.bundle();
    first.userns();
    let holder = first.sleeper();
    let pid = holder.pid();
    let mut bundle = env.bundle();
    bundle.join("user", format!("/proc/{pid}/ns/user"));
    // The joined namespace has this map; runc wants to be told for the mounts' sake.
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map);
    let facts = bundle.facts();
    assert_eq!(
        facts["namespaces"]["user"],
        json!(process::namespace(pid, "user"))
    );
    assert_ne!(
        facts["namespaces"]["pid"],
        json!(process::namespace(pid, "pid"))
    );
    assert_eq!(facts["pid"], 1);
    assert!(
        facts["uid_map"]
            .as_str()
            .unwrap()
            .split_whitespace()
            .eq(["0", "100000", "65536"]),
        "{facts}"
    );
}

fn joined_user_namespace_needs_no_maps(env: &Env) {
    let mut first = env.bundle();
    first.userns();
    let holder = first.sleeper();
    let pid = holder.pid();
    let mut bundle = env.bundle();
    for kind in ["user", "network"] {
        let file = if kind == "network" { "net" } else { kind };
        bundle.join(kind, format!("/proc/{pid}/ns/{file}"));
    }
    let facts = bundle.facts();
    assert_eq!(
        facts["namespaces"]["user"],
        json!(process::namespace(pid, "user"))
    );
    assert_eq!(
        facts["namespaces"]["net"],
        json!(process::namespace(pid, "net"))
    );
    assert_eq!(facts["status"]["Uid"], "0 0 0 0");
}

fn joining_from_a_bind_mounted_file(env: &Env) {
    let mut first = env.bundle();
    let holder = first.sleeper();
    let expected = process::namespace(holder.pid(), "net");
    let file = env.path("net");
    fs::write(&file, "").unwrap();
    let bind = |source: &str| {
        let status = std::process::Command::new("mount")
            .args(["--bind", source])
            .arg(&file)
            .status();
        assert!(status.unwrap().success());
    };
    bind(&format!("/proc/{}/ns/net", holder.pid()));
    holder.stop();
    holder.delete();
    let mut bundle = env.bundle();
    let facts = bundle.join("network", &file).facts();
    assert_eq!(
        facts["namespaces"]["net"],
        json!(expected),
        "it outlives its first container"
    );
    assert!(
        std::process::Command::new("umount")
            .arg(&file)
            .status()
            .unwrap()
            .success()
    );
}

fn first_process_is_pid_1(env: &Env) {
    let facts = env.bundle().facts();
    assert_eq!(facts["pid"], 1);
    assert_eq!(facts["session"], "1", "its own session");
    env.bundle().args(&["ls", "/proc/1/exe"]).run().ok();
}

fn without_a_pid_namespace_init_is_not_pid_1(env: &Env) {
    let mut bundle = env.bundle();
    let facts = bundle.without_namespace("pid").facts();
    assert_ne!(facts["pid"], 1);
    assert_eq!(facts["namespaces"]["pid"], json!(own("pid")));
}

fn time_offsets(env: &Env) {
    let mut bundle = env.bundle();
    bundle.push("/linux/namespaces", json!({"type": "time"}));
    bundle.set(
        "/linux/timeOffsets",
        json!({"monotonic": {"secs": 7881, "nanosecs": 2_718_281}, "boottime": {"secs": 1337, "nanosecs": 3_141_519}}),
    );
    let container = {
        bundle.args(&["sleep", "1000"]);
        bundle.start()
    };
    for facts in [container.exec_facts(&[]), bundle_twin(env, &bundle).facts()] {
        let text = facts["time_offsets"].as_str().unwrap();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|l| l.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines,
            [
                ["monotonic", "7881", "2718281"],
                ["boottime", "1337", "3141519"]
            ]
        );
    }
}

/// Another bundle with the same namespaces.
fn bundle_twin<'e>(
    env: &'e Env,
    bundle: &crate::harness::Bundle<'_>,
) -> crate::harness::Bundle<'e> {
    let mut twin = env.bundle();
    twin.set(
        "/linux/namespaces",
        bundle.spec["linux"]["namespaces"].clone(),
    );
    twin.set(
        "/linux/timeOffsets",
        bundle.spec["linux"]["timeOffsets"].clone(),
    );
    twin
}

fn time_namespace_can_be_joined(env: &Env) {
    let mut first = env.bundle();
    first.push("/linux/namespaces", json!({"type": "time"}));
    first.set(
        "/linux/timeOffsets",
        json!({"boottime": {"secs": 100, "nanosecs": 0}}),
    );
    let holder = first.sleeper();
    let mut bundle = env.bundle();
    let facts = bundle
        .join("time", format!("/proc/{}/ns/time", holder.pid()))
        .facts();
    assert_eq!(
        facts["namespaces"]["time"],
        json!(process::namespace(holder.pid(), "time"))
    );
}

fn hostname_and_domainname(env: &Env) {
    let host = rustix::system::uname().nodename().to_owned();
    let mut bundle = env.bundle();
    bundle
        .set("/hostname", json!("inner"))
        .set("/domainname", json!("example.org"));
    let facts = bundle.facts();
    assert_eq!(
        (&facts["hostname"], &facts["domainname"]),
        (&json!("inner"), &json!("example.org"))
    );
    assert_eq!(rustix::system::uname().nodename(), host.as_c_str());
}

fn hostname_without_uts_namespace_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle.without_namespace("uts").refused().says("hostname");
}

fn network_namespace_has_loopback_up(env: &Env) {
    let output = env.bundle().args(&["ip", "addr", "show", "lo"]).run().ok();
    assert!(output.stdout.contains("LOOPBACK,UP"), "{output}");
    assert!(output.stdout.contains("127.0.0.1/8"), "{output}");
}

fn ipc_is_private(env: &Env) {
    let mut bundle = env.bundle();
    let holder = bundle.sleeper();
    holder
        .exec(&["sh", "-c", "echo x > /dev/shm/file; ls /dev/shm"])
        .ok()
        .prints("file");
    let answers = env
        .bundle()
        .attempts(&["list:/dev/shm", "read:/proc/sysvipc/shm"]);
    assert_eq!(answers[0], (0, String::new()));
    assert_eq!(
        answers[1].1.lines().count(),
        1,
        "only the heading: {answers:?}"
    );
}

fn namespace_listed_twice_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle.push("/linux/namespaces", json!({"type": "ipc"}));
    bundle.refused().says("ipc");
}

fn unknown_namespace_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle.push("/linux/namespaces", json!({"type": "dreams"}));
    bundle.refused().says("dreams");
}

fn missing_path_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .join("network", "/no/such/namespace")
        .refused()
        .says("/no/such/namespace");
}

fn path_of_the_wrong_kind_is_refused(env: &Env) {
    env.bundle().join("network", "/proc/self/ns/ipc").refused();
    env.bundle().join("network", "/etc/passwd").refused();
}

fn cgroup_namespace_hides_the_path(env: &Env) {
    let facts = env.bundle().facts();
    let cgroup = facts["cgroup"].as_str().unwrap();
    assert!(cgroup.lines().all(|line| line.ends_with(":/")), "{cgroup}");
    let mut open = env.bundle();
    let facts = open.without_namespace("cgroup").facts();
    assert!(
        facts["cgroup"].as_str().unwrap().contains(&open.id),
        "{facts}"
    );
}

fn container_names_are_not_seen_by_the_host(env: &Env) {
    let mut bundle = env.bundle();
    bundle.caps(&["CAP_SYS_ADMIN"]);
    let before = rustix::system::uname().nodename().to_owned();
    assert_eq!(bundle.attempts(&["hostname:changed"])[0].0, 0);
    assert_eq!(rustix::system::uname().nodename(), before.as_c_str());
}
