//! Whether everything that was acked is still somewhere, and if not, what became of it: it was never
//! durable (PS-1), or it was given up (I2). Gathered over every look at the logs.

use std::collections::{BTreeMap, BTreeSet};

use railgun_types::{Offset, ShardId, StreamUid};

use super::super::history::{History, MessageId};
use super::local::Told;

/// What has been seen to be durable in a log.
#[derive(Debug, Default)]
pub(super) struct Kept {
    messages: BTreeSet<MessageId>,
    /// The last entry of each shard.
    last: BTreeMap<ShardId, u64>,
}

impl Kept {
    /// Every message that was acked is in a durable log or in the bucket.
    pub(super) fn check(
        &mut self,
        history: &History,
        acked: &[(StreamUid, Offset, MessageId)],
        in_bucket: &BTreeSet<MessageId>,
        told: &BTreeMap<ShardId, Told>,
    ) {
        let appends = told.values().flat_map(|told| &told.appends);
        let logged: BTreeSet<_> =
            appends.flat_map(|entry| entry.messages.iter().copied()).collect();
        let gone = acked.iter().find(|(_, _, id)| !logged.contains(id) && !in_bucket.contains(id));
        if let Some((stream, offset, id)) = gone {
            let is_given_up = self.messages.contains(id) || self.has_missed_some(told);
            let how = format_args!(
                "message {id}, acked at offset {offset} of {stream}, is neither in the durable log \
                 nor in the bucket behind a manifest"
            );
            history.violated(if is_given_up { "I2" } else { "PS-1" }, how);
        }
        self.messages.extend(logged);
        for (shard, told) in told {
            let last = self.last.entry(*shard).or_default();
            *last = told.seals.last_key_value().map_or(*last, |(index, _)| *index);
        }
    }

    /// Whether a log has given up entries that nobody had looked at.
    fn has_missed_some(&self, told: &BTreeMap<ShardId, Told>) -> bool {
        told.iter().any(|(shard, told)| {
            let last = self.last.get(shard).copied().unwrap_or_default();
            told.first.is_none_or(|first| first > last + 1)
        })
    }
}
