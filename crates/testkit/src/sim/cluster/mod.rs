//! Nodes that are one cluster, on a network that is disturbed, with one bucket: each has a disk, a clock
//! and chance of its own. Faults strike one after another and at the same time, and now and then all is
//! quiet; then there must soon be leaders. The history and its rules are those of a node alone; besides,
//! replicas are compared with each other.

mod clocks;
mod faults;
mod harm;
mod member;
mod operator;
mod outage;
mod quiet;
mod replicas;
mod served;
mod wires;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use railgun_broker::StartError;
use railgun_client::{Offset, StreamName, StreamUid};
use railgun_log::{CrashPlan, Fault as DiskFault};
use railgun_net::memory::{Crash as HostCrash, Disturbance, MemoryNetwork};
use tokio::sync::Notify;

use super::audit;
use super::bucket::{SimBucket, Weather};
use super::checker::{Checker, Harm};
use super::clock::SimClock;
use super::dial::SimDial;
use super::history::History;
use super::node::{Place, SimNode};
use super::options::{Options, Shape};
use super::random::Random;
use super::settling::{Group, Settling};
use super::trace::Trace;
use super::workload::Workload;
use super::world::{FAIR_TIME, FINISH_PATIENCE, Report, ends_fair, reported, watch};
pub use faults::CLUSTER_FAULTS;
use faults::{At, Fault};
use harm::MEND_PATIENCE;
use member::{Cause, Member, News};
use operator::Operator;
use replicas::Replicas;
use wires::{Way, Wires, both};

const NODES: u8 = 3;
/// Shards for records; the catalog is one more.
const DATA_SHARDS: u32 = 2;
/// Where clients are.
const CLIENTS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 1));

/// What lasts, at the same time.
const LASTING_MAX: usize = 4;
/// Time that nodes have to start and come together when nothing is wrong.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// In so many turns of all that have something to do, Raft learns what has become durable.
const TURNS: u32 = 16;
/// How often a disk is compared with what its replicas were told, besides whenever they have voted.
const LOOK_PERCENT: u64 = 2;
/// A node may refuse to start for what was wrong with its disk until so long ago.
const EXCUSED: Duration = Duration::from_secs(15);

/// Runs a cluster from `seed` to its end, in this thread.
///
/// # Panics
/// If the simulation itself is at fault.
#[must_use]
pub fn run_cluster(seed: u64, options: &Options) -> Report {
    reported(seed, async { Box::pin(ClusterWorld::new(seed, options).run()).await })
}

/// Something that lasts until its time is over.
#[derive(Clone, Debug)]
enum Lasting {
    Blocked(Vec<Way>),
    Delayed,
    Bucket,
    DiskFull(At),
    SlowDisk(At),
    Drained(At),
}

#[derive(Debug)]
struct ClusterWorld {
    seed: u64,
    random: Random,
    duration: Duration,
    members: Vec<Member>,
    bucket: SimBucket,
    disturbance: Disturbance,
    wires: Wires,
    /// How long everything takes when nothing is wrong.
    usual_delay_us: u64,
    dial: SimDial,
    lasting: Vec<(Duration, Lasting)>,
    operator: Operator,
    /// The node that has not yet again what it lost.
    lost: Option<At>,
    /// What was done to its disk.
    harm: Option<Harm>,
    /// The node whose disk was harmed before it had everything again, and since when it has.
    mended: Option<(At, Duration)>,
    /// Those that stay.
    streams: Arc<Vec<(StreamName, StreamUid)>>,
    /// Groups on some of them.
    groups: Vec<Group>,
    /// Nothing was wrong any more then, and all nodes ran.
    well_at: Duration,
    history: History,
    checker: Checker,
    replicas: Replicas,
    trace: Trace,
    lives: u64,
}

