//! A pod's sysctls: only what its own namespaces keep to themselves (CVE-2022-0811, CVE-2022-0532).

use std::collections::{BTreeMap, HashMap};

use rcrun_runtime::spec::validate::path_below_proc_sys;

use super::Node;
use super::pod::{Kind, Namespaces, Sysctl};
use crate::{Error, Result};

/// Most sysctls of a pod.
const MOST: usize = 1024;
/// The longest value: what one write to /proc/sys takes.
const LONGEST: usize = 4095;
/// Below /proc/sys/kernel: System V IPC (ipc_namespaces(7)).
const SYSTEM_V: [&str; 8] = [
    "msgmax",
    "msgmnb",
    "msgmni",
    "sem",
    "shm_rmid_forced",
    "shmall",
    "shmmax",
    "shmmni",
];
const PORTS: &str = "net/ipv4/ip_unprivileged_port_start";
const PING: &str = "net/ipv4/ping_group_range";

/// What is written, in order of the paths: what was asked for, and the node's defaults.
pub(super) fn sysctls(
    asked: &BTreeMap<String, String>,
    namespaces: &Namespaces,
    node: &Node,
) -> Result<Vec<Sysctl>> {
    if asked.len() > MOST {
        return Err(Error::invalid(format!("more than {MOST} sysctls")));
    }
    let mut names: HashMap<String, &str> = HashMap::new();
    let mut all = BTreeMap::new();
    for (name, value) in asked {
        let sysctl = sysctl(name, value, namespaces)?;
        if let Some(other) = names.insert(sysctl.path.clone(), name) {
            return Err(Error::invalid(format!(
                "sysctls {other:?} and {name:?} are the same"
            )));
        }
        all.insert(sysctl.path.clone(), sysctl);
    }
    let mut default = |path: &str, value: String| {
        let sysctl = || Sysctl {
            path: path.to_owned(),
            value,
            kind: Kind::Network,
        };
        all.entry(path.to_owned()).or_insert_with(sysctl);
    };
    if namespaces.network && node.unprivileged_ports {
        default(PORTS, "0".into());
    }
    if namespaces.network && node.unprivileged_icmp {
        let (first, last) = match namespaces.user {
            None => (0, i32::MAX.unsigned_abs()),
            Some(map) => (map.host, map.host + (map.size - 1)),
        };
        default(PING, format!("{first} {last}"));
    }
    Ok(all.into_values().collect())
}

fn sysctl(name: &str, value: &str, namespaces: &Namespaces) -> Result<Sysctl> {
    let refused = |why: &str| Error::invalid(format!("cannot set sysctl {name:?}: {why}"));
    let path = path_below_proc_sys(name).ok_or_else(|| refused("it is not the name of one"))?;
    let kind = kind(&path).ok_or_else(|| refused("no namespace of a pod has one of its own"))?;
    let (own, whose) = match kind {
        Kind::Network => (namespaces.network, "network"),
        Kind::Ipc => (namespaces.ipc, "IPC"),
        Kind::Uts => (namespaces.uts, "uts"),
    };
    if !own {
        return Err(refused(&format!(
            "the pod has the node's {whose} namespace"
        )));
    }
    if path == "kernel/hostname" {
        return Err(refused("the pod's hostname says it"));
    }
    // A list of numbers, a word, an address: what belongs to a second sysctl cannot be written.
    let may = |byte: u8| byte.is_ascii_alphanumeric() || b" \t.,:-_/".contains(&byte);
    let text = value.trim_end_matches('\n');
    if text.len() > LONGEST || !text.bytes().all(may) {
        return Err(refused(&format!("{value:?} is no value")));
    }
    let value = match (path.as_str(), namespaces.user) {
        (PING, Some(map)) => outside(text, map)
            .ok_or_else(|| refused(&format!("{value:?} is no range of the pod's groups")))?,
        _ => text.to_owned(),
    };
    Ok(Sysctl { path, value, kind })
}

fn kind(path: &str) -> Option<Kind> {
    match path.split_once('/')? {
        ("net", _) => Some(Kind::Network),
        ("fs", rest) if rest.starts_with("mqueue/") => Some(Kind::Ipc),
        ("kernel", name) if SYSTEM_V.contains(&name) => Some(Kind::Ipc),
        ("kernel", "domainname" | "hostname") => Some(Kind::Uts),
        _ => None,
    }
}

