//! Which devices a container may use: the specification's rules plus the default ones, and what of
//! them has to be written on v1. Pure.
//!
//! Rules apply in order, a later one over an earlier one; `a` resets everything. config-linux.md,
//! "Allowed Device List"; kernel: Documentation/admin-guide/cgroup-v1/devices.rst. The default rules
//! are those of runc, appended to the configuration's: engines rely on them.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxDeviceType, LinuxResources};

use crate::error::{Error, Result};

/// Kind of device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// All devices of all kinds.
    All,
    /// Block devices.
    Block,
    /// Character devices.
    Char,
}

/// A set of read (1), write (2) and mknod (4).
pub(super) type Access = u8;
pub(super) const READ: Access = 1;
pub(super) const WRITE: Access = 2;
pub(super) const MKNOD: Access = 4;
pub(super) const ALL: Access = READ | WRITE | MKNOD;

/// One rule; `None` as number means every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) kind: Kind,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: Access,
}

const fn char_device(major: Option<u32>, minor: Option<u32>, access: Access) -> Rule {
    Rule {
        allow: true,
        kind: Kind::Char,
        major,
        minor,
        access,
    }
}

/// Every container may make any node, and use the devices that the specification supplies,
/// pseudo terminals and the TUN device.
const DEFAULT: [Rule; 11] = [
    char_device(None, None, MKNOD),
    Rule {
        allow: true,
        kind: Kind::Block,
        major: None,
        minor: None,
        access: MKNOD,
    },
    char_device(Some(1), Some(3), ALL),    // null
    char_device(Some(1), Some(8), ALL),    // random
    char_device(Some(1), Some(7), ALL),    // full
    char_device(Some(5), Some(0), ALL),    // tty
    char_device(Some(1), Some(5), ALL),    // zero
    char_device(Some(1), Some(9), ALL),    // urandom
    char_device(Some(136), None, ALL),     // pts/*
    char_device(Some(5), Some(2), ALL),    // ptmx
    char_device(Some(10), Some(200), ALL), // net/tun
];

/// The rules of a configuration followed by the default ones.
pub(super) fn from_spec(resources: &LinuxResources) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for (index, device) in resources.devices().iter().flatten().enumerate() {
        let kind = match device.typ().unwrap_or_default() {
            LinuxDeviceType::A => Kind::All,
            LinuxDeviceType::B => Kind::Block,
            LinuxDeviceType::C => Kind::Char,
            other => {
                return Err(Error::invalid(format!(
                    "invalid cgroup device type {:?}",
                    other.as_str()
                )));
            }
        };
        let access = access(device.access().as_deref().unwrap_or(""), index)?;
        let number = |value: Option<i64>, what: &str| match value {
            None | Some(-1) => Ok(None),
            Some(n) => u32::try_from(n).map(Some).map_err(|_| {
                Error::invalid(format!("invalid {what} number {n} of device rule {index}"))
            }),
        };
        rules.push(Rule {
            allow: device.allow(),
            kind,
            major: number(device.major(), "major")?,
            minor: number(device.minor(), "minor")?,
            access,
        });
    }
    rules.extend(DEFAULT);
    Ok(rules)
}

fn access(text: &str, index: usize) -> Result<Access> {
    if text.is_empty() {
        return Err(Error::invalid(format!(
            "device access at {index} field cannot be empty"
        )));
    }
    text.chars().try_fold(0, |set, c| match c {
        'r' => Ok(set | READ),
        'w' => Ok(set | WRITE),
        'm' => Ok(set | MKNOD),
        _ => Err(Error::invalid(format!(
            "invalid access {text:?} of device rule {index}"
        ))),
    })
}

/// What an exception is about: kind, major, minor.
type Key = (Kind, Option<u32>, Option<u32>);

/// The state of a v1 device cgroup: a default and the exceptions from it.
#[derive(Debug, Clone, Default)]
pub(super) struct Policy {
    pub(super) allow_by_default: bool,
    exceptions: BTreeMap<Key, Access>,
    /// The exceptions in the order of the rules: that in which the kernel lists them.
    order: Vec<Key>,
}

/// The order says nothing about what is allowed.
impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        (self.allow_by_default, &self.exceptions) == (other.allow_by_default, &other.exceptions)
    }
}

impl Eq for Policy {}

