//! What operators do with a cluster, while clients publish.

use std::cell::Cell;
use std::collections::BTreeSet;

use railgun_net::tls::NodeRequest;
use sha2::Digest as _;
use tokio::time::Instant;

use super::cluster_rig::{Cluster, PATIENCE, SETTLED};
use super::*;

/// The longest that publishers may wait where a lead is handed over on purpose.
const GAP_MAX: Duration = Duration::from_millis(500);

async fn three() -> Cluster {
    let mut cluster = Cluster::new(3);
    cluster.start(&[1, 2, 3]).await;
    cluster
}

fn admin(cluster: &Cluster, number: usize) -> &ClusterAdmin {
    &cluster.node(number).cluster_admin
}

/// Makes a stream; the shard it is on.
async fn stream(cluster: &Cluster, name_of: &str) -> ShardId {
    let streams = &cluster.node(1).streams;
    streams.ensure(wish(name_of, 1 << 20, EnsureMode::Warn)).await.unwrap();
    streams.resolve(&name(name_of)).await.unwrap().shard.id()
}

async fn set(
    cluster: &Cluster,
    asked: usize,
    node: usize,
    state: v1::NodeState,
    force: bool,
) -> Result<v1::NodeStateSet, WireError> {
    let set = v1::SetNodeState { node_id: node as u32, state: state.into(), force };
    admin(cluster, asked).set_node_state(set).await
}

