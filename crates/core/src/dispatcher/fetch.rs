//! Members that fetch: they get what they ask for, and nothing else (G-15).

use super::{Dispatcher, Effect, Fetch, MemberId, Time};

/// A fetch, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetching {
    fetch: Fetch,
    /// What the member got, but for what was taken back before anybody had begun with it.
    messages: u64,
    bytes: u64,
    /// Nothing comes of it any more.
    pub(super) is_over: bool,
}

impl Fetching {
    pub(super) fn new(fetch: Fetch) -> Self {
        Self { fetch, messages: 0, bytes: 0, is_over: false }
    }

    /// How many more messages it wants, whatever their size.
    pub(super) fn free(&self) -> u64 {
        if self.is_over { 0 } else { self.fetch.messages.saturating_sub(self.messages) }
    }

    /// Whether it ends before it has all its messages, where none is there.
    pub(super) fn ends_with_what_is_there(&self) -> bool {
        self.free() > 0 && !self.fetch.waits
    }

    /// For how many more bytes it has room, where a message that is larger ends it: it has one already.
    pub(super) fn bytes_left(&self) -> Option<u64> {
        (self.free() > 0 && self.messages > 0).then(|| self.free_bytes())
    }

    /// How many more bytes it wants.
    pub(super) fn free_bytes(&self) -> u64 {
        self.fetch.bytes.saturating_sub(self.bytes)
    }

    /// Whether a message of that size has room. As with a credit, one alone may be larger.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        bytes <= self.free_bytes() || self.messages == 0
    }

    pub(super) fn add(&mut self, messages: u64, bytes: u64) {
        self.messages += messages;
        self.bytes += bytes;
    }

    pub(super) fn subtract(&mut self, messages: u64, bytes: u64) {
        // What was taken back may be of an earlier fetch.
        self.messages = self.messages.saturating_sub(messages);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Dispatcher {
    /// The member wants this from here on, in place of all it has asked for before: none of that comes any
    /// more, and what of it was not begun comes back at once, as if it had not been delivered. Said once, a
    /// member gets only what it fetches, within its credit.
    pub fn on_fetch(&mut self, now: Time, id: MemberId, fetch: Fetch, out: &mut Vec<Effect>) {
        self.give_back_unbegun(id);
        let fetching = Some(Fetching::new(fetch));
        let Some(()) = self.members.update(id, |member| member.fetching = fetching) else { return };
        out.push(Effect::Fetching { member: id, number: fetch.number });
        self.conclude(now, out);
    }

    /// Ends the fetches of which nothing comes now, for when [`Self::wants`] names nothing any more: those
    /// that the next message does not go into, and those that do not wait.
    pub fn end_fetches(&mut self, out: &mut Vec<Effect>) {
        if self.puts_off_retries {
            // One is on its way.
            return;
        }
        if let Some((offset, bytes)) = self.too_large
            && self.next_offset() == Some(offset)
        {
            self.end_fetches_without_room(bytes, out);
        }
        // What is handed out once a proposal of ours is applied is there.
        let is_reserving = self.next_fresh().is_some_and(|next| {
            next >= self.mirror.leased_upto() && !self.is_beyond(next) && self.paused().is_none()
        });
        if is_reserving || self.activity.is_activating {
            return;
        }
        while let Some(member) = self.members.impatient() {
            self.end_fetch(member, out);
        }
    }

    /// Ends the fetches that a message of that size, which is the next one, does not go into any more:
    /// whatever comes behind it is not to overtake it.
    pub(super) fn end_fetches_without_room(&mut self, bytes: u64, out: &mut Vec<Effect>) {
        if self.is_exclusive() {
            let only = self.activity.receiver();
            let fetching = only.and_then(|id| Some((id, self.members.get(id)?.fetches()?)));
            if let Some((id, fetching)) = fetching
                && fetching.bytes_left().is_some_and(|left| left < bytes)
            {
                self.end_fetch(id, out);
            }
            return;
        }
        while let Some((left, member)) = self.members.fetches_least()
            && left < bytes
        {
            self.end_fetch(member, out);
        }
    }

    fn end_fetch(&mut self, member: MemberId, out: &mut Vec<Effect>) {
        let ended = self.members.update(member, |it| {
            let fetching = it.fetching.as_mut()?;
            fetching.is_over = true;
            Some(fetching.fetch.number)
        });
        if let Some(number) = ended.flatten() {
            out.push(Effect::Fetched { member, number });
        }
    }
}
