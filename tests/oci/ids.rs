//! Who the process is: user and group, additional groups, umask, and the maps of a user namespace.

use crate::harness::env::read;
use crate::harness::{Bundle, Env, Test, process, test};
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(user_and_group),
        test!(no_additional_groups_by_default),
        test!(additional_groups),
        test!(groups_of_the_caller_do_not_leak),
        test!(umask),
        test!(default_umask_is_022),
        test!(map_of_one_range),
        test!(root_in_a_user_namespace_is_not_root),
        test!(many_ranges),
        test!(as_many_ranges_as_the_kernel_takes),
        test!(maps_alone_change_nothing),
        test!(user_namespace_without_maps_is_refused),
        test!(unmapped_user_is_refused),
        test!(overlapping_maps_are_refused),
        test!(files_of_the_root_file_system_keep_their_owner),
        test!(standard_streams_belong_to_the_user),
        test!(standard_streams_get_the_group_as_well).only_rcrun("runc changes the uid alone"),
        test!(null_device_of_the_host_keeps_its_owner),
        test!(exec_has_the_same_maps),
        test!(setgroups_works_in_a_privileged_map),
        test!(home_is_taken_from_passwd),
        test!(user_namespace_with_all_other_namespaces),
    ]
}

fn groups(facts: &Value) -> Vec<&str> {
    facts["status"]["Groups"]
        .as_str()
        .unwrap()
        .split_whitespace()
        .collect()
}

fn user_and_group(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 2000}));
    let facts = bundle.facts();
    assert_eq!(facts["status"]["Uid"], "1000 1000 1000 1000");
    assert_eq!(facts["status"]["Gid"], "2000 2000 2000 2000");
}

fn no_additional_groups_by_default(env: &Env) {
    assert_eq!(groups(&env.bundle().facts()), Vec::<&str>::new());
}

fn additional_groups(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set(
        "/process/user",
        json!({"uid": 1000, "gid": 1000, "additionalGids": [10, 20, 65_000]}),
    );
    assert_eq!(groups(&bundle.facts()), ["10", "20", "65000"]);
}

fn groups_of_the_caller_do_not_leak(env: &Env) {
    let bundle = {
        let mut bundle = env.bundle();
        bundle.args(&["/bin/probe", "facts"]);
        bundle.write();
        bundle
    };
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--groups", "4242,4343"])
        .arg(env.rt.path())
        .arg("--root")
        .arg(&env.rt.root);
    command.args(["run", "--bundle", bundle.path.to_str().unwrap(), &bundle.id]);
    let facts = env.rt.finish(env.rt.spawn(command)).ok().json();
    assert_eq!(groups(&facts), Vec::<&str>::new());
}

fn umask(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/user/umask", json!(0o77));
    assert_eq!(bundle.facts()["status"]["Umask"], "0077");
    let container = bundle.args(&["sleep", "1000"]).start();
    assert_eq!(
        container.exec_facts(&[])["status"]["Umask"],
        "0077",
        "exec inherits it"
    );
}

fn default_umask_is_022(env: &Env) {
    assert_eq!(env.bundle().facts()["status"]["Umask"], "0022");
}

fn map(facts: &Value, which: &str) -> Vec<Vec<u64>> {
    let text = facts[which].as_str().unwrap();
    text.lines()
        .map(|l| l.split_whitespace().map(|n| n.parse().unwrap()).collect())
        .collect()
}

fn map_of_one_range(env: &Env) {
    let mut bundle = env.bundle();
    bundle.userns();
    bundle.set(
        "/linux/gidMappings",
        json!([{"containerID": 0, "hostID": 200_000, "size": 1000}]),
    );
    let facts = bundle.facts();
    assert_eq!(map(&facts, "uid_map"), [[0, 100_000, 65_536]]);
    assert_eq!(map(&facts, "gid_map"), [[0, 200_000, 1000]]);
}

