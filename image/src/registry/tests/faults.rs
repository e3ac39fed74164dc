//! Transfers that break: 28, 29, 31, 32.

use std::time::Instant;

use super::*;

const MANY: usize = 1_000_000;

/// RELIABILITY 29.
#[test]
fn a_reset_at_any_byte_costs_at_most_64_kib() {
    let size = 3_000_000;
    for at in [0, 1, 50_000, size / 2, size - 1] {
        let (registry, bytes, reference) = with_blob(size as usize);
        registry.fault("GET", "/blobs/", 1, Fault::Reset(at));
        let kept = Kept::new(&layer(&bytes));
        kept.fetch(&client(plain(&registry)), &reference).unwrap();
        assert!(kept.bytes() == bytes);
        let sent = sent(&registry, "/blobs/");
        assert!(sent <= size + (64 << 10), "reset at {at}: {sent} bytes");
        assert_eq!(registry.seen_of("GET", "/blobs/").len(), 2);
    }
}

/// RELIABILITY 29, in another process: a new client has only what the sink says.
#[test]
fn another_client_goes_on() {
    let size = 3_000_000;
    let (registry, bytes, reference) = with_blob(size);
    let kept = Kept::new(&layer(&bytes));
    registry.fault("GET", "/blobs/", MANY, Fault::Reset(200_000));
    let mut first = options(plain(&registry));
    first.policy.retries = 0;
    assert_eq!(
        kept.fetch(&Client::new(first), &reference)
            .unwrap_err()
            .kind(),
        ErrorKind::Unavailable
    );
    kept.fetch(&client(plain(&registry)), &reference).unwrap();
    let requests = registry.seen_of("GET", "/blobs/");
    let resets = requests.len() as u64 - 1;
    let total: u64 = requests.iter().map(|seen| seen.sent).sum();
    assert!(
        resets >= 14 && total <= size as u64 + resets * (64 << 10),
        "{resets} {total}"
    );
    assert!(kept.bytes() == bytes);
}

#[test]
fn a_large_blob_comes_in_parts_over_several_connections() {
    let (registry, bytes, reference) = with_blob(70 << 20);
    registry.fault("GET", "/blobs/", 3, Fault::Reset(5_000_000));
    let kept = Kept::new(&layer(&bytes));
    let client = client(plain(&registry));
    kept.fetch(&client, &reference).unwrap();
    assert!(kept.bytes() == bytes);
    let requests = registry.seen_of("GET", "/blobs/");
    let total: u64 = requests.iter().map(|seen| seen.sent).sum();
    assert!(total <= bytes.len() as u64 + 3 * (64 << 10), "{total}");
    let mut used: Vec<usize> = requests.iter().map(|seen| seen.connection).collect();
    used.sort_unstable();
    used.dedup();
    assert!(used.len() > 1, "one connection only");
    assert!(
        registry.most_connections() <= 4,
        "{}",
        registry.most_connections()
    );
}

#[test]
fn servers_without_ranges() {
    let (registry, bytes, reference) = with_blob(2_000_000);
    registry.fault("GET", "/blobs/", 1, Fault::Reset(900_000));
    registry.fault("GET", "/blobs/", MANY, Fault::NoRange);
    let kept = Kept::new(&layer(&bytes));
    kept.fetch(&client(plain(&registry)), &reference).unwrap();
    assert!(kept.bytes() == bytes);
    // Large, so that parts are asked for from the beginning.
    let (registry, bytes, reference) = with_blob(40 << 20);
    registry.fault("GET", "/blobs/", MANY, Fault::NoRange);
    let kept = Kept::new(&layer(&bytes));
    kept.fetch(&client(plain(&registry)), &reference).unwrap();
    assert!(kept.bytes() == bytes);
    assert_eq!(registry.seen_of("GET", "/blobs/").len(), 1);
}

#[test]
fn wrong_and_refused_ranges_fall_back_to_the_whole() {
    let refused = answer(416, "Content-Range", "bytes */1");
    for fault in [Fault::WrongRange, refused] {
        let (registry, bytes, reference) = with_blob(1_000_000);
        registry.fault("GET", "/blobs/", 1, Fault::Reset(500_000));
        registry.fault("GET", "/blobs/", 1, fault);
        let kept = Kept::new(&layer(&bytes));
        kept.fetch(&client(plain(&registry)), &reference).unwrap();
        assert!(kept.bytes() == bytes);
        let last = registry.seen_of("GET", "/blobs/").pop().unwrap();
        assert_eq!((last.head.header("range"), last.status), (None, 200));
    }
}

#[test]
fn short_bodies_are_continued() {
    let (registry, bytes, reference) = with_blob(1_000_000);
    registry.fault("GET", "/blobs/", 2, Fault::End(300_000));
    let kept = Kept::new(&layer(&bytes));
    kept.fetch(&client(plain(&registry)), &reference).unwrap();
    assert!(kept.bytes() == bytes);
    assert!(sent(&registry, "/blobs/") <= 1_000_000 + 2 * (64 << 10));
}

