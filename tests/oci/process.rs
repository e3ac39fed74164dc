//! The process itself: arguments, environment, directory, capabilities, limits, scheduling, descriptors.

use crate::harness::{Bundle, Env, Test, test};
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(arguments_arrive_unchanged),
        test!(environment_is_only_what_the_spec_says),
        test!(environment_of_the_caller_does_not_leak),
        test!(environment_may_be_large),
        test!(path_of_the_spec_finds_the_program),
        test!(working_directory),
        test!(missing_working_directory_is_made),
        test!(relative_working_directory_is_refused),
        test!(working_directory_of_the_user_only),
        test!(capability_sets),
        test!(no_capabilities),
        test!(capabilities_of_a_user_need_ambient),
        test!(inheritable_and_ambient),
        test!(unknown_capability_is_not_fatal),
        test!(no_new_privileges),
        test!(only_standard_descriptors),
        test!(descriptors_of_the_caller_do_not_leak),
        test!(preserved_descriptors),
        test!(missing_descriptors_are_left_out)
            .only_rcrun("runc takes descriptors of its own for the caller's"),
        test!(socket_activation),
        test!(signals_are_default_and_unblocked),
        test!(session_keyring_is_new),
        test!(session_keyring_can_be_kept),
        test!(program_without_shebang_or_format),
    ]
}

fn arguments_arrive_unchanged(env: &Env) {
    let odd = [
        "/bin/probe",
        "facts",
        "",
        " a b ",
        "--id",
        "\u{e4}\u{4e2d}",
        "x\ny",
        "$HOME",
        "-",
    ];
    let facts = env.bundle().args(&odd).run().ok().json();
    assert_eq!(facts["args"], json!(odd));
}

fn variables(facts: &Value) -> Vec<String> {
    let mut all: Vec<String> = facts["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_str().unwrap().to_owned())
        .collect();
    all.sort();
    all
}

fn environment_is_only_what_the_spec_says(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set(
        "/process/env",
        json!([
            "PATH=/bin",
            "HOME=/h",
            "EMPTY=",
            "ODD=a=b c",
            "UMLAUT=\u{fc}"
        ]),
    );
    assert_eq!(
        variables(&bundle.facts()),
        [
            "EMPTY=",
            "HOME=/h",
            "ODD=a=b c",
            "PATH=/bin",
            "UMLAUT=\u{fc}"
        ]
    );
}

fn environment_of_the_caller_does_not_leak(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.sleeper();
    for facts in [env.bundle().facts(), container.exec_facts(&[])] {
        assert!(
            !facts.to_string().contains("canary-of-the-host"),
            "{}",
            facts["env"]
        );
    }
    let answers = container.exec_attempts(&[], &["read:/proc/1/environ"]);
    assert!(!answers[0].1.contains("canary-of-the-host"), "{answers:?}");
}

fn environment_may_be_large(env: &Env) {
    let big = format!("BIG={}", "x".repeat(100_000));
    let many: Vec<String> = (0..2000).map(|i| format!("V{i}={i}")).collect();
    let mut bundle = env.bundle();
    bundle.push("/process/env", json!(big));
    for one in &many {
        bundle.push("/process/env", json!(one));
    }
    let all = variables(&bundle.facts());
    assert!(
        all.contains(&big) && many.iter().all(|one| all.contains(one)),
        "{} variables",
        all.len()
    );
}

fn path_of_the_spec_finds_the_program(env: &Env) {
    let mut bundle = env.bundle();
    bundle.script("opt/tools/mine", "echo found");
    bundle.set("/process/env", json!(["PATH=/nowhere:/opt/tools:/bin"]));
    bundle.args(&["mine"]).run().ok().prints("found");
    bundle.set("/process/env", json!(["PATH=/nowhere"]));
    env.rt
        .finish(env.rt.spawn(bundle.command("run", &[])))
        .fails()
        .says("mine");
}

fn working_directory(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/cwd", json!("/var/tmp"));
    assert_eq!(bundle.facts()["cwd"], "/var/tmp");
}

fn missing_working_directory_is_made(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/cwd", json!("/made/for/it"));
    assert_eq!(bundle.facts()["cwd"], "/made/for/it");
    assert!(bundle.rootfs("made/for/it").is_dir());
}

fn relative_working_directory_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set("/process/cwd", json!("var/tmp"))
        .refused()
        .says("cwd");
}

/// The directory is entered as the user if root may not, and as root if the user may not.
fn working_directory_of_the_user_only(env: &Env) {
    let mut bundle = env.bundle();
    let home = bundle.directory("home/user");
    std::fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&home, Some(1000), Some(1000)).unwrap();
    bundle
        .set("/process/cwd", json!("/home/user"))
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    bundle.set("/process/capabilities", json!({}));
    assert_eq!(bundle.facts()["cwd"], "/home/user");
}

