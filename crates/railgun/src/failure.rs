//! What people are told when the cluster says no: one table from errors to exit codes and to the
//! command to try next.

use railgun_client::{
    AdminError, ConnectError, ErrorCode, OpenError, PublishError, SendError, StreamName,
    SubscribeError, WireCode, WireError,
};

use crate::exit::{Exit, Failure};

/// No connection.
pub(crate) fn connect(error: &ConnectError) -> Failure {
    use railgun_net::ConnectError as Net;
    let failure = Failure::new(Exit::CannotConnect, error.to_string());
    match error {
        ConnectError::InvalidServer { .. } => {
            Failure::new(Exit::Usage, error.to_string()).next("pass --server HOST:PORT")
        }
        ConnectError::Refused { error, .. } if error.code == ErrorCode::Unauthenticated => {
            Failure::new(Exit::Refused, failure_text(error))
                .next("pass --token, or set RAILGUN_TOKEN")
        }
        ConnectError::Transport(source) => match **source {
            Net::UntrustedCertificate { .. } | Net::Roots(_) => failure
                .next("pass --ca with the CA's PEM file, or select a context: railgun context ls"),
            Net::Timeout { .. } | Net::Refused { .. } | Net::Lost { .. } => {
                failure.next("railgun serve --dev, if no server runs there")
            }
            _ => failure.next("railgun context show"),
        },
        _ => failure.next("railgun context show"),
    }
}

fn failure_text(error: &WireError) -> String {
    error.to_string()
}

/// A refusal by the server, about a stream where there is one.
pub(crate) fn wire(error: &WireError, stream: Option<&StreamName>) -> Failure {
    let WireCode::Known(code) = error.code else {
        return Failure::new(Exit::Refused, failure_text(error));
    };
    let exit = match code {
        ErrorCode::StreamNotFound | ErrorCode::StreamDeleted => Exit::NotFound,
        ErrorCode::Unknown | ErrorCode::Timeout => Exit::OutcomeUnknown,
        ErrorCode::Internal | ErrorCode::ColdCorrupt | ErrorCode::ColdUnavailable => Exit::Failed,
        ErrorCode::GoingAway | ErrorCode::NotLeader | ErrorCode::Unavailable => Exit::CannotConnect,
        _ => Exit::Refused,
    };
    let failure = Failure::new(exit, failure_text(error));
    let name = stream.map_or("STREAM", StreamName::as_str);
    let next = match code {
        ErrorCode::StreamNotFound | ErrorCode::StreamDeleted => {
            format!("railgun stream ensure {name}")
        }
        ErrorCode::StreamStarting
        | ErrorCode::Unavailable
        | ErrorCode::NotLeader
        | ErrorCode::GoingAway
        | ErrorCode::QuotaExceeded
        | ErrorCode::ColdUnavailable => "try again in a moment".to_owned(),
        ErrorCode::HotTierFull => {
            format!("railgun stream info {name}, which shows why the bucket takes no data")
        }
        ErrorCode::MessageTooLarge => {
            format!("railgun stream ensure {name} --mode overwrite --max-message-bytes N")
        }
        ErrorCode::OffsetOutOfRange => format!("railgun stream info {name}"),
        ErrorCode::RevisionConflict => format!("railgun stream info {name}"),
        ErrorCode::DestructiveChange => "the same with --allow-destructive, if it may".to_owned(),
        ErrorCode::Unauthenticated | ErrorCode::Unauthorized => {
            "pass another --token, or select another context: railgun context ls".to_owned()
        }
        ErrorCode::Timeout => "the same again: it goes on in the background".to_owned(),
        ErrorCode::Internal => "look into the server's log".to_owned(),
        _ => return failure,
    };
    failure.next(next)
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
        AdminError::Protocol { .. } => Failure::new(Exit::Failed, text),
    }
}

/// A publisher that did not open.
pub(crate) fn open(error: &OpenError) -> Failure {
    match error {
        OpenError::Refused { stream, error } => wire(error, Some(stream)),
        OpenError::Unreachable { .. } => Failure::new(Exit::CannotConnect, error.to_string()),
    }
}

/// A message that was not published.
pub(crate) fn publish(error: &PublishError, stream: &StreamName) -> Failure {
    match error {
        PublishError::Refused(error) => wire(error, Some(stream)),
        PublishError::OrderBroken => Failure::new(Exit::Refused, error.to_string()),
        PublishError::NotSent { .. } => Failure::new(Exit::CannotConnect, error.to_string()),
        PublishError::Unknown { .. } => Failure::new(Exit::OutcomeUnknown, error.to_string()).next(
            format!("railgun sub {stream} --from last:1 --until-end, to see whether it is there"),
        ),
    }
}

/// A message that was not taken.
pub(crate) fn send(error: &SendError) -> Failure {
    match error {
        SendError::StreamGone { stream, error } => wire(error, Some(stream)),
        SendError::Closed => Failure::new(Exit::CannotConnect, error.to_string()),
        _ => Failure::new(Exit::Refused, error.to_string()),
    }
}

/// A subscription that ended before its end.
pub(crate) fn subscribe(error: &SubscribeError) -> Failure {
    match error {
        SubscribeError::Refused { stream, error } => wire(error, Some(stream)),
        SubscribeError::Disconnected { error, .. } => connect(error),
        SubscribeError::Damaged { .. } | SubscribeError::Protocol { .. } => {
            Failure::new(Exit::Failed, error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_exit_code_other_than_ok_and_usage() {
        for &code in ErrorCode::ALL {
            let exit = wire(&WireError::new(code, "x"), None).exit();
            assert!(!matches!(exit, Exit::Ok | Exit::Usage), "{code}");
        }
    }

    #[test]
    fn an_absent_stream_names_the_command_that_makes_it() {
        let stream = StreamName::new("orders").unwrap();
        let error = WireError::new(ErrorCode::StreamNotFound, "there is no stream 'orders'");
        assert_eq!(
            wire(&error, Some(&stream)).to_string(),
            "error: there is no stream 'orders' (StreamNotFound)\n next: railgun stream ensure orders"
        );
    }
}
