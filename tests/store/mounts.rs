//! `mount`, `unmount` and `diff`.

use crate::harness::people::People;
use crate::harness::store::{Image, Published, archive};
use crate::harness::{Env, Shelf, Test, test};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(an_image_that_is_mounted_stays),
        test!(a_mount_that_is_gone_holds_nothing),
        test!(a_mount_in_another_namespace_counts),
        test!(killed_while_mounting),
        test!(only_what_is_ours_is_unmounted),
        test!(mounting_what_cannot_be),
        test!(containers_are_mounted),
        test!(what_a_container_changed),
        test!(what_is_different_in_another_image),
    ]
}

fn pulled(env: &Env) -> (Shelf<'_>, Published, PathBuf) {
    let shelf = Shelf::new(env);
    let layers = [
        archive(&[("d/", b""), ("d/a", b"one"), ("gone", b"x")]),
        archive(&[("d/b", b"two"), (".wh.gone", b"")]),
    ];
    let image = shelf.publish("app:1", &Image::new(&layers));
    shelf.ok(&["pull", "-q", &shelf.name("app:1")]);
    (shelf, image, env.directory("a place"))
}

/// Names of snapshots; what is not finished is swept after an hour.
fn snapshots(shelf: &Shelf<'_>) -> usize {
    let all = fs::read_dir(shelf.path().join("snapshots")).into_iter();
    let names = all.flatten().map(|one| one.unwrap().file_name());
    names
        .filter(|name| !name.to_string_lossy().starts_with(".new-"))
        .count()
}

/// Nothing but what no image needs is left once it has lost its name.
#[track_caller]
fn assert_swept(shelf: &Shelf<'_>) {
    shelf.call(&["rmi", "-f", &shelf.name("app:1")]);
    shelf.ok(&["prune", "-f", "-a"]);
    assert_eq!((shelf.counts(), snapshots(shelf)), ((0, 0, 0), 0));
}

fn an_image_that_is_mounted_stays(env: &Env) {
    let (shelf, image, place) = pulled(env);
    let (name, at) = (shelf.name("app:1"), place.to_str().unwrap());
    assert_eq!(shelf.ok(&["mount", &name, at]), format!("{at}\n"));
    let read = |file: &str| fs::read_to_string(place.join(file)).ok();
    assert_eq!(read("d/a").as_deref(), Some("one"));
    assert_eq!(read("d/b").as_deref(), Some("two"));
    assert_eq!(read("gone"), None);
    fs::write(place.join("new"), "").unwrap_err();
    let format = "{ID} {Name} {Mode} {Path}";
    let listed = shelf.ok(&["mount", "--no-trunc", "--format", format]);
    assert_eq!(listed, format!("{} {name} ro {at}\n", image.id));
    shelf
        .call(&["rmi", &name])
        .exits(1)
        .says("the image is mounted");
    shelf.ok(&["prune", "-f", "-a"]);
    assert_eq!(shelf.counts(), (4, 2, 1));
    // By force it loses its name, and nothing else.
    shelf.ok(&["rmi", "-f", &name]);
    shelf.ok(&["prune", "-f", "-a"]);
    assert_eq!(shelf.counts(), (4, 2, 0));
    assert_eq!(read("d/a").as_deref(), Some("one"));
    assert_eq!(shelf.ok(&["unmount", &name]), format!("{at}\n"));
    assert_eq!((read("d/a"), snapshots(&shelf)), (None, 0));
    shelf.ok(&["prune", "-f"]);
    assert_eq!(shelf.counts(), (0, 0, 0));
}

fn a_mount_that_is_gone_holds_nothing(env: &Env) {
    let (shelf, image, place) = pulled(env);
    let at = place.to_str().unwrap();
    // Twice at one place, and another one; unmounted by others.
    let other = env.directory("other");
    for at in [at, at, other.to_str().unwrap()] {
        shelf.ok(&["mount", &image.id, at]);
    }
    shelf.ok(&["rmi", "-f", &image.id]);
    for left in [2, 1] {
        assert!(Command::new("umount").arg(at).status().unwrap().success());
        shelf.ok(&["prune", "-f"]);
        assert_eq!((shelf.counts(), snapshots(&shelf)), ((4, 2, 0), left));
    }
    assert_eq!(fs::read_to_string(other.join("d/b")).unwrap(), "two");
    shelf.ok(&["umount", other.to_str().unwrap()]);
    assert_swept(&shelf);
    // The machine was started anew: whatever its number was, that boot is over.
    shelf.ok(&["pull", "-q", &shelf.name("app:1")]);
    shelf.ok(&["mount", &image.id, at]);
    let record = fs::read_dir(shelf.path().join("snapshots")).unwrap().next();
    let record = record.unwrap().unwrap().path().join("snapshot.json");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let text = fs::read_to_string(&record).unwrap();
    assert!(text.contains(boot.trim()), "{text}");
    // Without its seal, which does not fit then.
    let text = text.split(",\"seal\":").next().unwrap().to_owned() + "}";
    fs::write(&record, text.replace(boot.trim(), "an-earlier-boot")).unwrap();
    assert_swept(&shelf);
    shelf.ok(&["unmount", at]);
}

