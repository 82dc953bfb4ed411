//! What must soon be so when nothing is wrong: nodes run, every shard is led, replicas are the same.

use std::time::Duration;

use railgun_broker::ReplicaState;
use railgun_net::memory::Crash as HostCrash;
use railgun_types::ReplicaId;

use super::harm::MEND_PATIENCE;
use super::member::Member;
use super::{ClusterWorld, DATA_SHARDS, NODES, START_PATIENCE};

/// Time in which a node stops that is told to, whatever is wrong.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
/// Time in which every shard must have a leader when nothing is wrong any more.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// Time in which all replicas must be the same when nothing is wrong and nothing is asked any more.
const AGREE_PATIENCE: Duration = Duration::from_secs(20);
/// Voters of a shard that must agree on who leads.
const MAJORITY: usize = NODES as usize / 2 + 1;

impl ClusterWorld {
    /// Nothing is wrong for a while. Soon every shard has a leader, and clients are served.
    pub(super) async fn be_quiet(&mut self) {
        self.become_well().await;
        self.be_served().await;
        self.be_led_by_right_clocks().await;
        let pause = Duration::from_millis(self.random.within(500..6_000));
        self.pass(pause).await;
    }

    /// Nothing is wrong any more. Soon every shard has a leader, and all nodes run.
    pub(super) async fn become_well(&mut self) {
        self.trace.note(format_args!("quiet"));
        // Who is on its way down takes its leads along if the others cannot have them.
        let stays = |world: &mut Self| {
            let is_stopping = |it: &Member| it.is_stopping() && !it.is_hurt();
            !world.members.iter().any(is_stopping)
        };
        self.wait_for("a node does not stop", STOP_PATIENCE, stays).await;
        for (_, lasting) in std::mem::take(&mut self.lasting) {
            self.end(lasting);
        }
        // With a wrong clock a new node is not taken in.
        if let Some(at) = self.lost {
            self.members[at].node.clock.set_off(0);
        }
        let now = self.trace.elapsed();
        for at in 0..self.members.len() {
            // A planted disk error may lie in wait: a restart forgets it.
            if self.members[at].is_hurt() {
                let plan = self.draw_plan();
                self.crash(at, HostCrash::Told, &plan, now).await;
            }
            self.members[at].node.hooks.set_answers_left(None, None);
            self.members[at].hurry();
        }
        self.be_led().await;
        let complaint = "nothing is wrong, and a node does not start";
        self.wait_for(complaint, START_PATIENCE, Self::all_up).await;
        self.well_at = self.trace.elapsed();
    }

    /// Nothing that lasts keeps nodes from each other. Soon every shard has a leader.
    pub(super) async fn be_led(&mut self) {
        let complaint = "nothing is wrong, and a shard has no leader";
        let took = self.wait_for(complaint, LEADER_PATIENCE, Self::has_leaders).await;
        self.trace.note(format_args!("leaders after {took:?}"));
        self.trace.count(|counts| counts.leaders_after = counts.leaders_after.max(took));
    }

    pub(super) fn all_up(&mut self) -> bool {
        self.members.iter().all(|member| member.up().is_some())
    }

    fn has_leaders(&mut self) -> bool {
        let lives: Vec<_> = self.members.iter().filter_map(Member::up).collect();
        let states: Vec<_> = lives.iter().flat_map(|life| life.broker.replica_states()).collect();
        let is_starting = self.members.iter().any(Member::is_starting);
        (0..=DATA_SHARDS).all(|shard| {
            let of_shard: Vec<_> = states.iter().filter(|it| it.shard.0 == shard).collect();
            leader(&of_shard, is_starting).is_some()
        })
    }

    /// Soon after the last was asked, every shard has all its replicas, and they are the same. One that is
    /// being replaced has the time that this may take.
    pub(super) async fn come_to_agree(&mut self) {
        let now = self.trace.elapsed();
        let patience = if self.lost.is_some() { MEND_PATIENCE } else { AGREE_PATIENCE };
        self.mend(now, patience).await;
        self.agree(now + patience - AGREE_PATIENCE).await;
    }

    /// Soon after `since` all replicas are the same.
    pub(super) async fn agree(&mut self, since: Duration) {
        let complaint = "nothing is asked any more, and replicas are not the same";
        let same = |world: &mut Self| world.replicas.are_same(usize::from(NODES), DATA_SHARDS);
        let took = self.wait_since(since, complaint, AGREE_PATIENCE, same).await;
        self.trace.count(|counts| counts.agreed_after = counts.agreed_after.max(took));
    }

