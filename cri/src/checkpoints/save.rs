//! CheckpointContainer: a running container -> an archive. It goes on afterwards, whatever happens.
//!
//! The work is `rcrun capture`'s ([`super::capture`](mod@super::capture)), below the container's directory.
//! criu must not be killed in the middle: what it dumps would run its code instead of their own. So a caller
//! who does not wait any longer is answered, and the work is given up where that does no harm.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcrun_runtime::monitor::WireError;
use rustix::fs::{FlockOperation, flock};
use tonic::Status;

use super::capture::{Captured, ORDER, Order};
use super::documents::Was;
use super::place::Place;
use super::write::{Contents, Stop, archive};
use super::{BINDS, CONFIG, IMAGES, SAVING, SPEC, STATE, STATUS};
use crate::core::{Container, Core, Life, precondition, whole};
use crate::proto::v1 as cri;
use crate::records::{Kind, now};
use crate::report;
use crate::status::status;
use crate::{Context, Error, ErrorKind, Result};

/// How long it may take unless the request says something else.
const DEFAULT: Duration = Duration::from_secs(600);
/// How long the process may take to notice that nobody waits any longer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks whether it has ended.
const PAUSE: Duration = Duration::from_millis(5);
/// The longest answer of the process.
const ANSWER: u64 = 64 << 10;

/// Gives the work up when the caller has gone.
struct Caller(Stop);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.set();
    }
}

impl Core {
    /// CheckpointContainer.
    pub(crate) async fn checkpoint_container(
        self: &Arc<Self>,
        request: cri::CheckpointContainerRequest,
    ) -> Result<(), Status> {
        let failed = || format!("cannot save container {}", request.container_id);
        let limit = match u64::try_from(request.timeout) {
            Ok(0) => DEFAULT,
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => {
                let error = Error::invalid(format!("a timeout of {} s", request.timeout));
                return Err(status(&error.context(failed())));
            }
        };
        let container = self.container(&request.container_id)?;
        runs(&container)
            .context(failed)
            .map_err(|error| status(&error))?;
        let criu = super::criu(&self.images.settings())
            .map_err(|error| precondition(error.chain().to_string()))
            .context(failed)
            .map_err(|error| status(&error))?;
        let stop = Stop::default();
        let caller = Caller(stop.clone());
        let (core, location) = (Arc::clone(self), request.location.clone());
        let saving = whole(async move {
            let place = core.light.run(move || Place::new(&location)).await?;
            let _turn = container.turn.lock().await;
            let (this, one) = (Arc::clone(&core), Arc::clone(&container));
            core.saves
                .run(move || {
                    let failed = || format!("cannot save container {}", one.id);
                    this.save(&one, place, criu, &stop).context(failed)
                })
                .await
        });
        let saved = tokio::time::timeout(limit, saving).await;
        drop(caller);
        saved.unwrap_or_else(|_| {
            Err(Status::deadline_exceeded(format!(
                "{}: it takes longer than {} s",
                failed(),
                limit.as_secs()
            )))
        })
    }

