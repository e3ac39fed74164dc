//! A value that others wait for.

use std::sync::{Condvar, Mutex, PoisonError};

/// Set once, to a value or to nothing.
#[derive(Debug)]
pub(super) struct Cell<T> {
    value: Mutex<Option<Option<T>>>,
    bell: Condvar,
}

impl<T: Clone> Cell<T> {
    pub(super) fn new() -> Self {
        let (value, bell) = (Mutex::new(None), Condvar::new());
        Self { value, bell }
    }

    /// Nothing: it will never come.
    pub(super) fn set(&self, value: Option<T>) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        self.bell.notify_all();
    }

    pub(super) fn wait(&self) -> Option<T> {
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*value {
                Some(value) => return value.clone(),
                None => {
                    let woken = self.bell.wait(value);
                    value = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Without waiting.
    pub(super) fn get(&self) -> Option<T> {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        value.clone().flatten()
    }
}
