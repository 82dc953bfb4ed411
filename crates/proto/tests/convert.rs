//! Messages into types and back.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use railgun_proto::convert::{
    EnsureGroupRequest, EnsureOutcome, EnsureRequest, Ensured, ExpectedEnd, GroupEnsured, Held,
    InvalidMessage, JoinGroupRequest, SubscribeRequest, Uid,
};
use railgun_proto::{WireCode, WireError, v1};
use railgun_types::limits::MESSAGE_BYTES_HARD;
use railgun_types::{
    ChangeClass, ClusterUid, DedupFull, DedupPatch, DlqPatch, DlqSpec, EnsureMode, ErrorCode,
    FieldDiff, GroupId, GroupMode, GroupName, GroupPatch, GroupSpec, Offset, OffsetRange,
    ProducerId, RequestId, Retry, SpecPatch, StartPosition, StreamKind, StreamName, StreamSpec,
    StreamUid, Timestamp,
};

fn name() -> impl Strategy<Value = StreamName> {
    "[A-Za-z0-9_-]{1,20}(\\.[a-z]{1,5}){0,3}".prop_map(|name| name.parse().expect("a name"))
}

fn dedup() -> impl Strategy<Value = DedupPatch> {
    let window = prop_oneof![Just(0), 1_000u64..=7 * 86_400_000];
    let full = prop_oneof![Just(DedupFull::Reject), Just(DedupFull::EvictOldest)];
    use prop::option::of;
    (of(window), of(any::<bool>()), of(1u64..=4 << 20), of(full)).prop_map(
        |(window_ms, require_id, max_ids, full)| DedupPatch {
            window_ms,
            require_id,
            max_ids,
            full,
        },
    )
}

fn patch() -> impl Strategy<Value = SpecPatch> {
    let kind = prop_oneof![Just(StreamKind::Persistent), Just(StreamKind::Ephemeral)];
    let bytes = 1..=MESSAGE_BYTES_HARD as u32;
    let owner = prop::option::of("\\PC{0,30}");
    (prop::option::of(kind), prop::option::of(bytes), owner, dlq_patch(), dedup()).prop_map(
        |(kind, max_message_bytes, owner, dlq, dedup)| SpecPatch {
            kind,
            max_message_bytes,
            owner,
            dlq,
            dedup,
        },
    )
}

fn dlq_patch() -> impl Strategy<Value = DlqPatch> {
    let most = || prop::option::of(1..=1_000_000_u32);
    let far = || prop::option::of(0..=1_000_000_000_u64);
    (any::<Option<bool>>(), most(), far(), far(), most()).prop_map(
        |(enabled, max_attempts, max_distance, max_age_ms, min_attempts)| DlqPatch {
            enabled,
            max_attempts,
            max_distance,
            max_age_ms,
            min_attempts,
        },
    )
}

fn group_patch() -> impl Strategy<Value = GroupPatch> {
    let mode = prop_oneof![Just(GroupMode::Balanced), Just(GroupMode::Exclusive)];
    let counts = (
        prop::option::of(100..=3_600_000_u64),
        prop::option::of(1..=100_000_u32),
        prop::option::of(1_u64 << 20..=1 << 30),
        prop::option::of(1..=1_000_000_u32),
        prop::option::of(1..=1_u64 << 40),
    );
    let backoff = prop::option::of(prop::collection::vec(0..=86_400_000_u64, 1..32));
    let owner = prop::option::of("\\PC{0,30}");
    (prop::option::of(mode), counts, backoff, any::<Option<bool>>(), owner, dlq_patch()).prop_map(
        |(mode, counts, backoff_ms, pin_retention, owner, dlq)| {
            let (ack_wait_ms, max_in_flight, max_in_flight_bytes, max_unsettled, window) = counts;
            GroupPatch {
                mode,
                ack_wait_ms,
                max_in_flight,
                max_in_flight_bytes,
                max_unsettled,
                window,
                backoff_ms,
                pin_retention,
                owner,
                dlq,
            }
        },
    )
}

fn start() -> impl Strategy<Value = StartPosition> {
    prop_oneof![
        Just(StartPosition::Earliest),
        Just(StartPosition::Latest),
        any::<u64>().prop_map(|offset| StartPosition::Offset(Offset(offset))),
        any::<i64>().prop_map(|time| StartPosition::Time(Timestamp(time))),
        any::<u64>().prop_map(StartPosition::Last),
    ]
}

