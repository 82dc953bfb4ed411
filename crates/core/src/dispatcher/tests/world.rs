//! A dispatcher among members that do all that members do, on a log that is slow and changes its leader,
//! beside a naive model that knows every message by itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;

/// Numbers that look drawn: the same of every seed.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end.max(1)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a member knows of a message that it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) lease: u64,
    pub(super) attempt: u32,
    pub(super) epoch: u32,
    pub(super) generation: u32,
    pub(super) begun: bool,
}

/// An application with its connection, or without.
#[derive(Debug, Default)]
pub(super) struct Consumer {
    pub(super) id: Option<MemberId>,
    pub(super) credit: u64,
    pub(super) is_draining: bool,
    pub(super) willing_since: Option<Time>,
    /// What it was sent and has not settled.
    pub(super) has: BTreeMap<Offset, Tag>,
    /// What it has said, to say it again.
    pub(super) said: VecDeque<Settle>,
    /// What it fetches, if it does, and what of that it got and had not to give back.
    pub(super) fetch: Option<Fetch>,
    pub(super) fetched: Vec<Offset>,
    pub(super) asked: u64,
    pub(super) answered: u64,
}

impl Consumer {
    /// What it has no more it may still say something about.
    fn forget(&mut self, is_gone: impl Fn(Offset) -> bool) {
        for (offset, tag) in self.has.extract_if(.., |offset, _| is_gone(*offset)) {
            let kind = match offset.0 % 4 {
                0 => SettleKind::Nack { delay_ms: None, error: None },
                1 => SettleKind::Begin,
                _ => SettleKind::Ack,
            };
            let range = OffsetRange::single(offset);
            self.said.push_back(Settle { lease: tag.lease, epoch: tag.epoch, range, kind });
        }
    }
}

/// A lease of one message, as the model has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) lease: u64,
    pub(super) member: MemberId,
    pub(super) begun: bool,
    pub(super) deadline: Time,
    pub(super) granted: Time,
}

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) replica: Replica,
    pub(super) dispatcher: Dispatcher,
    pub(super) now: Time,
    pub(super) consumers: Vec<Consumer>,
    next_member: u64,
    /// What was taken and is not applied yet.
    pub(super) in_flight: Option<Vec<GroupChange>>,
    /// Dead letters on their way to the log.
    pub(super) letters: BTreeSet<(Offset, u32)>,
    pub(super) live: BTreeMap<Offset, Live>,
    /// What was acked by a tag that counted.
    pub(super) acked: BTreeSet<Offset>,
    pub(super) acks_confirmed: BTreeSet<Offset>,
    /// The deliveries of each message that failed.
    pub(super) failures: BTreeMap<Offset, BTreeSet<u64>>,
    /// What has failed and was not delivered again, settled, or found dead.
    pub(super) open: BTreeSet<Offset>,
    pub(super) active: Option<MemberId>,
    /// Members on the way to which there is no room, and whether it may come to that.
    pub(super) cut_off: BTreeSet<MemberId>,
    pub(super) is_scarce: bool,
    /// What members of the leader before may have, and until when it is kept for them.
    pub(super) kept: (BTreeSet<Offset>, Time),
    /// How often what happened: the schedules must come by all of it.
    pub(super) seen: BTreeMap<&'static str, u64>,
    pub(super) is_traced: bool,
    pub(super) trace: Vec<String>,
}

pub(super) fn bytes_of(offset: Offset) -> u32 {
    if offset.0 % 13 == 5 { 900 } else { 10 + (offset.0 * 7 % 50) as u32 }
}

impl World {
    pub(super) fn new(seed: u64, mode: GroupMode, is_traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let mut spec = GroupSpec { mode, ack_wait_ms: 1_000, ..GroupSpec::default() };
        spec.max_in_flight = 3 + dice.below(20) as u32;
        spec.max_in_flight_bytes = 300 + dice.below(2_000);
        spec.max_unsettled = 5 + dice.below(30) as u32;
        spec.window = 10 + dice.below(40);
        spec.backoff_ms = vec![0, 500];
        spec.dlq.max_attempts = 2 + dice.below(3) as u32;
        spec.dlq.max_distance = dice.below(2) * 20;
        spec.dlq.enabled = !dice.one_in(4);
        let replica = Replica::new(spec);
        let now = Time(60_000_000);
        let dispatcher = replica.dispatcher(1, now, Time(0), &mut Vec::new());
        let consumers = (0..4).map(|_| Consumer::default()).collect();
        Self {
            dice,
            replica,
            dispatcher,
            now,
            consumers,
            next_member: 1,
            in_flight: None,
            letters: BTreeSet::new(),
            live: BTreeMap::new(),
            acked: BTreeSet::new(),
            acks_confirmed: BTreeSet::new(),
            failures: BTreeMap::new(),
            open: BTreeSet::new(),
            active: None,
            cut_off: BTreeSet::new(),
            is_scarce: true,
            kept: (BTreeSet::new(), now),
            seen: BTreeMap::new(),
            is_traced,
            trace: Vec::new(),
        }
    }

