//! TLS: all that the other test programs do, over it, and what is its own.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test reports by panicking"
)]
#![allow(dead_code, reason = "helpers are shared by several test programs")]
#![allow(
    clippy::duplicate_mod,
    reason = "other test programs are parts of this one, each with its helpers"
)]

#[path = "attacks.rs"]
mod attacks;
mod client;
mod echo;
#[path = "spdy.rs"]
mod spdy;
#[path = "websocket.rs"]
mod websocket;

use client::secure::{Authority, Connection, Files};
use client::{Client, FORWARD, V4, World, text};
use echo::Echo;
use rcrun_streaming::{Server, Settings, Tls, limits};
use rustls::pki_types::{CertificateDer, ServerName};
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Whether clients and server speak TLS.
const SECURE: bool = true;
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn name() -> ServerName<'static> {
    ServerName::try_from("127.0.0.1").unwrap()
}

/// The certificate that a new client is shown.
async fn shown(host: &str) -> CertificateDer<'static> {
    let connector = TlsConnector::from(Arc::new(Authority::one().client(&[])));
    let socket = TcpStream::connect(host).await.unwrap();
    let stream = connector.connect(name(), socket).await.unwrap();
    let (_, connection) = stream.get_ref();
    connection.peer_certificates().unwrap()[0].clone()
}

async fn served(files: &Files) -> World {
    let tls = Some(files.tls());
    World::new(Settings {
        tls,
        ..Settings::default()
    })
    .await
}

#[tokio::test]
async fn exec_attach_and_port_forward_by_both_protocols() {
    let world = World::new(Settings::default()).await;
    for line in ["exec io cat", "attach io"] {
        let mut client = Client::spdy(&world, line, V4).await;
        client.open_all(&["error", "stdin", "stdout"]).await;
        client.data(3, true, b"hello").await;
        assert_eq!(text(&client.rest().await[&5].0), "hello", "{line}");
        let mut client = Client::web_socket(&world, line, "v5.channel.k8s.io").await;
        client.web_frame(0x82, b"\x00hello").await;
        client.web_frame(0x82, &[255, 0]).await;
        let (all, status) = client.web_rest().await;
        assert_eq!((status, text(&all[&1])), (1000, "hello"), "{line}");
    }
    let mut client = Client::spdy(&world, "forward 80", FORWARD).await;
    for (id, kind) in [(1, "error"), (3, "data")] {
        let pairs = [("streamtype", kind), ("port", "80"), ("requestid", "0")];
        client.open(id, &pairs).await;
    }
    client.data(3, true, b"over a port").await;
    loop {
        match client.frame().await {
            client::Frame::Data(3, false, bytes) => {
                assert_eq!(text(&bytes), "over a port");
                break;
            }
            client::Frame::End => panic!("the session ended"),
            _ => {}
        }
    }
    let mut client = Client::web_socket(&world, "forward 80", V4).await;
    client.web_frame(0x82, b"\x00by a channel").await;
    let mut heard = Vec::new();
    while !heard.ends_with(b"by a channel") {
        heard = client.web_read().await.unwrap().1;
    }
}

#[tokio::test]
async fn versions_of_tls() {
    let world = World::new(Settings::default()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (host, path) = world.url("exec o exit 0");
        let connector = TlsConnector::from(Arc::new(Authority::one().client(&[version])));
        let socket = TcpStream::connect(&host).await.unwrap();
        let mut stream = connector.connect(name(), socket).await.unwrap();
        let text = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101", "{version:?}");
    }
    // The same hello as one of TLS 1.2, which is answered (22), and of TLS 1.1, to which the answer is an alert (21).
    for (minor, expected) in [(3, 22), (2, 21), (1, 21)] {
        let mut hello = vec![1, 0, 0, 0, 3, minor];
        hello.extend([7; 32]);
        hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
        let groups = [0, 10, 0, 4, 0, 2, 0, 23];
        let points = [0, 11, 0, 2, 1, 0];
        let signatures = [0, 13, 0, 4, 0, 2, 4, 3];
        let extensions = [&groups[..], &points, &signatures].concat();
        hello.extend([0, u8::try_from(extensions.len()).unwrap()]);
        hello.extend(extensions);
        hello[3] = u8::try_from(hello.len() - 4).unwrap();
        let (host, _) = world.url("exec o exit 0");
        let mut socket = TcpStream::connect(&host).await.unwrap();
        let mut record = vec![22, 3, 1, 0, u8::try_from(hello.len()).unwrap()];
        record.extend(hello);
        socket.write_all(&record).await.unwrap();
        let kind = timeout(PATIENCE, socket.read_u8()).await;
        assert_eq!(kind.unwrap().unwrap(), expected, "3.{minor}");
    }
}

