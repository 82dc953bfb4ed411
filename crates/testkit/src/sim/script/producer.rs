//! A producer that numbers its batches itself, so that it can send again what was answered: the SDK
//! never does.

use std::collections::BTreeMap;

use railgun_client::{Message, Offset, StreamName, Timestamp};
use railgun_net::{Connection, FrameReader, FrameWriter};
use railgun_proto::{Frame, Message as WireMessage, VERSION, WireError, v1};
use railgun_types::batch::{BatchBuilder, RecordDraft};

use super::super::dial::SimDial;

/// The one producer there is, over every connection.
const PRODUCER: [u8; 16] = [9; 16];
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// One connection of the producer.
#[derive(Debug)]
pub(super) struct Producer {
    _connection: Connection,
    _control: (FrameWriter, FrameReader),
    writer: FrameWriter,
    reader: FrameReader,
    lanes: BTreeMap<StreamName, Lane>,
}

/// What was sent to one stream over this connection.
#[derive(Debug)]
struct Lane {
    alias: u32,
    batches: usize,
    records: u64,
}

impl Producer {
    pub(super) async fn open(dial: &SimDial) -> Result<Self, String> {
        let connection = dial.network().connect(dial.addr()).await.map_err(text)?;
        let (mut writer, mut reader) = connection.open().await.map_err(text)?;
        let hello = v1::Hello {
            version_min: VERSION,
            version_max: VERSION,
            client: "script".to_owned(),
            token: String::new(),
        };
        writer.send(Frame::new(&hello)).await.map_err(text)?;
        expect::<v1::Welcome>(&mut reader).await?;
        let control = (writer, reader);
        let (mut writer, mut reader) = connection.open().await.map_err(text)?;
        let producer_id = PRODUCER.to_vec().into();
        let open = v1::OpenPublisher { producer_id, epoch: 0, ordered: true };
        writer.send(Frame::new(&open)).await.map_err(text)?;
        expect::<v1::PublisherOpened>(&mut reader).await?;
        let lanes = BTreeMap::new();
        Ok(Self { _connection: connection, _control: control, writer, reader, lanes })
    }

    pub(super) async fn bind(&mut self, stream: &StreamName) -> Result<(), String> {
        let alias = self.lanes.len() as u32 + 1;
        let bind = v1::BindStream { alias, stream: stream.to_string() };
        self.writer.send(Frame::new(&bind)).await.map_err(text)?;
        let bound: v1::StreamBound = expect(&mut self.reader).await?;
        if let Some(error) = bound.error {
            return Err(format!("{stream} is not bound: {}", WireError::from(error)));
        }
        self.lanes.insert(stream.clone(), Lane { alias, batches: 0, records: 0 });
        Ok(())
    }

    /// Batches of a stream that were sent over this connection.
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

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

async fn expect<M: WireMessage>(reader: &mut FrameReader) -> Result<M, String> {
    let message = reader.next_of::<M>().await.map_err(text)?;
    message.ok_or_else(|| format!("the end instead of {}", M::KIND))
}
