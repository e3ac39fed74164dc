//! The CRI server, over its socket, with a client of the generated code.

mod broken;
mod checkpoint;
mod confinement;
mod endurance;
mod events;
mod greedy;
mod hostile;
mod images;
mod interrupted;
mod kubelet;
mod life;
mod logs;
mod metrics;
mod nri;
mod nri_changes;
mod pods;
mod pods_kept;
mod probes;
mod pulls;
mod removal;
mod replay;
mod requests;
mod restore;
mod stats;
mod stats_updates;
mod streams;
mod streams_bounds;
mod systemd;

use crate::harness::modules::{Module, check, of_images};
use crate::harness::{Env, Test, test};

/// Modules and their tests. `no_file_of_the_server_is_forgotten` compares this list with the directory.
const MODULES: &[Module] = &[
    ("broken", broken::tests),
    ("checkpoint", checkpoint::tests),
    ("confinement", confinement::tests),
    ("endurance", endurance::tests),
    ("events", events::tests),
    ("greedy", greedy::tests),
    ("hostile", hostile::tests),
    ("images", images::tests),
    ("interrupted", interrupted::tests),
    ("kubelet", kubelet::tests),
    ("life", life::tests),
    ("logs", logs::tests),
    ("metrics", metrics::tests),
    ("nri", nri::tests),
    ("nri_changes", nri_changes::tests),
    ("pods", pods::tests),
    ("pods_kept", pods_kept::tests),
    ("probes", probes::tests),
    ("pulls", pulls::tests),
    ("removal", removal::tests),
    ("replay", replay::tests),
    ("requests", requests::tests),
    ("restore", restore::tests),
    ("stats", stats::tests),
    ("stats_updates", stats_updates::tests),
    ("streams", streams::tests),
    ("streams_bounds", streams_bounds::tests),
    ("systemd", systemd::tests),
];

pub(crate) fn all() -> Vec<Test> {
    let mut tests = vec![test!(no_file_of_the_server_is_forgotten)];
    tests.extend(of_images("cri", MODULES));
    tests
}

fn no_file_of_the_server_is_forgotten(_: &Env) {
    check("cri", MODULES);
}
