//! What this node's clock is worth beside those of the others (CL-6), and the clock that stamps its logs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use railgun_core::cluster_clock::{self, ClockSample, ClockVerdict, SAMPLE_AGE_US_MAX};
use railgun_proto::convert::Uid;
use railgun_proto::v1;
use railgun_raft::Fitness;
use railgun_types::{ClusterUid, NodeId};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::whereabouts::{Heard, Whereabouts};
use crate::builtin_bug::{BuiltinBug, Planted};
use crate::clock::{Clock, LogClock};
use crate::formation::off_in_words;
use crate::peers::{Peers, SelfPortrait};

/// How often the other nodes are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// And while none of them has told of its clock yet: until one has, this node leads nobody.
const ASK_FIRST_EVERY: Duration = Duration::from_millis(100);
/// Others whose clocks are enough to begin with.
const ENOUGH_FIRST: usize = 2;
/// How long one of them may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// What is known about the clocks of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClockStanding {
    /// Of this node's.
    pub(super) verdict: ClockVerdict,
    /// This node's clock less the median, in µs; 0 where it cannot be told.
    pub(super) off_us: i64,
    /// Too few others tell for this node's clock to be followed: it less what is rather right, in µs.
    pub(super) doubt_us: Option<i64>,
    /// Clocks that may be right then besides the one that stamps logs: less that one, in µs. Whoever comes
    /// and agrees with one of them makes the majority.
    pub(super) may_be_us: Vec<i64>,
    /// Other nodes whose clocks are too far off for them to lead.
    pub(super) unfit: BTreeSet<NodeId>,
}

impl ClockStanding {
    /// How far a clock is off that is this much beside the one that stamps logs, in µs: by the nearest of
    /// those that may be right.
    pub(super) fn off_by_the_best_us(&self, beside_us: i64) -> i64 {
        let others = self.may_be_us.iter().map(|us| beside_us.saturating_sub(*us));
        let all = others.chain([beside_us]);
        all.min_by_key(|us| us.unsigned_abs()).unwrap_or(beside_us)
    }

    /// Whether this node must lead nothing.
    pub(super) fn must_not_lead(&self) -> bool {
        matches!(self.verdict, ClockVerdict::MustNotLead { .. })
    }
}

impl Default for ClockStanding {
    fn default() -> Self {
        Self {
            verdict: ClockVerdict::Fine,
            off_us: 0,
            doubt_us: None,
            may_be_us: Vec::new(),
            unfit: BTreeSet::new(),
        }
    }
}

/// What a node told of its clock.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// The other clock when ours, which goes on by itself, had run for no time at all, in µs.
    base_us: i64,
    /// The same of the clock that stamps its logs, where others have borne that out.
    log_base_us: Option<i64>,
    rtt_us: u64,
    at: Instant,
}

/// Asks the other nodes for their clocks.
pub(super) struct Clocks {
    peers: Peers,
    portrait: SelfPortrait,
    cluster: ClusterUid,
    own: NodeId,
    log_clock: Arc<LogClock>,
    /// Another node has told of its clock since the start: not before that does this node lead others, whose
    /// logs it would stamp.
    fitness: Fitness,
    /// This node is the only member.
    is_alone: bool,
    planted: Planted,
    told: BTreeMap<NodeId, Told>,
    /// Since when the clocks agree on a time that is not believed yet.
    far_since: Option<Instant>,
    standing: watch::Sender<ClockStanding>,
}

impl Clocks {
    pub(super) fn new(
        peers: Peers,
        portrait: SelfPortrait,
        cluster: ClusterUid,
        own: NodeId,
        planted: Planted,
    ) -> Self {
        let log_clock = Arc::clone(&portrait.log_clock);
        let standing = watch::Sender::new(ClockStanding::default());
        let (told, is_alone) = (BTreeMap::new(), false);
        let fitness = Fitness::new(planted.is(BuiltinBug::ClockNotAwaited));
        Self {
            peers,
            portrait,
            cluster,
            own,
            log_clock,
            fitness,
            is_alone,
            planted,
            told,
            far_since: None,
            standing,
        }
    }

    /// The clock that stamps logs.
    pub(super) fn log_clock(&self) -> Arc<LogClock> {
        Arc::clone(&self.log_clock)
    }

    /// Whether this node may lead others.
    pub(super) fn fitness(&self) -> Fitness {
        self.fitness.clone()
    }

    /// Follows what is known.
    pub(super) fn standing(&self) -> watch::Receiver<ClockStanding> {
        self.standing.subscribe()
    }

