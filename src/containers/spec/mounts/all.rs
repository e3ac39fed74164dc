//! The mounts of a configuration: those of every container, and those that were asked for.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Mount, Source, VolumePlace};
use crate::containers::volumes;

/// How the file systems of every container are to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Base {
    /// All of /sys can be written to.
    pub(crate) privileged: bool,
    /// Bytes of /dev/shm; none: the host's, if `host_ipc`.
    pub(crate) shm: Option<i64>,
    /// The host's System V and POSIX objects.
    pub(crate) host_ipc: bool,
    /// There may be no new sysfs: a user namespace without a network namespace of its own.
    pub(crate) bind_sys: bool,
    /// There may be no new proc: the same without a pid namespace.
    pub(crate) bind_proc: bool,
    /// There is a user namespace, which has no rights over the host's objects.
    pub(crate) mapped: bool,
    /// The group of terminals is mapped.
    pub(crate) terminal_group: bool,
}

/// All mounts of a configuration, in the order in which they are made: what a person asks for takes the
/// place of what would be there, and a directory comes before what is below it.
pub(crate) fn all(
    base: &Base,
    files: &[(&str, PathBuf)],
    asked: &[Mount],
    deep: bool,
    place: &VolumePlace,
) -> Vec<Value> {
    let taken = |destination: &str| asked.iter().any(|mount| mount.destination == destination);
    let mut mounts = defaults(base);
    mounts.retain(|mount| {
        mount["destination"]
            .as_str()
            .is_none_or(|path| !taken(path))
    });
    let mut more: Vec<(usize, Value)> = Vec::new();
    for (destination, source) in files.iter().filter(|(path, _)| !taken(path)) {
        let options = ["bind", "rprivate"];
        more.push((depth(destination), bind(destination, source, &options)));
    }
    for mount in asked {
        let mut options = mount.options.clone();
        if mount.read_only && deep {
            options.push("rro".into());
        }
        let value = match &mount.source {
            Source::Host(source) => bind(&mount.destination, source, &options),
            Source::Volume(volume) => {
                if place.mapped {
                    options.push("idmap".into());
                }
                let name = volume.name.as_deref().unwrap_or_default();
                let source = volumes::data(&place.directory, name);
                bind(&mount.destination, &source, &options)
            }
            Source::Memory => {
                json!({"destination": mount.destination, "type": "tmpfs", "source": "tmpfs",
                           "options": options})
            }
        };
        more.push((depth(&mount.destination), value));
    }
    more.sort_by_key(|(depth, _)| *depth);
    mounts.extend(more.into_iter().map(|(_, mount)| mount));
    mounts
}

fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

fn bind<S: AsRef<str> + serde::Serialize>(
    destination: &str,
    source: &Path,
    options: &[S],
) -> Value {
    json!({"destination": destination, "type": "bind", "source": source, "options": options})
}

fn defaults(base: &Base) -> Vec<Value> {
    let entry = |destination: &str, kind: &str, source: &str, options: Vec<String>| json!({"destination": destination, "type": kind, "source": source, "options": options});
    let words = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    let access = if base.privileged { "rw" } else { "ro" };
    let safe = "nosuid,noexec,nodev";
    let mut terminal = words("nosuid,noexec,newinstance,ptmxmode=0666,mode=0620");
    if base.terminal_group {
        terminal.push("gid=5".into());
    }
    let proc = match base.bind_proc {
        true => entry(
            "/proc",
            "bind",
            "/proc",
            words(&format!("rbind,rslave,{safe}")),
        ),
        false => entry("/proc", "proc", "proc", words(safe)),
    };
    let mut mounts = vec![
        proc,
        entry(
            "/dev",
            "tmpfs",
            "tmpfs",
            words("nosuid,strictatime,mode=755,size=65536k"),
        ),
        entry("/dev/pts", "devpts", "devpts", terminal),
    ];
    let sys = words(&format!("{safe},{access}"));
    mounts.push(match base.bind_sys {
        true => {
            let options = [vec!["rbind".to_owned(), "rslave".into()], sys.clone()].concat();
            entry("/sys", "bind", "/sys", options)
        }
        false => entry("/sys", "sysfs", "sysfs", sys.clone()),
    });
    mounts.push(entry("/sys/fs/cgroup", "cgroup", "cgroup", sys));
    if base.host_ipc {
        // The file system shows what is in the namespace of who mounts it.
        if !base.mapped {
            mounts.push(entry("/dev/mqueue", "mqueue", "mqueue", words(safe)));
        }
        let options = words("rbind,nosuid,noexec,nodev,rprivate");
        mounts.push(entry("/dev/shm", "bind", "/dev/shm", options));
    } else {
        mounts.push(entry("/dev/mqueue", "mqueue", "mqueue", words(safe)));
        if let Some(size) = base.shm {
            let options = words(&format!("{safe},mode=1777,size={size}"));
            mounts.push(entry("/dev/shm", "tmpfs", "shm", options));
        }
    }
    mounts
}
