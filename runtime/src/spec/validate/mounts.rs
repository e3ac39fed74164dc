//! Rules for `mounts`.

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Mount, Spec};

use super::linux::mappings;
use super::{Facts, Found, Namespaces};
use crate::spec::features;

pub(super) fn check(spec: &Spec, facts: &Facts, found: &mut Found) {
    let has_user = Namespaces::of(spec).has(LinuxNamespaceType::User);
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        destination(mount, index, found);
        if is_bind(mount) {
            bind_options(mount, index, found);
        }
        id_mapping(mount, index, facts, has_user, found);
        if !facts.privileged {
            unmapped_owner(spec, mount, index, found);
        }
    }
}

fn options(mount: &Mount) -> &[String] {
    mount.options().as_deref().unwrap_or_default()
}

fn is_bind(mount: &Mount) -> bool {
    options(mount)
        .iter()
        .any(|option| option == "bind" || option == "rbind")
        || mount.typ().as_deref() == Some("bind")
}

fn destination(mount: &Mount, index: usize, found: &mut Found) {
    let destination = mount.destination();
    if destination.as_os_str().is_empty() {
        found.problem(format!("mounts[{index}].destination"), "must not be empty");
    } else if !destination.is_absolute() {
        found.warn(format!(
            "mount destination {} is not absolute: relative destination path is **deprecated**, \
             using it as relative to /",
            destination.display()
        ));
    }
}

/// A bind mount shares its file system: options of that have no effect, which is said.
fn bind_options(mount: &Mount, index: usize, found: &mut Found) {
    for (place, option) in options(mount).iter().enumerate() {
        let path = || format!("mounts[{index}].options[{place}]");
        if !features::is_mount_option(option) {
            found.warnings.push(format!(
                "{}: {option:?} has no effect: bind mounts cannot have any filesystem-specific \
                 options applied",
                path()
            ));
        }
    }
}

fn id_mapping(mount: &Mount, index: usize, facts: &Facts, has_user: bool, found: &mut Found) {
    let path = || format!("mounts[{index}]");
    let set = |list: &Option<Vec<LinuxIdMapping>>| list.as_ref().is_some_and(|l| !l.is_empty());
    let (uid, gid) = (set(mount.uid_mappings()), set(mount.gid_mappings()));
    let asked = options(mount)
        .iter()
        .any(|option| option == "idmap" || option == "ridmap");
    if !uid && !gid && !asked {
        return;
    }
    found.require(
        is_bind(mount),
        path,
        || "id-mapped mounts are only supported for bind-mounts",
    );
    found.require(
        facts.privileged,
        path,
        || "id-mapped mounts are not supported for rootless containers",
    );
    // Without mappings of its own the mount takes those of the container's user namespace.
    let inherits = asked && !uid && !gid && has_user;
    found.require(
        (uid && gid) || inherits,
        path,
        || "id-mapped mounts must have both uid and gid mappings specified",
    );
    for (name, list) in [
        ("uidMappings", mount.uid_mappings()),
        ("gidMappings", mount.gid_mappings()),
    ] {
        let list = list.as_deref().unwrap_or_default();
        mappings(list, || format!("mounts[{index}].{name}"), found);
    }
}

/// Without privileges only mapped identifiers can own a file system.
fn unmapped_owner(spec: &Spec, mount: &Mount, index: usize, found: &mut Found) {
    let Some(linux) = spec.linux() else { return };
    let mapped = |list: &Option<Vec<LinuxIdMapping>>, id: u32| {
        list.iter()
            .flatten()
            .any(|range| id >= range.container_id() && id - range.container_id() < range.size())
    };
    if Namespaces::of(spec)
        .path(LinuxNamespaceType::User)
        .is_some()
    {
        return;
    }
    for (place, option) in options(mount).iter().enumerate() {
        let (list, id) = if let Some(id) = option.strip_prefix("uid=") {
            (linux.uid_mappings(), id)
        } else if let Some(id) = option.strip_prefix("gid=") {
            (linux.gid_mappings(), id)
        } else {
            continue;
        };
        // What is no number is left to the file system.
        let Ok(id) = id.parse() else { continue };
        let path = || format!("mounts[{index}].options[{place}]");
        found.require(mapped(list, id), path, || {
            format!("cannot specify {option} mount option for rootless container: not mapped")
        });
    }
}
