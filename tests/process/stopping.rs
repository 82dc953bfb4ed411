//! SIGTERM: what is in flight is answered, everything goes to the bucket, and neither a client that
//! stays nor a bucket that is dead holds the exit. The log is marked in any case.

use std::fs;
use std::path::Path;
use std::time::Duration;

use railgun_client::{ClientOptions, Message, StartPosition};

use crate::eventually;
use crate::ledger::Ledger;
use crate::load::{self, Ended, Mode, Steering};
use crate::s3_gate::{Gate, S3Gate};
use crate::site::{Process, Site, name};

/// 10 s for clients and bucket together, and a moment: a broker that has to be left behind, without
/// marks, would take 12 s.
const STOP_LIMIT: Duration = Duration::from_millis(11_500);
/// What a node takes that has a bucket, and clients that only wait.
const PROMPT: Duration = Duration::from_secs(5);
/// Messages that are acknowledged before the signal.
const ENOUGH: u64 = 2_000;

/// Publishes to two streams, tells the node to stop in the midst of it, and returns what the
/// publishers know.
async fn stop_under_load(
    site: &Site,
    node: &mut Process,
    before: impl AsyncFnOnce(),
) -> Vec<Ledger> {
    // Whoever is connected when the node goes shall not wait for it to come back.
    let patience = Duration::from_secs(1);
    let options = site.client_options().expect("the node has made its authority");
    let options = ClientOptions { give_up_after: patience, ..options };
    let client = railgun_client::Client::connect(options).await.expect("the node takes clients");
    let steering = Steering::new();
    let mut loads = Vec::new();
    for (stream, mode) in [("each", Mode::Each), ("atomic", Mode::Atomic)] {
        let mut ledger = Ledger::new(name(stream));
        client.admin().create_if_absent(&ledger.stream).await.expect("ensured");
        let publisher = client.publisher(ledger.stream.clone()).open().await.expect("opened");
        ledger.begin_session(true);
        loads.push(tokio::spawn(load::publish(publisher, mode, ledger, steering.clone())));
    }
    eventually("messages are acknowledged", STOP_LIMIT, || async {
        (steering.acked() >= ENOUGH).then_some(())
    })
    .await;
    before().await;
    node.terminate();
    let status = node.ended(STOP_LIMIT).await;
    assert_eq!(status.code(), Some(0), "{}", site.log_tail());
    stopped_in_order(site);
    steering.stop();
    let mut ledgers = Vec::new();
    for load in loads {
        let Ended { ledger, .. } = load.await.expect("the load runs");
        ledgers.push(ledger);
    }
    client.close().await;
    ledgers
}

/// The node went through all steps of stopping; the last is to mark the log.
fn stopped_in_order(site: &Site) {
    let log = site.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("stopped"), "{}", site.log_tail());
    for flaw in ["leaving a broker behind", "could not be marked", "did not finish in time"] {
        assert!(!log.contains(flaw), "{flaw}: {}", site.log_tail());
    }
    for shard in fs::read_dir(site.data_dir.join("shards")).expect("shards").flatten() {
        is_marked(&shard.path().join("log"));
    }
}

