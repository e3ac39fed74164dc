use rcrun_image::accounts::Accounts;

use super::*;

fn mount(inner: &str, host: &str) -> v1::Mount {
    v1::Mount {
        container_path: inner.into(),
        host_path: host.into(),
        ..v1::Mount::default()
    }
}

fn image(inner: &str, sub: &str) -> v1::Mount {
    v1::Mount {
        container_path: inner.into(),
        readonly: true,
        image: Some(v1::ImageSpec {
            image: "sha256:1".into(),
            ..v1::ImageSpec::default()
        }),
        image_sub_path: sub.into(),
        ..v1::Mount::default()
    }
}

fn node() -> Node {
    Node {
        deep_read_only: true,
        mapped_mounts: true,
        ..Node::default()
    }
}

/// Sources that exist, on mounts of that propagation; images at `/images/INDEX`.
fn made(mounts: &[v1::Mount], propagation: Propagation) -> Result<Mounts> {
    made_with(mounts, propagation, true, &node(), None)
}

fn made_with(
    mounts: &[v1::Mount],
    propagation: Propagation,
    exists: bool,
    node: &Node,
    map: Option<IdMap>,
) -> Result<Mounts> {
    let config = v1::ContainerConfig {
        mounts: mounts.to_vec(),
        ..v1::ContainerConfig::default()
    };
    let wanted = wanted(&config)?;
    let accounts = Accounts::default();
    let mut place = Place::new("c", "i", &accounts);
    place.volumes.insert("/data".into(), "/volumes/1".into());
    for (index, origin) in wanted.iter().map(Wanted::what) {
        match origin {
            Origin::Host(path) => {
                let source = Source {
                    path: path.clone(),
                    exists,
                    propagation,
                };
                place.sources.insert(index, source);
            }
            Origin::Image(..) => {
                let path = format!("/images/{index}");
                place.images.insert(index, path.into());
            }
        }
    }
    let base = Base {
        privileged: false,
        ipc: true,
        network: true,
        map,
        read_only: false,
        directory: Path::new("/pod"),
    };
    all(&base, &wanted, &place, node)
}

fn places(mounts: &Mounts) -> Vec<&str> {
    let list = mounts.list.iter();
    list.filter_map(|mount| mount["destination"].as_str())
        .collect()
}

fn found<'a>(mounts: &'a Mounts, destination: &str) -> &'a Value {
    let found = mounts
        .list
        .iter()
        .find(|mount| mount["destination"] == destination);
    found.unwrap_or_else(|| panic!("nothing at {destination}"))
}

fn words(mount: &Value) -> String {
    let list = mount["options"].as_array().unwrap();
    let list: Vec<_> = list.iter().filter_map(Value::as_str).collect();
    list.join(",")
}

#[test]
fn a_directory_comes_before_what_is_below_it() {
    let asked = [
        mount("/a/b/c", "/1"),
        mount("/a/../a/b", "/2"),
        mount("/etc/hosts", "/kubelet/hosts"),
        mount("/z", "/3"),
    ];
    let all = made(&asked, Propagation::Private).unwrap();
    assert_eq!(
        places(&all),
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/z",
            "/data",
            "/a/b",
            "/etc/hosts",
            "/etc/hostname",
            "/etc/resolv.conf",
            "/dev/shm",
            "/a/b/c"
        ]
    );
    assert_eq!(found(&all, "/etc/hosts")["source"], "/kubelet/hosts");
    assert_eq!(found(&all, "/etc/hostname")["source"], "/pod/hostname");
    assert_eq!(found(&all, "/dev/shm")["source"], "/pod/shm");
    assert_eq!(found(&all, "/data")["source"], "/volumes/1");
    assert!(all.make.is_empty() && all.propagation.is_none());
}

#[test]
fn what_is_asked_for_takes_the_place_of_ours() {
    let all = made(
        &[mount("/dev/", "/dev"), mount("/sys", "/sys")],
        Propagation::Private,
    );
    let all = all.unwrap();
    let inside: Vec<_> = places(&all)
        .into_iter()
        .filter(|path| path.starts_with("/dev"))
        .collect();
    assert_eq!(inside, ["/dev", "/dev/shm"]);
    assert_eq!(found(&all, "/dev")["type"], "bind");
    assert_eq!(found(&all, "/sys")["type"], "bind");
    let shm = made(&[mount("/dev/shm", "/my")], Propagation::Private).unwrap();
    assert_eq!(found(&shm, "/dev/shm")["source"], "/my");
}

