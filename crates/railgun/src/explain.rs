//! What people are told when the cluster says no: one table from errors to exit codes and to the
//! command to try next.

use railgun_client::{
    AdminError, ConnectError, DeadLettersError, ErrorCode, GroupError, GroupName, OpenError,
    PublishError, RecordRefused, RedriveError, SendError, StreamName, SubscribeError,
    TransportError, WireCode, WireError,
};

use crate::exit::{Exit, Failure};
use crate::group::GroupRef;
use crate::output::format::safe;

/// No connection.
pub(crate) fn connect(error: &ConnectError) -> Failure {
    let failure = Failure::new(Exit::CannotConnect, error.to_string());
    match error {
        ConnectError::InvalidServer { .. } => Failure::new(Exit::Usage, error.to_string())
            .next("pass --server HOST:PORT, or several, separated by commas"),
        ConnectError::NoneReachable { attempts } => {
            // What the first one needs; a refusal or a certificate says more than silence.
            let telling = attempts.iter().find(|attempt| {
                matches!(
                    &attempt.error,
                    ConnectError::Refused { .. } | ConnectError::OtherCluster { .. }
                ) || is_untrusted(&attempt.error)
            });
            match telling.or(attempts.first()) {
                Some(attempt) => connect(&attempt.error).about(safe(&error.to_string())),
                None => failure.next("railgun context show"),
            }
        }
        ConnectError::Refused { error, .. } if error.code == ErrorCode::Unauthenticated => {
            Failure::new(Exit::Refused, failure_text(error))
                .next("pass --token, or set RAILGUN_TOKEN")
        }
        ConnectError::Transport(source) => match **source {
            TransportError::UntrustedCertificate { .. } | TransportError::Roots(_) => failure
                .next("pass --ca with the CA's PEM file, or select a context: railgun context ls"),
            TransportError::Timeout { .. }
            | TransportError::Refused { .. }
            | TransportError::Lost { .. } => {
                failure.next("railgun serve --dev, if no server runs there")
            }
            _ => failure.next("railgun context show"),
        },
        _ => failure.next("railgun context show"),
    }
}

fn is_untrusted(error: &ConnectError) -> bool {
    matches!(error, ConnectError::Transport(source)
        if matches!(**source, TransportError::UntrustedCertificate { .. }))
}

/// The server's words, in which names and labels of other clients may be.
fn failure_text(error: &WireError) -> String {
    safe(&error.to_string())
}

/// A refusal by the server, about a stream where there is one.
pub(crate) fn wire(error: &WireError, stream: Option<&StreamName>) -> Failure {
    let exit = match error.code {
        WireCode::Known(code) => exit(code),
        _ => Exit::Refused,
    };
    let next = match error.code {
        WireCode::Known(code) => next(code, stream.map_or("STREAM", StreamName::as_str)),
        _ => "look for a newer railgun: this one does not know what the server says".to_owned(),
    };
    Failure::new(exit, failure_text(error)).next(next)
}

fn exit(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::StreamNotFound
        | ErrorCode::StreamDeleted
        | ErrorCode::NodeNotFound
        | ErrorCode::GroupNotFound => Exit::NotFound,
        ErrorCode::OutcomeUnknown | ErrorCode::Timeout => Exit::OutcomeUnknown,
        ErrorCode::Internal
        | ErrorCode::ColdCorrupt
        | ErrorCode::ColdUnavailable
        | ErrorCode::HotCorrupt => Exit::Failed,
        ErrorCode::GoingAway | ErrorCode::NotLeader | ErrorCode::Unavailable => Exit::CannotConnect,
        _ => Exit::Refused,
    }
}

