//! Many times, at once, killed in the middle, interrupted, with less than it asked for: nothing is left behind.

use crate::harness::env::read;
use crate::harness::{Env, Need, Output, Test, cgroup, full, process, test};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(cycles_leave_nothing),
        test!(short_processes_keep_their_exit_codes),
        test!(short_execs_keep_their_exit_codes),
        test!(reused_pid_is_not_the_container),
        test!(five_thousand_host_mounts),
        test!(memory_of_512_kib)
            .needs(Need::V1("memory"))
            .only_rcrun("runc needs some 6 MiB inside the container's limit"),
        test!(orphans_are_not_ours),
        test!(descriptors_stay_flat),
        test!(mutated_configs_are_no_crash),
        test!(mutated_states_are_no_crash),
        test!(wiped_state_root),
        test!(full_disk_is_a_clean_error),
    ]
}

pub(super) fn rounds(short: usize, long: usize) -> usize {
    if full() { long } else { short }
}

fn cycles_leave_nothing(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["true"]);
    let mounts = read("/proc/self/mountinfo");
    for _ in 0..rounds(25, 1000) {
        let container = bundle.create();
        container.start();
        container.wait_stopped();
        container.delete();
    }
    assert_eq!(read("/proc/self/mountinfo"), mounts);
    assert_eq!(cgroup::children(&env.tag), Vec::<std::path::PathBuf>::new());
    assert_eq!(fs::read_dir(&env.rt.root).map_or(0, Iterator::count), 0);
}

fn short_processes_keep_their_exit_codes(env: &Env) {
    let mut bundle = env.bundle();
    for round in 0..rounds(40, 10_000) {
        let code = i32::try_from(round % 200).unwrap();
        bundle.sh(&format!("exit {code}")).run().exits(code);
    }
}

fn short_execs_keep_their_exit_codes(env: &Env) {
    let container = env.bundle().sleeper();
    for round in 0..rounds(40, 10_000) {
        let code = i32::try_from(round % 200).unwrap();
        container
            .exec(&["sh", "-c", &format!("exit {code}")])
            .exits(code);
    }
}

/// A process that got the number of a dead init must not be taken for it, nor be killed for it.
fn reused_pid_is_not_the_container(env: &Env) {
    let container = env.bundle().sleeper();
    let pid = container.pid();
    container.stop();
    process::until("the number is free", 5, || {
        (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    });
    if fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).is_err() {
        env.skip("no right to choose the next pid");
    }
    let mut stranger = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    assert_eq!(
        i32::try_from(stranger.id()).unwrap(),
        pid,
        "the number is taken again"
    );
    assert_eq!(container.status(), "stopped");
    env.rt.call(&["kill", &container.id, "KILL"]).fails();
    container.verb("delete").ok();
    assert!(
        stranger.try_wait().unwrap().is_none(),
        "the stranger was killed"
    );
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}

fn median_of_five(mut measure: impl FnMut()) -> Duration {
    let mut all: Vec<Duration> = (0..5)
        .map(|_| {
            let start = Instant::now();
            measure();
            start.elapsed()
        })
        .collect();
    all.sort_unstable();
    all[2]
}

fn five_thousand_host_mounts(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["true"]);
    let few = median_of_five(|| bundle.runs());
    let dir = env.directory("many");
    for i in 0..5000 {
        let point = dir.join(i.to_string());
        fs::create_dir(&point).unwrap();
        nix::mount::mount(
            Some("t"),
            &point,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some("size=4k"),
        )
        .unwrap();
    }
    let table = read("/proc/self/mountinfo");
    let many = median_of_five(|| bundle.runs());
    let container = bundle.args(&["sleep", "1000"]).start();
    container.exec(&["true"]).ok();
    assert!(
        read("/proc/self/mountinfo") == table,
        "the host's table changed"
    );
    drop(container);
    for i in 0..5000 {
        nix::mount::umount2(&dir.join(i.to_string()), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
    println!("{few:?} with few mounts, {many:?} with 5000");
    assert!(
        many < few * 4 + Duration::from_millis(100),
        "{few:?} with few mounts, {many:?} with 5000"
    );
}

fn memory_of_512_kib(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/linux/resources/memory", json!({"limit": 512 << 10}));
    for _ in 0..rounds(3, 100) {
        bundle.runs();
    }
    assert_eq!(bundle.sh("exit 12").run().code, 12);
}

/// Processes whose parents died inside belong to the container's init, not to the machine's.
fn orphans_are_not_ours(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle
        .sh("for i in 1 2 3 4 5 6 7 8; do (sleep 0.05 &) ; done; echo ready; sleep 1000")
        .start();
    container.wait_output("ready");
    for _ in 0..5 {
        container.exec(&["sh", "-c", "sleep 0.05 &"]).ok();
    }
    std::thread::sleep(Duration::from_millis(150));
    let init = container.pid();
    let own = i32::try_from(std::process::id()).unwrap();
    for (pid, state, what) in process::all() {
        if pid != 1 && pid != own && pid != init {
            assert_eq!(
                process::status(pid, "PPid"),
                init.to_string(),
                "{pid} {state} {what}"
            );
        }
    }
}

fn descriptors_stay_flat(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.sleeper();
    let count = || {
        fs::read_dir(format!("/proc/{}/fd", container.pid()))
            .unwrap()
            .count()
    };
    let own = || fs::read_dir("/proc/self/fd").unwrap().count();
    process::until("init has become sleep", 5, || (count() == 3).then_some(()));
    let before = (count(), own());
    for _ in 0..rounds(20, 2000) {
        container.exec(&["true"]).ok();
    }
    assert_eq!(
        (count(), own()),
        before,
        "of the container's init, and of the caller"
    );
}

/// xorshift64: the same mutations in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }
}

