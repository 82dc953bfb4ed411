//! What Raft was told is durable is on the disk as a power failure would leave it now: a vote, with every
//! entry before it, and the entries that were appended under it. It stays there as long as the replica is the
//! same: one that lost its log is another (CL-3).

use std::collections::BTreeMap;

use railgun_broker::ReplicaState;
use railgun_log::Vote;
use railgun_types::{EntryId, ReplicaId, ShardId};

use super::super::history::History;
use super::local::Mark;

/// What each replica was told at most.
#[derive(Debug, Default)]
pub(super) struct Promises {
    told: BTreeMap<(ShardId, ReplicaId), Promise>,
}

#[derive(Clone, Copy, Debug)]
struct Promise {
    vote: Vote,
    /// Of what was appended under the vote.
    last: Option<EntryId>,
}

/// Votes in their order: whoever wins is voted for once more.
fn rank(vote: Vote) -> (u64, bool) {
    (vote.term, vote.committed)
}

impl Promise {
    fn rank(&self) -> ((u64, bool), Option<EntryId>) {
        (rank(self.vote), self.last)
    }
}

impl Promises {
    /// `mark`: what is on the disk of node `at`.
    pub(super) fn check(&mut self, history: &History, at: usize, state: &ReplicaState, mark: Mark) {
        let told = state.flushed.map(|(vote, last)| Promise { vote, last });
        let known = self.told.get(&(state.shard, state.replica)).copied();
        let most = told.into_iter().chain(known).max_by_key(Promise::rank);
        let Some(promise) = most else { return };
        self.told.insert((state.shard, state.replica), promise);
        let on_disk = mark.vote.unwrap_or_default();
        let has_vote = rank(on_disk) >= rank(promise.vote)
            && (on_disk.term != promise.vote.term || on_disk.node == promise.vote.node);
        // Under another vote, what was not committed may have been cut.
        let has_last = rank(on_disk) > rank(promise.vote) || mark.last >= promise.last;
        // Nothing is appended under a vote for who has not won yet: what there is was there before it.
        let vote = promise.vote;
        let is_behind_all = !vote.committed && state.vote == Some(vote) && told.is_some();
        let has_all = !is_behind_all || mark.last >= state.last;
        if !(has_vote && has_last && has_all) {
            let how = format_args!(
                "replica {} of shard {} on node {} was told that {promise:?} is durable and has {:?}; on its \
                 disk is {mark:?}",
                state.replica,
                state.shard,
                at + 1,
                state.last,
            );
            history.violated("durable", how);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::trace::Trace;
    use super::*;

    fn vote(term: u64, committed: bool) -> Vote {
        Vote { term, node: 7, committed }
    }

    fn entry(term: u64, index: u64) -> Option<EntryId> {
        Some(EntryId { term, index })
    }

    fn state(flushed: (Vote, Option<EntryId>), last: Option<EntryId>) -> ReplicaState {
        ReplicaState {
            shard: ShardId(1),
            replica: ReplicaId(7),
            term: flushed.0.term,
            leader: None,
            serving: false,
            applied: None,
            committed: None,
            flushed: Some(flushed),
            vote: Some(flushed.0),
            last,
            voters: Vec::new(),
        }
    }

    /// Whether each look is fine, one after the other.
    fn holds(looks: &[(ReplicaState, Mark)]) -> bool {
        let (history, mut promises) = (History::new(Trace::begin()), Promises::default());
        looks.iter().for_each(|(state, mark)| promises.check(&history, 0, state, *mark));
        history.is_sound()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_told_is_on_the_disk() {
        let told = (vote(2, true), entry(2, 9));
        let on_disk = |vote, last| Mark { vote: Some(vote), last };
        let check = |vote, last| holds(&[(state(told, entry(2, 11)), on_disk(vote, last))]);
        assert!(check(vote(2, true), entry(2, 9)));
        assert!(check(vote(2, true), entry(2, 10)), "more is there than was told");
        assert!(!check(vote(2, true), entry(2, 8)));
        assert!(!check(vote(2, false), entry(2, 9)));
        assert!(check(vote(3, false), entry(1, 5)), "cut since");
        assert!(!check(Vote { node: 8, ..vote(2, true) }, entry(2, 9)), "for somebody else");
    }

    #[tokio::test(start_paused = true)]
    async fn a_vote_has_everything_before_it() {
        let told = (vote(3, false), None);
        let check = |last| holds(&[(state(told, entry(2, 9)), Mark { vote: Some(told.0), last })]);
        assert!(check(entry(2, 9)));
        assert!(!check(entry(2, 8)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_does_not_come_back_with_less() {
        let first = state((vote(2, true), entry(2, 9)), entry(2, 9));
        let whole = Mark { vote: Some(vote(2, true)), last: entry(2, 9) };
        let again = state((vote(2, true), None), None);
        assert!(holds(&[(first.clone(), whole), (again.clone(), whole)]));
        let empty = Mark { vote: Some(vote(2, true)), last: None };
        assert!(!holds(&[(first.clone(), whole), (again, empty)]));
        let other = ReplicaState { replica: ReplicaId(8), ..state((vote(2, true), None), None) };
        assert!(holds(&[(first, whole), (other, empty)]), "it is another one");
    }
}
