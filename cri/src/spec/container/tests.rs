use rcrun_runtime::spec::load;
use rcrun_runtime::spec::validate::{Facts, Rootfs, validate};

use super::*;
use crate::spec::recorded::{self, CASES, node};
use crate::spec::resources;

mod hostile;

/// A pod and what is looked up for its containers.
struct Stage {
    pod: v1::PodSandboxConfig,
    config: v1::ContainerConfig,
    image: Config,
    accounts: Accounts,
    node: Node,
    /// The profile's text.
    seccomp: Option<&'static [u8]>,
    devices: Vec<DeviceNode>,
    cdi: Applied,
    target_pid: Option<PathBuf>,
}

impl Stage {
    fn new(case: &str, container: usize) -> Self {
        let passwd = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:/bin/sh\n";
        Self {
            pod: recorded::pod(case),
            config: recorded::containers(case).swap_remove(container),
            image: Config {
                env: vec!["PATH=/bin".into()],
                cmd: vec!["sh".into()],
                ..Config::default()
            },
            accounts: Accounts {
                passwd: passwd.to_vec(),
                group: b"wheel:x:10:root\n".to_vec(),
            },
            node: node(),
            seccomp: None,
            devices: Vec::new(),
            cdi: Applied::default(),
            target_pid: None,
        }
    }

    fn security(&mut self) -> &mut v1::LinuxContainerSecurityContext {
        let linux = self.config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default()
    }

    fn options(&mut self) -> &mut v1::NamespaceOption {
        self.security().namespace_options.get_or_insert_default()
    }

    fn make(&self) -> Result<Container> {
        let held = pod::namespaces(&self.pod)?;
        let at = |name: &str| Some(PathBuf::from(format!("/pods/P/{name}")));
        let pod = PodFacts {
            id: "0123456789abcdef",
            config: &self.pod,
            namespaces: Pinned {
                network: at("net").filter(|_| held.network),
                ipc: at("ipc").filter(|_| held.ipc),
                uts: at("uts").filter(|_| held.uts),
                user: at("user").filter(|_| held.user.is_some()),
                pid: at("pid").filter(|_| held.pid == pod::Pid::Pod),
            },
            directory: "/pods/P".into(),
        };
        let asks = asks(&self.config, &self.image)?;
        let source = |(index, path): &(usize, PathBuf)| {
            let source = Source {
                path: path.clone(),
                exists: true,
                propagation: Propagation::Shared,
            };
            (*index, source)
        };
        let image = |(index, ..): &(usize, v1::ImageSpec, PathBuf)| {
            (*index, PathBuf::from(format!("/images/{index}")))
        };
        let place = Place {
            sources: asks.sources.iter().map(source).collect(),
            images: asks.images.iter().map(image).collect(),
            devices: self.devices.clone(),
            cdi: self.cdi.clone(),
            seccomp: self.seccomp,
            target_pid: self.target_pid.clone(),
            ..Place::new("C", "busybox:1", &self.accounts)
        };
        container(&pod, &self.config, &self.image, &place, &self.node)
    }

    fn spec(&self) -> Value {
        self.make().unwrap_or_else(|e| panic!("{}", e.chain())).spec
    }

    fn error(&self) -> String {
        self.make().unwrap_err().chain().to_string()
    }
}

/// The runtime's judgement of a document: no problem, and no warning either.
fn judged(what: &str, document: &Value) {
    let loaded = load::spec(document.to_string().as_bytes());
    let loaded = loaded.unwrap_or_else(|e| panic!("{what}: {}", e.chain()));
    assert!(loaded.warnings.is_empty(), "{what}: {:?}", loaded.warnings);
    let facts = Facts {
        rootfs: Rootfs::Usable,
        privileged: true,
        rootless_cgroups: false,
        no_pivot: false,
        cgroup2: true,
        selinux: true,
        rdt: false,
        rdt_cache: false,
        rdt_bandwidth: false,
        joins_own_network: false,
    };
    let warnings = validate(&loaded.spec, &facts);
    let warnings = warnings.unwrap_or_else(|problems| panic!("{what}: {problems}"));
    assert!(warnings.is_empty(), "{what}: {warnings:?}");
    let facts = rcrun_runtime::plan::Facts {
        bundle: std::path::Path::new("/bundle"),
        no_pivot: false,
        listen_fds: None,
        selinux: true,
    };
    if let Err(error) = rcrun_runtime::plan::Plan::from_spec(&loaded.spec, &facts) {
        panic!("{what}: {}", error.chain());
    }
}

