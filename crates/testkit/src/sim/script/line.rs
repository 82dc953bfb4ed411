//! A connection that speaks frames as they are: what the SDK would refuse to send or to hand on can be
//! sent and seen.

use railgun_client::StreamName;
use railgun_net::{Connection, FrameReader, FrameWriter};
use railgun_proto::{Frame, Message as WireMessage, VERSION, WireError, v1};

use super::super::dial::SimDial;

/// See the module. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Line {
    connection: Connection,
    _control: (FrameWriter, FrameReader),
}

impl Line {
    pub(super) async fn open(dial: &SimDial) -> Result<Self, String> {
        let connection =
            dial.network().connect(dial.addr().ok_or("several nodes")?).await.map_err(text)?;
        let hello = v1::Hello {
            version_min: VERSION,
            version_max: VERSION,
            client: "script".to_owned(),
            token: String::new(),
        };
        let (writer, mut reader) = begin(&connection, &hello).await?;
        expect::<v1::Welcome>(&mut reader).await?;
        Ok(Self { connection, _control: (writer, reader) })
    }

    /// A stream of it that begins with `first`.
    pub(super) async fn begin(
        &self,
        first: &impl WireMessage,
    ) -> Result<(FrameWriter, FrameReader), String> {
        begin(&self.connection, first).await
    }
}

async fn begin(
    connection: &Connection,
    first: &impl WireMessage,
) -> Result<(FrameWriter, FrameReader), String> {
    let (mut writer, reader) = connection.open().await.map_err(text)?;
    writer.send(Frame::new(first)).await.map_err(text)?;
    Ok((writer, reader))
}

/// The next frame, which is one of these.
pub(super) async fn expect<M: WireMessage>(reader: &mut FrameReader) -> Result<M, String> {
    let message = reader.next_of::<M>().await.map_err(text)?;
    message.ok_or_else(|| format!("the end instead of {}", M::KIND))
}

/// Fails with what the server says about a stream, if it does.
pub(super) fn accepted(error: Option<v1::Error>, stream: &StreamName) -> Result<(), String> {
    match error {
        Some(error) => Err(format!("{stream}: {}", WireError::from(error))),
        None => Ok(()),
    }
}

pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
