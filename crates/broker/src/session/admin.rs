//! A requester's QUIC stream: administrative calls, one after another. What can only be answered where a
//! stream's shard is goes there.

mod groups;

use std::time::Duration;

use railgun_proto::convert::{EnsureRequest, Uid};
use railgun_proto::{FrameKind, WireError, v1};
use railgun_types::{ErrorCode, Offset, StreamName, StreamUid};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{QuicStream, STOPPING, SessionContext, SessionEnd, carried, only_joins};
use crate::auth::Rights;
use crate::describe;
use crate::joining;
use crate::streams::{Place, Resolved, Streams};

/// Rows of one page of a list.
const LIST_MAX: usize = 1_000;
/// How long a seal may take unless the client says otherwise, and at the most.
const SEAL_TIMEOUT: Duration = Duration::from_secs(60);
const SEAL_TIMEOUT_MAX: Duration = Duration::from_secs(3_600);
/// How long another node may take for an answer, besides the time that the client gives it.
const CARRIED_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn serve(
    stream: &mut QuicStream,
    first: v1::AdminRequest,
) -> Result<(), SessionEnd> {
    let stopping = stream.stopping.clone();
    let mut request = first;
    loop {
        let id = request.id;
        if let Rights::Join(token) = stream.rights {
            // Its own one: it must not try others out.
            let is_its_own = matches!(
                &request.call,
                Some(v1::admin_request::Call::SignNode(sign)) if joining::hash(&sign.secret) == token
            );
            if !is_its_own {
                return Err(only_joins());
            }
        }
        let answer = match request.call {
            Some(call) if stream.is_carried => {
                answer_here(&stream.context.streams, call, &stopping).await
            }
            Some(call) if stream.rights != Rights::Operator && is_of_operators(&call) => {
                Err(of_operators())
            }
            Some(call) => answer(&stream.context, call, &stream.tasks, &stopping).await,
            None => Err(WireError::new(ErrorCode::ProtocolViolation, "the request has no call")),
        };
        let answer = answer.unwrap_or_else(|error| v1::admin_response::Answer::Error(error.into()));
        stream.answer(&v1::AdminResponse { id, answer: Some(answer) }).await?;
        let next = tokio::select! {
            biased;
            () = stopping.cancelled() => return Ok(()),
            next = stream.reader.next() => next?,
        };
        request = match next {
            Some(frame) if frame.kind() == FrameKind::AdminRequest => stream.open(frame)?,
            Some(frame) => return Err(SessionEnd::unexpected(frame.kind())),
            None => return Ok(()),
        };
    }
}

/// Whether a call changes which nodes there are and who leads, which is no matter of clients.
fn is_of_operators(call: &v1::admin_request::Call) -> bool {
    use v1::admin_request::Call;
    match call {
        Call::SetNodeState(_) | Call::TransferLeader(_) | Call::MakeJoinToken(_) => true,
        // The join token in it is the right to it.
        Call::SignNode(_) => false,
        Call::EnsureStream(_)
        | Call::ListStreams(_)
        | Call::DescribeStream(_)
        | Call::DeleteStream(_)
        | Call::SealStream(_)
        | Call::ListSegments(_)
        | Call::DescribeCluster(_)
        | Call::EnsureGroup(_)
        | Call::ListGroups(_)
        | Call::DescribeGroup(_)
        | Call::DeleteGroup(_)
        | Call::ControlGroup(_) => false,
    }
}

fn of_operators() -> WireError {
    let message = "the token is a client's, and this changes the cluster: use a token that is in \
                   `auth.admin_tokens` of this server";
    WireError::new(ErrorCode::Unauthorized, message)
}

