//! Plugins of the Node Resource Interface: what they are told of pods and containers, when, and what becomes of what
//! they want. Off unless `cri.nri.enable` is set; then everything here is one look at an empty place.
//!
//! It owns the order of events, which is containerd's: a pod is told when it is whole, and goes if a plugin refuses; a
//! container when its configuration is; stops once each, when nothing runs any more, whoever ended it; removals when
//! it is gone. It does not own the interface itself (rcrun-nri), nor what happens between two events.
//!
//! # Who waits for whom
//!
//! A change of a pod or a container has its `turn`, then perhaps an operation ([`Core::telling`]), then the container's
//! `telling`, then its `changing`. Who has an operation waits for no turn and for no container's end: what plugins want
//! of others needs `changing` alone, and what they evict is waited for when the operation is over.
//!
//! What happened while no server was there nobody tells: plugins connect anew and are told what is there. Who was told
//! of a stop is in the records, so that no other server tells it again.

mod adjust;
mod describe;
mod limits;
pub(crate) mod settings;
mod telling;

use std::sync::{Arc, Weak};
use std::time::Duration;

use rcrun_nri::proto::v1alpha1::{ContainerAdjustment, ContainerEviction, ContainerUpdate};
use rcrun_nri::{Answer, Nri, Runtime, State};
use tokio::task::JoinHandle;
use tonic::Status;

pub(crate) use adjust::apply;
pub(crate) use limits::{Change, change};
pub(crate) use telling::Telling;

use crate::core::{Container, Core, Life, Pod};
use crate::listen::Socket;
use crate::proto::v1 as cri;
use crate::records::ContainerRecord;
use crate::{Error, Result};

/// What plugins want of a new container's limits, for updates that come later.
pub(crate) fn limits_of(wanted: &ContainerAdjustment) -> cri::LinuxContainerResources {
    let linux = wanted.linux.as_ref();
    let limits = linux.and_then(|linux| linux.resources.as_ref());
    limits.map(limits::wanted).unwrap_or_default()
}

/// Starts the interface, before anything can happen to a pod. The socket is there as long as what this answers.
pub(crate) async fn start(core: &Arc<Core>, settings: &settings::Nri) -> Result<Option<Socket>> {
    if !settings.enable {
        return Ok(None);
    }
    let socket = settings.socket.as_deref().map(Socket::make).transpose()?;
    let listener = socket.as_ref().map(|socket| socket.listener.try_clone());
    let settings = settings.of_interface(core.host.version);
    let runtime = Arc::new(Known(Arc::downgrade(core)));
    let nri = Nri::start(settings, runtime, listener.transpose()?).await?;
    // There is one start.
    let _ = core.nri.set(nri);
    Ok(socket)
}

/// What the interface asks of us.
struct Known(Weak<Core>);

impl Runtime for Known {
    fn synchronize(&self) -> Answer<'_, Result<State>> {
        Box::pin(async {
            let Some(core) = self.0.upgrade() else {
                return Ok(State::default());
            };
            let this = Arc::clone(&core);
            let state = core.light.run(move || Ok(state(&this))).await;
            state.map_err(|status| {
                Error::new(crate::ErrorKind::Internal, status.message().to_owned())
            })
        })
    }

    fn update(&self, updates: Vec<ContainerUpdate>) -> Answer<'_, Vec<ContainerUpdate>> {
        Box::pin(async {
            match self.0.upgrade() {
                Some(core) => core.update_for_plugins(updates).await,
                None => updates,
            }
        })
    }
}

/// What is there; containers that have ended are not, as with containerd.
fn state(core: &Core) -> State {
    let mut state = State::default();
    for pod in core.pods() {
        state.pods.push(describe::pod(core, &pod));
    }
    for container in core.containers() {
        let life = container.life();
        if !matches!(life, Life::Ended(_)) {
            state
                .containers
                .push(describe::container(core, &container, &life));
        }
    }
    state
}