/// The five sets as numbers: inheritable, permitted, effective, bounding, ambient.
fn sets(facts: &Value) -> [u64; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|name| u64::from_str_radix(facts["status"][name].as_str().unwrap(), 16).unwrap())
}

const CHOWN: u64 = 1 << 0;
const KILL: u64 = 1 << 5;
const BIND: u64 = 1 << 10;
const RAW: u64 = 1 << 13;

fn capability_sets(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set(
        "/process/capabilities",
        json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
            "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
            "effective": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]
        }),
    );
    let all = CHOWN | KILL | RAW;
    assert_eq!(sets(&bundle.facts()), [0, all, all, all, 0]);
}

fn no_capabilities(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/capabilities", json!({}));
    assert_eq!(sets(&bundle.facts()), [0; 5]);
}

fn capabilities_of_a_user_need_ambient(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let default = KILL | BIND | 1 << 29;
    assert_eq!(
        sets(&bundle.facts()),
        [0, 0, 0, default, 0],
        "dropped by the change of user"
    );
    for set in ["inheritable", "ambient"] {
        bundle.set(&format!("/process/capabilities/{set}"), json!(["CAP_KILL"]));
    }
    let mut second = env.bundle();
    second.spec["process"] = bundle.spec["process"].clone();
    assert_eq!(sets(&second.facts()), [KILL, KILL, KILL, default, KILL]);
}

fn inheritable_and_ambient(env: &Env) {
    let mut bundle = env.bundle();
    let both = json!(["CAP_KILL", "CAP_CHOWN"]);
    for set in ["bounding", "permitted", "effective", "inheritable"] {
        bundle.set(&format!("/process/capabilities/{set}"), both.clone());
    }
    bundle.set("/process/capabilities/ambient", json!(["CAP_KILL"]));
    let [inheritable, permitted, effective, bounding, ambient] = sets(&bundle.facts());
    assert_eq!(
        [inheritable, bounding, ambient],
        [CHOWN | KILL, CHOWN | KILL, KILL]
    );
    assert_eq!(
        [permitted, effective],
        [CHOWN | KILL; 2],
        "root gets what it may inherit or is bounded by"
    );
}

/// Newer engines name capabilities that an older kernel or runtime does not know.
fn unknown_capability_is_not_fatal(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set(
        "/process/capabilities",
        json!({"bounding": ["CAP_FLY", "CAP_KILL"], "permitted": ["CAP_KILL"]}),
    );
    assert_eq!(sets(&bundle.facts())[3], KILL);
}

fn no_new_privileges(env: &Env) {
    for (value, expected) in [(true, "1"), (false, "0")] {
        let mut bundle = env.bundle();
        bundle.set("/process/noNewPrivileges", json!(value));
        assert_eq!(bundle.facts()["status"]["NoNewPrivs"], expected);
    }
}

fn numbers(facts: &Value) -> Vec<u32> {
    let mut all: Vec<u32> = facts["fds"]
        .as_object()
        .unwrap()
        .keys()
        .map(|k| k.parse().unwrap())
        .collect();
    all.sort_unstable();
    all
}

fn only_standard_descriptors(env: &Env) {
    let mut bundle = env.bundle();
    assert_eq!(numbers(&bundle.facts()), [0, 1, 2]);
    let container = bundle.args(&["sleep", "1000"]).start();
    assert_eq!(numbers(&container.exec_facts(&[])), [0, 1, 2]);
    let of_init = container.exec_attempts(&[], &["list:/proc/1/fd"]);
    assert_eq!(of_init[0], (0, "0 1 2".to_owned()));
}

/// A shell that holds descriptors 3, 4 and 7 open while it calls the runtime.
fn with_descriptors(bundle: &Bundle<'_>, verb: &str, flags: &[&str]) -> crate::harness::Output {
    from_a_shell(bundle.env, &bundle.command(verb, flags))
}

fn from_a_shell(env: &Env, inner: &std::process::Command) -> crate::harness::Output {
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        "exec \"$0\" \"$@\" 3</etc/passwd 4</etc/group 7</etc/hostname",
    ]);
    command.arg(inner.get_program()).args(inner.get_args());
    env.rt.finish(env.rt.spawn(command))
}

fn descriptors_of_the_caller_do_not_leak(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["/bin/probe", "facts"]);
    assert_eq!(
        numbers(&with_descriptors(&bundle, "run", &[]).ok().json()),
        [0, 1, 2]
    );
}

