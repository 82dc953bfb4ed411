//! Looking after the cluster itself: its nodes, who leads, and how further nodes come in.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use railgun_proto::convert::Uid;
use railgun_proto::v1;
use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::admin_response::Answer;
use railgun_types::{
    ClusterUid, JOIN_TOKEN_PREFIX, NodeId, NodeUid, ReplicaId, ShardId, Timestamp,
};

use super::{Admin, AdminError, Repeat, unexpected};

/// The server waits until the other node serves; this much longer than it does at the most.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(15);

/// What a node knows of its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// The cluster.
    pub cluster: ClusterUid,
    /// The feature level at which all nodes work.
    pub feature_level: u32,
    /// Data shards: 1 to this. Shard 0 is the catalog.
    pub data_shards: u32,
    /// Replicas that each data shard is to have.
    pub replicas: u32,
    /// Log bytes above the cold floor that all shards may hold together on a node.
    pub hot_bytes_max: u64,
    /// The node that answered.
    pub answered_by: NodeId,
    /// The nodes that are part of the cluster, in order of their numbers.
    pub nodes: Vec<NodeStatus>,
    /// The shards, in order.
    pub shards: Vec<ShardStatus>,
}

impl ClusterStatus {
    /// Whether every shard has a leader and a majority, as far as the node that answered knows.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.shards.iter().all(ShardStatus::is_available)
    }
}

/// What a node is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Take replicas and clients.
    Active,
    /// Give its replicas to others.
    Draining,
    /// Nothing, for ever: it is no part of the cluster any more.
    Removed,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its number.
    pub node: NodeId,
    /// The life of its data directory.
    pub uid: NodeUid,
    /// What it is to do.
    pub state: NodeState,
    /// Where other nodes reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
    /// The greatest feature level it can work at.
    pub feature_level: u32,
    /// Whether the node that answered hears it.
    pub reachable: bool,
    /// What is on it still. `None`: not known.
    pub drain: Option<DrainProgress>,
}

/// What is still on a node, which matters where it is drained.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainProgress {
    /// Shards that it is to lead.
    pub leads: Vec<ShardId>,
    /// Shards of which it is to have a voter.
    pub votes: Vec<ShardId>,
    /// Those of them that no other active node can take: another one must join.
    pub stuck: Vec<ShardId>,
    /// Shards whose voter on it is being replaced.
    pub leaving: Vec<ShardId>,
    /// Whether the node can be removed.
    pub is_drained: bool,
}

impl DrainProgress {
    /// Whether nothing more can move until another node joins.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        !self.is_drained
            && self.leaving.is_empty()
            && self.votes.iter().all(|shard| self.stuck.contains(shard))
    }
}

/// A shard and its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// The shard.
    pub shard: ShardId,
    /// Counts the changes of where it is to be.
    pub placement_version: u64,
    /// Whether its members are those that it is to have.
    pub settled: bool,
    /// The replica that leads. `None`: none does, as far as is known.
    pub leader: Option<ReplicaId>,
    /// The newest Raft term that was heard of.
    pub term: u64,
    /// Voters that it is to have.
    pub voters_wanted: u32,
    /// Whether fewer than that are heard.
    pub under_replicated: bool,
    /// Whether a majority of its voters is heard.
    pub has_majority: bool,
    /// Log bytes that are not in the bucket. `None`: not known, or the catalog.
    pub pending_log_bytes: Option<u64>,
    /// Its replicas: those there are and those that come.
    pub replicas: Vec<ReplicaStatus>,
}

impl ShardStatus {
    /// Whether it has a leader and a majority.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.leader.is_some() && self.has_majority
    }
}

/// A replica of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Its node and incarnation.
    pub replica: ReplicaId,
    /// Whether it counts for a majority; else it only follows, or has not begun to.
    pub votes: bool,
    /// Whether it is to be one of the shard's replicas; else it is leaving.
    pub wanted: bool,
    /// Whether it is heard.
    pub reachable: bool,
    /// Index of the last entry that it knows to be on a majority.
    pub committed: Option<u64>,
    /// Index of the last entry in its state.
    pub applied: Option<u64>,
}

/// A join token: one node gets a certificate by it. Its text is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// What the cluster knows only the hash of.
    pub secret: [u8; 32],
    /// SHA-256 of the certificate of the cluster's authority: whom to believe.
    pub ca_sha256: [u8; 32],
}

/// A text that is no join token. The text is not repeated: it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a join token: `rgj1.`, 64 hex digits, a dot and 64 more are expected")]
pub struct InvalidJoinToken;

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(JOIN_TOKEN_PREFIX)?;
        self.secret.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(".")?;
        self.ca_sha256.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for JoinToken {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(hidden)")
    }
}

impl FromStr for JoinToken {
    type Err = InvalidJoinToken;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.trim().strip_prefix(JOIN_TOKEN_PREFIX).ok_or(InvalidJoinToken)?;
        let (secret, ca) = parts.split_once('.').ok_or(InvalidJoinToken)?;
        Ok(Self { secret: from_hex(secret)?, ca_sha256: from_hex(ca)? })
    }
}

