//! Several calls of the runtime at once, on the same and on different containers.

use super::reliability::rounds;
use crate::harness::env::read;
use crate::harness::{Bundle, Env, Output, Test, process, test};
use std::fs;
use std::time::Duration;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(concurrent_containers),
        test!(concurrent_execs),
        test!(concurrent_creates_of_one_id),
        test!(concurrent_deletes_of_one_id),
        test!(delete_during_create),
        test!(delete_during_exec),
        test!(kill_during_start),
        test!(pid_file_is_never_empty),
    ]
}

fn concurrent_containers(env: &Env) {
    for _ in 0..rounds(2, 50) {
        let running: Vec<_> = (0..10)
            .map(|i| {
                let mut bundle = env.bundle();
                (
                    i,
                    bundle
                        .sh(&format!("echo {i}; exit {i}"))
                        .run_in_background(&[]),
                )
            })
            .collect();
        for (i, one) in running {
            env.rt.finish(one).exits(i).prints(&i.to_string());
        }
    }
}

fn concurrent_execs(env: &Env) {
    let container = env.bundle().sleeper();
    for _ in 0..rounds(2, 100) {
        let running: Vec<_> = (0..16)
            .map(|i| {
                env.rt.spawn(
                    container.exec_command(&[], &["sh", "-c", &format!("echo {i}; exit {i}")]),
                )
            })
            .collect();
        for (i, one) in running.into_iter().enumerate() {
            env.rt
                .finish(one)
                .exits(i32::try_from(i).unwrap())
                .prints(&i.to_string());
        }
    }
    assert_eq!(container.status(), "running");
}

fn concurrent_creates_of_one_id(env: &Env) {
    for _ in 0..rounds(3, 200) {
        let bundles: Vec<Bundle<'_>> = (0..6)
            .map(|_| {
                let mut bundle = env.bundle();
                bundle.id = format!("{}-same", env.tag);
                bundle.args(&["sleep", "1000"]);
                bundle
            })
            .collect();
        let running: Vec<_> = bundles
            .iter()
            .map(|b| env.rt.spawn(b.command("create", &[])))
            .collect();
        let outputs: Vec<Output> = running.into_iter().map(|r| env.rt.finish(r)).collect();
        let won = outputs.iter().filter(|o| o.code == 0).count();
        assert_eq!(
            won,
            1,
            "{}",
            outputs.iter().map(ToString::to_string).collect::<String>()
        );
        let id = format!("{}-same", env.tag);
        assert_eq!(
            env.rt.call(&["state", &id]).ok().json()["status"],
            "created"
        );
        env.rt.call(&["delete", "--force", &id]).ok();
    }
}

fn concurrent_deletes_of_one_id(env: &Env) {
    for _ in 0..rounds(3, 200) {
        let mut bundle = env.bundle();
        let container = bundle.sleeper();
        assert_eq!(container.status(), "running");
        let running: Vec<_> = (0..8)
            .map(|_| {
                env.rt
                    .spawn(env.rt.command(&["delete", "--force", &container.id]))
            })
            .collect();
        let outputs: Vec<Output> = running.into_iter().map(|r| env.rt.finish(r)).collect();
        assert!(
            outputs.iter().any(|o| o.code == 0),
            "nobody succeeded: {}",
            outputs[0]
        );
        assert!(!env.rt.root.join(&container.id).exists());
    }
}

fn delete_during_create(env: &Env) {
    env.bundle().runs();
    for round in 0..rounds(12, 1000) {
        let mut bundle = env.bundle();
        bundle.args(&["sleep", "1000"]);
        let create = env.rt.spawn(bundle.command("create", &[]));
        std::thread::sleep(Duration::from_millis(round as u64 * 5 % 60));
        env.rt.call(&["delete", "--force", &bundle.id]);
        env.rt.finish(create);
        env.rt.call(&["delete", "--force", &bundle.id]).ok();
        assert!(!env.rt.root.join(&bundle.id).exists());
    }
}

fn delete_during_exec(env: &Env) {
    for round in 0..rounds(6, 300) {
        let container = env.bundle().sleeper();
        let exec = env
            .rt
            .spawn(container.exec_command(&[], &["sleep", "1000"]));
        std::thread::sleep(Duration::from_millis(round as u64 * 10 % 60));
        env.rt.call(&["delete", "--force", &container.id]).ok();
        assert_ne!(env.rt.finish(exec).code, 0, "a killed exec is no success");
    }
}

fn kill_during_start(env: &Env) {
    for _ in 0..rounds(6, 300) {
        let mut bundle = env.bundle();
        let container = bundle.args(&["sleep", "1000"]).create();
        let start = env.rt.spawn(env.rt.command(&["start", &container.id]));
        container.kill("KILL");
        env.rt.finish(start);
        container.wait_stopped();
        container.delete();
    }
}

/// A watcher that reads the pid file the moment it appears must find a whole number.
fn pid_file_is_never_empty(env: &Env) {
    for _ in 0..rounds(8, 300) {
        let bundle = env.bundle();
        let path = bundle.path.join("init.pid");
        let create = env
            .rt
            .spawn(bundle.command("create", &["--pid-file", path.to_str().unwrap()]));
        let first = process::until("the file appears", 10, || fs::read_to_string(&path).ok());
        env.rt.finish(create).ok();
        assert!(first.parse::<i32>().is_ok_and(|pid| pid > 0), "{first:?}");
        assert_eq!(read(&path), first);
        env.rt.call(&["delete", "--force", &bundle.id]).ok();
    }
}
