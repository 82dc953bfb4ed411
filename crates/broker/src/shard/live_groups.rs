//! The groups whose messages are handed out here, and what they have to say: the changes of all of them go
//! into one entry, and one such entry is on its way at a time (G-13).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use railgun_core::command::{Append, Command, CommandBody, GroupChanges, GroupCommand};
use railgun_core::shard::{Outcome, ShardState};
use railgun_raft::LeaderState;
use railgun_types::GroupId;
use tokio::time::Instant;

use crate::group::{GroupFigures, GroupUpdate, LiveGroup};

/// Bytes of what several groups say in one entry.
const ENTRY_BYTES: usize = 2 << 20;
/// How long no group is handed out in a term in which an entry was refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LiveGroups {
    live: BTreeMap<GroupId, (u64, LiveGroup)>,
    /// Of the last one that was.
    last_number: u64,
    /// Groups that were let go of in this term while they had members.
    left: BTreeMap<GroupId, u64>,
    /// What waits for the entry that is on its way.
    waiting: VecDeque<GroupChanges>,
    /// Whose changes are in the entry that is on its way, if one is, and of which term.
    in_flight: Option<(u64, BTreeSet<GroupId>)>,
    /// The term in which nobody knows what became of an entry: in it nothing is handed out any more, for
    /// that entry may still be applied.
    lost_in: Option<u64>,
    /// When an entry was last refused, and in which term: the lead is being handed over, most probably, and
    /// who would join meanwhile would be given what nobody can settle.
    refused: Option<(u64, Instant)>,
    /// The newest term that has begun, and when it was noticed here.
    led_since: Option<(u64, Instant)>,
}

impl LiveGroups {
    /// A term has begun.
    pub(super) fn led_since(&mut self, term: u64) {
        if self.led_since.is_none_or(|(last, _)| last < term) {
            self.led_since = Some((term, Instant::now()));
        }
    }