    pub(super) fn is_exclusive(&self) -> bool {
        self.replica.spec.mode == GroupMode::Exclusive
    }

    pub(super) fn consumer_of(&mut self, id: MemberId) -> Option<&mut Consumer> {
        self.consumers.iter_mut().find(|it| it.id == Some(id))
    }

    pub(super) fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// Does an input and all that follows at once.
    pub(super) fn input(&mut self, what: impl FnOnce(&mut Dispatcher, Time, &mut Vec<Effect>)) {
        let mut out = Vec::new();
        what(&mut self.dispatcher, self.now, &mut out);
        self.take(out);
        self.hand_out();
        self.check();
    }

    /// Offers what is wanted until nothing is.
    pub(super) fn hand_out(&mut self) {
        if self.dice.one_in(4) {
            // The next retry is on its way from far.
            self.dispatcher.put_off_retries(true);
            self.offer();
            self.dispatcher.put_off_retries(false);
        }
        self.offer();
    }

    fn offer(&mut self) {
        loop {
            let (Want::Retry(base) | Want::Fresh(base)) = self.dispatcher.wants() else {
                let mut out = Vec::new();
                self.dispatcher.end_fetches(&mut out);
                return self.take(out);
            };
            assert!(base < self.replica.tail, "it is there");
            let end = self.replica.tail.min(base.plus(1 + self.dice.below(12)));
            let bytes: Vec<_> = OffsetRange::new(base, end).iter().map(bytes_of).collect();
            let mut out = Vec::new();
            let run = OfferedRun { base, bytes: &bytes };
            let count = self.dispatcher.assign(self.now, &run, &mut out);
            assert!(
                count > 0
                    || !matches!(self.dispatcher.wants(), Want::Retry(it) | Want::Fresh(it) if it == base)
            );
            if self.is_scarce && self.dice.one_in(12) {
                self.cut_off(&mut out);
            }
            self.take(out);
        }
    }

    /// There is no room for the last deliveries to one of the members.
    fn cut_off(&mut self, out: &mut Vec<Effect>) {
        let to = |effect: &Effect| match effect {
            Effect::Deliver { member, range, .. } => Some((*member, *range)),
            _ => None,
        };
        let Some((cut_off, _)) = out.iter().find_map(to) else { return };
        let mut kept = self.dice.below(3);
        out.retain(|effect| {
            let Some((_, range)) = to(effect).filter(|(member, _)| *member == cut_off) else {
                // What it was not sent it has not fetched.
                let is_over =
                    matches!(effect, Effect::Fetched { member, .. } if *member == cut_off);
                return !is_over || !self.cut_off.contains(&cut_off);
            };
            let is_sent = kept > 0;
            kept = kept.saturating_sub(1);
            if !is_sent {
                self.cut_off.insert(cut_off);
                self.dispatcher.on_unsent(cut_off, range);
            }
            is_sent
        });
        if self.cut_off.contains(&cut_off) {
            self.saw("cut off");
        }
    }

    /// There is room on the way to all members.
    pub(super) fn give_room(&mut self) {
        while let Some(member) = self.cut_off.pop_first() {
            let bytes = self.dice.below(200);
            self.input(|dispatcher, _, _| dispatcher.on_room(member, bytes));
        }
    }

