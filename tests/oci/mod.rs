//! The OCI runtime, one module per area that a user can name.

mod apparmor;
mod attach;
mod attach_people;
mod cgroups_v1;
mod checkpoint;
mod checkpoint_failures;
mod crun;
mod cves;
mod cves_escape;
mod cves_identity;
mod devices;
mod errors;
mod exec;
mod faults;
mod hooks;
mod ids;
mod lifecycle;
mod limits;
mod monitor;
mod monitor_faults;
mod mount_options;
mod mounts;
mod namespaces;
mod network_devices;
mod process;
mod races;
mod reliability;
mod reports;
mod rollback;
mod root_descriptor;
mod rootfs;
mod rootless;
mod seccomp;
mod seccomp_listener;
mod selinux;
mod sysctl;
mod terminal;
mod update;
mod verbs;

use crate::harness::modules::{Module, check};
use crate::harness::{Env, Test, selftest, test};

/// Modules and their tests. `no_file_is_forgotten` compares this list with the directory.
const MODULES: &[Module] = &[
    ("apparmor", apparmor::tests),
    ("attach", attach::tests),
    ("attach_people", attach_people::tests),
    ("cgroups_v1", cgroups_v1::tests),
    ("checkpoint", checkpoint::tests),
    ("checkpoint_failures", checkpoint_failures::tests),
    ("crun", crun::tests),
    ("cves", cves::tests),
    ("cves_escape", cves_escape::tests),
    ("cves_identity", cves_identity::tests),
    ("devices", devices::tests),
    ("errors", errors::tests),
    ("exec", exec::tests),
    ("faults", faults::tests),
    ("hooks", hooks::tests),
    ("ids", ids::tests),
    ("lifecycle", lifecycle::tests),
    ("limits", limits::tests),
    ("monitor", monitor::tests),
    ("monitor_faults", monitor_faults::tests),
    ("mount_options", mount_options::tests),
    ("mounts", mounts::tests),
    ("namespaces", namespaces::tests),
    ("network_devices", network_devices::tests),
    ("process", process::tests),
    ("races", races::tests),
    ("reliability", reliability::tests),
    ("reports", reports::tests),
    ("rollback", rollback::tests),
    ("root_descriptor", root_descriptor::tests),
    ("rootfs", rootfs::tests),
    ("rootless", rootless::tests),
    ("seccomp", seccomp::tests),
    ("seccomp_listener", seccomp_listener::tests),
    ("selinux", selinux::tests),
    ("sysctl", sysctl::tests),
    ("terminal", terminal::tests),
    ("update", update::tests),
    ("verbs", verbs::tests),
];

pub(crate) fn all() -> Vec<Test> {
    let mut tests = vec![test!(no_file_is_forgotten), test!(no_name_is_used_twice)];
    tests.extend(selftest::tests());
    tests.extend(MODULES.iter().flat_map(|(_, tests)| tests()));
    tests
}

fn no_file_is_forgotten(_: &Env) {
    check("oci", MODULES);
}

fn no_name_is_used_twice(_: &Env) {
    let mut names: Vec<String> = all().into_iter().map(|t| t.name).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
