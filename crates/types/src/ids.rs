//! Identifiers. Each is a newtype, so that an offset is never taken for a log index.

use std::fmt;
use std::str::FromStr;

/// Position of a record in one stream: dense, from 0 (PS-2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    /// The position `count` records later. Saturates at the end of the offset space.
    #[must_use]
    pub fn plus(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Microseconds since the Unix epoch, UTC. Log time where it comes from an entry (SEMANTICS §0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// Microseconds in one UTC day.
const DAY_US: i64 = 86_400_000_000;

impl Timestamp {
    /// Days since the Unix epoch of the UTC day this instant lies in.
    #[must_use]
    pub fn utc_day(self) -> i64 {
        self.0.div_euclid(DAY_US)
    }

    /// Microseconds from `earlier` to this instant; negative if `earlier` is later.
    #[must_use]
    pub fn since_us(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A node of the cluster, fixed for the life of its data directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One Raft replica: node and incarnation. A replica that lost its log gets a new incarnation, so
/// that nobody votes with amnesia (CL-3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(pub u64);

impl ReplicaId {
    /// `node << 16 | incarnation`.
    #[must_use]
    pub fn new(node: NodeId, incarnation: u16) -> Self {
        Self(u64::from(node.0) << 16 | u64::from(incarnation))
    }

    /// The node it is on.
    #[must_use]
    pub fn node(self) -> NodeId {
        // A replica id is made of a node's 32 bits and an incarnation's 16; what else is in bytes from
        // elsewhere names no node.
        NodeId(u32::try_from(self.0 >> 16).unwrap_or(u32::MAX))
    }

    /// Which life of its node's replica it is.
    #[must_use]
    pub fn incarnation(self) -> u16 {
        self.0 as u16
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.incarnation())
    }
}

/// A shard: one Raft group, its log, and the streams placed on it. Shard 0 is the catalog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u32);

impl ShardId {
    /// The shard that owns names and placement (DESIGN §6).
    pub const CATALOG: Self = Self(0);
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of a consumer group: the log index of the entry that made it, so that a group deleted and
/// made again is another one. Unique within its shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Position of an entry in the log of a shard: ordered by term, then index. The first index of a log
/// is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Raft term in which the entry was proposed.
    pub term: u64,
    /// Place of the entry in the log.
    pub index: u64,
}

impl EntryId {
    /// The id of the entry `index` of `term`.
    #[must_use]
    pub const fn new(term: u64, index: u64) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.term, self.index)
    }
}

/// A text that is not 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an identifier of 32 hexadecimal digits")]
pub struct ParseUidError {
    text: String,
}

macro_rules! uid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseUidError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let digits = text.as_bytes();
                let error = || ParseUidError { text: text.chars().take(64).collect() };
                if digits.len() != 32 {
                    return Err(error());
                }
                let nibble = |d: u8| (d as char).to_digit(16).ok_or_else(error);
                let mut uid = [0; 16];
                for (byte, pair) in uid.iter_mut().zip(digits.chunks_exact(2)) {
                    *byte = (nibble(pair[0])? << 4 | nibble(pair[1])?) as u8;
                }
                Ok(Self(uid))
            }
        }
    };
}

uid! {
    /// One life of a stream: 128 random bits, so that a stream deleted and made again is another one.
    StreamUid
}
uid! {
    /// One life of a cluster: 128 random bits, part of every key in its bucket.
    ClusterUid
}
uid! {
    /// One life of a node's data directory: 128 random bits, drawn when it is made. A node is known
    /// by them wherever it moves, and an empty directory is another node.
    NodeUid
}
uid! {
    /// One publisher handle: 128 random bits drawn by the client (PQ-1).
    ProducerId
}
uid! {
    /// One change that a client asks for, however often it has to: 128 random bits drawn by the client
    /// (EN-6).
    RequestId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_text_round_trips_and_refuses_other_texts() {
        let uid = StreamUid(std::array::from_fn(|i| i as u8 * 17));
        assert_eq!(uid.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(uid.to_string().parse(), Ok(uid));
        for bad in ["", "0", "00112233445566778899aabbccddeef", "zz112233445566778899aabbccddeeff"]
        {
            assert!(bad.parse::<StreamUid>().is_err(), "{bad}");
        }
        assert!("é".repeat(16).parse::<StreamUid>().is_err());
    }

    #[test]
    fn a_replica_is_node_and_incarnation() {
        let replica = ReplicaId::new(NodeId(0x1_0002), 0xfffe);
        assert_eq!((replica.0, replica.incarnation()), (0x1_0002_fffe, 0xfffe));
        assert_eq!(replica.node(), NodeId(0x1_0002));
        assert_eq!(ReplicaId(u64::MAX).node(), NodeId(u32::MAX));
        assert_eq!(replica.to_string(), "65538.65534");
    }

    #[test]
    fn days_before_the_epoch_are_floored() {
        assert_eq!(Timestamp(-1).utc_day(), -1);
        assert_eq!(Timestamp(0).utc_day(), 0);
        assert_eq!(Timestamp(DAY_US).utc_day(), 1);
    }
}
