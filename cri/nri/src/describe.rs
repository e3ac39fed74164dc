//! What an OCI configuration says of a container, as plugins are told. Pure; the way back of `adjust`.
//!
//! Who the container is (its id, pod, name, labels, image, times, state) the caller fills in: no configuration says
//! that. What is not there, or not of the type that the specification has, is left out: whether a configuration is
//! right is the runtime's to judge.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::proto::v1alpha1::{
    Container, Hook, Hooks, HugepageLimit, IoPrioClass, LinuxContainer, LinuxCpu, LinuxDevice,
    LinuxDeviceCgroup, LinuxIoPriority, LinuxMemory, LinuxNamespace, LinuxNetDevice, LinuxPids,
    LinuxRdt, LinuxResources, LinuxScheduler, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    LinuxSeccomp, LinuxSeccompArg, LinuxSyscall, Mount, OptionalBool, OptionalFileMode,
    OptionalInt, OptionalInt64, OptionalRepeatedString, OptionalString, OptionalUInt32,
    OptionalUInt64, PosixRlimit, User,
};

/// The container of a configuration.
pub fn container(spec: &Value) -> Container {
    let process = &spec["process"];
    Container {
        annotations: texts(&spec["annotations"]),
        args: words(&process["args"]),
        env: words(&process["env"]),
        mounts: all(&spec["mounts"], mount),
        hooks: spec["hooks"].is_object().then(|| hooks(&spec["hooks"])),
        linux: Some(linux(spec)),
        rlimits: all(&process["rlimits"], rlimit),
        user: process["user"].is_object().then(|| user(&process["user"])),
        ..Container::default()
    }
}

/// The limits of `linux.resources`, or of what has its form.
pub fn resources(resources: &Value) -> LinuxResources {
    let (memory, cpu, pids) = (&resources["memory"], &resources["cpu"], &resources["pids"]);
    LinuxResources {
        memory: memory.is_object().then(|| self::memory(memory)),
        cpu: cpu.is_object().then(|| self::cpu(cpu)),
        hugepage_limits: all(&resources["hugepageLimits"], |limit| HugepageLimit {
            page_size: text(&limit["pageSize"]),
            limit: limit["limit"].as_u64().unwrap_or_default(),
        }),
        // Names of the administrator's, which are not in configurations.
        blockio_class: None,
        rdt_class: None,
        unified: texts(&resources["unified"]),
        devices: all(&resources["devices"], rule),
        pids: pids["limit"].as_i64().map(|limit| LinuxPids { limit }),
    }
}

fn memory(memory: &Value) -> LinuxMemory {
    LinuxMemory {
        limit: int64(&memory["limit"]),
        reservation: int64(&memory["reservation"]),
        swap: int64(&memory["swap"]),
        kernel: int64(&memory["kernel"]),
        kernel_tcp: int64(&memory["kernelTCP"]),
        swappiness: uint64(&memory["swappiness"]),
        disable_oom_killer: bool(&memory["disableOOMKiller"]),
        use_hierarchy: bool(&memory["useHierarchy"]),
    }
}

fn cpu(cpu: &Value) -> LinuxCpu {
    LinuxCpu {
        shares: uint64(&cpu["shares"]),
        quota: int64(&cpu["quota"]),
        period: uint64(&cpu["period"]),
        realtime_runtime: int64(&cpu["realtimeRuntime"]),
        realtime_period: uint64(&cpu["realtimePeriod"]),
        cpus: text(&cpu["cpus"]),
        mems: text(&cpu["mems"]),
    }
}

