//! `exec`: another process in a running container.

use crate::harness::env::read;
use crate::harness::sockets::FdSocket;
use crate::harness::{Container, Env, Need, Test, cgroup, process, test};
use serde_json::{Value, json};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(is_in_the_same_namespaces),
        test!(returns_the_exit_code),
        test!(exits_255_when_it_cannot_start),
        test!(returns_128_plus_signal),
        test!(inherits_the_processes_settings),
        test!(user),
        test!(numeric_user_is_never_a_name),
        test!(additional_groups),
        test!(environment),
        test!(working_directory),
        test!(missing_working_directory_is_refused),
        test!(capabilities),
        test!(no_new_privileges),
        test!(process_file),
        test!(process_file_overrides_everything),
        test!(umask_and_oom_score_of_a_process_file)
            .only_rcrun("runc gives exec those of the container's process"),
        test!(detached),
        test!(pid_file),
        test!(pid_file_is_relative_to_the_caller),
        test!(stdin_is_passed_through),
        test!(in_a_stopped_container_is_refused),
        test!(in_a_created_container),
        test!(in_a_paused_container_is_refused).needs(Need::V1("freezer")),
        test!(paused_can_be_ignored).needs(Need::V1("freezer")),
        test!(in_an_unknown_container_is_refused),
        test!(in_the_containers_cgroup).needs(Need::V1("pids")),
        test!(in_a_sub_cgroup).needs(Need::V1("pids")),
        test!(bad_sub_cgroup_is_refused),
        test!(preserved_descriptors),
        test!(flags_after_the_command_are_the_commands),
        test!(parent_of_a_detached_one_is_not_the_runtime),
        test!(pidfd_socket),
        test!(without_arguments_is_refused),
    ]
}

fn is_in_the_same_namespaces(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .userns()
        .push("/linux/namespaces", json!({"type": "time"}));
    let container = bundle.sleeper();
    let facts = container.exec_facts(&[]);
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        assert_eq!(
            facts["namespaces"][kind],
            json!(process::namespace(container.pid(), kind)),
            "{kind}"
        );
    }
    assert_ne!(facts["pid"], 1);
}

fn returns_the_exit_code(env: &Env) {
    let container = env.bundle().sleeper();
    for code in [0, 1, 42, 126, 127, 255] {
        container
            .exec(&["sh", "-c", &format!("exit {code}")])
            .exits(code);
    }
}

fn exits_255_when_it_cannot_start(env: &Env) {
    let container = env.bundle().sleeper();
    container
        .exec(&["/no/such/program"])
        .exits(255)
        .says("/no/such/program");
    container
        .exec(&["/etc/passwd"])
        .exits(255)
        .says("permission denied");
}

fn returns_128_plus_signal(env: &Env) {
    let container = env.bundle().sleeper();
    container.exec(&["sh", "-c", "kill -9 $$"]).exits(137);
    container.exec(&["sh", "-c", "kill -15 $$"]).exits(143);
}

fn inherits_the_processes_settings(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set(
        "/process/user",
        json!({"uid": 1000, "gid": 1001, "additionalGids": [7]}),
    );
    bundle.push("/process/env", json!("FROM=spec"));
    bundle.set("/process/cwd", json!("/tmp"));
    let facts = bundle.sleeper().exec_facts(&[]);
    assert_eq!(facts["status"]["Uid"], "1000 1000 1000 1000");
    assert_eq!(facts["status"]["Gid"], "1001 1001 1001 1001");
    assert_eq!(facts["status"]["Groups"], "7");
    assert_eq!(facts["cwd"], "/tmp");
    assert!(
        facts["env"]
            .as_array()
            .unwrap()
            .contains(&json!("FROM=spec"))
    );
    assert_eq!(facts["status"]["CapBnd"], "0000000020000420");
}

