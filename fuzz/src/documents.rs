//! Documents of images and caches, databases of packages, names.

use std::fmt::Display;
use std::str::FromStr;

use rcrun_builder::attest::sbom::{self, Found, Subject};
use rcrun_builder::context::git;
use rcrun_builder::remote::Known;
use rcrun_image::document::{Document, ImageConfig};
use rcrun_image::layout;
use rcrun_image::platform::Platform;
use rcrun_image::reference::Reference;
use rcrun_overlay::Digest;

use crate::{bytes_of, halves};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A manifest or an index, and a layout's.
pub fn manifest(input: &[u8]) {
    match Document::read(input, None) {
        Ok(Document::Index(index)) => {
            let _ = index.select(&Platform::host());
            assert!(index.media_type.contains("json"));
        }
        Ok(Document::Manifest(manifest)) => {
            let _ = manifest.check_image();
            for layer in &manifest.layers {
                let _ = (layer.layer(), layer.is_foreign());
            }
        }
        Err(error) => assert!(!error.to_string().is_empty(), "an error says why"),
    }
    if let Ok(entries) = layout::entries(input) {
        for entry in &entries {
            for name in layout::names(entry) {
                reads_again(&name);
            }
        }
        for name in [None, Some("latest"), Some("@sha256:0")] {
            let _ = layout::choose(&entries, name, &Platform::host());
        }
    }
}

/// Documents of all kinds.
pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let entry = |kind: &str, more: &str| {
        format!(r#"{{"mediaType":"{kind}","digest":"{DIGEST}","size":7{more}}}"#)
    };
    let config = entry("application/vnd.oci.image.config.v1+json", "");
    let layers = [
        entry(
            "application/vnd.oci.image.layer.v1.tar+gzip",
            r#","annotations":{"a":"b"}"#,
        ),
        entry(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            r#","urls":["https://h/x"]"#,
        ),
    ]
    .join(",");
    let platform = r#","platform":{"os":"linux","architecture":"arm64","variant":"v8","os.version":"1","os.features":["x"]}"#;
    let image = entry("application/vnd.oci.image.manifest.v1+json", platform);
    let named = entry(
        "application/vnd.oci.image.manifest.v1+json",
        r#","annotations":{"org.opencontainers.image.ref.name":"latest","io.containerd.image.name":"docker.io/library/a:b"}"#,
    );
    bytes_of(&[
        &format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[{layers}],"annotations":{{"x":"y"}},"subject":{config},"artifactType":"a/b"}}"#
        ),
        &format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{config},"layers":[]}}"#
        ),
        &format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{image},{named}]}}"#
        ),
        r#"{"schemaVersion":1,"fsLayers":[],"name":"x"}"#,
    ])
}

/// An image's configuration.
pub fn config(input: &[u8]) {
    if let Ok(config) = ImageConfig::read(input) {
        let layers = config.rootfs.diff_ids.len();
        let _ = (config.check_layers(layers), config.check_layers(layers + 1));
        let _ = config.platform().to_string();
    }
}

/// With all fields.
pub fn config_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        &format!(
            r#"{{"created":"2026-01-02T03:04:05Z","author":"a","architecture":"amd64","os":"linux","variant":"v1","config":{{"User":"1:2","ExposedPorts":{{"80/tcp":{{}}}},"Env":["A=b"],"Entrypoint":["x"],"Cmd":["y"],"Volumes":{{"/v":{{}}}},"WorkingDir":"/w","Labels":{{"l":"m"}},"StopSignal":"TERM","Healthcheck":{{"Test":["CMD","x"],"Interval":1000000000,"Retries":3}},"OnBuild":["RUN x"],"Shell":["sh"]}},"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},"history":[{{"created_by":"x","empty_layer":true}},{{"created_by":"y"}}]}}"#
        ),
        r#"{"rootfs":{"type":"layers","diff_ids":null},"config":null,"history":null}"#,
    ])
}

/// A cache's manifest and its records; also as those in an image.
pub fn cache(input: &[u8]) {
    let (manifest, records) = halves(input);
    let Ok(Document::Manifest(manifest)) = Document::read(manifest, None) else {
        return;
    };
    let mut known = Known::default();
    if known.add(&manifest, records).is_ok() {
        let key = Digest::of(b"key");
        let _ = (known.step(&key, None), known.mount(&key));
        for layer in &manifest.layers {
            known.forget(0, &layer.digest);
        }
        assert!(known.step(&key, None).is_none());
    }
}