/// RELIABILITY 32 and D9.
#[test]
fn d9_bad_bodies_are_refused_by_name_and_never_kept() {
    let gzip = Fault::Chunked("Content-Encoding", "gzip");
    let cases = [
        (
            Fault::Long(1, true),
            "has 500001 bytes for it, and not 500000",
        ),
        (
            Fault::Long(100_000, false),
            "sends more than the 500000 bytes",
        ),
        (Fault::Flip, "wrong bytes"),
        (gzip, "Content-Encoding \"gzip\""),
    ];
    for (fault, words) in cases {
        let (registry, bytes, reference) = with_blob(500_000);
        registry.fault("GET", "/blobs/", MANY, fault);
        let kept = Kept::new(&layer(&bytes));
        let error = kept
            .fetch(&client(plain(&registry)), &reference)
            .unwrap_err();
        let text = text(&error);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{text}");
        for part in [
            words,
            &registry.host(),
            &Digest::of(&bytes).to_string(),
            "a/b",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(
            registry.seen_of("GET", "/blobs/").len(),
            1,
            "it would be the same again"
        );
    }
}

#[test]
fn gzip_that_is_the_blob_itself_is_taken() {
    let (registry, bytes, reference) = with_blob(1000);
    registry.fault(
        "GET",
        "/blobs/",
        1,
        Fault::Header("Content-Encoding", "gzip".into()),
    );
    Kept::new(&layer(&bytes))
        .fetch(&client(plain(&registry)), &reference)
        .unwrap();
}

/// RELIABILITY 28.
#[test]
fn what_passes_is_tried_five_times_again_and_what_does_not_is_not() {
    for (status, tries) in [
        (429, 6),
        (500, 6),
        (502, 6),
        (503, 6),
        (504, 6),
        (408, 6),
        (400, 1),
        (403, 1),
        (404, 1),
        (405, 1),
        (501, 1),
    ] {
        let (registry, bytes, reference) = with_blob(1000);
        registry.fault("GET", "/blobs/", MANY, answer(status, "X", "y"));
        let kept = Kept::new(&layer(&bytes));
        let error = text(
            &kept
                .fetch(&client(plain(&registry)), &reference)
                .unwrap_err(),
        );
        assert_eq!(registry.seen().len(), tries, "{status}");
        assert!(error.contains(&format!("answers {status}")), "{error}");
    }
    let (registry, bytes, reference) = with_blob(1000);
    registry.fault("GET", "/blobs/", MANY, Fault::Reset(0));
    Kept::new(&layer(&bytes))
        .fetch(&client(plain(&registry)), &reference)
        .unwrap_err();
    assert_eq!(registry.seen().len(), 6);
}

/// RELIABILITY 28: Retry-After in both forms, with a limit.
#[test]
fn retry_after_is_honoured() {
    let date = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(3));
    for (value, least, most) in [
        ("1", 1.0, 20.0),
        (date.as_str(), 1.0, 20.0),
        ("100000", 2.0, 30.0),
    ] {
        let (registry, bytes, reference) = with_blob(1000);
        registry.fault("GET", "/blobs/", 1, answer(429, "Retry-After", value));
        let began = Instant::now();
        Kept::new(&layer(&bytes))
            .fetch(&client(plain(&registry)), &reference)
            .unwrap();
        let took = began.elapsed().as_secs_f64();
        assert!(took >= least && took < most, "{value}: {took}");
    }
}

/// RELIABILITY 31.
#[test]
fn a_stalled_connection_is_replaced_and_a_slow_one_is_not() {
    let (registry, bytes, reference) = with_blob(400_000);
    let host = registry.host();
    let text = format!(r#"{{"{host}":{{"plain_http":true,"stall_timeout":1}}}}"#);
    registry.fault("GET", "/blobs/", 1, Fault::Stall(100_000));
    let kept = Kept::new(&layer(&bytes));
    kept.fetch(&client(settings(&text)), &reference).unwrap();
    let requests = registry.seen_of("GET", "/blobs/");
    assert_eq!(requests.len(), 2);
    assert_eq!(
        requests[1].head.header("range"),
        Some("bytes=100000-399999")
    );
    // Eight seconds in all, and never one without a byte.
    let (registry, bytes, reference) = with_blob(32);
    let text = text.replace(&host, &registry.host());
    registry.fault(
        "GET",
        "/blobs/",
        1,
        Fault::Slow(2, Duration::from_millis(200)),
    );
    let kept = Kept::new(&layer(&bytes));
    let began = Instant::now();
    kept.fetch(&client(settings(&text)), &reference).unwrap();
    assert!(began.elapsed() > Duration::from_secs(3));
    assert_eq!(registry.seen().len(), 1);
}

#[test]
fn calling_off_ends_a_stalled_transfer_at_once() {
    let (registry, bytes, reference) = with_blob(400_000);
    registry.fault("GET", "/blobs/", MANY, Fault::Stall(100_000));
    let options = options(plain(&registry));
    let cancel = options.cancel.clone();
    let client = Client::new(options);
    let kept = Kept::new(&layer(&bytes));
    let began = Instant::now();
    std::thread::scope(|scope| {
        let fetching = scope.spawn(|| kept.fetch(&client, &reference));
        while kept
            .missing()
            .first()
            .is_none_or(|range| range.start < 100_000)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        cancel.cancel();
        let error = fetching.join().unwrap().unwrap_err();
        assert!(text(&error).contains("called off"), "{error:?}");
    });
    assert!(began.elapsed() < Duration::from_secs(20));
    let missing = kept.missing();
    assert_eq!((missing.len(), &missing[0]), (1, &(100_000..400_000)));
}

#[test]
fn the_stores_own_failure_is_its_own() {
    let (registry, bytes, reference) = with_blob(400_000);
    let wanted = layer(&bytes);
    let sink = Sink {
        missing: &|| Ok(std::iter::once(0..400_000).collect()),
        write: &|_, _| Err(Error::new(ErrorKind::Exhausted, "no space left on device")),
        verify: &|| Ok(()),
        discard: &|| Ok(()),
    };
    let error = client(plain(&registry))
        .blob(&reference, &wanted, &sink)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(
        text(&error).ends_with("no space left on device"),
        "{error:?}"
    );
    assert_eq!(registry.seen().len(), 1);
}
