//! Looking after consumer groups (SEMANTICS §3, §4, §8).

use railgun_proto::convert::{EnsureGroupRequest, GroupEnsured, Uid};
use railgun_proto::v1;
use railgun_proto::v1::admin_request::Call;
use railgun_proto::v1::admin_response::Answer;
use railgun_proto::v1::control_group::Action;
use railgun_types::limits::REDRIVEN_PER_CHANGE;
use railgun_types::{
    GroupId, GroupName, GroupPatch, GroupSpec, Offset, OffsetRange, RequestId, StartPosition,
    StreamName, StreamUid, Timestamp,
};

use super::{Admin, AdminError, EnsureOptions, Repeat, unexpected};
use crate::group::PauseReason;

/// Most ranges of offsets in one call, whose frame has 16 KiB.
const SPANS_MAX: usize = 500;

/// The group that a call is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Which<'n> {
    pub(crate) stream: &'n StreamName,
    pub(crate) group: &'n GroupName,
    /// Only these, not others that have got their names.
    pub(crate) only: Option<(StreamUid, GroupId)>,
}

impl<'n> Which<'n> {
    fn named(stream: &'n StreamName, group: &'n GroupName) -> Self {
        Self { stream, group, only: None }
    }
}

/// What a group is, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its name.
    pub name: GroupName,
    /// Its identity: another group of its name has another.
    pub id: GroupId,
    /// Its settings.
    pub spec: GroupSpec,
    /// Changes with every change of the settings.
    pub revision: u64,
    /// When it was made.
    pub created: Timestamp,
    /// All messages in front of it are settled.
    pub floor: Offset,
    /// Offset that the stream's next record will get.
    pub next_offset: Offset,
    /// Messages that are neither acked nor dead nor parked.
    pub lag: u64,
    /// Encoded bytes of these, estimated.
    pub lag_bytes: u64,
    /// Log time of the first of these, where it is known.
    pub lag_since: Option<Timestamp>,
    /// Highest offset that was acked.
    pub highest_acked: Option<Offset>,
    /// Messages that failed and wait for their next attempt.
    pub delayed: u64,
    /// Messages that become dead letters just now.
    pub dying: u64,
    /// Messages that were given up, of a group without dead letters.
    pub parked: u64,
    /// Messages that are dead letters.
    pub dead: u64,
    /// The fencing token of the active member, of an exclusive group.
    pub epoch: u32,
    /// Why nothing is handed out, if so.
    pub paused: Option<PauseReason>,
    /// The stream of its dead letters.
    pub companion: StreamName,
    /// Dead letters ever.
    pub dead_letters: u64,
    /// Members that are connected.
    pub members: u32,
    /// Messages that these have.
    pub leased: u64,
    /// Whether nothing new is handed out before some of what is un-settled is settled (G-5).
    pub is_stalled: bool,
}

impl TryFrom<v1::GroupDescription> for GroupDescription {
    type Error = AdminError;

    fn try_from(message: v1::GroupDescription) -> Result<Self, Self::Error> {
        // One of a kind that only a later version knows is a pause, too.
        let paused = (message.paused != 0).then(|| message.paused().into());
        Ok(Self {
            name: GroupName::new(&message.group).map_err(AdminError::protocol)?,
            id: GroupId(message.group_id),
            spec: GroupSpec::try_from(message.spec.unwrap_or_default())
                .map_err(AdminError::protocol)?,
            revision: message.revision,
            created: Timestamp(message.created_us),
            floor: Offset(message.floor),
            next_offset: Offset(message.next_offset),
            lag: message.lag,
            lag_bytes: message.lag_bytes,
            lag_since: (message.lag_since_us != 0).then_some(Timestamp(message.lag_since_us)),
            highest_acked: message.highest_acked.map(Offset),
            delayed: message.delayed,
            dying: message.dying,
            parked: message.parked,
            dead: message.dead,
            epoch: message.epoch,
            paused,
            companion: StreamName::parse_any(&message.companion).map_err(AdminError::protocol)?,
            dead_letters: message.dead_letters,
            members: message.members,
            leased: message.leased,
            is_stalled: message.stalled,
        })
    }
}

/// Which messages of a group were given up, as ascending ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadOffsets {
    /// Those that are dead letters.
    pub dead: Vec<OffsetRange>,
    /// Those of a group without dead letters.
    pub parked: Vec<OffsetRange>,
}

/// What came of a change by an operator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controlled {
    /// Messages that it was about.
    pub messages: u64,
    /// The group's floor after it.
    pub floor: Offset,
}

