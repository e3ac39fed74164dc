//! The verbs that end containers, start them again and remove them, and races of those.

use super::verbs::{fails, sleeper, start, wait_for};
use crate::harness::people::People;
use crate::harness::{Env, Test, test};
use std::time::{Duration, Instant};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(stop_asks_then_kills),
        test!(a_less_patient_stop_decides),
        test!(several_are_stopped_at_the_same_time),
        test!(kill_and_wait_and_start_again),
        test!(pause_and_unpause),
        test!(rename_keeps_the_container),
        test!(removal_is_for_what_does_not_run),
        test!(eight_at_a_time).timeout(120),
        test!(attach_hears_the_rest),
        test!(prune_removes_what_ended),
    ]
}

fn stop_asks_then_kills(env: &Env) {
    let people = sleeper(env, "polite");
    start(
        &people,
        "deaf",
        "trap '' TERM; while :; do sleep 0.05; done",
    );
    let before = Instant::now();
    assert_eq!(people.shelf.ok(&["stop", "polite"]), "polite\n");
    assert!(before.elapsed() < Duration::from_secs(5));
    assert!(people.shelf.ok(&["ps", "-a"]).contains("Exited (3) "));
    // What is stopped already is no error.
    assert_eq!(people.shelf.ok(&["stop", "polite"]), "polite\n");
    let before = Instant::now();
    people.shelf.ok(&["stop", "-t", "1", "deaf"]);
    let took = before.elapsed();
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_secs(6),
        "{took:?}"
    );
    assert!(people.shelf.ok(&["ps", "-a"]).contains("Exited (137) "));
    fails(
        &people,
        &["stop", "-s", "NOPE", "deaf"],
        1,
        "unknown signal",
    );
    // Paused ones hear it, too.
    start(
        &people,
        "frozen",
        "trap 'exit 4' TERM; while :; do sleep 0.05; done",
    );
    people.shelf.ok(&["pause", "frozen"]);
    people.shelf.ok(&["stop", "frozen"]);
    assert!(people.shelf.ok(&["ps", "-a"]).contains("Exited (4) "));
    for name in ["polite", "deaf", "frozen"] {
        people.shelf.ok(&["rm", name]);
    }
    people.assert_empty();
}

fn a_less_patient_stop_decides(env: &Env) {
    let people = People::new(env);
    start(
        &people,
        "deaf",
        "trap '' TERM; while :; do sleep 0.05; done",
    );
    let patient = people.shelf.spawn(&["stop", "-t", "60", "deaf"]);
    std::thread::sleep(Duration::from_millis(300));
    let before = Instant::now();
    people.shelf.ok(&["stop", "-t", "1", "deaf"]);
    assert!(before.elapsed() < Duration::from_secs(8));
    env.rt.finish(patient).ok();
    people.remove("deaf");
}

fn several_are_stopped_at_the_same_time(env: &Env) {
    let people = People::new(env);
    let names = ["one", "two", "three"];
    for name in names {
        start(&people, name, "trap '' TERM; while :; do sleep 0.05; done");
    }
    let before = Instant::now();
    let output = people
        .shelf
        .ok(&[&["stop", "-t", "2"], &names[..]].concat());
    assert_eq!(output, "one\ntwo\nthree\n");
    assert!(
        before.elapsed() < Duration::from_millis(5500),
        "{:?}",
        before.elapsed()
    );
    people.shelf.ok(&[&["rm"], &names[..]].concat());
    people.assert_empty();
}

fn kill_and_wait_and_start_again(env: &Env) {
    let people = People::new(env);
    let script =
        "echo life >> /lives; trap 'exit 3' TERM; cat /lives | wc -l; while :; do sleep 0.05; done";
    start(&people, "web", script);
    let waiting = people.shelf.spawn(&["wait", "web"]);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(people.shelf.ok(&["kill", "web"]), "web\n");
    assert_eq!(env.rt.finish(waiting).ok().stdout, "137\n");
    assert_eq!(people.shelf.ok(&["wait", "web"]), "137\n");
    fails(&people, &["kill", "web"], 1, "is not running");
    fails(&people, &["attach", "web"], 1, "is not running");
    // Its files stay over lives.
    assert_eq!(people.shelf.ok(&["start", "web"]), "web\n");
    assert_eq!(people.shelf.ok(&["start", "web"]), "web\n");
    wait_for(|| people.shelf.ok(&["logs", "web"]) == "1\n2\n");
    people.shelf.ok(&["kill", "--signal=TERM", "web"]);
    assert_eq!(people.shelf.ok(&["wait", "web"]), "3\n");
    assert_eq!(people.shelf.ok(&["restart", "web"]), "web\n");
    wait_for(|| people.shelf.ok(&["logs", "web"]) == "1\n2\n3\n");
    assert_eq!(people.shelf.ok(&["restart", "-t", "0", "web"]), "web\n");
    wait_for(|| people.shelf.ok(&["logs", "web"]) == "1\n2\n3\n4\n");
    people.remove("web");
    people
        .run(&["--name=once"], &["sh", "-c", "echo again; exit 6"])
        .exits(6);
    let output = people.shelf.call(&["start", "-a", "once"]);
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (6, "again\n"),
        "{output}"
    );
    people.remove("once");
    people.assert_empty();
}