/// Containers that plugins evicted, while they end; they do so whether or not it is waited for.
#[derive(Default)]
pub(crate) struct Evicted(Vec<JoinHandle<()>>);

impl Evicted {
    /// Waits for their ends. There is no operation any more.
    pub(crate) async fn gone(self) {
        for ending in self.0 {
            let _ = ending.await;
        }
    }
}

impl Core {
    /// Begins an operation; none where there is no NRI.
    pub(crate) async fn telling(self: &Arc<Self>) -> Option<Telling> {
        let nri = self.nri.get()?;
        Some(Telling {
            core: Arc::clone(self),
            operation: nri.operation().await,
        })
    }

    /// The container has stopped: plugins are told once. `life` is how it ended.
    pub(crate) async fn tell_stop(self: &Arc<Self>, container: &Arc<Container>, life: &Life) {
        let Some(told) = self.telling().await else {
            return;
        };
        let _telling = container.telling.lock().await;
        if container.state().record.stop_told {
            return;
        }
        self.change_record(container, |record| record.stop_told = true)
            .await;
        told.stop_container(container, life).await;
    }

    /// A pod has stopped, and all its containers: plugins are told once.
    pub(crate) async fn tell_pod_stop(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<(), Status> {
        if self.nri.get().is_none() || pod.state().record.stop_told {
            return Ok(());
        }
        let Some(told) = self.telling().await else {
            return Ok(());
        };
        let record = {
            let mut state = pod.state();
            state.record.stop_told = true;
            state.record.clone()
        };
        let core = Arc::clone(self);
        self.light
            .run(move || core.places.write_pod(&record))
            .await?;
        told.stop_pod(pod).await;
        Ok(())
    }

    /// Changes a record for good. That it cannot be written is told of: then a later server tells plugins again.
    async fn change_record(
        self: &Arc<Self>,
        container: &Arc<Container>,
        change: impl FnOnce(&mut ContainerRecord) + Send,
    ) {
        let _changing = container.changing.lock().await;
        let record = {
            let mut state = container.state();
            change(&mut state.record);
            state.record.clone()
        };
        let core = Arc::clone(self);
        let written = self
            .light
            .run(move || core.places.write_container(&record))
            .await;
        if let Err(status) = written {
            tracing::warn!(container = container.id, "{}", status.message());
        }
    }

    /// Limits that plugins want of containers, whoever asked them; those that failed. One that has ended needs none.
    async fn update_for_plugins(
        self: &Arc<Self>,
        updates: Vec<ContainerUpdate>,
    ) -> Vec<ContainerUpdate> {
        let mut failed = Vec::new();
        for update in updates {
            let wanted = update
                .linux
                .as_ref()
                .and_then(|linux| linux.resources.clone());
            let found = self.container(&update.container_id).ok();
            let found = found.filter(|found| found.id == update.container_id);
            let (Some(container), Some(wanted)) = (found, wanted) else {
                continue;
            };
            let none = cri::LinuxContainerResources::default();
            if let Err(status) = self.limit(&container, &none, Some(&wanted)).await
                && !matches!(container.life(), Life::Ended(_))
            {
                tracing::warn!(
                    container = container.id,
                    "cannot change its limits as an NRI plugin wants: {}",
                    status.message()
                );
                failed.push(update);
            }
        }
        failed
    }

    /// Ends containers.
    fn evict(self: &Arc<Self>, all: Vec<ContainerEviction>) -> Evicted {
        let mut ending = Vec::new();
        for eviction in all {
            let found = self.container(&eviction.container_id).ok();
            let Some(container) = found.filter(|found| found.id == eviction.container_id) else {
                continue;
            };
            tracing::info!(
                container = container.id,
                why = eviction.reason,
                "NRI plugins evict it"
            );
            let core = Arc::clone(self);
            ending.push(tokio::spawn(async move {
                if let Err(status) = core.end(&container, Duration::ZERO).await {
                    tracing::warn!(
                        container = container.id,
                        "cannot evict it: {}",
                        status.message()
                    );
                }
            }));
        }
        Evicted(ending)
    }
}
