//! Exec, attach and port-forward: what the kubelet's clients do.

use crate::harness::cri::Node;
use crate::harness::pods::Pods;
use crate::harness::process::until;
use crate::harness::streaming::{
    Ended, STDERR, STDIN, STDOUT, Session, Trust, World, children, entries, resident,
};
use crate::harness::{Env, Test, full, test};
use rcrun_cri::proto::v1 as cri;
use rcrun_image::registry::testing::{Authority, Setup};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(exec_has_streams_and_a_code),
        test!(exec_half_closes),
        test!(exec_has_a_terminal),
        test!(exec_of_what_is_not_there),
        test!(exec_carries_much),
        test!(vanished_clients_leave_nothing),
        test!(attach_joins_the_program),
        test!(attach_ends_the_input_once),
        test!(attach_has_a_terminal),
        test!(ports_are_forwarded),
        test!(ports_of_the_node_are_forwarded),
        test!(a_url_is_good_once),
        test!(requests_without_sense_are_refused),
        test!(slow_readers_cost_little),
        test!(strangers_keep_nobody_out),
        test!(an_idle_session_ends),
        test!(streams_over_tls),
        test!(certificates_that_cannot_work_are_refused_at_the_start),
    ]
}

fn exec_has_streams_and_a_code(env: &Env) {
    let world = World::new(env);
    let script = "echo out; echo err >&2; exit 3";
    for (streams, out, err) in [
        ("oe", "out\n", "err\n"),
        ("o", "out\n", ""),
        ("e", "", "err\n"),
    ] {
        let mut session = world.exec(streams, &["sh", "-c", script]);
        assert_eq!(session.end(), Ended::Code(3), "{streams}");
        assert_eq!(
            (session.text(STDOUT), session.text(STDERR)),
            (out.into(), err.into())
        );
    }
    for (script, code) in [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137)] {
        assert_eq!(
            world.exec("oe", &["sh", "-c", script]).end(),
            Ended::Code(code)
        );
    }
    // Nobody keeps the session open who only has the output open still.
    let mut session = world.exec("o", &["sh", "-c", "sleep 4321 & echo out; exit 5"]);
    assert_eq!(session.end(), Ended::Code(5));
    assert_eq!(session.text(STDOUT), "out\n");
    world.pods.stop_container(&world.id, 0);
    world.leaves_nothing();
}

fn exec_half_closes(env: &Env) {
    let world = World::new(env);
    let mut session = world.exec("io", &["sh", "-c", "cat; echo end; exit 7"]);
    session.say(STDIN, b"hello\n");
    session.until(STDOUT, "hello\n");
    session.close(STDIN);
    assert_eq!(session.end(), Ended::Code(7));
    assert_eq!(session.text(STDOUT), "hello\nend\n");
    // A program that reads nothing does not mind.
    let mut session = world.exec("io", &["true"]);
    session.say(STDIN, &[b'x'; 1 << 16]);
    assert_eq!(session.end(), Ended::Code(0));
    // Without input it is at its end.
    assert_eq!(world.exec("o", &["cat"]).end(), Ended::Code(0));
    world.leaves_nothing();
}

fn exec_has_a_terminal(env: &Env) {
    let world = World::new(env);
    let script = "tty; stty -echo; exec 3<&0; (while sleep 0.02; do stty size <&3; done) & \
                  cat >/dev/null; kill $!; stty size; echo end; exit 6";
    let mut session = world.exec("iot", &["sh", "-c", script]);
    session.until(STDOUT, "/dev/pts/");
    for (width, height) in [(80, 24), (200, 50), (20, 3)] {
        session.resize(width, height);
        session.until(STDOUT, &format!("{height} {width}\r\n"));
    }
    // Many, and only the last one counts.
    for width in 1..500 {
        session.resize(width, 7);
    }
    session.resize(123, 45);
    session.until(STDOUT, "45 123\r\n");
    session.close(STDIN);
    session.until(STDOUT, "end\r\n");
    assert_eq!(session.end(), Ended::Code(6));
    // Ctrl-C reaches the program.
    let mut session = world.exec("iot", &["sh", "-c", "echo go; exec sleep 4321"]);
    session.until(STDOUT, "go");
    session.say(STDIN, b"\x03");
    assert_eq!(session.end(), Ended::Code(130));
    // A terminal that nobody looks at does not hold its program.
    let mut session = world.exec("it", &["sh", "-c", "head -c 300000 /dev/zero; exit 8"]);
    assert_eq!(session.end(), Ended::Code(8));
    world.leaves_nothing();
}

