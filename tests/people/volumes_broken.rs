//! Volumes that are damaged, shared, attacked, or were not finished.

use super::volumes::{data, default, full, refused, volumes, with_data};
use crate::harness::people::{People, layer, links};
use crate::harness::users::{self, ALICE, SUBORDINATE, User, both, publish};
use crate::harness::{Env, Shelf, Test, test};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(what_is_wrong_is_said),
        test!(damaged_records_stop_nobody_else),
        test!(ids_are_those_inside),
        test!(a_copy_that_was_broken_off_is_begun_anew),
        test!(links_of_the_image_stay_within_it),
        test!(eight_share_one).timeout(120),
        users::by_programs(test!(volumes_of_an_ordinary_user)),
        test!(killed_anywhere_leaves_what_prune_removes).timeout(180),
    ]
}

fn what_is_wrong_is_said(env: &Env) {
    let people = People::new(env);
    for (flag, words) in [
        ("-v=a/b:/v", "./a/b"),
        ("-v=x:/v", "neither an absolute path nor a name"),
        ("-v=data:v", "not an absolute path in the container"),
        ("-v=data:/", "container's /"),
        ("-v=data:/v:rshared", "rshared"),
        ("-v=/tmp:/v:nocopy", "nocopy"),
        ("--mount=type=volume,src=../x,dst=/v", "no name of a volume"),
        (
            "--mount=type=volume,src=data,dst=/v,volume-subpath=..",
            "volume-subpath",
        ),
        (
            "--mount=type=volume,src=data,dst=/v,volume-driver=nfs",
            "nfs",
        ),
    ] {
        let output = people.run(&["--rm", flag], &["true"]);
        output.exits(125).says(words);
    }
    people
        .run(&["--rm", "-v", "one:/v", "-v", "two:/v"], &["true"])
        .exits(125)
        .says("two mounts");
    assert!(!people.shelf.path().join("volumes").exists());
    people.assert_empty();
}

fn damaged_records_stop_nobody_else(env: &Env) {
    let people = People::new(env);
    for name in ["good", "torn"] {
        people.shelf.ok(&["volume", "create", name]);
    }
    let record = data(&people, "torn").parent().unwrap().join("volume.json");
    fs::write(&record, "{\"version\":1,").unwrap();
    let output = people.shelf.call(&["volume", "ls", "-q"]).ok();
    assert_eq!(output.stdout, "good\n");
    assert!(
        output.stderr.contains("torn") && output.stderr.contains("/data"),
        "{output}"
    );
    refused(&people, &["volume", "inspect", "torn"], "torn");
    // Its files are as they were: it can be used, and removed.
    people.sh(&["-v", "torn:/v"], "echo 1 >/v/x");
    people.shelf.ok(&["prune", "--volumes", "--force"]);
    assert!(data(&people, "torn").join("x").exists());
    people.shelf.ok(&["volume", "rm", "torn"]);
    // Nobody knows what a container uses whose record cannot be read: nothing goes until that has gone.
    people.run(&["--name=web", "-v", "good:/v"], &["true"]).ok();
    let directory = people.containers().remove(0);
    fs::write(directory.join("container.json"), "{").unwrap();
    let output = people.shelf.call(&["volume", "ls", "-q"]).ok();
    assert_eq!(output.stdout, "good\n");
    for words in [
        &["volume", "rm", "good"][..],
        &["volume", "prune", "--all", "--force"],
        &["volume", "ls", "--filter", "dangling=true"],
    ] {
        refused(&people, words, "cannot tell which volumes are in use");
    }
    let id = directory.file_name().unwrap().to_str().unwrap();
    people.shelf.ok(&["rm", "--force", id]);
    people.shelf.ok(&["volume", "rm", "good"]);
    assert_eq!(volumes(&people), Vec::<String>::new());
}

