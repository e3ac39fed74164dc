use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::unistd::{Gid, Uid};
use rustix::fs::{AtFlags, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::*;
use crate::compress::Compression;
use crate::layer::{ChangeKind, Overlay as Marks, diff};
use crate::lease::{LayerId, SnapshotId};
use crate::store::Store;
use crate::{Context, Digest, ErrorKind, Result};

mod copies;
mod filled;
mod ids;

/// Makes layers `first..=last`; each has a file of its own and one that all have.
fn layers(store: &Store, first: usize, last: usize, suffix: &str) -> Vec<LayerId> {
    let make = |number| layer(store, number, suffix, false, |_| {});
    (first..=last).map(make).collect()
}

fn layer(
    store: &Store,
    number: usize,
    suffix: &str,
    opaque: bool,
    fill: impl FnOnce(&Path),
) -> LayerId {
    let id: LayerId = format!("{number:064x}{suffix}").parse().unwrap();
    let at = store.path().join("layers").join(id.as_str());
    let diff = at.join("diff");
    fs::create_dir_all(&diff).unwrap();
    fs::write(diff.join(format!("only-{number}")), number.to_string()).unwrap();
    fs::write(diff.join("top"), number.to_string()).unwrap();
    fill(&diff);
    let record = crate::layer::store::Record {
        version: 1,
        diff_id: Some(Digest::of(id.as_str().as_bytes())),
        size: 0,
        allocated: None,
        entries: 2,
        opaque,
        lifetime: None,
        stand_ins: false,
    };
    fs::write(at.join("layer.json"), serde_json::to_vec(&record).unwrap()).unwrap();
    id
}

fn id(name: &str) -> SnapshotId {
    name.parse().unwrap()
}

fn create(store: &Store, name: &str, chain: &[LayerId]) -> Snapshot {
    let lease = store.lease().unwrap();
    let all = Snapshots::new(store).unwrap();
    all.create(&lease, &id(name), chain, Options::default())
        .unwrap()
}

/// What a snapshot says that it changes.
fn told(snapshot: &Snapshot) -> Vec<(String, ChangeKind)> {
    let all = snapshot.changes().unwrap().into_iter();
    all.map(|change| (String::from_utf8(change.path).unwrap(), change.kind))
        .collect()
}

fn open(at: impl AsFd, name: &str) -> Result<File, Errno> {
    openat(at, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(File::from)
}

fn read(at: impl AsFd, name: &str) -> Option<String> {
    let mut text = String::new();
    open(at, name).ok()?.read_to_string(&mut text).unwrap();
    Some(text)
}

fn write(at: impl AsFd, name: &str, text: &str) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = openat(at, name, flags, Mode::from(0o644))?;
    rustix::io::write(file, text.as_bytes()).map(drop)
}

/// A store that snapshots can be mounted from, unless that is impossible here.
fn store() -> Option<(tempfile::TempDir, Store)> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    Some((directory, store))
}

const READ_ONLY: Mounting<'static> = Mounting {
    source: "overlay",
    read_only: true,
    volatile: false,
    idmap: None,
};

#[test]
fn one_is_there_whole_until_it_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let lease = store.lease().unwrap();
    let all = Snapshots::new(&store).unwrap();
    let top = layer(&store, 2, "", false, |diff| {
        fs::set_permissions(diff, fs::Permissions::from_mode(0o1771)).unwrap();
        if rustix::process::geteuid().is_root() {
            chown(diff, Some(7), Some(8)).unwrap();
        }
    });
    let mut chain = layers(&store, 1, 1, "");
    chain.push(top);
    let options = Options {
        idmap: Some(Idmap {
            uids: vec![Extent {
                inside: 0,
                outside: 100_000,
                count: 65536,
            }],
            gids: Vec::new(),
        }),
        labels: [("a".into(), "b".into())].into(),
        ..Options::default()
    };
    let made = all
        .create(&lease, &id("web"), &chain, options.clone())
        .unwrap();
    assert_eq!(made.record().layers, chain);
    assert_eq!(made.record().labels, options.labels);
    assert_eq!(made.record().idmap, options.idmap);
    let found = all.open(&id("web")).unwrap().unwrap();
    assert_eq!(found.record(), made.record());
    // The root of a mount is its upper directory: it has to look like the layer's.
    let of = |path: &str| fs::metadata(directory.path().join(path)).unwrap();
    let (upper, root) = (
        of("snapshots/web/upper"),
        of(&format!("layers/{}/diff", chain[1])),
    );
    assert_eq!(upper.mode() & 0o7777, 0o1771);
    assert_eq!(
        (upper.uid(), upper.gid(), upper.mtime()),
        (root.uid(), root.gid(), root.mtime())
    );
    let taken = all.create(&lease, &id("web"), &chain, options).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Exists, "{taken:?}");
    create(&store, "another", &chain);
    assert_eq!(all.list().unwrap(), [id("another"), id("web")]);
    assert!(all.remove(&id("web")).unwrap());
    assert!(!all.remove(&id("web")).unwrap());
    assert!(all.open(&id("web")).unwrap().is_none());
    assert_eq!(all.list().unwrap(), [id("another")]);
    for (parent, count) in [("snapshots", 1), ("trash", 0)] {
        let left = fs::read_dir(directory.path().join(parent)).unwrap().count();
        assert_eq!(left, count, "{parent}");
    }
}

