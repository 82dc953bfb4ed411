//! Whether clients are served when nothing is wrong: every node takes a record for every stream, soon.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use railgun_client::{
    Client, ClientOptions, ErrorCode, PublishError, StreamName, StreamUid, WireCode,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::super::dial::SimDial;
use super::super::history::{End, History};
use super::super::trace::Trace;
use super::ClusterWorld;

/// Time in which a node must take a record for every stream when all nodes run and every shard is led.
const SERVED_PATIENCE: Duration = Duration::from_secs(5);
/// For so long the client bears by itself what is temporary.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3);
/// Who is not served asks again after this time.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

impl ClusterWorld {
    /// A client of each node publishes to every stream that stays.
    pub(super) async fn be_served(&mut self) {
        let mut asking = JoinSet::new();
        for (at, member) in self.members.iter().enumerate() {
            let asker = Asker {
                node: at + 1,
                dial: member.node.dial.clone(),
                seed: self.random.bytes(),
                streams: Arc::clone(&self.streams),
                history: self.history.clone(),
                trace: self.trace.clone(),
            };
            asking.spawn(asker.run());
        }
        while self.history.is_sound() && !asking.is_empty() {
            while let Some(ended) = asking.try_join_next() {
                ended.expect("who asks does not panic");
            }
            self.step().await;
        }
    }
}

/// See the module.
struct Asker {
    node: usize,
    dial: SimDial,
    seed: [u8; 16],
    streams: Arc<Vec<(StreamName, StreamUid)>>,
    history: History,
    trace: Trace,
}

impl Asker {
    async fn run(self) {
        let end = Instant::now() + SERVED_PATIENCE;
        let options = ClientOptions {
            seed: Some(self.seed),
            give_up_after: GIVE_UP_AFTER,
            ..ClientOptions::new(self.dial.servers())
        };
        let connecting = Client::connect_over(Arc::new(self.dial.clone()), options);
        let client = match connecting.await {
            Ok(client) => client,
            Err(error) => return self.is_not_served("a client", &error.to_string()),
        };
        join_all(self.streams.iter().map(|stream| self.publish_until(end, &client, stream))).await;
    }

    async fn publish_until(&self, end: Instant, client: &Client, stream: &(StreamName, StreamUid)) {
        let mut last = "no answer".to_owned();
        if timeout_at(end, self.publish(client, stream, &mut last)).await.is_err() {
            self.is_not_served(&format!("a record for {}", stream.1), &last);
        }
    }

    fn is_not_served(&self, what: &str, last: &str) {
        let how = format_args!(
            "nothing is wrong, and node {} does not take {what} within {SERVED_PATIENCE:?}: {last}",
            self.node
        );
        self.history.violated("liveness", how);
    }

    /// Until a record is acked, or refused because the log is full for now: then the shard is led, and the
    /// rest of what is published fills it.
    async fn publish(
        &self,
        client: &Client,
        (name, stream): &(StreamName, StreamUid),
        last: &mut String,
    ) {
        loop {
            match client.publisher(name.clone()).open().await {
                Ok(publisher) => {
                    let (id, message) = self.history.message(*stream, self.history.lane(true), 100);
                    let ended = match publisher.send(message).await {
                        Ok(ticket) => ticket.await,
                        Err(error) => Err(PublishError::NotSent { reason: error.to_string() }),
                    };
                    let error = match ended {
                        Ok(it) => {
                            return self.history.ended(id, End::Published(it.offset, it.ts));
                        }
                        Err(error) => error,
                    };
                    self.history.ended(id, End::of(&error));
                    if is_full(&error) {
                        return;
                    }
                    *last = error.to_string();
                }
                Err(error) => *last = error.to_string(),
            }
            self.trace.note(format_args!("node {} does not take a record: {last}", self.node));
            sleep(AGAIN_AFTER).await;
        }
    }
}

fn is_full(error: &PublishError) -> bool {
    matches!(error, PublishError::Refused(error) if error.code == WireCode::Known(ErrorCode::HotTierFull))
}

#[cfg(test)]
mod tests {
    use railgun_net::memory::MemoryNetwork;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_takes_no_client_is_noticed() {
        let trace = Trace::begin();
        let history = History::new(trace.clone());
        let (dial, streams) = (SimDial::new(MemoryNetwork::new()), Arc::default());
        let asker =
            Asker { node: 1, dial, seed: [1; 16], streams, history: history.clone(), trace };
        asker.run().await;
        let violations = history.violations();
        assert!(violations.len() == 1 && violations[0].starts_with("liveness"), "{violations:?}");
    }
}
