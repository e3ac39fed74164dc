//! NRI: what plugins are told of pods and containers, in which order, and what becomes of what they want.
//!
//! The plugins are those of rcrun-nri's own tests: frames and calls written anew, on a thread of their own.

use crate::harness::pods::{Pods, creation};
use crate::harness::{Env, Test, cgroup, test};
use plugin::{Plugin, Reply, UNKNOWN, answer, memory, nothing, update};
use prost::Message;
use rcrun_cri::proto::v1 as cri;
use rcrun_nri::proto::v1alpha1 as nri;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tonic::Code;

#[path = "../../cri/nri/tests/plugin/mod.rs"]
mod plugin;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(nothing_is_offered_unless_asked_for),
        test!(events_come_in_their_order),
        test!(plugins_see_what_there_is),
        test!(adjustments_arrive_in_the_container),
        test!(hooks_of_plugins_run),
        test!(a_refused_pod_leaves_nothing),
        test!(a_refused_container_leaves_nothing),
        test!(a_refused_start_is_a_failed_one),
        test!(a_plugin_that_hangs_is_dropped),
        test!(limits_of_plugins_hold_beside_the_kubelet_s),
        test!(evicted_containers_end),
        test!(another_server_tells_nothing_again),
    ]
}

/// Methods, and whom they are about.
type Events = Vec<(String, String)>;

/// A node with NRI, and a thread for plugins.
struct Lab<'a> {
    pods: Pods<'a>,
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl<'a> Lab<'a> {
    fn new(env: &'a Env) -> Self {
        // A machine that is busy is no plugin that is slow.
        Self::with(env, 30)
    }

    fn with(env: &'a Env, seconds: u64) -> Self {
        let socket = env.path("nri.sock");
        let nri = json!({
            "enable": true, "socket": socket, "request_timeout": seconds,
            "plugin_path": env.path("none"), "config_path": env.path("none"),
        });
        let pods = Pods::with(env, &json!({ "nri": nri }));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self {
            pods,
            socket,
            runtime,
        }
    }

    /// A plugin that wants these events, or all.
    fn join(
        &self,
        name: &str,
        events: &[nri::Event],
        handler: impl FnMut(&str, &[u8]) -> Reply + Send + 'static,
    ) -> Plugin {
        // The kubelet's socket is there before the plugins'.
        until(
            || std::os::unix::net::UnixStream::connect(&self.socket).is_ok(),
            || self.pods.node.log(),
        );
        self.runtime
            .block_on(Plugin::join(&self.socket, "10", name, events, handler))
    }

    /// A pod with one container that sleeps.
    fn sleeper(&self, name: &str) -> (String, cri::PodSandboxConfig, String) {
        let of_pod = self.pods.pod(name);
        let pod = self.pods.run(&of_pod);
        let id = self.sleep(&pod, &of_pod, "c");
        (pod, of_pod, id)
    }

    fn sleep(&self, pod: &str, of_pod: &cri::PodSandboxConfig, name: &str) -> String {
        let config = self.pods.container(name, "exec sleep 1000");
        let id = self.pods.create(pod, &config, of_pod);
        self.pods.start(&id);
        id
    }

    /// What a plugin heard, with whom it was about.
    fn heard(&self, plugin: &mut Plugin) -> Events {
        let mut all = Vec::new();
        while let Ok((method, payload)) = plugin.heard.try_recv() {
            let about = About::decode(&payload[..]).unwrap();
            let id = match about.container {
                Some(container) => container.id,
                None => about.pod.unwrap_or_default().id,
            };
            all.push((method, id));
        }
        all
    }

    fn update(&self, id: &str, linux: cri::LinuxContainerResources) {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        self.pods
            .node
            .ok(self.pods.node.runtime().update_container_resources(request));
    }

    /// The limit of memory that the kernel has for a container.
    fn memory(&self, id: &str) -> String {
        let pid = self.pods.pid(id);
        let (root, controller, file) = match cgroup::v1("memory") {
            Some(root) => (root, "memory", "memory.limit_in_bytes"),
            None => (PathBuf::from("/sys/fs/cgroup"), "", "memory.max"),
        };
        let path = cgroup::of_process(pid, controller).unwrap();
        read(&root.join(path.trim_start_matches('/')), file)
    }
}