/// Waits until a node's description of the cluster is so.
async fn until(
    cluster: &Cluster,
    asked: usize,
    is_so: impl Fn(&v1::ClusterDescription) -> bool,
) -> v1::ClusterDescription {
    let end = Instant::now() + PATIENCE * 2;
    loop {
        let description = admin(cluster, asked).describe().await.unwrap();
        if is_so(&description) {
            return description;
        }
        assert!(Instant::now() < end, "it stays {description:#?}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// The node that leads each shard; 0: none.
fn leaders(description: &v1::ClusterDescription) -> Vec<u32> {
    description.shards.iter().map(|shard| ReplicaId(shard.leader).node().0).collect()
}

fn drain_of(description: &v1::ClusterDescription, node: u32) -> &v1::DrainProgress {
    let node = description.nodes.iter().find(|it| it.node_id == node).expect("it is a node");
    node.drain.as_ref().expect("the catalog says")
}

/// Publishes through a node while something else is done; the longest time without an answer.
async fn publishing(cluster: &Cluster, through: usize, work: impl Future<Output = ()>) -> Duration {
    let (last, longest) = (Cell::new(Instant::now()), Cell::new(Duration::ZERO));
    let publish = async {
        loop {
            cluster.publish(through, "s", b"on and on").await;
            longest.set(longest.get().max(last.get().elapsed()));
            last.set(Instant::now());
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        biased;
        () = publish => unreachable!("it goes on"),
        () = async {
            sleep(Duration::from_millis(100)).await;
            work.await;
            // What it has led to.
            sleep(Duration::from_secs(1)).await;
        } => {}
    }
    // The last one may not have been answered yet.
    longest.get().max(last.get().elapsed())
}

/// The word with which a node sends a client away.
async fn go_away(control: &mut (FrameWriter, FrameReader)) -> v1::GoAway {
    let said = timeout(PATIENCE, control.1.next_of::<v1::GoAway>()).await;
    said.expect("it says something").unwrap().expect("before the end")
}

#[tokio::test(start_paused = true)]
async fn any_node_tells_what_it_knows_and_never_hangs() {
    let mut cluster = three().await;
    let shard = stream(&cluster, "s").await;
    let healthy = |it: &v1::ClusterDescription| {
        it.shards.iter().all(|shard| {
            shard.leader != 0 && shard.has_majority && !shard.under_replicated && shard.settled
        })
    };
    let description = until(&cluster, 2, healthy).await;
    assert_eq!((description.node_id, description.data_shards, description.replicas), (2, 2, 3));
    assert_eq!(description.shards.len(), 3);
    let nodes: Vec<_> = description.nodes.iter().map(|it| (it.node_id, it.reachable)).collect();
    assert_eq!(nodes, [(1, true), (2, true), (3, true)]);
    assert_eq!(description.nodes[0].client_address, "10.0.0.1:9400");
    let replicas = &description.shards[shard.0 as usize].replicas;
    assert!(replicas.iter().all(|it| it.votes && it.wanted && it.applied.is_some()));
    assert!(description.shards[shard.0 as usize].pending_log_bytes.is_some());

    cluster.kill(3).await;
    let description = until(&cluster, 1, |it| !it.nodes[2].reachable).await;
    assert!(description.shards.iter().all(|it| it.under_replicated && it.has_majority));
    cluster.kill(2).await;
    until(&cluster, 1, |it| !it.nodes[1].reachable).await;
    let begin = Instant::now();
    let description = admin(&cluster, 1).describe().await.unwrap();
    assert!(begin.elapsed() <= Duration::from_millis(2_100), "{:?}", begin.elapsed());
    assert!(description.shards.iter().all(|it| !it.has_majority));
}

#[tokio::test(start_paused = true)]
async fn a_lead_is_transferred_at_once_and_publishing_goes_on() {
    let cluster = three().await;
    let shard = stream(&cluster, "s").await;
    cluster.publish(1, "s", b"first").await;
    for to in [1, 2, 3, 1] {
        let gap = publishing(&cluster, 2, async {
            let transfer = v1::TransferLeader { shard: shard.0, node_id: to };
            let led = admin(&cluster, 3).transfer_leader(transfer).await.unwrap();
            assert_eq!(ReplicaId(led.leader).node(), NodeId(to));
        });
        let gap = Box::pin(gap).await;
        assert!(gap <= GAP_MAX, "{gap:?} to node {to}");
        assert_eq!(cluster.leader(2, shard), Some(to as usize));
    }
    let transfer = v1::TransferLeader { shard: 0, node_id: 4 };
    let refused = admin(&cluster, 1).transfer_leader(transfer).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NodeNotFound);
}

#[tokio::test(start_paused = true)]
async fn leads_go_to_whom_they_belong_and_stay_there() {
    let cluster = three().await;
    let view = cluster.node(1).view.borrow().clone();
    let wanted: Vec<u32> = view.placements.values().map(|it| it.voters[0].node().0).collect();
    assert!(wanted.iter().collect::<BTreeSet<_>>().len() > 1, "{wanted:?}");
    let settled = until(&cluster, 1, |it| leaders(it) == wanted).await;
    sleep(Duration::from_secs(60)).await;
    let later = admin(&cluster, 1).describe().await.unwrap();
    let terms =
        |it: &v1::ClusterDescription| it.shards.iter().map(|it| it.term).collect::<Vec<_>>();
    assert_eq!((leaders(&later), terms(&later)), (wanted, terms(&settled)));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_drained_gives_everything_away_and_sends_its_clients_to_others() {
    let mut cluster = Cluster::new(4);
    cluster.start(&[1, 2, 3]).await;
    cluster.start(&[4]).await;
    let shard = stream(&cluster, "s").await;
    let transfer = v1::TransferLeader { shard: shard.0, node_id: 1 };
    admin(&cluster, 2).transfer_leader(transfer).await.unwrap();
    let (_connection, mut control) = enter(&cluster.network, cluster.node(1)).await;

    let gap = publishing(&cluster, 2, async {
        let told = set(&cluster, 3, 1, v1::NodeState::Draining, false).await.unwrap();
        let drain = told.drain.expect("what is left");
        // Every node votes in the catalog already: that vote is given up when the node is removed.
        assert_eq!((drain.stuck, drain.drained), (vec![0], false), "node 4 takes the others");
        until(&cluster, 3, |it| drain_of(it, 1).drained && !leaders(it).contains(&1)).await;
    });
    let gap = Box::pin(gap).await;
    assert!(gap <= GAP_MAX, "{gap:?}");
    let said = go_away(&mut control).await;
    let mut alternatives = said.alternatives;
    alternatives.sort();
    assert_eq!(alternatives, ["10.0.0.2:9400", "10.0.0.3:9400", "10.0.0.4:9400"]);
    assert!(said.deadline_ms > 0);
    // Who comes now is served: it may know no other.
    let values = cluster.read(4, "s").await;
    cluster.publish(1, "s", b"through the drained node").await;
    assert_eq!(cluster.read(2, "s").await.len(), values.len() + 1);

    set(&cluster, 2, 1, v1::NodeState::Removed, false).await.unwrap();
    let left = until(&cluster, 2, |it| it.nodes.len() == 3).await;
    assert_eq!(left.nodes.iter().map(|it| it.node_id).collect::<Vec<_>>(), [2, 3, 4]);
    // Once more, as if the answer had been lost.
    set(&cluster, 2, 1, v1::NodeState::Removed, false).await.unwrap();
    let again = set(&cluster, 2, 1, v1::NodeState::Active, false).await.unwrap_err();
    assert_eq!(again.code, ErrorCode::NodeNotFound);
}

#[tokio::test(start_paused = true)]
async fn without_a_substitute_only_the_leads_go_and_that_is_said() {
    let cluster = three().await;
    stream(&cluster, "s").await;
    let told = set(&cluster, 1, 2, v1::NodeState::Draining, false).await.unwrap();
    assert_eq!(told.drain.expect("what is left").stuck, [0, 1, 2]);
    let description =
        until(&cluster, 1, |it| !leaders(it).contains(&2) && !leaders(it).contains(&0)).await;
    assert!(!drain_of(&description, 2).drained);
    sleep(Duration::from_secs(30)).await;
    let description = admin(&cluster, 1).describe().await.unwrap();
    assert!(!leaders(&description).contains(&2), "none comes back");

    let refused = set(&cluster, 1, 2, v1::NodeState::Removed, false).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::UnsafeChange);
    assert!(refused.message.contains("alive and not drained"), "{refused}");
    set(&cluster, 1, 2, v1::NodeState::Active, false).await.unwrap();
    until(&cluster, 3, |it| it.nodes[1].state() == v1::NodeState::Active).await;
    let transfer = v1::TransferLeader { shard: 1, node_id: 2 };
    admin(&cluster, 3).transfer_leader(transfer).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    let description = admin(&cluster, 3).describe().await.unwrap();
    assert_eq!(leaders(&description)[1], 2, "it may lead again");
}

#[tokio::test(start_paused = true)]
async fn no_node_is_removed_without_which_a_shard_is_lost() {
    let mut cluster = three().await;
    stream(&cluster, "s").await;
    cluster.publish(1, "s", b"kept").await;
    cluster.kill(3).await;
    until(&cluster, 1, |it| !it.nodes[2].reachable).await;
    for force in [false, true] {
        let refused = set(&cluster, 1, 2, v1::NodeState::Removed, force).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::UnsafeChange);
        assert!(
            refused.message.contains("no majority of the voters of shards 0, 1, 2"),
            "{refused}"
        );
    }
    let nobody = set(&cluster, 1, 9, v1::NodeState::Removed, false).await.unwrap_err();
    assert_eq!(nobody.code, ErrorCode::NodeNotFound);
    // The dead one needs no force.
    set(&cluster, 1, 3, v1::NodeState::Removed, false).await.unwrap();
    until(&cluster, 2, |it| {
        it.nodes.len() == 2 && it.shards.iter().all(|it| it.settled && it.replicas.len() == 2)
    })
    .await;
    cluster.publish(2, "s", b"and more").await;
    assert_eq!(cluster.read(1, "s").await, [b"kept".to_vec(), b"and more".to_vec()]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_removed_by_force_learns_it_and_ends() {
    let mut cluster = three().await;
    stream(&cluster, "s").await;
    cluster.publish(2, "s", b"kept").await;
    set(&cluster, 1, 2, v1::NodeState::Removed, true).await.unwrap();
    let told = |reason: &str| reason.contains("was node 2, which was removed from the cluster");
    match timeout(PATIENCE, cluster.node(2).failed()).await.expect("it learns it") {
        NodeFailure::IdentityConflict { reason, .. } if told(&reason) => {}
        other => panic!("{other}"),
    }
    // And again whenever it is started.
    cluster.kill(2).await;
    let start = timeout(PATIENCE, Broker::start(cluster.spec(2, 100))).await;
    match start.expect("it learns it").expect_err("it is no part of the cluster") {
        StartError::IdentityConflict { reason, .. } if told(&reason) => {}
        other => panic!("{other}"),
    }
    cluster.publish(3, "s", b"and more").await;
    assert_eq!(cluster.read(1, "s").await, [b"kept".to_vec(), b"and more".to_vec()]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_hands_over_first() {
    let cluster = three().await;
    let shard = stream(&cluster, "s").await;
    let transfer = v1::TransferLeader { shard: shard.0, node_id: 1 };
    admin(&cluster, 2).transfer_leader(transfer).await.unwrap();
    cluster.publish(2, "s", b"first").await;
    let (_connection, mut control) = enter(&cluster.network, cluster.node(1)).await;
    let gap = publishing(&cluster, 2, async {
        let shutdown = cluster.node(1).shutdown(DRAIN_TIMEOUT);
        let (said, ()) = tokio::join!(go_away(&mut control), shutdown);
        let mut alternatives = said.alternatives;
        alternatives.sort();
        assert_eq!(alternatives, ["10.0.0.2:9400", "10.0.0.3:9400"]);
    });
    let gap = Box::pin(gap).await;
    assert!(gap <= GAP_MAX, "{gap:?}");
}

#[tokio::test(start_paused = true)]
async fn a_token_buys_one_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Arc::new(ClusterCa::create(dir.path()).unwrap());
    let mut cluster = Cluster::new(3);
    cluster.authorities.insert(3, Arc::clone(&ca));
    cluster.start(&[1, 2, 3]).await;
    let make = v1::MakeJoinToken { valid_for_ms: 0 };
    let token = admin(&cluster, 1).make_join_token(make).await.unwrap();
    assert_eq!(token.ca_sha256, crate::joining::fingerprint(&ca));
    assert_eq!(token.secret.len(), 32);

    let sign = |secret: &[u8], request: &NodeRequest| v1::SignNode {
        secret: secret.to_vec().into(),
        csr_pem: request.csr_pem.clone(),
        hosts: vec!["n4.example.com".to_owned()],
    };
    let (one, other) = (NodeRequest::new().unwrap(), NodeRequest::new().unwrap());
    // What cannot be signed uses nothing up.
    let nameless = v1::SignNode { hosts: Vec::new(), ..sign(&token.secret, &other) };
    let refused = admin(&cluster, 1).sign_node(nameless).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidName);

    let signed = admin(&cluster, 1).sign_node(sign(&token.secret, &one)).await.unwrap();
    assert_eq!(signed.ca_pem, ca.pem());
    let node = railgun_net::peer::NodeTls::from_pem(
        signed.chain_pem.as_bytes(),
        one.key_pem.as_bytes(),
        signed.ca_pem.as_bytes(),
    );
    node.unwrap();
    // Again, for the answer was lost; and the same token for another node.
    admin(&cluster, 2).sign_node(sign(&token.secret, &one)).await.unwrap();
    // Nobody gets other names for the same key.
    let renamed = v1::SignNode { hosts: vec!["n5".to_owned()], ..sign(&token.secret, &one) };
    let refused = admin(&cluster, 1).sign_node(renamed).await.unwrap_err();
    assert!(refused.message.contains("under the names first asked for"), "{refused}");
    let refused = async |secret: &[u8]| {
        let refused = admin(&cluster, 2).sign_node(sign(secret, &other)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::TokenExpired);
        refused.message
    };
    assert!(refused(&token.secret).await.contains("used already"));
    assert!(refused(&[7; 32]).await.contains("none of this cluster"));
    let late = sha2::Sha256::digest([8; 32]).into();
    let expires = Timestamp(1_772_409_570_000_000 - 1);
    let add = CatalogCommand::AddToken { hash: late, expires };
    admin(&cluster, 1).routing.change(add).await.unwrap();
    assert!(refused(&[8; 32]).await.ends_with("has expired"));
}

#[tokio::test(start_paused = true)]
async fn without_the_key_of_the_authority_there_are_no_tokens() {
    let cluster = three().await;
    let make = v1::MakeJoinToken { valid_for_ms: 0 };
    let refused = admin(&cluster, 1).make_join_token(make).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NoAuthority);
    assert!(refused.message.contains("cluster.ca_dir"), "{refused}");
}

/// Says hello with a token: the connection, and what is answered.
async fn hello(cluster: &Cluster, number: usize, token: &str) -> (Connection, Option<WireError>) {
    let connection = cluster.network.connect(cluster.node(number).listen_addr()).await.unwrap();
    let (mut writer, mut control) = connection.open().await.unwrap();
    let (version_min, version_max, token) = (1, 1, token.to_owned());
    let hello = v1::Hello { version_min, version_max, token, ..v1::Hello::default() };
    writer.send(Frame::new(&hello)).await.unwrap();
    let answer = control.next().await.unwrap().unwrap();
    let refused = (answer.kind() == FrameKind::Error)
        .then(|| WireError::from(answer.decode::<v1::Error>().unwrap()));
    if refused.is_none() {
        // The session is as long as its control stream.
        tokio::spawn(async move {
            drop(control.next().await);
            drop(writer);
        });
    }
    (connection, refused)
}

async fn asks(connection: &Connection, first: Frame) -> Frame {
    let (mut writer, mut reader) = connection.open().await.unwrap();
    writer.send(first).await.unwrap();
    reader.next().await.unwrap().expect("an answer")
}

#[tokio::test(start_paused = true)]
async fn a_join_token_lets_in_for_a_certificate_and_for_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(3);
    cluster.authorities.insert(2, Arc::new(ClusterCa::create(dir.path()).unwrap()));
    cluster.tokens = vec![TokenHash::of("of clients")];
    cluster.start(&[1, 2, 3]).await;
    let made = admin(&cluster, 1).make_join_token(v1::MakeJoinToken::default()).await.unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let token = format!("rgj1.{}.{}", hex(&made.secret), hex(&made.ca_sha256));

    let (_, refused) = hello(&cluster, 3, "").await;
    assert_eq!(refused.unwrap().code, ErrorCode::Unauthenticated);
    let other = format!("rgj1.{}.{}", "00".repeat(32), hex(&made.ca_sha256));
    let (_, refused) = hello(&cluster, 3, &other).await;
    assert_eq!(refused.unwrap().code, ErrorCode::TokenExpired);

    let (connection, refused) = hello(&cluster, 3, &token).await;
    assert_eq!(refused, None);
    let describe = v1::admin_request::Call::DescribeCluster(v1::DescribeCluster {});
    let describe = v1::AdminRequest { id: 1, call: Some(describe) };
    for first in [Frame::new(&v1::OpenPublisher::default()), Frame::new(&describe)] {
        let answer = asks(&connection, first).await;
        let refused = WireError::from(answer.decode::<v1::Error>().unwrap());
        assert_eq!(refused.code, ErrorCode::Unauthorized);
    }
    let csr_pem = NodeRequest::new().unwrap().csr_pem;
    let sign = v1::SignNode { secret: made.secret, csr_pem, hosts: vec!["n4".to_owned()] };
    let guessed = v1::SignNode { secret: vec![7; 32].into(), ..sign.clone() };
    let call = Some(v1::admin_request::Call::SignNode(guessed));
    let answer = asks(&connection, Frame::new(&v1::AdminRequest { id: 1, call })).await;
    let refused = WireError::from(answer.decode::<v1::Error>().unwrap());
    assert_eq!(refused.code, ErrorCode::Unauthorized, "it shows another token than it has");
    let call = Some(v1::admin_request::Call::SignNode(sign));
    let answer = asks(&connection, Frame::new(&v1::AdminRequest { id: 2, call })).await;
    let answer: v1::AdminResponse = answer.decode().unwrap();
    assert!(matches!(answer.answer, Some(v1::admin_response::Answer::NodeSigned(_))), "{answer:?}");
}

/// Makes a call on a stream of its own.
async fn calls(
    connection: &Connection,
    call: v1::admin_request::Call,
) -> v1::admin_response::Answer {
    let request = v1::AdminRequest { id: 1, call: Some(call) };
    let answer = asks(connection, Frame::new(&request)).await;
    answer.decode::<v1::AdminResponse>().unwrap().answer.unwrap()
}

#[tokio::test(start_paused = true)]
async fn only_operators_change_the_cluster_where_they_have_tokens() {
    use v1::admin_request::Call;
    use v1::admin_response::Answer;
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::new(3);
    cluster.authorities.insert(2, Arc::new(ClusterCa::create(dir.path()).unwrap()));
    cluster.tokens = vec![TokenHash::of("of clients")];
    cluster.admin_tokens = vec![TokenHash::of("of operators")];
    cluster.start(&[1, 2, 3]).await;
    sleep(SETTLED).await;
    let set = |state: v1::NodeState| {
        let (node_id, state) = (2, state.into());
        Call::SetNodeState(v1::SetNodeState { node_id, state, force: true })
    };
    let leader = cluster.leader(1, ShardId::CATALOG).unwrap() as u32;
    let transfer = Call::TransferLeader(v1::TransferLeader { shard: 0, node_id: leader % 3 + 1 });
    let make = Call::MakeJoinToken(v1::MakeJoinToken::default());
    let describe = || Call::DescribeCluster(v1::DescribeCluster {});

    let (client, refused) = hello(&cluster, 1, "of clients").await;
    assert_eq!(refused, None);
    let draining = set(v1::NodeState::Draining);
    for call in [draining.clone(), set(v1::NodeState::Removed), transfer.clone(), make.clone()] {
        let Answer::Error(refused) = calls(&client, call).await else { panic!("it was done") };
        let refused = WireError::from(refused);
        assert_eq!(refused.code, ErrorCode::Unauthorized);
        assert!(refused.message.contains("auth.admin_tokens"), "{refused}");
    }
    // Streams and what the cluster is are its matter as before.
    let list = Call::ListStreams(v1::ListStreams::default());
    assert!(matches!(calls(&client, list.clone()).await, Answer::StreamList(_)));
    let told = calls(&client, describe()).await;
    let Answer::ClusterDescription(told) = told else { panic!("{told:?}") };
    let is_active = |node: &v1::ClusterNode| node.state() == v1::NodeState::Active;
    assert!(told.nodes.len() == 3 && told.nodes.iter().all(is_active), "{told:?}");
    assert_eq!(cluster.leader(1, ShardId::CATALOG), Some(leader as usize));

    let (operator, refused) = hello(&cluster, 3, "of operators").await;
    assert_eq!(refused, None);
    assert!(matches!(calls(&operator, list).await, Answer::StreamList(_)));
    assert!(matches!(calls(&operator, transfer).await, Answer::LeaderTransferred(_)));
    assert!(matches!(calls(&operator, draining).await, Answer::NodeStateSet(_)));
    let Answer::JoinToken(token) = calls(&operator, make).await else { panic!("no token") };
    // Who has that needs nothing else for a certificate.
    let csr_pem = NodeRequest::new().unwrap().csr_pem;
    let sign = v1::SignNode { secret: token.secret, csr_pem, hosts: vec!["n4".to_owned()] };
    assert!(matches!(calls(&client, Call::SignNode(sign)).await, Answer::NodeSigned(_)));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_alone_describes_itself() {
    let network = MemoryNetwork::new();
    let broker = start(&network).await;
    let admin = &broker.cluster_admin;
    let description = admin.describe().await.unwrap();
    assert_eq!((description.node_id, description.nodes.len(), description.replicas), (1, 1, 1));
    assert!(description.nodes[0].reachable);
    assert_eq!(leaders(&description), [1, 1, 1]);
    let is_well = |shard: &v1::ClusterShard| shard.has_majority && !shard.under_replicated;
    assert!(description.shards.iter().all(is_well), "{description:#?}");
    let (node_id, state) = (1, v1::NodeState::Removed.into());
    let remove = v1::SetNodeState { node_id, state, force: true };
    let refused = admin.set_node_state(remove).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::UnsafeChange);
    // It leads already.
    let transfer = v1::TransferLeader { shard: 1, node_id: 1 };
    admin.transfer_leader(transfer).await.unwrap();
}
