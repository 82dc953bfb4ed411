//! The turns of a client's readers at row groups, and the memory that goes with one.

use std::sync::Arc;
use std::time::Duration;

use railgun_net::{Held, Member};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bytes of batches that one step decodes from an object, at most, but one batch.
pub(super) const COLD_BYTES: usize = 1 << 20;
/// What a reader that is in a row group takes: the row group, and two steps of its records, one on its
/// way to the client and one read ahead.
pub(super) const ROW_GROUP_BYTES: usize = (8 << 20) + 2 * COLD_BYTES;
/// What row groups leave of a client's part for its other readers. Where that is small, it is more
/// important than that the row group counts as what it is.
const OTHERS_BYTES: usize = 4 << 20;

/// As many as a client has memory for row groups.
#[derive(Debug)]
pub(super) struct Turns {
    free: Arc<Semaphore>,
    /// Whoever waits for one has a clone.
    waiting: Arc<()>,
}

/// A reader's turn among those of its client to be in a row group. It is no memory: whoever has one
/// and waits for the bucket keeps nothing from anybody else.
#[derive(Debug)]
pub(super) struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Turns {
    /// For a client with this part of the memory; `None`: as much as it wants, and no turns.
    pub(super) fn new(memory: Option<&Member>) -> Self {
        let count = |memory| (left_to_row_groups(memory) / ROW_GROUP_BYTES).max(1);
        let free = Arc::new(Semaphore::new(memory.map_or(0, count)));
        Self { free, waiting: Arc::default() }
    }

    /// A turn, if it comes within this time.
    pub(super) async fn take(&self, patience: Duration) -> Option<Turn> {
        let free = || Arc::clone(&self.free);
        let permit = match free().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) if patience.is_zero() => return None,
            Err(_) => {
                let _waiting = Arc::clone(&self.waiting);
                timeout(patience, free().acquire_owned()).await.ok()?.ok()?
            }
        };
        Some(Turn { _permit: permit })
    }

    pub(super) fn are_wanted(&self) -> bool {
        Arc::strong_count(&self.waiting) > 1
    }
}

fn left_to_row_groups(memory: &Member) -> usize {
    memory.bytes_max().saturating_sub(OTHERS_BYTES)
}

/// What is taken for a row group.
pub(super) struct RowGroupMemory {
    steps: [Arc<Held>; 2],
    _row_group: Held,
    _turn: Turn,
}

impl RowGroupMemory {
    /// Takes it, if others have left as much.
    pub(super) fn try_take(memory: &Member, turn: Turn) -> Option<Self> {
        let mut held = memory.try_take(ROW_GROUP_BYTES.min(left_to_row_groups(memory)))?;
        let mut step = || held.split(COLD_BYTES).map(Arc::new);
        Some(Self { steps: [step()?, step()?], _row_group: held, _turn: turn })
    }

    /// That of a step whose records are gone.
    pub(super) fn free(&self) -> Option<Arc<Held>> {
        self.steps.iter().find(|step| Arc::strong_count(step) == 1).cloned()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use railgun_net::ClientMemory;

    use super::*;

    #[test]
    fn there_are_as_many_turns_as_memory_for_row_groups() {
        for (bytes, turns) in [(64 << 20, 1), (1 << 30, 2), (2 << 30, 6)] {
            let memory = ClientMemory::new(bytes, 1_000).reader();
            let all = Turns::new(Some(&memory));
            let take = || all.take(Duration::ZERO).now_or_never().flatten();
            let taken: Vec<_> = std::iter::from_fn(take).collect();
            assert_eq!(taken.len(), turns, "{bytes}");
            let entered: Vec<_> = taken
                .into_iter()
                .map_while(|turn| RowGroupMemory::try_take(&memory, turn))
                .collect();
            assert_eq!(entered.len(), turns, "{bytes}");
            assert!(memory.try_take(OTHERS_BYTES).is_some(), "{bytes}");
        }
    }
}
