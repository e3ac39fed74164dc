//! Starts that a server asked for which was killed since: the monitor does what it was told, and nobody is there
//! to hear of it.

use std::sync::Arc;
use std::time::Duration;

use rcrun_runtime::container::Status;
use tonic::Status as Answer;

use crate::core::{Container, Core, Life};
use crate::proto::v1 as cri;
use crate::records::now;
use crate::{Error, ErrorKind, Result};

/// When it is looked whether a container that was only made has been started: hooks may take their time.
const LOOKS: [Duration; 6] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(10),
    Duration::from_secs(60),
];

/// Whether a start that failed did so since it was done before; else its error. One that has ended meanwhile was
/// started too: its monitor says how it ended.
pub(super) fn was_done(core: &Core, id: &str, error: Error) -> Result<()> {
    if error.kind() != ErrorKind::FailedPrecondition {
        return Err(error);
    }
    let runs = core.runtime.state(id).map(|report| report.status);
    match runs {
        Ok(Status::Running | Status::Paused) => Ok(()),
        Ok(Status::Stopped) if core.runtime.was_started(id).unwrap_or(false) => Ok(()),
        _ => Err(error),
    }
}

/// It runs, and everybody is told. (One that was short has ended by now.)
pub(super) fn tell(core: &Core, container: &Container) {
    container.life.send_if_modified(|life| match life {
        Life::Made => {
            *life = Life::Running;
            true
        }
        _ => false,
    });
    core.events
        .of_container(container, cri::ContainerEventType::ContainerStartedEvent);
}

/// Looks for a while whether a container that was found as made is being started.
pub(crate) fn notice(core: &Arc<Core>, container: &Arc<Container>) {
    let (core, container) = (Arc::clone(core), Arc::clone(container));
    tokio::spawn(async move {
        for pause in LOOKS {
            tokio::time::sleep(pause).await;
            // Not beside a StartContainer.
            let _turn = container.turn.lock().await;
            if container.life() != Life::Made {
                return;
            }
            match look(&core, &container).await {
                Ok(false) => {}
                Ok(true) => return tell(&core, &container),
                Err(status) => {
                    tracing::error!(container = container.id, "{}", status.message());
                }
            }
        }
    });
}

/// Whether it runs; its record says so then.
async fn look(core: &Arc<Core>, container: &Container) -> Result<bool, Answer> {
    let (this, id) = (Arc::clone(core), container.id.clone());
    let mut record = container.state().record.clone();
    let work = move || {
        let runs = this.runtime.state(&id).map(|report| report.status);
        if !matches!(runs, Ok(Status::Running | Status::Paused)) {
            return Ok(None);
        }
        record.started = Some(now());
        this.places.write_container(&record)?;
        Ok(Some(record.started))
    };
    let started = core.light.run(work).await?;
    if let Some(started) = started {
        container.state().record.started = started;
    }
    Ok(started.is_some())
}
