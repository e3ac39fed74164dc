//! Pulls: who may, from where, how often, how long.

use crate::harness::cri::{Node, pull};
use crate::harness::store::{Image, archive, noise};
use crate::harness::{Env, Test, test};
use rcrun_cri::proto::v1 as cri;
use rcrun_image::registry::testing::{Access, Fault, Setup};
use rustix::process::Signal;
use serde_json::json;
use std::time::{Duration, Instant};
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(every_kind_of_credential),
        test!(an_identity_token),
        test!(wrong_credentials_are_refused_and_kept_secret),
        test!(credentials_of_the_settings),
        test!(mirrors_serve_other_names),
        test!(pulls_of_one_image_are_one),
        test!(other_credentials_have_to_prove_themselves),
        test!(a_deadline_ends_the_pull_and_what_came_is_kept),
        test!(one_who_leaves_does_not_end_the_pull_of_others),
        test!(no_progress_ends_the_pull),
        test!(waiting_for_a_turn_is_not_a_lack_of_progress),
        test!(a_registry_that_is_not_there),
        test!(settings_count_from_the_next_pull_on),
        test!(a_server_that_stops_says_so),
    ]
}

/// A pull with these credentials.
fn with(name: &str, auth: cri::AuthConfig) -> cri::PullImageRequest {
    cri::PullImageRequest {
        auth: Some(auth),
        ..pull(name)
    }
}

fn user(username: &str, password: &str) -> cri::AuthConfig {
    cri::AuthConfig {
        username: username.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    }
}

fn closed() -> Setup {
    Setup {
        access: Access::Basic("anna", "geheim"),
        ..Setup::default()
    }
}

/// An image with a large layer.
fn large(node: &Node<'_>) -> (String, String) {
    let layer = archive(&[("big", &noise(4 << 20, 3))]);
    let image = node.shelf.publish("app", &Image::new(&[layer]));
    (node.shelf.name("app"), image.layers[0].to_string())
}

fn every_kind_of_credential(env: &Env) {
    let node = Node::with(env, closed(), json!({}));
    let image = node.shelf.publish("app", &Image::with_file("a", b"b"));
    let name = node.shelf.name("app");
    let host = node.shelf.registry.host();
    let encoded = cri::AuthConfig {
        auth: "YW5uYTpnZWhlaW0=".to_owned(),
        ..Default::default()
    };
    let addressed = cri::AuthConfig {
        server_address: format!("https://{host}/v2/"),
        ..user("anna", "geheim")
    };
    for auth in [user("anna", "geheim"), encoded, addressed] {
        let id = node
            .ok(node.images().pull_image(with(&name, auth)))
            .image_ref;
        assert_eq!(id, image.id);
        node.remove(&name);
    }
    let elsewhere = cri::AuthConfig {
        server_address: "other.lan".to_owned(),
        ..user("anna", "geheim")
    };
    let before = node.shelf.registry.seen().len();
    node.refused(
        node.images().pull_image(with(&name, elsewhere)),
        Code::PermissionDenied,
    );
    let sent = node.shelf.registry.seen().split_off(before);
    let authorized =
        |seen: &rcrun_image::registry::testing::Seen| seen.head.header("authorization").is_some();
    assert!(
        !sent.is_empty() && !sent.iter().any(authorized),
        "they were for another registry"
    );
}

fn an_identity_token(env: &Env) {
    let setup = Setup {
        access: Access::Token {
            user: None,
            identity: Some("ausweis"),
            life: "",
            realm: None,
        },
        ..Setup::default()
    };
    let node = Node::with(env, setup, json!({}));
    let image = node.shelf.publish("app", &Image::with_file("a", b"b"));
    let auth = cri::AuthConfig {
        identity_token: "ausweis".to_owned(),
        ..user("<token>", "")
    };
    let request = with(&node.shelf.name("app"), auth);
    assert_eq!(
        node.ok(node.images().pull_image(request)).image_ref,
        image.id
    );
}

fn wrong_credentials_are_refused_and_kept_secret(env: &Env) {
    let node = Node::prepare(env, closed());
    node.configure(json!({}));
    node.start_by(node.shelf.command(&["--debug", "serve"]));
    node.shelf.publish("app", &Image::with_file("a", b"b"));
    let name = node.shelf.name("app");
    let mut said = String::new();
    for auth in [
        user("anna", "falsch"),
        user("anna", ""),
        user("", "falsch"),
        cri::AuthConfig::default(),
    ] {
        let request = with(&name, auth);
        said += &node.refused(node.images().pull_image(request), Code::PermissionDenied);
    }
    for auth in ["ZmFsc2No", "falsch!"] {
        let auth = cri::AuthConfig {
            auth: auth.to_owned(),
            ..Default::default()
        };
        said += &node.refused(
            node.images().pull_image(with(&name, auth)),
            Code::InvalidArgument,
        );
    }
    assert!(said.contains(&format!("cannot pull {name}")), "{said}");
    for text in [said, node.log()] {
        assert!(
            !text.contains("falsch") && !text.contains("ZmFsc2No"),
            "{text}"
        );
    }
}

