//! Credentials: 30 and D11.

use super::*;
use crate::registry::testing::{Access, Setup};

const USER: Option<(&str, &str)> = Some(("u", "pass"));
const MANY: usize = 1_000_000;

fn token_registry(life: &'static str) -> Registry {
    start(Access::Token {
        user: USER,
        identity: Some("idt"),
        life,
        realm: None,
    })
}

fn start(access: Access) -> Registry {
    Registry::start(Setup {
        access,
        ..Setup::default()
    })
}

fn with(registry: &Registry, credentials: Credentials) -> Client {
    Client::new(Options {
        credentials,
        ..options(plain(registry))
    })
}

fn image_in(registry: &Registry) -> Vec<u8> {
    let image = manifest(&[], b"{}");
    registry.add_manifest("a/b", "1", media::OCI_MANIFEST, &image);
    image
}

#[test]
fn basic_right_wrong_and_none() {
    let registry = start(Access::Basic("u", "pass"));
    image_in(&registry);
    let reference = registry.reference("a/b:1");
    with(&registry, user(&registry, "u", "pass"))
        .resolve(&reference)
        .unwrap();
    for (credentials, requests) in [
        (user(&registry, "u", "wrong-secret"), 2),
        (Credentials::none(), 1),
    ] {
        let before = registry.seen().len();
        let error = with(&registry, credentials)
            .resolve(&reference)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(
            text(&error).contains("UNAUTHORIZED") && !text(&error).contains("secret"),
            "{error:?}"
        );
        assert_eq!(registry.seen().len() - before, requests);
    }
}

/// RELIABILITY 30: anonymous, 401, scoped token; asked for once.
#[test]
fn tokens_are_kept_by_scope() {
    let registry = token_registry(r#""expires_in":300"#);
    image_in(&registry);
    let client = with(&registry, user(&registry, "u", "pass"));
    for _ in 0..3 {
        client.resolve(&registry.reference("a/b:1")).unwrap();
    }
    let tokens = registry.seen_of("GET", "/token");
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].head.query("scope").as_deref(),
        Some("repository:a/b:pull")
    );
    assert_eq!(tokens[0].head.query("service").as_deref(), Some("test"));
    let bytes: &'static [u8] = b"blob";
    let source = |_: u64| -> Result<Box<dyn std::io::Read>> { Ok(Box::new(bytes)) };
    client
        .push_blob(&registry.reference("a/b:1"), &layer(bytes), None, &source)
        .unwrap();
    let mount = client.push_blob(
        &registry.reference("c/d:1"),
        &layer(bytes),
        Some("a/b"),
        &source,
    );
    assert_eq!(mount.unwrap(), crate::registry::upload::Pushed::Mounted);
    let last = registry.seen_of("GET", "/token").pop().unwrap().head.target;
    assert!(
        last.contains("a%2Fb%3Apull") && last.contains("c%2Fd%3Apull%2Cpush"),
        "{last}"
    );
}

#[test]
fn anonymous_and_identity_tokens() {
    let life = "";
    let open = start(Access::Token {
        user: None,
        identity: None,
        life,
        realm: None,
    });
    image_in(&open);
    with(&open, Credentials::none())
        .resolve(&open.reference("a/b:1"))
        .unwrap();
    let registry = token_registry("");
    image_in(&registry);
    let identity = Credential::Identity {
        user: String::new(),
        token: Secret::new("idt"),
    };
    let credentials = Credentials::only(&registry.host(), &identity);
    with(&registry, credentials)
        .resolve(&registry.reference("a/b:1"))
        .unwrap();
    assert_eq!(registry.seen_of("POST", "/token").len(), 1);
    let error = with(&registry, Credentials::none()).resolve(&registry.reference("a/b:1"));
    assert!(text(&error.unwrap_err()).contains("cannot get a token"));
}

/// RELIABILITY 30: the life of a token, as told by clocks that are an hour wrong, or not at all.
#[test]
fn expiry_without_trust_in_clocks() {
    for life in [
        "",
        r#""expires_in":60,"issued_at":"2001-01-01T00:00:00Z""#,
        r#""expires_in":60,"issued_at":"2099-01-01T00:00:00Z""#,
        r#""expires_in":null"#,
    ] {
        let registry = token_registry(life);
        image_in(&registry);
        let client = with(&registry, user(&registry, "u", "pass"));
        for _ in 0..3 {
            client.resolve(&registry.reference("a/b:1")).unwrap();
        }
        assert_eq!(registry.seen_of("GET", "/token").len(), 1, "{life}");
    }
}

