use super::*;
use crate::content::{Claim, Expected};
use crate::lease::Lease;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

mod snapshots;

const NOW: Policy = Policy {
    abandoned_after: Duration::ZERO,
    dry_run: false,
};

/// Names are files in images/names with a digest and a layer id: what image/ will know.
fn mark(path: &Path, held: &HashSet<Root>) -> Reachable {
    let mut reachable = Reachable::default();
    for entry in std::fs::read_dir(path.join("images/names")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(".new-")
        {
            continue;
        }
        // It may be removed meanwhile.
        let Ok(text) = std::fs::read_to_string(path) else {
            continue;
        };
        let (digest, layer) = text.split_once(' ').unwrap();
        reachable.blobs.insert(digest.parse().unwrap());
        reachable.layers.insert(layer.parse().unwrap());
    }
    // An image that is held leads to its layer, here the one of the same name.
    for root in held {
        if let Root::Image(digest) = root {
            reachable.layers.insert(digest.hex().parse().unwrap());
        }
    }
    reachable.snapshots = Some(HashSet::new());
    reachable
}

fn sweep(store: &Store, policy: &Policy) -> Collected {
    collect(store, policy, &mut |held| Ok(mark(store.path(), held))).unwrap()
}

fn layer_of(digest: &Digest) -> LayerId {
    digest.hex().parse().unwrap()
}

/// Makes the layer of a digest unless it is there.
fn make_layer(store: &Store, lease: &Lease, digest: &Digest) {
    let id = layer_of(digest);
    lease.hold(&[Root::Layer(id.clone())]).unwrap();
    let layers = store.path().join("layers");
    let temporary = layers.join("incoming").join(durable::temporary_name());
    std::fs::create_dir_all(temporary.join("diff")).unwrap();
    std::fs::write(temporary.join("layer.json"), digest.to_string()).unwrap();
    // Somebody else may have been faster.
    if std::fs::rename(&temporary, layers.join(id.as_str())).is_err() {
        std::fs::remove_dir_all(temporary).unwrap();
    }
}

fn tag(store: &Store, name: &str, digest: &Digest) {
    let text = format!("{digest} {}", layer_of(digest));
    let names = store.directory("images/names").unwrap();
    durable::replace(names, name, text.as_bytes(), rustix::fs::Mode::from(0o600)).unwrap();
}

fn bytes_of(image: u64) -> Vec<u8> {
    format!("image {image}").into_bytes().repeat(100)
}

/// What pull does: lease, blob, layer, name.
fn pull(store: &Store, image: u64, name: &str) {
    let lease = store.lease().unwrap();
    // A registry is asked here, and meanwhile the next sweep begins.
    std::thread::sleep(Duration::from_micros(100 + 150 * image));
    let bytes = bytes_of(image);
    let expected = Expected {
        digest: Digest::of(&bytes),
        size: Some(bytes.len() as u64),
    };
    let mut patience = lock::up_to(Duration::from_secs(60));
    let blob = match store
        .content()
        .ingest(&lease, &expected, &mut patience)
        .unwrap()
    {
        Claim::Present(blob) => blob,
        Claim::Mine(ingest) => {
            ingest.claim(u64::MAX).unwrap().write(&bytes).unwrap();
            ingest.commit().unwrap()
        }
    };
    assert_eq!(blob.read_verified(1 << 20).unwrap(), bytes);
    make_layer(store, &lease, blob.digest());
    tag(store, name, blob.digest());
    // The name may be gone by now, but the lease still holds.
    assert!(
        store.content().contains(blob.digest()).unwrap(),
        "a pulled blob is missing"
    );
    let layer = store
        .path()
        .join("layers")
        .join(layer_of(blob.digest()).as_str());
    assert!(
        layer.join("layer.json").exists(),
        "a pulled layer is missing"
    );
}

/// What run does: if the name is there, so is everything else, for as long as the lease is held.
fn run(store: &Store, name: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(store.path().join("images/names").join(name)) else {
        return false;
    };
    let (digest, layer) = text.split_once(' ').unwrap();
    let digest: Digest = digest.parse().unwrap();
    let lease = store.lease().unwrap();
    lease
        .hold(&[
            Root::Image(digest.clone()),
            Root::Layer(layer.parse().unwrap()),
        ])
        .unwrap();
    // Between reading the name and holding what it names it may have been untagged and swept.
    let again = std::fs::read_to_string(store.path().join("images/names").join(name));
    if again.ok().as_ref() != Some(&text) {
        return false;
    }
    for _ in 0..3 {
        assert!(
            store.content().contains(&digest).unwrap(),
            "blob of {name} is missing"
        );
        let record = store.path().join("layers").join(layer).join("layer.json");
        let record = std::fs::read_to_string(record).expect("a layer is missing");
        assert_eq!(record, digest.to_string());
        std::thread::yield_now();
    }
    true
}

