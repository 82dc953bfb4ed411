//! Owns the connection of a client: makes it again whenever it is lost, and leaves a server that goes
//! away or falls silent. Inputs: the fate of the connection. Output: a watched state. Never: knows what
//! travels on it.

use std::sync::Arc;
use std::time::Duration;

use railgun_types::ClusterUid;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backoff::{Backoff, Randomness};
use crate::connect_error::ConnectError;
use crate::dial::Dial;
use crate::dialler::{Dialler, Wanted};
use crate::options::ClientOptions;
use crate::session::{ControlStream, Session};

/// Time for the last packet to be sent. Waiting for all that QUIC does after it would hold up a short
/// command for longer than its work.
const CLOSE_LINGER: Duration = Duration::from_millis(20);
/// Silence of a server that owes an answer, beyond two round trips, after which another one is sought. A
/// server that is there and only slow is heard each second, when it acknowledges a sign of life
/// ([`railgun_net::KEEP_ALIVE`]); the rest is for one that is late.
const SILENCE_MAX: Duration = railgun_net::KEEP_ALIVE.saturating_add(Duration::from_millis(200));
/// How often it is looked, while an answer is owed.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Clone, Debug)]
enum LinkState {
    Up(Arc<Session>),
    /// Being made again.
    Down {
        /// The last failure.
        last: Option<ConnectError>,
        /// The session whose server goes away, which answers what it owes.
        leaving: Option<Arc<Session>>,
    },
    /// It cannot be made again.
    Failed(ConnectError),
}

/// Gives out the present session. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Link {
    state: watch::Receiver<LinkState>,
    options: Arc<ClientOptions>,
    cluster_uid: ClusterUid,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

struct LinkTask {
    dial: Arc<dyn Dial>,
    dialler: Dialler,
    randomness: Arc<Randomness>,
    state: watch::Sender<LinkState>,
    cluster_uid: ClusterUid,
    stop: CancellationToken,
}

/// Why a session is left.
enum Cause {
    Lost,
    GoingAway,
    /// It fell silent, and another server has admitted the client.
    Silent(Box<(Session, ControlStream)>),
}

impl Link {
    /// Connects once, and keeps the connection from then on.
    pub(crate) async fn connect(
        dial: Arc<dyn Dial>,
        options: Arc<ClientOptions>,
        randomness: Arc<Randomness>,
    ) -> Result<Self, ConnectError> {
        let mut dialler =
            Dialler::new(Arc::clone(&dial), Arc::clone(&options), Arc::clone(&randomness));
        let wanted =
            Wanted { number: 0, cluster: None, first: &[], leaving: None, may_return: false };
        let (session, control) = dialler.round(wanted).await?;
        let cluster_uid = session.cluster_uid;
        let session = Arc::new(session);
        let (sender, state) = watch::channel(LinkState::Up(Arc::clone(&session)));
        let stop = CancellationToken::new();
        let task =
            LinkTask { dial, dialler, randomness, state: sender, cluster_uid, stop: stop.clone() };
        tokio::spawn(stop.clone().run_until_cancelled_owned(task.run(session, control)));
        Ok(Self { state, options, cluster_uid, _stop_on_drop: stop.clone().drop_guard(), stop })
    }

    pub(crate) fn cluster_uid(&self) -> ClusterUid {
        self.cluster_uid
    }

    /// The server of the present session, if there is one.
    pub(crate) fn server(&self) -> Option<String> {
        match &*self.state.borrow() {
            LinkState::Up(session) => Some(session.target.server.clone()),
            LinkState::Down { .. } | LinkState::Failed(_) => None,
        }
    }

    /// Waits until the present session is with this node. Cancel-safe.
    pub(crate) async fn until_at(&self, node: u32) {
        let is_there = |state: &LinkState| match state {
            LinkState::Up(session) => session.node_id == node && !session.going_away.is_cancelled(),
            LinkState::Down { .. } | LinkState::Failed(_) => false,
        };
        if self.state.clone().wait_for(is_there).await.is_err() {
            // It is closed.
            std::future::pending::<()>().await;
        }
    }

    /// The present session, which is newer than the one of number `after`. Waits for one at most
    /// until `deadline`. Cancel-safe.
    pub(crate) async fn session(
        &self,
        after: Option<u64>,
        deadline: Instant,
    ) -> Result<Arc<Session>, ConnectError> {
        let started = Instant::now();
        let mut state = self.state.clone();
        let usable = |state: &LinkState| match state {
            LinkState::Up(session) => after.is_none_or(|after| session.number > after),
            LinkState::Down { .. } => false,
            LinkState::Failed(_) => true,
        };
        let found = tokio::time::timeout_at(deadline, state.wait_for(usable)).await;
        match found {
            Ok(Ok(state)) => match &*state {
                LinkState::Up(session) => Ok(Arc::clone(session)),
                LinkState::Failed(error) => Err(error.clone()),
                LinkState::Down { .. } => Err(ConnectError::Closed),
            },
            Ok(Err(_)) => Err(ConnectError::Closed),
            Err(_) => {
                let last = match &*self.state.borrow() {
                    LinkState::Down { last: Some(error), .. } => error.to_string(),
                    _ => String::new(),
                };
                let (servers, waited) = (self.options.servers.join(","), started.elapsed());
                Err(ConnectError::GaveUp { servers, waited: rounded(waited), last })
            }
        }
    }

