//! `mounts` of config.json -> finished mount steps (runtime-spec config.md, "Mounts"; option names of
//! mount(8) and runtime-spec config-linux.md, "Mount options"). Pure.
//!
//! Options that no table here knows are file system data and go to the kernel as they are.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Mount};

use crate::error::{Error, Result};
use crate::sys::mount::{MountAttr, attr};

use super::{c_path, c_string};

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

/// Everything that a list of option words says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `MS_*` flags to set.
    pub flags: u64,
    /// `MS_*` flags to clear.
    pub cleared: u64,
    /// Attributes with the recursive forms.
    pub recursive: MountAttr,
    /// Propagation changes in order.
    pub propagation: Vec<u64>,
    /// What remains, for the file system.
    pub data: Vec<String>,
    /// `tmpcopyup`.
    pub copy_up: bool,
    /// `idmap` (false) or `ridmap` (true).
    pub idmap: Option<bool>,
}

enum Meaning {
    Set(u64),
    Clear(u64),
    Propagation(u64),
    /// Recursive attribute: (set, clear).
    Recursive(u64, u64),
    CopyUp,
    Idmap(bool),
    Nothing,
}

use Meaning::{Clear, Nothing, Propagation, Recursive, Set};

/// All option words that are not file system data, sorted by name; `features` prints the names.
const OPTIONS: &[(&str, Meaning)] = &[
    ("acl", Set(libc::MS_POSIXACL)),
    ("async", Clear(libc::MS_SYNCHRONOUS)),
    ("atime", Clear(libc::MS_NOATIME)),
    ("bind", Set(libc::MS_BIND)),
    ("defaults", Nothing),
    ("dev", Clear(libc::MS_NODEV)),
    ("diratime", Clear(libc::MS_NODIRATIME)),
    ("dirsync", Set(libc::MS_DIRSYNC)),
    ("exec", Clear(libc::MS_NOEXEC)),
    ("idmap", Meaning::Idmap(false)),
    ("iversion", Set(libc::MS_I_VERSION)),
    ("lazytime", Set(libc::MS_LAZYTIME)),
    ("loud", Clear(libc::MS_SILENT)),
    ("mand", Set(libc::MS_MANDLOCK)),
    ("noacl", Clear(libc::MS_POSIXACL)),
    ("noatime", Set(libc::MS_NOATIME)),
    ("nodev", Set(libc::MS_NODEV)),
    ("nodiratime", Set(libc::MS_NODIRATIME)),
    ("noexec", Set(libc::MS_NOEXEC)),
    ("noiversion", Clear(libc::MS_I_VERSION)),
    ("nolazytime", Clear(libc::MS_LAZYTIME)),
    ("nomand", Clear(libc::MS_MANDLOCK)),
    ("norelatime", Clear(libc::MS_RELATIME)),
    ("nostrictatime", Clear(libc::MS_STRICTATIME)),
    ("nosuid", Set(libc::MS_NOSUID)),
    ("nosymfollow", Set(libc::MS_NOSYMFOLLOW)),
    ("private", Propagation(libc::MS_PRIVATE)),
    ("ratime", Recursive(0, attr::ATIME)),
    ("rbind", Set(libc::MS_BIND | libc::MS_REC)),
    ("rdev", Recursive(0, attr::NODEV)),
    ("rdiratime", Recursive(0, attr::NODIRATIME)),
    ("relatime", Set(libc::MS_RELATIME)),
    ("remount", Set(libc::MS_REMOUNT)),
    ("rexec", Recursive(0, attr::NOEXEC)),
    ("ridmap", Meaning::Idmap(true)),
    ("rnoatime", Recursive(attr::NOATIME, attr::ATIME)),
    ("rnodev", Recursive(attr::NODEV, 0)),
    ("rnodiratime", Recursive(attr::NODIRATIME, 0)),
    ("rnoexec", Recursive(attr::NOEXEC, 0)),
    ("rnorelatime", Recursive(0, attr::ATIME)),
    ("rnostrictatime", Recursive(0, attr::ATIME)),
    ("rnosuid", Recursive(attr::NOSUID, 0)),
    ("rnosymfollow", Recursive(attr::NOSYMFOLLOW, 0)),
    ("ro", Set(libc::MS_RDONLY)),
    ("rprivate", Propagation(libc::MS_PRIVATE | libc::MS_REC)),
    ("rrelatime", Recursive(0, attr::ATIME)),
    ("rro", Recursive(attr::RDONLY, 0)),
    ("rrw", Recursive(0, attr::RDONLY)),
    ("rshared", Propagation(libc::MS_SHARED | libc::MS_REC)),
    ("rslave", Propagation(libc::MS_SLAVE | libc::MS_REC)),
    ("rstrictatime", Recursive(attr::STRICTATIME, attr::ATIME)),
    ("rsuid", Recursive(0, attr::NOSUID)),
    ("rsymfollow", Recursive(0, attr::NOSYMFOLLOW)),
    (
        "runbindable",
        Propagation(libc::MS_UNBINDABLE | libc::MS_REC),
    ),
    ("rw", Clear(libc::MS_RDONLY)),
    ("shared", Propagation(libc::MS_SHARED)),
    ("silent", Set(libc::MS_SILENT)),
    ("slave", Propagation(libc::MS_SLAVE)),
    ("strictatime", Set(libc::MS_STRICTATIME)),
    ("suid", Clear(libc::MS_NOSUID)),
    ("symfollow", Clear(libc::MS_NOSYMFOLLOW)),
    ("sync", Set(libc::MS_SYNCHRONOUS)),
    ("tmpcopyup", Meaning::CopyUp),
    ("unbindable", Propagation(libc::MS_UNBINDABLE)),
];

