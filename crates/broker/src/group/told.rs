//! What a dispatcher wants said, as members are told.

use railgun_core::dispatcher::{Effect, MemberId, Pause, StaleReason, StaleSettle};
use railgun_proto::v1::{self, group_notice::Notice};

use super::MemberOutput;

/// What a member is to hear, but for deliveries, which the records belong to.
pub(super) fn told(effect: Effect) -> Option<(MemberId, MemberOutput)> {
    let (member, notice) = match effect {
        Effect::Deliver { .. } | Effect::Dying { .. } => return None,
        Effect::Settled { member, through, stale } => {
            let stale = stale.into_iter().map(stale_settle).collect();
            return Some((member, MemberOutput::Settled(v1::Settled { through, stale })));
        }
        Effect::Rewind { member, to, generation: _ } => (member, Notice::RewindTo(to.0)),
        Effect::Active { member, epoch } => (member, Notice::ActiveEpoch(epoch)),
        Effect::Inactive { member } => (member, Notice::Inactive(true)),
        Effect::Stalled { member, blocking } => (member, Notice::StalledAt(blocking.0)),
        Effect::Resumed { member } => (member, Notice::Resumed(true)),
        Effect::Paused { member, pause } => (member, paused(pause)),
        Effect::Unpaused { member } => (member, Notice::Unpaused(true)),
        Effect::Skipped { member, range } => (member, Notice::Skipped(range.into())),
        Effect::Fetching { member, number } => (member, Notice::Fetching(number)),
        Effect::Fetched { member, number } => (member, Notice::Fetched(number)),
        Effect::Drained { member } => (member, Notice::Drained(true)),
    };
    Some((member, MemberOutput::Notice(notice)))
}

fn paused(pause: Pause) -> Notice {
    match pause {
        Pause::Operator => Notice::Paused(v1::GroupPause::GroupPausedByOperator.into()),
        Pause::Breaker => Notice::Paused(v1::GroupPause::GroupPausedByBreaker.into()),
        Pause::Delayed { until } => Notice::PausedUntilUs(until.0),
    }
}

fn stale_settle(stale: StaleSettle) -> v1::StaleSettle {
    let StaleSettle { lease, range, reason } = stale;
    let reason = match reason {
        StaleReason::Superseded => v1::StaleReason::StaleSuperseded,
        StaleReason::AlreadySettled => v1::StaleReason::StaleAlreadySettled,
        StaleReason::Fenced => v1::StaleReason::StaleFenced,
        StaleReason::Unknown => v1::StaleReason::StaleUnknown,
    };
    // No delivery has more messages than a batch has records.
    let count = range.len() as u32;
    v1::StaleSettle { lease, from: range.start.0, count, reason: reason.into() }
}
