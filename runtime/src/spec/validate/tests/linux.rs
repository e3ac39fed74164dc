//! Rules for `linux`, without devices.

use serde_json::{Value, json};

use super::super::path_below_proc_sys;
use super::*;

#[test]
fn namespaces_and_mappings() {
    let row = |good: Value, bad: Value, complaint| {
        (json!({"linux": good}), json!({"linux": bad}), complaint)
    };
    let user = |uid: Value, gid: Value| json!({"namespaces": namespaces(&ALL), "uidMappings": uid, "gidMappings": gid});
    let one = json!([map(0, 1000, 10)]);
    let path =
        |path: &str| json!({"namespaces": [{"type": "uts", "path": path}, {"type": "mount"}]});
    let many: Value = (0..341).map(|i| map(i, i, 1)).collect();
    let most: Value = (0..340).map(|i| map(i, i, 1)).collect();
    rows(
        &FACTS,
        &[
            row(
                json!({"namespaces": without("")}),
                json!({"namespaces": namespaces(&["uts", "mount", "uts"])}),
                "linux.namespaces[2]: malformed spec file: duplicated ns \"uts\"",
            ),
            row(
                path("/proc/1/ns/uts"),
                path("ns"),
                "linux.namespaces[0].path: Some(\"ns\") is not",
            ),
            row(
                user(one.clone(), one.clone()),
                user(json!([]), json!([])),
                "linux.namespaces: user namespaces enabled, but no namespace path to join nor mappings",
            ),
            row(
                user(json!([map(0, 5, 5), map(5, 0, 5)]), one.clone()),
                user(json!([map(0, 5, 5), map(5, 9, 5)]), one.clone()),
                "linux.uidMappings[1]: overlaps an earlier range",
            ),
            row(
                user(one.clone(), json!([map(0, u32::MAX - 1, 1)])),
                user(one.clone(), json!([map(0, u32::MAX - 1, 2)])),
                "linux.gidMappings[0]: hostID 4294967294 + size 2 is above 4294967295",
            ),
            row(
                user(one.clone(), one.clone()),
                user(one.clone(), json!([map(0, 0, 0)])),
                "linux.gidMappings[0]: size must be greater than zero",
            ),
            row(
                user(most, one.clone()),
                user(many, one),
                "linux.uidMappings: more than 340 ranges",
            ),
        ],
    );
}

