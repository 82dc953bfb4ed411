//! The QUIC stream of a member of a consumer group: deliveries and news out, what the member says of them
//! in. The leader of the stream's shard serves it.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use railgun_core::dispatcher::{
    Credit, Fetch, MemberId, PresentedLease, Settle, SettleKind, SettleRequest,
};
use railgun_net::{FrameWriter, Held as HeldMemory, Member, ReadError};
use railgun_proto::convert::{Held, JoinGroupRequest, Uid, range, wire_group_mode};
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_types::limits::{
    DELAY_MS, FAILURE_BYTES, GROUP_CREDIT_BYTES, GROUP_CREDIT_MESSAGES, SETTLE_ITEMS,
    SETTLES_UNANSWERED,
};
use railgun_types::{ErrorCode, Retry};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::sent::{Sent, flush};
use super::{QuicStream, SessionEnd, carried, going_away};
use crate::group::{Join, Lack, MemberInput, MemberOutput, Newcomer, Outbox, Seat};
use crate::routing::Leader;

/// What may wait for a member besides its deliveries. Whoever lets more come together reads nothing, and
/// is given up.
const NEWS: usize = 1_024;
/// Messages that a member may say it has when it joins again.
const HELD_MAX: u64 = 4 * GROUP_CREDIT_MESSAGES as u64;
/// Messages that one settle may be about, and that those may be about which are not answered, in credits: each
/// message may be begun and settled.
const SETTLE_CREDITS: u64 = 2;
/// How long a group may take to hear that a member is sent away.
const RELEASE_TIME: Duration = Duration::from_secs(1);
/// Outputs that are made frames of at a time.
const AT_A_TIME: usize = 64;

pub(super) async fn serve(stream: &mut QuicStream, join: v1::JoinGroup) -> Result<(), SessionEnd> {
    let request = JoinGroupRequest::try_from(join.clone())?;
    let streams = stream.context.streams.clone();
    let found = streams.resolve_meant(&request.stream, request.stream_uid).await?;
    let shard = found.shard.id();
    let leader = match streams.routing().leader(shard, 0) {
        Leader::Here(leader) => leader,
        // The node between, or its client, asks again.
        _ if stream.is_carried => {
            let message = format!("this node does not lead shard {shard}");
            return Err(WireError::new(ErrorCode::Unavailable, message).into());
        }
        _ => match carried::member(stream, shard, &join).await? {
            Some(leader) => leader,
            None => return Ok(()),
        },
    };
    // It may be much larger than what is needed of it.
    drop(join);
    // With what the leader may not know to be settled yet, an honest one says more than its credit.
    let held: u64 = request.held.iter().map(|held| held.range.len()).sum();
    if held > HELD_MAX {
        let message = format!(
            "a member that joins again says it has {held} messages, and may say so of {HELD_MAX}"
        );
        return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
    }
    let Some(data) = leader.data() else {
        return Err(WireError::new(ErrorCode::Internal, "the shard is the catalog").into());
    };
    let messages = request.credit_messages.min(GROUP_CREDIT_MESSAGES);
    let bytes = request.credit_bytes.min(GROUP_CREDIT_BYTES);
    let memory = stream.record_memory.as_ref().map(Member::of_stream);
    let (to, outputs) = mpsc::channel(messages as usize + NEWS);
    let given_up = stream.stopping.child_token();
    let member = MemberId(stream.context.next_session.fetch_add(1, Ordering::Relaxed));
    let places = streams.places(None);
    let join = Join {
        stream: found.stream,
        group: request.group.clone(),
        group_id: request.group_id,
        mode: request.mode,
        sources: streams.sources(data.handle.clone(), places, None),
    };
    let newcomer = Newcomer {
        member,
        credit: Credit { messages: messages.into(), bytes },
        held: request.held.into_iter().map(presented).collect(),
        fetches: request.fetches,
        to: Outbox::new(to, given_up.clone(), memory.clone()),
    };
    let seat = data.handle.join_group(join, newcomer).await??;
    let joined = v1::GroupJoined {
        stream_uid: found.stream.to_wire(),
        group_id: seat.group.0,
        mode: wire_group_mode(seat.mode).into(),
        floor: seat.floor.0,
        head: 0,
        next_offset: seat.next.0,
        ack_wait_ms: seat.ack_wait_ms,
    };
    stream.answer(&joined).await?;
    let (said, unanswered) = (Said::default(), Unanswered::default());
    let fetches = request.fetches;
    let way = Way { memory, sent: None, lack: None, room: None };
    Line { stream, member, fetches, seat, outputs, given_up, way, said, unanswered }.run().await
}

