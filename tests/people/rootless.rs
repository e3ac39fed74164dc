//! What ordinary users do with images and containers: with subordinate ids and without, with overlays and
//! with copies.

use crate::harness::people::layer;
use crate::harness::process::until;
use crate::harness::store::Image;
use crate::harness::users::{
    self, ALICE, Accounts, COUNT, SHOWN, SUBORDINATE, User, both, owned, publish, record_of,
};
use crate::harness::{Env, Shelf, Test, test};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

pub(super) fn tests() -> Vec<Test> {
    let with_ids = vec![
        test!(files_belong_to_subordinate_ids),
        test!(volumes_are_the_users),
        test!(a_life_with_subordinate_ids),
        test!(copies_where_no_overlay_can_be),
        test!(ids_of_a_namespace_of_its_own),
        test!(signals_and_exit_codes_pass),
        test!(too_few_ids_are_told_of),
    ];
    let without = vec![
        test!(a_life_without_subordinate_ids),
        test!(copies_for_root),
        test!(limits_are_refused_where_nobody_can_set_them),
    ];
    with_ids
        .into_iter()
        .map(users::by_programs)
        .chain(without)
        .collect()
}

fn files_belong_to_subordinate_ids(env: &Env) {
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

    alice.ok(&["rmi", &image]);
    alice.ok(&["prune", "--all", "--force"]);
    alice.assert_empty();
}

fn volumes_are_the_users(env: &Env) {
    let _accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = alice.pull(&shelf, "app");
    // What a volume gets belongs to her, or to her ids.
    let volume = alice.home.join("volume");
    fs::create_dir(&volume).unwrap();
    chown(&volume, Some(ALICE), Some(ALICE)).unwrap();
    let bind = format!("{}:/mnt", volume.display());
    let host = [
        "run",
        "--rm",
        "--network=host",
        "--pid=host",
        "--ipc=host",
        "--uts=host",
        &image,
        "sh",
        "-c",
        "test -e /sys/class/net/lo && test -d /proc/1 && cat /proc/sys/kernel/ostype",
    ];
    assert_eq!(alice.ok(&host), "Linux\n");
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

    alice.ok(&["rmi", &image]);
    alice.ok(&["prune", "--all", "--force"]);
    alice.assert_empty();
}

fn a_life_with_subordinate_ids(env: &Env) {
    let _accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = alice.pull(&shelf, "app");
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

/// A store on an overlayfs, as in a container without volumes: neither whiteouts nor a second overlay.
fn on_an_overlay(env: &Env, at: &Path, owner: u32, accounts: &mut Accounts) {
    let memory = env.directory("memory");
    let (none, flags): (Option<&str>, _) = (None, MsFlags::empty());
    mount(Some("tmpfs"), &memory, Some("tmpfs"), flags, none).unwrap();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(memory.join(name)).unwrap();
        chown(memory.join(name), Some(owner), Some(owner)).unwrap();
    }
    fs::create_dir(at).unwrap();
    let [lower, upper, work] =
        ["lower", "upper", "work"].map(|name| memory.join(name).display().to_string());
    let data = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    mount(Some("overlay"), at, Some("overlay"), flags, Some(&*data)).unwrap();
    accounts.adopt(&memory);
    accounts.adopt(at);
}