fn root_in_a_user_namespace_is_not_root(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.userns().sleeper();
    let pid = container.pid();
    let ids = |key: &str| {
        process::status(pid, key)
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids("Uid"), ["100000"; 4]);
    assert_eq!(ids("Gid"), ["100000"; 4]);
    assert_eq!(container.exec(&["id", "-u"]).ok().text(), "0");
}

/// Lines short enough that 340 of them, the kernel's most, fit into the one page it takes.
fn ranges(count: u64) -> Value {
    (0..count)
        .map(|i| json!({"containerID": i, "hostID": 1000 + i, "size": 1}))
        .collect()
}

fn lines(count: u64) -> Vec<Vec<u64>> {
    (0..count).map(|i| vec![i, 1000 + i, 1]).collect()
}

fn many_ranges(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .userns()
        .set("/linux/uidMappings", ranges(4))
        .set("/linux/gidMappings", ranges(6));
    let facts = bundle.facts();
    assert_eq!(map(&facts, "uid_map"), lines(4));
    assert_eq!(map(&facts, "gid_map"), lines(6));
}

/// What the kernel takes must arrive whole, whatever carries it there; what it does not take is refused.
fn as_many_ranges_as_the_kernel_takes(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .userns()
        .set("/linux/uidMappings", ranges(340))
        .set("/linux/gidMappings", ranges(340));
    let facts = bundle.facts();
    assert_eq!(map(&facts, "uid_map"), lines(340));
    assert_eq!(map(&facts, "gid_map"), lines(340));
    let mut bundle = env.bundle();
    bundle
        .userns()
        .set("/linux/uidMappings", ranges(341))
        .set("/linux/gidMappings", ranges(341));
    bundle.refused();
}

/// Engines pass maps along with a joined namespace, so alone they are no error; nor do they do anything.
fn maps_alone_change_nothing(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set("/linux/uidMappings", ranges(1))
        .set("/linux/gidMappings", ranges(1));
    let facts = bundle.facts();
    assert_eq!(
        facts["namespaces"]["user"],
        json!(process::namespace(1, "user"))
    );
}

fn user_namespace_without_maps_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    bundle.refused();
}

fn unmapped_user_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle.userns().set("/process/user/uid", json!(70_000));
    bundle.refused();
}

fn overlapping_maps_are_refused(env: &Env) {
    let mut bundle = env.bundle();
    let twice = json!([
        {"containerID": 0, "hostID": 100_000, "size": 10},
        {"containerID": 5, "hostID": 200_000, "size": 10}
    ]);
    bundle.userns().set("/linux/uidMappings", twice);
    bundle.refused();
}

fn files_of_the_root_file_system_keep_their_owner(env: &Env) {
    let mut bundle = env.bundle();
    let file = bundle.file("owned", "");
    std::os::unix::fs::chown(&file, Some(101_000), Some(100_000)).unwrap();
    std::fs::set_permissions(bundle.rootfs(""), std::fs::Permissions::from_mode(0o777)).unwrap();
    bundle.userns();
    let answers = bundle.attempts(&["stat:/owned", "stat:/etc/passwd", "create:/made"]);
    assert_eq!(answers[0].1, "- 644 1000 0 0 0");
    assert_eq!(
        answers[1].1, "- 644 65534 65534 0 0",
        "host root is nobody inside"
    );
    assert_eq!(answers[2].0, 0);
    assert_eq!(bundle.rootfs("made").metadata().unwrap().uid(), 100_000);
}

/// A process must be able to reopen /dev/stdout, whoever it runs as.
fn standard_streams_belong_to_the_user(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    bundle.sh("echo again > /proc/self/fd/1; echo again > /dev/stderr");
    let container = bundle.create();
    container.start();
    container.wait_stopped();
    assert_eq!(container.stdout(), "again\n");
}

