//! What only Linux has.

use std::collections::BTreeMap;

use rcrun_error::{Error, Result};
use serde_json::{Map, Value, json};

use super::json::{self, list, map, object, replace, set};
use super::resources;
use crate::collect::removal;
use crate::proto::v1alpha1::{
    IoPrioClass, LinuxContainerAdjustment, LinuxDevice, LinuxIoPriority, LinuxMemoryPolicy,
    LinuxNamespace, LinuxRdt, LinuxScheduler, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    LinuxSeccomp, LinuxSyscall, MpolFlag, MpolMode,
};

pub(super) fn apply(spec: &mut Value, wanted: &LinuxContainerAdjustment) -> Result<()> {
    for device in &wanted.devices {
        self::device(spec, device)?;
    }
    let path = Some(&wanted.cgroups_path).filter(|path| !path.is_empty());
    if let Some(path) = path {
        set(object(spec, &["linux"])?, "cgroupsPath", Some(path));
    }
    if let Some(score) = &wanted.oom_score_adj {
        set(
            object(spec, &["process"])?,
            "oomScoreAdj",
            Some(score.value),
        );
    }
    if let Some(priority) = &wanted.io_priority {
        io_priority(spec, priority)?;
    }
    if let Some(scheduler) = &wanted.scheduler {
        self::scheduler(spec, scheduler)?;
    }
    if let Some(policy) = &wanted.seccomp_policy {
        let policy = seccomp(policy);
        object(spec, &["linux"])?.insert("seccomp".to_owned(), policy);
    }
    for namespace in &wanted.namespaces {
        self::namespace(spec, namespace)?;
    }
    map(spec, &["linux", "sysctl"], &wanted.sysctl)?;
    let devices = wanted.net_devices.iter();
    let devices: BTreeMap<String, Value> = devices
        .map(|(host, device)| (host.clone(), json!({"name": device.name})))
        .collect();
    map(spec, &["linux", "netDevices"], &devices)?;
    if let Some(policy) = &wanted.memory_policy {
        memory_policy(spec, policy)?;
    }
    if let Some(resources) = &wanted.resources {
        resources::apply(spec, resources)?;
    }
    match &wanted.rdt {
        Some(rdt) => self::rdt(spec, rdt),
        None => Ok(()),
    }
}

/// The node, and the rule that lets the container use it.
fn device(spec: &mut Value, wanted: &LinuxDevice) -> Result<()> {
    let removed = removal(&wanted.path);
    let path = removed.unwrap_or(&wanted.path);
    let list = list(spec, &["linux", "devices"])?;
    list.retain(|old| old["path"] != path);
    if removed.is_some() {
        return Ok(());
    }
    let mut node = Map::new();
    set(&mut node, "path", Some(path));
    set(&mut node, "type", Some(&wanted.r#type));
    set(&mut node, "major", Some(wanted.major));
    set(&mut node, "minor", Some(wanted.minor));
    set(
        &mut node,
        "fileMode",
        wanted.file_mode.as_ref().map(|v| v.value),
    );
    set(&mut node, "uid", wanted.uid.as_ref().map(|v| v.value));
    set(&mut node, "gid", wanted.gid.as_ref().map(|v| v.value));
    list.push(Value::Object(node));
    // A pipe needs no rule, and has no number.
    if wanted.r#type == "p" {
        return Ok(());
    }
    let access = match wanted.r#type.as_str() {
        "b" => "rwm",
        _ => "rw",
    };
    let rule = json!({
        "allow": true,
        "type": wanted.r#type,
        "major": wanted.major,
        "minor": wanted.minor,
        "access": access,
    });
    json::list(spec, &["linux", "resources", "devices"])?.push(rule);
    Ok(())
}

fn io_priority(spec: &mut Value, wanted: &LinuxIoPriority) -> Result<()> {
    let class = name(wanted.class, "class of I/O priority", |class| {
        IoPrioClass::try_from(class)
            .ok()
            .map(|class| class.as_str_name())
    })?;
    let process = object(spec, &["process"])?;
    match class {
        "IOPRIO_CLASS_NONE" => drop(process.remove("ioPriority")),
        class => {
            let value = json!({"class": class, "priority": wanted.priority});
            process.insert("ioPriority".to_owned(), value);
        }
    }
    Ok(())
}

fn scheduler(spec: &mut Value, wanted: &LinuxScheduler) -> Result<()> {
    let policy = name(wanted.policy, "scheduling policy", |policy| {
        let policy = LinuxSchedulerPolicy::try_from(policy).ok();
        policy.map(|policy| policy.as_str_name())
    })?;
    let flags = names(&wanted.flags, "flag of scheduling", |flag| {
        let flag = LinuxSchedulerFlag::try_from(flag).ok();
        flag.map(|flag| flag.as_str_name())
    })?;
    let process = object(spec, &["process"])?;
    if policy == "SCHED_NONE" {
        process.remove("scheduler");
        return Ok(());
    }
    let mut value = Map::new();
    set(&mut value, "policy", Some(policy));
    for (name, number) in [("nice", wanted.nice), ("priority", wanted.priority)] {
        set(&mut value, name, Some(number).filter(|number| *number != 0));
    }
    for (name, time) in [
        ("runtime", wanted.runtime),
        ("deadline", wanted.deadline),
        ("period", wanted.period),
    ] {
        set(&mut value, name, Some(time).filter(|time| *time != 0));
    }
    set(
        &mut value,
        "flags",
        Some(flags).filter(|flags| !flags.is_empty()),
    );
    process.insert("scheduler".to_owned(), Value::Object(value));
    Ok(())
}

