//! Publishers: bursts of messages, atomic batches, expected ends; they notice what fails, resume, and
//! sometimes leave without a word.

use railgun_client::{
    AtomicTicket, ErrorCode, ExpectedEnd, Message, MultiPublisher, Offset, OpenError, PublishError,
    Publisher, StreamName, StreamUid, Ticket, WireCode,
};

use super::super::history::{End, LaneId, MessageId};
use super::Actor;

/// Messages that one handle has open at most before it looks at their ends.
const OPEN_MAX: usize = 300;

/// One handle, with what it has open.
struct Handle<'a> {
    actor: &'a Actor,
    publisher: Publisher,
    stream: StreamUid,
    ordered: bool,
    lane: LaneId,
    open: Vec<Open>,
    noticed: Noticed,
}

/// What messages of a handle were told since it went on last.
#[derive(Clone, Copy, Default)]
struct Noticed {
    /// One has failed for a reason of its own.
    has_failed: bool,
    /// One has failed because another had.
    is_broken: bool,
}

enum Open {
    One(MessageId, Ticket),
    Atomic(Vec<MessageId>, AtomicTicket),
}

/// Publishes to one stream at a time.
pub(super) async fn run(actor: Actor, ordered: bool) {
    while actor.goes_on() {
        let Some(client) = actor.connect().await else { return };
        let (name, stream) = actor.stream();
        let opened = client
            .publisher(name)
            .ordered(ordered)
            .max_in_flight(actor.draw(1..9) as usize)
            .buffer_bytes(*actor.random.with(|r| *r.pick(&[&(64 << 10), &(1 << 20)])))
            .open()
            .await;
        let publisher = match opened {
            Ok(publisher) => publisher,
            Err(error) => {
                judge_open(&actor, &error);
                actor.pause(1000).await;
                continue;
            }
        };
        let mut handle = Handle::new(&actor, publisher, stream, ordered);
        handle.work().await;
        let leaves = actor.percent(20);
        if !leaves {
            handle.settle().await;
        }
        let Handle { publisher, open, .. } = handle;
        if leaves {
            // What it left open stays so: nobody knows what becomes of it.
            actor.note(format_args!("leaves {} open", open.len()));
            drop(publisher);
        } else if actor.percent(70) {
            drop(publisher.close().await);
        }
    }
}

/// Publishes to every stream over one QUIC stream.
pub(super) async fn run_many(actor: Actor) {
    while actor.goes_on() {
        let Some(client) = actor.connect().await else { return };
        let multi = client.multi_publisher().open();
        let mut handles = Vec::new();
        for stream in actor.streams.iter() {
            handles.extend(bind(&actor, &multi, stream).await);
        }
        if handles.is_empty() {
            actor.pause(1000).await;
            continue;
        }
        for _ in 0..actor.draw(3..20) {
            let at = actor.draw(0..handles.len() as u64) as usize;
            handles[at].act().await;
            if !actor.goes_on() {
                break;
            }
            if actor.percent(33) {
                leave(&actor, &multi, &mut handles).await;
            }
            if handles.is_empty() {
                break;
            }
        }
        for handle in &mut handles {
            handle.settle().await;
        }
        drop(handles);
        multi.close().await;
    }
}

async fn bind<'a>(
    actor: &'a Actor,
    multi: &MultiPublisher,
    (name, stream): &(StreamName, StreamUid),
) -> Option<Handle<'a>> {
    match multi.bind(name.clone()).await {
        Ok(publisher) => Some(Handle::new(actor, publisher, *stream, true)),
        Err(error) => {
            judge_open(actor, &error);
            None
        }
    }
}

/// Leaves one of the streams, now and then in the middle of its messages, and comes back to it: to the
/// server as another producer, or as the one that it was if nothing came between (PQ-1).
async fn leave<'a>(actor: &'a Actor, multi: &MultiPublisher, handles: &mut Vec<Handle<'a>>) {
    let at = actor.draw(0..handles.len() as u64) as usize;
    let mut handle = handles.swap_remove(at);
    let stream = (handle.publisher.stream().clone(), handle.stream);
    if actor.percent(50) {
        handle.settle().await;
    }
    actor.note(format_args!("leaves {} with {} open", stream.0, handle.open.len()));
    actor.trace.count(|counts| counts.unbound += 1);
    let Handle { publisher, open, noticed, .. } = handle;
    drop(publisher);
    if actor.percent(50) {
        actor.pause(500).await;
    }
    let Some(mut handle) = bind(actor, multi, &stream).await else { return };
    (handle.open, handle.noticed) = (open, noticed);
    handles.push(handle);
}

