//! `linux.intelRdt`: cache and memory-bandwidth groups of the resctrl filesystem.
//!
//! Runtime specification, config-linux.md, "IntelRdt"; kernel, Documentation/filesystems/resctrl.rst.
//! Owns the way from the configuration to a group: finding the filesystem (the administrator mounts
//! it), the checks, making a group, its schemata, its monitoring group, its statistics, its removal.
//! The root directory is a parameter of everything, so that all of it is tested on plain directories.
//!
//! A group named by `closID` belongs to the administrator: it is joined, and stays when the container
//! goes. Without `closID` the group has the container's name and is removed with it, if made by us.

use std::fmt::Display;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};

/// A mounted resctrl filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resctrl {
    root: PathBuf,
}

/// The group of one container; recorded in its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Directory of the class of service.
    pub path: PathBuf,
    /// Directory of the container's monitoring group, if it has one.
    pub monitor: Option<PathBuf>,
    /// The class of service goes with the container.
    pub remove: bool,
}

impl Resctrl {
    /// The filesystem at a known place.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The filesystem, wherever it is mounted.
    pub fn find() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .context(|| "cannot read /proc/self/mountinfo")?;
        find_mount(&mounts).map(Self::at).ok_or_else(|| {
            Error::unsupported("intelRdt is specified in config, but Intel RDT is not enabled")
        })
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn has(&self, feature: &str) -> bool {
        self.root.join("info").join(feature).is_dir()
    }

    /// Checks the configuration before anything is made.
    pub fn check(&self, rdt: &LinuxIntelRdt) -> Result<()> {
        let clos = rdt.clos_id().as_deref().unwrap_or("");
        if clos == "." || clos == ".." || (clos.len() > 1 && clos.contains('/')) {
            return Err(Error::invalid(format!("invalid intelRdt.ClosID {clos:?}")));
        }
        for (schema, property, feature, name) in [
            (rdt.l3_cache_schema(), "l3CacheSchema", "L3", "CAT"),
            (rdt.mem_bw_schema(), "memBwSchema", "MB", "MBA"),
        ] {
            if !text(schema).is_empty() && !self.has(feature) {
                return Err(Error::unsupported(format!(
                    "intelRdt.{property} is specified in config, but Intel RDT/{name} is not enabled"
                )));
            }
        }
        Ok(())
    }

    /// Makes or joins the container's group and moves a process into it.
    ///
    /// What was made is removed again when a later step fails.
    pub fn join(&self, rdt: &LinuxIntelRdt, id: &str, pid: u32) -> Result<Group> {
        let clos = text(rdt.clos_id());
        let path = match clos {
            "" => self.root.join(id),
            "/" => self.root.clone(),
            clos => self.root.join(clos),
        };
        let schemata = schemata(rdt);
        if !clos.is_empty() && schemata.is_empty() && !path.is_dir() {
            return Err(Error::invalid(format!(
                "clos dir not accessible (must be pre-created when schemata, l3CacheSchema and \
                 memBwSchema are empty): {}",
                path.display()
            )));
        }
        let monitored = rdt.enable_monitoring().unwrap_or(false);
        let monitor = monitored.then(|| path.join("mon_groups").join(id));
        let made = self.make(&path)?;
        let mut made_monitor = false;
        let filled = (|| {
            self.write(&path.join("tasks"), &pid.to_string())?;
            if let Some(monitor) = &monitor {
                made_monitor = self.make(monitor)?;
                self.write(&monitor.join("tasks"), &pid.to_string())?;
            }
            if schemata.is_empty() {
                return Ok(());
            }
            self.write(&path.join("schemata"), &schemata)
        })();
        let remove = made && clos.is_empty();
        match filled {
            Ok(()) => Ok(Group {
                path,
                monitor,
                remove,
            }),
            Err(error) => {
                // The first error is the one to tell; what cannot be removed now is not ours any more.
                if let Some(monitor) = monitor.filter(|_| made_monitor) {
                    let _ = fs::remove_dir(monitor);
                }
                if made {
                    let _ = fs::remove_dir(path);
                }
                Err(error)
            }
        }
    }