fn seccomp(wanted: &LinuxSeccomp) -> Value {
    let mut value = Map::new();
    set(&mut value, "defaultAction", Some(&wanted.default_action));
    let errno = wanted.default_errno.as_ref().map(|errno| errno.value);
    set(&mut value, "defaultErrnoRet", errno);
    for (name, words) in [
        ("architectures", &wanted.architectures),
        ("flags", &wanted.flags),
    ] {
        set(
            &mut value,
            name,
            Some(words).filter(|words| !words.is_empty()),
        );
    }
    for (name, text) in [
        ("listenerPath", &wanted.listener_path),
        ("listenerMetadata", &wanted.listener_metadata),
    ] {
        set(&mut value, name, Some(text).filter(|text| !text.is_empty()));
    }
    let rules: Vec<Value> = wanted.syscalls.iter().map(syscall).collect();
    set(
        &mut value,
        "syscalls",
        Some(rules).filter(|rules| !rules.is_empty()),
    );
    Value::Object(value)
}

fn syscall(wanted: &LinuxSyscall) -> Value {
    let mut value = Map::new();
    set(&mut value, "names", Some(&wanted.names));
    set(&mut value, "action", Some(&wanted.action));
    set(
        &mut value,
        "errnoRet",
        wanted.errno_ret.as_ref().map(|errno| errno.value),
    );
    let args: Vec<Value> = wanted
        .args
        .iter()
        .map(|arg| {
            json!({"index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op})
        })
        .collect();
    set(
        &mut value,
        "args",
        Some(args).filter(|args| !args.is_empty()),
    );
    Value::Object(value)
}

fn namespace(spec: &mut Value, wanted: &LinuxNamespace) -> Result<()> {
    let list = list(spec, &["linux", "namespaces"])?;
    let removed = removal(&wanted.r#type);
    let kind = removed.unwrap_or(&wanted.r#type);
    let mut value = Map::new();
    set(&mut value, "type", Some(kind));
    set(
        &mut value,
        "path",
        Some(&wanted.path).filter(|path| !path.is_empty()),
    );
    let value = removed.is_none().then_some(Value::Object(value));
    replace(list, |old| old["type"] == kind, value);
    Ok(())
}

fn memory_policy(spec: &mut Value, wanted: &LinuxMemoryPolicy) -> Result<()> {
    let mode = name(wanted.mode, "mode of memory policy", |mode| {
        MpolMode::try_from(mode).ok().map(|mode| mode.as_str_name())
    })?;
    let flags = names(&wanted.flags, "flag of memory policy", |flag| {
        MpolFlag::try_from(flag).ok().map(|flag| flag.as_str_name())
    })?;
    let mut value = Map::new();
    set(&mut value, "mode", Some(mode));
    set(
        &mut value,
        "nodes",
        Some(&wanted.nodes).filter(|nodes| !nodes.is_empty()),
    );
    set(
        &mut value,
        "flags",
        Some(flags).filter(|flags| !flags.is_empty()),
    );
    object(spec, &["linux"])?.insert("memoryPolicy".to_owned(), Value::Object(value));
    Ok(())
}

fn rdt(spec: &mut Value, wanted: &LinuxRdt) -> Result<()> {
    if wanted.remove {
        object(spec, &["linux"])?.remove("intelRdt");
    }
    if wanted.clos_id.is_none() && wanted.schemata.is_none() && wanted.enable_monitoring.is_none() {
        return Ok(());
    }
    let rdt = object(spec, &["linux", "intelRdt"])?;
    set(rdt, "closID", wanted.clos_id.as_ref().map(|v| &v.value));
    set(rdt, "schemata", wanted.schemata.as_ref().map(|v| &v.value));
    let monitoring = wanted.enable_monitoring.as_ref().map(|v| v.value);
    set(rdt, "enableMonitoring", monitoring);
    Ok(())
}

fn name(
    number: i32,
    what: &str,
    known: impl Fn(i32) -> Option<&'static str>,
) -> Result<&'static str> {
    known(number).ok_or_else(|| Error::invalid(format!("there is no {what} {number}")))
}

fn names(
    numbers: &[i32],
    what: &str,
    known: impl Fn(i32) -> Option<&'static str>,
) -> Result<Vec<&'static str>> {
    let numbers = numbers.iter();
    numbers.map(|number| name(*number, what, &known)).collect()
}
