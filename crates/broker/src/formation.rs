//! How a node without a cluster comes to one (CL-1 to CL-3): it forms one with the others that wait for
//! the same, or joins the one that there is. Both are kept on disk before anything is done about it,
//! and neither happens twice.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use railgun_cold::Bucket;
use railgun_core::cluster_clock::MUST_NOT_LEAD_US;
use railgun_log::Disk;
use railgun_proto::convert::Uid;
use railgun_proto::{WireError, v1};
use railgun_types::limits::NODE_ADDRESS_BYTES;
use railgun_types::{ClusterUid, ErrorCode, NodeId, NodeUid};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::clock::Clock;
use crate::cluster_bucket::{self, WrongBucket};
use crate::discovery::Seeds;
use crate::entropy::Entropy;
use crate::identity::{Founder, Identity, IdentityError, Member};
use crate::node::StartError;
use crate::node_ask::NodeAsk;
use crate::peers::Peers;
pub(crate) use plan::is_bound;
use plan::{Plan, founder};

/// How often peers are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long one of them may take to answer.
const GREET_TIMEOUT: Duration = Duration::from_secs(1);
/// What a peer has told is believed for so long.
const NEWS_LAST: Duration = Duration::from_secs(4);
/// How long a cluster may take to give a place to a node.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the log says what is waited for.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// As often where that changes.
const TELL_NEWS_EVERY: Duration = Duration::from_secs(1);

/// Why a node comes to no cluster.
#[derive(Debug, thiserror::Error)]
pub enum FormingError {
    /// The disk does not keep what it has come to.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The node that was to form the cluster is lost before it has told whether it has.
    #[error(
        "this node has agreed to form cluster {cluster} with the node that was at {at}, and another one is \
         there now: empty this node's data directory, which holds no records, unless that node can be \
         brought back"
    )]
    FounderGone {
        /// The cluster that was to be.
        cluster: ClusterUid,
        /// Where the node was.
        at: String,
    },
}

/// What a node needs to come to a cluster.
pub(crate) struct Formation {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) entropy: Arc<dyn Entropy>,
    /// The one that this node was given.
    pub(crate) bucket: Bucket,
    pub(crate) peers: Peers,
    pub(crate) clock: Arc<dyn Clock>,
    /// Addresses where other nodes may be; its own may be among them.
    pub(crate) seeds: Seeds,
    /// What the others are told of this node.
    pub(crate) about: watch::Sender<v1::NodeAbout>,
}

/// A node that was seen.
#[derive(Clone, Debug)]
struct Seen {
    about: v1::NodeAbout,
    at: Instant,
    /// Its clock less ours, in µs; right to some [`GREET_TIMEOUT`].
    off_us: i64,
}

/// What is known of the others.
#[derive(Debug, Default)]
struct News {
    seen: BTreeMap<NodeUid, Seen>,
    /// Who did not answer, or refused, and with what words.
    failed: BTreeMap<String, String>,
    /// The cluster that the bucket is known to be of.
    bucket_of: Option<ClusterUid>,
}

impl Formation {
    /// Comes to a cluster, unless the node belongs to one, and waits for it as long as it takes: until
    /// there is a Raft group that it may take part in. The identity is kept on disk, and others are told.
    ///
    /// # Errors
    /// [`StartError`]: the disk does not keep it, the plan of a cluster cannot be carried out, or this node was
    /// given another bucket than the cluster's.
    pub(crate) async fn come_to_cluster(
        &self,
        mut identity: Identity,
        asks: &mut mpsc::Receiver<NodeAsk>,
    ) -> Result<Identity, StartError> {
        loop {
            if identity.member.is_none() {
                identity = self.look(&identity, asks).await?;
            }
            self.about.send_modify(|about| identity.tell(about));
            let Some(member) = identity.member.as_ref().filter(|member| member.is_forming()) else {
                return Ok(identity);
            };
            if member.node == NodeId(1) {
                // Before anybody hears of the cluster: whoever belongs to it finds its bucket claimed.
                cluster_bucket::claim(&self.bucket, member.cluster, self.clock.now()).await?;
            }
            match self.carry_out(&identity, member, asks).await? {
                Plan::Agreed => return Ok(identity),
                Plan::Abandoned => {
                    let (cluster, is_first) = (member.cluster, member.node == NodeId(1));
                    identity.member = None;
                    identity.keep(&*self.disk)?;
                    if is_first {
                        cluster_bucket::disclaim(&self.bucket, cluster).await;
                    }
                    self.about.send_modify(|about| identity.tell(about));
                }
            }
        }
    }

