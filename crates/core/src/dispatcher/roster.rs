//! The members of a group, with those at hand for whom there is something to do: nobody looks at ten
//! thousand of them to find one.

use std::collections::{BTreeMap, BTreeSet};

use super::MemberId;
use super::members::Member;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Roster {
    members: BTreeMap<MemberId, (Member, Listing)>,
    takers: BTreeSet<(Rank, MemberId)>,
    willing: BTreeSet<(u64, MemberId)>,
    fetching: BTreeSet<MemberId>,
    asking: BTreeSet<MemberId>,
}

/// The order in which members get messages: who uses least of its credit comes first, and of those who got
/// something longest ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    share: u64,
    served: u64,
}

/// Where a member is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Listing {
    taker: Option<Rank>,
    willing: Option<u64>,
    may_end_fetch: bool,
    is_asking: bool,
}

impl Listing {
    fn of(member: &Member) -> Self {
        let rank = Rank { share: member.share(), served: member.served };
        Self {
            taker: member.is_taker().then_some(rank),
            willing: member.is_willing().then_some(member.joined),
            may_end_fetch: member.may_end_fetch(),
            is_asking: !member.requests.is_empty(),
        }
    }
}

impl Roster {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn contains(&self, id: MemberId) -> bool {
        self.members.contains_key(&id)
    }

    pub(super) fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id).map(|(member, _)| member)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = MemberId> {
        self.members.keys().copied()
    }

    pub(super) fn insert(&mut self, id: MemberId, member: Member) {
        self.remove(id);
        self.members.insert(id, (member, Listing::default()));
        self.update(id, |_| ());
    }

    pub(super) fn remove(&mut self, id: MemberId) -> bool {
        let Some((_, listed)) = self.members.remove(&id) else { return false };
        self.list(id, listed, Listing::default());
        true
    }

    /// Changes a member, if it is there.
    pub(super) fn update<T>(
        &mut self,
        id: MemberId,
        change: impl FnOnce(&mut Member) -> T,
    ) -> Option<T> {
        let (member, listed) = self.members.get_mut(&id)?;
        let changed = change(member);
        let listing = Listing::of(member);
        let before = std::mem::replace(listed, listing);
        if before != listing {
            self.list(id, before, listing);
        }
        Some(changed)
    }

    /// Those that may take another message, if it is small enough for them, in the order in which they are
    /// to get it.
    pub(super) fn takers(&self) -> impl Iterator<Item = (MemberId, &Member)> {
        let takers = self.takers.iter().map(|(_, id)| *id);
        takers.filter_map(|id| Some((id, self.get(id)?)))
    }

    /// Those that could be the active one, who is there longest first.
    pub(super) fn willing(&self) -> impl Iterator<Item = MemberId> {
        self.willing.iter().map(|(_, id)| *id)
    }

    /// Those whose fetch may end before they have all its messages.
    pub(super) fn fetching(&self) -> impl Iterator<Item = MemberId> {
        self.fetching.iter().copied()
    }

    /// Those that wait for an answer.
    pub(super) fn asking(&self) -> impl Iterator<Item = MemberId> {
        self.asking.iter().copied()
    }

    fn list(&mut self, id: MemberId, before: Listing, now: Listing) {
        relist(&mut self.takers, before.taker.map(|it| (it, id)), now.taker.map(|it| (it, id)));
        relist(
            &mut self.willing,
            before.willing.map(|it| (it, id)),
            now.willing.map(|it| (it, id)),
        );
        let listed = |is_listed: bool| is_listed.then_some(id);
        relist(&mut self.fetching, listed(before.may_end_fetch), listed(now.may_end_fetch));
        relist(&mut self.asking, listed(before.is_asking), listed(now.is_asking));
    }
}

fn relist<T: Ord>(list: &mut BTreeSet<T>, before: Option<T>, now: Option<T>) {
    if before == now {
        return;
    }
    if let Some(before) = before {
        list.remove(&before);
    }
    list.extend(now);
}

#[cfg(test)]
mod tests {
    use super::super::Credit;
    use super::*;

    #[test]
    fn each_list_has_those_that_belong_there_in_its_order() {
        let mut roster = Roster::default();
        let [ann, bob, cid] = [1, 2, 3].map(MemberId);
        for (id, messages) in [(ann, 2), (bob, 4), (cid, 0)] {
            let joined = 10 - id.0;
            roster.insert(id, Member::new(Credit { messages, bytes: 1 << 20 }, joined));
        }
        let takers = |roster: &Roster| roster.takers().map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(takers(&roster), [ann, bob]);
        assert!(roster.willing().eq([bob, ann]));
        roster.update(ann, |member| member.add(1, 1));
        roster.update(bob, |member| member.add(1, 1));
        assert_eq!(takers(&roster), [bob, ann]);
        roster.update(bob, |member| member.is_draining = true);
        roster.update(ann, |member| member.add(1, 1));
        assert_eq!(takers(&roster), []);
        assert!(roster.willing().eq([ann]));
        roster.update(ann, |member| member.subtract(1, 1));
        assert_eq!(takers(&roster), [ann]);
        assert!(roster.remove(ann) && !roster.remove(ann) && roster.ids().eq([bob, cid]));
        assert_eq!(takers(&roster), []);
        assert!(roster.update(ann, |_| ()).is_none() && roster.willing().next().is_none());
    }
}
