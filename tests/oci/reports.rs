//! What the runtime tells: list, ps, events, features, spec, version, help, and its log.

use super::hooks;
use crate::harness::env::read;
use crate::harness::{Env, Need, Test, process, test};
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(list_as_table_and_json),
        test!(list_of_nothing),
        test!(list_survives_a_broken_state),
        test!(ps_as_table_and_json),
        test!(ps_with_arguments),
        test!(events_stats).needs(Need::V1("memory")),
        test!(events_of_a_stopped_container_are_refused),
        test!(features_lists_what_works),
        test!(spec_writes_a_config_that_runs),
        test!(spec_does_not_overwrite),
        test!(version_is_readable),
        test!(log_file_in_json),
        test!(log_file_in_text),
        test!(unknown_verb_and_flag_are_refused),
        test!(help_of_every_verb),
    ]
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
    process::becomes(container.pid(), &["sleep", "1000"]);
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
    process::becomes(container.pid(), &["sleep", "1000"]);
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
    for hook in hooks::KINDS {
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
