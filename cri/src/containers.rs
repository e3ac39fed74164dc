//! Containers: made, started, stopped, removed. Each has a monitor that holds it; this server asks and is
//! told.

mod bundle;
mod declared;
mod host;
mod life;
mod making;
mod relabel;
mod started;
mod volumes;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rcrun_overlay::lease::SnapshotId;
use rcrun_overlay::snapshot::Snapshots;
use rcrun_runtime::monitor::{self, Client};
use tonic::Status;

use crate::checkpoints;
use crate::core::{Claim, Container, Core, End, Life, Name, Pod, given, precondition, whole};
use crate::proto::v1 as cri;
use crate::records::{ContainerRecord, Failure, Kind, now, random_id};
use crate::status::status;
use crate::{Context, Error, ErrorKind, Result};

pub(crate) use host::propagation;
pub(crate) use life::{found, supervise};
pub(crate) use started::notice;

/// How long a killed container may take to be gone.
const KILLED: Duration = Duration::from_secs(20);
/// The longest that a container is given to end by itself; more is as good as for ever.
const LONGEST: u64 = 10 * 365 * 86_400;
/// What a container has that could not be started, as with containerd.
const START_FAILED: i32 = 128;
const KILL: i32 = 9;

impl Core {
    /// CreateContainer.
    pub(crate) async fn create_container(
        self: &Arc<Self>,
        request: cri::CreateContainerRequest,
    ) -> Result<String, Status> {
        let config = given(request.config, "config")?;
        let pod = self.pod(&request.pod_sandbox_id)?;
        let name = Name::of_container(&pod.id, &config);
        let wanted = config.image.as_ref().map(|spec| spec.image.clone());
        let wanted = given(wanted.filter(|image| !image.is_empty()), "image")?;
        let id = random_id().map_err(|error| status(&error))?;
        let reservation = match self.claim(&name, &id).await {
            Claim::Free(reservation) => reservation,
            Claim::Taken(id) => return self.adopted_container(&name, &id, &config),
        };
        let core = Arc::clone(self);
        let container = whole(async move {
            let held = core.hold_image(&wanted).await?;
            let volumes = volumes::hold(&core, &config).await?;
            let record = ContainerRecord::new(&id, &pod.id, &config);
            let container = Container::new(record, config, &pod, Life::Made);
            core.make_container(container, held, volumes, reservation)
                .await
        })
        .await?;
        container.heard.store(true, Ordering::Relaxed);
        Ok(container.id.clone())
    }

    /// What an earlier request of the same name made: the caller's, if that one's answer was not heard.
    fn adopted_container(
        &self,
        name: &Name,
        id: &str,
        config: &cri::ContainerConfig,
    ) -> Result<String, Status> {
        let unheard = |container: &Arc<Container>| {
            container.life() == Life::Made
                && *container.config() == *config
                && !container.heard.swap(true, Ordering::Relaxed)
        };
        match self.container_if_any(id)?.filter(unheard) {
            Some(container) => Ok(container.id.clone()),
            None => Err(Status::already_exists(format!(
                "{name} is there already: {id}"
            ))),
        }
    }

    /// StartContainer.
    pub(crate) async fn start_container(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let container = self.container(id)?;
        let core = Arc::clone(self);
        whole(async move {
            let _turn = container.turn.lock().await;
            match container.life() {
                Life::Made if container.pod.is_ready() => core.start_one(&container).await,
                Life::Made => {
                    let text = format!("pod {} is not ready", container.pod.id);
                    Err(status(
                        &precondition(text).context("cannot start the container"),
                    ))
                }
                Life::Running | Life::Ended(_) => {
                    let text = "cannot start the container: it was started before";
                    Err(status(&precondition(text)))
                }
            }
        })
        .await
    }

