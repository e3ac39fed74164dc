//! `fsck`: what is damaged is told, moved away and fetched again, and only that.

use crate::harness::store::{Image, Published, archive, noise};
use crate::harness::{Env, Shelf, Test, test};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(nothing_wrong),
        test!(every_kind_of_blob_is_repaired),
        test!(only_what_is_damaged_is_fetched),
        test!(a_tag_that_moved_meanwhile),
        test!(another_platform),
        test!(what_cannot_be_fetched),
        test!(what_nobody_needs),
        test!(what_is_not_ours),
    ]
}

fn image(shelf: &Shelf<'_>) -> Published {
    let layers = [
        archive(&[("a", &noise(200_000, 1))]),
        archive(&[("b", &noise(300_000, 2))]),
    ];
    let image = shelf.publish("app:1", &Image::new(&layers));
    shelf.ok(&["pull", "-q", &shelf.name("app:1")]);
    image
}

/// Flips a bit of a blob, as a disk does.
fn damage(shelf: &Shelf<'_>, digest: &str) {
    let path = shelf.blob(digest);
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut file = std::fs::File::options().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&bytes).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
}

fn nothing_wrong(env: &Env) {
    let shelf = Shelf::new(env);
    image(&shelf);
    let output = shelf.call(&["fsck"]).ok();
    assert_eq!(output.stdout, "");
    output
        .says("4 blobs (")
        .says("and 1 names checked, 0 things wrong");
    shelf.call(&["fsck", "--repair"]).exits(0);
    assert_eq!(shelf.call(&["fsck", "-q"]).ok().stderr, "");
}

fn every_kind_of_blob_is_repaired(env: &Env) {
    let shelf = Shelf::new(env);
    let image = image(&shelf);
    let layer = image.layers[1].to_string();
    for digest in [&image.manifest, &image.id, &layer] {
        for gone in [false, true] {
            match gone {
                true => std::fs::remove_file(shelf.blob(digest)).unwrap(),
                false => damage(&shelf, digest),
            }
            let found = shelf.call(&["fsck"]).exits(4);
            let hex = digest.strip_prefix("sha256:").unwrap();
            assert!(found.stdout.contains(hex), "{found}");
            assert_eq!(found.stdout.lines().count(), 1, "{found}");
            let words = if gone {
                " is missing"
            } else {
                ": damaged: its "
            };
            assert!(found.stdout.contains(words), "{found}");
            shelf.call(&["fsck", "--repair"]).exits(1);
            shelf.call(&["fsck"]).exits(0);
            shelf.ok(&["inspect", &shelf.name("app:1")]);
        }
    }
    assert_eq!(shelf.counts(), (4, 2, 1), "no other name came to be");
}

fn only_what_is_damaged_is_fetched(env: &Env) {
    let shelf = Shelf::new(env);
    let image = image(&shelf);
    damage(&shelf, &image.layers[0].to_string());
    let before: Vec<u64> = image.layers.iter().map(|layer| shelf.sent(layer)).collect();
    shelf.call(&["fsck", "--repair"]).exits(1);
    assert_eq!(shelf.sent(&image.layers[0]), 2 * before[0]);
    assert_eq!(shelf.sent(&image.layers[1]), before[1]);
}

fn a_tag_that_moved_meanwhile(env: &Env) {
    let shelf = Shelf::new(env);
    let image = image(&shelf);
    let new = shelf.publish("app:1", &Image::with_file("new", b"new"));
    damage(&shelf, &image.manifest);
    shelf.call(&["fsck", "--repair"]).exits(1);
    let id = shelf.ok(&["inspect", "--format", "{Id}", &shelf.name("app:1")]);
    assert_eq!(id.trim(), image.id, "not {}", new.id);
}

fn another_platform(env: &Env) {
    let shelf = Shelf::new(env);
    let mut other = Image::with_file("a", &noise(50_000, 1));
    other.platform = ("linux", "s390x");
    let own = Image::with_file("a", b"own");
    let (one, two) = (shelf.publish("app:h", &own), shelf.publish("app:o", &other));
    shelf.publish_index("app:1", &[(&one, own.platform.1), (&two, "s390x")]);
    let name = shelf.name("app:1");
    shelf.ok(&["pull", "-q", "--platform", "linux/s390x", &name]);
    let counts = shelf.counts();
    for digest in [two.layers[0].to_string(), two.id, two.manifest] {
        damage(&shelf, &digest);
        shelf.call(&["fsck", "--repair"]).exits(1);
        shelf.call(&["fsck"]).exits(0);
    }
    assert_eq!(
        shelf.counts(),
        counts,
        "nothing for this machine was fetched"
    );
}

fn what_cannot_be_fetched(env: &Env) {
    let shelf = Shelf::new(env);
    let image = image(&shelf);
    let layer = image.layers[0].to_string();
    damage(&shelf, &layer);
    shelf.registry.fault(
        "GET",
        &layer,
        99,
        rcrun_image::registry::testing::Fault::Answer(rcrun_image::registry::testing::Answer::new(
            404, "",
        )),
    );
    let output = shelf.call(&["fsck", "--repair"]).exits(4);
    assert!(
        output
            .stdout
            .contains(&format!("layer {layer} is missing still")),
        "{output}"
    );
    output.says("404");
    // It is told until it is repaired, and the image can be removed.
    shelf.call(&["fsck"]).exits(4);
    shelf.ok(&["rmi", &image.id]);
    shelf.call(&["fsck"]).exits(0);
}

fn what_nobody_needs(env: &Env) {
    let shelf = Shelf::new(env);
    let image = image(&shelf);
    let name = shelf.name("app:1").replace('/', "%2F");
    std::fs::remove_file(shelf.path().join(format!("images/names/{name}.json"))).unwrap();
    damage(&shelf, &image.layers[0].to_string());
    shelf.call(&["fsck"]).exits(4);
    shelf.call(&["fsck", "--repair"]).exits(1);
    shelf.call(&["fsck"]).exits(0);
    shelf.ok(&["prune", "-a", "-f"]);
    let damaged = shelf.path().join("content/damaged");
    assert_eq!(std::fs::read_dir(damaged).unwrap().count(), 0);
}

fn what_is_not_ours(env: &Env) {
    let shelf = Shelf::new(env);
    image(&shelf);
    let foreign = shelf.path().join("content/sha256/notes.txt");
    std::fs::write(&foreign, "mine").unwrap();
    let output = shelf.call(&["fsck", "--repair"]).exits(4);
    assert!(
        output.stdout.contains("does not belong to the store"),
        "{output}"
    );
    assert!(output.stdout.contains("left alone"), "{output}");
    assert!(foreign.exists());
}
