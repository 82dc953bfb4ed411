//! Nodes, placements and join tokens.

use railgun_types::limits::{JOIN_TOKENS, NODE_ADDRESS_BYTES, NODES, VOTERS};
use railgun_types::{ClusterUid, NodeId, NodeUid, ReplicaId, ShardId, Timestamp};

use super::apply;
use crate::catalog::{Catalog, CatalogOutcome, Placement, TokenVerdict};
use crate::command::{CatalogCommand, ClusterSettings, NodeInfo, NodeState};

const DATA: ShardId = ShardId(1);

fn info(n: u16) -> NodeInfo {
    let mut uid = [0xaa; 16];
    uid[..2].copy_from_slice(&n.to_be_bytes());
    NodeInfo {
        uid: NodeUid(uid),
        peer_address: format!("node-{n}:7401"),
        client_address: format!("node-{n}:7400"),
        feature_level: 1,
    }
}

fn settings(replicas: u8) -> ClusterSettings {
    ClusterSettings { cluster: ClusterUid([1; 16]), shards: 4, hot_bytes_max: 100, replicas }
}

fn cluster(nodes: u16, replicas: u8) -> Catalog {
    let mut catalog = Catalog::default();
    let nodes = (1..=nodes).map(|n| (NodeId(u32::from(n)), info(n))).collect();
    apply(&mut catalog, 1, CatalogCommand::Found { settings: settings(replicas), nodes });
    catalog
}

fn first(node: u32) -> ReplicaId {
    ReplicaId::new(NodeId(node), 1)
}

fn placement(catalog: &Catalog, shard: ShardId) -> Placement {
    catalog.placement(shard).expect("placed").clone()
}

