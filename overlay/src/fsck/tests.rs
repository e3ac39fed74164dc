use super::*;
use crate::content::{Claim, Expected};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

fn look(store: &Store) -> Report {
    check(store, &Options::default(), &|_| Ok(())).unwrap()
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn document(number: usize) -> Vec<u8> {
    format!("document {number}").into_bytes().repeat(300)
}

#[test]
fn one_flipped_bit_in_each_of_a_hundred_is_found_and_only_those_are_fetched() {
    let (directory, store) = store();
    let lease = store.lease().unwrap();
    let verified = (0..120).map(|n| {
        store
            .content()
            .prepare(&lease, crate::digest::Algorithm::Sha256, &document(n))
            .unwrap()
    });
    crate::content::commit_all(verified.collect()).unwrap();
    let read = AtomicU64::new(0);
    let options = Options {
        threads: 4,
        from_disk: true,
    };
    let report = check(&store, &options, &|count| {
        read.fetch_add(count, Ordering::SeqCst);
        Ok(())
    });
    let report = report.unwrap();
    assert_eq!((report.checked, report.problems.len()), (120, 0));
    assert_eq!(report.bytes, read.load(Ordering::SeqCst));
    for number in 0..100 {
        let digest = Digest::of(&document(number));
        flip(&directory.path().join(path_of(&digest)), 13 * number as u64);
    }
    let report = look(&store);
    assert_eq!(report.problems.len(), 100);
    let mut fetched = 0;
    for problem in &report.problems {
        let words = problem.to_string();
        assert!(
            words.contains(problem.digest.as_ref().unwrap().hex()),
            "{words}"
        );
        let repaired = repair(&store, problem, &mut |digest| {
            fetched += 1;
            assert!(!store.content().contains(digest).unwrap());
            let expected = Expected {
                digest: digest.clone(),
                size: None,
            };
            let claim = store
                .content()
                .ingest(&lease, &expected, &mut |_| Ok(()))
                .unwrap();
            let Claim::Mine(ingest) = claim else { panic!() };
            let right = (0..120)
                .map(document)
                .find(|d| Digest::of(d) == *digest)
                .unwrap();
            ingest.claim(1).unwrap().write(&right).unwrap();
            ingest.commit().map(|_| true)
        });
        assert_eq!(repaired.unwrap(), Repaired::Fixed);
    }
    assert_eq!(fetched, 100);
    assert_eq!(look(&store).problems, []);
    // The problems of the past are no reason to fetch again.
    let mut no = |_: &Digest| panic!("it is there");
    assert_eq!(
        repair(&store, &report.problems[0], &mut no).unwrap(),
        Repaired::Fixed
    );
}

#[test]
fn everything_odd_is_named() {
    let (directory, store) = store();
    let path = directory.path();
    let lease = store.lease().unwrap();
    let digests: Vec<_> = (0..5)
        .map(|n| store.content().put(&lease, &document(n)).unwrap())
        .collect();
    let place = |n: usize| path.join(path_of(&digests[n]));
    std::fs::set_permissions(place(0), std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::fs::write(place(1), "").unwrap();
    std::fs::remove_file(place(2)).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", place(2)).unwrap();
    std::fs::remove_file(place(3)).unwrap();
    std::fs::create_dir(place(3)).unwrap();
    let elsewhere = path.join("content/sha256/00").join(digests[4].hex());
    std::fs::create_dir_all(path.join("content/sha256/00")).unwrap();
    std::fs::rename(place(4), &elsewhere).unwrap();
    std::fs::write(path.join("content/sha256/00/notes"), "").unwrap();
    std::fs::create_dir(path.join("content/sha256/xyz")).unwrap();
    std::fs::write(path.join("content/letter"), "").unwrap();
    std::fs::write(path.join("content/incoming/letter"), "").unwrap();
    let report = look(&store);
    let mut wrong: Vec<_> = report
        .problems
        .iter()
        .map(|p| (p.path.clone(), p.wrong.clone()))
        .collect();
    let why = format!("its 0 bytes have digest {}", Digest::of(b""));
    let mut expected = [
        (path_of(&digests[0]), Wrong::Mode(0o4755)),
        (path_of(&digests[1]), Wrong::Damaged(why)),
        (path_of(&digests[2]), Wrong::NotAFile),
        (path_of(&digests[3]), Wrong::NotAFile),
        (
            format!("content/sha256/00/{}", digests[4].hex()),
            Wrong::Misplaced,
        ),
        ("content/sha256/00/notes".to_owned(), Wrong::Unknown),
        ("content/sha256/xyz".to_owned(), Wrong::Unknown),
        ("content/letter".to_owned(), Wrong::Unknown),
        ("content/incoming/letter".to_owned(), Wrong::Unknown),
    ];
    wrong.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    expected.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(wrong, expected);
    let mut missing = 0;
    for problem in &report.problems {
        let repaired = repair(&store, problem, &mut |_| Ok(false)).unwrap();
        missing += usize::from(repaired == Repaired::Missing);
    }
    assert_eq!(missing, 4, "one has another mode only");
    assert!(
        look(&store)
            .problems
            .iter()
            .all(|problem| problem.wrong == Wrong::Unknown)
    );
    assert_eq!(
        store.content().list().unwrap(),
        std::slice::from_ref(&digests[0])
    );
}

#[test]
fn it_can_be_stopped() {
    let (_directory, store) = store();
    store.content().put(&store.lease().unwrap(), b"x").unwrap();
    let stop = |_| Err(Error::new(ErrorKind::Deadline, "interrupted"));
    let error = check(&store, &Options::default(), &stop).unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
}
