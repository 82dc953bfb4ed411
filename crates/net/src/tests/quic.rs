//! TLS, handshakes and endpoints; and the in-memory network where it has the same.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use railgun_proto::WireCode;
use railgun_types::ErrorCode;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

use super::{
    ANY_PORT, credit, listening, listening_as, pattern, poll_once, publish, within_deadline,
};
use crate::memory::{AddrInUse, MemoryNetwork};
use crate::tls::{ClusterCa, DevCa, DevCaError, NODE_VALID_FOR, ServerTls};
use crate::{
    CONNECT_TIMEOUT, ClientMemory, ConnectError, ConnectSpec, Connection, ConnectionLost, Endpoint,
    FrameReader, FrameWriter, ListenSpec, Roots, connect,
};

fn other_ca() -> Roots {
    let dir = tempfile::tempdir().unwrap();
    Roots::Pem(DevCa::load_or_create(dir.path()).unwrap().pem().into())
}

/// For a client of quinn's own.
fn raw_config(spec: &ConnectSpec, alpn: Vec<Vec<u8>>) -> quinn::ClientConfig {
    let Roots::Pem(pem) = &spec.roots else { unreachable!() };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pem).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = alpn;
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

#[tokio::test]
async fn an_unknown_ca_is_told_from_other_failures() {
    within_deadline(async {
        let (endpoint, spec) = listening();
        let mut wrong = spec.clone();
        wrong.roots = other_ca();
        let error = connect(wrong).await.unwrap_err();
        assert!(matches!(error, ConnectError::UntrustedCertificate { .. }), "{error}");

        let mut wrong = spec.clone();
        wrong.server_name = "example.com".to_owned();
        let error = connect(wrong).await.unwrap_err();
        assert!(matches!(error, ConnectError::UntrustedCertificate { .. }), "{error}");
        assert!(error.to_string().contains("example.com"), "{error}");

        // Clients that failed never show: the first to be accepted is the good one.
        let client = connect(spec).await.unwrap();
        let server = endpoint.accept().await.unwrap();
        client.close(Some(ErrorCode::Timeout), "the good one");
        let code = Some(WireCode::Known(ErrorCode::Timeout));
        let reason = "the good one".to_owned();
        assert_eq!(server.closed().await, ConnectionLost::ClosedByPeer { code, reason });
    })
    .await;
}

