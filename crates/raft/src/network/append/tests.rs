//! A session against a follower that does what the test says.

use std::future::{pending, ready};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use openraft::errors::RPCError;
use railgun_log::Payload;
use railgun_types::{EntryId, ReplicaId, ShardId};

use super::*;
use crate::peers::PeerMessage;
use crate::raft_types::{Command, RaftEntry, RaftPayload, to_log_id, to_raft_vote};

/// Takes everything and counts it; answers as often as it is told, and then ends the stream or is
/// silent.
#[derive(Clone, Default)]
struct Follower {
    opened: Arc<AtomicUsize>,
    messages: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
    answers: usize,
    ends: bool,
}

impl PeerNetwork for Follower {
    fn call<'a>(&'a self, _: &'a Destination, _: Bytes) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        Box::pin(pending())
    }

    fn open<'a>(
        &'a self,
        _: &'a Destination,
        _: StreamUse,
    ) -> BoxFuture<'a, Result<PeerStream, PeerError>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = (Box::new(self.clone()), Box::new(self.clone()));
        Box::pin(ready(Ok(PeerStream { sender, receiver })))
    }
}

impl PeerSender for Follower {
    fn send(&mut self, message: PeerMessage) -> BoxFuture<'_, Result<(), PeerError>> {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(message.bytes(), Ordering::Relaxed);
        Box::pin(ready(Ok(())))
    }

    fn finish(&mut self) {}
}

impl PeerReceiver for Follower {
    fn receive(&mut self) -> BoxFuture<'_, Result<Option<PeerMessage>, PeerError>> {
        Box::pin(async {
            if self.answers > 0 && self.messages.load(Ordering::Relaxed) > 0 {
                self.answers -= 1;
                let head = wire::encode_appended(&Ok(None));
                return Ok(Some(PeerMessage { head, body: Vec::new() }));
            }
            if !self.ends {
                pending::<()>().await;
            }
            Ok(None)
        })
    }
}

fn to() -> Destination {
    Destination { shard: ShardId(1), replica: ReplicaId(2), address: String::new() }
}

fn append(bytes: usize) -> Append {
    let payload = Payload::from_bytes(vec![0; bytes].into());
    let payload = RaftPayload::Normal(Command(payload));
    let entry = RaftEntry { log_id: to_log_id(EntryId::new(1, 0)), payload };
    let vote = to_raft_vote(railgun_log::Vote { term: 1, node: 1, committed: true });
    Append { vote, prev_log_id: None, leader_commit: None, entries: vec![entry] }
}

#[tokio::test(start_paused = true)]
async fn what_is_unanswered_is_bounded_and_given_up_in_time() {
    for (bytes, messages) in [(1 << 20, 7), (20 << 20, 1), (10, UNANSWERED_MAX)] {
        let follower = Follower::default();
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let input = stream::repeat_with(move || {
            let _held = &held;
            append(bytes)
        });
        let mut session = session(Arc::new(follower.clone()), to(), Box::pin(input));
        let start = Instant::now();
        let end = session.next().await;
        assert!(matches!(end, Some(Err(RPCError::Network(_)))), "{end:?}");
        assert_eq!(start.elapsed(), ANSWER_PATIENCE);
        // One more may be with the reader.
        let sent = follower.messages.load(Ordering::Relaxed);
        assert!(sent == messages || sent == messages + 1, "{sent} of {bytes} bytes");
        let most = UNANSWERED_BYTES_MAX.max(bytes + 200);
        assert!(follower.bytes.load(Ordering::Relaxed) <= most);
        drop(session);
        assert_eq!(Arc::strong_count(&alive), 1, "the requests do not outlive the session");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_opened_before_there_is_something_to_send() {
    let follower = Follower::default();
    let mut waiting = session(Arc::new(follower.clone()), to(), stream::pending());
    assert!(futures::poll!(waiting.next()).is_pending());
    assert_eq!(follower.opened.load(Ordering::Relaxed), 0);
    let mut nothing = session(Arc::new(follower.clone()), to(), stream::empty());
    assert!(nothing.next().await.is_none());
    assert_eq!(follower.opened.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answered_session_ends_with_its_requests_and_an_idle_one_with_the_follower() {
    let follower = Follower { answers: 2, ends: true, ..Follower::default() };
    let input = stream::iter([append(1), append(1)]);
    let mut whole = session(Arc::new(follower.clone()), to(), input);
    for _ in 0..2 {
        assert!(matches!(whole.next().await, Some(Ok(Ok(None)))));
    }
    assert!(whole.next().await.is_none());

    follower.messages.store(0, Ordering::Relaxed);
    let input = stream::iter([append(1), append(1)]).chain(stream::pending());
    let mut idle = session(Arc::new(follower), to(), input);
    for _ in 0..2 {
        assert!(matches!(idle.next().await, Some(Ok(Ok(None)))));
    }
    let start = Instant::now();
    assert!(matches!(idle.next().await, Some(Err(RPCError::Network(_)))));
    assert_eq!(start.elapsed(), Duration::ZERO, "at once");
    assert!(idle.next().await.is_none());
}
