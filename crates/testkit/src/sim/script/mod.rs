//! A fixed life of a node from its first start on, cut short at a point of one's choice: where the seeds
//! throw dice, this has every point, one by one. After the cut the node is started again, everything
//! is looked at, and the same life is led once more: to its end, or to another cut.

mod follower;
mod line;
mod play;
mod producer;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use railgun_broker::{CheckpointCadence, Thresholds};
use railgun_cold::testing::Conditions;
use railgun_log::CrashPlan;
use railgun_net::memory::MemoryNetwork;
use railgun_types::ShardId;

use super::audit;
use super::bucket::SimBucket;
use super::checker::Checker;
use super::counts::Counts;
use super::cut::Point;
use super::dial::SimDial;
use super::history::History;
use super::node::{Life, SimNode};
use super::options::{Bug, Shape};
use super::random::Random;
use super::trace::Trace;
use super::world::in_virtual_time;
use play::Play;

/// All chance there is: how long steps and requests take.
const SEED: u64 = 1;
/// A process goes on for so long when its disk has stopped: what it has answered still reaches
/// clients, and what it would answer too early does.
const GRACE: Duration = Duration::from_millis(20);
/// Time that a life has, and everything after a cut.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a run has shown.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Rules that were broken, in the order in which it showed.
    pub violations: Vec<String>,
    /// Every event.
    pub trace: Vec<String>,
    /// Those in which clients did their work: the ones that were to be cut short, and the last.
    pub lives: Vec<Led>,
    /// Of all lives: what came about.
    pub counts: Counts,
}

/// A life of the node.
#[derive(Clone, Debug)]
pub struct Led {
    /// Whether it came to where it was to be cut short.
    pub reached: bool,
    /// Every event, without its time.
    pub events: Vec<String>,
    /// Every change of the disk, in order.
    pub changes: Vec<String>,
    /// Every request to the bucket, in order.
    pub requests: Vec<String>,
    /// What came about until it ended.
    pub counts: Counts,
    /// The last entry that each shard's log has given up, where there is one.
    pub purged: BTreeMap<u32, u64>,
}

impl Led {
    /// Changes of the disk and requests to the bucket before the first event that begins like this.
    #[must_use]
    pub fn before(&self, event: &str) -> Option<(u64, u64)> {
        let at = self.events.iter().position(|what| what.starts_with(event))?;
        let count = |kind| self.events[..at].iter().filter(|what| what.starts_with(kind)).count();
        Some((count(DISK) as u64, count(BUCKET) as u64))
    }
}

/// The event after which all that was published at first is in the bucket, and the log has given it up:
/// a node that was started again has taken up what was half done.
pub const SEALED: &str = "all is in the bucket";
/// How events begin that change the disk, and those that ask the bucket for something.
const DISK: &str = "disk ";
const BUCKET: &str = "bucket ";

/// Leads the life up to the first of `cuts`, if there is one, the next one up to the next cut, and on after
/// the last; of each crash the disk keeps what its plan says. The points of a life count from its start
/// on. In this thread.
#[must_use]
pub fn run(cuts: &[(Point, CrashPlan)], bug: Option<Bug>) -> Shown {
    in_virtual_time(SEED, Box::pin(async { Stage::new(bug).run(cuts).await }))
}

/// One data shard; an upload, a checkpoint, and files to give up after some records.
fn shape() -> Shape {
    Shape {
        shards: 1,
        streams: 0,
        hot_bytes_max: 64 << 20,
        file_bytes: 8 << 10,
        ring_bytes: 4 << 10,
        mark_after_ms: 100,
        // The script says when.
        max_time_to_cold: Duration::from_secs(3600),
        thresholds: Thresholds {
            segment_bytes_min: 4 << 10,
            checkpoints: CheckpointCadence {
                log_bytes: 1 << 20,
                size_factor: 1,
                quiet: Duration::from_millis(500),
                quiet_bytes: 64,
            },
            upload_lease: Duration::from_secs(300),
        },
        publishers: [0; 3],
        readers: 0,
        conditions: Conditions::Honoured,
        is_crowded: false,
    }
}

struct Stage {
    node: Arc<SimNode>,
    life: Option<Life>,
    history: History,
    checker: Checker,
    play: Play,
    lives: Vec<Led>,
    trace: Trace,
}

impl Stage {
    fn new(bug: Option<Bug>) -> Self {
        let (trace, mut random) = (Trace::begin(), Random::new(SEED));
        let shape = shape();
        let bucket = SimBucket::of(&shape, random.fork(), trace.clone());
        let dial = SimDial::new(MemoryNetwork::new());
        let node = Arc::new(SimNode::new(shape, bug, bucket, dial, random, trace.clone()));
        let history = History::new(trace.clone());
        let checker = Checker::new(vec![Arc::clone(&node)], history.clone(), trace.clone());
        let play = Play::new(Arc::clone(&node), history.clone(), trace.clone());
        Self { node, life: None, history, checker, play, lives: Vec::new(), trace }
    }

