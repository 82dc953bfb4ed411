//! What clients do while things go wrong: publishers of every kind, readers, somebody who looks after
//! streams, members of consumer groups. Each has a connection and chance of its own.

mod admin;
mod again;
mod group_operator;
mod member;
mod passing;
mod publisher;
mod reader;
mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use railgun_client::{
    Client, ClientOptions, DedupPatch, DlqPatch, EnsureMode, EnsureOptions, GroupMode, GroupName,
    GroupPatch, SpecPatch, StartPosition, StreamName, StreamUid,
};
use tokio::task::JoinSet;

use super::checker::Checker;
use super::dial::SimDial;
use super::history::History;
use super::options::Shape;
use super::random::Random;
use super::settling::Group;
use super::shared::Shared;
use super::trace::Trace;

/// Members that a group has at the most.
const MEMBERS: u64 = 2;
/// Longer than any run, whatever clocks do.
const DEDUP_WINDOW_MS: u64 = 7 * 24 * 3_600_000;

/// What every actor of the workload has.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    name: String,
    pub(super) random: Shared<Random>,
    pub(super) history: History,
    checker: Checker,
    dial: SimDial,
    streams: Arc<Vec<(StreamName, StreamUid)>>,
    stop: Arc<AtomicBool>,
    trace: Trace,
}

/// Everybody at work.
#[derive(Debug)]
pub(super) struct Workload {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    /// Those that stay.
    pub(super) streams: Arc<Vec<(StreamName, StreamUid)>>,
    /// On some of these.
    pub(super) groups: Vec<Group>,
}

impl Workload {
    /// Makes the streams, then lets everybody loose on them.
    pub(super) async fn start(
        dial: &SimDial,
        shape: &Shape,
        history: &History,
        checker: &Checker,
        mut random: Random,
        trace: &Trace,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut actor = Actor {
            name: "founder".to_owned(),
            random: Shared::new(random.fork()),
            history: history.clone(),
            checker: checker.clone(),
            dial: dial.clone(),
            streams: Arc::default(),
            stop: Arc::clone(&stop),
            trace: trace.clone(),
        };
        let (mut streams, mut groups, mut boxed) = (Vec::new(), Vec::new(), None);
        if let Some(client) = actor.connect().await {
            for number in 0..shape.streams {
                let name = stream_name(&format!("orders.{number}"));
                match client.admin().create_if_absent(&name).await {
                    Ok(made) => streams.push((name, made.stream_uid)),
                    Err(error) => {
                        history.violated("liveness", format_args!("no stream was made: {error}"));
                    }
                }
            }
            for (stream, mode) in streams.iter().zip([GroupMode::Balanced, GroupMode::Exclusive]) {
                groups.extend(make_group(&actor, &client, stream, mode).await);
            }
            boxed = make_boxed(&actor, &client).await;
        }
        actor.streams = Arc::new(streams);
        let mut tasks = JoinSet::new();
        let mut as_actor = |name: String| {
            let random = Shared::new(random.fork());
            Actor { name, random, ..actor.clone() }
        };
        let [ordered, unordered, multi] = shape.publishers;
        for number in 0..ordered {
            tasks.spawn(publisher::run(as_actor(format!("ordered publisher {number}")), true));
        }
        for number in 0..unordered {
            tasks.spawn(publisher::run(as_actor(format!("unordered publisher {number}")), false));
        }
        for number in 0..multi {
            tasks.spawn(publisher::run_many(as_actor(format!("multi publisher {number}"))));
        }
        for number in 0..shape.readers {
            tasks.spawn(reader::run(as_actor(format!("reader {number}"))));
        }
        for group in &groups {
            for number in 0..MEMBERS {
                let name = format!("member {number} of {}", group.name);
                tasks.spawn(member::run(as_actor(name), group.clone()));
            }
        }
        tasks.spawn(group_operator::run(as_actor("group operator".to_owned()), groups.clone()));
        if let Some(stream) = boxed {
            tasks.spawn(again::run(as_actor("again".to_owned()), stream));
        }
        tasks.spawn(admin::run(as_actor("admin".to_owned())));
        tasks.spawn(passing::run(as_actor("passing".to_owned())));
        tasks.spawn(settings::run(as_actor("settings".to_owned())));
        Self { tasks, stop, streams: actor.streams, groups }
    }

