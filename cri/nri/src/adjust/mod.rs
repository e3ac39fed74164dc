//! What plugins want of a container, written into its OCI configuration. Pure.
//!
//! The configuration is JSON, so what this crate does not know stays. Values are not judged here: the runtime
//! validates the whole afterwards. Refused is what it could only ignore: words that the configuration has no name for,
//! limits of kernel memory, classes of block I/O (which name a file of the administrator that rcrun does not have).
//!
//! Reference: `pkg/runtime-tools/generate` of <https://github.com/containerd/nri>; the configuration is that of
//! <https://github.com/opencontainers/runtime-spec>.

mod json;
mod linux;
mod resources;

use rcrun_error::{Context, Error, Result};
use serde_json::{Map, Value, json};

use crate::collect::removal;
use crate::proto::v1alpha1::{
    ContainerAdjustment, Hook, Hooks, KeyValue, LinuxResources, Mount, PosixRlimit,
};
use json::{list, object};

/// What the caller has to see to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// Qualified names of CDI devices, to be resolved into the configuration.
    pub cdi_devices: Vec<String>,
    /// Mounts whose source must lie on a shared mount of the host, else their propagation means nothing.
    pub shared: Vec<String>,
    /// Mounts whose source must lie on a shared mount or one that receives, for the same reason.
    pub receiving: Vec<String>,
}

/// Writes an adjustment into a configuration. After an error the configuration is to be thrown away.
pub fn apply(spec: &mut Value, adjustment: &ContainerAdjustment) -> Result<Applied> {
    inner(spec, adjustment).context(|| "cannot adjust the container as NRI plugins want")
}

/// Writes limits into a configuration, as `update_container` gives them.
pub fn apply_resources(spec: &mut Value, resources: &LinuxResources) -> Result<()> {
    resources::apply(spec, resources).context(|| "cannot set the limits that NRI plugins want")
}

fn inner(spec: &mut Value, adjustment: &ContainerAdjustment) -> Result<Applied> {
    json::map(spec, &["annotations"], &adjustment.annotations)?;
    env(spec, &adjustment.env)?;
    if !adjustment.args.is_empty() {
        object(spec, &["process"])?.insert("args".to_owned(), json!(adjustment.args));
    }
    if let Some(wanted) = &adjustment.hooks {
        hooks(spec, wanted)?;
    }
    if let Some(linux) = &adjustment.linux {
        linux::apply(spec, linux)?;
    }
    rlimits(spec, &adjustment.rlimits)?;
    let mut applied = Applied::default();
    mounts(spec, &adjustment.mounts, &mut applied)?;
    let names = adjustment.cdi_devices.iter();
    applied.cdi_devices = names.map(|device| device.name.clone()).collect();
    Ok(applied)
}

/// A variable that exists keeps its place, others follow. Of several of one name one is left.
fn env(spec: &mut Value, wanted: &[KeyValue]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let list = list(spec, &["process", "env"])?;
    let name = |entry: &Value| {
        let text = entry.as_str().unwrap_or_default();
        text.split_once('=')
            .map_or(text, |(name, _)| name)
            .to_owned()
    };
    for variable in wanted {
        let (key, value) = match removal(&variable.key) {
            Some(key) => (key, None),
            None => (
                &*variable.key,
                Some(format!("{}={}", variable.key, variable.value)),
            ),
        };
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(Error::invalid(format!(
                "no variable can be named {key:.64?}"
            )));
        }
        json::replace(list, |entry| name(entry) == key, value.map(Value::from));
    }
    Ok(())
}

fn hooks(spec: &mut Value, wanted: &Hooks) -> Result<()> {
    for (name, wanted) in [
        ("prestart", &wanted.prestart),
        ("createRuntime", &wanted.create_runtime),
        ("createContainer", &wanted.create_container),
        ("startContainer", &wanted.start_container),
        ("poststart", &wanted.poststart),
        ("poststop", &wanted.poststop),
    ] {
        if !wanted.is_empty() {
            list(spec, &["hooks", name])?.extend(wanted.iter().map(hook));
        }
    }
    Ok(())
}

fn hook(wanted: &Hook) -> Value {
    let mut hook = Map::new();
    hook.insert("path".to_owned(), json!(wanted.path));
    for (name, words) in [("args", &wanted.args), ("env", &wanted.env)] {
        if !words.is_empty() {
            hook.insert(name.to_owned(), json!(words));
        }
    }
    if let Some(timeout) = &wanted.timeout {
        hook.insert("timeout".to_owned(), json!(timeout.value));
    }
    Value::Object(hook)
}

/// A limit that exists is replaced: two of one kind are an error of the configuration.
fn rlimits(spec: &mut Value, wanted: &[PosixRlimit]) -> Result<()> {
    for limit in wanted {
        let value = json!({"type": limit.r#type, "hard": limit.hard, "soft": limit.soft});
        let list = list(spec, &["process", "rlimits"])?;
        json::replace(
            list,
            |old| old["type"] == limit.r#type.as_str(),
            Some(value),
        );
    }
    Ok(())
}

/// A mount replaces whatever is at its place. Then all are sorted, so that none covers one above it.
fn mounts(spec: &mut Value, wanted: &[Mount], applied: &mut Applied) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    for mount in wanted {
        let removed = removal(&mount.destination);
        let place = clean(removed.unwrap_or(&mount.destination));
        let at = |old: &Value| old["destination"].as_str().map(clean).as_ref() == Some(&place);
        let list = list(spec, &["mounts"])?;
        list.retain(|old| !at(old));
        if removed.is_some() {
            continue;
        }
        list.push(json!({
            "destination": mount.destination,
            "type": mount.r#type,
            "source": mount.source,
            "options": mount.options,
        }));
        propagate(spec, mount, applied)?;
    }
    let depth = |mount: &Value| {
        let place = clean(mount["destination"].as_str().unwrap_or_default());
        (place.matches('/').count(), place)
    };
    list(spec, &["mounts"])?.sort_by_cached_key(depth);
    Ok(())
}

/// Mounts that arrive later pass the container's root on their way, so that has to let them.
fn propagate(spec: &mut Value, mount: &Mount, applied: &mut Applied) -> Result<()> {
    let of_propagation =
        |option: &&String| ["rprivate", "rshared", "rslave"].contains(&option.as_str());
    let Some(option) = mount.options.iter().rev().find(of_propagation) else {
        return Ok(());
    };
    let linux = object(spec, &["linux"])?;
    let root = linux.get("rootfsPropagation").and_then(Value::as_str);
    let wanted = match option.as_str() {
        "rshared" => {
            applied.shared.push(mount.source.clone());
            "rshared"
        }
        "rslave" => {
            applied.receiving.push(mount.source.clone());
            root.filter(|root| ["shared", "rshared", "rslave"].contains(root))
                .unwrap_or("rslave")
        }
        _ => return Ok(()),
    };
    let wanted = json!(wanted);
    linux.insert("rootfsPropagation".to_owned(), wanted);
    Ok(())
}

/// A place as the kernel sees it: no empty, `.` or `..` parts.
fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests;