fn read(directory: &std::path::Path, file: &str) -> String {
    let text = std::fs::read_to_string(directory.join(file));
    text.unwrap_or_else(|error| panic!("{}/{file}: {error}", directory.display()))
        .trim()
        .to_owned()
}

/// The parts that all requests have in common.
#[derive(Clone, PartialEq, prost::Message)]
struct About {
    #[prost(message, optional, tag = "1")]
    pod: Option<nri::PodSandbox>,
    #[prost(message, optional, tag = "2")]
    container: Option<nri::Container>,
}

/// Requests as they came, with what they are about.
type Seen = Arc<Mutex<Vec<(String, About)>>>;

/// Keeps all requests, and has nothing to say.
fn watch(seen: &Seen) -> impl FnMut(&str, &[u8]) -> Reply + Send + 'static {
    let seen = Arc::clone(seen);
    move |method, payload| {
        if method != "Synchronize" && method != "Shutdown" {
            let about = About::decode(payload).unwrap();
            seen.lock().unwrap().push((method.to_owned(), about));
        }
        nothing()
    }
}

fn find(seen: &Seen, method: &str, id: &str) -> About {
    let seen = seen.lock().unwrap();
    let about = |about: &About| match &about.container {
        Some(container) => container.id.clone(),
        None => about.pod.clone().unwrap_or_default().id,
    };
    let found = seen
        .iter()
        .find(|(name, one)| name == method && about(one) == id);
    found
        .unwrap_or_else(|| panic!("no {method} of {id}"))
        .1
        .clone()
}

fn refuse(event: &'static str) -> impl FnMut(&str, &[u8]) -> Reply + Send + 'static {
    move |method, _| match method == event {
        true => Reply::Refuse(UNKNOWN, "not today"),
        false => nothing(),
    }
}

fn nothing_is_offered_unless_asked_for(env: &Env) {
    let socket = env.path("nri.sock");
    let pods = Pods::with(env, &json!({"nri": {"socket": socket}}));
    assert!(!socket.exists());
    let pod = pods.run(&pods.pod("one"));
    pods.remove(&pod);
    pods.node.stop().ok();
}

fn events_come_in_their_order(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let mut plugin = lab.join("all", &[], |_, _| nothing());
    lab.heard(&mut plugin);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let (_, short) = pods.finish(&pod, &of_pod, &pods.container("short", "exit 3"));
    let request = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.clone(),
        resources: Some(cri::LinuxContainerResources::default()),
        ..Default::default()
    };
    let runtime = || pods.node.runtime();
    pods.node
        .ok(runtime().update_pod_sandbox_resources(request));
    let long = lab.sleep(&pod, &of_pod, "long");
    lab.update(
        &long,
        cri::LinuxContainerResources {
            cpu_shares: 512,
            ..Default::default()
        },
    );
    // Each is told once, however often it is asked for.
    pods.stop_container(&short.id, 0);
    pods.stop_container(&long, 0);
    pods.stop_container(&long, 0);
    pods.remove_container(&short.id);
    pods.remove_container(&short.id);
    pods.stop(&pod);
    pods.stop(&pod);
    pods.remove(&pod);
    pods.remove(&pod);
    let of = |id: &str, names: &[&str]| -> Events {
        let about = |name: &&str| ((*name).to_owned(), id.to_owned());
        names.iter().map(about).collect()
    };
    let made = [
        "CreateContainer",
        "ValidateContainerAdjustment",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
    ];
    let expected = [
        of(&pod, &["RunPodSandbox"]),
        of(&short.id, &made),
        of(&short.id, &["StopContainer"]),
        of(&pod, &["UpdatePodSandbox", "PostUpdatePodSandbox"]),
        of(&long, &made),
        of(
            &long,
            &["UpdateContainer", "PostUpdateContainer", "StopContainer"],
        ),
        of(&short.id, &["RemoveContainer"]),
        of(&pod, &["StopPodSandbox"]),
        of(&long, &["RemoveContainer"]),
        of(&pod, &["RemovePodSandbox"]),
    ];
    assert_eq!(lab.heard(&mut plugin), expected.concat());
    pods.assert_nothing_left();
}

