//! A fixed life of a node from its first start on, cut short at a point of one's choice: where the seeds
//! throw dice, this has every point, one by one. After the cut the node is started again, everything
//! is looked at, and the same life is led once more, to its end.

mod play;
mod producer;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use railgun_broker::{CheckpointCadence, Thresholds};
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
    /// Whether the first life came to where it was to be cut short.
    pub reached: bool,
    /// Of the first life: every change of the disk, in order.
    pub changes: Vec<String>,
    /// Of the first life: every request to the bucket, in order.
    pub requests: Vec<String>,
    /// Of the first life: what came about.
    pub counts: Counts,
    /// Of all lives.
    pub counts_of_all: Counts,
    /// Of the first life: the last entry that each shard's log has given up, where there is one.
    pub purged: BTreeMap<u32, u64>,
}

/// Leads the life up to `point`, if there is one, and on after a crash of which the disk keeps what
/// `plan` says; in this thread.
#[must_use]
pub fn run(point: Option<Point>, plan: &CrashPlan, bug: Option<Bug>) -> Shown {
    in_virtual_time(SEED, Box::pin(async { Stage::new(bug).run(point, plan).await }))
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
        },
        publishers: [0; 3],
        readers: 0,
    }
}

struct Stage {
    node: Arc<SimNode>,
    life: Option<Life>,
    history: History,
    checker: Checker,
    play: Play,
    trace: Trace,
}

impl Stage {
    fn new(bug: Option<Bug>) -> Self {
        let (trace, mut random) = (Trace::begin(), Random::new(SEED));
        let bucket = SimBucket::new(random.fork(), trace.clone());
        let dial = SimDial::new(MemoryNetwork::new());
        let node = Arc::new(SimNode::new(shape(), bug, bucket, dial, random, trace.clone()));
        let history = History::new(trace.clone());
        let checker = Checker::new(Arc::clone(&node), history.clone(), trace.clone());
        let play = Play::new(Arc::clone(&node), history.clone(), trace.clone());
        Self { node, life: None, history, checker, play, trace }
    }

    async fn run(mut self, point: Option<Point>, plan: &CrashPlan) -> Shown {
        if let Some(point) = point {
            self.node.cut_at(point);
        }
        let reached = self.first_life().await;
        let first = self.trace.lines();
        let counts = self.trace.counts();
        self.trace.note(format_args!("the first life ends: {plan:?}"));
        self.node.crash(self.life.take(), plan);
        let shards = [ShardId::CATALOG, ShardId(1)].into_iter();
        let purged = shards.filter_map(|s| Some((s.0, self.checker.purged(s)?))).collect();
        self.checker.check().await;
        if self.history.is_sound() && tokio::time::timeout(PATIENCE, self.go_on()).await.is_err() {
            self.history.violated("liveness", format_args!("no end within {PATIENCE:?}"));
        }
        self.node.crash(self.life.take(), &CrashPlan::LoseAll);
        Shown {
            violations: self.history.violations(),
            trace: self.trace.lines(),
            reached,
            changes: events(&first, "disk "),
            requests: events(&first, "bucket "),
            counts,
            counts_of_all: self.trace.counts(),
            purged,
        }
    }

    /// Until it is cut short: then true.
    async fn first_life(&mut self) -> bool {
        let Self { node, life, play, history, .. } = self;
        let mut living = pin!(async {
            *life = Some(node.start().await.map_err(|error| error.to_string())?);
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
            None => drop(tokio::time::timeout(GRACE, living).await),
            Some(_) if is_cut => {}
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => history.violated("liveness", format_args!("at first: {error}")),
            Some(Err(_)) => history.violated("liveness", format_args!("no end of the first life")),
        }
        is_cut
    }

    /// The second life, and the third, which finds what a clean end and a power failure leave.
    async fn go_on(&mut self) {
        if !self.start().await {
            return;
        }
        audit::read_streams(&self.node, &self.history).await;
        self.checker.check().await;
        if let Err(error) = self.play.play().await {
            return self.history.violated("liveness", format_args!("after the crash: {error}"));
        }
        let ends = audit::read_streams(&self.node, &self.history).await;
        let told = self.play.ends();
        if ends != told {
            let how = format_args!("the streams end at {ends:?}, what was sent at {told:?}");
            self.history.violated("PQ-1", how);
        }
        self.checker.check().await;
        audit::seal_streams(&self.node, &self.history).await;
        if let Some(life) = &self.life {
            life.shutdown(Duration::from_secs(10)).await;
        }
        self.checker.check_replay(&ends).await;
        self.checker.check_drained(&ends);
        self.node.crash(self.life.take(), &CrashPlan::LoseAll);
        if !self.start().await {
            return;
        }
        if audit::read_streams(&self.node, &self.history).await != ends {
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

/// What the events of a kind say, without their times.
fn events(lines: &[String], kind: &str) -> Vec<String> {
    let said = lines.iter().filter_map(|line| Some(line.trim_start().split_once(' ')?.1));
    said.filter_map(|event| event.strip_prefix(kind).map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_messages_say_all_that_one_may_and_some_only_their_value() {
        in_virtual_time(SEED, async {
            let mut stage = Stage::new(None);
            assert!(!stage.first_life().await, "nothing cuts it short");
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
