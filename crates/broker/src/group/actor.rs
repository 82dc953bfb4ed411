//! Owns the handing out of one group's messages, on the leader of its shard. Inputs: what members say, what
//! became of changes of the group. Outputs: deliveries and news to members, changes and dead letters to the
//! shard's owner. Never: waits for a member.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use railgun_core::command::{Append, AppendMode, DeadLetterOf, ExpectedNext, GroupChanges};
use railgun_core::dispatcher::{
    Dispatcher, Effect, Fetch, Left, MemberId, OfferedRun, Start, Time, Want,
};
use railgun_core::group::{Context, GroupState, HeldState};
use railgun_core::shard::{AppendRefusal, Appended};
use railgun_proto::WireError;
use railgun_raft::LeaderWatch;
use railgun_types::{
    ErrorCode, GroupId, GroupName, GroupSpec, Offset, OffsetRange, StreamName, StreamUid, Timestamp,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::feed::{Fed, Feed, Run};
use super::letters::Obituary;
use super::told::told;
use super::{Delivered, INPUTS, Lack, MemberInput, MemberOutput, NoRoom, Outbox, Piece, UPDATES};
use crate::actors::Actors;
use crate::clock::Clock;
use crate::reader::ReadSources;
use crate::shard::ShardHandle;
use crate::wire_error::not_handed_over;

/// Inputs that are handled before the next messages are handed out.
const AT_A_TIME: usize = 256;
/// How long it stays without members: who was cut off for a moment finds it as it was.
const LINGERS: Duration = Duration::from_secs(5);

/// What handing out a group takes.
pub(crate) struct GroupSpawn {
    /// By which what it says is told from what another said that handed the group out before.
    pub(crate) number: u64,
    pub(crate) id: GroupId,
    pub(crate) name: GroupName,
    pub(crate) stream: StreamUid,
    pub(crate) stream_name: StreamName,
    /// The stream of its dead letters.
    pub(crate) companion: StreamUid,
    pub(crate) spec: GroupSpec,
    pub(crate) state: GroupState,
    /// In which this replica leads, and for how long it has.
    pub(crate) term: u64,
    pub(crate) leading_for: Duration,
    /// Members may come back that who handed it out before in this term had.
    pub(crate) was_left: bool,
    pub(crate) log_time: Timestamp,
    /// The offset of the stream's next record, and the companion's.
    pub(crate) next: Offset,
    pub(crate) next_letter: Offset,
    pub(crate) leader: LeaderWatch,
    pub(crate) sources: ReadSources,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The ways to a group that is handed out.
#[derive(Debug)]
pub(crate) struct LiveGroup {
    pub(crate) number: u64,
    pub(crate) inputs: mpsc::Sender<MemberInput>,
    pub(crate) updates: mpsc::Sender<GroupUpdate>,
    pub(crate) figures: watch::Receiver<GroupFigures>,
}

impl LiveGroup {
    /// Whether it has members, or had some when it ended.
    pub(crate) fn has_members(&self) -> bool {
        self.figures.borrow().members > 0
    }
}

/// What there is to tell about a group that is handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupFigures {
    pub(crate) members: u32,
    /// Messages that members have and have not settled.
    pub(crate) leased: u64,
}

/// What the shard's owner has applied of a group.
#[derive(Clone, Debug)]
pub(crate) enum GroupUpdate {
    /// Changes in one entry; those of this group are the one at `index`.
    Changes {
        /// Of the entry.
        term: u64,
        log_time: Timestamp,
        groups: Arc<Vec<GroupChanges>>,
        index: usize,
    },
    /// A dead letter is in the companion.
    Died { offset: Offset, generation: u32 },
    /// The settings changed.
    Spec(Box<GroupSpec>),
    /// The group, or its stream, is no more.
    Deleted,
}

struct Actor {
    number: u64,
    id: GroupId,
    name: GroupName,
    stream: StreamUid,
    stream_name: StreamName,
    companion: StreamUid,
    shard: ShardHandle,
    clock: Arc<dyn Clock>,
    leader: LeaderWatch,
    term: u64,
    /// When this replica's lead began: from then on the dispatcher counts.
    leads_since: Instant,
    dispatcher: Dispatcher,
    effects: Vec<Effect>,
    members: BTreeMap<MemberId, Outbox>,
    /// Those for which room has come since messages were handed out the last time.
    roomy: Vec<MemberId>,
    /// One for each member, which ends when that is gone.
    gone: FuturesUnordered<BoxFuture<'static, MemberId>>,
    /// Since when there is none.
    deserted: Option<Instant>,
    fresh: Feed,
    retries: Feed,
    letters: Letters,
    figures: watch::Sender<GroupFigures>,
}

/// Dead letters that are to be made.
struct Letters {
    waiting: VecDeque<(Offset, u32)>,
    feed: Feed,
    /// The one that was proposed, and what comes of it.
    proposed: Option<((Offset, u32), LetterResult)>,
    /// The number of the next one: its offset in the companion.
    next: Offset,
}

/// `None`: it was not looked at, or nobody knows.
type LetterResult = BoxFuture<'static, Option<Result<Appended, AppendRefusal>>>;

/// Why it ends.
enum End {
    /// Nobody needs it.
    Deserted,
    /// The shard's owner has let go of it.
    NotLeading,
    Deleted,
}

impl GroupSpawn {
    pub(crate) fn spawn(self, actors: &Actors) -> LiveGroup {
        let (inputs, from_members) = mpsc::channel(INPUTS);
        let (updates, from_shard) = mpsc::channel(UPDATES);
        let (figures, watch) = watch::channel(GroupFigures::default());
        let feed = || Feed::new(self.sources.clone(), self.stream);
        let (fresh, retries, of_letters) = (feed(), feed(), feed());
        let begun = Instant::now();
        let leads_since = begun.checked_sub(self.leading_for).unwrap_or(begun);
        let mut effects = Vec::new();
        let now = time_since(leads_since);
        let start = Start {
            term: self.term,
            // Nobody hands out more than one delivery a microsecond.
            leases_before: now.0,
            now,
            log_time: self.log_time,
            leading_since: if self.was_left { now } else { Time(0) },
            tail: self.next,
        };
        let dispatcher = Dispatcher::new(self.state, self.spec, start, &mut effects);
        let number = self.number;
        let actor = Actor {
            number,
            id: self.id,
            name: self.name,
            stream: self.stream,
            stream_name: self.stream_name,
            companion: self.companion,
            shard: self.sources.shard.clone(),
            clock: self.clock,
            leader: self.leader,
            term: self.term,
            leads_since,
            dispatcher,
            effects,
            members: BTreeMap::new(),
            roomy: Vec::new(),
            gone: FuturesUnordered::new(),
            deserted: Some(begun),
            fresh,
            retries,
            letters: Letters {
                waiting: VecDeque::new(),
                feed: of_letters,
                proposed: None,
                next: self.next_letter,
            },
            figures,
        };
        actors.spawn("a consumer group", actor.run(from_members, from_shard));
        LiveGroup { number, inputs, updates, figures: watch }
    }
}

impl Actor {
    async fn run(
        mut self,
        mut inputs: mpsc::Receiver<MemberInput>,
        mut updates: mpsc::Receiver<GroupUpdate>,
    ) {
        let end = self.work(&mut inputs, &mut updates).await;
        // Whoever is on the way here is told like the others.
        inputs.close();
        while let Ok(input) = inputs.try_recv() {
            match input {
                MemberInput::Joined { member, to, .. } => drop(self.members.insert(member, to)),
                input => input.refuse(),
            }
        }
        let error = match end {
            End::Deserted | End::NotLeading => {
                let message = "the group is not handed out here any more: join again";
                WireError::new(ErrorCode::Unavailable, message)
            }
            End::Deleted => {
                let message = format!("group '{}' was deleted", self.name);
                WireError::new(ErrorCode::GroupNotFound, message)
            }
        };
        for outbox in self.members.into_values() {
            outbox.to.try_send(MemberOutput::End(error.clone())).ok();
        }
    }

    async fn work(
        &mut self,
        inputs: &mut mpsc::Receiver<MemberInput>,
        updates: &mut mpsc::Receiver<GroupUpdate>,
    ) -> End {
        let mut waiting = Vec::with_capacity(AT_A_TIME);
        loop {
            self.do_effects();
            self.hand_out();
            self.do_effects();
            self.propose_letter();
            if let Some(changes) = self.dispatcher.take_proposal() {
                let group = GroupChanges { group: self.id, term: self.term, changes };
                if self.shard.change_group(self.number, group).await.is_err() {
                    return End::NotLeading;
                }
            }
            self.publish_figures();
            let deadline = self.deadline();
            tokio::select! {
                biased;
                changed = self.leader.changed() => {
                    let state = self.leader.state();
                    if changed.is_err() || state.term != self.term || !state.serving {
                        return End::NotLeading;
                    }
                }
                update = updates.recv() => match update {
                    None => return End::NotLeading,
                    Some(GroupUpdate::Deleted) => return End::Deleted,
                    // Another mode is another way of handing out: members join again.
                    Some(GroupUpdate::Spec(spec))
                        if spec.mode != self.dispatcher.spec().mode =>
                    {
                        return End::NotLeading;
                    }
                    Some(update) => self.on_update(update),
                },
                // What comes by itself at most once for each piece of work is before what members say,
                // which may be without end.
                Some(member) = self.gone.next(), if !self.gone.is_empty() => {
                    // What it said before it went counts.
                    for _ in 0..INPUTS {
                        let Ok(input) = inputs.try_recv() else { break };
                        self.on_input(input);
                    }
                    self.on_gone(member, Left::Closed);
                }
                fed = self.fresh.next() => {
                    if self.on_fed(fed) {
                        return End::Deleted;
                    }
                    if let Some(end) = self.fresh.end() {
                        self.dispatcher.on_tail(end, &mut self.effects);
                    }
                }
                fed = self.retries.next() => {
                    if matches!(fed, Fed::Failed(_)) {
                        let (now, offset) = (self.now(), self.retries.reads_at());
                        self.dispatcher.on_unreadable(now, offset);
                    }
                    if self.on_fed(fed) {
                        return End::Deleted;
                    }
                }
                fed = self.letters.feed.next() => {
                    if matches!(fed, Fed::Failed(_)) {
                        self.put_off_letter();
                    }
                    if self.on_fed(fed) {
                        return End::Deleted;
                    }
                }
                result = letter_result(&mut self.letters.proposed) => {
                    self.on_letter_proposed(result);
                }
                () = sleep_until(deadline.unwrap_or(self.leads_since)), if deadline.is_some() => {
                    if self.is_deserted() {
                        return End::Deserted;
                    }
                    let (now, log_time) = (self.now(), self.clock.now());
                    self.dispatcher.on_deadline(now, log_time, &mut self.effects);
                }
                received = inputs.recv_many(&mut waiting, AT_A_TIME) => {
                    if received == 0 {
                        return End::NotLeading;
                    }
                    waiting.drain(..).for_each(|input| self.on_input(input));
                }
            }
        }
    }

    fn now(&self) -> Time {
        time_since(self.leads_since)
    }

    /// When something is due.
    fn deadline(&self) -> Option<Instant> {
        let due = self.dispatcher.next_deadline();
        let due = due.map(|due| self.leads_since + Duration::from_micros(due.0));
        let deserted = self.deserted.filter(|_| !self.is_busy()).map(|since| since + LINGERS);
        [due, deserted].into_iter().flatten().min()
    }

    /// Whether it has something to do without members.
    fn is_busy(&self) -> bool {
        !self.letters.waiting.is_empty()
            || self.letters.proposed.is_some()
            || self.dispatcher.state().unsettled_held().dying > 0
    }

    fn is_deserted(&self) -> bool {
        self.deserted.is_some_and(|since| since.elapsed() >= LINGERS) && !self.is_busy()
    }

    fn on_input(&mut self, input: MemberInput) {
        let now = self.now();
        match input {
            MemberInput::Joined { member, credit, held, fetches, to } => {
                let sender = to.to.clone();
                self.gone.push(Box::pin(async move {
                    sender.closed().await;
                    member
                }));
                self.members.insert(member, to);
                self.deserted = None;
                self.dispatcher.on_join(now, member, credit, &held, &mut self.effects);
                if fetches {
                    let nothing = Fetch { number: 0, messages: 0, bytes: 0, waits: true };
                    self.dispatcher.on_fetch(now, member, nothing, &mut self.effects);
                }
            }
            MemberInput::Fetch { member, fetch } => {
                if self.members.contains_key(&member) {
                    self.dispatcher.on_fetch(now, member, fetch, &mut self.effects);
                }
            }
            MemberInput::Settle { member, request } => {
                if self.members.contains_key(&member) {
                    self.dispatcher.on_settle(now, member, &request, &mut self.effects);
                }
            }
            MemberInput::HandOver { reply } => {
                let begun = self.dispatcher.on_hand_over(now, None, &mut self.effects);
                let begun = begun.map(|()| self.dispatcher.leased());
                // Whoever asked may be gone.
                reply.send(begun.map_err(|refused| not_handed_over(&self.name, refused))).ok();
            }
            MemberInput::Room { member, held } => {
                if let Some(outbox) = self.members.get_mut(&member) {
                    self.dispatcher.on_room(member, held.bytes() as u64);
                    outbox.room = Some(held);
                    self.roomy.push(member);
                }
            }
            MemberInput::Released { member } => self.on_gone(member, Left::Drained),
            MemberInput::Drain { member } => {
                if self.members.contains_key(&member) {
                    self.dispatcher.on_drain(now, member, &mut self.effects);
                }
            }
        }
    }

    fn on_gone(&mut self, member: MemberId, how: Left) {
        if self.members.remove(&member).is_none() {
            return;
        }
        if self.members.is_empty() {
            self.deserted = Some(Instant::now());
        }
        let now = self.now();
        self.dispatcher.on_leave(now, member, how, &mut self.effects);
    }

    fn on_update(&mut self, update: GroupUpdate) {
        let now = self.now();
        match update {
            GroupUpdate::Changes { term, log_time, groups, index } => {
                let said = &groups[index];
                let spec = self.dispatcher.spec().clone();
                let context = Context { spec: &spec, said_in: said.term, term, log_time };
                self.dispatcher.on_applied(now, &context, said, &mut self.effects);
            }
            GroupUpdate::Died { offset, generation } => {
                self.letters.next = self.letters.next.plus(1);
                self.dispatcher.on_dead_letter(now, offset, generation, &mut self.effects);
            }
            GroupUpdate::Spec(spec) => self.dispatcher.on_spec(now, *spec, &mut self.effects),
            GroupUpdate::Deleted => {}
        }
    }

    /// Whether the stream is gone.
    fn on_fed(&self, fed: Fed) -> bool {
        match fed {
            Fed::Records => false,
            Fed::Deleted => true,
            Fed::Failed(failure) => {
                tracing::warn!(
                    stream = %self.stream_name, group = %self.name, %failure,
                    "messages of a group cannot be read now; it is tried again"
                );
                false
            }
        }
    }

    /// Hands out what was read, as far as members take it.
    fn hand_out(&mut self) {
        self.hand_out_all();
        // What was waited for and is not used now is not kept: others may wait for it.
        for member in self.roomy.drain(..) {
            if let Some(outbox) = self.members.get_mut(&member) {
                outbox.room = None;
            }
        }
    }

    fn hand_out_all(&mut self) {
        self.dispatcher.put_off_retries(false);
        loop {
            let want = self.dispatcher.wants();
            let is_retry = matches!(want, Want::Retry(_));
            let (feed, offset) = match want {
                Want::Nothing => {
                    self.dispatcher.end_fetches(&mut self.effects);
                    // What comes next is read before anybody can take it.
                    if !self.members.is_empty() {
                        self.fresh.at(self.dispatcher.reads_ahead_at());
                    }
                    return;
                }
                Want::Fresh(offset) => (&mut self.fresh, offset),
                Want::Retry(offset) => (&mut self.retries, offset),
            };
            let Some(run) = feed.at(offset) else {
                if !is_retry {
                    return;
                }
                self.dispatcher.put_off_retries(true);
                match self.dispatcher.wants() {
                    Want::Fresh(_) => continue,
                    Want::Retry(_) | Want::Nothing => return,
                }
            };
            let (begun, now) = (self.effects.len(), time_since(self.leads_since));
            let offered = OfferedRun { base: offset, bytes: run.sizes() };
            let taken = self.dispatcher.assign(now, &offered, &mut self.effects);
            let unsent = deliver(&mut self.members, run, &mut self.effects, begun);
            for (member, range) in unsent {
                self.dispatcher.on_unsent(member, range);
            }
            run.advance(taken);
            if taken == 0 {
                // It was too large for whoever has room.
                if self.dispatcher.wants() == Want::Nothing {
                    self.dispatcher.end_fetches(&mut self.effects);
                }
                return;
            }
        }
    }

    fn do_effects(&mut self) {
        let effects = std::mem::take(&mut self.effects);
        for effect in effects {
            if let Effect::Dying { offset, generation } = effect {
                self.letters.waiting.push_back((offset, generation));
            } else if let Some((member, output)) = told(effect) {
                tell(&self.members, member, output);
            }
        }
    }

    /// The message of the next dead letter cannot be read: it stays dying, and others go before it.
    fn put_off_letter(&mut self) {
        if let Some((offset, _)) = self.letters.waiting.pop_front() {
            let now = self.now();
            self.dispatcher.on_dead_letter_failed(now, offset);
        }
    }

    /// Proposes the next dead letter, if it was read.
    fn propose_letter(&mut self) {
        while let Some(&(offset, generation)) = self.letters.waiting.front() {
            if self.letters.proposed.is_some() {
                return;
            }
            let held = self.dispatcher.state().held(offset);
            let held = held.filter(|held| held.generation == generation);
            let Some((held, HeldState::Dying { reason })) = held.map(|held| (held, held.state))
            else {
                // It is dead by now, or an operator has decided otherwise.
                self.letters.waiting.pop_front();
                continue;
            };
            let Some(run) = self.letters.feed.at(offset) else { return };
            let seq = self.letters.next;
            let obituary = Obituary {
                stream: &self.stream_name,
                uid: self.stream,
                group: &self.name,
                offset,
                seq,
                reason: reason.name(),
                attempts: held.attempts,
                error: held.error.as_deref(),
                first_failed: held.first_failed,
                died_at: self.clock.now(),
                generation,
            };
            let batch = match obituary.letter(run) {
                Ok(batch) => batch,
                Err(refused) => {
                    tracing::error!(
                        stream = %self.stream_name, group = %self.name, %offset, %refused,
                        "a message that is given up cannot be made a dead letter: it stays dying"
                    );
                    self.letters.waiting.pop_front();
                    continue;
                }
            };
            let item = Append {
                stream: self.companion,
                producer: None,
                mode: AppendMode::Each,
                expected_end: Some(ExpectedNext(seq.0)),
                dead_letter: Some(DeadLetterOf { group: self.id, offset, generation }),
                batch,
            };
            let shard = self.shard.clone();
            let appended = Box::pin(async move { shard.append_dead_letter(item).await });
            self.letters.proposed = Some(((offset, generation), appended));
            return;
        }
    }

    fn on_letter_proposed(&mut self, result: Option<Result<Appended, AppendRefusal>>) {
        let Some((letter, _)) = self.letters.proposed.take() else { return };
        if let Some(Err(AppendRefusal::ExpectedEnd { actual })) = result {
            self.letters.next = actual;
            return;
        }
        // Others may have come before it meanwhile.
        self.letters.waiting.retain(|waiting| *waiting != letter);
        if !matches!(result, Some(Ok(_))) {
            let now = self.now();
            self.dispatcher.on_dead_letter_failed(now, letter.0);
        }
    }

    fn publish_figures(&self) {
        let figures = GroupFigures {
            members: u32::try_from(self.members.len()).unwrap_or(u32::MAX),
            leased: self.dispatcher.leased(),
        };
        self.figures.send_if_modified(|told| {
            let is_new = *told != figures;
            *told = figures;
            is_new
        });
    }
}

/// Sends what was just assigned out of `run`, and what members are to hear with it, in the order in which it
/// came about: what a rewind takes back was delivered before it, what it is followed by was not. Returns
/// what was not sent for lack of memory: nothing behind that is sent to the same member.
fn deliver(
    members: &mut BTreeMap<MemberId, Outbox>,
    run: &Run,
    effects: &mut Vec<Effect>,
    from: usize,
) -> Vec<(MemberId, OffsetRange)> {
    let (first, delivery) = (run.first(), &run.delivery);
    let mut unsent: Vec<(MemberId, OffsetRange)> = Vec::new();
    let sent = |effect: &mut Effect| {
        let Effect::Deliver { member, lease, range, attempt, epoch, generation } = *effect else {
            // What it was not sent it has not fetched.
            if let Effect::Fetched { member, .. } = *effect
                && unsent.iter().any(|(other, _)| *other == member)
            {
                return true;
            }
            let told = told(effect.clone());
            let is_told = told.is_some();
            if let Some((member, output)) = told {
                tell(members, member, output);
            }
            return is_told;
        };
        let Some(outbox) = members.get_mut(&member) else { return true };
        // Within the batch.
        let (at, count) = ((range.start.0 - first.0) as usize, range.len() as usize);
        let bytes = run.bytes(at, count);
        let is_behind = unsent.iter().any(|(other, _)| *other == member);
        let held = if is_behind { Err(NoRoom) } else { outbox.take(bytes) };
        let Ok(held) = held else {
            if !is_behind {
                send(outbox, MemberOutput::NoRoom(Lack { bytes, first: run.bytes(at, 1) }));
            }
            unsent.push((member, range));
            return true;
        };
        let delivered = Delivered {
            records: Piece::new(&delivery.batch, delivery.skip as usize + at, count, bytes),
            held,
            count,
            base: range.start,
            ts: delivery.ts,
            source: delivery.source,
            lease,
            attempt,
            epoch,
            generation,
        };
        send(outbox, MemberOutput::Deliver(delivered));
        true
    };
    effects.extract_if(from.., sent).for_each(drop);
    unsent
}

fn tell(members: &BTreeMap<MemberId, Outbox>, member: MemberId, output: MemberOutput) {
    if let Some(outbox) = members.get(&member) {
        send(outbox, output);
    }
}

/// Gives up a member that lets more come together than it may have: its session ends, which the group
/// learns as of any other.
fn send(outbox: &Outbox, output: MemberOutput) {
    if let Err(mpsc::error::TrySendError::Full(_)) = outbox.to.try_send(output) {
        outbox.given_up.cancel();
    }
}

/// Never ends while none is proposed.
async fn letter_result(
    proposed: &mut Option<((Offset, u32), LetterResult)>,
) -> Option<Result<Appended, AppendRefusal>> {
    match proposed {
        Some((_, result)) => result.await,
        None => std::future::pending().await,
    }
}

fn time_since(begin: Instant) -> Time {
    Time(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use railgun_proto::v1::group_notice::Notice;
    use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
    use railgun_types::{OffsetRange, limits};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::reader::{Delivery, Source};

    #[test]
    fn a_member_is_told_of_a_rewind_before_what_is_delivered_behind_it() {
        //
        let member = MemberId(1);
        let (to, mut told) = mpsc::channel(4);
        let outbox = Outbox::new(to, CancellationToken::new(), None);
        let mut members = BTreeMap::from([(member, outbox)]);
        let mut builder = BatchBuilder::new(limits::MESSAGE_BYTES_DEFAULT);
        builder.push(&RecordDraft::default()).expect("it is small");
        let batch: bytes::Bytes = builder.into_parts().concat();
        let run = Run::new(Delivery {
            base: Offset(4),
            skip: 0,
            count: 1,
            ts: Timestamp(7),
            source: Source::Ring,
            batch: RecordBatch::open(batch).expect("just built"),
        });
        let range = OffsetRange::single(Offset(4));
        let dying = Effect::Dying { offset: Offset(1), generation: 0 };
        let mut effects = vec![
            dying.clone(),
            Effect::Rewind { member, to: Offset(4), generation: 1 },
            Effect::Deliver { member, lease: 1, range, attempt: 2, epoch: 1, generation: 0 },
        ];
        deliver(&mut members, &run, &mut effects, 0);
        let first = told.try_recv().expect("two are told");
        assert!(matches!(first, MemberOutput::Notice(Notice::RewindTo(4))), "{first:?}");
        let second = told.try_recv().expect("two are told");
        assert!(matches!(second, MemberOutput::Deliver(_)), "{second:?}");
        assert_eq!(effects, [dying], "it is no member's");
    }
}
