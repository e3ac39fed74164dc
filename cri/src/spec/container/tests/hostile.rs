//! Requests that contradict themselves or their pod, and those of attackers.

use super::*;

/// A container cannot have a namespace that its pod does not have.
#[test]
fn namespaces_that_are_not_the_pods() {
    use v1::NamespaceMode::{Container, Node, Pod, Target};
    type Change = fn(&mut v1::NamespaceOption);
    let main: [(Change, &str); 12] = [
        (|all| all.network = Node as i32, "network"),
        (|all| all.network = Container as i32, "network"),
        (|all| all.network = Target as i32, "network"),
        (|all| all.network = 9, "not known"),
        (|all| all.ipc = Node as i32, "ipc"),
        (|all| all.ipc = Container as i32, "ipc"),
        (|all| all.pid = Node as i32, "pid"),
        (|all| all.pid = Pod as i32, "made with CONTAINER"),
        (|all| all.pid = Target as i32, "target_id"),
        (|all| all.pid = -1, "not known"),
        (|all| all.target_id = "x".into(), "not TARGET"),
        (
            |all| {
                let range = v1::IdMapping {
                    host_id: 0,
                    container_id: 0,
                    length: 1,
                };
                all.userns_options = Some(v1::UserNamespace {
                    mode: Pod as i32,
                    uids: vec![range],
                    gids: vec![range],
                });
            },
            "other ids",
        ),
    ];
    for (change, problem) in main {
        let mut stage = Stage::new("main", 0);
        change(stage.options());
        let message = stage.error();
        assert!(message.contains(problem), "{problem}: {message}");
    }
    let mut stage = Stage::new("userns", 0);
    let none = v1::UserNamespace {
        mode: Node as i32,
        ..v1::UserNamespace::default()
    };
    stage.options().userns_options = Some(none);
    assert!(stage.error().contains("other ids"));
    // What is left open is the pod's.
    stage.security().namespace_options = None;
    assert!(namespaces(&stage.spec()).contains("user=/pods/P/user pid"));
    let mut host = Stage::new("hostns", 0);
    host.security().namespace_options = None;
    assert_eq!(namespaces(&host.spec()), "mount cgroup");
    host.options().pid = Container as i32;
    assert_eq!(namespaces(&host.spec()), "mount pid cgroup");
}

#[test]
fn requests_that_are_refused() {
    type Change = fn(&mut Stage);
    let cases: [(Change, &str); 13] = [
        (|all| all.config.metadata = None, "metadata.name"),
        (
            |all| all.config.metadata.as_mut().unwrap().name = "a\nb".into(),
            "metadata.name",
        ),
        (|all| all.config.image = None, "image.image"),
        (
            |all| all.config.windows = Some(v1::WindowsContainerConfig::default()),
            "windows",
        ),
        (
            |all| all.security().run_as_group = Some(v1::Int64Value { value: 5 }),
            "run_as_group",
        ),
        (
            |all| all.security().masked_paths = vec!["proc/keys".into()],
            "masked_paths",
        ),
        (
            |all| all.security().readonly_paths = vec!["/a".into(); 5000],
            "more than",
        ),
        (
            |all| {
                all.security().capabilities = Some(v1::Capability {
                    add_capabilities: vec!["SHINY".into()],
                    ..v1::Capability::default()
                });
            },
            "SHINY",
        ),
        (
            |all| {
                all.security().apparmor = Some(v1::SecurityProfile {
                    profile_type: 2,
                    localhost_ref: "localhost/web".into(),
                });
            },
            "AppArmor is not on",
        ),
        (
            |all| {
                let linux = all.config.linux.as_mut().unwrap();
                linux.resources.as_mut().unwrap().oom_score_adj = 2000;
            },
            "oom_score_adj",
        ),
        (|all| all.config.stop_signal = 1000, "stop_signal"),
        (
            |all| {
                _ = all.config.annotations.insert("a".into(), "b\0".into());
            },
            "annotations",
        ),
        (
            |all| all.config.devices = vec![v1::Device::default()],
            "devices",
        ),
    ];
    for (change, problem) in cases {
        let mut stage = Stage::new("main", 0);
        if problem == "run_as_group" {
            stage.security().run_as_user = None;
        }
        change(&mut stage);
        let message = stage.error();
        assert!(message.contains(problem), "{problem}: {message}");
    }
}

