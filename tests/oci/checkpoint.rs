//! checkpoint and restore: what goes on where it stood, and what comes from outside again. Needs a criu that works (see `harness::criu`).

use crate::harness::env::read;
use crate::harness::sockets::{Console, FdSocket};
use crate::harness::{Bundle, Container, Env, Output, Test, cgroup, criu, process, test};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

pub(crate) fn tests() -> Vec<Test> {
    let all = vec![
        test!(goes_on_where_it_stood),
        test!(twice),
        test!(leave_running),
        test!(another_id_and_a_pid_file),
        test!(mounts_and_tmpfs_come_back),
        test!(mount_points_are_made_again),
        test!(foreground_returns_the_exit_code),
        test!(pipes_are_those_of_restore),
        test!(terminal_goes_to_the_console_socket),
        test!(network_namespace_from_outside),
        test!(another_cgroup),
        test!(hooks),
        test!(paused_container),
        test!(pre_dump),
    ];
    all.into_iter().map(|test| test.timeout(120)).collect()
}

/// Counts in memory and shows it in a file, so that a new start would show.
const COUNTER: &str =
    "i=0; while :; do i=$((i+1)); echo $i > /n.new; mv /n.new /n; sleep 0.05; done";

pub(super) fn counter<'e>(env: &'e Env) -> (Bundle<'e>, Container<'e>) {
    criu::require(env);
    let mut bundle = env.bundle();
    bundle.sh(COUNTER);
    let container = criu::start(&bundle);
    wait_beyond(&bundle, 3);
    (bundle, container)
}

pub(super) fn count(bundle: &Bundle<'_>) -> Option<u32> {
    fs::read_to_string(bundle.rootfs("n"))
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[track_caller]
pub(super) fn wait_beyond(bundle: &Bundle<'_>, than: u32) -> u32 {
    process::until("the counter goes on", 15, || {
        count(bundle).filter(|n| *n > than)
    })
}

pub(super) fn images(env: &Env) -> PathBuf {
    env.path("images")
}

#[track_caller]
pub(super) fn checkpoint(env: &Env, flags: &[&str], id: &str) -> Output {
    let images = images(env);
    let mut args = vec!["checkpoint", "--image-path", images.to_str().unwrap()];
    args.extend(flags);
    args.push(id);
    env.rt.call(&args)
}

/// `restore` with everything but the streams.
pub(super) fn restore_command(bundle: &Bundle<'_>, flags: &[&str]) -> Command {
    let images = images(bundle.env);
    let mut all = vec!["--image-path", images.to_str().unwrap()];
    all.extend(flags);
    bundle.command("restore", &all)
}

/// A detached `restore`, and what it said.
#[track_caller]
pub(super) fn try_restore(bundle: &Bundle<'_>, flags: &[&str]) -> Output {
    let mut all = vec!["--detach"];
    all.extend(flags);
    let mut command = restore_command(bundle, &all);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.output().unwrap();
    Output {
        command: format!("{command:?}"),
        code: output.status.code().unwrap_or(255),
        stdout: String::new(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[track_caller]
pub(super) fn restore<'e>(bundle: &Bundle<'e>, flags: &[&str]) -> Container<'e> {
    try_restore(bundle, flags).ok();
    criu::handle(bundle, &bundle.id)
}

fn gone(env: &Env, id: &str) {
    env.rt.call(&["state", id]).fails().says("does not exist");
}

fn goes_on_where_it_stood(env: &Env) {
    let (bundle, container) = counter(env);
    let before = container.state();
    checkpoint(env, &[], &container.id).ok();
    gone(env, &container.id);
    assert!(
        cgroup::children(&env.tag).is_empty(),
        "{:?}",
        cgroup::children(&env.tag)
    );
    let stood = count(&bundle).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(count(&bundle), Some(stood), "it runs on");
    let container = restore(&bundle, &[]);
    let next = wait_beyond(&bundle, stood);
    assert!(next < stood + 40, "from {stood} to {next}");
    let after = container.state();
    assert_eq!(after["status"], "running");
    assert_eq!(after["bundle"], before["bundle"]);
    assert_ne!(after["created"], before["created"]);
    container
        .exec(&["sh", "-c", "test -e /n && echo inside"])
        .ok()
        .prints("inside");
    let members = env
        .rt
        .call(&["ps", "--format", "json", &container.id])
        .ok()
        .json();
    assert!(
        members.as_array().unwrap().contains(&after["pid"]),
        "{members}"
    );
    container.stop();
    container.delete();
}

fn twice(env: &Env) {
    let (bundle, _first) = counter(env);
    let mut restored = Vec::new();
    for _ in 0..2 {
        checkpoint(env, &[], &bundle.id).ok();
        let stood = count(&bundle).unwrap();
        restored.push(restore(&bundle, &[]));
        wait_beyond(&bundle, stood);
    }
}

fn leave_running(env: &Env) {
    let (bundle, container) = counter(env);
    let pid = container.pid();
    checkpoint(env, &["--leave-running"], &container.id).ok();
    assert_eq!(
        (container.pid(), container.status()),
        (pid, "running".to_owned())
    );
    wait_beyond(&bundle, count(&bundle).unwrap() + 2);
    assert!(images(env).join("inventory.img").exists());
    assert!(images(env).join("descriptors.json").exists());
}

fn another_id_and_a_pid_file(env: &Env) {
    let (mut bundle, container) = counter(env);
    let work = env.directory("work");
    let work = work.to_str().unwrap();
    checkpoint(env, &["--work-path", work], &container.id).ok();
    assert!(env.path("work").join("dump.log").exists());
    let stood = count(&bundle).unwrap();
    bundle.id = env.unique();
    let file = env.path("pid");
    let flags = ["--work-path", work, "--pid-file", file.to_str().unwrap()];
    let container = restore(&bundle, &flags);
    assert_eq!(read(&file), container.pid().to_string());
    assert!(env.path("work").join("restore.log").exists());
    wait_beyond(&bundle, stood);
}

/// Targets, types and read-only flags.
fn mount_table(container: &Container<'_>) -> Vec<String> {
    let table = container.exec(&["cat", "/proc/self/mountinfo"]).ok().stdout;
    let mut lines: Vec<String> = table
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let kind = line.split(" - ").nth(1).unwrap().split(' ').next().unwrap();
            // Whose /dev/null it is that covers a file does not matter.
            let kind = if fields[3] == "/null" { "null" } else { kind };
            format!("{} {} {kind}", fields[4], &fields[5][..2])
        })
        .collect();
    lines.sort();
    lines
}

