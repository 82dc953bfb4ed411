//! A node of a simulated cluster: down, on its way up, serving, or on its way down.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use railgun_broker::{NodeFailure, StartError};
use railgun_log::CrashPlan;
use railgun_net::memory::Crash as HostCrash;
use railgun_raft::Failure;
use railgun_types::ShardId;
use tokio::task::JoinHandle;

use super::super::node::{Life, SimNode, is_of_disk};

/// See the module.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) node: Arc<SimNode>,
    state: State,
    /// When it is down, it starts again then.
    back_at: Duration,
    /// What was planted that may end it.
    hurts: Vec<Hurt>,
    /// Its disk was full, failing, damaged or without what it had, then.
    pub(super) disk_ill_at: Option<Duration>,
}

/// Something that may end a node sooner or later; it is down for so long then.
#[derive(Clone, Copy, Debug)]
struct Hurt {
    cause: Cause,
    down: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its machine stops before a batch is synced. What its disk has is sound.
    Stop,
    /// An operation of its disk fails.
    DiskError,
    /// A bit of a file of this shard flips.
    FlippedBit(ShardId),
}

impl Cause {
    /// Whether a node ends itself for this reason then. Of replicas that die of a damaged log, only the
    /// catalog's takes its node with it.
    fn explains(self, failure: &NodeFailure) -> bool {
        match self {
            Self::Stop | Self::DiskError => is_of_disk(failure),
            Self::FlippedBit(shard) => {
                shard == ShardId::CATALOG
                    && matches!(failure, NodeFailure::Shard(Failure::Storage { .. }))
            }
        }
    }
}

#[derive(Debug)]
enum State {
    Down,
    Starting(JoinHandle<Result<Life, StartError>>),
    Up(Life),
    Stopping(Life, JoinHandle<()>),
}

/// What has become of a member since it was asked last.
#[derive(Debug)]
pub(super) enum News {
    None,
    Started,
    NotStarted(StartError),
    EndedItself(NodeFailure),
    Stopped,
}

impl Member {
    pub(super) fn new(node: SimNode) -> Self {
        let node = Arc::new(node);
        Self {
            node,
            state: State::Down,
            back_at: Duration::ZERO,
            hurts: Vec::new(),
            disk_ill_at: None,
        }
    }

    /// Begins to start it if it is down and its time has come; whether it does.
    pub(super) fn start_if_due(&mut self, now: Duration, seed: u64) -> bool {
        let is_due = matches!(self.state, State::Down) && now >= self.back_at;
        if is_due {
            let node = Arc::clone(&self.node);
            let starting = async move { Box::pin(node.start()).await };
            self.state = State::Starting(tokio::spawn(railgun_raft::seeded(seed, starting)));
        }
        is_due
    }

    /// Until its life ends.
    pub(super) fn hurt(&mut self, cause: Cause, down: Duration) {
        self.hurts.push(Hurt { cause, down });
    }

    pub(super) fn is_hurt(&self) -> bool {
        !self.hurts.is_empty()
    }

    /// Whether its disk is not what it was, or will fail.
    pub(super) fn is_disk_hurt(&self) -> bool {
        self.hurts.iter().any(|hurt| hurt.cause != Cause::Stop)
    }

    /// Whether its machine stops here, in the middle of what it does.
    pub(super) fn has_stopped(&self) -> bool {
        let stops = self.hurts.iter().any(|hurt| hurt.cause == Cause::Stop);
        stops && self.node.hooks.syncs_left.with(|left| left.is_none())
    }

    /// How long it is down when it has ended itself for this reason; `None`: it has none.
    pub(super) fn down_after(&self, failure: &NodeFailure) -> Option<Duration> {
        self.hurts.iter().find(|hurt| hurt.cause.explains(failure)).map(|hurt| hurt.down)
    }

    /// If it is down, it starts with the next occasion.
    pub(super) fn hurry(&mut self) {
        self.back_at = Duration::ZERO;
    }

    pub(super) async fn news(&mut self) -> News {
        match std::mem::replace(&mut self.state, State::Down) {
            State::Starting(starting) if starting.is_finished() => {
                match starting.await.expect("a start does not panic") {
                    Ok(life) => {
                        self.state = State::Up(life);
                        News::Started
                    }
                    Err(error) => News::NotStarted(error),
                }
            }
            State::Stopping(life, stopping) if stopping.is_finished() => {
                self.state = State::Up(life);
                News::Stopped
            }
            State::Up(life) => {
                let failed = life.failed().now_or_never();
                self.state = State::Up(life);
                failed.map_or(News::None, News::EndedItself)
            }
            other => {
                self.state = other;
                News::None
            }
        }
    }

    /// Ends it between two of its instructions.
    pub(super) async fn crash(&mut self, how: HostCrash, plan: &CrashPlan, back_at: Duration) {
        self.node.leave_network(how);
        let life = match std::mem::replace(&mut self.state, State::Down) {
            State::Down => None,
            State::Starting(starting) => {
                starting.abort();
                // It may have come to its end just now.
                starting.await.ok().and_then(Result::ok)
            }
            State::Up(life) => Some(life),
            State::Stopping(life, stopping) => {
                stopping.abort();
                stopping.await.ok();
                Some(life)
            }
        };
        // And what was dialled since.
        self.node.leave_network(how);
        self.node.crash(life, plan);
        self.hurts.clear();
        self.back_at = back_at;
    }

    /// Begins to stop it as an operator does, if it serves.
    pub(super) fn stop(&mut self, drain: Duration) {
        self.state = match std::mem::replace(&mut self.state, State::Down) {
            State::Up(life) => {
                let broker = Arc::clone(&life.broker);
                let stopping = tokio::spawn(async move { broker.shutdown(drain).await });
                State::Stopping(life, stopping)
            }
            other => other,
        };
    }

    /// When it serves or is on its way down.
    pub(super) fn life(&self) -> Option<&Life> {
        match &self.state {
            State::Up(life) | State::Stopping(life, _) => Some(life),
            State::Down | State::Starting(_) => None,
        }
    }

    /// Whether it is on its way up.
    pub(super) fn is_starting(&self) -> bool {
        matches!(self.state, State::Starting(_))
    }

    /// Whether it is on its way down.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.state, State::Stopping(..))
    }

    /// When it serves.
    pub(super) fn up(&self) -> Option<&Life> {
        match &self.state {
            State::Up(life) => Some(life),
            State::Down | State::Starting(_) | State::Stopping(..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::super::checker::Harm;
    use super::*;

    #[test]
    fn a_node_ends_for_what_befell_it() {
        let reason = "so it is".to_owned();
        let disk = NodeFailure::Disk { reason: reason.clone() };
        let died = NodeFailure::Shard(Failure::Storage { reason });
        let bug = NodeFailure::Shard(Failure::Panicked);
        let explains = |cause: Cause| [&disk, &died, &bug].map(|it| cause.explains(it));
        assert_eq!(explains(Cause::Stop), [true, true, false]);
        assert_eq!(explains(Cause::DiskError), [true, true, false]);
        let in_shard = |dir: &str| {
            let path = PathBuf::from(format!("shards/{dir}/log/7.log"));
            explains(Cause::FlippedBit(Harm::Gone { path }.shard()))
        };
        assert_eq!(in_shard("1"), [false; 3], "a data shard's replica dies without its node");
        assert_eq!(in_shard("1.2"), [false; 3]);
        assert_eq!(in_shard("0"), [false, true, false]);
        assert_eq!(in_shard("0.3"), [false, true, false]);
    }
}
