//! Hooks of all six kinds: when, where, with what, and what their failure means.

use crate::harness::env::read;
use crate::harness::{Bundle, Env, Test, process, test};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(all_kinds_in_order),
        test!(hooks_of_one_kind_in_order),
        test!(state_on_stdin),
        test!(namespaces_of_each_kind),
        test!(environment_is_only_the_hooks),
        test!(arguments_start_with_argv_0),
        test!(hooks_of_the_container_run_before_pivot),
        test!(start_container_runs_inside),
        test!(large_state_on_stdin),
        test!(stdin_need_not_be_read),
        test!(failure_before_start_stops_the_container),
        test!(failure_of_start_container),
        test!(failure_of_hooks_of_start_destroys_the_container)
            .only_rcrun("runc keeps it, stopped, against the spec"),
        test!(failure_of_poststop_is_a_warning).only_rcrun(
            "runc stops at the first failing poststop hook and delete fails, against the spec",
        ),
        test!(each_failure_of_poststop_is_a_warning).only_rcrun("runc fails"),
        test!(failure_of_poststop_keeps_no_state),
        test!(failure_shows_the_hooks_output),
        test!(timeout),
        test!(missing_hook_is_refused),
        test!(relative_hook_path_is_refused)
            .only_rcrun("runc tries the path, whatever the directory"),
        test!(poststop_after_a_failed_create),
        test!(no_descriptor_leaks_into_hooks),
        test!(no_descriptor_leaks_into_hooks_of_the_container).only_rcrun(
            "runc's createContainer hooks inherit init's sockets, its exec.fifo and its binary",
        ),
        test!(prestart_may_change_the_network_namespace),
        test!(create_runtime_may_mount_into_the_root),
    ]
}

/// All kinds.
pub(super) const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// Those whose programs are the host's.
pub(super) fn of_the_host() -> impl Iterator<Item = &'static str> {
    KINDS.into_iter().filter(|kind| *kind != "startContainer")
}

fn hook(path: &Path, args: &[&str]) -> Value {
    let mut all = vec!["hook"];
    all.extend(args);
    json!({"path": path, "args": all})
}

/// A directory of the host that is /log in the container.
fn log(bundle: &mut Bundle<'_>) -> PathBuf {
    let dir = bundle.env.directory("log");
    bundle.directory("log");
    bundle.bind(&dir, "/log", &[]);
    dir
}

/// A hook of each kind that runs this script, of which `$1` is the kind and `$D` the directory that is
/// returned, whichever name it has there.
fn everywhere(bundle: &mut Bundle<'_>, body: &str) -> PathBuf {
    let dir = log(bundle);
    let there = body.replace("$D", dir.to_str().unwrap());
    let outside = bundle.env.script("hook.sh", &there);
    bundle.script("hook.sh", &body.replace("$D", "/log"));
    for kind in KINDS {
        let file = match kind {
            "startContainer" => Path::new("/hook.sh"),
            _ => &outside,
        };
        bundle.hook(kind, hook(file, &[kind]));
    }
    dir
}

/// A hook that leaves a line in a file of the host, and that file.
fn note(env: &Env, name: &str) -> (Value, PathBuf) {
    let path = env.path(name);
    let file = env.script("note.sh", &format!("echo ran >> {}", path.display()));
    (hook(&file, &[]), path)
}

fn all_kinds_in_order(env: &Env) {
    let mut bundle = env.bundle();
    let path = everywhere(&mut bundle, "echo $1 >> $D/lines").join("lines");
    let container = bundle.sh("echo process >> /log/lines; sleep 1000").create();
    assert_eq!(read(&path), "prestart\ncreateRuntime\ncreateContainer\n");
    container.start();
    process::until("all have run", 5, || {
        (read(&path).lines().count() >= 6).then_some(())
    });
    let lines = read(&path);
    let mut lines: Vec<&str> = lines.lines().skip(3).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["poststart", "process", "startContainer"]);
    container.stop();
    container.delete();
    assert!(read(&path).ends_with("poststop\n"));
    assert_eq!(read(&path).lines().count(), 7, "each exactly once");
}

fn hooks_of_one_kind_in_order(env: &Env) {
    let mut bundle = env.bundle();
    let path = env.path("lines");
    let file = env.script(
        "hook.sh",
        &format!("sleep 0.0$2; echo $1 >> {}", path.display()),
    );
    for kind in ["createRuntime", "poststop"] {
        for (number, delay) in [("1", "9"), ("2", "4"), ("3", "0")] {
            bundle.hook(kind, hook(&file, &[&format!("{kind}{number}"), delay]));
        }
    }
    bundle.runs();
    let expected =
        "createRuntime1\ncreateRuntime2\ncreateRuntime3\npoststop1\npoststop2\npoststop3\n";
    assert_eq!(read(&path), expected);
}

