//! Containers on the bridge: ports, addresses, names, what is left by whom. Each test is in a network
//! namespace of its own, which is the host here.

use crate::harness::people::People;
use crate::harness::{Env, Test, test};
use serde_json::{Value, json};
use std::io::Read as _;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(ports_lead_into_containers),
        test!(containers_reach_each_other_and_know_their_address),
        test!(a_port_is_had_once),
        test!(ranges_datagrams_and_ports_that_are_chosen),
        test!(what_an_image_exposes_is_published_where_it_is_asked_for),
    ]
}

pub(super) const BRIDGE: &str = "--network=bridge";
/// Says its name to everybody.
pub(super) const SERVER: &str = "while true; do hostname | nc -l -p 80; done";

/// What a server says; none if nobody is there.
pub(super) fn hear(at: &str) -> Option<String> {
    let mut stream =
        TcpStream::connect_timeout(&at.parse().unwrap(), Duration::from_secs(2)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then(|| text.trim_end().to_owned())
}

/// The same, of a server that may be between two calls.
#[track_caller]
pub(super) fn heard(at: &str) -> String {
    wait_for(at, || hear(at))
}

#[track_caller]
pub(super) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "waited for {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Who is connected, by the names of records.
pub(super) fn connected(env: &Env) -> Vec<String> {
    let entries = std::fs::read_dir(env.rt.root.join(".network"));
    let names = entries.into_iter().flatten().flatten();
    names
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name.contains(','))
        .collect()
}

#[track_caller]
pub(super) fn nobody_is_connected(env: &Env) {
    wait_for("nobody to be connected", || {
        connected(env).is_empty().then_some(())
    });
    // With the last one goes all that was said to nf_tables.
    let nft = std::process::Command::new("nft")
        .args(["list", "tables"])
        .output();
    if let Ok(output) = nft {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains("rcrun1"), "{text}");
    }
}

pub(super) fn inspect(people: &People<'_>, name: &str) -> Value {
    let text = people.shelf.ok(&["inspect", name]);
    let all: Value = serde_json::from_str(&text).unwrap();
    all[0].clone()
}

pub(super) fn address(people: &People<'_>, name: &str) -> String {
    let found = inspect(people, name)["NetworkSettings"]["IPAddress"].clone();
    found.as_str().unwrap().to_owned()
}

/// Starts one that says its name.
#[track_caller]
pub(super) fn serve(people: &People<'_>, name: &str, flags: &[&str]) {
    let named = [format!("--name={name}"), format!("--hostname={name}")];
    let flags = [&["-d", BRIDGE, &named[0], &named[1]], flags].concat();
    people.run(&flags, &["sh", "-c", SERVER]).ok();
}

fn ports_lead_into_containers(env: &Env) {
    let people = People::new(env);
    serve(
        &people,
        "web",
        &["-p", "8080:80", "-p", "127.0.0.1:8081:80/tcp"],
    );
    for at in ["127.0.0.1:8080", "10.138.0.1:8080", "127.0.0.1:8081"] {
        assert_eq!(heard(at), "web", "{at}");
    }
    let own = address(&people, "web");
    assert_eq!(heard(&format!("{own}:80")), "web");
    // Only where it is published.
    assert_eq!(hear("10.138.0.1:8081"), None);
    let port = |words: &[&str]| people.shelf.call(&[&["port", "web"], words].concat());
    let all = "80/tcp -> 0.0.0.0:8080\n80/tcp -> 127.0.0.1:8081\n";
    assert_eq!(port(&[]).ok().stdout, all);
    assert_eq!(port(&["80"]).ok().stdout, "0.0.0.0:8080\n127.0.0.1:8081\n");
    assert_eq!(port(&["80/udp"]).code, 1);
    let ps = people.shelf.ok(&["ps"]);
    assert!(
        ps.contains("0.0.0.0:8080->80/tcp, 127.0.0.1:8081->80/tcp"),
        "{ps}"
    );
    let found = people.shelf.ok(&[
        "ps",
        "-q",
        "--filter=publish=8080",
        "--filter=network=bridge",
    ]);
    assert_eq!(found.lines().count(), 1);
    assert_eq!(people.shelf.ok(&["ps", "-q", "--filter=publish=80"]), "");
    let shown = inspect(&people, "web");
    assert_eq!(
        shown["NetworkSettings"]["Ports"]["80/tcp"],
        json!([{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "127.0.0.1", "HostPort": "8081"}])
    );
    assert_eq!(shown["HostConfig"]["NetworkMode"], "bridge");
    assert_eq!(shown["NetworkSettings"]["Gateway"], "10.138.0.1");
    people.shelf.ok(&["rename", "web", "shop"]);
    assert_eq!(people.shelf.ok(&["port", "shop"]), all);
    assert_eq!(heard("127.0.0.1:8080"), "web");
    people.remove("shop");
    nobody_is_connected(env);
    assert_eq!(hear("127.0.0.1:8080"), None);
    people.assert_empty();
}

