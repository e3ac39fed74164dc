//! The verbs on containers: what they print, how they exit, and what becomes of races.

use crate::harness::people::People;
use crate::harness::{Env, Output, Test, test};
use serde_json::Value;
use std::time::{Duration, Instant};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(ps_shows_what_is_asked_for),
        test!(ps_filters),
        test!(ps_measures_if_it_is_asked_to),
        test!(missing_containers_are_named),
        test!(exec_runs_as_whom_and_where_it_is_told),
        test!(exec_has_input_where_it_is_asked_for),
        test!(exec_has_dockers_exit_codes),
        test!(oci_verbs_take_names_and_stay_what_they_are),
        test!(inspect_has_dockers_shape),
        test!(top_and_stats),
        test!(container_is_a_word_for_all_of_them),
    ]
}

/// A container in the background.
pub(super) fn sleeper<'a>(env: &'a Env, name: &str) -> People<'a> {
    let people = People::new(env);
    start(
        &people,
        name,
        "trap 'exit 3' TERM; while :; do sleep 0.05; done",
    );
    people
}

#[track_caller]
pub(super) fn start(people: &People<'_>, name: &str, script: &str) -> String {
    let name = format!("--name={name}");
    let output = people
        .run(&["-d", &name, "--label=a=b"], &["sh", "-c", script])
        .ok();
    // The shell has set its trap.
    std::thread::sleep(Duration::from_millis(150));
    output.stdout.trim_end().to_owned()
}

#[track_caller]
pub(super) fn fails(people: &People<'_>, args: &[&str], code: i32, words: &str) -> Output {
    let output = people.shelf.call(args);
    assert_eq!(output.code, code, "{output}");
    assert!(output.stderr.contains(words), "{output}");
    output
}

