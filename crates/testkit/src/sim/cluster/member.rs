//! A node of a simulated cluster: down, on its way up, serving, or on its way down.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use railgun_broker::StartError;
use railgun_log::CrashPlan;
use railgun_net::memory::Crash as HostCrash;
use tokio::task::JoinHandle;

use super::super::node::{Life, SimNode};

/// See the module.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) node: Arc<SimNode>,
    state: State,
    /// When it is down, it starts again then.
    back_at: Duration,
    /// A disk error was planted that may end it; down for so long then.
    pub(super) hurt: Option<Duration>,
    /// Its disk was full, hurt or without what it had, then.
    pub(super) disk_ill_at: Option<Duration>,
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
    EndedItself(String),
    Stopped,
}

impl Member {
    pub(super) fn new(node: SimNode) -> Self {
        let node = Arc::new(node);
        Self { node, state: State::Down, back_at: Duration::ZERO, hurt: None, disk_ill_at: None }
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
        self.hurt = None;
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
