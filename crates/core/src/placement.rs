//! On which shard a new stream is put.

use railgun_types::{ShardId, StreamUid, crc32c, crc32c_append};

use crate::command::ClusterSettings;

/// The shard of a new stream: rendezvous hashing over the data shards, so that adding shards moves
/// no choice but those that the new shard wins. Existing streams stay where they are.
#[must_use]
pub fn shard_of(stream: StreamUid, settings: &ClusterSettings) -> ShardId {
    let weight = |shard: &ShardId| {
        // CRC-32C is linear; the multiplication breaks the ties it would make between shards.
        let mixed = crc32c_append(crc32c(&stream.0), &shard.0.to_le_bytes());
        (u64::from(mixed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16, shard.0)
    };
    settings.data_shards().max_by_key(weight).unwrap_or(ShardId(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use railgun_types::ClusterUid;

    #[test]
    fn streams_spread_and_stay_when_a_shard_is_added() {
        let settings =
            |shards| ClusterSettings { cluster: ClusterUid([0; 16]), shards, hot_bytes_max: 0 };
        let mut counts = [0; 5];
        for n in 0..10_000u32 {
            let mut uid = [7; 16];
            uid[..4].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_le_bytes());
            let stream = StreamUid(uid);
            let four = shard_of(stream, &settings(4));
            let five = shard_of(stream, &settings(5));
            counts[four.0 as usize] += 1;
            assert!(five == four || five == ShardId(5));
        }
        assert!(counts[1..].iter().all(|&c| (2_000..3_000).contains(&c)), "{counts:?}");
    }
}
