//! What a benchmark found.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::exit::{CommandResult, Exit, Failure};
use crate::output::table::{Fields, Listing};

/// Latencies up to a minute with three digits, in microseconds.
#[derive(Clone, Debug)]
pub(super) struct Latencies(Histogram<u64>);

/// Above this everything counts as this.
const LATENCY_US_MAX: u64 = 60_000_000;

impl Latencies {
    pub(super) fn new() -> Result<Self, Failure> {
        // The bounds are fixed and lawful.
        Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
            .map(Self)
            .map_err(|error| Failure::new(Exit::Failed, error.to_string()))
    }

    pub(super) fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX);
        self.0.saturating_record(us.max(1));
    }

    /// Adds those of another.
    pub(super) fn merge(&mut self, other: &Self) {
        // Cannot fail: the bounds of both are the same.
        let _ = self.0.add(&other.0);
    }
}

/// The figures of a run.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) workload: &'static str,
    pub(super) streams: usize,
    pub(super) messages: u64,
    /// Bytes of the values.
    pub(super) bytes: u64,
    pub(super) elapsed: Duration,
    pub(super) latencies: Option<Latencies>,
}

impl Report {
    pub(super) fn print(&self, listing: Listing) -> CommandResult {
        listing.print_one(&self.fields())
    }

    fn fields(&self) -> Fields {
        let seconds = self.elapsed.as_secs_f64().max(1e-9);
        let tenth = |value: f64| (value * 10.0).round() / 10.0;
        let mut fields = Fields::default()
            .field("workload", self.workload)
            .field("streams", self.streams)
            .field("messages", self.messages)
            .field("bytes", self.bytes)
            .field("seconds", (seconds * 1000.0).round() / 1000.0)
            .field("messages_per_second", (self.messages as f64 / seconds).round() as u64)
            .field("megabytes_per_second", tenth(self.bytes as f64 / seconds / 1e6));
        if let Some(Latencies(histogram)) = &self.latencies {
            fields = fields
                .field("latency_samples", histogram.len())
                .field("latency_us_p50", histogram.value_at_quantile(0.5))
                .field("latency_us_p90", histogram.value_at_quantile(0.9))
                .field("latency_us_p99", histogram.value_at_quantile(0.99))
                .field("latency_us_p999", histogram.value_at_quantile(0.999))
                .field("latency_us_max", histogram.max());
        }
        fields
    }
}
