use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    (directory, store)
}

fn make(volumes: &Volumes, name: &str) -> Option<Volume> {
    volumes.make(name, &BTreeMap::new(), false).unwrap()
}

#[test]
fn names_are_dockers() {
    for (name, expected) in [
        ("data", true),
        ("a1", true),
        ("9_.-", true),
        ("a", false),
        ("", false),
        (".a", false),
        ("-a", false),
        ("a/b", false),
        ("..", false),
        ("ä1", false),
        ("a b", false),
        ("a\n", false),
    ] {
        assert_eq!(is_name(name), expected, "{name:?}");
    }
    assert!(is_name(&"a".repeat(255)) && !is_name(&"a".repeat(256)));
}

#[test]
fn one_name_is_one_volume_and_looking_makes_nothing() {
    let (_directory, store) = store();
    assert!(Volumes::existing(&store).unwrap().is_none());
    let volumes = Volumes::open(&store).unwrap();
    let first = make(&volumes, "data").unwrap();
    assert!(make(&volumes, "data").is_none());
    std::fs::write(first.mountpoint().join("x"), "1").unwrap();
    drop(first);
    let volume = volumes.take("data").unwrap().unwrap();
    assert_eq!(volume.record().unwrap().unwrap().name, "data");
    volumes.remove(&volume).unwrap();
    assert!(volumes.get("data").unwrap().is_none());
    let left = |name: &str| tree::names(store.directory(name).unwrap()).unwrap();
    assert!(left("volumes").is_empty() && left("trash").is_empty());
}

#[test]
fn who_waited_for_a_volume_that_was_removed_finds_none() {
    let (_directory, store) = store();
    let volumes = Volumes::open(&store).unwrap();
    let held = make(&volumes, "data").unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| Volumes::open(&store).unwrap().take("data").unwrap());
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!waiting.is_finished());
        volumes.remove(&held).unwrap();
        drop(held);
        assert!(waiting.join().unwrap().is_none());
    });
}

#[test]
fn what_was_begun_is_swept_and_what_is_held_is_not() {
    let (_directory, store) = store();
    let volumes = Volumes::open(&store).unwrap();
    let names = || tree::names(&volumes.directory).unwrap().len();
    let held = volumes.begin(".new-1-1").unwrap();
    drop(volumes.begin(".new-1-2").unwrap());
    let whole = make(&volumes, "whole").unwrap();
    drop(make(&volumes, "half"));
    let half = place(store.path()).join("half");
    std::fs::remove_file(half.join(record::FILE)).unwrap();
    assert!(volumes.get("half").unwrap().is_none());
    volumes.sweep().unwrap();
    assert_eq!(names(), 2);
    drop((held, whole));
    volumes.sweep().unwrap();
    assert_eq!(names(), 1);
    assert!(volumes.get("whole").unwrap().is_some());
    // What is left of one is in nobody's way.
    std::fs::create_dir_all(half.join("data")).unwrap();
    assert!(volumes.take("half").unwrap().is_none());
    assert!(make(&volumes, "half").is_some());
}
