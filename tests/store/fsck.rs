//! `fsck`: what is damaged is told, moved away and fetched again, and only that.

use crate::harness::store::{Image, Published, archive, noise};
use crate::harness::{Env, Shelf, Test, people, test};
use std::fs;
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
        test!(what_it_says_of_damaged_records_helps).timeout(120),
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

/// Each hint is taken by its word: what it names is called, and nothing is wrong afterwards.
fn what_it_says_of_damaged_records_helps(env: &Env) {
    let shelf = Shelf::new(env);
    let layers = [people::layer(env, &[]), archive(&[("other", b"x")])];
    shelf.publish("app:1", &Image::new(&layers));
    shelf.publish("app:2", &Image::new(&layers[..1]));
    let (one, two) = (shelf.name("app:1"), shelf.name("app:2"));
    let parent = format!("--cgroup-parent={}", env.tag);
    let made = || {
        shelf.ok(&["pull", "-q", &one]);
        shelf.ok(&["run", &parent, "--name=web", "-v", "vol:/v", &two, "true"]);
    };
    let only = |directory: &str| -> Vec<String> {
        let all = fs::read_dir(shelf.path().join(directory)).unwrap();
        let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.len() >= 64).collect()
    };
    let tear = |place: &str| {
        let path = shelf.path().join(place);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(
            &path,
            text.replace("\"version\":1", "\"version\":1,\"x\":0"),
        )
        .unwrap();
    };
    type Damage<'a> = &'a dyn Fn() -> String;
    let in_container: Damage<'_> =
        &|| format!("containers/{}/container.json", only("containers")[0]);
    let in_snapshot: Damage<'_> = &|| format!("snapshots/{}/snapshot.json", only("snapshots")[0]);
    let in_volume: Damage<'_> = &|| "volumes/vol/volume.json".to_owned();
    let in_name: Damage<'_> = &|| {
        let name = one.replace('/', "%2F");
        format!("images/names/{name}.json")
    };
    let in_layer: Damage<'_> = &|| format!("layers/{}/layer.json", only("layers")[0]);
    // Nobody's: its image is gone, and nothing was swept since.
    let in_loose: Damage<'_> = &|| {
        let before = only("layers");
        shelf.ok(&["rm", "web"]);
        for name in fs::read_dir(shelf.path().join("images/names")).unwrap() {
            fs::remove_file(name.unwrap().path()).unwrap();
        }
        format!("layers/{}/layer.json", before[0])
    };
    // A container's only: its image has no name any more.
    let of_container: Damage<'_> = &|| {
        shelf.ok(&["rmi", "-f", &one]);
        shelf.ok(&["untag", &two]);
        format!("layers/{}/layer.json", only("layers")[0])
    };
    for (what, damage, repaired) in [
        ("container", in_container, false),
        ("snapshot", in_snapshot, false),
        ("volume", in_volume, false),
        ("name", in_name, false),
        ("layer", in_layer, true),
        ("nobody's layer", in_loose, false),
        ("layer of a container", of_container, true),
    ] {
        made();
        let place = damage();
        tear(&place);
        repair_as_told(&shelf, what, &place, repaired);
        shelf.call(&["fsck", "-q"]).exits(0);
        shelf.call(&["rm", "-f", "web"]);
        shelf.ok(&["volume", "rm", "-f", "vol"]);
        shelf.ok(&["prune", "--all", "--force"]);
        assert_eq!(only("layers"), Vec::<String>::new(), "{what}");
    }
}

/// Calls what `fsck --repair` names, where it could not help itself.
fn repair_as_told(shelf: &Shelf<'_>, what: &str, place: &str, repaired: bool) {
    let found = shelf.call(&["fsck"]).exits(4);
    assert!(found.stdout.starts_with(place), "{what}: {found}");
    let output = shelf.call(&["fsck", "--repair"]);
    if repaired {
        output.exits(1);
        return;
    }
    let mut lines = output.stdout.lines();
    let Some(line) = lines.find(|line| line.contains("left alone: ")) else {
        assert!(output.stdout.contains("pull it"), "{what}: {output}");
        return;
    };
    assert!(line.starts_with(place), "{what}: {output}");
    let command = line.split('`').nth(1).expect("a remedy");
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    // A volume that a container uses stays as long as that does.
    if what == "volume" {
        shelf.ok(&["rm", "web"]);
    }
    shelf.ok(&words);
}
