//! A network in memory that is disturbed. Time is paused: it passes as it is slept away.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use railgun_proto::WireCode;
use railgun_types::ErrorCode;
use tokio::time::{Instant, sleep};

use super::{credit, pattern, poll_once, publish, sequence, within_deadline};
use crate::memory::{Crash, Disturbance, MemoryNetwork};
use crate::peer::{PeerConnectError, PeerEndpoint};
use crate::{
    ConnectError, Connection, ConnectionLost, FrameReader, FrameWriter, ReadError, WriteError,
};

const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));
const PORT: u16 = 4_800;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn exactly(delay: Duration) -> std::ops::RangeInclusive<Duration> {
    delay..=delay
}

/// Two nodes, and a connection from the first to the second.
struct Nodes {
    network: MemoryNetwork,
    disturbance: Disturbance,
    one: PeerEndpoint,
    two: PeerEndpoint,
    near: Connection,
    far: Connection,
}

impl Nodes {
    async fn new(delay: Duration) -> Self {
        let (network, disturbance) = MemoryNetwork::disturbed(7);
        disturbance.set_delays(exactly(delay));
        let listen = |host| network.listen_peer(SocketAddr::new(host, PORT)).unwrap();
        let (one, two) = (listen(ONE), listen(TWO));
        let (near, far) = tokio::join!(one.connect(two.local_addr()), two.accept());
        let (near, far) = (near.unwrap(), far.unwrap());
        Self { network, disturbance, one, two, near, far }
    }

    /// A stream that the accepting side knows.
    async fn stream(&self) -> [(FrameWriter, FrameReader); 2] {
        let mut near = self.near.open().await.unwrap();
        near.0.send(credit(0)).await.unwrap();
        let mut far = self.far.accept().await.unwrap();
        assert_eq!(far.1.next().await, Ok(Some(credit(0))));
        [near, far]
    }

    /// When each side has lost the other, from now on.
    async fn lost(&self) -> [(ConnectionLost, Duration); 2] {
        let begin = Instant::now();
        let lost = async |connection: &Connection| (connection.closed().await, begin.elapsed());
        let (near, far) = tokio::join!(lost(&self.near), lost(&self.far));
        [near, far]
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_takes_its_time() {
    let begin = Instant::now();
    let nodes = Nodes::new(ms(10)).await;
    assert_eq!(begin.elapsed(), ms(40), "a handshake, the word that it is done, and the welcome");
    let [mut near, mut far] = nodes.stream().await;
    nodes.disturbance.set_delay(TWO, ONE, exactly(ms(70)));
    let begin = Instant::now();
    near.0.send(publish(1, vec![pattern(100_000, 0)])).await.unwrap();
    assert_eq!(begin.elapsed(), ms(0));
    let frame = far.1.next().await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), ms(10), "its pieces travel together");
    far.0.send(frame).await.unwrap();
    assert_eq!(sequence(&near.1.next().await.unwrap().unwrap()), 1);
    assert_eq!(begin.elapsed(), ms(80));
    // So does the end, and the word that it is there.
    near.0.finish();
    let (end, stopped) = tokio::join!(async { (far.1.next().await, begin.elapsed()) }, async {
        (near.0.stopped().await, begin.elapsed())
    });
    assert_eq!((end, stopped), ((Ok(None), ms(90)), (Ok(None), ms(160))));
    let begin = Instant::now();
    drop(near.1);
    assert_eq!(far.0.stopped().await, Ok(None));
    assert_eq!(begin.elapsed(), ms(10));
}

#[tokio::test(start_paused = true)]
async fn a_reset_and_a_stop_take_their_time_too() {
    let nodes = Nodes::new(ms(10)).await;
    let [mut near, mut far] = nodes.stream().await;
    let begin = Instant::now();
    far.1.stop(ErrorCode::Timeout);
    let code = Some(WireCode::Known(ErrorCode::Timeout));
    assert_eq!(near.0.stopped().await, Ok(code));
    assert_eq!(begin.elapsed(), ms(10));
    assert_eq!(near.0.send(credit(1)).await, Err(WriteError::Stopped { code }));
    let begin = Instant::now();
    far.0.reset(ErrorCode::Internal);
    let code = Some(WireCode::Known(ErrorCode::Internal));
    assert_eq!(near.1.next().await, Err(ReadError::Reset { code }));
    assert_eq!(begin.elapsed(), ms(10));
}

