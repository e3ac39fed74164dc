//! Resolving, documents, mirrors: 33, D8, D10.

use super::*;
use crate::platform::Platform;

const MANY: usize = 1_000_000;

#[test]
fn resolves_tags_digests_and_platforms() {
    let registry = Registry::open();
    let config =
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let image = manifest(&[b"layer"], config);
    let digest = registry.add_manifest("a/b", "1", media::OCI_MANIFEST, &image);
    registry.add_blob("a/b", config);
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{{"mediaType":"{}","digest":"{digest}","size":{},"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#,
        media::OCI_INDEX,
        media::OCI_MANIFEST,
        image.len(),
    );
    let index_digest = registry.add_manifest("a/b", "2", media::OCI_INDEX, index.as_bytes());
    let client = client(plain(&registry));
    let one = registry.reference("a/b:1");
    assert_eq!(client.resolve(&one).unwrap().bytes, image);
    assert_eq!(client.digest(&one).unwrap(), Some(digest.clone()));
    assert_eq!(
        client
            .resolve(&one.with_digest(digest.clone()))
            .unwrap()
            .digest,
        digest
    );
    let platform: Platform = "linux/amd64".parse().unwrap();
    let way = client
        .image(&registry.reference("a/b:2"), &platform)
        .unwrap();
    let digests: Vec<&Digest> = way.iter().map(|fetched| &fetched.digest).collect();
    assert_eq!(digests, [&index_digest, &digest]);
    let wanted = descriptor(media::OCI_CONFIG, config);
    assert_eq!(client.small_blob(&one, &wanted).unwrap(), config);
    let error = client.image(
        &registry.reference("a/b:2"),
        &"linux/s390x".parse().unwrap(),
    );
    assert!(text(&error.unwrap_err()).contains("no image for platform linux/s390x"));
    let error = text(&client.resolve(&registry.reference("a/b:9")).unwrap_err());
    for part in [
        "a/b:9",
        &registry.host(),
        "404",
        "MANIFEST_UNKNOWN: manifest unknown",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn d8_wrong_content_types_and_digests() {
    let registry = Registry::open();
    let image = manifest(&[], b"{}");
    let client = client(plain(&registry));
    let one = registry.reference("a/b:1");
    registry.add_manifest("a/b", "1", media::OCI_INDEX, &image);
    assert!(text(&client.resolve(&one).unwrap_err()).contains("was announced as"));
    registry.add_manifest("a/b", "1", media::OCI_MANIFEST, &image);
    registry.fault("GET", "/manifests/", 1, Fault::Flip);
    let error = client.resolve(&one).unwrap_err();
    assert!(text(&error).contains("instead of sha256:"), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let other = Digest::of(b"other");
    for (said, words) in [
        ("sha256:../x".to_owned(), "wrong Docker-Content-Digest"),
        (other.to_string(), "instead of sha256:"),
    ] {
        let lie = super::super::testing::Answer::new(200, image.clone())
            .with("Content-Type", media::OCI_MANIFEST)
            .with("Docker-Content-Digest", said);
        registry.fault("GET", "/manifests/", 1, Fault::Answer(lie));
        let error = text(&client.resolve(&one).unwrap_err());
        assert!(error.contains(words), "{error}");
    }
    let error = client.resolve(&one.with_digest(other)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    // A descriptor that calls an image an index does not make it one.
    let wrong = Descriptor {
        media_type: media::OCI_INDEX.into(),
        ..descriptor("", &image)
    };
    assert!(text(&client.document(&one, &wrong).unwrap_err()).contains("announced as"));
    let short = Descriptor {
        size: 3,
        ..descriptor(media::OCI_MANIFEST, &image)
    };
    assert!(text(&client.document(&one, &short).unwrap_err()).contains("and not 3"));
}

#[test]
fn d10_large_documents_and_endless_indexes() {
    let registry = Registry::open();
    let client = client(plain(&registry));
    registry.add_manifest("a/b", "big", media::OCI_INDEX, &vec![b' '; 5 << 20]);
    let error = text(&client.resolve(&registry.reference("a/b:big")).unwrap_err());
    assert!(error.contains("longer than 4194304"), "{error}");
    let huge = Descriptor {
        size: 100 << 20,
        ..descriptor(media::OCI_CONFIG, b"")
    };
    let error = client
        .small_blob(&registry.reference("a/b:1"), &huge)
        .unwrap_err();
    assert!(text(&error).contains("is the limit"));
    // An index in an index in an index ...
    let mut inner = manifest(&[], b"{}");
    let mut kind = media::OCI_MANIFEST;
    for level in 0..8 {
        let digest = registry.add_manifest("a/b", &format!("l{level}"), kind, &inner);
        let size = inner.len();
        inner = format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}]}}"#).into_bytes();
        kind = media::OCI_INDEX;
    }
    registry.add_manifest("a/b", "top", kind, &inner);
    let platform = Platform::host();
    let error = client
        .image(&registry.reference("a/b:top"), &platform)
        .unwrap_err();
    assert!(text(&error).contains("more than 4 indexes"), "{error:?}");
    client
        .image(&registry.reference("a/b:l4"), &platform)
        .unwrap();
}

/// RELIABILITY 33.
#[test]
fn mirrors_in_order_and_all_reasons() {
    let (first, second, own) = (Registry::open(), Registry::open(), Registry::open());
    let (a, b, c) = (first.host(), second.host(), own.host());
    let text_of = format!(
        r#"{{"{c}":{{"plain_http":true,"mirrors":[{{"host":"{a}/hub"}},{{"host":"{b}","capabilities":["pull"]}}]}},
        "{a}":{{"plain_http":true}},"{b}":{{"plain_http":true}}}}"#
    );
    let image = manifest(&[], b"{}");
    let blob = noise(100_000);
    let client = client(settings(&text_of));
    let reference = own.reference("a/b:1");
    let digest = own.add_manifest("a/b", "1", media::OCI_MANIFEST, &image);
    assert_eq!(client.resolve(&reference).unwrap().source, c);
    assert_eq!(first.seen_of("GET", "/v2/hub/a/b/manifests/1").len(), 1);
    assert!(second.seen().is_empty(), "it may not say what a tag means");
    second.add_manifest("a/b", "x", media::OCI_MANIFEST, &image);
    assert_eq!(
        client
            .resolve(&reference.with_digest(digest))
            .unwrap()
            .source,
        b
    );
    // A blob that begins at one and ends at another.
    own.add_blob("a/b", &blob);
    second.add_blob("a/b", &blob);
    second.fault("GET", "/blobs/", MANY, Fault::Reset(30_000));
    let kept = Kept::new(&layer(&blob));
    kept.fetch(&client, &reference).unwrap();
    assert!(kept.bytes() == blob);
    let range = own.seen_of("GET", "/blobs/")[0]
        .head
        .header("range")
        .map(str::to_owned);
    assert_eq!(range.as_deref(), Some("bytes=60000-99999"));
    // Wrong bytes of a mirror are thrown away.
    let second_blob = noise(50_000);
    own.add_blob("a/b", &second_blob);
    first.add_blob("hub/a/b", &second_blob);
    first.fault("GET", "/blobs/", 1, Fault::Flip);
    let kept = Kept::new(&layer(&second_blob));
    kept.fetch(&client, &reference).unwrap();
    assert!(kept.bytes() == second_blob && *kept.discarded.lock().unwrap() == 1);
    // Nobody has it: every reason is told.
    let error = text(
        &Kept::new(&layer(b"none"))
            .fetch(&client, &reference)
            .unwrap_err(),
    );
    for part in [&a, &b, &c] {
        assert!(error.contains(part.as_str()), "{error}");
    }
    drop(first);
    assert_eq!(client.resolve(&reference).unwrap().source, c);
}

