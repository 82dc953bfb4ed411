//! Groups of a shard: made, changed, deleted; and dead letters with their streams.

use railgun_types::{
    ChangeClass, DlqPatch, DlqSpec, GroupMode, GroupName, GroupPatch, OffsetRange, RequestId,
};

use super::*;
use crate::command::{DeadLetterOf, EnsureGroup, GroupChange, GroupChanges, GroupStart};
use crate::group::{ChangeRefused, Paused};

fn name() -> GroupName {
    GroupName::new("billing").expect("valid")
}

fn wish() -> EnsureGroup {
    EnsureGroup {
        stream: A,
        group: name(),
        patch: GroupPatch::default(),
        start: GroupStart::Earliest,
        mode: EnsureMode::Overwrite,
        if_revision: None,
        allow_destructive: false,
        request: None,
    }
}

fn ranges(start: u64, end: u64) -> Vec<OffsetRange> {
    vec![OffsetRange::new(Offset(start), Offset(end))]
}

fn reject(start: u64, end: u64) -> GroupChange {
    GroupChange::Reject { epoch: 0, ranges: ranges(start, end), error: None }
}

fn ack(start: u64, end: u64) -> GroupChange {
    GroupChange::Ack { epoch: 0, ranges: ranges(start, end) }
}

impl Shard {
    /// With so many records in A, and a group of it.
    fn with_group(records: usize) -> (Self, GroupId) {
        let mut shard = Self::new();
        shard.one(1, item(A, records)).expect("appended");
        assert_eq!(shard.ensure_group(wish()), Ok(Ensured::Created));
        let group = shard.state.group_named(A, &name()).expect("made").id();
        let reserved = GroupChange::Reserve { upto: Offset(1_000) };
        assert_eq!(shard.change(group, vec![reserved]), [ChangeOutcome::Applied]);
        (shard, group)
    }