/// When each frame of a few streams arrives, in the order of arriving.
async fn arrivals(seed: u64) -> Vec<(usize, u64, Duration)> {
    let (network, disturbance) = MemoryNetwork::disturbed(seed);
    let endpoint = network.listen(SocketAddr::new(ONE, PORT)).unwrap();
    let (client, server) =
        tokio::join!(network.connect_from(CLIENT, endpoint.local_addr()), endpoint.accept());
    let (client, server) = (client.unwrap(), server.unwrap());
    disturbance.set_delays(ms(1)..=ms(50));
    let begin = Instant::now();
    let (queue, mut arrived) = tokio::sync::mpsc::channel(100);
    let mut kept = Vec::new();
    for stream in 0..4 {
        let (mut writer, back) = client.open().await.unwrap();
        for number in 0..8 {
            writer.send(credit(number)).await.unwrap();
        }
        let (far, mut reader) = server.accept().await.unwrap();
        let queue = queue.clone();
        tokio::spawn(async move {
            for number in 0..8 {
                assert_eq!(reader.next().await, Ok(Some(credit(number))));
                queue.send((stream, number, begin.elapsed())).await.unwrap();
            }
        });
        kept.push((writer, back, far));
    }
    drop(queue);
    let mut all = Vec::new();
    while let Some(arrival) = arrived.recv().await {
        all.push(arrival);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn streams_overtake_one_another_by_the_seed() {
    let first = arrivals(1).await;
    assert_eq!(first.len(), 32);
    assert!(first.iter().all(|(_, _, at)| (ms(1)..=ms(51)).contains(at)), "{first:?}");
    assert!(!first.is_sorted_by_key(|(stream, number, _)| (*stream, *number)));
    assert!(first.iter().any(|(_, _, at)| *at > first[0].2));
    assert_eq!(arrivals(1).await, first);
    assert_ne!(arrivals(2).await, first);
}

#[tokio::test(start_paused = true)]
async fn what_is_blocked_stalls_and_goes_on() {
    let nodes = Nodes::new(ms(10)).await;
    let [mut near, mut far] = nodes.stream().await;
    for _ in 0..5 {
        near.0.send(credit(1)).await.unwrap();
        sleep(ms(5)).await;
        // What is on its way does not get there either.
        nodes.disturbance.block(ONE, TWO);
        near.0.send(credit(2)).await.unwrap();
        // The other way is open.
        far.0.send(credit(3)).await.unwrap();
        assert_eq!(near.1.next().await, Ok(Some(credit(3))));
        let begin = Instant::now();
        let unblock = async {
            sleep(ms(2_800)).await;
            nodes.disturbance.unblock(ONE, TWO);
        };
        let read = async {
            for number in [1, 2] {
                assert_eq!(far.1.next().await, Ok(Some(credit(number))));
            }
            begin.elapsed()
        };
        let ((), read) = tokio::join!(unblock, read);
        assert_eq!(read, ms(2_810));
    }
    // However often, if never for long: the connection lives.
    assert!(poll_once(pin!(nodes.near.closed())).is_pending());
}

#[tokio::test(start_paused = true)]
async fn what_came_before_a_block_is_there() {
    let nodes = Nodes::new(ms(10)).await;
    let [mut near, mut far] = nodes.stream().await;
    near.0.send(credit(1)).await.unwrap();
    sleep(ms(11)).await;
    nodes.disturbance.block(ONE, TWO);
    let begin = Instant::now();
    assert_eq!(far.1.next().await, Ok(Some(credit(1))));
    assert_eq!(begin.elapsed(), ms(0));
    // No more than a window of bytes is taken meanwhile.
    let mut sending = pin!(near.0.send_raw(Bytes::from(vec![0; 1 << 20])));
    assert!(poll_once(sending.as_mut()).is_pending());
}

#[tokio::test(start_paused = true)]
async fn who_hears_nothing_for_the_idle_time_gives_up() {
    let timed_out = |after: u64| (ConnectionLost::TimedOut, ms(after));
    // The accepting side has nothing to answer.
    let nodes = Nodes::new(ms(10)).await;
    nodes.disturbance.block(ONE, TWO);
    assert_eq!(nodes.lost().await, [timed_out(3_000), timed_out(3_000)]);
    // Signs of life get through until nobody sends them.
    let nodes = Nodes::new(ms(10)).await;
    nodes.disturbance.block(TWO, ONE);
    assert_eq!(nodes.lost().await, [timed_out(3_000), timed_out(6_000)]);
    let nodes = Nodes::new(ms(10)).await;
    nodes.disturbance.partition(ONE, TWO);
    assert_eq!(nodes.lost().await, [timed_out(3_000), timed_out(3_000)]);
    assert!(nodes.near.open().await.is_err() && nodes.far.accept().await.is_err());
    // Whether or not anybody looks at the other side.
    let nodes = Nodes::new(ms(10)).await;
    nodes.disturbance.block(TWO, ONE);
    let begin = Instant::now();
    let lost = within_deadline(nodes.far.closed()).await;
    assert_eq!((lost, begin.elapsed()), timed_out(6_000));
    assert_eq!(nodes.lost().await, [timed_out(0), timed_out(0)]);
    // Nor is it forgotten where nobody looked.
    let nodes = Nodes::new(ms(10)).await;
    nodes.disturbance.partition(ONE, TWO);
    sleep(ms(3_000)).await;
    nodes.disturbance.heal(ONE, TWO);
    assert_eq!(nodes.lost().await, [timed_out(0), timed_out(0)]);
    // One that is answered within the time lives.
    let nodes = Nodes::new(ms(10)).await;
    for _ in 0..10 {
        nodes.disturbance.partition(ONE, TWO);
        sleep(ms(2_999)).await;
        nodes.disturbance.heal_all();
    }
    let mut lost = pin!(nodes.lost());
    assert!(poll_once(lost.as_mut()).is_pending());
}

#[tokio::test(start_paused = true)]
async fn a_client_is_waited_for_longer() {
    let (network, disturbance) = MemoryNetwork::disturbed(7);
    let endpoint = network.listen(SocketAddr::new(ONE, PORT)).unwrap();
    let (client, server) =
        tokio::join!(network.connect_from(CLIENT, endpoint.local_addr()), endpoint.accept());
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(server.remote_addr().ip(), CLIENT);
    disturbance.block(CLIENT, ONE);
    let begin = Instant::now();
    let (near, far) = tokio::join!(client.closed(), server.closed());
    assert_eq!([near, far], [ConnectionLost::TimedOut, ConnectionLost::TimedOut]);
    assert_eq!(begin.elapsed(), ms(15_000));
}

#[tokio::test(start_paused = true)]
async fn nobody_connects_through_a_block() {
    let nodes = Nodes::new(ms(10)).await;
    let addr = nodes.two.local_addr();
    let timeout = ms(3_000);
    for (from, to) in [(ONE, TWO), (TWO, ONE)] {
        nodes.disturbance.block(from, to);
        let begin = Instant::now();
        let error = nodes.one.connect(addr).await.unwrap_err();
        assert_eq!(error, PeerConnectError::Timeout { addr, timeout });
        assert_eq!(begin.elapsed(), timeout);
        nodes.disturbance.heal_all();
    }
    let begin = Instant::now();
    let connect = async {
        sleep(ms(1_000)).await;
        nodes.disturbance.heal(ONE, TWO);
    };
    nodes.disturbance.partition(ONE, TWO);
    let (made, ()) = tokio::join!(nodes.one.connect(addr), connect);
    made.unwrap();
    assert_eq!(begin.elapsed(), ms(1_040));
    // Nobody there is silence, too.
    let nobody = SocketAddr::new(TWO, PORT + 1);
    let error = nodes.network.connect_from(CLIENT, nobody).await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { timeout, .. } if timeout == ms(3_000)));
}

