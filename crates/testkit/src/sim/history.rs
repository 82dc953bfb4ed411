//! What was asked of the node and what it answered, and the rules that hold between them
//! (SEMANTICS §1 to §4). A rule that is broken is noted where it shows.

mod groups;
mod letters;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use railgun_broker::Clock;
use railgun_client::{ErrorCode, Message, PublishError, Published, Source, WireCode};
use railgun_types::{Offset, StreamUid, Timestamp};

use super::clock::SimClock;
use super::panics;
use super::random::Random;
use super::said::Said;
use super::shared::Shared;
use super::trace::Trace;
use groups::Groups;
pub use groups::{GroupNumber, Handed, MemberNumber};
use letters::Letter;

/// Bytes of a message's number, with which every value begins.
const NUMBER_BYTES: usize = 8;

/// No log is so far off the time: twice what the nodes' clocks may differ by, and what a sample may err.
const LOG_OFF_US_MAX: i64 = 25_000_000;

/// For so long what was wrong excuses what clients are told.
const EXCUSED: Duration = Duration::from_secs(10);

/// Number of a message; no two are equal.
pub type MessageId = u64;

/// Messages of one publisher handle to one stream, in the order they were given to it, between two
/// failures. With order kept, those that are in the stream are the first ones (PS-2).
#[derive(Clone, Copy, Debug)]
pub struct LaneId(usize);

/// How a message ended (PS-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not yet.
    Open,
    /// Acked.
    Published(Offset, Timestamp),
    /// Certainly not in the stream, now or later.
    Refused,
    /// In the stream or not.
    Unknown,
}

impl End {
    /// Of a message that its publisher was not acked.
    pub(super) fn of(error: &PublishError) -> Self {
        if error.is_definite() { Self::Refused } else { Self::Unknown }
    }
}

#[derive(Debug)]
struct Sent {
    stream: StreamUid,
    message: Message,
    sent_at: Duration,
    end: End,
    /// Where it was seen.
    at: Option<Offset>,
    /// It goes to a stream that knows messages by their ids, and may be sent more than once.
    boxed: Option<Boxed>,
}

/// How the sends of one message stand (DD-1, DD-2).
#[derive(Clone, Copy, Debug, Default)]
struct Boxed {
    /// Sends of which nothing is known yet.
    open: u32,
    /// Whether one of them was told that it is the first.
    is_told_first: bool,
}

#[derive(Debug)]
struct Lane {
    ordered: bool,
    messages: Vec<MessageId>,
}

#[derive(Debug, Default)]
struct Stream {
    /// Every record that was acked or seen.
    records: BTreeMap<Offset, (MessageId, Timestamp)>,
    /// Behind the last acked record.
    acked: Offset,
    deleted: bool,
}

/// Whether something is wrong on purpose, or was.
#[derive(Clone, Copy, Debug, Default)]
struct Health {
    is_ill: bool,
    /// When it was ill last.
    ill_at: Option<Duration>,
}

impl Health {
    fn set(&mut self, is_ill: bool, now: Duration) {
        if is_ill || self.is_ill {
            self.ill_at = Some(now);
        }
        self.is_ill = is_ill;
    }

    /// Whether that is a reason for what came about then or later.
    fn excuses(&self, since: Duration) -> bool {
        self.is_ill || self.ill_at.is_some_and(|ill_at| since < ill_at + EXCUSED)
    }
}

#[derive(Debug, Default)]
struct Inner {
    messages: Vec<Sent>,
    lanes: Vec<Lane>,
    /// Messages that must be at consecutive offsets, or nowhere (PS-4).
    atomic: Vec<Vec<MessageId>>,
    streams: BTreeMap<StreamUid, Stream>,
    /// When the disk was last made to fail.
    disk_hurt: Option<Duration>,
    bucket: Health,
    node: Health,
    /// What is never wrong, where log time is compared with it.
    right_clock: Option<SimClock>,
    groups: Groups,
    violations: Vec<String>,
}

