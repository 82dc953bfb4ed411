//! What is to be said to the group's state, merged until it may be.

use std::collections::{BTreeMap, BTreeSet};

use railgun_types::limits::FAILURES_PER_CHANGE;
use railgun_types::{Offset, OffsetRange};

use crate::command::{FailCause, GroupChange};
use crate::ranges::OffsetSet;

/// Most different failures, each with a text of its own, in one proposal: what is beyond waits for the
/// next, so that an entry stays small.
pub(super) const FAILURES_MAX: usize = 256;

/// What failures have in common that are one change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) error: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FailureKind {
    Nack { delay_ms: Option<u64> },
    Expired,
    Disconnected,
    Reject,
}

impl Failure {
    pub(super) fn without_error(kind: FailureKind) -> Self {
        Self { kind, error: None }
    }

    fn change(&self, epoch: u32, ranges: Vec<OffsetRange>) -> GroupChange {
        let error = self.error.clone();
        let (cause, delay_ms) = match self.kind {
            FailureKind::Nack { delay_ms } => (FailCause::Nack, delay_ms),
            FailureKind::Expired => (FailCause::Expired, None),
            FailureKind::Disconnected => (FailCause::Disconnected, None),
            FailureKind::Reject => return GroupChange::Reject { epoch, ranges, error },
        };
        GroupChange::Fail { epoch, ranges, cause, delay_ms, error }
    }
}

/// Changes that wait to be proposed, or are. A message is in at most one of `acks` and `failures`.
#[derive(Debug, Default)]
pub(super) struct Proposal {
    pub(super) acks: OffsetSet,
    pub(super) failures: BTreeMap<Failure, OffsetSet>,
    /// All of these, whatever failed them.
    failing: OffsetSet,
    pub(super) due: BTreeSet<Offset>,
    pub(super) reserve: Option<Offset>,
    pub(super) activates: bool,
}

impl Proposal {
    pub(super) fn fail(&mut self, failure: Failure, range: OffsetRange) {
        self.failures.entry(failure).or_default().insert(range);
        self.failing.insert(range);
    }

    /// Whether it settles that message.
    pub(super) fn settles(&self, offset: Offset) -> bool {
        self.acks.contains(offset) || self.fails(offset)
    }

    pub(super) fn fails(&self, offset: Offset) -> bool {
        self.failing.contains(offset)
    }

    /// Takes a failure back. Returns whether there was one.
    pub(super) fn withdraw_failure(&mut self, offset: Offset) -> bool {
        if self.failing.remove(OffsetRange::single(offset)) == 0 {
            return false;
        }
        self.failures.retain(|_, offsets| {
            offsets.remove(OffsetRange::single(offset));
            !offsets.is_empty()
        });
        true
    }

    /// All messages that it settles.
    pub(super) fn ranges(&self) -> impl Iterator<Item = OffsetRange> {
        self.acks.iter().chain(self.failures.values().flat_map(OffsetSet::iter))
    }

    pub(super) fn is_empty(&self) -> bool {
        let Self { acks, failures, failing: _, due, reserve, activates } = self;
        let says_nothing = acks.is_empty() && failures.is_empty() && due.is_empty();
        says_nothing && reserve.is_none() && !activates
    }

    /// Takes what goes into one entry out of it, and leaves the rest.
    pub(super) fn take(&mut self) -> Self {
        let Some(rest) = self.failures.keys().nth(FAILURES_MAX).cloned() else {
            return std::mem::take(self);
        };
        let rest = self.failures.split_off(&rest);
        let taken = Self {
            acks: std::mem::take(&mut self.acks),
            failures: std::mem::replace(&mut self.failures, rest),
            failing: OffsetSet::default(),
            due: std::mem::take(&mut self.due),
            reserve: self.reserve.take(),
            activates: std::mem::take(&mut self.activates),
        };
        let failing: OffsetSet = taken.failures.values().flat_map(OffsetSet::iter).collect();
        for range in failing.iter() {
            self.failing.remove(range);
        }
        Self { failing, ..taken }
    }

