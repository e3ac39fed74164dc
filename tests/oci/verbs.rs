//! The verbs beside the life cycle: kill, delete, list, ps, pause, resume, events, features, spec; global flags.

use crate::harness::env::read;
use crate::harness::sockets::FdSocket;
use crate::harness::{Env, Need, Test, process, test};
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(kill_by_name_and_number),
        test!(kill_defaults_to_term),
        test!(kill_of_a_stopped_container_is_refused),
        test!(kill_with_an_unknown_signal_is_refused),
        test!(kill_all).needs(Need::V1("freezer")),
        test!(kill_of_a_created_container),
        test!(kill_of_a_paused_container).needs(Need::V1("freezer")),
        test!(delete_of_a_running_container_is_refused),
        test!(delete_by_force),
        test!(delete_by_force_of_nothing_succeeds),
        test!(delete_of_a_created_container),
        test!(delete_of_a_paused_container_by_force).needs(Need::V1("freezer")),
        test!(start_twice_is_refused),
        test!(same_id_twice_is_refused),
        test!(bad_ids_are_refused),
        test!(id_is_free_again_after_delete),
        test!(list_as_table_and_json),
        test!(list_of_nothing),
        test!(list_survives_a_broken_state),
        test!(ps_as_table_and_json),
        test!(ps_with_arguments),
        test!(pause_and_resume).needs(Need::V1("freezer")),
        test!(pause_of_a_stopped_container_is_refused),
        test!(resume_of_a_running_container_is_refused).needs(Need::V1("freezer")),
        test!(events_stats).needs(Need::V1("memory")),
        test!(events_of_a_stopped_container_are_refused),
        test!(features_lists_what_works),
        test!(spec_writes_a_config_that_runs),
        test!(spec_does_not_overwrite),
        test!(version_is_readable),
        test!(pid_file),
        test!(pidfd_socket),
        test!(run_detached),
        test!(run_and_keep),
        test!(bundle_defaults_to_the_current_directory),
        test!(flags_may_stand_after_the_id),
        test!(log_file_in_json),
        test!(log_file_in_text),
        test!(unknown_verb_and_flag_are_refused),
        test!(help_of_every_verb),
        test!(signals_are_forwarded_by_run),
        test!(subreaper_gets_the_exit_status),
        test!(root_directory_is_private),
    ]
}

fn kill_by_name_and_number(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.args(&["/bin/probe", "signals"]).start();
    container.wait_output("ready");
    for (given, seen) in [
        ("USR1", "SIGUSR1"),
        ("SIGUSR2", "SIGUSR2"),
        ("1", "SIGHUP"),
        ("sigint", "SIGINT"),
    ] {
        container.kill(given);
        container.wait_output(seen);
    }
}

fn kill_defaults_to_term(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.args(&["/bin/probe", "signals"]).start();
    container.wait_output("ready");
    container.verb("kill").ok();
    container.wait_output("SIGTERM");
    container.wait_stopped();
}

fn kill_of_a_stopped_container_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.stop();
    env.rt
        .call(&["kill", &container.id, "TERM"])
        .fails()
        .says("container not running");
    env.rt
        .call(&["kill", "nobody", "TERM"])
        .fails()
        .says("does not exist");
}

fn kill_with_an_unknown_signal_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    for bad in ["SIGNOPE", "99", "-1"] {
        env.rt.call(&["kill", &container.id, bad]).fails();
    }
    assert_eq!(container.status(), "running");
}

fn kill_all(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle
        .without_namespace("pid")
        .args(&["/bin/probe", "children", "5"])
        .start();
    container.wait_output("ready");
    let sleeping = || {
        process::all()
            .iter()
            .filter(|(_, state, what)| *state != 'Z' && what.contains("probe"))
            .count()
    };
    assert_eq!(sleeping(), 6);
    env.rt.call(&["kill", "--all", &container.id, "KILL"]).ok();
    process::until("all six are dead", 5, || (sleeping() == 0).then_some(()));
}

fn kill_of_a_created_container(env: &Env) {
    let container = env.bundle().create();
    container.kill("KILL");
    container.wait_stopped();
    container.delete();
}

fn kill_of_a_paused_container(env: &Env) {
    let container = env.bundle().sleeper();
    container.verb("pause").ok();
    container.kill("KILL");
    container.wait_stopped();
    container.delete();
}

