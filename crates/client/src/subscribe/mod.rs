//! Reading a stream (PS-5).

mod builder;
mod error;
mod records;
mod subscription;

pub use builder::SubscriptionBuilder;
pub use error::SubscribeError;
pub use records::{Event, Record, RecordRef, RecordRun, Removed, RemovedReason, Source};
pub use subscription::Subscription;
