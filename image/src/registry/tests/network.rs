//! TLS, addresses, proxies: 33.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::registry::testing::{Authority, Setup};

fn tls(authority: &Authority, clients: Option<&Authority>) -> Registry {
    let tls = Some(authority.server(clients));
    let registry = Registry::start(Setup {
        tls,
        ..Setup::default()
    });
    registry.add_manifest("a/b", "1", media::OCI_MANIFEST, &manifest(&[], b"{}"));
    registry
}

fn resolve(registry: &Registry, host: &str) -> Result<(), String> {
    let settings = settings(&format!(r#"{{"{}":{host}}}"#, registry.host()));
    let result = client(settings).resolve(&registry.reference("a/b:1"));
    result.map(drop).map_err(|e| text(&e))
}

#[test]
fn certificates() {
    let (authority, other) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (ca, wrong) = (
        file("ca.pem", authority.pem()),
        file("other.pem", other.pem()),
    );
    let empty = file("empty.pem", "nothing\n");
    let registry = tls(&authority, None);
    resolve(&registry, &format!(r#"{{"ca":["{wrong}","{ca}"]}}"#)).unwrap();
    resolve(&registry, r#"{"skip_verify":true}"#).unwrap();
    for (host, words) in [
        (
            format!(r#"{{"ca":["{wrong}"]}}"#),
            "invalid peer certificate: UnknownIssuer",
        ),
        (
            r#"{"connections":1}"#.to_owned(),
            "invalid peer certificate: UnknownIssuer",
        ),
        (format!(r#"{{"ca":["{empty}"]}}"#), "empty.pem: none in it"),
        (
            r#"{"ca":["/surely/not/there"]}"#.to_owned(),
            "/surely/not/there",
        ),
    ] {
        let before = registry.seen().len();
        let error = resolve(&registry, &host).unwrap_err();
        assert!(error.contains(words), "{error}");
        assert!(
            error.contains(&registry.host()) || error.contains(".pem") || error.contains("/surely")
        );
        assert_eq!(
            registry.seen().len(),
            before,
            "it was spoken to all the same"
        );
    }
    let clients = Authority::new();
    let registry = tls(&authority, Some(&clients));
    let (certificate, key) = clients.certificate(&["client"]);
    let (certificate, key) = (file("c.pem", &certificate), file("k.pem", &key));
    resolve(
        &registry,
        &format!(r#"{{"ca":["{ca}"],"client_certificate":"{certificate}","client_key":"{key}"}}"#),
    )
    .unwrap();
    let error = resolve(&registry, &format!(r#"{{"ca":["{ca}"]}}"#)).unwrap_err();
    assert!(error.contains(&registry.host()), "{error}");
}

/// A redirect from TLS to none is refused, to whichever host.
#[test]
fn d11_https_never_becomes_http() {
    let registry = tls(&Authority::new(), None);
    let plain = Registry::open();
    let target = format!("http://{}/v2/", plain.host());
    registry.fault("GET", "/manifests/", 1, answer(302, "Location", &target));
    let error = resolve(&registry, r#"{"skip_verify":true}"#).unwrap_err();
    assert!(error.contains("leads from https to http"), "{error}");
    assert!(plain.seen().is_empty());
}

/// A registry behind a proxy that ends TLS names itself with http; what it means is known.
#[test]
fn an_upload_stays_with_tls() {
    let registry = tls(&Authority::new(), None);
    let text_of = format!(r#"{{"{}":{{"skip_verify":true}}}}"#, registry.host());
    let bytes: &'static [u8] = b"blob";
    let source = |_: u64| -> Result<Box<dyn Read>> { Ok(Box::new(bytes)) };
    for (host, ok) in [("127.0.0.1", true), ("127.0.0.2", false)] {
        let location = format!("http://{host}/v2/a/b/blobs/uploads/x");
        let reference = registry.reference("a/b:1");
        registry.fault("POST", "/uploads/", 1, answer(202, "Location", &location));
        let part = "/v2/a/b/blobs/uploads/x";
        registry.fault("PUT", part, 1, answer(201, "X", "y"));
        let result = client(settings(&text_of)).push_blob(&reference, &layer(bytes), None, &source);
        assert_eq!(result.is_ok(), ok, "{result:?}");
        assert_eq!(registry.seen_of("PUT", part).len(), 1);
    }
}

#[test]
fn loopback_may_be_plain_without_being_told() {
    let plain = Registry::open();
    let image = manifest(&[], b"{}");
    plain.add_manifest("a/b", "1", media::OCI_MANIFEST, &image);
    client(Settings::default())
        .resolve(&plain.reference("a/b:1"))
        .unwrap();
    let before = plain.seen().len();
    let error = resolve(&plain, r#"{"plain_http":false}"#).unwrap_err();
    assert!(error.contains(&plain.host()), "{error}");
    assert_eq!(plain.seen().len(), before, "it was spoken to without TLS");
    // One whose certificate is not trusted does not become plain.
    let registry = tls(&Authority::new(), None);
    let error = text(
        &client(Settings::default())
            .resolve(&registry.reference("a/b:1"))
            .unwrap_err(),
    );
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[test]
fn ipv6_only() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: no IPv6 on this machine");
        return;
    }
    let registry = Registry::start(Setup {
        ipv6: true,
        ..Setup::default()
    });
    registry.add_manifest("a/b", "1", media::OCI_MANIFEST, &manifest(&[], b"{}"));
    client(plain(&registry))
        .resolve(&registry.reference("a/b:1"))
        .unwrap();
    // By a name that has an IPv4 address too, where nobody listens.
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 both.example\n::1 both.example\n").unwrap();
    let port = registry.host().rsplit_once(':').unwrap().1.to_owned();
    let settings = settings(&format!(
        r#"{{"both.example:{port}":{{"plain_http":true}}}}"#
    ));
    let resolver = Resolver::new(hosts, "/dev/null".into(), 53);
    let client = Client::new(Options {
        resolver,
        ..options(settings)
    });
    client
        .resolve(&format!("both.example:{port}/a/b:1").parse().unwrap())
        .unwrap();
}

/// A registry that answered before is being restarted: it is waited for.
#[test]
fn a_registry_that_goes_away_is_waited_for() {
    let registry = Registry::open();
    let reference = registry.reference("a/b:1");
    registry.add_manifest("a/b", "1", media::OCI_MANIFEST, &manifest(&[], b"{}"));
    let client = client(plain(&registry));
    client.resolve(&reference).unwrap();
    drop(registry);
    let error = text(&client.resolve(&reference).unwrap_err());
    assert!(error.contains("gave up after 6 tries"), "{error}");
}

#[test]
fn nobody_there() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let host = format!("127.0.0.1:{port}");
    let settings = settings(&format!(r#"{{"{host}":{{"plain_http":true}}}}"#));
    let reference: Reference = format!("{host}/a/b:1").parse().unwrap();
    let error = client(settings.clone()).resolve(&reference).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(
        text(&error).contains(&format!("{host}: connection refused")),
        "{error:?}"
    );
    let directory = tempfile::tempdir().unwrap();
    let none = directory.path().join("none");
    let resolver = Resolver::new(none.clone(), none, 1);
    let client = Client::new(Options {
        resolver,
        ..options(settings)
    });
    let error = text(
        &client
            .resolve(&"nowhere.example/a".parse().unwrap())
            .unwrap_err(),
    );
    assert!(error.contains("cannot resolve nowhere.example"), "{error}");
}

/// A proxy that knows CONNECT, and counts.
fn proxy() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://u:hidden@{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        // Ends with the test's process; each connection serves one test.
        for stream in listener.incoming().take(1) {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut line, mut authorized) = (String::new(), false);
            reader.read_line(&mut line).unwrap();
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).unwrap();
                authorized |= header
                    .to_lowercase()
                    .starts_with("proxy-authorization: basic");
                if header.trim().is_empty() {
                    break;
                }
            }
            assert!(
                line.starts_with("CONNECT proxied.example:") && authorized,
                "{line}"
            );
            counted.fetch_add(1, Ordering::SeqCst);
            let port: u16 = line.split([':', ' ']).nth(2).unwrap().parse().unwrap();
            let mut there = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let mut client = reader.into_inner();
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            let (mut back, mut to) = (there.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back, &mut to));
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = client.read(&mut buffer) {
                there.write_all(&buffer[..length]).unwrap();
            }
        }
    });
    (address, count)
}

#[test]
fn through_a_proxy_that_resolves_names() {
    let registry = Registry::open();
    registry.add_manifest("a/b", "1", media::OCI_MANIFEST, &manifest(&[], b"{}"));
    let port = registry.host().rsplit_once(':').unwrap().1.to_owned();
    let settings = settings(&format!(
        r#"{{"proxied.example:{port}":{{"plain_http":true}}}}"#
    ));
    let (address, count) = proxy();
    let proxies = Proxies::new(|name| (name == "http_proxy").then(|| address.clone()));
    let client = Client::new(Options {
        proxies,
        ..options(settings.clone())
    });
    let reference: Reference = format!("proxied.example:{port}/a/b:1").parse().unwrap();
    client.resolve(&reference).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
    let proxies = Proxies::new(|name| match name {
        "http_proxy" => Some("hidden:://".into()),
        _ => None,
    });
    let error = Client::new(Options {
        proxies,
        ..options(settings)
    })
    .resolve(&reference);
    let error = text(&error.unwrap_err());
    assert!(
        error.contains("proxy") && !error.contains("hidden"),
        "{error}"
    );
}

#[test]
fn secrets_are_not_shown() {
    let options = options(Settings::default());
    let registry = Registry::open();
    let credentials = user(&registry, "u", "hidden-text");
    let options = Options {
        credentials,
        ..options
    };
    assert!(!format!("{options:?}").contains("hidden-text"));
    assert!(!format!("{:?}", Client::new(options)).contains("hidden-text"));
}
