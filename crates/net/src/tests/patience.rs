//! How long a frame that has begun is waited for. Time is paused: it passes as it is slept away.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use railgun_proto::Frame;
use railgun_types::ErrorCode;
use tokio::time::{Instant, sleep, timeout};

use super::{memory_pair, pattern, publish};
use crate::{ClientMemory, FrameReader, FrameWriter, ReadError};

/// Bytes of a blob that a slow line takes half a minute for.
const BLOB_BYTES: usize = 2 << 20;

/// One direction of a stream on which `first` came, read as from a client.
async fn direction(first: Bytes) -> (FrameWriter, FrameReader, impl Sized) {
    direction_in(&ClientMemory::new(1 << 30, 100), first).await
}

/// The same where clients have this memory.
async fn direction_in(
    memory: &ClientMemory,
    first: Bytes,
) -> (FrameWriter, FrameReader, impl Sized + use<>) {
    let mut pair = memory_pair().await;
    pair.server = pair.server.distrusted(memory);
    let (mut writer, near) = pair.client.open().await.unwrap();
    writer.send_raw(first).await.unwrap();
    let (far, reader) = pair.server.accept().await.unwrap();
    (writer, reader, (pair, near, far))
}

fn encoded() -> Bytes {
    encode(publish(1, vec![pattern(BLOB_BYTES, 1)]))
}