    /// For how long this term lasts.
    pub(super) fn led_for(&self, term: u64) -> Duration {
        let since = self.led_since.filter(|(led, _)| *led == term);
        since.map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    /// This is who leads now: only what is handed out in its term, if this replica is it, goes on.
    pub(super) fn follow(&mut self, leader: LeaderState) {
        let is_over =
            |_: &GroupId, (term, _): &mut (u64, LiveGroup)| !leader.serving || *term != leader.term;
        let over: Vec<_> = self.live.extract_if(.., is_over).collect();
        for (group, (term, live)) in over {
            self.leave(group, term, &live);
        }
    }

    /// The group, if it is handed out in this term.
    pub(super) fn find(&self, group: GroupId, term: u64) -> Option<&LiveGroup> {
        let (of, live) = self.live.get(&group)?;
        (*of == term && !live.inputs.is_closed()).then_some(live)
    }

    /// For who will hand a group out.
    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn insert(&mut self, group: GroupId, term: u64, live: LiveGroup) {
        self.left.remove(&group);
        self.live.insert(group, (term, live));
    }

    /// Whether the group was left in this term by who handed it out, with members that may come back with what
    /// they have.
    pub(super) fn was_left(&self, group: GroupId, term: u64) -> bool {
        let is_left = |(of, live): &(u64, LiveGroup)| *of == term && live.has_members();
        self.left.get(&group) == Some(&term) || self.live.get(&group).is_some_and(is_left)
    }

    pub(super) fn figures(&self, group: GroupId, term: u64) -> GroupFigures {
        self.find(group, term).map_or_else(GroupFigures::default, |live| live.figures.get())
    }

    /// Of all that are handed out here.
    pub(super) fn all_figures(&self) -> impl Iterator<Item = GroupFigures> {
        let live = self.live.values().filter(|(_, live)| !live.inputs.is_closed());
        live.map(|(_, live)| live.figures.get())
    }

    /// Whether the group may be handed out in this term: nothing that was said before by who handed it out
    /// in this term is still to be applied, for it would be taken for what is said next.
    pub(super) fn is_free(&self, group: GroupId, term: u64) -> bool {
        let is_on_its_way =
            self.in_flight.as_ref().is_some_and(|(_, groups)| groups.contains(&group));
        let waits = || self.waiting.iter().any(|said| said.group == group);
        self.lost_in != Some(term) && !self.is_refused(term) && !is_on_its_way && !waits()
    }

    fn is_refused(&self, term: u64) -> bool {
        self.refused.is_some_and(|(of, at)| of == term && at.elapsed() < REFUSED_PAUSE)
    }

    /// What they said was not taken, for this replica does not lead, or not for much longer: they end, and
    /// begin anew where the shard is led.
    pub(super) fn refused(&mut self) {
        let term = self.in_flight.as_ref().map(|(term, _)| *term);
        self.refused = term.map(|term| (term, Instant::now())).or(self.refused);
        self.clear();
    }

    /// What they said was not taken: they end, and begin anew.
    pub(super) fn clear(&mut self) {
        for (group, (term, live)) in std::mem::take(&mut self.live) {
            self.leave(group, term, &live);
        }
        self.waiting.clear();
        self.in_flight = None;
    }

    /// Nobody knows what became of the entry that was on its way.
    pub(super) fn lost(&mut self) {
        self.lost_in = self.in_flight.as_ref().map(|(term, _)| *term).max(self.lost_in);
        self.clear();
    }

    /// Looks only at what the one says that hands the group out: one that has ended, or was let go of, may have
    /// said something before that comes after its successor was made, who would take it for its own.
    pub(super) fn say(&mut self, actor: u64, changes: GroupChanges) {
        let live = self.live.get(&changes.group);
        if live.is_some_and(|(_, live)| live.number == actor) {
            self.waiting.push_back(changes);
        }
    }

    /// Whether something is to be proposed now.
    pub(super) fn has_entry(&self) -> bool {
        self.in_flight.is_none() && !self.waiting.is_empty()
    }

    /// What is to be proposed now.
    pub(super) fn take(&mut self) -> Option<CommandBody> {
        if !self.has_entry() {
            return None;
        }
        // At least one: it is no larger than an entry may be.
        let mut bytes = 0;
        let fits = |said: &&GroupChanges| {
            let is_first = bytes == 0;
            bytes += said.bytes_max();
            is_first || bytes <= ENTRY_BYTES
        };
        let count = self.waiting.iter().take_while(fits).count();
        let changes: Arc<[_]> = self.waiting.drain(..count).collect();
        // Those of an earlier term are refused.
        let term = changes.iter().map(|said| said.term).max()?;
        self.in_flight = Some((term, changes.iter().map(|said| said.group).collect()));
        Some(CommandBody::Group(GroupCommand::Changes(changes)))
    }

    /// The entry that was on its way was applied.
    pub(super) fn ended(&mut self) {
        self.in_flight = None;
    }

    /// Tells groups what an entry of this term has changed of them.
    pub(super) fn applied(
        &mut self,
        state: &ShardState,
        term: u64,
        command: &Command,
        outcome: &Outcome,
    ) {
        if self.live.is_empty() {
            return;
        }
        let log_time = state.log_time();
        match (&command.body, outcome) {
            (CommandBody::Group(GroupCommand::Changes(groups)), _) => {
                for (index, said) in groups.iter().enumerate() {
                    let groups = Arc::clone(groups);
                    self.tell(said.group, GroupUpdate::Changes { term, log_time, groups, index });
                }
            }
            (CommandBody::Group(GroupCommand::Ensure(ensure)), _) => {
                if let Some(group) = state.group_named(ensure.stream, &ensure.group) {
                    let spec = Box::new(group.spec().clone());
                    self.tell(group.id(), GroupUpdate::Spec(spec));
                }
            }
            (CommandBody::Group(GroupCommand::Delete { .. }), _) => self.end_those_gone(state),
            (CommandBody::Stream(_), Outcome::Deleted(true)) => self.end_those_gone(state),
            (CommandBody::Append(items), Outcome::Appended(results)) => {
                let letters = items.iter().zip(results).filter(|(_, result)| result.is_ok());
                for (item, _) in letters {
                    self.tell_letter(item);
                }
            }
            _ => {}
        }
    }

    fn tell_letter(&mut self, item: &Append) {
        if let Some(letter) = item.dead_letter {
            let (offset, generation) = (letter.offset, letter.generation);
            self.tell(letter.group, GroupUpdate::Died { offset, generation });
        }
    }

    fn end_those_gone(&mut self, state: &ShardState) {
        let is_gone = |id: &GroupId, _: &mut _| state.group(*id).is_none();
        self.left.retain(|id, _| state.group(*id).is_some());
        for (_, (_, live)) in self.live.extract_if(.., is_gone) {
            live.updates.try_send(GroupUpdate::Deleted).ok();
        }
    }

    /// One that falls behind is let go of, and begins anew.
    fn tell(&mut self, group: GroupId, update: GroupUpdate) {
        let Some((_, live)) = self.live.get(&group) else { return };
        if live.updates.try_send(update).is_err()
            && let Some((term, live)) = self.live.remove(&group)
        {
            self.leave(group, term, &live);
        }
    }

    fn leave(&mut self, group: GroupId, term: u64, live: &LiveGroup) {
        if live.has_members() {
            self.left.insert(group, term);
        }
    }
}

#[cfg(test)]
mod tests {
    use railgun_types::Offset;
    use tokio::sync::mpsc::channel;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn where_an_entry_was_refused_nothing_is_handed_out_for_a_while() {
        let (mut groups, group) = (LiveGroups::default(), GroupId(1));
        let (number, _ends) = insert(&mut groups, group);
        groups.say(number, GroupChanges { group, term: 3, changes: vec![] });
        assert!(groups.take().is_some() && !groups.is_free(group, 3));
        groups.refused();
        assert!(!groups.is_free(group, 3), "the lead is being handed over");
        assert!(groups.is_free(group, 4), "it was handed over, and back");
        advance(REFUSED_PAUSE).await;
        assert!(groups.is_free(group, 3), "it stays here after all");
    }

