//! The init of a pod whose containers share a pid namespace: an OCI container without a program, which
//! reaps what is left to it. When it ends, the kernel ends all processes of the pod.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcrun_runtime::container::CgroupDriver;
use rcrun_runtime::pin;
use serde_json::{Value, json};

use super::mapping;
use crate::core::{Core, Pod};
use crate::readable::readable;
use crate::records::{Kind, PodStage};
use crate::spec::PodPlan;
use crate::{Context, Error, ErrorKind, Result};

/// Makes the init, and keeps its pid namespace beside the pod's others.
pub(super) fn start(core: &Core, pod: &Pod, plan: &PodPlan) -> Result<()> {
    let bundle = core.places.path(Kind::Pod, &pod.id).join("init");
    let failed = || "cannot start the pod's init";
    std::fs::create_dir_all(bundle.join("rootfs/dev")).context(failed)?;
    let config = config(core, pod, plan)?.to_string();
    std::fs::write(bundle.join("config.json"), config).context(failed)?;
    let mut command = Command::new("/proc/self/exe");
    std::os::unix::process::CommandExt::arg0(&mut command, "rcrun");
    // Not its standard streams: the init keeps those.
    let log = bundle.join("log");
    command.env_clear().arg("--root").arg(&core.runtime.root);
    command
        .arg("--log")
        .arg(&log)
        .args(["--log-format", "json"]);
    if core.runtime.cgroup_driver == CgroupDriver::Systemd {
        command.arg("--systemd-cgroup");
    }
    let status = command
        .arg("create")
        .arg("--bundle")
        .arg(&bundle)
        .arg(&pod.id)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context(failed)?;
    if !status.success() {
        return Err(Error::new(ErrorKind::Internal, last_words(&log))).context(failed);
    }
    let report = core.runtime.state(&pod.id).context(failed)?;
    pin::pin_pid(&core.places.of_boot(&pod.id), report.pid).context(failed)
}

/// The last message of a log.
fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let message = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        Some(line.get("msg")?.as_str()?.to_owned())
    };
    let last = text.lines().rev().find_map(message);
    last.unwrap_or_else(|| "rcrun create ended without a word".to_owned())
}

fn config(core: &Core, pod: &Pod, plan: &PodPlan) -> Result<Value> {
    let pinned = super::pinned(core, &pod.id, plan);
    let mut namespaces = vec![json!({"type": "pid"}), json!({"type": "mount"})];
    for (kind, path) in [
        ("network", pinned.network),
        ("ipc", pinned.ipc),
        ("uts", pinned.uts),
        ("user", pinned.user),
    ] {
        namespaces.extend(path.map(|path| json!({"type": kind, "path": path})));
    }
    let map: Vec<_> = plan
        .namespaces
        .user
        .iter()
        .map(mapping)
        .collect::<Result<_>>()?;
    let mut linux = json!({
        "namespaces": namespaces,
        "cgroupsPath": plan.cgroup.container(&pod.id),
        "resources": { "cpu": { "shares": 2 } },
    });
    if !map.is_empty() {
        linux["uidMappings"] = json!(map);
        linux["gidMappings"] = json!(map);
    }
    Ok(json!({
        "ociVersion": "1.2.0",
        "root": { "path": "rootfs", "readonly": true },
        // The root of a user namespace may not write to the other one.
        "mounts": [{
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "mode=755", "size=64k"],
        }],
        "linux": linux,
        "annotations": {
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": pod.id,
        },
    }))
}

/// Takes the init away, with all that lives in its pid namespace; there need not be one.
pub(crate) fn remove(core: &Core, id: &str) -> Result<()> {
    core.runtime.delete(id, true)
}

/// From now on: when the init of a pod ends before its time, the pod is not ready.
pub(crate) fn watch(core: &Arc<Core>, pod: &Arc<Pod>) {
    let Ok(Some((_, pidfd))) = core.runtime.init(&pod.id) else {
        return;
    };
    let (core, pod) = (Arc::clone(core), Arc::clone(pod));
    tokio::spawn(async move {
        match readable(pidfd) {
            Ok(pidfd) => drop(pidfd.readable().await),
            Err(error) => {
                tracing::error!(
                    pod = pod.id,
                    "cannot watch the pod's init: {}",
                    error.chain()
                );
                return;
            }
        }
        let record = {
            let mut state = pod.state();
            if state.record.state != PodStage::Ready {
                return;
            }
            state.record.state = PodStage::Stopped;
            state.record.clone()
        };
        tracing::warn!(pod = pod.id, "the pod's init ended before its time");
        let this = Arc::clone(&core);
        let _ = core.light.run(move || this.places.write_pod(&record)).await;
        core.events.of_pod(
            &pod,
            crate::proto::v1::ContainerEventType::ContainerStoppedEvent,
        );
    });
}