    async fn run(mut self, cuts: &[(Point, CrashPlan)]) -> Shown {
        for life in 0..cuts.len().max(1) {
            let plan = match cuts.get(life) {
                Some((point, plan)) => {
                    self.node.cut_at(*point);
                    plan
                }
                None => &CrashPlan::LoseAll,
            };
            self.lead().await;
            self.trace.note(format_args!("a life ends: {plan:?}"));
            self.node.crash(self.life.take(), plan);
            self.checker.check().await;
            if !self.history.is_sound() {
                break;
            }
        }
        if self.history.is_sound() && tokio::time::timeout(PATIENCE, self.go_on()).await.is_err() {
            self.history.violated("liveness", format_args!("no end within {PATIENCE:?}"));
        }
        self.node.crash(self.life.take(), &CrashPlan::LoseAll);
        Shown {
            violations: self.history.violations(),
            trace: self.trace.lines(),
            lives: self.lives,
            counts: self.trace.counts(),
        }
    }

    /// Leads a life until it is cut short: then true. Or to where all was done.
    async fn lead(&mut self) -> bool {
        let begun = self.trace.lines().len();
        let reached = self.live().await;
        let led = self.led(reached, begun);
        self.lives.push(led);
        reached
    }

    async fn live(&mut self) -> bool {
        let Self { node, life, play, history, .. } = self;
        let goes_on = Cell::new(false);
        let mut living = pin!(async {
            *life = Some(node.start().await.map_err(|error| error.to_string())?);
            audit::read_streams(&node.dial, history).await;
            goes_on.set(true);
            play.play().await
        });
        let lived = tokio::select! {
            biased;
            () = node.hooks.cut.reached() => None,
            lived = tokio::time::timeout(PATIENCE, &mut living) => Some(lived),
        };
        let is_cut = node.hooks.cut.is_reached();
        match lived {
            // How it ends now is nobody's fault.
            None if goes_on.get() => drop(tokio::time::timeout(GRACE, living).await),
            None => {}
            Some(_) if is_cut => {}
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => history.violated("liveness", format_args!("{error}")),
            Some(Err(_)) => history.violated("liveness", format_args!("no end of a life")),
        }
        is_cut
    }

    /// What there is to tell of a life that has just ended, and began with the event `begun`.
    fn led(&self, reached: bool, begun: usize) -> Led {
        let event = |line: &String| Some(line.trim_start().split_once(' ')?.1.to_owned());
        let events: Vec<_> = self.trace.lines()[begun..].iter().filter_map(event).collect();
        let of = |kind| events.iter().filter_map(move |event| event.strip_prefix(kind));
        let shards = [ShardId::CATALOG, ShardId(1)].into_iter();
        Led {
            reached,
            changes: of(DISK).map(str::to_owned).collect(),
            requests: of(BUCKET).map(str::to_owned).collect(),
            counts: self.trace.counts(),
            purged: shards.filter_map(|s| Some((s.0, self.checker.purged(s)?))).collect(),
            events,
        }
    }

    /// The life that nothing cuts short, and one more, which finds what a clean end and a power failure
    /// leave.
    async fn go_on(&mut self) {
        self.lead().await;
        if !self.history.is_sound() {
            return;
        }
        let ends = audit::read_streams(&self.node.dial, &self.history).await;
        let told = self.play.ends();
        if ends != told {
            let how = format_args!("the streams end at {ends:?}, what was sent at {told:?}");
            self.history.violated("PQ-1", how);
        }
        self.checker.check().await;
        audit::seal_streams(&self.node.dial, &self.history).await;
        if let Some(life) = &self.life {
            life.shutdown(Duration::from_secs(10)).await;
        }
        self.checker.check_replay(&ends).await;
        self.checker.check_drained(&ends);
        self.node.crash(self.life.take(), &CrashPlan::LoseAll);
        if !self.start().await {
            return;
        }
        if audit::read_streams(&self.node.dial, &self.history).await != ends {
            self.history.violated("PS-1", format_args!("streams end elsewhere after a restart"));
        }
        self.checker.check().await;
        self.history.check_whole();
    }

    async fn start(&mut self) -> bool {
        match self.node.start().await {
            Ok(life) => self.life = Some(life),
            Err(error) => {
                let how = format_args!("the node does not start, and nothing is wrong: {error}");
                self.history.violated("liveness", how);
            }
        }
        self.life.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_messages_say_all_that_one_may_and_some_only_their_value() {
        in_virtual_time(SEED, async {
            let mut stage = Stage::new(None);
            assert!(!stage.lead().await, "nothing cuts it short");
            assert_eq!(stage.history.violations(), [""; 0]);
            let whole = stage.play.messages().filter(|message| {
                message.key.is_some() && !message.headers.is_empty() && message.id.is_some()
            });
            let (whole, all) = (whole.count(), stage.play.messages().count());
            assert!(whole > 2 && whole < all / 2, "{whole} of {all}");
            stage.node.crash(stage.life.take(), &CrashPlan::LoseAll);
        });
    }
}
