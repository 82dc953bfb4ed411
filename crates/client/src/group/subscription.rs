//! What an application has of its place in a group.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use railgun_proto::convert::GroupEnsured;
use railgun_types::{GroupId, GroupMode, GroupName, Offset, OffsetRange, StreamName, StreamUid};

use super::delivery::{Delivery, DeliveryBatch};
use super::error::GroupError;
use super::event::GroupEvent;
use super::machine::{Run, Taken};
use super::shared::{Handle, Shared};
use crate::subscribe::Record;

/// What was known of the group when the member joined it first.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub(super) stream_uid: StreamUid,
    pub(super) group: GroupId,
    pub(super) mode: GroupMode,
    pub(super) floor: Offset,
    pub(super) bounds: (Offset, Offset),
    pub(super) ack_wait: std::time::Duration,
    pub(super) ensured: Option<GroupEnsured>,
}

/// A member of a consumer group: takes messages, each of which it [`ack`](Delivery::ack)s, or says what else
/// came of it.
///
/// Messages come ahead of being asked for, as many as the credit says; the time to ack one begins when it is
/// handed out here. A lost connection is made again, and the member presents what it has: what the
/// application works on goes on, and what was said and not answered is said again. Handed out are messages
/// by [`next`](Self::next), whole runs of them by [`next_batch`](Self::next_batch), or messages alone as a
/// [`Stream`], where the news of the group are left out.
///
/// Dropped, the member leaves: what was not handed out goes to others at once; what was can still be settled,
/// and the member's place is given up when the last [`Delivery`] is settled or dropped.
#[derive(Debug)]
pub struct GroupSubscription {
    handle: Arc<Handle>,
    facts: Facts,
    /// The run that `next` is in.
    current: Option<Current>,
    /// Its error was handed out, or there was none.
    finished: bool,
}

#[derive(Debug)]
struct Current {
    run: Run,
    /// Those of them that are not handed out.
    records: VecDeque<Record>,
}

impl GroupSubscription {
    pub(super) fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    pub(super) fn new(shared: Arc<Shared>, facts: Facts) -> Self {
        let handle = Arc::new(Handle(shared));
        Self { handle, facts, current: None, finished: false }
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> &StreamName {
        &self.handle.0.stream
    }

    /// The stream's identity.
    #[must_use]
    pub fn stream_uid(&self) -> StreamUid {
        self.facts.stream_uid
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        &self.handle.0.group
    }

    /// The group's identity.
    #[must_use]
    pub fn group_id(&self) -> GroupId {
        self.facts.group
    }

    /// How the group shares its messages out.
    #[must_use]
    pub fn mode(&self) -> GroupMode {
        self.facts.mode
    }

    /// How long the group waits for what comes of a message, once it was handed out.
    #[must_use]
    pub fn ack_wait(&self) -> std::time::Duration {
        self.facts.ack_wait
    }

    /// Offset in front of which all was settled when the member joined.
    #[must_use]
    pub fn floor_at_join(&self) -> Offset {
        self.facts.floor
    }

    /// First offset the stream had, and the offset after its last, when the member joined.
    #[must_use]
    pub fn bounds_at_join(&self) -> (Offset, Offset) {
        self.facts.bounds
    }

    /// What came of making the group, where it was to be made: a difference, and warnings, are in it.
    #[must_use]
    pub fn ensured(&self) -> Option<&GroupEnsured> {
        self.facts.ensured.as_ref()
    }

    /// The next message, or news; `None` after [`drain`](Self::drain).
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`GroupError`], once; the member has no place any more then.
    pub async fn next(&mut self) -> Result<Option<GroupEvent>, GroupError> {
        std::future::poll_fn(|context| self.poll_event(context)).await
    }

    /// The next messages, as many as there are of one delivery, or news; `None` after
    /// [`drain`](Self::drain).
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_batch(&mut self) -> Result<Option<GroupEvent<DeliveryBatch>>, GroupError> {
        std::future::poll_fn(|context| self.poll_batch(context)).await
    }

    fn poll_event(
        &mut self,
        context: &Context<'_>,
    ) -> Poll<Result<Option<GroupEvent>, GroupError>> {
        loop {
            std::task::ready!(self.poll_let_go(context));
            if let Some(delivery) = self.pop() {
                return Poll::Ready(Ok(Some(GroupEvent::Delivery(delivery))));
            }
            match std::task::ready!(self.poll_taken(context)) {
                Ok(Taken::Run(run)) => {
                    let records = run.records.take_records().into();
                    self.current = Some(Current { run, records });
                }
                other => return Poll::Ready(other.map(into_event)),
            }
        }
    }

    fn poll_batch(
        &mut self,
        context: &Context<'_>,
    ) -> Poll<Result<Option<GroupEvent<DeliveryBatch>>, GroupError>> {
        loop {
            std::task::ready!(self.poll_let_go(context));
            if let Some(batch) = self.pop_batch() {
                return Poll::Ready(Ok(Some(GroupEvent::Delivery(batch))));
            }
            match std::task::ready!(self.poll_taken(context)) {
                Ok(Taken::Run(run)) => {
                    self.current = Some(Current { run, records: VecDeque::new() })
                }
                other => return Poll::Ready(other.map(into_event)),
            }
        }
    }

