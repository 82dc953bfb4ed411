//! Consumer groups, as members and operators see them.

use std::collections::{BTreeSet, VecDeque};

use v1::admin_request::Call;
use v1::admin_response::Answer;
use v1::control_group::Action;
use v1::group_notice::Notice;

use super::cluster_rig::{Cluster, PATIENCE, SETTLED};
use super::*;
use crate::shard::GroupTotals;

/// A connection of somebody who consumes, or looks after groups.
struct Consumer {
    connection: Connection,
    _control: (FrameWriter, FrameReader),
}

/// A member of the group "g" of the stream "s".
struct GroupMember {
    line: (FrameWriter, FrameReader),
    number: u64,
    joined: v1::GroupJoined,
    /// What came while something else was waited for.
    notices: Vec<Notice>,
    waiting: VecDeque<Got>,
}

/// What a delivery holds.
#[derive(Debug)]
struct Got {
    head: v1::GroupDeliver,
    values: Vec<Vec<u8>>,
}

impl Consumer {
    async fn enter(network: &MemoryNetwork, broker: &Broker) -> Self {
        let (connection, control) = enter(network, broker).await;
        Self { connection, _control: control }
    }

    async fn call(&self, call: Call) -> Result<Answer, WireError> {
        let (mut writer, mut reader) = self.connection.open().await.unwrap();
        writer.send(Frame::new(&v1::AdminRequest { id: 1, call: Some(call) })).await.unwrap();
        let answer = timeout(PATIENCE, reader.next_of::<v1::AdminResponse>()).await;
        match answer.expect("in time").unwrap().unwrap().answer.unwrap() {
            Answer::Error(error) => Err(error.into()),
            answer => Ok(answer),
        }
    }

    async fn ensure(&self, patch: v1::GroupPatch) -> v1::GroupEnsured {
        self.ensure_if(patch, false).await
    }

    async fn ensure_destructive(&self, patch: v1::GroupPatch) -> v1::GroupEnsured {
        self.ensure_if(patch, true).await
    }

    async fn ensure_if(&self, patch: v1::GroupPatch, allow_destructive: bool) -> v1::GroupEnsured {
        let ensure = v1::EnsureGroup {
            stream: "s".to_owned(),
            group: "g".to_owned(),
            spec: Some(patch),
            start: Some(v1::ensure_group::Start::Earliest(true)),
            mode: v1::EnsureMode::EnsureOverwrite.into(),
            allow_destructive,
            ..v1::EnsureGroup::default()
        };
        match self.call(Call::EnsureGroup(ensure)).await {
            Ok(Answer::GroupEnsured(ensured)) => ensured,
            other => panic!("{other:?}"),
        }
    }

    async fn describe(&self) -> v1::GroupDescription {
        let describe = v1::DescribeGroup { stream: "s".to_owned(), group: "g".to_owned() };
        match self.call(Call::DescribeGroup(describe)).await {
            Ok(Answer::GroupDescription(description)) => description,
            other => panic!("{other:?}"),
        }
    }

    async fn control(&self, action: Action) -> Result<v1::GroupControlled, WireError> {
        let (stream, group) = ("s".to_owned(), "g".to_owned());
        let control =
            v1::ControlGroup { stream, group, action: Some(action), ..Default::default() };
        match self.call(Call::ControlGroup(control)).await? {
            Answer::GroupControlled(controlled) => Ok(controlled),
            other => panic!("{other:?}"),
        }
    }

    async fn join(&self, join: v1::JoinGroup) -> Result<GroupMember, WireError> {
        let join = v1::JoinGroup {
            stream: "s".to_owned(),
            group: "g".to_owned(),
            credit_bytes: 1 << 20,
            ..join
        };
        let mut line = self.connection.open().await.unwrap();
        line.0.send(Frame::new(&join)).await.unwrap();
        let first = timeout(PATIENCE, line.1.next()).await.expect("in time").unwrap().unwrap();
        if first.kind() == FrameKind::Error {
            return Err(first.decode::<v1::Error>().unwrap().into());
        }
        let joined = first.decode().unwrap();
        let (notices, waiting) = (Vec::new(), VecDeque::new());
        Ok(GroupMember { line, number: 0, joined, notices, waiting })
    }

