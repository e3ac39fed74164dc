use super::*;
use crate::digest::Algorithm;
use crate::lease::Lease;
use crate::lock::up_to;
use crate::store::Store;
use crate::{Digest, ErrorKind, tree};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

struct Fixture {
    directory: tempfile::TempDir,
    store: Store,
    content: Content,
    lease: Lease,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let (content, lease) = (store.content(), store.lease().unwrap());
    Fixture {
        directory,
        store,
        content,
        lease,
    }
}

impl Fixture {
    fn claim(&self, bytes: &[u8]) -> Claim {
        self.claim_as(&Digest::of(bytes), Some(bytes.len() as u64))
    }

    fn claim_as(&self, digest: &Digest, size: Option<u64>) -> Claim {
        let expected = Expected {
            digest: digest.clone(),
            size,
        };
        let mut patience = up_to(Duration::from_secs(20));
        self.content
            .ingest(&self.lease, &expected, &mut patience)
            .unwrap()
    }

    fn mine(&self, bytes: &[u8]) -> Ingest {
        mine(self.claim(bytes))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let (algorithm, shard, name) = final_name(digest);
        self.directory
            .path()
            .join("content")
            .join(algorithm)
            .join(shard)
            .join(name)
    }

    fn part(&self, bytes: &[u8], suffix: &str) -> PathBuf {
        let name = format!("sha256-{}.{suffix}", Digest::of(bytes).hex());
        self.directory.path().join("content/incoming").join(name)
    }

    fn incoming(&self) -> usize {
        tree::names(self.store.incoming_fd()).unwrap().len()
    }
}

fn mine(claim: Claim) -> Ingest {
    match claim {
        Claim::Mine(ingest) => ingest,
        Claim::Present(blob) => panic!("{} is there", blob.digest()),
    }
}

/// Bytes that do not repeat.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend(next());
    }
    bytes.truncate(length);
    bytes
}

fn fill(ingest: &Ingest, bytes: &[u8]) {
    while let Some(mut piece) = ingest.claim(u64::MAX) {
        let start = usize::try_from(piece.start()).unwrap();
        let end = usize::try_from(piece.end().unwrap()).unwrap();
        piece.write(&bytes[start..end]).unwrap();
    }
}

fn of(path: &Path) -> std::fs::Metadata {
    std::fs::metadata(path).unwrap()
}

