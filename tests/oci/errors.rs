//! What a user reads when something is wrong.

use crate::harness::{Bundle, Env, Output, Test, test};
use serde_json::json;
use std::fs;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(bad_json),
        test!(bad_json_names_the_place).only_rcrun("runc names neither line nor property"),
        test!(wrong_types_are_refused),
        test!(missing_config),
        test!(missing_bundle),
        test!(empty_files_and_objects),
        test!(missing_process),
        test!(missing_root),
        test!(empty_arguments),
        test!(unsupported_version).only_rcrun("runc does not look at ociVersion"),
        test!(unknown_properties_are_ignored),
        test!(all_wrong_words_at_once).only_rcrun("runc names the first problem only"),
        test!(all_wrong_values_at_once).only_rcrun("runc names the first problem only"),
        test!(missing_program),
        test!(missing_program_in_the_path),
        test!(program_is_a_directory),
        test!(program_is_not_executable),
        test!(interpreter_is_missing).only_rcrun("runc says that the program does not exist"),
        test!(loader_is_missing).only_rcrun("runc says that the program does not exist"),
        test!(wrong_architecture).only_rcrun("runc says exec format error and no more"),
        test!(no_format),
        test!(unwritable_state_root),
        test!(one_line_and_no_panic),
        test!(paths_are_named),
        test!(errors_carry_the_errno_text),
        test!(debug_shows_steps),
        test!(huge_config_is_no_crash),
        test!(deep_config_is_no_crash),
        test!(config_that_is_a_fifo_or_directory),
    ]
}

/// `create` with this text as its config.
#[track_caller]
fn with_config(env: &Env, text: &str) -> Output {
    let bundle = env.bundle();
    fs::write(bundle.path.join("config.json"), text).unwrap();
    let output = env
        .rt
        .call(&[
            "create",
            "--bundle",
            bundle.path.to_str().unwrap(),
            &bundle.id,
        ])
        .fails();
    assert!(!env.rt.root.join(&bundle.id).exists(), "{output}");
    output
}

fn bad_json(env: &Env) {
    for text in [
        "",
        "{",
        "[]",
        "null",
        "{\"process\": }",
        "\u{0}",
        "{} trailing",
    ] {
        with_config(env, text);
    }
}

fn bad_json_names_the_place(env: &Env) {
    with_config(env, "{\n  \"ociVersion\": \"1.2.0\",\n  \"process\": {,\n}")
        .says("config.json")
        .says("line 3");
}

fn wrong_types_are_refused(env: &Env) {
    for (pointer, value) in [
        ("/process/args", json!("sh")),
        ("/process/user/uid", json!("root")),
        ("/process/user/uid", json!(-1)),
        ("/process/user/uid", json!(4_294_967_296_u64)),
        ("/process/terminal", json!("no")),
        ("/mounts", json!({})),
        ("/linux/namespaces", json!("all")),
        ("/root", json!("rootfs")),
    ] {
        let mut bundle = env.bundle();
        bundle.set(pointer, value).refused();
    }
}

fn missing_config(env: &Env) {
    let bundle = env.bundle();
    env.rt
        .call(&[
            "create",
            "--bundle",
            bundle.path.to_str().unwrap(),
            &bundle.id,
        ])
        .fails()
        .says("config.json");
}

fn missing_bundle(env: &Env) {
    env.rt
        .call(&["create", "--bundle", "/no/such/bundle", "box"])
        .fails()
        .says("/no/such/bundle");
}

fn empty_files_and_objects(env: &Env) {
    with_config(env, "{}");
    with_config(env, "{\"ociVersion\": \"1.2.0\"}");
    with_config(
        env,
        "{\"ociVersion\": \"1.2.0\", \"process\": {}, \"root\": {}}",
    );
}

fn missing_process(env: &Env) {
    let mut bundle = env.bundle();
    bundle.unset("", "process").run().fails().says("process");
    // Only `start` requires one; runc refuses it earlier.
    if env.rt.is_rcrun() {
        let container = bundle.create();
        container.verb("start").fails().says("process");
        assert_eq!(container.state()["status"], "stopped");
        container.delete();
    }
}

