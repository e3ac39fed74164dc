//! config.json -> [`Plan`]: everything decided, every string laid out, before any process is made.
//!
//! All of this is pure: no file is opened, no path resolved. The container's init receives the
//! finished plan and carries it out without allocating (see `launch`).

pub mod annotations;
pub mod capabilities;
pub mod devices;
pub mod hooks;
pub mod mounts;
pub mod namespaces;
pub mod process;

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};

use crate::error::{Error, Result};

pub use devices::Device;
pub use hooks::Hook;
pub use mounts::{MountKind, MountStep};
pub use namespaces::Namespaces;
pub use process::Process;

/// A container, ready to be made.
#[derive(Debug)]
pub struct Plan {
    /// Namespaces to make and to enter.
    pub namespaces: Namespaces,
    /// Root file system; absent parts mean that the container has no mount namespace of its own.
    pub rootfs: Rootfs,
    /// `mounts`.
    pub mounts: Vec<MountStep>,
    /// Device nodes, or nothing when /dev is the host's.
    pub devices: Vec<Device>,
    /// Whether /dev gets its links and /dev/ptmx.
    pub populate_dev: bool,
    /// Paths that become invisible.
    pub masked: Vec<CString>,
    /// Paths that become read-only.
    pub readonly: Vec<CString>,
    /// `(path below /proc/sys, value)`.
    pub sysctls: Vec<(CString, Vec<u8>)>,
    /// Host name in a new uts namespace.
    pub hostname: Option<CString>,
    /// NIS domain name in a new uts namespace.
    pub domainname: Option<CString>,
    /// Hooks that the init runs before the root is switched.
    pub create_container: Vec<Hook>,
    /// Hooks that the init runs before the program.
    pub start_container: Vec<Hook>,
    /// SELinux context of what is mounted.
    pub mount_label: Option<CString>,
    /// The program.
    pub process: Process,
    /// The init stays, and the program is its child.
    pub stay: bool,
    /// Bring the loopback interface of a new network namespace up.
    pub loopback: bool,
}

/// The root file system.
#[derive(Debug)]
pub struct Rootfs {
    /// Absolute path outside.
    pub path: CString,
    /// Read-only at the end.
    pub readonly: bool,
    /// Propagation of the container's mounts before anything is mounted: `MS_*`, recursive.
    pub propagation: u64,
    /// Propagation of `/` at the end, when the configuration asks for it.
    pub final_propagation: Option<u64>,
    /// Use MS_MOVE and chroot.
    pub no_pivot: bool,
}

/// What the plan depends on besides the configuration.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Absolute bundle path.
    pub bundle: &'a Path,
    /// `--no-pivot`.
    pub no_pivot: bool,
    /// Descriptors handed down by the LISTEN_FDS protocol.
    pub listen_fds: Option<u32>,
    /// SELinux is on: mount labels mean something.
    pub selinux: bool,
}

impl Plan {
    /// Decides for a checked configuration.
    pub fn from_spec(spec: &Spec, facts: &Facts<'_>) -> Result<Self> {
        let empty = Linux::default();
        let linux = spec.linux().as_ref().unwrap_or(&empty);
        let namespaces = Namespaces::plan(linux)?;
        let mount_label = linux
            .mount_label()
            .clone()
            .filter(|l| !l.is_empty() && facts.selinux);
        let root = spec
            .root()
            .as_ref()
            .map(|root| facts.bundle.join(root.path()));
        let notes = spec.annotations().as_ref();
        let context = mounts::MountContext {
            bundle: facts.bundle,
            root: root.as_deref().unwrap_or(Path::new("/")),
            label: mount_label.as_deref(),
            label_option: annotations::context_type(|name| notes?.get(name).map(String::as_str))?,
            foreign_network: namespaces.has(LinuxNamespaceType::User)
                && !namespaces.is_new(LinuxNamespaceType::Network),
        };
        let entries = spec.mounts().as_deref().unwrap_or_default();
        let mounts = mounts::plan(entries, &context)?;
        let bound_dev = mounts.iter().any(|step| {
            step.target.as_c_str() == c"/dev" && matches!(step.kind, MountKind::Bind(_))
        });
        let configured = linux.devices().as_deref().unwrap_or_default();
        let own_mounts = namespaces.has(LinuxNamespaceType::Mount);
        let hooks = spec.hooks().as_ref();
        let uts = namespaces.has(LinuxNamespaceType::Uts);
        Ok(Self {
            stay: annotations::stays(|name| notes?.get(name).map(String::as_str))?,
            rootfs: rootfs(spec, linux, facts)?,
            devices: if bound_dev {
                Vec::new()
            } else {
                devices::plan(configured)?
            },
            populate_dev: !bound_dev,
            masked: if own_mounts {
                masked(linux, mounts::exposed_cgroups(&mounts))?
            } else {
                Vec::new()
            },
            readonly: if own_mounts {
                c_list(linux.readonly_paths())?
            } else {
                Vec::new()
            },
            sysctls: sysctls(linux)?,
            hostname: name(spec.hostname(), uts)?,
            domainname: name(spec.domainname(), uts)?,
            create_container: hooks::plan(
                "createContainer",
                hooks.and_then(|h| h.create_container().as_ref()),
            )?,
            start_container: hooks::plan(
                "startContainer",
                hooks.and_then(|h| h.start_container().as_ref()),
            )?,
            mount_label: mount_label.map(|label| c_string(&label)).transpose()?,
            process: process(spec, linux, facts)?,
            loopback: namespaces.is_new(LinuxNamespaceType::Network),
            namespaces,
            mounts,
        })
    }
}

