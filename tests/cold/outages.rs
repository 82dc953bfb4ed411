//! The bucket fails while the node runs: publishing and hot reading go on, the failure shows, and
//! the backlog drains by itself (T-3).

use std::time::Duration;

use railgun_client::{
    AdminError, Client, ErrorCode, Message, Offset, StartPosition, SubscribeError, WireCode,
};
use railgun_cold::testing::{Conditions, Fault, Operation};
use railgun_testkit::{NodeOptions, TestNode};

use crate::records::{bulky, message, publish, read, replay_all};
use crate::store::{BUNDLES, DATA, MANIFESTS, Rule, SEGMENTS, Store};
use crate::{LIMIT, drained, eventually, name, publisher, retire, seal};

/// Time in which an upload that fails has failed.
const SOON: Duration = Duration::from_millis(300);

/// Uploads fail as `rule` says for a while; nobody but the upload notices.
async fn outlasts(rule: Rule) {
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(store.node()).await;
    let client = node.client().await;
    let orders = publisher(&client, "orders").await;
    let mut told = publish(&orders, (0..50).map(message)).await;
    store.fail([rule.clone()]);
    let sealed = client.admin().seal_stream(&name("orders"), false, SOON).await;
    let Err(AdminError::Refused(error)) = sealed else { panic!("{rule:?}: {sealed:?}") };
    assert_eq!(error.code, WireCode::Known(ErrorCode::Timeout), "{rule:?}");
    let admin = client.admin();
    eventually("the failure shows", || async {
        admin.describe_stream(&name("orders")).await.expect("described").offload_error.is_some()
    })
    .await;
    told.extend(publish(&orders, (50..100).map(message)).await);
    assert_eq!(read(&client, "orders", StartPosition::Earliest).await.0, told, "{rule:?}");
    store.heal();
    // What was sealed drains; what came later waits for its own cut.
    eventually("the backlog drains", || async {
        let told = admin.describe_stream(&name("orders")).await.expect("described");
        told.cold_end == Offset(50) && told.offload_error.is_none()
    })
    .await;
    retire(&client, "orders").await;
    drained(&client, "orders").await;
    assert_eq!(
        read(&client, "orders", StartPosition::Earliest).await,
        (told.clone(), vec!["cold"])
    );
    assert_eq!(replay_all(&store.bucket, "orders").await, told, "{rule:?}");
    assert_eq!(store.keys(DATA).await.len(), 2, "{rule:?}: no upload was doubled");
}

