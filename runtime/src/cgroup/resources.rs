//! The table from the specification's `linux.resources` to control files, one for v1 and one for
//! v2. Pure: what is written, in which order, and what a refusal means; [`super::apply`] acts.
//!
//! Devices are not here (see [`super::device_program`] and [`super::device_rules`]). Kernel
//! interfaces: Documentation/admin-guide/cgroup-v1/*.rst and cgroup-v2.rst. 0 means "not set" where
//! the specification's ancestors made it so; -1 means "no limit". Kernel memory limits are obsolete
//! and ignored, as by all runtimes; so are, on v2, the controllers and knobs v2 does not have
//! (network classes and priorities, realtime bandwidth, swappiness, disabling the OOM killer, leaf
//! weights).

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxRdma, LinuxResources, LinuxThrottleDevice,
};

use super::convert;
use crate::error::{Error, Result};

/// What to do when a control file does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    /// It was asked for: an error.
    Fail,
    /// It states what holds without it.
    Skip,
    /// Older or newer kernels have this file instead.
    Use(&'static str, String),
}

/// One value for one control file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// Controller as v1 names its hierarchy; on v2 only for messages.
    pub(super) controller: &'static str,
    /// Name of the control file.
    pub(super) file: String,
    /// What is written.
    pub(super) value: String,
    /// When the file does not exist.
    pub(super) missing: Missing,
    /// Depends on a later write of the same controller: after EINVAL it is tried again at the end.
    pub(super) again: bool,
    /// Limits memory use: written after everything else.
    pub(super) memory_limit: bool,
}

impl Write {
    fn new(
        controller: &'static str,
        file: impl Into<String>,
        value: impl std::fmt::Display,
    ) -> Self {
        Self {
            controller,
            file: file.into(),
            value: format!("{value}"),
            missing: Missing::Fail,
            again: false,
            memory_limit: false,
        }
    }

    fn missing(mut self, missing: Missing) -> Self {
        self.missing = missing;
        self
    }

    fn again(mut self, again: bool) -> Self {
        self.again = again;
        self
    }

    fn memory_limit(mut self) -> Self {
        self.memory_limit = true;
        self
    }
}

/// A number that is set: neither absent nor 0.
fn set<T: Default + PartialEq>(value: Option<T>) -> Option<T> {
    value.filter(|v| *v != T::default())
}

/// A non-empty list of CPUs or memory nodes.
fn list(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|v| !v.is_empty())
}

/// -1 is `max` on v2.
fn max(value: i64) -> String {
    if value < 0 {
        "max".to_owned()
    } else {
        value.to_string()
    }
}

/// The writes for cgroup v1.
pub(super) fn v1(r: &LinuxResources) -> Result<Vec<Write>> {
    if r.unified().as_ref().is_some_and(|u| !u.is_empty()) {
        return Err(Error::invalid(
            "invalid configuration: cannot use unified on cgroup v1",
        ));
    }
    let mut out = Vec::new();
    if let Some(cpu) = r.cpu() {
        cpuset(cpu, &mut out);
        cpu_v1(cpu, &mut out)?;
    }
    pids(r, &mut out);
    if let Some(io) = r.block_io() {
        block_io_v1(io, &mut out);
    }
    hugetlb(r, "limit_in_bytes", &mut out);
    if let Some(network) = r.network() {
        if let Some(class) = set(network.class_id()) {
            out.push(Write::new("net_cls", "net_cls.classid", class));
        }
        for p in network.priorities().iter().flatten() {
            let value = format!("{} {}", p.name(), p.priority());
            out.push(Write::new("net_prio", "net_prio.ifpriomap", value));
        }
    }
    rdma(r, &mut out);
    if let Some(memory) = r.memory() {
        memory_v1(memory, &mut out)?;
    }
    Ok(out)
}

/// The writes for cgroup v2.
pub(super) fn v2(r: &LinuxResources) -> Result<Vec<Write>> {
    let mut out = Vec::new();
    pids(r, &mut out);
    if let Some(io) = r.block_io() {
        block_io_v2(io, &mut out);
    }
    if let Some(cpu) = r.cpu() {
        cpu_v2(cpu, &mut out);
        cpuset(cpu, &mut out);
    }
    hugetlb(r, "max", &mut out);
    rdma(r, &mut out);
    if let Some(memory) = r.memory() {
        memory_v2(memory, &mut out)?;
    }
    unified(r, &mut out)?;
    Ok(out)
}

fn cpuset(cpu: &LinuxCpu, out: &mut Vec<Write>) {
    if let Some(cpus) = list(cpu.cpus()) {
        out.push(Write::new("cpuset", "cpuset.cpus", cpus));
    }
    if let Some(mems) = list(cpu.mems()) {
        out.push(Write::new("cpuset", "cpuset.mems", mems));
    }
}

