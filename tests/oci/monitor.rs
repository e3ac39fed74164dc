//! The monitor: exit records, logs, and the control socket as any process may misuse it.

use crate::harness::monitor::{joined, log_lines};
use crate::harness::{Env, Test, process, test};
use rcrun_runtime::ErrorKind;
use serde_json::{Value, json};
use std::fs;

pub(crate) fn tests() -> Vec<Test> {
    let tests = vec![
        test!(exit_codes_and_signals),
        test!(exit_of_a_container_that_ran_out_of_memory),
        test!(exit_record_on_a_full_disk).timeout(90),
        test!(output_is_logged_line_by_line),
        test!(long_lines_are_logged_in_parts),
        test!(rotation_loses_no_line).timeout(120),
        test!(log_is_reopened_on_request),
        test!(log_on_a_full_disk_does_not_stop_the_container).timeout(120),
    ];
    let reason = "monitors are rcrun's own";
    tests
        .into_iter()
        .map(|test| test.only_rcrun(reason))
        .collect()
}

fn exit_codes_and_signals(env: &Env) {
    for (script, code, signal) in [
        ("exit 0", 0, None),
        ("exit 42", 42, None),
        ("exit 255", 255, None),
        ("sleep 1000", 137, Some(9)),
        (
            "trap 'exit 3' TERM; echo up; while :; do sleep 0.05; done",
            3,
            None,
        ),
    ] {
        let mut bundle = env.bundle();
        bundle.sh(script);
        let mut monitored = bundle.monitored().start();
        if script.contains("trap") {
            monitored.wait_log("up");
            monitored.kill_container("TERM");
        } else if signal.is_some() {
            monitored.kill_container("KILL");
        }
        let exit = monitored.ends();
        assert_eq!(
            (exit.code, exit.signal, exit.oom),
            (code, signal, false),
            "{script}"
        );
        assert_eq!(exit.finished_at.len(), 30);
        assert_eq!(
            monitored.status_of_container(),
            "stopped",
            "the state stays"
        );
        assert_eq!(
            monitored.try_client().unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
}

fn exit_of_a_container_that_ran_out_of_memory(env: &Env) {
    let mut bundle = env.bundle();
    bundle
        .set(
            "/linux/resources/memory",
            json!({"limit": 8 << 20, "swap": 8 << 20}),
        )
        .sh("tail /dev/zero");
    let exit = bundle.monitored().start().ends();
    assert_eq!((exit.code, exit.oom), (137, true));
}

/// A small file system of its own, for as long as the test's mount namespace lives.
fn small_disk(env: &Env, size: &str) -> std::path::PathBuf {
    let path = env.directory("small");
    let data = format!("size={size},mode=755");
    let none = nix::mount::MsFlags::empty();
    nix::mount::mount(
        Some("small"),
        &path,
        Some("tmpfs"),
        none,
        Some(data.as_str()),
    )
    .unwrap();
    path
}

/// Fills it up to the last page.
fn fill(disk: &std::path::Path) {
    use std::io::Write as _;
    let mut file = fs::File::options()
        .create(true)
        .append(true)
        .open(disk.join("filler"))
        .unwrap();
    for size in [64 << 10, 4096, 1] {
        while file
            .write(&vec![b'x'; size])
            .is_ok_and(|written| written > 0)
        {}
    }
}

fn exit_record_on_a_full_disk(env: &Env) {
    let disk = small_disk(env, "1m");
    let mut bundle = env.bundle();
    bundle.sh("while :; do sleep 0.05; done");
    let mut monitored = (bundle.monitored())
        .set("exit", json!(disk.join("exit")))
        .set("log", Value::Null)
        .start();
    fill(&disk);
    monitored.kill_container("KILL");
    assert_eq!(monitored.ends().code, 137, "its space was reserved");
    nix::mount::umount(&disk).unwrap();
}

fn output_is_logged_line_by_line(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh(
        "echo one; echo two >&2; sleep 0.1; printf 'no line feed'; printf '\\377\\000x\\n' >&2",
    );
    let mut monitored = bundle.monitored().start();
    monitored.ends();
    let lines = monitored.log();
    let of = |stream: &str| -> Vec<(char, &str)> {
        let of_stream = lines.iter().filter(|line| line.0 == stream);
        of_stream
            .map(|(_, tag, text)| (*tag, text.as_str()))
            .collect()
    };
    assert_eq!(of("stdout"), [('F', "one"), ('P', "no line feed")]);
    assert_eq!(of("stderr"), [('F', "two"), ('F', "\u{fffd}\0x")]);
}

fn long_lines_are_logged_in_parts(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh(
        "head -c 40000 /dev/zero | tr '\\0' x; echo; head -c 16384 /dev/zero | tr '\\0' y; echo",
    );
    let mut monitored = bundle.monitored().start();
    monitored.ends();
    let lines: Vec<_> = monitored
        .log()
        .into_iter()
        .map(|(_, t, text)| (t, text.len()))
        .collect();
    assert_eq!(
        lines,
        [('P', 16384), ('P', 16384), ('F', 7232), ('F', 16384)]
    );
}

fn rotation_loses_no_line(env: &Env) {
    let mut bundle = env.bundle();
    let count = 200_000;
    bundle.sh(&format!("seq 1 {count}"));
    let path = bundle.path.join("log");
    let mut monitored = (bundle.monitored())
        .set(
            "log",
            json!({"path": path, "max_size": 300_000, "max_files": 1000}),
        )
        .start();
    monitored.ends();
    let mut numbers = Vec::with_capacity(count);
    let mut files = 0;
    for number in (0..1000).rev() {
        let path = match number {
            0 => path.clone(),
            _ => path.with_file_name(format!("log.{number}")),
        };
        if path.exists() {
            files += 1;
            assert!(fs::metadata(&path).unwrap().len() <= 300_000);
            numbers.extend(log_lines(&path).into_iter().map(|(_, _, text)| text));
        }
    }
    assert!(files > 20, "{files} files");
    let expected: Vec<String> = (1..=count).map(|number| number.to_string()).collect();
    assert!(numbers == expected, "{} of {count} lines", numbers.len());
}

/// As the kubelet rotates: rename, then ask.
fn log_is_reopened_on_request(env: &Env) {
    let mut bundle = env.bundle();
    bundle.sh("n=0; while [ $n -lt 3000 ]; do n=$((n+1)); echo $n; done; echo done; sleep 1000");
    let monitored = bundle.monitored().start();
    let path = monitored.log_path();
    let mut old = Vec::new();
    for round in 0..20 {
        let to = path.with_file_name(format!("old.{round}"));
        fs::rename(&path, &to).unwrap();
        monitored.client().reopen_log().unwrap();
        old.push(to);
    }
    process::until("it is done", 20, || {
        let all = old.iter().chain([&path]);
        let last = all.flat_map(|path| log_lines(path)).last();
        last.filter(|line| line.2 == "done")
    });
    let all: Vec<_> = old
        .iter()
        .chain([&path])
        .flat_map(|path| log_lines(path))
        .collect();
    let expected: String = (1..=3000).map(|n| format!("{n}\n")).collect::<String>() + "done\n";
    assert_eq!(joined(&all, "stdout"), expected);
    monitored.kill_container("KILL");
}

fn log_on_a_full_disk_does_not_stop_the_container(env: &Env) {
    let disk = small_disk(env, "1m");
    let mut bundle = env.bundle();
    let marks = env.directory("marks");
    bundle.bind(&marks, "/marks", &["rw"]).sh(
        "seq 1 200000; touch /marks/full; while [ ! -e /marks/go ]; do sleep 0.02; done; echo again; sleep 1000",
    );
    let log = json!({"path": disk.join("log"), "max_size": null, "max_files": 1});
    let monitored = bundle.monitored().set("log", log).start();
    process::until("all is printed", 60, || {
        marks.join("full").exists().then_some(())
    });
    let lost = process::until("the loss is counted", 10, || {
        Some(monitored.client().status().unwrap().log_lost).filter(|lost| *lost > 0)
    });
    // Room again: what is missing is said without new output.
    let before = log_lines(&disk.join("log"));
    let mount = |size: &str| {
        let flags = nix::mount::MsFlags::MS_REMOUNT;
        let data = format!("size={size}");
        nix::mount::mount(
            None::<&str>,
            &disk,
            None::<&str>,
            flags,
            Some(data.as_str()),
        )
        .unwrap();
    };
    mount("8m");
    monitored.wait_log("are missing here");
    fs::write(marks.join("go"), "").unwrap();
    monitored.wait_log("stdout F again");
    let lines = monitored.log();
    let notice = &lines[before.len()];
    let lost = lost.max(monitored.client().status().unwrap().log_lost);
    assert_eq!(notice.0, "stderr");
    assert!(
        notice.2.contains(&format!("{lost} bytes")),
        "{notice:?} {lost}"
    );
    assert!(notice.2.contains("no space left on device"), "{notice:?}");
    let printed: String = (1..=200_000).map(|n| format!("{n}\n")).collect();
    let kept = joined(&before, "stdout");
    assert!(
        printed.starts_with(&kept),
        "whole lines, none missing before the first that is"
    );
    assert_eq!(
        kept.len() as u64 + lost,
        printed.len() as u64,
        "every byte is accounted for"
    );
    monitored.kill_container("KILL");
    drop(monitored);
    nix::mount::umount(&disk).unwrap();
}
