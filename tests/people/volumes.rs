//! Volumes: what is in them, whose they are, when they go, and what remains of those who are killed.

use crate::harness::people::{People, layer, links};
use crate::harness::{Env, Test, test};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(named_ones_outlive_containers),
        test!(an_empty_one_gets_what_the_image_has),
        test!(those_without_a_name_go_with_their_container),
        test!(the_images_own_volumes),
        test!(verbs_have_dockers_habits),
        test!(in_use_means_they_stay),
        test!(prune_and_df),
    ]
}

/// An image with files at /data: another's, and a directory with a mode.
pub(super) fn with_data<'a>(env: &'a Env, config: Value) -> People<'a> {
    let people = People::new(env);
    let base = layer(
        env,
        &[("data/one", 0o640, b"1\n"), ("data/sub/two", 0o600, b"2\n")],
    );
    people.image(
        "full",
        &[base, owners(), links(&[("data/link", "one")])],
        config,
    );
    people
}

/// /data itself and one of its files belong to somebody.
pub(super) fn owners() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, mode, content) in [
        ("data", tar::EntryType::Directory, 0o2750, &b""[..]),
        ("data/theirs", tar::EntryType::Regular, 0o604, b"x\n"),
    ] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(11);
        header.set_gid(12);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(super) fn default() -> Value {
    json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]})
}

/// What a script prints in a container of `full` that is removed.
#[track_caller]
pub(super) fn full(people: &People<'_>, flags: &[&str], script: &str) -> String {
    let flags = [&["--rm"], flags].concat();
    let command = people.command_of("full", &flags, &["sh", "-c", script]);
    people
        .env
        .rt
        .finish(people.env.rt.spawn(command))
        .ok()
        .stdout
}

pub(super) fn volumes(people: &People<'_>) -> Vec<String> {
    people.shelf.lines(&["volume", "ls", "-q"])
}

pub(super) fn data(people: &People<'_>, name: &str) -> PathBuf {
    people.shelf.path().join("volumes").join(name).join("data")
}

#[track_caller]
pub(super) fn refused(people: &People<'_>, args: &[&str], words: &str) {
    let output = people.shelf.call(args);
    assert!(
        output.code != 0 && output.stderr.contains(words),
        "{output}"
    );
}

fn named_ones_outlive_containers(env: &Env) {
    let people = People::new(env);
    people.sh(&["-v", "cache:/v"], "echo a >/v/x; mkdir /v/d");
    assert_eq!(
        people.sh(&["-v", "cache:/w"], "cat /w/x; ls /w"),
        "a\nd\nx\n"
    );
    let by_mount = "type=volume,src=cache,dst=/m,ro";
    let text = people.sh(&["--mount", by_mount], "cat /m/x; echo b >/m/x || echo no");
    assert_eq!(text, "a\nno\n");
    let text = people.sh(&["-v", "cache:/v:ro"], "rm /v/x 2>/dev/null || cat /v/x");
    assert_eq!(text, "a\n");
    // One container, twice the same volume.
    let text = people.sh(
        &["-v", "cache:/v", "-v", "cache:/w"],
        "echo c >/v/y; cat /w/y",
    );
    assert_eq!(text, "c\n");
    // A container that was stopped has it again.
    people
        .run(&["--name=web", "-v", "cache:/v"], &["sh", "-c", "cat /v/x"])
        .ok();
    assert_eq!(people.shelf.ok(&["start", "-a", "web"]), "a\n");
    let shown: Value = serde_json::from_str(&people.shelf.ok(&["inspect", "web"])).unwrap();
    let mounts = shown[0]["Mounts"].as_array().unwrap();
    let mount = mounts
        .iter()
        .find(|mount| mount["Destination"] == "/v")
        .unwrap();
    assert_eq!(
        (
            mount["Type"].as_str(),
            mount["Name"].as_str(),
            mount["RW"].as_bool()
        ),
        (Some("volume"), Some("cache"), Some(true)),
        "{shown}"
    );
    for (filter, count) in [
        ("volume=cache", 1),
        ("volume=/v", 1),
        ("volume=other", 0),
        ("network=none", 1),
        ("network=host", 0),
        ("health=none", 1),
        ("publish=80", 0),
        ("is-task=false", 1),
    ] {
        let found = people.shelf.lines(&["ps", "-aq", "--filter", filter]);
        assert_eq!(found.len(), count, "{filter}");
    }
    people.remove("web");
    assert_eq!(volumes(&people), ["cache"]);
    people.shelf.ok(&["volume", "rm", "cache"]);
    assert_eq!(volumes(&people), Vec::<String>::new());
    people.assert_empty();
}

