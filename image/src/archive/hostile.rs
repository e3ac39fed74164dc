//! Archives and layouts that lie: an error each, and the store as before.

use rcrun_overlay::compress::Compression;
use serde_json::{Value, json};

use super::arriving::{MANIFEST, MEMBERS};
use crate::Digest;
use crate::document::{Descriptor, media};
use crate::layout::{INDEX, MARK, mark};
use crate::platform::Platform;
use crate::samples::{Shelf, archive, compressed};
use crate::transport::Naming;
use crate::transport::tests::{archives, at, bring, path, save, subject};
use crate::{Error, ErrorKind};

/// Members of an archive: name, type, link, data.
#[derive(Clone)]
struct Tar(Vec<(String, tar::EntryType, String, Vec<u8>)>);

impl Tar {
    fn file(&mut self, name: &str, data: &[u8]) {
        self.0.push((
            name.into(),
            tar::EntryType::Regular,
            String::new(),
            data.to_vec(),
        ));
    }

    fn link(&mut self, name: &str, kind: tar::EntryType, target: &str) {
        self.0.push((name.into(), kind, target.into(), Vec::new()));
    }

    fn replace(&mut self, name: &str, data: &[u8]) {
        for member in self.0.iter_mut().filter(|member| member.0 == name) {
            member.3 = data.to_vec();
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, link, data) in &self.0 {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_size(data.len() as u64);
            let raw = header.as_mut_bytes();
            raw[..name.len()].copy_from_slice(name.as_bytes());
            raw[157..157 + link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            builder.append(&header, &**data).unwrap();
        }
        builder.into_inner().unwrap()
    }
}

/// An archive as docker before 25 wrote it.
fn old(layers: &[Vec<u8>], diff_ids: &[Digest], name: &str) -> Tar {
    let config = json!({
        "architecture": Platform::host().architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string();
    let stem = Digest::of(config.as_bytes()).hex().to_owned();
    let mut tar = Tar(Vec::new());
    let mut paths = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        tar.file(&format!("id{number}/VERSION"), b"1.0");
        tar.file(&format!("id{number}/json"), b"{}");
        paths.push(format!("id{number}/layer.tar"));
        tar.file(&paths[number], layer);
    }
    tar.file(&format!("{stem}.json"), config.as_bytes());
    let table = json!([{"Config": format!("{stem}.json"), "RepoTags": [name], "Layers": paths}]);
    tar.file(MANIFEST, table.to_string().as_bytes());
    tar.file("repositories", b"not looked at");
    tar
}

fn digests(layers: &[Vec<u8>]) -> Vec<Digest> {
    layers.iter().map(|one| Digest::of(one)).collect()
}

/// An error, after which the store is as before.
fn refused(transport: &str, bytes: &[u8]) -> Error {
    let shelf = Shelf::new();
    let from = format!("{transport}:-");
    let result = bring(&shelf, &from, &Naming::AsSaid, None, Some(&mut &*bytes));
    let Err(error) = result else {
        panic!("{transport} accepted it");
    };
    assert_eq!(shelf.count(), (0, 0), "{error:?}");
    let incoming = path(&shelf, "store/content/incoming");
    assert_eq!(std::fs::read_dir(incoming).unwrap().count(), 0);
    error
}

fn words(error: &Error) -> String {
    error.chain().to_string()
}

#[test]
fn old_archives_with_links_and_every_compression() {
    let layers = archives(3);
    let mut tar = old(&layers, &digests(&layers), "old/app:v1");
    // docker writes a layer once, and links to it where it comes again; skopeo always links.
    tar.0.retain(|member| !member.0.starts_with("id2/"));
    tar.file("a/b/real.tar", &layers[2]);
    tar.link("id2/layer.tar", tar::EntryType::Symlink, "../c/again.tar");
    tar.link("c/again.tar", tar::EntryType::Link, "a/b/real.tar");
    let shelf = Shelf::new();
    for outer in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let bytes = compressed(&tar.bytes(), outer);
        let came = bring(
            &shelf,
            "docker-archive:-",
            &Naming::AsSaid,
            None,
            Some(&mut &*bytes),
        )
        .unwrap();
        assert_eq!(came[0].names[0].name, "docker.io/old/app:v1");
        let manifest = shelf.json(&came[0].target.digest);
        assert_eq!(
            manifest["layers"][2]["digest"],
            Digest::of(&layers[2]).to_string()
        );
    }
    assert_eq!(shelf.count(), (5, 1));
    // Layers that are compressed are unpacked to be compared.
    let zipped: Vec<_> = layers
        .iter()
        .map(|one| compressed(one, Compression::Zstd))
        .collect();
    let tar = old(&zipped, &digests(&layers), "zip");
    let came = bring(
        &shelf,
        "docker-archive:-",
        &Naming::AsSaid,
        None,
        Some(&mut &*tar.bytes()),
    )
    .unwrap();
    let manifest = shelf.json(&came[0].target.digest);
    assert_eq!(manifest["layers"][0]["mediaType"], media::OCI_LAYER_ZSTD);
    let error = {
        let tar = old(&zipped, &digests(&zipped), "zip");
        let from = "docker-archive:-";
        bring(
            &shelf,
            from,
            &Naming::AsSaid,
            None,
            Some(&mut &*tar.bytes()),
        )
        .unwrap_err()
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(shelf.count().1, 2);
}

#[test]
fn d1_d2_names_and_links_that_lead_elsewhere() {
    let layers = archives(1);
    let good = old(&layers, &digests(&layers), "app");
    for name in ["../x", "a/../../x", "..", "/../etc/passwd"] {
        let mut tar = good.clone();
        tar.0.insert(
            0,
            (
                name.into(),
                tar::EntryType::Regular,
                String::new(),
                b"x".to_vec(),
            ),
        );
        refused("docker-archive", &tar.bytes());
    }
    for target in [
        "/etc/passwd",
        "../../etc/passwd",
        "layer.tar",
        "nothing",
        ".",
    ] {
        let mut tar = good.clone();
        tar.0.retain(|member| member.0 != "id0/layer.tar");
        tar.link("id0/layer.tar", tar::EntryType::Symlink, target);
        let error = refused("docker-archive", &tar.bytes());
        assert!(words(&error).contains("layer.tar"), "{error:?}");
    }
    for kind in [
        tar::EntryType::Fifo,
        tar::EntryType::Char,
        tar::EntryType::Block,
    ] {
        let mut tar = good.clone();
        tar.link("node", kind, "");
        let error = refused("docker-archive", &tar.bytes());
        assert!(words(&error).contains("node"), "{error:?}");
    }
    // A configuration that is a path of the host is just a member that is missing.
    let mut tar = good;
    tar.replace(
        MANIFEST,
        br#"[{"Config":"/etc/passwd","RepoTags":null,"Layers":[]}]"#,
    );
    assert!(words(&refused("docker-archive", &tar.bytes())).contains("missing"));
}

#[test]
fn d8_members_that_two_readers_understand_differently() {
    let layers = archives(2);
    let good = old(&layers, &digests(&layers), "app");
    for name in [MANIFEST, "id0/layer.tar"] {
        let mut tar = good.clone();
        tar.file(name, b"[]");
        assert!(words(&refused("docker-archive", &tar.bytes())).contains("twice"));
    }
    let path = good
        .0
        .iter()
        .find(|member| member.0.len() == 69)
        .unwrap()
        .0
        .clone();
    let tables = [
        "".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        "[{}]".to_owned(),
        format!(r#"[{{"Config":"{path}","config":"x","RepoTags":[],"Layers":[]}}]"#),
        format!(r#"[{{"Config":"{path}","RepoTags":["UPPER"],"Layers":[]}}]"#),
        format!(r#"[{{"Config":"{path}","RepoTags":null,"Layers":["id0/layer.tar"]}}]"#),
        format!(
            r#"[{{"Config":"{path}","RepoTags":null,"Layers":["id1/layer.tar","id0/layer.tar"]}}]"#
        ),
        format!(
            r#"[{{"Config":"{path}","RepoTags":null,"Layers":["id0/layer.tar"],"Layers":[]}}]"#
        ),
    ];
    for table in tables {
        let mut tar = good.clone();
        tar.replace(MANIFEST, table.as_bytes());
        refused("docker-archive", &tar.bytes());
    }
    // What manifest.json says must be what index.json says.
    let tar = new_archive("docker-archive");
    let at = tar
        .0
        .iter()
        .position(|member| member.0 == MANIFEST)
        .unwrap();
    let mut table: Value = serde_json::from_slice(&tar.0[at].3).unwrap();
    table[0]["Layers"].as_array_mut().unwrap().reverse();
    let mut lying = tar.clone();
    lying.replace(MANIFEST, table.to_string().as_bytes());
    assert!(words(&refused("docker-archive", &lying.bytes())).contains("says other layers"));
}

/// What we write, as a list that can be changed.
fn new_archive(transport: &str) -> Tar {
    let shelf = Shelf::new();
    let image = shelf.image(&archives(2), Compression::Gzip, false, &Platform::host());
    shelf.name("app", &image);
    let mut bytes = Vec::new();
    let to = format!("{transport}:-");
    let keep = crate::recompress::Layers::Keep;
    save(&shelf, &[subject("app")], &to, keep, Some(&mut bytes)).unwrap();
    let mut members = Vec::new();
    for entry in tar::Archive::new(&*bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut data = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut data).unwrap();
        let name = entry.path().unwrap().display().to_string();
        members.push((name, entry.header().entry_type(), String::new(), data));
    }
    Tar(members)
}

#[test]
fn d9_wrong_digests_sizes_and_ends() {
    for transport in ["oci-archive", "docker-archive"] {
        let good = new_archive(transport);
        // In any order.
        let mut reversed = good.clone();
        reversed.0.reverse();
        let shelf = Shelf::new();
        let from = format!("{transport}:-");
        bring(
            &shelf,
            &from,
            &Naming::AsSaid,
            None,
            Some(&mut &*reversed.bytes()),
        )
        .unwrap();
        assert_eq!(shelf.count(), (4, 1));
        let blobs: Vec<usize> = (0..good.0.len())
            .filter(|at| good.0[*at].0.starts_with("blobs/sha256/") && !good.0[*at].3.is_empty())
            .collect();
        assert_eq!(blobs.len(), 4);
        for at in blobs {
            let mut tar = good.clone();
            let last = tar.0[at].3.len() - 1;
            tar.0[at].3[last] ^= 1;
            assert_eq!(refused(transport, &tar.bytes()).kind(), ErrorKind::Corrupt);
            let mut tar = good.clone();
            tar.0[at].3.truncate(last);
            refused(transport, &tar.bytes());
            let mut tar = good.clone();
            let gone = tar.0.remove(at).3;
            let has = |text: &str| gone.windows(text.len()).any(|part| part == text.as_bytes());
            // docker's archives can do without a manifest: it is made again.
            if transport == "oci-archive" || !has("schemaVersion") {
                refused(transport, &tar.bytes());
            }
        }
        let bytes = good.bytes();
        for part in 1..20 {
            refused(transport, &bytes[..bytes.len() * part / 20]);
        }
        let packed = compressed(&bytes, Compression::Gzip);
        refused(transport, &packed[..packed.len() - 4]);
    }
    let layers = archives(2);
    let wrong = old(&layers, &digests(&archives(3)[1..]), "app");
    let error = refused("docker-archive", &wrong.bytes());
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(words(&error).contains(&Digest::of(&layers[0]).to_string()));
    // A configuration of another name than its digest.
    let mut tar = old(&layers, &digests(&layers), "app");
    for member in &mut tar.0 {
        if member.0.len() == 69 {
            member.3.push(b' ');
        }
    }
    assert_eq!(
        refused("docker-archive", &tar.bytes()).kind(),
        ErrorKind::Corrupt
    );
}

#[test]
fn d10_documents_without_end() {
    let good = new_archive("oci-archive");
    let mut large = good.clone();
    large.replace(INDEX, &vec![b' '; (4 << 20) + 1]);
    assert!(words(&refused("oci-archive", &large.bytes())).contains("4194304 is the limit"));
    let mut deep = good.clone();
    deep.replace(INDEX, "[".repeat(100_000).as_bytes());
    refused("oci-archive", &deep.bytes());
    let mut none = good.clone();
    none.0.retain(|member| member.0 != MARK);
    refused("oci-archive", &none.bytes());
    let mut version = good;
    version.replace(MARK, br#"{"imageLayoutVersion":"1.1.0"}"#);
    assert_eq!(
        refused("oci-archive", &version.bytes()).kind(),
        ErrorKind::Unsupported
    );
    // Indexes in indexes in indexes.
    let mut tar = Tar(Vec::new());
    tar.file(MARK, &mark());
    let mut inner = json!({"schemaVersion": 2, "manifests": []}).to_string();
    for _ in 0..8 {
        let digest = Digest::of(inner.as_bytes());
        tar.file(&format!("blobs/sha256/{}", digest.hex()), inner.as_bytes());
        let entry = json!({"mediaType": media::OCI_INDEX, "digest": digest, "size": inner.len()});
        inner = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    }
    tar.file(INDEX, inner.as_bytes());
    assert!(words(&refused("oci-archive", &tar.bytes())).contains("inside one another"));
    let mut many = Tar(Vec::new());
    for number in 0..=MEMBERS {
        many.link(&format!("{number}"), tar::EntryType::Directory, "");
    }
    assert!(words(&refused("oci-archive", &many.bytes())).contains("more than"));
}

#[test]
fn d13_names_are_only_those_that_were_asked_for() {
    let layers = archives(1);
    let tar = old(&layers, &digests(&layers), "debian:12");
    let shelf = Shelf::new();
    let name = Naming::As("mine".parse().unwrap());
    for naming in [name, Naming::Nothing] {
        bring(
            &shelf,
            "docker-archive:-",
            &naming,
            None,
            Some(&mut &*tar.bytes()),
        )
        .unwrap();
        let names = crate::names::Names::new(&shelf.store)
            .unwrap()
            .list()
            .unwrap();
        assert_eq!(names.len(), 1);
        assert_eq!(names[0].name, "docker.io/library/mine:latest");
    }
}

#[test]
fn d2_layouts_with_links() {
    let shelf = Shelf::new();
    let image = shelf.image(&archives(1), Compression::Gzip, false, &Platform::host());
    shelf.name("app", &image);
    let place = at(&shelf, "oci", "layout");
    let layout = path(&shelf, "layout");
    let keep = crate::recompress::Layers::Keep;
    save(&shelf, &[subject("app")], &place, keep, None).unwrap();
    let layer: Descriptor =
        serde_json::from_value(shelf.json(&image.digest)["layers"][0].clone()).unwrap();
    let blob = layout.join(format!("blobs/sha256/{}", layer.digest.hex()));
    let elsewhere = path(&shelf, "elsewhere");
    std::fs::rename(&blob, &elsewhere).unwrap();
    let fails = || {
        let to = Shelf::new();
        bring(&to, &place, &Naming::AsSaid, None, None).unwrap_err();
        assert_eq!(to.count().1, 0);
    };
    fails();
    std::os::unix::fs::symlink(&elsewhere, &blob).unwrap();
    fails();
    std::fs::remove_file(&blob).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &blob,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from(0o600),
        0,
    )
    .unwrap();
    fails();
    std::fs::remove_file(&blob).unwrap();
    let mut bytes = std::fs::read(&elsewhere).unwrap();
    bytes[60] ^= 4;
    std::fs::write(&blob, &bytes).unwrap();
    fails();
    bytes.push(0);
    std::fs::write(&blob, &bytes).unwrap();
    fails();
    // Writing does not follow links either.
    std::fs::remove_file(&blob).unwrap();
    let canary = path(&shelf, "canary");
    std::fs::write(&canary, archive("canary", 10, 1)).unwrap();
    std::os::unix::fs::symlink(&canary, &blob).unwrap();
    let before = std::fs::read(&canary).unwrap();
    let _ = save(&shelf, &[subject("app")], &place, keep, None);
    assert_eq!(std::fs::read(&canary).unwrap(), before);
    let blobs = layout.join("blobs");
    std::fs::rename(&blobs, path(&shelf, "moved")).unwrap();
    std::os::unix::fs::symlink(path(&shelf, "moved"), &blobs).unwrap();
    fails();
}
