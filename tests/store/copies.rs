//! `push`, `save`, `load`, and pulls from layouts and archives.

use crate::harness::store::{Image, archive, noise};
use crate::harness::{Env, Shelf, Test, test};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(push_to_another_name),
        test!(save_and_load),
        test!(layouts_and_archives),
        test!(what_is_refused),
    ]
}

fn pulled<'a>(env: &'a Env) -> (Shelf<'a>, crate::harness::store::Published) {
    let shelf = Shelf::new(env);
    let layers = [
        archive(&[("a", &noise(100_000, 1))]),
        archive(&[("b", b"c")]),
    ];
    let image = shelf.publish("app:1", &Image::new(&layers));
    shelf.ok(&["pull", "-q", &shelf.name("app:1")]);
    (shelf, image)
}

fn push_to_another_name(env: &Env) {
    let (shelf, image) = pulled(env);
    let (from, to) = (shelf.name("app:1"), shelf.name("other/name:2"));
    assert_eq!(
        shelf.ok(&["push", &from, &to]),
        format!("{}\n", image.manifest)
    );
    shelf.ok(&["tag", &from, &shelf.name("third:3")]);
    shelf.ok(&["push", &shelf.name("third:3")]);
    shelf.ok(&["rmi", "-f", &image.id]);
    shelf.ok(&["pull", "-q", &to]);
    let id = shelf.ok(&["inspect", "--format", "{Id}", &to]);
    assert_eq!(id.trim(), image.id);
    shelf
        .call(&["push", &image.id])
        .exits(1)
        .says("it is not a name, so say where to");
}

fn save_and_load(env: &Env) {
    let (shelf, image) = pulled(env);
    let name = shelf.name("app:1");
    for format in ["docker", "oci"] {
        let file = env.path(&format!("{format}.tar"));
        let file = file.to_str().unwrap();
        shelf.ok(&["save", "--format", format, "-o", file, &name]);
        shelf.ok(&["rmi", &name]);
        assert_eq!(shelf.counts(), (0, 0, 0));
        let said = shelf.ok(&["load", "-i", file]);
        assert_eq!(said, format!("Loaded image: {name}\n"), "{format}");
        let id = shelf.ok(&["inspect", "--format", "{Id}", &name]);
        assert_eq!(id.trim(), image.id, "{format}");
        assert_eq!(shelf.counts().1, 2);
        shelf.ok(&["fsck", "-q"]);
    }
}

fn layouts_and_archives(env: &Env) {
    let (shelf, image) = pulled(env);
    let name = shelf.name("app:1");
    let dir = env.path("layout");
    for place in [
        format!("oci:{}:x", dir.display()),
        format!("oci-archive:{}:x", env.path("a.tar").display()),
    ] {
        shelf.ok(&["push", &name, &place]);
        shelf.ok(&["pull", "-q", &place]);
        let id = shelf.ok(&["inspect", "--format", "{Id}", &image.id]);
        assert_eq!(id.trim(), image.id, "{place}");
    }
    assert!(dir.join("index.json").exists());
}

fn what_is_refused(env: &Env) {
    let (shelf, _) = pulled(env);
    shelf
        .call(&["load", "-i", "/nonexistent"])
        .exits(1)
        .says("cannot open /nonexistent");
    shelf.call(&["load"]).exits(1).says("cannot load");
    shelf
        .call(&["save", "nothing"])
        .exits(1)
        .says("no such image: nothing");
    shelf
        .call(&["push", "nothing"])
        .exits(1)
        .says("no such image: nothing");
    shelf
        .call(&["push", "--compression", "lzma", "a"])
        .exits(1)
        .says("use one of gzip, zstd");
    assert_eq!(shelf.counts(), (4, 2, 1));
}