fn delete_of_a_running_container_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.verb("delete").fails();
    assert_eq!(container.status(), "running", "it goes on");
}

fn delete_by_force(env: &Env) {
    let container = env.bundle().sleeper();
    let pid = container.pid();
    env.rt.call(&["delete", "--force", &container.id]).ok();
    container.verb("state").fails();
    assert!(
        process::all()
            .iter()
            .all(|(p, state, _)| *p != pid || *state == 'Z')
    );
}

fn delete_by_force_of_nothing_succeeds(env: &Env) {
    env.rt.call(&["delete", "--force", "nobody"]).ok();
    env.rt
        .call(&["delete", "nobody"])
        .fails()
        .says("does not exist");
}

fn delete_of_a_created_container(env: &Env) {
    let container = env.bundle().create();
    container.verb("delete").ok();
    assert!(!env.rt.root.join(&container.id).exists());
}

fn delete_of_a_paused_container_by_force(env: &Env) {
    let container = env.bundle().sleeper();
    container.verb("pause").ok();
    env.rt.call(&["delete", "--force", &container.id]).ok();
    container.verb("state").fails();
}

fn start_twice_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.verb("start").fails().says("running");
    container.stop();
    container.verb("start").fails().says("stopped");
}

fn same_id_twice_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.sleeper();
    let mut other = env.bundle();
    other.id.clone_from(&bundle.id);
    let output = env
        .rt
        .finish(env.rt.spawn(other.command("create", &[])))
        .fails();
    assert!(output.stderr.contains("exist"), "{output}");
    assert_eq!(container.status(), "running", "the first is not harmed");
    container.exec(&["true"]).ok();
}

fn bad_ids_are_refused(env: &Env) {
    let mut bundle = env.bundle();
    for bad in [
        "..",
        ".",
        "",
        "a/b",
        "../escape",
        "a b",
        "a\nb",
        "\u{e4}",
        "a;b",
        &"x".repeat(5000),
    ] {
        bundle.id = bad.to_owned();
        let output = env.rt.finish(env.rt.spawn(bundle.command("create", &[])));
        assert_ne!(output.code, 0, "{bad:?}: {output}");
    }
    assert!(!env.rt.root.join("..").join("escape").exists());
    for good in ["a", "a.b", "a-b_c+d.1", "0", "UPPER"] {
        let mut bundle = env.bundle();
        bundle.id = good.to_owned();
        bundle.run().ok();
    }
}

fn id_is_free_again_after_delete(env: &Env) {
    let bundle = env.bundle();
    for _ in 0..3 {
        let container = bundle.create();
        container.delete();
    }
}

fn listed(env: &Env) -> Vec<Value> {
    let output = env.rt.call(&["list", "--format", "json"]).ok();
    output.json().as_array().cloned().unwrap_or_default()
}

fn list_as_table_and_json(env: &Env) {
    let mut first = env.bundle();
    let running = first.sleeper();
    let second = env.bundle();
    let created = second.create();
    let mut all = listed(env);
    all.sort_by_key(|c| c["id"].as_str().unwrap().to_owned());
    assert_eq!(all.len(), 2);
    assert_eq!(
        (&all[0]["id"], &all[0]["status"]),
        (&json!(running.id), &json!("running"))
    );
    assert_eq!(
        (&all[1]["id"], &all[1]["status"]),
        (&json!(created.id), &json!("created"))
    );
    assert_eq!(all[0]["pid"], json!(running.pid()));
    assert_eq!(all[0]["bundle"], json!(first.path));
    assert_eq!(all[0]["owner"], "root");
    assert!(all[0]["created"].as_str().unwrap().contains('T'));
    let table = env.rt.call(&["list"]).ok().stdout;
    let mut lines = table.lines();
    let heading: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        heading,
        ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    );
    assert!(
        lines.any(|l| l.starts_with(&running.id) && l.contains("running")),
        "{table}"
    );
    let quiet = env.rt.call(&["list", "--quiet"]).ok().stdout;
    let mut ids: Vec<&str> = quiet.lines().collect();
    ids.sort_unstable();
    assert_eq!(ids, [running.id.as_str(), created.id.as_str()]);
}

