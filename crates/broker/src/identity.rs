//! What a data directory belongs to: checked at every start, and never anything else.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use railgun_log::{Disk, read_full_at, write_all_vectored_at};
use railgun_types::{ClusterUid, NodeId, NodeUid, ShardId};

/// Name of the file in the data directory.
const FILE: &str = "node.toml";
/// Longest file that is read.
const FILE_BYTES_MAX: usize = 16 << 10;

/// The identity of a node's data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of this directory, drawn when it was made.
    pub uid: NodeUid,
    /// The bucket its cold tier lies in, without credentials: for good once it belongs to a cluster.
    pub bucket: String,
    /// Its place in a cluster, once it has one.
    pub member: Option<Member>,
}

/// A node's place in a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number there.
    pub node: NodeId,
    /// The cluster life its logs belong to.
    pub cluster: ClusterUid,
    /// Who forms the cluster, in order of their numbers; none when that is done.
    pub founders: Vec<Founder>,
    /// The replicas that have begun on it: of each shard the last one's incarnation.
    pub replicas: BTreeMap<ShardId, u16>,
}

/// A node that a cluster is formed by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    /// Its data directory.
    pub uid: NodeUid,
    /// Its number.
    pub node: NodeId,
    /// Where other nodes reach it.
    pub peer_address: String,
    /// Where clients reach it.
    pub client_address: String,
}

/// A data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("cannot read or write {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not what this program writes.
    #[error("{path} is damaged: {reason}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        reason: String,
    },
    /// The data belongs to another bucket.
    #[error(
        "the data directory belongs to bucket {known}, not to {given}: start with the former, or \
         with an empty data directory"
    )]
    BucketMismatch {
        /// The bucket it was made with.
        known: String,
        /// The bucket it is started with.
        given: String,
    },
}

