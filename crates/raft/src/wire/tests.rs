//! The bytes of each message, and what is no message.

use proptest::prelude::*;

use super::*;
use crate::raft_types::{Command, Membership, Peer, RaftEntry, RaftPayload, StoredMembership};

fn id(term: u64, index: u64) -> LogId {
    to_log_id(EntryId { term, index })
}

fn vote(term: u64, voted_for: u64, committed: bool) -> RaftVote {
    RaftVote { leader_id: LeaderId { term, voted_for }, committed }
}

fn ballot_request() -> VoteRequest<Types> {
    VoteRequest {
        vote: vote(5, 0x2_0001, false),
        last_log_id: Some(id(4, 258)),
        leadership_transfer: true,
    }
}

fn entry(term: u64, index: u64, parts: &[&'static [u8]]) -> RaftEntry {
    let parts = parts.iter().map(|part| Bytes::from_static(part)).collect();
    let payload = RaftPayload::Normal(Command(Payload::new(parts)));
    RaftEntry { log_id: id(term, index), payload }
}

fn append() -> Append {
    Append {
        vote: vote(5, 0x1_0001, true),
        prev_log_id: Some(id(4, 7)),
        leader_commit: Some(id(4, 6)),
        entries: vec![
            RaftEntry { log_id: id(5, 8), payload: RaftPayload::Blank },
            entry(5, 9, &[b"he", b"ad"]),
            entry(5, 10, &[b"x"]),
        ],
    }
}

/// What arrives: the body in one piece.
fn arrived(message: &PeerMessage) -> PeerMessage {
    let body = match message.body.concat() {
        bytes if bytes.is_empty() => Vec::new(),
        bytes => vec![Bytes::from(bytes)],
    };
    PeerMessage { head: message.head.clone(), body }
}

fn snapshot_head() -> SnapshotHead {
    let nodes = [(0x1_0001, Peer { address: "a:1".to_owned() })];
    let voters = vec![[0x1_0001].into()];
    let membership = Membership::new(voters, std::collections::BTreeMap::from(nodes));
    let last_membership = StoredMembership::new(Some(id(1, 0)), membership.expect("valid"));
    SnapshotHead {
        vote: vote(5, 0x1_0001, true),
        meta: SnapshotMeta { last_log_id: Some(id(4, 7)), last_membership },
        bytes: 1 << 20,
    }
}

const VOTE_BYTES: &[u8] = b"\x01\x01\
    \x05\0\0\0\0\0\0\0\x01\0\x02\0\0\0\0\0\x00\
    \x01\x04\0\0\0\0\0\0\0\x02\x01\0\0\0\0\0\0\
    \x01";
const APPEND_HEAD: &[u8] = b"\x01\x03\
    \x05\0\0\0\0\0\0\0\x01\0\x01\0\0\0\0\0\x01\
    \x01\x04\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\
    \x01\x04\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\
    \x03\
    \x05\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x00\x00\
    \x05\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x01\x04\
    \x05\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0\x01\x01";
const HEARTBEAT: &[u8] = b"\x01\x03\
    \x05\0\0\0\0\0\0\0\x01\0\x01\0\0\0\0\0\x01\
    \x00\x00\x00";
const TRANSFER_BYTES: &[u8] = b"\x01\x04\
    \x05\0\0\0\0\0\0\0\x01\0\x01\0\0\0\0\0\x01\
    \x01\0\x02\0\0\0\0\0\
    \x01\x05\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0";
const SNAPSHOT_HEAD: &[u8] = b"\x01\x05\
    \x05\0\0\0\0\0\0\0\x01\0\x01\0\0\0\0\0\x01\
    \x01\x04\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\
    \0\0\x10\0\0\0\0\0\
    \x2a\
    \x01\x01\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
    \x01\x01\x01\x01\0\x01\0\0\0\0\0\
    \x01\x01\0\x01\0\0\0\0\0\x03a:1";

#[test]
fn requests_have_these_bytes() {
    assert_eq!(encode_vote(&ballot_request()), VOTE_BYTES);
    match decode_request(&Bytes::from_static(VOTE_BYTES)) {
        Ok(Request::Vote(request)) => assert_eq!(request, ballot_request()),
        other => panic!("{other:?}"),
    }
    let pre_vote = encode_pre_vote(&ballot_request());
    assert_eq!((pre_vote[1], &pre_vote[2..]), (2, &VOTE_BYTES[2..]));
    assert!(matches!(decode_request(&pre_vote), Ok(Request::PreVote(_))));

    let heartbeat = Append { prev_log_id: None, leader_commit: None, entries: vec![], ..append() };
    let heartbeat = encode_append(heartbeat);
    assert_eq!((&heartbeat.head[..], heartbeat.body.len()), (HEARTBEAT, 0));
    match decode_request(&heartbeat.head) {
        Ok(Request::Heartbeat(append)) => {
            assert_eq!((append.vote, append.prev_log_id), (vote(5, 0x1_0001, true), None));
        }
        other => panic!("{other:?}"),
    }

    let transfer = Transfer::new(vote(5, 0x1_0001, true), 0x2_0001, Some(id(5, 10)));
    assert_eq!(encode_transfer(&transfer), TRANSFER_BYTES);
    match decode_request(&Bytes::from_static(TRANSFER_BYTES)) {
        Ok(Request::Transfer(request)) => assert_eq!(request, transfer),
        other => panic!("{other:?}"),
    }
}

#[test]
fn entries_travel_without_a_copy() {
    let sent = append();
    let places = |entries: &[RaftEntry]| {
        let mut places = Vec::new();
        for entry in entries {
            if let RaftPayload::Normal(Command(payload)) = &entry.payload {
                places.extend(payload.parts().iter().map(|part| part.as_ptr()));
            }
        }
        places
    };
    let before = places(&sent.entries);
    let message = encode_append(sent);
    assert_eq!(message.head, APPEND_HEAD);
    assert_eq!(message.body.iter().map(|part| part.as_ptr()).collect::<Vec<_>>(), before);

    let arrived = arrived(&message);
    assert_eq!(arrived.body, ["headx"]);
    let start = arrived.body[0].as_ptr();
    let received = decode_append(arrived).expect("valid");
    assert_eq!(received.vote, vote(5, 0x1_0001, true));
    assert_eq!((received.prev_log_id, received.leader_commit), (Some(id(4, 7)), Some(id(4, 6))));
    let ids = received.entries.iter().map(|entry| entry.log_id).collect::<Vec<_>>();
    assert_eq!(ids, [id(5, 8), id(5, 9), id(5, 10)]);
    assert_eq!(places(&received.entries), [start, start.wrapping_add(4)]);
}

#[test]
fn a_membership_travels_in_an_entry() {
    let SnapshotHead { meta, .. } = snapshot_head();
    let membership = meta.last_membership.membership().clone();
    let payload = RaftPayload::Membership(membership.clone());
    let entries = vec![RaftEntry { log_id: id(5, 8), payload }];
    let message = encode_append(Append { entries, ..append() });
    let received = decode_append(arrived(&message)).expect("valid");
    let RaftPayload::Membership(received) = &received.entries[0].payload else { panic!("other") };
    assert_eq!(*received, membership);
}

#[test]
fn the_messages_of_a_snapshot_have_these_bytes() {
    let message = encode_snapshot(&snapshot_head());
    assert_eq!(message.head, SNAPSHOT_HEAD);
    assert_eq!(decode_snapshot(message), Ok(snapshot_head()));
    let chunk = encode_chunk(Bytes::from_static(b"bytes"));
    assert_eq!(chunk.head, &b"\x01\x06"[..]);
    let part = SnapshotPart::Chunk(Bytes::from_static(b"bytes"));
    assert_eq!(decode_snapshot_part(chunk), Ok(part));
    let end = encode_file_end(0x0403_0201);
    assert_eq!(end.head, &b"\x01\x07\x01\x02\x03\x04"[..]);
    assert_eq!(decode_snapshot_part(end), Ok(SnapshotPart::End { crc: 0x0403_0201 }));
    let end = PeerMessage { body: vec![Bytes::from_static(b"x")], ..encode_file_end(1) };
    assert_eq!(decode_snapshot_part(end), Err(InvalidMessage::TrailingBytes(1)));
}

/// Each answer with its bytes.
fn answers() -> Vec<(Bytes, &'static [u8])> {
    let none = VoteResponse { vote: vote(5, 1, false), vote_granted: true, last_log_id: None };
    let conflict = Err(StreamAppendError::Conflict(id(4, 7)));
    let higher = Err(StreamAppendError::HigherVote(vote(9, 3, false)));
    let changed = Err(TransferLeaderError::VoteChanged {
        expected: vote(5, 1, true),
        actual: vote(6, 2, false),
    });
    let behind =
        Err(TransferLeaderError::LogNotFlushed { expected: Some(id(5, 10)), actual: None });
    let installed = SnapshotAnswer::Installed(SnapshotResponse { vote: vote(5, 1, true) });
    vec![
        (encode_snapshot_answer(&SnapshotAnswer::Taken).head, b"\x01\x15"),
        (encode_voted(&none), b"\x01\x11\x05\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x00\x00\x01"),
        (encode_appended(&Ok(None)), b"\x01\x12\x00\x00"),
        (encode_appended(&Ok(Some(id(4, 7)))), b"\x01\x12\x00\x01\x04\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0"),
        (encode_appended(&conflict), b"\x01\x12\x01\x01\x04\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0"),
        (encode_appended(&higher), b"\x01\x12\x02\x09\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x00"),
        (encode_transferred(&Ok(())), b"\x01\x13\x00"),
        (
            encode_transferred(&changed),
            b"\x01\x13\x01\x05\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\x06\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x00",
        ),
        (encode_transferred(&behind), b"\x01\x13\x02\x01\x05\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0\x00"),
        (
            encode_snapshot_answer(&installed).head,
            b"\x01\x14\x05\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01",
        ),
    ]
}

/// The answer, encoded again, if it is one.
fn again(bytes: &Bytes) -> Result<Bytes, InvalidMessage> {
    match bytes.get(1) {
        Some(&VOTED) => decode_voted(bytes).map(|answer| encode_voted(&answer)),
        Some(&APPENDED) => decode_appended(bytes).map(|answer| encode_appended(&answer)),
        Some(&TRANSFERRED) => decode_transferred(bytes).map(|answer| encode_transferred(&answer)),
        Some(&INSTALLED | &TAKEN) => {
            decode_snapshot_answer(bytes).map(|answer| encode_snapshot_answer(&answer).head)
        }
        _ => decode_request(bytes).map(|request| match request {
            Request::Vote(request) => encode_vote(&request),
            Request::PreVote(request) => encode_pre_vote(&request),
            Request::Heartbeat(append) => encode_append(append).head,
            Request::Transfer(request) => encode_transfer(&request),
        }),
    }
}

#[test]
fn answers_have_these_bytes() {
    for (bytes, golden) in answers() {
        assert_eq!(bytes, golden);
        assert_eq!(again(&bytes).as_deref(), Ok(golden));
    }
}

#[test]
fn every_cut_and_every_excess_is_an_error() {
    let requests = [VOTE_BYTES, HEARTBEAT, TRANSFER_BYTES];
    let whole = requests.into_iter().chain(answers().into_iter().map(|(_, golden)| golden));
    for golden in whole {
        for len in 0..golden.len() {
            assert!(again(&Bytes::copy_from_slice(&golden[..len])).is_err(), "cut at {len}");
        }
        let excess = Bytes::from([golden, b"\0"].concat());
        assert_eq!(again(&excess), Err(InvalidMessage::TrailingBytes(1)));
    }
    let message = |head: &[u8], body: &'static [u8]| PeerMessage {
        head: Bytes::copy_from_slice(head),
        body: vec![Bytes::from_static(body)],
    };
    for len in 0..APPEND_HEAD.len() {
        assert!(decode_append(message(&APPEND_HEAD[..len], b"headx")).is_err(), "cut at {len}");
    }
    assert!(decode_append(message(APPEND_HEAD, b"head")).is_err());
    let excess = decode_append(message(APPEND_HEAD, b"headxx")).err();
    assert_eq!(excess, Some(InvalidMessage::TrailingBytes(1)));
    for len in 0..SNAPSHOT_HEAD.len() {
        assert!(decode_snapshot(message(&SNAPSHOT_HEAD[..len], b"")).is_err(), "cut at {len}");
    }
}

