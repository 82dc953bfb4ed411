//! One run: a node, its clients, and what befalls them, from one seed.

use std::sync::Arc;
use std::time::Duration;

use railgun_broker::StartError;
use railgun_log::{CrashPlan, Fault as DiskFault};
use railgun_net::memory::MemoryNetwork;

use super::audit;
use super::bucket::{SimBucket, Weather};
use super::checker::Checker;
use super::counts::Counts;
use super::dial::SimDial;
use super::faults::Fault;
use super::history::History;
use super::node::{Life, SimNode, is_of_disk};
use super::options::{Options, Shape};
use super::panics;
use super::random::Random;
use super::settling::{Group, Settling};
use super::trace::Trace;
use super::workload::Workload;

/// Time a start has before something must be wrong with it.
const START_PATIENCE: Duration = Duration::from_secs(120);
/// Time everybody has to finish when nothing goes wrong any more.
pub(super) const FINISH_PATIENCE: Duration = Duration::from_secs(600);
/// In one seed in so many, everybody goes on for so long when nothing goes wrong any more: then there is
/// no excuse either.
const FAIR_EVERY: u64 = 3;
const FAIR_AT: u64 = 1;
pub(super) const FAIR_TIME: Duration = Duration::from_secs(18);
/// One seed in so many sees the bucket go away for minutes.
const OUTAGE_EVERY: u64 = 8;
const OUTAGE_AT: u64 = 2;
/// The world is looked at this often, whatever happens.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(3);

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What it was drawn from.
    pub seed: u64,
    /// Rules that were broken, in the order in which it showed.
    pub violations: Vec<String>,
    /// See [`Trace::hash`].
    pub trace_hash: u64,
    /// Every event.
    pub trace: Vec<String>,
    /// Messages that were given to publishers.
    pub sent: u64,
    /// Of these, acked.
    pub acked: u64,
    /// Times the node was started.
    pub lives: u64,
    /// What came about, and how often.
    pub counts: Counts,
    /// Virtual time it took.
    pub virtual_time: Duration,
}

impl Report {
    pub(super) fn of(
        seed: u64,
        history: &History,
        trace: &Trace,
        lives: u64,
        virtual_time: Duration,
    ) -> Self {
        let (sent, acked) = history.counts();
        Self {
            seed,
            violations: history.violations(),
            trace_hash: trace.hash(),
            trace: trace.lines(),
            sent,
            acked,
            lives,
            counts: trace.counts(),
            virtual_time,
        }
    }
}

/// Runs a world from `seed` to its end, in this thread.
///
/// # Panics
/// If the simulation itself is at fault.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Report {
    reported(seed, async { Box::pin(World::new(seed, options).run()).await })
}

/// Runs `world` to its end, and whatever its tasks still do when they are dropped.
pub(super) fn reported(seed: u64, world: impl Future<Output = Report>) -> Report {
    let mut report = in_virtual_time(seed, world);
    let last = panics::fresh().into_iter().map(|(rule, how)| format!("{rule}: {how}"));
    report.violations.extend(last);
    report
}

/// Runs `world` to its end in this thread, on paused time.
pub(super) fn in_virtual_time<T>(seed: u64, world: impl Future<Output = T>) -> T {
    panics::begin();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(railgun_raft::seeded(seed, world))
}

/// A node with its surroundings. Must live inside a runtime with paused time, within
/// [`railgun_raft::seeded`]; [`run`] sees to both.
#[derive(Debug)]
pub struct World {
    seed: u64,
    random: Random,
    duration: Duration,
    node: Arc<SimNode>,
    life: Option<Life>,
    history: History,
    checker: Checker,
    groups: Vec<Group>,
    trace: Trace,
    lives: u64,
    /// When what lasts a while is over.
    bucket_until: Duration,
    full_until: Duration,
    slow_until: Duration,
    disk_full: bool,
    /// A disk error was planted that may end the node.
    disk_hurt: bool,
}

impl World {
    /// A world in which nothing runs yet.
    #[must_use]
    pub fn new(seed: u64, options: &Options) -> Self {
        let trace = Trace::begin();
        let mut random = Random::new(seed);
        let shape = Shape::draw(seed, &mut random);
        trace.note(format_args!("seed {seed}: {shape:?}"));
        let bucket = SimBucket::of(&shape, random.fork(), trace.clone());
        let dial = SimDial::new(MemoryNetwork::new());
        let node = SimNode::new(shape, options.bug, bucket, dial, random.fork(), trace.clone());
        let (node, history) = (Arc::new(node), History::new(trace.clone()));
        let checker = Checker::new(vec![Arc::clone(&node)], history.clone(), trace.clone());
        Self {
            seed,
            random,
            duration: options.duration,
            node,
            life: None,
            history,
            checker,
            groups: Vec::new(),
            trace,
            lives: 0,
            bucket_until: Duration::ZERO,
            full_until: Duration::ZERO,
            slow_until: Duration::ZERO,
            disk_full: false,
            disk_hurt: false,
        }
    }

