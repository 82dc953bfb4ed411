//! A member of a group, without its connection: what lies in its buffer, what the application has, and what
//! the server is still to be told.
//!
//! The application takes messages ([`Machine::take`], [`Machine::begin`]) and says what came of them
//! ([`Machine::ack`], [`Machine::say`]); the driver feeds the `on_*` inputs and sends what
//! [`Machine::poll_transmit`] gives. What waits is told in one frame, as ranges; up to
//! [`UNANSWERED_MAX`] frames are un-answered at a time, so that more is gathered the slower the server is.

use std::collections::{BTreeMap, VecDeque};

use railgun_proto::convert::Held;
use railgun_proto::v1;
use railgun_types::{GroupId, Offset, OffsetRange, StreamUid, Timestamp, limits};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::GroupError;
use super::event::{News, PauseReason, StaleReason};
use crate::subscribe::RecordRun;

mod leases;
mod pull;

use leases::Leases;
pub(crate) use leases::Tag;
pub(crate) use pull::Demand;
use pull::{EVERYTHING, Pull};

/// Most `Settle` frames that are un-answered at a time.
const UNANSWERED_MAX: usize = 4;
/// Most items in one of them.
const ITEMS_MAX: usize = limits::SETTLE_ITEMS;
/// Bytes of reasons in one of them.
const REASON_BYTES_MAX: usize = 256 << 10;
/// Most parts of deliveries that a member presents: some 600 KiB.
const HELD_MAX: usize = 20_000;
/// News that wait for the application; the oldest go first.
const NEWS_MAX: usize = 1_024;

/// What the server is told of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Begin,
    Ack,
    Nack { delay_ms: Option<u64>, error: Box<str> },
    Reject { error: Box<str> },
    Extend,
}

impl What {
    /// Whether a message is settled by it.
    fn is_end(&self) -> bool {
        !matches!(self, Self::Begin | Self::Extend)
    }

    fn is_failure(&self) -> bool {
        matches!(self, Self::Nack { .. } | Self::Reject { .. })
    }

    fn reason(&self) -> &str {
        match self {
            Self::Nack { error, .. } | Self::Reject { error } => error,
            Self::Begin | Self::Ack | Self::Extend => "",
        }
    }
}

/// One thing that is said of consecutive messages of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    lease: u64,
    epoch: u32,
    range: OffsetRange,
    what: What,
    /// It was sent before, and the answer was lost.
    again: bool,
}

impl Said {
    fn new(tag: Tag, range: OffsetRange, what: What) -> Self {
        Self { lease: tag.lease, epoch: tag.epoch, range, what, again: false }
    }

    fn to_wire(&self) -> v1::SettleItem {
        let (kind, delay_ms) = match &self.what {
            What::Begin => (v1::SettleKind::SettleBegin, None),
            What::Ack => (v1::SettleKind::SettleAck, None),
            What::Nack { delay_ms, .. } => (v1::SettleKind::SettleNack, *delay_ms),
            What::Reject { .. } => (v1::SettleKind::SettleReject, None),
            What::Extend => (v1::SettleKind::SettleExtend, None),
        };
        v1::SettleItem {
            lease: self.lease,
            from: self.range.start.0,
            // No delivery has more messages than a batch has records.
            count: self.range.len() as u32,
            epoch: self.epoch,
            kind: kind.into(),
            delay_ms,
            error: self.what.reason().to_owned(),
        }
    }
}

/// Consecutive messages of one delivery.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) tag: Tag,
    pub(crate) records: RecordRun,
}

impl Run {
    pub(crate) fn range(&self) -> OffsetRange {
        OffsetRange::new(self.records.first_offset(), self.records.next_offset())
    }
}

#[derive(Debug)]
enum Item {
    Run(Run),
    News(News),
}

/// What the application gets next.
#[derive(Debug)]
pub(crate) enum Taken {
    /// None of it is begun yet.
    Run(Run),
    News(News),
    Nothing,
    /// The member has no place any more, or wants none.
    Over(Option<GroupError>),
}

/// Why what was said of a message does not count.
#[derive(Clone, Debug)]
pub(crate) enum Unsettled {
    Stale(OffsetRange, StaleReason),
    Over(GroupError),
}

