//! `update`: what it changes of a container's limits (on cgroup v1), and what it leaves alone.

use super::cgroups_v1::{MIB, number, on_v1, value, with_resources};
use crate::harness::{Container, Env, Test, test};
use serde_json::json;
use std::fs;

pub(crate) fn tests() -> Vec<Test> {
    let tests = vec![
        test!(update_by_flags),
        test!(update_from_a_file),
        test!(update_keeps_what_it_does_not_name),
        test!(update_of_a_paused_container),
        test!(update_is_remembered),
        test!(bad_update_is_refused),
        test!(update_after_start_of_devices_still_holds),
        test!(limits_are_found_in_any_case),
    ];
    tests.into_iter().map(on_v1).collect()
}

#[track_caller]
fn memory_limit(container: &Container<'_>) -> i64 {
    number(container, "memory", "memory.limit_in_bytes")
}

#[track_caller]
fn pids_and_shares(container: &Container<'_>) -> [i64; 2] {
    [
        number(container, "pids", "pids.max"),
        number(container, "cpu", "cpu.shares"),
    ]
}

#[track_caller]
fn update(container: &Container<'_>, flags: &[&str]) {
    let mut args = vec!["update"];
    args.extend(flags);
    args.push(&container.id);
    container.env.rt.call(&args).ok();
}

fn update_by_flags(env: &Env) {
    let (_, container) = with_resources(
        env,
        &json!({"memory": {"limit": 64 * MIB}, "pids": {"limit": 20}}),
    );
    update(
        &container,
        &[
            "--memory",
            "100M",
            "--memory-reservation",
            "50331648",
            "--pids-limit",
            "44",
            "--cpu-share",
            "512",
            "--cpu-period",
            "100000",
            "--cpu-quota",
            "70000",
            "--cpuset-cpus",
            "0",
        ],
    );
    assert_eq!(memory_limit(&container), 100 << 20);
    assert_eq!(
        number(&container, "memory", "memory.soft_limit_in_bytes"),
        48 << 20
    );
    assert_eq!(number(&container, "pids", "pids.max"), 44);
    assert_eq!(number(&container, "cpu", "cpu.shares"), 512);
    assert_eq!(number(&container, "cpu", "cpu.cfs_quota_us"), 70_000);
    assert_eq!(value(&container, "cpuset", "cpuset.cpus"), "0");
    update(&container, &["--pids-limit", "-1"]);
    assert_eq!(value(&container, "pids", "pids.max"), "max");
}

fn update_from_a_file(env: &Env) {
    let (_, container) = with_resources(env, &json!({"pids": {"limit": 20}}));
    let path = env.path("resources.json");
    fs::write(
        &path,
        json!({"pids": {"limit": 21}, "cpu": {"shares": 222}}).to_string(),
    )
    .unwrap();
    update(&container, &["--resources", path.to_str().unwrap()]);
    assert_eq!(pids_and_shares(&container), [21, 222]);
    fs::write(&path, json!({"pids": {"limit": 22}}).to_string()).unwrap();
    let mut command = env.rt.command(&["update", "-r", "-", &container.id]);
    command.stdin(fs::File::open(&path).unwrap());
    env.rt.finish(env.rt.spawn(command)).ok();
    assert_eq!(number(&container, "pids", "pids.max"), 22, "- is stdin");
}

fn update_keeps_what_it_does_not_name(env: &Env) {
    let (_, container) = with_resources(
        env,
        &json!({"memory": {"limit": 64 * MIB}, "pids": {"limit": 20}, "cpu": {"shares": 333}}),
    );
    update(&container, &["--memory", "128M"]);
    assert_eq!(memory_limit(&container), 128 << 20);
    assert_eq!(pids_and_shares(&container), [20, 333]);
}

fn update_of_a_paused_container(env: &Env) {
    let (_, container) = with_resources(env, &json!({"pids": {"limit": 20}}));
    container.verb("pause").ok();
    update(&container, &["--pids-limit", "30"]);
    assert_eq!(container.status(), "paused", "it is not let go by the way");
    assert_eq!(number(&container, "pids", "pids.max"), 30);
    container.verb("resume").ok();
}

fn update_is_remembered(env: &Env) {
    let (_, container) =
        with_resources(env, &json!({"pids": {"limit": 20}, "cpu": {"shares": 333}}));
    update(&container, &["--pids-limit", "30"]);
    update(&container, &["--cpu-share", "444"]);
    assert_eq!(pids_and_shares(&container), [30, 444]);
}

fn bad_update_is_refused(env: &Env) {
    let (_, container) = with_resources(env, &json!({"pids": {"limit": 20}}));
    for bad in [
        ["--memory", "lots"],
        ["--cpuset-cpus", "999"],
        ["--resources", "/no/such/file"],
    ] {
        env.rt
            .call(&["update", bad[0], bad[1], &container.id])
            .fails();
    }
    assert_eq!(container.status(), "running");
    assert_eq!(number(&container, "pids", "pids.max"), 20);
}

/// An update rewrites the device rules; there must be no moment and no state in which all is open.
fn update_after_start_of_devices_still_holds(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.caps(&["CAP_MKNOD"]).sleeper();
    let before = value(&container, "devices", "devices.list");
    update(&container, &["--pids-limit", "30"]);
    assert_eq!(value(&container, "devices", "devices.list"), before);
    let answers = container.exec_attempts(&["--cap", "CAP_MKNOD"], &["open-node:/tmp/mem:c:1:1"]);
    assert_eq!(answers[0].0, 1);
}

/// As Go reads names; `cpu` and `CPU` side by side are one.
fn limits_are_found_in_any_case(env: &Env) {
    let resources = json!({
        "CPU": {"Cpus": "0", "MEMS": "0"}, "cpu": {"shares": 222}, "Pids": {"Limit": 20},
    });
    let (_, container) = with_resources(env, &resources);
    assert_eq!(value(&container, "cpuset", "cpuset.cpus"), "0");
    assert_eq!(number(&container, "cpu", "cpu.shares"), 222);
    assert_eq!(number(&container, "pids", "pids.max"), 20);
    let path = env.path("resources.json");
    let more = json!({"CPU": {"Shares": 333}, "PIDS": {"limit": 21}});
    fs::write(&path, more.to_string()).unwrap();
    let mut command = env.rt.command(&["update", "-r", "-", &container.id]);
    command.stdin(fs::File::open(&path).unwrap());
    env.rt.finish(env.rt.spawn(command)).ok();
    assert_eq!(number(&container, "cpu", "cpu.shares"), 333);
    assert_eq!(number(&container, "pids", "pids.max"), 21);
}