fn namespaces(document: &Value) -> String {
    let list = document["linux"]["namespaces"].as_array().unwrap();
    let one = |namespace: &Value| {
        let kind = namespace["type"].as_str().unwrap();
        match namespace["path"].as_str() {
            Some(path) => format!("{kind}={path}"),
            None => kind.to_owned(),
        }
    };
    list.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_runtime_takes_what_a_kubelet_asks_for() {
    for case in CASES {
        for index in 0..recorded::containers(case).len() {
            for selinux in [false, true] {
                let mut stage = Stage::new(case, index);
                stage.node.selinux = selinux;
                judged(&format!("{case} {index}"), &stage.spec());
            }
        }
    }
}

#[test]
fn namespaces_of_pods() {
    let own = "network=/pods/P/net ipc=/pods/P/ipc uts=/pods/P/uts";
    for (case, expected) in [
        ("main", format!("mount {own} pid cgroup")),
        ("sharedpid", format!("mount {own} pid=/pods/P/pid cgroup")),
        (
            "userns",
            format!("mount {own} user=/pods/P/user pid cgroup"),
        ),
        ("hostns", "mount cgroup".into()),
    ] {
        assert_eq!(namespaces(&Stage::new(case, 0).spec()), expected, "{case}");
    }
    let mut old = Stage::new("main", 0);
    old.node.cgroup2 = false;
    assert_eq!(namespaces(&old.spec()), format!("mount {own} pid"));
}

#[test]
fn the_first_container_of_the_fixture() {
    let stage = Stage::new("crit", 0);
    let made = stage.make().unwrap();
    let process = &made.spec["process"];
    assert_eq!(process["oomScoreAdj"], -997);
    assert_eq!(
        process["env"],
        json!(["PATH=/bin", "HOSTNAME=crit-klab-node"])
    );
    assert_eq!(process["cwd"], "/");
    assert_eq!(
        process["user"],
        json!({"uid": 0, "gid": 0, "additionalGids": [0, 10]})
    );
    assert_eq!(
        process["capabilities"]["bounding"]
            .as_array()
            .unwrap()
            .len(),
        14
    );
    assert_eq!(process["capabilities"].get("ambient"), None);
    assert_eq!(process["capabilities"].get("inheritable"), None);
    let linux = &made.spec["linux"];
    assert_eq!(
        linux["resources"]["memory"],
        json!({"limit": 16_777_216, "swap": 16_777_216})
    );
    assert_eq!(
        linux["resources"]["cpu"],
        json!({"period": 100_000, "quota": 1000, "shares": 10})
    );
    let path = "/klab/kubepods/podf5d41af59cedac6c9d5dfe50df8b53bb/C";
    assert_eq!(linux["cgroupsPath"], path);
    assert_eq!(linux["maskedPaths"].as_array().unwrap().len(), 12);
    assert_eq!(linux.get("seccomp"), None);
    let notes = &made.spec["annotations"];
    for (name, value) in [
        ("io.kubernetes.cri.container-type", "container"),
        ("io.kubernetes.cri.container-name", "c"),
        ("io.kubernetes.cri.image-name", "busybox:1"),
        ("io.kubernetes.cri.sandbox-id", "0123456789abcdef"),
        ("io.kubernetes.cri.sandbox-name", "crit-klab-node"),
        ("io.kubernetes.cri.sandbox-namespace", "kube-system"),
        (
            "io.kubernetes.cri.sandbox-uid",
            "f5d41af59cedac6c9d5dfe50df8b53bb",
        ),
        ("io.kubernetes.container.restartCount", "0"),
    ] {
        assert_eq!(notes[name], value, "{name}");
    }
    let log = made.log.unwrap();
    assert_eq!(log.path, PathBuf::from("c/0.log"));
    assert!(
        log.full()
            .ends_with("kube-system_crit-klab-node_f5d41af59cedac6c9d5dfe50df8b53bb/c/0.log")
    );
    assert_eq!(
        (made.stop_signal, made.stdin, made.terminal),
        (15, false, false)
    );
    assert!(made.make.is_empty() && made.relabel.is_empty());
}

#[test]
fn a_container_that_is_confined() {
    let made = Stage::new("sec", 0).spec();
    let process = &made["process"];
    let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [1001, 2000, 3000]});
    assert_eq!(process["user"], user);
    assert_eq!(process["noNewPrivileges"], true);
    let only = json!(["CAP_NET_BIND_SERVICE"]);
    assert_eq!(process["capabilities"]["effective"], only);
    assert_eq!(made["root"]["readonly"], true);
    assert_eq!(made["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    let hostname = made["mounts"].as_array().unwrap().iter();
    let hostname = hostname
        .clone()
        .find(|mount| mount["destination"] == "/etc/hostname");
    assert_eq!(
        hostname.unwrap()["options"],
        json!(["rbind", "rprivate", "ro"])
    );
}

#[test]
fn a_privileged_container() {
    let mut stage = Stage::new("sec", 1);
    let node = |path: &str| DeviceNode {
        path: path.into(),
        kind: 'c',
        major: 1,
        minor: 3,
        mode: 0o666,
        uid: 0,
        gid: 0,
        access: "rwm".into(),
    };
    stage.devices = vec![node("/dev/null2"), node("/dev/null3")];
    stage.node.selinux = true;
    stage.node.apparmor = Some(Some("rcrun-default".into()));
    assert!(asks(&stage.config, &stage.image).unwrap().every_device);
    let made = stage.spec();
    judged("privileged", &made);
    let process = &made["process"];
    assert_eq!(
        process["capabilities"]["bounding"]
            .as_array()
            .unwrap()
            .len(),
        41
    );
    assert_eq!(process.get("apparmorProfile"), None);
    assert_eq!(process.get("selinuxLabel"), None);
    let linux = &made["linux"];
    assert_eq!(linux.get("seccomp"), None);
    assert_eq!(linux["maskedPaths"], json!([]));
    assert_eq!(linux["readonlyPaths"], json!([]));
    assert_eq!(linux["devices"].as_array().unwrap().len(), 2);
    let all = json!([{"allow": true, "access": "rwm"}]);
    assert_eq!(linux["resources"]["devices"], all);
    assert_eq!(linux["rootfsPropagation"], "rshared");
    assert!(!namespaces(&made).contains("cgroup"));
    for (path, word) in [("/sys", "rw"), ("/sys/fs/cgroup", "rw")] {
        let list = made["mounts"].as_array().unwrap();
        let found = list
            .iter()
            .find(|mount| mount["destination"] == path)
            .unwrap();
        assert!(
            found["options"].as_array().unwrap().contains(&json!(word)),
            "{path}"
        );
    }
    // In a pod that was made without allowing it.
    let security = stage.pod.linux.as_mut().unwrap().security_context.as_mut();
    security.unwrap().privileged = false;
    assert!(stage.error().contains("without allowing privileged"));
    stage.pod.linux = None;
    assert!(stage.error().contains("without allowing privileged"));
}

#[test]
fn a_container_with_a_user_namespace() {
    let stage = Stage::new("userns", 0);
    let made = stage.spec();
    let map = json!([{"containerID": 0, "hostID": 146_735_104, "size": 65_536}]);
    assert_eq!(made["linux"]["uidMappings"], map);
    assert_eq!(made["linux"]["gidMappings"], map);
    for mount in made["mounts"].as_array().unwrap() {
        let path = mount["destination"].as_str().unwrap();
        let mapped = [
            "/v",
            "/etc/hosts",
            "/etc/hostname",
            "/etc/resolv.conf",
            "/dev/termination-log",
        ];
        let expected = if mapped.contains(&path) {
            map.clone()
        } else {
            Value::Null
        };
        assert_eq!(mount["uidMappings"], expected, "{path}");
    }
    // The node's network: its /sys is bound.
    let mut stage = Stage::new("userns", 0);
    let linux = stage.pod.linux.as_mut().unwrap();
    let security = linux.security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().network = v1::NamespaceMode::Node as i32;
    let made = stage.spec();
    judged("the node's network", &made);
    let list = made["mounts"].as_array().unwrap();
    let sys = list
        .iter()
        .find(|mount| mount["destination"] == "/sys")
        .unwrap();
    assert_eq!(
        (&sys["type"], &sys["source"]),
        (&json!("bind"), &json!("/sys"))
    );
}

#[test]
fn images_as_volumes() {
    let stage = Stage::new("imgvol", 0);
    let asks = asks(&stage.config, &stage.image).unwrap();
    let images: Vec<_> = asks
        .images
        .iter()
        .map(|(index, _, below)| (*index, below.as_path()))
        .collect();
    assert_eq!(images, [(0, "".as_ref()), (1, "etc".as_ref())]);
    assert_eq!(asks.sources.len(), 2);
    let made = stage.spec();
    let list = made["mounts"].as_array().unwrap();
    let found = list
        .iter()
        .find(|mount| mount["destination"] == "/sub")
        .unwrap();
    assert_eq!(found["source"], "/images/1");
    assert_eq!(found["options"], json!(["rbind", "rprivate", "ro"]));
}

#[test]
fn what_was_not_looked_up_is_an_error() {
    let mut stage = Stage::new("main", 0);
    stage.security().seccomp = Some(v1::SecurityProfile {
        profile_type: 2,
        localhost_ref: "/profiles/p.json".into(),
    });
    let asked = asks(&stage.config, &stage.image).unwrap();
    assert_eq!(asked.seccomp, Some("/profiles/p.json".into()));
    assert!(
        stage
            .error()
            .contains("no seccomp profile /profiles/p.json")
    );
    stage.seccomp = Some(br#"{"defaultAction":"SCMP_ACT_LOG"}"#);
    assert_eq!(
        stage.spec()["linux"]["seccomp"]["defaultAction"],
        "SCMP_ACT_LOG"
    );
    stage.options().pid = v1::NamespaceMode::Target as i32;
    stage.options().target_id = "other".into();
    let asked = asks(&stage.config, &stage.image).unwrap();
    assert_eq!(asked.target.as_deref(), Some("other"));
    assert!(stage.error().contains("pid namespace"));
    stage.target_pid = Some("/proc/7/ns/pid".into());
    assert!(namespaces(&stage.spec()).contains("pid=/proc/7/ns/pid"));
}

#[test]
fn devices_of_the_container_device_interface() {
    let mut stage = Stage::new("main", 0);
    stage.cdi = Applied {
        env: vec!["GPU=1".into()],
        mounts: vec![
            json!({"destination": "/etc/vendor", "type": "bind", "source": "/etc", "options": ["rbind"]}),
        ],
        hooks: [(
            "createContainer".to_owned(),
            vec![json!({"path": "/bin/true"})],
        )]
        .into(),
        gids: vec![44],
        ..Applied::default()
    };
    let made = stage.spec();
    judged("cdi", &made);
    assert_eq!(made["hooks"]["createContainer"][0]["path"], "/bin/true");
    assert!(
        made["process"]["env"]
            .as_array()
            .unwrap()
            .contains(&json!("GPU=1"))
    );
    assert_eq!(
        made["process"]["user"]["additionalGids"],
        json!([0, 10, 44])
    );
    let list = made["mounts"].as_array().unwrap();
    assert!(
        list.iter()
            .any(|mount| mount["destination"] == "/etc/vendor")
    );
}

/// What nobody says anything about is as for everybody; an empty list is somebody's word.
#[test]
fn masks_of_proc() {
    let mut stage = Stage::new("main", 0);
    stage.security().masked_paths.clear();
    stage.security().readonly_paths.clear();
    let made = stage.spec();
    assert_eq!(made["linux"]["maskedPaths"], json!([]));
    assert_eq!(made["linux"]["readonlyPaths"], json!([]));
    stage.config.linux = None;
    let made = stage.spec();
    assert_eq!(made["linux"]["maskedPaths"].as_array().unwrap().len(), 12);
    assert_eq!(made["linux"]["readonlyPaths"].as_array().unwrap().len(), 5);
}

#[test]
fn labels_of_selinux() {
    let mut stage = Stage::new("main", 0);
    stage.node.selinux = true;
    stage.config.mounts[0].selinux_relabel = true;
    let label = |stage: &Stage| stage.spec()["process"]["selinuxLabel"].clone();
    // Categories of the pod's ID.
    assert_eq!(label(&stage), "system_u:system_r:container_t:s0:c291,c359");
    let made = stage.make().unwrap();
    let context = "system_u:object_r:container_file_t:s0:c291,c359";
    assert_eq!(made.spec["linux"]["mountLabel"], context);
    assert!(made.relabel.iter().all(|(_, label)| label == context));
    let source = PathBuf::from(&stage.config.mounts[0].host_path);
    assert!(made.relabel.iter().any(|(path, _)| *path == source));
    let level = |level: &str| {
        Some(v1::SeLinuxOption {
            level: level.into(),
            ..v1::SeLinuxOption::default()
        })
    };
    let linux = stage.pod.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().selinux_options = level("s0:c1,c2");
    assert_eq!(label(&stage), "system_u:system_r:container_t:s0:c1,c2");
    stage.security().selinux_options = level("s0:c3,c4");
    assert_eq!(label(&stage), "system_u:system_r:container_t:s0:c3,c4");
    stage.node.selinux = false;
    assert_eq!(label(&stage), Value::Null);
    assert!(stage.make().unwrap().relabel.is_empty());
}

#[test]
fn limits_alone_are_what_an_update_takes() {
    let stage = Stage::new("crit", 0);
    let linux = stage.config.linux.unwrap();
    let limits = resources::resources(&linux.resources.unwrap(), &stage.node).unwrap();
    load::resources(limits.to_string().as_bytes()).unwrap();
}