fn exec_of_what_is_not_there(env: &Env) {
    let world = World::new(env);
    for streams in ["oe", "iot"] {
        match world.exec(streams, &["no-such-program"]).end() {
            Ended::Error(why) => assert!(why.contains("not found in $PATH"), "{why}"),
            ended => panic!("{ended:?}"),
        }
    }
    let consoles = world.pods.env.rt.root.join(".cri/consoles");
    assert_eq!(std::fs::read_dir(consoles).unwrap().count(), 0);
    world.leaves_nothing();
}

fn exec_carries_much(env: &Env) {
    let world = World::new(env);
    let megabytes = if full() { 1024 } else { 32 };
    let mut session = world.exec("io", &["cat"]);
    let mut writer = session.writer();
    let begun = Instant::now();
    let writing = std::thread::spawn(move || {
        let piece: Vec<u8> = (0..1 << 15)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        for _ in 0..megabytes * 32 {
            assert!(writer.say(STDIN, &piece));
        }
        writer.close(STDIN);
    });
    assert_eq!(session.end(), Ended::Code(0));
    writing.join().unwrap();
    let heard = &session.heard[&STDOUT];
    assert_eq!(heard.len(), megabytes << 20);
    let piece: Vec<u8> = (0..1 << 15)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    assert!(heard.chunks(1 << 15).all(|chunk| chunk == piece));
    println!("{megabytes} MiB there and back in {:?}", begun.elapsed());
    world.leaves_nothing();
}

fn vanished_clients_leave_nothing(env: &Env) {
    let world = World::new(env);
    let node = &world.pods.node;
    let rounds = if full() { 2000 } else { 40 };
    let round = |index: usize| {
        let (streams, cmd): (_, &[&str]) = match index % 4 {
            // Hung up.
            0 => ("iot", &["sh", "-c", "echo go; sleep 4321; sleep 4321"]),
            // At its end.
            1 => ("io", &["sh", "-c", "echo go; cat; true 4321"]),
            // Not allowed to write any more.
            2 => (
                "oe",
                &["sh", "-c", "while echo go 4321; do sleep 0.02; done"],
            ),
            _ => ("", &[]),
        };
        let mut session = match streams {
            "" => world.attach("oe"),
            streams => world.exec(streams, cmd),
        };
        if !streams.is_empty() {
            session.until(STDOUT, "go");
        }
        session.vanish();
    };
    let settle = || {
        world.none_runs("4321");
        // Threads that block end after a while.
        std::thread::sleep(Duration::from_secs(3));
        (
            entries(node.pid(), "fd"),
            entries(node.pid(), "task"),
            children(node.pid()),
        )
    };
    (0..8).for_each(round);
    let before = settle();
    (0..rounds).for_each(round);
    let after = settle();
    assert!(after.0 <= before.0 + 5, "descriptors: {before:?} {after:?}");
    assert!(after.1 <= before.1, "threads: {before:?} {after:?}");
    assert_eq!(after.2, before.2, "children");
    // What takes no notice goes on, as with containerd; it ends with its container.
    let mut session = world.exec("o", &["sh", "-c", "echo go; exec sleep 4321"]);
    session.until(STDOUT, "go");
    session.vanish();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(world.running("sleep 4321"), 2, "it and who waits for it");
    world.pods.stop_container(&world.id, 0);
    world.none_runs("4321");
    world.leaves_nothing();
}

