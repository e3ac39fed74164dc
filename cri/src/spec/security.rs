//! Capabilities, profiles and labels: what a container may do.

use std::collections::BTreeSet;

use rcrun_runtime::template::capabilities::{self, Capability, capability};
use rcrun_runtime::template::seccomp::{self, Machine};
use serde_json::Value;

use super::Node;
use crate::proto::v1;
use crate::{Context, Error, ErrorKind, Result};

/// Most capabilities in a list: some forty exist.
const MOST: usize = 1024;
/// The longest part of an SELinux label.
const LONGEST: usize = 255;

/// A profile, of system calls or of AppArmor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Profile {
    /// The one that containers get unless told otherwise.
    Default,
    /// None.
    Unconfined,
    /// One of the node: a file, or a name.
    Local(String),
}

/// `seccomp`; without it the deprecated path, where nothing is no profile.
pub(super) fn seccomp_profile(
    given: Option<&v1::SecurityProfile>,
    deprecated: &str,
) -> Result<Profile> {
    let profile = match (given, deprecated) {
        (Some(given), _) => profile(given).context(|| "seccomp")?,
        (None, "") => Profile::Unconfined,
        (None, text) => old(text)
            .ok_or_else(|| Error::invalid(format!("seccomp_profile_path {text:?} is not known")))?,
    };
    match &profile {
        Profile::Local(path) if !path.starts_with('/') => Err(Error::invalid(format!(
            "seccomp profile {path:?} is no absolute path"
        ))),
        _ => Ok(profile),
    }
}

/// `apparmor`; without it the deprecated name. `None`: nobody asked for one, or for none.
pub(super) fn apparmor_profile(
    given: Option<&v1::SecurityProfile>,
    deprecated: &str,
) -> Result<Option<Profile>> {
    let profile = match (given, deprecated) {
        (Some(given), _) => profile(given).context(|| "apparmor")?,
        (None, "") => return Ok(None),
        (None, text) => old(text)
            .ok_or_else(|| Error::invalid(format!("apparmor_profile {text:?} is not known")))?,
    };
    Ok(Some(match profile {
        Profile::Local(name) => {
            let name = name.strip_prefix("localhost/").unwrap_or(&name);
            if name.is_empty() || name.contains(char::is_control) {
                let text = format!("{name:?} is no name of an AppArmor profile");
                return Err(Error::invalid(text));
            }
            Profile::Local(name.to_owned())
        }
        other => other,
    }))
}

fn profile(given: &v1::SecurityProfile) -> Result<Profile> {
    use v1::security_profile::ProfileType;
    let local = given.localhost_ref.as_str();
    // An unknown type must not mean no confinement (BuildKit GHSA-7236).
    let kind = ProfileType::try_from(given.profile_type).map_err(|_| {
        let number = given.profile_type;
        Error::invalid(format!("profile_type {number} is not known"))
    })?;
    match (kind, local) {
        (ProfileType::RuntimeDefault, "") => Ok(Profile::Default),
        (ProfileType::Unconfined, "") => Ok(Profile::Unconfined),
        (ProfileType::Localhost, "") => Err(Error::invalid("localhost_ref is missing")),
        (ProfileType::Localhost, local) => Ok(Profile::Local(local.to_owned())),
        (_, local) => Err(Error::invalid(format!(
            "localhost_ref {local:?} is given for a profile that is not the node's"
        ))),
    }
}

fn old(text: &str) -> Option<Profile> {
    match text {
        "runtime/default" | "docker/default" => Some(Profile::Default),
        "unconfined" => Some(Profile::Unconfined),
        _ => {
            let local = text.strip_prefix("localhost/")?;
            (!local.is_empty()).then(|| Profile::Local(local.to_owned()))
        }
    }
}

/// `linux.seccomp`; the text of a profile's file is given.
pub(super) fn seccomp(
    profile: &Profile,
    text: Option<&[u8]>,
    bounding: &BTreeSet<&'static str>,
    node: &Node,
) -> Result<Option<Value>> {
    let machine = Machine {
        processor: std::env::consts::ARCH,
        kernel: node.kernel,
        capabilities: bounding,
    };
    if *profile != Profile::Unconfined && !node.seccomp {
        return Err(Error::unsupported(
            "cannot filter system calls: this kernel has no seccomp filters; profile_type Unconfined asks for none",
        ));
    }
    match (profile, text) {
        (Profile::Unconfined, _) => Ok(None),
        (Profile::Default, _) => Ok(Some(seccomp::default(machine))),
        (Profile::Local(path), Some(text)) => seccomp::file(text, machine)
            .map(Some)
            .context(|| format!("cannot use the seccomp profile {path}")),
        (Profile::Local(path), None) => Err(Error::new(
            ErrorKind::NotFound,
            format!("no seccomp profile {path}"),
        )),
    }
}

/// `process.apparmorProfile`. Who does not ask gets the default, where there is one.
pub(super) fn apparmor(profile: Option<&Profile>, node: &Node) -> Result<Option<String>> {
    match (profile, &node.apparmor) {
        (Some(Profile::Unconfined), _) | (None | Some(Profile::Default), None) => Ok(None),
        (Some(Profile::Default), Some(None)) => Err(Error::unsupported(
            "cannot use the default AppArmor profile: it could not be loaded (see the server's log, or rcrun serve --check)",
        )),
        (None | Some(Profile::Default), Some(default)) => Ok(default.clone()),
        (Some(Profile::Local(name)), Some(_)) => Ok(Some(name.clone())),
        (Some(Profile::Local(name)), None) => Err(Error::unsupported(format!(
            "cannot use AppArmor profile {name}: AppArmor is not on"
        ))),
    }
}

