//! What entries of the catalog led to, as bytes. The frame is in [`crate::outcome`]; settings, names,
//! nodes and placements are as in a checkpoint.
//!
//! ```text
//! founded = settings                              entry = there? u8 [entry]
//! node    = number v │ node │ replica? u8 [u64]   placed = shard v │ placement
//! replica = shard v │ replica? u8 [u64]           token = verdict u8
//! address taken, node removed, no such node, last node = number v
//! feature level too low, feature level = u32      no such shard = shard v
//! ```

use bytes::{BufMut, BytesMut};
use railgun_types::{ByteCursor, Malformed, NodeId, ReplicaId, ShardId, put_varint};

use super::checkpoint::{entry, put_entry};
use super::{CatalogOutcome, NodeRecord, Placement, TokenVerdict};
use crate::codec::{narrow, option, put_option};
use crate::command::ClusterSettings;
use crate::outcome::{self, OutcomeError};

const FOUNDED: u8 = 101;
const ENTRY: u8 = 102;
const REFUSED: u8 = 103;
const NODE: u8 = 104;
const ADDRESS_TAKEN: u8 = 105;
const NODE_REMOVED: u8 = 106;
const NO_SUCH_NODE: u8 = 107;
const LAST_NODE: u8 = 108;
const FEATURE_LEVEL_TOO_LOW: u8 = 109;
const TOO_MANY_NODES: u8 = 110;
const FEATURE_LEVEL: u8 = 111;
const PLACED: u8 = 112;
const NO_SUCH_SHARD: u8 = 113;
const REPLICA: u8 = 114;
const TOKEN_KEPT: u8 = 115;
const TOO_MANY_TOKENS: u8 = 116;
const TOKEN: u8 = 117;

impl CatalogOutcome {
    /// Writes the outcome behind what `out` holds.
    pub fn encode(&self, out: &mut BytesMut) {
        let put_replica = |out: &mut BytesMut, replica: &Option<ReplicaId>| {
            put_option(out, *replica, |out, replica| out.put_u64_le(replica.0));
        };
        let put_number = |out: &mut BytesMut, kind, number: u32| {
            outcome::put_head(out, kind);
            put_varint(out, u64::from(number));
        };
        let put_level = |out: &mut BytesMut, kind, level: u32| {
            outcome::put_head(out, kind);
            out.put_u32_le(level);
        };
        match self {
            Self::Founded(settings) => {
                outcome::put_head(out, FOUNDED);
                settings.encode(out);
            }
            Self::Entry(entry) => {
                outcome::put_head(out, ENTRY);
                put_option(out, entry.as_deref(), put_entry);
            }
            Self::Refused => outcome::put_head(out, REFUSED),
            Self::Node { node, record, catalog_replica } => {
                put_number(out, NODE, node.0);
                record.encode(out);
                put_replica(out, catalog_replica);
            }
            Self::AddressTaken { by } => put_number(out, ADDRESS_TAKEN, by.0),
            Self::NodeRemoved { node } => put_number(out, NODE_REMOVED, node.0),
            Self::NoSuchNode { node } => put_number(out, NO_SUCH_NODE, node.0),
            Self::LastNode { node } => put_number(out, LAST_NODE, node.0),
            Self::FeatureLevelTooLow { needed } => put_level(out, FEATURE_LEVEL_TOO_LOW, *needed),
            Self::TooManyNodes => outcome::put_head(out, TOO_MANY_NODES),
            Self::FeatureLevel(level) => put_level(out, FEATURE_LEVEL, *level),
            Self::Placed { shard, placement } => {
                put_number(out, PLACED, shard.0);
                placement.encode(out);
            }
            Self::NoSuchShard { shard } => put_number(out, NO_SUCH_SHARD, shard.0),
            Self::Replica { shard, replica } => {
                put_number(out, REPLICA, shard.0);
                put_replica(out, replica);
            }
            Self::TokenKept => outcome::put_head(out, TOKEN_KEPT),
            Self::TooManyTokens => outcome::put_head(out, TOO_MANY_TOKENS),
            Self::Token(verdict) => {
                outcome::put_head(out, TOKEN);
                out.put_u8(*verdict as u8);
            }
        }
    }

