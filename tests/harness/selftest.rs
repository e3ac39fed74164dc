//! The harness itself: a leak check that finds nothing would prove nothing.

use super::leaks::Snapshot;
use super::{Env, Test, attack, cgroup, test};
use std::fs;
use std::process::Command;

pub(crate) fn tests() -> Vec<Test> {
    vec![
        test!(isolated_from_the_host),
        test!(finds_leaked_mounts),
        test!(finds_leaked_processes),
        test!(finds_leaked_cgroups),
        test!(finds_leaked_cgroups_below_our_own),
        test!(finds_leaked_state_and_files),
        test!(canary_sees_every_change),
        test!(swapper_swaps),
    ]
}

fn isolated_from_the_host(env: &Env) {
    let init = fs::read_link("/proc/1/ns/mnt").unwrap();
    assert_eq!(init, fs::read_link("/proc/self/ns/mnt").unwrap());
    assert!(fs::read_dir("/sys/class/net").unwrap().count() > 0);
    assert!(
        fs::read_to_string("/proc/net/dev").unwrap().lines().count() <= 3,
        "only lo in a fresh network namespace"
    );
    assert!(env.dir.ends_with(&env.tag));
}

fn finds_leaked_mounts(env: &Env) {
    let before = Snapshot::take(env);
    let point = env.directory("point");
    let mount =
        |args: &[&str]| assert!(Command::new("mount").args(args).status().unwrap().success());
    mount(&["-t", "tmpfs", "leak", point.to_str().unwrap()]);
    let found = before.leaked_now(env);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("mount: ") && found[0].contains("point"),
        "{found:?}"
    );
    assert!(
        Command::new("umount")
            .arg(&point)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(before.leaked_now(env), Vec::<String>::new());
}

fn finds_leaked_processes(env: &Env) {
    let before = Snapshot::take(env);
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let found = before.leaked_now(env);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(found.len() == 1 && found[0].contains("sleep"), "{found:?}");
}

fn finds_leaked_cgroups(env: &Env) {
    let before = Snapshot::take(env);
    let Some(parent) = cgroup::any() else {
        env.skip("no cgroup hierarchy is mounted")
    };
    let dir = parent.join(&env.tag).join("leaked");
    fs::create_dir_all(&dir).unwrap();
    let found = before.leaked_now(env);
    fs::remove_dir(&dir).unwrap();
    assert!(
        found.len() == 1 && found[0].starts_with("cgroup: "),
        "{found:?}"
    );
}

/// Of relative paths.
fn finds_leaked_cgroups_below_our_own(env: &Env) {
    let own = cgroup::of_process(1, "memory").filter(|own| own != "/");
    let (Some(own), Some(point)) = (own, cgroup::v1("memory")) else {
        env.skip("we are at the top of the memory hierarchy, or there is none")
    };
    let before = Snapshot::take(env);
    let parent = point.join(own.trim_start_matches('/')).join(&env.tag);
    fs::create_dir_all(parent.join("leaked")).unwrap();
    let found = before.leaked_now(env);
    assert_eq!(cgroup::remove(&env.tag), Vec::<std::path::PathBuf>::new());
    assert!(
        found.len() == 1 && found[0].starts_with("cgroup: "),
        "{found:?}"
    );
    assert!(!parent.exists());
}

fn finds_leaked_state_and_files(env: &Env) {
    let before = Snapshot::take(env);
    let (state, file) = (
        env.rt.root.join("forgotten"),
        format!("/tmp/{}-file", env.tag),
    );
    fs::create_dir_all(&state).unwrap();
    fs::write(&file, "").unwrap();
    let found = before.leaked_now(env);
    fs::remove_dir_all(&env.rt.root).unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(
        found,
        [
            format!("state: {}", state.display()),
            format!("file: {file}")
        ]
    );
}

fn canary_sees_every_change(env: &Env) {
    let canary = attack::Canary::plant(&env.path("canary"));
    canary.is_intact();
    let base = attack::fingerprint(&canary.path);
    let file = canary.path.join("passwd");
    fs::write(&file, "changed").unwrap();
    assert_ne!(attack::fingerprint(&canary.path), base, "content");
    fs::write(&file, "the host's passwd\n").unwrap();
    assert_eq!(attack::fingerprint(&canary.path), base);
    fs::write(canary.path.join("new"), "").unwrap();
    assert_ne!(attack::fingerprint(&canary.path), base, "a new file");
}

fn swapper_swaps(env: &Env) {
    let (one, other) = (env.directory("one"), env.directory("other"));
    fs::write(one.join("file"), "").unwrap();
    let swapper = attack::Swapper::start(&one, &other);
    let mut seen = [false; 2];
    super::process::until("both orders were seen", 5, || {
        seen[usize::from(one.join("file").exists())] = true;
        (seen == [true, true] && swapper.count() > 2).then_some(())
    });
}