fn from_hex(text: &str) -> Result<[u8; 32], InvalidJoinToken> {
    // Only digits: from_str_radix below would take a sign.
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(InvalidJoinToken);
    }
    let mut bytes = [0; 32];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| InvalidJoinToken)?;
    }
    Ok(bytes)
}

/// A join token that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeJoinToken {
    /// The token.
    pub token: JoinToken,
    /// After this it is worth nothing.
    pub expires: Timestamp,
}

/// What a node that joins gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedNode {
    /// Its certificate chain, leaf first, in PEM.
    pub chain_pem: String,
    /// The certificate of the cluster's authority, in PEM.
    pub ca_pem: String,
}

impl Admin {
    /// What the server knows of the cluster; what other nodes do not tell it within 2 s is missing.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn cluster_status(&self) -> Result<ClusterStatus, AdminError> {
        let call = Call::DescribeCluster(v1::DescribeCluster {});
        match self.call("status", call, Repeat::Reads, self.call_timeout()).await? {
            Answer::ClusterDescription(description) => description.try_into(),
            other => Err(unexpected("status", &other)),
        }
    }

    /// Drains a node, takes that back, or removes it for good. Tells what is still on it; `None` for one
    /// that was removed. Safe to repeat. With `force` a node is removed though it is in use; never where
    /// a shard would lose its majority by it.
    ///
    /// # Errors
    /// [`AdminError`]; `ErrorCode::UnsafeChange` and `ErrorCode::NodeNotFound` say why it may not be.
    pub async fn set_node_state(
        &self,
        node: NodeId,
        state: NodeState,
        force: bool,
    ) -> Result<Option<DrainProgress>, AdminError> {
        let state = match state {
            NodeState::Active => v1::NodeState::Active,
            NodeState::Draining => v1::NodeState::Draining,
            NodeState::Removed => v1::NodeState::Removed,
        };
        let set = v1::SetNodeState { node_id: node.0, state: state.into(), force };
        let call = Call::SetNodeState(set);
        match self.call("the node's change", call, Repeat::Safe, self.call_timeout()).await? {
            Answer::NodeStateSet(set) => Ok(set.drain.map(DrainProgress::from)),
            other => Err(unexpected("the node's change", &other)),
        }
    }

    /// Has a shard led by its replica on a node. Returns when that one serves: its id, and the term.
    ///
    /// # Errors
    /// [`AdminError`]; `ErrorCode::NodeNotFound` for a node without a voter of the shard, and
    /// `ErrorCode::UnsafeChange` for one that is not up to it now.
    pub async fn transfer_leader(
        &self,
        shard: ShardId,
        node: NodeId,
    ) -> Result<(ReplicaId, u64), AdminError> {
        let transfer = v1::TransferLeader { shard: shard.0, node_id: node.0 };
        let call = Call::TransferLeader(transfer);
        let timeout = self.call_timeout().max(TRANSFER_TIMEOUT);
        match self.call("the transfer", call, Repeat::Safe, timeout).await? {
            Answer::LeaderTransferred(led) => Ok((ReplicaId(led.leader), led.term)),
            other => Err(unexpected("the transfer", &other)),
        }
    }

    /// Makes a join token, which is valid for an hour unless it is said otherwise, and for 30 days at the
    /// most. The cluster keeps only a hash of it.
    ///
    /// # Errors
    /// [`AdminError`]; `ErrorCode::NoAuthority` where no node could sign.
    pub async fn make_join_token(
        &self,
        valid_for: Option<Duration>,
    ) -> Result<MadeJoinToken, AdminError> {
        let ms = |it: Duration| u64::try_from(it.as_millis()).unwrap_or(u64::MAX).max(1);
        let make = v1::MakeJoinToken { valid_for_ms: valid_for.map_or(0, ms) };
        let call = Call::MakeJoinToken(make);
        // A second one that nobody learns of does no harm: it expires.
        match self.call("the token's making", call, Repeat::Safe, self.call_timeout()).await? {
            Answer::JoinToken(made) => {
                let bytes =
                    |bytes: &[u8]| <[u8; 32]>::try_from(bytes).map_err(AdminError::protocol);
                let (secret, ca_sha256) = (bytes(&made.secret)?, bytes(&made.ca_sha256)?);
                let token = JoinToken { secret, ca_sha256 };
                Ok(MadeJoinToken { token, expires: Timestamp(made.expires_us) })
            }
            other => Err(unexpected("the token's making", &other)),
        }
    }

    /// Has the certificate of a node signed, which uses the token up. Safe to repeat with the same
    /// request.
    ///
    /// # Errors
    /// [`AdminError`]; `ErrorCode::TokenExpired` for a token that was used, is too old or is none of
    /// this cluster.
    pub async fn sign_node(
        &self,
        token: &JoinToken,
        csr_pem: &str,
        hosts: &[String],
    ) -> Result<SignedNode, AdminError> {
        let call = Call::SignNode(v1::SignNode {
            secret: token.secret.to_vec().into(),
            csr_pem: csr_pem.to_owned(),
            hosts: hosts.to_vec(),
        });
        match self.call("the signature", call, Repeat::Safe, self.call_timeout()).await? {
            Answer::NodeSigned(signed) => {
                Ok(SignedNode { chain_pem: signed.chain_pem, ca_pem: signed.ca_pem })
            }
            other => Err(unexpected("the signature", &other)),
        }
    }
}

