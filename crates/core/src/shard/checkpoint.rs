//! A shard's replicated state as bytes. The frame is in [`crate::checkpoint`].
//!
//! ```text
//! streams      = map of: uid 16 │ name │ kind u8 │ most message bytes v │ owner │ dlq │ dedup │ revision v
//!                │ created i64 │ deleted u8 │ next offset v │ last ts i64 │ record bytes v
//!                │ open? u8 [range] │ closed: list of range │ list of change │ parent? u8 [16]
//! dlq          = enabled u8 │ most attempts v │ most distance v │ most age v │ least attempts v
//! dedup        = window v (ms) │ ids required u8 │ most ids v │ full u8
//! change       = request 16 │ sum of its wish u32 │ revision v │ update? u8 [list of diff]
//! diff         = path │ actual │ wanted │ class u8
//! range        = base v │ count v │ record bytes v │ day z │ since i64 │ first log index v
//! producers    = map of: stream 16 │ id 16 │ epoch v │ next v │ used i64 │ list of result
//! result       = sequence z │ count v │ taken v │ base z │ ts z │ kind u8 [0 all added │ 1 verdicts
//!                │ 2 lost]; verdicts as in an outcome
//! ids          = map of: stream 16 │ forgotten v │ evicted v │ evicted ts? u8 [i64]
//!                │ list of slice, each a list of: hash 16 │ offset u64 │ ts i64 │ payload hash u64
//! manifest     = map of: uid 16 │ name │ created i64 │ deleted u8 │ digest 32 │ list of cold range
//!                │ map of: object │ kind u8 [0 segment: stream 16, base v, last v │ 1 bundle] │ day z
//!                  │ term v │ attempt v │ hash 8 │ bytes v │ footer bytes v │ live parts v
//! cold range   = base z │ count v │ min ts z │ max ts z │ record bytes v │ object
//!                │ first row group v │ first row v
//! object       = seal index v │ part v
//! manifest log = newest? u8 [log index v │ term v] │ deltas v
//!                │ map of: uid 16 │ kept v │ changed at v │ map of: object │ changed at v
//! offload      = map of: object │ term v │ day z │ segment u8 │ list of: stream 16 │ range
//!                  │ attempt? u8 [index v │ hash 8]
//!                │ unmirrored, list of: commit v │ first log index v
//!                │ orphans, map of: attempt v │ object │ as in the manifest │ name │ over at v
//! groups       = map of: id v │ stream 16 │ name │ settings │ revision v │ created i64 │ list of change
//!                │ state, as in `group::checkpoint`
//! settings     = mode u8 │ ack wait v │ most in flight v │ most bytes v │ most unsettled v │ window v
//!                │ back-off: list of v │ pin u8 │ owner │ dlq
//! ```
//!
//! Texts are a length v and bytes. Sequences, bases and times in a list are differences: a result's
//! to what follows the one before (`sequence + taken`, `base + taken`, `ts`; the first: 0, 0, `used`),
//! a cold range's to the end of the one before (the first: 0, 0), its max ts to its min ts.
//!
//! What follows from other parts is not stored but made anew: the floor's holds and the waiting bytes
//! from the ranges, the order of eviction from the producers' uses and the tombstones' last ts, which
//! is that of their deletion, the names of groups and the companions of streams. So it cannot disagree
//! with them.

mod groups;
mod ids;
mod index;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use railgun_types::limits::PRODUCER_WINDOW;
use railgun_types::{
    ByteCursor, ClusterUid, Malformed, Offset, ProducerId, RequestId, ShardId, StreamSpec,
    StreamUid, Timestamp, put_varint, unzigzag, zigzag,
};

use super::ensure::{CHANGES_REMEMBERED, Change, Revisions};
use super::manifest_log::{ManifestLog, StreamDirt};
use super::offload::{Attempt, Floor, HotRange, PlannedObject, PlannedRange};
use super::orphans::{ORPHANS_MAX, Orphan};
use super::outcome::{DIFF_BYTES_MIN, diff, put_diff, put_verdicts, verdicts};
use super::producers::{Producer, ProducerKey, Producers, StoredResult, StoredVerdicts};
use super::{HotIndex, SEGMENT_BYTES_MIN, ShardState, Stream, Waiting};
use crate::builtin_bug::Planted;
use crate::checkpoint::{
    CheckpointError, CheckpointReader, CheckpointWriter, Header, Section, Unwritten,
};
use crate::codec::{self, list, map, narrow, put_list, put_varints};
use crate::manifest::{
    ColdRange, ManifestVersion, ObjectId, ObjectInfo, ObjectKind, SegmentKind, ShardManifest,
    StreamManifest,
};

