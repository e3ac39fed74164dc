//! Images that want to harm: their accounts, links, variables and commands.

use crate::harness::people::{People, layer, links};
use crate::harness::{Env, Test, test};
use serde_json::json;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(accounts_of_any_size_and_shape),
        test!(links_stay_in_the_container),
        test!(configurations_of_any_shape),
        test!(c7_what_is_told_of_a_container_runs_nothing_in_it),
    ]
}

fn accounts_of_any_size_and_shape(env: &Env) {
    let people = People::new(env);
    let run = |name: &str, user: &str| {
        let mut command =
            people.command_of(name, &["--rm", &format!("--user={user}")], &["id", "-u"]);
        command.env("UNUSED", "");
        env.rt.finish(env.rt.spawn(command))
    };
    // A line of 8 MiB before the one that counts.
    let mut huge = vec![b'x'; 8 << 20];
    huge.extend_from_slice(b"\napp:x:1234:1234::/:\nwrap:x:4294967296:0::/:\nneg:x:-1:0::/:\n");
    let base = layer(env, &[]);
    people.image(
        "huge",
        &[base.clone(), layer(env, &[("etc/passwd", 0o644, &huge)])],
        json!({}),
    );
    assert_eq!(run("huge", "app").ok().stdout, "1234\n");
    for (user, words) in [
        ("wrap", "no user \"wrap\""),
        ("neg", "no user \"neg\""),
        ("4294967296", "is no id"),
        ("-1", "is no id"),
        ("ghost", "no user \"ghost\""),
    ] {
        let output = run("huge", user);
        assert_eq!(output.code, 125, "{user}");
        assert!(output.stderr.contains(words), "{user}: {}", output.stderr);
    }
    let too_long = vec![b'x'; 17 << 20];
    people.image(
        "long",
        &[base, layer(env, &[("etc/passwd", 0o644, &too_long)])],
        json!({}),
    );
    let output = run("long", "app");
    assert!(
        output.code == 125 && output.stderr.contains("longer than"),
        "{}",
        output.stderr
    );
    people.assert_empty();
}

fn links_stay_in_the_container(env: &Env) {
    let people = People::new(env);
    let base = layer(env, &[("inner/passwd", 0o644, b"inner:x:4321:4321::/:\n")]);
    // The host has no such user, and the image no such file.
    let evil = links(&[
        ("etc/passwd", "../../../../../../inner/passwd"),
        ("work", "/../../../../tmp/.."),
        ("loop", "loop"),
    ]);
    people.image(
        "evil",
        &[base, evil],
        json!({"WorkingDir": "/work/made/here", "Cmd": ["sh", "-c", "id -u; pwd"]}),
    );
    let run = |flags: &[&str], command: &[&str]| {
        let flags = [&["--rm"], flags].concat();
        env.rt
            .finish(env.rt.spawn(people.command_of("evil", &flags, command)))
    };
    assert_eq!(
        run(&["-u", "inner", "-w", "/"], &["id", "-u"]).ok().stdout,
        "4321\n"
    );
    assert_eq!(run(&[], &[]).ok().stdout, "0\n/made/here\n");
    assert!(!std::path::Path::new("/made").exists());
    assert_ne!(run(&["-w", "/loop/x"], &["true"]).code, 0);
    people.assert_empty();
}

fn configurations_of_any_shape(env: &Env) {
    let people = People::new(env);
    let base = layer(env, &[]);
    let run = |name: &str, command: &[&str]| {
        let output = people.command_of(name, &["--rm"], command);
        env.rt.finish(env.rt.spawn(output))
    };
    let odd = json!({"Env": ["nothing", "=x", "", "A=1", "A=2", "B=\u{1b}[2J"], "Cmd": ["env"], "User": "0:0",
                     "WorkingDir": "../../..", "Unknown": {"field": [1]}, "Volumes": null, "Entrypoint": null,
                     "Labels": {"a": "\n"}, "StopSignal": ""});
    people.image("odd", std::slice::from_ref(&base), odd);
    let text = run("odd", &["env"]).ok().stdout;
    assert!(
        text.contains("A=2\n") && !text.contains("nothing"),
        "{text}"
    );
    for (name, config, words) in [
        ("empty", json!({}), "no command"),
        ("blank", json!({"Cmd": [""]}), "command's name is empty"),
        (
            "stop",
            json!({"Cmd": ["true"], "StopSignal": "SIGSHINY"}),
            "StopSignal",
        ),
        ("zero", json!({"Cmd": ["tr\u{0}ue"]}), ""),
        ("user", json!({"Cmd": ["true"], "User": "a:b:c"}), "no user"),
    ] {
        people.image(name, std::slice::from_ref(&base), config);
        let output = run(name, &[]);
        assert_eq!(output.code, 125, "{name}: {}", output.stderr);
        assert!(output.stderr.contains(words), "{name}: {}", output.stderr);
    }
    people.assert_empty();
}

/// CVE-2022-1227: `podman top` ran programs of the container as the host's root.
fn c7_what_is_told_of_a_container_runs_nothing_in_it(env: &Env) {
    let people = People::new(env);
    let trojan: &[u8] = b"#!/bin/sh\ntouch /pwned\n";
    let names = [
        "bin/ps",
        "usr/bin/ps",
        "usr/bin/top",
        "usr/bin/du",
        "usr/bin/df",
        "usr/bin/tar",
    ];
    let trojans: Vec<_> = names.iter().map(|name| (*name, 0o755, trojan)).collect();
    people.image("evil", &[layer(env, &[]), layer(env, &trojans)], json!({}));
    let run = people.command_of("evil", &["-d", "--name=web"], &["sleep", "1000"]);
    env.rt.finish(env.rt.spawn(run)).ok();
    let top = people.shelf.ok(&["top", "web"]);
    assert!(top.contains("sleep 1000"), "{top}");
    for words in [
        &["stats", "--no-stream", "web"][..],
        &["diff", "web"],
        &["inspect", "web"],
        &["df", "-v"],
        &["ps", "-a", "-s"],
    ] {
        people.shelf.ok(words);
    }
    people
        .shelf
        .call(&["exec", "web", "test", "-e", "/pwned"])
        .exits(1);
    assert!(!std::path::Path::new("/pwned").exists());
    people.remove("web");
    people.assert_empty();
}
