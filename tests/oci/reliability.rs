//! Many times, at once, killed in the middle, interrupted, with less than it asked for: nothing is left behind.

use crate::harness::env::read;
use crate::harness::{Bundle, Env, Need, Output, Test, cgroup, faults, full, process, test};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, Instant};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(cycles_leave_nothing),
        test!(short_processes_keep_their_exit_codes),
        test!(short_execs_keep_their_exit_codes),
        test!(concurrent_containers),
        test!(concurrent_execs),
        test!(concurrent_creates_of_one_id),
        test!(concurrent_deletes_of_one_id),
        test!(delete_during_create),
        test!(delete_during_exec),
        test!(kill_during_start),
        test!(pid_file_is_never_empty),
        test!(killed_foreground_run_can_be_deleted),
        test!(killed_create_is_cleaned_up)
            .needs(Need::Program("strace"))
            .timeout(120)
            .only_rcrun("runc records its state late: what it made before that is nobody's"),
        test!(killed_start_is_cleaned_up)
            .needs(Need::Program("strace"))
            .timeout(120),
        test!(killed_exec_is_harmless)
            .needs(Need::Program("strace"))
            .timeout(120),
        test!(killed_delete_can_be_repeated)
            .needs(Need::Program("strace"))
            .timeout(120),
        test!(killed_kill_is_harmless)
            .needs(Need::Program("strace"))
            .timeout(120),
        test!(interrupted_calls_are_repeated)
            .needs(Need::Program("strace"))
            .timeout(120)
            .only_rcrun("runc gives up when its loader or its init is interrupted"),
        test!(stopped_and_continued_all_the_time),
        test!(without_newer_calls)
            .needs(Need::Program("strace"))
            .timeout(120),
        test!(clone3_is_not_needed).needs(Need::Program("strace")),
        test!(failing_calls_leave_nothing)
            .needs(Need::Program("strace"))
            .timeout(120)
            .only_rcrun("runc leaves its state directory when some calls fail"),
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

