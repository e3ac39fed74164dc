//! The parts of the OCI document that are put together of many: `process`, `linux`, `annotations`.

use std::collections::BTreeMap;

use rcrun_image::accounts::Identity;
use serde_json::{Map, Value, json};

use super::container::{Around, Asked};
use super::mounts::{self, Mounts};
use super::pod;
use super::security::{self, Labels, Sets};
use super::{CgroupParent, devices, process, resources};
use crate::proto::v1;
use crate::{Error, Result};

/// Most masked and read-only paths.
const PATHS: usize = 4096;
/// Names of annotations that mean something to the runtime, or that are ours to give: what a request says
/// below them is left out (CVE-2024-3154).
const RESERVED: [&str; 7] = [
    "io.kubernetes.cri.",
    "module.wasm.",
    "org.criu.",
    "org.opencontainers.runtime-spec.",
    "org.systemd.property.",
    "rcrun.",
    "run.oci.",
];

/// Who the program is, and what it may do.
pub(super) struct May<'a> {
    pub(super) sets: Sets,
    pub(super) identity: &'a Identity,
    pub(super) labels: Option<&'a Labels>,
}

/// `process`.
pub(super) fn process(asked: &Asked<'_>, may: &May<'_>, around: &Around<'_>) -> Result<Value> {
    let (image, place, node) = (around.image, around.place, around.node);
    let (sets, identity) = (&may.sets, may.identity);
    let hostname = pod::hostname(around.pod.config, node)?;
    let config = asked.config;
    let mut capabilities = Map::new();
    for name in ["bounding", "effective", "permitted"] {
        capabilities.insert(name.into(), json!(sets.bounding));
    }
    if !sets.ambient.is_empty() {
        capabilities.insert("inheritable".into(), json!(sets.ambient));
        capabilities.insert("ambient".into(), json!(sets.ambient));
    }
    let mut process = json!({
        "terminal": config.tty,
        "user": {"uid": identity.uid, "gid": identity.gid, "additionalGids": identity.additional},
        "args": process::arguments(config, image)?,
        "env": process::environment(config, image, &hostname, &place.cdi.env)?,
        "cwd": process::directory(config, image)?,
        "capabilities": capabilities,
        "rlimits": node.rlimits,
        "noNewPrivileges": asked.security.no_new_privs,
        "oomScoreAdj": resources::oom_score(asked.resources.oom_score_adj, node)?,
    });
    if let Some(profile) = security::apparmor(asked.apparmor.as_ref(), node)? {
        process["apparmorProfile"] = json!(profile);
    }
    if let Some(labels) = may.labels {
        process["selinuxLabel"] = json!(labels.process);
    }
    Ok(process)
}

/// `linux`, without namespaces.
pub(super) fn linux(
    asked: &Asked<'_>,
    may: &May<'_>,
    mounts: &Mounts,
    around: &Around<'_>,
) -> Result<Value> {
    let (place, node) = (around.place, around.node);
    let privileged = asked.security.privileged;
    let parent = &around.of_pod.cgroup_parent;
    let (nodes, rules) = devices::entries(&place.devices, &place.cdi.nodes, privileged);
    let mut resources = resources::resources(&asked.resources, node)?;
    resources["devices"] = Value::Array(rules);
    let mut linux = json!({
        "cgroupsPath": CgroupParent::new(parent, node.driver)?.container(place.id),
        "devices": nodes,
        "resources": resources,
    });
    if let Some(map) = around.held.user {
        linux["uidMappings"] = json!(mounts::extents(map));
        linux["gidMappings"] = json!(mounts::extents(map));
    }
    let (masked, read_only) = hidden(asked)?;
    linux["maskedPaths"] = json!(masked);
    linux["readonlyPaths"] = json!(read_only);
    if let Some(propagation) = mounts.propagation {
        linux["rootfsPropagation"] = json!(propagation);
    }
    if let Some(profile) =
        security::seccomp(&asked.seccomp, place.seccomp, &may.sets.bounding, node)?
    {
        linux["seccomp"] = profile;
    }
    if let Some(labels) = may.labels {
        linux["mountLabel"] = json!(labels.mount);
    }
    Ok(linux)
}

/// What of /proc and /sys is hidden, and what cannot be written to. The kubelet says both, with nothing for an
/// unmasked /proc; where nobody says anything it is as for everybody.
fn hidden(asked: &Asked<'_>) -> Result<(Vec<String>, Vec<String>)> {
    use rcrun_runtime::template::{MASKED, READ_ONLY};
    let own = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    let security = &asked.security;
    if security.masked_paths.len() + security.readonly_paths.len() > PATHS {
        return Err(Error::invalid(format!(
            "more than {PATHS} masked_paths and readonly_paths"
        )));
    }
    for path in security.masked_paths.iter().chain(&security.readonly_paths) {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(Error::invalid(format!(
                "masked_paths, readonly_paths: {path:?} is no absolute path"
            )));
        }
    }
    Ok(match (security.privileged, asked.no_security) {
        (true, _) => (Vec::new(), Vec::new()),
        (false, true) => (own(&MASKED), own(&READ_ONLY)),
        (false, false) => (
            security.masked_paths.clone(),
            security.readonly_paths.clone(),
        ),
    })
}

/// Labels of the container, else of the pod, else the usual ones with categories of the pod's ID.
pub(super) fn labels(asked: &Asked<'_>, around: &Around<'_>) -> Result<Option<Labels>> {
    let node = around.node;
    let own = security::selinux(asked.security.selinux_options.as_ref(), node)?;
    if asked.security.privileged || !node.selinux {
        return Ok(None);
    }
    if own.is_some() {
        return Ok(own);
    }
    let of_pod = around.of_pod.security_context.as_ref();
    let of_pod = of_pod.and_then(|security| security.selinux_options.as_ref());
    if let Some(labels) = security::selinux(of_pod, node)? {
        return Ok(Some(labels));
    }
    security::of_pod(around.pod.id, node)
}

/// The request's annotations but those that would mean something to the runtime, and what hooks and tools know
/// containerd's containers by.
pub(super) fn annotations(
    config: &v1::ContainerConfig,
    around: &Around<'_>,
) -> BTreeMap<String, String> {
    let reserved =
        |name: &str| name == "bundle" || RESERVED.iter().any(|prefix| name.starts_with(prefix));
    let given = config
        .annotations
        .iter()
        .filter(|(name, _)| !reserved(name));
    let mut all: BTreeMap<String, String> = given
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let pod = around.pod;
    let of_pod = pod.config.metadata.clone().unwrap_or_default();
    let name = config
        .metadata
        .as_ref()
        .map_or("", |metadata| &metadata.name);
    for (key, value) in [
        ("container-type", "container"),
        ("container-name", name),
        ("image-name", around.place.image_name),
        ("sandbox-id", pod.id),
        ("sandbox-name", &of_pod.name),
        ("sandbox-namespace", &of_pod.namespace),
        ("sandbox-uid", &of_pod.uid),
    ] {
        all.insert(format!("io.kubernetes.cri.{key}"), value.to_owned());
    }
    all
}
