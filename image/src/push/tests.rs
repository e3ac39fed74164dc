//! Pushes to the scripted registry.

use std::sync::Mutex;

use rcrun_overlay::compress::Compression;

use super::*;
use crate::document::media;
use crate::names::Names;
use crate::platform::Platform;
use crate::recompress::{Format, Which};
use crate::registry::testing::{Answer, Fault, Registry};
use crate::samples::{Shelf, archive, client};

fn push_with(
    shelf: &Shelf,
    from: &str,
    to: &Reference,
    platforms: &Platforms,
    layers: Layers,
) -> Result<(Pushed, Vec<Event>)> {
    let (client, cancel) = client();
    let events = Mutex::new(Vec::new());
    let request = Request {
        subject: &Subject::Name(from.parse()?),
        destination: to,
        platforms,
        layers,
        uploads: UPLOADS,
        watch: &|event| events.lock().unwrap().push(event),
        cancel: &cancel,
    };
    let pushed = push(&shelf.store, &client, &request)?;
    Ok((pushed, events.into_inner().unwrap()))
}

fn keep(shelf: &Shelf, from: &str, to: &Reference) -> Result<(Pushed, Vec<Event>)> {
    push_with(shelf, from, to, &Platforms::All, Layers::Keep)
}

fn archives(count: u64) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| archive(&format!("file-{n}"), 300_000, n))
        .collect()
}

fn host() -> Platform {
    Platform::host()
}

fn image(shelf: &Shelf, name: &str, docker: bool) -> Descriptor {
    let image = shelf.image(&archives(5), Compression::Gzip, docker, &host());
    shelf.name(name, &image);
    image
}

fn words(error: &Error) -> String {
    error.chain().to_string()
}

#[test]
fn what_is_pushed_keeps_every_byte() {
    for docker in [false, true] {
        let (shelf, registry) = (Shelf::new(), Registry::open());
        let image = image(&shelf, "app", docker);
        let to = registry.reference("team/app:v1");
        let (pushed, events) = keep(&shelf, "app", &to).unwrap();
        assert_eq!(pushed.target.digest, image.digest);
        assert_eq!(
            registry.manifest("team/app", "v1").unwrap(),
            shelf.bytes(&image.digest)
        );
        let layers = shelf.json(&image.digest)["layers"].clone();
        let mut sent = 0;
        for layer in layers.as_array().unwrap() {
            let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
            assert_eq!(
                *registry.blob("team/app", &digest).unwrap(),
                shelf.bytes(&digest)
            );
            assert!(events.contains(&Event::Sent(
                digest.clone(),
                layer["size"].as_u64().unwrap()
            )));
            assert!(events.contains(&Event::Delivered(digest)));
            sent += layer["size"].as_u64().unwrap();
        }
        assert!(pushed.sent > sent && pushed.present == 0);
        // The tag comes last of all.
        let puts = registry.seen_of("PUT", "");
        assert!(puts.last().unwrap().head.target.ends_with("/manifests/v1"));
        // The second time nothing is sent but the manifest.
        let (again, _) = keep(&shelf, "app", &to).unwrap();
        assert_eq!((again.sent, again.present), (0, 6));
        assert_eq!(shelf.count(), (7, 1));
    }
}

#[test]
fn blobs_that_the_host_has_elsewhere_are_mounted() {
    let (shelf, registry) = (Shelf::new(), Registry::open());
    image(&shelf, "app", false);
    let first = registry.reference("team/app:v1");
    keep(&shelf, "app", &first).unwrap();
    let to = registry.reference("other/app:v1");
    // No name says so: all is sent.
    let (pushed, _) = keep(&shelf, "app", &to).unwrap();
    assert_eq!(pushed.mounted, 0);
    let record = Names::new(&shelf.store)
        .unwrap()
        .get(&"app".parse().unwrap())
        .unwrap()
        .unwrap();
    shelf.name(&first.to_string(), &record.target);
    let (pushed, _) = keep(&shelf, "app", &registry.reference("third/app:v1")).unwrap();
    assert_eq!((pushed.mounted, pushed.sent), (6, 0));
    // A name of which the registry knows nothing does no harm.
    shelf.name(
        &registry.reference("never/pushed:1").to_string(),
        &record.target,
    );
    keep(&shelf, "app", &registry.reference("fourth/app:v1")).unwrap();
}

