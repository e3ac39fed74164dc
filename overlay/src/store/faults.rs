//! Tests of what full disks, killed processes and power cuts do to a store.

use super::*;
use crate::content::{Claim, Expected, Ingest, Outcome};
use crate::gc::{Collected, Policy, Reachable, collect};
use crate::lease::{Root, SnapshotId};
use crate::snapshot::{Options as SnapshotOptions, Snapshots};
use std::io::{BufRead, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

mod removed;

/// A file system of its own. It goes with the test.
struct Mounted {
    directory: tempfile::TempDir,
    options: &'static str,
}

impl Mounted {
    fn tmpfs(options: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mount = run(
            "mount",
            &["-t", "tmpfs", "-o", options, "tmpfs", "DIR/fs"],
            &directory,
        );
        let options = "";
        mount.then_some(Self { directory, options })
    }

    fn ext4(megabytes: u64, inodes: &str) -> Option<Self> {
        Self::ext4_with(megabytes, inodes, "")
    }

    /// With more options of mount.
    fn ext4_with(megabytes: u64, inodes: &str, options: &'static str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = std::fs::File::create(directory.path().join("image")).unwrap();
        image.set_len(megabytes << 20).unwrap();
        let made = run(
            "mkfs.ext4",
            &["-q", "-m", "0", "-N", inodes, "DIR/image"],
            &directory,
        );
        let mounted = Self { directory, options };
        (made && mounted.mount()).then_some(mounted)
    }

    /// Without commits of the journal but those that somebody asks for.
    fn mount(&self) -> bool {
        run(
            "mount",
            &[
                "-o",
                &format!("loop,commit=1000{}", self.options),
                "DIR/image",
                "DIR/fs",
            ],
            &self.directory,
        )
    }

    /// Mounts what is on the disk after a power cut. From a copy: the dead file system may live on in
    /// mount namespaces that others made meanwhile, and would be mounted again.
    fn restart(&self) {
        // What another test starts has our descriptors until it is another program.
        let unmounted = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            let umount = Command::new("umount").arg(self.path()).output();
            umount.is_ok_and(|umount| umount.status.success())
        });
        assert!(unmounted, "the file system stays in use");
        let image = |name| self.directory.path().join(name);
        std::fs::copy(image("image"), image("copy")).unwrap();
        std::fs::rename(image("copy"), image("image")).unwrap();
        assert!(self.mount());
    }

    /// What is not on the disk yet never gets there.
    fn cut_power(&self) -> bool {
        // EXT4_IOC_SHUTDOWN without flushing the log; ioctl(2) would be unsafe here.
        let script = "import fcntl,os,struct,sys; \
            fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))";
        run("python3", &["-c", script, "DIR/fs"], &self.directory)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("fs")
    }

    fn store(&self) -> Store {
        Store::open(&self.path().join("store")).unwrap()
    }

    fn space(&self) -> rustix::fs::StatVfs {
        rustix::fs::statvfs(self.path()).unwrap()
    }

    /// Takes all blocks.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.path().join("filler")).unwrap();
        let mut size = 1 << 20;
        while size > 0 {
            if file.write_all(&vec![1; size]).is_err() {
                size /= 2;
            }
        }
        let _ = file.sync_all();
        assert_eq!(self.space().f_bavail, 0);
    }

    /// Takes all inodes.
    fn fill_inodes(&self) {
        std::fs::create_dir(self.path().join("fillers")).unwrap();
        let mut number = 0;
        while std::fs::File::create(self.path().join(format!("fillers/{number}"))).is_ok() {
            number += 1;
        }
        assert_eq!(self.space().f_ffree, 0);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &["-l", "DIR/fs"], &self.directory);
    }
}

