//! Publishing (SEMANTICS §1, §2).
//!
//! `machine` decides what is sent and when, `lane` does so for one stream of it (an alias on the
//! wire), `batch` and `outcome` are a batch and what becomes of it; none of them knows a task or a
//! connection. `shared` is where handles and task meet, `driver` is the task, `publisher` the handles.

mod batch;
mod builder;
mod driver;
mod error;
mod hints;
mod lane;
mod machine;
mod outcome;
mod publisher;
mod shared;

pub use builder::{MultiPublisherBuilder, OpenError, PublisherBuilder};
pub use error::{PublishError, SendError};
pub use outcome::{AtomicTicket, OnDuplicate, Published, PublishedRange, Ticket};
pub use publisher::{MultiPublisher, Progress, Publisher};