#[tokio::test]
async fn who_knows_only_the_hash_of_the_cluster_s_authority_finds_its_nodes() {
    within_deadline(async {
        let dir = tempfile::tempdir().unwrap();
        let ca = ClusterCa::create(dir.path()).unwrap();
        let node = ca.issue_node(&["localhost".to_owned()], NODE_VALID_FOR).unwrap();
        let (chain, key) = (node.chain_pem.as_bytes(), node.key_pem.as_bytes());
        let tls = ServerTls::from_pem(chain, key).unwrap();
        let (_endpoint, mut spec) = listening_as(|listen| listen.tls = tls);
        let certificate = CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap();
        spec.roots = Roots::Sha256(Sha256::digest(certificate).into());
        connect(spec.clone()).await.unwrap();

        spec.roots = Roots::Sha256([7; 32]);
        let error = connect(spec).await.unwrap_err();
        assert!(matches!(error, ConnectError::UntrustedCertificate { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn a_certificate_is_good_for_an_address_too() {
    within_deadline(async {
        let (endpoint, mut spec) = listening();
        spec.server_name = "127.0.0.1".to_owned();
        let client = connect(spec).await.unwrap();
        assert_eq!(client.remote_addr(), endpoint.local_addr());
        assert!(client.stats().rtt > Duration::ZERO);
    })
    .await;
}

#[tokio::test]
async fn a_server_of_another_protocol_is_told() {
    within_deadline(async {
        let dir = tempfile::tempdir().unwrap();
        let ca = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
            .unwrap()
            .self_signed(&ca)
            .unwrap();
        let key = PrivateKeyDer::try_from(ca.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let tls = Arc::new(QuicServerConfig::try_from(tls).unwrap());
        let server =
            quinn::Endpoint::server(quinn::ServerConfig::with_crypto(tls), ANY_PORT).unwrap();
        let addr = server.local_addr().unwrap();
        tokio::spawn(async move {
            while let Some(incoming) = server.accept().await {
                drop(incoming.await);
            }
        });
        let roots = Roots::Pem(DevCa::load_or_create(dir.path()).unwrap().pem().into());
        let error = connect(crate::ConnectSpec::new(addr, "localhost", roots)).await.unwrap_err();
        assert!(matches!(error, ConnectError::WrongProtocol { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn clients_of_another_protocol_never_show() {
    within_deadline(async {
        let (endpoint, spec) = listening();
        for alpn in [vec![], vec![b"railgun/2".to_vec()], vec![b"h3".to_vec()]] {
            let config = raw_config(&spec, alpn);
            let client = quinn::Endpoint::client(ANY_PORT).unwrap();
            let connecting = client.connect_with(config, spec.addr, "localhost").unwrap();
            let error = connecting.await.unwrap_err();
            let alert = quinn::TransportErrorCode::crypto(120);
            assert!(
                matches!(&error, quinn::ConnectionError::ConnectionClosed(close)
                    if close.error_code == alert),
                "{error}"
            );
        }
        let client = connect(spec).await.unwrap();
        let (mut writer, _reader) = client.open().await.unwrap();
        writer.send(credit(9)).await.unwrap();
        let (_writer, mut reader) = endpoint.accept().await.unwrap().accept().await.unwrap();
        assert_eq!(reader.next().await, Ok(Some(credit(9))));
    })
    .await;
}

#[tokio::test]
async fn packets_that_are_no_quic_disturb_nobody() {
    within_deadline(async {
        let (endpoint, spec) = listening();
        let socket = UdpSocket::bind(ANY_PORT).unwrap();
        for i in 0..200 {
            socket.send_to(&pattern(1_200, i), spec.addr).unwrap();
        }
        let client = connect(spec).await.unwrap();
        let server = endpoint.accept().await.unwrap();
        assert_eq!(server.remote_addr().ip(), client.remote_addr().ip());
    })
    .await;
}

#[tokio::test]
async fn nobody_listening_is_a_timeout() {
    assert!(CONNECT_TIMEOUT <= Duration::from_secs(3));
    within_deadline(async {
        let free = UdpSocket::bind(ANY_PORT).unwrap().local_addr().unwrap();
        let mut spec = crate::ConnectSpec::new(free, "localhost", other_ca());
        spec.timeout = Duration::from_millis(300);
        let error = connect(spec).await.unwrap_err();
        assert!(matches!(error, ConnectError::Timeout { .. }), "{error}");
    })
    .await;
}

/// What `socket` receives next.
async fn receive(socket: UdpSocket) -> Vec<u8> {
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    let mut packet = vec![0; 2_000];
    let len = socket.recv(&mut packet).await.unwrap();
    packet.truncate(len);
    packet
}

/// The first packet of a client of this server, which has not seen it.
async fn first_packet(spec: &ConnectSpec) -> Vec<u8> {
    let relay = UdpSocket::bind(ANY_PORT).unwrap();
    let addr = relay.local_addr().unwrap();
    let dialling = tokio::spawn(connect(ConnectSpec { addr, ..spec.clone() }));
    let packet = receive(relay).await;
    dialling.abort();
    packet
}

#[tokio::test]
async fn a_client_that_stops_in_the_handshake_holds_up_nobody() {
    within_deadline(async {
        let (endpoint, spec) = listening();
        // Its first packet, and then silence: the answers go to a socket that is never read.
        let relay = UdpSocket::bind(ANY_PORT).unwrap();
        let packet = first_packet(&spec).await;
        relay.send_to(&packet, spec.addr).unwrap();

        let client = connect(spec).await.unwrap();
        let server = endpoint.accept().await.unwrap();
        drop(client);
        server.closed().await;
    })
    .await;
}

#[tokio::test]
async fn a_full_or_stopping_server_refuses() {
    within_deadline(async {
        let (endpoint, spec) = listening_as(|listen| listen.connections_max = 1);
        let first = connect(spec.clone()).await.unwrap();
        let server = endpoint.accept().await.unwrap();
        let error = connect(spec.clone()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error}");

        // Those who were there before it stops stay.
        endpoint.refuse_new();
        let error = connect(spec).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
        let (mut writer, _reader) = first.open().await.unwrap();
        writer.send(credit(1)).await.unwrap();
        let (_writer, mut reader) = server.accept().await.unwrap();
        assert_eq!(reader.next().await, Ok(Some(credit(1))));

        endpoint.close(Some(ErrorCode::GoingAway), "bye");
        assert!(endpoint.accept().await.is_none());
        let code = Some(WireCode::Known(ErrorCode::GoingAway));
        let reason = "bye".to_owned();
        assert_eq!(first.closed().await, ConnectionLost::ClosedByPeer { code, reason });
        drop((first, server));
        endpoint.wait_idle().await;
    })
    .await;
}

#[tokio::test]
async fn who_has_not_said_who_he_is_takes_only_so_many_places() {
    within_deadline(async {
        let (endpoint, spec) = listening_as(|listen| listen.strangers_max = 1);
        let first = connect(spec.clone()).await.unwrap();
        let server = endpoint.accept().await.unwrap();
        let error = connect(spec.clone()).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
        let figures = endpoint.clients();
        assert_eq!((figures.connections, figures.strangers, figures.refused_total), (1, 1, 1));
        server.admit();
        let second = connect(spec.clone()).await.unwrap();
        drop(endpoint.accept().await.unwrap());
        second.closed().await;
        // Its place is free again.
        let third = connect(spec).await.unwrap();
        let other = endpoint.accept().await.unwrap();
        let figures = endpoint.clients();
        assert_eq!((figures.connections, figures.strangers), (2, 1));
        drop((first, third, server, other));
    })
    .await;
}

#[tokio::test]
async fn one_host_does_not_take_all_places_of_strangers() {
    within_deadline(async {
        let (endpoint, spec) = listening_as(|listen| listen.strangers_max = 32);
        let config = raw_config(&spec, vec![railgun_proto::ALPN.to_vec()]);
        let crowd_of = async |host: [u8; 4]| {
            let client = quinn::Endpoint::client((host, 0).into()).unwrap();
            let mut crowd = Vec::new();
            loop {
                let config = config.clone();
                match client.connect_with(config, spec.addr, "localhost").unwrap().await {
                    Ok(connection) => crowd.push((connection, client.clone())),
                    Err(quinn::ConnectionError::ConnectionClosed(close))
                        if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
                    {
                        return crowd;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        };
        // Half of them, while they are not scarce.
        let greedy = crowd_of([127, 0, 0, 1]).await;
        assert_eq!(greedy.len(), 16);
        // Then a sixteenth.
        let other = crowd_of([127, 0, 0, 2]).await;
        assert_eq!(other.len(), 2);
        assert_eq!(endpoint.clients().strangers, 18);
        // A packet takes no place: who says where it comes from must be there. This is a Retry.
        let nowhere = UdpSocket::bind("127.0.0.3:0").unwrap();
        nowhere.send_to(&first_packet(&spec).await, spec.addr).unwrap();
        let answer = receive(nowhere).await;
        assert_eq!(answer[0] & 0xf0, 0xf0, "{answer:x?}");
        assert_eq!(endpoint.clients().strangers, 18);
        // Who has said who he is is no stranger.
        for _ in 0..greedy.len() {
            endpoint.accept().await.unwrap().admit();
        }
        let another = crowd_of([127, 0, 0, 2]).await;
        assert!(another.len() > 2);
    })
    .await;
}

/// Two streams of a client that the server does not read.
struct Unread {
    near: (FrameWriter, FrameReader),
    far: (FrameWriter, FrameReader),
    /// For what is more than one stream may send.
    over: (FrameWriter, FrameReader),
    _over: (FrameWriter, FrameReader),
}

impl Unread {
    async fn open(client: &Connection, server: &Connection) -> Self {
        let open = async || {
            let mut near = client.open().await.unwrap();
            near.0.send_raw(pattern(1 << 10, 0)).await.unwrap();
            (near, server.accept().await.unwrap())
        };
        let ((near, far), (over, _over)) = (open().await, open().await);
        Self { near, far, over, _over }
    }

    /// Sends what it may: how many KiB on the one stream, and how many more on the other.
    async fn fill(&mut self) -> (u64, u64) {
        loop {
            let round_trips = async {
                // Any further room would have been told before these.
                for i in 0..10 {
                    self.far.0.send(credit(i)).await.unwrap();
                    self.near.1.next().await.unwrap();
                }
            };
            tokio::select! {
                biased;
                sending = self.near.0.send_raw(pattern(1 << 10, 0)) => sending.unwrap(),
                sending = self.over.0.send_raw(pattern(1 << 10, 0)) => sending.unwrap(),
                () = round_trips => break,
            }
        }
        (self.near.0.taken() >> 10, self.over.0.taken() >> 10)
    }
}

#[tokio::test]
async fn what_is_not_read_is_bounded_whoever_comes_and_goes() {
    within_deadline(Box::pin(async {
        let memory = ClientMemory::new(64 << 20, 100);
        let (endpoint, spec) = listening_as(|listen| listen.memory = memory);
        let join = async || {
            let client = connect(spec.clone()).await.unwrap();
            let server = endpoint.accept().await.unwrap();
            server.admit();
            let unread = Unread::open(&client, &server).await;
            (unread, server, client)
        };
        let mut first = join().await;
        // As much as one stream may send, which is a 32nd of half the memory, and what each has.
        assert_eq!(first.0.fill().await, (1_024, 64));
        for _ in 0..3 {
            let mut crowd = Vec::new();
            for _ in 0..3 {
                crowd.push(join().await);
            }
            assert_eq!(crowd[0].0.fill().await, (1_024, 64));
            drop(crowd);
            first.1.admit();
        }
        assert_eq!(first.0.fill().await, (1_024, 64), "it has not been read since");
        // Who came when little was left has more when others have left: on the streams it has, or with
        // the first behind that.
        let mut crowd = Vec::new();
        for _ in 0..31 {
            crowd.push(join().await);
        }
        let [mut stays, opens] = [join().await, join().await];
        let (little, over) = stays.0.fill().await;
        assert!((64..512).contains(&little) && over <= 1, "{little}, {over}");
        drop(crowd);
        let grown = async { while stays.0.fill().await != (1_024, 64) {} };
        tokio::select! {
            _ = stays.1.accept() => panic!("it opens none"),
            () = grown => {}
        }
        let (_before, server, client) = &opens;
        assert_eq!(Unread::open(client, server).await.fill().await.0, 1_024);
    }))
    .await;
}

#[tokio::test]
async fn a_stream_of_few_clients_carries_more_in_a_round_trip() {
    within_deadline(Box::pin(async {
        let (endpoint, spec) =
            listening_as(|listen| listen.memory = ClientMemory::new(1 << 30, 100));
        let client = connect(spec).await.unwrap();
        let server = endpoint.accept().await.unwrap();
        server.admit();
        // Two streams that are not read, and room for others beside them.
        assert_eq!(Unread::open(&client, &server).await.fill().await, (4 << 10, 4 << 10));
    }))
    .await;
}

#[tokio::test]
async fn what_a_client_does_not_acknowledge_is_bounded() {
    within_deadline(async {
        let memory = ClientMemory::new(64 << 20, 100);
        let (endpoint, spec) = listening_as(|listen| listen.memory = memory);
        // A client that opens a stream and then does nothing, not even what QUIC does for it.
        let (wake, woken) = tokio::sync::oneshot::channel::<()>();
        let (fall_asleep, asleep) = tokio::sync::oneshot::channel::<()>();
        let sleeper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.unwrap();
            let _client = runtime.block_on(async {
                let client = connect(spec).await.unwrap();
                let (mut writer, reader) = client.open().await.unwrap();
                writer.send(credit(1)).await.unwrap();
                // Until that has arrived.
                writer.finish();
                writer.stopped().await.unwrap();
                (client, writer, reader)
            });
            fall_asleep.send(()).unwrap();
            woken.blocking_recv().unwrap();
        });
        let server = endpoint.accept().await.unwrap();
        server.admit();
        let (mut writer, mut reader) = server.accept().await.unwrap();
        assert_eq!(reader.next().await, Ok(Some(credit(1))));
        assert_eq!(reader.next().await, Ok(None));
        asleep.await.unwrap();
        while poll_once(pin!(writer.send_raw(pattern(1 << 10, 0)))).is_ready() {}
        assert_eq!(writer.taken(), (1_024 + 64) << 10);
        wake.send(()).unwrap();
        sleeper.join().unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_client_that_is_not_admitted_has_one_stream_and_few_bytes() {
    within_deadline(async {
        let (endpoint, spec) = listening();
        let client = connect(spec).await.unwrap();
        let server = endpoint.accept().await.unwrap();
        let (mut writer, _reader) = client.open().await.unwrap();
        let mut further = pin!(client.open());
        assert!(poll_once(further.as_mut()).is_pending(), "a second stream");
        let mut sending = pin!(writer.send(publish(1, vec![pattern(1 << 20, 0)])));
        assert!(poll_once(sending.as_mut()).is_pending(), "a megabyte");
        let (_far_writer, mut far_reader) = server.accept().await.unwrap();
        server.admit();
        let mut streams = vec![further.await.unwrap()];
        let reading = async { far_reader.next().await.unwrap().unwrap().blob_bytes() };
        let (sent, bytes) = tokio::join!(sending, reading);
        assert_eq!((sent, bytes), (Ok(()), 1 << 20));
        // As many as the protocol tells, with the first one.
        for _ in 2..crate::QUIC_STREAMS_MAX {
            streams.push(client.open().await.unwrap());
        }
    })
    .await;
}

/// Lets simulated time pass; what is on its way between two sockets of this thread takes none.
async fn minutes_pass(minutes: u32) {
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(60) * minutes).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_connection_outlives_silence_by_signs_of_life_and_not_without() {
    let (endpoint, spec) = listening();
    let never = ConnectSpec { keep_alive: Duration::from_secs(3_600), ..spec.clone() };
    let lively = connect(spec).await.unwrap();
    let server = endpoint.accept().await.unwrap();
    let silent = connect(never).await.unwrap();
    minutes_pass(5).await;
    within_deadline(async {
        assert_eq!(silent.closed().await, ConnectionLost::TimedOut);
        let (mut writer, _reader) = lively.open().await.unwrap();
        writer.send(credit(1)).await.unwrap();
        let (_writer, mut reader) = server.accept().await.unwrap();
        assert_eq!(reader.next().await, Ok(Some(credit(1))));
    })
    .await;
}

#[tokio::test]
async fn an_address_in_use_is_told() {
    let (endpoint, _spec) = listening();
    let dir = tempfile::tempdir().unwrap();
    let tls = DevCa::load_or_create(dir.path()).unwrap().issue(&["x".to_owned()]).unwrap();
    let error = Endpoint::bind(ListenSpec::new(endpoint.local_addr(), tls)).unwrap_err();
    assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&endpoint.local_addr().to_string()), "{error}");
}

#[tokio::test]
async fn the_memory_network_has_the_same_ends() {
    within_deadline(async {
        let network = MemoryNetwork::new();
        let nobody = network.connect(ANY_PORT).await.unwrap_err();
        assert!(matches!(nobody, ConnectError::Timeout { .. }), "{nobody}");

        let endpoint = network.listen(ANY_PORT).unwrap();
        let addr = endpoint.local_addr();
        assert_eq!(network.listen(addr).err(), Some(AddrInUse { addr }));
        let client = network.connect(addr).await.unwrap();
        let server = endpoint.accept().await.unwrap();
        let (mut writer, _reader) = client.open().await.unwrap();
        writer.send(publish(1, vec![pattern(100, 0)])).await.unwrap();
        network.cut(addr);
        assert_eq!(client.closed().await, ConnectionLost::TimedOut);
        assert_eq!(server.closed().await, ConnectionLost::TimedOut);

        endpoint.refuse_new();
        let refused = network.connect(addr).await.unwrap_err();
        assert!(matches!(refused, ConnectError::Refused { .. }), "{refused}");
        endpoint.close(None, "");
        assert!(endpoint.accept().await.is_none());
        endpoint.wait_idle().await;
        drop(endpoint);
        network.listen(addr).unwrap();
    })
    .await;
}

#[test]
fn the_development_ca_survives_a_restart() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("ca");
    let first = DevCa::load_or_create(&dir).unwrap();
    let key = dir.join("ca-key.pem");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let again = DevCa::load_or_create(&dir).unwrap();
    assert_eq!((again.pem(), again.fingerprint()), (first.pem(), first.fingerprint()));
    assert_eq!(first.fingerprint().len(), 64);

    assert!(matches!(again.issue(&["ä".to_owned()]), Err(DevCaError::Issue { .. })));
    let leaves = [(); 2].map(|()| again.issue(&["h".to_owned()]).unwrap());
    assert_ne!(leaves[0].fingerprint(), leaves[1].fingerprint());

    std::fs::write(&key, "-----BEGIN PRIVATE KEY-----").unwrap();
    let error = DevCa::load_or_create(&dir).unwrap_err();
    assert!(matches!(error, DevCaError::Damaged { .. }), "{error}");
}

/// A crash between key and certificate, and a server that is issued by the restarted authority.
#[tokio::test]
async fn clients_of_the_first_life_trust_the_second() {
    within_deadline(async {
        let dir = tempfile::tempdir().unwrap();
        DevCa::load_or_create(dir.path()).unwrap();
        std::fs::remove_file(dir.path().join("ca.pem")).unwrap();
        let roots = Roots::Pem(DevCa::load_or_create(dir.path()).unwrap().pem().into());
        let tls = DevCa::load_or_create(dir.path()).unwrap().issue(&["h".to_owned()]).unwrap();
        let endpoint = Endpoint::bind(ListenSpec::new(ANY_PORT, tls)).unwrap();
        connect(crate::ConnectSpec::new(endpoint.local_addr(), "h", roots)).await.unwrap();
    })
    .await;
}

#[test]
fn pem_files_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    let pair = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["h".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let (good, other) = (pair(), pair());
    let load = |chain_pem: &str, key_pem: &str| {
        std::fs::write(&chain, chain_pem).unwrap();
        std::fs::write(&key, key_pem).unwrap();
        ServerTls::from_pem_files(&chain, &key).map_err(|error| error.to_string())
    };
    assert!(load(&good.0, &good.1).is_ok());
    for (chain_pem, key_pem) in [(&good.0, &other.1), (&good.1, &good.1), (&good.0, &good.0)] {
        assert!(load(chain_pem, key_pem).is_err());
    }
    let missing = ServerTls::from_pem_files(&dir.path().join("none"), &key).unwrap_err();
    assert!(missing.to_string().contains("none"), "{missing}");
    let debug = format!("{:?}", load(&good.0, &good.1).unwrap());
    assert!(!debug.contains("PRIVATE"), "{debug}");
}