/// Fewest bytes of each item of a list.
mod bytes_min {
    pub(super) const STREAM: usize = 54;
    pub(super) const CHANGE: usize = 22;
    pub(super) const RANGE: usize = 13;
    pub(super) const PRODUCER: usize = 43;
    pub(super) const RESULT: usize = 6;
    pub(super) const STREAM_MANIFEST: usize = 60;
    pub(super) const COLD_RANGE: usize = 9;
    pub(super) const OBJECT: usize = 17;
    pub(super) const STREAM_DIRT: usize = 18;
    pub(super) const OBJECT_DIRT: usize = 3;
    pub(super) const PLAN: usize = 7;
    pub(super) const PLANNED_RANGE: usize = 16 + RANGE;
    pub(super) const UNMIRRORED: usize = 2;
    pub(super) const ORPHAN: usize = 1 + OBJECT + 2;
}

const SEGMENT: u8 = 0;
const BUNDLE: u8 = 1;

const ALL_ADDED: u8 = 0;
const KEPT: u8 = 1;
const LOST: u8 = 2;

/// What a checkpoint of a shard holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The state. Where the checkpoint has no index, no batch up to the last entry applied is found
    /// in [`Stream::index`].
    pub state: ShardState,
    /// What `encode_checkpoint` was given.
    pub membership: Bytes,
}

impl ShardState {
    /// The state as bytes; `membership` is opaque. Equal states give equal bytes. The ids that streams hold,
    /// which may be many, are encoded by whoever asks for the bytes: until then they are shared.
    ///
    /// The index tells where in *this* replica's log the batches are: a checkpoint for this replica's
    /// own restart has it, a snapshot for another replica must not.
    pub fn encode_checkpoint(&self, membership: &[u8], with_index: bool) -> Unwritten {
        // Named one by one here and below, so that a new field cannot be forgotten.
        let Self {
            log_time,
            applied,
            streams,
            tombstones: _,
            producers,
            groups,
            group_names: _,
            companions: _,
            dedup,
            manifest,
            manifest_log,
            plans,
            orphans,
            floor: Floor { holds: _, unmirrored },
            waiting: _,
            // Of this node's version, not of the state.
            segment_bytes_min: _,
            planted: _,
        } = self;
        let ShardManifest { cluster, shard, streams: cold, objects } = manifest;
        let mut writer = CheckpointWriter::new(&Header {
            shard: *shard,
            cluster: Some(*cluster),
            applied: *applied,
            log_time: *log_time,
            has_index: with_index,
            membership,
        });
        writer.section(Section::Streams, |out| put_list(out, streams.iter(), put_stream));
        writer.section(Section::Producers, |out| {
            let Producers { states, by_use: _, duplicates: _ } = producers;
            put_list(out, states.iter(), put_producer);
        });
        writer.section(Section::Manifest, |out| {
            put_list(out, cold.iter(), put_stream_manifest);
            put_list(out, objects.iter(), put_object);
        });
        writer.section(Section::ManifestLog, |out| put_manifest_log(out, manifest_log));
        writer.section(Section::Offload, |out| {
            put_list(out, plans.iter(), put_plan);
            put_list(out, unmirrored.iter(), |out, (commit, first)| {
                put_varint(out, *commit);
                put_varint(out, *first);
            });
            put_list(out, orphans.iter(), put_orphan);
        });
        writer.section(Section::Groups, |out| put_list(out, groups.iter(), groups::put_group));
        let windows = dedup.windows.clone();
        writer.section_later(Section::Ids, move |out| ids::encode_ids(out, &windows));
        if with_index {
            writer.section(Section::Index, |out| index::encode_index(out, streams));
        }
        writer.finish()
    }

