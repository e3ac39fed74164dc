//! `rcrun build`, one module per area that a user can name.

mod attest;
mod basics;
mod cache_io;
mod secrets;
mod squash;

use crate::harness::modules::{Module, check, of_images};
use crate::harness::{Env, Test, test};

/// Modules and their tests. `no_file_of_builds_is_forgotten` compares this list with the directory.
const MODULES: &[Module] = &[
    ("attest", attest::tests),
    ("basics", basics::tests),
    ("cache_io", cache_io::tests),
    ("secrets", secrets::tests),
    ("squash", squash::tests),
];

pub(crate) fn all() -> Vec<Test> {
    let mut tests = vec![test!(no_file_of_builds_is_forgotten)];
    tests.extend(of_images("build", MODULES));
    tests
}

fn no_file_of_builds_is_forgotten(_: &Env) {
    check("build", MODULES);
}
