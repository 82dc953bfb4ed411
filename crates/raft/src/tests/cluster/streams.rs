//! Streams that are half dead, and bytes that are no message.

use openraft::impls::leader_id_std::LeaderId;
use openraft::raft::VoteRequest;

use super::*;
use crate::peers::{PeerError, PeerMessage, PeerReceiver, PeerSender, PeerStream, StreamUse};
use crate::raft_types::{RaftVote, to_log_id};
use crate::{InvalidMessage, ServeError, wire};

#[tokio::test(start_paused = true)]
async fn a_stream_that_swallows_everything_is_noticed() {
    with_seed(20, async {
        let mut cluster = Cluster::voters(20, 3).await;
        cluster.fill(5).await;
        let leader = cluster.leader().await;
        let before = cluster.shard(leader).leader().state();
        let follower = cluster.ids().into_iter().find(|id| *id != leader).expect("three");
        sleep(Duration::from_secs(3)).await;
        cluster.net.half_kill(leader, follower);
        let start = Instant::now();
        // The others go on.
        let last = cluster.put("swallowed").await;
        assert!(start.elapsed() < Duration::from_millis(200));
        cluster.shard(follower).applied(last.index).await.expect("running");
        let elapsed = start.elapsed().as_millis();
        assert!((4_000..6_500).contains(&elapsed), "{elapsed} ms");
        assert_eq!(cluster.shard(leader).leader().state(), before, "heartbeats are apart");
        cluster.stop().await;
    })
    .await;
}

/// A stream on which these messages come, and then nothing.
struct Scripted(Vec<PeerMessage>);

impl PeerReceiver for Scripted {
    fn receive(&mut self) -> BoxFuture<'_, Result<Option<PeerMessage>, PeerError>> {
        Box::pin(async {
            match self.0.is_empty() {
                true => std::future::pending().await,
                false => Ok(Some(self.0.remove(0))),
            }
        })
    }
}

struct Deaf;

impl PeerSender for Deaf {
    fn send(&mut self, _: PeerMessage) -> BoxFuture<'_, Result<(), PeerError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn finish(&mut self) {}
}

fn scripted(messages: Vec<PeerMessage>) -> PeerStream {
    PeerStream { sender: Box::new(Deaf), receiver: Box::new(Scripted(messages)) }
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_for_votes_in_the_name_of_another() {
    with_seed(22, async {
        let mut cluster = Cluster::voters(22, 3).await;
        cluster.fill(3).await;
        cluster.settle().await;
        let leader = cluster.leader().await;
        let term = cluster.shard(leader).leader().state().term;
        let others = cluster.ids().into_iter().filter(|id| *id != leader).collect::<Vec<_>>();
        let (candidate, voter) = (others[0], others[1]);
        let leader_id = LeaderId { term: term + 1, voted_for: candidate.0 };
        let last_log_id = Some(to_log_id(EntryId { term: term + 1, index: 1 << 20 }));
        // A transfer need not wait until the leader is thought to be gone.
        let ballot = VoteRequest {
            vote: RaftVote { leader_id, committed: false },
            last_log_id,
            leadership_transfer: true,
        };
        let ballot = wire::encode_vote(&ballot);
        let answer = cluster.shard(voter).answer(Some(leader.node()), ballot.clone()).await;
        let is_impostor = matches!(&answer, Err(ServeError::Impostor { node, speaker })
            if (*node, *speaker) == (leader.node(), candidate));
        assert!(is_impostor, "{answer:?}");
        assert_eq!(cluster.run(voter).log.state().vote.map(|vote| vote.term), Some(term));
        // Its own node may, and whoever is not known.
        for from in [Some(candidate.node()), None] {
            let answer = cluster.shard(voter).answer(from, ballot.clone()).await.expect("answered");
            assert!(wire::decode_voted(&answer).expect("a vote").vote_granted, "{from:?}");
        }
        cluster.stop().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_message_ends_its_stream_and_nothing_else() {
    with_seed(21, async {
        let mut cluster = Cluster::voters(21, 3).await;
        let garbage = || PeerMessage { head: Bytes::from_static(b"\x01\x63x"), body: Vec::new() };
        for id in cluster.ids() {
            let shard = cluster.shard(id);
            let answer = shard.answer(None, Bytes::from_static(b"\x01")).await;
            assert!(matches!(answer, Err(ServeError::Invalid(InvalidMessage::Malformed(_)))));
            for what_for in [StreamUse::Append, StreamUse::Snapshot] {
                let served = shard.serve_stream(what_for, scripted(vec![garbage()])).await;
                let kind = matches!(served, Err(ServeError::Invalid(InvalidMessage::Kind(0x63))));
                assert!(kind, "{served:?}");
            }
        }
        cluster.put("all is well").await;
        cluster.settle().await;

        // A stream ends with the shard.
        let shard = cluster.shard(id(2)).clone();
        let stream = scripted(Vec::new());
        let served =
            Runtime::spawn(async move { shard.serve_stream(StreamUse::Append, stream).await });
        sleep(Duration::from_secs(1)).await;
        cluster.kill(id(2), CrashPlan::KeepAll).await;
        let served = tokio::time::timeout(PATIENCE, served).await.expect("in time");
        assert!(matches!(served.expect("no panic"), Err(ServeError::Stopped(_))));
        cluster.stop().await;
    })
    .await;
}
