//! What is answered under which path.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::watch;

use crate::{metrics::MetricsPage, readiness::Readiness};

/// What the handlers read.
#[derive(Clone, Debug)]
pub(crate) struct NodeView {
    pub(crate) readiness: watch::Receiver<Readiness>,
    pub(crate) metrics: Arc<MetricsPage>,
}

pub(crate) fn router(node: NodeView) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(node)
}

/// The process answers, so it lives. It deliberately looks at nothing else: a node that waits for
/// its bucket must not be restarted for it.
async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(node): State<NodeView>) -> Response {
    match &*node.readiness.borrow() {
        Readiness::Ready => "ok\n".into_response(),
        Readiness::NotReady { reason } => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response()
        }
    }
}

async fn metrics(State(node): State<NodeView>) -> Response {
    match node.metrics.render() {
        Ok(page) => ([(header::CONTENT_TYPE, MetricsPage::CONTENT_TYPE)], page).into_response(),
        Err(error) => {
            tracing::warn!(%error, "cannot encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