    /// Runs the workload while things go wrong, heals the world, and judges.
    pub async fn run(mut self) -> Report {
        self.start().await;
        let watching = tokio::spawn(watch(self.checker.clone(), Arc::clone(&self.node)));
        let random = self.random.fork();
        let workload = Workload::start(
            &self.node.dial,
            &self.node.shape,
            &self.history,
            &self.checker,
            random,
            &self.trace,
        )
        .await;
        self.groups = workload.groups.clone();
        let mut outage_at = self.draw_outage();
        let mut first = Fault::first(self.seed, &mut self.random).into_iter();
        while self.trace.elapsed() < self.duration && self.history.is_sound() {
            let pause = Duration::from_millis(self.random.within(20..2_500));
            self.pass(pause).await;
            if outage_at.take_if(|at| *at <= self.trace.elapsed()).is_some() {
                self.lose_bucket().await;
            }
            let fault = first.next().unwrap_or_else(|| Fault::draw(&mut self.random));
            self.strike(fault).await;
        }
        if self.history.is_sound() {
            self.heal().await;
            if ends_fair(self.seed) {
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
        self.crash(&CrashPlan::LoseAll);
        Report::of(self.seed, &self.history, &self.trace, self.lives, virtual_time)
    }

    /// Lets time pass. A node that ends itself meanwhile is started again.
    async fn pass(&mut self, time: Duration) {
        let end = self.trace.elapsed() + time;
        loop {
            let left = end.saturating_sub(self.trace.elapsed());
            let Some(life) = &self.life else { return tokio::time::sleep(left).await };
            let reason = tokio::select! {
                biased;
                reason = life.failed() => reason,
                () = tokio::time::sleep(left) => break,
            };
            self.trace.note(format_args!("the node ends: {reason:?}"));
            self.trace.count(|counts| counts.ended_itself += 1);
            if !std::mem::take(&mut self.disk_hurt) || !is_of_disk(&reason) {
                let how = format_args!("the node ended itself: {reason:?}");
                self.history.violated("liveness", how);
            }
            // What it has answered is still on its way for a moment.
            self.pause(20).await;
            let plan = self.draw_plan();
            self.crash(&plan);
            self.restart().await;
        }
        self.end_what_is_over();
    }

    async fn pause(&mut self, ms_max: u64) {
        let us = self.random.within(0..ms_max * 1000);
        tokio::time::sleep(Duration::from_micros(us)).await;
    }

    fn end_what_is_over(&mut self) {
        let now = self.trace.elapsed();
        if now >= self.bucket_until && self.node.bucket.weather() != Weather::Fair {
            self.trace.note(format_args!("the bucket is well again"));
            self.node.bucket.set_weather(Weather::Fair);
        }
        if now >= self.full_until && std::mem::take(&mut self.disk_full) {
            self.node.disk.set_capacity(u64::MAX);
        }
        if now >= self.slow_until {
            self.node.set_slowness(None);
        }
        self.tell_health();
    }

    /// What is wrong now excuses what clients are told.
    fn tell_health(&self) {
        self.history.bucket_is_ill(self.node.bucket.weather() != Weather::Fair);
        let is_slow = self.trace.elapsed() < self.slow_until;
        let hurts = self.disk_hurt || self.disk_full || is_slow;
        self.history.node_is_ill(hurts || self.life.is_none());
    }

    async fn strike(&mut self, fault: Fault) {
        self.trace.note(format_args!("fault: {fault:?}"));
        self.trace.count(|counts| *counts.faults.entry(fault.name()).or_default() += 1);
        let now = self.trace.elapsed();
        match fault {
            Fault::PowerLoss => self.lose_power().await,
            Fault::PowerLossAtDisk { operations } => {
                let after = self.node.disk.operations() + operations;
                self.node.disk.stop_after(Some(after));
                self.lose_power_soon().await;
            }
            Fault::PowerLossAtSync { syncs } => {
                self.node.hooks.syncs_left.with(|left| *left = Some(syncs));
                self.lose_power_soon().await;
            }
            Fault::Kill => {
                self.crash(&CrashPlan::ProcessOnly);
                self.restart().await;
            }
            Fault::Restart { drain } => {
                if let Some(life) = &self.life {
                    self.history.node_is_ill(true);
                    life.shutdown(drain).await;
                }
                let plan = self.draw_plan();
                self.crash(&plan);
                self.restart().await;
            }
            Fault::Cut => {
                if let Some(life) = &self.life {
                    self.history.node_is_ill(true);
                    life.cut(&self.node);
                }
            }
            Fault::LostAnswers { syncs } => {
                self.node.hooks.set_answers_left(Some(syncs), None);
            }
            Fault::Bucket { weather, time } => {
                self.node.bucket.set_weather(weather);
                self.bucket_until = now + time;
            }
            Fault::DiskFull { time } => {
                self.node.disk.set_capacity(self.node.disk.used());
                self.full_until = now + time;
                self.disk_full = true;
            }
            Fault::DiskError { op, after } => {
                let kind = std::io::ErrorKind::Other;
                self.node.disk.fail(DiskFault { op, after, kind });
                self.hurt_disk();
            }
            Fault::SlowDisk { us, time } => {
                self.node.set_slowness(Some(us));
                self.slow_until = now + time;
            }
            Fault::Clock { us } => self.node.clock.jump(us),
            Fault::Look => self.checker.check().await,
        }
        self.tell_health();
    }

    /// When the bucket goes away for minutes, if it does in this run.
    fn draw_outage(&mut self) -> Option<Duration> {
        let is_to_be = self.seed % OUTAGE_EVERY == OUTAGE_AT;
        is_to_be.then(|| in_middle_third(self.duration, &mut self.random))
    }

    /// The bucket is away for minutes while the node runs, and only mild things happen besides, so that it
    /// is one life that goes on without. Nobody's patience lasts until it is back.
    async fn lose_bucket(&mut self) {
        // A planted disk error may lie in wait: a restart forgets it.
        self.heal().await;
        let (lives, refused) = (self.lives, self.trace.counts().refused_full);
        let begun = self.trace.elapsed();
        let outage = Fault::outage(&mut self.random);
        self.strike(outage).await;
        while self.node.bucket.weather() != Weather::Fair && self.history.is_sound() {
            let pause = Duration::from_millis(self.random.within(20..5_000));
            self.pass(pause).await;
            let fault = Fault::draw(&mut self.random);
            if fault.is_mild() {
                self.strike(fault).await;
            }
        }
        let outage = self.trace.elapsed() - begun;
        self.duration += outage;
        if self.lives == lives {
            let refused = self.trace.counts().refused_full - refused;
            self.trace.count(|counts| {
                counts.outage = counts.outage.max(outage);
                counts.refused_in_outage += refused;
            });
        }
    }

    fn hurt_disk(&mut self) {
        self.disk_hurt = true;
        self.history.disk_was_hurt();
        self.tell_health();
    }

    fn draw_plan(&mut self) -> CrashPlan {
        match self.random.within(0..10) {
            0 => CrashPlan::LoseAll,
            1 => CrashPlan::KeepAll,
            _ => CrashPlan::Seeded(self.random.next()),
        }
    }

    /// The disk is about to stop. What the process does before it notices, and a moment longer, still
    /// reaches clients.
    async fn lose_power_soon(&mut self) {
        self.hurt_disk();
        if let Some(life) = &self.life {
            let ended = tokio::time::timeout(Duration::from_secs(4), life.failed()).await.is_ok();
            self.trace.count(|counts| counts.ended_itself += u64::from(ended));
        }
        self.pause(30).await;
        self.lose_power().await;
    }

    async fn lose_power(&mut self) {
        let plan = self.draw_plan();
        self.crash(&plan);
        self.checker.check().await;
        self.checker.check_verdict(0, &mut self.random);
        if self.random.percent(40) {
            self.start_on_rot().await;
        }
        self.restart().await;
    }

    /// A log that was harmed after it was durable is not cut: the node says so and does not start.
    async fn start_on_rot(&mut self) {
        let Some(harm) = self.checker.find_rot(&mut self.random) else { return };
        self.trace.note(format_args!("{harm:?}"));
        let path = harm.path();
        let Some(whole) = self.node.disk.contents(path) else { return };
        self.checker.look_away(true);
        harm.strike(&self.node.disk);
        match tokio::time::timeout(START_PATIENCE, self.node.start()).await {
            Ok(Ok(life)) => {
                self.life = Some(life);
                let how = format_args!("the node starts on {} with rot", path.display());
                self.history.violated("torn/rot", how);
            }
            // Another trouble may come first.
            Ok(Err(error)) => {
                self.trace.note(format_args!("the node does not start: {error}"));
                let rot = matches!(error, StartError::OpenLog { .. });
                self.trace.count(|counts| counts.rot_refused += u64::from(rot));
            }
            Err(_) => {
                let how = format_args!("no end of a start on {} with rot", path.display());
                self.history.violated("torn/rot", how);
            }
        }
        // Whoever harmed it makes it whole again.
        self.crash(&CrashPlan::ProcessOnly);
        self.node.disk.put(path, whole);
        self.checker.look_away(false);
    }

    /// Ends the node between two of its instructions.
    pub fn crash(&mut self, plan: &CrashPlan) {
        self.trace.note(format_args!("crash: {plan:?}"));
        self.disk_hurt = false;
        self.node.crash(self.life.take(), plan);
        self.tell_health();
    }

    async fn restart(&mut self) {
        self.pause(2_000).await;
        while self.random.percent(10) {
            // It does not get far.
            let operations = self.random.within(0..30);
            let after = self.node.disk.operations() + operations;
            self.node.disk.stop_after(Some(after));
            self.trace.note(format_args!("a start ends after {operations} changes of the disk"));
            let started = tokio::time::timeout(Duration::from_millis(500), self.node.start()).await;
            self.life = started.ok().and_then(Result::ok);
            let plan = self.draw_plan();
            self.crash(&plan);
        }
        self.start().await;
    }

    /// Starts the node, however often it takes while it has a reason not to start.
    pub async fn start(&mut self) {
        loop {
            self.end_what_is_over();
            self.lives += 1;
            // It belongs to a cluster since its first start, and needs no bucket (T-3).
            let well = self.trace.elapsed() >= self.full_until;
            let error = match tokio::time::timeout(START_PATIENCE, self.node.start()).await {
                Ok(Ok(life)) => {
                    self.trace.note(format_args!("started"));
                    let is_away = self.node.bucket.is_away();
                    self.trace.count(|counts| counts.served_without_bucket += u64::from(is_away));
                    self.life = Some(life);
                    self.tell_health();
                    return;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no end of it within {START_PATIENCE:?}"),
            };
            self.trace.note(format_args!("the node does not start: {error}"));
            if well {
                let how = format_args!("the node does not start, and nothing is wrong: {error}");
                self.history.violated("liveness", how);
                return;
            }
            self.crash(&CrashPlan::ProcessOnly);
            self.pause(3_000).await;
            if self.random.percent(40) {
                // A node that is down for long shows little.
                self.bucket_until = Duration::ZERO;
                self.full_until = Duration::ZERO;
            }
        }
    }

    /// Nothing goes wrong any more.
    async fn heal(&mut self) {
        self.trace.note(format_args!("healing"));
        self.bucket_until = Duration::ZERO;
        self.full_until = Duration::ZERO;
        self.slow_until = Duration::ZERO;
        self.end_what_is_over();
        // A planted disk error may lie in wait: a restart forgets it.
        let plan = self.draw_plan();
        self.crash(&plan);
        self.start().await;
    }

    /// Reads everything through the node, brings it to the bucket, reads it there; the history must
    /// be whole then.
    async fn judge(&mut self) {
        self.settle_groups().await;
        // Publishers that were left give up what they still have.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let ends = audit::read_streams(&self.node.dial, &self.history).await;
        self.checker.check().await;
        audit::seal_streams(&self.node.dial, &self.history).await;
        self.be_tidy().await;
        if let Some(life) = self.life.take() {
            life.shutdown(Duration::from_secs(10)).await;
            self.life = Some(life);
        }
        self.checker.check_replay(&ends).await;
        self.checker.check_drained(&ends);
        self.crash(&CrashPlan::LoseAll);
        self.start().await;
        self.settle_groups().await;
        if audit::read_streams(&self.node.dial, &self.history).await != ends {
            self.history.violated("PS-1", format_args!("streams end elsewhere after a restart"));
        }
        self.history.check_whole();
    }

    /// Members that only ack come to the end of every group.
    async fn settle_groups(&self) {
        let (dial, groups) = (self.node.dial.clone(), self.groups.clone());
        let (history, trace) = (self.history.clone(), self.trace.clone());
        Settling { groups, history, trace }.run_over(dial).await;
    }

    /// Soon the bucket has nothing that no manifest names.
    async fn be_tidy(&mut self) {
        let end = self.trace.elapsed() + self.checker.strays_for();
        while self.history.is_sound() && !self.checker.is_tidy(self.trace.elapsed() > end).await {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// A time in the middle of a run.
pub(super) fn in_middle_third(duration: Duration, random: &mut Random) -> Duration {
    let third = duration / 3;
    third + Duration::from_micros(random.within(0..third.as_micros() as u64 + 1))
}

/// Whether everybody goes on for a while in the end.
pub(super) fn ends_fair(seed: u64) -> bool {
    seed % FAIR_EVERY == FAIR_AT
}

/// Looks at the world when a log file was removed, and now and then.
pub(super) async fn watch(checker: Checker, node: Arc<SimNode>) {
    loop {
        drop(tokio::time::timeout(LOOK_EVERY, node.hooks.removed.notified()).await);
        checker.check().await;
    }
}