impl ClusterWorld {
    fn new(seed: u64, options: &Options) -> Self {
        let trace = Trace::begin();
        let mut random = Random::new(seed);
        let drawn = Shape::draw(seed, &mut random);
        let per_shard = drawn.shard_budget();
        let shards = DATA_SHARDS;
        let shape = Shape {
            shards,
            hot_bytes_max: per_shard * u64::from(shards),
            streams: random.within(3..6),
            ..drawn
        };
        trace.note(format_args!("seed {seed}: {shape:?}"));
        let bucket = SimBucket::of(&shape, random.fork(), trace.clone());
        let (network, disturbance) = MemoryNetwork::disturbed(random.next());
        let (removed, synced) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        // With slow disks something is on its way to one of them whenever a shard changes its leader.
        let step_us = *random.pick(&[2_000, 2_000, 20_000]);
        let member = |number| {
            let place = Place { number, nodes: NODES, disturbance: disturbance.clone() };
            let dial = SimDial::to_node(network.clone(), CLIENTS);
            let (shape, trace) = (shape.clone(), trace.of_node(number));
            let node = SimNode::new(shape, options.bug, bucket.clone(), dial, random.fork(), trace);
            let node = node.with_usual_step(step_us);
            Member::new(node.in_cluster(place, Arc::clone(&removed), Arc::clone(&synced)))
        };
        let members: Vec<_> = (1..=NODES).map(member).collect();
        let history = History::new(trace.clone());
        history.compare_log_time(SimClock::begin());
        let nodes: Vec<_> = members.iter().map(|member| Arc::clone(&member.node)).collect();
        let checker = Checker::new(nodes, history.clone(), trace.clone());
        let servers: Vec<_> = (1..=NODES).map(Place::clients_of).collect();
        let dial = SimDial::to_servers(network, CLIENTS, &servers);
        let operator = Operator::new(dial.clone(), random.fork(), trace.clone());
        Self {
            seed,
            usual_delay_us: random.within(50..3_000),
            random,
            duration: options.duration,
            members,
            bucket,
            wires: Wires::new(disturbance.clone()),
            disturbance,
            dial,
            lasting: Vec::new(),
            operator,
            lost: None,
            harm: None,
            mended: None,
            streams: Arc::default(),
            groups: Vec::new(),
            well_at: Duration::ZERO,
            replicas: Replicas::new(history.clone(), trace.clone()),
            history,
            checker,
            trace,
            lives: 0,
        }
    }

    async fn run(mut self) -> Report {
        self.set_usual_delay();
        self.come_together().await;
        // All nodes tell this one when a log file was removed.
        let first = Arc::clone(&self.members[0].node);
        let watching = tokio::spawn(watch(self.checker.clone(), first));
        let random = self.random.fork();
        let shape = self.members[0].node.shape.clone();
        let workload =
            Workload::start(&self.dial, &shape, &self.history, &self.checker, random, &self.trace);
        let workload = workload.await;
        self.streams = Arc::clone(&workload.streams);
        self.groups = workload.groups.clone();
        let mut outage_at = self.draw_outage();
        let mut first = Fault::first(self.seed, &mut self.random).into_iter();
        while self.trace.elapsed() < self.duration && self.history.is_sound() {
            let most = *self.random.pick(&[200, 2_000, 4_000]);
            let pause = Duration::from_millis(self.random.within(10..most));
            self.pass(pause).await;
            if self.random.percent(8) {
                self.be_quiet().await;
            }
            if outage_at.take_if(|at| *at <= self.trace.elapsed()).is_some() {
                self.lose_bucket().await;
            }
            let fault = first.next().unwrap_or_else(|| Fault::draw(&mut self.random));
            self.strike(fault).await;
        }
        if self.history.is_sound() {
            self.be_quiet().await;
            if ends_fair(self.seed) {
                self.mend(self.well_at, MEND_PATIENCE).await;
                self.pass(FAIR_TIME).await;
            }
        }
        if self.history.is_sound() && !workload.finish(FINISH_PATIENCE).await {
            let how = format_args!("somebody did not finish within {FINISH_PATIENCE:?}");
            self.history.violated("liveness", how);
        }
        if self.history.is_sound() {
            self.judge().await;
        }
        self.checker.conclude(watching).await;
        let virtual_time = self.trace.elapsed();
        for at in 0..self.members.len() {
            self.crash(at, HostCrash::Silent, &CrashPlan::LoseAll, Duration::ZERO).await;
        }
        Report::of(self.seed, &self.history, &self.trace, self.lives, virtual_time)
    }

    /// All nodes start, and are one cluster.
    async fn come_together(&mut self) {
        self.history.node_is_ill(true);
        self.wait_for("the nodes do not come together", START_PATIENCE, Self::all_up).await;
    }

    /// What the nodes that run say of their replicas.
    fn note_states(&self) {
        for (at, member) in self.members.iter().enumerate() {
            let states = member.up().map(|life| life.broker.replica_states());
            self.note(at, format_args!("says {states:?}"));
        }
    }

    async fn pass(&mut self, time: Duration) {
        let end = self.trace.elapsed() + time;
        while self.trace.elapsed() < end && self.history.is_sound() {
            self.step().await;
        }
    }

