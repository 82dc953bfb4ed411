//! The catalog as bytes. The frame is in [`crate::checkpoint`].
//!
//! ```text
//! names = settings? u8 [cluster 16 │ shards u32 │ hot bytes u64 │ replicas u8] │ map of name
//! name  = name (length v, bytes) │ stream 16 │ shard v │ since i64
//!         │ phase u8 [1 creating: patch │ 2 active │ 3 deleting │ 4 creating: patch │ request 16]
//! nodes = feature level u32 │ last number u32 │ map of node
//!         │ map of placement │ map of incarnation │ map of token
//! node  = number v │ uid 16 │ peer address (length v, bytes) │ client address (likewise)
//!         │ feature level u32 │ state u8
//! placement   = shard v │ version v │ voters: list of u64 │ learners: likewise │ in force: likewise
//!               │ settled v
//! incarnation = shard v │ node v │ the last one u16
//! token = hash 32 │ expires i64 │ used by? u8 [uid 16]
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use railgun_types::limits::SHARDS;
use railgun_types::{
    ByteCursor, ClusterUid, EntryId, Malformed, RequestId, ShardId, StreamName, StreamUid,
    Timestamp,
};

use super::{Catalog, CatalogEntry, Nodes, Phase, Replicas, Tokens};
use crate::checkpoint::{
    CheckpointError, CheckpointReader, CheckpointWriter, Header, Section, Unwritten,
};
use crate::codec::{self, map, narrow, put_list};
use crate::command::ClusterSettings;

/// Fewest bytes of a name in a checkpoint.
const NAME_BYTES_MIN: usize = 28;

const CREATING: u8 = 1;
const ACTIVE: u8 = 2;
const DELETING: u8 = 3;
const CREATING_OF_REQUEST: u8 = 4;

/// What a checkpoint of the catalog holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredCatalog {
    /// The catalog.
    pub catalog: Catalog,
    /// The last entry applied to it.
    pub applied: Option<EntryId>,
    /// What `encode_checkpoint` was given.
    pub membership: Bytes,
}

impl Catalog {
    /// The catalog as bytes. `applied` is the last entry applied; `membership` is opaque.
    pub fn encode_checkpoint(&self, applied: Option<EntryId>, membership: &[u8]) -> Unwritten {
        // Named one by one, so that a new field cannot be forgotten.
        let Self { settings, names, half_done: _, nodes, replicas, tokens, log_time } = self;
        let mut writer = CheckpointWriter::new(&Header {
            shard: ShardId::CATALOG,
            cluster: settings.map(|settings| settings.cluster),
            applied,
            log_time: *log_time,
            has_index: false,
            membership,
        });
        writer.section(Section::Names, |out| {
            codec::put_option(out, *settings, |out, settings| settings.encode(out));
            put_list(out, names.iter(), put_name);
        });
        writer.section(Section::Nodes, |out| {
            nodes.encode(out);
            replicas.encode(out);
            tokens.encode(out);
        });
        writer.finish()
    }

    /// Reads a checkpoint; `cluster` is `None` where this node belongs to none yet.
    ///
    /// # Errors
    /// [`CheckpointError`]; never panics, never allocates more than a small multiple of `bytes`.
    pub fn decode_checkpoint(
        cluster: Option<ClusterUid>,
        bytes: &[u8],
    ) -> Result<RestoredCatalog, CheckpointError> {
        let (header, mut reader) = CheckpointReader::new(bytes)?;
        header.check_owner(cluster, ShardId::CATALOG)?;
        let (settings, names) = reader.section(Section::Names, |cursor| {
            let settings = codec::option(cursor, ClusterSettings::decode)?;
            if settings.is_some_and(|settings| settings.shards > SHARDS) {
                return Err(Malformed);
            }
            Ok((settings, map(cursor, NAME_BYTES_MIN, name)?))
        })?;
        let is_half_done = |(_, entry): &(&StreamName, &CatalogEntry)| entry.phase != Phase::Active;
        let half_done = names.iter().filter(is_half_done).map(|(name, _)| name.clone()).collect();
        let (nodes, replicas, tokens) = reader.section(Section::Nodes, |cursor| {
            Ok((Nodes::decode(cursor)?, Replicas::decode(cursor)?, Tokens::decode(cursor)?))
        })?;
        reader.finish()?;
        if header.has_index || header.cluster != settings.map(|settings| settings.cluster) {
            return Err(CheckpointError::Malformed { section: Section::Header });
        }
        Ok(RestoredCatalog {
            catalog: Self {
                settings,
                names,
                half_done,
                nodes,
                replicas,
                tokens,
                log_time: header.log_time,
            },
            applied: header.applied,
            membership: Bytes::copy_from_slice(header.membership),
        })
    }
}

