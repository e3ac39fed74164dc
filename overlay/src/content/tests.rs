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

mod hostile;

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
