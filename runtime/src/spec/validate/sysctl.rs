//! Rules for `linux.sysctl`: only what a namespace of the container keeps to itself.
//!
//! Owns the spelling of names too: [`path_below_proc_sys`] is the one place that turns a name into
//! a path, so that nothing but what was judged can be written (CVE-2022-0811).

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{Facts, Found, Namespaces};

/// System V IPC (ipc_namespaces(7)).
const IPC: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The file below /proc/sys that a name stands for; `None` when it stands for none.
///
/// The first separator found decides (sysctl(8)): after a dot, dots separate and slashes stand for
/// dots in a component (`net.ipv4.conf.eth0/100.rp_filter`); after a slash it is the other way round.
pub fn path_below_proc_sys(name: &str) -> Option<String> {
    let dotted = dotted(name);
    let swap = |c: char| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    let path: String = dotted.chars().map(swap).collect();
    let safe = path.split('/').all(|part| !["", ".", ".."].contains(&part))
        && !path.contains(|c: char| c.is_control() || c.is_whitespace());
    safe.then_some(path)
}

fn dotted(name: &str) -> String {
    let slash_first = name
        .find(['.', '/'])
        .is_some_and(|at| name.as_bytes()[at] == b'/');
    if !slash_first {
        return name.to_owned();
    }
    let swap = |c: char| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    name.chars().map(swap).collect()
}

pub(super) fn check(spec: &Spec, facts: &Facts, namespaces: Namespaces<'_>, found: &mut Found) {
    let Some(sysctl) = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.sysctl().as_ref())
    else {
        return;
    };
    let mut entries: Vec<(&String, &String)> = sysctl.iter().collect();
    entries.sort_unstable();
    for (name, value) in entries {
        let path = || format!("linux.sysctl[{name:?}]");
        if path_below_proc_sys(name).is_none() {
            found.problem(path(), "not the name of a sysctl");
        } else if let Err(message) = namespaced(&dotted(name), facts, namespaces) {
            found.problem(path(), message);
        } else if dotted(name) == "kernel.domainname"
            && let Some(field) = spec
                .domainname()
                .as_deref()
                .filter(|field| !field.is_empty())
        {
            found.require(value.trim_end_matches('\n') == field, path, || {
                format!("{value:?} conflicts with the OCI \"domainname\" field, {field:?}")
            });
        }
        found.require(
            !value.trim_end_matches('\n').contains('\n'),
            path,
            || "the value has more than one line",
        );
    }
}

/// Whether a sysctl of that (dotted) name belongs to a namespace that the container has for itself.
fn namespaced(name: &str, facts: &Facts, namespaces: Namespaces<'_>) -> Result<(), String> {
    use LinuxNamespaceType as Type;
    let need = |held: bool, text: String| if held { Ok(()) } else { Err(text) };
    if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        let text = format!("sysctl {name:?} is not allowed in the hosts ipc namespace");
        return need(namespaces.has(Type::Ipc), text);
    }
    if name.starts_with("net.") {
        let own = namespaces.has(Type::Network) && !facts.joins_own_network;
        return need(
            own,
            format!("sysctl {name:?} not allowed in host network namespace"),
        );
    }
    if namespaces.has(Type::Uts) {
        if name == "kernel.domainname" {
            return Ok(());
        }
        if name == "kernel.hostname" {
            let field = "hostname";
            return Err(format!(
                "sysctl {name:?} is not allowed as it conflicts with the OCI {field:?} field"
            ));
        }
    }
    if name.starts_with("user.") {
        let text = format!("setting ucounts without a user namespace not allowed: {name}");
        return need(namespaces.has(Type::User), text);
    }
    Err(format!(
        "sysctl {name:?} is not in a separate kernel namespace"
    ))
}
