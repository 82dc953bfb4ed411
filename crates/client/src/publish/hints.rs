//! What the server of a publisher's QUIC stream has told of where its streams are led.

use std::collections::{BTreeMap, BTreeSet};

use railgun_proto::v1;
use tokio::sync::watch;

use crate::leaders::LedAt;

/// Shards that something is kept of.
const SHARDS_MAX: usize = 4_096;

/// See the module.
#[derive(Debug)]
pub(crate) struct Hints {
    /// Shards of streams that were bound. Those of streams that are bound no more still count: the server
    /// tells of them, too.
    bound: BTreeSet<u32>,
    led: BTreeMap<u32, LedAt>,
    /// The node that leads all of them.
    leader: watch::Sender<Option<LedAt>>,
}

impl Hints {
    /// Also the node that leads all streams of the publisher, as far as there is one and it is known.
    pub(crate) fn new() -> (Self, watch::Receiver<Option<LedAt>>) {
        let (leader, watch) = watch::channel(None);
        (Self { bound: BTreeSet::new(), led: BTreeMap::new(), leader }, watch)
    }

    pub(crate) fn on_bound(&mut self, bound: &v1::StreamBound) {
        // 0 is the catalog: a server that tells nothing.
        let is_told = bound.error.is_none() && bound.shard != 0;
        if is_told && self.bound.len() < SHARDS_MAX && self.bound.insert(bound.shard) {
            self.decide();
        }
    }

    /// It may come before the shard's first stream is bound.
    pub(crate) fn on_hint(&mut self, hint: v1::LeaderHint) {
        let shard = hint.shard;
        match LedAt::of(hint) {
            Some(at) if self.led.len() < SHARDS_MAX || self.led.contains_key(&shard) => {
                self.led.insert(shard, at);
            }
            _ => drop(self.led.remove(&shard)),
        }
        self.decide();
    }

    fn decide(&self) {
        let mut leaders = self.bound.iter().map(|shard| self.led.get(shard));
        let first = leaders.next().flatten();
        let leader = first.filter(|first| leaders.all(|leader| leader == Some(*first))).cloned();
        self.leader.send_if_modified(|known| {
            let changes = *known != leader;
            *known = leader;
            changes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(shard: u32) -> v1::StreamBound {
        v1::StreamBound { shard, ..v1::StreamBound::default() }
    }

    fn hint(shard: u32, node_id: u32) -> v1::LeaderHint {
        v1::LeaderHint { shard, node_id, address: format!("n{node_id}:1") }
    }

    #[test]
    fn one_leads_if_it_leads_all_that_is_bound() {
        let (mut hints, leader) = Hints::new();
        let node = || leader.borrow().as_ref().map(|at| at.node);
        hints.on_hint(hint(1, 2));
        assert_eq!(node(), None, "nothing is bound");
        hints.on_bound(&bound(1));
        assert_eq!(node(), Some(2));
        hints.on_bound(&bound(0));
        assert_eq!(node(), Some(2), "a server that tells no shard counts for nothing");
        hints.on_bound(&bound(5));
        assert_eq!(node(), None, "nobody is known to lead the other");
        hints.on_hint(hint(5, 3));
        assert_eq!(node(), None, "two lead");
        hints.on_hint(hint(1, 3));
        assert_eq!(node(), Some(3));
        let refused = v1::StreamBound { error: Some(v1::Error::default()), ..bound(6) };
        hints.on_bound(&refused);
        assert_eq!(node(), Some(3), "it is not bound");
        hints.on_hint(v1::LeaderHint { address: "nowhere".to_owned(), ..hint(1, 3) });
        assert_eq!(node(), None, "nobody can go there");
    }
}