#[test]
fn an_index_goes_whole_or_its_image_for_this_machine() {
    for docker in [false, true] {
        let (shelf, registry) = (Shelf::new(), Registry::open());
        let own = shelf.image(&archives(2), Compression::Gzip, docker, &host());
        let other = Platform::new("linux", "s390x", "");
        let foreign = shelf.image(&archives(3), Compression::Gzip, docker, &other);
        let index = shelf.index(&[own.clone(), foreign.clone()]);
        shelf.name("app", &index);
        let to = registry.reference("app:all");
        let (pushed, _) = keep(&shelf, "app", &to).unwrap();
        assert_eq!(pushed.target.digest, index.digest);
        let puts: Vec<String> = registry
            .seen_of("PUT", "/manifests/")
            .into_iter()
            .map(|seen| seen.head.target)
            .collect();
        assert_eq!(puts.len(), 3);
        assert!(puts[2].ends_with("/manifests/all"), "{puts:?}");
        let one = Platforms::One(other.clone());
        let to = registry.reference("app:one");
        let (pushed, _) = push_with(&shelf, "app", &to, &one, Layers::Keep).unwrap();
        assert_eq!(pushed.target.digest, foreign.digest);
        // Without the other one's manifest the index is not whole.
        shelf.store.content().remove(&foreign.digest).unwrap();
        let error = keep(&shelf, "app", &registry.reference("app:whole")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(
            words(&error).contains(&foreign.digest.to_string()),
            "{error:?}"
        );
        let or = Platforms::AllOr(host());
        let to = registry.reference("app:or");
        let (pushed, _) = push_with(&shelf, "app", &to, &or, Layers::Keep).unwrap();
        assert_eq!(pushed.target.digest, own.digest);
    }
}

#[test]
fn another_compression_is_the_same_each_time() {
    for (docker, format) in [
        (false, Format::Zstd(None)),
        (true, Format::Zstd(Some(7))),
        (false, Format::Gzip(Some(1))),
        (true, Format::Gzip(None)),
    ] {
        let (shelf, registry) = (Shelf::new(), Registry::open());
        let before = shelf.image(&archives(3), Compression::None, docker, &host());
        let index = shelf.index(std::slice::from_ref(&before));
        shelf.name("app", &index);
        let layers = Layers::Compress(format, Which::Others);
        let mut digests = Vec::new();
        for tag in ["a", "b"] {
            let to = registry.reference(&format!("app:{tag}"));
            let (pushed, _) = push_with(&shelf, "app", &to, &Platforms::All, layers).unwrap();
            digests.push(pushed.target.digest);
        }
        assert_eq!(digests[0], digests[1]);
        let json = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&registry.manifest("app", name).unwrap()).unwrap()
        };
        let index = json("a");
        let manifest = json(index["manifests"][0]["digest"].as_str().unwrap());
        let zstd = matches!(format, Format::Zstd(_));
        let kind = match (docker, zstd) {
            (true, false) => media::DOCKER_LAYER_GZIP,
            (false, false) => media::OCI_LAYER_GZIP,
            (_, true) => media::OCI_LAYER_ZSTD,
        };
        let oci = zstd || !docker;
        assert_eq!(index["mediaType"] == media::OCI_INDEX, oci);
        assert_eq!(manifest["mediaType"] == media::OCI_MANIFEST, oci);
        assert_eq!(manifest["config"]["mediaType"] == media::OCI_CONFIG, oci);
        assert_eq!(manifest["annotations"]["org.example.kept"], "yes");
        let old = shelf.json(&before.digest);
        assert_eq!(manifest["config"]["digest"], old["config"]["digest"]);
        for (layer, archive) in manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .zip(archives(3))
        {
            assert_eq!(layer["mediaType"], kind);
            let digest: Digest = layer["digest"].as_str().unwrap().parse().unwrap();
            let bytes = registry.blob("app", &digest).unwrap();
            assert_eq!(bytes.len() as u64, layer["size"].as_u64().unwrap());
            let mut plain = Vec::new();
            let limits = rcrun_overlay::compress::Limits::default();
            let mut decoder = rcrun_overlay::compress::Decoder::new(&**bytes, limits).unwrap();
            decoder.read_to_end(&mut plain).unwrap();
            assert!(plain == archive);
        }
        // Nothing of it stays in the store.
        assert_eq!(shelf.count(), (6, 1));
        let incoming = shelf.directory.path().join("store/content/incoming");
        assert_eq!(std::fs::read_dir(incoming).unwrap().count(), 0);
    }
}

