//! Rules for devices and for names in resources.

use serde_json::{Value, json};

use super::*;

#[test]
fn device_rules() {
    let row = |good: Value, bad: Value, complaint| {
        (json!({"linux": good}), json!({"linux": bad}), complaint)
    };
    let node = |r#type: &str, path: &str, major: i64| json!({"devices": [{"type": r#type, "path": path, "major": major, "minor": 1}]});
    let rule = |rule: Value| json!({"resources": {"devices": [rule]}});
    let net = |devices: Value| json!({"netDevices": devices});
    rows(
        &FACTS,
        &[
            row(
                node("c", "/dev/x", 1),
                node("c", "dev/x", 1),
                "linux.devices[0].path: \"dev/x\"",
            ),
            row(
                node("b", "/dev/x", 1),
                node("a", "/dev/x", 1),
                "linux.devices[0].type: invalid device type \"a\"",
            ),
            row(
                node("p", "/dev/x", -1),
                node("u", "/dev/x", -1),
                "linux.devices[0].major: -1:1 is no",
            ),
            row(
                node("c", "/dev/x", 4095),
                node("c", "/dev/x", 4096),
                "linux.devices[0].major: ",
            ),
            row(
                rule(json!({"allow": true, "type": "c", "access": "rwm"})),
                rule(json!({"allow": true, "type": "c", "access": "x"})),
                "linux.resources.devices[0].access: \"x\" has other letters",
            ),
            row(
                rule(json!({"allow": true, "type": "a"})),
                rule(json!({"allow": true, "type": "p"})),
                "linux.resources.devices[0].type: invalid cgroup device type \"p\"",
            ),
            row(
                rule(json!({"allow": true, "major": -1})),
                rule(json!({"allow": true, "major": -2})),
                "linux.resources.devices[0].major: must be -1",
            ),
            row(
                net(json!({"eth0": {"name": "e"}, "eth1": {}})),
                net(json!({"eth0": {"name": "eth1"}, "eth1": {}})),
                "linux.netDevices: two devices would be named \"eth1\"",
            ),
            row(
                net(json!({"eth0": {}})),
                net(json!({"a b": {}})),
                "linux.netDevices[\"a b\"]: invalid network device name \"a b\"",
            ),
            row(
                net(json!({"e": {"name": "x"}})),
                net(json!({"e": {"name": ".."}})),
                "linux.netDevices[\"..\"]: ",
            ),
            row(
                net(json!({"fifteen-letters": {}})),
                net(json!({"sixteen--letters": {}})),
                "linux.netDevices[\"sixteen--letters\"]: ",
            ),
            row(
                net(json!({"eth0": {}})),
                json!({"netDevices": {"eth0": {}}, "namespaces": without("network")}),
                "linux.netDevices: unable to move network devices without a NET namespace",
            ),
        ],
    );
}

#[test]
fn names_in_resources_stay_in_the_cgroup() {
    let row = |good: Value, bad: Value, complaint| {
        (
            json!({"linux": {"resources": good}}),
            json!({"linux": {"resources": bad}}),
            complaint,
        )
    };
    let unified = |key: &str| json!({"unified": {key: "1"}});
    let page = |size: &str| json!({"hugepageLimits": [{"pageSize": size, "limit": 1}]});
    let rdma = |name: &str| json!({"rdma": {name: {"hcaHandles": 1}}});
    let priority = |name: &str| json!({"network": {"priorities": [{"name": name, "priority": 1}]}});
    rows(
        &FACTS,
        &[
            row(
                unified("memory.high"),
                unified("../memory.high"),
                "linux.resources.unified[\"../mem",
            ),
            row(
                unified("hugetlb.1GB.max"),
                unified("cgroup.procs"),
                "linux.resources.unified[\"cgro",
            ),
            row(
                page("2MB"),
                page("../2MB"),
                "linux.resources.hugepageLimits[0].pageSize: ",
            ),
            row(
                page("1GB"),
                page("1"),
                "linux.resources.hugepageLimits[0].pageSize: ",
            ),
            row(
                rdma("mlx5_1"),
                rdma("mlx5_1 max\nx"),
                "linux.resources.rdma[",
            ),
            row(
                priority("eth0"),
                priority("eth0 1\neth1"),
                "linux.resources.network.priorities[0]",
            ),
        ],
    );
    let legacy = Facts {
        cgroup2: false,
        ..FACTS
    };
    let patch = json!({"linux": {"resources": {"unified": {"memory.high": "1"}}}});
    let text = Error::from(judge(&patch, &legacy).unwrap_err()).to_string();
    assert!(text.starts_with("invalid configuration: "), "{text}");
    assert!(text.ends_with("cannot use unified on cgroup v1"), "{text}");
}