fn containers_reach_each_other_and_know_their_address(env: &Env) {
    let people = People::new(env);
    serve(&people, "one", &["-p", "8080:80"]);
    let one = address(&people, "one");
    let script = format!(
        "cat /etc/hosts; nc {one} 80 </dev/null; nc 10.138.0.1 8080 </dev/null; nc gate 8080 </dev/null; \
         ip route; ip addr show eth0"
    );
    let flags = [
        BRIDGE,
        "--hostname=two.example",
        "--add-host=gate:host-gateway",
    ];
    wait_for("the server", || hear(&format!("{one}:80")));
    std::thread::sleep(Duration::from_millis(200));
    let text = people.sh(&flags, &script);
    assert!(text.contains("\ttwo.example two\n"), "{text}");
    assert!(text.contains("10.138.0.1\tgate\n"), "{text}");
    assert!(!text.contains("127.0.0.1\ttwo"), "{text}");
    assert!(text.contains("default via 10.138.0.1 dev eth0"), "{text}");
    assert!(text.contains("/16 brd 10.138.255.255"), "{text}");
    assert!(text.lines().any(|line| line == "one"), "{text}");
    // Another's network is another's address.
    let shared = people.sh(&["--network=container:one"], "ip addr show eth0");
    assert!(shared.contains(&one), "{shared}");
    // And with none there is nothing.
    let none = people.sh(&["--network=none"], "ls /sys/class/net");
    assert!(!none.contains("eth0"), "{none}");
    people.remove("one");
    nobody_is_connected(env);
}

