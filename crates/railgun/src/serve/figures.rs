//! The node's figures for `/metrics`.

use std::sync::Arc;

use railgun_broker::Broker;
use railgun_http::{MetricsSource, Samples};
use tokio::sync::watch;

/// Reads the broker's own snapshot at each scrape; says nothing before there is a broker.
#[derive(Debug)]
pub(crate) struct NodeFigures {
    broker: watch::Receiver<Option<Arc<Broker>>>,
}

impl NodeFigures {
    /// The figures, and where to put the broker once it runs.
    pub(crate) fn new() -> (watch::Sender<Option<Arc<Broker>>>, Self) {
        let (sender, broker) = watch::channel(None);
        (sender, Self { broker })
    }
}

impl MetricsSource for NodeFigures {
    fn collect(&self, samples: &mut Samples) {
        let broker = self.broker.borrow().clone();
        samples.gauge(
            "railgun_up",
            "Whether the broker has started",
            if broker.is_some() { 1.0 } else { 0.0 },
        );
    }
}
