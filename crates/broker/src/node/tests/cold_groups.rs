//! What a group reads of the bucket.

use railgun_core::dispatcher::{Credit, MemberId, Settle, SettleKind, SettleRequest};
use railgun_types::{GroupName, GroupPatch, OffsetRange};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::reading::Rig;
use super::*;
use crate::group::{INPUTS, Join, MemberInput, MemberOutput, Newcomer, Outbox, Seat};
use crate::reader::{Source, Step};

const MESSAGES: usize = 600;
const MESSAGE_BYTES: usize = 50_000;

/// A member with so much credit, as its session has it.
struct Member {
    seat: Seat,
    outputs: mpsc::Receiver<MemberOutput>,
    number: u64,
}

impl Member {
    async fn join(rig: &Rig, credit: u64) -> Self {
        Self::join_as(rig, MemberId(1), credit).await
    }

    async fn join_as(rig: &Rig, member: MemberId, credit: u64) -> Self {
        let found = rig.broker.streams.resolve(&name("s")).await.unwrap();
        let shard = found.shard.here().unwrap().clone();
        let (to, outputs) = mpsc::channel(10_000);
        let places = rig.broker.streams.places(None);
        let join = Join {
            stream: found.stream,
            group: GroupName::new("g").unwrap(),
            group_id: None,
            mode: None,
            sources: rig.broker.streams.sources(shard.clone(), places, None),
        };
        let newcomer = Newcomer {
            member,
            credit: Credit { messages: credit, bytes: u64::MAX },
            held: vec![],
            fetches: false,
            to: Outbox::new(to, CancellationToken::new(), None),
        };
        let seat = shard.join_group(join, newcomer).await.unwrap().unwrap();
        Self { seat, outputs, number: 0 }
    }

    /// The next delivery: lease, messages, attempt.
    async fn get(&mut self) -> (u64, OffsetRange, u32, Source) {
        loop {
            if let MemberOutput::Deliver(delivered) = self.outputs.recv().await.unwrap() {
                return delivered.told();
            }
        }
    }

    async fn say(&mut self, lease: u64, range: OffsetRange, kind: SettleKind) {
        self.number += 1;
        let settles = vec![Settle { lease, epoch: 0, range, kind }];
        let request = SettleRequest { number: self.number, settles };
        let settle = MemberInput::Settle { member: MemberId(1), request };
        self.seat.inputs.send(settle).await.unwrap();
    }
}

/// With a stream of messages that no compressor shrinks, in the bucket and nowhere else.
async fn with_messages() -> Rig {
    let rig = Rig::new(0).await;
    let noise = |number: u64, bytes: usize| {
        let mut state = number + 1;
        let mut step = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        (0..bytes.div_ceil(8)).flat_map(|_| step()).take(bytes).collect()
    };
    rig.publish_values("s", &[MESSAGE_BYTES; MESSAGES], noise).await;
    rig.seal("s").await;
    rig
}

/// GETs of all that is in the bucket, read once from one end to the other, and what was decoded for it.
async fn read_once(rig: &Rig) -> (usize, usize) {
    let before = (rig.gets.load(Relaxed), rig.pool.jobs.load(Relaxed));
    let mut reader = rig.reader("s", &rig.memory.reader(), &rig.places()).await;
    loop {
        match reader.step(false).await.unwrap() {
            Step::Records(_) => drop(reader.take_held()),
            Step::End => break,
            Step::Deleted => panic!("it is there"),
        }
    }
    (rig.gets.load(Relaxed) - before.0, rig.pool.jobs.load(Relaxed) - before.1)
}

#[tokio::test(start_paused = true)]
async fn who_joins_a_group_that_has_much_to_do_waits_for_its_turn() {
    let rig = with_messages().await;
    rig.ensure_group(GroupPatch::default()).await;
    let first = Member::join(&rig, 1).await;
    let much = first.seat.inputs.reserve_many(INPUTS).await.unwrap();
    let mut second = std::pin::pin!(Member::join_as(&rig, MemberId(2), 1));
    let early = timeout(Duration::from_secs(1), &mut second).await;
    assert!(early.is_err(), "others are before it");
    drop(much);
    second.await.get().await;
}

#[tokio::test(start_paused = true)]
async fn a_lagging_group_reads_each_row_group_once_and_its_retries_do_not_scan() {
    let (gets, jobs) = read_once(&with_messages().await).await;
    assert!(gets > 3, "there are several row groups: {gets}");

    let rig = with_messages().await;
    let patch = GroupPatch { backoff_ms: Some(vec![0]), ..GroupPatch::default() };
    rig.ensure_group(patch).await;
    let before = (rig.gets.load(Relaxed), rig.pool.jobs.load(Relaxed));
    let mut member = Member::join(&rig, 100).await;
    let (mut acked, mut failed) = (0, 0);
    // Every third message fails, for the first time when those behind it are under way.
    while acked < MESSAGES as u64 {
        let (lease, range, attempt, source) = member.get().await;
        assert_eq!(source, Source::Cold);
        for offset in range.iter() {
            let fails = attempt == 1 && offset.0 % 3 == 0;
            let nack = SettleKind::Nack { delay_ms: None, error: None };
            let kind = if fails { nack } else { SettleKind::Ack };
            member.say(lease, OffsetRange::single(offset), kind).await;
            acked += u64::from(!fails);
            failed += u64::from(fails);
        }
    }
    assert_eq!(failed, MESSAGES.div_ceil(3) as u64);
    assert_eq!(
        rig.gets.load(Relaxed) - before.0,
        gets,
        "what failed was read again from the cache"
    );
    let decoded = rig.pool.jobs.load(Relaxed) - before.1;
    assert!(decoded < jobs * 3, "{decoded} pieces were decoded, of {jobs}");
}
