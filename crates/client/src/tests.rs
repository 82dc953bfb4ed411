//! A whole client against a server that does as a test says, in one process and without real time.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use railgun_net::memory::MemoryNetwork;
use railgun_net::{FrameReader, FrameWriter, QUIC_STREAMS_MAX};
use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::admin_response::Answer;
use railgun_proto::{Frame, VERSION, v1};
use tokio::sync::watch;
use tokio::time::Instant;

use super::*;

pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Far beyond any patience: a test that gets here waits for something that never comes.
const EVER: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
struct TestDial {
    network: MemoryNetwork,
    addr: SocketAddr,
}

impl Dial for TestDial {
    fn dial<'a>(&'a self, _: &'a Target) -> Dialling<'a> {
        Box::pin(async { Ok(self.network.connect(self.addr).await?) })
    }
}

/// A client whose server welcomes it, and then treats each stream as `serve` says.
pub(crate) async fn client_of<S, F>(serve: S) -> Client
where
    S: Fn(FrameWriter, FrameReader) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let network = MemoryNetwork::new();
    let endpoint = network.listen(([127, 0, 0, 1], 0).into()).expect("nobody else is there");
    let dial = TestDial { network, addr: endpoint.local_addr() };
    tokio::spawn(async move {
        let connection = endpoint.accept().await.expect("a client connects");
        let (mut control, mut hello) = connection.accept().await.expect("a first stream");
        hello.next_of::<v1::Hello>().await.expect("a frame").expect("the first");
        let welcome = v1::Welcome {
            version: VERSION,
            cluster_uid: Bytes::from_static(&[1; 16]),
            unanswered_max: 8,
            ..v1::Welcome::default()
        };
        control.send(Frame::new(&welcome)).await.expect("the client listens");
        while let Ok((writer, reader)) = connection.accept().await {
            tokio::spawn(serve(writer, reader));
        }
    });
    let options = ClientOptions {
        give_up_after: PATIENCE,
        call_timeout: PATIENCE,
        seed: Some([7; 16]),
        ..ClientOptions::new("test:1")
    };
    Client::connect_over(Arc::new(dial), options).await.expect("connects")
}

pub(crate) fn orders() -> StreamName {
    StreamName::new("orders").expect("a valid name")
}

/// Reads, and never says a word.
pub(crate) async fn silence(_writer: FrameWriter, mut reader: FrameReader) {
    while let Ok(Some(_)) = reader.next().await {}
}