    /// A moment passes; who has ended, or is to start, does.
    async fn step(&mut self) {
        for at in 0..self.members.len() {
            let (now, seed) = (self.trace.elapsed(), self.random.next());
            if self.members[at].start_if_due(now, seed) {
                self.note(at, format_args!("starts"));
                self.lives += 1;
            }
        }
        self.pass_moment().await;
        for at in 0..self.members.len() {
            let news = self.members[at].news().await;
            self.on_news(at, news).await;
        }
        self.end_what_is_over();
        self.look_for_what_was_lost();
        let lives: Vec<_> = self.members.iter().map(Member::up).collect();
        for (at, life) in lives.iter().enumerate() {
            if let Some(life) = life
                && self.random.percent(LOOK_PERCENT)
            {
                self.checker.check_promises(at, &life.broker.replica_states());
            }
        }
        self.replicas.compare(self.trace.elapsed(), &lives).await;
        self.tell_health();
    }

    async fn pass_moment(&mut self) {
        let us = self.random.within(1_000..40_000);
        let end = tokio::time::sleep(Duration::from_micros(us));
        let mut end = std::pin::pin!(end);
        // All nodes tell when a log was synced.
        let synced = Arc::clone(&self.members[0].node.hooks.synced);
        loop {
            tokio::select! {
                biased;
                () = synced.notified() => self.look_who_voted().await,
                () = &mut end => break,
            }
        }
        self.look_who_voted().await;
    }

    /// Who leads; and whether what a vote comes after is durable when the vote is, before anything else is.
    async fn look_who_voted(&mut self) {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        let lives: Vec<_> = self.members.iter().map(Member::up).collect();
        for at in self.replicas.look(&lives, self.may_replace()) {
            if let Some(life) = lives[at] {
                self.checker.check_promises(at, &life.broker.replica_states());
            }
        }
    }

    async fn on_news(&mut self, at: At, news: News) {
        let now = self.trace.elapsed();
        match news {
            News::None => {}
            News::Started => {
                if let Some(life) = self.members[at].up() {
                    self.operator.knows(at, life.broker.node());
                }
                self.note(at, format_args!("serves"));
                if self.members[at].node.mistyped().is_some() {
                    let how = format_args!("node {} serves with another bucket", at + 1);
                    self.history.violated("I2", how);
                }
                let is_away = self.bucket.is_away();
                self.trace.count(|counts| counts.served_without_bucket += u64::from(is_away));
            }
            News::Stopped => {
                self.note(at, format_args!("has stopped"));
                let (plan, down) = (self.draw_plan(), self.random.within(50..3_000));
                let back_at = now + Duration::from_millis(down);
                self.crash(at, HostCrash::Told, &plan, back_at).await;
            }
            News::NotStarted(error) => {
                self.note(at, format_args!("does not start: {error}"));
                if !self.excuses_start(at, &error).await {
                    let number = at + 1;
                    let how = format_args!("node {number} does not start: {error}");
                    self.history.violated("liveness", how);
                }
                let back_at = now + Duration::from_millis(self.random.within(50..3_000));
                self.crash(at, HostCrash::Told, &CrashPlan::ProcessOnly, back_at).await;
            }
            News::EndedItself(reason) => {
                self.note(at, format_args!("ends itself: {reason:?}"));
                self.trace.count(|counts| counts.ended_itself += 1);
                let down = self.members[at].down_after(&reason);
                if down.is_none() {
                    let how = format_args!("node {} ended itself: {reason:?}", at + 1);
                    self.history.violated("liveness", how);
                }
                // What it has answered is still on its way for a moment.
                let us = self.random.within(0..20_000);
                tokio::time::sleep(Duration::from_micros(us)).await;
                let (plan, back_at) = (self.draw_end(), now + down.unwrap_or_default());
                self.crash(at, HostCrash::Told, &plan, back_at).await;
            }
        }
    }

