//! How much containers wrote: measured beside requests, since one may have written a million files, and kept
//! for a while. A request waits a moment for what was never measured; what is only old it tells as it is,
//! and has it measured for the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rcrun_overlay::lease::SnapshotId;
use rcrun_overlay::snapshot::{Snapshots, Used};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;

use super::value;
use crate::Result;
use crate::core::{Container, Core};
use crate::proto::v1 as cri;
use crate::records::now;

/// How old a size may be.
const FRESH: Duration = Duration::from_secs(10);
/// Measuring takes at most this part of the time.
const SHARE: u32 = 10;
/// How long a request waits for sizes that nobody knows yet.
const PATIENCE: Duration = Duration::from_millis(100);

/// The sizes.
#[derive(Debug, Default)]
pub(super) struct Files {
    all: Mutex<HashMap<String, Measured>>,
    /// Held by who measures.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Of a container.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// Nanoseconds since the epoch.
    at: i64,
    ended: Instant,
    took: Duration,
    used: Used,
}

impl Measured {
    fn is_fresh(&self) -> bool {
        self.ended.elapsed() < FRESH.max(self.took * SHARE)
    }
}

impl Files {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Measured>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget(&self, id: &str) {
        self.all().remove(id);
    }

    fn knows(&self, id: &str) -> bool {
        self.all().contains_key(id)
    }

    fn is_fresh(&self, id: &str) -> bool {
        self.all().get(id).is_some_and(Measured::is_fresh)
    }
}

impl Core {
    /// Measures what of these is not known or old, and waits a moment for those that are not known.
    pub(super) async fn measure_files(self: &Arc<Self>, mut containers: Vec<Arc<Container>>) {
        containers.retain(|one| !self.known.files.is_fresh(&one.id));
        if containers.is_empty() {
            return;
        }
        let turn = Arc::clone(&self.known.files.turn);
        if containers.iter().all(|one| self.known.files.knows(&one.id)) {
            // Somebody measures already, or it is done beside this request.
            if let Ok(turn) = turn.try_lock_owned() {
                self.begin_measuring(containers, turn);
            }
            return;
        }
        let measured = async {
            // Who measures now may measure these as well, and then they are left out.
            let turn = turn.lock_owned().await;
            let _ = self.begin_measuring(containers, turn).await;
        };
        let _ = tokio::time::timeout(PATIENCE, measured).await;
    }

    /// Goes on also when nobody waits for it any more.
    fn begin_measuring(
        self: &Arc<Self>,
        containers: Vec<Arc<Container>>,
        turn: OwnedMutexGuard<()>,
    ) -> JoinHandle<()> {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let core = Arc::clone(&this);
            let work = move || {
                core.measure_all(&containers);
                Ok(())
            };
            let _ = this.light.run(work).await;
            drop(turn);
        })
    }

    fn measure_all(&self, containers: &[Arc<Container>]) {
        for container in containers {
            if self.known.files.is_fresh(&container.id) {
                continue;
            }
            let (at, begun) = (now(), Instant::now());
            match self.measure(container) {
                Ok(Some(used)) => {
                    let measured = Measured {
                        at,
                        ended: Instant::now(),
                        took: begun.elapsed(),
                        used,
                    };
                    let id = container.id.clone();
                    self.known.files.all().insert(id, measured);
                }
                Ok(None) => {}
                // Its files may go away while they are counted.
                Err(error) => tracing::debug!(container = container.id, "{}", error.chain()),
            }
            if self.container(&container.id).is_err() {
                self.known.files.forget(&container.id);
            }
        }
    }

    fn measure(&self, container: &Container) -> Result<Option<Used>> {
        let id: SnapshotId = container.state().record.snapshot.parse()?;
        let snapshot = Snapshots::new(&self.host.store)?.open(&id)?;
        snapshot.map(|snapshot| snapshot.usage()).transpose()
    }

    /// What is known of a container: when that was, and the bytes.
    pub(super) fn known_files(&self, id: &str) -> Option<(i64, u64)> {
        let all = self.known.files.all();
        all.get(id).map(|known| (known.at, known.used.bytes))
    }

    /// The same for its statistics.
    pub(super) fn files_of(&self, container: &Container) -> Option<cri::FilesystemUsage> {
        let known = self.known.files.all().get(&container.id).copied()?;
        Some(cri::FilesystemUsage {
            timestamp: known.at,
            fs_id: Some(cri::FilesystemIdentifier {
                mountpoint: self.host.store.path().display().to_string(),
            }),
            used_bytes: value(known.used.bytes),
            inodes_used: value(known.used.inodes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_measured_seldom() {
        let Some(past) = Instant::now().checked_sub(Duration::from_secs(60)) else {
            return;
        };
        let measured = |seconds| Measured {
            at: 0,
            ended: past,
            took: Duration::from_secs(seconds),
            used: Used {
                bytes: 0,
                inodes: 0,
            },
        };
        assert!(!measured(0).is_fresh() && !measured(5).is_fresh());
        assert!(measured(7).is_fresh());
    }
}