fn credentials_of_the_settings(env: &Env) {
    let node = Node::prepare(env, closed());
    let (name, file) = (node.shelf.name("app"), env.path("auth.json"));
    node.shelf.publish("app", &Image::with_file("a", b"b"));
    let auths =
        json!({"auths": {node.shelf.registry.host(): {"username": "anna", "password": "geheim"}}});
    std::fs::write(&file, auths.to_string()).unwrap();
    // Root's own files are not for everybody's pods.
    let home = env.directory("home/.docker");
    std::fs::copy(&file, home.join("config.json")).unwrap();
    node.configure(json!({}));
    node.start();
    node.refused(
        node.images().pull_image(pull(&name)),
        Code::PermissionDenied,
    );
    node.configure(json!({"auth_file": file}));
    node.pull(&name);
    // Those of the request come first.
    let request = with(&name, user("anna", "falsch"));
    node.refused(node.images().pull_image(request), Code::PermissionDenied);
}

fn mirrors_serve_other_names(env: &Env) {
    let node = Node::prepare(env, Setup::default());
    let mirror = json!([{"host": node.shelf.registry.host()}]);
    node.beside(json!({"registries": {"registry.k8s.io": {"mirrors": mirror}}}));
    node.configure(json!({}));
    node.start();
    let image = node
        .shelf
        .publish("e2e/busybox:1", &Image::with_file("a", b"b"));
    let name = "registry.k8s.io/e2e/busybox:1";
    // The credential is for the name's registry, which is not asked.
    let request = with(name, user("anna", "geheim"));
    assert_eq!(
        node.ok(node.images().pull_image(request)).image_ref,
        image.id
    );
    let found = node.status(name).unwrap();
    assert_eq!(found.repo_tags, [name]);
    assert_eq!(
        found.repo_digests,
        [format!("registry.k8s.io/e2e/busybox@{}", image.manifest)]
    );
    let seen = node.shelf.registry.seen();
    assert!(
        seen.iter()
            .all(|seen| seen.head.header("authorization").is_none())
    );
}

fn pulls_of_one_image_are_one(env: &Env) {
    let node = Node::new(env);
    let (name, layer) = large(&node);
    let client = node.images();
    node.wait(async {
        let mut pulls = tokio::task::JoinSet::new();
        for _ in 0..10 {
            let (mut client, request) = (client.clone(), pull(&name));
            pulls.spawn(async move { client.pull_image(request).await });
        }
        while let Some(pulled) = pulls.join_next().await {
            pulled.unwrap().unwrap();
        }
    });
    let manifests = node.shelf.registry.seen_of("*", "/manifests/").len();
    assert!(
        manifests <= 2,
        "one pull asks for the manifest once or twice: {manifests}"
    );
    assert_eq!(node.shelf.registry.seen_of("GET", &layer).len(), 1);
    assert_eq!(
        node.log().matches("msg=pulled").count(),
        1,
        "{}",
        node.log()
    );
}

fn other_credentials_have_to_prove_themselves(env: &Env) {
    let node = Node::with(env, closed(), json!({}));
    let (name, layer) = large(&node);
    let slow = Fault::Slow(1 << 20, Duration::from_millis(100));
    node.shelf.registry.fault("GET", &layer, 1, slow);
    let client = node.images();
    let (good, bad) = node.wait(async {
        let send = |auth: cri::AuthConfig| {
            let (mut client, request) = (client.clone(), with(&name, auth));
            tokio::spawn(async move { client.pull_image(request).await })
        };
        let good = send(user("anna", "geheim"));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let bad = send(user("anna", "falsch"));
        (good.await.unwrap(), bad.await.unwrap())
    });
    good.unwrap();
    assert_eq!(bad.unwrap_err().code(), Code::PermissionDenied);
    // Nor does it help that the image is here.
    let request = with(&name, user("anna", "falsch"));
    node.refused(node.images().pull_image(request), Code::PermissionDenied);
}

