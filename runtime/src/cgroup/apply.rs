//! Writes the resource table and the device rules into the cgroup.

use std::path::Path;

use oci_spec::runtime::LinuxResources;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::device_program;
use super::device_rules::{self, Policy};
use super::resources::{self, Missing, Write};
use super::{Cgroup, Hierarchy, Select, file};
use crate::error::{Context, Error, ErrorKind, Result};

/// The table of this generation.
pub(super) fn table(hierarchy: Hierarchy, r: &LinuxResources) -> Result<Vec<Write>> {
    match hierarchy {
        Hierarchy::Unified => resources::v2(r),
        Hierarchy::Legacy | Hierarchy::Hybrid => resources::v1(r),
        Hierarchy::None => Ok(Vec::new()),
    }
}

impl Cgroup {
    /// Writes limits; those of memory last. With the systemd driver they are told to systemd first,
    /// except those of [`Select::EARLY`], which [`Cgroup::start_unit`] has told it.
    pub fn apply(&self, r: &LinuxResources, select: Select) -> Result<()> {
        let r = &self.for_unit(r, select);
        // Told anything, systemd writes all it has a property for; some of it differs (no period
        // without a quota, a weight for IO that nobody asked for): ours comes last.
        let told = self.set_properties(r, select)?;
        let writes = table(self.hierarchy, r)?;
        if select.others || told {
            self.write_all(writes.iter().filter(|w| !w.memory_limit))?;
        }
        if select.devices {
            self.apply_devices(r)?;
        }
        if select.memory {
            self.write_all(writes.iter().filter(|w| w.memory_limit))?;
        }
        Ok(())
    }

    /// Writes in order; what depends on a later value of its controller is tried again after it.
    fn write_all<'a>(&self, writes: impl Iterator<Item = &'a Write>) -> Result<()> {
        let mut again: Vec<&Write> = Vec::new();
        for write in writes {
            if again
                .last()
                .is_some_and(|w| w.controller != write.controller)
            {
                self.write_again(&mut again)?;
            }
            match self.write_one(write) {
                Err((_, Errno::INVAL)) if write.again => again.push(write),
                other => other.map_err(|(error, _)| error)?,
            }
        }
        self.write_again(&mut again)
    }

    fn write_again(&self, again: &mut Vec<&Write>) -> Result<()> {
        for write in again.drain(..) {
            self.write_one(write).map_err(|(error, _)| error)?;
        }
        Ok(())
    }

    fn write_one(&self, write: &Write) -> Result<(), (Error, Errno)> {
        let Some(dir) = self.controller(write.controller) else {
            if write.missing == Missing::Skip {
                return Ok(());
            }
            return Err((no_cgroup(write.controller), Errno::NOENT));
        };
        let path = dir.join(&write.file);
        let Err(errno) = file::write(&path, &write.value) else {
            return Ok(());
        };
        match &write.missing {
            Missing::Skip if errno == Errno::NOENT => return Ok(()),
            Missing::Use(other, value) if errno == Errno::NOENT => {
                let path = dir.join(other);
                return match file::write(&path, value) {
                    Ok(()) => Ok(()),
                    Err(errno) => Err((self.refusal(write, dir, &path, errno), errno)),
                };
            }
            _ => {}
        }
        Err((self.refusal(write, dir, &path, errno), errno))
    }

    /// Why a value was refused, in the user's terms.
    fn refusal(&self, write: &Write, dir: &Path, path: &Path, errno: Errno) -> Error {
        let plain = || file::write_error(path, &write.value, errno);
        match errno {
            Errno::BUSY if write.file == "memory.limit_in_bytes" => {
                let get = |name: &str| {
                    file::read(&dir.join(name)).map_or_else(|_| "?".into(), |t| t.trim().to_owned())
                };
                Error::new(
                    ErrorKind::Busy,
                    format!(
                        "unable to set memory limit to {} (current usage: {}, peak usage: {})",
                        write.value,
                        get("memory.usage_in_bytes"),
                        get("memory.max_usage_in_bytes")
                    ),
                )
            }
            Errno::NOENT | Errno::PERM | Errno::ACCESS => {
                if !self.exists() {
                    return no_cgroup(write.controller);
                }
                if self.hierarchy != Hierarchy::Unified {
                    return plain();
                }
                let controllers = file::read(&dir.join("cgroup.controllers")).unwrap_or_default();
                let needed = write.file.split('.').next().unwrap_or("");
                if needed == "cgroup" || controllers.split_whitespace().any(|c| c == needed) {
                    return plain();
                }
                let text = if write.controller == "unified" {
                    format!(
                        "unified resource {:?} can't be set: controller {needed:?} not available",
                        write.file
                    )
                } else {
                    format!(
                        "cannot set {}: controller {needed:?} is not available in cgroup {}",
                        write.file,
                        super::below_root(dir).display()
                    )
                };
                Error::unsupported(text)
            }
            _ => plain(),
        }
    }

    /// Device rules. Without rights to set them (rootless, or below a user namespace, where no
    /// device node can be made either) a container goes without.
    fn apply_devices(&self, r: &LinuxResources) -> Result<()> {
        let rules = device_rules::from_spec(r)?;
        let done = match self.hierarchy {
            Hierarchy::Unified => match self.unified() {
                Some(dir) => device_program::install(dir, &rules),
                None => Ok(()),
            },
            Hierarchy::Legacy | Hierarchy::Hybrid => match self.paths.get("devices") {
                Some(dir) => devices_v1(dir, &Policy::new(&rules)?),
                None => Ok(()),
            },
            Hierarchy::None => Ok(()),
        };
        match done {
            Err(_) if self.rootless || in_user_namespace() => Ok(()),
            other => other.context(|| "cannot set device rules"),
        }
    }
}

/// Whether this process is outside of the host's user namespace.
fn in_user_namespace() -> bool {
    let map = file::read(Path::new("/proc/self/uid_map")).unwrap_or_default();
    map.split_whitespace().ne(["0", "0", "4294967295"])
}

fn no_cgroup(controller: &str) -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        format!("cannot set {controller} limit: container could not join or create cgroup"),
    )
}

/// Brings a v1 device cgroup to `target`: both files are opened once, a write is one rule.
fn devices_v1(dir: &Path, target: &Policy) -> Result<()> {
    let writes = Policy::transition(target, None);
    match write_rules(dir, &writes[..1]) {
        Ok(()) => write_rules(dir, &writes[1..]).map_err(|(error, _)| error),
        // With sub-cgroups the kernel does not reset: go from what is there.
        Err((_, Errno::INVAL)) => {
            let current = Policy::parse(&file::get(&dir.join("devices.list"))?)?;
            let writes = Policy::transition(target, Some(&current));
            write_rules(dir, &writes).map_err(|(error, _)| error)
        }
        Err((error, _)) => Err(error),
    }
}

fn write_rules(dir: &Path, writes: &[(bool, String)]) -> Result<(), (Error, Errno)> {
    let mut open: [Option<rustix::fd::OwnedFd>; 2] = [None, None];
    for (allow, rule) in writes {
        let path = dir.join(if *allow {
            "devices.allow"
        } else {
            "devices.deny"
        });
        let fail = |errno| (file::write_error(&path, rule, errno), errno);
        let slot = &mut open[usize::from(*allow)];
        let fd = match slot {
            Some(fd) => fd,
            None => slot.insert(file::open(&path, OFlags::WRONLY).map_err(fail)?),
        };
        file::retry(|| rustix::io::write(&*fd, rule.as_bytes())).map_err(fail)?;
    }
    Ok(())
}