fn user(env: &Env) {
    let container = env.bundle().sleeper();
    let facts = container.exec_facts(&["--user", "1234:2345"]);
    assert_eq!(facts["status"]["Uid"], "1234 1234 1234 1234");
    assert_eq!(facts["status"]["Gid"], "2345 2345 2345 2345");
    assert_eq!(
        container.exec_facts(&["--user", "1234"])["status"]["Gid"],
        "0 0 0 0"
    );
}

fn numeric_user_is_never_a_name(env: &Env) {
    let container = env.bundle().sleeper();
    // The base's passwd has a user named 1 with uid 0.
    assert_eq!(
        container.exec_facts(&["--user", "1"])["status"]["Uid"],
        "1 1 1 1"
    );
}

fn additional_groups(env: &Env) {
    let container = env.bundle().sleeper();
    let facts = container.exec_facts(&["--additional-gids", "10", "--additional-gids", "20"]);
    assert_eq!(facts["status"]["Groups"], "10 20");
}

/// The environment that a process found.
fn variables(facts: &Value) -> Vec<&str> {
    let all = facts["env"].as_array().unwrap().iter();
    all.map(|v| v.as_str().unwrap()).collect()
}

fn environment(env: &Env) {
    let mut bundle = env.bundle();
    bundle.push("/process/env", json!("KEY=spec"));
    let facts = bundle
        .sleeper()
        .exec_facts(&["--env", "KEY=exec", "-e", "NEW=a=b"]);
    let all = variables(&facts);
    assert!(
        all.contains(&"KEY=exec") && all.contains(&"NEW=a=b") && !all.contains(&"KEY=spec"),
        "{all:?}"
    );
}

fn working_directory(env: &Env) {
    let container = env.bundle().sleeper();
    assert_eq!(
        container.exec_facts(&["--cwd", "/var/tmp"])["cwd"],
        "/var/tmp"
    );
    container
        .exec_with(&["--cwd", "relative"], &["true"])
        .fails();
}

/// Only the container's own process has its directory made.
fn missing_working_directory_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container
        .exec_with(&["--cwd", "/made/here"], &["true"])
        .exits(255)
        .says("/made/here");
}

fn capabilities(env: &Env) {
    let container = env.bundle().sleeper();
    let facts = container.exec_facts(&["--cap", "CAP_NET_ADMIN"]);
    let with = u64::from_str_radix(facts["status"]["CapEff"].as_str().unwrap(), 16).unwrap();
    assert_eq!(with, 0x2000_0420 | 1 << 12);
    assert_eq!(facts["status"]["CapInh"], "0000000000000000");
    assert_eq!(facts["status"]["CapAmb"], "0000000000000000");
    let plain = container.exec_facts(&[]);
    assert_eq!(plain["status"]["CapEff"], "0000000020000420");
}

fn no_new_privileges(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/noNewPrivileges", json!(false));
    let container = bundle.sleeper();
    assert_eq!(container.exec_facts(&[])["status"]["NoNewPrivs"], "0");
    assert_eq!(
        container.exec_facts(&["--no-new-privs"])["status"]["NoNewPrivs"],
        "1"
    );
}

/// `exec --process FILE`, with this process.
fn with_file(container: &Container<'_>, process: &Value) -> Value {
    let path = container.env.path("process.json");
    std::fs::write(&path, process.to_string()).unwrap();
    let args = ["exec", "--process", path.to_str().unwrap(), &container.id];
    container.env.rt.call(&args).ok().json()
}

