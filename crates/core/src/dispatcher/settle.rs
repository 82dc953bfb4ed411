//! What members say about their deliveries, and what of it counts (G-7).

use railgun_types::limits::FAILURE_BYTES;
use railgun_types::{Offset, OffsetRange};

use super::lease::{Fate, Lease, Past, Sizes, lease_term, short_term};
use super::members::Request;
use super::proposal::{Failure, FailureKind, Proposal};
use super::{
    Dispatcher, Effect, MemberId, Settle, SettleKind, SettleRequest, StaleReason, StaleSettle, Time,
};

/// What was found out about a request so far.
#[derive(Default)]
struct Verdict {
    waits_for: u64,
    stale: Vec<StaleSettle>,
    /// The first message that has failed.
    failed: Option<Offset>,
}

impl Verdict {
    fn stale(&mut self, lease: u64, range: OffsetRange, reason: StaleReason) {
        match self.stale.last_mut() {
            Some(last)
                if last.range.end == range.start
                    && (last.lease, last.reason) == (lease, reason) =>
            {
                last.range.end = range.end;
            }
            _ => self.stale.push(StaleSettle { lease, range, reason }),
        }
    }

    fn failed(&mut self, at: Offset) {
        self.failed = Some(self.failed.map_or(at, |failed| failed.min(at)));
    }
}

impl SettleKind {
    /// How a lease ends that is settled so; `None`: it goes on.
    fn fate(&self) -> Option<Fate> {
        match self {
            Self::Ack => Some(Fate::Acked),
            Self::Nack { .. } => Some(Fate::Nacked),
            Self::Reject { .. } => Some(Fate::Rejected),
            Self::Extend | Self::Begin => None,
        }
    }

    /// What is proposed of it; `None`: an ack, or nothing.
    fn failure(&self) -> Option<Failure> {
        let (kind, error) = match self {
            Self::Nack { delay_ms, error } => (FailureKind::Nack { delay_ms: *delay_ms }, error),
            Self::Reject { error } => (FailureKind::Reject, error),
            Self::Ack | Self::Extend | Self::Begin => return None,
        };
        let error =
            error.as_deref().map(|error| error[..error.floor_char_boundary(FAILURE_BYTES)].into());
        Some(Failure { kind, error })
    }
}

impl Dispatcher {
    /// Takes what a member says. It is answered, in the order of its requests, when all that counts of it is
    /// committed.
    pub fn on_settle(
        &mut self,
        now: Time,
        member: MemberId,
        request: &SettleRequest,
        out: &mut Vec<Effect>,
    ) {
        if !self.members.contains(member) {
            // Nobody is there to be answered, and what it had has come back.
            return;
        }
        let mut verdict = Verdict::default();
        for settle in &request.settles {
            self.settle(now, settle, &mut verdict);
        }
        let Verdict { waits_for, stale, failed } = verdict;
        let is_failure =
            |it: &Settle| matches!(it.kind, SettleKind::Nack { .. } | SettleKind::Reject { .. });
        let fails = request.settles.iter().any(is_failure);
        let asked = Request { number: request.number, waits_for, fails, stale };
        self.members.update(member, |member| member.requests.push_back(asked));
        if let Some(failed) = failed.filter(|_| self.is_exclusive()) {
            self.rewind(failed, out);
        }
        self.answer(member, out);
        self.conclude(now, out);
    }

    /// Tells a member which of its requests are committed.
    pub(super) fn answer(&mut self, id: MemberId, out: &mut Vec<Effect>) {
        let applied = self.taken - u64::from(self.in_flight.is_some());
        let answer = self.members.update(id, |member| {
            let mut through = None;
            let mut stale = Vec::new();
            while member.requests.front().is_some_and(|request| request.waits_for <= applied)
                && let Some(request) = member.requests.pop_front()
            {
                through = Some(request.number);
                stale.extend(request.stale);
            }
            let through = through?;
            stale.append(&mut member.late_stale);
            Some((through, stale))
        });
        if let Some((through, stale)) = answer.flatten() {
            out.push(Effect::Settled { member: id, through, stale });
        }
    }

    /// The number of the proposal that is going to say what waits now.
    fn next_proposal(&self) -> u64 {
        self.taken + 1
    }

