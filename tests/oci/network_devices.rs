//! Network devices of the host, moved into the container's network namespace.

use crate::harness::{Env, Need, Test, process, test};
use serde_json::json;
use std::process::Command;

pub(crate) fn tests() -> Vec<Test> {
    let tests = vec![
        test!(moved_under_its_name),
        test!(renamed_on_the_way),
        test!(several),
        test!(addresses_go_with_it),
        test!(missing_device_is_refused),
        test!(without_a_network_namespace_is_refused),
        test!(taken_name_is_refused),
        test!(bad_names_are_refused),
        test!(refused_create_gives_it_back),
    ];
    tests
        .into_iter()
        .map(|t| {
            t.needs(Need::Program("ip"))
                .needs(Need::Feature("linux.netDevices.enabled"))
        })
        .collect()
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip")
        .args(args)
        .output()
        .unwrap()
        .status
        .success()
}

/// A pair of devices; the test's own network namespace has it, so nothing needs removing.
fn pair(env: &Env, one: &str, other: &str) {
    if !ip(&["link", "add", one, "type", "veth", "peer", "name", other]) {
        env.skip("this kernel has no veth");
    }
}

fn moved_under_its_name(env: &Env) {
    pair(env, "v0", "v1");
    let mut bundle = env.bundle();
    bundle.set("/linux/netDevices", json!({"v0": {}}));
    let container = bundle.sleeper();
    container.exec(&["ip", "link", "show", "v0"]).ok();
    assert!(!ip(&["link", "show", "v0"]) && ip(&["link", "show", "v1"]));
}

fn renamed_on_the_way(env: &Env) {
    pair(env, "v0", "v1");
    let mut bundle = env.bundle();
    bundle.set("/linux/netDevices", json!({"v0": {"name": "eth7"}}));
    let container = bundle.sleeper();
    container.exec(&["ip", "link", "show", "eth7"]).ok();
    assert_ne!(container.exec(&["ip", "link", "show", "v0"]).code, 0);
    container.stop();
    container.delete();
    process::until("the pair is gone with its namespace", 5, || {
        (!ip(&["link", "show", "v1"])).then_some(())
    });
}

fn several(env: &Env) {
    pair(env, "v0", "v1");
    let mut bundle = env.bundle();
    bundle.set(
        "/linux/netDevices",
        json!({"v0": {"name": "a0"}, "v1": {"name": "b0"}}),
    );
    let output = bundle.args(&["ip", "link"]).run().ok();
    assert!(
        output.stdout.contains("a0") && output.stdout.contains("b0"),
        "{output}"
    );
}

fn addresses_go_with_it(env: &Env) {
    pair(env, "v0", "v1");
    assert!(
        ip(&["addr", "add", "10.99.0.1/24", "dev", "v0"])
            && ip(&["link", "set", "v0", "mtu", "1400"])
    );
    let mut bundle = env.bundle();
    bundle.set("/linux/netDevices", json!({"v0": {}}));
    let output = bundle.args(&["ip", "addr", "show", "v0"]).run().ok();
    assert!(output.stdout.contains("10.99.0.1/24"), "{output}");
    assert!(
        output.stdout.contains("mtu 1400") && output.stdout.contains("UP"),
        "{output}"
    );
}

fn missing_device_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set("/linux/netDevices", json!({"absent0": {}}))
        .refused()
        .says("absent0");
}

fn without_a_network_namespace_is_refused(env: &Env) {
    pair(env, "v0", "v1");
    let mut bundle = env.bundle();
    bundle
        .without_namespace("network")
        .set("/linux/netDevices", json!({"v0": {}}))
        .refused();
    assert!(ip(&["link", "show", "v0"]));
}

fn taken_name_is_refused(env: &Env) {
    pair(env, "v0", "v1");
    let mut bundle = env.bundle();
    bundle
        .set("/linux/netDevices", json!({"v0": {"name": "lo"}}))
        .refused();
}

fn bad_names_are_refused(env: &Env) {
    pair(env, "v0", "v1");
    for bad in ["a/b", "much-too-long-for-a-device", "with space", ".."] {
        let mut bundle = env.bundle();
        bundle
            .set("/linux/netDevices", json!({"v0": {"name": bad}}))
            .refused();
    }
    assert!(ip(&["link", "show", "v0"]));
}

fn refused_create_gives_it_back(env: &Env) {
    pair(env, "v0", "v1");
    let mut bundle = env.bundle();
    bundle.set("/linux/netDevices", json!({"v0": {"name": "eth7"}}));
    bundle.set("/process/cwd", json!("relative")).refused();
    assert!(
        ip(&["link", "show", "v0"]),
        "refused before anything was moved"
    );
}