/// Capabilities of a container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sets {
    /// Bounding, permitted and effective.
    pub(super) bounding: BTreeSet<&'static str>,
    /// Ambient and inheritable: empty unless asked for (CVE-2022-24769).
    pub(super) ambient: BTreeSet<&'static str>,
}

/// As containerd: ALL first, what is dropped by name last; ALL in both lists drops.
pub(super) fn capabilities(
    asked: Option<&v1::Capability>,
    privileged: bool,
    own: &BTreeSet<&'static str>,
) -> Result<Sets> {
    let list = |what: &str, names: &[String]| -> Result<Vec<Capability>> {
        match names.len() > MOST {
            true => Err(Error::invalid(format!("{what}: more than {MOST}"))),
            false => names
                .iter()
                .map(|name| capability(name).context(|| what.to_owned()))
                .collect(),
        }
    };
    let empty = v1::Capability::default();
    let asked = asked.unwrap_or(&empty);
    let mut add = list("add_capabilities", &asked.add_capabilities)?;
    let drop = list("drop_capabilities", &asked.drop_capabilities)?;
    let more = list("add_ambient_capabilities", &asked.add_ambient_capabilities)?;
    if drop.contains(&Capability::All) {
        add.retain(|one| *one != Capability::All);
    }
    let mut bounding = capabilities::capabilities(&add, &drop, privileged, own);
    let mut ambient = BTreeSet::new();
    for one in more {
        match one {
            Capability::All => ambient.extend(own.iter().copied()),
            Capability::One(name) => _ = ambient.insert(name),
        }
    }
    bounding.extend(ambient.iter().copied());
    if let Some(missing) = bounding.iter().find(|name| !own.contains(*name)) {
        return Err(Error::unsupported(format!(
            "cannot give {missing}: this kernel or server does not have it"
        )));
    }
    Ok(Sets { bounding, ambient })
}

/// SELinux labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Labels {
    /// Of processes.
    pub(super) process: String,
    /// Of their files.
    pub(super) mount: String,
}

/// Labels, if parts of one are given. Without SELinux parts are judged, and mean nothing.
pub(super) fn selinux(asked: Option<&v1::SeLinuxOption>, node: &Node) -> Result<Option<Labels>> {
    let Some(asked) = asked else {
        return Ok(None);
    };
    let part = |what: &str, text: &str| {
        let may = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        match text.len() <= LONGEST && text.bytes().all(may) {
            true => Ok(()),
            false => Err(Error::invalid(format!("selinux_options.{what}: {text:?}"))),
        }
    };
    part("user", &asked.user)?;
    part("role", &asked.role)?;
    part("type", &asked.r#type)?;
    let level = asked.level.as_str();
    if !level.is_empty() && !is_level(level) {
        return Err(Error::invalid(format!(
            "selinux_options.level: {level:?} is not like s0:c1,c2"
        )));
    }
    let nothing = [&asked.user, &asked.role, &asked.r#type, &asked.level]
        .iter()
        .all(|part| part.is_empty());
    if !node.selinux || nothing {
        return Ok(None);
    }
    let or = |text: &str, default: &str| match text {
        "" => default.to_owned(),
        text => text.to_owned(),
    };
    let (user, level) = (or(&asked.user, "system_u"), or(level, "s0"));
    let role = or(&asked.role, "system_r");
    let kind = or(&asked.r#type, "container_t");
    Ok(Some(Labels {
        process: format!("{user}:{role}:{kind}:{level}"),
        mount: format!("{user}:object_r:container_file_t:{level}"),
    }))
}

/// Labels for a pod that asks for none: its ID gives two of the 1024 categories, so that the files of two pods
/// are rarely each other's.
pub(super) fn of_pod(id: &str, node: &Node) -> Result<Option<Labels>> {
    let part = |at: usize| {
        let digits = id.get(at..at + 4).unwrap_or("0");
        u16::from_str_radix(digits, 16).unwrap_or(0) % 1024
    };
    let (one, other) = (part(0), part(4));
    let (low, high) = match one == other {
        true => (one, (one + 1) % 1024),
        false => (one, other),
    };
    let level = format!("s0:c{},c{}", low.min(high), low.max(high));
    let options = v1::SeLinuxOption {
        level,
        ..v1::SeLinuxOption::default()
    };
    selinux(Some(&options), node)
}

/// `s0`, `s0-s1`, each perhaps with categories: `s0:c1.c5,c7`.
fn is_level(text: &str) -> bool {
    let number = |text: &str, first: char, most: usize| {
        let digits = text.strip_prefix(first).unwrap_or_default();
        (1..=most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let category = |text: &str| match text.split_once('.') {
        None => number(text, 'c', 4),
        Some((low, high)) => number(low, 'c', 4) && number(high, 'c', 4),
    };
    let (range, categories) = match text.split_once(':') {
        None => (text, None),
        Some((range, categories)) => (range, Some(categories)),
    };
    range.splitn(2, '-').all(|part| number(part, 's', 1))
        && categories.is_none_or(|list| list.split(',').all(category))
}

#[cfg(test)]
mod tests;
