//! Limits and scheduling of the process: rlimits, memory killer, scheduler, I/O priority, memory policy, affinity.

use crate::harness::{Env, Test, test};
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(limits),
        test!(soft_limit_above_hard_is_refused),
        test!(unknown_limit_is_refused),
        test!(limit_listed_twice_is_refused)
            .only_rcrun("runc sets both, though the spec demands an error"),
        test!(limits_of_the_caller_are_kept),
        test!(oom_score_adjustment),
        test!(oom_score_adjustment_of_the_caller_is_kept),
        test!(scheduler_batch_and_nice),
        test!(scheduler_fifo),
        test!(bad_scheduler_is_refused),
        test!(io_priority),
        test!(personality_linux32),
        test!(personality_flags_are_ignored),
        test!(memory_policy),
        test!(exec_affinity),
    ]
}

fn limits(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set(
        "/process/rlimits",
        json!([
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096},
            {"type": "RLIMIT_STACK", "soft": 1_048_576, "hard": 2_097_152},
            {"type": "RLIMIT_NPROC", "soft": 50, "hard": 60},
            {"type": "RLIMIT_AS", "soft": 1_073_741_824_u64, "hard": 2_147_483_648_u64}
        ]),
    );
    let expected = [
        ("Max open files", ["100", "200"]),
        ("Max core file size", ["0", "4096"]),
        ("Max stack size", ["1048576", "2097152"]),
        ("Max processes", ["50", "60"]),
        ("Max address space", ["1073741824", "2147483648"]),
    ];
    let container = bundle.args(&["sleep", "1000"]).start();
    let mut twin = env.bundle();
    twin.spec["process"] = bundle.spec["process"].clone();
    for facts in [twin.facts(), container.exec_facts(&[])] {
        for (name, values) in expected {
            assert_eq!(facts["limits"][name], json!(values), "{name}");
        }
    }
}

fn limit(kind: &str, soft: u64, hard: u64) -> Value {
    json!({"type": kind, "soft": soft, "hard": hard})
}

fn soft_limit_above_hard_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set(
            "/process/rlimits",
            json!([limit("RLIMIT_NOFILE", 200, 100)]),
        )
        .refused();
}

fn unknown_limit_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set("/process/rlimits", json!([limit("RLIMIT_PATIENCE", 1, 1)]))
        .refused()
        .says("RLIMIT_PATIENCE");
}

fn limit_listed_twice_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    let twice = json!([limit("RLIMIT_CORE", 2, 2), limit("RLIMIT_CORE", 1, 1)]);
    bundle
        .set("/process/rlimits", twice)
        .refused()
        .says("RLIMIT_CORE");
}

fn limits_of_the_caller_are_kept(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set("/process/rlimits", json!([]))
        .args(&["/bin/probe", "facts"]);
    let inner = bundle.command("run", &[]);
    let mut command = std::process::Command::new("prlimit");
    command
        .arg("--fsize=123456:234567")
        .arg(inner.get_program())
        .args(inner.get_args());
    let facts = env.rt.finish(env.rt.spawn(command)).ok().json();
    assert_eq!(
        facts["limits"]["Max file size"],
        json!(["123456", "234567"])
    );
}

fn oom_score_adjustment(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/oomScoreAdj", json!(321));
    assert_eq!(bundle.facts()["oom_score_adj"], "321");
    let container = bundle.args(&["sleep", "1000"]).start();
    assert_eq!(
        container.exec_facts(&[])["oom_score_adj"],
        "321",
        "exec inherits it"
    );
}

fn oom_score_adjustment_of_the_caller_is_kept(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["/bin/probe", "facts"]);
    let inner = bundle.command("run", &[]);
    let mut command = std::process::Command::new("choom");
    command
        .args(["-n", "77", "--"])
        .arg(inner.get_program())
        .args(inner.get_args());
    assert_eq!(
        env.rt.finish(env.rt.spawn(command)).ok().json()["oom_score_adj"],
        "77"
    );
}