fn plugins_see_what_there_is(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let seen = Seen::default();
    let _plugin = lab.join("eyes", &[], watch(&seen));
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let mut config = pods.container("c", "exit 3");
    config.annotations = [("a".to_owned(), "b".to_owned())].into();
    let (_, status) = pods.finish(&pod, &of_pod, &config);
    let addresses = [pods.pod_status(&pod).network.unwrap().ip];
    pods.remove(&pod);

    let told = find(&seen, "RunPodSandbox", &pod).pod.unwrap();
    assert_eq!(
        (told.name.as_str(), told.namespace.as_str()),
        ("one", "default")
    );
    assert_eq!(
        (told.uid.as_str(), &told.ips[..]),
        ("uid-one", &addresses[..])
    );
    assert_eq!(
        (&told.labels, &told.annotations),
        (&of_pod.labels, &of_pod.annotations)
    );
    let linux = told.linux.unwrap();
    assert_eq!(linux.cgroup_parent, of_pod.linux.unwrap().cgroup_parent);
    let network = linux.namespaces.iter().find(|one| one.r#type == "network");
    assert!(network.unwrap().path.ends_with("/net"), "{linux:?}");

    let created = find(&seen, "CreateContainer", &status.id)
        .container
        .unwrap();
    assert_eq!(created.state(), nri::ContainerState::ContainerUnknown);
    assert_eq!(
        (created.name.as_str(), created.pod_sandbox_id.as_str()),
        ("c", &*pod)
    );
    assert_eq!(created.args, ["sh", "-c", "exit 3"]);
    assert!(
        created.env.contains(&"A=image".to_owned()),
        "{:?}",
        created.env
    );
    assert!(
        created
            .mounts
            .iter()
            .any(|mount| mount.destination == "/proc")
    );
    assert_eq!(created.labels["container"], "c");
    assert_eq!(created.annotations["a"], "b");
    assert_eq!(created.image.unwrap().config_digest, status.image_id);

    let started = find(&seen, "StartContainer", &status.id).container.unwrap();
    assert_eq!(started.state(), nri::ContainerState::ContainerCreated);
    assert!(started.pid > 1, "{started:?}");
    let runs = find(&seen, "PostStartContainer", &status.id)
        .container
        .unwrap();
    assert_eq!(runs.state(), nri::ContainerState::ContainerRunning);
    assert_eq!(
        (runs.created_at, runs.started_at),
        (status.created_at, status.started_at)
    );
    for event in ["StopContainer", "RemoveContainer"] {
        let ended = find(&seen, event, &status.id).container.unwrap();
        assert_eq!(ended.state(), nri::ContainerState::ContainerStopped);
        assert_eq!(
            (ended.exit_code, ended.finished_at),
            (3, status.finished_at)
        );
        assert_eq!(ended.args, ["sh", "-c", "exit 3"]);
    }
}

fn key(name: &str, value: &str) -> nri::KeyValue {
    nri::KeyValue {
        key: name.to_owned(),
        value: value.to_owned(),
    }
}

/// A vendor's device, for CDI, whose directory is the machine's.
struct Vendor {
    file: PathBuf,
    name: String,
}

impl Vendor {
    fn new(env: &Env) -> Self {
        let directory = PathBuf::from("/var/run/cdi");
        std::fs::create_dir_all(&directory).unwrap();
        let edits = json!({
            "env": ["THING=1"],
            "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/null"}],
        });
        let text = json!({
            "cdiVersion": "0.6.0", "kind": "rcrun.test/nri",
            "devices": [{"name": env.tag, "containerEdits": edits}],
        });
        let file = directory.join(format!("{}.json", env.tag));
        std::fs::write(&file, text.to_string()).unwrap();
        Self {
            file,
            name: format!("rcrun.test/nri={}", env.tag),
        }
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
        let _ = std::fs::remove_dir("/var/run/cdi");
    }
}