fn rounds(short: usize, long: usize) -> usize {
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

fn concurrent_containers(env: &Env) {
    for _ in 0..rounds(2, 50) {
        let running: Vec<_> = (0..10)
            .map(|i| {
                let mut bundle = env.bundle();
                (
                    i,
                    bundle
                        .sh(&format!("echo {i}; exit {i}"))
                        .run_in_background(&[]),
                )
            })
            .collect();
        for (i, one) in running {
            env.rt.finish(one).exits(i).prints(&i.to_string());
        }
    }
}

fn concurrent_execs(env: &Env) {
    let container = env.bundle().sleeper();
    for _ in 0..rounds(2, 100) {
        let running: Vec<_> = (0..16)
            .map(|i| {
                env.rt.spawn(
                    container.exec_command(&[], &["sh", "-c", &format!("echo {i}; exit {i}")]),
                )
            })
            .collect();
        for (i, one) in running.into_iter().enumerate() {
            env.rt
                .finish(one)
                .exits(i32::try_from(i).unwrap())
                .prints(&i.to_string());
        }
    }
    assert_eq!(container.status(), "running");
}

fn concurrent_creates_of_one_id(env: &Env) {
    for _ in 0..rounds(3, 200) {
        let bundles: Vec<Bundle<'_>> = (0..6)
            .map(|_| {
                let mut bundle = env.bundle();
                bundle.id = format!("{}-same", env.tag);
                bundle.args(&["sleep", "1000"]);
                bundle
            })
            .collect();
        let running: Vec<_> = bundles
            .iter()
            .map(|b| env.rt.spawn(b.command("create", &[])))
            .collect();
        let outputs: Vec<Output> = running.into_iter().map(|r| env.rt.finish(r)).collect();
        let won = outputs.iter().filter(|o| o.code == 0).count();
        assert_eq!(
            won,
            1,
            "{}",
            outputs.iter().map(ToString::to_string).collect::<String>()
        );
        let id = format!("{}-same", env.tag);
        assert_eq!(
            env.rt.call(&["state", &id]).ok().json()["status"],
            "created"
        );
        env.rt.call(&["delete", "--force", &id]).ok();
    }
}

fn concurrent_deletes_of_one_id(env: &Env) {
    for _ in 0..rounds(3, 200) {
        let mut bundle = env.bundle();
        let container = bundle.sleeper();
        let running: Vec<_> = (0..8)
            .map(|_| {
                env.rt
                    .spawn(env.rt.command(&["delete", "--force", &container.id]))
            })
            .collect();
        let outputs: Vec<Output> = running.into_iter().map(|r| env.rt.finish(r)).collect();
        assert!(
            outputs.iter().any(|o| o.code == 0),
            "nobody succeeded: {}",
            outputs[0]
        );
        assert!(!env.rt.root.join(&container.id).exists());
    }
}

fn delete_during_create(env: &Env) {
    for round in 0..rounds(12, 1000) {
        let mut bundle = env.bundle();
        bundle.args(&["sleep", "1000"]);
        let create = env.rt.spawn(bundle.command("create", &[]));
        std::thread::sleep(Duration::from_millis(round as u64 * 5 % 60));
        env.rt.call(&["delete", "--force", &bundle.id]);
        env.rt.finish(create);
        env.rt.call(&["delete", "--force", &bundle.id]).ok();
        assert!(!env.rt.root.join(&bundle.id).exists());
    }
}

fn delete_during_exec(env: &Env) {
    for round in 0..rounds(6, 300) {
        let container = env.bundle().sleeper();
        let exec = env
            .rt
            .spawn(container.exec_command(&[], &["sleep", "1000"]));
        std::thread::sleep(Duration::from_millis(round as u64 * 10 % 60));
        env.rt.call(&["delete", "--force", &container.id]).ok();
        assert_ne!(env.rt.finish(exec).code, 0, "a killed exec is no success");
    }
}

fn kill_during_start(env: &Env) {
    for _ in 0..rounds(6, 300) {
        let mut bundle = env.bundle();
        let container = bundle.args(&["sleep", "1000"]).create();
        let start = env.rt.spawn(env.rt.command(&["start", &container.id]));
        container.kill("KILL");
        env.rt.finish(start);
        container.wait_stopped();
        container.delete();
    }
}

/// A watcher that reads the pid file the moment it appears must find a whole number.
fn pid_file_is_never_empty(env: &Env) {
    for _ in 0..rounds(8, 300) {
        let bundle = env.bundle();
        let path = bundle.path.join("init.pid");
        let create = env
            .rt
            .spawn(bundle.command("create", &["--pid-file", path.to_str().unwrap()]));
        let first = process::until("the file appears", 10, || fs::read_to_string(&path).ok());
        env.rt.finish(create).ok();
        assert!(first.parse::<i32>().is_ok_and(|pid| pid > 0), "{first:?}");
        assert_eq!(read(&path), first);
        env.rt.call(&["delete", "--force", &bundle.id]).ok();
    }
}

fn killed_foreground_run_can_be_deleted(env: &Env) {
    let mut bundle = env.bundle();
    let mut running = bundle.sh("echo up; sleep 1000").run_in_background(&[]);
    process::until("it runs", 10, || {
        running.read().0.contains("up").then_some(())
    });
    running.child.kill().unwrap();
    env.rt.finish(running).exits(137);
    env.rt.call(&["delete", "--force", &bundle.id]).ok();
    assert!(!env.rt.root.join(&bundle.id).exists());
}

/// System calls at which killing is tried in the short run, and how far apart.
const POINTS: [&str; 16] = [
    "clone,clone3,fork,vfork",
    "mkdir,mkdirat",
    "rename,renameat,renameat2",
    "unlink,unlinkat,rmdir",
    "socketpair",
    "mount",
    "move_mount",
    "setns",
    "unshare",
    "execve",
    "pivot_root",
    "fchdir,chdir",
    "mknod,mknodat",
    "sendmsg,sendto",
    "wait4,waitid",
    "setresuid,setuid",
];

/// Kills the command at each chosen point, and calls `after` each time.
fn kill_everywhere(
    env: &Env,
    mut command: impl FnMut() -> std::process::Command,
    mut after: impl FnMut(&str, Output),
) {
    let mut points: Vec<(String, usize)> = Vec::new();
    if full() {
        let counts = faults::calls(env, &command());
        after(
            "no fault",
            env.rt.finish(env.rt.spawn(env.rt.command(&["list"]))),
        );
        points.extend(
            counts
                .into_iter()
                .flat_map(|(name, count)| (1..=count.min(150)).map(move |n| (name.clone(), n))),
        );
    } else {
        points.extend(POINTS.iter().map(|name| ((*name).to_owned(), 1)));
        points.extend(
            ["openat", "write", "close", "read"]
                .iter()
                .flat_map(|name| [2, 9].map(|n| ((*name).to_owned(), n))),
        );
    }
    for (name, number) in points {
        let inject = format!("{name}:signal=SIGKILL:when={number}");
        let output = faults::run(env, &command(), &inject);
        after(&inject, output);
    }
}

/// After any kill: `list` works, `delete --force` works, nothing remains, and the id can be used again.
#[track_caller]
fn nothing_remains(env: &Env, bundle: &mut Bundle<'_>, at: &str) {
    let list = env.rt.call(&["list"]);
    assert_eq!(list.code, 0, "killed at {at}: {list}");
    let delete = env.rt.call(&["delete", "--force", &bundle.id]);
    assert_eq!(delete.code, 0, "killed at {at}: {delete}");
    assert!(
        !env.rt.root.join(&bundle.id).exists(),
        "killed at {at}: state remains"
    );
    let left = || {
        let others = process::all()
            .into_iter()
            .filter(|(pid, state, _)| *pid > 2 && *state != 'Z');
        let others: Vec<String> = others
            .map(|(pid, _, what)| format!("{pid} {what}"))
            .collect();
        (cgroup::children(&env.tag), others)
    };
    let deadline = Instant::now() + Duration::from_secs(3);
    while left() != (Vec::new(), Vec::new()) {
        assert!(
            Instant::now() < deadline,
            "killed at {at}, left behind: {:?}",
            left()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    bundle.args(&["true"]).run().ok();
}

fn killed_create_is_cleaned_up(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["sleep", "1000"]);
    let twin = bundle.path.clone();
    let command = |env: &Env, id: &str| {
        env.rt
            .command(&["create", "--bundle", twin.to_str().unwrap(), id])
    };
    bundle.write();
    let id = bundle.id.clone();
    kill_everywhere(
        env,
        || {
            fs::write(twin.join("config.json"), bundle_spec(&env.tag, &id)).unwrap();
            command(env, &id)
        },
        |at, _| nothing_remains(env, &mut bundle, at),
    );
}

/// The spec of a container that sleeps.
fn bundle_spec(tag: &str, id: &str) -> String {
    let mut spec = crate::harness::spec::default(tag);
    spec["process"]["args"] = json!(["sleep", "1000"]);
    spec["linux"]["cgroupsPath"] = json!(format!("/{tag}/{id}"));
    spec.to_string()
}

fn killed_start_is_cleaned_up(env: &Env) {
    let cell = std::cell::RefCell::new(env.bundle());
    let id = cell.borrow().id.clone();
    kill_everywhere(
        env,
        || {
            let mut bundle = cell.borrow_mut();
            bundle.args(&["sleep", "1000"]);
            env.rt
                .finish(env.rt.spawn(bundle.command("create", &[])))
                .ok();
            env.rt.command(&["start", &id])
        },
        |at, _| nothing_remains(env, &mut cell.borrow_mut(), at),
    );
}

fn killed_exec_is_harmless(env: &Env) {
    let container = env.bundle().sleeper();
    kill_everywhere(
        env,
        || container.exec_command(&[], &["true"]),
        |at, _| {
            assert_eq!(container.status(), "running", "killed at {at}");
            container.exec(&["true"]).ok();
        },
    );
}

fn killed_delete_can_be_repeated(env: &Env) {
    let cell = std::cell::RefCell::new(env.bundle());
    let id = cell.borrow().id.clone();
    kill_everywhere(
        env,
        || {
            let mut bundle = cell.borrow_mut();
            bundle.args(&["sleep", "1000"]);
            env.rt
                .finish(env.rt.spawn(bundle.command("create", &[])))
                .ok();
            env.rt.call(&["start", &id]).ok();
            env.rt.command(&["delete", "--force", &id])
        },
        |at, _| nothing_remains(env, &mut cell.borrow_mut(), at),
    );
}

fn killed_kill_is_harmless(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.args(&["/bin/probe", "signals"]).start();
    container.wait_output("ready");
    kill_everywhere(
        env,
        || env.rt.command(&["kill", &container.id, "USR1"]),
        |at, _| assert_eq!(container.status(), "running", "killed at {at}"),
    );
    container.kill("USR2");
    container.wait_output("SIGUSR2");
}

/// Each call that may be interrupted is, every third time.
fn interrupted_calls_are_repeated(env: &Env) {
    for call in [
        "read",
        "write",
        "openat",
        "wait4,waitid",
        "poll,ppoll",
        "epoll_wait,epoll_pwait",
        "recvmsg,recvfrom",
        "sendmsg,sendto",
        "flock,fcntl",
        "connect,accept4",
    ] {
        let mut bundle = env.bundle();
        let command = bundle.sh("echo unharmed").command("run", &[]);
        // The container's own calls would be interrupted as well: only the first few are.
        let output = faults::run(env, &command, &format!("{call}:error=EINTR:when=2..8+3"));
        assert!(
            output.code == 0 && output.stdout.contains("unharmed"),
            "{call} interrupted: {output}"
        );
    }
}

/// SIGSTOP and SIGCONT make blocking calls return EINTR without any handler.
fn stopped_and_continued_all_the_time(env: &Env) {
    use nix::sys::signal::{Signal, kill};
    for _ in 0..rounds(3, 100) {
        let mut bundle = env.bundle();
        let mut running = bundle
            .sh("sleep 0.2; echo unharmed; exit 9")
            .run_in_background(&[]);
        let pid = nix::unistd::Pid::from_raw(running.pid());
        let deadline = Instant::now() + Duration::from_secs(20);
        while running.child.try_wait().unwrap().is_none() {
            for signal in [
                Signal::SIGSTOP,
                Signal::SIGCONT,
                Signal::SIGWINCH,
                Signal::SIGURG,
            ] {
                let _ = kill(pid, signal);
                std::thread::sleep(Duration::from_micros(300));
            }
            assert!(Instant::now() < deadline, "it hangs");
        }
        env.rt.finish(running).exits(9).prints("unharmed");
    }
}

/// One call after the other is unknown to the kernel, as in an older one or under an outer seccomp profile.
fn without_newer_calls(env: &Env) {
    for call in [
        "openat2",
        "fsopen",
        "open_tree",
        "move_mount",
        "fsmount",
        "mount_setattr",
        "pidfd_open",
        "pidfd_send_signal",
        "close_range",
        "statx",
        "faccessat2",
        "memfd_create",
        "renameat2",
    ] {
        let mut bundle = env.bundle();
        let command = bundle
            .args(&["/bin/busybox", "echo", "unharmed"])
            .command("run", &[]);
        let output = faults::run(env, &command, &format!("{call}:error=ENOSYS"));
        assert!(
            output.code == 0 && output.stdout.contains("unharmed"),
            "without {call}: {output}"
        );
    }
}

fn clone3_is_not_needed(env: &Env) {
    let mut bundle = env.bundle();
    let command = bundle
        .args(&["/bin/busybox", "echo", "unharmed"])
        .command("run", &[]);
    let output = faults::run(env, &command, "clone3:error=ENOSYS");
    assert!(
        output.code == 0 && output.stdout.contains("unharmed"),
        "{output}"
    );
}

/// Whatever a call answers: an error or success, and in both cases nothing is left.
fn failing_calls_leave_nothing(env: &Env) {
    for (call, errno) in [
        ("mkdir,mkdirat", "ENOSPC"),
        ("rename,renameat,renameat2", "EIO"),
        ("mount", "EPERM"),
        ("move_mount", "EPERM"),
        ("pivot_root", "EINVAL"),
        ("fsync,fdatasync", "EIO"),
        ("socketpair", "EMFILE"),
        ("clone,clone3", "EAGAIN"),
        ("sethostname", "EPERM"),
        ("mknod,mknodat", "EPERM"),
        ("setgroups", "EPERM"),
        ("capset", "EPERM"),
        ("symlink,symlinkat", "ENOSPC"),
    ] {
        for number in [1, 2, 4] {
            let mut bundle = env.bundle();
            bundle.args(&["sleep", "1000"]);
            let inject = format!("{call}:error={errno}:when={number}");
            let output = faults::run(env, &bundle.command("create", &[]), &inject);
            if output.code == 0 {
                env.rt.call(&["delete", "--force", &bundle.id]).ok();
            }
            assert!(output.code < 128, "{inject}: {output}");
            assert!(
                !env.rt.root.join(&bundle.id).exists(),
                "{inject}: state remains: {output}"
            );
            process::until(&format!("{inject}: no cgroup remains"), 3, || {
                cgroup::children(&env.tag).is_empty().then_some(())
            });
        }
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
    let few = median_of_five(|| drop(bundle.run().ok()));
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
    let many = median_of_five(|| drop(bundle.run().ok()));
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
        bundle.args(&["true"]).run().ok();
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
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    process::wait_pid(pid, Duration::from_secs(5)).unwrap();
    process::until("its cgroups can go", 5, || {
        cgroup::remove(&env.tag).is_empty().then_some(())
    });
    bundle.args(&["true"]).run().ok();
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
