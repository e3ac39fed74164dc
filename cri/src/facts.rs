//! What is true of this node, read once when the server starts.

use std::path::Path;

use rcrun_runtime::container::{CgroupDriver, Runtime};
use rcrun_runtime::template::apparmor::{self, Support};
use rcrun_runtime::template::{capabilities, machine};

use crate::settings::Settings;
use crate::spec::{Driver, Node};
use crate::{Context, Error, ErrorKind, Result};

/// The first kernel that makes a mount read-only with all below it.
const DEEP_READ_ONLY: (u32, u32) = (5, 12);
/// The first kernel whose overlayfs and tmpfs can have their ids mapped.
const MAPPED_MOUNTS: (u32, u32) = (6, 3);

/// The facts.
pub(crate) fn node(runtime: &Runtime, settings: &Settings) -> Result<Node> {
    let there = |path: &str| Path::new(path).exists();
    let name = rustix::system::uname();
    let kernel = machine::kernel();
    let cgroup2 = there("/sys/fs/cgroup/cgroup.controllers");
    Ok(Node {
        hostname: name.nodename().to_string_lossy().into_owned(),
        kernel,
        capabilities: capabilities::of_mask(machine::own_capabilities()?),
        cgroup2,
        driver: match runtime.cgroup_driver {
            CgroupDriver::Systemd => Driver::Systemd,
            _ => Driver::Cgroupfs,
        },
        swap: match cgroup2 {
            true => there("/proc/swaps"),
            false => there("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"),
        },
        huge_pages: huge_pages(cgroup2),
        deep_read_only: kernel >= DEEP_READ_ONLY,
        mapped_mounts: kernel >= MAPPED_MOUNTS,
        seccomp: there("/proc/sys/kernel/seccomp"),
        apparmor: profile(),
        selinux: there("/sys/fs/selinux/enforce"),
        least_oom_score: least_oom_score()?,
        rlimits: Vec::new(),
        unprivileged_ports: settings.unprivileged_ports,
        unprivileged_icmp: settings.unprivileged_icmp,
    })
}

/// Whether AppArmor is on, and the profile that containers get, which is loaded now: a server of another version
/// may have left another one.
fn profile() -> Option<Option<String>> {
    let failed = match apparmor::support() {
        Support::Off => return None,
        Support::Hidden => Error::new(
            ErrorKind::Unsupported,
            "securityfs is not mounted at /sys/kernel/security",
        ),
        Support::On => match apparmor::load() {
            Ok(()) => return Some(Some(apparmor::NAME.to_owned())),
            Err(error) => error,
        },
    };
    // An earlier one may be there still.
    let there = apparmor::is_loaded(apparmor::NAME).unwrap_or(false);
    let what = match there {
        true => "the AppArmor profile of containers is one that was there already",
        false => "AppArmor is on, but confines only containers that name a profile of the node",
    };
    tracing::warn!("{what}: {}", failed.chain());
    Some(there.then(|| apparmor::NAME.to_owned()))
}

/// The score below which this process may give none (proc(5), `oom_score_adj`): that needs
/// CAP_SYS_RESOURCE.
fn least_oom_score() -> Result<Option<i32>> {
    const SYS_RESOURCE: u64 = 1 << 24;
    if machine::own_capabilities()? & SYS_RESOURCE != 0 {
        return Ok(None);
    }
    let path = "/proc/self/oom_score_adj";
    let text = std::fs::read_to_string(path).context(|| format!("cannot read {path}"))?;
    Ok(text.trim().parse().ok())
}

/// Sizes that the controller of huge pages knows.
fn huge_pages(cgroup2: bool) -> Vec<String> {
    let (directory, suffix) = match cgroup2 {
        // The root has no limits: the kernel's list of sizes is that of the controller.
        true => return controlled(),
        false => ("/sys/fs/cgroup/hugetlb", ".limit_in_bytes"),
    };
    let mut sizes: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| {
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(suffix)?;
            (!size.ends_with(".rsvd")).then(|| size.to_owned())
        })
        .collect();
    sizes.sort_unstable();
    sizes
}

fn controlled() -> Vec<String> {
    let text = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if !text.split_whitespace().any(|name| name == "hugetlb") {
        return Vec::new();
    }
    let size = |name: String| {
        let kilobytes: u64 = name
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        Some(match (kilobytes >> 20, kilobytes >> 10) {
            (0, 0) => format!("{kilobytes}KB"),
            (0, megabytes) => format!("{megabytes}MB"),
            (gigabytes, _) => format!("{gigabytes}GB"),
        })
    };
    let mut sizes: Vec<String> = std::fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .filter_map(|entry| size(entry.ok()?.file_name().into_string().ok()?))
        .collect();
    sizes.sort_unstable();
    sizes
}
