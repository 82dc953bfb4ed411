//! The runtime of client commands.

use std::future::Future;

use tokio::runtime::Builder;

use crate::exit::{CommandResult, Exit, Failure};

/// Runs a command: it has this thread for itself (it packs, prints, and waits for disks and pipes),
/// the connection has another.
pub(crate) fn block_on(command: impl Future<Output = CommandResult>) -> CommandResult {
    run(Builder::new_multi_thread().worker_threads(1), command)
}

/// Runs a command that never blocks in the thread of its connection, where what one brings the other
/// does not have to be woken for.
pub(crate) fn block_on_one_thread(command: impl Future<Output = CommandResult>) -> CommandResult {
    run(&mut Builder::new_current_thread(), command)
}

fn run(builder: &mut Builder, command: impl Future<Output = CommandResult>) -> CommandResult {
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start: {error}")))?;
    let result = runtime.block_on(command);
    // What still runs serves nobody; waiting for it could hold the exit.
    runtime.shutdown_background();
    result
}
