//! A value that tasks wait for, in the order of their coming: tokio's watch wakes them in any order, and a
//! simulation would not be repeatable.

use std::pin::pin;

use tokio::sync::{Notify, watch};

#[derive(Debug)]
pub(super) struct Signal<T> {
    /// A watch that nobody watches: it lends its value to one task at a time.
    value: watch::Sender<T>,
    changed: Notify,
}

impl<T> Signal<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value: watch::Sender::new(value), changed: Notify::new() }
    }

    pub(super) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.value.borrow())
    }

    /// Wakes nobody: see [`wake`](Self::wake).
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut result = None;
        self.value.send_modify(|value| result = Some(change(value)));
        result.expect("send_modify calls its argument once")
    }

    pub(super) fn wake(&self) {
        self.changed.notify_waiters();
    }

    /// Waits until the value is so. Cancel-safe.
    pub(super) async fn until(&self, mut is_so: impl FnMut(&T) -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.look(&mut is_so) {
                return;
            }
            changed.await;
        }
    }
}
