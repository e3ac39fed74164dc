//! A node with NRI, and plugins: those of rcrun-nri's own tests, frames and calls written anew, on a thread of their
//! own.

use super::pods::Pods;
use super::{Env, cgroup};
use plugin::{Plugin, Reply, UNKNOWN, answer, nothing};
use prost::Message;
use rcrun_cri::proto::v1 as cri;
use rcrun_nri::proto::v1alpha1 as nri;
use serde_json::json;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[path = "../../cri/nri/tests/plugin/mod.rs"]
pub(crate) mod plugin;

/// Methods, and whom they are about.
pub(crate) type Events = Vec<(String, String)>;

/// A node with NRI, and a thread for plugins.
pub(crate) struct Lab<'a> {
    pub(crate) pods: Pods<'a>,
    pub(crate) socket: PathBuf,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl<'a> Lab<'a> {
    pub(crate) fn new(env: &'a Env) -> Self {
        // A machine that is busy is no plugin that is slow.
        Self::with(env, 30)
    }

    pub(crate) fn with(env: &'a Env, seconds: u64) -> Self {
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
    pub(crate) fn join(
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

    /// A plugin that wants this of every container.
    pub(crate) fn adjusting(&self, name: &str, adjust: nri::ContainerAdjustment) -> Plugin {
        let wanted = nri::CreateContainerResponse {
            adjust: Some(adjust),
            ..Default::default()
        };
        self.join(
            name,
            &[nri::Event::CreateContainer],
            move |method, _| match method {
                "CreateContainer" => answer(&wanted),
                _ => nothing(),
            },
        )
    }

    /// A pod with one container that sleeps.
    pub(crate) fn sleeper(&self, name: &str) -> (String, cri::PodSandboxConfig, String) {
        let of_pod = self.pods.pod(name);
        let pod = self.pods.run(&of_pod);
        let id = self.sleep(&pod, &of_pod, "c");
        (pod, of_pod, id)
    }

    pub(crate) fn sleep(&self, pod: &str, of_pod: &cri::PodSandboxConfig, name: &str) -> String {
        let config = self.pods.container(name, "exec sleep 1000");
        let id = self.pods.create(pod, &config, of_pod);
        self.pods.start(&id);
        id
    }

    /// What a plugin heard, with whom it was about.
    pub(crate) fn heard(&self, plugin: &mut Plugin) -> Events {
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

    pub(crate) fn update(&self, id: &str, linux: cri::LinuxContainerResources) {
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
    pub(crate) fn memory(&self, id: &str) -> String {
        let pid = self.pods.pid(id);
        let (root, controller, file) = match cgroup::v1("memory") {
            Some(root) => (root, "memory", "memory.limit_in_bytes"),
            None => (PathBuf::from("/sys/fs/cgroup"), "", "memory.max"),
        };
        let path = cgroup::of_process(pid, controller).unwrap();
        read(&root.join(path.trim_start_matches('/')), file)
    }
}

pub(crate) fn read(directory: &std::path::Path, file: &str) -> String {
    let text = std::fs::read_to_string(directory.join(file));
    text.unwrap_or_else(|error| panic!("{}/{file}: {error}", directory.display()))
        .trim()
        .to_owned()
}

/// The parts that all requests have in common.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct About {
    #[prost(message, optional, tag = "1")]
    pub(crate) pod: Option<nri::PodSandbox>,
    #[prost(message, optional, tag = "2")]
    pub(crate) container: Option<nri::Container>,
}

/// Requests as they came, with what they are about.
pub(crate) type Seen = Arc<Mutex<Vec<(String, About)>>>;

/// Keeps all requests, and has nothing to say.
pub(crate) fn watch(seen: &Seen) -> impl FnMut(&str, &[u8]) -> Reply + Send + 'static {
    let seen = Arc::clone(seen);
    move |method, payload| {
        if method != "Synchronize" && method != "Shutdown" {
            let about = About::decode(payload).unwrap();
            seen.lock().unwrap().push((method.to_owned(), about));
        }
        nothing()
    }
}

pub(crate) fn find(seen: &Seen, method: &str, id: &str) -> About {
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

pub(crate) fn refuse(event: &'static str) -> impl FnMut(&str, &[u8]) -> Reply + Send + 'static {
    move |method, _| match method == event {
        true => Reply::Refuse(UNKNOWN, "not today"),
        false => nothing(),
    }
}

pub(crate) fn key(name: &str, value: &str) -> nri::KeyValue {
    nri::KeyValue {
        key: name.to_owned(),
        value: value.to_owned(),
    }
}

pub(crate) fn self_call(
    lab: &Lab<'_>,
    plugin: &Plugin,
    request: &nri::UpdateContainersRequest,
) -> Vec<u8> {
    let answer = lab
        .runtime
        .block_on(plugin.call("UpdateContainers", request));
    answer.unwrap()
}

pub(crate) fn until(mut done: impl FnMut() -> bool, what: impl Fn() -> String) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "it takes too long: {}", what());
        std::thread::sleep(Duration::from_millis(5));
    }
}