    async fn start_one(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Status> {
        let told = self.telling().await;
        let started = match &told {
            None => self.start_now(container).await?,
            Some(told) => {
                let _telling = container.telling.lock().await;
                let started = match told.start(container).await {
                    Ok(()) => {
                        let _changing = container.changing.lock().await;
                        self.start_now(container).await?
                    }
                    Err(refused) => Err(self.not_started(container, refused).await?),
                };
                if started.is_ok() {
                    told.post_start(container).await;
                }
                started
            }
        };
        // Its end is told in an operation of its own.
        drop(told);
        match started {
            Ok(()) => Ok(()),
            Err(error) => {
                life::failed(self, container).await;
                Err(status(&error.context("cannot start the container")))
            }
        }
    }

    /// Starts it; within, why it did not.
    async fn start_now(
        self: &Arc<Self>,
        container: &Arc<Container>,
    ) -> Result<Result<(), Error>, Status> {
        // What it does may be seen before the monitor's answer.
        let mut record = container.state().record.clone();
        record.started = Some(now());
        container.state().record = record.clone();
        let (root, id) = (self.places.runtime_root(), container.id.clone());
        let core = Arc::clone(self);
        let work = move || {
            let started = match record.restoring {
                true => checkpoints::start(&core, &id).map(Some),
                false => Client::connect(&root, &id)
                    .and_then(|mut client| client.start())
                    .or_else(|error| started::was_done(&core, &id, error))
                    .map(|()| None),
            };
            record.restoring = false;
            let started = match started {
                // Its monitor has said how, and that is its end.
                Err(_) if life::has_ended(&core, &id)? => {
                    record.started = None;
                    Err(precondition("it has ended"))
                }
                Err(error) => {
                    fail(&mut record, &error);
                    Err(error)
                }
                started => started,
            };
            core.places.write_container(&record)?;
            Ok(match started {
                Ok(monitor) => Ok((monitor, record)),
                Err(error) => Err((error, record)),
            })
        };
        let started = match container.awaits_restore() {
            true => self.heavy.run(work).await?,
            false => self.light.run(work).await?,
        };
        match started {
            Ok((monitor, record)) => {
                if monitor.is_some() {
                    container.state().record.restoring = record.restoring;
                    supervise(self, container, monitor);
                }
                started::tell(self, container);
                Ok(Ok(()))
            }
            Err((error, record)) => {
                container.state().record = record;
                Ok(Err(error))
            }
        }
    }

    /// Plugins refuse that it starts: that is kept as if it could not.
    async fn not_started(
        self: &Arc<Self>,
        container: &Arc<Container>,
        refused: Error,
    ) -> Result<Error, Status> {
        let _changing = container.changing.lock().await;
        let record = {
            let mut state = container.state();
            fail(&mut state.record, &refused);
            state.record.clone()
        };
        let core = Arc::clone(self);
        let written = self.light.run(move || core.places.write_container(&record));
        written.await.map(|()| refused)
    }

    /// StopContainer: asks it to end, and kills it when so many seconds are over.
    pub(crate) async fn stop_container(
        self: &Arc<Self>,
        id: &str,
        seconds: i64,
    ) -> Result<(), Status> {
        let Some(container) = self.container_if_any(id)? else {
            return Ok(());
        };
        let core = Arc::clone(self);
        let seconds = u64::try_from(seconds).unwrap_or(0).min(LONGEST);
        whole(async move { core.end(&container, Duration::from_secs(seconds)).await }).await
    }

    /// Sees that it has ended.
    pub(crate) async fn end(
        self: &Arc<Self>,
        container: &Arc<Container>,
        patience: Duration,
    ) -> Result<(), Status> {
        let mut life = container.life.subscribe();
        let ended = |life: &Life| matches!(life, Life::Ended(_));
        if ended(&life.borrow()) {
            return Ok(());
        }
        if container.awaits_restore() && self.end_unrestored(container).await? {
            return Ok(());
        }
        let signal = container.state().record.stop_signal;
        let running = *life.borrow() == Life::Running;
        if running && !patience.is_zero() && signal != KILL {
            self.signal(container, signal, false).await?;
            if tokio::time::timeout(patience, life.wait_for(ended))
                .await
                .is_ok()
            {
                return Ok(());
            }
        }
        let killed = self.signal(container, KILL, true).await;
        if tokio::time::timeout(KILLED, life.wait_for(ended))
            .await
            .is_ok()
        {
            // What could not be done may be that because it ended in that moment.
            return Ok(());
        }
        killed?;
        Err(Status::deadline_exceeded(format!(
            "container {} was killed, and has not ended after {} s: a process of it waits for a device",
            container.id,
            KILLED.as_secs()
        )))
    }

    /// Ends what was to go on from a checkpoint, and has no process; false: it was just started.
    async fn end_unrestored(self: &Arc<Self>, container: &Arc<Container>) -> Result<bool, Status> {
        let _turn = container.turn.lock().await;
        if !container.awaits_restore() {
            return Ok(false);
        }
        let error = precondition("it was stopped before it was restored");
        self.not_started(container, error).await?;
        life::failed(self, container).await;
        let (core, id) = (Arc::clone(self), container.id.clone());
        let cleared = self.light.run(move || {
            checkpoints::clear(&core, &id);
            Ok(())
        });
        cleared.await.map(|()| true)
    }

    async fn signal(
        self: &Arc<Self>,
        container: &Arc<Container>,
        signal: i32,
        all: bool,
    ) -> Result<(), Status> {
        let (core, id) = (Arc::clone(self), container.id.clone());
        let sent = self
            .light
            .run(move || match core.runtime.kill(&id, signal, all) {
                // It ended meanwhile.
                Err(error) if is_gone(&error) => Ok(()),
                other => other.context(|| format!("cannot send signal {signal} to container {id}")),
            });
        sent.await
    }

    /// Ends all containers of a pod at once.
    pub(crate) async fn end_all(self: &Arc<Self>, pod: &Pod) -> Result<(), Status> {
        let mut ending = tokio::task::JoinSet::new();
        for container in pod.containers() {
            let core = Arc::clone(self);
            ending.spawn(async move { core.end(&container, Duration::ZERO).await });
        }
        let mut result = Ok(());
        while let Some(ended) = ending.join_next().await {
            result =
                result.and(ended.unwrap_or_else(|_| {
                    Err(Status::internal("a defect in the server: see its log"))
                }));
        }
        result
    }

    /// RemoveContainer: also one that runs; one that is not there is no error.
    pub(crate) async fn remove_container(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let Some(container) = self.container_if_any(id)? else {
            return Ok(());
        };
        let core = Arc::clone(self);
        whole(async move { core.remove_container_of(&container).await }).await
    }

    pub(crate) async fn remove_container_of(
        self: &Arc<Self>,
        container: &Arc<Container>,
    ) -> Result<(), Status> {
        // Not while it is its turn: operations may wait for that, and its end for operations.
        self.end(container, Duration::ZERO).await?;
        let _turn = container.turn.lock().await;
        if self.container_if_any(&container.id)?.is_none() {
            return Ok(());
        }
        // One that ended unseen.
        self.tell_stop(container, &container.life()).await;
        let told = self.telling().await;
        let seen = match &told {
            Some(told) => told.last_of(container).await,
            None => None,
        };
        let (core, id) = (Arc::clone(self), container.id.clone());
        self.heavy
            .run(move || core.take_container_away(&id))
            .await?;
        self.forget_container(container);
        if let Some(told) = told {
            told.remove(seen).await;
        }
        self.events
            .of_container(container, cri::ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    /// All that there may be of it; the directory last.
    pub(crate) fn take_container_away(&self, id: &str) -> Result<()> {
        let failed = || format!("cannot remove container {id}");
        life::await_made(self, id).context(failed)?;
        self.runtime.delete(id, true).context(failed)?;
        life::await_monitor(self, id).context(failed)?;
        monitor::remove(&self.runtime.root, id).context(failed)?;
        volumes::unmount(self, id).context(failed)?;
        declared::release(self, id).context(failed)?;
        let snapshot: SnapshotId = format!("{}{id}", crate::records::SNAPSHOTS).parse()?;
        Snapshots::new(&self.host.store)?
            .remove(&snapshot)
            .context(failed)?;
        self.places.remove(Kind::Container, id).context(failed)
    }

    /// ReopenContainerLog.
    pub(crate) async fn reopen_log(self: &Arc<Self>, id: &str) -> Result<(), Status> {
        let container = self.container(id)?;
        if container.life() != Life::Running {
            let text = format!("cannot reopen the log of container {id}: it does not run");
            return Err(status(&precondition(text)));
        }
        let (root, id) = (self.places.runtime_root(), container.id.clone());
        let reopened = self.light.run(move || {
            Client::connect(&root, &id)
                .and_then(|mut client| client.reopen_log())
                .context(|| format!("cannot reopen the log of container {id}"))
        });
        reopened.await
    }

    /// Has a record on the disk in a moment.
    pub(crate) fn settle(self: &Arc<Self>, kind: Kind, id: &str) {
        let (core, id) = (Arc::clone(self), id.to_owned());
        tokio::spawn(async move {
            let settler = Arc::clone(&core);
            let settled = core
                .light
                .run(move || settler.places.settle(kind, &id))
                .await;
            if let Err(status) = settled {
                tracing::warn!("cannot sync a record: {}", status.message());
            }
        });
    }
}

/// It could not be started.
fn fail(record: &mut ContainerRecord, error: &Error) {
    record.started = None;
    record.failure = Some(Failure {
        at: now(),
        code: START_FAILED,
        message: error.chain().to_string(),
    });
}

/// Whether the runtime says that the container has no process any more.
fn is_gone(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::FailedPrecondition
    )
}

/// The end of one that could not be started.
fn end_of(failure: &Failure) -> End {
    End {
        at: failure.at,
        code: failure.code,
        reason: "StartError",
        message: failure.message.clone(),
    }
}