fn a_mount_in_another_namespace_counts(env: &Env) {
    let (shelf, image, place) = pulled(env);
    let at = place.to_str().unwrap();
    let (ready, end) = (env.path("ready"), env.path("end"));
    let line = |command: &Command| -> String {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let quoted = words.map(|word| format!("'{}' ", word.to_str().unwrap()));
        quoted.collect()
    };
    let mount = line(&shelf.command(&["mount", &image.id, at]));
    let script = format!(
        "{mount} && : >'{}' && while [ ! -e '{}' ]; do sleep 0.01; done; cat <'{at}/d/a'",
        ready.display(),
        end.display()
    );
    let child = Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&ready);
    assert!(!place.join("d").exists());
    shelf.ok(&["rmi", "-f", &image.id]);
    shelf.ok(&["prune", "-f", "-a"]);
    assert_eq!((shelf.counts(), snapshots(&shelf)), ((4, 2, 0), 1));
    fs::write(&end, "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!("{at}\none")
    );
    assert_swept(&shelf);
}

fn wait_for(path: &Path) {
    let start = std::time::Instant::now();
    while !path.exists() {
        assert!(start.elapsed().as_secs() < 20, "no {}", path.display());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// A kill at many instants: either it is mounted and holds, or nothing of it stays.
fn killed_while_mounting(env: &Env) {
    let (shelf, image, place) = pulled(env);
    let at = place.to_str().unwrap();
    let (mut before, mut after) = (0, 0);
    for round in 0..40 {
        let mut child = shelf.command(&["mount", &image.id, at]).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(round * 500));
        child.kill().unwrap();
        child.wait().unwrap();
        shelf.ok(&["prune", "-f"]);
        match place.join("d/a").exists() {
            true => {
                after += 1;
                assert_eq!(snapshots(&shelf), 1, "round {round}");
                shelf.ok(&["unmount", at]);
            }
            false => before += 1,
        }
        assert_eq!(snapshots(&shelf), 0, "round {round}");
    }
    println!("killed before it was mounted: {before}, after: {after}");
    assert!(before > 0, "it was never killed before");
    assert_swept(&shelf);
}

fn only_what_is_ours_is_unmounted(env: &Env) {
    let (shelf, _, place) = pulled(env);
    let at = place.to_str().unwrap();
    let refused = |name: &str, why: &str| shelf.call(&["unmount", name]).exits(1).says(why);
    refused(at, "nothing is mounted there");
    refused("/proc", "mounted by others");
    refused("/", "mounted by others");
    refused("no/such", "nothing of that name is mounted");
    refused(&shelf.name("app:1"), "nothing of that name is mounted");
    let theirs = ["-t", "tmpfs", "theirs", at];
    assert!(
        Command::new("mount")
            .args(theirs)
            .status()
            .unwrap()
            .success()
    );
    refused(at, "mounted by others");
    shelf.ok(&["mount", &shelf.name("app:1"), at]);
    let busy = fs::File::open(place.join("d/a")).unwrap();
    refused(at, "in use");
    shelf.ok(&["unmount", "--lazy", at]);
    drop(busy);
    refused(at, "mounted by others");
    assert!(Command::new("umount").arg(at).status().unwrap().success());
    assert_swept(&shelf);
}

fn mounting_what_cannot_be(env: &Env) {
    let (shelf, image, place) = pulled(env);
    let (name, at) = (shelf.name("app:1"), place.to_str().unwrap());
    for (words, why) in [
        (vec!["mount", "nothing", at], "no such image: nothing"),
        (vec!["mount", &name], "it is not said where"),
        (vec!["mount", &name, "/no/such"], "cannot open directory"),
        (vec!["mount", "--writable", &name, at], "for reading only"),
        (
            vec!["mount", "--type", "container", &name, at],
            "no such container",
        ),
    ] {
        shelf.call(&words).exits(1).says(why);
    }
    // Nothing of those is left.
    assert_eq!(snapshots(&shelf), 0);
    // A layer that is gone is unpacked again, as long as there is its archive.
    let layers = || fs::read_dir(shelf.path().join("layers")).unwrap().flatten();
    let remove = || {
        for layer in layers().filter(|one| one.file_name().len() > 32) {
            match layer.file_type().unwrap().is_dir() {
                true => fs::remove_dir_all(layer.path()).unwrap(),
                false => fs::remove_file(layer.path()).unwrap(),
            }
        }
    };
    remove();
    shelf.ok(&["mount", &image.id, at]);
    shelf.ok(&["unmount", at]);
    remove();
    fs::remove_file(shelf.blob(&image.layers[0].to_string())).unwrap();
    shelf
        .call(&["mount", &image.id, at])
        .exits(1)
        .says("is not in the store");
    assert_eq!(snapshots(&shelf), 0);
}

fn containers_are_mounted(env: &Env) {
    let people = People::new(env);
    let shelf = &people.shelf;
    let place = env.directory("place");
    let at = place.to_str().unwrap();
    people
        .run(
            &["-d", "--name", "web"],
            &["sh", "-c", "echo 1 >/new; sleep 1000"],
        )
        .ok();
    wait_until(|| shelf.ok(&["diff", "web"]).contains("/new"));
    shelf
        .call(&["mount", "-w", "web", at])
        .exits(1)
        .says("for reading only");
    shelf.ok(&["mount", "web", at]);
    assert_eq!(fs::read_to_string(place.join("new")).unwrap(), "1\n");
    fs::write(place.join("x"), "").unwrap_err();
    shelf.ok(&["kill", "web"]);
    shelf.call(&["wait", "web"]);
    shelf.call(&["rm", "web"]).exits(1).says("it is mounted at");
    shelf.ok(&["unmount", "web"]);
    // For writing: one at a time, and not while it runs.
    shelf.ok(&["mount", "-w", "web", at]);
    fs::write(place.join("x"), "mine").unwrap();
    let other = env.directory("other");
    for words in [
        vec!["mount", "-w", "web", other.to_str().unwrap()],
        vec!["start", "web"],
        vec!["rm", "web"],
    ] {
        shelf
            .call(&words)
            .exits(1)
            .says("it is mounted for writing at");
    }
    let lines = shelf.ok(&["mount", "--format", "{Name} {Mode} {Path}"]);
    assert_eq!(lines, format!("web rw {at}\n"));
    shelf.ok(&["prune", "-f"]);
    shelf.ok(&["unmount", at]);
    shelf.ok(&["start", "web"]);
    assert_eq!(shelf.ok(&["exec", "web", "cat", "/x"]), "mine");
    people.remove("web");
    people.assert_empty();
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed().as_secs() < 20, "it did not come to be");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

fn what_a_container_changed(env: &Env) {
    let people = People::new(env);
    let shelf = &people.shelf;
    let script = "rm /etc/group; echo x >>/etc/passwd; mkdir -p /new/sub; echo >/new/sub/f; \
        chmod 700 /root; rm -r /var; mkdir /var; echo >/var/again; mv /bin/yes /bin/no";
    people
        .run(&["--name", "changed"], &["sh", "-c", script])
        .ok();
    let expected = "C /bin\nA /bin/no\nD /bin/yes\nC /etc\nD /etc/group\nC /etc/passwd\nA /new\n\
        A /new/sub\nA /new/sub/f\nC /root\nC /var\nA /var/again\n";
    assert_eq!(shelf.ok(&["diff", "changed"]), expected);
    // What is mounted over in every container is not its doing.
    people.run(&["--name", "nothing"], &["true"]).ok();
    assert_eq!(shelf.ok(&["diff", "nothing"]), "");
    people.remove("nothing");
    let fields = shelf.ok(&["diff", "--format", "{Kind}:{Path}", "changed"]);
    assert_eq!(fields, expected.replace(" /", ":/"));
    shelf
        .call(&["diff", "none"])
        .exits(1)
        .says("no such container");
    people.remove("changed");
}

fn what_is_different_in_another_image(env: &Env) {
    let shelf = Shelf::new(env);
    let base = archive(&[
        ("etc/", b""),
        ("etc/a", b"one"),
        ("etc/b", b"same"),
        ("etc/gone", b"x"),
        ("opt/deep/f", b"f"),
        ("kind", b"file"),
        ("big", &[7; 300_000]),
    ]);
    let mut other = vec![7; 300_000];
    other[299_999] = 8;
    // All times are the same, and so are the sizes of what is different.
    let top = archive(&[
        ("etc/a", b"two"),
        ("etc/b", b"same"),
        ("etc/.wh.gone", b""),
        ("opt/.wh.deep", b""),
        (".wh.kind", b""),
        ("kind/", b""),
        ("kind/sub", b""),
        ("big", &other),
        ("new/n", b"n"),
    ]);
    let layers = [base, top];
    shelf.publish("one", &Image::new(&layers[..1]));
    shelf.publish("two", &Image::new(&layers));
    let (one, two) = (shelf.name("one"), shelf.name("two"));
    for name in [&one, &two] {
        shelf.ok(&["pull", "-q", name]);
    }
    let expected = "C /big\nC /etc\nC /etc/a\nD /etc/gone\nC /kind\nA /kind/sub\nA /new\nA /new/n\nC /opt\nD /opt/deep\n";
    assert_eq!(shelf.ok(&["diff", &one, &two]), expected);
    let back = "C /big\nC /etc\nC /etc/a\nA /etc/gone\nC /kind\nD /new\nC /opt\nA /opt/deep\nA /opt/deep/f\n";
    assert_eq!(shelf.ok(&["diff", &two, &one]), back);
    assert_eq!(shelf.ok(&["diff", &two, &two]), "");
    let fields = shelf.ok(&["diff", "--format", "{Kind}:{Path}", &one, &two]);
    assert_eq!(fields, expected.replace(" /", ":/"));
    shelf.call(&["diff", &one, "none"]).exits(1).says("none");
    shelf
        .call(&["diff", &one, &two, &two])
        .fails()
        .says("at most 2");
    // Nothing was mounted or kept.
    assert_eq!(snapshots(&shelf), 0);
    shelf.ok(&["rmi", &one, &two]);
}
