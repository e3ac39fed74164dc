//! What a kubelet 1.36 sent for eight kinds of pods (fixtures/cri/kubelet.jsonl), and a node for it. Tests only.

use rcrun_runtime::template::capabilities::of_mask;
use serde_json::Value;

use super::{Driver, Node};
use crate::proto::{json, v1};

fn lines() -> Vec<Value> {
    let text = include_str!("../../../fixtures/cri/kubelet.jsonl");
    let read = |line| serde_json::from_str(line).expect("a line of JSON");
    text.lines().map(read).collect()
}

/// The pod of a kind.
pub(super) fn pod(case: &str) -> v1::PodSandboxConfig {
    let found = lines()
        .into_iter()
        .find(|line| line["case"] == case && line.get("pod").is_some());
    json::read("PodSandboxConfig", &found.expect("a pod")["pod"])
}

/// Its containers, in their order.
pub(super) fn containers(case: &str) -> Vec<v1::ContainerConfig> {
    let of_case = |line: &Value| line["case"] == case && line.get("container").is_some();
    let read = |line: Value| json::read("ContainerConfig", &line["container"]);
    lines().into_iter().filter(of_case).map(read).collect()
}

/// The kinds.
pub(super) const CASES: [&str; 8] = [
    "crit",
    "hostns",
    "hostport",
    "imgvol",
    "main",
    "sec",
    "sharedpid",
    "userns",
];

/// A usual node.
pub(super) fn node() -> Node {
    Node {
        hostname: "klab-node".into(),
        kernel: (6, 12),
        capabilities: of_mask(u64::MAX >> 23),
        cgroup2: true,
        driver: Driver::Cgroupfs,
        swap: true,
        huge_pages: vec!["2MB".into()],
        deep_read_only: true,
        mapped_mounts: true,
        seccomp: true,
        apparmor: None,
        selinux: false,
        least_oom_score: None,
        rlimits: Vec::new(),
        unprivileged_ports: true,
        unprivileged_icmp: true,
    }
}
