//! The members of a shard change.

use super::*;
use crate::{MembershipStep, MembershipWait, ReconcileError, WantedMembers};

fn wanted(voters: &[ReplicaId]) -> WantedMembers {
    WantedMembers { voters: addresses(voters), learners: BTreeMap::new() }
}

/// Steps at the leader, until the members are those wanted. Each step that did something.
async fn reconcile(cluster: &Cluster, wanted: &WantedMembers) -> Vec<MembershipStep> {
    let start = Instant::now();
    let mut steps = Vec::new();
    loop {
        assert!(start.elapsed() < PATIENCE, "not settled: {steps:?}");
        let leader = cluster.leader().await;
        match cluster.shard(leader).reconcile_membership(wanted).await {
            Ok(MembershipStep::Settled) => return steps,
            Ok(MembershipStep::Waiting(_)) | Err(ReconcileError::NotLeader { .. }) => {
                sleep(Duration::from_millis(50)).await;
            }
            Ok(step) => steps.push(step),
            Err(error) => panic!("{error}"),
        }
    }
}

fn members(cluster: &Cluster, id: ReplicaId) -> (Vec<ReplicaId>, Vec<ReplicaId>) {
    let metrics = cluster.shard(id).metrics();
    (metrics.voters, metrics.learners)
}