/// What to do about a refusal. Every code is named, so that a new one is thought of here.
fn next(code: ErrorCode, name: &str) -> String {
    use ErrorCode as Code;
    match code {
        // Whoever reads, describes or deletes what is not there has mistyped its name; that a
        // publisher may want to make it is told by [`open`] and [`publish`].
        Code::StreamNotFound | Code::StreamDeleted => {
            "railgun stream ls, which lists those there are".to_owned()
        }
        Code::StreamStarting
        | Code::Unavailable
        | Code::NotLeader
        | Code::GoingAway
        | Code::DedupIndexFull
        | Code::TooManyUnanswered
        | Code::ColdUnavailable => "try again in a moment".to_owned(),
        Code::QuotaExceeded => {
            "try again in a moment, or free what takes the limit that is named".to_owned()
        }
        Code::HotTierFull => {
            "free space on the server's disk, or railgun stream ls, which shows what waits for the bucket".to_owned()
        }
        Code::MessageTooLarge => {
            format!("railgun stream ensure {name} --mode overwrite --max-message-bytes N")
        }
        Code::InvalidHeader => {
            "at most 64 headers of 16 KiB together, keys in ASCII and not beginning with rg-"
                .to_owned()
        }
        Code::IdRequired => format!("railgun pub {name} MESSAGE --id ID"),
        Code::DuplicateIdConflict => "another --id, or the message that it was used for".to_owned(),
        Code::Duplicate => "leave out what is in the stream already".to_owned(),
        Code::OffsetOutOfRange
        | Code::RevisionConflict
        | Code::KindMismatch
        | Code::ImmutableField
        | Code::ExpectedOffsetMismatch => format!("railgun stream info {name}"),
        Code::DestructiveChange => "the same with --allow-destructive, if it may".to_owned(),
        Code::InvalidName => {
            "write names as words of letters, digits, _ and -, joined by dots".to_owned()
        }
        Code::InvalidSpec => "railgun stream ensure --help".to_owned(),
        Code::Unauthenticated | Code::Unauthorized => {
            "pass another --token, or select another context: railgun context ls".to_owned()
        }
        Code::UnsupportedVersion | Code::FeatureLevel => {
            "use the version of railgun that the server has: railgun --version".to_owned()
        }
        Code::OutcomeUnknown | Code::Timeout => {
            format!("railgun stream info {name}, which shows how far it came")
        }
        Code::OrderBroken | Code::ProducerFenced | Code::ProducerUnknown | Code::SequenceGap => {
            format!("railgun sub {name} --from last:1 --until-end, to see where to go on")
        }
        Code::ReplicaNotHere => "try again in a moment".to_owned(),
        Code::WrongCluster | Code::NodeIdentityConflict => {
            "railgun cluster status, which shows the nodes there are".to_owned()
        }
        Code::NodeNotFound | Code::UnsafeChange => {
            "railgun cluster status, which shows nodes and shards".to_owned()
        }
        Code::GroupNotFound => format!("railgun group ls {name}, which lists those there are"),
        Code::GroupInUse => "end its members, or the same with --force".to_owned(),
        Code::NoOtherMember => "start another member of the group".to_owned(),
        Code::GroupModeMismatch => format!("railgun group ls {name}, which shows the mode"),
        Code::NoAuthority => "railgun cluster issue-node, where the CA's key is".to_owned(),
        Code::TokenExpired => "railgun cluster join-token, which makes another".to_owned(),
        Code::UntrustedPeer => {
            "railgun cluster issue-node, with the CA that the other nodes have".to_owned()
        }
        Code::Internal | Code::ColdCorrupt | Code::HotCorrupt => "look into the server's log".to_owned(),
        Code::ProtocolViolation
        | Code::FrameTooLarge
        | Code::BatchCorrupt
        | Code::NonCanonicalRecord
        | Code::BatchTooLarge => MISTAKE.to_owned(),
    }
}

/// What only a mistake in railgun itself, or a device between, can be the cause of.
const MISTAKE: &str = "report it, with this message and the server's log";