fn state_on_stdin(env: &Env) {
    let mut bundle = env.bundle();
    let dir = everywhere(&mut bundle, "cat > $D/$1.json");
    bundle.set("/annotations", json!({"key": "value"}));
    let container = bundle.sleeper();
    let pid = container.pid();
    container.stop();
    container.delete();
    for kind in KINDS {
        let state: Value = serde_json::from_str(&read(dir.join(format!("{kind}.json")))).unwrap();
        assert_eq!(state["id"], json!(bundle.id), "{kind}");
        assert_eq!(state["bundle"], json!(bundle.path), "{kind}");
        assert_eq!(state["annotations"]["key"], "value", "{kind}");
        assert!(state["ociVersion"].is_string(), "{kind}");
        let status = match kind {
            // The specification's own test wants it so; runc says "creating".
            "prestart" if env.rt.is_rcrun() => "created",
            "prestart" | "createRuntime" | "createContainer" => "creating",
            "startContainer" => "created",
            "poststart" => "running",
            _ => "stopped",
        };
        assert_eq!(state["status"], status, "{kind}");
        // Inside its pid namespace the container's init is pid 1.
        match kind {
            "poststop" => {}
            "startContainer" | "createContainer" => {
                assert!(state["pid"].as_i64().unwrap() > 0, "{kind}: {state}");
            }
            _ => assert_eq!(state["pid"], json!(pid), "{kind}"),
        }
    }
}

fn namespaces_of_each_kind(env: &Env) {
    let mut bundle = env.bundle();
    let body = "readlink /proc/self/ns/mnt > $D/$1.mnt; readlink /proc/self/ns/net > $D/$1.net";
    let dir = everywhere(&mut bundle, body);
    let container = bundle.sleeper();
    let pid = container.pid();
    let of = |kind: &str, ns: &str| read(dir.join(format!("{kind}.{ns}"))).trim().to_owned();
    for kind in ["prestart", "createRuntime", "poststart"] {
        assert_eq!(
            of(kind, "mnt"),
            process::namespace(1, "mnt"),
            "{kind} runs on the host"
        );
        assert_eq!(of(kind, "net"), process::namespace(1, "net"), "{kind}");
    }
    for kind in ["createContainer", "startContainer"] {
        assert_eq!(
            of(kind, "mnt"),
            process::namespace(pid, "mnt"),
            "{kind} runs in the container"
        );
        assert_eq!(of(kind, "net"), process::namespace(pid, "net"), "{kind}");
    }
    container.stop();
    container.delete();
    assert_eq!(of("poststop", "mnt"), process::namespace(1, "mnt"));
}

fn environment_is_only_the_hooks(env: &Env) {
    let mut bundle = env.bundle();
    bundle.push("/process/env", json!("LD_PRELOAD=/evil.so"));
    let path = env.path("environ");
    let file = env.script(
        "hook.sh",
        &format!(
            "cat /proc/self/environ | tr '\\0' '\\n' >> {}",
            path.display()
        ),
    );
    let mut value = hook(&file, &[]);
    value["env"] = json!(["PATH=/usr/bin:/bin", "ONLY=this"]);
    for kind in of_the_host() {
        bundle.hook(kind, value.clone());
    }
    bundle.runs();
    let text = read(&path);
    let mut lines: Vec<&str> = text
        .lines()
        .filter(|l| !l.starts_with("PWD=") && !l.starts_with("_="))
        .collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(
        lines,
        ["ONLY=this", "PATH=/usr/bin:/bin"],
        "neither the caller's nor the container's"
    );
}

fn arguments_start_with_argv_0(env: &Env) {
    let path = env.path("cmdline");
    let mut bundle = env.bundle();
    let code = format!("cat /proc/$$/cmdline | tr '\\0' '|' > {}", path.display());
    bundle.hook(
        "createRuntime",
        json!({"path": "/bin/sh", "args": ["my name", "-c", code, "zero", "a b"]}),
    );
    bundle.runs();
    let text = read(&path);
    assert!(
        text.starts_with("my name|-c|") && text.ends_with("|zero|a b|"),
        "{text}"
    );
}

/// createContainer sees the host's file names, but in the container's mount namespace.
fn hooks_of_the_container_run_before_pivot(env: &Env) {
    let mut bundle = env.bundle();
    let target = bundle.directory("injected");
    let file = env.script(
        "hook.sh",
        &format!(
            "mount -t tmpfs injected {0} && echo made > {0}/file",
            target.display()
        ),
    );
    bundle.hook("createContainer", hook(&file, &[]));
    let answers = bundle.attempts(&["read:/injected/file"]);
    assert_eq!(answers[0], (0, "made\n".into()));
    assert_eq!(
        fs::read_dir(target).unwrap().count(),
        0,
        "the host sees none of it"
    );
}

