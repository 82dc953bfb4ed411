//! A client that sends what it is told to, valid or not, and looks closely at what comes back. It
//! shares the frames with the server, and none of its code for connections.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, RecvStream, SendStream, TransportConfig, VarInt, WriteError};
use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::admin_response::Answer;
use railgun_proto::v1::subscribe::Start;
use railgun_proto::{Frame, FrameDecoder, FrameKind, Message, WireError, v1};
use railgun_testkit::TestNode;
use railgun_types::ErrorCode;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::raw_batch::values;
use crate::{in_the_end, within};

/// The alias that a [`publisher`](Attacker::publisher) has bound.
pub(crate) const ALIAS: u32 = 1;

/// Requests of an attacker that does not care for order.
pub(crate) const ANONYMOUS: v1::OpenPublisher =
    v1::OpenPublisher { producer_id: Bytes::new(), epoch: 0, ordered: false, leader_hints: false };

/// A connection that has said nothing yet, and may never.
pub(crate) struct Dialled {
    pub(crate) connection: quinn::Connection,
    _socket: quinn::Endpoint,
}

impl Dialled {
    pub(crate) async fn to(node: &TestNode) -> Self {
        Self::with(node, &[railgun_proto::ALPN], node).await.expect("the node takes connections")
    }

    /// Offers `alpn`, and believes only certificates that `trusted` issued.
    pub(crate) async fn with(
        node: &TestNode,
        alpn: &[&[u8]],
        trusted: &TestNode,
    ) -> Result<Self, ConnectionError> {
        let windows = TransportConfig::default();
        Self::dial(node.broker().listen_addr(), alpn, trusted.ca_pem(), windows).await
    }

    pub(crate) async fn dial(
        addr: SocketAddr,
        alpn: &[&[u8]],
        ca: &str,
        windows: TransportConfig,
    ) -> Result<Self, ConnectionError> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("usable");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        let tls = Arc::new(QuicClientConfig::try_from(tls).expect("a QUIC cipher suite"));
        let socket = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
        let mut config = quinn::ClientConfig::new(tls);
        config.transport_config(Arc::new(windows));
        let connecting = socket.connect_with(config, addr, "localhost").expect("an address");
        let connection = within("the TLS handshake", connecting).await?;
        Ok(Self { connection, _socket: socket })
    }

    pub(crate) async fn open(&self) -> Line {
        let opened = within("a stream to open", self.connection.open_bi()).await;
        let (send, receive) = opened.expect("the connection lives");
        Line { send, receive, decoder: FrameDecoder::new(), frames: VecDeque::new() }
    }

    /// The code the server closed the connection with.
    pub(crate) async fn close_code(&self) -> Option<ErrorCode> {
        match within("the connection to be closed", self.connection.closed()).await {
            ConnectionError::ApplicationClosed(close) => {
                ErrorCode::from_u32(u32::try_from(close.error_code.into_inner()).expect("a code"))
            }
            other => panic!("{other}"),
        }
    }
}

/// A client that was let in.
pub(crate) struct Attacker {
    pub(crate) dialled: Dialled,
    pub(crate) control: Line,
}

/// Asks to be a member of the group "g" of a stream.
pub(crate) fn join(stream: &str, credit_messages: u32) -> v1::JoinGroup {
    v1::JoinGroup {
        stream: stream.into(),
        group: "g".into(),
        credit_messages,
        credit_bytes: 1 << 20,
        ..Default::default()
    }
}

impl Attacker {
    pub(crate) async fn enter(node: &TestNode) -> Self {
        Self::greet(Dialled::to(node).await).await
    }

    /// A client that allows the server this many bytes that it has not read, on each stream and in
    /// all.
    pub(crate) async fn with_window(node: &TestNode, bytes: u32) -> Self {
        Self::with_windows(node, bytes, bytes).await
    }

