//! The server is killed in the middle of each call (RELIABILITY.md, 16): the caller asks again, as a kubelet does,
//! and what it gets is whole. What is said to run has a process, and nothing is left of what was half made.

use crate::harness::caller::Caller;
use crate::harness::pods::Pods;
use crate::harness::{Env, Test, full, test};
use rcrun_cri::proto::v1 as cri;
use std::time::Duration;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(killed_while_a_pod_is_made).timeout(600),
        test!(killed_while_a_container_is_made_and_started).timeout(600),
        test!(killed_while_a_container_is_stopped_and_removed).timeout(600),
        test!(killed_while_a_pod_is_stopped_and_removed).timeout(600),
        test!(a_start_that_nobody_heard_of),
    ]
}

/// After how many microseconds of a call the server is killed.
fn moments() -> Vec<u64> {
    match full() {
        true => (0..200).map(|step| step * 500).collect(),
        false => vec![0, 1000, 3000, 7000, 15_000, 30_000, 60_000],
    }
}

/// Calls, and kills the server meanwhile; the call goes on with the next server.
fn interrupted<T: Send>(pods: &Pods, moment: u64, call: impl FnOnce(&mut Caller) -> T + Send) -> T {
    let socket = &pods.node.socket;
    let answer = std::thread::scope(|scope| {
        let calling = scope.spawn(move || {
            let mut caller = Caller::new(socket);
            // The connection is there before the clock runs.
            caller.pods();
            call(&mut caller)
        });
        std::thread::sleep(Duration::from_micros(1000 + moment));
        pods.node.kill();
        pods.node.start();
        calling.join().unwrap()
    });
    assert_consistent(pods);
    answer
}

/// Who is said to run has a process that does, and who is said to have ended has none.
fn assert_consistent(pods: &Pods) {
    let list = cri::ListContainersRequest::default();
    let all = pods.node.ok(pods.node.runtime().list_containers(list));
    for container in all.containers {
        let status = pods.status(&container.id);
        if status.state() == cri::ContainerState::ContainerRunning {
            let pid = pods.pid(&container.id);
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            assert!(!stat.contains(") Z "), "{stat}");
        }
    }
}

/// What the killed ones were making or throwing away, a server sweeps by itself, in a while.
fn assert_nothing_left(pods: &Pods) {
    pods.node.shelf.ok(&["prune", "-f"]);
    pods.assert_nothing_left();
}

fn killed_while_a_pod_is_made(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    for moment in moments() {
        let pod = interrupted(&pods, moment, |caller| caller.make_pod(&of_pod));
        assert_eq!(
            pods.pod_status(&pod).state(),
            cri::PodSandboxState::SandboxReady
        );
        // It is whole: a container runs in it.
        let name = format!("c{moment}");
        let config = pods.container(&name, "cat /proc/net/dev | grep -c eth0; hostname");
        let (said, status) = pods.finish(&pod, &of_pod, &config);
        assert_eq!(
            (said.as_str(), status.exit_code),
            ("1\none\n", 0),
            "{moment}"
        );
        pods.remove(&pod);
        assert_nothing_left(&pods);
    }
}

fn killed_while_a_container_is_made_and_started(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    for moment in moments() {
        let config = pods.container(&format!("c{moment}"), "echo once; exec sleep 1000");
        let id = interrupted(&pods, moment, |caller| {
            caller.make_container(&pod, &config, &of_pod)
        });
        interrupted(&pods, moment, |caller| caller.start(&id));
        let status = pods.status(&id);
        assert_eq!(
            status.state(),
            cri::ContainerState::ContainerRunning,
            "{moment} {status:?}"
        );
        crate::harness::process::until("its output", 10, || {
            (pods.log(&status) == "once\n").then_some(())
        });
        pods.stop_container(&id, 0);
        assert_eq!(pods.log(&pods.status(&id)), "once\n", "{moment}");
        pods.remove_container(&id);
    }
    pods.remove(&pod);
    assert_nothing_left(&pods);
}

fn killed_while_a_container_is_stopped_and_removed(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done";
    for moment in moments() {
        let id = pods.create(&pod, &pods.container("c", script), &of_pod);
        pods.start(&id);
        interrupted(&pods, moment, |caller| caller.stop_container(&id));
        let status = pods.status(&id);
        assert_eq!(
            (status.state(), status.exit_code),
            (cri::ContainerState::ContainerExited, 137),
            "{moment}"
        );
        interrupted(&pods, moment, |caller| caller.remove_container(&id));
        let mut caller = Caller::new(&pods.node.socket);
        assert!(caller.containers(&pod).is_empty(), "{moment}");
    }
    pods.remove(&pod);
    assert_nothing_left(&pods);
}

fn killed_while_a_pod_is_stopped_and_removed(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    for moment in moments() {
        let pod = pods.run(&of_pod);
        let id = pods.create(&pod, &pods.container("c", "exec sleep 1000"), &of_pod);
        pods.start(&id);
        interrupted(&pods, moment, |caller| caller.stop_pod(&pod));
        assert_eq!(
            pods.pod_status(&pod).state(),
            cri::PodSandboxState::SandboxNotready
        );
        let status = pods.status(&id);
        assert_eq!(
            status.state(),
            cri::ContainerState::ContainerExited,
            "{moment}"
        );
        interrupted(&pods, moment, |caller| caller.remove_pod(&pod));
        let mut caller = Caller::new(&pods.node.socket);
        assert!(caller.pods().is_empty(), "{moment}");
        assert_nothing_left(&pods);
    }
}

/// The monitor did what a server asked for that did not live to hear of it.
fn a_start_that_nobody_heard_of(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let make = |name: &str, script: &str| {
        let config = pods.container(name, script);
        pods.create(&pod, &config, &of_pod)
    };
    let sleep = "exec sleep 1000";
    let [before, found, asked] = ["before", "found", "asked"].map(|name| make(name, sleep));
    let short = make("short", "exit 5");
    let start = |id: &str| {
        let root = env.rt.root.join(".cri/run");
        let mut command = std::process::Command::new(env.rt.path());
        command.arg("--root").arg(root).args(["start", id]);
        env.rt.finish(env.rt.spawn(command)).ok();
    };
    pods.node.kill();
    // Before the next server is there.
    start(&before);
    pods.node.start();
    let status = pods.status(&before);
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    assert!(status.started_at > 0);
    // After that, and the kubelet does not ask again, or does.
    start(&found);
    start(&asked);
    start(&short);
    let mut caller = Caller::new(&pods.node.socket);
    caller.start(&asked);
    let status = pods.status(&asked);
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    assert!(status.started_at > 0);
    crate::harness::process::until("it is seen to run", 20, || {
        let status = pods.status(&found);
        let runs = status.state() == cri::ContainerState::ContainerRunning;
        (runs && status.started_at > 0).then_some(())
    });
    caller.start(&short);
    let status = pods.ended(&short);
    assert_eq!((status.exit_code, status.reason.as_str()), (5, "Error"));
    // One of which only the init was killed was never started.
    let never = make("never", sleep);
    let pid = pods.pid(&never);
    let killed = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    let status = pods.ended(&never);
    assert_eq!(status.exit_code, 137);
    pods.remove(&pod);
    assert_nothing_left(&pods);
}
