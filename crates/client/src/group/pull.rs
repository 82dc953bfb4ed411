//! Messages of a group that are fetched, a few at a time.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use railgun_proto::convert::GroupEnsured;
use railgun_types::{GroupMode, GroupName, StreamName};

use super::delivery::{Delivery, DeliveryBatch};
use super::error::GroupError;
use super::event::GroupEvent;
use super::machine::Demand;
use super::shared::Handle;
use super::subscription::GroupSubscription;

/// How long a fetch waits, where nothing else is said.
const WAIT: Duration = Duration::from_secs(5);
/// Time for the answer to a fetch that waits for nothing: after that there is nothing now.
const NO_WAIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A member of a consumer group that gets only what it fetches (G-15).
///
/// Between fetches it has nothing but what it was handed out: other members get the rest. Its deliveries
/// are as those of a [`GroupSubscription`], and so is what happens when a connection is lost: a fetch goes on
/// on the next one.
///
/// Dropped, the member leaves when the last [`Delivery`] is settled or dropped.
#[derive(Debug)]
pub struct PullSubscription {
    member: GroupSubscription,
    /// The member's credit, in messages and bytes.
    credit: (u32, u64),
}

impl PullSubscription {
    pub(super) fn new(member: GroupSubscription, credit: (u32, u64)) -> Self {
        Self { member, credit }
    }

    /// Asks for up to so many messages: no more than the member's credit, which counts what is un-settled.
    /// Await it, after [`Fetch::wait`] and [`Fetch::max_bytes`] if need be.
    pub fn fetch(&mut self, messages: usize) -> Fetch<'_> {
        let (most, bytes) = self.credit;
        let messages = u32::try_from(messages).unwrap_or(u32::MAX).min(most);
        Fetch { member: self, messages, bytes, wait: WAIT }
    }

    /// The next of what was told of the group meanwhile; never a [`GroupEvent::Delivery`].
    pub fn news(&mut self) -> Option<GroupEvent> {
        self.member.handle().0.lock().take_news().map(GroupEvent::from)
    }

    /// The stream.
    #[must_use]
    pub fn stream(&self) -> &StreamName {
        self.member.stream()
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &GroupName {
        self.member.group()
    }

    /// How the group shares its messages out. In an exclusive one, the active member that fetches nothing
    /// holds all up.
    #[must_use]
    pub fn mode(&self) -> GroupMode {
        self.member.mode()
    }

    /// How long the group waits for what comes of a message, once it was handed out.
    #[must_use]
    pub fn ack_wait(&self) -> Duration {
        self.member.ack_wait()
    }

    /// What came of making the group, where it was to be made.
    #[must_use]
    pub fn ensured(&self) -> Option<&GroupEnsured> {
        self.member.ensured()
    }

    /// As [`GroupSubscription::drain`]: fetches bring nothing any more.
    ///
    /// # Errors
    /// [`GroupError`] where the member lost its place.
    pub async fn drain(&mut self) -> Result<(), GroupError> {
        self.member.drain().await
    }

    /// As [`GroupSubscription::settled`]. Cancel-safe.
    ///
    /// # Errors
    /// [`GroupError`] where the member lost its place: then it is not known what counts.
    pub async fn settled(&self) -> Result<(), GroupError> {
        self.member.settled().await
    }

    /// As [`GroupSubscription::close`].
    ///
    /// # Errors
    /// As [`Self::settled`].
    pub async fn close(self) -> Result<(), GroupError> {
        self.member.close().await
    }
}

/// A fetch; await it.
///
/// It is done when all messages are there that it asks for, when the next one does not go into its bytes,
/// and when its time is over, with what has come, which may be nothing. What comes later goes to others, as
/// if it had not been handed out. The time to ack a message begins when the fetch is done.
///
/// Cancelled, it has taken nothing, and no attempt counts.
///
/// # Errors
/// [`GroupError`]; the member has no place any more then.
#[derive(Debug)]
#[must_use = "a fetch does nothing until it is awaited"]
pub struct Fetch<'a> {
    member: &'a mut PullSubscription,
    messages: u32,
    bytes: u64,
    wait: Duration,
}

impl Fetch<'_> {
    /// How long to wait for all of them. Default 5 s. Zero: only for what is there now, as the server says.
    pub fn wait(mut self, time: Duration) -> Self {
        self.wait = time;
        self
    }

    /// Most bytes of them as they are encoded, with keys and headers; one that is larger comes alone.
    /// Default, and at most: the member's credit.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes.clamp(1, self.bytes);
        self
    }

    async fn run(self) -> Result<Vec<Delivery>, GroupError> {
        let Self { member, messages, bytes, wait } = self;
        if messages == 0 {
            return Ok(Vec::new());
        }
        let handle = member.member.handle();
        let no_wait = wait.is_zero();
        let fetching = Fetching(Some(handle));
        handle.fetch(Demand { messages, bytes, no_wait });
        let fetched = handle.0.until(super::machine::Machine::is_fetched);
        let wait = if no_wait { NO_WAIT_TIMEOUT } else { wait };
        // Late, it is done with what has come.
        if let Ok(Err(error)) = tokio::time::timeout(wait, fetched).await {
            return Err(error);
        }
        fetching.end();
        let runs = handle.take_fetched().into_iter();
        let batches =
            runs.map(|run| DeliveryBatch::new(run.records, run.tag, std::sync::Arc::clone(handle)));
        Ok(batches.flat_map(DeliveryBatch::into_deliveries).collect())
    }
}

impl<'a> IntoFuture for Fetch<'a> {
    type Output = Result<Vec<Delivery>, GroupError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// Withdraws a fetch that nobody waits for any more.
struct Fetching<'a>(Option<&'a Handle>);

impl Fetching<'_> {
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        if let Some(handle) = self.0 {
            handle.fetch(Demand::default());
        }
    }
}