fn presented(held: Held) -> PresentedLease {
    let Held { lease, range, attempt, epoch, begun, generation, message_bytes } = held;
    PresentedLease { lease, range, attempt, epoch, generation, begun, message_bytes }
}

struct Line<'s> {
    stream: &'s mut QuicStream,
    member: MemberId,
    /// Whether it gets only what it fetches.
    fetches: bool,
    seat: Seat,
    outputs: mpsc::Receiver<MemberOutput>,
    /// It takes too little of that; or the session stops.
    given_up: CancellationToken,
    way: Way,
    said: Said,
    unanswered: Unanswered,
}

/// The memory for what goes to a member.
struct Way {
    memory: Option<Member>,
    /// What it has not taken yet.
    sent: Option<Sent>,
    /// There was none for what comes next.
    lack: Option<Lack>,
    /// The wait for it.
    room: Option<BoxFuture<'static, HeldMemory>>,
}

impl Way {
    /// Waits for all of it; where others have taken what there is, for a part of the client's own.
    fn wait(&mut self) {
        let Some((lack, memory)) = self.lack.take().zip(self.memory.clone()) else { return };
        let own = lack.first.max(memory.own_bytes_max() / 4);
        let bytes = if memory.is_short(lack.bytes) { own.min(lack.bytes) } else { lack.bytes };
        self.room = Some(Box::pin(async move { memory.take(bytes).await }));
    }
}

/// What was waited for; never ends where nothing is. Cancel safe.
async fn found(room: &mut Option<BoxFuture<'static, HeldMemory>>) -> HeldMemory {
    let Some(waiting) = room else { return pending().await };
    let held = waiting.await;
    *room = None;
    held
}

/// Settles that are not answered: numbers, and how many messages each is about. An answer may say something
/// else of every second one of these.
#[derive(Debug, Default)]
struct Unanswered {
    settles: VecDeque<(u64, u64)>,
    messages: u64,
}

impl Unanswered {
    fn has_room(&self) -> bool {
        let messages_max = SETTLE_CREDITS * u64::from(GROUP_CREDIT_MESSAGES);
        self.settles.len() < SETTLES_UNANSWERED && self.messages < messages_max
    }

    fn push(&mut self, request: &SettleRequest) {
        let messages = request.settles.iter().map(|settle| settle.range.len()).sum();
        self.settles.push_back((request.number, messages));
        self.messages += messages;
    }

    /// All up to this one are.
    fn answered(&mut self, through: u64) {
        while let Some(&(number, messages)) = self.settles.front()
            && number <= through
        {
            self.settles.pop_front();
            self.messages -= messages;
        }
    }
}

/// The last numbers of what a member said.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    settle: u64,
    fetch: u64,
}

