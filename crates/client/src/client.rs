//! The entry: a connection to a cluster, shared by everything that is made from it.

use std::sync::Arc;

use railgun_types::limits::ADMIN_STREAMS;
use railgun_types::{ClusterUid, StreamName};

use crate::admin::Admin;
use crate::backoff::Randomness;
use crate::connect_error::ConnectError;
use crate::dial::{Dial, QuicDial};
use crate::leaders::Leaders;
use crate::link::Link;
use crate::options::ClientOptions;
use crate::publish::{MultiPublisherBuilder, PublisherBuilder};
use crate::subscribe::SubscriptionBuilder;

/// A connection to a cluster. Cheap to clone; everything made from it shares the one connection,
/// which is made again by itself, to another server where there are several, when it is lost, when its
/// server goes away, or when that owes an answer and nothing was heard from it for some 1.2 s. Publishers
/// also share one to each node that leads their streams, as
/// [`follow_leaders`](ClientOptions::follow_leaders) says. All are closed when the last clone and the last
/// handle are dropped.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<ClientInner>,
}

#[derive(Debug)]
pub(crate) struct ClientInner {
    pub(crate) link: Link,
    pub(crate) leaders: Leaders,
    pub(crate) options: Arc<ClientOptions>,
    pub(crate) randomness: Arc<Randomness>,
    /// Administrative calls that may still be made.
    pub(crate) calls: tokio::sync::Semaphore,
}

impl Client {
    /// Connects over QUIC. Tries each server once, and each of its addresses; later losses are repaired
    /// in the background.
    ///
    /// Cancelling leaves nothing behind.
    ///
    /// # Errors
    /// [`ConnectError`]: of the server, where there is one; else what came of each. Within
    /// `options.connect_timeout` after the last attempt has begun, and each begins 300 ms after the one
    /// before it at the latest, while no more than eight are under way.
    pub async fn connect(options: ClientOptions) -> Result<Self, ConnectError> {
        let dial = Arc::new(QuicDial::new(&options)?);
        Self::connect_over(dial, options).await
    }

    /// As [`Self::connect`], with connections made by `dial`.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect_over(
        dial: Arc<dyn Dial>,
        options: ClientOptions,
    ) -> Result<Self, ConnectError> {
        options.check_servers()?;
        let seed = match options.seed {
            Some(seed) => seed,
            None => {
                let mut seed = [0; 16];
                #[expect(clippy::disallowed_methods, reason = "whoever injects gives `seed`")]
                getrandom::fill(&mut seed)
                    .map_err(|error| ConnectError::NoRandomness { reason: error.to_string() })?;
                seed
            }
        };
        let (options, randomness) = (Arc::new(options), Arc::new(Randomness::new(seed)));
        let link = Link::connect(Arc::clone(&dial), Arc::clone(&options), Arc::clone(&randomness));
        let link = link.await?;
        let (for_leaders, bits) = (Arc::clone(&options), Arc::clone(&randomness));
        let leaders = Leaders::new(dial, for_leaders, bits, link.cluster_uid());
        let calls = tokio::sync::Semaphore::new(ADMIN_STREAMS);
        Ok(Self { inner: Arc::new(ClientInner { link, leaders, options, randomness, calls }) })
    }

    /// The cluster that answered.
    #[must_use]
    pub fn cluster_uid(&self) -> ClusterUid {
        self.inner.link.cluster_uid()
    }

    /// The servers this client was told to use.
    #[must_use]
    pub fn servers(&self) -> &[String] {
        &self.inner.options.servers
    }

    /// The server it is connected to now, as it was named. `None` while there is none.
    #[must_use]
    pub fn server(&self) -> Option<String> {
        self.inner.link.server()
    }

    /// A publisher to one stream.
    #[must_use]
    pub fn publisher(&self, stream: StreamName) -> PublisherBuilder {
        PublisherBuilder::new(Arc::clone(&self.inner), stream)
    }

    /// A publisher to any number of streams, which share frames, window and memory.
    #[must_use]
    pub fn multi_publisher(&self) -> MultiPublisherBuilder {
        MultiPublisherBuilder::new(Arc::clone(&self.inner))
    }

    /// A reader of one stream.
    #[must_use]
    pub fn subscribe(&self, stream: StreamName) -> SubscriptionBuilder {
        SubscriptionBuilder::new(Arc::clone(&self.inner), stream)
    }

    /// Administrative calls.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(Arc::clone(&self.inner))
    }

    /// Closes the connections at once, under everything that uses it, and waits a moment for the
    /// server to be told. Close publishers first. Cancelled, the connection is closed all the same.
    pub async fn close(self) {
        self.inner.leaders.close();
        self.inner.link.close().await;
    }
}