fn an_empty_one_gets_what_the_image_has(env: &Env) {
    let people = with_data(env, default());
    let script =
        "cd /data; stat -c '%n %a %u:%g' . one theirs sub sub/two; readlink link; cat one sub/two";
    let expected =
        ". 2750 11:12\none 640 0:0\ntheirs 604 11:12\nsub 755 0:0\nsub/two 600 0:0\none\n1\n2\n";
    assert_eq!(full(&people, &["-v", "vol:/data"], script), expected);
    assert!(
        !data(&people, "vol")
            .parent()
            .unwrap()
            .join("copying")
            .exists()
    );
    // Once only.
    full(
        &people,
        &["-v", "vol:/data"],
        "rm -r /data/one /data/sub; echo 3 >/data/theirs",
    );
    let text = full(&people, &["-v", "vol:/data"], "ls /data; cat /data/theirs");
    assert_eq!(text, "link\ntheirs\n3\n");
    // A volume that was made before is filled as well, if it is empty.
    people.shelf.ok(&["volume", "create", "made"]);
    assert_eq!(full(&people, &["-v", "made:/data"], script), expected);
    // Not if that is not wanted, nor where the image has nothing.
    assert_eq!(full(&people, &["-v", "bare:/data:nocopy"], "ls /data"), "");
    let bare = "type=volume,src=bare,dst=/data,volume-nocopy";
    assert_eq!(full(&people, &["--mount", bare], "ls /data"), "");
    let text = full(
        &people,
        &["-v", "new:/none/such"],
        "stat -c '%a %u' /none/such; ls /none/such",
    );
    assert_eq!(text, "755 0\n");
    // An image's file is no place for a directory, and nothing is left of the attempt.
    let output = people.env.rt.finish(people.env.rt.spawn(people.command_of(
        "full",
        &["-v", "/data/one"],
        &["true"],
    )));
    output.exits(125).says("/data/one");
    assert_eq!(volumes(&people), ["bare", "made", "new", "vol"]);
    people.assert_empty();
}

fn those_without_a_name_go_with_their_container(env: &Env) {
    let people = with_data(env, default());
    let text = full(
        &people,
        &["-v", "/data", "-v", "/other"],
        "cat /data/one; touch /other/x; ls /other",
    );
    assert_eq!(text, "1\nx\n");
    let by_mount = "type=volume,dst=/m,volume-label=a=b";
    people.sh(&["--mount", by_mount, "-v", "kept:/k"], "touch /m/x");
    // With --rm they go, and those with a name stay.
    assert_eq!(volumes(&people), ["kept"]);
    // Without it they stay, unless `rm` is told.
    for flags in [&["rm"][..], &["rm", "--volumes"], &["rm", "-v"]] {
        people
            .run(
                &["--name=web", "-v", "/data", "--mount", by_mount],
                &["true"],
            )
            .ok();
        assert_eq!(volumes(&people).len(), 3);
        people.shelf.ok(&[flags, &["web"]].concat());
        let left = volumes(&people);
        match flags.len() {
            1 => {
                assert_eq!(left.len(), 3);
                assert!(left.iter().any(|name| name.len() == 64));
                let labelled = people
                    .shelf
                    .lines(&["volume", "ls", "-q", "--filter", "label=a=b"]);
                assert_eq!(labelled.len(), 1);
                people.shelf.ok(&["volume", "prune", "--force"]);
            }
            _ => assert_eq!(left, ["kept"], "{flags:?}"),
        }
    }
    // One that another container uses by its name stays.
    people.run(&["--name=web", "-v", "/data"], &["true"]).ok();
    let name = volumes(&people)[0].clone();
    let shared = format!("{name}:/data");
    people.run(&["--name=other", "-v", &shared], &["true"]).ok();
    people.shelf.ok(&["rm", "-v", "web"]);
    assert!(volumes(&people).contains(&name));
    people.shelf.ok(&["rm", "-v", "other"]);
    // Whoever wrote its name gave it one.
    assert!(volumes(&people).contains(&name));
    // What cannot be started leaves none.
    people.run(&["-v", "/data"], &["/no/such"]).exits(127);
    people.shelf.ok(&["volume", "rm", &name, "kept"]);
    assert_eq!(volumes(&people), Vec::<String>::new());
    people.assert_empty();
}

