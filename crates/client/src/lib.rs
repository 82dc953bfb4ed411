//! The Rust SDK of railgun: publish to streams, read them, look after them.
//!
//! ```no_run
//! use railgun_client::{Client, ClientOptions, Event, Message, StartPosition, StreamName};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientOptions::new("localhost:7410")).await?;
//! let orders = StreamName::new("orders")?;
//!
//! let publisher = client.publisher(orders.clone()).open().await?;
//! let ticket = publisher.send(Message::new("one coffee").with_key("table-4")).await?;
//! println!("at offset {}", ticket.await?.offset);
//!
//! let mut reader = client.subscribe(orders).start(StartPosition::Earliest).open().await?;
//! while let Some(event) = reader.next().await? {
//!     match event {
//!         Event::Data(record) => println!("{}: {:?}", record.offset, record.value),
//!         Event::Removed(gone) => println!("{} to {} are gone", gone.from, gone.to),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! One [`Client`] is one connection to one of its servers, and one more to each node that leads the streams of
//! its publishers, where that is another and can be reached. The first is made again by itself, to the next
//! server, when it is lost; publishers repeat what was un-answered, or refused for want of a leader, in order
//! and under the same producer sequence, so that it is appended once (PQ-1), and subscriptions go on at
//! the next offset.
#![warn(missing_docs)]

mod admin;
mod backoff;
mod client;
mod connect_error;
mod dial;
mod dialler;
mod group;
mod leaders;
mod link;
mod message;
mod options;
mod publish;
mod session;
mod subscribe;
#[cfg(test)]
mod tests;

pub use admin::{
    Admin, AdminError, ClusterStatus, Controlled, DeadOffsets, DrainProgress, EnsureOptions,
    GroupDescription, InvalidJoinToken, JoinToken, MadeJoinToken, NodeState, NodeStatus,
    ReplicaStatus, Sealed, Segment, SegmentList, SegmentPage, ShardStatus, SignedNode,
    StreamDescription, StreamPage,
};
pub use client::Client;
pub use connect_error::{Attempt, ConnectError};
pub use dial::{Dial, Dialling, Resolving, Target};
pub use group::{
    DeadLetter, DeadLetters, DeadLettersError, Delivery, DeliveryBatch, Fetch, GroupBuilder,
    GroupError, GroupEvent, GroupSubscription, PauseReason, PullSubscription, RedriveError,
    Redriven, StaleReason,
};
pub use message::Message;
pub use options::ClientOptions;
pub use publish::{
    AtomicTicket, MultiPublisher, MultiPublisherBuilder, OnDuplicate, OpenError, Progress,
    PublishError, Published, PublishedRange, Publisher, PublisherBuilder, SendError, Ticket,
};
pub use railgun_net::tls::TlsError;
pub use railgun_net::{ConnectError as TransportError, Connection, ConnectionLost};
pub use railgun_proto::convert::{EnsureOutcome, Ensured, ExpectedEnd, GroupEnsured};
pub use railgun_proto::{WireCode, WireError};
pub use railgun_types::batch::{BatchError, ContentHeaders, RecordDraft, RecordRefused};
pub use railgun_types::{
    ChangeClass, ClusterUid, DedupFull, DedupPatch, DedupSpec, DlqPatch, DlqSpec, EnsureMode,
    ErrorCode, FieldDiff, GroupId, GroupMode, GroupName, GroupPatch, GroupSpec, InvalidName,
    InvalidSpec, NodeId, NodeUid, Offset, OffsetRange, ParseUidError, ReplicaId, Retry, ShardId,
    SpecPatch, StartPosition, StreamKind, StreamName, StreamSpec, StreamUid, Timestamp, limits,
};
pub use subscribe::{
    Event, Record, RecordRef, RecordRun, Removed, RemovedReason, Source, SubscribeError,
    Subscription, SubscriptionBuilder,
};
