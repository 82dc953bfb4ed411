//! Looks at everything through the node, as a client does when all is over.

use std::sync::Arc;
use std::time::Duration;

use railgun_client::{
    Client, ClientOptions, Event, Offset, StartPosition, StreamDescription, StreamUid,
    SubscribeError,
};

use super::dial::SimDial;
use super::history::History;

/// A connection.
pub(super) async fn connect(dial: &SimDial, history: &History) -> Option<Client> {
    let options = ClientOptions { seed: Some([7; 16]), ..ClientOptions::new(dial.servers()) };
    match Client::connect_over(Arc::new(dial.clone()), options).await {
        Ok(client) => Some(client),
        Err(error) => {
            history.violated("liveness", format_args!("nobody can connect: {error}"));
            None
        }
    }
}

/// Reads every stream from its beginning to its end; returns the ends.
pub(super) async fn read_streams(dial: &SimDial, history: &History) -> Vec<(StreamUid, Offset)> {
    let mut ends = Vec::new();
    let Some(client) = connect(dial, history).await else { return ends };
    let streams = match client.admin().list_all_streams("").await {
        Ok(streams) => streams,
        Err(error) => {
            history.violated("liveness", format_args!("nothing is listed: {error}"));
            return ends;
        }
    };
    for stream in streams {
        match read_stream(&client, &stream, history).await {
            Ok(end) => {
                history.check_end(stream.uid, end);
                ends.push((stream.uid, end));
            }
            Err(error) => history.violated(rule_of(&error), format_args!("at last: {error}")),
        }
    }
    ends
}

/// Where it ends is where the records end, whatever the node says.
async fn read_stream(
    client: &Client,
    stream: &StreamDescription,
    history: &History,
) -> Result<Offset, SubscribeError> {
    let reader = client.subscribe(stream.name.clone()).start(StartPosition::Earliest).until_end();
    let (mut reader, mut next) = (reader.open().await?, Offset(0));
    while let Some(event) = reader.next_batch().await? {
        let delivery = match event {
            Event::Data(delivery) => delivery,
            Event::Removed(removed) => {
                let how = format_args!("nothing of {} was removed, but {removed:?}", stream.uid);
                history.violated("PS-5", how);
                next = removed.to;
                continue;
            }
        };
        for record in delivery.records() {
            let (offset, ts) = (record.offset, record.ts);
            history.follows("I7", stream.uid, &mut next, offset);
            history.read(stream.uid, offset, ts, &record.into(), "the last reader");
            history.read_from(delivery.source());
        }
    }
    Ok(next)
}

/// Brings every stream into the bucket, and has the log give its records up.
pub(super) async fn seal_streams(dial: &SimDial, history: &History) {
    let Some(client) = connect(dial, history).await else { return };
    let admin = client.admin();
    for stream in admin.list_all_streams("").await.unwrap_or_default() {
        let sealed = admin.seal_stream(&stream.name, true, Duration::from_secs(60)).await;
        if let Err(error) = sealed {
            history.violated("I10", format_args!("the log does not drain: {error}"));
        }
    }
}

/// The rule that is broken when a reader fails for no reason. The network of a simulation damages
/// nothing: what the client cannot accept is a record out of its place.
pub(super) fn rule_of(error: &SubscribeError) -> &'static str {
    match error {
        SubscribeError::Protocol { .. } => "I7",
        _ => "reading",
    }
}
