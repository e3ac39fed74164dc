//! Who a process is and what it may do, as /proc tells (proc_pid_status(5)), and whether it may be that. Pure.

use std::collections::HashMap;

use crate::plan::Plan;

/// Capabilities that let a program become anybody: CAP_SETGID and CAP_SETUID.
const CHANGE_IDS: u64 = 1 << 6 | 1 << 7;
/// What /proc/PID/status says of a thread, as far as it matters.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Rights {
    uids: Vec<u32>,
    gids: Vec<u32>,
    groups: Vec<u32>,
    /// All sets together.
    capabilities: u64,
    no_new_privs: bool,
    seccomp: u32,
}

impl Rights {
    /// None: a line is missing or is not understood.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let lines: HashMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name, value.trim()))
            .collect();
        let ids = |name: &str| -> Option<Vec<u32>> {
            let words = lines.get(name)?.split_ascii_whitespace();
            words.map(|word| word.parse().ok()).collect()
        };
        let set = |name: &str| u64::from_str_radix(lines.get(name)?, 16).ok();
        let mut capabilities = 0;
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            capabilities |= set(name)?;
        }
        Some(Self {
            uids: ids("Uid")?,
            gids: ids("Gid")?,
            groups: ids("Groups")?,
            capabilities,
            no_new_privs: *lines.get("NoNewPrivs")? == "1",
            seccomp: lines.get("Seccomp")?.parse().ok()?,
        })
    }
}

/// Whether a thread may be as it is. Pure.
pub(super) fn rights_of(
    plan: &Plan,
    found: &Rights,
    filtered: bool,
) -> std::result::Result<(), String> {
    let process = &plan.process;
    let bounding = process.capabilities.bounding;
    let more = found.capabilities & !bounding;
    if more != 0 {
        return Err(format!(
            "has capabilities {more:#x} beyond those it may have"
        ));
    }
    if process.no_new_privs && !found.no_new_privs {
        return Err("may get new privileges".to_owned());
    }
    if filtered && found.seccomp != libc::SECCOMP_MODE_FILTER {
        return Err("has no filter of system calls".to_owned());
    }
    if process.uid == 0 && bounding & CHANGE_IDS == CHANGE_IDS {
        return Ok(());
    }
    if let Some(uid) = found.uids.iter().find(|uid| **uid != process.uid) {
        return Err(format!("is user {uid} and not {}", process.uid));
    }
    let groups = process.groups.as_deref().unwrap_or_default();
    let may = |gid: u32| gid == process.gid || groups.iter().any(|one| one.as_raw() == gid);
    match found
        .gids
        .iter()
        .chain(&found.groups)
        .find(|gid| !may(**gid))
    {
        Some(gid) => Err(format!("is in group {gid}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::external::tests::plan;

    const STATUS: &str = "Name:\tsh\nUid:\t5\t5\t5\t5\nGid:\t6\t6\t6\t6\nGroups:\t6 7 \n\
        CapInh:\t0\nCapPrm:\t0\nCapEff:\t0\nCapBnd:\t00000000a80425fb\nCapAmb:\t0\n\
        NoNewPrivs:\t1\nSeccomp:\t2\n";

    #[test]
    fn who_a_process_is() {
        let found = Rights::parse(STATUS).unwrap();
        assert_eq!((&*found.uids, &*found.groups), (&[5; 4][..], &[6, 7][..]));
        assert_eq!(found.capabilities, 0xa804_25fb);
        assert!(found.no_new_privs);
        for line in STATUS.lines().skip(1) {
            let without = STATUS.replace(&format!("{line}\n"), "");
            assert_eq!(Rights::parse(&without), None, "{line}");
        }
    }

    #[test]
    fn nobody_has_more_rights_than_the_configuration_gives() {
        let mut plan = plan(&serde_json::json!([]));
        let process = &mut plan.process;
        process.capabilities.bounding = 0b111;
        process.no_new_privs = true;
        (process.uid, process.gid) = (5, 6);
        let right = Rights {
            uids: vec![5; 4],
            gids: vec![6; 4],
            groups: vec![6],
            capabilities: 0b11,
            no_new_privs: true,
            seccomp: 2,
        };
        let good = |plan: &Plan, rights: &Rights| rights_of(plan, rights, true).is_ok();
        assert!(good(&plan, &right));
        type Change = fn(&mut Rights);
        let wrong: [(&str, Change); 6] = [
            ("capability", |r| r.capabilities = 0b1000),
            ("new privileges", |r| r.no_new_privs = false),
            ("no filter", |r| r.seccomp = 0),
            ("root", |r| r.uids[1] = 0),
            ("group", |r| r.gids[3] = 0),
            ("more groups", |r| r.groups.push(7)),
        ];
        for (what, change) in wrong {
            let mut rights = right.clone();
            change(&mut rights);
            assert!(!good(&plan, &rights), "{what}");
        }
        // Root that may become anybody may have.
        plan.process.uid = 0;
        plan.process.capabilities.bounding = CHANGE_IDS | 0b11;
        assert!(good(&plan, &right));
        plan.process.capabilities.bounding = 0b11;
        assert!(!good(&plan, &right));
    }
}