    /// Whether what is wrong with its disk, or was until a moment ago, is a reason for a node not to start.
    /// That its bucket is away is one for a node that belongs to no cluster yet.
    async fn excuses_start(&mut self, at: At, error: &StartError) -> bool {
        let node = &self.members[at].node;
        match error {
            StartError::WrongBucket(_) => match node.mistyped() {
                Some(other) => {
                    node.mistype(None);
                    self.trace.count(|counts| counts.mistyped_told += 1);
                    let there = other.in_fair_weather().list("railgun").await;
                    if !there.is_ok_and(|there| there.is_empty()) {
                        let how = format_args!("node {} has uploaded to another bucket", at + 1);
                        self.history.violated("I2", how);
                    }
                    true
                }
                None => false,
            },
            StartError::Probe(_) | StartError::Owner(_) => {
                self.history.bucket_may_be_ill() && !node.is_member()
            }
            StartError::Bind(_) | StartError::IdentityConflict { .. } => false,
            // For the others a node needs nothing but its disk.
            _ if self.members[at].has_stopped() => true,
            _ => {
                let ill_at = self.members[at].disk_ill_at;
                ill_at.is_some_and(|ill_at| self.trace.elapsed() < ill_at + EXCUSED)
            }
        }
    }

    fn note(&self, at: At, what: std::fmt::Arguments<'_>) {
        self.trace.note(format_args!("node {} {what}", at + 1));
    }

    async fn crash(&mut self, at: At, how: HostCrash, plan: &CrashPlan, back_at: Duration) {
        self.note(at, format_args!("crashes: {how:?}, {plan:?}"));
        if let Some(life) = self.members[at].life() {
            self.checker.check_promises(at, &life.broker.replica_states());
        }
        self.members[at].crash(how, plan, back_at).await;
    }

    /// The machine has no power.
    fn draw_plan(&mut self) -> CrashPlan {
        match self.random.within(0..10) {
            0 => CrashPlan::LoseAll,
            1 => CrashPlan::KeepAll,
            _ => CrashPlan::Seeded(self.random.next()),
        }
    }

    /// The process ends, or its machine with it. What could not be synced looks as if it were, to a
    /// process that finds it in memory.
    fn draw_end(&mut self) -> CrashPlan {
        if self.random.percent(20) { CrashPlan::ProcessOnly } else { self.draw_plan() }
    }

    fn draw_how(told: bool) -> HostCrash {
        if told { HostCrash::Told } else { HostCrash::Silent }
    }

    fn host(at: At) -> IpAddr {
        Place::host_of(at as u8 + 1)
    }

    /// From a node to the others, or one of them.
    fn ways(at: At, other: Option<At>) -> Vec<Way> {
        let others = (0..usize::from(NODES)).filter(|one| *one != at);
        let others = others.filter(|one| other.is_none_or(|other| other == *one));
        others.map(|other| (Self::host(at), Self::host(other))).collect()
    }

