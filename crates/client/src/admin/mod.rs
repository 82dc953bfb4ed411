//! Looking after streams and the cluster. Each call takes one QUIC stream, at most 16 at a time.

mod cluster;
mod error;
mod groups;
mod types;

use std::sync::Arc;
use std::time::Duration;

use railgun_proto::convert::{EnsureRequest, Ensured, Uid};
use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::admin_response::Answer;
use railgun_proto::{WireError, v1};
use railgun_types::limits::ADMIN_STREAMS;
use railgun_types::{
    EnsureMode, ErrorCode, Offset, RequestId, Retry, SpecPatch, StreamName, StreamUid,
};
use tokio::time::Instant;

pub use cluster::{
    ClusterStatus, DrainProgress, InvalidJoinToken, JoinToken, MadeJoinToken, NodeState,
    NodeStatus, ReplicaStatus, ShardStatus, SignedNode,
};
pub use error::AdminError;
pub(crate) use groups::Which;
pub use groups::{Controlled, DeadOffsets, GroupDescription};
pub use types::{
    EnsureOptions, Sealed, Segment, SegmentList, SegmentPage, StreamDescription, StreamPage,
};

use crate::backoff::Backoff;
use crate::client::ClientInner;
use crate::connect_error::{ConnectError, StreamLost};
use crate::session::expect;

/// Time that a server gets to end a stream whose call it has answered.
const END_TIMEOUT: Duration = Duration::from_secs(1);
/// Time that a server gets to answer beyond what a seal was given.
const SEAL_SLACK: Duration = Duration::from_secs(5);

/// Administrative calls. What the server calls temporary, and a lost connection or an unknown outcome
/// where repeating does no harm, is tried again, on another server where there is one, until
/// `call_timeout` of [`ClientOptions`](crate::ClientOptions).
///
/// Dropping a call's future leaves open whether the server does it.
#[derive(Clone, Debug)]
pub struct Admin {
    client: Arc<ClientInner>,
}

impl Admin {
    pub(crate) fn new(client: Arc<ClientInner>) -> Self {
        Self { client }
    }

    /// Makes a stream as wished, or says how it differs (SEMANTICS §8). Safe to repeat, but with
    /// `if_revision`; what is repeated here, because an answer was lost, is told to the server as a
    /// repetition, and is not in its own way. Only the fields present in `patch` are looked at.
    ///
    /// # Errors
    /// [`AdminError`]; with `if_revision`, [`AdminError::Unknown`] where an answer was lost and none came
    /// in time that says how it ended, or none can: the stream was changed since. A difference is no
    /// error: it is in the outcome.
    pub async fn ensure_stream(
        &self,
        stream: &StreamName,
        patch: SpecPatch,
        options: EnsureOptions,
    ) -> Result<Ensured, AdminError> {
        let request = EnsureRequest {
            name: stream.clone(),
            patch,
            mode: options.mode,
            if_revision: options.if_revision,
            allow_destructive: options.allow_destructive,
            request: Some(RequestId(self.client.randomness.identifier())),
        };
        let call = Call::EnsureStream((&request).into());
        let repeat = if options.if_revision.is_some() { Repeat::Known } else { Repeat::Safe };
        match self.call("ensure", call, repeat, self.call_timeout()).await? {
            Answer::StreamEnsured(ensured) => {
                Ensured::try_from(ensured).map_err(AdminError::protocol)
            }
            other => Err(unexpected("ensure", &other)),
        }
    }

    /// Makes a stream with default settings if there is none of this name.
    ///
    /// # Errors
    /// As [`Self::ensure_stream`].
    pub async fn create_if_absent(&self, stream: &StreamName) -> Result<Ensured, AdminError> {
        let options = EnsureOptions { mode: EnsureMode::Warn, ..EnsureOptions::default() };
        self.ensure_stream(stream, SpecPatch::default(), options).await
    }

