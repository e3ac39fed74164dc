//! Ordinary users: with subordinate ids and without, in one user namespace, next to others.

use crate::harness::people::layer;
use crate::harness::process::until;
use crate::harness::store::Image;
use crate::harness::users::{Accounts, COUNT, SUBORDINATE, User};
use crate::harness::{Env, Need, Shelf, Test, test};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

/// Nobody on the machines where this runs.
const ALICE: u32 = 54_321;
const BOB: u32 = 54_322;

pub(super) fn tests() -> Vec<Test> {
    let by_programs = |test: Test| {
        test.needs(Need::Program("newuidmap"))
            .needs(Need::Program("newgidmap"))
    };
    let with_ids = vec![
        test!(a_life_with_subordinate_ids),
        test!(all_verbs_share_a_namespace),
        test!(many_at_once_make_one_namespace),
        test!(a_namespace_below_outlives_its_monitor),
        test!(users_do_not_see_each_other),
        test!(root_of_a_namespace_needs_no_helper),
        test!(copies_where_no_overlay_can_be),
        test!(ids_of_a_namespace_of_its_own),
        test!(signals_and_exit_codes_pass),
        test!(mounts_are_seen_in_unshare),
        test!(programs_of_the_path_are_not_trusted),
    ];
    let without = vec![
        test!(a_life_without_subordinate_ids),
        test!(subordinate_ids_without_a_program),
        test!(subordinate_ids_that_make_no_sense),
        test!(places_of_others_are_refused),
        test!(limits_are_refused_where_nobody_can_set_them),
    ];
    with_ids
        .into_iter()
        .map(by_programs)
        .chain(without)
        .collect()
}

fn subordinate(name: &str, index: u32) -> String {
    format!("{name}:{}:{COUNT}\n", SUBORDINATE + index * COUNT)
}

/// Alice and Bob, who have subordinate ids.
fn both(env: &Env) -> Accounts {
    let ranges = subordinate("alice", 0) + &subordinate("bob", 1);
    Accounts::new(env, &[("alice", ALICE), ("bob", BOB)], &ranges, &ranges)
}

/// A layer of files with owners; `path/` is a directory.
fn owned(entries: &[(&str, u64, u64, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, uid, gid, content) in entries {
        let directory = path.ends_with('/');
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(match directory {
            true => tar::EntryType::Directory,
            false => tar::EntryType::Regular,
        });
        header.set_mode(if directory { 0o755 } else { 0o644 });
        header.set_uid(*uid);
        header.set_gid(*gid);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Three layers: a system, files of others, and deletions of some of them.
fn publish(shelf: &Shelf<'_>) {
    let files = owned(&[
        ("srv/", 33, 34, b""),
        ("srv/data", 33, 34, b"data"),
        ("gone/", 0, 0, b""),
        ("gone/file", 1000, 1000, b"x"),
        ("gone/other", 0, 0, b"x"),
        ("opaque/", 0, 0, b""),
        ("opaque/old", 0, 0, b"x"),
    ]);
    let marks = owned(&[
        ("gone/.wh.file", 0, 0, b""),
        ("opaque/.wh..wh..opq", 0, 0, b""),
        ("opaque/new", 7, 8, b"new"),
    ]);
    let mut image = Image::new(&[layer(shelf.env, &[]), files, marks]);
    image.config = json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]});
    shelf.publish("app", &image);
}

/// What `publish` means, with these owners.
const SHOWN: &str = "ls /gone /opaque; stat -c '%u %g' /srv/data /opaque/new; cat /srv/data";

fn record_of(user: &User<'_>, id: &str) -> Value {
    let path = user
        .store()
        .join("containers")
        .join(id)
        .join("container.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn namespace(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/user")).unwrap()
}

/// The first process of a container.
fn pid(user: &User<'_>, name: &str) -> i32 {
    let text = user.ok(&["inspect", "--format", "{State.Pid}", name]);
    text.trim().parse().unwrap()
}

