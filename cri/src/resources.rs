//! Limits of what runs: UpdateContainerResources, UpdatePodSandboxResources.

use std::sync::Arc;

use oci_spec::runtime::LinuxResources;
use tonic::Status;

use crate::core::{Core, Life, given, precondition, whole};
use crate::proto::v1 as cri;
use crate::records::Kind;
use crate::status::status;
use crate::{Context, Error, ErrorKind};

impl Core {
    /// UpdateContainerResources: of a container that was made, or runs. What the request leaves open stays.
    pub(crate) async fn update_container(
        self: &Arc<Self>,
        request: cri::UpdateContainerResourcesRequest,
    ) -> Result<(), Status> {
        let container = self.container(&request.container_id)?;
        let new = given(request.linux, "linux")?;
        let core = Arc::clone(self);
        whole(async move {
            let _turn = container.turn.lock().await;
            let failed = || format!("cannot change the limits of container {}", container.id);
            if matches!(container.life(), Life::Ended(_)) {
                let error = precondition("it has ended").context(failed());
                return Err(status(&error));
            }
            let mut config = cri::ContainerConfig::clone(&container.config());
            let linux = config.linux.get_or_insert_default();
            let old = linux.resources.clone().unwrap_or_default();
            let updated = crate::spec::resources::updated(&old, &new);
            linux.resources = Some(updated.clone());
            let wanted = crate::spec::resources::resources(&updated, &core.node)
                .and_then(|document| {
                    serde_json::from_value::<LinuxResources>(document)
                        .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))
                })
                .context(failed)
                .map_err(|error| status(&error))?;
            let mut record = container.state().record.clone();
            record.set_config(&config);
            let (this, id, written) = (Arc::clone(&core), container.id.clone(), record.clone());
            let done = core.light.run(move || {
                this.runtime
                    .update(&id, &wanted, None, None)
                    .context(|| format!("cannot change the limits of container {id}"))?;
                this.places.write_container(&written)
            });
            done.await?;
            let mut state = container.state();
            state.record = record;
            state.config = Arc::new(config);
            drop(state);
            core.settle(Kind::Container, &container.id);
            Ok(())
        })
        .await
    }

    /// UpdatePodSandboxResources: the kubelet has changed the pod's cgroup, which is its own; here it is
    /// kept what that amounts to.
    pub(crate) async fn update_pod(
        self: &Arc<Self>,
        request: cri::UpdatePodSandboxResourcesRequest,
    ) -> Result<(), Status> {
        let pod = self.pod(&request.pod_sandbox_id)?;
        let core = Arc::clone(self);
        whole(async move {
            let _turn = pod.turn.lock().await;
            if !pod.is_ready() {
                let text = format!(
                    "cannot change the limits of pod {}: it is not ready",
                    pod.id
                );
                return Err(status(&precondition(text)));
            }
            let mut config = cri::PodSandboxConfig::clone(&pod.config());
            let linux = config.linux.get_or_insert_default();
            linux.overhead = request.overhead.or(linux.overhead.take());
            linux.resources = request.resources.or(linux.resources.take());
            let mut record = pod.state().record.clone();
            record.set_config(&config);
            let (this, written) = (Arc::clone(&core), record.clone());
            core.light
                .run(move || this.places.write_pod(&written))
                .await?;
            let mut state = pod.state();
            state.record = record;
            state.config = Arc::new(config);
            drop(state);
            core.settle(Kind::Pod, &pod.id);
            Ok(())
        })
        .await
    }
}
