//! The nodes of the cluster, under numbers that are never given twice.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use railgun_types::limits::{NODE_ADDRESS_BYTES, NODES, NODES_EVER};
use railgun_types::{ByteCursor, Malformed, NodeId, NodeUid, put_varint};

use super::CatalogOutcome;
use crate::codec::{self, map, narrow, put_list};
use crate::command::{NodeInfo, NodeState};

/// A node as the catalog knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// The life of its data directory.
    pub uid: NodeUid,
    /// Where other nodes reach it: host and port.
    pub peer_address: String,
    /// Where clients reach it: host and port.
    pub client_address: String,
    /// The greatest feature level it can work at.
    pub feature_level: u32,
    /// What it is to do.
    pub state: NodeState,
}

/// Nobody's uid.
const NO_UID: NodeUid = NodeUid([0; 16]);

/// Fewest bytes of a node in a checkpoint.
const NODE_BYTES_MIN: usize = 24;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Nodes {
    records: BTreeMap<NodeId, NodeRecord>,
    /// The greatest number given so far.
    last: u32,
    feature_level: u32,
}

impl NodeRecord {
    fn new(info: &NodeInfo, state: NodeState) -> Self {
        let NodeInfo { uid, peer_address, client_address, feature_level } = info.clone();
        Self { uid, peer_address, client_address, feature_level, state }
    }

    /// Whether it is part of the cluster.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.state != NodeState::Removed
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        let Self { uid, peer_address, client_address, feature_level, state } = self;
        out.put_slice(&uid.0);
        codec::put_text(out, peer_address);
        codec::put_text(out, client_address);
        out.put_u32_le(*feature_level);
        out.put_u8(*state as u8);
    }

    pub(crate) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        let info = NodeInfo::decode(cursor)?;
        Ok(Self::new(&info, codec::node_state(cursor)?))
    }
}

impl Nodes {
    /// The nodes a cluster begins with, if there are any. Of several with one number or uid the first
    /// counts.
    pub(super) fn founding(nodes: &[(NodeId, NodeInfo)]) -> Option<Self> {
        let mut founded = Self::default();
        for (node, info) in nodes.iter().take(NODES) {
            let numbered = (1..=NODES_EVER).contains(&node.0);
            if numbered && !founded.records.contains_key(node) && founded.by_uid(info.uid).is_none()
            {
                founded.records.insert(*node, NodeRecord::new(info, NodeState::Active));
            }
        }
        founded.last = founded.records.last_key_value()?.0.0;
        founded.feature_level = founded.common_feature_level();
        Some(founded)
    }

    /// Takes a node in, or notes what one that is known tells now.
    pub(super) fn add(&mut self, info: &NodeInfo) -> Result<NodeId, CatalogOutcome> {
        if info.uid == NO_UID {
            return Err(CatalogOutcome::Refused);
        }
        if let Some(node) = self.by_uid(info.uid) {
            return self.update(&[(node, info.clone())]).map(|()| node);
        }
        self.check(info, &[])?;
        let members = self.records.values().filter(|record| record.is_member()).count();
        if members >= NODES || self.last >= NODES_EVER {
            return Err(CatalogOutcome::TooManyNodes);
        }
        self.last += 1;
        let node = NodeId(self.last);
        self.records.insert(node, NodeRecord::new(info, NodeState::Active));
        Ok(node)
    }

    /// Notes what nodes tell of themselves, of all or of none: an address that one of them leaves is free
    /// for another.
    pub(super) fn update(&mut self, told: &[(NodeId, NodeInfo)]) -> Result<(), CatalogOutcome> {
        for (at, (node, info)) in told.iter().enumerate() {
            let record = self.member(*node)?;
            let is_twice = told[..at].iter().any(|(other, its)| {
                other == node
                    || its.uid == info.uid
                    || its.peer_address == info.peer_address && !info.peer_address.is_empty()
            });
            if is_twice || record.uid != info.uid {
                return Err(CatalogOutcome::Refused);
            }
            self.check(info, told)?;
        }
        for (node, info) in told {
            if let Some(record) = self.records.get_mut(node) {
                *record = NodeRecord::new(info, record.state);
            }
        }
        Ok(())
    }

