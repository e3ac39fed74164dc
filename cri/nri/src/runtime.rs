//! What the crate asks of the runtime.

use std::future::Future;
use std::pin::Pin;

use rcrun_error::Result;

use crate::proto::v1alpha1::{Container, ContainerUpdate, PodSandbox};

/// A future that a [`Runtime`] answers with.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// All that a plugin is told when it joins.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Pods that are not removed.
    pub pods: Vec<PodSandbox>,
    /// Containers that are not removed.
    pub containers: Vec<Container>,
}

/// Who has the pods and containers.
///
/// Neither method may begin an [`Operation`](crate::Operation): `synchronize` is asked while operations wait.
pub trait Runtime: Send + Sync + 'static {
    /// What is there. No operation is going on meanwhile.
    fn synchronize(&self) -> Answer<'_, Result<State>>;

    /// Updates that no event asked for, and those that plugins want when they join. Answers with those that could
    /// not be done; `ignore_failure` does not matter here. They may come while an event is with the plugins.
    fn update(&self, updates: Vec<ContainerUpdate>) -> Answer<'_, Vec<ContainerUpdate>>;
}
