//! What is told of pods and containers: lists, filters, states. From memory alone.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::core::{Container, ContainerState, Core, Life, Pod, PodState};
use crate::proto::v1 as cri;
use crate::records::{Kind, PodStage};

/// A pod's state, as the interface has it.
fn pod_state(state: &PodState) -> cri::PodSandboxState {
    match state.record.state {
        PodStage::Ready => cri::PodSandboxState::SandboxReady,
        PodStage::Making | PodStage::Stopped => cri::PodSandboxState::SandboxNotready,
    }
}

/// A container's state, as the interface has it.
fn container_state(life: &Life) -> cri::ContainerState {
    match life {
        Life::Made => cri::ContainerState::ContainerCreated,
        Life::Running => cri::ContainerState::ContainerRunning,
        Life::Ended(_) => cri::ContainerState::ContainerExited,
    }
}

/// Whether all of these labels are there.
pub(crate) fn has_labels(
    labels: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
) -> bool {
    let has = |(name, value): (&String, &String)| labels.get(name) == Some(value);
    wanted.iter().all(has)
}

/// A pod in a list; none when the filter leaves it out. An identifier in it may be a beginning.
pub(crate) fn listed_pod(
    pod: &Pod,
    filter: Option<&cri::PodSandboxFilter>,
) -> Option<cri::PodSandbox> {
    let state = pod.state();
    let told = pod_state(&state);
    let config = &state.config;
    let wanted = filter.is_none_or(|filter| {
        pod.id.starts_with(&filter.id)
            && filter
                .state
                .is_none_or(|state| state.state == i32::from(told))
            && has_labels(&config.labels, &filter.label_selector)
    });
    wanted.then(|| cri::PodSandbox {
        id: pod.id.clone(),
        metadata: config.metadata.clone(),
        state: told.into(),
        created_at: pod.created,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: pod.handler.clone(),
    })
}

/// A container in a list; none when the filter leaves it out.
pub(crate) fn listed_container(
    container: &Container,
    filter: Option<&cri::ContainerFilter>,
) -> Option<cri::Container> {
    let told = container_state(&container.life.borrow());
    let state = container.state();
    let config = &state.config;
    let wanted = filter.is_none_or(|filter| {
        container.id.starts_with(&filter.id)
            && container.pod.id.starts_with(&filter.pod_sandbox_id)
            && filter
                .state
                .is_none_or(|state| state.state == i32::from(told))
            && has_labels(&config.labels, &filter.label_selector)
    });
    wanted.then(|| cri::Container {
        id: container.id.clone(),
        pod_sandbox_id: container.pod.id.clone(),
        metadata: config.metadata.clone(),
        image: config.image.clone(),
        image_ref: state.record.image.reference.clone(),
        state: told.into(),
        created_at: container.created,
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        image_id: state.record.image.id.clone(),
    })
}

/// A pod's status.
pub(crate) fn pod(pod: &Pod) -> cri::PodSandboxStatus {
    let state = pod.state();
    let config = &state.config;
    let mut addresses = state.record.addresses.iter();
    let ready = state.record.state == PodStage::Ready;
    let security = config
        .linux
        .as_ref()
        .and_then(|linux| linux.security_context.as_ref());
    let options = security.and_then(|security| security.namespace_options.clone());
    cri::PodSandboxStatus {
        id: pod.id.clone(),
        metadata: config.metadata.clone(),
        state: pod_state(&state).into(),
        created_at: pod.created,
        network: Some(match ready {
            true => cri::PodSandboxNetworkStatus {
                ip: addresses.next().cloned().unwrap_or_default(),
                additional_ips: addresses.map(|ip| cri::PodIp { ip: ip.clone() }).collect(),
            },
            false => cri::PodSandboxNetworkStatus::default(),
        }),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options }),
        }),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        runtime_handler: pod.handler.clone(),
    }
}

