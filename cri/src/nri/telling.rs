//! One operation and its events: who is described to plugins, and what becomes of their answers.
//!
//! A pod and a container are described in the moment of their event, and only if there is a plugin.

use std::sync::Arc;

use rcrun_nri::proto::v1alpha1::{
    Container as Described, ContainerUpdate, LinuxResources, PodSandbox,
};
use rcrun_nri::{Created, Operation};
use serde_json::Value;
use tonic::Status;

use super::{Evicted, describe, limits};
use crate::core::{Container, Core, Life, Pod};
use crate::proto::v1 as cri;
use crate::status::status;
use crate::{Error, Result};

/// One operation, of which plugins are told.
pub(crate) struct Telling {
    pub(super) core: Arc<Core>,
    pub(super) operation: Operation,
}

/// What only is told: that it fails fails nothing.
fn log(event: &str, id: &str, told: Result<()>) {
    if let Err(error) = told {
        tracing::warn!(id, "NRI, {event}: {}", error.chain());
    }
}

impl Telling {
    /// A description, made where it may block; none if nobody is there to read it.
    async fn described<T: Send + 'static>(
        &self,
        describe: impl FnOnce(&Core) -> T + Send + 'static,
    ) -> Result<Option<T>, Status> {
        if !self.operation.is_heard() {
            return Ok(None);
        }
        let core = Arc::clone(&self.core);
        self.core.light.run(move || Ok(Some(describe(&core)))).await
    }

    async fn pod(&self, pod: &Arc<Pod>) -> Result<Option<PodSandbox>, Status> {
        let pod = Arc::clone(pod);
        self.described(move |core| describe::pod(core, &pod)).await
    }

    /// A container, and its pod.
    async fn container(
        &self,
        container: &Arc<Container>,
        life: &Life,
    ) -> Result<Option<(PodSandbox, Described)>, Status> {
        let (container, life) = (Arc::clone(container), life.clone());
        self.described(move |core| {
            let pod = describe::pod(core, &container.pod);
            (pod, describe::container(core, &container, &life))
        })
        .await
    }

    /// A pod is whole. If a plugin refuses it, all are told that it goes.
    pub(crate) async fn run_pod(&self, pod: &Arc<Pod>) -> Result<(), Status> {
        let Some(seen) = self.pod(pod).await? else {
            return Ok(());
        };
        let told = self.operation.run_pod_sandbox(&seen).await;
        if told.is_err() {
            log(
                "StopPodSandbox",
                &pod.id,
                self.operation.stop_pod_sandbox(&seen).await,
            );
            log(
                "RemovePodSandbox",
                &pod.id,
                self.operation.remove_pod_sandbox(&seen).await,
            );
        }
        told.map_err(|error| status(&error.context("cannot run the pod")))
    }

    /// It goes after all, though plugins agreed.
    pub(crate) async fn undo_pod(&self, pod: &Arc<Pod>) {
        self.stop_pod(pod).await;
        self.remove_pod(self.last_of_pod(pod).await).await;
    }

    /// Its containers have stopped, and it is still there.
    pub(crate) async fn stop_pod(&self, pod: &Arc<Pod>) {
        if let Ok(Some(seen)) = self.pod(pod).await {
            log(
                "StopPodSandbox",
                &pod.id,
                self.operation.stop_pod_sandbox(&seen).await,
            );
        }
    }

    /// As plugins are to see it when it is gone.
    pub(crate) async fn last_of_pod(&self, pod: &Arc<Pod>) -> Option<PodSandbox> {
        self.pod(pod).await.ok().flatten()
    }

    /// It is gone.
    pub(crate) async fn remove_pod(&self, seen: Option<PodSandbox>) {
        if let Some(seen) = seen {
            log(
                "RemovePodSandbox",
                &seen.id,
                self.operation.remove_pod_sandbox(&seen).await,
            );
        }
    }

    /// Its limits are about to change.
    pub(crate) async fn update_pod(
        &self,
        pod: &Arc<Pod>,
        overhead: Option<&cri::LinuxContainerResources>,
        resources: Option<&cri::LinuxContainerResources>,
    ) -> Result<(), Status> {
        let Some(seen) = self.pod(pod).await? else {
            return Ok(());
        };
        let limits = |asked: Option<&cri::LinuxContainerResources>| {
            let seen = asked.map(|asked| limits::seen(asked, &self.core.node));
            seen.transpose().map_err(|error| status(&error))
        };
        let (overhead, resources) = (limits(overhead)?, limits(resources)?);
        let told = self
            .operation
            .update_pod_sandbox(&seen, overhead.as_ref(), resources.as_ref());
        let failed = || format!("cannot change the limits of pod {}", pod.id);
        told.await.map_err(|error| status(&error.context(failed())))
    }

    /// They have changed.
    pub(crate) async fn post_update_pod(&self, pod: &Arc<Pod>) {
        if let Ok(Some(seen)) = self.pod(pod).await {
            log(
                "PostUpdatePodSandbox",
                &pod.id,
                self.operation.post_update_pod_sandbox(&seen).await,
            );
        }
    }

    /// What plugins want of a container that is to be made of this configuration. What they want of others is done.
    pub(crate) async fn create(
        &self,
        container: &Arc<Container>,
        spec: &Value,
    ) -> Result<(Created, Evicted), Status> {
        let described = describe::planned(container, spec);
        let Some(pod) = self.pod(&container.pod).await? else {
            return Ok(Default::default());
        };
        let mut created = self
            .operation
            .create_container(&pod, &described)
            .await
            .map_err(|error| status(&error.context("cannot create the container")))?;
        let evicted = self.core.evict(std::mem::take(&mut created.evict));
        self.others(std::mem::take(&mut created.updates)).await;
        Ok((created, evicted))
    }

    /// A container was not made after all.
    pub(crate) async fn undo_create(&self, container: &Arc<Container>, spec: &Value) {
        let described = describe::planned(container, spec);
        if let Ok(Some(pod)) = self.pod(&container.pod).await {
            let id = &container.id;
            let stopped = self.operation.stop_container(&pod, &described).await;
            log("StopContainer", id, stopped.map(drop));
            log(
                "RemoveContainer",
                id,
                self.operation.remove_container(&pod, &described).await,
            );
        }
    }

    /// It is there.
    pub(crate) async fn post_create(&self, container: &Arc<Container>) {
        if let Ok(Some((pod, seen))) = self.container(container, &Life::Made).await {
            let told = self.operation.post_create_container(&pod, &seen).await;
            log("PostCreateContainer", &container.id, told);
        }
    }

    /// It is about to start.
    pub(crate) async fn start(&self, container: &Arc<Container>) -> Result<()> {
        match self.container(container, &Life::Made).await {
            Ok(Some((pod, seen))) => self.operation.start_container(&pod, &seen).await,
            Ok(None) => Ok(()),
            Err(status) => Err(Error::new(
                crate::ErrorKind::Internal,
                status.message().to_owned(),
            )),
        }
    }

    /// It runs.
    pub(crate) async fn post_start(&self, container: &Arc<Container>) {
        if let Ok(Some((pod, seen))) = self.container(container, &Life::Running).await {
            let told = self.operation.post_start_container(&pod, &seen).await;
            log("PostStartContainer", &container.id, told);
        }
    }

    /// Its limits are about to change: what plugins want beside those that are asked for.
    pub(crate) async fn update(
        &self,
        container: &Arc<Container>,
        asked: &cri::LinuxContainerResources,
    ) -> Result<(Option<LinuxResources>, Evicted), Status> {
        let failed = || format!("cannot change the limits of container {}", container.id);
        let Some((pod, seen)) = self.container(container, &container.life()).await? else {
            return Ok(Default::default());
        };
        let asked = limits::seen(asked, &self.core.node);
        let asked = asked.map_err(|error| status(&error.context(failed())))?;
        let updated = self.operation.update_container(&pod, &seen, &asked).await;
        let updated = updated.map_err(|error| status(&error.context(failed())))?;
        let evicted = self.core.evict(updated.evict);
        self.others(updated.updates).await;
        let wanted = limits::changed(&asked, &updated.resources);
        Ok((Some(wanted), evicted))
    }

    /// They have changed.
    pub(crate) async fn post_update(&self, container: &Arc<Container>) {
        if let Ok(Some((pod, seen))) = self.container(container, &container.life()).await {
            let told = self.operation.post_update_container(&pod, &seen).await;
            log("PostUpdateContainer", &container.id, told);
        }
    }

    pub(super) async fn stop_container(&self, container: &Arc<Container>, life: &Life) {
        let Ok(Some((pod, seen))) = self.container(container, life).await else {
            return;
        };
        match self.operation.stop_container(&pod, &seen).await {
            Ok(updates) => self.others(updates).await,
            Err(error) => log("StopContainer", &container.id, Err(error)),
        }
    }

    /// As plugins are to see it when it is gone.
    pub(crate) async fn last_of(
        &self,
        container: &Arc<Container>,
    ) -> Option<(PodSandbox, Described)> {
        self.container(container, &container.life())
            .await
            .ok()
            .flatten()
    }

    /// It is gone.
    pub(crate) async fn remove(&self, seen: Option<(PodSandbox, Described)>) {
        if let Some((pod, seen)) = seen {
            let told = self.operation.remove_container(&pod, &seen).await;
            log("RemoveContainer", &seen.id, told);
        }
    }

    /// Limits of other containers: that one fails fails nothing.
    async fn others(&self, updates: Vec<ContainerUpdate>) {
        // Each that fails was told of.
        self.core.update_for_plugins(updates).await;
    }
}