/// See the module. Clones are one history.
#[derive(Clone, Debug)]
pub struct History {
    inner: Shared<Inner>,
    trace: Trace,
}

impl History {
    pub fn new(trace: Trace) -> Self {
        Self { inner: Shared::new(Inner::default()), trace }
    }

    /// Notes that a rule is broken.
    pub fn violated(&self, rule: &str, how: fmt::Arguments<'_>) {
        self.trace.note(format_args!("VIOLATION {rule}: {how}"));
        self.inner.with(|inner| inner.violations.push(format!("{rule}: {how}")));
    }

    /// From now on no record may be of a time that is still to come by this clock (CL-6).
    pub(super) fn compare_log_time(&self, right: SimClock) {
        self.inner.with(|inner| inner.right_clock = Some(right));
    }

    /// The disk begins to fail.
    pub(super) fn disk_was_hurt(&self) {
        let now = self.trace.elapsed();
        self.inner.with(|inner| inner.disk_hurt = Some(now));
    }

    /// Whether a failing disk may be the reason for what a client is told now.
    pub(super) fn disk_may_be_hurt(&self) -> bool {
        let now = self.trace.elapsed();
        let hurt = self.inner.with(|inner| inner.disk_hurt);
        hurt.is_some_and(|hurt| now - hurt < EXCUSED)
    }

    /// Something is wrong with the bucket, or nothing any more.
    pub(super) fn bucket_is_ill(&self, is_ill: bool) {
        let now = self.trace.elapsed();
        self.inner.with(|inner| inner.bucket.set(is_ill, now));
    }

    /// The node is down, or something is wrong with its disk or its connections, or nothing any more.
    pub(super) fn node_is_ill(&self, is_ill: bool) {
        let now = self.trace.elapsed();
        self.inner.with(|inner| inner.node.set(is_ill, now));
    }

    /// Whether what is wrong now, or was until a moment ago, is a reason to tell a client this.
    pub(super) fn excuses(&self, code: WireCode) -> bool {
        let WireCode::Known(code) = code else { return false };
        match code {
            ErrorCode::Internal => self.disk_may_be_hurt(),
            ErrorCode::ColdUnavailable | ErrorCode::ColdCorrupt => self.bucket_may_be_ill(),
            ErrorCode::Unavailable => self.node_may_be_ill(),
            _ => false,
        }
    }

    /// The same of a publisher, whom a failing disk is no reason to be told [`ErrorCode::Internal`].
    pub(super) fn excuses_refusal(&self, code: WireCode) -> bool {
        code == WireCode::Known(ErrorCode::Unavailable) && self.excuses(code)
    }

    /// Whether what is wrong, or was since a moment before the message was sent, is a reason to tell its
    /// publisher this, who may look at it much later.
    pub(super) fn excuses_end(&self, id: MessageId, error: &PublishError) -> bool {
        self.inner.with(|inner| {
            let sent_at = inner.messages[id as usize].sent_at;
            let is_node = inner.node.excuses(sent_at);
            match error {
                PublishError::Refused(refused) => {
                    refused.code == WireCode::Known(ErrorCode::Unavailable) && is_node
                }
                PublishError::NotSent { .. } | PublishError::Unknown { .. } => {
                    is_node || inner.bucket.excuses(sent_at)
                }
                PublishError::OrderBroken => true,
                // Its messages have no ids.
                PublishError::IdConflict { .. } | PublishError::Duplicate { .. } => false,
            }
        })
    }

    /// Whether that may be the reason why what lies there is not read.
    pub(super) fn bucket_may_be_ill(&self) -> bool {
        let now = self.trace.elapsed();
        self.inner.with(|inner| inner.bucket.excuses(now))
    }

    /// Whether the node is down now, or something is wrong with its disk or its connections.
    pub(super) fn is_node_ill(&self) -> bool {
        self.inner.with(|inner| inner.node.is_ill)
    }