#[test]
fn what_openraft_could_not_take_is_refused() {
    let invalid = |change: fn(&mut Append)| {
        let mut append = append();
        change(&mut append);
        decode_append(arrived(&encode_append(append))).expect_err("invalid")
    };
    let inconsistent = |error| matches!(error, InvalidMessage::Inconsistent(_));
    assert!(inconsistent(invalid(|append| append.vote.committed = false)));
    assert!(inconsistent(invalid(|append| append.prev_log_id = None)));
    assert!(inconsistent(invalid(|append| append.prev_log_id = Some(id(4, u64::MAX)))));
    assert!(inconsistent(invalid(|append| append.prev_log_id = Some(id(6, 7)))));
    assert!(inconsistent(invalid(|append| append.vote.leader_id.term = 4)));
    assert!(inconsistent(invalid(|append| {
        append.entries.remove(1);
    })));

    assert!(inconsistent(invalid(|append| append.vote.leader_id.term = TERM_MAX + 1)));
    assert!(inconsistent(invalid(|append| append.leader_commit = Some(id(u64::MAX, 6)))));
    // The term of the first entry, whatever the vote's.
    let at = APPEND_HEAD.len() - 3 * 18 + 7;
    let entry_term = [&APPEND_HEAD[..at], b"\x01", &APPEND_HEAD[at + 1..]].concat();
    let entry_term =
        PeerMessage { head: entry_term.into(), body: vec![Bytes::from_static(b"headx")] };
    let refused = decode_append(entry_term).expect_err("invalid");
    assert_eq!(refused, InvalidMessage::Inconsistent("a term that no election has led to"));

    // Nobody is elected after the last term.
    for (term, is_taken) in [(TERM_MAX, true), (TERM_MAX + 1, false), (u64::MAX, false)] {
        let request = VoteRequest { vote: vote(term, 1, false), ..ballot_request() };
        for request in [encode_vote(&request), encode_pre_vote(&request)] {
            assert_eq!(decode_request(&request).is_ok(), is_taken, "{term}");
        }
        let answer =
            VoteResponse { vote: vote(term, 1, false), last_log_id: None, vote_granted: true };
        assert_eq!(decode_voted(&encode_voted(&answer)).is_ok(), is_taken, "{term}");
    }

    let won = VoteRequest { vote: vote(5, 1, true), ..ballot_request() };
    assert!(inconsistent(decode_request(&encode_vote(&won)).expect_err("invalid")));
    let with_entries = decode_request(&Bytes::from_static(APPEND_HEAD));
    assert!(with_entries.is_err(), "{with_entries:?}");
    // A count of 2^63 ends with the bytes, not with the memory.
    let huge = [&HEARTBEAT[..HEARTBEAT.len() - 1], b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"];
    let huge = decode_request(&Bytes::from(huge.concat()));
    assert!(matches!(huge, Err(InvalidMessage::Malformed(_))), "{huge:?}");
    let empty = decode_request(&Bytes::from_static(b"\x02\x01"));
    assert!(matches!(empty, Err(InvalidMessage::Version(2))));
    let unknown = decode_request(&Bytes::from_static(b"\x01\x63"));
    assert!(matches!(unknown, Err(InvalidMessage::Kind(0x63))));
}

proptest! {
    #[test]
    fn any_bytes_give_an_error_or_a_message_with_exactly_these_bytes(
        kind in prop_oneof![1u8..8, 17u8..22],
        bytes in proptest::collection::vec(0u8..3, 0..60),
    ) {
        let bytes = Bytes::from([&[VERSION, kind], &bytes[..]].concat());
        if let Ok(encoded) = again(&bytes) {
            prop_assert_eq!(encoded, bytes);
        }
    }
}
