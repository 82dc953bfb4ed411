//! Reading a stream (PS-5).

mod builder;
mod delivery;
mod error;
mod subscription;

pub use builder::SubscriptionBuilder;
pub use delivery::{Delivery, Event, Record, RecordRef, Removed, RemovedReason, Source};
pub use error::SubscribeError;
pub use subscription::Subscription;
