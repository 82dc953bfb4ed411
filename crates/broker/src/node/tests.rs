//! A whole node on simulated parts and paused time: what cannot be brought about from outside.

mod clocks;
mod cluster;
mod cluster_admin;
mod cluster_rig;
mod cold_groups;
mod copies;
mod cut_off;
mod damage;
mod damaged;
mod elsewhere;
mod failed_disk;
mod forming;
mod full_disk;
mod groups;
mod hints;
mod lives;
mod member_memory;
mod moved;
mod numbered;
mod offload;
mod publishers;
mod reading;
mod relaying;
mod retired;
mod scarce;
mod site;
mod snapshots;
mod subscribing;
mod visitor;
mod whose_bucket;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize};

use railgun_cold::reader::ColdReader;
use railgun_cold::{Bucket, BucketOptions, owner};
use railgun_core::catalog::Phase;
use railgun_core::command::{
    Append, AppendMode, CatalogCommand, CommandBody, EnsureStream, StreamCommand,
};
use railgun_log::{LogOptions, ShardLog, SimDisk};
use railgun_net::memory::MemoryNetwork;
use railgun_net::tls::ClusterCa;
use railgun_net::{BindError, Connection, FrameReader, FrameWriter};
use railgun_proto::convert::{EnsureOutcome, EnsureRequest, Ensured};
use railgun_proto::{Frame, FrameKind, WireError, v1};
use railgun_raft::{BlockingJob, BlockingPool};
use railgun_types::batch::{BatchBuilder, RecordBatch, RecordDraft};
use railgun_types::{
    EnsureMode, ErrorCode, NodeUid, ReplicaId, RequestId, Retry, SpecPatch, StreamName, StreamUid,
    Timestamp,
};
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::auth::TokenHash;
use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::identity::{Founder, Identity, Member};
use crate::on_node::ShardOnNode;
use crate::seams::{LogDriver, Pace, Seams};
use crate::session::HELD_TIME;
use crate::shard::Queueing;
use crate::thresholds::Thresholds;

#[derive(Debug, Default)]
struct Counted(AtomicI64, AtomicU64);

impl Clock for Counted {
    fn now(&self) -> Timestamp {
        Timestamp(1_772_409_570_000_000 + self.0.fetch_add(1, Relaxed))
    }
}

impl Entropy for Counted {
    fn uid(&self) -> [u8; 16] {
        let number = self.1.fetch_add(1, Relaxed);
        u128::from(number + 1).to_be_bytes()
    }
}

/// How long a slow read takes.
const READ_TIME: Duration = Duration::from_secs(1);

/// Runs reads at once, or slowly.
#[derive(Debug, Default)]
struct Pool {
    jobs: AtomicUsize,
    slow: AtomicBool,
}

impl BlockingPool for Pool {
    fn run(&self, job: BlockingJob) {
        self.jobs.fetch_add(1, Relaxed);
        if !self.slow.load(Relaxed) {
            return job();
        }
        tokio::spawn(async move {
            sleep(READ_TIME).await;
            job();
        });
    }
}

async fn start(network: &MemoryNetwork) -> Broker {
    start_with(network, Arc::default()).await
}

async fn start_with(network: &MemoryNetwork, pool: Arc<Pool>) -> Broker {
    start_on(network, pool, Box::new(|| Duration::from_micros(100))).await
}

/// The same with any pool, and a disk as slow as `pace` says.
async fn start_on(network: &MemoryNetwork, pool: Arc<dyn BlockingPool>, pace: Pace) -> Broker {
    Broker::start(spec_with(network, pool, pace)).await.unwrap()
}

