//! Exact effects of every rule, and schedules that look drawn against a model.

mod balanced;
mod checks;
mod exclusive;
mod log;
mod members;
mod schedules;
mod settles;
mod world;

use railgun_types::{DlqSpec, GroupId, GroupMode, GroupSpec};

use super::*;
use crate::command::{FailCause, GroupChange, GroupChanges};
use crate::group::Context;

const GROUP: GroupId = GroupId(7);
const SECOND: u64 = 1_000_000;
/// Bytes that a consumer of the schedules may have, for each message of its credit.
const BYTES_PER_CREDIT: u64 = 100;

/// The group's state, as it is applied on every node, and its stream.
struct Replica {
    state: GroupState,
    spec: GroupSpec,
    term: u64,
    /// Of this term, by dispatchers before.
    leases_before: u64,
    ts: Timestamp,
    tail: Offset,
}

impl Replica {
    fn new(spec: GroupSpec) -> Self {
        let ts = Timestamp(1_000_000_000);
        let (state, tail) = (GroupState::new(Offset(0)), Offset(0));
        Self { state, spec, term: 1, leases_before: 0, ts, tail }
    }

    fn context(&self, said_in: u64) -> Context<'_> {
        Context { spec: &self.spec, said_in, term: self.term, log_time: self.ts }
    }

    fn apply(&mut self, changes: &GroupChanges) {
        let spec = self.spec.clone();
        let context = Context { spec: &spec, ..self.context(changes.term) };
        for change in &changes.changes {
            self.state.apply(change, &context);
        }
    }

    fn dispatcher(
        &self,
        term: u64,
        now: Time,
        leading_since: Time,
        out: &mut Vec<Effect>,
    ) -> Dispatcher {
        let (log_time, tail) = (self.ts, self.tail);
        let leases_before = self.leases_before;
        let start = Start { term, leases_before, now, log_time, leading_since, tail };
        Dispatcher::new(self.state.clone(), self.spec.clone(), start, out)
    }
}

fn range(start: u64, end: u64) -> OffsetRange {
    OffsetRange::new(Offset(start), Offset(end))
}

/// A dispatcher whose proposals are applied when the test says so.
struct Desk {
    replica: Replica,
    dispatcher: Dispatcher,
    now: Time,
    out: Vec<Effect>,
    requests: u64,
}

const ANN: MemberId = MemberId(1);
const BOB: MemberId = MemberId(2);
const CID: MemberId = MemberId(3);

impl Desk {
    /// Of a leader that has led for long.
    fn new(spec: GroupSpec) -> Self {
        let replica = Replica::new(spec);
        let now = Time(100 * SECOND);
        let mut out = Vec::new();
        let dispatcher = replica.dispatcher(1, now, Time(0), &mut out);
        Self { replica, dispatcher, now, out, requests: 0 }
    }

    fn balanced() -> Self {
        Self::new(GroupSpec::default())
    }

    fn exclusive() -> Self {
        Self::new(GroupSpec { mode: GroupMode::Exclusive, ..GroupSpec::default() })
    }

    /// With members that have room for so many messages each, what they need reserved, and records.
    fn with(mut self, members: &[(MemberId, u64)], records: u64) -> Self {
        for (id, messages) in members {
            self.join(*id, *messages);
        }
        self.commit();
        self.publish(records);
        self.out.clear();
        self
    }

    fn join(&mut self, id: MemberId, messages: u64) -> Vec<Effect> {
        self.present(id, messages, &[])
    }

    fn present(
        &mut self,
        id: MemberId,
        messages: u64,
        presented: &[PresentedLease],
    ) -> Vec<Effect> {
        let credit = Credit { messages, bytes: 1_000_000 };
        self.dispatcher.on_join(self.now, id, credit, presented, &mut self.out);
        self.effects()
    }

    fn leave(&mut self, id: MemberId, how: Left) -> Vec<Effect> {
        self.dispatcher.on_leave(self.now, id, how, &mut self.out);
        self.effects()
    }

    fn publish(&mut self, records: u64) -> Vec<Effect> {
        self.replica.tail = self.replica.tail.plus(records);
        self.dispatcher.on_tail(self.replica.tail, &mut self.out);
        self.effects()
    }