fn ps_shows_what_is_asked_for(env: &Env) {
    let people = People::new(env);
    assert_eq!(people.shelf.ok(&["ps"]).lines().count(), 1);
    let id = start(&people, "web", "sleep 100");
    people
        .run(&["--name=done"], &["sh", "-c", "exit 5"])
        .exits(5);
    let text = people.shelf.ok(&["ps"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let header: Vec<&str> = lines[0]
        .split("   ")
        .map(str::trim)
        .filter(|c| !c.is_empty())
        .collect();
    assert_eq!(
        header,
        [
            "CONTAINER ID",
            "IMAGE",
            "COMMAND",
            "CREATED",
            "STATUS",
            "PORTS",
            "NAMES"
        ]
    );
    assert!(
        lines[1].starts_with(&id[..12]) && lines[1].ends_with("web"),
        "{text}"
    );
    assert!(
        lines[1].contains("\"sh -c sleep 100\"") && lines[1].contains(" Up "),
        "{text}"
    );
    let all = people.shelf.ok(&["ps", "-a"]);
    assert!(all.contains("Exited (5) ") && all.contains(" ago"), "{all}");
    // Newest first.
    assert!(all.lines().nth(1).unwrap().ends_with("done"), "{all}");
    assert_eq!(people.shelf.ok(&["ps", "-q"]), format!("{}\n", &id[..12]));
    assert_eq!(
        people.shelf.ok(&["ps", "-q", "--no-trunc"]),
        format!("{id}\n")
    );
    assert_eq!(
        people.shelf.ok(&["ps", "-l", "--format", "{Names}"]),
        "done\n"
    );
    assert_eq!(
        people.shelf.ok(&["ps", "-n", "2", "--format", "{Names}"]),
        "done\nweb\n"
    );
    let row: Value = serde_json::from_str(&people.shelf.ok(&["ps", "--format", "json"])).unwrap();
    assert_eq!(
        (row["State"].as_str(), row["Labels"].as_str()),
        (Some("running"), Some("a=b"))
    );
    fails(
        &people,
        &["ps", "--format", "{Nmaes}"],
        1,
        "unknown field {Nmaes}",
    );
    people.remove("web");
    people.remove("done");
    people.assert_empty();
}

fn ps_filters(env: &Env) {
    let people = People::new(env);
    let id = start(&people, "web", "sleep 100");
    people
        .run(&["--name=done", "--label=x"], &["sh", "-c", "exit 5"])
        .exits(5);
    let image = people.shelf.name("app");
    let ancestor = format!("ancestor={image}");
    let begin = format!("id={}", &id[..5]);
    for (filters, expected) in [
        (&["name=we"][..], "web"),
        (&["name=^eb"], ""),
        (&["status=exited"], "done"),
        (&["status=exited", "status=running"], "done web"),
        (&["exited=5"], "done"),
        (&["exited=6"], ""),
        (&["label=a=b"], "web"),
        (&["label=a", "label=x"], ""),
        (&["label=x", "status=exited"], "done"),
        (&[&begin], "web"),
        (&[&ancestor, "status=exited"], "done"),
        (&["since=web", "status=exited"], "done"),
        (&["before=web", "status=exited"], ""),
    ] {
        let mut args = vec!["ps", "--format", "{Names}"];
        for filter in filters {
            args.extend(["--filter", filter]);
        }
        let found = people.shelf.ok(&args);
        assert_eq!(
            found.split_whitespace().collect::<Vec<_>>().join(" "),
            expected,
            "{filters:?}"
        );
    }
    fails(
        &people,
        &["ps", "--filter", "colour=red"],
        1,
        "there is name, id",
    );
    people.remove("web");
    people.remove("done");
}

fn ps_measures_if_it_is_asked_to(env: &Env) {
    let people = People::new(env);
    let script = "dd if=/dev/zero of=/x bs=1024 count=100 2>/dev/null";
    people
        .run(&["--name=web", "-v", "vol:/v"], &["sh", "-c", script])
        .ok();
    let row = |flags: &[&str]| -> Value {
        let args = [&["ps", "-a", "--format", "json"], flags].concat();
        serde_json::from_str(&people.shelf.ok(&args)).unwrap()
    };
    assert_eq!(row(&[])["Size"], "");
    let row = row(&["--size"]);
    let bytes = |name: &str| row[name].as_u64().unwrap();
    assert!(
        (100 << 10..200 << 10).contains(&bytes("SizeBytes")),
        "{row}"
    );
    assert!(
        bytes("VirtualBytes") > bytes("SizeBytes") + (100 << 10),
        "{row}"
    );
    assert_eq!(
        (row["Mounts"].as_str(), row["LocalVolumes"].as_u64()),
        (Some("vol"), Some(1))
    );
    assert_eq!(row["Networks"], "none");
    let text = people.shelf.ok(&["ps", "-as"]);
    let mut lines = text.lines();
    assert!(lines.next().unwrap().ends_with("SIZE"), "{text}");
    assert!(lines.next().unwrap().contains("kB (virtual "), "{text}");
    let size = people.shelf.ok(&["ps", "-a", "--format", "{Size}"]);
    assert!(size.contains("(virtual"), "{size}");
    people.remove("web");
    people.shelf.ok(&["volume", "rm", "vol"]);
}

fn missing_containers_are_named(env: &Env) {
    let people = People::new(env);
    for verb in [
        "logs", "rm", "stop", "wait", "attach", "top", "unpause", "restart", "stats",
    ] {
        fails(&people, &[verb, "ghost"], 1, "no such container: ghost");
    }
    fails(
        &people,
        &["rename", "ghost", "x1"],
        1,
        "no such container: ghost",
    );
    fails(
        &people,
        &["cp", "ghost:/x", "/tmp"],
        1,
        "no such container: ghost",
    );
    fails(
        &people,
        &["kill", "-s", "TERM", "ghost"],
        1,
        "no such container: ghost",
    );
    assert_eq!(people.shelf.call(&["rm", "-f", "ghost"]).code, 0);
    // Several: all that can be done is done.
    people.run(&["--name=done"], &["true"]).ok();
    let output = fails(
        &people,
        &["rm", "ghost", "done", "other"],
        1,
        "no such container: other",
    );
    assert!(
        output.stderr.contains("no such container: ghost"),
        "{output}"
    );
    assert_eq!(output.stdout, "done\n");
    people.assert_empty();
}

fn exec_runs_as_whom_and_where_it_is_told(env: &Env) {
    let people = sleeper(env, "web");
    let sh = |flags: &[&str], script: &str| {
        people
            .shelf
            .ok(&[&["exec"], flags, &["web", "sh", "-c", script]].concat())
    };
    assert_eq!(sh(&[], "echo $A; pwd"), "image\n/\n");
    assert_eq!(
        sh(
            &["-e", "A=mine", "-eB=x y", "-w", "/tmp"],
            "echo $A $B; pwd"
        ),
        "mine x y\n/tmp\n"
    );
    let file = people.file("env", "# no\n\nC=from file\n");
    assert_eq!(
        sh(&["--env-file", file.to_str().unwrap()], "echo $C"),
        "from file\n"
    );
    assert_eq!(sh(&["-u", "1234:77"], "id -u; id -g"), "1234\n77\n");
    sh(
        &[],
        "printf 'app:x:1000:1001::/home/app:/bin/sh\\n' >> /etc/passwd; \
             printf 'extra:x:2000:app\\n' >> /etc/group",
    );
    assert_eq!(sh(&["-u", "app"], "id -u; id -G"), "1000\n1001 2000\n");
    fails(
        &people,
        &["exec", "-u", "ghost", "web", "true"],
        1,
        "no user \"ghost\"",
    );
    fails(
        &people,
        &["exec", "-u", "4294967295", "web", "true"],
        1,
        "is no id",
    );
    // B6: what is no file is not read.
    sh(&[], "rm /etc/passwd; mkfifo /etc/passwd");
    let before = Instant::now();
    fails(
        &people,
        &["exec", "-u", "app", "web", "true"],
        1,
        "no user \"app\"",
    );
    sh(
        &[],
        "rm /etc/passwd; ln -s /proc/self/root/../../etc/passwd /etc/passwd",
    );
    fails(
        &people,
        &["exec", "-u", "daemon", "web", "true"],
        1,
        "no user \"daemon\"",
    );
    assert!(before.elapsed() < Duration::from_secs(10));
    let caps = |flags: &[&str]| sh(flags, "grep CapEff /proc/self/status");
    assert_ne!(caps(&["--privileged"]), caps(&[]));
    people.remove("web");
}

fn exec_has_input_where_it_is_asked_for(env: &Env) {
    let people = sleeper(env, "web");
    let file = people.file("input", "some words\n");
    // Input only where it is asked for.
    let mut command = people.shelf.command(&["exec", "-i", "web", "cat"]);
    command.stdin(std::fs::File::open(&file).unwrap());
    assert!(
        env.rt
            .finish(env.rt.spawn(command))
            .ok()
            .stdout
            .contains("some words")
    );
    let mut command = people.shelf.command(&["exec", "web", "cat"]);
    command.stdin(std::fs::File::open(&file).unwrap());
    assert_eq!(env.rt.finish(env.rt.spawn(command)).ok().stdout, "");
    // In the background.
    assert_eq!(
        people
            .shelf
            .ok(&["exec", "-d", "web", "sh", "-c", "touch /tmp/there"]),
        ""
    );
    wait_for(|| {
        people
            .shelf
            .call(&["exec", "web", "test", "-e", "/tmp/there"])
            .code
            == 0
    });
    people.remove("web");
}

fn exec_has_dockers_exit_codes(env: &Env) {
    let people = sleeper(env, "web");
    for (command, code, words) in [
        (&["sh", "-c", "exit 42"][..], 42, ""),
        (
            &["no-such-program"],
            127,
            "executable file not found in $PATH",
        ),
        (&["/etc/passwd"], 126, "permission denied"),
        (&["/etc"], 126, "is a directory"),
    ] {
        fails(&people, &[&["exec", "web"], command].concat(), code, words);
    }
    fails(
        &people,
        &["exec", "-it", "web", "true"],
        1,
        "not a terminal",
    );
    fails(&people, &["exec", "web"], 1, "it takes a command");
    people.shelf.ok(&["pause", "web"]);
    fails(&people, &["exec", "web", "true"], 1, "is paused");
    people.shelf.ok(&["stop", "-t", "0", "web"]);
    fails(&people, &["exec", "web", "true"], 1, "is not running");
    people.remove("web");
}

fn oci_verbs_take_names_and_stay_what_they_are(env: &Env) {
    let people = sleeper(env, "web");
    let state: Value = serde_json::from_str(&people.shelf.ok(&["state", "web"])).unwrap();
    assert_eq!(state["status"], "running");
    assert!(people.shelf.ok(&["ps", "web"]).contains("PID"));
    assert!(
        people
            .shelf
            .ok(&["events", "--stats", "web"])
            .contains("\"type\":\"stats\"")
    );
    people.shelf.ok(&["update", "--pids-limit", "50", "web"]);
    people.shelf.ok(&["kill", "web", "0"]);
    // An OCI container beside it, with the same store.
    let mut bundle = env.bundle();
    let container = bundle.sleeper();
    let (store, id) = (people.shelf.path(), container.id.as_str());
    let call = |args: &[&str]| {
        env.rt
            .call(&[&["--store", store.to_str().unwrap()], args].concat())
    };
    call(&["exec", id, "true"]).ok();
    call(&["exec", id, "no-such-program"]).exits(255);
    call(&["pause", id]).ok();
    call(&["resume", id]).ok();
    call(&["kill", id, "KILL"]).ok();
    container.wait_stopped();
    call(&["kill", id, "KILL"])
        .fails()
        .says("container not running");
    call(&["delete", id]).ok();
    let output = call(&["kill", "ghost", "KILL"]).fails();
    assert!(output.stderr.contains("level=error"), "{output}");
    call(&["exec", "ghost", "true"]).exits(255);
    // The beginning of an ID is not enough to delete by.
    let path = people.containers().remove(0);
    let begin = &path.file_name().unwrap().to_str().unwrap()[..4];
    people.shelf.ok(&["state", begin]);
    people.shelf.ok(&["delete", "--force", begin]);
    people.shelf.ok(&["state", "web"]);
    people.shelf.ok(&["delete", "--force", "web"]);
    people.assert_empty();
}

fn inspect_has_dockers_shape(env: &Env) {
    let people = sleeper(env, "web");
    let shown: Value = serde_json::from_str(&people.shelf.ok(&["inspect", "web"])).unwrap();
    let shown = &shown[0];
    assert_eq!(shown["Name"], "web");
    assert_eq!(shown["State"]["Status"], "running");
    assert!(shown["State"]["Pid"].as_i64().unwrap() > 0);
    assert_eq!(shown["Config"]["Cmd"][0], "sh");
    assert_eq!(shown["Config"]["Labels"]["a"], "b");
    assert_eq!(shown["HostConfig"]["NetworkMode"], "none");
    assert!(std::path::Path::new(shown["LogPath"].as_str().unwrap()).exists());
    assert_eq!(
        people.shelf.ok(&["inspect", "-f", "{State.Status}", "web"]),
        "running\n"
    );
    people.shelf.ok(&["stop", "web"]);
    let text = people.shelf.ok(&[
        "inspect",
        "--type",
        "container",
        "-f",
        "{State.ExitCode} {State.Running}",
        "web",
    ]);
    assert_eq!(text, "3 false\n");
    fails(
        &people,
        &["inspect", "--type=container", &people.shelf.name("app")],
        1,
        "no such container",
    );
    fails(&people, &["inspect", "--type=image", "web"], 1, "web");
    people.remove("web");
}

fn top_and_stats(env: &Env) {
    let people = sleeper(env, "web");
    let text = people.shelf.ok(&["top", "web"]);
    assert!(
        text.lines().next().unwrap().contains("PID") && text.contains("trap"),
        "{text}"
    );
    let text = people.shelf.ok(&["top", "web", "-o", "pid,comm"]);
    assert!(
        text.lines().count() >= 2 && !text.contains("systemd"),
        "{text}"
    );
    let text = people.shelf.ok(&["stats", "--no-stream"]);
    assert!(text.starts_with("CONTAINER ID   NAME"), "{text}");
    let text = people
        .shelf
        .ok(&["stats", "--no-stream", "--format", "json", "web"]);
    let row: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(row["Name"], "web");
    assert!(row["CPUPerc"].as_str().unwrap().ends_with('%'), "{row}");
    assert!(row["MemUsage"].as_str().unwrap().contains("B / "), "{row}");
    assert!(row["PIDs"].as_u64().unwrap() >= 1, "{row}");
    people.shelf.ok(&["stop", "web"]);
    fails(&people, &["top", "web"], 1, "is not running");
    assert_eq!(
        people.shelf.ok(&["stats", "--no-stream"]).lines().count(),
        1
    );
    assert_eq!(
        people
            .shelf
            .ok(&["stats", "--no-stream", "-a"])
            .lines()
            .count(),
        2
    );
    people.remove("web");
}

fn container_is_a_word_for_all_of_them(env: &Env) {
    let people = sleeper(env, "web");
    assert!(people.shelf.ok(&["container", "ls"]).contains("web"));
    people.shelf.ok(&["container", "exec", "web", "true"]);
    fails(
        &people,
        &["container", "exec", "ghost", "true"],
        1,
        "no such container: ghost",
    );
    fails(&people, &["container", "fly"], 1, "no verb \"fly\"");
    people.shelf.ok(&["container", "rm", "-f", "web"]);
    people.assert_empty();
}

#[track_caller]
pub(super) fn wait_for(mut done: impl FnMut() -> bool) {
    let since = Instant::now();
    while !done() {
        assert!(
            since.elapsed() < Duration::from_secs(15),
            "it does not happen"
        );
        std::thread::sleep(Duration::from_millis(30));
    }
}
