//! Brings committed entries from Raft to the actor that owns the shard's state.

use bytes::Bytes;
use futures::future::BoxFuture;
use railgun_core::command::{Command, CommandError};
use railgun_raft::{Applied, ApplyError, ApplyItem, Snapshot, SnapshotError, StateMachine};
use railgun_types::EntryId;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What an entry brings.
#[derive(Debug)]
pub(crate) enum EntryContent {
    Command(Command),
    /// The first entry of a new leader.
    Blank,
    /// The shard's replicas, opaque; the newest goes into each checkpoint.
    Membership(Bytes),
}

/// One committed entry, ready to be applied.
#[derive(Debug)]
pub(crate) struct CommittedEntry {
    pub(crate) at: EntryId,
    pub(crate) content: EntryContent,
    /// Present where this node proposed the entry.
    pub(crate) ticket: Option<u64>,
}

/// Hands entries over in order. Applying happens in the owner's task: one owner for the state.
pub(crate) struct Handover<M> {
    to: mpsc::Sender<M>,
    /// A place in the owner's queue.
    room: Option<mpsc::OwnedPermit<M>>,
    wrap: fn(Vec<CommittedEntry>) -> M,
    restored: Option<Applied>,
    installer: Box<dyn Installer>,
    /// The node is stopping, and its actors with it.
    stopping: CancellationToken,
}

/// Replaces the owner's state by that of a snapshot, durably.
pub(crate) trait Installer: Send + Sync + 'static {
    fn install<'a>(&'a self, snapshot: &'a Snapshot) -> BoxFuture<'a, Result<(), SnapshotError>>;
}

/// Entries were committed and nobody is there to apply them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the owner of the shard's state has ended")]
struct OwnerEnded;

impl<M: Send + 'static> Handover<M> {
    /// `restored`: how far the owner's state came out of a checkpoint.
    pub(crate) fn new(
        to: mpsc::Sender<M>,
        wrap: fn(Vec<CommittedEntry>) -> M,
        restored: Option<Applied>,
        installer: Box<dyn Installer>,
        stopping: CancellationToken,
    ) -> Self {
        Self { to, room: None, wrap, restored, installer, stopping }
    }
}

impl<M: Send + 'static> StateMachine for Handover<M> {
    fn restored(&mut self) -> Option<Applied> {
        self.restored.clone()
    }

    fn room(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if self.room.is_none() {
                self.room = self.to.clone().reserve_owned().await.ok();
            }
        })
    }

    fn apply(&mut self, items: &mut Vec<ApplyItem>) -> Result<(), ApplyError> {
        let Some(first) = items.first().map(ApplyItem::id) else { return Ok(()) };
        let entries = items.drain(..).map(committed).collect::<Result<Vec<_>, _>>()?;
        match self.room.take() {
            Some(place) => drop(place.send((self.wrap)(entries))),
            // Nobody looks at the state any more: a restart replays these.
            None if self.stopping.is_cancelled() => {}
            // They must not count as applied: who waits for them would wait for ever.
            None => return Err(ApplyError { id: first, source: Box::new(OwnerEnded) }),
        }
        Ok(())
    }

    fn install<'a>(
        &'a mut self,
        snapshot: &'a Snapshot,
    ) -> BoxFuture<'a, Result<(), SnapshotError>> {
        // Behind the entries that were handed over before.
        self.installer.install(snapshot)
    }
}

fn committed(item: ApplyItem) -> Result<CommittedEntry, ApplyError> {
    let at = item.id();
    let (payload, proposed) = match item {
        ApplyItem::Command { payload, proposed, .. } => (payload, proposed),
        ApplyItem::Blank { .. } => {
            return Ok(CommittedEntry { at, content: EntryContent::Blank, ticket: None });
        }
        ApplyItem::Membership { membership, .. } => {
            let content = EntryContent::Membership(membership);
            return Ok(CommittedEntry { at, content, ticket: None });
        }
    };
    let (ticket, companion) = match proposed {
        Some(proposed) => (Some(proposed.ticket), proposed.companion),
        None => (None, None),
    };
    let command = match companion.and_then(|companion| companion.downcast::<Command>().ok()) {
        Some(command) => *command,
        None => Command::decode(payload.parts())
            .map_err(|source: CommandError| ApplyError { id: at, source: Box::new(source) })?,
    };
    Ok(CommittedEntry { at, content: EntryContent::Command(command), ticket })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoSnapshots;

    impl Installer for NoSnapshots {
        fn install<'a>(
            &'a self,
            snapshot: &'a Snapshot,
        ) -> BoxFuture<'a, Result<(), SnapshotError>> {
            let upto = snapshot.applied.id.index;
            Box::pin(std::future::ready(Err(SnapshotError::NoCheckpoint { upto })))
        }
    }

    fn blank() -> Vec<ApplyItem> {
        vec![ApplyItem::Blank { id: EntryId { term: 1, index: 5 } }]
    }

    #[tokio::test]
    async fn entries_that_nobody_takes_end_the_shard_unless_the_node_is_stopping() {
        let stopping = CancellationToken::new();
        let (to, mut from) = mpsc::channel(1);
        let mut handover = Handover::new(
            to,
            |entries| entries.len(),
            None,
            Box::new(NoSnapshots),
            stopping.clone(),
        );
        handover.room().await;
        handover.apply(&mut blank()).expect("there is a place");
        assert_eq!(from.recv().await, Some(1));
        // The owner has panicked.
        drop(from);
        handover.room().await;
        let refused = handover.apply(&mut blank()).expect_err("nobody is there");
        assert_eq!(refused.id, EntryId { term: 1, index: 5 });
        stopping.cancel();
        handover.room().await;
        handover.apply(&mut blank()).expect("it does not matter any more");
    }
}
