//! Where blocking work runs, apart from the tasks: files that are read and written, what takes long to
//! compute.

use std::io;

use tokio::sync::oneshot;

/// Work to be done once, where blocking is allowed.
pub type BlockingJob = Box<dyn FnOnce() + Send>;

/// Runs blocking work apart from the tasks.
pub trait BlockingPool: Send + Sync + 'static {
    /// Runs `job` to its end, or drops it, which its caller sees as an error.
    fn run(&self, job: BlockingJob);
}

/// tokio's pool of blocking threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockingThreads;

impl BlockingPool for BlockingThreads {
    #[expect(clippy::disallowed_methods, reason = "the pool that is injected")]
    fn run(&self, job: BlockingJob) {
        tokio::task::spawn_blocking(job);
    }
}

/// The calling task itself: for simulations, where a disk answers at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl BlockingPool for Inline {
    fn run(&self, job: BlockingJob) {
        job();
    }
}

/// The pool dropped a piece of work: the node is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pool for blocking work has stopped")]
pub struct PoolStopped;

impl From<PoolStopped> for io::Error {
    fn from(stopped: PoolStopped) -> Self {
        Self::other(stopped)
    }
}

/// Runs blocking `work` on `pool` and awaits its result. Dropping the future leaves the work running.
///
/// # Errors
/// [`PoolStopped`] if the pool drops the work.
pub async fn run_on<T: Send + 'static>(
    pool: &dyn BlockingPool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, PoolStopped> {
    let (done, result) = oneshot::channel();
    // A failed send means that nobody waits for the result any more.
    pool.run(Box::new(move || drop(done.send(work()))));
    result.await.map_err(|_| PoolStopped)
}