    fn settle(&mut self, now: Time, settle: &Settle, verdict: &mut Verdict) {
        let mut rest = settle.range;
        while !rest.is_empty() {
            let next = self.leases.at_or_behind(rest.start);
            let part = match next {
                Some((run, lease)) if run.start <= rest.start => {
                    let (part, id) = (run.and(rest), lease.id);
                    if id != settle.lease && !self.is_unfenced(settle.epoch) {
                        verdict.stale(settle.lease, part, StaleReason::Superseded);
                    } else if self.is_fenced(settle.epoch) {
                        verdict.stale(settle.lease, part, StaleReason::Fenced);
                    } else {
                        self.settle_lease(now, part, settle, verdict);
                    }
                    part
                }
                next => {
                    let end = next.map_or(rest.end, |(run, _)| run.start.min(rest.end));
                    let part = OffsetRange::new(rest.start, end);
                    self.settle_unleased(now, part, settle, verdict);
                    part
                }
            };
            rest.start = part.end;
        }
    }

    /// Settles a part of a live lease.
    fn settle_lease(
        &mut self,
        now: Time,
        part: OffsetRange,
        settle: &Settle,
        verdict: &mut Verdict,
    ) {
        let Some(fate) = settle.kind.fate() else {
            // The member keeps it, and so does its credit.
            if let Some(mut ended) = self.leases.end_first(part) {
                if settle.kind == SettleKind::Extend || !ended.lease.begun {
                    ended.lease.begin(now, self.ack_wait_us());
                }
                self.leases.insert(ended.range, ended.lease);
            }
            return;
        };
        while let Some(ended) = self.end_first(part) {
            self.remember(&ended, fate);
        }
        self.propose(part, settle, verdict);
    }

    /// Proposes what ends a lease.
    fn propose(&mut self, part: OffsetRange, settle: &Settle, verdict: &mut Verdict) {
        verdict.waits_for = self.next_proposal();
        match settle.kind.failure() {
            None => {
                self.waiting.acks.insert(part);
            }
            Some(failure) => {
                self.propose_failure(part, failure);
                verdict.failed(part.start);
            }
        }
    }

    /// Judges a settle of messages that nobody has.
    fn settle_unleased(
        &mut self,
        now: Time,
        range: OffsetRange,
        settle: &Settle,
        verdict: &mut Verdict,
    ) {
        let mut rest = range;
        // What was never handed out.
        if self.cursor < rest.end {
            rest.end = self.cursor.max(rest.start);
        }
        while !rest.is_empty() {
            let part = match self.past.at_or_behind(rest.start) {
                Some((run, past)) if run.start <= rest.start => {
                    let (part, past) = (run.and(rest), *past);
                    if past.lease == settle.lease {
                        self.settle_past(now, part, past, settle, verdict);
                    } else {
                        self.refuse(part, settle, verdict, !self.is_own(settle.lease));
                    }
                    part
                }
                next => {
                    let end = next.map_or(rest.end, |(run, _)| run.start.min(rest.end));
                    let part = OffsetRange::new(rest.start, end);
                    // What was acked is forgotten here first.
                    self.refuse(part, settle, verdict, true);
                    part
                }
            };
            rest.start = part.end;
        }
        let unknown = OffsetRange::new(rest.end, range.end);
        if !unknown.is_empty() {
            verdict.stale(settle.lease, unknown, StaleReason::Unknown);
        }
    }

    /// Says why a settle by a tag that is not known does not count. An ack by one that may have been forgotten
    /// may have counted before.
    fn refuse(
        &self,
        range: OffsetRange,
        settle: &Settle,
        verdict: &mut Verdict,
        may_be_forgotten: bool,
    ) {
        let term = lease_term(settle.lease);
        if self.is_fenced(settle.epoch) {
            return verdict.stale(settle.lease, range, StaleReason::Fenced);
        }
        if term > short_term(self.term) {
            return verdict.stale(settle.lease, range, StaleReason::Unknown);
        }
        // The leader before, or this one, may have taken this very ack, and was not heard any more.
        let is_repeated = settle.kind == SettleKind::Ack && may_be_forgotten;
        let mut rest = range;
        while !rest.is_empty() {
            let done = OffsetRange::new(rest.start, self.mirror.next_unsettled(rest));
            if !done.is_empty() {
                let given_up = if is_repeated { self.given_up(done) } else { vec![done] };
                for range in given_up {
                    verdict.stale(settle.lease, range, StaleReason::AlreadySettled);
                }
                rest.start = done.end;
                continue;
            }
            let pending = OffsetRange::new(rest.start, self.mirror.next_settled(rest));
            verdict.stale(settle.lease, pending, StaleReason::Superseded);
            rest.start = pending.end;
        }
    }

