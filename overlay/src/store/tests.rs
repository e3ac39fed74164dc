use super::*;
use std::os::unix::fs::PermissionsExt;

#[test]
fn is_made_once_and_opened_many_times() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/store");
    for _ in 0..2 {
        let store = Store::open(&path).unwrap();
        assert_eq!(store.path(), path);
        store.directory("images/names").unwrap();
        let error = store.directory("images/none").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
    let text = std::fs::read_to_string(path.join(VERSION_FILE)).unwrap();
    assert_eq!(text, r#"{"version":1}"#);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn is_made_by_many_at_once() {
    for _ in 0..50 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let store = Store::open(&path).unwrap();
                    store.lease().unwrap();
                    assert!(has_version(store.root()).unwrap());
                });
            }
        });
        let left = std::fs::read_dir(&path).unwrap().count();
        assert_eq!(
            left, 9,
            "content layers snapshots containers images leases trash and two files"
        );
    }
}

#[test]
fn half_made_ones_are_completed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::create_dir_all(path.join("content/incoming")).unwrap();
    std::fs::write(path.join(".new-1-1"), "").unwrap();
    Store::open(path)
        .unwrap()
        .directory("containers/names")
        .unwrap();
}

#[test]
fn other_versions_and_other_directories_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    std::fs::write(path.join("letter.txt"), "").unwrap();
    let error = Store::open(path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(
        error.chain().to_string().contains("letter.txt"),
        "{error:?}"
    );
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 1);
    let cases = [
        (r#"{"version":2}"#, ErrorKind::Unsupported),
        (r#"{"version":"1"}"#, ErrorKind::Corrupt),
        ("", ErrorKind::Corrupt),
        ("[1", ErrorKind::Corrupt),
    ];
    for (text, kind) in cases {
        std::fs::write(path.join(VERSION_FILE), text).unwrap();
        let error = Store::open(path).unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error:?}");
    }
    std::fs::write(path.join(VERSION_FILE), vec![b' '; 5000]).unwrap();
    assert_eq!(Store::open(path).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn links_in_the_layout_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    Store::open(&path).unwrap();
    std::fs::rename(path.join("content"), directory.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", path.join("content")).unwrap();
    Store::open(&path).unwrap_err();
}
