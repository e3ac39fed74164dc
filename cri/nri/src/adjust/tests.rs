use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::proto::v1alpha1::*;

type Adjust = ContainerAdjustment;
type Linux = LinuxContainerAdjustment;

fn linux(linux: Linux) -> Adjust {
    Adjust {
        linux: Some(linux),
        ..Adjust::default()
    }
}

fn resources(resources: LinuxResources) -> Adjust {
    linux(Linux {
        resources: Some(resources),
        ..Linux::default()
    })
}

fn memory(memory: LinuxMemory) -> Adjust {
    resources(LinuxResources {
        memory: Some(memory),
        ..LinuxResources::default()
    })
}

fn texts(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    let list = list.iter();
    list.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn env(list: &[(&str, &str)]) -> Adjust {
    let list = list.iter();
    Adjust {
        env: list
            .map(|(key, value)| KeyValue {
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect(),
        ..Adjust::default()
    }
}

fn mount(destination: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        r#type: "bind".to_owned(),
        source: "/src".to_owned(),
        options: words(options),
    }
}

fn int64(value: i64) -> Option<OptionalInt64> {
    Some(OptionalInt64 { value })
}

fn uint64(value: u64) -> Option<OptionalUInt64> {
    Some(OptionalUInt64 { value })
}

fn text(value: &str) -> Option<OptionalString> {
    Some(OptionalString {
        value: value.to_owned(),
    })
}

/// Each case: a configuration, what is wanted, what comes of it.
#[track_caller]
fn all(cases: Vec<(Value, Adjust, Value)>) {
    for (before, wanted, after) in cases {
        let mut spec = before.clone();
        apply(&mut spec, &wanted).unwrap();
        assert_eq!(spec, after, "{before} with {wanted:?}");
    }
}

#[test]
fn nothing_wanted_changes_nothing() {
    let empty = linux(Linux {
        resources: Some(LinuxResources {
            memory: Some(LinuxMemory::default()),
            cpu: Some(LinuxCpu::default()),
            ..LinuxResources::default()
        }),
        rdt: Some(LinuxRdt::default()),
        ..Linux::default()
    });
    let empty = Adjust {
        hooks: Some(Hooks::default()),
        ..empty
    };
    for spec in [json!({}), json!({"linux": {"x": 1}, "unknown": [null]})] {
        all(vec![
            (spec.clone(), Adjust::default(), spec.clone()),
            (spec.clone(), empty.clone(), spec),
        ]);
    }
}

#[test]
fn annotations_are_set_and_removed() {
    let wanted = |list| Adjust {
        annotations: texts(list),
        ..Adjust::default()
    };
    all(vec![
        (
            json!({}),
            wanted(&[("a", "1")]),
            json!({"annotations": {"a": "1"}}),
        ),
        (
            json!({"annotations": null}),
            wanted(&[("a", "1")]),
            json!({"annotations": {"a": "1"}}),
        ),
        (
            json!({"annotations": {"a": "0", "b": "0"}}),
            wanted(&[("a", "1"), ("-b", ""), ("-c", "")]),
            json!({"annotations": {"a": "1"}}),
        ),
        // Removed and set is set.
        (
            json!({"annotations": {"a": "0"}}),
            wanted(&[("-a", ""), ("a", "1")]),
            json!({"annotations": {"a": "1"}}),
        ),
    ]);
}

#[test]
fn variables_keep_their_place() {
    let spec = |list: &[&str]| json!({"process": {"env": list}});
    all(vec![
        (json!({}), env(&[("A", "1")]), spec(&["A=1"])),
        (
            spec(&["A=0", "B=0"]),
            env(&[("A", "1"), ("C", "=")]),
            spec(&["A=1", "B=0", "C=="]),
        ),
        (spec(&["A=0", "B=0"]), env(&[("-A", "")]), spec(&["B=0"])),
        (
            spec(&["A=0", "B"]),
            env(&[("B", "1")]),
            spec(&["A=0", "B=1"]),
        ),
        // Programs take the first or the last of two.
        (
            spec(&["A=0", "B=0", "A=2"]),
            env(&[("A", "1")]),
            spec(&["A=1", "B=0"]),
        ),
        (spec(&["A=0", "AA=0"]), env(&[("-A", "")]), spec(&["AA=0"])),
        (
            spec(&["A=0"]),
            env(&[("-A", ""), ("A", "1")]),
            spec(&["A=1"]),
        ),
    ]);
}

#[test]
fn arguments_hooks_and_rlimits() {
    let hook = |path: &str, timeout| Hook {
        path: path.to_owned(),
        args: words(&["x", "y"]),
        env: words(&["A=1"]),
        timeout,
    };
    let hooks = Adjust {
        hooks: Some(Hooks {
            prestart: vec![hook("/a", None)],
            poststop: vec![Hook {
                path: "/b".to_owned(),
                ..Hook::default()
            }],
            create_container: vec![hook("/c", Some(OptionalInt { value: 3 }))],
            ..Hooks::default()
        }),
        ..Adjust::default()
    };
    let rlimits = Adjust {
        rlimits: vec![PosixRlimit {
            r#type: "RLIMIT_CORE".to_owned(),
            hard: u64::MAX,
            soft: 1,
        }],
        ..Adjust::default()
    };
    let args = Adjust {
        args: words(&["sh"]),
        ..Adjust::default()
    };
    all(vec![
        (
            json!({"process": {"args": ["a", "b"]}}),
            args,
            json!({"process": {"args": ["sh"]}}),
        ),
        (
            json!({"hooks": {"prestart": [{"path": "/own"}]}}),
            hooks,
            json!({"hooks": {
                "prestart": [{"path": "/own"}, {"path": "/a", "args": ["x", "y"], "env": ["A=1"]}],
                "createContainer": [{"path": "/c", "args": ["x", "y"], "env": ["A=1"], "timeout": 3}],
                "poststop": [{"path": "/b"}],
            }}),
        ),
        (
            json!({"process": {"rlimits": [
                {"type": "RLIMIT_CORE", "hard": 0, "soft": 0}, {"type": "RLIMIT_CPU", "hard": 0, "soft": 0},
            ]}}),
            rlimits,
            json!({"process": {"rlimits": [
                {"type": "RLIMIT_CORE", "hard": u64::MAX, "soft": 1}, {"type": "RLIMIT_CPU", "hard": 0, "soft": 0},
            ]}}),
        ),
    ]);
}

#[test]
fn mounts_replace_what_is_at_their_place_and_are_sorted() {
    let at = |place: &str| json!({"destination": place});
    let spec =
        |places: &[&str]| json!({"mounts": places.iter().map(|p| at(p)).collect::<Vec<_>>()});
    let places = |spec: &Value| -> Vec<String> {
        let mounts = spec["mounts"].as_array().unwrap().iter();
        mounts
            .map(|mount| mount["destination"].as_str().unwrap().to_owned())
            .collect()
    };
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (
            &["/proc", "/dev", "/dev/pts"],
            &["/a/b/c", "/a"],
            &["/a", "/dev", "/proc", "/dev/pts", "/a/b/c"],
        ),
        (&["/proc", "/dev"], &["-/proc"], &["/dev"]),
        (&["/a"], &["/a"], &["/a"]),
        (&["/a/"], &["-/a"], &[]),
        (&["/a"], &["-//a/./b/.."], &[]),
        (&["/a"], &["-/b"], &["/a"]),
        (&["/a"], &["-/a", "/a"], &["/a"]),
    ];
    for (before, wanted, after) in cases {
        let mut spec = spec(before);
        let wanted = Adjust {
            mounts: wanted.iter().map(|place| mount(place, &[])).collect(),
            ..Adjust::default()
        };
        apply(&mut spec, &wanted).unwrap();
        assert_eq!(places(&spec), *after);
    }
    let mut spec = spec(&["/a"]);
    let wanted = Adjust {
        mounts: vec![mount("/a", &["ro"])],
        ..Adjust::default()
    };
    apply(&mut spec, &wanted).unwrap();
    let whole = json!({"destination": "/a", "type": "bind", "source": "/src", "options": ["ro"]});
    assert_eq!(spec["mounts"], json!([whole]));
}

#[test]
fn propagation_reaches_the_root_and_the_caller_hears_of_it() {
    for (root, option, expected, shared, receiving) in [
        (Value::Null, "rprivate", Value::Null, 0, 0),
        (Value::Null, "rshared", json!("rshared"), 1, 0),
        (json!("rslave"), "rshared", json!("rshared"), 1, 0),
        (Value::Null, "rslave", json!("rslave"), 0, 1),
        (json!("private"), "rslave", json!("rslave"), 0, 1),
        (json!("rshared"), "rslave", json!("rshared"), 0, 1),
        (json!("shared"), "rslave", json!("shared"), 0, 1),
    ] {
        let mut spec = json!({"linux": {"rootfsPropagation": root}});
        let wanted = Adjust {
            mounts: vec![mount("/a", &["rbind", option])],
            ..Adjust::default()
        };
        let applied = apply(&mut spec, &wanted).unwrap();
        assert_eq!(
            spec["linux"]["rootfsPropagation"], expected,
            "{root} {option}"
        );
        assert_eq!(
            (applied.shared.len(), applied.receiving.len()),
            (shared, receiving)
        );
    }
}

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
fn limits() {
    let spec = |resources: Value| json!({"linux": {"resources": resources}});
    let none = LinuxResources::default;
    let zero = LinuxMemory::default;
    all(vec![
        // A limit of memory alone is one of swap, too.
        (
            spec(json!({"memory": {"limit": 1, "swap": 2, "reservation": 3}})),
            memory(LinuxMemory {
                limit: int64(9),
                ..zero()
            }),
            spec(json!({"memory": {"limit": 9, "swap": 9, "reservation": 3}})),
        ),
        (
            json!({}),
            memory(LinuxMemory {
                limit: int64(9),
                swap: int64(-1),
                ..zero()
            }),
            spec(json!({"memory": {"limit": 9, "swap": -1}})),
        ),
        (
            spec(json!({"memory": {"limit": 1}})),
            memory(LinuxMemory {
                limit: int64(0),
                reservation: int64(2),
                swappiness: uint64(3),
                disable_oom_killer: Some(OptionalBool { value: true }),
                use_hierarchy: Some(OptionalBool { value: true }),
                ..zero()
            }),
            spec(
                json!({"memory": {"limit": 1, "reservation": 2, "swappiness": 3, "disableOOMKiller": true}}),
            ),
        ),
        (
            spec(json!({"cpu": {"shares": 1, "cpus": "0"}})),
            resources(LinuxResources {
                cpu: Some(LinuxCpu {
                    shares: None,
                    quota: int64(-1),
                    period: uint64(2),
                    realtime_runtime: int64(3),
                    realtime_period: uint64(4),
                    cpus: String::new(),
                    mems: "1".to_owned(),
                }),
                ..none()
            }),
            spec(json!({"cpu": {
                "shares": 1, "cpus": "0", "quota": -1, "period": 2, "realtimeRuntime": 3, "realtimePeriod": 4, "mems": "1",
            }})),
        ),
        (
            spec(json!({
                "hugepageLimits": [{"pageSize": "2MB", "limit": 1}, {"pageSize": "1GB", "limit": 1}],
                "unified": {"a": "0", "b": "0"},
                "pids": {"limit": 1},
            })),
            resources(LinuxResources {
                hugepage_limits: vec![HugepageLimit {
                    page_size: "2MB".to_owned(),
                    limit: 5,
                }],
                unified: texts(&[("b", "1"), ("c", "1")]),
                pids: Some(LinuxPids { limit: -7 }),
                ..none()
            }),
            spec(json!({
                "hugepageLimits": [{"pageSize": "2MB", "limit": 5}, {"pageSize": "1GB", "limit": 1}],
                "unified": {"a": "0", "b": "1", "c": "1"},
                "pids": {"limit": -1},
            })),
        ),
        (
            json!({}),
            resources(LinuxResources {
                devices: vec![
                    LinuxDeviceCgroup {
                        allow: true,
                        ..LinuxDeviceCgroup::default()
                    },
                    LinuxDeviceCgroup {
                        allow: false,
                        r#type: "c".to_owned(),
                        major: int64(1),
                        minor: int64(0),
                        access: "m".to_owned(),
                    },
                ],
                ..none()
            }),
            spec(json!({"devices": [
                {"allow": true}, {"allow": false, "type": "c", "major": 1, "minor": 0, "access": "m"},
            ]})),
        ),
        (
            spec(json!({"blockIO": {"weight": 1}, "pids": null})),
            resources(LinuxResources {
                blockio_class: text(""),
                ..none()
            }),
            spec(json!({"pids": null})),
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

#[test]
fn what_could_only_be_ignored_is_refused() {
    let zero = LinuxMemory::default;
    let cases: Vec<(&str, Adjust)> = vec![
        (
            "memory.kernel ",
            memory(LinuxMemory {
                kernel: int64(1),
                ..zero()
            }),
        ),
        (
            "memory.kernelTCP",
            memory(LinuxMemory {
                kernel_tcp: int64(1),
                ..zero()
            }),
        ),
        (
            "useHierarchy",
            memory(LinuxMemory {
                use_hierarchy: Some(OptionalBool { value: false }),
                ..zero()
            }),
        ),
        (
            "\"fast\"",
            resources(LinuxResources {
                blockio_class: text("fast"),
                ..LinuxResources::default()
            }),
        ),
        (
            "I/O priority 9",
            linux(Linux {
                io_priority: Some(LinuxIoPriority {
                    class: 9,
                    priority: 0,
                }),
                ..Linux::default()
            }),
        ),
        (
            "scheduling policy 99",
            linux(Linux {
                scheduler: Some(LinuxScheduler {
                    policy: 99,
                    ..LinuxScheduler::default()
                }),
                ..Linux::default()
            }),
        ),
        (
            "flag of scheduling 99",
            linux(Linux {
                scheduler: Some(LinuxScheduler {
                    flags: vec![99],
                    ..LinuxScheduler::default()
                }),
                ..Linux::default()
            }),
        ),
        (
            "mode of memory policy 99",
            linux(Linux {
                memory_policy: Some(LinuxMemoryPolicy {
                    mode: 99,
                    ..LinuxMemoryPolicy::default()
                }),
                ..Linux::default()
            }),
        ),
        ("named \"A=B\"", env(&[("A=B", "1")])),
        ("named \"A\\0\"", env(&[("A\0", "1")])),
    ];
    for (words, wanted) in cases {
        let error = apply(&mut json!({}), &wanted)
            .unwrap_err()
            .chain()
            .to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn a_configuration_that_is_none_is_an_error() {
    for spec in [
        json!(null),
        json!([]),
        json!({"process": 1}),
        json!({"process": {"env": {}}}),
        json!({"process": {"env": "A=1"}}),
    ] {
        let (mut copy, own) = (spec.clone(), spec);
        match apply(&mut copy, &env(&[("A", "1")])) {
            // Nothing there is made.
            Ok(_) => assert!(own.is_null()),
            Err(error) => assert!(
                error
                    .chain()
                    .to_string()
                    .contains("of the configuration is not")
            ),
        }
    }
}

/// Names and types are those of the specification: its types read all of it and write the same.
#[test]
fn all_that_can_be_wanted_is_a_configuration() {
    let hook = Hook {
        path: "/h".to_owned(),
        args: words(&["h"]),
        env: words(&["A=1"]),
        timeout: Some(OptionalInt { value: 1 }),
    };
    let wanted = Adjust {
        annotations: texts(&[("a", "1")]),
        mounts: vec![mount("/m", &["rbind", "rslave"])],
        env: env(&[("A", "1")]).env,
        hooks: Some(Hooks {
            prestart: vec![hook.clone()],
            create_runtime: vec![hook.clone()],
            create_container: vec![hook.clone()],
            start_container: vec![hook.clone()],
            poststart: vec![hook.clone()],
            poststop: vec![hook],
        }),
        rlimits: vec![PosixRlimit {
            r#type: "RLIMIT_CORE".to_owned(),
            hard: 2,
            soft: 1,
        }],
        args: words(&["sh"]),
        cdi_devices: vec![CdiDevice {
            name: "v/c=d".to_owned(),
        }],
        linux: Some(Linux {
            devices: vec![LinuxDevice {
                path: "/dev/x".to_owned(),
                r#type: "c".to_owned(),
                major: 1,
                minor: 3,
                file_mode: Some(OptionalFileMode { value: 0o600 }),
                uid: Some(OptionalUInt32 { value: 1 }),
                gid: Some(OptionalUInt32 { value: 2 }),
            }],
            resources: Some(LinuxResources {
                memory: Some(LinuxMemory {
                    limit: int64(9),
                    reservation: int64(8),
                    swap: int64(7),
                    swappiness: uint64(6),
                    disable_oom_killer: Some(OptionalBool { value: true }),
                    ..LinuxMemory::default()
                }),
                cpu: Some(LinuxCpu {
                    shares: uint64(2),
                    quota: int64(1),
                    period: uint64(2),
                    realtime_runtime: int64(3),
                    realtime_period: uint64(4),
                    cpus: "0".to_owned(),
                    mems: "0".to_owned(),
                }),
                hugepage_limits: vec![HugepageLimit {
                    page_size: "2MB".to_owned(),
                    limit: 1,
                }],
                unified: texts(&[("memory.high", "1")]),
                pids: Some(LinuxPids { limit: 5 }),
                ..LinuxResources::default()
            }),
            cgroups_path: "/x".to_owned(),
            oom_score_adj: Some(OptionalInt { value: 3 }),
            io_priority: Some(LinuxIoPriority {
                class: 1,
                priority: 2,
            }),
            namespaces: vec![LinuxNamespace {
                r#type: "pid".to_owned(),
                path: "/p".to_owned(),
            }],
            sysctl: texts(&[("net.x", "1")]),
            net_devices: [(
                "e".to_owned(),
                LinuxNetDevice {
                    name: "f".to_owned(),
                },
            )]
            .into(),
            scheduler: Some(LinuxScheduler {
                policy: LinuxSchedulerPolicy::SchedFifo as i32,
                nice: 1,
                priority: 2,
                flags: vec![6],
                runtime: 3,
                deadline: 4,
                period: 5,
            }),
            memory_policy: Some(LinuxMemoryPolicy {
                mode: MpolMode::MpolInterleave as i32,
                nodes: "0".to_owned(),
                flags: vec![1],
            }),
            rdt: Some(LinuxRdt {
                clos_id: text("c"),
                schemata: Some(OptionalRepeatedString {
                    value: words(&["L3:0=f"]),
                }),
                enable_monitoring: Some(OptionalBool { value: true }),
                remove: false,
            }),
            seccomp_policy: Some(LinuxSeccomp {
                default_action: "SCMP_ACT_ALLOW".to_owned(),
                ..LinuxSeccomp::default()
            }),
        }),
    };
    let mut spec = json!({
        "ociVersion": "1.3.0",
        "process": {"cwd": "/", "noNewPrivileges": false, "user": {"uid": 0, "gid": 0}},
    });
    let applied = apply(&mut spec, &wanted).unwrap();
    assert_eq!(applied.cdi_devices, ["v/c=d"]);
    assert_eq!(applied.receiving, ["/src"]);
    let read: oci_spec::runtime::Spec = serde_json::from_value(spec.clone()).unwrap();
    let mut written = serde_json::to_value(&read).unwrap();
    // What the types write though nobody said it.
    let strange = |written: &mut Value, spec: &Value| {
        if let (Some(written), Some(spec)) = (written.as_object_mut(), spec.as_object()) {
            written.retain(|key, _| spec.contains_key(key));
        }
    };
    strange(&mut written, &spec);
    for part in ["process", "linux"] {
        let whole = spec[part].clone();
        strange(&mut written[part], &whole);
    }
    assert_eq!(written, spec);
}
