//! Who leads a shard, and whether this replica may serve as its leader.

use std::sync::Arc;

use railgun_types::ReplicaId;

use crate::watch::{self, Receiver, Sender};

/// What this replica knows about the leadership of its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaderState {
    /// The elected leader, if one is known.
    pub leader: Option<ReplicaId>,
    /// The leader's term, or the last one known if there is no leader.
    pub term: u64,
    /// This replica leads, and has applied its own first entry of this term and so everything that
    /// was committed before; and its node is fit to lead others ([`Fitness`]), or there are none that
    /// vote. Says nothing about the next moment: a proposal names its term.
    pub serving: bool,
}

/// The watched value: the state and what it is derived from.
#[derive(Debug, Default)]
struct View {
    state: LeaderState,
    /// Greatest term whose blank entry was applied here.
    blank_term: Option<u64>,
    /// Greatest term this replica has voted in, durably or not yet.
    voted_term: u64,
    /// No other replica votes.
    is_alone: bool,
    is_fit: bool,
}

impl View {
    /// Whether this replica leads and commits.
    fn is_established(&self, own: ReplicaId) -> bool {
        self.state.leader == Some(own) && self.blank_term == Some(self.state.term)
    }
}

/// Whether a node may serve as the leader of shards that have voters elsewhere: its owner may have to
/// learn something first. Clones are one.
#[derive(Clone)]
pub struct Fitness {
    is_fit: Arc<Sender<bool>>,
}

impl Fitness {
    /// As it is for now.
    #[must_use]
    pub fn new(is_fit: bool) -> Self {
        Self { is_fit: Arc::new(watch::channel(is_fit).0) }
    }

    /// From now on it is so; replicas follow within a moment.
    pub fn set(&self, is_fit: bool) {
        self.is_fit.send_if_modified(|known| std::mem::replace(known, is_fit) != is_fit);
    }

    /// As it was set last.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        *self.follow().borrow()
    }

    pub(crate) fn follow(&self) -> Receiver<bool> {
        self.is_fit.subscribe()
    }
}

impl std::fmt::Debug for Fitness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Fitness").field(&self.is_fit()).finish()
    }
}

/// The writing side, shared by the supervisor (who leads), the log store (who is voted for) and the
/// applier (what is applied).
#[derive(Clone)]
pub(crate) struct Leadership {
    own: ReplicaId,
    view: Sender<View>,
}

/// Follows the leadership of a shard. Clones are independent.
#[derive(Clone)]
pub struct LeaderWatch {
    view: Receiver<View>,
}

/// The shard was shut down or has failed; its leadership will not change any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard has stopped")]
pub struct ShardStopped;

impl Leadership {
    pub(crate) fn new(own: ReplicaId) -> (Self, LeaderWatch) {
        let (sender, receiver) = watch::channel(View::default());
        (Self { own, view: sender }, LeaderWatch { view: receiver })
    }

    /// What was true a moment ago: it may be of an earlier term than the last vote. `is_alone`: no other
    /// replica votes.
    pub(crate) fn set_leader(&self, leader: Option<ReplicaId>, term: u64, is_alone: bool) {
        self.update(|view| {
            view.state.leader = leader.filter(|_| term >= view.voted_term);
            view.state.term = term.max(view.voted_term);
            view.is_alone = is_alone;
        });
    }

    /// See [`Fitness`].
    pub(crate) fn set_fit(&self, is_fit: bool) {
        self.update(|view| view.is_fit = is_fit);
    }

    /// A vote is about to be saved: whoever led in an earlier term does not lead any more.
    pub(crate) fn set_voted(&self, term: u64) {
        self.update(|view| {
            view.voted_term = view.voted_term.max(term);
            if view.state.term < term {
                view.state.leader = None;
                view.state.term = term;
            }
        });
    }

    pub(crate) fn set_blank_applied(&self, term: u64) {
        self.update(|view| view.blank_term = view.blank_term.max(Some(term)));
    }

