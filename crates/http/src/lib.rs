//! The node's HTTP side: `/livez`, `/readyz` and `/metrics`.
//!
//! This crate knows nothing of the broker. Whoever starts a node gives it two things: a
//! [`Readiness`] to watch and a [`MetricsSource`] to ask at each scrape. Both may say "not yet",
//! so the server can be up while the node recovers its log.
#![warn(missing_docs)]

mod connections;
mod metrics;
mod process;
mod readiness;
mod routes;
mod server;

pub use metrics::{MetricKind, MetricsSource, Samples};
pub use readiness::Readiness;
pub use server::{BindError, HttpServer};