    /// Drains, un-drains or removes a node. The last member stays one.
    pub(super) fn set_state(
        &mut self,
        node: NodeId,
        state: NodeState,
    ) -> Result<(), CatalogOutcome> {
        self.member(node)?;
        let has_others =
            self.records.iter().any(|(&other, record)| other != node && record.is_member());
        if state == NodeState::Removed && !has_others {
            return Err(CatalogOutcome::LastNode { node });
        }
        if let Some(record) = self.records.get_mut(&node) {
            record.state = state;
        }
        Ok(())
    }

    /// The feature level from here on: `level`, if it is higher and every member has it.
    pub(super) fn raise_feature_level(&mut self, level: u32) -> u32 {
        if level <= self.common_feature_level() {
            self.feature_level = self.feature_level.max(level);
        }
        self.feature_level
    }

    pub(super) fn feature_level(&self) -> u32 {
        self.feature_level
    }

    pub(super) fn get(&self, node: NodeId) -> Option<&NodeRecord> {
        self.records.get(&node)
    }

    pub(super) fn is_member(&self, node: NodeId) -> bool {
        self.get(node).is_some_and(NodeRecord::is_member)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &NodeRecord)> {
        self.records.iter().map(|(&node, record)| (node, record))
    }

    pub(super) fn by_uid(&self, uid: NodeUid) -> Option<NodeId> {
        let found = self.iter().find(|(_, record)| record.uid == uid && uid != NO_UID);
        found.map(|(node, _)| node)
    }

    pub(super) fn common_feature_level(&self) -> u32 {
        let members = self.records.values().filter(|record| record.is_member());
        members.map(|record| record.feature_level).min().unwrap_or(0)
    }

    fn member(&self, node: NodeId) -> Result<&NodeRecord, CatalogOutcome> {
        match self.get(node) {
            Some(record) if record.is_member() => Ok(record),
            Some(_) => Err(CatalogOutcome::NodeRemoved { node }),
            None => Err(CatalogOutcome::NoSuchNode { node }),
        }
    }

    /// Whether a node, new or one of those that tell of themselves, may be what `info` says.
    fn check(&self, info: &NodeInfo, told: &[(NodeId, NodeInfo)]) -> Result<(), CatalogOutcome> {
        if info.peer_address.len().max(info.client_address.len()) > NODE_ADDRESS_BYTES {
            return Err(CatalogOutcome::Refused);
        }
        let needed = self.feature_level;
        if info.feature_level < needed {
            return Err(CatalogOutcome::FeatureLevelTooLow { needed });
        }
        let taken = self.iter().find(|(other, record)| {
            let stays = told.iter().all(|(node, _)| node != other);
            stays && record.is_member() && record.peer_address == info.peer_address
        });
        match taken {
            Some((by, _)) if !info.peer_address.is_empty() => {
                Err(CatalogOutcome::AddressTaken { by })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        let Self { records, last, feature_level } = self;
        out.put_u32_le(*feature_level);
        out.put_u32_le(*last);
        put_list(out, records.iter(), |out, (node, record)| {
            put_varint(out, u64::from(node.0));
            record.encode(out);
        });
    }

    pub(super) fn decode(cursor: &mut ByteCursor<'_>) -> Result<Self, Malformed> {
        let feature_level = cursor.u32()?;
        let last = cursor.u32()?;
        let records = map(cursor, NODE_BYTES_MIN, |cursor| {
            Ok((NodeId(narrow(cursor)?), NodeRecord::decode(cursor)?))
        })?;
        // A number beyond the last one would be given again.
        let greatest = records.last_key_value().map_or(0, |(node, _): (&NodeId, _)| node.0);
        if greatest > last { Err(Malformed) } else { Ok(Self { records, last, feature_level }) }
    }
}
