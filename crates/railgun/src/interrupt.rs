//! Ctrl-C and SIGTERM while a client command runs: the server is told before the process goes, and
//! keeps no session of a client that is not there.

use std::future::pending;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use railgun_client::Client;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Exit;

/// Whether the process is about to end by a signal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupted(Arc<AtomicBool>);

impl Interrupted {
    /// Returns unless the process is about to end: what fails because the connection was closed
    /// under it is no failure to tell.
    pub(crate) async fn or_never(&self) {
        if self.0.load(Ordering::Acquire) {
            pending::<()>().await;
        }
    }
}

/// From now on an interrupt closes `client` and ends the process. For whole commands only: it has
/// no end of its own.
///
/// A task, because the command may block its own thread, on standard input for one.
pub(crate) fn close_on_signals(client: &Client) -> Interrupted {
    let interrupted = Interrupted::default();
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    // Without handlers the signals do what they do by default, which ends the process as well.
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return interrupted };
    let (client, told) = (client.clone(), interrupted.clone());
    tokio::spawn(async move {
        let exit = tokio::select! {
            _ = interrupt.recv() => Exit::Interrupted,
            _ = terminate.recv() => Exit::Terminated,
        };
        told.0.store(true, Ordering::Release);
        client.close().await;
        process::exit(exit as i32);
    });
    interrupted
}