fn list_of_nothing(env: &Env) {
    std::fs::create_dir(&env.rt.root).unwrap();
    assert_eq!(listed(env), Vec::<Value>::new());
    assert_eq!(env.rt.call(&["list", "-q"]).ok().stdout, "");
}

fn list_survives_a_broken_state(env: &Env) {
    let container = env.bundle().sleeper();
    let broken = env.rt.root.join("broken");
    std::fs::create_dir_all(&broken).unwrap();
    let empty = listed(env);
    std::fs::write(broken.join("state.json"), "{ half").unwrap();
    let half = listed(env);
    std::fs::remove_dir_all(&broken).unwrap();
    for all in [empty, half] {
        assert!(
            all.iter().any(|c| c["id"] == json!(container.id)),
            "the others are still shown"
        );
    }
}

fn ps_as_table_and_json(env: &Env) {
    let container = env.bundle().sleeper();
    let pids = env
        .rt
        .call(&["ps", "--format", "json", &container.id])
        .ok()
        .json();
    assert_eq!(pids, json!([container.pid()]));
    let table = env.rt.call(&["ps", &container.id]).ok().stdout;
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    assert!(
        lines[0].contains("PID") && lines[1].contains("sleep 1000"),
        "{table}"
    );
}

fn ps_with_arguments(env: &Env) {
    let container = env.bundle().sleeper();
    let table = env
        .rt
        .call(&["ps", &container.id, "-o", "pid,comm"])
        .ok()
        .stdout;
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(
        words,
        ["PID", "COMMAND", &container.pid().to_string(), "sleep"]
    );
}

fn pause_and_resume(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.sh("while :; do echo x; sleep 0.01; done").start();
    container.wait_output("x");
    container.verb("pause").ok();
    assert_eq!(container.status(), "paused");
    let before = container.stdout().len();
    std::thread::sleep(std::time::Duration::from_millis(150));
    assert_eq!(container.stdout().len(), before, "it still runs");
    container.verb("resume").ok();
    assert_eq!(container.status(), "running");
    process::until("it goes on", 5, || {
        (container.stdout().len() > before).then_some(())
    });
}

fn pause_of_a_stopped_container_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.stop();
    container.verb("pause").fails();
}

fn resume_of_a_running_container_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.verb("resume").fails().says("not paused");
}

