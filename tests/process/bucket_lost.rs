//! The bucket goes away while the node runs: publishing goes on until the hot budget is spent, then
//! it is refused so that it may be tried again; when the bucket returns, everything drains.

use std::fs;
use std::time::Duration;

use railgun_client::{
    Client, ClientOptions, ErrorCode, Message, PublishError, Publisher, Retry, SendError,
    StreamDescription, StreamName,
};

use crate::eventually;
use crate::site::{Site, name};

/// Nothing here takes so long.
const LIMIT: Duration = Duration::from_secs(60);
const VALUE_BYTES: usize = 10_000;
const BUDGET_BYTES: u64 = 8 << 20;

/// Takes the bucket's directory away and puts a file in its place, which stops root, too.
fn lose(site: &Site) {
    fs::rename(site.bucket_dir(), site.bucket_dir().with_extension("away")).expect("moved");
    fs::write(site.bucket_dir(), "").expect("blocked");
}

fn bring_back(site: &Site) {
    fs::remove_file(site.bucket_dir()).expect("unblocked");
    fs::rename(site.bucket_dir().with_extension("away"), site.bucket_dir()).expect("moved back");
}

/// A message that says its number.
pub(crate) fn numbered(number: u64) -> Message {
    Message::new(format!("{number:0>VALUE_BYTES$}"))
}

/// Publishes numbered messages from `first` on, a few at a time, until one is refused, which must be
/// with an error that may be tried again. Returns the number that was refused.
pub(crate) async fn publish_until_refused(publisher: &Publisher, first: u64) -> u64 {
    let mut next = first;
    loop {
        let mut tickets = Vec::new();
        for number in next..next + 8 {
            match publisher.send(numbered(number)).await {
                Ok(ticket) => tickets.push(ticket),
                // One of those before was refused already; its ticket tells how.
                Err(SendError::OrderBroken { .. }) => break,
                Err(other) => panic!("{number}: {other}"),
            }
        }
        for ticket in tickets {
            match ticket.await {
                Ok(published) => {
                    assert_eq!(published.offset.0, next);
                    next += 1;
                }
                Err(PublishError::Refused(error)) => {
                    assert_eq!(error.code, ErrorCode::HotTierFull, "{error}");
                    assert!(matches!(error.retry, Retry::After(_)), "{error}");
                    return next;
                }
                Err(other) => panic!("{next}: {other}"),
            }
        }
    }
}

/// Every number below `end` is in the stream, in order.
pub(crate) async fn check_numbers(client: &Client, stream: &StreamName, end: u64) {
    let reader = client.subscribe(stream.clone()).start(railgun_client::StartPosition::Earliest);
    let mut reader = reader.until_end().open().await.expect("readable");
    let mut next = 0;
    while let Some(event) = reader.next().await.expect("readable") {
        let railgun_client::Event::Data(record) = event else { panic!("a gap: {event:?}") };
        assert_eq!(record.offset.0, next);
        assert_eq!(record.value, numbered(next).value);
        next += 1;
    }
    assert_eq!(next, end);
}

/// Publishers of this client tell of a refusal at once instead of trying again.
pub(crate) async fn impatient(site: &Site) -> Client {
    let options = site.client_options().expect("the node has made its authority");
    let options = ClientOptions { give_up_after: Duration::ZERO, ..options };
    Client::connect(options).await.expect("the node takes clients")
}

async fn describe(client: &Client, stream: &StreamName) -> StreamDescription {
    client.admin().describe_stream(stream).await.expect("described")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_bucket_publishing_goes_on_until_the_budget_is_spent() {
    let mut site = Site::new();
    site.set_hot_tier(1, "8MiB", "1s");
    let _node = site.start().await;
    let (stream, client) = (name("orders"), site.client().await);
    client.admin().create_if_absent(&stream).await.expect("ensured");
    let hasty = impatient(&site).await;
    let publisher = hasty.publisher(stream.clone()).open().await.expect("opened");
    publisher.send(numbered(0)).await.expect("sent").await.expect("published");
    client.admin().seal_stream(&stream, false, LIMIT).await.expect("sealed");

    lose(&site);
    let refused = publish_until_refused(&publisher, 1).await;
    let hot = (refused - 1) * VALUE_BYTES as u64;
    assert!(hot > BUDGET_BYTES * 7 / 10, "{hot} bytes only were taken");
    assert!(hot < BUDGET_BYTES, "{hot} bytes are beyond the budget");
    eventually("the failure is told", LIMIT, || async {
        let told = describe(&client, &stream).await;
        assert_eq!((told.next_offset.0, told.cold_end.0), (refused, 1));
        assert!(told.pending_bytes >= hot && told.pending_since.is_some(), "{told:?}");
        told.offload_error
    })
    .await;
    // Between two attempts nothing has failed.
    let info = eventually("the failure is told by the command", LIMIT, || async {
        let info = site.output(&["stream", "info", "orders", "-o", "json"]);
        let info: serde_json::Value = serde_json::from_slice(&info).expect("JSON");
        info["offload_error"].is_string().then_some(info)
    })
    .await;
    assert!(info["pending_bytes"].as_u64() >= Some(hot), "{info}");
    // Readers are not affected.
    check_numbers(&client, &stream, refused).await;

    // A publisher that is patient gets its message in when the bucket is back; nothing is asked of
    // anybody.
    let patient = client.publisher(stream.clone()).open().await.expect("opened");
    let waiting = patient.send(numbered(refused)).await.expect("sent");
    bring_back(&site);
    let published = tokio::time::timeout(LIMIT, waiting).await.expect("drained");
    assert_eq!(published.expect("published").offset.0, refused);
    eventually("everything is in the bucket", LIMIT, || async {
        let told = describe(&client, &stream).await;
        (told.pending_bytes == 0 && told.offload_error.is_none()).then_some(())
    })
    .await;
    assert_eq!(site.replay(&stream).len() as u64, refused + 1);
}
