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
        test!(a_new_life_has_a_place_of_its_own),
        test!(addresses_can_be_asked_for),
        test!(who_is_killed_leaves_nothing).timeout(150),
        test!(who_ends_unnoticed_makes_place),
        test!(one_that_waits_for_its_start_can_be_started),
        test!(root_has_a_bridge_by_default),
        test!(attack_on_the_bridge_of_another_root),
    ]
}

const BRIDGE: &str = "--network=bridge";
/// Says its name to everybody.
const SERVER: &str = "while true; do hostname | nc -l -p 80; done";

/// What a server says; none if nobody is there.
fn hear(at: &str) -> Option<String> {
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
fn heard(at: &str) -> String {
    wait_for(at, || hear(at))
}

#[track_caller]
fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
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
fn connected(env: &Env) -> Vec<String> {
    let entries = std::fs::read_dir(env.rt.root.join(".network"));
    let names = entries.into_iter().flatten().flatten();
    names
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name.contains(','))
        .collect()
}

#[track_caller]
fn nobody_is_connected(env: &Env) {
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

fn inspect(people: &People<'_>, name: &str) -> Value {
    let text = people.shelf.ok(&["inspect", name]);
    let all: Value = serde_json::from_str(&text).unwrap();
    all[0].clone()
}

fn address(people: &People<'_>, name: &str) -> String {
    let found = inspect(people, name)["NetworkSettings"]["IPAddress"].clone();
    found.as_str().unwrap().to_owned()
}

/// Starts one that says its name.
#[track_caller]
fn serve(people: &People<'_>, name: &str, flags: &[&str]) {
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

fn a_new_life_has_a_place_of_its_own(env: &Env) {
    let people = People::new(env);
    serve(&people, "web", &["-p", "8080:80", "--stop-timeout=0"]);
    let first = address(&people, "web");
    heard("127.0.0.1:8080");
    people.shelf.ok(&["stop", "web"]);
    nobody_is_connected(env);
    assert_eq!(hear("127.0.0.1:8080"), None);
    assert_eq!(people.shelf.call(&["port", "web"]).code, 1);
    // Somebody else may have it meanwhile.
    people
        .run(&["--rm", BRIDGE, "-p", "8080:80"], &["true"])
        .ok();
    people.shelf.ok(&["start", "web"]);
    assert_eq!(heard("127.0.0.1:8080"), "web");
    let second = address(&people, "web");
    assert_ne!(first, second);
    let hosts = people.shelf.ok(&["exec", "web", "cat", "/etc/hosts"]);
    assert!(hosts.contains(&format!("{second}\tweb\n")), "{hosts}");
    assert!(!hosts.contains(&first), "{hosts}");
    for _ in 0..5 {
        people.shelf.ok(&["restart", "web"]);
        assert_eq!(connected(env).len(), 1);
    }
    assert_eq!(heard("127.0.0.1:8080"), "web");
    // The monitor of the life before last has nothing to say any more.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(heard("127.0.0.1:8080"), "web");
    people.remove("web");
    nobody_is_connected(env);
    let output = people.run(&["--rm", BRIDGE, "-p", "8080:80"], &["sh", "-c", "exit 3"]);
    assert_eq!(output.code, 3);
    assert_eq!(connected(env), Vec::<String>::new());
    people.assert_empty();
}

fn addresses_can_be_asked_for(env: &Env) {
    let people = People::new(env);
    let flags = [BRIDGE, "--ip=10.138.9.9", "--mac-address=02:00:00:00:00:09"];
    let text = people.sh(&flags, "ip addr show eth0");
    assert!(
        text.contains("10.138.9.9/16") && text.contains("02:00:00:00:00:09"),
        "{text}"
    );
    for (flags, why) in [
        (
            &[BRIDGE, "--ip=10.137.0.9"][..],
            "10.137.0.9 is not in 10.138.0.0/16",
        ),
        (&[BRIDGE, "--ip=10.138.0.1"], "no address for a container"),
        (&[BRIDGE, "--ip=::1"], "--ip: "),
        (&[BRIDGE, "--mac-address=x"], "no hardware address"),
        (
            &["--network=none", "--ip=10.138.0.9"],
            "--ip: takes --network bridge",
        ),
        (
            &["--network=host", "-p=80:80"],
            "the program's ports are the host's",
        ),
        (
            &[BRIDGE, "-p=80:80:80:80"],
            "is not [ADDRESS:][HOST]:CONTAINER",
        ),
        (
            &[BRIDGE, "-p=80:80", "-p=127.0.0.1:80:81"],
            "asked for twice",
        ),
    ] {
        let output = people.run(&[&["--rm"], flags].concat(), &["true"]);
        assert_eq!(output.code, 125, "{flags:?}: {}", output.stderr);
        assert!(output.stderr.contains(why), "{flags:?}: {}", output.stderr);
    }
    people.assert_empty();
    nobody_is_connected(env);
}

fn who_is_killed_leaves_nothing(env: &Env) {
    let people = People::new(env);
    let free = || {
        people
            .run(&["--rm", "--name=web", BRIDGE, "-p", "8080:80"], &["true"])
            .ok();
        assert_eq!(connected(env), Vec::<String>::new());
    };
    for step in 0..20 {
        for mode in ["-d", "--rm"] {
            let mut running = people.spawn(
                &[mode, "--name=web", BRIDGE, "-p", "8080:80"],
                &["sleep", "100"],
            );
            std::thread::sleep(Duration::from_millis(step * 5));
            running.child.kill().unwrap();
            let _ = env.rt.finish(running);
            let removed = people.shelf.call(&["rm", "--force", "web"]);
            let gone = removed.stderr.to_lowercase().contains("no such container");
            assert!(removed.code == 0 || gone, "{step}: {}", removed.stderr);
            free();
        }
        people
            .run(
                &["-d", "--name=web", BRIDGE, "-p", "8080:80"],
                &["sleep", "100"],
            )
            .ok();
        let mut running = people.shelf.spawn(&["rm", "--force", "web"]);
        std::thread::sleep(Duration::from_millis(step * 4));
        running.child.kill().unwrap();
        let _ = env.rt.finish(running);
        people.shelf.call(&["rm", "--force", "web"]);
        free();
    }
    people.shelf.ok(&["prune", "--force"]);
    nobody_is_connected(env);
    people.assert_empty();
}

fn who_ends_unnoticed_makes_place(env: &Env) {
    let people = People::new(env);
    serve(&people, "web", &["-p", "8080:80"]);
    kill_all(&people, "web");
    assert_eq!(connected(env).len(), 1);
    // The kernel takes the namespace away in its own time.
    wait_for("the port", || {
        let output = people.run(&["--rm", BRIDGE, "-p", "8080:80"], &["true"]);
        (output.code == 0).then_some(())
    });
    serve(&people, "other", &["-p", "8081:80"]);
    kill_all(&people, "other");
    wait_for("prune", || {
        people.shelf.ok(&["container", "prune", "--force"]);
        // The one that was killed last may have been dying when it was looked at.
        (connected(env).is_empty() && people.containers().is_empty()).then_some(())
    });
    nobody_is_connected(env);
    people.assert_empty();
}

/// First the monitor, then what it looked after.
fn kill_all(people: &People<'_>, name: &str) {
    use nix::sys::signal::{Signal, kill};
    let pid = inspect(people, name)["State"]["Pid"].as_i64().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent: i32 = (stat.rsplit(')').next().unwrap().split_whitespace().nth(1))
        .and_then(|text| text.parse().ok())
        .unwrap();
    for pid in [parent, i32::try_from(pid).unwrap()] {
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
}

/// A client that is killed between making a container and starting it.
fn one_that_waits_for_its_start_can_be_started(env: &Env) {
    let people = People::new(env);
    let mut seen = 0;
    let begun = Instant::now();
    let flags = ["-d", "--name=web", BRIDGE, "-p", "8080:80"];
    people.run(&flags, &["sh", "-c", SERVER]).ok();
    let whole = begun.elapsed();
    people.remove("web");
    for step in 0..80 {
        let mut running = people.spawn(
            &["-d", "--name=web", BRIDGE, "-p", "8080:80"],
            &["sh", "-c", SERVER],
        );
        // The moment is in the second half, most likely.
        std::thread::sleep(whole * (20 + step % 40 * 2) / 100);
        running.child.kill().unwrap();
        let _ = env.rt.finish(running);
        let state = people.shelf.ok(&["ps", "-a", "--format={State}"]);
        if state == "created\n" {
            seen += 1;
            people.shelf.ok(&["start", "web"]);
            heard("127.0.0.1:8080");
        }
        people.shelf.call(&["rm", "--force", "web"]);
        if seen == 2 {
            break;
        }
    }
    assert!(seen > 0, "the moment was never met");
    people.shelf.ok(&["prune", "--force"]);
    nobody_is_connected(env);
}

fn root_has_a_bridge_by_default(env: &Env) {
    let people = People::new(env);
    people.shelf.settings(&json!({"network": {}}));
    let text = people.sh(&["-p", "8080:80"], "ip addr show eth0");
    assert!(text.contains("10.138.0."), "{text}");
    // The bridge can be another one once nobody is connected.
    let bridge = json!({"name": "mine", "v4": "10.99.0.0/24", "v6": "fd00:99::/64", "mtu": 1400});
    people
        .shelf
        .settings(&json!({"network": {"bridge": bridge}}));
    let text = people.sh(&["--ip6=fd00:99::77"], "ip addr show eth0; cat /etc/hosts");
    for part in ["10.99.0.119/24", "fd00:99::77/64", "mtu 1400"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    people
        .shelf
        .settings(&json!({"network": {"default": "host"}}));
    assert!(!people.sh(&[], "ls /sys/class/net").contains("eth0"));
    nobody_is_connected(env);
}

fn attack_on_the_bridge_of_another_root(env: &Env) {
    let people = People::new(env);
    serve(&people, "web", &["-p", "8080:80"]);
    let mut command = people.command(&["--rm", BRIDGE], &["true"]);
    // The last one wins.
    let other = env.directory("other-root");
    let words: Vec<_> = command.get_args().map(std::ffi::OsStr::to_owned).collect();
    let at = words.iter().position(|word| word == "run").unwrap();
    let mut again = std::process::Command::new(command.get_program());
    again
        .args(&words[..at])
        .arg("--root")
        .arg(&other)
        .args(&words[at..]);
    for (name, value) in command.get_envs() {
        again.env(name, value.unwrap());
    }
    command = again;
    command.stdin(std::process::Stdio::null());
    let output = env.rt.finish(env.rt.spawn(command));
    assert_eq!(output.code, 125, "{}", output.stderr);
    assert!(
        output
            .stderr
            .contains("cannot use bridge rcrun1: it is that of"),
        "{}",
        output.stderr
    );
    assert_eq!(heard("127.0.0.1:8080"), "web");
    people.remove("web");
    nobody_is_connected(env);
    people.assert_empty();
}
