//! How long a frame that has begun is waited for. Time is paused: it passes as it is slept away.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use railgun_types::ErrorCode;
use tokio::time::{Instant, sleep, timeout};

use super::{memory_pair, pattern, publish};
use crate::{FrameReader, FrameWriter, ReadError};

/// Bytes of a blob that a slow line takes half a minute for.
const BLOB_BYTES: usize = 2 << 20;

/// One direction of a stream on which `first` came, read as from a client.
async fn direction(first: Bytes) -> (FrameWriter, FrameReader, impl Sized) {
    let mut pair = memory_pair().await;
    pair.server = pair.server.distrusted();
    let (mut writer, near) = pair.client.open().await.unwrap();
    writer.send_raw(first).await.unwrap();
    let (far, reader) = pair.server.accept().await.unwrap();
    (writer, reader, (pair, near, far))
}

fn encoded() -> Bytes {
    let mut bytes = BytesMut::new();
    for part in publish(1, vec![pattern(BLOB_BYTES, 1)]).write_to(&mut bytes).unwrap() {
        bytes.extend_from_slice(&part);
    }
    bytes.freeze()
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_never_ends_is_given_up() {
    for begun in [1, 8, 100_000] {
        let (_writer, mut reader, _rest) = direction(encoded().slice(..begun)).await;
        let begin = Instant::now();
        let error = reader.next().await.unwrap_err();
        assert!(matches!(error, ReadError::Stalled { .. }), "{error}");
        assert_eq!(error.code(), Some(ErrorCode::Timeout));
        let waited = begin.elapsed().as_secs();
        assert_eq!(waited, if begun < 8 { 30 } else { 30 + 32 }, "{begun}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_cancelled_counts() {
    let (_writer, mut reader, _rest) = direction(encoded().slice(..7)).await;
    for _ in 0..29 {
        assert!(timeout(Duration::from_secs(1), reader.next()).await.is_err());
    }
    let begin = Instant::now();
    assert!(matches!(reader.next().await, Err(ReadError::Stalled { bytes: 0 })));
    assert_eq!(begin.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_line_is_waited_for_and_so_is_a_reader_that_is_busy() {
    let bytes = encoded();
    let (mut writer, mut reader, _rest) = direction(bytes.slice(..8)).await;
    assert!(timeout(Duration::from_millis(1), reader.next()).await.is_err());
    // Whoever reads is busy, for longer than any frame may take.
    sleep(Duration::from_secs(1_000)).await;
    let send = async {
        // A little faster than the slowest line.
        for piece in bytes.slice(8..).chunks(100_000) {
            sleep(Duration::from_secs(1)).await;
            writer.send_raw(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        // Between frames a client may be silent as long as it likes.
        sleep(Duration::from_secs(10_000)).await;
        writer.send(publish(2, Vec::new())).await.unwrap();
    };
    let read = async {
        assert_eq!(reader.next().await.unwrap().unwrap().blob_bytes(), BLOB_BYTES);
        assert!(reader.next().await.unwrap().is_some());
    };
    tokio::join!(send, read);
}
