//! Every transport must pass this.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use railgun_proto::{Frame, FrameError, FrameKind, WireCode, v1};
use railgun_types::ErrorCode;
use railgun_types::limits::BATCH_BYTES_HARD;

use super::{Pair, credit, pattern, poll_once, publish, sequence};
use crate::{Connection, ConnectionLost, FrameReader, FrameWriter, ReadError, WriteError};

macro_rules! over_all {
    ($($name:ident),* $(,)?) => {
        over_all!(@ over_memory, memory_pair, $($name),*);
        over_all!(@ over_disturbed, disturbed_pair, $($name),*);
        over_all!(@ over_quic, quic_pair, $($name),*);
        over_all!(@ over_peer_memory, peer_memory_pair, $($name),*);
        over_all!(@ over_peer_quic, peer_quic_pair, $($name),*);
    };
    (@ $transport:ident, $pair:ident, $($name:ident),*) => {
        mod $transport {
            $(#[tokio::test]
            async fn $name() {
                crate::tests::within_deadline(async {
                    super::$name(crate::tests::$pair().await).await;
                }).await;
            })*
        }
    };
}

over_all!(
    frames_come_back_as_they_were_sent,
    small_frames_arrive_in_order,
    a_finished_stream_ends_cleanly,
    the_end_inside_a_frame_is_an_error,
    a_reset_inside_a_frame_carries_its_code,
    a_stopped_stream_tells_its_writer,
    a_bad_frame_fails_only_its_stream,
    a_length_over_the_limit_is_refused_before_its_bytes,
    an_unread_stream_stops_only_its_sender,
    a_cancelled_read_loses_nothing,
    a_cancelled_send_goes_on_with_the_next,
    a_writer_dropped_inside_a_frame_resets_the_stream,
    an_oversized_frame_is_not_sent,
    nothing_is_sent_after_the_end,
    a_close_tells_the_peer_why,
    a_connection_closes_with_its_last_handle,
    a_stream_keeps_its_connection,
);

type Stream = (FrameWriter, FrameReader);

/// A stream, seen from both ends. The first frame makes it visible to the accepting side.
async fn stream(pair: &Pair) -> (Stream, Stream) {
    let mut near = pair.client.open().await.unwrap();
    near.0.send(credit(0)).await.unwrap();
    let mut far = pair.server.accept().await.unwrap();
    assert_eq!(far.1.next().await, Ok(Some(credit(0))));
    (near, far)
}

/// Sends back whatever comes, on every stream.
async fn echo(connection: Connection) {
    while let Ok((mut writer, mut reader)) = connection.accept().await {
        tokio::spawn(async move {
            while let Ok(Some(frame)) = reader.next().await {
                writer.send(frame).await.unwrap();
            }
            writer.finish();
        });
    }
}

/// Puts bytes on a stream that need not be a frame.
async fn send_raw(writer: &mut FrameWriter, bytes: impl Into<Bytes>) {
    writer.send_raw(bytes.into()).await.unwrap();
}

/// A frame as bytes.
fn encoded(frame: Frame) -> Bytes {
    let mut bytes = BytesMut::new();
    for part in frame.write_to(&mut bytes).unwrap() {
        bytes.extend_from_slice(&part);
    }
    bytes.freeze()
}

async fn frames_come_back_as_they_were_sent(pair: Pair) {
    tokio::spawn(echo(pair.server.clone()));
    let (mut writer, mut reader) = pair.client.open().await.unwrap();
    let shapes: [&[usize]; 7] = [
        &[],
        &[1],
        &[0],
        &[4 << 10, (4 << 10) + 1],
        &[200, 100_000, 3, 70_000],
        &[1 << 20],
        &[BATCH_BYTES_HARD - 5_000_000, 0, 5_000_000],
    ];
    let frames: Vec<Frame> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| publish(i as u64, shape.iter().map(|&len| pattern(len, i)).collect()))
        .collect();
    let sent = frames.clone();
    // Both directions at once, as the echo stops reading while its answers are not read.
    let sending = tokio::spawn(async move {
        writer.send_all(sent).await.unwrap();
        writer.finish();
        writer
    });
    for frame in &frames {
        let back = reader.next().await.unwrap().unwrap();
        assert_eq!(sequence(&back), sequence(frame));
        assert!(back.blob() == frame.blob(), "blob of frame {}", sequence(frame));
    }
    assert_eq!(reader.next().await, Ok(None));
    sending.await.unwrap();
}

