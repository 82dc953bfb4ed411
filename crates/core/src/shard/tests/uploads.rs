//! Uploads are named before they begin; what those leave that are over is known until it is gone.

use super::*;
use crate::manifest::ObjectInfo;

fn delete(shard: &mut Shard, stream: StreamUid) {
    let delete = CommandBody::Stream(StreamCommand::Delete { stream });
    assert_eq!(shard.apply(2, delete), Outcome::Deleted(true));
}

fn collected(shard: &mut Shard, attempts: Vec<u64>) {
    let body = CommandBody::Segment(SegmentCommand::Collected(attempts));
    assert_eq!(shard.apply(2, body), Outcome::Collected);
}

fn orphans(shard: &Shard) -> Vec<u64> {
    shard.state.orphans().keys().copied().collect()
}

/// What may be deleted of all there is.
fn collectable(shard: &Shard) -> Vec<u64> {
    let all = shard.state.orphans().keys().copied().collect();
    shard.state.collectable(&all).iter().map(|orphan| orphan.info.attempt).collect()
}

/// One small record in each, planned as one bundle.
fn bundle() -> (Shard, ObjectId) {
    let mut shard = Shard::new();
    shard.one(1, item(A, 1)).expect("appended");
    shard.one(1, item(B, 1)).expect("appended");
    assert_eq!(shard.seal(SealScope::All), 1);
    let object = *shard.state.plans().first_key_value().expect("one").0;
    (shard, object)
}

#[test]
fn an_upload_that_goes_on_keeps_its_name_and_another_content_gets_another() {
    let (mut shard, object) = bundle();
    let first = shard.attempt(object, 1).expect("planned");
    // The next leader makes the same of it.
    shard.term = 2;
    assert_eq!(shard.attempt(object, 1), Some(first));
    assert_eq!(orphans(&shard), [0; 0]);
    let second = shard.attempt(object, 2).expect("planned");
    assert!(second > first);
    assert_eq!(orphans(&shard), [first]);
    // Once more the first content: its old name is spent, for what has it may be deleted at any time.
    let third = shard.attempt(object, 1).expect("planned");
    assert!(third > second);
    assert_eq!(orphans(&shard), [first, second]);
    let orphan = &shard.state.orphans()[&first];
    assert_eq!((orphan.object, orphan.info.term, orphan.info.hash), (object, 1, [1; 8]));
    assert_eq!((orphan.over_at, orphan.info.attempt), (second, first));
}

#[test]
fn only_the_upload_that_counts_can_be_committed() {
    // I5
    let (mut shard, object) = bundle();
    let refused = |attempt| Err(CommitRefused::OtherAttempt { object, attempt });
    let commit = shard.first_plan();
    let first = commit.attempt;
    shard.term = 2;
    let second = shard.attempt(object, 2).expect("planned");
    let known = shard.state.manifest().clone();
    // The deposed leader has uploaded what it had named.
    assert_eq!(shard.commit(commit.clone()), refused(first));
    // Nobody has named that, or not with this content.
    assert_eq!(shard.commit(ObjectCommit { attempt: 1_000, ..commit.clone() }), refused(1_000));
    let other = ObjectCommit { attempt: second, ..commit.clone() };
    assert_eq!(shard.commit(other.clone()), refused(second));
    assert_eq!(shard.state.manifest(), &known);
    shard.commit(ObjectCommit { hash: [2; 8], ..other }).expect("it counts");
    let ObjectInfo { attempt, hash, term, .. } = shard.state.manifest().objects[&object];
    assert_eq!((attempt, hash, term), (second, [2; 8], 1));
    assert_eq!(orphans(&shard), [first], "what is committed is none");
    assert_eq!(shard.attempt(object, 1), None, "nothing is planned any more");
    assert_eq!(shard.commit(commit), Err(CommitRefused::NotPlanned { object }));
}

#[test]
fn an_upload_is_over_when_the_last_of_its_streams_is_deleted() {
    let (mut shard, object) = bundle();
    let attempt = shard.attempt(object, 1).expect("planned");
    delete(&mut shard, A);
    assert_eq!(orphans(&shard), [0; 0], "it may still be committed for the other one");
    delete(&mut shard, B);
    assert_eq!(orphans(&shard), [attempt]);
    // An upload that was never named has left nothing.
    let (mut shard, _) = bundle();
    delete(&mut shard, A);
    delete(&mut shard, B);
    assert_eq!(orphans(&shard), [0; 0]);
}

#[test]
fn the_orphan_of_a_segment_tells_its_whole_key() {
    let mut shard = Shard::new();
    shard.state = shard.state.with_segment_bytes_min(1);
    shard.one(DAY_US + 5, item(A, 3)).expect("appended");
    assert_eq!(shard.seal(SealScope::All), 1);
    let (&object, plan) = shard.state.plans().first_key_value().expect("one");
    let would_be = plan.info(Attempt { index: shard.next, hash: [1; 8] }, 0, 0);
    let attempt = shard.attempt(object, 1).expect("planned");
    delete(&mut shard, A);
    let orphan = &shard.state.orphans()[&attempt];
    assert_eq!(orphan.info, ObjectInfo { live_parts: 0, ..would_be });
    assert_eq!(orphan.name.as_str(), "s");
}

#[test]
fn an_orphan_may_go_when_a_manifest_was_written_after_it_and_is_forgotten_when_it_is_gone() {
    let (mut shard, object) = bundle();
    let early = shard.state.manifest_file().expect("two streams").version;
    let first = shard.attempt(object, 1).expect("planned");
    let second = shard.attempt(object, 2).expect("planned");
    assert_eq!(collectable(&shard), [0; 0], "no manifest is there");
    shard.apply(2, CommandBody::Segment(SegmentCommand::Mirrored(early)));
    assert_eq!(collectable(&shard), [0; 0], "it is older");
    let commit = ObjectCommit { hash: [2; 8], ..shard.first_plan_as(second) };
    shard.commit(commit).expect("it counts");
    shard.mirror();
    assert_eq!(collectable(&shard), [first]);
    assert_eq!(shard.state.collectable(&BTreeSet::from([second])), [], "that is an object");
    // What is no orphan is not forgotten, and an entry that forgets nothing is none.
    let mut body = CommandBody::Segment(SegmentCommand::Collected(vec![second, 1_000]));
    assert_eq!(shard.state.prune(&mut body), Some(Outcome::Collected));
    collected(&mut shard, vec![first, second]);
    assert_eq!(orphans(&shard), [0; 0]);
    assert!(shard.state.manifest().objects.contains_key(&object));
}

#[test]
fn what_is_committed_is_never_collectable_whatever_the_orphans_say() {
    let (mut shard, object) = bundle();
    let first = shard.attempt(object, 1).expect("planned");
    shard.attempt(object, 2).expect("planned");
    delete(&mut shard, A);
    shard.mirror();
    assert_eq!(collectable(&shard), [first]);
    // As no apply can make it.
    let info = shard.state.orphans()[&first].info.clone();
    shard.state.manifest.objects.insert(object, info);
    assert_eq!(collectable(&shard), [0; 0]);
}

#[test]
fn of_too_many_orphans_the_oldest_is_forgotten() {
    let (mut shard, object) = bundle();
    let attempts: Vec<_> = (0..ORPHANS_MAX + 3)
        .map(|n| shard.attempt(object, (n % 2) as u8).expect("planned"))
        .collect();
    assert_eq!(orphans(&shard), attempts[2..ORPHANS_MAX + 2]);
}
