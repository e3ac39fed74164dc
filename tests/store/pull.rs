//! `pull`: what arrives, what is printed, what is not fetched twice.

use crate::harness::store::{Image, archive, noise};
use crate::harness::{Env, Shelf, Test, test};
use rcrun_image::registry::testing::{Answer, Fault};
use serde_json::json;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(an_image_arrives_whole),
        test!(what_is_there_is_not_fetched_again),
        test!(quiet_prints_the_name_only),
        test!(a_moved_tag_keeps_the_old_image_by_its_digest),
        test!(platforms_of_one_name),
        test!(all_platforms_of_one_name),
        test!(waits_are_told),
        test!(by_digest),
        test!(all_tags),
        test!(several_at_once_and_one_that_fails),
        test!(a_mirror_and_its_own_certificate_authority),
    ]
}

fn an_image_arrives_whole(env: &Env) {
    let shelf = Shelf::new(env);
    let image = Image::new(&[
        archive(&[("etc/", b""), ("etc/passwd", b"root"), ("gone", b"x")]),
        archive(&[(".wh.gone", b""), ("big", &noise(5 << 20, 1))]),
    ]);
    let published = shelf.publish("a/app:1", &image);
    let name = shelf.name("a/app:1");
    let output = shelf.call(&["pull", &name]).ok();
    assert_eq!(output.text(), name);
    for said in [
        "2 layers, 5.25MB",
        "fetched 5.24MB",
        ": unpacked",
        &format!("Digest: {}", published.manifest),
        &format!("Status: Downloaded newer image for {name}"),
    ] {
        assert!(output.stderr.contains(said), "{said}\n{output}");
    }
    assert!(!output.stderr.contains('\x1b'), "{output}");
    assert_eq!(shelf.counts(), (4, 2, 1));
    let inspected = shelf.call(&["inspect", &name]).ok().json();
    let lower = inspected[0]["GraphDriver"]["Data"]["LowerDir"].as_str();
    let top = std::path::Path::new(lower.unwrap().split(':').next().unwrap());
    assert_eq!(std::fs::read(top.join("big")).unwrap(), noise(5 << 20, 1));
    use std::os::unix::fs::FileTypeExt as _;
    let whiteout = std::fs::symlink_metadata(top.join("gone")).unwrap();
    assert!(whiteout.file_type().is_char_device());
}

fn what_is_there_is_not_fetched_again(env: &Env) {
    let shelf = Shelf::new(env);
    shelf.publish("app", &Image::with_file("a", b"b"));
    let name = shelf.name("app");
    shelf.ok(&["pull", &name]);
    let before = shelf.registry.seen_of("*", "/blobs/").len();
    let again = shelf.call(&["pull", &name]).ok();
    again
        .says("Status: Image is up to date for")
        .says("Using default tag: latest");
    assert_eq!(shelf.registry.seen_of("*", "/blobs/").len(), before);
}

fn quiet_prints_the_name_only(env: &Env) {
    let shelf = Shelf::new(env);
    shelf.publish("app", &Image::with_file("a", b"b"));
    let output = shelf.call(&["pull", "-q", &shelf.name("app")]).ok();
    assert_eq!(output.text(), shelf.name("app:latest"));
    assert_eq!(output.stderr, "");
}

fn a_moved_tag_keeps_the_old_image_by_its_digest(env: &Env) {
    let shelf = Shelf::new(env);
    let old = shelf.publish("app", &Image::with_file("a", b"old"));
    let name = shelf.name("app");
    shelf.ok(&["pull", &name]);
    let new = shelf.publish("app", &Image::with_file("a", b"new"));
    shelf.ok(&["pull", &name]);
    let mut lines = shelf.lines(&["images", "--no-trunc", "--format", "{Tag} {ID}"]);
    lines.sort();
    assert_eq!(
        lines,
        [format!("<none> {}", old.id), format!("latest {}", new.id)]
    );
    let dangling = shelf.lines(&["images", "-q", "--no-trunc", "-f", "dangling=true"]);
    assert_eq!(dangling, std::slice::from_ref(&old.id));
    let pruned = shelf.ok(&["prune", "-f"]);
    assert!(pruned.contains(&format!("Deleted: {}", old.id)), "{pruned}");
    assert_eq!(shelf.lines(&["images", "-q", "--no-trunc"]), [new.id]);
    assert_eq!(shelf.counts(), (3, 1, 1));
}

