//! What outlives a node: its disk, its bucket, those who know it. A node ends here and another is
//! started on what it left.

use futures::FutureExt;
use railgun_log::CrashPlan;
use railgun_types::Retry;

use super::scarce::Scarce;
use super::*;
use crate::thresholds::CheckpointCadence;

/// Longer than anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
/// Bytes of a message: a good part of a log file.
const VALUE_BYTES: usize = 12_000;
/// Between two looks, and before something is tried again.
pub(super) const PAUSE: Duration = Duration::from_millis(200);
const FILE_BYTES: u64 = 64 << 10;
const ALIAS: u32 = 1;

/// A message that shows its number.
pub(super) fn value(number: usize) -> Vec<u8> {
    let mut value = format!("message {number:05} of many").into_bytes();
    value.resize(VALUE_BYTES, b'.');
    value
}

pub(super) fn values(numbers: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    numbers.map(value).collect()
}

/// The logs of a node, the catalog's first.
pub(super) fn logs(broker: &Broker) -> Vec<ShardLog> {
    broker.on_node.borrow().values().map(|replica| replica.log.clone()).collect()
}

/// See the module.
pub(super) struct Site {
    pub(super) sim: SimDisk,
    /// The same, as the node sees it.
    pub(super) disk: Scarce,
    pub(super) network: MemoryNetwork,
    pub(super) file_bytes: u64,
    pub(super) shards: u32,
    pub(super) max_time_to_cold: Duration,
    bucket: Bucket,
    counted: Arc<Counted>,
    files: Arc<AtomicU64>,
}

impl Site {
    /// With one data shard and small log files; checkpoints follow soon.
    pub(super) fn new() -> Self {
        let sim = SimDisk::default();
        Self {
            disk: Scarce::new(sim.clone()),
            sim,
            network: MemoryNetwork::new(),
            file_bytes: FILE_BYTES,
            shards: 1,
            max_time_to_cold: Duration::from_secs(600),
            bucket: Bucket::open("memory://", &BucketOptions::new(1)).unwrap(),
            counted: Arc::default(),
            files: Arc::default(),
        }
    }

    pub(super) async fn start(&self) -> Result<Broker, StartError> {
        let pace = || Duration::from_micros(100);
        let spec = spec_with(&self.network, Arc::<Pool>::default(), Box::new(pace));
        let options =
            LogOptions { file_bytes: self.file_bytes, ring_bytes: 0, ..LogOptions::default() };
        let files = Arc::clone(&self.files);
        let uuids = move || u128::from(files.fetch_add(1, Relaxed) + 1).to_be_bytes();
        let checkpoints = CheckpointCadence {
            log_bytes: 1 << 20,
            size_factor: 1,
            quiet: Duration::from_secs(5),
            quiet_bytes: 100,
        };
        let seams = Seams {
            disk: Arc::new(self.disk.clone()),
            log_driver: LogDriver::Task(options, Box::new(uuids), Box::new(pace)),
            clock: Arc::clone(&self.counted) as _,
            entropy: Arc::clone(&self.counted) as _,
            thresholds: Thresholds { checkpoints, ..Thresholds::default() },
            ..spec.seams
        };
        Broker::start(BrokerSpec {
            seams,
            bucket: self.bucket.clone(),
            shards: self.shards,
            max_time_to_cold: self.max_time_to_cold,
            ..spec
        })
        .await
    }

    /// Starts a node as a supervisor does: again and again, while the disk is a reason not to start.
    pub(super) async fn start_at_last(&self) -> Broker {
        loop {
            match self.start().await {
                Ok(broker) => return broker,
                Err(error) => assert!(self.disk.is_full(), "{error}"),
            }
            sleep(PAUSE * 5).await;
        }
    }

    /// Ends the node as a power cut does, with all that was not synced.
    pub(super) async fn cut_power(&self, broker: Broker) {
        drop(broker);
        // Its tasks are gone by then: they reach for nothing that the next one has.
        sleep(PAUSE).await;
        self.sim.crash(&CrashPlan::LoseAll);
        self.disk.mend();
    }

