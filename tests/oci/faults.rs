//! The runtime killed, interrupted or refused in the middle of its work: nothing is left behind.

use super::reliability::rounds;
use crate::harness::{Bundle, Env, Need, Output, Test, cgroup, faults, full, process, test};
use serde_json::json;
use std::fs;
use std::time::{Duration, Instant};

pub(crate) fn tests() -> Vec<Test> {
    vec![
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
    ]
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
    bundle.runs();
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

/// Kills a verb at each point, each time with a container that was created and `prepare`d; nothing
/// remains of it.
fn kill_with_a_container(env: &Env, verb: &[&str], prepare: impl Fn(&str)) {
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
            prepare(&id);
            let mut command = env.rt.command(verb);
            command.arg(&id);
            command
        },
        |at, _| nothing_remains(env, &mut cell.borrow_mut(), at),
    );
}

fn killed_start_is_cleaned_up(env: &Env) {
    kill_with_a_container(env, &["start"], |_| {});
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
    kill_with_a_container(env, &["delete", "--force"], |id| {
        env.rt.call(&["start", id]).ok();
    });
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

/// A container that is run with these faults does its work all the same.
#[track_caller]
fn unharmed(env: &Env, program: &[&str], inject: &str) {
    let mut bundle = env.bundle();
    let command = bundle.args(program).command("run", &[]);
    let output = faults::run(env, &command, inject);
    assert!(
        output.code == 0 && output.stdout.contains("unharmed"),
        "{inject}: {output}"
    );
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
        // The container's own calls would be interrupted as well: only the first few are.
        let inject = format!("{call}:error=EINTR:when=2..8+3");
        unharmed(env, &["sh", "-c", "echo unharmed"], &inject);
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
        let inject = format!("{call}:error=ENOSYS");
        unharmed(env, &["/bin/busybox", "echo", "unharmed"], &inject);
    }
}

fn clone3_is_not_needed(env: &Env) {
    let program = ["/bin/busybox", "echo", "unharmed"];
    unharmed(env, &program, "clone3:error=ENOSYS");
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