impl Admin {
    /// Makes a group as wished, or says how it differs (SEMANTICS §8): as [`Self::ensure_stream`]. `start`
    /// counts only where it is made.
    ///
    /// # Errors
    /// [`AdminError`], as of [`Self::ensure_stream`]. A difference is no error: it is in the outcome.
    pub async fn ensure_group(
        &self,
        stream: &StreamName,
        group: &GroupName,
        patch: GroupPatch,
        start: StartPosition,
        options: EnsureOptions,
    ) -> Result<GroupEnsured, AdminError> {
        let request = EnsureGroupRequest {
            stream: stream.clone(),
            group: group.clone(),
            patch,
            start,
            mode: options.mode,
            if_revision: options.if_revision,
            allow_destructive: options.allow_destructive,
            request: Some(RequestId(self.client.randomness.identifier())),
        };
        let call = Call::EnsureGroup((&request).into());
        let repeat = if options.if_revision.is_some() { Repeat::Known } else { Repeat::Safe };
        match self.call("ensure group", call, repeat, self.call_timeout()).await? {
            Answer::GroupEnsured(ensured) => {
                GroupEnsured::try_from(ensured).map_err(AdminError::protocol)
            }
            other => Err(unexpected("ensure group", &other)),
        }
    }

    /// All groups of a stream, in order of their names.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn list_groups(
        &self,
        stream: &StreamName,
    ) -> Result<Vec<GroupDescription>, AdminError> {
        let mut groups: Vec<GroupDescription> = Vec::new();
        loop {
            let call = Call::ListGroups(v1::ListGroups {
                stream: stream.to_string(),
                after: groups.last().map(|last| last.name.to_string()).unwrap_or_default(),
                limit: 0,
            });
            let page =
                match self.call("list groups", call, Repeat::Reads, self.call_timeout()).await? {
                    Answer::GroupList(list) => list,
                    other => return Err(unexpected("list groups", &other)),
                };
            // A server that says "more" and sends nothing would be asked for ever.
            let more = page.more && !page.groups.is_empty();
            for group in page.groups {
                groups.push(GroupDescription::try_from(group)?);
            }
            if !more {
                return Ok(groups);
            }
        }
    }

    /// What a group is, and how far it is.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn describe_group(
        &self,
        stream: &StreamName,
        group: &GroupName,
    ) -> Result<GroupDescription, AdminError> {
        let (stream, group) = (stream.to_string(), group.to_string());
        let call = Call::DescribeGroup(v1::DescribeGroup { stream, group });
        match self.call("describe group", call, Repeat::Reads, self.call_timeout()).await? {
            Answer::GroupDescription(description) => GroupDescription::try_from(description),
            other => Err(unexpected("describe group", &other)),
        }
    }

    /// Deletes a group; whether there was one. Its dead letters stay until their stream is deleted.
    ///
    /// # Errors
    /// [`AdminError`]; [`AdminError::Unknown`] where the answer was lost: repeated, it might hit a new
    /// group of that name.
    pub async fn delete_group(
        &self,
        stream: &StreamName,
        group: &GroupName,
    ) -> Result<bool, AdminError> {
        let (stream, group) = (stream.to_string(), group.to_string());
        let call = Call::DeleteGroup(v1::DeleteGroup { stream, group });
        match self.call("delete group", call, Repeat::IfUnsent, self.call_timeout()).await? {
            Answer::GroupDeleted(deleted) => Ok(deleted.was_there),
            other => Err(unexpected("delete group", &other)),
        }
    }

    /// Has a group begin elsewhere: all in front of `start` counts as settled, all behind it as never
    /// delivered. What members have is stale from then on; while there are any, only with `force`.
    ///
    /// # Errors
    /// [`AdminError`]; `ErrorCode::GroupInUse` where there are members; [`AdminError::Unknown`] where the
    /// answer was lost.
    pub async fn reset_group(
        &self,
        stream: &StreamName,
        group: &GroupName,
        start: StartPosition,
        force: bool,
    ) -> Result<Controlled, AdminError> {
        let reset = v1::ResetGroup { start: Some(start.into()), force };
        self.control(
            "reset group",
            Which::named(stream, group),
            Action::Reset(reset),
            Repeat::IfUnsent,
        )
        .await
    }

    /// Has a group hand out nothing. What members have they may settle.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn pause_group(
        &self,
        stream: &StreamName,
        group: &GroupName,
    ) -> Result<Controlled, AdminError> {
        self.control("pause group", Which::named(stream, group), Action::Pause(true), Repeat::Safe)
            .await
    }

    /// Has a group go on that was paused, by an operator or because too many messages died (DL-9).
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn resume_group(
        &self,
        stream: &StreamName,
        group: &GroupName,
    ) -> Result<Controlled, AdminError> {
        self.control(
            "resume group",
            Which::named(stream, group),
            Action::Resume(true),
            Repeat::Safe,
        )
        .await
    }

    /// Has an exclusive group make another member the active one: the present one gets nothing more,
    /// and gives way when it has settled what it has, or after 30 s. Returns when that has begun;
    /// [`Controlled::messages`] is how many the present one still had.
    ///
    /// # Errors
    /// [`AdminError`]; `ErrorCode::GroupModeMismatch` for a group that is not exclusive,
    /// `ErrorCode::NoOtherMember` where nobody could take over; [`AdminError::Unknown`] where the answer was
    /// lost: said again it might hand the group back.
    pub async fn hand_over_group(
        &self,
        stream: &StreamName,
        group: &GroupName,
    ) -> Result<Controlled, AdminError> {
        let action = Action::HandOver(true);
        self.control("hand over group", Which::named(stream, group), action, Repeat::IfUnsent).await
    }

    /// Has a group deliver dead or parked messages again, to its own members alone, as if they had never
    /// failed (DL-7): those of these ranges, or all of them where none is named. How many there were.
    ///
    /// # Errors
    /// [`AdminError`]; [`AdminError::Unknown`] where an answer was lost. Many ranges take several calls, of
    /// which the first ones may be done.
    pub async fn redrive(
        &self,
        stream: &StreamName,
        group: &GroupName,
        offsets: &[OffsetRange],
    ) -> Result<u64, AdminError> {
        self.control_offsets("redrive", Which::named(stream, group), offsets, Action::Redrive).await
    }

    /// Gives dead or parked messages up: they cannot be redriven any more. Those of these ranges, or all of
    /// them where none is named. How many there were.
    ///
    /// # Errors
    /// As of [`Self::redrive`].
    pub async fn discard(
        &self,
        stream: &StreamName,
        group: &GroupName,
        offsets: &[OffsetRange],
    ) -> Result<u64, AdminError> {
        self.discard_of(Which::named(stream, group), offsets).await
    }

    pub(crate) async fn discard_of(
        &self,
        which: Which<'_>,
        offsets: &[OffsetRange],
    ) -> Result<u64, AdminError> {
        self.control_offsets("discard", which, offsets, Action::Discard).await
    }

    /// Which messages of a group were given up. [`DeadLetters`](crate::DeadLetters) reads them.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn dead_letters(
        &self,
        stream: &StreamName,
        group: &GroupName,
    ) -> Result<DeadOffsets, AdminError> {
        self.dead_letters_of(Which::named(stream, group)).await
    }

    pub(crate) async fn dead_letters_of(
        &self,
        which: Which<'_>,
    ) -> Result<DeadOffsets, AdminError> {
        let mut offsets = DeadOffsets::default();
        let mut from = 0;
        loop {
            let action = Action::ListDead(v1::ListDead { from });
            let name = "list dead letters";
            let page = self.control_call(name, which, action, Repeat::Reads).await?;
            let last = page.dead.iter().chain(&page.parked).map(|span| span.to).max();
            for (spans, ranges) in
                [(page.dead, &mut offsets.dead), (page.parked, &mut offsets.parked)]
            {
                for span in &spans {
                    ranges.push(OffsetRange::try_from(span).map_err(AdminError::protocol)?);
                }
            }
            match last {
                // A server that says "more" and sends nothing new would be asked for ever.
                Some(last) if page.more && last > from => from = last,
                _ => return Ok(offsets),
            }
        }
    }

    async fn control_offsets(
        &self,
        name: &'static str,
        which: Which<'_>,
        offsets: &[OffsetRange],
        action: impl Fn(v1::OffsetSpans) -> Action,
    ) -> Result<u64, AdminError> {
        let mut messages = 0;
        // Without ranges it is one call, too.
        let mut rest = offsets;
        loop {
            let (now, later) = rest.split_at(rest.len().min(SPANS_MAX));
            let spans = now.iter().copied().map(v1::OffsetSpan::from).collect();
            let action = action(v1::OffsetSpans { spans });
            // What one entry may be about is done in several.
            loop {
                let done = self.control(name, which, action.clone(), Repeat::IfUnsent).await?;
                messages += done.messages;
                if done.messages < REDRIVEN_PER_CHANGE {
                    break;
                }
            }
            rest = later;
            if rest.is_empty() {
                return Ok(messages);
            }
        }
    }

    async fn control(
        &self,
        name: &'static str,
        which: Which<'_>,
        action: Action,
        repeat: Repeat,
    ) -> Result<Controlled, AdminError> {
        let answer = self.control_call(name, which, action, repeat).await?;
        Ok(Controlled { messages: answer.messages, floor: Offset(answer.floor) })
    }

    async fn control_call(
        &self,
        name: &'static str,
        which: Which<'_>,
        action: Action,
        repeat: Repeat,
    ) -> Result<v1::GroupControlled, AdminError> {
        let Which { stream, group, only } = which;
        let call = Call::ControlGroup(v1::ControlGroup {
            stream: stream.to_string(),
            group: group.to_string(),
            stream_uid: only.map(|(stream, _)| stream.to_wire()).unwrap_or_default(),
            group_id: only.map_or(0, |(_, group)| group.0),
            action: Some(action),
        });
        match self.call(name, call, repeat, self.call_timeout()).await? {
            Answer::GroupControlled(controlled) => Ok(controlled),
            other => Err(unexpected(name, &other)),
        }
    }
}