impl Identity {
    /// Reads the identity kept on `disk`, if there is one, for a node that is started with `bucket`. While it
    /// belongs to no cluster, nothing of it is in a bucket, and it may be given another.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load(disk: &dyn Disk, bucket: &str) -> Result<Option<Self>, IdentityError> {
        let path = Path::new(FILE);
        let io = |source| IdentityError::Io { path: path.to_owned(), source };
        let damaged = |reason: &str| IdentityError::Damaged {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let file = match disk.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io(source)),
        };
        let mut bytes = [0; FILE_BYTES_MAX];
        let read = read_full_at(&*file, &mut bytes, 0).map_err(io)?;
        let text = std::str::from_utf8(&bytes[..read]).map_err(|_| damaged("not UTF-8"))?;
        let known = Self::parse(text).map_err(damaged)?;
        // Its content was durable before it had its name; the name may not be: whoever gave it may have
        // died before it was synced.
        disk.sync_dir(Path::new("")).map_err(io)?;
        let given = bucket.to_owned();
        if known.member.is_none() {
            return Ok(Some(Self { bucket: given, ..known }));
        }
        if known.bucket != bucket {
            return Err(IdentityError::BucketMismatch { known: known.bucket, given });
        }
        Ok(Some(known))
    }

    /// Keeps this identity on `disk`, durably, in place of what was there. From then on the data directory
    /// of one that belongs to a cluster belongs to its bucket, too.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn keep(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        let io = |source| IdentityError::Io { path: Path::new(FILE).to_owned(), source };
        self.write(disk).map_err(io)
    }

    /// Behind a rename, so that a crash leaves the whole file or what was there before.
    fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let text = self.to_text();
        let temporary = Path::new("node.new");
        if let Err(error) = disk.remove(temporary)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let file = disk.create(temporary, text.len() as u64)?;
        write_all_vectored_at(&*file, &mut [IoSlice::new(text.as_bytes())], 0)?;
        file.sync_data()?;
        disk.rename(temporary, Path::new(FILE))?;
        disk.sync_dir(Path::new(""))
    }

    fn to_text(&self) -> String {
        // Values of TOML: a bucket's text may hold what would end or change a plain string.
        let mut table = toml::Table::new();
        let text = |text: &dyn std::fmt::Display| toml::Value::from(text.to_string());
        table.insert("uid".into(), text(&self.uid));
        table.insert("bucket".into(), text(&self.bucket));
        if let Some(member) = &self.member {
            table.insert("node".into(), toml::Value::from(i64::from(member.node.0)));
            table.insert("cluster".into(), text(&member.cluster));
            let founders = member.founders.iter().map(|founder| {
                let mut table = toml::Table::new();
                table.insert("uid".into(), text(&founder.uid));
                table.insert("node".into(), toml::Value::from(i64::from(founder.node.0)));
                table.insert("peer".into(), text(&founder.peer_address));
                table.insert("client".into(), text(&founder.client_address));
                toml::Value::Table(table)
            });
            let founders: Vec<_> = founders.collect();
            if !founders.is_empty() {
                table.insert("founders".into(), toml::Value::Array(founders));
            }
            let replica = |(shard, incarnation): (&ShardId, &u16)| {
                (shard.to_string(), toml::Value::from(i64::from(*incarnation)))
            };
            let replicas: toml::Table = member.replicas.iter().map(replica).collect();
            if !replicas.is_empty() {
                table.insert("replicas".into(), toml::Value::Table(replicas));
            }
        }
        table.to_string()
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let table: toml::Table = text.parse().map_err(|_| "not TOML")?;
        let bucket = text_of(&table, "bucket").ok_or("no bucket")?.to_owned();
        let member = match text_of(&table, "cluster") {
            None => None,
            Some(cluster) => {
                let cluster = cluster.parse().map_err(|_| "no cluster uid")?;
                let node = node_of(&table).ok_or("no node number")?;
                let founders = table.get("founders").and_then(toml::Value::as_array);
                let founders = founders.into_iter().flatten().map(founder_of);
                let founders = founders.collect::<Option<_>>().ok_or("a founder is wrong")?;
                let replicas = table.get("replicas").and_then(toml::Value::as_table);
                let replicas = replicas.into_iter().flatten().map(replica_of);
                let replicas = replicas.collect::<Option<_>>().ok_or("a replica is wrong")?;
                Some(Member { node, cluster, founders, replicas })
            }
        };
        let uid = match (text_of(&table, "uid"), &member) {
            (Some(uid), _) => uid.parse().map_err(|_| "no uid")?,
            // Of a release that had one node only: all that it has is its cluster's.
            (None, Some(member)) => NodeUid(member.cluster.0),
            (None, None) => return Err("no uid"),
        };
        Ok(Self { uid, bucket, member })
    }
}

fn text_of<'t>(table: &'t toml::Table, name: &str) -> Option<&'t str> {
    table.get(name).and_then(toml::Value::as_str)
}

fn node_of(table: &toml::Table) -> Option<NodeId> {
    let node = table.get("node").and_then(toml::Value::as_integer)?;
    node.try_into().ok().map(NodeId)
}

fn replica_of((shard, incarnation): (&String, &toml::Value)) -> Option<(ShardId, u16)> {
    let incarnation = incarnation.as_integer()?.try_into().ok()?;
    Some((ShardId(shard.parse().ok()?), incarnation))
}

