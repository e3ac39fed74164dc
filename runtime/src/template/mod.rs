//! What containers get unless they are told otherwise, and the small languages in which they are told:
//! shared by all who write configurations.
//!
//! [`seccomp`] is the profile of system calls, [`capabilities`] the choice of capabilities, [`apparmor`] the
//! profile of AppArmor, [`MASKED`] and [`READ_ONLY`] what of /proc and /sys is hidden; [`cdi`] and [`devices`] look up devices of the host (and are
//! the only ones here that look at anything, with [`machine`] and [`apparmor`]); [`files`] are the texts of /etc/hosts and /etc/resolv.conf,
//! [`signal`] names of signals. Documents are written by `containers` and the CRI server, not here.

pub mod apparmor;
mod calls;
pub mod capabilities;
pub mod cdi;
pub mod devices;
pub mod files;
pub mod machine;
pub mod seccomp;
pub mod signal;

use std::path::{Component, Path, PathBuf};

/// Where programs are looked for, unless the image says so.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Not to be read, since they tell of the host or change it.
pub const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Not to be written.
pub const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// An absolute path without `.` and `..`, as text: nothing is above the root.
pub fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::Normal(name) => cleaned.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned
}
