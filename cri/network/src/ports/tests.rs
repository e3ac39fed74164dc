//! Ports of the host among two bridges and plugins: each test in a host of its own.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::lab::{Pod, Server, world};
use crate::{Network, Plugins, Protocol, bridge::Settings};

/// Everything below one root, on one machine.
struct Host {
    directory: tempfile::TempDir,
}

const WAYS: [&str; 3] = ["container", "pod", "plugins"];

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = Self { directory };
        for name in ["net.d", "bin"] {
            std::fs::create_dir(host.at(name)).unwrap();
        }
        host.configure(true);
        let plugin = host.at("bin/script");
        let text = "#!/bin/sh\ncat > /dev/null\n[ $CNI_COMMAND = ADD ] && echo '{\"cniVersion\":\"1.0.0\"}'\nexit 0\n";
        std::fs::write(&plugin, text).unwrap();
        std::fs::set_permissions(&plugin, PermissionsExt::from_mode(0o755)).unwrap();
        host
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn configure(&self, ports: bool) {
        let list = serde_json::json!({"cniVersion": "1.0.0", "name": "n", "plugins": [
            {"type": "script", "capabilities": {"portMappings": ports}},
        ]});
        std::fs::write(self.at("net.d/1.conflist"), list.to_string()).unwrap();
    }

    fn root(&self) -> &Path {
        self.directory.path()
    }

    /// As a process of its own would have it.
    fn way(&self, way: &str) -> Network {
        let ports = Ports::of(self.root());
        match way {
            "plugins" => {
                let (net, bin) = (self.at("net.d"), self.at("bin"));
                let plugins = Plugins::new(&net, &[bin], &self.at("cache"));
                Network::Plugins(plugins.sharing(ports))
            }
            "pod" => {
                let directory = Ports::of_pods(self.root());
                let bridge = Bridge::new(Settings::default(), &directory).unwrap();
                Network::Bridge(bridge.sharing(ports))
            }
            _ => {
                let settings = Settings {
                    name: "rcrun1".into(),
                    table: "rcrun1".into(),
                    v4: "10.138.0.0/16".parse().unwrap(),
                    ..Settings::default()
                };
                let directory = Ports::of_containers(self.root());
                let bridge = Bridge::new(settings, &directory).unwrap();
                Network::Bridge(bridge.sharing(ports))
            }
        }
    }

    fn add(&self, way: &str, pod: &Pod, port: Port) -> Result<()> {
        let mut request = pod.request();
        request.ports = vec![port];
        self.way(way).add(&request).map(|_| ())
    }

    fn remove(&self, way: &str, pod: &Pod) {
        self.way(way).remove(&pod.key(), None).unwrap();
    }

    fn claims(&self) -> Vec<String> {
        let all = std::fs::read_dir(self.at(CLAIMS)).unwrap();
        all.map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }
}

fn port(host: u16) -> Port {
    Port {
        host,
        container: 80,
        protocol: Protocol::Tcp,
        address: None,
    }
}

#[test]
fn a_port_is_had_once_whoever_has_it() {
    world(|| {
        let host = Host::new();
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        for has in WAYS {
            for wants in WAYS {
                host.add(has, &a, port(8080)).unwrap();
                let mut one = port(8080);
                one.address = Some(Ipv4Addr::LOCALHOST.into());
                for wanted in [port(8080), one] {
                    let error = host.add(wants, &b, wanted).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Exists, "{has} {wants}");
                    let holder = if has == "container" { has } else { "pod" };
                    let words = format!("port {wanted} of the host is taken by {holder} a");
                    let said = error.chain().to_string();
                    assert!(said.contains(&words), "{has} {wants}: {said}");
                    let hint = error.hint().unwrap();
                    assert!(hint.contains("inspect") && hint.contains(" a`"), "{hint}");
                    host.remove(wants, &b);
                }
                // Other ports, and the same of another protocol, are free.
                let mut other = port(8080);
                other.protocol = Protocol::Udp;
                for wanted in [port(8081), other] {
                    host.add(wants, &b, wanted).unwrap();
                    host.remove(wants, &b);
                }
                host.remove(has, &a);
                host.add(wants, &b, port(8080)).unwrap();
                host.remove(wants, &b);
            }
        }
        assert_eq!(host.claims(), [""; 0]);
    });
}