fn standard_streams_get_the_group_as_well(env: &Env) {
    let path = env.path("out");
    let owners = |path: &std::path::Path| {
        let data = path.metadata().unwrap();
        (data.uid(), data.gid())
    };
    let run = |uid: u32, gid: u32| {
        let mut bundle = env.bundle();
        bundle.set("/process/user", json!({"uid": uid, "gid": gid}));
        let file = std::fs::File::create(&path).unwrap();
        let mut command = bundle.args(&["echo", "x"]).command("run", &[]);
        assert!(command.stdout(file).status().unwrap().success());
        owners(&path)
    };
    assert_eq!(run(1000, 2000), (1000, 2000));
    // The user's own already.
    assert_eq!(run(1000, 3000), (1000, 2000));
    assert_eq!(run(1001, 3000), (1001, 3000));
    // A pipe as well; a terminal's group is the terminal's.
    let mut bundle = env.bundle();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 2000}));
    bundle.args(&["stat", "-L", "-c", "%u %g", "/proc/self/fd/1"]);
    let mut command = bundle.command("run", &[]);
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1000 2000\n");
}

/// The streams are given to the user, but not when they are a device that everybody shares.
fn null_device_of_the_host_keeps_its_owner(env: &Env) {
    let owner = || {
        let data = std::fs::metadata("/dev/null").unwrap();
        (data.uid(), data.gid(), data.mode())
    };
    let before = owner();
    let mut bundle = env.bundle();
    bundle
        .userns()
        .set("/process/user", json!({"uid": 7, "gid": 7}));
    let mut command = bundle.args(&["sleep", "1000"]).command("create", &[]);
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    assert!(command.status().unwrap().success());
    env.rt.call(&["start", &bundle.id]).ok();
    let mut exec = env
        .rt
        .command(&["exec", "--user", "9:9", &bundle.id, "true"]);
    assert!(exec.status().unwrap().success());
    env.rt.call(&["delete", "--force", &bundle.id]).ok();
    let after = owner();
    if after != before {
        std::os::unix::fs::chown("/dev/null", Some(before.0), Some(before.1)).unwrap();
    }
    assert_eq!(after, before, "uid, gid and mode of the host's /dev/null");
}

fn exec_has_the_same_maps(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.userns().sleeper();
    let facts = container.exec_facts(&[]);
    assert_eq!(map(&facts, "uid_map"), [[0, 100_000, 65_536]]);
    assert_eq!(
        facts["namespaces"]["user"],
        json!(process::namespace(container.pid(), "user"))
    );
    assert_eq!(facts["status"]["Uid"], "0 0 0 0");
}

fn setgroups_works_in_a_privileged_map(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .userns()
        .set("/process/user/additionalGids", json!([7, 8]));
    let facts = bundle.facts();
    assert_eq!(groups(&facts), ["7", "8"]);
    assert_eq!(facts["setgroups"], "allow");
}

fn home_of(bundle: &mut Bundle<'_>) -> Option<String> {
    let facts = bundle.facts();
    let env = facts["env"].as_array().unwrap().clone();
    env.iter()
        .find_map(|e| e.as_str().unwrap().strip_prefix("HOME=").map(str::to_owned))
}

fn home_is_taken_from_passwd(env: &Env) {
    assert_eq!(home_of(&mut env.bundle()).as_deref(), Some("/root"));
    let mut user = env.bundle();
    user.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    assert_eq!(home_of(&mut user).as_deref(), Some("/home/user"));
    user.push("/process/env", json!("HOME=/elsewhere"));
    let mut given = env.bundle();
    given.set("/process/env", user.spec["process"]["env"].clone());
    assert_eq!(home_of(&mut given).as_deref(), Some("/elsewhere"));
    let mut unknown = env.bundle();
    unknown.set("/process/user", json!({"uid": 4711, "gid": 4711}));
    assert_eq!(home_of(&mut unknown).as_deref(), Some("/"));
}

fn user_namespace_with_all_other_namespaces(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.userns().sleeper();
    let pid = container.pid();
    for kind in ["pid", "net", "ipc", "uts", "mnt", "cgroup", "user"] {
        assert_ne!(process::namespace(pid, kind), process::namespace(1, kind));
    }
    // Owned by the container's user namespace, or root inside could not use them.
    container.exec(&["hostname"]).ok().prints("box");
    assert_eq!(read(format!("/proc/{pid}/setgroups")).trim(), "allow");
}