    /// Asks, before this node could lead anything: until two others have told of their clocks, which is
    /// enough for a median, or for a second, and once more if nobody was there. Where they are is known
    /// then, too.
    pub(super) async fn ask_first(&mut self, whereabouts: &Whereabouts) {
        let begun = Instant::now();
        loop {
            let nodes = anybody(whereabouts.elsewhere());
            let nobody = nodes.is_empty();
            let heard = self.ask(nodes, ENOUGH_FIRST).await;
            whereabouts.note_elsewhere(&BTreeSet::new(), &heard);
            if nobody || !self.told.is_empty() || begun.elapsed() >= ASK_TIMEOUT {
                return;
            }
            sleep(ASK_FIRST_EVERY).await;
        }
    }

    /// Asks again and again, for as long as the node runs; those, too, that may know of the ones that are
    /// missed.
    pub(super) async fn run(mut self, whereabouts: Whereabouts) {
        let mut ask = interval(ASK_EVERY);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match self.fitness.is_fit() || whereabouts.is_alone() {
                true => drop(ask.tick().await),
                false => sleep(ASK_FIRST_EVERY).await,
            }
            if whereabouts.knows_members() {
                self.told.retain(|node, _| whereabouts.is_member(*node));
            }
            let others = whereabouts.others().into_iter();
            let others: Vec<_> = others.map(|(node, address)| (Some(node), address)).collect();
            self.is_alone = whereabouts.is_alone();
            if self.is_alone {
                // The only member goes by its own clock, whatever others said when there were any.
                self.log_clock.bear_out(None);
            }
            let all = others.len();
            let heard = self.ask(others, all).await;
            let missed = whereabouts.note_others(&heard);
            if !missed.is_empty() || !whereabouts.knows_members() {
                let elsewhere = anybody(whereabouts.elsewhere());
                let all = elsewhere.len();
                let heard = self.ask(elsewhere, all).await;
                whereabouts.note_elsewhere(&missed, &heard);
            }
        }
    }

    /// Asks these nodes, until as many as are enough have told of their clocks, and says what comes of it:
    /// of the first that agrees with this node at once, where none has told before. Those that do not answer
    /// then are asked again meanwhile. Who has answered.
    async fn ask(&mut self, nodes: Vec<(Option<NodeId>, String)>, enough: usize) -> Vec<Heard> {
        let mut answers: FuturesUnordered<_> = nodes
            .into_iter()
            .map(|(node, address)| {
                let (peers, portrait) = (self.peers.clone(), self.portrait.clone());
                let fitness = self.fitness.clone();
                let asking = async move {
                    loop {
                        let asked = Instant::now();
                        let call = v1::peer_call::Call::Greet(portrait.now());
                        match peers.call(&address, call, Bytes::new()).await {
                            Ok((v1::peer_reply::Answer::Greeted(about), _)) => {
                                return Some((node, Heard { at: address, about }, asked));
                            }
                            _ if fitness.is_fit() => return None,
                            _ => sleep(ASK_FIRST_EVERY).await,
                        }
                    }
                };
                async { timeout(ASK_TIMEOUT, asking).await.ok().flatten() }
            })
            .collect();
        let mut noted = Vec::new();
        while noted.len() < enough
            && let Some(answer) = answers.next().await
        {
            if let Some((node, heard, asked)) = answer
                && self.note(node, &heard.about, asked)
            {
                noted.push(heard);
                if !self.fitness.is_fit() {
                    self.judge(false);
                }
            }
        }
        drop(answers);
        self.judge(true);
        noted
    }

    /// Keeps what another node of the cluster has told; `false`: it is none.
    fn note(&mut self, expected: Option<NodeId>, about: &v1::NodeAbout, asked: Instant) -> bool {
        let node = NodeId(about.node_id);
        let is_other = about.node_id != 0 && node != self.own;
        if !is_other
            || about.cluster_uid != self.cluster.to_wire()
            || expected.is_some_and(|expected| expected != node)
        {
            return false;
        }
        let rtt_us = in_us(asked.elapsed());
        let half_way_us = self.log_clock.elapsed_us().saturating_sub_unsigned(rtt_us / 2);
        let base_us = about.clock_us.saturating_sub(half_way_us);
        let log_base_us = about.log_clock_us.map(|us| us.saturating_sub(half_way_us));
        self.told.insert(node, Told { base_us, log_base_us, rtt_us, at: Instant::now() });
        true
    }

    /// Says what comes of what was told. `all_asked`: nobody is about to tell more.
    fn judge(&mut self, all_asked: bool) {
        let (wall_us, elapsed_us) = (self.portrait.clock.now().0, self.log_clock.elapsed_us());
        let own_base_us = wall_us.saturating_sub(elapsed_us);
        let sample = |(&node, told): (&NodeId, &Told), base_us: i64| ClockSample {
            node,
            offset_us: told.base_us.saturating_sub(base_us),
            log_offset_us: told.log_base_us.map(|log| log.saturating_sub(base_us)),
            rtt_us: told.rtt_us,
            age_us: in_us(told.at.elapsed()),
        };
        let samples = || self.told.iter().map(|told| sample(told, own_base_us));
        let (verdict, off_us) = (cluster_clock::check(samples()), cluster_clock::off_us(samples()));
        // As each of the others would judge itself.
        let is_unfit = |node: &NodeId, its: &Told| {
            let others = self.told.iter().filter(|(other, _)| *other != node);
            let own = ClockSample {
                node: self.own,
                offset_us: own_base_us.saturating_sub(its.base_us),
                log_offset_us: None,
                rtt_us: its.rtt_us,
                age_us: 0,
            };
            let samples = others.map(|told| sample(told, its.base_us)).chain([own]);
            matches!(cluster_clock::check(samples), ClockVerdict::MustNotLead { .. })
        };
        let unfit = self.told.iter().filter(|(node, its)| is_unfit(node, its));
        let unfit = unfit.map(|(node, _)| *node).collect();
        let borne_out_us = self.log_clock.borne_out_us();
        let borne_out_us = borne_out_us.map(|base_us| base_us.saturating_sub(own_base_us));
        let far_for_us = self.far_since.map_or(0, |since| in_us(since.elapsed()));
        let at_us = self.log_clock.now().0.saturating_sub(wall_us);
        let mut course = cluster_clock::steer(samples(), at_us, borne_out_us, far_for_us);
        if !all_asked && course.doubt_us.is_some() {
            // The next one may say who is right.
            return;
        }
        let must_not_lead = matches!(verdict, ClockVerdict::MustNotLead { .. });
        if self.planted.is(BuiltinBug::LoneClockFollowed) && !must_not_lead {
            course.set_us = Some(0);
        }
        // What one has told is better than this node's own clock, also when that one is gone.
        let goes_on = !course.is_known() && self.fitness.is_fit() && !self.is_alone;
        if let Some(beside_us) = course.set_us.filter(|_| !goes_on) {
            self.log_clock.set(wall_us.saturating_add(beside_us));
        }
        let borne_out_us = course.borne_out_us;
        self.log_clock.bear_out(borne_out_us.map(|us| own_base_us.saturating_add(us)));
        if course.is_known() {
            // After it is set.
            self.fitness.set(true);
        }
        let mut may_be_us = Vec::new();
        if course.doubt_us.is_some() {
            let log_us = self.log_clock.now().0.saturating_sub(elapsed_us);
            let told = samples().filter(|sample| sample.age_us <= SAMPLE_AGE_US_MAX);
            let walls = told.map(|sample| sample.offset_us).chain([0]);
            may_be_us.extend(walls.map(|us| own_base_us.saturating_add(us).saturating_sub(log_us)));
        }
        let doubt_us = course.doubt_us;
        let standing = ClockStanding { verdict, off_us, doubt_us, may_be_us, unfit };
        self.standing.send_if_modified(|known| {
            tell(known.verdict, verdict);
            tell_doubt(known.doubt_us, standing.doubt_us);
            let changes =
                known.must_not_lead() != standing.must_not_lead() || known.unfit != standing.unfit;
            *known = standing;
            changes
        });
        self.far_since = course.is_far.then(|| self.far_since.unwrap_or_else(Instant::now));
    }
}