/// Replaces one value somewhere in the tree.
fn mutate(value: &mut Value, noise: &mut Noise) {
    let odd = [
        json!(null),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}"),
        json!("../../.."),
        json!([]),
        json!({}),
        json!([null]),
        json!(true),
        json!("x".repeat(70_000)),
        json!("/"),
        json!(i64::MIN),
        json!("%s%n"),
    ];
    let count = match value {
        Value::Array(items) => items.len(),
        Value::Object(items) => items.len(),
        _ => 0,
    };
    if count == 0 || noise.next(6) == 0 {
        *value = odd[noise.next(odd.len())].clone();
        return;
    }
    let chosen = noise.next(count);
    match value {
        Value::Array(items) => mutate(&mut items[chosen], noise),
        Value::Object(items) => {
            if let Some((_, item)) = items.iter_mut().nth(chosen) {
                mutate(item, noise);
            }
        }
        _ => {}
    }
}

#[track_caller]
fn no_crash(output: &Output, what: &str) {
    let said = output.stderr.to_lowercase();
    assert!(output.code < 128 || output.code == 255, "{what}: {output}");
    assert!(
        !said.contains("panic") && !said.contains("goroutine"),
        "{what}: {output}"
    );
    assert!(
        output.code == 0 || !said.trim().is_empty(),
        "{what}: failed without a word: {output}"
    );
}

fn mutated_configs_are_no_crash(env: &Env) {
    env.bundle().runs();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut bundle = env.bundle();
    bundle.args(&["true"]).push(
        "/hooks/prestart",
        json!({"path": "/bin/true", "timeout": 5}),
    );
    bundle.set("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["umask"], "action": "SCMP_ACT_ERRNO"}]}));
    bundle
        .set("/linux/resources/memory", json!({"limit": 1 << 28}))
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    let good = bundle.spec.clone();
    for round in 0..rounds(100, 20_000) {
        bundle.spec = good.clone();
        for _ in 0..=noise.next(3) {
            mutate(&mut bundle.spec, &mut noise);
        }
        // What is safe for the machine: its own root, its own cgroup, its own namespaces.
        if bundle.spec["linux"].is_object() {
            bundle.spec["linux"]["cgroupsPath"] = json!(format!("/{}/{}", env.tag, bundle.id));
            bundle.spec["linux"]["namespaces"] = good["linux"]["namespaces"].clone();
        }
        if bundle.spec.is_object() {
            bundle.spec["root"] = good["root"].clone();
        }
        let text = bundle.spec.to_string();
        let output = env.rt.finish(env.rt.spawn(bundle.command("create", &[])));
        no_crash(
            &output,
            &format!("round {round}: {}", &text[..text.len().min(3000)]),
        );
        env.rt.call(&["delete", "--force", &bundle.id]).ok();
    }
}

fn mutated_states_are_no_crash(env: &Env) {
    let mut noise = Noise(0x1234_5678_9abc_def1);
    let container = env.bundle().sleeper();
    let path = env.rt.root.join(&container.id).join("state.json");
    if !path.exists() {
        env.skip("no state.json: the runtime records its state elsewhere");
    }
    let good = fs::read(&path).unwrap();
    for round in 0..rounds(25, 2000) {
        let mut bytes = good.clone();
        match noise.next(3) {
            0 => bytes.truncate(noise.next(good.len())),
            1 => {
                let at = noise.next(good.len());
                bytes[at] ^= 1 << noise.next(8);
            }
            _ => bytes.clear(),
        }
        fs::write(&path, &bytes).unwrap();
        for verb in ["state", "list"] {
            let args = if verb == "list" {
                vec![verb]
            } else {
                vec![verb, &container.id]
            };
            no_crash(&env.rt.call(&args), &format!("round {round}, {verb}"));
        }
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(container.status(), "running");
}

/// The run-time directory is a tmpfs: after a reboot it is empty, while bundles stay.
fn wiped_state_root(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.sleeper();
    let pid = container.pid();
    fs::remove_dir_all(&env.rt.root).unwrap();
    env.rt.call(&["state", &container.id]).fails();
    env.rt.call(&["delete", "--force", &container.id]).ok();
    process::kill(pid);
    process::wait_pid(pid, Duration::from_secs(5)).unwrap();
    process::until("its cgroups can go", 5, || {
        cgroup::remove(&env.tag).is_empty().then_some(())
    });
    bundle.runs();
}

fn full_disk_is_a_clean_error(env: &Env) {
    let point = env.directory("small");
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(
        Some("t"),
        &point,
        Some("tmpfs"),
        flags,
        Some("size=16k,nr_inodes=6"),
    )
    .unwrap();
    let root = point.join("state");
    fs::create_dir(&root).unwrap();
    fs::write(point.join("fill"), vec![0; 64 << 10]).unwrap_err();
    let bundle = env.bundle();
    bundle.write();
    let call = |verb: &[&str]| {
        let mut command = std::process::Command::new(env.rt.path());
        command.arg("--root").arg(&root).args(verb);
        env.rt.finish(env.rt.spawn(command))
    };
    let output = call(&[
        "create",
        "--bundle",
        bundle.path.to_str().unwrap(),
        &bundle.id,
    ]);
    assert_ne!(output.code, 0, "{output}");
    no_crash(&output, "no space");
    call(&["delete", "--force", &bundle.id]);
    fs::remove_file(point.join("fill")).unwrap();
    let left: Vec<_> = fs::read_dir(&root).unwrap().collect();
    let clean = left.is_empty();
    nix::mount::umount2(&point, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert!(clean, "{left:?}");
}