fn ids_are_those_inside(env: &Env) {
    let people = with_data(env, default());
    let script = "stat -c '%a %u:%g' /data /data/theirs; touch /data/$0; chown 5:6 /data/$0; stat -c %u /data/*";
    let of = |map: &str, name: &str| {
        let script = script.replace("$0", name);
        full(&people, &["--userns", map, "-v", "vol:/data"], &script)
    };
    let text = of("0:100000:65536", "x");
    assert!(text.starts_with("2750 11:12\n604 11:12\n"), "{text}");
    // On the disk, and in containers that have other ids, they are the same.
    assert_eq!(
        fs::metadata(data(&people, "vol").join("x")).unwrap().uid(),
        5
    );
    let text = of("0:300000:65536", "y");
    assert!(
        text.starts_with("2750 11:12\n604 11:12\n") && !text.contains("65534"),
        "{text}"
    );
    assert_eq!(
        full(&people, &["-v", "vol:/data"], "stat -c %u:%g /data/x"),
        "5:6\n"
    );
}

fn a_copy_that_was_broken_off_is_begun_anew(env: &Env) {
    let people = with_data(env, default());
    people.shelf.ok(&["volume", "create", "vol"]);
    let directory = data(&people, "vol");
    let mark = directory.parent().unwrap().join("copying");
    fs::write(directory.join("one"), "ha").unwrap();
    fs::create_dir(directory.join("sub")).unwrap();
    fs::write(&mark, "").unwrap();
    assert_eq!(
        full(
            &people,
            &["-v", "vol:/data"],
            "cd /data; cat one sub/two; ls"
        ),
        "1\n2\nlink\none\nsub\ntheirs\n"
    );
    assert!(!mark.exists());
    // Where a container has it mounted, what is there is that container's.
    fs::write(&mark, "").unwrap();
    people
        .run(
            &["-d", "--name=web", "-v", "vol:/v:nocopy"],
            &["sleep", "100"],
        )
        .ok();
    full(&people, &["-v", "vol:/data"], "rm /data/one");
    assert!(!mark.exists());
    assert_eq!(
        full(&people, &["-v", "vol:/data"], "ls /data"),
        "link\nsub\ntheirs\n"
    );
    people.remove("web");
}

/// CVE-2019-14271's relatives: a stranger's links where a volume is filled from.
fn links_of_the_image_stay_within_it(env: &Env) {
    let people = People::new(env);
    let secret = people.file("secret", "of the host");
    let outside = secret.parent().unwrap().to_str().unwrap();
    let evil = links(&[
        ("abs", outside),
        ("up", "../../../../../../../../etc"),
        ("round", "round"),
    ]);
    people.image(
        "evil",
        &[layer(env, &[("etc/own", 0o644, b"own\n")]), evil],
        default(),
    );
    let run = |flags: &[&str], command: &[&str]| {
        let flags = [&["--rm"], flags].concat();
        let command = people.command_of("evil", &flags, command);
        people.env.rt.finish(people.env.rt.spawn(command))
    };
    // In the image there is no such directory: nothing is copied.
    run(&["-v", "one:/abs"], &["ls", "/abs"]);
    assert!(!data(&people, "one").join("secret").exists());
    let text = run(&["-v", "two:/up"], &["cat", "/up/own"]).ok().stdout;
    assert_eq!(text, "own\n");
    assert!(!data(&people, "two").join("shadow").exists());
    run(&["-v", "three:/round"], &["true"]).exits(125);
    people.assert_empty();
}

