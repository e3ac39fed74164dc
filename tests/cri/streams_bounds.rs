//! What streams cost and whom they trust: URLs, slow and silent clients, strangers, certificates.

use super::streams::answer;
use crate::harness::cri::Node;
use crate::harness::pods::Pods;
use crate::harness::streaming::{
    Ended, STDERR, STDIN, STDOUT, Session, Trust, World, entries, resident,
};
use crate::harness::{Env, Test, full, test};
use rcrun_cri::proto::v1 as cri;
use rcrun_image::registry::testing::{Authority, Setup};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(a_url_is_good_once),
        test!(requests_without_sense_are_refused),
        test!(slow_readers_cost_little),
        test!(strangers_keep_nobody_out),
        test!(an_idle_session_ends),
        test!(streams_over_tls),
        test!(certificates_that_cannot_work_are_refused_at_the_start),
    ]
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
        grown < SESSIONS * 896,
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
