//! Round trips: what left comes back with the same digests, and the same leaves as the same bytes.

use std::io::{Read, Write};
use std::path::PathBuf;

use rcrun_overlay::compress::Compression;

use super::*;
use crate::Digest;
use crate::closure::Platforms;
use crate::document::Descriptor;
use crate::layout::entries;
use crate::names::{Names, UNNAMED};
use crate::platform::Platform;
use crate::pull::{DOWNLOADS, Way};
use crate::recompress::{Format, Layers, Which};
use crate::registry::testing::Registry;
use crate::samples::{Shelf, archive as layer, client};
use crate::stored::Subject;

pub(crate) fn archives(count: u64) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| layer(&format!("file-{n}"), 200_000, n))
        .collect()
}

pub(crate) fn subject(name: &str) -> Subject {
    Subject::Name(name.parse().unwrap())
}

pub(crate) fn save(
    shelf: &Shelf,
    subjects: &[Subject],
    to: &str,
    layers: Layers,
    output: Option<&mut dyn Write>,
) -> Result<Vec<Descriptor>> {
    save_as(shelf, subjects, to, layers, false, output)
}

pub(crate) fn save_as(
    shelf: &Shelf,
    subjects: &[Subject],
    to: &str,
    layers: Layers,
    oci: bool,
    output: Option<&mut dyn Write>,
) -> Result<Vec<Descriptor>> {
    let cancel = Cancel::new();
    let means = Means {
        store: &shelf.store,
        client: None,
        watch: &|_| {},
        cancel: &cancel,
    };
    let how = Out {
        platforms: &Platforms::AllOr(Platform::host()),
        layers,
        oci,
        uploads: 2,
    };
    copy_out(&means, subjects, &to.parse()?, &how, output)
}

pub(crate) fn bring(
    shelf: &Shelf,
    from: &str,
    naming: &Naming,
    unpack: Option<Way>,
    input: Option<&mut (dyn Read + Send)>,
) -> Result<Vec<Imported>> {
    let cancel = Cancel::new();
    let means = Means {
        store: &shelf.store,
        client: None,
        watch: &|_| {},
        cancel: &cancel,
    };
    let how = In {
        platforms: &Platforms::AllOr(Platform::host()),
        unpack,
        downloads: DOWNLOADS,
        naming,
    };
    copy_in(&means, &from.parse()?, &how, input)
}

pub(crate) fn path(shelf: &Shelf, name: &str) -> PathBuf {
    shelf.directory.path().join(name)
}

pub(crate) fn at(shelf: &Shelf, transport: &str, name: &str) -> String {
    format!("{transport}:{}", path(shelf, name).display())
}

fn two_platforms(shelf: &Shelf, docker: bool) -> Descriptor {
    let own = shelf.image(&archives(3), Compression::Gzip, docker, &Platform::host());
    let other = Platform::new("linux", "s390x", "");
    let other = shelf.image(&archives(2), Compression::Gzip, docker, &other);
    shelf.index(&[own, other])
}

/// All blobs of one store are in the other one, with the same bytes.
fn assert_same(one: &Shelf, other: &Shelf) {
    let list = |shelf: &Shelf| shelf.store.content().list().unwrap();
    assert_eq!(list(one), list(other));
    for digest in list(one) {
        assert!(one.bytes(&digest) == other.bytes(&digest));
    }
}

#[test]
fn layouts_and_their_archives_keep_every_digest() {
    for docker in [false, true] {
        let from = Shelf::new();
        let index = two_platforms(&from, docker);
        from.name("team/app:v1", &index);
        for transport in ["oci", "oci-archive"] {
            let place = at(&from, transport, transport);
            let named = format!("{place}:some-name");
            let saved = save(&from, &[subject("team/app:v1")], &named, Layers::Keep, None).unwrap();
            assert_eq!(saved[0].digest, index.digest);
            let to = Shelf::new();
            let naming = Naming::As("other/name:v2".parse().unwrap());
            for source in [&named, &place, &format!("{place}:@{}", index.digest)] {
                let came = bring(&to, source, &naming, None, None).unwrap();
                assert_eq!(came[0].target.digest, index.digest);
                assert_eq!(came[0].names[0].name, "docker.io/other/name:v2");
            }
            assert_same(&from, &to);
            let error = bring(&to, &format!("{place}:no"), &naming, None, None).unwrap_err();
            assert!(error.chain().to_string().contains("some-name"), "{error:?}");
        }
    }
}

