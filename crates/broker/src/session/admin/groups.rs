//! Calls about consumer groups, which the leader of the stream's shard answers.

use railgun_core::group::Paused;
use railgun_proto::convert::{EnsureGroupRequest, Uid};
use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::admin_response::Answer;
use railgun_proto::v1::control_group::Action;
use railgun_proto::{WireError, v1};
use railgun_types::limits::REDRIVEN_PER_CHANGE;
use railgun_types::{
    ErrorCode, GroupId, GroupName, Offset, OffsetRange, StartPosition, StreamName, StreamUid,
};

use super::{CARRIED_TIMEOUT, carried, name, page_limit};
use crate::groups::{GroupAction, Groups};
use crate::routing::Leader;
use crate::shard::GroupFacts;
use crate::streams::Streams;

/// The stream whose groups the call is about; `None`: it is about none.
pub(super) fn stream_of(call: &Call) -> Option<&str> {
    match call {
        Call::EnsureGroup(ensure) => Some(&ensure.stream),
        Call::ListGroups(list) => Some(&list.stream),
        Call::DescribeGroup(describe) => Some(&describe.stream),
        Call::DeleteGroup(delete) => Some(&delete.stream),
        Call::ControlGroup(control) => Some(&control.stream),
        _ => None,
    }
}

/// Has the call answered where the shard is led.
pub(super) async fn of_leader(streams: &Streams, call: Call) -> Result<Answer, WireError> {
    let stream = name(stream_of(&call).unwrap_or_default())?;
    let shard = streams.resolve(&stream).await?.shard.id();
    let routing = streams.routing();
    if matches!(routing.leader(shard, 0), Leader::Here(_)) {
        return answer(streams, call).await;
    }
    match carried::request_of_leader(routing, shard, call.clone(), CARRIED_TIMEOUT).await? {
        Some(answer) => Ok(answer),
        None => answer(streams, call).await,
    }
}

/// Answers where the shard is.
pub(super) async fn answer(streams: &Streams, call: Call) -> Result<Answer, WireError> {
    let stream = name(stream_of(&call).unwrap_or_default())?;
    let groups = Groups::of(streams, &stream).await?;
    Ok(match call {
        Call::EnsureGroup(ensure) => {
            let ensured = groups.ensure(EnsureGroupRequest::try_from(ensure)?).await?;
            Answer::GroupEnsured((&ensured).into())
        }
        Call::ListGroups(list) => {
            let after = match list.after.as_str() {
                "" => None,
                after => Some(group_name(after)?),
            };
            let page = groups.list(after, page_limit(list.limit)).await?;
            let described = page.groups.iter().map(|facts| description(&stream, facts));
            Answer::GroupList(v1::GroupList { groups: described.collect(), more: page.more })
        }
        Call::DescribeGroup(describe) => {
            let facts = groups.describe(&group_name(&describe.group)?).await?;
            Answer::GroupDescription(description(&stream, &facts))
        }
        Call::DeleteGroup(delete) => {
            let was_there = groups.delete(group_name(&delete.group)?).await?;
            Answer::GroupDeleted(v1::GroupDeleted { was_there })
        }
        Call::ControlGroup(control) => {
            let group = group_name(&control.group)?;
            groups.check(StreamUid::from_wire_if_any("stream_uid", &control.stream_uid)?)?;
            let id = (control.group_id > 0).then_some(GroupId(control.group_id));
            Answer::GroupControlled(controlled(&groups, &group, id, control.action).await?)
        }
        _ => return Err(WireError::new(ErrorCode::ProtocolViolation, "it is about no group")),
    })
}

fn group_name(name: &str) -> Result<GroupName, WireError> {
    GroupName::new(name).map_err(|error| WireError::new(ErrorCode::InvalidName, error.to_string()))
}

async fn controlled(
    groups: &Groups,
    group: &GroupName,
    id: Option<GroupId>,
    action: Option<Action>,
) -> Result<v1::GroupControlled, WireError> {
    let action = match action {
        None => {
            let message = "what is to be done with the group is missing";
            return Err(WireError::new(ErrorCode::ProtocolViolation, message));
        }
        Some(Action::ListDead(list)) => {
            let page = groups.dead(group, id, Offset(list.from)).await?;
            let count = |ranges: &[OffsetRange]| ranges.iter().map(OffsetRange::len).sum::<u64>();
            return Ok(v1::GroupControlled {
                messages: count(&page.dead) + count(&page.parked),
                floor: 0,
                dead: page.dead.into_iter().map(Into::into).collect(),
                parked: page.parked.into_iter().map(Into::into).collect(),
                more: page.more,
            });
        }
        Some(Action::Reset(reset)) => GroupAction::Reset {
            start: reset.start.map_or(StartPosition::Earliest, Into::into),
            force: reset.force,
        },
        Some(Action::Pause(_)) => GroupAction::Pause,
        Some(Action::Resume(_)) => GroupAction::Resume,
        Some(Action::HandOver(_)) => GroupAction::HandOver,
        Some(Action::Redrive(offsets)) => GroupAction::Redrive(spans(&offsets)?),
        Some(Action::Discard(offsets)) => GroupAction::Discard(spans(&offsets)?),
    };
    let done = groups.control(group, id, action).await?;
    Ok(v1::GroupControlled {
        messages: done.messages,
        floor: done.floor.0,
        ..v1::GroupControlled::default()
    })
}

/// Ascending and disjoint, as the log has them.
fn spans(spans: &v1::OffsetSpans) -> Result<Vec<OffsetRange>, WireError> {
    let ranges: Result<Vec<_>, _> = spans.spans.iter().map(OffsetRange::try_from).collect();
    let mut ranges = ranges?;
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let joins = next.start <= before.end;
        if joins {
            before.end = before.end.max(next.end);
        }
        joins
    });
    if ranges.len() as u64 > REDRIVEN_PER_CHANGE {
        let message = format!("more than {REDRIVEN_PER_CHANGE} runs of messages at a time");
        return Err(WireError::new(ErrorCode::QuotaExceeded, message));
    }
    Ok(ranges)
}

fn description(stream: &StreamName, facts: &GroupFacts) -> v1::GroupDescription {
    let paused = facts.paused.map_or(v1::GroupPause::Unknown, |paused| match paused {
        Paused::Operator => v1::GroupPause::GroupPausedByOperator,
        Paused::Breaker => v1::GroupPause::GroupPausedByBreaker,
    });
    v1::GroupDescription {
        group: facts.name.to_string(),
        group_id: facts.id.0,
        spec: Some((&facts.spec).into()),
        revision: facts.revision,
        created_us: facts.created.0,
        floor: facts.floor.0,
        next_offset: facts.next.0,
        lag: facts.lag,
        lag_since_us: facts.lag_since.map_or(0, |ts| ts.0),
        highest_acked: facts.highest_acked.map(|offset| offset.0),
        delayed: facts.unsettled.delayed,
        dying: facts.unsettled.dying,
        parked: facts.unsettled.parked,
        dead: facts.dead,
        epoch: facts.epoch,
        paused: paused.into(),
        companion: StreamName::companion(stream, &facts.name).to_string(),
        dead_letters: facts.dead_letters,
        members: facts.figures.members,
        leased: facts.figures.leased,
        lag_bytes: facts.lag_bytes,
        stalled: facts.figures.is_stalled,
    }
}
