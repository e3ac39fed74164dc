//! ExecSync: a program in a container, its output and its exit code in one answer. The kubelet's probes.
//!
//! The program is born in a sub-cgroup of its container (named [`PREFIX`]...), so that at the deadline, or
//! when nobody waits for the answer any more, everything that it started is killed, whatever session or
//! parent that has. What a program leaves behind that ends in time is moved to the container's cgroup and
//! lives on, as with other runtimes.
//!
//! A program that cannot be executed is an error, not an exit code, as with containerd: the kubelet's
//! probes throw such a result away, and hooks fail with its text.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rcrun_runtime::cgroup::Branch;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Status;

use super::copy::{Kept, Sink, output};
use super::process::{Asked, Process};
use crate::core::{Container, Core, Life, whole};
use crate::proto::v1 as cri;
use crate::records::random_id;
use crate::server::MAX_MESSAGE;
use crate::status::status;
use crate::{Error, ErrorKind, Result};

/// What is kept of each output, as with containerd.
const MOST: usize = 16 << 20;
/// What an answer has besides the two.
const ENVELOPE: usize = 64;
/// How long the processes of an answer that came too late may take to go.
const KILLED: Duration = Duration::from_secs(2);
/// Between two kills: the first may have been before anything ran.
const AGAIN: Duration = Duration::from_millis(50);
/// Longest time limit; more is as good as none.
const LONGEST: u64 = 10 * 365 * 86_400;
/// What the names of our sub-cgroups begin with.
const PREFIX: &str = "rcrun-sync-";

/// How it went.
enum Verdict {
    Ended(Result<u8>),
    Late,
    /// Nobody waits.
    Left,
}

/// What may end it.
struct Limits {
    deadline: Option<Instant>,
    left: oneshot::Receiver<Infallible>,
}

impl Core {
    /// ExecSync.
    pub(crate) async fn exec_sync(
        self: &Arc<Self>,
        request: cri::ExecSyncRequest,
    ) -> Result<cri::ExecSyncResponse, Status> {
        let limit = limit(request.timeout).map_err(|error| status(&error))?;
        if request.cmd.is_empty() {
            return Err(Status::invalid_argument("cannot run an empty command"));
        }
        let container = self.running(&request.container_id);
        let container = container.map_err(|error| status(&error))?;
        // Dropped with this request.
        let (_waiting, left) = oneshot::channel::<Infallible>();
        let core = Arc::clone(self);
        whole(async move {
            let run = run(&core, &container, request.cmd, limit, left).await;
            run.map_err(|error| {
                let failed = || format!("cannot run a program in container {}", container.id);
                status(&error.context(failed()))
            })
        })
        .await
    }
}

async fn run(
    core: &Arc<Core>,
    container: &Container,
    command: Vec<String>,
    limit: Option<Duration>,
    left: oneshot::Receiver<Infallible>,
) -> Result<cri::ExecSyncResponse> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    let branch = branch(core, container).await?;
    let asked = Asked {
        container: container.id.clone(),
        command,
        terminal: false,
        stdin: false,
        stdout: true,
        stderr: true,
        branch: Some(branch.name().to_owned()),
    };
    let (mut out, mut err) = (Kept::new(MOST), Kept::new(MOST));
    let verdict = match Process::start(core, asked).await {
        Ok(process) => {
            let limits = Limits { deadline, left };
            attended(core, process, &branch, limits, (&mut out, &mut err)).await
        }
        Err(error) => {
            kill(core, &branch).await;
            Verdict::Ended(Err(error))
        }
    };
    close(core, branch);
    match verdict {
        Verdict::Ended(code) => {
            let exit_code = code?.into();
            let (stdout, stderr) = fit(out.take(), err.take(), MAX_MESSAGE - ENVELOPE);
            Ok(cri::ExecSyncResponse {
                stdout,
                stderr,
                exit_code,
            })
        }
        Verdict::Late => Err(Error::new(
            ErrorKind::Deadline,
            format!(
                "timeout {} s exceeded: deadline exceeded",
                limit.unwrap_or_default().as_secs()
            ),
        )),
        Verdict::Left => Err(Error::new(ErrorKind::Unavailable, "nobody waits for it")),
    }
}