/// RELIABILITY 30: a token that ends in the middle of a pull.
#[test]
fn a_token_is_renewed_in_the_middle_of_a_blob() {
    let registry = token_registry(r#""expires_in":300"#);
    let bytes = noise(1_000_000);
    registry.add_blob("a/b", &bytes);
    registry.fault(
        "GET",
        "/blobs/",
        2,
        Fault::Slow(100_000, Duration::from_millis(40)),
    );
    let client = with(&registry, user(&registry, "u", "pass"));
    let kept = Kept::new(&layer(&bytes));
    std::thread::scope(|scope| {
        registry.fault("GET", "/blobs/", 1, Fault::Reset(500_000));
        let fetching = scope.spawn(|| kept.fetch(&client, &registry.reference("a/b:1")));
        while kept.missing().first().is_some_and(|range| range.start == 0) {
            std::thread::sleep(Duration::from_millis(1));
        }
        registry.forget_tokens();
        fetching.join().unwrap().unwrap();
    });
    client.resolve(&registry.reference("a/b:1")).unwrap_err();
    assert!(kept.bytes() == bytes);
    assert_eq!(registry.seen_of("GET", "/token").len(), 2);
}

#[test]
fn many_threads_share_one_token() {
    let registry = token_registry(r#""expires_in":300"#);
    image_in(&registry);
    let client = with(&registry, user(&registry, "u", "pass"));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| client.resolve(&registry.reference("a/b:1")).unwrap());
        }
    });
    assert_eq!(registry.seen_of("GET", "/token").len(), 1);
}

