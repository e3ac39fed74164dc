//! What of the host a container's configuration names, looked up: sources of mounts, devices, profiles,
//! other containers' namespaces.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use rcrun_overlay::snapshot::unescaped;
use rcrun_runtime::template::cdi::{self, Applied, Registry};
use rcrun_runtime::template::devices;

use crate::core::{Core, Life, precondition};
use crate::spec::DeviceNode;
use crate::spec::container::{Asks, Propagation, Source};
use crate::{Context, Error, Result};

/// The longest seccomp profile.
const PROFILE: u64 = 4 << 20;

/// Sources of bind mounts.
pub(super) fn sources(asks: &Asks) -> Result<BTreeMap<usize, Source>> {
    if asks.sources.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mounts = table()?;
    let one = |(index, path): &(usize, PathBuf)| {
        let (path, exists) = match std::fs::canonicalize(path) {
            Ok(path) => (path, true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (path.clone(), false),
            Err(error) => {
                return Err(error).context(|| format!("cannot resolve {}", path.display()));
            }
        };
        let source = Source {
            propagation: holder(&mounts, &path),
            path,
            exists,
        };
        Ok((*index, source))
    };
    asks.sources.iter().map(one).collect()
}

/// How the mount propagates that a path of the host is on.
pub(crate) fn propagation(path: &Path) -> Result<Propagation> {
    let path =
        std::fs::canonicalize(path).context(|| format!("cannot resolve {}", path.display()))?;
    Ok(holder(&table()?, &path))
}

fn table() -> Result<BTreeMap<PathBuf, Propagation>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .context(|| "cannot read /proc/self/mountinfo")?;
    Ok(mounts(&table))
}

fn holder(mounts: &BTreeMap<PathBuf, Propagation>, path: &Path) -> Propagation {
    let holder = mounts.iter().filter(|(point, _)| path.starts_with(point));
    let holder = holder.max_by_key(|(point, _)| point.as_os_str().len());
    holder.map_or(Propagation::Private, |(_, propagation)| *propagation)
}

/// Mount points and how they propagate, in the order of the table: of those at one place the last counts.
fn mounts(table: &str) -> BTreeMap<PathBuf, Propagation> {
    let line = |line: &str| {
        let (mount, _) = line.split_once(" - ")?;
        let mut fields = mount.split(' ');
        let point = unescaped(fields.nth(4)?.as_bytes());
        let mut propagation = Propagation::Private;
        for option in fields.skip(1) {
            if option.starts_with("shared:") {
                propagation = Propagation::Shared;
            } else if option.starts_with("master:") && propagation == Propagation::Private {
                propagation = Propagation::Slave;
            }
        }
        Some((OsString::from_vec(point).into(), propagation))
    };
    table.lines().filter_map(line).collect()
}

/// Device nodes.
pub(super) fn nodes(asks: &Asks) -> Result<Vec<DeviceNode>> {
    let mut nodes = Vec::new();
    for device in &asks.devices {
        nodes.extend(devices::nodes(device)?);
    }
    if asks.every_device {
        nodes.extend(devices::everything()?);
    }
    Ok(nodes)
}

/// What CDI's specifications say of the devices.
pub(super) fn cdi(asks: &Asks) -> Result<Applied> {
    match asks.cdi.is_empty() {
        true => Ok(Applied::default()),
        false => Registry::read(&cdi::DIRECTORIES.map(Path::new))?.apply(&asks.cdi),
    }
}

/// Text of a seccomp profile.
pub(super) fn profile(asks: &Asks) -> Result<Option<Vec<u8>>> {
    let Some(path) = &asks.seccomp else {
        return Ok(None);
    };
    let failed = || format!("cannot read seccomp profile {}", path.display());
    let mut text = Vec::new();
    let file = std::fs::File::open(path).context(failed)?;
    if !file.metadata().context(failed)?.is_file() {
        return Err(Error::invalid("it is not a regular file")).context(failed);
    }
    file.take(PROFILE + 1)
        .read_to_end(&mut text)
        .context(failed)?;
    if text.len() as u64 > PROFILE {
        let text = format!("it is longer than {PROFILE} bytes");
        return Err(Error::invalid(text)).context(failed);
    }
    Ok(Some(text))
}

/// The pid namespace of another container of the same pod.
pub(super) fn target(core: &Core, pod: &str, asks: &Asks) -> Result<Option<PathBuf>> {
    let Some(id) = &asks.target else {
        return Ok(None);
    };
    let failed = || format!("cannot join the processes of container {id}");
    let found = core.container(id).ok().filter(|found| found.pod.id == pod);
    let Some(found) = found else {
        return Err(precondition("there is none of this identifier in the pod")).context(failed);
    };
    if found.life() != Life::Running {
        return Err(precondition("it does not run")).context(failed);
    }
    match core.runtime.init(&found.id).context(failed)? {
        Some((pid, _)) => Ok(Some(PathBuf::from(format!("/proc/{pid}/ns/pid")))),
        None => Err(precondition("it does not run")).context(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_and_how_they_propagate() {
        let table = "1 0 0:1 / / rw shared:1 - ext4 /dev/a rw\n\
                     2 1 0:2 / /a\\040b rw,nosuid master:2 - tmpfs x rw\n\
                     3 1 0:3 / /c rw shared:3 master:4 - tmpfs x rw\n\
                     4 1 0:4 / /d rw - tmpfs x rw\n";
        let found = mounts(table);
        for (point, expected) in [
            ("/", Propagation::Shared),
            ("/a b", Propagation::Slave),
            ("/c", Propagation::Shared),
            ("/d", Propagation::Private),
        ] {
            assert_eq!(found[Path::new(point)], expected, "{point}");
        }
    }
}