fn a_deadline_ends_the_pull_and_what_came_is_kept(env: &Env) {
    let node = Node::new(env);
    let (name, layer) = large(&node);
    let mut request = tonic::Request::new(pull(&name));
    request.set_timeout(Duration::from_millis(1));
    node.refused(node.images().pull_image(request), Code::DeadlineExceeded);
    let stall = Fault::Stall(3 << 20);
    node.shelf.registry.fault("GET", &layer, 1, stall);
    let mut request = tonic::Request::new(pull(&name));
    request.set_timeout(Duration::from_millis(1500));
    let begun = Instant::now();
    let said = node.refused(node.images().pull_image(request), Code::DeadlineExceeded);
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(said.contains("deadline of 1.5s"), "{said}");
    let end = Instant::now() + Duration::from_secs(10);
    while !node.log().contains("nobody waits for it any more") {
        assert!(Instant::now() < end, "{}", node.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    node.pull(&name);
    let ranges = node.shelf.registry.seen_of("GET", &layer);
    let resumed = ranges.last().unwrap().head.header("range");
    assert!(resumed.is_some(), "{ranges:?}");
}

fn one_who_leaves_does_not_end_the_pull_of_others(env: &Env) {
    let node = Node::new(env);
    let (name, layer) = large(&node);
    let slow = Fault::Slow(1 << 20, Duration::from_millis(300));
    node.shelf.registry.fault("GET", &layer, 1, slow);
    let client = node.images();
    let (patient, impatient) = node.wait(async {
        let send = |limit: u64| {
            let mut request = tonic::Request::new(pull(&name));
            request.set_timeout(Duration::from_millis(limit));
            let mut client = client.clone();
            tokio::spawn(async move { client.pull_image(request).await })
        };
        let (impatient, patient) = (send(200), send(60_000));
        (patient.await.unwrap(), impatient.await.unwrap())
    });
    patient.unwrap();
    assert_eq!(impatient.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(node.shelf.registry.seen_of("GET", &layer).len(), 1);
}

fn no_progress_ends_the_pull(env: &Env) {
    let node = Node::with(env, Setup::default(), json!({"pull_progress_timeout": 1}));
    let (name, layer) = large(&node);
    node.shelf
        .registry
        .fault("GET", &layer, 9, Fault::Stall(1 << 20));
    let begun = Instant::now();
    let request = pull(&name);
    let said = node.refused(node.images().pull_image(request), Code::DeadlineExceeded);
    assert!(said.contains("no progress in 1 s"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    drop(node);
    // A slow one that goes on is left alone.
    let node = Node::with(env, Setup::default(), json!({"pull_progress_timeout": 1}));
    let (name, layer) = large(&node);
    let slow = Fault::Slow(1 << 20, Duration::from_millis(500));
    node.shelf.registry.fault("GET", &layer, 1, slow);
    node.pull(&name);
}

fn waiting_for_a_turn_is_not_a_lack_of_progress(env: &Env) {
    let section = json!({"pull_progress_timeout": 1, "parallel_pulls": 1});
    let node = Node::with(env, Setup::default(), section);
    let (name, layer) = large(&node);
    node.shelf.publish("small", &Image::with_file("a", b"b"));
    let slow = Fault::Slow(1 << 20, Duration::from_millis(600));
    node.shelf.registry.fault("GET", &layer, 1, slow);
    let client = node.images();
    let small = node.shelf.name("small");
    node.wait(async {
        let send = |name: &str| {
            let (mut client, request) = (client.clone(), pull(name));
            tokio::spawn(async move { client.pull_image(request).await })
        };
        let first = send(&name);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let second = send(&small);
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
    });
}

fn a_registry_that_is_not_there(env: &Env) {
    let node = Node::new(env);
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let name = format!("127.0.0.1:{port}/app:1");
    let said = node.refused(node.images().pull_image(pull(&name)), Code::Unavailable);
    assert!(said.contains(&name), "{said}");
}

fn settings_count_from_the_next_pull_on(env: &Env) {
    let node = Node::new(env);
    node.shelf.publish("app", &Image::with_file("a", b"b"));
    let mirror = json!([{"host": node.shelf.registry.host()}]);
    node.beside(json!({"registries": {"registry.k8s.io": {"mirrors": mirror}}}));
    node.configure(json!({}));
    node.pull("registry.k8s.io/app");
    // A file that cannot be understood fails the pull, and not the server.
    node.configure(json!({"pinned": 7}));
    let said = node.refused(
        node.images().pull_image(pull("registry.k8s.io/app")),
        Code::FailedPrecondition,
    );
    assert!(said.contains("settings.json"), "{said}");
    assert_eq!(node.list().len(), 1);
}

fn a_server_that_stops_says_so(env: &Env) {
    let node = Node::new(env);
    let (name, layer) = large(&node);
    node.shelf
        .registry
        .fault("GET", &layer, 9, Fault::Stall(1 << 20));
    let mut client = node.images();
    let begun = Instant::now();
    let pulled = node.wait(async {
        let request = pull(&name);
        let pulling = tokio::spawn(async move { client.pull_image(request).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        node.signal(Signal::TERM);
        pulling.await.unwrap()
    });
    let status = pulled.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(status.message().contains("the server stops"), "{status:?}");
    node.ended().ok();
    assert!(begun.elapsed() < Duration::from_secs(8));
}
