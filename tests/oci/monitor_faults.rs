//! Monitors that are killed, misused, or have nothing to watch.

use crate::harness::monitor::attach;
use crate::harness::{Env, Test, process, test};
use rcrun_runtime::ErrorKind;
use rcrun_runtime::monitor::{Event, MESSAGE_MAX};
use serde_json::{Value, json};
use std::fs;
use std::io::Read as _;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(refused_container_is_reported),
        test!(refused_start_is_reported),
        test!(killed_monitor_leaves_the_container_running),
        test!(killed_monitor_leaves_nothing_that_cannot_be_deleted).timeout(120),
        test!(second_monitor_gives_up),
        test!(orphans_are_reaped),
        test!(on_exit_runs_after_the_record),
        test!(garbage_is_answered),
        test!(foreign_users_are_not_served),
    ]
}

fn refused_container_is_reported(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/cwd", json!("relative"));
    let mut monitored = bundle.monitored();
    let answer = monitored.answer();
    assert_eq!(answer["error"]["kind"], "invalid_input", "{answer}");
    assert!(
        answer["error"]["message"].as_str().unwrap().contains("cwd"),
        "{answer}"
    );
    let status = monitored.monitor.as_mut().unwrap().wait().unwrap();
    assert_eq!(status.code(), Some(1));
    let entries = fs::read_dir(&bundle.path).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.join(" "), "config.json log rootfs");
    assert!(!env.rt.root.join(&bundle.id).exists());

    let mut later = bundle.monitored().set("version", json!(2));
    assert_eq!(later.answer()["error"]["kind"], "corrupt");
    let mut relative = bundle.monitored().set("exit", json!("exit"));
    assert_eq!(relative.answer()["error"]["kind"], "corrupt");
}

fn refused_start_is_reported(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["/no/such/program"]);
    let mut now = bundle.monitored();
    let answer = now.answer();
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("/no/such/program"),
        "{answer}"
    );
    assert!(!env.rt.root.join(&bundle.id).exists(), "nothing is left");
    drop(now);
    // Found after the creation, as the interpreter is looked for by execve only.
    let mut bundle = env.bundle();
    bundle.program("bin/broken", b"#!/no/such/interpreter\n");
    bundle.args(&["/bin/broken"]);
    let mut monitored = bundle.monitored().set("start", json!("later")).start();
    let mut client = monitored.client();
    let error = client.start().unwrap_err();
    assert!(
        error.chain().to_string().contains("/bin/broken"),
        "{error:?}"
    );
    assert_ne!(monitored.ends().code, 0);
}

fn killed_monitor_leaves_the_container_running(env: &Env) {
    let mut bundle = env.bundle();
    let marks = env.directory("marks");
    bundle.bind(&marks, "/marks", &["rw"]).sh(
        "n=0; while :; do n=$((n+1)); echo $n; echo $n >&2; echo $n > /marks/n; sleep 0.01; done",
    );
    let mut monitored = bundle.monitored().set("stdin", json!("open")).start();
    monitored.wait_log("stdout F 3");
    process::kill(monitored.monitor_pid());
    monitored.monitor.as_mut().unwrap().wait().unwrap();
    let number = || {
        fs::read_to_string(marks.join("n"))
            .ok()?
            .trim()
            .parse::<u32>()
            .ok()
    };
    let before = process::until("a number", 5, number);
    process::until("it goes on", 10, || (number()? > before + 20).then_some(()));
    assert_eq!(monitored.status_of_container(), "running");
    assert_eq!(
        monitored.try_client().unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(monitored.recorded(), None);
    env.rt.call(&["kill", &monitored.id, "KILL"]).ok();
}

/// At any point of the creation: `delete --force` finds all that is left, and a new monitor can be started.
fn killed_monitor_leaves_nothing_that_cannot_be_deleted(env: &Env) {
    use crate::harness::{cgroup, faults};
    if process::which("strace".as_ref()).is_none() {
        env.skip("needs strace");
    }
    for point in [
        "clone,clone3,fork,vfork",
        "mkdir,mkdirat",
        "rename,renameat",
        "bind",
        "listen",
        "fallocate",
        "sendmsg,sendto",
        "flock",
        "pipe2",
        "openat",
        "dup2",
    ] {
        for number in [1, 2] {
            let mut bundle = env.bundle();
            let monitored = bundle.args(&["sleep", "0.1"]).monitored();
            let inject = format!("{point}:signal=SIGKILL:when={number}");
            faults::run(env, &monitored.command(), &inject);
            env.rt.call(&["delete", "--force", &bundle.id]).ok();
            assert!(cgroup::children(&env.tag).is_empty(), "{inject}");
            assert!(!env.rt.root.join(&bundle.id).exists(), "{inject}");
        }
    }
}

fn second_monitor_gives_up(env: &Env) {
    let mut bundle = env.bundle();
    let first = bundle.args(&["sleep", "1000"]).monitored().start();
    let mut second = bundle.monitored();
    let answer = second.answer();
    assert_eq!(answer["error"]["kind"], "exists", "{answer}");
    second.monitor.take().unwrap().wait().unwrap();
    assert_eq!(first.client().status().unwrap().pid, first.pid, "unharmed");
    first.kill_container("KILL");
    std::mem::forget(second);
}

/// Without a pid namespace the container's orphans come to the monitor.
fn orphans_are_reaped(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .without_namespace("pid")
        .sh("n=0; while [ $n -lt 50 ]; do n=$((n+1)); (sleep 0.01 &) ; done; sleep 0.5; echo done; sleep 1000");
    let monitored = bundle.monitored().start();
    monitored.wait_log("done");
    let zombies: Vec<_> = process::all()
        .into_iter()
        .filter(|(_, state, _)| *state == 'Z')
        .collect();
    assert!(zombies.is_empty(), "{zombies:?}");
    monitored.kill_container("KILL");
}

fn on_exit_runs_after_the_record(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh("exit 5");
    let result = env.path("result");
    let script = format!(
        "cat '{0}/exit' > {1}.new; mv {1}.new {1}",
        bundle.path.display(),
        result.display()
    );
    let _monitored = (bundle.monitored())
        .set("on_exit", json!(["sh", "-c", script]))
        .start();
    let text = process::until("on_exit", 10, || fs::read_to_string(&result).ok());
    let exit: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(exit["code"], 5);
}

/// A connection that knows nothing of the protocol.
fn raw(monitored: &crate::harness::monitor::Monitored<'_>) -> std::os::fd::OwnedFd {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    use std::os::fd::AsRawFd as _;
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::empty(),
        None,
    )
    .unwrap();
    let place = fs::File::open(monitored.directory()).unwrap();
    let path = format!("/proc/self/fd/{}/control.sock", place.as_raw_fd());
    connect(fd.as_raw_fd(), &UnixAddr::new(path.as_str()).unwrap()).unwrap();
    fd
}

