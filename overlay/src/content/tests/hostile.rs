//! What is wrong, forged or damaged never becomes a blob.

use super::*;

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