fn start_container_runs_inside(env: &Env) {
    let mut bundle = env.bundle();
    let path = log(&mut bundle).join("lines");
    bundle.script(
        "hook.sh",
        "hostname >> /log/lines; cat /marker >> /log/lines",
    );
    bundle.file("marker", "from the container's root\n");
    bundle.hook("startContainer", hook(Path::new("/hook.sh"), &[]));
    bundle.runs();
    assert_eq!(read(&path), "box\nfrom the container's root\n");
}

fn large_state_on_stdin(env: &Env) {
    let mut bundle = env.bundle();
    let big = "x".repeat(200_000);
    bundle.set("/annotations", json!({"big": big}));
    let path = env.path("stdin");
    bundle.hook(
        "createRuntime",
        hook(
            &env.script("hook.sh", &format!("cat > {}", path.display())),
            &[],
        ),
    );
    bundle.runs();
    let state: Value = serde_json::from_str(&read(&path)).unwrap();
    assert_eq!(state["annotations"]["big"], json!(big));
}

fn stdin_need_not_be_read(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/annotations", json!({"big": "x".repeat(200_000)}));
    for kind in ["createRuntime", "poststop"] {
        bundle.hook(kind, json!({"path": "/bin/true"}));
    }
    bundle.runs();
}

fn failure_before_start_stops_the_container(env: &Env) {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = env.bundle();
        bundle.sh("touch /ran");
        bundle.hook(kind, json!({"path": "/bin/false"}));
        // runc counts from 0 and calls the kind by the spec's name.
        bundle
            .refused()
            .says(&format!("{kind} hook #0"))
            .says("exit status 1");
        bundle.run().fails();
        assert!(!bundle.rootfs("ran").exists());
    }
}

fn failure_of_start_container(env: &Env) {
    let mut bundle = env.bundle();
    bundle.hook("startContainer", json!({"path": "/bin/false"}));
    bundle.sh("touch /ran").run().fails();
    assert!(!bundle.rootfs("ran").exists(), "the process must not run");
    assert!(!env.rt.root.join(&bundle.id).exists());
}

fn failure_of_hooks_of_start_destroys_the_container(env: &Env) {
    for kind in ["startContainer", "poststart"] {
        let mut bundle = env.bundle();
        bundle.hook(kind, json!({"path": "/bin/false"}));
        let (poststop, noted) = note(env, kind);
        bundle.hook("poststop", poststop);
        bundle.args(&["sleep", "1000"]);
        let container = bundle.create();
        let pid = container.pid();
        let text = format!("error running {kind} hook #0");
        container.verb("start").fails().says(&text);
        container.verb("state").fails().says("does not exist");
        let alive = process::all()
            .iter()
            .any(|(p, s, _)| *p == pid && *s != 'Z');
        assert!(!alive, "{kind}");
        assert!(noted.exists(), "{kind}: poststop hooks run");
    }
}

fn failure_of_poststop_is_a_warning(env: &Env) {
    let mut bundle = env.bundle();
    bundle.hook("poststop", json!({"path": "/bin/false"}));
    let (second, noted) = note(env, "second");
    bundle.hook("poststop", second);
    let container = bundle.sleeper();
    container.stop();
    container
        .verb("delete")
        .ok()
        .says("poststop hook failed with exit code 1: /bin/false (hook #0)");
    assert!(noted.exists(), "the others still run");
}