    /// Whether this replica leads, and commits.
    pub(crate) fn is_established(&self) -> bool {
        self.view.subscribe().borrow().is_established(self.own)
    }

    fn update(&self, change: impl FnOnce(&mut View)) {
        self.view.send_if_modified(|view| {
            let before = view.state;
            change(view);
            let may_serve = view.is_fit || view.is_alone;
            view.state.serving = may_serve && view.is_established(self.own);
            view.state != before
        });
    }
}

impl LeaderWatch {
    /// The state as it is now.
    #[must_use]
    pub fn state(&self) -> LeaderState {
        self.view.borrow().state
    }

    /// Waits for a state that this watch has not returned yet. Cancel safe.
    ///
    /// # Errors
    /// [`ShardStopped`] after the last state.
    pub async fn changed(&mut self) -> Result<LeaderState, ShardStopped> {
        self.view.changed().await.map_err(|_| ShardStopped)?;
        Ok(self.view.borrow_and_update().state)
    }

    /// Waits until this replica may serve as leader. Cancel safe.
    ///
    /// # Errors
    /// [`ShardStopped`] if that will never be.
    pub async fn serving(&mut self) -> Result<LeaderState, ShardStopped> {
        loop {
            let state = self.view.borrow_and_update().state;
            if state.serving {
                return Ok(state);
            }
            self.changed().await?;
        }
    }
}

impl std::fmt::Debug for LeaderWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LeaderWatch").field(&self.state()).finish()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn serving_needs_the_lead_and_the_blank_entry_of_the_same_term() {
        let (own, other) = (ReplicaId(1), ReplicaId(2));
        let (leadership, mut watch) = Leadership::new(own);
        leadership.set_fit(true);
        leadership.set_blank_applied(4); // replayed: an older term
        leadership.set_leader(Some(own), 5, false);
        assert_eq!(watch.state(), LeaderState { leader: Some(own), term: 5, serving: false });
        assert!(watch.serving().now_or_never().is_none());
        leadership.set_blank_applied(5);
        assert_eq!(watch.state(), LeaderState { leader: Some(own), term: 5, serving: true });
        leadership.set_leader(Some(other), 6, false);
        assert!(!watch.state().serving);
        leadership.set_blank_applied(6); // the other's
        assert!(!watch.state().serving);

        // The applier may be faster than the supervisor.
        leadership.set_blank_applied(7);
        assert!(!watch.state().serving);
        leadership.set_leader(Some(own), 7, false);
        assert_eq!(watch.serving().now_or_never(), Some(Ok(watch.state())));
        // At step-down at once, whatever is still being told of the term before.
        leadership.set_voted(8);
        assert_eq!(watch.state(), LeaderState { leader: None, term: 8, serving: false });
        leadership.set_leader(Some(own), 7, false);
        assert_eq!(watch.state(), LeaderState { leader: None, term: 8, serving: false });
        leadership.set_leader(Some(other), 8, false);
        assert_eq!(watch.state().leader, Some(other));
        assert!(watch.changed().now_or_never().is_some());
        leadership.set_leader(None, 8, false);
        drop(leadership);
        assert_eq!(watch.changed().now_or_never(), Some(Ok(watch.state())));
        assert_eq!(watch.serving().now_or_never(), Some(Err(ShardStopped)));
    }

    #[test]
    fn of_several_voters_only_a_fit_one_serves() {
        let own = ReplicaId(1);
        let (leadership, mut watch) = Leadership::new(own);
        leadership.set_leader(Some(own), 5, false);
        leadership.set_blank_applied(5);
        assert!(!watch.state().serving && leadership.is_established());
        assert!(watch.serving().now_or_never().is_none());
        leadership.set_fit(true);
        assert_eq!(watch.serving().now_or_never(), Some(Ok(watch.state())));
        leadership.set_fit(false);
        assert!(!watch.state().serving);
        // Nobody else votes any more, and then somebody does.
        leadership.set_leader(Some(own), 5, true);
        assert!(watch.state().serving);
        leadership.set_leader(Some(own), 5, false);
        assert!(!watch.state().serving);
    }
}
