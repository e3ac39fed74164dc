//! Pods and containers as plugins see them: from memory, the container's configuration, and the runtime. Blocks.

use rcrun_nri::proto::v1alpha1::{
    CdiDevice, Container as Described, ContainerState, Image, LinuxNamespace, LinuxPodSandbox,
    LinuxResources, PodSandbox, SecurityProfile,
};
use rcrun_nri::{adjust, describe};
use serde_json::Value;

use super::limits;
use crate::core::{Container, Core, Life, Pod};
use crate::proto::v1 as cri;
use crate::records::Kind;
use crate::spec::resources;

/// Where an image's name for people is in a configuration.
const IMAGE_NAME: &str = "io.kubernetes.cri.image-name";

/// A pod.
pub(super) fn pod(core: &Core, pod: &Pod) -> PodSandbox {
    let (config, record) = {
        let state = pod.state();
        (state.config.clone(), state.record.clone())
    };
    let meta = config.metadata.clone().unwrap_or_default();
    let init = core.runtime.init(&pod.id).ok().flatten();
    PodSandbox {
        id: pod.id.clone(),
        name: meta.name,
        uid: meta.uid,
        namespace: meta.namespace,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: pod.handler.clone(),
        linux: Some(linux(core, pod, &config, init.is_some())),
        pid: init.and_then(|(pid, _)| pid.try_into().ok()).unwrap_or(0),
        ips: record.addresses,
    }
}

fn linux(core: &Core, pod: &Pod, config: &cri::PodSandboxConfig, init: bool) -> LinuxPodSandbox {
    let limits = |asked: Option<&cri::LinuxContainerResources>| -> Option<LinuxResources> {
        limits::seen(asked?, &core.node).ok()
    };
    let linux = config.linux.clone().unwrap_or_default();
    let mut described = LinuxPodSandbox {
        pod_overhead: limits(linux.overhead.as_ref()),
        pod_resources: limits(linux.resources.as_ref()),
        cgroup_parent: linux.cgroup_parent,
        ..Default::default()
    };
    // Judged when the pod was made.
    let Ok(plan) = pod.plan() else {
        return described;
    };
    if init {
        described.cgroups_path = plan.cgroup.container(&pod.id);
    }
    let held = crate::pods::pinned(core, &pod.id, plan);
    let all = [
        ("network", held.network),
        ("ipc", held.ipc),
        ("uts", held.uts),
        ("user", held.user),
        ("pid", held.pid),
    ];
    // Those of a pod that was stopped are gone.
    let there = all.into_iter().filter_map(|(kind, path)| {
        let path = path.filter(|path| path.exists())?;
        Some(LinuxNamespace {
            r#type: kind.to_owned(),
            path: path.display().to_string(),
        })
    });
    described.namespaces = there.collect();
    described
}

/// A container in this moment of its life.
pub(super) fn container(core: &Core, container: &Container, life: &Life) -> Described {
    let path = core.places.path(Kind::Container, &container.id);
    let text = std::fs::read(path.join("config.json")).unwrap_or_default();
    let mut spec: Value = serde_json::from_slice(&text).unwrap_or_default();
    let record = container.state().record.clone();
    // They may have been changed since the configuration was written.
    let asked = container.config().linux.clone().unwrap_or_default();
    let asked = asked.resources.unwrap_or_default();
    let all = resources::updated(&asked, &record.adjusted().unwrap_or_default());
    if let Ok(limits) = limits::seen(&all, &core.node) {
        let _ = adjust::apply_resources(&mut spec, &limits);
    }
    let mut described = planned(container, &spec);
    described.created_at = container.created;
    described.started_at = record.started.unwrap_or(0);
    let (state, alive) = match life {
        Life::Made => (ContainerState::ContainerCreated, true),
        Life::Running => (ContainerState::ContainerRunning, true),
        Life::Ended(end) => {
            described.finished_at = end.at;
            described.exit_code = end.code;
            described.status_reason = end.reason.to_owned();
            described.status_message.clone_from(&end.message);
            (ContainerState::ContainerStopped, false)
        }
    };
    described.state = state.into();
    if alive && let Ok(Some((pid, _))) = core.runtime.init(&container.id) {
        described.pid = pid.try_into().unwrap_or(0);
    }
    described
}

/// One that is to be made.
pub(super) fn planned(container: &Container, spec: &Value) -> Described {
    let mut described = describe::container(spec);
    let (config, record) = {
        let state = container.state();
        (state.config.clone(), state.record.clone())
    };
    described.id.clone_from(&container.id);
    described.pod_sandbox_id.clone_from(&container.pod.id);
    described.name = config.metadata.clone().unwrap_or_default().name;
    described.labels.clone_from(&config.labels);
    described.annotations.extend(config.annotations.clone());
    let names = config.cdi_devices.iter();
    described.cdi_devices = names
        .map(|device| CdiDevice {
            name: device.name.clone(),
        })
        .collect();
    described.image = Some(Image {
        name: spec["annotations"][IMAGE_NAME]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        digest: record.image.manifest,
        config_digest: record.image.id,
    });
    if let Some(linux) = &mut described.linux {
        linux.seccomp_profile = seccomp(&config);
    }
    described
}

/// The profile that was asked for.
fn seccomp(config: &cri::ContainerConfig) -> Option<SecurityProfile> {
    let asked = config
        .linux
        .as_ref()?
        .security_context
        .as_ref()?
        .seccomp
        .as_ref()?;
    Some(SecurityProfile {
        // The numbers are the same.
        profile_type: asked.profile_type,
        localhost_ref: asked.localhost_ref.clone(),
    })
}
