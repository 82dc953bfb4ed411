//! A publisher whose messages have ids, and that sends some of them again, as somebody does who does not
//! know what became of them: each is in the stream once (DD-1, DD-2).

use railgun_client::{PublishError, Published, StreamName, StreamUid, Ticket};

use super::super::history::MessageId;
use super::{Actor, publisher};

/// Of the last so many one is sent again.
const RECENT: usize = 100;

pub(super) async fn run(actor: Actor, (name, stream): (StreamName, StreamUid)) {
    let mut recent = Vec::new();
    while actor.goes_on() {
        let lane = actor.history.lane(false);
        // Two, so that a message is on its way twice at a time. Each has a client of its own: which of two
        // learns first that their connection is lost is nobody's seed.
        let mut publishers = Vec::new();
        for _ in 0..2 {
            let Some(client) = actor.connect().await else { return };
            match client.publisher(name.clone()).ordered(false).open().await {
                Ok(publisher) => publishers.push(publisher),
                Err(error) => publisher::judge_open(&actor, &error),
            }
        }
        for _ in 0..actor.draw(3..20) {
            if publishers.is_empty() || !actor.goes_on() {
                break;
            }
            let mut open: Vec<(MessageId, Ticket)> = Vec::new();
            for _ in 0..actor.draw(1..20) {
                let (id, message) = match recent.len() {
                    count @ 1.. if actor.percent(40) => {
                        let id = recent[actor.draw(0..count as u64) as usize];
                        (id, actor.history.again(id))
                    }
                    _ => {
                        let bytes = actor.draw(8..300) as usize;
                        actor.history.boxed_message(stream, lane, bytes)
                    }
                };
                recent.push(id);
                let publisher = &publishers[actor.draw(0..publishers.len() as u64) as usize];
                match publisher.send(message).await {
                    Ok(ticket) => open.push((id, ticket)),
                    Err(error) => {
                        let error = PublishError::NotSent { reason: error.to_string() };
                        actor.history.boxed_ended(id, Err(&error));
                    }
                }
            }
            for (id, ticket) in open {
                ended(&actor, id, ticket.await);
            }
            let known = recent.len().saturating_sub(RECENT);
            recent.drain(..known);
            actor.pause(1_000).await;
        }
        actor.pause(500).await;
    }
}

fn ended(actor: &Actor, id: MessageId, ended: Result<Published, PublishError>) {
    let is_known = ended.as_ref().is_ok_and(|published| published.duplicate);
    actor.trace.count(|counts| counts.duplicates += u64::from(is_known));
    actor.history.boxed_ended(id, ended.as_ref().copied());
    if let Err(error) = ended {
        publisher::judge_end(actor, id, &error);
    }
}
