//! From a container's making to its end: one task waits for what its monitor says, and then sees that nothing
//! of it runs any more before anybody is told.

use std::os::fd::AsFd;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcrun_runtime::monitor::{self, Client, Exit};

use super::bundle::EXIT;
use super::end_of;
use crate::core::{Container, Core, End, Life};
use crate::proto::v1 as cri;
use crate::readable::readable;
use crate::records::{ContainerRecord, Kind, now};
use crate::time::nanoseconds;
use crate::{Context, Error, ErrorKind, Result};

/// What a container has that ended unseen, as with containerd.
const UNKNOWN: i32 = 255;
/// How long a monitor may take to end after its container was removed.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks whether something has ended.
const PAUSE: Duration = Duration::from_millis(2);
/// Between two looks at something that was not started by this server and tells nothing.
const SLOW: Duration = Duration::from_millis(200);

/// Waits for the end of a container, from now on; `monitor` is its monitor where that is a child of this
/// server.
pub(crate) fn supervise(core: &Arc<Core>, container: &Arc<Container>, monitor: Option<Child>) {
    let (core, container) = (Arc::clone(core), Arc::clone(container));
    tokio::spawn(async move {
        let exit = wait(&core, &container).await;
        let failure = container.state().record.failure.clone();
        let end = match (exit, failure) {
            (_, Some(failure)) => end_of(&failure),
            (Ok(exit), None) => end(&exit),
            (Err(error), None) => {
                core.meter.lost_monitor();
                tracing::warn!(container = container.id, "{}", error.chain());
                note_lost(&core, &container).await
            }
        };
        ended(&core, &container, end).await;
        if let Some(monitor) = monitor {
            reap(monitor).await;
        }
    });
}

async fn wait(core: &Arc<Core>, container: &Arc<Container>) -> Result<Exit> {
    match ask(core, container).await {
        Ok(exit) => Ok(exit),
        Err(error) => {
            // Without a monitor the container may run on.
            if let Ok(Some((_, pidfd))) = core.runtime.init(&container.id) {
                let pidfd = readable(pidfd)?;
                drop(pidfd.readable().await?);
            }
            match recorded(core, &container.id) {
                Ok(Some(exit)) => Ok(exit),
                _ => Err(error.context("nobody knows how the container ended")),
            }
        }
    }
}

async fn ask(core: &Arc<Core>, container: &Container) -> Result<Exit> {
    let mut client = Client::connect(&core.places.runtime_root(), &container.id)?;
    client.ask_for_end()?;
    let socket = client.as_fd().try_clone_to_owned()?;
    let socket = readable(socket)?;
    loop {
        let mut ready = socket.readable().await?;
        if let Some(exit) = client.heard()? {
            return Ok(exit);
        }
        ready.clear_ready();
    }
}

/// What the monitor's record says.
fn end(exit: &Exit) -> End {
    End {
        at: nanoseconds(&exit.finished_at).unwrap_or_else(now),
        code: exit.code,
        reason: match (exit.oom, exit.code) {
            (true, _) => "OOMKilled",
            (false, 0) => "Completed",
            (false, _) => "Error",
        },
        message: String::new(),
    }
}

/// What the monitor wrote: with the container, so that it is there after the next boot.
fn recorded(core: &Core, id: &str) -> Result<Option<Exit>> {
    let directory = core.places.path(Kind::Container, id);
    Exit::read(&directory.join(EXIT)).context(|| "cannot read how the container ended")
}

/// Whether its monitor wrote how it ended.
pub(super) fn has_ended(core: &Core, id: &str) -> Result<bool> {
    recorded(core, id).map(|exit| exit.is_some())
}

/// From now on its end is one that nobody saw; the moment of which is said the same by every server.
async fn note_lost(core: &Arc<Core>, container: &Container) -> End {
    let at = now();
    let record = {
        let mut state = container.state();
        state.record.lost = Some(at);
        state.record.clone()
    };
    let this = Arc::clone(core);
    let written = core.light.run(move || this.places.write_container(&record));
    if let Err(status) = written.await {
        tracing::error!(container = container.id, "{}", status.message());
    }
    unknown(at)
}