    async fn strike(&mut self, (name, fault): (&'static str, Fault)) {
        if self.lasting.len() >= LASTING_MAX || self.lasts_already(&fault) {
            return;
        }
        self.trace.note(format_args!("fault: {fault:?}"));
        let now = self.trace.elapsed();
        // Counted is what was done, not what was tried.
        let mut is_done = true;
        match fault {
            Fault::Crash { node, told, down } => {
                let plan = self.draw_end();
                self.crash(node, Self::draw_how(told), &plan, now + down).await;
            }
            Fault::CrashAtSync { node, syncs, down } => self.crash_at_sync(node, syncs, down),
            Fault::PowerCutAtSync { syncs, down } => {
                for (node, down) in down.into_iter().enumerate() {
                    self.crash_at_sync(node, syncs, down);
                }
            }
            Fault::PowerCut { down, clock } => {
                for (node, down) in down.into_iter().enumerate() {
                    let plan = self.draw_plan();
                    self.crash(node, HostCrash::Silent, &plan, now + down).await;
                }
                self.checker.check().await;
                for at in 0..self.members.len() {
                    self.checker.check_verdict(at, &mut self.random);
                }
                if let Some((node, us)) = clock {
                    self.set_only_clock(node, us);
                }
            }
            Fault::Restart { node, drain } => self.members[node].stop(drain),
            Fault::Partition { node, other, time } => {
                self.block(both(&Self::ways(node, other)), time);
            }
            Fault::OneWay { node, other, back, time } => {
                let mut ways = Self::ways(node, other);
                if back {
                    ways.iter_mut().for_each(|way| *way = (way.1, way.0));
                }
                self.block(ways, time);
            }
            Fault::ClientsCutOff { node, there, back, time } => {
                let (from, to) = (CLIENTS, Self::host(node));
                let ways = [there.then_some((from, to)), back.then_some((to, from))];
                self.block(ways.into_iter().flatten().collect(), time);
            }
            Fault::Delays { ms: (least, most), time } => {
                let ms = Duration::from_millis;
                self.disturbance.set_delays(ms(least)..=ms(most));
                self.last(Lasting::Delayed, time);
            }
            Fault::Cut { node, other: None } => {
                self.dial.network().cut(Place::clients_of(node as u8 + 1));
            }
            Fault::Cut { node, other: Some(other) } => {
                self.disturbance.cut(Self::host(node), Self::host(other));
            }
            Fault::LostAnswers { node, syncs, to_nodes } => {
                let hooks = &self.members[node].node.hooks;
                hooks.set_answers_left(Some(syncs), to_nodes.then_some(syncs));
            }
            Fault::Bucket { weather, time } => {
                self.bucket.set_weather(weather);
                self.last(Lasting::Bucket, time);
            }
            Fault::DiskFull { node, time } => {
                let disk = &self.members[node].node.disk;
                disk.set_capacity(disk.used());
                self.last(Lasting::DiskFull(node), time);
            }
            Fault::DiskError { node, op, after, down } => {
                let kind = std::io::ErrorKind::Other;
                self.members[node].node.disk.fail(DiskFault { op, after, kind });
                self.members[node].hurt(Cause::DiskError, down);
                self.history.disk_was_hurt();
            }
            Fault::SlowDisk { node, us, time } => {
                self.members[node].node.set_slowness(Some(us));
                self.last(Lasting::SlowDisk(node), time);
            }
            Fault::LostDisk { node, down } => is_done = self.lose_disk(node, down).await,
            Fault::DamagedDisk { node, down } => is_done = self.damage_disk(node, down).await,
            Fault::FlippedBit { node, down } => is_done = self.flip_bit(node, down).await,
            Fault::ReplacedNode { node, down, removed } => {
                is_done = self.replace_node(node, down, removed).await;
            }
            Fault::Clock { node, us } => self.set_only_clock(node, us),
            Fault::LoneClock { node, other, us, down, starts_anew } => {
                let plan = self.draw_end();
                self.crash(node, HostCrash::Told, &plan, now + down).await;
                if starts_anew {
                    let (plan, ms) = (self.draw_end(), self.random.within(50..1_000));
                    let back_at = now + Duration::from_millis(ms);
                    self.crash(other, HostCrash::Told, &plan, back_at).await;
                }
                self.set_only_clock(other, us);
            }
            // The operator counts these when they are done.
            Fault::Transfer { shard, node } => {
                is_done = false;
                self.operator.transfer(shard, node);
            }
            Fault::Drained { node, time } => {
                is_done = false;
                self.operator.drain(node, true);
                self.last(Lasting::Drained(node), time);
            }
        }
        if is_done {
            self.trace.count_fault(name);
        }
        self.tell_health();
    }

    /// Sets this node's clock wrong, and those of the others right.
    fn set_only_clock(&self, node: At, us: i64) {
        self.members.iter().for_each(|member| member.node.clock.set_off(0));
        self.members[node].node.clock.set_off(us);
    }

    fn crash_at_sync(&mut self, at: At, syncs: u64, down: Duration) {
        self.members[at].hurt(Cause::Stop, down);
        self.members[at].node.hooks.syncs_left.with(|left| *left = Some(syncs));
        self.history.disk_was_hurt();
    }

    /// Whether what it sets is set by another one, whose end would be the end of both.
    fn lasts_already(&self, fault: &Fault) -> bool {
        self.lasting.iter().any(|(_, lasting)| match (fault, lasting) {
            (Fault::Delays { .. }, Lasting::Delayed)
            | (Fault::Bucket { .. }, Lasting::Bucket)
            | (Fault::DiskFull { .. }, Lasting::DiskFull(_))
            | (Fault::Drained { .. }, Lasting::Drained(_)) => true,
            (Fault::SlowDisk { node, .. }, Lasting::SlowDisk(at)) => node == at,
            _ => false,
        })
    }

    fn block(&mut self, ways: Vec<Way>, time: Duration) {
        self.wires.block(&ways);
        self.last(Lasting::Blocked(ways), time);
    }

    fn last(&mut self, lasting: Lasting, time: Duration) {
        self.lasting.push((self.trace.elapsed() + time, lasting));
    }

    fn set_usual_delay(&self) {
        let us = Duration::from_micros;
        self.disturbance.set_delays(us(self.usual_delay_us / 4)..=us(self.usual_delay_us));
    }

    fn end_what_is_over(&mut self) {
        let now = self.trace.elapsed();
        let over: Vec<_> = self.lasting.extract_if(.., |(end, _)| *end <= now).collect();
        for (_, lasting) in over {
            self.end(lasting);
        }
    }

    fn end(&mut self, lasting: Lasting) {
        self.trace.note(format_args!("over: {lasting:?}"));
        match lasting {
            Lasting::Blocked(ways) => self.wires.unblock(&ways),
            Lasting::Delayed => self.set_usual_delay(),
            Lasting::Bucket => self.bucket.set_weather(Weather::Fair),
            Lasting::DiskFull(at) => self.members[at].node.disk.set_capacity(u64::MAX),
            Lasting::SlowDisk(at) => self.members[at].node.set_slowness(None),
            Lasting::Drained(at) => self.operator.drain(at, false),
        }
    }

    /// What is wrong now excuses what clients are told.
    fn tell_health(&mut self) {
        let is_ill = self.is_ill();
        let now = self.trace.elapsed();
        let is_full = |at| {
            self.lasting.iter().any(|(_, it)| matches!(it, Lasting::DiskFull(full) if *full == at))
        };
        for (at, member) in self.members.iter_mut().enumerate() {
            if member.is_disk_hurt() || self.lost == Some(at) || is_full(at) {
                member.disk_ill_at = Some(now);
            }
            if member.is_hurt() {
                // What is to fail may do so long after that was settled.
                self.history.disk_was_hurt();
            }
        }
        self.history.bucket_is_ill(self.bucket.weather() != Weather::Fair);
        self.history.node_is_ill(is_ill);
    }

    /// Whether nodes or connections have a reason not to serve a client at once. A bucket that is ill is none;
    /// nor is a drain: whoever comes is told where to go.
    fn is_ill(&self) -> bool {
        let is_reason = |(_, it): &(_, _)| !matches!(it, Lasting::Bucket | Lasting::Drained(_));
        self.lasting.iter().any(is_reason)
            || self.lost.is_some()
            || self.members.iter().any(|member| member.up().is_none() || member.is_hurt())
    }

    /// Reads everything through every node, brings it to the bucket, reads it there; the history must
    /// be whole then.
    async fn judge(&mut self) {
        self.come_to_agree().await;
        self.settle_groups().await;
        // Publishers that were left give up what they still have.
        self.pass(Duration::from_secs(60)).await;
        self.agree(self.trace.elapsed()).await;
        let Some(ends) = self.read_everywhere().await else { return };
        self.checker.check().await;
        audit::seal_streams(&self.dial, &self.history).await;
        self.be_tidy().await;
        self.checker.check_replay(&ends).await;
        self.be_served_at_last().await;
        let Some(ends) = self.read_everywhere().await else { return };
        self.trace.note(format_args!("a last power cut"));
        for at in 0..self.members.len() {
            self.crash(at, HostCrash::Silent, &CrashPlan::LoseAll, Duration::ZERO).await;
        }
        self.checker.check().await;
        self.become_well().await;
        self.settle_groups().await;
        if self.history.is_sound() && self.read_everywhere().await.is_some_and(|now| now != ends) {
            self.history.violated("PS-1", format_args!("streams end elsewhere after a power cut"));
        }
        self.history.check_whole();
    }

    /// Members that only ack come to the end of every group.
    async fn settle_groups(&mut self) {
        let (dial, groups) = (self.dial.clone(), self.groups.clone());
        let (history, trace) = (self.history.clone(), self.trace.clone());
        let settling = tokio::spawn(Settling { groups, history, trace }.run_over(dial));
        while self.history.is_sound() && !settling.is_finished() {
            self.step().await;
        }
        settling.abort();
    }

    /// Soon the bucket has nothing that no manifest names.
    async fn be_tidy(&mut self) {
        let end = self.trace.elapsed() + self.checker.strays_for();
        while self.history.is_sound() && !self.checker.is_tidy(self.trace.elapsed() > end).await {
            self.pass(Duration::from_secs(1)).await;
        }
    }

    /// Every stream, from its beginning to its end, from every node; the ends, if they are the same.
    async fn read_everywhere(&mut self) -> Option<Vec<(StreamUid, Offset)>> {
        let mut first: Option<Vec<_>> = None;
        for at in 0..self.members.len() {
            let ends = audit::read_streams(&self.members[at].node.dial, &self.history).await;
            match &first {
                Some(first) if *first != ends => {
                    let number = at + 1;
                    let how = format_args!("node 1 ends at {first:?}, node {number} at {ends:?}");
                    self.history.violated("PS-2", how);
                    return None;
                }
                Some(_) => {}
                None => first = Some(ends),
            }
        }
        first.filter(|_| self.history.is_sound())
    }
}