pub(crate) type Reply = oneshot::Sender<Result<(), Unsettled>>;

/// Somebody who waits for the answer to an ack.
#[derive(Debug)]
struct Waiter {
    range: OffsetRange,
    unanswered: u64,
    stale: Option<(OffsetRange, StaleReason)>,
    reply: Reply,
}

#[derive(Debug)]
struct Flight {
    number: u64,
    said: Vec<Said>,
}

/// What to send next.
#[derive(Debug, PartialEq)]
pub(crate) enum Transmit {
    Settle(v1::Settle),
    Fetch(v1::Fetch),
    Drain,
    /// All is said and answered, and nobody is there any more.
    Close,
    Wait,
}

/// Whose member this is: decided when it first joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Joined {
    pub(crate) stream_uid: StreamUid,
    pub(crate) group: GroupId,
}

#[derive(Clone, Debug)]
enum Phase {
    Open,
    /// Takes nothing new, but what the application has.
    Draining {
        told: bool,
        done: bool,
    },
    Over(Option<GroupError>),
}

/// A frame that the protocol does not allow here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error("it answered the settles up to {through}, of which {sent} were sent")]
    Unasked { through: u64, sent: u64 },
    #[error("{what} names {count} offsets from {from} on")]
    Span { what: &'static str, from: u64, count: u64 },
    #[error("it answered the fetch {number}, and the last one that was sent is {sent}")]
    Unfetched { number: u64, sent: u64 },
    #[error("it is without news")]
    NoNews,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Machine {
    credit_messages: usize,
    credit_bytes: usize,
    leases: Leases,
    buffer: VecDeque<Item>,
    buffer_bytes: usize,
    news: usize,
    /// What is not said by the marks of `leases`, in order.
    queue: VecDeque<Said>,
    flights: VecDeque<Flight>,
    /// Of the last frame that was sent.
    number: u64,
    /// By lease and first offset.
    waiters: BTreeMap<(u64, Offset), Waiter>,
    phase: Phase,
    /// What is fetched, by a member that is not sent what there is.
    pull: Option<Pull>,
    /// The application has nothing any more.
    closing: bool,
    /// The driver has nothing to send, and is to be woken when there is.
    parked: bool,
    connected: bool,
    /// Since when the server owes an answer and gives none.
    silent_since: Option<Instant>,
    /// One member at a time has everything, in order.
    exclusive: bool,
    /// Failures that are not answered.
    failures: usize,
}

impl Machine {
    /// `credit_bytes` counts encoded batches.
    pub(crate) fn new(credit_messages: u32, credit_bytes: u64) -> Self {
        Self {
            credit_messages: credit_messages as usize,
            credit_bytes: usize::try_from(credit_bytes).unwrap_or(usize::MAX),
            leases: Leases::default(),
            buffer: VecDeque::new(),
            buffer_bytes: 0,
            news: 0,
            queue: VecDeque::new(),
            flights: VecDeque::new(),
            number: 0,
            waiters: BTreeMap::new(),
            phase: Phase::Open,
            pull: None,
            closing: false,
            parked: false,
            connected: false,
            silent_since: None,
            exclusive: false,
            failures: 0,
        }
    }

    // ---- the application; those that return a `bool` say whether the driver must be woken

    /// The next run or news. The messages of a run are begun by [`Self::begin`].
    pub(crate) fn take(&mut self) -> Taken {
        let is_run = matches!(self.buffer.front(), Some(Item::Run(_)));
        if is_run && self.is_held_back() {
            return Taken::Nothing;
        }
        match (self.buffer.pop_front(), &self.phase) {
            (Some(Item::Run(run)), _) => {
                self.buffer_bytes -= run.records.bytes();
                Taken::Run(run)
            }
            (Some(Item::News(news)), _) => {
                self.news -= 1;
                Taken::News(news)
            }
            (None, Phase::Over(error)) => Taken::Over(error.clone()),
            (None, Phase::Draining { done: true, .. }) => Taken::Over(None),
            (None, Phase::Open | Phase::Draining { .. }) => Taken::Nothing,
        }
    }

    /// Whether messages wait for what comes of a failure: what failed is before them, and once it is
    /// answered, what is behind it has been taken back.
    pub(crate) fn is_held_back(&self) -> bool {
        self.exclusive && self.failures > 0 && !matches!(self.phase, Phase::Over(_))
    }

    /// The next news, whatever messages are in front of them.
    pub(crate) fn take_news(&mut self) -> Option<News> {
        let at = self.buffer.iter().position(|item| matches!(item, Item::News(_)))?;
        match self.buffer.remove(at) {
            Some(Item::News(news)) => {
                self.news -= 1;
                Some(news)
            }
            Some(Item::Run(_)) | None => None,
        }
    }

    /// Begins with the first messages of the range that are still this member's; which these are, maybe
    /// none.
    pub(crate) fn begin(&mut self, lease: u64, range: OffsetRange) -> (OffsetRange, bool) {
        let begun = self.leases.begin(lease, range);
        (begun, self.must_wake())
    }

    /// These are done. `reply` is told when that is committed.
    pub(crate) fn ack(&mut self, tag: Tag, range: OffsetRange, reply: Option<Reply>) -> bool {
        if let Some(reply) = reply {
            if let Phase::Over(error) = &self.phase {
                let over = Unsettled::Over(error.clone().unwrap_or(GroupError::Closed));
                // Whoever asked may be gone.
                let _ = reply.send(Err(over));
                return false;
            }
            let waiter = Waiter { range, unanswered: range.len(), stale: None, reply };
            self.waiters.insert((tag.lease, range.start), waiter);
        }
        if !self.leases.ack(tag.lease, range) {
            return self.say(tag, range, What::Ack);
        }
        self.must_wake()
    }

    /// Says something of these that is not coalesced with what is said of others, unless it is the same.
    pub(crate) fn say(&mut self, tag: Tag, range: OffsetRange, what: What) -> bool {
        if matches!(self.phase, Phase::Over(_)) {
            return false;
        }
        if what.is_end() {
            self.leases.say(tag.lease, range);
        }
        match self.queue.back_mut() {
            Some(last)
                if last.lease == tag.lease
                    && last.range.end == range.start
                    && !last.again
                    && last.what == what =>
            {
                last.range.end = range.end;
            }
            // It asks for time that it was just given.
            Some(last)
                if last.lease == tag.lease
                    && last.range == range
                    && what == What::Extend
                    && last.what == what => {}
            _ => {
                self.failures += usize::from(what.is_failure());
                self.queue.push_back(Said::new(tag, range, what));
            }
        }
        self.must_wake()
    }

    /// Takes nothing new: what lies in the buffer is given back.
    pub(crate) fn drain(&mut self) -> bool {
        if matches!(self.phase, Phase::Open) {
            self.phase = Phase::Draining { told: false, done: false };
        }
        self.unbuffer(EVERYTHING, |_| true);
        self.must_wake()
    }

    /// Nobody is there who could say anything more.
    pub(crate) fn close(&mut self) -> bool {
        self.closing = true;
        self.must_wake()
    }

    // ---- inputs of the driver

    /// A server has taken the member.
    pub(crate) fn on_joined(&mut self, exclusive: bool) {
        self.exclusive = exclusive;
        self.number = 0;
        self.connected = true;
        self.silent_since = None;
        if let Phase::Draining { told, .. } = &mut self.phase {
            *told = false;
        }
        if let Some(pull) = &mut self.pull {
            pull.on_joined();
        }
    }

    /// Messages were delivered.
    pub(crate) fn on_delivered(&mut self, run: Run) {
        if !matches!(self.phase, Phase::Open) {
            // They were on their way when the member said that it takes nothing new.
            return;
        }
        if self.pull.as_ref().is_some_and(|pull| !pull.is_answered()) {
            // They are of a fetch that is over: the server takes them back with the next one.
            return;
        }
        let mut untold = Vec::new();
        if self.leases.add(run.tag, run.range(), run.records.bytes(), &mut untold) {
            self.queue.extend(untold);
            self.sweep();
        }
        self.buffer_bytes += run.records.bytes();
        self.buffer.push_back(Item::Run(run));
        while self.leases.buffered() > self.credit_messages
            || self.buffer_bytes > self.credit_bytes.saturating_mul(2)
        {
            // A server has no more than the credit out: it has taken back older ones, as too long ago.
            let runs = self.buffer.iter().enumerate();
            let mut runs = runs.filter_map(|(at, item)| match item {
                Item::Run(run) => Some((at, run.tag.lease, run.range())),
                Item::News(_) => None,
            });
            let (Some((at, lease, range)), Some(_)) = (runs.next(), runs.next()) else { break };
            self.leases.unbuffer(range, |tag| tag.lease == lease);
            if let Some(Item::Run(run)) = self.buffer.remove(at) {
                self.buffer_bytes -= run.records.bytes();
            }
        }
    }

    /// News of the group.
    pub(crate) fn on_notice(&mut self, notice: &v1::GroupNotice) -> Result<(), Fault> {
        use v1::group_notice::Notice;
        let news = match notice.notice.as_ref().ok_or(Fault::NoNews)? {
            Notice::RewindTo(to) => {
                let range = OffsetRange::new(Offset(*to), Offset(u64::MAX));
                self.unbuffer(range, |_| true);
                return Ok(());
            }
            Notice::Drained(_) => {
                if let Phase::Draining { done, .. } = &mut self.phase {
                    *done = true;
                }
                return Ok(());
            }
            Notice::Fetching(number) => {
                return self.pull.as_mut().map_or(Ok(()), |pull| pull.on_fetching(*number));
            }
            Notice::Fetched(number) => {
                if let Some(pull) = &mut self.pull {
                    pull.on_fetched(*number);
                }
                return Ok(());
            }
            Notice::StalledAt(offset) => News::Stalled(Offset(*offset)),
            Notice::Resumed(_) => News::Resumed,
            Notice::Paused(pause) => {
                let pause = v1::GroupPause::try_from(*pause).unwrap_or_default();
                News::Paused(pause.into())
            }
            Notice::PausedUntilUs(us) => News::Paused(PauseReason::Until(Timestamp(*us))),
            Notice::Unpaused(_) => News::Unpaused,
            Notice::ActiveEpoch(epoch) => {
                // Older ones are fenced: they come again.
                self.unbuffer(EVERYTHING, |tag| tag.epoch < *epoch);
                News::Active(*epoch)
            }
            Notice::Inactive(_) => {
                self.unbuffer(EVERYTHING, |_| true);
                News::Inactive
            }
            Notice::Skipped(span) => {
                let count = span.to.saturating_sub(span.from);
                let fault = Fault::Span { what: "a notice", from: span.from, count };
                News::Skipped(OffsetRange::try_from(span).map_err(|_| fault)?)
            }
        };
        self.tell(news);
        Ok(())
    }

    /// The answer to all frames up to one.
    pub(crate) fn on_settled(&mut self, settled: &v1::Settled, now: Instant) -> Result<(), Fault> {
        let (through, sent) = (settled.through, self.number);
        if through > sent {
            return Err(Fault::Unasked { through, sent });
        }
        let mut stale = Vec::with_capacity(settled.stale.len());
        for part in &settled.stale {
            let (from, count) = (part.from, u64::from(part.count));
            let range = railgun_proto::convert::range("stale", from, part.count)
                .map_err(|_| Fault::Span { what: "a stale settle", from, count })?;
            stale.push((part.lease, range, StaleReason::from(part.reason())));
        }
        while self.flights.front().is_some_and(|flight| flight.number <= through)
            && let Some(flight) = self.flights.pop_front()
        {
            for said in flight.said {
                self.on_answer(&said, &stale);
            }
        }
        self.silent_since = (!self.flights.is_empty()).then_some(now);
        Ok(())
    }

    fn on_answer(&mut self, said: &Said, stale: &[(u64, OffsetRange, StaleReason)]) {
        self.failures -= usize::from(said.what.is_failure());
        let parts = stale.iter().filter(|(lease, ..)| *lease == said.lease);
        for (_, range, reason) in parts {
            let (range, reason) = (said.range.and(*range), *reason);
            // Of a failure that is said twice, the first one is what counts. An ack that counted is told so
            // however often it is said: one that was settled otherwise may be of a message that was given
            // up, and is not done (G-3).
            let is_repeated =
                said.again && reason == StaleReason::AlreadySettled && said.what != What::Ack;
            if range.is_empty() || is_repeated {
                continue;
            }
            self.leases.lost(said.lease, range);
            if said.what.is_end() && !self.refuse(said.lease, range, reason) {
                tracing::debug!(%range, ?reason, "a settle came too late");
                self.tell(News::Stale(range, reason));
            }
        }
        if said.what.is_end() {
            self.leases.answered(said.lease, said.range);
            self.confirm(said.lease, said.range);
        }
    }

    /// Notes that a part of what was said does not count. `false`: nobody waits for it.
    fn refuse(&mut self, lease: u64, range: OffsetRange, reason: StaleReason) -> bool {
        let mut is_told = false;
        let waiters = self.waiters.range_mut((lease, Offset(0))..(lease, range.end)).rev();
        for (_, waiter) in waiters.take_while(|(_, waiter)| waiter.range.end > range.start) {
            waiter.stale.get_or_insert((waiter.range.and(range), reason));
            is_told = true;
        }
        is_told
    }

    /// Tells those who wait that these are answered.
    fn confirm(&mut self, lease: u64, range: OffsetRange) {
        if self.waiters.is_empty() {
            return;
        }
        let mut done = Vec::new();
        let waiters = self.waiters.range_mut((lease, Offset(0))..(lease, range.end)).rev();
        for (key, waiter) in waiters.take_while(|(_, waiter)| waiter.range.end > range.start) {
            waiter.unanswered = waiter.unanswered.saturating_sub(waiter.range.and(range).len());
            if waiter.unanswered == 0 {
                done.push(*key);
            }
        }
        for key in done {
            let Some(waiter) = self.waiters.remove(&key) else { continue };
            let result = match waiter.stale {
                Some((range, reason)) => Err(Unsettled::Stale(range, reason)),
                None => Ok(()),
            };
            // Whoever asked may be gone.
            let _ = waiter.reply.send(result);
        }
    }

    /// The connection is gone. What was un-answered is said again on the next one; what was begun is
    /// presented as such.
    pub(crate) fn on_disconnected(&mut self) {
        self.connected = false;
        self.parked = false;
        self.silent_since = None;
        if self.pull.is_some() {
            // It is fetched once more: what the server had sent of it goes to others meanwhile.
            self.unbuffer(EVERYTHING, |_| true);
        }
        self.queue.retain(|said| said.what != What::Extend);
        let unanswered = std::mem::take(&mut self.flights).into_iter();
        let mut again: VecDeque<Said> =
            unanswered.flat_map(|flight| flight.said).filter(|said| said.what.is_end()).collect();
        again.iter_mut().for_each(|said| said.again = true);
        again.append(&mut self.queue);
        self.queue = again;
    }

    /// What the member has, to present it to the next server. Not for one that is connected.
    pub(crate) fn hold(&mut self) -> Vec<Held> {
        self.leases.hold(HELD_MAX)
    }

    /// The member has lost its place for good, or was closed.
    pub(crate) fn end(&mut self, error: Option<GroupError>) {
        if matches!(self.phase, Phase::Over(_)) {
            return;
        }
        let over = error.clone().unwrap_or(GroupError::Closed);
        for (_, waiter) in std::mem::take(&mut self.waiters) {
            let _ = waiter.reply.send(Err(Unsettled::Over(over.clone())));
        }
        self.unbuffer(EVERYTHING, |_| true);
        // What is still to be told stays so: it is not settled.
        self.connected = false;
        self.phase = Phase::Over(error);
    }

    // ---- output

    /// What to send next on a connection.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Transmit {
        self.parked = false;
        if self.flights.len() < UNANSWERED_MAX && self.has_to_say() {
            let mut said = Vec::new();
            self.leases.tell(ITEMS_MAX, &mut said);
            let mut reason_bytes = 0;
            while let Some(next) = self.queue.front()
                && said.len() < ITEMS_MAX
                && reason_bytes < REASON_BYTES_MAX
            {
                reason_bytes += next.what.reason().len();
                said.extend(self.queue.pop_front());
            }
            if !said.is_empty() {
                self.number += 1;
                let items = said.iter().map(Said::to_wire).collect();
                self.flights.push_back(Flight { number: self.number, said });
                self.silent_since.get_or_insert(now);
                return Transmit::Settle(v1::Settle { number: self.number, items });
            }
        }
        let is_quiet = !self.has_to_say() && self.flights.is_empty();
        match &mut self.phase {
            _ if self.closing && is_quiet => return Transmit::Close,
            // Behind the beginnings: a message that the application has is not given back.
            Phase::Draining { told, .. } if !*told && !self.leases.has_to_tell() => {
                *told = true;
                return Transmit::Drain;
            }
            _ => {}
        }
        // Behind all that was said: what is acked makes room, and what is begun is not given back.
        let has_to_say = self.has_to_say();
        if let Some(pull) = &mut self.pull
            && pull.is_untold()
            && matches!(self.phase, Phase::Open)
            && !has_to_say
        {
            return Transmit::Fetch(pull.tell());
        }
        self.parked = true;
        Transmit::Wait
    }

    // ---- views

    /// When the server must have answered the first frame that it has not, where it is given `timeout`.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        self.silent_since
    }

    /// Whether all that was said is answered.
    pub(crate) fn is_settled(&self) -> bool {
        !self.leases.is_owed()
            && self.waiters.is_empty()
            && !self.queue.iter().any(|said| said.what.is_end())
            && !self.flights.iter().flat_map(|flight| &flight.said).any(|said| said.what.is_end())
    }

    /// Whether the server says that nothing is left of this member.
    pub(crate) fn is_drained(&self) -> bool {
        matches!(self.phase, Phase::Draining { done: true, .. })
    }

    /// Whether frames are un-answered.
    pub(crate) fn is_owed(&self) -> bool {
        !self.flights.is_empty()
    }

    /// How it ended, if it has.
    pub(crate) fn over(&self) -> Option<Option<GroupError>> {
        match &self.phase {
            Phase::Over(error) => Some(error.clone()),
            Phase::Open | Phase::Draining { .. } => None,
        }
    }

    fn has_to_say(&self) -> bool {
        self.leases.has_to_tell() || !self.queue.is_empty()
    }

    fn must_wake(&mut self) -> bool {
        let drains = matches!(self.phase, Phase::Draining { told: false, .. });
        let may_say = self.has_to_say() && self.flights.len() < UNANSWERED_MAX;
        let fetches = self.pull.as_ref().is_some_and(Pull::is_untold);
        let wake = self.parked && self.connected && (may_say || drains || fetches || self.closing);
        self.parked &= !wake;
        wake
    }

    /// Takes messages out of the buffer.
    fn unbuffer(&mut self, range: OffsetRange, is_unwanted: impl Fn(Tag) -> bool) {
        self.leases.unbuffer(range, is_unwanted);
        self.sweep();
    }

    /// Drops runs of which nothing is wanted any more.
    fn sweep(&mut self) {
        let (leases, bytes) = (&self.leases, &mut self.buffer_bytes);
        self.buffer.retain(|item| match item {
            Item::Run(run) if !leases.is_buffered(run.tag.lease, run.range()) => {
                *bytes -= run.records.bytes();
                false
            }
            Item::Run(_) | Item::News(_) => true,
        });
    }

    fn tell(&mut self, news: News) {
        if let Some(Item::News(last)) = self.buffer.back_mut()
            && let Some(merged) = last.merged(news)
        {
            *last = merged;
            return;
        }
        if self.news >= NEWS_MAX
            && let Some(at) = self.buffer.iter().position(|item| matches!(item, Item::News(_)))
        {
            tracing::debug!("news of a group that nobody took are dropped");
            self.buffer.remove(at);
            self.news -= 1;
        }
        self.news += 1;
        self.buffer.push_back(Item::News(news));
    }
}

#[cfg(test)]
mod tests;