fn cpu_v1(cpu: &LinuxCpu, out: &mut Vec<Write>) -> Result<()> {
    // The realtime pair comes first: a task with a realtime policy cannot join without runtime.
    let runtime = set(cpu.realtime_runtime());
    if let Some(period) = set(cpu.realtime_period()) {
        let write = Write::new("cpu", "cpu.rt_period_us", period);
        out.push(write.again(runtime.is_some()));
    }
    if let Some(runtime) = runtime {
        out.push(Write::new("cpu", "cpu.rt_runtime_us", runtime));
    }
    if let Some(shares) = set(cpu.shares()) {
        // The kernel clamps silently; what was asked for and not given is an error.
        if shares > 262_144 {
            return Err(Error::invalid("the maximum allowed cpu-shares is 262144"));
        }
        if shares < 2 {
            return Err(Error::invalid("the minimum allowed cpu-shares is 2"));
        }
        out.push(Write::new("cpu", "cpu.shares", shares));
    }
    let quota = set(cpu.quota());
    if let Some(period) = set(cpu.period()) {
        // A shorter period may need the new quota first.
        out.push(Write::new("cpu", "cpu.cfs_period_us", period).again(quota.is_some()));
    }
    if let Some(burst) = cpu.burst() {
        let write = Write::new("cpu", "cpu.cfs_burst_us", burst).missing(Missing::Skip);
        out.push(write.again(quota.is_some()));
    }
    if let Some(quota) = quota {
        out.push(Write::new("cpu", "cpu.cfs_quota_us", quota));
    }
    if let Some(idle) = cpu.idle() {
        out.push(Write::new("cpu", "cpu.idle", idle));
    }
    Ok(())
}

fn cpu_v2(cpu: &LinuxCpu, out: &mut Vec<Write>) {
    if let Some(idle) = cpu.idle() {
        out.push(Write::new("cpu", "cpu.idle", idle));
    }
    if let Some(shares) = set(cpu.shares()) {
        out.push(Write::new("cpu", "cpu.weight", convert::cpu_weight(shares)));
    }
    let quota = set(cpu.quota());
    if let Some(burst) = cpu.burst() {
        out.push(Write::new("cpu", "cpu.max.burst", burst).again(quota.is_some()));
    }
    let period = set(cpu.period());
    if quota.is_some() || period.is_some() {
        let value = format!("{} {}", max(quota.unwrap_or(-1)), period.unwrap_or(100_000));
        out.push(Write::new("cpu", "cpu.max", value));
    }
}

fn pids(r: &LinuxResources, out: &mut Vec<Write>) {
    if let Some(pids) = r.pids() {
        // systemd does not take 0, and with 0 not even the first process could start.
        let value = match pids.limit() {
            0 => "1".to_owned(),
            limit => max(limit),
        };
        out.push(Write::new("pids", "pids.max", value));
    }
}

fn throttles<'a>(
    devices: &'a Option<Vec<LinuxThrottleDevice>>,
) -> impl Iterator<Item = (String, u64)> + 'a {
    devices
        .iter()
        .flatten()
        .map(|d| (format!("{}:{}", d.major(), d.minor()), d.rate()))
}

fn block_io_v1(io: &LinuxBlockIo, out: &mut Vec<Write>) {
    let mut push = |file: &'static str, other: Option<&'static str>, value: String| {
        let missing = match other {
            Some(other) => Missing::Use(other, value.clone()),
            None => Missing::Fail,
        };
        out.push(Write::new("blkio", file, value).missing(missing));
    };
    if let Some(weight) = set(io.weight()) {
        push("blkio.weight", Some("blkio.bfq.weight"), weight.to_string());
    }
    if let Some(weight) = set(io.leaf_weight()) {
        push("blkio.leaf_weight", None, weight.to_string());
    }
    for d in io.weight_device().iter().flatten() {
        let id = format!("{}:{}", d.major(), d.minor());
        if let Some(weight) = set(d.weight()) {
            let value = format!("{id} {weight}");
            push(
                "blkio.weight_device",
                Some("blkio.bfq.weight_device"),
                value,
            );
        }
        if let Some(weight) = set(d.leaf_weight()) {
            push("blkio.leaf_weight_device", None, format!("{id} {weight}"));
        }
    }
    for (file, devices) in [
        (
            "blkio.throttle.read_bps_device",
            io.throttle_read_bps_device(),
        ),
        (
            "blkio.throttle.write_bps_device",
            io.throttle_write_bps_device(),
        ),
        (
            "blkio.throttle.read_iops_device",
            io.throttle_read_iops_device(),
        ),
        (
            "blkio.throttle.write_iops_device",
            io.throttle_write_iops_device(),
        ),
    ] {
        for (id, rate) in throttles(devices) {
            push(file, None, format!("{id} {rate}"));
        }
    }
}

fn block_io_v2(io: &LinuxBlockIo, out: &mut Vec<Write>) {
    // BFQ's own file where that scheduler is in use; else the generic one with its wider scale.
    if let Some(weight) = set(io.weight()) {
        let other = Missing::Use("io.weight", convert::io_weight(weight).to_string());
        out.push(Write::new("io", "io.bfq.weight", weight).missing(other));
    }
    for d in io.weight_device().iter().flatten() {
        if let Some(weight) = set(d.weight()) {
            let id = format!("{}:{}", d.major(), d.minor());
            let other = format!("{id} {}", convert::io_weight(weight));
            out.push(
                Write::new("io", "io.bfq.weight", format!("{id} {weight}"))
                    .missing(Missing::Use("io.weight", other)),
            );
        }
    }
    for (key, devices) in [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ] {
        for (id, rate) in throttles(devices) {
            let rate = if rate == 0 {
                "max".to_owned()
            } else {
                rate.to_string()
            };
            out.push(Write::new("io", "io.max", format!("{id} {key}={rate}")));
        }
    }
}

