//! Elections, and what becomes of entries when the leader changes.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_the_leader_takes_is_applied_everywhere() {
    with_seed(1, async {
        let mut cluster = Cluster::voters(1, 3).await;
        let leader = cluster.leader().await;
        let mut tickets = Vec::new();
        for number in 0..200 {
            tickets.push(cluster.propose(leader, format!("command {number}")).await);
        }
        let last = cluster.settle().await;
        for ticket in tickets {
            assert!(matches!(cluster.end_of(ticket), Some(End::Applied(_))));
        }
        for id in cluster.ids() {
            let commands = cluster.commands(id);
            let expected = (0..200).map(|number| Bytes::from(format!("command {number}")));
            assert!(commands.into_iter().map(|(_, bytes)| bytes).eq(expected), "{id}");
        }
        let shard = cluster.shard(leader);
        until("progress", || {
            let followers = shard.metrics().followers;
            let heard = |silent: Option<Duration>| silent.is_some_and(|it| it.as_millis() < 300);
            let is_well = followers.iter().all(|it| it.matched == Some(last) && heard(it.silent));
            (followers.len() == 2 && is_well).then_some(())
        })
        .await;

        // What a follower reads when the leader has said how far to wait.
        let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("three");
        assert_eq!(shard.read_index_for_followers().await, Ok(last));
        assert_eq!(cluster.shard(follower).applied(last.index).await, Ok(last));
        let refused = cluster.shard(follower).read_index_for_followers().await;
        assert_eq!(refused, Err(crate::ReadIndexError::NotLeader { leader: Some(leader) }));
        let ticket = cluster.propose(leader, "one more").await;
        let next = cluster.shard(follower).applied(last.index + 1).await.expect("running");
        assert_eq!(next.index, last.index + 1);
        until("applied", || cluster.end_of(ticket)).await;
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_large_entry_and_many_bytes_arrive() {
    with_seed(2, async {
        let mut cluster = Cluster::voters(2, 3).await;
        let leader = cluster.leader().await;
        let large = Bytes::from(vec![7; 20 << 20]);
        let mut tickets = vec![cluster.propose(leader, large.clone()).await];
        for number in 0..40u8 {
            tickets.push(cluster.propose(leader, vec![number; 1 << 20]).await);
        }
        cluster.settle().await;
        for ticket in tickets {
            assert!(matches!(cluster.end_of(ticket), Some(End::Applied(_))));
        }
        for id in cluster.ids() {
            assert_eq!(cluster.commands(id)[0].1, large);
        }
        cluster.stop().await;
    })
    .await;
}

/// How long until another leads, and has taken a command.
async fn gap(seed: u64) -> Duration {
    let mut cluster = Cluster::voters(seed, 3).await;
    cluster.fill(20).await;
    let leader = cluster.leader().await;
    let mut in_flight = Vec::new();
    for number in 0..20 {
        in_flight.push(cluster.propose(leader, format!("in flight {number}")).await);
    }
    sleep(Duration::from_millis(seed % 13)).await;
    let killed = Instant::now();
    cluster.kill(leader, CrashPlan::LoseAll).await;
    cluster.put("the first after it").await;
    let gap = killed.elapsed();
    cluster.check();
    cluster.start(leader).await;
    cluster.settle().await;
    cluster.check_settled();
    cluster.stop().await;
    gap
}

#[tokio::test(start_paused = true)]
async fn another_leads_when_the_leader_is_killed_and_nothing_applied_is_lost() {
    let mut gaps = Vec::new();
    for seed in 0..20 {
        gaps.push(with_seed(seed, gap(seed)).await);
    }
    gaps.sort();
    println!("gaps: {gaps:?}");
    assert!(gaps[10] < Duration::from_millis(2500), "{gaps:?}");
    assert!(gaps[19] < Duration::from_secs(5), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_cut_off_follows_when_it_is_back() {
    with_seed(3, async {
        let mut cluster = Cluster::voters(3, 3).await;
        cluster.fill(10).await;
        let old = cluster.leader().await;
        let term = cluster.shard(old).leader().state().term;
        cluster.net.isolate(old, &cluster.ids(), Link::Swallows);
        // It takes these, and they are lost.
        let mut lost = Vec::new();
        for number in 0..10 {
            lost.push(cluster.propose(old, format!("lost {number}")).await);
        }
        let new = cluster.leader_after(old).await;
        let kept = cluster.propose(new, "kept").await;
        until("applied", || cluster.end_of(kept)).await;
        // Without a majority nothing is taken, and nothing is read.
        assert_eq!(
            cluster.shard(old).read_index_for_followers().await,
            Err(crate::ReadIndexError::NoQuorum)
        );
        let late = cluster.propose(old, "late").await;
        let late_end = until("refused", || cluster.end_of(late)).await;
        assert_eq!(late_end, End::Unapplied(Unapplied::NoQuorum { ticket: late }));
        let stale = cluster.run(old).log.state().last.expect("entries");
        assert_eq!(stale.term, term);

        cluster.net.heal();
        cluster.settle().await;
        for ticket in lost {
            let unknown = End::Unapplied(Unapplied::Unknown { ticket });
            assert_eq!(cluster.end_of(ticket), Some(unknown));
        }
        assert!(!cluster.commands(old).iter().any(|(_, bytes)| bytes.starts_with(b"lost")));
        let state = cluster.shard(old).leader().state();
        assert_eq!((state.leader, state.serving), (Some(new), false));
        let refused = cluster.propose(old, "to a follower").await;
        assert_eq!(
            until("refused", || cluster.end_of(refused)).await,
            End::Unapplied(Unapplied::NotLeader { ticket: refused, leader: Some(new) })
        );
        let terms = cluster.leaders.with(|leaders| leaders.len());
        sleep(Duration::from_secs(10)).await;
        assert_eq!(cluster.leader().await, new);
        assert_eq!(cluster.leaders.with(|leaders| leaders.len()), terms, "and no other since");
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_was_cut_off_a_hundred_times_costs_the_leader_nothing() {
    with_seed(18, async {
        let mut cluster = Cluster::voters(18, 3).await;
        cluster.fill(10).await;
        let leader = cluster.leader().await;
        let term = cluster.shard(leader).leader().state().term;
        let terms = cluster.leaders.with(|leaders| leaders.len());
        let followers: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
        for round in 0..100usize {
            let (follower, ids) = (followers[round % 2], cluster.ids());
            let link = [Link::Swallows, Link::Broken][round / 2 % 2];
            match round / 4 % 3 {
                0 => cluster.net.isolate(follower, &ids, link),
                // It hears nothing, and is heard; or the other way round.
                1 => ids.iter().for_each(|other| cluster.net.set(*other, follower, link)),
                _ => ids.iter().for_each(|other| cluster.net.set(follower, *other, link)),
            }
            cluster.put("meanwhile").await;
            // From less than a heartbeat to many elections.
            sleep(Duration::from_millis([40, 700, 3_000, 20_000][round % 4])).await;
            cluster.net.heal();
            cluster.put("together again").await;
            sleep(Duration::from_secs(5)).await;
            let state = cluster.shard(leader).leader().state();
            assert!(state.serving && state.term == term, "round {round}: {state:?}");
        }
        cluster.settle().await;
        cluster.check_settled();
        assert_eq!(cluster.leaders.with(|leaders| leaders.len()), terms, "nobody else led");
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leader_stops_to_serve_before_its_vote_is_durable() {
    with_seed(4, async {
        let mut cluster = Cluster::voters(4, 3).await;
        cluster.fill(5).await;
        let old = cluster.leader().await;
        let term = cluster.shard(old).leader().state().term;
        cluster.net.isolate(old, &cluster.ids(), Link::Swallows);
        cluster.leader_after(old).await;
        assert!(cluster.shard(old).leader().state().serving, "it does not know");
        cluster.net.heal();
        let durable = cluster.shard(old).raft().server_metrics();
        let mut watch = cluster.shard(old).leader();
        while watch.state().serving {
            watch.changed().await.expect("running");
        }
        assert!(watch.state().term > term);
        let vote = durable.borrow().vote;
        assert_eq!(vote.leader_id.term, term, "the next vote is not durable yet");
        cluster.settle().await;
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_was_cut_off_disturbs_nobody() {
    for (seed, link) in [(5, Link::Swallows), (6, Link::Broken)] {
        with_seed(seed, async {
            let mut cluster = Cluster::voters(seed, 3).await;
            let leader = cluster.leader().await;
            let before = cluster.shard(leader).leader().state();
            let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("three");
            for _ in 0..3 {
                cluster.net.isolate(follower, &cluster.ids(), link);
                cluster.fill(10).await;
                sleep(Duration::from_secs(5)).await;
                cluster.net.heal();
                let healed = Instant::now();
                cluster.settle().await;
                if link == Link::Broken {
                    assert!(
                        healed.elapsed() < Duration::from_millis(500),
                        "{:?}",
                        healed.elapsed()
                    );
                }
                sleep(Duration::from_secs(2)).await;
            }
            assert_eq!(cluster.shard(leader).leader().state(), before);
            cluster.stop().await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn all_killed_at_once_come_back_with_everything() {
    with_seed(7, async {
        let mut cluster = Cluster::voters(7, 5).await;
        cluster.fill(30).await;
        for id in cluster.ids() {
            cluster.kill(id, CrashPlan::LoseAll).await;
        }
        for id in cluster.ids() {
            cluster.start(id).await;
            assert!(!cluster.shard(id).leader().state().serving);
        }
        cluster.put("after it").await;
        cluster.settle().await;
        assert_eq!(cluster.commands(id(1)).len(), 31);
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_lead_is_handed_over() {
    with_seed(8, async {
        let mut cluster = Cluster::voters(8, 3).await;
        cluster.fill(10).await;
        let mut gaps = Vec::new();
        for _ in 0..10 {
            let old = cluster.leader().await;
            let to = cluster.ids().into_iter().filter(|id| *id != old);
            let to = to.max_by_key(|id| id.0 ^ cluster.tickets).expect("three");
            for number in 0..10 {
                cluster.propose(old, format!("under way {number}")).await;
            }
            let start = Instant::now();
            cluster.shard(old).transfer_leader(to).await.expect("taken");
            assert_eq!(cluster.leader_after(old).await, to);
            gaps.push(start.elapsed());
            let again = cluster.shard(to).transfer_leader(to).await;
            assert_eq!(again, Ok(()), "it leads");
            cluster.put("after it").await;
        }
        println!("transfers: {gaps:?}");
        assert!(gaps.iter().all(|gap| *gap < Duration::from_millis(500)), "{gaps:?}");

        let leader = cluster.leader().await;
        let other = cluster.ids().into_iter().find(|id| *id != leader).expect("three");
        let refused = cluster.shard(other).transfer_leader(id(9)).await;
        assert_eq!(refused, Err(crate::TransferError::NotLeader { leader: Some(leader) }));
        let refused = cluster.shard(leader).transfer_leader(id(9)).await;
        assert_eq!(refused, Err(crate::TransferError::NotVoter { to: id(9) }));
        cluster.kill(other, CrashPlan::KeepAll).await;
        sleep(Duration::from_secs(2)).await;
        let refused = cluster.shard(leader).transfer_leader(other).await;
        assert_eq!(refused, Err(crate::TransferError::Unreachable { to: other }));
        cluster.put("it leads on").await;
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_is_not_fit_to_lead_others_serves_where_it_votes_alone() {
    with_seed(31, async {
        let mut cluster = Cluster::idle(31, 3).await;
        cluster.set_fit(false);
        let first = cluster.shard(id(1));
        first.initialize(addresses(&cluster.ids())).await.expect("initialized");
        let elected = until("an elected leader", || {
            let leaders = cluster.ids().into_iter().map(|id| cluster.shard(id).leader().state());
            let leaders: Vec<_> = leaders.map(|state| state.leader).collect();
            leaders[0].filter(|_| leaders.iter().all(|leader| *leader == leaders[0]))
        })
        .await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(cluster.serving(), None);
        assert!(cluster.shard(elected).metrics().applied.is_some(), "it commits all the same");
        cluster.set_fit(true);
        assert_eq!(cluster.leader().await, elected);
        cluster.fill(3).await;
        cluster.stop().await;

        let mut alone = Cluster::idle(32, 1).await;
        alone.set_fit(false);
        alone.shard(id(1)).initialize_single().await.expect("running");
        alone.fill(3).await;
        alone.stop().await;
    })
    .await;
}
