//! What happens after images were removed or pulled, without whoever asked for that.
//!
//! One sweep at a time, and one for all who removed something before it began. The kubelet looks at the
//! disk soon after it has removed images, and evicts pods if that does not show; so a removal waits for
//! its sweep, but not long: a sweep of large layers goes on by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rcrun_overlay::layer::store::Layers;
use tokio::sync::watch;

use crate::host::Host;
use crate::work::Gate;

/// How long a removal waits for its sweep.
const PATIENCE: Duration = Duration::from_secs(2);
/// After this long the kernel has written out most of a layer by itself.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// Sweeps when it is asked to.
#[derive(Debug, Clone)]
pub(super) struct Sweeper {
    host: Arc<Host>,
    gate: Gate,
    asked: watch::Sender<u64>,
    done: watch::Receiver<u64>,
    settling: Arc<AtomicBool>,
}

impl Sweeper {
    /// Starts its task.
    pub(super) fn start(host: &Arc<Host>) -> Self {
        let (asked, mut requests) = watch::channel(0);
        let (finished, done) = watch::channel(0);
        let sweeper = Self {
            host: Arc::clone(host),
            gate: Gate::new(1),
            asked,
            done,
            settling: Arc::default(),
        };
        let (host, gate) = (Arc::clone(host), sweeper.gate.clone());
        tokio::spawn(async move {
            while requests.changed().await.is_ok() {
                let number = *requests.borrow_and_update();
                let host = Arc::clone(&host);
                let swept = gate.run(move || (host.sweep)(&host.store)).await;
                if let Err(status) = swept {
                    tracing::warn!("removed images still take space: {}", status.message());
                }
                let _ = finished.send(number);
            }
        });
        sweeper
    }

    /// Sweeps; says whether that was done before patience ended.
    pub(super) async fn sweep(&self) -> bool {
        let mut number = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        let mut done = self.done.clone();
        let swept = done.wait_for(|done| *done >= number);
        tokio::time::timeout(PATIENCE, swept).await.is_ok()
    }

    /// After a pull: settles its layers when that costs little.
    pub(super) fn settle_later(&self) {
        if self.settling.swap(true, Ordering::SeqCst) {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            // A bit more, so that the layers of this pull are among them.
            tokio::time::sleep(SETTLED_AFTER + SETTLED_AFTER / 4).await;
            this.settling.store(false, Ordering::SeqCst);
            let store = this.host.store.clone();
            let settled = this
                .gate
                .run(move || Layers::new(&store)?.settle_older(SETTLED_AFTER))
                .await;
            if let Err(status) = settled {
                tracing::warn!("layers are not on the disk yet: {}", status.message());
            }
        });
    }
}