    /// Which of these settled messages nobody has acked, as far as that is known.
    pub(super) fn given_up(&self, done: OffsetRange) -> Vec<OffsetRange> {
        let parked = self.mirror.parked_in(done).map(OffsetRange::single);
        let mut given_up: Vec<_> = self.mirror.dead().within(done).chain(parked).collect();
        given_up.sort_unstable();
        given_up
    }

    /// Judges a settle by the last tag that these messages had, which is over.
    fn settle_past(
        &mut self,
        now: Time,
        part: OffsetRange,
        past: Past,
        settle: &Settle,
        verdict: &mut Verdict,
    ) {
        let is_repeated = settle.kind.fate() == Some(past.fate)
            || matches!(settle.kind, SettleKind::Nack { .. }) && past.fate == Fate::Failed;
        if is_repeated {
            verdict.waits_for = verdict.waits_for.max(self.said_by(part));
            return;
        }
        if self.is_fenced(settle.epoch) {
            return verdict.stale(settle.lease, part, StaleReason::Fenced);
        }
        match past.fate {
            Fate::Acked | Fate::Nacked | Fate::Rejected => {
                verdict.stale(settle.lease, part, StaleReason::AlreadySettled);
            }
            // It came back, and was not handed out again. Each has gone its own way since.
            Fate::Failed | Fate::Returned => {
                for offset in part.iter() {
                    self.settle_late(now, offset, past, settle, verdict);
                }
            }
        }
    }

    /// The number of the last proposal that settles some of these messages and is not applied yet; 0: none.
    fn said_by(&self, part: OffsetRange) -> u64 {
        let settles = |proposal: &Proposal| part.iter().any(|offset| proposal.settles(offset));
        if settles(&self.waiting) {
            return self.next_proposal();
        }
        self.in_flight.as_ref().filter(|it| settles(it)).map_or(0, |_| self.taken)
    }

    /// Judges a settle of a message that came back by itself and was not handed out again.
    fn settle_late(
        &mut self,
        now: Time,
        offset: Offset,
        past: Past,
        settle: &Settle,
        verdict: &mut Verdict,
    ) {
        let range = OffsetRange::single(offset);
        let is_failing = self.in_flight.as_ref().is_some_and(|it| it.fails(offset));
        if self.mirror.is_done(offset) || self.is_dying(offset) {
            return verdict.stale(settle.lease, range, StaleReason::AlreadySettled);
        }
        if is_failing {
            return verdict.stale(settle.lease, range, StaleReason::Superseded);
        }
        let Some(fate) = settle.kind.fate() else {
            return self.revive(now, offset, past, settle, verdict);
        };
        if self.waiting.withdraw_failure(offset) {
            self.failing -= 1;
        }
        self.retries.remove(range);
        self.returned.remove(range);
        self.past.remove(range);
        self.past.insert_joined(range, Past { fate, ..past });
        self.propose(range, settle, verdict);
    }

    /// The application goes on with a message that came back by itself, and that did not count as a failure.
    /// How large it is nobody knows any more.
    fn revive(
        &mut self,
        now: Time,
        offset: Offset,
        past: Past,
        settle: &Settle,
        verdict: &mut Verdict,
    ) {
        let range = OffsetRange::single(offset);
        let is_there = self.members.contains(past.member) && !self.is_exclusive();
        let has_room = !self.within_credit(range, past.member, 1).is_empty();
        if past.fate != Fate::Returned || !is_there || !has_room {
            return verdict.stale(settle.lease, range, StaleReason::Superseded);
        }
        let attempts = self.mirror.held(offset).map_or(0, |held| held.attempts);
        let mut lease = Lease {
            id: past.lease,
            member: past.member,
            attempt: attempts.saturating_add(1),
            generation: self.generation(offset),
            begun: true,
            granted: now,
            deadline: now,
            sizes: Sizes::Even(0),
        };
        lease.begin(now, self.ack_wait_us());
        self.lease(range, lease);
    }
}