fn diff() -> impl Strategy<Value = Vec<FieldDiff>> {
    let class = prop_oneof![
        Just(ChangeClass::Live),
        Just(ChangeClass::Immutable),
        Just(ChangeClass::Destructive)
    ];
    let diff = (".{0,9}", ".{0,9}", ".{0,9}", class)
        .prop_map(|(path, actual, wanted, class)| FieldDiff { path, actual, wanted, class });
    prop::collection::vec(diff, 0..4)
}

fn outcome() -> impl Strategy<Value = EnsureOutcome> {
    prop_oneof![
        Just(EnsureOutcome::Created),
        Just(EnsureOutcome::Unchanged),
        diff().prop_map(EnsureOutcome::Drift),
        diff().prop_map(EnsureOutcome::Updated),
    ]
}

proptest! {
    #[test]
    fn ensure_requests_round_trip(
        name in name(),
        patch in patch(),
        mode in prop_oneof![
            Just(EnsureMode::Check), Just(EnsureMode::Warn), Just(EnsureMode::Overwrite)
        ],
        if_revision: Option<u64>,
        allow_destructive: bool,
        request: Option<[u8; 16]>,
    ) {
        let request = request.map(RequestId);
        let request = EnsureRequest { name, patch, mode, if_revision, allow_destructive, request };
        prop_assert_eq!(EnsureRequest::try_from(v1::EnsureStream::from(&request)), Ok(request));
    }

    #[test]
    fn requests_about_groups_round_trip(
        stream in name(),
        group in "[A-Za-z0-9_-]{1,20}",
        patch in group_patch(),
        start in start(),
        if_revision: Option<u64>,
        allow_destructive: bool,
        lease: u64,
        (from, count) in (0..u64::MAX / 2, 1..100_u64),
        (credit_messages, credit_bytes) in (1..u32::MAX, 1..u64::MAX),
        begun: bool,
    ) {
        let group: GroupName = group.parse().expect("a name");
        let request = EnsureGroupRequest {
            stream: stream.clone(),
            group: group.clone(),
            patch: patch.clone(),
            start,
            mode: EnsureMode::Overwrite,
            if_revision,
            allow_destructive,
            request: Some(RequestId([7; 16])),
        };
        prop_assert_eq!(EnsureGroupRequest::try_from(v1::EnsureGroup::from(&request)), Ok(request));
        let range = OffsetRange::new(Offset(from), Offset(from + count));
        let join = JoinGroupRequest {
            stream,
            group,
            stream_uid: Some(StreamUid([8; 16])),
            credit_messages,
            credit_bytes,
            mode: patch.mode,
            held: vec![Held { lease, range, attempt: 3, epoch: 4, begun, generation: 2, message_bytes: 90 }],
            group_id: Some(GroupId(9)),
            fetches: begun,
        };
        prop_assert_eq!(JoinGroupRequest::try_from(v1::JoinGroup::from(&join)), Ok(join));
        let spec = patch.over_defaults(&DlqSpec::default());
        prop_assert_eq!(GroupSpec::try_from(v1::GroupPatch::from(&spec)), Ok(spec));
    }

    #[test]
    fn answers_about_groups_round_trip(outcome in outcome(), group: u64, revision: u64) {
        let warnings = vec!["small".to_owned()];
        let ensured = GroupEnsured { outcome, group: GroupId(group), revision, warnings };
        prop_assert_eq!(GroupEnsured::try_from(v1::GroupEnsured::from(&ensured)), Ok(ensured));
    }

    #[test]
    fn ensure_answers_round_trip(outcome in outcome(), uid: [u8; 16], revision: u64) {
        let ensured = Ensured { outcome, stream_uid: StreamUid(uid), revision };
        prop_assert_eq!(Ensured::try_from(v1::StreamEnsured::from(&ensured)), Ok(ensured));
    }

    #[test]
    fn expected_ends_round_trip(last: i64) {
        let end = ExpectedEnd::from_wire(last);
        prop_assert_eq!(end.is_some(), last >= -1);
        if let Some(end) = end {
            prop_assert_eq!(end.to_wire(), last);
            prop_assert_eq!(end.next_offset(), Offset(last.abs_diff(-1)));
        }
    }

    #[test]
    fn subscriptions_round_trip(
        name in name(),
        start in start(),
        until_offset: Option<u64>,
        until_time: Option<i64>,
        until_end: bool,
        credit_bytes: u64,
        stream: Option<[u8; 16]>,
    ) {
        let stream = stream.map(StreamUid);
        let until_offset = until_offset.map(Offset);
        let until_time = until_time.map(Timestamp);
        let request = SubscribeRequest {
            name,
            start,
            until_offset,
            until_time,
            until_end,
            credit_bytes,
            stream,
        };
        prop_assert_eq!(SubscribeRequest::try_from(v1::Subscribe::from(&request)), Ok(request));
    }

    #[test]
    fn specifications_round_trip(patch in patch()) {
        let spec = patch.over_defaults();
        prop_assert_eq!(StreamSpec::try_from(v1::StreamPatch::from(&spec)), Ok(spec));
    }

    #[test]
    fn uids_have_sixteen_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let uid = StreamUid::from_wire("stream_uid", &bytes);
        match <[u8; 16]>::try_from(bytes.as_slice()) {
            Ok(array) => {
                prop_assert_eq!(&uid, &Ok(StreamUid(array)));
                prop_assert_eq!(StreamUid(array).to_wire(), Bytes::from(bytes.clone()));
                prop_assert_eq!(ProducerId::from_wire("", &bytes), Ok(ProducerId(array)));
                prop_assert_eq!(ClusterUid::from_wire("", &bytes), Ok(ClusterUid(array)));
            }
            Err(_) => {
                let error = uid.unwrap_err();
                prop_assert_eq!(error.code(), ErrorCode::ProtocolViolation);
                prop_assert!(error.to_string().starts_with("the field stream_uid has"));
            }
        }
    }

    #[test]
    fn errors_round_trip(
        number: u32,
        message in ".{0,50}",
        retry in prop_oneof![
            Just(Retry::Never),
            Just(Retry::Now),
            any::<u32>().prop_map(|ms| Retry::After(Duration::from_millis(ms.into()))),
            Just(Retry::OnNewLeader),
        ],
        record: Option<u32>,
        actual: Option<u64>,
        leader in ".{0,9}",
    ) {
        let code = WireCode::from_u32(number);
        let error = WireError { code, message, retry, record, actual, leader };
        prop_assert_eq!(WireError::from(v1::Error::from(&error)), error);
    }
}

