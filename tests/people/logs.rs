//! `logs`: what was written, where it was written to, and for how long.

use super::verbs::wait_for;
use crate::harness::people::People;
use crate::harness::{Env, Test, test};
use std::time::Duration;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(streams_go_where_they_were_written_to),
        test!(tail_times_and_moments),
        test!(following_ends_with_the_container),
        test!(rotation_loses_nothing_and_repeats_nothing),
        test!(a_container_without_a_log),
        test!(details_are_chosen_when_it_is_made),
    ]
}

fn streams_go_where_they_were_written_to(env: &Env) {
    let people = People::new(env);
    people
        .run(
            &["--name=web"],
            &["sh", "-c", "echo out; echo err >&2; printf rest"],
        )
        .ok();
    let output = people.shelf.call(&["logs", "web"]).ok();
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("out\nrest", "err\n")
    );
    // A line longer than a record of the log.
    people
        .run(
            &["--name=long"],
            &["sh", "-c", "head -c 50000 /dev/zero | tr '\\0' x; echo"],
        )
        .ok();
    assert_eq!(
        people.shelf.ok(&["logs", "long"]),
        format!("{}\n", "x".repeat(50_000))
    );
    people.remove("web");
    people.remove("long");
}

fn tail_times_and_moments(env: &Env) {
    let people = People::new(env);
    people
        .run(
            &["--name=web"],
            &[
                "sh",
                "-c",
                "for i in 1 2 3; do echo $i; done; sleep 2.1; echo 4",
            ],
        )
        .ok();
    let logs = |flags: &[&str]| people.shelf.ok(&[&["logs"], flags, &["web"]].concat());
    assert_eq!(logs(&["--tail", "2"]), "3\n4\n");
    assert_eq!(logs(&["-n0"]), "");
    assert_eq!(logs(&["-n", "all"]), "1\n2\n3\n4\n");
    let timed = logs(&["-t"]);
    let times: Vec<&str> = timed
        .lines()
        .map(|line| line.split_once(' ').unwrap().0)
        .collect();
    assert_eq!(times.len(), 4);
    assert!(
        times
            .iter()
            .all(|time| time.len() == 30 && time.ends_with('Z')),
        "{timed}"
    );
    let last = format!("{}Z", &times[3][..19]);
    assert_eq!(logs(&["--since", &last]), "4\n");
    assert_eq!(logs(&["--until", &last]), "1\n2\n3\n");
    assert_eq!(logs(&["--since", "1h"]), "1\n2\n3\n4\n");
    // What `-t` prints is understood as it is.
    assert_eq!(logs(&["--since", times[3]]), "4\n");
    assert_eq!(logs(&["--until", times[3]]), "1\n2\n3\n");
    assert_eq!(logs(&["--since", times[0], "-n", "1"]), "4\n");
    let number = times[3][20..29].parse::<u32>().unwrap();
    let later = format!("{}.{:09}Z", &times[3][..19], (number + 1).min(999_999_999));
    assert_eq!(logs(&["--since", &later]), "");
    people
        .shelf
        .call(&["logs", "--since", "soon", "web"])
        .fails()
        .says("invalid time");
    people
        .shelf
        .call(&["logs", "--tail", "few", "web"])
        .fails()
        .says("use a number");
    people.remove("web");
}

fn following_ends_with_the_container(env: &Env) {
    let people = People::new(env);
    let script =
        "echo one; while ! test -e /go; do sleep 0.05; done; echo two; echo three >&2; printf end";
    people
        .run(&["-d", "--name=web"], &["sh", "-c", script])
        .ok();
    let mut following = people.shelf.spawn(&["logs", "-f", "web"]);
    let latest = people.shelf.spawn(&["logs", "-f", "-n0", "web"]);
    wait_for(|| following.read().0 == "one\n");
    people.shelf.ok(&["exec", "web", "touch", "/go"]);
    let output = env.rt.finish(following).ok();
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("one\ntwo\nend", "three\n")
    );
    let output = env.rt.finish(latest).ok();
    assert!(output.stdout.ends_with("two\nend"), "{output}");
    // Of one that has ended there is nothing to wait for.
    assert_eq!(people.shelf.ok(&["logs", "-f", "web"]), "one\ntwo\nend");
    people.remove("web");
    // Removed while it is followed.
    people
        .run(&["-d", "--name=web"], &["sh", "-c", "echo x; sleep 100"])
        .ok();
    let mut following = people.shelf.spawn(&["logs", "-f", "web"]);
    wait_for(|| following.read().0 == "x\n");
    people.remove("web");
    env.rt.finish(following).ok();
}

fn rotation_loses_nothing_and_repeats_nothing(env: &Env) {
    let people = People::new(env);
    let script = "while ! test -e /go; do sleep 0.02; done; i=0; while test $i -lt 4000; do echo number $i; i=$((i+1)); done";
    let flags = [
        "-d",
        "--name=web",
        "--log-opt=max-size=4k",
        "--log-opt=max-file=100",
    ];
    people.run(&flags, &["sh", "-c", script]).ok();
    let following = people.shelf.spawn(&["logs", "-f", "web"]);
    std::thread::sleep(Duration::from_millis(200));
    people.shelf.ok(&["exec", "web", "touch", "/go"]);
    let expected: String = (0..4000).map(|n| format!("number {n}\n")).collect();
    let output = env.rt.finish(following).ok();
    assert!(output.stdout == expected, "{} bytes", output.stdout.len());
    let directory = people.containers().remove(0);
    assert!(directory.join("log.5").exists());
    assert!(people.shelf.ok(&["logs", "web"]) == expected);
    let last: String = (3900..4000).map(|n| format!("number {n}\n")).collect();
    assert_eq!(people.shelf.ok(&["logs", "--tail", "100", "web"]), last);
    people.remove("web");
}

fn a_container_without_a_log(env: &Env) {
    let people = People::new(env);
    people
        .run(&["--name=web", "--log-driver=none"], &["true"])
        .ok();
    people
        .shelf
        .call(&["logs", "web"])
        .fails()
        .says("without a log");
    people.remove("web");
}

fn details_are_chosen_when_it_is_made(env: &Env) {
    let people = People::new(env);
    let flags = [
        "--name=web",
        "--label=a=b c",
        "--label=d=e",
        "--env=V=1",
        "--log-opt=labels=a,none",
        "--log-opt=env=V,A",
    ];
    people.run(&flags, &["sh", "-c", "echo 1; echo 2 >&2"]).ok();
    let output = people.shelf.call(&["logs", "--details", "web"]).ok();
    assert_eq!(output.stdout, "A=image,V=1,a=b+c 1\n");
    assert_eq!(output.stderr, "A=image,V=1,a=b+c 2\n");
    let timed = people.shelf.ok(&["logs", "--details", "-t", "web"]);
    let rest = timed.split_once(' ').unwrap().1;
    assert_eq!(rest, "A=image,V=1,a=b+c 1\n");
    people.run(&["--name=plain"], &["echo", "x"]).ok();
    assert_eq!(people.shelf.ok(&["logs", "--details", "plain"]), " x\n");
    people
        .run(&["--log-opt=tag=x"], &["true"])
        .exits(125)
        .says("none of max-size, max-file, labels, env");
    people.remove("web");
    people.remove("plain");
}
