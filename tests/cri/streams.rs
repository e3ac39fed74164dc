//! Exec, attach and port-forward: what the kubelet's clients do.

use crate::harness::streaming::{Ended, STDERR, STDIN, STDOUT, World, children, entries};
use crate::harness::{Env, Test, full, test};
use rcrun_cri::proto::v1 as cri;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
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
    let script = "stty -echo; until [ \"$(stty size)\" = '33 99' ]; do sleep 0.01; done; echo sized; \
                  while read line; do echo got $line; done";
    let tty = |config: &mut cri::ContainerConfig| {
        config.stdin = true;
        config.tty = true;
    };
    let world = World::with(env, script, |_| {}, tty);
    let mut session = world.attach("iot");
    session.resize(99, 33);
    session.until(STDOUT, "sized\r\n");
    session.say(STDIN, b"word\n");
    session.until(STDOUT, "got word\r\n");
    world.pods.stop_container(&world.id, 0);
    assert_eq!(session.end(), Ended::Code(0));
    world.leaves_nothing();
}

/// Who answers on a port: it says `greeting`, what it hears, and when that has ended, `end`.
pub(super) fn answer(network: Option<&std::fs::File>, address: &str, greeting: &'static str) {
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
