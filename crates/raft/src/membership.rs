//! The bytes of a membership: in entries of the log and in checkpoints, and so in what replicas send one
//! another.
//!
//! ```text
//! membership  version u8 = 1 ‖ configs varint ‖ per config: voters varint ‖ per voter: id u64
//!             ‖ nodes varint ‖ per node: id u64 ‖ address length varint ‖ address, UTF-8
//! stored      version u8 = 1 ‖ 0, or 1 ‖ term u64 ‖ index u64 of its entry ‖ membership
//! ```
//!
//! Integers are little-endian, ids strictly ascend, nothing follows: one encoding per membership.
//! Two configs mean that a change from the first to the second is under way (joint consensus).

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use railgun_types::{ByteCursor, EntryId, Malformed, put_varint};

use crate::raft_types::{Membership, Peer, StoredMembership, to_entry_id, to_log_id};

const VERSION: u8 = 1;

/// Bytes that are not a membership.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMembership {
    /// The bytes end early or hold a number in a longer form than needed.
    #[error("the membership is malformed")]
    Malformed(#[from] Malformed),
    /// Written by another version of railgun.
    #[error("the membership has the unknown version {0}")]
    Version(u8),
    /// Ids that do not ascend.
    #[error("replica {0:#x} of the membership is out of order")]
    OutOfOrder(u64),
    /// An address that is no text.
    #[error("the address of replica {0:#x} is not UTF-8")]
    Address(u64),
    /// A flag that is neither 0 nor 1.
    #[error("the membership has the unknown flag {0}")]
    Flag(u8),
    /// More bytes than a membership.
    #[error("{0} bytes follow the membership")]
    TrailingBytes(usize),
    /// A voter without a node, or a config without voters.
    #[error("the membership contradicts itself: {0}")]
    Inconsistent(String),
}

pub(crate) fn encode(membership: &Membership) -> Bytes {
    let mut out = BytesMut::new();
    put_membership(&mut out, membership);
    out.freeze()
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Membership, InvalidMembership> {
    let mut cursor = ByteCursor::new(bytes);
    let membership = read_membership(&mut cursor)?;
    expect_end(&cursor)?;
    Ok(membership)
}

/// The form that checkpoints and snapshots carry: it knows which entry made it.
pub(crate) fn encode_stored(stored: &StoredMembership) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(VERSION);
    match stored.log_id().as_ref().map(to_entry_id) {
        None => out.put_u8(0),
        Some(id) => {
            out.put_u8(1);
            out.put_u64_le(id.term);
            out.put_u64_le(id.index);
        }
    }
    put_membership(&mut out, stored.membership());
    out.freeze()
}

pub(crate) fn decode_stored(bytes: &[u8]) -> Result<StoredMembership, InvalidMembership> {
    let mut cursor = ByteCursor::new(bytes);
    expect_version(&mut cursor)?;
    let id = match cursor.u8()? {
        0 => None,
        1 => Some(EntryId { term: cursor.u64()?, index: cursor.u64()? }),
        flag => return Err(InvalidMembership::Flag(flag)),
    };
    let membership = read_membership(&mut cursor)?;
    expect_end(&cursor)?;
    Ok(StoredMembership::new(id.map(to_log_id), membership))
}

fn put_membership(out: &mut BytesMut, membership: &Membership) {
    out.put_u8(VERSION);
    let configs = membership.get_joint_config();
    put_varint(out, configs.len() as u64);
    for voters in configs {
        put_varint(out, voters.len() as u64);
        voters.iter().for_each(|id| out.put_u64_le(*id));
    }
    put_varint(out, membership.nodes().count() as u64);
    for (id, peer) in membership.nodes() {
        out.put_u64_le(*id);
        put_varint(out, peer.address.len() as u64);
        out.put_slice(peer.address.as_bytes());
    }
}