impl Line<'_> {
    /// Until either side ends it. That the member is gone, the group learns by `outputs`.
    async fn run(mut self) -> Result<(), SessionEnd> {
        let mut waiting = Vec::with_capacity(AT_A_TIME);
        let given_up = self.given_up.clone().cancelled_owned();
        tokio::pin!(given_up);
        loop {
            let Self { stream, member, fetches, seat, outputs, way, said, unanswered, .. } =
                &mut self;
            let QuicStream { writer, reader, stopping, is_carried, .. } = &mut **stream;
            let is_flushed = writer.is_flushed();
            if is_flushed {
                // Only who holds no memory begins to wait for some; nothing that takes any comes meanwhile.
                way.wait();
            }
            tokio::select! {
                biased;
                () = &mut given_up => {
                    if stopping.is_cancelled() {
                        release(seat, *member).await;
                        return Err(going_away());
                    }
                    // Who does not read cannot be told.
                    writer.reset(ErrorCode::Timeout);
                    return Err(SessionEnd::NotTaken);
                }
                frame = reader.next(), if unanswered.has_room() => {
                    if *is_carried && is_sent_away(&frame) {
                        release(seat, *member).await;
                    }
                    let input = input(*member, *fetches, said, frame)?;
                    if let MemberInput::Settle { request, .. } = &input {
                        unanswered.push(request);
                    }
                    // Closed: it ends, which is told by way of `outputs`.
                    seat.inputs.send(input).await.ok();
                }
                // What waits behind it may be more.
                flushed = flush(writer, &mut way.sent, way.memory.as_ref(), true), if !is_flushed => {
                    flushed?;
                }
                held = found(&mut way.room) => {
                    let room = MemberInput::Room { member: *member, held };
                    seat.inputs.send(room).await.ok();
                }
                received = outputs.recv_many(&mut waiting, AT_A_TIME), if is_flushed => {
                    if received == 0 {
                        // It moved, or was given up.
                        let message = "the group is not handed out here any more: join again";
                        return Err(WireError::new(ErrorCode::Unavailable, message).into());
                    }
                    send(writer, way, unanswered, waiting.drain(..))?;
                }
            }
        }
    }
}

/// Whether the node between sends its clients away.
fn is_sent_away(frame: &Result<Option<Frame>, ReadError>) -> bool {
    matches!(frame, Err(ReadError::Reset { code: Some(code) }) if *code == ErrorCode::GoingAway)
}

/// Where it is not the member that goes, no failure counts for what it has (CL-5).
async fn release(seat: &Seat, member: MemberId) {
    let released = seat.inputs.send(MemberInput::Released { member });
    timeout(RELEASE_TIME, released).await.ok();
}

/// What a member says, after what it has `said`.
fn input(
    member: MemberId,
    fetches: bool,
    said: &mut Said,
    frame: Result<Option<Frame>, ReadError>,
) -> Result<MemberInput, SessionEnd> {
    let Some(frame) = frame? else { return Err(SessionEnd::ClientLeft) };
    match frame.kind() {
        FrameKind::Settle => {
            let request = settle_request(frame.decode()?, said.settle)?;
            said.settle = request.number;
            Ok(MemberInput::Settle { member, request })
        }
        FrameKind::Fetch if fetches => {
            let fetch = fetch(frame.decode()?, said.fetch)?;
            said.fetch = fetch.number;
            Ok(MemberInput::Fetch { member, fetch })
        }
        FrameKind::DrainMember => Ok(MemberInput::Drain { member }),
        other => Err(SessionEnd::unexpected(other)),
    }
}

/// Queues frames of what comes for the member.
fn send(
    writer: &mut FrameWriter,
    way: &mut Way,
    unanswered: &mut Unanswered,
    outputs: impl Iterator<Item = MemberOutput>,
) -> Result<(), SessionEnd> {
    let mut frames = Vec::with_capacity(outputs.size_hint().0);
    let mut end = None;
    for output in outputs {
        match output {
            MemberOutput::Deliver(delivered) => {
                let (frame, held) = delivered.frame();
                if let Some(held) = held {
                    let bytes = held.bytes();
                    Sent::note(&mut way.sent, writer).add(held, bytes);
                }
                frames.push(frame);
            }
            MemberOutput::NoRoom(lack) => way.lack = Some(lack),
            MemberOutput::Settled(settled) => {
                unanswered.answered(settled.through);
                frames.push(Frame::new(&settled));
            }
            MemberOutput::Notice(notice) => {
                frames.push(Frame::new(&v1::GroupNotice { notice: Some(notice) }));
            }
            MemberOutput::End(error) => {
                end = Some(error);
                break;
            }
        }
    }
    Sent::note(&mut way.sent, writer);
    writer.queue_all(frames)?;
    end.map_or(Ok(()), |error| Err(error.into()))
}