async fn small_frames_arrive_in_order(pair: Pair) {
    let ((mut writer, _r), (_w, mut reader)) = stream(&pair).await;
    const FRAMES: u64 = 20_000;
    let sending = tokio::spawn(async move {
        for first in (0..FRAMES).step_by(100) {
            writer.send_all((first..first + 100).map(credit)).await.unwrap();
        }
        writer.finish();
        writer.stopped().await
    });
    for bytes in 0..FRAMES {
        assert_eq!(reader.next().await, Ok(Some(credit(bytes))));
    }
    assert_eq!(reader.next().await, Ok(None));
    assert_eq!(sending.await.unwrap(), Ok(None));
}

async fn a_finished_stream_ends_cleanly(pair: Pair) {
    let ((mut writer, mut back), (far_writer, mut reader)) = stream(&pair).await;
    writer.send(credit(1)).await.unwrap();
    writer.finish();
    assert_eq!(reader.next().await, Ok(Some(credit(1))));
    assert_eq!(reader.next().await, Ok(None));
    assert_eq!(reader.next().await, Ok(None));
    // The other direction is on its own; dropping a writer finishes it.
    drop(far_writer);
    assert_eq!(back.next().await, Ok(None));
}

async fn the_end_inside_a_frame_is_an_error(pair: Pair) {
    let whole = encoded(publish(7, vec![pattern(100, 0)]));
    for cut in [1, 7, 8, 9, whole.len() - 100, whole.len() - 1] {
        let ((mut writer, _r), (_w, mut reader)) = stream(&pair).await;
        send_raw(&mut writer, whole.slice(..cut)).await;
        writer.finish();
        assert_eq!(reader.next().await, Err(ReadError::CutShort), "cut at {cut}");
        assert_eq!(reader.next().await, Err(ReadError::CutShort), "again at {cut}");
    }
}

async fn a_reset_inside_a_frame_carries_its_code(pair: Pair) {
    let ((mut writer, _r), (_w, mut reader)) = stream(&pair).await;
    send_raw(&mut writer, encoded(publish(7, vec![pattern(100, 0)])).slice(..50)).await;
    writer.reset(ErrorCode::Internal);
    let code = Some(WireCode::Known(ErrorCode::Internal));
    assert_eq!(reader.next().await, Err(ReadError::Reset { code }));
}

async fn a_stopped_stream_tells_its_writer(pair: Pair) {
    let ((mut writer, _r), (_w, reader)) = stream(&pair).await;
    reader.stop(ErrorCode::FrameTooLarge);
    let code = Some(WireCode::Known(ErrorCode::FrameTooLarge));
    assert_eq!(writer.stopped().await, Ok(code));
    assert_eq!(writer.send(credit(1)).await, Err(WriteError::Stopped { code }));

    let ((mut writer, _r), (_w, reader)) = stream(&pair).await;
    drop(reader);
    assert_eq!(writer.stopped().await, Ok(None));
    assert_eq!(writer.send(credit(1)).await, Err(WriteError::Stopped { code: None }));
}

async fn a_bad_frame_fails_only_its_stream(pair: Pair) {
    let ((mut good_writer, mut good_back), (mut far_writer, mut good_reader)) = stream(&pair).await;
    // Kind 0 does not exist; kind 23 does, and its head is no message.
    for bad in [&[0u8; 64][..], &[0xff; 64], &[23, 4, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]] {
        let ((mut writer, _r), (_w, mut reader)) = stream(&pair).await;
        send_raw(&mut writer, Bytes::copy_from_slice(bad)).await;
        let error = match reader.next().await {
            Err(error) => error,
            Ok(frame) => frame.unwrap().decode::<v1::Credit>().unwrap_err().into(),
        };
        assert_eq!(error.code(), Some(ErrorCode::ProtocolViolation), "{error}");
        reader.stop(ErrorCode::ProtocolViolation);

        good_writer.send(publish(1, vec![pattern(10_000, 1)])).await.unwrap();
        let frame = good_reader.next().await.unwrap().unwrap();
        far_writer.send(frame.clone()).await.unwrap();
        assert_eq!(good_back.next().await, Ok(Some(frame)));
    }
}

