//! A disk that is full from any moment of a node's life on: who asks for something waits, or is told
//! to try again; nothing acknowledged is lost; the node lives, and goes on by itself.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io::ErrorKind;

use railgun_log::{CrashPlan, Disk, Fault, ShardLog, SimOp};

use super::scarce::Full;
use super::site::{Lane, PATIENCE, PAUSE, Site, again, check_lives, logs, until, value, values};
use super::*;

/// How long the disk stays full after it has refused something.
const FULL_TIME: Duration = Duration::from_secs(4);

async fn ensure(broker: &Broker, stream: &str, bytes: u32, mode: EnsureMode) {
    again(async || broker.streams.ensure(wish(stream, bytes, mode)).await).await;
}

async fn seal(broker: &Broker, stream: &str) {
    let stream = name(stream);
    again(async || broker.streams.seal(&stream, true).await).await;
}

/// Everything that a node writes for its clients and for itself: entries of every kind, votes and
/// marks, checkpoints and their promotion, new files and old ones that go. So many messages of the
/// stream `s` are `acked`.
async fn live(site: &Site, mut broker: Broker, acked: &Cell<usize>) {
    ensure(&broker, "s", 1 << 20, EnsureMode::Warn).await;
    ensure(&broker, "t", 1 << 20, EnsureMode::Warn).await;
    let mut lane = Lane::open(site, &broker, "s", Some((1, 0))).await;
    for number in 0..6 {
        assert_eq!(lane.publish_at_last(&value(number)).await, number as u64);
        acked.set(number + 1);
    }
    let mut other = Lane::open(site, &broker, "t", Some((2, 0))).await;
    other.publish_at_last(&value(0)).await;
    other.close().await;
    seal(&broker, "s").await;
    ensure(&broker, "s", 2 << 20, EnsureMode::Overwrite).await;
    for number in 6..10 {
        assert_eq!(lane.publish_at_last(&value(number)).await, number as u64);
        acked.set(number + 1);
    }
    again(async || broker.streams.delete(&name("t")).await).await;
    // A quiet log is checkpointed, and given up if it is the catalog's.
    sleep(Duration::from_secs(6)).await;
    ensure(&broker, "u", 1 << 20, EnsureMode::Warn).await;

    check_lives(&broker);
    broker.shutdown(Duration::from_secs(10)).await;
    drop(broker);
    broker = site.start_at_last().await;
    let mut lane = Lane::open(site, &broker, "s", Some((1, lane.sequence()))).await;
    for number in 10..12 {
        assert_eq!(lane.publish_at_last(&value(number)).await, number as u64);
        acked.set(number + 1);
    }

    // With room, nothing is left of it.
    site.disk.make_room();
    until("there is room", async || logs(&broker).iter().all(|log| !log.disk_full())).await;
    let failing = || broker.figures().iter().any(|figures| figures.offload_failing);
    until("uploads work", async || !failing()).await;
    lane.publish_at_last(&value(12)).await;
    lane.close().await;
    seal(&broker, "s").await;
    ensure(&broker, "v", 1 << 20, EnsureMode::Warn).await;
    let [catalog, log] = &logs(&broker)[..] else { panic!("one data shard") };
    assert_eq!(log.files().len(), 1, "{:?}", log.files());
    until("the catalog's log goes", async || catalog.state().last_purged.is_some()).await;

    for cut in [false, true] {
        site.check(&broker, "s", &values(0..13)).await;
        let found = broker.streams.resolve(&name("s")).await.unwrap();
        assert_eq!(found.facts.spec.max_message_bytes, 2 << 20);
        assert!(broker.streams.entry(&name("t")).await.unwrap().is_none());
        for stream in ["u", "v"] {
            site.check(&broker, stream, &[]).await;
        }
        check_lives(&broker);
        if !cut {
            site.cut_power(broker).await;
            broker = site.start().await.unwrap();
        }
    }
    site.cut_power(broker).await;
}

/// One life, in which the disk is full after so many changes; whether it came to that.
async fn is_full_after(changes: u64, full: Full) -> bool {
    println!("full after {changes} changes");
    let site = Site::new();
    let broker = site.start().await.unwrap();
    site.disk.fill_after(changes, full);
    let acked = Cell::new(0);
    with_relief(&site, Box::pin(live(&site, broker, &acked))).await;
    site.disk.was_full()
}

/// Some time after something was refused there is room.
async fn with_relief(site: &Site, living: impl Future<Output = ()>) {
    let relief = async {
        site.disk.refused().await;
        sleep(FULL_TIME).await;
        site.disk.make_room();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = relief => {}
        lived = timeout(PATIENCE, living) => lived.expect("stuck"),
    }
}