/// Names of all mount options with a meaning of their own, sorted.
pub fn option_names() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|(name, _)| *name)
}

/// Sorts option words into flags, attributes and data. A later word overrides an earlier one.
pub fn parse_options<S: AsRef<str>>(words: &[S]) -> Options {
    let mut options = Options::default();
    for word in words {
        let word = word.as_ref();
        let Ok(found) = OPTIONS.binary_search_by(|(name, _)| (*name).cmp(word)) else {
            options.data.push(word.to_owned());
            continue;
        };
        match OPTIONS[found].1 {
            Set(flag) => {
                if flag & (libc::MS_NOATIME | libc::MS_RELATIME | libc::MS_STRICTATIME) != 0 {
                    options.flags &= !(libc::MS_NOATIME | libc::MS_RELATIME | libc::MS_STRICTATIME);
                }
                options.flags |= flag;
                options.cleared &= !flag;
            }
            Clear(flag) => {
                options.flags &= !flag;
                options.cleared |= flag;
            }
            Propagation(flag) => options.propagation.push(flag),
            Recursive(set, clear) => {
                options.recursive.clear = (options.recursive.clear & !set) | clear;
                options.recursive.set = (options.recursive.set & !clear) | set;
            }
            Meaning::CopyUp => options.copy_up = true,
            Meaning::Idmap(recursive) => options.idmap = Some(recursive),
            Nothing => {}
        }
    }
    options
}

/// Attributes that a remount sets anew; access times are not among them.
const BIND_ATTRIBUTES: u64 =
    attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC | attr::NOSYMFOLLOW;

const FLAG_ATTRIBUTES: &[(u64, u64)] = &[
    (libc::MS_RDONLY, attr::RDONLY),
    (libc::MS_NOSUID, attr::NOSUID),
    (libc::MS_NODEV, attr::NODEV),
    (libc::MS_NOEXEC, attr::NOEXEC),
    (libc::MS_NODIRATIME, attr::NODIRATIME),
    (libc::MS_NOSYMFOLLOW, attr::NOSYMFOLLOW),
];

