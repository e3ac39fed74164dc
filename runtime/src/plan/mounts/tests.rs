use super::*;

fn one(json: serde_json::Value) -> Result<MountStep> {
    labelled(json, None)
}

fn labelled(json: serde_json::Value, label: Option<&str>) -> Result<MountStep> {
    let mount: Mount = serde_json::from_value(json).unwrap();
    let context = MountContext {
        bundle: Path::new("/bundle"),
        root: Path::new("/bundle/rootfs"),
        label,
        label_option: "context",
        foreign_network: true,
    };
    step(0, &mount, &context)
}

#[test]
fn each_type_gets_its_label_in_its_way() {
    for (fstype, data, label) in [
        ("tmpfs", c"size=1,context=\"u:r:t:s0:c1,c2\"", None),
        ("mqueue", c"size=1", Some(c"u:r:t:s0:c1,c2".to_owned())),
        ("proc", c"size=1", None),
        ("sysfs", c"size=1", None),
    ] {
        let destination = if fstype == "proc" { "/proc" } else { "/x" };
        let mount = serde_json::json!({
            "destination": destination, "type": fstype, "options": ["size=1"]
        });
        let MountKind::Filesystem(fs) = labelled(mount, Some("u:r:t:s0:c1,c2")).unwrap().kind
        else {
            panic!("not a file system")
        };
        assert_eq!((fs.data.as_c_str(), fs.label), (data, label), "{fstype}");
    }
}

#[test]
fn relative_sources_start_at_the_bundle() {
    let step = one(serde_json::json!({
        "destination": "/data", "source": "vol", "options": ["rbind", "ro"]
    }))
    .unwrap();
    let MountKind::Bind(bind) = step.kind else {
        panic!("not a bind mount")
    };
    assert_eq!(bind.source.as_c_str(), c"/bundle/vol");
    assert!(bind.recursive);
    assert_eq!(step.attr.set, attr::RDONLY);
}

#[test]
fn cgroups_of_the_host_are_masked() {
    let sysfs = || one(serde_json::json!({"destination": "/sys/", "type": "sysfs"})).unwrap();
    let at = |path: &str| one(serde_json::json!({"destination": path, "type": "tmpfs"})).unwrap();
    assert_eq!(
        exposed_cgroups(&[sysfs()]).as_deref(),
        Some(c"/sys/fs/cgroup")
    );
    assert!(exposed_cgroups(&[sysfs(), at("/sys/fs")]).is_some());
    for covered in ["/sys/fs/cgroup", "sys/fs/../fs/cgroup/"] {
        assert_eq!(exposed_cgroups(&[sysfs(), at(covered)]), None, "{covered}");
    }
    assert_eq!(exposed_cgroups(&[at("/sys")]), None);
}

#[test]
fn labels_are_carried_by_the_option_asked_for() {
    let context = MountContext {
        bundle: Path::new("/bundle"),
        root: Path::new("/bundle/rootfs"),
        label: Some("u:r:t:s0:c1,c2"),
        label_option: "rootcontext",
        foreign_network: false,
    };
    for (kind, labelled) in [("tmpfs", true), ("proc", false)] {
        let json = serde_json::json!({"destination": "/a", "type": kind, "source": kind});
        let mount: Mount = serde_json::from_value(json).unwrap();
        let MountKind::Filesystem(fs) = step(0, &mount, &context).unwrap().kind else {
            panic!("not a file system")
        };
        let data = format!("{:?}", fs.data);
        assert_eq!(data.contains("rootcontext="), labelled, "{data}");
    }
}

#[test]
fn readonly_dev_is_postponed() {
    let step = one(serde_json::json!({
        "destination": "/dev", "type": "tmpfs", "options": ["ro", "size=64k"]
    }))
    .unwrap();
    let MountKind::Filesystem(fs) = step.kind else {
        panic!("not a file system")
    };
    assert!(fs.late_readonly && fs.flags & libc::MS_RDONLY == 0 && fs.inherit_mode);
}

#[test]
fn only_known_files_below_proc_are_covered() {
    for destination in ["/proc/cpuinfo", "/x/../proc/./uptime", "/proc/net/dev"] {
        let json = serde_json::json!({"destination": destination, "type": "bind", "source": "/a"});
        assert!(one(json).unwrap().inside_proc, "{destination}");
    }
    for destination in [
        "/proc",
        "/proc/self/attr/exec",
        "/proc/../proc/sys",
        "/proc/1",
    ] {
        let json = serde_json::json!({"destination": destination, "type": "bind", "source": "/a"});
        assert!(one(json).is_err(), "{destination}");
    }
    let host = serde_json::json!({"destination": "/proc", "type": "bind", "source": "/proc"});
    assert!(one(host).is_ok());
    let elsewhere = serde_json::json!({"destination": "/process", "type": "bind", "source": "/a"});
    assert!(!one(elsewhere).unwrap().inside_proc);
}

#[test]
fn contradictions_are_refused() {
    for json in [
        serde_json::json!({"destination": "/a", "type": "bind"}),
        serde_json::json!({"destination": "/a"}),
        serde_json::json!({"destination": "/a", "type": "proc", "options": ["tmpcopyup"]}),
        serde_json::json!({"destination": "/a", "type": "bind", "source": "/b",
            "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}),
    ] {
        assert!(one(json.clone()).is_err(), "{json}");
    }
}
