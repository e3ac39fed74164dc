//! Pulls from the scripted registry, as root on a real file system.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Mutex;

use rcrun_overlay::gc;
use rcrun_overlay::layer::store::Layers;

use super::*;
use crate::document::media;
use crate::registry::client::Options;
use crate::registry::settings::Settings;
use crate::registry::testing::{Fault, Registry};

/// A layer's archive: `(path, content)`, directories end with `/`.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(if path.ends_with('/') {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mode(if path.ends_with('/') { 0o755 } else { 0o644 });
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Bytes that do not compress.
fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let byte = |_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as u8
    };
    (0..length).map(byte).collect()
}

/// Puts an image of plain archives into a registry; returns the layers' digests.
fn publish(registry: &Registry, name: &str, layers: &[Vec<u8>]) -> Vec<Digest> {
    publish_with(
        registry,
        name,
        layers,
        &layers
            .iter()
            .map(|layer| Digest::of(layer))
            .collect::<Vec<_>>(),
    )
}

fn publish_with(
    registry: &Registry,
    name: &str,
    layers: &[Vec<u8>],
    diff_ids: &[Digest],
) -> Vec<Digest> {
    let config = serde_json::json!({
        "architecture": Platform::host().architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let digests: Vec<Digest> = layers
        .iter()
        .map(|layer| registry.add_blob(name, layer))
        .collect();
    let descriptors: Vec<_> = layers
        .iter()
        .zip(&digests)
        .map(|(layer, digest)| serde_json::json!({"mediaType": media::OCI_LAYER, "digest": digest, "size": layer.len()}))
        .collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
        "config": {"mediaType": media::OCI_CONFIG, "digest": registry.add_blob(name, config.as_bytes()), "size": config.len()},
        "layers": descriptors,
    })
    .to_string();
    registry.add_manifest(name, "latest", media::OCI_MANIFEST, manifest.as_bytes());
    digests
}

fn pull_into(path: &Path, registry: &Registry, name: &str) -> Result<(Pulled, Vec<Event>)> {
    pull_by(path, registry, name, Settings::default())
}

fn pull_by(
    path: &Path,
    registry: &Registry,
    name: &str,
    settings: Settings,
) -> Result<(Pulled, Vec<Event>)> {
    let store = Store::open(path)?;
    let mut options = Options::new(settings, |_| None);
    options.policy.first = std::time::Duration::from_millis(1);
    let cancel = options.cancel.clone();
    let client = Client::new(options);
    let events = Mutex::new(Vec::new());
    let request = Request {
        reference: &registry.reference(&format!("{name}:latest")),
        platform: &Platform::host(),
        unpack: Some(Way::Privileged),
        downloads: DOWNLOADS,
        watch: &|event| lock(&events).push(event),
        cancel: &cancel,
    };
    let pulled = pull(&store, &client, &request)?;
    Ok((pulled, events.into_inner().unwrap()))
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: unpacking with owners needs root");
    }
    root
}

/// What counts as present.
fn present(path: &Path) -> (usize, usize, usize) {
    let store = Store::open(path).unwrap();
    let layers = std::fs::read_dir(path.join("layers")).unwrap();
    let layers = layers
        .filter(|one| one.as_ref().unwrap().file_name().len() >= 64)
        .count();
    (
        store.content().list().unwrap().len(),
        layers,
        Names::new(&store).unwrap().list().unwrap().len(),
    )
}

fn diff_of(path: &Path, diff_ids: &[Digest]) -> std::path::PathBuf {
    let chain = rcrun_overlay::layer::chain::chain_id(diff_ids).unwrap();
    path.join("layers").join(chain.hex()).join("diff")
}