/// One life that a power cut ends when the disk is full, and the next one, which begins on the full
/// disk; whether it came to that.
async fn is_cut_after(changes: u64, full: Full) -> bool {
    println!("full, and power is cut, after {changes} changes");
    let site = Site::new();
    let broker = site.start().await.unwrap();
    site.disk.fill_after(changes, full);
    let acked = Cell::new(0);
    tokio::select! {
        biased;
        () = site.disk.refused() => {}
        () = Box::pin(live(&site, broker, &acked)) => return site.disk.was_full(),
    }
    // The broker is gone, and its tasks follow.
    sleep(PAUSE).await;
    site.sim.crash(&CrashPlan::LoseAll);
    with_relief(&site, Box::pin(begin(&site, acked.get()))).await;
    true
}

/// A node starts at last, and has what was acknowledged and all that was not refused before.
async fn begin(site: &Site, acked: usize) {
    let broker = site.start_at_last().await;
    ensure(&broker, "s", 1 << 20, EnsureMode::Warn).await;
    let (found, error) = site.read(&broker, "s", 0).await;
    assert_eq!(error, None);
    // One was on its way.
    assert!((acked..=acked + 1).contains(&found.len()), "{} of {acked}", found.len());
    assert!(found == values(0..found.len()));
    let mut lane = Lane::open(site, &broker, "s", None).await;
    assert_eq!(lane.publish_at_last(&value(found.len())).await, found.len() as u64);
    seal(&broker, "s").await;
    site.check(&broker, "s", &values(0..found.len() + 1)).await;
    check_lives(&broker);
    site.cut_power(broker).await;
}

/// Lives with a disk that is full after 0, `step`, twice `step` … changes, until one never comes to that.
async fn at_any_moment(step: u64, is_full_after: impl AsyncFn(u64) -> bool) {
    let mut changes = 0;
    while is_full_after(changes).await {
        changes += step;
    }
    assert!(changes > 90, "{changes} changes are no life");
}

#[tokio::test(start_paused = true)]
async fn at_any_moment_the_disk_may_have_no_more_room() {
    at_any_moment(1, async |changes| is_full_after(changes, Full::More).await).await;
}

#[tokio::test(start_paused = true)]
async fn at_any_moment_the_disk_may_refuse_every_change() {
    at_any_moment(1, async |changes| is_full_after(changes, Full::All).await).await;
}