/// The last write batch of a log is a mark: all before it is known to be durable, so a flipped bit in
/// it is rot and no torn write. By the layout of version 1, from its description.
fn is_marked(log: &Path) {
    let files = fs::read_dir(log).expect("a log").flatten().map(|file| file.path());
    let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "log"));
    let files = files.map(|file| fs::read(file).expect("readable"));
    let word = |bytes: &[u8], at: usize| {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
    };
    let half = |bytes: &[u8], at: usize| word(bytes, at) as u32;
    let newest = files.max_by_key(|file| word(file, 32)).expect("a file");
    assert_eq!(newest[..8], *b"rgunlog\n", "{}", log.display());
    assert_eq!(word(&newest, 48), 1, "the incarnation of the replica");
    let (mut at, uuid) = (half(&newest, 12) as usize, &newest[16..32]);
    let mut last = None;
    while let Some(batch) = newest.get(at..at + 64)
        && batch[..4] == *b"RGW1"
        && &batch[8..24] == uuid
    {
        // The tag of the first frame, which stands behind the header.
        let tag = newest.get(at + 64).copied().unwrap_or_default();
        last = Some((half(batch, 4), tag, word(batch, 24), word(batch, 32)));
        at += (64 + word(batch, 40) as usize).next_multiple_of(8);
    }
    // A file without a batch proves all before it.
    if let Some((frames, tag, number, synced_through)) = last {
        // What is committed may ride with a mark: it is found out again if it is lost.
        let committed_alone = frames == 1 && tag == 3;
        assert!(frames == 0 || committed_alone, "{}: {last:?}", log.display());
        assert_eq!(synced_through, number - 1, "{}", log.display());
    }
}

/// Publishes one message, tells the node to stop while a client follows the stream, and waits.
async fn stop_beside_a_follower(
    site: &Site,
    node: &mut Process,
    before: impl FnOnce(),
    limit: Duration,
) {
    let client = site.client().await;
    let stream = name("followed");
    client.admin().create_if_absent(&stream).await.expect("ensured");
    let publisher = client.publisher(stream.clone()).open().await.expect("opened");
    let ticket = publisher.send(Message::new("x")).await.expect("sent");
    ticket.await.expect("published");
    publisher.close().await.expect("closed");
    let mut follower =
        client.subscribe(stream).start(StartPosition::Earliest).open().await.expect("opened");
    follower.next().await.expect("readable").expect("the record");
    before();
    node.terminate();
    let status = node.ended(limit).await;
    assert_eq!(status.code(), Some(0), "{}", site.log_tail());
    stopped_in_order(site);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_wait_do_not_hold_the_exit() {
    let site = Site::new();
    let mut node = site.start().await;
    stop_beside_a_follower(&site, &mut node, || {}, PROMPT).await;
    assert_eq!(site.replay(&name("followed")), ["x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_wait_leave_the_time_to_a_dead_bucket() {
    let s3 = S3Gate::start(Gate::Open).await;
    let mut site = Site::new();
    s3.serve(&mut site);
    let mut node = site.start().await;
    let hang = || s3.set(Gate::Hanging);
    stop_beside_a_follower(&site, &mut node, hang, STOP_LIMIT).await;
}

/// Starts the node again; nothing acknowledged is missing.
async fn check_after_restart(site: &Site, ledgers: &mut [Ledger]) {
    let _node = site.start().await;
    let client = site.client().await;
    for ledger in ledgers {
        assert!(ledger.present() > 0, "{}", ledger.stream);
        ledger.check(&client).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_told_to_stop_leaves_everything_in_the_bucket() {
    let site = Site::new();
    let mut node = site.start().await;
    let mut ledgers = stop_under_load(&site, &mut node, async || {}).await;
    let replayed: Vec<_> = ledgers.iter().map(|ledger| site.replay(&ledger.stream)).collect();
    check_after_restart(&site, &mut ledgers).await;
    for (ledger, replayed) in ledgers.iter().zip(replayed) {
        let stream = &ledger.stream;
        assert_eq!(replayed.len(), ledger.present(), "{stream}: the bucket is not complete");
        assert!(ledger.values().eq(replayed), "{stream}: the bucket differs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_bucket_does_not_hold_the_exit() {
    for gate in [Gate::Closed, Gate::Hanging] {
        let s3 = S3Gate::start(Gate::Open).await;
        let mut site = Site::new();
        s3.serve(&mut site);
        let mut node = site.start().await;
        let mut ledgers = stop_under_load(&site, &mut node, async || s3.set(gate)).await;
        s3.set(Gate::Open);
        check_after_restart(&site, &mut ledgers).await;
    }
}