fn pause_and_unpause(env: &Env) {
    let people = sleeper(env, "web");
    assert_eq!(people.shelf.ok(&["pause", "web"]), "web\n");
    assert!(people.shelf.ok(&["ps"]).contains("(Paused)"));
    fails(&people, &["pause", "web"], 1, "it is paused already");
    fails(&people, &["rm", "web"], 1, "it is paused");
    assert_eq!(people.shelf.ok(&["unpause", "web"]), "web\n");
    fails(&people, &["unpause", "web"], 1, "it is not paused");
    people.shelf.ok(&["pause", "web"]);
    people.shelf.ok(&["resume", "web"]);
    people.remove("web");
    people.assert_empty();
}

fn rename_keeps_the_container(env: &Env) {
    let people = sleeper(env, "web");
    people.shelf.ok(&["rename", "web", "app1"]);
    assert_eq!(people.names(), ["app1"]);
    fails(&people, &["logs", "web"], 1, "no such container: web");
    people.shelf.ok(&["exec", "app1", "true"]);
    fails(
        &people,
        &["rename", "app1", "app1"],
        1,
        "already has the name",
    );
    fails(&people, &["rename", "app1", "-x"], 1, "");
    people.run(&["--name=other"], &["true"]).ok();
    fails(
        &people,
        &["rename", "app1", "other"],
        1,
        "the name other is in use",
    );
    people.remove("other");
    people.shelf.ok(&["rename", "app1", "other"]);
    people.remove("other");
    people.assert_empty();
}

fn removal_is_for_what_does_not_run(env: &Env) {
    let people = sleeper(env, "web");
    let output = fails(&people, &["rm", "web"], 1, "it is running");
    assert!(output.stderr.contains("--force"), "{output}");
    assert_eq!(people.shelf.ok(&["rm", "-f", "web"]), "web\n");
    people.assert_empty();
    // By the beginning of the ID.
    people.run(&["--name=done"], &["true"]).ok();
    let path = people.containers().remove(0);
    let id = path.file_name().unwrap().to_str().unwrap();
    people.shelf.ok(&["rm", &id[..8]]);
    people.assert_empty();
}

/// Whoever is late finds nothing left to do, or nothing at all.
fn eight_at_a_time(env: &Env) {
    let people = People::new(env);
    for round in 0..3 {
        for args in [
            &["kill", "-s", "KILL", "web"][..],
            &["start", "web"],
            &["stop", "-t", "1", "web"],
            &["restart", "-t", "1", "web"],
            &["pause", "web"],
            &["rm", "-f", "web"],
        ] {
            if people.names().is_empty() {
                start(
                    &people,
                    "web",
                    "trap 'exit 3' TERM; while :; do sleep 0.05; done",
                );
            }
            let all: Vec<_> = (0..8).map(|_| people.shelf.spawn(args)).collect();
            let codes: Vec<i32> = all
                .into_iter()
                .map(|one| {
                    let output = env.rt.finish(one);
                    let excuse = ["is not running", "paused already", "container not running"]
                        .iter()
                        .any(|words| output.stderr.contains(words));
                    assert!(output.code == 0 || excuse, "{round}: {output}");
                    output.code
                })
                .collect();
            assert!(codes.contains(&0), "{args:?}: {codes:?}");
            if matches!(args[0], "stop" | "start" | "rm") {
                assert_eq!(codes, [0; 8], "{args:?}");
            }
        }
        people.assert_empty();
    }
}

fn attach_hears_the_rest(env: &Env) {
    let people = People::new(env);
    start(
        &people,
        "web",
        "trap 'echo bye; exit 9' TERM; while :; do sleep 0.05; done",
    );
    let attached = people.shelf.spawn(&["attach", "web"]);
    std::thread::sleep(Duration::from_millis(400));
    people.shelf.ok(&["kill", "-s", "TERM", "web"]);
    let output = env.rt.finish(attached);
    assert_eq!(
        (output.code, output.stdout.as_str()),
        (9, "bye\n"),
        "{output}"
    );
    fails(&people, &["attach", "--detach-keys=nope", "web"], 1, "");
    people.remove("web");
}

fn prune_removes_what_ended(env: &Env) {
    let people = sleeper(env, "web");
    people.run(&["--name=one", "--label=x"], &["true"]).ok();
    people.run(&["--name=two"], &["true"]).ok();
    fails(&people, &["container", "prune"], 1, "not confirmed");
    let text = people
        .shelf
        .ok(&["container", "prune", "-f", "--filter", "label=x"]);
    assert!(text.contains("Total reclaimed space: "), "{text}");
    assert_eq!(people.names(), ["two", "web"]);
    let text = people.shelf.ok(&["prune", "--containers", "--force"]);
    assert!(text.contains("Deleted container: "), "{text}");
    assert_eq!(people.names(), ["web"]);
    people.shelf.ok(&["exec", "web", "true"]);
    people.remove("web");
    people.assert_empty();
}
