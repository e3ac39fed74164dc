//! What goes wrong with registries: one line with names, host and cause, and what to do.

use crate::harness::store::{Image, noise};
use crate::harness::{Env, Output, Shelf, Test, test};
use rcrun_image::registry::testing::{Answer, Authority, Fault, Setup};
use serde_json::json;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(nobody_listens),
        test!(the_host_has_no_name),
        test!(no_such_image),
        test!(damaged_on_the_way),
        test!(another_diff_id),
        test!(not_an_image),
        test!(plain_http_where_tls_is_expected),
        test!(settings_that_are_wrong),
        test!(errors_as_json),
    ]
}

/// One line, and a second one at most that says what to do.
#[track_caller]
fn one_line(output: Output) -> Output {
    let lines: Vec<&str> = output.stderr.lines().collect();
    let hint = lines
        .iter()
        .filter(|line| line.starts_with("hint: "))
        .count();
    assert!(lines.len() - hint == 1 && hint <= 1, "{output}");
    assert!(lines[0].starts_with("rcrun: "), "{output}");
    output.exits(1)
}

fn nobody_listens(env: &Env) {
    let shelf = Shelf::new(env);
    one_line(shelf.call(&["pull", "-q", "127.0.0.1:1/app"]))
        .says("cannot pull 127.0.0.1:1/app:latest")
        .says("connection refused");
}

fn the_host_has_no_name(env: &Env) {
    let shelf = Shelf::new(env);
    // A name server of our own, which knows no name.
    let server = std::net::UdpSocket::bind("127.0.0.1:53").unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, from)) = server.recv_from(&mut packet) {
            (packet[2], packet[3]) = (0x81, 0x83);
            let _ = server.send_to(&packet[..length], from);
        }
    });
    let configuration = env.path("resolv.conf");
    std::fs::write(&configuration, "nameserver 127.0.0.1\n").unwrap();
    let none: Option<&str> = None;
    let place = std::fs::canonicalize("/etc/resolv.conf").unwrap();
    nix::mount::mount(
        Some(&configuration),
        &place,
        none,
        nix::mount::MsFlags::MS_BIND,
        none,
    )
    .unwrap();
    let _guard = Unmount(place);
    one_line(shelf.call(&["pull", "-q", "registry.invalid/app"]))
        .says("cannot talk to registry.invalid")
        .says("hint: check how the registry's name is written");
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        nix::mount::umount(&self.0).unwrap();
    }
}

fn no_such_image(env: &Env) {
    let shelf = Shelf::new(env);
    let name = shelf.name("app");
    one_line(shelf.call(&["pull", "-q", &name]))
        .says(&format!("cannot pull {name}:latest"))
        .says("404 Not Found");
    assert_eq!(shelf.counts(), (0, 0, 0));
}

fn damaged_on_the_way(env: &Env) {
    let shelf = Shelf::new(env);
    let image = shelf.publish("app", &Image::with_file("a", &noise(50_000, 1)));
    let digest = image.layers[0].to_string();
    for fault in [Fault::Flip, Fault::Long(5, true)] {
        shelf.registry.fault("GET", &digest, 1, fault);
        one_line(shelf.call(&["pull", "-q", &shelf.name("app")]))
            .says(&digest)
            .says(&shelf.registry.host());
        let (_, layers, names) = shelf.counts();
        assert_eq!((layers, names), (0, 0));
    }
    shelf.ok(&["pull", "-q", &shelf.name("app")]);
}

