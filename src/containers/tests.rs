use super::*;
use std::collections::BTreeMap;

fn scratch() -> (tempfile::TempDir, Containers) {
    let directory = tempfile::tempdir().unwrap();
    let containers = Containers::open(directory.path()).unwrap();
    (directory, containers)
}

fn record(container: &Container, name: &str, root: &Path) -> Record {
    Record {
        version: Record::VERSION,
        id: container.id().to_owned(),
        name: name.to_owned(),
        image: ImageFacts {
            name: "a".into(),
            reference: "docker.io/library/a:latest".into(),
            manifest: "sha256:0".into(),
            config: "sha256:1".into(),
        },
        snapshot: container.id().to_owned(),
        created: "2026-01-01T00:00:00.000000000Z".into(),
        command: vec!["sh".into()],
        labels: BTreeMap::new(),
        auto_remove: false,
        terminal: false,
        stdin: Stdin::None,
        stop_signal: 15,
        stop_timeout: Some(10),
        log: Some(Log {
            max_size: None,
            max_files: 1,
            attributes: Default::default(),
        }),
        detach_keys: String::new(),
        map: Vec::new(),
        volumes: Vec::new(),
        network: None,
        runtime: record::RuntimeFacts {
            root: root.to_owned(),
            systemd_cgroup: false,
            rootless: None,
        },
    }
}

fn made(containers: &Containers, name: &str, root: &Path) -> Container {
    let container = containers.create().unwrap();
    containers.reserve(name, &container, true).unwrap();
    container.write(&record(&container, name, root)).unwrap();
    rustix::fs::flock(&container.fd, FlockOperation::Unlock).unwrap();
    container
}

/// Of the container as somebody else sees it.
fn again(containers: &Containers, container: &Container) -> Container {
    containers.open_id(container.id()).unwrap()
}

#[test]
fn looking_for_containers_makes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Containers::existing(directory.path()).unwrap().is_none());
    assert!(
        Containers::existing(&directory.path().join("x"))
            .unwrap()
            .is_none()
    );
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn found_by_name_id_and_the_beginning_of_an_id() {
    let (directory, containers) = scratch();
    let run = directory.path().join("run");
    let one = made(&containers, "web", &run);
    let id = one.id().to_owned();
    for text in ["web", &id, &id[..12], &id[..1]] {
        assert_eq!(containers.get(text).unwrap().id(), id, "{text}");
    }
    for text in [
        "",
        "we",
        "webb",
        "../web",
        ".",
        "names",
        &id.to_uppercase(),
        &"0".repeat(64),
    ] {
        assert!(containers.find(text).unwrap().is_none(), "{text}");
    }
    // Sixteen digits, seventeen containers: two begin with the same one.
    let others: Vec<_> = (0..17)
        .map(|n| made(&containers, &format!("c{n}"), &run))
        .collect();
    let ids: Vec<_> = others.iter().map(|other| other.id().to_owned()).collect();
    let twice = ids
        .iter()
        .enumerate()
        .find_map(|(at, id)| {
            ids[..at]
                .iter()
                .any(|b| b[..1] == id[..1])
                .then_some(&id[..1])
        })
        .unwrap();
    let message = containers.find(twice).unwrap_err().to_string();
    assert!(
        message.contains("several containers' IDs begin with"),
        "{message}"
    );
    assert!(message.matches(" (c").count() >= 2, "{message}");
    // A name that is the beginning of an ID is a name.
    let named = made(&containers, &ids[3][..6], &run);
    assert_eq!(containers.get(&ids[3][..6]).unwrap().id(), named.id());
    assert_eq!(
        containers.list(&mut |_, e| panic!("{e}")).unwrap().len(),
        19
    );
}

#[test]
fn names_are_dockers() {
    for name in ["a1", "web", "Web_1.x-y", "00", &"0".repeat(63)] {
        assert!(is_name(name), "{name}");
    }
    let long = "x".repeat(129);
    for name in [
        "",
        "a",
        "-a",
        ".a",
        "_a",
        "a/b",
        "a b",
        "ä1",
        "..",
        &"0".repeat(64),
        &long,
    ] {
        assert!(!is_name(name), "{name}");
    }
}