fn events_stats(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.args(&["/bin/probe", "memory", "20"]).start();
    container.wait_output("ready");
    let event = env
        .rt
        .call(&["events", "--stats", &container.id])
        .ok()
        .json();
    assert_eq!(
        (&event["type"], &event["id"]),
        (&json!("stats"), &json!(container.id))
    );
    let memory = event["data"]["memory"]["usage"]["usage"].as_u64().unwrap();
    assert!((20 << 20..60 << 20).contains(&memory), "{memory}");
    assert_eq!(event["data"]["pids"]["current"], 1);
    assert!(event["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
}

fn events_of_a_stopped_container_are_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.stop();
    env.rt
        .call(&["events", "--stats", &container.id])
        .fails()
        .says("not running");
}

fn features_lists_what_works(env: &Env) {
    let features = env.rt.call(&["features"]).ok().json();
    let has = |pointer: &str, value: &str| {
        let list = features.pointer(pointer).and_then(Value::as_array);
        let list = list.unwrap_or_else(|| panic!("no {pointer}: {features:#}"));
        assert!(list.contains(&json!(value)), "{pointer} lacks {value}");
    };
    for hook in [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ] {
        has("/hooks", hook);
    }
    for option in ["ro", "rro", "rbind", "tmpcopyup", "rnosuid", "nosymfollow"] {
        has("/mountOptions", option);
    }
    for kind in [
        "cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts",
    ] {
        has("/linux/namespaces", kind);
    }
    has("/linux/capabilities", "CAP_SYS_ADMIN");
    has("/linux/seccomp/actions", "SCMP_ACT_NOTIFY");
    has("/linux/seccomp/operators", "SCMP_CMP_MASKED_EQ");
    assert_eq!(
        features.pointer("/linux/mountExtensions/idmap/enabled"),
        Some(&json!(true))
    );
    has("/linux/seccomp/archs", "SCMP_ARCH_X86_64");
    assert_eq!(features.pointer("/linux/cgroup/v1"), Some(&json!(true)));
    assert_eq!(features.pointer("/linux/cgroup/v2"), Some(&json!(true)));
    assert!(features["ociVersionMin"].is_string() && features["ociVersionMax"].is_string());
}

fn spec_writes_a_config_that_runs(env: &Env) {
    let mut bundle = env.bundle();
    env.rt
        .call(&["spec", "--bundle", bundle.path.to_str().unwrap()])
        .ok();
    let written: Value = serde_json::from_str(&read(bundle.path.join("config.json"))).unwrap();
    assert_eq!(written["process"]["args"], json!(["sh"]));
    assert_eq!(written["process"]["terminal"], true);
    assert_eq!(written["root"], json!({"path": "rootfs", "readonly": true}));
    for kind in ["pid", "network", "ipc", "uts", "mount"] {
        assert!(
            written["linux"]["namespaces"]
                .as_array()
                .unwrap()
                .contains(&json!({"type": kind})),
            "{kind}"
        );
    }
    bundle.spec = written;
    bundle
        .set("/process/terminal", json!(false))
        .set("/linux/cgroupsPath", json!(format!("/{}/spec", env.tag)));
    bundle.args(&["echo", "runs"]).run().ok().prints("runs");
    let rootless = env.directory("rootless");
    env.rt
        .call(&["spec", "--rootless", "--bundle", rootless.to_str().unwrap()])
        .ok();
    let written: Value = serde_json::from_str(&read(rootless.join("config.json"))).unwrap();
    let kinds: Vec<&str> = written["linux"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["type"].as_str().unwrap())
        .collect();
    assert!(
        kinds.contains(&"user") && !kinds.contains(&"network"),
        "{kinds:?}"
    );
}

fn spec_does_not_overwrite(env: &Env) {
    let dir = env.directory("bundle");
    std::fs::write(dir.join("config.json"), "mine").unwrap();
    env.rt
        .call(&["spec", "--bundle", dir.to_str().unwrap()])
        .fails()
        .says("config.json");
    assert_eq!(read(dir.join("config.json")), "mine");
}

fn version_is_readable(env: &Env) {
    let output = env.rt.call(&["--version"]).ok();
    assert!(
        output.stdout.contains("runc version ") || output.stdout.contains("rcrun version "),
        "{output}"
    );
    assert!(
        output.stdout.lines().any(|l| l.starts_with("spec: 1.")),
        "{output}"
    );
}

fn pid_file(env: &Env) {
    let mut bundle = env.bundle();
    let path = env.path("init.pid");
    bundle.args(&["sleep", "1000"]);
    let container = bundle.create_with(&["--pid-file", path.to_str().unwrap()]);
    assert_eq!(read(&path), container.pid().to_string(), "just the number");
}

fn pidfd_socket(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["sleep", "1000"]);
    let socket = FdSocket::listen(&env.path("pidfd"));
    let container = bundle.create_with(&["--pidfd-socket", socket.path()]);
    let (_, fds) = socket.next();
    let info = read(format!(
        "/proc/self/fdinfo/{}",
        std::os::fd::AsRawFd::as_raw_fd(&fds[0])
    ));
    let pid = info
        .lines()
        .find_map(|l| l.strip_prefix("Pid:"))
        .unwrap()
        .trim();
    assert_eq!(pid, container.pid().to_string());
}

fn run_detached(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["sleep", "1000"]);
    bundle.run_with(&["--detach"]).ok();
    let state = env.rt.call(&["state", &bundle.id]).ok().json();
    assert_eq!(state["status"], "running");
    let pid = i32::try_from(state["pid"].as_i64().unwrap()).unwrap();
    assert_eq!(
        process::status(pid, "PPid"),
        "1",
        "no process of the runtime stays"
    );
    env.rt.call(&["delete", "--force", &bundle.id]).ok();
}

fn run_and_keep(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh("exit 3").run_with(&["--keep"]).exits(3);
    assert_eq!(
        env.rt.call(&["state", &bundle.id]).ok().json()["status"],
        "stopped"
    );
    env.rt.call(&["delete", &bundle.id]).ok();
}