/// Counts are not trusted: each element is read before it takes memory.
fn read_membership(cursor: &mut ByteCursor<'_>) -> Result<Membership, InvalidMembership> {
    expect_version(cursor)?;
    let mut configs = Vec::new();
    for _ in 0..cursor.varint()? {
        let mut voters = BTreeSet::new();
        for _ in 0..cursor.varint()? {
            let id = cursor.u64()?;
            ascending(voters.last(), id)?;
            voters.insert(id);
        }
        configs.push(voters);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..cursor.varint()? {
        let id = cursor.u64()?;
        ascending(nodes.last_key_value().map(|(last, _)| last), id)?;
        let address =
            str::from_utf8(cursor.sized()?).map_err(|_| InvalidMembership::Address(id))?;
        nodes.insert(id, Peer { address: address.to_owned() });
    }
    Membership::new(configs, nodes)
        .map_err(|error| InvalidMembership::Inconsistent(error.to_string()))
}

fn ascending(last: Option<&u64>, id: u64) -> Result<(), InvalidMembership> {
    if last.is_some_and(|last| *last >= id) {
        return Err(InvalidMembership::OutOfOrder(id));
    }
    Ok(())
}

fn expect_version(cursor: &mut ByteCursor<'_>) -> Result<(), InvalidMembership> {
    match cursor.u8()? {
        VERSION => Ok(()),
        version => Err(InvalidMembership::Version(version)),
    }
}

fn expect_end(cursor: &ByteCursor<'_>) -> Result<(), InvalidMembership> {
    match cursor.remaining() {
        0 => Ok(()),
        bytes => Err(InvalidMembership::TrailingBytes(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joint() -> Membership {
        let peer = |address: &str| Peer { address: address.to_owned() };
        let nodes = BTreeMap::from([
            (0x1_0000, peer("a:1")),
            (0x2_0000, peer("b:22")),
            (0x2_0001, peer("")),
        ]);
        let configs = vec![BTreeSet::from([0x1_0000]), BTreeSet::from([0x1_0000, 0x2_0000])];
        Membership::new(configs, nodes).expect("every voter has a node")
    }

    /// The compatibility guard: these bytes are on disks.
    const GOLDEN: &[u8] = b"\x01\x02\
        \x01\x00\x00\x01\x00\x00\x00\x00\x00\
        \x02\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\
        \x03\
        \x00\x00\x01\x00\x00\x00\x00\x00\x03a:1\
        \x00\x00\x02\x00\x00\x00\x00\x00\x04b:22\
        \x01\x00\x02\x00\x00\x00\x00\x00\x00";

    #[test]
    fn a_membership_has_these_bytes() {
        assert_eq!(encode(&joint()), GOLDEN);
        assert_eq!(decode(GOLDEN), Ok(joint()));
        assert_eq!(encode(&Membership::default()), &b"\x01\x00\x00"[..]);

        let id = to_log_id(EntryId { term: 3, index: 258 });
        let stored = StoredMembership::new(Some(id), joint());
        let mut golden = b"\x01\x01\x03\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0".to_vec();
        golden.extend_from_slice(GOLDEN);
        assert_eq!(encode_stored(&stored), golden);
        assert_eq!(decode_stored(&golden), Ok(stored));
        let none = StoredMembership::default();
        assert_eq!(encode_stored(&none), &b"\x01\x00\x01\x00\x00"[..]);
        assert_eq!(decode_stored(b"\x01\x00\x01\x00\x00"), Ok(none));
    }

    #[test]
    fn every_cut_and_every_excess_is_an_error() {
        for len in 0..GOLDEN.len() {
            assert!(decode(&GOLDEN[..len]).is_err(), "cut at {len}");
        }
        let excess = [GOLDEN, b"\0"].concat();
        assert_eq!(decode(&excess), Err(InvalidMembership::TrailingBytes(1)));
        assert_eq!(decode(b"\x02\0\0"), Err(InvalidMembership::Version(2)));
        assert_eq!(decode_stored(b"\x01\x02"), Err(InvalidMembership::Flag(2)));
    }

    #[test]
    fn a_voter_without_a_node_and_ids_in_disorder_are_errors() {
        let lone = b"\x01\x01\x01\x07\0\0\0\0\0\0\0\x00";
        assert!(matches!(decode(lone), Err(InvalidMembership::Inconsistent(_))));
        let twice = b"\x01\x01\x02\x07\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x00";
        assert_eq!(decode(twice), Err(InvalidMembership::OutOfOrder(7)));
        let no_text = b"\x01\x00\x01\x07\0\0\0\0\0\0\0\x01\xff";
        assert_eq!(decode(no_text), Err(InvalidMembership::Address(7)));
        // A count of 2^63 ends with the bytes, not with the memory.
        let huge = b"\x01\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01";
        assert!(matches!(decode(huge), Err(InvalidMembership::Malformed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_give_an_error_or_a_membership_with_exactly_these_bytes(
            bytes in proptest::collection::vec(0u8..4, 0..64),
        ) {
            if let Ok(membership) = decode(&bytes) {
                prop_assert_eq!(encode(&membership), bytes);
            }
        }
    }
}
