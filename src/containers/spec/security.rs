//! Capabilities, `--security-opt`, and what of /proc and /sys is hidden.

use rcrun_runtime::spec::features::CAPABILITIES;
use std::collections::BTreeSet;

use rcrun_runtime::error::{Error, Result};

/// What root of a container has unless told otherwise: docker's choice.
const DEFAULT: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Not to be read, since they tell of the host or change it.
pub(crate) const MASKED: [&str; 12] = [
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
pub(crate) const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// One `--cap-add` or `--cap-drop`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Capability {
    All,
    One(&'static str),
}

/// `net_admin`, `CAP_NET_ADMIN` or `ALL`.
pub(crate) fn capability(text: &str) -> Result<Capability> {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" || upper == "CAP_ALL" {
        return Ok(Capability::All);
    }
    let full = match upper.starts_with("CAP_") {
        true => upper,
        false => format!("CAP_{upper}"),
    };
    let known = CAPABILITIES.iter().find(|name| **name == full);
    known
        .map(|name| Capability::One(name))
        .ok_or_else(|| Error::invalid(format!("{text:?} is no capability")))
}

/// Those of the bounding set of a container. `own` are those that this process can hand on, which also
/// are all that ALL means.
pub(crate) fn capabilities(
    add: &[Capability],
    drop: &[Capability],
    privileged: bool,
    own: &BTreeSet<&'static str>,
) -> BTreeSet<&'static str> {
    let one = |list: &[Capability]| -> BTreeSet<&'static str> {
        let single = |one: &Capability| match one {
            Capability::One(name) => Some(*name),
            Capability::All => None,
        };
        list.iter().filter_map(single).collect()
    };
    let (adds, drops) = (one(add), one(drop));
    let all_added = add.contains(&Capability::All);
    if privileged {
        return own.clone();
    }
    let mut set: BTreeSet<&'static str> = if all_added {
        own.clone()
    } else if drop.contains(&Capability::All) {
        BTreeSet::new()
    } else {
        DEFAULT
            .into_iter()
            .filter(|name| own.contains(name))
            .collect()
    };
    set.retain(|name| !drops.contains(name));
    // One that is named twice stays: the narrower wish, if everything else is dropped.
    set.extend(adds.difference(&drops));
    set
}

/// The names of a bit mask such as CapBnd of /proc/self/status.
pub(crate) fn of_mask(mask: u64) -> BTreeSet<&'static str> {
    let set = |(number, name): (usize, &&'static str)| (mask >> number & 1 == 1).then_some(*name);
    CAPABILITIES.iter().enumerate().filter_map(set).collect()
}

/// What `--security-opt` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Security {
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Seccomp,
    pub(crate) apparmor: Option<String>,
    /// SELinux: no label at all.
    pub(crate) label_disabled: bool,
    /// SELinux: parts of the label, `user`, `role`, `type`, `level`.
    pub(crate) label: Vec<(String, String)>,
    pub(crate) unmasked: bool,
}

/// Which system calls are filtered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Seccomp {
    #[default]
    Default,
    Unconfined,
    File(std::path::PathBuf),
}

