//! Uploads.

use std::io::Read;

use super::*;
use crate::registry::testing::Setup;
use crate::registry::upload::Pushed;

fn push(
    client: &Client,
    reference: &Reference,
    bytes: &'static [u8],
    other: Option<&str>,
) -> Result<Pushed> {
    let source = |offset: u64| -> Result<Box<dyn Read>> { Ok(Box::new(&bytes[offset as usize..])) };
    client.push_blob(reference, &layer(bytes), other, &source)
}

/// Sends it to `a/b` of a registry that nothing else is said of.
fn sent(registry: &Registry, bytes: &'static [u8]) {
    sent_by(&client(plain(registry)), registry, bytes);
}

fn sent_by(client: &Client, registry: &Registry, bytes: &'static [u8]) {
    push(client, &registry.reference("a/b:1"), bytes, None).unwrap();
}

/// Bytes of each request that came.
fn received(registry: &Registry, method: &str, part: &str) -> Vec<u64> {
    let seen = registry.seen_of(method, part);
    seen.iter().map(|seen| seen.received).collect()
}

fn leaked(length: usize) -> &'static [u8] {
    noise(length).leak()
}

#[test]
fn present_mounted_or_sent() {
    let registry = Registry::open();
    let client = client(plain(&registry));
    let reference = registry.reference("a/b:1");
    for length in [0, 1, 1000, 1 << 20, (1 << 20) + 1, 5_000_000] {
        let bytes = leaked(length);
        assert_eq!(
            push(&client, &reference, bytes, None).unwrap(),
            Pushed::Sent,
            "{length}"
        );
        assert!(*registry.blob("a/b", &Digest::of(bytes)).unwrap() == bytes);
        assert_eq!(
            push(&client, &reference, bytes, None).unwrap(),
            Pushed::Present
        );
    }
    assert!(client.has_blob(&reference, &Digest::of(b"")).unwrap());
    assert!(!client.has_blob(&reference, &Digest::of(b"none")).unwrap());
    let other = registry.reference("c/d:1");
    let bytes = leaked(1000);
    assert_eq!(
        push(&client, &other, bytes, Some("a/b")).unwrap(),
        Pushed::Mounted
    );
    assert!(registry.blob("c/d", &Digest::of(bytes)).is_some());
    // What cannot be mounted is sent, in the upload that the registry began instead.
    let before = registry.seen_of("POST", "/uploads/").len();
    let bytes = leaked(2000);
    assert_eq!(
        push(&client, &other, bytes, Some("e/f")).unwrap(),
        Pushed::Sent
    );
    assert_eq!(registry.seen_of("POST", "/uploads/").len(), before + 1);
}

#[test]
fn a_reset_upload_goes_on_where_it_stopped() {
    let size = 3_000_000;
    for at in [0, 1, 2, 1_500_000, 2_999_999] {
        let registry = Registry::open();
        registry.fault("PATCH", "/uploads/", 1, Fault::Cut(at));
        let bytes = leaked(size as usize);
        sent(&registry, bytes);
        assert!(
            *registry.blob("a/b", &Digest::of(bytes)).unwrap() == bytes,
            "{at}"
        );
        let received: u64 = received(&registry, "PATCH", "").iter().sum();
        assert!(received <= size + (64 << 10), "cut at {at}: {received}");
    }
}

#[test]
fn lost_answers_do_no_harm() {
    for (method, part) in [
        ("POST", "/uploads/"),
        ("PATCH", "/uploads/"),
        ("PUT", "/uploads/"),
    ] {
        let registry = Registry::open();
        registry.fault(method, part, 1, Fault::Silent);
        let bytes = leaked(2_000_000);
        sent(&registry, bytes);
        assert!(
            *registry.blob("a/b", &Digest::of(bytes)).unwrap() == bytes,
            "{method}"
        );
        let received: u64 = received(&registry, "*", part).iter().sum();
        assert_eq!(received, 2_000_000, "{method}");
    }
}

