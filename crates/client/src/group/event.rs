//! What a member is handed.

use railgun_proto::v1;
use railgun_types::{Offset, OffsetRange, Timestamp};

use super::delivery::Delivery;

/// What comes next for a member of a group: messages, or news of the group, in order with them.
#[derive(Debug)]
pub enum GroupEvent<T = Delivery> {
    /// A message, or a batch of them.
    Delivery(T),
    /// The stream lost these before the group had settled them (G-2).
    Skipped(OffsetRange),
    /// Nothing new is handed out before this one is settled (G-5).
    Stalled {
        /// The message that holds all others up.
        blocking: Offset,
    },
    /// The group is stalled no more.
    Resumed,
    /// Nothing is handed out until [`Unpaused`](Self::Unpaused).
    Paused(PauseReason),
    /// The group goes on.
    Unpaused,
    /// This member is the active one of an exclusive group from here on.
    Active {
        /// Higher with each active member: whoever is written to can refuse the lower ones.
        fencing_token: u32,
    },
    /// Another member is the active one; what this one settles from here on is stale.
    Inactive,
    /// What was said of these came too late and changed nothing (G-7). For settles that nobody waits for.
    Stale {
        /// The messages.
        range: OffsetRange,
        /// Why.
        reason: StaleReason,
    },
}

/// Why a group is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseReason {
    /// An operator said so.
    Operator,
    /// More than half of the last 1,000 messages became dead letters (DL-9).
    Breaker,
    /// In an exclusive group a message failed that is to be tried again no earlier than this.
    Until(Timestamp),
    /// For a reason that this version does not know.
    Unknown,
}

/// Why a settle changed nothing (G-7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// The message was handed out again, or the group was reset.
    Superseded,
    /// It was settled before.
    AlreadySettled,
    /// Another member is the active one by now.
    Fenced,
    /// For a reason that this version does not know.
    Unknown,
}

impl StaleReason {
    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Superseded => "it was handed out again, or the group was reset",
            Self::AlreadySettled => "it was settled before",
            Self::Fenced => "another member is the active one",
            Self::Unknown => "the server gives no reason",
        }
    }
}

impl From<v1::StaleReason> for StaleReason {
    fn from(reason: v1::StaleReason) -> Self {
        match reason {
            v1::StaleReason::StaleSuperseded => Self::Superseded,
            v1::StaleReason::StaleAlreadySettled => Self::AlreadySettled,
            v1::StaleReason::StaleFenced => Self::Fenced,
            v1::StaleReason::StaleUnknown => Self::Unknown,
        }
    }
}

impl From<v1::GroupPause> for PauseReason {
    fn from(pause: v1::GroupPause) -> Self {
        match pause {
            v1::GroupPause::GroupPausedByOperator => Self::Operator,
            v1::GroupPause::GroupPausedByBreaker => Self::Breaker,
            v1::GroupPause::Unknown => Self::Unknown,
        }
    }
}

/// News of a group, without what only members of this client tell each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Skipped(OffsetRange),
    Stalled(Offset),
    Resumed,
    Paused(PauseReason),
    Unpaused,
    Active(u32),
    Inactive,
    Stale(OffsetRange, StaleReason),
}

impl News {
    /// What is left to tell of two that follow one another, if one tells it all.
    pub(super) fn merged(self, next: Self) -> Option<Self> {
        let joined = |a: OffsetRange, b: OffsetRange| {
            (a.end == b.start).then(|| OffsetRange::new(a.start, b.end))
        };
        match (self, next) {
            (Self::Stalled(_) | Self::Resumed, Self::Stalled(_) | Self::Resumed)
            | (Self::Paused(_) | Self::Unpaused, Self::Paused(_) | Self::Unpaused)
            | (Self::Active(_) | Self::Inactive, Self::Active(_) | Self::Inactive) => Some(next),
            (Self::Skipped(a), Self::Skipped(b)) => joined(a, b).map(Self::Skipped),
            (Self::Stale(a, why), Self::Stale(b, reason)) if why == reason => {
                joined(a, b).map(|range| Self::Stale(range, why))
            }
            _ => None,
        }
    }
}

impl<T> From<News> for GroupEvent<T> {
    fn from(news: News) -> Self {
        match news {
            News::Skipped(range) => Self::Skipped(range),
            News::Stalled(blocking) => Self::Stalled { blocking },
            News::Resumed => Self::Resumed,
            News::Paused(reason) => Self::Paused(reason),
            News::Unpaused => Self::Unpaused,
            News::Active(fencing_token) => Self::Active { fencing_token },
            News::Inactive => Self::Inactive,
            News::Stale(range, reason) => Self::Stale { range, reason },
        }
    }
}
