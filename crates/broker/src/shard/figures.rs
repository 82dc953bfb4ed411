//! What a shard tells about itself, for metrics.

use railgun_core::shard::{ShardState, Waiting};
use railgun_types::{ShardId, Timestamp};

use crate::group::GroupFigures;

/// A shard's figures at one moment. Totals count since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ShardFigures {
    /// The shard.
    pub shard: ShardId,
    /// Whether this node leads it and takes requests.
    pub serving: bool,
    /// Index of the last entry applied.
    pub applied: u64,
    /// Log index at and below which everything is in the bucket.
    pub floor: u64,
    /// Log bytes above the floor.
    pub hot_bytes: u64,
    /// The shard's hot budget.
    pub hot_bytes_max: u64,
    /// Record bytes on their way to the bucket.
    pub waiting: Waiting,
    /// Log time of the last entry.
    pub log_time: Timestamp,
    /// Streams.
    pub streams: u64,
    /// Producers whose last results are kept.
    pub producers: u64,
    /// Objects in the bucket.
    pub objects: u64,
    /// Entries with records applied.
    pub entries_total: u64,
    /// Records appended.
    pub records_total: u64,
    /// Their encoded bytes.
    pub record_bytes_total: u64,
    /// Records that were not appended, as they had been before under the same id (DD-2).
    pub duplicates_total: u64,
    /// Message ids held.
    pub ids: u64,
    /// The least part that is left of the ID time box of a stream; 1 where no id was forgotten before its
    /// time (DD-5).
    pub ids_window: f64,
    /// Its consumer groups.
    pub groups: GroupTotals,
    /// Append requests refused because of the hot budget or a full disk.
    pub refused_total: u64,
    /// Uploads have failed since the last one that worked.
    pub offload_failing: bool,
}

/// Figures of all consumer groups of a shard. Those of members are the leader's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupTotals {
    /// Groups.
    pub groups: u64,
    /// Groups from which nothing is handed out, by an operator or the breaker (DL-9).
    pub paused: u64,
    /// Groups from which nothing new is handed out, as too much is un-settled (G-5).
    pub stalled: u64,
    /// Members that are connected.
    pub members: u64,
    /// Messages that members have and have not settled.
    pub leased: u64,
    /// Messages that wait for their next attempt.
    pub delayed: u64,
    /// Messages that are about to become dead letters.
    pub dying: u64,
    /// Messages that wait for an operator (DL-2).
    pub parked: u64,
    /// Messages that are dead, of what can be redriven.
    pub dead: u64,
    /// Messages of the group that is farthest behind its stream, but for those that were redriven.
    pub lag_max: u64,
}

impl GroupTotals {
    /// Of what the state tells, and what is known of the groups that are handed out here.
    pub(super) fn of(state: &ShardState, live: impl Iterator<Item = GroupFigures>) -> Self {
        let mut all = Self::default();
        for group in state.groups() {
            let next = state.stream(group.stream()).map(|stream| stream.next_offset());
            let group = group.state();
            let unsettled = group.unsettled_held();
            all.groups += 1;
            all.paused += u64::from(group.paused().is_some());
            all.delayed += unsettled.delayed;
            all.dying += unsettled.dying;
            all.parked += unsettled.parked;
            all.dead += group.dead().len();
            all.lag_max = all.lag_max.max(next.map_or(0, |next| group.lag_above_floor(next)));
        }
        for figures in live {
            all.stalled += u64::from(figures.is_stalled);
            all.members += u64::from(figures.members);
            all.leased += figures.leased;
        }
        all
    }
}

impl ShardFigures {
    /// Takes over what the state tells.
    pub(super) fn update(&mut self, state: &ShardState) {
        self.applied = state.applied().map_or(0, |at| at.index);
        self.floor = state.floor().unwrap_or(0);
        self.waiting = state.waiting();
        self.log_time = state.log_time();
        self.streams = state.stream_count() as u64;
        self.producers = state.producers() as u64;
        self.ids = state.ids_held();
        self.ids_window = state.ids_window();
        self.objects = state.manifest().objects.len() as u64;
    }
}