#[test]
fn small_ones_are_put_and_read() {
    let f = fixture();
    for bytes in [&b""[..], b"{}", &noise(1 << 20, 1)] {
        let digest = f.content.put(&f.lease, bytes).unwrap();
        assert_eq!(f.content.put(&f.lease, bytes).unwrap(), Digest::of(bytes));
        assert_eq!(f.content.read(&digest, 1 << 20).unwrap().unwrap(), bytes);
        assert_eq!(of(&f.path(&digest)).permissions().mode() & 0o7777, 0o444);
        let Claim::Present(blob) = f.claim(bytes) else {
            panic!()
        };
        assert_eq!(blob.size(), bytes.len() as u64);
    }
    assert_eq!(f.incoming(), 0);
    assert_eq!(f.content.list().unwrap().len(), 3);
    let digest = Digest::of(b"{}");
    let error = f.content.read(&digest, 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(f.content.remove(&digest).unwrap());
    assert!(!f.content.remove(&digest).unwrap());
    assert!(f.content.open(&digest).unwrap().is_none());
    assert!(f.content.open(&Digest::of(b"never")).unwrap().is_none());
}

#[test]
fn other_algorithms_have_their_own_directory() {
    let f = fixture();
    let bytes = noise(100_000, 2);
    let mut hasher = Algorithm::Sha512.hasher();
    hasher.update(&bytes);
    let digest = hasher.finish();
    let ingest = mine(f.claim_as(&digest, Some(100_000)));
    fill(&ingest, &bytes);
    ingest.commit().unwrap();
    assert!(f.directory.path().join("content/sha512").is_dir());
    assert_eq!(f.content.list().unwrap(), std::slice::from_ref(&digest));
    assert_eq!(f.content.read(&digest, 100_000).unwrap().unwrap(), bytes);
}

#[test]
fn unknown_size_and_unknown_digest() {
    let f = fixture();
    let bytes = noise(300_000, 3);
    let ingest = mine(f.claim_as(&Digest::of(&bytes), None));
    let mut piece = ingest.claim(1).unwrap();
    assert_eq!((piece.start(), piece.end()), (0, None));
    for part in bytes.chunks(70_001) {
        Write::write_all(&mut piece, part).unwrap();
    }
    drop(piece);
    assert!(!ingest.is_complete());
    assert_eq!(ingest.commit().unwrap().size(), 300_000);
    let ingest = f.content.receive(&f.lease).unwrap();
    ingest.claim(1).unwrap().write(b"new").unwrap();
    assert_eq!(ingest.commit().unwrap().digest(), &Digest::of(b"new"));
    // The same once more changes nothing.
    let inode = of(&f.path(&Digest::of(b"new"))).ino();
    let ingest = f.content.receive(&f.lease).unwrap();
    ingest.claim(1).unwrap().write(b"new").unwrap();
    ingest.commit().unwrap();
    assert_eq!(of(&f.path(&Digest::of(b"new"))).ino(), inode);
    drop(f.content.receive(&f.lease).unwrap());
    assert_eq!(f.incoming(), 0);
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    let f = fixture();
    let bytes = noise(3 * (SEGMENT as usize) + 77, 4);
    for (number, stop) in [0, 1, 100_000, bytes.len() / 2, bytes.len() - 1]
        .into_iter()
        .enumerate()
    {
        let ingest = f.mine(&bytes);
        let before = ingest.resumed();
        assert_eq!(ingest.arrived(), before);
        assert!(number == 0 || before > 0 || stop == 1);
        let mut piece = ingest.claim(u64::MAX).unwrap();
        let start = usize::try_from(piece.start()).unwrap();
        assert_eq!(start as u64, before);
        piece.write(&bytes[start..stop]).unwrap();
        drop(piece);
    }
    let ingest = f.mine(&bytes);
    assert_eq!(ingest.resumed(), bytes.len() as u64 - 1);
    let mut piece = ingest.claim(u64::MAX).unwrap();
    piece.write(&bytes[bytes.len() - 1..]).unwrap();
    drop(piece);
    assert!(ingest.is_complete());
    ingest.commit().unwrap();
    assert_eq!(f.incoming(), 0);
}

#[test]
fn several_connections_out_of_order() {
    let f = fixture();
    let bytes = noise(6 * (SEGMENT as usize) + 12_345, 5);
    let ingest = f.mine(&bytes);
    let mut reader = ingest.reader();
    let read = std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut read = Vec::new();
            reader.read_to_end(&mut read).map(|_| read)
        });
        std::thread::scope(|scope| {
            for number in 0..4 {
                let (ingest, bytes) = (&ingest, &bytes);
                scope.spawn(move || {
                    while let Some(mut piece) = ingest.claim(SEGMENT) {
                        // The first one is the last one, and some give up on the way.
                        std::thread::sleep(Duration::from_millis(30 * (4 - number)));
                        let start = usize::try_from(piece.start()).unwrap();
                        let end = usize::try_from(piece.end().unwrap()).unwrap();
                        let whole = !start.is_multiple_of(3);
                        let stop = if whole {
                            end
                        } else {
                            start + (end - start) / 2 + 1
                        };
                        for part in bytes[start..stop].chunks(10_000) {
                            piece.write(part).unwrap();
                        }
                    }
                });
            }
        });
        fill(&ingest, &bytes);
        ingest.commit().unwrap();
        reading.join().unwrap().unwrap()
    });
    assert!(read == bytes);
}

