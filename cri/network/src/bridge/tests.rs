//! The bridge against the kernel: each test in a host of its own.

use super::*;
use crate::lab::{Pod, Server, call, call_udp, outside, silent, world};
use crate::netlink::route::Link;

pub(crate) fn link(name: &str) -> Result<Link> {
    let mut socket = Socket::routing()?;
    let missing = || Error::new(ErrorKind::NotFound, "no such device");
    host::link(&mut socket, name)?.ok_or_else(missing)
}

fn settings() -> Settings {
    Settings {
        v6: Some("fd00:137::/64".parse().unwrap()),
        ..Settings::default()
    }
}

/// A bridge with records of its own.
fn bridge(directory: &tempfile::TempDir) -> Bridge {
    Bridge::new(settings(), &directory.path().join("network")).unwrap()
}

fn port(host: u16, container: u16, protocol: Protocol, address: Option<&str>) -> Port {
    Port {
        host,
        container,
        protocol,
        address: address.map(|text| text.parse().unwrap()),
    }
}

fn table() -> Option<u64> {
    table_number(&mut Socket::netfilter().unwrap(), "rcrun").unwrap()
}

/// What the nft program shows of our table; none without the program.
fn listed() -> Option<String> {
    let list = ["list", "table", "inet", "rcrun"];
    let output = std::process::Command::new("nft").args(list).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn pods_reach_each_other_the_host_and_the_outside() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let out = outside();
        let bridge = bridge(&directory);
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        let one = bridge.add(&a.request()).unwrap();
        let two = bridge.add(&b.request()).unwrap();
        let (one, two): (Vec<_>, Vec<_>) = (one.addresses().collect(), two.addresses().collect());
        assert_eq!(one.len(), 2);
        assert_ne!(one, two);
        let server = b.serve("[::]:80").address;
        assert_eq!(server.port(), 80);
        for (from, to) in [
            (one[0], format!("{}:80", two[0])),
            (one[1], format!("[{}]:80", two[1])),
        ] {
            assert_eq!(a.enter(|| call(&to)), Some(from));
            assert_eq!(a.enter(|| call_udp(&to)), Some(from));
            // Host to pod.
            assert_eq!(call(&to).map(|ip| ip.is_ipv4()), Some(from.is_ipv4()));
        }
        Server::new("[::]:81".parse().unwrap());
        assert_eq!(a.enter(|| call("10.137.0.1:81")), Some(one[0]));
        assert_eq!(a.enter(|| call("[fd00:137::1]:81")), Some(one[1]));
        // The outside sees the host, and knows no way to pods.
        out.serve("[::]:82");
        let host = |text: &str| Some(text.parse().unwrap());
        assert_eq!(a.enter(|| call("192.0.2.2:82")), host("192.0.2.1"));
        assert_eq!(a.enter(|| call_udp("192.0.2.2:82")), host("192.0.2.1"));
        assert_eq!(a.enter(|| call("[2001:db8::2]:82")), host("2001:db8::1"));
        assert_eq!(link("rcrun0").unwrap().mtu, 1450);
        assert_eq!(a.enter(|| link("eth0")).unwrap().mtu, 1450);
        bridge.check(&a.request()).unwrap();
        bridge.remove(&a.key()).unwrap();
        bridge.remove(&a.key()).unwrap();
        assert_eq!(
            bridge.check(&a.request()).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert!(a.enter(|| link("eth0")).is_err());
        bridge.remove(&b.key()).unwrap();
        assert_eq!(table(), None);
        bridge.retire().unwrap();
        assert!(link("rcrun0").is_err());
    });
}

