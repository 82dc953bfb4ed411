//! The machine of a publisher, between the handles that push messages and the task that sends
//! frames.
//!
//! This is the one place of the SDK with a lock. It is held for the packing of one message or one
//! frame, never across an await, and is not contended at the pace of a single sender: one lock that
//! is free costs a few nanoseconds per message, where a channel costs a wake-up.

use std::sync::{Arc, MutexGuard, PoisonError};

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::batch::Completion;
use super::machine::Machine;

#[expect(clippy::disallowed_types, reason = "messages are packed in place, not sent to an owner")]
type Lock<T> = std::sync::Mutex<T>;

/// Most byte permits of a publisher; a limit of the semaphore's arguments.
const PERMITS_MAX: usize = u32::MAX as usize >> 1;

#[derive(Debug)]
pub(crate) struct Shared {
    machine: Lock<Machine>,
    /// Bytes that may still be pushed.
    permits: Semaphore,
    permits_max: usize,
    /// There is something to send.
    pub(crate) work: Notify,
    /// An answer came, or the driver ended.
    pub(crate) progress: Notify,
    /// A handle of a lane is gone.
    pub(crate) places: Notify,
    /// The driver has ended.
    pub(crate) ended: CancellationToken,
}

impl Shared {
    pub(crate) fn new(machine: Machine, buffer_bytes: usize) -> Arc<Self> {
        let permits_max = buffer_bytes.clamp(1, PERMITS_MAX);
        Arc::new(Self {
            machine: Lock::new(machine),
            permits: Semaphore::new(permits_max),
            permits_max,
            work: Notify::new(),
            progress: Notify::new(),
            places: Notify::new(),
            ended: CancellationToken::new(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Machine> {
        // The machine has no panicking path that leaves it half changed.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Permits for a message of this size: all there are for one that is larger.
    pub(crate) fn permits_of(&self, bytes: usize) -> usize {
        bytes.min(self.permits_max)
    }

    /// Waits for room and takes it. First come, first served; cancel-safe. `false`: closed.
    pub(crate) async fn take_permits(&self, permits: usize) -> bool {
        // A sender that always finds room must not keep its thread from the driver's task.
        tokio::task::coop::consume_budget().await;
        // Room is nearly always there, and this is the cheaper way to it. It does not overtake
        // those that wait: what is given back is theirs first.
        if let Some(true) = self.try_take_permits(permits) {
            return true;
        }
        match self.permits.acquire_many(permits as u32).await {
            Ok(taken) => {
                taken.forget();
                true
            }
            Err(_) => false,
        }
    }

    /// Takes room if there is some. `None`: closed.
    pub(crate) fn try_take_permits(&self, permits: usize) -> Option<bool> {
        match self.permits.try_acquire_many(permits as u32) {
            Ok(taken) => {
                taken.forget();
                Some(true)
            }
            Err(tokio::sync::TryAcquireError::NoPermits) => Some(false),
            Err(tokio::sync::TryAcquireError::Closed) => None,
        }
    }

    pub(crate) fn give_permits(&self, permits: usize) {
        self.permits.add_permits(permits);
    }

    /// Wakes everyone who waits for room: there will be none.
    pub(crate) fn close_permits(&self) {
        self.permits.close();
    }

    /// Tells tickets what became of their batches. Call it without the lock.
    pub(crate) fn complete(&self, completions: &mut Vec<Completion>) {
        let mut permits = 0;
        for completion in completions.drain(..) {
            // Set here only, once: a completion is made from the one item of its batch.
            let _ = completion.outcome.set(completion.result);
            permits += completion.permits;
        }
        // At once: each call may wake a sender, which would find room for one batch.
        if permits > 0 {
            self.give_permits(permits);
        }
        self.progress.notify_waiters();
    }
}