impl TryFrom<v1::ClusterDescription> for ClusterStatus {
    type Error = AdminError;

    fn try_from(message: v1::ClusterDescription) -> Result<Self, Self::Error> {
        let nodes = message.nodes.into_iter().map(NodeStatus::try_from);
        Ok(Self {
            cluster: ClusterUid::from_wire("cluster_uid", &message.cluster_uid)
                .map_err(AdminError::protocol)?,
            feature_level: message.feature_level,
            data_shards: message.data_shards,
            replicas: message.replicas,
            hot_bytes_max: message.hot_bytes_max,
            answered_by: NodeId(message.node_id),
            nodes: nodes.collect::<Result<_, _>>()?,
            shards: message.shards.into_iter().map(ShardStatus::from).collect(),
        })
    }
}

impl TryFrom<v1::ClusterNode> for NodeStatus {
    type Error = AdminError;

    fn try_from(message: v1::ClusterNode) -> Result<Self, Self::Error> {
        Ok(Self {
            node: NodeId(message.node_id),
            uid: NodeUid::from_wire("uid", &message.uid).map_err(AdminError::protocol)?,
            state: match message.state() {
                v1::NodeState::Active => NodeState::Active,
                v1::NodeState::Draining => NodeState::Draining,
                v1::NodeState::Removed => NodeState::Removed,
                v1::NodeState::Unspecified => {
                    return Err(AdminError::protocol("a node in no known state"));
                }
            },
            peer_address: message.peer_address,
            client_address: message.client_address,
            feature_level: message.feature_level,
            reachable: message.reachable,
            drain: message.drain.map(DrainProgress::from),
        })
    }
}

impl From<v1::DrainProgress> for DrainProgress {
    fn from(message: v1::DrainProgress) -> Self {
        let shards = |numbers: Vec<u32>| numbers.into_iter().map(ShardId).collect();
        Self {
            leads: shards(message.leads),
            votes: shards(message.votes),
            stuck: shards(message.stuck),
            leaving: shards(message.leaving),
            is_drained: message.drained,
        }
    }
}

impl From<v1::ClusterShard> for ShardStatus {
    fn from(message: v1::ClusterShard) -> Self {
        let replica = |it: v1::ClusterReplica| ReplicaStatus {
            replica: ReplicaId(it.replica),
            votes: it.votes,
            wanted: it.wanted,
            reachable: it.reachable,
            committed: it.committed,
            applied: it.applied,
        };
        Self {
            shard: ShardId(message.shard),
            placement_version: message.placement_version,
            settled: message.settled,
            leader: (message.leader != 0).then_some(ReplicaId(message.leader)),
            term: message.term,
            voters_wanted: message.voters_wanted,
            under_replicated: message.under_replicated,
            has_majority: message.has_majority,
            pending_log_bytes: message.pending_log_bytes,
            replicas: message.replicas.into_iter().map(replica).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written_and_not_shown() {
        let token = JoinToken { secret: [0xab; 32], ca_sha256: [1; 32] };
        let text = token.to_string();
        assert_eq!(text, format!("rgj1.{}.{}", "ab".repeat(32), "01".repeat(32)));
        assert_eq!(format!(" {text}\n").parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("ab"));
        for wrong in ["", "rgj1.", &text[1..], &text[..text.len() - 1], &text.replace('.', "")] {
            assert_eq!(wrong.parse::<JoinToken>(), Err(InvalidJoinToken), "{wrong}");
        }
        assert_eq!(text.replacen("ab", "+b", 1).parse::<JoinToken>(), Err(InvalidJoinToken));
    }

    #[test]
    fn a_drain_is_stuck_when_all_that_is_left_has_nowhere_to_go() {
        let shards = |numbers: &[u32]| numbers.iter().copied().map(ShardId).collect::<Vec<_>>();
        let progress = |votes: &[u32], stuck: &[u32], leaving: &[u32]| DrainProgress {
            votes: shards(votes),
            stuck: shards(stuck),
            leaving: shards(leaving),
            ..DrainProgress::default()
        };
        assert!(progress(&[0, 1], &[0, 1], &[]).is_stuck());
        assert!(!progress(&[0, 1], &[0], &[]).is_stuck(), "shard 1 moves");
        assert!(!progress(&[0], &[0], &[1]).is_stuck(), "shard 1 is moving");
        let drained = DrainProgress { is_drained: true, ..progress(&[0], &[0], &[]) };
        assert!(!drained.is_stuck(), "the catalog's vote is spared");
    }
}