fn platforms_of_one_name(env: &Env) {
    let shelf = Shelf::new(env);
    let host = Image::with_file("a", b"host");
    let mut other = Image::with_file("a", b"other");
    other.platform = ("linux", "s390x");
    let host_arch = host.platform.1;
    let (one, two) = (
        shelf.publish("app:h", &host),
        shelf.publish("app:o", &other),
    );
    let index = shelf.publish_index("app", &[(&two, "s390x"), (&one, host_arch)]);
    let name = shelf.name("app");
    shelf.ok(&["pull", "-q", &name]);
    let ids = || shelf.lines(&["images", "-aq", "--no-trunc"]);
    assert_eq!(ids(), std::slice::from_ref(&one.id));
    shelf.ok(&["pull", "-q", "--platform", "linux/s390x", &name]);
    assert_eq!(ids().len(), 2);
    let own = [
        "images",
        "--no-trunc",
        "--format",
        "{ID} {Digest} {Platform}",
    ];
    let line = format!("{} {index} linux/{host_arch}", one.id);
    assert_eq!(shelf.lines(&own), [line]);
    let shown = shelf.lines(&["inspect", "--format", "{Architecture}", &two.id[7..20]]);
    assert_eq!(shown, ["s390x"]);
    shelf
        .call(&["pull", "--platform", "linux/riscv64", &name])
        .exits(1)
        .says("no image for platform linux/riscv64: the index has linux/s390x");
    shelf
        .call(&["pull", "--platform", "a/b/c/d", &name])
        .exits(1)
        .says("invalid platform");
    // One name, so all of it goes at once.
    shelf.ok(&["rmi", &name]);
    assert_eq!(shelf.counts(), (0, 0, 0));
}

fn all_platforms_of_one_name(env: &Env) {
    let shelf = Shelf::new(env);
    let own = Image::with_file("a", b"ours");
    let other = Image {
        platform: ("linux", "s390x"),
        ..Image::with_file("a", b"theirs")
    };
    let one = shelf.publish("app:one", &own);
    let two = shelf.publish("app:two", &other);
    let entries = [(&two, "s390x"), (&one, own.platform.1)];
    let index = shelf.publish_index("app", &entries);
    let name = shelf.name("app");
    for option in [&["--all-platforms"][..], &["--platform", "all"]] {
        let arguments = [&["pull"], option, &[&name]].concat();
        shelf
            .call(&arguments)
            .ok()
            .says(&format!("Digest: {index}"));
        // Two images of a manifest, a configuration and a layer each; ours is unpacked.
        assert_eq!(shelf.counts(), (7, 1, 1));
    }
    for layer in [&one.layers[0], &two.layers[0]] {
        assert_eq!(shelf.registry.seen_of("GET", &layer.to_string()).len(), 1);
    }
    shelf.ok(&["prune", "-f"]);
    assert_eq!(shelf.counts().0, 7);
    // It is whole: what goes out again is the same.
    let copy = shelf.name("copy:1");
    assert_eq!(shelf.ok(&["push", "-q", &name, &copy]).trim(), index);
    shelf.ok(&["rmi", &name]);
    // None of them is for this machine.
    shelf.publish_index("foreign", &[(&two, "s390x")]);
    shelf.registry.add_manifest(
        "foreign",
        "two",
        rcrun_image::document::media::OCI_MANIFEST,
        &shelf.registry.manifest("app", "two").unwrap(),
    );
    for blob in [&two.id.parse().unwrap(), &two.layers[0]] {
        let bytes = shelf.registry.blob("app", blob).unwrap();
        shelf.registry.add_blob("foreign", &bytes);
    }
    let foreign = shelf.name("foreign");
    shelf.call(&["pull", &foreign]).fails().says("s390x");
    shelf.ok(&["pull", "--all-platforms", &foreign]);
    assert_eq!(shelf.counts(), (4, 0, 1));
    let both = [
        "pull",
        "--all-platforms",
        "--platform",
        "linux/s390x",
        &name,
    ];
    assert_ne!(shelf.call(&both).code, 0);
}

