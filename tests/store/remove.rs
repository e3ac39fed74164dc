//! `rmi` and `prune`: what goes, what stays, what is said.

use crate::harness::people::People;
use crate::harness::store::{Image, archive, noise};
use crate::harness::{Env, Shelf, Test, test};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(the_last_name_takes_the_image_with_it),
        test!(shared_layers_stay),
        test!(several_names),
        test!(by_identifier),
        test!(what_a_container_uses_stays),
        test!(one_that_is_not_there),
        test!(prune_asks),
        test!(prune_all_and_by_filter),
        test!(an_image_that_cannot_be_read_can_be_removed),
    ]
}

fn the_last_name_takes_the_image_with_it(env: &Env) {
    let shelf = Shelf::new(env);
    let image = shelf.publish("app:1", &Image::with_file("a", b"b"));
    let name = shelf.name("app:1");
    shelf.ok(&["pull", "-q", &name]);
    let said = shelf.ok(&["rmi", &name]);
    let expected = [
        format!("Untagged: {name}"),
        format!("Untagged: {}@{}", shelf.name("app"), image.manifest),
        format!("Deleted: {}", image.id),
        format!("Deleted: {}", image.layers[0]),
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    assert_eq!(shelf.counts(), (0, 0, 0));
}

fn shared_layers_stay(env: &Env) {
    let shelf = Shelf::new(env);
    let shared = archive(&[("big", &noise(400_000, 9))]);
    for n in ["1", "2"] {
        let own = archive(&[("own", n.as_bytes())]);
        let name = format!("app:{n}");
        shelf.publish(&name, &Image::new(&[shared.clone(), own]));
        shelf.ok(&["pull", "-q", &shelf.name(&name)]);
    }
    assert_eq!(shelf.counts(), (7, 3, 2));
    let said = shelf.ok(&["rmi", &shelf.name("app:1")]);
    assert_eq!(
        said.lines()
            .filter(|line| line.starts_with("Deleted"))
            .count(),
        2,
        "{said}"
    );
    assert_eq!(shelf.counts(), (4, 2, 1));
    // What is left is whole.
    assert_eq!(shelf.call(&["fsck", "-q"]).code, 0);
    let before = shelf.registry.seen_of("GET", "/blobs/").len();
    shelf.ok(&["pull", "-q", &shelf.name("app:2")]);
    assert_eq!(shelf.registry.seen_of("GET", "/blobs/").len(), before);
}

fn several_names(env: &Env) {
    let shelf = Shelf::new(env);
    let image = shelf.publish("app:1", &Image::with_file("a", b"b"));
    let name = shelf.name("app:1");
    shelf.ok(&["pull", "-q", &name]);
    shelf.ok(&["tag", &name, "mine"]);
    assert_eq!(shelf.ok(&["rmi", &name]), format!("Untagged: {name}\n"));
    assert_eq!(shelf.counts(), (3, 1, 1));
    shelf.ok(&["tag", "mine", "other:2"]);
    shelf
        .call(&["rmi", &image.id])
        .exits(1)
        .says(
            "the image has several names: docker.io/library/mine:latest, docker.io/library/other:2",
        )
        .says("hint: remove it by its names, or with --force");
    assert_eq!(shelf.counts(), (3, 1, 2));
    let said = shelf.ok(&["rmi", "-f", &image.id]);
    assert!(
        said.contains("Untagged: mine:latest\nUntagged: other:2\n"),
        "{said}"
    );
    assert_eq!(shelf.counts(), (0, 0, 0));
}

fn by_identifier(env: &Env) {
    let shelf = Shelf::new(env);
    let image = shelf.publish("app:1", &Image::with_file("a", b"b"));
    for spelt in [
        &image.id[..],
        &image.id[7..],
        &image.id[7..12],
        &image.manifest,
    ] {
        shelf.ok(&["pull", "-q", &shelf.name("app:1")]);
        shelf.ok(&["rmi", spelt]);
        assert_eq!(shelf.counts(), (0, 0, 0), "{spelt}");
    }
}

fn what_a_container_uses_stays(env: &Env) {
    let people = People::new(env);
    let shelf = &people.shelf;
    people.run(&["--name=web"], &["true"]).ok();
    let name = shelf.name("app:latest");
    let image = shelf.ok(&["inspect", "--format", "{Id}", &name]);
    let record = people.containers().remove(0).join("container.json");
    let id = record.parent().unwrap().file_name().unwrap();
    let id = &id.to_str().unwrap()[..12];
    shelf
        .call(&["rmi", &name])
        .exits(1)
        .says(&format!("container {id} (web) uses the image"))
        .says("hint: `rcrun rm web`");
    assert_eq!(shelf.ok(&["images", "--format", "{Containers}"]), "1\n");
    shelf.ok(&["rmi", "-f", &name]);
    shelf.ok(&["prune", "-a", "-f"]);
    assert_eq!(
        shelf.counts(),
        (3, 1, 0),
        "all that the container was made from"
    );
    assert_eq!(
        shelf.ok(&["images", "--format", "{Repository}:{Tag}"]),
        "<none>:<none>\n"
    );
    shelf.ok(&["tag", image.trim_end(), "again"]);
    shelf.ok(&["rmi", "-f", "again"]);
    // A record that cannot be read may need anything.
    let whole = std::fs::read(&record).unwrap();
    std::fs::write(&record, "{").unwrap();
    shelf
        .call(&["prune", "-f"])
        .exits(1)
        .says("cannot tell which image container");
    assert_eq!(shelf.counts(), (3, 1, 0));
    std::fs::write(&record, whole).unwrap();
    people.remove("web");
    shelf.ok(&["prune", "-f"]);
    assert_eq!(shelf.counts(), (0, 0, 0));
}

fn one_that_is_not_there(env: &Env) {
    let shelf = Shelf::new(env);
    shelf.publish("app:1", &Image::with_file("a", b"b"));
    let name = shelf.name("app:1");
    shelf.ok(&["pull", "-q", &name]);
    shelf
        .call(&["rmi", "nothing", &name])
        .exits(1)
        .says("no such image: nothing");
    assert_eq!(shelf.counts(), (0, 0, 0), "the other one is gone");
}

fn prune_asks(env: &Env) {
    let shelf = Shelf::new(env);
    shelf.publish("app:1", &Image::with_file("a", b"b"));
    shelf.ok(&["pull", "-q", &shelf.name("app:1")]);
    shelf
        .call(&["prune", "-a"])
        .exits(1)
        .says("nothing was removed: it was not confirmed")
        .says("hint: --force");
    assert_eq!(shelf.counts(), (3, 1, 1));
    let answer = env.path("answer");
    std::fs::write(&answer, "y\n").unwrap();
    let mut command = shelf.command(&["prune", "-a"]);
    command.stdin(std::fs::File::open(answer).unwrap());
    let said = env.rt.finish(env.rt.spawn(command)).ok();
    assert!(said.stdout.contains("Total reclaimed space: "), "{said}");
    assert_eq!(shelf.counts(), (0, 0, 0));
}

fn prune_all_and_by_filter(env: &Env) {
    let shelf = Shelf::new(env);
    shelf.publish("app:1", &Image::with_file("a", b"b"));
    shelf.ok(&["pull", "-q", &shelf.name("app:1")]);
    for filter in ["until=2026-01-01", "label=other", "label!=made"] {
        shelf.ok(&["prune", "-a", "-f", "--filter", filter]);
        assert_eq!(shelf.counts(), (3, 1, 1), "{filter}");
    }
    shelf.ok(&["prune", "-f", "--filter", "label=made"]);
    assert_eq!(shelf.counts(), (3, 1, 1), "it has a tag");
    shelf
        .call(&["prune", "-f", "--filter", "until=yesterday"])
        .exits(1)
        .says("invalid time \"yesterday\"");
    shelf.ok(&[
        "prune",
        "-a",
        "-f",
        "--filter",
        "until=1h",
        "--filter",
        "label=made",
    ]);
    assert_eq!(shelf.counts(), (0, 0, 0));
}

fn an_image_that_cannot_be_read_can_be_removed(env: &Env) {
    let shelf = Shelf::new(env);
    let image = shelf.publish("app:1", &Image::with_file("a", b"b"));
    let name = shelf.name("app:1");
    shelf.ok(&["pull", "-q", &name]);
    std::fs::remove_file(shelf.blob(&image.manifest)).unwrap();
    shelf.call(&["images"]).ok().says("cannot be read");
    shelf
        .call(&["inspect", &name])
        .exits(1)
        .says("cannot read image");
    shelf
        .call(&["prune", "-f"])
        .exits(1)
        .says("cannot tell what");
    shelf.ok(&["rmi", &name]);
    assert_eq!(shelf.counts(), (0, 0, 0));
}