fn attach_joins_the_program(env: &Env) {
    let script = "while read line; do echo out $line; echo err $line >&2; done; echo end; exit 9";
    let world = World::with(env, script, |_| {}, |config| config.stdin = true);
    let mut first = world.attach("ioe");
    let mut second = world.attach("oe");
    // When a client has joined nobody says: the first one speaks until the other one hears it.
    std::thread::scope(|scope| {
        let hearing = scope.spawn(|| {
            second.until(STDOUT, "out one\n");
            second.until(STDERR, "err one\n");
        });
        while !hearing.is_finished() {
            first.say(STDIN, b"one\n");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    first.until(STDOUT, "out one\n");
    first.until(STDERR, "err one\n");
    // The end of a client's input is not the end of the container's.
    first.close(STDIN);
    first.vanish();
    let mut third = world.attach("ioe");
    third.say(STDIN, b"two\n");
    second.until(STDOUT, "out two\n");
    third.until(STDERR, "err two\n");
    let status = world.pods.status(&world.id);
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    assert!(world.pods.log(&status).contains("out one\nerr one\n"));
    world.pods.stop_container(&world.id, 0);
    assert_eq!(second.end(), Ended::Code(0));
    assert_eq!(third.end(), Ended::Code(0));
    world.leaves_nothing();
}

fn attach_ends_the_input_once(env: &Env) {
    let once = |config: &mut cri::ContainerConfig| {
        config.stdin = true;
        config.stdin_once = true;
    };
    let world = World::with(env, "cat; echo end; exit 9", |_| {}, once);
    let mut session = world.attach("io");
    session.say(STDIN, b"word\n");
    session.until(STDOUT, "word\n");
    session.close(STDIN);
    assert_eq!(session.end(), Ended::Code(0));
    assert_eq!(session.text(STDOUT), "word\nend\n");
    assert_eq!(world.pods.ended(&world.id).exit_code, 9);
    world.leaves_nothing();
}

fn attach_has_a_terminal(env: &Env) {
    let script = "stty -echo; echo ready; while read line; do stty size; done";
    let tty = |config: &mut cri::ContainerConfig| {
        config.stdin = true;
        config.tty = true;
    };
    let world = World::with(env, script, |_| {}, tty);
    let mut session = world.attach("iot");
    until("the terminal has its size", 10, || {
        session.resize(99, 33);
        std::thread::sleep(Duration::from_millis(20));
        session.say(STDIN, b"\n");
        session.until(STDOUT, "\n");
        std::thread::sleep(Duration::from_millis(20));
        session.text(STDOUT).contains("33 99\r\n").then_some(())
    });
    world.pods.stop_container(&world.id, 0);
    assert_eq!(session.end(), Ended::Code(0));
    world.leaves_nothing();
}

/// Who answers on a port: it says `greeting`, what it hears, and when that has ended, `end`.
fn answer(network: Option<&std::fs::File>, address: &str, greeting: &'static str) {
    let enter = network.map(|network| network.try_clone().unwrap());
    let address = address.to_owned();
    let listener = std::thread::spawn(move || {
        if let Some(network) = enter {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(network.as_fd(), kind).unwrap();
        }
        std::net::TcpListener::bind(address).unwrap()
    });
    let listener = listener.join().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            std::thread::spawn(move || {
                let _ = socket.write_all(greeting.as_bytes());
                let mut heard = Vec::new();
                let _ = socket.read_to_end(&mut heard);
                heard.extend_from_slice(b"end\n");
                let _ = socket.write_all(&heard);
            });
        }
    });
}

fn ports_are_forwarded(env: &Env) {
    let world = World::new(env);
    let network = env.rt.root.join(".cri/pods").join(&world.pod).join("net");
    let network = std::fs::File::open(network).unwrap();
    answer(Some(&network), "127.0.0.1:81", "four\n");
    answer(Some(&network), "[::1]:82", "six\n");
    drop(network);
    let mut session = world.forward();
    session.connect(1, 81);
    session.connect(5, 83);
    session.connect(9, 82);
    session.connect(13, 81);
    // Each by itself; the end of one direction is not that of the other.
    session.data(3, b"a\n", true);
    session.data(11, b"b\n", true);
    session.data(15, b"c\n", false);
    session.data(15, b"d\n", true);
    let all = session.finished(&[3, 5, 11, 15]);
    assert_eq!(all[&3], "four\na\nend\n");
    assert_eq!(all[&15], "four\nc\nd\nend\n");
    assert_eq!(all[&11], "six\nb\nend\n");
    let why = &all[&5];
    assert!(
        why.contains("port 83") && why.contains("127.0.0.1:83"),
        "{why}"
    );
    assert!(why.to_lowercase().contains("connection refused"), "{why}");
    // The session goes on.
    session.connect(17, 81);
    session.data(19, b"e\n", true);
    assert_eq!(session.finished(&[19])[&19], "four\ne\nend\n");
    // Nothing of this is in the node's own network.
    assert!(std::net::TcpStream::connect("127.0.0.1:81").is_err());
    world.pods.stop(&world.pod);
    let request = cri::PortForwardRequest {
        pod_sandbox_id: world.pod.clone(),
        port: Vec::new(),
    };
    let node = &world.pods.node;
    node.refused(
        node.runtime().port_forward(request),
        Code::FailedPrecondition,
    );
    world.leaves_nothing();
}