/// The kernel takes groups as the writer numbers them, and the writer is not in the pod's user namespace.
fn outside(range: &str, map: super::IdMap) -> Option<String> {
    let mut words = range.split_whitespace();
    let mut number = || words.next()?.parse::<u32>().ok();
    let (first, last) = (number()?, number()?);
    if words.next().is_some() {
        return None;
    }
    match first > last {
        // Nobody; as the kernel has it.
        true => Some("1 0".into()),
        false => Some(format!("{} {}", map.outside(first)?, map.outside(last)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::IdMap;
    use crate::spec::pod::Pid;

    const OWN: Namespaces = Namespaces {
        network: true,
        ipc: true,
        uts: true,
        pid: Pid::Container,
        user: None,
    };
    const HOST: Namespaces = Namespaces {
        network: false,
        ipc: false,
        uts: false,
        ..OWN
    };

    fn found(pairs: &[(&str, &str)], namespaces: &Namespaces, node: &Node) -> Result<String> {
        let asked = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let all = sysctls(&asked, namespaces, node)?;
        let show = |one: Sysctl| format!("{}={} {:?}", one.path, one.value, one.kind);
        Ok(all.into_iter().map(show).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn names_in_both_forms() {
        for (name, value, expected) in [
            (
                "kernel.shm_rmid_forced",
                "1",
                "kernel/shm_rmid_forced=1 Ipc",
            ),
            (
                "kernel/shm_rmid_forced",
                "1\n",
                "kernel/shm_rmid_forced=1 Ipc",
            ),
            ("fs.mqueue.msg_max", "100", "fs/mqueue/msg_max=100 Ipc"),
            (
                "net/ipv4/conf/eth0.100/rp_filter",
                "0",
                "net/ipv4/conf/eth0.100/rp_filter=0 Network",
            ),
            (
                "net.ipv4.conf.eth0/100.rp_filter",
                "0",
                "net/ipv4/conf/eth0.100/rp_filter=0 Network",
            ),
            (
                "net.ipv4.ip_local_port_range",
                "1024\t65000",
                "net/ipv4/ip_local_port_range=1024\t65000 Network",
            ),
            (
                "kernel.domainname",
                "a.example",
                "kernel/domainname=a.example Uts",
            ),
        ] {
            let found = found(&[(name, value)], &OWN, &Node::default());
            assert_eq!(found.unwrap(), expected, "{name}");
        }
    }

    /// CVE-2022-0811: separators in a value; names that leave /proc/sys or are the host's.
    #[test]
    fn cve_2022_0811_injected_sysctls() {
        for (name, value) in [
            ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/evil"),
            ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/evil"),
            ("kernel.shm_rmid_forced", "1=1"),
            ("kernel.shm_rmid_forced", "1\0"),
            ("kernel.shm_rmid_forced+kernel.core_pattern", "1"),
            ("kernel.core_pattern", "|/evil"),
            ("kernel/core_pattern", "core"),
            ("net.../../kernel/core_pattern", "core"),
            ("net/../kernel/core_pattern", "core"),
            ("net//core/somaxconn", "1"),
            ("/net/core/somaxconn", "1"),
            ("fs.mqueue", "1"),
            ("fs.mqueue.", "1"),
            ("fs.file-max", "1"),
            ("vm.overcommit_memory", "1"),
            ("user.max_user_namespaces", "1"),
            ("kernel.hostname", "x"),
            ("kernel.shmmax2", "1"),
            ("net", "1"),
            ("", "1"),
        ] {
            let found = found(&[(name, value)], &OWN, &Node::default());
            assert!(found.is_err(), "{name} {value:?}: {found:?}");
        }
        let long = "1".repeat(LONGEST + 1);
        found(&[("kernel.shmmax", &long)], &OWN, &Node::default()).unwrap_err();
    }

    /// CVE-2022-0532: what the node's namespaces hold is the node's.
    #[test]
    fn cve_2022_0532_sysctls_of_the_host() {
        for name in [
            "net.core.somaxconn",
            "kernel.shm_rmid_forced",
            "kernel/sem",
            "fs.mqueue.msg_max",
            "kernel.domainname",
        ] {
            let message = found(&[(name, "1")], &HOST, &Node::default()).unwrap_err();
            assert!(message.to_string().contains("the node's"), "{message}");
        }
    }

    #[test]
    fn one_sysctl_by_two_names() {
        let pairs = [("net.core.somaxconn", "1"), ("net/core/somaxconn", "2")];
        let message = found(&pairs, &OWN, &Node::default()).unwrap_err();
        assert!(message.to_string().contains("the same"), "{message}");
        let many: BTreeMap<String, String> = (0..=MOST)
            .map(|n| (format!("net.x{n}"), "1".into()))
            .collect();
        sysctls(&many, &OWN, &Node::default()).unwrap_err();
    }

    #[test]
    fn defaults_of_the_node() {
        let node = Node {
            unprivileged_ports: true,
            unprivileged_icmp: true,
            ..Node::default()
        };
        let mapped = Namespaces {
            user: Some(IdMap {
                host: 100_000,
                size: 65_536,
            }),
            ..OWN
        };
        let ports = "net/ipv4/ip_unprivileged_port_start";
        for (pairs, namespaces, expected) in [
            (
                &[][..],
                &OWN,
                format!("{ports}=0 Network; {PING}=0 2147483647 Network"),
            ),
            (&[], &HOST, String::new()),
            (
                &[
                    ("net.ipv4.ip_unprivileged_port_start", "80"),
                    ("net/ipv4/ping_group_range", "1 0"),
                ],
                &OWN,
                format!("{ports}=80 Network; {PING}=1 0 Network"),
            ),
            (
                &[],
                &mapped,
                format!("{ports}=0 Network; {PING}=100000 165535 Network"),
            ),
            (
                &[("net.ipv4.ping_group_range", "0 5")],
                &mapped,
                format!("{ports}=0 Network; {PING}=100000 100005 Network"),
            ),
            (
                &[("net.ipv4.ping_group_range", "1 0")],
                &mapped,
                format!("{ports}=0 Network; {PING}=1 0 Network"),
            ),
        ] {
            assert_eq!(found(pairs, namespaces, &node).unwrap(), expected);
        }
        for value in ["0 65536", "0", "a b", "0 1 2", ""] {
            found(&[("net.ipv4.ping_group_range", value)], &mapped, &node).unwrap_err();
        }
    }
}
