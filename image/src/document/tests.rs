use super::*;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn descriptor(media_type: &str, more: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"sha256:{HEX}","size":2{more}}}"#)
}

fn manifest(config: &str, layer: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
        media::OCI_MANIFEST,
        descriptor(config, ""),
        descriptor(layer, "")
    )
}

fn index(entries: &[(&str, &str)]) -> Index {
    let entries: Vec<String> = entries
        .iter()
        .map(|(media_type, more)| descriptor(media_type, more))
        .collect();
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        entries.join(",")
    );
    match Document::read(text.as_bytes(), Some(media::OCI_INDEX)).unwrap() {
        Document::Index(index) => *index,
        Document::Manifest(_) => panic!("an index became a manifest"),
    }
}

fn refusal(text: &str, content_type: Option<&str>) -> String {
    Document::read(text.as_bytes(), content_type)
        .unwrap_err()
        .chain()
        .to_string()
}

#[test]
fn manifests_of_both_kinds() {
    let oci = manifest(media::OCI_CONFIG, media::OCI_LAYER_ZSTD);
    let docker = oci
        .replace(media::OCI_MANIFEST, media::DOCKER_MANIFEST)
        .replace(media::OCI_CONFIG, media::DOCKER_CONFIG)
        .replace(media::OCI_LAYER_ZSTD, media::DOCKER_LAYER_GZIP);
    for (text, compression) in [(&oci, Compression::Zstd), (&docker, Compression::Gzip)] {
        for announced in [None, Some("application/json")] {
            let Document::Manifest(manifest) = Document::read(text.as_bytes(), announced).unwrap()
            else {
                panic!("not a manifest")
            };
            manifest.check_image().unwrap();
            assert_eq!(manifest.layers[0].layer().unwrap(), compression);
            assert_eq!(manifest.layers[0].size, 2);
        }
    }
    let parameter = format!("{}; charset=utf-8", media::OCI_MANIFEST);
    Document::read(oci.as_bytes(), Some(&parameter)).unwrap();
}

