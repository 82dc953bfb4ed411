//! A message of a group, and what may be said of it.

use std::sync::Arc;
use std::time::Duration;

use railgun_types::{Offset, OffsetRange};

use super::error::GroupError;
use super::machine::{Tag, What};
use super::shared::{Handle, reason};
use crate::subscribe::{Record, RecordRef, RecordRun};

/// A message that a member has, until it says what came of it: one of [`ack`](Self::ack),
/// [`nack`](Self::nack) and [`reject`](Self::reject), once.
///
/// Dropped without a word it is not settled: the group waits for as long as its `ack_wait` (30 s by default)
/// from when the message was handed out, and counts a failure then.
#[derive(Debug)]
#[must_use = "a message that is dropped is not settled: `ack`, `nack` or `reject` it"]
pub struct Delivery {
    /// The message.
    pub record: Record,
    tag: Tag,
    handle: Arc<Handle>,
}

impl Delivery {
    pub(super) fn new(record: Record, tag: Tag, handle: Arc<Handle>) -> Self {
        Self { record, tag, handle }
    }

    /// Its position in the stream.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.record.offset
    }

    /// Which attempt this is, from 1: how often the message failed before, and this one.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.tag.attempt
    }

    /// In an exclusive group, a number that is higher with each active member. Whoever is written to can
    /// refuse what comes with a lower one than the highest it has seen.
    #[must_use]
    pub fn fencing_token(&self) -> Option<u32> {
        (self.tag.epoch > 0).then_some(self.tag.epoch)
    }

    /// How often it was redriven from the dead letters (DL-7).
    #[must_use]
    pub fn redriven(&self) -> u32 {
        self.tag.generation
    }

    /// It is done. Not waited for: what comes too late is told by
    /// [`GroupEvent::Stale`](super::GroupEvent::Stale).
    pub fn ack(self) {
        self.handle.ack(self.tag, self.range());
    }

    /// It is done; waits until that is committed: the group never delivers it again then (G-3).
    ///
    /// Cancelled, the message is acked all the same.
    ///
    /// # Errors
    /// [`GroupError::Stale`] where it came too late; others where the member lost its place: then it is not
    /// known whether it counts.
    pub async fn ack_confirmed(self) -> Result<(), GroupError> {
        self.handle.ack_confirmed(self.tag, self.range()).await
    }

    /// It failed: the group delivers it again, after the group's backoff.
    pub fn nack(self) {
        self.nack_because("", None);
    }

    /// It failed: the group delivers it again, after this time at the earliest, in whole ms. More than 24
    /// hours count as that.
    pub fn nack_after(self, delay: Duration) {
        self.nack_because("", Some(delay));
    }

    /// It failed, and why, for people who look into the dead letters: at most 1 KiB of it is kept. Without
    /// a delay the group's backoff counts.
    pub fn nack_because(self, why: &str, delay: Option<Duration>) {
        self.handle.say(self.tag, self.range(), nack(why, delay));
    }

    /// It can never be done: it is a dead letter at once (DL-2). At most 1 KiB of the reason is kept.
    pub fn reject(self, why: &str) {
        self.handle.say(self.tag, self.range(), What::Reject { error: reason(why) });
    }

    /// It takes longer: `ack_wait` begins anew, up to 12 h in all (G-8). Best effort.
    pub fn extend(&self) {
        self.handle.say(self.tag, self.range(), What::Extend);
    }

    fn range(&self) -> OffsetRange {
        OffsetRange::single(self.record.offset)
    }
}

/// Consecutive messages that a member has, until it says what came of them: the way to work at speed.
///
/// As a [`Delivery`], it settles nothing when it is dropped.
#[derive(Debug)]
#[must_use = "messages that are dropped are not settled: `ack`, `nack` or `reject` them"]
pub struct DeliveryBatch {
    records: RecordRun,
    tag: Tag,
    handle: Arc<Handle>,
}

impl DeliveryBatch {
    pub(super) fn new(records: RecordRun, tag: Tag, handle: Arc<Handle>) -> Self {
        Self { records, tag, handle }
    }

    /// The messages in order, borrowed.
    pub fn records(&self) -> impl Iterator<Item = RecordRef<'_>> {
        self.records.records()
    }

    /// Number of messages; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Their offsets.
    #[must_use]
    pub fn range(&self) -> OffsetRange {
        OffsetRange::new(self.records.first_offset(), self.records.next_offset())
    }

    /// As [`Delivery::attempt`], of all of them.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.tag.attempt
    }

    /// As [`Delivery::fencing_token`].
    #[must_use]
    pub fn fencing_token(&self) -> Option<u32> {
        (self.tag.epoch > 0).then_some(self.tag.epoch)
    }

    /// As [`Delivery::redriven`], of all of them.
    #[must_use]
    pub fn redriven(&self) -> u32 {
        self.tag.generation
    }

    /// They are done, as [`Delivery::ack`].
    pub fn ack(self) {
        self.handle.ack(self.tag, self.range());
    }

    /// They are done, as [`Delivery::ack_confirmed`].
    ///
    /// Cancelled, they are acked all the same.
    ///
    /// # Errors
    /// [`GroupError::Stale`] names the first of them for which it came too late: the others count. Others
    /// where the member lost its place.
    pub async fn ack_confirmed(self) -> Result<(), GroupError> {
        self.handle.ack_confirmed(self.tag, self.range()).await
    }

    /// They failed, as [`Delivery::nack`].
    pub fn nack(self) {
        self.nack_because("", None);
    }

    /// They failed, as [`Delivery::nack_after`].
    pub fn nack_after(self, delay: Duration) {
        self.nack_because("", Some(delay));
    }

    /// They failed, as [`Delivery::nack_because`].
    pub fn nack_because(self, why: &str, delay: Option<Duration>) {
        self.handle.say(self.tag, self.range(), nack(why, delay));
    }

    /// They can never be done, as [`Delivery::reject`].
    pub fn reject(self, why: &str) {
        self.handle.say(self.tag, self.range(), What::Reject { error: reason(why) });
    }

    /// They take longer, as [`Delivery::extend`].
    pub fn extend(&self) {
        self.handle.say(self.tag, self.range(), What::Extend);
    }

    /// Takes those behind the first `count` out of this batch, to say something else of them. `None`: there
    /// are none, or none would be left.
    pub fn split_off(&mut self, count: usize) -> Option<Self> {
        let behind = self.records.part(count, self.len().checked_sub(count)?)?;
        self.records = self.records.part(0, count)?;
        let (tag, handle) = (self.tag, Arc::clone(&self.handle));
        Some(Self { records: behind, tag, handle })
    }

    /// One by one.
    pub fn into_deliveries(self) -> impl Iterator<Item = Delivery> {
        let Self { records, tag, handle } = self;
        let records = records.take_records().into_iter();
        records.map(move |record| Delivery::new(record, tag, Arc::clone(&handle)))
    }
}

fn nack(why: &str, delay: Option<Duration>) -> What {
    let delay_ms = delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
    What::Nack { delay_ms, error: reason(why) }
}