fn scheduler_batch_and_nice(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set(
        "/process/scheduler",
        json!({"policy": "SCHED_BATCH", "nice": 7}),
    );
    let facts = bundle.facts();
    assert_eq!(
        (&facts["scheduler"]["policy"], &facts["scheduler"]["nice"]),
        (&json!(3), &json!(7))
    );
}

fn scheduler_fifo(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set(
        "/process/scheduler",
        json!({"policy": "SCHED_FIFO", "priority": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
    );
    let output = bundle.args(&["/bin/probe", "facts"]).run();
    if output.code != 0 && output.stderr.to_lowercase().contains("not permitted") {
        env.skip("no right to real-time scheduling here");
    }
    let facts = output.ok().json();
    assert_eq!(
        (
            &facts["scheduler"]["policy"],
            &facts["scheduler"]["priority"]
        ),
        (&json!(1), &json!(5))
    );
    assert_eq!(facts["scheduler"]["flags"].as_u64().unwrap() & 1, 1);
}

fn bad_scheduler_is_refused(env: &Env) {
    for bad in [
        json!({"policy": "SCHED_LAZY"}),
        json!({"policy": "SCHED_OTHER", "nice": 100}),
        json!({"policy": "SCHED_FIFO", "priority": 0}),
    ] {
        env.bundle().set("/process/scheduler", bad).refused();
    }
}

fn io_priority(env: &Env) {
    for (class, number, priority) in [("IOPRIO_CLASS_BE", 2, 6), ("IOPRIO_CLASS_IDLE", 3, 0)] {
        let mut bundle = env.bundle();
        bundle.set(
            "/process/ioPriority",
            json!({"class": class, "priority": priority}),
        );
        assert_eq!(bundle.facts()["io_priority"], json!([number, priority]));
    }
    env.bundle()
        .set(
            "/process/ioPriority",
            json!({"class": "IOPRIO_CLASS_VIP", "priority": 1}),
        )
        .refused();
}

fn personality_linux32(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/linux/personality", json!({"domain": "LINUX32"}));
    assert_eq!(bundle.facts()["personality"], "00000008");
    let mut plain = env.bundle();
    plain.set("/linux/personality", json!({"domain": "LINUX"}));
    assert_eq!(plain.facts()["personality"], "00000000");
}

/// The specification defines none; what names one all the same runs, and hears of it.
fn personality_flags_are_ignored(env: &Env) {
    let mut bundle = env.bundle();
    let personality = json!({"domain": "LINUX32", "flags": ["ADDR_NO_RANDOMIZE"]});
    bundle.set("/linux/personality", personality);
    bundle
        .sh("cat /proc/self/personality")
        .run()
        .ok()
        .prints("00000008")
        .says("ignoring unsupported personality flags");
}

fn memory_policy(env: &Env) {
    const BIND: u64 = 2;
    const STATIC_NODES: u64 = 1 << 15;
    let mut bundle = env.bundle();
    let policy = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
    let facts = bundle.set("/linux/memoryPolicy", policy).facts();
    assert_eq!(facts["memory_policy"], json!([BIND | STATIC_NODES, 1]));
    env.bundle()
        .set(
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_GUESS", "nodes": "0"}),
        )
        .refused();
}

fn exec_affinity(env: &Env) {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        env.skip("one CPU only");
    }
    let mut bundle = env.bundle();
    bundle.set(
        "/process/execCPUAffinity",
        json!({"initial": "0", "final": "1"}),
    );
    let container = bundle.sleeper();
    assert_eq!(
        container.exec_facts(&[])["status"]["Cpus_allowed_list"],
        "1"
    );
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find_map(|l| l.strip_prefix("Cpus_allowed_list:\t"))
        .unwrap();
    assert_eq!(
        crate::harness::process::status(container.pid(), "Cpus_allowed_list"),
        own,
        "init is not touched"
    );
    env.bundle()
        .set("/process/execCPUAffinity", json!({"initial": "x-y"}))
        .refused();
}