fn a_life_with_subordinate_ids(env: &Env) {
    let _accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = alice.pull(&shelf, "app");
    // On the disk files belong to the ids that she was given.
    let layers = alice.list("layers");
    let whole: Vec<&String> = layers.iter().filter(|name| name.len() > 64).collect();
    assert_eq!(whole.len(), 3, "{layers:?}");
    assert!(
        whole.iter().all(|name| name.ends_with("-user")),
        "{layers:?}"
    );
    let data = whole.iter().map(|name| {
        alice
            .store()
            .join("layers")
            .join(name)
            .join("diff/srv/data")
    });
    let data: Vec<_> = data.filter_map(|path| fs::metadata(path).ok()).collect();
    let [data] = &data[..] else {
        panic!("{data:?}");
    };
    assert_eq!(
        (data.uid(), data.gid()),
        (SUBORDINATE + 32, SUBORDINATE + 33)
    );

    let shown = alice.ok(&["run", "--rm", &image, "sh", "-c", SHOWN]);
    assert_eq!(shown, "/gone:\nother\n\n/opaque:\nnew\n33 34\n7 8\ndata");
    let script = "id -u; awk '{print $1, $2, $3}' /proc/self/uid_map; touch /x && chown 5:6 /x && stat -c '%u %g' /x";
    let text = alice.ok(&["run", "--rm", "-u", "0:0", &image, "sh", "-c", script]);
    assert_eq!(
        text,
        format!("0\n0 {ALICE} 1\n1 {SUBORDINATE} {COUNT}\n5 6\n")
    );
    let text = alice.ok(&["run", "--rm", "-u", "1000:1000", &image, "id", "-u"]);
    assert_eq!(text, "1000\n");
    let output = alice.call(&["run", "--rm", "-u", "70000", &image, "id"]);
    output.exits(125).says("cannot be user 70000");

    // What a volume gets belongs to her, or to her ids.
    let volume = alice.home.join("volume");
    fs::create_dir(&volume).unwrap();
    chown(&volume, Some(ALICE), Some(ALICE)).unwrap();
    let bind = format!("{}:/mnt", volume.display());
    let script =
        "touch /mnt/mine /mnt/other && chown 10 /mnt/other; cat /sys/kernel/notes >/dev/null";
    alice.ok(&[
        "run",
        "--rm",
        "--network=host",
        "-v",
        &bind,
        &image,
        "sh",
        "-c",
        script,
    ]);
    assert_eq!(fs::metadata(volume.join("mine")).unwrap().uid(), ALICE);
    assert_eq!(
        fs::metadata(volume.join("other")).unwrap().uid(),
        SUBORDINATE + 9
    );
    // Nothing of root's.
    let output = alice.call(&["run", "--rm", "-v", "/etc/shadow:/s", &image, "cat", "/s"]);
    assert_ne!(output.code, 0, "{output}");
    let output = alice.call(&["run", "--rm", "-p", "80:80", &image, "true"]);
    output.exits(125).says("-p");

    let id = alice.ok(&["run", "-d", "--name=web", &image, "sleep", "1000"]);
    assert_eq!(record_of(&alice, id.trim())["name"], "web");
    assert!(alice.ok(&["ps"]).contains("web"));
    alice.ok(&[
        "exec",
        "web",
        "sh",
        "-c",
        "mkdir /made && chown 33:33 /made && rm -r /opaque",
    ]);
    assert_eq!(alice.ok(&["diff", "web"]), "A /made\nD /opaque\n");
    alice.ok(&["cp", "web:/etc/passwd", "passwd"]);
    assert_eq!(
        fs::metadata(alice.home.join("passwd")).unwrap().uid(),
        ALICE
    );
    alice.ok(&["cp", "passwd", "web:/made/copy"]);
    let owner = alice.ok(&["exec", "web", "stat", "-c", "%u %g", "/made/copy"]);
    assert_eq!(owner, "0 0\n");
    alice.ok(&["restart", "-t0", "web"]);
    assert_eq!(alice.ok(&["exec", "web", "ls", "/made"]), "copy\n");
    alice.ok(&["stop", "-t0", "web"]);
    assert!(alice.ok(&["ps", "-a"]).contains("Exited (137)"));
    alice.ok(&["start", "web"]);
    alice.ok(&["rm", "-f", "web"]);
    alice.ok(&["fsck"]);
    alice.ok(&["rmi", &image]);
    alice.ok(&["prune", "--all", "--force"]);
    alice.assert_empty();
}