/// What a member wants, of which numbers ascend.
fn fetch(fetch: v1::Fetch, last: u64) -> Result<Fetch, SessionEnd> {
    let v1::Fetch { number, messages, bytes, no_wait } = fetch;
    if number <= last {
        let message = format!("the number {number} of a fetch is not behind {last}");
        return Err(WireError::new(ErrorCode::ProtocolViolation, message).into());
    }
    let bytes = if bytes == 0 { u64::MAX } else { bytes };
    Ok(Fetch { number, messages: messages.into(), bytes, waits: !no_wait })
}

/// What a member says, of which numbers ascend.
fn settle_request(settle: v1::Settle, last: u64) -> Result<SettleRequest, SessionEnd> {
    let v1::Settle { number, items } = settle;
    let violation = |message: String| WireError::new(ErrorCode::ProtocolViolation, message);
    if number <= last {
        let message = format!("the number {number} of what is settled is not behind {last}");
        return Err(violation(message).into());
    }
    let (count, messages_max) = (items.len(), SETTLE_CREDITS * u64::from(GROUP_CREDIT_MESSAGES));
    let messages: u64 = items.iter().map(|item| u64::from(item.count)).sum();
    if count > SETTLE_ITEMS || messages > messages_max {
        let message = format!(
            "{count} items about {messages} messages at a time; the limits are {SETTLE_ITEMS} and \
             {messages_max}"
        );
        return Err(violation(message).into());
    }
    let settles = items.into_iter().map(|item| {
        let kind = match item.kind() {
            v1::SettleKind::SettleAck => SettleKind::Ack,
            v1::SettleKind::SettleNack => {
                let delay_ms = item.delay_ms.map(|ms| ms.min(DELAY_MS));
                SettleKind::Nack { delay_ms, error: reason(item.error.clone())? }
            }
            v1::SettleKind::SettleReject => {
                SettleKind::Reject { error: reason(item.error.clone())? }
            }
            v1::SettleKind::SettleExtend => SettleKind::Extend,
            v1::SettleKind::SettleBegin => SettleKind::Begin,
            v1::SettleKind::SettleUnspecified => {
                return Err(violation(format!("there is no kind {} of settling", item.kind)).into());
            }
        };
        let range = range("items", item.from, item.count)?;
        Ok(Settle { lease: item.lease, epoch: item.epoch, range, kind })
    });
    Ok(SettleRequest { number, settles: settles.collect::<Result<_, SessionEnd>>()? })
}

/// Why a delivery failed, as far as it is kept.
fn reason(text: String) -> Result<Option<Box<str>>, WireError> {
    if text.len() > FAILURE_BYTES {
        let message =
            format!("a reason has {} bytes, and at most {FAILURE_BYTES} are kept", text.len());
        return Err(WireError::new(ErrorCode::QuotaExceeded, message).with_retry(Retry::Never));
    }
    Ok((!text.is_empty()).then(|| text.into_boxed_str()))
}

#[cfg(test)]
mod tests {
    use railgun_types::{Offset, OffsetRange};

    use super::*;

    #[test]
    fn what_is_not_answered_is_about_so_many_messages() {
        let credit = u64::from(GROUP_CREDIT_MESSAGES);
        let request = |number, messages| SettleRequest {
            number,
            settles: vec![Settle {
                lease: 1,
                epoch: 0,
                range: OffsetRange::new(Offset(0), Offset(messages)),
                kind: SettleKind::Ack,
            }],
        };
        let mut unanswered = Unanswered::default();
        for number in 1..=3 {
            assert!(unanswered.has_room());
            unanswered.push(&request(number, credit - 1));
        }
        assert!(!unanswered.has_room(), "each may be answered otherwise than the next one");
        unanswered.answered(0);
        assert!(!unanswered.has_room());
        unanswered.answered(1);
        assert!(unanswered.has_room());
        for number in 4..=65 {
            unanswered.push(&request(number, 0));
        }
        assert!(!unanswered.has_room());
        unanswered.answered(65);
        assert_eq!((unanswered.settles.len(), unanswered.messages), (0, 0));
    }
}
