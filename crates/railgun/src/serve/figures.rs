//! The node's figures for `/metrics`.

use std::sync::Arc;

use railgun_broker::{Broker, ShardFigures};
use railgun_http::{MetricKind, MetricsSource, Samples};
use railgun_net::{ClientFigures, PoolFigures};
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
        let up = if broker.is_some() { 1.0 } else { 0.0 };
        samples.gauge("railgun_up", "Whether the broker has started", up);
        if let Some(broker) = broker {
            let knows_bucket = if broker.knows_bucket() { 1.0 } else { 0.0 };
            samples.gauge(
                "railgun_bucket_known",
                "Whether the bucket has said since the start that it is the cluster's",
                knows_bucket,
            );
            clients(samples, &broker.clients());
            shards(samples, &broker.figures());
            if let Some(off_us) = broker.clock_off_us() {
                samples.gauge(
                    "railgun_clock_offset_seconds",
                    "This node's clock less the median of the cluster's",
                    off_us as f64 / 1e6,
                );
            }
        }
    }
}

/// What clients take.
fn clients(samples: &mut Samples, clients: &ClientFigures) {
    let count = |count: usize| count as f64;
    samples.gauge("railgun_connections", "Connections of clients", count(clients.connections));
    samples.gauge(
        "railgun_connections_strangers",
        "Connections that have not said who they are",
        count(clients.strangers),
    );
    samples.counter(
        "railgun_connections_refused",
        "Clients refused because there were too many",
        clients.refused_total as u64,
    );
    let pools = [("frames", &clients.frames), ("records", &clients.records)];
    let mut family = |name, help, value: fn(&PoolFigures) -> usize| {
        let point = |(pool, figures): (&str, &PoolFigures)| {
            (vec![("pool", pool.to_owned())], count(value(figures)))
        };
        samples.family(MetricKind::Gauge, name, help, pools.map(point));
    };
    family(
        "railgun_clients_bytes",
        "Memory that clients share and take: frames on their way in, records on their way out",
        |pool| pool.bytes,
    );
    family("railgun_clients_bytes_max", "Memory that clients share", |pool| pool.bytes_max);
    family("railgun_clients_waiting", "QUIC streams that wait for that memory", |pool| {
        pool.waiting
    });
}

/// Name, what it tells, and which figure it is.
type ShardGauge = (&'static str, &'static str, fn(&ShardFigures) -> f64);

/// All consumer groups of a shard together: a group's name is no label, for clients make them.
const GROUP_GAUGES: [ShardGauge; 10] = [
    ("railgun_shard_groups", "Consumer groups", |s| s.groups.groups as f64),
    (
        "railgun_shard_groups_paused",
        "Consumer groups that an operator, or too many dead letters, has paused",
        |s| s.groups.paused as f64,
    ),
    (
        "railgun_shard_groups_stalled",
        "Consumer groups that get nothing new before some of what is un-settled is settled",
        |s| s.groups.stalled as f64,
    ),
    (
        "railgun_shard_group_lag_max",
        "Messages that are not settled, of the group that has most of them",
        |s| s.groups.lag_max as f64,
    ),
    ("railgun_shard_group_members", "Members of groups that are connected here", |s| {
        s.groups.members as f64
    }),
    ("railgun_shard_group_leased", "Messages that members have and have not settled", |s| {
        s.groups.leased as f64
    }),
    ("railgun_shard_group_delayed", "Messages that wait for their next attempt", |s| {
        s.groups.delayed as f64
    }),
    ("railgun_shard_group_dying", "Messages that are about to become dead letters", |s| {
        s.groups.dying as f64
    }),
    ("railgun_shard_group_parked", "Messages that wait for an operator", |s| {
        s.groups.parked as f64
    }),
    ("railgun_shard_group_dead", "Messages that are dead letters and can be redriven", |s| {
        s.groups.dead as f64
    }),
];

/// One family per figure, one point per shard.
fn shards(samples: &mut Samples, shards: &[ShardFigures]) {
    let mut family = |kind, name, help, value: fn(&ShardFigures) -> f64| {
        let label = |shard: &ShardFigures| vec![("shard", shard.shard.to_string())];
        samples.family(kind, name, help, shards.iter().map(|shard| (label(shard), value(shard))));
    };
    use MetricKind::{Counter, Gauge};
    family(Gauge, "railgun_shard_serving", "Whether this node leads the shard", |s| {
        f64::from(u8::from(s.serving))
    });
    family(Gauge, "railgun_shard_applied_index", "Log index applied", |s| s.applied as f64);
    family(
        Gauge,
        "railgun_shard_floor_index",
        "Log index at and below which everything is in the bucket",
        |s| s.floor as f64,
    );
    family(Gauge, "railgun_shard_hot_bytes", "Log bytes above the floor", |s| s.hot_bytes as f64);
    family(Gauge, "railgun_shard_hot_bytes_max", "Hot budget of the shard", |s| {
        s.hot_bytes_max as f64
    });
    family(
        Gauge,
        "railgun_shard_waiting_bytes",
        "Bytes of records and their ids that are not in the bucket yet",
        |s| (s.waiting.open + s.waiting.closed + s.waiting.planned) as f64,
    );
    family(Gauge, "railgun_shard_log_time_seconds", "Log time of the last entry", |s| {
        s.log_time.0 as f64 / 1e6
    });
    family(Gauge, "railgun_shard_streams", "Streams, tombstones included", |s| s.streams as f64);
    family(Gauge, "railgun_shard_producers", "Producers whose results are kept", |s| {
        s.producers as f64
    });
    family(Gauge, "railgun_shard_ids", "Message ids held in ID time boxes", |s| s.ids as f64);
    family(
        Gauge,
        "railgun_shard_ids_window_ratio",
        "Least part that is left of a stream's ID time box, where ids were forgotten before their time",
        |s| s.ids_window,
    );
    family(Gauge, "railgun_shard_objects", "Objects in the bucket", |s| s.objects as f64);
    for (name, help, value) in GROUP_GAUGES {
        family(Gauge, name, help, value);
    }
    family(Gauge, "railgun_shard_offload_failing", "Whether uploads fail now", |s| {
        f64::from(u8::from(s.offload_failing))
    });
    family(Counter, "railgun_shard_entries", "Log entries with records applied", |s| {
        s.entries_total as f64
    });
    family(Counter, "railgun_shard_records", "Records appended", |s| s.records_total as f64);
    family(Counter, "railgun_shard_record_bytes", "Encoded bytes of records appended", |s| {
        s.record_bytes_total as f64
    });
    family(
        Counter,
        "railgun_shard_duplicates",
        "Records not appended, as they had been before under the same id",
        |s| s.duplicates_total as f64,
    );
    family(
        Counter,
        "railgun_shard_appends_refused",
        "Append requests refused by the hot budget or a full disk",
        |s| s.refused_total as f64,
    );
}
