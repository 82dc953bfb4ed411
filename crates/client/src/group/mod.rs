//! Members of consumer groups (SEMANTICS §3).

mod builder;
mod dead_letters;
mod delivery;
mod driver;
mod error;
mod event;
mod machine;
mod pull;
mod redrive;
mod shared;
mod subscription;
#[cfg(test)]
mod tests;

pub use builder::GroupBuilder;
pub use dead_letters::{DeadLetter, DeadLetters, DeadLettersError};
pub use delivery::{Delivery, DeliveryBatch};
pub use error::GroupError;
pub use event::{GroupEvent, PauseReason, StaleReason};
pub use pull::{Fetch, PullSubscription};
pub use redrive::{RedriveError, Redriven};
pub use subscription::GroupSubscription;
