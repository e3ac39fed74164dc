//! What only Linux has.

use super::*;

#[test]
fn devices_come_with_the_right_to_use_them() {
    let device = |path: &str, kind: &str| LinuxDevice {
        path: path.to_owned(),
        r#type: kind.to_owned(),
        major: 1,
        minor: 3,
        file_mode: Some(OptionalFileMode { value: 0o600 }),
        uid: Some(OptionalUInt32 { value: 7 }),
        gid: None,
    };
    let devices = |devices: Vec<LinuxDevice>| {
        linux(Linux {
            devices,
            ..Linux::default()
        })
    };
    let node = |path: &str, kind: &str| json!({"path": path, "type": kind, "major": 1, "minor": 3, "fileMode": 0o600, "uid": 7});
    let rule = |kind: &str, access: &str| json!({"allow": true, "type": kind, "major": 1, "minor": 3, "access": access});
    all(vec![
        (
            json!({"linux": {"resources": {"devices": [{"allow": false}]}}}),
            devices(vec![
                device("/dev/c", "c"),
                device("/dev/b", "b"),
                device("/dev/p", "p"),
            ]),
            json!({"linux": {
                "devices": [node("/dev/c", "c"), node("/dev/b", "b"), node("/dev/p", "p")],
                "resources": {"devices": [{"allow": false}, rule("c", "rw"), rule("b", "rwm")]},
            }}),
        ),
        (
            json!({"linux": {"devices": [{"path": "/dev/a"}, {"path": "/dev/c"}]}}),
            devices(vec![device("-/dev/a", ""), device("/dev/c", "c")]),
            json!({"linux": {"devices": [node("/dev/c", "c")], "resources": {"devices": [rule("c", "rw")]}}}),
        ),
    ]);
}

#[test]
fn classes_and_schemata_of_rdt() {
    let spec = |rdt: Value| json!({"linux": {"intelRdt": rdt}});
    let own = || spec(json!({"closID": "own", "schemata": ["x"]}));
    let class = |class: &str| {
        resources(LinuxResources {
            rdt_class: text(class),
            ..LinuxResources::default()
        })
    };
    let rdt = |rdt| {
        linux(Linux {
            rdt: Some(rdt),
            ..Linux::default()
        })
    };
    let gold = LinuxRdt {
        clos_id: text("gold"),
        enable_monitoring: Some(OptionalBool { value: true }),
        ..LinuxRdt::default()
    };
    let schemata = LinuxRdt {
        schemata: Some(OptionalRepeatedString {
            value: words(&["L3:0=f"]),
        }),
        ..LinuxRdt::default()
    };
    all(vec![
        (own(), class("gold"), spec(json!({"closID": "gold"}))),
        (own(), class(""), json!({"linux": {}})),
        (
            own(),
            rdt(gold.clone()),
            spec(json!({"closID": "gold", "schemata": ["x"], "enableMonitoring": true})),
        ),
        (
            own(),
            rdt(schemata.clone()),
            spec(json!({"closID": "own", "schemata": ["L3:0=f"]})),
        ),
        (
            own(),
            rdt(LinuxRdt {
                remove: true,
                ..schemata
            }),
            spec(json!({"schemata": ["L3:0=f"]})),
        ),
        (
            own(),
            rdt(LinuxRdt {
                remove: true,
                ..LinuxRdt::default()
            }),
            json!({"linux": {}}),
        ),
        (
            json!({}),
            rdt(gold),
            spec(json!({"closID": "gold", "enableMonitoring": true})),
        ),
    ]);
}

