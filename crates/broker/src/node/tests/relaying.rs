//! Publishers at a node that does not lead: what they have of the way to the one that does.

use tokio::sync::Semaphore;

use super::cluster_rig::{Cluster, PATIENCE, SETTLED, ip};
use super::publishers::{frame, open};
use super::*;
use crate::replica::ProposeFailure;

/// A cluster with the stream "s", the node that leads its shard, and another.
struct Rig {
    cluster: Cluster,
    shard: ShardId,
    leader: usize,
    other: usize,
}

impl Rig {
    async fn start() -> Self {
        let mut cluster = Cluster::new(3);
        cluster.start(&[1, 2, 3]).await;
        cluster.node(1).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
        let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
        cluster.publish(1, "s", b"first").await;
        sleep(SETTLED).await;
        let leader = cluster.leader(1, shard).expect("somebody leads");
        Self { cluster, shard, leader, other: leader % 3 + 1 }
    }

    /// The places for relays from the other to the leader.
    fn places(&self) -> Arc<Semaphore> {
        let address = SocketAddr::from((ip(self.leader), 9_401)).to_string();
        let others = self.cluster.node(self.other).streams.routing().others.clone().unwrap();
        Arc::clone(others.ways.to(&address).places())
    }

    async fn enter(&self) -> (Connection, (FrameWriter, FrameReader)) {
        enter(&self.cluster.network, self.cluster.node(self.other)).await
    }
}

async fn answer(reader: &mut FrameReader) -> Result<u64, WireError> {
    let result = timeout(PATIENCE, reader.next_of::<v1::PublishResult>()).await.expect("in time");
    let item = result.unwrap().unwrap().items.remove(0);
    item.error.map_or(Ok(item.base_offset), |error| Err(error.into()))
}

#[tokio::test(start_paused = true)]
async fn publishers_of_a_connection_share_a_stream_while_they_publish() {
    let rig = Rig::start().await;
    let (places, all) = (rig.places(), rig.places().available_permits());
    let (connection, _control) = rig.enter().await;
    let mut publishers = Vec::new();
    for _ in 0..50 {
        publishers.push(open(&connection).await);
    }
    for round in 0..3 {
        for (writer, _) in &mut publishers {
            writer.send(frame(b"x")).await.unwrap();
        }
        let mut offsets = Vec::new();
        for (_, reader) in &mut publishers {
            offsets.push(answer(reader).await.unwrap());
        }
        offsets.sort_unstable();
        assert!(offsets.into_iter().eq(round * 50 + 1..=round * 50 + 50));
        assert_eq!(places.available_permits(), all - 1);
        // Nothing is kept for those that have nothing to say; they may have it again.
        sleep(Duration::from_secs(3)).await;
        assert_eq!(places.available_permits(), all);
    }
    // Nor where this node leads.
    let (writer, reader) = &mut publishers[0];
    writer.send(frame(b"x")).await.unwrap();
    answer(reader).await.unwrap();
    assert_eq!(places.available_permits(), all - 1);
    let transfer = v1::TransferLeader { shard: rig.shard.0, node_id: rig.other as u32 };
    rig.cluster.node(1).cluster_admin.transfer_leader(transfer).await.unwrap();
    writer.send(frame(b"x")).await.unwrap();
    answer(reader).await.unwrap();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(places.available_permits(), all);
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_owes_is_given_up_when_another_leads() {
    let rig = Rig::start().await;
    let (connection, _control) = rig.enter().await;
    let (mut writer, mut reader) = open(&connection).await;
    writer.send(frame(b"x")).await.unwrap();
    assert_eq!(answer(&mut reader).await.unwrap(), 1);
    for number in (1..=3).filter(|number| *number != rig.leader) {
        rig.cluster.disturbance.partition(ip(rig.leader), ip(number));
    }
    // What is sent at the same moment may have gone before.
    sleep(Duration::from_millis(1)).await;
    writer.send(frame(b"lost")).await.unwrap();
    let led_by_another = async {
        while rig.cluster.leader(rig.other, rig.shard).is_none_or(|leader| leader == rig.leader) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let told = tokio::select! {
        told = answer(&mut reader) => panic!("nobody could tell before another leads: {told:?}"),
        () = led_by_another => timeout(Duration::from_millis(150), answer(&mut reader)).await,
    };
    let told = told.expect("the connection to the one before is not waited for");
    assert_eq!(told.expect_err("nobody knows").code, ErrorCode::OutcomeUnknown);
    // What was behind it goes to the new one, which may not serve yet.
    let published = async {
        loop {
            writer.send(frame(b"next")).await.unwrap();
            match answer(&mut reader).await {
                Ok(offset) => return offset,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    assert_eq!(timeout(Duration::from_millis(500), published).await.expect("at once"), 2);
}

#[tokio::test(start_paused = true)]
async fn who_publishes_all_the_time_lets_others_have_a_turn() {
    let rig = Rig::start().await;
    let places = rig.places();
    let _taken = places.acquire_many(places.available_permits() as u32 - 1).await.unwrap();
    let (connection, _control) = rig.enter().await;
    let (mut writer, mut reader) = open(&connection).await;
    let busy = async {
        let mut published = 0;
        writer.send(frame(b"busy")).await.unwrap();
        loop {
            writer.send(frame(b"busy")).await.unwrap();
            answer(&mut reader).await.expect("it is published, too");
            published += 1;
            if published % 500 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let others = async {
        for _ in 0..3 {
            sleep(Duration::from_millis(100)).await;
            rig.cluster.publish(rig.other, "s", b"now and then").await;
        }
    };
    tokio::select! {
        () = busy => unreachable!("it never ends"),
        () = others => {}
    }
}

#[tokio::test(start_paused = true)]
async fn where_there_is_no_place_a_publisher_is_told_and_requests_go_on() {
    let rig = Rig::start().await;
    let places = rig.places();
    let taken = places.acquire_many(places.available_permits() as u32).await.unwrap();
    let (connection, _control) = rig.enter().await;
    let (mut writer, mut reader) = open(&connection).await;
    writer.send(frame(b"x")).await.unwrap();
    let told = answer(&mut reader).await.expect_err("there is no place");
    assert_eq!(told.code, ErrorCode::Unavailable, "{told}");
    assert_ne!(told.retry, Retry::Never);
    for stream in ["t", "u", "v"] {
        let streams = &rig.cluster.node(rig.other).streams;
        streams.ensure(wish(stream, 10, EnsureMode::Warn)).await.unwrap();
        streams.delete(&name(stream)).await.unwrap();
    }
    drop(taken);
    writer.send(frame(b"x")).await.unwrap();
    assert_eq!(answer(&mut reader).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_finds_no_place_was_not_made() {
    let rig = Rig::start().await;
    let routing = rig.cluster.node(rig.other).streams.routing().clone();
    let others = routing.others.clone().unwrap();
    let places = others.requests.available_permits() as u32;
    let taken = others.requests.acquire_many(places).await.unwrap();
    let release = || StreamCommand::ReleaseProducer {
        producer: railgun_types::ProducerId([1; 16]),
        epoch: 1,
        streams: Vec::new(),
    };
    let body = CommandBody::Stream(release());
    let refused = timeout(PATIENCE, routing.request(rig.shard, body)).await.expect("in time");
    assert_eq!(refused.unwrap_err(), ProposeFailure::NotLeading.into());
    drop(taken);
    routing.request(rig.shard, CommandBody::Stream(release())).await.unwrap();
}