#[test]
fn readers_see_nothing_wrong_to_the_end() {
    let f = fixture();
    let bytes = noise(200_000, 6);
    // Given up.
    let ingest = f.mine(&bytes);
    let mut reader = ingest.reader();
    ingest
        .claim(u64::MAX)
        .unwrap()
        .write(&bytes[..1000])
        .unwrap();
    let mut start = [0; 1000];
    reader.read_exact(&mut start).unwrap();
    assert_eq!(start, bytes[..1000]);
    let waiting = std::thread::spawn(move || reader.read(&mut [0; 10]));
    std::thread::sleep(Duration::from_millis(20));
    drop(ingest);
    let error = waiting.join().unwrap().unwrap_err();
    assert!(error.to_string().contains("given up"), "{error}");
    // Wrong: all bytes can be read, but not the end.
    let ingest = f.mine(&bytes);
    let mut wrong = bytes.clone();
    wrong[199_999] ^= 1;
    fill(&ingest, &wrong);
    let mut reader = ingest.reader();
    let waiting = std::thread::spawn(move || reader.read_to_end(&mut Vec::new()));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!waiting.is_finished());
    ingest.commit().unwrap_err();
    let error = waiting.join().unwrap().unwrap_err();
    assert!(
        error.to_string().contains(&Digest::of(&wrong).to_string()),
        "{error}"
    );
}

#[test]
fn d9_wrong_bytes_never_count() {
    let f = fixture();
    let bytes = noise(100_000, 7);
    let digest = Digest::of(&bytes);
    // A flipped bit.
    let ingest = f.mine(&bytes);
    let mut wrong = bytes.clone();
    wrong[50_000] ^= 4;
    fill(&ingest, &wrong);
    let Outcome::Mismatch(mismatch) = ingest.verify().unwrap() else {
        panic!()
    };
    assert!(!mismatch.resumed);
    let text = mismatch.error.to_string();
    for digest in [&digest, &Digest::of(&wrong)] {
        assert!(text.contains(&digest.to_string()), "{text}");
    }
    assert_eq!(f.incoming(), 0);
    // An over-long body: at once, and in small parts.
    let ingest = f.mine(&bytes);
    let mut piece = ingest.claim(u64::MAX).unwrap();
    piece.write(&[&bytes[..], b"x"].concat()).unwrap_err();
    piece.write(&bytes).unwrap();
    let error = piece.write(b"x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    drop(piece);
    assert_eq!(of(&f.part(&bytes, "part")).len(), 100_000);
    drop(ingest);
    assert!(!f.content.contains(&digest).unwrap());
    // A short one is kept for the next attempt, and is no blob.
    std::fs::remove_file(f.part(&bytes, "map")).unwrap();
    let ingest = f.mine(&bytes);
    ingest
        .claim(u64::MAX)
        .unwrap()
        .write(&bytes[..99_999])
        .unwrap();
    let error = ingest.verify().unwrap_err();
    assert!(error.to_string().contains("99999 of 100000"), "{error}");
    assert_eq!(f.mine(&bytes).resumed(), 99_999);
    assert_eq!(f.content.list().unwrap(), []);
}

#[test]
fn d9_forged_sizes_are_refused() {
    let f = fixture();
    let digest = f.content.put(&f.lease, b"four").unwrap();
    let ask = |size| {
        let expected = Expected {
            digest: digest.clone(),
            size: Some(size),
        };
        f.content.ingest(&f.lease, &expected, &mut |_| Ok(()))
    };
    for size in [0, 3, 5, MAX_SIZE, MAX_SIZE + 1, u64::MAX] {
        assert_eq!(
            ask(size).unwrap_err().kind(),
            ErrorKind::InvalidInput,
            "{size}"
        );
    }
    assert!(matches!(ask(4), Ok(Claim::Present(_))));
}

#[test]
fn a_damaged_blob_of_another_length_is_got_again() {
    let f = fixture();
    let bytes = noise(5000, 8);
    let digest = f.content.put(&f.lease, &bytes).unwrap();
    // What a file system without our syncs leaves after a power cut.
    std::fs::write(f.path(&digest), b"").unwrap();
    let ingest = f.mine(&bytes);
    fill(&ingest, &bytes);
    ingest.commit().unwrap();
    assert_eq!(f.content.read(&digest, 5000).unwrap().unwrap(), bytes);
    assert_eq!(
        std::fs::read_dir(f.directory.path().join("content/damaged"))
            .unwrap()
            .count(),
        1
    );
}

#[test]
fn damage_is_seen_when_a_document_is_read() {
    let f = fixture();
    let digest = f.content.put(&f.lease, b"{\"a\":1}").unwrap();
    std::fs::write(f.path(&digest), b"{\"a\":2}").unwrap();
    let error = f.content.read(&digest, 100).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(&digest.to_string()), "{error}");
}

