//! Limits.

use rcrun_error::{Error, Result};
use serde_json::{Value, json};

use super::json::{list, map, object, replace, set};
use crate::proto::v1alpha1::{LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxResources};

pub(super) fn apply(spec: &mut Value, wanted: &LinuxResources) -> Result<()> {
    if let Some(memory) = &wanted.memory {
        self::memory(spec, memory)?;
    }
    if let Some(cpu) = &wanted.cpu {
        self::cpu(spec, cpu)?;
    }
    for limit in &wanted.hugepage_limits {
        let size = limit.page_size.as_str();
        let value = json!({"pageSize": size, "limit": limit.limit});
        let list = list(spec, &["linux", "resources", "hugepageLimits"])?;
        replace(list, |old| old["pageSize"] == size, Some(value));
    }
    map(spec, &["linux", "resources", "unified"], &wanted.unified)?;
    if let Some(pids) = &wanted.pids {
        // The configuration has -1 for no limit, whatever below zero the plugin says.
        let limit = json!(pids.limit.max(-1));
        object(spec, &["linux", "resources", "pids"])?.insert("limit".to_owned(), limit);
    }
    for rule in &wanted.devices {
        list(spec, &["linux", "resources", "devices"])?.push(device(rule));
    }
    match wanted.blockio_class.as_ref().map(|class| &*class.value) {
        None => {}
        Some("") => drop(object(spec, &["linux", "resources"])?.remove("blockIO")),
        Some(class) => {
            return Err(Error::unsupported(format!(
                "no class of block I/O is known here, and {class:.64?} is wanted"
            ))
            .with_hint("let the plugin set io.max and io.weight as unified limits"));
        }
    }
    match wanted.rdt_class.as_ref().map(|class| &*class.value) {
        None => {}
        Some("") => drop(object(spec, &["linux"])?.remove("intelRdt")),
        // A class is a group of resctrl that the administrator made.
        Some(class) => {
            object(spec, &["linux"])?.insert("intelRdt".to_owned(), json!({"closID": class}));
        }
    }
    Ok(())
}

fn memory(spec: &mut Value, wanted: &LinuxMemory) -> Result<()> {
    for (name, limit) in [
        ("kernel", &wanted.kernel),
        ("kernelTCP", &wanted.kernel_tcp),
    ] {
        if limit.is_some() {
            return Err(Error::unsupported(format!(
                "kernels have no limit of kernel memory any more, and memory.{name} is wanted"
            )));
        }
    }
    if let Some(use_hierarchy) = &wanted.use_hierarchy
        && !use_hierarchy.value
    {
        return Err(Error::unsupported(
            "memory is always counted with that of the cgroups below, and memory.useHierarchy=false is wanted",
        ));
    }
    if *wanted == LinuxMemory::default() {
        return Ok(());
    }
    let memory = object(spec, &["linux", "resources", "memory"])?;
    let limit = wanted.limit.as_ref().map(|limit| limit.value);
    // 0 is no value: such a limit stays what it is.
    if let Some(limit) = limit.filter(|limit| *limit != 0) {
        set(memory, "limit", Some(limit));
        // What has no limit of swap of its own has no swap: a limit of both below that of memory is refused by kernels.
        set(memory, "swap", Some(limit));
    }
    set(memory, "swap", wanted.swap.as_ref().map(|swap| swap.value));
    set(
        memory,
        "reservation",
        wanted.reservation.as_ref().map(|v| v.value),
    );
    set(
        memory,
        "swappiness",
        wanted.swappiness.as_ref().map(|v| v.value),
    );
    set(
        memory,
        "disableOOMKiller",
        wanted.disable_oom_killer.as_ref().map(|v| v.value),
    );
    Ok(())
}

fn cpu(spec: &mut Value, wanted: &LinuxCpu) -> Result<()> {
    if *wanted == LinuxCpu::default() {
        return Ok(());
    }
    let cpu = object(spec, &["linux", "resources", "cpu"])?;
    set(cpu, "shares", wanted.shares.as_ref().map(|v| v.value));
    set(cpu, "quota", wanted.quota.as_ref().map(|v| v.value));
    set(cpu, "period", wanted.period.as_ref().map(|v| v.value));
    set(
        cpu,
        "realtimeRuntime",
        wanted.realtime_runtime.as_ref().map(|v| v.value),
    );
    set(
        cpu,
        "realtimePeriod",
        wanted.realtime_period.as_ref().map(|v| v.value),
    );
    for (name, cpus) in [("cpus", &wanted.cpus), ("mems", &wanted.mems)] {
        set(cpu, name, Some(cpus).filter(|cpus| !cpus.is_empty()));
    }
    Ok(())
}

fn device(rule: &LinuxDeviceCgroup) -> Value {
    let mut value = serde_json::Map::new();
    set(&mut value, "allow", Some(rule.allow));
    set(
        &mut value,
        "type",
        Some(&rule.r#type).filter(|kind| !kind.is_empty()),
    );
    set(&mut value, "major", rule.major.as_ref().map(|v| v.value));
    set(&mut value, "minor", rule.minor.as_ref().map(|v| v.value));
    set(
        &mut value,
        "access",
        Some(&rule.access).filter(|access| !access.is_empty()),
    );
    Value::Object(value)
}