fn waits_are_told(env: &Env) {
    let shelf = Shelf::new(env);
    shelf.publish("app", &Image::with_file("a", b"b"));
    let name = shelf.name("app");
    let busy = || Fault::Answer(Answer::new(503, "").with("Retry-After", 1));
    shelf.registry.fault("GET", "/manifests/", 1, busy());
    let output = shelf.call(&["pull", &name]).ok();
    let host = shelf.registry.host();
    let line =
        format!("retrying in 1 s: cannot fetch the manifest latest of app: {host} answers 503");
    assert!(output.stderr.contains(&line), "{output}");
    shelf.ok(&["rmi", &name]);
    shelf.registry.fault("GET", "/manifests/", 1, busy());
    assert_eq!(shelf.call(&["pull", "-q", &name]).ok().stderr, "");
}

fn by_digest(env: &Env) {
    let shelf = Shelf::new(env);
    let image = shelf.publish("app", &Image::with_file("a", b"b"));
    let name = format!("{}@{}", shelf.name("app"), image.manifest);
    shelf.ok(&["pull", "-q", &name]);
    let line = shelf.lines(&["images", "--format", "{Repository} {Tag} {Digest}"]);
    assert_eq!(
        line,
        [format!("{} <none> {}", shelf.name("app"), image.manifest)]
    );
    let wrong = format!("{}@sha256:{}", shelf.name("app"), "0".repeat(64));
    shelf.call(&["pull", &wrong]).exits(1).says("not found");
    assert_eq!(shelf.ok(&["rmi", &name]).lines().count(), 3);
    assert_eq!(shelf.counts(), (0, 0, 0));
}

fn all_tags(env: &Env) {
    let shelf = Shelf::new(env);
    for tag in ["1", "2", "3"] {
        shelf.publish(
            &format!("app:{tag}"),
            &Image::with_file("a", tag.as_bytes()),
        );
    }
    let output = shelf.call(&["pull", "-a", &shelf.name("app")]).ok();
    let expected: String = (1..=3)
        .map(|tag| shelf.name(&format!("app:{tag}\n")))
        .collect();
    assert_eq!(output.stdout, expected);
    shelf
        .call(&["pull", "-a", &shelf.name("app:1")])
        .exits(1)
        .says("--all-tags takes a repository's name");
}

fn several_at_once_and_one_that_fails(env: &Env) {
    let shelf = Shelf::new(env);
    for name in ["one", "two"] {
        shelf.publish(name, &Image::with_file("a", name.as_bytes()));
    }
    let (one, none, two) = (shelf.name("one"), shelf.name("none"), shelf.name("two"));
    let output = shelf.call(&["pull", "-q", &one, &none, &two]).exits(1);
    assert_eq!(output.text().lines().count(), 2, "{output}");
    output.says("none:latest");
    assert_eq!(shelf.counts().2, 2);
}

fn a_mirror_and_its_own_certificate_authority(env: &Env) {
    use rcrun_image::registry::testing::{Authority, Setup};
    let authority = Authority::new();
    let setup = Setup {
        tls: Some(authority.server(None)),
        ..Setup::default()
    };
    let shelf = Shelf::with(env, setup);
    shelf.publish("hub/library/app", &Image::with_file("a", b"b"));
    let certificate = env.path("ca.pem");
    std::fs::write(&certificate, authority.pem()).unwrap();
    let mirror = format!(
        "localhost:{}",
        shelf.registry.host().rsplit(':').next().unwrap()
    );
    shelf.settings(&json!({"registries": {
        "docker.io": {"mirrors": [{"host": format!("{mirror}/hub")}]},
        mirror.clone(): {"ca": [certificate]},
    }}));
    assert_eq!(
        shelf.ok(&["pull", "-q", "app"]),
        "docker.io/library/app:latest\n"
    );
    assert_eq!(
        shelf.lines(&["images", "--format", "{Repository}"]),
        ["app"]
    );
    // Without the setting it is not trusted, and the error says what to set.
    shelf.settings(&json!({}));
    shelf
        .call(&["pull", &format!("{mirror}/hub/library/app")])
        .exits(1)
        .says("certificate")
        .says(&format!(
            "hint: name the authority's file as registries.\"{mirror}\".ca"
        ));
}