fn a_life_without_subordinate_ids(env: &Env) {
    let _accounts = Accounts::new(env, &[("alice", ALICE)], "", "");
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let output = alice.call(&["pull", &shelf.name("app")]).ok();
    assert!(output.stderr.contains("no subordinate ids"), "{output}");
    let image = shelf.name("app");
    let layers = alice.list("layers");
    let singles = layers.iter().filter(|name| name.ends_with("-single"));
    assert_eq!(singles.count(), 3, "{layers:?}");
    let shown = alice.ok(&["run", "--rm", &image, "sh", "-c", SHOWN]);
    assert_eq!(shown, "/gone:\nother\n\n/opaque:\nnew\n0 0\n0 0\ndata");
    let script = "id; cat /proc/self/setgroups; touch /x; chown 5 /x || echo refused";
    let text = alice.ok(&["run", "--rm", &image, "sh", "-c", script]);
    assert_eq!(text, "uid=0(root) gid=0(root)\ndeny\nrefused\n");
    let output = alice.call(&["run", "--rm", "-u", "1000", &image, "id"]);
    output.exits(125).says("cannot be user 1000");

    alice.ok(&["run", "-d", "--name=web", &image, "sleep", "1000"]);
    assert_eq!(alice.ok(&["exec", "web", "id", "-u"]), "0\n");
    alice.ok(&["exec", "web", "rm", "-r", "/srv"]);
    alice.ok(&["stop", "-t0", "web"]);
    assert_eq!(alice.ok(&["diff", "web"]), "D /srv\n");
    alice.ok(&["rm", "web"]);
    // What goes away is what came, whoever its files belong to here.
    alice.ok(&["push", &image, "oci:copy:x"]);
    let blobs = |path: &Path| -> Vec<String> {
        let names = fs::read_dir(path).unwrap();
        let mut names: Vec<_> = names
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let mut here = Vec::new();
    for shard in alice.list("content/sha256") {
        here.extend(alice.list(&format!("content/sha256/{shard}")));
    }
    here.sort();
    assert_eq!(blobs(&alice.home.join("copy/blobs/sha256")), here);
    alice.ok(&["rmi", &image]);
    alice.ok(&["prune", "--all", "--force"]);
    alice.assert_empty();
}

fn all_verbs_share_a_namespace(env: &Env) {
    let _accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = alice.pull(&shelf, "app");
    for name in ["one", "two"] {
        let named = format!("--name={name}");
        alice.ok(&["run", "-d", &named, &image, "sleep", "1000"]);
    }
    let shared = namespace(pid(&alice, "one"));
    assert_ne!(shared, namespace(std::process::id().cast_signed()));
    assert_eq!(namespace(pid(&alice, "two")), shared);
    assert_eq!(
        alice
            .ok(&["unshare", "readlink", "/proc/self/ns/user"])
            .trim(),
        shared.to_str().unwrap()
    );
    // Whoever wrote down where it is has ended, and the monitors are killed: a container keeps it.
    for entry in fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name();
        let Some(other) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let line = fs::read(format!("/proc/{other}/cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).any(|word| word == b"monitor") {
            kill(Pid::from_raw(other), Signal::SIGKILL).unwrap();
        }
    }
    assert_eq!(alice.ok(&["exec", "two", "id", "-u"]), "0\n");
    alice.ok(&["stop", "-t0", "one", "two"]);
    alice.ok(&["rm", "one", "two"]);
    // The next one is new.
    alice.ok(&["run", "-d", "--name=three", &image, "sleep", "1000"]);
    alice.ok(&["rm", "-f", "three"]);
    alice.ok(&["rmi", &image]);
    alice.assert_empty();
}

fn many_at_once_make_one_namespace(env: &Env) {
    const MANY: usize = 8;
    let _accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = alice.pull(&shelf, "app");
    let started: Vec<_> = (0..MANY)
        .map(|_| alice.spawn(&["run", "-d", &image, "sleep", "1000"]))
        .collect();
    let ids: Vec<String> = started
        .into_iter()
        .map(|running| env.rt.finish(running).ok().stdout.trim().to_owned())
        .collect();
    let all: Vec<PathBuf> = ids.iter().map(|id| namespace(pid(&alice, id))).collect();
    assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
    let mut words = vec!["rm", "-f"];
    words.extend(ids.iter().map(String::as_str));
    alice.ok(&words);
    alice.ok(&["rmi", &image]);
    alice.assert_empty();
}

/// Nothing is in the shared namespace any more but what is in one below it.
fn a_namespace_below_outlives_its_monitor(env: &Env) {
    let _accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = alice.pull(&shelf, "app");
    alice.ok(&[
        "run",
        "-d",
        "--name=web",
        "--userns=auto:size=2000",
        &image,
        "sleep",
        "1000",
    ]);
    let init = pid(&alice, "web");
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    let monitor: i32 = parent.unwrap().trim().parse().unwrap();
    let shared = namespace(monitor);
    assert_ne!(namespace(init), shared);
    kill(Pid::from_raw(monitor), Signal::SIGKILL).unwrap();
    until("the monitor's end", 10, || {
        (!Path::new(&format!("/proc/{monitor}")).exists()).then_some(())
    });
    let now = alice.ok(&["unshare", "readlink", "/proc/self/ns/user"]);
    assert_eq!(now.trim(), shared.to_str().unwrap());
    assert_eq!(alice.ok(&["exec", "web", "id", "-u"]), "0\n");
    alice.ok(&["rm", "-f", "web"]);
    alice.ok(&["rmi", &image]);
    alice.assert_empty();
}

fn users_do_not_see_each_other(env: &Env) {
    let _accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let (alice, bob) = (User::new(env, "alice", ALICE), User::new(env, "bob", BOB));
    let image = alice.pull(&shelf, "app");
    alice.ok(&["run", "-d", "--name=web", &image, "sleep", "1000"]);
    assert_eq!(bob.ok(&["images", "--quiet"]), "");
    assert_eq!(bob.ok(&["ps", "-aq"]), "");
    for words in [
        &["exec", "web", "id"][..],
        &["stop", "web"],
        &["rm", "web"],
        &["run", "--rm", "--pull=never", &image, "id"],
    ] {
        bob.call(words).fails();
    }
    let store = alice.store();
    for words in [
        &["images"][..],
        &["ps"],
        &["rm", "-f", "web"],
        &["prune", "--all", "--force"],
    ] {
        let line = [&["--store", store.to_str().unwrap()], words].concat();
        bob.call(&line).fails().says("permission denied");
    }
    // Her runtime directory does not lead him into her namespace.
    let mut command = bob.command(&["ps"]);
    command.env("XDG_RUNTIME_DIR", &alice.run);
    bob.finish(command).fails();
    assert!(alice.ok(&["ps"]).contains("web"));
    bob.pull(&shelf, "app");
    bob.ok(&["run", "-d", "--name=web", &image, "sleep", "1000"]);
    assert_ne!(namespace(pid(&alice, "web")), namespace(pid(&bob, "web")));
    for user in [&alice, &bob] {
        user.ok(&["rm", "-f", "web"]);
        user.ok(&["rmi", &image]);
        user.assert_empty();
    }
}

/// Below `unshare`, in a container, in a pod of some CI: whatever made the namespace.
fn root_of_a_namespace_needs_no_helper(env: &Env) {
    let mut accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = shelf.name("app");
    let rcrun = alice.program();
    let script = format!(
        "set -e; {rcrun} pull -q {image}; {rcrun} run --rm {image} sh -c \"{SHOWN}\"; \
         {rcrun} run -d --name web {image} sleep 1000; {rcrun} exec web id -u; {rcrun} rm -f web; {rcrun} rmi {image}"
    );
    for (flags, owners) in [
        (&["-r", "--map-auto"][..], "33 34\n7 8"),
        (&["-r"], "0 0\n0 0"),
    ] {
        if flags.len() == 1 {
            // From here on there is nothing to help.
            for program in ["newuidmap", "newgidmap"] {
                accounts.bind(Path::new("/dev/null"), &Path::new("/usr/bin").join(program));
            }
        }
        let words = [&["unshare"], flags, &["sh", "-c", &script]].concat();
        let output = alice.finish(alice.any(&words)).ok();
        let shown = format!("/gone:\nother\n\n/opaque:\nnew\n{owners}\ndata");
        assert!(output.stdout.contains(&shown), "{output}");
        alice.assert_empty();
    }
}

/// A store on an overlayfs, as in a container without volumes: neither whiteouts nor a second overlay.
fn copies_where_no_overlay_can_be(env: &Env) {
    let mut accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let plain = Image::new(&[layer(env, &[]), owned(&[("srv/data", 33, 34, b"data")])]);
    shelf.publish("plain", &plain);
    let alice = User::new(env, "alice", ALICE);
    let memory = env.directory("memory");
    let none: Option<&str> = None;
    nix::mount::mount(
        Some("tmpfs"),
        &memory,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        none,
    )
    .unwrap();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(memory.join(name)).unwrap();
        chown(memory.join(name), Some(ALICE), Some(ALICE)).unwrap();
    }
    let at = alice.home.join(".local");
    fs::create_dir(&at).unwrap();
    let parts = ["lower", "upper", "work"].map(|name| memory.join(name).display().to_string());
    let data = format!(
        "lowerdir={},upperdir={},workdir={}",
        parts[0], parts[1], parts[2]
    );
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(
        Some("overlay"),
        &at,
        Some("overlay"),
        flags,
        Some(data.as_str()),
    )
    .unwrap();
    // Unmounted with the accounts' files.
    accounts.adopt(&memory);
    accounts.adopt(&at);

    let image = alice.pull(&shelf, "app");
    let output = alice
        .call(&["run", "--name=web", &image, "sh", "-c", SHOWN])
        .ok();
    assert_eq!(
        output.stdout,
        "/gone:\nother\n\n/opaque:\nnew\n33 34\n7 8\ndata"
    );
    assert!(
        output.stderr.contains("a copy of its image's files"),
        "{output}"
    );
    let snapshot = alice.list("snapshots").pop().unwrap();
    assert_eq!(
        alice.list(&format!("snapshots/{snapshot}")),
        ["root", "snapshot.json"]
    );
    // It takes what it takes.
    let rows = alice.ok(&["df", "--format", "json"]);
    let rows: Vec<Value> = rows
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |kind: &str| {
        rows.iter()
            .find(|row| row["Type"] == kind)
            .unwrap()
            .to_string()
    };
    let size: Value = serde_json::from_str(&of("Containers")).unwrap();
    assert!(
        size["Size"]
            .as_str()
            .is_some_and(|text| text.ends_with("MB")),
        "{size}"
    );
    let other = alice
        .call(&[
            "run",
            "--rm",
            &alice.pull(&shelf, "plain"),
            "cat",
            "/srv/data",
        ])
        .ok();
    assert_eq!(other.stdout, "data");
    assert!(
        other.stderr.contains("is it an overlayfs itself?"),
        "{other}"
    );
    alice.ok(&["rm", "web"]);
    alice.ok(&["run", "-d", "--name=web", &image, "sleep", "1000"]);
    alice.ok(&[
        "exec",
        "web",
        "sh",
        "-c",
        "echo x > /srv/data; rm /opaque/new; mkdir /new",
    ]);
    let changes = "C /opaque\nD /opaque/new\nC /srv\nC /srv/data\nA /new\n";
    let mut lines: Vec<String> = alice
        .ok(&["diff", "web"])
        .lines()
        .map(str::to_owned)
        .collect();
    lines.retain(|line| !line.contains("/dev") && !line.contains("/etc"));
    lines.sort();
    let mut expected: Vec<&str> = changes.lines().filter(|line| *line != "C /srv").collect();
    expected.push("C /srv");
    expected.sort_unstable();
    assert_eq!(lines, expected);
    alice.ok(&["stop", "-t0", "web"]);
    alice.ok(&["cp", "web:/srv/data", "data"]);
    assert_eq!(fs::read_to_string(alice.home.join("data")).unwrap(), "x\n");
    alice.ok(&["rm", "web"]);
    alice.ok(&["rmi", &image, &shelf.name("plain")]);
    alice.assert_empty();
}