    fn ensure_group(&mut self, ensure: EnsureGroup) -> Result<Ensured, EnsureRefused> {
        let mut body = CommandBody::Group(GroupCommand::Ensure(Box::new(ensure)));
        // Where it needs no entry it has the same outcome.
        let pruned = self.state.prune(&mut body);
        let outcome = self.apply(0, body);
        assert!(pruned.is_none_or(|pruned| pruned == outcome), "{outcome:?}");
        match outcome {
            Outcome::GroupEnsured(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn delete_group(&mut self) -> bool {
        let mut body = CommandBody::Group(GroupCommand::Delete { stream: A, group: name() });
        let pruned = self.state.prune(&mut body);
        let outcome = self.apply(0, body);
        assert_eq!(pruned, (outcome == Outcome::GroupDeleted(false)).then(|| outcome.clone()));
        outcome == Outcome::GroupDeleted(true)
    }

    /// As the leader's dispatcher says it.
    fn change(&mut self, group: GroupId, changes: Vec<GroupChange>) -> Vec<ChangeOutcome> {
        let term = self.term;
        self.changes(vec![GroupChanges { group, term, changes }]).remove(0)
    }

    fn changes(&mut self, groups: Vec<GroupChanges>) -> Vec<Vec<ChangeOutcome>> {
        match self.apply(0, CommandBody::Group(GroupCommand::Changes(groups.into()))) {
            Outcome::GroupsChanged(outcomes) => outcomes,
            other => panic!("{other:?}"),
        }
    }

    /// The dead letter that the leader would write now.
    fn letter(&self, group: GroupId, offset: u64) -> Append {
        let stream = self.state.group(group).expect("there").companion();
        let next = self.state.stream(stream).map_or(0, |stream| stream.next_offset().0);
        let of = DeadLetterOf { group, offset: Offset(offset), generation: 0 };
        Append { expected_end: Some(ExpectedNext(next)), dead_letter: Some(of), ..item(stream, 1) }
    }

    fn delete(&mut self, stream: StreamUid) -> bool {
        let mut body = CommandBody::Stream(StreamCommand::Delete { stream });
        let pruned = self.state.prune(&mut body);
        let outcome = self.apply(0, body);
        assert!(pruned.is_none_or(|pruned| pruned == outcome), "{outcome:?}");
        outcome == Outcome::Deleted(true)
    }
}

#[test]
fn ensure_makes_compares_and_changes_groups() {
    // EN-1 … EN-4, EN-6
    let mut shard = Shard::new();
    shard.one(1, item(A, 10)).expect("appended");
    let check = EnsureGroup { mode: EnsureMode::Check, ..wish() };
    assert_eq!(shard.ensure_group(check.clone()), Err(EnsureRefused::GroupNotFound));
    let at = |if_revision| EnsureGroup { if_revision: Some(if_revision), ..wish() };
    assert_eq!(shard.ensure_group(at(1)), Err(EnsureRefused::Revision { actual: 0 }));
    assert_eq!(shard.ensure_group(at(0)), Ok(Ensured::Created));
    assert_eq!(shard.ensure_group(check.clone()), Ok(Ensured::Unchanged { revision: 1 }));
    let patch = GroupPatch { window: Some(7), ..GroupPatch::default() };
    let drift = shard.ensure_group(EnsureGroup { patch: patch.clone(), ..check });
    assert!(matches!(&drift, Ok(Ensured::Drift { revision: 1, diff }) if diff.len() == 1));
    let by = |request, if_revision| EnsureGroup {
        patch: patch.clone(),
        request: Some(RequestId([request; 16])),
        ..at(if_revision)
    };
    let updated = shard.ensure_group(by(1, 1));
    assert!(matches!(updated, Ok(Ensured::Updated { revision: 2, .. })));
    assert_eq!(shard.ensure_group(by(1, 1)), updated, "its answer was lost");
    assert_eq!(shard.ensure_group(by(2, 1)), Err(EnsureRefused::Revision { actual: 2 }));
    let group = shard.state.group_named(A, &name()).expect("made");
    assert_eq!((group.spec().window, group.revision(), group.stream()), (7, 2, A));
    // A group is one of a stream.
    let of = |stream| EnsureGroup { stream, ..wish() };
    let unknown = shard.ensure_group(of(StreamUid([9; 16])));
    assert_eq!(unknown, Err(EnsureRefused::StreamNotFound));
    assert!(shard.delete(B));
    assert_eq!(shard.ensure_group(of(B)), Err(EnsureRefused::Deleted));
}

#[test]
fn a_change_of_the_mode_is_destructive_while_messages_are_not_settled() {
    // EN-4
    let (mut shard, group) = Shard::with_group(10);
    let mode = |mode| EnsureGroup {
        patch: GroupPatch { mode: Some(mode), ..GroupPatch::default() },
        ..wish()
    };
    let path = "mode".to_owned();
    let refused = Err(EnsureRefused::Destructive { path });
    assert_eq!(shard.ensure_group(mode(GroupMode::Exclusive)), refused);
    assert_eq!(shard.change(group, vec![ack(0, 9)]), [ChangeOutcome::Applied]);
    assert_eq!(shard.ensure_group(mode(GroupMode::Exclusive)), refused);
    assert_eq!(shard.change(group, vec![ack(9, 10)]), [ChangeOutcome::Applied]);
    let updated = shard.ensure_group(mode(GroupMode::Exclusive));
    let Ok(Ensured::Updated { diff, .. }) = updated else { panic!("{updated:?}") };
    assert_eq!(diff[0].class, ChangeClass::Live);
    // nothing that was handed out before is the active member's.
    let epoch = shard.state.group(group).expect("made").state().epoch();
    assert_eq!(epoch, 1);
    // Or if that is wanted.
    shard.one(1, item(A, 1)).expect("appended");
    let wanted = EnsureGroup { allow_destructive: true, ..mode(GroupMode::Balanced) };
    assert!(matches!(shard.ensure_group(wanted), Ok(Ensured::Updated { revision: 3, .. })));
    // What waits for an operator is not settled either.
    let (mut shard, group) = Shard::with_group(1);
    let dlq = DlqPatch { enabled: Some(false), ..DlqPatch::default() };
    let parks = EnsureGroup { patch: GroupPatch { dlq, ..GroupPatch::default() }, ..wish() };
    shard.ensure_group(parks).expect("live");
    shard.change(group, vec![reject(0, 1)]);
    assert_eq!(shard.ensure_group(mode(GroupMode::Exclusive)), refused);
    // And what nobody has got yet is nobody's loss.
    let mut shard = Shard::new();
    shard.one(1, item(A, 10)).expect("appended");
    assert_eq!(shard.ensure_group(wish()), Ok(Ensured::Created));
    let updated = shard.ensure_group(mode(GroupMode::Exclusive));
    assert!(matches!(updated, Ok(Ensured::Updated { revision: 2, .. })), "{updated:?}");
}

#[test]
fn a_group_begins_where_it_was_asked_to_as_the_stream_is_then() {
    let mut shard = Shard::new();
    shard.one(1, item(A, 10)).expect("appended");
    let starts = [
        (GroupStart::Earliest, 0),
        (GroupStart::Latest, 10),
        (GroupStart::Offset(Offset(4)), 4),
        (GroupStart::Offset(Offset(40)), 10),
        (GroupStart::Last(3), 7),
        (GroupStart::Last(30), 0),
    ];
    for (number, (start, floor)) in starts.into_iter().enumerate() {
        let group = GroupName::new(&format!("g{number}")).expect("valid");
        assert_eq!(
            shard.ensure_group(EnsureGroup { start, group: group.clone(), ..wish() }),
            Ok(Ensured::Created)
        );
        let state = shard.state.group_named(A, &group).expect("made").state();
        assert_eq!((state.floor(), state.leased_upto()), (Offset(floor), Offset(floor)));
    }
    // Once.
    let again = EnsureGroup { start: GroupStart::Earliest, ..wish() };
    let again = EnsureGroup { group: GroupName::new("g1").expect("valid"), ..again };
    assert_eq!(shard.ensure_group(again), Ok(Ensured::Unchanged { revision: 1 }));
    let names: Vec<_> = shard.state.groups_of(A).map(|it| it.name().to_string()).collect();
    assert_eq!(names, ["g0", "g1", "g2", "g3", "g4", "g5"]);
    assert_eq!((shard.state.groups_of(B).count(), shard.state.groups().count()), (0, 6));
}

#[test]
fn a_new_group_has_its_streams_settings_of_dead_letters() {
    let mut shard = Shard::new();
    let dlq = DlqPatch { max_attempts: Some(9), max_distance: Some(8), ..DlqPatch::default() };
    let patch = SpecPatch { dlq, ..SpecPatch::default() };
    assert!(shard.ensure(A, patch, EnsureMode::Overwrite).is_ok());
    let dlq = DlqPatch { max_distance: Some(7), ..DlqPatch::default() };
    let patch = GroupPatch { dlq, ..GroupPatch::default() };
    assert_eq!(shard.ensure_group(EnsureGroup { patch, ..wish() }), Ok(Ensured::Created));
    let group = shard.state.group_named(A, &name()).expect("made");
    let dlq = DlqSpec { max_attempts: 9, max_distance: 7, ..DlqSpec::default() };
    assert_eq!(group.spec().dlq, dlq);
}

#[test]
fn groups_do_not_affect_one_another_and_each_has_an_outcome() {
    // G-4, G-13
    let (mut shard, first) = Shard::with_group(10);
    let other = GroupName::new("audit").expect("valid");
    assert_eq!(
        shard.ensure_group(EnsureGroup { group: other.clone(), ..wish() }),
        Ok(Ensured::Created)
    );
    let second = shard.state.group_named(A, &other).expect("made").id();
    let untouched = shard.state.group(second).cloned();
    let said = |group, term, changes| GroupChanges { group, term, changes };
    let unknown = GroupId(12_345);
    let outcomes = shard.changes(vec![
        said(first, 1, vec![ack(0, 5), reject(5, 6)]),
        said(unknown, 1, vec![ack(0, 5), GroupChange::Pause]),
        said(second, 2, vec![ack(0, 5)]),
        said(first, 0, vec![GroupChange::Pause]),
    ]);
    let refused = |refused| ChangeOutcome::Refused(refused);
    assert_eq!(outcomes[0][0], ChangeOutcome::Applied);
    assert_eq!(outcomes[0][1].effects().map(|it| it.dying.clone()), Some(vec![(Offset(5), 0)]));
    assert_eq!(outcomes[1], vec![refused(ChangeRefused::GroupNotFound); 2]);
    assert_eq!(outcomes[2], [refused(ChangeRefused::Stale { term: 1 })]);
    assert_eq!(outcomes[3], [ChangeOutcome::Applied]);
    assert_eq!(shard.state.group(second).cloned(), untouched);
    let state = shard.state.group(first).expect("there").state();
    assert_eq!((state.floor(), state.paused()), (Offset(5), Some(Paused::Operator)));
    // What changes nothing needs no entry.
    let pruned = |groups: Vec<_>| {
        shard.state.prune(&mut CommandBody::Group(GroupCommand::Changes(groups.into())))
    };
    let idle = vec![
        said(unknown, 1, vec![ack(0, 1)]),
        said(first, 0, vec![GroupChange::Pause, GroupChange::Reserve { upto: Offset(9) }]),
    ];
    assert_eq!(
        pruned(idle),
        Some(Outcome::GroupsChanged(vec![
            vec![refused(ChangeRefused::GroupNotFound)],
            vec![ChangeOutcome::Applied; 2],
        ]))
    );
    for change in [GroupChange::Resume, GroupChange::Activate, ack(7, 8), reject(5, 6)] {
        assert_eq!(pruned(vec![said(first, 1, vec![GroupChange::Pause, change])]), None);
    }
}

#[test]
fn a_dead_letter_and_the_end_of_its_message_are_one_entry() {
    // DL-3, DL-5
    let (mut shard, group) = Shard::with_group(10);
    let companion = shard.state.group(group).expect("there").companion();
    let early = shard.letter(group, 2);
    assert_eq!(shard.one(2, early.clone()), Err(AppendRefusal::NotDying));
    assert!(shard.state.stream(companion).is_none(), "nothing is there before the first one");
    shard.change(group, vec![reject(2, 5)]);
    // Two leaders write it, one after the other, and both once more.
    let results = shard.append(2, vec![early.clone(), early.clone(), item(A, 1)]);
    assert_eq!(
        results[0].as_ref().map(|it| (it.base, it.count, it.repeated)),
        Ok((Offset(0), 1, false))
    );
    assert_eq!(results[1], Err(AppendRefusal::NotDying));
    assert_eq!(shard.one(2, early), Err(AppendRefusal::NotDying));
    let letters = shard.state.stream(companion).expect("made by the first one");
    assert_eq!(letters.name().as_str(), "s$dlq.billing");
    assert_eq!((letters.next_offset(), letters.parent()), (Offset(1), Some(A)));
    assert!(shard.state.manifest().streams.contains_key(&companion));
    assert_eq!(shard.state.companions_of(A).collect::<Vec<_>>(), [companion]);
    // What does not fit is no dead letter of that message.
    let second = shard.letter(group, 3);
    let of = |generation| second.dead_letter.map(|of| DeadLetterOf { generation, ..of });
    let unfit = [
        (
            Append { expected_end: None, ..second.clone() },
            AppendRefusal::ExpectedEnd { actual: Offset(1) },
        ),
        (
            Append { expected_end: Some(ExpectedNext(0)), ..second.clone() },
            AppendRefusal::ExpectedEnd { actual: Offset(1) },
        ),
        (Append { dead_letter: of(1), ..second.clone() }, AppendRefusal::NotDying),
        (Append { stream: B, ..second.clone() }, AppendRefusal::NotDying),
        (Append { batch: batch(2, 10), ..second.clone() }, AppendRefusal::NotDying),
        (by(1, 0, second.clone()), AppendRefusal::NotDying),
        // Nobody else writes there.
        (item(companion, 1), AppendRefusal::Companion),
    ];
    let known = shard.state.clone();
    for (item, refusal) in unfit {
        assert_eq!(shard.one(2, item), Err(refusal));
    }
    let (before, after) = (known.group(group), shard.state.group(group));
    assert_eq!((before, known.stream(companion)), (after, shard.state.stream(companion)));
    assert_eq!(shard.one(2, second), Ok(1));
    // In the next term somebody goes on with what is left.
    shard.term = 2;
    let last = shard.letter(group, 4);
    assert_eq!(shard.one(2, last), Ok(2));
    let state = shard.state.group(group).expect("there").state();
    assert_eq!((state.dying().count(), state.dead().len()), (0, 3));
}

#[test]
fn dead_letters_go_to_the_bucket_as_any_records() {
    // DL-5
    let (mut shard, group) = Shard::with_group(10);
    shard.change(group, vec![reject(0, 2)]);
    let letters = [0, 1].map(|offset| {
        let letter = shard.letter(group, offset);
        shard.one(DAY_US, letter)
    });
    assert_eq!(letters, [Ok(0), Ok(1)]);
    let companion = shard.state.group(group).expect("there").companion();
    assert!(shard.seal(SealScope::All) > 0);
    while !shard.state.plans().is_empty() {
        let commit = shard.first_plan();
        shard.commit(commit).expect("it counts");
    }
    shard.mirror();
    assert!(shard.state.is_mirrored(companion, Offset(2)) && shard.state.is_drained());
    let manifest = &shard.state.manifest().streams[&companion];
    assert_eq!(manifest.name.as_str(), "s$dlq.billing");
}

#[test]
fn a_deleted_group_leaves_its_dead_letters_and_a_new_one_has_others() {
    // DL-5
    let (mut shard, first) = Shard::with_group(10);
    shard.change(first, vec![reject(0, 2)]);
    let (letter, late) = (shard.letter(first, 0), shard.letter(first, 1));
    assert_eq!(shard.one(2, letter), Ok(0));
    let companion = shard.state.group(first).expect("there").companion();
    assert!(!shard.delete(companion), "its group writes there");
    assert!(shard.delete_group());
    assert!(!shard.delete_group(), "once");
    assert_eq!(shard.one(2, late), Err(AppendRefusal::NotDying));
    assert_eq!(shard.ensure_group(wish()), Ok(Ensured::Created));
    let second = shard.state.group_named(A, &name()).expect("made").id();
    shard.change(second, vec![GroupChange::Reserve { upto: Offset(9) }, reject(0, 1)]);
    let letter = shard.letter(second, 0);
    assert_ne!((second, letter.stream), (first, companion));
    assert_eq!(shard.one(2, letter), Ok(0));
    assert_eq!(shard.state.stream(companion).map(Stream::next_offset), Some(Offset(1)));
    assert_eq!(shard.state.companions_of(A).count(), 2);
    // Somebody may delete what nobody writes any more.
    assert!(shard.delete(companion));
    assert_eq!(shard.state.companions_of(A).count(), 1);
}

#[test]
fn what_is_given_up_of_dead_letters_waits_for_an_operator() {
    // DL-5
    let (mut shard, group) = Shard::with_group(10);
    shard.change(group, vec![reject(0, 1)]);
    let letter = shard.letter(group, 0);
    let companion = letter.stream;
    assert_eq!(shard.one(2, letter), Ok(0));
    // Whatever the stream says.
    let dlq = DlqPatch { enabled: Some(true), ..DlqPatch::default() };
    let enabled = SpecPatch { dlq, ..SpecPatch::default() };
    assert!(shard.ensure(companion, enabled, EnsureMode::Overwrite).is_ok());
    let of_letters = EnsureGroup { stream: companion, ..wish() };
    let dlq = DlqPatch { enabled: Some(true), ..DlqPatch::default() };
    let patch = GroupPatch { dlq, ..GroupPatch::default() };
    let (path, actual) = ("dlq.enabled".to_owned(), "false".to_owned());
    let refused = Err(EnsureRefused::Immutable { path, actual });
    assert_eq!(shard.ensure_group(EnsureGroup { patch, ..of_letters.clone() }), refused);
    assert_eq!(shard.ensure_group(of_letters), Ok(Ensured::Created));
    let group = shard.state.group_named(companion, &name()).expect("made").id();
    let outcomes =
        shard.change(group, vec![GroupChange::Reserve { upto: Offset(1) }, reject(0, 1)]);
    assert_eq!(outcomes[1].effects().map(|it| it.parked.clone()), Some(vec![Offset(0)]));
}

#[test]
fn groups_and_dead_letters_go_with_their_stream() {
    let (mut shard, group) = Shard::with_group(10);
    shard.change(group, vec![reject(0, 2)]);
    let (letter, late) = (shard.letter(group, 0), shard.letter(group, 1));
    let companion = letter.stream;
    assert_eq!(shard.one(2, letter), Ok(0));
    assert_eq!(
        shard.ensure_group(EnsureGroup { stream: companion, ..wish() }),
        Ok(Ensured::Created)
    );
    assert!(shard.delete(A));
    assert!(
        shard.state.is_deleted(companion) && shard.state.manifest().streams[&companion].deleted
    );
    assert_eq!((shard.state.groups().count(), shard.state.companions_of(A).count()), (0, 0));
    assert!(shard.state.group_names.is_empty());
    assert_eq!(shard.one(2, late), Err(AppendRefusal::NotDying));
    assert_eq!(shard.one(2, item(companion, 1)), Err(AppendRefusal::StreamDeleted));
    assert!(shard.state.is_drained() || shard.state.waiting() == Waiting::default());
}

#[test]
fn a_shard_has_so_many_groups_and_no_more() {
    let mut shard = Shard::new();
    for number in 0..railgun_types::limits::GROUPS_PER_SHARD {
        let group = GroupName::new(&format!("g{number}")).expect("valid");
        let ensure =
            CommandBody::Group(GroupCommand::Ensure(Box::new(EnsureGroup { group, ..wish() })));
        assert_eq!(shard.apply(0, ensure), Outcome::GroupEnsured(Ok(Ensured::Created)));
    }
    let count = railgun_types::limits::GROUPS_PER_SHARD as u64;
    assert_eq!(shard.ensure_group(wish()), Err(EnsureRefused::TooManyGroups { count }));
    let known = EnsureGroup { group: GroupName::new("g7").expect("valid"), ..wish() };
    assert_eq!(shard.ensure_group(known), Ok(Ensured::Unchanged { revision: 1 }));
}