    fn effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.out)
    }

    /// Hands out what can be, records of 10 bytes.
    fn hand_out(&mut self) -> Vec<Effect> {
        self.hand_out_sized(|_| 10)
    }

    fn hand_out_sized(&mut self, size: impl Fn(Offset) -> u32) -> Vec<Effect> {
        while let Want::Retry(base) | Want::Fresh(base) = self.dispatcher.wants() {
            let offered = OffsetRange::new(base, self.replica.tail);
            let bytes: Vec<_> = offered.iter().take(1_000).map(&size).collect();
            let offered = OfferedRun { base, bytes: &bytes };
            if self.dispatcher.assign(self.now, &offered, &mut self.out) == 0 {
                assert_eq!(self.dispatcher.wants(), Want::Nothing);
            }
        }
        self.dispatcher.end_fetches(&mut self.out);
        self.effects()
    }

    fn say(&mut self, id: MemberId, settles: Vec<Settle>) -> Vec<Effect> {
        self.requests += 1;
        let request = SettleRequest { number: self.requests, settles };
        self.dispatcher.on_settle(self.now, id, &request, &mut self.out);
        self.effects()
    }

    /// Says something about a part of a delivery of this leader.
    fn settle(
        &mut self,
        id: MemberId,
        count: u64,
        part: OffsetRange,
        kind: SettleKind,
    ) -> Vec<Effect> {
        let epoch = self.replica.state.epoch();
        let lease = lease::lease_id(self.replica.term, count);
        self.say(id, vec![Settle { lease, epoch, range: part, kind }])
    }

    fn propose(&mut self) -> Option<Vec<GroupChange>> {
        self.dispatcher.take_proposal()
    }

    fn apply(&mut self, term: u64, changes: Vec<GroupChange>) -> Vec<Effect> {
        let changes = GroupChanges { group: GROUP, term, changes };
        self.replica.apply(&changes);
        let context = self.replica.context(term);
        self.dispatcher.on_applied(self.now, &context, &changes, &mut self.out);
        assert_eq!(self.dispatcher.state(), &self.replica.state);
        self.effects()
    }

    /// Proposes what waits, and applies it.
    fn commit(&mut self) -> Vec<Effect> {
        let term = self.replica.term;
        self.propose().map_or(Vec::new(), |changes| self.apply(term, changes))
    }

    fn operator(&mut self, change: GroupChange) -> Vec<Effect> {
        self.apply(0, vec![change])
    }

    fn advance(&mut self, us: u64) -> Vec<Effect> {
        self.now = self.now.plus_us(us);
        self.replica.ts.0 += us as i64;
        self.dispatcher.on_deadline(self.now, self.replica.ts, &mut self.out);
        assert!(self.dispatcher.next_deadline().is_none_or(|it| it > self.now));
        self.effects()
    }

    /// Another leader, which has applied what was committed; its members are yet to come.
    fn change_leader(&mut self) -> Vec<Effect> {
        self.replica.term += 1;
        let term = self.replica.term;
        self.dispatcher = self.replica.dispatcher(term, self.now, self.now, &mut self.out);
        self.effects()
    }

    /// Another dispatcher takes the place of this one, in the same term.
    fn begin_anew(&mut self) -> Vec<Effect> {
        self.replica.leases_before += 1_000;
        let term = self.replica.term;
        self.dispatcher = self.replica.dispatcher(term, self.now, self.now, &mut self.out);
        self.effects()
    }
}

/// The delivery number `count` of the first leader, first attempt.
fn deliver(member: MemberId, count: u64, range: OffsetRange) -> Effect {
    retry(member, count, range, 1)
}

fn retry(member: MemberId, count: u64, range: OffsetRange, attempt: u32) -> Effect {
    let lease = lease::lease_id(1, count);
    Effect::Deliver { member, lease, range, attempt, epoch: 0, generation: 0 }
}

fn nack() -> SettleKind {
    SettleKind::Nack { delay_ms: None, error: None }
}

fn answered(member: MemberId, through: u64) -> Effect {
    Effect::Settled { member, through, stale: vec![] }
}

fn stale(
    member: MemberId,
    through: u64,
    count: u64,
    range: OffsetRange,
    reason: StaleReason,
) -> Effect {
    let lease = lease::lease_id(1, count);
    Effect::Settled { member, through, stale: vec![StaleSettle { lease, range, reason }] }
}

fn fail(cause: FailCause, ranges: Vec<OffsetRange>) -> GroupChange {
    GroupChange::Fail { epoch: 0, ranges, cause, delay_ms: None, error: None }
}
