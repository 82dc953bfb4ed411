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
/// For so long the client bears by itself what is temporary. Then it says what that was: where the lead of a
/// full shard moves just then, what it says next is heard, too.
const GIVE_UP_AFTER: Duration = Duration::from_secs(2);
/// Who is not served asks again after this time.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

impl ClusterWorld {
    /// A client of each node publishes to every stream that stays. Others publish, too.
    pub(super) async fn be_served(&mut self) {
        self.ask(false).await;
    }

    /// The same when nobody else publishes any more, and everything is in the bucket.
    pub(super) async fn be_served_at_last(&mut self) {
        self.ask(true).await;
    }

    async fn ask(&mut self, is_at_last: bool) {
        let mut asking = JoinSet::new();
        for (at, member) in self.members.iter().enumerate() {
            let asker = Asker {
                node: at + 1,
                dial: member.node.dial.clone(),
                seed: self.random.bytes(),
                is_at_last,
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
    /// Nothing fills a log any more, and all clocks have been known for long. Until then a shard whose log is
    /// full is led, and that is enough.
    is_at_last: bool,
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
        let mut last = Last { how: "no answer".to_owned(), is_full: false };
        let published = timeout_at(end, self.publish(client, stream, &mut last)).await;
        let is_excused = last.is_full && !self.is_at_last;
        if published.is_err() && !is_excused {
            self.is_not_served(&format!("a record for {}", stream.1), &last.how);
        }
    }

    fn is_not_served(&self, what: &str, last: &str) {
        let how = format_args!(
            "nothing is wrong, and node {} does not take {what} within {SERVED_PATIENCE:?}: {last}",
            self.node
        );
        self.history.violated("liveness", how);
    }

    /// Until a record is acked; or refused because the log is full, while the bucket may be the reason.
    async fn publish(
        &self,
        client: &Client,
        (name, stream): &(StreamName, StreamUid),
        last: &mut Last,
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
                            if self.is_at_last {
                                self.history.is_of_now(*stream, it.offset, it.ts);
                            }
                            return self.history.ended(id, End::Published(it.offset, it.ts));
                        }
                        Err(error) => error,
                    };
                    self.history.ended(id, End::of(&error));
                    *last = Last { how: error.to_string(), is_full: is_full(&error) };
                }
                Err(error) => *last = Last { how: error.to_string(), is_full: false },
            }
            let how = &last.how;
            self.trace.note(format_args!("node {} does not take a record: {how}", self.node));
            if last.is_full && !self.is_at_last && self.history.bucket_may_be_ill() {
                return;
            }
            sleep(AGAIN_AFTER).await;
        }
    }
}

/// Why a record was not acked when it was tried last.
struct Last {
    how: String,
    /// The log of the shard has taken all that it may hold.
    is_full: bool,
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
        let asker = Asker {
            node: 1,
            dial,
            seed: [1; 16],
            is_at_last: false,
            streams,
            history: history.clone(),
            trace,
        };
        asker.run().await;
        let violations = history.violations();
        assert!(violations.len() == 1 && violations[0].starts_with("liveness"), "{violations:?}");
    }
}
