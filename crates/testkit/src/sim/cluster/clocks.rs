//! A node whose clock is far off beside right ones soon leads nobody (CL-6).

use std::time::Duration;

use railgun_core::cluster_clock::MUST_NOT_LEAD_US;
use railgun_types::ShardId;

use super::ClusterWorld;
use super::faults::At;
use super::member::Member;

/// What nodes may err by when they tell each other of their clocks, in µs.
const ERROR_US: u64 = 1_000_000;
/// Time in which such a node gives its leads away when nothing else is wrong.
const GIVEN_AWAY_PATIENCE: Duration = Duration::from_secs(20);

impl ClusterWorld {
    /// Nothing is wrong but, perhaps, a clock.
    pub(super) async fn be_led_by_right_clocks(&mut self) {
        let is_far_off = |member: &Member| {
            member.node.clock.off_us().unsigned_abs() > MUST_NOT_LEAD_US + ERROR_US
        };
        // Of two replicas that a shard has left, either may be needed.
        let at = self.members.iter().position(is_far_off).filter(|_| self.lost.is_none());
        let Some(at) = at else { return };
        let begun = self.trace.elapsed();
        while self.history.is_sound()
            && let Some(shard) = self.leads_others(at)
        {
            if self.trace.elapsed() > begun + GIVEN_AWAY_PATIENCE {
                let how = format_args!(
                    "nothing else is wrong, and node {}, whose clock is far off, leads shard {shard} \
                     for {GIVEN_AWAY_PATIENCE:?}",
                    at + 1
                );
                self.history.violated("CL-6", how);
            }
            self.step().await;
        }
        let took = self.trace.elapsed() - begun;
        self.note(at, format_args!("has a wrong clock, and leads nobody after {took:?}"));
    }

    /// A shard that the node leads and others vote in.
    fn leads_others(&self, at: At) -> Option<ShardId> {
        let states = self.members[at].up()?.broker.replica_states();
        let leads = states.into_iter().find(|state| state.serving && state.voters.len() > 1);
        leads.map(|state| state.shard)
    }
}
