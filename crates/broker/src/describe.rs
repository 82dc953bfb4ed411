//! What there is to tell about streams, between nodes and to clients: their shards know it.

use std::collections::BTreeMap;

use bytes::Bytes;
use railgun_core::shard::DedupFigures;
use railgun_proto::convert::{InvalidMessage, Uid};
use railgun_proto::{WireError, v1};
use railgun_raft::PeerError;
use railgun_types::{
    ErrorCode, GroupName, Offset, ShardId, StreamName, StreamSpec, StreamUid, Timestamp,
};

use crate::on_node::LocalReplica;
use crate::routing::Routing;
use crate::shard::StreamFacts;
use crate::wire_error::stopping;

/// Streams of one call: their descriptions fit into its answer.
const DESCRIBED_MAX: usize = 128;

/// As clients and other nodes are told.
pub(crate) fn description(
    stream: StreamUid,
    shard: ShardId,
    facts: &StreamFacts,
) -> v1::StreamDescription {
    v1::StreamDescription {
        name: facts.name.to_string(),
        stream_uid: stream.to_wire(),
        spec: Some((&facts.spec).into()),
        revision: facts.revision,
        shard: shard.0,
        created_us: facts.created.0,
        head: 0,
        next_offset: facts.next.0,
        record_bytes: facts.record_bytes,
        cold_end: facts.cold_end.0,
        pending_bytes: facts.pending_bytes,
        pending_since_us: facts.pending_since.map_or(0, |ts| ts.0),
        last_ts_us: facts.last_ts.0,
        cold_ranges: facts.cold_ranges,
        offload_error: facts.offload_error.clone().unwrap_or_default(),
        dedup_ids: facts.dedup.ids,
        dedup_effective_window_ms: facts.dedup.effective_window_ms,
        dedup_evicted: facts.dedup.evicted,
    }
}

/// The reverse.
fn facts(told: v1::StreamDescription) -> Result<(StreamUid, Box<StreamFacts>), WireError> {
    let name = StreamName::parse_any(&told.name)
        .map_err(|error| WireError::new(ErrorCode::InvalidName, error.to_string()))?;
    let stream = StreamUid::from_wire("stream_uid", &told.stream_uid)?;
    let facts = StreamFacts {
        name,
        spec: StreamSpec::try_from(told.spec.unwrap_or_default())?,
        revision: told.revision,
        created: Timestamp(told.created_us),
        next: Offset(told.next_offset),
        last_ts: Timestamp(told.last_ts_us),
        record_bytes: told.record_bytes,
        cold_end: Offset(told.cold_end),
        pending_bytes: told.pending_bytes,
        pending_since: (told.pending_since_us != 0).then_some(Timestamp(told.pending_since_us)),
        cold_ranges: told.cold_ranges,
        offload_error: Some(told.offload_error).filter(|error| !error.is_empty()),
        dedup: DedupFigures {
            ids: told.dedup_ids,
            effective_window_ms: told.dedup_effective_window_ms,
            evicted: told.dedup_evicted,
        },
    };
    Ok((stream, Box::new(facts)))
}

/// Asks nodes that have the shard, which this one does not, about some of its streams, or those with the
/// dead letters of their groups of a name: those that there are. `current`: as of now, else as of a moment
/// ago.
pub(crate) async fn ask(
    routing: &Routing,
    shard: ShardId,
    streams: &[StreamUid],
    dead_letters_of: Option<&GroupName>,
    current: bool,
) -> Result<BTreeMap<StreamUid, Box<StreamFacts>>, WireError> {
    let mut all = BTreeMap::new();
    for streams in streams.chunks(DESCRIBED_MAX) {
        let asked = v1::DescribeStreams {
            of: Some(routing.replica_address(shard)),
            stream_uids: streams.iter().map(Uid::to_wire).collect(),
            current,
            dead_letters_of: dead_letters_of.map(ToString::to_string).unwrap_or_default(),
        };
        let ask = |peers: crate::peers::Peers, address: String| {
            let call = v1::peer_call::Call::DescribeStreams(asked.clone());
            async move {
                match peers.call(&address, call, Bytes::new()).await? {
                    (v1::peer_reply::Answer::StreamsTold(told), _) => Ok(told),
                    _ => Err(PeerError::Refused { reason: "an answer of another kind".to_owned() }),
                }
            }
        };
        for told in routing.ask_holder(shard, ask).await?.streams {
            let (stream, facts) = facts(told)?;
            all.insert(stream, facts);
        }
    }
    Ok(all)
}

/// Answers another node that asks so.
pub(crate) async fn tell(
    routing: &Routing,
    shard: ShardId,
    replica: &LocalReplica,
    asked: &v1::DescribeStreams,
) -> Result<v1::StreamsTold, WireError> {
    if asked.stream_uids.len() > DESCRIBED_MAX {
        let message = format!("a call is about {DESCRIBED_MAX} streams at most");
        return Err(WireError::new(ErrorCode::ProtocolViolation, message));
    }
    let data = replica.data().ok_or_else(|| {
        WireError::new(ErrorCode::ProtocolViolation, "the catalog holds no streams")
    })?;
    if asked.current {
        let caught_up = routing.catch_up(shard).await;
        caught_up.map_err(|error| WireError::new(ErrorCode::Unavailable, error.to_string()))?;
    }
    let group = match asked.dead_letters_of.as_str() {
        "" => None,
        group => Some(GroupName::new(group).map_err(InvalidMessage::from)?),
    };
    let mut streams = Vec::with_capacity(asked.stream_uids.len());
    for uid in &asked.stream_uids {
        let mut stream = StreamUid::from_wire("stream_uids", uid)?;
        if let Some(group) = &group {
            let companion = data.handle.companion(stream, group.clone()).await;
            match companion.map_err(|gone| stopping(&gone))? {
                Some(companion) => stream = companion,
                None => continue,
            }
        }
        let facts = data.handle.describe(stream).await.map_err(|gone| stopping(&gone))?;
        streams.extend(facts.map(|facts| description(stream, shard, &facts)));
    }
    Ok(v1::StreamsTold { streams })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_node_knows_what_it_was_told() {
        let told = v1::StreamDescription {
            name: "orders".to_owned(),
            stream_uid: vec![7; 16].into(),
            spec: Some((&StreamSpec { owner: "me".to_owned(), ..StreamSpec::default() }).into()),
            revision: 3,
            shard: 2,
            created_us: 4,
            head: 0,
            next_offset: 5,
            record_bytes: 6,
            cold_end: 7,
            pending_bytes: 8,
            pending_since_us: 9,
            last_ts_us: 10,
            cold_ranges: 11,
            offload_error: "the bucket is away".to_owned(),
            dedup_ids: 12,
            dedup_effective_window_ms: 13,
            dedup_evicted: 14,
        };
        let no_more = v1::StreamDescription {
            pending_since_us: 0,
            offload_error: String::new(),
            ..told.clone()
        };
        for told in [told, no_more] {
            let (stream, facts) = facts(told.clone()).unwrap();
            assert_eq!(description(stream, ShardId(2), &facts), told);
        }
    }
}