/// CVE-2024-3154: annotations that a runtime would take for orders.
#[test]
fn cve_2024_3154_annotations_are_no_orders() {
    let mut stage = Stage::new("main", 0);
    let given = [
        ("org.systemd.property.ExecStartPre", "'/bin/evil'"),
        ("run.oci.hooks.stdout", "/etc/cron.d/evil"),
        ("run.oci.keep_original_groups", "1"),
        ("rcrun.init", "1"),
        ("org.criu.config", "/evil"),
        ("bundle", "/evil"),
        ("io.kubernetes.cri.container-type", "sandbox"),
        ("io.kubernetes.cri.shiny", "1"),
        ("x.org.systemd.property.Note", "kept"),
        ("bundle-of-joy", "kept"),
    ];
    for (name, value) in given {
        stage.config.annotations.insert(name.into(), value.into());
    }
    let made = stage.spec();
    for (name, value) in given {
        let found = &made["annotations"][name];
        match (name, value) {
            ("io.kubernetes.cri.container-type", _) => assert_eq!(found, "container"),
            (_, "kept") => assert_eq!(found, "kept", "{name}"),
            _ => assert_eq!(found, &Value::Null, "{name}"),
        }
    }
}

/// CVE-2025-0750: a log outside of the pod's directory.
#[test]
fn cve_2025_0750_logs_stay_in_the_pods_directory() {
    for path in ["../x", "c/../../x", "/etc/cron.d/x", "..", "c/\0", "c\nd"] {
        let mut stage = Stage::new("main", 0);
        stage.config.log_path = path.into();
        assert!(stage.error().contains("log_path"), "{path}");
    }
    let mut stage = Stage::new("main", 0);
    for (directory, path) in [("", "c/0.log"), ("/logs", ""), ("/logs", ".")] {
        stage.pod.log_directory = directory.into();
        stage.config.log_path = path.into();
        assert_eq!(stage.make().unwrap().log, None);
    }
    stage.pod.log_directory = "/logs/../etc".into();
    assert!(stage.error().contains("log_directory"));
}

/// Requests that a stranger changed here and there are refused or decided, and nothing else (class F5). What is
/// decided is a document that can be read.
#[test]
fn requests_changed_at_random() {
    use prost::Message as _;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut stages = CASES.map(|case| Stage::new(case, 0));
    let recorded = CASES.map(|case| {
        let config = recorded::containers(case).swap_remove(0);
        (recorded::pod(case), config)
    });
    let (mut decided, mut refused) = (0, 0);
    for round in 0..9000 {
        let stage = &mut stages[round % CASES.len()];
        (stage.pod, stage.config) = recorded[round % CASES.len()].clone();
        let mut bytes = match round % 3 {
            0 => stage.pod.encode_to_vec(),
            _ => stage.config.encode_to_vec(),
        };
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(3) {
                0 => bytes[at] = u8::try_from(random(256)).unwrap(),
                1 => bytes[at] ^= 1 << random(8),
                _ => drop(bytes.remove(at)),
            }
        }
        match round % 3 {
            0 => match v1::PodSandboxConfig::decode(bytes.as_slice()) {
                Ok(pod) => stage.pod = pod,
                Err(_) => continue,
            },
            _ => match v1::ContainerConfig::decode(bytes.as_slice()) {
                Ok(config) => stage.config = config,
                Err(_) => continue,
            },
        }
        if pod::pod(&stage.pod, &stage.node).is_err() {
            refused += 1;
            continue;
        }
        match stage.make() {
            Ok(made) => {
                decided += 1;
                load::spec(made.spec.to_string().as_bytes()).unwrap();
                assert!(
                    made.log
                        .is_none_or(|log| !log.full().to_string_lossy().contains("/../"))
                );
            }
            Err(_) => refused += 1,
        }
    }
    assert!(decided > 500 && refused > 100, "{decided} {refused}");
}

/// A hundred thousand variables are read in no time that anybody notices (class F5).
#[test]
fn large_requests() {
    let mut stage = Stage::new("main", 0);
    stage.config.envs = (0..100_000)
        .map(|n| v1::KeyValue {
            key: format!("V{n}"),
            value: vec![b'x'; 8],
        })
        .collect();
    let mount = stage.config.mounts[0].clone();
    stage.config.mounts = (0..10_000)
        .map(|n| v1::Mount {
            container_path: format!("/m/{n}"),
            ..mount.clone()
        })
        .collect();
    let made = stage.spec();
    assert_eq!(made["process"]["env"].as_array().unwrap().len(), 100_002);
}
