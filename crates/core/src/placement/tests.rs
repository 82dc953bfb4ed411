use std::collections::BTreeSet;

use proptest::prelude::*;
use railgun_types::{ClusterUid, NodeUid, Timestamp};

use super::*;
use crate::catalog::CatalogOutcome;
use crate::command::{Command, CommandBody, NodeInfo};

fn settings(shards: u32, replicas: u8) -> ClusterSettings {
    ClusterSettings { cluster: ClusterUid([0; 16]), shards, hot_bytes_max: 0, replicas }
}

#[test]
fn streams_spread_and_stay_when_a_shard_is_added() {
    let settings = |shards| settings(shards, 1);
    let mut counts = [0; 5];
    for n in 0..10_000u32 {
        let mut uid = [7; 16];
        uid[..4].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_le_bytes());
        let stream = StreamUid(uid);
        let four = shard_of(stream, &settings(4));
        let five = shard_of(stream, &settings(5));
        counts[four.0 as usize] += 1;
        assert!(five == four || five == ShardId(5));
    }
    assert!(counts[1..].iter().all(|&c| (2_000..3_000).contains(&c)), "{counts:?}");
}

#[test]
fn shards_and_their_leaders_are_balanced_over_the_nodes() {
    for (nodes, replicas, shards) in (1..=12)
        .flat_map(|nodes| [1, 3, 5].map(|replicas| (nodes, replicas)))
        .flat_map(|(nodes, replicas)| (1..=64).map(move |shards: u32| (nodes, replicas, shards)))
    {
        let ids: Vec<_> = (1..=nodes).map(|n| NodeId(n * 7)).collect();
        let placed = place(settings(shards, 1).data_shards(), &ids, replicas);
        let what = format!("{shards} shards on {nodes} nodes, {replicas} replicas");
        assert_eq!(placed.len(), shards as usize, "{what}");
        let mut loads: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
        for on in placed.values() {
            let distinct: BTreeSet<_> = on.iter().collect();
            assert_eq!((on.len(), distinct.len()), (replicas.min(ids.len()), on.len()), "{what}");
            on.iter().for_each(|node| loads.entry(*node).or_default().0 += 1);
            loads.entry(on[0]).or_default().1 += 1;
        }
        let total: usize = loads.values().map(|(replicas, _)| replicas).sum();
        let most = |load: fn(&(usize, usize)) -> usize| loads.values().map(load).max();
        let fair = |total: usize| Some(total.div_ceil(ids.len()) + 1);
        assert!(most(|load| load.0) <= fair(total), "{what}: {loads:?}");
        assert!(most(|load| load.1) <= fair(shards as usize), "{what}: {loads:?}");
    }
}

/// A catalog, and what must hold after each of its changes.
struct World {
    catalog: Catalog,
    /// Replicas that were ever part of a placement.
    seen: BTreeSet<(ShardId, ReplicaId)>,
    nodes_made: u8,
}

fn info(n: u8) -> NodeInfo {
    NodeInfo {
        uid: NodeUid([n; 16]),
        peer_address: format!("node-{n}:1"),
        client_address: format!("node-{n}:2"),
        feature_level: 0,
    }
}

impl World {
    fn new(nodes: u8, settings: ClusterSettings) -> Self {
        let mut world =
            Self { catalog: Catalog::default(), seen: BTreeSet::new(), nodes_made: nodes };
        let nodes = (1..=nodes).map(|n| (NodeId(n.into()), info(n))).collect();
        world.apply(CatalogCommand::Found { settings, nodes });
        world
    }

    fn apply(&mut self, command: CatalogCommand) -> CatalogOutcome {
        let before = self.catalog.clone();
        let body = CommandBody::Catalog(command);
        let outcome = self.catalog.apply(&Command { ts: Timestamp(1), body });
        for (shard, placement) in self.catalog.placements() {
            let members: Vec<_> = placement.members().collect();
            let nodes: BTreeSet<_> = members.iter().map(|replica| replica.node()).collect();
            assert_eq!(
                nodes.len(),
                members.len(),
                "two replicas of {shard} on a node: {placement:?}"
            );
            assert!((1..=VOTERS).contains(&placement.voters.len()), "{placement:?}");
            let earlier = before.placement(shard);
            for replica in members {
                let was_there = earlier.is_some_and(|it| it.members().any(|it| it == replica));
                let is_new = self.seen.insert((shard, replica));
                assert!(was_there || is_new, "{replica} of shard {shard} lives twice");
                let ever =
                    self.seen.iter().filter(|(of, it)| (*of, it.node()) == (shard, replica.node()));
                let last = ever.map(|(_, it)| it.incarnation()).max();
                assert_eq!(last, Some(replica.incarnation()), "shard {shard}");
            }
        }
        outcome
    }

