//! Configurations, and plugins that are scripts; real ones where this machine has them.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::lab::{Pod, call, outside, world};
use crate::request::{Port, Protocol};

#[test]
fn configurations_are_read_or_refused() {
    let parse = |text: &str| Configuration::parse(text.as_bytes());
    for (text, version, plugins) in [
        (
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"a"},{"type":"b"}]}"#,
            "1.0.0",
            2,
        ),
        (
            r#"{"cniVersion":"0.3.1","name":"n","type":"a"}"#,
            "0.3.1",
            1,
        ),
        (
            r#"{"cniVersions":["0.4.0","1.1.0","9.0.0"],"name":"n","type":"a"}"#,
            "1.1.0",
            1,
        ),
        (
            r#"{"cniVersion":"9.9.9","cniVersions":["0.4.0"],"name":"n","type":"a"}"#,
            "0.4.0",
            1,
        ),
        (
            r#"{"cniVersion":"1.1.0","name":"n","disableGC":"True"}"#,
            "1.1.0",
            0,
        ),
    ] {
        let read = parse(text).unwrap();
        assert_eq!(
            (&*read.version, read.plugins.len()),
            (version, plugins),
            "{text}"
        );
    }
    for text in [
        "",
        "[]",
        "{}",
        r#"{"name":"n","type":"a"}"#,
        r#"{"cniVersion":"0.2.0","name":"n","type":"a"}"#,
        r#"{"cniVersion":"2.0.0","name":"n","type":"a"}"#,
        r#"{"cniVersion":"1.0.0","name":"../n","type":"a"}"#,
        r#"{"cniVersion":"1.0.0","type":"a"}"#,
        r#"{"cniVersion":"1.0.0","name":"n","type":"../a"}"#,
        r#"{"cniVersion":"1.0.0","name":"n","type":".."}"#,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":{}}"#,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[7]}"#,
        r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#,
        r#"{"cniVersion":"1.0.0","name":"n","loadOnlyInlinedPlugins":true}"#,
        r#"{"cniVersion":"1.0.0","name":"n","disableCheck":7,"type":"a"}"#,
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
}

/// Directories, and a plugin that writes down what it is told and then does what `behaviour` says.
struct Stage {
    directory: tempfile::TempDir,
    plugins: Plugins,
}

const NOTE: &str = r#"#!/bin/sh
D=$(dirname "$0"); told=$(cat)
printf '%s %s %s netns=%s args=%s %s\n' "$(basename $0)" "$CNI_COMMAND" "$CNI_IFNAME" "$CNI_NETNS" "$CNI_ARGS" "$told" >> $D/log
"#;