fn adjustments_arrive_in_the_container(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let file = env.path("of-plugin");
    std::fs::write(&file, "from a plugin\n").unwrap();
    let source = file.display().to_string();
    let vendor = Vendor::new(env);
    let adjust = nri::ContainerAdjustment {
        cdi_devices: vec![nri::CdiDevice {
            name: vendor.name.clone(),
        }],
        annotations: [("of.plugin".to_owned(), "yes".to_owned())].into(),
        env: vec![key("ADDED", "value"), key("A", "replaced")],
        mounts: vec![nri::Mount {
            destination: "/of/plugin".to_owned(),
            r#type: "bind".to_owned(),
            source,
            options: ["bind", "ro"].map(str::to_owned).into(),
        }],
        rlimits: vec![nri::PosixRlimit {
            r#type: "RLIMIT_NOFILE".to_owned(),
            hard: 77,
            soft: 66,
        }],
        linux: Some(nri::LinuxContainerAdjustment {
            resources: Some(memory(64 << 20)),
            oom_score_adj: Some(nri::OptionalInt { value: 321 }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let _plugin = lab.join(
        "hands",
        &[nri::Event::CreateContainer],
        move |method, _| match method {
            "CreateContainer" => answer(&nri::CreateContainerResponse {
                adjust: Some(adjust.clone()),
                ..Default::default()
            }),
            _ => nothing(),
        },
    );
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let script = "echo $ADDED $A; cat /of/plugin; ulimit -n; cat /proc/self/oom_score_adj; \
                  echo x 2>/dev/null >/of/plugin || echo read-only; echo $THING; ls /dev/thing; exec sleep 1000";
    let id = pods.create(&pod, &pods.container("c", script), &of_pod);
    pods.start(&id);
    let expected = "value replaced\nfrom a plugin\n66\n321\nread-only\n1\n/dev/thing\n";
    until(
        || pods.log(&pods.status(&id)) == expected,
        || pods.log(&pods.status(&id)),
    );
    assert_eq!(lab.memory(&id), (64 << 20).to_string());
    let request = cri::ContainerStatusRequest {
        container_id: id.clone(),
        verbose: true,
    };
    let verbose = pods.node.ok(pods.node.runtime().container_status(request));
    let info: Value = serde_json::from_str(&verbose.info["info"]).unwrap();
    assert_eq!(info["runtimeSpec"]["annotations"]["of.plugin"], "yes");
    // A kubelet that asks for something else leaves it, one that asks for memory has the last word.
    let asked = |cpu_shares, memory_limit_in_bytes| cri::LinuxContainerResources {
        cpu_shares,
        memory_limit_in_bytes,
        ..Default::default()
    };
    lab.update(&id, asked(512, 0));
    assert_eq!(lab.memory(&id), (64 << 20).to_string());
    lab.update(&id, asked(0, 96 << 20));
    assert_eq!(lab.memory(&id), (96 << 20).to_string());
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn hooks_of_plugins_run(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let noted = env.path("noted");
    let hook = |kind: &str, code: i32| {
        let script = format!(
            "cat >/dev/null; echo {kind} >>{}; exit {code}",
            noted.display()
        );
        nri::Hook {
            path: env.script(kind, &script).display().to_string(),
            ..Default::default()
        }
    };
    let adjust = nri::ContainerAdjustment {
        hooks: Some(nri::Hooks {
            create_runtime: vec![hook("createRuntime", 0)],
            poststart: vec![hook("poststart", 0)],
            // A failure is a warning, and the next one runs.
            poststop: vec![hook("poststop", 3), hook("poststop-again", 0)],
            ..Default::default()
        }),
        ..Default::default()
    };
    let _plugin = lab.join(
        "hooks",
        &[nri::Event::CreateContainer],
        move |method, _| match method {
            "CreateContainer" => answer(&nri::CreateContainerResponse {
                adjust: Some(adjust.clone()),
                ..Default::default()
            }),
            _ => nothing(),
        },
    );
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let all = "createRuntime\npoststart\npoststop\npoststop-again\n";
    // One that ends, one that is stopped, and one whose end a killed server did not see.
    let ends = pods.create(&pod, &pods.container("ends", "exit 4"), &of_pod);
    pods.start(&ends);
    assert_eq!(pods.ended(&ends).exit_code, 4);
    assert_eq!(std::fs::read_to_string(&noted).unwrap(), all);
    assert!(
        pods.node.log().contains("exit code 3"),
        "{}",
        pods.node.log()
    );
    std::fs::remove_file(&noted).unwrap();

    let stopped = lab.sleep(&pod, &of_pod, "stopped");
    pods.stop_container(&stopped, 0);
    assert_eq!(std::fs::read_to_string(&noted).unwrap(), all);
    std::fs::remove_file(&noted).unwrap();

    let unseen = pods.create(
        &pod,
        &pods.container(
            "unseen",
            "until [ -e /dev/shm/go ]; do sleep 0.01; done; exit 5",
        ),
        &of_pod,
    );
    pods.start(&unseen);
    let go = env.rt.root.join(".cri/pods").join(&pod).join("shm/go");
    pods.node.kill();
    std::fs::write(&go, "").unwrap();
    pods.node.start();
    assert_eq!(pods.ended(&unseen).exit_code, 5);
    pods.remove(&pod);
    assert_eq!(std::fs::read_to_string(&noted).unwrap(), all);
    pods.assert_nothing_left();
}

fn a_refused_pod_leaves_nothing(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let mut plugin = lab.join("no", &[], refuse("RunPodSandbox"));
    lab.heard(&mut plugin);
    let of_pod = pods.pod("one");
    let request = || cri::RunPodSandboxRequest {
        config: Some(of_pod.clone()),
        runtime_handler: String::new(),
    };
    let result = pods
        .node
        .wait(pods.node.runtime().run_pod_sandbox(request()));
    let why = result.unwrap_err().message().to_owned();
    assert!(
        why.contains("cannot run the pod") && why.contains("not today"),
        "{why}"
    );
    let heard = lab.heard(&mut plugin).into_iter().map(|(name, _)| name);
    let expected = ["RunPodSandbox", "StopPodSandbox", "RemovePodSandbox"];
    assert_eq!(heard.collect::<Vec<_>>(), expected);
    let list = cri::ListPodSandboxRequest::default();
    let all = pods.node.ok(pods.node.runtime().list_pod_sandbox(list));
    assert!(all.items.is_empty(), "{all:?}");
    pods.assert_nothing_left();
    // The name is free, and the plugin was not dropped.
    assert!(
        pods.node
            .wait(pods.node.runtime().run_pod_sandbox(request()))
            .is_err()
    );
    plugin.task.abort();
    until(
        || pods.node.log().contains("10-no is gone"),
        || pods.node.log(),
    );
    let pod = pods.run(&of_pod);
    pods.remove(&pod);
}

fn a_refused_container_leaves_nothing(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let config = pods.container("c", "exit 0");
    let create = || {
        let request = creation(&pod, &config, &of_pod);
        pods.node
            .wait(pods.node.runtime().create_container(request))
    };
    let validates = |method: &str, _: &[u8]| match method {
        "ValidateContainerAdjustment" => answer(&nri::ValidateContainerAdjustmentResponse {
            reject: true,
            reason: "not today".to_owned(),
        }),
        _ => nothing(),
    };
    // What no runtime could start: it fails after the plugins agreed.
    let impossible = |method: &str, _: &[u8]| match method {
        "CreateContainer" => answer(&nri::CreateContainerResponse {
            adjust: Some(nri::ContainerAdjustment {
                cdi_devices: vec![nri::CdiDevice {
                    name: "nobody.example/not-today=0".to_owned(),
                }],
                ..Default::default()
            }),
            ..Default::default()
        }),
        _ => nothing(),
    };
    type Handler = Box<dyn FnMut(&str, &[u8]) -> Reply + Send>;
    let handlers: [(&str, Handler); 3] = [
        ("refuses", Box::new(refuse("CreateContainer"))),
        ("validates", Box::new(validates)),
        ("impossible", Box::new(impossible)),
    ];
    for (name, handler) in handlers {
        let mut plugin = lab.join(name, &[], handler);
        lab.heard(&mut plugin);
        let why = create().unwrap_err().message().to_owned();
        assert!(
            why.contains("not today") || why.contains("not-today"),
            "{name}: {why}"
        );
        let heard = lab.heard(&mut plugin).into_iter().map(|(name, _)| name);
        let heard: Vec<_> = heard
            .filter(|name| name != "ValidateContainerAdjustment")
            .collect();
        let expected = ["CreateContainer", "StopContainer", "RemoveContainer"];
        assert_eq!(heard, expected, "{name}");
        for directory in ["cri/containers", "snapshots"] {
            let left = std::fs::read_dir(pods.node.shelf.path().join(directory)).unwrap();
            assert_eq!(left.count(), 0, "{name}: {directory}");
        }
        plugin.task.abort();
        let gone = format!("10-{name} is gone");
        until(|| pods.node.log().contains(&gone), || pods.node.log());
    }
    assert!(create().is_ok());
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn a_refused_start_is_a_failed_one(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let mut plugin = lab.join("no", &[], refuse("StartContainer"));
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let id = pods.create(&pod, &pods.container("c", "echo ran"), &of_pod);
    let request = || cri::StartContainerRequest {
        container_id: id.clone(),
    };
    let result = pods
        .node
        .wait(pods.node.runtime().start_container(request()));
    let why = result.unwrap_err().message().to_owned();
    assert!(
        why.contains("cannot start the container") && why.contains("not today"),
        "{why}"
    );
    let status = pods.status(&id);
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (128, "StartError")
    );
    assert_eq!((status.started_at, pods.log(&status)), (0, String::new()));
    pods.node.refused(
        pods.node.runtime().start_container(request()),
        Code::FailedPrecondition,
    );
    pods.remove(&pod);
    let heard = lab.heard(&mut plugin).into_iter();
    let heard: Vec<_> = heard
        .filter(|(_, about)| *about == id)
        .map(|(name, _)| name)
        .collect();
    let expected = [
        "CreateContainer",
        "ValidateContainerAdjustment",
        "PostCreateContainer",
        "StartContainer",
        "StopContainer",
        "RemoveContainer",
    ];
    assert_eq!(heard, expected);
    pods.assert_nothing_left();
}

fn a_plugin_that_hangs_is_dropped(env: &Env) {
    let lab = Lab::with(env, 1);
    let pods = &lab.pods;
    let plugin = lab.join("deaf", &[], |method, _| match method {
        "Synchronize" => nothing(),
        _ => Reply::Silence,
    });
    let before = Instant::now();
    let (pod, _, id) = lab.sleeper("one");
    // It cost its time once.
    assert!(
        before.elapsed() < Duration::from_secs(10),
        "{:?}",
        before.elapsed()
    );
    lab.runtime.block_on(plugin.end());
    assert_eq!(
        pods.status(&id).state(),
        cri::ContainerState::ContainerRunning
    );
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn limits_of_plugins_hold_beside_the_kubelet_s(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let (pod, of_pod, first) = lab.sleeper("one");
    let other = first.clone();
    let plugin = lab.join("limits", &[], move |method, payload| {
        let about = About::decode(payload).unwrap_or_default();
        let id = about.container.unwrap_or_default().id;
        match method {
            // Another one's, when one is made.
            "CreateContainer" => answer(&nri::CreateContainerResponse {
                update: vec![update(&other, memory(48 << 20))],
                ..Default::default()
            }),
            // Its own, when it is changed.
            "UpdateContainer" if id != other => answer(&nri::UpdateContainerResponse {
                update: vec![update(&id, memory(32 << 20))],
                ..Default::default()
            }),
            _ => nothing(),
        }
    });
    let second = lab.sleep(&pod, &of_pod, "second");
    assert_eq!(lab.memory(&first), (48 << 20).to_string());
    lab.update(
        &second,
        cri::LinuxContainerResources {
            memory_limit_in_bytes: 80 << 20,
            ..Default::default()
        },
    );
    assert_eq!(lab.memory(&second), (32 << 20).to_string());
    // The kubelet is told what it asked for.
    let told = pods.status(&second).resources.unwrap().linux.unwrap();
    assert_eq!(told.memory_limit_in_bytes, 80 << 20);
    // Without an event; one that is not there fails nothing, one that cannot be does.
    let ask = |update: nri::ContainerUpdate| {
        let request = nri::UpdateContainersRequest {
            update: vec![update],
            evict: Vec::new(),
        };
        let answer = self_call(&lab, &plugin, &request);
        nri::UpdateContainersResponse::decode(&answer[..])
            .unwrap()
            .failed
            .len()
    };
    assert_eq!(ask(update(&first, memory(40 << 20))), 0);
    assert_eq!(lab.memory(&first), (40 << 20).to_string());
    assert_eq!(ask(update("no-such-container", memory(1 << 20))), 0);
    assert_eq!(ask(update(&first, memory(-7))), 1);
    // It is remembered by another server.
    pods.node.kill();
    pods.node.start();
    lab.update(
        &first,
        cri::LinuxContainerResources {
            cpu_shares: 512,
            ..Default::default()
        },
    );
    assert_eq!(lab.memory(&first), (40 << 20).to_string());
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn self_call(lab: &Lab<'_>, plugin: &Plugin, request: &nri::UpdateContainersRequest) -> Vec<u8> {
    let answer = lab
        .runtime
        .block_on(plugin.call("UpdateContainers", request));
    answer.unwrap()
}

fn evicted_containers_end(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let (pod, of_pod, victim) = lab.sleeper("one");
    let whom = victim.clone();
    let _plugin = lab.join(
        "evicts",
        &[nri::Event::CreateContainer],
        move |method, _| match method {
            "CreateContainer" => answer(&nri::CreateContainerResponse {
                evict: vec![nri::ContainerEviction {
                    container_id: whom.clone(),
                    reason: "no room".to_owned(),
                }],
                ..Default::default()
            }),
            _ => nothing(),
        },
    );
    let next = lab.sleep(&pod, &of_pod, "next");
    let status = pods.status(&victim);
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert_eq!(status.exit_code, 137);
    assert_eq!(
        pods.status(&next).state(),
        cri::ContainerState::ContainerRunning
    );
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn another_server_tells_nothing_again(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let mut plugin = lab.join("all", &[], |_, _| nothing());
    let (pod, of_pod, runs) = lab.sleeper("one");
    let (_, ended) = pods.finish(&pod, &of_pod, &pods.container("ended", "exit 5"));
    let stopped = pods.run(&pods.pod("stopped"));
    pods.stop(&stopped);
    let before = lab.heard(&mut plugin);
    pods.node.kill();
    lab.runtime.block_on(plugin.end());
    pods.node.start();

    let state = Arc::new(Mutex::new(nri::SynchronizeRequest::default()));
    let told = Arc::clone(&state);
    let mut plugin = lab.join("all", &[], move |method, payload| {
        if method == "Synchronize" {
            *told.lock().unwrap() = nri::SynchronizeRequest::decode(payload).unwrap();
        }
        nothing()
    });
    lab.heard(&mut plugin);
    let state = state.lock().unwrap().clone();
    let mut there: Vec<_> = state.pods.iter().map(|pod| pod.id.clone()).collect();
    there.sort();
    let mut expected = vec![pod.clone(), stopped.clone()];
    expected.sort();
    assert_eq!(there, expected);
    let there: Vec<_> = state
        .containers
        .iter()
        .map(|one| (&*one.id, one.state()))
        .collect();
    assert_eq!(there, [(&*runs, nri::ContainerState::ContainerRunning)]);
    pods.remove(&stopped);
    pods.remove(&pod);
    let after = lab.heard(&mut plugin);
    let mut times: BTreeMap<(String, String), usize> = BTreeMap::new();
    for event in before.iter().chain(&after) {
        *times.entry(event.clone()).or_default() += 1;
    }
    times.retain(|(event, _), _| event.starts_with("Stop") || event.starts_with("Remove"));
    let mut expected = BTreeMap::new();
    for (kind, ids) in [
        ("Container", [&runs, &ended.id]),
        ("PodSandbox", [&pod, &stopped]),
    ] {
        for (event, id) in ["Stop", "Remove"]
            .iter()
            .flat_map(|event| ids.map(|id| (event, id)))
        {
            expected.insert((format!("{event}{kind}"), id.clone()), 1);
        }
    }
    assert_eq!(times, expected, "{before:?}\n{after:?}");
    pods.assert_nothing_left();
}

fn until(mut done: impl FnMut() -> bool, what: impl Fn() -> String) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "it takes too long: {}", what());
        std::thread::sleep(Duration::from_millis(5));
    }
}
