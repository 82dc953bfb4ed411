//! Records of every shape, publishing them, and reading them back by either way.

use railgun_client::{Client, Message, Publisher, StartPosition, Timestamp};
use railgun_cold::replay::{Replay, ReplayBound};
use railgun_cold::{Bucket, ReaderOptions};
pub(crate) use railgun_testkit::records::Told;
use railgun_testkit::records::{self, drain};

use crate::{LIMIT, name};

/// Message `number`, which goes through all shapes: what is absent in one is empty in another.
pub(crate) fn message(number: u64) -> Message {
    let mut message = Message::new(format!("value {number} {}", number.wrapping_mul(0x9e37_79b9)));
    match number % 8 {
        0 => {}
        1 => message = message.with_key(""),
        2 => message = message.with_key([0xff, 0, number as u8].to_vec()),
        3 => message.value = bytes::Bytes::new(),
        4 => {
            message = message.with_header("b", "2").with_header("a", "").with_header("b", "2");
        }
        5 => message = message.with_id(format!("id-{number}")),
        6 => message.producer_ts = Some(Timestamp(number as i64 - 1_000_000)),
        _ => {
            let text = "ä'\"\n\0";
            message = message.with_key(text).with_header("x", text).with_id(text);
            message.value = bytes::Bytes::from(text);
        }
    }
    message
}

/// A message of `bytes` bytes that do not compress.
pub(crate) fn bulky(number: u64, bytes: usize) -> Message {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    Message::new(words.flatten().take(bytes).collect::<Vec<_>>())
}

/// Publishes, and tells what must come back.
pub(crate) async fn publish(
    publisher: &Publisher,
    messages: impl IntoIterator<Item = Message>,
) -> Vec<Told> {
    let mut tickets = Vec::new();
    for message in messages {
        tickets.push((message.clone(), publisher.send(message).await.expect("sent")));
    }
    let mut told = Vec::new();
    for (message, ticket) in tickets {
        let published = ticket.await.expect("published");
        told.push(Told {
            offset: published.offset.0,
            ts: published.ts.0,
            key: message.key.map(Vec::from),
            headers: message.headers.into_iter().map(|(k, v)| (k, Vec::from(v))).collect(),
            producer_ts: message.producer_ts.map(|ts| ts.0),
            value: message.value.into(),
            id: message.id.map(Vec::from),
        });
    }
    told
}

/// What a node gives from `start` to the end, and from where, in order of appearance.
pub(crate) async fn read(
    client: &Client,
    stream: &str,
    start: StartPosition,
) -> (Vec<Told>, Vec<&'static str>) {
    let reading = async {
        let reader = client.subscribe(name(stream)).start(start).until_end();
        drain(reader.open().await.expect("opened")).await
    };
    let read = tokio::time::timeout(LIMIT, reading).await;
    read.unwrap_or_else(|_| panic!("not read within {LIMIT:?}: {stream} from {start:?}"))
}

/// What the bucket alone gives. Nothing, if no manifest knows the stream.
pub(crate) async fn replay(
    bucket: &Bucket,
    stream: &str,
    from: ReplayBound,
    until: ReplayBound,
) -> Vec<Told> {
    let replay = Replay::open(bucket, None, &ReaderOptions::default()).await.expect("a cluster");
    assert!(replay.warnings().is_empty(), "{:?}", replay.warnings());
    let Some(found) = replay.stream(&name(stream)) else { return Vec::new() };
    records::replay(&replay, found, from, until).await
}

/// As [`replay`], all of it.
pub(crate) async fn replay_all(bucket: &Bucket, stream: &str) -> Vec<Told> {
    replay(bucket, stream, ReplayBound::Unbounded, ReplayBound::Unbounded).await
}