/// The node that a command was about.
fn node(outcome: CatalogOutcome) -> (NodeId, NodeState) {
    match outcome {
        CatalogOutcome::Node { node, record, .. } => (node, record.state),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_done_before_a_cluster_is_founded() {
    let mut catalog = Catalog::default();
    for command in [
        CatalogCommand::AddNode(info(1)),
        CatalogCommand::SetFeatureLevel(1),
        CatalogCommand::Settled { shard: DATA, version: 1 },
        CatalogCommand::AddToken { hash: [0; 32], expires: Timestamp(9) },
    ] {
        assert_eq!(apply(&mut catalog, 0, command), CatalogOutcome::Refused);
    }
    let settings = ClusterSettings { shards: 1 << 31, ..settings(1) };
    let huge = CatalogCommand::Found { settings, nodes: vec![(NodeId(1), info(1))] };
    assert_eq!(apply(&mut catalog, 0, huge), CatalogOutcome::Refused);
    let nobody = CatalogCommand::Found { settings: self::settings(1), nodes: Vec::new() };
    assert_eq!(apply(&mut catalog, 0, nobody), CatalogOutcome::Refused);
    assert_eq!(catalog, Catalog::default());
}

#[test]
fn a_cluster_begins_with_its_nodes_and_every_shard_placed() {
    let catalog = cluster(7, 3);
    let voters = placement(&catalog, ShardId::CATALOG);
    assert_eq!(voters.voters, [1, 2, 3, 4, 5].map(first));
    assert_eq!(voters.learners, [6, 7].map(first));
    for shard in settings(3).data_shards() {
        let Placement { version, voters, learners, in_force, settled } = placement(&catalog, shard);
        assert_eq!((version, settled, voters.len(), learners.len()), (1, 0, 3, 0));
        assert_eq!(in_force, voters, "who founds the group is fixed");
    }
    let placed: usize = catalog.nodes().map(|(node, _)| catalog.shards_of(node).count()).sum();
    assert_eq!(placed, 7 + 4 * 3);

    // The same number or uid twice is one node; number 0 is none.
    let mut catalog = Catalog::default();
    let nodes = [(0, 4), (3, 1), (3, 2), (9, 1), (5, 5)];
    let nodes = nodes.map(|(node, n)| (NodeId(node), info(n))).to_vec();
    apply(&mut catalog, 1, CatalogCommand::Found { settings: settings(1), nodes });
    assert_eq!(catalog.nodes().map(|(node, _)| node.0).collect::<Vec<_>>(), [3, 5]);
    assert_eq!(node(apply(&mut catalog, 1, CatalogCommand::AddNode(info(8)))).0, NodeId(6));
}

#[test]
fn a_node_gets_a_number_once_and_for_ever() {
    let mut catalog = cluster(3, 3);
    let mut add = |info| apply(&mut catalog, 1, CatalogCommand::AddNode(info));
    let four = (NodeId(4), NodeState::Active);
    assert_eq!(node(add(info(4))), four);
    assert_eq!(node(add(info(4))), four, "by its uid it is known");
    let moved = NodeInfo { peer_address: "moved:1".to_owned(), feature_level: 3, ..info(4) };
    assert_eq!(node(add(moved.clone())), four);

    // Two nodes cannot be at one address; one may take over that of a removed one.
    let here = NodeInfo { peer_address: "moved:1".to_owned(), ..info(5) };
    assert_eq!(add(here.clone()), CatalogOutcome::AddressTaken { by: NodeId(4) });
    let into = NodeInfo { peer_address: "node-1:7401".to_owned(), ..info(4) };
    assert_eq!(add(into), CatalogOutcome::AddressTaken { by: NodeId(1) });
    let nobody = NodeInfo { uid: NodeUid::default(), ..info(9) };
    assert_eq!(add(nobody), CatalogOutcome::Refused);
    let long = NodeInfo { client_address: "x".repeat(NODE_ADDRESS_BYTES + 1), ..info(9) };
    assert_eq!(add(long), CatalogOutcome::Refused);

    let record = catalog.node(NodeId(4)).expect("known");
    assert_eq!((record.peer_address.as_str(), record.feature_level), ("moved:1", 3));
    assert_eq!(record.uid, info(4).uid);

    let remove = CatalogCommand::SetNodeState { node: NodeId(4), state: NodeState::Removed };
    let removed = (NodeId(4), NodeState::Removed);
    assert_eq!(node(apply(&mut catalog, 1, remove.clone())), removed);
    let gone = CatalogOutcome::NodeRemoved { node: NodeId(4) };
    assert_eq!(apply(&mut catalog, 1, CatalogCommand::AddNode(moved)), gone);
    assert_eq!(apply(&mut catalog, 1, remove), gone, "for good");
    assert_eq!(node(apply(&mut catalog, 1, CatalogCommand::AddNode(here))).0, NodeId(5));
}

#[test]
fn nodes_that_have_moved_at_the_same_time_may_take_one_anothers_addresses() {
    let mut catalog = cluster(3, 3);
    let at =
        |n: u16, address: u16| NodeInfo { peer_address: info(address).peer_address, ..info(n) };
    let node = |n: u16| NodeId(n.into());
    let mut update = |told: &[(u16, u16)]| {
        let told = told.iter().map(|(n, address)| (node(*n), at(*n, *address))).collect();
        apply(&mut catalog, 1, CatalogCommand::UpdateNodes(told))
    };
    assert_eq!(update(&[(1, 2)]), CatalogOutcome::AddressTaken { by: node(2) });
    let taken = CatalogOutcome::AddressTaken { by: node(3) };
    assert_eq!(update(&[(1, 2), (2, 3)]), taken, "that one stays");
    assert_eq!(update(&[(1, 9), (2, 9)]), CatalogOutcome::Refused);
    assert_eq!(update(&[(1, 8), (1, 9)]), CatalogOutcome::Refused);
    assert_eq!(update(&[]), CatalogOutcome::Refused);
    let unknown = CatalogOutcome::NoSuchNode { node: node(4) };
    assert_eq!(update(&[(1, 7), (4, 8)]), unknown, "all or none");
    match update(&[(1, 2), (2, 3), (3, 1)]) {
        CatalogOutcome::Node { node, record, .. } => {
            assert_eq!((node, record.peer_address.as_str()), (NodeId(1), "node-2:7401"));
        }
        other => panic!("{other:?}"),
    }
    let addresses: Vec<_> = catalog.nodes().map(|(_, it)| it.peer_address.as_str()).collect();
    assert_eq!(addresses, ["node-2:7401", "node-3:7401", "node-1:7401"]);
    let others_uid = (node(1), NodeInfo { peer_address: "x:1".to_owned(), ..info(2) });
    let told = CatalogCommand::UpdateNodes(vec![others_uid]);
    assert_eq!(apply(&mut catalog, 1, told), CatalogOutcome::Refused);
}

#[test]
fn the_last_node_stays_and_unknown_ones_are_told() {
    let mut catalog = cluster(2, 1);
    let mut set = |node, state| {
        apply(&mut catalog, 1, CatalogCommand::SetNodeState { node: NodeId(node), state })
    };
    assert_eq!(set(9, NodeState::Draining), CatalogOutcome::NoSuchNode { node: NodeId(9) });
    assert_eq!(node(set(1, NodeState::Draining)).1, NodeState::Draining);
    assert_eq!(node(set(1, NodeState::Active)).1, NodeState::Active);
    assert_eq!(node(set(1, NodeState::Removed)).1, NodeState::Removed);
    assert_eq!(set(2, NodeState::Removed), CatalogOutcome::LastNode { node: NodeId(2) });
    assert_eq!(node(set(2, NodeState::Draining)).1, NodeState::Draining);
}

#[test]
fn numbers_of_nodes_are_bounded() {
    let mut catalog = cluster(1, 1);
    for n in 2..=NODES as u16 {
        assert_eq!(node(apply(&mut catalog, 1, CatalogCommand::AddNode(info(n)))).0.0, n.into());
    }
    let more = CatalogCommand::AddNode(info(NODES as u16 + 1));
    assert_eq!(apply(&mut catalog, 1, more), CatalogOutcome::TooManyNodes);
    let placement = placement(&catalog, ShardId::CATALOG);
    assert_eq!((placement.voters.len(), placement.members().count()), (VOTERS, NODES));
}

#[test]
fn the_feature_level_rises_when_every_node_has_it() {
    let mut catalog = cluster(2, 1);
    assert_eq!(catalog.feature_level(), 1, "what all have from the beginning");
    let update = |n: u16, feature_level| CatalogCommand::UpdateNode {
        node: NodeId(n.into()),
        info: NodeInfo { feature_level, ..info(n) },
    };
    let raise = CatalogCommand::SetFeatureLevel(3);
    apply(&mut catalog, 1, update(1, 4));
    assert_eq!(catalog.feature_level_due(), None);
    assert_eq!(apply(&mut catalog, 1, raise.clone()), CatalogOutcome::FeatureLevel(1));
    apply(&mut catalog, 1, update(2, 3));
    assert_eq!(catalog.feature_level_due(), Some(3));
    assert_eq!(apply(&mut catalog, 1, raise), CatalogOutcome::FeatureLevel(3));
    assert_eq!(catalog.feature_level_due(), None);
    let lower = CatalogCommand::SetFeatureLevel(2);
    assert_eq!(apply(&mut catalog, 1, lower), CatalogOutcome::FeatureLevel(3));
    let old = CatalogOutcome::FeatureLevelTooLow { needed: 3 };
    assert_eq!(apply(&mut catalog, 1, update(1, 2)), old);
    assert_eq!(apply(&mut catalog, 1, CatalogCommand::AddNode(info(3))), old);
    assert_eq!(catalog.nodes().count(), 2);
}

#[test]
fn a_placement_is_compared_and_set() {
    let mut catalog = cluster(4, 3);
    let before = placement(&catalog, DATA);
    let unused = (1..=4).map(first).find(|new| !before.voters.contains(new)).expect("a fourth");
    let place = |replicas: &[ReplicaId], if_version| CatalogCommand::Place {
        shard: DATA,
        replicas: replicas.to_vec(),
        if_version,
    };
    let unchanged = CatalogOutcome::Placed { shard: DATA, placement: before.clone() };
    let [a, b, c] = before.voters[..] else { panic!("{before:?}") };
    assert_eq!(apply(&mut catalog, 1, place(&[a, b, unused], 7)), unchanged);
    assert_eq!(apply(&mut catalog, 1, place(&[a, b, c], 1)), unchanged, "no change is no version");
    for impossible in [
        &[][..],
        &[a, b, a],
        &[a, b, ReplicaId::new(a.node(), 2)],
        &[a, b, ReplicaId::new(c.node(), 3)],
        &[a, b, ReplicaId::new(unused.node(), 2)],
        &[a, b, first(9)],
    ] {
        let outcome = apply(&mut catalog, 1, place(impossible, 1));
        assert_eq!(outcome, CatalogOutcome::Refused, "{impossible:?}");
    }
    apply(&mut catalog, 1, place(&[a, b, unused], 1));
    let now = placement(&catalog, DATA);
    assert_eq!((now.version, &now.voters[..]), (2, &[a, b, unused][..]));
    assert_eq!(now.leaving().collect::<Vec<_>>(), [c]);
    assert!(now.uses(c.node()) && now.replica_on(c.node()).is_none());
    // What has left comes back as another life: it may have thrown its log away.
    assert_eq!(apply(&mut catalog, 1, place(&[a, b, c], 2)), CatalogOutcome::Refused);
    apply(&mut catalog, 1, place(&[a, b, ReplicaId::new(c.node(), 2)], 2));
    assert_eq!(placement(&catalog, DATA).version, 3);
    let nowhere = CatalogCommand::Place { shard: ShardId(9), replicas: vec![a], if_version: 1 };
    let outcome = CatalogOutcome::NoSuchShard { shard: ShardId(9) };
    assert_eq!(apply(&mut catalog, 1, nowhere), outcome);

    let remove = CatalogCommand::SetNodeState { node: unused.node(), state: NodeState::Removed };
    apply(&mut catalog, 1, remove);
    let back = place(&[a, b, ReplicaId::new(unused.node(), 2)], 3);
    assert_eq!(apply(&mut catalog, 1, back), CatalogOutcome::Refused, "it was removed");
}

#[test]
fn a_placement_is_settled_by_its_own_version() {
    let mut catalog = cluster(4, 3);
    let settled = |version| CatalogCommand::Settled { shard: DATA, version };
    apply(&mut catalog, 1, settled(2));
    assert!(!placement(&catalog, DATA).is_settled());
    apply(&mut catalog, 1, settled(1));
    assert!(placement(&catalog, DATA).is_settled());

    // Another order is another wish for who leads, but the same membership.
    let mut replicas = placement(&catalog, DATA).voters;
    replicas.reverse();
    apply(&mut catalog, 1, CatalogCommand::Place { shard: DATA, replicas, if_version: 1 });
    let now = placement(&catalog, DATA);
    assert_eq!((now.version, now.settled, &now.in_force), (2, 2, &now.voters));

    apply(&mut catalog, 1, CatalogCommand::Reincarnate { shard: DATA, lost: now.voters[1] });
    apply(&mut catalog, 1, settled(2));
    let now = placement(&catalog, DATA);
    assert_eq!((now.version, now.settled), (3, 2), "that was the version before");
    apply(&mut catalog, 1, settled(3));
    assert_eq!(placement(&catalog, DATA).in_force, now.voters);
}

#[test]
fn a_lost_replica_is_replaced_once() {
    let mut catalog = cluster(3, 3);
    let lost = placement(&catalog, DATA).voters[1];
    let (node, next) = (lost.node(), |incarnation| ReplicaId::new(lost.node(), incarnation));
    let told = |replica| CatalogOutcome::Replica { shard: DATA, replica: Some(replica) };
    let reincarnate = |lost| CatalogCommand::Reincarnate { shard: DATA, lost };
    for _ in 0..2 {
        assert_eq!(apply(&mut catalog, 1, reincarnate(lost)), told(next(2)));
    }
    let now = placement(&catalog, DATA);
    assert_eq!((now.version, now.voters[1], now.replica_on(node)), (2, next(2), Some(next(2))));
    assert!(now.in_force.contains(&lost), "the group may be founded with it still");
    assert_eq!(apply(&mut catalog, 1, reincarnate(next(2))), told(next(3)));
    assert_eq!(apply(&mut catalog, 1, reincarnate(lost)), told(next(3)));
    // It is of one shard only.
    assert_eq!(catalog.catalog_replica(node), Some(next(1)));
    let elsewhere = CatalogOutcome::Replica { shard: DATA, replica: None };
    assert_eq!(apply(&mut catalog, 1, reincarnate(first(9))), elsewhere);
}

#[test]
fn who_alone_has_the_log_is_not_replaced() {
    let mut catalog = cluster(1, 3);
    let reincarnate = |node| CatalogCommand::Reincarnate { shard: DATA, lost: first(node) };
    let told = |node, incarnation| CatalogOutcome::Replica {
        shard: DATA,
        replica: Some(ReplicaId::new(NodeId(node), incarnation)),
    };
    assert_eq!(apply(&mut catalog, 1, reincarnate(1)), told(1, 1));
    // Others that are to be there have nothing yet.
    for n in [2, 3] {
        apply(&mut catalog, 1, CatalogCommand::AddNode(info(n)));
    }
    let replicas = vec![first(1), first(2), first(3)];
    apply(&mut catalog, 1, CatalogCommand::Place { shard: DATA, replicas, if_version: 1 });
    assert_eq!(apply(&mut catalog, 1, reincarnate(1)), told(1, 1));
    apply(&mut catalog, 1, CatalogCommand::Settled { shard: DATA, version: 2 });
    assert_eq!(apply(&mut catalog, 1, reincarnate(1)), told(1, 2));
}

#[test]
fn of_several_that_are_lost_only_so_many_are_replaced_as_the_rest_can_do_without() {
    let mut catalog = cluster(5, 3);
    let placed = placement(&catalog, DATA).voters;
    let told = |node: NodeId, incarnation| CatalogOutcome::Replica {
        shard: DATA,
        replica: Some(ReplicaId::new(node, incarnation)),
    };
    let reincarnate = |lost| CatalogCommand::Reincarnate { shard: DATA, lost };
    let [a, b, c] = [placed[0], placed[1], placed[2]];
    assert_eq!(apply(&mut catalog, 1, reincarnate(a)), told(a.node(), 2));
    // Neither is the first one there yet, nor may it be replaced by all that say so.
    for lost in [b, c] {
        assert_eq!(catalog.as_it_is(&reincarnate(lost)), Some(told(lost.node(), 1)));
        assert_eq!(apply(&mut catalog, 1, reincarnate(lost)), told(lost.node(), 1));
    }
    // What is done is told without an entry.
    assert_eq!(catalog.as_it_is(&reincarnate(a)), Some(told(a.node(), 2)));
    let version = placement(&catalog, DATA).version;
    apply(&mut catalog, 1, CatalogCommand::Settled { shard: DATA, version });
    assert_eq!(catalog.as_it_is(&reincarnate(b)), None, "that changes something");
    assert_eq!(apply(&mut catalog, 1, reincarnate(b)), told(b.node(), 2));
    assert_eq!(apply(&mut catalog, 1, reincarnate(c)), told(c.node(), 1));
    let version = placement(&catalog, DATA).version;
    apply(&mut catalog, 1, CatalogCommand::Settled { shard: DATA, version });
    // A voter on a node that was removed has nothing for the others.
    let remove = CatalogCommand::SetNodeState { node: a.node(), state: NodeState::Removed };
    apply(&mut catalog, 1, remove);
    assert_eq!(apply(&mut catalog, 1, reincarnate(c)), told(c.node(), 1));
    let nowhere = CatalogCommand::Reincarnate { shard: ShardId(9), lost: c };
    let outcome = CatalogOutcome::NoSuchShard { shard: ShardId(9) };
    assert_eq!(catalog.as_it_is(&nowhere), Some(outcome));
}

#[test]
fn incarnations_end_before_one_is_given_twice() {
    let mut catalog = cluster(3, 3);
    let mut lost = first(2);
    for _ in 2..=u16::MAX {
        apply(&mut catalog, 1, CatalogCommand::Reincarnate { shard: DATA, lost });
        lost = placement(&catalog, DATA).replica_on(NodeId(2)).expect("there");
    }
    assert_eq!(lost.incarnation(), u16::MAX);
    assert_eq!(catalog.next_replica(DATA, NodeId(2)), None);
    let stays = CatalogOutcome::Replica { shard: DATA, replica: Some(lost) };
    assert_eq!(apply(&mut catalog, 1, CatalogCommand::Reincarnate { shard: DATA, lost }), stays);
}

#[test]
fn a_join_token_lets_one_node_in() {
    const DAY_US: i64 = 86_400_000_000;
    let mut catalog = cluster(1, 1);
    let add = |n, expires| CatalogCommand::AddToken { hash: [n; 32], expires: Timestamp(expires) };
    let spend = |n, uid| CatalogCommand::UseToken { hash: [n; 32], uid: NodeUid([uid; 16]) };
    let verdict = |catalog: &mut Catalog, ts, command| match apply(catalog, ts, command) {
        CatalogOutcome::Token(verdict) => verdict,
        other => panic!("{other:?}"),
    };
    for n in [1, 2] {
        assert_eq!(apply(&mut catalog, 10, add(n, 100)), CatalogOutcome::TokenKept);
    }
    assert_eq!(apply(&mut catalog, 10, add(1, 900)), CatalogOutcome::TokenKept, "the first counts");
    assert_eq!(verdict(&mut catalog, 11, spend(3, 1)), TokenVerdict::Unknown);
    assert_eq!(verdict(&mut catalog, 100, spend(1, 1)), TokenVerdict::Accepted);
    assert_eq!(verdict(&mut catalog, 100, spend(1, 1)), TokenVerdict::Repeated);
    assert_eq!(verdict(&mut catalog, 100, spend(1, 2)), TokenVerdict::Used);
    let as_it_is = |catalog: &Catalog, n, uid| catalog.as_it_is(&spend(n, uid));
    let worth = |verdict| Some(CatalogOutcome::Token(verdict));
    assert_eq!(as_it_is(&catalog, 1, 2), worth(TokenVerdict::Used), "nothing needs to be written");
    assert_eq!(as_it_is(&catalog, 9, 2), worth(TokenVerdict::Unknown));
    assert_eq!((as_it_is(&catalog, 1, 1), as_it_is(&catalog, 2, 2)), (None, None));
    assert_eq!(
        verdict(&mut catalog, 200, spend(1, 1)),
        TokenVerdict::Expired,
        "for who used it, too"
    );
    assert_eq!(as_it_is(&catalog, 1, 1), worth(TokenVerdict::Expired));
    assert_eq!(verdict(&mut catalog, 200, spend(1, 2)), TokenVerdict::Expired);
    assert_eq!(verdict(&mut catalog, 200, spend(2, 2)), TokenVerdict::Expired);
    // Log time counts: it never goes back.
    assert_eq!(verdict(&mut catalog, 50, spend(2, 2)), TokenVerdict::Expired);
    assert_eq!(verdict(&mut catalog, 100 + DAY_US, spend(1, 2)), TokenVerdict::Expired);
    assert_eq!(verdict(&mut catalog, 101 + DAY_US, spend(1, 2)), TokenVerdict::Unknown);
}

#[test]
fn join_tokens_are_bounded() {
    let mut catalog = cluster(1, 1);
    let hash = |n: usize| {
        let mut hash = [7; 32];
        hash[..8].copy_from_slice(&n.to_be_bytes());
        hash
    };
    let mut add = |ts, n, expires| {
        let expires = Timestamp(expires);
        apply(&mut catalog, ts, CatalogCommand::AddToken { hash: hash(n), expires })
    };
    for n in 0..JOIN_TOKENS {
        let expires = if n == 0 { 10 } else { 100 };
        assert_eq!(add(1, n, expires), CatalogOutcome::TokenKept);
    }
    assert_eq!(add(10, JOIN_TOKENS, 100), CatalogOutcome::TooManyTokens);
    assert_eq!(add(11, JOIN_TOKENS, 100), CatalogOutcome::TokenKept, "for one that has expired");
    assert_eq!(add(11, JOIN_TOKENS + 1, 100), CatalogOutcome::TooManyTokens);
    let spend = CatalogCommand::UseToken { hash: hash(5), uid: NodeUid([1; 16]) };
    assert_eq!(apply(&mut catalog, 12, spend), CatalogOutcome::Token(TokenVerdict::Accepted));
    let (hash, expires) = (hash(JOIN_TOKENS + 1), Timestamp(100));
    let added = apply(&mut catalog, 12, CatalogCommand::AddToken { hash, expires });
    assert_eq!(added, CatalogOutcome::TokenKept, "for one that was used");
}