#[tokio::test(start_paused = true)]
async fn power_may_be_cut_when_the_disk_is_full() {
    for full in [Full::More, Full::All] {
        at_any_moment(3, async |changes| is_cut_after(changes, full).await).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_start_may_find_the_disk_full() {
    for full in [Full::More, Full::All] {
        for changes in 0.. {
            println!("full after {changes} changes");
            let site = Site::new();
            site.disk.fill_after(changes, full);
            with_relief(&site, Box::pin(begin(&site, 0))).await;
            if !site.disk.was_full() {
                assert!(changes > 10, "{changes} changes are no start");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_when_the_disk_fills_up_leaves_room_for_what_frees_space() {
    const PUBLISHERS: usize = 16;
    const BYTES: usize = 100_000;
    let record = |number: usize| {
        let mut record = value(number);
        record.resize(BYTES, b'.');
        record
    };
    let mut site = Site::new();
    (site.file_bytes, site.max_time_to_cold) = (1 << 20, Duration::from_secs(2));
    let broker = site.start().await.unwrap();
    ensure(&broker, "s", 1 << 20, EnsureMode::Warn).await;
    // Room for some files; whoever needs more must take it from what is in the bucket.
    site.sim.set_capacity(site.sim.used() + 3 * site.file_bytes);
    let mut lanes = Vec::new();
    for _ in 0..PUBLISHERS {
        lanes.push(Lane::open(&site, &broker, "s", None).await);
    }
    // By offset, where each of those that were acknowledged must be found.
    let mut acked = BTreeMap::new();
    let (mut begun, mut refused) = (0, 0);
    while acked.len() * BYTES < 16 << 20 {
        for lane in &mut lanes {
            lane.begin(&record(begun)).await;
            begun += 1;
        }
        for (number, lane) in (begun - PUBLISHERS..).zip(&mut lanes) {
            match timeout(PATIENCE, lane.end()).await.expect("stuck") {
                Ok(offset) => assert_eq!(acked.insert(offset, record(number)), None),
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::HotTierFull, "{error}");
                    refused += 1;
                    assert!(refused < 100 * PUBLISHERS * 10, "nothing is freed");
                    sleep(PAUSE / 10).await;
                }
            }
        }
    }
    check_lives(&broker);
    assert!(refused > 0, "the disk was never full");
    // What was refused is nowhere, so they are all there is.
    site.check(&broker, "s", &acked.into_values().collect::<Vec<_>>()).await;
}

/// Publishes until the log has some files and then no room for more: how many messages.
async fn fill(site: &Site, log: &ShardLog, lane: &mut Lane) -> usize {
    let mut next = 0;
    while log.files().len() < 4 {
        lane.publish(&value(next)).await.unwrap();
        next += 1;
    }
    site.sim.set_capacity(site.sim.used());
    while lane.publish(&value(next)).await.is_ok() {
        next += 1;
    }
    assert!(log.disk_full());
    next
}

#[tokio::test(start_paused = true)]
async fn what_clients_change_leaves_room_for_what_frees_space() {
    const ROUNDS: u32 = 500;
    /// Changes that find no room and may pass all the same: deletions.
    const PASS: u64 = 10;
    let new = |round: u32| format!("new{round}");
    let mut site = Site::new();
    site.max_time_to_cold = Duration::from_secs(100);
    let broker = site.start().await.unwrap();
    for stream in ["s", "t", "u", "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9"] {
        ensure(&broker, stream, 1 << 20, EnsureMode::Warn).await;
    }
    let log = logs(&broker)[1].clone();
    let mut lane = Lane::open(&site, &broker, "s", Some((1, 0))).await;
    let mut idle = Lane::open(&site, &broker, "s", Some((2, 0))).await;
    let mut leaves = Lane::open(&site, &broker, "t", Some((3, 0))).await;
    leaves.publish(b"x").await.unwrap();
    let next = fill(&site, &log, &mut lane).await;
    let last = || log.state().last.unwrap().index;
    let before = last();
    let is_full = |error: WireError| assert_eq!(error.code, ErrorCode::HotTierFull, "{error}");
    for round in 0..ROUNDS {
        let changed = wish("u", 1_000 + round, EnsureMode::Overwrite);
        is_full(broker.streams.ensure(changed).await.unwrap_err());
        let asked = wish(&new(round), 10, EnsureMode::Warn);
        is_full(broker.streams.ensure(asked).await.unwrap_err());
        // What was refused is not there, nor does it come later, nor take a name from others.
        assert!(broker.streams.entry(&name(&new(round))).await.unwrap().is_none());
        let deleted = broker.streams.delete(&name(&format!("d{}", round % 10))).await;
        if let Err(error) = deleted {
            use ErrorCode::{HotTierFull, StreamNotFound, Timeout};
            let told = [HotTierFull, StreamNotFound, Timeout];
            assert!(told.iter().any(|code| error.code == *code), "{error}");
        }
        is_full(leaves.unbind().await.unwrap_err());
        leaves.bind("t").await;
        // What changes nothing needs no room.
        idle.unbind().await.unwrap();
        idle.bind("s").await;
        let same = broker.streams.ensure(wish("u", 1 << 20, EnsureMode::Warn)).await.unwrap();
        assert_eq!(same.outcome, EnsureOutcome::Unchanged);
    }
    assert!(last() - before <= PASS, "{} changes", last() - before);
    assert!(log.disk_full());
    assert!(log.room() > site.file_bytes / 8, "{} bytes are left", log.room());
    // Nothing else makes room than what was left for that.
    let published = timeout(PATIENCE, lane.publish_at_last(&value(next))).await;
    assert_eq!(published.expect("there is room"), next as u64);
    check_lives(&broker);
    ensure(&broker, "u", 1_000, EnsureMode::Overwrite).await;
    again(async || leaves.unbind().await).await;
    site.check(&broker, "s", &values(0..next + 1)).await;
    // Whoever finishes what is half done has had time to.
    sleep(Duration::from_secs(30)).await;
    for round in 0..ROUNDS {
        assert!(broker.streams.entry(&name(&new(round))).await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_deleted_on_a_full_disk_in_many_lives_leaves_room_for_what_frees_space() {
    const STREAMS: usize = 400;
    const LIVES: usize = 8;
    let mut site = Site::new();
    site.max_time_to_cold = Duration::from_secs(1_000);
    let mut broker = site.start().await.unwrap();
    let deletable = |number: usize| name(&format!("d{number}"));
    for number in 0..STREAMS {
        ensure(&broker, &format!("d{number}"), 1 << 20, EnsureMode::Warn).await;
    }
    ensure(&broker, "s", 1 << 20, EnsureMode::Warn).await;
    let mut lane = Lane::open(&site, &broker, "s", Some((1, 0))).await;
    let log = logs(&broker)[1].clone();
    let next = fill(&site, &log, &mut lane).await;
    let (mut going, mut refused, mut half_done) = (BTreeSet::new(), BTreeSet::new(), 0);
    for _ in 0..LIVES {
        for number in 0..STREAMS {
            if going.contains(&number) {
                continue;
            }
            match broker.streams.delete(&deletable(number)).await {
                Err(error) if error.code == ErrorCode::HotTierFull => {
                    refused.insert(number);
                    continue;
                }
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::Timeout, "{error}");
                    assert!(matches!(error.retry, Retry::After(_)), "not at once: {error}");
                    half_done += 1;
                }
                Ok(_) => {}
            }
            going.insert(number);
        }
        refused.retain(|number| !going.contains(number));
        for log in logs(&broker) {
            assert!(log.room() > site.file_bytes / 8, "{} bytes are left", log.room());
        }
        site.cut_power(broker).await;
        site.sim.set_capacity(site.sim.used());
        broker = site.start_at_last().await;
        until("it serves", async || broker.streams.entry(&deletable(0)).await.is_ok()).await;
    }
    println!("{} go, {half_done} of them later, {} do not", going.len(), refused.len());
    assert!(half_done > 0 && going.len() > half_done && !refused.is_empty());
    // With room, what was told to go on goes, and what was refused is there.
    site.disk.make_room();
    let mut lane = Lane::open(&site, &broker, "s", Some((1, lane.sequence()))).await;
    let published = timeout(PATIENCE, lane.publish_at_last(&value(next))).await;
    assert_eq!(published.expect("there is room"), next as u64);
    sleep(Duration::from_secs(60)).await;
    for number in 0..STREAMS {
        let is_there = broker.streams.resolve(&deletable(number)).await.is_ok();
        assert_eq!(is_there, refused.contains(&number), "{number}");
    }
    check_lives(&broker);
    site.check(&broker, "s", &values(0..next + 1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_comes_late_frees_space_and_the_next_one_has_room() {
    let site = Site::new();
    let broker = site.start().await.unwrap();
    ensure(&broker, "s", 1 << 20, EnsureMode::Warn).await;
    let log = logs(&broker)[1].clone();
    let mut lane = Lane::open(&site, &broker, "s", None).await;
    let next = fill(&site, &log, &mut lane).await;
    // The checkpoint that the cut asks for is not there when the floor has risen.
    let fault = Fault { op: SimOp::Rename, after: 0, kind: ErrorKind::StorageFull };
    (0..3).for_each(|_| site.sim.fail(fault.clone()));
    broker.streams.seal(&name("s"), false).await.unwrap();
    assert!(log.disk_full());
    until("the log gives up what is in the bucket", async || log.files().len() < 4).await;
    assert_eq!(site.sim.faults_left(), 0);
    sleep(PAUSE).await;
    // As much as at first is held back for the next one.
    let reserve = site.sim.contents("shards/1/checkpoints/reserve").map(|bytes| bytes.len());
    assert_eq!(reserve, Some(1 << 20));
    let published = timeout(PATIENCE, lane.publish_at_last(&value(next))).await;
    assert_eq!(published.expect("there is room"), next as u64);
    check_lives(&broker);
    site.check(&broker, "s", &values(0..next + 1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_full_disk_takes_is_judged_by_the_file_that_there_is() {
    let mut site = Site::new();
    (site.file_bytes, site.max_time_to_cold) = (256 << 10, Duration::from_secs(1_000));
    let broker = site.start().await.unwrap();
    for stream in ["s", "t"] {
        ensure(&broker, stream, 1 << 20, EnsureMode::Warn).await;
    }
    let mut lane = Lane::open(&site, &broker, "s", None).await;
    site.sim.set_capacity(site.sim.used());
    while lane.publish(&value(0)).await.is_ok() {}
    site.cut_power(broker).await;
    // It may be less than what would be kept of one that is made from now on.
    site.file_bytes = 16 << 20;
    site.sim.set_capacity(site.sim.used());
    let broker = site.start_at_last().await;
    until("it notices", async || logs(&broker)[1].disk_full()).await;
    broker.streams.delete(&name("t")).await.unwrap();
    let changed = wish("s", 1_000, EnsureMode::Overwrite);
    let refused = broker.streams.ensure(changed).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::HotTierFull, "{refused}");
    check_lives(&broker);
}

#[tokio::test(start_paused = true)]
async fn who_wants_log_files_freed_is_told_that_no_checkpoint_had_room() {
    let site = Site::new();
    let broker = site.start().await.unwrap();
    ensure(&broker, "s", 1 << 20, EnsureMode::Warn).await;
    let mut lane = Lane::open(&site, &broker, "s", None).await;
    lane.publish(&value(0)).await.unwrap();
    // What somebody has done who looked for room.
    site.sim.remove("shards/1/checkpoints/reserve".as_ref()).unwrap();
    site.sim.set_capacity(site.sim.used());
    let refused = broker.streams.seal(&name("s"), true).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::HotTierFull, "{refused}");
    check_lives(&broker);
    site.disk.make_room();
    assert!(again(async || broker.streams.seal(&name("s"), true).await).await.files_retired > 0);
    site.check(&broker, "s", &values(0..1)).await;
}
