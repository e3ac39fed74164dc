//! Several threads that share work; the first error ends all of it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::registry::retry::Cancel;
use crate::{Error, Result};

/// Does something with each item, in this order, with so many threads. `failed` runs after the first
/// error was kept: what it makes others say is not that.
pub(crate) fn each<T: Sync>(
    items: &[T],
    threads: usize,
    cancel: &Cancel,
    failed: &(dyn Fn() + Sync),
    work: &(dyn Fn(&T) -> Result<()> + Sync),
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let first: Mutex<Option<Error>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) && !cancel.is_cancelled() {
                    let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        return;
                    };
                    if let Err(error) = work(item) {
                        let mut kept = first.lock().unwrap_or_else(PoisonError::into_inner);
                        kept.get_or_insert(error);
                        drop(kept);
                        over.store(true, Ordering::Relaxed);
                        failed();
                    }
                }
            });
        }
    });
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => cancel.check(),
    }
}

/// As many threads as there are processors.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