impl<'a> Handle<'a> {
    fn new(actor: &'a Actor, publisher: Publisher, stream: StreamUid, ordered: bool) -> Self {
        let lane = actor.history.lane(ordered);
        let (open, noticed) = (Vec::new(), Noticed::default());
        Self { actor, publisher, stream, ordered, lane, open, noticed }
    }

    async fn work(&mut self) {
        for _ in 0..self.actor.draw(5..40) {
            if !self.actor.goes_on() {
                return;
            }
            self.act().await;
        }
    }

    async fn act(&mut self) {
        match self.actor.draw(0..100) {
            0..70 => {
                for _ in 0..self.actor.draw(1..60) {
                    self.send().await;
                }
            }
            70..80 => self.send_atomic().await,
            80..85 => self.send_expecting().await,
            _ => self.actor.pause(800).await,
        }
        if self.actor.percent(40) || self.open.len() > OPEN_MAX {
            self.settle().await;
        }
        if self.actor.percent(30) {
            self.actor.pause(200).await;
        }
    }

    fn message(&self) -> (MessageId, Message) {
        let bytes = match self.actor.draw(0..100) {
            0..80 => self.actor.draw(8..400),
            80..99 => self.actor.draw(400..6_000),
            _ => self.actor.draw(6_000..40_000),
        };
        self.actor.history.message(self.stream, self.lane, bytes as usize)
    }

    async fn send(&mut self) {
        let (id, message) = self.message();
        match self.publisher.send(message).await {
            Ok(ticket) => self.open.push(Open::One(id, ticket)),
            Err(_) => self.not_taken(&[id]).await,
        }
    }

    async fn send_atomic(&mut self) {
        let count = self.actor.draw(1..12);
        let (ids, messages): (Vec<_>, Vec<_>) = (0..count).map(|_| self.message()).unzip();
        self.actor.history.atomic(ids.clone());
        match self.publisher.send_atomic(&messages, None).await {
            Ok(ticket) => self.open.push(Open::Atomic(ids, ticket)),
            Err(_) => self.not_taken(&ids).await,
        }
    }

    /// Right only if nobody else publishes meanwhile.
    async fn send_expecting(&mut self) {
        self.settle().await;
        let acked = self.actor.history.acked_end(self.stream);
        let expected = match acked.0.checked_sub(1) {
            Some(last) => ExpectedEnd::LastOffset(Offset(last)),
            None => ExpectedEnd::Empty,
        };
        let (id, message) = self.message();
        match self.publisher.send_expecting(message, expected).await {
            Ok(ticket) => self.open.push(Open::One(id, ticket)),
            Err(_) => self.not_taken(&[id]).await,
        }
        for open in std::mem::take(&mut self.open) {
            if let Open::One(id, ticket) = open {
                let ended = ticket.await;
                if let Ok(published) = &ended
                    && published.offset != acked
                {
                    let at = published.offset;
                    let how = format_args!("message {id} expected offset {acked} and is at {at}");
                    self.actor.history.violated("expected_last_offset", how);
                }
                let is_other_end = matches!(
                    &ended,
                    Err(PublishError::Refused(refused))
                        if refused.code == WireCode::Known(ErrorCode::ExpectedOffsetMismatch)
                );
                // Somebody else has published.
                self.noticed.has_failed |= is_other_end;
                self.one_ended(id, ended.map(|p| (p.offset, p.ts)), is_other_end);
            }
        }
        self.order_needs_a_cause();
    }

    /// The publisher did not take these: they are nowhere. With order kept, it wants to be told to
    /// go on.
    async fn not_taken(&mut self, ids: &[MessageId]) {
        for id in ids {
            self.actor.history.ended(*id, End::Refused);
        }
        self.settle().await;
        self.resume().await;
    }

    async fn resume(&mut self) {
        self.actor.pause(300).await;
        self.publisher.resume().await;
        self.noticed = Noticed::default();
        self.lane = self.actor.history.lane(self.ordered);
    }