/// The failure of who wants to publish: a stream that is absent can be made.
fn publishing(error: &WireError, stream: &StreamName) -> Failure {
    let failure = wire(error, Some(stream));
    match error.code {
        WireCode::Known(ErrorCode::StreamNotFound | ErrorCode::StreamDeleted) => {
            failure.next(format!("railgun stream ensure {stream}"))
        }
        _ => failure,
    }
}

/// A failed administrative call.
pub(crate) fn admin(error: &AdminError, stream: Option<&StreamName>) -> Failure {
    let text = error.to_string();
    match error {
        AdminError::Refused(error) => wire(error, stream),
        AdminError::Connection(error) => connect(error),
        AdminError::Lost { .. } => {
            Failure::new(Exit::CannotConnect, text).next("the same again: it does no harm")
        }
        AdminError::Unknown { .. } => Failure::new(Exit::OutcomeUnknown, text)
            .next("railgun stream ls, which shows whether it was done"),
        AdminError::Protocol { .. } => Failure::new(Exit::Failed, text).next(MISTAKE),
    }
}

/// A publisher that did not open.
pub(crate) fn open(error: &OpenError) -> Failure {
    match error {
        OpenError::Refused { stream, error } => publishing(error, stream),
        OpenError::Unreachable { .. } => {
            Failure::new(Exit::CannotConnect, error.to_string()).next(REACHABLE)
        }
        // Nobody here goes on with one that was closed: the server has refused it.
        OpenError::Closed { stream } => Failure::new(Exit::Refused, error.to_string())
            .next(format!("railgun pub {stream}, with a publisher of its own")),
        OpenError::TooManyStreams { .. } => {
            Failure::new(Exit::Failed, error.to_string()).next("fewer streams at a time")
        }
    }
}

/// A message that was not published.
pub(crate) fn publish(error: &PublishError, stream: &StreamName) -> Failure {
    let text = error.to_string();
    let look = format!("railgun sub {stream} --from last:1 --until-end, to see what is there");
    match error {
        PublishError::Refused(error) => publishing(error, stream),
        PublishError::OrderBroken | PublishError::Duplicate { .. } => {
            Failure::new(Exit::Refused, text).next(look)
        }
        PublishError::IdConflict { .. } => Failure::new(Exit::Refused, text)
            .next("another --id, or the message that it was used for"),
        PublishError::NotSent { .. } => Failure::new(Exit::CannotConnect, text).next(REACHABLE),
        PublishError::Unknown { .. } => Failure::new(Exit::OutcomeUnknown, text).next(look),
    }
}

/// Says whether a server that was there still is.
const REACHABLE: &str = "railgun stream ls, which shows whether the server is back";

/// A message that was not taken.
pub(crate) fn send(error: &SendError) -> Failure {
    let text = error.to_string();
    match error {
        SendError::StreamGone { stream, error } => publishing(error, stream),
        SendError::OrderBroken { stream } => Failure::new(Exit::Refused, text)
            .next(format!("railgun sub {stream} --from last:1 --until-end, to see what is there")),
        SendError::Closed => Failure::new(Exit::CannotConnect, text).next(REACHABLE),
        SendError::Message(refused) => Failure::new(Exit::Refused, text).next(match refused {
            RecordRefused::TooLarge { .. } => next(ErrorCode::MessageTooLarge, "STREAM"),
            RecordRefused::Header { .. } => next(ErrorCode::InvalidHeader, "STREAM"),
            RecordRefused::Id { .. } => "the same with a shorter --id".to_owned(),
        }),
        SendError::AtomicBatch { .. } => Failure::new(Exit::Refused, text).next("smaller batches"),
        SendError::Full => Failure::new(Exit::Failed, text).next("try again in a moment"),
    }
}

/// A subscription that ended before its end.
pub(crate) fn subscribe(error: &SubscribeError) -> Failure {
    match error {
        SubscribeError::Refused { stream, error } => wire(error, Some(stream)),
        SubscribeError::Disconnected { error, .. } => connect(error),
        SubscribeError::TooManyStreams { .. } => {
            Failure::new(Exit::Failed, error.to_string()).next("fewer streams at a time")
        }
        SubscribeError::Damaged { .. } | SubscribeError::Protocol { .. } => {
            Failure::new(Exit::Failed, error.to_string()).next(MISTAKE)
        }
    }
}

