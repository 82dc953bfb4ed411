//! `railgun bench group`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use railgun_client::{
    Client, EnsureMode, EnsureOptions, GroupError, GroupEvent, GroupMode, GroupName, GroupPatch,
    GroupSubscription, StartPosition, StreamName,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::report::Report;
use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::output::table::Listing;
use crate::server::ServerArgs;

#[derive(Debug, clap::Args)]
pub(super) struct GroupArgs {
    /// The stream, with what `bench publish` has left there
    #[arg(long, value_name = "NAME", default_value = "bench")]
    stream: StreamName,
    /// The group. Made if absent, and begun anew
    #[arg(long, value_name = "NAME", default_value = "bench")]
    group: GroupName,
    /// Members, on one connection
    #[arg(long, value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    members: u32,
    /// Messages that each member may have un-settled
    #[arg(long, value_name = "N", default_value_t = 2_500,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    credit: u32,
    /// Messages that all members together may have un-settled
    #[arg(long, value_name = "N", default_value_t = 10_000,
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_in_flight: u32,
    /// One member after another gets everything, in order
    #[arg(long)]
    exclusive: bool,
    /// Ack each message by itself, instead of as many as come together
    #[arg(long)]
    each: bool,
    #[command(flatten)]
    listing: Listing,
}

pub(super) async fn run(args: GroupArgs, server: &ServerArgs) -> CommandResult {
    server.with_client(async |client| measure(args, client).await).await
}

async fn measure(args: GroupArgs, client: &Client) -> CommandResult {
    let admin = client.admin();
    let failed = |error: &_| explain::admin(error, Some(&args.stream));
    let stream = admin.describe_stream(&args.stream).await.map_err(|error| failed(&error))?;
    let mode = if args.exclusive { GroupMode::Exclusive } else { GroupMode::Balanced };
    let patch = GroupPatch {
        mode: Some(mode),
        max_in_flight: Some(args.max_in_flight),
        max_unsettled: Some(10 * args.max_in_flight),
        ..GroupPatch::default()
    };
    let options = EnsureOptions {
        mode: EnsureMode::Overwrite,
        allow_destructive: true,
        ..EnsureOptions::default()
    };
    let start = StartPosition::Earliest;
    let ensured = admin.ensure_group(&args.stream, &args.group, patch, start, options).await;
    ensured.map_err(|error| failed(&error))?;
    let reset = admin.reset_group(&args.stream, &args.group, start, true).await;
    reset.map_err(|error| failed(&error))?;
    let wanted = stream.next_offset.0.saturating_sub(stream.head.0);
    let began = Instant::now();
    let (taken, all) = (Arc::new(AtomicU64::new(0)), watch::Sender::new(false));
    let mut members = Vec::new();
    for _ in 0..args.members {
        let group = client.subscribe(args.stream.clone()).group(args.group.clone());
        let member = group.credit(args.credit).credit_bytes(64 << 20).open().await;
        let member = Member {
            subscription: member
                .map_err(|error| explain::group(&error, &args.stream, &args.group))?,
            taken: Arc::clone(&taken),
            wanted,
            each: args.each,
            all: all.clone(),
        };
        members.push(tokio::spawn(member.run()));
    }
    let mut bytes = 0;
    for member in members {
        let lost = |_| Failure::new(Exit::Failed, "a member has ended before its time");
        bytes += member.await.map_err(lost)??;
    }
    let elapsed = began.elapsed();
    let messages = taken.load(Ordering::Relaxed);
    let workload = if args.exclusive { "group, exclusive" } else { "group" };
    Report { workload, streams: 1, messages, bytes, elapsed, latencies: None }.print(args.listing)
}

/// Takes and acks messages, until all that there are were taken.
struct Member {
    subscription: GroupSubscription,
    /// Messages that members have taken.
    taken: Arc<AtomicU64>,
    wanted: u64,
    each: bool,
    /// They have taken all.
    all: watch::Sender<bool>,
}

impl Member {
    /// Bytes of the values. Returns when all acks are committed.
    async fn run(mut self) -> Result<u64, Failure> {
        let mut bytes = 0;
        let (stream, group) =
            (self.subscription.stream().clone(), self.subscription.group().clone());
        let failed = |error: GroupError| explain::group(&error, &stream, &group);
        let mut all = self.all.subscribe();
        loop {
            let event = tokio::select! {
                biased;
                event = self.subscription.next_batch() => event,
                _ = all.wait_for(|all| *all) => break,
            };
            let Some(event) = event.map_err(failed)? else { break };
            let GroupEvent::Delivery(batch) = event else { continue };
            bytes += batch.records().map(|record| record.value.len() as u64).sum::<u64>();
            let count = batch.len() as u64;
            if self.each {
                batch.into_deliveries().for_each(|delivery| delivery.ack());
            } else {
                batch.ack();
            }
            if self.taken.fetch_add(count, Ordering::Relaxed) + count >= self.wanted {
                self.all.send_replace(true);
            }
        }
        self.subscription.settled().await.map_err(failed)?;
        Ok(bytes)
    }
}
