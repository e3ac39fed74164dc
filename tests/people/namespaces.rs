//! The user namespace of an ordinary user: who gets into it, who does not, and what it takes to make one.

use crate::harness::process::until;
use crate::harness::users::{
    self, ALICE, Accounts, BOB, SHOWN, User, both, namespace, pid, publish,
};
use crate::harness::{Env, Shelf, Test, test};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

pub(super) fn tests() -> Vec<Test> {
    let with_ids = vec![
        test!(all_verbs_share_a_namespace),
        test!(many_at_once_make_one_namespace),
        test!(killed_anywhere_on_the_way_in),
        test!(a_namespace_below_outlives_its_monitor),
        test!(users_do_not_see_each_other),
        test!(root_of_a_namespace_needs_no_helper),
        test!(mounts_are_seen_in_unshare),
        test!(programs_of_the_path_are_not_trusted),
        test!(who_may_not_make_one_is_told_why),
    ];
    let without = vec![
        test!(subordinate_ids_without_a_program),
        test!(subordinate_ids_that_make_no_sense),
        test!(places_of_others_are_refused),
    ];
    with_ids
        .into_iter()
        .map(users::by_programs)
        .chain(without)
        .collect()
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

/// Whoever is killed while it makes or enters the namespace keeps nobody out, and never makes two.
fn killed_anywhere_on_the_way_in(env: &Env) {
    const KILLS: u64 = 40;
    let _accounts = both(env);
    let shelf = Shelf::new(env);
    publish(&shelf);
    let alice = User::new(env, "alice", ALICE);
    let image = alice.pull(&shelf, "app");
    for round in 0..KILLS {
        let mut all: Vec<_> = (0..2)
            .map(|_| alice.spawn(&["run", "-d", &image, "sleep", "1000"]))
            .collect();
        std::thread::sleep(std::time::Duration::from_micros(round * 700));
        kill(Pid::from_raw(all[0].pid()), Signal::SIGKILL).unwrap();
        env.rt.finish(all.remove(0));
        // The other one is not in the way.
        env.rt.finish(all.remove(0)).ok();
        let ids = alice.ok(&["ps", "-q", "--no-trunc"]);
        let all: Vec<PathBuf> = ids.lines().map(|id| namespace(pid(&alice, id))).collect();
        assert!(
            !all.is_empty() && all.iter().all(|one| *one == all[0]),
            "{all:?}"
        );
        if round % 4 == 3 {
            let ids = alice.ok(&["ps", "-aq", "--no-trunc"]);
            let words: Vec<&str> = ["rm", "-f"].into_iter().chain(ids.lines()).collect();
            alice.ok(&words);
        }
    }
    alice.ok(&["prune", "--force"]);
    alice.ok(&["rmi", &image]);
    alice.ok(&["prune", "--all", "--force"]);
    assert_eq!(alice.list("containers"), ["names"]);
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

/// In a machine, here a namespace, that allows none.
fn who_may_not_make_one_is_told_why(env: &Env) {
    // For the namespace around hers.
    let ranges = "root:0:60000\n";
    let _accounts = Accounts::new(env, &[("alice", ALICE)], ranges, ranges);
    let alice = User::new(env, "alice", ALICE);
    let inner = alice.command(&["images"]);
    let words: Vec<&str> = inner
        .get_args()
        .map(|word| word.to_str().unwrap())
        .collect();
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["--user", "--map-users=0,0,60000", "--map-groups=0,0,60000"]);
    command.args(["sh", "-c", script, "sh"]).args(words);
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = alice.finish(command).fails();
    output
        .says("cannot make a user namespace")
        .says("user.max_user_namespaces");
}