#[test]
fn time_offsets() {
    let spec = |types: Value, offsets: Value| json!({"linux": {"namespaces": types, "timeOffsets": offsets}});
    let own = || namespaces(&["uts", "mount", "time"]);
    let joined = json!([{"type": "uts"}, {"type": "mount"}, {"type": "time", "path": "/t"}]);
    let good = || spec(own(), json!({"boottime": {"secs": -5, "nanosecs": 5}}));
    rows(
        &FACTS,
        &[
            (
                good(),
                spec(without(""), json!({"boottime": {"secs": 5}})),
                "linux.timeOffsets: time namespace offsets specified, but time namespace isn't enabled",
            ),
            (
                good(),
                spec(joined, json!({"monotonic": {"secs": 5}})),
                "linux.timeOffsets: time namespace enabled, but both namespace path and time offsets",
            ),
            (
                good(),
                spec(own(), json!({"realtime": {"secs": 5}})),
                "linux.timeOffsets[\"realtime\"]: only the clocks",
            ),
            (
                good(),
                spec(own(), json!({"boottime": {"nanosecs": 1_000_000_000}})),
                "linux.timeOffsets[\"boottime\"]: nanosecs must be below",
            ),
        ],
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn sysctls() {
    let spec = |types: Value, name: &str| {
        json!({
            "hostname": null,
            "linux": {
                "namespaces": types,
                "sysctl": {name: "1"},
                "uidMappings": [map(0, 0, 1)],
                "gidMappings": [map(0, 0, 1)],
            },
        })
    };
    let all = || namespaces(&ALL);
    let but = |gone: &str| {
        let left: Vec<&str> = ALL.into_iter().filter(|r#type| *r#type != gone).collect();
        namespaces(&left)
    };
    let names =
        |name: &str, gone: &str, complaint| (spec(all(), name), spec(but(gone), name), complaint);
    rows(
        &FACTS,
        &[
            names(
                "kernel.shmmax",
                "ipc",
                "linux.sysctl[\"kernel.shmmax\"]: sysctl \"kernel.shmmax\" is not allowed in the hosts ipc namespace",
            ),
            names(
                "kernel/sem",
                "ipc",
                "linux.sysctl[\"kernel/sem\"]: sysctl \"kernel.sem\" is not",
            ),
            names(
                "fs.mqueue.msg_max",
                "ipc",
                "linux.sysctl[\"fs.mqueue.msg_max\"]: ",
            ),
            names(
                "net.ipv4.ip_forward",
                "network",
                "linux.sysctl[\"net.ipv4.ip_forward\"]: sysctl \"net.ipv4.ip_forward\" not allowed in host network namespace",
            ),
            names(
                "net/ipv4/conf/e.1/mtu",
                "network",
                "linux.sysctl[\"net/ipv4/conf/e.1/mtu\"]: ",
            ),
            names(
                "kernel.domainname",
                "uts",
                "linux.sysctl[\"kernel.domainname\"]: sysctl \"kernel.domainname\" is not in a separate kernel namespace",
            ),
        ],
    );
    let ranges =
        json!({"linux": {"namespaces": but("user"), "sysctl": {"user.max_net_namespaces": "1"}}});
    let problems = judge(&ranges, &FACTS).unwrap_err().to_string();
    assert!(problems.contains("setting ucounts without a user namespace not allowed"));
    assert!(judge(&spec(all(), "user.max_net_namespaces"), &FACTS).is_ok());
    for name in [
        "kernel.core_pattern",
        "kernel/core_pattern",
        "vm.swappiness",
        "kernel.hostname",
        "net",
        "net..x",
        "net.",
        "/net.ipv4.x",
        "net/../kernel/core_pattern",
        "net.//.kernel",
        "net./././kernel/core_pattern",
        "net.ipv4 x",
        "kernel.shm_rmid_forced\n",
        "",
    ] {
        assert!(
            judge(&spec(all(), name), &FACTS).is_err(),
            "{name:?} should not pass"
        );
    }
    let own = Facts {
        joins_own_network: true,
        ..FACTS
    };
    assert!(judge(&spec(all(), "net.ipv4.ip_forward"), &own).is_err());
    let lines = json!({"linux": {"sysctl": {"net.x": "1\nkernel.core_pattern=|x"}}});
    assert!(
        judge(&lines, &FACTS)
            .unwrap_err()
            .to_string()
            .contains("more than one line")
    );
}

#[test]
fn a_domain_name_is_said_once_or_twice_the_same() {
    let spec =
        |value: &str| json!({"domainname": "a", "linux": {"sysctl": {"kernel.domainname": value}}});
    rows(
        &FACTS,
        &[(
            spec("a"),
            spec("b"),
            "linux.sysctl[\"kernel.domainname\"]: \"b\" conflicts with",
        )],
    );
}

#[test]
fn sysctl_names_become_paths_in_one_way() {
    for (name, path) in [
        (
            "net.ipv4.conf.eno2/100.rp_filter",
            "net/ipv4/conf/eno2.100/rp_filter",
        ),
        (
            "net/ipv4/conf/eno2.100/rp_filter",
            "net/ipv4/conf/eno2.100/rp_filter",
        ),
        ("kernel.sem", "kernel/sem"),
    ] {
        assert_eq!(path_below_proc_sys(name).as_deref(), Some(path));
    }
    for name in [
        "net.//.//.kernel",
        "net/../x",
        ".x",
        "/etc/passwd",
        "a..b",
        "a/./b",
    ] {
        let path = path_below_proc_sys(name);
        assert!(path.is_none_or(|p| !p.split('/').any(|part| part == ".." || part.is_empty())));
    }
}

#[test]
fn paths_and_propagation() {
    let row = |good: Value, bad: Value, complaint| {
        (json!({"linux": good}), json!({"linux": bad}), complaint)
    };
    rows(
        &FACTS,
        &[
            row(
                json!({"maskedPaths": ["/x"]}),
                json!({"maskedPaths": ["/x", "y"]}),
                "linux.maskedPaths[1]: \"y\" is not an absolute path",
            ),
            row(
                json!({"readonlyPaths": ["/x"]}),
                json!({"readonlyPaths": [""]}),
                "linux.readonlyPaths[0]: \"\" is not an absolute path",
            ),
            row(
                json!({"namespaces": without("mount"), "maskedPaths": null, "readonlyPaths": null}),
                json!({"namespaces": without("mount"), "readonlyPaths": null}),
                "linux.maskedPaths: unable to restrict sys entries without a private MNT namespace",
            ),
            row(
                json!({"cgroupsPath": "/a/b"}),
                json!({"cgroupsPath": "/a/../../b"}),
                "linux.cgroupsPath: \"/a/../../b\" must not have `..` in it",
            ),
            row(
                json!({"rootfsPropagation": "rprivate"}),
                json!({"rootfsPropagation": "ro"}),
                "linux.rootfsPropagation: rootfsPropagation=ro is not supported",
            ),
        ],
    );
    let private = json!({"linux": {"rootfsPropagation": "private"}});
    let problems = judge(
        &private,
        &Facts {
            no_pivot: true,
            ..FACTS
        },
    )
    .unwrap_err()
    .to_string();
    assert!(problems.contains("rootfsPropagation of [r]private is not safe without pivot_root"));
}

#[test]
fn seccomp_structure() {
    let spec = |default: &str, rule: Value| json!({"linux": {"seccomp": {"defaultAction": default, "syscalls": [rule]}}});
    let rule = |name: &str, action: &str, index: u32| {
        json!({"names": [name], "action": action,
               "args": [{"index": index, "value": 0, "op": "SCMP_CMP_EQ"}]})
    };
    let (allow, notify) = ("SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY");
    rows(
        &FACTS,
        &[
            (
                spec(allow, rule("read", allow, 5)),
                spec(allow, rule("read", allow, 6)),
                "linux.seccomp.syscalls[0].args[0].index: 6 is above 5",
            ),
            (
                spec(allow, rule("read", notify, 0)),
                spec(allow, rule("write", notify, 0)),
                "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY cannot be used for the write",
            ),
            (
                spec(allow, rule("read", allow, 0)),
                spec(notify, rule("read", allow, 0)),
                "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be used as default action",
            ),
            (
                spec(allow, rule("read", allow, 0)),
                spec(allow, rule("", allow, 0)),
                "linux.seccomp.syscalls[0].names: empty string is not a valid syscall",
            ),
        ],
    );
}

#[test]
fn resource_director() {
    let facts = Facts {
        rdt: true,
        rdt_cache: true,
        rdt_bandwidth: true,
        ..FACTS
    };
    let row = |good: Value, bad: Value, complaint| {
        (
            json!({"linux": {"intelRdt": good}}),
            json!({"linux": {"intelRdt": bad}}),
            complaint,
        )
    };
    let class = |name: &str| json!({"closID": name});
    rows(
        &facts,
        &[
            row(
                class("a"),
                class(".."),
                "linux.intelRdt.closID: invalid intelRdt.ClosID \"..\"",
            ),
            row(
                class("/"),
                class("a/b"),
                "linux.intelRdt.closID: invalid intelRdt.ClosID \"a/b\"",
            ),
            row(
                json!({"schemata": ["L3:0=f"]}),
                json!({"schemata": ["L3:0=f\nMB:0=1"]}),
                "linux.intelRdt.schemata[0]: each element is one line",
            ),
        ],
    );
    let cache = json!({"linux": {"intelRdt": {"l3CacheSchema": "L3:0=f"}}});
    let bandwidth = json!({"linux": {"intelRdt": {"memBwSchema": "MB:0=1"}}});
    for (patch, facts, complaint) in [
        (
            &cache,
            FACTS,
            "intelRdt is specified in config, but Intel RDT is not enabled",
        ),
        (
            &cache,
            Facts {
                rdt_cache: false,
                ..facts
            },
            "but Intel RDT/CAT is not enabled",
        ),
        (
            &bandwidth,
            Facts {
                rdt_bandwidth: false,
                ..facts
            },
            "but Intel RDT/MBA is not enabled",
        ),
    ] {
        assert!(
            judge(patch, &facts)
                .unwrap_err()
                .to_string()
                .ends_with(complaint)
        );
    }
    assert!(judge(&cache, &facts).is_ok() && judge(&bandwidth, &facts).is_ok());
}

#[test]
fn memory_policies() {
    let row = |good: Value, bad: Value, complaint| {
        (
            json!({"linux": {"memoryPolicy": good}}),
            json!({"linux": {"memoryPolicy": bad}}),
            complaint,
        )
    };
    let policy = |mode: &str, nodes: &str| json!({"mode": mode, "nodes": nodes});
    rows(
        &FACTS,
        &[
            row(
                policy("MPOL_LOCAL", ""),
                policy("MPOL_LOCAL", "0"),
                "linux.memoryPolicy.nodes: memory policy mode requires 0 nodes but got",
            ),
            row(
                policy("MPOL_BIND", "0-1,3"),
                policy("MPOL_BIND", ""),
                "linux.memoryPolicy.nodes: memory policy mode requires at least one node but got 0",
            ),
            row(
                policy("MPOL_PREFERRED", ""),
                policy("MPOL_PREFERRED", "a"),
                "linux.memoryPolicy.nodes: invalid memory policy nodes \"a\"",
            ),
        ],
    );
    let flags = json!({"linux": {"personality": {"domain": "LINUX", "flags": ["X"]}}});
    assert!(judge(&flags, &FACTS).unwrap()[0].starts_with("ignoring unsupported personality"));
}