/// The per-mount attributes that `MS_*` flags stand for: what a bind mount can change. Flags that
/// were not named keep the value of the mount that is bound.
pub fn attributes(set: u64, cleared: u64) -> MountAttr {
    let mut result = MountAttr::default();
    for (flag, attribute) in FLAG_ATTRIBUTES {
        if set & flag != 0 {
            result.set |= attribute;
        } else if cleared & flag != 0 {
            result.clear |= attribute;
        }
    }
    if set & libc::MS_NOATIME != 0 {
        result.set |= attr::NOATIME;
    } else if set & libc::MS_STRICTATIME != 0 {
        result.set |= attr::STRICTATIME;
    }
    // Only setting one of the modes changes the mode: that is how remounting behaves.
    let atime = libc::MS_NOATIME | libc::MS_STRICTATIME | libc::MS_RELATIME | libc::MS_NODIRATIME;
    if set & atime != 0 {
        result.clear |= attr::ATIME | (attr::NODIRATIME & !result.set);
    } else {
        result.clear &= !attr::NODIRATIME;
    }
    result
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Options {
        parse_options(
            &text
                .split(',')
                .filter(|w| !w.is_empty())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn table_is_sorted_for_the_binary_search() {
        assert!(OPTIONS.is_sorted_by_key(|(name, _)| *name));
    }

    #[test]
    fn later_words_override_earlier_ones() {
        assert_eq!(words("ro,rw").flags, 0);
        assert_eq!(words("ro,rw").cleared, libc::MS_RDONLY);
        assert_eq!(words("rw,ro").flags, libc::MS_RDONLY);
        assert_eq!(words("rw,ro").cleared, 0);
        assert_eq!(words("noatime,strictatime").flags, libc::MS_STRICTATIME);
        assert_eq!(
            words("rro,rrw").recursive,
            MountAttr {
                clear: attr::RDONLY,
                ..Default::default()
            }
        );
    }

    #[test]
    fn unknown_words_are_data() {
        let options = words("nosuid,size=64k,mode=1777");
        assert_eq!(options.data, ["size=64k", "mode=1777"]);
        assert_eq!(options.flags, libc::MS_NOSUID);
    }

    #[test]
    fn access_time_modes_replace_each_other() {
        let noatime = attributes(libc::MS_NOATIME, 0);
        let all = attr::ATIME | attr::NODIRATIME;
        assert_eq!((noatime.set, noatime.clear), (attr::NOATIME, all));
        let relatime = attributes(libc::MS_RELATIME, 0);
        assert_eq!((relatime.set, relatime.clear), (0, all));
        assert!(attributes(0, libc::MS_NOATIME | libc::MS_NODIRATIME).is_empty());
        assert!(attributes(0, 0).is_empty());
    }

    fn one(json: serde_json::Value) -> Result<MountStep> {
        labelled(json, None)
    }

    fn labelled(json: serde_json::Value, label: Option<&str>) -> Result<MountStep> {
        let mount: Mount = serde_json::from_value(json).unwrap();
        let context = MountContext {
            bundle: Path::new("/bundle"),
            root: Path::new("/bundle/rootfs"),
            label,
            label_option: "context",
            foreign_network: true,
        };
        step(0, &mount, &context)
    }

    #[test]
    fn each_type_gets_its_label_in_its_way() {
        for (fstype, data, label) in [
            ("tmpfs", c"size=1,context=\"u:r:t:s0:c1,c2\"", None),
            ("mqueue", c"size=1", Some(c"u:r:t:s0:c1,c2".to_owned())),
            ("proc", c"size=1", None),
            ("sysfs", c"size=1", None),
        ] {
            let destination = if fstype == "proc" { "/proc" } else { "/x" };
            let mount = serde_json::json!({
                "destination": destination, "type": fstype, "options": ["size=1"]
            });
            let MountKind::Filesystem(fs) = labelled(mount, Some("u:r:t:s0:c1,c2")).unwrap().kind
            else {
                panic!("not a file system")
            };
            assert_eq!((fs.data.as_c_str(), fs.label), (data, label), "{fstype}");
        }
    }

    #[test]
    fn relative_sources_start_at_the_bundle() {
        let step = one(serde_json::json!({
            "destination": "/data", "source": "vol", "options": ["rbind", "ro"]
        }))
        .unwrap();
        let MountKind::Bind(bind) = step.kind else {
            panic!("not a bind mount")
        };
        assert_eq!(bind.source.as_c_str(), c"/bundle/vol");
        assert!(bind.recursive);
        assert_eq!(step.attr.set, attr::RDONLY);
    }

    #[test]
    fn cgroups_of_the_host_are_masked() {
        let sysfs = || one(serde_json::json!({"destination": "/sys/", "type": "sysfs"})).unwrap();
        let at =
            |path: &str| one(serde_json::json!({"destination": path, "type": "tmpfs"})).unwrap();
        assert_eq!(
            exposed_cgroups(&[sysfs()]).as_deref(),
            Some(c"/sys/fs/cgroup")
        );
        assert!(exposed_cgroups(&[sysfs(), at("/sys/fs")]).is_some());
        for covered in ["/sys/fs/cgroup", "sys/fs/../fs/cgroup/"] {
            assert_eq!(exposed_cgroups(&[sysfs(), at(covered)]), None, "{covered}");
        }
        assert_eq!(exposed_cgroups(&[at("/sys")]), None);
    }

    #[test]
    fn labels_are_carried_by_the_option_asked_for() {
        let context = MountContext {
            bundle: Path::new("/bundle"),
            root: Path::new("/bundle/rootfs"),
            label: Some("u:r:t:s0:c1,c2"),
            label_option: "rootcontext",
            foreign_network: false,
        };
        for (kind, labelled) in [("tmpfs", true), ("proc", false)] {
            let json = serde_json::json!({"destination": "/a", "type": kind, "source": kind});
            let mount: Mount = serde_json::from_value(json).unwrap();
            let MountKind::Filesystem(fs) = step(0, &mount, &context).unwrap().kind else {
                panic!("not a file system")
            };
            let data = format!("{:?}", fs.data);
            assert_eq!(data.contains("rootcontext="), labelled, "{data}");
        }
    }

    #[test]
    fn readonly_dev_is_postponed() {
        let step = one(serde_json::json!({
            "destination": "/dev", "type": "tmpfs", "options": ["ro", "size=64k"]
        }))
        .unwrap();
        let MountKind::Filesystem(fs) = step.kind else {
            panic!("not a file system")
        };
        assert!(fs.late_readonly && fs.flags & libc::MS_RDONLY == 0 && fs.inherit_mode);
    }

    #[test]
    fn only_known_files_below_proc_are_covered() {
        for destination in ["/proc/cpuinfo", "/x/../proc/./uptime", "/proc/net/dev"] {
            let json =
                serde_json::json!({"destination": destination, "type": "bind", "source": "/a"});
            assert!(one(json).unwrap().inside_proc, "{destination}");
        }
        for destination in [
            "/proc",
            "/proc/self/attr/exec",
            "/proc/../proc/sys",
            "/proc/1",
        ] {
            let json =
                serde_json::json!({"destination": destination, "type": "bind", "source": "/a"});
            assert!(one(json).is_err(), "{destination}");
        }
        let host = serde_json::json!({"destination": "/proc", "type": "bind", "source": "/proc"});
        assert!(one(host).is_ok());
        let elsewhere =
            serde_json::json!({"destination": "/process", "type": "bind", "source": "/a"});
        assert!(!one(elsewhere).unwrap().inside_proc);
    }

    #[test]
    fn contradictions_are_refused() {
        for json in [
            serde_json::json!({"destination": "/a", "type": "bind"}),
            serde_json::json!({"destination": "/a"}),
            serde_json::json!({"destination": "/a", "type": "proc", "options": ["tmpcopyup"]}),
            serde_json::json!({"destination": "/a", "type": "bind", "source": "/b",
                "uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}),
        ] {
            assert!(one(json.clone()).is_err(), "{json}");
        }
    }
}
