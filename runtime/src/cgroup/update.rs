//! Changing limits of a live container: what is written, and what the record says afterwards.
//!
//! Only what the request names is written, with the values it is computed from (a quota goes with
//! its period, a swap limit with the memory limit); the rest of the cgroup stays as it is, even when
//! somebody else changed it. Devices are never touched.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice,
    LinuxWeightDeviceBuilder,
};

use super::{Cgroup, Hierarchy, Select, file};
use crate::error::{Context, Error, ErrorKind, Result};

impl Cgroup {
    /// Changes limits from `old`, the recorded ones, by `new`; returns what to record. When a value
    /// is refused, those before it are set back.
    pub fn update(&self, old: &LinuxResources, new: &LinuxResources) -> Result<LinuxResources> {
        if self.is_none() {
            return Err(self.missing("update the container"));
        }
        let merged = merge(old, new)?;
        let delta = delta(&merged, new);
        self.check_usage(&delta, &merged)?;
        // systemd, told about one limit, writes its idea of the others: then all are written.
        let written = if self.unit.is_some() { &merged } else { &delta };
        let done = self.apply(written, Select::UPDATE);
        if done.is_err() {
            // The first error is the one to tell.
            let _ = self.apply(old, Select::UPDATE);
        }
        done.map(|()| merged)
    }

    /// With `checkBeforeUpdate`: refuses a limit below what is in use, which would kill.
    fn check_usage(&self, delta: &LinuxResources, merged: &LinuxResources) -> Result<()> {
        let asked = merged
            .memory()
            .as_ref()
            .and_then(LinuxMemory::check_before_update);
        let (Some(true), Some(memory)) = (asked, delta.memory()) else {
            return Ok(());
        };
        let (both, alone) = match self.hierarchy {
            Hierarchy::Unified => ("memory.current", "memory.current"),
            _ => ("memory.memsw.usage_in_bytes", "memory.usage_in_bytes"),
        };
        for (name, limit, usage) in [
            ("memory+swap", memory.swap(), both),
            ("memory", memory.limit(), alone),
        ] {
            let Some(limit) = limit.filter(|limit| *limit > 0) else {
                continue;
            };
            let Some(dir) = self.controller("memory") else {
                return Ok(());
            };
            // Best effort: without a figure there is nothing to compare with.
            let usage = file::read(&dir.join(usage))
                .ok()
                .and_then(|t| t.trim().parse().ok());
            if let Some(usage) = usage.filter(|usage: &i64| limit <= *usage) {
                return Err(Error::new(
                    ErrorKind::FailedPrecondition,
                    format!("rejecting {name} limit {limit} <= usage {usage}"),
                ));
            }
        }
        Ok(())
    }
}

/// The recorded resources after the update.
fn merge(old: &LinuxResources, new: &LinuxResources) -> Result<LinuxResources> {
    let mut out = old.clone();
    if let Some(cpu) = new.cpu() {
        out.set_cpu(Some(merge_cpu(&old.cpu().clone().unwrap_or_default(), cpu)));
    }
    if let Some(memory) = new.memory() {
        out.set_memory(Some(merge_memory(
            old.memory().unwrap_or_default(),
            *memory,
        )));
    }
    if let Some(io) = new.block_io() {
        out.set_block_io(Some(merge_io(
            &old.block_io().clone().unwrap_or_default(),
            io,
        )?));
    }
    if new.pids().is_some() {
        out.set_pids(*new.pids());
    }
    if new.hugepage_limits().is_some() {
        out.set_hugepage_limits(new.hugepage_limits().clone());
    }
    if new.network().is_some() {
        out.set_network(new.network().clone());
    }
    if let Some(rdma) = new.rdma() {
        let mut all = old.rdma().clone().unwrap_or_default();
        all.extend(rdma.iter().map(|(name, limits)| (name.clone(), *limits)));
        out.set_rdma(Some(all));
    }
    if let Some(unified) = new.unified() {
        let mut all = old.unified().clone().unwrap_or_default();
        for (given, other) in [("cpu.weight", "cpu.idle"), ("cpu.idle", "cpu.weight")] {
            if unified.contains_key(given) {
                all.remove(other);
            }
        }
        all.extend(
            unified
                .iter()
                .map(|(file, value)| (file.clone(), value.clone())),
        );
        out.set_unified(Some(all));
    }
    Ok(out)
}