    /// Looks for a cluster, or for nodes to form one with.
    async fn look(
        &self,
        identity: &Identity,
        asks: &mut mpsc::Receiver<NodeAsk>,
    ) -> Result<Identity, StartError> {
        let mut news = News::default();
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told: Option<(Instant, Vec<String>)> = None;
        loop {
            tokio::select! {
                biased;
                Some(ask) = asks.recv() => match ask {
                    NodeAsk::Greet { about } => self.note(&mut news, identity.uid, about),
                    NodeAsk::Form { form, reply } => match founder(&form, identity) {
                        Ok(member) => {
                            let maker = member.founders.first().map(|first| first.uid);
                            let has_bucket = self.has_bucket(member.cluster, maker, &mut news);
                            let refused = match has_bucket.await {
                                Ok(true) => {
                                    let founded = self.keep(identity, member)?;
                                    reply.send(Ok(())).ok();
                                    return Ok(founded);
                                }
                                Ok(false) => no_bucket("it does not answer"),
                                Err(wrong) => {
                                    reply.send(Err(no_bucket(&wrong))).ok();
                                    return Err(wrong.into());
                                }
                            };
                            reply.send(Err(refused)).ok();
                        }
                        Err(error) => drop(reply.send(Err(error))),
                    },
                    ask => ask.refuse(no_cluster()),
                },
                _ = look.tick() => {
                    self.greet_all(identity, &mut news).await;
                    news.seen.retain(|_, seen| seen.at.elapsed() < NEWS_LAST);
                    if let Some(joined) = self.join_any(&mut news).await? {
                        return Ok(self.keep(identity, joined)?);
                    }
                    let expect = self.about.borrow().bootstrap_expect;
                    // Where there is a cluster already, the node is to join that one.
                    let has_none = news.seen.values().all(|seen| seen.about.cluster_uid.is_empty());
                    if let Some(founders) = self.founders(identity, &news.seen).filter(|_| has_none) {
                        let cluster = ClusterUid(self.entropy.uid());
                        let member = Member::new(NodeId(1), cluster, founders);
                        return Ok(self.keep(identity, member)?);
                    }
                    let troubles = troubles(expect, &news);
                    let is_time = told.as_ref().is_none_or(|(at, known)| {
                        let is_new = *known != troubles;
                        at.elapsed() >= if is_new { TELL_NEWS_EVERY } else { TELL_EVERY }
                    });
                    if is_time {
                        tell(expect, &news, &troubles);
                        told = Some((Instant::now(), troubles));
                    }
                }
            }
        }
    }

    /// What others are told of this node at the moment.
    fn about_now(&self) -> v1::NodeAbout {
        v1::NodeAbout { clock_us: self.clock.now().0, ..self.about.borrow().clone() }
    }

    fn note(&self, news: &mut News, own: NodeUid, about: v1::NodeAbout) {
        let Ok(uid) = NodeUid::from_wire("uid", &about.uid) else { return };
        let longest = about.peer_address.len().max(about.client_address.len());
        if uid != own && longest <= NODE_ADDRESS_BYTES {
            let off_us = about.clock_us.saturating_sub(self.clock.now().0);
            news.seen.insert(uid, Seen { about, at: Instant::now(), off_us });
        }
    }

