//! Bytes that change under a node: what has changed is not served, what has not is.

use std::path::PathBuf;

use railgun_log::Disk;
use railgun_types::{Offset, ShardId};

use super::site::{Lane, PAUSE, Site, check_lives, logs, until, value, values};
use super::*;

const RECORDS: usize = 6;
/// The one that rots.
const ROTTEN: usize = 3;

/// Where the message `number` of these lies in the log of the shard.
fn find(site: &Site, log: &ShardLog, number: usize) -> (PathBuf, usize) {
    let value = value(number);
    let found = log.files().into_iter().find_map(|file| {
        let bytes = site.sim.contents(&file.path)?;
        let at = bytes.windows(40).position(|window| *window == value[..40])?;
        Some((file.path, at))
    });
    found.expect("it is in the log")
}

/// Two streams on different shards.
async fn two_streams(broker: &Broker) -> [(&'static str, ShardId); 2] {
    let mut found = Vec::new();
    for stream in ["s", "a", "b", "c", "d", "e", "f", "g", "h"] {
        broker.streams.ensure(wish(stream, 1 << 20, EnsureMode::Warn)).await.unwrap();
        let shard = broker.streams.resolve(&name(stream)).await.unwrap().shard.id();
        found.push((stream, shard));
    }
    let first = found[0];
    let other = found.into_iter().find(|(_, shard)| *shard != first.1);
    [first, other.expect("streams are spread")]
}

async fn publish(site: &Site, broker: &Broker, stream: &str, numbers: std::ops::Range<usize>) {
    let mut lane = Lane::open(site, broker, stream, None).await;
    for number in numbers {
        assert_eq!(lane.publish(&value(number)).await, Ok(number as u64));
    }
}

#[tokio::test(start_paused = true)]
async fn what_rots_in_the_log_is_read_from_the_bucket_if_it_is_there() {
    let site = Site::new();
    let broker = site.start().await.unwrap();
    broker.streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    publish(&site, &broker, "s", 0..RECORDS).await;
    broker.streams.seal(&name("s"), false).await.unwrap();
    publish(&site, &broker, "s", RECORDS..RECORDS + 2).await;
    let log = &logs(&broker)[1];
    for rotten in [ROTTEN, RECORDS + 1] {
        let (path, at) = find(&site, log, rotten);
        assert!(site.sim.flip(&path, at + 1_000, 4));
    }
    let (read, error) = site.read(&broker, "s", 0).await;
    assert!(read == values(0..RECORDS + 1), "{} records", read.len());
    assert_eq!(error.expect("the last one is nowhere else").code, ErrorCode::HotCorrupt);
    check_lives(&broker);
}

#[tokio::test(start_paused = true)]
async fn a_rotten_record_is_not_served_and_those_before_and_behind_it_are() {
    let site = Site::new();
    let broker = site.start().await.unwrap();
    for stream in ["s", "t"] {
        broker.streams.ensure(wish(stream, 1 << 20, EnsureMode::Warn)).await.unwrap();
    }
    publish(&site, &broker, "s", 0..RECORDS).await;
    publish(&site, &broker, "t", 0..2).await;
    // Has read on, and given that up for want of credit, when the record rots.
    let mut follower = Follower::begin_with(&site.network, &broker, 1).await;
    assert_eq!(follower.delivered().await, 0);
    sleep(HELD_TIME * 2).await;
    let (path, at) = find(&site, &logs(&broker)[1], ROTTEN);
    assert!(site.sim.flip(&path, at + 1_000, 4));
    follower.credit(u64::MAX >> 1).await;
    for offset in 1..ROTTEN {
        assert_eq!(follower.delivered().await, offset as u64);
    }
    let error = follower.line.1.next_of::<v1::Error>().await.unwrap().unwrap();
    let error = WireError::from(error);
    assert_eq!(error.code, ErrorCode::HotCorrupt);
    assert!(error.message.contains(&path.display().to_string()), "{error}");

    let (before, error) = site.read(&broker, "s", 0).await;
    assert!(before == values(0..ROTTEN) && error.is_some(), "{} before it", before.len());
    let (behind, error) = site.read(&broker, "s", ROTTEN as u64 + 1).await;
    assert!(behind == values(ROTTEN + 1..RECORDS) && error.is_none(), "{} behind it", behind.len());
    // Nobody else notices.
    publish(&site, &broker, "t", 2..4).await;
    site.check(&broker, "t", &values(0..4)).await;
    check_lives(&broker);
}

#[tokio::test(start_paused = true)]
async fn a_rotten_record_is_not_uploaded_and_told() {
    let mut site = Site::new();
    site.shards = 2;
    let broker = site.start().await.unwrap();
    let [(rotten, on), (other, _)] = two_streams(&broker).await;
    publish(&site, &broker, rotten, 0..RECORDS).await;
    publish(&site, &broker, other, 0..RECORDS).await;
    let (path, at) = find(&site, &logs(&broker)[on.0 as usize], ROTTEN);
    assert!(site.sim.flip(&path, at + 1_000, 4));

    let facts = async || broker.streams.resolve(&name(rotten)).await.unwrap().facts;
    let failing = async || {
        let figures = broker.figures();
        let failing: Vec<_> = figures.iter().filter(|f| f.offload_failing).collect();
        failing.iter().any(|figures| figures.shard == on) && failing.len() == 1
    };
    let sealed = {
        let streams = broker.streams.clone();
        tokio::spawn(async move { streams.seal(&name(rotten), false).await })
    };
    until("the figures tell of it", failing).await;
    let told = facts().await;
    let error = told.offload_error.expect("told");
    assert!(error.contains(&path.display().to_string()), "{error}");
    assert_eq!((told.cold_end, told.next), (Offset(0), Offset(RECORDS as u64)));
    // The other shard's records go to the bucket, and this one takes more.
    broker.streams.seal(&name(other), true).await.unwrap();
    site.check(&broker, other, &values(0..RECORDS)).await;
    publish(&site, &broker, rotten, RECORDS..RECORDS + 2).await;
    sleep(Duration::from_secs(60)).await;
    assert!(failing().await && !sealed.is_finished());
    assert_eq!(facts().await.cold_end, Offset(0));
    check_lives(&broker);

    // It goes on by itself when the bytes are what they were.
    assert!(site.sim.flip(&path, at + 1_000, 4));
    timeout(Duration::from_secs(30), sealed).await.expect("it goes on").unwrap().unwrap();
    assert_eq!(facts().await.offload_error, None);
    broker.streams.seal(&name(rotten), true).await.unwrap();
    site.check(&broker, rotten, &values(0..RECORDS + 2)).await;
}

/// Files of the shard's checkpoints, oldest first.
fn checkpoints(site: &Site, shard: u32) -> Vec<PathBuf> {
    let dir = PathBuf::from(format!("shards/{shard}/checkpoints"));
    let names = site.sim.list(&dir).unwrap().into_iter();
    let named = |name: &String| name.ends_with(".ckpt") || name.ends_with(".snap");
    names.filter(named).map(|name| dir.join(name)).collect()
}

/// Changes one byte at each of some places of the files that there are then, and back if a file was left
/// where it is.
async fn at_some_places(
    site: &Site,
    which: impl Fn() -> Vec<PathBuf>,
    mut look: impl AsyncFnMut(),
) {
    for eighths in [0, 1, 4, 7] {
        let paths = which();
        let bytes = paths.iter().map(|path| site.sim.contents(path).unwrap().len()).min();
        let at = bytes.expect("there is one") * eighths / 8 + eighths;
        paths.iter().for_each(|path| assert!(site.sim.flip(path, at, 0x10)));
        look().await;
        for path in paths.iter().filter(|path| site.sim.contents(path).is_some()) {
            assert!(site.sim.flip(path, at, 0x10));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotten_checkpoint_is_stood_in_for_by_what_is_left() {
    let site = Site::new();
    let broker = site.start().await.unwrap();
    broker.streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    publish(&site, &broker, "s", 0..2).await;
    let shard = broker.streams.resolve(&name("s")).await.unwrap().shard.here().unwrap().clone();
    shard.checkpoint().await.unwrap().unwrap();
    site.cut_power(broker).await;
    // The log still has everything.
    let starts = async |count: usize| {
        let broker = site.start().await.unwrap();
        site.check(&broker, "s", &values(0..count)).await;
        site.cut_power(broker).await;
    };
    let all = || checkpoints(&site, 1);
    assert_eq!(all().len(), 1, "{:?}", all());
    at_some_places(&site, all, async || {
        starts(2).await;
        assert!(all().is_empty(), "it is set aside: {:?}", all());
        let broker = site.start().await.unwrap();
        let shard = broker.streams.resolve(&name("s")).await.unwrap().shard.here().unwrap().clone();
        shard.checkpoint().await.unwrap().unwrap();
        site.cut_power(broker).await;
    })
    .await;

    // Now part of it is only in the bucket, and what tells of that in checkpoints.
    let broker = site.start().await.unwrap();
    broker.streams.seal(&name("s"), true).await.unwrap();
    publish(&site, &broker, "s", 2..4).await;
    let shard = broker.streams.resolve(&name("s")).await.unwrap().shard.here().unwrap().clone();
    shard.checkpoint().await.unwrap().unwrap();
    publish(&site, &broker, "s", 4..6).await;
    site.cut_power(broker).await;
    let both = all();
    let is_promoted = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "snap");
    assert!(is_promoted(&both[0]) && !is_promoted(both.last().unwrap()), "{both:?}");
    at_some_places(&site, || all()[..1].to_vec(), async || starts(6).await).await;
    at_some_places(&site, all, async || {
        let refused = site.start().await.unwrap_err();
        assert!(
            matches!(&refused, StartError::Restore { shard, reason }
                if shard.0 == 1 && reason.contains("shards/1/checkpoints")),
            "{refused}"
        );
        // Its tasks are gone before the next one.
        sleep(PAUSE).await;
    })
    .await;
    // One by one they are set aside, until the snapshot is all that is left.
    while all().len() > 1 {
        let newest = all().pop().unwrap();
        assert!(site.sim.flip(&newest, 100, 0x10));
        starts(6).await;
        assert!(!all().contains(&newest), "{:?}", all());
    }
    assert_eq!(all(), both[..1]);
    starts(6).await;
}

#[tokio::test(start_paused = true)]
async fn without_the_catalogs_checkpoint_nothing_starts_and_no_name_is_lost() {
    let site = Site::new();
    let broker = site.start().await.unwrap();
    let ensure = async |broker: &Broker, stream: &str| {
        broker.streams.ensure(wish(stream, 10, EnsureMode::Warn)).await.unwrap().stream_uid
    };
    let mut uids = vec![("s", ensure(&broker, "s").await)];
    // So long until a quiet log is checkpointed and given up.
    for stream in ["t", "u"] {
        sleep(Duration::from_secs(6)).await;
        uids.push((stream, ensure(&broker, stream).await));
        let catalog = logs(&broker)[0].clone();
        until("the catalog's log goes", async || catalog.state().last_purged.is_some()).await;
    }
    site.cut_power(broker).await;
    let all = checkpoints(&site, 0);
    let newest = all.last().unwrap().clone();
    let starts = async || {
        let broker = site.start().await.unwrap();
        for (stream, uid) in &uids {
            let found = broker.streams.resolve(&name(stream)).await.unwrap();
            assert_eq!(found.stream, *uid);
        }
        site.cut_power(broker).await;
    };
    // An older one, which may be there again after a power cut, is of no use without the log.
    for damaged in [vec![newest], all] {
        at_some_places(
            &site,
            || damaged.clone(),
            async || {
                let refused = site.start().await.unwrap_err();
                assert!(
                    matches!(&refused, StartError::Restore { shard, reason }
                    if shard.0 == 0 && reason.contains("shards/0/checkpoints")),
                    "{refused}"
                );
                sleep(PAUSE).await;
            },
        )
        .await;
    }
    starts().await;
}
