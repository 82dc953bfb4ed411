//! Ctrl-C and SIGTERM while a client command runs: the server is told before the process goes, and
//! keeps no session of a client that is not there.

use std::process;

use railgun_client::Client;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Exit;

/// From now on an interrupt closes `client` and ends the process. For whole commands only: it has
/// no end of its own.
///
/// A task, because the command may block its own thread, on standard input for one.
pub(crate) fn close_on_signals(client: &Client) {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    // Without handlers the signals do what they do by default, which ends the process as well.
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return };
    let client = client.clone();
    tokio::spawn(async move {
        let exit = tokio::select! {
            _ = interrupt.recv() => Exit::Interrupted,
            _ = terminate.recv() => Exit::Terminated,
        };
        client.close().await;
        process::exit(exit as i32);
    });
}
