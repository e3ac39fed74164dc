//! What a kubelet 1.36 sent for nine kinds of pods (fixtures/kubelet/pods.jsonl), sent again in its order: each
//! request is answered, and the pods are as they were asked for.

use crate::harness::people::{layer, links};
use crate::harness::pods::Pods;
use crate::harness::{Env, Test, process, test};
use rcrun_cri::proto::json::read;
use rcrun_cri::proto::v1 as cri;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(a_critical_pod),
        test!(the_nodes_namespaces),
        test!(a_port_of_the_node),
        test!(what_the_image_says),
        test!(images_as_volumes),
        test!(many_containers_and_restarts).timeout(120),
        test!(security_contexts),
        test!(shared_processes),
        test!(users_of_the_pods_own),
    ]
}

/// Images that the recording names.
const ONE: &str = "sha256:a43baedb6a3a59cd4a82fbc5c5d96a51b434a00fa019085a444ff1bf29bc006a";
const TWO: &str = "sha256:0cd05da2fa0d669730bfbd84edf61e50be9a625a87c66702e893b3260353d2c6";
/// Applets that its containers call.
const APPLETS: [&str; 14] = [
    "bin/httpd",
    "bin/wget",
    "bin/mount",
    "bin/umount",
    "bin/stat",
    "bin/id",
    "bin/hostname",
    "bin/readlink",
    "bin/date",
    "bin/grep",
    "bin/touch",
    "bin/wc",
    "bin/mkdir",
    "bin/ls",
];

/// A recording that is played.
struct Player<'a> {
    pods: Pods<'a>,
    case: &'static str,
    /// Recorded identifiers, and what they are here.
    ids: HashMap<String, String>,
    lines: std::vec::IntoIter<Value>,
}

