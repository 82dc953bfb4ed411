//! Bounds the memory that frames under way may take on one connection, whatever the number of its
//! streams: a frame that never ends must not cost more than its sender's own connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of frames that have begun and not ended, over all streams of a connection. Several of the
/// largest frames fit.
const CONNECTION_BYTES: usize = 64 << 20;

/// The bytes that the streams of one connection hold, and may hold. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ReceiveBudget {
    held: Arc<AtomicUsize>,
    max: usize,
}

/// One stream's part of it, given back when dropped.
#[derive(Debug)]
pub(crate) struct BudgetShare {
    budget: ReceiveBudget,
    held: usize,
}

/// The connection's frames under way take too much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverBudget;

impl ReceiveBudget {
    /// For a connection that a client made: it is not trusted with our memory.
    pub(crate) fn bounded() -> Self {
        Self { held: Arc::default(), max: CONNECTION_BYTES }
    }

    /// For a connection we made: what comes is what we asked for.
    pub(crate) fn unbounded() -> Self {
        Self { held: Arc::default(), max: usize::MAX }
    }

    pub(crate) fn share(&self) -> BudgetShare {
        BudgetShare { budget: self.clone(), held: 0 }
    }
}

impl BudgetShare {
    /// Says how many bytes the stream holds now. On an error what it held before still counts.
    pub(crate) fn set(&mut self, bytes: usize) -> Result<(), OverBudget> {
        if bytes <= self.held {
            self.budget.held.fetch_sub(self.held - bytes, Ordering::Relaxed);
        } else {
            let (total, more) = (&self.budget.held, bytes - self.held);
            if total.fetch_add(more, Ordering::Relaxed) + more > self.budget.max {
                total.fetch_sub(more, Ordering::Relaxed);
                return Err(OverBudget);
            }
        }
        self.held = bytes;
        Ok(())
    }
}

impl BudgetShare {
    /// Whether the peer is one we trust.
    pub(crate) fn is_unbounded(&self) -> bool {
        self.budget.max == usize::MAX
    }

    /// The stream holds nothing.
    pub(crate) fn clear(&mut self) {
        self.budget.held.fetch_sub(std::mem::take(&mut self.held), Ordering::Relaxed);
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_share_one_budget() {
        let budget = ReceiveBudget::bounded();
        let (mut one, mut two) = (budget.share(), budget.share());
        assert_eq!(one.set(CONNECTION_BYTES - 10), Ok(()));
        assert_eq!(two.set(11), Err(OverBudget));
        assert_eq!(two.set(10), Ok(()));
        assert_eq!(one.set(5), Ok(()));
        assert_eq!(two.set(100), Ok(()));
        drop(two);
        assert_eq!(one.set(CONNECTION_BYTES), Ok(()));
        drop(one);
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
    }
}
