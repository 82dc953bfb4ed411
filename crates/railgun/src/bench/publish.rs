//! `railgun bench publish`.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use railgun_client::{Client, Publisher, RecordDraft, Ticket};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::payload::{Payloads, Stamp};
use super::report::{Latencies, Report};
use super::{Schedule, Workload};
use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::rate::Rate;
use crate::runtime::{block_on, block_on_one_thread};
use crate::server::ServerArgs;

/// Without a rate one message of this many is timed: a ticket that is awaited costs time itself.
const SAMPLE_EVERY: u64 = 64;
/// Tickets on their way to being timed.
const SAMPLES_WAITING: usize = 1 << 16;
/// Bytes of a message beside its value, as the publisher counts them.
const OVERHEAD_BYTES: usize = 32;

#[derive(Debug, clap::Args)]
pub(super) struct PublishArgs {
    #[command(flatten)]
    workload: Workload,
    /// Messages per second; latency then counts from when each was due
    #[arg(long, value_name = "N")]
    rate: Option<Rate>,
    /// Un-answered messages at most; 1 is one at a time [default: 32 MiB of them]
    #[arg(long, value_name = "N")]
    depth: Option<u32>,
    /// Give each message an id; a stream that is made for it then has an ID time box of 2m, which
    /// forgets the oldest ids when it is full
    #[arg(long)]
    ids: bool,
    /// Un-answered frames at most: 1 to 8
    #[arg(long, value_name = "N", default_value_t = 8,
        value_parser = clap::value_parser!(u8).range(1..=8))]
    batch_depth: u8,
}

impl PublishArgs {
    /// One message at a time runs in one thread, where an answer wakes nobody else.
    pub(super) fn run(self, server: &ServerArgs) -> CommandResult {
        if self.depth == Some(1) && self.rate.is_none() {
            block_on_one_thread(run(self, server))
        } else {
            block_on(run(self, server))
        }
    }
}

async fn run(args: PublishArgs, server: &ServerArgs) -> CommandResult {
    server
        .following(&args.workload.leaders)
        .with_client(async |client| measure(args, client).await)
        .await
}

async fn measure(args: PublishArgs, client: &Client) -> CommandResult {
    let workload = &args.workload;
    let names = workload.make_streams(client, args.ids).await?;
    let ids = Ids::new(args.ids);
    let mut builder = client.multi_publisher().max_in_flight(args.batch_depth.into());
    if let Some(depth) = args.depth {
        builder = builder.buffer_bytes((workload.size() + OVERHEAD_BYTES) * depth.max(1) as usize);
    }
    let multi = builder.open();
    let mut publishers = Vec::with_capacity(names.len());
    for name in names {
        publishers.push(multi.bind(name).await.map_err(|error| explain::open(&error))?);
    }
    let payloads = Payloads::new(workload.size());
    let schedule = Schedule::new(workload, args.rate);
    let (messages, latencies) = if args.depth == Some(1) && args.rate.is_none() {
        one_at_a_time(workload, &publishers, &payloads, &schedule, ids).await?
    } else {
        pipelined(workload, &publishers, &payloads, &schedule, ids).await?
    };
    let elapsed = schedule.began.elapsed();
    multi.close().await;
    for publisher in &publishers {
        publisher.flush().await.map_err(|error| explain::publish(&error, publisher.stream()))?;
    }
    let bytes = messages * workload.size() as u64;
    let streams = publishers.len();
    let latencies = Some(latencies);
    let report = Report { workload: "publish", streams, messages, bytes, elapsed, latencies };
    report.print(workload.listing)
}

async fn one_at_a_time(
    workload: &Workload,
    publishers: &[Publisher],
    payloads: &Payloads,
    schedule: &Schedule,
    ids: Ids,
) -> Result<(u64, Latencies), Failure> {
    let mut latencies = Latencies::new()?;
    let mut value = Vec::new();
    let mut number = 0;
    while let Some(began) = schedule.due(number) {
        let ticket = send(workload, publishers, payloads, number, 0, ids, &mut value).await?;
        let stream = publishers[0].stream();
        ticket.await.map_err(|error| explain::publish(&error, stream))?;
        latencies.record(began.elapsed());
        number += 1;
    }
    Ok((number, latencies))
}

/// Ends when every message is answered.
async fn pipelined(
    workload: &Workload,
    publishers: &[Publisher],
    payloads: &Payloads,
    schedule: &Schedule,
    ids: Ids,
) -> Result<(u64, Latencies), Failure> {
    let (samples, mut sampled) = mpsc::channel::<(Ticket, Instant)>(SAMPLES_WAITING);
    let mut latencies = Latencies::new()?;
    let timing = tokio::spawn(async move {
        while let Some((ticket, due)) = sampled.recv().await {
            if ticket.await.is_ok() {
                latencies.record(due.elapsed());
            }
        }
        latencies
    });
    let every = if schedule.rate.is_some() { 1 } else { SAMPLE_EVERY };
    let mut value = Vec::new();
    let (mut number, mut last) = (0, None);
    while let Some(due) = schedule.due(number) {
        schedule.wait(due);
        let ticket = send(workload, publishers, payloads, number, 0, ids, &mut value).await?;
        if number % every == 0 {
            // A full channel loses a sample of many, and does not hold up the sender.
            drop(samples.try_send((ticket, due)));
        } else {
            last = Some(ticket);
        }
        number += 1;
    }
    drop((samples, last));
    for publisher in publishers {
        publisher.flush().await.map_err(|error| explain::publish(&error, publisher.stream()))?;
    }
    let timed = tokio::time::timeout(Duration::from_secs(60), timing).await;
    match timed {
        Ok(Ok(latencies)) => Ok((number, latencies)),
        _ => Err(Failure::new(Exit::Failed, "the latencies were not collected")),
    }
}

/// The ids of a run's messages: 16 bytes each, of which another run has others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    /// What all of this run have; `None`: its messages have none.
    run: Option<u64>,
}

impl Ids {
    /// Messages without ids.
    pub(super) const NONE: Self = Self { run: None };

    fn new(wanted: bool) -> Self {
        // The standard library's hash tables are keyed at random, anew in each process.
        let random = || RandomState::new().build_hasher().finish();
        Self { run: wanted.then(random) }
    }

    fn of(self, number: u64) -> Option<[u8; 16]> {
        let run = u128::from(self.run?) << 64;
        Some((run | u128::from(number)).to_be_bytes())
    }
}

/// Sends message `number` to its stream.
pub(super) async fn send(
    workload: &Workload,
    publishers: &[Publisher],
    payloads: &Payloads,
    number: u64,
    sent_us: u64,
    ids: Ids,
    value: &mut Vec<u8>,
) -> Result<Ticket, Failure> {
    let streams = publishers.len() as u64;
    let stamp = Stamp { sequence: number / streams, sent_us };
    payloads.write(workload.payload, workload.size(), stamp, value);
    let publisher = &publishers[(number % streams) as usize];
    let id = ids.of(number);
    let id = id.as_ref().map(|id| &id[..]);
    let draft = RecordDraft { value, id, ..RecordDraft::default() };
    publisher.send_record(&draft).await.map_err(|error| explain::send(&error))
}
