//! Whether everything that was acked is on the disks of a majority, or in the bucket (PS-1), and whether
//! what is in the bucket was asked for there (I5).

use std::collections::{BTreeMap, BTreeSet};

use railgun_core::manifest::ShardManifest;
use railgun_types::{Offset, ShardId, StreamUid};

use super::super::history::{History, MessageId};
use super::local::{Appends, Told};

/// `told`: by each node's durable logs. So many must have each message.
pub(super) fn check(
    history: &History,
    acked: &[(StreamUid, Offset, MessageId)],
    in_bucket: &BTreeSet<MessageId>,
    told: &[BTreeMap<ShardId, Told>],
    least: usize,
) {
    if let Some(((stream, offset, id), copies)) = has_few(acked, in_bucket, told, least) {
        let how = format_args!(
            "message {id}, acked at offset {offset} of {stream}, is on {copies} disks of {}, and not in \
             the bucket behind a manifest",
            told.len()
        );
        history.violated("PS-1", how);
    }
}

/// A message that is not in the bucket and on fewer disks than this, with their number.
pub(super) fn has_few(
    acked: &[(StreamUid, Offset, MessageId)],
    in_bucket: &BTreeSet<MessageId>,
    told: &[BTreeMap<ShardId, Told>],
    least: usize,
) -> Option<((StreamUid, Offset, MessageId), usize)> {
    let mut copies: BTreeMap<MessageId, BTreeSet<usize>> = BTreeMap::new();
    for (node, told) in told.iter().enumerate() {
        for id in told.values().flat_map(|told| &told.appends).flat_map(|entry| &entry.messages) {
            copies.entry(*id).or_default().insert(node);
        }
    }
    let copies = |id: &MessageId| copies.get(id).map_or(0, BTreeSet::len);
    let is_few = |(_, _, id): &&(StreamUid, Offset, MessageId)| {
        !in_bucket.contains(id) && copies(id) < least
    };
    acked.iter().find(is_few).map(|message| (*message, copies(&message.2)))
}

/// The log of a shard that could win any election: it has all that was ever acked, and where each message
/// was accepted.
pub(super) fn newest(shard: ShardId, told: &[BTreeMap<ShardId, Told>]) -> Option<&Told> {
    told.iter().filter_map(|told| told.get(&shard)).max_by_key(|told| told.last)
}

/// The entries with each message only where it was sent last: when leaders change, one that overtook
/// another is refused, and sent again. What was refused holds up nothing.
pub(super) fn as_sent_last(appends: &[Appends]) -> Vec<Appends> {
    let mut later = BTreeSet::new();
    let entry = |entry: &Appends| {
        let messages = entry.messages.iter().copied().filter(|id| later.insert(*id)).collect();
        Appends { messages, ..*entry }
    };
    let mut sent: Vec<_> = appends.iter().rev().map(entry).collect();
    sent.reverse();
    sent
}

/// What was acked and is not in the bucket lies above what any replica has given up (I11).
pub(super) fn check_floors(
    history: &History,
    acked: &[(StreamUid, Offset, MessageId)],
    in_bucket: &BTreeSet<MessageId>,
    told: &[BTreeMap<ShardId, Told>],
) {
    // Sent again, a message may be in several entries, one of which counts.
    let mut entries: BTreeMap<MessageId, (ShardId, u64)> = BTreeMap::new();
    for (&shard, told) in told.iter().flatten() {
        for entry in &told.appends {
            for id in &entry.messages {
                let last = entries.entry(*id).or_insert((shard, entry.index));
                last.1 = last.1.max(entry.index);
            }
        }
    }
    for (stream, offset, id) in acked.iter().filter(|(_, _, id)| !in_bucket.contains(id)) {
        let Some(&(shard, index)) = entries.get(id) else { continue };
        let purged = |told: &BTreeMap<ShardId, Told>| told.get(&shard).and_then(|told| told.purged);
        let gone = told.iter().position(|told| purged(told).is_some_and(|purged| purged >= index));
        if let Some(node) = gone {
            let how = format_args!(
                "node {} has given up entry {index} of shard {shard} with message {id}, acked at offset \
                 {offset} of {stream}, which is not in the bucket behind a manifest",
                node + 1
            );
            return history.violated("I11", how);
        }
    }
}

/// Every object of the manifest is one that a seal asked for, in the seal's term: what a majority of the
/// logs has is committed, and no log has another entry in the place of a committed one for long.
pub(super) fn check_seals(
    history: &History,
    manifest: &ShardManifest,
    told: &[BTreeMap<ShardId, Told>],
) {
    let majority = told.len() / 2 + 1;
    for (object, info) in &manifest.objects {
        let entries = told.iter().filter_map(|told| told.get(&manifest.shard));
        let entries = entries.filter_map(|told| told.seals.get(&object.seal_index));
        let others = entries.filter(|seal| **seal != Some(info.term)).count();
        if others >= majority {
            let (seal, shard, term) = (object.seal_index, manifest.shard, info.term);
            let how = format_args!(
                "object {seal}.{} of shard {shard} is of term {term}, and {others} logs have \
                 something else there than its seal",
                object.part
            );
            history.violated("I5", how);
        }
    }
}