fn copies_where_no_overlay_can_be(env: &Env) {
    let mut accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let plain = Image::new(&[layer(env, &[]), owned(&[("srv/data", 33, 34, b"data")])]);
    shelf.publish("plain", &plain);
    let alice = User::new(env, "alice", ALICE);
    on_an_overlay(env, &alice.home.join(".local"), ALICE, &mut accounts);
    let image = alice.pull(&shelf, "app");
    let output = alice.call(&["run", "--name=web", &image, "sh", "-c", SHOWN]);
    let output = output.ok();
    let shown = "/gone:\nother\n\n/opaque:\nnew\n33 34\n7 8\ndata";
    assert_eq!(output.stdout, shown);
    let said = &output.stderr;
    assert!(said.contains("a copy of its image's files"), "{said}");
    let snapshot = alice.list("snapshots").pop().unwrap();
    let files = alice.list(&format!("snapshots/{snapshot}"));
    assert_eq!(files, ["root", "snapshot.json"]);
    // It takes what it takes: the system's program alone is more than a megabyte.
    let rows = alice.ok(&["df", "--format", "json"]);
    let mut rows = rows
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let row = rows.find(|row| row["Type"] == "Containers").unwrap();
    assert!(
        row["Bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 20),
        "{row}"
    );
    let image_of_two = alice.pull(&shelf, "plain");
    let other = alice.call(&["run", "--rm", &image_of_two, "cat", "/srv/data"]);
    let other = other.ok();
    assert_eq!(other.stdout, "data");
    let said = &other.stderr;
    assert!(said.contains("is it an overlayfs itself?"), "{said}");
    alice.ok(&["rm", "web"]);
    alice.ok(&["run", "-d", "--name=web", &image, "sleep", "1000"]);
    let script = "echo x > /srv/data; rm /opaque/new; mkdir /new";
    alice.ok(&["exec", "web", "sh", "-c", script]);
    let changes = alice.ok(&["diff", "web"]);
    // What is mounted in it was made, too.
    let changes: Vec<&str> = changes
        .lines()
        .filter(|line| !line.contains("/dev") && !line.contains("/etc"))
        .collect();
    let expected = [
        "A /new",
        "C /opaque",
        "D /opaque/new",
        "C /srv",
        "C /srv/data",
    ];
    assert_eq!(changes, expected);
    alice.ok(&["stop", "-t0", "web"]);
    alice.ok(&["cp", "web:/srv/data", "data"]);
    let data = fs::read_to_string(alice.home.join("data")).unwrap();
    assert_eq!(data, "x\n");
    alice.ok(&["rm", "web"]);
    alice.ok(&["rmi", &image, &image_of_two]);
    alice.assert_empty();
}

/// The same for root, in a container that may do everything.
fn copies_for_root(env: &Env) {
    let mut accounts = Accounts::new(env, &[], "", "");
    let shelf = Shelf::new(env);
    publish(&shelf);
    on_an_overlay(env, &shelf.path(), 0, &mut accounts);
    let image = shelf.name("app");
    shelf.ok(&["pull", "--quiet", &image]);
    let words = ["run", "--rm", &image, "sh", "-c", SHOWN];
    let output = shelf.call(&words).ok();
    let shown = "/gone:\nother\n\n/opaque:\nnew\n33 34\n7 8\ndata";
    assert_eq!(output.stdout, shown);
    let said = &output.stderr;
    assert!(said.contains("the store is on an overlayfs"), "{said}");
    let words = [
        "run",
        "--rm",
        "--userns=0:300000:65536",
        &image,
        "sh",
        "-c",
        SHOWN,
    ];
    assert_eq!(shelf.ok(&words), shown);
    // Nor are there mounts that map ids: a volume's files have those of the first container.
    let words = [
        "run",
        "--rm",
        "--userns=0:300000:65536",
        "-v",
        "vol:/srv",
        &image,
        "stat",
        "-c",
        "%u:%g",
        "/srv/data",
    ];
    assert_eq!(shelf.ok(&words), "33:34\n");
    let data = shelf.path().join("volumes/vol/data/data");
    assert_eq!(fs::metadata(data).unwrap().uid(), 300_033);
    shelf.ok(&["volume", "rm", "vol"]);
    // There is no file system to mount, and the place is named where the files are.
    shelf.ok(&["run", "--name=web", &image, "sh", "-c", "echo made >/made"]);
    let at = env.directory("at");
    let output = shelf.call(&["mount", "web", at.to_str().unwrap()]);
    let output = output.exits(1).says("it is a copy of its layers");
    let said = output.stderr.split("its files are in ").nth(1).unwrap();
    let place = shelf.path().join(said.split(' ').next().unwrap());
    assert_eq!(fs::read_to_string(place.join("made")).unwrap(), "made\n");
    shelf.ok(&["rm", "web"]);
    shelf.ok(&["rmi", &image]);
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

fn too_few_ids_are_told_of(env: &Env) {
    let ranges = format!("alice:{SUBORDINATE}:20\n");
    let _accounts = Accounts::new(env, &[("alice", ALICE)], &ranges, &ranges);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let output = alice.call(&["pull", "--quiet", &shelf.name("app")]);
    let output = output.fails().says("no user 33 or no group 34");
    assert!(output.stderr.contains("/etc/subuid"), "{output}");
    assert_eq!(alice.list("images/names"), Vec::<String>::new());
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

fn limits_are_refused_where_nobody_can_set_them(env: &Env) {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        env.skip("with cgroup v2 limits depend on what is delegated");
    }
    let _accounts = Accounts::new(env, &[("alice", ALICE)], "", "");
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = alice.pull(&shelf, "app");
    alice.ok(&["run", "-d", "--name=web", &image, "sleep", "1000"]);
    let output = alice.call(&["run", "--rm", "--memory=100m", &image, "true"]);
    output.exits(125).says("memory");
    // What else a cgroup is for is found otherwise, or refused.
    let top = alice.ok(&["top", "web"]);
    assert!(
        top.lines().count() == 2 && top.contains("sleep 1000"),
        "{top}"
    );
    let output = alice.call(&["pause", "web"]);
    output.fails().says("the container has no cgroup");
    alice.ok(&["rm", "-f", "web"]);
    alice.ok(&["rmi", &image]);
    alice.assert_empty();
}