/// One of a registry, and one in an image.
pub fn cache_seeds() -> Vec<Vec<u8>> {
    let key = Digest::of(b"key");
    let manifest = |config: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"{config}","digest":"{DIGEST}","size":7}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{DIGEST}","size":7}}]}}"#
        )
    };
    let record = format!(
        r#"{{"key":"{key}","means":"{key}","layer":0,"diffId":"{DIGEST}","text":"RUN x","took":5,"epoch":-1}}"#
    );
    let mount = format!(r#"{{"name":"{key}","layer":0,"diffId":"{DIGEST}"}}"#);
    let records = format!(r#"{{"version":1,"level":9,"records":[{record}],"mounts":[{mount}]}}"#);
    bytes_of(&[
        &format!(
            "{}\0{records}",
            manifest("application/vnd.rcrun.buildcache.config.v1+json")
        ),
        &format!(
            "{}\0{{\"rcrun.buildcache.v1\":{records},\"rootfs\":{{\"diff_ids\":[\"{DIGEST}\"]}}}}",
            manifest("application/vnd.oci.image.config.v1+json")
        ),
        &format!(
            "{}\0{{}}",
            manifest("application/vnd.buildkit.cacheconfig.v0")
        ),
    ])
}

/// Databases of packages, and the document that is made of them.
pub fn packages(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut found = Found {
        distribution: sbom::os_release(&text, "ID"),
        version: sbom::os_release(&text, "VERSION_ID"),
        ..Found::default()
    };
    found.packages.extend(sbom::dpkg(&text, "status"));
    found.packages.extend(sbom::apk(&text, "installed"));
    found.packages.extend(sbom::python(&text, "METADATA"));
    found.packages.extend(sbom::node(&text, "package.json"));
    let subject = Subject {
        name: "image",
        digest: &Digest::of(b"m"),
        image: input.len().is_multiple_of(2),
    };
    let document = sbom::document(&found, &subject, 0);
    let listed = document["packages"].as_array().map_or(0, Vec::len);
    assert!(listed <= found.packages.len() + 1, "each once");
    assert!(serde_json::to_vec(&document).is_ok());
}

/// Of all kinds.
pub fn package_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc (1)\nVersion: 1:2.36-9+deb12u9\nDescription: x\n y\n\nPackage: b\nVersion: 1\n",
        "C:Q1x=\nP:musl\nV:1.2.5-r0\nA:x86_64\no:musl\n\nP:libcrypto3\nV:3.3\no:openssl\n",
        "Metadata-Version: 2.1\nName: Flask_Cors\nVersion: 4.0\n\nbody\n",
        r#"{"name":"@a/b","version":"1.0.0","x":[1,{"y":null}]}"#,
        "NAME=x\nID=debian\nVERSION_ID=\"12\"\n",
    ])
}

/// Names that people and documents give.
pub fn names(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    same::<Reference>(text);
    same::<Digest>(text);
    same::<Platform>(text);
    if let Ok(Some(address)) = git::parse(text) {
        assert!(
            !address.remote.starts_with('-'),
            "no option of git: {text:?}"
        );
    }
}

/// What is read and shown is the same when it is read again.
fn same<T: FromStr + Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        reads_again(&value);
    }
}

fn reads_again<T: FromStr + Display>(value: &T) {
    let shown = value.to_string();
    let again = shown.parse::<T>().ok().map(|value| value.to_string());
    assert_eq!(again, Some(shown));
}

/// Of all forms.
pub fn name_seeds() -> Vec<Vec<u8>> {
    let mut seeds = bytes_of(&[
        "alpine",
        "localhost:5000/a/b__c-d.e:tag_1.2-x",
        "[::1]:5000/a",
        "docker.io/library/a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "index.docker.io/a:b",
        "linux/arm64/v8",
        "windows(10.0.1)/amd64",
        "linux/arm/v7",
        "amd64",
        "https://github.com/a/b.git#v1:sub/dir",
        "git@github.com:a/b.git#refs/heads/x",
        "ssh://u@h:22/p.git?ref=main&subdir=x&checksum=abc",
        "git://h/p#0123456789abcdef0123456789abcdef01234567",
    ]);
    seeds.push(DIGEST.into());
    seeds
}
