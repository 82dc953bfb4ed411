//! Faults drawn from a seed, and what must hold all the same.

use super::net::draw;
use super::*;

struct Round<'a> {
    cluster: &'a mut Cluster,
    random: u64,
}

impl Round<'_> {
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(draw(&mut self.random)).expect("small") % bound
    }

    fn any(&mut self) -> ReplicaId {
        let ids = self.cluster.ids();
        ids[self.below(ids.len())]
    }

    /// One fault, or its end.
    async fn fault(&mut self) {
        let (one, other) = (self.any(), self.any());
        let ids = self.cluster.ids();
        match self.below(10) {
            0 => {
                let plan = match self.below(3) {
                    0 => CrashPlan::LoseAll,
                    1 => CrashPlan::KeepAll,
                    _ => CrashPlan::Seeded(draw(&mut self.random)),
                };
                self.cluster.kill(one, plan).await;
            }
            1 | 2 => {
                let down = ids.iter().find(|id| self.cluster.replicas[id].running.is_none());
                if let Some(down) = down {
                    self.cluster.start(*down).await;
                }
            }
            3 => self.cluster.net.isolate(one, &ids, Link::Swallows),
            4 => self.cluster.net.isolate(one, &ids, Link::Broken),
            5 => self.cluster.net.set(one, other, Link::Swallows),
            6 => self.cluster.net.half_kill(one, other),
            7 => {
                if let Some(leader) = self.cluster.serving() {
                    drop(self.cluster.shard(leader).transfer_leader(other).await);
                }
            }
            8 => {
                let has_state =
                    |running: &Running| running.state.with(|it| it.applied.id.index > 0);
                if self.cluster.replicas[&one].running.as_ref().is_some_and(has_state) {
                    let upto = self.cluster.checkpoint(one).await.index;
                    drop(self.cluster.shard(one).promote_snapshot(upto).await);
                }
            }
            _ => self.cluster.net.heal(),
        }
    }

    async fn traffic(&mut self) {
        for _ in 0..self.below(12) {
            // Whoever believes to lead takes it; there may be several.
            let running = self.cluster.running();
            let serving =
                running.into_iter().filter(|id| self.cluster.shard(*id).leader().state().serving);
            for leader in serving.collect::<Vec<_>>() {
                let bytes = vec![self.below(256) as u8; 1 + self.below(4000)];
                self.cluster.propose(leader, bytes).await;
            }
            let pause = self.below(60_000) as u64;
            sleep(Duration::from_micros(pause)).await;
        }
    }
}

async fn rounds(seed: u64) -> Vec<(EntryId, Bytes)> {
    let nodes = if seed.is_multiple_of(4) { 5 } else { 3 };
    let mut cluster = Cluster::voters(seed, nodes).await;
    let mut round = Round { cluster: &mut cluster, random: seed };
    for _ in 0..25 {
        round.fault().await;
        round.traffic().await;
        let pause = round.below(1500) as u64;
        sleep(Duration::from_millis(pause)).await;
        round.cluster.check();
    }
    cluster.net.heal();
    for id in cluster.ids() {
        if cluster.replicas[&id].running.is_none() {
            cluster.start(id).await;
        }
    }
    let healed = Instant::now();
    cluster.put("the end").await;
    assert!(healed.elapsed() < Duration::from_secs(10), "seed {seed}: {:?}", healed.elapsed());
    cluster.settle().await;
    assert!(healed.elapsed() < Duration::from_secs(20), "seed {seed}: {:?}", healed.elapsed());
    let commands = cluster.commands(id(1));
    cluster.check_settled();
    cluster.stop().await;
    commands
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_nothing_applied_is_lost_and_all_apply_the_same() {
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse().ok());
    let start = number("RAILGUN_RAFT_START").unwrap_or(0);
    let count = number("RAILGUN_RAFT_SEEDS").unwrap_or(6);
    for seed in start..start + count {
        println!("seed {seed}");
        with_seed(seed, rounds(seed)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_brings_the_same_entries() {
    let first = with_seed(1, rounds(1)).await;
    assert_eq!(with_seed(1, rounds(1)).await, first);
}