#[test]
fn what_a_power_cut_or_a_forger_leaves_never_becomes_a_blob() {
    let f = fixture();
    let bytes = noise(SEGMENT as usize + 500_000, 9);
    let (part, map) = (f.part(&bytes, "part"), f.part(&bytes, "map"));
    let begin = |length: usize| {
        let ingest = f.mine(&bytes);
        ingest
            .claim(u64::MAX)
            .unwrap()
            .write(&bytes[..length])
            .unwrap();
    };
    let forged = |numbers: &[u64]| {
        let head = [&b"rcmap\x001\n"[..], &(bytes.len() as u64).to_le_bytes()].concat();
        let numbers = numbers.iter().flat_map(|n| n.to_le_bytes());
        head.into_iter().chain(numbers).collect::<Vec<u8>>()
    };
    let damage: [&dyn Fn(); 8] = [
        &|| std::fs::write(&map, "").unwrap(),
        &|| std::fs::write(&map, noise(3000, 10)).unwrap(),
        &|| std::fs::write(&map, forged(&[u64::MAX, u64::MAX, 7])).unwrap(),
        &|| std::fs::write(&map, forged(&[SEGMENT, 500_000])).unwrap(),
        &|| std::fs::write(&part, vec![0; bytes.len()]).unwrap(),
        &|| std::fs::write(&part, vec![0; bytes.len() + 4096]).unwrap(),
        &|| {
            std::fs::File::options()
                .write(true)
                .open(&part)
                .unwrap()
                .set_len(10)
                .unwrap();
        },
        &|| std::fs::remove_file(&part).unwrap(),
    ];
    for (number, damage) in damage.iter().enumerate() {
        begin(SEGMENT as usize + 1000);
        damage();
        let ingest = f.mine(&bytes);
        fill(&ingest, &bytes);
        match ingest.verify().unwrap() {
            Outcome::Whole(verified) => drop(verified.commit().unwrap()),
            Outcome::Mismatch(mismatch) => {
                assert!(mismatch.resumed, "case {number}");
                assert_eq!(f.incoming(), 0, "case {number}");
                let ingest = f.mine(&bytes);
                assert_eq!(ingest.resumed(), 0);
                fill(&ingest, &bytes);
                ingest.commit().unwrap();
            }
        }
        let digest = Digest::of(&bytes);
        let blob = f.content.open(&digest).unwrap().unwrap();
        assert_eq!(blob.hash(&mut |_| Ok(())).unwrap(), digest, "case {number}");
        assert_eq!(f.incoming(), 0, "case {number}");
        f.content.remove(&digest).unwrap();
    }
}