/// Runs a tool; prints why the test is skipped if that fails.
fn run(program: &str, arguments: &[&str], directory: &tempfile::TempDir) -> bool {
    let at = directory.path().to_str().unwrap();
    let _ = std::fs::create_dir(directory.path().join("fs"));
    let arguments = arguments.iter().map(|argument| argument.replace("DIR", at));
    let output = Command::new(program).args(arguments).output();
    let done = output.as_ref().is_ok_and(|output| output.status.success());
    if !done {
        println!("skipped: cannot run {program} (needs root and loop devices): {output:?}");
    }
    done
}

fn noise(length: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(step).collect()
}

fn begin(store: &Store, lease: &Lease, bytes: &[u8]) -> Result<Ingest> {
    let expected = Expected {
        digest: crate::Digest::of(bytes),
        size: Some(bytes.len() as u64),
    };
    match store.content().ingest(lease, &expected, &mut |_| Ok(()))? {
        Claim::Mine(ingest) => Ok(ingest),
        Claim::Present(blob) => panic!("{} is there", blob.digest()),
    }
}

/// Some blobs, a layer and an abandoned download.
fn populate(store: &Store) {
    let lease = store.lease().unwrap();
    for seed in 0..3 {
        store.content().put(&lease, &noise(50_000, seed)).unwrap();
    }
    let ingest = begin(store, &lease, &noise(80_000, 9)).unwrap();
    ingest.claim(1).unwrap().write(&noise(40_000, 9)).unwrap();
    let diff = store
        .path()
        .join("layers")
        .join("ab".repeat(32))
        .join("diff/etc");
    std::fs::create_dir_all(&diff).unwrap();
    std::fs::write(diff.join("passwd"), "root").unwrap();
}

fn prune(store: &Store) -> Collected {
    let policy = Policy {
        abandoned_after: Duration::ZERO,
        dry_run: false,
    };
    collect(store, &policy, &mut |_| Ok(Reachable::default())).unwrap()
}

fn everything_goes(mounted: &Mounted) {
    let store = mounted.store();
    // Without inodes there is no lease already.
    let put = store
        .lease()
        .and_then(|lease| store.content().put(&lease, b"new"));
    assert_eq!(put.unwrap_err().kind(), ErrorKind::Exhausted);
    let first = store.content().list().unwrap()[0].clone();
    assert!(store.content().remove(&first).unwrap());
    let done = prune(&store);
    // The download and its map.
    assert_eq!(
        (done.blobs.len(), done.layers.len(), done.leftovers),
        (2, 1, 2)
    );
    assert_eq!(store.content().list().unwrap(), []);
    assert!(mounted.space().f_bavail > 0 && mounted.space().f_ffree > 0);
    store
        .content()
        .put(&store.lease().unwrap(), b"new")
        .unwrap();
}

#[test]
fn delete_and_prune_without_free_bytes() {
    for mounted in [Mounted::tmpfs("size=1m"), Mounted::ext4(8, "500")] {
        let Some(mounted) = mounted else { continue };
        populate(&mounted.store());
        mounted.fill();
        everything_goes(&mounted);
    }
}

#[test]
fn delete_and_prune_without_free_inodes() {
    for mounted in [
        Mounted::tmpfs("size=2m,nr_inodes=150"),
        Mounted::ext4(8, "300"),
    ] {
        let Some(mounted) = mounted else { continue };
        populate(&mounted.store());
        mounted.fill_inodes();
        everything_goes(&mounted);
    }
}