#[test]
fn login_checks() {
    for registry in [token_registry(""), start(Access::Basic("u", "pass"))] {
        let host = registry.host();
        Client::login(options(plain(&registry)), &host, &basic("u", "pass")).unwrap();
        let error = Client::login(options(plain(&registry)), &host, &basic("u", "no")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    }
}

fn nobody_was_told(evil: &Registry) {
    for seen in evil.seen() {
        assert_eq!(seen.head.header("authorization"), None, "{seen:?}");
        assert!(!seen.head.target.contains("pass"), "{seen:?}");
    }
}

/// D11: a redirect to another host gets no credential, and neither does the way back.
#[test]
fn d11_redirects_to_another_host() {
    for access in [
        Access::Basic("u", "pass"),
        Access::Token {
            user: USER,
            identity: None,
            life: "",
            realm: None,
        },
    ] {
        let registry = start(access);
        let evil = Registry::open();
        let bytes = noise(1000);
        for one in [&registry, &evil] {
            one.add_blob("a/b", &bytes);
        }
        let target = format!("http://{}/v2/a/b/blobs/{}", evil.host(), Digest::of(&bytes));
        let text_of = format!(
            r#"{{"{}":{{"plain_http":true,"headers":{{"X-Key":"for-me-only"}}}},"{}":{{"plain_http":true}}}}"#,
            registry.host(),
            evil.host(),
        );
        let credentials = user(&registry, "u", "pass");
        let client = Client::new(Options {
            credentials,
            ..options(settings(&text_of))
        });
        // Log in first, so that there is something to give away.
        let _ = client.has_blob(&registry.reference("a/b:1"), &Digest::of(b""));
        registry.fault("GET", "/blobs/", 1, answer(307, "Location", &target));
        let kept = Kept::new(&layer(&bytes));
        kept.fetch(&client, &registry.reference("a/b:1")).unwrap();
        assert_eq!(evil.seen().len(), 1);
        nobody_was_told(&evil);
        assert_eq!(evil.seen()[0].head.header("x-key"), None);
        assert_eq!(registry.seen()[0].head.header("x-key"), Some("for-me-only"));
        // Led back: what the other host chose is not asked for in our name.
        let back = format!(
            "http://{}/v2/private/blobs/{}",
            registry.host(),
            Digest::of(&bytes)
        );
        registry.fault("GET", "/blobs/", 1, answer(307, "Location", &target));
        evil.fault("GET", "/blobs/", 1, answer(307, "Location", &back));
        registry.fault("GET", "/private/", MANY, answer(200, "X", "y"));
        let _ = Kept::new(&layer(&bytes)).fetch(&client, &registry.reference("a/b:1"));
        let private = registry.seen_of("GET", "/private/");
        assert!(!private.is_empty());
        assert!(
            private
                .iter()
                .all(|seen| seen.head.header("authorization").is_none())
        );
    }
}

/// D11: where a redirect led asks for a credential, with the same words as the registry would.
#[test]
fn d11_a_redirect_to_a_host_that_asks() {
    let registry = start(Access::Basic("u", "pass"));
    let evil = start(Access::Basic("u", "pass"));
    let bytes = noise(1000);
    registry.add_blob("a/b", &bytes);
    let target = format!("http://{}/v2/a/b/blobs/x", evil.host());
    let client = with(&registry, user(&registry, "u", "pass"));
    let _ = client.has_blob(&registry.reference("a/b:1"), &Digest::of(b""));
    registry.fault("GET", "/blobs/", MANY, answer(307, "Location", &target));
    let kept = Kept::new(&layer(&bytes));
    let error = kept
        .fetch(&client, &registry.reference("a/b:1"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    assert!(!evil.seen().is_empty());
    nobody_was_told(&evil);
}

/// D11: a realm at another host without TLS.
#[test]
fn d11_a_realm_elsewhere_gets_nothing() {
    // 127.0.0.1 and localhost are the same socket and not the same host.
    let evil = token_registry("");
    let realm = Some(format!(
        "http://localhost:{}/token",
        evil.host().rsplit_once(':').unwrap().1
    ));
    let registry = start(Access::Token {
        user: USER,
        identity: None,
        life: "",
        realm,
    });
    image_in(&registry);
    let client = with(&registry, user(&registry, "u", "pass"));
    let error = client.resolve(&registry.reference("a/b:1")).unwrap_err();
    assert!(
        text(&error).contains("refuse to send the credential"),
        "{error:?}"
    );
    assert!(evil.seen().is_empty());
    // Another registry's credential is not looked for either.
    let credentials = user(&evil, "u", "pass");
    let client = with(&registry, credentials);
    client.resolve(&registry.reference("a/b:1")).unwrap_err();
    nobody_was_told(&evil);
}

/// D11: an upload's Location at another host.
#[test]
fn d11_an_upload_elsewhere_gets_no_credential() {
    let registry = start(Access::Basic("u", "pass"));
    // It asks for the credential, too.
    let evil = start(Access::Basic("u", "pass"));
    let text_of = format!(
        r#"{{"{}":{{"plain_http":true}},"{}":{{"plain_http":true}}}}"#,
        registry.host(),
        evil.host(),
    );
    let credentials = user(&registry, "u", "pass");
    let client = Client::new(Options {
        credentials,
        ..options(settings(&text_of))
    });
    let _ = client.has_blob(&registry.reference("a/b:1"), &Digest::of(b""));
    let location = format!("http://{}/v2/a/b/blobs/uploads/x", evil.host());
    registry.fault(
        "POST",
        "/uploads/",
        MANY,
        answer(202, "Location", &location),
    );
    let bytes: &'static [u8] = b"blob";
    let source = |_: u64| -> Result<Box<dyn std::io::Read>> { Ok(Box::new(bytes)) };
    client
        .push_blob(&registry.reference("a/b:1"), &layer(bytes), None, &source)
        .unwrap_err();
    assert!(!evil.seen().is_empty());
    nobody_was_told(&evil);
}

/// D11: `urls` of a descriptor are never asked.
#[test]
fn d11_foreign_layers_are_not_fetched_from_elsewhere() {
    let (registry, evil) = (Registry::open(), Registry::open());
    let bytes = noise(100);
    evil.add_blob("a/b", &bytes);
    let wanted = Descriptor {
        media_type: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into(),
        urls: vec![format!(
            "http://{}/v2/a/b/blobs/{}",
            evil.host(),
            Digest::of(&bytes)
        )],
        ..layer(&bytes)
    };
    let error = Kept::new(&wanted).fetch(&client(plain(&registry)), &registry.reference("a/b:1"));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(evil.seen().is_empty());
}

#[test]
fn redirects_end() {
    let (registry, bytes, reference) = with_blob(1000);
    let own = format!("/v2/a/b/blobs/{}?again", Digest::of(&bytes));
    registry.fault("GET", "/blobs/", MANY, answer(302, "Location", &own));
    let error = Kept::new(&layer(&bytes))
        .fetch(&client(plain(&registry)), &reference)
        .unwrap_err();
    assert!(
        text(&error).contains("redirects more than 5 times"),
        "{error:?}"
    );
    let (registry, _, reference) = with_blob(1000);
    for location in [
        "ftp://x/",
        "http://u:p@x/",
        "http:///",
        "file:///etc/passwd",
    ] {
        registry.fault("GET", "/blobs/", 1, answer(302, "Location", location));
        let error = Kept::new(&layer(&noise(1000))).fetch(&client(plain(&registry)), &reference);
        assert!(
            text(&error.unwrap_err()).contains("cannot follow the redirect"),
            "{location}"
        );
    }
}

/// A signed address that has expired is asked for again.
#[test]
fn a_redirect_to_an_expired_address_is_renewed() {
    let (registry, bytes, reference) = with_blob(1000);
    let storage = Registry::open();
    storage.add_blob("a/b", &bytes);
    let target = format!(
        "http://{}/v2/a/b/blobs/{}?sig=hidden",
        storage.host(),
        Digest::of(&bytes)
    );
    registry.fault("GET", "/blobs/", 2, answer(307, "Location", &target));
    storage.fault("GET", "/blobs/", 1, answer(403, "X", "y"));
    Kept::new(&layer(&bytes))
        .fetch(&client(plain(&registry)), &reference)
        .unwrap();
    assert_eq!((registry.seen().len(), storage.seen().len()), (2, 2));
    registry.fault("GET", "/blobs/", MANY, answer(307, "Location", &target));
    storage.fault("GET", "/blobs/", MANY, answer(403, "X", "y"));
    let error = Kept::new(&layer(&bytes))
        .fetch(&client(plain(&registry)), &reference)
        .unwrap_err();
    assert!(
        !text(&error).contains("hidden") && text(&error).contains(&storage.host()),
        "{error:?}"
    );
}
