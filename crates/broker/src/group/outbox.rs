//! What goes to the members of a group, without a wait for any of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use railgun_core::dispatcher::{Effect, MemberId};
use railgun_net::{Held, Member};
use railgun_types::OffsetRange;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::MemberOutput;
use super::delivered::{Delivered, Piece};
use super::feed::{Run, behind};
use super::told::told;

/// The way to a member.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// Has room for all that the credit allows, and some news. Who drops its other end has left.
    pub(crate) to: mpsc::Sender<MemberOutput>,
    /// The member has let it fill up: its session is to end.
    pub(crate) given_up: CancellationToken,
    /// For the records that go by it. `None`: as much as there is.
    memory: Option<Member>,
    /// Memory that was waited for.
    pub(super) room: Option<Held>,
}

impl Outbox {
    pub(crate) fn new(
        to: mpsc::Sender<MemberOutput>,
        given_up: CancellationToken,
        memory: Option<Member>,
    ) -> Self {
        Self { to, given_up, memory, room: None }
    }

    /// Memory for so many bytes, if there is some now.
    fn take(&mut self, bytes: usize) -> Result<Option<Arc<Held>>, NoRoom> {
        let Some(memory) = &self.memory else { return Ok(None) };
        let waited_for = self.room.take().and_then(|mut room| room.split(bytes));
        let held = waited_for.or_else(|| memory.try_take(bytes)).ok_or(NoRoom)?;
        Ok(Some(Arc::new(held)))
    }
}

/// There is no memory for it now.
struct NoRoom;

/// The memory that there was not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lack {
    /// For the whole delivery, and for the first of its messages.
    pub(crate) bytes: usize,
    pub(crate) first: usize,
}

/// Sends what was just assigned out of `run`, and what members are to hear with it, in the order in which it
/// came about: what a rewind takes back was delivered before it, what it is followed by was not. Returns
/// what was not sent for lack of memory: nothing behind that is sent to the same member.
pub(super) fn deliver(
    members: &mut BTreeMap<MemberId, Outbox>,
    run: &Run,
    effects: &mut Vec<Effect>,
    from: usize,
) -> Vec<(MemberId, OffsetRange)> {
    let (first, delivery) = (run.first(), &run.delivery);
    // Of what was assigned last: it is assigned in order.
    let (mut reached, mut place) = (0, run.place());
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
        place = behind(&delivery.batch, place, at - reached);
        reached = at;
        let delivered = Delivered {
            records: Piece::new(&delivery.batch, place, count, bytes),
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

pub(super) fn tell(members: &BTreeMap<MemberId, Outbox>, member: MemberId, output: MemberOutput) {
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

#[cfg(test)]
mod tests {
    use railgun_proto::v1::group_notice::Notice;
    use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
    use railgun_types::{Offset, Timestamp, limits};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::reader::{Delivery, Source};

    /// So many records from offset 4 on, each with its offset as its value.
    fn run(count: u8) -> Run {
        let mut builder = BatchBuilder::new(limits::MESSAGE_BYTES_DEFAULT);
        for offset in 4..4 + count {
            let value = &[offset];
            builder.push(&RecordDraft { value, ..RecordDraft::default() }).expect("it is small");
        }
        let batch: bytes::Bytes = builder.into_parts().concat();
        Run::new(Delivery {
            base: Offset(4),
            skip: 0,
            count: count.into(),
            ts: Timestamp(7),
            source: Source::Ring,
            batch: RecordBatch::open(batch).expect("just built"),
        })
    }

    #[test]
    fn each_member_is_sent_the_records_that_it_was_given() {
        let (mut run, mut effects, mut queues) = (run(9), Vec::new(), Vec::new());
        let mut members = BTreeMap::new();
        // The first two are of somebody else.
        run.advance(2);
        for (number, (start, end)) in (1..).zip([(6, 7), (7, 9), (9, 10), (10, 13)]) {
            let member = MemberId(number);
            let (to, queue) = mpsc::channel(1);
            members.insert(member, Outbox::new(to, CancellationToken::new(), None));
            queues.push((queue, start..end));
            let range = OffsetRange::new(Offset(start), Offset(end));
            let (lease, attempt, epoch, generation) = (number, 1, 0, 0);
            effects.push(Effect::Deliver { member, lease, range, attempt, epoch, generation });
        }
        assert_eq!(deliver(&mut members, &run, &mut effects, 0), []);
        for (mut queue, offsets) in queues {
            let Ok(MemberOutput::Deliver(delivered)) = queue.try_recv() else {
                panic!("{offsets:?} are not there");
            };
            let batch = RecordBatch::verify(delivered.frame().0.blob()).expect("whole");
            let value = |at: usize| batch.records().nth(at)?.content()?.value.first().copied();
            let values: Vec<_> = (0..batch.count()).map_while(value).map(u64::from).collect();
            assert_eq!(values, offsets.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_member_that_lets_too_much_come_together_is_given_up() {
        let (member, given_up) = (MemberId(1), CancellationToken::new());
        let (to, _queue) = mpsc::channel(1);
        let members = BTreeMap::from([(member, Outbox::new(to, given_up.clone(), None))]);
        let news = || MemberOutput::Notice(Notice::Inactive(true));
        tell(&members, member, news());
        assert!(!given_up.is_cancelled());
        tell(&members, member, news());
        assert!(given_up.is_cancelled());
    }

    #[test]
    fn a_member_is_told_of_a_rewind_before_what_is_delivered_behind_it() {
        //
        let member = MemberId(1);
        let (to, mut told) = mpsc::channel(4);
        let outbox = Outbox::new(to, CancellationToken::new(), None);
        let mut members = BTreeMap::from([(member, outbox)]);
        let run = run(1);
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