/// Pulls, runs, retags and untags a few images at random.
fn work(store: &Store, seed: u64, rounds: usize) -> usize {
    let mut state = seed * 0x9e37_79b9 + 1;
    let mut ran = 0;
    for _ in 0..rounds {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let image = state % 4;
        let name = format!("name-{}", state / 7 % 4);
        match state / 31 % 4 {
            0 => pull(store, image, &name),
            1 => {
                let _ = std::fs::remove_file(store.path().join("images/names").join(&name));
            }
            _ => ran += usize::from(run(store, &name)),
        }
    }
    ran
}

#[test]
fn everything_unreachable_goes_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (path, store) = (directory.path(), Store::open(directory.path()).unwrap());
    pull(&store, 1, "one");
    pull(&store, 2, "two");
    let lease = store.lease().unwrap();
    let held = store.content().put(&lease, b"held").unwrap();
    let large = store
        .content()
        .put(&store.lease().unwrap(), &vec![7; 3 << 20])
        .unwrap();
    let snapshot = path.join("snapshots/web/upper/a/b");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(snapshot.join("file"), vec![1; 50_000]).unwrap();
    let kept: SnapshotId = "kept".parse().unwrap();
    std::fs::create_dir(path.join("snapshots/kept")).unwrap();
    lease.hold(&[Root::Snapshot(kept)]).unwrap();
    let two = Digest::of(&bytes_of(2));
    // Not ours: reported by fsck, untouched here.
    let foreign = [
        "content/sha256/zz",
        "content/note",
        "layers/note",
        "content/incoming/note",
    ];
    for name in foreign {
        std::fs::create_dir(path.join(name)).unwrap();
    }
    std::fs::remove_file(path.join("images/names/two")).unwrap();

    let before = usage(&store).unwrap();
    let dry = sweep(
        &store,
        &Policy {
            dry_run: true,
            ..NOW
        },
    );
    assert_eq!(usage(&store).unwrap(), before);
    let done = sweep(&store, &NOW);
    assert_eq!((&done.blobs, &done.layers), (&dry.blobs, &dry.layers));
    let mut blobs = done.blobs.clone();
    blobs.sort_unstable();
    let mut expected = [two.clone(), large];
    expected.sort_unstable();
    assert_eq!(blobs, expected);
    assert_eq!(done.layers, [layer_of(&two)]);
    assert_eq!(done.snapshots, ["web".parse().unwrap()]);
    assert!(run(&store, "one"));
    assert!(store.content().contains(&held).unwrap());
    assert!(path.join("snapshots/kept").exists());
    for name in foreign {
        assert!(path.join(name).exists(), "{name}");
    }
    // Directories of records may have grown, and those of shards stay.
    let freed = before.total() - usage(&store).unwrap().total();
    assert_eq!(done.bytes, freed);
    assert_eq!(dry.bytes, freed);
    drop(lease);
    assert_eq!(sweep(&store, &NOW).blobs, [held]);
    assert_eq!(sweep(&store, &NOW), Collected::default());
}

#[test]
fn leftovers_go_when_they_are_old_and_nobody_is_at_them() {
    let directory = tempfile::tempdir().unwrap();
    let (path, store) = (directory.path(), Store::open(directory.path()).unwrap());
    let lease = store.lease().unwrap();
    let begin = |bytes: &[u8]| {
        let expected = Expected {
            digest: Digest::of(bytes),
            size: Some(1_000_000),
        };
        let claim = store
            .content()
            .ingest(&lease, &expected, &mut |_| Ok(()))
            .unwrap();
        let Claim::Mine(ingest) = claim else { panic!() };
        ingest
            .claim(u64::MAX)
            .unwrap()
            .write(&[0; 500_000])
            .unwrap();
        ingest
    };
    let alive = begin(b"alive");
    let anonymous = store.content().receive(&lease).unwrap();
    drop(begin(b"abandoned"));
    let unpacking = path.join("layers/incoming/.new-1");
    for name in ["content/damaged/sha256-x", "leases/4-4"] {
        std::fs::write(path.join(name), "x").unwrap();
    }
    for name in ["layers/incoming/.new-1/diff", "layers/incoming/.new-2/diff"] {
        std::fs::create_dir_all(path.join(name)).unwrap();
    }
    let lock = File::open(&unpacking).unwrap();
    assert!(lock::try_lock(&lock, Kind::Exclusive).unwrap());
    let temporary = path.join("images/names/.new-9-9");
    std::fs::write(&temporary, "x").unwrap();

    let patient = sweep(&store, &Policy::default());
    assert_eq!(patient.leftovers, 1, "only the dead lease is certain");
    let done = sweep(&store, &NOW);
    assert_eq!(
        done.leftovers, 4,
        "a download with its map, a damaged blob, an unpacked layer"
    );
    assert!(done.bytes >= 500_000);
    assert!(unpacking.exists() && temporary.exists());
    let old = std::time::SystemTime::now() - 2 * TEMPORARY_AGE;
    File::options()
        .write(true)
        .open(&temporary)
        .unwrap()
        .set_modified(old)
        .unwrap();
    assert_eq!(sweep(&store, &NOW).leftovers, 1);
    // Those in use work as before.
    alive.claim(u64::MAX).unwrap().write(&[0; 500_000]).unwrap();
    assert!(alive.is_complete());
    anonymous.claim(1).unwrap().write(b"x").unwrap();
    anonymous.commit().unwrap();
    assert_eq!(tree::names(store.incoming_fd()).unwrap().len(), 2);
}