#[test]
fn snapshots_go_without_free_bytes_and_inodes() {
    // As long as those of containers.
    let id = |number: usize| -> SnapshotId { format!("{number:064x}").parse().unwrap() };
    for (mounted, inodes) in [
        (Mounted::tmpfs("size=1m"), false),
        (Mounted::ext4(8, "500"), false),
        (Mounted::tmpfs("size=2m,nr_inodes=150"), true),
        (Mounted::ext4(8, "300"), true),
    ] {
        let Some(mounted) = mounted else { continue };
        let store = mounted.store();
        let all = Snapshots::new(&store).unwrap();
        let lease = store.lease().unwrap();
        let create = |number| all.create(&lease, &id(number), &[], SnapshotOptions::default());
        for number in 0..20 {
            create(number).unwrap();
            let upper = format!("snapshots/{}/upper/file", id(number));
            std::fs::write(store.path().join(upper), noise(5000, 7)).unwrap();
        }
        match inodes {
            true => mounted.fill_inodes(),
            false => mounted.fill(),
        }
        let error = create(20).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
        let names = tree::names(store.directory("snapshots").unwrap()).unwrap();
        assert_eq!(names.len(), 20, "what could not be made left nothing");
        for number in 0..20 {
            assert!(all.remove(&id(number)).unwrap());
        }
        assert!(all.list().unwrap().is_empty());
        assert!(
            tree::names(store.directory("trash").unwrap())
                .unwrap()
                .is_empty()
        );
        create(20).unwrap();
    }
}