/// The log keeps no entries in memory: what is read is read by the pool.
fn spec_with(network: &MemoryNetwork, pool: Arc<dyn BlockingPool>, pace: Pace) -> BrokerSpec {
    let options = LogOptions { file_bytes: 1 << 20, ring_bytes: 0, ..LogOptions::default() };
    let counted = Arc::new(Counted::default());
    let mut files = 0_u128;
    let uuids = move || {
        files += 1;
        files.to_be_bytes()
    };
    let network = network.clone();
    let listen = move || {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        network
            .listen(any)
            .map_err(|taken| BindError { addr: taken.addr, source: std::io::Error::other(taken) })
    };
    BrokerSpec {
        seams: Seams {
            disk: Arc::new(SimDisk::default()),
            log_driver: LogDriver::Task(options, Box::new(uuids), pace),
            pool,
            background: None,
            clock: Arc::clone(&counted) as _,
            entropy: counted,
            thresholds: Thresholds::default(),
            #[cfg(feature = "builtin-bugs")]
            builtin_bug: None,
        },
        bucket: Bucket::open("memory://", &BucketOptions::new(1)).unwrap(),
        listen: Box::new(listen),
        address: "simulated".to_owned(),
        tokens: Vec::new(),
        admin_tokens: Vec::new(),
        hot_bytes_max: 64 << 20,
        shards: 2,
        max_time_to_cold: Duration::from_secs(600),
        streams_max: 1_000,
        cluster: None,
    }
}

