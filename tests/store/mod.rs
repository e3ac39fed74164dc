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

use crate::harness::modules::{Module, check, of_images};
use crate::harness::{Env, Test, test};

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
    tests.extend(of_images("store", MODULES));
    tests
}

fn no_file_of_the_store_is_forgotten(_: &Env) {
    check("store", MODULES);
}
