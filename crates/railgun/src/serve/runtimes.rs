//! Owns the threads of a node's tasks: those that serve clients, and those that can wait.

use std::io;
use std::num::NonZero;

use tokio::runtime::{Builder, Handle, Runtime};

/// Nice value of the threads that can wait: they get about a tenth of a processor that is wanted
/// elsewhere, so that uploads go on, if slowly, however much is published. What they fall behind is
/// bounded by the hot budget, which slows publishers.
const BACKGROUND_NICE: i32 = 10;

/// The runtimes of a node.
pub(super) struct Runtimes {
    serving: Runtime,
    background: Runtime,
}

impl Runtimes {
    pub(super) fn start() -> io::Result<Self> {
        let serving = Builder::new_multi_thread()
            .worker_threads(serving_threads())
            .enable_all()
            .thread_name("railgun")
            .build()?;
        let background = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .thread_name("railgun-cold")
            .on_thread_start(yield_to_others)
            .build()?;
        Ok(Self { serving, background })
    }

    pub(super) fn background(&self) -> Handle {
        self.background.handle().clone()
    }

    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.serving.block_on(work)
    }

    /// Ends them; what still runs was given its time, and waiting for it could hold the exit for
    /// ever.
    pub(super) fn abandon(self) {
        self.serving.shutdown_background();
        self.background.shutdown_background();
    }
}

/// One for each processor but one: the thread of the log needs that, and a thread more than there are
/// processors is woken for work that another would have got to as soon.
fn serving_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).saturating_sub(1).max(1)
}

/// Lowers the priority of the calling thread.
fn yield_to_others() {
    // On Linux this is the thread's own, not the process's.
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, BACKGROUND_NICE)
    {
        tracing::debug!(%error, "uploads run at the priority of everything else");
    }
}