fn process_file(env: &Env) {
    let container = env.bundle().sleeper();
    let facts = with_file(
        &container,
        &json!({
            "args": ["/bin/probe", "facts"], "cwd": "/tmp", "env": ["ONLY=this"], "user": {"uid": 5, "gid": 6},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}],
            "capabilities": {"bounding": ["CAP_KILL"]}, "noNewPrivileges": true,
            "scheduler": {"policy": "SCHED_BATCH"}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 5}
        }),
    );
    assert_eq!(facts["status"]["Uid"], "5 5 5 5");
    assert_eq!(facts["status"]["Gid"], "6 6 6 6");
    assert_eq!(facts["status"]["CapBnd"], "0000000000000020");
    assert_eq!(facts["cwd"], "/tmp");
    assert_eq!(facts["limits"]["Max open files"], json!(["50", "60"]));
    assert_eq!(facts["scheduler"]["policy"], 3);
    assert_eq!(facts["io_priority"], json!([2, 5]));
    let variables = variables(&facts);
    assert!(
        variables
            .iter()
            .all(|v| *v == "ONLY=this" || v.starts_with("HOME=")),
        "{variables:?}"
    );
}

fn process_file_overrides_everything(env: &Env) {
    let mut bundle = env.bundle();
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    bundle.set("/process/apparmorProfile", json!(""));
    let container = bundle.sleeper();
    let facts = with_file(
        &container,
        &json!({"args": ["/bin/probe", "facts"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}),
    );
    assert_eq!(facts["status"]["Uid"], "0 0 0 0");
    assert_eq!(
        facts["status"]["CapBnd"], "0000000020000420",
        "what it does not name is the container's"
    );
}

fn umask_and_oom_score_of_a_process_file(env: &Env) {
    let container = env.bundle().sleeper();
    let user = json!({"uid": 0, "gid": 0, "umask": 0o27});
    let process =
        json!({"args": ["/bin/probe", "facts"], "cwd": "/", "user": user, "oomScoreAdj": 99});
    let facts = with_file(&container, &process);
    assert_eq!(facts["status"]["Umask"], "0027");
    assert_eq!(facts["oom_score_adj"], "99");
}

fn detached(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.sleeper();
    container
        .exec_with(
            &["--detach"],
            &["sh", "-c", "sleep 0.2; echo done > /marker"],
        )
        .ok();
    let marker = bundle.rootfs("marker");
    assert!(!marker.exists(), "exec waited");
    process::until("it ends", 5, || marker.exists().then_some(()));
}

fn pid_file(env: &Env) {
    let container = env.bundle().sleeper();
    let pid = container.exec_detached(&["sleep", "999"]);
    process::becomes(pid, &["sleep", "999"]);
    assert_eq!(
        process::namespace(pid, "pid"),
        process::namespace(container.pid(), "pid")
    );
}

fn pid_file_is_relative_to_the_caller(env: &Env) {
    let container = env.bundle().sleeper();
    let dir = env.directory("caller");
    let mut command = container.exec_command(&["--pid-file", "relative.pid"], &["true"]);
    command.current_dir(&dir);
    env.rt.finish(env.rt.spawn(command)).ok();
    assert!(read(dir.join("relative.pid")).parse::<i32>().is_ok());
}

fn stdin_is_passed_through(env: &Env) {
    let container = env.bundle().sleeper();
    std::fs::write(env.path("in"), "through\n").unwrap();
    let mut command = container.exec_command(&[], &["cat"]);
    command.stdin(std::fs::File::open(env.path("in")).unwrap());
    env.rt.finish(env.rt.spawn(command)).ok().prints("through");
}

fn in_a_stopped_container_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.stop();
    container.exec(&["true"]).exits(255).says("stopped");
}

/// Allowed, though the container's own process has not started.
fn in_a_created_container(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.args(&["sleep", "1000"]).create();
    container.exec(&["echo", "early"]).ok().prints("early");
    assert_eq!(container.status(), "created");
}

fn in_a_paused_container_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.verb("pause").ok();
    container
        .exec(&["true"])
        .exits(255)
        .says("cannot exec in a paused container");
    container.verb("resume").ok();
    container.exec(&["true"]).ok();
}

fn paused_can_be_ignored(env: &Env) {
    let container = env.bundle().sleeper();
    container.verb("pause").ok();
    let command = container.exec_command(&["--ignore-paused"], &["echo", "thawed"]);
    let mut running = env.rt.spawn(command);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(running.read().0, "", "frozen with the container");
    container.verb("resume").ok();
    env.rt.finish(running).ok().prints("thawed");
}

