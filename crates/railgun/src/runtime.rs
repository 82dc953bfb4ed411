//! The runtime of client commands.

use std::future::Future;

use crate::exit::{CommandResult, Exit, Failure};

/// Runs a command: it has this thread for itself (it packs, prints, and waits for disks and pipes),
/// the connection has another.
pub(crate) fn block_on(command: impl Future<Output = CommandResult>) -> CommandResult {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start: {error}")))?;
    let result = runtime.block_on(command);
    // What still runs serves nobody; waiting for it could hold the exit.
    runtime.shutdown_background();
    result
}