fn merge_cpu(old: &LinuxCpu, new: &LinuxCpu) -> LinuxCpu {
    let mut out = old.clone();
    // A weight and "idle" exclude each other in the kernel.
    let shares = if new.idle().is_some() {
        new.shares()
    } else {
        new.shares().or(old.shares())
    };
    let list = |new: &Option<String>, old: &Option<String>| {
        new.clone()
            .filter(|text| !text.is_empty())
            .or_else(|| old.clone())
    };
    let idle = match new.shares().filter(|shares| *shares != 0) {
        Some(_) => new.idle(),
        None => new.idle().or(old.idle()),
    };
    out.set_shares(shares)
        .set_idle(idle)
        .set_quota(new.quota().filter(|q| *q != 0).or(old.quota()))
        .set_period(new.period().filter(|p| *p != 0).or(old.period()))
        .set_burst(new.burst().or(old.burst()))
        .set_realtime_period(new.realtime_period().or(old.realtime_period()))
        .set_realtime_runtime(new.realtime_runtime().or(old.realtime_runtime()))
        .set_cpus(list(new.cpus(), old.cpus()))
        .set_mems(list(new.mems(), old.mems()));
    out
}

fn merge_memory(old: LinuxMemory, new: LinuxMemory) -> LinuxMemory {
    let mut out = old;
    let unlimited = new.limit() == Some(-1) && new.swap().is_none();
    // Without a limit of memory the old sum of memory and swap has no meaning.
    let swap = if unlimited {
        None
    } else {
        new.swap().or(old.swap())
    };
    out.set_limit(new.limit().or(old.limit()))
        .set_swap(swap)
        .set_reservation(new.reservation().or(old.reservation()))
        .set_swappiness(new.swappiness().or(old.swappiness()))
        .set_disable_oom_killer(new.disable_oom_killer().or(old.disable_oom_killer()))
        .set_check_before_update(new.check_before_update().or(old.check_before_update()));
    out
}

fn merge_io(old: &LinuxBlockIo, new: &LinuxBlockIo) -> Result<LinuxBlockIo> {
    let mut out = old.clone();
    out.set_weight(new.weight().or(old.weight()))
        .set_leaf_weight(new.leaf_weight().or(old.leaf_weight()))
        .set_weight_device(weights(old.weight_device(), new.weight_device())?)
        .set_throttle_read_bps_device(rates(
            old.throttle_read_bps_device(),
            new.throttle_read_bps_device(),
        ))
        .set_throttle_write_bps_device(rates(
            old.throttle_write_bps_device(),
            new.throttle_write_bps_device(),
        ))
        .set_throttle_read_iops_device(rates(
            old.throttle_read_iops_device(),
            new.throttle_read_iops_device(),
        ))
        .set_throttle_write_iops_device(rates(
            old.throttle_write_iops_device(),
            new.throttle_write_iops_device(),
        ));
    Ok(out)
}

type Devices<T> = Option<Vec<T>>;

/// Rates by device: new ones replace or join the old.
fn rates(
    old: &Devices<LinuxThrottleDevice>,
    new: &Devices<LinuxThrottleDevice>,
) -> Devices<LinuxThrottleDevice> {
    let Some(new) = new else { return old.clone() };
    let mut out = old.clone().unwrap_or_default();
    for device in new {
        out.retain(|d| (d.major(), d.minor()) != (device.major(), device.minor()));
        out.push(*device);
    }
    Some(out)
}

/// Weights by device; of an old device a weight that is not named stays.
fn weights(
    old: &Devices<LinuxWeightDevice>,
    new: &Devices<LinuxWeightDevice>,
) -> Result<Devices<LinuxWeightDevice>> {
    let Some(new) = new else {
        return Ok(old.clone());
    };
    let mut out = old.clone().unwrap_or_default();
    for device in new {
        let same =
            |d: &LinuxWeightDevice| (d.major(), d.minor()) == (device.major(), device.minor());
        let before = out.iter().rposition(same).map(|at| out.remove(at));
        let mut builder = LinuxWeightDeviceBuilder::default()
            .major(device.major())
            .minor(device.minor());
        if let Some(weight) = device.weight().or(before.and_then(|d| d.weight())) {
            builder = builder.weight(weight);
        }
        if let Some(weight) = device
            .leaf_weight()
            .or(before.and_then(|d| d.leaf_weight()))
        {
            builder = builder.leaf_weight(weight);
        }
        let built = builder.build().map_err(|e| Error::invalid(e.to_string()));
        out.push(built.context(|| "cannot merge block IO weights")?);
    }
    Ok(Some(out))
}