async fn answer(
    context: &SessionContext,
    call: v1::admin_request::Call,
    tasks: &TaskTracker,
    stopping: &CancellationToken,
) -> Result<v1::admin_response::Answer, WireError> {
    use v1::admin_request::Call;
    use v1::admin_response::Answer;
    let SessionContext { streams, cluster, .. } = context;
    Ok(match call {
        Call::EnsureStream(ensure) => {
            let (streams, request) = (streams.clone(), EnsureRequest::try_from(ensure)?);
            let ensured = to_the_end(tasks, async move { streams.ensure(request).await }).await?;
            Answer::StreamEnsured((&ensured).into())
        }
        Call::ListStreams(list) => Answer::StreamList(list_streams(streams, list).await?),
        Call::DescribeStream(describe) => {
            let found = streams.resolve_current(&any_name(&describe.name)?).await?;
            Answer::StreamDescription(description(&found))
        }
        Call::DeleteStream(delete) => {
            let (streams, name) = (streams.clone(), name(&delete.name)?);
            let meant = StreamUid::from_wire_if_any("stream_uid", &delete.stream_uid)?;
            // Not for a client that is gone meanwhile: the name may be another stream's by then.
            let entry = streams.to_delete(&name, meant).await?;
            let deleting = async move { streams.delete_entry(&name, entry).await };
            let uid = to_the_end(tasks, deleting).await?;
            Answer::StreamDeleted(v1::StreamDeleted { stream_uid: uid.to_wire() })
        }
        Call::SealStream(_) | Call::ListSegments(_) => {
            let (asked, time) = match &call {
                Call::SealStream(seal) => (&seal.name, seal_timeout(seal) + CARRIED_TIMEOUT),
                Call::ListSegments(list) => (&list.name, CARRIED_TIMEOUT),
                _ => unreachable!("it is one of these"),
            };
            match streams.resolve(&any_name(asked)?).await?.shard {
                Place::Here(_) => answer_here(streams, call, stopping).await?,
                Place::Elsewhere(shard) => {
                    let answered = carried::request(streams.routing(), shard, call, time);
                    tokio::select! {
                        biased;
                        () = stopping.cancelled() => {
                            return Err(WireError::new(ErrorCode::GoingAway, STOPPING));
                        }
                        answered = answered => answered?,
                    }
                }
            }
        }
        Call::EnsureGroup(_)
        | Call::ListGroups(_)
        | Call::DescribeGroup(_)
        | Call::DeleteGroup(_)
        | Call::ControlGroup(_) => {
            let asked = groups::of_leader(streams, call);
            tokio::select! {
                biased;
                () = stopping.cancelled() => {
                    return Err(WireError::new(ErrorCode::GoingAway, STOPPING));
                }
                answered = asked => answered?,
            }
        }
        Call::DescribeCluster(_) => Answer::ClusterDescription(cluster.describe().await?),
        Call::SetNodeState(set) => {
            let cluster = cluster.clone();
            let set = to_the_end(tasks, async move { cluster.set_node_state(set).await }).await?;
            Answer::NodeStateSet(set)
        }
        Call::TransferLeader(transfer) => {
            let cluster = cluster.clone();
            let moved = async move { cluster.transfer_leader(transfer).await };
            Answer::LeaderTransferred(to_the_end(tasks, moved).await?)
        }
        Call::MakeJoinToken(make) => Answer::JoinToken(cluster.make_join_token(make).await?),
        Call::SignNode(sign) => Answer::NodeSigned(cluster.sign_node(sign).await?),
    })
}

/// How long a seal may take.
fn seal_timeout(seal: &v1::SealStream) -> Duration {
    match seal.timeout_ms {
        0 => SEAL_TIMEOUT,
        ms => Duration::from_millis(ms.into()).min(SEAL_TIMEOUT_MAX),
    }
}

