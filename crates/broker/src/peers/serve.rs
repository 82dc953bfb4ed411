//! What other nodes ask of this one, on the connections that they have made.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use railgun_net::peer::PeerEndpoint;
use railgun_net::tls::ClusterCa;
use railgun_net::{Connection, FrameReader, FrameWriter};
use railgun_proto::convert::Uid;
use railgun_proto::{Frame, WireError, v1};
use railgun_raft::StreamUse;
use railgun_types::{ClusterUid, ErrorCode, NodeId, NodeUid, ReplicaId, ShardId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::callers::Callers;
use super::dial::{SelfPortrait, VERSION_MAX, VERSION_MIN};
use super::lives::{Lives, NotWelcome};
use super::network::raft_stream;
use crate::actors::Actors;
use crate::cluster_admin;
use crate::describe;
use crate::node_ask::NodeAsk;
use crate::on_node::{LocalReplica, OnNodeWatch};
use crate::relay::{self, RelayedSessions};
use crate::routing::ANSWER_TIMEOUT;
use crate::session::{ClientService, GuestNode};

/// How long a peer may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Calls of one connection that are worked on at a time, but for those that are made for clients; nothing
/// further is read meanwhile.
const CALLS_MAX: usize = 512;
/// Reads for clients, of one connection, that are worked on at a time: each takes a round trip to a majority.
/// Further ones are refused.
const READS_MAX: usize = 256;
/// The same of what else is asked for clients, which may take seconds.
const CLIENT_CALLS_MAX: usize = 64;

/// What a call is answered with.
type Answered = Result<(v1::peer_reply::Answer, Bytes), WireError>;

/// What the node has for others.
#[derive(Clone, Debug)]
pub(crate) struct PeerService {
    pub(crate) portrait: SelfPortrait,
    pub(crate) on_node: OnNodeWatch,
    /// What serves their clients, as soon as this node serves its own.
    pub(crate) clients: watch::Receiver<Option<ClientService>>,
    /// Whoever forms the cluster, or takes nodes into it.
    pub(crate) asks: mpsc::Sender<NodeAsk>,
    /// Numbers of sessions, of clients and of relays: no two have the same.
    pub(crate) next_session: Arc<AtomicU64>,
    /// The cluster's authority, where this node has its key.
    pub(crate) ca: Option<Arc<ClusterCa>>,
    /// Who has called of late.
    pub(crate) callers: Callers,
    /// By which processes other nodes are known.
    pub(crate) lives: Lives,
    /// Who is no part of the cluster any more.
    pub(crate) removed: watch::Receiver<RemovedNodes>,
}

/// The nodes that were removed from the cluster, by the uid of their data directory.
pub(crate) type RemovedNodes = Arc<BTreeMap<NodeUid, NodeId>>;

/// Serves other nodes until cancelled.
pub(crate) async fn serve_peers(
    endpoint: Arc<PeerEndpoint>,
    service: PeerService,
    actors: Actors,
    cancel: CancellationToken,
) {
    loop {
        let connection = tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            accepted = endpoint.accept() => match accepted {
                Some(connection) => connection,
                None => return,
            },
        };
        let served = serve(connection, service.clone(), actors.clone(), cancel.clone());
        actors.spawn("a peer's connection", served);
    }
}