fn founder_of(founder: &toml::Value) -> Option<Founder> {
    let table = founder.as_table()?;
    Some(Founder {
        uid: text_of(table, "uid")?.parse().ok()?,
        node: node_of(table)?,
        peer_address: text_of(table, "peer")?.to_owned(),
        client_address: text_of(table, "client")?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use railgun_log::{CrashPlan, SimDisk};

    use super::*;

    fn member(cluster: u8) -> Option<Member> {
        let (cluster, founders) = (ClusterUid([cluster; 16]), Vec::new());
        Some(Member { node: NodeId(1), cluster, founders, replicas: BTreeMap::new() })
    }

    #[test]
    fn a_bucket_of_any_name_is_known_again() {
        for bucket in ["file:///a\"b", "file:///a\\b", "file:///हि", "file:///a'b\n#c", ""] {
            let dir = tempfile::tempdir().expect("a directory");
            let disk = railgun_log::RealDisk::open(dir.path()).expect("a disk");
            let identity =
                Identity { uid: NodeUid([3; 16]), bucket: bucket.into(), member: member(7) };
            identity.keep(&disk).expect("made");
            let again = Identity::load(&disk, bucket).expect("read");
            assert_eq!(again, Some(identity), "{bucket}");
        }
    }

    #[test]
    fn a_place_in_a_cluster_is_kept_with_its_founders() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = railgun_log::RealDisk::open(dir.path()).expect("a disk");
        let load = || Identity::load(&disk, "file:///a").expect("read").expect("there is one");
        let fresh = Identity { uid: NodeUid([3; 16]), bucket: "file:///a".into(), member: None };
        fresh.keep(&disk).expect("kept");
        assert_eq!(load(), fresh);
        // The bucket was mistyped: nothing went there.
        let other = Identity::load(&disk, "file:///b").expect("read").expect("there is one");
        assert_eq!(other, Identity { bucket: "file:///b".into(), ..fresh.clone() });
        let founder = |node: u8| Founder {
            uid: NodeUid([node; 16]),
            node: NodeId(node.into()),
            peer_address: format!("n{node}:9401"),
            client_address: format!("n{node}:\"9400"),
        };
        let mut founding = Identity { member: member(7), ..fresh.clone() };
        if let Some(member) = &mut founding.member {
            member.founders = vec![founder(1), founder(2), founder(3)];
            member.replicas = BTreeMap::from([(ShardId(0), 1), (ShardId(12), 300)]);
        }
        founding.keep(&disk).expect("kept");
        assert_eq!(load(), founding);
        let founded = Identity { member: member(7), ..fresh };
        founded.keep(&disk).expect("kept");
        assert_eq!(load(), founded);
    }

    /// A process may end after any operation, and another starts: what that one reads, and acts on,
    /// outlives a power cut.
    #[test]
    fn an_identity_that_was_read_is_durable() {
        let (old, new) = (member(1), member(2));
        let identity = |member: &Option<Member>| Identity {
            uid: NodeUid([3; 16]),
            bucket: "file:///a".into(),
            member: member.clone(),
        };
        let load = |disk: &SimDisk| Identity::load(disk, "file:///a").expect("read");
        let mut read_new = 0;
        for more in 0.. {
            let disk = SimDisk::default();
            identity(&old).keep(&disk).expect("kept");
            disk.stop_after(Some(disk.operations() + more));
            let is_kept = identity(&new).keep(&disk).is_ok();
            disk.crash(&CrashPlan::ProcessOnly);
            let read = load(&disk);
            disk.crash(&CrashPlan::LoseAll);
            assert_eq!(load(&disk), read, "after {more} operations");
            read_new += u32::from(read == Some(identity(&new)));
            if is_kept {
                break;
            }
        }
        assert!(read_new > 1, "one of them was not durable when the process ended");
    }

    #[test]
    fn a_data_directory_keeps_its_identity() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = railgun_log::RealDisk::open(dir.path()).expect("a disk");
        assert_eq!(Identity::load(&disk, "file:///a").expect("read"), None);
        // As a node of a release for one node has written it.
        let cluster = ClusterUid([1; 16]);
        let written = format!("node = 1\ncluster = \"{cluster}\"\nbucket = \"file:///a\"\n");
        std::fs::write(dir.path().join(FILE), written).expect("written");
        let first =
            Identity { uid: NodeUid([1; 16]), bucket: "file:///a".into(), member: member(1) };
        assert_eq!(Identity::load(&disk, "file:///a").expect("read"), Some(first));
        let other = Identity::load(&disk, "file:///b");
        assert!(matches!(other, Err(IdentityError::BucketMismatch { .. })), "{other:?}");
        for damage in ["node = x", "bucket = \"file:///a\"", "cluster = 3\nbucket = \"file:///a\""]
        {
            std::fs::write(dir.path().join(FILE), damage).expect("written");
            let damaged = Identity::load(&disk, "file:///a");
            assert!(matches!(damaged, Err(IdentityError::Damaged { .. })), "{damaged:?}");
        }
    }
}
