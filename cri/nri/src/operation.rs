//! The events of one operation of the runtime, told to all plugins in order.
//!
//! One event at a time is with the plugins, and each plugin has it to itself; the next plugin is asked when this one
//! has answered. What fails is said in [`plugin`](crate::plugin): a plugin that is lost does not count, one that says
//! no fails the event, and those after it do not hear of it.

use std::sync::Arc;

use rcrun_error::{Context, Error, ErrorKind, Result};
use tokio::sync::OwnedRwLockReadGuard;
use tokio::task::JoinSet;

use crate::collect::{Creation, Updates};
use crate::link::words;
use crate::nri::Core;
use crate::plugin::{Plugin, about};
use crate::proto::v1alpha1::{
    Container, ContainerAdjustment, ContainerEviction, ContainerUpdate, CreateContainerRequest,
    CreateContainerResponse, Event, LinuxResources, PodSandbox, StopContainerRequest,
    StopContainerResponse, UpdateContainerRequest, UpdateContainerResponse,
    UpdatePodSandboxRequest, UpdatePodSandboxResponse, ValidateContainerAdjustmentRequest,
    ValidateContainerAdjustmentResponse,
};

/// One operation of the runtime. While it lives no plugin joins, so that a plugin either is there to be told its
/// events or is told their outcome when it joins.
///
/// It should live from before the first event until the outcome is in what [`Runtime`](crate::Runtime) says, and not
/// through waits that a plugin need not share: a plugin that wants to join waits for all operations, and operations
/// that begin meanwhile wait for it.
#[derive(Debug)]
pub struct Operation {
    core: Arc<Core>,
    _hold: OwnedRwLockReadGuard<()>,
}

/// What plugins want of a container that is made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Created {
    /// For [`adjust::apply`](crate::adjust::apply).
    pub adjust: ContainerAdjustment,
    /// Limits of other containers. That one of them fails fails nothing.
    pub updates: Vec<ContainerUpdate>,
    /// Containers that are to be stopped.
    pub evict: Vec<ContainerEviction>,
}

/// What plugins want when a container's limits change.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Updated {
    /// The limits that the container gets: those of the request, as plugins changed them.
    pub resources: LinuxResources,
    /// Limits of other containers. That one of them fails fails nothing.
    pub updates: Vec<ContainerUpdate>,
    /// Containers that are to be stopped.
    pub evict: Vec<ContainerEviction>,
}