    fn add_node(&mut self) {
        self.nodes_made += 1;
        self.apply(CatalogCommand::AddNode(info(self.nodes_made)));
    }

    fn set_state(&mut self, node: NodeId, state: NodeState) {
        self.apply(CatalogCommand::SetNodeState { node, state });
    }

    fn settle(&mut self, shard: ShardId) {
        let version = self.catalog.placement(shard).expect("placed").version;
        self.apply(CatalogCommand::Settled { shard, version });
    }

    fn settle_all(&mut self) {
        let shards: Vec<_> = self.catalog.placements().map(|(shard, _)| shard).collect();
        shards.into_iter().for_each(|shard| self.settle(shard));
    }

    fn state(&self, replica: &ReplicaId) -> NodeState {
        self.catalog.node(replica.node()).expect("known").state
    }

    /// Does what the planner says next, and checks that it may be done.
    fn step(&mut self) -> bool {
        let Some(command) = next_placement_change(&self.catalog) else { return false };
        let CatalogCommand::Place { shard, replicas, if_version } = command.clone() else {
            panic!("{command:?}")
        };
        let before = self.catalog.placement(shard).expect("placed").clone();
        let gone: Vec<_> = before.voters.iter().filter(|it| !replicas.contains(it)).collect();
        assert!(gone.len() <= 1, "one at a time: {before:?} to {replicas:?}");
        for gone in gone {
            let is_needed = self.state(gone) == NodeState::Active;
            assert!(!is_needed, "moved without need: {before:?} to {replicas:?}");
            assert!(before.is_settled() || self.state(gone) == NodeState::Removed);
            let shrinks = replicas.len() < before.voters.len();
            assert!(!shrinks || replicas.len() * 2 > before.voters.len(), "{before:?}");
        }
        for new in replicas.iter().filter(|it| !before.voters.contains(it)) {
            assert_eq!(self.state(new), NodeState::Active);
            assert!(shard == ShardId::CATALOG || !before.uses(new.node()));
        }
        let outcome = self.apply(command);
        let CatalogOutcome::Placed { placement, .. } = &outcome else { panic!("{outcome:?}") };
        assert_eq!(placement.version, if_version + 1, "every step changes something");
        true
    }

    /// Does what the planner says until it says nothing more.
    fn converge(&mut self) {
        let mut steps = 0;
        loop {
            self.settle_all();
            if !self.step() {
                break;
            }
            steps += 1;
            assert!(steps < 1_000, "it never ends: {:?}", next_placement_change(&self.catalog));
        }
        self.check_converged();
    }

