//! SIGKILL at random moments under load, again and again on the same data: nothing acknowledged is
//! lost, nothing is there twice (PS-1…PS-4, PQ-1).

use std::time::Duration;

use railgun_client::{Client, Publisher, StreamName};
use railgun_testkit::sim::Random;
use tokio::task::JoinHandle;

use crate::eventually;
use crate::ledger::Ledger;
use crate::load::{self, Ended, Mode, Steering};
use crate::seed::seed_of;
use crate::site::{Process, Site, name};

/// Rounds, unless `RAILGUN_KILL_ROUNDS` says otherwise.
const ROUNDS: u64 = 50;
/// A round ends after at most this many acknowledged messages, and a moment.
const ACKED_MAX: u64 = 600;
const MOMENT_MAX_US: u64 = 20_000;
/// One round in this many also kills the node while it recovers.
const KILLED_IN_RECOVERY: u64 = 4;
const RECOVERY_MAX_US: u64 = 400_000;
/// One round in this many is killed while streams are sealed and log files freed.
const SEALED: u64 = 3;
/// Nothing here takes so long.
const LIMIT: Duration = Duration::from_secs(60);

/// One stream of the load.
struct Lane {
    stream: StreamName,
    mode: Mode,
    ordered: bool,
    /// Lives as long as the test: what is un-answered at a kill is sent again to the next node.
    steady: Option<Publisher>,
    ledger: Option<Ledger>,
}

impl Lane {
    fn ledger(&mut self) -> &mut Ledger {
        self.ledger.as_mut().expect("no load runs")
    }
}

struct KillLoop {
    site: Site,
    /// Outlives every node, with the publishers made from it.
    steady: Client,
    random: Random,
    lanes: Vec<Lane>,
    sources: Vec<&'static str>,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_every_kill() {
    let seed = seed_of("RAILGUN_KILL_SEED");
    println!("RAILGUN_KILL_SEED={seed}");
    let rounds = std::env::var("RAILGUN_KILL_ROUNDS").ok().and_then(|n| n.parse().ok());
    let mut site = Site::new();
    site.set_hot_tier(2, "6MiB", "1s");
    let mut node = site.start().await;
    let steady = site.client().await;
    let mut lanes = Vec::new();
    for (stream, mode, ordered, is_steady) in [
        ("steady.each", Mode::Each, true, true),
        ("steady.loose", Mode::Each, false, true),
        ("steady.atomic", Mode::Atomic, true, true),
        ("brief.each", Mode::Each, true, false),
        ("brief.loose", Mode::Each, false, false),
        ("brief.atomic", Mode::Atomic, true, false),
    ] {
        let stream = name(stream);
        steady.admin().create_if_absent(&stream).await.expect("ensured");
        let publisher = open(&steady, &stream, ordered).await;
        let ledger = Some(Ledger::new(stream.clone()));
        lanes.push(Lane { stream, mode, ordered, steady: is_steady.then_some(publisher), ledger });
    }
    let mut test = KillLoop { site, steady, random: Random::new(seed), lanes, sources: Vec::new() };
    for round in 0..rounds.unwrap_or(ROUNDS) {
        node = test.round(round, node).await;
    }
    test.end(node).await;
}

async fn open(client: &Client, stream: &StreamName, ordered: bool) -> Publisher {
    client.publisher(stream.clone()).ordered(ordered).open().await.expect("a publisher")
}

