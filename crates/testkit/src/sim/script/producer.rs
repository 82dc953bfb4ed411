//! A producer that numbers its batches itself, so that it can send again what was answered: the SDK
//! never does.

use std::collections::BTreeMap;

use railgun_client::{Message, Offset, StreamName, Timestamp};
use railgun_net::{FrameReader, FrameWriter};
use railgun_proto::{Frame, WireError, v1};
use railgun_types::batch::{BatchBuilder, RecordDraft};

use super::super::dial::SimDial;
use super::line::{Line, accepted, expect, text};

/// The one producer there is, over every connection.
const PRODUCER: [u8; 16] = [9; 16];
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// One connection of the producer.
#[derive(Debug)]
pub(super) struct Producer {
    _line: Line,
    writer: FrameWriter,
    reader: FrameReader,
    lanes: BTreeMap<StreamName, Lane>,
    aliases: u32,
}

/// What was sent to one stream since it was bound.
#[derive(Debug)]
struct Lane {
    alias: u32,
    batches: usize,
    records: u64,
}

impl Producer {
    pub(super) async fn open(dial: &SimDial) -> Result<Self, String> {
        let line = Line::open(dial).await?;
        let producer_id = PRODUCER.to_vec().into();
        let open = v1::OpenPublisher { producer_id, epoch: 0, ordered: true, leader_hints: false };
        let (writer, mut reader) = line.begin(&open).await?;
        expect::<v1::PublisherOpened>(&mut reader).await?;
        Ok(Self { _line: line, writer, reader, lanes: BTreeMap::new(), aliases: 0 })
    }

    pub(super) async fn bind(&mut self, stream: &StreamName) -> Result<(), String> {
        let alias = self.aliases;
        self.aliases += 1;
        let bind = v1::BindStream { alias, stream: stream.to_string(), ..Default::default() };
        self.writer.send(Frame::new(&bind)).await.map_err(text)?;
        let bound: v1::StreamBound = expect(&mut self.reader).await?;
        accepted(bound.error, stream)?;
        self.lanes.insert(stream.clone(), Lane { alias, batches: 0, records: 0 });
        Ok(())
    }

    /// Leaves a stream, where the producer is forgotten and begins again at 0, when this has succeeded.
    /// Nothing may be under way.
    pub(super) async fn leave(&mut self, stream: &StreamName) -> Result<(), String> {
        let lane = self.lanes.remove(stream).ok_or_else(|| format!("{stream} is not bound"))?;
        let unbind = v1::UnbindStreams { aliases: vec![lane.alias], forget: true };
        self.writer.send(Frame::new(&unbind)).await.map_err(text)?;
        let unbound: v1::StreamsUnbound = expect(&mut self.reader).await?;
        accepted(unbound.error, stream)
    }

    /// Batches of a stream that were sent since it was bound.
    pub(super) fn sent(&self, stream: &StreamName) -> usize {
        self.lanes.get(stream).map_or(0, |lane| lane.batches)
    }

    /// Sends the next batch of a stream, and waits for nothing.
    pub(super) async fn send(
        &mut self,
        stream: &StreamName,
        messages: impl Iterator<Item = &Message>,
    ) -> Result<(), String> {
        let lane = self.lanes.get_mut(stream).ok_or_else(|| format!("{stream} is not bound"))?;
        let mut builder = BatchBuilder::new(MESSAGE_BYTES_MAX);
        for message in messages {
            let headers = message.headers.iter().map(|(key, value)| (&**key, &value[..]));
            let draft = RecordDraft {
                key: message.key.as_deref(),
                headers: &headers.collect::<Vec<_>>(),
                producer_ts: message.producer_ts.map(|ts| ts.0),
                value: &message.value,
                id: message.id.as_deref(),
            };
            builder.push(&draft).map_err(text)?;
        }
        let records = builder.count() as u64;
        let batch = builder.finish().concat();
        let item = v1::PublishItem {
            alias: lane.alias,
            batch_bytes: batch.len() as u32,
            sequence: lane.records,
            ..Default::default()
        };
        lane.batches += 1;
        lane.records += records;
        let publish = v1::Publish { items: vec![item] };
        self.writer.send(Frame::with_blob(&publish, vec![batch])).await.map_err(text)
    }

    /// What became of the first batch whose result was not taken yet: its first offset, and its time.
    pub(super) async fn result(&mut self) -> Result<(Offset, Timestamp), String> {
        let result: v1::PublishResult = expect(&mut self.reader).await?;
        let item = result.items.into_iter().next().ok_or("a result without items")?;
        match item.error {
            Some(error) => Err(WireError::from(error).to_string()),
            None => Ok((Offset(item.base_offset), Timestamp(item.ts_us))),
        }
    }
}