    /// Closes the connection, and gives the word to the server time to leave this process.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        let session = match &*self.state.borrow() {
            LinkState::Up(session) | LinkState::Down { leaving: Some(session), .. } => {
                Some(Arc::clone(session))
            }
            _ => None,
        };
        if let Some(session) = session {
            session.connection.close(None, "");
            drop(tokio::time::timeout(CLOSE_LINGER, session.connection.wait_drained()).await);
        }
    }
}

/// For people: whole milliseconds.
fn rounded(duration: Duration) -> Duration {
    Duration::from_millis(duration.as_millis().try_into().unwrap_or(u64::MAX))
}

impl LinkTask {
    async fn run(mut self, mut session: Arc<Session>, mut control: ControlStream) {
        loop {
            // Goes on beside the next session, until a server that goes away has answered everything.
            let serving = Arc::clone(&session);
            let serve = async move { control.run(&serving).await };
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(serve));
            let cause = tokio::select! {
                biased;
                _ = session.connection.closed() => Cause::Lost,
                () = session.going_away.cancelled() => Cause::GoingAway,
                next = self.next_if_silent(&session) => Cause::Silent(Box::new(next)),
            };
            if self.stop.is_cancelled() {
                // We have closed it.
                return;
            }
            let next = match cause {
                Cause::Silent(next) => {
                    // First, so that nobody publishes on both.
                    session.connection.close(None, "no answer");
                    Ok(*next)
                }
                Cause::Lost => self.reconnect(&session, None).await,
                Cause::GoingAway => self.reconnect(&session, Some(&session)).await,
            };
            (session, control) = match next {
                Ok((session, control)) => (Arc::new(session), control),
                Err(error) => {
                    tracing::warn!(%error, "the connection cannot be made again");
                    self.state.send_replace(LinkState::Failed(error));
                    return;
                }
            };
            self.state.send_replace(LinkState::Up(Arc::clone(&session)));
        }
    }

    /// Tries until there is a session. Fails only where trying again cannot help.
    async fn reconnect(
        &mut self,
        lost: &Session,
        leaving: Option<&Arc<Session>>,
    ) -> Result<(Session, ControlStream), ConnectError> {
        let down = |last| LinkState::Down { last, leaving: leaving.cloned() };
        self.state.send_replace(down(None));
        let mut backoff = Backoff::of_rounds();
        loop {
            let wanted = Wanted {
                number: lost.number + 1,
                cluster: Some(self.cluster_uid),
                // It may say so after others have learned that it goes away.
                first: lost.alternatives(),
                leaving: Some(&lost.target),
                may_return: true,
            };
            match self.dialler.round(wanted).await {
                Ok(begun) => return Ok(begun),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "no server");
                    self.state.send_replace(down(Some(error)));
                }
            }
            tokio::time::sleep(backoff.next(self.randomness.next())).await;
        }
    }

    /// Watches a session: while its server owes an answer and is silent, looks for another one. Returns
    /// when that has admitted this client and the first is silent still.
    async fn next_if_silent(&mut self, session: &Session) -> (Session, ControlStream) {
        let mut backoff = Backoff::of_rounds();
        loop {
            let heard = silence(&*self.dial, session).await;
            tracing::debug!(server = %session.target, "the server owes an answer and is silent");
            let wanted = Wanted {
                number: session.number + 1,
                cluster: Some(self.cluster_uid),
                first: &[],
                leaving: Some(&session.target),
                may_return: false,
            };
            let found = tokio::select! {
                biased;
                () = speaks(&*self.dial, session, heard) => continue,
                found = self.dialler.round(wanted) => found,
            };
            match found {
                Ok(begun) if self.dial.heard(&session.connection) == Some(heard) => return begun,
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "no other server");
                    tokio::time::sleep(backoff.next(self.randomness.next())).await;
                }
            }
        }
    }
}

/// Returns when a server has been silent for too long, and has owed an answer all the time; with what
/// was last heard of it. For one task of a session.
pub(crate) async fn silence(dial: &dyn Dial, session: &Session) -> u64 {
    loop {
        session.begins_to_owe().await;
        let Some(mut heard) = dial.heard(&session.connection) else {
            return std::future::pending().await;
        };
        let mut since = Instant::now();
        while session.owes() {
            if since.elapsed() >= SILENCE_MAX + 2 * session.connection.stats().rtt {
                return heard;
            }
            tokio::time::sleep(LOOK).await;
            if let Some(now) = dial.heard(&session.connection).filter(|now| *now != heard) {
                (heard, since) = (now, Instant::now());
            }
        }
    }
}

/// Returns when the server is heard again, or owes nothing any more.
async fn speaks(dial: &dyn Dial, session: &Session, heard: u64) {
    while session.owes() && dial.heard(&session.connection) == Some(heard) {
        tokio::time::sleep(LOOK).await;
    }
}
