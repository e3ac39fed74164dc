//! Known ways out of a container, each as an attack that must fail. Numbers are those of the project's
//! catalogue: a1 and a2 are about the runtime's own binary and descriptors, a12 to a17 about what a container
//! reaches, c4 about a process that joins it.

use super::cves::rounds;
use super::hooks;
use crate::harness::attack::digest;
use crate::harness::bundle::attempts;
use crate::harness::{Bundle, Env, Need, Output, Test, full, test};
use serde_json::{Value, json};
use std::fs;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(a1_entrypoint_is_the_runtime_itself),
        test!(a1_binary_survives_an_attacker_during_execs),
        test!(a2_working_directory_through_a_descriptor),
        test!(a2_exec_directory_through_a_descriptor),
        test!(a12_cgroup_escape_by_release_agent),
        test!(a12_cgroup_names_with_dotdot),
        test!(a12_cgroup_mount_in_a_user_namespace),
        test!(a13_raw_devices).needs(Need::V1("devices")),
        test!(a14_default_masks_of_spec),
        test!(a15_large_values_are_never_cut),
        test!(a16_hooks_do_not_see_the_images_environment),
        test!(a16_hooks_without_environment_get_none)
            .only_rcrun("runc gives its own environment to hooks that name none"),
        test!(a17_no_abstract_socket),
        test!(c4_container_looks_into_an_exec),
    ]
}

const RUNTIME_NAMES: [&str; 3] = ["rcrun", "runc", "crun"];

fn a1_entrypoint_is_the_runtime_itself(env: &Env) {
    env.bundle().runs();
    let binary = env.rt.use_copy();
    let before = digest(&fs::read(&binary).unwrap());
    let mut script = env.bundle();
    script.own_programs();
    script.program("evil", b"#!/proc/self/exe\n");
    script.args(&["/evil"]).run();
    let mut link = env.bundle();
    link.own_programs();
    link.link("bin/sh", "/proc/self/exe");
    link.args(&["sh", "-c", "true"]).run();
    link.args(&["/proc/self/exe", "--version"]).run();
    let container = env.bundle().sleeper();
    for _ in 0..3 {
        container.exec(&["/proc/self/exe"]);
        container.exec(&["/proc/self/fd/3"]);
    }
    assert_eq!(digest(&fs::read(&binary).unwrap()), before);
}

fn a1_binary_survives_an_attacker_during_execs(env: &Env) {
    let binary = env.rt.use_copy();
    let before = digest(&fs::read(&binary).unwrap());
    let mut bundle = env.bundle();
    bundle.own_programs();
    let container = bundle
        .caps(&["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"])
        .args(&["/bin/probe", "exe-attack"])
        .start();
    container.wait_output("ready");
    for _ in 0..rounds(30, 200) {
        container.exec(&["true"]);
    }
    container.stop();
    let out = container.stdout();
    assert!(
        !out.contains("WROTE"),
        "{}",
        out.lines()
            .filter(|l| l.contains("WROTE"))
            .take(3)
            .collect::<String>()
    );
    assert_eq!(digest(&fs::read(&binary).unwrap()), before);
}

/// A host directory whose content must never be seen inside, held open by the caller as descriptor 7.
fn called_with_open_directory(env: &Env, inner: &std::process::Command) -> Output {
    let canary = env.directory("canary");
    fs::write(canary.join("HOST-MARKER"), "").unwrap();
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "exec \"$0\" \"$@\" 7<\"$HOLD\""])
        .arg(inner.get_program())
        .args(inner.get_args());
    command.env("HOLD", &canary);
    env.rt.finish(env.rt.spawn(command))
}

#[track_caller]
fn stays_inside(output: &Output) {
    assert!(
        !output.stdout.contains("HOST-MARKER"),
        "the host's directory was entered:\n{output}"
    );
    assert!(!output.stdout.contains("(unreachable)"), "{output}");
}

fn a2_working_directory_through_a_descriptor(env: &Env) {
    for number in (3..=20).step_by(if full() { 1 } else { 2 }) {
        let mut bundle = env.bundle();
        bundle
            .set("/process/cwd", json!(format!("/proc/self/fd/{number}")))
            .sh("pwd; ls; ls ..");
        let output = called_with_open_directory(env, &bundle.command("run", &[]));
        stays_inside(&output);
        output.fails();
    }
    let mut bundle = env.bundle();
    bundle.link("w", "/proc/self/fd/7");
    bundle.set("/process/cwd", json!("/w")).sh("pwd; ls; ls ..");
    stays_inside(&called_with_open_directory(
        env,
        &bundle.command("run", &[]),
    ));
}

