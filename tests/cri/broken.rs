//! What breaks below the server: the machine, monitors, namespaces, cgroups, plugins of the network.

use crate::harness::pods::Pods;
use crate::harness::{Env, Test, test};
use rcrun_cri::proto::v1 as cri;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(after_a_boot_pods_are_not_ready_and_ends_are_known),
        test!(a_killed_monitor_costs_one_container),
        test!(namespaces_that_somebody_removed),
        test!(cgroups_that_somebody_removed),
        test!(a_plugin_that_fails_leaves_no_pod),
        test!(a_plugin_that_cannot_remove_is_asked_again),
        test!(a_plugin_hangs_and_the_server_is_killed),
    ]
}

/// What a boot takes along, and the server: processes, mounts, what is kept below ROOT.
fn cut_power(pods: &Pods, containers: &[&str]) {
    let monitors: Vec<i32> = containers.iter().map(|id| parent(pods.pid(id))).collect();
    let inits: Vec<i32> = containers.iter().map(|id| pods.pid(id)).collect();
    pods.node.kill();
    for pid in monitors.into_iter().chain(inits) {
        kill(pid);
    }
    for mount in mounts_below(&pods.env.path("")) {
        rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    std::fs::remove_dir_all(&pods.env.rt.root).unwrap();
    std::fs::create_dir(&pods.env.rt.root).unwrap();
    crate::harness::cgroup::remove(&pods.env.tag);
}

fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = text
        .lines()
        .filter_map(|line| Some(PathBuf::from(line.split(' ').nth(4)?)));
    let mut below: Vec<_> = points.filter(|point| point.starts_with(path)).collect();
    below.reverse();
    below
}

fn parent(pid: i32) -> i32 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = text.rsplit_once(") ").unwrap().1;
    fields.split(' ').nth(1).unwrap().parse().unwrap()
}

