//! Containers of images, one module per area that a user can name.

mod copies;
mod flags;
mod hostile;
mod life;
mod logs;
mod namespaces;
mod network;
mod network_ends;
mod rootless;
mod terminals;
mod users;
mod verbs;
mod verbs_life;
mod volumes;
mod volumes_broken;

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
    ("network_ends", network_ends::tests),
    ("rootless", rootless::tests),
    ("terminals", terminals::tests),
    ("users", users::tests),
    ("verbs", verbs::tests),
    ("verbs_life", verbs_life::tests),
    ("volumes", volumes::tests),
    ("volumes_broken", volumes_broken::tests),
];

pub(crate) fn all() -> Vec<Test> {
    let mut tests = vec![test!(no_file_of_the_people_is_forgotten)];
    tests.extend(of_images("people", MODULES));
    tests
}

fn no_file_of_the_people_is_forgotten(_: &Env) {
    check("people", MODULES);
}
