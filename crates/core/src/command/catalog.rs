//! Commands of shard 0, the owner of names, nodes and placement.

use bytes::{BufMut, BytesMut};
use railgun_types::{
    ByteCursor, ClusterUid, Malformed, NodeId, NodeUid, ReplicaId, RequestId, ShardId, SpecPatch,
    StreamName, StreamUid, Timestamp, put_varint,
};

use crate::codec::{self, list, narrow, put_list};

/// Changes the catalog. Each is idempotent, so that whoever finishes a half-done creation or
/// deletion, or does not know whether its proposal was committed, may repeat it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogCommand {
    /// Fix what holds for the cluster's whole life, and the nodes it begins with; the first one
    /// counts. Refused without nodes.
    Found {
        /// What holds for the cluster's whole life.
        settings: ClusterSettings,
        /// The nodes, each under its number.
        nodes: Vec<(NodeId, NodeInfo)>,
    },
    /// Hold a name for a stream under creation.
    Reserve {
        /// The name.
        name: StreamName,
        /// The uid drawn by the proposer.
        stream: StreamUid,
        /// What the creator asked for, so that anyone can finish.
        patch: SpecPatch,
        /// Which request the creator made.
        request: Option<RequestId>,
    },
    /// The shard has created the stream.
    Activate {
        /// The name.
        name: StreamName,
        /// The stream it must belong to.
        stream: StreamUid,
    },
    /// The stream is being deleted: nobody may use the name any more.
    Delete {
        /// The name.
        name: StreamName,
        /// The stream it must belong to.
        stream: StreamUid,
    },
    /// The shard refused the creation, or has its tombstone: the name is free.
    Free {
        /// The name.
        name: StreamName,
        /// The stream it must belong to.
        stream: StreamUid,
    },
    /// Take a node in, under the next free number. One with this uid is told its number, and what it
    /// tells of itself counts from here on.
    AddNode(NodeInfo),
    /// What a node tells of itself has changed.
    UpdateNode {
        /// Its number.
        node: NodeId,
        /// What it tells now. The uid must be its own.
        info: NodeInfo,
    },
    /// The same of several nodes that have moved at the same time, of all or of none: one may be where
    /// another was. Each has told it itself; whoever proposes this comes first.
    UpdateNodes(Vec<(NodeId, NodeInfo)>),
    /// Drain a node, take that back, or remove the node for good.
    SetNodeState {
        /// The node.
        node: NodeId,
        /// What it is to be.
        state: NodeState,
    },
    /// Let all nodes use what this feature level means. It never falls, and is raised only as far as
    /// every node that is not removed can.
    SetFeatureLevel(u32),
    /// Say on which replicas a shard is to be.
    Place {
        /// The shard.
        shard: ShardId,
        /// Its voters; who is to lead comes first. Each is in the placement already, or the next
        /// incarnation of its node.
        replicas: Vec<ReplicaId>,
        /// Only if the placement still has this version.
        if_version: u64,
    },
    /// The shard's Raft membership is what this version of its placement says: told by its leader.
    Settled {
        /// The shard.
        shard: ShardId,
        /// The version of the placement.
        version: u64,
    },
    /// A replica lost its log, or a part of it: the next incarnation takes its place (CL-3).
    Reincarnate {
        /// The shard.
        shard: ShardId,
        /// The replica that must not vote any more.
        lost: ReplicaId,
    },
    /// Keep a join token.
    AddToken {
        /// What is known of it: a hash.
        hash: TokenHash,
        /// Log time after which it is worth nothing.
        expires: Timestamp,
    },
    /// Spend a join token.
    UseToken {
        /// Its hash.
        hash: TokenHash,
        /// The node that joins by it.
        uid: NodeUid,
    },
}

/// A join token as the catalog keeps it: whoever reads the catalog's log learns no token.
pub type TokenHash = [u8; 32];

/// What a node tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// The life of its data directory.
    pub uid: NodeUid,
    /// Where other nodes reach it: host and port.
    pub peer_address: String,
    /// Where clients reach it: host and port.
    pub client_address: String,
    /// The greatest feature level it can work at.
    pub feature_level: u32,
}

/// What a node is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum NodeState {
    /// Take replicas and clients.
    #[default]
    Active = 1,
    /// Give its replicas to others.
    Draining = 2,
    /// Nothing, for ever: it is no part of the cluster any more.
    Removed = 3,
}

