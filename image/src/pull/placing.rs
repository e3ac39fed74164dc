//! Blobs put into their places while others are fetched and unpacked.
//!
//! Each is synced before; the unpacked layers are not, as long as the page cache vouches for them
//! ([`Store::lifetime`]). Where it does not, one thread syncs the whole store, again and again, and what
//! is left for the sync at the end is little.
//!
//! A blob is not held back until the end of the pull: then it would be waited for by others who hold
//! layers that we wait for.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rcrun_overlay::content::{Verified, place_all};
use rcrun_overlay::store::Store;

use super::Stop;
use crate::Result;

/// The pause between two syncs while no blob waits.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes verified blobs, each with its number.
#[derive(Clone)]
pub(super) struct Queue(Sender<(usize, Verified)>);

impl Queue {
    /// Hands a blob over.
    pub(super) fn put(&self, number: usize, blob: Verified) {
        // Whoever takes them ends later than those who bring them.
        let _ = self.0.send((number, blob));
    }
}

/// Does some work, and writes out what it writes meanwhile; `placed` learns of each blob that is in its
/// place. An error of that ends everything.
pub(super) fn beside<T>(
    store: &Store,
    placed: impl Fn(usize) -> Result<()> + Send,
    stop: &Stop<'_>,
    work: impl FnOnce(Queue) -> T,
) -> T {
    let (queue, waiting) = channel();
    // Who cannot tell is told so again when the layers are published.
    let all = !store.lifetime().is_ok_and(|lifetime| lifetime.is_some());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let (waiting, placed) = (waiting, placed);
            while let Some(batch) = next(&waiting) {
                if let Err(error) = place(store, all, batch, &placed) {
                    stop.because(error);
                }
            }
        });
        work(Queue(queue))
    })
}

/// What has come since the last time, after a pause if it is nothing; none at the end.
fn next(waiting: &Receiver<(usize, Verified)>) -> Option<Vec<(usize, Verified)>> {
    let mut batch = match waiting.recv_timeout(PAUSE) {
        Ok(first) => vec![first],
        Err(RecvTimeoutError::Timeout) => Vec::new(),
        Err(RecvTimeoutError::Disconnected) => return None,
    };
    batch.extend(waiting.try_iter());
    Some(batch)
}

fn place(
    store: &Store,
    all: bool,
    batch: Vec<(usize, Verified)>,
    placed: &impl Fn(usize) -> Result<()>,
) -> Result<()> {
    if batch.is_empty() {
        if all {
            store.write_back();
        }
        return Ok(());
    }
    let (numbers, blobs): (Vec<usize>, Vec<Verified>) = batch.into_iter().unzip();
    match all {
        true => place_all(blobs, || store.sync())?,
        false => place_all(blobs, || Ok(()))?,
    }
    numbers.into_iter().try_for_each(placed)
}