    /// The same, of so many on each stream.
    pub(crate) async fn with_windows(node: &TestNode, stream: u32, all: u32) -> Self {
        let mut windows = TransportConfig::default();
        windows
            .stream_receive_window(stream.into())
            .receive_window(all.into())
            .keep_alive_interval(Some(Duration::from_secs(5)));
        let addr = node.broker().listen_addr();
        let dialled = Dialled::dial(addr, &[railgun_proto::ALPN], node.ca_pem(), windows).await;
        Self::greet(dialled.expect("the node takes connections")).await
    }

    async fn greet(dialled: Dialled) -> Self {
        let mut control = dialled.open().await;
        control.send(&hello("")).await;
        control.expect::<v1::Welcome>().await;
        Self { dialled, control }
    }

    pub(crate) async fn open(&self) -> Line {
        self.dialled.open().await
    }

    /// A stream on which `first` was sent.
    pub(crate) async fn begin(&self, first: &impl Message) -> Line {
        let mut line = self.open().await;
        line.send(first).await;
        line
    }

    /// An administrative call on a QUIC stream of its own.
    pub(crate) async fn call(&self, call: Call) -> Answer {
        let mut line = self.begin(&v1::AdminRequest { id: 7, call: Some(call) }).await;
        line.finish();
        let response: v1::AdminResponse = line.expect().await;
        assert_eq!(response.id, 7);
        assert!(line.next().await.is_none(), "the server finishes when the client has");
        response.answer.expect("an answer")
    }

    /// The stream, made if it is not there.
    pub(crate) async fn ensure(&self, name: &str, max_message_bytes: Option<u32>) {
        let spec = Some(v1::StreamPatch { max_message_bytes, ..Default::default() });
        let mode = v1::EnsureMode::EnsureOverwrite.into();
        let ensure = v1::EnsureStream { name: name.into(), spec, mode, ..Default::default() };
        let answer = self.call(Call::EnsureStream(ensure)).await;
        assert!(matches!(answer, Answer::StreamEnsured(_)), "{answer:?}");
    }

    /// Makes the group "g" of a stream, from its beginning.
    pub(crate) async fn ensure_group(&self, stream: &str, spec: v1::GroupPatch) {
        let ensure = v1::EnsureGroup {
            stream: stream.into(),
            group: "g".into(),
            spec: Some(spec),
            start: Some(v1::ensure_group::Start::Earliest(true)),
            mode: v1::EnsureMode::EnsureOverwrite.into(),
            ..Default::default()
        };
        let answer = self.call(Call::EnsureGroup(ensure)).await;
        assert!(matches!(answer, Answer::GroupEnsured(_)), "{answer:?}");
    }

