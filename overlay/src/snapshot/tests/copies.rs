//! Snapshots that are copies.

use super::*;
use rustix::fs::FileType;

fn options(form: Form) -> Options {
    Options {
        marks: Marks::User,
        form,
        ..Options::default()
    }
}

fn pack(snapshot: &Snapshot) -> Result<()> {
    let options = diff::Options::new(Marks::User);
    let made = snapshot.diff(options, Compression::None, 0, Vec::new());
    made.map(drop)
}

#[test]
fn a_copy_has_all_files_and_is_measured_by_them() {
    let Some((_directory, store)) = store() else {
        return;
    };
    let chain = layers(&store, 1, 3, "-user");
    let lease = store.lease().unwrap();
    let all = Snapshots::new(&store).unwrap();
    let snapshot = all
        .create(&lease, &id("copy"), &chain, options(Form::Copy))
        .unwrap();
    // As others find it.
    let found = all.open(&id("copy")).unwrap().unwrap();
    assert_eq!(found.record(), snapshot.record());
    assert_eq!(found.record().form, Form::Copy);
    let used = found.usage().unwrap();
    assert_eq!(used.inodes, 5, "its root, top, and one of each layer");
    let mounted = found.detached(&Mounting::default()).unwrap();
    assert_eq!(read(&mounted, "top").as_deref(), Some("3"));
    write(&mounted, "new", "x").unwrap();
    rustix::fs::unlinkat(&mounted, "only-2", AtFlags::empty()).unwrap();
    drop(mounted);
    let changes = found.changes().unwrap();
    let told: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["A /new", "D /only-2"]);
    // The layers are as they were.
    assert!(
        store
            .path()
            .join("layers")
            .join(chain[1].as_str())
            .join("diff/only-2")
            .exists()
    );
    let refused = pack(&found).unwrap_err();
    assert!(refused.to_string().contains("it is a copy"), "{refused}");
    let refused = found
        .mount_at(Path::new("/nonexistent"), false)
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(all.remove(&id("copy")).unwrap());
    assert!(!store.path().join("snapshots/copy").exists());
}

#[test]
fn what_cannot_be_copied_leaves_nothing() {
    let Some((_directory, store)) = store() else {
        return;
    };
    let chain = [layer(&store, 1, "-user", false, |diff| {
        chown(diff.join("top"), Some(70_000), Some(0)).unwrap();
    })];
    let lease = store.lease().unwrap();
    let all = Snapshots::new(&store).unwrap();
    let extent = Extent {
        inside: 0,
        outside: 5000,
        count: 65_536,
    };
    let wanted = Options {
        idmap: Some(Idmap {
            uids: vec![extent],
            gids: vec![extent],
        }),
        ..options(Form::Copy)
    };
    let error = all
        .create(&lease, &id("copy"), &chain, wanted.clone())
        .unwrap_err();
    let text = error.chain().to_string();
    assert!(text.contains("it belongs to user 70000"), "{text}");
    assert!(all.list().unwrap().is_empty());
    let names = crate::tree::names(store.directory("snapshots").unwrap()).unwrap();
    assert!(names.is_empty(), "{names:?}");
    chown(
        store
            .path()
            .join("layers")
            .join(chain[0].as_str())
            .join("diff/top"),
        Some(65_535),
        Some(7),
    )
    .unwrap();
    let (made, why) = all
        .create_usable(&lease, &id("copy"), &chain, &wanted)
        .unwrap();
    assert!(why.unwrap().to_string().contains("cannot map"));
    let top = store.path().join("snapshots/copy/root/top");
    let top = fs::metadata(top).unwrap();
    assert_eq!((top.uid(), top.gid()), (70_535, 5007));
    assert!(made.changes().unwrap().is_empty());
}

/// The kernel would show sockets where files were deleted.
#[test]
fn layers_with_stand_ins_are_copied_and_never_mounted() {
    let Some((_directory, store)) = store() else {
        return;
    };
    let mut chain = layers(&store, 1, 1, "-user");
    chain.push(layer(&store, 2, "-user", false, |diff| {
        let at = File::open(diff).unwrap();
        rustix::fs::mknodat(&at, "only-1", FileType::Socket, Mode::empty(), 0).unwrap();
    }));
    let record = store
        .path()
        .join("layers")
        .join(chain[1].as_str())
        .join("layer.json");
    let text = fs::read_to_string(&record).unwrap();
    assert!(
        !text.contains("stand_ins"),
        "the record of every other layer is as before"
    );
    fs::write(&record, text.replacen('{', "{\"stand_ins\":true,", 1)).unwrap();
    let lease = store.lease().unwrap();
    let all = Snapshots::new(&store).unwrap();
    let overlay = all
        .create(&lease, &id("overlay"), &chain, options(Form::Overlay))
        .unwrap();
    let error = overlay.detached(&Mounting::default()).unwrap_err();
    assert!(
        error.chain().to_string().contains("without whiteouts"),
        "{error:?}"
    );
    let (copy, why) = all
        .create_usable(&lease, &id("copy"), &chain, &options(Form::Overlay))
        .unwrap();
    assert!(why.is_some());
    let mounted = copy.detached(&Mounting::default()).unwrap();
    assert_eq!(read(&mounted, "only-1"), None);
    assert_eq!(read(&mounted, "only-2").as_deref(), Some("2"));
    assert!(copy.changes().unwrap().is_empty());
}

/// Who owned a file is not known there.
#[test]
fn no_layer_is_made_where_all_files_have_one_owner() {
    let Some((_directory, store)) = store() else {
        return;
    };
    let lease = store.lease().unwrap();
    let all = Snapshots::new(&store).unwrap();
    for (suffix, refused) in [("-single", true), ("-user", false)] {
        let chain = layers(&store, 1, 2, suffix);
        let name = id(&format!("one{suffix}"));
        let snapshot = all
            .create(&lease, &name, &chain, options(Form::Overlay))
            .unwrap();
        let packed = pack(&snapshot);
        assert_eq!(packed.is_err(), refused, "{suffix}");
        if let Err(error) = packed {
            assert!(error.to_string().contains("one user id only"), "{error}");
        }
    }
}