fn name(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

fn patch(max_message_bytes: u32) -> SpecPatch {
    SpecPatch { max_message_bytes: Some(max_message_bytes), ..SpecPatch::default() }
}

fn wish(stream: &str, bytes: u32, mode: EnsureMode) -> EnsureRequest {
    EnsureRequest {
        name: name(stream),
        patch: patch(bytes),
        mode,
        if_revision: None,
        allow_destructive: false,
        request: None,
    }
}

/// What a creator leaves that got no further than the catalog.
async fn reserve(broker: &Broker, stream: &str) -> StreamUid {
    let uid = StreamUid([stream.as_bytes()[0]; 16]);
    let reserve = CatalogCommand::Reserve {
        name: name(stream),
        stream: uid,
        patch: patch(10),
        request: None,
    };
    broker.streams.change(reserve).await.unwrap().unwrap();
    uid
}

#[tokio::test(start_paused = true)]
async fn looking_makes_no_stream_and_the_reserver_says_what_it_is() {
    let broker = start(&MemoryNetwork::new()).await;
    let streams = &broker.streams;
    reserve(&broker, "a").await;
    let looked = streams.ensure(wish("a", 10, EnsureMode::Check)).await.unwrap_err();
    assert_eq!(looked.code, ErrorCode::StreamStarting, "{looked}");
    let resolved = streams.resolve(&name("a")).await.unwrap_err();
    assert_eq!(resolved.code, ErrorCode::StreamStarting, "looking has made it");
    // Another creator finishes what the first one began, then compares.
    let other = streams.ensure(wish("a", 20, EnsureMode::Warn)).await.unwrap();
    assert!(matches!(other.outcome, EnsureOutcome::Drift(_)), "{other:?}");
    let found = streams.resolve(&name("a")).await.unwrap();
    assert_eq!((found.facts.spec.max_message_bytes, found.facts.revision), (10, 1));
    // What is not there is at no revision (EN-6).
    let stale = EnsureRequest { if_revision: Some(3), ..wish("b", 10, EnsureMode::Overwrite) };
    let stale = streams.ensure(stale).await.unwrap_err();
    assert_eq!((stale.code, stale.actual), (ErrorCode::RevisionConflict.into(), Some(0)));
    let absent = streams.resolve(&name("b")).await.unwrap_err();
    assert_eq!(absent.code, ErrorCode::StreamNotFound);
    let made = streams.ensure(wish("b", 10, EnsureMode::Warn)).await.unwrap();
    assert_eq!((made.outcome, made.revision), (EnsureOutcome::Created, 1));
}

#[tokio::test(start_paused = true)]
async fn a_creator_that_asks_again_has_created_the_stream_wherever_it_got_to() {
    let broker = start(&MemoryNetwork::new()).await;
    let streams = &broker.streams;
    let by = |request: u8, stream: &str| EnsureRequest {
        if_revision: Some(0),
        request: Some(RequestId([request; 16])),
        ..wish(stream, 10, EnsureMode::Overwrite)
    };
    let created = |ensured: Result<Ensured, WireError>| {
        let ensured = ensured.unwrap();
        assert_eq!((ensured.outcome, ensured.revision), (EnsureOutcome::Created, 1));
    };
    let conflicts = |ensured: Result<Ensured, WireError>| {
        let error = ensured.unwrap_err();
        assert_eq!((error.code, error.actual), (ErrorCode::RevisionConflict.into(), Some(1)));
    };
    let reserve_by = async |request: u8, stream: &str| {
        let uid = StreamUid([stream.as_bytes()[0]; 16]);
        let (request, name, patch) = (Some(RequestId([request; 16])), name(stream), patch(10));
        let reserve = CatalogCommand::Reserve { name, stream: uid, patch, request };
        streams.change(reserve).await.unwrap().unwrap()
    };
    // To the end; then the answer was lost.
    created(streams.ensure(by(1, "a")).await);
    created(streams.ensure(by(1, "a")).await);
    conflicts(streams.ensure(by(2, "a")).await);
    // To the name.
    reserve_by(1, "b").await;
    created(streams.ensure(by(1, "b")).await);
    conflicts(streams.ensure(by(2, "b")).await);
    // To the name, and another one has finished it.
    reserve_by(1, "c").await;
    conflicts(streams.ensure(by(2, "c")).await);
    created(streams.ensure(by(1, "c")).await);
    // To the shard.
    let entry = reserve_by(1, "d").await;
    let Phase::Creating { patch, request } = entry.phase.clone() else { panic!("{entry:?}") };
    streams.create(&name("d"), &entry, (patch, request), false).await.unwrap();
    created(streams.ensure(by(1, "d")).await);
}

#[tokio::test(start_paused = true)]
async fn there_are_never_more_streams_than_allowed() {
    let network = MemoryNetwork::new();
    let pace = Box::new(|| Duration::from_micros(100));
    let spec = spec_with(&network, Arc::<Pool>::default(), pace);
    let broker = Broker::start(BrokerSpec { streams_max: 5, ..spec }).await.unwrap();
    let streams = &broker.streams;
    let ensure = |name: &str| streams.ensure(wish(name, 10, EnsureMode::Warn));
    // Several want the same ones at once. Some of them may be told to try again, and nobody that
    // there is no place.
    let names = ["a", "b", "c", "d", "e"].repeat(4);
    let ensured = names.into_iter().map(|name| site::again(async || ensure(name).await));
    futures::future::join_all(ensured).await;
    // All at once, with one place: what is under way counts.
    streams.delete(&name("e")).await.unwrap();
    let others = ["e", "f", "g", "h"];
    let ensured = futures::future::join_all(others.map(ensure)).await;
    let made: Vec<_> = (0..4).filter(|&at| ensured[at].is_ok()).collect();
    assert_eq!(made.len(), 1, "{ensured:?}");
    for error in ensured.into_iter().filter_map(Result::err) {
        assert_eq!(error.code, ErrorCode::Unavailable, "{error}");
    }
    for error in [ensure("i").await.unwrap_err(), ensure("j").await.unwrap_err()] {
        assert_eq!(error.code, ErrorCode::QuotaExceeded, "{error}");
        assert_eq!(error.retry, Retry::Never);
        assert!(error.message.contains("`streams.max_count`"), "{error}");
        assert!(error.message.contains('5'), "{error}");
    }
    // Those that are there are not asked, and one that goes makes room.
    let again = ensure("a").await.unwrap();
    assert_eq!(again.outcome, EnsureOutcome::Unchanged);
    streams.delete(&name("a")).await.unwrap();
    assert_eq!(ensure("i").await.unwrap().outcome, EnsureOutcome::Created);
}

#[tokio::test(start_paused = true)]
async fn what_was_left_half_done_is_finished_while_the_node_runs() {
    let broker = start(&MemoryNetwork::new()).await;
    let streams = &broker.streams;
    reserve(&broker, "a").await;
    let doomed = streams.ensure(wish("b", 10, EnsureMode::Warn)).await.unwrap().stream_uid;
    let delete = CatalogCommand::Delete { name: name("b"), stream: doomed };
    let left = streams.change(delete).await.unwrap().unwrap();
    assert_eq!(left.phase, Phase::Deleting);
    let finished = async {
        while streams.resolve(&name("a")).await.is_err()
            || streams.entry(&name("b")).await.unwrap().is_some()
        {
            sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(Duration::from_secs(5), finished).await.expect("the reconciler has had its turn");
    let found = streams.resolve(&name("a")).await.unwrap();
    assert_eq!(found.facts.spec.max_message_bytes, 10);
    // The name is free for another stream.
    let again = streams.ensure(wish("b", 10, EnsureMode::Warn)).await.unwrap();
    assert_eq!(again.outcome, EnsureOutcome::Created);
    assert_ne!(again.stream_uid, doomed);
}

#[tokio::test(start_paused = true)]
async fn a_stream_deleted_while_it_is_created_is_not_left_without_a_name() {
    let broker = start(&MemoryNetwork::new()).await;
    let streams = &broker.streams;
    let uid = reserve(&broker, "a").await;
    let entry = streams.entry(&name("a")).await.unwrap().unwrap();
    // It goes before its shard has heard of it.
    streams.delete(&name("a")).await.unwrap();
    for (own, code) in [(true, ErrorCode::StreamDeleted), (false, ErrorCode::StreamStarting)] {
        let created = streams.create(&name("a"), &entry, (patch(10), None), own).await.unwrap_err();
        assert_eq!(created.code, code);
    }
    let shard = broker.streams.routing().local(entry.shard).unwrap().handle;
    let delete = CommandBody::Stream(StreamCommand::Delete { stream: uid });
    let facts = shard.describe(uid).await.unwrap();
    assert!(facts.is_none(), "the stream lives: {facts:?}, {:?}", shard.command(delete).await);
}

/// Has the stream made by its shard, whatever becomes of its name.
async fn make(broker: &Broker, stream: &str, uid: StreamUid) {
    let ensure = EnsureStream {
        stream: uid,
        name: name(stream),
        patch: patch(10),
        mode: EnsureMode::Warn,
        if_revision: None,
        allow_destructive: false,
        request: None,
    };
    let entry = broker.streams.entry(&name(stream)).await.unwrap().unwrap();
    let body = CommandBody::Stream(StreamCommand::Ensure(ensure));
    broker.streams.routing().local(entry.shard).unwrap().handle.command(body).await.unwrap();
}

/// Whether its shard has the stream.
async fn lives(broker: &Broker, uid: StreamUid) -> bool {
    for ShardOnNode { handle, .. } in broker.streams.routing().locals() {
        if handle.describe(uid).await.unwrap().is_some() {
            return true;
        }
    }
    false
}

#[tokio::test(start_paused = true)]
async fn who_wants_a_stream_whose_creator_gave_it_up_may_have_it() {
    let broker = start(&MemoryNetwork::new()).await;
    let streams = &broker.streams;
    let uid = reserve(&broker, "a").await;
    let entry = streams.entry(&name("a")).await.unwrap().unwrap();
    // Its creator was refused, another a moment later was not, and the creator frees the name.
    make(&broker, "a", uid).await;
    streams.change(CatalogCommand::Free { name: name("a"), stream: uid }).await.unwrap();
    // The other, and one that comes when the stream is deleted.
    for _ in 0..2 {
        let lost = streams.create(&name("a"), &entry, (patch(10), None), false).await.unwrap_err();
        assert_eq!(lost.code, ErrorCode::StreamStarting, "{lost}");
        assert_ne!(lost.retry, Retry::Never);
        assert!(!lives(&broker, uid).await);
    }
    let made = streams.ensure(wish("a", 10, EnsureMode::Warn)).await.unwrap();
    assert_eq!(made.outcome, EnsureOutcome::Created);
    assert_ne!(made.stream_uid, uid);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_lost_its_name_is_deleted_at_the_next_start() {
    let site = site::Site::new();
    let broker = site.start().await.unwrap();
    let streams = &broker.streams;
    // One that has lost its name, one that another has the name of, one that is being made.
    let [lost, before, going_on] = ["a", "b", "c"].map(|stream| reserve(&broker, stream));
    let (lost, before, going_on) = (lost.await, before.await, going_on.await);
    for (stream, uid) in [("a", lost), ("b", before), ("c", going_on)] {
        make(&broker, stream, uid).await;
    }
    for (stream, uid) in [("a", lost), ("b", before)] {
        streams.change(CatalogCommand::Free { name: name(stream), stream: uid }).await.unwrap();
    }
    let after = streams.ensure(wish("b", 10, EnsureMode::Warn)).await.unwrap().stream_uid;
    // What holds records is never taken for one.
    publish(&broker, 1, b"x").await;
    let used = streams.resolve(&name("s")).await.unwrap().stream;
    for command in [
        CatalogCommand::Delete { name: name("s"), stream: used },
        CatalogCommand::Free { name: name("s"), stream: used },
    ] {
        streams.change(command).await.unwrap();
    }
    site.cut_power(broker).await;
    let broker = site.start().await.unwrap();
    assert!(!lives(&broker, lost).await && !lives(&broker, before).await);
    for uid in [going_on, after, used] {
        assert!(lives(&broker, uid).await, "{uid}");
    }
    for (stream, uid) in [("b", after), ("c", going_on)] {
        assert_eq!(broker.streams.resolve(&name(stream)).await.unwrap().stream, uid);
    }
    assert!(broker.streams.entry(&name("a")).await.unwrap().is_none());
}

/// A client that was let in, and its control stream.
async fn enter(
    network: &MemoryNetwork,
    broker: &Broker,
) -> (Connection, (FrameWriter, FrameReader)) {
    let connection = network.connect(broker.listen_addr()).await.unwrap();
    let (mut writer, mut control) = connection.open().await.unwrap();
    let hello = v1::Hello { version_min: 1, version_max: 1, ..v1::Hello::default() };
    writer.send(Frame::new(&hello)).await.unwrap();
    assert!(control.next_of::<v1::Welcome>().await.unwrap().is_some());
    (connection, (writer, control))
}

/// A client that was let in and follows a stream.
struct Follower {
    connection: Connection,
    control: FrameReader,
    line: (FrameWriter, FrameReader),
    _writer: FrameWriter,
}

impl Follower {
    async fn begin(network: &MemoryNetwork, broker: &Broker) -> Self {
        Self::begin_with(network, broker, 1_000).await
    }

    /// Reads from the beginning.
    async fn begin_with(network: &MemoryNetwork, broker: &Broker, credit_bytes: u64) -> Self {
        let (connection, (writer, control)) = enter(network, broker).await;
        let mut line = connection.open().await.unwrap();
        let start = Some(v1::subscribe::Start::Earliest(true));
        let subscribe = v1::Subscribe {
            stream: "s".to_owned(),
            start,
            credit_bytes,
            ..v1::Subscribe::default()
        };
        line.0.send(Frame::new(&subscribe)).await.unwrap();
        let subscribed = line.1.next().await.unwrap().unwrap();
        assert_eq!(subscribed.kind(), FrameKind::Subscribed);
        Self { connection, control, line, _writer: writer }
    }

    async fn credit(&mut self, bytes: u64) {
        self.line.0.send(Frame::new(&v1::Credit { bytes })).await.unwrap();
    }

    async fn delivered(&mut self) -> u64 {
        self.line.1.next_of::<v1::Deliver>().await.unwrap().unwrap().base_offset
    }
}

fn one_record(value: &[u8]) -> RecordBatch {
    let mut builder = BatchBuilder::new(value.len() + 100);
    builder.push(&RecordDraft { value, ..RecordDraft::default() }).unwrap();
    RecordBatch::open(builder.finish().concat()).unwrap()
}

/// The stream "s" with so many batches of one record; returns the bytes of one.
async fn publish(broker: &Broker, batches: usize, value: &[u8]) -> u64 {
    let batch = one_record(value);
    let wish = wish("s", batch.len() as u32, EnsureMode::Warn);
    let stream = broker.streams.ensure(wish).await.unwrap().stream_uid;
    let found = broker.streams.resolve(&name("s")).await.unwrap();
    for _ in 0..batches {
        let (batch, mode) = (batch.clone(), AppendMode::Each);
        let append =
            Append { stream, producer: None, mode, expected_end: None, dead_letter: None, batch };
        let appended = found
            .shard
            .here()
            .unwrap()
            .append(&Queueing::new(u64::MAX), vec![append])
            .await
            .unwrap()
            .await
            .unwrap();
        assert!(appended.unwrap()[0].is_ok());
    }
    batch.len() as u64
}

#[tokio::test(start_paused = true)]
async fn credit_does_not_disturb_a_read() {
    let (network, pool) = (MemoryNetwork::new(), Arc::<Pool>::default());
    let broker = start_with(&network, Arc::clone(&pool)).await;
    publish(&broker, 1, b"x").await;
    pool.slow.store(true, Relaxed);
    let before = pool.jobs.load(Relaxed);
    let mut follower = Follower::begin(&network, &broker).await;
    for _ in 0..50 {
        sleep(Duration::from_millis(2)).await;
        follower.credit(0).await;
    }
    assert_eq!(follower.delivered().await, 0);
    // The offloader has used the pool as well.
    let jobs = pool.jobs.load(Relaxed) - before;
    assert!(jobs < 10, "{jobs} reads");
}

#[tokio::test(start_paused = true)]
async fn what_was_read_is_given_up_where_credit_does_not_come() {
    let (network, pool) = (MemoryNetwork::new(), Arc::<Pool>::default());
    let broker = start_with(&network, Arc::clone(&pool)).await;
    let batch_bytes = publish(&broker, 3, b"x").await;
    // The first batch may overdraw the credit; all were read with it.
    let mut follower = Follower::begin_with(&network, &broker, 1).await;
    assert_eq!(follower.delivered().await, 0);
    // From here on it shows by the time whether something is read.
    pool.slow.store(true, Relaxed);
    sleep(HELD_TIME / 2).await;
    follower.credit(batch_bytes).await;
    let begin = Instant::now();
    assert_eq!(follower.delivered().await, 1);
    assert!(begin.elapsed() < READ_TIME, "it was read again too early");
    // A client that keeps talking is no better than one that is silent.
    for _ in 0..20 {
        sleep(HELD_TIME / 10).await;
        follower.credit(0).await;
    }
    follower.credit(1_000).await;
    let begin = Instant::now();
    assert_eq!(follower.delivered().await, 2);
    assert!(begin.elapsed() >= READ_TIME, "it was held all the time");
}

#[tokio::test(start_paused = true)]
async fn the_next_records_are_read_while_the_last_are_sent_and_given_up_if_they_are_not_taken() {
    let (network, pool) = (MemoryNetwork::new(), Arc::<Pool>::default());
    let broker = start_with(&network, Arc::clone(&pool)).await;
    // More than the line takes, in one step of a reader.
    publish(&broker, 24, &[7; 64 << 10]).await;
    for (waits, is_held) in [(HELD_TIME / 2, true), (HELD_TIME * 2, false)] {
        pool.slow.store(false, Relaxed);
        let mut follower = Follower::begin_with(&network, &broker, u64::MAX).await;
        sleep(waits).await;
        pool.slow.store(true, Relaxed);
        let begin = Instant::now();
        let mut base = 0;
        while begin.elapsed() < READ_TIME {
            assert_eq!(follower.delivered().await, base);
            base += 1;
        }
        // Of two steps the second was there, or not; what came late is of the one behind it.
        assert_eq!(base - 1, if is_held { 16 } else { 8 });
    }
}

#[tokio::test(start_paused = true)]
async fn clients_that_wait_are_told_and_let_go_at_once() {
    let network = MemoryNetwork::new();
    let broker = start(&network).await;
    broker.streams.ensure(wish("s", 10, EnsureMode::Warn)).await.unwrap();
    let mut follower = Follower::begin(&network, &broker).await;
    let greeting = network.connect(broker.listen_addr()).await.unwrap();
    let begin = Instant::now();
    let told = async {
        let goaway = follower.control.next().await.unwrap().unwrap();
        assert_eq!(goaway.kind(), FrameKind::GoAway);
        let error = follower.line.1.next_of::<v1::Error>().await.unwrap().unwrap();
        assert_eq!(WireError::from(error).code, ErrorCode::GoingAway);
        follower.connection.closed().await;
        greeting.closed().await;
        assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
        drop((follower, greeting));
    };
    tokio::join!(told, broker.shutdown(Duration::from_secs(10)));
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_failed_node_waits_for_nobody() {
    let network = MemoryNetwork::new();
    let broker = start(&network).await;
    broker.streams.ensure(wish("s", 10, EnsureMode::Warn)).await.unwrap();
    let _follower = Follower::begin(&network, &broker).await;
    let begin = Instant::now();
    broker.shutdown(Duration::ZERO).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}
