//! Containers of images, one module per area that a user can name.

mod copies;
mod flags;
mod hostile;
mod life;
mod logs;
mod namespaces;
mod network;
mod rootless;
mod terminals;
mod users;
mod verbs;
mod volumes;

use crate::harness::modules::{Module, check, of_images};
use crate::harness::{Env, Test, test};

/// Modules and their tests. `no_file_of_the_people_is_forgotten` compares this list with the directory.
const MODULES: &[Module] = &[
    ("copies", copies::tests),
    ("flags", flags::tests),
    ("hostile", hostile::tests),
    ("life", life::tests),
    ("logs", logs::tests),
    ("namespaces", namespaces::tests),
    ("network", network::tests),
    ("rootless", rootless::tests),
    ("terminals", terminals::tests),
    ("users", users::tests),
    ("verbs", verbs::tests),
    ("volumes", volumes::tests),
];

pub(crate) fn all() -> Vec<Test> {
    let mut tests = vec![test!(no_file_of_the_people_is_forgotten)];
    tests.extend(of_images("people", MODULES));
    tests
}

fn no_file_of_the_people_is_forgotten(_: &Env) {
    check("people", MODULES);
}