    fn save(&self, one: &Arc<Container>, place: Place, criu: PathBuf, stop: &Stop) -> Result<()> {
        stop.check()?;
        runs(one)?;
        let directory = self.places.path(Kind::Container, &one.id).join(SAVING);
        let saved = Saved::new(&directory)?;
        let record = one.state().record.clone();
        let order = Order {
            id: one.id.clone(),
            root: self.runtime.root.clone(),
            store: self.host.store.path().to_owned(),
            snapshot: record.snapshot,
            criu,
            log: record.log,
        };
        let text = serde_json::to_vec(&order)
            .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        std::fs::write(directory.join(ORDER), text)
            .context(|| format!("cannot write {}", directory.display()))?;
        let pid = self.runtime.init(&one.id)?.map_or(0, |(pid, _)| pid);
        let captured = capture(&directory, stop).inspect_err(|_| {
            // It may be gone, or never have been stopped.
            let _ = self.runtime.resume(&one.id);
        })?;
        stop.check()?;
        let spec = self
            .places
            .path(Kind::Container, &one.id)
            .join("config.json");
        let spec = std::fs::read(&spec).context(|| format!("cannot read {}", spec.display()))?;
        let spec = serde_json::from_slice(&spec)
            .map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))?;
        let (message, life, now) = (report::container(one), one.life(), now());
        let was = Was {
            status: &message,
            life: &life,
            spec: &spec,
            pid,
            now,
        };
        let documents = vec![
            (CONFIG, was.config()),
            (STATUS, was.status()),
            (STATE, was.state()),
            (BINDS, was.binds()),
            (SPEC, spec.clone()),
        ];
        let contents = Contents {
            saved: &directory,
            documents,
            log: order.log.map(|log| (log, captured.log())),
            time: now / 1_000_000_000,
            stop,
        };
        archive(&contents, place.file())?;
        place.finish(|| stop.check())?;
        drop(saved);
        Ok(())
    }

    /// After a start: what an earlier server was saving goes on, and nothing of it is left.
    pub(crate) fn clear_saving(self: &Arc<Self>, id: &str) {
        let directory = self.places.path(Kind::Container, id).join(SAVING);
        if !directory.exists() {
            return;
        }
        let (core, id) = (Arc::clone(self), id.to_owned());
        tokio::spawn(async move {
            let this = Arc::clone(&core);
            let cleared = core.saves.run(move || {
                let file = File::open(&directory)?;
                // The process works until it has done its work.
                rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))?;
                let _ = this.runtime.resume(&id);
                drop(Saved(&directory));
                Ok(())
            });
            if let Err(status) = cleared.await {
                tracing::warn!("cannot clear a checkpoint: {}", status.message());
            }
        });
    }
}

fn runs(container: &Container) -> Result<()> {
    match container.life() {
        Life::Running => Ok(()),
        Life::Made => Err(precondition("it was not started")),
        Life::Ended(_) => Err(precondition("it has ended")),
    }
}

/// A directory that is gone afterwards.
struct Saved<'a>(&'a Path);

impl<'a> Saved<'a> {
    fn new(path: &'a Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let failed = || format!("cannot make {}", path.display());
        // Of an earlier one.
        drop(Self(path));
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        builder.create(path).context(failed)?;
        let saved = Self(path);
        builder.create(path.join(IMAGES)).context(failed)?;
        Ok(saved)
    }
}

impl Drop for Saved<'_> {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                // It goes with the container.
                tracing::warn!("cannot remove {}: {error}", self.0.display());
            }
            _ => {}
        }
    }
}

/// Has the process do its work.
fn capture(directory: &Path, stop: &Stop) -> Result<Captured> {
    let failed = || "cannot start rcrun capture";
    // criu needs programs of the host.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut child = Command::new("/proc/self/exe")
        .arg0("rcrun")
        .arg("capture")
        .arg(directory)
        .env_clear()
        .env("PATH", path)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(failed)?;
    let answer = child.stdout.take();
    let end = wait(&mut child, stop).context(|| "cannot wait for rcrun capture")?;
    let mut text = Vec::new();
    if let Some(answer) = answer {
        answer.take(ANSWER).read_to_end(&mut text)?;
    }
    let failed = |_| Error::new(ErrorKind::Internal, format!("rcrun capture failed ({end})"));
    match end.success() {
        true => serde_json::from_slice(&text).map_err(failed),
        false => Err(serde_json::from_slice::<WireError>(&text).map_or_else(failed, Error::from)),
    }
}

fn wait(child: &mut Child, stop: &Stop) -> Result<std::process::ExitStatus> {
    let mut unwanted: Option<Instant> = None;
    loop {
        if let Some(end) = child.try_wait()? {
            return Ok(end);
        }
        if stop.is_set() && unwanted.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            child.kill()?;
        }
        std::thread::sleep(PAUSE);
    }
}
