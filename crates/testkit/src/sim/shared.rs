//! State that the tasks of a simulation share. They run in one thread, so a lock is never contended
//! and never held over an await: it only satisfies the types.

use std::fmt;
use std::sync::{Arc, PoisonError};

/// A value with many owners.
pub(super) struct Shared<T> {
    #[expect(clippy::disallowed_types, reason = "see the module; the tasks must be `Send`")]
    value: Arc<std::sync::Mutex<T>>,
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value) }
    }
}

impl<T> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl<T> Shared<T> {
    #[expect(clippy::disallowed_types, reason = "see the module")]
    pub(super) fn new(value: T) -> Self {
        Self { value: Arc::new(std::sync::Mutex::new(value)) }
    }

    /// Lends the value.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.value.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
