use serde_json::json;

use super::*;

fn shown(mount: Result<Mount>) -> Option<String> {
    let mount = mount.ok()?;
    let source = match mount.source {
        Source::Host(path) => path.display().to_string(),
        Source::Memory => "tmpfs".into(),
        Source::Volume(volume) => {
            let name = volume.name.unwrap_or_else(|| "new".into());
            let copy = if volume.copy { "" } else { "-" };
            let labels: String = volume.labels.into_keys().collect();
            format!("({name}{copy}{labels})")
        }
    };
    let deep = if mount.read_only { " deep" } else { "" };
    Some(format!(
        "{source} {} {}{deep}",
        mount.destination,
        mount.options.join(",")
    ))
}

#[test]
fn volumes() {
    for (text, expected) in [
        ("/a:/b", Some("/a /b rbind,rprivate")),
        ("/a/../c/:/b/./d/", Some("/c /b/d rbind,rprivate")),
        ("./x:/b:ro", Some("/here/x /b rbind,rprivate,ro deep")),
        ("..:/b", Some("/ /b rbind,rprivate")),
        (
            ".:/b:rw,z,rshared,noexec",
            Some("/here /b rbind,noexec,rshared"),
        ),
        ("/a:/b:ro,rw", Some("/a /b rbind,rprivate")),
        ("/a:/b:bind,ro", Some("/a /b bind,rprivate,ro")),
        ("data:/b", Some("(data) /b rbind,rprivate")),
        (
            "data:/b:ro,nocopy",
            Some("(data-) /b rbind,rprivate,ro deep"),
        ),
        ("/a", Some("(new) /a rbind,rprivate")),
        ("data:/b:rshared", None),
        ("/a:/b:nocopy", None),
        ("a:/b", None),
        ("a/b:/b", None),
        ("-a:/b", None),
        ("data", None),
        ("data:/", None),
        ("/", None),
        ("/a:b", None),
        ("/a:/", None),
        ("/a:/..", None),
        (":/b", None),
        ("/a:/b:shiny", None),
        ("/a:/b:ro:x", None),
    ] {
        let found = shown(volume(text, Path::new("/here")));
        assert_eq!(found.as_deref(), expected, "{text}");
    }
    let error = volume("da/ta:/b", Path::new("/")).unwrap_err().to_string();
    assert!(error.contains("./da/ta"), "{error}");
}

#[test]
fn mounts_with_fields() {
    for (text, expected) in [
        (
            "type=bind,source=/a,target=/b",
            Some("/a /b rbind,rprivate"),
        ),
        (
            "type=bind,src=a,dst=/b,readonly",
            Some("/here/a /b rbind,rprivate,ro deep"),
        ),
        (
            "type=bind,src=/a,dst=/b,ro=false",
            Some("/a /b rbind,rprivate"),
        ),
        (
            "type=bind,src=/a,dst=/b,ro,bind-recursive=writable",
            Some("/a /b rbind,rprivate,ro"),
        ),
        (
            "type=bind,src=/a,dst=/b,bind-nonrecursive=true",
            Some("/a /b bind,rprivate"),
        ),
        (
            "type=bind,source=/a,destination=/b,bind-propagation=rslave,consistency=cached",
            Some("/a /b rbind,rslave"),
        ),
        (
            "\"type=bind\",\"source=/a,b\",\"target=/c\"\"d\"",
            Some("/a,b /c\"d rbind,rprivate"),
        ),
        (
            "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770",
            Some("tmpfs /t nosuid,nodev,noexec,size=1048576,mode=1770"),
        ),
        ("type=tmpfs,source=/a,target=/t", None),
        ("type=bind,target=/b", None),
        ("type=bind,source=/a", None),
        ("type=bind,source=/a,target=/b,shiny", None),
        ("source=/a,target=/b", None),
        ("source=data,target=/b", Some("(data) /b rbind,rprivate")),
        ("type=volume,dst=/b", Some("(new) /b rbind,rprivate")),
        (
            "type=volume,src=data,dst=/b,ro,volume-nocopy,volume-label=x=y,volume-driver=local",
            Some("(data-x) /b rbind,rprivate,ro deep"),
        ),
        ("type=volume,source=a,target=/b", None),
        ("type=volume,source=../a,target=/b", None),
        (
            "type=volume,source=data,target=/b,volume-subpath=../..",
            None,
        ),
        ("type=volume,source=data,target=/b,volume-driver=nfs", None),
        (
            "type=volume,source=data,target=/b,bind-propagation=rshared",
            None,
        ),
        ("type=bind,\"source=/a", None),
    ] {
        let found = shown(mount(text, Path::new("/here")));
        assert_eq!(found.as_deref(), expected, "{text}");
    }
}

#[test]
fn file_systems_in_memory() {
    for (text, expected) in [
        ("/t", Some("tmpfs /t nosuid,nodev,noexec")),
        (
            "/t:size=64m,mode=700,exec",
            Some("tmpfs /t nosuid,nodev,noexec,size=64m,mode=700,exec"),
        ),
        ("t", None),
        ("/t:size=x", None),
        ("/t:upperdir=/a", None),
        ("/t:source=/dev/sda", None),
    ] {
        assert_eq!(shown(tmpfs(text)).as_deref(), expected, "{text}");
    }
}

#[test]
fn what_is_asked_for_takes_the_place_and_parents_come_first() {
    let base = Base {
        shm: Some(64 << 20),
        terminal_group: true,
        ..Base::default()
    };
    let here = Path::new("/");
    let asked = [
        tmpfs("/a/b/c").unwrap(),
        volume("/x:/a:ro", here).unwrap(),
        tmpfs("/dev/shm:size=1m").unwrap(),
        volume("/h:/etc/hosts", here).unwrap(),
        volume("data:/d/e/f/g", here).unwrap(),
    ];
    let place = VolumePlace {
        directory: "/s/volumes".into(),
        mapped: true,
    };
    let files = [
        ("/etc/hosts", PathBuf::from("/s/hosts")),
        ("/etc/hostname", "/s/name".into()),
    ];
    let mounts = all(&base, &files, &asked, true, &place);
    let order: Vec<_> = mounts
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap())
        .collect();
    assert_eq!(
        order,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/sys",
            "/sys/fs/cgroup",
            "/dev/mqueue",
            "/a",
            "/etc/hostname",
            "/dev/shm",
            "/etc/hosts",
            "/a/b/c",
            "/d/e/f/g"
        ]
    );
    assert_eq!(
        mounts[6]["options"],
        json!(["rbind", "rprivate", "ro", "rro"])
    );
    assert_eq!(mounts[9]["source"], "/h");
    assert_eq!(mounts[11]["source"], "/s/volumes/data/data");
    assert_eq!(mounts[11]["options"], json!(["rbind", "rprivate", "idmap"]));
}
