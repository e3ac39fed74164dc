//! The server's life: start, stop, kill, the socket, the service manager, its settings.

use crate::harness::cri::Node;
use crate::harness::store::{Image, archive, noise};
use crate::harness::{Env, Test, test};
use rcrun_cri::proto::v1 as cri;
use rcrun_image::registry::testing::Fault;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(the_socket_is_for_root_only),
        test!(one_server_for_a_socket),
        test!(killed_and_started_again),
        test!(killed_while_it_pulls),
        test!(stopped_by_a_signal),
        test!(a_socket_of_the_service_manager),
        test!(the_service_manager_is_told),
        test!(settings_are_shown_and_checked),
        test!(what_the_node_lacks),
        test!(an_idle_server_is_small),
        test!(no_descriptors_threads_or_memory_are_lost),
    ]
}

fn the_socket_is_for_root_only(env: &Env) {
    let node = Node::new(env);
    let found = std::fs::symlink_metadata(&node.socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o7777, 0o600);
    let parent = std::fs::metadata(node.socket.parent().unwrap()).unwrap();
    assert_eq!(parent.permissions().mode() & 0o7777, 0o700);
}

fn one_server_for_a_socket(env: &Env) {
    let node = Node::new(env);
    node.shelf
        .call(&["serve"])
        .fails()
        .says("another server listens there")
        .says("hint: stop it first");
    assert!(node.list().is_empty());
    // Another place is another server, of the same store.
    let other = env.path("run/other.sock");
    let listen = format!("unix://{}", other.display());
    let mut second = node.shelf.spawn(&["serve", "--listen", &listen]);
    while std::os::unix::net::UnixStream::connect(&other).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    second.child.kill().unwrap();
    second.child.wait().unwrap();
    // What is no socket is not replaced.
    std::fs::remove_file(&other).unwrap();
    std::fs::write(&other, "precious").unwrap();
    node.shelf
        .call(&["serve", "--listen", &listen])
        .fails()
        .says("a file that is no socket is there");
    assert_eq!(std::fs::read(&other).unwrap(), b"precious");
}

fn killed_and_started_again(env: &Env) {
    let node = Node::new(env);
    let image = node.shelf.publish("app", &Image::with_file("a", b"b"));
    let name = node.shelf.name("app");
    node.pull(&name);
    let before = node.list();
    for _ in 0..3 {
        node.kill();
        assert!(node.socket.exists(), "a killed server leaves its socket");
        node.start();
        assert_eq!(node.list(), before);
    }
    node.remove(&image.id);
    node.kill();
    node.start();
    assert!(node.list().is_empty());
}

fn killed_while_it_pulls(env: &Env) {
    let node = Node::new(env);
    let layer = archive(&[("big", &noise(4 << 20, 3))]);
    let image = node.shelf.publish("app", &Image::new(&[layer]));
    let (name, layer) = (node.shelf.name("app"), image.layers[0].to_string());
    for received in [0, 1 << 20, 3 << 20] {
        node.shelf
            .registry
            .fault("GET", &layer, 1, Fault::Stall(received));
        let mut client = node.images();
        let request = crate::harness::cri::pull(&name);
        let failed = node.wait(async {
            let pulling = tokio::spawn(async move { client.pull_image(request).await });
            tokio::time::sleep(Duration::from_millis(400)).await;
            node.signal(Signal::KILL);
            pulling.await.unwrap()
        });
        assert!(failed.is_err());
        node.kill();
        node.start();
        assert!(
            node.list().is_empty(),
            "an image that is not whole is not there"
        );
    }
    assert_eq!(node.pull(&name), image.id);
    assert_eq!(node.shelf.call(&["fsck", "-q"]).code, 0);
    // The leases of killed servers go with the next sweep.
    node.remove(&name);
    assert_eq!(node.shelf.counts(), (0, 0, 0));
}

