//! Kernel parameters: only those of the container's own namespaces.

use crate::harness::{Env, Test, attack, test};
use serde_json::json;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(of_the_network_namespace),
        test!(of_the_ipc_namespace),
        test!(of_the_uts_namespace),
        test!(slashes_and_dots_in_names),
        test!(several),
        test!(host_wide_ones_are_refused),
        test!(without_the_namespace_is_refused),
        test!(unknown_name_is_refused),
        test!(bad_value_is_refused),
        test!(hidden_separators_are_refused),
        test!(the_host_keeps_its_values),
    ]
}

fn of_the_network_namespace(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set(
        "/linux/sysctl",
        json!({"net.ipv4.ip_forward": "1", "net.ipv4.ip_local_port_range": "20000 30000"}),
    );
    let answers = bundle.attempts(&[
        "read:/proc/sys/net/ipv4/ip_forward",
        "read:/proc/sys/net/ipv4/ip_local_port_range",
    ]);
    assert_eq!(answers[0].1, "1\n");
    assert_eq!(answers[1].1, "20000\t30000\n");
}

fn of_the_ipc_namespace(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set(
        "/linux/sysctl",
        json!({"kernel.shm_rmid_forced": "1", "kernel.msgmax": "9999", "fs.mqueue.msg_max": "77"}),
    );
    let answers = bundle.attempts(&[
        "read:/proc/sys/kernel/shm_rmid_forced",
        "read:/proc/sys/kernel/msgmax",
        "read:/proc/sys/fs/mqueue/msg_max",
    ]);
    let values: Vec<&str> = answers.iter().map(|(_, text)| text.trim()).collect();
    assert_eq!(values, ["1", "9999", "77"]);
}

fn of_the_uts_namespace(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/linux/sysctl", json!({"kernel.domainname": "by.sysctl"}));
    assert_eq!(bundle.facts()["domainname"], "by.sysctl");
}

fn slashes_and_dots_in_names(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/linux/sysctl", json!({"net/ipv4/conf/lo/rp_filter": "2"}));
    assert_eq!(
        bundle.attempts(&["read:/proc/sys/net/ipv4/conf/lo/rp_filter"])[0].1,
        "2\n"
    );
}

fn several(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set(
        "/linux/sysctl",
        json!({"net.ipv4.ip_forward": "1", "kernel.msgmnb": "12345", "net.core.somaxconn": "321"}),
    );
    let output = bundle
        .sh("cd /proc/sys; cat net/ipv4/ip_forward kernel/msgmnb net/core/somaxconn")
        .run()
        .ok();
    assert_eq!(output.text(), "1\n12345\n321");
}

fn host_wide_ones_are_refused(env: &Env) {
    let before = attack::core_pattern();
    for name in [
        "kernel.core_pattern",
        "vm.overcommit_memory",
        "fs.file-max",
        "kernel.pid_max",
        "kernel.hostname",
    ] {
        let mut bundle = env.bundle();
        bundle.set("/linux/sysctl", json!({name: "1"}));
        bundle.refused().says(name);
    }
    assert_eq!(attack::core_pattern(), before);
}

fn without_the_namespace_is_refused(env: &Env) {
    for (kind, name) in [
        ("network", "net.ipv4.ip_forward"),
        ("ipc", "kernel.msgmax"),
        ("uts", "kernel.domainname"),
    ] {
        let mut bundle = env.bundle();
        bundle.without_namespace(kind).unset("", "hostname");
        bundle.set("/linux/sysctl", json!({name: "1"}));
        bundle.refused().says(name);
    }
}

fn unknown_name_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set("/linux/sysctl", json!({"net.no.such.thing": "1"}))
        .refused();
}

fn bad_value_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set(
            "/linux/sysctl",
            json!({"net.ipv4.ip_local_port_range": "high low"}),
        )
        .refused();
}

fn hidden_separators_are_refused(env: &Env) {
    let before = attack::core_pattern();
    for name in [
        "net.ipv4/../../kernel/core_pattern",
        "net/../kernel/core_pattern",
        "fs.mqueue/../../kernel/core_pattern",
        "net.ipv4.ip_forward\n",
    ] {
        let mut bundle = env.bundle();
        bundle
            .set("/linux/sysctl", json!({name: "|/evil"}))
            .refused();
    }
    assert_eq!(attack::core_pattern(), before);
}

fn the_host_keeps_its_values(env: &Env) {
    let read = || {
        [
            "net/ipv4/ip_forward",
            "kernel/shm_rmid_forced",
            "kernel/msgmax",
        ]
        .map(|name| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap())
    };
    let before = read();
    let mut bundle = env.bundle();
    bundle.set(
        "/linux/sysctl",
        json!({"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "kernel.msgmax": "4321"}),
    );
    bundle.runs();
    assert_eq!(read(), before);
}
