//! Names of capabilities, and which a container has.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::spec::features::CAPABILITIES;

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

/// What is added or dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// All that there are.
    All,
    /// This one.
    One(&'static str),
}

/// `net_admin`, `CAP_NET_ADMIN` or `ALL`.
pub fn capability(text: &str) -> Result<Capability> {
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
pub fn capabilities(
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
pub fn of_mask(mask: u64) -> BTreeSet<&'static str> {
    let set = |(number, name): (usize, &&'static str)| (mask >> number & 1 == 1).then_some(*name);
    CAPABILITIES.iter().enumerate().filter_map(set).collect()
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
}
