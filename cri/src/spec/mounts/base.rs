//! The mounts of every container: kernel's file systems, and the pod's files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::extents;
use crate::spec::IdMap;

/// The group of terminals, in every distribution.
const TERMINALS: u32 = 5;

/// What the mounts of every container depend on.
pub(in crate::spec) struct Base<'a> {
    /// All of /sys, and its own cgroup, can be written to.
    pub(in crate::spec) privileged: bool,
    /// The pod has an IPC namespace of its own.
    pub(in crate::spec) ipc: bool,
    /// The pod has a network namespace of its own.
    pub(in crate::spec) network: bool,
    /// Ids of the pod.
    pub(in crate::spec) map: Option<IdMap>,
    /// The root cannot be written to, nor the pod's files.
    pub(in crate::spec) read_only: bool,
    /// Where the pod's files are.
    pub(in crate::spec) directory: &'a Path,
}

/// A file or directory of ours that is bound.
pub(super) struct File {
    pub(super) destination: String,
    pub(super) source: PathBuf,
    options: Vec<&'static str>,
    map: Option<IdMap>,
    /// It is the pod's, and gets its label.
    pub(super) relabel: bool,
}

impl File {
    pub(super) fn value(&self) -> Value {
        let mut value = json!({"destination": self.destination, "type": "bind", "source": self.source,
                               "options": self.options});
        if let Some(map) = self.map {
            value["uidMappings"] = json!(extents(map));
            value["gidMappings"] = json!(extents(map));
        }
        value
    }
}

impl Base<'_> {
    /// Of the kernel.
    pub(super) fn file_systems(&self) -> Vec<Value> {
        let entry = |destination: &str, kind: &str, source: &str, options: &str| {
            let options: Vec<&str> = options.split(',').collect();
            json!({"destination": destination, "type": kind, "source": source, "options": options})
        };
        let access = if self.privileged { "rw" } else { "ro" };
        let safe = "nosuid,noexec,nodev";
        let mut terminals = "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620".to_owned();
        if self.map.is_none_or(|map| map.has(TERMINALS)) {
            terminals.push_str(&format!(",gid={TERMINALS}"));
        }
        // Of somebody else's network root of a user namespace may not make a new one.
        let sys = match self.map.is_some() && !self.network {
            true => entry(
                "/sys",
                "bind",
                "/sys",
                &format!("rbind,rprivate,rro,{safe}"),
            ),
            false => entry("/sys", "sysfs", "sysfs", &format!("{safe},{access}")),
        };
        vec![
            entry("/proc", "proc", "proc", safe),
            entry(
                "/dev",
                "tmpfs",
                "tmpfs",
                "nosuid,strictatime,mode=755,size=65536k",
            ),
            entry("/dev/pts", "devpts", "devpts", &terminals),
            entry("/dev/mqueue", "mqueue", "mqueue", safe),
            sys,
            entry(
                "/sys/fs/cgroup",
                "cgroup",
                "cgroup",
                &format!("{safe},relatime,{access}"),
            ),
        ]
    }

    /// Of the pod, and the image's volumes.
    pub(super) fn files(&self, volumes: &BTreeMap<String, PathBuf>) -> Vec<File> {
        let mut all = Vec::new();
        for name in ["hostname", "hosts", "resolv.conf"] {
            let access = if self.read_only { "ro" } else { "rw" };
            all.push(File {
                destination: format!("/etc/{name}"),
                source: self.directory.join(name),
                options: vec!["rbind", "rprivate", access],
                map: self.map,
                relabel: true,
            });
        }
        all.push(File {
            destination: "/dev/shm".into(),
            source: match self.ipc {
                true => self.directory.join("shm"),
                false => "/dev/shm".into(),
            },
            options: vec!["rbind", "nosuid", "noexec", "nodev", "rprivate"],
            // Everybody may write there, so nobody needs to own it.
            map: None,
            relabel: self.ipc,
        });
        for (destination, source) in volumes {
            all.push(File {
                destination: destination.clone(),
                source: source.clone(),
                options: vec!["rbind", "rprivate", "rw"],
                map: self.map,
                relabel: true,
            });
        }
        all
    }
}