fn the_images_own_volumes(env: &Env) {
    let people = with_data(
        env,
        json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Volumes": {"/data": {}, "logs/./x/": {}}}),
    );
    let text = full(
        &people,
        &[],
        "cat /data/one; grep -c -e ' /data ' -e ' /logs/x ' /proc/self/mountinfo",
    );
    assert_eq!(text, "1\n2\n");
    assert_eq!(volumes(&people), Vec::<String>::new());
    // What is asked for takes their place.
    let text = full(
        &people,
        &["--tmpfs", "/data", "-v", "mine:/logs/x"],
        "ls /data; stat -f -c %T /data",
    );
    assert_eq!(text, "tmpfs\n");
    assert_eq!(volumes(&people), ["mine"]);
    // Those of a stranger's that cannot be are said to be his.
    people.image(
        "rooted",
        &[layer(env, &[])],
        json!({"Cmd": ["/bin/sh"], "Volumes": {"/x/../..": {}}}),
    );
    let many: serde_json::Map<String, Value> =
        (0..300).map(|n| (format!("/v{n}"), json!({}))).collect();
    people.image(
        "many",
        &[layer(env, &[])],
        json!({"Cmd": ["/bin/sh"], "Volumes": many}),
    );
    for (image, words) in [
        ("rooted", "the image's volume"),
        ("many", "more than 256 volumes"),
    ] {
        let command = people.command_of(image, &["--rm"], &["true"]);
        let output = people.env.rt.finish(people.env.rt.spawn(command));
        output.exits(125).says(words);
    }
    assert_eq!(volumes(&people), ["mine"]);
    people.assert_empty();
}