fn missing_root(env: &Env) {
    let mut bundle = env.bundle();
    bundle.unset("", "root").refused().says("root");
}

fn empty_arguments(env: &Env) {
    env.bundle().args(&[]).refused().says("args");
    env.bundle()
        .unset("/process", "args")
        .refused()
        .says("args");
    env.bundle().args(&[""]).refused();
}

fn unsupported_version(env: &Env) {
    for version in ["2.0.0", "0.0.1", "one"] {
        let mut bundle = env.bundle();
        bundle
            .set("/ociVersion", json!(version))
            .refused()
            .says("ociVersion");
    }
}

fn unknown_properties_are_ignored(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set("/futureThing", json!({"a": [1]}))
        .set("/process/futureThing", json!(true));
    bundle.set("/linux/futureThing", json!("x")).runs();
}

/// Every place that is wrong is named, not only the first.
#[track_caller]
fn names_all(bundle: &Bundle<'_>, places: &[&str]) {
    let output = bundle.refused();
    for place in places {
        assert!(
            output.stderr.contains(place),
            "{place} is not named:\n{output}"
        );
    }
}

fn all_wrong_words_at_once(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set(
        "/process/rlimits",
        json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
    );
    bundle.push("/linux/namespaces", json!({"type": "dreams"}));
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_PRAY"}));
    names_all(
        &bundle,
        &[
            "process.rlimits[0].type",
            "linux.namespaces[6].type",
            "linux.seccomp.defaultAction",
        ],
    );
}

fn all_wrong_values_at_once(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/cwd", json!("relative"));
    bundle.set(
        "/process/rlimits",
        json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]),
    );
    bundle.set("/linux/rootfsPropagation", json!("sideways"));
    bundle
        .push("/linux/namespaces", json!({"type": "ipc"}))
        .set("/linux/maskedPaths", json!(["relative"]));
    let places = [
        "process.cwd",
        "process.rlimits[0]",
        "linux.rootfsPropagation",
        "linux.namespaces[6]",
        "linux.maskedPaths[0]",
    ];
    names_all(&bundle, &places);
}

fn missing_program(env: &Env) {
    env.bundle()
        .args(&["/no/such/program"])
        .refused()
        .says("/no/such/program")
        .says("no such file");
}

fn missing_program_in_the_path(env: &Env) {
    env.bundle()
        .args(&["no-such-program"])
        .refused()
        .says("no-such-program")
        .says("$PATH");
}

fn program_is_a_directory(env: &Env) {
    env.bundle().args(&["/etc"]).refused().says("/etc");
}

fn program_is_not_executable(env: &Env) {
    env.bundle()
        .args(&["/etc/passwd"])
        .refused()
        .says("/etc/passwd")
        .says("permission denied");
}

/// The program's own standard error only carries the kernel's words, once; a log has the explanation.
fn explained(env: &Env, bundle: &Bundle) -> Output {
    let log = env.path("log");
    bundle.write();
    let path = bundle.path.to_str().unwrap();
    let log_flag = log.to_str().unwrap();
    let words = ["--log", log_flag, "run", "--bundle", path, &bundle.id];
    let output = env.rt.call(&words).fails();
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("level=error"), "{text}");
    output
}

fn interpreter_is_missing(env: &Env) {
    let mut bundle = env.bundle();
    bundle.program("tool", b"#!/opt/python\nprint()\n");
    bundle.args(&["/tool"]);
    explained(env, &bundle)
        .says("/tool")
        .says("interpreter")
        .says("/opt/python");
}

/// A copy of a dynamically linked program of the host, without the host's libraries.
fn loader_is_missing(env: &Env) {
    let mut bundle = env.bundle();
    let content = fs::read("/bin/ls")
        .or_else(|_| fs::read("/usr/bin/ls"))
        .unwrap();
    let Some(start) = content
        .windows(5)
        .position(|w| w == b"/lib6" || w == b"/lib/")
    else {
        env.skip("ls is static here");
    };
    let loader: String = content[start..]
        .iter()
        .take_while(|b| **b != 0)
        .map(|b| char::from(*b))
        .collect();
    bundle.program("tool", &content);
    bundle.args(&["/tool"]);
    explained(env, &bundle)
        .says("/tool")
        .says("loader")
        .says(&loader);
}