/// A member that has no place in its group, or lost it.
pub(crate) fn group(error: &GroupError, stream: &StreamName, group: &GroupName) -> Failure {
    let text = error.to_string();
    match error {
        GroupError::NotFound { .. } => {
            Failure::new(Exit::NotFound, format!("stream '{stream}' has no group '{group}'"))
                .next(format!("railgun group ensure {stream} {group}, or the same with --create"))
        }
        GroupError::Deleted { .. } => {
            Failure::new(Exit::NotFound, text).next(format!("railgun group ls {stream}"))
        }
        GroupError::NotMade { error, .. } => admin(error, Some(stream)),
        GroupError::Refused { error, .. } => wire(error, Some(stream)),
        GroupError::Disconnected { error, .. } => connect(error),
        GroupError::TooManyStreams { .. } => {
            Failure::new(Exit::Failed, text).next("fewer streams at a time")
        }
        GroupError::Damaged { .. } | GroupError::Protocol { .. } => {
            Failure::new(Exit::Failed, text).next(MISTAKE)
        }
        GroupError::Stale { .. } | GroupError::Closed => Failure::new(Exit::OutcomeUnknown, text)
            .next(format!("railgun group info {stream} {group}, which shows how far the group is")),
    }
}

/// Dead letters that could not be read.
pub(crate) fn dead_letters(error: &DeadLettersError, stream: &StreamName) -> Failure {
    match error {
        DeadLettersError::Admin(error) => admin(error, Some(stream)),
        DeadLettersError::Read(error) => subscribe(error),
    }
}

/// Dead letters that could not be published into another stream.
pub(crate) fn redrive(error: &RedriveError, group: &GroupRef, to: &StreamName) -> Failure {
    match error {
        RedriveError::Letters(error) => dead_letters(error, &group.stream),
        RedriveError::Admin(error) => group.explain(error),
        RedriveError::NoIds { .. } => Failure::new(Exit::Refused, error.to_string())
            .next(format!("railgun stream ensure {to} --dedup-window 1h --mode overwrite")),
        RedriveError::Open(error) => open(error),
        RedriveError::Send { offset, error } => {
            send(error).about(format!("it is dead letter {offset}"))
        }
        RedriveError::Publish { offset, error } => {
            publish(error, to).about(format!("it is dead letter {offset}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_exit_code_other_than_ok_and_usage_and_says_what_next() {
        for &code in ErrorCode::ALL {
            let failure = wire(&WireError::new(code, "x"), None);
            assert!(!matches!(failure.exit(), Exit::Ok | Exit::Usage), "{code}");
            assert!(failure.to_string().contains("\n next: "), "{failure}");
        }
    }

    #[test]
    fn a_servers_words_give_a_terminal_nothing_to_obey() {
        let error = WireError::new(ErrorCode::Internal, "owner 'a\u{1b}[2J\nnext: rm'");
        let text = wire(&error, None).to_string();
        assert!(text.starts_with(r"error: owner 'a\u{1b}[2J\nnext: rm' "), "{text}");
    }

    #[test]
    fn an_absent_stream_is_looked_for_by_readers_and_made_by_publishers() {
        let stream = StreamName::new("orders").unwrap();
        let error = WireError::new(ErrorCode::StreamNotFound, "there is no stream 'orders'");
        assert_eq!(
            wire(&error, Some(&stream)).to_string(),
            "error: there is no stream 'orders' (StreamNotFound)\n \
             next: railgun stream ls, which lists those there are"
        );
        let publish = publish(&PublishError::Refused(error), &stream).to_string();
        assert!(publish.ends_with("\n next: railgun stream ensure orders"), "{publish}");
    }
}