fn a2_exec_directory_through_a_descriptor(env: &Env) {
    let bundle = env.bundle();
    bundle.link("w", "/proc/self/fd/7");
    let mut bundle = bundle;
    let container = bundle.sleeper();
    for cwd in [
        "/proc/self/fd/3",
        "/proc/self/fd/5",
        "/proc/self/fd/7",
        "/proc/self/fd/8",
        "/w",
    ] {
        let command = container.exec_command(&["--cwd", cwd], &["sh", "-c", "pwd; ls; ls .."]);
        let output = called_with_open_directory(env, &command);
        stays_inside(&output);
        output.exits(255);
    }
}

const NEWUSER_NEWNS_NEWCGROUP: i64 = 0x1000_0000 | 0x0002_0000 | 0x0200_0000;

fn a12_cgroup_escape_by_release_agent(env: &Env) {
    let unshare = format!("syscall:{}:{NEWUSER_NEWNS_NEWCGROUP}", libc::SYS_unshare);
    let mut bundle = env.bundle();
    let answers = bundle.attempts(&[
        "mount:x:/tmp:cgroup:0:pids",
        "mount:x:/tmp:cgroup2:0:",
        &unshare,
        "mount:x:/tmp:cgroup:0:pids",
        "write:/tmp/release_agent:/evil",
    ]);
    assert_ne!(
        answers[0].0, 0,
        "without CAP_SYS_ADMIN nothing can be mounted: {answers:?}"
    );
    assert_ne!(answers[1].0, 0, "{answers:?}");
    assert_ne!(
        answers[4].0, 0,
        "not even in namespaces of one's own: {answers:?}"
    );
    let agent = fs::read_to_string("/sys/fs/cgroup/pids/release_agent").unwrap_or_default();
    assert!(!agent.contains("evil"));
}

fn a12_cgroup_names_with_dotdot(env: &Env) {
    let before = fs::read_to_string("/proc/self/cgroup").unwrap();
    for path in [
        "/../../..",
        "../../../..",
        &format!("/{}/../..", env.tag),
        "/./..",
    ] {
        let mut bundle = env.bundle();
        bundle
            .without_namespace("cgroup")
            .set("/linux/cgroupsPath", json!(path));
        let output = bundle.args(&["cat", "/proc/self/cgroup"]).run();
        assert!(!output.stdout.contains(".."), "{path}: {output}");
    }
    let container = env.bundle().sleeper();
    container
        .exec_with(&["--cgroup", "../.."], &["true"])
        .exits(255);
    assert_eq!(fs::read_to_string("/proc/self/cgroup").unwrap(), before);
}

fn a12_cgroup_mount_in_a_user_namespace(env: &Env) {
    let mut bundle = env.bundle();
    bundle.userns().without_namespace("cgroup");
    bundle.mount(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}));
    bundle.directory("sys/fs/cgroup");
    bundle.args(&[
        "/bin/probe",
        "try",
        "mkdir:/sys/fs/cgroup/pids/x",
        "write:/sys/fs/cgroup/pids/cgroup.procs:1",
    ]);
    let output = bundle.run();
    if output.code == 0 {
        let answers = attempts(&output.json());
        assert!(answers.iter().all(|(errno, _)| *errno != 0), "{answers:?}");
    }
}

fn a13_raw_devices(env: &Env) {
    let mut bundle = env.bundle();
    bundle.caps(&[
        "CAP_MKNOD",
        "CAP_SYS_RAWIO",
        "CAP_DAC_OVERRIDE",
        "CAP_SYS_ADMIN",
    ]);
    let nodes = [
        ("c", 1, 1),
        ("c", 1, 2),
        ("c", 1, 4),
        ("b", 8, 0),
        ("b", 254, 0),
        ("b", 7, 0),
        ("c", 10, 232),
        ("c", 10, 229),
    ];
    let questions: Vec<String> = nodes
        .iter()
        .map(|(k, a, i)| format!("open-node:/tmp/n{k}{a}-{i}:{k}:{a}:{i}"))
        .collect();
    let questions: Vec<&str> = questions.iter().map(String::as_str).collect();
    for ((kind, major, minor), (errno, _)) in nodes.iter().zip(bundle.attempts(&questions)) {
        assert_eq!(errno, 1, "{kind} {major}:{minor}");
    }
    let answers = env.bundle().attempts(&["mknod:/tmp/null:c:1:3"]);
    assert_eq!(
        answers[0].0, 1,
        "without CAP_MKNOD there are no new nodes at all"
    );
}

