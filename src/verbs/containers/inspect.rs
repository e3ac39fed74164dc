//! A container in the shape of `docker inspect`, for the verb that shows images too.

use rcrun_runtime::error::Result;
use serde_json::{Value, json};

use super::{all, port};
use crate::containers::{Container, Exit, Record, Status, VolumeUse};
use crate::settings::Settings;

/// What docker says of a moment that has not come.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// The container that a name or identifier stands for; none if there is none.
pub(in crate::verbs) fn find(settings: &Settings, name: &str) -> Result<Option<Value>> {
    let Some(containers) = all(settings)? else {
        return Ok(None);
    };
    let Some(container) = containers.find(name)? else {
        return Ok(None);
    };
    match container.record()? {
        Some(record) => show(&container, &record).map(Some),
        None => Ok(None),
    }
}

fn show(container: &Container, record: &Record) -> Result<Value> {
    let config = container.config()?;
    let status = container.status(record)?;
    let process = &config["process"];
    let user = &process["user"];
    let (path, args) = match record.command.split_first() {
        Some((path, args)) => (path.as_str(), args),
        None => ("", &[][..]),
    };
    let log = record.log.as_ref().map(|_| container.path().join("log"));
    Ok(json!({
        "Id": record.id,
        "Created": record.created,
        "Path": path,
        "Args": args,
        "State": state(container, record, &status),
        "Image": record.image.config,
        "ImageManifest": record.image.manifest,
        "ResolvConfPath": container.path().join("resolv.conf"),
        "HostnamePath": container.path().join("hostname"),
        "HostsPath": container.path().join("hosts"),
        "LogPath": log,
        "Name": record.name,
        "RestartCount": 0,
        "Driver": "overlay",
        "Platform": "linux",
        "ProcessLabel": process["selinuxLabel"].as_str().unwrap_or_default(),
        "AppArmorProfile": process["apparmorProfile"].as_str().unwrap_or_default(),
        "HostConfig": host_config(record, &config),
        "GraphDriver": {"Name": "overlay", "Data": {"Snapshot": record.snapshot}},
        "Mounts": mounts(&config, &record.volumes),
        "Config": {
            "Hostname": config["hostname"].as_str().unwrap_or_default(),
            "Domainname": config["domainname"].as_str().unwrap_or_default(),
            "User": format!("{}:{}", user["uid"], user["gid"]),
            "AttachStdin": false,
            "AttachStdout": true,
            "AttachStderr": true,
            "Tty": record.terminal,
            "OpenStdin": record.stdin != crate::containers::Stdin::None,
            "StdinOnce": record.stdin == crate::containers::Stdin::Once,
            "Env": process["env"],
            "Cmd": record.command,
            "Image": record.image.name,
            "WorkingDir": process["cwd"],
            "Labels": record.labels,
            "StopSignal": record.stop_signal.to_string(),
            "StopTimeout": record.stop_timeout,
        },
        "NetworkSettings": port::settings(record, &status)?,
    }))
}

fn state(container: &Container, record: &Record, status: &Status) -> Value {
    let exit: Option<&Exit> = match status {
        Status::Exited(exit) => exit.as_ref(),
        _ => None,
    };
    let started = match status.pid() {
        Some(_) => record.runtime().state(container.id()).ok(),
        None => None,
    };
    json!({
        "Status": status.as_str(),
        "Running": status.pid().is_some(),
        "Paused": matches!(status, Status::Paused(_)),
        "Restarting": false,
        "OOMKilled": exit.is_some_and(|exit| exit.oom),
        "Dead": false,
        "Pid": status.pid().unwrap_or(0),
        "ExitCode": exit.map_or(0, |exit| exit.code),
        "ExitSignal": exit.and_then(|exit| exit.signal),
        "Error": "",
        "StartedAt": started.map_or_else(|| NEVER.to_owned(), |state| state.created),
        "FinishedAt": exit.map_or(NEVER, |exit| exit.finished_at.as_str()),
    })
}