#[test]
fn an_empty_stream_is_expected_by_minus_one() {
    assert_eq!(ExpectedEnd::from_wire(-1), Some(ExpectedEnd::Empty));
    assert_eq!((ExpectedEnd::Empty.to_wire(), ExpectedEnd::Empty.next_offset()), (-1, Offset(0)));
    assert_eq!(ExpectedEnd::from_wire(-2), None);
}

#[test]
fn every_code_round_trips() {
    for &code in ErrorCode::ALL {
        let wire = v1::Error::from(WireError::new(code, "text"));
        assert_eq!(wire.code, code as u32);
        let error = WireError::from(wire);
        assert_eq!(error.code, code);
        assert_eq!(error.retry, code.retry());
        assert_eq!(error.to_string(), format!("text ({code})"));
    }
}

#[test]
fn codes_and_hints_of_a_newer_server_are_kept_or_harmless() {
    let newer = v1::Error { code: 9_999, message: "new".to_owned(), ..v1::Error::default() };
    let retry = v1::Error { retry: v1::Retry::Now.into(), ..newer.clone() };
    let error = WireError::from(retry.clone());
    assert_eq!(error.code, WireCode::Unknown(9_999));
    assert_eq!(error.retry, Retry::Now);
    assert_eq!(error.to_string(), "new (error 9999)");
    assert_eq!(v1::Error::from(error), retry);
    assert_eq!(WireError::from(v1::Error { retry: 77, ..newer }).retry, Retry::Never);
}