    /// Reads a checkpoint of this shard of this cluster.
    ///
    /// # Errors
    /// [`CheckpointError`]; never panics, never allocates more than a small multiple of `bytes`.
    pub fn decode_checkpoint(
        cluster: ClusterUid,
        shard: ShardId,
        bytes: &[u8],
    ) -> Result<Restored, CheckpointError> {
        let (header, mut reader) = CheckpointReader::new(bytes)?;
        header.check_owner(Some(cluster), shard)?;
        let Header { applied, log_time, .. } = header;
        let mut streams =
            reader.section(Section::Streams, |cursor| map(cursor, bytes_min::STREAM, stream))?;
        let states = reader
            .section(Section::Producers, |cursor| map(cursor, bytes_min::PRODUCER, producer))?;
        let by_use = states.iter().map(|(key, producer)| ((producer.used, *key), ())).collect();
        let manifest = reader.section(Section::Manifest, |cursor| {
            let streams = map(cursor, bytes_min::STREAM_MANIFEST, stream_manifest)?;
            let objects = map(cursor, bytes_min::OBJECT, object)?;
            Ok(ShardManifest { cluster, shard, streams, objects })
        })?;
        let manifest_log = reader.section(Section::ManifestLog, manifest_log)?;
        let (plans, orphans, floor, waiting) = reader.section(Section::Offload, |cursor| {
            let plans = map(cursor, bytes_min::PLAN, plan)?;
            let unmirrored = unmirrored(cursor)?;
            let (floor, waiting) = account(&streams, &plans, unmirrored).ok_or(Malformed)?;
            let orphans = map(cursor, bytes_min::ORPHAN, orphan)?;
            check_orphans(&orphans, &plans, &manifest)?;
            Ok((plans, orphans, floor, waiting))
        })?;
        let (groups, group_names) =
            reader.section(Section::Groups, |cursor| groups::groups(cursor, applied, &streams))?;
        let dedup =
            reader.section(Section::Ids, |cursor| ids::decode_ids(cursor, log_time, &streams))?;
        if header.has_index {
            let applied = applied.map(|applied| applied.index);
            reader.section(Section::Index, |cursor| {
                index::decode_index(cursor, applied, &mut streams)
            })?;
        }
        reader.finish()?;
        let duplicates = states.values().map(Producer::duplicates).sum();
        let producers = Producers { states, by_use, duplicates };
        let deleted = streams.iter().filter(|(_, stream)| stream.deleted);
        let tombstones = deleted.map(|(uid, stream)| (stream.last_ts, *uid)).collect();
        let there = streams.iter().filter(|(_, stream)| !stream.deleted);
        let companions = there.filter_map(|(uid, stream)| Some((stream.parent?, *uid))).collect();
        Ok(Restored {
            state: Self {
                log_time,
                applied,
                streams,
                tombstones,
                producers,
                groups,
                group_names,
                companions,
                dedup,
                manifest,
                manifest_log,
                plans,
                orphans,
                floor,
                waiting,
                segment_bytes_min: SEGMENT_BYTES_MIN,
                planted: Planted::default(),
            },
            membership: Bytes::copy_from_slice(header.membership),
        })
    }
}

/// The floor and the waiting bytes that follow from the ranges; `None` if the sums overflow.
fn account(
    streams: &BTreeMap<StreamUid, Stream>,
    plans: &BTreeMap<ObjectId, PlannedObject>,
    unmirrored: VecDeque<(u64, u64)>,
) -> Option<(Floor, Waiting)> {
    let (mut floor, mut waiting) = (Floor::default(), Waiting::default());
    let mut hold = |range: &HotRange, bytes: &mut u64| {
        floor.hold(range.first_log_index);
        *bytes = bytes.checked_add(range.record_bytes)?;
        Some(())
    };
    for stream in streams.values() {
        if let Some(open) = stream.open() {
            hold(open, &mut waiting.open)?;
        }
        stream.closed().iter().try_for_each(|range| hold(range, &mut waiting.closed))?;
    }
    for planned in plans.values().flat_map(|plan| &plan.ranges) {
        hold(&planned.range, &mut waiting.planned)?;
    }
    unmirrored.iter().for_each(|(_, first_log_index)| floor.hold(*first_log_index));
    floor.unmirrored = unmirrored;
    Some((floor, waiting))
}

