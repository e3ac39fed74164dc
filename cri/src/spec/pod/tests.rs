use super::*;
use crate::spec::Driver;
use crate::spec::recorded::{self, CASES, node};

fn planned(case: &str) -> PodPlan {
    pod(&recorded::pod(case), &node()).unwrap()
}

/// A pod that nothing is wrong with, changed.
fn changed(change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Result<PodPlan> {
    let mut config = recorded::pod("sec");
    change(&mut config);
    pod(&config, &node())
}

fn with_options(change: impl FnOnce(&mut v1::NamespaceOption)) -> Result<PodPlan> {
    changed(|config| change(options(config)))
}

fn security(config: &mut v1::PodSandboxConfig) -> &mut v1::LinuxSandboxSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

fn options(config: &mut v1::PodSandboxConfig) -> &mut v1::NamespaceOption {
    security(config).namespace_options.get_or_insert_default()
}

#[test]
fn pods_of_a_kubelet() {
    let own = Namespaces {
        network: true,
        ipc: true,
        uts: true,
        pid: Pid::Container,
        user: None,
    };
    for case in CASES {
        let plan = planned(case);
        let expected = match case {
            "hostns" => Namespaces {
                network: false,
                ipc: false,
                uts: false,
                pid: Pid::Node,
                user: None,
            },
            "sharedpid" => Namespaces {
                pid: Pid::Pod,
                ..own.clone()
            },
            "userns" => Namespaces {
                user: Some(IdMap {
                    host: 146_735_104,
                    size: 65_536,
                }),
                ..own.clone()
            },
            _ => own.clone(),
        };
        assert_eq!(plan.namespaces, expected, "{case}");
        assert_eq!(plan.shm.is_some(), expected.ipc, "{case}");
        assert_eq!(plan.privileged, case == "sec", "{case}");
        let ports: Vec<String> = plan.ports.iter().map(ToString::to_string).collect();
        let expected: &[&str] = if case == "hostport" {
            &["18080/tcp"]
        } else {
            &[]
        };
        assert_eq!(ports, expected, "{case}");
        let text = plan.resolv_conf("nameserver 9.9.9.9\n");
        assert_eq!(text, "search klab.local\nnameserver 10.77.0.2\n", "{case}");
        let log = plan.log_directory.unwrap();
        assert!(log.starts_with("/var/lib/k/podlogs"), "{}", log.display());
    }
    let sec = planned("sec");
    assert_eq!(sec.hostname, "sec-klab-node");
    let path = "/klab/kubepods/besteffort/pod0a7655cd2b79f450040c5b953b676f56/ID";
    assert_eq!(sec.cgroup.container("ID"), path);
    let sysctls: Vec<_> = sec.sysctls.iter().map(|one| one.path.as_str()).collect();
    assert_eq!(
        sysctls,
        [
            "kernel/shm_rmid_forced",
            "net/ipv4/ip_unprivileged_port_start",
            "net/ipv4/ping_group_range"
        ]
    );
    assert_eq!(planned("main").hostname, "mainhost");
    let host = planned("hostns");
    assert_eq!(host.hostname, "klab-node");
    assert!(host.sysctls.is_empty());
    assert_eq!(host.hosts("1.1.1.1 x\n", &[]), "1.1.1.1 x\n");
}

#[test]
fn a_pod_of_which_only_the_name_is_told() {
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "a".into(),
            ..v1::PodSandboxMetadata::default()
        }),
        ..v1::PodSandboxConfig::default()
    };
    let plan = pod(&config, &Node::default()).unwrap();
    assert_eq!(plan.namespaces.pid, Pid::Pod);
    assert_eq!(plan.cgroup, CgroupParent::Path("/rcrun".into()));
    assert_eq!(plan.log_directory, None);
    assert!(plan.sysctls.is_empty());
    assert_eq!(plan.shm, Some(SHM));
    assert_eq!(
        plan.resolv_conf("nameserver 9.9.9.9\n"),
        "nameserver 9.9.9.9\n"
    );
}

#[test]
fn with_the_nodes_network_nothing_is_mapped_or_limited() {
    let limits = |network| {
        changed(|config| {
            options(config).network = network;
            config.linux.get_or_insert_default().sysctls.clear();
            config.port_mappings = vec![v1::PortMapping {
                container_port: 80,
                host_port: 80,
                ..v1::PortMapping::default()
            }];
            let name = "kubernetes.io/egress-bandwidth".to_owned();
            config.annotations.insert(name, "1M".into());
        })
        .unwrap()
    };
    let own = limits(v1::NamespaceMode::Pod as i32);
    assert_eq!((own.ports.len(), own.bandwidth.egress.is_some()), (1, true));
    let node = limits(v1::NamespaceMode::Node as i32);
    assert_eq!((node.ports.len(), node.bandwidth.egress), (0, None));
    assert!(!node.namespaces.uts);
}

#[test]
fn names_of_pods() {
    let named = |name: &str, uid: &str| {
        changed(|config| {
            config.metadata = Some(v1::PodSandboxMetadata {
                name: name.into(),
                uid: uid.into(),
                ..v1::PodSandboxMetadata::default()
            });
        })
    };
    named("a", "").unwrap();
    let long = "a".repeat(LONGEST_NAME + 1);
    for (name, uid) in [("", "u"), ("a\nb", "u"), ("a", "u\0"), (&long, "u")] {
        named(name, uid).unwrap_err();
    }
    changed(|config| config.metadata = None).unwrap_err();
    changed(|config| config.windows = Some(v1::WindowsPodSandboxConfig::default())).unwrap_err();
}

