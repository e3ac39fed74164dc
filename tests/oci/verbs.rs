//! The verbs beside the life cycle: kill, delete, list, ps, pause, resume, events, features, spec; global flags.

use crate::harness::env::read;
use crate::harness::sockets::FdSocket;
use crate::harness::{Env, Need, Test, process, test};

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(kill_by_name_and_number),
        test!(kill_defaults_to_term),
        test!(kill_of_a_stopped_container_is_refused),
        test!(kill_with_an_unknown_signal_is_refused),
        test!(kill_all).needs(Need::V1("freezer")),
        test!(kill_of_a_created_container),
        test!(kill_of_a_paused_container).needs(Need::V1("freezer")),
        test!(delete_of_a_running_container_is_refused),
        test!(delete_by_force),
        test!(delete_by_force_of_nothing_succeeds),
        test!(delete_of_a_created_container),
        test!(delete_of_a_paused_container_by_force).needs(Need::V1("freezer")),
        test!(start_twice_is_refused),
        test!(same_id_twice_is_refused),
        test!(bad_ids_are_refused),
        test!(ids_with_a_dot_at_the_beginning_are_refused).only_rcrun("runc takes them"),
        test!(id_is_free_again_after_delete),
        test!(pause_and_resume).needs(Need::V1("freezer")),
        test!(pause_of_a_stopped_container_is_refused),
        test!(resume_of_a_running_container_is_refused).needs(Need::V1("freezer")),
        test!(pid_file),
        test!(pidfd_socket),
        test!(run_detached),
        test!(run_and_keep),
        test!(bundle_defaults_to_the_current_directory),
        test!(flags_may_stand_after_the_id),
        test!(signals_are_forwarded_by_run),
        test!(subreaper_gets_the_exit_status),
        test!(root_directory_is_private),
    ]
}

fn kill_by_name_and_number(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.args(&["/bin/probe", "signals"]).start();
    container.wait_output("ready");
    for (given, seen) in [
        ("USR1", "SIGUSR1"),
        ("SIGUSR2", "SIGUSR2"),
        ("1", "SIGHUP"),
        ("sigint", "SIGINT"),
    ] {
        container.kill(given);
        container.wait_output(seen);
    }
}

fn kill_defaults_to_term(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.args(&["/bin/probe", "signals"]).start();
    container.wait_output("ready");
    container.verb("kill").ok();
    container.wait_output("SIGTERM");
    container.wait_stopped();
}

fn kill_of_a_stopped_container_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.stop();
    env.rt
        .call(&["kill", &container.id, "TERM"])
        .fails()
        .says("container not running");
    env.rt
        .call(&["kill", "nobody", "TERM"])
        .fails()
        .says("does not exist");
}

fn kill_with_an_unknown_signal_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    for bad in ["SIGNOPE", "99", "-1"] {
        env.rt.call(&["kill", &container.id, bad]).fails();
    }
    assert_eq!(container.status(), "running");
}

fn kill_all(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle
        .without_namespace("pid")
        .args(&["/bin/probe", "children", "5"])
        .start();
    container.wait_output("ready");
    let sleeping = || {
        process::all()
            .iter()
            .filter(|(_, state, what)| *state != 'Z' && what.contains("probe"))
            .count()
    };
    assert_eq!(sleeping(), 6);
    env.rt.call(&["kill", "--all", &container.id, "KILL"]).ok();
    process::until("all six are dead", 5, || (sleeping() == 0).then_some(()));
}

fn kill_of_a_created_container(env: &Env) {
    let container = env.bundle().create();
    container.kill("KILL");
    container.wait_stopped();
    container.delete();
}

fn kill_of_a_paused_container(env: &Env) {
    let container = env.bundle().sleeper();
    container.verb("pause").ok();
    container.kill("KILL");
    container.wait_stopped();
    container.delete();
}

fn delete_of_a_running_container_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.verb("delete").fails();
    assert_eq!(container.status(), "running", "it goes on");
}