    /// Streams in order of their names: those that begin with `prefix` and come after `after`.
    /// The server decides how many there are in one answer.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn list_streams(
        &self,
        prefix: &str,
        after: Option<&StreamName>,
    ) -> Result<StreamPage, AdminError> {
        let call = Call::ListStreams(v1::ListStreams {
            prefix: prefix.to_owned(),
            after: after.map(ToString::to_string).unwrap_or_default(),
            limit: 0,
        });
        match self.call("list", call, Repeat::Reads, self.call_timeout()).await? {
            Answer::StreamList(list) => StreamPage::try_from(list),
            other => Err(unexpected("list", &other)),
        }
    }

    /// All streams whose names begin with `prefix`.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn list_all_streams(
        &self,
        prefix: &str,
    ) -> Result<Vec<StreamDescription>, AdminError> {
        let mut streams: Vec<StreamDescription> = Vec::new();
        loop {
            let after = streams.last().map(|last| last.name.clone());
            let page = self.list_streams(prefix, after.as_ref()).await?;
            // A server that says "more" and sends nothing would be asked for ever.
            let more = page.more && !page.streams.is_empty();
            streams.extend(page.streams);
            if !more {
                return Ok(streams);
            }
        }
    }

    /// What a stream is and holds.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn describe_stream(
        &self,
        stream: &StreamName,
    ) -> Result<StreamDescription, AdminError> {
        self.describe_within(stream, self.call_timeout()).await
    }

    async fn describe_within(
        &self,
        stream: &StreamName,
        timeout: Duration,
    ) -> Result<StreamDescription, AdminError> {
        let call = Call::DescribeStream(v1::DescribeStream { name: stream.to_string() });
        match self.call("describe", call, Repeat::Reads, timeout).await? {
            Answer::StreamDescription(description) => StreamDescription::try_from(description),
            other => Err(unexpected("describe", &other)),
        }
    }

    /// Deletes a stream and frees its name. Its records cannot be read through the server any more.
    /// Where the answer is lost it is looked whether the stream is still the same, and asked again if so.
    ///
    /// # Errors
    /// [`AdminError`]; [`AdminError::Unknown`] where the answer was lost and the stream could not be
    /// looked at. `ErrorCode::HotTierFull` where the server has no room for it: nothing is changed.
    /// `ErrorCode::Timeout` where it had room for the beginning only: nobody finds the stream any
    /// more, its name is not free yet, and the rest follows by itself.
    pub async fn delete_stream(&self, stream: &StreamName) -> Result<StreamUid, AdminError> {
        let deadline = Instant::now() + self.call_timeout();
        let left = || deadline.saturating_duration_since(Instant::now());
        // Repeated blindly after a lost answer it would say "not found", or hit a new stream of that
        // name. One that cannot be looked at may still be deleted.
        let before = self.look_at(stream, left() / 2).await.ok().flatten();
        let (mut backoff, mut is_repeat) = (Backoff::of_requests(), false);
        loop {
            let lost = match (self.delete_once(stream, before, left()).await, before) {
                (Err(lost @ AdminError::Unknown { .. }), _) => lost,
                // Meanwhile the first one was done.
                (Err(AdminError::Refused(error)), Some(uid)) if is_repeat && is_gone(&error) => {
                    return Ok(uid);
                }
                (ended, _) => return ended,
            };
            let Some(uid) = before else { return Err(lost) };
            is_repeat = true;
            match self.look_at(stream, left()).await {
                Ok(Some(now)) if now == uid => {}
                Ok(_) => return Ok(uid),
                Err(_) => return Err(lost),
            }
            tracing::debug!(%stream, %lost, "a deletion is repeated");
            let wait = backoff.next(self.client.randomness.next());
            if wait >= left() {
                return Err(lost);
            }
            tokio::time::sleep(wait).await;
        }
    }

    async fn delete_once(
        &self,
        stream: &StreamName,
        meant: Option<StreamUid>,
        timeout: Duration,
    ) -> Result<StreamUid, AdminError> {
        let stream_uid = meant.map(|uid| uid.to_wire()).unwrap_or_default();
        let call = Call::DeleteStream(v1::DeleteStream { name: stream.to_string(), stream_uid });
        match self.call("delete", call, Repeat::IfUnsent, timeout).await? {
            Answer::StreamDeleted(deleted) => {
                StreamUid::from_wire("stream_uid", &deleted.stream_uid)
                    .map_err(AdminError::protocol)
            }
            other => Err(unexpected("delete", &other)),
        }
    }

    /// Which stream has this name, if one has.
    async fn look_at(
        &self,
        stream: &StreamName,
        timeout: Duration,
    ) -> Result<Option<StreamUid>, AdminError> {
        match self.describe_within(stream, timeout).await {
            Ok(description) => Ok(Some(description.uid)),
            Err(AdminError::Refused(error)) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Brings everything published so far into object storage; returns when it is there. With
    /// `retire`, also frees the local log up to there.
    ///
    /// # Errors
    /// [`AdminError`]; `ErrorCode::Timeout` where it takes longer than `timeout`: it goes on.
    pub async fn seal_stream(
        &self,
        stream: &StreamName,
        retire: bool,
        timeout: Duration,
    ) -> Result<Sealed, AdminError> {
        // To the server, 0 is no timeout of ours but its own.
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1);
        let call =
            Call::SealStream(v1::SealStream { name: stream.to_string(), retire, timeout_ms });
        match self.call("seal", call, Repeat::Safe, timeout.saturating_add(SEAL_SLACK)).await? {
            Answer::StreamSealed(sealed) => Ok(sealed.into()),
            other => Err(unexpected("seal", &other)),
        }
    }

    /// Up to `limit` of the objects in the bucket that hold a stream's records, beginning with the
    /// one that holds `from`, or the first one behind it. With 0 the server decides how many there
    /// are in one answer, which it also bounds.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn list_segments_from(
        &self,
        stream: &StreamName,
        from: Offset,
        limit: u32,
    ) -> Result<SegmentPage, AdminError> {
        let (name, from_offset) = (stream.to_string(), from.0);
        let call = Call::ListSegments(v1::ListSegments { name, from_offset, limit });
        match self.call("list segments", call, Repeat::Reads, self.call_timeout()).await? {
            Answer::SegmentList(list) => SegmentPage::try_from(list),
            other => Err(unexpected("list segments", &other)),
        }
    }

    /// All objects in the bucket that hold a stream's records.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn list_segments(&self, stream: &StreamName) -> Result<SegmentList, AdminError> {
        let SegmentPage { mut list, mut more } =
            self.list_segments_from(stream, Offset(0), 0).await?;
        while let Some(last) = list.segments.last().filter(|_| more) {
            let from = last.last_offset().plus(1);
            let page = self.list_segments_from(stream, from, 0).await?;
            if page.list.stream_uid != list.stream_uid {
                return Err(AdminError::Protocol {
                    reason: format!("stream '{stream}' became another while it was listed"),
                });
            }
            // A server that says "more" and sends nothing would be asked for ever.
            more = page.more && !page.list.segments.is_empty();
            list.segments.extend(page.list.segments);
        }
        Ok(list)
    }

    fn call_timeout(&self) -> Duration {
        self.client.options.call_timeout
    }

    /// Asks until there is an answer, within `timeout`.
    async fn call(
        &self,
        name: &'static str,
        call: Call,
        repeat: Repeat,
        timeout: Duration,
    ) -> Result<Answer, AdminError> {
        let deadline = Instant::now() + timeout;
        let mut backoff = Backoff::of_requests();
        let mut after = None;
        // Why it is not known whether an earlier attempt was all there is to do.
        let mut lost: Option<String> = None;
        // What the last attempt that was answered was told.
        let mut said: Option<WireError> = None;
        let permit = tokio::time::timeout_at(deadline, self.client.calls.acquire()).await;
        let _permit = match permit {
            Ok(permit) => permit.map_err(|_| ConnectError::Closed)?,
            Err(_) => {
                let reason = format!("{ADMIN_STREAMS} other calls took all of {timeout:?}");
                return Err(AdminError::Lost { call: name, reason });
            }
        };
        loop {
            let is_open = |lost: &Option<String>| {
                let reason = lost.clone().filter(|_| repeat == Repeat::Known)?;
                Some(AdminError::Unknown { call: name, reason })
            };
            let session = self.client.link.session(after, deadline).await;
            let session = session.map_err(|error| is_open(&lost).unwrap_or(error.into()))?;
            let request = v1::AdminRequest { id: 1, call: Some(call.clone()) };
            let mut sent = false;
            let asking = async {
                let mut stream = session.open(&request).await?;
                sent = true;
                let response = expect::<v1::AdminResponse>(&mut stream.reader).await?;
                Ok((stream, response))
            };
            let waiting = session.waiting();
            waiting.set(true);
            let asked = tokio::time::timeout_at(deadline, asking).await;
            drop(waiting);
            let failure = match asked {
                Ok(Ok((mut stream, response))) => {
                    // The server has room for the next call when it has ended this one's stream.
                    stream.writer.finish();
                    drop(tokio::time::timeout(END_TIMEOUT, stream.reader.next()).await);
                    match response.answer {
                        Some(Answer::Error(error)) => StreamLost::Refused(error.into()),
                        Some(answer) => {
                            session.told(Ok(()));
                            return Ok(answer);
                        }
                        None => {
                            let reason = format!("the answer to {name} is empty");
                            return Err(AdminError::Protocol { reason });
                        }
                    }
                }
                Ok(Err(lost)) => lost,
                Err(_) if sent => {
                    let reason = StreamLost::NoAnswer { after: timeout }.to_string();
                    return Err(match (repeat, said) {
                        // There is nothing to be done, and the last attempt was only cut short.
                        (Repeat::Reads, Some(said)) => AdminError::Refused(said),
                        (Repeat::Reads, None) => AdminError::Lost { call: name, reason },
                        _ => AdminError::Unknown { call: name, reason },
                    });
                }
                Err(_) => {
                    let reason = format!("it could not be sent within {timeout:?}");
                    let unsent = AdminError::Lost { call: name, reason };
                    return Err(is_open(&lost).unwrap_or(unsent));
                }
            };
            if failure.is_going_away() {
                session.going_away.cancel();
            }
            if let StreamLost::Refused(error) = &failure {
                session.told(Err(error));
            }
            let refused = match &failure {
                StreamLost::Refused(error) if error.code == ErrorCode::OutcomeUnknown => {
                    if repeat == Repeat::IfUnsent {
                        let reason = error.to_string();
                        return Err(AdminError::Unknown { call: name, reason });
                    }
                    lost = Some(error.to_string());
                    Some(error.clone())
                }
                StreamLost::Refused(error) if error.code == ErrorCode::RevisionConflict => {
                    let refused = AdminError::Refused(error.clone());
                    return Err(is_open(&lost).unwrap_or(refused));
                }
                StreamLost::Refused(error) if !is_temporary(error) => {
                    return Err(AdminError::Refused(error.clone()));
                }
                StreamLost::Refused(error) => Some(error.clone()),
                lost if sent && repeat == Repeat::IfUnsent => {
                    return Err(AdminError::Unknown { call: name, reason: lost.to_string() });
                }
                failure => {
                    if sent {
                        lost = Some(failure.to_string());
                    }
                    None
                }
            };
            let leave = failure.is_connection() || session.going_away.is_cancelled();
            after = leave.then_some(session.number);
            let mut wait = backoff.next(self.client.randomness.next());
            if let Some(WireError { retry: Retry::After(after), .. }) = refused {
                wait = wait.max(after);
            }
            said = refused.clone().or(said);
            if Instant::now() + wait >= deadline {
                let ended = match refused {
                    Some(error) => AdminError::Refused(error),
                    None => AdminError::Lost { call: name, reason: failure.to_string() },
                };
                return Err(is_open(&lost).unwrap_or(ended));
            }
            tracing::debug!(call = name, %failure, "an administrative call is repeated");
            tokio::time::sleep(wait).await;
        }
    }
}

