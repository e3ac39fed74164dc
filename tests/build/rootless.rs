//! Builds of an ordinary user: some of the other tests, in a default run; all of them are run so with
//! `RCRUN_TEST_USER=1`. And what is different.

use super::basics::a_dockerfile_becomes_an_image;
use super::cache_io::{another_machine_finds_all_steps_done_at_a_registry, cache_mounts_travel};
use super::endurance::the_next_build_goes_on_at_the_last_finished_step;
use super::run::{
    cache_directories, limits, mounts_of_files, networks, secrets, users as users_of_steps,
};
use crate::harness::builds::Builds;
use crate::harness::users::{self, ALICE, Accounts, BOB, COUNT, SUBORDINATE, User};
use crate::harness::{Env, Test, test};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

pub(super) fn tests() -> Vec<Test> {
    let shared = vec![
        test!(a_dockerfile_becomes_an_image),
        test!(another_machine_finds_all_steps_done_at_a_registry),
        test!(cache_mounts_travel),
        test!(the_next_build_goes_on_at_the_last_finished_step),
        test!(cache_directories),
        test!(limits),
        test!(mounts_of_files),
        test!(networks),
        test!(secrets),
        test!(users_of_steps),
        test!(layers_belong_to_subordinate_ids),
    ];
    let by_user = shared.into_iter().map(Test::by_user);
    let by_root = [
        test!(one_id_is_not_enough),
        test!(each_user_has_builds_of_its_own),
    ];
    // They make users of their own.
    let by_root = by_root
        .into_iter()
        .map(|test| users::by_programs(test).root("it calls several users' verbs"));
    by_user.chain(by_root).collect()
}

fn layers_belong_to_subordinate_ids(env: &Env) {
    let builds = Builds::new(env);
    let text =
        "FROM base\nCOPY --chown=5:6 f /copied\nRUN touch /made && chown 7:8 /made && touch /own\n";
    let built = builds.of(&[], text, &[("f", "1")]);
    let files = built.files();
    let owners = ["copied", "made", "own"].map(|path| files.get(path).owner);
    assert_eq!(owners, [(5, 6), (7, 8), (0, 0)]);
    // On the disk nothing belongs to anybody else, and nothing to root.
    let mut seen = BTreeSet::new();
    let mut todo = vec![builds.shelf.path()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let stat = entry.metadata().unwrap();
            seen.extend([stat.uid(), stat.gid()]);
            if stat.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    let others = |id: &u32| *id != ALICE && !(SUBORDINATE..SUBORDINATE + COUNT).contains(id);
    assert!(!seen.iter().any(others), "{seen:?}");
    for id in [4, 5, 6, 7] {
        assert!(seen.contains(&(SUBORDINATE + id)), "{seen:?}");
    }
}

fn one_id_is_not_enough(env: &Env) {
    let _accounts = Accounts::new(env, &[("alice", ALICE)], "", "");
    let context = env.directory("context");
    fs::write(context.join("Dockerfile"), "FROM scratch\nWORKDIR /a\n").unwrap();
    let alice = User::new(env, "alice", ALICE);
    let output = alice.call(&["build", context.to_str().unwrap()]);
    output.fails().says("single user id").says("/etc/subuid");
}

fn each_user_has_builds_of_its_own(env: &Env) {
    let _accounts = users::both(env);
    let context = env.directory("context");
    let text = "FROM scratch\nCOPY f /f\nWORKDIR /d\n";
    fs::write(context.join("Dockerfile"), text).unwrap();
    fs::write(context.join("f"), "1").unwrap();
    let alice = User::new(env, "alice", ALICE);
    let bob = User::new(env, "bob", BOB);
    let build = |user: &User<'_>| {
        let words = ["build", "--progress=plain", "--iidfile=id", "."];
        let mut command = user.command(&words[..3]);
        command.arg(&context);
        let output = user.finish(command).ok();
        let id = fs::read_to_string(user.home.join("id")).unwrap();
        (id, output.stderr.matches("CACHED").count())
    };
    let (of_alice, cached) = build(&alice);
    assert_eq!(cached, 0);
    let (of_bob, cached) = build(&bob);
    assert_eq!(cached, 0, "nothing of Alice's is Bob's");
    assert_eq!(of_alice, of_bob);
    assert_eq!(build(&alice), (of_alice, 2));
}
