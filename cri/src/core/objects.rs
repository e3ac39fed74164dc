//! A pod and a container, in memory.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Name;
use crate::proto::v1 as cri;
use crate::records::{ContainerRecord, PodRecord, PodStage};
use crate::spec::{Node, PodPlan};
use crate::{Error, ErrorKind, Result};

/// A pod.
pub(crate) struct Pod {
    pub(crate) id: String,
    pub(crate) name: Name,
    pub(crate) created: i64,
    pub(crate) handler: String,
    pub(crate) node: Arc<Node>,
    /// What its configuration amounts to, decided once: nothing of it changes. None: not on this node as
    /// it is now.
    plan: Option<PodPlan>,
    /// One change at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Whoever asked for it was told of it.
    pub(crate) heard: AtomicBool,
    state: Mutex<PodState>,
    pub(crate) containers: Mutex<BTreeMap<String, Arc<Container>>>,
}

/// What of a pod changes.
#[derive(Debug, Clone)]
pub(crate) struct PodState {
    pub(crate) record: PodRecord,
    pub(crate) config: Arc<cri::PodSandboxConfig>,
}

impl Pod {
    pub(crate) fn new(
        record: PodRecord,
        config: cri::PodSandboxConfig,
        plan: Option<PodPlan>,
        node: &Arc<Node>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            name: Name::of_pod(&config),
            created: record.created,
            handler: record.handler.clone(),
            plan,
            node: Arc::clone(node),
            turn: tokio::sync::Mutex::default(),
            heard: AtomicBool::new(false),
            state: Mutex::new(PodState {
                record,
                config: Arc::new(config),
            }),
            containers: Mutex::default(),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, PodState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn config(&self) -> Arc<cri::PodSandboxConfig> {
        Arc::clone(&self.state().config)
    }

    /// What its configuration amounts to; the error says why this node cannot have it any more.
    pub(crate) fn plan(&self) -> Result<&PodPlan> {
        self.plan.as_ref().ok_or_else(|| {
            let refused = crate::spec::pod(&self.config(), &self.node).err();
            refused.unwrap_or_else(|| Error::new(ErrorKind::Internal, "the pod has no plan"))
        })
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.state().record.state == PodStage::Ready
    }

    /// Its containers.
    pub(crate) fn containers(&self) -> Vec<Arc<Container>> {
        let all = self.containers.lock();
        let all = all.unwrap_or_else(PoisonError::into_inner);
        all.values().cloned().collect()
    }
}

/// A container.
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) pod: Arc<Pod>,
    pub(crate) name: Name,
    pub(crate) created: i64,
    /// One change at a time.
    pub(crate) turn: tokio::sync::Mutex<()>,
    /// Whoever asked for it was told of it.
    pub(crate) heard: AtomicBool,
    state: Mutex<ContainerState>,
    /// Its record is read and written by one at a time, also by NRI plugins' wishes. Nobody is asked anything
    /// meanwhile.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// What NRI plugins are told of it is told in its order.
    pub(crate) telling: tokio::sync::Mutex<()>,
    /// Where it is in its life; who waits for its end watches this.
    pub(crate) life: watch::Sender<Life>,
}

/// What of a container changes, or is told of it only.
#[derive(Debug, Clone)]
pub(crate) struct ContainerState {
    pub(crate) record: ContainerRecord,
    pub(crate) config: Arc<cri::ContainerConfig>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    Made,
    Running,
    Ended(End),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// Nanoseconds since the epoch.
    pub(crate) at: i64,
    pub(crate) code: i32,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Container {
    pub(crate) fn new(
        record: ContainerRecord,
        config: cri::ContainerConfig,
        pod: &Arc<Pod>,
        life: Life,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: record.id.clone(),
            pod: Arc::clone(pod),
            name: Name::of_container(&pod.id, &config),
            created: record.created,
            turn: tokio::sync::Mutex::default(),
            heard: AtomicBool::new(false),
            changing: tokio::sync::Mutex::default(),
            telling: tokio::sync::Mutex::default(),
            state: Mutex::new(ContainerState {
                record,
                config: Arc::new(config),
            }),
            life: watch::Sender::new(life),
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, ContainerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn config(&self) -> Arc<cri::ContainerConfig> {
        Arc::clone(&self.state().config)
    }

    pub(crate) fn life(&self) -> Life {
        self.life.borrow().clone()
    }

    /// It is to go on from a checkpoint, and has no monitor until it is started.
    pub(crate) fn awaits_restore(&self) -> bool {
        self.life() == Life::Made && self.state().record.restoring
    }
}
