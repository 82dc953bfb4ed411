//! Opening publishers.

use std::sync::Arc;
use std::time::Duration;

use railgun_proto::WireError;
use railgun_types::limits::{PRODUCER_WINDOW, PUBLISHER_STREAMS};
use railgun_types::{Retry, StreamName};

use super::driver::Driver;
use super::machine::{Machine, Settings};
use super::outcome::OnDuplicate;
use super::publisher::{MultiPublisher, Publisher};
use super::shared::Shared;
use crate::client::ClientInner;

/// Bytes of messages that wait or are un-answered, unless the builder says otherwise. With 10,000
/// streams it is three messages of 1 KiB in a batch; half of it would be one or two, and a batch costs
/// as much as the messages in it.
const BUFFER_BYTES: usize = 32 << 20;

/// Longest that a publisher is patient: far beyond any use, and an instant that far ahead exists.
const PATIENCE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why a publisher could not be opened on a stream.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The server does not let this client publish there: the stream does not exist, is of another
    /// kind, or the token does not allow it.
    #[error("cannot publish to stream '{stream}': {error}")]
    Refused {
        /// The stream.
        stream: StreamName,
        /// What the server said.
        error: WireError,
    },
    /// No connection, no answer in time, or all streams of the connection are in use.
    #[error("cannot publish to stream '{stream}': {reason}")]
    Unreachable {
        /// The stream.
        stream: StreamName,
        /// What happened.
        reason: String,
    },
    /// The publisher was closed, or the server has refused it for good: open another one.
    #[error("cannot publish to stream '{stream}': the publisher is closed")]
    Closed {
        /// The stream.
        stream: StreamName,
    },
    /// The [`MultiPublisher`] is bound to as many streams as one can be:
    /// [`PUBLISHER_STREAMS`](crate::limits::PUBLISHER_STREAMS). Drop handles, or open another one.
    #[error(
        "cannot publish to stream '{stream}': a publisher is bound to at most \
         {PUBLISHER_STREAMS} streams at a time"
    )]
    TooManyStreams {
        /// The stream.
        stream: StreamName,
    },
}

impl OpenError {
    /// Whether trying again may help, and when.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused { error, .. } => error.retry,
            Self::Unreachable { .. } => Retry::Now,
            Self::Closed { .. } | Self::TooManyStreams { .. } => Retry::Never,
        }
    }
}

/// Opens a [`MultiPublisher`].
#[derive(Clone, Debug)]
pub struct MultiPublisherBuilder {
    client: Arc<ClientInner>,
    settings: Settings,
    buffer_bytes: usize,
}

impl MultiPublisherBuilder {
    pub(crate) fn new(client: Arc<ClientInner>) -> Self {
        let settings = Settings {
            ordered: true,
            unanswered_max: PRODUCER_WINDOW,
            give_up_after: client.options.give_up_after,
            on_duplicate: OnDuplicate::default(),
            seed: client.randomness.next(),
        };
        Self { client, settings, buffer_bytes: BUFFER_BYTES }
    }

    /// Whether a failed message fails those behind it on the same stream (PS-2). Default `true`.
    #[must_use]
    pub fn ordered(mut self, ordered: bool) -> Self {
        self.settings.ordered = ordered;
        self
    }

    /// What becomes of messages that are in the stream already, under the same id (DD-2). Default: they
    /// are published.
    #[must_use]
    pub fn on_duplicate(mut self, on_duplicate: OnDuplicate) -> Self {
        self.settings.on_duplicate = on_duplicate;
        self
    }

    /// Frames that may be in flight, sent and not yet answered: 1 to 8, default 8.
    #[must_use]
    pub fn max_in_flight(mut self, frames: usize) -> Self {
        self.settings.unanswered_max = frames.clamp(1, PRODUCER_WINDOW);
        self
    }

    /// Bytes of messages that may wait or be un-answered before `send` waits. Default 32 MiB.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// How long refusals that the server calls temporary, lost connections, and silence of the
    /// server are borne before a message fails. Each is borne for that long by itself, so one
    /// message may take twice this time to end. Silence is borne for a second at least. Default as
    /// in [`ClientOptions`](crate::ClientOptions).
    #[must_use]
    pub fn give_up_after(mut self, time: Duration) -> Self {
        self.settings.give_up_after = time;
        self
    }

    /// Starts the publisher's task. Streams are bound with [`MultiPublisher::bind`].
    #[must_use]
    pub fn open(self) -> MultiPublisher {
        let give_up_after = self.settings.give_up_after.min(PATIENCE_MAX);
        let settings = Settings { give_up_after, ..self.settings };
        let shared = Shared::new(Machine::new(settings), self.buffer_bytes);
        let driver = Driver { client: self.client, shared: Arc::clone(&shared), settings };
        tokio::spawn(driver.run());
        MultiPublisher::new(shared)
    }
}

/// Opens a [`Publisher`].
#[derive(Clone, Debug)]
pub struct PublisherBuilder {
    stream: StreamName,
    multi: MultiPublisherBuilder,
}

impl PublisherBuilder {
    pub(crate) fn new(client: Arc<ClientInner>, stream: StreamName) -> Self {
        Self { stream, multi: MultiPublisherBuilder::new(client) }
    }

    /// See [`MultiPublisherBuilder::ordered`].
    #[must_use]
    pub fn ordered(self, ordered: bool) -> Self {
        Self { multi: self.multi.ordered(ordered), ..self }
    }

    /// See [`MultiPublisherBuilder::on_duplicate`].
    #[must_use]
    pub fn on_duplicate(self, on_duplicate: OnDuplicate) -> Self {
        Self { multi: self.multi.on_duplicate(on_duplicate), ..self }
    }

    /// See [`MultiPublisherBuilder::max_in_flight`].
    #[must_use]
    pub fn max_in_flight(self, frames: usize) -> Self {
        Self { multi: self.multi.max_in_flight(frames), ..self }
    }

    /// See [`MultiPublisherBuilder::buffer_bytes`].
    #[must_use]
    pub fn buffer_bytes(self, bytes: usize) -> Self {
        Self { multi: self.multi.buffer_bytes(bytes), ..self }
    }

    /// See [`MultiPublisherBuilder::give_up_after`].
    #[must_use]
    pub fn give_up_after(self, time: Duration) -> Self {
        Self { multi: self.multi.give_up_after(time), ..self }
    }

    /// Opens the publisher; the stream must exist.
    ///
    /// Cancelling leaves nothing behind.
    ///
    /// # Errors
    /// [`OpenError`]; what the server calls temporary is tried again for `give_up_after`.
    pub async fn open(self) -> Result<Publisher, OpenError> {
        self.multi.open().bind(self.stream).await
    }
}