    /// What the stream holds from this offset on, and why there was no more, if not because that was
    /// its end.
    pub(super) async fn read(
        &self,
        broker: &Broker,
        stream: &str,
        from: u64,
    ) -> (Vec<Vec<u8>>, Option<WireError>) {
        let (connection, _control) = enter(&self.network, broker).await;
        let mut line = connection.open().await.unwrap();
        let subscribe = v1::Subscribe {
            stream: stream.to_owned(),
            start: Some(v1::subscribe::Start::Offset(from)),
            until_end: true,
            credit_bytes: u64::MAX,
            ..v1::Subscribe::default()
        };
        line.0.send(Frame::new(&subscribe)).await.unwrap();
        let mut values = Vec::new();
        loop {
            let frame = line.1.next().await.unwrap().unwrap();
            match frame.kind() {
                FrameKind::Subscribed => {}
                FrameKind::Deliver => {
                    let head: v1::Deliver = frame.decode().unwrap();
                    let first = head.base_offset + u64::from(head.skip);
                    assert_eq!(first, from + values.len() as u64);
                    let batch = RecordBatch::verify(frame.blob()).unwrap();
                    let wanted = batch.records().skip(head.skip as usize);
                    let wanted = wanted.take(head.count as usize);
                    values.extend(wanted.map(|entry| entry.content().unwrap().value.to_vec()));
                }
                FrameKind::End => return (values, None),
                FrameKind::Error => {
                    let error: v1::Error = frame.decode().unwrap();
                    return (values, Some(error.into()));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The stream holds these and nothing else.
    pub(super) async fn check(&self, broker: &Broker, stream: &str, values: &[Vec<u8>]) {
        let (read, error) = timeout(PATIENCE, self.read(broker, stream, 0)).await.unwrap();
        assert_eq!(error, None);
        let told = |values: &[Vec<u8>]| -> Vec<_> {
            values.iter().map(|value| String::from_utf8_lossy(&value[..20]).into_owned()).collect()
        };
        assert!(read == values, "{stream}: {:?} instead of {:?}", told(&read), told(values));
    }
}

/// Waits until a look finds it so.
pub(super) async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !look().await {
            sleep(PAUSE).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// The node has no reason to end.
pub(super) fn check_lives(broker: &Broker) {
    let failed = broker.failed().now_or_never();
    assert!(failed.is_none(), "{failed:?}");
}

/// What is told to try again is tried again, as clients do.
pub(super) async fn again<T>(mut ask: impl AsyncFnMut() -> Result<T, WireError>) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert_ne!(error.retry, Retry::Never, "{error}"),
        }
        sleep(PAUSE).await;
    }
}

/// A publisher of one stream.
pub(super) struct Lane {
    _connection: (Connection, (FrameWriter, FrameReader)),
    line: (FrameWriter, FrameReader),
    sequence: u64,
}

impl Lane {
    /// Of a producer, if it is one, that has published so many messages before.
    pub(super) async fn open(
        site: &Site,
        broker: &Broker,
        stream: &str,
        producer: Option<(u8, u64)>,
    ) -> Self {
        let entered = enter(&site.network, broker).await;
        let (mut writer, mut reader) = entered.0.open().await.unwrap();
        let (producer_id, sequence) = match producer {
            Some((id, sequence)) => (vec![id; 16].into(), sequence),
            None => Default::default(),
        };
        let ordered = producer.is_some();
        let open = v1::OpenPublisher { producer_id, ordered, ..v1::OpenPublisher::default() };
        writer.send(Frame::new(&open)).await.unwrap();
        assert!(reader.next_of::<v1::PublisherOpened>().await.unwrap().is_some());
        let mut lane = Self { _connection: entered, line: (writer, reader), sequence };
        lane.bind(stream).await;
        lane
    }

    /// Sends a message without waiting for what becomes of it.
    pub(super) async fn begin(&mut self, value: &[u8]) {
        let batch = one_record(value);
        let item = v1::PublishItem {
            alias: ALIAS,
            batch_bytes: batch.len() as u32,
            sequence: self.sequence,
            ..v1::PublishItem::default()
        };
        self.sequence += 1;
        let publish = v1::Publish { items: vec![item] };
        let frame = Frame::with_blob(&publish, vec![batch.as_bytes().clone()]);
        self.line.0.send(frame).await.unwrap();
    }

    /// What became of the first message that nothing is known of yet.
    pub(super) async fn end(&mut self) -> Result<u64, WireError> {
        let result = self.line.1.next_of::<v1::PublishResult>().await.unwrap().unwrap();
        let [result] = &result.items[..] else { panic!("{result:?}") };
        match &result.error {
            None => Ok(result.base_offset),
            Some(error) => Err(error.clone().into()),
        }
    }

    /// Publishes a message; what is refused counts as never sent.
    pub(super) async fn publish(&mut self, value: &[u8]) -> Result<u64, WireError> {
        self.begin(value).await;
        let result = self.end().await;
        self.sequence -= u64::from(result.is_err());
        result
    }

    /// Publishes a message, however often it takes on a full disk.
    pub(super) async fn publish_at_last(&mut self, value: &[u8]) -> u64 {
        loop {
            match self.publish(value).await {
                Ok(offset) => return offset,
                Err(error) => assert_eq!(error.code, ErrorCode::HotTierFull, "{error}"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Gives the stream up, and has the producer forgotten there; whether that was done.
    pub(super) async fn unbind(&mut self) -> Result<(), WireError> {
        let unbind = v1::UnbindStreams { aliases: vec![ALIAS], forget: true };
        self.line.0.send(Frame::new(&unbind)).await.unwrap();
        let unbound = self.line.1.next_of::<v1::StreamsUnbound>().await.unwrap().unwrap();
        match unbound.error {
            None => {
                self.sequence = 0;
                Ok(())
            }
            Some(error) => Err(error.into()),
        }
    }

    /// Takes the stream up.
    pub(super) async fn bind(&mut self, stream: &str) {
        let bind = v1::BindStream { alias: ALIAS, stream: stream.to_owned(), ..Default::default() };
        self.line.0.send(Frame::new(&bind)).await.unwrap();
        let bound = self.line.1.next_of::<v1::StreamBound>().await.unwrap().unwrap();
        assert_eq!(bound.error, None);
    }

    /// Says goodbye: the producer is forgotten when this returns.
    pub(super) async fn close(mut self) {
        self.line.0.send(Frame::new(&v1::ClosePublisher {})).await.unwrap();
        assert!(self.line.1.next().await.unwrap().is_none());
    }

    /// Messages sent so far.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }
}
