//! What can be done with consumer groups, over the shard that owns them (SEMANTICS §8). Holds no state of
//! its own. What only the leader of the shard knows is asked where that is.

use railgun_core::command::{
    CommandBody, EnsureGroup, GroupChange, GroupChanges, GroupCommand, GroupStart,
};
use railgun_core::group::{ChangeOutcome, ChangeRefused};
use railgun_core::shard::{Ensured, Outcome};
use railgun_proto::WireError;
use railgun_proto::convert::{EnsureGroupRequest, EnsureOutcome, GroupEnsured};
use railgun_types::{
    EnsureMode, ErrorCode, GroupId, GroupName, Offset, OffsetRange, StartPosition, StreamName,
    StreamUid,
};

use crate::shard::{DeadPage, GroupFacts, GroupPage};
use crate::streams::{Resolved, Streams, another_in_its_place};
use crate::wire_error::{self, another_group, group_not_found, stopping, unexpected};

/// What an operator has a group do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GroupAction {
    Reset { start: StartPosition, force: bool },
    Pause,
    Resume,
    HandOver,
    Redrive(Vec<OffsetRange>),
    Discard(Vec<OffsetRange>),
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GroupDone {
    /// Messages that it was about.
    pub(crate) messages: u64,
    pub(crate) floor: Offset,
}

/// The groups of a stream whose shard is led here.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    streams: Streams,
    name: StreamName,
    of: Resolved,
}

impl Groups {
    /// Those of a stream, as catalog and shard are now.
    pub(crate) async fn of(streams: &Streams, stream: &StreamName) -> Result<Self, WireError> {
        let of = streams.resolve_current(stream).await?;
        of.shard.here()?;
        Ok(Self { streams: streams.clone(), name: stream.clone(), of })
    }

    /// Refuses where another stream has got the name of the one that is meant.
    pub(crate) fn check(&self, meant: Option<StreamUid>) -> Result<(), WireError> {
        if meant.is_some_and(|meant| meant != self.of.stream) {
            return Err(another_in_its_place(&self.name));
        }
        Ok(())
    }

    async fn start(&self, start: StartPosition) -> Result<GroupStart, WireError> {
        Ok(match start {
            StartPosition::Earliest => GroupStart::Earliest,
            StartPosition::Latest => GroupStart::Latest,
            StartPosition::Offset(offset) => GroupStart::Offset(offset),
            StartPosition::Last(count) => GroupStart::Last(count),
            StartPosition::Time(_) => GroupStart::Offset(self.offset_of(start).await?),
        })
    }

    async fn offset_of(&self, start: StartPosition) -> Result<Offset, WireError> {
        let places = self.streams.places(None);
        let start = self.streams.start_of(&self.of, start, true, &places).await?;
        Ok(start.start.min(start.next))
    }

    /// Makes a group what the request says (EN-1 … EN-6). Safe to repeat.
    pub(crate) async fn ensure(
        &self,
        request: EnsureGroupRequest,
    ) -> Result<GroupEnsured, WireError> {
        let EnsureGroupRequest {
            stream: _,
            group,
            patch,
            start,
            mode,
            if_revision,
            allow_destructive,
            request,
        } = request;
        if mode == EnsureMode::Check && self.find(&group).await?.is_none() {
            return Err(group_not_found(&group));
        }
        let ensure = EnsureGroup {
            stream: self.of.stream,
            group: group.clone(),
            patch,
            start: self.start(start).await?,
            mode,
            if_revision,
            allow_destructive,
            request,
        };
        let body = CommandBody::Group(GroupCommand::Ensure(Box::new(ensure)));
        let ensured = match self.request(body).await? {
            Outcome::GroupEnsured(Ok(ensured)) => ensured,
            Outcome::GroupEnsured(Err(refused)) => {
                return Err(wire_error::ensure_refused(&refused));
            }
            other => return Err(unexpected(&other)),
        };
        let (outcome, revision) = match ensured {
            Ensured::Created => (EnsureOutcome::Created, 1),
            Ensured::Unchanged { revision } => (EnsureOutcome::Unchanged, revision),
            Ensured::Drift { revision, diff } => (EnsureOutcome::Drift(diff), revision),
            Ensured::Updated { revision, diff } => (EnsureOutcome::Updated(diff), revision),
        };
        let facts = self.describe(&group).await?;
        Ok(GroupEnsured { outcome, group: facts.id, revision, warnings: facts.spec.warnings() })
    }

    async fn request(&self, body: CommandBody) -> Result<Outcome, WireError> {
        let requested = self.streams.routing().request(self.of.shard.id(), body).await;
        requested.map_err(wire_error::request_failure)
    }

    async fn find(&self, group: &GroupName) -> Result<Option<Box<GroupFacts>>, WireError> {
        let found = self.of.shard.here()?.group(self.of.stream, group.clone()).await;
        found.map_err(|gone| stopping(&gone))
    }