fn mounts_and_tmpfs_come_back(env: &Env) {
    criu::require(env);
    let mut bundle = env.bundle();
    let data = env.directory("data");
    bundle
        .sh("echo kept > /scratch/file; while :; do sleep 0.1; done")
        .bind(&data, "/data", &["ro"])
        .mount(json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs"}))
        .mount(
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["ro", "nosuid", "noexec", "nodev"]}),
        )
        .set(
            "/linux/maskedPaths",
            json!(["/proc/kcore", "/proc/keys", "/proc/scsi", "/sys/firmware"]),
        )
        .set("/linux/readonlyPaths", json!(["/proc/sys", "/proc/bus"]));
    let container = criu::start(&bundle);
    process::until("the file is there", 10, || {
        (container.exec(&["cat", "/scratch/file"]).code == 0).then_some(())
    });
    let before = mount_table(&container);
    checkpoint(env, &[], &container.id).ok();
    fs::write(data.join("file"), "from outside").unwrap();
    let container = restore(&bundle, &[]);
    assert_eq!(mount_table(&container), before);
    container
        .exec(&["cat", "/scratch/file"])
        .ok()
        .prints("kept");
    container
        .exec(&["cat", "/data/file"])
        .ok()
        .prints("from outside");
    container
        .exec(&["sh", "-c", "cat /proc/kcore | wc -c"])
        .ok()
        .prints("0");
    container
        .exec(&["sh", "-c", "ls /sys/fs/cgroup | wc -l"])
        .ok();
    container.exec(&["touch", "/data/x"]).fails();
}

fn mount_points_are_made_again(env: &Env) {
    criu::require(env);
    let mut bundle = env.bundle();
    let (outer, inner) = (env.directory("outer"), env.directory("inner"));
    bundle.directory("real/conf");
    bundle.link("conf", "/real/conf");
    bundle
        .args(&["sleep", "1000"])
        .bind(&outer, "/outer", &[])
        .bind(&inner, "/outer/for/inner", &[])
        .bind(&inner, "/conf", &[]);
    let container = criu::start(&bundle);
    checkpoint(env, &[], &container.id).ok();
    fs::remove_dir_all(outer.join("for")).unwrap();
    fs::remove_dir_all(bundle.rootfs("outer")).unwrap();
    fs::write(inner.join("file"), "inner").unwrap();
    let container = restore(&bundle, &[]);
    for place in ["/outer/for/inner/file", "/real/conf/file"] {
        container.exec(&["cat", place]).ok().prints("inner");
    }
}

fn foreground_returns_the_exit_code(env: &Env) {
    criu::require(env);
    let mut bundle = env.bundle();
    bundle.sh("while [ ! -e /end ]; do sleep 0.05; done; exit 7");
    let container = criu::start(&bundle);
    checkpoint(env, &[], &container.id).ok();
    let mut child = criu::quiet(restore_command(&bundle, &[])).spawn().unwrap();
    process::until("it runs", 20, || {
        let output = env.rt.call(&["state", &bundle.id]);
        (output.code == 0 && output.json()["status"] == "running").then_some(())
    });
    bundle.file("end", "");
    let status = process::wait_for(&mut child, Duration::from_secs(15))
        .unwrap()
        .unwrap();
    assert_eq!(status.code(), Some(7));
    gone(env, &bundle.id);
}