    async fn greet_all(&self, identity: &Identity, news: &mut News) {
        news.failed.clear();
        let mut greetings: FuturesUnordered<_> = self
            .seeds
            .now()
            .into_iter()
            .map(|seed| async move {
                let call = v1::peer_call::Call::Greet(self.about_now());
                let greeting = self.peers.call(&seed, call, Bytes::new());
                let greeted = timeout(GREET_TIMEOUT, greeting).await;
                (seed, greeted)
            })
            .collect();
        while let Some((seed, greeted)) = greetings.next().await {
            match greeted {
                Ok(Ok((v1::peer_reply::Answer::Greeted(about), _))) => {
                    self.note(news, identity.uid, about);
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => drop(news.failed.insert(seed, error.to_string())),
                Err(_) => drop(news.failed.insert(seed, "it does not answer".to_owned())),
            }
        }
        drop(greetings);
        let mut sees: Vec<Bytes> = fresh(&news.seen).map(|(uid, _)| uid.to_wire()).collect();
        sees.push(identity.uid.to_wire());
        sees.sort();
        self.about.send_if_modified(|about| {
            let changes = about.sees != sees;
            about.sees = sees;
            changes
        });
    }

    /// Whether the bucket is the one of the cluster that `maker` makes up, or that nodes which were seen
    /// belong to. Until it says so, nothing binds this node to the cluster, nor the cluster to this node.
    async fn has_bucket(
        &self,
        cluster: ClusterUid,
        maker: Option<NodeUid>,
        news: &mut News,
    ) -> Result<bool, WrongBucket> {
        if news.bucket_of == Some(cluster) {
            return Ok(true);
        }
        let recognised = cluster_bucket::recognise(&self.bucket, cluster);
        let recognised = timeout(cluster_bucket::ANSWER_TIME, recognised).await;
        let Ok(recognised) = recognised else { return Ok(false) };
        recognised.map_err(|wrong| {
            let is_of_it = |(uid, seen): &(&NodeUid, &Seen)| {
                seen.about.cluster_uid == cluster.to_wire() || Some(**uid) == maker
            };
            let theirs = news.seen.iter().find(is_of_it).map(|(_, Seen { about, .. })| {
                format!("the node at {} has {}", about.peer_address, about.bucket)
            });
            WrongBucket { theirs, ..wrong }
        })?;
        news.bucket_of = Some(cluster);
        Ok(true)
    }

    /// A place in a cluster that one of the nodes that were seen belongs to.
    async fn join_any(&self, news: &mut News) -> Result<Option<Member>, WrongBucket> {
        let clusters = clusters(&news.seen);
        if clusters.len() > 1 {
            // Which one is meant, only a person knows.
            return Ok(None);
        }
        // Those that are still forming theirs have no place to give.
        for about in clusters.into_values().flatten().filter(|about| !about.forming) {
            let Ok(cluster) = ClusterUid::from_wire("cluster_uid", &about.cluster_uid) else {
                continue;
            };
            if !self.has_bucket(cluster, None, news).await? {
                return Ok(None);
            }
            let join = v1::JoinCluster { node: Some(self.about_now()) };
            let call = v1::peer_call::Call::Join(join);
            let joined = self.peers.call(&about.peer_address, call, Bytes::new());
            match timeout(JOIN_TIMEOUT, joined).await {
                Ok(Ok((v1::peer_reply::Answer::Joined(joined), _))) => {
                    if joined.cluster_uid != cluster.to_wire() {
                        // Another one is there now.
                        continue;
                    }
                    let node = NodeId(joined.node_id);
                    tracing::info!(%cluster, %node, "joined the cluster");
                    return Ok(Some(Member::new(node, cluster, Vec::new())));
                }
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => {
                    let why = format!("no place in the cluster yet: {error}");
                    news.failed.insert(about.peer_address, why);
                }
            }
        }
        Ok(None)
    }

    /// The founders of a new cluster, if all are there, each sees the same, and this node is the one to
    /// make it up: the first in the order of addresses.
    fn founders(
        &self,
        identity: &Identity,
        seen: &BTreeMap<NodeUid, Seen>,
    ) -> Option<Vec<Founder>> {
        let own = self.about.borrow().clone();
        let is_alone = own.bootstrap_expect == 1 && self.seeds.are_only(&own.peer_address);
        if own.bootstrap_expect <= 1 && !is_alone {
            // It waits for the cluster that its peers have.
            return None;
        }
        let mut all: Vec<(NodeUid, &v1::NodeAbout)> = fresh(seen).collect();
        if all.len() + 1 < own.bootstrap_expect as usize {
            return None;
        }
        let agree = all.iter().all(|(_, about)| {
            about.bootstrap_expect == own.bootstrap_expect && about.sees == own.sees
        }) && seen.values().all(|seen| !is_far_off(seen.off_us));
        all.push((identity.uid, &own));
        all.sort_by(|(_, one), (_, other)| one.peer_address.cmp(&other.peer_address));
        // Where there are more than are waited for, the others join.
        all.truncate(own.bootstrap_expect as usize);
        let addresses: BTreeSet<_> = all.iter().map(|(_, about)| &about.peer_address).collect();
        if !agree || addresses.len() != all.len() || all.first()?.0 != identity.uid {
            return None;
        }
        let founders = all.iter().zip(1..).map(|((uid, about), node)| Founder {
            uid: *uid,
            node: NodeId(node),
            peer_address: about.peer_address.clone(),
            client_address: about.client_address.clone(),
        });
        Some(founders.collect())
    }

    fn keep(&self, identity: &Identity, member: Member) -> Result<Identity, IdentityError> {
        let identity = Identity { member: Some(member), ..identity.clone() };
        identity.keep(&*self.disk)?;
        Ok(identity)
    }
}

/// Waits for `done` and answers meanwhile what others ask, while the cluster that this node belongs to is not
/// there yet.
pub(crate) async fn answered_during<T>(
    asks: &mut mpsc::Receiver<NodeAsk>,
    (cluster, own): (ClusterUid, NodeUid),
    done: impl Future<Output = T>,
) -> T {
    tokio::select! {
        biased;
        done = done => done,
        () = answer_meanwhile(asks, cluster, own) => {
            unreachable!("other nodes may ask for as long as this one listens")
        }
    }
}

/// Answers what others ask until cancelled.
async fn answer_meanwhile(asks: &mut mpsc::Receiver<NodeAsk>, cluster: ClusterUid, own: NodeUid) {
    while let Some(ask) = asks.recv().await {
        match ask {
            NodeAsk::Form { form, reply } => drop(reply.send(is_bound(&form, cluster, own))),
            ask => {
                let message = "the cluster is being formed";
                ask.refuse(WireError::new(ErrorCode::Unavailable, message));
            }
        }
    }
}

/// What others are told that take this node for one of a cluster.
pub(crate) fn no_cluster() -> WireError {
    WireError::new(ErrorCode::Unavailable, "this node has no cluster yet")
}

/// What the maker of a cluster is told by a node that does not have its bucket.
fn no_bucket(why: impl std::fmt::Display) -> WireError {
    let message = format!("the bucket of this node is not known to be the cluster's: {why}");
    WireError::new(ErrorCode::Unavailable, message)
}

/// Whether the clock of a node that asked to join is so far off, as it looks now: the question may have
/// waited.
pub(crate) fn is_far_off_when_joining(off_us: i64) -> bool {
    let waited_us = i64::try_from(JOIN_TIMEOUT.as_micros()).unwrap_or(i64::MAX);
    is_far_off(off_us) && is_far_off(off_us.saturating_add(waited_us))
}

/// Whether a clock is so far off that its node must not write a log's time (CL-6).
pub(crate) fn is_far_off(off_us: i64) -> bool {
    off_us.unsigned_abs() > MUST_NOT_LEAD_US
}

/// Says how far a clock is off.
pub(crate) fn off_in_words(off_us: i64) -> String {
    let way = if off_us < 0 { "behind" } else { "ahead" };
    format!("{} s {way}", off_us.unsigned_abs() / 1_000_000)
}

/// Those that were seen of each cluster.
fn clusters(seen: &BTreeMap<NodeUid, Seen>) -> BTreeMap<Bytes, Vec<v1::NodeAbout>> {
    let mut clusters: BTreeMap<Bytes, Vec<v1::NodeAbout>> = BTreeMap::new();
    for Seen { about, .. } in seen.values().filter(|seen| !seen.about.cluster_uid.is_empty()) {
        clusters.entry(about.cluster_uid.clone()).or_default().push(about.clone());
    }
    clusters
}

/// Those that have no cluster either.
fn fresh(seen: &BTreeMap<NodeUid, Seen>) -> impl Iterator<Item = (NodeUid, &v1::NodeAbout)> {
    let nodes = seen.iter().map(|(uid, seen)| (*uid, &seen.about));
    nodes.filter(|(_, about)| about.cluster_uid.is_empty())
}

/// What keeps the node from a cluster, besides that too few are there.
fn troubles(expect: u32, news: &News) -> Vec<String> {
    let mut troubles = Vec::new();
    let others: Vec<_> = fresh(&news.seen)
        .filter(|(_, about)| about.bootstrap_expect != expect)
        .map(|(_, about)| format!("{} waits for {}", about.peer_address, about.bootstrap_expect))
        .collect();
    if !others.is_empty() {
        troubles.push(format!(
            "this node waits for {expect} nodes to form a cluster with, but {}: bootstrap_expect \
             must be the same on all",
            others.join(", ")
        ));
    }
    let clusters = clusters(&news.seen);
    if clusters.len() > 1 {
        let nodes = |(uid, members): (&Bytes, &Vec<v1::NodeAbout>)| {
            let uid = ClusterUid::from_wire("cluster_uid", uid);
            let uid = uid.map_or_else(|error| error.to_string(), |uid| uid.to_string());
            let members: Vec<_> = members.iter().map(|about| about.peer_address.as_str()).collect();
            format!("{} of cluster {uid}", members.join(", "))
        };
        let clusters: Vec<_> = clusters.iter().map(nodes).collect();
        troubles.push(format!(
            "this node was told of nodes of several clusters, and joins none: {}: take the wrong ones \
             out of `cluster.peers`, or of the records of `cluster.srv`",
            clusters.join("; ")
        ));
    }
    let is_alone_off = |seen: &&Seen| seen.about.cluster_uid.is_empty() && is_far_off(seen.off_us);
    let off: Vec<_> = news
        .seen
        .values()
        .filter(is_alone_off)
        .map(|seen| format!("{} is {}", seen.about.peer_address, off_in_words(seen.off_us)))
        .collect();
    if !off.is_empty() {
        troubles.push(format!(
            "the clocks of nodes that are to form a cluster are too far apart; by this node's, {}: set \
             the one that is wrong",
            off.join(", ")
        ));
    }
    troubles.extend(news.failed.iter().map(|(address, why)| format!("{address}: {why}")));
    troubles
}

/// Says what is waited for.
fn tell(expect: u32, news: &News, troubles: &[String]) {
    for trouble in troubles {
        tracing::warn!("{trouble}");
    }
    if !clusters(&news.seen).is_empty() {
        return;
    }
    let there: Vec<_> = fresh(&news.seen).map(|(_, about)| about.peer_address.as_str()).collect();
    if expect <= 1 {
        tracing::info!("waiting for a node of the cluster to join");
        return;
    }
    tracing::info!(
        "waiting for a cluster: {} of {expect} nodes are there{}{}",
        there.len() + 1,
        if there.is_empty() { "" } else { ", besides this one " },
        there.join(", ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTERS: [u8; 2] = [0xa, 0xb];

    fn seen(number: u8, expect: u32, cluster: Option<u8>, off_us: i64) -> (NodeUid, Seen) {
        let about = v1::NodeAbout {
            peer_address: format!("n{number}:7412"),
            bootstrap_expect: expect,
            cluster_uid: cluster.map(|byte| vec![byte; 16].into()).unwrap_or_default(),
            ..v1::NodeAbout::default()
        };
        (NodeUid([number; 16]), Seen { about, at: Instant::now(), off_us })
    }

    fn told(seen: impl IntoIterator<Item = (NodeUid, Seen)>, failed: &[(&str, &str)]) -> String {
        let failed = failed.iter().map(|(at, why)| ((*at).to_owned(), (*why).to_owned()));
        let (seen, failed) = (seen.into_iter().collect(), failed.collect());
        let news = News { seen, failed, bucket_of: None };
        troubles(3, &news).join("\n")
    }

    #[tokio::test(start_paused = true)]
    async fn each_thing_that_keeps_a_node_from_a_cluster_has_its_words() {
        assert_eq!(told([seen(1, 3, None, 0), seen(2, 3, None, 9_000_000)], &[]), "");
        let other = told([seen(1, 3, None, 0), seen(2, 5, None, 0)], &[]);
        assert!(other.contains("waits for 3 nodes"), "{other}");
        assert!(other.contains("n2:7412 waits for 5: bootstrap_expect must"), "{other}");
        let late = told([seen(1, 3, None, -3_600_000_000)], &[]);
        assert!(late.contains("n1:7412 is 3600 s behind: set the one that is wrong"), "{late}");
        // A member's clock is the cluster's matter.
        assert_eq!(told([seen(1, 3, Some(0xa), i64::MIN)], &[]), "");
        let clusters = CLUSTERS.map(|byte| seen(byte, 3, Some(byte), 0));
        let several = told(clusters, &[]);
        assert!(several.contains("n10:7412 of cluster 0a0a"), "{several}");
        assert!(several.contains("n11:7412 of cluster 0b0b"), "{several}");
        let foreign = told([], &[("n9:7412", "its certificate is of another CA")]);
        assert_eq!(foreign, "n9:7412: its certificate is of another CA");
    }
}
