//! What a data directory belongs to: written once, checked at every start.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use railgun_log::{Disk, read_full_at, write_all_vectored_at};
use railgun_types::{ClusterUid, NodeId};

/// Name of the file in the data directory.
const FILE: &str = "node.toml";
/// Longest file that is read.
const FILE_BYTES_MAX: usize = 16 << 10;

/// The identity of a node's data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// The cluster life its logs belong to.
    pub cluster: ClusterUid,
    /// The bucket its cold tier lies in, without credentials.
    pub bucket: String,
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
    /// Reads the identity kept on `disk`, if there is one, for a node that is started with `bucket`.
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
        if known.bucket != bucket {
            let given = bucket.to_owned();
            return Err(IdentityError::BucketMismatch { known: known.bucket, given });
        }
        Ok(Some(known))
    }

    /// Keeps this identity on `disk`, durably, where there is none. From then on the data directory
    /// belongs to its bucket: not before the bucket is known to be one.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn create(&self, disk: &dyn Disk) -> Result<(), IdentityError> {
        let io = |source| IdentityError::Io { path: Path::new(FILE).to_owned(), source };
        self.write(disk).map_err(io)
    }

    /// Behind a rename, so that a crash leaves the whole file or none.
    fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        // A TOML string: a bucket's text may hold what would end or change a plain one.
        let bucket = toml::Value::from(self.bucket.as_str());
        let (node, cluster) = (self.node, self.cluster);
        let text = format!("node = {node}\ncluster = \"{cluster}\"\nbucket = {bucket}\n");
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

    fn parse(text: &str) -> Result<Self, &'static str> {
        let table: toml::Table = text.parse().map_err(|_| "not TOML")?;
        let text = |name: &str| table.get(name).and_then(toml::Value::as_str);
        let node = table.get("node").and_then(toml::Value::as_integer);
        let node = node.and_then(|node| node.try_into().ok()).ok_or("no node number")?;
        let cluster = text("cluster").and_then(|uid| uid.parse().ok()).ok_or("no cluster uid")?;
        let bucket = text("bucket").ok_or("no bucket")?.to_owned();
        Ok(Self { node: NodeId(node), cluster, bucket })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_of_any_name_is_known_again() {
        for bucket in ["file:///a\"b", "file:///a\\b", "file:///हि", "file:///a'b\n#c", ""] {
            let dir = tempfile::tempdir().expect("a directory");
            let disk = railgun_log::RealDisk::open(dir.path()).expect("a disk");
            let identity =
                Identity { node: NodeId(1), cluster: ClusterUid([7; 16]), bucket: bucket.into() };
            identity.create(&disk).expect("made");
            let again = Identity::load(&disk, bucket).expect("read");
            assert_eq!(again, Some(identity), "{bucket}");
        }
    }

    #[test]
    fn a_data_directory_keeps_its_identity() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = railgun_log::RealDisk::open(dir.path()).expect("a disk");
        let fresh = |cluster, bucket: &str| Identity {
            node: NodeId(1),
            cluster: ClusterUid([cluster; 16]),
            bucket: bucket.to_owned(),
        };
        let first = fresh(1, "file:///a");
        assert_eq!(Identity::load(&disk, "file:///a").expect("read"), None);
        first.create(&disk).expect("made");
        assert_eq!(Identity::load(&disk, "file:///a").expect("read"), Some(first));
        let other = Identity::load(&disk, "file:///b");
        assert!(matches!(other, Err(IdentityError::BucketMismatch { .. })), "{other:?}");
        std::fs::write(dir.path().join(FILE), "node = x").expect("written");
        let damaged = Identity::load(&disk, "file:///a");
        assert!(matches!(damaged, Err(IdentityError::Damaged { .. })), "{damaged:?}");
    }
}