/// Methods for events that only tell.
macro_rules! notices {
    ($($(#[doc = $doc:literal])* $name:ident($($container:ident)?), $event:ident, $method:literal;)*) => {$(
        $(#[doc = $doc])*
        pub async fn $name(&self, pod: &PodSandbox $(, $container: &Container)?) -> Result<()> {
            let container: Option<&Container> = [$($container)?].first().copied();
            self.notify(Event::$event, $method, pod, container).await
        }
    )*};
}

impl Operation {
    pub(crate) fn new(core: Arc<Core>, hold: OwnedRwLockReadGuard<()>) -> Self {
        Self { core, _hold: hold }
    }

    notices! {
        /// A pod was made and has its network. An error: it must go.
        run_pod_sandbox(), RunPodSandbox, "RunPodSandbox";
        /// The limits of a pod were changed.
        post_update_pod_sandbox(), PostUpdatePodSandbox, "PostUpdatePodSandbox";
        /// A pod was stopped, and all its containers.
        stop_pod_sandbox(), StopPodSandbox, "StopPodSandbox";
        /// A pod was removed.
        remove_pod_sandbox(), RemovePodSandbox, "RemovePodSandbox";
        /// A container was made.
        post_create_container(container), PostCreateContainer, "PostCreateContainer";
        /// A container is about to start. An error: it must not.
        start_container(container), StartContainer, "StartContainer";
        /// A container runs.
        post_start_container(container), PostStartContainer, "PostStartContainer";
        /// The limits of a container were changed.
        post_update_container(container), PostUpdateContainer, "PostUpdateContainer";
        /// A container was removed.
        remove_container(container), RemoveContainer, "RemoveContainer";
    }

    /// Whether there is a plugin at all: if not, nobody need be described. None joins while the operation lives.
    pub fn is_heard(&self) -> bool {
        !self.core.all().is_empty()
    }

    async fn notify(
        &self,
        event: Event,
        method: &str,
        pod: &PodSandbox,
        container: Option<&Container>,
    ) -> Result<()> {
        let Some(plugins) = self.core.wanting(event) else {
            return Ok(());
        };
        let _turn = self.core.turn().await;
        let about = about(pod, container);
        for plugin in plugins {
            plugin.notify(event, method, &about).await?;
        }
        Ok(())
    }

    /// The limits of a pod are about to change. An error: they must not.
    pub async fn update_pod_sandbox(
        &self,
        pod: &PodSandbox,
        overhead: Option<&LinuxResources>,
        resources: Option<&LinuxResources>,
    ) -> Result<()> {
        let event = Event::UpdatePodSandbox;
        let Some(plugins) = self.core.wanting(event) else {
            return Ok(());
        };
        let _turn = self.core.turn().await;
        let request = UpdatePodSandboxRequest {
            pod: Some(pod.clone()),
            overhead_linux_resources: overhead.cloned(),
            linux_resources: resources.cloned(),
        };
        for plugin in plugins {
            let _: Option<UpdatePodSandboxResponse> =
                plugin.relay(event, "UpdatePodSandbox", &request).await?;
        }
        Ok(())
    }

    /// A container is about to be made: what plugins want of it. An error: it must not be made.
    pub async fn create_container(
        &self,
        pod: &PodSandbox,
        container: &Container,
    ) -> Result<Created> {
        let event = Event::CreateContainer;
        // Who is lost meanwhile has not agreed, so it is settled now who is asked.
        let validators = self.core.wanting(Event::ValidateContainerAdjustment);
        let plugins = self.core.wanting(event);
        if plugins.is_none() && validators.is_none() {
            return Ok(Created::default());
        }
        let (plugins, validators) = (plugins.unwrap_or_default(), validators.unwrap_or_default());
        let asked = self.core.all().iter().map(|one| one.instance()).collect();
        let _turn = self.core.turn().await;
        let mut creation = Creation::new(CreateContainerRequest {
            pod: Some(pod.clone()),
            container: Some(container.clone()),
        });
        for plugin in &plugins {
            let answer: Option<CreateContainerResponse> = plugin
                .relay(event, "CreateContainer", &creation.request)
                .await?;
            if let Some(answer) = answer {
                creation.add(&plugin.identity.to_string(), answer)?;
            }
        }
        let (answer, owners) = creation.finish();
        let request = ValidateContainerAdjustmentRequest {
            pod: Some(pod.clone()),
            container: Some(container.clone()),
            adjust: answer.adjust.clone(),
            update: answer.update.clone(),
            owners: Some(owners),
            plugins: asked,
        };
        validate(validators, request).await?;
        Ok(Created {
            adjust: answer.adjust.unwrap_or_default(),
            updates: answer.update,
            evict: answer.evict,
        })
    }

    /// The limits of a container are about to change: what they become. An error: they must not change.
    pub async fn update_container(
        &self,
        pod: &PodSandbox,
        container: &Container,
        resources: &LinuxResources,
    ) -> Result<Updated> {
        let event = Event::UpdateContainer;
        let Some(plugins) = self.core.wanting(event) else {
            return Ok(Updated {
                resources: resources.clone(),
                ..Updated::default()
            });
        };
        let _turn = self.core.turn().await;
        let subject = (container.id.clone(), resources.clone());
        let mut updates = Updates::new(None, Some(subject));
        let mut request = UpdateContainerRequest {
            pod: Some(pod.clone()),
            container: Some(container.clone()),
            linux_resources: None,
        };
        for plugin in plugins {
            request.linux_resources = updates.subject().cloned();
            let answer: Option<UpdateContainerResponse> =
                plugin.relay(event, "UpdateContainer", &request).await?;
            if let Some(answer) = answer {
                updates.add(&plugin.identity.to_string(), answer.update)?;
                updates.evict(answer.evict);
            }
        }
        let resources = updates.subject().cloned().unwrap_or_default();
        let (updates, evict) = updates.finish();
        Ok(Updated {
            resources,
            updates,
            evict,
        })
    }

    /// A container has stopped: limits of others that plugins want now. An error: log it, the container is stopped.
    pub async fn stop_container(
        &self,
        pod: &PodSandbox,
        container: &Container,
    ) -> Result<Vec<ContainerUpdate>> {
        let event = Event::StopContainer;
        let Some(plugins) = self.core.wanting(event) else {
            return Ok(Vec::new());
        };
        let _turn = self.core.turn().await;
        let request = StopContainerRequest {
            pod: Some(pod.clone()),
            container: Some(container.clone()),
        };
        let mut updates = Updates::new(None, None);
        for plugin in plugins {
            let answer: Option<StopContainerResponse> =
                plugin.relay(event, "StopContainer", &request).await?;
            if let Some(answer) = answer {
                updates.add(&plugin.identity.to_string(), answer.update)?;
            }
        }
        Ok(updates.finish().0)
    }
}

/// All that validate are asked at once.
async fn validate(
    validators: Vec<Arc<Plugin>>,
    request: ValidateContainerAdjustmentRequest,
) -> Result<()> {
    let request = Arc::new(request);
    let mut asked = JoinSet::new();
    for plugin in validators {
        let request = Arc::clone(&request);
        asked.spawn(async move { agrees(&plugin, &request).await });
    }
    while let Some(outcome) = asked.join_next().await {
        outcome.unwrap_or_else(|_| {
            let why = "cannot ask an NRI plugin whether it agrees: the task was lost";
            Err(Error::new(ErrorKind::Internal, why))
        })?;
    }
    Ok(())
}

async fn agrees(plugin: &Plugin, request: &ValidateContainerAdjustmentRequest) -> Result<()> {
    let answer: ValidateContainerAdjustmentResponse = plugin
        .ask("ValidateContainerAdjustment", request)
        .await
        .context(|| "cannot create a container: its adjustment was not validated")?;
    match answer.reject {
        false => Ok(()),
        true => Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!(
                "cannot create a container: NRI plugin {} rejects what plugins want of it: {}",
                plugin.identity,
                words(&answer.reason)
            ),
        )),
    }
}
