//! Blocking work of asynchronous handlers: a thread for each, within limits.
//!
//! A caller that goes away, or whose deadline passes, does not stop what has begun; its place stays taken
//! until that is done, so that impatient callers cannot pile up threads.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tonic::Status;

use crate::Result;
use crate::status::status;

/// So many pieces of work at a time; others wait for their turn.
#[derive(Debug, Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    /// A gate with so many places.
    pub(crate) fn new(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places)))
    }

    /// Does work on a thread where it may block.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T, Status> {
        let place = Arc::clone(&self.0).acquire_owned().await;
        let place = place.map_err(|_| Status::unavailable("the server stops"))?;
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(place);
            result
        });
        match done.await {
            Ok(result) => result.map_err(|error| status(&error)),
            // Its panic was printed by the thread.
            Err(_) => Err(Status::internal("a defect in the server: see its log")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(work)
    }

    #[test]
    fn a_place_is_taken_until_the_work_is_done() {
        block_on(async {
            let gate = Gate::new(1);
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let first = gate.run(move || Ok(wait.recv().is_ok()));
            // Its caller goes away.
            assert!(
                tokio::time::timeout(Duration::from_millis(20), first)
                    .await
                    .is_err()
            );
            let second = gate.run(|| Ok(7));
            tokio::pin!(second);
            let early = tokio::time::timeout(Duration::from_millis(20), &mut second).await;
            assert!(early.is_err());
            go.send(()).unwrap();
            assert_eq!(second.await.unwrap(), 7);
        });
    }

    #[test]
    fn a_panic_is_an_internal_error() {
        let status = block_on(async {
            let gate = Gate::new(1);
            let panicked = gate.run::<()>(|| panic!("on purpose")).await.unwrap_err();
            assert_eq!(gate.run(|| Ok(1)).await.unwrap(), 1);
            panicked
        });
        assert_eq!(status.code(), tonic::Code::Internal);
        assert!(!status.message().contains("on purpose"));
    }
}