async fn a_length_over_the_limit_is_refused_before_its_bytes(pair: Pair) {
    for (header, kind) in [
        ([14, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], FrameKind::Publish),
        ([23, 0, 0, 0, 1, 0, 0, 0], FrameKind::Credit),
        ([1, 0xff, 0xff, 0xff, 0, 0, 0, 0], FrameKind::Hello),
    ] {
        let ((mut writer, _r), (_w, mut reader)) = stream(&pair).await;
        send_raw(&mut writer, Bytes::copy_from_slice(&header)).await;
        let error = reader.next().await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::FrameTooLarge), "{kind}: {error}");
    }
}

async fn an_unread_stream_stops_only_its_sender(pair: Pair) {
    const FRAMES: usize = 512;
    const BLOB: usize = 64 << 10;
    // The largest window, and what lies between the counter and it.
    const HELD_MAX: usize = (4 << 20) + 2 * BLOB;
    let ((mut writer, _r), (_w, mut reader)) = stream(&pair).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&sent);
    let sending = tokio::spawn(async move {
        let blob = pattern(BLOB, 0);
        for i in 0..FRAMES {
            writer.send(publish(i as u64, vec![blob.clone()])).await.unwrap();
            counter.fetch_add(BLOB, Ordering::Relaxed);
        }
        writer.finish();
        writer
    });
    let (mut near, mut far) = stream(&pair).await;
    for i in 0..500 {
        near.0.send(credit(i)).await.unwrap();
        let frame = far.1.next().await.unwrap().unwrap();
        far.0.send(frame).await.unwrap();
        assert_eq!(near.1.next().await, Ok(Some(credit(i))));
    }
    assert!(sent.load(Ordering::Relaxed) > 0);
    assert!(sent.load(Ordering::Relaxed) <= HELD_MAX, "{sent:?} bytes were taken");
    for i in 0..FRAMES {
        assert_eq!(sequence(&reader.next().await.unwrap().unwrap()), i as u64);
    }
    sending.await.unwrap();
}

async fn a_cancelled_read_loses_nothing(pair: Pair) {
    let ((mut writer, _r), (_w, mut reader)) = stream(&pair).await;
    let frames: Vec<Frame> = (0..20).map(|i| publish(i, vec![pattern(i as usize, 0)])).collect();
    let bytes: Vec<u8> = frames.iter().cloned().flat_map(encoded).collect();
    let sending = tokio::spawn(async move {
        for byte in bytes {
            send_raw(&mut writer, vec![byte]).await;
            tokio::task::yield_now().await;
        }
        writer
    });
    let mut cancelled = 0;
    for frame in frames {
        loop {
            tokio::select! {
                biased;
                got = reader.next() => break assert_eq!(got, Ok(Some(frame))),
                () = tokio::task::yield_now() => cancelled += 1,
            }
        }
    }
    assert!(cancelled > 0);
    sending.await.unwrap();
}

/// Sends on `writer` until the window is full and a send was cancelled in the middle.
fn cancel_a_send(writer: &mut FrameWriter) -> u64 {
    for sequence in 0.. {
        let frame = publish(sequence, vec![pattern(300_000, sequence as usize)]);
        if poll_once(pin!(writer.send(frame))).is_pending() {
            return sequence;
        }
    }
    unreachable!("windows are bounded")
}