    /// What there is to tell about a group.
    pub(crate) async fn describe(&self, group: &GroupName) -> Result<Box<GroupFacts>, WireError> {
        self.find(group).await?.ok_or_else(|| group_not_found(group))
    }

    /// The same of this group alone, not of another that has got its name.
    async fn describe_meant(
        &self,
        group: &GroupName,
        meant: Option<GroupId>,
    ) -> Result<Box<GroupFacts>, WireError> {
        let facts = self.describe(group).await?;
        if meant.is_some_and(|meant| meant != facts.id) {
            return Err(another_group(group));
        }
        Ok(facts)
    }

    /// Groups in order of their names.
    pub(crate) async fn list(
        &self,
        after: Option<GroupName>,
        limit: usize,
    ) -> Result<GroupPage, WireError> {
        let page = self.of.shard.here()?.groups(self.of.stream, after, limit).await;
        page.map_err(|gone| stopping(&gone))
    }

    /// Deletes a group. Whether there was one.
    pub(crate) async fn delete(&self, group: GroupName) -> Result<bool, WireError> {
        let stream = self.of.stream;
        let body = CommandBody::Group(GroupCommand::Delete { stream, group });
        match self.request(body).await? {
            Outcome::GroupDeleted(was_there) => Ok(was_there),
            other => Err(unexpected(&other)),
        }
    }

    /// What of a group is dead or parked, from an offset on.
    pub(crate) async fn dead(
        &self,
        group: &GroupName,
        id: Option<GroupId>,
        from: Offset,
    ) -> Result<DeadPage, WireError> {
        self.describe_meant(group, id).await?;
        let page = self.of.shard.here()?.dead(self.of.stream, group.clone(), from).await;
        page.map_err(|gone| stopping(&gone))?.ok_or_else(|| group_not_found(group))
    }

    /// Does what an operator wants.
    pub(crate) async fn control(
        &self,
        group: &GroupName,
        id: Option<GroupId>,
        action: GroupAction,
    ) -> Result<GroupDone, WireError> {
        let facts = self.describe_meant(group, id).await?;
        let members = facts.figures.members;
        let change = match action {
            GroupAction::Reset { force: false, .. } if members > 0 => {
                let message = format!(
                    "group '{group}' has {members} members, whose messages would be handed out again"
                );
                return Err(WireError::new(ErrorCode::GroupInUse, message));
            }
            GroupAction::Reset { start, force } => {
                GroupChange::Reset { to: self.offset_of(start).await?, force }
            }
            GroupAction::Pause => GroupChange::Pause,
            GroupAction::Resume => GroupChange::Resume,
            GroupAction::HandOver => {
                let messages = self.hand_over(group).await?;
                return Ok(GroupDone { messages, floor: facts.floor });
            }
            GroupAction::Redrive(offsets) => GroupChange::Redrive { offsets },
            GroupAction::Discard(offsets) => GroupChange::Discard { offsets },
        };
        let messages = self.change(facts.id, group, change).await?;
        let floor = self.describe(group).await?.floor;
        Ok(GroupDone { messages, floor })
    }

    /// Has an exclusive group begin to hand over. Messages that the active member still has.
    async fn hand_over(&self, group: &GroupName) -> Result<u64, WireError> {
        let answer = self.of.shard.here()?.hand_over(self.of.stream, group.clone()).await;
        answer.map_err(|gone| stopping(&gone))?
    }

    /// Makes one change. Messages that it was about.
    async fn change(
        &self,
        id: GroupId,
        group: &GroupName,
        change: GroupChange,
    ) -> Result<u64, WireError> {
        let changes = GroupChanges { group: id, term: 0, changes: vec![change] };
        let body = CommandBody::Group(GroupCommand::Changes([changes].into()));
        let outcomes = match self.request(body).await? {
            Outcome::GroupsChanged(outcomes) => outcomes,
            other => return Err(unexpected(&other)),
        };
        match outcomes.into_iter().flatten().next() {
            Some(ChangeOutcome::Applied) => Ok(0),
            Some(ChangeOutcome::Effects(effects)) => Ok(effects.messages),
            Some(ChangeOutcome::Refused(refused)) => Err(change_refused(group, refused)),
            None => Err(group_not_found(group)),
        }
    }
}

fn change_refused(group: &GroupName, refused: ChangeRefused) -> WireError {
    let code = match refused {
        ChangeRefused::GroupNotFound => return group_not_found(group),
        ChangeRefused::GivesUp { .. } => ErrorCode::DestructiveChange,
        ChangeRefused::Stale { .. }
        | ChangeRefused::Fenced { .. }
        | ChangeRefused::NotExclusive
        | ChangeRefused::Pinned => ErrorCode::Internal,
    };
    WireError::new(code, format!("group '{group}': {refused}"))
}