    pub(crate) async fn describe(&self, name: &str) -> v1::StreamDescription {
        match self.call(Call::DescribeStream(v1::DescribeStream { name: name.into() })).await {
            Answer::StreamDescription(description) => description,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn describe_group(&self, stream: &str) -> v1::GroupDescription {
        let describe = v1::DescribeGroup { stream: stream.into(), group: "g".into() };
        match self.call(Call::DescribeGroup(describe)).await {
            Answer::GroupDescription(description) => description,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn delete(&self, name: &str) {
        let answer = self
            .call(Call::DeleteStream(v1::DeleteStream { name: name.into(), ..Default::default() }))
            .await;
        assert!(matches!(answer, Answer::StreamDeleted(_)), "{answer:?}");
    }

    /// An open publisher that has bound `stream` to [`ALIAS`].
    pub(crate) async fn publisher(&self, open: &v1::OpenPublisher, stream: &str) -> Line {
        let mut line = self.begin(open).await;
        line.expect::<v1::PublisherOpened>().await;
        line.bind(ALIAS, stream).await.expect("bound");
        line
    }

    /// Every value a stream holds, by offset.
    pub(crate) async fn read_all(&self, stream: &str) -> Vec<(u64, Bytes)> {
        let mut line = self.begin(&subscribe(stream, Start::Earliest(true), 1 << 30, true)).await;
        line.expect::<v1::Subscribed>().await;
        let mut found = Vec::new();
        loop {
            let frame = line.next().await.expect("the end is told");
            if frame.kind() == FrameKind::End {
                return found;
            }
            let deliver: v1::Deliver = frame.decode().expect("a delivery");
            found.extend(values(&deliver, frame.blob()));
        }
    }

    /// Fails unless this connection still publishes and reads.
    pub(crate) async fn is_served(&self) {
        self.ensure("attacker", None).await;
        let before = self.describe("attacker").await.next_offset;
        let mut line = self.publisher(&ANONYMOUS, "attacker").await;
        let result = line.publish_values(&[b"still here"]).await;
        assert_eq!((result.error, result.base_offset), (None, before));
        let read = self.read_all("attacker").await;
        assert_eq!(read.last(), Some(&(before, Bytes::from_static(b"still here"))));
    }
}

/// The usual greeting.
pub(crate) fn hello(token: &str) -> v1::Hello {
    let client = "hostile".to_owned();
    v1::Hello { version_min: 1, version_max: 1, client, token: token.to_owned() }
}

pub(crate) fn subscribe(stream: &str, start: Start, credit: u64, until_end: bool) -> v1::Subscribe {
    v1::Subscribe {
        stream: stream.to_owned(),
        start: Some(start),
        credit_bytes: credit,
        until_end,
        ..Default::default()
    }
}

/// The 8 bytes in front of a frame, with lengths that need not be true or allowed.
pub(crate) fn header(kind: u8, head_bytes: u32, blob_bytes: u32) -> [u8; 8] {
    let [h0, h1, h2, _] = head_bytes.to_le_bytes();
    let [b0, b1, b2, b3] = blob_bytes.to_le_bytes();
    [kind, h0, h1, h2, b0, b1, b2, b3]
}

/// The bytes of a frame.
pub(crate) fn encode(frame: Frame) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    let parts = frame.write_to(&mut bytes).expect("within the limits");
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes.to_vec()
}

/// Both directions of one QUIC stream.
pub(crate) struct Line {
    send: SendStream,
    receive: RecvStream,
    decoder: FrameDecoder,
    frames: VecDeque<Frame>,
}

impl Line {
    pub(crate) async fn send(&mut self, message: &impl Message) {
        self.bytes(&encode(Frame::new(message))).await;
    }

    /// Sends any bytes. That the server reads no further is for the reader to find out why.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) {
        match within("bytes to be taken", self.send.write_all(bytes)).await {
            Ok(()) | Err(WriteError::Stopped(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends bytes that the server may never take.
    pub(crate) async fn bytes_for_ever(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.expect("the server waits, it does not give up");
    }

    pub(crate) fn finish(&mut self) {
        // Fails only where the server has stopped the stream.
        self.send.finish().ok();
    }

    pub(crate) fn reset(&mut self) {
        self.send.reset(VarInt::from_u32(0)).ok();
    }

    /// Waits until the server gives the stream up, which must be for this reason. It has patience.
    pub(crate) async fn reset_by(&mut self, code: ErrorCode) {
        let reset = in_the_end("the stream to be reset", self.receive.received_reset()).await;
        assert_eq!(reset, Ok(Some(VarInt::from_u32(code as u32))));
    }

    /// Waits until something of the next frame has come.
    pub(crate) async fn begins_to_answer(&mut self) {
        let chunk = within("an answer", self.receive.read_chunk(1, true)).await;
        let mut piece = chunk.expect("it is not reset").expect("it is not finished").bytes;
        assert!(self.decoder.feed(&mut piece).expect("a frame").is_none());
    }

    /// Whether the server has given the stream up for this reason; looks at what is here only.
    pub(crate) async fn is_reset_by(&mut self, code: ErrorCode) -> bool {
        let code = VarInt::from_u32(code as u32);
        let ended = tokio::select! {
            biased;
            ended = self.receive.received_reset() => ended,
            () = std::future::ready(()) => return false,
        };
        ended.is_ok_and(|ended| ended == Some(code))
    }

    /// The next frame; `None` when the server has finished the stream.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Some(frame);
            }
            let chunk = within("a frame", self.receive.read_chunk(64 << 10, true)).await;
            let Some(chunk) = chunk.expect("the server finishes its side, it does not reset")
            else {
                assert!(self.decoder.at_border(), "the server stopped inside a frame");
                return None;
            };
            let mut piece = chunk.bytes;
            while let Some(frame) = self.decoder.feed(&mut piece).expect("a frame") {
                self.frames.push_back(frame);
            }
        }
    }

    /// The next frame, which must carry an `M`.
    pub(crate) async fn expect<M: Message>(&mut self) -> M {
        let frame = self.next().await.unwrap_or_else(|| panic!("the end instead of {}", M::KIND));
        if frame.kind() == FrameKind::Error && M::KIND != FrameKind::Error {
            panic!("{} instead of {}", error_of(&frame), M::KIND);
        }
        frame.decode().expect("the expected kind")
    }

    /// The next frame must be an error with this code and its documented hint, and the last one.
    pub(crate) async fn is_refused(&mut self, code: ErrorCode) -> WireError {
        let error: WireError = self.expect::<v1::Error>().await.into();
        assert_refused(&error, code);
        assert!(self.next().await.is_none(), "an error ends the stream");
        error
    }

    /// Binds a stream; the error is checked to be typed.
    pub(crate) async fn bind(
        &mut self,
        alias: u32,
        stream: &str,
    ) -> Result<v1::StreamBound, WireError> {
        self.send(&v1::BindStream { alias, stream: stream.to_owned(), ..Default::default() }).await;
        let bound: v1::StreamBound = self.expect().await;
        assert_eq!(bound.alias, alias);
        match bound.error {
            Some(error) => Err(error.into()),
            None => Ok(bound),
        }
    }

    /// Sends one Publish frame.
    pub(crate) async fn send_publish(&mut self, items: Vec<v1::PublishItem>, blob: Vec<u8>) {
        let frame = Frame::with_blob(&v1::Publish { items }, vec![blob.into()]);
        self.bytes(&encode(frame)).await;
    }

    /// Publishes one batch as `item` says, whose length is filled in.
    pub(crate) async fn publish(
        &mut self,
        item: v1::PublishItem,
        batch: Vec<u8>,
    ) -> v1::ItemResult {
        let batch_bytes = u32::try_from(batch.len()).expect("a batch");
        self.send_publish(vec![v1::PublishItem { batch_bytes, ..item }], batch).await;
        let mut result: v1::PublishResult = self.expect().await;
        assert_eq!(result.items.len(), 1);
        result.items.remove(0)
    }

    /// Publishes to [`ALIAS`].
    pub(crate) async fn publish_batch(&mut self, batch: Vec<u8>) -> v1::ItemResult {
        self.publish(v1::PublishItem { alias: ALIAS, ..Default::default() }, batch).await
    }

    /// Publishes plain values to [`ALIAS`].
    pub(crate) async fn publish_values(&mut self, values: &[&[u8]]) -> v1::ItemResult {
        self.publish_batch(crate::raw_batch::of_values(values)).await
    }
}

fn error_of(frame: &Frame) -> WireError {
    frame.decode::<v1::Error>().expect("an error").into()
}

/// An error as the protocol documents it: the code, and the hint of its table.
pub(crate) fn assert_refused(error: &WireError, code: ErrorCode) {
    assert_eq!(error.code, code, "{error}");
    assert_eq!(error.retry, code.retry(), "{error}");
    assert!(!error.message.is_empty(), "people want to know");
}

/// The error of a result that must be one.
pub(crate) fn refusal(result: v1::ItemResult, code: ErrorCode) -> WireError {
    assert_eq!(result.published, 0, "{result:?}");
    let error: WireError = result.error.expect("refused").into();
    assert_refused(&error, code);
    error
}
