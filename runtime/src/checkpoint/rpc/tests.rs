use super::*;

#[test]
fn requests_are_byte_for_byte_what_criu_reads() {
    assert_eq!(question(Kind::Version), [0x08, 10, 0x20, 1]);
    assert_eq!(
        question(Kind::FeatureCheck),
        [0x08, 9, 0x20, 1, 0x2a, 4, 0x08, 1, 0x10, 1]
    );
    assert_eq!(acknowledge(true), [0x08, 6, 0x18, 1]);
    assert_eq!(acknowledge(false), [0x08, 6, 0x18, 0]);
    let options = Options {
        images_dir_fd: 5,
        pid: Some(300),
        external_mounts: vec![(b"/a".to_vec(), b"/b".to_vec())],
        inherited: vec![("pipe:[7]".into(), 1)],
        cgroup_mode: Some(0),
        empty_namespaces: 0x4000_0000,
        lsm_profile: Some("x".into()),
        ..Options::default()
    };
    let expected = [
        &[0x08, 1, 0x12, 48, 0x08, 5, 0x10, 0xac, 0x02][..],
        &[0xaa, 0x03, 1, b'x'],
        &[0xc0, 0x01, 1, 0x90, 0x02, 0],
        &[0xba, 0x01, 8, 0x0a, 2, b'/', b'a', 0x12, 2, b'/', b'b'],
        &[0xda, 0x01, 12, 0x0a, 8],
        b"pipe:[7]",
        &[0x10, 1],
        &[0xb0, 0x02, 0x80, 0x80, 0x80, 0x80, 0x04],
    ]
    .concat();
    assert_eq!(request(Kind::Dump, &options), expected);
}

#[test]
fn answers_are_understood() {
    let notify = [
        &[0x08, 6, 0x10, 1, 0x2a, 17, 0x0a, 12][..],
        b"post-restore",
        &[0x10, 0xd2, 0x09],
    ]
    .concat();
    let response = Response::decode(&notify).unwrap();
    assert!(response.success && response.kind == Kind::Notify as u64);
    assert_eq!(response.notify, Some(("post-restore".into(), Some(1234))));

    let failed = [&[0x08, 1, 0x10, 0, 0x38, 22, 0x4a, 2][..], b"no"].concat();
    let response = Response::decode(&failed).unwrap();
    assert_eq!((response.success, response.errno), (false, 22));
    assert_eq!(response.message.as_deref(), Some("no"));

    let features = Response::decode(&[0x08, 9, 0x10, 1, 0x42, 4, 0x08, 1, 0x10, 0]).unwrap();
    let expected = Features {
        mem_track: true,
        lazy_pages: false,
    };
    assert_eq!(features.features, Some(expected));

    let restored = Response::decode(&[0x08, 2, 0x10, 1, 0x22, 2, 0x08, 77]).unwrap();
    assert_eq!(restored.restored, Some(77));
}

#[test]
fn versions_compare() {
    let decode = |version: &[u8]| {
        let mut bytes = vec![0x08, 10, 0x10, 1, 0x52, version.len() as u8];
        bytes.extend_from_slice(version);
        Response::decode(&bytes).unwrap().version.unwrap()
    };
    assert_eq!(decode(&[0x08, 3, 0x10, 17, 0x20, 1]), Version(31_701));
    assert_eq!(decode(&[0x08, 4, 0x10, 2]), Version(40_200));
    assert_eq!(
        decode(&[0x08, 3, 0x10, 14, 0x1a, 1, b'g', 0x20, 9]),
        Version(31_500)
    );
    assert_eq!(Version(31_701).to_string(), "3.17.1");
    assert_eq!(Version(40_200).to_string(), "4.2");
}

#[test]
fn unknown_fields_are_skipped() {
    // Fields 90 (number), 91 (bytes), 92 (eight bytes), 93 (four bytes), then `success`.
    let bytes = [
        &[0xd0, 0x05, 7][..],
        &[0xda, 0x05, 2, 1, 2],
        &[0xe1, 0x05, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0xed, 0x05, 0, 0, 0, 0],
        &[0x10, 1],
    ]
    .concat();
    assert!(Response::decode(&bytes).unwrap().success);
}

#[test]
fn broken_answers_are_refused() {
    for bytes in [
        &[0x08][..],         // no value
        &[0x0a, 5, 1],       // shorter than it says
        &[0x0b],             // a group
        &[0xff; 11],         // an endless number
        &[0x2a, 2, 0x0a, 9], // broken inside
        &[
            0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ],
    ] {
        assert!(Response::decode(bytes).is_err(), "{bytes:?}");
    }
    // No input may panic.
    let mut state = 1u64;
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..24)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        let _ = Response::decode(&bytes);
    }
}