fn put_stream(out: &mut BytesMut, (uid, stream): (&StreamUid, &Stream)) {
    let Stream {
        name,
        spec,
        revisions: Revisions { current: revision, changes },
        created,
        deleted,
        next,
        last_ts,
        record_bytes,
        index: _,
        open,
        closed,
        parent,
    } = stream;
    let StreamSpec { kind, max_message_bytes, owner, dlq, dedup } = spec;
    out.put_slice(&uid.0);
    codec::put_text(out, name.as_str());
    out.put_u8(*kind as u8);
    put_varint(out, u64::from(*max_message_bytes));
    codec::put_text(out, owner);
    codec::put_dlq(out, dlq);
    codec::put_dedup(out, dedup);
    put_varint(out, *revision);
    out.put_i64_le(created.0);
    codec::put_bool(out, *deleted);
    put_varint(out, next.0);
    out.put_i64_le(last_ts.0);
    put_varint(out, *record_bytes);
    codec::put_option(out, open.as_ref(), put_range);
    put_list(out, closed.iter(), put_range);
    put_list(out, changes.iter(), put_change);
    codec::put_option(out, *parent, |out, parent| out.put_slice(&parent.0));
}

fn put_change(out: &mut BytesMut, change: &Change) {
    let Change { request, wish, revision, diff } = change;
    out.put_slice(&request.0);
    out.put_u32_le(*wish);
    put_varint(out, *revision);
    codec::put_option(out, diff.as_ref(), |out, diff| put_list(out, diff.iter(), put_diff));
}

fn stream(cursor: &mut ByteCursor<'_>) -> Result<(StreamUid, Stream), Malformed> {
    let uid = StreamUid(cursor.array()?);
    let name = codec::any_name(cursor)?;
    let spec = StreamSpec {
        kind: codec::kind(cursor)?,
        max_message_bytes: narrow(cursor)?,
        owner: codec::text(cursor)?,
        dlq: codec::dlq(cursor)?,
        dedup: codec::dedup(cursor)?,
    };
    let (revision, created) = (cursor.varint()?, Timestamp(cursor.i64()?));
    let deleted = codec::bool(cursor)?;
    let (next, last_ts) = (Offset(cursor.varint()?), Timestamp(cursor.i64()?));
    let record_bytes = cursor.varint()?;
    let open = codec::option(cursor, range)?;
    let closed = list(cursor, bytes_min::RANGE, range)?;
    let revisions = Revisions { current: revision, changes: changes(cursor, revision)? };
    let parent = codec::option(cursor, ByteCursor::array)?.map(StreamUid);
    if parent.is_some() != name.is_companion() {
        return Err(Malformed);
    }
    let index = HotIndex::default();
    let stream = Stream {
        name,
        spec,
        revisions,
        created,
        deleted,
        next,
        last_ts,
        record_bytes,
        index,
        open,
        closed,
        parent,
    };
    Ok((uid, stream))
}

/// The last changes of something that is at this revision.
fn changes(cursor: &mut ByteCursor<'_>, revision: u64) -> Result<VecDeque<Change>, Malformed> {
    let changes = list(cursor, bytes_min::CHANGE, change)?;
    if changes.len() > CHANGES_REMEMBERED || changes.iter().any(|it| it.revision > revision) {
        return Err(Malformed);
    }
    Ok(changes.into())
}

fn change(cursor: &mut ByteCursor<'_>) -> Result<Change, Malformed> {
    let diffs = |cursor: &mut ByteCursor<'_>| list(cursor, DIFF_BYTES_MIN, diff);
    Ok(Change {
        request: RequestId(cursor.array()?),
        wish: cursor.u32()?,
        revision: cursor.varint()?,
        diff: codec::option(cursor, diffs)?,
    })
}

fn put_range(out: &mut BytesMut, range: &HotRange) {
    let HotRange { base, end, record_bytes, day, since, first_log_index } = range;
    put_varint(out, base.0);
    put_varint(out, end.0.wrapping_sub(base.0));
    put_varint(out, *record_bytes);
    put_varint(out, zigzag(*day));
    out.put_i64_le(since.0);
    put_varint(out, *first_log_index);
}

