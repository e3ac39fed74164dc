//! cgroup v1: where the container is put, its limits, and killing what hides there.

use crate::harness::{Bundle, Container, Env, Need, Test, cgroup, process, test};
use serde_json::{Value, json};
use std::fs;
use std::time::Instant;

pub(crate) fn tests() -> Vec<Test> {
    let tests = vec![
        test!(absolute_path),
        test!(path_is_used_in_every_hierarchy),
        test!(relative_path),
        test!(default_path),
        test!(path_with_dotdot_stays_below),
        test!(memory_limits),
        test!(memory_limit_kills),
        test!(memory_reservation_and_swappiness),
        test!(pids_limit),
        test!(pids_limit_holds),
        test!(pids_limit_zero_and_minus_one),
        test!(cpu_shares_and_quota),
        test!(cpu_set),
        test!(bad_values_are_refused),
        test!(unified_is_refused),
        test!(init_is_in_the_cgroup_before_it_runs),
        test!(cgroup_is_removed),
        test!(nested_cgroups_are_removed),
        test!(cgroup_in_use_is_refused),
        test!(frozen_cgroup_is_refused),
        test!(existing_empty_cgroup_is_used),
        test!(fork_bomb_is_killed_and_deleted).timeout(90),
        test!(orphans_in_a_shared_pid_namespace_are_killed),
        test!(oom_event),
        test!(cgroup_of_another_container_is_not_touched),
    ];
    tests.into_iter().map(on_v1).collect()
}

/// A test that wants hierarchies of v1.
pub(super) fn on_v1(test: Test) -> Test {
    ["memory", "pids", "freezer"]
        .into_iter()
        .fold(test, |test, name| test.needs(Need::V1(name)))
}

pub(super) const MIB: u64 = 1 << 20;

pub(super) fn with_resources<'e>(env: &'e Env, resources: &Value) -> (Bundle<'e>, Container<'e>) {
    let mut bundle = env.bundle();
    for (key, value) in resources.as_object().unwrap() {
        bundle.set(&format!("/linux/resources/{key}"), value.clone());
    }
    let container = bundle.sleeper();
    (bundle, container)
}

#[track_caller]
pub(super) fn value(container: &Container<'_>, controller: &str, file: &str) -> String {
    cgroup::value(controller, &container.env.tag, &container.id, file)
}

#[track_caller]
pub(super) fn number(container: &Container<'_>, controller: &str, file: &str) -> i64 {
    value(container, controller, file).parse().unwrap()
}

const CONTROLLERS: [&str; 8] = [
    "memory", "pids", "cpu", "cpuacct", "cpuset", "devices", "freezer", "blkio",
];

fn absolute_path(env: &Env) {
    let container = env.bundle().sleeper();
    let expected = format!("/{}/{}", env.tag, container.id);
    assert_eq!(
        cgroup::of_process(container.pid(), "memory").unwrap(),
        expected
    );
    assert_eq!(
        value(&container, "memory", "cgroup.procs"),
        container.pid().to_string()
    );
}

fn path_is_used_in_every_hierarchy(env: &Env) {
    let container = env.bundle().sleeper();
    for controller in CONTROLLERS {
        let path = cgroup::of_process(container.pid(), controller).unwrap();
        assert!(
            path.ends_with(&format!("/{}", container.id)),
            "{controller}: {path}"
        );
    }
}

fn relative_path(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/linux/cgroupsPath", json!(format!("{}/relative", env.tag)));
    let container = bundle.sleeper();
    let own = cgroup::of_process(1, "memory").unwrap();
    let path = cgroup::of_process(container.pid(), "memory").unwrap();
    assert!(
        path.ends_with(&format!("{}/relative", env.tag)) && path.starts_with(&own),
        "{path}"
    );
}

fn default_path(env: &Env) {
    let mut bundle = env.bundle();
    bundle.unset("/linux", "cgroupsPath");
    let container = bundle.sleeper();
    let path = cgroup::of_process(container.pid(), "memory").unwrap();
    assert!(path.ends_with(&format!("/{}", container.id)), "{path}");
    container.stop();
    container.delete();
    assert_eq!(cgroup::children(&env.tag), Vec::<std::path::PathBuf>::new());
}

fn path_with_dotdot_stays_below(env: &Env) {
    env.bundle().runs();
    let mut bundle = env.bundle();
    bundle.set(
        "/linux/cgroupsPath",
        json!(format!("../../{0}/../{0}/../../{0}/box", env.tag)),
    );
    let output = bundle
        .args(&["cat", "/proc/self/cgroup"])
        .without_namespace("cgroup")
        .run();
    if output.code == 0 {
        assert!(!output.stdout.contains(".."), "{output}");
    }
    let above = cgroup::v1("memory")
        .unwrap()
        .parent()
        .unwrap()
        .join(&env.tag);
    assert!(!above.exists(), "nothing is made above the hierarchy");
}

