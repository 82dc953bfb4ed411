//! A disk that fails: what it holds is not known, so nothing more is acknowledged and the node ends. A
//! restart finds everything that was.

use std::io::ErrorKind;
use std::path::Path;

use railgun_log::{Fault, SimOp};

use super::scarce::Among;
use super::site::{Lane, PATIENCE, PAUSE, Site, check_lives, value, values};
use super::*;

/// A node that cannot go on says so within this time.
const SOON: Duration = Duration::from_secs(1);
/// Longer than until a log that is quiet marks itself.
const QUIET: Duration = Duration::from_secs(2);
const MESSAGES: usize = 8;

fn fail(site: &Site, op: SimOp, after: u64) {
    site.sim.fail(Fault { op, after, kind: ErrorKind::Other });
}

async fn failure(broker: &Broker) -> NodeFailure {
    timeout(SOON, broker.failed()).await.expect("the node has failed")
}

/// It says what could not be done, and where.
fn check_reason(failure: &NodeFailure) {
    let NodeFailure::Disk { reason } = failure else { panic!("{failure}") };
    assert!(reason.starts_with("could not sync shards/1/log/"), "{reason}");
    assert!(reason.ends_with(": other error"), "{reason}");
}

/// Nobody knows, or it was not written: what a failed node may say.
fn check_code(error: &WireError) {
    let codes = [ErrorCode::OutcomeUnknown, ErrorCode::Unavailable];
    assert!(codes.iter().any(|code| error.code == *code), "{error}");
}

