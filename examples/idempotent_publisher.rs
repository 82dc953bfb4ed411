//! A publisher that may be started again after a crash and publish what it had published before: each message
//! has an id that is made of what it says, so that a stream that keeps ids for a while takes it once (DD-1).
//! Within one run nothing comes twice, with ids or without: a publisher repeats what was un-answered under
//! the same sequence (PQ-1).
//!
//! `cargo run --example idempotent_publisher -- FILE [SERVER]`, with a stream `orders`; the CA's file in
//! RAILGUN_CA.

use std::env;
use std::error::Error;
use std::io::{BufRead as _, BufReader};

use railgun_client::{Client, ClientOptions, Message, StreamName};

/// Messages whose outcome is waited for at a time.
const IN_FLIGHT: usize = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = env::args().nth(1).ok_or("which file? Each of its lines is a message")?;
    let server = env::args().nth(2).unwrap_or_else(|| "localhost:7410".to_owned());
    let mut options = ClientOptions::new(server);
    if let Some(file) = env::var_os("RAILGUN_CA") {
        options.ca_pem = Some(std::fs::read(file)?);
    }
    let client = Client::connect(options).await?;
    let publisher = client.publisher(StreamName::new("orders")?).open().await?;
    let mut tickets = Vec::with_capacity(IN_FLIGHT);
    for (number, line) in BufReader::new(std::fs::File::open(&file)?).lines().enumerate() {
        // What is the same in the next run: the file and the line.
        let message = Message::new(line?).with_id(format!("{file}:{number}"));
        tickets.push(publisher.send(message).await?);
        if tickets.len() == IN_FLIGHT {
            for ticket in tickets.drain(..) {
                ticket.await?;
            }
        }
    }
    for ticket in tickets {
        ticket.await?;
    }
    println!("{} are in the stream", publisher.progress().published);
    publisher.close().await?;
    client.close().await;
    Ok(())
}
