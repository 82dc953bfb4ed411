//! Where a life of the node is cut short: after one change of the disk, or at one request to the bucket.

use std::sync::Arc;

use tokio::sync::Notify;

use super::shared::Shared;

/// A point in the life of a node, counted from when it is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The disk takes so many changes, and answers nothing more.
    Disk(u64),
    /// The bucket answers so many requests; the next one never arrives.
    BucketBefore(u64),
    /// The bucket answers so many requests; the next one is carried out, and not answered.
    BucketAfter(u64),
}

/// What becomes of a request to the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    Free,
    /// It does not arrive, and nothing is answered any more.
    Lost,
    /// It is carried out, and nothing is answered any more.
    Unanswered,
}

/// See the module. Clones are one.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    state: Shared<State>,
    reached: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    point: Option<Point>,
    is_reached: bool,
    /// Changes of the disk before the point was planned.
    changes: u64,
    /// Requests since.
    requests: u64,
}

impl Cut {
    pub(super) fn new() -> Self {
        Self { state: Shared::new(State::default()), reached: Arc::default() }
    }

    /// Plans where to cut, or nowhere. `changes`: those of the disk so far.
    pub(super) fn plan(&self, point: Option<Point>, changes: u64) {
        let planned = State { point, is_reached: false, changes, requests: 0 };
        self.state.with(|state| *state = planned);
        self.on_change(changes);
    }

    /// Resolves when the point that was planned last is reached.
    pub(super) async fn reached(&self) {
        while !self.is_reached() {
            self.reached.notified().await;
        }
    }

    /// Whether the point that was planned last is reached.
    pub(super) fn is_reached(&self) -> bool {
        self.state.with(|state| state.is_reached)
    }

    fn reach(&self) {
        self.state.with(|state| state.is_reached = true);
        self.reached.notify_one();
    }

    /// The disk has been changed so many times.
    pub(super) fn on_change(&self, changes: u64) {
        let is_there =
            |state: &mut State| state.point == Some(Point::Disk(changes - state.changes));
        if self.state.with(is_there) {
            self.reach();
        }
    }

    /// The node sends a request to the bucket.
    pub(super) fn on_request(&self) -> Passage {
        let passage = self.state.with(|state| {
            let number = state.requests;
            state.requests += 1;
            match state.point {
                Some(Point::BucketBefore(before)) if before == number => Passage::Lost,
                Some(Point::BucketAfter(before)) if before == number => Passage::Unanswered,
                _ => Passage::Free,
            }
        });
        if passage != Passage::Free {
            self.reach();
        }
        passage
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_cut_is_reached_where_it_was_planned_last() {
        let cut = Cut::new();
        let is_reached = || {
            let resolves = cut.reached().now_or_never().is_some();
            assert_eq!(resolves, cut.is_reached());
            resolves
        };
        cut.plan(Some(Point::Disk(0)), 0);
        assert!(is_reached(), "before the first change");
        cut.plan(Some(Point::Disk(2)), 5);
        assert!(!is_reached(), "the last one does not count");
        cut.on_change(6);
        assert!(!is_reached());
        cut.on_change(7);
        cut.on_change(8);
        assert!(is_reached());
        cut.plan(Some(Point::BucketBefore(1)), 8);
        assert_eq!([(); 2].map(|()| cut.on_request()), [Passage::Free, Passage::Lost]);
        assert!(is_reached());
        cut.plan(Some(Point::BucketAfter(0)), 8);
        assert!(!is_reached());
        assert_eq!(cut.on_request(), Passage::Unanswered);
        assert_eq!(cut.on_request(), Passage::Free);
        assert!(is_reached());
        cut.plan(None, 8);
        assert_eq!(cut.on_request(), Passage::Free);
        assert!(!is_reached());
    }
}
