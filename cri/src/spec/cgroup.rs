//! Which cgroup a pod's containers are in (config-linux.md, "Cgroups Path"; systemd.slice(5)).

use super::Driver;
use crate::{Error, Result};

/// Where pods are whose parent nobody names.
const DEFAULT_PATH: &str = "/rcrun";
const DEFAULT_SLICE: &str = "system.slice";
/// The longest name of a unit and of a file.
const LONGEST_NAME: usize = 255;
/// The longest path.
const LONGEST_PATH: usize = 2048;

/// The cgroup of a pod, made by the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupParent {
    /// An absolute path in each hierarchy.
    Path(String),
    /// A slice's name.
    Slice(String),
}

impl CgroupParent {
    /// What `cgroup_parent` means: a path; for systemd that of a slice, whose last part is its name.
    pub(super) fn new(parent: &str, driver: Driver) -> Result<Self> {
        let refused = |why: &str| Error::invalid(format!("bad cgroup_parent {parent:?}: {why}"));
        if parent.len() > LONGEST_PATH {
            return Err(refused("it is too long"));
        }
        let parts: Vec<&str> = parent
            .split('/')
            .filter(|part| !["", "."].contains(part))
            .collect();
        for part in &parts {
            if *part == ".." {
                return Err(refused("it holds \"..\""));
            }
            if part.len() > LONGEST_NAME || part.contains(char::is_control) {
                return Err(refused("a part of it is no name of a cgroup"));
            }
        }
        match driver {
            Driver::Cgroupfs if parts.is_empty() && parent.is_empty() => {
                Ok(Self::Path(DEFAULT_PATH.into()))
            }
            Driver::Cgroupfs => Ok(Self::Path(format!("/{}", parts.join("/")))),
            Driver::Systemd => match parts[..] {
                [] => Ok(Self::Slice(DEFAULT_SLICE.into())),
                [.., name] => {
                    let whole = format!("/{}", parts.join("/"));
                    if !is_slice(name) {
                        return Err(refused(
                            "systemd makes cgroups here, so it has to end in a slice's name",
                        ));
                    }
                    if parts.len() > 1 && whole != expanded(name) {
                        let place = expanded(name);
                        return Err(refused(&format!("systemd has {name} at {place}")));
                    }
                    Ok(Self::Slice(name.into()))
                }
            },
        }
    }

    /// `linux.cgroupsPath` of a container: for systemd `SLICE:rcrun:ID`.
    pub fn container(&self, id: &str) -> String {
        match self {
            Self::Path(path) => format!("{}/{id}", path.trim_end_matches('/')),
            Self::Slice(slice) => format!("{slice}:rcrun:{id}"),
        }
    }

    /// The pod's own, in each hierarchy.
    pub fn directory(&self) -> String {
        match self {
            Self::Path(path) => path.clone(),
            Self::Slice(slice) => expanded(slice),
        }
    }

    /// A container's, in each hierarchy.
    pub fn container_directory(&self, id: &str) -> String {
        match self {
            Self::Path(_) => self.container(id),
            Self::Slice(slice) => format!("{}/rcrun-{id}.scope", expanded(slice)),
        }
    }
}

fn is_slice(name: &str) -> bool {
    let may = |c: char| c.is_ascii_alphanumeric() || "-_.\\@".contains(c);
    let Some(stem) = name.strip_suffix(".slice") else {
        return false;
    };
    name.chars().all(may) && stem.split('-').all(|part| !part.is_empty()) && !stem.starts_with('.')
}

/// `a-b.slice` is the directory `/a.slice/a-b.slice`.
fn expanded(slice: &str) -> String {
    let name = slice.strip_suffix(".slice").unwrap_or(slice);
    let ends = name.match_indices('-').map(|(at, _)| at);
    let parts = ends.chain([name.len()]);
    parts
        .map(|end| format!("/{}.slice", &name[..end]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents() {
        use Driver::{Cgroupfs, Systemd};
        for (driver, parent, path, directory) in [
            (
                Cgroupfs,
                "/kubepods/burstable/pod1",
                "/kubepods/burstable/pod1/ID",
                "/kubepods/burstable/pod1/ID",
            ),
            (
                Cgroupfs,
                "kubepods//pod1/./",
                "/kubepods/pod1/ID",
                "/kubepods/pod1/ID",
            ),
            (Cgroupfs, "/a.slice", "/a.slice/ID", "/a.slice/ID"),
            (Cgroupfs, "/", "/ID", "/ID"),
            (Cgroupfs, "", "/rcrun/ID", "/rcrun/ID"),
            (
                Systemd,
                "",
                "system.slice:rcrun:ID",
                "/system.slice/rcrun-ID.scope",
            ),
            (
                Systemd,
                "kubepods-pod1.slice",
                "kubepods-pod1.slice:rcrun:ID",
                "/kubepods.slice/kubepods-pod1.slice/rcrun-ID.scope",
            ),
            (
                Systemd,
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_c.slice",
                "kubepods-burstable-podab_c.slice:rcrun:ID",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_c.slice/rcrun-ID.scope",
            ),
        ] {
            let found = CgroupParent::new(parent, driver).unwrap();
            assert_eq!(found.container("ID"), path, "{parent}");
            assert_eq!(found.container_directory("ID"), directory, "{parent}");
            assert!(directory.starts_with(&found.directory()), "{parent}");
        }
    }

    /// Class of CVE-2022-0492: a name that leads out of the kubelet's part of the tree.
    #[test]
    fn cve_2022_0492_parents_that_lead_elsewhere() {
        let long = format!("/{}", "a".repeat(LONGEST_NAME + 1));
        let deep = "/a".repeat(LONGEST_PATH);
        for parent in [
            "..",
            "/kubepods/../..",
            "/kubepods/pod1/..",
            "/kubepods/a\nb",
            "/kubepods/a\0b",
            &long,
            &deep,
        ] {
            CgroupParent::new(parent, Driver::Cgroupfs).unwrap_err();
            CgroupParent::new(parent, Driver::Systemd).unwrap_err();
        }
        for parent in [
            "/kubepods/pod1",
            "/kubepods.slice/../system.slice",
            "/system.slice/kubepods-pod1.slice",
            "kubepods--pod1.slice",
            "-.slice",
            ".slice",
            "a-.slice",
            "a:b c.slice",
            "x.slice:evil:y.slice/",
        ] {
            let found = CgroupParent::new(parent, Driver::Systemd);
            // A colon is legal in a unit's name, but not in our notation for one.
            assert!(found.is_err(), "{parent}: {found:?}");
        }
    }
}