fn unknown(at: i64) -> End {
    End {
        at,
        code: UNKNOWN,
        reason: "Unknown",
        message: "its monitor was killed: nobody saw how it ended".to_owned(),
    }
}

/// Nothing of it runs any more, and then everybody is told.
async fn ended(core: &Arc<Core>, container: &Arc<Container>, end: End) {
    let (this, id) = (Arc::clone(core), container.id.clone());
    let deleted = core.light.run(move || this.runtime.delete(&id, true)).await;
    if let Err(status) = deleted {
        // RemoveContainer tries again.
        tracing::error!(
            container = container.id,
            "cannot clean up: {}",
            status.message()
        );
    }
    let life = Life::Ended(end);
    core.tell_stop(container, &life).await;
    container.life.send_replace(life);
    core.events
        .of_container(container, cri::ContainerEventType::ContainerStoppedEvent);
}

/// It could not be started: its end is as its record says.
pub(super) async fn failed(core: &Arc<Core>, container: &Arc<Container>) {
    let failure = container.state().record.failure.clone();
    if let Some(failure) = failure {
        ended(core, container, end_of(&failure)).await;
    }
}

async fn reap(mut monitor: Child) {
    // Those whose clients read slowly stay a while.
    while matches!(monitor.try_wait(), Ok(None)) {
        tokio::time::sleep(SLOW).await;
    }
}

/// Waits until a monitor that another server started, and that makes its container at this moment, has made
/// it, or given up: only then can it be taken away.
pub(super) fn await_made(core: &Core, id: &str) -> Result<()> {
    let root = &core.runtime.root;
    until(id, "is still making it", || {
        Ok(!monitor::lives(root, id)? || Client::connect(root, id).is_ok())
    })
}

/// Waits until the monitor of a container that is gone is gone too.
pub(super) fn await_monitor(core: &Core, id: &str) -> Result<()> {
    let root = &core.runtime.root;
    until(id, "does not end", || Ok(!monitor::lives(root, id)?))
}

fn until(id: &str, what: &str, done: impl Fn() -> Result<bool>) -> Result<()> {
    let since = Instant::now();
    while !done()? {
        if since.elapsed() > PATIENCE {
            let text = format!("the monitor of container {id} {what}");
            return Err(Error::new(ErrorKind::Deadline, text));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Where a container is in its life that an earlier server made; an end that nobody saw goes into its record.
pub(crate) fn found(core: &Core, record: &mut ContainerRecord) -> Result<Life> {
    if let Some(failure) = &record.failure {
        return Ok(Life::Ended(end_of(failure)));
    }
    let seen = || -> Result<Option<Life>> {
        Ok(recorded(core, &record.id)?.map(|exit| Life::Ended(end(&exit))))
    };
    if let Some(ended) = seen()? {
        return Ok(ended);
    }
    if let Some(at) = record.lost {
        return Ok(Life::Ended(unknown(at)));
    }
    use rcrun_runtime::container::Status;
    if record.restoring {
        // Another server had begun with that. What takes long goes on without being waited for.
        let _ = until(&record.id, "still restores it", || {
            crate::checkpoints::is_restoring(core, &record.id).map(|restores| !restores)
        });
    }
    let state = match core.runtime.state(&record.id) {
        Ok(report) => report.status,
        Err(error) if super::is_gone(&error) => Status::Stopped,
        Err(error) => return Err(error),
    };
    let life = match state {
        Status::Creating | Status::Created => Some(Life::Made),
        Status::Running | Status::Paused => Some(Life::Running),
        // Nobody has begun to restore it.
        Status::Stopped if record.restoring && !monitor::lives(&core.runtime.root, &record.id)? => {
            Some(Life::Made)
        }
        // Its monitor may write the record in this moment, or was killed.
        Status::Stopped if monitor::lives(&core.runtime.root, &record.id)? => Some(Life::Running),
        Status::Stopped => seen()?,
    };
    if let Some(life) = life {
        return Ok(life);
    }
    let at = now();
    record.lost = Some(at);
    core.places.write_container(record)?;
    Ok(Life::Ended(unknown(at)))
}
