//! Nodes that speak with one another over QUIC, and those who are none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::crypto::rustls::QuicClientConfig;
use railgun_proto::WireCode;
use railgun_types::ErrorCode;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::{ANY_PORT, credit, listening, poll_once, publish, within_deadline};
use crate::peer::{
    CertificateFault, NODE_NAME, NodeTls, PEER_ALPN, PEER_STREAMS_MAX, PeerConnectError,
    PeerEndpoint, PeerListenSpec, RefusedPeers,
};
use crate::tls::{self, ClusterCa, NODE_VALID_FOR, NodeCertificate, TlsError};
use crate::{ConnectError, ConnectSpec, ConnectionLost, Endpoint, ListenSpec, Roots, connect};

/// A cluster's authority.
pub(super) struct Ca(ClusterCa);

impl Ca {
    pub(super) fn new() -> Self {
        Self(ClusterCa::create(tempfile::tempdir().unwrap().path()).unwrap())
    }

    fn certificate(&self) -> NodeCertificate {
        self.0.issue_node(&["localhost".to_owned()], NODE_VALID_FOR).unwrap()
    }

    /// A node, which listens.
    pub(super) fn endpoint(&self) -> PeerEndpoint {
        listen(self.tls(&self.certificate()))
    }

    fn tls(&self, node: &NodeCertificate) -> NodeTls {
        let (chain, key) = (node.chain_pem.as_bytes(), node.key_pem.as_bytes());
        NodeTls::from_pem(chain, key, self.0.pem().as_bytes()).unwrap()
    }

    /// Of one that trusts this authority, whatever it shows itself.
    fn unchecked(&self, node: &NodeCertificate) -> NodeTls {
        let (chain, key) = (node.chain_pem.as_bytes(), node.key_pem.as_bytes());
        let (chain, key) = tls::identity(chain, key).unwrap();
        let roots = tls::authorities(self.0.pem().as_bytes()).unwrap();
        NodeTls::new(chain, key, Arc::new(roots)).unwrap()
    }
}

fn listen(tls: NodeTls) -> PeerEndpoint {
    PeerEndpoint::bind(PeerListenSpec::new(ANY_PORT, tls)).unwrap()
}