fn memory_limits(env: &Env) {
    let (_, container) = with_resources(
        env,
        &json!({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}}),
    );
    assert_eq!(
        number(&container, "memory", "memory.limit_in_bytes"),
        64 << 20
    );
    let swap = cgroup::path("memory", &env.tag, &container.id).join("memory.memsw.limit_in_bytes");
    if swap.exists() {
        assert_eq!(
            fs::read_to_string(swap).unwrap().trim(),
            (64 * MIB).to_string()
        );
    }
}

fn memory_limit_kills(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/linux/resources/memory", json!({"limit": 32 * MIB}));
    bundle
        .args(&["/bin/probe", "memory", "100"])
        .run()
        .exits(137);
    let mut roomy = env.bundle();
    roomy.set("/linux/resources/memory", json!({"limit": 200 * MIB}));
    let container = roomy.args(&["/bin/probe", "memory", "100"]).start();
    container.wait_output("ready 100");
}

fn memory_reservation_and_swappiness(env: &Env) {
    let (_, container) = with_resources(
        env,
        &json!({"memory": {"limit": 64 * MIB, "reservation": 32 * MIB, "swappiness": 10}}),
    );
    assert_eq!(
        number(&container, "memory", "memory.soft_limit_in_bytes"),
        32 << 20
    );
    assert_eq!(number(&container, "memory", "memory.swappiness"), 10);
}

fn pids_limit(env: &Env) {
    let (_, container) = with_resources(env, &json!({"pids": {"limit": 33}}));
    assert_eq!(value(&container, "pids", "pids.max"), "33");
}

fn pids_limit_holds(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/linux/resources/pids", json!({"limit": 20}));
    let container = bundle.args(&["/bin/probe", "children", "100"]).start();
    container.wait_output("ready");
    assert_eq!(value(&container, "pids", "pids.current"), "20");
}

fn pids_limit_zero_and_minus_one(env: &Env) {
    let (_, unlimited) = with_resources(env, &json!({"pids": {"limit": -1}}));
    assert_eq!(value(&unlimited, "pids", "pids.max"), "max");
    let mut bundle = env.bundle();
    bundle.set("/linux/resources/pids", json!({"limit": 0}));
    let zero = bundle.sleeper();
    let limit = value(&zero, "pids", "pids.max");
    assert_eq!(limit, "1", "0 is the least that can run");
}

fn cpu_shares_and_quota(env: &Env) {
    let (_, container) = with_resources(
        env,
        &json!({"cpu": {"shares": 333, "quota": 25_000, "period": 50_000}}),
    );
    assert_eq!(number(&container, "cpu", "cpu.shares"), 333);
    assert_eq!(number(&container, "cpu", "cpu.cfs_quota_us"), 25_000);
    assert_eq!(number(&container, "cpu", "cpu.cfs_period_us"), 50_000);
}

fn cpu_set(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/linux/resources/cpu", json!({"cpus": "0", "mems": "0"}));
    let container = bundle.sleeper();
    assert_eq!(value(&container, "cpuset", "cpuset.cpus"), "0");
    assert_eq!(process::status(container.pid(), "Cpus_allowed_list"), "0");
    assert_eq!(
        container.exec_facts(&[])["status"]["Cpus_allowed_list"],
        "0"
    );
}

fn bad_values_are_refused(env: &Env) {
    for bad in [
        json!({"cpu": {"cpus": "999"}}),
        json!({"cpu": {"quota": 10}}),
        json!({"memory": {"limit": 100 * MIB, "swap": 50 * MIB}}),
    ] {
        let mut bundle = env.bundle();
        for (key, value) in bad.as_object().unwrap() {
            bundle.set(&format!("/linux/resources/{key}"), value.clone());
        }
        bundle.refused();
    }
}

fn unified_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/linux/resources/unified", json!({"memory.max": "100M"}));
    bundle.refused().says("unified");
}

/// What a process forks before it is moved would escape.
fn init_is_in_the_cgroup_before_it_runs(env: &Env) {
    let mut bundle = env.bundle();
    let output = bundle
        .without_namespace("cgroup")
        .sh("cat /proc/self/cgroup; cat /proc/self/cgroup &\nwait")
        .run()
        .ok();
    let lines: Vec<&str> = output
        .stdout
        .lines()
        .filter(|l| !l.starts_with("0::"))
        .collect();
    assert!(
        lines.len() >= 16 && lines.iter().all(|l| l.ends_with(&bundle.id)),
        "{output}"
    );
}

fn cgroup_is_removed(env: &Env) {
    let container = env.bundle().sleeper();
    assert!(cgroup::children(&env.tag).len() >= CONTROLLERS.len());
    container.stop();
    container.delete();
    assert_eq!(cgroup::children(&env.tag), Vec::<std::path::PathBuf>::new());
}

