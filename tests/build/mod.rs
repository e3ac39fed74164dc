//! `rcrun build`, one module per area that a user can name.

mod basics;
mod cache_io;

use crate::harness::modules::{Module, check, of_images};
use crate::harness::{Env, Test, test};

/// Modules and their tests. `no_file_of_builds_is_forgotten` compares this list with the directory.
const MODULES: &[Module] = &[("basics", basics::tests), ("cache_io", cache_io::tests)];

pub(crate) fn all() -> Vec<Test> {
    let mut tests = vec![test!(no_file_of_builds_is_forgotten)];
    tests.extend(of_images("build", MODULES));
    tests
}

fn no_file_of_builds_is_forgotten(_: &Env) {
    check("build", MODULES);
}
