//! The one active member of an exclusive group, and its strict order (X-1 … X-5).

use railgun_types::{Offset, OffsetRange};

use super::{Dispatcher, Effect, HAND_OVER_US, HandOverRefused, MemberId, PresentedLease, Time};
use crate::builtin_bug::BuiltinBug;

/// Who is active, or to be.
#[derive(Debug, Default)]
pub(super) struct Activity {
    pub(super) active: Option<MemberId>,
    /// An `Activate` waits, or is proposed.
    pub(super) is_activating: bool,
    /// Who is to be the next one, if it can be.
    preferred: Option<MemberId>,
    /// Until when the active one may settle what it has, where another one is to be active.
    hand_over: Option<Time>,
}

impl Activity {
    /// A member is gone.
    pub(super) fn left(&mut self, id: MemberId) {
        if self.active == Some(id) {
            self.active = None;
            self.hand_over = None;
        }
        if self.preferred == Some(id) {
            self.preferred = None;
        }
    }

    /// Who may get something now.
    pub(super) fn receiver(&self) -> Option<MemberId> {
        self.active.filter(|_| self.hand_over.is_none())
    }
}

impl Dispatcher {
    /// The active member of an exclusive group.
    #[must_use]
    pub fn active(&self) -> Option<MemberId> {
        self.activity.active
    }

    /// An operator wants another member to be the active one: this one, or any. The active one gets nothing
    /// more, and gives way when it has settled what it has, or after [`HAND_OVER_US`]. Asked again
    /// meanwhile, it has no more time.
    ///
    /// # Errors
    /// [`HandOverRefused`]; nothing has changed then.
    pub fn on_hand_over(
        &mut self,
        now: Time,
        to: Option<MemberId>,
        out: &mut Vec<Effect>,
    ) -> Result<(), HandOverRefused> {
        if !self.is_exclusive() {
            return Err(HandOverRefused::NotExclusive);
        }
        let is_willing = |id| self.members.get(id).is_some_and(|member| member.is_willing());
        let is_possible = match to {
            Some(to) => is_willing(to) && self.activity.active != Some(to),
            None => self.successor().is_some(),
        };
        if !is_possible {
            return Err(HandOverRefused::NobodyElse);
        }
        if self.activity.active.is_none() {
            return Err(HandOverRefused::NobodyActive);
        }
        // Whoever gives way must not be the first in line for its own place.
        self.activity.preferred = to.or(self.successor());
        self.activity.hand_over.get_or_insert(now.plus_us(HAND_OVER_US));
        self.conclude(now, out);
        Ok(())
    }

    /// Who is to be the next active member: of those that can be, the one that is there longest.
    fn successor(&self) -> Option<MemberId> {
        let is_other = |id: &MemberId| self.activity.active != Some(*id);
        let is_willing = |id: &MemberId| self.members.get(*id).is_some_and(|it| it.is_willing());
        let preferred = self.activity.preferred.filter(|id| is_other(id) && is_willing(id));
        preferred.or_else(|| self.members.willing().find(is_other))
    }

    /// Sees to it that there is an active member where there can be one.
    pub(super) fn keep_active(&mut self, now: Time, out: &mut Vec<Effect>) {
        let successor = self.successor();
        if let Some(active) = self.activity.active {
            let goes_on = self.members.get(active).is_some_and(|member| member.is_willing());
            if successor.is_none() {
                // Nobody to give way to.
                self.activity.hand_over = None;
            } else if !goes_on && self.activity.hand_over.is_none() {
                self.activity.hand_over = Some(now.plus_us(HAND_OVER_US));
            }
            let is_over = |until| until <= now || self.leases.messages() == 0;
            if self.activity.hand_over.is_some_and(is_over) {
                self.depose(active, out);
            }
        }
        if self.activity.active.is_some() {
            return;
        }
        let may_come_back = self.grace.is_some_and(|grace| now < grace.activate_at);
        if successor.is_some() && !self.activity.is_activating && !may_come_back {
            self.waiting.activates = true;
            self.activity.is_activating = true;
        }
        if successor.is_none() && self.waiting.activates {
            self.withdraw_activation();
        }
    }

    fn withdraw_activation(&mut self) {
        if self.waiting.activates {
            self.waiting.activates = false;
            self.activity.is_activating = false;
        }
    }

