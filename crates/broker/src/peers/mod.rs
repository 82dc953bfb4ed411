//! The connections to the other nodes of the cluster. To each node that this one has something to ask
//! lead up to four (DESIGN §6 "Lines"): for calls, for Raft's entries, for what is large, and for
//! clients, each made when it is first needed and again when it is lost, by a task of its own.

mod addresses;
mod callers;
mod calls;
mod dial;
mod lives;
mod network;
mod refusals;
mod serve;
mod streams;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use railgun_net::{FrameReader, FrameWriter};
use railgun_proto::v1;
use railgun_raft::PeerError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use self::calls::CallLine;
use self::streams::StreamLine;
use crate::actors::Actors;
pub(crate) use addresses::{Addresses, Findings, Found, Listed, Listing};
pub(crate) use callers::Callers;
pub(crate) use dial::{Dialler, SelfPortrait};
pub(crate) use lives::Lives;
pub(crate) use network::RaftPeers;
pub(crate) use refusals::{IdentityRefused, Refusals};
pub(crate) use serve::{PeerService, RemovedNodes, serve_peers, was_removed};

/// How long connections to an address are kept that nobody asks for. A member of the cluster is asked
/// every second.
const UNUSED_MAX: Duration = Duration::from_secs(60);
/// How often it is looked which ones those are.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Requests that may wait for one connection. Who comes then waits for a place.
const QUEUE: usize = 256;

/// What a call brings.
pub(crate) type CallResult = Result<(v1::peer_reply::Answer, Bytes), PeerError>;
/// A stream that was opened, with its first frame sent.
pub(crate) type OpenResult = Result<(FrameWriter, FrameReader), PeerError>;

/// Something that waits for a connection, and who waits for what it brings.
#[derive(Debug)]
struct Asked<W, T> {
    wanted: W,
    reply: oneshot::Sender<Result<T, PeerError>>,
}

/// A call that waits to be made.
type CallAsk = Asked<(v1::peer_call::Call, Bytes), (v1::peer_reply::Answer, Bytes)>;
/// A stream that waits to be opened.
type OpenAsk = Asked<v1::PeerOpen, (FrameWriter, FrameReader)>;

/// Which connection a stream goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Log,
    Bulk,
    Clients,
}

#[derive(Debug)]
enum Ask {
    Call { address: String, ask: CallAsk },
    Open { address: String, line: Line, ask: OpenAsk },
}

/// Reaches other nodes by their addresses. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    to: mpsc::Sender<Ask>,
}

impl Peers {
    /// Starts the owner of all connections that this node dials.
    pub(crate) fn spawn(dialler: Dialler, actors: &Actors, cancel: CancellationToken) -> Self {
        let (to, from) = mpsc::channel(QUEUE);
        let switchboard =
            Switchboard { dialler, actors: actors.clone(), cancel, lines: BTreeMap::new() };
        actors.spawn("the connections to peers", switchboard.run(from));
        Self { to }
    }

    /// Makes a call and waits for its answer. Cancel safe: it may have arrived.
    pub(crate) async fn call(
        &self,
        address: &str,
        call: v1::peer_call::Call,
        blob: Bytes,
    ) -> CallResult {
        let (reply, answer) = oneshot::channel();
        let ask = Asked { wanted: (call, blob), reply };
        self.ask(Ask::Call { address: address.to_owned(), ask }, answer).await
    }

    /// Opens a stream. Cancel safe.
    pub(crate) async fn open(&self, address: &str, line: Line, open: v1::PeerOpen) -> OpenResult {
        let (reply, opened) = oneshot::channel();
        let ask = Asked { wanted: open, reply };
        self.ask(Ask::Open { address: address.to_owned(), line, ask }, opened).await
    }

    async fn ask<T>(
        &self,
        ask: Ask,
        answer: oneshot::Receiver<Result<T, PeerError>>,
    ) -> Result<T, PeerError> {
        let stopping = || PeerError::Broken { reason: "the node is stopping".to_owned() };
        self.to.send(ask).await.map_err(|_| stopping())?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }
}

/// The connections to one node, each a task.
#[derive(Debug)]
struct Lines {
    calls: mpsc::Sender<CallAsk>,
    log: mpsc::Sender<OpenAsk>,
    bulk: mpsc::Sender<OpenAsk>,
    clients: mpsc::Sender<OpenAsk>,
    /// When one of them was wanted last.
    used: Instant,
}

/// Owns who is connected by which task. Never waits for a connection: whoever asks for one that is
/// overrun is told so.
struct Switchboard {
    dialler: Dialler,
    actors: Actors,
    cancel: CancellationToken,
    lines: BTreeMap<String, Lines>,
}

