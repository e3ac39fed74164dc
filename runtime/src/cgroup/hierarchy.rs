//! Which cgroup hierarchies there are, where they are mounted, and where the caller is in them.
//!
//! Three reads, once per process: `statfs` of /sys/fs/cgroup (unified or not), /proc/self/cgroup
//! and, where v1 is mounted, /proc/self/mountinfo. Formats: proc(5), cgroups(7).

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::file;
use super::path::below;
use crate::error::{Error, ErrorKind, Result};

/// Where every distribution mounts cgroups; on a unified host it is the hierarchy itself.
pub(super) const ROOT: &str = "/sys/fs/cgroup";
/// Where the cgroup2 hierarchy is mounted beside v1 controllers.
const HYBRID: &str = "/sys/fs/cgroup/unified";

/// Which generation of cgroups this host uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hierarchy {
    /// One cgroup2 hierarchy with all controllers.
    Unified,
    /// v1 hierarchies only.
    Legacy,
    /// v1 hierarchies for the controllers and cgroup2 at /sys/fs/cgroup/unified.
    Hybrid,
    /// Whatever there is, the container has no cgroup in it ([`CgroupDriver::None`]).
    ///
    /// [`CgroupDriver::None`]: crate::container::CgroupDriver::None
    None,
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    /// Names of its controllers, `name=` for named ones, one empty name for cgroup2.
    pub(super) controllers: Vec<String>,
    /// Mount point.
    pub(super) point: PathBuf,
    /// The caller's own cgroup, below the mount point; `None` when it is outside of the mount.
    pub(super) own: Option<PathBuf>,
}

/// All hierarchies as this process sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub(super) hierarchy: Hierarchy,
    pub(super) mounted: Vec<Mounted>,
}

/// The hierarchies of this host; looked up at the first call.
pub(super) fn view() -> Result<&'static View> {
    static VIEW: OnceLock<View> = OnceLock::new();
    if let Some(view) = VIEW.get() {
        return Ok(view);
    }
    let found = discover()?;
    Ok(VIEW.get_or_init(|| found))
}

fn discover() -> Result<View> {
    let own = file::get_piece(Path::new("/proc/self/cgroup"))?;
    if is_unified() {
        return Ok(unified(&own));
    }
    let mountinfo = file::get(Path::new("/proc/self/mountinfo"))?;
    legacy(&own, &mountinfo)
}

/// Whether /sys/fs/cgroup itself is a cgroup2 file system.
pub(crate) fn is_unified() -> bool {
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    rustix::fs::statfs(ROOT).is_ok_and(|s| s.f_type as u64 == CGROUP2_SUPER_MAGIC)
}

fn unified(own: &str) -> View {
    let own = own.lines().find_map(|line| line.strip_prefix("0::"));
    let mounted = Mounted {
        controllers: vec![String::new()],
        point: PathBuf::from(ROOT),
        own: own.and_then(|path| below("/", path)),
    };
    View {
        hierarchy: Hierarchy::Unified,
        mounted: vec![mounted],
    }
}

/// One cgroup mount of /proc/self/mountinfo.
struct Entry<'a> {
    root: &'a str,
    point: PathBuf,
    v2: bool,
    options: Vec<&'a str>,
}

/// Pairs each line of /proc/self/cgroup with its mount.
fn legacy(own: &str, mountinfo: &str) -> Result<View> {
    let entries: Vec<Entry<'_>> = mountinfo.lines().filter_map(entry).collect();
    let mut view = View {
        hierarchy: Hierarchy::Legacy,
        mounted: Vec::new(),
    };
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("cannot understand line {line:?} of /proc/self/cgroup"),
            ));
        };
        let names: Vec<&str> = names.split(',').collect();
        let v2 = id == "0";
        let matches = |e: &&Entry<'_>| {
            if v2 {
                e.v2 && e.point == Path::new(HYBRID)
            } else {
                !e.v2 && names.iter().all(|name| e.options.contains(name))
            }
        };
        // The last mount at a place hides the earlier ones; /sys/fs/cgroup is the usual place.
        let usual = entries
            .iter()
            .rev()
            .filter(matches)
            .find(|e| e.point.starts_with(ROOT));
        let Some(found) = usual.or_else(|| entries.iter().rev().find(matches)) else {
            continue;
        };
        if v2 {
            view.hierarchy = Hierarchy::Hybrid;
        }
        view.mounted.push(Mounted {
            controllers: names.iter().map(|&name| name.to_owned()).collect(),
            point: found.point.clone(),
            own: below(found.root, path),
        });
    }
    Ok(view)
}

/// `36 31 0:33 / /sys/fs/cgroup/devices rw,relatime shared:9 - cgroup cgroup rw,devices`
fn entry(line: &str) -> Option<Entry<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let mut right = right.split(' ');
    let v2 = match right.next()? {
        "cgroup" => false,
        "cgroup2" => true,
        _ => return None,
    };
    let options = right.nth(1)?.split(',').collect();
    let mut left = left.split(' ');
    let root = left.nth(3)?;
    Some(Entry {
        root,
        point: crate::mountinfo::unescaped(left.next()?),
        v2,
        options,
    })
}

/// The cgroup2 cgroup of a process, as the caller's cgroup namespace shows it.
pub(super) fn unified_cgroup_of(pid: i32) -> Option<PathBuf> {
    let text = file::read_piece(Path::new(&format!("/proc/{pid}/cgroup"))).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(Path::new(ROOT).join(path.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /outer /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
60 31 0:32 /outer/x /mnt/a\\040b rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const OWN: &str = "\
9:name=systemd:/a
4:memory:/outer/b
3:hugetlb:/
1:cpu,cpuacct:/
0::/c:d
";

    #[test]
    fn hybrid_view() {
        let view = legacy(OWN, MOUNTINFO).unwrap();
        assert_eq!(view.hierarchy, Hierarchy::Hybrid);
        let got: Vec<_> = view
            .mounted
            .iter()
            .map(|m| {
                let own = m.own.as_ref().map(|p| p.display().to_string());
                (m.controllers.join(","), m.point.display().to_string(), own)
            })
            .collect();
        let row = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), Some(c.to_owned()));
        assert_eq!(
            got,
            [
                row("name=systemd", "/sys/fs/cgroup/systemd", "a"),
                row("memory", "/sys/fs/cgroup/memory", "b"),
                row("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", ""),
                row("", "/sys/fs/cgroup/unified", "c:d"),
            ]
        );
    }

    #[test]
    fn legacy_view_without_cgroup2_mount() {
        let text: String = MOUNTINFO
            .lines()
            .take(3)
            .map(|l| format!("{l}\n"))
            .collect();
        let view = legacy(OWN, &text).unwrap();
        assert_eq!(view.hierarchy, Hierarchy::Legacy);
        assert_eq!(view.mounted.len(), 2);
    }

    #[test]
    fn unified_view() {
        let view = unified("0::/user.slice/session-1.scope\n");
        assert_eq!(
            view.mounted[0].own,
            Some("user.slice/session-1.scope".into())
        );
    }

    #[test]
    fn a_later_mount_hides_an_earlier_one_and_escapes_are_undone() {
        let text = "60 31 0:32 / /mnt/a\\040b rw - cgroup cgroup rw,memory\n";
        let view = legacy("4:memory:/\n", text).unwrap();
        assert_eq!(view.mounted[0].point, Path::new("/mnt/a b"));
    }

    #[test]
    fn broken_own_file_is_an_error() {
        assert!(legacy("nonsense\n", MOUNTINFO).is_err());
    }
}