fn encode(frame: Frame) -> Bytes {
    let mut bytes = BytesMut::new();
    for part in frame.write_to(&mut bytes).unwrap() {
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

/// The least memory there can be: one frame of the largest size fits, and not two.
fn scarce() -> ClientMemory {
    ClientMemory::new(0, 100)
}

/// A frame of 8 MiB, which takes more than half of what is scarce.
fn large() -> Bytes {
    encode(publish(1, vec![pattern(8 << 20, 1)]))
}

#[tokio::test(start_paused = true)]
async fn frames_wait_for_memory_until_those_before_them_are_used() {
    let (memory, large) = (scarce(), large());
    let begun = large.slice(..200_000);
    let (mut first_writer, mut first, _one) = direction_in(&memory, begun.clone()).await;
    let (mut second_writer, mut second, _two) = direction_in(&memory, begun).await;
    assert!(timeout(Duration::from_millis(1), first.next()).await.is_err());
    assert!(memory.figures().frames.bytes > 8 << 20);
    // The second is not read before there is room for all of it; whoever asks in pieces keeps his
    // place.
    let send = |writer: FrameWriter| {
        let rest = large.slice(200_000..);
        async move {
            let mut writer = writer;
            writer.send_raw(rest).await.unwrap();
            writer
        }
    };
    let (mut sending, mut other) = (Box::pin(send(first_writer)), Box::pin(send(second_writer)));
    for _ in 0..10 {
        let waited = timeout(Duration::from_millis(100), second.next());
        tokio::select! {
            waited = waited => assert!(waited.is_err()),
            _ = &mut other => panic!("a frame without memory was read"),
        }
        assert_eq!(memory.figures().frames.waiting, 1);
    }
    // A small frame of anybody needs nothing that is shared.
    let (_writer, mut small, _three) =
        direction_in(&memory, encode(publish(3, vec![pattern(100, 3)]))).await;
    assert!(small.next().await.unwrap().is_some());
    let (frame, writer) = tokio::join!(first.next(), &mut sending);
    first_writer = writer;
    assert!(frame.unwrap().is_some());
    // It counts until it is used.
    assert!(timeout(Duration::from_millis(1), second.next()).await.is_err());
    first.release();
    let (frame, writer) = tokio::join!(second.next(), &mut other);
    second_writer = writer;
    assert!(frame.unwrap().is_some());
    drop((first, second));
    assert_eq!(memory.figures().frames.bytes, 0);
    drop((first_writer, second_writer));
}

#[tokio::test(start_paused = true)]
async fn who_holds_memory_that_others_wait_for_must_hurry() {
    let memory = scarce();
    let begun = large().slice(..200_000);
    let (_writer, mut idle, _one) = direction_in(&memory, begun.clone()).await;
    let (_writer, mut next, _two) = direction_in(&memory, begun).await;
    let begin = Instant::now();
    assert!(timeout(Duration::from_secs(2), idle.next()).await.is_err());
    let waits = async {
        // Its own time begins when it has memory.
        let error = next.next().await.unwrap_err();
        assert!(matches!(error, ReadError::Stalled { .. }), "{error}");
        begin.elapsed().as_secs()
    };
    let stalls = async {
        let error = idle.next().await.unwrap_err();
        assert!(matches!(error, ReadError::Stalled { .. }), "{error}");
        drop(idle);
        begin.elapsed().as_secs()
    };
    let (ended, stalled) = tokio::join!(waits, stalls);
    assert_eq!(stalled, 5 + 8);
    assert_eq!(ended, stalled + 30 + 128);
}

#[tokio::test(start_paused = true)]
async fn memory_is_waited_for_so_long_and_no_longer() {
    let memory = scarce();
    let (_writer, mut first, _one) = direction_in(&memory, large().slice(..200_000)).await;
    assert!(timeout(Duration::from_millis(1), first.next()).await.is_err());
    let (_writer, mut second, _two) = direction_in(&memory, large().slice(..200_000)).await;
    let begin = Instant::now();
    // The holder is not even asked: a node that is busy with it for long.
    let error = second.next().await.unwrap_err();
    assert!(matches!(error, ReadError::NoRoom { .. }), "{error}");
    assert_eq!(error.code(), Some(ErrorCode::QuotaExceeded));
    assert_eq!(begin.elapsed().as_secs(), 15);
    assert_eq!(memory.figures().frames.waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_taken_does_not_keep_the_memory_of_a_frame_from_others() {
    let memory = scarce();
    let begun = large().slice(..200_000);
    let (_writer, mut deaf, _one) = direction_in(&memory, begun.clone()).await;
    assert!(timeout(Duration::from_millis(1), deaf.next()).await.is_err());
    // Nobody waits for it: an answer may take any time.
    assert_eq!(deaf.meanwhile(sleep(Duration::from_secs(1_000))).await, Ok(()));
    let (_writer, mut next, _two) = direction_in(&memory, begun).await;
    let begin = Instant::now();
    let answers = async {
        let error = deaf.meanwhile(std::future::pending::<()>()).await.unwrap_err();
        assert!(matches!(error, ReadError::Stalled { .. }), "{error}");
        drop(deaf);
        begin.elapsed().as_secs()
    };
    let (answered, read) = tokio::join!(answers, timeout(Duration::from_secs(14), next.next()));
    assert_eq!(answered, 5 + 8);
    assert!(read.is_err(), "it is under way");
    assert_eq!(memory.figures().frames.waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn what_fails_keeps_nothing() {
    let memory = scarce();
    let (_writer, mut reader, _rest) = direction_in(&memory, large().slice(..200_000)).await;
    assert!(matches!(reader.next().await, Err(ReadError::Stalled { .. })));
    assert_eq!(memory.figures().frames.bytes, 0);
    assert!(matches!(reader.next().await, Err(ReadError::Stalled { .. })));
}

#[tokio::test(start_paused = true)]
async fn little_is_taken_from_behind_a_frame() {
    let (mut writer, mut reader, _rest) = direction(encoded().slice(..8)).await;
    let bytes = encoded();
    let send = async {
        writer.send_raw(bytes.slice(8..)).await.unwrap();
        let mut sent = 0;
        loop {
            writer.send_raw(Bytes::from_static(&[0; 1 << 14])).await.unwrap();
            sent += 1;
            assert!(sent <= 16 + 4, "more than the window of a pipe, and four pieces");
        }
    };
    let read = async {
        assert!(reader.next().await.unwrap().is_some());
        // Whatever can come comes.
        sleep(Duration::from_secs(10)).await;
    };
    tokio::select! {
        () = send => {}
        () = read => {}
    }
}

#[tokio::test(start_paused = true)]
async fn frames_for_a_client_take_its_memory_whoever_sends_them() {
    let memory = ClientMemory::new(64 << 20, 100);
    let pair = memory_pair().await;
    let (mut near, _answers) = pair.client.open().await.unwrap();
    let sending = near.send(publish(1, vec![pattern(BLOB_BYTES, 1)]));
    let reading = async {
        let (_far, mut reader) = pair.server.accept().await.unwrap();
        reader.charge(memory.reader());
        reader.next().await.unwrap().unwrap();
        assert!(memory.figures().records.bytes >= BLOB_BYTES, "{:?}", memory.figures());
        reader.release();
        assert_eq!(memory.figures().records.bytes, 0);
    };
    let (sent, ()) = tokio::join!(sending, reading);
    sent.unwrap();
}
