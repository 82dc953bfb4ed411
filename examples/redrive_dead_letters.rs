//! Looks through the dead letters of a group, and has those delivered again whose failure is over: to this
//! group alone, as if they had never failed (DL-7).
//!
//! `cargo run --example redrive_dead_letters -- STREAM GROUP WORD [SERVER]` redrives those whose last error has
//! the word in it; the CA's file in RAILGUN_CA.

use std::env;
use std::error::Error;

use railgun_client::{Client, ClientOptions, DeadLetters, GroupName, OffsetRange, StreamName};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [stream, group, word, server @ ..] = args.as_slice() else {
        return Err("redrive_dead_letters STREAM GROUP WORD [SERVER]".into());
    };
    let (stream, group) = (StreamName::new(stream)?, GroupName::new(group)?);
    let mut options = ClientOptions::new(server.first().map_or("localhost:7410", String::as_str));
    if let Some(file) = env::var_os("RAILGUN_CA") {
        options.ca_pem = Some(std::fs::read(file)?);
    }
    let client = Client::connect(options).await?;
    let mut letters = DeadLetters::open(&client, &stream, &group).await?;
    let mut chosen = Vec::new();
    while let Some(letter) = letters.next().await? {
        let error = letter.last_error.as_deref().unwrap_or("");
        println!(
            "{}: {} after {} attempts: {error}",
            letter.offset, letter.reason, letter.attempts
        );
        if error.contains(word.as_str()) {
            chosen.push(OffsetRange::single(letter.offset));
        }
    }
    // With no range at all, all of them would be meant.
    if !chosen.is_empty() {
        chosen.sort_unstable();
        let redriven = client.admin().redrive(&stream, &group, &chosen).await?;
        println!("{redriven} are delivered again");
    }
    client.close().await;
    Ok(())
}