#[test]
fn a_download_that_fills_the_disk_gives_it_back() {
    for mounted in [Mounted::tmpfs("size=1m"), Mounted::ext4(8, "500")] {
        let Some(mounted) = mounted else { continue };
        let store = mounted.store();
        let lease = store.lease().unwrap();
        store.content().put(&lease, b"there").unwrap();
        let before = mounted.space().f_bavail;
        let bytes = noise(12 << 20, 1);
        let ingest = begin(&store, &lease, &bytes).unwrap();
        let error = ingest.claim(u64::MAX).unwrap().write(&bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
        let text = error.chain().to_string();
        assert!(text.contains(crate::Digest::of(&bytes).hex()), "{text}");
        drop(ingest);
        // The lease has grown by a line. Blocks that were being written are free a little later.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while mounted.space().f_bavail + 2 < before {
            assert!(
                std::time::Instant::now() < deadline,
                "the space is not given back"
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert_eq!(store.content().list().unwrap().len(), 1);
    }
}

#[test]
fn a_read_only_store_can_be_read_and_used() {
    let Some(mounted) = Mounted::tmpfs("size=1m") else {
        return;
    };
    let digest = {
        let store = mounted.store();
        store
            .content()
            .put(&store.lease().unwrap(), b"there")
            .unwrap()
    };
    if !run("mount", &["-o", "remount,ro", "DIR/fs"], &mounted.directory) {
        return;
    }
    let store = mounted.store();
    let lease = store.lease().unwrap();
    lease.hold(&[Root::Blob(digest.clone())]).unwrap();
    assert_eq!(
        store.content().read(&digest, 10).unwrap().unwrap(),
        b"there"
    );
    store.content().put(&lease, b"new").unwrap_err();
    store.content().remove(&digest).unwrap_err();
}

#[test]
fn after_a_power_cut_blobs_are_whole_and_downloads_are_right_in_the_end() {
    let Some(mounted) = Mounted::ext4(64, "2000") else {
        return;
    };
    mounted.store();
    for round in 0..12_u8 {
        let bytes = noise(300_000 + usize::from(round), round);
        let large = noise(5_000_000, 100 + round);
        let mut whole = Vec::new();
        {
            let store = mounted.store();
            let lease = store.lease().unwrap();
            whole.push(store.content().put(&lease, &bytes).unwrap());
            let ingest = begin(&store, &lease, &large).unwrap();
            let mut piece = ingest.claim(u64::MAX).unwrap();
            piece.write(&large[..3_000_000]).unwrap();
            // Sometimes the map gets to the disk and the bytes do not, sometimes the reverse.
            let name = |suffix| format!("sha256-{}.{suffix}", crate::Digest::of(&large).hex());
            let sync = |suffix| {
                let path = mounted
                    .path()
                    .join("store/content/incoming")
                    .join(name(suffix));
                std::fs::File::open(path).unwrap().sync_all().unwrap();
            };
            match round % 4 {
                0 => sync("map"),
                1 => sync("part"),
                2 => {
                    piece.write(&large[3_000_000..]).unwrap();
                    drop(piece);
                    whole.push(ingest.commit().unwrap().digest().clone());
                    if !mounted.cut_power() {
                        return;
                    }
                    drop((store, lease));
                    check(&mounted, &whole, &large);
                    continue;
                }
                _ => {}
            }
            if !mounted.cut_power() {
                return;
            }
        }
        check(&mounted, &whole, &large);
    }
}

/// Mounts again, and sees that everything committed is there and what was not can be got.
fn check(mounted: &Mounted, whole: &[crate::Digest], large: &[u8]) {
    mounted.restart();
    let store = mounted.store();
    for digest in whole {
        let blob = store
            .content()
            .open(digest)
            .unwrap()
            .expect("a committed blob");
        assert_eq!(blob.hash(&mut |_| Ok(())).unwrap(), *digest);
    }
    let report = crate::fsck::check(&store, &crate::fsck::Options::default(), &|_| Ok(()));
    assert_eq!(report.unwrap().problems, []);
    let lease = store.lease().unwrap();
    let digest = crate::Digest::of(large);
    for attempt in 0..2 {
        if store.content().contains(&digest).unwrap() {
            break;
        }
        let ingest = begin(&store, &lease, large).unwrap();
        while let Some(mut piece) = ingest.claim(u64::MAX) {
            let start = usize::try_from(piece.start()).unwrap();
            let end = usize::try_from(piece.end().unwrap()).unwrap();
            piece.write(&large[start..end]).unwrap();
        }
        match ingest.verify().unwrap() {
            Outcome::Whole(verified) => drop(verified.commit().unwrap()),
            Outcome::Mismatch(mismatch) => assert!(mismatch.resumed && attempt == 0),
        }
    }
    assert!(store.content().contains(&digest).unwrap());
    drop(lease);
    prune(&store);
}

/// A part of the next test, in a process of its own: tells how much it has written.
#[test]
fn downloader() {
    let Ok(path) = std::env::var("RCRUN_DOWNLOADER") else {
        return;
    };
    let store = Store::open(Path::new(&path)).unwrap();
    let lease = store.lease().unwrap();
    let bytes = noise(8 << 20, 3);
    let ingest = begin(&store, &lease, &bytes).unwrap();
    let mut piece = ingest.claim(u64::MAX).unwrap();
    while let Some(rest) = bytes.get(usize::try_from(piece.start()).unwrap()..) {
        piece.write(&rest[..rest.len().min(10_000)]).unwrap();
        println!("at {}", piece.start());
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn a_killed_download_is_resumed_by_another_process() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let bytes = noise(8 << 20, 3);
    let mut fetched = 0;
    let mut last = 0;
    for lines in [1, 40, 7, 150] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::faults::downloader", "--nocapture"])
            .env("RCRUN_DOWNLOADER", directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let number = |line: String| line.split_once("at ")?.1.parse::<u64>().ok();
        let told: Vec<_> = output
            .lines()
            .map_while(std::io::Result::ok)
            .filter_map(number)
            .take(lines)
            .collect();
        child.kill().unwrap();
        child.wait().unwrap();
        // Nothing that was told is lost: the next one begins behind it, not more than a step.
        assert!(
            told[0] > last && told[0] <= last + 10_000 + 65_536,
            "{last} {told:?}"
        );
        let ingest = begin(&store, &store.lease().unwrap(), &bytes).unwrap();
        assert!(ingest.resumed() >= *told.last().unwrap());
        fetched += ingest.resumed() - last;
        last = ingest.resumed();
    }
    let ingest = begin(&store, &store.lease().unwrap(), &bytes).unwrap();
    assert_eq!(fetched, ingest.resumed());
    let rest = &bytes[usize::try_from(ingest.resumed()).unwrap()..];
    ingest.claim(u64::MAX).unwrap().write(rest).unwrap();
    let blob = ingest.commit().unwrap();
    let mut read = vec![0; bytes.len()];
    blob.file().read_exact_at(&mut read, 0).unwrap();
    assert!(read == bytes);
}
