//! Parsers of hostile input against mutated good input: they answer, and what they accept is sound.

use super::super::url::Url;
use super::*;
use crate::document::{Document, ImageConfig};
use crate::platform::Platform;
use crate::reference::{MAX_NAME, Reference};
use crate::transport::Location;

const ROUNDS: u64 = 30_000;

/// Good input with some bytes replaced, removed or doubled.
fn mutated(good: &[&str], round: u64) -> String {
    let mut state = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below.max(1)
    };
    const BYTES: &[u8] = b"/:@.-_[]%?#\\\"{},=aZ0 \0\n\xc3\xff";
    let mut bytes = good[next(good.len())].as_bytes().to_vec();
    for _ in 0..=next(4) {
        let at = next(bytes.len());
        match next(3) {
            0 if !bytes.is_empty() => bytes[at] = BYTES[next(BYTES.len())],
            1 if !bytes.is_empty() => drop(bytes.remove(at)),
            _ => bytes.insert(at, BYTES[next(BYTES.len())]),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn references_and_locations() {
    let digest = Digest::of(b"").to_string();
    let whole = format!("reg.lan:5000/a/b-c__d:tag@{digest}");
    let good = [
        "debian",
        "[::1]:5000/a",
        "docker.io/library/x:1",
        &whole,
        "oci:/a:b",
        "docker-archive:x:a/b",
    ];
    let mut accepted = 0;
    for round in 0..ROUNDS {
        let text = mutated(&good, round);
        if let Ok(reference) = text.parse::<Reference>() {
            accepted += 1;
            assert!(reference.name().len() <= MAX_NAME);
            assert_eq!(
                reference.to_string().parse::<Reference>().unwrap(),
                reference,
                "{text:?}"
            );
            assert_eq!(
                reference.familiar().parse::<Reference>().unwrap(),
                reference,
                "{text:?}"
            );
            // It becomes a part of addresses and file names.
            let parts = format!("{}/{}", reference.repository(), reference.manifest_name());
            assert!(
                !parts.contains("..") || !parts.split('/').any(|part| part == ".."),
                "{text:?}"
            );
            assert!(
                parts
                    .bytes()
                    .all(|byte| (b'!'..127).contains(&byte) && byte != b'?' && byte != b'%')
            );
        }
        let _ = text.parse::<Location>();
        let _ = text.parse::<Platform>();
    }
    assert!(accepted > 1000, "{accepted}");
}

#[test]
fn addresses() {
    let good = [
        "https://reg.lan:5000/v2/a?x=y",
        "http://[::1]/",
        "//cdn/x",
        "/x?y=http://z",
        "?q",
    ];
    let base = Url::parse("https://reg.lan/v2/a/blobs/x").unwrap();
    for round in 0..ROUNDS {
        let text = mutated(&good, round);
        for url in [Url::parse(&text), base.join(&text)].into_iter().flatten() {
            let full = url.full();
            assert_eq!(Url::parse(&full).unwrap(), url, "{text:?}");
            // The HTTP client understands it in the same way.
            let other: ureq::http::Uri = full.parse().unwrap();
            let authority = other.authority().unwrap();
            assert_eq!(authority.as_str(), url.authority(), "{text:?}");
        }
    }
}

#[test]
fn documents() {
    let image = String::from_utf8(manifest(&[b"x"], b"{}")).unwrap();
    let config =
        r#"{"os":"linux","config":{"Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    for round in 0..ROUNDS {
        let text = mutated(&[&image, config], round);
        if let Ok(Document::Manifest(manifest)) = Document::read(text.as_bytes(), None) {
            assert!(!text.contains("\"manifests\""));
            let _ = manifest.check_image();
        }
        let _ = ImageConfig::read(text.as_bytes());
    }
}
