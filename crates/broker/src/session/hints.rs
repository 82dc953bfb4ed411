//! What a client has been told of where the shards of one of its publishers are led (CL-4).

use railgun_proto::v1;
use railgun_types::ShardId;

use crate::leaders::{LedAt, LedWatch};

/// See the module.
#[derive(Debug)]
pub(super) struct Hints {
    led: LedWatch,
    /// The shards, and what was told of each last.
    told: Vec<(ShardId, Option<LedAt>)>,
    /// Something may have to be told.
    is_due: bool,
}

impl Hints {
    pub(super) fn new(led: LedWatch) -> Self {
        Self { led, told: Vec::new(), is_due: false }
    }

    /// The client is to be told of this shard, too.
    pub(super) fn add(&mut self, shard: ShardId) {
        self.told.push((shard, None));
        self.is_due = true;
    }

    /// The next one to tell. Nothing is told while nobody leads, or what was told already. Cancel safe.
    pub(super) async fn next(&mut self) -> v1::LeaderHint {
        loop {
            if self.is_due {
                let led = self.led.now();
                for (shard, told) in &mut self.told {
                    if let Some(at) = led.get(shard)
                        && told.as_ref() != Some(at)
                    {
                        *told = Some(at.clone());
                        let (node_id, address) = (at.node.0, at.address.clone());
                        return v1::LeaderHint { shard: shard.0, node_id, address };
                    }
                }
                self.is_due = false;
            }
            self.led.changed().await;
            self.is_due = true;
        }
    }
}
