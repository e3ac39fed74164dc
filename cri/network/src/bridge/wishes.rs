//! What containers of people ask for: addresses, limits of traffic, being seen; and many at once. Against
//! the kernel, each test in a host of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::*;
use crate::lab::{LATE, Pod, world};
use crate::request::Bandwidth;

fn bridge(directory: &tempfile::TempDir) -> Bridge {
    Bridge::new(Settings::default(), &directory.path().join("network")).unwrap()
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
fn addresses_that_are_asked_for_are_given_once() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let bridge = bridge(&directory);
        let pod = Pod::new("a");
        let mut request = pod.request();
        request.addresses = vec!["10.137.7.9".parse().unwrap()];
        request.mac = Some("02:00:00:00:00:09".into());
        let outcome = bridge.add(&request).unwrap();
        let given: Vec<_> = outcome.addresses().map(|a| a.to_string()).collect();
        assert_eq!(given, ["10.137.7.9"]);
        assert_eq!(outcome.interfaces[2].mac, "02:00:00:00:00:09");
        bridge.check(&request).unwrap();
        let shown = pod.enter(|| {
            let mut ip = std::process::Command::new("ip");
            let output = ip.args(["addr", "show", "eth0"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        });
        assert!(shown.contains("02:00:00:00:00:09"), "{shown}");
        assert!(shown.contains("10.137.7.9/16"), "{shown}");
        let other = Pod::new("b");
        let mut again = other.request();
        again.addresses = request.addresses.clone();
        let error = bridge.add(&again).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        let text = error.chain().to_string();
        assert!(
            text.contains("address 10.137.7.9 is taken by another"),
            "{text}"
        );
        assert!(!bridge.knows(&other.key()).unwrap());
        for (address, mac) in [("10.138.0.1", None), ("10.137.7.10", Some("x"))] {
            let mut wrong = other.request();
            wrong.addresses = vec![address.parse().unwrap()];
            wrong.mac = mac.map(str::to_owned);
            let kind = bridge.add(&wrong).unwrap_err().kind();
            assert_eq!(kind, ErrorKind::Unsupported);
        }
        bridge.remove(&pod.key()).unwrap();
        bridge.add(&again).unwrap();
    });
}

#[test]
fn what_is_connected_can_be_seen() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("network");
        assert!(Bridge::existing(&place).unwrap().is_none());
        let bridge = bridge(&directory);
        let pod = Pod::new("a");
        assert!(bridge.attached(&pod.key()).unwrap().is_none());
        assert!(bridge.is_free(&port(8080)).unwrap());
        // Looking makes nothing.
        assert!(!place.exists());
        let mut request = pod.request();
        request.ports = vec![port(8080)];
        let outcome = bridge.add(&request).unwrap();
        let seen = Bridge::existing(&place).unwrap().unwrap();
        let attached = seen.attached(&pod.key()).unwrap().unwrap();
        assert_eq!(attached.ports, [port(8080)]);
        assert_eq!(attached.outcome, outcome);
        assert!(!seen.is_free(&port(8080)).unwrap());
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let taken = listener.local_addr().unwrap().port();
        assert!(!seen.is_free(&port(taken)).unwrap());
        drop(listener);
        seen.remove(&pod.key()).unwrap();
        assert!(!seen.knows(&pod.key()).unwrap());
        assert!(seen.is_free(&port(8080)).unwrap());
    });
}

#[test]
fn who_ended_unnoticed_is_collected() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let bridge = bridge(&directory);
        assert_eq!(bridge.collect_dead().unwrap(), 0);
        let (lives, dies) = (Pod::new("lives"), Pod::new("dies"));
        bridge.add(&lives.request()).unwrap();
        let mut request = dies.request();
        request.ports = vec![port(8080)];
        bridge.add(&request).unwrap();
        assert_eq!(bridge.collect_dead().unwrap(), 0);
        let key = dies.key();
        drop(request);
        drop(dies);
        // The kernel takes namespaces away in its own time.
        let begun = Instant::now();
        while bridge.collect_dead().unwrap() == 0 {
            assert!(begun.elapsed() < LATE, "it still has a device");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!bridge.knows(&key).unwrap());
        assert!(bridge.attached(&lives.key()).unwrap().is_some());
        let next = Pod::new("next");
        let mut request = next.request();
        request.ports = vec![port(8080)];
        bridge.add(&request).unwrap();
    });
}