/// Answers what is about one stream whose shard is on this node.
async fn answer_here(
    streams: &Streams,
    call: v1::admin_request::Call,
    stopping: &CancellationToken,
) -> Result<v1::admin_response::Answer, WireError> {
    use v1::admin_request::Call;
    use v1::admin_response::Answer;
    Ok(match call {
        Call::SealStream(seal) => {
            let timeout = seal_timeout(&seal);
            let name = any_name(&seal.name)?;
            let sealed = streams.seal(&name, seal.retire);
            let sealed = tokio::select! {
                biased;
                () = stopping.cancelled() => {
                    return Err(WireError::new(ErrorCode::GoingAway, STOPPING));
                }
                sealed = tokio::time::timeout(timeout, sealed) => sealed,
            };
            let sealed = sealed.map_err(|_| {
                let message = format!(
                    "stream '{name}' is not in the bucket after {timeout:?}; the upload goes on"
                );
                WireError::new(ErrorCode::Timeout, message)
            })??;
            Answer::StreamSealed(v1::StreamSealed {
                cold_end: sealed.cold_end.0,
                files_retired: sealed.files_retired,
            })
        }
        Call::ListSegments(list) => Answer::SegmentList(list_segments(streams, &list).await?),
        call if groups::stream_of(&call).is_some() => groups::answer(streams, call).await?,
        _ => {
            let message = "any node answers this: it is for no other";
            return Err(WireError::new(ErrorCode::ProtocolViolation, message));
        }
    })
}

/// Makes a change of several steps whether or not the client stays for it: half of one would block
/// the stream's name.
async fn to_the_end<T: Send + 'static>(
    tasks: &TaskTracker,
    change: impl Future<Output = Result<T, WireError>> + Send + 'static,
) -> Result<T, WireError> {
    tasks.spawn(change).await.unwrap_or_else(|failed| {
        let message = format!("the change was not finished: {failed}");
        Err(WireError::new(ErrorCode::OutcomeUnknown, message))
    })
}

/// Of a stream that users have made, or of a group's dead letters.
fn any_name(name: &str) -> Result<StreamName, WireError> {
    StreamName::parse_any(name)
        .map_err(|error| WireError::new(ErrorCode::InvalidName, error.to_string()))
}

fn name(name: &str) -> Result<StreamName, WireError> {
    StreamName::new(name).map_err(|error| WireError::new(ErrorCode::InvalidName, error.to_string()))
}

/// How many rows to answer with; 0 leaves it to the server.
fn page_limit(asked: u32) -> usize {
    match asked as usize {
        0 => LIST_MAX,
        limit => limit.min(LIST_MAX),
    }
}

async fn list_streams(
    streams: &Streams,
    list: v1::ListStreams,
) -> Result<v1::StreamList, WireError> {
    let limit = page_limit(list.limit);
    let after = match list.after.as_str() {
        "" => None,
        after => Some(name(after)?),
    };
    let (found, more) = streams.list(&list.prefix, after, limit).await?;
    Ok(v1::StreamList { streams: found.iter().map(description).collect(), more })
}

fn description(found: &Resolved) -> v1::StreamDescription {
    describe::description(found.stream, found.shard.id(), &found.facts)
}

async fn list_segments(
    streams: &Streams,
    list: &v1::ListSegments,
) -> Result<v1::SegmentList, WireError> {
    let found = streams.resolve(&any_name(&list.name)?).await?;
    let limit = page_limit(list.limit);
    let page = streams.segments(&found, Offset(list.from_offset), limit).await?;
    let segment = |facts: &crate::shard::SegmentFacts| {
        let (range, object) = (&facts.part.range, &facts.part.object);
        v1::Segment {
            base_offset: range.base.0,
            count: range.count,
            min_ts_us: range.min_ts.0,
            max_ts_us: range.max_ts.0,
            record_bytes: range.record_bytes,
            key: object.key.to_string(),
            object_bytes: object.bytes,
            bundle: facts.bundle,
        }
    };
    Ok(v1::SegmentList {
        stream_uid: found.stream.to_wire(),
        segments: page.segments.iter().map(segment).collect(),
        bucket: streams.bucket_url(),
        more: page.more,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_change_goes_on_without_its_client() {
        let (tasks, (done, made)) = (TaskTracker::new(), tokio::sync::oneshot::channel());
        let change = async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert!(done.send("made").is_ok());
            Ok(())
        };
        let client = tokio::time::timeout(Duration::from_secs(1), to_the_end(&tasks, change));
        assert!(client.await.is_err(), "the client has left");
        assert_eq!(made.await, Ok("made"));
        tasks.close();
        tasks.wait().await;
    }
}