/// What the update has to write.
fn delta(merged: &LinuxResources, new: &LinuxResources) -> LinuxResources {
    let mut out = new.clone();
    out.set_devices(None);
    if let (Some(asked), Some(all)) = (new.cpu(), merged.cpu()) {
        let set = |n: Option<u64>| n.is_some_and(|n| n != 0);
        let mut cpu = asked.clone();
        if asked.quota().is_some_and(|q| q != 0) || set(asked.period()) {
            cpu.set_quota(all.quota()).set_period(all.period());
        }
        if asked.realtime_runtime().is_some() || asked.realtime_period().is_some() {
            cpu.set_realtime_runtime(all.realtime_runtime())
                .set_realtime_period(all.realtime_period());
        }
        out.set_cpu(Some(cpu));
    }
    if let (Some(asked), Some(all)) = (new.memory(), merged.memory()) {
        let mut memory = *asked;
        if asked.limit().is_some() || asked.swap().is_some() {
            memory.set_limit(all.limit()).set_swap(all.swap());
        }
        out.set_memory(Some(memory));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn rows() {
        // recorded, asked for, recorded afterwards, written
        for (old, new, merged, written) in [
            (
                r#"{"cpu":{"quota":5,"period":10,"shares":7},"pids":{"limit":3}}"#,
                r#"{"cpu":{"period":20}}"#,
                r#"{"cpu":{"quota":5,"period":20,"shares":7},"pids":{"limit":3}}"#,
                r#"{"cpu":{"quota":5,"period":20}}"#,
            ),
            (
                r#"{"cpu":{"shares":7,"quota":5,"cpus":"0"}}"#,
                r#"{"cpu":{"idle":1,"cpus":""}}"#,
                r#"{"cpu":{"idle":1,"quota":5,"cpus":"0"}}"#,
                r#"{"cpu":{"idle":1,"cpus":""}}"#,
            ),
            (
                r#"{"cpu":{"idle":1},"unified":{"cpu.idle":"1"}}"#,
                r#"{"cpu":{"shares":9},"unified":{"cpu.weight":"8"}}"#,
                r#"{"cpu":{"shares":9},"unified":{"cpu.weight":"8"}}"#,
                r#"{"cpu":{"shares":9},"unified":{"cpu.weight":"8"}}"#,
            ),
            (
                r#"{"memory":{"limit":10,"swap":30,"reservation":4}}"#,
                r#"{"memory":{"limit":20}}"#,
                r#"{"memory":{"limit":20,"swap":30,"reservation":4}}"#,
                r#"{"memory":{"limit":20,"swap":30}}"#,
            ),
            (
                r#"{"memory":{"limit":10,"swap":30}}"#,
                r#"{"memory":{"limit":-1}}"#,
                r#"{"memory":{"limit":-1}}"#,
                r#"{"memory":{"limit":-1}}"#,
            ),
            (
                r#"{"memory":{"limit":10,"swap":30}}"#,
                r#"{"memory":{"reservation":5},"pids":{"limit":-1},"devices":[]}"#,
                r#"{"memory":{"limit":10,"swap":30,"reservation":5},"pids":{"limit":-1}}"#,
                r#"{"memory":{"reservation":5},"pids":{"limit":-1}}"#,
            ),
            (
                r#"{"unified":{"memory.max":"1","a.b":"2"}}"#,
                r#"{"unified":{"memory.max":"3"}}"#,
                r#"{"unified":{"memory.max":"3","a.b":"2"}}"#,
                r#"{"unified":{"memory.max":"3"}}"#,
            ),
            (
                r#"{"blockIO":{"weight":10,
                    "weightDevice":[{"major":8,"minor":0,"weight":11,"leafWeight":12}],
                    "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1},
                        {"major":8,"minor":1,"rate":2}]}}"#,
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":20}],
                    "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":9}]}}"#,
                r#"{"blockIO":{"weight":10,
                    "weightDevice":[{"major":8,"minor":0,"weight":20,"leafWeight":12}],
                    "throttleReadBpsDevice":[{"major":8,"minor":1,"rate":2},
                        {"major":8,"minor":0,"rate":9}]}}"#,
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":20}],
                    "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":9}]}}"#,
            ),
        ] {
            let (old, new) = (parse(old), parse(new));
            let got = merge(&old, &new).unwrap();
            assert_eq!(got, parse(merged));
            assert_eq!(delta(&got, &new), parse(written));
        }
    }
}