impl Policy {
    /// Applies rules in order to "deny all".
    pub(super) fn new(rules: &[Rule]) -> Result<Self> {
        let mut policy = Self::default();
        for rule in rules {
            policy.push(rule)?;
        }
        Ok(policy)
    }

    /// Reads `devices.list`. Of a cgroup that allows by default the kernel shows no exceptions.
    pub(super) fn parse(list: &str) -> Result<Self> {
        let mut policy = Self::default();
        for line in list.lines() {
            policy.push(&parse_line(line).ok_or_else(|| {
                Error::invalid(format!("cannot understand line {line:?} of devices.list"))
            })?)?;
        }
        Ok(policy)
    }

    fn push(&mut self, rule: &Rule) -> Result<()> {
        if rule.kind == Kind::All {
            *self = Self {
                allow_by_default: rule.allow,
                ..Self::default()
            };
            return Ok(());
        }
        let key = (rule.kind, rule.major, rule.minor);
        if rule.allow != self.allow_by_default {
            if !self.exceptions.contains_key(&key) {
                self.order.push(key);
            }
            *self.exceptions.entry(key).or_default() |= rule.access;
            return Ok(());
        }
        // The kernel removes an exception only when it is the same one; a wider one would go on to
        // hold, silently.
        for wider in [
            (rule.kind, None, rule.minor),
            (rule.kind, rule.major, None),
            (rule.kind, None, None),
        ] {
            let held = self.exceptions.get(&wider).copied().unwrap_or(0);
            if wider != key && held & rule.access != 0 {
                return Err(Error::invalid(format!(
                    "device rule \"{}\" not supported by devices cgroupv1 (cannot punch hole in \
                     existing wildcard rule \"{}\")",
                    line(key, rule.access),
                    line(wider, held),
                )));
            }
        }
        if let Some(held) = self.exceptions.get_mut(&key) {
            *held &= !rule.access;
            if *held == 0 {
                self.exceptions.remove(&key);
                self.order.retain(|known| *known != key);
            }
        }
        Ok(())
    }

    /// The rules in the form of [`Policy::new`]'s argument: `a` first, then the exceptions.
    pub(super) fn rules(&self) -> Vec<Rule> {
        let head = Rule {
            allow: self.allow_by_default,
            kind: Kind::All,
            major: None,
            minor: None,
            access: ALL,
        };
        let exceptions = self.ordered().map(|((kind, major, minor), access)| Rule {
            allow: !self.allow_by_default,
            kind,
            major,
            minor,
            access,
        });
        std::iter::once(head).chain(exceptions).collect()
    }

    fn ordered(&self) -> impl Iterator<Item = (Key, Access)> {
        let access = |key: &Key| self.exceptions.get(key).copied().unwrap_or(0);
        self.order.iter().map(move |key| (*key, access(key)))
    }

    /// What to write, and whether to `devices.allow`, so that `self` becomes `target`. Without
    /// `from`, or when its exceptions are unknown, everything is taken away first.
    pub(super) fn transition(target: &Self, from: Option<&Self>) -> Vec<(bool, String)> {
        let old = from.filter(|p| !p.allow_by_default && !target.allow_by_default);
        let mut writes = Vec::new();
        if old.is_none() {
            writes.push((target.allow_by_default, "a *:* rwm".to_owned()));
        }
        let none = BTreeMap::new();
        let old = old.map_or(&none, |p| &p.exceptions);
        for (key, held) in old {
            let gone = held & !target.exceptions.get(key).copied().unwrap_or(0);
            if gone != 0 {
                writes.push((target.allow_by_default, line(*key, gone)));
            }
        }
        for (key, wanted) in target.ordered() {
            let new = wanted & !old.get(&key).copied().unwrap_or(0);
            if new != 0 {
                writes.push((!target.allow_by_default, line(key, new)));
            }
        }
        writes
    }
}

/// `c 1:3 rwm`
fn line((kind, major, minor): Key, access: Access) -> String {
    let kind = match kind {
        Kind::All => 'a',
        Kind::Block => 'b',
        Kind::Char => 'c',
    };
    let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
    format!(
        "{kind} {}:{} {}",
        number(major),
        number(minor),
        access_text(access)
    )
}