fn ids_of_a_namespace_of_its_own(env: &Env) {
    let _accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = alice.pull(&shelf, "app");
    let script = "awk '{print $1, $2, $3}' /proc/self/uid_map; stat -c '%u %g' / /srv/data /opaque/new; ls /gone";
    let output = alice.call(&[
        "run",
        "--rm",
        "--userns=auto:size=2000",
        &image,
        "sh",
        "-c",
        script,
    ]);
    let output = output.ok();
    assert_eq!(output.stdout, "0 1 2000\n0 0\n33 34\n7 8\nother\n");
    assert!(output.stderr.contains("cannot map the ids"), "{output}");
    // Nobody else gets these as long as they are taken.
    for (name, first) in [("one", 1), ("two", 3001)] {
        let named = format!("--name={name}");
        let id = alice.ok(&[
            "run",
            "-d",
            &named,
            "--userns=auto:size=3000",
            &image,
            "sleep",
            "1000",
        ]);
        assert_eq!(record_of(&alice, id.trim())["map"][0]["outer"], first);
    }
    assert_eq!(alice.ok(&["exec", "two", "id", "-u"]), "0\n");
    alice.ok(&[
        "exec",
        "two",
        "sh",
        "-c",
        "echo new > /srv/data; chown 5 /srv/data",
    ]);
    alice.ok(&["stop", "-t0", "one", "two"]);
    assert_eq!(alice.ok(&["diff", "two"]), "C /srv\nC /srv/data\n");
    alice.ok(&["rm", "one", "two"]);
    alice
        .call(&["run", "--rm", "--userns=auto:size=70000", &image, "true"])
        .exits(125)
        .says("cannot find 70000 free user ids");
    alice
        .call(&["run", "--rm", "--userns=0:65000:1000", &image, "true"])
        .exits(125)
        .says("you do not have all of these ids");

    let volume = format!("{}:/mnt", alice.home.display());
    let script = "id -u; touch /mnt/kept; stat -c %u /srv/data";
    let words = [
        "run",
        "--rm",
        "--userns=keep-id",
        "-v",
        &volume,
        &image,
        "sh",
        "-c",
        script,
    ];
    assert_eq!(alice.ok(&words), format!("{ALICE}\n33\n"));
    assert_eq!(fs::metadata(alice.home.join("kept")).unwrap().uid(), ALICE);
    alice.ok(&["rmi", &image]);
    alice.assert_empty();
}