    /// What the active member has not settled goes to the next one, which has the next epoch: as if it had
    /// not been delivered.
    fn depose(&mut self, active: MemberId, out: &mut Vec<Effect>) {
        self.take_back_from(Offset(0));
        self.activity.active = None;
        self.activity.hand_over = None;
        out.push(Effect::Inactive { member: active });
    }

    fn take_back_from(&mut self, from: Offset) {
        let range = OffsetRange::new(from, Offset(u64::MAX));
        while let Some(ended) = self.end_first(range) {
            self.give_back(&ended);
        }
    }

    /// The group's epoch has gone up by our change: whoever is first in line now has it.
    pub(super) fn activated(&mut self, out: &mut Vec<Effect>) {
        self.activity.is_activating = false;
        // What is at the members of older epochs is fenced.
        self.end_grace();
        let Some(member) = self.successor() else { return };
        self.activity.active = Some(member);
        self.activity.preferred = None;
        out.push(Effect::Active { member, epoch: self.mirror.epoch() });
    }

    /// When something is to be done about the active member.
    pub(super) fn activity_deadline(&self) -> Option<Time> {
        let waits = self.activity.active.is_none()
            && !self.activity.is_activating
            && self.is_exclusive()
            && self.successor().is_some();
        let activate_at = self.grace.filter(|_| waits).map(|grace| grace.activate_at);
        self.activity.hand_over.or(activate_at)
    }

    /// Whether what a member presents can be its own still. In an exclusive group it is the active one's, on
    /// another connection.
    pub(super) fn may_present(&self, presented: &[PresentedLease]) -> bool {
        if !self.is_exclusive() {
            return true;
        }
        let is_activated = self.activity.is_activating && !self.waiting.activates;
        let is_its_own = |it: &PresentedLease| {
            let run = self.leases.at_or_behind(it.range.start);
            run.is_some_and(|(run, lease)| lease.id == it.lease && run.start < it.range.end)
        };
        let comes_back = self.activity.active.is_none() || presented.iter().any(is_its_own);
        !is_activated && comes_back && presented.iter().any(|it| self.is_of_epoch(it.epoch))
    }

    /// Whether a tag of that epoch still counts.
    pub(super) fn is_of_epoch(&self, epoch: u32) -> bool {
        let is_activated = self.activity.is_activating && !self.waiting.activates;
        !self.is_exclusive() || epoch == self.mirror.epoch() && !is_activated
    }

    /// Whether a settle by a tag of that epoch is too late.
    pub(super) fn is_fenced(&self, epoch: u32) -> bool {
        !self.is_of_epoch(epoch) && !self.is_unfenced(epoch)
    }

    /// See [`BuiltinBug::SettleNotFenced`].
    pub(super) fn is_unfenced(&self, epoch: u32) -> bool {
        self.mirror.planted().is(BuiltinBug::SettleNotFenced) && !self.is_of_epoch(epoch)
    }

    /// The member that has come back with what it had goes on being the active one.
    pub(super) fn resume(&mut self, id: MemberId, out: &mut Vec<Effect>) {
        if !self.is_exclusive() || !self.members.get(id).is_some_and(|it| it.is_willing()) {
            return;
        }
        if let Some(old) = self.activity.active {
            for range in self.leased_by(old) {
                while let Some(ended) = self.end_first(range) {
                    self.give_back(&ended);
                }
            }
            out.push(Effect::Inactive { member: old });
        }
        self.withdraw_activation();
        self.activity.active = Some(id);
        // Nobody else can have anything of this epoch.
        self.end_grace();
        out.push(Effect::Active { member: id, epoch: self.mirror.epoch() });
        // What has failed meanwhile comes before what the member may have of what is behind it.
        if let Some(blocker) = self.first_blocker() {
            self.rewind(blocker, out);
        }
    }

    /// Everything from `to` on is to be delivered once more, in order.
    pub(super) fn rewind(&mut self, to: Offset, out: &mut Vec<Effect>) {
        self.take_back_from(to);
        if let Some(member) = self.activity.active {
            self.rewinds += 1;
            out.push(Effect::Rewind { member, to, generation: self.rewinds });
        }
    }
}