#[tokio::test]
async fn who_speaks_no_tls_is_told() {
    let world = World::new(Settings::default()).await;
    let (host, path) = world.url("exec o exit 0");
    let mut socket = TcpStream::connect(&host).await.unwrap();
    let text = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(PATIENCE, socket.read_to_string(&mut answer)).await;
    read.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("https"), "{answer}");
    // The token was not looked at: it is good still.
    let mut client = Client::connect(&host).await;
    let upgrade = ["Connection: Upgrade", "Upgrade: SPDY/3.1"];
    let version = "X-Stream-Protocol-Version: v4.channel.k8s.io";
    let fields = [upgrade[0], upgrade[1], version];
    let answer = client.ask(&format!("GET {path}"), &fields).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
}

async fn refusal(tls: Tls, host: Option<&str>) -> String {
    let settings = Settings {
        tls: Some(tls),
        host: host.map(str::to_owned),
        ..Settings::default()
    };
    match Server::bind(settings, Echo::default()).await {
        Ok(_) => "none".to_owned(),
        Err(error) => format!("{}; {}", error.chain(), error.hint().unwrap_or_default()),
    }
}

#[tokio::test]
async fn certificates_and_keys_that_are_refused() {
    let files = Files::of("127.0.0.1");
    let at = |name: &str| files.path().join(name);
    let pair = |certificate: &str, key: &str| Tls {
        certificate: at(certificate),
        key: at(key),
    };
    let (certificate, key) = Authority::one().pair("127.0.0.1");
    let (elsewhere, its_key) = Authority::one().pair("node-1");
    for (name, text, mode) in [
        ("both", format!("{certificate}{key}"), 0o600),
        ("crt", certificate.clone(), 0o644),
        ("key", key.clone(), 0o400),
        ("key-of-all", key.clone(), 0o644),
        ("key-of-group", key.clone(), 0o640),
        ("elsewhere", elsewhere.clone(), 0o600),
        ("its-key", its_key.clone(), 0o600),
        ("empty", String::new(), 0o600),
        ("long", certificate.repeat(3000), 0o600),
        ("chain", certificate.repeat(17), 0o600),
        ("locked", key.replace("PRIVATE", "ENCRYPTED PRIVATE"), 0o600),
        ("broken", certificate.replace("MII", "M!I"), 0o600),
        (
            "not-x509",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
            0o600,
        ),
    ] {
        files.put(name, &text, mode);
    }
    symlink("both", at("current")).unwrap();
    let fifo = std::ffi::CString::new(at("fifo").to_str().unwrap()).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for (certificate, key, words) in [
        ("crt", "key", "none"),
        ("both", "both", "none"),
        ("current", "current", "none"),
        ("crt", "key-of-all", "(mode 0644); chown"),
        ("crt", "key-of-group", "(mode 0640); chown"),
        ("crt", "its-key", "not the key of the certificate"),
        ("elsewhere", "its-key", "not for 127.0.0.1; add 127.0.0.1"),
        ("nowhere", "key", "nowhere for TLS: No such file"),
        ("crt", "nowhere", "nowhere for TLS: No such file"),
        ("empty", "key", "no certificate in it"),
        ("key", "key", "no certificate in it"),
        ("crt", "empty", "no key in it that can be read; write it"),
        ("crt", "locked", "no key in it that can be read; write it"),
        ("long", "key", "longer than"),
        ("chain", "key", "more certificates"),
        ("broken", "key", "not PEM"),
        ("not-x509", "key", "its first certificate is none"),
        ("fifo", "key", "not a file"),
        ("crt", "fifo", "not a file"),
        (".", "key", "not a file"),
    ] {
        let found = refusal(pair(certificate, key), None).await;
        assert!(found.contains(words), "{certificate}, {key}: {found}");
    }
    assert_eq!(
        refusal(pair("elsewhere", "its-key"), Some("node-1")).await,
        "none"
    );
    for host in ["", "a b", "x/y", "a@b", "[::1]"] {
        let found = refusal(pair("crt", "key"), Some(host)).await;
        assert!(found.contains("not a host's name"), "{host:?}: {found}");
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(at("key"), Some(65534), None).unwrap();
        let found = refusal(pair("crt", "key"), None).await;
        assert!(found.contains("belongs to user 65534; chown 0 "), "{found}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_renewed_is_shown() {
    let files = Files::of("127.0.0.1");
    let world = served(&files).await;
    let (host, _) = world.url("exec io cat");
    let first = shown(&host).await;
    let mut running = Client::spdy(&world, "exec io cat", V4).await;
    running.open_all(&["error", "stdin", "stdout"]).await;
    // Half of a rotation, files that are gone, a key that others may read: the one before stays.
    let (certificate, key) = Authority::one().pair("127.0.0.1");
    let look = limits::CERTIFICATE_LOOK + Duration::from_millis(100);
    files.put("tls.crt", &certificate, 0o644);
    tokio::time::sleep(look).await;
    assert_eq!(shown(&host).await, first);
    std::fs::remove_file(files.path().join("tls.key")).unwrap();
    tokio::time::sleep(look).await;
    assert_eq!(shown(&host).await, first);
    files.put("tls.key", &key, 0o644);
    tokio::time::sleep(look).await;
    assert_eq!(shown(&host).await, first);
    // The other half.
    files.put("tls.key", &key, 0o600);
    let begun = Instant::now();
    let mut second = shown(&host).await;
    while second == first {
        assert!(begun.elapsed() < PATIENCE, "the new one is never shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
        second = shown(&host).await;
    }
    assert!(begun.elapsed() < 3 * look, "{:?}", begun.elapsed());
    // The same pair written again, and a session that runs since before.
    files.put("tls.key", &key, 0o600);
    tokio::time::sleep(look).await;
    assert_eq!(shown(&host).await, second);
    running.data(3, true, b"still here").await;
    assert_eq!(text(&running.rest().await[&5].0), "still here");
}

#[tokio::test]
async fn attack_slow_handshakes() {
    let world = World::new(Settings::default()).await;
    let (host, _) = world.url("exec o exit 0");
    // Nothing, the head of a record, and a hello of which a byte comes now and then.
    let mut slow = Vec::new();
    for at in 0..2 * limits::STRANGERS {
        let mut socket = TcpStream::connect(&host).await.unwrap();
        let some: &[u8] = match (at + 1) % 3 {
            0 => &[],
            1 => &[22],
            _ => &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3],
        };
        socket.write_all(some).await.unwrap();
        slow.push(socket);
    }
    let begun = Instant::now();
    let mut client = Client::spdy(&world, "exec oe exit 3", V4).await;
    client.open_all(&["error", "stdout", "stderr"]).await;
    assert_eq!(text(&client.rest().await[&3].0), "out\n");
    assert!(
        begun.elapsed() < limits::HEAD_TIME / 2,
        "{:?}",
        begun.elapsed()
    );
    // The newest have their time, and no more, whatever they send.
    let mut last = slow.pop().unwrap();
    let drip = async {
        let (mut reader, mut writer) = last.split();
        let mut byte = [0];
        loop {
            tokio::select! {
                read = reader.read(&mut byte) => return read,
                () = tokio::time::sleep(Duration::from_millis(300)) => {
                    if writer.write_all(&[0]).await.is_err() {
                        return Ok(0);
                    }
                }
            }
        }
    };
    let ended = timeout(limits::HEAD_TIME + Duration::from_secs(5), drip).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
}

#[tokio::test]
async fn attack_handshakes_that_are_none() {
    let world = World::new(Settings::default()).await;
    let (host, _) = world.url("exec o exit 0");
    let mut long = vec![22, 3, 1, 0xff, 0xff];
    long.extend([1; 70_000]);
    let mut endless = Vec::new();
    // Records of a hello of 16 MiB.
    for at in 0..200 {
        endless.extend([22, 3, 1, 0x40, 0]);
        let mut piece = vec![0; 1 << 14];
        if at == 0 {
            piece[..4].copy_from_slice(&[1, 0xff, 0xff, 0xff]);
        }
        endless.extend(piece);
    }
    for bytes in [
        b"\x16\x03\x01\x00\x00".to_vec(),
        b"\x80\x2e\x01\x03\x01".to_vec(),
        vec![0; 20_000],
        vec![0xff; 20_000],
        b"get / http/1.1\r\n\r\n".to_vec(),
        long,
        endless,
    ] {
        let mut socket = TcpStream::connect(&host).await.unwrap();
        let begun = Instant::now();
        // It may be refused while it is sent.
        let _ = socket.write_all(&bytes).await;
        let _ = socket.shutdown().await;
        let mut rest = Vec::new();
        let read = timeout(PATIENCE, socket.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "{:?}", &bytes[..5]);
        assert!(rest.len() < 64, "{rest:?}");
        assert!(begun.elapsed() < limits::HEAD_TIME / 2);
    }
    let mut client = Client::spdy(&world, "exec oe exit 3", V4).await;
    client.open_all(&["error", "stdout", "stderr"]).await;
    assert_eq!(text(&client.rest().await[&3].0), "out\n");
}

/// A line that is cut is not the end of the input: nobody said so (close_notify).
#[tokio::test]
async fn attack_truncation() {
    let world = World::new(Settings::default()).await;
    let mut client = Client::spdy(&world, "exec io count", V4).await;
    client.open_all(&["error", "stdin", "stdout"]).await;
    client.data(3, false, b"half of it").await;
    while world.seen.all.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let Connection::Secure(stream) = &mut client.socket else {
        panic!("this is TLS");
    };
    let (socket, _) = stream.get_mut();
    socket.shutdown().await.unwrap();
    world.quiet().await;
    let gone = world.seen.gone.load(Ordering::SeqCst);
    assert_eq!(gone, 1);
}
