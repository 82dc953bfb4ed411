//! Before a client is let in.

use std::time::Duration;

use quinn::ConnectionError;
use railgun_broker::{Broker, BrokerSpec, Seams, TokenHash};
use railgun_cold::{Bucket, BucketOptions};
use railgun_net::tls::DevCa;
use railgun_net::{ConnectError, ConnectSpec, Endpoint, ListenSpec, Roots};
use railgun_proto::v1::admin_request::Call;
use railgun_proto::{ALPN, Frame, FrameKind, v1};
use railgun_testkit::TestNode;
use railgun_types::ErrorCode::{
    FrameTooLarge, InvalidName, ProtocolViolation, Unauthenticated, UnsupportedVersion,
};
use railgun_types::limits::BATCH_BYTES_HARD;

use crate::attacker::{ANONYMOUS, Attacker, Dialled, encode, header, hello};
use crate::bystander::Bystander;
use crate::within;

const HELLO: u8 = FrameKind::Hello as u8;

#[tokio::test(flavor = "multi_thread")]
async fn other_protocols_get_no_connection() {
    let node = TestNode::start().await;
    let offers: [&[&[u8]]; 4] = [&[], &[b"h3"], &[b"railgun/2"], &[b"railgun/1x", b"RAILGUN/1"]];
    for alpn in offers {
        // TLS alert 120, no_application_protocol.
        match Dialled::with(&node, alpn, &node).await.map(|_| ()) {
            Err(ConnectionError::ConnectionClosed(close)) => {
                assert_eq!(u64::from(close.error_code), 0x100 + 120);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(Dialled::with(&node, &[b"h3", ALPN], &node).await.is_ok(), "one of them will do");
    Bystander::join(&node).await.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_believes_its_own_ca_only() {
    let (node, other) = (TestNode::start().await, TestNode::start().await);
    assert!(matches!(
        Dialled::with(&node, &[ALPN], &other).await.map(|_| ()),
        Err(ConnectionError::TransportError(_))
    ));
    let roots = Roots::Pem(other.ca_pem().as_bytes().to_vec());
    let spec = ConnectSpec::new(node.broker().listen_addr(), "localhost", roots);
    let error = railgun_net::connect(spec).await.expect_err("not to be trusted");
    assert!(matches!(error, ConnectError::UntrustedCertificate { .. }), "{error}");
    Bystander::join(&node).await.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_without_overlap_are_refused() {
    let node = TestNode::start().await;
    for (version_min, version_max) in [(0, 0), (2, 9), (u32::MAX, u32::MAX), (1, 0), (9, 1)] {
        let dialled = Dialled::to(&node).await;
        let mut control = dialled.open().await;
        control.send(&v1::Hello { version_min, version_max, ..hello("") }).await;
        control.is_refused(UnsupportedVersion).await;
    }
    for (version_min, version_max) in [(0, 1), (1, 9), (0, u32::MAX)] {
        let dialled = Dialled::to(&node).await;
        let mut control = dialled.open().await;
        control.send(&v1::Hello { version_min, version_max, ..hello("") }).await;
        assert_eq!(control.expect::<v1::Welcome>().await.version, 1);
    }
    Bystander::join(&node).await.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_hello_is_told_so() {
    let node = TestNode::start().await;
    let mut bystander = Bystander::join(&node).await;
    let publish = header(FrameKind::Publish as u8, 0, BATCH_BYTES_HARD as u32);
    let cases: [(&str, Vec<u8>, _); 9] = [
        ("an unknown kind", header(99, 0, 0).to_vec(), ProtocolViolation),
        ("the server's kind", header(FrameKind::Welcome as u8, 0, 0).to_vec(), ProtocolViolation),
        ("another role", header(FrameKind::Subscribe as u8, 0, 0).to_vec(), ProtocolViolation),
        // Refused by its header: nobody who was not let in may send 8 MiB.
        ("a batch", publish.to_vec(), ProtocolViolation),
        ("a long head", header(HELLO, (16 << 10) + 1, 0).to_vec(), FrameTooLarge),
        ("a blob", header(HELLO, 0, 1).to_vec(), FrameTooLarge),
        ("no message", [&header(HELLO, 3, 0)[..], &[0xff; 3]].concat(), ProtocolViolation),
        (
            "text that is none",
            [&header(HELLO, 3, 0)[..], &[0x22, 1, 0xff]].concat(),
            ProtocolViolation,
        ),
        ("text", b"GET / HTTP/1.1\r\n\r\n".to_vec(), ProtocolViolation),
    ];
    for (what, bytes, code) in cases {
        println!("{what}");
        let dialled = Dialled::to(&node).await;
        let mut control = dialled.open().await;
        control.bytes(&bytes).await;
        control.is_refused(code).await;
        bystander.is_served().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_stops_half_way_is_told_so() {
    let node = TestNode::start().await;
    for bytes in [&header(HELLO, 100, 0)[..], &header(HELLO, 100, 0)[..3], &[HELLO]] {
        let dialled = Dialled::to(&node).await;
        let mut control = dialled.open().await;
        control.bytes(bytes).await;
        control.finish();
        control.is_refused(ProtocolViolation).await;
    }
    Bystander::join(&node).await.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_closed() {
    // The server's own deadline of 5 s: as long as this test takes.
    let node = TestNode::start().await;
    let silent = Dialled::to(&node).await;
    let half = Dialled::to(&node).await;
    let mut control = half.open().await;
    control.bytes(&header(HELLO, 100, 0)).await;
    // Told why, but never leaves.
    let stays = Dialled::to(&node).await;
    let mut refused = stays.open().await;
    refused.send(&ANONYMOUS).await;
    refused.is_refused(ProtocolViolation).await;
    for dialled in [silent, half, stays] {
        assert_eq!(dialled.close_code().await, Some(ProtocolViolation));
    }
    Bystander::join(&node).await.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_has_one_stream_to_say_who_it_is() {
    let node = TestNode::start().await;
    let stranger = Dialled::to(&node).await;
    let mut control = stranger.open().await;
    // The largest greeting that may be, and the last byte of it is missing.
    control.bytes(&header(HELLO, 16 << 10, 0)).await;
    control.bytes(&[0; (16 << 10) - 1]).await;
    // It is waited for, and whatever else the stranger has waits on its side.
    let further = within("the end", stranger.connection.open_bi()).await;
    assert!(further.is_err(), "a second stream");
    assert_eq!(stranger.close_code().await, Some(ProtocolViolation));
    Bystander::join(&node).await.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_hello_ends_the_session_or_its_stream() {
    let node = TestNode::start().await;
    let mut bystander = Bystander::join(&node).await;
    let mut attacker = Attacker::enter(&node).await;
    attacker.begin(&hello("")).await.is_refused(ProtocolViolation).await;
    attacker.is_served().await;
    attacker.control.send(&hello("")).await;
    assert_eq!(attacker.dialled.close_code().await, Some(ProtocolViolation));
    bystander.is_served().await;

    let mut attacker = Attacker::enter(&node).await;
    attacker.control.bytes(&header(FrameKind::Credit as u8, 0, 1)).await;
    assert_eq!(attacker.dialled.close_code().await, Some(FrameTooLarge));

    let mut attacker = Attacker::enter(&node).await;
    attacker.control.finish();
    assert_eq!(attacker.dialled.close_code().await, None, "it only said goodbye");
    bystander.is_served().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_nothing_is_served() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let ca = DevCa::load_or_create(dir.path()).expect("an authority");
    let tls = ca.issue(&["localhost".into()]).expect("a certificate");
    let broker = Broker::start(BrokerSpec {
        seams: Seams::real(dir.path()).expect("a data directory"),
        bucket: Bucket::open("memory://", &BucketOptions::new(1)).expect("a bucket"),
        listen: Box::new(|| Endpoint::bind(ListenSpec::new(([127, 0, 0, 1], 0).into(), tls))),
        address: "127.0.0.1".to_owned(),
        tokens: vec![TokenHash::of("open sesame")],
        admin_tokens: Vec::new(),
        hot_bytes_max: 1 << 30,
        shards: 1,
        max_time_to_cold: Duration::from_secs(600),
        streams_max: 1_000,
        cluster: None,
    })
    .await
    .expect("the node starts");
    let dial = || async {
        let dialled =
            Dialled::dial(broker.listen_addr(), &[ALPN], ca.pem(), Default::default()).await;
        dialled.expect("the node takes connections")
    };
    let list = || v1::AdminRequest {
        id: 1,
        call: Some(Call::ListStreams(v1::ListStreams { after: "$".into(), ..Default::default() })),
    };
    let long = "x".repeat(16_000);
    let wrong = ["", "open sesam", "open sesame ", "OPEN SESAME", long.as_str()];
    let mut refused = Vec::new();
    for token in wrong {
        let dialled = dial().await;
        let mut control = dialled.open().await;
        control.send(&hello(token)).await;
        let error = control.is_refused(Unauthenticated).await;
        assert!(!error.message.contains("sesame"), "{error}");
        refused.push(dialled);
    }
    for dialled in refused {
        // Nothing but silence until the server closes, which it does with the same code: where the
        // first stream has ended there may be another one, which nobody reads.
        let other = within("a stream or the end", dialled.connection.open_bi()).await;
        if let Ok((mut send, mut receive)) = other {
            send.write_all(&encode(Frame::new(&list()))).await.ok();
            let answer = within("the end", receive.read_chunk(1, true)).await;
            assert!(answer.is_err(), "{answer:?}");
        }
        assert_eq!(dialled.close_code().await, Some(Unauthenticated));
    }
    let dialled = dial().await;
    let mut control = dialled.open().await;
    control.send(&hello("open sesame")).await;
    control.expect::<v1::Welcome>().await;
    let mut line = dialled.open().await;
    line.send(&list()).await;
    let response: v1::AdminResponse = line.expect().await;
    match response.answer {
        Some(v1::admin_response::Answer::Error(error)) => {
            assert_eq!(error.code, InvalidName as u32);
        }
        other => panic!("{other:?}"),
    }
    dialled.connection.close(0u32.into(), b"");
    broker.shutdown(Duration::from_secs(5)).await;
}