#[test]
fn links_and_fifos_in_incoming_are_replaced() {
    let f = fixture();
    let bytes = noise(1000, 11);
    let outside = f.directory.path().join("trash/precious");
    std::fs::write(&outside, "stays").unwrap();
    let plant: [&dyn Fn(&Path); 3] = [
        &|path| std::os::unix::fs::symlink(&outside, path).unwrap(),
        &|path| std::fs::hard_link(&outside, path).unwrap(),
        &|path| {
            let mode = rustix::fs::Mode::from(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
                .unwrap();
        },
    ];
    for plant in plant {
        for suffix in ["part", "map"] {
            plant(&f.part(&bytes, suffix));
            let ingest = f.mine(&bytes);
            fill(&ingest, &bytes);
            ingest.commit().unwrap();
            assert_eq!(std::fs::read_to_string(&outside).unwrap(), "stays");
            assert!(f.content.remove(&Digest::of(&bytes)).unwrap());
        }
    }
}

#[test]
fn one_gets_it_and_all_have_it() {
    let f = fixture();
    let bytes = noise(2_000_000, 12);
    for _ in 0..20 {
        let fetched = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| match f.claim(&bytes) {
                    Claim::Present(blob) => assert_eq!(blob.size(), 2_000_000),
                    Claim::Mine(ingest) => {
                        // Every third one fails half-way; the next goes on.
                        let number = fetched.fetch_add(1, Ordering::SeqCst);
                        let mut piece = ingest.claim(u64::MAX).unwrap();
                        let start = usize::try_from(piece.start()).unwrap();
                        if number == 0 {
                            piece.write(&bytes[..1_000_000]).unwrap();
                        } else {
                            assert_eq!(start, 1_000_000);
                            piece.write(&bytes[start..]).unwrap();
                            drop(piece);
                            ingest.commit().unwrap();
                        }
                    }
                });
            }
        });
        // The one that failed, and the one that did not.
        assert_eq!(fetched.load(Ordering::SeqCst), 2);
        assert!(f.content.remove(&Digest::of(&bytes)).unwrap());
    }
}

#[test]
fn waiting_for_another_one_can_be_given_up() {
    let f = fixture();
    let ingest = f.mine(b"bytes");
    let expected = Expected {
        digest: Digest::of(b"bytes"),
        size: None,
    };
    let mut patience = up_to(Duration::from_millis(50));
    let error = f
        .content
        .ingest(&f.lease, &expected, &mut patience)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(
        error.to_string().contains(&expected.digest.to_string()),
        "{error}"
    );
    drop(ingest);
    assert_eq!(f.incoming(), 2, "nothing is lost for the next one");
    f.mine(b"bytes").discard();
    assert_eq!(f.incoming(), 0);
}

#[test]
fn many_are_committed_together() {
    let f = fixture();
    let documents: Vec<_> = (0..40).map(|seed| noise(5000, 100 + seed)).collect();
    let prepare = |bytes: &Vec<u8>| {
        f.content
            .prepare(&f.lease, Algorithm::Sha256, bytes)
            .unwrap()
    };
    let verified: Vec<_> = documents
        .iter()
        .chain(&documents[..3])
        .map(prepare)
        .collect();
    assert_eq!(f.content.list().unwrap(), [], "nothing is there before");
    let blobs = commit_all(verified).unwrap();
    assert_eq!(blobs.len(), 43);
    for (blob, bytes) in blobs.iter().zip(&documents) {
        assert_eq!(&blob.read_verified(5000).unwrap(), bytes);
    }
    assert_eq!(f.content.list().unwrap().len(), 40);
    assert_eq!(f.incoming(), 0);
}

#[test]
fn names_of_incoming_things() {
    let digest = Digest::of(b"");
    let hex = digest.hex();
    let is = |name: &str| scan_incoming(name);
    assert_eq!(
        is(&format!("sha256-{hex}.part")),
        Incoming::Part(digest.clone())
    );
    assert_eq!(
        is(&format!("sha256-{hex}.map")),
        Incoming::Map(digest.clone())
    );
    assert_eq!(is(".new-1-2"), Incoming::Anonymous);
    for name in [
        "x.part",
        &format!("{hex}.part"),
        &format!("sha256-{hex}"),
        "sha256-.part",
        "",
    ] {
        assert_eq!(is(name), Incoming::Unknown, "{name}");
    }
}
