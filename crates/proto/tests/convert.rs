//! Messages into types and back.

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use railgun_proto::convert::{
    EnsureOutcome, EnsureRequest, Ensured, ExpectedEnd, InvalidMessage, SubscribeRequest, Uid,
};
use railgun_proto::{WireCode, WireError, v1};
use railgun_types::limits::MESSAGE_BYTES_HARD;
use railgun_types::{
    ChangeClass, ClusterUid, EnsureMode, ErrorCode, FieldDiff, Offset, ProducerId, RequestId,
    Retry, SpecPatch, StartPosition, StreamKind, StreamName, StreamSpec, StreamUid, Timestamp,
};

fn name() -> impl Strategy<Value = StreamName> {
    "[A-Za-z0-9_-]{1,20}(\\.[a-z]{1,5}){0,3}".prop_map(|name| name.parse().expect("a name"))
}

fn patch() -> impl Strategy<Value = SpecPatch> {
    let kind = prop_oneof![Just(StreamKind::Persistent), Just(StreamKind::Ephemeral)];
    let bytes = 1..=MESSAGE_BYTES_HARD as u32;
    (prop::option::of(kind), prop::option::of(bytes), prop::option::of("\\PC{0,30}")).prop_map(
        |(kind, max_message_bytes, owner)| SpecPatch {
            kind,
            max_message_bytes,
            owner,
            ..SpecPatch::default()
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