#[test]
fn which_layers_are_compressed_anew() {
    let gzip = Layers::Compress(Format::Gzip(Some(9)), Which::Others);
    let plain = Layers::Compress(Format::Zstd(None), Which::Plain);
    let all = Layers::Compress(Format::Gzip(Some(9)), Which::All);
    for (layers, changed) in [(gzip, false), (plain, false), (all, true)] {
        let (shelf, registry) = (Shelf::new(), Registry::open());
        let image = image(&shelf, "app", false);
        let to = registry.reference("app:1");
        let (pushed, _) = push_with(&shelf, "app", &to, &Platforms::All, layers).unwrap();
        assert_eq!(pushed.target.digest != image.digest, changed, "{layers:?}");
    }
    let (shelf, registry) = (Shelf::new(), Registry::open());
    image(&shelf, "app", false);
    let wrong = Layers::Compress(Format::Zstd(Some(23)), Which::All);
    let to = registry.reference("app:1");
    push_with(&shelf, "app", &to, &Platforms::All, wrong).unwrap_err();
    assert!(registry.seen().is_empty());
}

#[test]
fn d9_a_layer_that_is_not_its_diff_id_is_not_compressed_anew() {
    let (shelf, registry) = (Shelf::new(), Registry::open());
    let image = shelf.image(&archives(1), Compression::None, false, &host());
    let mut manifest = shelf.json(&image.digest);
    let other = shelf.put(media::OCI_LAYER, &archive("other", 10, 1));
    manifest["layers"][0] = serde_json::to_value(&other).unwrap();
    let wrong = shelf.put(media::OCI_MANIFEST, manifest.to_string().as_bytes());
    shelf.name("app", &wrong);
    let layers = Layers::Compress(Format::Gzip(None), Which::Others);
    let to = registry.reference("app:1");
    let error = push_with(&shelf, "app", &to, &Platforms::All, layers).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let words = words(&error);
    assert!(words.contains(&other.digest.to_string()), "{words}");
    assert!(registry.manifest("app", "1").is_none());
}

#[test]
fn errors_name_layer_digest_and_host() {
    let (shelf, registry) = (Shelf::new(), Registry::open());
    let image = image(&shelf, "app", false);
    let layer = shelf.json(&image.digest)["layers"][2]["digest"].clone();
    let layer = layer.as_str().unwrap();
    registry.fault("HEAD", layer, 99, Fault::Answer(Answer::new(403, "no")));
    let error = keep(&shelf, "app", &registry.reference("app:1")).unwrap_err();
    let words = words(&error);
    for part in ["layer 3 of 5", layer, &registry.host()] {
        assert!(words.contains(part), "{words}");
    }
    assert!(registry.manifest("app", "1").is_none());
    // A damaged blob is refused by the registry, and nothing is named there.
    let registry = Registry::open();
    let digest: Digest = layer.parse().unwrap();
    let hex = digest.hex();
    let path = shelf
        .directory
        .path()
        .join(format!("store/content/sha256/{}/{hex}", &hex[..2]));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20_000] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let error = keep(&shelf, "app", &registry.reference("app:1")).unwrap_err();
    assert!(
        error.chain().to_string().contains("layer 3 of 5"),
        "{error:?}"
    );
    assert!(registry.manifest("app", "1").is_none());
    // One that is missing is found before anything is sent.
    let registry = Registry::open();
    shelf.store.content().remove(&digest).unwrap();
    let error = keep(&shelf, "app", &registry.reference("app:1")).unwrap_err();
    assert!(
        error.chain().to_string().contains("layer 3 of 5"),
        "{error:?}"
    );
    assert!(registry.seen().is_empty());
}

