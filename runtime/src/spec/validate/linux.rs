//! Rules for `linux`: namespaces, mappings, paths and the smaller properties.

use std::path::{Component, Path};

use oci_spec::runtime::{
    Linux, LinuxIdMapping, LinuxNamespaceType as Type, LinuxSeccomp, LinuxSeccompAction,
    MemoryPolicyModeType as Mode, Spec,
};

use super::process::is_number_list;
use super::{Facts, Found, Namespaces, devices, sysctl};

/// The kernel's limit of lines in uid_map (user_namespaces(7)).
const MOST_MAPPINGS: usize = 340;

pub(super) fn check(spec: &Spec, facts: &Facts, namespaces: Namespaces<'_>, found: &mut Found) {
    if !facts.privileged && !namespaces.has(Type::User) {
        found.problem(
            "linux.namespaces",
            "rootless container requires user namespaces",
        );
    }
    let Some(linux) = spec.linux() else { return };
    listed(namespaces, found);
    users(linux, facts, namespaces, found);
    clocks(linux, namespaces, found);
    sysctl::check(spec, facts, namespaces, found);
    paths(linux, namespaces, found);
    propagation(linux, facts, found);
    devices::nodes(linux, found);
    devices::network(linux, facts, namespaces, found);
    if let Some(resources) = linux.resources() {
        devices::resources(resources, facts, found);
    }
    if let Some(seccomp) = linux.seccomp() {
        self::seccomp(seccomp, found);
    }
    intel_rdt(linux, facts, found);
    memory_policy(linux, found);
    let flags = linux
        .personality()
        .as_ref()
        .and_then(|personality| personality.flags().as_ref());
    if let Some(flags) = flags.filter(|flags| !flags.is_empty()) {
        found.warn(format!("ignoring unsupported personality flags: {flags:?}"));
    }
}

