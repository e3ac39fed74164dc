//! The same images with skopeo and umoci, both ways: digests are the same bit for bit.

use std::process::Command;

use rcrun_overlay::compress::Compression;

use super::tests::{archives, at, bring, path, save, save_as, subject};
use super::*;
use crate::Digest;
use crate::document::Descriptor;
use crate::platform::Platform;
use crate::recompress::Layers;
use crate::samples::Shelf;

/// Runs a program; none if it is not there.
fn run(program: &str, arguments: &[&str]) -> Option<Vec<u8>> {
    let output = match Command::new(program).args(arguments).output() {
        Ok(output) => output,
        Err(_) => {
            println!("skipped: {program} is not installed");
            return None;
        }
    };
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {words}");
    Some(output.stdout)
}

fn skopeo(from: &str, to: &str) -> bool {
    run("skopeo", &["--insecure-policy", "copy", "-q", from, to]).is_some()
}

/// The digest of the manifest, as skopeo sees it.
fn digest_at(place: &str) -> Digest {
    let bytes = run("skopeo", &["inspect", "--raw", place]).unwrap();
    Digest::of(&bytes)
}

fn shelf(compression: Compression, docker: bool) -> (Shelf, Descriptor) {
    let shelf = Shelf::new();
    let image = shelf.image(&archives(3), compression, docker, &Platform::host());
    shelf.name("team/app:v1", &image);
    (shelf, image)
}

#[test]
fn skopeo_reads_what_we_write() {
    for docker in [false, true] {
        let (shelf, image) = shelf(Compression::Gzip, docker);
        for (transport, name) in [
            ("oci", ":v1"),
            ("oci-archive", ":v1"),
            ("oci", ""),
            ("oci-archive", ""),
        ] {
            let ours = at(&shelf, transport, &format!("{transport}{}", name.len())) + name;
            let all = [subject("team/app:v1")];
            let saved = save_as(&shelf, &all, &ours, Layers::Keep, docker, None).unwrap();
            let theirs = at(&shelf, "dir", &format!("dir-{transport}{}", name.len()));
            if !skopeo(&ours, &theirs) {
                return;
            }
            assert_eq!(digest_at(&theirs), saved[0].digest, "{ours}");
            assert_eq!(saved[0].digest == image.digest, !docker);
        }
        // skopeo makes a manifest of its own from docker's archives; configuration and layers stay.
        for name in ["", ":other/name:v2"] {
            let ours = at(
                &shelf,
                "docker-archive",
                &format!("docker{}.tar", name.len()),
            ) + name;
            save(&shelf, &[subject("team/app:v1")], &ours, Layers::Keep, None).unwrap();
            let theirs = at(&shelf, "dir", &format!("docker{}", name.len()));
            assert!(skopeo(&ours, &theirs));
            let made = run("skopeo", &["inspect", "--raw", &theirs]).unwrap();
            let made: serde_json::Value = serde_json::from_slice(&made).unwrap();
            assert_eq!(
                made["config"]["digest"],
                shelf.json(&image.digest)["config"]["digest"]
            );
            let tags = run("skopeo", &["list-tags", &ours]).unwrap();
            let wanted = if name.is_empty() {
                "team/app:v1"
            } else {
                "other/name:v2"
            };
            assert!(String::from_utf8_lossy(&tags).contains(wanted));
        }
    }
}

#[test]
fn we_read_what_skopeo_writes() {
    for (docker, compression) in [
        (false, Compression::Gzip),
        (true, Compression::Gzip),
        (false, Compression::Zstd),
    ] {
        let (from, image) = shelf(compression, docker);
        let ours = at(&from, "oci", "ours:v1");
        let all = [subject("team/app:v1")];
        let saved = save_as(&from, &all, &ours, Layers::Keep, docker, None).unwrap();
        let naming = Naming::As("came".parse().unwrap());
        for transport in ["oci", "oci-archive"] {
            let theirs = at(&from, transport, &format!("their-{transport}")) + ":v1";
            if !skopeo(&ours, &theirs) {
                return;
            }
            let to = Shelf::new();
            let came = bring(&to, &theirs, &naming, None, None).unwrap();
            assert_eq!(came[0].target.digest, saved[0].digest);
            let mut list = to.store.content().list().unwrap();
            list.retain(|digest| *digest != came[0].target.digest);
            assert!(list.iter().all(|one| from.bytes(one) == to.bytes(one)));
            assert_eq!(list.len(), 4);
        }
        if compression == Compression::Zstd {
            println!("not written by this skopeo: zstd in archives of docker");
            continue;
        }
        let theirs = at(&from, "docker-archive", "theirs.tar") + ":team/app:v1";
        assert!(skopeo(&ours, &theirs));
        let to = Shelf::new();
        let source = at(&from, "docker-archive", "theirs.tar");
        let came = bring(&to, &source, &Naming::AsSaid, None, None).unwrap();
        assert_eq!(came[0].names[0].name, "docker.io/team/app:v1");
        let manifest = to.json(&came[0].target.digest);
        // The archives themselves, not compressed: their digests are the DiffIDs.
        for (layer, archive) in manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .zip(archives(3))
        {
            assert_eq!(layer["digest"], Digest::of(&archive).to_string());
        }
        let config = shelf_config(&from, &image);
        assert_eq!(manifest["config"]["digest"], config);
        // And again: the manifest that was made is the same.
        let again = bring(&Shelf::new(), &source, &Naming::AsSaid, None, None).unwrap();
        assert_eq!(again[0].target, came[0].target);
    }
}

fn shelf_config(shelf: &Shelf, image: &Descriptor) -> serde_json::Value {
    shelf.json(&image.digest)["config"]["digest"].clone()
}

#[test]
fn umoci_unpacks_and_changes_what_we_write() {
    let (shelf, image) = shelf(Compression::Gzip, false);
    let ours = at(&shelf, "oci", "layout:v1");
    save(&shelf, &[subject("team/app:v1")], &ours, Layers::Keep, None).unwrap();
    let layout = format!("{}:v1", path(&shelf, "layout").display());
    let stat = ["stat", "--image", &layout, "--json"];
    if run("umoci", &stat).is_none() {
        return;
    }
    let bundle = path(&shelf, "bundle");
    let arguments = [
        "unpack",
        "--rootless",
        "--image",
        &layout,
        bundle.to_str().unwrap(),
    ];
    run("umoci", &arguments).unwrap();
    assert_eq!(
        std::fs::metadata(bundle.join("rootfs/file-2"))
            .unwrap()
            .len(),
        200_000
    );
    run(
        "umoci",
        &["config", "--image", &layout, "--config.user", "nobody"],
    )
    .unwrap();
    let to = Shelf::new();
    let naming = Naming::As("came".parse().unwrap());
    let came = bring(&to, &ours, &naming, None, None).unwrap();
    assert_ne!(came[0].target.digest, image.digest);
    let config: Digest = serde_json::from_value(shelf_config(&to, &came[0].target)).unwrap();
    assert_eq!(to.json(&config)["config"]["User"], "nobody");
}