fn say(fd: &std::os::fd::OwnedFd, bytes: &[u8]) -> Value {
    rustix::net::send(fd, bytes, rustix::net::SendFlags::empty()).unwrap();
    let mut answer = vec![0; 64 << 10];
    let (length, _) = rustix::net::recv(fd, &mut answer, rustix::net::RecvFlags::empty()).unwrap();
    serde_json::from_slice(&answer[..length]).unwrap_or_else(|e| panic!("{e}: {length} bytes"))
}

fn garbage_is_answered(env: &Env) {
    let mut bundle = env.bundle();
    let monitored = bundle.args(&["sleep", "1000"]).monitored().start();
    let fd = raw(&monitored);
    let oversize = vec![b' '; MESSAGE_MAX + 1];
    for (bytes, kind) in [
        (&b"\0\x01\xff"[..], "invalid_input"),
        (b"{", "invalid_input"),
        (b"{\"version\":1}", "invalid_input"),
        (b"{\"version\":99,\"op\":\"status\"}", "unsupported"),
        (b"{\"version\":1,\"op\":\"no such\"}", "unsupported"),
        (
            b"{\"version\":1,\"op\":\"resize\",\"height\":1,\"width\":1}",
            "failed_precondition",
        ),
        (
            b"{\"version\":1,\"op\":\"resize\",\"height\":70000,\"width\":1}",
            "invalid_input",
        ),
        (
            b"{\"version\":1,\"op\":\"attach\",\"streams\":[\"stdin\"]}",
            "invalid_input",
        ),
        (
            b"{\"version\":1,\"op\":\"attach\",\"logs\":true}",
            "unsupported",
        ),
        (&"[".repeat(MESSAGE_MAX).into_bytes(), "invalid_input"),
        (&oversize, "invalid_input"),
    ] {
        let answer = say(&fd, bytes);
        assert_eq!(answer["error"]["kind"], kind, "{answer}");
        assert_eq!(answer["version"], 1);
    }
    let answer = say(&fd, b"{\"version\":1,\"op\":\"status\",\"new\":{}}");
    assert_eq!(answer["status"]["pid"], monitored.pid, "{answer}");
    // Who asks and never listens loses its connection; nobody else does.
    let flood = raw(&monitored);
    let flags = rustix::net::SendFlags::NOSIGNAL;
    for _ in 0..100_000 {
        if rustix::net::send(&flood, b"{\"version\":1,\"op\":\"status\"}", flags).is_err() {
            break;
        }
    }
    // More clients than are served at once only wait.
    let many: Vec<_> = (0..70).map(|_| raw(&monitored)).collect();
    drop(many);
    assert_eq!(monitored.client().status().unwrap().pid, monitored.pid);
    let memory = process::status(monitored.monitor_pid(), "RssAnon");
    let kib: u32 = memory.split(' ').next().unwrap().parse().unwrap();
    assert!(kib < 4096, "{memory}");
    // An attached client hears of the end behind all of that.
    let (mut client, mut out, _err) = attach(monitored.client(), None, true);
    monitored.kill_container("KILL");
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    assert!(matches!(client.next_event().unwrap(), Event::Exit(exit) if exit.code == 137));
}

fn foreign_users_are_not_served(env: &Env) {
    let mut bundle = env.bundle();
    let monitored = bundle.args(&["sleep", "1000"]).monitored().start();
    let path = monitored.directory().join("control.sock");
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    // Even where the modes were opened: the socket asks who it is.
    use std::os::unix::fs::PermissionsExt as _;
    for path in [
        &path,
        &monitored.directory(),
        &env.rt.root.join(".monitors"),
        &env.rt.root,
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let script = format!(
        "import socket\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.connect('{}')\n\
         s.send(b'{{\"version\":1,\"op\":\"status\"}}')\nprint(len(s.recv(9999)))",
        path.display()
    );
    let output = std::process::Command::new("setpriv")
        .args([
            "--reuid",
            "1234",
            "--regid",
            "1234",
            "--clear-groups",
            "python3",
            "-c",
            &script,
        ])
        .output();
    let Ok(output) = output else {
        env.skip("needs setpriv and python3");
    };
    let answer = String::from_utf8_lossy(&output.stdout);
    let refused = !output.status.success() || answer.trim() == "0";
    assert!(refused, "{answer}");
    assert_eq!(monitored.client().status().unwrap().pid, monitored.pid);
    monitored.kill_container("KILL");
}