fn verbs_have_dockers_habits(env: &Env) {
    let people = People::new(env);
    let shelf = &people.shelf;
    assert_eq!(shelf.ok(&["volume", "ls"]), "DRIVER   VOLUME NAME\n");
    assert_eq!(
        shelf.ok(&["volume", "create", "--label", "a=b", "one"]),
        "one\n"
    );
    // Again is no error, and changes nothing.
    assert_eq!(shelf.ok(&["volume", "create", "one"]), "one\n");
    let random = shelf.ok(&["volume", "create"]);
    assert_eq!(random.trim().len(), 64);
    let shown: Value = serde_json::from_str(&shelf.ok(&["volume", "inspect", "one"])).unwrap();
    let one = &shown[0];
    assert_eq!(
        (
            one["Name"].as_str(),
            one["Driver"].as_str(),
            one["Labels"]["a"].as_str()
        ),
        (Some("one"), Some("local"), Some("b"))
    );
    assert_eq!(one["Mountpoint"], data(&people, "one").to_str().unwrap());
    assert_eq!(
        fs::metadata(data(&people, "one"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0o755
    );
    let format = [
        "volume",
        "ls",
        "--filter",
        "name=one",
        "--format",
        "{Name} {Labels} {Links}",
    ];
    assert_eq!(shelf.ok(&format), "one a=b 0\n");
    refused(
        &people,
        &["volume", "inspect", "none"],
        "no such volume: none",
    );
    refused(&people, &["volume", "rm", "none"], "no such volume: none");
    assert_eq!(shelf.ok(&["volume", "rm", "-f", "none"]), "none\n");
    refused(&people, &["volume", "create", "a/b"], "no name of a volume");
    refused(&people, &["volume", "create", "x"], "no name of a volume");
    refused(&people, &["volume", "create", "-d", "nfs", "xx"], "nfs");
    refused(&people, &["volume", "frobnicate"], "no verb");
    assert!(
        shelf
            .ok(&["volume", "rm", "--help"])
            .contains("rcrun volume rm")
    );
    shelf.ok(&["volume", "remove", "one", random.trim()]);
    assert_eq!(volumes(&people), Vec::<String>::new());
}

fn in_use_means_they_stay(env: &Env) {
    let people = People::new(env);
    people
        .run(&["-d", "--name=web", "-v", "busy:/v"], &["sleep", "100"])
        .ok();
    refused(
        &people,
        &["volume", "rm", "busy"],
        "in use by container web",
    );
    refused(
        &people,
        &["volume", "rm", "-f", "busy"],
        "in use by container web",
    );
    people.shelf.ok(&["volume", "prune", "--all", "--force"]);
    assert_eq!(
        people
            .shelf
            .lines(&["volume", "ls", "-q", "-f", "dangling=true"]),
        Vec::<String>::new()
    );
    people.shelf.ok(&["stop", "-t", "0", "web"]);
    // Also of one that ended.
    refused(&people, &["volume", "rm", "busy"], "in use");
    people.shelf.ok(&["rm", "-v", "web"]);
    assert_eq!(
        people
            .shelf
            .lines(&["volume", "ls", "-q", "-f", "dangling=true"]),
        ["busy"]
    );
    people.shelf.ok(&["volume", "rm", "busy"]);
}

fn prune_and_df(env: &Env) {
    let people = People::new(env);
    people.sh(
        &["-v", "named:/v"],
        "dd if=/dev/zero of=/v/x bs=1024 count=200 2>/dev/null",
    );
    people
        .run(&["--name=web", "-v", "/v"], &["sh", "-c", "echo 1 >/v/x"])
        .ok();
    people.shelf.ok(&["rm", "web"]);
    let row = |text: &str| -> Value {
        let rows = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        rows.into_iter()
            .find(|row| row["Type"] == "Local Volumes")
            .unwrap()
    };
    let shown = row(&people.shelf.ok(&["df", "--format", "json"]));
    assert_eq!(
        (shown["TotalCount"].as_u64(), shown["Active"].as_u64()),
        (Some(2), Some(0))
    );
    assert!(shown["Bytes"].as_u64() >= Some(200 << 10), "{shown}");
    assert_eq!(shown["Bytes"], shown["ReclaimableBytes"]);
    // All lines are what du says.
    let all = people.shelf.ok(&["df", "--format", "{Bytes}"]);
    let sum: u64 = all.lines().map(|line| line.parse::<u64>().unwrap()).sum();
    let du = std::process::Command::new("du")
        .args(["-s", "-B1"])
        .arg(people.shelf.path())
        .output()
        .unwrap();
    let du: u64 = String::from_utf8_lossy(&du.stdout)
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(sum, du, "{all}");
    // Plain prune leaves them, whatever else it is told.
    people
        .shelf
        .ok(&["prune", "--all", "--containers", "--build-cache", "--force"]);
    assert_eq!(volumes(&people).len(), 2);
    let text = people.shelf.ok(&["prune", "--volumes", "--force"]);
    assert!(text.contains("Deleted volume: "), "{text}");
    assert_eq!(volumes(&people), ["named"]);
    refused(&people, &["volume", "prune", "--all"], "not confirmed");
    people
        .shelf
        .ok(&["volume", "prune", "--all", "--force", "--filter", "label=x"]);
    assert_eq!(volumes(&people), ["named"]);
    let text = people.shelf.ok(&["volume", "prune", "--all", "--force"]);
    assert!(text.contains("named\n"), "{text}");
    assert_eq!(
        fs::read_dir(people.shelf.path().join("trash"))
            .unwrap()
            .count(),
        0
    );
}