#[test]
fn the_same_images_are_the_same_bytes() {
    let (one, other) = (Shelf::new(), Shelf::new());
    for shelf in [&one, &other] {
        let index = two_platforms(shelf, false);
        shelf.name("team/app:v1", &index);
        let single = shelf.image(&archives(4), Compression::None, false, &Platform::host());
        shelf.name("single", &single);
    }
    let zstd = Layers::Compress(Format::Zstd(None), Which::All);
    for transport in ["oci-archive", "docker-archive"] {
        for layers in [Layers::Keep, zstd] {
            let write = |shelf: &Shelf| {
                let mut bytes = Vec::new();
                let all = [subject("team/app:v1"), subject("single")];
                let to = format!("{transport}:-");
                save(shelf, &all, &to, layers, Some(&mut bytes)).unwrap();
                bytes
            };
            let bytes = write(&one);
            assert!(bytes == write(&other));
            // Both names come back, from a stream.
            let to = Shelf::new();
            let source = format!("{transport}:-");
            let came = bring(&to, &source, &Naming::AsSaid, None, Some(&mut &*bytes)).unwrap();
            let mut names: Vec<_> = came
                .iter()
                .flat_map(|one| &one.names)
                .map(|one| &one.name)
                .collect();
            names.sort();
            assert_eq!(
                names,
                ["docker.io/library/single:latest", "docker.io/team/app:v1"]
            );
            assert_eq!(to.count().1, 2);
            // Several images cannot have one name.
            let naming = Naming::As("x".parse().unwrap());
            bring(&to, &source, &naming, None, Some(&mut &*bytes)).unwrap_err();
            let one = match transport {
                "docker-archive" => "docker-archive:-:single:latest",
                _ => "oci-archive:-:single:latest",
            };
            let came = bring(&to, one, &naming, None, Some(&mut &*bytes)).unwrap();
            assert_eq!(came[0].names[0].name, "docker.io/library/x:latest");
        }
    }
}

#[test]
fn an_archive_of_docker_has_one_platform_with_its_manifest() {
    let from = Shelf::new();
    let index = two_platforms(&from, true);
    from.name("app", &index);
    let place = at(&from, "docker-archive", "app.tar");
    let saved = save(&from, &[subject("app")], &place, Layers::Keep, None).unwrap();
    assert_ne!(saved[0].digest, index.digest);
    let to = Shelf::new();
    let came = bring(&to, &place, &Naming::AsSaid, None, None).unwrap();
    assert_eq!(came[0].target, saved[0].clone().without_platform());
    assert_eq!(came[0].names[0].name, "docker.io/library/app:latest");
    let names = tar_names(&std::fs::read(path(&from, "app.tar")).unwrap());
    assert_eq!(names[..3], ["oci-layout", "index.json", "manifest.json"]);
    // A second time nothing is fetched, and the file is replaced.
    save(&from, &[subject("app")], &place, Layers::Keep, None).unwrap();
    bring(&to, &place, &Naming::AsSaid, None, None).unwrap();
}

impl Descriptor {
    fn without_platform(mut self) -> Self {
        self.platform = None;
        self
    }
}

pub(crate) fn tar_names(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect()
}

#[test]
fn layouts_grow_and_names_move() {
    let shelf = Shelf::new();
    let first = shelf.image(&archives(1), Compression::Gzip, false, &Platform::host());
    let second = shelf.image(&archives(2), Compression::Gzip, false, &Platform::host());
    shelf.name("first", &first);
    shelf.name("second", &second);
    let place = at(&shelf, "oci", "layout");
    let put = |name: &str, to: &str| {
        save(
            &shelf,
            &[subject(name)],
            &format!("{place}{to}"),
            Layers::Keep,
            None,
        )
        .unwrap();
    };
    put("first", ":a");
    put("second", ":b");
    put("first", ":c");
    put("second", ":a");
    put("first", "");
    put("first", "");
    let index = std::fs::read(path(&shelf, "layout/index.json")).unwrap();
    let found: Vec<(Option<String>, Digest)> = entries(&index)
        .unwrap()
        .into_iter()
        .map(|one| {
            (
                one.annotations.get(crate::layout::REF_NAME).cloned(),
                one.digest,
            )
        })
        .collect();
    let name = |name: &str| Some(name.to_owned());
    assert_eq!(
        found,
        [
            (name("a"), second.digest.clone()),
            (name("b"), second.digest.clone()),
            (name("c"), first.digest.clone()),
            (None, first.digest.clone())
        ]
    );
    // A damaged blob is made good.
    let layer = shelf.json(&second.digest)["layers"][0]["digest"].clone();
    let layer = path(&shelf, "layout").join(format!(
        "blobs/{}",
        layer.as_str().unwrap().replace(':', "/")
    ));
    let good = std::fs::read(&layer).unwrap();
    let mut bad = good.clone();
    bad[100] ^= 1;
    std::fs::write(&layer, bad).unwrap();
    put("second", ":a");
    assert!(std::fs::read(&layer).unwrap() == good);
    // Every image of it comes back by its own name, and is kept by its digest if it has none.
    let to = Shelf::new();
    let came = bring(&to, &place, &Naming::AsSaid, None, None).unwrap();
    assert_eq!(came.len(), 2);
    assert_eq!(to.count().1, 2);
    let kept = Names::new(&to.store).unwrap().list().unwrap();
    let unnamed = kept.iter().filter(|one| one.name.starts_with(UNNAMED));
    assert_eq!(unnamed.count(), 1);
    // Whoever wants no name gets none.
    let to = Shelf::new();
    bring(&to, &format!("{place}:a"), &Naming::Nothing, None, None).unwrap();
    assert_eq!(to.count().1, 0);
}