#[tokio::test(flavor = "multi_thread")]
async fn access_that_is_denied() {
    outlasts(Rule::new(Operation::Put, DATA, Fault::Denied)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_found() {
    outlasts(Rule::new(Operation::Put, DATA, Fault::Missing)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_throttles() {
    outlasts(Rule::new(Operation::Put, DATA, Fault::SlowDown)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_acknowledged_and_is_not_there() {
    outlasts(Rule::new(Operation::Put, DATA, Fault::Pretended)).await;
}

/// The store says yes to an object and keeps something else under its key. That one is not ours, now
/// or later: the records stay where they are.
async fn is_stored_otherwise(messages: Vec<Message>, part: &str, fault: Fault) {
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(store.node()).await;
    let client = node.client().await;
    let told = publish(&publisher(&client, "orders").await, messages).await;
    store.fail([Rule::new(Operation::Put, part, fault)]);
    for _ in 0..2 {
        let sealed = client.admin().seal_stream(&name("orders"), true, SOON).await;
        let Err(AdminError::Refused(error)) = sealed else { panic!("{fault:?}: {sealed:?}") };
        assert_eq!(error.code, WireCode::Known(ErrorCode::Timeout), "{fault:?}");
        let admin = client.admin();
        eventually("the failure shows", || async {
            let told = admin.describe_stream(&name("orders")).await.expect("described");
            assert_eq!(told.cold_end, Offset(0), "{fault:?}");
            told.offload_error.is_some_and(|error| error.contains("another content"))
        })
        .await;
        store.heal();
    }
    assert_eq!(store.keys(part).await.len(), 1, "{fault:?}");
    client.close().await;
    // The log alone has them.
    let node = node.crash(store.node()).await;
    let client = node.client().await;
    let (seen, sources) = read(&client, "orders", StartPosition::Earliest).await;
    assert_eq!(seen, told, "{fault:?}");
    assert!(!sources.contains(&"cold"), "{fault:?}: {sources:?}");
    assert_eq!(replay_all(&store.bucket, "orders").await, [], "{fault:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_object_that_is_stored_short_or_otherwise() {
    for fault in [Fault::CutAt(1000), Fault::FlippedByte(1000), Fault::FlippedByte(u64::MAX)] {
        is_stored_otherwise((0..50).map(message).collect(), BUNDLES, fault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_that_is_stored_short_or_with_another_end() {
    for fault in [Fault::CutAt(4 << 20), Fault::FlippedByte(u64::MAX)] {
        is_stored_otherwise((0..5).map(|n| bulky(n, 900 << 10)).collect(), SEGMENTS, fault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_cannot_be_written() {
    // The range is committed but not mirrored: `seal` has not ended, and no log file may go.
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(store.node()).await;
    let client = node.client().await;
    let told = publish(&publisher(&client, "orders").await, (0..50).map(message)).await;
    store.fail([Rule::new(Operation::Put, MANIFESTS, Fault::Internal)]);
    let sealed = client.admin().seal_stream(&name("orders"), true, SOON).await;
    assert!(matches!(sealed, Err(AdminError::Refused(_))), "{sealed:?}");
    let seen = read(&client, "orders", StartPosition::Earliest).await;
    assert_eq!(seen, (told.clone(), vec!["ring"]));
    store.heal();
    retire(&client, "orders").await;
    assert_eq!(replay_all(&store.bucket, "orders").await, told);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_costs_nothing() {
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(store.node()).await;
    let client = node.client().await;
    store.fail([Rule::new(Operation::Put, "", Fault::AnswerLost)]);
    let told = publish(&publisher(&client, "orders").await, (0..50).map(message)).await;
    retire(&client, "orders").await;
    assert_eq!(read(&client, "orders", StartPosition::Earliest).await, (told, vec!["cold"]));
    assert_eq!(store.keys(DATA).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_away_stops_cold_readers_only() {
    let store = Store::new(Conditions::Honoured);
    let node = TestNode::start_with(store.node()).await;
    let client = node.client().await;
    let orders = publisher(&client, "orders").await;
    let mut told = publish(&orders, (0..50).map(message)).await;
    retire(&client, "orders").await;
    store.fail([Rule::all(Fault::SlowDown)]);
    told.extend(publish(&orders, (50..100).map(message)).await);
    let hot = read(&client, "orders", StartPosition::Offset(Offset(50))).await;
    assert_eq!(hot, (told[50..].to_vec(), vec!["ring"]));
    let code = refusal(&client, "orders", 0).await;
    assert_eq!(code, WireCode::Known(ErrorCode::ColdUnavailable));
    store.heal();
    let all = read(&client, "orders", StartPosition::Earliest).await;
    assert_eq!(all, (told, vec!["cold", "ring"]));
    seal(&client, "orders").await;
}

/// Why reading from `offset` ends.
pub(crate) async fn refusal(client: &Client, stream: &str, offset: u64) -> WireCode {
    let reader = client.subscribe(name(stream)).start(StartPosition::Offset(Offset(offset)));
    let failing = async {
        let mut reader = reader.until_end().give_up_after(Duration::ZERO).open().await?;
        while reader.next().await?.is_some() {}
        Ok(())
    };
    // A reader that goes on trying has not given up as it was told to.
    match tokio::time::timeout(LIMIT, failing).await.expect("it gives up") {
        Err(SubscribeError::Refused { error, .. }) => error.code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_files_do_not_pile_up_while_an_upload_hangs() {
    const MIB: u64 = 1 << 20;
    let store = Store::new(Conditions::Honoured);
    let options = NodeOptions { hot_bytes_max: 8 * MIB, log_file_bytes: Some(MIB), ..store.node() };
    let node = TestNode::start_with(options).await;
    let client = node.client().await;
    let orders = publisher(&client, "orders").await;
    publish(&orders, (0..60).map(|n| bulky(n, 100 << 10))).await;
    seal(&client, "orders").await;
    // By the second mirror a checkpoint of the first cut is there, up to which Raft gives up the log.
    publish(&orders, [message(0)]).await;
    seal(&client, "orders").await;
    // What is in the bucket may stay as a cache; it goes when the budget is spent on what is not.
    store.fail([Rule::new(Operation::Put, DATA, Fault::Hangs)]);
    publish(&orders, (60..120).map(|n| bulky(n, 100 << 10))).await;
    let dir = node.data_dir().join("shards/1/log");
    let file_bytes = || -> u64 {
        let files = std::fs::read_dir(&dir).expect("listed").filter_map(Result::ok);
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    };
    eventually("the log keeps its budget", || async {
        // The last batch of a file ends before it does, and one more is preallocated.
        file_bytes() <= 10 * MIB + MIB / 2
    })
    .await;
    assert!(file_bytes() >= 5 * MIB, "what is not in the bucket stays");
}