/// Whether a call may be made again when its answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeat {
    /// It changes nothing.
    Reads,
    /// It does no harm.
    Safe,
    /// The server knows it for the same one, unless what it has changed was changed again.
    Known,
    /// It may do harm.
    IfUnsent,
}

/// Whether the stream is there no more, or never was.
fn is_gone(error: &WireError) -> bool {
    error.code == ErrorCode::StreamNotFound || error.code == ErrorCode::StreamDeleted
}

/// Whether the same call may work a moment later. A seal that takes longer than asked goes on, as does
/// a deletion that has begun, and is the caller's to ask about again.
fn is_temporary(error: &WireError) -> bool {
    error.retry != Retry::Never && error.code != ErrorCode::Timeout
}

fn unexpected(call: &'static str, answer: &Answer) -> AdminError {
    let kind = match answer {
        Answer::Error(_) => "an error",
        Answer::StreamEnsured(_) => "an ensured stream",
        Answer::StreamList(_) => "a list of streams",
        Answer::StreamDescription(_) => "a description",
        Answer::StreamDeleted(_) => "a deleted stream",
        Answer::StreamSealed(_) => "a sealed stream",
        Answer::SegmentList(_) => "a list of segments",
        Answer::ClusterDescription(_) => "a description of the cluster",
        Answer::NodeStateSet(_) => "a node's state",
        Answer::LeaderTransferred(_) => "a leader",
        Answer::JoinToken(_) => "a join token",
        Answer::NodeSigned(_) => "a certificate",
        Answer::GroupEnsured(_) => "an ensured group",
        Answer::GroupList(_) => "a list of groups",
        Answer::GroupDescription(_) => "a description of a group",
        Answer::GroupDeleted(_) => "a deleted group",
        Answer::GroupControlled(_) => "a changed group",
    };
    AdminError::Protocol { reason: format!("{call} was answered with {kind}") }
}
