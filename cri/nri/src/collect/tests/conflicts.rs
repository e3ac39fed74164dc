//! What two plugins both want.

use super::*;

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn two_plugins_may_not_set_the_same() {
    let number = |value| Some(OptionalInt64 { value });
    let resources = |resources: LinuxResources| {
        linux(Linux {
            resources: Some(resources),
            ..Linux::default()
        })
    };
    let of_memory = |memory: LinuxMemory| {
        resources(LinuxResources {
            memory: Some(memory),
            ..LinuxResources::default()
        })
    };
    let of_linux = [
        (
            "CgroupsPath",
            Linux {
                cgroups_path: "/x".to_owned(),
                ..Linux::default()
            },
        ),
        (
            "OomScoreAdj",
            Linux {
                oom_score_adj: Some(OptionalInt { value: 1 }),
                ..Linux::default()
            },
        ),
        (
            "IoPriority",
            Linux {
                io_priority: Some(Default::default()),
                ..Linux::default()
            },
        ),
        (
            "SeccompPolicy",
            Linux {
                seccomp_policy: Some(Default::default()),
                ..Linux::default()
            },
        ),
        (
            "LinuxSched",
            Linux {
                scheduler: Some(Default::default()),
                ..Linux::default()
            },
        ),
        (
            "MemoryPolicy",
            Linux {
                memory_policy: Some(Default::default()),
                ..Linux::default()
            },
        ),
        (
            "Devices \"/dev/d\"",
            Linux {
                devices: vec![device("/dev/d", 0)],
                ..Linux::default()
            },
        ),
        (
            "Namespace \"pid\"",
            Linux {
                namespaces: vec![namespace("-pid", "")],
                ..Linux::default()
            },
        ),
        (
            "Sysctl \"s\"",
            Linux {
                sysctl: pairs(&[("s", String::new())]),
                ..Linux::default()
            },
        ),
        (
            "LinuxNetDevices \"e\"",
            Linux {
                net_devices: pairs(&[("e", LinuxNetDevice::default())]),
                ..Linux::default()
            },
        ),
    ];
    let mut cases: Vec<(&str, Adjust)> = of_linux
        .into_iter()
        .map(|(name, wanted)| (name, linux(wanted)))
        .collect();
    cases.extend([
        (
            "Annotations \"k\"",
            Adjust {
                annotations: pairs(&[("k", String::new())]),
                ..Adjust::default()
            },
        ),
        (
            "Mounts \"/m\"",
            Adjust {
                mounts: vec![mount("/m", "")],
                ..Adjust::default()
            },
        ),
        (
            "Env \"A\"",
            Adjust {
                env: vec![env("A", "")],
                ..Adjust::default()
            },
        ),
        (
            "Args",
            Adjust {
                args: words(&["a"]),
                ..Adjust::default()
            },
        ),
        (
            "Rlimits \"R\"",
            Adjust {
                rlimits: vec![rlimit("R", 1)],
                ..Adjust::default()
            },
        ),
        (
            "CdiDevices \"d\"",
            Adjust {
                cdi_devices: vec![CdiDevice {
                    name: "d".to_owned(),
                }],
                ..Adjust::default()
            },
        ),
        (
            "MemLimit",
            of_memory(LinuxMemory {
                limit: number(1),
                ..LinuxMemory::default()
            }),
        ),
        (
            "MemSwapLimit",
            of_memory(LinuxMemory {
                swap: number(1),
                ..LinuxMemory::default()
            }),
        ),
        ("MemLimit", resources(everything(1))),
    ]);
    for (field, wanted) in cases {
        let error = join(vec![wanted.clone(), wanted.clone()])
            .unwrap_err()
            .to_string();
        for word in [field, "10-a", "20-b"] {
            assert!(error.contains(word), "{field}: {error}");
        }
        // The third, too.
        let error = join(vec![wanted.clone(), Adjust::default(), wanted])
            .unwrap_err()
            .to_string();
        assert!(error.contains("10-a and 30-c"), "{field}: {error}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_limit_belongs_to_one_plugin() {
    // Everything at once, then each alone: each must be refused, and by its own name.
    let all = everything(1);
    let (memory, cpu) = (all.memory.unwrap(), all.cpu.clone().unwrap());
    macro_rules! alone {
        ($part:ident $from:ident: $($field:ident $name:literal,)*) => {[$((
            $name,
            LinuxResources {
                $part: Some({
                    let mut only = <_ as Default>::default();
                    // The type is that of the whole.
                    if false { only = $from.clone(); }
                    only.$field = $from.$field.clone();
                    only
                }),
                ..LinuxResources::default()
            },
        )),*]};
    }
    let mut cases: Vec<(&str, LinuxResources)> = Vec::new();
    cases.extend(alone!(memory memory:
        limit "MemLimit", reservation "MemReservation", swap "MemSwapLimit", kernel "MemKernelLimit",
        kernel_tcp "MemTCPLimit", swappiness "MemSwappiness", disable_oom_killer "MemDisableOomKiller",
        use_hierarchy "MemUseHierarchy",
    ));
    cases.extend(alone!(cpu cpu:
        shares "CPUShares", quota "CPUQuota", period "CPUPeriod", realtime_runtime "CPURealtimeRuntime",
        realtime_period "CPURealtimePeriod", cpus "CPUSetCPUs", mems "CPUSetMems",
    ));
    let none = LinuxResources::default;
    cases.extend([
        (
            "HugepageLimits \"2MB\"",
            LinuxResources {
                hugepage_limits: all.hugepage_limits.clone(),
                ..none()
            },
        ),
        (
            "BlockioClass",
            LinuxResources {
                blockio_class: all.blockio_class.clone(),
                ..none()
            },
        ),
        (
            "RdtClass",
            LinuxResources {
                rdt_class: all.rdt_class.clone(),
                ..none()
            },
        ),
        (
            "CgroupsUnified \"memory.high\"",
            LinuxResources {
                unified: all.unified.clone(),
                ..none()
            },
        ),
        (
            "PidsLimit",
            LinuxResources {
                pids: all.pids,
                ..none()
            },
        ),
    ]);
    for (name, only) in cases {
        let mut updates = Updates::new(None, None);
        updates
            .add("10-a", vec![update("x", all.clone(), false)])
            .unwrap();
        let outcome = updates.add("20-b", vec![update("x", only.clone(), false)]);
        let error = outcome.unwrap_err().to_string();
        assert!(
            error.contains(&format!("both set {name}")),
            "{name}: {error}"
        );
        // Of another container it is nobody's.
        updates
            .add("20-b", vec![update("y", only.clone(), false)])
            .unwrap();
        // Set by one, it arrives.
        let mut updates = Updates::new(None, None);
        updates
            .add("10-a", vec![update("x", only.clone(), false)])
            .unwrap();
        assert_eq!(updates.finish().0, [update("x", only, false)]);
    }
}