impl Security {
    /// Takes one option.
    pub(crate) fn take(&mut self, text: &str) -> Result<()> {
        let (name, value) = match text.split_once('=').or_else(|| text.split_once(':')) {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let wrong = || Error::invalid(format!("{text:?} is no security option"));
        match (name, value) {
            ("no-new-privileges", value) => {
                let truth = crate::arguments::switch(value.unwrap_or_default());
                self.no_new_privileges = truth.ok_or_else(wrong)?;
            }
            ("seccomp", Some("unconfined")) => self.seccomp = Seccomp::Unconfined,
            ("seccomp", Some("builtin" | "default")) => self.seccomp = Seccomp::Default,
            ("seccomp", Some(path)) if !path.is_empty() => {
                self.seccomp = Seccomp::File(path.into());
            }
            ("apparmor", Some(profile)) if !profile.is_empty() => {
                self.apparmor = Some(profile.to_owned());
            }
            ("label", Some("disable")) => self.label_disabled = true,
            ("label", Some(part)) => {
                let (name, value) = part.split_once(':').ok_or_else(wrong)?;
                if !["user", "role", "type", "level"].contains(&name) || value.is_empty() {
                    return Err(wrong());
                }
                self.label.push((name.to_owned(), value.to_owned()));
            }
            ("systempaths", Some("unconfined")) => self.unmasked = true,
            _ => return Err(wrong()),
        }
        Ok(())
    }

    /// The SELinux label, if parts of one were given.
    pub(crate) fn selinux(&self) -> Option<String> {
        if self.label.is_empty() || self.label_disabled {
            return None;
        }
        let part = |name: &str, default: &str| {
            let found = self.label.iter().rev().find(|(part, _)| part == name);
            found.map_or_else(|| default.to_owned(), |(_, value)| value.clone())
        };
        Some(format!(
            "{}:{}:{}:{}",
            part("user", "system_u"),
            part("role", "system_r"),
            part("type", "container_t"),
            part("level", "s0")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(add: &str, drop: &str, privileged: bool) -> String {
        let list = |text: &str| -> Vec<Capability> {
            text.split_whitespace()
                .map(|one| capability(one).unwrap())
                .collect()
        };
        let own = of_mask((1 << 41) - 1);
        let found = capabilities(&list(add), &list(drop), privileged, &own);
        match found.len() {
            41 => "all".to_owned(),
            40 => format!("all but {}", own.difference(&found).next().unwrap()),
            count if count > 9 => format!("{count}"),
            _ => found.into_iter().collect::<Vec<_>>().join(" "),
        }
    }

    #[test]
    fn capability_sets() {
        for (add, drop, privileged, expected) in [
            ("", "", false, "14"),
            ("net_admin", "", false, "15"),
            ("", "kill CAP_CHOWN", false, "12"),
            ("ALL", "", false, "all"),
            ("all", "sys_admin", false, "all but CAP_SYS_ADMIN"),
            ("", "ALL", false, ""),
            ("chown kill", "ALL", false, "CAP_CHOWN CAP_KILL"),
            ("chown", "chown", false, "13"),
            ("ALL", "ALL", false, "all"),
            ("", "ALL", true, "all"),
        ] {
            assert_eq!(set(add, drop, privileged), expected, "+{add} -{drop}");
        }
        capability("CAP_SHINY").unwrap_err();
        capability("").unwrap_err();
    }

    #[test]
    fn nobody_hands_on_what_they_do_not_have() {
        let own = of_mask(0b11);
        let found = capabilities(&[Capability::All], &[], false, &own);
        assert_eq!(
            found.into_iter().collect::<Vec<_>>(),
            ["CAP_CHOWN", "CAP_DAC_OVERRIDE"]
        );
        assert_eq!(capabilities(&[], &[], false, &own).len(), 2);
    }

    #[test]
    fn security_options() {
        let mut security = Security::default();
        for text in [
            "no-new-privileges",
            "seccomp=/p.json",
            "apparmor:web",
            "label=type:web_t",
            "label=level:s0:c1,c2",
            "systempaths=unconfined",
        ] {
            security.take(text).unwrap();
        }
        assert!(security.no_new_privileges && security.unmasked);
        assert_eq!(security.seccomp, Seccomp::File("/p.json".into()));
        assert_eq!(security.apparmor.as_deref(), Some("web"));
        let label = security.selinux().unwrap();
        assert_eq!(label, "system_u:system_r:web_t:s0:c1,c2");
        for text in [
            "",
            "shiny",
            "seccomp",
            "seccomp=",
            "label=x",
            "label=shoe:9",
            "no-new-privileges=x",
        ] {
            Security::default().take(text).unwrap_err();
        }
    }
}
