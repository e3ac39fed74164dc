//! Statistics in the shape that runc's `events --stats` prints, which shims and engines parse.
//!
//! v1 figures come through `cgroups-rs` (`stats/v1.rs`), v2 ones from its files (`stats/v2.rs`). Field names and
//! which of them are left out when zero are part of the interface. Not here: Intel RDT, which the
//! caller fills in, and network interfaces, which runc prints as null.

mod v1;
mod v2;

use std::collections::BTreeMap;
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Cgroup, Hierarchy, file};
use crate::error::{Error, ErrorKind, Result};

/// Everything measured about one container.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// Processor time.
    pub cpu: Cpu,
    /// CPUs and memory nodes; v1 only.
    pub cpuset: Cpuset,
    /// Memory.
    pub memory: Memory,
    /// Number of processes.
    pub pids: Pids,
    /// Block devices.
    pub blkio: Blkio,
    /// Huge pages, by page size.
    pub hugetlb: BTreeMap<String, Hugetlb>,
    /// Cache and memory bandwidth allocation; filled in by the caller.
    pub intel_rdt: serde_json::Map<String, serde_json::Value>,
    /// Always null, as with runc.
    pub network_interfaces: Option<Vec<serde_json::Value>>,
}

fn zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Pressure stall information of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    /// At least one task waited.
    #[serde(skip_serializing_if = "zero")]
    pub some: PressureLine,
    /// All tasks waited.
    #[serde(skip_serializing_if = "zero")]
    pub full: PressureLine,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // The kernel's names; Documentation/accounting/psi.rst.
pub struct PressureLine {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

/// Processor time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// Time used.
    #[serde(skip_serializing_if = "zero")]
    pub usage: CpuUsage,
    /// Time refused by the quota.
    #[serde(skip_serializing_if = "zero")]
    pub throttling: Throttling,
    /// Time waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Nanoseconds of processor time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuUsage {
    /// On all processors.
    #[serde(skip_serializing_if = "zero")]
    pub total: u64,
    /// On each.
    #[serde(skip_serializing_if = "zero")]
    pub percpu: Vec<u64>,
    /// On each, in the kernel.
    #[serde(skip_serializing_if = "zero")]
    pub percpu_kernel: Vec<u64>,
    /// On each, in programs.
    #[serde(skip_serializing_if = "zero")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In programs.
    pub user: u64,
}

/// What the quota did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Throttling {
    /// Periods passed.
    #[serde(skip_serializing_if = "zero")]
    pub periods: u64,
    /// Periods in which the quota ran out.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_periods: u64,
    /// Nanoseconds waited for it.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_time: u64,
}

/// The cpuset controller's settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // The kernel's names; cgroup-v1/cpusets.rst.
pub struct Cpuset {
    #[serde(skip_serializing_if = "zero")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "zero")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Page cache.
    #[serde(skip_serializing_if = "zero")]
    pub cache: u64,
    /// Memory.
    #[serde(skip_serializing_if = "zero")]
    pub usage: MemoryEntry,
    /// Memory plus swap.
    #[serde(skip_serializing_if = "zero")]
    pub swap: MemoryEntry,
    /// Kernel memory; v1 only.
    #[serde(skip_serializing_if = "zero")]
    pub kernel: MemoryEntry,
    /// Kernel memory for TCP; v1 only.
    #[serde(rename = "kernelTCP", skip_serializing_if = "zero")]
    pub kernel_tcp: MemoryEntry,
    /// `memory.stat`.
    #[serde(skip_serializing_if = "zero")]
    pub raw: BTreeMap<String, u64>,
    /// Time waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One kind of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryEntry {
    /// Limit.
    pub limit: u64,
    /// In use.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// Most ever in use.
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// How often the limit was met.
    pub failcnt: u64,
}

/// Number of tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// Now.
    #[serde(skip_serializing_if = "zero")]
    pub current: u64,
    /// Allowed; absent without a limit.
    #[serde(skip_serializing_if = "zero")]
    pub limit: u64,
}

/// Block device figures, each a list by device and operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // The kernel's names; cgroup-v1/blkio-controller.rst.
pub struct Blkio {
    #[serde(skip_serializing_if = "zero")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "zero")]
    pub io_queued_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    pub io_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    pub sectors_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One figure of one device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlkioEntry {
    /// Device number.
    #[serde(skip_serializing_if = "zero")]
    pub major: u64,
    /// Device number.
    #[serde(skip_serializing_if = "zero")]
    pub minor: u64,
    /// `Read`, `Write`, ...
    #[serde(skip_serializing_if = "zero")]
    pub op: String,
    /// The figure.
    #[serde(skip_serializing_if = "zero")]
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hugetlb {
    /// In use.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// Most ever in use; v1 only.
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// How often the limit was met.
    pub failcnt: u64,
}

impl Cgroup {
    /// Measures the container now.
    pub fn stats(&self) -> Result<Stats> {
        if self.is_none() {
            return Err(self.missing("measure the container"));
        }
        if !self.exists() {
            return Err(Error::new(
                ErrorKind::NotFound,
                "unable to get container cgroup stats: the cgroup does not exist",
            ));
        }
        match self.hierarchy {
            Hierarchy::Unified => match self.unified() {
                Some(dir) => v2::read(dir),
                None => Ok(Stats::default()),
            },
            Hierarchy::Legacy | Hierarchy::Hybrid | Hierarchy::None => v1::read(self),
        }
    }
}

/// Reads a file that this kernel may not have.
fn optional(path: &Path) -> Result<Option<String>> {
    match file::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::NODEV) => Ok(None),
        Err(errno) => Err(file::error(
            format!("cannot read {}", path.display()),
            errno,
        )),
    }
}

/// A number, with `max` as the largest; negative ones are a kernel's rounding and count as none.
fn number(text: &str) -> Option<u64> {
    match text.trim() {
        "max" => Some(u64::MAX),
        text => text
            .parse()
            .ok()
            .or_else(|| text.parse::<i64>().ok().map(|_| 0)),
    }
}

/// The lines `key value` of a flat-keyed file.
fn flat(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, number(value)?))
    })
}
