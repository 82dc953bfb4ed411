//! One node, real QUIC, real files: streams from their creation to their replay.

mod administration;
mod ids;
mod publishing;
mod reading;

use railgun_client::{Client, Event, Message, Publisher, StreamName, Subscription};

fn name(name: &str) -> StreamName {
    StreamName::new(name).expect("a valid name")
}

/// A stream that is there, and a publisher for it.
async fn publisher(client: &Client, stream: &str) -> Publisher {
    client.admin().create_if_absent(&name(stream)).await.expect("ensured");
    client.publisher(name(stream)).open().await.expect("opened")
}

/// Publishes `count` messages whose values are their numbers; returns when all are acked.
async fn publish_numbers(publisher: &Publisher, numbers: std::ops::Range<u64>) {
    let mut tickets = Vec::new();
    for number in numbers {
        let message = Message::new(number.to_string());
        tickets.push(publisher.send(message).await.expect("sent"));
    }
    for ticket in tickets {
        ticket.await.expect("published");
    }
}

/// Everything a subscription with an end still brings: offsets, values, and sources in order of
/// appearance.
async fn drain(mut subscription: Subscription) -> (Vec<u64>, Vec<String>, Vec<&'static str>) {
    let (mut offsets, mut values, mut sources) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(event) = subscription.next().await.expect("readable") {
        let Event::Data(record) = event else { panic!("a gap: {event:?}") };
        offsets.push(record.offset.0);
        values.push(String::from_utf8(record.value.to_vec()).expect("a number"));
        if sources.last() != Some(&record.source.name()) {
            sources.push(record.source.name());
        }
    }
    (offsets, values, sources)
}