fn ports_of_the_node_are_forwarded(env: &Env) {
    let host = |pod: &mut cri::PodSandboxConfig| {
        let security = crate::harness::pods::pod_security(pod);
        let options = security.namespace_options.get_or_insert_default();
        options.network = cri::NamespaceMode::Node.into();
    };
    let world = World::with(env, "exec sleep 10000", host, |_| {});
    answer(None, "127.0.0.1:81", "four\n");
    let mut session = world.forward();
    session.connect(1, 81);
    session.data(3, b"a\n", true);
    assert_eq!(session.finished(&[3])[&3], "four\na\nend\n");
    world.leaves_nothing();
}

fn a_url_is_good_once(env: &Env) {
    let world = World::new(env);
    let request = cri::ExecRequest {
        container_id: world.id.clone(),
        cmd: vec!["true".to_owned()],
        stdout: true,
        ..Default::default()
    };
    let url = world
        .pods
        .node
        .ok(world.pods.node.runtime().exec(request))
        .url;
    let rest = url
        .strip_prefix("http://127.0.0.1:")
        .expect("on loopback only");
    assert_eq!(Session::open(&url, &None).end(), Ended::Code(0));
    let (port, path) = rest.split_once('/').unwrap();
    assert!(
        path.strip_prefix("exec/").unwrap().len() >= 22,
        "{path}: 128 bits and more"
    );
    for path in [
        path,
        "exec/",
        "exec/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "..",
        "metrics",
    ] {
        let mut socket = std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        write!(
            socket,
            "GET /{path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    world.leaves_nothing();
}

fn requests_without_sense_are_refused(env: &Env) {
    let world = World::new(env);
    let node = &world.pods.node;
    let exec = |change: fn(&mut cri::ExecRequest), code| {
        let mut request = cri::ExecRequest {
            container_id: world.id.clone(),
            cmd: vec!["true".to_owned()],
            stdout: true,
            ..Default::default()
        };
        change(&mut request);
        node.refused(node.runtime().exec(request), code)
    };
    exec(|request| request.cmd.clear(), Code::InvalidArgument);
    exec(|request| request.stdout = false, Code::InvalidArgument);
    exec(
        |request| (request.tty, request.stderr) = (true, true),
        Code::InvalidArgument,
    );
    exec(
        |request| request.container_id = "f".repeat(64),
        Code::NotFound,
    );
    exec(|request| request.container_id.clear(), Code::NotFound);
    for port in [0, -1, 65536] {
        let request = cri::PortForwardRequest {
            pod_sandbox_id: world.pod.clone(),
            port: vec![port],
        };
        node.refused(node.runtime().port_forward(request), Code::InvalidArgument);
    }
    let config = world.pods.container("d", "true");
    let container_id = world.pods.create(&world.pod, &config, &world.of_pod);
    let request = cri::AttachRequest {
        container_id,
        stdout: true,
        ..Default::default()
    };
    let why = node.refused(node.runtime().attach(request), Code::FailedPrecondition);
    assert!(why.contains("is not started"), "{why}");
    world.leaves_nothing();
}

fn slow_readers_cost_little(env: &Env) {
    const SESSIONS: usize = 16;
    let world = World::new(env);
    let pid = world.pods.node.pid();
    world.exec("oe", &["true"]).end();
    let before = resident(pid);
    let begin = |_| {
        let mut session = world.exec("oe", &["sh", "-c", "yes 4321 & yes 4321 >&2"]);
        session.until(STDOUT, "4321");
        session
    };
    let sessions: Vec<Session> = (0..SESSIONS).map(begin).collect();
    std::thread::sleep(Duration::from_secs(1));
    let grown = resident(pid).saturating_sub(before);
    assert!(
        grown < SESSIONS * 768,
        "{grown} KiB for {SESSIONS} sessions"
    );
    // Programs wait, they do not spin.
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let begun = ticks();
    std::thread::sleep(Duration::from_secs(1));
    assert!(
        ticks() - begun < 20,
        "{} ticks in a second",
        ticks() - begun
    );
    // Others are not held up.
    assert_eq!(world.exec("o", &["true"]).end(), Ended::Code(0));
    assert_eq!(world.sync("echo on").0, "on\n");
    sessions.into_iter().for_each(Session::vanish);
    world.none_runs("4321");
    world.leaves_nothing();
}

fn strangers_keep_nobody_out(env: &Env) {
    let count = if full() { 10_000 } else { 600 };
    let world = World::new(env);
    let pid = world.pods.node.pid();
    let request = cri::AttachRequest {
        container_id: world.id.clone(),
        stdout: true,
        ..Default::default()
    };
    let url = world
        .pods
        .node
        .ok(world.pods.node.runtime().attach(request))
        .url;
    let address = url.split('/').nth(2).unwrap();
    let before = (entries(pid, "fd"), resident(pid));
    let mut strangers = std::collections::VecDeque::new();
    for index in 0..count {
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        // Some say half of something.
        if index % 3 == 0 {
            let _ = socket.write_all(b"GET /exec/AAAA HTTP/1.1\r\nHost:");
        }
        strangers.push_back(socket);
        // This process has limits too.
        if strangers.len() > 800 {
            strangers.pop_front();
        }
    }
    assert_eq!(world.exec("o", &["true"]).end(), Ended::Code(0));
    let after = (entries(pid, "fd"), resident(pid));
    assert!(
        after.0 <= before.0 + 256 + 16,
        "descriptors: {before:?} {after:?}"
    );
    assert!(
        after.1 <= before.1 + (8 << 10),
        "memory: {before:?} {after:?}"
    );
    drop(strangers);
    world.leaves_nothing();
}

fn an_idle_session_ends(env: &Env) {
    let world = World::of(Pods::with(env, &json!({"stream_idle_timeout": 1})));
    let begun = Instant::now();
    let mut session = world.exec("io", &["sh", "-c", "echo go; cat; true 4321"]);
    session.until(STDOUT, "go");
    session.closed();
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    world.none_runs("4321");
    world.leaves_nothing();
}

/// Puts certificate and key for the server of streams there, as a whole; what the settings say of them.
fn certificate(env: &Env, authority: &Authority, name: &str) -> serde_json::Value {
    let (certificate, key) = authority.certificate(&[name]);
    let at = env.path("streams.pem");
    let new = env.path("new.pem");
    std::fs::write(&new, certificate + &key).unwrap();
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::rename(new, &at).unwrap();
    json!({"stream_tls": {"certificate": at, "key": at}})
}

fn trust(authority: &Authority) -> Trust {
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Some(Arc::new(client))
}

fn streams_over_tls(env: &Env) {
    let (authority, later) = (Authority::new(), Authority::new());
    let settings = certificate(env, &authority, "127.0.0.1");
    let mut world = World::of(Pods::with(env, &settings));
    world.trust = trust(&authority);
    let exec = |world: &World| {
        let mut session = world.exec("ioe", &["sh", "-c", "cat; echo err >&2; exit 7"]);
        session.say(STDIN, b"hello\n");
        session.close(STDIN);
        assert_eq!(session.end(), Ended::Code(7));
        let heard = (session.text(STDOUT), session.text(STDERR));
        assert_eq!(heard, ("hello\n".to_owned(), "err\n".to_owned()));
    };
    exec(&world);
    let mut session = world.exec("iot", &["sh", "-c", "stty size; read x; exit 6"]);
    session.until(STDOUT, "\r\n");
    session.vanish();
    let session = world.attach("oe");
    session.vanish();
    let network = env.rt.root.join(".cri/pods").join(&world.pod).join("net");
    answer(
        Some(&std::fs::File::open(network).unwrap()),
        "127.0.0.1:81",
        "four\n",
    );
    let mut session = world.forward();
    session.connect(1, 81);
    session.data(3, b"a\n", true);
    assert_eq!(session.finished(&[3])[&3], "four\na\nend\n");
    session.vanish();
    // A renewed certificate, here of another authority, is shown without a restart.
    certificate(env, &later, "127.0.0.1");
    std::thread::sleep(Duration::from_millis(1100));
    world.trust = trust(&later);
    exec(&world);
    world.leaves_nothing();
}

fn certificates_that_cannot_work_are_refused_at_the_start(env: &Env) {
    let authority = Authority::new();
    let tls = certificate(env, &authority, "node-1");
    let file = env.path("streams.pem");
    let node = Node::prepare(env, Setup::default());
    let refused = |cri: &serde_json::Value, words: &str| {
        node.configure(cri.clone());
        let said = node.shelf.call(&["serve"]).fails();
        said.says("cri.stream_tls").says(words);
        let found = node.shelf.call(&["serve", "--check"]).exits(1).stdout;
        assert!(found.contains("missing  streaming: over TLS: "), "{found}");
        assert!(found.contains(words), "{found}");
    };
    refused(&tls, "is not for 127.0.0.1");
    let mut named = tls.clone();
    named["stream_tls"]["host"] = json!("node-1");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    refused(&named, "mode 0644");
    std::fs::remove_file(&file).unwrap();
    refused(&named, "streams.pem");
}