/// SIGKILL, and waits until it has ended.
fn kill(pid: i32) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    let end = Instant::now() + Duration::from_secs(10);
    let ended = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |text| {
            text.rsplit_once(") ").unwrap().1.starts_with('Z')
        })
    };
    while !ended() {
        assert!(Instant::now() < end, "{pid} lives on");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn after_a_boot_pods_are_not_ready_and_ends_are_known(env: &Env) {
    let pods = Pods::new(env);
    let mut of_pod = pods.pod("old");
    let pod = pods.run(&of_pod);
    let create =
        |name: &str, script: &str| pods.create(&pod, &pods.container(name, script), &of_pod);
    let (done, runs) = (create("done", "exit 3"), create("runs", "sleep 1000"));
    pods.start(&done);
    pods.start(&runs);
    let before = pods.ended(&done);
    let log = pods.status(&runs).log_path;
    cut_power(&pods, &[&runs]);
    pods.node.start();
    let status = pods.pod_status(&pod);
    assert_eq!(status.state(), cri::PodSandboxState::SandboxNotready);
    let after = pods.status(&done);
    assert_eq!(
        (after.exit_code, after.finished_at, &*after.reason),
        (3, before.finished_at, "Error")
    );
    let lost = pods.status(&runs);
    assert_eq!(lost.state(), cri::ContainerState::ContainerExited);
    assert_eq!((lost.exit_code, &*lost.reason), (255, "Unknown"));
    assert!(lost.finished_at > before.finished_at && Path::new(&log).exists());
    // Every server says the same of it.
    pods.node.kill();
    pods.node.start();
    assert_eq!(pods.status(&runs), lost);
    // What a kubelet does now: another attempt, and the old one away.
    pods.stop(&pod);
    of_pod.metadata.as_mut().unwrap().attempt += 1;
    let next = pods.run(&of_pod);
    let id = pods.create(&next, &pods.container("runs", "exit 0"), &of_pod);
    pods.start(&id);
    assert_eq!(pods.ended(&id).exit_code, 0);
    pods.remove(&pod);
    pods.remove(&next);
    pods.assert_nothing_left();
}

fn a_killed_monitor_costs_one_container(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let make = |name: &str| {
        let id = pods.create(&pod, &pods.container(name, "sleep 1000"), &of_pod);
        pods.start(&id);
        id
    };
    let (bereft, other) = (make("bereft"), make("other"));
    let pid = pods.pid(&bereft);
    kill(parent(pid));
    // It runs on, and that is what is said; it can be stopped.
    std::thread::sleep(Duration::from_millis(300));
    let running = cri::ContainerState::ContainerRunning;
    assert_eq!(pods.status(&bereft).state(), running);
    pods.stop_container(&bereft, 0);
    let status = pods.ended(&bereft);
    assert_eq!((status.exit_code, &*status.reason), (255, "Unknown"));
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    pods.node.kill();
    pods.node.start();
    assert_eq!(pods.status(&bereft), status);
    assert_eq!(pods.status(&other).state(), running);
    pods.remove_container(&bereft);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn namespaces_that_somebody_removed(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("bare");
    let pod = pods.run(&of_pod);
    let place = env.rt.root.join(".cri/pods").join(&pod);
    for name in ["net", "ipc"] {
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(place.join(name), flags).unwrap();
        std::fs::remove_file(place.join(name)).unwrap();
    }
    // Nothing is made in it that would be in the host's namespaces instead.
    let request = crate::harness::pods::creation(&pod, &pods.container("c", "true"), &of_pod);
    let said = pods
        .node
        .wait(pods.node.runtime().create_container(request));
    assert!(said.is_err(), "{said:?}");
    pods.node.kill();
    pods.node.start();
    let status = pods.pod_status(&pod);
    assert_eq!(status.state(), cri::PodSandboxState::SandboxNotready);
    pods.stop(&pod);
    pods.remove(&pod);
    pods.assert_nothing_left();
    // Its address is free again.
    let records = crate::harness::tree::read(&env.rt.root.join(".cri/network"));
    let of_pod = |path: &Path| path.to_string_lossy().contains(&pod);
    assert!(
        !records.keys().any(|path| of_pod(path.as_ref())),
        "{records:?}"
    );
}

fn cgroups_that_somebody_removed(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("bare");
    let pod = pods.run(&of_pod);
    let id = pods.create(&pod, &pods.container("c", "exit 4"), &of_pod);
    pods.start(&id);
    assert_eq!(pods.ended(&id).exit_code, 4);
    crate::harness::cgroup::remove_empty_children(&env.tag);
    // A kubelet makes the pod's cgroup before its containers, or it is made with the next one.
    let next = pods.create(&pod, &pods.container("d", "exit 5"), &of_pod);
    pods.start(&next);
    assert_eq!(pods.ended(&next).exit_code, 5);
    crate::harness::cgroup::remove_empty_children(&env.tag);
    assert_eq!(pods.status(&id).exit_code, 4);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

/// A network by a plugin that is a script, which does what the file `mode` says.
struct Scripted {
    directory: PathBuf,
}

impl Scripted {
    fn new(env: &Env) -> Self {
        let directory = env.path("cni");
        std::fs::create_dir_all(directory.join("net.d")).unwrap();
        std::fs::create_dir_all(directory.join("bin")).unwrap();
        let list = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"scripted"}]}"#;
        std::fs::write(directory.join("net.d/10-n.conflist"), list).unwrap();
        let program = directory.join("bin/scripted");
        let script = r#"#!/bin/sh
D=$(dirname "$0"); cat > /dev/null
echo "$CNI_COMMAND $CNI_CONTAINERID" >> $D/log
case "$(cat $D/mode) $CNI_COMMAND" in
"fail ADD"|"keep DEL") echo '{"cniVersion":"1.0.0","code":100,"msg":"no cable"}'; exit 1;;
"crash ADD") kill -9 $$;;
"hang ADD") echo $$ > $D/pid; exec sleep 1000;;
*" ADD") echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.8.7/24"}]}';;
esac
"#;
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let scripted = Self { directory };
        scripted.mode("work");
        scripted
    }

    fn pods<'a>(&self, env: &'a Env) -> Pods<'a> {
        Pods::with(
            env,
            &json!({
                "network": "cni",
                "cni_config": self.directory.join("net.d"),
                "cni_plugins": [self.directory.join("bin")],
            }),
        )
    }

    fn mode(&self, mode: &str) {
        std::fs::write(self.directory.join("bin/mode"), mode).unwrap();
    }

    /// What it was asked since the last call, with pods' first letters.
    fn asked(&self) -> Vec<String> {
        let path = self.directory.join("bin/log");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(&path);
        let first = |line: &str| line.split(' ').next().unwrap().to_owned();
        text.lines()
            .map(first)
            .filter(|line| line != "GC")
            .collect()
    }
}

