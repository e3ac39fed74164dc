//! From `run` to the end: streams, exit codes, names, what is left, being killed.

use crate::harness::faults;
use crate::harness::people::People;
use crate::harness::{Env, Test, test};
use std::time::{Duration, Instant};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(output_and_exit_code_are_the_containers),
        test!(failures_of_the_program_have_dockers_codes),
        test!(input_reaches_the_program_and_ends),
        test!(in_the_background_the_id_is_printed),
        test!(one_name_for_one_container),
        test!(of_many_who_want_one_name_one_gets_it),
        test!(what_is_killed_is_cleaned_up),
        test!(what_goes_at_its_end_is_not_synced),
        test!(what_was_to_go_is_swept_after_a_power_cut).timeout(120),
        test!(signals_reach_the_container),
        test!(what_cannot_be_started_leaves_nothing),
        test!(the_image_is_pulled_when_it_is_missing),
        test!(the_runtimes_run_is_unchanged),
        test!(an_init_reaps_and_forwards),
    ]
}

fn output_and_exit_code_are_the_containers(env: &Env) {
    let people = People::new(env);
    let output = people.run(&["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((output.code, output.stdout.as_str()), (7, "out\n"));
    assert_eq!(output.stderr, "err\n");
    // Much, and all of it.
    let count = people.sh(&[], "yes 0123456789 | head -n 100000").len();
    assert_eq!(count, 1_100_000);
    let output = people.run(&["--rm"], &["sh", "-c", "kill -TERM $$; exit 1"]);
    // Process 1 is spared from signals that it sends itself.
    assert_eq!(output.code, 1);
    people.assert_empty();
}

fn failures_of_the_program_have_dockers_codes(env: &Env) {
    let people = People::new(env);
    for (command, code, words) in [
        (
            "nothing-of-that-name",
            127,
            "executable file not found in $PATH",
        ),
        ("/no/such/program", 127, "no such file or directory"),
        ("/etc/passwd", 126, "permission denied"),
        ("/etc", 126, "is a directory"),
    ] {
        for mode in ["--rm", "-d"] {
            let output = people.run(&[mode], &[command]);
            assert_eq!(output.code, code, "{command} {mode}: {}", output.stderr);
            assert!(output.stderr.contains(words), "{}", output.stderr);
        }
    }
    let output = people.run(&["--user=ghost"], &["true"]);
    assert_eq!(output.code, 125);
    assert!(
        output.stderr.contains("no user \"ghost\""),
        "{}",
        output.stderr
    );
    let output = people.run(&["--memory=lots", "--cpus=many"], &["true"]);
    assert_eq!(output.code, 125);
    assert!(
        output.stderr.contains("2 problems: --memory: "),
        "{}",
        output.stderr
    );
    let output = people.run(&["--shiny"], &["true"]);
    assert_eq!(output.code, 125);
    people.assert_empty();
}

fn input_reaches_the_program_and_ends(env: &Env) {
    let people = People::new(env);
    let file = people.file("input", "one\ntwo\n");
    let mut command = people.command(&["--rm", "-i"], &["sort", "-r"]);
    command.stdin(std::fs::File::open(&file).unwrap());
    let output = env.rt.finish(env.rt.spawn(command)).ok();
    assert_eq!(output.stdout, "two\none\n");
    // Without -i there is none.
    let mut command = people.command(&["--rm"], &["wc", "-c"]);
    command.stdin(std::fs::File::open(&file).unwrap());
    assert_eq!(env.rt.finish(env.rt.spawn(command)).ok().stdout, "0\n");
}

fn in_the_background_the_id_is_printed(env: &Env) {
    let people = People::new(env);
    let cidfile = env.path("cid");
    let flags = ["-d", "--name=web", "--cidfile", cidfile.to_str().unwrap()];
    let output = people
        .run(&flags, &["sh", "-c", "echo hello; sleep 100"])
        .ok();
    let id = output.stdout.trim_end();
    assert_eq!(id.len(), 64);
    assert_eq!(std::fs::read_to_string(&cidfile).unwrap(), id);
    assert_eq!(people.names(), ["web"]);
    let directory = people.shelf.path().join("containers").join(id);
    let record = people.record(&directory);
    assert_eq!(record["name"], "web");
    assert_eq!(
        record["image"]["reference"],
        people.shelf.name("app:latest")
    );
    assert_eq!(
        record["command"],
        serde_json::json!(["sh", "-c", "echo hello; sleep 100"])
    );
    // The runtime knows it as any other.
    let state = env.rt.call(&["state", id]).ok().stdout;
    assert!(state.contains("\"status\": \"running\""), "{state}");
    wait_for(|| {
        std::fs::read_to_string(directory.join("log"))
            .is_ok_and(|log| log.contains("stdout F hello"))
    });
    let output = people.run(&flags, &["true"]);
    assert!(
        output.code == 125 && output.stderr.contains("exists already"),
        "{}",
        output.stderr
    );
    people.remove("web");
    people.assert_empty();
}

fn one_name_for_one_container(env: &Env) {
    let people = People::new(env);
    people.run(&["--name=web"], &["true"]).ok();
    let output = people.run(&["--name=web"], &["true"]);
    assert_eq!(output.code, 125);
    assert!(
        output
            .stderr
            .contains("the name web is in use by container"),
        "{}",
        output.stderr
    );
    assert_eq!(people.containers().len(), 1);
    people.remove("web");
    people.run(&["--name=web", "--rm"], &["true"]).ok();
    // Made-up names are found as well.
    people.run(&[], &["true"]).ok();
    let name = people.names().pop().unwrap();
    people.remove(&name);
    people.assert_empty();
}

fn of_many_who_want_one_name_one_gets_it(env: &Env) {
    let people = People::new(env);
    let all: Vec<_> = (0..6)
        .map(|_| people.spawn(&["-d", "--name=web"], &["sleep", "100"]))
        .collect();
    let codes: Vec<i32> = all.into_iter().map(|one| env.rt.finish(one).code).collect();
    assert_eq!(
        codes.iter().filter(|code| **code == 0).count(),
        1,
        "{codes:?}"
    );
    assert_eq!(
        codes.iter().filter(|code| **code == 125).count(),
        5,
        "{codes:?}"
    );
    assert_eq!(people.containers().len(), 1);
    people.remove("web");
    people.assert_empty();
}

fn what_is_killed_is_cleaned_up(env: &Env) {
    let people = People::new(env);
    for step in 0..40 {
        let mut running = people.spawn(&["-d", "--name=web"], &["sleep", "100"]);
        std::thread::sleep(Duration::from_millis(step * 4));
        running.child.kill().unwrap();
        let _ = env.rt.finish(running);
        // The monitor, once started, goes on by itself: what it makes of the container is there or not.
        let removed = people.shelf.call(&["rm", "--force", "web"]);
        let gone = removed.stderr.contains("no such container")
            || removed.stderr.contains("No such container");
        assert!(removed.code == 0 || gone, "{step}: {}", removed.stderr);
        // The name is free in any case.
        people.run(&["--rm", "--name=web"], &["true"]).ok();
    }
    people.shelf.ok(&["prune", "--force"]);
    people.assert_empty();
}

/// Syncs of files that a run takes: none for what nobody wants after a power cut.
fn what_goes_at_its_end_is_not_synced(env: &Env) {
    let people = People::new(env);
    let syncs = |flags: &[&str]| -> usize {
        let calls = faults::calls(env, &people.command(flags, &["true"]));
        let is_sync = |name: &str| ["fsync", "fdatasync", "syncfs", "sync"].contains(&name);
        let syncs = calls.iter().filter(|(name, _)| is_sync(name));
        syncs.map(|(_, count)| count).sum()
    };
    assert_eq!(syncs(&["--rm"]), 0);
    // Name, configuration, and twice each (file, directory): record, end; of the snapshot its place, too.
    assert_eq!(syncs(&["--name=web"]), 9);
    people.remove("web");
    people.assert_empty();
}

/// Their records, written but never synced, are as the disk left them; they say nothing, and are in nobody's
/// way.
fn what_was_to_go_is_swept_after_a_power_cut(env: &Env) {
    let people = People::new(env);
    let torn = |path: &std::path::Path, content: Option<&[u8]>| {
        if let Some(content) = content {
            std::fs::write(path, content).unwrap();
        }
    };
    for (round, content) in [
        None,
        Some(&b""[..]),
        Some(&[0; 300]),
        Some(b"{\"version\":1}"),
    ]
    .into_iter()
    .enumerate()
    {
        people
            .run(
                &["-d", "--rm", "--name=web", "-v", "/v"],
                &["sleep", "1000"],
            )
            .ok();
        let directory = people.containers().remove(0);
        let id = directory.file_name().unwrap().to_str().unwrap().to_owned();
        let pid = people
            .shelf
            .ok(&["inspect", "--format", "{State.Pid}", "web"]);
        let init: i32 = pid.trim().parse().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{init}/stat")).unwrap();
        let monitor = stat.rsplit(')').next().unwrap().split(' ').nth(2).unwrap();
        for pid in [monitor.parse().unwrap(), init] {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        wait_for(|| !std::path::Path::new(&format!("/proc/{init}")).exists());
        // What is in /run does not survive, and the machine has another boot.
        env.rt.call(&["delete", "--force", &id]).ok();
        let _ = std::fs::remove_dir_all(env.rt.root.join(".monitors").join(&id));
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let of_boot = |boot: &str| directory.join(format!("container.{}.json", boot.trim()));
        let other = of_boot("01234567-89ab-cdef-0123-456789abcdef");
        std::fs::rename(of_boot(&boot), &other).unwrap();
        torn(&other, content);
        let snapshot = people.shelf.path().join("snapshots").join(&id);
        torn(&snapshot.join("snapshot.json"), content);
        if round == 1 {
            std::fs::remove_file(directory.join("config.json")).unwrap();
        }
        people.shelf.call(&["fsck", "-q"]).exits(0);
        assert_eq!(people.shelf.ok(&["ps", "-aq"]), "");
        match round % 2 {
            0 => drop(people.shelf.ok(&["prune", "--force", "--volumes"])),
            _ => {
                people.run(&["--rm", "--name=web"], &["true"]).ok();
                people.shelf.ok(&["prune", "--force", "--volumes"]);
            }
        }
        people.assert_empty();
        assert_eq!(
            people.shelf.ok(&["volume", "ls", "-q"]),
            "",
            "round {round}"
        );
    }
}

fn signals_reach_the_container(env: &Env) {
    let people = People::new(env);
    let script = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let running = people.spawn(&["--rm", "--name=web"], &["sh", "-c", script]);
    let log = || {
        let path = people.containers().pop().map(|path| path.join("log"));
        path.and_then(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default()
    };
    wait_for(|| log().contains("ready"));
    let pid = rustix::process::Pid::from_child(&running.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let output = env.rt.finish(running);
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (9, "ready\ngot it\n")
    );
    people.assert_empty();
}

fn what_cannot_be_started_leaves_nothing(env: &Env) {
    let people = People::new(env);
    let output = people.run(&["--sysctl=kernel.shmmax=1", "--ipc=host"], &["true"]);
    assert_eq!(output.code, 125, "{}", output.stderr);
    let output = people.run(
        &[
            "-d",
            "--security-opt=apparmor=no-such-profile-here",
            "--sysctl=x.y=1",
        ],
        &["true"],
    );
    assert_eq!(output.code, 125, "{}", output.stderr);
    people.assert_empty();
    assert_eq!(
        std::fs::read_dir(&env.rt.root).map_or(0, Iterator::count),
        0
    );
}

fn the_image_is_pulled_when_it_is_missing(env: &Env) {
    let people = People::new(env);
    let image = people.shelf.name("app");
    people.shelf.ok(&["rmi", &image]);
    let output = people.run(&["--rm"], &["echo", "x"]);
    assert!(
        output.code == 125 && output.stderr.contains("no such image"),
        "{}",
        output.stderr
    );
    let parent = format!("--cgroup-parent={}", env.tag);
    let words = ["run", "--rm", &parent, &image, "echo", "x"];
    let output = people.shelf.call(&words).ok();
    assert_eq!(output.stdout, "x\n");
    assert!(output.stderr.contains("layer"), "{}", output.stderr);
    let requests = people.shelf.registry.seen().len();
    assert_eq!(people.shelf.call(&words).ok().stderr, "");
    assert_eq!(people.shelf.registry.seen().len(), requests);
    // By the beginning of its identifier as well.
    let id = people.shelf.ok(&["images", "--quiet"]);
    let words = [
        "run",
        "--rm",
        &parent,
        id.lines().next().unwrap(),
        "echo",
        "y",
    ];
    assert_eq!(people.shelf.ok(&words), "y\n");
    people.assert_empty();
}

fn the_runtimes_run_is_unchanged(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh("echo bundle");
    let path = bundle.path.clone();
    std::fs::write(path.join("config.json"), bundle.spec.to_string()).unwrap();
    let inside = |args: &[&str]| {
        let mut command = env.rt.command(args);
        command.current_dir(&path);
        env.rt.finish(env.rt.spawn(command)).ok().stdout
    };
    assert_eq!(inside(&["run", "some-id"]), "bundle\n");
    assert_eq!(
        inside(&["run", "--bundle", path.to_str().unwrap(), "some-id"]),
        "bundle\n"
    );
    let output = env.rt.call(&["run", path.to_str().unwrap()]).ok();
    assert_eq!(output.stdout, "bundle\n");
    assert_eq!(env.rt.call(&["run"]).code, 1);
}

fn an_init_reaps_and_forwards(env: &Env) {
    let people = People::new(env);
    let script = "echo $$; (sleep 0.1 &) ; sleep 0.4; ps -o stat,comm | grep -c '^Z'; exit 5";
    let output = people.run(&["--rm", "--init"], &["sh", "-c", script]);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(
        (lines[0] != "1", lines[1], output.code),
        (true, "0", 5),
        "{output:?}"
    );
    // Without a handler a signal ends a program that is not process 1.
    let running = people.spawn(&["--rm", "--init"], &["sleep", "100"]);
    wait_for(|| {
        let id = people.containers().pop();
        let id = id.and_then(|path| {
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned())
        });
        id.is_some_and(|id| env.rt.call(&["state", &id]).stdout.contains("running"))
    });
    let pid = rustix::process::Pid::from_child(&running.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(env.rt.finish(running).code, 143);
    let output = people.run(&["--rm", "--init"], &["nothing-of-that-name"]);
    assert_eq!(output.code, 127);
    people.assert_empty();
}

fn wait_for(mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(
            since.elapsed() < Duration::from_secs(10),
            "it never happened"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