fn a_port_is_had_once(env: &Env) {
    let people = People::new(env);
    serve(&people, "web", &["-p", "8080:80"]);
    let id = people.shelf.ok(&["ps", "-q", "--no-trunc"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let used = listener.local_addr().unwrap().port();
    for (ports, why) in [
        (
            "8080:81",
            format!(
                "port 8080/tcp of the host is taken by container {}",
                id.trim()
            ),
        ),
        ("127.0.0.1:8080:81", "is taken by container".to_owned()),
        (
            &*format!("{used}:80"),
            format!("port {used}/tcp of the host is taken by a program"),
        ),
    ] {
        for mode in ["-d", "--rm"] {
            let output = people.run(&[mode, BRIDGE, "-p", ports], &["true"]);
            assert_eq!(output.code, 125, "{}", output.stderr);
            assert!(output.stderr.contains(&why), "{}", output.stderr);
            assert_eq!(people.containers().len(), 1);
            assert_eq!(connected(env).len(), 1);
        }
    }
    // What is taken when it is started again.
    people
        .run(&["--name=later", BRIDGE, "-p", "8090:80"], &["true"])
        .ok();
    wait_for("the end", || (connected(env).len() == 1).then_some(()));
    serve(&people, "other", &["-p", "8090:80"]);
    let output = people.shelf.call(&["start", "later"]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("port 8090/tcp"), "{}", output.stderr);
    let state = inspect(&people, "later")["State"]["Status"].clone();
    assert_eq!(state, "exited");
    // The protocol is part of it.
    people
        .run(&["--rm", BRIDGE, "-p", "8080:80/udp"], &["true"])
        .ok();
    for name in ["web", "later", "other"] {
        people.remove(name);
    }
    nobody_is_connected(env);
    people.assert_empty();
}

fn ranges_datagrams_and_ports_that_are_chosen(env: &Env) {
    let people = People::new(env);
    let flags = [
        "-p",
        "8000-8001:80-81",
        "-p",
        "8000-8010:90",
        "-p",
        "5353:53/udp",
        "-p",
        "80",
    ];
    serve(&people, "web", &flags);
    let text = people.shelf.ok(&["port", "web"]);
    assert!(text.contains("80/tcp -> 0.0.0.0:8000\n"), "{text}");
    assert!(text.contains("81/tcp -> 0.0.0.0:8001\n"), "{text}");
    assert!(text.contains("90/tcp -> 0.0.0.0:8002\n"), "{text}");
    assert!(text.contains("53/udp -> 0.0.0.0:5353\n"), "{text}");
    let chosen = (text
        .lines()
        .filter_map(|line| line.strip_prefix("80/tcp -> 0.0.0.0:")))
    .find(|port| *port != "8000")
    .unwrap();
    assert_eq!(heard(&format!("127.0.0.1:{chosen}")), "web");
    let server = receive(&people, "web", 53);
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket.send_to(b"ping", "10.138.0.1:5353").unwrap();
    let mut buffer = [0; 16];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.port()), (&b"ping"[..], 5353));
    server.join().unwrap();
    // The range goes on.
    serve(&people, "more", &["-p", "8000-8010:80"]);
    let text = people.shelf.ok(&["port", "more"]);
    assert_eq!(text, "80/tcp -> 0.0.0.0:8003\n");
    let output = people.run(&["--rm", BRIDGE, "-p", "8000-8003:80"], &["true"]);
    assert_eq!(output.code, 125);
    let why = "no port of 8000-8003/tcp is free";
    assert!(output.stderr.contains(why), "{}", output.stderr);
    people.remove("web");
    people.remove("more");
    nobody_is_connected(env);
}

/// Sends one datagram back, from within a container's network.
fn receive(people: &People<'_>, name: &str, port: u16) -> std::thread::JoinHandle<()> {
    let pid = &inspect(people, name)["State"]["Pid"];
    let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let (ready, wait) = std::sync::mpsc::channel();
    let server = std::thread::spawn(move || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
        ready.send(()).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(&buffer[..length], from).unwrap();
    });
    wait.recv().unwrap();
    server
}

fn what_an_image_exposes_is_published_where_it_is_asked_for(env: &Env) {
    let config = json!({
        "Cmd": ["/bin/sh", "-c", SERVER], "Env": ["PATH=/bin"],
        "ExposedPorts": {"80/tcp": {}, "90/udp": {}},
    });
    let people = People::with(env, config);
    people.run(&["-d", "--name=quiet", BRIDGE], &[]).ok();
    assert_eq!(people.shelf.ok(&["port", "quiet"]), "");
    people
        .run(&["-d", "--name=web", BRIDGE, "-P", "-p=8090:90/udp"], &[])
        .ok();
    let text = people.shelf.ok(&["port", "web"]);
    assert!(text.contains("90/udp -> 0.0.0.0:8090\n"), "{text}");
    let at = text
        .lines()
        .find_map(|line| line.strip_prefix("80/tcp -> "))
        .unwrap();
    heard(&at.replace("0.0.0.0", "127.0.0.1"));
    people.remove("quiet");
    people.remove("web");
    nobody_is_connected(env);
}