/// The pod's files are not put over the host's where a container's mounts become the host's.
#[test]
fn mounts_of_ours_do_not_reach_the_host() {
    for (destination, expected) in [
        ("/etc", &["/data", "/dev/shm"][..]),
        (
            "/dev",
            &["/data", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"],
        ),
        (
            "/data",
            &[
                "/etc/hostname",
                "/etc/hosts",
                "/etc/resolv.conf",
                "/dev/shm",
            ],
        ),
        (
            "/da",
            &[
                "/data",
                "/etc/hostname",
                "/etc/hosts",
                "/etc/resolv.conf",
                "/dev/shm",
            ],
        ),
    ] {
        let mut one = mount(destination, "/h");
        one.propagation = v1::MountPropagation::PropagationBidirectional as i32;
        let all = made(&[one], Propagation::Shared).unwrap();
        let ours = |mount: &&Value| {
            let source = mount["source"].as_str().unwrap_or_default();
            source.starts_with("/pod/") || source.starts_with("/volumes/")
        };
        let ours = all.list.iter().filter(ours);
        let found: Vec<_> = ours
            .filter_map(|mount| mount["destination"].as_str())
            .collect();
        assert_eq!(found, expected, "{destination}");
    }
}

#[test]
fn propagation_and_access() {
    use v1::MountPropagation::{
        PropagationBidirectional as Both, PropagationHostToContainer as In,
        PropagationPrivate as Private,
    };
    for (asked, host, expected) in [
        (Private, Propagation::Private, Some(("rprivate", None))),
        (In, Propagation::Shared, Some(("rslave", Some("rslave")))),
        (In, Propagation::Slave, Some(("rslave", Some("rslave")))),
        (In, Propagation::Private, None),
        (
            Both,
            Propagation::Shared,
            Some(("rshared", Some("rshared"))),
        ),
        (Both, Propagation::Slave, None),
        (Both, Propagation::Private, None),
    ] {
        let mut one = mount("/m", "/h");
        one.propagation = asked as i32;
        let all = made(&[one], host).ok();
        let all = all.map(|all| (words(found(&all, "/m")), all.propagation));
        let expected = expected.map(|(word, root)| (format!("rbind,{word},rw"), root));
        assert_eq!(all, expected, "{asked:?} {host:?}");
    }
    let (mut both, mut in_) = (mount("/a", "/a"), mount("/b", "/b"));
    (both.propagation, in_.propagation) = (Both as i32, In as i32);
    for order in [[both.clone(), in_.clone()], [in_, both]] {
        let all = made(&order, Propagation::Shared).unwrap();
        assert_eq!(all.propagation, Some("rshared"));
    }
    let mut unknown = mount("/m", "/h");
    unknown.propagation = 3;
    assert!(made(&[unknown], Propagation::Shared).is_err());
}

#[test]
fn read_only_with_what_is_below() {
    let one = |readonly, deep, propagation| v1::Mount {
        readonly,
        recursive_read_only: deep,
        propagation,
        ..mount("/m", "/h")
    };
    for (asked, expected) in [
        (one(true, false, 0), Some("rbind,rprivate,ro")),
        (one(true, true, 0), Some("rbind,rprivate,rro")),
        (one(false, true, 0), None),
        (one(true, true, 1), None),
        (one(true, true, 2), None),
    ] {
        let all = made(&[asked], Propagation::Shared).ok();
        let all = all.map(|all| words(found(&all, "/m")));
        assert_eq!(all.as_deref(), expected);
    }
    let deep = [one(true, true, 0)];
    let old = Node::default();
    assert!(made_with(&deep, Propagation::Shared, true, &old, None).is_err());
    let mut more = mount("/m", "/h");
    more.mount_options = vec!["noexec".into(), "nosuid".into()];
    let all = made(&[more.clone()], Propagation::Shared).unwrap();
    assert_eq!(words(found(&all, "/m")), "rbind,noexec,nosuid,rprivate,rw");
    for word in [
        "rw",
        "ro",
        "shared",
        "rbind",
        "remount",
        "idmap",
        "size=1",
        "",
        "noexec,suid",
    ] {
        more.mount_options = vec![word.into()];
        assert!(
            made(&[more.clone()], Propagation::Shared).is_err(),
            "{word}"
        );
    }
}

#[test]
fn mounts_that_are_none() {
    let with_both = v1::Mount {
        host_path: "/h".into(),
        ..image("/m", "")
    };
    let writable = v1::Mount {
        readonly: false,
        ..image("/m", "")
    };
    let nameless = v1::Mount {
        image: Some(v1::ImageSpec::default()),
        ..image("/m", "")
    };
    let shared = v1::Mount {
        propagation: 1,
        ..image("/m", "")
    };
    let sub = v1::Mount {
        image_sub_path: "etc".into(),
        ..mount("/m", "/h")
    };
    let long = format!("/{}", "a".repeat(LONGEST));
    for one in [
        mount("", "/h"),
        mount("m", "/h"),
        mount("/", "/h"),
        mount("/a/..", "/h"),
        mount("/m\0", "/h"),
        mount(&long, "/h"),
        mount("/m", ""),
        mount("/m", "h"),
        mount("/m", "/h\0"),
        mount("/m", &long),
        with_both,
        writable,
        nameless,
        shared,
        sub,
    ] {
        assert!(
            made(std::slice::from_ref(&one), Propagation::Shared).is_err(),
            "{one:?}"
        );
    }
    assert!(made(&vec![mount("/m", "/h"); MOST + 1], Propagation::Shared).is_err());
}

#[test]
fn a_missing_source_is_to_be_made() {
    let all = made_with(
        &[mount("/m", "/h/x")],
        Propagation::Private,
        false,
        &node(),
        None,
    );
    assert_eq!(all.unwrap().make, [PathBuf::from("/h/x")]);
}

#[test]
fn images_are_mounted_where_they_are() {
    let all = made(
        &[mount("/m", "/h"), image("/img", "etc/./x")],
        Propagation::Private,
    )
    .unwrap();
    let one = found(&all, "/img");
    assert_eq!(one["source"], "/images/1");
    assert_eq!(words(one), "rbind,rprivate,ro");
    let config = v1::ContainerConfig {
        mounts: vec![image("/img", "etc/./x")],
        ..v1::ContainerConfig::default()
    };
    let wanted = wanted(&config).unwrap();
    let (_, Origin::Image(spec, below)) = wanted[0].what() else {
        panic!("no image")
    };
    assert_eq!(
        (spec.image.as_str(), below),
        ("sha256:1", &PathBuf::from("etc/x"))
    );
}

/// A path in an image that leads out of it.
#[test]
fn image_sub_paths_that_lead_elsewhere() {
    for path in ["..", "a/../../b", "/etc", "a\0"] {
        assert!(
            made(&[image("/m", path)], Propagation::Private).is_err(),
            "{path}"
        );
    }
}

#[test]
fn ids_of_mounts() {
    let map = |host_id, container_id, length| v1::IdMapping {
        host_id,
        container_id,
        length,
    };
    let mut one = mount("/m", "/h");
    one.uid_mappings = vec![map(100_000, 0, 65_536)];
    assert!(made(&[one.clone()], Propagation::Private).is_err());
    one.gid_mappings = one.uid_mappings.clone();
    let all = made(&[one.clone()], Propagation::Private).unwrap();
    let range = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    assert_eq!(found(&all, "/m")["uidMappings"], range);
    assert_eq!(found(&all, "/m")["gidMappings"], range);
    let old = Node::default();
    assert!(made_with(&[one.clone()], Propagation::Private, true, &old, None).is_err());
    for wrong in [map(0, 0, 0), map(u32::MAX, 0, 1), map(0, u32::MAX, 1)] {
        one.uid_mappings = vec![wrong];
        assert!(
            made(&[one.clone()], Propagation::Private).is_err(),
            "{wrong:?}"
        );
    }
    one.uid_mappings = vec![map(1, 0, 1); RANGES + 1];
    assert!(made(&[one], Propagation::Private).is_err());
    // The pod's files are root's, and so is root of the pod.
    let own = Some(IdMap {
        host: 100_000,
        size: 65_536,
    });
    let all = made_with(&[], Propagation::Private, true, &node(), own).unwrap();
    assert_eq!(found(&all, "/etc/hosts")["uidMappings"], range);
    assert_eq!(found(&all, "/data")["gidMappings"], range);
    assert_eq!(found(&all, "/dev/shm").get("uidMappings"), None);
}

/// CVE-2021-43816: a request to label anew what is the system's.
#[test]
fn cve_2021_43816_labels_of_the_system_stay() {
    for path in NOT_LABELLED {
        let mut one = mount("/m", path);
        one.selinux_relabel = true;
        assert!(made(&[one], Propagation::Private).is_err(), "{path}");
    }
    let mut one = mount("/m", "/var/lib/kubelet/pods/1/volumes/x");
    one.selinux_relabel = true;
    let all = made(&[one.clone()], Propagation::Private).unwrap();
    assert!(all.relabel.contains(&one.host_path.into()));
    assert!(all.relabel.contains(&"/pod/hosts".into()));
}

/// CVE-2022-23648: volumes of an image that name the host's files.
#[test]
fn cve_2022_23648_image_volumes_stay_inside() {
    let image = Config {
        volumes: [
            "/../../etc",
            "data/../../../srv",
            "/",
            "/..",
            "a\0b",
            "/m",
            "/m/",
            "",
        ]
        .map(str::to_owned)
        .into(),
        ..Config::default()
    };
    let config = v1::ContainerConfig {
        mounts: vec![mount("/m", "/h")],
        ..v1::ContainerConfig::default()
    };
    let wanted = wanted(&config).unwrap();
    assert_eq!(volumes(&image, &wanted), ["/etc", "/srv"]);
}
