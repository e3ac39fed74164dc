//! What was removed before the power went, and what became of its blocks.

use super::*;

/// Writes over everything that is free, without a commit of the journal.
fn overwrite(mounted: &Mounted) -> bool {
    let output = Command::new("dd")
        .args(["if=/dev/zero", "bs=1M", "oflag=direct"])
        .arg(format!("of={}", mounted.path().join("new").display()))
        .output();
    // It ends when the disk is full.
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains("No space left"))
}

/// Everything that came back is what it was, and counts as it should.
fn came_back(mounted: &Mounted) -> usize {
    mounted.restart();
    let store = mounted.store();
    let report = crate::fsck::check(&store, &crate::fsck::Options::default(), &|_| Ok(()));
    assert_eq!(report.unwrap().problems, []);
    store.content().list().unwrap().len()
}

#[test]
fn removed_blobs_come_back_whole_or_not_at_all() {
    for options in [",data=writeback", ",data=ordered"] {
        let Some(mounted) = Mounted::ext4_with(64, "2000", options) else {
            return;
        };
        let store = mounted.store();
        let lease = store.lease().unwrap();
        for seed in 0..20 {
            let bytes = noise(1_500_000 + usize::from(seed), seed);
            store.content().put(&lease, &bytes).unwrap();
            store.content().put(&lease, &bytes[..100]).unwrap();
        }
        drop(lease);
        // Everything so far is on the disk, and one name that stays.
        let kept = store.lease().unwrap();
        store.content().put(&kept, b"kept").unwrap();
        prune(&store);
        drop((kept, store));
        if !overwrite(&mounted) {
            println!("skipped: no dd that writes directly");
            return;
        }
        if !mounted.cut_power() {
            return;
        }
        let found = came_back(&mounted);
        println!("{options}: {found} blobs came back");
        assert!(found >= 1);
    }
}

#[test]
fn replaced_and_removed_records_come_back_whole_or_not_at_all() {
    let Some(mounted) = Mounted::ext4_with(16, "200", ",data=writeback") else {
        return;
    };
    let directory = std::fs::File::open(mounted.path()).unwrap();
    let text = |fill: &str| fill.repeat(20_000).into_bytes();
    for name in ["replaced", "removed"] {
        durable::replace(&directory, name, &text("old"), Mode::from(0o600)).unwrap();
    }
    durable::replace(&directory, "replaced", &text("new"), Mode::from(0o600)).unwrap();
    assert!(durable::remove(&directory, "removed").unwrap());
    assert!(!durable::remove(&directory, "removed").unwrap());
    drop(directory);
    if !overwrite(&mounted) || !mounted.cut_power() {
        return;
    }
    mounted.restart();
    assert_eq!(
        std::fs::read(mounted.path().join("replaced")).unwrap(),
        text("new")
    );
    assert!(!mounted.path().join("removed").exists());
}