#[test]
fn ports_lead_into_pods_from_everywhere() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let out = outside();
        let bridge = bridge(&directory);
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        let mut request = a.request();
        request.ports = vec![
            port(8080, 80, Protocol::Tcp, None),
            port(8080, 80, Protocol::Udp, None),
            port(8081, 80, Protocol::Tcp, Some("127.0.0.1")),
            port(8082, 80, Protocol::Tcp, Some("192.0.2.1")),
            port(8083, 80, Protocol::Sctp, None),
        ];
        let outcome = bridge.add(&request).unwrap();
        println!(
            "{}",
            listed().unwrap_or_else(|| "skipped: no nft program to compare with".into())
        );
        bridge.add(&b.request()).unwrap();
        let pod: Vec<_> = outcome.addresses().collect();
        a.serve("[::]:80");
        // From outside, by either protocol and family, with the caller's own address.
        let caller = |text: &str| Some(text.parse().unwrap());
        assert_eq!(out.enter(|| call("192.0.2.1:8080")), caller("192.0.2.2"));
        assert_eq!(
            out.enter(|| call_udp("192.0.2.1:8080")),
            caller("192.0.2.2")
        );
        assert_eq!(
            out.enter(|| call("[2001:db8::1]:8080")),
            caller("2001:db8::2")
        );
        assert_eq!(
            out.enter(|| call_udp("[2001:db8::1]:8080")),
            caller("2001:db8::2")
        );
        assert_eq!(out.enter(|| call("192.0.2.1:8082")), caller("192.0.2.2"));
        assert!(out.enter(|| silent("192.0.2.1:8081")));
        // From the host: by its addresses and by localhost.
        for to in [
            "192.0.2.1:8080",
            "127.0.0.1:8080",
            "127.0.0.1:8081",
            "192.0.2.1:8082",
        ] {
            assert!(call(to).is_some(), "{to}");
        }
        assert!(call_udp("127.0.0.1:8080").is_some());
        assert!(call("[2001:db8::1]:8080").is_some());
        assert!(silent("192.0.2.1:8081"));
        assert!(silent("127.0.0.1:8082"));
        // From another pod, and from the pod itself, by ports of the host.
        for from in [&a, &b] {
            for to in ["192.0.2.1:8080", "10.137.0.1:8080", "[2001:db8::1]:8080"] {
                assert!(from.enter(|| call(to)).is_some(), "{} to {to}", from.id);
            }
            assert!(from.enter(|| call_udp("192.0.2.1:8080")).is_some());
        }
        if let Some(list) = listed() {
            for want in [
                "tcp . 8080 ",
                "sctp . 8083",
                "udp . 8080",
                "127.0.0.1 . 8081",
                "comment \"a\"",
            ] {
                assert!(list.contains(want), "{want} is not in {list}");
            }
            assert!(list.contains(&pod[0].to_string()), "{list}");
        }
        bridge.remove(&a.key()).unwrap();
        assert!(out.enter(|| silent("192.0.2.1:8080")));
        if let Some(list) = listed() {
            assert!(!list.contains("8080"), "{list}");
        }
    });
}

#[test]
fn datagrams_find_who_has_the_port_now() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let out = outside();
        let bridge = bridge(&directory);
        let client = out.enter(|| std::net::UdpSocket::bind("0.0.0.0:5353").unwrap());
        client.set_read_timeout(Some(crate::lab::LATE)).unwrap();
        let keeper = Pod::new("keeper");
        bridge.add(&keeper.request()).unwrap();
        let mut buffer = [0; 64];
        for id in ["a", "b"] {
            // While nobody has the port, and while another had it.
            client.send_to(b"?", "192.0.2.1:8080").unwrap();
            let pod = Pod::new(id);
            let mut request = pod.request();
            request.ports = vec![port(8080, 80, Protocol::Udp, None)];
            bridge.add(&request).unwrap();
            pod.serve("[::]:80");
            client.send_to(b"?", "192.0.2.1:8080").unwrap();
            let answer = loop {
                match client.recv_from(&mut buffer) {
                    // That nobody had it.
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                    other => break other,
                }
            };
            let (length, from) = answer.unwrap();
            assert_eq!(&buffer[..length], b"192.0.2.2", "{id}");
            assert_eq!(from.to_string(), "192.0.2.1:8080");
            bridge.remove(&pod.key()).unwrap();
        }
    });
}

