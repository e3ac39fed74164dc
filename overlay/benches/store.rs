//! How fast a blob gets into the store, against sha256sum and cp; and how fast fsck is. One run each,
//! with 512 MiB; `cargo bench -p rcrun-overlay --bench store [DIRECTORY]`.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a report")]

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rcrun_overlay::content::{Claim, Expected};
use rcrun_overlay::store::Store;
use rcrun_overlay::{Digest, fsck};

const SIZE: usize = 512 << 20;

fn main() {
    let at = std::env::args()
        .nth(1)
        .filter(|argument| !argument.starts_with('-'));
    let at = at.unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").to_owned());
    let directory = tempfile::tempdir_in(at).unwrap();
    let source = directory.path().join("source");
    let digest = make(&source);
    let path = |name: &str| directory.path().join(name).display().to_string();
    for _ in 0..3 {
        settle();
        timed("sha256sum", || tool("sha256sum", &[&path("source")]));
        settle();
        timed("cp", || tool("cp", &[&path("source"), &path("copy")]));
        timed("sync of that", || tool("sync", &[&path("copy")]));
        std::fs::remove_file(path("copy")).unwrap();
        settle();
        let store = Store::open(&directory.path().join("store")).unwrap();
        ingest(&store, &source, &digest);
        for (name, threads, from_disk) in [
            ("fsck, page cache", 1, false),
            ("fsck, disk", 1, true),
            ("fsck, disk, 2", 2, true),
        ] {
            let options = fsck::Options { threads, from_disk };
            timed(name, || {
                let report = fsck::check(&store, &options, &|_| Ok(())).unwrap();
                assert!(report.problems.is_empty());
            });
        }
        store.content().remove(&digest).unwrap();
    }
}

fn make(path: &Path) -> Digest {
    let mut file = std::fs::File::create(path).unwrap();
    let mut hasher = rcrun_overlay::digest::Algorithm::Sha256.hasher();
    let mut state = 1_u64;
    let mut block = vec![0; 1 << 20];
    for _ in 0..SIZE / block.len() {
        for word in block.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_le_bytes();
        }
        hasher.update(&block);
        file.write_all(&block).unwrap();
    }
    hasher.finish()
}

fn ingest(store: &Store, source: &Path, digest: &Digest) {
    let lease = store.lease().unwrap();
    let expected = Expected {
        digest: digest.clone(),
        size: Some(SIZE as u64),
    };
    let mut source = std::fs::File::open(source).unwrap();
    let mut buffer = vec![0; 256 << 10];
    timed("ingest, all", || {
        let claim = store
            .content()
            .ingest(&lease, &expected, &mut |_| Ok(()))
            .unwrap();
        let Claim::Mine(ingest) = claim else {
            panic!("it is there")
        };
        let mut piece = ingest.claim(u64::MAX).unwrap();
        timed("  read, write, hash", || {
            loop {
                let count = source.read(&mut buffer).unwrap();
                if count == 0 {
                    break;
                }
                piece.write(&buffer[..count]).unwrap();
            }
        });
        drop(piece);
        let verified = ingest.verify().unwrap().whole().unwrap();
        timed("  sync, rename, sync", || drop(verified.commit().unwrap()));
    });
}

/// What others wrote is none of our time.
fn settle() {
    tool("sync", &[]);
    std::thread::sleep(Duration::from_millis(200));
}

fn tool(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success());
}

/// Prints wall time, and the processor time of this process and of tools that have ended.
fn timed(name: &str, work: impl FnOnce()) {
    let (begun, used) = (Instant::now(), ticks());
    work();
    let (seconds, used) = (begun.elapsed().as_secs_f64(), (ticks() - used) * 10);
    let rate = SIZE as f64 / f64::from(1 << 20) / seconds;
    println!("{name:22} {seconds:7.3} s {rate:8.0} MiB/s {used:6} ms CPU");
}

/// Fields 14 to 17 of proc_pid_stat(5).
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let numbers = fields.split(' ').skip(11).take(4);
    numbers.map(|number| number.parse::<u64>().unwrap()).sum()
}