/// `rwm` or a part of it.
pub(super) fn access_text(access: Access) -> String {
    [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .iter()
        .filter(|(bit, _)| access & bit != 0)
        .map(|(_, c)| c)
        .collect()
}

fn parse_line(text: &str) -> Option<Rule> {
    let mut fields = text.split_whitespace();
    let kind = match fields.next()? {
        "a" => Kind::All,
        "b" => Kind::Block,
        "c" => Kind::Char,
        _ => return None,
    };
    let (major, minor) = fields.next()?.split_once(':')?;
    let number = |text: &str| match text {
        "*" => Some(None),
        n => n.parse().ok().map(Some),
    };
    let access = access(fields.next()?, 0).ok()?;
    Some(Rule {
        allow: true,
        kind,
        major: number(major)?,
        minor: number(minor)?,
        access,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(json: &str) -> Result<Vec<Rule>> {
        from_spec(&serde_json::from_str(json).unwrap())
    }

    fn rule(allow: bool, text: &str) -> Rule {
        Rule {
            allow,
            ..parse_line(text).unwrap()
        }
    }

    #[test]
    fn spec_rules() {
        let got = rules(
            r#"{"devices":[{"allow":false,"access":"rwm"},
                {"allow":true,"type":"c","major":10,"minor":-1,"access":"mr"}]}"#,
        )
        .unwrap();
        assert_eq!(got[0], rule(false, "a *:* rwm"));
        assert_eq!(got[1], rule(true, "c 10:* rm"));
        assert_eq!(got[2..], DEFAULT);
        for (json, text) in [
            (
                r#"{"devices":[{"allow":true,"type":"c"}]}"#,
                "device access at 0 field",
            ),
            (
                r#"{"devices":[{"allow":true,"access":"x"}]}"#,
                "invalid access",
            ),
            (
                r#"{"devices":[{"allow":true,"type":"p","access":"r"}]}"#,
                "invalid cgroup device",
            ),
            (
                r#"{"devices":[{"allow":true,"type":"c","major":-2,"access":"r"}]}"#,
                "invalid major number",
            ),
        ] {
            let error = rules(json).unwrap_err().chain().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn order_decides() {
        let policy = Policy::new(&[
            rule(true, "c 1:3 rwm"),
            rule(false, "c 1:3 w"),
            rule(true, "c 1:5 r"),
            rule(true, "c 1:5 w"),
            rule(false, "b 8:0 r"),
        ])
        .unwrap();
        let want = [(false, "a *:* rwm"), (true, "c 1:3 rm"), (true, "c 1:5 rw")];
        let want: Vec<_> = want.iter().map(|(a, t)| (*a, (*t).to_owned())).collect();
        assert_eq!(Policy::transition(&policy, None), want);
        // `a` forgets what was before.
        let reset = Policy::new(&[rule(true, "c 1:3 r"), rule(false, "a *:* rwm")]).unwrap();
        assert_eq!(reset, Policy::default());
    }

    #[test]
    fn allow_by_default() {
        let policy = Policy::new(&[rule(true, "a *:* rwm"), rule(false, "b 8:0 rw")]).unwrap();
        let want = vec![
            (true, "a *:* rwm".to_owned()),
            (false, "b 8:0 rw".to_owned()),
        ];
        assert_eq!(Policy::transition(&policy, None), want);
    }

    #[test]
    fn holes_are_refused() {
        let error = Policy::new(&[rule(true, "c 1:* rwm"), rule(false, "c 1:3 w")]).unwrap_err();
        assert!(error.chain().to_string().contains("punch hole"));
        assert!(Policy::new(&[rule(true, "c 1:* r"), rule(false, "c 1:3 w")]).is_ok());
    }

    #[test]
    fn minimal_transition() {
        let from = Policy::parse("c 1:3 rwm\nc 5:0 rw\n").unwrap();
        let to = Policy::new(&[rule(true, "c 1:3 rw"), rule(true, "c 5:0 rwm")]).unwrap();
        let want = vec![(false, "c 1:3 m".to_owned()), (true, "c 5:0 m".to_owned())];
        assert_eq!(Policy::transition(&to, Some(&from)), want);
        assert_eq!(Policy::transition(&to, Some(&to)), []);
        // The exceptions of a list that allows by default are not shown: start over.
        let open = Policy::parse("a *:* rwm\n").unwrap();
        assert_eq!(
            Policy::transition(&to, Some(&open))[0],
            (false, "a *:* rwm".to_owned())
        );
    }
}
