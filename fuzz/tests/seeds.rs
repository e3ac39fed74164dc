//! Seeds are what they are meant to be: inputs that get far, or fuzzing would only try what is refused at once.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test reports by panicking"
)]

use rcrun_builder::context::ignore::Ignore;
use rcrun_builder::dockerfile::parse;
use rcrun_builder::remote::Known;
use rcrun_fuzz::{archives, documents, language, plugins, streams};
use rcrun_image::document::{Document, ImageConfig};
use rcrun_overlay::archive::Reader;
use rcrun_overlay::archive::pax::Extended;
use rcrun_overlay::compress::{Decoder, Limits};
use std::io::Read as _;

fn halves(seed: &[u8]) -> (&[u8], &[u8]) {
    let at = seed.iter().position(|byte| *byte == 0).unwrap();
    (&seed[..at], &seed[at + 1..])
}

#[test]
fn archives_have_entries() {
    let count = |seed: &Vec<u8>| {
        let mut reader = Reader::new(seed.as_slice());
        while let Ok(Some(_)) = reader.next_entry() {}
        reader.entries()
    };
    let counts: Vec<u64> = archives::tar_seeds().iter().map(count).collect();
    assert_eq!(counts.len(), 4);
    assert!(
        counts[..3].iter().all(|count| *count == 9) && counts[3] == 3,
        "{counts:?}"
    );
}

#[test]
fn extended_headers_are_understood() {
    for seed in archives::pax_seeds() {
        let (global, own) = halves(&seed);
        let mut globals = Extended::default();
        globals.global(global).unwrap();
        Extended::of_entry(own, &globals).unwrap();
    }
}

#[test]
fn streams_are_inflated() {
    let seeds = archives::compressed_seeds();
    let inflated = seeds.iter().filter(|seed| {
        let mut data = Vec::new();
        let decoder = Decoder::new(seed.as_slice(), Limits::default());
        decoder.is_ok_and(|mut decoder| decoder.read_to_end(&mut data).is_ok())
    });
    assert_eq!(inflated.count(), seeds.len());
}

#[test]
fn most_dockerfiles_are_right() {
    let seeds = language::dockerfiles();
    let right = seeds.iter().filter(|seed| parse(seed).is_ok()).count();
    assert!(right * 10 > seeds.len() * 8, "{right} of {}", seeds.len());
    for seed in &seeds[seeds.len() - 4..] {
        parse(seed).unwrap();
    }
}

#[test]
fn ignore_files_leave_something_out() {
    for seed in language::ignore_seeds() {
        let (file, paths) = halves(&seed);
        let paths = String::from_utf8(paths.to_vec()).unwrap();
        let Ok(ignore) = Ignore::parse(file) else {
            continue;
        };
        assert!(
            paths.split('\0').any(|path| ignore.matches(path)),
            "{paths:?}"
        );
    }
}

#[test]
fn documents_are_read() {
    let read = |seed: &Vec<u8>| Document::read(seed, None).is_ok();
    let manifests = documents::manifest_seeds();
    assert_eq!(manifests.iter().filter(|seed| read(seed)).count(), 3);
    for seed in documents::config_seeds() {
        ImageConfig::read(&seed).unwrap();
    }
    let known = documents::cache_seeds().into_iter().filter(|seed| {
        let (manifest, records) = halves(seed);
        let Ok(Document::Manifest(manifest)) = Document::read(manifest, None) else {
            return false;
        };
        Known::default().add(&manifest, records).is_ok()
    });
    assert_eq!(known.count(), 2);
}

#[test]
fn streams_are_understood() {
    let seeds = streams::spdy_seeds();
    let frames: Vec<usize> = seeds
        .iter()
        .map(|seed| streams::spdy_frames(seed))
        .collect();
    assert_eq!(frames, [6, 2, 4]);
    let messages = |seed: &Vec<u8>| streams::websocket_frames(seed);
    let messages: Vec<usize> = streams::websocket_seeds().iter().map(messages).collect();
    assert_eq!(messages, [4, 3]);
    for seed in streams::http_seeds() {
        assert!(matches!(rcrun_streaming::http::parse(&seed), Ok(Some(_))));
    }
}

#[test]
fn plugins_are_understood() {
    let messages: Vec<(usize, usize)> = plugins::nri_seeds()
        .iter()
        .map(|seed| plugins::nri_messages(seed))
        .collect();
    assert_eq!(messages, [(0, 0), (0, 0), (3, 3), (2, 2), (1, 0)]);
}
