//! Every check finds what it is there for, in a history made by hand.

use railgun_core::manifest::{ColdRange, ObjectId, ObjectInfo, ObjectKind, ShardManifest};
use railgun_core::shard::Attempt;
use railgun_types::Timestamp;

use super::super::trace::Trace;
use super::cold::{Objects, check_objects, fresh_ranges};
use super::*;

const STREAM: StreamUid = StreamUid([1; 16]);
const SHARD: ShardId = ShardId(1);

fn broken(check: impl FnOnce(&History)) -> Vec<String> {
    let history = History::new(Trace::begin());
    check(&history);
    let rule = |text: String| text.split(':').next().unwrap_or_default().to_owned();
    history.violations().into_iter().map(rule).collect()
}

fn object(seal_index: u64) -> ObjectId {
    ObjectId { seal_index, part: 0 }
}

fn range(base: u64, count: u64) -> ColdRange {
    ColdRange {
        base: Offset(base),
        count,
        min_ts: Timestamp(0),
        max_ts: Timestamp(0),
        record_bytes: 1,
        object: object(base),
        first_row_group: 0,
        first_row: 0,
    }
}

fn told(appends: &[(u64, &[MessageId])]) -> Told {
    let entry = |(bytes, messages): &(u64, &[MessageId])| Appends {
        index: 0,
        bytes: *bytes,
        messages: messages.to_vec(),
    };
    Told { appends: appends.iter().map(entry).collect(), ..Told::default() }
}

#[test]
fn what_was_acked_is_somewhere() {
    let acked = [0, 1, 2].map(|id| (STREAM, Offset(id), id));
    // The log as it is, from entry `first` on, at one look after the other.
    let check = |in_bucket: &[MessageId], looks: &[(u64, &[MessageId])]| {
        let (mut kept, in_bucket) = (Kept::default(), in_bucket.iter().copied().collect());
        let (last, before) = looks.split_last().expect("a look");
        let seen = |&(first, logged): &(u64, &[MessageId])| {
            let seals = (first..6).map(|index| (index, None)).collect();
            let told = Told { first: Some(first), seals, ..told(&[(10, logged)]) };
            BTreeMap::from([(SHARD, told)])
        };
        broken(|history| {
            before.iter().for_each(|look| kept.check(history, &[], &in_bucket, &seen(look)));
            kept.check(history, &acked, &in_bucket, &seen(last));
        })
    };
    assert_eq!(check(&[0, 1], &[(0, &[1, 2])]), [""; 0]);
    assert_eq!(check(&[], &[(0, &[0, 1, 2, 3])]), [""; 0], "more than that does no harm");
    assert_eq!(check(&[0], &[(0, &[2])]), ["PS-1"], "1 never was there");
    assert_eq!(check(&[], &[(0, &[])]), ["PS-1"]);
    assert_eq!(check(&[0], &[(0, &[0, 1]), (0, &[2])]), ["I2"], "1 was there");
    assert_eq!(check(&[0], &[(0, &[0]), (3, &[2])]), ["PS-1"], "all that is gone was seen");
    assert_eq!(check(&[0], &[(0, &[0]), (7, &[2])]), ["I2"], "nobody saw what is gone");
}

#[test]
fn what_was_acked_is_on_a_majority_of_disks() {
    let acked = [0, 1].map(|id| (STREAM, Offset(id), id));
    let check = |in_bucket: &[MessageId], logged: [&[MessageId]; 3]| {
        let in_bucket = in_bucket.iter().copied().collect();
        // The same entry twice, as a repetition leaves it, is one copy.
        let of_node = |ids: &[MessageId]| BTreeMap::from([(SHARD, told(&[(1, ids), (1, ids)]))]);
        broken(|history| quorum::check(history, &acked, &in_bucket, &logged.map(of_node), 2))
    };
    assert_eq!(check(&[], [&[0, 1], &[0], &[1, 2]]), [""; 0]);
    assert_eq!(check(&[], [&[0, 1], &[0], &[]]), ["PS-1"]);
    assert_eq!(check(&[1], [&[0, 1], &[0], &[]]), [""; 0]);
    assert_eq!(check(&[1], [&[0], &[], &[]]), ["PS-1"]);
}

#[test]
fn what_a_replica_has_given_up_is_in_the_bucket() {
    let acked = [0, 1].map(|id| (STREAM, Offset(id), id));
    // Message 0 is in entries 3 and 7, as it was sent again, message 1 in entry 5.
    let entry = |index, id| Appends { index, bytes: 1, messages: vec![id] };
    let appends = || vec![entry(3, 0), entry(5, 1), entry(7, 0)];
    let check = |in_bucket: &[MessageId], purged: [Option<u64>; 2]| {
        let in_bucket = in_bucket.iter().copied().collect();
        let whole = Told { purged: purged[0], appends: appends(), ..Told::default() };
        let other = Told { purged: purged[1], ..Told::default() };
        let told = [whole, other].map(|told| BTreeMap::from([(SHARD, told)]));
        broken(|history| quorum::check_floors(history, &acked, &in_bucket, &told))
    };
    assert_eq!(check(&[], [Some(2), Some(4)]), [""; 0]);
    assert_eq!(check(&[], [Some(2), Some(5)]), ["I11"]);
    assert_eq!(check(&[1], [Some(5), Some(6)]), [""; 0]);
    assert_eq!(check(&[1], [Some(7), None]), ["I11"]);
}