    async fn member(&self, credit_messages: u32) -> GroupMember {
        self.join(v1::JoinGroup { credit_messages, ..Default::default() }).await.unwrap()
    }
}

impl GroupMember {
    async fn frame(&mut self) -> Frame {
        let frame = timeout(PATIENCE, self.line.1.next()).await.expect("in time");
        frame.unwrap().expect("more")
    }

    /// The next delivery.
    async fn get(&mut self) -> Got {
        loop {
            if let Some(got) = self.waiting.pop_front() {
                return got;
            }
            let frame = self.frame().await;
            self.note(&frame);
        }
    }

    /// Keeps what is no answer.
    fn note(&mut self, frame: &Frame) {
        match frame.kind() {
            FrameKind::GroupDeliver => {
                let head: v1::GroupDeliver = frame.decode().unwrap();
                let batch = RecordBatch::verify(frame.blob()).unwrap();
                assert_eq!(batch.count(), head.count as usize);
                let value = |entry: railgun_types::batch::RecordEntry<'_>| {
                    entry.content().unwrap().value.to_vec()
                };
                let values = batch.records().map(value).collect();
                self.waiting.push_back(Got { head, values });
            }
            FrameKind::GroupNotice => {
                let notice = frame.decode::<v1::GroupNotice>().unwrap().notice;
                // What was sent and not begun is forgotten.
                if let Some(Notice::RewindTo(to)) = notice {
                    self.waiting.retain(|got| got.head.base_offset < to);
                }
                self.notices.extend(notice);
            }
            other => panic!("{other:?}: {:?}", frame.decode::<v1::Error>()),
        }
    }

    /// Deliveries until there were so many messages: their values, in the order in which they came.
    async fn get_all(&mut self, messages: usize) -> Vec<Got> {
        let (mut got, mut count) = (Vec::new(), 0);
        while count < messages {
            let next = self.get().await;
            count += next.values.len();
            got.push(next);
        }
        assert_eq!(count, messages);
        got
    }

    async fn say(&mut self, kind: v1::SettleKind, got: &v1::GroupDeliver, delay_ms: Option<u64>) {
        self.number += 1;
        let item = v1::SettleItem {
            lease: got.lease,
            from: got.base_offset,
            count: got.count,
            epoch: got.epoch,
            kind: kind.into(),
            delay_ms,
            error: String::new(),
        };
        let settle = v1::Settle { number: self.number, items: vec![item] };
        self.line.0.send(Frame::new(&settle)).await.unwrap();
    }

    /// The answer to all that was said.
    async fn settled(&mut self) -> Vec<v1::StaleSettle> {
        let mut stale = Vec::new();
        loop {
            let frame = self.frame().await;
            match frame.kind() {
                FrameKind::Settled => {
                    let settled: v1::Settled = frame.decode().unwrap();
                    stale.extend(settled.stale);
                    if settled.through == self.number {
                        return stale;
                    }
                }
                _ => self.note(&frame),
            }
        }
    }

    /// Asks for messages, and waits until that is answered.
    async fn fetch(&mut self, fetch: v1::Fetch) {
        let answer = Notice::Fetching(fetch.number);
        self.line.0.send(Frame::new(&fetch)).await.unwrap();
        self.hears(&answer).await;
    }

    async fn hears(&mut self, notice: &Notice) {
        while !self.notices.contains(notice) {
            let frame = self.frame().await;
            self.note(&frame);
        }
    }

    async fn settle(
        &mut self,
        kind: v1::SettleKind,
        got: &v1::GroupDeliver,
        delay_ms: Option<u64>,
    ) -> Vec<v1::StaleSettle> {
        self.say(kind, got, delay_ms).await;
        self.settled().await
    }
}

/// Three nodes with the stream "s" of so many messages, its shard, and the node that leads this.
async fn with_messages(count: usize) -> (Cluster, ShardId, usize) {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    cluster.node(1).streams.ensure(wish("s", 1 << 20, EnsureMode::Warn)).await.unwrap();
    for number in 0..count {
        cluster.publish(1, "s", format!("m{number}").as_bytes()).await;
    }
    sleep(SETTLED).await;
    let found = cluster.node(1).streams.resolve(&name("s")).await.unwrap();
    let shard = found.shard.id();
    let leader = cluster.leader(1, shard).expect("somebody leads");
    (cluster, shard, leader)
}