#[test]
fn a_failing_mark_removes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let digest = store.content().put(&store.lease().unwrap(), b"x").unwrap();
    let corrupt = || Error::new(crate::ErrorKind::Corrupt, "cannot read manifest");
    let mut calls = 0;
    for good in 0..2 {
        calls = 0;
        let error = collect(&store, &NOW, &mut |_| {
            calls += 1;
            if calls > good {
                Err(corrupt())
            } else {
                Ok(Reachable::default())
            }
        });
        assert_eq!(error.unwrap_err().kind(), crate::ErrorKind::Corrupt);
        assert!(store.content().contains(&digest).unwrap());
    }
    assert_eq!(calls, 2, "it is asked again under the lock");
}

#[test]
fn an_interrupted_sweep_is_finished_by_the_next() {
    let directory = tempfile::tempdir().unwrap();
    let (path, store) = (directory.path(), Store::open(directory.path()).unwrap());
    std::fs::create_dir_all(path.join("trash/.new-1-1/diff/etc")).unwrap();
    std::fs::write(path.join("trash/.new-1-1/diff/etc/passwd"), vec![0; 10_000]).unwrap();
    assert!(sweep(&store, &NOW).bytes >= 10_000);
    assert_eq!(std::fs::read_dir(path.join("trash")).unwrap().count(), 0);
}

/// A part of the next test, in a process of its own.
#[test]
fn worker() {
    let Ok(arguments) = std::env::var("RCRUN_GC_WORKER") else {
        return;
    };
    let (seed, path) = arguments.split_once(' ').unwrap();
    let store = Store::open(Path::new(path)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let seed: u64 = seed.parse::<u64>().unwrap() * 2 + thread;
            let store = &store;
            scope.spawn(move || work(store, seed, 500));
        }
    });
}

#[test]
fn delete_while_eight_others_pull_and_run() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let me = std::env::current_exe().unwrap();
    let mut others: Vec<_> = (1..=2)
        .map(|seed: u64| {
            Command::new(&me)
                .args(["--exact", "gc::tests::worker", "--nocapture"])
                .env(
                    "RCRUN_GC_WORKER",
                    format!("{seed} {}", directory.path().display()),
                )
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let (ran, working) = (AtomicUsize::new(0), AtomicUsize::new(4));
    let (rounds, removed) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seed in 10..14 {
            let (store, ran, working) = (&store, &ran, &working);
            scope.spawn(move || {
                ran.fetch_add(work(store, seed, 500), Ordering::SeqCst);
                working.fetch_sub(1, Ordering::SeqCst);
            });
        }
        scope.spawn(|| {
            // As long as the others work, of whom there are eight.
            while rounds.load(Ordering::SeqCst) < 1000 || working.load(Ordering::SeqCst) > 0 {
                // Time for those who do not keep to the rules, between leases and removal.
                let done = collect(&store, &Policy::default(), &mut |held| {
                    std::thread::sleep(Duration::from_micros(200));
                    Ok(mark(store.path(), held))
                });
                let done = done.unwrap();
                let gone = done.blobs.len() + done.layers.len();
                removed.fetch_add(gone as u64, Ordering::SeqCst);
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        });
    });
    for other in &mut others {
        assert!(other.wait().unwrap().success());
    }
    assert!(ran.load(Ordering::SeqCst) > 100, "{ran:?}");
    assert!(removed.load(Ordering::SeqCst) > 100, "{removed:?}");
    // Whatever has a name now is there.
    for number in 0..4 {
        run(&store, &format!("name-{number}"));
    }
    assert_eq!(tree::names(store.leases_fd()).unwrap().len(), 0);
}