fn linux(spec: &Value) -> LinuxContainer {
    let (linux, process) = (&spec["linux"], &spec["process"]);
    let object = |value: &Value| value.is_object();
    let (io, scheduler) = (&process["ioPriority"], &process["scheduler"]);
    let (seccomp, rdt) = (&linux["seccomp"], &linux["intelRdt"]);
    LinuxContainer {
        namespaces: all(&linux["namespaces"], |namespace| LinuxNamespace {
            r#type: text(&namespace["type"]),
            path: text(&namespace["path"]),
        }),
        devices: all(&linux["devices"], device),
        resources: object(&linux["resources"]).then(|| resources(&linux["resources"])),
        oom_score_adj: int(&process["oomScoreAdj"]),
        cgroups_path: text(&linux["cgroupsPath"]),
        io_priority: object(io).then(|| LinuxIoPriority {
            class: IoPrioClass::from_str_name(&text(&io["class"])).map_or(0, |class| class as i32),
            priority: int32(&io["priority"]),
        }),
        // The profile that was asked for is the caller's to say; this is what came of it.
        seccomp_profile: None,
        seccomp_policy: object(seccomp).then(|| self::seccomp(seccomp)),
        sysctl: texts(&linux["sysctl"]),
        net_devices: entries(&linux["netDevices"], |device| LinuxNetDevice {
            name: text(&device["name"]),
        }),
        scheduler: object(scheduler).then(|| self::scheduler(scheduler)),
        rdt: object(rdt).then(|| LinuxRdt {
            clos_id: rdt["closID"].as_str().map(|class| OptionalString {
                value: class.to_owned(),
            }),
            schemata: rdt["schemata"].is_array().then(|| OptionalRepeatedString {
                value: words(&rdt["schemata"]),
            }),
            enable_monitoring: bool(&rdt["enableMonitoring"]),
            remove: false,
        }),
    }
}

fn scheduler(scheduler: &Value) -> LinuxScheduler {
    let number = |name: &str| scheduler[name].as_u64().unwrap_or_default();
    let policy = LinuxSchedulerPolicy::from_str_name(&text(&scheduler["policy"]));
    let flags = words(&scheduler["flags"]);
    let flags = flags
        .iter()
        .filter_map(|flag| LinuxSchedulerFlag::from_str_name(flag));
    LinuxScheduler {
        policy: policy.map_or(0, |policy| policy as i32),
        nice: int32(&scheduler["nice"]),
        priority: int32(&scheduler["priority"]),
        flags: flags.map(|flag| flag as i32).collect(),
        runtime: number("runtime"),
        deadline: number("deadline"),
        period: number("period"),
    }
}

fn seccomp(seccomp: &Value) -> LinuxSeccomp {
    LinuxSeccomp {
        default_action: text(&seccomp["defaultAction"]),
        default_errno: uint32(&seccomp["defaultErrnoRet"]),
        architectures: words(&seccomp["architectures"]),
        flags: words(&seccomp["flags"]),
        listener_path: text(&seccomp["listenerPath"]),
        listener_metadata: text(&seccomp["listenerMetadata"]),
        syscalls: all(&seccomp["syscalls"], |rule| LinuxSyscall {
            names: words(&rule["names"]),
            action: text(&rule["action"]),
            errno_ret: uint32(&rule["errnoRet"]),
            args: all(&rule["args"], |arg| LinuxSeccompArg {
                index: number32(&arg["index"]).unwrap_or_default(),
                value: arg["value"].as_u64().unwrap_or_default(),
                value_two: arg["valueTwo"].as_u64().unwrap_or_default(),
                op: text(&arg["op"]),
            }),
        }),
    }
}

fn device(device: &Value) -> LinuxDevice {
    LinuxDevice {
        path: text(&device["path"]),
        r#type: text(&device["type"]),
        major: device["major"].as_i64().unwrap_or_default(),
        minor: device["minor"].as_i64().unwrap_or_default(),
        file_mode: number32(&device["fileMode"]).map(|value| OptionalFileMode { value }),
        uid: uint32(&device["uid"]),
        gid: uint32(&device["gid"]),
    }
}