    fn check_converged(&self) {
        let catalog = &self.catalog;
        let active: BTreeSet<_> = catalog
            .nodes()
            .filter(|(_, record)| record.state == NodeState::Active)
            .map(|(node, _)| node)
            .collect();
        let mut leads: BTreeMap<NodeId, usize> = active.iter().map(|node| (*node, 0)).collect();
        for (shard, placement) in catalog.placements() {
            if shard != ShardId::CATALOG {
                *leads.entry(placement.voters[0].node()).or_default() += 1;
            }
        }
        for (shard, placement) in catalog.placements() {
            let voters = &placement.voters;
            let is_catalog = shard == ShardId::CATALOG;
            let wanted = if is_catalog {
                VOTERS
            } else {
                catalog.settings().expect("founded").replicas.into()
            };
            assert!(voters.len() <= wanted, "{placement:?}");
            let on: BTreeSet<_> = voters.iter().map(|replica| replica.node()).collect();
            if active.difference(&on).next().is_some() {
                assert_eq!(voters.len(), wanted, "shard {shard} has too few: {placement:?}");
                assert!(
                    on.is_subset(&active),
                    "shard {shard} is where it must not be: {placement:?}"
                );
            }
            let members = voters.iter().filter(|it| self.state(it) != NodeState::Removed).count();
            assert!(
                members == voters.len() || members * 2 <= voters.len(),
                "a removed one stays without need: {placement:?}"
            );
            let may_lead = voters.iter().map(|it| it.node()).filter(|it| active.contains(it));
            let fewest = may_lead.map(|node| leads[&node]).min();
            if let Some(fewest) = fewest {
                let leader = voters[0].node();
                assert!(active.contains(&leader), "{placement:?}");
                assert!(is_catalog || leads[&leader] <= fewest + 1, "shard {shard}: {leads:?}");
            }
            if is_catalog {
                let members: BTreeSet<_> = placement.members().map(ReplicaId::node).collect();
                let all = catalog.nodes().filter(|(_, record)| record.is_member());
                assert!(all.map(|(node, _)| node).all(|node| members.contains(&node)));
                let learns_removed =
                    placement.learners.iter().any(|it| self.state(it) == NodeState::Removed);
                assert!(!learns_removed, "{placement:?}");
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    AddNode,
    SetState(u8, NodeState),
    Settle(u8),
    Lose(u8, u8),
    Step(u8),
    Converge,
}

fn op() -> impl Strategy<Value = Op> {
    let state = prop_oneof![
        3 => Just(NodeState::Active),
        4 => Just(NodeState::Draining),
        2 => Just(NodeState::Removed),
    ];
    prop_oneof![
        3 => Just(Op::AddNode),
        5 => (any::<u8>(), state).prop_map(|(node, state)| Op::SetState(node, state)),
        3 => any::<u8>().prop_map(Op::Settle),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(shard, voter)| Op::Lose(shard, voter)),
        4 => (1..6u8).prop_map(Op::Step),
        1 => Just(Op::Converge),
    ]
}

fn steps(world: &mut World, most: u8) {
    for _ in 0..most {
        if !world.step() {
            break;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_planner_ends_where_every_shard_is_as_it_should_be(
        nodes in 1..7u8,
        shards in 1..9u32,
        replicas in prop_oneof![Just(1u8), Just(3), Just(5)],
        ops in proptest::collection::vec(op(), 0..60),
    ) {
        let mut world = World::new(nodes, settings(shards, replicas));
        for op in ops {
            match op {
                Op::AddNode if world.nodes_made < 14 => world.add_node(),
                Op::AddNode => {}
                Op::SetState(n, state) => {
                    world.set_state(NodeId(u32::from(n % world.nodes_made) + 1), state);
                }
                Op::Settle(n) => world.settle(ShardId(u32::from(n) % (shards + 1))),
                Op::Lose(n, voter) => {
                    let shard = ShardId(u32::from(n) % (shards + 1));
                    let voters = &world.catalog.placement(shard).expect("placed").voters;
                    let lost = voters[usize::from(voter) % voters.len()];
                    world.apply(CatalogCommand::Reincarnate { shard, lost });
                }
                Op::Step(n) => steps(&mut world, n),
                Op::Converge => world.converge(),
            }
        }
        world.converge();
    }
}

#[test]
fn a_node_that_joins_takes_what_is_missing_and_nothing_else() {
    let mut world = World::new(1, settings(4, 3));
    world.converge();
    world.add_node();
    // It is filled up before anybody told that it has settled: two voters stand less than one.
    world.add_node();
    steps(&mut world, 200);
    let voters = |world: &World| -> Vec<_> {
        let placements = world.catalog.placements();
        placements.map(|(_, placement)| placement.voters.len()).collect()
    };
    assert_eq!(voters(&world), [3; 5]);
    world.converge();
    let leads = |world: &World, node| drain_state(&world.catalog, NodeId(node)).leads.len();
    assert!((1..=3).all(|node| leads(&world, node) >= 1), "leaders have spread");
    let before: Vec<_> = world.catalog.placements().map(|(_, it)| it.clone()).skip(1).collect();
    world.add_node();
    world.converge();
    let after: Vec<_> = world.catalog.placements().map(|(_, it)| it.clone()).skip(1).collect();
    assert_eq!(after, before);
    assert_eq!(
        world.catalog.shards_of(NodeId(4)).map(|(shard, _)| shard.0).collect::<Vec<_>>(),
        [0]
    );
}

#[test]
fn a_drained_node_gives_everything_away_leaders_first() {
    let mut world = World::new(4, settings(8, 3));
    world.converge();
    let node = NodeId(1);
    // It is one of four voters of the catalog, and nobody is there for the place.
    const CATALOG: &[ShardId] = &[ShardId::CATALOG];
    let before = drain_state(&world.catalog, node);
    assert!(before.leads.len() > 1 && before.votes.len() > 1 && !before.is_drained);
    assert_eq!(
        (&before.votes[..1], &before.stuck[..], before.leaving.len()),
        (CATALOG, CATALOG, 0)
    );
    world.set_state(node, NodeState::Draining);
    for _ in 0..before.leads.len() {
        assert!(world.step());
    }
    let now = drain_state(&world.catalog, node);
    assert_eq!((now.leads.len(), &now.votes), (0, &before.votes));
    steps(&mut world, 200);
    let now = drain_state(&world.catalog, node);
    assert_eq!((&now.votes[..], &now.stuck[..]), (CATALOG, CATALOG));
    assert_eq!(now.leaving, before.votes[1..], "nobody told yet that they have left");
    assert!(!now.is_drained);
    world.settle_all();
    let now = drain_state(&world.catalog, node);
    assert!(now.is_drained, "three of four voters can decide without it: {now:?}");
    assert_eq!(next_placement_change(&world.catalog), None);
    world.set_state(node, NodeState::Removed);
    world.converge();
    let now = drain_state(&world.catalog, node);
    assert_eq!(now, DrainState { is_drained: true, ..DrainState::default() });
    assert_eq!(world.catalog.shards_of(node).count(), 0);
}

#[test]
fn one_of_two_nodes_is_never_drained() {
    let mut world = World::new(2, settings(1, 1));
    world.converge();
    let node = world.catalog.placement(ShardId(1)).expect("placed").voters[0].node();
    world.set_state(node, NodeState::Draining);
    world.converge();
    let state = drain_state(&world.catalog, node);
    assert_eq!((&state.votes[..], state.is_drained), (&[ShardId::CATALOG][..], false));
}

#[test]
fn without_a_substitute_only_a_majority_goes_on_without_a_removed_node() {
    let mut world = World::new(3, settings(1, 3));
    world.settle_all();
    let nodes = |world: &World| -> Vec<_> {
        let placement = world.catalog.placement(ShardId(1)).expect("placed");
        let mut nodes: Vec<_> = placement.voters.iter().map(|it| it.node().0).collect();
        nodes.sort_unstable();
        nodes
    };
    world.set_state(NodeId(2), NodeState::Draining);
    world.converge();
    assert_eq!(nodes(&world), [1, 2, 3], "nobody could take its place");
    world.set_state(NodeId(2), NodeState::Removed);
    world.converge();
    assert_eq!(nodes(&world), [1, 3]);
    world.set_state(NodeId(3), NodeState::Removed);
    world.converge();
    assert_eq!(nodes(&world), [1, 3], "one of two is no majority");
    world.add_node();
    world.add_node();
    world.converge();
    assert_eq!(nodes(&world), [1, 4, 5]);
}

#[test]
fn a_removed_learner_goes_even_where_removed_voters_must_stay() {
    let mut world = World::new(6, settings(1, 1));
    [2, 3, 4, 6].into_iter().for_each(|node| world.set_state(NodeId(node), NodeState::Removed));
    world.converge();
    let placement = world.catalog.placement(ShardId::CATALOG).expect("placed");
    assert_eq!((placement.voters.len(), &placement.learners[..]), (5, &[][..]));
}

#[test]
fn a_node_that_comes_back_is_another_replica_once_the_old_one_has_left() {
    let shard = ShardId(1);
    let mut world = World::new(4, settings(1, 3));
    world.settle_all();
    let voters = |world: &World| world.catalog.placement(shard).expect("placed").voters.clone();
    let [away, removed, _] = voters(&world)[..] else { panic!("three") };
    world.set_state(away.node(), NodeState::Draining);
    steps(&mut world, 20);
    world.set_state(away.node(), NodeState::Active);
    world.set_state(removed.node(), NodeState::Removed);
    steps(&mut world, 20);
    let nodes = voters(&world).into_iter().map(ReplicaId::node).collect::<Vec<_>>();
    assert!(!nodes.contains(&away.node()), "its old replica may vote still: {nodes:?}");
    world.settle_all();
    steps(&mut world, 20);
    assert!(voters(&world).contains(&ReplicaId::new(away.node(), 2)));

    // However often.
    let mut world = World::new(4, settings(2, 3));
    for round in 0..16 {
        let node = NodeId(round % 4 + 1);
        world.set_state(node, NodeState::Draining);
        world.converge();
        world.set_state(node, NodeState::Active);
        world.converge();
    }
    assert!(voters(&world).iter().all(|replica| replica.incarnation() > 2));
}
