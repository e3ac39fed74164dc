//! All of it at once, read by the types of the specification.

use super::*;

/// Names and types are those of the specification: its types read all of it and write the same.
#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
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
                architectures: words(&["SCMP_ARCH_X86_64"]),
                syscalls: vec![LinuxSyscall {
                    names: words(&["read"]),
                    action: "SCMP_ACT_ERRNO".to_owned(),
                    errno_ret: Some(OptionalUInt32 { value: 5 }),
                    args: vec![LinuxSeccompArg {
                        index: 1,
                        value: 2,
                        value_two: 3,
                        op: "SCMP_CMP_EQ".to_owned(),
                    }],
                }],
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
    told_again(&spec, wanted);
}

/// The way back: plugins are told what they wanted.
fn told_again(spec: &Value, wanted: Adjust) {
    let told = crate::describe::container(spec);
    assert_eq!(told.annotations, wanted.annotations);
    assert_eq!(told.mounts, wanted.mounts);
    assert_eq!(told.env, ["A=1"]);
    assert_eq!(told.args, wanted.args);
    assert_eq!(told.hooks, wanted.hooks);
    assert_eq!(told.rlimits, wanted.rlimits);
    let (told, mut wanted) = (told.linux.unwrap(), wanted.linux.unwrap());
    // The right to use the device was added to it.
    let rules = &mut wanted.resources.as_mut().unwrap().devices;
    rules.push(LinuxDeviceCgroup {
        allow: true,
        r#type: "c".to_owned(),
        major: int64(1),
        minor: int64(3),
        access: "rw".to_owned(),
    });
    assert_eq!(told.resources, wanted.resources);
    assert_eq!(told.devices, wanted.devices);
    assert_eq!(told.cgroups_path, wanted.cgroups_path);
    assert_eq!(told.oom_score_adj, wanted.oom_score_adj);
    assert_eq!(told.io_priority, wanted.io_priority);
    assert_eq!(told.namespaces, wanted.namespaces);
    assert_eq!(told.sysctl, wanted.sysctl);
    assert_eq!(told.net_devices, wanted.net_devices);
    assert_eq!(told.scheduler, wanted.scheduler);
    assert_eq!(told.rdt, wanted.rdt);
    assert_eq!(told.seccomp_policy, wanted.seccomp_policy);
    // Limits alone are written the same.
    let mut limits = json!({});
    apply_resources(&mut limits, &wanted.resources.unwrap()).unwrap();
    assert_eq!(limits["linux"]["resources"], spec["linux"]["resources"]);
}
