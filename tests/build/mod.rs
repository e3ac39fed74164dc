//! `rcrun build`, one module per area that a user can name.

mod attacks;
mod basics;
mod cache;
mod contexts;
mod copy;
mod endurance;
mod run;
mod stages;

use crate::harness::modules::{Module, check, of_images};
use crate::harness::{Env, Test, test};

/// Modules and their tests. `no_file_of_builds_is_forgotten` compares this list with the directory.
const MODULES: &[Module] = &[
    ("attacks", attacks::tests),
    ("basics", basics::tests),
    ("cache", cache::tests),
    ("contexts", contexts::tests),
    ("copy", copy::tests),
    ("endurance", endurance::tests),
    ("run", run::tests),
    ("stages", stages::tests),
];

pub(crate) fn all() -> Vec<Test> {
    let mut tests = vec![test!(no_file_of_builds_is_forgotten)];
    tests.extend(of_images("build", MODULES));
    tests
}

fn no_file_of_builds_is_forgotten(_: &Env) {
    check("build", MODULES);
}