#[test]
fn a_name_belongs_to_one() {
    let (directory, containers) = scratch();
    let run = directory.path().join("run");
    let one = made(&containers, "web", &run);
    let other = containers.create().unwrap();
    let error = containers.reserve("web", &other, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    assert!(error.to_string().contains(short(one.id())), "{error}");
    let one = again(&containers, &one);
    containers.remove(&one, &one.lock().unwrap()).unwrap();
    containers.reserve("web", &other, true).unwrap();
    // Being made counts as well.
    let third = containers.create().unwrap();
    assert_eq!(
        containers.reserve("web", &third, true).unwrap_err().kind(),
        ErrorKind::Exists
    );
}

#[test]
fn of_sixteen_who_want_one_name_one_gets_it() {
    let (directory, containers) = scratch();
    drop(containers);
    let path = directory.path();
    let got: usize = std::thread::scope(|scope| {
        let all: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(move || {
                    let containers = Containers::open(path).unwrap();
                    let container = containers.create().unwrap();
                    let got = containers.reserve("web", &container, true).is_ok();
                    // Who failed dies without cleaning up: still nobody else gets the name.
                    if got {
                        let run = path.join("run");
                        container.write(&record(&container, "web", &run)).unwrap();
                    }
                    usize::from(got)
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!(got, 1);
    let containers = Containers::open(path).unwrap();
    assert_eq!(containers.sweep().unwrap(), 15);
    assert_eq!(containers.ids().unwrap().len(), 1);
}

#[test]
fn what_a_killed_maker_left_gives_its_name_back() {
    let (directory, containers) = scratch();
    let run = directory.path().join("run");
    let dead = containers.create().unwrap();
    containers.reserve("web", &dead, true).unwrap();
    std::fs::write(dead.path().join("config.json"), "{}").unwrap();
    std::fs::create_dir(dead.path().join("rootfs")).unwrap();
    let path = dead.path().to_owned();
    drop(dead);
    assert!(
        containers
            .list(&mut |_, e| panic!("{e}"))
            .unwrap()
            .is_empty()
    );
    let next = made(&containers, "web", &run);
    assert!(!path.exists());
    assert_eq!(containers.get("web").unwrap().id(), next.id());
    // A link to nothing.
    std::os::unix::fs::symlink(
        "0".repeat(64),
        directory.path().join("containers/names/gone"),
    )
    .unwrap();
    made(&containers, "gone", &run);
}

#[test]
fn a_removal_that_was_killed_anywhere_is_repeated() {
    let (directory, containers) = scratch();
    let run = directory.path().join("run");
    let steps: [fn(&Path, &Path); 5] = [
        |_, _| {},
        |path, _| std::fs::remove_file(path.join("config.json")).unwrap(),
        |path, _| std::fs::remove_file(path.join("container.json")).unwrap(),
        |path, _| std::fs::remove_dir_all(path).unwrap(),
        |path, name| {
            std::fs::remove_dir_all(path).unwrap();
            std::fs::remove_file(name).unwrap();
        },
    ];
    for (number, step) in steps.iter().enumerate() {
        let one = made(&containers, "web", &run);
        std::fs::write(one.path().join("config.json"), "{}").unwrap();
        std::fs::create_dir(one.path().join("rootfs")).unwrap();
        step(one.path(), &directory.path().join("containers/names/web"));
        if let Some(found) = containers.find("web").unwrap() {
            containers.remove(&found, &found.lock().unwrap()).unwrap();
        }
        assert!(containers.ids().unwrap().is_empty(), "step {number}");
        let next = made(&containers, "web", &run);
        containers.remove(&next, &next.lock().unwrap()).unwrap();
    }
}

#[test]
fn a_removed_container_is_not_locked() {
    let (directory, containers) = scratch();
    let one = made(&containers, "web", &directory.path().join("run"));
    let late = again(&containers, &one);
    containers.remove(&one, &one.lock().unwrap()).unwrap();
    assert_eq!(late.lock().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(late.record().unwrap(), None);
}

#[test]
fn status_without_a_runtime_is_exited_with_what_is_known() {
    let (directory, containers) = scratch();
    let one = made(&containers, "web", &directory.path().join("run"));
    let record = one.complete().unwrap();
    assert_eq!(one.status(&record).unwrap(), Status::Exited(None));
    let exit =
        r#"{"version":1,"code":137,"signal":9,"oom":true,"finished_at":"2026-01-01T00:00:00Z"}"#;
    std::fs::write(one.path().join("exit"), exit).unwrap();
    let Status::Exited(Some(exit)) = one.status(&record).unwrap() else {
        panic!("it ended");
    };
    assert_eq!((exit.code, exit.signal, exit.oom), (137, Some(9), true));
    std::fs::write(one.path().join("exit"), r#"{"version":1"#).unwrap();
    assert_eq!(one.status(&record).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn made_up_names_are_names_and_differ() {
    let (_directory, containers) = scratch();
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..32 {
        let container = containers.create().unwrap();
        let name = containers.reserve_any(&container, true).unwrap();
        assert!(is_name(&name), "{name}");
        container
            .write(&record(&container, &name, Path::new("/none")))
            .unwrap();
        names.insert(name);
    }
    assert_eq!(names.len(), 32);
}