fn put_name(out: &mut BytesMut, (name, entry): (&StreamName, &CatalogEntry)) {
    codec::put_text(out, name.as_str());
    put_entry(out, entry);
}

pub(super) fn put_entry(out: &mut BytesMut, entry: &CatalogEntry) {
    let CatalogEntry { stream, shard, phase, since } = entry;
    out.put_slice(&stream.0);
    railgun_types::put_varint(out, u64::from(shard.0));
    out.put_i64_le(since.0);
    match phase {
        Phase::Creating { patch, request } => {
            out.put_u8(if request.is_some() { CREATING_OF_REQUEST } else { CREATING });
            codec::put_patch(out, patch);
            if let Some(request) = request {
                out.put_slice(&request.0);
            }
        }
        Phase::Active => out.put_u8(ACTIVE),
        Phase::Deleting => out.put_u8(DELETING),
    }
}

fn name(cursor: &mut ByteCursor<'_>) -> Result<(StreamName, CatalogEntry), Malformed> {
    Ok((codec::name(cursor)?, entry(cursor)?))
}

pub(super) fn entry(cursor: &mut ByteCursor<'_>) -> Result<CatalogEntry, Malformed> {
    let stream = StreamUid(cursor.array()?);
    let shard = ShardId(narrow(cursor)?);
    let since = Timestamp(cursor.i64()?);
    let phase = match cursor.u8()? {
        CREATING => Phase::Creating { patch: codec::patch(cursor)?, request: None },
        CREATING_OF_REQUEST => Phase::Creating {
            patch: codec::patch(cursor)?,
            request: Some(RequestId(cursor.array()?)),
        },
        ACTIVE => Phase::Active,
        DELETING => Phase::Deleting,
        _ => return Err(Malformed),
    };
    Ok(CatalogEntry { stream, shard, phase, since })
}

#[cfg(test)]
mod tests {
    use railgun_types::{DedupPatch, DlqPatch, NodeId, NodeUid, ReplicaId, SpecPatch, StreamKind};

    use super::*;
    use crate::checkpoint::damage;
    use crate::command::{CatalogCommand, Command, CommandBody, NodeInfo, NodeState};

    const CLUSTER: ClusterUid = ClusterUid([7; 16]);
    const AT: EntryId = EntryId { index: 300, term: 4 };

    fn apply(catalog: &mut Catalog, ts: i64, command: CatalogCommand) {
        catalog.apply(&Command { ts: Timestamp(ts), body: CommandBody::Catalog(command) });
    }

    fn info(n: u8) -> NodeInfo {
        NodeInfo {
            uid: NodeUid([n; 16]),
            peer_address: format!("node-{n}:7401"),
            client_address: format!("node-{n}:7400"),
            feature_level: 2,
        }
    }