fn preserved_descriptors(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["/bin/probe", "facts"]);
    let facts = with_descriptors(&bundle, "run", &["--preserve-fds", "2"])
        .ok()
        .json();
    assert_eq!(numbers(&facts), [0, 1, 2, 3, 4]);
    assert!(
        facts["fds"]["4"].as_str().unwrap().ends_with("/etc/group"),
        "{facts}"
    );
}

fn missing_descriptors_are_left_out(env: &Env) {
    // Whoever runs the tests may have left higher ones open.
    let low = |facts: &Value| -> Vec<u32> {
        let all = numbers(facts);
        all.into_iter().filter(|fd| (0..10).contains(fd)).collect()
    };
    let mut bundle = env.bundle();
    bundle.args(&["/bin/probe", "facts"]);
    for (count, expected) in [
        ("4", vec![0, 1, 2, 3, 4]),
        ("5", vec![0, 1, 2, 3, 4, 7]),
        ("100", vec![0, 1, 2, 3, 4, 7]),
        ("4294967295", vec![0, 1, 2, 3, 4, 7]),
    ] {
        let output = with_descriptors(&bundle, "run", &["--preserve-fds", count]);
        assert_eq!(low(&output.ok().json()), expected, "{count}");
    }
    // The numbers between them are free, and rcrun uses them meanwhile: neither the program, nor an
    // `exec`, keeps any.
    bundle.args(&["sleep", "1000"]);
    with_descriptors(&bundle, "create", &["--preserve-fds", "100"]).ok();
    let id = bundle.id.as_str();
    let pid = env.rt.call(&["state", id]).ok().json()["pid"].clone();
    let open = |number: &i32| std::fs::read_link(format!("/proc/{pid}/fd/{number}")).is_ok();
    for wanted in [3, 4, 7] {
        assert!(open(&wanted), "the waiting init has {wanted}");
    }
    env.rt.call(&["start", id]).ok();
    assert_eq!((3..10).filter(open).collect::<Vec<_>>(), [3, 4, 7]);
    let flags = ["exec", "--preserve-fds", "100", id, "/bin/probe", "facts"];
    let facts = from_a_shell(env, &env.rt.command(&flags)).ok().json();
    assert_eq!(low(&facts), [0, 1, 2, 3, 4, 7]);
    env.rt.call(&["delete", "--force", id]).ok();
}

fn socket_activation(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["/bin/probe", "facts"]);
    let inner = bundle.command("run", &[]);
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        "export LISTEN_FDS=2 LISTEN_PID=$$; exec \"$0\" \"$@\" 3</etc/passwd 4</etc/group",
    ]);
    command.arg(inner.get_program()).args(inner.get_args());
    let facts = env.rt.finish(env.rt.spawn(command)).ok().json();
    assert_eq!(numbers(&facts), [0, 1, 2, 3, 4]);
    let all = variables(&facts);
    assert!(
        all.contains(&"LISTEN_FDS=2".to_owned()) && all.contains(&"LISTEN_PID=1".to_owned()),
        "{all:?}"
    );
}

fn signals_are_default_and_unblocked(env: &Env) {
    let output = env.bundle().args(&["cat", "/proc/self/status"]).run().ok();
    let inside = |key: &str| signal_set(&output.stdout, key);
    assert_eq!(
        [inside("SigBlk"), inside("SigPnd"), inside("SigCgt")],
        [0, 0, 0]
    );
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let added = inside("SigIgn") & !signal_set(&own, "SigIgn");
    assert_eq!(added, 0, "ignored inside, and not by the caller");
}

fn signal_set(status: &str, key: &str) -> u64 {
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(":\t"));
    u64::from_str_radix(line.unwrap(), 16).unwrap()
}

fn session_keyring_is_new(env: &Env) {
    let mut bundle = env.bundle();
    let id = bundle.id.clone();
    let facts = bundle.facts();
    let keyring = facts["session_keyring"].as_str().unwrap();
    assert!(keyring.ends_with(&format!(";_ses.{id}")), "{keyring}");
}

fn session_keyring_can_be_kept(env: &Env) {
    let mut bundle = env.bundle();
    let facts = bundle
        .args(&["/bin/probe", "facts"])
        .run_with(&["--no-new-keyring"])
        .ok()
        .json();
    assert!(
        !facts["session_keyring"].to_string().contains(&bundle.id),
        "{facts}"
    );
}

fn program_without_shebang_or_format(env: &Env) {
    let mut bundle = env.bundle();
    bundle.program("bin/nothing", b"not a program\n");
    bundle.args(&["/bin/nothing"]);
    let container = bundle.create_with(&[]);
    // The kernel's ENOEXEC comes only when it executes: start reports nothing, the container ends.
    let _ = container.verb("start");
    container.wait_stopped();
}