#[test]
fn priorities_and_policies_are_set_and_taken_away() {
    let io = |class: IoPrioClass| {
        linux(Linux {
            io_priority: Some(LinuxIoPriority {
                class: class as i32,
                priority: 4,
            }),
            ..Linux::default()
        })
    };
    let scheduler = |policy: LinuxSchedulerPolicy| {
        linux(Linux {
            scheduler: Some(LinuxScheduler {
                policy: policy as i32,
                runtime: 1,
                deadline: 2,
                period: 3,
                flags: vec![LinuxSchedulerFlag::SchedFlagResetOnFork as i32],
                ..LinuxScheduler::default()
            }),
            ..Linux::default()
        })
    };
    let nice = linux(Linux {
        scheduler: Some(LinuxScheduler {
            policy: LinuxSchedulerPolicy::SchedBatch as i32,
            nice: -3,
            ..LinuxScheduler::default()
        }),
        ..Linux::default()
    });
    let memory_policy = linux(Linux {
        memory_policy: Some(LinuxMemoryPolicy {
            mode: MpolMode::MpolBind as i32,
            nodes: "0-1".to_owned(),
            flags: vec![MpolFlag::MpolFStaticNodes as i32],
        }),
        ..Linux::default()
    });
    let own = || json!({"process": {"ioPriority": {"class": "x"}, "scheduler": {"policy": "x"}}});
    let process = |process: Value| json!({"process": process});
    all(vec![
        (
            json!({}),
            io(IoPrioClass::IoprioClassBe),
            process(json!({"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4}})),
        ),
        (
            own(),
            io(IoPrioClass::IoprioClassNone),
            process(json!({"scheduler": {"policy": "x"}})),
        ),
        (
            json!({}),
            scheduler(LinuxSchedulerPolicy::SchedDeadline),
            process(json!({"scheduler": {
                "policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3,
                "flags": ["SCHED_FLAG_RESET_ON_FORK"],
            }})),
        ),
        (
            own(),
            scheduler(LinuxSchedulerPolicy::SchedNone),
            process(json!({"ioPriority": {"class": "x"}})),
        ),
        (
            json!({}),
            nice,
            process(json!({"scheduler": {"policy": "SCHED_BATCH", "nice": -3}})),
        ),
        (
            json!({}),
            memory_policy,
            json!({"linux": {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]}}}),
        ),
    ]);
}

#[test]
fn namespaces_sysctls_devices_of_networks_and_single_values() {
    let namespace = |kind: &str, path: &str| LinuxNamespace {
        r#type: kind.to_owned(),
        path: path.to_owned(),
    };
    let device = |name: &str| LinuxNetDevice {
        name: name.to_owned(),
    };
    let wanted = linux(Linux {
        namespaces: vec![
            namespace("-ipc", ""),
            namespace("pid", "/p"),
            namespace("cgroup", ""),
        ],
        sysctl: texts(&[("-a", ""), ("b", "1")]),
        net_devices: [
            ("-e0".to_owned(), device("")),
            ("e1".to_owned(), device("eth1")),
        ]
        .into(),
        cgroups_path: "/x".to_owned(),
        oom_score_adj: Some(OptionalInt { value: -5 }),
        ..Linux::default()
    });
    all(vec![(
        json!({"linux": {
            "namespaces": [{"type": "ipc"}, {"type": "pid"}, {"type": "uts"}],
            "sysctl": {"a": "0"},
            "netDevices": {"e0": {}},
            "cgroupsPath": "/own",
        }}),
        wanted,
        json!({
            "linux": {
                "namespaces": [{"type": "pid", "path": "/p"}, {"type": "uts"}, {"type": "cgroup"}],
                "sysctl": {"b": "1"},
                "netDevices": {"e1": {"name": "eth1"}},
                "cgroupsPath": "/x",
            },
            "process": {"oomScoreAdj": -5},
        }),
    )]);
}

#[test]
fn a_policy_of_seccomp_takes_the_place_of_the_containers() {
    let wanted = linux(Linux {
        seccomp_policy: Some(LinuxSeccomp {
            default_action: "SCMP_ACT_ERRNO".to_owned(),
            default_errno: Some(OptionalUInt32 { value: 38 }),
            architectures: words(&["SCMP_ARCH_X86_64"]),
            flags: words(&["SECCOMP_FILTER_FLAG_LOG"]),
            listener_path: "/l".to_owned(),
            listener_metadata: "m".to_owned(),
            syscalls: vec![LinuxSyscall {
                names: words(&["read"]),
                action: "SCMP_ACT_ALLOW".to_owned(),
                errno_ret: Some(OptionalUInt32 { value: 1 }),
                args: vec![LinuxSeccompArg {
                    index: 1,
                    value: u64::MAX,
                    value_two: 2,
                    op: "SCMP_CMP_EQ".to_owned(),
                }],
            }],
        }),
        ..Linux::default()
    });
    all(vec![(
        json!({"linux": {"seccomp": {"defaultAction": "x", "flags": ["y"]}}}),
        wanted,
        json!({"linux": {"seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/l",
            "listenerMetadata": "m",
            "syscalls": [{
                "names": ["read"],
                "action": "SCMP_ACT_ALLOW",
                "errnoRet": 1,
                "args": [{"index": 1, "value": u64::MAX, "valueTwo": 2, "op": "SCMP_CMP_EQ"}],
            }],
        }}}),
    )]);
}
