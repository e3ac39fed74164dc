//! `mounts` of config.json -> finished mount steps (runtime-spec config.md, "Mounts"). Pure.

mod options;
#[cfg(test)]
mod tests;

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Mount};

use crate::error::{Error, Result};
use crate::sys::mount::{MountAttr, attr};

use super::{c_path, c_string};

pub use options::{Options, attributes, option_names, parse_options};

/// One entry of `mounts`, ready to be carried out.
#[derive(Debug)]
pub struct MountStep {
    /// Place in `mounts`.
    pub index: usize,
    /// Absolute path inside the container.
    pub target: CString,
    /// What to mount.
    pub kind: MountKind,
    /// Attributes of this mount alone.
    pub attr: MountAttr,
    /// The target may lie on the container's procfs.
    pub inside_proc: bool,
    /// Attributes that are cleared as well, unless they are locked: what a bind mount with options
    /// does not name.
    pub unnamed: u64,
    /// Attributes of this mount and everything below (`rro`, `rnosuid`, ...).
    pub recursive: MountAttr,
    /// `MS_SHARED` and its like, with `MS_REC` for the recursive forms, in the order given.
    pub propagation: Vec<u64>,
}

/// The kinds of mounts that differ in how they are made.
#[derive(Debug)]
pub enum MountKind {
    /// A new instance of a file system.
    Filesystem(Filesystem),
    /// An existing tree, bound.
    Bind(Bind),
    /// The cgroup file systems as this host has them, limited to the container's own cgroup.
    Cgroup,
    /// Changes the superblock behind an existing mount (option `remount` without `bind`).
    Remount(Filesystem),
}

/// Arguments of mount(2) for a new file system.
#[derive(Debug)]
pub struct Filesystem {
    /// Type, as in /proc/filesystems.
    pub fstype: CString,
    /// Device or a name.
    pub source: CString,
    /// `MS_*` flags.
    pub flags: u64,
    /// File system specific options, comma-separated.
    pub data: CString,
    /// Copy what the target holds into the new tmpfs (`tmpcopyup`).
    pub copy_up: bool,
    /// tmpfs without its own `mode=`: takes the mode of the directory it covers.
    pub inherit_mode: bool,
    /// Becomes read-only once the container's /dev is populated.
    pub late_readonly: bool,
    /// A sysfs that the kernel may refuse, since the container has a user namespace but not the
    /// network namespace: then the host's /sys takes its place, with these attributes throughout.
    pub host_sysfs: Option<MountAttr>,
    /// SELinux label for the root of a file system that is there before it is mounted: one that has
    /// labels already takes no other by `context=`.
    pub label: Option<CString>,
}

/// A bind mount.
#[derive(Debug)]
pub struct Bind {
    /// Absolute path outside.
    pub source: CString,
    /// With all mounts below.
    pub recursive: bool,
    /// Ids as seen through a user namespace.
    pub idmap: Option<Idmap>,
}

/// Which user namespace maps the ids of a bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idmap {
    /// Mappings of the mount; `None` means the container's own.
    pub mappings: Option<(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>)>,
    /// `ridmap`: also the mounts below.
    pub recursive: bool,
}

/// Attributes that a remount sets anew; access times are not among them.
const BIND_ATTRIBUTES: u64 =
    attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW;

/// Facts about the container that decide how its mounts are made.
#[derive(Debug, Clone, Copy)]
pub struct MountContext<'a> {
    /// Relative sources of bind mounts start here.
    pub bundle: &'a Path,
    /// Absolute path of the root file system: a destination may be given as a path below it.
    pub root: &'a Path,
    /// SELinux context for new file systems.
    pub label: Option<&'a str>,
    /// The mount option that carries it.
    pub label_option: &'static str,
    /// The container has a user namespace, but shares somebody else's network namespace.
    pub foreign_network: bool,
}

/// Turns `mounts` into steps.
pub fn plan(mounts: &[Mount], context: &MountContext<'_>) -> Result<Vec<MountStep>> {
    mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| {
            step(index, mount, context).map_err(|e| e.context(format!("mounts[{index}]")))
        })
        .collect()
}

fn step(index: usize, mount: &Mount, context: &MountContext<'_>) -> Result<MountStep> {
    // A relative destination is taken from / (runtime-spec before 1.1 allowed it).
    let inside = mount.destination().strip_prefix(context.root);
    let inside = inside.ok().filter(|_| context.root != Path::new("/"));
    let destination = Path::new("/").join(inside.unwrap_or(mount.destination()));
    let inside_proc = check_proc(&destination, mount, context)?;
    let words = mount.options().as_deref().unwrap_or_default();
    let options = parse_options(words);
    let fstype = mount.typ().as_deref().unwrap_or_default();
    let is_bind = fstype == "bind" || options.flags & libc::MS_BIND != 0;
    let mut attr = attributes(options.flags, options.cleared);
    let mut unnamed = 0;
    let kind = if is_bind {
        // mount(8) would do it in two steps, the second of which sets all flags anew; without any
        // flag there is no second step.
        if (options.flags & !(libc::MS_BIND | libc::MS_REC)) | options.cleared != 0 {
            unnamed = BIND_ATTRIBUTES & !attr.set & !attr.clear;
        }
        MountKind::Bind(bind(mount, &options, context)?)
    } else {
        let filesystem = filesystem(mount, &options, &destination, context)?;
        attr = MountAttr::default();
        match fstype {
            "cgroup" | "cgroup2" => {
                attr = attributes(options.flags, options.cleared);
                MountKind::Cgroup
            }
            _ if options.flags & libc::MS_REMOUNT != 0 => MountKind::Remount(filesystem),
            "" => {
                return Err(Error::invalid(
                    "type is missing and options name no bind mount",
                ));
            }
            _ => MountKind::Filesystem(filesystem),
        }
    };
    if options.copy_up && fstype != "tmpfs" {
        return Err(Error::invalid("option tmpcopyup needs type tmpfs"));
    }
    Ok(MountStep {
        index,
        target: c_path(&destination)?,
        kind,
        attr,
        inside_proc,
        unnamed,
        recursive: options.recursive,
        propagation: options.propagation,
    })
}