    /// One of everything: names, nodes in each state, changed placements, tokens.
    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        let settings =
            ClusterSettings { cluster: CLUSTER, shards: 3, hot_bytes_max: 1 << 40, replicas: 3 };
        let nodes = [1, 2, 4].map(|n| (NodeId(u32::from(n)), info(n))).to_vec();
        apply(&mut catalog, 1, CatalogCommand::Found { settings, nodes });
        add_names(&mut catalog);
        let (shard, node) = (ShardId(2), NodeId(4));
        let now = 1_700_000_000_000_000;
        for command in [
            CatalogCommand::AddNode(info(5)),
            CatalogCommand::AddNode(info(6)),
            CatalogCommand::AddNode(info(7)),
            CatalogCommand::Settled { shard, version: 1 },
            CatalogCommand::Reincarnate { shard, lost: ReplicaId::new(node, 1) },
            CatalogCommand::SetNodeState { node: NodeId(1), state: NodeState::Removed },
            CatalogCommand::SetNodeState { node: NodeId(2), state: NodeState::Draining },
            CatalogCommand::AddToken { hash: [1; 32], expires: Timestamp(now + 1_000) },
            CatalogCommand::AddToken { hash: [2; 32], expires: Timestamp(now + 2_000) },
            CatalogCommand::UseToken { hash: [2; 32], uid: NodeUid([5; 16]) },
        ] {
            apply(&mut catalog, 0, command);
        }
        catalog
    }

    fn add_names(catalog: &mut Catalog) {
        let patch = SpecPatch {
            kind: Some(StreamKind::Persistent),
            max_message_bytes: Some(9),
            owner: Some("ops".to_owned()),
            dlq: DlqPatch { max_attempts: Some(3), ..DlqPatch::default() },
            dedup: DedupPatch { window_ms: Some(120_000), ..DedupPatch::default() },
        };
        for (n, text) in [(1, "z"), (2, "orders.eu"), (3, "a")] {
            let name = StreamName::new(text).expect("valid");
            let stream = StreamUid([n; 16]);
            let reserve = CatalogCommand::Reserve {
                name: name.clone(),
                stream,
                patch: patch.clone(),
                request: None,
            };
            apply(catalog, 1_700_000_000_000_000 + i64::from(n), reserve);
            if n > 1 {
                apply(catalog, 0, CatalogCommand::Activate { name: name.clone(), stream });
            }
            if n > 2 {
                apply(catalog, 0, CatalogCommand::Delete { name, stream });
            }
        }
    }

    fn bytes(catalog: &Catalog, applied: Option<EntryId>) -> Vec<u8> {
        catalog.encode_checkpoint(applied, b"voters").pieces().concat()
    }

    #[test]
    fn a_catalog_comes_back_as_it_was() {
        for (catalog, applied) in [(Catalog::default(), None), (catalog(), Some(AT))] {
            let bytes = bytes(&catalog, applied);
            let restored = Catalog::decode_checkpoint(None, &bytes).expect("our own");
            let membership = Bytes::from_static(b"voters");
            assert_eq!(restored, RestoredCatalog { catalog, applied, membership });
        }
    }

    #[test]
    fn another_owner_is_named() {
        let read = |cluster, bytes: &[u8]| Catalog::decode_checkpoint(cluster, bytes).map(|_| ());
        let bytes = bytes(&catalog(), Some(AT));
        assert_eq!(read(Some(CLUSTER), &bytes), Ok(()));
        let wanted = ClusterUid([8; 16]);
        let error = CheckpointError::WrongCluster { wanted, found: Some(CLUSTER) };
        assert_eq!(read(Some(wanted), &bytes), Err(error));
        let shard = crate::shard::ShardState::new(CLUSTER, ShardId(3));
        let error = CheckpointError::WrongShard { wanted: ShardId::CATALOG, found: ShardId(3) };
        assert_eq!(read(None, &shard.encode_checkpoint(b"", false).pieces().concat()), Err(error));
    }

    #[test]
    fn damage_is_refused() {
        for (catalog, applied) in [(Catalog::default(), None), (catalog(), Some(AT))] {
            damage::check(&bytes(&catalog, applied), |damaged| {
                let decoded = Catalog::decode_checkpoint(None, damaged);
                let membership = decoded.as_ref().map(|it| &it.membership);
                damage::check_check(None, ShardId::CATALOG, damaged, membership);
                let RestoredCatalog { catalog, applied, membership } = decoded?;
                Ok(catalog.encode_checkpoint(applied, &membership).pieces().concat())
            });
        }
        let huge = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        let bytes = damage::with_content(&bytes(&Catalog::default(), None), Section::Names, &huge);
        let error = CheckpointError::Malformed { section: Section::Names };
        assert_eq!(Catalog::decode_checkpoint(None, &bytes), Err(error));
    }

    #[test]
    fn the_format_is_fixed() {
        let bytes = bytes(&catalog(), Some(AT));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/checkpoint-catalog-v2.bin");
        if std::env::var_os("REGENERATE_GOLDEN").is_some() {
            std::fs::write(path, &bytes).expect("it can be written");
        }
        let golden = std::fs::read(path).expect("golden file is there");
        assert!(bytes == golden, "the format changed; now {} bytes: {bytes:02x?}", bytes.len());
    }
}