fn bundle_defaults_to_the_current_directory(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["echo", "here"]).write();
    let mut command = env.rt.command(&["run", &bundle.id]);
    command.current_dir(&bundle.path);
    env.rt.finish(env.rt.spawn(command)).ok().prints("here");
}

fn flags_may_stand_after_the_id(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["sleep", "1000"]).write();
    let id = bundle.id.clone();
    env.rt
        .call(&["create", &id, "--bundle", bundle.path.to_str().unwrap()])
        .ok();
    env.rt.call(&["delete", &id, "--force"]).ok();
}

fn failing_call(env: &Env, format: &str) -> (String, String) {
    let path = env.path("log");
    let text = path.to_str().unwrap();
    let output = env
        .rt
        .call(&["--log", text, "--log-format", format, "state", "nobody"]);
    assert_ne!(output.code, 0);
    (read(path), output.stderr)
}

fn log_file_in_json(env: &Env) {
    let (log, _) = failing_call(env, "json");
    let entry: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(entry["level"], "error");
    assert!(
        entry["msg"].as_str().unwrap().contains("does not exist"),
        "{log}"
    );
    assert!(entry["time"].as_str().unwrap().contains('T'), "{log}");
}

fn log_file_in_text(env: &Env) {
    let (log, stderr) = failing_call(env, "text");
    let line = log.lines().last().unwrap();
    assert!(
        line.starts_with("time=\"") && line.contains(" level=error msg=\""),
        "{line}"
    );
    assert!(
        stderr.contains("does not exist"),
        "also for the eye: {stderr}"
    );
    let output = env.rt.call(&["--log-format", "yaml", "list"]);
    output.fails();
}

fn unknown_verb_and_flag_are_refused(env: &Env) {
    assert_ne!(env.rt.call(&["dance"]).code, 0);
    assert_ne!(env.rt.call(&["list", "--no-such-flag"]).code, 0);
    assert_ne!(env.rt.call(&["--no-such-flag", "list"]).code, 0);
    assert_ne!(env.rt.call(&["state"]).code, 0);
    assert_ne!(env.rt.call(&["state", "a", "b"]).code, 0);
}

fn help_of_every_verb(env: &Env) {
    let verbs = [
        "checkpoint",
        "create",
        "delete",
        "events",
        "exec",
        "kill",
        "list",
        "pause",
        "ps",
        "restore",
        "resume",
        "run",
        "spec",
        "start",
        "state",
        "update",
        "features",
    ];
    let general = env.rt.call(&["--help"]).ok().stdout;
    for verb in verbs {
        assert!(general.contains(verb), "--help does not name {verb}");
        for flag in ["-h", "--help"] {
            let output = env.rt.call(&[verb, flag]).ok();
            assert!(output.stdout.contains(verb), "{output}");
        }
    }
}

fn signals_are_forwarded_by_run(env: &Env) {
    let mut bundle = env.bundle();
    let mut running = bundle
        .args(&["/bin/probe", "signals"])
        .run_in_background(&[]);
    process::until("it is ready", 10, || {
        running.read().0.contains("ready").then_some(())
    });
    let pid = nix::unistd::Pid::from_raw(running.pid());
    for signal in [
        nix::sys::signal::Signal::SIGUSR1,
        nix::sys::signal::Signal::SIGHUP,
    ] {
        nix::sys::signal::kill(pid, signal).unwrap();
        process::until("it arrives", 5, || {
            running.read().0.contains(signal.as_str()).then_some(())
        });
    }
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    env.rt.finish(running).exits(7);
}

/// What a shim does: become the subreaper, and wait for the container's init itself.
fn subreaper_gets_the_exit_status(env: &Env) {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let mut bundle = env.bundle();
    let container = bundle.sh("exit 23").create();
    let pid = container.pid();
    container.start();
    let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
    assert_eq!(
        status,
        nix::sys::wait::WaitStatus::Exited(nix::unistd::Pid::from_raw(pid), 23)
    );
    assert_eq!(container.status(), "stopped");
}

fn root_directory_is_private(env: &Env) {
    use std::os::unix::fs::PermissionsExt;
    let _container = env.bundle().sleeper();
    let mode = std::fs::metadata(&env.rt.root)
        .unwrap()
        .permissions()
        .mode()
        & 0o7777;
    assert_eq!(mode & 0o066, 0, "others may not look inside: {mode:o}");
}