fn in_an_unknown_container_is_refused(env: &Env) {
    env.rt
        .call(&["exec", "nobody", "true"])
        .exits(255)
        .says("does not exist");
}

fn in_the_containers_cgroup(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.without_namespace("cgroup").sleeper();
    let facts = container.exec_facts(&[]);
    let of_init = cgroup::of_process(container.pid(), "pids").unwrap();
    assert!(of_init.ends_with(&bundle.id), "{of_init}");
    assert!(
        facts["cgroup"]
            .as_str()
            .unwrap()
            .contains(&format!(":pids:{of_init}\n")),
        "{facts}"
    );
}

fn in_a_sub_cgroup(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.without_namespace("cgroup").sleeper();
    std::fs::create_dir(cgroup::path("pids", &env.tag, &bundle.id).join("sub")).unwrap();
    let facts = container.exec_facts(&["--cgroup", "pids:sub"]);
    let text = facts["cgroup"].as_str().unwrap();
    let line = text.lines().find(|l| l.contains(":pids:")).unwrap();
    assert!(line.ends_with(&format!("{}/sub", bundle.id)), "{line}");
    let other = text.lines().find(|l| l.contains(":memory:")).unwrap();
    assert!(other.ends_with(&bundle.id), "{other}");
}

fn bad_sub_cgroup_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    for bad in ["pids:../..", "pids:/../x", "memory:no-such", "nonsense:x"] {
        container
            .exec_with(&["--cgroup", bad], &["true"])
            .exits(255);
    }
}

fn preserved_descriptors(env: &Env) {
    let container = env.bundle().sleeper();
    let inner = container.exec_command(&["--preserve-fds", "1"], &["/bin/probe", "facts"]);
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "exec \"$0\" \"$@\" 3</etc/passwd 4</etc/group"])
        .arg(inner.get_program())
        .args(inner.get_args());
    let facts = env.rt.finish(env.rt.spawn(command)).ok().json();
    assert_eq!(
        facts["fds"].as_object().unwrap().len(),
        4,
        "{}",
        facts["fds"]
    );
    assert_eq!(facts["fds"]["3"], "/etc/passwd");
}

fn flags_after_the_command_are_the_commands(env: &Env) {
    let container = env.bundle().sleeper();
    container
        .exec(&["echo", "--user", "nobody", "-t"])
        .ok()
        .prints("--user nobody -t");
}

fn parent_of_a_detached_one_is_not_the_runtime(env: &Env) {
    let container = env.bundle().sleeper();
    let pid = container.exec_detached(&["sleep", "999"]);
    assert_eq!(
        process::status(pid, "PPid"),
        "1",
        "no process of the runtime stays"
    );
    let own = i32::try_from(std::process::id()).unwrap();
    let all = process::all();
    assert_eq!(
        all.len(),
        4,
        "1, the test {own}, init and the exec: {all:#?}"
    );
}

fn pidfd_socket(env: &Env) {
    let container = env.bundle().sleeper();
    let socket = FdSocket::listen(&env.path("pidfd"));
    container
        .exec_with(
            &["--detach", "--pidfd-socket", socket.path()],
            &["sleep", "999"],
        )
        .ok();
    let (_, fds) = socket.next();
    assert_eq!(fds.len(), 1);
    let number = std::os::fd::AsRawFd::as_raw_fd(&fds[0]);
    let info = read(format!("/proc/self/fdinfo/{number}"));
    let pid = info
        .lines()
        .find_map(|l| l.strip_prefix("Pid:"))
        .unwrap()
        .trim();
    process::becomes(pid, &["sleep", "999"]);
}

fn without_arguments_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.exec(&[]).fails();
    assert_eq!(container.status(), "running");
}
