//! Rules for device nodes, network devices and the names in resources that become file names.

use oci_spec::runtime::{Linux, LinuxDeviceType, LinuxNamespaceType, LinuxResources};

use super::{Facts, Found, Namespaces};

/// `linux.devices`.
pub(super) fn nodes(linux: &Linux, found: &mut Found) {
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let at = |property: &str| format!("linux.devices[{index}].{property}");
        found.require(
            device.path().is_absolute(),
            || at("path"),
            || format!("{:?} is not an absolute path", device.path()),
        );
        let r#type = device.typ();
        found.require(
            r#type != LinuxDeviceType::A,
            || at("type"),
            || format!("invalid device type {:?}", r#type.as_str()),
        );
        // 12 bits of major and 20 bits of minor number: linux/kdev_t.h.
        let valid =
            (0..1 << 12).contains(&device.major()) && (0..1 << 20).contains(&device.minor());
        found.require(
            valid || r#type == LinuxDeviceType::P,
            || at("major"),
            || format!("{}:{} is no device number", device.major(), device.minor()),
        );
        for (name, id) in [("uid", device.uid()), ("gid", device.gid())] {
            found.require(
                id != Some(u32::MAX),
                || at(name),
                || "4294967295 is no identifier",
            );
        }
    }
}

/// `linux.netDevices`.
pub(super) fn network(linux: &Linux, facts: &Facts, namespaces: Namespaces<'_>, found: &mut Found) {
    let Some(devices) = linux
        .net_devices()
        .as_ref()
        .filter(|devices| !devices.is_empty())
    else {
        return;
    };
    let path = || "linux.netDevices".to_owned();
    found.require(
        namespaces.has(LinuxNamespaceType::Network),
        path,
        || "unable to move network devices without a NET namespace",
    );
    found.require(
        facts.privileged && !facts.rootless_cgroups,
        path,
        || "network devices are not supported for rootless containers",
    );
    let mut targets = Vec::with_capacity(devices.len());
    for (name, device) in devices {
        let renamed = device.name().as_deref().filter(|name| !name.is_empty());
        for name in [Some(name.as_str()), renamed].into_iter().flatten() {
            found.require(
                is_interface_name(name),
                || format!("linux.netDevices[{name:?}]"),
                || format!("invalid network device name {name:?}"),
            );
        }
        targets.push(renamed.unwrap_or(name));
    }
    targets.sort_unstable();
    if let Some(twice) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
        found.problem(path(), format!("two devices would be named {:?}", twice[0]));
    }
}

/// `dev_valid_name()` of net/core/dev.c; the buffer of IFNAMSIZ bytes holds a final zero.
fn is_interface_name(name: &str) -> bool {
    (1..16).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_ascii_whitespace())
}

/// `linux.resources`: limits are the kernel's to judge, names must not leave the cgroup.
pub(super) fn resources(resources: &LinuxResources, facts: &Facts, found: &mut Found) {
    for (index, rule) in resources.devices().iter().flatten().enumerate() {
        let at = |property: &str| format!("linux.resources.devices[{index}].{property}");
        if let Some(r#type @ (LinuxDeviceType::U | LinuxDeviceType::P)) = rule.typ() {
            let message = format!("invalid cgroup device type {:?}", r#type.as_str());
            found.problem(at("type"), message);
        }
        let access = rule.access().as_deref().unwrap_or_default();
        found.require(
            access.bytes().all(|letter| b"rwm".contains(&letter)),
            || at("access"),
            || format!("{access:?} has other letters than r, w and m"),
        );
        for (name, number) in [("major", rule.major()), ("minor", rule.minor())] {
            found.require(
                number.is_none_or(|number| number >= -1),
                || at(name),
                || "must be -1 (any) or a device number",
            );
        }
    }
    let unified = resources
        .unified()
        .as_ref()
        .filter(|unified| !unified.is_empty());
    if let Some(unified) = unified {
        found.require(
            facts.cgroup2,
            || "linux.resources.unified".into(),
            || "cannot use unified on cgroup v1",
        );
        for key in unified.keys() {
            // cgroup.procs and the like move processes instead of limiting them.
            let safe = key.contains('.') && !key.contains('/') && !key.starts_with("cgroup.");
            found.require(
                safe,
                || format!("linux.resources.unified[{key:?}]"),
                || "not the name of a controller's file",
            );
        }
    }
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let size = limit.page_size();
        found.require(
            is_page_size(size),
            || format!("linux.resources.hugepageLimits[{index}].pageSize"),
            || format!("{size:?} is not a size like 64KB, 2MB or 1GB"),
        );
    }
    for name in resources.rdma().iter().flat_map(|rdma| rdma.keys()) {
        found.require(
            is_word(name),
            || format!("linux.resources.rdma[{name:?}]"),
            || "not the name of an RDMA device",
        );
    }
    let priorities = resources
        .network()
        .as_ref()
        .and_then(|net| net.priorities().as_ref());
    for (index, priority) in priorities.into_iter().flatten().enumerate() {
        let name = priority.name();
        let path = || format!("linux.resources.network.priorities[{index}].name");
        found.require(is_word(name), path, || {
            format!("invalid network device name {name:?}")
        });
    }
}

/// One word: it is written into a file of lines of words.
fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn is_page_size(text: &str) -> bool {
    let number = ["KB", "MB", "GB"]
        .iter()
        .find_map(|unit| text.strip_suffix(unit));
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}