#[test]
fn an_image_arrives_whole_and_once() {
    if !is_root() {
        return;
    }
    let (registry, directory) = (Registry::open(), tempfile::tempdir().unwrap());
    let layers = [
        archive(&[
            ("etc/", b""),
            ("etc/passwd", b"root"),
            ("big", &noise(40 << 20, 1)),
        ]),
        archive(&[("etc/.wh.passwd", b""), ("usr/share/doc", b"text")]),
        archive(&[("top", b"most")]),
    ];
    let digests = publish(&registry, "app", &layers);
    let (pulled, events) = pull_into(directory.path(), &registry, "app").unwrap();
    assert!(!pulled.unchanged);
    assert_eq!(present(directory.path()), (5, 3, 1));
    for digest in &digests {
        assert!(events.contains(&Event::Fetched(digest.clone())));
        assert!(events.contains(&Event::Unpacked(digest.clone())));
    }
    let first = diff_of(directory.path(), &digests[..1]);
    assert_eq!(
        std::fs::read(first.join("big")).unwrap(),
        noise(40 << 20, 1)
    );
    let second = diff_of(directory.path(), &digests[..2]);
    use std::os::unix::fs::FileTypeExt as _;
    assert!(
        std::fs::metadata(second.join("etc/passwd"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    // Nothing is fetched a second time, and the name stays as it is.
    let before = registry.seen_of("GET", "/blobs/").len();
    let (again, _) = pull_into(directory.path(), &registry, "app").unwrap();
    assert!(again.unchanged);
    assert_eq!(again.record, pulled.record);
    assert_eq!(registry.seen_of("GET", "/blobs/").len(), before);
}

#[test]
fn many_at_once_fetch_and_unpack_once() {
    if !is_root() {
        return;
    }
    let (registry, directory) = (Registry::open(), tempfile::tempdir().unwrap());
    let shared: Vec<Vec<u8>> = (0..8)
        .map(|n| archive(&[(&format!("file-{n}"), &noise(200_000, n))]))
        .collect();
    for name in 0..5 {
        let mut layers = shared.clone();
        layers.push(archive(&[("own", format!("{name}").as_bytes())]));
        publish(&registry, &format!("app{name}"), &layers);
    }
    let unpacked = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for number in 0..50 {
            let (registry, directory, unpacked) = (&registry, &directory, &unpacked);
            scope.spawn(move || {
                let name = format!("app{}", number % 5);
                let (_, events) = pull_into(directory.path(), registry, &name).unwrap();
                lock(unpacked).extend(events.into_iter().filter_map(|event| match event {
                    Event::Unpacked(digest) => Some(digest),
                    _ => None,
                }));
            });
        }
    });
    let layers = shared.iter().map(|layer| Digest::of(layer));
    for digest in layers {
        let fetched = registry.seen_of("GET", &digest.to_string());
        assert_eq!(
            fetched.iter().filter(|seen| seen.sent > 0).count(),
            1,
            "{digest}"
        );
        assert_eq!(
            unpacked
                .lock()
                .unwrap()
                .iter()
                .filter(|one| **one == digest)
                .count(),
            1
        );
    }
    assert_eq!(present(directory.path()), (8 + 5 * 3, 8 + 5, 5));
}

#[test]
fn what_is_wrong_never_counts() {
    if !is_root() {
        return;
    }
    let good = archive(&[("a", b"b")]);
    let cases = [
        ("flipped", Some(Fault::Flip), "refuse blob"),
        ("short", Some(Fault::End(100)), "disconnected"),
        ("long", Some(Fault::Long(10, true)), "bytes for it"),
        ("none", None, "the configuration says"),
    ];
    for (name, fault, words) in cases {
        let (registry, directory) = (Registry::open(), tempfile::tempdir().unwrap());
        let mut diff_ids = vec![Digest::of(&good)];
        if fault.is_none() {
            diff_ids[0] = Digest::of(b"another archive");
        }
        let digests = publish_with(&registry, "app", std::slice::from_ref(&good), &diff_ids);
        if let Some(fault) = fault {
            registry.fault("GET", &digests[0].to_string(), 99, fault);
        }
        let error = pull_into(directory.path(), &registry, "app")
            .unwrap_err()
            .chain()
            .to_string();
        assert!(
            error.contains(words) && error.contains(&digests[0].to_string()),
            "{name}: {error}"
        );
        let (_, layers, names) = present(directory.path());
        assert_eq!((layers, names), (0, 0), "{name}");
        let left = std::fs::read_dir(directory.path().join("layers/incoming"))
            .unwrap()
            .count();
        assert_eq!(left, 0, "{name}");
    }
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    if !is_root() {
        return;
    }
    let layer = archive(&[("big", &noise(5 << 20, 7))]);
    let size = layer.len() as u64;
    for at in [0, 1, size / 2, size - 1] {
        let (registry, directory) = (Registry::open(), tempfile::tempdir().unwrap());
        let digest = publish(&registry, "app", std::slice::from_ref(&layer))[0].to_string();
        registry.fault("GET", &digest, 1, Fault::Reset(at));
        pull_into(directory.path(), &registry, "app").unwrap();
        let sent: u64 = registry
            .seen_of("GET", &digest)
            .iter()
            .map(|seen| seen.sent)
            .sum();
        assert!(
            sent <= size + (64 << 10),
            "reset at {at}: {sent} bytes of {size}"
        );
    }
}

#[test]
fn a_sweep_beside_a_pull_takes_nothing_of_it() {
    if !is_root() {
        return;
    }
    let (registry, directory) = (Registry::open(), tempfile::tempdir().unwrap());
    let layers: Vec<Vec<u8>> = (0..4)
        .map(|n| archive(&[(&format!("file-{n}"), &noise(300_000, n))]))
        .collect();
    let digests = publish(&registry, "app", &layers);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let store = Store::open(directory.path()).unwrap();
            let policy = gc::Policy {
                abandoned_after: std::time::Duration::ZERO,
                dry_run: false,
            };
            while !done.load(Ordering::Relaxed) {
                let mark = &mut |held: &HashSet<Root>| crate::roots::reachable(&store, held);
                gc::collect(&store, &policy, mark).unwrap();
            }
        });
        for _ in 0..20 {
            let store = Store::open(directory.path()).unwrap();
            pull_into(directory.path(), &registry, "app").unwrap();
            let layers = Layers::new(&store).unwrap();
            for id in chain_ids(&digests) {
                assert!(
                    layers
                        .get(&layer_id(&id, Way::Privileged).unwrap())
                        .unwrap()
                        .is_some()
                );
            }
            Names::new(&store)
                .unwrap()
                .remove(&registry.reference("app:latest"))
                .unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

#[test]
fn what_a_mirror_damages_is_unpacked_anew_from_the_next() {
    if !is_root() {
        return;
    }
    let (mirror, registry) = (Registry::open(), Registry::open());
    let directory = tempfile::tempdir().unwrap();
    let layer = archive(&[("data", &noise(3 << 20, 9))]);
    let digest = publish(&registry, "app", std::slice::from_ref(&layer))[0].clone();
    publish(&mirror, "app", std::slice::from_ref(&layer));
    mirror.fault("GET", &digest.to_string(), 99, Fault::Flip);
    let (own, other) = (registry.host(), mirror.host());
    let settings = serde_json::json!({
        own: {"plain_http": true, "mirrors": [{"host": other}]}, other: {"plain_http": true},
    });
    let settings = serde_json::from_value(settings).unwrap();
    let (_, events) = pull_by(directory.path(), &registry, "app", settings).unwrap();
    let fetched = |registry: &Registry| registry.seen_of("GET", &digest.to_string()).len();
    assert!(fetched(&mirror) > 0 && fetched(&registry) > 0);
    assert!(events.contains(&Event::Unpacked(digest.clone())));
    let data = std::fs::read(diff_of(directory.path(), &[digest]).join("data")).unwrap();
    assert_eq!(data, noise(3 << 20, 9));
}

#[test]
fn documents_keep_the_algorithm_of_their_digests() {
    use rcrun_overlay::digest::Algorithm;
    if !is_root() {
        return;
    }
    let (registry, directory) = (Registry::open(), tempfile::tempdir().unwrap());
    publish(&registry, "app", &[archive(&[("a", b"b")])]);
    let manifest = registry.manifest("app", "latest").unwrap();
    let digest = Algorithm::Sha512.digest(&manifest);
    registry.add_manifest("app", &digest.to_string(), media::OCI_MANIFEST, &manifest);
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": media::OCI_INDEX,
        "manifests": [{"mediaType": media::OCI_MANIFEST, "digest": digest, "size": manifest.len()}],
    });
    let index = index.to_string();
    registry.add_manifest("app", "latest", media::OCI_INDEX, index.as_bytes());
    let (pulled, _) = pull_into(directory.path(), &registry, "app").unwrap();
    assert_eq!(pulled.manifest, digest);
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(
        store.content().read(&digest, 1 << 20).unwrap(),
        Some(manifest)
    );
    assert!(
        pull_into(directory.path(), &registry, "app")
            .unwrap()
            .0
            .unchanged
    );
}

#[test]
fn the_same_layer_twice_in_one_image() {
    if !is_root() {
        return;
    }
    let (registry, directory) = (Registry::open(), tempfile::tempdir().unwrap());
    let (one, two) = (archive(&[("a", b"1")]), archive(&[("b", b"2")]));
    let digests = publish(&registry, "app", &[one.clone(), two, one]);
    pull_into(directory.path(), &registry, "app").unwrap();
    assert_eq!(registry.seen_of("GET", &digests[0].to_string()).len(), 1);
    assert_eq!(present(directory.path()), (4, 3, 1));
    assert!(diff_of(directory.path(), &digests).join("a").exists());
}