fn signals_and_exit_codes_pass(env: &Env) {
    let _accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = alice.pull(&shelf, "app");
    let output = alice.call(&[
        "run",
        "--rm",
        &image,
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!(
        (output.code, output.stdout.as_str(), output.stderr.as_str()),
        (7, "out\n", "err\n")
    );
    alice.call(&["run", "--rm", &image, "/absent"]).exits(127);
    let script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let mut running = alice.spawn(&["run", "--rm", &image, "sh", "-c", script]);
    until("the container", 20, || {
        running.read().0.contains("ready").then_some(())
    });
    // The process that was called is the one that waits: nothing stands between.
    let own = running.pid();
    let name = fs::read_link(format!("/proc/{own}/exe")).unwrap();
    assert!(name.ends_with("rcrun"), "{name:?}");
    let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap();
    let exe = |pid: &str| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let monitors = children.split_whitespace().filter(|pid| {
        exe(pid)
            .split(|byte| *byte == 0)
            .any(|word| word == b"monitor")
    });
    assert_eq!(
        monitors.count(),
        children.split_whitespace().count(),
        "{children}"
    );
    kill(Pid::from_raw(own), Signal::SIGTERM).unwrap();
    let output = env.rt.finish(running);
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (3, "ready\ncaught\n"),
        "{output}"
    );
    let words = [
        "run",
        "-d",
        "--name=web",
        &image,
        "sh",
        "-c",
        "echo said; exit 9",
    ];
    alice.ok(&words);
    assert_eq!(alice.ok(&["wait", "web"]), "9\n");
    assert_eq!(alice.ok(&["logs", "web"]), "said\n");
    alice.ok(&["rm", "web"]);
    // Through a pipe that somebody else made.
    let line = format!("{} run --rm {image} echo piped | cat", alice.program());
    let mut command = std::process::Command::new("sh");
    let me = alice.any(&[]);
    let become_her: Vec<_> = me.get_args().map(|word| word.to_str().unwrap()).collect();
    command.args(["-c", &format!("setpriv {} {line}", become_her.join(" "))]);
    for (name, value) in me.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = alice.finish(command).ok();
    assert_eq!(output.stdout, "piped\n", "{output}");
    alice.ok(&["rmi", &image]);
    alice.assert_empty();
}

fn mounts_are_seen_in_unshare(env: &Env) {
    let _accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = alice.pull(&shelf, "app");
    let place = alice.home.join("place");
    fs::create_dir(&place).unwrap();
    chown(&place, Some(ALICE), Some(ALICE)).unwrap();
    let output = alice.call(&["mount", &image, "place"]);
    output.fails().says("rcrun unshare");
    let rcrun = alice.program();
    let script = format!(
        "set -e; {rcrun} mount {image} place; cat place/srv/data; stat -c ' %u' place/srv/data; {rcrun} unmount place"
    );
    assert_eq!(
        alice.ok(&["unshare", "sh", "-c", &script]),
        format!("place\ndata 33\n{}\n", place.display())
    );
    alice.call(&["unshare", "/absent"]).exits(127);
    alice.call(&["unshare", "sh", "-c", "exit 5"]).exits(5);
    let output = shelf.call(&["unshare", "true"]);
    output.exits(125).says("root of the machine");
    alice.ok(&["rmi", &image]);
    alice.assert_empty();
}

/// What `$PATH` finds is whoever's.
fn programs_of_the_path_are_not_trusted(env: &Env) {
    let mut accounts = both(env);
    let alice = User::new(env, "alice", ALICE);
    let evil = env.directory("evil");
    for name in ["newuidmap", "newgidmap"] {
        env.script(
            &format!("evil/{name}"),
            &format!("touch {}/called; exit 0", alice.home.display()),
        );
    }
    let mut command = alice.command(&["images"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", evil.display()));
    alice.finish(command).ok();
    assert!(!alice.home.join("called").exists());
    // One that others can write to is as good as theirs.
    let open = env.script("open", "exit 0");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    accounts.bind(&open, Path::new("/usr/bin/newuidmap"));
    alice
        .call(&["images"])
        .fails()
        .says("others than root can write to it");
    // One that does nothing has done nothing.
    let useless = env.script("useless", "echo no rights >&2; exit 1");
    accounts.bind(&useless, Path::new("/usr/bin/newuidmap"));
    alice.call(&["images"]).fails().says("no rights");
    // No variable makes anybody root.
    let mut command = alice.command(&["images"]);
    for (name, value) in [
        ("_CONTAINERS_USERNS_CONFIGURED", "done"),
        ("RCRUN_ROOTLESS", "1"),
        ("container", "podman"),
    ] {
        command.env(name, value);
    }
    alice.finish(command).fails().says("no rights");
}

fn subordinate_ids_without_a_program(env: &Env) {
    let mut accounts = both(env);
    let alice = User::new(env, "alice", ALICE);
    for directory in [
        "/usr/bin",
        "/bin",
        "/usr/sbin",
        "/usr/local/bin",
        "/run/wrappers/bin",
    ] {
        let path = Path::new(directory).join("newuidmap");
        if path.is_file() {
            accounts.bind(Path::new("/dev/null"), &path);
        }
    }
    let output = alice.call(&["images"]).fails();
    assert!(
        output.stderr.contains("newuidmap") && output.stderr.contains("uidmap (Debian"),
        "{output}"
    );
    // What needs no ids needs no program.
    alice.ok(&["logout", "registry.example"]);
    assert!(alice.ok(&["pull", "--help"]).contains("rcrun pull"));
}

fn subordinate_ids_that_make_no_sense(env: &Env) {
    for (line, words) in [
        ("alice:0:65536", "it gives away root"),
        ("alice:54000:1000", "own id"),
        ("alice:4294967290:100", "largest"),
        ("alice:100:0", "no id"),
        ("alice:x:5", "USER:FIRST:COUNT"),
    ] {
        let text = format!("# people\n{line}\n");
        let _accounts = Accounts::new(env, &[("alice", ALICE)], &text, &text);
        let alice = User::new(env, "alice", ALICE);
        let output = alice.call(&["images"]).fails();
        assert!(
            output.stderr.contains(words) && output.stderr.contains("line 2 of /etc/subuid"),
            "{output}"
        );
    }
    let _accounts = Accounts::new(env, &[("alice", ALICE)], "alice:100000:10\n", "");
    let alice = User::new(env, "alice", ALICE);
    alice.call(&["images"]).fails().says("/etc/subgid does not");
}

fn places_of_others_are_refused(env: &Env) {
    let _accounts = Accounts::new(env, &[("alice", ALICE)], "", "");
    let alice = User::new(env, "alice", ALICE);
    let theirs = env.directory("theirs");
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o777)).unwrap();
    let call = |place: &Path| {
        let mut command = alice.command(&["images"]);
        command.env("XDG_RUNTIME_DIR", place);
        alice.finish(command)
    };
    // Somebody was there first: with a directory, with one that all may write to, with a link.
    fs::create_dir(theirs.join("rcrun")).unwrap();
    fs::set_permissions(theirs.join("rcrun"), fs::Permissions::from_mode(0o777)).unwrap();
    call(&theirs).fails().says("no directory of this user");
    chown(theirs.join("rcrun"), Some(ALICE), Some(ALICE)).unwrap();
    call(&theirs).fails().says("no directory of this user");
    fs::remove_dir(theirs.join("rcrun")).unwrap();
    symlink(&alice.home, theirs.join("rcrun")).unwrap();
    call(&theirs).fails().says("no directory of this user");
    call(&env.path("missing"))
        .fails()
        .says("set $XDG_RUNTIME_DIR");
    // The register is no link either.
    alice.ok(&["images"]);
    let register = fs::read_dir(alice.run.join("rcrun"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.to_string_lossy().contains(".user-namespace-"))
        .unwrap();
    fs::remove_file(&register).unwrap();
    symlink(alice.home.join("target"), &register).unwrap();
    alice.call(&["images"]).fails();
    assert!(!alice.home.join("target").exists());
    // A lie in it leads nowhere.
    fs::remove_file(&register).unwrap();
    let own = fs::metadata("/proc/self/ns/user").unwrap().ino();
    for lie in [
        format!("{{\"version\":1,\"namespace\":{own},\"pid\":1}}"),
        format!(
            "{{\"version\":1,\"namespace\":{own},\"pid\":{}}}",
            std::process::id()
        ),
        "nonsense".to_owned(),
    ] {
        fs::write(&register, lie).unwrap();
        chown(&register, Some(ALICE), Some(ALICE)).unwrap();
        let map = alice.ok(&["unshare", "cat", "/proc/self/uid_map"]);
        let numbers: Vec<&str> = map.split_whitespace().collect();
        assert_eq!(numbers, ["0", &ALICE.to_string(), "1"]);
    }
}

fn limits_are_refused_where_nobody_can_set_them(env: &Env) {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        env.skip("with cgroup v2 limits depend on what is delegated");
    }
    let _accounts = Accounts::new(env, &[("alice", ALICE)], "", "");
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = alice.pull(&shelf, "app");
    alice.ok(&["run", "--rm", &image, "true"]);
    let output = alice.call(&["run", "--rm", "--memory=100m", &image, "true"]);
    output.exits(125).says("memory");
    alice.ok(&["rmi", &image]);
    alice.assert_empty();
}