fn range(cursor: &mut ByteCursor<'_>) -> Result<HotRange, Malformed> {
    let base = cursor.varint()?;
    Ok(HotRange {
        base: Offset(base),
        end: Offset(base.checked_add(cursor.varint()?).ok_or(Malformed)?),
        record_bytes: cursor.varint()?,
        day: unzigzag(cursor.varint()?),
        since: Timestamp(cursor.i64()?),
        first_log_index: cursor.varint()?,
    })
}

/// What a value is above the one expected by rule: small, so short. Total, because it wraps.
fn above(value: u64, expected: u64) -> u64 {
    zigzag(value.wrapping_sub(expected) as i64)
}

fn after(ts: Timestamp, earlier: Timestamp) -> u64 {
    above(ts.0 as u64, earlier.0 as u64)
}

fn difference(cursor: &mut ByteCursor<'_>, expected: u64) -> Result<u64, Malformed> {
    Ok(expected.wrapping_add(unzigzag(cursor.varint()?) as u64))
}

fn later(cursor: &mut ByteCursor<'_>, earlier: Timestamp) -> Result<Timestamp, Malformed> {
    Ok(Timestamp(difference(cursor, earlier.0 as u64)? as i64))
}

fn put_producer(out: &mut BytesMut, (key, producer): (&ProducerKey, &Producer)) {
    let Producer { epoch, next, used, results } = producer;
    out.put_slice(&key.0.0);
    out.put_slice(&key.1.0);
    put_varint(out, u64::from(*epoch));
    put_varint(out, *next);
    out.put_i64_le(used.0);
    let mut expected = (0, 0, *used);
    put_list(out, results.iter(), |out, result| {
        let StoredResult { sequence, count, taken, base, ts, verdicts } = result;
        let (sequence_before, base_before, ts_before) = expected;
        let (count, taken) = (u64::from(*count), u64::from(*taken));
        put_varints(out, [above(*sequence, sequence_before), count, taken]);
        put_varints(out, [above(base.0, base_before), after(*ts, ts_before)]);
        match verdicts {
            StoredVerdicts::AllAdded => out.put_u8(ALL_ADDED),
            StoredVerdicts::Kept(verdicts) => {
                out.put_u8(KEPT);
                put_verdicts(out, verdicts);
            }
            StoredVerdicts::Lost => out.put_u8(LOST),
        }
        expected = (sequence.wrapping_add(taken), base.0.wrapping_add(taken), *ts);
    });
}

fn producer(cursor: &mut ByteCursor<'_>) -> Result<(ProducerKey, Producer), Malformed> {
    let key = (StreamUid(cursor.array()?), ProducerId(cursor.array()?));
    let epoch = narrow(cursor)?;
    let next = cursor.varint()?;
    let used = Timestamp(cursor.i64()?);
    let mut expected = (0, 0, used);
    let results = list(cursor, bytes_min::RESULT, |cursor| {
        let (sequence_before, base_before, ts_before) = expected;
        let sequence = difference(cursor, sequence_before)?;
        let (count, taken) = (narrow(cursor)?, narrow(cursor)?);
        let base = Offset(difference(cursor, base_before)?);
        let ts = later(cursor, ts_before)?;
        let verdicts = match cursor.u8()? {
            ALL_ADDED => StoredVerdicts::AllAdded,
            KEPT => StoredVerdicts::Kept(Arc::new(verdicts(cursor)?)),
            LOST => StoredVerdicts::Lost,
            _ => return Err(Malformed),
        };
        let passed = u64::from(taken);
        expected = (sequence.wrapping_add(passed), base.0.wrapping_add(passed), ts);
        Ok(StoredResult { sequence, count, taken, base, ts, verdicts })
    })?;
    if results.len() > PRODUCER_WINDOW {
        return Err(Malformed);
    }
    Ok((key, Producer { epoch, next, used, results: results.into() }))
}

fn put_stream_manifest(out: &mut BytesMut, (uid, stream): (&StreamUid, &StreamManifest)) {
    let StreamManifest { name, created, deleted, ranges, digest } = stream;
    out.put_slice(&uid.0);
    codec::put_text(out, name.as_str());
    out.put_i64_le(created.0);
    codec::put_bool(out, *deleted);
    out.put_slice(digest);
    let (mut end, mut last_ts) = (0, Timestamp(0));
    put_list(out, ranges.iter(), |out, range| {
        let ColdRange {
            base,
            count,
            min_ts,
            max_ts,
            record_bytes,
            object,
            first_row_group,
            first_row,
        } = range;
        let (min_after, max_after) = (after(*min_ts, last_ts), after(*max_ts, *min_ts));
        put_varints(out, [above(base.0, end), *count, min_after, max_after, *record_bytes]);
        put_object_id(out, *object);
        put_varints(out, [u64::from(*first_row_group), *first_row]);
        (end, last_ts) = (range.end().0, *max_ts);
    });
}

