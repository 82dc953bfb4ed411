//! A stream that comes and goes: made, published to, read, deleted, made again under the same name.

use std::time::Duration;

use railgun_client::{
    AdminError, Client, ErrorCode, ShardId, StartPosition, StreamName, StreamUid, WireCode,
};

use super::super::history::End;
use super::reader::read_all;
use super::{Actor, admin, stream_name};

pub(super) async fn run(actor: Actor) {
    let name = stream_name("passing");
    let mut last = None;
    while actor.goes_on() {
        let Some(client) = actor.connect().await else { return };
        let made = match client.admin().create_if_absent(&name).await {
            Ok(made) => made.stream_uid,
            Err(error) => {
                admin::judge(&actor, &error);
                actor.pause(1000).await;
                continue;
            }
        };
        if last == Some(made) {
            let how = format_args!("{name} was deleted and is {made} again");
            actor.history.violated("identity", how);
        }
        actor.note(format_args!("stream {made} is there"));
        use_stream(&actor, &client, &name, made).await;
        actor.pause(4_000).await;
        if actor.percent(60) {
            let is_uploaded = actor.percent(60);
            if is_uploaded {
                upload(&actor, &client, &name).await;
            }
            // Until it is certain that it is gone; from the first attempt on nothing is promised.
            actor.history.deleted(made);
            last = delete(&actor, &client, &name, made).await.then_some(made);
            // Whoever says that nothing is wrong counts on leaders that stay.
            let is_calm = !actor.history.is_node_ill() || actor.checker.bucket().is_away();
            if is_uploaded && !is_calm && actor.percent(80) {
                let handed_over = hand_over(&actor, &client);
                drop(tokio::time::timeout(Duration::from_secs(2), handed_over).await);
            }
        }
    }
}

/// Until an upload of it is under way, perhaps.
async fn upload(actor: &Actor, client: &Client, name: &StreamName) {
    let (bucket, admin) = (actor.checker.bucket(), client.admin());
    bucket.delay_next_put(actor.percent(50));
    tokio::select! {
        biased;
        _ = admin.seal_stream(name, false, Duration::from_secs(10)) => {}
        () = bucket.until_put(name) => {}
        () = actor.pause(8_000) => {}
    }
    bucket.delay_next_put(false);
}

/// Has another node lead a shard, which does not wait for what the one before has on its way to the bucket.
/// Asks once.
async fn hand_over(actor: &Actor, client: &Client) {
    let admin = client.admin();
    let Ok(status) = admin.cluster_status().await else { return };
    let shard = ShardId(actor.draw(1..u64::from(status.data_shards) + 1) as u32);
    let Some(placed) = status.shards.iter().find(|it| it.shard == shard) else { return };
    let others = || placed.replicas.iter().filter(|it| Some(it.replica) != placed.leader);
    let Some(other) = others().nth(usize::from(actor.percent(50))) else { return };
    let answer = admin.transfer_leader(shard, other.replica.node()).await;
    actor.note(format_args!("node {} is to lead shard {shard}: {answer:?}", other.replica.node()));
}

async fn use_stream(actor: &Actor, client: &Client, name: &StreamName, stream: StreamUid) {
    let Ok(publisher) = client.publisher(name.clone()).open().await else { return };
    let lane = actor.history.lane(true);
    let mut open = Vec::new();
    for _ in 0..actor.draw(1..200) {
        let (id, message) = actor.history.message(stream, lane, actor.draw(8..300) as usize);
        match publisher.send(message).await {
            Ok(ticket) => open.push((id, ticket)),
            Err(_) => {
                actor.history.ended(id, End::Refused);
                break;
            }
        }
    }
    for (id, ticket) in open {
        let end = match ticket.await {
            Ok(published) => End::Published(published.offset, published.ts),
            Err(error) if error.is_definite() => End::Refused,
            Err(_) => End::Unknown,
        };
        actor.history.ended(id, end);
    }
    let reader = client.subscribe(name.clone()).start(StartPosition::Earliest).until_end();
    if let Ok(mut reader) = reader.open().await {
        // Its failures are those of the other readers, who judge them.
        let reading = read_all(actor, &mut reader, stream);
        drop(tokio::time::timeout(Duration::from_secs(60), reading).await);
    }
}

/// Whether the stream is certainly gone.
async fn delete(actor: &Actor, client: &Client, name: &StreamName, stream: StreamUid) -> bool {
    while actor.goes_on() {
        match client.admin().delete_stream(name).await {
            Ok(deleted) if deleted == stream => return true,
            Ok(deleted) => {
                let how = format_args!("{name} was {stream}, and {deleted} was deleted");
                actor.history.violated("identity", how);
                return false;
            }
            Err(AdminError::Refused(error))
                if error.code == WireCode::Known(ErrorCode::StreamNotFound) =>
            {
                return true;
            }
            Err(error) => {
                admin::judge(actor, &error);
                actor.pause(500).await;
            }
        }
    }
    false
}