impl NodeState {
    /// The state of this number.
    #[must_use]
    pub fn from_u8(state: u8) -> Option<Self> {
        match state {
            1 => Some(Self::Active),
            2 => Some(Self::Draining),
            3 => Some(Self::Removed),
            _ => None,
        }
    }

    /// As users read it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Removed => "removed",
        }
    }
}

/// What is decided once, when a cluster is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// This life of the cluster.
    pub cluster: ClusterUid,
    /// Data shards, numbered from 1; at most [`SHARDS`](railgun_types::limits::SHARDS).
    pub shards: u32,
    /// Log bytes above the purge point that all shards of a node may hold together.
    pub hot_bytes_max: u64,
    /// Voters of each data shard: 1, 3 or 5. While there are fewer nodes, each has a replica.
    pub replicas: u8,
}

impl ClusterSettings {
    /// The data shards.
    pub fn data_shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (1..=self.shards).map(ShardId)
    }

    /// Each shard's part of the hot budget, in bytes; the catalog's records are too few to count.
    #[must_use]
    pub fn hot_bytes_per_shard(&self) -> u64 {
        self.hot_bytes_max / u64::from(self.shards.max(1))
    }
}

const RESERVE: u8 = 2;
const ACTIVATE: u8 = 3;
const DELETE: u8 = 4;
const FREE: u8 = 5;
const FOUND: u8 = 6;
const ADD_NODE: u8 = 7;
const UPDATE_NODE: u8 = 8;
const SET_NODE_STATE: u8 = 9;
const SET_FEATURE_LEVEL: u8 = 10;
const PLACE: u8 = 11;
const SETTLED: u8 = 12;
const REINCARNATE: u8 = 13;
const ADD_TOKEN: u8 = 14;
const USE_TOKEN: u8 = 15;
const UPDATE_NODES: u8 = 16;
/// As [`RESERVE`], and which request it is at the end.
const RESERVE_OF_REQUEST: u8 = 17;

/// Fewest bytes of a node of a founding.
const NODE_BYTES_MIN: usize = 23;