fn hugetlb(r: &LinuxResources, suffix: &str, out: &mut Vec<Write>) {
    for h in r.hugepage_limits().iter().flatten() {
        let file = |rsvd: &str| format!("hugetlb.{}{rsvd}.{suffix}", h.page_size());
        out.push(Write::new("hugetlb", file(""), h.limit()));
        // Reservations have files of their own since Linux 5.7.
        out.push(Write::new("hugetlb", file(".rsvd"), h.limit()).missing(Missing::Skip));
    }
}

fn rdma(r: &LinuxResources, out: &mut Vec<Write>) {
    let mut devices: Vec<(&String, &LinuxRdma)> = r.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    for (name, limits) in devices {
        let mut value = name.clone();
        if let Some(handles) = limits.hca_handles() {
            value.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limits.hca_objects() {
            value.push_str(&format!(" hca_object={objects}"));
        }
        out.push(Write::new("rdma", "rdma.max", value));
    }
}

fn memory_v1(memory: &LinuxMemory, out: &mut Vec<Write>) -> Result<()> {
    if let Some(reservation) = set(memory.reservation()) {
        out.push(Write::new(
            "memory",
            "memory.soft_limit_in_bytes",
            reservation,
        ));
    }
    if memory.disable_oom_killer() == Some(true) {
        out.push(Write::new("memory", "memory.oom_control", 1));
    }
    // -1 arrives here as the largest number: Docker's way to say "not set".
    if let Some(swappiness) = memory.swappiness().filter(|s| *s as i64 != -1) {
        if swappiness > 100 {
            return Err(Error::invalid(format!(
                "invalid memory swappiness value: {swappiness} (valid range is 0-100)"
            )));
        }
        out.push(Write::new("memory", "memory.swappiness", swappiness));
    }
    // The kernel keeps limit <= memsw at every moment: when raising, the first write is refused
    // and succeeds after the second; when lowering, the first succeeds and makes room.
    let limit = set(memory.limit());
    if let Some(limit) = limit {
        let write = Write::new("memory", "memory.limit_in_bytes", limit);
        out.push(write.again(true).memory_limit());
    }
    let swap = Write::new("memory", "memory.memsw.limit_in_bytes", -1).memory_limit();
    match set(memory.swap()) {
        Some(value) => out.push(Write {
            value: value.to_string(),
            ..swap
        }),
        // No limit of memory means no limit of memory plus swap, where the kernel counts swap.
        None if limit == Some(-1) => out.push(swap.missing(Missing::Skip)),
        None => {}
    }
    Ok(())
}

fn memory_v2(memory: &LinuxMemory, out: &mut Vec<Write>) -> Result<()> {
    if let Some(reservation) = set(memory.reservation()) {
        out.push(Write::new("memory", "memory.low", max(reservation)));
    }
    let limit = set(memory.limit());
    if let Some(swap) = convert::swap_max(memory.swap(), limit)? {
        // Without swap accounting "no swap" and "no limit of swap" are true as it is.
        let missing = if swap <= 0 {
            Missing::Skip
        } else {
            Missing::Fail
        };
        let write = Write::new("memory", "memory.swap.max", max(swap));
        out.push(write.missing(missing).memory_limit());
    }
    if let Some(limit) = limit {
        out.push(Write::new("memory", "memory.max", max(limit)).memory_limit());
    }
    Ok(())
}

/// `unified`: file names and values as they are, line by line; the last word over the rest.
fn unified(r: &LinuxResources, out: &mut Vec<Write>) -> Result<()> {
    let mut entries: Vec<(&String, &String)> = r.unified().iter().flatten().collect();
    entries.sort();
    for (file, value) in entries {
        if file.contains('/') {
            return Err(Error::invalid(format!(
                "unified resource {file:?} must be a file name (no slashes)"
            )));
        }
        let ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !file.contains('.') || file.starts_with('.') || !file.chars().all(ok) {
            return Err(Error::invalid(format!(
                "unified resource {file:?} must be in the form CONTROLLER.PARAMETER"
            )));
        }
        for line in value.split('\n').filter(|line| !line.is_empty()) {
            let write = Write::new("unified", file.clone(), line);
            let limits = ["memory.max", "memory.high", "memory.swap.max"];
            let late = limits.contains(&file.as_str());
            out.push(if late { write.memory_limit() } else { write });
        }
    }
    Ok(())
}

/// Whether controllers are asked for that a threaded v2 cgroup cannot have.
pub(super) fn needs_domain(r: &LinuxResources) -> bool {
    v2(r).is_ok_and(|writes| {
        writes
            .iter()
            .any(|w| ["memory", "io", "cpu", "hugetlb"].contains(&w.controller))
    })
}