/// RELIABILITY 33: a thousand blobs over few connections that stay open.
#[test]
fn a_thousand_blobs_over_four_connections() {
    let registry = Registry::open();
    let blobs: Vec<Vec<u8>> = (0..1000_u32).map(|n| n.to_le_bytes().repeat(16)).collect();
    for blob in &blobs {
        registry.add_blob("a/b", blob);
    }
    let client = client(plain(&registry));
    let reference = registry.reference("a/b:1");
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while let Some(blob) =
                    blobs.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
                {
                    Kept::new(&layer(blob)).fetch(&client, &reference).unwrap();
                }
            });
        }
    });
    assert_eq!(registry.seen().len(), 1000);
    assert!(
        registry.most_connections() <= 5,
        "{}",
        registry.most_connections()
    );
    let last = registry
        .seen()
        .iter()
        .map(|seen| seen.connection)
        .max()
        .unwrap();
    assert!(last < 50, "connections are not kept: {last}");
}

#[test]
fn lists() {
    let registry = Registry::open();
    let image = manifest(&[], b"{}");
    let digest = registry.add_manifest("a/b", "t0", media::OCI_MANIFEST, &image);
    for n in 1..5 {
        registry.add_manifest("a/b", &format!("t{n}"), media::OCI_MANIFEST, &image);
    }
    let client = client(plain(&registry));
    let reference = registry.reference("a/b:1");
    assert_eq!(
        client.tags(&reference).unwrap(),
        ["t0", "t1", "t2", "t3", "t4"]
    );
    assert!(client.referrers(&reference, &digest).unwrap().is_empty());
    let json = |bytes: &[u8]| serde_json::to_value(descriptor(media::OCI_MANIFEST, bytes)).unwrap();
    let mut about: serde_json::Value = serde_json::from_slice(&image).unwrap();
    about["subject"] = json(&image);
    let about = registry.add_manifest(
        "a/b",
        "s",
        media::OCI_MANIFEST,
        about.to_string().as_bytes(),
    );
    assert_eq!(
        client.referrers(&reference, &digest).unwrap()[0].digest,
        about
    );
    client.delete_manifest(&reference, &digest).unwrap();
    assert!(client.delete_manifest(&reference, &digest).is_err());
}
