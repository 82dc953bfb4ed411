//! Where blocking reads run: log files behind a slow reader, snapshot files.

use std::io;

use tokio::sync::oneshot;

/// A read to be run once, where blocking is allowed.
pub type ReadJob = Box<dyn FnOnce() + Send>;

/// Runs blocking reads apart from Raft's tasks.
pub trait ReadPool: Send + Sync + 'static {
    /// Runs `job` to its end, or drops it, which its caller sees as an error.
    fn run(&self, job: ReadJob);
}

/// tokio's pool of blocking threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockingThreads;

impl ReadPool for BlockingThreads {
    #[expect(clippy::disallowed_methods, reason = "the pool that is injected")]
    fn run(&self, job: ReadJob) {
        tokio::task::spawn_blocking(job);
    }
}

/// The calling task itself: for simulations, where a disk answers at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl ReadPool for Inline {
    fn run(&self, job: ReadJob) {
        job();
    }
}

/// Runs `read` on `pool` and awaits its result. Dropping the future leaves the read running.
pub(crate) async fn run<T: Send + 'static>(
    pool: &dyn ReadPool,
    read: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (tx, rx) = oneshot::channel();
    // A failed send means that the reader is gone: nobody wants the result.
    pool.run(Box::new(move || drop(tx.send(read()))));
    rx.await.map_err(|_| io::Error::other("the read pool dropped a read"))
}
