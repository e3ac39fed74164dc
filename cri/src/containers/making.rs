//! A container is made: bundle, what NRI plugins want of it, record, monitor; or taken away again.

use std::sync::Arc;

use rcrun_nri::proto::v1alpha1::ContainerAdjustment;
use tonic::Status;

use super::{bundle, supervise, volumes};
use crate::checkpoints;
use crate::core::{Container, Core, Reservation, precondition};
use crate::images::Held;
use crate::nri::{Evicted, Telling};
use crate::proto::v1 as cri;
use crate::records::{Kind, User};
use crate::status::status;
use crate::{Context, Result};

impl Core {
    pub(super) async fn make_container(
        self: &Arc<Self>,
        container: Arc<Container>,
        held: Held,
        volumes: volumes::Volumes,
        reservation: Reservation,
    ) -> Result<Arc<Container>, Status> {
        let (core, made) = (Arc::clone(self), Arc::clone(&container));
        // A pod that is being stopped gets no more containers.
        let turn = container.pod.turn.lock().await;
        if !container.pod.is_ready() {
            let text = format!(
                "cannot create the container: pod {} is not ready",
                container.pod.id
            );
            return Err(status(&precondition(text)));
        }
        let told = self.telling().await;
        let telling = match told {
            Some(_) => Some(container.telling.lock().await),
            None => None,
        };
        let (monitor, evicted) = match &told {
            None => {
                let work = move || core.make_one(&made, &held, &volumes);
                (self.heavy.run(work).await?, Evicted::default())
            }
            Some(told) => self.make_told(told, &made, held, volumes).await?,
        };
        self.insert_container(&container);
        reservation.done();
        self.events
            .of_container(&container, cri::ContainerEventType::ContainerCreatedEvent);
        // What goes on from a checkpoint gets its monitor when it is started.
        if monitor.is_some() {
            supervise(self, &container, monitor);
        }
        if let Some(told) = &told {
            told.post_create(&container).await;
        }
        drop((telling, told));
        drop(turn);
        self.settle(Kind::Container, &container.id);
        evicted.gone().await;
        Ok(container)
    }

    /// Makes it as plugins want it, or not at all.
    async fn make_told(
        self: &Arc<Self>,
        told: &Telling,
        container: &Arc<Container>,
        held: Held,
        volumes: volumes::Volumes,
    ) -> Result<(Option<std::process::Child>, Evicted), Status> {
        let (core, made) = (Arc::clone(self), Arc::clone(container));
        let work = move || {
            let prepared = core.prepare(&made, &held, &volumes);
            Ok((prepared.inspect_err(|_| core.undo(&made))?, held, volumes))
        };
        let (prepared, held, volumes) = self.heavy.run(work).await?;
        let undo =
            |spec: serde_json::Value| async move { told.undo_create(container, &spec).await };
        let asked = told.create(container, &prepared.container.spec).await;
        let (core, made) = (Arc::clone(self), Arc::clone(container));
        let spec = prepared.container.spec.clone();
        let (wanted, evicted) = match asked {
            Ok((wanted, evicted)) => (wanted, evicted),
            Err(refused) => {
                let gone = move || {
                    core.undo(&made);
                    Ok(())
                };
                self.heavy.run(gone).await?;
                undo(spec).await;
                return Err(refused);
            }
        };
        let work = move || {
            // What its layers are of is held until here.
            let _held = (held, volumes);
            let finished = core.finish(&made, prepared, Some(&wanted.adjust));
            finished.inspect_err(|_| core.undo(&made))
        };
        match self.heavy.run(work).await {
            Ok(monitor) => Ok((monitor, evicted)),
            Err(status) => {
                undo(spec).await;
                Err(status)
            }
        }
    }

    /// One that could not be made is taken away.
    fn undo(&self, container: &Container) {
        if let Err(error) = self.take_container_away(&container.id) {
            tracing::error!(container = container.id, "left behind: {}", error.chain());
        }
    }

    /// The steps; its monitor.
    fn make_one(
        &self,
        container: &Container,
        held: &Held,
        volumes: &volumes::Volumes,
    ) -> Result<Option<std::process::Child>> {
        let made = self.prepare(container, held, volumes);
        let finished = made.and_then(|made| self.finish(container, made, None));
        finished.inspect_err(|_| self.undo(container))
    }

    /// Everything that its monitor needs, but for the configuration.
    fn prepare(
        &self,
        container: &Container,
        held: &Held,
        volumes: &volumes::Volumes,
    ) -> Result<bundle::Made> {
        let failed = || "cannot create the container";
        self.places
            .create(Kind::Container, &container.id)
            .context(failed)?;
        let facts = held.facts(container.config().image.as_ref());
        container.state().record.image = facts;
        bundle::make(self, container, held, volumes).context(failed)
    }

    /// Writes configuration and record, and has its monitor make it.
    fn finish(
        &self,
        container: &Container,
        mut made: bundle::Made,
        wanted: Option<&ContainerAdjustment>,
    ) -> Result<Option<std::process::Child>> {
        let failed = || "cannot create the container";
        let mut record = container.state().record.clone();
        if let Some(wanted) = wanted {
            crate::nri::apply(&mut made.container.spec, wanted).context(failed)?;
            record.set_adjusted(&crate::nri::limits_of(wanted));
        }
        bundle::write(self, &container.id, &made.container.spec).context(failed)?;
        record.stop_signal = made.container.stop_signal;
        record.log = made.container.log.as_ref().map(crate::spec::Log::full);
        let identity = &made.container.identity;
        record.user = User {
            uid: identity.uid.into(),
            gid: identity.gid.into(),
            groups: identity
                .additional
                .iter()
                .map(|gid| i64::from(*gid))
                .collect(),
        };
        record.volumes = made.volumes;
        self.places.write_container(&record).context(failed)?;
        container.state().record = record;
        let launch = bundle::launch(self, container, &made.container);
        let monitor = match made.restored {
            true => {
                let spec = &made.container.spec;
                checkpoints::keep(self, &container.id, launch, spec).context(failed)?;
                None
            }
            false => Some(launch.start(&[], None).context(failed)?.monitor),
        };
        let mut record = container.state().record.clone();
        record.made = true;
        record.restoring = made.restored;
        self.places.write_container(&record).context(failed)?;
        container.state().record = record;
        Ok(monitor)
    }
}
