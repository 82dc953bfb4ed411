//! Serves HTTP/1.1 connections within fixed bounds, so that slow or many scrapers cost the broker
//! neither descriptors nor memory.

use std::{collections::VecDeque, io, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};

/// Connections served at a time. One more closes the oldest: each serves one small request, so the
/// oldest of many is one that sends none, and must not keep a liveness probe waiting.
pub(crate) const CONNECTIONS: usize = 64;
/// How long a client may take for its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is closed after this, however slowly its answer is taken.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, which is mostly a lack of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Accepts and serves until dropped; dropping it closes what is open.
pub(crate) async fn serve(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    // In the order they were accepted.
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                while connections.try_join_next().is_some() {}
                open.retain(|connection| !connection.is_finished());
                if open.len() >= CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                open.push_back(connections.spawn(serve_connection(stream, router.clone())));
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept http connections");
                sleep_until(Instant::now() + ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let mut builder = http1::Builder::new();
    // One request each: a kept connection would hold a place that somebody may need.
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(false);
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, connection).await {
        tracing::debug!(%error, "http connection ended early");
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