#[test]
fn what_was_sent_again_counts_where_it_was_sent_last() {
    let appends = told(&[(10, &[1, 2]), (20, &[3]), (30, &[2])]).appends;
    let sent = quorum::as_sent_last(&appends);
    let sent: Vec<_> = sent.iter().map(|entry| (entry.bytes, &entry.messages[..])).collect();
    assert_eq!(sent, [(10, &[1][..]), (20, &[3]), (30, &[2])]);
}

#[test]
fn the_newest_log_is_the_one_that_could_win() {
    let of_node = |last| BTreeMap::from([(SHARD, Told { last, ..Told::default() })]);
    let told = [Some((2, 9)), Some((3, 5)), None, Some((3, 4))].map(of_node);
    assert_eq!(quorum::newest(SHARD, &told).and_then(|told| told.last), Some((3, 5)));
    assert!(quorum::newest(ShardId(2), &told).is_none());
}

#[test]
fn an_object_is_what_a_majority_has_a_seal_for() {
    let info = ObjectInfo {
        kind: ObjectKind::Bundle,
        day: 1,
        term: 2,
        attempt: 8,
        hash: [1; 8],
        bytes: 1,
        footer_bytes: 1,
        live_parts: 1,
    };
    let manifest = ShardManifest {
        cluster: ClusterUid::default(),
        shard: SHARD,
        streams: BTreeMap::new(),
        objects: BTreeMap::from([(object(7), info)]),
    };
    let check = |seals: [Option<Option<u64>>; 3]| {
        let of_node = |seal: Option<Option<u64>>| {
            let seals = seal.into_iter().map(|seal| (7, seal)).collect();
            BTreeMap::from([(SHARD, Told { seals, ..Told::default() })])
        };
        broken(|history| quorum::check_seals(history, &manifest, &seals.map(of_node)))
    };
    assert_eq!(check([Some(Some(2)), Some(Some(2)), Some(None)]), [""; 0], "one lags behind");
    assert_eq!(check([None, None, Some(Some(1))]), [""; 0], "the others have given it up");
    assert_eq!(check([Some(Some(2)), Some(None), Some(Some(1))]), ["I5"]);
}

#[test]
fn committed_ranges_go_on_and_stay() {
    let check = |known: &[ColdRange], told: &[ColdRange]| {
        broken(|history| drop(fresh_ranges(history, STREAM, known, told).to_vec()))
    };
    let (first, second) = (range(0, 5), range(5, 2));
    let both = [first.clone(), second.clone()];
    assert_eq!(check(&[], &both), [""; 0]);
    assert_eq!(check(&both[..1], &both), [""; 0]);
    assert_eq!(check(&[], &both[1..]), ["I1"], "it does not begin at 0");
    assert_eq!(check(&both[..1], &[first.clone(), range(6, 1)]), ["I1"], "a hole");
    assert_eq!(check(&both[..1], &[first.clone(), range(4, 1)]), ["I1"], "an overlap");
    assert_eq!(check(&both, &both[..1]), ["I3"], "one is gone");
    let elsewhere = ColdRange { object: object(9), ..first };
    assert_eq!(check(&both, &[elsewhere, second]), ["I3"], "one has become another");
}

#[test]
fn objects_stay_as_they_are() {
    let objects = |content: &[(&str, u64, &str)]| -> Objects {
        let object = |(key, bytes, tag): &(&str, u64, &str)| {
            ((*key).to_owned(), (*bytes, Some((*tag).to_owned())))
        };
        content.iter().map(object).collect()
    };
    let check_named = |named: &[&str], known: &Objects, now: &Objects| {
        let named = named.iter().map(|key| (*key).to_owned()).collect();
        broken(|history| _ = check_objects(history, &named, known, now))
    };
    let known = objects(&[("a", 1, "x"), ("b", 2, "y")]);
    let check = |now: &Objects| check_named(&[], &known, now);
    assert_eq!(check(&objects(&[("a", 1, "x"), ("b", 2, "y"), ("c", 1, "z")])), [""; 0]);
    assert_eq!(check(&objects(&[("a", 1, "x")])), ["I3"]);
    assert_eq!(check(&objects(&[("a", 1, "x"), ("b", 2, "other")])), ["I4"]);
    assert_eq!(check(&objects(&[("a", 2, "x"), ("b", 2, "y")])), ["I4"]);
    // One with records may go that no manifest names.
    let data = "railgun/v1/abababababababababababababababab/data/bundle/shard=1/dt=1970-01-01/\
                i00000000000000000042-t0000000007-a00000000000000000043-0c0c0c0c0c0c0c0c.parquet";
    let (known, none) = (objects(&[(data, 1, "x")]), Objects::new());
    assert_eq!(check_named(&[], &known, &none), [""; 0]);
    assert_eq!(check_named(&[data], &known, &none), ["I3"]);
}

