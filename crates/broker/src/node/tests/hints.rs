//! What publishers are told of where their streams are led (CL-4), while what they send is relayed.

use super::cluster_rig::{Cluster, PATIENCE, SETTLED, ip};
use super::publishers::frame;
use super::*;

/// A publisher that has bound "s", and asks for hints or not.
struct Line {
    _session: (Connection, (FrameWriter, FrameReader)),
    writer: FrameWriter,
    reader: FrameReader,
    bound: v1::StreamBound,
    hint: Option<v1::LeaderHint>,
}

impl Line {
    async fn open(cluster: &Cluster, number: usize, leader_hints: bool) -> Self {
        let session = enter(&cluster.network, cluster.node(number)).await;
        let (mut writer, mut reader) = session.0.open().await.unwrap();
        let open = v1::OpenPublisher { leader_hints, ..v1::OpenPublisher::default() };
        writer.send(Frame::new(&open)).await.unwrap();
        reader.next_of::<v1::PublisherOpened>().await.unwrap().unwrap();
        let bind = v1::BindStream { alias: 1, stream: "s".to_owned(), ..Default::default() };
        writer.send(Frame::new(&bind)).await.unwrap();
        let bound = v1::StreamBound::default();
        let mut line = Self { _session: session, writer, reader, bound, hint: None };
        line.bound = line.answer(FrameKind::StreamBound).await.decode().unwrap();
        line
    }

    /// The next frame of this kind; hints before it are kept.
    async fn answer(&mut self, kind: FrameKind) -> Frame {
        loop {
            let frame = timeout(PATIENCE, self.reader.next()).await.expect("in time");
            let frame = frame.unwrap().expect("the stream goes on");
            if frame.kind() == kind {
                return frame;
            }
            assert_eq!(frame.kind(), FrameKind::LeaderHint);
            self.hint = Some(frame.decode().unwrap());
        }
    }

    async fn publish(&mut self, value: &[u8]) -> u64 {
        self.writer.send(frame(value)).await.unwrap();
        let result: v1::PublishResult =
            self.answer(FrameKind::PublishResult).await.decode().unwrap();
        let item = &result.items[0];
        assert_eq!(item.error, None);
        item.base_offset
    }

    /// Waits until it is told of this node.
    async fn is_told_of(&mut self, leader: usize) {
        let address = SocketAddr::from((ip(leader), 9_400)).to_string();
        let hint = v1::LeaderHint { shard: self.bound.shard, node_id: leader as u32, address };
        while self.hint.as_ref() != Some(&hint) {
            self.hint = Some(self.answer(FrameKind::LeaderHint).await.decode().unwrap());
        }
    }

    async fn is_told_nothing(&mut self) {
        assert!(timeout(PATIENCE, self.reader.next()).await.is_err());
    }
}

async fn start() -> (Cluster, ShardId, usize) {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    cluster.node(1).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    let shard = cluster.node(1).streams.resolve(&name("s")).await.unwrap().shard.id();
    sleep(SETTLED).await;
    let leader = cluster.leader(1, shard).expect("somebody leads");
    (cluster, shard, leader)
}

#[tokio::test(start_paused = true)]
async fn a_publisher_is_told_of_the_leader_and_again_when_the_lead_moves() {
    let (mut cluster, shard, leader) = start().await;
    let other = leader % 3 + 1;
    let mut lines = Vec::new();
    for number in 1..=3 {
        let mut line = Line::open(&cluster, number, true).await;
        assert_eq!(line.bound.shard, shard.0);
        line.is_told_of(leader).await;
        lines.push(line);
    }
    let mut silent = Line::open(&cluster, other, false).await;
    // All are served where they are, and told once.
    let mut offset = 0;
    for line in lines.iter_mut().chain([&mut silent]) {
        for _ in 0..3 {
            line.hint = None;
            assert_eq!(line.publish(b"x").await, offset);
            assert_eq!(line.hint, None);
            offset += 1;
        }
    }
    let transfer = v1::TransferLeader { shard: shard.0, node_id: other as u32 };
    cluster.node(1).cluster_admin.transfer_leader(transfer).await.unwrap();
    for line in &mut lines {
        line.is_told_of(other).await;
        assert_eq!(line.publish(b"y").await, offset);
        offset += 1;
    }
    silent.is_told_nothing().await;
    // Whoever has not gone there hears of the next one, too.
    cluster.kill(other).await;
    for number in (1..=3).filter(|number| *number != other) {
        let line = &mut lines[number - 1];
        let next = loop {
            let hint: v1::LeaderHint = line.answer(FrameKind::LeaderHint).await.decode().unwrap();
            if hint.node_id != other as u32 {
                break hint.node_id as usize;
            }
        };
        assert_eq!(cluster.leader(number, shard), Some(next));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_relayed_for_who_goes_where_it_is_told() {
    let (cluster, _, leader) = start().await;
    let other = leader % 3 + 1;
    let others = cluster.node(other).streams.routing().others.clone().unwrap();
    let address = SocketAddr::from((ip(leader), 9_401)).to_string();
    let places = Arc::clone(others.ways.to(&address).places());
    let all = places.available_permits();
    let mut line = Line::open(&cluster, other, true).await;
    line.is_told_of(leader).await;
    line.publish(b"relayed").await;
    assert_eq!(places.available_permits(), all - 1);
    let mut direct = Line::open(&cluster, leader, true).await;
    direct.is_told_of(leader).await;
    // A relay without anything to do ends.
    sleep(Duration::from_secs(3)).await;
    for offset in 1..4 {
        assert_eq!(direct.publish(b"straight").await, offset);
        assert_eq!(places.available_permits(), all);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_drained_is_named_to_nobody() {
    let (cluster, shard, leader) = start().await;
    let other = leader % 3 + 1;
    let mut line = Line::open(&cluster, other, true).await;
    line.is_told_of(leader).await;
    let drain = v1::SetNodeState {
        node_id: leader as u32,
        state: v1::NodeState::Draining.into(),
        force: false,
    };
    cluster.node(other).cluster_admin.set_node_state(drain).await.unwrap();
    let hint: v1::LeaderHint = line.answer(FrameKind::LeaderHint).await.decode().unwrap();
    assert_ne!(hint.node_id, leader as u32);
    assert_eq!(cluster.leader(other, shard), Some(hint.node_id as usize));
}