    /// Reads an outcome, which takes all of `bytes`.
    ///
    /// # Errors
    /// [`OutcomeError`]; never panics, never allocates more than a small multiple of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, OutcomeError> {
        let node = |cursor: &mut ByteCursor<'_>| narrow(cursor).map(NodeId);
        let shard = |cursor: &mut ByteCursor<'_>| narrow(cursor).map(ShardId);
        let replica =
            |cursor: &mut ByteCursor<'_>| option(cursor, |cursor| cursor.u64().map(ReplicaId));
        outcome::decode(bytes, |kind, cursor| {
            Ok(match kind {
                FOUNDED => Self::Founded(ClusterSettings::decode(cursor)?),
                ENTRY => Self::Entry(option(cursor, entry)?.map(Box::new)),
                REFUSED => Self::Refused,
                NODE => Self::Node {
                    node: node(cursor)?,
                    record: NodeRecord::decode(cursor)?,
                    catalog_replica: replica(cursor)?,
                },
                ADDRESS_TAKEN => Self::AddressTaken { by: node(cursor)? },
                NODE_REMOVED => Self::NodeRemoved { node: node(cursor)? },
                NO_SUCH_NODE => Self::NoSuchNode { node: node(cursor)? },
                LAST_NODE => Self::LastNode { node: node(cursor)? },
                FEATURE_LEVEL_TOO_LOW => Self::FeatureLevelTooLow { needed: cursor.u32()? },
                TOO_MANY_NODES => Self::TooManyNodes,
                FEATURE_LEVEL => Self::FeatureLevel(cursor.u32()?),
                PLACED => {
                    Self::Placed { shard: shard(cursor)?, placement: Placement::decode(cursor)? }
                }
                NO_SUCH_SHARD => Self::NoSuchShard { shard: shard(cursor)? },
                REPLICA => Self::Replica { shard: shard(cursor)?, replica: replica(cursor)? },
                TOKEN_KEPT => Self::TokenKept,
                TOO_MANY_TOKENS => Self::TooManyTokens,
                TOKEN => Self::Token(TokenVerdict::from_u8(cursor.u8()?).ok_or(Malformed)?),
                _ => return Err(Malformed),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use railgun_types::{ClusterUid, NodeUid, SpecPatch, StreamUid, Timestamp};

    use super::*;
    use crate::catalog::{CatalogEntry, Phase};
    use crate::command::NodeState;

    /// One of each.
    fn outcomes() -> Vec<CatalogOutcome> {
        let (node, shard) = (NodeId(300), ShardId(200));
        let replica = ReplicaId::new(node, 2);
        let patch = SpecPatch { owner: Some("ops".to_owned()), ..SpecPatch::default() };
        let entry =
            |phase| CatalogEntry { stream: StreamUid([4; 16]), shard, phase, since: Timestamp(-5) };
        let record = NodeRecord {
            uid: NodeUid([6; 16]),
            peer_address: "a:1".to_owned(),
            client_address: "b.example:2".to_owned(),
            feature_level: 3,
            state: NodeState::Draining,
        };
        let placement = Placement {
            version: 1_000,
            voters: vec![replica, ReplicaId::new(NodeId(1), 1)],
            learners: vec![ReplicaId::new(NodeId(9), 7)],
            in_force: vec![replica],
            settled: 999,
        };
        let cluster = ClusterUid([1; 16]);
        vec![
            CatalogOutcome::Founded(ClusterSettings {
                cluster,
                shards: 4,
                hot_bytes_max: 1 << 33,
                replicas: 5,
            }),
            CatalogOutcome::Entry(None),
            CatalogOutcome::Entry(Some(entry(Phase::Creating { patch, request: None }).into())),
            CatalogOutcome::Entry(Some(entry(Phase::Active).into())),
            CatalogOutcome::Entry(Some(entry(Phase::Deleting).into())),
            CatalogOutcome::Refused,
            CatalogOutcome::Node { node, record: record.clone(), catalog_replica: Some(replica) },
            CatalogOutcome::Node { node, record, catalog_replica: None },
            CatalogOutcome::AddressTaken { by: node },
            CatalogOutcome::NodeRemoved { node },
            CatalogOutcome::NoSuchNode { node },
            CatalogOutcome::LastNode { node },
            CatalogOutcome::FeatureLevelTooLow { needed: 3 },
            CatalogOutcome::TooManyNodes,
            CatalogOutcome::FeatureLevel(8),
            CatalogOutcome::Placed { shard, placement },
            CatalogOutcome::NoSuchShard { shard },
            CatalogOutcome::Replica { shard, replica: Some(replica) },
            CatalogOutcome::Replica { shard, replica: None },
            CatalogOutcome::TokenKept,
            CatalogOutcome::TooManyTokens,
            CatalogOutcome::Token(TokenVerdict::Accepted),
            CatalogOutcome::Token(TokenVerdict::Repeated),
            CatalogOutcome::Token(TokenVerdict::Used),
            CatalogOutcome::Token(TokenVerdict::Expired),
            CatalogOutcome::Token(TokenVerdict::Unknown),
        ]
    }

    #[test]
    fn every_outcome_comes_back_and_its_format_is_fixed() {
        let golden = "outcomes-catalog-v1.bin";
        outcome::check(&outcomes(), golden, CatalogOutcome::encode, CatalogOutcome::decode);
        // What a data shard answers is no answer of the catalog.
        let mut out = BytesMut::new();
        crate::shard::Outcome::Released.encode(&mut out);
        assert_eq!(CatalogOutcome::decode(&out), Err(OutcomeError::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_or_a_value(
            kind in 100..120u8,
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let bytes = [&[1, kind], &bytes[..]].concat();
            if let Ok(outcome) = CatalogOutcome::decode(&bytes) {
                let mut out = BytesMut::new();
                outcome.encode(&mut out);
                prop_assert_eq!(&out[..], &bytes[..]);
            }
        }

        #[test]
        fn placements_round_trip(
            version: u64,
            settled: u64,
            voters in proptest::collection::vec(any::<u64>(), 0..8),
            learners in proptest::collection::vec(any::<u64>(), 0..300),
            in_force in proptest::collection::vec(any::<u64>(), 0..8),
        ) {
            let replicas = |ids: Vec<u64>| ids.into_iter().map(ReplicaId).collect();
            let placement = Placement {
                version,
                voters: replicas(voters),
                learners: replicas(learners),
                in_force: replicas(in_force),
                settled,
            };
            let outcome = CatalogOutcome::Placed { shard: ShardId(1), placement };
            let mut out = BytesMut::new();
            outcome.encode(&mut out);
            prop_assert_eq!(CatalogOutcome::decode(&out), Ok(outcome));
        }
    }
}