/// One that is not the leader.
fn follower(leader: usize) -> usize {
    leader % 3 + 1
}

fn values(got: &[Got]) -> Vec<String> {
    let all = got.iter().flat_map(|got| &got.values);
    all.map(|value| String::from_utf8(value.clone()).unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_was_acked_by_way_of_any_node_is_never_delivered_again() {
    // G-3
    let (mut cluster, shard, leader) = with_messages(6).await;
    let consumer = Consumer::enter(&cluster.network, cluster.node(follower(leader))).await;
    consumer.ensure(v1::GroupPatch::default()).await;
    let mut member = consumer.member(3).await;
    assert_eq!((member.joined.floor, member.joined.next_offset), (0, 6));
    let got = member.get_all(3).await;
    assert_eq!(values(&got), ["m0", "m1", "m2"]);
    for got in &got {
        assert_eq!(member.settle(v1::SettleKind::SettleAck, &got.head, None).await, []);
    }
    assert_eq!(consumer.describe().await.floor, 3);
    cluster.kill(leader).await;
    let survivor = follower(leader);
    let elsewhere = async {
        loop {
            if cluster.leader(survivor, shard).is_some_and(|now| now != leader) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, elsewhere).await.expect("somebody else leads");
    sleep(SETTLED).await;
    let consumer = Consumer::enter(&cluster.network, cluster.node(survivor)).await;
    let mut member = consumer.member(10).await;
    // Those that the first member had come again when it has not come back for its time (G-14).
    let got = member.get_all(3).await;
    assert_eq!(values(&got), ["m3", "m4", "m5"]);
    assert!(got.iter().all(|got| got.head.attempt == 1), "nobody has begun with them (G-10)");
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_leaves_its_messages_to_others_at_once() {
    // G-9, G-10, G-11
    let (cluster, _, leader) = with_messages(4).await;
    let node = cluster.node(leader);
    let first = Consumer::enter(&cluster.network, node).await;
    first.ensure(v1::GroupPatch::default()).await;
    let mut dies = first.member(4).await;
    let got = dies.get_all(4).await;
    let begun = &got[0].head;
    dies.say(v1::SettleKind::SettleBegin, begun, None).await;
    dies.settled().await;
    let second = Consumer::enter(&cluster.network, node).await;
    let mut stays = second.member(100).await;
    let begin = Instant::now();
    drop(dies);
    drop(first);
    let again = stays.get_all(4).await;
    assert!(begin.elapsed() < Duration::from_millis(100), "{:?}", begin.elapsed());
    for got in &again {
        let was_begun = got.head.base_offset >= begun.base_offset
            && got.head.base_offset < begun.base_offset + u64::from(begun.count);
        assert_eq!(got.head.attempt, 1 + u32::from(was_begun), "{got:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_between_that_stops_counts_no_failure() {
    // CL-5, G-10
    let (cluster, _, leader) = with_messages(3).await;
    let between = follower(leader);
    let member = Consumer::enter(&cluster.network, cluster.node(between)).await;
    member.ensure(v1::GroupPatch::default()).await;
    let mut member = member.member(3).await;
    let got = member.get_all(3).await;
    let begun = one_of(&got, 1);
    assert_eq!(member.settle(v1::SettleKind::SettleBegin, &begun, None).await, []);
    cluster.node(between).shutdown(DRAIN_TIMEOUT).await;
    let error = member.frame().await.decode::<v1::Error>().unwrap();
    assert_eq!(WireError::from(error).code, ErrorCode::GoingAway);
    let other = Consumer::enter(&cluster.network, cluster.node(leader)).await;
    let got = other.member(10).await.get_all(3).await;
    assert!(got.iter().all(|got| got.head.attempt == 1), "{got:?}");
    drop(cluster);
}

#[tokio::test(start_paused = true)]
async fn what_is_meant_for_a_group_is_not_done_to_another_of_its_name() {
    let (cluster, _, leader) = with_messages(1).await;
    let operator = Consumer::enter(&cluster.network, cluster.node(follower(leader))).await;
    operator.ensure(v1::GroupPatch::default()).await;
    let first = operator.describe().await.group_id;
    let uid = operator.member(1).await.joined.stream_uid;
    let pause = async |stream_uid: &[u8], group_id| {
        let control = v1::ControlGroup {
            stream: "s".to_owned(),
            group: "g".to_owned(),
            action: Some(Action::Pause(true)),
            stream_uid: stream_uid.to_vec().into(),
            group_id,
        };
        operator.call(Call::ControlGroup(control)).await.map_err(|error| error.code)
    };
    pause(&uid, first).await.unwrap();
    assert_eq!(pause(&[7; 16], first).await, Err(ErrorCode::StreamDeleted.into()));
    assert_eq!(pause(&[7; 3], first).await, Err(ErrorCode::ProtocolViolation.into()));
    let delete = v1::DeleteGroup { stream: "s".to_owned(), group: "g".to_owned() };
    operator.call(Call::DeleteGroup(delete)).await.unwrap();
    operator.ensure(v1::GroupPatch::default()).await;
    let second = operator.describe().await.group_id;
    assert_eq!(pause(&uid, first).await, Err(ErrorCode::GroupNotFound.into()));
    pause(&uid, second).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_fails_too_often_is_a_dead_letter_once_and_can_be_redriven() {
    // DL-2, DL-3, DL-4, DL-5, DL-7
    let (cluster, _, leader) = with_messages(3).await;
    let at = follower(leader);
    let consumer = Consumer::enter(&cluster.network, cluster.node(at)).await;
    let dlq = v1::DlqPatch { max_attempts: Some(2), ..v1::DlqPatch::default() };
    let backoff = Some(v1::Backoff { delays_ms: vec![0] });
    consumer.ensure(v1::GroupPatch { dlq: Some(dlq), backoff, ..Default::default() }).await;
    let mut member = consumer.member(1).await;
    let mut attempts = BTreeSet::new();
    for _ in 0..4 {
        let got = member.get().await;
        let offset = got.head.base_offset;
        attempts.insert((offset, got.head.attempt));
        let kind = match offset {
            0 => v1::SettleKind::SettleNack,
            _ => v1::SettleKind::SettleAck,
        };
        assert_eq!(member.settle(kind, &got.head, None).await, []);
    }
    assert!(attempts.into_iter().eq([(0, 1), (0, 2), (1, 1), (2, 1)]));
    let dead = async {
        loop {
            let description = consumer.describe().await;
            if description.dead == 1 {
                return description;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let description = timeout(PATIENCE, dead).await.expect("it dies");
    assert_eq!((description.floor, description.lag, description.dead_letters), (3, 0, 1));
    assert_eq!(description.companion, "s$dlq.g");
    for node in 1..=3 {
        assert_eq!(cluster.read(node, "s$dlq.g").await, [b"m0"], "at node {node}");
    }
    let dead = consumer.control(Action::ListDead(v1::ListDead::default())).await.unwrap();
    assert_eq!((dead.messages, dead.dead[0].from, dead.dead[0].to), (1, 0, 1));
    let redriven = consumer.control(Action::Redrive(v1::OffsetSpans::default())).await.unwrap();
    assert_eq!((redriven.messages, redriven.floor), (1, 3));
    let got = member.get().await;
    assert_eq!((got.head.attempt, got.head.redrive_generation), (1, 1));
    assert_eq!(values(&[got]), ["m0"]);
}

#[tokio::test(start_paused = true)]
async fn who_fetches_by_way_of_any_node_gets_what_it_asks_for() {
    // G-15
    let (cluster, _, leader) = with_messages(4).await;
    let consumer = Consumer::enter(&cluster.network, cluster.node(follower(leader))).await;
    consumer.ensure(v1::GroupPatch::default()).await;
    let join = || v1::JoinGroup { credit_messages: 10, fetches: true, ..Default::default() };
    let mut fetches = consumer.join(join()).await.unwrap();
    fetches.fetch(v1::Fetch { number: 1, messages: 2, ..Default::default() }).await;
    let got = fetches.get_all(2).await;
    assert_eq!(values(&got), ["m0", "m1"]);
    let first = one_of(&got, 0);
    assert_eq!(fetches.settle(v1::SettleKind::SettleBegin, &first, None).await, []);
    // What it has not begun goes to others, and no attempt counts.
    fetches.fetch(v1::Fetch { number: 2, ..Default::default() }).await;
    let mut other = consumer.member(3).await;
    let got = other.get_all(3).await;
    assert_eq!(values(&got), ["m1", "m2", "m3"]);
    assert!(got.iter().all(|got| got.head.attempt == 1), "{got:?}");
    assert_eq!(fetches.settle(v1::SettleKind::SettleAck, &first, None).await, []);
    // Nothing is there, and then something is.
    fetches.fetch(v1::Fetch { number: 3, messages: 5, no_wait: true, ..Default::default() }).await;
    fetches.hears(&Notice::Fetched(3)).await;
    fetches.fetch(v1::Fetch { number: 4, messages: 1, bytes: 1, ..Default::default() }).await;
    for value in [b"m4", b"m5"] {
        cluster.publish(1, "s", value).await;
    }
    let got = fetches.get_all(1).await;
    assert_eq!(values(&got), ["m4"], "larger than its bytes, and alone");
    fetches.fetch(v1::Fetch { number: 5, messages: 9, bytes: 1, ..Default::default() }).await;
    assert_eq!(values(&fetches.get_all(1).await), ["m4"]);
    fetches.hears(&Notice::Fetched(5)).await;
    // Who comes back asks again.
    drop(fetches);
    let mut again = consumer.join(join()).await.unwrap();
    again.fetch(v1::Fetch { number: 1, messages: u32::MAX, ..Default::default() }).await;
    assert_eq!(values(&again.get_all(2).await), ["m4", "m5"]);
    // A number that was used, and a fetch of who is sent all there is.
    let fetch = v1::Fetch { number: 1, ..Default::default() };
    for mut member in [again, other] {
        member.line.0.send(Frame::new(&fetch)).await.unwrap();
        let error = member.frame().await.decode::<v1::Error>().unwrap();
        assert_eq!(WireError::from(error).code, ErrorCode::ProtocolViolation);
    }
}

#[tokio::test(start_paused = true)]
async fn one_member_of_an_exclusive_group_gets_all_in_order() {
    //
    let (cluster, _, leader) = with_messages(4).await;
    let node = cluster.node(leader);
    let consumer = Consumer::enter(&cluster.network, node).await;
    let mode = Some(v1::GroupMode::GroupExclusive.into());
    let backoff = Some(v1::Backoff { delays_ms: vec![0] });
    consumer.ensure(v1::GroupPatch { mode, backoff, ..Default::default() }).await;
    let mut active = consumer.member(4).await;
    let got = active.get_all(4).await;
    let epoch = got[0].head.epoch;
    assert!(epoch > 0 && active.notices.contains(&Notice::ActiveEpoch(epoch)), "{got:?}");
    let another = Consumer::enter(&cluster.network, node).await;
    let mut waits = another.member(4).await;
    assert_eq!(active.settle(v1::SettleKind::SettleAck, &one_of(&got, 0), None).await, []);
    // What fails is tried again in front of all that is behind it.
    assert_eq!(active.settle(v1::SettleKind::SettleNack, &one_of(&got, 1), None).await, []);
    assert!(active.notices.contains(&Notice::RewindTo(1)), "{:?}", active.notices);
    let again = active.get_all(3).await;
    assert_eq!(values(&again), ["m1", "m2", "m3"]);
    drop(active);
    drop(consumer);
    let taken = waits.get_all(3).await;
    assert_eq!(values(&taken), ["m1", "m2", "m3"]);
    assert!(taken[0].head.epoch > epoch);
    let joined = another.join(v1::JoinGroup {
        credit_messages: 1,
        mode: v1::GroupMode::GroupBalanced.into(),
        ..Default::default()
    });
    let refused = joined.await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::GroupModeMismatch);
}

/// The delivery of this one message.
#[tokio::test(start_paused = true)]
async fn an_operator_hands_an_exclusive_group_over_by_way_of_any_node() {
    //
    let (cluster, _, leader) = with_messages(3).await;
    let operator = Consumer::enter(&cluster.network, cluster.node(follower(leader))).await;
    let hand_over = async || operator.control(Action::HandOver(true)).await;
    let refused = async || hand_over().await.unwrap_err().code;
    assert_eq!(refused().await, ErrorCode::GroupNotFound);
    operator.ensure(v1::GroupPatch::default()).await;
    assert_eq!(refused().await, ErrorCode::GroupModeMismatch);
    let mode = Some(v1::GroupMode::GroupExclusive.into());
    operator.ensure_destructive(v1::GroupPatch { mode, ..Default::default() }).await;
    assert_eq!(refused().await, ErrorCode::NoOtherMember);
    let mut first = operator.member(3).await;
    let got = first.get_all(3).await;
    assert_eq!(refused().await, ErrorCode::NoOtherMember);
    let another = Consumer::enter(&cluster.network, cluster.node(leader)).await;
    let mut second = another.member(3).await;
    let begun = hand_over().await.unwrap();
    assert_eq!((begun.messages, begun.floor), (3, 0));
    // What it has it may settle.
    assert_eq!(first.settle(v1::SettleKind::SettleAck, &one_of(&got, 0), None).await, []);
    for got in &got {
        first.settle(v1::SettleKind::SettleAck, &got.head, None).await;
    }
    first.hears(&Notice::Inactive(true)).await;
    cluster.publish(1, "s", b"m3").await;
    let taken = second.get_all(1).await;
    assert_eq!(values(&taken), ["m3"]);
    assert!(taken[0].head.epoch > got[0].head.epoch);
    // And back, though the present one settles nothing.
    assert_eq!(hand_over().await.unwrap().messages, 1);
    sleep(Duration::from_secs(29)).await;
    assert_eq!(members_and_messages(&operator).await, (2, 1));
    second.hears(&Notice::Inactive(true)).await;
    let got = first.get_all(1).await;
    assert_eq!((values(&got), got[0].head.attempt), (vec!["m3".to_owned()], 1));
}

/// Members of the group, and messages that they have.
async fn members_and_messages(operator: &Consumer) -> (u32, u64) {
    let description = operator.describe().await;
    (description.members, description.leased)
}

fn one_of(got: &[Got], offset: u64) -> v1::GroupDeliver {
    let is_in = |got: &&Got| {
        (got.head.base_offset..got.head.base_offset + u64::from(got.head.count)).contains(&offset)
    };
    let head = &got.iter().find(is_in).expect("delivered").head;
    v1::GroupDeliver { base_offset: offset, count: 1, ..*head }
}

#[tokio::test(start_paused = true)]
async fn other_settings_count_at_once_and_another_mode_sends_members_away() {
    // EN-1, G-12, X-6
    let (cluster, _, leader) = with_messages(4).await;
    let consumer = Consumer::enter(&cluster.network, cluster.node(leader)).await;
    let few = |max_in_flight| v1::GroupPatch { max_in_flight, ..Default::default() };
    consumer.ensure(few(Some(1))).await;
    let mut member = consumer.member(10).await;
    member.get_all(1).await;
    assert!(timeout(SETTLED, member.get()).await.is_err(), "one at a time");
    consumer.ensure(few(Some(3))).await;
    assert_eq!(values(&member.get_all(2).await), ["m1", "m2"]);
    let mode = Some(v1::GroupMode::GroupExclusive.into());
    consumer.ensure_destructive(v1::GroupPatch { mode, ..Default::default() }).await;
    let end = loop {
        let frame = member.frame().await;
        if frame.kind() == FrameKind::Error {
            break WireError::from(frame.decode::<v1::Error>().unwrap());
        }
    };
    assert_eq!(end.code, ErrorCode::Unavailable, "{end}");
    let mut member = consumer.member(10).await;
    let first = member.get().await;
    assert!(first.head.base_offset == 0 && first.head.epoch > 0, "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn messages_that_die_at_once_share_entries_and_keep_their_order() {
    // DL-3
    let (cluster, shard, leader) = with_messages(40).await;
    let consumer = Consumer::enter(&cluster.network, cluster.node(leader)).await;
    consumer.ensure(v1::GroupPatch::default()).await;
    let mut member = consumer.member(40).await;
    let got = member.get_all(40).await;
    let applied = async || {
        // Figures are published now and then.
        sleep(SETTLED).await;
        let figures = cluster.node(leader).figures();
        figures.iter().find(|it| it.shard == shard).expect("it leads").applied
    };
    let before = applied().await;
    for got in &got {
        member.say(v1::SettleKind::SettleReject, &got.head, None).await;
    }
    let died = async {
        while consumer.describe().await.dead < 40 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, died).await.expect("all die");
    let entries = applied().await - before;
    assert!(entries < 20, "{entries} entries for 40 dead letters");
    let described = consumer.describe().await;
    assert_eq!((described.floor, described.dead_letters), (40, 40));
    let letters = cluster.read(leader, "s$dlq.g").await;
    assert_eq!(letters, (0..40).map(|at| format!("m{at}").into_bytes()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_stalled_is_shown_so_to_members_operators_and_metrics() {
    // G-5
    let (cluster, _, leader) = with_messages(4).await;
    let consumer = Consumer::enter(&cluster.network, cluster.node(leader)).await;
    let bound = Some(2);
    let patch = v1::GroupPatch { max_in_flight: bound, max_unsettled: bound, ..Default::default() };
    consumer.ensure(patch).await;
    let mut member = consumer.member(10).await;
    let held = member.get_all(2).await;
    // The news may come before what was delivered last, or behind it.
    while member.notices.is_empty() {
        let frame = member.frame().await;
        member.note(&frame);
    }
    assert_eq!(member.notices, [Notice::StalledAt(0)]);
    assert!(consumer.describe().await.stalled);
    // Figures are published now and then.
    sleep(SETTLED).await;
    let totals =
        || cluster.node(leader).figures().iter().map(|it| it.groups).find(|it| it.groups > 0);
    let stalled = GroupTotals {
        groups: 1,
        stalled: 1,
        members: 1,
        leased: 2,
        lag_max: 4,
        ..Default::default()
    };
    assert_eq!(totals(), Some(stalled));
    for got in held {
        assert_eq!(member.settle(v1::SettleKind::SettleAck, &got.head, None).await, []);
    }
    member.get_all(2).await;
    let described = consumer.describe().await;
    assert!(!described.stalled, "nothing is behind what is handed out: {described:?}");
    sleep(SETTLED).await;
    assert_eq!(totals(), Some(GroupTotals { stalled: 0, lag_max: 2, ..stalled }));
}

#[tokio::test(start_paused = true)]
async fn operators_pause_and_reset_and_are_told_what_is_in_the_way() {
    // EN-1, G-5
    let (cluster, _, leader) = with_messages(2).await;
    let consumer = Consumer::enter(&cluster.network, cluster.node(follower(leader))).await;
    let absent = consumer.join(v1::JoinGroup { credit_messages: 1, ..Default::default() }).await;
    assert_eq!(absent.err().unwrap().code, ErrorCode::GroupNotFound);
    consumer.ensure(v1::GroupPatch::default()).await;
    consumer.control(Action::Pause(true)).await.unwrap();
    let mut member = consumer.member(2).await;
    let came = timeout(PATIENCE / 2, member.get()).await;
    assert!(came.is_err(), "{came:?}");
    consumer.control(Action::Resume(true)).await.unwrap();
    for got in member.get_all(2).await {
        assert_eq!(member.settle(v1::SettleKind::SettleAck, &got.head, None).await, []);
    }
    let start = Some(v1::reset_group::Start::Offset(1));
    let reset = |force| Action::Reset(v1::ResetGroup { start, force });
    let refused = consumer.control(reset(false)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::GroupInUse, "{refused}");
    assert_eq!(consumer.control(reset(true)).await.unwrap().floor, 1);
    assert_eq!(values(&member.get_all(1).await), ["m1"]);
    assert_eq!(consumer.describe().await.members, 1);
    // What is published while it waits comes at once.
    cluster.publish(1, "s", b"new").await;
    assert_eq!(values(&member.get_all(1).await), ["new"]);
    let delete = v1::DeleteGroup { stream: "s".to_owned(), group: "g".to_owned() };
    consumer.call(Call::DeleteGroup(delete)).await.unwrap();
    let end = member.frame().await;
    let error: v1::Error = end.decode().unwrap();
    assert_eq!(WireError::from(error).code, ErrorCode::GroupNotFound);
}
