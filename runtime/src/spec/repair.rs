//! Differences between `oci-spec` 0.10 and runtime-spec 1.3 as Go programs write it, evened out.
//!
//! Each repair names what is different. The functions on [`Value`] run only after the plain parse
//! failed; [`normalise`] runs always.

use oci_spec::runtime::{Capability, Spec};
use serde_json::{Map, Value};

/// Repairs a whole configuration.
pub(super) fn spec(value: &mut Value, warnings: &mut Vec<String>) {
    drop_nulls(value);
    let Some(spec) = value.as_object_mut() else {
        return;
    };
    // Sections of other platforms; theirs may be of any shape.
    for platform in ["windows", "solaris", "zos", "freebsd"] {
        spec.remove(platform);
    }
    if let Some(value) = spec.get_mut("process") {
        process(value, warnings);
    }
    let Some(linux) = spec.get_mut("linux").and_then(Value::as_object_mut) else {
        return;
    };
    if let Some(value) = linux.get_mut("resources") {
        resources(value, warnings);
    }
    if linux.get("seccomp").is_some_and(is_no_seccomp) {
        linux.remove("seccomp");
    }
}

/// Repairs a process description.
pub(super) fn process(value: &mut Value, warnings: &mut Vec<String>) {
    drop_nulls(value);
    let Some(process) = value.as_object_mut() else {
        return;
    };
    // Without a user it is root, in Go's reading.
    process
        .entry("user")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(Value::Object(sets)) = process.get_mut("capabilities") {
        drop_unknown_capabilities(sets, warnings);
    }
    let flags = process
        .get_mut("scheduler")
        .and_then(|scheduler| scheduler.get_mut("flags"));
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        rename_scheduler_flag(flag);
    }
    if let Some(Value::Object(affinity)) = process.get_mut("execCPUAffinity") {
        affinity.retain(|_, cpus| cpus != "");
    }
}

/// Repairs resources.
pub(super) fn resources(value: &mut Value, _: &mut Vec<String>) {
    drop_nulls(value);
    for limit in elements(value, "hugepageLimits") {
        // Unsigned in the specification, signed in the type.
        if let Some(limit) = limit.get_mut("limit")
            && limit
                .as_u64()
                .is_some_and(|limit| i64::try_from(limit).is_err())
        {
            *limit = i64::MAX.into();
        }
    }
    for rule in elements(value, "devices") {
        // An empty type means all types.
        if rule.get("type").is_some_and(|r#type| r#type == "")
            && let Some(rule) = rule.as_object_mut()
        {
            rule.remove("type");
        }
    }
}

/// Empty strings that mean "not set" in Go's reading become so in ours.
///
/// Letters of a device rule's access that mean nothing are left out, as runc does, if others remain.
pub(super) fn normalise(spec: &mut Spec, warnings: &mut Vec<String>) {
    let empty = |text: &Option<String>| text.as_deref() == Some("");
    if empty(spec.hostname()) {
        spec.set_hostname(None);
    }
    if empty(spec.domainname()) {
        spec.set_domainname(None);
    }
    if let Some(process) = spec.process_mut() {
        if empty(process.apparmor_profile()) {
            process.set_apparmor_profile(None);
        }
        if empty(process.selinux_label()) {
            process.set_selinux_label(None);
        }
    }
    let Some(linux) = spec.linux_mut() else {
        return;
    };
    if empty(linux.rootfs_propagation()) {
        linux.set_rootfs_propagation(None);
    }
    if empty(linux.mount_label()) {
        linux.set_mount_label(None);
    }
    if linux
        .cgroups_path()
        .as_ref()
        .is_some_and(|path| path.as_os_str().is_empty())
    {
        linux.set_cgroups_path(None);
    }
    for namespace in linux.namespaces_mut().iter_mut().flatten() {
        if namespace
            .path()
            .as_ref()
            .is_some_and(|path| path.as_os_str().is_empty())
        {
            namespace.set_path(None);
        }
    }
    let rules = linux
        .resources_mut()
        .as_mut()
        .and_then(|r| r.devices_mut().as_mut());
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        let given = rule.access().as_deref().unwrap_or_default();
        let known: String = given.chars().filter(|c| "rwm".contains(*c)).collect();
        if known != given && !known.is_empty() {
            warnings.push(format!(
                "linux.resources.devices[{index}].access: reading {given:?} as {known:?}"
            ));
            rule.set_access(Some(known));
        }
    }
}

/// `null` is the same as leaving out, for every property.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

fn elements<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    value
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// Neither a default action nor rules: seccomp is off.
fn is_no_seccomp(seccomp: &Value) -> bool {
    let action = seccomp
        .get("defaultAction")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let rules = seccomp.get("syscalls").and_then(Value::as_array);
    seccomp.is_object() && action.is_empty() && rules.is_none_or(Vec::is_empty)
}

/// Names of capabilities that a newer kernel may have: the container starts without them.
fn drop_unknown_capabilities(sets: &mut Map<String, Value>, warnings: &mut Vec<String>) {
    let mut unknown = Vec::new();
    for set in sets.values_mut().filter_map(Value::as_array_mut) {
        set.retain(|name| {
            let text = name.as_str();
            let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
            if let Some(text) = text.filter(|_| !known) {
                unknown.push(text.to_owned());
            }
            known || text.is_none()
        });
    }
    unknown.sort_unstable();
    unknown.dedup();
    if !unknown.is_empty() {
        let names = unknown.join(" ");
        warnings.push(format!(
            "ignoring unknown or unavailable capabilities: [{names}]"
        ));
    }
}

/// The type's names for these two differ from those of the specification.
fn rename_scheduler_flag(flag: &mut Value) {
    let name = match flag.as_str() {
        Some("SCHED_FLAG_RESET_ON_FORK") => "SCHED_RESET_ON_FORK",
        Some("SCHED_FLAG_DL_OVERRUN") => "SCHED_FLAG_D_L_OVERRUN",
        _ => return,
    };
    *flag = name.into();
}