impl KillLoop {
    /// Load, kill, restart, check. Returns the next node.
    async fn round(&mut self, round: u64, node: Process) -> Process {
        let brief = self.site.client().await;
        let steering = Steering::new();
        let loads = self.load(&brief, &steering).await;
        let sealing = (self.random.below(SEALED) == 0).then(|| self.seal(brief.clone()));

        let enough = 1 + self.random.below(ACKED_MAX);
        eventually("messages are acknowledged", LIMIT, || async {
            (steering.acked() >= enough).then_some(())
        })
        .await;
        // No condition is waited for: the kill shall come at any point of what goes on.
        tokio::time::sleep(Duration::from_micros(self.random.below(MOMENT_MAX_US))).await;
        node.kill();
        steering.stop();
        brief.close().await;
        if let Some(sealing) = sealing {
            sealing.abort();
        }

        let node = self.restart().await;
        // Only when it sends something does the steady client learn that its connection is gone.
        // What it waits for may have been received before the kill: then that would be at its next
        // sign of life, seconds from now.
        self.steady.admin().describe_stream(&self.lanes[0].stream).await.expect("described");
        self.collect(loads).await;
        let client = self.site.client().await;
        for lane in &mut self.lanes {
            let sources = lane.ledger().check(&client).await;
            self.sources.extend(sources);
        }
        client.close().await;
        let present: usize = self.lanes.iter_mut().map(|lane| lane.ledger().present()).sum();
        println!("round {round}: {present} messages are there");
        node
    }

    async fn load(&mut self, brief: &Client, steering: &Steering) -> Vec<JoinHandle<Ended>> {
        let mut loads = Vec::new();
        for lane in &mut self.lanes {
            let mut ledger = lane.ledger.take().expect("no load runs");
            let publisher = match &lane.steady {
                Some(publisher) => publisher.clone(),
                None => open(brief, &lane.stream, lane.ordered).await,
            };
            ledger.begin_session(lane.ordered);
            loads.push(tokio::spawn(load::publish(publisher, lane.mode, ledger, steering.clone())));
        }
        loads
    }

    /// Seals a stream and frees log files, as far as it gets.
    fn seal(&mut self, client: Client) -> JoinHandle<()> {
        let lane = self.random.below(self.lanes.len() as u64) as usize;
        let stream = self.lanes[lane].stream.clone();
        tokio::spawn(async move {
            drop(client.admin().seal_stream(&stream, true, LIMIT).await);
        })
    }

    async fn restart(&mut self) -> Process {
        if self.random.below(KILLED_IN_RECOVERY) == 0 {
            let recovering = self.site.spawn();
            let moment = Duration::from_micros(self.random.below(RECOVERY_MAX_US));
            tokio::time::sleep(moment).await;
            recovering.kill();
        }
        self.site.start().await
    }

    /// Waits for what became of every message.
    async fn collect(&mut self, loads: Vec<JoinHandle<Ended>>) {
        for (lane, load) in self.lanes.iter_mut().zip(loads) {
            let ended = tokio::time::timeout(LIMIT, load).await;
            let Ok(ended) = ended else { panic!("a load does not end:\n{}", self.site.log_tail()) };
            let Ended { ledger, failure } = ended.expect("the load runs");
            if lane.steady.is_some() {
                // PQ-1: the SDK sends again what was un-answered, and it is appended once.
                assert_eq!(failure, None, "{}:\n{}", ledger.stream, self.site.log_tail());
            }
            lane.ledger = Some(ledger);
        }
    }

    /// A last kill: what is in the bucket is a prefix of every stream.
    async fn end(mut self, node: Process) {
        let client = self.site.client().await;
        let mut cold_ends = Vec::new();
        for lane in &mut self.lanes {
            let described = client.admin().describe_stream(&lane.stream).await;
            cold_ends.push(described.expect("described").cold_end.0 as usize);
        }
        client.close().await;
        node.kill();
        for (lane, cold_end) in self.lanes.iter_mut().zip(cold_ends) {
            let replayed = self.site.replay(&lane.stream);
            let stream = lane.stream.clone();
            let ledger = lane.ledger();
            assert!(cold_end > 0, "{stream}: nothing reached the bucket");
            assert!(replayed.len() >= cold_end, "{stream}: {} of {cold_end}", replayed.len());
            assert!(ledger.values().take(replayed.len()).eq(replayed), "{stream}: no prefix");
        }
        // Else the loop has not tested what it is there for.
        for source in ["hot", "cold"] {
            assert!(self.sources.contains(&source), "no record was read from {source}");
        }
        let first = format!("{:020}.log", 1);
        assert!(!self.site.log_files().contains(&first), "no log file was freed");
    }
}