    /// Whether that may be the reason why the node serves nobody.
    pub(super) fn node_may_be_ill(&self) -> bool {
        let now = self.trace.elapsed();
        self.inner.with(|inner| inner.node.excuses(now))
    }

    /// Whether anything that is wrong, or was until a moment ago, may be the reason why a client is not
    /// served: the node, or the bucket, without which its log fills.
    pub(super) fn excuses_silence(&self) -> bool {
        self.node_may_be_ill() || self.bucket_may_be_ill()
    }

    pub fn violations(&self) -> Vec<String> {
        self.take_panics();
        self.inner.with(|inner| inner.violations.clone())
    }

    pub fn is_sound(&self) -> bool {
        self.take_panics();
        self.inner.with(|inner| inner.violations.is_empty())
    }

    fn take_panics(&self) {
        for (rule, how) in panics::fresh() {
            self.violated(rule, format_args!("{how}"));
        }
    }

    pub fn lane(&self, ordered: bool) -> LaneId {
        self.inner.with(|inner| {
            inner.lanes.push(Lane { ordered, messages: Vec::new() });
            LaneId(inner.lanes.len() - 1)
        })
    }

    /// A new message: its number, and what to publish. Its value is `bytes` long but at least its
    /// number; one in five has everything besides that a message may have.
    pub fn message(&self, stream: StreamUid, lane: LaneId, bytes: usize) -> (MessageId, Message) {
        let sent_at = self.trace.elapsed();
        self.inner.with(|inner| {
            let id = inner.messages.len() as MessageId;
            let mut value = id.to_le_bytes().to_vec();
            let mut filler = Random::new(id);
            while value.len() < bytes {
                value.extend(filler.next().to_le_bytes());
            }
            value.truncate(bytes.max(NUMBER_BYTES));
            let mut message = Message::new(value);
            if filler.percent(20) {
                let key = filler.bytes()[..filler.within(0..17) as usize].to_vec();
                message = message
                    .with_key(key)
                    .with_header("h", id.to_string())
                    .with_header("h", Bytes::new())
                    .with_id(id.to_be_bytes().to_vec());
                message.producer_ts = Some(Timestamp(filler.within(0..1 << 50) as i64));
            }
            let sent = Sent {
                stream,
                message: message.clone(),
                sent_at,
                end: End::Open,
                at: None,
                boxed: None,
            };
            inner.messages.push(sent);
            inner.lanes[lane.0].messages.push(id);
            (id, message)
        })
    }

    /// A new message for a stream that knows messages by their ids: it has one, and may be sent again.
    pub(super) fn boxed_message(
        &self,
        stream: StreamUid,
        lane: LaneId,
        bytes: usize,
    ) -> (MessageId, Message) {
        let (id, _) = self.message(stream, lane, bytes);
        self.inner.with(|inner| {
            let sent = &mut inner.messages[id as usize];
            sent.message.id = Some(Bytes::from(id.to_be_bytes().to_vec()));
            sent.boxed = Some(Boxed { open: 1, is_told_first: false });
            (id, sent.message.clone())
        })
    }

    /// The same message, to be sent once more.
    pub(super) fn again(&self, id: MessageId) -> Message {
        self.inner.with(|inner| {
            let sent = &mut inner.messages[id as usize];
            sent.boxed.get_or_insert_default().open += 1;
            if sent.end == End::Refused {
                sent.end = End::Open;
            }
            sent.message.clone()
        })
    }