#[test]
fn what_cannot_be_made_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let lease = store.lease().unwrap();
    let all = Snapshots::new(&store).unwrap();
    let chain = layers(&store, 1, 2, "");
    let missing: LayerId = "f".repeat(64).parse().unwrap();
    let attempt = |chain: &[LayerId], options| {
        let failed = all.create(&lease, &id("no"), chain, options).unwrap_err();
        (failed.kind(), failed.chain().to_string())
    };
    // Also where it would not be mounted.
    let cover = layer(&store, 3, "", true, |_| {});
    let (kind, text) = attempt(&[missing.clone(), cover], Options::default());
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(
        text.contains(missing.as_str()) && text.contains("snapshot no"),
        "{text}"
    );
    let rootless = Options {
        marks: Marks::User,
        ..Options::default()
    };
    assert_eq!(attempt(&chain, rootless).0, ErrorKind::InvalidInput);
    let large = Options {
        labels: [("large".into(), "x".repeat(RECORD_LIMIT))].into(),
        ..Options::default()
    };
    assert_eq!(attempt(&chain, large).0, ErrorKind::InvalidInput);
    assert_eq!(
        fs::read_dir(directory.path().join("snapshots"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn records_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let all = Snapshots::new(&store).unwrap();
    let at = directory.path().join("snapshots/x");
    fs::create_dir(&at).unwrap();
    for (text, kind) in [
        (None, ErrorKind::Corrupt),
        (Some("{"), ErrorKind::Corrupt),
        (Some(r#"{"version":1}"#), ErrorKind::Corrupt),
        (
            Some(r#"{"version":1,"layers":["../x"],"marks":"trusted","created":0}"#),
            ErrorKind::Corrupt,
        ),
        (
            Some(r#"{"version":1,"layers":[],"marks":"none","created":0}"#),
            ErrorKind::Corrupt,
        ),
        (Some(r#"{"version":2}"#), ErrorKind::Unsupported),
    ] {
        if let Some(text) = text {
            fs::write(at.join("snapshot.json"), text).unwrap();
        }
        assert_eq!(all.open(&id("x")).unwrap_err().kind(), kind, "{text:?}");
        assert!(text.is_none() || all.layers(&id("x")).is_err());
    }
    let later = r#"{"version":1,"layers":[],"marks":"user","created":5,"more":1}"#;
    fs::write(at.join("snapshot.json"), later).unwrap();
    assert_eq!(
        all.open(&id("x")).unwrap().unwrap().record().marks,
        Marks::User
    );
}

#[test]
fn any_number_of_layers() {
    let Some((_directory, store)) = store() else {
        return;
    };
    for count in [0, 1, 2, 127, mount::LAYERS_MAX] {
        let chain = layers(&store, 1, count, "");
        let name = format!("of-{count}");
        let snapshot = create(&store, &name, &chain);
        let top = (count > 0).then(|| count.to_string());
        let first = (count > 0).then(|| "1".to_owned());
        {
            let mounted = snapshot.detached(&Mounting::default()).unwrap();
            assert_eq!(read(&mounted, "top"), top);
            assert_eq!(read(&mounted, "only-1"), first);
            write(&mounted, "new", &name).unwrap();
        }
        let changes = snapshot.changes().unwrap();
        assert_eq!(changes.len(), 1, "{changes:?}");
        // What was written is there the next time; nobody writes to what is read-only.
        let again = snapshot.detached(&Mounting::default()).unwrap();
        assert_eq!(read(&again, "new"), Some(name.clone()));
        drop(again);
        // One more layer than the kernel takes.
        if count < mount::LAYERS_MAX {
            let view = snapshot.detached(&READ_ONLY).unwrap();
            assert_eq!(read(&view, "new"), Some(name));
            assert_eq!(read(&view, "only-1"), first);
            assert_eq!(write(&view, "x", ""), Err(Errno::ROFS));
        }
        let stack = Stack::open(&store, &chain, Marks::Trusted).unwrap();
        let view = stack.detached(&Mounting::default()).unwrap();
        assert_eq!((read(&view, "top"), read(&view, "new")), (top, None));
        assert_eq!(write(&view, "x", ""), Err(Errno::ROFS));
    }
    let many = layers(&store, 1, mount::LAYERS_MAX + 1, "");
    let refused = Stack::open(&store, &many, Marks::Trusted).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
}

#[test]
fn nothing_below_an_opaque_layer_is_seen() {
    let Some((_directory, store)) = store() else {
        return;
    };
    // As many as no mount takes, but for the opaque one.
    let mut chain = layers(&store, 1, 600, "");
    chain.push(layer(&store, 1001, "", true, |_| {}));
    chain.extend(layers(&store, 1002, 1002, ""));
    let snapshot = create(&store, "opaque", &chain);
    let mounted = snapshot.detached(&Mounting::default()).unwrap();
    assert_eq!(read(&mounted, "only-600"), None);
    assert_eq!(read(&mounted, "only-1001"), Some("1001".into()));
    write(&mounted, "only-600", "mine").unwrap();
    let changes = snapshot.changes().unwrap();
    assert_eq!(
        (&*changes[0].path, changes[0].kind),
        (&b"only-600"[..], ChangeKind::Added)
    );
}

#[test]
fn changes_are_told_measured_and_packed() {
    let Some((directory, store)) = store() else {
        return;
    };
    let chain = layers(&store, 1, 3, "");
    let snapshot = create(&store, "diff", &chain);
    let empty = snapshot.usage().unwrap();
    assert_eq!(empty.inodes, 1, "the directory itself");
    let mounted = snapshot.detached(&Mounting::default()).unwrap();
    write(&mounted, "top", "changed").unwrap();
    write(&mounted, "large", &"x".repeat(100_000)).unwrap();
    rustix::fs::linkat(&mounted, "large", &mounted, "again", AtFlags::empty()).unwrap();
    rustix::fs::unlinkat(&mounted, "only-2", AtFlags::empty()).unwrap();
    // What is not on the disk yet has no blocks.
    rustix::fs::syncfs(open(&mounted, ".").unwrap()).unwrap();
    let used = snapshot.usage().unwrap();
    assert_eq!(used.inodes, 4, "directory, top, large, deletion of only-2");
    assert!(
        (100_000..140_000).contains(&(used.bytes - empty.bytes)),
        "{used:?}"
    );
    drop(mounted);
    let told = told(&snapshot);
    let expected = [
        ("again", ChangeKind::Added),
        ("large", ChangeKind::Added),
        ("only-2", ChangeKind::Deleted),
        ("top", ChangeKind::Modified),
    ];
    assert_eq!(told, expected.map(|(path, kind)| (path.to_owned(), kind)));
    let archive = directory.path().join("layer.tar");
    // Whoever asks need not know which marks it has.
    let options = diff::Options::new(Marks::User);
    let sink = File::create(&archive).unwrap();
    let (packed, _) = snapshot.diff(options, Compression::None, 0, sink).unwrap();
    assert_eq!(packed.size, fs::metadata(&archive).unwrap().len());
    let listed = Command::new("tar").arg("-tf").arg(&archive).output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    let mut names: Vec<_> = listed.lines().collect();
    names.sort_unstable();
    assert_eq!(names, [".wh.only-2", "again", "large", "top"]);
}

#[test]
fn at_a_place_that_somebody_names() {
    let Some((directory, store)) = store() else {
        return;
    };
    let chain = layers(&store, 1, 2, "");
    let snapshot = create(&store, "shown", &chain);
    let place = directory.path().join("a place");
    fs::create_dir(&place).unwrap();
    symlink("a place", directory.path().join("link")).unwrap();
    // In a mount namespace of this thread, which ends with it.
    let inside = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let refused = |path: &Path, says: &str| {
            let text = unmount(path, false).unwrap_err().chain().to_string();
            assert!(text.contains(says), "{text}");
        };
        refused(&place, "nothing is mounted");
        refused(&directory.path().join("none"), "none");
        // Its layers have to come from this mount namespace.
        let store = Store::open(store.path()).unwrap();
        let again = Snapshots::new(&store).unwrap();
        let snapshot = again.open(snapshot.id()).unwrap().unwrap();
        let view = Stack::open(&store, &chain, Marks::Trusted).unwrap();
        view.mount_at(&place).unwrap();
        assert_eq!(fs::read_to_string(place.join("top")).unwrap(), "2");
        fs::write(place.join("x"), "").unwrap_err();
        // The one on top goes first.
        snapshot.mount_at(&place, false).unwrap();
        fs::write(place.join("top"), "mine").unwrap();
        fs::create_dir(place.join("sub")).unwrap();
        refused(&place.join("sub"), "nothing is mounted");
        let busy = File::open(place.join("top")).unwrap();
        refused(&place, "in use");
        unmount(&place, true).unwrap();
        drop(busy);
        assert_eq!(fs::read_to_string(place.join("top")).unwrap(), "2");
        // By whatever name it is called.
        unmount(&directory.path().join("link"), false).unwrap();
        snapshot.mount_at(&place, true).unwrap();
        assert_eq!(fs::read_to_string(place.join("top")).unwrap(), "mine");
        fs::write(place.join("x"), "").unwrap_err();
        unmount(&place.join("sub/.."), false).unwrap();
        let empty = Stack::open(&store, &[], Marks::Trusted).unwrap();
        empty.mount_at(&place).unwrap();
        unmount(&place, false).unwrap();
        // Somebody else's.
        let tmpfs = Some("tmpfs");
        let none = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("theirs"), &place, tmpfs, none, None::<&str>).unwrap();
        refused(&place, "by others");
        refused(Path::new("/"), "others");
    };
    std::thread::scope(|scope| scope.spawn(inside).join().unwrap());
    assert!(fs::read_dir(&place).unwrap().next().is_none());
}

#[test]
fn volatile_ones_are_mounted_once() {
    let Some((_directory, store)) = store() else {
        return;
    };
    let snapshot = create(&store, "volatile", &layers(&store, 1, 2, ""));
    let volatile = Mounting {
        volatile: true,
        ..Mounting::default()
    };
    let mounted = snapshot.detached(&volatile).unwrap();
    write(&mounted, "x", "y").unwrap();
    drop(mounted);
    for how in [volatile, Mounting::default()] {
        let refused = snapshot.detached(&how).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::FailedPrecondition, "{refused:?}");
    }
    // It can be looked at.
    assert_eq!(
        read(snapshot.detached(&READ_ONLY).unwrap(), "x"),
        Some("y".into())
    );
}

#[test]
fn a_mount_outlives_its_snapshot() {
    let Some((directory, store)) = store() else {
        return;
    };
    let snapshot = create(&store, "gone", &layers(&store, 1, 2, ""));
    let mounted = snapshot.detached(&Mounting::default()).unwrap();
    write(&mounted, "new", "text").unwrap();
    rustix::fs::mkdirat(&mounted, "sub", Mode::from(0o755)).unwrap();
    symlink(
        "/",
        directory.path().join("store/snapshots/gone/upper/sub/link"),
    )
    .unwrap();
    let mut held = open(&mounted, "new").unwrap();
    assert!(Snapshots::new(&store).unwrap().remove(&id("gone")).unwrap());
    let mut text = String::new();
    held.read_to_string(&mut text).unwrap();
    assert_eq!(text, "text");
    assert_eq!(read(&mounted, "only-1"), Some("1".into()));
    // Whatever the kernel thinks of writing, it comes back, and nothing comes to be at the host.
    let _ = write(&mounted, "sub/later", "x");
    let _ = write(&mounted, "later", "x");
    drop(mounted);
    for parent in ["snapshots", "trash"] {
        let left = fs::read_dir(store.path().join(parent)).unwrap().count();
        assert_eq!(left, 0, "{parent}");
    }
}

/// The ways of older kernels, of which this one knows too.
#[test]
fn in_a_mount_namespace_of_its_own() {
    let Some((_directory, store)) = store() else {
        return;
    };
    let chain = layers(&store, 1, 130, "");
    let snapshot = create(&store, "old", &chain);
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for way in [private::Way::Modern, private::Way::Classic] {
        let mounted = snapshot.apart(way, None).unwrap();
        assert_eq!(read(&mounted, "top"), Some("130".into()));
        assert_eq!(read(&mounted, "only-1"), Some("1".into()));
        write(&mounted, "new", "text").unwrap();
    }
    assert_eq!(snapshot.changes().unwrap().len(), 1);
    let ours = |text: &str| text.matches("old/upper").count();
    let after = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!((ours(&before), ours(&after)), (0, 0));
}
