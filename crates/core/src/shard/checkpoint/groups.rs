//! The section of a shard's consumer groups.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use railgun_types::limits::GROUPS_PER_SHARD;
use railgun_types::{
    ByteCursor, EntryId, GroupId, GroupName, GroupSpec, Malformed, StreamUid, Timestamp, put_varint,
};

use super::super::ensure::Revisions;
use super::super::{Group, Stream};
use super::{changes, put_change};
use crate::codec::{self, map, narrow, put_list, put_narrow};
use crate::group::GroupState;

/// Fewest bytes of a group.
const GROUP_BYTES_MIN: usize = 54;

type Groups = BTreeMap<GroupId, Group>;
type Names = BTreeMap<StreamUid, BTreeMap<GroupName, GroupId>>;

pub(super) fn put_group(out: &mut BytesMut, (_, group): (&GroupId, &Group)) {
    let Group { id, stream, name, spec, revisions, created, state } = group;
    let GroupSpec {
        mode,
        ack_wait_ms,
        max_in_flight,
        max_in_flight_bytes,
        max_unsettled,
        window,
        backoff_ms,
        pin_retention,
        owner,
        dlq,
    } = spec;
    put_varint(out, id.0);
    out.put_slice(&stream.0);
    codec::put_text(out, name.as_str());
    out.put_u8(*mode as u8);
    put_varint(out, *ack_wait_ms);
    put_narrow(out, *max_in_flight);
    put_varint(out, *max_in_flight_bytes);
    put_narrow(out, *max_unsettled);
    put_varint(out, *window);
    codec::put_backoff(out, backoff_ms);
    codec::put_bool(out, *pin_retention);
    codec::put_text(out, owner);
    codec::put_dlq(out, dlq);
    put_varint(out, revisions.current);
    out.put_i64_le(created.0);
    put_list(out, revisions.changes.iter(), put_change);
    state.encode(out);
}

fn group(cursor: &mut ByteCursor<'_>) -> Result<(GroupId, Group), Malformed> {
    let id = GroupId(cursor.varint()?);
    let stream = StreamUid(cursor.array()?);
    let name = codec::group_name(cursor)?;
    let spec = GroupSpec {
        mode: codec::group_mode(cursor)?,
        ack_wait_ms: cursor.varint()?,
        max_in_flight: narrow(cursor)?,
        max_in_flight_bytes: cursor.varint()?,
        max_unsettled: narrow(cursor)?,
        window: cursor.varint()?,
        backoff_ms: codec::backoff(cursor)?,
        pin_retention: codec::bool(cursor)?,
        owner: codec::text(cursor)?,
        dlq: codec::dlq(cursor)?,
    };
    let (revision, created) = (cursor.varint()?, Timestamp(cursor.i64()?));
    let revisions = Revisions { current: revision, changes: changes(cursor, revision)? };
    let state = GroupState::decode(cursor)?;
    Ok((id, Group { id, stream, name, spec, revisions, created, state }))
}

/// Groups of streams that are there, each made by an entry that is applied, and their names.
pub(super) fn groups(
    cursor: &mut ByteCursor<'_>,
    applied: Option<EntryId>,
    streams: &BTreeMap<StreamUid, Stream>,
) -> Result<(Groups, Names), Malformed> {
    let groups: Groups = map(cursor, GROUP_BYTES_MIN, group)?;
    let newest = groups.last_key_value().map(|(id, _)| id.0);
    if groups.len() > GROUPS_PER_SHARD || newest > applied.map(|applied| applied.index) {
        return Err(Malformed);
    }
    let mut names = Names::new();
    for (id, Group { stream, name, .. }) in &groups {
        if streams.get(stream).is_none_or(|stream| stream.deleted) {
            return Err(Malformed);
        }
        if names.entry(*stream).or_default().insert(name.clone(), *id).is_some() {
            return Err(Malformed);
        }
    }
    Ok((groups, names))
}
