//! Containers of an ordinary user: no rights to cgroups, one id mapped, nothing of root's.

use super::cves_escape::nothing_to_find;
use super::seccomp::{deny, rule, umask};
use crate::harness::sockets::FdSocket;
use crate::harness::{Bundle, Env, Test, full, raw, test};
use serde_json::json;

/// Nobody on the machines where this runs.
const USER: u32 = 12_345;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(generated_configuration_runs),
        test!(cgroup_mount_shows_where_the_container_is)
            .only_rcrun("runc leaves the tmpfs that holds v1 hierarchies writable"),
        test!(exec_enters_the_user_namespace),
        test!(exec_enters_a_container_that_waits)
            .only_rcrun("runc's waiting init can be traced from inside"),
        test!(root_without_the_right_to_trace_enters_too),
        test!(exec_is_never_traced).timeout(180),
        test!(oom_score_is_set),
        test!(seccomp_listener_is_handed_over),
    ]
}

/// What `spec --rootless` writes for the user, from now on the caller of everything.
fn bundle(env: &Env) -> Bundle<'_> {
    env.rt.as_user(USER);
    let written = env.directory("written");
    std::os::unix::fs::chown(&written, Some(USER), Some(USER)).unwrap();
    env.rt
        .call(&["spec", "--rootless", "--bundle", written.to_str().unwrap()])
        .ok();
    let mut bundle = env.bundle();
    let text = crate::harness::env::read(written.join("config.json"));
    bundle.spec = serde_json::from_str(&text).unwrap();
    bundle
        .set("/process/terminal", json!(false))
        .set("/root/path", json!("rootfs"));
    bundle
}

fn generated_configuration_runs(env: &Env) {
    let mut bundle = bundle(env);
    let facts = bundle.facts();
    assert_eq!(facts["status"]["Uid"], "0 0 0 0");
    let map: Vec<&str> = facts["uid_map"]
        .as_str()
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(map, ["0", &USER.to_string(), "1"]);
}

/// Only the root of the container's user namespace may enter its pid namespace.
fn exec_enters_the_user_namespace(env: &Env) {
    let container = bundle(env).sleeper();
    container
        .exec(&["sh", "-c", "id -u; readlink /proc/1/exe; exit 7"])
        .exits(7)
        .prints("0\n/bin/busybox");
    container.exec(&["/absent"]).exits(255).says("/absent");
}

/// It stayed where its caller is: on v1 the hierarchies are bound from there.
fn cgroup_mount_shows_where_the_container_is(env: &Env) {
    let mut bundle = bundle(env);
    bundle.sh("for line in $(cat /proc/self/cgroup); do \
             name=$(echo $line | cut -d: -f2); path=$(echo $line | cut -d: -f3-); \
             case $name in '') continue;; name=*) dir=${name#name=};; *) dir=$name;; esac; \
             test -e /sys/fs/cgroup/$dir/cgroup.procs || echo missing $dir; done; \
         test -e /sys/fs/cgroup/cgroup.procs || test -d /sys/fs/cgroup/memory || echo nothing; \
         mkdir /sys/fs/cgroup/x 2>/dev/null && echo writable; echo done");
    bundle.run().ok().prints("done");
}

/// The waiting init may not be traced, by its owner as little as by what runs in the container: what
/// it was executed from, its descriptors and its memory are the host's.
fn exec_enters_a_container_that_waits(env: &Env) {
    let mut bundle = bundle(env);
    let container = bundle
        .args(&["sh", "-c", "echo it started; exec sleep 1000"])
        .create();
    let facts = container.exec_facts(&[]);
    assert_eq!(facts["status"]["Uid"], "0 0 0 0");
    for (errno, text) in container.exec_attempts(
        &["--cap", "CAP_SYS_PTRACE", "--cap", "CAP_DAC_OVERRIDE"],
        &[
            "readlink:/proc/1/exe",
            "list:/proc/1/fd",
            "read:/proc/1/environ",
            "read:/proc/1/mem",
            "readlink:/proc/1/cwd",
            "readlink:/proc/1/ns/mnt",
        ],
    ) {
        assert!(
            [libc::EACCES, libc::EPERM].contains(&errno),
            "{errno}: {text}"
        );
    }
    assert_eq!(container.status(), "created");
    container.exec(&["true"]).ok();
    container.start();
    container.wait_output("it started");
    for kind in ["ipc", "mnt", "pid", "user", "uts"] {
        let link = format!("/proc/{}/ns/{kind}", container.pid());
        let link = std::fs::read_link(link).unwrap();
        assert_eq!(
            facts["namespaces"][kind].as_str().unwrap(),
            link.to_str().unwrap(),
            "{kind}"
        );
    }
    let open = container.exec_attempts(&["--cap", "CAP_SYS_PTRACE"], &["list:/proc/1/fd"]);
    assert_eq!(
        open[0],
        (0, "0 1 2".into()),
        "nothing of the waiting is left"
    );
}

/// As in a container of an engine, whose root usually has no CAP_SYS_PTRACE.
fn root_without_the_right_to_trace_enters_too(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["sleep", "1000"]).write();
    let call = |args: &[&str]| {
        let mut command = std::process::Command::new("setpriv");
        command
            .args(["--bounding-set", "-sys_ptrace"])
            .args(["--inh-caps", "-sys_ptrace"])
            .arg(env.rt.path())
            .arg("--root")
            .arg(&env.rt.root)
            .args(args);
        env.rt.finish(env.rt.spawn(command)).ok()
    };
    call(&[
        "create",
        "--bundle",
        bundle.path.to_str().unwrap(),
        &bundle.id,
    ]);
    call(&["exec", &bundle.id, "hostname"]).prints("box");
    call(&["start", &bundle.id]);
    call(&["exec", &bundle.id, "hostname"]).prints("box");
    call(&["delete", "--force", &bundle.id]);
}

/// A process of the user namespace's root may trace whatever is in there and dumpable: exec's process
/// is in there from its birth.
fn exec_is_never_traced(env: &Env) {
    let mut bundle = bundle(env);
    bundle.caps(&["CAP_SYS_PTRACE"]);
    nothing_to_find(&mut bundle, if full() { 500 } else { 60 });
}

fn oom_score_is_set(env: &Env) {
    let mut bundle = bundle(env);
    bundle.set("/process/oomScoreAdj", json!(321));
    let container = bundle.sleeper();
    container
        .exec(&["cat", "/proc/1/oom_score_adj", "/proc/self/oom_score_adj"])
        .ok()
        .prints("321\n321");
}

fn seccomp_listener_is_handed_over(env: &Env) {
    let mut bundle = bundle(env);
    let socket = FdSocket::listen(&env.path("listener"));
    std::os::unix::fs::chown(socket.path(), Some(USER), Some(USER)).unwrap();
    deny(&mut bundle, &[rule("umask", "SCMP_ACT_NOTIFY")]);
    bundle.set("/linux/seccomp/listenerPath", json!(socket.path()));
    bundle.args(&["/bin/probe", "try", &umask(0)]);
    let running = bundle.run_in_background(&[]);
    let (_, mut fds) = socket.next();
    let listener = fds.remove(0);
    std::thread::spawn(move || {
        while let Some(call) = raw::receive(&listener) {
            raw::respond(&listener, call.id, 4711, 0);
        }
    });
    let answers = crate::harness::bundle::attempts(&env.rt.finish(running).ok().json());
    assert_eq!(answers[0], (0, "4711".into()));
}