    /// Lets everybody finish what they do; true if they did within `patience`.
    pub(super) async fn finish(mut self, patience: Duration) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        let ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.expect("an actor of the workload does not panic");
            }
        };
        tokio::time::timeout(patience, ended).await.is_ok()
    }
}

/// A group that gives its messages up soon, and waits for nobody for long.
async fn make_group(
    actor: &Actor,
    client: &Client,
    (stream, uid): &(StreamName, StreamUid),
    mode: GroupMode,
) -> Option<Group> {
    let is_exclusive = mode == GroupMode::Exclusive;
    let name = GroupName::new(mode.name()).expect("a valid name");
    let ack_wait_ms = actor.draw(2_000..5_000);
    let patch = GroupPatch {
        mode: Some(mode),
        ack_wait_ms: Some(ack_wait_ms),
        max_in_flight: Some(actor.draw(10..150) as u32),
        backoff_ms: Some(vec![0, 200]),
        dlq: DlqPatch {
            max_attempts: Some(actor.draw(2..5) as u32),
            max_distance: Some(*actor.random.with(|random| random.pick(&[0, 300, 10_000]))),
            ..DlqPatch::default()
        },
        ..GroupPatch::default()
    };
    let options = EnsureOptions { mode: EnsureMode::Warn, ..EnsureOptions::default() };
    let start = StartPosition::Earliest;
    let made = client.admin().ensure_group(stream, &name, patch, start, options).await;
    if let Err(error) = made {
        actor.history.violated("liveness", format_args!("no group was made: {error}"));
        return None;
    }
    let number = actor.history.group(*uid, name.clone(), is_exclusive);
    let ack_wait = Duration::from_millis(ack_wait_ms);
    Some(Group { stream: stream.clone(), name, number, ack_wait })
}

/// A stream that knows messages by their ids.
async fn make_boxed(actor: &Actor, client: &Client) -> Option<(StreamName, StreamUid)> {
    let name = stream_name("boxed");
    let dedup = DedupPatch { window_ms: Some(DEDUP_WINDOW_MS), ..DedupPatch::default() };
    let patch = SpecPatch { dedup, ..SpecPatch::default() };
    let options = EnsureOptions { mode: EnsureMode::Warn, ..EnsureOptions::default() };
    match client.admin().ensure_stream(&name, patch, options).await {
        Ok(made) => Some((name, made.stream_uid)),
        Err(error) => {
            actor.history.violated("liveness", format_args!("no stream was made: {error}"));
            None
        }
    }
}

pub(super) fn stream_name(name: &str) -> StreamName {
    StreamName::new(name).expect("a valid name")
}

impl Actor {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.history.is_sound()
    }

    fn draw(&self, range: std::ops::Range<u64>) -> u64 {
        self.random.with(|random| random.within(range))
    }

    fn percent(&self, percent: u64) -> bool {
        self.random.with(|random| random.percent(percent))
    }

    async fn pause(&self, ms_max: u64) {
        let us = self.draw(1..ms_max * 1000);
        tokio::time::sleep(Duration::from_micros(us)).await;
    }

    fn note(&self, event: std::fmt::Arguments<'_>) {
        self.trace.note(format_args!("{}: {event}", self.name));
    }

    /// One of the streams that stay.
    fn stream(&self) -> (StreamName, StreamUid) {
        self.random.with(|random| random.pick(&self.streams).clone())
    }

    /// A connection, however long it takes; `None` when it is time to stop.
    pub(super) async fn connect(&self) -> Option<Client> {
        let mut options = ClientOptions::new(self.dial.servers());
        options.give_up_after = Duration::from_secs(self.draw(2..40));
        // Who does not goes by way of the node that it is connected with.
        options.follow_leaders = !self.percent(40);
        options.seed = Some(self.random.with(Random::bytes));
        loop {
            match Client::connect_over(Arc::new(self.dial.clone()), options.clone()).await {
                Ok(client) => return Some(client),
                Err(error) => {
                    self.note(format_args!("cannot connect: {error}"));
                    if !self.history.node_may_be_ill() {
                        let how = format_args!("{} cannot connect: {error}", self.name);
                        self.history.violated("liveness", how);
                    }
                    if !self.goes_on() {
                        return None;
                    }
                    self.pause(300).await;
                }
            }
        }
    }
}