    /// Changes the schemata of a container that runs.
    pub fn update(&self, group: &Group, rdt: &LinuxIntelRdt) -> Result<()> {
        self.check(rdt)?;
        match schemata(rdt) {
            lines if lines.is_empty() => Ok(()),
            lines => self.write(&group.path.join("schemata"), &lines),
        }
    }

    /// Moves another process of the container into its group.
    pub fn add(&self, group: &Group, pid: u32) -> Result<()> {
        let pid = pid.to_string();
        self.write(&group.path.join("tasks"), &pid)?;
        group
            .monitor
            .iter()
            .try_for_each(|m| self.write(&m.join("tasks"), &pid))
    }

    /// Makes a directory; `false` if it is there already.
    fn make(&self, path: &Path) -> Result<bool> {
        match fs::create_dir(path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(self.explain(e, format!("cannot make {}", path.display()))),
        }
    }

    /// Writes in one call: the kernel takes every write as a command of its own.
    fn write(&self, path: &Path, value: &str) -> Result<()> {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
            .and_then(|mut file| file.write_all(value.as_bytes()))
            .map_err(|e| {
                let what = format!("intelrdt: cannot write {value:?} to {}", path.display());
                self.explain(e, what)
            })
    }

    /// Adds what the kernel says about its last refusal.
    fn explain(&self, error: io::Error, what: impl Display) -> Error {
        let error = Error::from(error);
        match self.read("info/last_cmd_status") {
            Ok(status) if !status.is_empty() => {
                error.context(format!("{what} (last_cmd_status: {status})"))
            }
            _ => error.context(what.to_string()),
        }
    }

    fn read(&self, file: &str) -> Result<String> {
        read(&self.root.join(file))
    }

    fn number(&self, file: &str) -> Result<u64> {
        number(&self.root.join(file))
    }

    /// Statistics of a group, as `events --stats` prints them.
    pub fn stats(&self, group: &Group) -> Result<Stats> {
        let root = self.read("schemata")?;
        let own = read(&group.path.join("schemata"))?;
        let line = |of: &str, resource: &str| {
            let found = of.lines().rfind(|l| l.contains(resource));
            found.map_or_else(String::new, |l| l.trim().to_string())
        };
        let mut stats = Stats {
            schemata: own.lines().map(str::to_string).collect(),
            ..Stats::default()
        };
        if self.has("L3") {
            stats.l3_cache_info = Some(L3CacheInfo {
                cbm_mask: self.read("info/L3/cbm_mask")?,
                min_cbm_bits: self.number("info/L3/min_cbm_bits")?,
                num_closids: self.number("info/L3/num_closids")?,
            });
            stats.l3_cache_schema_root = line(&root, "L3");
            stats.l3_cache_schema = line(&own, "L3");
        }
        if self.has("MB") {
            stats.mem_bw_info = Some(MemBwInfo {
                bandwidth_gran: self.number("info/MB/bandwidth_gran")?,
                delay_linear: self.number("info/MB/delay_linear")?,
                min_bandwidth: self.number("info/MB/min_bandwidth")?,
                num_closids: self.number("info/MB/num_closids")?,
            });
            stats.mem_bw_schema_root = line(&root, "MB");
            stats.mem_bw_schema = line(&own, "MB");
        }
        if self.has("L3_MON") {
            let features = self.read("info/L3_MON/mon_features")?;
            monitoring(group, &features, &mut stats)?;
        }
        Ok(stats)
    }
}

impl Group {
    /// Removes what was made for the container.
    pub fn destroy(&self) -> Result<()> {
        let gone = |path: &Path| match fs::remove_dir(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::from(e).context(format!("cannot remove {}", path.display())))
            }
            _ => Ok(()),
        };
        // A class of service takes its monitoring groups with it.
        match &self.monitor {
            _ if self.remove => gone(&self.path),
            Some(monitor) => gone(monitor),
            None => Ok(()),
        }
    }
}

fn text(of: &Option<String>) -> &str {
    of.as_deref().unwrap_or("")
}

/// What is written to the schemata file: one line per resource.
fn schemata(rdt: &LinuxIntelRdt) -> String {
    let mut lines = String::new();
    let listed = rdt.schemata().iter().flatten().map(String::as_str);
    for line in [text(rdt.l3_cache_schema()), text(rdt.mem_bw_schema())]
        .into_iter()
        .chain(listed)
    {
        if !line.is_empty() {
            lines.push_str(line);
            lines.push('\n');
        }
    }
    lines
}