    /// Waits for the end of everything open.
    async fn settle(&mut self) {
        let mut failed = false;
        for open in std::mem::take(&mut self.open) {
            match open {
                Open::One(id, ticket) => {
                    let ended = ticket.await;
                    failed |= ended.is_err();
                    self.one_ended(id, ended.map(|p| (p.offset, p.ts)), false);
                }
                Open::Atomic(ids, ticket) => match ticket.await {
                    Ok(range) => {
                        if range.last.0 + 1 - range.first.0 != ids.len() as u64 {
                            let how = format_args!("{} messages are at {range:?}", ids.len());
                            self.actor.history.violated("PS-4", how);
                        }
                        for (at, id) in ids.into_iter().enumerate() {
                            let offset = range.first.plus(at as u64);
                            self.actor.history.ended(id, End::Published(offset, range.ts));
                        }
                    }
                    Err(error) => {
                        failed = true;
                        let end = End::of(&error);
                        ids.iter().for_each(|id| self.actor.history.ended(*id, end));
                        self.judge(ids[0], &error);
                    }
                },
            }
        }
        self.order_needs_a_cause();
        if failed {
            self.resume().await;
        }
    }

    fn one_ended(
        &mut self,
        id: MessageId,
        ended: Result<(Offset, railgun_client::Timestamp), PublishError>,
        is_excused: bool,
    ) {
        match ended {
            Ok((offset, ts)) => self.actor.history.ended(id, End::Published(offset, ts)),
            Err(error) => {
                self.actor.history.ended(id, End::of(&error));
                if !is_excused {
                    self.judge(id, &error);
                }
            }
        }
    }

    /// Nothing fails because of another message unless one has failed, be it of the same batch.
    fn order_needs_a_cause(&self) {
        let Noticed { has_failed, is_broken } = self.noticed;
        if is_broken && !has_failed {
            let how =
                format_args!("{}: nothing has failed, and the order is broken", self.actor.name);
            self.actor.history.violated("PS-2", how);
        }
    }

    /// Some refusals have no excuse here.
    fn judge(&mut self, id: MessageId, error: &PublishError) {
        self.actor.note(format_args!("failed: {error}"));
        match error {
            PublishError::OrderBroken => self.noticed.is_broken = true,
            _ => self.noticed.has_failed = true,
        }
        judge_end(self.actor, id, error);
    }
}

/// Some ends of a message have no excuse here.
pub(super) fn judge_end(actor: &Actor, id: MessageId, error: &PublishError) {
    let mut is_told = false;
    if let PublishError::Refused(refused) = error {
        is_told = is_excused(refused.code);
        let is_full = refused.code == WireCode::Known(ErrorCode::HotTierFull);
        actor.trace.count(|counts| counts.refused_full += u64::from(is_full));
    }
    if !is_told && !actor.history.excuses_end(id, error) {
        actor.history.violated("PS errors", format_args!("{} was told: {error}", actor.name));
    }
}

/// Some refusals to open a publisher have no excuse here.
pub(super) fn judge_open(actor: &Actor, error: &OpenError) {
    actor.note(format_args!("{error}"));
    let is_excused = match error {
        OpenError::Refused { error, .. } => {
            is_excused(error.code) || actor.history.excuses_refusal(error.code)
        }
        OpenError::Unreachable { .. } => actor.history.excuses_silence(),
        OpenError::Closed { .. } => true,
        OpenError::TooManyStreams { .. } => false,
    };
    if !is_excused {
        let how = format_args!("{}: {error}", actor.name);
        actor.history.violated("PS errors", how);
    }
}

/// Whether a publisher that does nothing wrong may be told this at any time.
fn is_excused(code: WireCode) -> bool {
    matches!(
        code,
        WireCode::Known(ErrorCode::HotTierFull | ErrorCode::GoingAway | ErrorCode::StreamStarting)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publisher_that_does_nothing_wrong_is_not_told_so() {
        assert!(is_excused(WireCode::Known(ErrorCode::HotTierFull)));
        for code in [
            ErrorCode::Internal,
            ErrorCode::StreamNotFound,
            ErrorCode::ProducerFenced,
            ErrorCode::OrderBroken,
            ErrorCode::ExpectedOffsetMismatch,
        ] {
            assert!(!is_excused(WireCode::Known(code)), "{code:?}");
        }
    }
}