#[test]
fn the_hint_sent_goes_before_the_usual_one() {
    let hint = Retry::After(Duration::from_micros(1_500));
    let error = WireError::new(ErrorCode::HotTierFull, "full").with_retry(hint);
    let wire = v1::Error::from(error);
    assert_eq!(wire.retry_after_ms, 2, "rounded up");
    assert_eq!(WireError::from(wire).retry, Retry::After(Duration::from_millis(2)));
    let for_ever = WireError::new(ErrorCode::Timeout, "").with_retry(Retry::After(Duration::MAX));
    assert_eq!(v1::Error::from(for_ever).retry_after_ms, u32::MAX);
}

#[test]
fn a_long_text_is_cut_between_characters() {
    let wire = v1::Error::from(WireError::new(ErrorCode::Internal, "é".repeat(1_000)));
    assert_eq!(wire.message, "é".repeat(512));
}

#[test]
fn wrong_messages_are_told() {
    let subscribe = v1::Subscribe { stream: "s".to_owned(), ..v1::Subscribe::default() };
    let error = SubscribeRequest::try_from(subscribe).unwrap_err();
    assert_eq!(error.to_string(), "the field start is missing");

    let ensure = v1::EnsureStream { name: "a b".to_owned(), mode: 1, ..Default::default() };
    let error = EnsureRequest::try_from(ensure.clone()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidName);
    assert_eq!(WireError::from(error).code, ErrorCode::InvalidName);

    for mode in [0, 4, -1] {
        let ensure = v1::EnsureStream { name: "a".to_owned(), mode, ..ensure.clone() };
        let error = EnsureRequest::try_from(ensure).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ProtocolViolation, "{error}");
    }
    for kind in [0, 3, -1] {
        let patch = v1::StreamPatch { kind: Some(kind), ..Default::default() };
        let error = SpecPatch::try_from(patch).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidSpec);
        assert!(matches!(error, InvalidMessage::Spec(spec) if spec.path == "kind"));
    }
    for full in [0, 3] {
        let dedup = Some(v1::StreamDedup { full: Some(full), ..Default::default() });
        let error = SpecPatch::try_from(v1::StreamPatch { dedup, ..Default::default() });
        assert_eq!(error.unwrap_err().code(), ErrorCode::InvalidSpec);
    }
    let patch = v1::StreamPatch { max_message_bytes: Some(0), ..Default::default() };
    assert_eq!(SpecPatch::try_from(patch).unwrap_err().code(), ErrorCode::InvalidSpec);

    for outcome in [0, 5] {
        let ensured =
            v1::StreamEnsured { outcome, stream_uid: vec![0; 16].into(), ..Default::default() };
        assert!(Ensured::try_from(ensured).is_err());
    }
    let diff = vec![v1::FieldDiff { class: 9, ..Default::default() }];
    let ensured = v1::StreamEnsured {
        outcome: 3,
        stream_uid: vec![0; 16].into(),
        diff,
        ..Default::default()
    };
    assert!(Ensured::try_from(ensured).is_err());
}

#[test]
fn what_nobody_can_ask_of_a_group_is_refused() {
    let join = |change: fn(&mut v1::JoinGroup)| {
        let mut join = v1::JoinGroup {
            stream: "s".to_owned(),
            group: "g".to_owned(),
            credit_messages: 1,
            credit_bytes: 1,
            ..v1::JoinGroup::default()
        };
        change(&mut join);
        JoinGroupRequest::try_from(join).map(drop).map_err(|error| error.code())
    };
    assert_eq!(join(|_| {}), Ok(()));
    type Change = fn(&mut v1::JoinGroup);
    let refused: [(Change, ErrorCode); 6] = [
        (|join| join.credit_messages = 0, ErrorCode::ProtocolViolation),
        (|join| join.credit_bytes = 0, ErrorCode::ProtocolViolation),
        (|join| join.mode = 99, ErrorCode::InvalidSpec),
        (|join| join.group = "a$b".to_owned(), ErrorCode::InvalidName),
        (|join| join.held = vec![v1::HeldLease::default()], ErrorCode::ProtocolViolation),
        (
            |join| {
                join.held = vec![v1::HeldLease { from: u64::MAX, count: 1, ..Default::default() }]
            },
            ErrorCode::ProtocolViolation,
        ),
    ];
    for (change, code) in refused {
        assert_eq!(join(change), Err(code));
    }
}