/// The mount point of resctrl in a mountinfo file (proc(5)); its usual place is preferred.
fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    let mut found = None;
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        if after.split(' ').next() != Some("resctrl") {
            continue;
        }
        let Some(point) = before.split(' ').nth(4) else {
            continue;
        };
        if point == "/sys/fs/resctrl" {
            return Some(point.into());
        }
        found.get_or_insert_with(|| crate::mountinfo::unescaped(point));
    }
    found
}

fn read(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_string())
}

fn number(path: &Path) -> Result<u64> {
    let text = read(path)?;
    text.parse().map_err(|_| {
        Error::new(
            crate::error::ErrorKind::Corrupt,
            format!("cannot parse {text:?} of {} as a number", path.display()),
        )
    })
}

/// Reads the counters of every cache, in the order of their directories' names.
fn monitoring(group: &Group, features: &str, stats: &mut Stats) -> Result<()> {
    let has = |feature: &str| features.lines().any(|l| l == feature);
    let (total, local) = (has("mbm_total_bytes"), has("mbm_local_bytes"));
    let occupancy = has("llc_occupancy");
    if !(total || local || occupancy) {
        return Ok(());
    }
    let data = group
        .monitor
        .as_ref()
        .unwrap_or(&group.path)
        .join("mon_data");
    let reading = || format!("cannot read {}", data.display());
    let mut caches = Vec::new();
    for entry in fs::read_dir(&data).context(reading)? {
        let entry = entry.context(reading)?;
        if entry.file_type().context(reading)?.is_dir() {
            caches.push(entry.path());
        }
    }
    caches.sort();
    let counter = |wanted: bool, cache: &Path, file: &str| {
        if wanted {
            number(&cache.join(file))
        } else {
            Ok(0)
        }
    };
    let (mut mbm, mut cmt) = (Vec::new(), Vec::new());
    for cache in &caches {
        if total || local {
            mbm.push(MbmNumaNodeStats {
                mbm_total_bytes: counter(total, cache, "mbm_total_bytes")?,
                mbm_local_bytes: counter(local, cache, "mbm_local_bytes")?,
            });
        }
        if occupancy {
            let llc_occupancy = number(&cache.join("llc_occupancy"))?;
            cmt.push(CmtNumaNodeStats { llc_occupancy });
        }
    }
    stats.mbm_stats = Some(mbm);
    stats.cmt_stats = Some(cmt);
    Ok(())
}

/// Limits of cache allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct L3CacheInfo {
    /// Bits of the whole cache.
    pub cbm_mask: String,
    /// Least bits a group may have.
    pub min_cbm_bits: u64,
    /// Groups there can be.
    pub num_closids: u64,
}

/// Limits of bandwidth allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MemBwInfo {
    /// Step of percentages.
    pub bandwidth_gran: u64,
    /// 1: the scale is linear.
    pub delay_linear: u64,
    /// Least percentage.
    pub min_bandwidth: u64,
    /// Groups there can be.
    pub num_closids: u64,
}

/// Memory traffic of one cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MbmNumaNodeStats {
    /// To all memory.
    pub mbm_total_bytes: u64,
    /// To the cache's own memory node.
    pub mbm_local_bytes: u64,
}

/// Use of one cache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CmtNumaNodeStats {
    /// Bytes.
    pub llc_occupancy: u64,
}

/// Statistics of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Set where cache allocation is enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l3_cache_info: Option<L3CacheInfo>,
    /// The root group's line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema_root: String,
    /// The group's line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    /// Set where bandwidth allocation is enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bw_info: Option<MemBwInfo>,
    /// The root group's line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema_root: String,
    /// The group's line.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    /// All lines of the group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemata: Vec<String>,
    /// Per cache, where monitoring is enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbm_stats: Option<Vec<MbmNumaNodeStats>>,
    /// Per cache, where monitoring is enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmt_stats: Option<Vec<CmtNumaNodeStats>>,
}

#[cfg(test)]
mod tests;
