//! A pool of workers: members of one balanced group share the messages of a stream out, and each message is
//! done by one of them. What fails is tried again by another one, and becomes a dead letter in the end.
//!
//! `cargo run --example worker_pool -- [SERVER [WORKERS]]`, with a stream `orders`; the CA's file in RAILGUN_CA.

use std::env;
use std::error::Error;
use std::time::Duration;

use railgun_client::{
    Client, ClientOptions, Delivery, GroupEvent, GroupName, GroupPatch, StartPosition, StreamName,
};
use tokio::task::JoinSet;

/// Messages that one worker has at a time.
const CREDIT: u32 = 16;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let server = args.next().unwrap_or_else(|| "localhost:7410".to_owned());
    let workers = args.next().map_or(Ok(4), |workers| workers.parse())?;
    let mut options = ClientOptions::new(server);
    if let Some(file) = env::var_os("RAILGUN_CA") {
        options.ca_pem = Some(std::fs::read(file)?);
    }
    let client = Client::connect(options).await?;
    let mut pool = JoinSet::new();
    for number in 0..workers {
        pool.spawn(work(client.clone(), number));
    }
    while let Some(ended) = pool.join_next().await {
        if let Err(error) = ended? {
            eprintln!("a worker ended: {error}");
        }
    }
    client.close().await;
    Ok(())
}

async fn work(client: Client, number: usize) -> Result<(), Box<dyn Error + Send + Sync>> {
    let (stream, group) = (StreamName::new("orders")?, GroupName::new("billing")?);
    let builder = client.subscribe(stream).group(group);
    // Whichever worker comes first makes the group.
    let builder = builder.start(StartPosition::Earliest).create(GroupPatch::default());
    let mut billing = builder.credit(CREDIT).open().await?;
    while let Some(event) = billing.next().await? {
        match event {
            GroupEvent::Delivery(delivery) => match bill(number, &delivery).await {
                Ok(()) => delivery.ack(),
                Err(Failure::Broken(why)) => delivery.reject(&why),
                Err(Failure::Busy) => delivery.nack_after(Duration::from_secs(2)),
            },
            news => eprintln!("worker {number}: {news:?}"),
        }
    }
    Ok(())
}

enum Failure {
    /// It can never be done: a dead letter at once.
    Broken(String),
    /// Later, perhaps.
    Busy,
}

/// The work. It may be done twice for one message: stream and offset name it, in a database for one.
async fn bill(worker: usize, delivery: &Delivery) -> Result<(), Failure> {
    let text = std::str::from_utf8(&delivery.record.value);
    let text = text.map_err(|error| Failure::Broken(error.to_string()))?;
    if text.contains("busy") && delivery.attempt() == 1 {
        return Err(Failure::Busy);
    }
    println!("worker {worker}: {} attempt {}: {text}", delivery.offset(), delivery.attempt());
    Ok(())
}
