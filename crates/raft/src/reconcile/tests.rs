//! Each plan on its own; that they bring a real shard to its goal is in `crate::tests::cluster`.

use super::*;

const A: u64 = 0x1_0001;
const B: u64 = 0x2_0001;
const C: u64 = 0x3_0001;
const D: u64 = 0x4_0001;
const E: u64 = 0x5_0001;
const F: u64 = 0x6_0001;

fn address(id: u64) -> String {
    format!("node-{}", id >> 16)
}

fn members(configs: &[&[u64]], learners: &[u64]) -> Membership {
    let configs: Vec<BTreeSet<u64>> =
        configs.iter().map(|voters| voters.iter().copied().collect()).collect();
    let all = configs.iter().flatten().chain(learners).copied();
    let nodes: BTreeMap<_, _> = all.map(|id| (id, Peer { address: address(id) })).collect();
    Membership::new(configs, nodes).expect("every voter has a node")
}

fn wanted(voters: &[u64], learners: &[u64]) -> WantedMembers {
    let named = |ids: &[u64]| ids.iter().map(|id| (ReplicaId(*id), address(*id))).collect();
    WantedMembers { voters: named(voters), learners: named(learners) }
}

/// All of these answer and have caught up.
fn well(ids: &[u64]) -> BTreeMap<u64, Follower> {
    ids.iter().map(|id| (*id, Follower { answers: true, caught_up: true })).collect()
}

fn voters(ids: &[u64]) -> Plan {
    Plan::ChangeVoters(ids.iter().copied().collect())
}

#[test]
fn one_becomes_three() {
    let goal = wanted(&[A, B, C], &[]);
    let all = well(&[B, C]);
    let next = |members: &Membership, followers: &_| plan(A, members, &goal, followers);
    let peer = |id| Peer { address: address(id) };
    assert_eq!(next(&members(&[&[A]], &[]), &all), Plan::AddLearner(B, peer(B)));
    assert_eq!(next(&members(&[&[A]], &[B]), &all), Plan::AddLearner(C, peer(C)));
    let waits = Plan::Wait(MembershipWait::Learner(ReplicaId(B)));
    assert_eq!(next(&members(&[&[A]], &[B, C]), &well(&[])), waits);
    let slow = BTreeMap::from([(B, Follower { answers: true, caught_up: false })]);
    assert_eq!(next(&members(&[&[A]], &[B, C]), &slow), waits);
    let silent = BTreeMap::from([(B, Follower { answers: false, caught_up: true })]);
    assert_eq!(next(&members(&[&[A]], &[B, C]), &silent), waits);
    // Whoever is ready is taken; the joint configuration is left before anything else.
    assert_eq!(next(&members(&[&[A]], &[B, C]), &well(&[C])), voters(&[A, C]));
    assert_eq!(next(&members(&[&[A]], &[B, C]), &all), voters(&[A, B, C]));
    assert_eq!(next(&members(&[&[A], &[A, B, C]], &[]), &all), Plan::FinishChange);
    assert_eq!(next(&members(&[&[A, B, C]], &[]), &all), Plan::Nothing);
}

#[test]
fn a_voter_is_replaced_and_not_lost() {
    let goal = wanted(&[A, B, D], &[]);
    let next = |members: &Membership, ready: &[u64]| plan(A, members, &goal, &well(ready));
    let waits = Plan::Wait(MembershipWait::Learner(ReplicaId(D)));
    assert_eq!(next(&members(&[&[A, B, C]], &[D]), &[B, C]), waits);
    assert_eq!(next(&members(&[&[A, B, C]], &[D]), &[B, D]), voters(&[A, B, D]));
    assert_eq!(next(&members(&[&[A, B, D]], &[C]), &[B, D]), Plan::Remove(C));
    assert_eq!(next(&members(&[&[A, B, D]], &[]), &[B, D]), Plan::Nothing);
}

#[test]
fn never_does_a_majority_go_at_once() {
    let all = well(&[B, C, D, E, F]);
    let lone = wanted(&[A], &[]);
    assert_eq!(plan(A, &members(&[&[A, B, C]], &[]), &lone, &all), voters(&[A, C]));
    assert_eq!(plan(A, &members(&[&[A, C]], &[B]), &lone, &all), voters(&[A]));
    assert_eq!(plan(A, &members(&[&[A]], &[B, C]), &lone, &all), Plan::Remove(B));
    let five = members(&[&[A, B, C, D, E]], &[]);
    assert_eq!(plan(A, &five, &lone, &all), voters(&[A, D, E]));

    // All three are replaced: the new ones come first, the leader goes last and leads no more then.
    let goal = wanted(&[D, E, F], &[]);
    let steps = [
        (members(&[&[A, B, C]], &[D, E, F]), voters(&[A, C, D, E, F])),
        (members(&[&[A, C, D, E, F]], &[B]), voters(&[A, D, E, F])),
        (members(&[&[A, D, E, F]], &[B, C]), Plan::MoveLeader(D)),
    ];
    for (members, step) in steps {
        assert_eq!(plan(A, &members, &goal, &all), step);
    }
    let others = well(&[A, E, F]);
    let rest = members(&[&[A, D, E, F]], &[B, C]);
    assert_eq!(plan(D, &rest, &goal, &others), voters(&[D, E, F]));
    let rest = members(&[&[D, E, F]], &[A, B, C]);
    assert_eq!(plan(D, &rest, &goal, &others), Plan::Remove(A));
}

#[test]
fn a_single_voter_is_replaced_by_way_of_two() {
    let goal = wanted(&[B], &[]);
    assert_eq!(plan(A, &members(&[&[A]], &[B]), &goal, &well(&[B])), voters(&[A, B]));
    assert_eq!(plan(A, &members(&[&[A, B]], &[]), &goal, &well(&[B])), Plan::MoveLeader(B));
    assert_eq!(plan(B, &members(&[&[A, B]], &[]), &goal, &well(&[A])), voters(&[B]));
}

#[test]
fn whoever_stays_must_answer() {
    // C is down: it may go, B may not.
    let three = members(&[&[A, B, C]], &[]);
    assert_eq!(plan(A, &three, &wanted(&[A, B], &[]), &well(&[B])), voters(&[A, B]));
    let waits = Plan::Wait(MembershipWait::Majority);
    assert_eq!(plan(A, &three, &wanted(&[A, C], &[]), &well(&[B])), waits);
    // Who does not answer goes first.
    assert_eq!(plan(A, &three, &wanted(&[A], &[]), &well(&[B])), voters(&[A, B]));
}

#[test]
fn voters_become_learners_and_addresses_change() {
    let three = members(&[&[A, B, C]], &[]);
    let goal = wanted(&[A, B], &[C]);
    assert_eq!(plan(A, &three, &goal, &well(&[B, C])), voters(&[A, B]));
    assert_eq!(plan(A, &members(&[&[A, B]], &[C]), &goal, &well(&[B, C])), Plan::Nothing);
    let mut moved = wanted(&[A, B, C], &[]);
    moved.voters.insert(ReplicaId(B), "elsewhere".to_owned());
    let step = Plan::SetAddress(B, Peer { address: "elsewhere".to_owned() });
    assert_eq!(plan(A, &three, &moved, &well(&[B, C])), step);

    assert_eq!(wanted(&[], &[A]).check(), Err(ReconcileError::NoVoters));
    let twice = ReconcileError::VoterAndLearner { replica: ReplicaId(A) };
    assert_eq!(wanted(&[A, B], &[A]).check(), Err(twice));
}
