//! `railgun bench e2e`.

use std::sync::Arc;
use std::time::Duration;

use railgun_client::{Client, Event, StartPosition, Subscription};
use tokio::time::Instant;

use super::payload::{Payloads, Sequence};
use super::publish::{Ids, send};
use super::report::{Latencies, Report};
use super::{READ_AT_ONCE, Schedule, Workload};
use crate::exit::{CommandResult, Exit, Failure};
use crate::explain;
use crate::rate::Rate;
use crate::server::ServerArgs;

/// Time for the last messages to arrive at a reader.
const TAIL_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, clap::Args)]
pub(super) struct E2eArgs {
    #[command(flatten)]
    workload: Workload,
    /// Messages per second; latency counts from when each was due
    #[arg(long, value_name = "N", default_value = "1000")]
    rate: Rate,
}

pub(super) async fn run(args: E2eArgs, server: &ServerArgs) -> CommandResult {
    check_streams(args.workload.streams)?;
    server
        .following(&args.workload.leaders)
        .with_client(async |client| measure(args, client).await)
        .await
}

/// All streams are read from the beginning to the end of the run.
fn check_streams(streams: u32) -> Result<(), Failure> {
    if streams > READ_AT_ONCE {
        let text = format!("--streams {streams}: at most {READ_AT_ONCE} are read at a time");
        let next = format!("--streams {READ_AT_ONCE}, or railgun bench publish, which takes more");
        return Err(Failure::new(Exit::Usage, text).next(next));
    }
    Ok(())
}

async fn measure(args: E2eArgs, client: &Client) -> CommandResult {
    let workload = &args.workload;
    let names = workload.make_streams(client, false).await?;
    let multi = client.multi_publisher().open();
    let (mut publishers, mut subscriptions) = (Vec::new(), Vec::new());
    for name in names {
        let subscription = client.subscribe(name.clone()).start(StartPosition::Latest).open().await;
        subscriptions.push(subscription.map_err(|error| explain::subscribe(&error))?);
        publishers.push(multi.bind(name).await.map_err(|error| explain::open(&error))?);
    }
    let payloads = Arc::new(Payloads::new(workload.size()));
    let schedule = Schedule::new(workload, Some(args.rate));
    let began = schedule.began;
    let (stop, stopped) = tokio::sync::watch::channel(None);
    let readers: Vec<_> = subscriptions
        .into_iter()
        .enumerate()
        .map(|(index, subscription)| {
            let reader = Reader {
                subscription,
                index: index as u64,
                streams: publishers.len() as u64,
                payloads: Arc::clone(&payloads),
                began,
                messages: stopped.clone(),
            };
            tokio::spawn(reader.run())
        })
        .collect();
    let mut value = Vec::new();
    let mut number = 0;
    while let Some(due) = schedule.due(number) {
        schedule.wait(due);
        let sent_us = due.duration_since(began).as_micros() as u64;
        let _ticket =
            send(workload, &publishers, &payloads, number, sent_us, Ids::NONE, &mut value).await?;
        number += 1;
    }
    stop.send_replace(Some(number));
    multi.close().await;
    for publisher in &publishers {
        publisher.flush().await.map_err(|error| explain::publish(&error, publisher.stream()))?;
    }
    let mut latencies = Latencies::new()?;
    for reader in readers {
        let late = || Failure::new(Exit::Failed, "a reader did not get every message in time");
        let read = tokio::time::timeout(TAIL_TIMEOUT, reader).await.map_err(|_| late())?;
        latencies.merge(&read.map_err(|_| late())??);
    }
    let elapsed = began.elapsed();
    let report = Report {
        workload: "e2e",
        streams: publishers.len(),
        messages: number,
        bytes: number * workload.size() as u64,
        elapsed,
        latencies: Some(latencies),
    };
    report.print(workload.listing)
}

/// Times the messages of one stream.
struct Reader {
    subscription: Subscription,
    /// The stream's place among `streams`.
    index: u64,
    streams: u64,
    payloads: Arc<Payloads>,
    began: Instant,
    /// Messages to all streams, once they are all sent.
    messages: tokio::sync::watch::Receiver<Option<u64>>,
}

impl Reader {
    async fn run(mut self) -> Result<Latencies, Failure> {
        let mut latencies = Latencies::new()?;
        let mut sequence = Sequence::default();
        let mut received = 0;
        loop {
            let sent = *self.messages.borrow_and_update();
            let expected = sent.map(|sent| (sent + self.streams - 1 - self.index) / self.streams);
            if expected.is_some_and(|expected| received >= expected) {
                return Ok(latencies);
            }
            let event = tokio::select! {
                event = self.subscription.next_batch() => event,
                Ok(()) = self.messages.changed(), if sent.is_none() => continue,
            };
            let event = event.map_err(|error| explain::subscribe(&error))?;
            let now = self.began.elapsed();
            let Some(Event::Data(delivery)) = event else { continue };
            for record in delivery.records() {
                let stamp = self.payloads.check(record.value).and_then(|stamp| {
                    sequence.check(stamp.sequence)?;
                    Ok(stamp)
                });
                let stamp = stamp.map_err(|error| {
                    let text = format!("the record at offset {} is wrong: {error}", record.offset);
                    Failure::new(Exit::Failed, text)
                })?;
                latencies.record(now.saturating_sub(Duration::from_micros(stamp.sent_us)));
                received += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_streams_than_a_connection_has_room_for() {
        check_streams(READ_AT_ONCE).expect("that many are read");
        let refused = check_streams(READ_AT_ONCE + 1).expect_err("one too many");
        assert_eq!(refused.exit(), Exit::Usage);
        assert!(refused.to_string().contains("at most 1000"), "{refused}");
    }
}