#[test]
fn d8_confusion() {
    let fine = manifest(media::OCI_CONFIG, media::OCI_LAYER);
    let entry = descriptor(media::OCI_MANIFEST, "");
    let head = fine.trim_end_matches('}').trim_end_matches(']');
    let both = format!(r#"{head}],"manifests":[{entry}]}}"#);
    for announced in [None, Some(media::OCI_MANIFEST)] {
        assert!(refusal(&both, announced).contains("do not fit"));
    }
    let other = both.replacen(media::OCI_MANIFEST, media::OCI_INDEX, 1);
    for announced in [None, Some(media::OCI_INDEX)] {
        assert!(refusal(&other, announced).contains("do not fit"));
    }
    assert!(refusal(&fine, Some(media::OCI_INDEX)).contains("was announced as"));
    assert!(refusal(&fine, Some("text/html")).contains("was announced as"));
    let lying = fine.replacen(media::OCI_MANIFEST, media::OCI_INDEX, 1);
    assert!(refusal(&lying, None).contains("do not fit"));
    let twice = fine.replacen(r#""layers""#, r#""layers":[],"layers""#, 1);
    assert!(refusal(&twice, None).contains("twice"));
    for key in ["Layers", "LAYERS", "Manifests", "MediaType", "Config"] {
        let added = fine.replacen('{', &format!(r#"{{"{key}":[],"#), 1);
        assert!(refusal(&added, None).contains(key), "{key}");
    }
    let blobs = fine.replacen('{', r#"{"blobs":[],"#, 1);
    assert!(refusal(&blobs, None).contains("do not fit"));
}

#[test]
fn d9_digests_and_sizes() {
    let fine = manifest(media::OCI_CONFIG, media::OCI_LAYER);
    let digest = format!("sha256:{HEX}");
    for wrong in [
        "sha256:../../../etc/passwd".to_owned(),
        digest.to_uppercase(),
        format!("md5:{HEX}"),
        digest[..70].to_owned(),
        format!("{digest}0"),
        String::new(),
    ] {
        let text = fine.replacen(&digest, &wrong, 1);
        assert!(refusal(&text, None).contains("invalid digest"), "{wrong}");
    }
    for wrong in ["-1", "1.5", "\"2\"", "1e3", "18446744073709551616", "null"] {
        let text = fine.replacen(r#""size":2"#, &format!(r#""size":{wrong}"#), 1);
        assert!(
            refusal(&text, None).contains("not an image manifest"),
            "{wrong}"
        );
    }
}

#[test]
fn d10_a_million_descriptors_are_refused_unread() {
    let entry = descriptor(media::OCI_MANIFEST, "");
    let entries = vec![entry; 1_000_000].join(",");
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#);
    assert!(refusal(&text, None).contains("is the limit"));
}

#[test]
fn what_is_not_an_image() {
    let old = r#"{"schemaVersion":1,"name":"a","fsLayers":[{"blobSum":"x"}]}"#;
    assert!(refusal(old, None).contains("schema 1"));
    assert!(refusal(r#"{"schemaVersion":3}"#, None).contains("schemaVersion 3"));
    assert!(refusal("[]", None).contains("not an image manifest"));
    assert!(refusal("<html>", None).contains("all readers"));
    let check = |text: &str| match Document::read(text.as_bytes(), None).unwrap() {
        Document::Manifest(manifest) => manifest.check_image().unwrap_err().to_string(),
        Document::Index(_) => panic!("not a manifest"),
    };
    let chart = manifest(
        "application/vnd.cncf.helm.config.v1+json",
        "application/x-helm",
    );
    assert!(check(&chart).contains("helm.config.v1+json\" and not an image"));
    let typed = manifest(media::OCI_EMPTY, "application/x").replacen(
        '{',
        r#"{"artifactType":"application/x-sbom","#,
        1,
    );
    assert!(check(&typed).contains("application/x-sbom"));
    let secret = manifest(
        media::OCI_CONFIG,
        &format!("{}+encrypted", media::OCI_LAYER_GZIP),
    );
    assert!(check(&secret).contains("is encrypted"));
    let unknown = manifest(media::OCI_CONFIG, "application/x-squashfs");
    assert!(check(&unknown).contains("unknown media type \"application/x-squashfs\""));
}

#[test]
fn foreign_layers_are_known_as_such() {
    for name in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    ] {
        let text = descriptor(name, r#","urls":["https://evil.example/x"]"#);
        let layer: Descriptor = serde_json::from_str(&text).unwrap();
        assert_eq!(layer.layer().unwrap(), Compression::Gzip);
        assert!(layer.is_foreign());
    }
}

#[test]
fn selects_by_platform() {
    let amd: Platform = "linux/amd64/v3".parse().unwrap();
    let for_platform = |text: &str| format!(r#","platform":{text}"#);
    let amd64 = for_platform(r#"{"os":"linux","architecture":"amd64"}"#);
    let arm = for_platform(r#"{"os":"linux","architecture":"arm","variant":"v7"}"#);
    let unknown = for_platform(r#"{"os":"unknown","architecture":"unknown"}"#);
    let manifest = media::OCI_MANIFEST;
    let all = index(&[(manifest, &unknown), (manifest, &arm), (manifest, &amd64)]);
    assert_eq!(all.select(&amd).unwrap(), &all.manifests[2]);
    let none = index(&[(manifest, &unknown), (manifest, &arm)]);
    let error = none.select(&amd).unwrap_err().to_string();
    assert_eq!(
        error,
        "no image for platform linux/amd64/v3: the index has linux/arm/v7"
    );
    let plain = index(&[(manifest, &unknown), (manifest, "")]);
    assert_eq!(plain.select(&amd).unwrap(), &plain.manifests[1]);
    let empty = index(&[]);
    assert!(
        empty
            .select(&amd)
            .unwrap_err()
            .to_string()
            .ends_with("has no platform")
    );
}

#[test]
fn configuration() {
    let id = format!("sha256:{HEX}");
    let text = format!(
        r#"{{"architecture":"arm64","os":"linux","created":"2026-01-01T00:00:00Z","config":{{
        "Env":["A=b"],"Cmd":null,"Entrypoint":["/x"],"User":"1:2","WorkingDir":"/w",
        "Volumes":{{"/v":{{}}}},"ExposedPorts":{{"80/tcp":{{}}}},"StopSignal":"SIGQUIT",
        "Labels":{{"a":"b","A":"c"}},"Healthcheck":{{"Test":["NONE"],"Interval":5}},
        "Shell":["/bin/sh","-c"],"Hostname":""}},"rootfs":{{"type":"layers","diff_ids":["{id}"]}},
        "history":[{{"created_by":"x","empty_layer":true}}],"docker_version":"1"}}"#
    );
    let config = ImageConfig::read(text.as_bytes()).unwrap();
    assert_eq!(config.platform().to_string(), "linux/arm64");
    assert_eq!(config.config.volumes, ["/v"]);
    assert_eq!(config.config.exposed_ports, ["80/tcp"]);
    assert!(config.config.cmd.is_empty());
    assert_eq!(config.config.labels.len(), 2);
    assert_eq!(config.config.healthcheck.as_ref().unwrap().interval, 5);
    assert!(config.history[0].empty_layer);
    config.check_layers(1).unwrap();
    config.check_layers(2).unwrap_err();
    let none = r#"{"rootfs":{"type":"layers","diff_ids":null},"config":null,"history":null}"#;
    assert!(
        ImageConfig::read(none.as_bytes())
            .unwrap()
            .rootfs
            .diff_ids
            .is_empty()
    );
    for (from, to, words) in [
        (id.as_str(), "sha256:1", "invalid digest"),
        (r#""type":"layers""#, r#""type":"x""#, "unknown rootfs"),
        (r#""Env""#, r#""ENV""#, "other letters"),
        (r#""Env""#, r#""Env":[],"Env""#, "twice"),
    ] {
        let text = text.replacen(from, to, 1);
        let error = ImageConfig::read(text.as_bytes())
            .unwrap_err()
            .chain()
            .to_string();
        assert!(error.contains(words), "{error}");
    }
}