impl CatalogCommand {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        let put = |out: &mut BytesMut, kind, name: &StreamName, stream: &StreamUid| {
            out.put_u8(kind);
            codec::put_text(out, name.as_str());
            out.put_slice(&stream.0);
        };
        match self {
            Self::Found { settings, nodes } => {
                out.put_u8(FOUND);
                settings.encode(out);
                put_list(out, nodes.iter(), |out, (node, info)| {
                    put_varint(out, u64::from(node.0));
                    info.encode(out);
                });
            }
            Self::Reserve { name, stream, patch, request } => {
                let kind = if request.is_some() { RESERVE_OF_REQUEST } else { RESERVE };
                put(out, kind, name, stream);
                codec::put_patch(out, patch);
                if let Some(request) = request {
                    out.put_slice(&request.0);
                }
            }
            Self::Activate { name, stream } => put(out, ACTIVATE, name, stream),
            Self::Delete { name, stream } => put(out, DELETE, name, stream),
            Self::Free { name, stream } => put(out, FREE, name, stream),
            Self::AddNode(info) => {
                out.put_u8(ADD_NODE);
                info.encode(out);
            }
            Self::UpdateNode { node, info } => {
                out.put_u8(UPDATE_NODE);
                put_varint(out, u64::from(node.0));
                info.encode(out);
            }
            Self::UpdateNodes(told) => {
                out.put_u8(UPDATE_NODES);
                put_list(out, told.iter(), |out, (node, info)| {
                    put_varint(out, u64::from(node.0));
                    info.encode(out);
                });
            }
            Self::SetNodeState { node, state } => {
                out.put_u8(SET_NODE_STATE);
                put_varint(out, u64::from(node.0));
                out.put_u8(*state as u8);
            }
            Self::SetFeatureLevel(level) => {
                out.put_u8(SET_FEATURE_LEVEL);
                out.put_u32_le(*level);
            }
            Self::Place { shard, replicas, if_version } => {
                out.put_u8(PLACE);
                put_varint(out, u64::from(shard.0));
                codec::put_replicas(out, replicas);
                put_varint(out, *if_version);
            }
            Self::Settled { shard, version } => {
                out.put_u8(SETTLED);
                put_varint(out, u64::from(shard.0));
                put_varint(out, *version);
            }
            Self::Reincarnate { shard, lost } => {
                out.put_u8(REINCARNATE);
                put_varint(out, u64::from(shard.0));
                out.put_u64_le(lost.0);
            }
            Self::AddToken { hash, expires } => {
                out.put_u8(ADD_TOKEN);
                out.put_slice(hash);
                out.put_i64_le(expires.0);
            }
            Self::UseToken { hash, uid } => {
                out.put_u8(USE_TOKEN);
                out.put_slice(hash);
                out.put_slice(&uid.0);
            }
        }
    }

    pub(super) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        let node = |cursor: &mut ByteCursor<'_>| narrow(cursor).map(NodeId);
        let shard = |cursor: &mut ByteCursor<'_>| narrow(cursor).map(ShardId);
        match cursor.u8()? {
            FOUND => Ok(Self::Found {
                settings: ClusterSettings::decode(cursor)?,
                nodes: list(cursor, NODE_BYTES_MIN, |cursor| {
                    Ok((node(cursor)?, NodeInfo::decode(cursor)?))
                })?,
            }),
            ADD_NODE => NodeInfo::decode(cursor).map(Self::AddNode),
            UPDATE_NODE => {
                Ok(Self::UpdateNode { node: node(cursor)?, info: NodeInfo::decode(cursor)? })
            }
            UPDATE_NODES => {
                let told = list(cursor, NODE_BYTES_MIN, |cursor| {
                    Ok((node(cursor)?, NodeInfo::decode(cursor)?))
                })?;
                Ok(Self::UpdateNodes(told))
            }
            SET_NODE_STATE => {
                Ok(Self::SetNodeState { node: node(cursor)?, state: codec::node_state(cursor)? })
            }
            SET_FEATURE_LEVEL => cursor.u32().map(Self::SetFeatureLevel),
            PLACE => Ok(Self::Place {
                shard: shard(cursor)?,
                replicas: codec::replicas(cursor)?,
                if_version: cursor.varint()?,
            }),
            SETTLED => Ok(Self::Settled { shard: shard(cursor)?, version: cursor.varint()? }),
            REINCARNATE => {
                Ok(Self::Reincarnate { shard: shard(cursor)?, lost: ReplicaId(cursor.u64()?) })
            }
            ADD_TOKEN => {
                Ok(Self::AddToken { hash: cursor.array()?, expires: Timestamp(cursor.i64()?) })
            }
            USE_TOKEN => {
                Ok(Self::UseToken { hash: cursor.array()?, uid: NodeUid(cursor.array()?) })
            }
            kind => Self::decode_of_name(kind, cursor),
        }
    }

    fn decode_of_name(kind: u8, cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        let name = codec::name(cursor)?;
        let stream = StreamUid(cursor.array()?);
        match kind {
            RESERVE | RESERVE_OF_REQUEST => Ok(Self::Reserve {
                name,
                stream,
                patch: codec::patch(cursor)?,
                request: match kind {
                    RESERVE => None,
                    _ => Some(RequestId(cursor.array()?)),
                },
            }),
            ACTIVATE => Ok(Self::Activate { name, stream }),
            DELETE => Ok(Self::Delete { name, stream }),
            FREE => Ok(Self::Free { name, stream }),
            _ => Err(Malformed),
        }
    }
}

impl NodeInfo {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&self.uid.0);
        codec::put_text(out, &self.peer_address);
        codec::put_text(out, &self.client_address);
        out.put_u32_le(self.feature_level);
    }

    pub(crate) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            uid: NodeUid(cursor.array()?),
            peer_address: codec::text(cursor)?,
            client_address: codec::text(cursor)?,
            feature_level: cursor.u32()?,
        })
    }
}

impl ClusterSettings {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_slice(&self.cluster.0);
        out.put_u32_le(self.shards);
        out.put_u64_le(self.hot_bytes_max);
        out.put_u8(self.replicas);
    }

    pub(crate) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            cluster: ClusterUid(cursor.array()?),
            shards: cursor.u32()?,
            hot_bytes_max: cursor.u64()?,
            replicas: cursor.u8()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hot_budget_is_divided_over_the_shards() {
        let per_shard = |shards, hot_bytes_max| {
            let cluster = ClusterUid([7; 16]);
            ClusterSettings { cluster, shards, hot_bytes_max, replicas: 1 }.hot_bytes_per_shard()
        };
        assert_eq!((per_shard(1, 1_000), per_shard(3, 1_000)), (1_000, 333));
        assert_eq!(per_shard(0, 1_000), 1_000, "no shard has no share, and nothing to divide by");
    }
}
