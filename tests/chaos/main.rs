//! Three processes that are one cluster, on loopback and in network namespaces, with something wrong in
//! every round: nothing acknowledged is lost, nothing is there twice, every node holds the same, and consumer
//! groups settle each message (PS-1…PS-5, PQ-1, G-2, G-3).
//!
//! `RAILGUN_CHAOS_ROUNDS` says how many rounds on each network, `RAILGUN_CHAOS_NETWORK` on which alone
//! (`loopback`, `namespaces`), `RAILGUN_CHAOS_SEED` what is drawn in them (not: when which process does
//! what), `RAILGUN_CHAOS_FAULTS` which kinds alone, separated by commas, `RAILGUN_CHAOS_LOG_FILTER`
//! what the nodes log, and `RAILGUN_CHAOS_FIGURES` a file for the longest gaps of each round. `cargo xtask
//! chaos` takes the release build, and judges those.

mod cluster;
mod fault;
mod harm;
mod kind;
mod links;
mod load;
mod members;
#[path = "../process/mount.rs"]
#[expect(dead_code, reason = "the suite `process` breaks devices, too")]
mod mount;
mod namespace;
mod network;
mod reading;
mod relay;
#[path = "../process/seed.rs"]
mod seed;
#[path = "../process/site.rs"]
#[expect(dead_code, reason = "a node that is alone is for the suite `process`")]
mod site;
#[path = "../process/waiting.rs"]
mod waiting;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use railgun_client::{Client, StreamName};
use railgun_testkit::sim::{Counts, History, Random, Trace};
use tokio::time::Instant;

use cluster::{Cluster, NODES};
use fault::Fault;
use kind::Kind;
use load::{Load, Stream};
use members::Members;
use network::{Network, Wiring};
use reading::Content;
use seed::seed_of;
pub(crate) use waiting::{LOOK_EVERY, eventually, not_tested};

/// Streams of a round: enough that every data shard has one, by and large.
const STREAMS: usize = 3;
/// And those that have consumer groups, one of each mode.
const GROUPED: usize = 2;
/// What publishers do before something goes wrong.
const ACKS_BEFORE: u64 = 300;
/// What each must do after it.
const ACKS_AFTER: u64 = 100;
/// And for how long they go on at least: what comes late belongs to the round, too.
const AFTER: Duration = Duration::from_secs(2);
/// How long it may take until everyone publishes again.
const RECOVERED_LIMIT: Duration = Duration::from_secs(20);
/// Streams of earlier rounds that are kept in mind.
const KEPT_MAX: usize = 60;

#[test]
fn a_cluster_keeps_its_promises_on_one_machine() {
    run(Wiring::Loopback);
}

#[test]
fn a_cluster_keeps_its_promises_on_machines_of_its_own() {
    run(Wiring::Namespaces);
}

fn run(wiring: Wiring) {
    let only = std::env::var("RAILGUN_CHAOS_NETWORK").ok();
    let only = only.map(|name| Wiring::named(&name));
    if only.is_some_and(|only| only != wiring) {
        return;
    }
    let names = std::env::var("RAILGUN_CHAOS_FAULTS").ok();
    let kinds = Kind::on(wiring, names.as_deref());
    if kinds.is_empty() {
        let others = Wiring::ALL.into_iter().filter(|_| only.is_none());
        let on_others = others.map(|other| Kind::on(other, names.as_deref()).len()).sum::<usize>();
        assert!(on_others > 0, "no fault of {names:?} can be on {}", wiring.name());
        return println!("no fault of {names:?} can be on {}", wiring.name());
    }
    wiring.within(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.expect("a runtime").block_on(rounds(wiring, kinds));
    });
}

/// Each kind of fault once, unless told otherwise.
async fn rounds(wiring: Wiring, mut kinds: Vec<Kind>) {
    let seed = seed_of("RAILGUN_CHAOS_SEED");
    println!("RAILGUN_CHAOS_SEED={seed}, on {}", wiring.name());
    let mut random = Random::new(seed);
    let Some(network) = Network::start(wiring, random.fork()).await else { return };
    let cluster = Cluster::start(network).await;
    if cluster.disk().is_none() {
        // That is told where it was to be mounted.
        kinds.retain(|kind| *kind != Kind::FullDisk);
    }
    let rounds = std::env::var("RAILGUN_CHAOS_ROUNDS").ok();
    let rounds = rounds.map_or(kinds.len(), |rounds| rounds.parse().expect("a number of rounds"));
    let rounds = if kinds.is_empty() { 0 } else { rounds };
    let client = cluster.client(&[0, 1, 2], RECOVERED_LIMIT).await;
    let (kept, gaps) = (VecDeque::new(), BTreeMap::new());
    let mut chaos = Chaos { cluster, client, random, kept, gaps };
    let mut next = Vec::new();
    for round in 0..rounds {
        if next.is_empty() {
            next = chaos.shuffled(&kinds);
        }
        let kind = next.pop().expect("there are kinds");
        let violations = chaos.round(round, kind).await;
        assert!(violations.is_empty(), "seed {seed}, round {round}: {violations:#?}");
    }
    chaos.check_kept(usize::MAX).await;
    chaos.tell_gaps(wiring, seed);
}

/// The cluster, and what is known of earlier rounds.
struct Chaos {
    cluster: Cluster,
    client: Client,
    random: Random,
    kept: VecDeque<(Stream, Content)>,
    gaps: BTreeMap<&'static str, Vec<Duration>>,
}

