//! Owns the handing out of one group's messages, on the leader of its shard. Inputs: what members say, what
//! became of changes of the group. Outputs: deliveries and news to members, changes and dead letters to the
//! shard's owner. Never: waits for a member.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use railgun_core::command::GroupChanges;
use railgun_core::dispatcher::{
    Dispatcher, Effect, Fetch, Left, MemberId, OfferedRun, Start, Time, Want,
};
use railgun_core::group::{Context, GroupState};
use railgun_proto::WireError;
use railgun_types::{
    ErrorCode, GroupId, GroupName, GroupSpec, Offset, StreamName, StreamUid, Timestamp,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::feed::{Fed, Feed};
use super::letters::{Deceased, LetterEvent, Letters};
use super::live::{Figures, GroupFigures, GroupUpdate, LiveGroup};
use super::outbox::{Outbox, deliver, tell};
use super::told::told;
use super::{INPUTS, MemberInput, MemberOutput, Newcomer, UPDATES};
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
    pub(crate) sources: ReadSources,
    pub(crate) clock: Arc<dyn Clock>,
}

struct Actor {
    number: u64,
    id: GroupId,
    name: GroupName,
    stream_name: StreamName,
    shard: ShardHandle,
    clock: Arc<dyn Clock>,
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
    figures: Arc<Figures>,
}

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
        let figures = Arc::new(Figures::default());
        let fresh = Feed::forward(self.sources.clone(), self.stream);
        let scattered = || Feed::scattered(self.sources.clone(), self.stream);
        let (retries, of_letters) = (scattered(), scattered());
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
        let (number, shard) = (self.number, self.sources.shard.clone());
        let of = Deceased {
            stream: self.stream,
            stream_name: self.stream_name.clone(),
            group: self.id,
            name: self.name.clone(),
            companion: self.companion,
        };
        let clock = Arc::clone(&self.clock);
        let letters = Letters::new(of, of_letters, self.next_letter, shard.clone(), clock);
        let actor = Actor {
            number,
            id: self.id,
            name: self.name,
            stream_name: self.stream_name,
            shard,
            clock: self.clock,
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
            letters,
            figures: Arc::clone(&figures),
        };
        actors.spawn("a consumer group", actor.run(from_members, from_shard));
        LiveGroup { number, inputs, updates, figures }
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
                MemberInput::Joined(Newcomer { member, to, .. }) => {
                    self.members.insert(member, to);
                }
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
        // Deadlines come and go with each message, mostly later ones: it may go off for one that is no more.
        let timer = sleep_until(self.leads_since);
        tokio::pin!(timer);
        let mut is_set = false;
        loop {
            self.do_effects();
            self.hand_out();
            self.do_effects();
            self.letters.propose(self.dispatcher.state());
            if let Some(changes) = self.dispatcher.take_proposal() {
                let group = GroupChanges { group: self.id, term: self.term, changes };
                if self.shard.change_group(self.number, group).await.is_err() {
                    return End::NotLeading;
                }
            }
            self.figures.set(GroupFigures {
                members: u32::try_from(self.members.len()).unwrap_or(u32::MAX),
                leased: self.dispatcher.leased(),
                is_stalled: self.dispatcher.is_stalled(),
            });
            let deadline = self.deadline();
            if let Some(deadline) = deadline.filter(|at| !is_set || *at < timer.deadline()) {
                timer.as_mut().reset(deadline);
                is_set = true;
            }
            tokio::select! {
                biased;
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
                event = self.letters.event() => {
                    let failed = match event {
                        LetterEvent::Ended(results) => self.letters.ended(results),
                        LetterEvent::Fed(fed) => {
                            let is_failure = matches!(fed, Fed::Failed(_));
                            if self.on_fed(fed) {
                                return End::Deleted;
                            }
                            let failed = is_failure.then(|| self.letters.put_off()).flatten();
                            failed.into_iter().collect()
                        }
                    };
                    let now = self.now();
                    for offset in failed {
                        self.dispatcher.on_dead_letter_failed(now, offset);
                    }
                }
                () = &mut timer, if is_set => {
                    is_set = false;
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
        !self.letters.is_empty() || self.dispatcher.state().unsettled_held().dying > 0
    }

    fn is_deserted(&self) -> bool {
        self.deserted.is_some_and(|since| since.elapsed() >= LINGERS) && !self.is_busy()
    }

    fn on_input(&mut self, input: MemberInput) {
        let now = self.now();
        match input {
            MemberInput::Joined(Newcomer { member, credit, held, fetches, to }) => {
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
                self.letters.died();
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
            for &(member, range) in &unsent {
                self.dispatcher.on_unsent(member, range);
            }
            // What was not sent is wanted again.
            let unsent = unsent.iter().map(|(_, range)| (range.start.0 - offset.0) as usize).min();
            run.advance(unsent.map_or(taken, |unsent| taken.min(unsent)));
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
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            if let Effect::Dying { offset, generation } = effect {
                self.letters.push(offset, generation);
            } else if let Some((member, output)) = told(effect) {
                tell(&self.members, member, output);
            }
        }
        self.effects = effects;
    }
}

fn time_since(begin: Instant) -> Time {
    Time(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX))
}