#[test]
fn an_upload_that_the_registry_lost_begins_anew() {
    let registry = Registry::open();
    registry.fault("PATCH", "/uploads/", 1, answer(404, "X", "y"));
    registry.fault("GET", "/uploads/", 1, answer(404, "X", "y"));
    let bytes = leaked(2_000_000);
    sent(&registry, bytes);
    assert_eq!(registry.seen_of("POST", "/uploads/").len(), 2);
}

#[test]
fn chunks_as_the_registry_or_the_settings_say() {
    let registry = Registry::start(Setup {
        chunk: Some(1_500_000),
        ..Setup::default()
    });
    let bytes = leaked(4_000_000);
    sent(&registry, bytes);
    let sizes = |registry: &Registry| received(registry, "PATCH", "");
    assert_eq!(sizes(&registry), [1_500_000, 1_500_000, 1_000_000]);
    let registry = Registry::open();
    let text = format!(
        r#"{{"{}":{{"plain_http":true,"upload_chunk":3000000}}}}"#,
        registry.host()
    );
    sent_by(&client(settings(&text)), &registry, bytes);
    assert_eq!(sizes(&registry), [3_000_000, 1_000_000]);
    assert!(registry.blob("a/b", &Digest::of(bytes)).is_some());
}

#[test]
fn manifests() {
    let registry = Registry::open();
    let client = client(plain(&registry));
    let image = manifest(&[], b"{}");
    let one = registry.reference("a/b:1");
    registry.fault("PUT", "/manifests/", 2, answer(503, "X", "y"));
    let digest = client
        .push_manifest(&one, media::OCI_MANIFEST, &image)
        .unwrap();
    assert_eq!(registry.manifest("a/b", "1").unwrap(), image);
    client
        .push_manifest(
            &one.with_digest(digest.clone()),
            media::OCI_MANIFEST,
            &image,
        )
        .unwrap();
    let wrong = one.with_digest(Digest::of(b"x"));
    let error = client
        .push_manifest(&wrong, media::OCI_MANIFEST, &image)
        .unwrap_err();
    assert!(text(&error).contains(&digest.to_string()));
    client
        .push_manifest(&one, media::OCI_MANIFEST, &vec![b' '; 5 << 20])
        .unwrap_err();
    registry.fault("PUT", "/manifests/", 1, answer(400, "X", "y"));
    let error = client
        .push_manifest(&one, media::OCI_MANIFEST, &image)
        .unwrap_err();
    assert!(text(&error).contains("answers 400"), "{error:?}");
    let wrong = format!("sha256:{}", "0".repeat(64));
    registry.fault(
        "PUT",
        "/manifests/",
        1,
        answer(201, "Docker-Content-Digest", &wrong),
    );
    let error = client
        .push_manifest(&one, media::OCI_MANIFEST, &image)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

/// A registry hashes and moves a large blob before it answers; that is no stall.
#[test]
fn a_late_answer_to_an_upload_is_waited_for() {
    let registry = Registry::open();
    let host = registry.host();
    let text = format!(r#"{{"{host}":{{"plain_http":true,"stall_timeout":0.3}}}}"#);
    registry.fault("PUT", "/uploads/", 1, Fault::Late(Duration::from_secs(2)));
    let bytes = leaked(2_000_000);
    sent_by(&client(settings(&text)), &registry, bytes);
    assert_eq!(registry.seen_of("PUT", "/uploads/").len(), 1);
}

#[test]
fn a_source_that_fails_is_told() {
    let registry = Registry::open();
    let source = |_| -> Result<Box<dyn Read>> { Err(Error::new(ErrorKind::Corrupt, "rotten")) };
    let client = client(plain(&registry));
    let reference = registry.reference("a/b:1");
    let error = client
        .push_blob(&reference, &layer(b"abc"), None, &source)
        .unwrap_err();
    assert!(
        text(&error).ends_with("rotten") && error.kind() == ErrorKind::Corrupt,
        "{error:?}"
    );
}
