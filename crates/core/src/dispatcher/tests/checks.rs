//! What must hold in the world, of each delivery and after each input.

use std::collections::BTreeMap;

use super::world::{Live, Tag, World, bytes_of};
use super::*;

impl World {
    pub(super) fn delivered(&mut self, offset: Offset, member: MemberId, tag: Tag) {
        self.saw("delivered");
        if tag.attempt > 1 {
            self.saw("tried again");
        }
        let state = &self.replica.state;
        // G-6, G-3, PS-5
        assert_eq!(self.live.get(&offset), None, "{offset} is at a member");
        assert!(!state.is_done(offset) && !self.acks_confirmed.contains(&offset), "{offset}");
        assert!(!self.acked.contains(&offset), "{offset} is being acked");
        assert!(offset < self.replica.tail && offset < state.leased_upto());
        assert_eq!(state.paused(), None);
        // G-14
        let (kept, until) = &self.kept;
        assert!(*until <= self.now || !kept.contains(&offset), "{offset} may be at a member");
        // G-10
        let failed = self.failures.get(&offset).map_or(0, |leases| leases.len() as u32);
        assert!(
            tag.attempt > 0 && tag.attempt - 1 <= failed,
            "{offset}: {} of {failed}",
            tag.attempt
        );
        assert_eq!(tag.epoch, state.epoch());
        if state.generation(offset) > 0 {
            *self.seen.entry("redriven").or_default() += 1;
        }
        if self.is_exclusive() {
            //
            assert_eq!(self.active, Some(member));
            self.open.remove(&offset);
            let floor = state.floor();
            for before in OffsetRange::new(floor, offset).iter() {
                let is_settled = state.is_done(before) || self.acked.contains(&before);
                let is_open = self.open.contains(&before);
                assert!(
                    is_settled || self.live.contains_key(&before) && !is_open,
                    "{before} is before {offset}"
                );
            }
            let later = self.live.range(offset..).next();
            assert_eq!(later, None, "later ones are forgotten");
        }
        let deadline = self.now.plus_us(UNBEGUN_US_MAX);
        let live = Live { lease: tag.lease, member, begun: false, deadline, granted: self.now };
        self.live.insert(offset, live);
        let consumer = self.consumer_of(member).expect("it is there");
        assert!(!consumer.is_draining);
        consumer.has.insert(offset, tag);
        consumer.fetched.push(offset);
    }

    /// Who fetches got no more than that. G-15
    pub(super) fn check_fetch(&mut self, member: MemberId) {
        let consumer = self.consumer_of(member).expect("it is there");
        let Some(fetch) = consumer.fetch else { return };
        let bytes: u64 = consumer.fetched.iter().map(|it| u64::from(bytes_of(*it))).sum();
        let count = consumer.fetched.len() as u64;
        assert!(count <= fetch.messages, "{count} messages, {fetch:?}");
        assert!(bytes <= fetch.bytes || count == 1, "{bytes} bytes, {fetch:?}");
        self.saw("fetched");
    }

    /// Checks what bounds deliveries, when one was made.
    pub(super) fn check_bounds(&self, range: OffsetRange, attempt: u32) {
        let (state, spec) = (&self.replica.state, &self.replica.spec);
        let sum = |of: &mut dyn Iterator<Item = &Offset>| {
            let sizes: Vec<_> = of.map(|offset| u64::from(bytes_of(*offset))).collect();
            (sizes.len() as u64, sizes.iter().sum::<u64>())
        };
        // G-12; where the bytes of some are not known, the dispatcher takes them for none.
        let is_known = |offset: &Offset| {
            let run = self.dispatcher.leases.at(*offset);
            run.is_some_and(|(_, it)| it.sizes != lease::Sizes::Even(0))
        };
        let (messages, _) = sum(&mut self.live.keys());
        let (_, bytes) = sum(&mut self.live.keys().filter(|offset| is_known(offset)));
        assert!(messages <= u64::from(spec.max_in_flight));
        assert!(bytes <= spec.max_in_flight_bytes || messages == 1, "{bytes} bytes");
        for consumer in self.consumers.iter().filter(|it| it.id.is_some()) {
            let its = || self.live.iter().filter(|(_, live)| consumer.id == Some(live.member));
            let (messages, _) = sum(&mut its().map(|(offset, _)| offset));
            let (_, bytes) =
                sum(&mut its().map(|(offset, _)| offset).filter(|offset| is_known(offset)));
            assert!(messages <= consumer.credit);
            assert!(bytes <= consumer.credit * BYTES_PER_CREDIT || messages == 1);
        }
        // G-5
        let is_retry = attempt > 1 || state.held(range.start).is_some();
        if !is_retry {
            assert!(range.end <= state.floor().plus(spec.window), "beyond the window");
            let held = state.unsettled_held().total();
            let unsettled = held + self.live.len() as u64;
            assert!(unsettled <= u64::from(spec.max_unsettled), "{unsettled} are un-settled");
        }
    }

    /// Compares the dispatcher with the model.
    pub(super) fn check(&mut self) {
        let mut leases = BTreeMap::new();
        for (range, lease) in self.dispatcher.leases.iter() {
            for offset in range.iter() {
                let (member, begun, deadline) = (lease.member, lease.begun, lease.deadline);
                let live =
                    Live { lease: lease.id, member, begun, deadline, granted: lease.granted };
                assert_eq!(leases.insert(offset, live), None, "G-6");
            }
        }
        assert_eq!(leases, self.live);
        assert_eq!(self.dispatcher.leases.messages(), self.live.len() as u64);
        let members = &self.dispatcher.members;
        let mut bytes = 0;
        for id in members.ids() {
            let member = members.get(id).expect("listed");
            let its = self.live.values().filter(|live| live.member == id).count();
            assert_eq!(member.messages, its as u64);
            assert_eq!(members.takers().any(|(it, _)| it == id), member.is_taker());
            assert_eq!(member.room == 0, self.cut_off.contains(&id));
            bytes += member.bytes;
        }
        assert_eq!(self.dispatcher.leases.bytes(), bytes);
        assert_eq!(self.dispatcher.state(), &self.replica.state);
        let deadline = self.dispatcher.next_deadline();
        assert!(deadline.is_none_or(|deadline| deadline > self.now), "no timer starves");
        let first = self.live.values().map(|live| live.deadline).min();
        assert!(first.is_none_or(|first| deadline.is_some_and(|it| it <= first)));
        //
        let willing = self.consumers.iter().filter_map(|it| it.willing_since).min();
        if self.is_exclusive() && willing.is_some_and(|since| since.plus_us(1_000_000) <= self.now)
        {
            let is_proposed = self.dispatcher.activity.is_activating;
            assert!(self.active.is_some() || is_proposed, "nobody is active");
        }
        assert_eq!(self.dispatcher.active(), self.active);
    }
}