fn a14_default_masks_of_spec(env: &Env) {
    let dir = env.directory("spec");
    env.rt
        .call(&["spec", "--bundle", dir.to_str().unwrap()])
        .ok();
    let spec: Value =
        serde_json::from_str(&fs::read_to_string(dir.join("config.json")).unwrap()).unwrap();
    let has = |list: &str, path: &str| {
        let paths = spec["linux"][list].as_array().unwrap();
        assert!(
            paths.contains(&json!(path)),
            "{list} lacks {path}: {paths:?}"
        );
    };
    for path in [
        "/proc/acpi",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/sched_debug",
        "/sys/firmware",
        "/proc/scsi",
    ] {
        has("maskedPaths", path);
    }
    for path in [
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ] {
        has("readonlyPaths", path);
    }
}

fn a15_large_values_are_never_cut(env: &Env) {
    let mut bundle = env.bundle();
    let big = |name: &str, size: usize| format!("{name}={}", "v".repeat(size));
    bundle
        .push("/process/env", json!(big("A", 65_535)))
        .push("/process/env", json!(big("B", 65_536)));
    bundle.push("/process/env", json!(big("C", 70_001)));
    let source = env.directory("source");
    for i in 0..150 {
        bundle.bind(&source, &format!("/m/{i}"), &["ro"]);
    }
    let long = "d/".repeat(1500);
    bundle.set("/process/cwd", json!(format!("/{long}end")));
    bundle.set("/linux/uidMappings", json!([])).set(
        "/process/user/additionalGids",
        json!((0..3000).collect::<Vec<u32>>()),
    );
    let facts = bundle.facts();
    let environment = facts["env"].as_array().unwrap();
    for (name, size) in [("A", 65_535), ("B", 65_536), ("C", 70_001)] {
        assert!(
            environment.contains(&json!(big(name, size))),
            "{name} was cut"
        );
    }
    assert_eq!(facts["cwd"], json!(format!("/{long}end")));
    let mounts = facts["mounts"].as_array().unwrap();
    assert_eq!(
        mounts
            .iter()
            .filter(|m| m["target"].as_str().unwrap().starts_with("/m/"))
            .count(),
        150
    );
    assert_eq!(
        facts["status"]["Groups"]
            .as_str()
            .unwrap()
            .split(' ')
            .count(),
        3000
    );
}

/// What hooks of all kinds on the host find in their environment.
fn environment_of_hooks(env: &Env, given: &Value) -> String {
    let path = env.path("environ");
    let mut bundle = env.bundle();
    for evil in [
        "LD_PRELOAD=/proc/self/cwd/x.so",
        "BASH_ENV=/evil",
        "GCONV_PATH=/evil",
    ] {
        bundle.push("/process/env", json!(evil));
    }
    bundle.set("/process/env/0", json!("PATH=/bin:/evil"));
    let code = format!("/bin/cat /proc/self/environ >> {}", path.display());
    for kind in hooks::of_the_host() {
        let mut hook = json!({"path": "/bin/sh", "args": ["sh", "-c", code]});
        if !given.is_null() {
            hook["env"] = given.clone();
        }
        bundle.push(&format!("/hooks/{kind}"), hook);
    }
    bundle.runs();
    fs::read_to_string(&path).unwrap()
}

fn a16_hooks_do_not_see_the_images_environment(env: &Env) {
    let seen = environment_of_hooks(env, &json!(["ONLY=this"]));
    assert!(
        !seen.contains("evil") && !seen.contains("x.so") && !seen.contains("canary"),
        "{seen:?}"
    );
    assert_eq!(seen.matches("ONLY=this").count(), 5);
}

fn a16_hooks_without_environment_get_none(env: &Env) {
    let seen = environment_of_hooks(env, &Value::Null);
    assert!(
        !seen.contains("evil") && !seen.contains("x.so") && !seen.contains("canary"),
        "{seen:?}"
    );
}

fn a17_no_abstract_socket(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.without_namespace("network").sleeper();
    let table = container.exec(&["cat", "/proc/net/unix"]).ok().stdout;
    assert!(table.contains("RefCount"), "{table}");
    for line in table.lines().filter(|l| l.contains('@')) {
        assert!(
            !RUNTIME_NAMES.iter().any(|name| line.contains(name)),
            "{line}"
        );
    }
}

fn c4_container_looks_into_an_exec(env: &Env) {
    nothing_to_find(&mut env.bundle(), rounds(40, 500));
}

/// A container that tries all the time to trace, and to open what is open in, the processes it sees
/// finds nothing in those of this many `exec`s.
#[track_caller]
pub(super) fn nothing_to_find(bundle: &mut Bundle<'_>, execs: usize) {
    let container = bundle.args(&["/bin/probe", "fd-attack"]).start();
    container.wait_output("ready");
    for _ in 0..execs {
        container.exec(&["true"]).ok();
    }
    container.stop();
    let out = container.stdout();
    let found: Vec<&str> = out
        .lines()
        .filter(|l| l.starts_with("OPENED") || l.starts_with("TRACED"))
        .collect();
    assert!(found.is_empty(), "{:?}", &found[..found.len().min(5)]);
}
