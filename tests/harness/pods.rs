//! Pods and containers over the CRI's socket, as a kubelet makes them.

use super::Env;
use super::cri::{Node, pull, spec};
use super::people::layer;
use super::store::Image;
use rcrun_cri::proto::v1 as cri;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long something may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node with the embedded network and the image `app`, of the base root file system.
pub(crate) struct Pods<'a> {
    pub(crate) node: Node<'a>,
    pub(crate) env: &'a Env,
    /// Below which pods' cgroups are.
    pub(crate) cgroup: String,
}

impl<'a> Pods<'a> {
    pub(crate) fn new(env: &'a Env) -> Self {
        Self::with(env, &json!({}))
    }

    /// With this beside the section's usual settings.
    pub(crate) fn with(env: &'a Env, more: &Value) -> Self {
        let node = Node::prepare(env, Default::default());
        let mut section = json!({"network": "bridge", "cgroup_driver": "cgroupfs"});
        for (name, value) in more.as_object().into_iter().flatten() {
            section[name] = value.clone();
        }
        node.configure(section);
        node.start();
        let pods = Self {
            node,
            env,
            cgroup: format!("/{}", env.tag),
        };
        pods.image(
            "app",
            json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "A=image"]}),
        );
        pods
    }

    /// Publishes and pulls an image; its identifier.
    pub(crate) fn image(&self, name: &str, config: Value) -> String {
        self.image_of(name, &[layer(self.env, &[])], config)
    }

    pub(crate) fn image_of(&self, name: &str, layers: &[Vec<u8>], config: Value) -> String {
        let mut image = Image::new(layers);
        image.config = config;
        self.node.shelf.publish(name, &image);
        let request = pull(&self.node.shelf.name(name));
        self.node
            .ok(self.node.images().pull_image(request))
            .image_ref
    }

    /// A pod's configuration, with logs in a directory of the test.
    pub(crate) fn pod(&self, name: &str) -> cri::PodSandboxConfig {
        cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            hostname: name.to_owned(),
            log_directory: self.logs(name).display().to_string(),
            labels: [("app".to_owned(), name.to_owned())].into(),
            annotations: [("note".to_owned(), format!("of {name}"))].into(),
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/{name}", self.cgroup),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(cri::NamespaceOption {
                        pid: cri::NamespaceMode::Container.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The same in the node's network, for kernels without nf_tables.
    pub(crate) fn without_network(&self, name: &str) -> cri::PodSandboxConfig {
        let mut config = self.pod(name);
        config.hostname.clear();
        let options = &mut pod_security(&mut config).namespace_options;
        options.get_or_insert_default().network = cri::NamespaceMode::Node.into();
        config
    }

    /// Where a pod's logs are.
    pub(crate) fn logs(&self, pod: &str) -> PathBuf {
        self.env.path("logs").join(pod)
    }

    #[track_caller]
    pub(crate) fn run(&self, config: &cri::PodSandboxConfig) -> String {
        let request = cri::RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let answer = self.node.ok(self.node.runtime().run_pod_sandbox(request));
        answer.pod_sandbox_id
    }

    #[track_caller]
    pub(crate) fn stop(&self, pod: &str) {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.node.ok(self.node.runtime().stop_pod_sandbox(request));
    }

    #[track_caller]
    pub(crate) fn remove(&self, pod: &str) {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        self.node
            .ok(self.node.runtime().remove_pod_sandbox(request));
    }

    #[track_caller]
    pub(crate) fn pod_status(&self, pod: &str) -> cri::PodSandboxStatus {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: pod.to_owned(),
            verbose: false,
        };
        let answer = self
            .node
            .ok(self.node.runtime().pod_sandbox_status(request));
        answer.status.unwrap()
    }

    /// A container's configuration: a shell with this script.
    pub(crate) fn container(&self, name: &str, script: &str) -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            image: spec(&self.node.shelf.name("app")),
            command: ["sh", "-c", script].map(str::to_owned).into(),
            labels: [("container".to_owned(), name.to_owned())].into(),
            log_path: format!("{name}.log"),
            linux: Some(cri::LinuxContainerConfig::default()),
            ..Default::default()
        }
    }

    #[track_caller]
    pub(crate) fn create(
        &self,
        pod: &str,
        config: &cri::ContainerConfig,
        of_pod: &cri::PodSandboxConfig,
    ) -> String {
        let request = creation(pod, config, of_pod);
        self.node
            .ok(self.node.runtime().create_container(request))
            .container_id
    }

    #[track_caller]
    pub(crate) fn start(&self, container: &str) {
        let request = cri::StartContainerRequest {
            container_id: container.to_owned(),
        };
        self.node.ok(self.node.runtime().start_container(request));
    }

    /// Runs a script to its end in a pod that is there; what it logged, and its status.
    #[track_caller]
    pub(crate) fn finish(
        &self,
        pod: &str,
        of_pod: &cri::PodSandboxConfig,
        config: &cri::ContainerConfig,
    ) -> (String, cri::ContainerStatus) {
        let id = self.create(pod, config, of_pod);
        self.start(&id);
        let status = self.ended(&id);
        (self.log(&status), status)
    }

    #[track_caller]
    pub(crate) fn status(&self, container: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest {
            container_id: container.to_owned(),
            verbose: false,
        };
        self.node
            .ok(self.node.runtime().container_status(request))
            .status
            .unwrap()
    }

    /// Waits for a container's end.
    #[track_caller]
    pub(crate) fn ended(&self, container: &str) -> cri::ContainerStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status(container);
            if status.state() == cri::ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < end, "{status:?}\n{}", self.node.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A container's first process.
    #[track_caller]
    pub(crate) fn pid(&self, container: &str) -> i32 {
        let request = cri::ContainerStatusRequest {
            container_id: container.to_owned(),
            verbose: true,
        };
        let answer = self.node.ok(self.node.runtime().container_status(request));
        let info: Value = serde_json::from_str(&answer.info["info"]).unwrap();
        i32::try_from(info["pid"].as_i64().unwrap()).unwrap()
    }

    /// The text of a container's log.
    pub(crate) fn log(&self, status: &cri::ContainerStatus) -> String {
        let text = std::fs::read_to_string(&status.log_path).unwrap_or_default();
        let texts = text.lines().map(|line| {
            let mut fields = line.splitn(4, ' ').skip(2);
            let whole = fields.next() == Some("F");
            let text = fields.next().unwrap_or_default();
            format!("{text}{}", if whole { "\n" } else { "" })
        });
        texts.collect()
    }

    #[track_caller]
    pub(crate) fn stop_container(&self, container: &str, timeout: i64) {
        let request = cri::StopContainerRequest {
            container_id: container.to_owned(),
            timeout,
        };
        self.node.ok(self.node.runtime().stop_container(request));
    }

    #[track_caller]
    pub(crate) fn remove_container(&self, container: &str) {
        let request = cri::RemoveContainerRequest {
            container_id: container.to_owned(),
        };
        self.node.ok(self.node.runtime().remove_container(request));
    }

    /// Nothing of any pod is left: no directory, namespace, mount, snapshot, address or state.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        let store = self.node.shelf.path();
        let root = self.env.rt.root.join(".cri");
        for directory in [
            store.join("cri/pods"),
            store.join("cri/containers"),
            store.join("snapshots"),
            root.join("pods"),
            root.join("run"),
        ] {
            let left: Vec<_> = std::fs::read_dir(&directory)
                .map(|all| all.map(|entry| entry.unwrap().file_name()).collect())
                .unwrap_or_default();
            let left: Vec<_> = left
                .into_iter()
                .filter(|name| name != ".monitors")
                .collect();
            assert!(
                left.is_empty(),
                "{}: {left:?}\n{}",
                directory.display(),
                self.node.log()
            );
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("nsfs"), "{mounts}");
        let links = std::process::Command::new("ip")
            .args(["-o", "link"])
            .output()
            .unwrap();
        let links = String::from_utf8_lossy(&links.stdout).into_owned();
        assert!(!links.contains("rcrun0v"), "{links}");
    }
}

impl Drop for Pods<'_> {
    fn drop(&mut self) {
        // As a kubelet does.
        super::cgroup::remove_empty_children(&self.env.tag);
    }
}

/// A request for a container.
pub(crate) fn creation(
    pod: &str,
    config: &cri::ContainerConfig,
    of_pod: &cri::PodSandboxConfig,
) -> cri::CreateContainerRequest {
    cri::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(config.clone()),
        sandbox_config: Some(of_pod.clone()),
    }
}

/// The security context of a container, to be filled in.
pub(crate) fn security(
    config: &mut cri::ContainerConfig,
) -> &mut cri::LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

/// The security context of a pod, to be filled in.
pub(crate) fn pod_security(
    config: &mut cri::PodSandboxConfig,
) -> &mut cri::LinuxSandboxSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}