fn delete_by_force(env: &Env) {
    let container = env.bundle().sleeper();
    let pid = container.pid();
    env.rt.call(&["delete", "--force", &container.id]).ok();
    container.verb("state").fails();
    assert!(
        process::all()
            .iter()
            .all(|(p, state, _)| *p != pid || *state == 'Z')
    );
}

fn delete_by_force_of_nothing_succeeds(env: &Env) {
    env.rt.call(&["delete", "--force", "nobody"]).ok();
    env.rt
        .call(&["delete", "nobody"])
        .fails()
        .says("does not exist");
}

fn delete_of_a_created_container(env: &Env) {
    let container = env.bundle().create();
    assert_eq!(container.status(), "created");
    container.verb("delete").ok();
    assert!(!env.rt.root.join(&container.id).exists());
}

fn delete_of_a_paused_container_by_force(env: &Env) {
    let container = env.bundle().sleeper();
    container.verb("pause").ok();
    env.rt.call(&["delete", "--force", &container.id]).ok();
    container.verb("state").fails();
}

fn start_twice_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.verb("start").fails().says("running");
    container.stop();
    container.verb("start").fails().says("stopped");
}

fn same_id_twice_is_refused(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.sleeper();
    let mut other = env.bundle();
    other.id.clone_from(&bundle.id);
    let output = env
        .rt
        .finish(env.rt.spawn(other.command("create", &[])))
        .fails();
    assert!(output.stderr.contains("exist"), "{output}");
    assert_eq!(container.status(), "running", "the first is not harmed");
    container.exec(&["true"]).ok();
}

fn bad_ids_are_refused(env: &Env) {
    let mut bundle = env.bundle();
    for bad in [
        "..",
        ".",
        "",
        "a\tb",
        "a/b",
        "../escape",
        "a b",
        "a\nb",
        "\u{e4}",
        "a;b",
        &"x".repeat(5000),
    ] {
        bundle.id = bad.to_owned();
        let output = env.rt.finish(env.rt.spawn(bundle.command("create", &[])));
        assert_ne!(output.code, 0, "{bad:?}: {output}");
    }
    assert!(!env.rt.root.join("..").join("escape").exists());
    for good in ["a", "a.b", "a..", "a-b_c+d.1", "0", "UPPER"] {
        let mut bundle = env.bundle();
        bundle.id = good.to_owned();
        bundle.runs();
    }
}

/// Such names are kept for the state root's own files; runc takes all but `.` and `..`.
fn ids_with_a_dot_at_the_beginning_are_refused(env: &Env) {
    for bad in [".a", "..a", ".monitors"] {
        let mut bundle = env.bundle();
        bundle.id = bad.to_owned();
        bundle.refused().says("invalid container ID format");
        env.rt.call(&["state", bad]).fails().says("invalid");
    }
    // Whatever is there under such a name is no container.
    std::fs::create_dir_all(env.rt.root.join(".monitors")).unwrap();
    env.rt.call(&["list", "--quiet"]).ok().prints("");
    env.rt
        .call(&["delete", "--force", ".monitors"])
        .fails()
        .says("invalid");
    std::fs::remove_dir(env.rt.root.join(".monitors")).unwrap();
}

fn id_is_free_again_after_delete(env: &Env) {
    let bundle = env.bundle();
    for _ in 0..3 {
        let container = bundle.create();
        assert_eq!(container.status(), "created");
        container.delete();
    }
}

fn pause_and_resume(env: &Env) {
    let mut bundle = env.bundle();
    let container = bundle.sh("while :; do echo x; sleep 0.01; done").start();
    container.wait_output("x");
    container.verb("pause").ok();
    assert_eq!(container.status(), "paused");
    let before = container.stdout().len();
    std::thread::sleep(std::time::Duration::from_millis(150));
    assert_eq!(container.stdout().len(), before, "it still runs");
    container.verb("resume").ok();
    assert_eq!(container.status(), "running");
    process::until("it goes on", 5, || {
        (container.stdout().len() > before).then_some(())
    });
}

fn pause_of_a_stopped_container_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.stop();
    container.verb("pause").fails();
}

fn resume_of_a_running_container_is_refused(env: &Env) {
    let container = env.bundle().sleeper();
    container.verb("resume").fails().says("not paused");
}