fn pipes_are_those_of_restore(env: &Env) {
    criu::require(env);
    let mut bundle = env.bundle();
    bundle.sh("while read word; do echo got $word; done");
    let mut start = bundle.command("run", &["--detach"]);
    let (mut first_in, mut first_out) = (None, None);
    let mut run = |command: &mut Command| {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        (first_in, first_out) = (child.stdin.take(), child.stdout.take());
        assert!(
            process::wait_for(&mut child, Duration::from_secs(20))
                .unwrap()
                .unwrap()
                .success()
        );
    };
    run(start.stderr(Stdio::null()));
    checkpoint(env, &[], &bundle.id).ok();
    run(restore_command(&bundle, &["--detach"]).stderr(Stdio::null()));
    let container = criu::handle(&bundle, &bundle.id);
    let (mut stdin, mut stdout) = (first_in.unwrap(), first_out.unwrap());
    stdin.write_all(b"one\n").unwrap();
    drop(stdin);
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "got one\n");
    container.wait_stopped();
}

fn terminal_goes_to_the_console_socket(env: &Env) {
    criu::require(env);
    let mut bundle = env.bundle();
    bundle
        .set("/process/terminal", json!(true))
        .sh("while read word; do echo got $word; done");
    let socket = FdSocket::listen(&env.path("console"));
    let flags = ["--detach", "--console-socket", socket.path()];
    criu::call(criu::quiet(bundle.command("run", &flags)));
    let mut console = Console::from_socket(&socket);
    console.type_in("one\n");
    console.read_until("got one");
    checkpoint(env, &[], &bundle.id).ok();
    let container = restore(&bundle, &flags[1..]);
    let mut console = Console::from_socket(&socket);
    console.type_in("two\n");
    console.read_until("got two");
    container.stop();
}

fn network_namespace_from_outside(env: &Env) {
    criu::require(env);
    let mut bundle = env.bundle();
    let holder = env.bundle().sleeper();
    bundle
        .join("network", format!("/proc/{}/ns/net", holder.pid()))
        .args(&["sleep", "1000"]);
    let container = criu::start(&bundle);
    checkpoint(env, &[], &container.id).ok();
    let container = restore(&bundle, &[]);
    assert_eq!(
        process::namespace(container.pid(), "net"),
        process::namespace(holder.pid(), "net")
    );
    assert_ne!(
        process::namespace(container.pid(), "net"),
        process::namespace(1, "net")
    );
}

fn another_cgroup(env: &Env) {
    let (mut bundle, container) = counter(env);
    let ignore = ["--manage-cgroups-mode", "ignore"];
    checkpoint(env, &ignore, &container.id).ok();
    let stood = count(&bundle).unwrap();
    let path = format!("/{}/elsewhere", env.tag);
    bundle.set("/linux/cgroupsPath", json!(path));
    let container = restore(&bundle, &ignore);
    wait_beyond(&bundle, stood);
    let cgroups = read(format!("/proc/{}/cgroup", container.pid()));
    assert!(
        cgroups.lines().filter(|line| line.ends_with(&path)).count() > 1,
        "{cgroups}"
    );
}

fn hooks(env: &Env) {
    criu::require(env);
    let log = env.path("log");
    let say = |kind: &str| {
        let body = format!(
            "echo {kind} $(sed 's/.*\"pid\" *: *\\([0-9]*\\).*/\\1/') >> {}",
            log.display()
        );
        env.script(kind, &body)
    };
    let mut bundle = env.bundle();
    bundle.args(&["sleep", "1000"]);
    for kind in ["prestart", "createRuntime", "poststart"] {
        bundle.hook(kind, json!({"path": say(kind)}));
    }
    bundle.hook(
        "poststop",
        json!({"path": env.script("end", &format!("echo poststop >> {}", log.display()))}),
    );
    let container = criu::start(&bundle);
    checkpoint(env, &[], &container.id).ok();
    assert!(read(&log).ends_with("poststop\n"), "{}", read(&log));
    fs::write(&log, "").unwrap();
    let container = restore(&bundle, &[]);
    let pid = container.pid();
    assert_eq!(read(&log), format!("prestart {pid}\ncreateRuntime {pid}\n"));
}

fn paused_container(env: &Env) {
    let (bundle, container) = counter(env);
    container.verb("pause").ok();
    let stood = count(&bundle).unwrap();
    checkpoint(env, &[], &container.id).ok();
    gone(env, &container.id);
    let _container = restore(&bundle, &[]);
    wait_beyond(&bundle, stood);
}

fn pre_dump(env: &Env) {
    criu::require_feature(env, "mem_dirty_track");
    let (bundle, container) = counter(env);
    let parent = env.path("parent");
    env.rt
        .call(&[
            "checkpoint",
            "--pre-dump",
            "--image-path",
            parent.to_str().unwrap(),
            &container.id,
        ])
        .ok();
    assert_eq!(container.status(), "running");
    checkpoint(env, &["--parent-path", "../parent"], &container.id).ok();
    assert!(images(env).join("parent").exists());
    let stood = count(&bundle).unwrap();
    let _container = restore(&bundle, &[]);
    wait_beyond(&bundle, stood);
}
