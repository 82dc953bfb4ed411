//! The machine of a member, between the application and the task that has its QUIC stream.
//!
//! The lock is held for one message or one frame, never across an await, as that of a publisher, and for
//! the same reason: free, it costs a few nanoseconds, where a channel costs a wake-up for each message.

use std::sync::{Arc, MutexGuard, PoisonError};

use futures::task::AtomicWaker;
use railgun_types::{GroupName, OffsetRange, StreamName};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::error::GroupError;
use super::machine::{Demand, Machine, Run, Tag, Unsettled, What};

#[expect(clippy::disallowed_types, reason = "messages are settled in place, not sent to an owner")]
type Lock<T> = std::sync::Mutex<T>;

/// The server keeps no more of a reason.
const REASON_BYTES_MAX: usize = 1 << 10;

#[derive(Debug)]
pub(crate) struct Shared {
    machine: Lock<Machine>,
    pub(crate) stream: StreamName,
    pub(crate) group: GroupName,
    /// There is something to send.
    pub(crate) work: Notify,
    /// Who waits for messages and news.
    pub(crate) taker: AtomicWaker,
    /// Something was answered, or the driver ended.
    pub(crate) progress: Notify,
    /// Nobody is there who could settle anything.
    pub(crate) closing: CancellationToken,
    /// The driver has ended.
    pub(crate) ended: CancellationToken,
}

impl Shared {
    pub(crate) fn new(machine: Machine, stream: StreamName, group: GroupName) -> Arc<Self> {
        Arc::new(Self {
            machine: Lock::new(machine),
            stream,
            group,
            work: Notify::new(),
            taker: AtomicWaker::new(),
            progress: Notify::new(),
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Machine> {
        // The machine has no panicking path that leaves it half changed.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody who waits that something came.
    pub(crate) fn wake(&self) {
        self.taker.wake();
        self.progress.notify_waiters();
    }

    /// Waits until something is true of the machine. Cancel-safe.
    pub(crate) async fn until(&self, is_true: impl Fn(&Machine) -> bool) -> Result<(), GroupError> {
        loop {
            // Registered before the look, so that nothing falls between.
            let mut progress = std::pin::pin!(self.progress.notified());
            progress.as_mut().enable();
            {
                let machine = self.lock();
                if is_true(&machine) {
                    return Ok(());
                }
                if let Some(ended) = machine.over() {
                    return Err(ended.unwrap_or(GroupError::Closed));
                }
            }
            progress.await;
        }
    }
}

/// Keeps a member alive: the subscription, and each of its deliveries, may still settle something.
#[derive(Debug)]
pub(crate) struct Handle(pub(crate) Arc<Shared>);

impl Handle {
    pub(crate) fn ack(&self, tag: Tag, range: OffsetRange) {
        self.woken(|machine| machine.ack(tag, range, None));
    }

    pub(crate) async fn ack_confirmed(
        &self,
        tag: Tag,
        range: OffsetRange,
    ) -> Result<(), GroupError> {
        let (reply, answer) = oneshot::channel();
        self.woken(|machine| machine.ack(tag, range, Some(reply)));
        match answer.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Unsettled::Stale(range, reason))) => Err(GroupError::Stale { range, reason }),
            Ok(Err(Unsettled::Over(error))) => Err(error),
            Err(_) => Err(GroupError::Closed),
        }
    }

    pub(crate) fn say(&self, tag: Tag, range: OffsetRange, what: What) {
        self.woken(|machine| machine.say(tag, range, what));
    }

    pub(crate) fn begin(&self, lease: u64, range: OffsetRange) -> OffsetRange {
        let mut begun = OffsetRange::default();
        self.woken(|machine| {
            let wake;
            (begun, wake) = machine.begin(lease, range);
            wake
        });
        begun
    }

    pub(crate) fn fetch(&self, demand: Demand) {
        self.woken(|machine| machine.fetch(demand));
    }

    pub(crate) fn take_fetched(&self) -> Vec<Run> {
        let mut runs = Vec::new();
        self.woken(|machine| {
            let wake;
            (runs, wake) = machine.take_fetched();
            wake
        });
        runs
    }

    pub(crate) fn drain(&self) {
        self.woken(Machine::drain);
    }

    fn woken(&self, say: impl FnOnce(&mut Machine) -> bool) {
        let wake = say(&mut self.0.lock());
        if wake {
            self.0.work.notify_one();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.woken(Machine::close);
        self.0.closing.cancel();
    }
}

/// A reason that is short enough.
pub(crate) fn reason(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(REASON_BYTES_MAX)].into()
}
