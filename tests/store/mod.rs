//! The verbs on images and the store, one module per area that a user can name.

mod copies;
mod crash;
mod crowd;
mod disk;
mod errors;
mod fsck;
mod images;
mod interop;
mod interrupts;
mod login;
mod mounts;
mod power;
mod progress;
mod pull;
mod remove;
mod resets;
mod rot;
mod trees;

use crate::harness::{Env, Test, test};

/// A file here, and the function that lists its tests.
type Module = (&'static str, fn() -> Vec<Test>);

/// Modules and their tests. `no_file_of_the_store_is_forgotten` compares this list with the directory.
const MODULES: &[Module] = &[
    ("copies", copies::tests),
    ("crash", crash::tests),
    ("crowd", crowd::tests),
    ("disk", disk::tests),
    ("errors", errors::tests),
    ("fsck", fsck::tests),
    ("images", images::tests),
    ("interop", interop::tests),
    ("interrupts", interrupts::tests),
    ("login", login::tests),
    ("mounts", mounts::tests),
    ("power", power::tests),
    ("progress", progress::tests),
    ("pull", pull::tests),
    ("remove", remove::tests),
    ("resets", resets::tests),
    ("rot", rot::tests),
    ("trees", trees::tests),
];

pub(crate) fn all() -> Vec<Test> {
    let mut tests = vec![test!(no_file_of_the_store_is_forgotten)];
    for (module, list) in MODULES {
        tests.extend(list().into_iter().map(|mut test| {
            let name = test.name.split("::").last().unwrap_or_default();
            test.name = format!("store::{module}::{name}");
            test.only_rcrun("runc has no images")
        }));
    }
    tests
}

fn no_file_of_the_store_is_forgotten(_: &Env) {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store");
    let mut files: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(".rs").map(str::to_owned))
        .filter(|name| name != "mod")
        .collect();
    files.sort();
    let listed: Vec<&str> = MODULES.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        files, listed,
        "files in tests/store, and modules that are run"
    );
    for (name, tests) in MODULES {
        assert!(!tests().is_empty(), "{name} has no tests");
    }
}