/// Opens every subscription, to a stream without records.
async fn empty_stream(mut writer: FrameWriter, mut reader: FrameReader) {
    if let Ok(Some(_)) = reader.next_of::<v1::Subscribe>().await {
        let stream_uid = Bytes::from_static(&[2; 16]);
        let opened = v1::Subscribed { stream_uid, ..v1::Subscribed::default() };
        writer.send(Frame::new(&opened)).await.expect("the client listens");
        silence(writer, reader).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_never_answered_ends() {
    let client = client_of(silence).await;
    let began = Instant::now();
    let opening = client.subscribe(orders()).open();
    let opened = tokio::time::timeout(EVER, opening).await.expect("it ends");
    let error = opened.expect_err("nobody answered");
    assert!(matches!(&error, SubscribeError::Disconnected { .. }), "{error}");
    assert!(error.to_string().contains("no answer for 5s"), "{error}");
    assert!(began.elapsed() < PATIENCE + Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn whoever_finds_all_streams_of_the_connection_in_use_is_told() {
    let client = client_of(empty_stream).await;
    let mut subscriptions = Vec::new();
    for _ in 1..QUIC_STREAMS_MAX {
        subscriptions.push(client.subscribe(orders()).open().await.expect("there is room"));
    }
    let began = Instant::now();
    let error = client.subscribe(orders()).open().await.expect_err("there is no room");
    assert!(matches!(error, SubscribeError::TooManyStreams { streams: 1_023, .. }), "{error}");
    let error = client.publisher(orders()).open().await.expect_err("there is no room");
    let OpenError::Unreachable { reason, .. } = error else { panic!("{error}") };
    assert_eq!(reason, "all 1023 streams of the connection are in use");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());

    // A call waits for room, and was not made if there was none.
    let error = client.admin().delete_stream(&orders()).await.expect_err("there is no room");
    assert!(matches!(error, AdminError::Lost { .. }), "{error}");

    subscriptions.pop();
    client.subscribe(orders()).open().await.expect("there is room again");
}

#[tokio::test(start_paused = true)]
async fn whoever_binds_on_a_publisher_that_was_closed_is_told_not_to_try_again() {
    let client = client_of(empty_stream).await;
    let publisher = client.multi_publisher().open();
    publisher.clone().close().await;
    let error = publisher.bind(orders()).await.expect_err("it is closed");
    assert!(matches!(error, OpenError::Closed { .. }), "{error}");
    assert_eq!(error.retry(), Retry::Never);
}

/// A client whose server hears out the first administrative call and hangs up, and answers those behind it;
/// and which requests it has heard.
async fn client_of_a_server_that_hangs_up(
    answer: fn() -> Answer,
) -> (Client, watch::Receiver<Vec<Bytes>>) {
    let (heard, ids) = watch::channel(Vec::new());
    let client = client_of(move |mut writer, mut reader| {
        let heard = heard.clone();
        async move {
            let request = reader.next_of::<v1::AdminRequest>().await.expect("a frame");
            let request = request.expect("a request");
            let Some(Call::EnsureStream(ensure)) = request.call else { panic!("{request:?}") };
            heard.send_modify(|heard| heard.push(ensure.request_id));
            if heard.borrow().len() == 1 {
                return;
            }
            let response = v1::AdminResponse { id: request.id, answer: Some(answer()) };
            writer.send(Frame::new(&response)).await.expect("the client listens");
        }
    });
    (client.await, ids)
}

fn conflict() -> Answer {
    Answer::Error(WireError::new(ErrorCode::RevisionConflict, "it has another revision").into())
}

fn ensured(revision: u64) -> Answer {
    let outcome = v1::EnsureOutcome::EnsureUnchanged.into();
    let stream_uid = vec![1; 16].into();
    Answer::StreamEnsured(v1::StreamEnsured { outcome, stream_uid, revision, diff: Vec::new() })
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_known_revision_is_the_same_one_when_it_is_repeated() {
    // EN-6
    let options = EnsureOptions { if_revision: Some(3), ..EnsureOptions::default() };
    let (client, heard) = client_of_a_server_that_hangs_up(|| ensured(4)).await;
    let (admin, patch) = (client.admin(), SpecPatch::default());
    let told = admin.ensure_stream(&orders(), patch.clone(), options).await.expect("it is known");
    assert_eq!(told.revision, 4);
    let again =
        admin.ensure_stream(&orders(), patch.clone(), options).await.expect("it is another");
    assert_eq!(again.revision, 4);
    let ids = heard.borrow().clone();
    assert_eq!(ids.len(), 3, "the first was asked twice");
    assert_eq!((ids[0].len(), &ids[0]), (16, &ids[1]));
    assert_ne!(ids[1], ids[2]);

    // Where it was changed again since, nobody can say whether it was made before.
    let (client, heard) = client_of_a_server_that_hangs_up(conflict).await;
    let told = client.admin().ensure_stream(&orders(), patch.clone(), options).await;
    assert!(matches!(told, Err(AdminError::Unknown { .. })), "{told:?}");
    assert_eq!(heard.borrow().len(), 2);
    // Where nothing was lost, it was not.
    let told = client.admin().ensure_stream(&orders(), patch, options).await;
    assert!(matches!(told, Err(AdminError::Refused(_))), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_not_answered_in_time_may_have_been_done() {
    let client = client_of(silence).await;
    let began = Instant::now();
    let deleted = client.admin().delete_stream(&orders()).await;
    let Err(AdminError::Unknown { reason, .. }) = deleted else { panic!("{deleted:?}") };
    // It was looked at before, for half of the time.
    assert_eq!(reason, "no answer for 2.5s");
    assert_eq!(began.elapsed(), PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn who_only_looks_is_told_what_was_said_last() {
    let client = client_of(silence).await;
    let described = client.admin().describe_stream(&orders()).await;
    let Err(AdminError::Lost { reason, .. }) = described else { panic!("{described:?}") };
    assert_eq!(reason, "no answer for 5s");

    // It is refused as often as it is asked, but for the last time.
    let begin = Instant::now();
    let client = client_of(move |mut writer, mut reader| async move {
        let request = reader.next_of::<v1::AdminRequest>().await.expect("a frame");
        let id = request.expect("a request").id;
        if begin.elapsed() > PATIENCE / 2 {
            return silence(writer, reader).await;
        }
        let starting = WireError::new(ErrorCode::StreamStarting, "it is being created");
        let answer = Some(Answer::Error(starting.into()));
        writer.send(Frame::new(&v1::AdminResponse { id, answer })).await.expect("it listens");
    });
    let described = client.await.admin().describe_stream(&orders()).await;
    let Err(AdminError::Refused(error)) = described else { panic!("{described:?}") };
    assert_eq!(error.code, ErrorCode::StreamStarting);
    assert!(begin.elapsed() >= PATIENCE, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_finds_no_turn_in_time_was_not_made() {
    let client = client_of(silence).await;
    let admin = client.admin();
    let mut sealing = tokio::task::JoinSet::new();
    for _ in 0..limits::ADMIN_STREAMS {
        let admin = admin.clone();
        sealing.spawn(async move { admin.seal_stream(&orders(), false, EVER).await });
    }
    // All of them are sent before anything else.
    tokio::time::advance(Duration::from_millis(1)).await;
    let (began, orders) = (Instant::now(), orders());
    let deleting = tokio::time::timeout(EVER, admin.delete_stream(&orders));
    let deleted = deleting.await.expect("it ends");
    assert!(matches!(deleted, Err(AdminError::Lost { .. })), "{deleted:?}");
    assert!(began.elapsed() < PATIENCE + Duration::from_secs(1), "{:?}", began.elapsed());
}