fn stopped_by_a_signal(env: &Env) {
    let node = Node::new(env);
    for signal in [Signal::TERM, Signal::INT] {
        // A connection that is idle does not keep it.
        let _connection = node.connect();
        node.signal(signal);
        node.ended().ok();
        assert!(!node.socket.exists());
        node.start();
    }
    node.stop().ok().says("the server stops");
}

fn a_socket_of_the_service_manager(env: &Env) {
    let node = Node::prepare(env, Default::default());
    node.configure(json!({}));
    let path = env.path("activated.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let plain = node.shelf.command(&["serve"]);
    let script =
        "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=$HANDED; exec \"$0\" \"$@\"";
    let handed = |count: &str| {
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .arg(plain.get_program())
            .args(plain.get_args());
        command.envs(
            plain
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        command.env("HANDED", count);
        command.stdin(Stdio::from(std::os::fd::OwnedFd::from(
            listener.try_clone().unwrap(),
        )));
        command
    };
    let mut node = node;
    node.socket.clone_from(&path);
    node.start_by(handed("1"));
    assert!(node.list().is_empty());
    node.stop().ok();
    assert!(path.exists(), "the socket is the service manager's");
    // It starts again on the same socket.
    node.start_by(handed("1"));
    assert!(node.list().is_empty());
    node.stop().ok();
    let refused = node.shelf.env.rt.spawn(handed("2"));
    node.shelf
        .env
        .rt
        .finish(refused)
        .fails()
        .says("hands over 2 sockets");
}

fn the_service_manager_is_told(env: &Env) {
    let node = Node::prepare(env, Default::default());
    node.configure(json!({}));
    let path = env.path("notify");
    let name = env.unique();
    let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    for (manager, variable) in [
        (
            UnixDatagram::bind(&path).unwrap(),
            path.to_str().unwrap().to_owned(),
        ),
        (
            UnixDatagram::bind_addr(&address).unwrap(),
            format!("@{name}"),
        ),
    ] {
        manager
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut command = node.shelf.command(&["serve"]);
        command.env("NOTIFY_SOCKET", variable);
        node.start_by(command);
        let told = || {
            let mut buffer = [0; 64];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        assert_eq!(told(), "READY=1");
        node.stop().ok();
        assert_eq!(told(), "STOPPING=1");
    }
}

fn settings_are_shown_and_checked(env: &Env) {
    let node = Node::prepare(env, Default::default());
    let shown = |args: &[&str]| -> Value { node.shelf.call(args).ok().json() };
    let defaults = shown(&["serve", "--print-settings"]);
    assert_eq!(
        defaults["cri"],
        json!({
            "listen": "unix:///run/rcrun/cri.sock", "cgroup_driver": "auto", "pinned": [],
            "auth_file": null, "parallel_pulls": 8, "pull_progress_timeout": 300,
            "network": "cni", "cni_config": "/etc/cni/net.d", "cni_plugins": ["/opt/cni/bin"],
            "bridge": {
                "name": "rcrun0", "table": "rcrun", "v4": "10.137.0.0/16", "v6": null, "mtu": null,
            },
            "stream_address": "127.0.0.1", "stream_port": 0, "stream_tls": null, "stream_idle_timeout": 14_400,
            "metrics_address": "", "metrics_beyond_loopback": false,
            "nri": {
                "enable": false, "socket": "/var/run/nri/nri.sock", "plugin_path": "/opt/nri/plugins",
                "config_path": "/etc/nri/conf.d", "registration_timeout": 5, "request_timeout": 2,
            },
            "unprivileged_ports": true, "unprivileged_icmp": true,
            "criu": null, "restore": false,
        })
    );
    node.configure(json!({"parallel_pulls": 2}));
    let changed = shown(&["serve", "--print-settings"]);
    assert_eq!(changed["cri"]["parallel_pulls"], 2);
    assert_eq!(
        changed["cri"]["listen"],
        format!("unix://{}", node.socket.display())
    );
    for (section, words) in [
        (json!({"pined": []}), "unknown field `pined`"),
        (
            json!({"parallel_pulls": 0}),
            "cri.parallel_pulls is not in 1..=64",
        ),
        (json!({"pinned": ["A B"]}), "cri.pinned has a wrong name"),
    ] {
        node.configure(section);
        node.shelf.call(&["serve"]).fails().says(words);
        node.shelf
            .call(&["serve", "--print-settings"])
            .fails()
            .says(words);
    }
    node.configure(json!({}));
    for listen in ["tcp://127.0.0.1:1", "cri.sock", "unix://"] {
        node.shelf
            .call(&["serve", "--listen", listen])
            .fails()
            .says("write unix:///PATH");
    }
}

fn what_the_node_lacks(env: &Env) {
    let node = Node::prepare(env, Default::default());
    let said = node.shelf.call(&["serve", "--check"]);
    for subject in [
        "user",
        "kernel",
        "overlay",
        "cgroups",
        "user namespaces",
        "descriptors",
        "store",
        "streaming",
        "criu",
    ] {
        let line = said
            .stdout
            .lines()
            .find(|line| line[8..].trim().starts_with(subject));
        assert!(line.is_some(), "{subject}\n{said}");
    }
    assert_eq!(
        said.code,
        i32::from(said.stdout.contains("missing")),
        "{said}"
    );
    assert!(!node.shelf.path().exists(), "looking makes nothing");
    std::fs::create_dir_all(node.shelf.path()).unwrap();
    std::fs::write(node.shelf.path().join("version"), "{\"version\":99}").unwrap();
    let said = node.shelf.call(&["serve", "--check"]).exits(1);
    assert!(said.stdout.contains("missing  store"), "{said}");
}

/// Kilobytes of a line of a file in /proc.
fn kilobytes(pid: i32, file: &str, line: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let found = text.lines().find_map(|one| one.strip_prefix(line));
    let number = found.unwrap().trim().trim_end_matches(" kB").trim();
    number.parse().unwrap()
}

fn entries(pid: i32, directory: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/{directory}"))
        .unwrap()
        .count()
}

fn an_idle_server_is_small(env: &Env) {
    let node = Node::new(env);
    for _ in 0..20 {
        node.list();
    }
    std::thread::sleep(Duration::from_secs(3));
    let (private, threads) = (
        kilobytes(node.pid(), "smaps_rollup", "Anonymous:"),
        entries(node.pid(), "task"),
    );
    node.shelf
        .env
        .rt
        .note(&format!("{private} KiB of its own, {threads} threads\n"));
    assert!(private < 4096, "{private} KiB");
    assert!(threads <= 4, "{threads} threads");
}

fn no_descriptors_threads_or_memory_are_lost(env: &Env) {
    let rounds = if crate::harness::full() { 2000 } else { 100 };
    let node = Node::new(env);
    node.shelf.publish("app", &Image::with_file("a", b"b"));
    let name = node.shelf.name("app");
    let round = || {
        node.pull(&name);
        assert_eq!(node.list().len(), 1);
        node.refused(
            node.images()
                .pull_image(crate::harness::cri::pull(&node.shelf.name("none"))),
            tonic::Code::NotFound,
        );
        node.ok(node.runtime().version(cri::VersionRequest::default()));
        node.remove(&name);
    };
    let now = || {
        // Threads that block end after a while.
        std::thread::sleep(Duration::from_secs(3));
        let pid = node.pid();
        let memory = kilobytes(pid, "smaps_rollup", "Anonymous:");
        (entries(pid, "fd"), entries(pid, "task"), memory)
    };
    (0..20).for_each(|_| round());
    let before = now();
    (0..rounds).for_each(|_| round());
    let after = now();
    assert!(after.0 <= before.0 + 2, "descriptors: {before:?} {after:?}");
    assert!(after.1 <= before.1, "threads: {before:?} {after:?}");
    assert!(after.2 <= before.2 + 2048, "memory: {before:?} {after:?}");
}