    /// In an order in which each still is of the epoch that was before.
    pub(super) fn changes(&self, epoch: u32) -> Vec<GroupChange> {
        let mut changes = Vec::new();
        if !self.acks.is_empty() {
            changes.push(GroupChange::Ack { epoch, ranges: self.acks.iter().collect() });
        }
        for (failure, offsets) in &self.failures {
            for ranges in in_pieces(offsets, FAILURES_PER_CHANGE) {
                changes.push(failure.change(epoch, ranges));
            }
        }
        if !self.due.is_empty() {
            changes.push(GroupChange::Due { offsets: self.due.iter().copied().collect() });
        }
        changes.extend(self.reserve.map(|upto| GroupChange::Reserve { upto }));
        changes.extend(self.activates.then_some(GroupChange::Activate));
        changes
    }
}

/// The ranges of a set, in lists with at most `max` messages each.
fn in_pieces(offsets: &OffsetSet, max: u64) -> Vec<Vec<OffsetRange>> {
    let (mut pieces, mut left) = (vec![Vec::new()], max);
    for mut range in offsets.iter() {
        while !range.is_empty() {
            if left == 0 {
                pieces.push(Vec::new());
                left = max;
            }
            let part = OffsetRange::new(range.start, range.end.min(range.start.plus(left)));
            left -= part.len();
            range.start = part.end;
            if let Some(piece) = pieces.last_mut() {
                piece.push(part);
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> OffsetRange {
        OffsetRange::new(Offset(start), Offset(end))
    }

    #[test]
    fn what_waits_is_merged_and_a_failure_can_be_taken_back() {
        // G-13
        let mut proposal = Proposal::default();
        assert!(proposal.is_empty());
        for offset in [4, 2, 3, 7] {
            proposal.acks.insert(range(offset, offset + 1));
        }
        let expired = Failure::without_error(FailureKind::Expired);
        proposal.fail(expired.clone(), range(10, 13));
        proposal.fail(expired, range(13, 14));
        assert!(proposal.withdraw_failure(Offset(11)));
        assert!(!proposal.withdraw_failure(Offset(2)));
        assert!(proposal.settles(Offset(2)) && proposal.fails(Offset(13)));
        assert!(!proposal.settles(Offset(11)));
        let expected = [
            GroupChange::Ack { epoch: 5, ranges: vec![range(2, 5), range(7, 8)] },
            GroupChange::Fail {
                epoch: 5,
                ranges: vec![range(10, 11), range(12, 14)],
                cause: FailCause::Expired,
                delay_ms: None,
                error: None,
            },
        ];
        assert_eq!(proposal.changes(5), expected);
    }

    #[test]
    fn neither_a_change_nor_a_proposal_takes_any_number_of_failures() {
        let mut offsets = OffsetSet::default();
        offsets.insert(range(0, 3));
        offsets.insert(range(5, 12));
        let pieces = in_pieces(&offsets, 4);
        let expected = [vec![range(0, 3), range(5, 6)], vec![range(6, 10)], vec![range(10, 12)]];
        assert_eq!(pieces, expected);

        let mut proposal = Proposal::default();
        for at in 0..FAILURES_MAX as u64 + 2 {
            let kind = FailureKind::Nack { delay_ms: Some(at) };
            proposal.fail(Failure::without_error(kind), range(at, at + 1));
        }
        proposal.acks.insert(range(1_000, 1_001));
        let (last, behind) = (Offset(FAILURES_MAX as u64 - 1), Offset(FAILURES_MAX as u64));
        let first = proposal.take();
        assert_eq!((first.failures.len(), proposal.failures.len()), (FAILURES_MAX, 2));
        assert!(first.settles(Offset(1_000)) && first.fails(last) && !first.fails(behind));
        assert!(proposal.fails(behind) && proposal.acks.is_empty() && !proposal.fails(last));
        assert!(proposal.take().fails(behind) && proposal.is_empty());
    }
}