/// Every failure has its warning, with the hook's path and how it ended.
fn each_failure_of_poststop_is_a_warning(env: &Env) {
    let mut bundle = env.bundle();
    let (three, killed) = (
        env.script("three", "echo why >&2; exit 3"),
        env.script("killed", "kill -9 $$"),
    );
    bundle
        .hook("poststop", hook(&three, &[]))
        .hook("poststop", hook(&killed, &[]))
        .hook(
            "poststop",
            json!({"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}),
        );
    // Also at the end of `run`, whose exit code stays the program's.
    let output = bundle.sh("exit 7").run().exits(7);
    let path = three.display();
    output
        .says(&format!(
            "poststop hook failed with exit code 3: {path} (hook #0), stdout: , stderr: why"
        ))
        .says(&format!(
            "poststop hook failed with signal SIGKILL: {} (hook #1)",
            killed.display()
        ))
        .says("poststop hook timed out and was killed: /bin/sleep (hook #2)");
    assert!(!env.rt.root.join(&bundle.id).exists());
}

fn failure_of_poststop_keeps_no_state(env: &Env) {
    let mut bundle = env.bundle();
    bundle.hook("poststop", json!({"path": "/bin/false"}));
    let container = bundle.sleeper();
    container.stop();
    container.verb("delete");
    assert!(!env.rt.root.join(&bundle.id).exists());
}

fn failure_shows_the_hooks_output(env: &Env) {
    let mut bundle = env.bundle();
    let file = env.script("hook.sh", "echo the reason on stderr >&2; exit 3");
    bundle.hook("createRuntime", hook(&file, &[]));
    bundle
        .refused()
        .says("exit status 3")
        .says("the reason on stderr");
}

fn timeout(env: &Env) {
    let mut bundle = env.bundle();
    let file = env.script("hook.sh", "exec sleep 1000");
    let mut value = hook(&file, &[]);
    value["timeout"] = json!(1);
    bundle.hook("createRuntime", value);
    let start = Instant::now();
    bundle.refused();
    let took = start.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(5)).contains(&took),
        "{took:?}"
    );
}

fn missing_hook_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle.hook("prestart", json!({"path": "/no/such/hook"}));
    bundle.refused().says("/no/such/hook");
}

fn relative_hook_path_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle.hook("prestart", json!({"path": "true"}));
    bundle.refused().says("absolute");
}

/// What prestart hooks made is undone by poststop hooks; they run without such hooks as well.
fn poststop_after_a_failed_create(env: &Env) {
    let mut bundle = env.bundle();
    let (poststop, noted) = note(env, "noted");
    bundle.hook("poststop", poststop);
    bundle.args(&["/no/such/program"]).refused();
    assert_eq!(read(&noted), "ran\n");
    bundle
        .args(&["true"])
        .hook("createRuntime", json!({"path": "/bin/false"}));
    bundle.refused();
    assert_eq!(read(&noted), "ran\nran\n");
}

/// What the hooks of these kinds find open.
fn descriptors_of(env: &Env, kinds: &[&str]) -> Vec<String> {
    let mut bundle = env.bundle();
    let path = env.path("fds");
    for kind in kinds {
        let list = "ls -l /proc/self/fd | sed -n 's/.*:.. //p' | tr '\\n' ' '";
        let code = format!("(echo {kind}: $({list})) >> {}", path.display());
        bundle.hook(kind, json!({"path": "/bin/sh", "args": ["sh", "-c", code]}));
    }
    bundle.runs();
    read(&path).lines().map(str::to_owned).collect()
}

#[track_caller]
fn only_standard(lines: &[String], count: usize) {
    assert_eq!(lines.len(), count, "{lines:#?}");
    for line in lines {
        let (_, found) = line.split_once(": ").unwrap();
        let numbers: Vec<&str> = found
            .split(' ')
            .filter(|w| w.parse::<u32>().is_ok())
            .collect();
        assert_eq!(
            numbers,
            ["0", "1", "2", "3"],
            "3 is the directory that ls reads: {line}"
        );
    }
}

fn no_descriptor_leaks_into_hooks(env: &Env) {
    only_standard(
        &descriptors_of(env, &["prestart", "createRuntime", "poststart", "poststop"]),
        4,
    );
}

fn no_descriptor_leaks_into_hooks_of_the_container(env: &Env) {
    only_standard(&descriptors_of(env, &["createContainer"]), 1);
}

fn prestart_may_change_the_network_namespace(env: &Env) {
    let mut bundle = env.bundle();
    let body = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); nsenter -t $pid -n ip link add dummy7 type dummy || \
                nsenter -t $pid -n ip link add dummy7 type veth";
    let file = env.script("hook.sh", body);
    let mut value = hook(&file, &[]);
    value["env"] = json!(["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
    bundle.hook("createRuntime", value);
    let output = bundle.args(&["ip", "link"]).run().ok();
    assert!(output.stdout.contains("dummy7"), "{output}");
}

fn create_runtime_may_mount_into_the_root(env: &Env) {
    let mut bundle = env.bundle();
    let target = bundle.directory("injected");
    // Into the container's mount namespace through its pid, as GPU hooks do.
    let body = format!(
        "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); nsenter -t $pid -m mount -t tmpfs injected {}",
        target.display()
    );
    let mut value = hook(&env.script("hook.sh", &body), &[]);
    value["env"] = json!(["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
    bundle.hook("createRuntime", value);
    let facts = bundle.facts();
    let mounts = facts["mounts"].as_array().unwrap();
    assert!(
        mounts
            .iter()
            .any(|m| m["target"] == "/injected" && m["source"] == "injected"),
        "{mounts:#?}"
    );
}
