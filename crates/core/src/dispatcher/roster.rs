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
    impatient: BTreeSet<MemberId>,
    by_bytes: BTreeSet<(u64, MemberId)>,
    drained: BTreeSet<MemberId>,
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
    is_impatient: bool,
    fetch_bytes: Option<u64>,
    is_drained: bool,
    is_asking: bool,
}

impl Listing {
    fn of(member: &Member) -> Self {
        let rank = Rank { share: member.share(), served: member.served };
        Self {
            taker: member.is_taker().then_some(rank),
            willing: member.is_willing().then_some(member.joined),
            is_impatient: member.fetches().is_some_and(|it| it.ends_with_what_is_there()),
            fetch_bytes: member.fetches().and_then(|it| it.bytes_left()),
            is_drained: member.is_drained(),
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

    /// One whose fetch ends where nothing more is there.
    pub(super) fn impatient(&self) -> Option<MemberId> {
        self.impatient.first().copied()
    }

    /// The one whose fetch has room for the fewest bytes, and for how many.
    pub(super) fn fetches_least(&self) -> Option<(u64, MemberId)> {
        self.by_bytes.first().copied()
    }

    /// One that is to go, and has nothing that is to be settled or answered.
    pub(super) fn drained(&self) -> Option<MemberId> {
        self.drained.first().copied()
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
        relist(
            &mut self.by_bytes,
            before.fetch_bytes.map(|it| (it, id)),
            now.fetch_bytes.map(|it| (it, id)),
        );
        let listed = |is_listed: bool| is_listed.then_some(id);
        relist(&mut self.impatient, listed(before.is_impatient), listed(now.is_impatient));
        relist(&mut self.drained, listed(before.is_drained), listed(now.is_drained));
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
    use super::super::fetch::Fetching;
    use super::super::{Credit, Fetch};
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

    #[test]
    fn who_is_done_with_a_fetch_or_with_all_is_at_hand() {
        let mut roster = Roster::default();
        let [ann, bob] = [1, 2].map(MemberId);
        for id in [ann, bob] {
            roster.insert(id, Member::new(Credit { messages: 9, bytes: 1 << 20 }, id.0));
        }
        let fetch = |bytes, waits| {
            move |member: &mut Member| {
                let fetch = Fetch { number: 1, messages: 2, bytes, waits };
                member.fetching = Some(Fetching::new(fetch));
            }
        };
        roster.update(ann, fetch(100, false));
        roster.update(bob, fetch(50, true));
        // A first message may be larger.
        assert_eq!((roster.impatient(), roster.fetches_least()), (Some(ann), None));
        roster.update(ann, |member| member.add(1, 70));
        roster.update(bob, |member| member.add(1, 10));
        assert_eq!((roster.impatient(), roster.fetches_least()), (Some(ann), Some((30, ann))));
        roster.update(ann, |member| member.room = 0);
        assert_eq!((roster.impatient(), roster.fetches_least()), (None, Some((40, bob))));
        roster.update(bob, |member| member.add(1, 10));
        assert_eq!(roster.fetches_least(), None, "it has all");
        roster.update(bob, |member| member.is_draining = true);
        assert_eq!(roster.drained(), None);
        roster.update(bob, |member| member.subtract(2, 20));
        assert_eq!(roster.drained(), Some(bob));
        roster.update(bob, |member| member.knows_drained = true);
        assert_eq!(roster.drained(), None);
    }
}