    #[test]
    fn what_a_former_one_says_is_not_taken_for_its_successors() {
        // G-3
        let (mut groups, group) = (LiveGroups::default(), GroupId(1));
        let (first, ends) = insert(&mut groups, group);
        drop(ends);
        assert!(groups.find(group, 3).is_none() && groups.is_free(group, 3));
        let (second, _ends) = insert(&mut groups, group);
        groups.say(first, GroupChanges { group, term: 3, changes: vec![] });
        assert!(!groups.has_entry() && groups.take().is_none());
        groups.say(second, GroupChanges { group, term: 3, changes: vec![] });
        assert!(groups.take().is_some());
    }

    #[test]
    fn what_a_former_one_has_said_is_applied_before_another_hands_the_group_out() {
        // G-3
        let (mut groups, group) = (LiveGroups::default(), GroupId(1));
        let (number, ends) = insert(&mut groups, group);
        let says = |term| GroupChanges { group, term, changes: vec![] };
        groups.say(number, says(3));
        drop(ends);
        assert!(!groups.is_free(group, 3), "it waits");
        assert!(groups.take().is_some());
        assert!(!groups.is_free(group, 3), "it is on its way");
        assert!(groups.is_free(GroupId(2), 3), "nothing of this one is");
        groups.ended();
        assert!(groups.is_free(group, 3));
        // Nobody knows what becomes of it: it may still be applied in this term, and in no other.
        let (number, _ends) = insert(&mut groups, group);
        groups.say(number, says(3));
        assert!(groups.take().is_some());
        groups.lost();
        assert!(groups.find(group, 3).is_none() && !groups.has_entry());
        assert!(!groups.is_free(group, 3) && groups.is_free(group, 4));
    }

    #[test]
    fn members_of_one_that_was_let_go_of_in_a_term_may_come_back_in_that_term() {
        // G-14
        let (mut groups, group) = (LiveGroups::default(), GroupId(1));
        let figures = GroupFigures { members: 1, ..GroupFigures::default() };
        let (_, _ends) = insert(&mut groups, group);
        groups.clear();
        assert!(!groups.was_left(group, 3), "it had no members");
        let (_, ends) = insert(&mut groups, group);
        groups.live[&group].1.figures.set(figures);
        drop(ends);
        assert!(groups.was_left(group, 3), "it has ended by itself");
        groups.clear();
        assert!(groups.was_left(group, 3) && !groups.was_left(group, 4));
        let (_, _ends) = insert(&mut groups, group);
        assert!(!groups.was_left(group, 3), "they have come back, or will find it here");
        // One that falls behind.
        groups.live[&group].1.figures.set(figures);
        let update = || GroupUpdate::Died { offset: Offset(0), generation: 0 };
        groups.tell(group, update());
        assert!(groups.find(group, 3).is_some());
        groups.tell(group, update());
        assert!(groups.find(group, 3).is_none() && groups.was_left(group, 3));
    }

    /// Somebody hands the group out in term 3.
    fn insert(groups: &mut LiveGroups, group: GroupId) -> (u64, impl Sized + use<>) {
        let (number, figures) = (groups.next_number(), Arc::default());
        let ((inputs, of_inputs), (updates, of_updates)) = (channel(1), channel(1));
        groups.insert(group, 3, LiveGroup { number, inputs, updates, figures });
        (number, (of_inputs, of_updates))
    }
}
