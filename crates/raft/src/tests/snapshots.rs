//! Promoted checkpoints: snapshots, purge, and restarts with them.

use tokio::time::timeout;

use super::recorder::{Checkpoints, Recorder, State};
use super::shard::{PATIENCE, Replica, tempdir};
use crate::machine::{SnapshotError, SnapshotSource};
use crate::{PromoteError, ShardMetrics};

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_snapshot_lets_raft_purge_and_restores_the_rest() {
    let dir = tempdir();
    let mut replica = Replica::create(dir.path()).await;
    replica.fill(100).await;
    let upto = replica.log.state().last.expect("entries").index - 30;

    let promoted = replica.shard.promote_snapshot(upto).await.expect("promoted");
    assert_eq!(promoted.index, upto);
    let purged = timeout(PATIENCE, replica.shard.purged(promoted.index)).await;
    assert_eq!(purged.expect("in time"), Ok(promoted));
    assert_eq!(replica.log.state().last_purged, Some(promoted));
    let ShardMetrics { snapshot, purged, .. } = replica.shard.metrics();
    assert_eq!((snapshot, purged), (Some(promoted), Some(promoted)));

    // A lower index changes nothing; a higher one goes on.
    assert_eq!(replica.shard.promote_snapshot(upto - 10).await.expect("promoted"), promoted);
    replica.fill(50).await;
    let last = replica.log.state().last.expect("entries").index;
    let further = replica.shard.promote_snapshot(last - 10).await.expect("promoted");
    assert_eq!(further.index, last - 10);
    let purged = timeout(PATIENCE, replica.shard.purged(further.index)).await;
    assert_eq!(purged.expect("in time"), Ok(further));
    let before = State::newest(dir.path());
    replica.stop().await;

    // Without a checkpoint of its own the replica starts from the snapshot.
    let mut replica = Replica::start(dir.path(), Recorder::empty(dir.path())).await;
    replica.serving().await;
    assert_eq!(replica.shard.metrics().snapshot, Some(further));
    let first = replica.next_seen().await;
    assert_eq!(first.id.index, further.index + 1, "only what follows the snapshot is replayed");
    replica.stop().await;
    let after = State::newest(dir.path());
    assert_eq!(after.commands(), before.commands());

    // With a newer checkpoint it needs neither the snapshot nor the log.
    let mut replica = Replica::start(dir.path(), Recorder::restored(dir.path())).await;
    replica.serving().await;
    replica.propose(1, "new").await;
    assert_eq!(replica.next_seen().await.bytes, "new");
    replica.stop().await;
    let last = State::newest(dir.path());
    assert_eq!(last.commands().len(), before.commands().len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_that_fails_leaves_the_replica_alive() {
    let dir = tempdir();
    let mut replica = Replica::create(dir.path()).await;
    replica.fill(3).await;
    let checkpoints = Checkpoints::new(dir.path());
    checkpoints.promote(0, u64::MAX).expect("there is something to promote");
    std::fs::write(checkpoints.current_path(), b"not a state").expect("written");
    let refused = replica.shard.promote_snapshot(u64::MAX).await;
    assert!(
        matches!(refused, Err(PromoteError::Source(SnapshotError::Damaged { .. }))),
        "{refused:?}"
    );
    std::fs::remove_file(checkpoints.current_path()).expect("removed");
    replica.fill(3).await;
    replica.shard.promote_snapshot(u64::MAX).await.expect("promoted");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_above_what_the_owner_vouches_for_is_purged() {
    let dir = tempdir();
    let mut replica = Replica::create(dir.path()).await;
    replica.fill(20).await;
    let last = replica.log.state().last.expect("entries").index;
    // Something else has made a newer state current.
    let current = Checkpoints::new(dir.path()).promote(0, last).expect("promoted").applied.id;
    let upto = last - 10;
    let told = replica.shard.promote_snapshot(upto).await.expect("there is one");
    assert_eq!(told, current, "the current one");
    let purged = timeout(PATIENCE, replica.shard.purged(upto)).await.expect("in time");
    assert_eq!(purged.expect("running").index, upto);
    assert_eq!(replica.log.state().last_purged.map(|id| id.index), Some(upto));
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_snapshot_is_lost_starts_on_its_checkpoint_and_promotes_nothing() {
    let dir = tempdir();
    let mut replica = Replica::create(dir.path()).await;
    replica.fill(20).await;
    let last = replica.log.state().last.expect("entries").index;
    let promoted = replica.shard.promote_snapshot(last - 10).await.expect("promoted");
    timeout(PATIENCE, replica.shard.purged(promoted.index)).await.expect("in time").expect("runs");
    replica.stop().await;
    let checkpoints = Checkpoints::new(dir.path());
    std::fs::remove_file(checkpoints.current_path()).expect("removed");

    let mut replica = Replica::start(dir.path(), Recorder::restored(dir.path())).await;
    replica.serving().await;
    assert!(checkpoints.current(0).expect("read").is_none(), "that is up to the owner");
    replica.propose(1, "new").await;
    assert_eq!(replica.next_seen().await.bytes, "new");
    assert_eq!(replica.log.state().last_purged, Some(promoted));
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn promotions_take_turns() {
    let dir = tempdir();
    let mut replica = Replica::create(dir.path()).await;
    replica.fill(60).await;
    let last = replica.log.state().last.expect("entries").index;
    let promotions = (0..50).map(|step| {
        let shard = replica.shard.clone();
        async move { shard.promote_snapshot(last - 50 + step).await }
    });
    let promoted = timeout(PATIENCE, futures::future::join_all(promotions)).await.expect("in time");
    for id in promoted {
        assert!(id.expect("promoted").index < last);
    }
    // One whose caller has gone still runs to its end.
    drop(
        tokio::time::timeout(std::time::Duration::ZERO, replica.shard.promote_snapshot(last)).await,
    );
    let id = timeout(PATIENCE, replica.shard.promote_snapshot(last)).await.expect("in time");
    assert_eq!(id.expect("promoted").index, last);
    replica.stop().await;
}
