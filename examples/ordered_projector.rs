//! A projector: one active member of an exclusive group takes all messages of a stream in order and writes
//! what follows from them somewhere else. Start it twice: the second one takes over when the first one ends.
//!
//! Another one may be active before the first one knows it is not. So whatever is written carries the
//! fencing token, and who takes it refuses lower ones than the highest it has seen.
//!
//! `cargo run --example ordered_projector -- [SERVER]`, with a stream `orders`; the CA's file in RAILGUN_CA.

use std::env;
use std::error::Error;

use railgun_client::{
    Client, ClientOptions, GroupEvent, GroupName, GroupPatch, Offset, StartPosition, StreamName,
};

/// What is written to: a table of a database, of which a row is changed by
/// `update … set … where token <= $token and next_offset = $offset`.
#[derive(Debug, Default)]
struct Projection {
    token: u32,
    next_offset: Offset,
    bytes: usize,
}

impl Projection {
    /// `false`: whoever writes is not the active member any more.
    fn add(&mut self, token: u32, offset: Offset, value: &[u8]) -> bool {
        if token < self.token {
            return false;
        }
        self.token = token;
        // A message may come twice: what is in is left out.
        if offset >= self.next_offset {
            self.bytes += value.len();
            self.next_offset = offset.plus(1);
        }
        true
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = env::args().nth(1).unwrap_or_else(|| "localhost:7410".to_owned());
    let mut options = ClientOptions::new(server);
    if let Some(file) = env::var_os("RAILGUN_CA") {
        options.ca_pem = Some(std::fs::read(file)?);
    }
    let client = Client::connect(options).await?;
    let (stream, group) = (StreamName::new("orders")?, GroupName::new("projector")?);
    let builder = client.subscribe(stream).group(group).exclusive();
    let builder = builder.start(StartPosition::Earliest).create(GroupPatch::default());
    let mut projector = builder.open().await?;
    let mut projection = Projection::default();
    while let Some(event) = projector.next_batch().await? {
        let batch = match event {
            GroupEvent::Delivery(batch) => batch,
            GroupEvent::Active { fencing_token } => {
                println!("active, with token {fencing_token}");
                continue;
            }
            news => {
                println!("{news:?}");
                continue;
            }
        };
        let token = batch.fencing_token().unwrap_or(0);
        let mut records = batch.records();
        let is_ours = records.all(|record| projection.add(token, record.offset, record.value));
        drop(records);
        if is_ours {
            // In order: what is behind a message that fails does not come before it is settled.
            batch.ack();
            println!("{projection:?}");
        } else {
            eprintln!("another member is the active one");
            break;
        }
    }
    client.close().await;
    Ok(())
}