/// Those who were refused, once there are some.
async fn refused(endpoint: &PeerEndpoint) -> RefusedPeers {
    loop {
        match endpoint.refused() {
            refused if refused.total > 0 => return refused,
            _ => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn nodes_dial_one_another_from_the_ports_on_which_they_listen() {
    within_deadline(async {
        let ca = Ca::new();
        let nodes = [ca.endpoint(), ca.endpoint()];
        let mut kept = Vec::new();
        for (from, to) in [(0, 1), (1, 0)] {
            for number in 0..3 {
                let near = nodes[from].connect(nodes[to].local_addr()).await.unwrap();
                let far = nodes[to].accept().await.unwrap();
                assert_eq!(far.remote_addr(), nodes[from].local_addr());
                let (mut writer, _reader) = near.open().await.unwrap();
                writer.send(credit(number)).await.unwrap();
                let (_writer, mut reader) = far.accept().await.unwrap();
                assert_eq!(reader.next().await, Ok(Some(credit(number))));
                assert!(far.record_memory().is_none());
                kept.push((near, far));
            }
        }
        nodes[0].close(Some(ErrorCode::GoingAway), "bye");
        let code = Some(WireCode::Known(ErrorCode::GoingAway));
        for (near, far) in &kept {
            let mut ends = [near.closed().await, far.closed().await];
            ends.sort_by_key(|end| *end != ConnectionLost::ClosedLocally);
            let told = ConnectionLost::ClosedByPeer { code, reason: "bye".to_owned() };
            assert_eq!(ends, [ConnectionLost::ClosedLocally, told]);
        }
        assert!(nodes[0].accept().await.is_none());
        let addr = nodes[1].local_addr();
        assert_eq!(nodes[0].connect(addr).await.unwrap_err(), PeerConnectError::Closed { addr });
        nodes[0].wait_idle().await;
    })
    .await;
}

/// Who is dialled is not to be trusted: the dialling side says so, and the other learns it.
async fn refuses_whom_it_dials(dials: NodeTls, dialled: NodeTls, fault: CertificateFault) {
    let (near, far) = (listen(dials), listen(dialled));
    let error = near.connect(far.local_addr()).await.unwrap_err();
    assert!(
        matches!(&error, PeerConnectError::UntrustedPeer { addr, fault: found, .. }
            if *found == fault && *addr == far.local_addr()),
        "{error}"
    );
    let last = refused(&far).await.last.unwrap();
    assert_eq!(last, PeerConnectError::Distrusted { addr: near.local_addr(), fault });
}

/// Who dials is not to be trusted: the accepting side says so, and the other learns it.
async fn refuses_who_dials(dials: NodeTls, dialled: NodeTls, fault: CertificateFault) {
    let (near, far) = (listen(dials), listen(dialled));
    let error = near.connect(far.local_addr()).await.unwrap_err();
    assert_eq!(error, PeerConnectError::Distrusted { addr: far.local_addr(), fault });
    let last = refused(&far).await.last.unwrap();
    assert!(
        matches!(&last, PeerConnectError::UntrustedPeer { addr, fault: found, .. }
            if *found == fault && *addr == near.local_addr()),
        "{last}"
    );
}

#[tokio::test]
async fn both_sides_tell_apart_why_a_certificate_is_not_trusted() {
    within_deadline(async {
        let (ca, other) = (Ca::new(), Ca::new());
        let good = || ca.tls(&ca.certificate());
        for (bad, fault) in [
            (other.certificate(), CertificateFault::ForeignCa),
            (ca.0.issue_client(), CertificateFault::NotANode),
            (ca.0.issue_expired(&["localhost".to_owned()]), CertificateFault::Expired),
        ] {
            refuses_whom_it_dials(good(), ca.unchecked(&bad), fault).await;
            refuses_who_dials(ca.unchecked(&bad), good(), fault).await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_shows_no_certificate_is_no_node() {
    within_deadline(async {
        let ca = Ca::new();
        let node = ca.endpoint();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(tls::authorities(ca.0.pem().as_bytes()).unwrap())
            .with_no_client_auth();
        tls.alpn_protocols = vec![PEER_ALPN.to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let client = quinn::Endpoint::client(ANY_PORT).unwrap();
        let addr = node.local_addr();
        let connection = client.connect_with(config, addr, NODE_NAME).unwrap().await.unwrap();
        connection.closed().await;
        let last = refused(&node).await.last.unwrap();
        assert!(
            matches!(
                last,
                PeerConnectError::UntrustedPeer { fault: CertificateFault::Missing, .. }
            ),
            "{last}"
        );
        let next = tokio::time::timeout(Duration::from_millis(1), node.accept()).await;
        assert!(next.is_err(), "nobody shows");
    })
    .await;
}

#[tokio::test]
async fn clients_and_nodes_do_not_take_each_others_ports() {
    within_deadline(async {
        let ca = Ca::new();
        let certificate = ca.certificate();
        let node = listen(ca.tls(&certificate));
        // The same certificate serves clients.
        let server = ca.tls(&certificate).server_tls();
        assert_eq!(server.fingerprint(), ca.tls(&certificate).fingerprint());
        let endpoint = Endpoint::bind(ListenSpec::new(ANY_PORT, server)).unwrap();
        let roots = Roots::Pem(ca.0.pem().into());
        let spec = ConnectSpec::new(endpoint.local_addr(), "localhost", roots);
        connect(spec.clone()).await.unwrap();

        let error = node.connect(endpoint.local_addr()).await.unwrap_err();
        assert_eq!(error, PeerConnectError::WrongProtocol { addr: endpoint.local_addr() });
        let addr = node.local_addr();
        let error = connect(ConnectSpec { addr, ..spec }).await.unwrap_err();
        assert!(matches!(error, ConnectError::WrongProtocol { .. }), "{error}");
        let last = refused(&node).await.last.unwrap();
        assert!(matches!(last, PeerConnectError::WrongProtocol { .. }), "{last}");

        let (foreign, _spec) = listening();
        let error = node.connect(foreign.local_addr()).await.unwrap_err();
        assert!(matches!(error, PeerConnectError::WrongProtocol { .. }), "{error}");
    })
    .await;
}

#[test]
fn a_certificate_that_others_would_refuse_is_refused_at_once() {
    let (ca, other) = (Ca::new(), Ca::new());
    let load = |node: &NodeCertificate| {
        let dir = tempfile::tempdir().unwrap();
        let [chain, key, root] =
            ["chain.pem", "key.pem", "ca.pem"].map(|name| dir.path().join(name));
        std::fs::write(&chain, &node.chain_pem).unwrap();
        std::fs::write(&key, &node.key_pem).unwrap();
        std::fs::write(&root, ca.0.pem()).unwrap();
        NodeTls::from_pem_files(&chain, &key, &root)
    };
    for (bad, expected) in [
        (other.certificate(), CertificateFault::ForeignCa),
        (ca.0.issue_client(), CertificateFault::NotANode),
    ] {
        let error = load(&bad).unwrap_err();
        assert!(
            matches!(&error, TlsError::NotANode { fault, .. } if *fault == expected),
            "{error}"
        );
    }
    // Whether the clock is right is not known.
    load(&ca.0.issue_expired(&["h".to_owned()])).unwrap();
    let debug = format!("{:?}", load(&ca.certificate()).unwrap());
    assert!(!debug.contains("PRIVATE"), "{debug}");
}

#[tokio::test]
async fn a_node_that_is_full_or_not_there_is_told_from_others() {
    within_deadline(async {
        let ca = Ca::new();
        let mut spec = PeerListenSpec::new(ANY_PORT, ca.tls(&ca.certificate()));
        spec.connections_max = 1;
        let full = PeerEndpoint::bind(spec.clone()).unwrap();
        let addr = full.local_addr();
        let node = ca.endpoint();
        let _first = node.connect(addr).await.unwrap();
        let error = node.connect(addr).await.unwrap_err();
        assert_eq!(error, PeerConnectError::Refused { addr });
        let last = PeerConnectError::Full { addr: node.local_addr() };
        assert_eq!(full.refused(), RefusedPeers { total: 1, last: Some(last) });

        spec.handshake_timeout = Duration::from_millis(300);
        let hasty = PeerEndpoint::bind(spec.clone()).unwrap();
        let addr = std::net::UdpSocket::bind(ANY_PORT).unwrap().local_addr().unwrap();
        let error = hasty.connect(addr).await.unwrap_err();
        assert_eq!(error, PeerConnectError::Timeout { addr, timeout: spec.handshake_timeout });

        let error = hasty.connect("[::1]:1".parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, PeerConnectError::InvalidAddress { .. }), "{error}");
        spec.addr = node.local_addr();
        let error = PeerEndpoint::bind(spec).unwrap_err();
        assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
    })
    .await;
}

/// Dials the node at `addr` from another host, and says nothing more when it has heard its first word;
/// what it leaves, or why it got no further.
async fn fall_silent(
    dials: &PeerEndpoint,
    addr: SocketAddr,
) -> Result<UdpSocket, PeerConnectError> {
    let (near, far) = (UdpSocket::bind(ANY_PORT), UdpSocket::bind("127.0.0.2:0"));
    let (near, far) = (near.await.unwrap(), far.await.unwrap());
    far.connect(addr).await.unwrap();
    let mut dialling = std::pin::pin!(dials.connect(near.local_addr().unwrap()));
    let (mut there, mut back, mut from) = ([0; 2_048], [0; 2_048], ANY_PORT);
    loop {
        tokio::select! {
            biased;
            made = &mut dialling => return Err(made.expect_err("it was not let in")),
            came = far.recv(&mut back) => {
                let len = came.unwrap();
                near.send_to(&back[..len], from).await.unwrap();
                // A retry is no word yet (RFC 9000, 17.2.5), and a refusal fits into a small packet.
                if back[0] & 0xf0 != 0xf0 && len >= 1_000 {
                    return Ok(far);
                }
            }
            came = near.recv_from(&mut there) => {
                let (len, who) = came.unwrap();
                from = who;
                far.send(&there[..len]).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn one_host_that_falls_silent_in_its_handshakes_keeps_no_node_out() {
    within_deadline(async {
        let (ca, foreign) = (Ca::new(), Ca::new());
        let mut spec = PeerListenSpec::new(ANY_PORT, ca.tls(&ca.certificate()));
        (spec.handshakes_max, spec.handshake_timeout) = (32, Duration::from_secs(600));
        let node = PeerEndpoint::bind(spec).unwrap();
        let addr = node.local_addr();
        let stranger = foreign.endpoint();
        let (mut silent, mut refused) = (Vec::new(), 0_u64);
        for _ in 0..32 {
            match fall_silent(&stranger, addr).await {
                Ok(left) => silent.push(left),
                Err(error) => {
                    assert!(matches!(error, PeerConnectError::Refused { .. }), "{error}");
                    refused += 1;
                }
            }
        }
        assert_eq!((silent.len(), refused), (16, 16), "half of them, and then it has its part");
        assert_eq!(node.refused().total, refused);
        // Who comes from elsewhere proves that, and is let in.
        let other = ca.endpoint();
        for _ in 0..32 {
            let _near = other.connect(addr).await.unwrap();
            node.accept().await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn many_streams_are_open_and_each_takes_much() {
    within_deadline(Box::pin(async {
        let pair = super::peer_quic_pair().await;
        let mut streams = Vec::new();
        for _ in 0..PEER_STREAMS_MAX {
            streams.push(pair.client.open().await.unwrap());
        }
        let (writer, _reader) = &mut streams[0];
        writer.send_raw(Bytes::from(vec![0; 4 << 20])).await.unwrap();
        let more = std::pin::pin!(writer.send_raw(Bytes::from_static(b"x")));
        // Whether it is taken depends on what was acknowledged, not on what was read.
        drop(poll_once(more));
        let (mut back, _reader) = pair.server.accept().await.unwrap();
        back.send_raw(Bytes::from(vec![0; 4 << 20])).await.unwrap();
        assert_eq!(back.taken(), 4 << 20);
    }))
    .await;
}

#[tokio::test]
async fn streams_that_are_not_read_stop_no_other_of_a_connection_for_clients() {
    const FRAME: usize = 1 << 20;
    within_deadline(async {
        let (ca, unread) = (Ca::new(), 40);
        let (near, far) = (ca.endpoint(), ca.endpoint());
        let near = near.connect_for_clients(far.local_addr()).await.unwrap();
        let far = far.accept().await.unwrap();
        let mut streams = Vec::new();
        let mut sending = tokio::task::JoinSet::new();
        for number in 0..=unread {
            let (mut writer, reader) = near.open().await.unwrap();
            writer.send(credit(1)).await.unwrap();
            streams.push((writer, reader));
            let (mut back, asked) = far.accept().await.unwrap();
            sending.spawn(async move {
                // Together far more than the windows of other connections.
                for _ in 0..if number < unread { 8 } else { 32 } {
                    back.send(publish(number, vec![Bytes::from(vec![0; FRAME])])).await.unwrap();
                }
                drop(asked);
            });
        }
        let (_, last) = streams.last_mut().unwrap();
        for _ in 0..32 {
            assert_eq!(last.next().await.unwrap().unwrap().blob().len(), FRAME);
        }
        // Nor is anything of theirs lost by that.
        for (_, reader) in &mut streams[..3] {
            for _ in 0..8 {
                assert_eq!(reader.next().await.unwrap().unwrap().blob().len(), FRAME);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_that_falls_silent_is_lost_after_three_seconds() {
    let ca = Ca::new();
    let node = ca.endpoint();
    let addr = node.local_addr();
    // Another node that connects and then does nothing, not even what QUIC does for it.
    let other = ca.tls(&ca.certificate());
    let (wake, asleep) = tokio::sync::oneshot::channel::<()>();
    let sleeper = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _kept = runtime.block_on(async {
            let endpoint = listen(other);
            let connection = endpoint.connect(addr).await.unwrap();
            let (mut writer, reader) = connection.open().await.unwrap();
            writer.send(credit(1)).await.unwrap();
            writer.finish();
            writer.stopped().await.unwrap();
            (endpoint, connection, writer, reader)
        });
        asleep.blocking_recv().unwrap();
    });
    let connection = node.accept().await.unwrap();
    let (_writer, mut reader) = connection.accept().await.unwrap();
    assert_eq!(reader.next().await, Ok(Some(credit(1))));
    assert_eq!(reader.next().await, Ok(None));
    // On the real clock: were it to leap while an acknowledgement is under way, QUIC would measure a round trip of
    // seconds, and it waits for three of its probe timeouts at least.
    let begin = Instant::now();
    let lost = tokio::time::timeout(Duration::from_secs(30), connection.closed()).await.unwrap();
    assert_eq!(lost, ConnectionLost::TimedOut);
    assert!(begin.elapsed() > Duration::from_secs(2), "{:?}", begin.elapsed());
    wake.send(()).unwrap();
    sleeper.join().unwrap();
}

#[tokio::test]
async fn a_connection_between_nodes_outlives_silence_by_signs_of_life() {
    let pair = super::peer_quic_pair().await;
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(60)).await;
    tokio::time::resume();
    within_deadline(async {
        let (mut writer, _reader) = pair.client.open().await.unwrap();
        writer.send(credit(1)).await.unwrap();
        let (_writer, mut reader) = pair.server.accept().await.unwrap();
        assert_eq!(reader.next().await, Ok(Some(credit(1))));
    })
    .await;
}
