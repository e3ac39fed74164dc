//! Snapshots that get what they change from archives.

use super::*;
use crate::archive::{Entry, Kind, Time, Writer};
use crate::layer::Options as How;
use std::io::{Seek as _, Write as _};

/// An archive of files; names that end with `/` are directories.
fn archive(files: &[(&str, &str)]) -> File {
    let mut writer = Writer::new(Vec::new());
    for (path, text) in files {
        let entry = Entry {
            path: path.trim_end_matches('/').as_bytes().to_vec(),
            kind: match path.ends_with('/') {
                true => Kind::Directory,
                false => Kind::Regular,
            },
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            size: text.len() as u64,
            map: None,
            attributes: Vec::new(),
        };
        writer.append(&entry, &mut text.as_bytes()).unwrap();
    }
    file(&writer.finish().unwrap())
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

#[test]
fn archives_are_unpacked_one_upon_the_other() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let chain = layers(&store, 1, 2, "");
    let snapshot = create(&store, "s", &chain);
    let all = vec![
        archive(&[(".wh.only-1", ""), ("d/", ""), ("d/old", "old")]),
        archive(&[("top", "changed"), ("d/old", "new"), ("implied/file", "x")]),
    ];
    snapshot.fill(all, &How::privileged()).unwrap();
    let found = told(&snapshot);
    let expected = [
        ("d", ChangeKind::Added),
        ("d/old", ChangeKind::Added),
        ("implied", ChangeKind::Added),
        ("implied/file", ChangeKind::Added),
        ("only-1", ChangeKind::Deleted),
        ("top", ChangeKind::Modified),
    ];
    assert_eq!(found, expected.map(|(path, kind)| (path.to_owned(), kind)));
    let upper = store.path().join("snapshots/s/upper");
    assert_eq!(fs::read_to_string(upper.join("top")).unwrap(), "changed");
    assert_eq!(fs::read_to_string(upper.join("d/old")).unwrap(), "new");
}

#[test]
fn archives_of_strangers_stay_in_their_snapshot() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let chain = layers(&store, 1, 1, "");
    let mut escape = Vec::new();
    archive(&[("xxxxxxxxxxxxxxxx/pwned", "pwned")])
        .read_to_end(&mut escape)
        .unwrap();
    let name = b"../../../../../../pwned";
    escape[..name.len()].copy_from_slice(name);
    escape[148..156].copy_from_slice(b"        ");
    let sum: u32 = escape[..512].iter().map(|byte| u32::from(*byte)).sum();
    escape[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut short = Vec::new();
    archive(&[("a", &"x".repeat(5000))])
        .read_to_end(&mut short)
        .unwrap();
    for (number, (bytes, what)) in [
        (&escape[..], "out of the snapshot"),
        (b"no archive at all", "no archive"),
        (&short[..3000], "cut"),
    ]
    .into_iter()
    .enumerate()
    {
        let snapshot = create(&store, &format!("s{number}"), &chain);
        let error = snapshot.fill(vec![file(bytes)], &How::privileged());
        assert_eq!(error.unwrap_err().kind(), ErrorKind::InvalidInput, "{what}");
    }
    // Nothing below can be hidden as a whole.
    let snapshot = create(&store, "opaque", &chain);
    let error = snapshot.fill(vec![archive(&[(".wh..wh..opq", "")])], &How::privileged());
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(!dir.path().join("pwned").exists());
}
