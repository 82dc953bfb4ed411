//! What an id is held as.

use railgun_types::StreamUid;
use sha2::{Digest, Sha256};

/// 128 bits that stand for a message id on one stream.
///
/// Two ids with the same hash would be one id: the second message would be taken for the first. So nobody
/// must be able to look for such a pair, and a secret key is out of the question: all replicas have to get
/// the same hash, and nothing that they share is kept from publishers (they are told the stream's uid).
/// Hence half of a cryptographic hash, over the uid and the id: a pair costs 2^64 tries, and is worth
/// nothing on another stream. Hashes for tables, keyed or not, promise nothing to who knows the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::shard) struct IdHash(pub(in crate::shard) [u8; 16]);

impl IdHash {
    pub(in crate::shard) fn new(stream: StreamUid, id: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(stream.0).chain_update(id).finalize();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Self(hash)
    }

    /// Both halves.
    pub(in crate::shard) fn words(self) -> [u64; 2] {
        let n = u128::from_le_bytes(self.0);
        [n as u64, (n >> 64) as u64]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_a_stream_and_an_id_and_never_changes() {
        let (a, b) = (StreamUid([1; 16]), StreamUid([2; 16]));
        assert_eq!(IdHash::new(a, b"x"), IdHash::new(a, b"x"));
        assert_ne!(IdHash::new(a, b"x"), IdHash::new(a, b"y"));
        assert_ne!(IdHash::new(a, b"x"), IdHash::new(b, b"x"));
        // What is in checkpoints must mean the same in every release.
        let known = 0x98e3_8cdb_fe5d_d496_8c50_a17b_86be_ea0c;
        assert_eq!(u128::from_be_bytes(IdHash::new(a, b"x").0), known);
    }
}