    /// Lets time pass until it is so; the time that took.
    pub(super) async fn wait_for(
        &mut self,
        complaint: &str,
        patience: Duration,
        is_so: impl FnMut(&mut Self) -> bool,
    ) -> Duration {
        self.wait_since(self.trace.elapsed(), complaint, patience, is_so).await
    }

    /// The same, where the time has run for a while, or is still to begin.
    pub(super) async fn wait_since(
        &mut self,
        begun: Duration,
        complaint: &str,
        patience: Duration,
        mut is_so: impl FnMut(&mut Self) -> bool,
    ) -> Duration {
        while self.history.is_sound() && !is_so(self) {
            if self.trace.elapsed().saturating_sub(begun) > patience {
                self.note_states();
                let how = format_args!("{complaint} within {patience:?}");
                self.history.violated("liveness", how);
            }
            self.step().await;
        }
        self.trace.elapsed().saturating_sub(begun)
    }
}

/// Who leads a shard by what its replicas say: a majority of its voters names it, nobody knows a later term,
/// and it serves. On a node that is starting it may wait for other leaders before it takes clients: then the
/// others name it, and it says nothing.
fn leader(states: &[&ReplicaState], is_starting: bool) -> Option<ReplicaId> {
    let term = states.iter().map(|it| it.term).max()?;
    let leader = states.iter().filter(|it| it.term == term).find_map(|it| it.leader)?;
    let own = states.iter().find(|it| it.replica == leader);
    let voters = &own.or(states.iter().max_by_key(|it| it.committed))?.voters;
    let names = |it: &&&ReplicaState| {
        it.term == term && it.leader == Some(leader) && voters.contains(&it.replica)
    };
    let named = states.iter().filter(names).count();
    match own {
        Some(own) => own.serving && named >= MAJORITY,
        None => is_starting && voters.contains(&leader) && named + 1 >= MAJORITY,
    }
    .then_some(leader)
}

#[cfg(test)]
mod tests {
    use railgun_types::ShardId;

    use super::*;

    /// One of three.
    fn replica(number: u64, term: u64, leader: Option<u64>) -> ReplicaState {
        ReplicaState {
            shard: ShardId(1),
            replica: ReplicaId(number),
            term,
            leader: leader.map(ReplicaId),
            serving: leader == Some(number),
            applied: None,
            committed: None,
            flushed: None,
            vote: None,
            last: None,
            voters: [1, 2, 3].map(ReplicaId).to_vec(),
        }
    }

    #[test]
    fn a_leader_is_who_a_majority_follows_in_the_last_term() {
        let leads = |states: &[ReplicaState], is_starting| {
            let states: Vec<_> = states.iter().collect();
            leader(&states, is_starting).map(|leader| leader.0)
        };
        let [one, two, three] = [1, 2, 3].map(|number| replica(number, 4, Some(1)));
        assert_eq!(leads(&[one.clone(), two.clone(), three.clone()], false), Some(1));
        assert_eq!(leads(&[one.clone(), two.clone()], false), Some(1));
        assert_eq!(leads(std::slice::from_ref(&one), false), None, "nobody follows");
        let waits = replica(2, 4, None);
        assert_eq!(leads(&[one.clone(), waits.clone(), replica(3, 4, None)], false), None);
        assert_eq!(leads(&[one.clone(), two.clone(), replica(3, 5, None)], false), None, "deposed");
        let next = [replica(2, 5, Some(3)), replica(3, 5, Some(3))];
        assert_eq!(leads(&[vec![one.clone()], next.to_vec()].concat(), false), Some(3));
        let learner = replica(4, 4, Some(1));
        assert_eq!(leads(&[one.clone(), learner], false), None, "it has no vote");
        let idle = ReplicaState { serving: false, ..one };
        assert_eq!(leads(&[idle, two.clone(), three.clone()], true), None);
        // Its node is on its way up.
        assert_eq!(leads(&[two.clone(), three.clone()], true), Some(1));
        assert_eq!(leads(&[two.clone(), three], false), None);
        assert_eq!(leads(&[two, waits], true), Some(1));
    }
}