    /// One of the sends of a message has ended, as published if it was told where the message is.
    pub(super) fn boxed_ended(&self, id: MessageId, told: Result<Published, &PublishError>) {
        let (before, is_first_again, left) = self.inner.with(|inner| {
            let sent = &mut inner.messages[id as usize];
            let boxed = sent.boxed.get_or_insert_default();
            boxed.open -= 1;
            let is_first = told.is_ok_and(|published| !published.duplicate);
            let is_first_again = is_first && boxed.is_told_first;
            boxed.is_told_first |= is_first;
            (sent.end, is_first_again, boxed.open)
        });
        if is_first_again {
            let how = format_args!("two sends of message {id} were told that they are the first");
            self.violated("DD-2", how);
        }
        if let (Ok(published), End::Published(offset, _)) = (told, before)
            && published.offset != offset
        {
            let at = published.offset;
            let how = format_args!("message {id} is at {offset}, and told to be at {at}");
            self.violated("DD-2", how);
        }
        let end = match (before, told) {
            (End::Published(..), _) => return,
            (_, Ok(published)) => End::Published(published.offset, published.ts),
            (End::Unknown, Err(_)) => return,
            (_, Err(error)) => match End::of(error) {
                // Another send of it may still arrive.
                End::Refused if left > 0 => return,
                end => end,
            },
        };
        self.ended(id, end);
    }

    /// These messages were given to the publisher as one.
    pub fn atomic(&self, messages: Vec<MessageId>) {
        self.inner.with(|inner| inner.atomic.push(messages));
    }

    /// The publisher was told how a message ended.
    pub fn ended(&self, id: MessageId, end: End) {
        self.trace.note(format_args!("message {id} {end:?}"));
        self.trace.count(|counts| counts.refused += u64::from(end == End::Refused));
        let seen_at = self.inner.with(|inner| {
            let message = &mut inner.messages[id as usize];
            message.end = end;
            message.at
        });
        match (end, seen_at) {
            (End::Published(offset, ts), _) => {
                let stream = self.inner.with(|inner| inner.messages[id as usize].stream);
                self.record(stream, offset, ts, id, "its publisher");
                self.inner.with(|inner| {
                    let acked = &mut inner.streams.entry(stream).or_default().acked;
                    *acked = (*acked).max(offset.plus(1));
                });
            }
            (End::Refused, Some(at)) => {
                let how = format_args!("message {id} was refused for good, but is at offset {at}");
                self.violated("PS-3", how);
            }
            _ => {}
        }
    }

    /// A record was read.
    pub fn read(
        &self,
        stream: StreamUid,
        offset: Offset,
        ts: Timestamp,
        said: &Said<'_>,
        by: &str,
    ) -> Option<MessageId> {
        if let Some(letter) = Letter::of(said) {
            if self.of_letter(&letter).is_none() {
                let how = format_args!("{by} got {letter:?} at {offset}: nobody published that");
                self.violated("DL-4", how);
            }
            let Letter { stream: of, group, offset: dead, generation, .. } = letter;
            self.letter((stream, offset), (of, group, dead, generation), by);
            return None;
        }
        let Some(id) = self.identify(stream, said) else {
            let text = format_args!("{by} got bytes at offset {offset} that nobody published");
            self.violated("I9", text);
            return None;
        };
        if self.inner.with(|inner| inner.messages[id as usize].end == End::Refused) {
            let how =
                format_args!("message {id} was refused for good, but {by} read it at {offset}");
            self.violated("PS-3", how);
        }
        self.record(stream, offset, ts, id, by);
        Some(id)
    }

    /// Counts where a record was read from.
    pub fn read_from(&self, source: Source) {
        self.trace.count(|counts| match source {
            Source::Ring => counts.read_ring += 1,
            Source::Hot => counts.read_hot += 1,
            Source::Cold => counts.read_cold += 1,
            Source::Unknown => {}
        });
    }

    /// The message that says this, to the last byte.
    pub(super) fn identify(&self, stream: StreamUid, said: &Said<'_>) -> Option<MessageId> {
        let number = said.value.first_chunk::<NUMBER_BYTES>()?;
        let id = MessageId::from_le_bytes(*number);
        self.inner.with(|inner| {
            let sent = inner.messages.get(usize::try_from(id).ok()?)?;
            (sent.stream == stream && Said::from(&sent.message) == *said).then_some(id)
        })
    }