fn a_plugin_that_fails_leaves_no_pod(env: &Env) {
    let scripted = Scripted::new(env);
    let pods = scripted.pods(env);
    for (mode, words) in [("fail", "no cable"), ("crash", "scripted")] {
        scripted.mode(mode);
        let request = cri::RunPodSandboxRequest {
            config: Some(pods.pod("p")),
            runtime_handler: String::new(),
        };
        let said = pods.node.wait(pods.node.runtime().run_pod_sandbox(request));
        let said = said.unwrap_err();
        assert!(said.message().contains(words), "{said}");
        assert_eq!(scripted.asked(), ["ADD", "DEL"], "{mode}");
        pods.assert_nothing_left();
    }
    scripted.mode("work");
    let pod = pods.run(&pods.pod("p"));
    assert_eq!(pods.pod_status(&pod).network.unwrap().ip, "10.9.8.7");
    pods.remove(&pod);
    assert_eq!(scripted.asked(), ["ADD", "DEL"]);
    pods.assert_nothing_left();
}

fn a_plugin_that_cannot_remove_is_asked_again(env: &Env) {
    let scripted = Scripted::new(env);
    let pods = scripted.pods(env);
    let pod = pods.run(&pods.pod("p"));
    scripted.mode("keep");
    let stop = cri::StopPodSandboxRequest {
        pod_sandbox_id: pod.clone(),
    };
    let said = pods.node.wait(pods.node.runtime().stop_pod_sandbox(stop));
    assert!(said.unwrap_err().message().contains("no cable"));
    // It is not forgotten by another server, and not ready.
    pods.node.kill();
    pods.node.start();
    let status = pods.pod_status(&pod);
    assert_eq!(status.state(), cri::PodSandboxState::SandboxNotready);
    scripted.mode("work");
    scripted.asked();
    pods.stop(&pod);
    assert_eq!(scripted.asked(), ["DEL"]);
    pods.stop(&pod);
    pods.remove(&pod);
    assert_eq!(scripted.asked(), Vec::<String>::new());
    pods.assert_nothing_left();
}

fn a_plugin_hangs_and_the_server_is_killed(env: &Env) {
    let scripted = Scripted::new(env);
    let pods = scripted.pods(env);
    scripted.mode("hang");
    let request = cri::RunPodSandboxRequest {
        config: Some(pods.pod("p")),
        runtime_handler: String::new(),
    };
    let pid = scripted.directory.join("bin/pid");
    let hangs = async {
        while std::fs::read_to_string(&pid).map_or(true, |text| !text.ends_with('\n')) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut client = pods.node.runtime();
    pods.node.wait(async {
        tokio::select! {
            answer = client.run_pod_sandbox(request) => panic!("{answer:?}"),
            () = hangs => {}
        }
    });
    // Others are answered meanwhile.
    let request = cri::ListPodSandboxRequest::default();
    let listed = pods
        .node
        .ok(pods.node.runtime().list_pod_sandbox(request.clone()));
    assert_eq!(listed.items, []);
    pods.node.kill();
    let plugin: i32 = std::fs::read_to_string(&pid)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    scripted.mode("work");
    scripted.asked();
    pods.node.start();
    // It answers when it has cleaned up.
    let listed = pods.node.ok(pods.node.runtime().list_pod_sandbox(request));
    assert_eq!(listed.items, []);
    assert_eq!(scripted.asked(), ["DEL"]);
    pods.assert_nothing_left();
    // The plugin does not outlive the server that waited for it.
    let end = Instant::now() + Duration::from_secs(10);
    while Path::new(&format!("/proc/{plugin}")).exists() {
        assert!(Instant::now() < end, "{plugin} hangs on");
        std::thread::sleep(Duration::from_millis(5));
    }
}