/// Waits for its end and its output.
async fn attended(
    core: &Arc<Core>,
    mut process: Process,
    branch: &Arc<Branch>,
    limits: Limits,
    (out, err): (&mut Kept, &mut Kept),
) -> Verdict {
    let (ended, watched) = watch::channel(false);
    let out = output(
        process.stdout.take(),
        Some(Sink::Kept(out)),
        watched.clone(),
    );
    let err = output(process.stderr.take(), Some(Sink::Kept(err)), watched);
    let end = async {
        let late = async {
            match limits.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let verdict = tokio::select! {
            biased;
            code = process.ended() => Verdict::Ended(code),
            () = late => Verdict::Late,
            _ = limits.left => Verdict::Left,
        };
        if !matches!(verdict, Verdict::Ended(_)) {
            end_all(core, &mut process, branch).await;
        }
        ended.send_replace(true);
        verdict
    };
    tokio::join!(end, out, err).0
}

/// Kills everything.
async fn end_all(core: &Arc<Core>, process: &mut Process, branch: &Arc<Branch>) {
    let since = Instant::now();
    while process.lives() && since.elapsed() < KILLED {
        kill(core, branch).await;
        // Its exit code means nothing.
        let _ = timeout(AGAIN, process.ended()).await;
    }
    if process.lives() {
        process.abandon();
        kill(core, branch).await;
    }
}

async fn kill(core: &Arc<Core>, branch: &Arc<Branch>) {
    let branch = Arc::clone(branch);
    if let Err(status) = core.light.run(move || branch.kill()).await {
        tracing::warn!("cannot end a program: {}", status.message());
    }
}

/// The sub-cgroup of one program.
async fn branch(core: &Arc<Core>, container: &Container) -> Result<Arc<Branch>> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}{number}", ours()?);
    let (runtime, id) = (core.runtime.clone(), container.id.clone());
    let made = core.light.run(move || runtime.branch(&id, &name)).await;
    made.map(Arc::new).map_err(super::of_status)
}

/// What names of this server's sub-cgroups begin with.
fn ours() -> Result<&'static str> {
    static OURS: OnceLock<String> = OnceLock::new();
    if let Some(ours) = OURS.get() {
        return Ok(ours);
    }
    let server = &random_id()?[..16];
    Ok(OURS.get_or_init(|| format!("{PREFIX}{server}-")))
}

/// Nobody waits for this.
fn close(core: &Arc<Core>, branch: Arc<Branch>) {
    let core = Arc::clone(core);
    tokio::spawn(async move {
        let name = branch.name().to_owned();
        match core.light.run(move || branch.close()).await {
            Ok(true) => {}
            // It goes with the container.
            Ok(false) => tracing::debug!(name, "a sub-cgroup stays"),
            Err(status) => tracing::debug!(name, "{}", status.message()),
        }
    });
}

/// Ends what a server that was killed had begun: nobody waits for its answers.
pub(super) fn resume(core: &Arc<Core>) {
    for container in core.containers() {
        if container.life() != Life::Running {
            continue;
        }
        let core = Arc::clone(core);
        tokio::spawn(async move {
            let (runtime, id) = (core.runtime.clone(), container.id.clone());
            let ended = core.light.run(move || {
                let ours = ours()?;
                for branch in runtime.branches(&id, PREFIX)? {
                    if !branch.name().starts_with(ours) {
                        branch.kill()?;
                        branch.close()?;
                    }
                }
                Ok(())
            });
            if let Err(status) = ended.await {
                tracing::warn!(container = container.id, "{}", status.message());
            }
        });
    }
}

/// No limit for 0.
fn limit(seconds: i64) -> Result<Option<Duration>> {
    match u64::try_from(seconds) {
        Ok(0) => Ok(None),
        Ok(seconds) => Ok(Some(Duration::from_secs(seconds.min(LONGEST)))),
        Err(_) => Err(Error::invalid(format!(
            "cannot use a timeout of {seconds} s"
        ))),
    }
}

/// As much of both as fits into one message: all of the shorter one, if that is no more than half.
fn fit(mut out: Vec<u8>, mut err: Vec<u8>, most: usize) -> (Vec<u8>, Vec<u8>) {
    let half = most / 2;
    let (for_out, for_err) = match (out.len(), err.len()) {
        (out, _) if out <= half => (out, most - out),
        (_, err) if err <= half => (most - err, err),
        _ => (half, half),
    };
    out.truncate(for_out);
    err.truncate(for_err);
    (out, err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_time() {
        assert_eq!(limit(0).unwrap(), None);
        assert_eq!(limit(3).unwrap(), Some(Duration::from_secs(3)));
        assert_eq!(limit(i64::MAX).unwrap(), Some(Duration::from_secs(LONGEST)));
        assert!(limit(-1).is_err());
        assert!(
            Instant::now()
                .checked_add(Duration::from_secs(LONGEST))
                .is_some()
        );
    }

    #[test]
    fn both_outputs_fit_into_one_message() {
        for (out, err, expected) in [
            (0, 0, (0, 0)),
            (10, 0, (10, 0)),
            (11, 0, (10, 0)),
            (0, 11, (0, 10)),
            (4, 6, (4, 6)),
            (4, 9, (4, 6)),
            (9, 4, (6, 4)),
            (9, 9, (5, 5)),
        ] {
            let (out, err) = fit(vec![0; out], vec![0; err], 10);
            assert_eq!((out.len(), err.len()), expected);
        }
    }

    #[test]
    fn names_are_of_one_server() {
        assert_eq!(ours().unwrap(), ours().unwrap());
        assert_eq!(ours().unwrap().len(), PREFIX.len() + 17);
    }
}
