//! Owns the connection of a client: makes it again whenever it is lost. Inputs: the fate of the
//! connection. Output: a watched state. Never: knows what travels on it.

use std::sync::Arc;
use std::time::Duration;

use railgun_types::ClusterUid;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::backoff::{Backoff, Randomness};
use crate::connect_error::ConnectError;
use crate::dial::Dial;
use crate::options::ClientOptions;
use crate::session::{ControlStream, Session};

/// Time for the last packet to be sent. Waiting for all that QUIC does after it would hold up a short
/// command for longer than its work.
const CLOSE_LINGER: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
enum LinkState {
    Up(Arc<Session>),
    /// Being made again; the last failure.
    Down(Option<ConnectError>),
    /// It cannot be made again.
    Failed(ConnectError),
}

/// Gives out the present session. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Link {
    state: watch::Receiver<LinkState>,
    server: String,
    cluster_uid: ClusterUid,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

struct LinkTask {
    dial: Arc<dyn Dial>,
    options: Arc<ClientOptions>,
    randomness: Arc<Randomness>,
    state: watch::Sender<LinkState>,
    cluster_uid: ClusterUid,
    stop: CancellationToken,
}

impl Link {
    /// Connects once, and keeps the connection from then on.
    pub(crate) async fn connect(
        dial: Arc<dyn Dial>,
        options: Arc<ClientOptions>,
        randomness: Arc<Randomness>,
    ) -> Result<Self, ConnectError> {
        let (session, control) = Session::begin(&*dial, &options, 0).await?;
        let cluster_uid = session.cluster_uid;
        let session = Arc::new(session);
        let (sender, state) = watch::channel(LinkState::Up(Arc::clone(&session)));
        let server = options.server.clone();
        let stop = CancellationToken::new();
        let task =
            LinkTask { dial, options, randomness, state: sender, cluster_uid, stop: stop.clone() };
        tokio::spawn(stop.clone().run_until_cancelled_owned(task.run(session, control)));
        Ok(Self { state, server, cluster_uid, _stop_on_drop: stop.clone().drop_guard(), stop })
    }

    pub(crate) fn cluster_uid(&self) -> ClusterUid {
        self.cluster_uid
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
            LinkState::Down(_) => false,
            LinkState::Failed(_) => true,
        };
        let found = tokio::time::timeout_at(deadline, state.wait_for(usable)).await;
        match found {
            Ok(Ok(state)) => match &*state {
                LinkState::Up(session) => Ok(Arc::clone(session)),
                LinkState::Failed(error) => Err(error.clone()),
                LinkState::Down(_) => Err(ConnectError::Closed),
            },
            Ok(Err(_)) => Err(ConnectError::Closed),
            Err(_) => {
                let last = match &*self.state.borrow() {
                    LinkState::Down(Some(error)) => error.to_string(),
                    _ => String::new(),
                };
                let waited = rounded(started.elapsed());
                Err(ConnectError::GaveUp { server: self.server.clone(), waited, last })
            }
        }
    }

    /// Closes the connection, and gives the word to the server time to leave this process.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        let session = match &*self.state.borrow() {
            LinkState::Up(session) => Some(Arc::clone(session)),
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
    async fn run(self, mut session: Arc<Session>, mut control: ControlStream) {
        loop {
            control.run(&session).await;
            if self.stop.is_cancelled() {
                // We have closed it.
                return;
            }
            self.state.send_replace(LinkState::Down(None));
            (session, control) = match self.reconnect(session.number + 1).await {
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
    async fn reconnect(&self, number: u64) -> Result<(Session, ControlStream), ConnectError> {
        let mut backoff = Backoff::new();
        loop {
            let begun = Session::begin(&*self.dial, &self.options, number).await;
            let begun = begun.and_then(|(session, control)| {
                if session.cluster_uid == self.cluster_uid {
                    return Ok((session, control));
                }
                let (server, found) = (self.options.server.clone(), session.cluster_uid);
                Err(ConnectError::OtherCluster { server, expected: self.cluster_uid, found })
            });
            match begun {
                Ok(begun) => return Ok(begun),
                Err(error) if error.is_final() => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "not connected");
                    self.state.send_replace(LinkState::Down(Some(error)));
                }
            }
            tokio::time::sleep(backoff.next(self.randomness.next())).await;
        }
    }
}
