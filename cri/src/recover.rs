//! After a start: what earlier servers left, and what happened since. Containers went on without a server;
//! what one was making or removing when it was killed is taken away.

use std::collections::HashSet;
use std::sync::Arc;

use rcrun_network::Key;
use rcrun_overlay::lease::SnapshotId;
use rcrun_overlay::snapshot::Snapshots;
use rcrun_runtime::pin;

use crate::checkpoints;
use crate::containers::{found, notice, supervise};
use crate::core::{Container, Core, Life, Pod};
use crate::pods::{init, key};
use crate::records::{ContainerRecord, Kind, PodRecord, PodStage, SNAPSHOTS, is_id, now};
use crate::spec::{PodPlan, pod};
use crate::{ErrorKind, Result};

impl Core {
    /// Blocks: reads everything. The tasks that go with what is alive are begun by [`Core::resume`].
    pub(crate) fn recover(&self) -> Result<()> {
        let (pods, unfinished) = self.places.read_all::<PodRecord>(Kind::Pod)?;
        let (containers, unmade) = self.places.read_all::<ContainerRecord>(Kind::Container)?;
        for id in &unmade {
            self.tell(
                &format!("container {id}, half made or removed"),
                self.take_container_away(id),
            );
        }
        for id in &unfinished {
            self.tell(
                &format!("pod {id}, half made or removed"),
                self.clear_pod(id),
            );
        }
        for record in pods {
            let id = record.id.clone();
            if record.state == PodStage::Making {
                self.tell(&format!("pod {id}, half made"), self.clear_pod(&id));
                continue;
            }
            match self.known_pod(record) {
                Ok(pod) => self.insert_pod(&pod),
                Err(error) => self.tell(&format!("pod {id}"), Err(error)),
            }
        }
        for record in containers {
            let id = record.id.clone();
            if !record.made {
                self.tell(
                    &format!("container {id}, half made"),
                    self.take_container_away(&id),
                );
                continue;
            }
            match self.known_container(record) {
                Ok(Some(container)) => self.insert_container(&container),
                Ok(None) => {
                    let what = format!("container {id} of a pod that is gone");
                    self.tell(&what, self.take_container_away(&id));
                }
                Err(error) => self.tell(&format!("container {id}"), Err(error)),
            }
        }
        self.sweep_rest()
    }

    fn tell(&self, what: &str, result: Result<()>) {
        match result {
            Ok(()) => tracing::info!("cleared: {what}"),
            Err(error) => tracing::error!("{what}: {}", error.chain()),
        }
    }

    fn known_pod(&self, mut record: PodRecord) -> Result<Arc<Pod>> {
        let config = record.config()?;
        let plan = pod(&config, &self.node).ok();
        let alive = || {
            plan.as_ref()
                .is_some_and(|plan| self.is_alive(&record.id, plan))
        };
        if record.state == PodStage::Ready && !alive() {
            // Most likely the machine was started anew.
            record.state = PodStage::Stopped;
            self.places.write_pod(&record)?;
        }
        let pod = Pod::new(record, config, plan, &self.node);
        pod.heard.store(true, std::sync::atomic::Ordering::Relaxed);
        Ok(pod)
    }

    /// Whether everything is there that the pod needs.
    fn is_alive(&self, id: &str, plan: &PodPlan) -> bool {
        let directory = self.places.of_boot(id);
        let pinned = crate::pods::pinned(self, id, plan);
        let init = pinned.pid.is_none() || matches!(self.runtime.init(id), Ok(Some(_)));
        let is_there = |(path, name): (Option<_>, &str)| {
            path.is_none_or(|_: std::path::PathBuf| pin::open(&directory, name).is_ok())
        };
        let all = [
            (pinned.network, "net"),
            (pinned.ipc, "ipc"),
            (pinned.uts, "uts"),
            (pinned.user, "user"),
        ];
        init && all.into_iter().all(is_there)
    }

    fn known_container(&self, mut record: ContainerRecord) -> Result<Option<Arc<Container>>> {
        let Ok(pod) = self.pod(&record.pod) else {
            return Ok(None);
        };
        let life = found(self, &mut record)?;
        if life == Life::Running && record.started.is_none() && !record.restoring {
            // The server that had it started did not live to write that down.
            record.started = Some(now());
            self.places.write_container(&record)?;
        }
        let config = record.config()?;
        let container = Container::new(record, config, &pod, life);
        container
            .heard
            .store(true, std::sync::atomic::Ordering::Relaxed);
        Ok(Some(container))
    }

    /// What no record says anything of.
    fn sweep_rest(&self) -> Result<()> {
        let pods: HashSet<String> = self.pods().iter().map(|pod| pod.id.clone()).collect();
        let containers: HashSet<String> =
            self.containers().iter().map(|one| one.id.clone()).collect();
        for id in self
            .places
            .pinned()?
            .iter()
            .filter(|id| !pods.contains(*id))
        {
            self.tell(&format!("namespaces of pod {id}"), self.clear_pod(id));
        }
        for report in self.runtime.list(&mut |_, _| {})? {
            let id = report.id;
            if !pods.contains(&id) && !containers.contains(&id) && is_id(&id) {
                self.tell(&format!("container {id}"), self.take_container_away(&id));
            }
        }
        let snapshots = Snapshots::new(&self.host.store)?;
        for id in snapshots.list()? {
            let ours = id.as_str().strip_prefix(SNAPSHOTS);
            if ours.is_some_and(|id| is_id(id) && !containers.contains(id)) {
                let removed = snapshots.remove(&id).map(drop);
                self.tell(&format!("snapshot {}", SnapshotId::as_str(&id)), removed);
            }
        }
        let keys: Result<Vec<Key>> = self
            .pods()
            .iter()
            .filter(|pod| pod.state().record.connected)
            .map(|pod| key(&pod.id))
            .collect();
        match self.network.collect(&keys?) {
            Ok(()) => {}
            // No configuration (any more), or plugins that cannot.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!("cannot clean up the network: {}", error.chain()),
        }
        Ok(())
    }

    /// Whatever there may be of a pod that nobody knows.
    fn clear_pod(&self, id: &str) -> Result<()> {
        init::remove(self, id)?;
        self.disconnect(id)?;
        self.unpin(id)?;
        self.places.remove(Kind::Pod, id)
    }

    /// Goes on with what is alive, on the server's threads.
    pub(crate) fn resume(self: &Arc<Self>) {
        for pod in self.pods() {
            init::watch(self, &pod);
        }
        for container in self.containers() {
            self.clear_saving(&container.id);
            if !container.awaits_restore() {
                checkpoints::clear(self, &container.id);
            }
            match container.life() {
                Life::Made if container.awaits_restore() => {}
                Life::Made => {
                    supervise(self, &container, None);
                    notice(self, &container);
                }
                Life::Running => supervise(self, &container, None),
                Life::Ended(_) => {
                    // Its end may have been seen by nobody.
                    let (core, id) = (Arc::clone(self), container.id.clone());
                    tokio::spawn(async move {
                        let this = Arc::clone(&core);
                        let _ = core.light.run(move || this.runtime.delete(&id, true)).await;
                    });
                }
            }
        }
    }
}
