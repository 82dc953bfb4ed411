//! From a snapshot of the node to Prometheus text.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use crate::process::ProcessMetrics;

/// Where the figures of a node come from. Asked once per scrape, on the scraping task: it must
/// read a snapshot that already exists and neither block nor wait.
pub trait MetricsSource: fmt::Debug + Send + Sync + 'static {
    /// Adds every figure to `samples`. One metric name is declared once.
    fn collect(&self, samples: &mut Samples);
}

/// How a figure behaves over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows while the process lives. The text form appends `_total` to its name.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// The figures of one scrape, in the order they were declared.
#[derive(Debug, Default)]
pub struct Samples {
    families: Vec<Family>,
}

#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricKind,
    points: Vec<(Labels, f64)>,
}

/// Names and values; the encoder escapes the values.
type Labels = Vec<(&'static str, String)>;

impl Samples {
    /// A counter without labels. `name` has no `_total`.
    pub fn counter(&mut self, name: &'static str, help: &'static str, value: u64) {
        self.family(MetricKind::Counter, name, help, [(Vec::new(), as_f64(value))]);
    }

    /// A gauge without labels.
    pub fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.family(MetricKind::Gauge, name, help, [(Vec::new(), value)]);
    }

    /// One metric with a value per label set, such as one per shard. Labels must come from a
    /// bounded set (shards, tiers, error codes), never from clients. A family without points is
    /// left out of the text.
    pub fn family(
        &mut self,
        kind: MetricKind,
        name: &'static str,
        help: &'static str,
        points: impl IntoIterator<Item = (Vec<(&'static str, String)>, f64)>,
    ) {
        let points = points.into_iter().collect();
        self.families.push(Family { name, help, kind, points });
    }
}

/// Counters past 2^53 lose their last digits, which a rate over a scrape interval does not show.
#[expect(clippy::cast_precision_loss, reason = "the text format's numbers are f64 to its readers")]
fn as_f64(value: u64) -> f64 {
    value as f64
}

/// A node's registry: what the source says, plus the process itself.
#[derive(Debug)]
pub(crate) struct MetricsPage {
    registry: Registry,
}

impl MetricsPage {
    /// The text format of [`MetricsPage::render`].
    pub(crate) const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    pub(crate) fn new(source: Arc<dyn MetricsSource>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ScrapeCollector { source: Arc::new(ProcessMetrics) }));
        registry.register_collector(Box::new(ScrapeCollector { source }));
        Self { registry }
    }

    pub(crate) fn render(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

/// Asks a source when the registry is encoded, so nothing is kept between scrapes.
#[derive(Debug)]
struct ScrapeCollector {
    source: Arc<dyn MetricsSource>,
}

impl Collector for ScrapeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let mut samples = Samples::default();
        self.source.collect(&mut samples);
        for family in samples.families.iter().filter(|family| !family.points.is_empty()) {
            let kind = match family.kind {
                MetricKind::Counter => MetricType::Counter,
                MetricKind::Gauge => MetricType::Gauge,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for (labels, value) in &family.points {
                if labels.is_empty() {
                    encode_point(&mut metric, family.kind, *value)?;
                } else {
                    encode_point(&mut metric.encode_family(labels)?, family.kind, *value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_point(metric: &mut MetricEncoder<'_>, kind: MetricKind, value: f64) -> fmt::Result {
    match kind {
        MetricKind::Counter => metric.encode_counter::<NoLabelSet, _, f64>(&value, None),
        MetricKind::Gauge => metric.encode_gauge(&value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct TwoShards;

    impl MetricsSource for TwoShards {
        fn collect(&self, samples: &mut Samples) {
            samples.counter("railgun_published_records", "Records committed", 7);
            samples.gauge("railgun_sessions", "Connected clients", 2.0);
            samples.family(
                MetricKind::Gauge,
                "railgun_hot_bytes",
                "Log bytes above the purge point",
                [
                    (vec![("shard", "1".to_owned())], 64.0),
                    (vec![("shard", "a\"b\\c\nd".to_owned())], 0.5),
                ],
            );
            samples.family(MetricKind::Counter, "railgun_unused", "Nothing yet", []);
        }
    }

    #[test]
    fn text_holds_every_sample_once_with_type_help_and_escaped_labels() {
        let page = MetricsPage::new(Arc::new(TwoShards)).render().unwrap();
        for line in [
            "# HELP railgun_published_records Records committed",
            "# TYPE railgun_published_records counter",
            "railgun_published_records_total 7.0",
            "# TYPE railgun_sessions gauge",
            "railgun_sessions 2.0",
            "railgun_hot_bytes{shard=\"1\"} 64.0",
            r#"railgun_hot_bytes{shard="a\"b\\c\nd"} 0.5"#,
        ] {
            assert_eq!(page.lines().filter(|l| *l == line).count(), 1, "{line} in\n{page}");
        }
        assert!(!page.contains("railgun_unused"), "a family without points is left out");
        assert!(page.ends_with("# EOF\n"));
    }
}