fn stream_manifest(cursor: &mut ByteCursor<'_>) -> Result<(StreamUid, StreamManifest), Malformed> {
    let uid = StreamUid(cursor.array()?);
    let name = codec::any_name(cursor)?;
    let created = Timestamp(cursor.i64()?);
    let deleted = codec::bool(cursor)?;
    let digest = cursor.array()?;
    let (mut end, mut last_ts) = (0, Timestamp(0));
    let ranges = list(cursor, bytes_min::COLD_RANGE, |cursor| {
        let base = Offset(difference(cursor, end)?);
        let count = cursor.varint()?;
        let min_ts = later(cursor, last_ts)?;
        let range = ColdRange {
            base,
            count,
            min_ts,
            max_ts: later(cursor, min_ts)?,
            record_bytes: cursor.varint()?,
            object: object_id(cursor)?,
            first_row_group: narrow(cursor)?,
            first_row: cursor.varint()?,
        };
        (end, last_ts) = (range.end().0, range.max_ts);
        Ok(range)
    })?;
    Ok((uid, StreamManifest { name, created, deleted, ranges, digest }))
}

fn put_object_id(out: &mut BytesMut, id: ObjectId) {
    put_varint(out, id.seal_index);
    put_varint(out, u64::from(id.part));
}

fn object_id(cursor: &mut ByteCursor<'_>) -> Result<ObjectId, Malformed> {
    Ok(ObjectId { seal_index: cursor.varint()?, part: narrow(cursor)? })
}

fn put_object(out: &mut BytesMut, (id, object): (&ObjectId, &ObjectInfo)) {
    let ObjectInfo { kind, day, term, attempt, hash, bytes, footer_bytes, live_parts } = object;
    put_object_id(out, *id);
    match kind {
        ObjectKind::Segment { stream, base, last } => {
            out.put_u8(SEGMENT);
            out.put_slice(&stream.0);
            put_varint(out, base.0);
            put_varint(out, last.0);
        }
        ObjectKind::Bundle => out.put_u8(BUNDLE),
    }
    put_varint(out, zigzag(*day));
    put_varint(out, *term);
    put_varint(out, *attempt);
    out.put_slice(hash);
    put_varint(out, *bytes);
    put_varint(out, u64::from(*footer_bytes));
    put_varint(out, u64::from(*live_parts));
}

fn object(cursor: &mut ByteCursor<'_>) -> Result<(ObjectId, ObjectInfo), Malformed> {
    let id = object_id(cursor)?;
    let kind = match cursor.u8()? {
        SEGMENT => ObjectKind::Segment {
            stream: StreamUid(cursor.array()?),
            base: Offset(cursor.varint()?),
            last: Offset(cursor.varint()?),
        },
        BUNDLE => ObjectKind::Bundle,
        _ => return Err(Malformed),
    };
    let info = ObjectInfo {
        kind,
        day: unzigzag(cursor.varint()?),
        term: cursor.varint()?,
        attempt: cursor.varint()?,
        hash: cursor.array()?,
        bytes: cursor.varint()?,
        footer_bytes: narrow(cursor)?,
        live_parts: narrow(cursor)?,
    };
    Ok((id, info))
}

fn put_manifest_log(out: &mut BytesMut, log: &ManifestLog) {
    let ManifestLog { newest, deltas, streams, objects } = log;
    codec::put_option(out, *newest, |out, newest| {
        put_varint(out, newest.log_index);
        put_varint(out, newest.term);
    });
    put_varint(out, u64::from(*deltas));
    put_list(out, streams.iter(), |out, (uid, dirt)| {
        let StreamDirt { kept, changed_at } = dirt;
        out.put_slice(&uid.0);
        put_varint(out, *kept);
        put_varint(out, *changed_at);
    });
    put_list(out, objects.iter(), |out, (id, changed_at)| {
        put_object_id(out, *id);
        put_varint(out, *changed_at);
    });
}