fn nested_cgroups_are_removed(env: &Env) {
    let container = env.bundle().sleeper();
    for controller in ["memory", "pids", "freezer"] {
        fs::create_dir_all(cgroup::path(controller, &env.tag, &container.id).join("made/inside"))
            .unwrap();
    }
    container.stop();
    container.delete();
    assert_eq!(cgroup::children(&env.tag), Vec::<std::path::PathBuf>::new());
}

fn cgroup_in_use_is_refused(env: &Env) {
    let mut first = env.bundle();
    let container = first.sleeper();
    let mut second = env.bundle();
    second.set(
        "/linux/cgroupsPath",
        first.spec["linux"]["cgroupsPath"].clone(),
    );
    second.refused().says("not empty");
    assert_eq!(
        container.status(),
        "running",
        "the first keeps its cgroup and its life"
    );
    assert_eq!(
        value(&container, "memory", "cgroup.procs"),
        container.pid().to_string()
    );
}

fn frozen_cgroup_is_refused(env: &Env) {
    let bundle = env.bundle();
    let dir = cgroup::path("freezer", &env.tag, &bundle.id);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("freezer.state"), "FROZEN").unwrap();
    let output = env
        .rt
        .finish(env.rt.spawn(bundle.command("create", &[])))
        .fails();
    assert!(
        output.stderr.contains("frozen") || output.stderr.contains("paused"),
        "{output}"
    );
    let _ = fs::write(dir.join("freezer.state"), "THAWED");
    let _ = fs::remove_dir(dir);
}

fn existing_empty_cgroup_is_used(env: &Env) {
    let mut bundle = env.bundle();
    for controller in ["memory", "pids"] {
        fs::create_dir_all(cgroup::path(controller, &env.tag, &bundle.id)).unwrap();
    }
    bundle.set("/linux/resources/pids", json!({"limit": 25}));
    let container = bundle.sleeper();
    assert_eq!(number(&container, "pids", "pids.max"), 25);
}

fn fork_bomb_is_killed_and_deleted(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/linux/resources/pids", json!({"limit": 500}));
    bundle.without_namespace("pid");
    let container = bundle.args(&["/bin/probe", "fork-bomb"]).start();
    process::until("the bomb goes off", 20, || {
        (number(&container, "pids", "pids.current") > 300).then_some(())
    });
    let start = Instant::now();
    env.rt.call(&["delete", "--force", &container.id]).ok();
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    let alive = process::all()
        .into_iter()
        .filter(|(_, state, what)| *state != 'Z' && what.contains("fork-bomb"));
    assert_eq!(alive.count(), 0);
}

fn orphans_in_a_shared_pid_namespace_are_killed(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle
        .without_namespace("pid")
        .args(&["/bin/probe", "children", "50", "leave"])
        .start();
    container.wait_stopped();
    let left = || {
        process::all()
            .iter()
            .filter(|(_, state, what)| *state != 'Z' && what.contains("probe"))
            .count()
    };
    assert_eq!(left(), 50, "they outlive init");
    let start = Instant::now();
    container.verb("delete").ok();
    assert!(start.elapsed().as_secs() < 3, "{:?}", start.elapsed());
    process::until("all are dead", 5, || (left() == 0).then_some(()));
}

fn oom_event(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/linux/resources/memory", json!({"limit": 32 * MIB}));
    bundle.sh("while [ ! -e /go2 ]; do sleep 0.05; done; /bin/probe memory 100; sleep 1000");
    let container = bundle.start();
    let mut events = env.rt.spawn(
        env.rt
            .command(&["events", "--interval", "10s", &container.id]),
    );
    std::thread::sleep(std::time::Duration::from_millis(300));
    fs::write(bundle.rootfs("go2"), "").unwrap();
    process::until("the event is printed", 10, || {
        events.read().0.contains("\"oom\"").then_some(())
    });
    let text = events.read().0;
    let line = text.lines().find(|l| l.contains("\"oom\"")).unwrap();
    let event: Value = serde_json::from_str(line).unwrap();
    assert_eq!(
        (&event["type"], &event["id"]),
        (&json!("oom"), &json!(container.id))
    );
    env.rt.call(&["delete", "--force", &container.id]).ok();
    env.rt.finish(events).ok();
}

fn cgroup_of_another_container_is_not_touched(env: &Env) {
    let first = env.bundle().sleeper();
    let second = env.bundle().sleeper();
    env.rt.call(&["delete", "--force", &first.id]).ok();
    assert_eq!(second.status(), "running");
    assert_eq!(
        value(&second, "pids", "cgroup.procs"),
        second.pid().to_string()
    );
}