async fn a_cancelled_send_goes_on_with_the_next(pair: Pair) {
    let ((mut writer, _r), (_w, mut reader)) = stream(&pair).await;
    let cancelled = cancel_a_send(&mut writer);
    let sending = tokio::spawn(async move {
        writer.send(publish(cancelled + 1, Vec::new())).await.unwrap();
        writer
    });
    for i in 0..=cancelled {
        let frame = reader.next().await.unwrap().unwrap();
        assert_eq!(sequence(&frame), i);
        assert!(frame.blob() == pattern(300_000, i as usize), "blob of frame {i}");
    }
    assert_eq!(sequence(&reader.next().await.unwrap().unwrap()), cancelled + 1);
    sending.await.unwrap();
}

async fn a_writer_dropped_inside_a_frame_resets_the_stream(pair: Pair) {
    for finish in [false, true] {
        let ((mut writer, _r), (_w, mut reader)) = stream(&pair).await;
        cancel_a_send(&mut writer);
        if finish {
            writer.finish();
        }
        drop(writer);
        let end = loop {
            match reader.next().await {
                Ok(Some(_)) => {}
                end => break end,
            }
        };
        assert_eq!(end, Err(ReadError::Reset { code: None }));
    }
}

async fn an_oversized_frame_is_not_sent(pair: Pair) {
    let ((mut writer, _r), (_w, mut reader)) = stream(&pair).await;
    let over = publish(2, vec![pattern(BATCH_BYTES_HARD, 0), Bytes::from_static(b"x")]);
    let error = writer.send_all([publish(1, Vec::new()), over, publish(3, Vec::new())]).await;
    let (bytes, limit) = (BATCH_BYTES_HARD + 1, BATCH_BYTES_HARD);
    let kind = FrameKind::Publish;
    assert_eq!(error, Err(WriteError::Frame(FrameError::BlobTooLarge { kind, bytes, limit })));
    writer.send(publish(4, Vec::new())).await.unwrap();
    writer.finish();
    assert_eq!(sequence(&reader.next().await.unwrap().unwrap()), 1);
    assert_eq!(sequence(&reader.next().await.unwrap().unwrap()), 4);
    assert_eq!(reader.next().await, Ok(None));
}

async fn nothing_is_sent_after_the_end(pair: Pair) {
    let ((mut writer, _r), (_w, mut reader)) = stream(&pair).await;
    writer.finish();
    assert_eq!(writer.send(credit(1)).await, Err(WriteError::Finished));
    assert_eq!(reader.next().await, Ok(None));
}

async fn a_close_tells_the_peer_why(pair: Pair) {
    let ((mut writer, _r), (_w, mut reader)) = stream(&pair).await;
    pair.client.close(Some(ErrorCode::GoingAway), "lunch");
    let code = Some(WireCode::Known(ErrorCode::GoingAway));
    let lost = ConnectionLost::ClosedByPeer { code, reason: "lunch".to_owned() };
    assert_eq!(lost.to_string(), "the connection was closed by the peer (GoingAway): lunch");
    assert_eq!(pair.server.closed().await, lost);
    assert_eq!(reader.next().await, Err(lost.clone().into()));
    assert_eq!(pair.server.accept().await.err(), Some(lost));
    let here = ConnectionLost::ClosedLocally;
    assert_eq!(pair.client.closed().await, here);
    assert_eq!(writer.send(credit(1)).await, Err(here.clone().into()));
    assert_eq!(pair.client.open().await.err(), Some(here));
    pair.client.wait_drained().await;
}

async fn a_connection_closes_with_its_last_handle(pair: Pair) {
    let Pair { client, server, _endpoint } = pair;
    let other = client.clone();
    // A stream that nobody accepted keeps nothing open.
    let (mut writer, reader) = client.open().await.unwrap();
    writer.send(credit(1)).await.unwrap();
    drop((writer, reader, client));
    assert!(poll_once(pin!(server.closed())).is_pending());
    drop(other);
    let lost = ConnectionLost::ClosedByPeer { code: None, reason: String::new() };
    assert_eq!(server.closed().await, lost);
}

async fn a_stream_keeps_its_connection(pair: Pair) {
    let ((mut writer, _r), (_w, mut reader)) = stream(&pair).await;
    let Pair { client, server, _endpoint } = pair;
    drop((client, server));
    writer.send(credit(1)).await.unwrap();
    assert_eq!(reader.next().await, Ok(Some(credit(1))));
}