/// A container's status.
pub(crate) fn container(container: &Container) -> cri::ContainerStatus {
    let life = container.life();
    let state = container.state();
    let (config, record) = (&state.config, &state.record);
    let mut status = cri::ContainerStatus {
        id: container.id.clone(),
        metadata: config.metadata.clone(),
        state: container_state(&life).into(),
        created_at: container.created,
        started_at: record.started.unwrap_or(0),
        image: image(&state),
        image_ref: record.image.reference.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        mounts: mounts(&state),
        log_path: record
            .log
            .as_ref()
            .map(|log| log.display().to_string())
            .unwrap_or_default(),
        resources: config
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.as_ref())
            .map(|asked| crate::spec::status::resources(asked, &container.pod.node)),
        image_id: record.image.id.clone(),
        user: Some(cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: record.user.uid,
                gid: record.user.gid,
                supplemental_groups: record.user.groups.clone(),
            }),
        }),
        stop_signal: crate::spec::status::stop_signal(record.stop_signal).into(),
        ..Default::default()
    };
    if let Life::Ended(end) = life {
        status.finished_at = end.at;
        status.exit_code = end.code;
        status.reason = end.reason.to_owned();
        status.message = end.message;
    }
    status
}

/// What a container was asked for, with the image's name in the place of its identifier.
fn image(state: &ContainerState) -> Option<cri::ImageSpec> {
    let mut spec = state.config.image.clone()?;
    if let Some(name) = &state.record.image.name {
        spec.image.clone_from(name);
    }
    Some(spec)
}

/// Mounts as they were asked for; those of images say where they come from.
fn mounts(state: &ContainerState) -> Vec<cri::Mount> {
    let volumes = &state.record.volumes;
    let mut mounts = state.config.mounts.clone();
    for volume in volumes {
        if let Some(mount) = mounts.get_mut(volume.index) {
            mount.host_path = volume.path.display().to_string();
            if let Some(image) = &mut mount.image {
                image.image_ref = volume.image.id.clone();
            }
        }
    }
    mounts
}

impl Core {
    /// Pods that a filter leaves, by their identifiers.
    pub(crate) fn list_pods(&self, filter: Option<&cri::PodSandboxFilter>) -> Vec<cri::PodSandbox> {
        let pods = self.pods();
        pods.iter()
            .filter_map(|pod| listed_pod(pod, filter))
            .collect()
    }

    /// Containers that a filter leaves, by their identifiers.
    pub(crate) fn list_containers(
        &self,
        filter: Option<&cri::ContainerFilter>,
    ) -> Vec<cri::Container> {
        let all = self.containers();
        all.iter()
            .filter_map(|one| listed_container(one, filter))
            .collect()
    }

    /// For people: what crictl shows as `info`.
    pub(crate) fn pod_info(&self, pod: &Pod) -> BTreeMap<String, String> {
        let init = self.runtime.init(&pod.id).ok().flatten();
        let directory = self.places.of_boot(&pod.id);
        let info = json!({
            "pid": init.map_or(0, |(pid, _)| pid),
            "runtimeType": "rcrun",
            "netNamespace": directory.join("net"),
            "netNamespaceClosed": rcrun_runtime::pin::open(&directory, "net").is_err(),
            "addresses": pod.state().record.addresses,
            "directory": self.places.path(Kind::Pod, &pod.id),
        });
        BTreeMap::from([("info".to_owned(), info.to_string())])
    }

    /// The same of a container.
    pub(crate) async fn container_info(&self, container: &Container) -> BTreeMap<String, String> {
        let init = self.runtime.init(&container.id).ok().flatten();
        let directory = self.places.path(Kind::Container, &container.id);
        let config = directory.join("config.json");
        let spec = self.light.run(move || Ok(std::fs::read(config)?)).await;
        let spec = spec
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        let state = container.state();
        let info = json!({
            "sandboxID": container.pod.id,
            "pid": init.map_or(0, |(pid, _)| pid),
            "snapshotKey": state.record.snapshot,
            "runtimeType": "rcrun",
            "runtimeRoot": self.runtime.root,
            "directory": directory,
            "imageID": state.record.image.id,
            "runtimeSpec": spec.unwrap_or(Value::Null),
        });
        BTreeMap::from([("info".to_owned(), info.to_string())])
    }
}