#[test]
fn only_layouts_are_written_to() {
    let shelf = Shelf::new();
    let image = shelf.image(&archives(1), Compression::Gzip, false, &Platform::host());
    shelf.name("app", &image);
    let other = path(&shelf, "other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("thesis.tex"), "words").unwrap();
    let place = at(&shelf, "oci", "other");
    let error = save(&shelf, &[subject("app")], &place, Layers::Keep, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{error:?}");
    std::fs::write(
        other.join("oci-layout"),
        r#"{"imageLayoutVersion":"2.0.0"}"#,
    )
    .unwrap();
    let error = save(&shelf, &[subject("app")], &place, Layers::Keep, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 2);
    let error = bring(&shelf, &place, &Naming::AsSaid, None, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    // One registry name, layout name or archive reference stands for one image.
    let two = [subject("app"), subject("app")];
    save(&shelf, &two, "docker://example.org/a", Layers::Keep, None).unwrap_err();
    save(
        &shelf,
        &two,
        &at(&shelf, "oci", "new:v1"),
        Layers::Keep,
        None,
    )
    .unwrap_err();
    assert!(!path(&shelf, "new").exists());
    // A damaged blob makes no archive, and what was there before stays.
    let place = at(&shelf, "oci-archive", "app.tar");
    save(&shelf, &[subject("app")], &place, Layers::Keep, None).unwrap();
    let before = std::fs::read(path(&shelf, "app.tar")).unwrap();
    let layer: Digest =
        serde_json::from_value(shelf.json(&image.digest)["layers"][0]["digest"].clone()).unwrap();
    let blob = path(&shelf, "store").join(format!(
        "content/sha256/{}/{}",
        &layer.hex()[..2],
        layer.hex()
    ));
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[50] ^= 1;
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, bytes).unwrap();
    for transport in ["oci-archive", "docker-archive", "oci"] {
        let name = if transport == "oci" {
            "fresh"
        } else {
            "app.tar"
        };
        let place = at(&shelf, transport, name);
        let error = save(&shelf, &[subject("app")], &place, Layers::Keep, None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(
            error
                .chain()
                .to_string()
                .contains("of the store is damaged"),
            "{error:?}"
        );
    }
    assert!(std::fs::read(path(&shelf, "app.tar")).unwrap() == before);
    assert!(!path(&shelf, "fresh/index.json").exists());
    let left = std::fs::read_dir(shelf.directory.path()).unwrap().count();
    assert_eq!(left, 4, "store, other, app.tar, fresh");
}

#[test]
fn what_comes_is_unpacked_if_asked() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: unpacking with owners needs root");
        return;
    }
    let from = Shelf::new();
    let index = two_platforms(&from, false);
    from.name("app", &index);
    for transport in ["oci", "oci-archive", "docker-archive"] {
        let place = at(&from, transport, transport);
        save(&from, &[subject("app")], &place, Layers::Keep, None).unwrap();
        let to = Shelf::new();
        bring(&to, &place, &Naming::AsSaid, Some(Way::Privileged), None).unwrap();
        let diff_ids: Vec<Digest> = archives(3).iter().map(|one| Digest::of(one)).collect();
        let chain = rcrun_overlay::layer::chain::chain_id(&diff_ids).unwrap();
        let file = path(&to, "store/layers")
            .join(chain.hex())
            .join("diff/file-2");
        assert_eq!(std::fs::metadata(file).unwrap().len(), 200_000);
    }
}

#[test]
fn by_way_of_a_registry() {
    let (from, registry) = (Shelf::new(), Registry::open());
    let index = two_platforms(&from, false);
    from.name("app", &index);
    let (client, cancel) = client();
    let means = |store| Means {
        store,
        client: Some(&client),
        watch: &|_| {},
        cancel: &cancel,
    };
    let place = Location::Registry(registry.reference("team/app:v1"));
    let out = Out {
        platforms: &Platforms::All,
        layers: Layers::Keep,
        oci: false,
        uploads: 4,
    };
    let pushed = copy_out(&means(&from.store), &[subject("app")], &place, &out, None).unwrap();
    assert_eq!(pushed[0].digest, index.digest);
    let to = Shelf::new();
    let how = In {
        platforms: &Platforms::One(Platform::host()),
        unpack: None,
        downloads: 2,
        naming: &Naming::AsSaid,
    };
    let came = copy_in(&means(&to.store), &place, &how, None).unwrap();
    assert_eq!(came[0].target.digest, index.digest);
    assert_eq!(Names::new(&to.store).unwrap().list().unwrap().len(), 1);
}
