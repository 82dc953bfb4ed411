//! Which server to dial next, and several at a time where one does not answer.
//!
//! A round tries every server once, and every address of each. While one attempt has no answer the next
//! is begun beside it, after [`STAGGER`]; where one fails it is begun at once. The first that is admitted
//! wins, and the others are dropped, which closes them (RFC 8305 does so for addresses of one name).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use railgun_types::ClusterUid;
use tokio::time::Instant;

use crate::backoff::Randomness;
use crate::connect_error::{Attempt, ConnectError};
use crate::dial::{Dial, Target};
use crate::options::{ClientOptions, host_and_port};
use crate::session::{ControlStream, Session};

/// How long an attempt is alone.
const STAGGER: Duration = Duration::from_millis(300);
/// Attempts at a time.
const ATTEMPTS_MAX: usize = 8;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// What a round must find.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// The number of the session.
    pub(crate) number: u64,
    /// The cluster it must be, if that is known.
    pub(crate) cluster: Option<ClusterUid>,
    /// Servers to try before all others.
    pub(crate) first: &'a [String],
    /// The address that is left.
    pub(crate) leaving: Option<&'a Target>,
    /// Whether the one that is left may be tried again, after all others.
    pub(crate) may_return: bool,
}

/// What is still to be tried.
#[derive(Debug)]
enum Candidate {
    Server(String),
    Address(Target),
}

/// What came of a step.
enum Step {
    Resolved(Vec<Target>),
    Admitted(Box<(Session, ControlStream)>),
    Failed(Attempt),
}

type Steps<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Step> + Send + 'a>>>;

/// Makes sessions. Owned by whoever keeps the connection.
#[derive(Debug)]
pub(crate) struct Dialler {
    dial: Arc<dyn Dial>,
    options: Arc<ClientOptions>,
    randomness: Arc<Randomness>,
    /// The server to begin with, by its place in the list.
    next: usize,
}

impl Dialler {
    /// Begins at a server drawn at random.
    pub(crate) fn new(
        dial: Arc<dyn Dial>,
        options: Arc<ClientOptions>,
        randomness: Arc<Randomness>,
    ) -> Self {
        let next = pick(&randomness, options.servers.len());
        Self { dial, options, randomness, next }
    }

    /// One round. Cancelled, everything that was begun is closed.
    pub(crate) async fn round(
        &mut self,
        wanted: Wanted<'_>,
    ) -> Result<(Session, ControlStream), ConnectError> {
        let mut round = Round {
            dialler: self,
            wanted: &wanted,
            candidates: self.order(wanted.first),
            last: None,
            failed: Vec::new(),
        };
        let (session, control) = round.run().await?;
        let servers = &self.options.servers;
        if let Some(place) = servers.iter().position(|server| *server == session.target.server) {
            self.next = (place + 1) % servers.len();
        }
        tracing::debug!(server = %session.target, number = session.number, "connected");
        Ok((session, control))
    }

    /// The servers in the order of trying them.
    fn order(&self, first: &[String]) -> VecDeque<Candidate> {
        let servers = &self.options.servers;
        let usable = |server: &&String| {
            let usable = host_and_port(server).is_some();
            if !usable {
                tracing::debug!(%server, "a server named another that is no address");
            }
            usable
        };
        let first = first.iter().filter(usable);
        let listed = servers[self.next..].iter().chain(&servers[..self.next]);
        let mut order: Vec<&String> = Vec::new();
        for server in first.chain(listed) {
            if !order.contains(&server) {
                order.push(server);
            }
        }
        order.into_iter().map(|server| Candidate::Server(server.clone())).collect()
    }

    async fn resolve(&self, server: String) -> Step {
        match self.dial.resolve(&server).await {
            Ok(mut targets) => {
                // One name may stand for all nodes: clients spread over its addresses, too.
                let first = pick(&self.randomness, targets.len());
                targets.rotate_left(first);
                targets.truncate(ADDRESSES_MAX);
                Step::Resolved(targets)
            }
            Err(error) => Step::Failed(Attempt { target: Target { server, addr: None }, error }),
        }
    }

    async fn begin(&self, target: Target, wanted: &Wanted<'_>) -> Step {
        let begun = Session::begin(&*self.dial, target.clone(), &self.options, wanted.number).await;
        match (begun, wanted.cluster) {
            (Ok((session, _)), Some(expected)) if session.cluster_uid != expected => {
                let (server, found) = (target.server.clone(), session.cluster_uid);
                let error = ConnectError::OtherCluster { server, expected, found };
                Step::Failed(Attempt { target, error })
            }
            (Ok(begun), _) => Step::Admitted(Box::new(begun)),
            (Err(error), _) => Step::Failed(Attempt { target, error }),
        }
    }
}

/// A place among `count`, at random. Draws nothing where there is no choice, so that a seed means the
/// same for a client of one server.
fn pick(randomness: &Randomness, count: usize) -> usize {
    if count < 2 { 0 } else { (randomness.next() % count as u64) as usize }
}

struct Round<'a> {
    dialler: &'a Dialler,
    wanted: &'a Wanted<'a>,
    candidates: VecDeque<Candidate>,
    /// The address that is left, tried after all others.
    last: Option<Target>,
    failed: Vec<Attempt>,
}

impl<'a> Round<'a> {
    async fn run(&mut self) -> Result<(Session, ControlStream), ConnectError> {
        let mut steps = Steps::new();
        // When the next one is begun beside those that have no answer.
        let mut begin_at = Instant::now();
        loop {
            if Instant::now() >= begin_at && steps.len() < ATTEMPTS_MAX && self.begin(&mut steps) {
                begin_at = Instant::now() + STAGGER;
            }
            let more = !self.candidates.is_empty() || self.last.is_some();
            if steps.is_empty() && !more {
                return Err(ConnectError::of_attempts(std::mem::take(&mut self.failed)));
            }
            tokio::select! {
                biased;
                Some(step) = steps.next() => match step {
                    Step::Admitted(begun) => return Ok(*begun),
                    Step::Resolved(targets) => {
                        for target in targets.into_iter().rev() {
                            self.candidates.push_front(Candidate::Address(target));
                        }
                        begin_at = Instant::now();
                    }
                    Step::Failed(attempt) => {
                        tracing::debug!(server = %attempt.target, error = %attempt.error, "not connected");
                        self.failed.push(attempt);
                        begin_at = Instant::now();
                    }
                },
                () = tokio::time::sleep_until(begin_at), if more && steps.len() < ATTEMPTS_MAX => {}
            }
        }
    }

    /// Begins with the next candidate. Whether there was one.
    fn begin(&mut self, steps: &mut Steps<'a>) -> bool {
        let (dialler, wanted) = (self.dialler, self.wanted);
        while let Some(candidate) = self.candidates.pop_front() {
            match candidate {
                Candidate::Server(server) => steps.push(Box::pin(dialler.resolve(server))),
                Candidate::Address(target) if wanted.leaving == Some(&target) => {
                    self.last = wanted.may_return.then_some(target);
                    continue;
                }
                Candidate::Address(target) => {
                    steps.push(Box::pin(dialler.begin(target, wanted)));
                }
            }
            return true;
        }
        match self.last.take() {
            Some(target) => {
                steps.push(Box::pin(dialler.begin(target, wanted)));
                true
            }
            None => false,
        }
    }
}