impl Chaos {
    fn shuffled(&mut self, kinds: &[Kind]) -> Vec<Kind> {
        let mut kinds = kinds.to_vec();
        for last in (1..kinds.len()).rev() {
            kinds.swap(last, self.random.below(last as u64 + 1) as usize);
        }
        kinds
    }

    /// Load, a fault, and a look at everything. Returns the rules that were broken.
    async fn round(&mut self, round: usize, kind: Kind) -> Vec<String> {
        let trace = Trace::begin();
        let history = History::new(trace.clone());
        let mut random = self.random.fork();
        let fault = Fault::draw(kind, &self.cluster, &mut random).await;
        let streams = self.make_streams(round).await;
        let load = Load::start(&self.cluster, &streams, &history, &mut random).await;
        let members = Members::start(&self.cluster, &streams[STREAMS..], &history, &trace).await;
        acked(&load, &history, ACKS_BEFORE, "before anything is wrong").await;
        println!("round {round}: {}: {fault}", kind.name());

        if let Err(failure) = fault.happen(&mut self.cluster).await {
            history.violated(kind.name(), format_args!("{failure}"));
        }
        let over = Instant::now();
        let recovered = acked(&load, &history, ACKS_AFTER, "when nothing is wrong any more").await;
        tokio::time::sleep_until(over + AFTER).await;
        let mut noticed = load.end().await;
        noticed.failures.extend(members.end(&self.cluster).await);
        let contents = reading::check_all(&self.cluster, &streams, &history).await;
        self.cluster.ended().iter().for_each(|how| history.violated("life", format_args!("{how}")));
        let panics = self.cluster.panics();
        panics.iter().for_each(|how| history.violated("panic", format_args!("{how}")));

        let (sent, acked) = history.counts();
        let (gap, failures) = (noticed.gap, noticed.failures);
        let Counts { handed, handed_again, acked_for_good, dead_letters, .. } = trace.counts();
        println!(
            "round {round}: {acked} of {sent} acked; longest gap {gap:.1?}; \
             all publish {recovered:.1?} after the end of it; members were handed {handed} \
             ({handed_again} again), {acked_for_good} confirmed, {dead_letters} dead; \
             failures: {failures:?}"
        );
        self.gaps.entry(kind.name()).or_default().push(gap);
        if history.is_sound() {
            self.kept.extend(streams.into_iter().zip(contents));
            while self.kept.len() > KEPT_MAX {
                self.kept.pop_front();
            }
            self.check_kept(1).await;
        }
        history.violations()
    }

    async fn make_streams(&self, round: usize) -> Vec<Stream> {
        let mut streams = Vec::new();
        for number in 0..STREAMS + GROUPED {
            let name = StreamName::new(&format!("round.{round}.{number}")).expect("a valid name");
            let made = eventually("a stream is made", RECOVERED_LIMIT, async || {
                self.client.admin().create_if_absent(&name).await.ok()
            })
            .await;
            streams.push(Stream { name, uid: made.stream_uid });
        }
        streams
    }

    /// So many streams of earlier rounds are what they were, from any node.
    async fn check_kept(&mut self, count: usize) {
        for number in 0..count.min(self.kept.len()) {
            let at = match count {
                1 => self.random.below(self.kept.len() as u64) as usize,
                _ => number,
            };
            let node = self.random.below(NODES as u64) as usize;
            let client = self.cluster.client(&[node], RECOVERED_LIMIT).await;
            let (stream, then) = &self.kept[at];
            if let Err(how) = reading::check_kept(&client, stream, *then).await {
                panic!("from node {}: {how}", node + 1);
            }
            client.close().await;
        }
    }

    /// Past the harness, which keeps what passing tests print to itself; and into a file, where one is named.
    fn tell_gaps(&mut self, wiring: Wiring, seed: u64) {
        let network = wiring.name();
        let mut told =
            format!("longest gaps between acks of a publisher on {network} (seed {seed}):\n");
        let mut figures = String::new();
        for (kind, gaps) in &mut self.gaps {
            gaps.sort_unstable();
            let (p50, max) = (gaps[gaps.len() / 2], gaps[gaps.len() - 1]);
            told +=
                &format!("  {kind:<20} {:>4} rounds, p50 {p50:.1?}, max {max:.1?}\n", gaps.len());
            for gap in gaps {
                figures += &format!("{network} {kind} {}\n", gap.as_millis());
            }
        }
        std::io::stderr().write_all(told.as_bytes()).ok();
        if let Some(path) = std::env::var_os("RAILGUN_CHAOS_FIGURES") {
            let file = File::options().create(true).append(true).open(path);
            let written = file.and_then(|mut file| file.write_all(figures.as_bytes()));
            written.expect("a file for the figures");
        }
    }
}

/// Waits until each publisher has so many acks more; for how long.
async fn acked(load: &Load, history: &History, more: u64, when: &str) -> Duration {
    let (begun, before) = (Instant::now(), load.acks());
    let enough = || load.acks().iter().zip(&before).all(|(now, then)| *now >= then + more);
    while !enough() && history.is_sound() {
        if begun.elapsed() > RECOVERED_LIMIT {
            let acks: Vec<_> = load.acks().iter().zip(&before).map(|(n, t)| n - t).collect();
            let how = format_args!("{acks:?} acks in {RECOVERED_LIMIT:?} {when}");
            history.violated("liveness", how);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    begun.elapsed()
}
