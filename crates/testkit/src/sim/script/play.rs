//! What clients do in the script. Everything can be done again after it was cut short anywhere: what
//! was sent is sent again, and must have become what it had become before (PQ-1).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use railgun_client::{
    Admin, AdminError, Client, ClientOptions, ErrorCode, Message, Offset, StreamName, StreamUid,
    WireCode,
};
use railgun_log::Disk;

use super::super::history::{End, History, LaneId, MessageId};
use super::super::node::SimNode;
use super::super::trace::Trace;
use super::super::workload::stream_name;
use super::SEALED;
use super::follower::{Follower, Pace};
use super::producer::Producer;

/// Time that a seal and the catalog's snapshot have.
const PATIENCE: Duration = Duration::from_secs(60);

/// Messages of each batch; their values have so many bytes at least, by the batch.
const BATCH: usize = 4;
const KEPT_BYTES: [usize; 9] = [300, 900, 40, 700, 600, 300, 20, 500, 30];
const PASSING_BYTES: [usize; 3] = [30, 60, 100];

/// A stream with the batches that one producer has sent to it.
#[derive(Debug)]
struct Stream {
    name: StreamName,
    /// Known once it was made.
    uid: Option<StreamUid>,
    lane: LaneId,
    batches: Vec<Vec<(MessageId, Message)>>,
    /// Of these, those that were sent before the producer left: nobody sends them again.
    left: usize,
}

/// Whether the producer has left the stream that stays, and begun anew there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    Not,
    /// Nobody knows whether it is forgotten.
    Asked,
    Done,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Play {
    node: Arc<SimNode>,
    history: History,
    trace: Trace,
    kept: Stream,
    passing: Stream,
    leave: Leave,
    /// Somebody asked for the end of the second stream.
    deleting: bool,
}

impl Play {
    pub(super) fn new(node: Arc<SimNode>, history: History, trace: Trace) -> Self {
        let stream = |name| Stream {
            name: stream_name(name),
            uid: None,
            lane: history.lane(true),
            batches: Vec::new(),
            left: 0,
        };
        let (kept, passing) = (stream("kept"), stream("passing"));
        let leave = Leave::Not;
        Self { node, history, trace, kept, passing, leave, deleting: false }
    }

    /// Where the streams end that are there, when all has been done.
    pub(super) fn ends(&self) -> Vec<(StreamUid, Offset)> {
        let records: usize = self.kept.batches.iter().map(Vec::len).sum();
        self.kept.uid.map(|uid| (uid, Offset(records as u64))).into_iter().collect()
    }