    /// Whoever learns what is at an offset learns the same (PS-1, PS-2, PQ-1).
    fn record(&self, stream: StreamUid, offset: Offset, ts: Timestamp, id: MessageId, by: &str) {
        let (known, elsewhere, now) = self.inner.with(|inner| {
            let records = &mut inner.streams.entry(stream).or_default().records;
            let known = *records.entry(offset).or_insert((id, ts));
            let at = inner.messages[id as usize].at.get_or_insert(offset);
            (known, *at, inner.right_clock.as_ref().map(Clock::now))
        });
        if let Some(now) = now
            && ts.0 - now.0 > LOG_OFF_US_MAX
        {
            let ahead = Duration::from_micros(ts.0.abs_diff(now.0));
            let how = format_args!("offset {offset} of {stream} is {ahead:?} ahead of the time");
            self.violated("CL-6", how);
        }
        if known != (id, ts) {
            let (other, before) = known;
            self.violated(
                "PS-1",
                format_args!(
                    "offset {offset} of {stream} was message {other} at {before:?}, and is message \
                     {id} at {ts:?} to {by}"
                ),
            );
        }
        if elsewhere != offset {
            let how =
                format_args!("message {id} is at offsets {elsewhere} and {offset} of {stream}");
            let is_boxed = self.inner.with(|inner| inner.messages[id as usize].boxed.is_some());
            self.violated(if is_boxed { "DD-2" } else { "PQ-1" }, how);
        }
    }

    /// A record was just acked, and all clocks have been known for long: it is not of a time that is long
    /// over (CL-6).
    pub(super) fn is_of_now(&self, stream: StreamUid, offset: Offset, ts: Timestamp) {
        let Some(now) = self.inner.with(|inner| inner.right_clock.as_ref().map(Clock::now)) else {
            return;
        };
        if now.0 - ts.0 > LOG_OFF_US_MAX {
            let behind = Duration::from_micros(ts.0.abs_diff(now.0));
            let how = format_args!("offset {offset} of {stream} is {behind:?} behind the time");
            self.violated("CL-6", how);
        }
    }

    /// Behind the last acked record of a stream.
    pub fn acked_end(&self, stream: StreamUid) -> Offset {
        self.inner.with(|inner| inner.streams.get(&stream).map_or(Offset(0), |s| s.acked))
    }

    /// Log time of a record, where it is known.
    pub(super) fn time_of(&self, stream: StreamUid, offset: Offset) -> Option<Timestamp> {
        self.inner.with(|inner| Some(inner.streams.get(&stream)?.records.get(&offset)?.1))
    }

    /// The stream is gone, and with it the promises about its records.
    pub(super) fn deleted(&self, stream: StreamUid) {
        self.inner.with(|inner| inner.streams.entry(stream).or_default().deleted = true);
    }

    /// Notes a record that came where `next` belongs; the one after it is next.
    pub fn follows(&self, rule: &str, stream: StreamUid, next: &mut Offset, offset: Offset) {
        if offset != *next {
            let how = format_args!("record {offset} of {stream} came where {next} belongs");
            self.violated(rule, how);
        }
        *next = offset.plus(1);
    }

    /// A stream that stays was read to its end: nothing that anybody was told or has seen lies behind.
    pub fn check_end(&self, stream: StreamUid, end: Offset) {
        let (acked, seen) = self
            .inner
            .with(|inner| {
                let stream = inner.streams.get(&stream).filter(|stream| !stream.deleted)?;
                let seen = stream.records.last_key_value();
                Some((stream.acked, seen.map_or(Offset(0), |(last, _)| last.plus(1))))
            })
            .unwrap_or_default();
        if end < acked {
            self.violated("PS-1", format_args!("stream {stream} ends at {end}, acked to {acked}"));
        } else if end < seen {
            self.violated("PS-5", format_args!("stream {stream} ends at {end}, seen to {seen}"));
        }
    }

