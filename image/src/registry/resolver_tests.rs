//! Against a scripted name server on loopback.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

type Script = fn(&str, u16, bool) -> Reply;

enum Reply {
    Silence,
    Code(u8),
    Truncated,
    /// An answer to another question before the right one.
    Forged(Vec<IpAddr>),
    Addresses(Vec<IpAddr>),
    Alias(&'static str, Vec<IpAddr>),
}

struct Server {
    port: u16,
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn name_in(query: &[u8]) -> (String, u16, usize) {
    let (mut at, mut labels) = (12, Vec::new());
    while query[at] != 0 {
        let length = usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..=at + length].to_vec()).unwrap());
        at += length + 1;
    }
    (
        labels.join("."),
        u16::from_be_bytes([query[at + 1], query[at + 2]]),
        at + 5,
    )
}

fn respond(query: &[u8], reply: &Reply) -> Vec<Vec<u8>> {
    let (_, kind, end) = name_in(query);
    let mut message = query[..end].to_vec();
    message[2] = 0x81;
    let record = |owner: &[u8], kind: u16, data: &[u8]| {
        let mut bytes = owner.to_vec();
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 60]);
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
        bytes
    };
    let raw = |address: &IpAddr| match address {
        IpAddr::V4(address) => (1, address.octets().to_vec()),
        IpAddr::V6(address) => (28, address.octets().to_vec()),
    };
    let mut records = Vec::new();
    match reply {
        Reply::Silence => return Vec::new(),
        Reply::Code(code) => message[3] = *code,
        Reply::Truncated => message[2] |= 2,
        Reply::Alias(alias, addresses) => {
            records.push(record(&[0xc0, 12], 5, &wire(alias)));
            for (kind, data) in addresses.iter().map(raw) {
                records.push(record(&wire(alias), kind, &data));
            }
            // An address that nobody asked for must not be used.
            records.push(record(&wire("unasked.example"), kind, &[6, 6, 6, 6]));
        }
        Reply::Addresses(addresses) | Reply::Forged(addresses) => {
            for (own, data) in addresses.iter().map(raw).filter(|(own, _)| *own == kind) {
                records.push(record(&[0xc0, 12], own, &data));
            }
        }
    }
    message[7] = records.len() as u8;
    message.extend(records.concat());
    let mut forged = message.clone();
    forged[0] ^= 0xff;
    match reply {
        Reply::Forged(_) => vec![forged, message],
        _ => vec![message],
    }
}

fn server(script: Script) -> Server {
    let (udp, tcp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()) {
            break (udp, tcp);
        }
    };
    let port = tcp.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    udp.set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let (count, ended) = (asked.clone(), stop.clone());
    let datagrams = std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while !ended.load(Ordering::SeqCst) {
            let Ok((length, from)) = udp.recv_from(&mut buffer) else {
                continue;
            };
            count.fetch_add(1, Ordering::SeqCst);
            let (name, kind, _) = name_in(&buffer[..length]);
            for message in respond(&buffer[..length], &script(&name, kind, false)) {
                udp.send_to(&message, from).unwrap();
            }
        }
    });
    let ended = stop.clone();
    let streams = std::thread::spawn(move || {
        for stream in tcp.incoming() {
            if ended.load(Ordering::SeqCst) {
                return;
            }
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let (name, kind, _) = name_in(&query);
            for message in respond(&query, &script(&name, kind, true)) {
                let length = (message.len() as u16).to_be_bytes();
                stream.write_all(&[&length[..], &message].concat()).unwrap();
            }
        }
    });
    let threads = vec![datagrams, streams];
    Server {
        port,
        asked,
        stop,
        threads,
    }
}

fn resolver(server: &Server, options: &str) -> (tempfile::TempDir, Resolver) {
    let directory = tempfile::tempdir().unwrap();
    let (hosts, configuration) = (
        directory.path().join("hosts"),
        directory.path().join("resolv"),
    );
    std::fs::write(
        &hosts,
        "# c\n10.1.1.1 Static.lan alias # no.lan\n::9 static.lan\nx y\n",
    )
    .unwrap();
    std::fs::write(&configuration, format!("nameserver 127.0.0.1\n{options}\n")).unwrap();
    let resolver = Resolver::new(hosts, configuration, server.port);
    (directory, resolver)
}