#[tokio::test(start_paused = true)]
async fn one_replica_becomes_three_and_one_again() {
    with_seed(40, async {
        let mut cluster = Cluster::idle(40, 3).await;
        cluster.shard(id(1)).initialize(addresses(&[id(1)])).await.expect("initialized");
        let again = cluster.shard(id(1)).initialize(addresses(&cluster.ids())).await;
        assert_eq!(again, Ok(()), "no effect");
        let foreign = cluster.shard(id(2)).initialize(addresses(&[id(3)])).await;
        assert_eq!(foreign, Err(crate::InitializeError::NotMember { replica: id(2) }));
        cluster.fill(200).await;
        let steps = reconcile(&cluster, &wanted(&cluster.ids())).await;
        assert_eq!(steps[0], MembershipStep::LearnerAdded(id(2)));
        assert_eq!(steps[1], MembershipStep::LearnerAdded(id(3)));
        let all = cluster.ids().into_iter().collect();
        assert_eq!(steps.last(), Some(&MembershipStep::VotersChanged(all)));
        cluster.settle().await;
        for id in cluster.ids() {
            assert_eq!(members(&cluster, id), (cluster.ids(), vec![]));
        }
        // A majority of three holds without the first.
        cluster.kill(id(1), CrashPlan::LoseAll).await;
        cluster.fill(10).await;
        cluster.start(id(1)).await;
        cluster.settle().await;

        let leader = cluster.leader().await;
        let steps = reconcile(&cluster, &wanted(&[leader])).await;
        assert_eq!(steps.len(), 4, "{steps:?}");
        assert_eq!(members(&cluster, leader), (vec![leader], vec![]));
        cluster.put("alone").await;
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_replaced_by_its_next_life() {
    with_seed(41, async {
        let mut cluster = Cluster::voters(41, 3).await;
        cluster.fill(50).await;
        let leader = cluster.leader().await;
        let old = cluster.ids().into_iter().find(|id| *id != leader).expect("three");
        let new = ReplicaId(old.0 + 1);
        let goal: Vec<_> = cluster.ids().into_iter().filter(|id| *id != old).chain([new]).collect();
        // Its log is lost, and it does not run under that name again.
        cluster.kill(old, CrashPlan::LoseAll).await;
        cluster.replicas.remove(&old);
        // Before the new one is there, nobody goes.
        for _ in 0..20 {
            let step = cluster.shard(leader).reconcile_membership(&wanted(&goal)).await;
            assert!(
                matches!(
                    step,
                    Ok(MembershipStep::LearnerAdded(_)
                        | MembershipStep::Waiting(MembershipWait::Learner(_)))
                ),
                "{step:?}"
            );
            sleep(Duration::from_millis(100)).await;
        }
        let mut voters = members(&cluster, leader).0;
        assert!(voters.contains(&old));
        cluster.add(new).await;
        let steps = reconcile(&cluster, &wanted(&goal)).await;
        let (last, before) = steps.split_last().expect("steps");
        assert_eq!(*last, MembershipStep::Removed(old));
        assert_eq!(before, [MembershipStep::VotersChanged(goal.iter().copied().collect())]);
        cluster.settle().await;
        voters = goal.clone();
        voters.sort();
        assert_eq!(members(&cluster, new), (voters, vec![]));
        cluster.fill(5).await;
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_three_move_to_other_nodes_while_commands_go_on() {
    with_seed(42, async {
        let mut cluster = Cluster::idle(42, 6).await;
        let first = addresses(&[id(1), id(2), id(3)]);
        cluster.shard(id(1)).initialize(first).await.expect("initialized");
        cluster.fill(50).await;
        let goal = [id(4), id(5), id(6)];
        let steps = reconcile(&cluster, &wanted(&goal)).await;
        let moved = steps.iter().filter(|step| matches!(step, MembershipStep::LeaderMoved(_)));
        assert_eq!(moved.count(), 1, "{steps:?}");
        for node in 1..=3 {
            cluster.kill(id(node), CrashPlan::KeepAll).await;
        }
        cluster.fill(10).await;
        cluster.settle().await;
        let leader = cluster.leader().await;
        assert_eq!(members(&cluster, leader), (goal.to_vec(), vec![]));
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_step_is_made_without_a_majority_or_by_a_follower() {
    with_seed(43, async {
        let mut cluster = Cluster::voters(43, 3).await;
        let leader = cluster.leader().await;
        let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        let refused = cluster.shard(others[0]).reconcile_membership(&wanted(&[leader])).await;
        assert_eq!(refused, Err(ReconcileError::NotLeader { leader: Some(leader) }));
        let none = cluster.shard(leader).reconcile_membership(&wanted(&[])).await;
        assert_eq!(none, Err(ReconcileError::NoVoters));

        // The one that is to stay is down: the one that is up must not go.
        cluster.kill(others[1], CrashPlan::KeepAll).await;
        sleep(Duration::from_secs(2)).await;
        let goal = wanted(&[leader, others[1]]);
        let waits = MembershipStep::Waiting(MembershipWait::Majority);
        assert_eq!(cluster.shard(leader).reconcile_membership(&goal).await, Ok(waits));
        cluster.put("three still").await;

        cluster.kill(others[0], CrashPlan::KeepAll).await;
        sleep(Duration::from_secs(3)).await;
        let goal = wanted(&[leader, others[0], others[1], id(4)]);
        let start = Instant::now();
        let refused = cluster.shard(leader).reconcile_membership(&goal).await;
        let expected = [ReconcileError::NoQuorum, ReconcileError::TimedOut];
        assert!(refused.as_ref().is_err_and(|error| expected.contains(error)), "{refused:?}");
        assert!(start.elapsed() < Duration::from_secs(11));
        for id in others {
            cluster.start(id).await;
        }
        cluster.put("and on").await;
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_a_leader_left_half_done_is_finished() {
    for seed in 44..49 {
        with_seed(seed, async {
            let mut cluster = Cluster::idle(seed, 4).await;
            let first = addresses(&[id(1), id(2), id(3)]);
            cluster.shard(id(1)).initialize(first).await.expect("initialized");
            cluster.fill(20).await;
            let leader = cluster.leader().await;
            let goal: Vec<_> = (1..=4).map(id).filter(|id| *id != leader).collect();
            let shard = cluster.shard(leader).clone();
            let task_goal = wanted(&goal);
            let steps = Runtime::spawn(async move {
                while !matches!(
                    shard.reconcile_membership(&task_goal).await,
                    Err(_) | Ok(MembershipStep::Settled)
                ) {
                    sleep(Duration::from_millis(20)).await;
                }
            });
            sleep(Duration::from_millis(40 * (seed - 43))).await;
            cluster.kill(leader, CrashPlan::LoseAll).await;
            drop(steps);
            reconcile(&cluster, &wanted(&goal)).await;
            cluster.settle().await;
            let leader = cluster.leader().await;
            assert_eq!(members(&cluster, leader), (goal, vec![]));
            cluster.fill(3).await;
            cluster.stop().await;
        })
        .await;
    }
}