#[test]
fn attack_on_the_hosts_loopback() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let bridge = bridge(&directory);
        Server::new("127.0.0.1:83".parse().unwrap());
        assert!(call("127.0.0.1:83").is_some());
        let other = Pod::new("attacker");
        bridge.add(&other.request()).unwrap();
        other.enter(|| {
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            crate::lab::ip("addr del 127.0.0.1/8 dev lo");
            crate::lab::ip("route add 127.0.0.1 via 10.137.0.1 dev eth0 src 10.137.0.2");
        });
        assert!(other.enter(|| silent("127.0.0.1:83")), "a pod reaches it");
        // Without the guard it would.
        if listed().is_none() {
            println!("skipped the second half: no nft program");
            return;
        }
        crate::lab::nft("flush chain inet rcrun guard");
        assert!(other.enter(|| call("127.0.0.1:83")).is_some());
    });
}

#[test]
fn ports_that_are_taken_are_refused() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let bridge = bridge(&directory);
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        let with = |pod: &Pod, ports: &[Port]| {
            let mut request = pod.request();
            request.ports = ports.to_vec();
            bridge.add(&request)
        };
        with(&a, &[port(8080, 80, Protocol::Tcp, None)]).unwrap();
        let taken = [port(8080, 80, Protocol::Tcp, Some("127.0.0.1"))];
        let error = with(&b, &taken).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        let words = error.chain().to_string();
        assert!(
            words.contains("127.0.0.1:8080/tcp") && words.contains("container a"),
            "{words}"
        );
        Server::new("0.0.0.0:9090".parse().unwrap());
        let error = with(&b, &[port(9090, 80, Protocol::Udp, None)]).unwrap_err();
        assert!(
            error.chain().to_string().contains("a program that listens"),
            "{error:?}"
        );
        with(&b, &[port(8080, 80, Protocol::Udp, None)]).unwrap();
        bridge.remove(&a.key()).unwrap();
        bridge.remove(&b.key()).unwrap();
        with(&b, &taken).unwrap();
    });
}

#[test]
fn half_made_things_are_made_anew_and_removed() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let bridge = bridge(&directory);
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        let mut request = a.request();
        request.ports = vec![port(8080, 80, Protocol::Tcp, None)];
        let first = bridge.add(&request).unwrap();
        assert_eq!(bridge.add(&request).unwrap_err().kind(), ErrorKind::Exists);
        bridge.add(&b.request()).unwrap();
        let path = directory.path().join("network");
        let half = || {
            std::fs::rename(path.join("00002rp,a,eth0"), path.join("00002bp,a,eth0")).unwrap();
        };
        // Killed when all was made but its mark; then the devices are gone, then the rules.
        half();
        assert_eq!(
            bridge.check(&request).unwrap_err().kind(),
            ErrorKind::FailedPrecondition
        );
        let second = bridge.add(&request).unwrap();
        assert_ne!(
            first, second,
            "an address is used again as late as possible"
        );
        let name = link("rcrun0v4").unwrap().name;
        crate::lab::ip(&format!("link del {name}"));
        assert!(bridge.check(&request).is_err());
        bridge.remove(&a.key()).unwrap();
        // The rules were flushed by somebody: the next one brings them back.
        bridge.add(&request).unwrap();
        let mut desk = bridge.enter().unwrap();
        desk.drop_table().unwrap();
        drop(desk);
        assert!(bridge.check(&request).is_err());
        let c = Pod::new("c");
        bridge.add(&c.request()).unwrap();
        bridge.check(&request).unwrap();
        // Namespaces that are gone, records that are damaged, devices nobody knows.
        drop(c);
        std::fs::write(path.join("00009rp,d,eth0"), "{}").unwrap();
        crate::lab::ip("link add rcrun0v77 type veth peer name stray");
        crate::lab::ip("link set rcrun0v77 master rcrun0");
        bridge.collect(&[a.key()]).unwrap();
        assert!(link("rcrun0v77").is_err());
        bridge.check(&request).unwrap();
        bridge.collect(&[]).unwrap();
        assert_eq!(table(), None);
        let left: Vec<_> = std::fs::read_dir(&path)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
    });
}