impl Switchboard {
    async fn run(mut self, mut from: mpsc::Receiver<Ask>) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ask = tokio::select! {
                biased;
                () = self.cancel.cancelled() => return,
                _ = look.tick() => {
                    // Their tasks end.
                    self.lines.retain(|_, lines| lines.used.elapsed() < UNUSED_MAX);
                    continue;
                }
                ask = from.recv() => ask,
            };
            match ask {
                Some(Ask::Call { address, ask }) => {
                    let refused = self.lines(address).calls.try_send(ask);
                    if let Err(refused) = refused {
                        refused.into_inner().reply.send(Err(overrun())).ok();
                    }
                }
                Some(Ask::Open { address, line, ask }) => {
                    let lines = self.lines(address);
                    let to = match line {
                        Line::Log => &lines.log,
                        Line::Bulk => &lines.bulk,
                        Line::Clients => &lines.clients,
                    };
                    if let Err(refused) = to.try_send(ask) {
                        refused.into_inner().reply.send(Err(overrun())).ok();
                    }
                }
                None => return,
            }
        }
    }

    fn lines(&mut self, address: String) -> &Lines {
        let (dialler, actors, cancel) = (&self.dialler, &self.actors, &self.cancel);
        let lines = self.lines.entry(address).or_insert_with_key(|address| {
            let (calls, calls_from) = mpsc::channel(QUEUE);
            let (log, log_from) = mpsc::channel(QUEUE);
            let (bulk, bulk_from) = mpsc::channel(QUEUE);
            let (clients, clients_from) = mpsc::channel(QUEUE);
            let line = |line_use| dialler.to(address, line_use);
            let line_of_calls = CallLine::new(line(v1::PeerUse::Control), calls_from);
            let run = Box::pin(line_of_calls.run());
            let run = cancel.clone().run_until_cancelled_owned(run);
            actors.spawn("a connection for calls", async {
                run.await;
            });
            for (line_use, from) in [
                (v1::PeerUse::Log, log_from),
                (v1::PeerUse::Bulk, bulk_from),
                (v1::PeerUse::Clients, clients_from),
            ] {
                let line_of_streams = StreamLine::new(line(line_use), from);
                let run = Box::pin(line_of_streams.run());
                let run = cancel.clone().run_until_cancelled_owned(run);
                actors.spawn("a connection for streams", async {
                    run.await;
                });
            }
            Lines { calls, log, bulk, clients, used: Instant::now() }
        });
        lines.used = Instant::now();
        lines
    }
}

fn overrun() -> PeerError {
    PeerError::Unreachable { reason: "too much waits for the connection already".to_owned() }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use railgun_net::memory::MemoryNetwork;
    use railgun_proto::Frame;
    use railgun_types::Timestamp;
    use tokio::sync::watch;
    use tokio::time::sleep;

    use super::*;
    use crate::clock::{Clock, LogClock};

    #[derive(Debug)]
    struct Still;

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            Timestamp(0)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_leads_to_where_nobody_asks_any_more_is_given_up() {
        let network = MemoryNetwork::new();
        let at = |host: u8| SocketAddr::from(([10, 0, 0, host], 7_412));
        let (here, there) =
            (network.listen_peer(at(1)).unwrap(), network.listen_peer(at(2)).unwrap());
        let about = watch::channel(v1::NodeAbout::default()).1;
        let log_clock = Arc::new(LogClock::new(Timestamp(0)));
        let portrait = SelfPortrait { about, clock: Arc::new(Still), log_clock };
        let dialler = Dialler::new(Arc::new(here), portrait, Refusals::default());
        let (actors, cancel) = (Actors::new(), CancellationToken::new());
        let peers = Peers::spawn(dialler, &actors, cancel.clone());
        let serving = tokio::spawn(async move {
            let connection = there.accept().await.expect("a connection");
            let (mut writer, mut reader) = connection.accept().await.unwrap();
            reader.next().await.unwrap();
            writer.send(Frame::new(&v1::PeerWelcome::default())).await.unwrap();
            while let Ok(Some(frame)) = reader.next().await {
                let v1::PeerCall { id, .. } = frame.decode().unwrap();
                let answer = Some(v1::peer_reply::Answer::Greeted(v1::NodeAbout::default()));
                writer.send(Frame::new(&v1::PeerReply { id, answer })).await.unwrap();
            }
        });
        for _ in 0..10 {
            let greet = v1::peer_call::Call::Greet(v1::NodeAbout::default());
            peers.call(&at(2).to_string(), greet, Bytes::new()).await.unwrap();
            sleep(UNUSED_MAX / 2).await;
        }
        assert!(!serving.is_finished(), "it is used");
        sleep(UNUSED_MAX).await;
        assert!(serving.is_finished(), "nobody wants it");
        cancel.cancel();
    }
}