fn rule(rule: &Value) -> LinuxDeviceCgroup {
    LinuxDeviceCgroup {
        allow: rule["allow"].as_bool().unwrap_or_default(),
        r#type: text(&rule["type"]),
        major: int64(&rule["major"]),
        minor: int64(&rule["minor"]),
        access: text(&rule["access"]),
    }
}

fn mount(mount: &Value) -> Mount {
    Mount {
        destination: text(&mount["destination"]),
        r#type: text(&mount["type"]),
        source: text(&mount["source"]),
        options: words(&mount["options"]),
    }
}

fn hooks(hooks: &Value) -> Hooks {
    let of = |name: &str| {
        all(&hooks[name], |hook| Hook {
            path: text(&hook["path"]),
            args: words(&hook["args"]),
            env: words(&hook["env"]),
            timeout: int(&hook["timeout"]),
        })
    };
    Hooks {
        prestart: of("prestart"),
        create_runtime: of("createRuntime"),
        create_container: of("createContainer"),
        start_container: of("startContainer"),
        poststart: of("poststart"),
        poststop: of("poststop"),
    }
}

fn rlimit(limit: &Value) -> PosixRlimit {
    PosixRlimit {
        r#type: text(&limit["type"]),
        hard: limit["hard"].as_u64().unwrap_or_default(),
        soft: limit["soft"].as_u64().unwrap_or_default(),
    }
}

fn user(user: &Value) -> User {
    let groups = user["additionalGids"].as_array().into_iter().flatten();
    User {
        uid: number32(&user["uid"]).unwrap_or_default(),
        gid: number32(&user["gid"]).unwrap_or_default(),
        additional_gids: groups.filter_map(number32).collect(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn words(value: &Value) -> Vec<String> {
    let words = value.as_array().into_iter().flatten();
    words.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn all<T>(value: &Value, each: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(each).collect()
}

fn entries<T>(value: &Value, each: impl Fn(&Value) -> T) -> BTreeMap<String, T> {
    let entries = value.as_object().into_iter().flatten();
    entries
        .map(|(key, value)| (key.clone(), each(value)))
        .collect()
}

fn texts(value: &Value) -> BTreeMap<String, String> {
    entries(value, text)
}

fn number32(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|value| value.try_into().ok())
}

fn int32(value: &Value) -> i32 {
    let value = value.as_i64().and_then(|value| value.try_into().ok());
    value.unwrap_or_default()
}

fn int(value: &Value) -> Option<OptionalInt> {
    value.as_i64().map(|value| OptionalInt { value })
}

fn int64(value: &Value) -> Option<OptionalInt64> {
    value.as_i64().map(|value| OptionalInt64 { value })
}

fn uint32(value: &Value) -> Option<OptionalUInt32> {
    number32(value).map(|value| OptionalUInt32 { value })
}

fn uint64(value: &Value) -> Option<OptionalUInt64> {
    value.as_u64().map(|value| OptionalUInt64 { value })
}

fn bool(value: &Value) -> Option<OptionalBool> {
    value.as_bool().map(|value| OptionalBool { value })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_missing_or_of_another_type_is_left_out() {
        let empty = Container {
            linux: Some(LinuxContainer::default()),
            ..Container::default()
        };
        for spec in [
            json!({}),
            json!(null),
            json!([1]),
            json!({"process": 1, "linux": "x", "mounts": {}, "hooks": [], "annotations": 1}),
            json!({"process": {"env": "A=1", "user": 0, "oomScoreAdj": "1", "ioPriority": []}}),
            json!({"linux": {"resources": 1, "devices": {}, "seccomp": "x", "sysctl": []}}),
        ] {
            assert_eq!(container(&spec), empty, "{spec}");
        }
    }

    #[test]
    fn a_user_has_groups() {
        let spec = json!({"process": {"user": {"uid": 1, "gid": 2, "additionalGids": [3, -1, 4]}}});
        let user = container(&spec).user.unwrap();
        assert_eq!((user.uid, user.gid), (1, 2));
        assert_eq!(user.additional_gids, [3, 4]);
    }
}
