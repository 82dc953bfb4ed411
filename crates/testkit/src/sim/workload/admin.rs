//! Somebody who looks after the streams that stay: describes, lists, ensures, seals.

use std::time::Duration;

use railgun_client::{AdminError, EnsureOutcome, ErrorCode, WireCode};

use super::Actor;

pub(super) async fn run(actor: Actor) {
    while actor.goes_on() {
        let Some(client) = actor.connect().await else { return };
        let admin = client.admin();
        for _ in 0..actor.draw(3..10) {
            if !actor.goes_on() {
                return;
            }
            let (name, stream) = actor.stream();
            let acked = actor.history.acked_end(stream);
            let result = match actor.draw(0..10) {
                0..3 => admin.describe_stream(&name).await.map(|told| {
                    if told.uid != stream {
                        let how = format_args!("{name} is {}, not {stream}", told.uid);
                        actor.history.violated("identity", how);
                    }
                    let next = told.next_offset;
                    if next < acked {
                        let how = format_args!(
                            "{name} is told to end at {next}, {acked} was acked before"
                        );
                        actor.history.violated("CL-4", how);
                    }
                }),
                3 => admin.list_all_streams("orders.").await.map(|listed| {
                    if listed.len() != actor.streams.len() {
                        let how = format_args!("{} streams are listed", listed.len());
                        actor.history.violated("identity", how);
                    }
                }),
                4 => admin.create_if_absent(&name).await.map(|ensured| {
                    if ensured.outcome != EnsureOutcome::Unchanged {
                        let how = format_args!("{name} was {:?}", ensured.outcome);
                        actor.history.violated("EN-2", how);
                    }
                }),
                5 => admin.list_segments(&name).await.map(drop),
                _ => {
                    let retire = actor.percent(50);
                    let timeout = Duration::from_secs(actor.draw(1..30));
                    let sealed = admin.seal_stream(&name, retire, timeout).await;
                    if let Ok(sealed) = &sealed {
                        actor.trace.count(|counts| counts.sealed += 1);
                        actor.note(format_args!("sealed {name}, retire {retire}: {sealed:?}"));
                        check_sealed(&actor, stream, acked).await;
                    }
                    sealed.map(drop)
                }
            };
            if let Err(error) = result {
                judge(&actor, &error);
            }
            actor.pause(3_000).await;
        }
    }
}

/// What was acked before the seal is in the bucket behind a manifest now.
async fn check_sealed(
    actor: &Actor,
    stream: railgun_client::StreamUid,
    acked: railgun_client::Offset,
) {
    if let Some(end) = actor.checker.cold_end(stream).await
        && end < acked
    {
        let how = format_args!("{stream} was sealed to {acked}, the bucket has it to {end}");
        actor.history.violated("seal", how);
    }
}

/// Some failures have no excuse here.
pub(super) fn judge(actor: &Actor, error: &AdminError) {
    actor.note(format_args!("a call failed: {error}"));
    let excused = match error {
        AdminError::Refused(error) => {
            let waits = [
                ErrorCode::Timeout,
                ErrorCode::HotTierFull,
                ErrorCode::GoingAway,
                ErrorCode::OutcomeUnknown,
                ErrorCode::StreamStarting,
            ];
            waits.map(WireCode::Known).contains(&error.code) || actor.history.excuses(error.code)
        }
        AdminError::Protocol { .. } => false,
        AdminError::Connection(_) | AdminError::Lost { .. } | AdminError::Unknown { .. } => {
            actor.history.excuses_silence()
        }
    };
    if !excused {
        // Nobody asks for a stream that is not there: who does not know it reads what is stale.
        let is_stale = matches!(
            error,
            AdminError::Refused(error)
                if error.code == ErrorCode::StreamDeleted || error.code == ErrorCode::StreamNotFound
        );
        let rule = if is_stale { "CL-4" } else { "admin" };
        actor.history.violated(rule, format_args!("{error}"));
    }
}
