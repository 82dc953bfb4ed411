//! Consumer groups of a node that runs: what `railgun bench group` does not measure.
//!
//! ```sh
//! export RAILGUN_SERVER=127.0.0.1:7410 RAILGUN_CA=railgun-data/ca/ca.pem
//! cargo bench -p railgun-benches --bench groups -- redelivery
//! cargo bench -p railgun-benches --bench groups -- many PID
//! cargo bench -p railgun-benches --bench groups -- idle PID
//! ```
//!
//! `redelivery`: from when the connection of a member closes until another one has its message. `many`: a
//! thousand groups on one stream with 50 messages a second. `idle`: ten thousand members of one group that get
//! nothing. PID is the node's, whose memory is looked at.

use std::error::Error;
use std::time::Duration;

use railgun_client::{
    Client, ClientOptions, EnsureOptions, GroupEvent, GroupName, GroupPatch, GroupSubscription,
    Message, StartPosition, StreamName,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const ROUNDS: usize = 300;
const GROUPS: usize = 1_000;
const GROUPS_PER_CLIENT: usize = 100;
const PER_SECOND: u64 = 50;
const MESSAGES: u64 = 20 * PER_SECOND;
const IDLE: usize = 10_000;
const IDLE_PER_CLIENT: usize = 1_000;

#[tokio::main]
async fn main() -> Outcome<()> {
    // Cargo passes `--bench`.
    let args: Vec<_> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["redelivery"] => redelivery().await,
        ["many", pid] => many(pid).await,
        ["idle", pid] => idle(pid).await,
        _ => Err("redelivery | many PID | idle PID".into()),
    }
}

async fn connect() -> Outcome<Client> {
    let server = std::env::var("RAILGUN_SERVER")?;
    let mut options = ClientOptions::new(server);
    options.ca_pem = Some(std::fs::read_to_string(std::env::var("RAILGUN_CA")?)?.into());
    Ok(Client::connect(options).await?)
}

/// Resident bytes of a process.
fn resident(pid: &str) -> Outcome<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

fn percentiles(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    let (p50, p99, max) = (at(50), at(99), at(100));
    println!("{name}: {} times, p50 {p50:.2?}, p99 {p99:.2?}, max {max:.2?}", times.len());
}

/// A stream of its own, without anything in it.
async fn fresh_stream(client: &Client, name: &str) -> Outcome<StreamName> {
    let name = StreamName::new(&format!("{name}-{}", std::process::id()))?;
    client.admin().create_if_absent(&name).await?;
    Ok(name)
}

async fn ensure(client: &Client, stream: &StreamName, group: &GroupName) -> Outcome<()> {
    let (patch, options) = (GroupPatch::default(), EnsureOptions::default());
    let start = StartPosition::Earliest;
    client.admin().ensure_group(stream, group, patch, start, options).await?;
    Ok(())
}

async fn member(
    client: &Client,
    stream: &StreamName,
    group: &GroupName,
) -> Outcome<GroupSubscription> {
    Ok(client.subscribe(stream.clone()).group(group.clone()).credit(100).open().await?)
}

async fn redelivery() -> Outcome<()> {
    let client = connect().await?;
    let (stream, group) = (fresh_stream(&client, "redelivery").await?, GroupName::new("g")?);
    ensure(&client, &stream, &group).await?;
    let publisher = client.publisher(stream.clone()).open().await?;
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let dies = connect().await?;
        let mut first = member(&dies, &stream, &group).await?;
        publisher.send(Message::new("m")).await?.await?;
        let Some(GroupEvent::Delivery(held)) = first.next().await? else {
            return Err("the first member got no message".into());
        };
        let mut second = member(&client, &stream, &group).await?;
        let begun = Instant::now();
        // Its end lingers for longer than the group takes.
        let closing = tokio::spawn(dies.close());
        let Some(GroupEvent::Delivery(again)) = second.next().await? else {
            return Err("the second member got no message".into());
        };
        times.push(begun.elapsed());
        closing.await?;
        again.ack_confirmed().await?;
        second.drain().await?;
        drop((first, held));
    }
    percentiles("redelivery after the close of a connection", times);
    Ok(())
}

async fn many(pid: &str) -> Outcome<()> {
    let client = connect().await?;
    let stream = fresh_stream(&client, "many").await?;
    let (base, mut members) = (Instant::now(), JoinSet::new());
    let mut consumer = client.clone();
    for number in 0..GROUPS {
        if number.is_multiple_of(GROUPS_PER_CLIENT) {
            consumer = connect().await?;
        }
        let group = GroupName::new(&format!("g{number}"))?;
        ensure(&consumer, &stream, &group).await?;
        let member = member(&consumer, &stream, &group).await?;
        members.spawn(take(consumer.clone(), member, base));
    }
    let publisher = client.publisher(stream).open().await?;
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(PER_SECOND)?);
    for _ in 0..MESSAGES {
        ticks.tick().await;
        let value = base.elapsed().as_micros().to_string();
        drop(publisher.send(Message::new(value)).await?);
    }
    let mut times = Vec::new();
    while let Some(taken) = members.join_next().await {
        times.extend(taken??);
    }
    percentiles("delivery to one of a thousand groups", times);
    println!("resident: {} MB", resident(pid)? / 1_000_000);
    Ok(())
}

/// Takes and acks all messages; how long each had been on its way.
async fn take(
    _client: Client,
    mut member: GroupSubscription,
    base: Instant,
) -> Outcome<Vec<Duration>> {
    let mut times = Vec::new();
    while (times.len() as u64) < MESSAGES {
        let Some(event) = member.next().await? else { break };
        let GroupEvent::Delivery(delivery) = event else { continue };
        let sent: u64 = std::str::from_utf8(&delivery.record.value)?.parse()?;
        times.push(base.elapsed().saturating_sub(Duration::from_micros(sent)));
        delivery.ack();
    }
    member.settled().await?;
    Ok(times)
}

async fn idle(pid: &str) -> Outcome<()> {
    let client = connect().await?;
    let (stream, group) = (fresh_stream(&client, "idle").await?, GroupName::new("g")?);
    ensure(&client, &stream, &group).await?;
    // What one has is there already.
    let mut kept = vec![(client.clone(), member(&client, &stream, &group).await?)];
    sleep(Duration::from_secs(2)).await;
    let before = resident(pid)?;
    for number in 0..IDLE {
        let client = match kept.last() {
            Some((client, _)) if number % IDLE_PER_CLIENT > 0 => client.clone(),
            _ => connect().await?,
        };
        let member = member(&client, &stream, &group).await?;
        kept.push((client, member));
    }
    sleep(Duration::from_secs(5)).await;
    let bytes = resident(pid)?.saturating_sub(before);
    println!("{IDLE} idle members: {} KiB each", bytes / (1 << 10) / IDLE as u64);
    Ok(())
}