fn pid_file(env: &Env) {
    let mut bundle = env.bundle();
    let path = env.path("init.pid");
    bundle.args(&["sleep", "1000"]);
    let container = bundle.create_with(&["--pid-file", path.to_str().unwrap()]);
    assert_eq!(read(&path), container.pid().to_string(), "just the number");
}

fn pidfd_socket(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["sleep", "1000"]);
    let socket = FdSocket::listen(&env.path("pidfd"));
    let container = bundle.create_with(&["--pidfd-socket", socket.path()]);
    let (_, fds) = socket.next();
    let info = read(format!(
        "/proc/self/fdinfo/{}",
        std::os::fd::AsRawFd::as_raw_fd(&fds[0])
    ));
    let pid = info
        .lines()
        .find_map(|l| l.strip_prefix("Pid:"))
        .unwrap()
        .trim();
    assert_eq!(pid, container.pid().to_string());
}

fn run_detached(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["sleep", "1000"]);
    bundle.run_with(&["--detach"]).ok();
    let state = env.rt.call(&["state", &bundle.id]).ok().json();
    assert_eq!(state["status"], "running");
    let pid = i32::try_from(state["pid"].as_i64().unwrap()).unwrap();
    assert_eq!(
        process::status(pid, "PPid"),
        "1",
        "no process of the runtime stays"
    );
    env.rt.call(&["delete", "--force", &bundle.id]).ok();
}

fn run_and_keep(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh("exit 3").run_with(&["--keep"]).exits(3);
    assert_eq!(
        env.rt.call(&["state", &bundle.id]).ok().json()["status"],
        "stopped"
    );
    env.rt.call(&["delete", &bundle.id]).ok();
}

fn bundle_defaults_to_the_current_directory(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["echo", "here"]).write();
    let mut command = env.rt.command(&["run", &bundle.id]);
    command.current_dir(&bundle.path);
    env.rt.finish(env.rt.spawn(command)).ok().prints("here");
}

fn flags_may_stand_after_the_id(env: &Env) {
    let mut bundle = env.bundle();
    bundle.args(&["sleep", "1000"]).write();
    let id = bundle.id.clone();
    env.rt
        .call(&["create", &id, "--bundle", bundle.path.to_str().unwrap()])
        .ok();
    assert_eq!(
        env.rt.call(&["state", &id]).ok().json()["status"],
        "created"
    );
    env.rt.call(&["delete", &id, "--force"]).ok();
}

fn signals_are_forwarded_by_run(env: &Env) {
    let mut bundle = env.bundle();
    let mut running = bundle
        .args(&["/bin/probe", "signals"])
        .run_in_background(&[]);
    process::until("it is ready", 10, || {
        running.read().0.contains("ready").then_some(())
    });
    let pid = nix::unistd::Pid::from_raw(running.pid());
    for signal in [
        nix::sys::signal::Signal::SIGUSR1,
        nix::sys::signal::Signal::SIGHUP,
    ] {
        nix::sys::signal::kill(pid, signal).unwrap();
        process::until("it arrives", 5, || {
            running.read().0.contains(signal.as_str()).then_some(())
        });
    }
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    env.rt.finish(running).exits(7);
}

/// What a shim does: become the subreaper, and wait for the container's init itself.
fn subreaper_gets_the_exit_status(env: &Env) {
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let mut bundle = env.bundle();
    let container = bundle.sh("exit 23").create();
    let pid = container.pid();
    container.start();
    let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
    assert_eq!(
        status,
        nix::sys::wait::WaitStatus::Exited(nix::unistd::Pid::from_raw(pid), 23)
    );
    assert_eq!(container.status(), "stopped");
}

fn root_directory_is_private(env: &Env) {
    use std::os::unix::fs::PermissionsExt;
    let _container = env.bundle().sleeper();
    let mode = std::fs::metadata(&env.rt.root)
        .unwrap()
        .permissions()
        .mode()
        & 0o7777;
    assert_eq!(mode & 0o066, 0, "others may not look inside: {mode:o}");
}
