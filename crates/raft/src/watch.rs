//! A watch channel that wakes its waiters in the order in which they began to wait. tokio's picks
//! one of several queues at random, which makes a simulated run differ from the next one.
#![expect(
    clippy::disallowed_types,
    reason = "openraft demands a watch whose receivers borrow the value in place; locks are held \
              for one assignment or one comparison, never across an await"
)]

use std::future::poll_fn;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, Waker};

use openraft::async_runtime::watch::{RecvError, SendError, Watch, WatchReceiver, WatchSender};
use openraft::{OptionalSend, OptionalSync};

/// The channel family, for openraft's runtime and for this crate's own signals.
#[derive(Debug)]
pub(crate) struct FifoWatch;

/// Writes the value. The channel closes when the last one is dropped.
pub(crate) struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// Reads the value and waits for the next one.
pub(crate) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// Identifies this receiver among the waiters.
    id: u64,
    /// The version last seen by this receiver.
    seen: u64,
}

/// The value as it is now; senders wait while it is held.
pub(crate) struct Ref<'a, T>(RwLockReadGuard<'a, T>);

struct Shared<T> {
    /// Locked before `book` where both are needed.
    value: RwLock<T>,
    book: Mutex<Book>,
    next_id: AtomicU64,
}

struct Book {
    version: u64,
    senders: usize,
    receivers: usize,
    /// At most one entry per receiver, in the order of arrival.
    waiters: Vec<(u64, Waker)>,
}

/// A channel that holds `init`, which its receiver counts as seen.
pub(crate) fn channel<T>(init: T) -> (Sender<T>, Receiver<T>) {
    let book = Book { version: 0, senders: 1, receivers: 1, waiters: Vec::new() };
    let shared = Arc::new(Shared {
        value: RwLock::new(init),
        book: Mutex::new(book),
        next_id: AtomicU64::new(1),
    });
    (Sender { shared: Arc::clone(&shared) }, Receiver { shared, id: 0, seen: 0 })
}

impl<T> Shared<T> {
    /// No code that may panic runs under this lock, so a poisoned one is still consistent.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        let waiters = std::mem::take(&mut self.book().waiters);
        for (_, waker) in waiters {
            waker.wake();
        }
    }
}

impl<T> Sender<T> {
    /// Runs `modify` on the value and tells the receivers if it returns true.
    pub(crate) fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        {
            let mut value = self.shared.value.write().unwrap_or_else(PoisonError::into_inner);
            if !modify(&mut value) {
                return false;
            }
            self.shared.book().version += 1;
        }
        self.shared.wake_all();
        true
    }

    /// A receiver that counts the current value as seen.
    pub(crate) fn subscribe(&self) -> Receiver<T> {
        let _value = self.shared.read();
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let mut book = self.shared.book();
        book.receivers += 1;
        Receiver { shared: Arc::clone(&self.shared), id, seen: book.version }
    }
}

impl<T> Receiver<T> {
    /// The value as it is now. Do not hold it over anything that may send.
    pub(crate) fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.read())
    }

    /// The value as it is now, counted as seen.
    pub(crate) fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.read();
        self.seen = self.shared.book().version;
        Ref(value)
    }

    /// Waits for a value not seen yet and counts it as seen. Cancel safe.
    pub(crate) async fn changed(&mut self) -> Result<(), RecvError> {
        poll_fn(|cx| self.poll_changed(cx)).await
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RecvError>> {
        let mut book = self.shared.book();
        if book.version != self.seen {
            self.seen = book.version;
            return Poll::Ready(Ok(()));
        }
        if book.senders == 0 {
            return Poll::Ready(Err(RecvError(())));
        }
        let replaced = match book.waiters.iter_mut().find(|(id, _)| *id == self.id) {
            Some((_, waker)) if waker.will_wake(cx.waker()) => None,
            Some((_, waker)) => Some(std::mem::replace(waker, cx.waker().clone())),
            None => {
                book.waiters.push((self.id, cx.waker().clone()));
                None
            }
        };
        // A waker may own the last reference to a task; dropping it runs that task's destructors,
        // which must not find this lock taken.
        drop(book);
        drop(replaced);
        Poll::Pending
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.book().senders += 1;
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut book = self.shared.book();
        book.senders -= 1;
        let closed = book.senders == 0;
        drop(book);
        if closed {
            self.shared.wake_all();
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        self.shared.book().receivers += 1;
        Self { shared: Arc::clone(&self.shared), id, seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut book = self.shared.book();
        book.receivers -= 1;
        let own = book.waiters.iter().position(|(id, _)| *id == self.id);
        let waker = own.map(|position| book.waiters.remove(position));
        drop(book);
        // Outside the lock, for the reason given in `poll_changed`.
        drop(waker);
    }
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl Watch for FifoWatch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Self::Sender<T>, Self::Receiver<T>) {
        channel(init)
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<FifoWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.shared.book().receivers == 0 {
            return Err(SendError(value));
        }
        self.send_if_modified(|current| {
            *current = value;
            true
        });
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        Self::send_if_modified(self, modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        Ref(self.shared.read())
    }

    fn subscribe(&self) -> Receiver<T> {
        Self::subscribe(self)
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<FifoWatch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        Self::changed(self).await
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        Self::borrow_and_update(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Wake;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_change_is_seen_once_and_the_end_after_it() {
        let (tx, mut rx) = channel(1);
        assert!(rx.changed().now_or_never().is_none());
        assert!(tx.send_if_modified(|value| {
            *value = 2;
            true
        }));
        assert!(!tx.send_if_modified(|value| {
            *value = 2;
            false
        }));
        let mut late = tx.subscribe();
        drop(tx);
        assert_eq!(rx.changed().await, Ok(()));
        assert_eq!(*rx.borrow(), 2);
        assert!(rx.changed().await.is_err());
        assert!(late.changed().await.is_err());
    }

    #[test]
    fn waiters_wake_in_the_order_of_their_waiting() {
        struct Noted(usize, Mutex<Vec<usize>>, Option<Arc<Noted>>);
        impl Wake for Noted {
            fn wake(self: Arc<Self>) {
                let log = self.2.as_ref().map_or(&self.1, |shared| &shared.1);
                log.lock().expect("not poisoned").push(self.0);
            }
        }
        let log = Arc::new(Noted(0, Mutex::default(), None));
        let (tx, first) = channel(0);
        let mut receivers: Vec<_> = (0..20).map(|_| first.clone()).collect();
        // Registered from the last to the first, so that order of creation cannot pass the test.
        for (number, rx) in receivers.iter_mut().enumerate().rev() {
            let waker = Waker::from(Arc::new(Noted(number, Mutex::default(), Some(log.clone()))));
            assert!(rx.poll_changed(&mut Context::from_waker(&waker)).is_pending());
        }
        tx.send_if_modified(|_| true);
        let woken = log.1.lock().expect("not poisoned").clone();
        assert_eq!(woken, (0..20).rev().collect::<Vec<_>>());
    }

    #[test]
    fn sending_without_receivers_fails() {
        let (tx, rx) = channel(0);
        drop(rx);
        assert_eq!(WatchSender::send(&tx, 1), Err(SendError(1)));
        assert_eq!(*tx.borrow_watched(), 0);
    }
}
