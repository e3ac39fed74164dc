//! Limits that plugins set, joined: each of them by one plugin.

use rcrun_error::Result;

use super::owners::Claims;
use crate::proto::v1alpha1::{Field, LinuxCpu, LinuxMemory, LinuxResources};

/// Takes over what `from` sets into all of `into`. Nothing of `into` changes if there is a conflict.
pub(super) fn join(
    from: &LinuxResources,
    into: &mut [&mut LinuxResources],
    owners: &mut Claims<'_>,
    plugin: &str,
) -> Result<()> {
    claim(from, owners, plugin)?;
    for into in into {
        set(from, into);
    }
    Ok(())
}

fn claim(from: &LinuxResources, owners: &mut Claims<'_>, plugin: &str) -> Result<()> {
    let memory = from.memory.unwrap_or_default();
    let cpu = from.cpu.clone().unwrap_or_default();
    for (field, set) in [
        (Field::MemLimit, memory.limit.is_some()),
        (Field::MemReservation, memory.reservation.is_some()),
        (Field::MemSwapLimit, memory.swap.is_some()),
        (Field::MemKernelLimit, memory.kernel.is_some()),
        (Field::MemTcpLimit, memory.kernel_tcp.is_some()),
        (Field::MemSwappiness, memory.swappiness.is_some()),
        (
            Field::MemDisableOomKiller,
            memory.disable_oom_killer.is_some(),
        ),
        (Field::MemUseHierarchy, memory.use_hierarchy.is_some()),
        (Field::CpuShares, cpu.shares.is_some()),
        (Field::CpuQuota, cpu.quota.is_some()),
        (Field::CpuPeriod, cpu.period.is_some()),
        (Field::CpuRealtimeRuntime, cpu.realtime_runtime.is_some()),
        (Field::CpuRealtimePeriod, cpu.realtime_period.is_some()),
        (Field::CpuSetCpUs, !cpu.cpus.is_empty()),
        (Field::CpuSetMems, !cpu.mems.is_empty()),
        (Field::PidsLimit, from.pids.is_some()),
        (Field::BlockioClass, from.blockio_class.is_some()),
        (Field::RdtClass, from.rdt_class.is_some()),
    ] {
        if set {
            owners.claim(field, plugin)?;
        }
    }
    for limit in &from.hugepage_limits {
        owners.claim_key(Field::HugepageLimits, &limit.page_size, plugin)?;
    }
    for key in from.unified.keys() {
        owners.claim_key(Field::CgroupsUnified, key, plugin)?;
    }
    Ok(())
}

/// Overwrites what is set.
fn set(from: &LinuxResources, into: &mut LinuxResources) {
    if let Some(memory) = &from.memory {
        set_memory(memory, into.memory.get_or_insert_default());
    }
    if let Some(cpu) = &from.cpu {
        set_cpu(cpu, into.cpu.get_or_insert_default());
    }
    for limit in &from.hugepage_limits {
        into.hugepage_limits
            .retain(|old| old.page_size != limit.page_size);
        into.hugepage_limits.push(limit.clone());
    }
    let unified = from.unified.iter();
    into.unified
        .extend(unified.map(|(key, value)| (key.clone(), value.clone())));
    // Rules of devices come one after the other: the last that fits counts.
    into.devices.extend_from_slice(&from.devices);
    over(&from.pids, &mut into.pids);
    over(&from.blockio_class, &mut into.blockio_class);
    over(&from.rdt_class, &mut into.rdt_class);
}

fn set_memory(from: &LinuxMemory, into: &mut LinuxMemory) {
    over(&from.limit, &mut into.limit);
    over(&from.reservation, &mut into.reservation);
    over(&from.swap, &mut into.swap);
    over(&from.kernel, &mut into.kernel);
    over(&from.kernel_tcp, &mut into.kernel_tcp);
    over(&from.swappiness, &mut into.swappiness);
    over(&from.disable_oom_killer, &mut into.disable_oom_killer);
    over(&from.use_hierarchy, &mut into.use_hierarchy);
}

fn set_cpu(from: &LinuxCpu, into: &mut LinuxCpu) {
    over(&from.shares, &mut into.shares);
    over(&from.quota, &mut into.quota);
    over(&from.period, &mut into.period);
    over(&from.realtime_runtime, &mut into.realtime_runtime);
    over(&from.realtime_period, &mut into.realtime_period);
    for (from, into) in [(&from.cpus, &mut into.cpus), (&from.mems, &mut into.mems)] {
        if !from.is_empty() {
            into.clone_from(from);
        }
    }
}

fn over<T: Clone>(from: &Option<T>, into: &mut Option<T>) {
    if from.is_some() {
        into.clone_from(from);
    }
}