fn host_config(record: &Record, config: &Value) -> Value {
    let limits = &config["linux"]["resources"];
    let namespace = |kind: &str| {
        let all = config["linux"]["namespaces"].as_array();
        let found = all.and_then(|all| all.iter().find(|one| one["type"] == kind));
        match found {
            None => "host".to_owned(),
            Some(one) => match one["path"].as_str() {
                Some(path) => format!("ns:{path}"),
                None => "private".to_owned(),
            },
        }
    };
    let network = match namespace("network") {
        _ if record.network.is_some() => "bridge".to_owned(),
        private if private == "private" => "none".to_owned(),
        other => other,
    };
    let log = record.log.as_ref();
    json!({
        "AutoRemove": record.auto_remove,
        "NetworkMode": network,
        "PortBindings": port::bindings(record),
        "PidMode": namespace("pid"),
        "IpcMode": namespace("ipc"),
        "UTSMode": namespace("uts"),
        "UsernsMode": namespace("user"),
        "CgroupnsMode": namespace("cgroup"),
        "ReadonlyRootfs": config["root"]["readonly"].as_bool().unwrap_or(false),
        "Memory": limits["memory"]["limit"].as_i64().unwrap_or(0),
        "MemorySwap": limits["memory"]["swap"].as_i64().unwrap_or(0),
        "CpuShares": limits["cpu"]["shares"].as_u64().unwrap_or(0),
        "CpuQuota": limits["cpu"]["quota"].as_i64().unwrap_or(0),
        "CpuPeriod": limits["cpu"]["period"].as_u64().unwrap_or(0),
        "CpusetCpus": limits["cpu"]["cpus"].as_str().unwrap_or_default(),
        "PidsLimit": limits["pids"]["limit"],
        "CgroupParent": "",
        "Cgroup": config["linux"]["cgroupsPath"],
        "Capabilities": config["process"]["capabilities"]["bounding"],
        "MaskedPaths": config["linux"]["maskedPaths"],
        "ReadonlyPaths": config["linux"]["readonlyPaths"],
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "LogConfig": {
            "Type": if log.is_some() { "json-file" } else { "none" },
            "Config": log.map(|log| json!({
                "max-size": log.max_size,
                "max-file": log.max_files,
            })),
        },
        "Runtime": "rcrun",
    })
}

/// What people mounted: what every container has is left out.
fn mounts(config: &Value, volumes: &[VolumeUse]) -> Vec<Value> {
    const OWN: [&str; 3] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
    const KERNEL: [&str; 6] = [
        "/proc",
        "/sys",
        "/sys/fs/cgroup",
        "/dev/pts",
        "/dev/mqueue",
        "/dev",
    ];
    let all = config["mounts"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter()
        .filter_map(|mount| {
            let target = mount["destination"].as_str()?;
            if OWN.contains(&target) || KERNEL.contains(&target) {
                return None;
            }
            let options: Vec<&str> = mount["options"]
                .as_array()
                .map_or(&[][..], Vec::as_slice)
                .iter()
                .filter_map(Value::as_str)
                .collect();
            let bind = options
                .iter()
                .any(|option| matches!(*option, "bind" | "rbind"));
            let propagation = options.iter().find(|option| {
                option.trim_start_matches('r').starts_with("private")
                    || option.ends_with("shared")
                    || option.ends_with("slave")
            });
            let volume = volumes.iter().find(|volume| volume.destination == target);
            if let Some(volume) = volume {
                return Some(json!({
                    "Type": "volume",
                    "Name": volume.name,
                    "Source": mount["source"],
                    "Destination": target,
                    "Driver": "local",
                    "Mode": options.join(","),
                    "RW": !options.contains(&"ro"),
                    "Propagation": "",
                }));
            }
            Some(json!({
                "Type": if bind { "bind" } else { mount["type"].as_str().unwrap_or_default() },
                "Source": if bind { mount["source"].as_str().unwrap_or_default() } else { "" },
                "Destination": target,
                "Mode": options.join(","),
                "RW": !options.contains(&"ro"),
                "Propagation": propagation,
            }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_mounts_are_not_shown() {
        let config = json!({"mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/etc/hosts", "type": "bind", "source": "/s", "options": ["rbind"]},
            {"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind", "ro", "rprivate"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
            {"destination": "/v", "type": "bind", "source": "/s/volumes/x1/data", "options": ["rbind"]},
        ]});
        let volumes = [VolumeUse {
            name: "x1".into(),
            destination: "/v".into(),
            anonymous: false,
        }];
        let shown = mounts(&config, &volumes);
        assert_eq!(shown.len(), 3);
        assert_eq!(shown[2]["Type"], "volume");
        assert_eq!(shown[2]["Name"], "x1");
        assert_eq!(shown[0]["Source"], "/srv");
        assert_eq!(
            (shown[0]["RW"].as_bool(), shown[0]["Propagation"].as_str()),
            (Some(false), Some("rprivate"))
        );
        assert_eq!(
            (shown[1]["Type"].as_str(), shown[1]["Source"].as_str()),
            (Some("tmpfs"), Some(""))
        );
    }
}