#[test]
fn addresses_end_and_are_given_back() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings {
            v4: "10.9.0.0/29".parse().unwrap(),
            ..Settings::default()
        };
        let bridge = Bridge::new(settings, directory.path()).unwrap();
        let pods: Vec<_> = (0..6).map(|n| Pod::new(&format!("p{n}"))).collect();
        for pod in &pods[..5] {
            bridge.add(&pod.request()).unwrap();
        }
        let error = bridge.add(&pods[5].request()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        bridge.remove(&pods[2].key()).unwrap();
        let outcome = bridge.add(&pods[5].request()).unwrap();
        assert_eq!(outcome.addresses().next().unwrap().to_string(), "10.9.0.4");
        let other = Bridge::new(Settings::default(), directory.path()).unwrap();
        let error = other.add(&pods[2].request()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    });
}

#[test]
fn networks_in_use_and_wishes_that_cannot_be_are_refused() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let out = outside();
        let pod = Pod::new("a");
        let settings = Settings {
            v4: "192.0.2.128/25".parse().unwrap(),
            ..Settings::default()
        };
        let error = Bridge::new(settings, directory.path())
            .unwrap()
            .add(&pod.request())
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        assert!(error.chain().to_string().contains("up0"), "{error:?}");
        let bridge = Bridge::new(Settings::default(), directory.path()).unwrap();
        for change in [
            (|r| r.bandwidth.ingress = Some((1, 1))) as fn(&mut Request<'_>),
            |r| r.mac = Some("03:00:00:00:00:01".into()),
            |r| r.addresses = vec!["10.137.0.1".parse().unwrap()],
            |r| r.ports = vec![port(80, 80, Protocol::Tcp, Some("::1"))],
        ] {
            let mut request = pod.request();
            change(&mut request);
            assert_eq!(
                bridge.add(&request).unwrap_err().kind(),
                ErrorKind::Unsupported
            );
        }
        pod.enter(|| crate::lab::ip("link add eth0 type veth peer name stray"));
        let error = bridge.add(&pod.request()).unwrap_err();
        assert!(
            error.chain().to_string().contains("namespace has one"),
            "{error:?}"
        );
        assert_eq!(table(), None);
        drop(out);
    });
}

#[test]
fn no_address_twice_when_many_come_and_go_at_once() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let own = crate::lab::here();
        let bridge = bridge(&directory);
        let all = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (own, bridge, all) = (&own, &bridge, &all);
                scope.spawn(move || {
                    nix::sched::setns(own, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                    for round in 0..8 {
                        let pod = Pod::new(&format!("p{thread}-{round}"));
                        let mut request = pod.request();
                        request.ports =
                            vec![port(9000 + thread * 8 + round, 80, Protocol::Tcp, None)];
                        let outcome = bridge.add(&request).unwrap();
                        if round % 2 == 0 {
                            bridge.remove(&pod.key()).unwrap();
                        } else {
                            all.lock().unwrap().push((pod, outcome));
                        }
                    }
                });
            }
        });
        let all = all.into_inner().unwrap();
        let mut addresses: Vec<_> = all.iter().flat_map(|(_, o)| o.addresses()).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 2 * 16);
        for (pod, _) in &all {
            bridge.check(&pod.request()).unwrap();
        }
        bridge.collect(&[]).unwrap();
        assert!(bridge.enter().unwrap().place.leases().unwrap().is_empty());
    });
}

/// A child of the test below: adds and removes until it is killed.
#[test]
#[ignore = "the child of `killed_at_any_instant`"]
fn child_that_is_killed() {
    let Some(path) = std::env::var_os("RCRUN_TEST_NETWORK") else {
        return;
    };
    let bridge = Bridge::new(settings(), Path::new(&path)).unwrap();
    let pod = Pod::new("victim");
    let mut request = pod.request();
    request.ports = vec![port(8080, 80, Protocol::Tcp, None)];
    loop {
        bridge.remove(&pod.key()).unwrap();
        bridge.add(&request).unwrap();
    }
}

