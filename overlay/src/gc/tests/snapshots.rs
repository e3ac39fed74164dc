//! What snapshots keep, and what becomes of those that nobody keeps.

use super::*;

#[test]
fn layers_of_snapshots_stay_as_long_as_those_do() {
    let directory = tempfile::tempdir().unwrap();
    let (path, store) = (directory.path(), Store::open(directory.path()).unwrap());
    let all = Snapshots::new(&store).unwrap();
    let chain: Vec<LayerId> = (1..=3).map(|n| real_layer(&store, n)).collect();
    let lone = real_layer(&store, 4);
    let ids: Vec<SnapshotId> = ["used", "held", "unused"]
        .iter()
        .map(|name| name.parse().unwrap())
        .collect();
    let lease = store.lease().unwrap();
    for (id, layers) in ids.iter().zip([&chain[..1], &chain[1..2], &chain[2..]]) {
        let lease = store.lease().unwrap();
        all.create(&lease, id, layers, crate::snapshot::Options::default())
            .unwrap();
    }
    // Nothing of a sweep's caller mentions layers: the records do.
    lease.hold(&[Root::Snapshot(ids[1].clone())]).unwrap();
    let used: HashSet<_> = [ids[0].clone()].into();
    let mark = |snapshots: Option<&HashSet<SnapshotId>>| Reachable {
        snapshots: snapshots.cloned(),
        ..Reachable::default()
    };
    // A caller who knows nothing of snapshots keeps all of them.
    let done = collect(&store, &NOW, &mut |_| Ok(mark(None))).unwrap();
    assert_eq!((done.snapshots, done.layers), (vec![], vec![lone]));
    let done = collect(&store, &NOW, &mut |_| Ok(mark(Some(&used)))).unwrap();
    assert_eq!(done.snapshots, [ids[2].clone()]);
    assert_eq!(done.layers, [chain[2].clone()]);
    drop(lease);
    let done = collect(&store, &NOW, &mut |_| Ok(mark(Some(&used)))).unwrap();
    assert_eq!(
        (done.snapshots, done.layers),
        (vec![ids[1].clone()], vec![chain[1].clone()])
    );
    // A record that cannot be read may refer to anything.
    std::fs::write(path.join("snapshots/used/snapshot.json"), "{").unwrap();
    let failed = collect(&store, &NOW, &mut |_| Ok(mark(None))).unwrap_err();
    let text = failed.chain().to_string();
    assert!(text.contains("snapshot used"), "{text}");
    assert!(path.join("layers").join(chain[0].as_str()).exists());
    // Unless it goes itself.
    let done = collect(&store, &NOW, &mut |_| Ok(mark(Some(&HashSet::new())))).unwrap();
    assert_eq!(done.snapshots, [ids[0].clone()]);
    assert_eq!(done.layers, [chain[0].clone()]);
}

/// With a record as its owner writes it.
fn real_layer(store: &Store, number: u64) -> LayerId {
    let id: LayerId = format!("{number:064x}").parse().unwrap();
    let record = crate::layer::store::Record {
        version: 1,
        diff_id: Some(Digest::of(b"x")),
        size: 0,
        allocated: None,
        entries: 0,
        opaque: false,
        lifetime: None,
        stand_ins: false,
    };
    let layers = store.path().join("layers");
    let temporary = layers.join("incoming").join(durable::temporary_name());
    std::fs::create_dir_all(temporary.join("diff")).unwrap();
    let text = serde_json::to_vec(&record).unwrap();
    std::fs::write(temporary.join("layer.json"), text).unwrap();
    if std::fs::rename(&temporary, layers.join(id.as_str())).is_err() {
        std::fs::remove_dir_all(temporary).unwrap();
    }
    id
}

#[test]
fn snapshots_come_and_go_beside_sweeps() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let swept = AtomicUsize::new(0);
    // Which snapshots somebody would have on record: name files, as containers will be.
    let recorded = |id: &str| store.path().join("containers").join(id);
    let mark = || {
        let mut used = HashSet::new();
        for entry in std::fs::read_dir(store.path().join("containers")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            used.insert(name.parse().unwrap());
        }
        Reachable {
            snapshots: Some(used),
            ..Reachable::default()
        }
    };
    std::thread::scope(|scope| {
        let sweeper = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let done = collect(&store, &Policy::default(), &mut |_| Ok(mark())).unwrap();
                swept.fetch_add(done.layers.len() + done.snapshots.len(), Ordering::Relaxed);
            }
        });
        let makers: Vec<_> = (0..4_u64)
            .map(|maker| {
                let (store, recorded) = (&store, &recorded);
                scope.spawn(move || {
                    let all = Snapshots::new(store).unwrap();
                    for round in 0..60 {
                        let id: SnapshotId = format!("s-{maker}-{round}").parse().unwrap();
                        let lease = store.lease().unwrap();
                        let chain: Vec<LayerId> = (0..2)
                            .map(|n| format!("{:064x}", (maker + round + n) % 4))
                            .map(|text| text.parse().unwrap())
                            .collect();
                        // As a pull does: held first, made if missing.
                        let roots: Vec<_> = chain.iter().cloned().map(Root::Layer).collect();
                        lease.hold(&roots).unwrap();
                        for n in 0..2 {
                            real_layer(store, (maker + round + n) % 4);
                        }
                        all.create(&lease, &id, &chain, crate::snapshot::Options::default())
                            .unwrap();
                        if round % 3 == 0 {
                            // Died before it was recorded.
                            continue;
                        }
                        std::fs::write(recorded(id.as_str()), "").unwrap();
                        drop(lease);
                        std::thread::sleep(Duration::from_micros(300));
                        let open = all.open(&id).unwrap().expect("a recorded snapshot");
                        open.changes().unwrap();
                        std::fs::remove_file(recorded(id.as_str())).unwrap();
                        // The sweep may be faster.
                        all.remove(&id).unwrap();
                    }
                })
            })
            .collect();
        let ended: Vec<_> = makers
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        stop.store(true, Ordering::Relaxed);
        sweeper.join().unwrap();
        assert!(ended.iter().all(Result::is_ok));
    });
    collect(&store, &NOW, &mut |_| Ok(mark())).unwrap();
    for parent in ["snapshots", "trash"] {
        let left = std::fs::read_dir(store.path().join(parent))
            .unwrap()
            .count();
        assert_eq!(left, 0, "{parent}");
    }
    assert!(swept.into_inner() > 0);
}

#[test]
fn a_killed_maker_of_a_snapshot_leaves_what_is_swept() {
    let directory = tempfile::tempdir().unwrap();
    let (path, store) = (directory.path(), Store::open(directory.path()).unwrap());
    let make = |name: &str| {
        let at = path.join("snapshots").join(name);
        std::fs::create_dir_all(at.join("upper/a/b")).unwrap();
        File::open(&at).unwrap()
    };
    let busy = make(".new-1-1");
    assert!(lock::try_lock(&busy, Kind::Exclusive).unwrap());
    drop(make(".new-1-2"));
    let done = collect(&store, &NOW, &mut |_| Ok(Reachable::default())).unwrap();
    assert_eq!(done.leftovers, 1);
    let mut left: Vec<_> = std::fs::read_dir(path.join("snapshots"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort_unstable();
    assert_eq!(left, [".new-1-1"], "it is locked");
}