    /// Every acked message of a stream that was not deleted.
    pub fn acked(&self) -> Vec<(StreamUid, Offset, MessageId)> {
        self.inner.with(|inner| {
            let acked = |(number, sent): (usize, &Sent)| match sent.end {
                End::Published(offset, _)
                    if !inner.streams.get(&sent.stream).is_some_and(|s| s.deleted) =>
                {
                    Some((sent.stream, offset, number as MessageId))
                }
                _ => None,
            };
            inner.messages.iter().enumerate().filter_map(acked).collect()
        })
    }

    /// Messages whose publishers do not know yet how they end.
    pub(super) fn open(&self) -> BTreeSet<MessageId> {
        self.inner.with(|inner| {
            let open = inner.messages.iter().enumerate().filter(|(_, sent)| sent.end == End::Open);
            open.map(|(number, _)| number as MessageId).collect()
        })
    }

    /// How many messages were given to publishers, and how many were acked.
    pub fn counts(&self) -> (u64, u64) {
        self.inner.with(|inner| {
            let acked = |sent: &&Sent| matches!(sent.end, End::Published(..));
            let published = inner.messages.iter().filter(acked).count();
            (inner.messages.len() as u64, published as u64)
        })
    }

    /// What can be said when everything has ended and every stream has been read to its end.
    pub fn check_whole(&self) {
        self.check_streams();
        let (lanes, atomic) = self.inner.with(|inner| {
            let place = |id: &MessageId| inner.messages[*id as usize].at;
            let places = |ids: &Vec<MessageId>| ids.iter().map(place).collect::<Vec<_>>();
            let ordered = inner.lanes.iter().filter(|lane| lane.ordered);
            let lanes: Vec<_> =
                ordered.map(|lane| (lane.messages.clone(), places(&lane.messages))).collect();
            let atomic: Vec<_> =
                inner.atomic.iter().map(|ids| (ids.clone(), places(ids))).collect();
            (lanes, atomic)
        });
        for (ids, places) in lanes {
            for (pair, at) in places.windows(2).zip(ids.windows(2)) {
                let fine = match (pair[0], pair[1]) {
                    (Some(first), Some(second)) => first < second,
                    (None, Some(_)) => false,
                    (_, None) => true,
                };
                if !fine {
                    let how = format_args!(
                        "messages {} and {} were sent in this order and are at {:?} and {:?}",
                        at[0], at[1], pair[0], pair[1]
                    );
                    self.violated("PS-2", how);
                }
            }
        }
        for (ids, places) in atomic {
            let whole = places.windows(2).all(|pair| match (pair[0], pair[1]) {
                (Some(first), Some(second)) => second == first.plus(1),
                (None, None) => true,
                _ => false,
            });
            if !whole {
                let how = format_args!("the atomic batch of messages {ids:?} is at {places:?}");
                self.violated("PS-4", how);
            }
        }
    }

    /// Offsets are dense, and log time never falls (PS-2, SEMANTICS §0).
    fn check_streams(&self) {
        let streams: Vec<(StreamUid, Vec<_>)> = self.inner.with(|inner| {
            let kept = inner.streams.iter().filter(|(_, stream)| !stream.deleted);
            kept.map(|(uid, stream)| {
                (*uid, stream.records.iter().map(|(o, (_, ts))| (*o, *ts)).collect())
            })
            .collect()
        });
        for (uid, records) in streams {
            let mut last = Timestamp(i64::MIN);
            for (wanted, (offset, ts)) in (0..).zip(records) {
                if offset != Offset(wanted) {
                    let how = format_args!("stream {uid} has no record at offset {wanted}");
                    return self.violated("PS-2", how);
                }
                if ts < last {
                    let how = format_args!("log time of stream {uid} falls at offset {offset}");
                    self.violated("log time", how);
                }
                last = ts;
            }
        }
    }
}

#[cfg(test)]
mod tests;
