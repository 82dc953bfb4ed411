//! The one lock of this crate. Held for short copies of handles and counters, never across a disk
//! operation or a callback.

#![expect(
    clippy::disallowed_types,
    reason = "the ring of a log is read by many threads that cannot await; the lock covers short copies only"
)]

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A value behind a lock that ignores poisoning: every critical section leaves the value consistent
/// before anything in it can panic.
#[derive(Debug, Default)]
pub(crate) struct Guarded<T>(Mutex<T>);

impl<T> Guarded<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
