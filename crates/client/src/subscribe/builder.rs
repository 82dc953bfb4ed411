//! Opening a subscription.

use std::sync::Arc;
use std::time::Duration;

use railgun_proto::convert::SubscribeRequest;
use railgun_types::limits::BATCH_BYTES_HARD;
use railgun_types::{GroupName, Offset, StartPosition, StreamName, Timestamp};

use super::error::SubscribeError;
use super::subscription::Subscription;
use crate::client::ClientInner;
use crate::group::GroupBuilder;

/// Batch bytes that may be on their way to a reader.
const CREDIT_BYTES: u64 = 16 << 20;
/// Credit is returned in quarters, and the largest batch must fit into the other three.
const CREDIT_BYTES_MIN: u64 = (BATCH_BYTES_HARD as u64).div_ceil(3) * 4;

/// Says what to read of a stream.
#[derive(Clone, Debug)]
pub struct SubscriptionBuilder {
    client: Arc<ClientInner>,
    request: SubscribeRequest,
    give_up_after: Duration,
}

impl SubscriptionBuilder {
    pub(crate) fn new(client: Arc<ClientInner>, stream: StreamName) -> Self {
        let give_up_after = client.options.give_up_after;
        let request = SubscribeRequest {
            name: stream,
            start: StartPosition::Latest,
            until_offset: None,
            until_time: None,
            until_end: false,
            credit_bytes: CREDIT_BYTES,
            stream: None,
        };
        Self { client, request, give_up_after }
    }

    /// Where to begin; evaluated once. Default: behind the last record.
    #[must_use]
    pub fn start(mut self, start: StartPosition) -> Self {
        self.request.start = start;
        self
    }

    /// Stop before this offset.
    #[must_use]
    pub fn until_offset(mut self, offset: Offset) -> Self {
        self.request.until_offset = Some(offset);
        self
    }

    /// Stop before the first record whose log time is at or after this instant.
    #[must_use]
    pub fn until_time(mut self, time: Timestamp) -> Self {
        self.request.until_time = Some(time);
        self
    }

    /// Stop at the last record there is when the subscription opens, instead of following.
    #[must_use]
    pub fn until_end(mut self) -> Self {
        self.request.until_end = true;
        self
    }

    /// Batch bytes that may be on their way. Default 16 MiB; at least about 11 MiB, so that the
    /// largest batch always fits. Of a subscription that is open and not read, up to 4 MiB of them lie
    /// in this process, and hold up nothing else.
    #[must_use]
    pub fn credit_bytes(mut self, bytes: u64) -> Self {
        self.request.credit_bytes = bytes.max(CREDIT_BYTES_MIN);
        self
    }

    /// How long a lost connection, or an error that the server calls temporary, is met by trying
    /// again. Default as in [`ClientOptions`](crate::ClientOptions).
    #[must_use]
    pub fn give_up_after(mut self, time: Duration) -> Self {
        self.give_up_after = time;
        self
    }

    /// Joins a group of the stream instead, whose members share its messages out and settle each. Keeps
    /// what was said of the start and of patience.
    #[must_use]
    pub fn group(self, group: GroupName) -> GroupBuilder {
        let SubscribeRequest { name, start, .. } = self.request;
        GroupBuilder::new(self.client, name, group, start, self.give_up_after)
    }

    /// Opens the subscription.
    ///
    /// Cancelling leaves nothing behind.
    ///
    /// # Errors
    /// [`SubscribeError`]; what the server calls temporary, and silence, is borne for
    /// `give_up_after`.
    pub async fn open(self) -> Result<Subscription, SubscribeError> {
        Subscription::open(self.client, self.request, self.give_up_after).await
    }
}