#[test]
fn an_object_is_what_its_seal_asked_for_and_was_committed_first() {
    let mut attempts = Attempts::default();
    let attempt = |hash| Attempt { index: 8, hash: [hash; 8] };
    // A seal in term 2 at 7; an upload of it was committed, then one with other content.
    attempts.take(
        SHARD,
        &Told {
            seals: BTreeMap::from([(6, None), (7, Some(2)), (8, None), (9, None), (10, Some(2))]),
            commits: vec![
                (8, object(7), attempt(1)),
                (9, object(7), attempt(2)),
                (11, object(10), attempt(3)),
            ],
            ..Told::default()
        },
        9,
    );
    let check = |shard, seal_index, term, hash| {
        let info = ObjectInfo {
            kind: ObjectKind::Bundle,
            day: 1,
            term,
            attempt: 8,
            hash: [hash; 8],
            bytes: 1,
            footer_bytes: 1,
            live_parts: 1,
        };
        let manifest = ShardManifest {
            cluster: ClusterUid::default(),
            shard,
            streams: BTreeMap::new(),
            objects: BTreeMap::from([(object(seal_index), info)]),
        };
        broken(|history| attempts.check(&manifest, history))
    };
    assert_eq!(check(SHARD, 7, 2, 1), [""; 0]);
    assert_eq!(check(SHARD, 7, 1, 1), ["I5"], "of an older term");
    assert_eq!(check(SHARD, 7, 3, 1), ["I5"], "of a term after it");
    assert_eq!(check(SHARD, 7, 2, 2), ["I5"], "of the attempt that came late");
    assert_eq!(check(SHARD, 6, 2, 1), ["I5"], "no seal is there");
    assert_eq!(check(SHARD, 5, 2, 1), [""; 0], "nobody has looked there");
    assert_eq!(check(ShardId(2), 6, 2, 1), [""; 0], "another shard's entry");
    assert_eq!(check(SHARD, 10, 9, 9), [""; 0], "behind what is committed");
}

#[test]
fn no_more_is_let_in_than_the_hot_budget_allows() {
    const BUDGET: u64 = 100 << 10;
    // Entries of a tenth of the budget, of which those from `first` on are not in the bucket.
    let check = |entries: u64, first: u64| {
        let appends: Vec<_> = (0..entries)
            .map(|id| Appends { index: id, bytes: BUDGET / 10, messages: vec![id] })
            .collect();
        let held = (first..entries).collect();
        broken(|history| check_admission(history, SHARD, BUDGET, &appends, &held))
    };
    // Nine make the hard mark, ten may not have been there yet.
    assert_eq!(check(19, 0), [""; 0]);
    assert_eq!(check(20, 0), ["I10"]);
    assert_eq!(check(30, 11), [""; 0]);
    assert_eq!(check(30, 10), ["I10"]);
    assert_eq!(check(30, 30), [""; 0], "all of it is in the bucket");
    assert_eq!(check(3, 0), [""; 0]);
}

#[test]
fn no_more_stays_than_the_hot_budget_allows() {
    const BUDGET: u64 = 1 << 20;
    let check = |files: u64, unpurged_bytes: u64| {
        let told = Told { unpurged_bytes, ..Told::default() };
        broken(|history| check_stays(history, SHARD, BUDGET, 16 << 10, &told, files))
    };
    assert_eq!(check(BUDGET, BUDGET), [""; 0]);
    assert_eq!(check(2 * BUDGET, BUDGET), [""; 0], "as much again came since the last look");
    assert_eq!(check(3 * BUDGET, BUDGET), ["I10"]);
    assert_eq!(check(BUDGET, 3 * BUDGET / 2), [""; 0], "no checkpoint has come to be");
    assert_eq!(check(BUDGET, 3 * BUDGET), ["I10"]);
}

#[test]
fn a_replay_ends_where_the_stream_does() {
    let check = |replayed: &[(StreamUid, Offset)], end| {
        let replayed = replayed.iter().copied().collect();
        broken(|history| check_ends(history, &replayed, &[(STREAM, Offset(end))]))
    };
    assert_eq!(check(&[(STREAM, Offset(3))], 3), [""; 0]);
    assert_eq!(check(&[], 0), [""; 0]);
    assert_eq!(check(&[(STREAM, Offset(2))], 3), ["replay"]);
    assert_eq!(check(&[(STREAM, Offset(4))], 3), ["replay"]);
    assert_eq!(check(&[], 3), ["replay"]);
}
