use railgun_client::{
    AdminError, EnsureMode, EnsureOptions, EnsureOutcome, ErrorCode, SpecPatch, StartPosition,
};
use railgun_testkit::TestNode;

use crate::{drain, name, publish_numbers, publisher};

fn code(error: AdminError) -> Option<ErrorCode> {
    match error {
        AdminError::Refused(error) => match error.code {
            railgun_client::WireCode::Known(code) => Some(code),
            railgun_client::WireCode::Unknown(_) => None,
        },
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ensure_creates_compares_and_changes() {
    // EN-1 … EN-4, EN-6
    let node = TestNode::start().await;
    let admin = node.client().await.admin();
    let wish = |bytes| SpecPatch { max_message_bytes: Some(bytes), ..SpecPatch::default() };
    let with = |mode| EnsureOptions { mode, ..EnsureOptions::default() };
    let orders = name("orders");
    let absent = admin.ensure_stream(&orders, wish(10), with(EnsureMode::Check)).await;
    assert_eq!(absent.map_err(code).err().flatten(), Some(ErrorCode::StreamNotFound));
    let made = admin.ensure_stream(&orders, wish(10), with(EnsureMode::Warn)).await.expect("made");
    assert_eq!((made.outcome, made.revision), (EnsureOutcome::Created, 1));
    let same = admin.ensure_stream(&orders, wish(10), with(EnsureMode::Check)).await.expect("same");
    assert_eq!(same.outcome, EnsureOutcome::Unchanged);
    let drift =
        admin.ensure_stream(&orders, wish(20), with(EnsureMode::Warn)).await.expect("drift");
    assert!(matches!(&drift.outcome, EnsureOutcome::Drift(diff) if diff[0].wanted == "20"));
    let changed = admin.ensure_stream(&orders, wish(20), with(EnsureMode::Overwrite)).await;
    assert_eq!(changed.expect("changed").revision, 2);
    let stale = EnsureOptions { if_revision: Some(1), ..with(EnsureMode::Overwrite) };
    let stale = admin.ensure_stream(&orders, wish(30), stale).await;
    assert_eq!(stale.map_err(code).err().flatten(), Some(ErrorCode::RevisionConflict));
    let described = admin.describe_stream(&orders).await.expect("described");
    assert_eq!((described.spec.max_message_bytes, described.revision), (20, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_stream_frees_its_name_and_ends_its_readers() {
    let node = TestNode::start().await;
    let client = node.client().await;
    let admin = client.admin();
    let doomed = publisher(&client, "doomed").await;
    publish_numbers(&doomed, 0..10).await;
    let first = admin.describe_stream(&name("doomed")).await.expect("there").uid;
    let mut reader = client
        .subscribe(name("doomed"))
        .start(StartPosition::Offset(railgun_client::Offset(10)))
        .open()
        .await
        .expect("opened");
    let deleted = admin.delete_stream(&name("doomed")).await.expect("deleted");
    assert_eq!(deleted, first);
    let ended = reader.next().await.expect_err("the reader ends").to_string();
    assert!(ended.contains("StreamDeleted"), "{ended}");
    let gone = admin.describe_stream(&name("doomed")).await;
    assert_eq!(gone.map_err(code).err().flatten(), Some(ErrorCode::StreamNotFound));
    // The same name is another stream.
    publish_numbers(&publisher(&client, "doomed").await, 0..3).await;
    let again = admin.describe_stream(&name("doomed")).await.expect("there");
    assert_ne!(again.uid, first);
    let reader = client.subscribe(name("doomed")).start(StartPosition::Earliest).until_end();
    assert_eq!(drain(reader.open().await.expect("opened")).await.0, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_listed_in_order_and_by_prefix() {
    let node = TestNode::start().await;
    let admin = node.client().await.admin();
    for stream in ["b.2", "a", "b.1", "c"] {
        admin.create_if_absent(&name(stream)).await.expect("made");
    }
    let names = |streams: Vec<railgun_client::StreamDescription>| {
        streams.into_iter().map(|stream| stream.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(admin.list_all_streams("").await.expect("listed")), ["a", "b.1", "b.2", "c"]);
    assert_eq!(names(admin.list_all_streams("b.").await.expect("listed")), ["b.1", "b.2"]);
}
