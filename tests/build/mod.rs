//! `rcrun build`, one module per area that a user can name.
#![allow(clippy::too_many_lines, reason = "most of it is tables")]

mod agents;
mod attacks;
mod attacks_sources;
mod attest;
mod basics;
mod cache;
mod cache_io;
mod call;
mod contexts;
mod copy;
mod copy_sources;
mod dependencies;
mod endurance;
mod epoch;
mod git;
mod named;
mod outputs;
mod provenance;
mod rootless;
mod run;
mod secrets;
mod squash;
mod stages;

use crate::harness::modules::{Module, check, of_images};
use crate::harness::{Env, Test, test};

/// Modules and their tests. `no_file_of_builds_is_forgotten` compares this list with the directory.
const MODULES: &[Module] = &[
    ("agents", agents::tests),
    ("attacks", attacks::tests),
    ("attacks_sources", attacks_sources::tests),
    ("attest", attest::tests),
    ("basics", basics::tests),
    ("cache", cache::tests),
    ("cache_io", cache_io::tests),
    ("call", call::tests),
    ("contexts", contexts::tests),
    ("copy", copy::tests),
    ("copy_sources", copy_sources::tests),
    ("dependencies", dependencies::tests),
    ("endurance", endurance::tests),
    ("epoch", epoch::tests),
    ("git", git::tests),
    ("named", named::tests),
    ("outputs", outputs::tests),
    ("provenance", provenance::tests),
    ("rootless", rootless::tests),
    ("run", run::tests),
    ("secrets", secrets::tests),
    ("squash", squash::tests),
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