async fn serve(
    connection: Connection,
    service: PeerService,
    actors: Actors,
    cancel: CancellationToken,
) {
    let peer = connection.remote_addr();
    let work = async {
        let begun = match timeout(HELLO_TIMEOUT, welcome(&connection, &service)).await {
            Ok(begun) => begun,
            Err(_) => return connection.close(Some(ErrorCode::Timeout), "no introduction came"),
        };
        let Guest { uid, node, line_use, writer, reader } = match begun {
            Ok(begun) => begun,
            Err(error) => return tracing::debug!(%peer, %error, "peer not welcome"),
        };
        let Some(uid) = uid else {
            // It only looks, and has seen.
            return drop(timeout(HELLO_TIMEOUT, connection.closed()).await);
        };
        let from = Introduced { uid, node };
        let serving = async {
            match line_use {
                v1::PeerUse::Control => serve_calls(&service, from, writer, reader).await,
                v1::PeerUse::Log | v1::PeerUse::Bulk | v1::PeerUse::Clients => {
                    let _first_stream = (writer, reader);
                    serve_streams(&connection, &service, &actors, &cancel).await;
                }
            }
        };
        tokio::select! {
            biased;
            // When it comes back, it is told.
            () = is_removed(service.removed.clone(), uid) => {
                connection.close(Some(ErrorCode::NodeIdentityConflict), "the node was removed");
            }
            () = serving => {}
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

/// A node that was let in, and the first stream of its connection.
struct Guest {
    /// `None`: it only looks.
    uid: Option<NodeUid>,
    /// `None`: it is of no cluster yet, or was of none when it came.
    node: Option<NodeId>,
    line_use: v1::PeerUse,
    writer: FrameWriter,
    reader: FrameReader,
}

/// Ends when the node is known to have been removed.
async fn is_removed(mut removed: watch::Receiver<RemovedNodes>, uid: NodeUid) {
    if removed.wait_for(|removed| removed.contains_key(&uid)).await.is_err() {
        std::future::pending().await
    }
}

/// Hears who it is and what the connection is for.
async fn welcome(connection: &Connection, service: &PeerService) -> Result<Guest, WireError> {
    let lost =
        |error: &dyn std::fmt::Display| WireError::new(ErrorCode::Unavailable, error.to_string());
    let (mut writer, mut reader) = connection.accept().await.map_err(|error| lost(&error))?;
    let frame = reader.next().await.map_err(|error| lost(&error))?;
    let frame = frame.ok_or_else(|| lost(&"the peer said nothing"))?;
    let checked = async {
        let hello: v1::PeerHello = frame.decode().map_err(WireError::from)?;
        let from = check(&hello, &service.portrait.now())?;
        let uid = NodeUid::from_wire("uid", &from.uid).ok();
        let removed = uid.and_then(|uid| service.removed.borrow().get(&uid).copied());
        if let Some(node) = removed {
            let message = was_removed(node);
            return Err(WireError::new(ErrorCode::NodeIdentityConflict, message).into());
        }
        service.lives.admit(from).await?;
        let node = Some(NodeId(from.node_id)).filter(|node| node.0 != 0);
        Ok::<_, NotWelcome>((uid, node, hello.r#use()))
    };
    match checked.await {
        Ok((uid, node, line_use)) => {
            let welcome = v1::PeerWelcome {
                version: VERSION_MAX,
                from: Some(service.portrait.now()),
                ..v1::PeerWelcome::default()
            };
            writer.send(Frame::new(&welcome)).await.map_err(|error| lost(&error))?;
            Ok(Guest { uid, node, line_use, writer, reader })
        }
        Err(NotWelcome { error, elsewhere }) => {
            let refused = v1::Error::from(error.clone());
            let frame = match error.code == ErrorCode::NodeIdentityConflict {
                true => Frame::new(&v1::PeerWelcome {
                    version: VERSION_MAX,
                    from: Some(service.portrait.now()),
                    refused: Some(refused),
                    elsewhere: elsewhere.unwrap_or_default(),
                }),
                false => Frame::new(&refused),
            };
            if writer.send(frame).await.is_ok() {
                writer.finish();
                writer.stopped().await.ok();
            }
            Err(error)
        }
    }
}

/// What a node is told that was removed from the cluster.
pub(crate) fn was_removed(node: NodeId) -> String {
    format!(
        "this data directory was node {node}, which was removed from the cluster: to join it again, \
         start with an empty one"
    )
}

fn check<'a>(
    hello: &'a v1::PeerHello,
    own: &v1::NodeAbout,
) -> Result<&'a v1::NodeAbout, NotWelcome> {
    if hello.version_min > VERSION_MAX || hello.version_max < VERSION_MIN {
        let message = format!(
            "nodes here speak version {VERSION_MIN} to {VERSION_MAX} with one another, not {} to {}",
            hello.version_min, hello.version_max
        );
        return Err(WireError::new(ErrorCode::UnsupportedVersion, message).into());
    }
    let from = hello.from.as_ref().ok_or_else(|| {
        WireError::new(ErrorCode::ProtocolViolation, "the peer does not say who it is")
    })?;
    let (theirs, ours) = (&from.cluster_uid, &own.cluster_uid);
    // Who forms a cluster may yet let go of it.
    let may_change = from.forming || own.forming;
    if !theirs.is_empty() && !ours.is_empty() && theirs != ours && !may_change {
        let uid = |uid: &Bytes| {
            ClusterUid::from_wire("cluster_uid", uid)
                .map_or_else(|e| e.to_string(), |u| u.to_string())
        };
        let message = format!(
            "this node belongs to cluster {}, and node {} of cluster {} has called: does its list of \
             peers name the wrong nodes?",
            uid(ours),
            from.peer_address,
            uid(theirs)
        );
        return Err(WireError::new(ErrorCode::WrongCluster, message).into());
    }
    if from.uid == own.uid && from.process != own.process {
        return Err(NotWelcome::double(&from.peer_address, own.peer_address.clone()));
    }
    let is_same_number = from.node_id != 0 && from.node_id == own.node_id && theirs == ours;
    if is_same_number && from.uid != own.uid {
        let message = format!(
            "node {} at {} has the number of this node: was its data directory copied?",
            from.node_id, from.peer_address
        );
        return Err(WireError::new(ErrorCode::NodeIdentityConflict, message).into());
    }
    Ok(from)
}

/// For whom a call is made.
#[derive(Clone, Copy, Debug)]
enum CallFor {
    /// For the cluster: nothing goes on without it.
    Cluster,
    /// For a client that wants to read what is newest.
    Read,
    /// For a client that wants something else.
    Client,
}

impl CallFor {
    fn of(call: Option<&v1::peer_call::Call>) -> Self {
        use v1::peer_call::Call;
        match call {
            Some(Call::ReadIndex(_)) => Self::Read,
            Some(
                Call::Describe(_) | Call::DescribeStreams(_) | Call::MoveLead(_) | Call::Sign(_),
            ) => Self::Client,
            Some(
                Call::Greet(_)
                | Call::Raft(_)
                | Call::Form(_)
                | Call::Join(_)
                | Call::Reincarnate(_),
            )
            | None => Self::Cluster,
        }
    }
}

/// Calls that are worked on.
#[derive(Debug, Default)]
struct Running {
    of_cluster: usize,
    reads: usize,
    of_clients: usize,
}

impl Running {
    fn of(&mut self, whose: CallFor) -> &mut usize {
        match whose {
            CallFor::Cluster => &mut self.of_cluster,
            CallFor::Read => &mut self.reads,
            CallFor::Client => &mut self.of_clients,
        }
    }

    /// Whether one more is taken. One that is not is answered so, as if it were for the cluster.
    fn takes(&self, whose: CallFor) -> bool {
        match whose {
            CallFor::Cluster => true,
            CallFor::Read => self.reads < READS_MAX,
            CallFor::Client => self.of_clients < CLIENT_CALLS_MAX,
        }
    }
}

/// Who a peer has said that it is.
#[derive(Clone, Copy, Debug)]
struct Introduced {
    uid: NodeUid,
    /// `None`: it was of no cluster yet when it came.
    node: Option<NodeId>,
}

/// Answers calls, each as soon as it can be, until the peer leaves.
async fn serve_calls(
    service: &PeerService,
    from: Introduced,
    mut writer: FrameWriter,
    mut reader: FrameReader,
) {
    let (mut answers, mut running) = (FuturesUnordered::new(), Running::default());
    loop {
        let is_flushed = writer.is_flushed();
        tokio::select! {
            biased;
            flushed = writer.flush(), if !is_flushed => {
                if flushed.is_err() {
                    return;
                }
            }
            Some((whose, reply)) = answers.next(), if is_flushed => {
                *running.of(whose) -= 1;
                let queued: Result<(), _> = writer.queue_all([reply]);
                if let Err(error) = queued {
                    return tracing::error!(%error, "an answer to a peer is too large");
                }
            }
            frame = reader.next(), if running.of_cluster < CALLS_MAX => {
                let Ok(Some(frame)) = frame else { return };
                let call = frame.decode::<v1::PeerCall>().map_err(WireError::from);
                let whose = call.as_ref().map_or(CallFor::Cluster, |it| CallFor::of(it.call.as_ref()));
                let takes = running.takes(whose);
                let counted = if takes { whose } else { CallFor::Cluster };
                *running.of(counted) += 1;
                answers.push(async move {
                    let answer = match call {
                        Ok(call) if takes => {
                            answer(call.id, service.call(from, call.call, frame.blob()).await)
                        }
                        Ok(call) => answer(call.id, Err(too_many())),
                        // Nobody waits for an answer to it.
                        Err(error) => answer(u64::MAX, Err(error)),
                    };
                    (counted, answer)
                });
            }
        }
    }
}

fn answer(id: u64, answered: Answered) -> Frame {
    let (answer, blob) = match answered {
        Ok((answer, blob)) => (answer, vec![blob]),
        Err(error) => (v1::peer_reply::Answer::Error(error.into()), Vec::new()),
    };
    Frame::with_blob(&v1::PeerReply { id, answer: Some(answer) }, blob)
}

fn too_many() -> WireError {
    let message =
        "the node works on as many requests for clients of this peer as it does at a time";
    WireError::new(ErrorCode::Unavailable, message)
}

impl PeerService {
    /// Does what the node `from` asks.
    async fn call(
        &self,
        from: Introduced,
        call: Option<v1::peer_call::Call>,
        blob: Bytes,
    ) -> Answered {
        use v1::peer_call::Call;
        use v1::peer_reply::Answer;
        match call {
            Some(Call::Greet(about)) => {
                self.callers.note(&about, &self.portrait.about.borrow());
                // A full queue: it greets again.
                self.asks.try_send(NodeAsk::Greet { about }).ok();
                Ok((Answer::Greeted(self.portrait.now()), Bytes::new()))
            }
            Some(Call::Raft(to)) => {
                let replica = self.replica(&to)?;
                let answered =
                    replica.raft.answer(from.node, blob).await.map_err(|error| {
                        WireError::new(ErrorCode::Unavailable, error.to_string())
                    })?;
                Ok((Answer::RaftAnswered(v1::Done {}), answered))
            }
            Some(Call::ReadIndex(to)) => {
                let replica = self.replica(&to)?;
                let read =
                    replica.raft.read_index_for_followers().await.map_err(|error| {
                        WireError::new(ErrorCode::Unavailable, error.to_string())
                    })?;
                let entry = v1::EntryAddress { term: read.term, index: read.index };
                Ok((Answer::ReadIndexIs(entry), Bytes::new()))
            }
            Some(Call::Describe(describe)) => {
                self.check_cluster(&describe.cluster_uid)?;
                let told = cluster_admin::replicas_here(&self.on_node.borrow(), self.ca.as_deref());
                Ok((Answer::ReplicasTold(told), Bytes::new()))
            }
            Some(Call::DescribeStreams(asked)) => {
                let of = asked.of.as_ref().ok_or_else(no_replica)?;
                let (replica, shard) = (self.replica(of)?, ShardId(of.shard));
                let clients = self.clients.borrow().clone().ok_or_else(not_yet)?;
                let told = describe::tell(clients.routing(), shard, &replica, &asked);
                // Nobody waits longer.
                let told = timeout(ANSWER_TIMEOUT, told).await.map_err(|_| not_in_time())??;
                Ok((Answer::StreamsTold(told), Bytes::new()))
            }
            Some(Call::MoveLead(lead)) => {
                let from = lead.from.ok_or_else(no_replica)?;
                let (replica, shard) = (self.replica(&from)?, ShardId(from.shard));
                let moved =
                    cluster_admin::move_lead_of(shard, &replica, NodeId(lead.node_id)).await;
                let error = moved.err().map(v1::Error::from);
                Ok((Answer::LeadMoved(v1::LeadMoved { error }), Bytes::new()))
            }
            Some(Call::Sign(sign)) => {
                let signed = self.ask(|reply| NodeAsk::Sign { sign, reply }).await;
                let signed = match signed {
                    Ok(signed) => v1::CertificateSigned { signed, error: None },
                    Err(error) => v1::CertificateSigned { signed: None, error: Some(error.into()) },
                };
                Ok((Answer::CertificateSigned(signed), Bytes::new()))
            }
            Some(Call::Form(form)) => {
                self.ask(|reply| NodeAsk::Form { form, reply }).await?;
                Ok((Answer::Formed(v1::Done {}), Bytes::new()))
            }
            Some(Call::Reincarnate(lost)) => {
                self.check_cluster(&lost.cluster_uid)?;
                let (shard, lost) = (ShardId(lost.shard), ReplicaId(lost.replica));
                let from = from.uid;
                let ask = |reply| NodeAsk::Reincarnate { from, shard, lost, reply };
                let replica = self.ask(ask).await?;
                let address = v1::ReplicaAddress {
                    cluster_uid: self.portrait.about.borrow().cluster_uid.clone(),
                    shard: shard.0,
                    replica: replica.0,
                };
                Ok((Answer::Reincarnated(address), Bytes::new()))
            }
            Some(Call::Join(join)) => {
                let joined = self.ask(|reply| NodeAsk::Join { join, reply }).await?;
                Ok((Answer::Joined(joined), Bytes::new()))
            }
            None => {
                let message = "the node does not know this call: is the peer newer?";
                Err(WireError::new(ErrorCode::ProtocolViolation, message))
            }
        }
    }

    async fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, WireError>>) -> NodeAsk,
    ) -> Result<T, WireError> {
        let stopping = || WireError::new(ErrorCode::GoingAway, "the node is stopping");
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.map_err(|_| stopping())?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    fn check_cluster(&self, uid: &Bytes) -> Result<(), WireError> {
        if self.portrait.about.borrow().cluster_uid != *uid {
            let message = "the request is for another cluster than that of this node";
            return Err(WireError::new(ErrorCode::WrongCluster, message));
        }
        Ok(())
    }

    /// The replica that is meant, if it is that one.
    fn replica(&self, to: &v1::ReplicaAddress) -> Result<Arc<LocalReplica>, WireError> {
        self.check_cluster(&to.cluster_uid)?;
        let shard = ShardId(to.shard);
        let not_here = |message: String| WireError::new(ErrorCode::ReplicaNotHere, message);
        let on_node = self.on_node.borrow().clone();
        let replica = on_node.get(&shard).ok_or_else(|| {
            not_here(format!("shard {shard} has no replica on this node, or not yet"))
        })?;
        if to.replica != 0 && to.replica != replica.replica.0 {
            let (here, asked) = (replica.replica, ReplicaId(to.replica));
            let message =
                format!("replica {asked} of shard {shard} is not on this node, but {here}");
            return Err(not_here(message));
        }
        Ok(Arc::clone(replica))
    }
}

/// Serves the streams of a connection, each by a task, until it is lost.
async fn serve_streams(
    connection: &Connection,
    service: &PeerService,
    actors: &Actors,
    cancel: &CancellationToken,
) {
    let sessions = RelayedSessions::default();
    let mut guest: Option<GuestNode> = None;
    while let Ok((writer, reader)) = connection.accept().await {
        if guest.is_none() {
            guest = service.clients.borrow().as_ref().map(ClientService::welcome);
        }
        let (service, cancel) = (service.clone(), cancel.clone());
        let caller = Caller { sessions: sessions.clone(), guest: guest.clone() };
        actors.spawn("a peer's stream", async move {
            let served = Box::pin(serve_stream(&service, caller, writer, reader));
            cancel.run_until_cancelled(served).await;
        });
    }
}

/// Who has made a connection: what its streams share.
struct Caller {
    sessions: RelayedSessions,
    /// `None`: this node does not serve clients yet.
    guest: Option<GuestNode>,
}

/// What a stream is for, and who serves it.
enum Role {
    Raft(StreamUse),
    Relay { session: Option<u64> },
    Client(GuestNode),
}

/// What the first frame of a stream says.
fn opened(
    service: &PeerService,
    caller: &Caller,
    first: &Frame,
) -> Result<(Role, Arc<LocalReplica>), WireError> {
    let open: v1::PeerOpen = first.decode()?;
    let replica = service.replica(open.to.as_ref().ok_or_else(no_replica)?)?;
    let role = match open.r#use() {
        v1::PeerStreamUse::PeerStreamAppend => Role::Raft(StreamUse::Append),
        v1::PeerStreamUse::PeerStreamSnapshot => Role::Raft(StreamUse::Snapshot),
        v1::PeerStreamUse::PeerStreamRelay => Role::Relay { session: open.session },
        v1::PeerStreamUse::PeerStreamClient => {
            Role::Client(caller.guest.clone().ok_or_else(not_yet)?)
        }
    };
    Ok((role, replica))
}

async fn serve_stream(
    service: &PeerService,
    caller: Caller,
    mut writer: FrameWriter,
    mut reader: FrameReader,
) {
    let Ok(Ok(Some(first))) = timeout(HELLO_TIMEOUT, reader.next()).await else { return };
    let (role, replica) = match opened(service, &caller, &first) {
        Ok(opened) => opened,
        Err(error) => {
            let frame = Frame::new(&v1::Error::from(error));
            if writer.send(frame).await.is_ok() {
                writer.finish();
                writer.stopped().await.ok();
            }
            return;
        }
    };
    let what_for = match role {
        Role::Raft(what_for) => what_for,
        Role::Relay { session } => {
            let number = || service.next_session.fetch_add(1, Ordering::Relaxed);
            let place = caller.sessions.place(session, number);
            return relay::serve(&replica, place.queueing(), writer, reader).await;
        }
        Role::Client(guest) => return guest.serve(writer, reader).await,
    };
    if let Err(error) = replica.raft.serve_stream(what_for, raft_stream(writer, reader)).await {
        tracing::debug!(replica = %replica.replica, ?what_for, %error, "a peer's stream ended");
    }
}

fn no_replica() -> WireError {
    WireError::new(ErrorCode::ProtocolViolation, "it is for no replica")
}

fn not_in_time() -> WireError {
    let message = "the replica is not known to be up to date";
    WireError::new(ErrorCode::Unavailable, message)
}

fn not_yet() -> WireError {
    WireError::new(ErrorCode::Unavailable, "the node does not serve clients yet")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(uid: u8, process: u8, cluster: u8, node_id: u32) -> v1::NodeAbout {
        v1::NodeAbout {
            uid: vec![uid; 16].into(),
            process: vec![process; 16].into(),
            cluster_uid: vec![cluster; if cluster == 0 { 0 } else { 16 }].into(),
            node_id,
            peer_address: format!("n{process}:7412"),
            ..v1::NodeAbout::default()
        }
    }

    fn refused(from: Option<v1::NodeAbout>) -> Option<(ErrorCode, String)> {
        let own = about(1, 1, 0xc, 1);
        let hello = v1::PeerHello { version_min: 1, version_max: 1, from, ..Default::default() };
        let error = check(&hello, &own).err()?.error;
        let WireError { code: railgun_proto::WireCode::Known(code), message, .. } = error else {
            panic!("a code of ours: {error}")
        };
        Some((code, message))
    }

    #[test]
    fn each_refusal_has_its_own_words() {
        assert_eq!(refused(Some(about(2, 2, 0xc, 2))), None);
        assert_eq!(refused(Some(about(2, 2, 0, 0))), None, "it has no cluster yet");
        assert_eq!(refused(Some(about(1, 1, 0xc, 1))), None, "itself");
        for (from, code, words) in [
            (None, ErrorCode::ProtocolViolation, "does not say who it is"),
            (Some(about(2, 2, 0xd, 2)), ErrorCode::WrongCluster, "node n2:7412 of cluster 0d0d"),
            (Some(about(2, 2, 0xc, 1)), ErrorCode::NodeIdentityConflict, "has the number of"),
            (
                Some(about(1, 2, 0xc, 1)),
                ErrorCode::NodeIdentityConflict,
                "the node at n2:7412 is one that runs at n1:7412 already",
            ),
        ] {
            let (refused, message) = refused(from).expect("it is refused");
            assert_eq!(refused, code, "{message}");
            assert!(message.contains(words), "{message}");
        }
    }
}