    /// Until what is left of the present run need not wait for what comes of a failure.
    fn poll_let_go(&self, context: &Context<'_>) -> Poll<()> {
        let shared = &self.handle.0;
        let is_held_back = || self.current.is_some() && shared.lock().is_held_back();
        if is_held_back() {
            // Registered before the second look, so that nothing falls between.
            shared.taker.register(context.waker());
            if is_held_back() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// The next message of the present run. What was taken back meanwhile is left out.
    fn pop(&mut self) -> Option<Delivery> {
        let Current { run, records } = self.current.as_mut()?;
        if records.is_empty() {
            // `next_batch` has left something of it.
            *records = run.records.take_records().into();
        }
        while let Some(record) = records.pop_front() {
            let offset = record.offset;
            let is_ours = !self.handle.begin(run.tag.lease, OffsetRange::single(offset)).is_empty();
            if is_ours {
                let tag = run.tag;
                if records.is_empty() {
                    self.current = None;
                }
                return Some(Delivery::new(record, tag, Arc::clone(&self.handle)));
            }
        }
        self.current = None;
        None
    }

    /// What is left of the present run, up to the first message that was taken back meanwhile.
    fn pop_batch(&mut self) -> Option<DeliveryBatch> {
        let Current { run, records } = self.current.take()?;
        let mut left = run.range();
        left.start = records.front().map_or(left.start, |record| record.offset);
        let begun = self.handle.begin(run.tag.lease, left);
        // Ranges within a run are as short as the run.
        let part = |range: OffsetRange| {
            let skip = (range.start.0 - run.range().start.0) as usize;
            run.records.part(skip, range.len() as usize)
        };
        let begun_records = part(begun)?;
        let behind = OffsetRange::new(begun.end, left.end);
        if let Some(rest) = part(behind) {
            let run = Run { records: rest, ..run.clone() };
            self.current = Some(Current { run, records: VecDeque::new() });
        }
        let handle = Arc::clone(&self.handle);
        Some(DeliveryBatch::new(begun_records, run.tag, handle))
    }

    fn poll_taken(&mut self, context: &Context<'_>) -> Poll<Result<Taken, GroupError>> {
        if self.finished {
            return Poll::Ready(Ok(Taken::Over(None)));
        }
        let shared = &self.handle.0;
        let mut taken = shared.lock().take();
        if matches!(taken, Taken::Nothing) {
            // Registered before the second look, so that nothing falls between.
            shared.taker.register(context.waker());
            taken = shared.lock().take();
        }
        match taken {
            Taken::Nothing => Poll::Pending,
            Taken::Over(error) => {
                self.finished = true;
                Poll::Ready(error.map_or(Ok(Taken::Over(None)), Err))
            }
            taken => Poll::Ready(Ok(taken)),
        }
    }

    /// Takes nothing new: gives back what was not handed out, and waits until all that was is settled. Then
    /// the member may go without a failure being counted for any message (G-10).
    ///
    /// Cancelled, the member takes nothing new all the same.
    ///
    /// # Errors
    /// [`GroupError`] where the member lost its place.
    pub async fn drain(&mut self) -> Result<(), GroupError> {
        self.current = None;
        self.handle.drain();
        self.handle.0.until(|machine| machine.is_drained() && machine.is_settled()).await
    }

    /// Waits until all that was settled so far is committed, or was found to be stale. Cancel-safe.
    ///
    /// # Errors
    /// [`GroupError`] where the member lost its place: then it is not known what counts.
    pub async fn settled(&self) -> Result<(), GroupError> {
        self.handle.0.until(super::machine::Machine::is_settled).await
    }

    /// Leaves when all that was settled so far is committed. What was handed out and not settled counts as
    /// failed when its last [`Delivery`] is gone; [`drain`](Self::drain) waits for it instead.
    ///
    /// # Errors
    /// As [`Self::settled`].
    pub async fn close(self) -> Result<(), GroupError> {
        self.settled().await
    }

    /// Waits until the member has no place any more. Cancel-safe.
    pub async fn closed(&self) {
        self.handle.0.ended.cancelled().await;
    }
}

fn into_event<T>(taken: Taken) -> Option<GroupEvent<T>> {
    match taken {
        Taken::News(news) => Some(news.into()),
        // A run was taken before, and nothing is no answer.
        Taken::Run(_) | Taken::Nothing | Taken::Over(_) => None,
    }
}

impl Stream for GroupSubscription {
    type Item = Result<Delivery, GroupError>;

    /// Messages alone: news of the group are left out. After an error there is nothing more.
    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match std::task::ready!(this.poll_event(context)) {
                Ok(Some(GroupEvent::Delivery(delivery))) => {
                    return Poll::Ready(Some(Ok(delivery)));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

impl Drop for GroupSubscription {
    fn drop(&mut self) {
        self.handle.drain();
    }
}