#[test]
fn a_broken_connection_and_a_cancelled_push() {
    let (shelf, registry) = (Shelf::new(), Registry::open());
    let big = shelf.image(
        &[archive("big", 8 << 20, 7)],
        Compression::None,
        false,
        &host(),
    );
    shelf.name("app", &big);
    registry.fault("PATCH", "/uploads/", 1, Fault::Cut(3 << 20));
    let (pushed, _) = keep(&shelf, "app", &registry.reference("app:1")).unwrap();
    assert!(pushed.sent > 8 << 20);
    let patches = registry.seen_of("PATCH", "/uploads/");
    let received: u64 = patches.iter().map(|seen| seen.received).sum();
    assert!(received <= (8 << 20) + 1536 + (64 << 10), "{received}");
    let (client, cancel) = client();
    let to = registry.reference("new:1");
    let request = Request {
        subject: &Subject::Digest(big.digest.clone()),
        destination: &to,
        platforms: &Platforms::All,
        layers: Layers::Keep,
        uploads: 1,
        watch: &|event| {
            if matches!(event, Event::Sent(..)) {
                cancel.cancel();
            }
        },
        cancel: &cancel,
    };
    let error = push(&shelf.store, &client, &request).unwrap_err();
    assert!(words(&error).contains("called off"), "{error:?}");
    assert!(registry.manifest("new", "1").is_none());
}

#[test]
fn a_digest_as_destination_must_be_the_images() {
    let (shelf, registry) = (Shelf::new(), Registry::open());
    let image = image(&shelf, "app", false);
    let to = registry
        .reference("app:1")
        .with_digest(image.digest.clone());
    keep(&shelf, "app", &to).unwrap();
    assert!(
        registry
            .manifest("app", &image.digest.to_string())
            .is_some()
    );
    let before = registry.seen().len();
    let wrong = to.with_digest(Digest::of(b"x"));
    keep(&shelf, "app", &wrong).unwrap_err();
    assert_eq!(registry.seen().len(), before);
    let error = keep(&shelf, "nothing", &to).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Debian's registry, and skopeo's opinion of what is in it.
#[test]
fn docker_registry_and_skopeo_see_the_same_image() {
    let directory = tempfile::tempdir().unwrap();
    let Some(real) = crate::registry::tests::real::real(directory.path()) else {
        return;
    };
    let shelf = Shelf::new();
    for docker in [false, true] {
        let own = shelf.image(&archives(3), Compression::Gzip, docker, &host());
        let other = Platform::new("linux", "s390x", "");
        let other = shelf.image(&archives(4), Compression::Gzip, docker, &other);
        let index = shelf.index(&[own, other]);
        shelf.name("app", &index);
        let at =
            |rest: &str| -> Reference { format!("127.0.0.1:{}/{rest}", real.1).parse().unwrap() };
        let first = at(&format!("team/app{docker}:v1"));
        let (pushed, _) = keep(&shelf, "app", &first).unwrap();
        assert_eq!(pushed.target.digest, index.digest);
        shelf.name(&first.to_string(), &index);
        let (again, _) = keep(&shelf, "app", &at(&format!("team/other{docker}:v1"))).unwrap();
        assert_eq!((again.sent, again.mounted), (0, 6));
        let layers = Layers::Compress(Format::Zstd(None), Which::All);
        let third = at(&format!("team/app{docker}:zstd"));
        let (zstd, _) = push_with(&shelf, "app", &third, &Platforms::All, layers).unwrap();
        for (name, digest) in [(&first, &index.digest), (&third, &zstd.target.digest)] {
            let name = format!("docker://{name}");
            let arguments = ["inspect", "--tls-verify=false", "--raw", &name];
            let Ok(output) = std::process::Command::new("skopeo")
                .args(arguments)
                .output()
            else {
                println!("skipped: skopeo is not installed");
                return;
            };
            assert_eq!(Digest::of(&output.stdout), *digest);
        }
    }
}