fn listed(namespaces: Namespaces<'_>, found: &mut Found) {
    for (index, namespace) in namespaces.0.iter().enumerate() {
        let r#type = namespace.typ();
        let earlier = namespaces.0[..index]
            .iter()
            .any(|other| other.typ() == r#type);
        found.require(
            !earlier,
            || format!("linux.namespaces[{index}]"),
            || {
                let name = serde_json::to_string(&r#type).unwrap_or_default();
                format!("malformed spec file: duplicated ns {name}")
            },
        );
        let absolute = namespace
            .path()
            .as_ref()
            .is_none_or(|path| path.is_absolute());
        found.require(
            absolute,
            || format!("linux.namespaces[{index}].path"),
            || format!("{:?} is not an absolute path", namespace.path().as_deref()),
        );
    }
}

fn users(linux: &Linux, facts: &Facts, namespaces: Namespaces<'_>, found: &mut Found) {
    let uid = linux.uid_mappings().as_deref().unwrap_or_default();
    let gid = linux.gid_mappings().as_deref().unwrap_or_default();
    for (name, list) in [("uidMappings", uid), ("gidMappings", gid)] {
        mappings(list, || format!("linux.{name}"), found);
    }
    if !namespaces.has(Type::User) {
        // Engines pass maps along also where they mean nothing; they are judged, and change nothing.
        return;
    }
    if namespaces.path(Type::User).is_some() {
        return;
    }
    if !facts.privileged {
        for (name, upper, list) in [("uid", "UID", uid), ("gid", "GID", gid)] {
            found.require(
                !list.is_empty(),
                || format!("linux.{name}Mappings"),
                || format!("rootless containers requires at least one {upper} mapping"),
            );
        }
    } else if uid.is_empty() && gid.is_empty() {
        found.problem(
            "linux.namespaces",
            "user namespaces enabled, but no namespace path to join nor mappings to apply specified",
        );
    }
}

/// Ranges that the kernel accepts in uid_map and gid_map.
pub(super) fn mappings(list: &[LinuxIdMapping], path: impl Fn() -> String, found: &mut Found) {
    found.require(list.len() <= MOST_MAPPINGS, &path, || {
        format!("more than {MOST_MAPPINGS} ranges")
    });
    let overlap = |a: u32, a_size: u32, b: u32, b_size: u32| {
        u64::from(a) < u64::from(b) + u64::from(b_size)
            && u64::from(b) < u64::from(a) + u64::from(a_size)
    };
    // Beyond the limit the list is wrong anyway; looking at all pairs would take long.
    for (index, range) in list.iter().enumerate().take(MOST_MAPPINGS) {
        let at = || format!("{}[{index}]", path());
        found.require(range.size() > 0, at, || "size must be greater than zero");
        for (name, first) in [
            ("hostID", range.host_id()),
            ("containerID", range.container_id()),
        ] {
            let end = u64::from(first) + u64::from(range.size());
            found.require(end <= u64::from(u32::MAX), at, || {
                format!("{name} {first} + size {} is above 4294967295", range.size())
            });
        }
        let earlier = list[..index].iter().any(|other| {
            overlap(range.host_id(), range.size(), other.host_id(), other.size())
                || overlap(
                    range.container_id(),
                    range.size(),
                    other.container_id(),
                    other.size(),
                )
        });
        found.require(!earlier, at, || "overlaps an earlier range");
    }
}

fn clocks(linux: &Linux, namespaces: Namespaces<'_>, found: &mut Found) {
    let Some(offsets) = linux
        .time_offsets()
        .as_ref()
        .filter(|offsets| !offsets.is_empty())
    else {
        return;
    };
    let path = || "linux.timeOffsets".to_owned();
    found.require(
        namespaces.has(Type::Time),
        path,
        || "time namespace offsets specified, but time namespace isn't enabled in the config",
    );
    found.require(namespaces.path(Type::Time).is_none(), path, || {
        "time namespace enabled, but both namespace path and time offsets specified -- you may \
         only provide one"
    });
    for (clock, offset) in offsets {
        let at = || format!("linux.timeOffsets[{clock:?}]");
        found.require(
            clock == "monotonic" || clock == "boottime",
            at,
            || "only the clocks monotonic and boottime have offsets",
        );
        found.require(
            offset.nanosecs().unwrap_or(0) < 1_000_000_000,
            at,
            || "nanosecs must be below 1000000000",
        );
    }
}

fn paths(linux: &Linux, namespaces: Namespaces<'_>, found: &mut Found) {
    for (name, list) in [
        ("maskedPaths", linux.masked_paths()),
        ("readonlyPaths", linux.readonly_paths()),
    ] {
        let list = list.as_deref().unwrap_or_default();
        found.require(
            list.is_empty() || namespaces.has(Type::Mount),
            || format!("linux.{name}"),
            || "unable to restrict sys entries without a private MNT namespace",
        );
        for (index, path) in list.iter().enumerate() {
            found.require(
                path.starts_with('/'),
                || format!("linux.{name}[{index}]"),
                || format!("{path:?} is not an absolute path"),
            );
        }
    }
    if let Some(path) = linux.cgroups_path() {
        found.require(
            !leaves(path),
            || "linux.cgroupsPath".into(),
            || format!("{path:?} must not have `..` in it"),
        );
    }
}

fn leaves(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

fn propagation(linux: &Linux, facts: &Facts, found: &mut Found) {
    let path = || "linux.rootfsPropagation".to_owned();
    match linux.rootfs_propagation().as_deref().unwrap_or_default() {
        "" | "shared" | "rshared" | "slave" | "rslave" | "unbindable" | "runbindable" => {}
        "private" | "rprivate" => found.require(
            !facts.no_pivot,
            path,
            || "rootfsPropagation of [r]private is not safe without pivot_root",
        ),
        other => found.problem(
            path(),
            format!("rootfsPropagation={other} is not supported"),
        ),
    }
}

/// The structure only; what a filter can express is judged where it is compiled.
fn seccomp(seccomp: &LinuxSeccomp, found: &mut Found) {
    let notify = LinuxSeccompAction::ScmpActNotify;
    found.require(
        seccomp.default_action() != notify,
        || "linux.seccomp.defaultAction".into(),
        || "SCMP_ACT_NOTIFY cannot be used as default action",
    );
    for (index, rule) in seccomp.syscalls().iter().flatten().enumerate() {
        let at = |property: &str| format!("linux.seccomp.syscalls[{index}].{property}");
        for name in rule.names() {
            found.require(
                !name.is_empty(),
                || at("names"),
                || "empty string is not a valid syscall",
            );
            found.require(
                name != "write" || rule.action() != notify,
                || at("action"),
                || "SCMP_ACT_NOTIFY cannot be used for the write syscall",
            );
        }
        for (place, argument) in rule.args().iter().flatten().enumerate() {
            found.require(
                argument.index() < 6,
                || at(&format!("args[{place}].index")),
                || {
                    format!(
                        "{} is above 5: a system call has six arguments",
                        argument.index()
                    )
                },
            );
        }
    }
}

fn intel_rdt(linux: &Linux, facts: &Facts, found: &mut Found) {
    let Some(rdt) = linux.intel_rdt() else { return };
    if !facts.rdt {
        let message = "intelRdt is specified in config, but Intel RDT is not enabled";
        return found.problem("linux.intelRdt", message);
    }
    let class = rdt.clos_id().as_deref().unwrap_or_default();
    let escapes = class == "." || class == ".." || (class.len() > 1 && class.contains('/'));
    found.require(
        !escapes,
        || "linux.intelRdt.closID".into(),
        || format!("invalid intelRdt.ClosID {class:?}"),
    );
    let set = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    found.require(
        facts.rdt_cache || !set(rdt.l3_cache_schema()),
        || "linux.intelRdt.l3CacheSchema".into(),
        || "intelRdt.l3CacheSchema is specified in config, but Intel RDT/CAT is not enabled",
    );
    found.require(
        facts.rdt_bandwidth || !set(rdt.mem_bw_schema()),
        || "linux.intelRdt.memBwSchema".into(),
        || "intelRdt.memBwSchema is specified in config, but Intel RDT/MBA is not enabled",
    );
    for (index, line) in rdt.schemata().iter().flatten().enumerate() {
        found.require(
            !line.contains('\n'),
            || format!("linux.intelRdt.schemata[{index}]"),
            || "each element is one line of the schemata file",
        );
    }
}

/// set_mempolicy(2): which modes go with which nodes.
fn memory_policy(linux: &Linux, found: &mut Found) {
    let Some(policy) = linux.memory_policy() else {
        return;
    };
    let nodes = policy.nodes().as_deref().unwrap_or_default().trim();
    let path = || "linux.memoryPolicy.nodes".to_owned();
    found.require(nodes.is_empty() || is_number_list(nodes), path, || {
        format!("invalid memory policy nodes {nodes:?}")
    });
    match policy.mode() {
        Mode::MpolDefault | Mode::MpolLocal => found.require(nodes.is_empty(), path, || {
            let count = crate::plan::bit_list(nodes)
                .map(|mask| mask.iter().map(|word| word.count_ones()).sum::<u32>());
            let count = count.map_or_else(|_| format!("{nodes:?}"), |count| count.to_string());
            format!("memory policy mode requires 0 nodes but got {count}")
        }),
        Mode::MpolBind
        | Mode::MpolInterleave
        | Mode::MpolPreferredMany
        | Mode::MpolWeightedInterleave => found.require(
            !nodes.is_empty(),
            path,
            || "memory policy mode requires at least one node but got 0",
        ),
        Mode::MpolPreferred => {}
    }
}