fn process(spec: &Spec, linux: &Linux, facts: &Facts<'_>) -> Result<Process> {
    let mut process = match spec.process() {
        Some(process) => Process::plan(process, linux, facts.listen_fds)?,
        None => Process::absent(linux)?,
    };
    let notes = spec.annotations().as_ref();
    if annotations::keeps_groups(|name| notes?.get(name).map(String::as_str))? {
        process.groups = None;
    }
    // For processes of `exec` only, as the name says.
    (process.affinity_initial, process.affinity_final) = (None, None);
    Ok(process)
}

fn rootfs(spec: &Spec, linux: &Linux, facts: &Facts<'_>) -> Result<Rootfs> {
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| Error::invalid("root is missing"))?;
    let final_propagation = match linux.rootfs_propagation().as_deref() {
        None | Some("") => None,
        Some(word) => {
            let options = mounts::parse_options(&[word]);
            match options.propagation.as_slice() {
                [flag] => Some(*flag),
                _ => {
                    return Err(Error::invalid(format!(
                        "linux.rootfsPropagation={word:?} is no propagation type"
                    )));
                }
            }
        }
    };
    // What the container mounts must not reach the host unless asked for; what the host unmounts
    // must reach the container, or the host's mounts stay busy: slave is the default.
    let propagation = match final_propagation {
        // An unbindable root could not be bound onto itself; it becomes so at the end.
        Some(flag) if flag & libc::MS_UNBINDABLE != 0 => libc::MS_PRIVATE | libc::MS_REC,
        Some(flag) => flag | libc::MS_REC,
        None => libc::MS_SLAVE | libc::MS_REC,
    };
    let path: PathBuf = facts.bundle.join(root.path());
    Ok(Rootfs {
        path: c_path(&path)?,
        readonly: root.readonly().unwrap_or(false),
        propagation,
        final_propagation,
        no_pivot: facts.no_pivot,
    })
}

fn sysctls(linux: &Linux) -> Result<Vec<(CString, Vec<u8>)>> {
    let mut entries: Vec<_> = linux.sysctl().iter().flatten().collect();
    entries.sort();
    entries
        .into_iter()
        .map(|(key, value)| {
            if key.is_empty() || value.bytes().any(|b| b == 0 || b == b'\n') {
                return Err(Error::invalid(format!(
                    "linux.sysctl[{key:?}]: bad value {value:?}"
                )));
            }
            Ok((c_string(&sysctl_path(key))?, value.clone().into_bytes()))
        })
        .collect()
}

/// The path below /proc/sys of a sysctl name. Either separator may come first; the other one then
/// stands for itself (an interface called `eth0.100`), as sysctl(8) has it.
pub fn sysctl_path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'.' => key
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => key.to_owned(),
    }
}

fn name(text: &Option<String>, uts: bool) -> Result<Option<CString>> {
    match text.as_deref().filter(|t| !t.is_empty()) {
        None => Ok(None),
        Some(text) if uts => c_string(text).map(Some),
        Some(_) => Err(Error::invalid(
            "unable to set hostname without a private UTS namespace",
        )),
    }
}

/// Each once: a second mask would hide nothing more.
fn masked(linux: &Linux, more: Option<CString>) -> Result<Vec<CString>> {
    let mut seen = std::collections::HashSet::new();
    let mut paths = c_list(linux.masked_paths())?;
    paths.extend(more);
    paths.retain(|path| seen.insert(path.clone()));
    Ok(paths)
}

fn c_list(paths: &Option<Vec<String>>) -> Result<Vec<CString>> {
    paths.iter().flatten().map(|p| c_string(p)).collect()
}

/// A C string; a NUL byte inside is an error of the configuration.
pub fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("{text:?} contains a NUL byte")))
}

/// A path as a C string.
pub fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| Error::invalid(format!("{} contains a NUL byte", path.display())))
}

/// Largest number that a list of processors or memory nodes may name (the kernel's own limit).
const BIT_LIST_MAX: usize = 8192;

/// A list like `0-3,7` as a bit mask (the format of cpuset(7)).
pub fn bit_list(list: &str) -> Result<Vec<u64>> {
    let bad = || Error::invalid(format!("{list:?} is not a list like 0-3,7"));
    let number = |text: &str| {
        text.trim()
            .parse::<usize>()
            .ok()
            .filter(|n| *n < BIT_LIST_MAX)
    };
    let mut mask = Vec::new();
    for range in list.split(',').map(str::trim).filter(|r| !r.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (
            number(first).ok_or_else(bad)?,
            number(last).ok_or_else(bad)?,
        );
        if first > last {
            return Err(bad());
        }
        if mask.len() <= last / 64 {
            mask.resize(last / 64 + 1, 0u64);
        }
        (first..=last).for_each(|bit| mask[bit / 64] |= 1 << (bit % 64));
    }
    if mask.is_empty() {
        Err(bad())
    } else {
        Ok(mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_lists() {
        for (list, expected) in [
            ("0", vec![1]),
            ("0-3,7", vec![0x8f]),
            ("64", vec![0, 1]),
            ("1,", vec![2]),
        ] {
            assert_eq!(bit_list(list).unwrap(), expected, "{list}");
        }
        for list in ["", ",", "a", "3-1", "-1", "8192", "1-"] {
            assert!(bit_list(list).is_err(), "{list}");
        }
    }

    #[test]
    fn sysctl_names() {
        for (key, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            (
                "net/ipv4/conf/eth0.100/forwarding",
                "net/ipv4/conf/eth0.100/forwarding",
            ),
            (
                "net.ipv4.conf.eth0/100.forwarding",
                "net/ipv4/conf/eth0.100/forwarding",
            ),
        ] {
            assert_eq!(sysctl_path(key), path);
        }
    }
}