    /// What was sent so far.
    #[cfg(test)]
    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        let batches = [&self.kept, &self.passing].into_iter().flat_map(|stream| &stream.batches);
        batches.flatten().map(|(_, message)| message)
    }

    /// From the beginning to the end.
    pub(super) async fn play(&mut self) -> Result<(), String> {
        let options = ClientOptions { seed: Some([5; 16]), ..ClientOptions::new("simulated:1") };
        let client = Client::connect_over(Arc::new(self.node.dial.clone()), options).await;
        let admin = client.map_err(|error| error.to_string())?.admin();
        ensure(&mut self.kept, &admin).await?;
        if !self.deleting {
            ensure(&mut self.passing, &admin).await?;
        }
        let uid = self.kept.uid.ok_or("a stream was not made")?;
        let follower = self.follow(uid, Pace::SLOW).await?;
        let mut producer = Producer::open(&self.node.dial).await?;
        producer.bind(&self.kept.name).await?;
        if !self.deleting {
            producer.bind(&self.passing.name).await?;
        }
        if self.leave == Leave::Asked {
            self.leave(&mut producer).await?;
        }
        self.publish(&mut producer, 4, 2).await?;
        self.seal(&admin).await?;
        self.await_snapshot_of_catalog(&admin).await?;
        self.publish(&mut producer, 5, 3).await?;
        if self.leave == Leave::Not {
            self.leave(&mut producer).await?;
        }
        self.publish(&mut producer, 6, 3).await?;
        self.delete(&admin).await?;
        self.publish(&mut producer, 7, 3).await?;
        // One more checkpoint, and what it lets go.
        self.seal(&admin).await?;
        self.publish(&mut producer, 9, 3).await?;
        let records: usize = self.kept.batches.iter().map(Vec::len).sum();
        for follower in [follower, self.follow(uid, Pace::FAST).await?] {
            let reading = follower.come_to(Offset(records as u64));
            let read = tokio::time::timeout(PATIENCE, reading).await;
            read.map_err(|_| "a follower does not come to the end".to_owned())??;
        }
        Ok(())
    }

    /// Reads the stream that stays, from its beginning on.
    async fn follow(&self, uid: StreamUid, pace: Pace) -> Result<Follower, String> {
        let stream = (&self.kept.name, uid);
        Follower::start(&self.node.dial, &self.history, stream, pace).await
    }

    /// Sends the first batches of each stream, but those that were sent over this connection, or before
    /// the producer left: after a crash also what was answered before.
    async fn publish(
        &mut self,
        producer: &mut Producer,
        kept: usize,
        passing: usize,
    ) -> Result<(), String> {
        let mut sent = Vec::new();
        let passing = if self.deleting { 0 } else { passing };
        let streams =
            [(&mut self.kept, &KEPT_BYTES[..kept]), (&mut self.passing, &PASSING_BYTES[..passing])];
        for (stream, sizes) in streams {
            let uid = stream.uid.ok_or("a stream was not made")?;
            for bytes in sizes.iter().skip(stream.batches.len()) {
                let message = |at: usize| self.history.message(uid, stream.lane, bytes + 10 * at);
                stream.batches.push((0..BATCH).map(message).collect());
            }
            let stream: &Stream = stream;
            let already = stream.left + producer.sent(&stream.name);
            for batch in stream.batches.iter().take(sizes.len()).skip(already) {
                let messages = batch.iter().map(|(_, message)| message);
                producer.send(&stream.name, messages).await?;
                sent.push(batch);
            }
        }
        for batch in sent {
            let (base, ts) = producer.result().await?;
            for (at, (id, _)) in batch.iter().enumerate() {
                self.history.ended(*id, End::Published(base.plus(at as u64), ts));
            }
        }
        Ok(())
    }

    /// The producer leaves the stream that stays, and comes back as a new one. When nobody knows whether
    /// it was forgotten, it leaves once more before it sends anything.
    async fn leave(&mut self, producer: &mut Producer) -> Result<(), String> {
        let kept = &mut self.kept;
        (kept.left, self.leave) = (kept.batches.len(), Leave::Asked);
        self.trace.note(format_args!("the producer leaves"));
        producer.leave(&kept.name).await?;
        self.leave = Leave::Done;
        producer.bind(&kept.name).await
    }

    /// Brings all into the bucket, and has the log give up what is there.
    async fn seal(&self, admin: &Admin) -> Result<(), String> {
        let sealed = admin.seal_stream(&self.kept.name, true, PATIENCE).await;
        let sealed = sealed.map_err(|error| error.to_string())?;
        self.trace.note(format_args!("{SEALED}: {sealed:?}"));
        Ok(())
    }

    async fn delete(&mut self, admin: &Admin) -> Result<(), String> {
        if let Some(uid) = self.passing.uid {
            self.history.deleted(uid);
        }
        self.deleting = true;
        self.trace.note(format_args!("the second stream is deleted"));
        match admin.delete_stream(&self.passing.name).await {
            Ok(_) => Ok(()),
            Err(AdminError::Refused(error))
                if error.code == WireCode::Known(ErrorCode::StreamNotFound) =>
            {
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// The catalog looks whether a checkpoint is due when somebody asks it for something.
    async fn await_snapshot_of_catalog(&self, admin: &Admin) -> Result<(), String> {
        let is_there = || {
            let names = self.node.disk.list(Path::new("shards/0/checkpoints")).unwrap_or_default();
            names.iter().any(|name| name.ends_with(".snap"))
        };
        let waiting = async {
            while !is_there() {
                admin.describe_stream(&self.kept.name).await.map_err(|error| error.to_string())?;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.map_err(|_| "the catalog has no snapshot".to_owned())?
    }
}

async fn ensure(stream: &mut Stream, admin: &Admin) -> Result<(), String> {
    let made = admin.create_if_absent(&stream.name).await.map_err(|error| error.to_string())?;
    match stream.uid.replace(made.stream_uid) {
        Some(known) if known != made.stream_uid => {
            Err(format!("{} was {known} and is {}", stream.name, made.stream_uid))
        }
        _ => Ok(()),
    }
}