/// Files of /proc that engines cover with files that tell a container of its limits; also what criu
/// needs. Everything else below /proc is the kernel's: a file in its place could mislead what we, or
/// the container's own tools, write to the kernel (CVE-2019-16884, CVE-2025-52881).
const PROC_FILES: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// Whether the destination is one of [`PROC_FILES`]; an error when it is another place below /proc,
/// or /proc itself for something that is no procfs.
fn check_proc(destination: &Path, mount: &Mount, context: &MountContext<'_>) -> Result<bool> {
    let clean = lexical(destination);
    let Ok(below) = clean.strip_prefix("/proc") else {
        return Ok(false);
    };
    if below.as_os_str().is_empty() {
        let source = mount
            .source()
            .as_ref()
            .map(|s| lexical(&context.bundle.join(s)));
        let bound = source.is_some_and(|s| s == Path::new("/proc"));
        if bound || matches!(mount.typ().as_deref(), Some("proc")) {
            return Ok(bound);
        }
        return Err(Error::invalid(format!(
            "{:?} cannot be mounted because it is not of type proc",
            mount.destination()
        )));
    }
    if PROC_FILES.iter().any(|file| clean == Path::new(file)) {
        return Ok(true);
    }
    Err(Error::invalid(format!(
        "{:?} cannot be mounted because it is inside /proc",
        mount.destination()
    )))
}

/// Without `.` and `..`, as text.
fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

fn bind(mount: &Mount, options: &Options, context: &MountContext<'_>) -> Result<Bind> {
    let source = mount.source().clone().unwrap_or_default();
    if source.as_os_str().is_empty() {
        return Err(Error::invalid("source of a bind mount is missing"));
    }
    let source: PathBuf = context.bundle.join(source);
    let mappings = match (mount.uid_mappings(), mount.gid_mappings()) {
        (Some(uids), Some(gids)) => Some((uids.clone(), gids.clone())),
        (None, None) => None,
        _ => {
            return Err(Error::invalid(
                "uidMappings and gidMappings must be given together",
            ));
        }
    };
    let idmap = match (options.idmap, mappings) {
        (None, None) => None,
        (recursive, mappings) => Some(Idmap {
            mappings,
            recursive: recursive.unwrap_or(false),
        }),
    };
    Ok(Bind {
        source: c_path(&source)?,
        recursive: options.flags & libc::MS_REC != 0,
        idmap,
    })
}

fn filesystem(
    mount: &Mount,
    options: &Options,
    destination: &Path,
    context: &MountContext<'_>,
) -> Result<Filesystem> {
    let fstype = mount.typ().as_deref().unwrap_or_default();
    let mut data = options.data.clone();
    let mut afterwards = None;
    match (fstype, context.label.filter(|l| !l.is_empty())) {
        ("proc" | "sysfs", _) | (_, None) => {}
        // An ipc namespace is born with its own.
        ("mqueue", Some(label)) => afterwards = Some(c_string(label)?),
        (_, Some(label)) => data.push(format!("{}=\"{label}\"", context.label_option)),
    }
    let source = match mount.source() {
        Some(source) if !source.as_os_str().is_empty() => c_path(source)?,
        _ => c_string(fstype)?,
    };
    let tmpfs = fstype == "tmpfs";
    // A read-only tmpfs on /dev must first take the devices, and tmpcopyup the copies.
    let late = options.flags & libc::MS_RDONLY != 0
        && tmpfs
        && (options.copy_up || destination == Path::new("/dev"));
    Ok(Filesystem {
        fstype: c_string(fstype)?,
        source,
        flags: if late {
            options.flags & !libc::MS_RDONLY
        } else {
            options.flags
        },
        data: c_string(&data.join(","))?,
        copy_up: options.copy_up,
        inherit_mode: tmpfs && !options.data.iter().any(|o| o.starts_with("mode=")),
        late_readonly: late,
        host_sysfs: (fstype == "sysfs" && context.foreign_network).then(|| MountAttr {
            set: attributes(options.flags, 0).set & !(attr::ATIME | attr::NODIRATIME),
            ..MountAttr::default()
        }),
        label: afterwards,
    })
}

/// Where the host's /sys shows cgroups that are not the container's, unless something is mounted
/// there: to be masked.
pub fn exposed_cgroups(steps: &[MountStep]) -> Option<CString> {
    let cgroup = Path::new("/sys/fs/cgroup");
    let target = |step: &MountStep| lexical(Path::new(OsStr::from_bytes(step.target.to_bytes())));
    let is_host = |step: &MountStep| matches!(&step.kind, MountKind::Filesystem(fs) if fs.host_sysfs.is_some());
    let covered = || steps.iter().any(|step| target(step).starts_with(cgroup));
    let mut hosts = steps.iter().filter(|step| is_host(step));
    (hosts.any(|step| target(step) == Path::new("/sys")) && !covered())
        .then(|| c"/sys/fs/cgroup".to_owned())
}