fn another_diff_id(env: &Env) {
    let shelf = Shelf::new(env);
    let image = shelf.publish("app", &Image::with_file("a", b"b"));
    // The same configuration for another layer.
    let manifest = shelf.registry.manifest("app", "latest").unwrap();
    let other = crate::harness::store::archive(&[("a", b"c")]);
    let layer = shelf.registry.add_blob("app", &other);
    let text = String::from_utf8(manifest).unwrap();
    let text = text.replace(&image.layers[0].to_string(), &layer.to_string());
    let kind = rcrun_image::document::media::OCI_MANIFEST;
    shelf
        .registry
        .add_manifest("app", "latest", kind, text.as_bytes());
    one_line(shelf.call(&["pull", "-q", &shelf.name("app")]))
        .says(&format!("cannot unpack layer {layer}"))
        .says(&format!("the configuration says {}", image.layers[0]));
    let (_, layers, names) = shelf.counts();
    assert_eq!((layers, names), (0, 0));
}

fn not_an_image(env: &Env) {
    let shelf = Shelf::new(env);
    let manifest = |value: serde_json::Value| {
        let kind = rcrun_image::document::media::OCI_MANIFEST;
        let text = value.to_string();
        shelf
            .registry
            .add_manifest("app", "latest", kind, text.as_bytes());
    };
    let digest = shelf.registry.add_blob("app", b"{}");
    manifest(json!({
        "schemaVersion": 2, "layers": [],
        "config": {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest, "size": 2},
    }));
    one_line(shelf.call(&["pull", "-q", &shelf.name("app")])).says("an artifact of type");
    manifest(json!({"schemaVersion": 1, "fsLayers": []}));
    one_line(shelf.call(&["pull", "-q", &shelf.name("app")])).says("schema 1");
    shelf.registry.fault(
        "GET",
        "/manifests/",
        1,
        Fault::Answer(Answer::new(200, "{")),
    );
    one_line(shelf.call(&["pull", "-q", &shelf.name("app")]))
        .says("not a document that all readers understand alike");
}

fn plain_http_where_tls_is_expected(env: &Env) {
    let shelf = Shelf::new(env);
    shelf.publish("app", &Image::with_file("a", b"b"));
    let host = shelf.registry.host();
    shelf.settings(&json!({"registries": {host.clone(): {"plain_http": false}}}));
    one_line(shelf.call(&["pull", "-q", &shelf.name("app")]))
        .says("TLS")
        .says(&format!(
            "hint: if {host} is meant to be without TLS, set registries.\"{host}\".plain_http"
        ));
    // And the other way around.
    let authority = Authority::new();
    let setup = Setup {
        tls: Some(authority.server(None)),
        ..Setup::default()
    };
    let shelf = Shelf::with(env, setup);
    let host = shelf.registry.host();
    shelf.settings(&json!({"registries": {host: {"plain_http": true}}}));
    one_line(shelf.call(&["pull", "-q", &shelf.name("app")])).says("cannot pull");
}

fn settings_that_are_wrong(env: &Env) {
    let shelf = Shelf::new(env);
    shelf.settings(&json!({"registries": {"a.b": {"mirror": []}}}));
    one_line(shelf.call(&["pull", "-q", "a.b/c"]))
        .says("settings.json")
        .says("unknown field `mirror`");
    shelf.settings(&json!({"registries": {"a.b": {"ca": ["/nonexistent"]}}}));
    one_line(shelf.call(&["pull", "-q", "a.b/c"])).says("/nonexistent");
}

fn errors_as_json(env: &Env) {
    let shelf = Shelf::new(env);
    let mut command = shelf.command(&[]);
    command.args(["--log-format", "json", "inspect", "nothing"]);
    let output = env.rt.finish(env.rt.spawn(command)).exits(1);
    let line: serde_json::Value = serde_json::from_str(&output.stderr).unwrap();
    assert_eq!(line["msg"], "no such image: nothing");
    let log = env.path("log");
    let mut command = shelf.command(&[]);
    command.args(["--log", log.to_str().unwrap(), "inspect", "nothing"]);
    let output = env.rt.finish(env.rt.spawn(command)).exits(1);
    assert_eq!(output.stderr, "rcrun: no such image: nothing\n");
    assert!(crate::harness::env::read(log).contains("level=error msg=\"no such image: nothing\""));
}