/// Nobody is acknowledged anything any more.
async fn check_refuses(site: &Site, broker: &Broker, stream: &str) {
    let mut lane = Lane::open(site, broker, stream, None).await;
    check_code(&lane.publish(b"late").await.expect_err("acknowledged by a disk that failed"));
    // It has turned out by now that nothing is written any more.
    sleep(PAUSE).await;
    let error = lane.publish(b"late").await.expect_err("acknowledged by a disk that failed");
    assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_sync_that_fails_is_told_that_nobody_knows() {
    let site = Site::new();
    let broker = site.start().await.unwrap();
    broker.streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    let mut lane = Lane::open(&site, &broker, "s", Some((1, 0))).await;
    lane.publish(&value(0)).await.unwrap();
    check_lives(&broker);
    fail(&site, SimOp::Sync, 0);
    let begin = Instant::now();
    for number in 1..MESSAGES {
        lane.begin(&value(number)).await;
    }
    let mut unknown = 0;
    for _ in 1..MESSAGES {
        let error = timeout(SOON, lane.end()).await.expect("told").unwrap_err();
        check_code(&error);
        unknown += usize::from(error.code == ErrorCode::OutcomeUnknown);
    }
    assert!(unknown > 0, "the first of them was on its way to the disk");
    check_reason(&failure(&broker).await);
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());

    check_refuses(&site, &broker, "s").await;
    let wish = wish("late", 10, EnsureMode::Warn);
    assert!(broker.streams.ensure(wish).await.is_err());
    // Nothing is waited for.
    timeout(SOON, broker.shutdown(Duration::ZERO)).await.expect("a failed node ends at once");
    site.cut_power(broker).await;
    let broker = site.start().await.unwrap();
    let (found, error) = site.read(&broker, "s", 0).await;
    assert_eq!(error, None);
    // Those of which nobody knew are there or not, in order.
    assert!((1..=1 + unknown).contains(&found.len()), "{} of {unknown}", found.len());
    assert!(found == values(0..found.len()));
    assert!(broker.streams.entry(&name("late")).await.unwrap().is_none_or(|late| {
        // Nobody knew of this one, either.
        late.phase != Phase::Active
    }));
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_was_told_to_be_forgotten_is_and_nothing_is_taken_for_a_repetition() {
    let mut outcomes = [0, 0];
    // The sync of its entry fails, then one behind that.
    for after in 0..3 {
        let site = Site::new();
        let broker = site.start().await.unwrap();
        broker.streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
        let mut lane = Lane::open(&site, &broker, "s", Some((1, 0))).await;
        lane.publish(b"first").await.unwrap();
        fail(&site, SimOp::Sync, after);
        let told = timeout(SOON, lane.unbind()).await.expect("told");
        site.cut_power(broker).await;
        let broker = site.start().await.unwrap();
        let mut again = Lane::open(&site, &broker, "s", Some((1, lane.sequence()))).await;
        let published = again.publish(b"other").await;
        match &told {
            Ok(()) => outcomes[0] += 1,
            Err(error) => {
                // Nobody knows: its client leaves this producer. Here it goes on.
                assert_eq!(error.code, ErrorCode::OutcomeUnknown, "{error}");
                outcomes[1] += 1;
            }
        }
        assert_eq!(published, Ok(1), "{told:?}");
        let (found, _) = site.read(&broker, "s", 0).await;
        assert_eq!(found, [b"first".to_vec(), b"other".to_vec()], "{told:?}");
    }
    assert!(outcomes.iter().all(|&outcome| outcome > 0), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_sync_that_nobody_waits_for_ends_the_node_too() {
    let site = Site::new();
    let broker = site.start().await.unwrap();
    broker.streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    sleep(QUIET).await;
    let mut lane = Lane::open(&site, &broker, "s", None).await;
    lane.publish(&value(0)).await.unwrap();
    // Everything is answered; what comes is the mark that says so on the disk.
    fail(&site, SimOp::Sync, 0);
    sleep(QUIET).await;
    assert_eq!(site.sim.faults_left(), 0);
    check_reason(&failure(&broker).await);
}

/// What a failed operation has brought about.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// There are not so many operations.
    Not,
    /// The node went on, and it was not needed.
    Passed,
    Failed,
}

/// A life in which one operation of the disk on one of these files fails.
async fn life(op: SimOp, after: u64, among: Among) -> Came {
    println!("{op:?} fails after {after}");
    let site = Site::new();
    let broker = site.start().await.unwrap();
    broker.streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    let mut lane = Lane::open(&site, &broker, "s", Some((1, 0))).await;
    site.disk.fail_after(op, after, among);
    let mut acked = 0;
    let refused = async {
        for number in 0..MESSAGES {
            match lane.publish(&value(number)).await {
                Ok(offset) => assert_eq!(offset, number as u64),
                Err(error) => return Some(error),
            }
            acked = number + 1;
            if acked % 3 == 0 {
                sleep(QUIET).await;
            }
            if acked % 4 == 0 {
                // Whether it works or not.
                broker.streams.seal(&name("s"), true).await.ok();
            }
        }
        sleep(QUIET).await;
        None
    };
    let failed = tokio::select! {
        failed = broker.failed() => Some(failed),
        refused = timeout(PATIENCE, refused) => match refused.expect("stuck") {
            Some(error) => {
                check_code(&error);
                Some(failure(&broker).await)
            }
            None => None,
        },
    };
    if let Some(failed) = &failed {
        let NodeFailure::Disk { reason } = failed else { panic!("{failed}") };
        assert!(reason.ends_with(": other error"), "{reason}");
        // The log lives where a checkpoint failed: what it acknowledges until the end is kept.
        let is_log = reason.contains("/log");
        assert!(is_log || reason.starts_with("checkpoint file shards/"), "{reason}");
        if is_log {
            check_refuses(&site, &broker, "s").await;
        }
    }
    let came = if !site.disk.has_failed() {
        Came::Not
    } else if failed.is_some() {
        Came::Failed
    } else {
        Came::Passed
    };
    timeout(PATIENCE, broker.shutdown(Duration::ZERO)).await.expect("it ends");
    site.cut_power(broker).await;
    let broker = site.start().await.unwrap();
    let (found, error) = site.read(&broker, "s", 0).await;
    assert_eq!(error, None);
    let most = if failed.is_some() { acked + 1 } else { acked };
    assert!((acked..=most).contains(&found.len()), "{} instead of {acked}", found.len());
    assert!(found == values(0..found.len()));
    site.cut_power(broker).await;
    came
}

/// How often the node has failed and passed, whichever of its operations of this kind failed.
async fn lives(op: SimOp, among: Among) -> [u64; 2] {
    let mut counts = [0, 0];
    for after in 0.. {
        match life(op, after, among).await {
            Came::Not => break,
            Came::Passed => counts[1] += 1,
            Came::Failed => counts[0] += 1,
        }
    }
    counts
}

/// What a node can do without, or makes anew: the room that is held back for a checkpoint, and where in
/// a log file batches are.
fn spare(path: &Path) -> bool {
    path.ends_with("reserve") || path.extension().is_some_and(|kind| kind == "pos")
}

/// All that lies in the directory of a log.
fn with_log(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "log")
}

fn log(path: &Path) -> bool {
    with_log(path) && !spare(path)
}

fn checkpoint(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "checkpoints") && !spare(path)
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_of_a_log_the_node_ends_and_nothing_acknowledged_is_lost() {
    let many = MESSAGES as u64;
    let changes: [(_, Among, _); 6] = [
        (SimOp::Sync, log, many),
        (SimOp::Write, log, many),
        (SimOp::Create, log, 1),
        (SimOp::Rename, log, 1),
        (SimOp::Remove, with_log, 1),
        (SimOp::SyncDir, log, 1),
    ];
    for (op, among, least) in changes {
        let [failed, passed] = lives(op, among).await;
        assert!(failed >= least && passed == 0, "{op:?}: {failed} and {passed}");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_of_a_checkpoint_the_node_ends_and_nothing_acknowledged_is_lost() {
    for op in [SimOp::Sync, SimOp::Write, SimOp::Rename, SimOp::SyncDir] {
        let [failed, passed] = lives(op, checkpoint).await;
        assert!(failed > 0 && passed == 0, "{op:?}: {failed} and {passed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_cannot_be_opened_or_removed_ends_nobody() {
    for op in [SimOp::Create, SimOp::Open, SimOp::Remove] {
        let [failed, passed] = lives(op, checkpoint).await;
        assert!(failed == 0 && passed > 0, "{op:?}: {failed} and {passed}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_be_done_without_may_fail() {
    let mut all = 0;
    for op in [SimOp::Sync, SimOp::Write, SimOp::Create, SimOp::Resize] {
        let [failed, passed] = lives(op, spare).await;
        assert_eq!(failed, 0, "{op:?}");
        all += passed;
    }
    assert!(all > 0);
}