impl<'a> Player<'a> {
    fn new(env: &'a Env, case: &'static str) -> Self {
        let pods = Pods::new(env);
        let applets: Vec<_> = APPLETS.iter().map(|name| (*name, "busybox")).collect();
        let files = |version: &str| {
            let accounts: &[(&str, u32, &[u8])] = &[
                ("etc/version", 0o644, version.as_bytes()),
                (
                    "etc/passwd",
                    0o644,
                    b"root:x:0:0::/root:/bin/sh\nuser:x:1234:1234::/:/bin/sh\n",
                ),
                (
                    "etc/group",
                    0o644,
                    b"root:x:0:\nuser:x:1234:\nmore:x:4000:user\n",
                ),
            ];
            [layer(env, accounts), links(&applets)]
        };
        let plain = json!({"Env": ["PATH=/bin"]});
        let rich = json!({
            "Env": ["PATH=/bin", "FROM_IMAGE=yes"], "User": "user", "WorkingDir": "/work",
            "Volumes": {"/data": {}}, "StopSignal": "SIGUSR1",
        });
        let config = if case == "image" { rich } else { plain.clone() };
        let one = pods.image_of("busybox:1", &files("one\n"), config);
        let two = pods.image_of("busybox:2", &files("two\n"), plain);
        let text = include_str!("../../fixtures/kubelet/pods.jsonl");
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|line: &Value| line["case"] == case)
            .collect();
        assert!(lines.len() > 5);
        let mut ids = HashMap::from([(ONE.to_owned(), one.clone()), (TWO.to_owned(), two)]);
        if case == "image" {
            let create = lines
                .iter()
                .find(|line| line["m"] == "CreateContainer")
                .unwrap();
            let image = &create["req"]["config"]["image"]["image"];
            ids.insert(image.as_str().unwrap().to_owned(), one);
        }
        Self {
            pods,
            case,
            ids,
            lines: lines.into_iter(),
        }
    }

    /// The recorded request, of this machine.
    fn here(&self, value: &Value) -> Value {
        let mut text = value.to_string();
        for (recorded, here) in &self.ids {
            text = text.replace(recorded, here);
        }
        let lab = self.pods.env.path("lab");
        let text = text
            .replace("/LAB", lab.to_str().unwrap())
            .replace("/klab/kubepods", &format!("{}/kubepods", self.pods.cgroup));
        serde_json::from_str(&text).unwrap()
    }

    /// Plays until a request of this kind was answered, that one included; its identifier here.
    #[track_caller]
    fn until(&mut self, method: &str) -> String {
        loop {
            let line = self
                .lines
                .next()
                .unwrap_or_else(|| panic!("no {method} any more"));
            let id = self.play(&line);
            if line["m"] == method {
                return id;
            }
        }
    }

    /// Plays the rest; nothing is left.
    #[track_caller]
    fn rest(mut self) {
        while let Some(line) = self.lines.next() {
            self.play(&line);
        }
        // What a kubelet collects later.
        let list = cri::ListPodSandboxRequest::default();
        let left = self
            .pods
            .node
            .ok(self.pods.node.runtime().list_pod_sandbox(list));
        for pod in left.items {
            assert_eq!(pod.state(), cri::PodSandboxState::SandboxNotready);
            self.pods.remove(&pod.id);
        }
        self.pods.assert_nothing_left();
    }

    #[track_caller]
    fn play(&mut self, line: &Value) -> String {
        let request = self.here(&line["req"]);
        let (node, mut runtime) = (&self.pods.node, self.pods.node.runtime());
        let id = match line["m"].as_str().unwrap() {
            "RunPodSandbox" => {
                let request: cri::RunPodSandboxRequest = read("RunPodSandboxRequest", &request);
                node.ok(runtime.run_pod_sandbox(request)).pod_sandbox_id
            }
            "CreateContainer" => {
                let request: cri::CreateContainerRequest = read("CreateContainerRequest", &request);
                self.prepare(request.config.as_ref().unwrap());
                node.ok(runtime.create_container(request)).container_id
            }
            "StartContainer" => {
                let request: cri::StartContainerRequest = read("StartContainerRequest", &request);
                let id = request.container_id.clone();
                node.ok(runtime.start_container(request));
                self.settle(&id);
                id
            }
            "StopContainer" => {
                let request: cri::StopContainerRequest = read("StopContainerRequest", &request);
                let id = request.container_id.clone();
                node.ok(runtime.stop_container(request));
                let state = self.pods.status(&id).state();
                assert_eq!(state, cri::ContainerState::ContainerExited);
                id
            }
            "RemoveContainer" => {
                let request: cri::RemoveContainerRequest = read("RemoveContainerRequest", &request);
                node.ok(runtime.remove_container(request));
                String::new()
            }
            "StopPodSandbox" => {
                let request: cri::StopPodSandboxRequest = read("StopPodSandboxRequest", &request);
                let id = request.pod_sandbox_id.clone();
                node.ok(runtime.stop_pod_sandbox(request));
                let state = self.pods.pod_status(&id).state();
                assert_eq!(state, cri::PodSandboxState::SandboxNotready);
                id
            }
            "RemovePodSandbox" => {
                let request: cri::RemovePodSandboxRequest =
                    read("RemovePodSandboxRequest", &request);
                node.ok(runtime.remove_pod_sandbox(request));
                String::new()
            }
            other => panic!("{}: {other}", self.case),
        };
        if let Some(recorded) = line["id"].as_str() {
            self.ids.insert(recorded.to_owned(), id.clone());
        }
        id
    }

    /// What a kubelet makes before it creates a container: volumes, and files for it.
    fn prepare(&self, config: &cri::ContainerConfig) {
        for mount in &config.mounts {
            let path = Path::new(&mount.host_path);
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let file = name == "etc-hosts"
                || mount.container_path == "/dev/termination-log"
                || mount.container_path.ends_with("/file");
            if mount.host_path.is_empty() || path.exists() {
                continue;
            }
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match file {
                true => std::fs::write(path, "127.0.0.1 localhost\n").unwrap(),
                false => std::fs::create_dir(path).unwrap(),
            }
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::Permissions::from_mode(0o777);
            std::fs::set_permissions(path, mode).unwrap();
            if mount.propagation() == cri::MountPropagation::PropagationBidirectional {
                let mount = ["-t", "tmpfs", "shared"];
                let mounted = Command::new("mount").args(mount).arg(path).status();
                assert!(mounted.unwrap().success());
                let shared = Command::new("mount")
                    .arg("--make-shared")
                    .arg(path)
                    .status();
                assert!(shared.unwrap().success());
            }
        }
    }

    /// Waits for the `END` of a container that says so, or its end.
    fn settle(&self, id: &str) {
        let end = Instant::now() + Duration::from_secs(10);
        let config = self.lines_command(id);
        while config.contains("echo END") && !self.pods.log(&self.pods.status(id)).contains("END") {
            assert!(
                Instant::now() < end,
                "no END: {:?}",
                self.pods.log(&self.pods.status(id))
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The command line of a container, from its bundle.
    fn lines_command(&self, id: &str) -> String {
        let store = self.pods.node.shelf.path();
        let path = store.join("cri/containers").join(id).join("config.json");
        let config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        config["process"]["args"].to_string()
    }

    fn log(&self, id: &str) -> String {
        self.pods.log(&self.pods.status(id))
    }
}

fn a_critical_pod(env: &Env) {
    let mut player = Player::new(env, "crit");
    let id = player.until("StartContainer");
    // Asked for: -997. Without the right to it a process cannot have less than the server.
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let log = player.log(&id);
    assert!(
        log == "-997\nEND\n" || log == format!("{}\nEND\n", own.trim()),
        "{log}"
    );
    player.rest();
}

fn the_nodes_namespaces(env: &Env) {
    let mut player = Player::new(env, "hostns");
    let id = player.until("StartContainer");
    let log = player.log(&id);
    let own = |name: &str| {
        let link = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        link.to_str().unwrap().to_owned()
    };
    let expected: Vec<_> = ["net", "pid", "ipc", "uts"].map(own).into();
    assert_eq!(log.lines().take(4).collect::<Vec<_>>(), expected);
    player.rest();
}

fn a_port_of_the_node(env: &Env) {
    let mut player = Player::new(env, "hostport");
    let id = player.until("StartContainer");
    let config = player.lines_command(&id);
    assert!(config.contains("httpd"), "{config}");
    let get = || {
        let page = Command::new("busybox")
            .args(["wget", "-qO-", "http://127.0.0.1:18080/x"])
            .output();
        String::from_utf8(page.unwrap().stdout).unwrap()
    };
    let end = Instant::now() + Duration::from_secs(10);
    while get() != "via-hostport\n" {
        assert!(
            Instant::now() < end,
            "{}\n{}",
            player.pods.node.log(),
            process::table()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    player.rest();
}

fn what_the_image_says(env: &Env) {
    let mut player = Player::new(env, "image");
    let id = player.until("StartContainer");
    assert_eq!(player.log(&id), "1234\n/work\nyes\n1\nEND\n");
    let status = player.pods.status(&id);
    assert_eq!(status.stop_signal(), cri::Signal::Sigusr1);
    let user = status.user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid), (1234, 1234));
    player.until("StopContainer");
    let said = std::fs::read_to_string(env.path("lab/host/stop/stop")).unwrap();
    assert_eq!(said, "got-usr1\n");
    assert_eq!(player.pods.status(&id).exit_code, 0);
    player.rest();
}

fn images_as_volumes(env: &Env) {
    let mut player = Player::new(env, "imgvol");
    let id = player.until("StartContainer");
    let log = player.log(&id);
    // What is said of the read-only file comes on another stream, whenever.
    let said = |line: &&str| !line.starts_with("touch:");
    let lines: Vec<&str> = log.lines().filter(said).collect();
    assert_eq!(lines, ["two", "READONLY", "two", "END"]);
    let status = player.pods.status(&id);
    let images: Vec<_> = status
        .mounts
        .iter()
        .filter(|mount| mount.image.is_some())
        .collect();
    assert_eq!(images.len(), 2);
    assert!(
        images
            .iter()
            .all(|mount| mount.readonly && !mount.host_path.is_empty())
    );
    assert_eq!(images[1].image_sub_path, "etc");
    player.rest();
}

fn many_containers_and_restarts(env: &Env) {
    let mut player = Player::new(env, "main");
    let pod = player.until("RunPodSandbox");
    let cgroup = format!(
        "{}/kubepods/burstable/pod80f864b10efc378fa475f06e3f528924",
        player.pods.cgroup
    );
    let init = player.until("StartContainer");
    let status = player.pods.ended(&init);
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    let data = env.path(
        "lab/root/pods/80f864b10efc378fa475f06e3f528924/volumes/kubernetes.io~empty-dir/data",
    );
    assert_eq!(std::fs::read_to_string(data.join("ok")).unwrap(), "hello\n");
    assert_eq!(std::fs::read_to_string(data.join("id")).unwrap(), "0\n");
    player.until("StartContainer");
    let web = player.until("StartContainer");
    let parent = Path::new("/sys/fs/cgroup/memory").join(cgroup.trim_start_matches('/'));
    if parent.exists() {
        assert!(parent.join(&web).is_dir(), "{}", parent.display());
    }
    let store = player.pods.node.shelf.path();
    let config = store.join("cri/containers").join(&web).join("config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(config).unwrap()).unwrap();
    let env_of: Vec<_> = config["process"]["env"].as_array().unwrap().clone();
    assert!(
        env_of.contains(&json!("PLAIN=a b$(KUBE_NODE)c")),
        "{env_of:?}"
    );
    let peer = player.until("StartContainer");
    let end = Instant::now() + Duration::from_secs(10);
    while !player.log(&peer).contains("hello") {
        assert!(Instant::now() < end, "{}", player.log(&peer));
        std::thread::sleep(Duration::from_millis(20));
    }
    let ip = player.pods.pod_status(&pod).network.unwrap().ip;
    assert!(ip.starts_with("10.137."));
    player.rest();
}

fn security_contexts(env: &Env) {
    let mut player = Player::new(env, "sec");
    let id = player.until("StartContainer");
    let log = player.log(&id);
    // What is said of the read-only root comes on another stream, whenever.
    let said = |line: &&str| !line.starts_with("touch:");
    let lines: Vec<&str> = log.lines().filter(said).collect();
    let log = lines.join("\n");
    let id_line = lines[0];
    assert!(id_line.starts_with("uid=1000 gid=1001"), "{id_line}");
    assert!(
        id_line.contains("2000") && id_line.contains("3000"),
        "{id_line}"
    );
    let field = |name: &str| {
        let line = lines.iter().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    // Nothing effective for one who is not root; to be had: NET_BIND_SERVICE.
    assert_eq!(field("CapEff:"), "0000000000000000");
    assert_eq!(field("CapBnd:"), "0000000000000400");
    assert_eq!(
        (field("NoNewPrivs:"), field("Seccomp:")),
        ("1".to_owned(), "2".to_owned())
    );
    assert!(!log.contains("ROOTFS-WRITABLE"), "{log}");
    assert!(log.ends_with("\n0\n1\nEND"), "{log}");
    let privileged = player.until("StartContainer");
    let log = player.log(&privileged);
    assert!(log.contains("MOUNTED\nEND\n"), "{log}");
    // What it mounts is seen by the node.
    assert!(env.path("lab/host/prop/sub/inside").exists());
    player.rest();
    let _ = Command::new("umount")
        .arg(env.path("lab/host/prop"))
        .status();
}

fn shared_processes(env: &Env) {
    let mut player = Player::new(env, "sharedpid");
    player.until("StartContainer");
    let second = player.until("StartContainer");
    let pid = player.pods.pid(&second);
    let seen: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/root/proc"))
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path().join("cmdline");
            let line = std::fs::read_to_string(path).ok()?;
            Some(line.replace('\0', " ").trim().to_owned())
        })
        .collect();
    for line in ["sleep 77777", "sleep 88888"] {
        assert!(seen.iter().any(|one| one == line), "{seen:?}");
    }
    player.rest();
}

fn users_of_the_pods_own(env: &Env) {
    let mut player = Player::new(env, "userns");
    let id = player.until("StartContainer");
    let log = player.log(&id);
    let map: Vec<&str> = log.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(map, ["0", "146735104", "65536"]);
    assert!(log.ends_with("\n0\n0\nEND\n"), "{log}");
    player.rest();
}