fn wrong_architecture(env: &Env) {
    const MACHINE: usize = 18;
    const EM_S390: u8 = 22;
    let mut bundle = env.bundle();
    let mut content = fs::read(bundle.rootfs("bin/busybox")).unwrap();
    content[MACHINE] = EM_S390;
    content[MACHINE + 1] = 0;
    bundle.program("tool", &content);
    bundle.args(&["/tool"]);
    explained(env, &bundle).says("/tool").says("architecture");
}

fn no_format(env: &Env) {
    let mut bundle = env.bundle();
    bundle.program("tool", b"echo no interpreter line\n");
    bundle
        .args(&["/tool"])
        .run()
        .fails()
        .says("/tool")
        .says("exec format error");
}

fn unwritable_state_root(env: &Env) {
    let bundle = env.bundle();
    bundle.write();
    fs::write(env.path("plain"), "").unwrap();
    let root = env.path("plain/state");
    let mut command = std::process::Command::new(env.rt.path());
    command.args([
        "--root",
        root.to_str().unwrap(),
        "create",
        "--bundle",
        bundle.path.to_str().unwrap(),
        &bundle.id,
    ]);
    env.rt.finish(env.rt.spawn(command)).fails().says("plain");
}

fn one_line_and_no_panic(env: &Env) {
    for output in [
        env.rt.call(&["state", "nobody"]),
        env.bundle()
            .set("/process/cwd", json!("relative"))
            .refused(),
        env.bundle().args(&["/no/such"]).refused(),
    ] {
        assert_eq!(output.stderr.trim().lines().count(), 1, "{output}");
        assert!(!output.stderr.contains("panic"), "{output}");
    }
}

fn paths_are_named(env: &Env) {
    env.bundle()
        .bind(std::path::Path::new("/no/such/source"), "/m", &[])
        .refused()
        .says("/no/such/source");
    env.bundle()
        .join("ipc", "/no/such/ns")
        .refused()
        .says("/no/such/ns");
    let hook = json!([{"path": "/no/such/hook"}]);
    env.bundle()
        .set("/hooks", json!({"createRuntime": hook}))
        .refused()
        .says("/no/such/hook");
}

fn errors_carry_the_errno_text(env: &Env) {
    let mut bundle = env.bundle();
    bundle.mount(
        json!({"destination": "/m", "type": "tmpfs", "source": "t", "options": ["colour=blue"]}),
    );
    bundle.refused().says("invalid argument");
}

fn debug_shows_steps(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["true"]).write();
    let output = env
        .rt
        .call(&[
            "--debug",
            "run",
            "--bundle",
            bundle.path.to_str().unwrap(),
            &bundle.id,
        ])
        .ok();
    assert!(output.stderr.contains("level=debug"), "{output}");
    let quiet = env.bundle().run().ok();
    assert_eq!(quiet.stderr, "", "nothing is said when nothing is wrong");
}

fn huge_config_is_no_crash(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/annotations", json!({"big": "x".repeat(8 << 20)}));
    let output = bundle.args(&["echo", "it ran"]).run();
    assert!(
        output.text() == "it ran" || !output.stderr.is_empty(),
        "{output}"
    );
    assert!(output.code < 128, "{output}");
}

fn deep_config_is_no_crash(env: &Env) {
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let output = with_config(env, &deep);
    assert!(output.code < 128, "{output}");
}

fn config_that_is_a_fifo_or_directory(env: &Env) {
    let bundle = env.bundle();
    fs::create_dir(bundle.path.join("config.json")).unwrap();
    env.rt
        .call(&[
            "create",
            "--bundle",
            bundle.path.to_str().unwrap(),
            &bundle.id,
        ])
        .fails();
}