    pub(super) fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.trace.extend(self.is_traced.then(|| format!("  {effect:?}")));
            match effect {
                Effect::Deliver { member, lease, range, attempt, epoch, generation } => {
                    for offset in range.iter() {
                        self.delivered(
                            offset,
                            member,
                            Tag { lease, attempt, epoch, generation, begun: false },
                        );
                    }
                    self.check_bounds(range, attempt);
                    self.check_fetch(member);
                }
                Effect::Settled { member, through, stale } => {
                    for stale in stale {
                        self.saw(match stale.reason {
                            StaleReason::Superseded => "superseded",
                            StaleReason::AlreadySettled => "already settled",
                            StaleReason::Fenced => "fenced",
                            StaleReason::Unknown => "unknown",
                        });
                    }
                    let consumer = self.consumer_of(member).expect("it is there");
                    assert!(consumer.answered < through && through <= consumer.asked);
                    consumer.answered = through;
                }
                Effect::Rewind { member, to, .. } => {
                    self.saw("rewound");
                    assert_eq!(self.active, Some(member));
                    self.unfetch(|offset, _| to <= offset);
                    self.live.retain(|offset, _| *offset < to);
                    let consumer = self.consumer_of(member).expect("it is there");
                    consumer.forget(|offset| to <= offset);
                }
                Effect::Active { member, epoch } => {
                    self.saw("active");
                    self.kept.0.clear();
                    //
                    assert_eq!((self.active, epoch), (None, self.replica.state.epoch()));
                    self.active = Some(member);
                }
                Effect::Inactive { member } => {
                    self.saw("inactive");
                    assert_eq!(self.active.take(), Some(member));
                    self.unfetch(|_, live| live.member == member);
                    self.live.retain(|_, live| live.member != member);
                }
                Effect::Drained { member } => {
                    self.saw("drained");
                    assert!(self.live.values().all(|live| live.member != member), "G-9");
                    if self.active == Some(member) {
                        self.active = None;
                    }
                }
                Effect::Fetching { member, number } => {
                    let consumer = self.consumer_of(member).expect("it is there");
                    assert_eq!(consumer.fetch.map(|fetch| fetch.number), Some(number));
                }
                Effect::Fetched { member, number } => {
                    let consumer = self.consumer_of(member).expect("it is there");
                    let fetch = consumer.fetch.as_mut().expect("it fetches");
                    assert_eq!(fetch.number, number);
                    // G-15
                    assert!((consumer.fetched.len() as u64) < fetch.messages, "it has all");
                    fetch.messages = consumer.fetched.len() as u64;
                    let what = if fetch.waits { "fetch is full" } else { "fetch is over" };
                    self.saw(what);
                }
                Effect::Dying { offset, generation } => {
                    self.saw("dying");
                    assert!(self.letters.insert((offset, generation)), "it was told once");
                }
                Effect::Stalled { .. } => self.saw("stalled"),
                Effect::Resumed { .. } => self.saw("resumed"),
                Effect::Paused { pause: Pause::Delayed { .. }, .. } => {
                    self.saw("paused by a delay")
                }
                Effect::Paused { .. } => self.saw("paused"),
                Effect::Unpaused { .. } => self.saw("unpaused"),
                Effect::Skipped { .. } => self.saw("skipped"),
            }
        }
    }

    pub(super) fn join(&mut self, at: usize, credit: u64) {
        if self.consumers[at].id.is_some() {
            return;
        }
        let id = MemberId(self.next_member);
        self.next_member += 1;
        let mut presented: Vec<PresentedLease> = Vec::new();
        for (offset, tag) in &self.consumers[at].has {
            match presented.last_mut() {
                Some(last)
                    if last.range.end == *offset
                        && (last.lease, last.attempt, last.epoch, last.generation, last.begun)
                            == (tag.lease, tag.attempt, tag.epoch, tag.generation, tag.begun) =>
                {
                    last.range.end = offset.plus(1);
                }
                _ => presented.push(PresentedLease {
                    lease: tag.lease,
                    range: OffsetRange::single(*offset),
                    attempt: tag.attempt,
                    epoch: tag.epoch,
                    generation: tag.generation,
                    begun: tag.begun,
                    message_bytes: 900,
                }),
            }
        }
        let consumer = &mut self.consumers[at];
        (consumer.id, consumer.credit) = (Some(id), credit);
        (consumer.asked, consumer.answered, consumer.is_draining) = (0, 0, false);
        (consumer.fetch, consumer.fetched) = (None, Vec::new());
        consumer.willing_since = (credit > 0).then_some(self.now);
        self.trace.extend(
            self.is_traced.then(|| format!("{:?} join {id:?} {credit} {presented:?}", self.now)),
        );
        let credit = Credit { messages: credit, bytes: credit * BYTES_PER_CREDIT };
        let mut out = Vec::new();
        self.dispatcher.on_join(self.now, id, credit, &presented, &mut out);
        self.presented_again(at, &presented);
        self.take(out);
        self.hand_out();
        self.check();
    }

    /// G-14: what was leased again is what was presented, and nobody else's, nor settled.
    fn presented_again(&mut self, at: usize, presented: &[PresentedLease]) {
        let id = self.consumers[at].id.expect("it has joined");
        let mut again = BTreeMap::new();
        for (range, lease) in self.dispatcher.leases.iter().filter(|(_, it)| it.member == id) {
            for offset in range.iter() {
                let its = presented.iter().find(|it| it.range.contains(offset)).expect("presented");
                assert_eq!((its.lease, its.attempt), (lease.id, lease.attempt));
                assert_eq!(its.begun, lease.begun);
                assert!(!self.live.contains_key(&offset), "it is at a member");
                assert!(!self.replica.state.is_done(offset) && !self.acked.contains(&offset));
                let held = self.replica.state.held(offset);
                assert!(held.is_none_or(|held| held.state == HeldState::Ready));
                assert!(!self.is_exclusive() || its.epoch == self.replica.state.epoch());
                let (begun, deadline, granted) = (lease.begun, lease.deadline, lease.granted);
                let live = Live { lease: lease.id, member: id, begun, deadline, granted };
                again.insert(offset, live);
            }
        }
        if !again.is_empty() {
            self.saw("leased again");
        }
        let consumer = &mut self.consumers[at];
        consumer.forget(|offset| !again.contains_key(&offset));
        self.open.retain(|offset| !again.contains_key(offset));
        self.kept.0.retain(|offset| !again.contains_key(offset));
        self.live.extend(again);
    }

    pub(super) fn leave(&mut self, at: usize, how: Left) {
        let Some(id) = self.consumers[at].id.take() else { return };
        self.trace.extend(self.is_traced.then(|| format!("{:?} leave {id:?} {how:?}", self.now)));
        let lost: Vec<_> =
            self.live.iter().filter(|(_, it)| it.member == id).map(|(o, it)| (*o, *it)).collect();
        for (offset, live) in lost {
            self.live.remove(&offset);
            if live.begun && how != Left::Drained {
                self.failed(offset, live.lease);
            }
        }
        self.cut_off.remove(&id);
        let consumer = &mut self.consumers[at];
        consumer.willing_since = None;
        if self.dice.one_in(3) {
            // The application has crashed, too.
            consumer.has.clear();
            consumer.said.clear();
        }
        if self.active == Some(id) {
            self.active = None;
        }
        self.input(|dispatcher, now, out| dispatcher.on_leave(now, id, how, out));
    }

    pub(super) fn drain(&mut self, at: usize) {
        let Some(id) = self.consumers[at].id else { return };
        self.trace.extend(self.is_traced.then(|| format!("{:?} drain {id:?}", self.now)));
        self.live.retain(|_, live| live.member != id || live.begun);
        let consumer = &mut self.consumers[at];
        consumer.has.retain(|_, tag| tag.begun);
        (consumer.is_draining, consumer.willing_since) = (true, None);
        (consumer.fetch, consumer.fetched) = (None, Vec::new());
        self.input(|dispatcher, now, out| dispatcher.on_drain(now, id, out));
    }

    /// A consumer wants this from here on, and nothing of what it has not begun.
    pub(super) fn fetch(&mut self, at: usize, messages: u64, bytes: u64, waits: bool) {
        let Some(id) = self.consumers[at].id else { return };
        let number = self.consumers[at].fetch.map_or(1, |fetch| fetch.number + 1);
        let fetch = Fetch { number, messages, bytes, waits };
        self.trace.extend(self.is_traced.then(|| format!("{:?} {id:?} {fetch:?}", self.now)));
        self.live.retain(|_, live| live.member != id || live.begun);
        let consumer = &mut self.consumers[at];
        consumer.has.retain(|_, tag| tag.begun);
        (consumer.fetch, consumer.fetched) = (Some(fetch), Vec::new());
        self.input(|dispatcher, now, out| dispatcher.on_fetch(now, id, fetch, out));
    }

    /// What is taken back before it was begun may be fetched again.
    pub(super) fn unfetch(&mut self, is_taken_back: impl Fn(Offset, &Live) -> bool) {
        for (offset, live) in &self.live {
            let consumer = self.consumers.iter_mut().find(|it| it.id == Some(live.member));
            if let Some(consumer) = consumer
                && !live.begun
                && is_taken_back(*offset, live)
            {
                consumer.fetched.retain(|fetched| fetched != offset);
            }
        }
    }

    fn failed(&mut self, offset: Offset, lease: u64) {
        self.failures.entry(offset).or_default().insert(lease);
        self.open.insert(offset);
    }

    /// Has a consumer say something, and the model judge it message by message.
    pub(super) fn settle(&mut self, at: usize, settles: Vec<Settle>) {
        let Some(id) = self.consumers[at].id else { return };
        let consumer = &mut self.consumers[at];
        consumer.asked += 1;
        let request = SettleRequest { number: consumer.asked, settles };
        self.trace
            .extend(self.is_traced.then(|| format!("{:?} settle {id:?} {request:?}", self.now)));
        let mut unheard = Vec::new();
        for settle in &request.settles {
            let is_fenced = self.is_exclusive() && settle.epoch != self.replica.state.epoch();
            for offset in settle.range.iter() {
                let live = self.live.get(&offset).copied().filter(|it| it.lease == settle.lease);
                if let Some(live) = live.filter(|_| !is_fenced && !self.is_fenced_soon()) {
                    self.settled(offset, live, &settle.kind);
                } else {
                    unheard.push((offset, settle.clone()));
                }
            }
        }
        let mut out = Vec::new();
        self.dispatcher.on_settle(self.now, id, &request, &mut out);
        for (offset, settle) in unheard {
            self.heard_late(offset, &settle);
        }
        self.take(out);
        self.hand_out();
        self.check();
    }

    fn is_fenced_soon(&self) -> bool {
        let changes = self.in_flight.iter().flatten();
        changes.into_iter().any(|change| *change == GroupChange::Activate)
    }

    /// A settle by the tag of the live lease.
    fn settled(&mut self, offset: Offset, mut live: Live, kind: &SettleKind) {
        match kind {
            SettleKind::Begin | SettleKind::Extend => {
                if *kind == SettleKind::Extend || !live.begun {
                    live.begun = true;
                    let wait_us = self.replica.spec.ack_wait_ms * 1_000;
                    let last = live.granted.plus_us(LEASE_US_MAX);
                    live.deadline = self.now.plus_us(wait_us).min(last);
                }
                self.live.insert(offset, live);
            }
            SettleKind::Ack => {
                self.live.remove(&offset);
                self.acked.insert(offset);
                self.open.remove(&offset);
            }
            SettleKind::Nack { .. } | SettleKind::Reject { .. } => {
                self.live.remove(&offset);
                self.failed(offset, live.lease);
            }
        }
    }

    /// A settle whose tag was not live: what the dispatcher has made of it must be right.
    fn heard_late(&mut self, offset: Offset, settle: &Settle) {
        if let Some((_, lease)) = self.dispatcher.leases.at(offset)
            && !self.live.contains_key(&offset)
            && lease.id == settle.lease
        {
            // It goes on with what came back and was not handed out again.
            assert!(matches!(settle.kind, SettleKind::Begin | SettleKind::Extend));
            assert!(!self.is_exclusive() && lease.begun);
            let (member, deadline, granted) = (lease.member, lease.deadline, lease.granted);
            let live = Live { lease: lease.id, member, begun: true, deadline, granted };
            self.live.insert(offset, live);
            self.saw("went on");
            return;
        }
        let past = self.dispatcher.past.at(offset).map(|(_, past)| *past);
        let Some(past) = past.filter(|past| past.lease == settle.lease) else { return };
        match (past.fate, &settle.kind) {
            (Fate::Acked, SettleKind::Ack) if self.dispatcher.waiting.acks.contains(offset) => {
                // G-7: it was not handed out again.
                assert!(!self.live.contains_key(&offset));
                let in_flight = self.dispatcher.in_flight.as_ref();
                assert!(in_flight.is_none_or(|it| !it.settles(offset)), "it is failing");
                self.acked.insert(offset);
                self.open.remove(&offset);
                self.saw("acked late");
            }
            (Fate::Nacked, SettleKind::Nack { .. })
            | (Fate::Rejected, SettleKind::Reject { .. })
                if self.dispatcher.waiting.fails(offset) =>
            {
                self.failed(offset, past.lease);
                self.saw("failed late");
            }
            _ => {}
        }
    }

    pub(super) fn advance(&mut self, us: u64) {
        let until = self.now.plus_us(us);
        // Every timer in between, as an actor would.
        while let Some(deadline) = self.dispatcher.next_deadline().filter(|it| *it <= until) {
            assert!(deadline > self.now);
            self.replica.ts.0 += (deadline.0 - self.now.0) as i64;
            self.now = deadline;
            self.on_time();
        }
        self.replica.ts.0 += (until.0 - self.now.0) as i64;
        self.now = until;
    }

    fn on_time(&mut self) {
        self.trace.extend(self.is_traced.then(|| format!("{:?} deadline", self.now)));
        let now = self.now;
        self.unfetch(|_, live| live.deadline <= now);
        let over: Vec<_> = self.live.iter().map(|(o, it)| (*o, *it)).collect();
        for (offset, live) in over {
            if live.deadline <= self.now {
                self.live.remove(&offset);
                if live.begun {
                    self.saw("expired");
                    self.failed(offset, live.lease);
                }
            }
        }
        let ts = self.replica.ts;
        self.input(|dispatcher, now, out| dispatcher.on_deadline(now, ts, out));
    }
}
