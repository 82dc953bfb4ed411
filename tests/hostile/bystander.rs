//! An honest client beside the attacker.

use railgun_client::{Client, Event, Message, Offset, Publisher, StartPosition, StreamName};
use railgun_testkit::TestNode;

use crate::within;

/// Publishes to a stream of its own and reads back what it published.
pub(crate) struct Bystander {
    client: Client,
    publisher: Publisher,
    stream: StreamName,
    sent: u64,
}

impl Bystander {
    pub(crate) async fn join(node: &TestNode) -> Self {
        let client = node.client().await;
        let stream = StreamName::new("bystander").expect("a valid name");
        client.admin().create_if_absent(&stream).await.expect("ensured");
        let publisher = client.publisher(stream.clone()).open().await.expect("opened");
        Self { client, publisher, stream, sent: 0 }
    }

    /// Fails unless one more message can be published and read back.
    pub(crate) async fn is_served(&mut self) {
        // On the heap: it is part of many futures.
        Box::pin(within("the bystander", self.round_trip())).await;
    }

    async fn round_trip(&mut self) {
        let value = format!("message {}", self.sent);
        let ticket = self.publisher.send(Message::new(value.clone())).await.expect("sent");
        let published = ticket.await.expect("published");
        assert_eq!(published.offset, Offset(self.sent), "its stream is its own");
        let reader = self.client.subscribe(self.stream.clone());
        let reader = reader.start(StartPosition::Offset(published.offset)).until_end();
        let mut reader = reader.open().await.expect("opened");
        match reader.next().await {
            Ok(Some(Event::Data(record))) => assert_eq!(record.value, value.as_bytes()),
            other => panic!("{other:?}"),
        }
        assert!(reader.next().await.expect("readable").is_none());
        self.sent += 1;
    }
}
