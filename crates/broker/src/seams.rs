//! Everything a node reaches outside itself, injected at the root and nowhere else reached
//! (DESIGN §7): with other parts the same node runs inside a simulation.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use railgun_log::{
    Disk, LogOpener, LogOptions, LogThread, LogWriter, RealDisk, SpawnError, Step, UuidSource,
};
use railgun_raft::{BlockingPool, BlockingThreads};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::actors::Actors;
use crate::builtin_bug::Planted;
use crate::clock::{Clock, SystemClock};
use crate::entropy::{Entropy, SystemEntropy};
use crate::thresholds::Thresholds;

/// The parts of a node that a simulation replaces, besides its network and bucket.
pub struct Seams {
    /// Where logs, checkpoints and the node's identity lie.
    pub disk: Arc<dyn Disk>,
    /// What runs the log writer.
    pub log_driver: LogDriver,
    /// Where blocking work runs.
    pub pool: Arc<dyn BlockingPool>,
    /// The runtime of what can wait: encoding and uploading. Its threads should yield the processor
    /// to those that serve clients. `None`: the one that everything runs on.
    pub background: Option<Handle>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Random identifiers.
    pub entropy: Arc<dyn Entropy>,
    /// When segments and checkpoints are made.
    pub thresholds: Thresholds,
    /// A bug planted on purpose.
    #[cfg(feature = "builtin-bugs")]
    pub builtin_bug: Option<crate::BuiltinBug>,
}

/// What runs the log writer, and how it lays out its logs.
pub enum LogDriver {
    /// A thread of its own: production.
    Thread(LogOptions),
    /// A task of the runtime: simulation. Files get their ids from the source given; the disk is as
    /// slow as the pace says.
    Task(LogOptions, UuidSource, Pace),
}

/// How long the disk takes until its next step.
pub type Pace = Box<dyn FnMut() -> Duration + Send>;

impl Seams {
    /// The operating system's disk below `data_dir`, clock, randomness and threads.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn real(data_dir: &Path) -> std::io::Result<Self> {
        Ok(Self {
            disk: Arc::new(RealDisk::open(data_dir)?),
            log_driver: LogDriver::Thread(LogOptions::default()),
            pool: Arc::new(BlockingThreads),
            background: None,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
            thresholds: Thresholds::default(),
            #[cfg(feature = "builtin-bugs")]
            builtin_bug: None,
        })
    }

    pub(crate) fn planted(&self) -> Planted {
        #[cfg(feature = "builtin-bugs")]
        return Planted::new(self.builtin_bug);
        #[cfg(not(feature = "builtin-bugs"))]
        Planted::default()
    }

    /// The same with another runtime for what can wait.
    #[must_use]
    pub fn with_background(mut self, runtime: Handle) -> Self {
        self.background = Some(runtime);
        self
    }

    /// The same with log files of this size, in bytes: 4 KiB to 2 GiB. Files that exist keep theirs.
    #[must_use]
    pub fn with_log_file_bytes(mut self, bytes: u64) -> Self {
        let (LogDriver::Thread(options) | LogDriver::Task(options, ..)) = &mut self.log_driver;
        options.file_bytes = bytes;
        self
    }
}

impl fmt::Debug for Seams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seams").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl fmt::Debug for LogDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Thread(_) => "Thread",
            Self::Task(..) => "Task",
        })
    }
}

/// A log writer that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct RunningLog {
    pub(crate) opener: LogOpener,
    pub(crate) options: LogOptions,
    _thread: Option<LogThread>,
}

impl LogDriver {
    /// Locks the disk and runs its log writer.
    pub(crate) fn start(
        self,
        disk: Arc<dyn Disk>,
        actors: &Actors,
        cancel: CancellationToken,
    ) -> Result<RunningLog, SpawnError> {
        match self {
            Self::Thread(options) => {
                let thread = LogThread::spawn(disk)?;
                Ok(RunningLog { opener: thread.opener(), options, _thread: Some(thread) })
            }
            Self::Task(options, uuids, pace) => {
                let writer = LogWriter::new(disk, uuids)?;
                let opener = writer.opener();
                actors.spawn("the log writer", run_writer(writer, pace, cancel));
                Ok(RunningLog { opener, options, _thread: None })
            }
        }
    }
}

/// Steps the writer whenever it is woken or a time it names has come.
async fn run_writer(mut writer: LogWriter, mut pace: Pace, cancel: CancellationToken) {
    let woken = Arc::new(Notify::new());
    let wake = Arc::clone(&woken);
    writer.set_wake(Arc::new(move || wake.notify_one()));
    let start = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(pace()) => {}
        }
        let now = start.elapsed();
        let Step::Idle { wake_at } = writer.step(now) else { continue };
        let wait = wake_at.map_or(Duration::MAX, |at| at.saturating_sub(now));
        tokio::select! {
            biased;
            () = cancel.cancelled() => return,
            () = woken.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}