fn v4(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

fn script(name: &str, kind: u16, tcp: bool) -> Reply {
    match name {
        "reg.example" => Reply::Addresses(vec![v4(1), "fd00::1".parse().unwrap(), v4(2)]),
        "six.example" => Reply::Addresses(vec!["fd00::6".parse().unwrap()]),
        "short.search.example" => Reply::Addresses(vec![v4(3)]),
        "alias.example" => {
            Reply::Alias("real.example", if kind == 1 { vec![v4(4)] } else { vec![] })
        }
        "forged.example" => Reply::Forged(vec![v4(5)]),
        "big.example" if tcp => Reply::Addresses((0..40).map(v4).collect()),
        "big.example" => Reply::Truncated,
        "broken.example" => Reply::Code(2),
        "silent.example" => Reply::Silence,
        _ => Reply::Code(3),
    }
}

#[test]
fn looks_up() {
    let server = server(script);
    let (_directory, resolver) = resolver(
        &server,
        "search search.example\noptions timeout:1 attempts:1",
    );
    let mut all = resolver.look_up("reg.example").unwrap();
    all.sort();
    assert_eq!(all, [v4(1), v4(2), "fd00::1".parse::<IpAddr>().unwrap()]);
    let before = server.asked.load(Ordering::SeqCst);
    resolver.look_up("REG.example").unwrap();
    assert_eq!(
        server.asked.load(Ordering::SeqCst),
        before,
        "the answer was not kept"
    );
    assert_eq!(
        resolver.look_up("six.example").unwrap(),
        ["fd00::6".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(resolver.look_up("short").unwrap(), [v4(3)]);
    assert_eq!(resolver.look_up("alias.example").unwrap(), [v4(4)]);
    assert_eq!(resolver.look_up("forged.example").unwrap(), [v4(5)]);
    assert_eq!(
        resolver.look_up("big.example").unwrap().len(),
        MAX_ADDRESSES
    );
}

#[test]
fn without_a_server() {
    let server = server(script);
    let (_directory, resolver) = resolver(&server, "");
    let mut found = resolver.look_up("STATIC.lan").unwrap();
    found.sort();
    assert_eq!(found, [IpAddr::from([10, 1, 1, 1]), "::9".parse().unwrap()]);
    assert_eq!(
        resolver.look_up("alias").unwrap(),
        [IpAddr::from([10, 1, 1, 1])]
    );
    assert_eq!(
        resolver.look_up("::1").unwrap(),
        ["::1".parse::<IpAddr>().unwrap()]
    );
    for name in ["localhost", "a.localhost", "LOCALHOST."] {
        assert!(
            resolver
                .look_up(name)
                .unwrap()
                .iter()
                .all(IpAddr::is_loopback)
        );
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), 0);
}

#[test]
fn failures_in_words() {
    let server = server(script);
    let (_directory, resolver) = resolver(&server, "options timeout:1 attempts:1");
    let none = resolver.look_up("none.example").unwrap_err();
    assert_eq!(none.kind(), io::ErrorKind::NotFound);
    assert_eq!(
        none.to_string(),
        "cannot resolve none.example: no such host"
    );
    for (name, words) in [
        ("broken.example", "server failure"),
        ("silent.example", "does not answer"),
    ] {
        let error = resolver.look_up(name).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().contains(words), "{error}");
        assert!(
            error.to_string().contains("name server 127.0.0.1:"),
            "{error}"
        );
    }
}

#[test]
fn configuration_files() {
    let read = |text: &str| read_configuration(text);
    assert_eq!(read("").servers, [IpAddr::from([127, 0, 0, 1])]);
    let configuration = read(
        "; c\nnameserver ::1\nnameserver fe80::1%eth0\nnameserver 1.1.1.1 # x\nsearch a. b\n\
         options ndots:5 timeout:2 rotate attempts:9 use-vc unknown:x\n",
    );
    assert_eq!(
        configuration.servers,
        ["::1".parse::<IpAddr>().unwrap(), [1, 1, 1, 1].into()]
    );
    assert_eq!((configuration.ndots, configuration.attempts), (5, 5));
    assert!(configuration.tcp);
    assert_eq!(candidates("x.y", &configuration), ["x.y.a", "x.y.b", "x.y"]);
    assert_eq!(candidates("x.y.", &configuration), ["x.y"]);
    assert_eq!(candidates("x.y", &read("search a")), ["x.y", "x.y.a"]);
}
