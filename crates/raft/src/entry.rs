//! Entries as openraft handles them and as the log keeps them. Kinds are part of the log's format.

use std::io;

use railgun_log::{Entry, Payload};
use railgun_types::EntryId;

use crate::membership::{self, InvalidMembership};
use crate::raft_types::{Command, RaftEntry, RaftPayload, to_entry_id, to_log_id};

/// A new leader's first entry, which commits what its predecessors left.
const BLANK: u8 = 0;
/// Bytes of the shard's owner.
const NORMAL: u8 = 1;
/// A membership, in the form of `crate::membership`.
const MEMBERSHIP: u8 = 2;

/// An entry of the log that this version does not understand.
#[derive(Debug, thiserror::Error)]
enum InvalidEntry {
    #[error("entry {id} has the unknown kind {kind}")]
    Kind { id: EntryId, kind: u8 },
    #[error("entry {id} holds no membership")]
    Membership { id: EntryId, source: InvalidMembership },
}

/// Moves a command's parts; only a membership is encoded.
pub(crate) fn to_log(entry: RaftEntry) -> Entry {
    let (kind, payload) = match entry.payload {
        RaftPayload::Blank => (BLANK, Payload::empty()),
        RaftPayload::Normal(Command(payload)) => (NORMAL, payload),
        RaftPayload::Membership(membership) => {
            (MEMBERSHIP, Payload::from_bytes(membership::encode(&membership)))
        }
    };
    Entry { id: to_entry_id(&entry.log_id), kind, payload }
}

pub(crate) fn from_log(entry: Entry) -> io::Result<RaftEntry> {
    let id = entry.id;
    let invalid = |error: InvalidEntry| io::Error::new(io::ErrorKind::InvalidData, error);
    let payload = match entry.kind {
        BLANK => RaftPayload::Blank,
        NORMAL => RaftPayload::Normal(Command(entry.payload)),
        MEMBERSHIP => membership::decode(&entry.payload.to_bytes())
            .map(RaftPayload::Membership)
            .map_err(|source| invalid(InvalidEntry::Membership { id, source }))?,
        kind => return Err(invalid(InvalidEntry::Kind { id, kind })),
    };
    Ok(RaftEntry { log_id: to_log_id(id), payload })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_command_keeps_its_parts() {
        let parts = vec![Bytes::from_static(b"head"), Bytes::from_static(b"body")];
        let places: Vec<_> = parts.iter().map(|part| part.as_ptr()).collect();
        let command = Command(Payload::new(parts));
        let log_id = to_log_id(EntryId { term: 4, index: 9 });
        let entry = to_log(RaftEntry { log_id, payload: RaftPayload::Normal(command) });
        assert_eq!((entry.id, entry.kind), (EntryId { term: 4, index: 9 }, 1));
        let RaftPayload::Normal(Command(payload)) = from_log(entry).expect("valid").payload else {
            panic!("not a command");
        };
        assert_eq!(payload.parts().iter().map(|part| part.as_ptr()).collect::<Vec<_>>(), places);
    }

    #[test]
    fn unknown_kinds_and_bad_memberships_are_errors() {
        let id = EntryId { term: 1, index: 2 };
        for (kind, bytes) in [(3, &b""[..]), (255, b"x"), (2, b""), (2, b"\x09")] {
            let payload = Payload::from_bytes(Bytes::from_static(bytes));
            let error = from_log(Entry { id, kind, payload }).expect_err("invalid");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "kind {kind}");
        }
    }
}