fn in_us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Addresses where it may be anybody.
fn anybody(addresses: Vec<String>) -> Vec<(Option<NodeId>, String)> {
    addresses.into_iter().map(|address| (None, address)).collect()
}

/// Says so once when a clock goes wrong, and when it is right again.
fn tell(before: ClockVerdict, now: ClockVerdict) {
    match (before, now) {
        (ClockVerdict::MustNotLead { .. }, ClockVerdict::MustNotLead { .. })
        | (ClockVerdict::Alarm { .. }, ClockVerdict::Alarm { .. })
        | (ClockVerdict::Fine, ClockVerdict::Fine) => {}
        (_, ClockVerdict::MustNotLead { off_us }) => tracing::error!(
            "this node's clock is {} of those of the cluster: it leads no shard until that is set right",
            off_in_words(off_us)
        ),
        (_, ClockVerdict::Alarm { off_us }) => tracing::warn!(
            "this node's clock is {} of those of the cluster: set it right; beyond 10 s the node leads \
             no shard",
            off_in_words(off_us)
        ),
        (_, ClockVerdict::Fine) => tracing::info!("this node's clock is right again"),
    }
}

/// Says so once when this node's clock is not followed for want of others that tell, and when it is again.
fn tell_doubt(before_us: Option<i64>, now_us: Option<i64>) {
    match (before_us, now_us) {
        (None, Some(off_us)) => tracing::warn!(
            "this node's clock is {} of what is known of the time, and the other nodes' clocks do not bear \
             it out: what is written is stamped by a clock that goes on by itself until they do",
            off_in_words(off_us)
        ),
        (Some(_), None) => tracing::info!("what is written is stamped by the nodes' clocks again"),
        (Some(_), Some(_)) | (None, None) => {}
    }
}