#[test]
fn attack_on_the_bridge_of_others() {
    world(|| {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let pod = Pod::new("a");
        bridge(&ours).add(&pod.request()).unwrap();
        let other = Pod::new("b");
        let error = bridge(&theirs).add(&other.request()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        let text = error.chain().to_string();
        assert!(
            text.contains("cannot use bridge rcrun0: it is that of /"),
            "{text}"
        );
        bridge(&ours).check(&pod.request()).unwrap();
        // Records that are lost are no reason: it is still theirs.
        std::fs::remove_file(ours.path().join("network/host.json")).unwrap();
        bridge(&ours).add(&other.request()).unwrap();
    });
}

/// Bytes in a second that get through, of so many.
fn speed(from: &Pod, to: &Pod, address: &str, bytes: usize) -> f64 {
    let listener = to.enter(|| TcpListener::bind(address).unwrap());
    let sink = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = vec![0; 64 << 10];
        let mut received = 0;
        let begun = Instant::now();
        loop {
            match stream.read(&mut buffer).unwrap() {
                0 => return received as f64 / begun.elapsed().as_secs_f64(),
                count => received += count,
            }
        }
    });
    let mut stream = from.enter(|| TcpStream::connect(address).unwrap());
    stream.set_write_timeout(Some(LATE)).unwrap();
    stream.write_all(&vec![0; bytes]).unwrap();
    drop(stream);
    sink.join().unwrap()
}

#[test]
fn bandwidth_has_limits_in_both_directions() {
    world(|| {
        let directory = tempfile::tempdir().unwrap();
        let bridge = bridge(&directory);
        let (limited, free) = (Pod::new("limited"), Pod::new("free"));
        let mut request = limited.request();
        // 4 and 8 Mbit/s, with bursts of 256 kbit.
        request.bandwidth = Bandwidth {
            ingress: Some((4_000_000, 256_000)),
            egress: Some((8_000_000, 256_000)),
        };
        let one = bridge.add(&request).unwrap().addresses().next().unwrap();
        let two = bridge.add(&free.request()).unwrap();
        let two = two.addresses().next().unwrap();
        let ingress = speed(&free, &limited, &format!("{one}:80"), 500_000);
        let egress = speed(&limited, &free, &format!("{two}:80"), 1_000_000);
        // The burst and what the sockets hold come on top; a machine under load is slower.
        assert!((50_000.0..700_000.0).contains(&ingress), "{ingress}");
        assert!((100_000.0..1_400_000.0).contains(&egress), "{egress}");
        // Nobody else is slowed down.
        let other = Pod::new("other");
        let three = bridge.add(&other.request()).unwrap();
        let three = three.addresses().next().unwrap();
        let others = speed(&free, &other, &format!("{three}:80"), 8_000_000);
        assert!(others > 2_000_000.0, "{others}");
        request.bandwidth.egress = Some((10, 0));
        let error = Bridge::add(&bridge, &request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    });
}

#[test]
#[ignore = "a measurement"]
fn measure_many_at_once() {
    const PODS: usize = 30;
    world(|| {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let bridge = Bridge::new(Settings::default(), &directory.path().join("b")).unwrap();
        let keeper = Pod::new("keeper");
        bridge.add(&keeper.request()).unwrap();
        for threads in [1, PODS] {
            let pods: Vec<Pod> = (0..PODS).map(|i| Pod::new(&format!("p{i}"))).collect();
            let own = crate::lab::here();
            let begun = Instant::now();
            std::thread::scope(|scope| {
                for share in pods.chunks(PODS / threads) {
                    let (bridge, own) = (&bridge, &own);
                    scope.spawn(move || {
                        use std::os::fd::AsFd;
                        let flags = nix::sched::CloneFlags::CLONE_NEWNET;
                        nix::sched::setns(own.as_fd(), flags).unwrap();
                        for pod in share {
                            let mut request = pod.request();
                            let number: u16 = pod.id[1..].parse().unwrap();
                            request.ports = vec![port(9000 + number)];
                            bridge.add(&request).unwrap();
                        }
                    });
                }
            });
            let took = begun.elapsed();
            println!("{PODS} pods, {threads} threads: {took:?}");
            let begun = Instant::now();
            std::thread::scope(|scope| {
                for share in pods.chunks(PODS / threads) {
                    let (bridge, own) = (&bridge, &own);
                    scope.spawn(move || {
                        use std::os::fd::AsFd;
                        let flags = nix::sched::CloneFlags::CLONE_NEWNET;
                        nix::sched::setns(own.as_fd(), flags).unwrap();
                        for pod in share {
                            bridge.remove(&pod.key()).unwrap();
                        }
                    });
                }
            });
            println!("and removed: {:?}", begun.elapsed());
        }
    });
}