fn manifest_log(cursor: &mut ByteCursor<'_>) -> Result<ManifestLog, Malformed> {
    Ok(ManifestLog {
        newest: codec::option(cursor, |cursor| {
            Ok(ManifestVersion { log_index: cursor.varint()?, term: cursor.varint()? })
        })?,
        deltas: narrow(cursor)?,
        streams: map(cursor, bytes_min::STREAM_DIRT, |cursor| {
            let uid = StreamUid(cursor.array()?);
            Ok((uid, StreamDirt { kept: cursor.varint()?, changed_at: cursor.varint()? }))
        })?,
        objects: map(cursor, bytes_min::OBJECT_DIRT, |cursor| {
            Ok((object_id(cursor)?, cursor.varint()?))
        })?,
    })
}

fn put_plan(out: &mut BytesMut, (id, plan): (&ObjectId, &PlannedObject)) {
    let PlannedObject { term, day, kind, ranges, attempt } = plan;
    put_object_id(out, *id);
    put_varint(out, *term);
    put_varint(out, zigzag(*day));
    codec::put_bool(out, *kind == SegmentKind::Segment);
    put_list(out, ranges.iter(), |out, PlannedRange { stream, range }| {
        out.put_slice(&stream.0);
        put_range(out, range);
    });
    codec::put_option(out, *attempt, |out, Attempt { index, hash }| {
        put_varint(out, index);
        out.put_slice(&hash);
    });
}

fn plan(cursor: &mut ByteCursor<'_>) -> Result<(ObjectId, PlannedObject), Malformed> {
    let id = object_id(cursor)?;
    let plan = PlannedObject {
        term: cursor.varint()?,
        day: unzigzag(cursor.varint()?),
        kind: if codec::bool(cursor)? { SegmentKind::Segment } else { SegmentKind::Bundle },
        ranges: list(cursor, bytes_min::PLANNED_RANGE, |cursor| {
            Ok(PlannedRange { stream: StreamUid(cursor.array()?), range: range(cursor)? })
        })?,
        attempt: codec::option(cursor, |cursor| {
            Ok(Attempt { index: cursor.varint()?, hash: cursor.array()? })
        })?,
    };
    Ok((id, plan))
}

fn put_orphan(out: &mut BytesMut, (attempt, orphan): (&u64, &Orphan)) {
    let Orphan { object, info, name, over_at } = orphan;
    put_varint(out, *attempt);
    put_object(out, (object, info));
    codec::put_text(out, name.as_str());
    put_varint(out, *over_at);
}

fn orphan(cursor: &mut ByteCursor<'_>) -> Result<(u64, Orphan), Malformed> {
    let attempt = cursor.varint()?;
    let (object, info) = object(cursor)?;
    let (name, over_at) = (codec::any_name(cursor)?, cursor.varint()?);
    if info.attempt != attempt {
        return Err(Malformed);
    }
    Ok((attempt, Orphan { object, info, name, over_at }))
}

/// An orphan is deleted: none may be what a manifest names, or will.
fn check_orphans(
    orphans: &BTreeMap<u64, Orphan>,
    plans: &BTreeMap<ObjectId, PlannedObject>,
    manifest: &ShardManifest,
) -> Result<(), Malformed> {
    let committed = manifest.objects.values().map(|info| info.attempt);
    let under_way = plans.values().filter_map(|plan| Some(plan.attempt?.index));
    let is_wanted = committed.chain(under_way).any(|attempt| orphans.contains_key(&attempt));
    if is_wanted || orphans.len() > ORPHANS_MAX { Err(Malformed) } else { Ok(()) }
}

/// In the order of their commits, which is the order in which mirrors release them.
fn unmirrored(cursor: &mut ByteCursor<'_>) -> Result<VecDeque<(u64, u64)>, Malformed> {
    let pair = |cursor: &mut ByteCursor<'_>| Ok((cursor.varint()?, cursor.varint()?));
    let pairs = list(cursor, bytes_min::UNMIRRORED, pair)?;
    if pairs.is_sorted_by_key(|(commit, _)| *commit) { Ok(pairs.into()) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests;
