//! Limits of what runs: UpdateContainerResources, UpdatePodSandboxResources.

use std::sync::Arc;

use oci_spec::runtime::LinuxResources;
use tonic::Status;

use crate::core::{Container, Core, Life, given, precondition, whole};
use crate::nri::Change;
use crate::proto::v1 as cri;
use crate::records::Kind;
use crate::status::status;
use crate::{Context, Error};

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
            if matches!(container.life(), Life::Ended(_)) {
                let failed = format!("cannot change the limits of container {}", container.id);
                let error = precondition("it has ended").context(failed);
                return Err(status(&error));
            }
            let told = core.telling().await;
            let (wanted, evicted) = match &told {
                Some(told) => told.update(&container, &new).await?,
                None => Default::default(),
            };
            core.limit(&container, &new, wanted.as_ref()).await?;
            if let Some(told) = told {
                told.post_update(&container).await;
            }
            evicted.gone().await;
            Ok(())
        })
        .await
    }

    /// Changes the limits of a container: what is asked for now (perhaps nothing), and what NRI plugins want beside it.
    pub(crate) async fn limit(
        self: &Arc<Self>,
        container: &Arc<Container>,
        asked: &cri::LinuxContainerResources,
        plugins: Option<&rcrun_nri::proto::v1alpha1::LinuxResources>,
    ) -> Result<(), Status> {
        let failed = || format!("cannot change the limits of container {}", container.id);
        let refused = |error: Error| status(&error.context(failed()));
        // Otherwise it is its turn.
        let _changing = match self.nri.get() {
            Some(_) => Some(container.changing.lock().await),
            None => None,
        };
        if matches!(container.life(), Life::Ended(_)) {
            return Err(refused(precondition("it has ended")));
        }
        let mut config = cri::ContainerConfig::clone(&container.config());
        let mut record = container.state().record.clone();
        let linux = config.linux.get_or_insert_default();
        let old = linux.resources.clone().unwrap_or_default();
        let adjusted = record.adjusted().map_err(refused)?;
        let change =
            crate::nri::change(&old, &adjusted, asked, plugins, &self.node).map_err(refused)?;
        let Change {
            asked,
            adjusted,
            document,
        } = change;
        let wanted = serde_json::from_value::<LinuxResources>(document)
            .map_err(|error| refused(Error::invalid(error.to_string())))?;
        linux.resources = Some(asked);
        record.set_config(&config);
        record.set_adjusted(&adjusted);
        let (this, id, written) = (Arc::clone(self), container.id.clone(), record.clone());
        let done = self.light.run(move || {
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
        self.settle(Kind::Container, &container.id);
        Ok(())
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
            let told = core.telling().await;
            if let Some(told) = &told {
                let (overhead, resources) = (&request.overhead, &request.resources);
                told.update_pod(&pod, overhead.as_ref(), resources.as_ref())
                    .await?;
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
            {
                let mut state = pod.state();
                state.record = record;
                state.config = Arc::new(config);
            }
            core.settle(Kind::Pod, &pod.id);
            if let Some(told) = told {
                told.post_update_pod(&pod).await;
            }
            Ok(())
        })
        .await
    }
}