#[test]
fn one_of_many_that_want_a_port_at_once_gets_it() {
    world(|| {
        let host = Host::new();
        let pods: Vec<Pod> = (0..12).map(|n| Pod::new(&format!("p{n}"))).collect();
        for round in 0..4 {
            let wanted = port(9000 + round);
            let won: Vec<bool> = std::thread::scope(|scope| {
                let all = pods.iter().zip(WAYS.iter().cycle());
                let threads: Vec<_> = all
                    .map(|(pod, way)| {
                        let host = &host;
                        scope.spawn(move || match host.add(way, pod, wanted) {
                            Ok(()) => true,
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Exists, "{error:?}");
                                false
                            }
                        })
                    })
                    .collect();
                threads.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let count = won.iter().filter(|won| **won).count();
            assert_eq!(count, 1, "round {round}: {won:?}");
            for (pod, way) in pods.iter().zip(WAYS.iter().cycle()) {
                host.remove(way, pod);
            }
        }
        assert_eq!(host.claims(), [""; 0]);
    });
}

#[test]
fn who_ended_without_a_word_has_no_port() {
    world(|| {
        let host = Host::new();
        for wants in ["pod", "plugins"] {
            let gone = Pod::new("gone");
            host.add("container", &gone, port(8080)).unwrap();
            // The namespace goes with the last that holds it, and the devices with that.
            drop(gone);
            let b = Pod::new("b");
            let end = std::time::Instant::now() + Duration::from_secs(20);
            while let Err(error) = host.add(wants, &b, port(8080)) {
                assert_eq!(error.kind(), ErrorKind::Exists, "{error:?}");
                assert!(std::time::Instant::now() < end, "{error:?}");
                std::thread::sleep(Duration::from_millis(10));
            }
            host.remove(wants, &b);
        }
    });
}

#[test]
fn plugins_that_lead_no_ports_have_none() {
    world(|| {
        let host = Host::new();
        host.configure(false);
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        host.add("plugins", &a, port(8080)).unwrap();
        host.add("container", &b, port(8080)).unwrap();
    });
}

#[test]
fn programs_of_the_host_keep_their_ports_from_bridges() {
    world(|| {
        let host = Host::new();
        Server::new("0.0.0.0:9090".parse().unwrap());
        let a = Pod::new("a");
        let mut wanted = port(9090);
        wanted.protocol = Protocol::Udp;
        for way in ["pod", "container"] {
            let error = host.add(way, &a, wanted).unwrap_err();
            let said = error.chain().to_string();
            assert!(said.contains("a program that listens there"), "{said}");
            host.remove(way, &a);
        }
        // With plugins it is as with all runtimes: the rule wins, and that is logged.
        host.add("plugins", &a, wanted).unwrap();
    });
}

#[test]
fn claims_of_nobody_are_collected() {
    world(|| {
        let host = Host::new();
        let ports = Ports::of(host.root());
        let key = |id: &str| Key::new(id, "eth0").unwrap();
        // As if the server was killed before the attachment was remembered.
        ports.claim(&key("killed"), &[port(8080)]).unwrap();
        ports.claim(&key("valid"), &[port(8081)]).unwrap();
        let a = Pod::new("a");
        host.add("plugins", &a, port(8082)).unwrap();
        host.way("plugins")
            .collect(&[key("valid"), a.key()])
            .unwrap();
        let mut left = host.claims();
        left.sort();
        assert_eq!(left, ["a,eth0", "valid,eth0"]);
        // One that cannot be read has nothing; claimed again, it is whole.
        std::fs::write(host.at(CLAIMS).join("valid,eth0"), "{}").unwrap();
        host.add("container", &Pod::new("c"), port(8081)).unwrap();
        let error = ports.claim(&key("valid"), &[port(8081)]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        ports.claim(&key("valid"), &[port(8083)]).unwrap();
        let error = host.add("pod", &Pod::new("d"), port(8083)).unwrap_err();
        assert!(error.chain().to_string().contains("pod valid"), "{error:?}");
    });
}