impl Stage {
    fn new(version: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(at("net.d/n")).unwrap();
        std::fs::create_dir(at("bin")).unwrap();
        let list = format!(
            r#"{{"cniVersion":"{version}","name":"n","plugins":[{{"type":"one","keep":[1]}},
                {{"type":"two","capabilities":{{"portMappings":true,"dns":false}}}}]}}"#
        );
        std::fs::write(at("net.d/10-n.conflist"), list).unwrap();
        std::fs::write(at("net.d/05-broken.conf"), "{").unwrap();
        let plugins = Plugins::new(&at("net.d"), &[at("bin")], &at("cache"));
        let stage = Self { directory, plugins };
        for name in ["one", "two"] {
            stage.plugin(name, &format!(r#"echo '{{"cniVersion":"{version}","ips":[{{"address":"10.0.0.5/24"}}],"dns":{{"domain":"{name}"}}}}'"#));
        }
        stage
    }

    fn plugin(&self, name: &str, behaviour: &str) {
        let path = self.directory.path().join("bin").join(name);
        std::fs::write(&path, format!("{NOTE}{behaviour}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What was noted since the last call.
    fn log(&self) -> Vec<String> {
        let path = self.directory.path().join("bin/log");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _ = std::fs::remove_file(&path);
        text.lines().map(str::to_owned).collect()
    }
}

fn request(pod: &Pod) -> Request<'_> {
    let mut request = pod.request();
    request.pod = Some(crate::request::Pod {
        name: "web",
        namespace: "default",
        uid: "u1",
    });
    request.ports = vec![Port {
        host: 8080,
        container: 80,
        protocol: Protocol::Tcp,
        address: None,
    }];
    request
}

#[test]
fn plugins_are_told_what_the_specification_says() {
    world(|| {
        let stage = Stage::new("1.1.0");
        let pod = Pod::new("c1");
        let request = request(&pod);
        assert_eq!(stage.plugins.readiness(), Readiness::ready());
        assert_eq!(stage.log().len(), 2);
        let outcome = stage.plugins.add(&request).unwrap();
        assert_eq!(outcome.dns.domain, "two");
        let log = stage.log();
        assert!(log[0].starts_with("one ADD eth0 netns=/proc/"), "{log:?}");
        let arguments = "args=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;\
                         K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u1 ";
        assert!(
            log[0].contains(arguments) && log[0].contains(r#""keep":[1]"#),
            "{log:?}"
        );
        assert!(
            !log[0].contains("prevResult") && !log[0].contains("runtimeConfig"),
            "{log:?}"
        );
        assert!(log[1].contains(r#""domain":"one""#) && log[1].contains(r#""hostPort":8080"#));
        assert!(!log[1].contains("capabilities"), "{log:?}");
        stage.plugins.check(&request).unwrap();
        assert!(stage.log()[1].contains(r#""domain":"two""#));
        // After a restart, when the configuration is gone.
        std::fs::remove_file(stage.directory.path().join("net.d/10-n.conflist")).unwrap();
        assert_eq!(stage.plugins.readiness().reason, "NetworkPluginNotReady");
        assert!(
            stage
                .plugins
                .readiness()
                .message
                .contains("cni plugin not initialized")
        );
        stage.plugins.remove(&pod.key(), None).unwrap();
        let log = stage.log();
        assert!(
            log[0].starts_with("two DEL") && log[1].starts_with("one DEL"),
            "{log:?}"
        );
        assert!(log[1].contains(r#""domain":"two""#), "{log:?}");
        stage.plugins.remove(&pod.key(), None).unwrap();
        assert!(stage.log().is_empty());
        let loopback = pod.enter(|| crate::bridge::tests::link("lo").unwrap().up);
        assert!(loopback);
    });
}

#[test]
fn garbage_goes_and_valid_attachments_are_named() {
    world(|| {
        let stage = Stage::new("1.1.0");
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        stage.plugins.add(&request(&a)).unwrap();
        stage.plugins.add(&request(&b)).unwrap();
        stage.log();
        stage.plugins.collect(&[a.key()]).unwrap();
        let log = stage.log();
        let commands: Vec<_> = log.iter().map(|l| l.split(' ').nth(1).unwrap()).collect();
        assert_eq!(commands, ["DEL", "DEL", "GC", "GC"]);
        let valid = r#""cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#;
        assert!(log[2].contains(valid), "{log:?}");
        assert_eq!(
            stage.plugins.versions("one").unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    });
}

#[test]
fn errors_of_plugins_have_kinds_and_words() {
    world(|| {
        let stage = Stage::new("1.0.0");
        let pod = Pod::new("c1");
        for (behaviour, kind, words) in [
            (
                r#"echo '{"code":11,"msg":"later","details":"no ip"}'; exit 1"#,
                ErrorKind::Busy,
                "later: no ip",
            ),
            (
                r#"echo '{"code":7,"msg":"bad"}'; exit 1"#,
                ErrorKind::InvalidInput,
                "bad (code 7)",
            ),
            (
                r#"echo '{"code":50,"msg":"x"}'; exit 1"#,
                ErrorKind::Unavailable,
                "x (code 50)",
            ),
            (
                r#"echo '{"code":100,"msg":"own"}'; exit 1"#,
                ErrorKind::Internal,
                "own",
            ),
            ("echo oops >&2; exit 2", ErrorKind::Internal, "oops"),
            ("kill -9 $$", ErrorKind::Internal, "signal: 9"),
            ("echo nonsense", ErrorKind::InvalidInput, "no JSON"),
            ("echo 7", ErrorKind::InvalidInput, "no object"),
        ] {
            stage.plugin("two", behaviour);
            let error = stage.plugins.add(&request(&pod)).unwrap_err();
            assert_eq!(error.kind(), kind, "{error:?}");
            assert!(error.chain().to_string().contains(words), "{error:?}");
        }
        stage.plugin("two", r#"echo '{"code":3,"msg":"who"}'; exit 1"#);
        stage.plugins.remove(&pod.key(), None).unwrap();
        std::fs::remove_file(stage.directory.path().join("bin/two")).unwrap();
        assert_eq!(
            stage.plugins.add(&request(&pod)).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn attack_plugins_that_hang_or_flood() {
    world(|| {
        let mut stage = Stage::new("1.0.0");
        stage.plugins = stage.plugins.patience(Duration::from_secs(2));
        let pod = Pod::new("c1");
        let pids = stage.directory.path().join("bin/pid");
        stage.plugin("one", "echo stuck >&2; sleep 1000 & echo $! > $D/pid; wait");
        let error = stage.plugins.add(&request(&pod)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline);
        assert!(error.chain().to_string().contains("stuck"), "{error:?}");
        let pid = std::fs::read_to_string(&pids).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        let alive = || state().is_ok_and(|s| !s.contains(") Z"));
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while alive() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(!alive(), "what the plugin started lives on");
        stage.plugin("one", "yes");
        let error = stage.plugins.add(&request(&pod)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error:?}");
        // One that leaves a program with its pipes behind has ended all the same.
        stage.plugin("one", "sleep 3 & echo '{}'");
        stage.plugins.add(&request(&pod)).unwrap();
    });
}

#[test]
fn a_plugin_without_its_caller_ends_before_its_work_is_undone() {
    world(|| {
        let stage = Stage::new("1.0.0");
        let (pod, other) = (Pod::new("left1"), Pod::new("left2"));
        let left = |pod: &Pod, command: &str| {
            let mut program = std::process::Command::new("sleep");
            program.arg("1000").env("CNI_COMMAND", command);
            let key = request(pod).key;
            program.env("CNI_CONTAINERID", key.id());
            program.env("CNI_IFNAME", key.interface()).spawn().unwrap()
        };
        let mut connects = left(&pod, "ADD");
        let mut others = [left(&other, "ADD"), left(&pod, "CHECK")];
        let (key, namespace) = (request(&pod).key, request(&pod).namespace);
        stage.plugins.remove(&key, Some(&namespace)).unwrap();
        assert!(connects.try_wait().unwrap().is_some());
        for child in &mut others {
            assert_eq!(child.try_wait().unwrap(), None);
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // What a plugin left running that did its work is not touched.
        stage.plugins.add(&request(&pod)).unwrap();
        let mut helper = left(&pod, "ADD");
        stage.plugins.remove(&key, Some(&namespace)).unwrap();
        assert_eq!(helper.try_wait().unwrap(), None);
        helper.kill().unwrap();
        helper.wait().unwrap();
    });
}

#[test]
fn changes_of_configurations_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let net = directory.path().join("a/net.d");
    let plugins = Plugins::new(&net, &[], directory.path());
    let mut watch = plugins.watch().unwrap();
    assert!(!watch.changed().unwrap());
    std::fs::create_dir_all(&net).unwrap();
    while watch.changed().unwrap() {}
    std::fs::write(net.join("1.conf"), "{}").unwrap();
    let mut polled = [rustix::event::PollFd::new(
        &watch,
        rustix::event::PollFlags::IN,
    )];
    assert_eq!(rustix::event::poll(&mut polled, None).unwrap(), 1);
    assert!(watch.changed().unwrap());
    assert!(watch.as_fd().try_clone_to_owned().is_ok());
}

/// The directory with the reference plugins, if this machine has them.
pub(crate) fn reference() -> Option<PathBuf> {
    let named = std::env::var_os("RCRUN_TEST_CNI").map(PathBuf::from);
    let places = ["/usr/lib/cni", "/opt/cni/bin"].map(PathBuf::from);
    let all = named.into_iter().chain(places);
    let found = all
        .into_iter()
        .find(|at| at.join("bridge").exists() && at.join("portmap").exists());
    if found.is_none() {
        println!("skipped: no CNI plugins (RCRUN_TEST_CNI, /usr/lib/cni, /opt/cni/bin)");
    }
    found
}

/// The reference plugins' bridge.
pub(crate) fn reference_bridge(at: &Path, programs: PathBuf) -> Plugins {
    std::fs::create_dir_all(at.join("net.d")).unwrap();
    let leases = at.join("leases");
    let list = json!({"cniVersion": "1.0.0", "name": "reference", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": leases, "routes": [{"dst": "0.0.0.0/0"}],
                  "ranges": [[{"subnet": "10.85.0.0/16"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]});
    std::fs::write(at.join("net.d/1.conflist"), list.to_string()).unwrap();
    Plugins::new(&at.join("net.d"), &[programs], &at.join("cache"))
}

#[test]
fn reference_plugins_connect_pods_as_the_bridge_does() {
    let Some(programs) = reference() else { return };
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let out = outside();
        let plugins = reference_bridge(directory.path(), programs);
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        let request = request(&a);
        let outcome = plugins.add(&request).unwrap();
        plugins.add(&b.request()).unwrap();
        // Debian's portmap looks for rules of IPv6 that it did not make, where there are ports.
        plugins.check(&b.request()).unwrap();
        let address = outcome.addresses().next().unwrap();
        a.serve("[::]:80");
        out.serve("[::]:82");
        assert!(b.enter(|| call(&format!("{address}:80"))).is_some());
        assert!(call(&format!("{address}:80")).is_some());
        assert_eq!(
            a.enter(|| call("192.0.2.2:82")),
            Some([192, 0, 2, 1].into())
        );
        assert_eq!(
            out.enter(|| call("192.0.2.1:8080")),
            Some([192, 0, 2, 2].into())
        );
        assert!(call("127.0.0.1:8080").is_some());
        assert!(a.enter(|| call("192.0.2.1:8080")).is_some());
        plugins.remove(&a.key(), None).unwrap();
        plugins.collect(&[]).unwrap();
        let leases = std::fs::read_dir(directory.path().join("leases/reference")).unwrap();
        let names = leases.map(|e| e.unwrap().file_name().into_string().unwrap());
        let left: Vec<_> = names.filter(|n| n.starts_with("10.")).collect();
        assert!(left.is_empty(), "{left:?}");
    });
}
