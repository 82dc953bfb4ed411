//! Joining a group.

use std::sync::Arc;
use std::time::Duration;

use railgun_proto::convert::JoinGroupRequest;
use railgun_types::{EnsureMode, GroupMode, GroupName, GroupPatch, StartPosition, StreamName};

use super::driver::Driver;
use super::error::GroupError;
use super::pull::PullSubscription;
use super::subscription::GroupSubscription;
use crate::admin::{Admin, EnsureOptions};
use crate::client::ClientInner;

/// Messages that a member may have un-settled.
const CREDIT_MESSAGES: u32 = 1_000;
/// Bytes of them.
const CREDIT_BYTES: u64 = 16 << 20;

/// Says which group to join, and how.
#[derive(Clone, Debug)]
pub struct GroupBuilder {
    client: Arc<ClientInner>,
    request: JoinGroupRequest,
    start: StartPosition,
    create: Option<GroupPatch>,
    give_up_after: Duration,
}

impl GroupBuilder {
    pub(crate) fn new(
        client: Arc<ClientInner>,
        stream: StreamName,
        group: GroupName,
        start: StartPosition,
        give_up_after: Duration,
    ) -> Self {
        let request = JoinGroupRequest {
            stream,
            group,
            stream_uid: None,
            credit_messages: CREDIT_MESSAGES,
            credit_bytes: CREDIT_BYTES,
            mode: None,
            held: Vec::new(),
            group_id: None,
            fetches: false,
        };
        Self { client, request, start, create: None, give_up_after }
    }

    /// Only an exclusive group: all messages to one member, in strict order, with fencing tokens. Where
    /// the group is made, it is made so.
    #[must_use]
    pub fn exclusive(mut self) -> Self {
        self.request.mode = Some(GroupMode::Exclusive);
        self
    }

    /// Where the group begins, if it is made. Default: behind the last record.
    #[must_use]
    pub fn start(mut self, start: StartPosition) -> Self {
        self.start = start;
        self
    }

    /// Makes the group if it is absent. One that is there is left as it is; what differs is told by
    /// [`GroupSubscription::ensured`].
    #[must_use]
    pub fn create(mut self, patch: GroupPatch) -> Self {
        self.create = Some(patch);
        self
    }

    /// Most messages that the member may have un-settled: those it works on, and those that wait for it in
    /// this process. Default 1,000; at least 1.
    #[must_use]
    pub fn credit(mut self, messages: u32) -> Self {
        self.request.credit_messages = messages.max(1);
        self
    }

    /// Most bytes of them. Default 16 MiB; a message that is larger comes alone.
    #[must_use]
    pub fn credit_bytes(mut self, bytes: u64) -> Self {
        self.request.credit_bytes = bytes.max(1);
        self
    }

    /// How long a lost connection, or an error that the server calls temporary, is met by trying again.
    /// Default as in [`ClientOptions`](crate::ClientOptions).
    #[must_use]
    pub fn give_up_after(mut self, time: Duration) -> Self {
        self.give_up_after = time;
        self
    }

    /// Joins the group.
    ///
    /// Cancelling leaves nothing behind, but the group, if it was made.
    ///
    /// # Errors
    /// [`GroupError`]; what the server calls temporary, and silence, is borne for `give_up_after`.
    pub async fn open(self) -> Result<GroupSubscription, GroupError> {
        self.join().await
    }

    /// Joins the group as a member that gets only what it fetches (G-15): for jobs that are taken a few at a
    /// time, or seldom.
    ///
    /// Cancelling leaves nothing behind, but the group, if it was made.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn pull(mut self) -> Result<PullSubscription, GroupError> {
        self.request.fetches = true;
        let credit = (self.request.credit_messages, self.request.credit_bytes);
        Ok(PullSubscription::new(self.join().await?, credit))
    }

    async fn join(self) -> Result<GroupSubscription, GroupError> {
        let ensured = match self.create {
            None => None,
            Some(mut patch) => {
                patch.mode = patch.mode.or(self.request.mode);
                let options = EnsureOptions { mode: EnsureMode::Warn, ..EnsureOptions::default() };
                let JoinGroupRequest { stream, group, .. } = &self.request;
                let admin = Admin::new(Arc::clone(&self.client));
                let ensured = admin.ensure_group(stream, group, patch, self.start, options).await;
                let (stream, group) = (stream.clone(), group.clone());
                let not_made =
                    |error| GroupError::NotMade { stream, group, error: Box::new(error) };
                Some(ensured.map_err(not_made)?)
            }
        };
        Driver::open(self.client, self.request, self.give_up_after, ensured).await
    }
}
