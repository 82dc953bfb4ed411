//! Complete reads, once nothing is wrong any more: from every node the same, and all that was acked.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use railgun_client::{Client, Event, Offset, Retry, StartPosition, SubscribeError};
use railgun_testkit::sim::{History, Said};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::LOOK_EVERY;
use crate::cluster::{Cluster, NODES};
use crate::load::Stream;

/// How long a node may take to serve a complete read.
const COMPLETE_LIMIT: Duration = Duration::from_secs(20);

/// A stream as it was read from its beginning to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) end: Offset,
    /// Of every byte and every log time.
    hash: u64,
}

/// Reads each stream from each node and compares it with the history. Returns what each holds.
pub(crate) async fn check_all(
    cluster: &Cluster,
    streams: &[Stream],
    history: &History,
) -> Vec<Content> {
    let mut reads = JoinSet::new();
    for node in 0..NODES {
        let (options, streams) = (cluster.options(&[node]), streams.to_vec());
        let history = history.clone();
        reads.spawn(async move {
            let by = format!("a complete read from node {}", node + 1);
            let deadline = Instant::now() + COMPLETE_LIMIT;
            let mut contents = Vec::new();
            let reading = async {
                let client = loop {
                    match Client::connect(options.clone()).await {
                        Ok(client) => break client,
                        Err(_) => tokio::time::sleep(LOOK_EVERY).await,
                    }
                };
                for stream in &streams {
                    let content = read_again(&client, stream, Some(&history), &by).await;
                    history.check_end(stream.uid, content.end);
                    contents.push(content);
                }
                client.close().await;
            };
            if timeout_at(deadline, reading).await.is_err() {
                let how = format_args!("{by} is not done after {COMPLETE_LIMIT:?}");
                history.violated("liveness", how);
            }
            (node, contents)
        });
    }
    let mut all = reads.join_all().await;
    all.sort_by_key(|(node, _)| *node);
    history.check_whole();
    let (_, first) = all.swap_remove(0);
    for (node, contents) in all {
        if history.is_sound() && contents != first {
            let how = format_args!("node {} holds {contents:?}, node 1 {first:?}", node + 1);
            history.violated("PS-1", how);
        }
    }
    first
}

/// Reads a stream of an earlier round, which must be what it was then.
pub(crate) async fn check_kept(
    client: &Client,
    stream: &Stream,
    then: Content,
) -> Result<(), String> {
    let reading = read_again(client, stream, None, "");
    let Ok(now) = tokio::time::timeout(COMPLETE_LIMIT, reading).await else {
        return Err(format!("{} is not read after {COMPLETE_LIMIT:?}", stream.name));
    };
    match now == then {
        true => Ok(()),
        false => Err(format!("{} was {then:?} and is {now:?}", stream.name)),
    }
}

/// Until it has been read as a whole, or an error says that it never will be.
async fn read_again(
    client: &Client,
    stream: &Stream,
    history: Option<&History>,
    by: &str,
) -> Content {
    loop {
        match read(client, stream, history, by).await {
            Ok(content) => return content,
            Err(error) => {
                if let (Some(history), Retry::Never) = (history, error.retry()) {
                    history.violated("PS-5", format_args!("{by} was told: {error}"));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

async fn read(
    client: &Client,
    stream: &Stream,
    history: Option<&History>,
    by: &str,
) -> Result<Content, SubscribeError> {
    let subscribe = client.subscribe(stream.name.clone());
    let mut reading = subscribe.start(StartPosition::Earliest).until_end().open().await?;
    let (mut end, mut hasher) = (Offset(0), DefaultHasher::new());
    while let Some(event) = reading.next_batch().await? {
        let batch = match event {
            Event::Data(batch) => batch,
            Event::Removed(removed) => {
                // Nothing ever is: what comes behind it does not follow.
                (removed.from.0, removed.to.0).hash(&mut hasher);
                continue;
            }
        };
        for record in batch.records() {
            let (offset, ts) = (record.offset, record.ts);
            (offset.0, ts.0, record.key, record.value, record.id).hash(&mut hasher);
            match history {
                Some(history) => {
                    history.follows("PS-5", stream.uid, &mut end, offset);
                    history.read(stream.uid, offset, ts, &Said::from(record), by);
                }
                None => end = offset.plus(1),
            }
        }
    }
    Ok(Content { end, hash: hasher.finish() })
}