#[tokio::test(start_paused = true)]
async fn a_close_gets_there_or_not_at_all() {
    let nodes = Nodes::new(ms(10)).await;
    nodes.near.close(Some(ErrorCode::GoingAway), "bye");
    let code = Some(WireCode::Known(ErrorCode::GoingAway));
    let told = ConnectionLost::ClosedByPeer { code, reason: "bye".to_owned() };
    let local = ConnectionLost::ClosedLocally;
    assert_eq!(nodes.lost().await, [(local.clone(), ms(0)), (told, ms(10))]);

    let nodes = Nodes::new(ms(10)).await;
    nodes.disturbance.block(TWO, ONE);
    sleep(ms(1_000)).await;
    nodes.two.close(None, "");
    nodes.disturbance.heal_all();
    // It has heard nothing since the block began.
    assert_eq!(nodes.lost().await, [(ConnectionLost::TimedOut, ms(2_000)), (local, ms(0))]);
    assert!(nodes.two.accept().await.is_none());
    nodes.two.wait_idle().await;
    nodes.one.close(None, "");
    let addr = nodes.two.local_addr();
    assert_eq!(nodes.one.connect(addr).await.unwrap_err(), PeerConnectError::Closed { addr });
    nodes.one.wait_idle().await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_crashes_tells_nobody_and_starts_again() {
    let nodes = Nodes::new(ms(10)).await;
    let [mut near, far] = nodes.stream().await;
    let (addr, mut writer) = (nodes.two.local_addr(), far.0);
    writer.send(credit(5)).await.unwrap();
    nodes.disturbance.crash(TWO, Crash::Silent);
    let Nodes { network, disturbance, one, two, near: connection, far: dead } = nodes;
    // It listens again before the tasks of its first life are gone.
    let again = network.listen_peer(addr).unwrap();
    drop((two, dead, writer, far.1));
    assert!(network.listen_peer(addr).is_err());
    let (made, accepted) = tokio::join!(one.connect(addr), again.accept());
    let (made, accepted) = (made.unwrap(), accepted.unwrap());
    // What it had sent is there.
    assert_eq!(near.1.next().await, Ok(Some(credit(5))));
    let begin = Instant::now();
    assert_eq!(connection.closed().await, ConnectionLost::TimedOut);
    assert_eq!(begin.elapsed(), ms(3_000 - 40));
    disturbance.crash(TWO, Crash::Told);
    assert_eq!(made.closed().await, ConnectionLost::Reset);
    assert_eq!(accepted.closed().await, ConnectionLost::TimedOut);
    assert_eq!(begin.elapsed(), ms(3_000 - 40));
    let error = one.connect(addr).await.unwrap_err();
    assert!(matches!(error, PeerConnectError::Timeout { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_crash_that_was_silent_is_told_later() {
    let nodes = Nodes::new(ms(10)).await;
    nodes.disturbance.crash(ONE, Crash::Silent);
    drop(nodes.near);
    sleep(ms(2_000)).await;
    assert!(poll_once(pin!(nodes.far.closed())).is_pending());
    nodes.disturbance.crash(ONE, Crash::Told);
    assert_eq!(nodes.far.closed().await, ConnectionLost::Reset);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_crashes_while_it_is_dialled_is_not_there() {
    let nodes = Nodes::new(ms(10)).await;
    let addr = nodes.two.local_addr();
    let crash = async {
        sleep(ms(35)).await;
        nodes.disturbance.crash(TWO, Crash::Silent);
    };
    let begin = Instant::now();
    let (made, ()) = tokio::join!(nodes.one.connect(addr), crash);
    assert!(matches!(made, Err(PeerConnectError::Timeout { .. })));
    assert_eq!(begin.elapsed(), ms(3_000));
}

#[tokio::test(start_paused = true)]
async fn a_cut_ends_what_is_between_two_hosts() {
    let nodes = Nodes::new(ms(10)).await;
    let endpoint = nodes.network.listen(SocketAddr::new(TWO, PORT + 1)).unwrap();
    let (client, server) =
        tokio::join!(nodes.network.connect_from(CLIENT, endpoint.local_addr()), endpoint.accept());
    let (client, _server) = (client.unwrap(), server.unwrap());
    nodes.disturbance.cut(TWO, ONE);
    let timed_out = (ConnectionLost::TimedOut, ms(0));
    assert_eq!(nodes.lost().await, [timed_out.clone(), timed_out]);
    assert!(poll_once(pin!(client.closed())).is_pending());
    nodes.network.cut(endpoint.local_addr());
    assert_eq!(client.closed().await, ConnectionLost::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn clients_and_nodes_do_not_take_each_others_ports() {
    for network in [MemoryNetwork::new(), MemoryNetwork::disturbed(1).0] {
        let [one, two] = [ONE, TWO].map(|host| SocketAddr::new(host, PORT));
        let node = network.listen_peer(one).unwrap();
        let endpoint = network.listen(two).unwrap();
        let error = node.connect(two).await.unwrap_err();
        assert_eq!(error, PeerConnectError::WrongProtocol { addr: two });
        let error = network.connect(one).await.unwrap_err();
        assert!(matches!(error, ConnectError::WrongProtocol { .. }), "{error}");
        endpoint.refuse_new();
        let error = network.connect(two).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_on_a_plain_network_meet_at_once() {
    let network = MemoryNetwork::new();
    let [one, two] = [ONE, TWO].map(|host| network.listen_peer(SocketAddr::new(host, 0)).unwrap());
    assert_eq!(one.local_addr().ip(), ONE);
    let begin = Instant::now();
    let near = one.connect(two.local_addr()).await.unwrap();
    let far = two.accept().await.unwrap();
    assert_eq!(far.remote_addr(), one.local_addr());
    // Whoever closes ends what it dialled, too.
    one.close(Some(ErrorCode::GoingAway), "bye");
    let code = Some(WireCode::Known(ErrorCode::GoingAway));
    let told = ConnectionLost::ClosedByPeer { code, reason: "bye".to_owned() };
    assert_eq!(far.closed().await, told);
    assert_eq!(near.closed().await, ConnectionLost::ClosedLocally);
    assert_eq!(begin.elapsed(), ms(0));
}