fn eight_share_one(env: &Env) {
    let people = with_data(env, default());
    let script = "cat /data/one /data/sub/two; touch /data/$HOSTNAME";
    let all: Vec<_> = (0..8)
        .map(|_| {
            let command =
                people.command_of("full", &["--rm", "-v", "vol:/data"], &["sh", "-c", script]);
            people.env.rt.spawn(command)
        })
        .collect();
    for running in all {
        let output = people
            .env
            .rt
            .finish_within(running, Duration::from_secs(90))
            .ok();
        assert_eq!(output.stdout, "1\n2\n");
    }
    assert_eq!(fs::read_dir(data(&people, "vol")).unwrap().count(), 4 + 8);
    // Who removes and who uses: a container has its volume, whole.
    for round in 0..6 {
        let command =
            people.command_of("full", &["--rm", "-v", "vol:/data"], &["cat", "/data/one"]);
        let running = people.env.rt.spawn(command);
        std::thread::sleep(Duration::from_millis(round * 7));
        let removed = people.shelf.call(&["volume", "rm", "vol"]);
        let output = people.env.rt.finish(running).ok();
        assert_eq!(output.stdout, "1\n", "{removed}");
        assert!(
            removed.code == 0 || removed.stderr.contains("in use"),
            "{removed}"
        );
    }
    people.shelf.ok(&["volume", "rm", "-f", "vol"]);
    people.assert_empty();
}

fn killed_anywhere_leaves_what_prune_removes(env: &Env) {
    let people = with_data(env, default());
    for step in 0..20 {
        let flags = ["-v", "vol:/data", "-v", "/data/sub/deeper", "-v", "/other"];
        let flags = [&["--rm"], &flags[..]].concat();
        let command = people.command_of("full", &flags, &["true"]);
        let mut running = people.env.rt.spawn(command);
        std::thread::sleep(Duration::from_millis(4 * step));
        running.child.kill().unwrap();
        people.env.rt.finish(running);
        // Whoever was created by then runs on.
        for id in people.shelf.lines(&["ps", "-aq"]) {
            people.shelf.call(&["rm", "-f", &id]);
        }
        people.shelf.ok(&["prune", "--volumes", "--force"]);
        people.assert_empty();
        let left = volumes(&people);
        assert!(left.is_empty() || left == ["vol"], "{left:?}");
        let names: Vec<String> = fs::read_dir(people.shelf.path().join("volumes"))
            .map(|all| {
                all.map(|one| one.unwrap().file_name().into_string().unwrap())
                    .collect()
            })
            .unwrap_or_default();
        assert_eq!(names.len(), left.len(), "{names:?}");
        let text = full(
            &people,
            &["-v", "vol:/data"],
            "cd /data; cat one sub/two; ls | wc -l",
        );
        assert_eq!(text, "1\n2\n4\n");
        people.shelf.ok(&["volume", "rm", "vol"]);
    }
}

fn volumes_of_an_ordinary_user(env: &Env) {
    let _accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = alice.pull(&shelf, "app");
    let script = "stat -c '%u:%g' /srv/data; cat /srv/data; echo new >/srv/new; chown 10 /srv/new";
    let text = alice.ok(&["run", "--rm", "-v", "vol:/srv", &image, "sh", "-c", script]);
    assert_eq!(text, "33:34\ndata");
    let files = alice.store().join("volumes/vol/data");
    assert_eq!(
        fs::metadata(files.join("new")).unwrap().uid(),
        SUBORDINATE + 9
    );
    assert_eq!(
        fs::metadata(files.join("data")).unwrap().uid(),
        SUBORDINATE + 32
    );
    let text = alice.ok(&["run", "--rm", "-v", "vol:/v", &image, "cat", "/v/new"]);
    assert_eq!(text, "new\n");
    // With ids of its own, which an ordinary user cannot map by a mount: files get those.
    let map = [
        "run",
        "--rm",
        "--userns=auto:size=1000",
        "-v",
        "/srv",
        &image,
    ];
    let text = alice.ok(&[&map[..], &["sh", "-c", "stat -c '%u:%g' /srv/data"]].concat());
    assert_eq!(text, "33:34\n");
    assert_eq!(alice.ok(&["volume", "ls", "-q"]), "vol\n");
    alice.ok(&["volume", "rm", "vol"]);
    alice.ok(&["rmi", &image]);
    alice.ok(&["prune", "--all", "--force"]);
    alice.assert_empty();
}