#[test]
fn hostnames() {
    let most = "a".repeat(64);
    for (name, expected) in [("", "klab-node"), ("a.b-c", "a.b-c"), (&most, &most)] {
        let plan = changed(|config| config.hostname = name.into()).unwrap();
        assert_eq!(plan.hostname, expected);
    }
    let long = "a".repeat(65);
    for name in [&long, "a b", "a\nb", "-a", "a/b", "\u{e4}"] {
        changed(|config| config.hostname = name.into()).unwrap_err();
    }
}

#[test]
fn modes_of_namespaces() {
    use v1::NamespaceMode::{Container, Target};
    let bad = [Container as i32, Target as i32, 4, -1];
    for mode in bad {
        with_options(|options| options.network = mode).unwrap_err();
        with_options(|options| options.ipc = mode).unwrap_err();
        if mode != Container as i32 {
            with_options(|options| options.pid = mode).unwrap_err();
        }
    }
}

fn userns(mode: i32, uids: &[(u32, u32, u32)], gids: &[(u32, u32, u32)]) -> v1::UserNamespace {
    let list = |list: &[(u32, u32, u32)]| {
        let one = |(host_id, container_id, length): &(u32, u32, u32)| v1::IdMapping {
            host_id: *host_id,
            container_id: *container_id,
            length: *length,
        };
        list.iter().map(one).collect()
    };
    v1::UserNamespace {
        mode,
        uids: list(uids),
        gids: list(gids),
    }
}

#[test]
fn user_namespaces() {
    use v1::NamespaceMode::{Node, Pod};
    let (pod, node) = (Pod as i32, Node as i32);
    let most = (1, 0, u32::MAX - 1);
    let found = |options: v1::UserNamespace| {
        let plan = with_options(|all| all.userns_options = Some(options));
        plan.map(|plan| plan.namespaces.user)
    };
    assert_eq!(found(userns(node, &[], &[])).unwrap(), None);
    let map = Some(IdMap {
        host: 1,
        size: u32::MAX - 1,
    });
    assert_eq!(found(userns(pod, &[most], &[most])).unwrap(), map);
    let one = (100_000, 0, 65_536);
    for options in [
        userns(pod, &[], &[]),
        userns(pod, &[one], &[]),
        userns(pod, &[], &[one]),
        userns(pod, &[one], &[(100_000, 0, 65_535)]),
        userns(pod, &[one], &[(200_000, 0, 65_536)]),
        userns(pod, &[one, (0, 65_536, 1)], &[one, (0, 65_536, 1)]),
        userns(pod, &[(100_000, 0, 0)], &[(100_000, 0, 0)]),
        userns(pod, &[(100_000, 1, 10)], &[(100_000, 1, 10)]),
        userns(pod, &[(2, 0, u32::MAX - 1)], &[(2, 0, u32::MAX - 1)]),
        userns(node, &[one], &[one]),
        userns(1, &[one], &[one]),
        userns(3, &[one], &[one]),
        userns(7, &[one], &[one]),
    ] {
        assert!(found(options.clone()).is_err(), "{options:?}");
    }
    // What root of the namespace would have no rights over.
    let with = |network, ipc, pid| {
        changed(|config| {
            config.linux.get_or_insert_default().sysctls.clear();
            let all = options(config);
            (all.network, all.ipc, all.pid) = (network, ipc, pid);
            all.userns_options = Some(userns(pod, &[one], &[one]));
        })
    };
    with(pod, pod, pod).unwrap();
    with(node, pod, pod).unwrap();
    with(pod, node, pod).unwrap_err();
    with(pod, pod, node).unwrap_err();
}

#[test]
fn what_a_pause_process_would_be_is_judged() {
    let value = |value| Some(v1::Int64Value { value });
    type Change = fn(&mut v1::LinuxSandboxSecurityContext);
    let wrong: [Change; 5] = [
        |all| all.run_as_user = None,
        |all| all.supplemental_groups = vec![-1],
        |all| all.supplemental_groups_policy = 9,
        |all| {
            all.seccomp = Some(v1::SecurityProfile {
                profile_type: 9,
                ..v1::SecurityProfile::default()
            });
        },
        |all| {
            all.selinux_options = Some(v1::SeLinuxOption {
                level: "top".into(),
                ..v1::SeLinuxOption::default()
            });
        },
    ];
    changed(|config| security(config).run_as_group = value(5)).unwrap();
    for change in wrong {
        changed(|config| change(security(config))).unwrap_err();
    }
    changed(|config| security(config).run_as_user = value(1 << 32)).unwrap_err();
}

/// CVE-2025-0750: logs outside of where logs are.
#[test]
fn cve_2025_0750_log_directories_that_lead_elsewhere() {
    for path in ["../../..", "/var/log/../../etc", "logs", "/a\0b", "/a\nb"] {
        changed(|config| config.log_directory = path.into()).unwrap_err();
    }
    let plan = changed(|config| config.log_directory = "//var/./log//pods/".into());
    assert_eq!(
        plan.unwrap().log_directory.unwrap(),
        PathBuf::from("/var/log/pods")
    );
}

#[test]
fn systemd_wants_slices() {
    let systemd = Node {
        driver: Driver::Systemd,
        ..node()
    };
    let mut config = recorded::pod("crit");
    pod(&config, &systemd).unwrap_err();
    let slice = "/kubepods.slice/kubepods-podf5.slice";
    config.linux.get_or_insert_default().cgroup_parent = slice.into();
    let plan = pod(&config, &systemd).unwrap();
    assert_eq!(plan.cgroup.container("ID"), "kubepods-podf5.slice:rcrun:ID");
}

#[test]
fn handlers() {
    for name in ["", "rcrun"] {
        handler(name).unwrap();
    }
    for name in ["runc", "rcrun ", "RCRUN", "../rcrun"] {
        handler(name).unwrap_err();
    }
}