/// Runs it until the kernel is told for the n-th time of devices, rules or names; without strace until
/// some instant.
fn kill_child(directory: &Path, round: u64) {
    let test = "bridge::tests::child_that_is_killed";
    let calls = "sendto,renameat,unlinkat,pwrite64,setns";
    let traced = Path::new("/usr/bin/strace").exists();
    let program = std::env::current_exe().unwrap();
    let mut command = match traced {
        true => std::process::Command::new("/usr/bin/strace"),
        false => std::process::Command::new(&program),
    };
    if traced {
        let inject = format!("inject={calls}:signal=KILL:when={}", round + 1);
        let trace = format!("trace={calls}");
        command
            .args(["-f", "-o", "/dev/null", "-e", &trace, "-e", &inject])
            .arg(&program);
    }
    let mut child = command
        .args(["--ignored", "--exact", test, "--test-threads=1"])
        .env("RCRUN_TEST_NETWORK", directory)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    if !traced {
        std::thread::sleep(std::time::Duration::from_micros(30_000 + round * 1_370));
        child.kill().unwrap();
    }
    child.wait().unwrap();
}

#[test]
fn killed_at_any_instant() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let bridge = Bridge::new(settings(), directory.path()).unwrap();
        let (keeper, mut halves) = (Pod::new("keeper"), 0);
        bridge.add(&keeper.request()).unwrap();
        for round in 0..40u64 {
            kill_child(directory.path(), round);
            let leases = bridge.enter().unwrap().place.leases().unwrap();
            halves += leases
                .iter()
                .filter(|lease| lease.state == State::Begun)
                .count();
            let slots: BTreeSet<_> = leases.iter().map(|lease| lease.slot).collect();
            assert_eq!(slots.len(), leases.len(), "{leases:?}");
            let pod = Pod::new("victim");
            let mut request = pod.request();
            request.ports = vec![port(8080, 80, Protocol::Tcp, None)];
            if leases
                .iter()
                .any(|lease| lease.key == pod.key() && lease.state == State::Ready)
            {
                bridge.remove(&pod.key()).unwrap();
            }
            bridge.add(&request).unwrap();
            bridge.check(&request).unwrap();
            bridge.remove(&pod.key()).unwrap();
            bridge.check(&keeper.request()).unwrap();
        }
        println!("{halves} of 40 were left half made");
        bridge.collect(&[]).unwrap();
        assert_eq!(table(), None);
    });
}

/// Not a test of speed: prints what ADD and DEL take, beside the reference plugins where there are any.
#[test]
#[ignore = "a measurement"]
fn measure_add_and_remove() {
    world(|| {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let bridge = Bridge::new(Settings::default(), &directory.path().join("b")).unwrap();
        let keeper = Pod::new("keeper");
        bridge.add(&keeper.request()).unwrap();
        let ours = crate::Network::Bridge(bridge);
        let mut all = vec![("bridge", ours)];
        if let Some(programs) = crate::cni::tests::reference() {
            let plugins = crate::cni::tests::reference_bridge(directory.path(), programs);
            plugins.add(&Pod::new("keeper2").request()).unwrap();
            all.push(("plugins", crate::Network::Plugins(plugins)));
        }
        for (name, network) in &all {
            let mut times = Vec::new();
            for round in 0..30 {
                let pod = Pod::new(&format!("p{round}"));
                let mut request = pod.request();
                request.ports = vec![port(8080, 80, Protocol::Tcp, None)];
                let begun = std::time::Instant::now();
                network.add(&request).unwrap();
                let added = begun.elapsed();
                network.remove(&pod.key(), Some(&pod.namespace())).unwrap();
                times.push((begun.elapsed(), added));
            }
            times.sort();
            println!(
                "{name}: ADD+DEL p50 {:?} (ADD {:?}) max {:?}",
                times[15].0, times[15].1, times[29].0
            );
        }
    });
}
